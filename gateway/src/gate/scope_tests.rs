//! Each dimension of a scope, judged by the gate: what is inside is allowed, what is outside is denied by name.

#![allow(clippy::unwrap_used)]

use super::*;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{EntryId, GrantId};
use lingqu_protocol::predicate::{Predicate, Value};
use lingqu_protocol::scope::{ApplicationSpec, Transform};
use std::sync::Mutex;

const REQUESTER: &str = "91512081MA62K0260E";
const ENTRY: EntryId = EntryId::from_bits(1);
const GRANT: GrantId = GrantId::from_bits(2);

/// 2027-01-01, within the period.
const NOW: Timestamp = Timestamp(1_798_732_800_000);

const TERMS: &str = r#"
name = "n"
abstract = "a"
format = "table"
update_frequency = "daily"
sharing_class = "unconditional"
sharing_methods = ["batch_exchange", "file_download"]
region_column = "region"
grade = "general-2"
items = [
  { name = "region", type = "string", personal = false },
  { name = "id", type = "int64", key = true, personal = true },
  { name = "address.city", type = "string", personal = true },
  { name = "address.street", type = "string", personal = true },
  { name = "note", type = "string", personal = false },
]
"#;

const APPLICATION: &str = r#"
entry = "x"
basis = "b"
scenario = "s"
purposes = ["p"]
columns = ["region", "id", "address", "note"]
where = "note != 'secret'"
methods = ["batch_exchange", "file_download"]
from = 2026-12-01
until = 2027-06-30
"#;

struct HandClock(Mutex<Timestamp>);

impl Clock for HandClock {
    fn wall(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
    fn monotonic(&self) -> Duration {
        Duration::from_secs(1)
    }
}

struct World {
    gate: Gate,
}

fn peer(name: &str) -> Peer {
    Peer { agent: format!("{REQUESTER}/{name}").parse().unwrap(), address: "127.0.0.1".parse().unwrap() }
}

fn ask() -> Ask {
    Ask { target: Target::Grant(GRANT), columns: vec![], rows: None, region: None, purpose: None }
}

impl World {
    /// A grant under the usual application with more keys, of an entry with these terms.
    fn new(keys: &str, terms: &str) -> Self {
        let gate = Gate::new(Arc::new(HandClock(Mutex::new(NOW))));
        let mut updates = vec![Update::Agency(AgencyView::of_province(REQUESTER))];
        updates.extend(["a", "b"].map(|name| Update::Agent(AgentView { id: peer(name).agent, blocked: None })));
        gate.publish(updates);
        gate.refresh(Duration::from_secs(5));
        let world = Self { gate };
        world.terms(terms);
        world.grant(&format!("{APPLICATION}{keys}"));
        world
    }

    /// The grant under an application for an entry of the usual terms.
    fn grant(&self, application: &str) {
        let scope = ApplicationSpec::parse(application).unwrap().scope;
        self.gate.publish(vec![Update::Grant(GrantView {
            id: GRANT,
            entry: ENTRY,
            requester: REQUESTER.parse().unwrap(),
            scope: Arc::new(scope.resolved(&EntrySpec::parse(TERMS).unwrap())),
            status: GrantStatus::InForce,
            digest: Digest::blake3(application.as_bytes()),
        })]);
    }

    fn terms(&self, terms: &str) {
        let spec = Arc::new(EntrySpec::parse(terms).unwrap());
        let provider = "91350100M000100Y43".parse().unwrap();
        self.gate.publish(vec![Update::Entry(EntryView { id: ENTRY, code: None, provider, spec, published: true })]);
    }

    fn word(&self, who: &str, change: impl FnOnce(&mut Ask)) -> &'static str {
        let mut ask = ask();
        change(&mut ask);
        self.gate.pull(&peer(who), &ask).map_or_else(|denied| denied.word(), |_| "allowed")
    }

    fn columns(&self, change: impl FnOnce(&mut Ask)) -> Vec<usize> {
        let mut ask = ask();
        change(&mut ask);
        self.gate.pull(&peer("a"), &ask).unwrap().columns().to_vec()
    }

