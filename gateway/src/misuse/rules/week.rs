//! Seeded weeks of normal traffic of 50 agencies, through the same histories and rules as in the gateway: nightly batches,
//! office hours, retries, a month's end, a holiday, restarts, mistakes. Nothing of it may be cut. The same weeks with
//! misuse planted in them must find it, all of it and nobody else, so that the first half of this test can fail.
//!
//! `LINGQU_SEED=N` runs one seed.

use super::*;
use crate::misuse::history::{HOUR_MS, Histories};
use crate::misuse::observation::{Answered, Event, Key, KeySet, Passed, Question};
use lingqu_protocol::agency::CreditCode;
use std::collections::BTreeMap;

const AGENCIES: usize = 50;
const DAY_MS: i64 = 24 * HOUR_MS;
const MINUTE_MS: i64 = 60_000;
/// What goes before the week: the days that departures are judged by, with a month's end in them.
const BEFORE_DAYS: i64 = 28;
/// Midnight in China, 2026-11-03.
const START: i64 = 1_793_635_200_000;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.roll() % n.max(1)
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// An agency: two agents, a usual night, a busy window or none.
struct Agency {
    code: CreditCode,
    night_hour: i64,
    night_bytes: u64,
    window_an_hour: u64,
    net: [u8; 2],
    forgot_a_timer: bool,
    asks_for_too_much: bool,
}

struct Week {
    dice: Dice,
    agencies: Vec<Agency>,
    events: Vec<Observation>,
    connections: u64,
}

fn code(n: usize) -> CreditCode {
    let body = format!("1144030000{n:07}");
    "0123456789ABCDEFGHJKLMNPQRTUWXY".chars().find_map(|c| CreditCode::parse(&format!("{body}{c}")).ok()).unwrap()
}

fn grant(agency: usize, n: u64) -> Option<GrantId> {
    Some(GrantId::from_bits((agency as u128) << 64 | u128::from(n)))
}

