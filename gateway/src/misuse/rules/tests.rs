//! Each rule with a scene that sets it off, and one close to it that must not.

use super::joining::Terms;
use super::*;
use crate::misuse::history::{HOUR_MS, Histories};
use crate::misuse::observation::{Answered, Event, Fingerprint, Key, KeySet, Passed, Question};
use lingqu_protocol::agency::CreditCode;
use std::collections::BTreeSet;

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// What one agent does, and what the rules say of it.
struct Scene {
    histories: Histories,
    thresholds: Thresholds,
    now: i64,
    found: Vec<Suspicion>,
}

impl Scene {
    fn new() -> Self {
        Self {
            histories: Histories::default(),
            thresholds: Thresholds::default(),
            now: 100 * DAY_MS,
            found: Vec::new(),
        }
    }

    fn see_at(&mut self, connection: u64, address: [u8; 4], event: Event) {
        let who = Who::from(&"91350100M000100Y43/main".parse().unwrap());
        let seen = Observation { at: Timestamp(self.now), who, connection, address: address.into(), event };
        let history = self.histories.record(&seen, &self.thresholds);
        self.found.extend(judge(history, &seen, &self.thresholds, Timestamp(self.now)));
    }

    fn see(&mut self, event: Event) {
        self.see_at(1, [10, 0, 0, 1], event);
    }

    fn denied(&mut self, word: &'static str, asked: u64) {
        let (grant, entry) = (Some(grant()), None);
        self.see(Event::Answered(Answered { operation: "pull", word, grant, entry, asked }));
    }

    fn ended(&mut self, bytes: u64, rows: u64, question: Option<Question>, volume_bytes_max: Option<u64>) {
        self.see(Event::Ended(Passed {
            grant: Some(grant()),
            entry: EntryId::from_bits(1),
            bytes,
            rows,
            rows_in_all: rows,
            elapsed_ms: 1000,
            volume_bytes_max,
            question,
        }));
    }

    fn pass(&mut self, ms: i64) {
        self.now += ms;
    }

    fn rules(&self) -> BTreeSet<&'static str> {
        self.found.iter().map(|s| s.rule.code()).collect()
    }

    fn quiet(&self) {
        let said: Vec<_> = self.found.iter().map(|s| (s.rule, &s.evidence.text)).take(3).collect();
        assert!(said.is_empty(), "{said:?}");
    }

    fn only(&self, rule: Rule) -> &Suspicion {
        assert_eq!(self.rules(), BTreeSet::from([rule.code()]));
        let first = &self.found[0];
        assert!(!first.evidence.text.is_empty() && !first.evidence.text_zh.is_empty());
        assert!(first.evidence.shown.len() <= SHOWN_MAX);
        first
    }
}

fn grant() -> GrantId {
    GrantId::from_bits(7)
}

#[test]
fn scope_repeated_is_one_request_again_and_again_and_not_a_timer_of_every_minute() {
    let mut scene = Scene::new();
    for _ in 0..64 {
        scene.denied("columns_outside_scope", 5);
        scene.pass(20_000);
    }
    let found = scene.only(Rule::ScopeRepeated);
    assert_eq!(found.evidence.counts[0], ("refused", 64));
    assert_eq!(action(found, &scene.thresholds), (Action::Warn, false), "what gets nothing is not cut");

    let mut scene = Scene::new();
    for _ in 0..3 * 24 * 60 {
        scene.denied("columns_outside_scope", 5);
        scene.pass(MINUTE_MS);
    }
    scene.quiet();
}

#[test]
fn scope_probing_is_many_different_requests_and_not_some_typing_errors() {
    let mut scene = Scene::new();
    for asked in 0..24 {
        scene.denied(
            ["columns_outside_scope", "predicate_outside_scope", "method_outside_scope"][asked % 3],
            asked as u64,
        );
        scene.pass(MINUTE_MS);
    }
    let found = scene.only(Rule::ScopeProbing);
    assert_eq!((found.grant, action(found, &scene.thresholds)), (Some(grant()), (Action::CutGrant, false)));
    assert_eq!(found.evidence.counts[0], ("different", 24));

    // An afternoon of somebody who learns the command: different tries, some an hour.
    let mut scene = Scene::new();
    for asked in 0..200 {
        scene.denied("columns_outside_scope", asked);
        scene.pass(3 * MINUTE_MS);
    }
    scene.quiet();
    // And many tries of few mistakes.
    let mut scene = Scene::new();
    for _ in 0..5 {
        for asked in 0..23 {
            scene.denied("predicate_outside_scope", asked);
            scene.pass(2 * MINUTE_MS);
        }
    }
    scene.quiet();
}

