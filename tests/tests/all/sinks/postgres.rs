//! Tables of a real PostgreSQL.

use super::contract;
use super::model::{ENTRY, Model, batch, held, shape};
use lingqu_agent::backflow::postgres::{PostgresSink, Target};
use lingqu_agent::backflow::{Begin, Mode, Sink};
use lingqu_protocol::changes::Op;
use lingqu_tests::faults::rng::Rng;
use lingqu_tests::world::postgres::{Postgres, postgres};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn table(runtime: &Runtime, url: &str, table: &str) -> Box<dyn Sink> {
    Box::new(PostgresSink::new(Target::parse(url, table).unwrap(), runtime.handle().clone()))
}

#[test]
fn the_suite_holds_for_tables() {
    let (server, runtime) = (postgres(), runtime());
    for (keyed, seed) in [(true, 11), (true, 12), (false, 13)] {
        let name = server.new_table();
        contract(&mut || table(&runtime, &server.url(), &name), keyed, seed);
    }
}

#[test]
fn types_are_the_databases_own_and_values_arrive_as_they_are() {
    let (server, runtime) = (postgres(), runtime());
    let name = server.new_table();
    let mut sink = table(&runtime, &server.url(), &name);
    sink.open(ENTRY).unwrap();
    let mut model = Model::default();
    let version = model.next(&mut Rng::new(4));
    version.hand(&mut *sink, true).unwrap();
    sink.commit(&version.cursor()).unwrap();
    let types = server.sql(&format!(
        "SELECT string_agg(format_type(atttypid, atttypmod), ' ' ORDER BY attnum) FROM pg_attribute \
         WHERE attrelid = '\"{name}\"'::regclass AND attnum > 0"
    ));
    let expected = "bigint text numeric(20,3) date timestamp with time zone boolean double precision bytea";
    assert_eq!(types, expected);
    let index = server.sql(&format!("SELECT indexdef FROM pg_indexes WHERE tablename = '{name}'"));
    assert!(index.contains("(id)"), "{index}");
    let cursor = server.sql(&format!("SELECT version, entry, row_count FROM lingqu_backflow WHERE sink = '{name}'"));
    let after = model.after(&version);
    assert_eq!(cursor, format!("{}|{ENTRY}|{}", version.number, after.sum().count));
}

#[test]
fn a_table_of_somebody_else_is_left_alone() {
    let (server, runtime) = (postgres(), runtime());
    let name = server.new_table();
    server.sql(&format!("CREATE TABLE \"{name}\" (id bigint); INSERT INTO \"{name}\" VALUES (1)"));
    let mut sink = table(&runtime, &server.url(), &name);
    assert_eq!(sink.open(ENTRY).unwrap(), None);
    let begin = Begin { entry: ENTRY.into(), version: 1, mode: Mode::Full, shape: shape(true, false), rows: 1 };
    assert_eq!(sink.begin(&begin).unwrap_err().told().word, "table_in_use");
    sink.abandon();
    assert_eq!(server.sql(&format!("SELECT count(*) FROM \"{name}\"")), "1");
    server.sql(&format!("DELETE FROM \"{name}\"; ALTER TABLE \"{name}\" ALTER id TYPE text"));
    assert_eq!(sink.begin(&begin).unwrap_err().told().word, "other_columns");
}

#[test]
fn a_row_that_somebody_changed_is_told_when_it_is_to_go() {
    let (server, runtime) = (postgres(), runtime());
    let name = server.new_table();
    let mut sink = table(&runtime, &server.url(), &name);
    sink.open(ENTRY).unwrap();
    let (mut model, mut rng) = (Model::default(), Rng::new(8));
    let first = loop {
        let version = model.next(&mut rng);
        if version.come.len() > 2 {
            break version;
        }
    };
    first.hand(&mut *sink, true).unwrap();
    sink.commit(&first.cursor()).unwrap();
    model = model.after(&first);
    server.sql(&format!("UPDATE \"{name}\" SET flag = NOT coalesce(flag, false)"));
    sink.begin(&Begin { mode: Mode::Changes, version: 9, rows: 1, ..first.begin(true) }).unwrap();
    sink.rows(Op::Delete, &batch(&model.rows[..1], true, false)).unwrap();
    let error = sink.held().unwrap_err();
    assert_eq!((error.exit_code(), error.told().word.as_str()), (5, "sink_differs"));
    sink.abandon();
    assert_eq!(server.sql(&format!("SELECT count(*) FROM \"{name}\"")), model.rows.len().to_string());
}

#[test]
fn two_processes_do_not_both_commit() {
    let (server, runtime) = (postgres(), runtime());
    let name = server.new_table();
    let (mut one, mut other) = (table(&runtime, &server.url(), &name), table(&runtime, &server.url(), &name));
    one.open(ENTRY).unwrap();
    other.open(ENTRY).unwrap();
    let mut model = Model::default();
    let version = model.next(&mut Rng::new(2));
    version.hand(&mut *one, true).unwrap();
    one.commit(&version.cursor()).unwrap();
    let error = other.begin(&version.begin(true)).unwrap_err();
    assert_eq!(error.told().word, "sink_in_use");
    other.abandon();
    assert_eq!(held(&mut *one, false).unwrap().1, model.after(&version).sum());
}

#[test]
fn a_server_that_is_killed_has_all_of_a_version_or_none() {
    let mut server = Postgres::start();
    let runtime = runtime();
    let name = server.new_table();
    let url = server.url();
    let (mut model, mut rng) = (Model::default(), Rng::new(6));
    for round in 0..3 {
        let mut sink = table(&runtime, &url, &name);
        sink.open(ENTRY).unwrap();
        let version = model.next(&mut rng);
        version.hand(&mut *sink, true).unwrap();
        if round == 1 {
            // Between data and cursor.
            server.kill_and_start();
            let error = sink.commit(&version.cursor()).unwrap_err();
            assert!(error.is_transient(), "{error}");
        } else {
            sink.commit(&version.cursor()).unwrap();
            model = model.after(&version);
            server.kill_and_start();
        }
        let mut sink = table(&runtime, &url, &name);
        let cursor = sink.open(ENTRY).unwrap().unwrap();
        let (_, sum) = held(&mut *sink, model.wide).unwrap();
        assert_eq!((cursor.version, sum), (model.version, model.sum()));
    }
}

#[test]
fn an_address_where_nobody_listens_may_pass_and_a_wrong_name_does_not() {
    let (server, runtime) = (postgres(), runtime());
    let open = |url: &str| table(&runtime, url, "t").open(ENTRY).unwrap_err();
    let error = open("postgres://postgres@127.0.0.1:1/postgres");
    assert_eq!((error.exit_code(), error.is_transient()), (6, true), "{error}");
    let error = open(&server.url().replace("/postgres?", "/nothing?"));
    assert_eq!((error.exit_code(), error.is_transient()), (2, false), "{error}");
    // TCP needs a password, and none is there.
    let error = open(&server.tcp_url());
    assert!(!error.is_transient() || error.exit_code() == 6, "{error}");
    assert_ne!(error.exit_code(), 0);
}