impl Week {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let agencies = (0..AGENCIES)
            .map(|n| Agency {
                code: code(n),
                night_hour: 1 + dice.below(5) as i64,
                night_bytes: 1 << (20 + dice.below(11)),
                window_an_hour: if dice.percent(60) { 5 + dice.below(140) } else { 0 },
                net: [10 + (n / 200) as u8, n as u8],
                forgot_a_timer: dice.percent(10),
                asks_for_too_much: dice.percent(10),
            })
            .collect();
        Self { dice, agencies, events: Vec::new(), connections: 0 }
    }

    fn who(&self, agency: usize, name: &str) -> Who {
        Who::from(&format!("{}/{name}", self.agencies[agency].code).parse().unwrap())
    }

    fn at(&mut self, at: i64, agency: usize, name: &str, connection: u64, third: u8, event: Event) {
        let who = self.who(agency, name);
        let [first, second] = self.agencies[agency].net;
        let address = [first, second, third, 20].into();
        self.events.push(Observation { at: Timestamp(at), who, connection, address, event });
    }

    fn connect(&mut self, at: i64, agency: usize, name: &str, third: u8) -> u64 {
        self.connections += 1;
        let number = self.connections;
        self.at(at, agency, name, number, third, Event::Connected);
        number
    }

    fn answered(word: &'static str, grant: Option<GrantId>, asked: u64) -> Event {
        Event::Answered(Answered { operation: "pull", word, grant, entry: None, asked })
    }

    fn passed(grant: Option<GrantId>, bytes: u64, rows_in_all: u64, question: Option<Question>) -> Passed {
        let entry = EntryId::from_bits(1);
        let volume_bytes_max = Some(1 << 50);
        Passed { grant, entry, bytes, rows: rows_in_all, rows_in_all, elapsed_ms: 60_000, volume_bytes_max, question }
    }

    /// Transfers of one night: some grants, each seen every minute, with interruptions and retries.
    fn night(&mut self, agency: usize, day: i64, factor: u64) {
        let begin = START + day * DAY_MS + self.agencies[agency].night_hour * HOUR_MS;
        let mut now = begin + self.dice.below(20 * 60_000) as i64;
        let third = 1 + self.dice.below(2) as u8 / 2;
        let grants = 1 + self.dice.below(6);
        let mut connection = self.connect(now, agency, "main", third);
        for n in 0..grants {
            let spread = 80 + self.dice.below(40);
            let bytes = self.agencies[agency].night_bytes * factor * spread / 100 / grants;
            self.at(now, agency, "main", connection, third, Self::answered("given", grant(agency, n), n));
            if self.dice.percent(8) {
                // The line breaks; the old connection stands until it times out, and the agent dials again.
                let old = connection;
                connection = self.connect(now + 2_000, agency, "main", third);
                self.at(now + 30_000, agency, "main", old, third, Event::Gone);
                for retry in 0..self.dice.below(5) {
                    let word = if self.dice.percent(50) { "busy" } else { "disconnected" };
                    let again = Self::answered(word, grant(agency, n), n);
                    self.at(now + 3_000 + retry as i64 * 1_000, agency, "main", connection, third, again);
                }
                now += 40_000;
            }
            let looks = 1 + self.dice.below(8);
            for _ in 0..looks {
                now += MINUTE_MS;
                let passed = Self::passed(grant(agency, n), bytes / looks, 1_000_000, None);
                self.at(now, agency, "main", connection, third, Event::Moving(passed));
            }
            let ended = Self::passed(grant(agency, n), bytes % looks, 1_000_000, None);
            self.at(now + 1_000, agency, "main", connection, third, Event::Ended(ended));
        }
        if self.agencies[agency].forgot_a_timer {
            for n in 0..3 {
                let late = Self::answered("period_ended", grant(agency, 90), 90);
                self.at(now + n * 10_000, agency, "main", connection, third, late);
            }
        }
        self.at(now + 5_000, agency, "main", connection, third, Event::Gone);
    }

    /// A night's match: a register of up to some hundred thousand, of which few to nearly all are known there.
    fn comparing(&mut self, agency: usize, day: i64) {
        let mut dice = Dice((agency as u64) << 32 | day as u64);
        let begin = START + day * DAY_MS + 2 * HOUR_MS + dice.below(HOUR_MS as u64) as i64;
        let connection = self.connect(begin, agency, "match", 1);
        let (missing, any) = (dice.below(150), 1 + dice.below(200));
        for (set, marks) in [(KeySet::Missing, missing), (KeySet::Any, any)] {
            for n in 0..marks {
                let number = dice.roll() >> set.keys_per_mark().trailing_zeros();
                let key = Key { grant: grant(agency, 30), entry: EntryId::from_bits(1), set, number };
                self.at(begin + n as i64 * 100, agency, "match", connection, 1, Event::Key(key));
            }
        }
        self.at(begin + MINUTE_MS, agency, "match", connection, 1, Event::Gone);
    }

    /// A service window: one record at a time; a machine that restarts, and once in a while moves to another network.
    fn office(&mut self, agency: usize, day: i64) {
        let an_hour = self.agencies[agency].window_an_hour;
        let open = START + day * DAY_MS + 9 * HOUR_MS;
        let mut third = 3;
        let mut connection = self.connect(open, agency, "window", third);
        let mut old = None;
        for hour in 0..9 {
            let asked = an_hour * (50 + self.dice.below(80)) / 100;
            for n in 0..asked {
                let now = open + hour * HOUR_MS + (n * HOUR_MS as u64 / asked.max(1)) as i64;
                let question = Some(Question { shape: 1, value: self.dice.roll() });
                self.at(now, agency, "window", connection, third, Self::answered("given", grant(agency, 20), 20));
                let ended = Event::Ended(Self::passed(grant(agency, 20), 3_000, 1, question));
                self.at(now + 200, agency, "window", connection, third, ended);
                if let Some((number, net)) = old.take() {
                    self.at(now + 300, agency, "window", number, net, Event::Gone);
                }
            }
            if self.dice.percent(6) {
                old = Some((connection, third));
                third = if self.dice.percent(20) { 7 - third } else { third };
                connection = self.connect(open + hour * HOUR_MS + HOUR_MS / 2, agency, "window", third);
            }
        }
        self.mistakes(agency, open);
        self.at(open + 9 * HOUR_MS + 1, agency, "window", connection, third, Event::Gone);
    }

    /// Somebody at the command line: wrong columns, a purpose that is not spelt right, a code that does not exist.
    fn mistakes(&mut self, agency: usize, open: i64) {
        if !self.dice.percent(30) {
            return;
        }
        let connection = self.connect(open, agency, "main", 1);
        for n in 0..1 + self.dice.below(9) {
            let words = [
                "columns_outside_scope",
                "predicate_outside_scope",
                "purpose_outside_scope",
                "entry_not_found",
                "bad_predicate",
            ];
            let word = words[self.dice.below(5) as usize];
            let asked = self.dice.roll();
            let event = Self::answered(word, grant(agency, 0), asked);
            self.at(open + n as i64 * 2 * MINUTE_MS, agency, "main", connection, 1, event);
        }
        self.at(open + 30 * MINUTE_MS, agency, "main", connection, 1, Event::Gone);
    }

    fn normal(&mut self, days: i64) {
        for day in 0..days {
            let weekday = (day + 1) % 7;
            let weekend = weekday == 5 || weekday == 6;
            // A holiday of three days in the judged week; a month's end in the days before and in the week.
            let holiday = (BEFORE_DAYS + 1..BEFORE_DAYS + 4).contains(&day);
            let factor = if matches!(day, 27 | 33) { 3 } else { 1 };
            for agency in 0..AGENCIES {
                self.night(agency, day, factor);
                if day >= BEFORE_DAYS && agency % 3 == 0 {
                    self.comparing(agency, day);
                }
                // Of the days before, nights are what departures are judged by.
                let open = day >= BEFORE_DAYS - 2 && !weekend && !holiday;
                if open && self.agencies[agency].window_an_hour > 0 {
                    self.office(agency, day);
                }
                if day >= BEFORE_DAYS && self.agencies[agency].asks_for_too_much {
                    // A timer that asks every ten minutes for a column that was never granted.
                    let connection = self.connect(START + day * DAY_MS, agency, "timer", 1);
                    for n in 0..144 {
                        let event = Self::answered("columns_outside_scope", grant(agency, 3), 77);
                        self.at(START + day * DAY_MS + n * 10 * MINUTE_MS, agency, "timer", connection, 1, event);
                    }
                    self.at(START + (day + 1) * DAY_MS - 1, agency, "timer", connection, 1, Event::Gone);
                }
            }
        }
    }

    /// One misuse of each kind, by agencies 0 to 6.
    fn planted(&mut self) {
        let now = START + (BEFORE_DAYS + 2) * DAY_MS + 15 * HOUR_MS;
        let dials = |week: &mut Self, agency, third| week.connect(now, agency, "bad", third);
        let connection = dials(self, 0, 1);
        for asked in 0..40 {
            let event = Self::answered("columns_outside_scope", grant(0, 0), 1_000 + asked);
            self.at(now + asked as i64 * MINUTE_MS, 0, "bad", connection, 1, event);
        }
        let connection = dials(self, 1, 1);
        for n in 0..500 {
            let question = Some(Question { shape: 1, value: self.dice.roll() });
            let event = Event::Ended(Self::passed(grant(1, 0), 3_000, 1, question));
            self.at(now + n * 4_000, 1, "bad", connection, 1, event);
        }
        let (home, away) = (dials(self, 2, 1), dials(self, 2, 200));
        for n in 0..10 {
            for (connection, third, at) in [(home, 1, n * 60_000), (away, 200, n * 60_000 + 30_000)] {
                let event = Event::Moving(Self::passed(grant(2, 0), 1_000, 10_000, None));
                self.at(now + at, 2, "bad", connection, third, event);
            }
        }
        let connection = dials(self, 3, 1);
        for n in 0..30 {
            let event = Self::answered("period_ended", grant(3, 0), 5);
            self.at(now + n * MINUTE_MS, 3, "bad", connection, 1, event);
        }
        let connection = dials(self, 4, 1);
        for n in 0..12 {
            let event = Self::answered("purpose_outside_scope", grant(4, 0), n as u64 % 4);
            self.at(now + n * MINUTE_MS, 4, "bad", connection, 1, event);
        }
        let connection = dials(self, 5, 1);
        for n in 0..100 {
            let event = Self::answered("columns_outside_scope", grant(5, 0), 5);
            self.at(now + n * 10_000, 5, "bad", connection, 1, event);
        }
        // Agency 6 takes a hundred of its nights in an afternoon.
        let connection = self.connect(now, 6, "main", 1);
        let much = (self.agencies[6].night_bytes * 100).max(1 << 30);
        self.at(now, 6, "main", connection, 1, Event::Ended(Self::passed(grant(6, 0), much, 1_000_000, None)));
    }

    /// Who was found for what, and what would follow.
    fn judged(mut self) -> BTreeMap<(Rule, usize), (Action, i64)> {
        self.events.sort_by_key(|seen| seen.at);
        let agencies: Vec<CreditCode> = self.agencies.iter().map(|a| a.code).collect();
        let (mut histories, thresholds) = (Histories::default(), Thresholds::default());
        let mut found = BTreeMap::new();
        for seen in &self.events {
            let history = histories.record(seen, &thresholds);
            for suspicion in judge(history, seen, &thresholds, seen.at) {
                let agency = agencies.iter().position(|code| *code == seen.who.agency()).unwrap();
                let (action, _) = action(&suspicion, &thresholds);
                found.entry((suspicion.rule, agency)).or_insert((action, (seen.at.0 - START) / DAY_MS));
            }
        }
        found
    }
}

