//! The watch over a real registry, a real gate and a state in memory.

use super::*;
use crate::gate::{Ask, Peer, Permit as _, Target};
use crate::misuse::observation::{Answered, Fingerprint};
use crate::misuse::queue::{Observer, pair};
use crate::registry::tests::world::{CODE, DAY_MS as WORLD_DAY_MS, ENTRY, World};
use lingqu_protocol::documents::*;
use lingqu_protocol::ids::GrantId;
use std::time::Duration;

struct Watched {
    w: World,
    watch: Watch,
    observer: Arc<Observer>,
    grant: GrantId,
}

async fn watched(thresholds: Thresholds) -> Watched {
    let w = World::new().await;
    w.published().await;
    let grant = w.granted().await;
    w.gate.refresh(Duration::from_secs(100_000_000));
    let (observer, watch) = begun(&w, thresholds).await;
    Watched { w, watch, observer: Arc::new(observer), grant }
}

/// A process that begins, and goes on with what is open and what was kept.
async fn begun(w: &World, thresholds: Thresholds) -> (Observer, Watch) {
    let clock: Arc<dyn Clock> = w.clock.clone();
    let (observer, observed) = pair(Fingerprint::new([0; 32]), Arc::clone(&clock));
    let parts = WatchParts {
        registry: Arc::clone(&w.registry),
        gate: Arc::clone(&w.gate),
        state: w.state.clone(),
        clock,
        thresholds,
    };
    (observer, Watch::begin(parts, observed).await.unwrap())
}

impl Watched {
    fn peer(&self) -> Peer {
        Peer { agent: self.w.requester.agent.clone(), address: "127.0.0.1".parse().unwrap() }
    }

    fn ask(&self) -> Result<crate::gate::PullPermit, &'static str> {
        let target = Target::Grant(self.grant);
        let ask = Ask { target, columns: vec![], rows: None, region: None, purpose: None };
        self.w.gate.pull(&self.peer(), &ask).map_err(|denied| denied.word())
    }

    fn refused(&self, word: &'static str, asked: std::ops::Range<u64>) {
        for asked in asked {
            let answered = Answered { operation: "pull", word, grant: Some(self.grant), entry: None, asked };
            self.observer.answered(&self.peer(), 1, answered);
        }
    }

    fn probe(&self, from: u64, count: u64) {
        self.refused("columns_outside_scope", from..from + count);
    }

    async fn findings(&self) -> Vec<serde_json::Value> {
        self.w.registry.findings("").await.unwrap().0
    }
}

#[tokio::test]
async fn a_rule_that_does_not_work_finds_nothing() {
    for (rules, found) in [(vec![], 0), (vec![Rule::Departure, Rule::Joining], 0), (vec![Rule::ScopeProbing], 1)] {
        let mut of = watched(Thresholds { rules, ..Thresholds::default() }).await;
        of.probe(0, 40);
        of.watch.catch_up().await;
        assert_eq!((of.findings().await.len(), of.ask().is_ok()), (found, found == 0));
    }
}

#[tokio::test]
async fn probing_cuts_what_runs_once_and_a_lifted_one_is_not_cut_again_at_once() {
    let mut x = watched(Thresholds::default()).await;
    let running = x.ask().unwrap();
    x.probe(0, 23);
    x.watch.catch_up().await;
    running.leash().check().unwrap();
    x.probe(23, 40);
    x.watch.catch_up().await;
    assert!(running.leash().check().is_err());
    assert_eq!(x.ask().unwrap_err(), "stopped");
    let found = x.findings().await;
    assert_eq!(found.len(), 1, "the same again is the same finding: {found:?}");
    assert_eq!(found[0]["provider"], x.w.provider.code.to_string());
    let id = found[0]["id"].as_str().unwrap().to_owned();
    x.w.registry.say_of_finding(&id, FindingAct::Lift, "演练").await.unwrap();
    x.watch.catch_up().await;
    assert!(x.ask().is_ok());
    // What was before it does not count again; what comes after is warned of, and not cut, for a day.
    x.probe(100, 10);
    x.watch.catch_up().await;
    assert_eq!(x.findings().await.len(), 1);
    x.probe(110, 30);
    x.watch.catch_up().await;
    let open: Vec<_> = x.findings().await.into_iter().filter(|f| f["status"] == "open").collect();
    assert_eq!((open.len(), open[0]["action"].as_str()), (1, Some("warn")));
    assert!(x.ask().is_ok());
    x.w.clock.pass(31 * WORLD_DAY_MS);
    x.watch.catch_up().await;
    assert!(x.findings().await.iter().all(|f| f["status"] != "open"), "nobody looked at it for a month");
    x.probe(200, 30);
    x.watch.catch_up().await;
    assert_eq!(x.ask().unwrap_err(), "stopped", "and then it is cut again");
}