#[test]
fn purpose_not_approved_is_ten_a_day_and_not_a_mistyped_one() {
    let mut scene = Scene::new();
    for _ in 0..10 {
        scene.denied("purpose_outside_scope", 1);
        scene.pass(HOUR_MS);
    }
    scene.only(Rule::PurposeNotApproved);

    let mut scene = Scene::new();
    for _ in 0..30 {
        (0..3).for_each(|asked| scene.denied("purpose_outside_scope", asked));
        scene.pass(DAY_MS);
    }
    scene.quiet();
}

#[test]
fn use_after_expiry_is_insisting_and_not_a_nightly_timer_that_was_forgotten() {
    let mut scene = Scene::new();
    for _ in 0..10 {
        scene.denied("period_ended", 1);
        scene.pass(5 * MINUTE_MS);
    }
    assert_eq!(action(scene.only(Rule::UseAfterExpiry), &scene.thresholds).0, Action::Warn);

    let mut scene = Scene::new();
    for _ in 0..60 {
        (0..6).for_each(|_| scene.denied("period_ended", 1));
        scene.pass(DAY_MS);
    }
    scene.quiet();
}

#[test]
fn over_approved_is_what_is_refused_or_measured_and_not_the_last_block_of_a_volume() {
    let mut scene = Scene::new();
    for _ in 0..20 {
        scene.denied("volume_used_up", 1);
        scene.pass(MINUTE_MS);
    }
    scene.only(Rule::OverApproved);

    let mut scene = Scene::new();
    scene.ended(1_101, 1, None, Some(1_000));
    assert_eq!(scene.only(Rule::OverApproved).evidence.counts[0], ("measured_bytes", 1_101));

    let mut scene = Scene::new();
    (0..10).for_each(|_| scene.ended(110, 1, None, Some(1_000)));
    (0..19).for_each(|_| scene.denied("volume_used_up", 1));
    scene.ended(u64::MAX / 2, 1, None, None);
    scene.quiet();
}

fn nightly(scene: &mut Scene, days: usize) {
    for day in 0..days {
        scene.ended((300 + (day as u64 * 37) % 60) << 20, 100, None, None);
        scene.pass(DAY_MS);
    }
}

#[test]
fn departure_is_far_from_every_known_day_and_not_a_months_end() {
    let mut scene = Scene::new();
    nightly(&mut scene, 28);
    scene.quiet();
    scene.ended(900 << 20, 100, None, None);
    scene.quiet();
    scene.ended(300 << 20, 100, None, None);
    let found = scene.only(Rule::Departure);
    assert_eq!(found.evidence.counts[0], ("today_bytes", 1200 << 20));
    assert!(!action(found, &scene.thresholds).0.cuts());
}

#[test]
fn departure_waits_until_enough_is_known_and_speaks_of_quiet_hours() {
    let mut scene = Scene::new();
    nightly(&mut scene, 13);
    scene.ended(500 << 30, 100, None, None);
    scene.quiet();

    let mut scene = Scene::new();
    nightly(&mut scene, 35);
    scene.pass(11 * HOUR_MS);
    scene.ended(200 << 20, 100, None, None);
    scene.quiet();
    scene.ended(300 << 20, 100, None, None);
    assert!(scene.only(Rule::Departure).evidence.text.contains("5 weeks"));
}

#[test]
fn departure_is_spoken_of_from_the_floor_on_and_above_the_bound() {
    const MIB: u64 = 1 << 20;
    // The median day has 310 MiB, and the median deviation is 10.
    let bound = 310 * MIB + 10 * (10 * MIB * 1483 / 1000);
    for (days, usual_mib, today, speaks) in [
        (14, [1, 1, 1], 256 * MIB - 1, false),
        (14, [1, 1, 1], 256 * MIB, true),
        (13, [1, 1, 1], 256 * MIB, false),
        (15, [300, 310, 320], bound, false),
        (15, [300, 310, 320], bound + 1, true),
    ] {
        let mut scene = Scene { thresholds: toml::from_str("departure.largest_times = 1").unwrap(), ..Scene::new() };
        for day in 0..days {
            scene.ended(usual_mib[day % 3] * MIB, 100, None, None);
            scene.pass(DAY_MS);
        }
        scene.ended(today, 100, None, None);
        let found: Vec<Rule> = scene.found.iter().map(|s| s.rule).collect();
        assert_eq!(found, vec![Rule::Departure; usize::from(speaks)], "{today} after {days} days");
    }
}

fn act(scene: &mut Scene, connection: u64, third: u8) {
    let done = Answered { operation: "read", word: "done", grant: None, entry: None, asked: 0 };
    scene.see_at(connection, [10, 0, third, 9], Event::Answered(done));
}

