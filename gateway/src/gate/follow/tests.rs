use super::*;
use crate::gate::{AgencyView, AgentView, Cut, StopView, Update};
use futures::FutureExt;
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::backflow::{BackflowList, RegionChange};
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::host::{Clock, Timestamp};
use lingqu_protocol::ids::EntryId;
use lingqu_protocol::region::RegionTable;
use std::time::Duration;

const COUNTY: &str = "91350100M000100Y43";
const CITY: &str = "91512081MA62K0260E";
const OTHER: &str = "91330100799655058B";

const ENTRY: &str = concat!("code = \"307010/000001\"\n", include_str!("../../../../protocol/fixtures/entry.toml"));

/// 2027-01-01.
const NOW: Timestamp = Timestamp(1_798_732_800_000);

struct Still;

impl Clock for Still {
    fn wall(&self) -> Timestamp {
        NOW
    }
    fn monotonic(&self) -> Duration {
        Duration::from_secs(1)
    }
}

fn agency(code: &str, region: &str, duties: &[&str]) -> Update {
    let region = region.parse().unwrap();
    Update::Agency(AgencyView {
        code: code.parse().unwrap(),
        name: code.to_owned(),
        region,
        level: RegionTable::national().level(region),
        duties: duties.iter().map(|duty| (*duty).to_owned()).collect(),
        authority: false,
    })
}

fn peer(code: &str) -> Peer {
    Peer {
        agent: AgentId { agency: code.parse().unwrap(), name: "a".parse().unwrap() },
        address: [127, 0, 0, 1].into(),
    }
}

fn ask(columns: &[&str]) -> FollowAsk {
    FollowAsk { entry: "307010/000001".into(), columns: columns.iter().map(|c| (*c).to_owned()).collect() }
}

fn list(id: u128, at: i64, rows: &str) -> BackflowView {
    let list = BackflowList::parse(&format!("name = \"n\"\n{rows}")).unwrap();
    BackflowView {
        list: ListId::from_bits(id),
        published_at: Timestamp(at),
        revoked: None,
        rows: list.rows.into_iter().map(|row| (row, EntryId::from_bits(1))).collect(),
        region_changes: list.region_changes,
    }
}

fn row(to: &str, items: &str) -> String {
    format!("[[backflow]]\nentry = \"307010/000001\"\n{to}\nduty = \"监管\"\n{items}\n")
}

fn world(lists: &[BackflowView]) -> Arc<Gate> {
    let gate = Arc::new(Gate::new(Arc::new(Still)));
    let spec = Arc::new(EntrySpec::parse(ENTRY).unwrap());
    let entry = EntryView {
        id: EntryId::from_bits(1),
        code: Some("307010/000001".to_owned()),
        provider: OTHER.parse().unwrap(),
        spec,
        published: true,
    };
    let mut updates = vec![
        agency(COUNTY, "441900", &["市场监管"]),
        agency(CITY, "4403", &["市场监管", "民政"]),
        agency(OTHER, "44", &[]),
        Update::Entry(entry),
    ];
    updates.extend([COUNTY, CITY, OTHER].map(|code| Update::Agent(AgentView { id: peer(code).agent, blocked: None })));
    updates.extend(lists.iter().map(|list| Update::Backflow(Arc::new(list.clone()))));
    gate.publish(updates);
    gate.refresh(Duration::from_secs(60));
    gate
}

fn word(gate: &Arc<Gate>, code: &str, ask: FollowAsk) -> &'static str {
    gate.follow(&peer(code), ask).map_or_else(|denied| denied.word(), |_| "allowed")
}

#[test]
fn who_is_on_the_list_gets_its_own_region_and_nobody_else_anything() {
    let gate = world(&[list(1, 1, &row("to_duties = [\"市场监管\"]\nlevels = [\"county\"]", ""))]);
    let permit = gate.follow(&peer(COUNTY), ask(&[])).unwrap();
    let allowed = permit.allowed();
    assert_eq!(allowed.region.own().as_str(), "441900");
    assert!(allowed.region.contains_text("441900003") && !allowed.region.contains_text("440304"));
    assert_eq!(allowed.names().len(), allowed.entry.spec.items.len(), "all items where none are listed");
    assert_eq!(word(&gate, CITY, ask(&[])), "no_entitlement", "another level");
    assert_eq!(word(&gate, OTHER, ask(&[])), "no_entitlement", "the provider itself is not on it");
    assert_eq!(word(&gate, COUNTY, FollowAsk { entry: "nothing".into(), columns: vec![] }), "entry_not_found");
}