#[tokio::test]
async fn a_cut_that_nobody_confirms_ends_and_over_a_restart_too() {
    let mut x = watched(Thresholds::default()).await;
    x.probe(0, 30);
    x.watch.catch_up().await;
    assert_eq!(x.ask().unwrap_err(), "stopped");
    x.w.clock.pass(WORLD_DAY_MS - 1);
    x.watch.catch_up().await;
    assert_eq!(x.ask().unwrap_err(), "stopped");
    let (_observer, mut again) = begun(&x.w, Thresholds::default()).await;
    x.w.clock.pass(1);
    again.catch_up().await;
    assert!(x.ask().is_ok());
    assert_eq!(x.findings().await[0]["status"], "expired");
}

#[tokio::test]
async fn observing_only_writes_down_and_cuts_nothing() {
    let mut x = watched(Thresholds { observe_only: true, ..Thresholds::default() }).await;
    let running = x.ask().unwrap();
    x.probe(0, 60);
    x.watch.catch_up().await;
    running.leash().check().unwrap();
    let found = x.findings().await;
    assert_eq!((found[0]["action"].as_str(), found[0]["observe_only"].as_bool()), (Some("cut_grant"), Some(true)));
}

#[tokio::test]
async fn what_was_dropped_is_said_with_what_was_found() {
    let mut x = watched(Thresholds::default()).await;
    x.probe(0, crate::misuse::queue::WAITING_MAX as u64 + 5);
    x.watch.catch_up().await;
    assert_eq!(x.findings().await[0]["observations_dropped"], 5);
    assert_eq!((x.watch.sight().seen().dropped, x.watch.said.dropped), (5, 5));
}

#[tokio::test]
async fn it_judges_what_is_seen_until_nobody_is_left_who_could_see_anything() {
    let x = watched(Thresholds::default()).await;
    x.probe(0, 30);
    let Watched { w, watch, observer, .. } = x;
    drop(observer);
    watch.run().await;
    assert_eq!(w.registry.findings("").await.unwrap().0.len(), 1);
}

#[tokio::test]
async fn the_same_again_is_written_down_once_a_minute_with_how_often_it_was() {
    let mut x = watched(Thresholds::default()).await;
    for (pass_ms, asked, times) in [
        (0, 0..29, 1u64),
        (AGAIN_EVERY_MS - 1, 29..30, 1),
        (1, 30..31, 8),
        (AGAIN_EVERY_MS - 1, 31..33, 8),
        (1, 33..34, 11),
    ] {
        x.w.clock.pass(pass_ms);
        x.refused("columns_outside_scope", asked);
        x.watch.catch_up().await;
        let found = x.findings().await;
        assert_eq!((found.len(), found[0]["count"].as_u64()), (1, Some(times)));
    }
}

#[tokio::test]
async fn what_was_lifted_is_not_cut_again_until_the_quiet_hours_are_over() {
    let mut x = watched(Thresholds::default()).await;
    for (asked, pass_ms, is_cut) in [(0, 0, true), (100, WORLD_DAY_MS - 1, false), (200, WORLD_DAY_MS, true)] {
        x.w.clock.pass(pass_ms);
        x.probe(asked, 30);
        x.watch.catch_up().await;
        assert_eq!(x.ask().is_err(), is_cut, "{pass_ms} ms after it was lifted");
        let found = x.findings().await;
        let open = found.iter().find(|f| f["status"] == "open").unwrap();
        x.w.registry.say_of_finding(open["id"].as_str().unwrap(), FindingAct::Lift, "演练").await.unwrap();
        x.watch.catch_up().await;
    }
}

