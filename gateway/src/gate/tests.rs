#![allow(clippy::unwrap_used)]

use super::*;
use futures::FutureExt;
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{EntryId, GrantId};
use lingqu_protocol::predicate::Predicate;
use lingqu_protocol::scope::ApplicationSpec;
use std::sync::Mutex;

const PROVIDER: &str = "91350100M000100Y43";
const REQUESTER: &str = "91512081MA62K0260E";
const OTHER: &str = "91330100799655058B";

const ENTRY: &str = concat!("code = \"307010/000001\"\n", include_str!("../../../protocol/fixtures/entry.toml"));

const APPLICATION: &str = include_str!("../../../protocol/fixtures/application.toml");

/// 2027-01-01, within the period.
const NOW: Timestamp = Timestamp(1_798_732_800_000);

struct HandClock(Mutex<(Timestamp, Duration)>);

impl Clock for HandClock {
    fn wall(&self) -> Timestamp {
        self.0.lock().unwrap().0
    }
    fn monotonic(&self) -> Duration {
        self.0.lock().unwrap().1
    }
}

struct World {
    gate: Gate,
    clock: Arc<HandClock>,
    entry: EntryId,
    grant: GrantId,
}

fn agent(code: &str) -> AgentId {
    format!("{code}/a").parse().unwrap()
}

fn peer(code: &str) -> Peer {
    Peer { agent: agent(code), address: "127.0.0.1".parse().unwrap() }
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(HandClock(Mutex::new((NOW, Duration::from_secs(1)))));
        let gate = Gate::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let world = Self { gate, clock, entry: EntryId::from_bits(1), grant: GrantId::from_bits(2) };
        let mut updates = Vec::new();
        for code in [PROVIDER, REQUESTER, OTHER] {
            updates.push(Update::Agency(AgencyView::of_province(code)));
            updates.push(Update::Agent(AgentView { id: agent(code), blocked: None }));
        }
        updates.push(Update::Entry(world.entry_view(true)));
        updates.push(Update::Grant(world.grant_view(GrantStatus::InForce)));
        world.gate.publish(updates);
        world.gate.refresh(Duration::from_secs(5));
        world
    }

    fn entry_view(&self, published: bool) -> EntryView {
        let spec = EntrySpec::parse(ENTRY).unwrap();
        let code = Some("307010/000001".to_owned());
        EntryView { id: self.entry, code, provider: PROVIDER.parse().unwrap(), spec: Arc::new(spec), published }
    }

    fn grant_view(&self, status: GrantStatus) -> GrantView {
        let scope = Arc::new(ApplicationSpec::parse(APPLICATION).unwrap().scope);
        let requester = REQUESTER.parse().unwrap();
        GrantView { id: self.grant, entry: self.entry, requester, scope, status, digest: Digest::blake3(b"answer") }
    }

    fn ask(&self) -> Ask {
        Ask { target: Target::Grant(self.grant), columns: vec![], rows: None, region: None, purpose: None }
    }

    fn denied(&self, who: &str, ask: &Ask) -> &'static str {
        self.gate.pull(&peer(who), ask).map_or_else(|d| d.word(), |_| "allowed")
    }

    fn suspend(&self) {
        let status = GrantStatus::Suspended { reason: "误用".into(), since: NOW };
        self.gate.publish(vec![Update::Grant(self.grant_view(status))]);
    }
}

#[test]
fn exactly_the_grant_is_allowed() {
    let world = World::new();
    let permit = world.gate.pull(&peer(REQUESTER), &world.ask()).unwrap();
    assert_eq!(permit.columns(), [0, 1]);
    assert!(permit.rows().is_some());
    assert_eq!(permit.purpose(), "低收入家庭核对");
    permit.leash().check().unwrap();
    for target in [
        Target::parse("307010/000001"),
        Target::parse(&world.entry.to_string()),
        Target::parse(&world.grant.to_string()),
    ] {
        assert_eq!(world.denied(REQUESTER, &Ask { target, ..world.ask() }), "allowed");
    }
    let one = Ask { columns: vec!["credit_code".into()], ..world.ask() };
    assert_eq!(world.gate.pull(&peer(REQUESTER), &one).unwrap().columns(), [1]);
}

