//! The model test: random requests against random scopes, judged by the gate and by a naive [`reference`], which must agree
//! on each; of what was allowed, the rows that the gate would let out and, for a sample, the rows that the lake's reader and
//! the transforms give are compared cell by cell.
//!
//! `LINGQU_CASES` says how many requests, `LINGQU_SEED` with which seed; a failure prints both, and the round.

mod random;
mod reference;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int32Type, Int64Type};
use chrono::NaiveDate;
use lingqu_gateway::flow::pseudonym::PseudonymSecret;
use lingqu_gateway::flow::transform::Transforming;
use lingqu_gateway::gate::{
    AgencyView, AgentView, Ask, EntryView, Gate, GrantStatus, GrantView, Peer, Permit, PullPermit, Target, Update,
};
use lingqu_gateway::lake::local::LocalStore;
use lingqu_gateway::lake::manifest::TableManifest;
use lingqu_gateway::lake::reader::TableReader;
use lingqu_gateway::lake::store::Lake;
use lingqu_gateway::lake::writer::{TableWriter, WriterBudget};
use lingqu_protocol::columns::{arrow_schema, projected_schema};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::host::{Clock, Timestamp};
use lingqu_protocol::ids::{EntryId, GrantId, TransferId};
use lingqu_protocol::predicate::{Predicate, Value};
use lingqu_protocol::region::RegionLevel;
use lingqu_protocol::scope::{ApplicationSpec, day_of};
use lingqu_tests::faults::disk::FakeDisk;
use lingqu_tests::faults::rng::Rng;
use random::{AGENTS, OTHER, REQUESTERS, grant, request, row};
use reference::{Cell, Grant, Request, SECRET, Status, Table, day_in_china};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Requests in an ordinary run: all of them where the program is optimised, which takes seconds, and a twentieth where it
/// is not, which takes as long.
const CASES: u64 = if cfg!(debug_assertions) { 5_000 } else { 100_000 };

/// Requests of one round, against grants of its own.
const CASES_A_ROUND: u64 = 200;

/// Of what is allowed, one in so many is read from the lake: most of the time goes there.
const READ_ONE_IN: u64 = 4;

/// Rows of a table: enough for several parts and row groups of several regions.
const ROWS: usize = 160;

const PROVIDER: &str = "91350100M000100Y43";

#[derive(Debug)]
struct HandClock(Mutex<Timestamp>);