#[tokio::test]
async fn what_cut_nothing_stays_open_for_the_days_that_are_set() {
    let mut x = watched(Thresholds { observe_only: true, open_days: 3, ..Thresholds::default() }).await;
    x.probe(0, 24);
    x.watch.catch_up().await;
    let ends_at = x.w.clock.wall().plus_ms(3 * WORLD_DAY_MS);
    assert_eq!((x.watch.due(ends_at.plus_ms(-1)).len(), x.watch.due(ends_at).len()), (0, 1));
    for (pass_ms, status) in [(3 * WORLD_DAY_MS - 1, "open"), (1, "expired")] {
        x.w.clock.pass(pass_ms);
        x.watch.catch_up().await;
        assert_eq!(x.findings().await[0]["status"], status);
    }
}

#[tokio::test]
async fn what_is_too_much_for_an_hour_is_not_written_down_unless_it_cuts() {
    let mut x = watched(Thresholds::default()).await;
    x.watch.hour = (x.w.clock.wall().0.div_euclid(HOUR_MS), FINDINGS_AN_HOUR_MAX - 1);
    for (word, asked, pass_ms, found) in [
        ("period_ended", 0..10, 0, 1),
        ("purpose_outside_scope", 0..10, 0, 1),
        ("columns_outside_scope", 100..124, 0, 2),
        ("purpose_outside_scope", 10..11, HOUR_MS, 3),
    ] {
        x.w.clock.pass(pass_ms);
        x.refused(word, asked);
        x.watch.catch_up().await;
        assert_eq!(x.findings().await.len(), found, "{word}");
    }
    assert_eq!(x.ask().unwrap_err(), "stopped");
}

#[tokio::test]
async fn what_is_over_gives_its_place_to_what_is_new_and_what_is_open_keeps_it() {
    let mut x = watched(Thresholds::default()).await;
    let finding = x.w.found(x.grant).await;
    let (case, now) = (Case::of(&finding.suspected), x.w.clock.wall());
    for (until, is_kept) in [(now.plus_ms(1), false), (now, true)] {
        let other = |n: u128| {
            let open = Standing::Open { finding: FindingId::from_bits(n), expires_at: None, written_at: now, again: 0 };
            let standing = if n == 0 { Standing::Quiet { until } } else { open };
            (Case { grant: Some(GrantId::from_bits(1_000 + n)), ..case.clone() }, standing)
        };
        x.watch.cases = (0..KEYS_MAX as u128).map(other).collect();
        x.watch.keep_open(&finding);
        assert_eq!((x.watch.cases.len(), x.watch.cases.contains_key(&case)), (KEYS_MAX, is_kept));
    }
    // Lifted is what was lifted, and none of the others.
    x.w.registry.say_of_finding(&finding.id.to_string(), FindingAct::Lift, "演练").await.unwrap();
    x.watch.catch_up().await;
    assert!(matches!(x.watch.cases.get(&case), Some(Standing::Quiet { .. })));
    assert_eq!(x.watch.cases.values().filter(|s| matches!(s, Standing::Open { .. })).count(), KEYS_MAX - 1);
}

#[tokio::test]
async fn what_is_due_is_looked_at_once_a_second_and_where_the_clock_went_back() {
    let mut x = watched(Thresholds::default()).await;
    x.watch.look_at_the_clock().await;
    for (jump_ms, looks) in [(DUE_EVERY_MS - 1, false), (1, true), (-1, true)] {
        x.w.clock.jump(jump_ms);
        x.watch.look_at_the_clock().await;
        assert_eq!(x.watch.due_at == x.w.clock.wall(), looks, "{jump_ms}");
    }
}