#[test]
fn what_is_outside_the_grant_is_denied_and_named() {
    let world = World::new();
    let with = |change: &dyn Fn(&mut Ask)| {
        let mut ask = world.ask();
        change(&mut ask);
        world.denied(REQUESTER, &ask)
    };
    assert_eq!(with(&|a| a.columns = vec!["operator_name".into()]), "columns_outside_scope");
    assert_eq!(with(&|a| a.columns = vec!["region".into(), "no such".into()]), "columns_outside_scope");
    assert_eq!(with(&|a| a.columns = vec!["region".into(), "region".into()]), "column_twice");
    assert_eq!(
        with(&|a| a.rows = Some(Predicate::parse("operator_name = '张三'").unwrap())),
        "predicate_outside_scope"
    );
    assert_eq!(
        with(&|a| a.rows = Some(Predicate::parse("not (operator_name is null)").unwrap())),
        "predicate_outside_scope"
    );
    assert_eq!(with(&|a| a.rows = Some(Predicate::parse("region = 3").unwrap())), "bad_predicate");
    assert_eq!(with(&|a| a.purpose = Some("统计".into())), "purpose_outside_scope");
    assert_eq!(with(&|a| a.region = Some("11".parse().unwrap())), "allowed", "narrows to nothing");
    assert_eq!(with(&|a| a.target = Target::Entry("nothing".into())), "entry_not_found");
}

#[test]
fn what_a_peer_may_not_see_does_not_exist() {
    let world = World::new();
    assert_eq!(world.denied(OTHER, &world.ask()), "grant_not_found");
    assert_eq!(world.denied(PROVIDER, &world.ask()), "grant_not_found");
    world.suspend();
    assert_eq!(world.denied(OTHER, &world.ask()), "grant_not_found", "whatever its state");
    assert_eq!(world.denied(OTHER, &Ask { target: Target::parse("307010/000001"), ..world.ask() }), "no_grant");
    let stranger = Peer { agent: format!("{REQUESTER}/stranger").parse().unwrap(), ..peer(REQUESTER) };
    assert_eq!(world.gate.pull(&stranger, &world.ask()).unwrap_err(), Denied::UnknownAgent);
    world.gate.publish(vec![Update::Entry(world.entry_view(false))]);
    assert_eq!(world.gate.push(&peer(OTHER), "307010/000001").unwrap_err(), Denied::EntryNotFound);
}

#[test]
fn only_the_provider_pushes() {
    let world = World::new();
    assert!(world.gate.push(&peer(PROVIDER), "307010/000001").is_ok());
    assert_eq!(world.gate.push(&peer(REQUESTER), "307010/000001").unwrap_err(), Denied::NotProvider);
    world.gate.publish(vec![Update::Entry(world.entry_view(false))]);
    assert_eq!(world.gate.push(&peer(PROVIDER), "307010/000001").unwrap_err(), Denied::NotPublished);
}

#[test]
fn network_and_period_are_judged_at_their_edges() {
    let world = World::new();
    let outside = Peer { address: "192.0.2.1".parse().unwrap(), ..peer(REQUESTER) };
    assert_eq!(world.gate.pull(&outside, &world.ask()).unwrap_err().word(), "network_outside_scope");
    let scope = world.grant_view(GrantStatus::InForce).scope;
    for (at, expected) in [
        (scope.starts_at().plus_ms(-1), "period_not_begun"),
        (scope.starts_at(), "allowed"),
        (scope.ends_at().plus_ms(-1), "allowed"),
        (scope.ends_at(), "period_ended"),
    ] {
        world.clock.0.lock().unwrap().0 = at;
        assert_eq!(world.denied(REQUESTER, &world.ask()), expected, "{at}");
    }
}

#[test]
fn a_suspension_cuts_what_runs_and_denies_what_comes() {
    let world = World::new();
    let running = world.gate.pull(&peer(REQUESTER), &world.ask()).unwrap();
    let push = world.gate.push(&peer(PROVIDER), "307010/000001").unwrap();
    world.suspend();
    let cut = running.leash().check().unwrap_err();
    assert_eq!((cut.code, cut.word, cut.reason.as_str()), (CloseCode::Suspended, "grant_suspended", "误用"));
    push.leash().check().unwrap();
    assert_eq!(world.denied(REQUESTER, &world.ask()), "grant_suspended");
    world.gate.publish(vec![Update::Grant(world.grant_view(GrantStatus::InForce))]);
    assert_eq!(world.denied(REQUESTER, &world.ask()), "allowed");
    assert!(running.leash().check().is_err(), "a cut flow stays cut");
}