impl Clock for HandClock {
    fn wall(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
    fn monotonic(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// The entries, their tables in the lake, and the secret of the pseudonyms.
struct Ground {
    specs: Vec<Arc<EntrySpec>>,
    tables: Vec<Table>,
    manifests: Vec<Option<Arc<TableManifest>>>,
    lake: Lake,
    secret: PseudonymSecret,
}

/// What was seen, so that a test that sees nothing of a kind fails.
#[derive(Debug, Default)]
struct Seen {
    allowed: u64,
    read: u64,
    rows: u64,
    words: std::collections::BTreeMap<&'static str, u64>,
}

fn spec(place: usize, table: &Table) -> EntrySpec {
    let items: String = table
        .columns
        .iter()
        .map(|(name, number)| {
            let kind = match (*number, *name) {
                (false, _) => "string",
                (true, "staff") => "int32",
                (true, _) => "int64",
            };
            format!("[[items]]\nname = \"{name}\"\ntype = \"{kind}\"\npersonal = false\n")
        })
        .collect();
    let format = if table.columns.is_empty() { "file" } else { "table" };
    let region = table.region.map_or(String::new(), |column| format!("region_column = \"{column}\"\n"));
    let text = format!(
        "name = \"n\"\ncode = \"307010/{:06}\"\nabstract = \"a\"\nformat = \"{format}\"\nupdate_frequency = \"daily\"\n\
         sharing_class = \"unconditional\"\nsharing_methods = [\"batch_exchange\", \"file_download\", \"service_interface\"]\n{region}\
         grade = \"general-1\"\n{items}",
        place + 1
    );
    EntrySpec::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn batch(spec: &EntrySpec, table: &Table) -> RecordBatch {
    let column = |(name, _): &(&'static str, bool)| -> ArrayRef {
        let cells = table.rows.iter().map(|row| &row[name]);
        let number = |cell: &Cell| match cell {
            Cell::Int(n) => Some(*n),
            _ => None,
        };
        match *name {
            "staff" => Arc::new(Int32Array::from_iter(cells.map(|c| number(c).map(|n| n as i32)))),
            "visits" => Arc::new(Int64Array::from_iter(cells.map(number))),
            _ => Arc::new(StringArray::from_iter(cells.map(|cell| match cell {
                Cell::Text(text) => Some(text.as_str()),
                _ => None,
            }))),
        }
    };
    RecordBatch::try_new(arrow_schema(spec), table.columns.iter().map(column).collect()).unwrap()
}

impl Ground {
    async fn new(rng: &mut Rng) -> Self {
        let columns = vec![
            ("region", false),
            ("code", false),
            ("owner", false),
            ("address.city", false),
            ("address.at.street", false),
            ("address.at.number", false),
            ("addressee", false),
            ("staff", true),
            ("visits", true),
        ];
        let rows = |rng: &mut Rng, region| (0..ROWS).map(|i| row(rng, i, region)).collect();
        let tables = vec![
            Table { columns: columns.clone(), region: Some("region"), rows: rows(rng, true) },
            Table { columns, region: None, rows: rows(rng, false) },
            Table { columns: Vec::new(), region: None, rows: Vec::new() },
        ];
        let specs: Vec<_> = tables.iter().enumerate().map(|(i, table)| Arc::new(spec(i, table))).collect();
        let disk = FakeDisk::new(1 << 30, 1);
        let lake = Lake::new(Arc::new(LocalStore::open(Arc::new(disk), "/lake").unwrap()));
        let mut manifests = Vec::new();
        for (place, (spec, table)) in specs.iter().zip(&tables).enumerate() {
            if table.columns.is_empty() {
                manifests.push(None);
                continue;
            }
            // Short runs, so that there are several parts.
            let budget = WriterBudget::with_run_bytes(4 << 10, 2, 1);
            let transfer = TransferId::from_bits(place as u128);
            let mut writer = TableWriter::start(lake.clone(), budget, transfer, spec).await.unwrap();
            let rows = batch(spec, table);
            for start in (0..ROWS).step_by(20) {
                writer.write(rows.slice(start, 20)).await.unwrap();
            }
            let (manifest, _) = writer.finish(None).await.unwrap();
            assert!(manifest.parts.len() > 1, "{} parts", manifest.parts.len());
            manifests.push(Some(Arc::new(manifest)));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pseudonym.key");
        let digits = lingqu_protocol::digest::to_hex(&SECRET);
        std::fs::write(&path, format!("lingqu-pseudonym-secret-1:{digits}\n")).unwrap();
        let secret = PseudonymSecret::load(&path).unwrap().unwrap();
        Self { specs, tables, manifests, lake, secret }
    }

    /// The rows that a permit lets out of the lake, as text, sorted.
    async fn read(&self, permit: &PullPermit, entry: usize) -> Vec<Vec<String>> {
        let (spec, manifest) = (&self.specs[entry], self.manifests[entry].clone().unwrap());
        let names: Vec<&str> = permit.columns().iter().map(|place| spec.items[*place].name.as_str()).collect();
        let mut reader = TableReader::open(self.lake.clone(), manifest, &names, permit.rows().cloned()).unwrap();
        let key = self.secret.key(permit.under()).unwrap();
        let schema = projected_schema(spec, permit.columns());
        let transforming = Transforming::new(&schema, |place| permit.transform(place), key).unwrap();
        let mut rows = Vec::new();
        while let Some(batch) = reader.next().await.unwrap() {
            let batch = transforming.apply(&batch).unwrap();
            for row in 0..batch.num_rows() {
                rows.push(batch.columns().iter().map(|column| text(column, row)).collect());
            }
        }
        rows.sort();
        rows
    }
}

fn text(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "∅".to_owned();
    }
    if let Some(texts) = column.as_string_opt::<i32>() {
        return texts.value(row).to_owned();
    }
    match column.as_primitive_opt::<Int64Type>() {
        Some(numbers) => numbers.value(row).to_string(),
        None => column.as_primitive::<Int32Type>().value(row).to_string(),
    }
}

/// A gate and what the reference knows of its grants.
struct Round {
    gate: Gate,
    clock: Arc<HandClock>,
    grants: Vec<Grant>,
}

fn entry_id(place: usize) -> EntryId {
    EntryId::from_bits(place as u128 + 1)
}

impl Round {
    fn new(rng: &mut Rng, ground: &Ground, number: u64) -> Self {
        let clock = Arc::new(HandClock(Mutex::new(Timestamp(0))));
        let gate = Gate::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let mut updates = Vec::new();
        for code in REQUESTERS.into_iter().chain([OTHER, PROVIDER]) {
            updates.push(Update::Agency(AgencyView {
                code: code.parse().unwrap(),
                name: code.into(),
                region: "44".parse().unwrap(),
                level: RegionLevel::Province,
                duties: [].into(),
                authority: false,
            }));
            let ids = AGENTS.map(|name| format!("{code}/{name}").parse().unwrap());
            updates.extend(ids.map(|id| Update::Agent(AgentView { id, blocked: None })));
        }
        for (place, spec) in ground.specs.iter().enumerate() {
            updates.push(Update::Entry(EntryView {
                id: entry_id(place),
                code: spec.code.as_ref().map(ToString::to_string),
                provider: PROVIDER.parse().unwrap(),
                spec: Arc::clone(spec),
                published: true,
            }));
        }
        let mut grants = Vec::new();
        for requester in REQUESTERS {
            for entry in 0..ground.tables.len() {
                let id = GrantId::from_bits(u128::from(number) << 8 | grants.len() as u128);
                let grant = grant(rng, id.to_string(), requester, entry, &ground.tables[entry]);
                updates.push(Update::Grant(view(&grant, id, &ground.specs[entry])));
                grants.push(grant);
            }
        }
        gate.publish(updates);
        gate.refresh(Duration::from_secs(5));
        Self { gate, clock, grants }
    }

    /// One request, judged by both.
    async fn case(&mut self, rng: &mut Rng, ground: &Ground, seen: &mut Seen) {
        let grant = &mut self.grants[rng.below((REQUESTERS.len() * ground.tables.len()) as u64) as usize];
        let table = &ground.tables[grant.entry];
        let request = request(rng, grant, table);
        *self.clock.0.lock().unwrap() = Timestamp(request.at_ms);
        let reasons = grant.reasons(&request, table);
        let peer = Peer {
            agent: format!("{}/{}", request.agency, request.agent).parse().unwrap(),
            address: request.address.into(),
        };
        let judged = self.gate.pull(&peer, &ask(rng, grant, &request));
        let before = grant.clone();
        let told = || format!("{request:#?}\n{before:#?}");
        let permit = match judged {
            Err(denied) => {
                assert!(
                    reasons.contains(denied.word()),
                    "denied as {}, and not {reasons:?}: {}",
                    denied.word(),
                    told()
                );
                *seen.words.entry(denied.word()).or_default() += 1;
                return;
            }
            Ok(permit) => permit,
        };
        assert!(reasons.is_empty(), "allowed, and not {reasons:?}: {}", told());
        seen.allowed += 1;
        let spec = &ground.specs[grant.entry];
        assert_eq!(permit.entry().id, entry_id(grant.entry));
        assert_eq!(permit.purpose(), request.purpose.unwrap_or(grant.purposes[0]));
        let names: Vec<&str> = permit.columns().iter().map(|place| spec.items[*place].name.as_str()).collect();
        let delivered = grant.delivered(&request, table);
        assert_eq!(names, delivered, "{}", told());
        let given: Vec<_> = table.rows.iter().filter(|row| grant.gives(&request, table, row)).collect();
        for row in &table.rows {
            let cell = |place: usize| match &row[spec.items[place].name.as_str()] {
                Cell::Null => Value::Null,
                Cell::Text(text) => Value::String(text.clone()),
                Cell::Int(n) if spec.items[place].name == "staff" => Value::Int32(*n as i32),
                Cell::Int(n) => Value::Int64(*n),
            };
            let lets_out = permit.rows().is_none_or(|rows| rows.eval_row(&cell) == Some(true));
            assert_eq!(lets_out, given.contains(&row), "{row:?}: {}", told());
        }
        account(rng, grant, &request, &permit);
        if !table.columns.is_empty() && rng.one_in(READ_ONE_IN) {
            let mut expected: Vec<Vec<String>> =
                given.iter().map(|row| delivered.iter().map(|leaf| grant.shown(leaf, &row[leaf])).collect()).collect();
            expected.sort();
            assert_eq!(ground.read(&permit, grant.entry).await, expected, "{}", told());
            seen.read += 1;
            seen.rows += expected.len() as u64;
        }
    }
}

/// Bytes and requests, counted by both.
fn account(rng: &mut Rng, grant: &mut Grant, request: &Request, permit: &PullPermit) {
    let (used, day, requests) = &mut grant.used;
    let today = day_in_china(request.at_ms);
    if today > *day {
        (*day, *requests) = (today, 0);
    }
    let may = grant.per_day.is_none_or(|max| *requests < max);
    if grant.per_day.is_some() {
        assert_eq!(permit.quota().count_request(day_of(Timestamp(request.at_ms))), may, "{grant:?}");
        *requests += u64::from(may);
    }
    if let Some(max) = grant.volume {
        let wanted = rng.below(max / 4 + 2);
        let got = wanted.min(max - *used);
        let reserved = permit.quota().reserve(wanted);
        assert!(reserved >= got && *used + reserved <= max, "{reserved} of {wanted}: {max} - {used}");
        permit.quota().release(reserved - got);
        *used += got;
        assert_eq!(permit.quota().used().bytes, *used);
    }
}

fn ask(rng: &mut Rng, grant: &Grant, request: &Request) -> Ask {
    let code = format!("307010/{:06}", grant.entry + 1);
    let target = match (request.by_entry, rng.one_in(2)) {
        (false, _) => Target::parse(&grant.id),
        (true, true) => Target::parse(&code),
        (true, false) => Target::parse(&entry_id(grant.entry).to_string()),
    };
    Ask {
        target,
        columns: request.columns.clone(),
        rows: request.rows.as_ref().map(|cond| Predicate::parse(&cond.text()).unwrap()),
        region: request.region.as_ref().map(|code| code.parse().unwrap()),
        purpose: request.purpose.map(str::to_owned),
    }
}

/// A grant as the gate knows it: by way of the file that an officer would sign.
fn view(grant: &Grant, id: GrantId, spec: &EntrySpec) -> GrantView {
    let toml = random::application(grant);
    let scope = ApplicationSpec::parse(&toml).unwrap_or_else(|e| panic!("{e}\n{toml}")).scope;
    scope.check(spec).unwrap_or_else(|e| panic!("{e}\n{toml}"));
    let (reason, since) = ("r".to_owned(), Timestamp(0));
    GrantView {
        id,
        entry: entry_id(grant.entry),
        requester: grant.requester.parse().unwrap(),
        scope: Arc::new(scope.resolved(spec)),
        status: match grant.status {
            Status::InForce => GrantStatus::InForce,
            Status::Suspended => GrantStatus::Suspended { reason, since },
            Status::Terminated => GrantStatus::Terminated { reason, since },
        },
        digest: Digest::blake3(toml.as_bytes()),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[tokio::test]
async fn the_gate_and_the_lake_do_what_the_reference_says() {
    let cases = number("LINGQU_CASES").unwrap_or(CASES);
    let seed = number("LINGQU_SEED").unwrap_or(20_261_121);
    println!("LINGQU_SEED={seed} LINGQU_CASES={cases}");
    let ground = Ground::new(&mut Rng::new(seed)).await;
    let mut seen = Seen::default();
    for round in 0..cases.div_ceil(CASES_A_ROUND) {
        // Each round from a seed of its own, so that one can be looked at alone.
        let mut rng = Rng::new(seed.wrapping_mul(1_000_003).wrapping_add(round));
        let mut world = Round::new(&mut rng, &ground, round);
        for _ in 0..CASES_A_ROUND.min(cases - round * CASES_A_ROUND) {
            world.case(&mut rng, &ground, &mut seen).await;
        }
    }
    println!("{seen:?}");
    assert!(seen.allowed * 8 > cases && seen.read * 50 > cases && seen.rows > seen.read, "{seen:?}");
    for word in [
        "grant_not_found",
        "no_grant",
        "grant_suspended",
        "grant_terminated",
        "period_not_begun",
        "period_ended",
        "network_outside_scope",
        "agent_outside_scope",
        "method_outside_scope",
        "purpose_outside_scope",
        "purpose_needed",
        "no_columns_in_files",
        "columns_outside_scope",
        "column_twice",
        "predicate_outside_scope",
        "no_region_column",
    ] {
        assert!(seen.words.get(word).is_some_and(|n| *n > 0), "nothing was denied as {word}: {seen:?}");
    }
}

/// The first day of the periods, on which and around which requests are made.
pub(crate) fn day(offset: i64) -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 12, 1).unwrap() + chrono::TimeDelta::days(offset)
}