    /// Whether a row with this region and note would leave.
    fn gives(&self, region: &str, note: &str, change: impl FnOnce(&mut Ask)) -> bool {
        let mut ask = ask();
        change(&mut ask);
        let permit = self.gate.pull(&peer("a"), &ask).unwrap();
        let row = |place: usize| match place {
            0 => Value::String(region.into()),
            4 => Value::String(note.into()),
            _ => Value::Null,
        };
        permit.rows().is_none_or(|rows| rows.eval_row(&row) == Some(true))
    }
}

#[test]
fn only_listed_agents_of_the_requester_may_use_it() {
    let world = World::new("agents = [\"b\"]", TERMS);
    assert_eq!(world.word("b", |_| {}), "allowed");
    assert_eq!(world.word("a", |_| {}), "agent_outside_scope");
    let denied = world.gate.pull(&peer("a"), &ask()).unwrap_err();
    assert!(denied.fault().text.contains("agent (a)") && denied.fault().text_zh.contains("代理（a）"));
    assert_eq!(World::new("", TERMS).word("a", |_| {}), "allowed");
}

/// The word that a request by key ends with.
fn by_key(world: &World, who: &str, change: impl FnOnce(&mut Ask)) -> &'static str {
    let mut ask = ask();
    change(&mut ask);
    world.gate.service(&peer(who), &ask).map_or_else(|denied| denied.word(), |_| "allowed")
}

#[test]
fn records_by_key_are_a_method_of_their_own_and_need_a_key_in_clear() {
    let terms = TERMS.replace("\"file_download\"]", "\"file_download\", \"service_interface\"]");
    let service = "methods = [\"service_interface\"]";
    let with = |keys: &str| {
        // The usual application has methods of its own.
        let world = World::new("", &terms);
        let text = APPLICATION.replace("methods = [\"batch_exchange\", \"file_download\"]", "");
        world.grant(&format!("{text}{keys}"));
        world
    };
    let world = with(service);
    assert_eq!((by_key(&world, "a", |_| {}), world.word("a", |_| {})), ("allowed", "method_outside_scope"));
    let permit = world.gate.service(&peer("a"), &ask()).unwrap();
    assert!(permit.rows().is_some(), "the provider's condition holds for single records too");
    assert_eq!(by_key(&World::new("", &terms), "a", |_| {}), "method_outside_scope");
    assert_eq!(by_key(&world, "a", |a| a.columns = vec!["secret".into()]), "columns_outside_scope");
    assert_eq!(by_key(&world, "a", |a| a.purpose = Some("x".into())), "purpose_outside_scope");
    assert_eq!(by_key(&world, "nobody", |_| {}), "unknown_agent");
    assert_eq!(by_key(&world, "a", |a| a.target = Target::Grant(GrantId::from_bits(9))), "grant_not_found");
    let mut other = peer("a");
    other.agent = "91350100M000100Y43/a".parse().unwrap();
    assert_eq!(world.gate.service(&other, &ask()).unwrap_err().word(), "unknown_agent");
    for transform in ["pseudonym", "drop"] {
        let hidden = with(&format!("{service}\n[transforms]\nid = \"{transform}\""));
        assert_eq!(by_key(&hidden, "a", |_| {}), "predicate_outside_scope", "{transform}");
    }
    let agents = with(&format!("{service}\nagents = [\"b\"]"));
    assert_eq!((by_key(&agents, "a", |_| {}), by_key(&agents, "b", |_| {})), ("agent_outside_scope", "allowed"));
    let networks = with(&format!("{service}\nnetworks = [\"10.0.0.0/8\"]"));
    assert_eq!(by_key(&networks, "a", |_| {}), "network_outside_scope");
    // The entry loses its key, its rows, or its place in the catalogue.
    world.terms(&terms.replace("key = true, ", ""));
    assert_eq!(by_key(&world, "a", |_| {}), "no_key");
    world.terms(&terms);
    assert_eq!(by_key(&world, "a", |_| {}), "allowed");
    world.gate.close(ClosedWhy::LedgerFailed);
    assert_eq!(world.gate.service(&peer("a"), &ask()).unwrap_err().code(), lingqu_protocol::close::CloseCode::Closed);
}