#[test]
fn an_amended_grant_cuts_what_runs_under_the_old_scope_and_an_unchanged_one_does_not() {
    let world = World::new();
    let permit = world.gate.pull(&peer(REQUESTER), &world.ask()).unwrap();
    world.gate.publish(vec![Update::Grant(world.grant_view(GrantStatus::InForce))]);
    permit.leash().check().unwrap();
    let amended = GrantView { digest: Digest::blake3(b"amended"), ..world.grant_view(GrantStatus::InForce) };
    world.gate.publish(vec![Update::Grant(amended)]);
    assert_eq!(permit.leash().check().unwrap_err().word, "grant_amended");
    assert_eq!(world.denied(REQUESTER, &world.ask()), "allowed", "under the new one");
}

#[test]
fn a_quality_rule_looks_only_into_entries_that_its_provider_may_see() {
    const RULE: &str = "\n[[quality]]\nrule = \"reference\"\ncolumn = \"credit_code\"\nentry = \"307010/000002\"\nitem = \"credit_code\"\non_failure = \"count\"\n";
    let seen = |provider: &str, class: &str, published: bool| {
        let world = World::new();
        let rule = "\n[[quality]]\nrule = \"required\"\ncolumn = \"region\"\non_failure = \"count\"\n";
        let spec = EntrySpec::parse(&format!("{ENTRY}{RULE}{rule}")).unwrap();
        world.gate.publish(vec![Update::Entry(EntryView { spec: Arc::new(spec), ..world.entry_view(true) })]);
        let other = ENTRY.replace("000001", "000002").replace("sharing_class = \"conditional\"", class);
        let other = if class.contains("un") {
            other.replace("conditions = \"限依法履职使用\"\npurposes = [\"低收入家庭核对\"]\n", "")
        } else {
            other
        };
        let (id, code) = (EntryId::from_bits(77), Some("307010/000002".to_owned()));
        let spec = Arc::new(EntrySpec::parse(&other).unwrap());
        let provider = provider.parse().unwrap();
        world.gate.publish(vec![Update::Entry(EntryView { id, code, provider, spec, published })]);
        let permit = world.gate.push(&peer(PROVIDER), "307010/000001").unwrap();
        assert!(permit.referenced(1).is_none(), "a rule that refers to nothing");
        assert!(permit.referenced(2).is_none(), "no rule at all");
        permit.referenced(0).map(|entry| entry.id) == Some(id)
    };
    let (conditional, open) = ("sharing_class = \"conditional\"", "sharing_class = \"unconditional\"");
    assert!(seen(PROVIDER, conditional, true), "its own");
    assert!(seen(OTHER, open, true), "what everybody may have");
    assert!(!seen(OTHER, conditional, true), "another's");
    assert!(!seen(PROVIDER, conditional, false) && !seen(OTHER, open, false), "what is not published");
}