#[test]
fn two_places_is_working_in_both_by_turns_and_not_a_machine_that_moves() {
    let mut scene = Scene::new();
    scene.see_at(1, [10, 0, 1, 9], Event::Connected);
    scene.see_at(2, [10, 0, 2, 9], Event::Connected);
    for _ in 0..3 {
        act(&mut scene, 1, 1);
        scene.pass(MINUTE_MS);
        act(&mut scene, 2, 2);
        scene.pass(MINUTE_MS);
    }
    let found = scene.only(Rule::TwoPlaces);
    assert_eq!(action(found, &scene.thresholds), (Action::CutAgent, false));
    let said = scene.found.len();
    act(&mut scene, 2, 2);
    assert_eq!(scene.found.len(), said, "more in one of them is no turn, and says nothing new");

    // It moves, its old connection still stands for a while; later it moves back; restarts in one network; two machines
    // in one network.
    let mut scene = Scene::new();
    for (i, third) in [1, 2, 1, 1, 1, 2, 2, 1].into_iter().enumerate() {
        let connection = i as u64 + 1;
        scene.see_at(connection, [10, 0, third, 9], Event::Connected);
        act(&mut scene, connection, third);
        scene.pass(5 * MINUTE_MS);
        if i > 0 {
            scene.see_at(connection - 1, [10, 0, third, 9], Event::Gone);
        }
    }
    for _ in 0..20 {
        act(&mut scene, 7, 2);
        act(&mut scene, 8, 1);
    }
    scene.quiet();
}

#[test]
fn two_lines_of_one_agency_can_be_one_place() {
    let group = "two_places.same_place = [[\"10.0.1.0/24\", \"10.0.2.0/24\"]]";
    let mut scene = Scene { thresholds: toml::from_str(group).unwrap(), ..Scene::new() };
    scene.see_at(1, [10, 0, 1, 9], Event::Connected);
    scene.see_at(2, [10, 0, 2, 9], Event::Connected);
    for _ in 0..20 {
        act(&mut scene, 1, 1);
        act(&mut scene, 2, 2);
    }
    scene.quiet();
}

fn question(value: u64) -> Option<Question> {
    // Values as a keyed hash gives them: spread over all bits.
    Some(Question { shape: 3, value: value.wrapping_mul(0x9E37_79B9_7F4A_7C15) })
}

#[test]
fn enumeration_is_a_sweep_and_not_a_busy_window_or_one_region_after_another() {
    let mut scene = Scene::new();
    for key in 0..260 {
        scene.ended(2_000, 1, question(key), None);
        scene.pass(5_000);
    }
    let found = scene.only(Rule::Enumeration);
    assert_eq!(action(found, &scene.thresholds), (Action::CutGrant, false));
    assert!(found.evidence.counts[0].1 >= 240);

    // A service window on a busy day, for a week.
    let mut scene = Scene::new();
    for key in 0..7 * 9 * 200 {
        scene.ended(2_000, 1, question(key), None);
        scene.pass(HOUR_MS / 200);
    }
    scene.quiet();
    // Every county of a province, whole: large answers.
    for region in 0..2_000 {
        scene.ended(2_000, 5_000, question((1 << 40) | region), None);
    }
    scene.quiet();
    // The same few questions, often.
    for again in 0..5_000 {
        scene.ended(2_000, 1, question((1 << 50) | (again % 50)), None);
    }
    scene.quiet();
}

/// A file of keys, as a flow tells of it: of each key whether it leaves marks, and those.
fn matched(scene: &mut Scene, keys: std::ops::Range<u64>, found_percent: u64) {
    let print = Fingerprint::new([9; 32]);
    for key in keys {
        let number = print.of_key(key);
        for set in KeySet::ALL {
            let counts = set == KeySet::Any || key % 100 >= found_percent;
            if counts && set.marks(number) {
                scene.see(Event::Key(Key { grant: Some(grant()), entry: EntryId::from_bits(1), set, number }));
            }
        }
    }
}

#[test]
fn enumeration_by_a_file_of_keys_is_trying_numbers_and_not_comparing_registers() {
    let mut scene = Scene::new();
    matched(&mut scene, 0..400_000, 2);
    let found = scene.only(Rule::Enumeration);
    assert_eq!(action(found, &scene.thresholds), (Action::CutGrant, false));
    assert!(found.evidence.counts[0].1 >= 240_000 && found.evidence.text.contains("nobody has"), "{found:?}");
    // In many small files as in one.
    let mut scene = Scene::new();
    for file in 0..80 {
        matched(&mut scene, file * 5_000..(file + 1) * 5_000, 2);
        scene.pass(10_000);
    }
    scene.only(Rule::Enumeration);

    // A register of two million people that are known, and one of 150,000 of whom nearly none are; both again the next
    // hour, and the second every few minutes, for the same keys are the same.
    let mut scene = Scene::new();
    for _ in 0..2 {
        matched(&mut scene, 0..2_000_000, 98);
        for _ in 0..5 {
            matched(&mut scene, 5_000_000..5_150_000, 1);
            scene.pass(2 * MINUTE_MS);
        }
        scene.pass(HOUR_MS);
    }
    scene.quiet();
}