fn seeds() -> Vec<u64> {
    match std::env::var("LINGQU_SEED").ok().and_then(|text| text.parse().ok()) {
        Some(seed) => vec![seed],
        None => vec![1, 2],
    }
}

#[test]
fn a_week_of_fifty_agencies_is_never_cut() {
    for seed in seeds() {
        let mut week = Week::new(seed);
        week.normal(BEFORE_DAYS + 7);
        assert!(week.events.len() > 50_000, "seed {seed}: {} events are no week", week.events.len());
        let found = week.judged();
        let cuts: Vec<_> = found.iter().filter(|(_, (action, _))| action.cuts()).collect();
        assert!(cuts.is_empty(), "seed {seed}: {cuts:?}");
        assert!(found.len() <= 2, "seed {seed}: nobody reads that many warnings: {found:?}");
    }
}

#[test]
fn misuse_in_the_same_week_is_found_and_nobody_elses_is() {
    for seed in seeds() {
        let mut week = Week::new(seed);
        week.normal(BEFORE_DAYS + 7);
        week.planted();
        let found = week.judged();
        let expected = [
            (Rule::ScopeProbing, 0, true),
            (Rule::Enumeration, 1, true),
            (Rule::TwoPlaces, 2, true),
            (Rule::UseAfterExpiry, 3, false),
            (Rule::PurposeNotApproved, 4, false),
            (Rule::ScopeRepeated, 5, false),
            (Rule::Departure, 6, false),
        ];
        for (rule, agency, cuts) in expected {
            let (action, day) =
                found.get(&(rule, agency)).unwrap_or_else(|| panic!("seed {seed}: no {rule} in {found:?}"));
            assert_eq!((action.cuts(), *day), (cuts, BEFORE_DAYS + 2), "seed {seed}: {rule}");
        }
        let cuts: Vec<_> = found.iter().filter(|(_, (action, _))| action.cuts()).map(|(key, _)| *key).collect();
        assert_eq!(cuts.len(), 3, "seed {seed}: {cuts:?}");
    }
}