#[test]
fn regions_and_conditions_both_hold_whatever_is_asked() {
    let world = World::new("regions = [\"4403\", \"441900\"]", TERMS);
    for (region, note, given) in [
        ("440304", "x", true),
        ("4403", "x", true),
        ("440304001", "x", true),
        ("441900", "x", true),
        ("441900003", "x", true),
        ("4419", "x", false),
        ("44", "x", false),
        ("442000", "x", false),
        ("440303", "secret", false),
        ("999999", "x", false),
    ] {
        assert_eq!(world.gives(region, note, |_| {}), given, "{region} {note}");
        let all = |ask: &mut Ask| ask.region = Some("44".parse().unwrap());
        assert_eq!(world.gives(region, note, all), given, "{region} {note}, of a region that is larger");
        let any = |ask: &mut Ask| ask.rows = Some(Predicate::parse("region is not null or note is null").unwrap());
        assert_eq!(world.gives(region, note, any), given, "{region} {note}, of all rows");
    }
    let none = |ask: &mut Ask| ask.region = Some("11".parse().unwrap());
    assert!(!world.gives("440304", "x", none) && !world.gives("110101", "x", none));
}

#[test]
fn a_leaf_is_named_by_its_path_and_by_nothing_else() {
    let world = World::new("", TERMS);
    assert_eq!(world.columns(|_| {}), [0, 1, 2, 3, 4]);
    assert_eq!(world.columns(|a| a.columns = vec!["address.street".into(), "id".into()]), [3, 1]);
    for name in [
        "address",
        "Address.city",
        "address.City",
        "\"address.city\"",
        "address.",
        "city",
        "address.zip",
        "address .city",
    ] {
        let word = world.word("a", |a| a.columns = vec![name.into()]);
        assert_eq!(word, "columns_outside_scope", "{name}");
    }
    // The entry gets another leaf: it was not granted.
    let more = TERMS.replacen(
        "{ name = \"note\"",
        "{ name = \"address.zip\", type = \"string\", personal = true },\n  { name = \"note\"",
        1,
    );
    world.terms(&more);
    assert_eq!(world.columns(|_| {}), [0, 1, 2, 3, 5]);
    assert_eq!(world.word("a", |a| a.columns = vec!["address.zip".into()]), "columns_outside_scope");
}

const TRANSFORMS: &str = "[transforms]\nid = \"pseudonym\"\naddress.city = \"mask(1,0)\"\naddress.street = \"drop\"";

#[test]
fn what_is_dropped_is_no_column_and_the_rest_is_told_to_the_flow() {
    let world = World::new(TRANSFORMS, TERMS);
    let permit = world.gate.pull(&peer("a"), &ask()).unwrap();
    assert_eq!(permit.columns(), [0, 1, 2, 4]);
    let all: Vec<_> = (0..5).map(|place| permit.transform(place)).collect();
    let mask = Transform::Mask { prefix: 1, suffix: 0 };
    assert_eq!(all, [None, Some(Transform::Pseudonym), Some(mask), None, None]);
    let asked = Ask { columns: vec!["note".into(), "address.city".into()], ..ask() };
    let permit = world.gate.pull(&peer("a"), &asked).unwrap();
    assert_eq!((permit.transform(0), permit.transform(1)), (None, Some(mask)));
    let denied = world.gate.pull(&peer("a"), &Ask { columns: vec!["address.street".into()], ..ask() }).unwrap_err();
    assert_eq!(denied.word(), "columns_outside_scope");
    assert!(!denied.fault().text.contains("granted: region, id, address.city, address.street"));
}