#[test]
fn enumeration_by_keys_that_are_known_is_more_than_the_largest_match() {
    let of = |text: &str| Scene { thresholds: toml::from_str(text).unwrap(), ..Scene::new() };
    let limit = "enumeration.different_keys = 300000\nenumeration.missing_keys = 4000000";
    let mut scene = of(limit);
    matched(&mut scene, 0..500_000, 100);
    assert!(scene.only(Rule::Enumeration).evidence.counts[0].1 >= 300_000);
    let mut scene = of(limit);
    matched(&mut scene, 0..150_000, 100);
    scene.quiet();
}

fn terms(n: u128, keys: &[&str], personal: &[&str]) -> Terms {
    let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    Terms {
        grant: GrantId::from_bits(n),
        entry: EntryId::from_bits(n),
        provider: "91512081MA62K0260E".parse().unwrap(),
        keys: set(keys),
        personal: set(personal),
    }
}

#[test]
fn joining_is_a_shared_key_with_more_on_both_sides_and_nothing_less() {
    let requester: CreditCode = "91350100M000100Y43".parse().unwrap();
    let new = terms(1, &["id_number"], &["id_number", "income"]);
    let found = |others: &[Terms]| judge_join(requester, &new, others);
    let joined = found(&[terms(2, &["id_number"], &["id_number", "illness"])]);
    assert_eq!(joined.len(), 1);
    assert!(joined[0].evidence.text.contains("illness") && joined[0].evidence.text.contains("income"));
    assert_eq!(action(&joined[0], &Thresholds::default()), (Action::Warn, false));
    for (why, close) in [
        ("no key in common", terms(2, &["credit_code"], &["illness"])),
        ("the key is not given in clear", terms(2, &[], &["id_number", "illness"])),
        ("nothing that the other lacks", terms(2, &["id_number"], &["id_number", "income"])),
        ("nothing personal but the key", terms(2, &["id_number"], &["id_number"])),
        ("the same entry", Terms { entry: new.entry, ..terms(2, &["id_number"], &["illness"]) }),
        ("itself", terms(1, &["id_number"], &["illness"])),
    ] {
        assert!(found(&[close]).is_empty(), "{why}");
    }
}

fn judge_join(requester: CreditCode, new: &Terms, others: &[Terms]) -> Vec<Suspicion> {
    joining::judge(requester, new, others, Timestamp(0)).map(|(suspicion, _)| suspicion).collect()
}

#[test]
fn a_cut_needs_something_to_cut_and_observing_only_says_so() {
    let mut scene = Scene::new();
    (0..24).for_each(|asked| scene.denied("columns_outside_scope", asked));
    let mut found = scene.only(Rule::ScopeProbing).clone();
    found.grant = None;
    assert_eq!(action(&found, &scene.thresholds), (Action::Warn, false));
    found.rule = Rule::TwoPlaces;
    assert_eq!(action(&found, &scene.thresholds), (Action::CutAgent, false));
    found.who = Subject::Agency("91350100M000100Y43".parse().unwrap());
    assert_eq!(action(&found, &scene.thresholds), (Action::Warn, false));
    scene.thresholds.observe_only = true;
    assert_eq!(action(scene.only(Rule::ScopeProbing), &scene.thresholds), (Action::CutGrant, true));
}

#[test]
fn the_first_and_the_last_of_what_was_seen_are_shown() {
    let answered = Answered { operation: "pull", word: "no_grant", grant: None, entry: None, asked: 0 };
    let denial = |n| Denial { at: Timestamp(n), refusal: Refusal::NotThere, answered, address: [10, 0, 0, 1].into() };
    let denials: Vec<Denial> = (0..30).map(denial).collect();
    let times = |count: usize| shown(denials.iter().take(count)).iter().map(|one| one.at.0).collect::<Vec<_>>();
    for count in [0, 1, 13, SHOWN_MAX] {
        assert_eq!(times(count), (0..count as i64).collect::<Vec<_>>());
    }
    assert_eq!(times(30), (0..12i64).chain(18..30).collect::<Vec<_>>());
    let (what, outcome, address) = ("pull".to_owned(), "no_grant".to_owned(), "10.0.0.1".to_owned());
    assert_eq!(shown(denials.iter().take(1)), [Shown { at: Timestamp(0), what, outcome, address }]);
}