#[test]
fn items_are_those_of_all_rows_of_the_latest_list_that_names_one() {
    let first = list(1, 1, &row("to_duties = [\"市场监管\"]", ""));
    let two = row("to_duties = [\"市场监管\"]", "items = [\"region\"]")
        + &row("to_duties = [\"民政\"]", "items = [\"credit_code\"]");
    let gate = world(&[first.clone(), list(2, 2, &two)]);
    let names = |code| {
        let permit = gate.follow(&peer(code), ask(&[])).unwrap();
        permit.allowed().names().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((names(COUNTY), names(CITY)), (vec!["region".to_owned()], vec!["region".into(), "credit_code".into()]));
    assert_eq!(word(&gate, COUNTY, ask(&["credit_code"])), "columns_outside_scope");
    assert_eq!(word(&gate, CITY, ask(&["credit_code"])), "allowed");
    // The later one is revoked: the earlier one counts again.
    gate.publish(vec![Update::Backflow(Arc::new(BackflowView {
        revoked: Some((NOW, "调整".into())),
        ..list(2, 2, &two)
    }))]);
    assert_eq!(word(&gate, COUNTY, ask(&["credit_code"])), "allowed");
    gate.publish(vec![Update::Backflow(Arc::new(BackflowView { revoked: Some((NOW, "调整".into())), ..first }))]);
    assert_eq!(word(&gate, COUNTY, ask(&[])), "list_revoked");
    assert_eq!(gate.follow(&peer(COUNTY), ask(&[])).map(drop).unwrap_err().code(), CloseCode::Suspended);
}

#[test]
fn every_stop_and_a_revocation_end_what_runs() {
    let rows = row("to_duties = [\"市场监管\"]", "");
    let agent = peer(COUNTY).agent;
    for selector in [
        Selector::All,
        Selector::Agency(agent.agency),
        Selector::Agent(agent),
        Selector::Entry(EntryId::from_bits(1)),
        Selector::List(ListId::from_bits(1)),
    ] {
        let gate = world(&[list(1, 1, &rows)]);
        let mut permit = gate.follow(&peer(COUNTY), ask(&[])).unwrap();
        permit.renew().unwrap();
        let stop = StopView { selector: selector.clone(), reason: "事件".into(), since: NOW };
        gate.publish(vec![Update::Stop(stop)]);
        assert_eq!(permit.leash().check().unwrap_err().word, "stopped", "{selector:?}");
        assert_eq!(permit.renew().unwrap_err().word(), "stopped");
        assert_eq!(word(&gate, COUNTY, ask(&[])), "stopped");
    }
    let gate = world(&[list(1, 1, &rows)]);
    let permit = gate.follow(&peer(COUNTY), ask(&[])).unwrap();
    gate.publish(vec![Update::Backflow(Arc::new(BackflowView {
        revoked: Some((NOW, "调整".into())),
        ..list(1, 1, &rows)
    }))]);
    let cut: Cut = permit.leash().check().unwrap_err();
    assert_eq!((cut.word, cut.code), ("list_revoked", CloseCode::Suspended));
}

#[test]
fn another_region_or_other_columns_are_another_slice() {
    let rows = row("to_duties = [\"市场监管\"]", "");
    let gate = world(&[list(1, 1, &rows)]);
    let mut permit = gate.follow(&peer(COUNTY), ask(&[])).unwrap();
    // The root names another region for the department.
    gate.publish(vec![agency(COUNTY, "442000", &["市场监管"])]);
    assert_eq!(permit.renew().unwrap_err().word(), "start_anew");
    let mut permit = gate.follow(&peer(COUNTY), ask(&[])).unwrap();
    // A list that says the same: ask again, and go on.
    gate.publish(vec![Update::Backflow(Arc::new(list(2, 2, &rows)))]);
    assert_eq!(permit.renew().unwrap_err().code(), CloseCode::Draining);
    let again = gate.follow(&peer(COUNTY), ask(&[])).unwrap();
    assert_eq!(again.slice(), permit.slice());
    // A region was merged into it.
    let merged = RegionChange {
        from: "441900003".parse().unwrap(),
        to: "442000001".parse().unwrap(),
        since: "2026-12-31".parse().unwrap(),
        basis: "批复".into(),
    };
    gate.publish(vec![Update::Backflow(Arc::new(BackflowView { region_changes: vec![merged], ..list(3, 3, &rows) }))]);
    let merged = gate.follow(&peer(COUNTY), ask(&[])).unwrap();
    assert_ne!(merged.slice(), permit.slice());
    assert!(merged.allowed().region.contains_text("441900003"));
}

#[test]
fn columns_are_those_that_were_asked_for() {
    let gate = world(&[list(1, 1, &row("to_duties = [\"市场监管\"]", ""))]);
    for columns in [&["credit_code"][..], &["region", "credit_code"], &["credit_code", "region"]] {
        let permit = gate.follow(&peer(COUNTY), ask(columns)).unwrap();
        let mut expected = columns.to_vec();
        // In the entry's order, whatever the order of the question.
        let items = &permit.allowed().entry.spec.items;
        expected.sort_by_key(|name| items.iter().position(|item| item.name == *name));
        assert_eq!(permit.allowed().names(), expected);
    }
}

#[test]
fn an_entry_that_lost_its_regions_or_became_one_of_files_flows_back_to_nobody() {
    let gate = world(&[list(1, 1, &row("to_duties = [\"市场监管\"]", ""))]);
    let entry = gate.follow(&peer(COUNTY), ask(&[])).unwrap().allowed().entry.as_ref().clone();
    let table = ENTRY.replacen("region_column = \"region\"\n", "", 1);
    let files = table.split("[[items]]").next().unwrap().replacen("\"table\"", "\"file\"", 1);
    for terms in [&table, &files] {
        let spec = Arc::new(EntrySpec::parse(terms).unwrap());
        gate.publish(vec![Update::Entry(EntryView { spec, ..entry.clone() })]);
        assert_eq!(word(&gate, COUNTY, ask(&[])), "no_region_column");
    }
}

/// Whoever has all columns goes on with those that an entry gains; whoever chose some does not have what it did not choose.
#[test]
fn a_cursor_of_all_columns_goes_on_when_the_entry_gains_one() {
    let gate = world(&[list(1, 1, &row("to_duties = [\"市场监管\"]", ""))]);
    let of = |columns: &[&str]| gate.follow(&peer(COUNTY), ask(columns)).unwrap();
    let (before, some) = (of(&[]), of(&["credit_code", "region"]));
    let names: Vec<String> = before.allowed().names().into_iter().map(str::to_owned).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(before.allowed().slice(), of(&names).allowed().slice(), "all of them, named or not");
    let more = format!("{ENTRY}\n[[items]]\nname = \"more\"\ntype = \"string\"\npersonal = false\n");
    let entry =
        EntryView { spec: Arc::new(EntrySpec::parse(&more).unwrap()), ..before.allowed().entry.as_ref().clone() };
    gate.publish(vec![Update::Entry(entry)]);
    let after = of(&[]);
    assert_eq!(after.allowed().names().len(), names.len() + 1);
    assert!(after.allowed().goes_on_from(&before.allowed().slice()));
    assert!(after.allowed().goes_on_from(&after.allowed().slice()));
    assert!(!after.allowed().goes_on_from(&some.allowed().slice()), "columns that it never had");
    // The same names are not all any more: what a cursor of all goes on with is not what this one has.
    let chosen = of(&names);
    assert_ne!(chosen.allowed().slice(), before.allowed().slice());
    assert!(!chosen.allowed().goes_on_from(&before.allowed().slice()));
    assert!(of(&["credit_code", "region"]).allowed().goes_on_from(&some.allowed().slice()), "some stay some");
}

#[test]
fn a_drain_is_heard() {
    let gate = world(&[list(1, 1, &row("to_duties = [\"市场监管\"]", ""))]);
    let mut permit = gate.follow(&peer(COUNTY), ask(&[])).unwrap();
    assert_eq!(permit.drained().now_or_never(), None, "nobody said it");
    gate.drain();
    assert_eq!(permit.drained().now_or_never(), Some(()));
    assert_eq!(permit.renew().unwrap_err().code(), CloseCode::Draining);
    assert_eq!(word(&gate, COUNTY, ask(&[])), "draining");
}