#[test]
fn a_condition_on_what_is_not_in_clear_is_an_oracle() {
    let world = World::new(TRANSFORMS, TERMS);
    for (oracle, word) in [
        ("note = 'x'", "allowed"),
        ("region within '4403' or note is null", "allowed"),
        ("id = 5", "predicate_outside_scope"),
        ("note = 'x' and not (id between 1 and 9)", "predicate_outside_scope"),
        ("address.city is null", "predicate_outside_scope"),
        ("\"address.city\" in ('a')", "predicate_outside_scope"),
        ("address.street = 'x'", "predicate_outside_scope"),
        ("NOTE = 'x'", "predicate_outside_scope"),
        ("address = 'x'", "predicate_outside_scope"),
    ] {
        assert_eq!(world.word("a", |a| a.rows = Some(Predicate::parse(oracle).unwrap())), word, "{oracle}");
    }
    // The same where nothing but the region column is changed, for a region that is named.
    for transform in ["mask", "pseudonym", "drop"] {
        let world = World::new(&format!("[transforms]\nregion = \"{transform}\""), TERMS);
        assert_eq!(world.word("a", |a| a.region = Some("4403".parse().unwrap())), "predicate_outside_scope");
        assert_eq!(world.word("a", |_| {}), "allowed");
    }
    // The provider's own condition may name what it hides.
    let world = World::new("[transforms]\nnote = \"drop\"", TERMS);
    assert!(world.gives("4403", "x", |_| {}) && !world.gives("4403", "secret", |_| {}));
}

#[test]
fn an_entry_that_changed_gives_no_more_than_was_granted() {
    let world = World::new(&format!("regions = [\"44\"]\n{TRANSFORMS}"), TERMS);
    world.terms(&TERMS.replacen("type = \"int64\", key = true", "type = \"date\", key = true", 1));
    assert_eq!(world.word("a", |_| {}), "transform_unfit");
    assert_eq!(world.word("a", |a| a.columns = vec!["note".into()]), "allowed");
    world.terms(&TERMS.replacen("region_column = \"region\"\n", "", 1));
    assert_eq!(world.word("a", |a| a.columns = vec!["note".into()]), "column_gone");
    world.terms(&files());
    assert_eq!(world.word("a", |_| {}), "column_gone");
}

/// The terms as those of an entry of files.
fn files() -> String {
    let terms = TERMS.split("items").next().unwrap().replacen("region_column = \"region\"\n", "", 1);
    terms.replacen("format = \"table\"", "format = \"file\"", 1)
}

#[test]
fn files_leave_whole_or_not_at_all() {
    let world = World::new("", &files());
    let of_rows = APPLICATION.replace("columns = [\"region\", \"id\", \"address\", \"note\"]\n", "");
    world.grant(&of_rows);
    assert_eq!(world.word("a", |_| {}), "column_gone", "a grant of some rows of what was a table");
    world.grant(&of_rows.replace("where = \"note != 'secret'\"\n", ""));
    let permit = world.gate.pull(&peer("a"), &ask()).unwrap();
    assert!(permit.columns().is_empty() && permit.rows().is_none());
    for narrower in [
        (|a| a.columns = vec!["note".into()]) as fn(&mut Ask),
        |a| a.rows = Some(Predicate::parse("note = 'x'").unwrap()),
        |a| a.region = Some("4403".parse().unwrap()),
    ] {
        assert_eq!(world.word("a", narrower), "no_columns_in_files");
    }
}

#[test]
fn a_purpose_is_the_only_one_or_the_one_that_is_named() {
    let world = World::new("", TERMS);
    assert_eq!(world.gate.pull(&peer("a"), &ask()).unwrap().purpose(), "p");
    world.grant(&APPLICATION.replace("purposes = [\"p\"]", "purposes = [\"p\", \"q\"]"));
    assert_eq!(world.word("a", |_| {}), "purpose_needed");
    assert_eq!(world.word("a", |a| a.purpose = Some("r".into())), "purpose_outside_scope");
    for purpose in ["p", "q"] {
        let named = Ask { purpose: Some(purpose.into()), ..ask() };
        assert_eq!(world.gate.pull(&peer("a"), &named).unwrap().purpose(), purpose);
    }
}