#[tokio::test]
async fn grants_that_join_are_told_to_both_providers_and_once() {
    let mut x = watched(Thresholds::default()).await;
    let personal = "columns = [\"region\", \"credit_code\", \"operator_name\"]";
    let w = &x.w;
    // A second entry of another provider with the same key and other persons' columns.
    let entry = lingqu_protocol::ids::EntryId::from_bits(w.id());
    let toml = ENTRY.replace("operator_name", "illness").replace("个体工商户登记信息", "就医信息");
    let body = EntryBody { entry, agency: w.other.code.to_string(), toml };
    let taken = w.hand_in(&w.other.agent, &w.other.agency_head, body, None).await.unwrap();
    let text = taken.json["digest"].as_str().unwrap().parse().unwrap();
    w.review((entry, text), Review::Approve { code: Some("307010/000077".into()) }).await.unwrap();
    let mut grants = Vec::new();
    for (code, column, by) in [(CODE, "operator_name", &w.provider), ("307010/000077", "illness", &w.other)] {
        let toml = crate::registry::tests::world::APPLICATION
            .replace(CODE, code)
            .replace("columns = [\"region\", \"credit_code\"]", &personal.replace("operator_name", column));
        let body = w.application_body(&w.requester, &toml);
        let application = body.application;
        let taken = w.hand_in(&w.requester.agent, &w.requester.office_head, body, None).await.unwrap();
        let follows = taken.json["digest"].as_str().unwrap().parse().unwrap();
        let grant = GrantId::from_bits(w.id());
        let answer = AnswerBody { application, answer: Answer::Approve { grant, scope_toml: None } };
        w.hand_in(&by.agent, &by.office_head, answer, Some(follows)).await.unwrap();
        grants.push(grant);
    }
    let requester = w.requester.code;
    for _ in 0..2 {
        x.observer.grant_changed(requester, grants[1]);
        x.watch.catch_up().await;
    }
    let (observer, mut again) = begun(&x.w, Thresholds::default()).await;
    observer.grant_changed(requester, grants[1]);
    again.catch_up().await;
    let found = x.findings().await;
    let mut told: Vec<_> = found.iter().map(|f| f["provider"].as_str().unwrap().to_owned()).collect();
    told.sort();
    let mut expected = [x.w.provider.code.to_string(), x.w.other.code.to_string()];
    expected.sort();
    assert_eq!(told, expected, "{found:?}");
    assert!(found.iter().all(|f| f["rule"] == "joining" && f["cut"].is_null()));
    assert!(found[0]["text"].as_str().unwrap().contains("illness"));
    // To the requester it is shown, to an agency that has nothing to do with it it does not exist.
    let id = found[0]["id"].as_str().unwrap();
    assert!(x.w.show(&x.w.requester, "finding", id).await.is_ok());
}

#[tokio::test]
async fn what_is_usual_is_kept_over_a_restart() {
    let mut x = watched(Thresholds::default()).await;
    let permit = x.ask().unwrap();
    for _ in 0..3 {
        let flow = x.observer.began(&x.peer(), 1, permit.leash(), None, None);
        permit.leash().moved().add(1 << 20, 1);
        drop(flow);
        x.watch.catch_up().await;
        x.w.clock.pass(WORLD_DAY_MS);
    }
    let who = Who::from(&x.w.requester.agent);
    // What lies under a like name and was not kept by a watch is not taken for what is usual.
    let stranger: AgentId = format!("{}/stranger", x.w.other.code).parse().unwrap();
    let draft = Draft {
        kind: Kind::Setting,
        id: format!("{KEPT_PARENT}/{stranger}"),
        agency: None,
        parent: None,
        body: serde_json::to_vec(&Kept { days: vec![(1, 1)], hours: Vec::new(), since: 1 }).unwrap(),
        changed_at: x.w.clock.wall(),
    };
    let writes = vec![Write::Put(draft, Expect::Absent)];
    x.w.state.commit(Change { writes, ..Change::default() }).await.unwrap();
    let (_observer, mut again) = begun(&x.w, Thresholds::default()).await;
    assert_eq!(again.histories.of(&who).unwrap().baseline().days(), 2, "two days are over");
    assert!(again.histories.of(&Who::from(&stranger)).is_none());
}

#[test]
fn the_same_case_is_one_whatever_of_it_is_shown_and_two_grants_join_once_for_each_who_is_told() {
    let [one, other] = ["91350100M000100Y43", "91512081MA62K0260E"].map(|code| code.parse::<CreditCode>().unwrap());
    let case = |rule, provider, what: &str| {
        let shown = Shown { at: Timestamp(1), what: what.into(), outcome: String::new(), address: String::new() };
        Case::of(&Suspected {
            rule,
            action: Action::Warn,
            observe_only: false,
            agent: None,
            agency: one,
            grant: Some(GrantId::from_bits(1)),
            entry: None,
            provider: Some(provider),
            evidence: Evidence { shown: vec![shown], ..Evidence::default() },
        })
    };
    assert_eq!(case(Rule::ScopeProbing, one, "pull"), case(Rule::ScopeProbing, other, "query"));
    let joining = case(Rule::Joining, one, "grant-a");
    assert_eq!(joining, case(Rule::Joining, one, "grant-a"));
    assert_ne!(joining, case(Rule::Joining, one, "grant-b"));
    assert_ne!(joining, case(Rule::Joining, other, "grant-a"));
    assert_ne!(joining, case(Rule::ScopeProbing, one, "grant-a"));
}