/// What moves data, by who asks for it. The registry's operations have the same table in `registry::tests::denials`, backflow
/// in `follow::tests`.
#[test]
fn every_flow_is_denied_to_every_role_that_it_is_not_for() {
    const AUTHORITY: &str = "91440300708461136T";
    let world = World::new();
    let authority = AgencyView { authority: true, ..AgencyView::of_province(AUTHORITY) };
    let joined = AgentView { id: agent(AUTHORITY), blocked: None };
    let blocked = AgentView { id: format!("{REQUESTER}/b").parse().unwrap(), blocked: Some("lost".into()) };
    world.gate.publish(vec![Update::Agency(authority), Update::Agent(joined), Update::Agent(blocked)]);
    let named = |id: &str| Peer { agent: id.parse().unwrap(), ..peer(OTHER) };
    let roles = [
        ("provider", peer(PROVIDER)),
        ("requester", peer(REQUESTER)),
        ("other", peer(OTHER)),
        ("authority", peer(AUTHORITY)),
        ("blocked", named(&format!("{REQUESTER}/b"))),
        ("unknown", named(&format!("{REQUESTER}/z"))),
    ];
    let of_entry = Ask { target: Target::parse("307010/000001"), ..world.ask() };
    let word = |denied: Denied| denied.word();
    let table: Vec<_> = roles
        .iter()
        .map(|(role, who)| {
            let pull = world.gate.pull(who, &of_entry).map_or_else(word, |_| "allowed");
            let by_grant = world.gate.pull(who, &world.ask()).map_or_else(word, |_| "allowed");
            let by_key = world.gate.service(who, &of_entry).map_or_else(word, |_| "allowed");
            let push = world.gate.push(who, "307010/000001").map_or_else(word, |_| "allowed");
            (*role, [pull, by_grant, by_key, push])
        })
        .collect();
    // A pull that names the entry, one that names the grant, records by key, a push. The application is for batches only.
    let expected = [
        ("provider", ["no_grant", "grant_not_found", "no_grant", "allowed"]),
        ("requester", ["allowed", "allowed", "method_outside_scope", "not_provider"]),
        ("other", ["no_grant", "grant_not_found", "no_grant", "not_provider"]),
        ("authority", ["no_grant", "grant_not_found", "no_grant", "not_provider"]),
        ("blocked", ["agent_blocked"; 4]),
        ("unknown", ["unknown_agent"; 4]),
    ];
    assert_eq!(table, expected);
}

#[test]
fn who_watches_sees_what_runs_and_what_passed() {
    let world = World::new();
    let permit = world.gate.pull(&peer(REQUESTER), &world.ask()).unwrap();
    permit.leash().moved().add(7, 0);
    assert_eq!(world.gate.passed().grants[&world.grant].out_bytes, 7);
    assert_eq!(world.gate.flows().iter().map(Leash::number).collect::<Vec<_>>(), [permit.leash().number()]);
    assert_eq!(world.gate.monotonic(), world.clock.monotonic());
    drop(permit);
    assert_eq!((world.gate.flows().len(), world.gate.passed().grants[&world.grant].ended), (0, 1));
}

#[test]
fn what_is_known_is_counted() {
    let world = World::new();
    assert_eq!(world.gate.snapshot().counts(), [3, 3, 1, 1]);
}

#[test]
fn every_selector_cuts_its_flows_and_no_others() {
    let world = World::new();
    let cases = [
        (Selector::Grant(world.grant), [true, false]),
        (Selector::Agent(agent(REQUESTER)), [true, false]),
        (Selector::Agency(PROVIDER.parse().unwrap()), [false, true]),
        (Selector::Entry(world.entry), [true, true]),
        (Selector::Entry(EntryId::from_bits(9)), [false, false]),
        (Selector::All, [true, true]),
    ];
    for (selector, expected) in cases {
        let pull = world.gate.pull(&peer(REQUESTER), &world.ask()).unwrap();
        let push = world.gate.push(&peer(PROVIDER), "307010/000001").unwrap();
        assert_eq!(world.gate.running(), 2);
        let stop = StopView { selector: selector.clone(), reason: "test".into(), since: NOW };
        world.gate.publish(vec![Update::Stop(stop)]);
        assert_eq!([pull.leash().check().is_err(), push.leash().check().is_err()], expected, "{selector:?}");
        assert_eq!(world.denied(REQUESTER, &world.ask()) == "stopped", expected[0], "{selector:?}");
        let pushed = world.gate.push(&peer(PROVIDER), "307010/000001");
        assert_eq!(pushed.is_err_and(|denied| denied.word() == "stopped"), expected[1], "{selector:?}");
        world.gate.publish(vec![Update::Resume(selector)]);
        assert_eq!(world.denied(REQUESTER, &world.ask()), "allowed");
    }
    assert_eq!(world.gate.running(), 0, "a dropped permit gives its leash back");
}

#[test]
fn a_blocked_agent_is_refused_at_once() {
    let world = World::new();
    let running = world.gate.pull(&peer(REQUESTER), &world.ask()).unwrap();
    world.gate.publish(vec![Update::Agent(AgentView { id: agent(REQUESTER), blocked: Some("lost laptop".into()) })]);
    assert!(running.leash().check().is_err());
    assert_eq!(world.gate.admit(&peer(REQUESTER)).unwrap_err().word(), "agent_blocked");
}