#[test]
fn what_was_used_before_a_restart_counts_after_it() {
    let world = World::new("volume_bytes_max = 1_000\nrequests_per_day_max = 3\n", TERMS);
    let used = Used { bytes: 700, day: 20_000, requests: 2 };
    world.gate.restore_used(Under::Grant(GRANT), used);
    let permit = world.gate.pull(&peer("a"), &ask()).unwrap();
    let limits =
        Limits { volume_bytes_max: Some(1_000), rate_bytes_per_second_max: None, requests_per_day_max: Some(3) };
    assert_eq!((permit.under(), permit.quota().limits()), (Under::Grant(GRANT), limits));
    assert_eq!((permit.quota().used(), permit.quota().reserve(900)), (used, 300));
}

#[test]
fn limits_of_a_grant_are_shared_by_its_permits() {
    let world = World::new("volume_bytes_max = 1_000\nrequests_per_day_max = 3\n", TERMS);
    let [one, other] = ["a", "b"].map(|who| world.gate.pull(&peer(who), &ask()).unwrap());
    assert_eq!(one.quota().reserve(900), 900);
    assert_eq!(other.quota().reserve(900), 100);
    assert!(one.quota().count_request(1) && other.quota().count_request(1) && one.quota().count_request(1));
    assert!(!other.quota().count_request(1) && other.quota().count_request(2));
    for denied in [Denied::Volume { bytes_max: 1_000 }, Denied::Requests { per_day_max: 3 }] {
        assert_eq!(denied.fault().close_code().exit_code(), 3);
    }
}

#[test]
fn what_was_computed_ahead_serves_as_long_as_the_terms_stay() {
    let world = World::new("", TERMS);
    let is_ahead = || {
        let permit = world.gate.pull(&peer("a"), &ask()).unwrap();
        let scope = &permit.grant().scope;
        let rows = scope.typed_rows().is_some_and(|typed| std::ptr::eq(typed, permit.rows().unwrap()));
        (std::ptr::eq(permit.columns(), scope.places()), rows)
    };
    assert_eq!(is_ahead(), (true, true));
    world.terms(TERMS);
    assert_eq!(is_ahead(), (true, true), "the very same terms");
    let more = TERMS.replace(
        "  { name = \"note\"",
        "  { name = \"address.zip\", type = \"string\", personal = true },\n  { name = \"note\"",
    );
    world.terms(&more);
    assert_eq!(is_ahead(), (false, false));
    // The same terms of the grant, kept anew: nothing of what was computed for the entry as it stood.
    for _ in 0..2 {
        let permit = world.gate.pull(&peer("a"), &ask()).unwrap();
        assert_eq!(permit.columns(), [0, 1, 2, 3, 5]);
        let of = |note: &str| {
            let row = |place: usize| if place == 5 { Value::String(note.into()) } else { Value::Null };
            permit.rows().unwrap().eval_row(&row)
        };
        assert_eq!((of("x"), of("secret")), (Some(true), Some(false)));
        world.grant(APPLICATION);
        assert_eq!(is_ahead(), (true, true));
    }
}

#[test]
fn an_entry_that_is_withdrawn_gives_nothing_any_more() {
    let world = World::new("", &TERMS.replace("\"file_download\"", "\"service_interface\""));
    world.grant(&APPLICATION.replace("\"file_download\"", "\"service_interface\""));
    let entry = world.gate.snapshot().entry(&ENTRY).unwrap().as_ref().clone();
    let words = || {
        let by_code = Ask { target: Target::Entry(ENTRY.to_string()), ..ask() };
        let pull = |ask: &Ask| world.gate.pull(&peer("a"), ask).map_or_else(|denied| denied.word(), |_| "allowed");
        let service = world.gate.service(&peer("a"), &ask()).map_or_else(|denied| denied.word(), |_| "allowed");
        [pull(&ask()), pull(&by_code), service]
    };
    assert_eq!(words(), ["allowed"; 3]);
    world.gate.publish(vec![Update::Entry(EntryView { published: false, ..entry })]);
    assert_eq!(words(), ["entry_not_published", "entry_not_found", "entry_not_published"]);
}