#[test]
fn closed_when_in_doubt() {
    let world = World::new();
    let running = world.gate.pull(&peer(REQUESTER), &world.ask()).unwrap();
    world.clock.0.lock().unwrap().1 += Duration::from_secs(5);
    assert_eq!(world.denied(REQUESTER, &world.ask()), "policy_stale");
    running.leash().check().unwrap();
    world.gate.watch();
    assert_eq!(running.leash().check().unwrap_err().code, CloseCode::Closed);
    world.gate.refresh(Duration::from_secs(5));
    assert_eq!(world.denied(REQUESTER, &world.ask()), "allowed");
    world.gate.close(ClosedWhy::ClockUnsure);
    assert_eq!(world.denied(REQUESTER, &world.ask()), "clock_unsure");
}

#[test]
fn a_drain_lets_what_runs_go_on() {
    let world = World::new();
    let running = world.gate.pull(&peer(REQUESTER), &world.ask()).unwrap();
    world.gate.drain();
    world.gate.watch();
    assert_eq!(world.denied(REQUESTER, &world.ask()), "draining");
    running.leash().check().unwrap();
    world.gate.close(ClosedWhy::Draining);
    assert_eq!(running.leash().check().unwrap_err().code, CloseCode::Draining);
}

#[test]
fn who_waits_for_a_drain_waits_until_it_begins() {
    let world = World::new();
    let mut drained = std::pin::pin!(world.gate.drained());
    assert_eq!(drained.as_mut().now_or_never(), None);
    world.gate.drain();
    assert_eq!((drained.now_or_never(), world.gate.drained().now_or_never()), (Some(()), Some(())));
}

#[test]
fn the_end_of_a_period_cuts_in_mid_stream() {
    let world = World::new();
    let running = world.gate.pull(&peer(REQUESTER), &world.ask()).unwrap();
    world.gate.watch();
    running.leash().check().unwrap();
    world.clock.0.lock().unwrap().0 = world.grant_view(GrantStatus::InForce).scope.ends_at();
    world.gate.watch();
    assert_eq!(running.leash().check().unwrap_err().code, CloseCode::Expired);
}

#[test]
fn a_cut_says_how_many_flows_it_was() {
    let world = World::new();
    let running = [(); 2].map(|()| world.gate.pull(&peer(REQUESTER), &world.ask()).unwrap());
    let cut = Cut { code: CloseCode::Suspended, word: "stopped", reason: "测试".into(), since: Timestamp(0) };
    assert_eq!(world.gate.cut(&Selector::Grant(GrantId::from_bits(99)), &cut), 0);
    assert!(running.iter().all(|permit| permit.leash().check().is_ok()));
    assert_eq!(world.gate.cut(&Selector::Grant(world.grant), &cut), 2);
    assert!(running.iter().all(|permit| permit.leash().check().is_err()));
}

#[tokio::test]
async fn a_blocked_flow_wakes_up_when_it_is_cut() {
    let world = World::new();
    let running = world.gate.pull(&peer(REQUESTER), &world.ask()).unwrap();
    let leash = running.leash().clone();
    let waiting = tokio::spawn(async move { leash.cut().await });
    tokio::task::yield_now().await;
    world.suspend();
    tokio::task::yield_now().await;
    assert!(waiting.is_finished());
    assert_eq!(waiting.await.unwrap().word, "grant_suspended");
    assert_eq!(running.leash().cut().await.word, "grant_suspended", "later, too");
}

#[test]
fn several_grants_of_one_entry_are_listed_and_dead_ones_are_not_meant() {
    let world = World::new();
    let second = GrantId::from_bits(3);
    let by_entry = Ask { target: Target::parse("307010/000001"), ..world.ask() };
    world.gate.publish(vec![Update::Grant(GrantView { id: second, ..world.grant_view(GrantStatus::InForce) })]);
    let denied = world.gate.pull(&peer(REQUESTER), &by_entry).unwrap_err();
    assert_eq!(denied, Denied::SeveralGrants { grants: vec![world.grant, second] });
    world.suspend();
    assert_eq!(world.gate.pull(&peer(REQUESTER), &by_entry).unwrap().grant().id, second);
}
