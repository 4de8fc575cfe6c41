//! One record by its key, and many by a file of keys: exactly what the grant gives, over every kind of version.

use super::push_rows;
use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use lingqu_tests::world::data::write_parquet;
use lingqu_tests::world::{
    Granted, Rows, World, read_csv, read_parquet, registrations, shared, table_entry_toml, table_scope, text,
    wait_until,
};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

const GRANTED: [&str; 7] = ["region", "credit_code", "staff", "capital", "opened", "checked_at", "active"];
const METHODS: &str = "methods = [\"service_interface\", \"batch_exchange\"]";

fn entry_toml(code: &str) -> String {
    table_entry_toml(code).replace("[\"batch_exchange\"]", "[\"batch_exchange\", \"service_interface\"]")
}

fn by_key(world: &World, code: &str, scope: &str) -> Granted {
    let entry = world.publish(&entry_toml(code));
    world.granted(entry, code.to_owned(), &format!("{METHODS}\n{scope}"))
}

fn query(world: &World, at: &Granted, key: &str) -> Value {
    world.requester.agent.run(["query", &at.grant, "--key", key]).ok()
}

/// What the grant gives of these rows.
fn given(batches: &[RecordBatch]) -> Rows {
    Rows::of(batches).filter("region", |region| region.starts_with("4403")).select(&GRANTED)
}

fn code_of(batch: &RecordBatch, row: usize) -> String {
    batch.column(1).as_string::<i32>().value(row).to_owned()
}

fn keys_file(world: &World, codes: &[String]) -> std::path::PathBuf {
    world.file("keys.csv", format!("credit_code\n{}\n", codes.join("\n")))
}

/// The answers to a file of keys.
fn matched(world: &World, at: &Granted, keys: &Path, name: &str, more: &[&str]) -> Rows {
    let out = world.path(name);
    let args = ["match", &at.grant, keys.to_str().unwrap(), "--out", out.to_str().unwrap()];
    world.requester.agent.run([&args, more].concat()).ok();
    if name.ends_with(".csv") { read_csv(&out) } else { read_parquet(&out) }
}

/// Checks every key against a version: found, with its columns, or not found, in the order in which they were asked.
fn check(world: &World, at: &Granted, codes: &[String], version: &Rows) {
    let answers = matched(world, at, &keys_file(world, codes), "answers.parquet", &[]);
    assert_eq!(
        answers.columns,
        ["credit_code", "_found", "region", "staff", "capital", "opened", "checked_at", "active"]
    );
    let mut next = answers.rows.iter();
    for code in codes {
        let expected = version.filter("credit_code", |c| c == code).select(&[
            "credit_code",
            "region",
            "staff",
            "capital",
            "opened",
            "checked_at",
            "active",
        ]);
        let answer = |row: &Vec<String>| [&row[..1], &row[2..]].concat();
        if expected.rows.is_empty() {
            let row = next.next().unwrap();
            assert_eq!((&row[0], row[1].as_str()), (code, "false"));
            assert!(row[2..].iter().all(|cell| cell == "∅"), "{row:?}");
        }
        let rows: Vec<Vec<String>> = expected.rows.iter().map(|_| next.next().unwrap().clone()).collect();
        assert!(rows.iter().all(|row| row[1] == "true"), "{code}: {rows:?}");
        let mut rows: Vec<_> = rows.iter().map(answer).collect();
        let mut expected = expected.rows.clone();
        rows.sort();
        expected.sort();
        assert_eq!(rows, expected, "{code}");
    }
    assert!(next.next().is_none());
}

#[test]
fn records_are_found_by_their_key_in_every_kind_of_version() {
    let world = shared();
    let at = by_key(world, "307010/810001", &table_scope());
    let (base, more) = (registrations(61, 5_000), registrations(62, 700));
    let file = world.path("base.parquet");
    write_parquet(&file, &base);
    push_rows(world, &at, &file, &["--no-verbatim"]).ok();

    // In runs that are sorted by region.
    let inside = given(std::slice::from_ref(&base));
    let outside = (0..base.num_rows()).find(|row| !base.column(0).as_string::<i32>().value(*row).starts_with("4403"));
    let (there, elsewhere) = (inside.rows[17][1].clone(), code_of(&base, outside.unwrap()));
    let found = query(world, &at, &there);
    assert_eq!(
        (&found["found"], text(&found, "grant"), &found["version"]),
        (&true.into(), at.grant.as_str(), &1.into())
    );
    let record = &found["records"][0];
    assert_eq!((text(record, "credit_code"), text(record, "region")), (there.as_str(), inside.rows[17][0].as_str()));
    assert_eq!(record.as_object().unwrap().len(), GRANTED.len(), "{record}");
    assert!(found["leaf"].as_u64().is_some());
    for key in [elsewhere.as_str(), "S000061-x", ""] {
        let none = query(world, &at, key);
        assert_eq!((&none["found"], &none["records"]), (&false.into(), &serde_json::json!([])), "{key:?}");
    }
    let some = world.requester.agent.run([
        "query",
        &at.code,
        "--key",
        &format!("credit_code={there}"),
        "--columns",
        "staff,region",
    ]);
    let some = some.ok();
    let mut names: Vec<&String> = some["records"][0].as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["credit_code", "region", "staff"]);

    // With rows behind them that lie as their provider sent them.
    write_parquet(&file, &more);
    assert_eq!(push_rows(world, &at, &file, &["--mode", "append"]).ok()["verbatim"], true);
    let mut asked: Vec<String> = (0..base.num_rows()).step_by(13).map(|row| code_of(&base, row)).collect();
    asked.extend((0..more.num_rows()).step_by(3).map(|row| code_of(&more, row)));
    asked.extend([there.clone(), "NOBODY".into(), there.clone(), elsewhere.clone()]);
    check(world, &at, &asked, &given(&[base.clone(), more.clone()]));

    // With rows that were replaced and taken away since, and one key that is there twice.
    let other = registrations(63, 60);
    let mut columns: Vec<ArrayRef> = other.columns().to_vec();
    let keys = (0..60).map(|i| if i < 30 { code_of(&base, i * 13) } else { code_of(&more, i) });
    columns[1] = Arc::new(StringArray::from_iter_values(keys));
    let changed = RecordBatch::try_new(other.schema(), columns.clone()).unwrap();
    columns
        .push(Arc::new(StringArray::from_iter_values((0..60).map(|i| if i % 4 == 0 { "delete" } else { "upsert" }))));
    let mut fields: Vec<_> = other.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(arrow::datatypes::Field::new("_op", arrow::datatypes::DataType::Utf8, false)));
    let schema = Arc::new(arrow::datatypes::Schema::new(fields));
    write_parquet(&file, &RecordBatch::try_new(schema, columns).unwrap());
    push_rows(world, &at, &file, &["--mode", "changes"]).ok();
    write_parquet(&file, &registrations(62, 5));
    push_rows(world, &at, &file, &["--mode", "append"]).ok();
    let gone: Vec<String> = (0..60).map(|row| code_of(&changed, row)).collect();
    let stays = |batch: &RecordBatch| {
        Rows::of(std::slice::from_ref(batch)).filter("credit_code", |code| !gone.iter().any(|gone| gone == code))
    };
    let kept = Rows::of(std::slice::from_ref(&changed));
    let kept =
        Rows { rows: kept.rows.into_iter().enumerate().filter(|(i, _)| i % 4 != 0).map(|(_, r)| r).collect(), ..kept };
    let version = stays(&base).and(&stays(&more)).and(&kept).and(&Rows::of(&[registrations(62, 5)]));
    let version = version.filter("region", |region| region.starts_with("4403")).select(&GRANTED);
    asked.extend(gone.iter().cloned());
    asked.extend((0..5).map(|row| code_of(&more, row)));
    check(world, &at, &asked, &version);
    // The version before is as it was, and so is the one that was pushed first.
    let old = world.requester.agent.run(["query", &at.grant, "--key", &there, "--version", "1"]).ok();
    assert_eq!(old["records"][0], *record);
}

#[test]
fn answers_come_in_every_format_with_their_receipt_and_bad_keys_are_named() {
    // Its own, for its requests are counted.
    let world = &World::new();
    let at = by_key(world, "307010/810002", &table_scope());
    let base = registrations(64, 400);
    let file = world.path("base.parquet");
    write_parquet(&file, &base);
    push_rows(world, &at, &file, &[]).ok();
    let asked: Vec<String> = (0..400).rev().map(|row| code_of(&base, row)).chain(["NONE".into()]).collect();
    let keys = keys_file(world, &asked);
    check(world, &at, &asked, &given(std::slice::from_ref(&base)));
    let all = matched(world, &at, &keys, "answers.csv", &["--columns", "staff"]);
    assert_eq!(all.columns, ["credit_code", "_found", "staff"]);
    assert_eq!(all.rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>(), asked, "in the order of the keys");
    // Each format, and keys in another one.
    let as_parquet = world.path("keys.parquet");
    let codes: ArrayRef = Arc::new(StringArray::from(asked.clone()));
    write_parquet(&as_parquet, &RecordBatch::try_from_iter([("credit_code", codes)]).unwrap());
    for name in ["a.jsonl", "a.xlsx", "a.arrow"] {
        let (out, receipt) = (world.path(name), world.path("receipt.json"));
        let args = ["match", &at.grant, as_parquet.to_str().unwrap(), "--out", out.to_str().unwrap()];
        let done = world.requester.agent.run([&args[..], &["--receipt", receipt.to_str().unwrap()]].concat()).ok();
        assert_eq!(done["rows"], 401, "{name}");
        world.requester.agent.run(["receipt", "verify", receipt.to_str().unwrap()]).ok();
    }
    // Nothing is asked for keys of which some are none.
    let requests = || world.gateway.metric("lingqu_requests_total{operation=\"match\",outcome=\"done\"}");
    let before = requests();
    let refuse = |at: &Granted, content: &str, parts: &[&str]| {
        let (keys, out) = (world.file("bad.csv", content), world.path("none.csv"));
        let ran =
            world.requester.agent.run(["match", &at.grant, keys.to_str().unwrap(), "--out", out.to_str().unwrap()]);
        let error = ran.fails(7);
        let named = parts.iter().all(|part| text(&error, "text").contains(part));
        assert!(named && !out.exists(), "{parts:?}: {error}");
    };
    refuse(&at, "code\nA\n", &["credit_code"]);
    refuse(&at, "credit_code,staff\nA,1\n", &["staff"]);
    let key = "name = \"visits\"\ntype = \"int64\"\n";
    let toml = entry_toml("307010/810005").replace("key = true\n", "").replace(key, &format!("{key}key = true\n"));
    let numbers = world.granted(
        world.publish(&toml),
        "307010/810005".into(),
        &format!("{METHODS}\ncolumns = [\"visits\", \"staff\"]"),
    );
    refuse(&numbers, "visits\n1\nx\n2\n3.5\n", &["line 3", "line 5", "visits"]);
    assert_eq!(requests(), before);
    let none = world.file("none.csv", "credit_code\n");
    assert_eq!(matched(world, &at, &none, "none.parquet", &[]).rows.len(), 0);
    world.gateway.run(["ledger", "verify"]).ok();
}

#[test]
fn what_is_not_granted_cannot_be_asked_by_key() {
    let world = shared();
    let at = by_key(world, "307010/810003", &table_scope());
    let base = registrations(65, 100);
    let file = world.path("base.parquet");
    write_parquet(&file, &base);
    push_rows(world, &at, &file, &[]).ok();
    let keys = keys_file(world, &["A".into()]);
    let (out, key) = (world.path("none.csv"), code_of(&base, 0));
    let refused = |agent: &lingqu_tests::world::Agent, target: &str, more: &[&str], exit: i32, word: &str| {
        let query = agent.run([&["query", target, "--key", &key], more].concat());
        assert_eq!(text(&query.fails(exit), "word"), word, "{target} {more:?}");
        let args = ["match", target, keys.to_str().unwrap(), "--out", out.to_str().unwrap()];
        let error = agent.run([&args[..], more].concat()).fails(exit);
        assert_eq!(text(&error, "word"), word, "{target} {more:?}: {error}");
        assert!(!out.exists());
    };
    let requester = &world.requester.agent;
    refused(requester, &at.grant, &["--columns", "note"], 3, "columns_outside_scope");
    refused(requester, &at.grant, &["--purpose", "x"], 3, "purpose_outside_scope");
    // A grant of batches is none of single records.
    let batches = world.granted(at.entry.clone(), at.code.clone(), &table_scope());
    refused(requester, &batches.grant, &[], 3, "method_outside_scope");
    // A key that is masked, has a pseudonym, or is not granted would be told by its answers.
    for scope in [
        "columns = [\"region\", \"credit_code\"]\n[transforms]\ncredit_code = \"mask(1,1)\"",
        "columns = [\"region\", \"credit_code\"]\n[transforms]\ncredit_code = \"pseudonym\"",
        "columns = [\"region\", \"staff\"]",
    ] {
        let hidden = world.granted(at.entry.clone(), at.code.clone(), &format!("{METHODS}\n{scope}"));
        refused(requester, &hidden.grant, &[], 3, "predicate_outside_scope");
    }
    // What another holds does not exist.
    let other = world.other.agent.run(["query", &at.grant, "--key", &key]).fails(3);
    assert_eq!(text(&other, "word"), "grant_not_found");
    let nobody = world.other.agent.run(["query", "grant-00000000000000000000000001", "--key", &key]).fails(3);
    assert_eq!(other, nobody, "the same answer as for what never was");
    // A key that is none.
    for more in [&["--key", "credit_code=x", "--key", "region=4403"][..], &["--key", "region=4403"]] {
        let error = requester.run([&["query", at.grant.as_str()], more].concat()).fails(7);
        assert!(text(&error, "text").contains("credit_code"), "{error}");
    }
    requester.run(["query", &at.grant]).fails_usage();
}

#[test]
fn a_day_of_queries_is_counted_and_a_sweep_over_keys_is_found() {
    let mut world = World::stopped();
    let file = world.gateway.dir().join("config.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    assert!(config.contains("different = 240"), "{config}");
    std::fs::write(&file, config.replace("different = 240", "different = 12")).unwrap();
    world.gateway.start();
    let at = by_key(&world, "307010/810004", &table_scope());
    let base = registrations(66, 200);
    let rows = world.path("base.parquet");
    write_parquet(&rows, &base);
    push_rows(&world, &at, &rows, &[]).ok();
    let limited = format!("{METHODS}\nrequests_per_day_max = 2\nvolume_bytes_max = 100000\n{}", table_scope());
    let few = world.granted(at.entry.clone(), at.code.clone(), &limited);
    let keys: Vec<String> = (0..20).map(|row| code_of(&base, row)).collect();
    let ask = |at: &Granted, key: &str| world.requester.agent.run(["query", &at.grant, "--key", key]);
    let day = || (chrono::Utc::now() + chrono::Duration::hours(8)).date_naive();
    let today = day();
    ask(&few, &keys[0]).ok();
    ask(&few, &keys[1]).ok();
    if day() == today {
        assert_eq!(text(&ask(&few, &keys[2]).fails(3), "word"), "requests_used_up");
        world.gateway.restart();
        assert_eq!(text(&ask(&few, &keys[2]).fails(3), "word"), "requests_used_up", "over a restart, too");
    }
    // The same question again and again is none, many different ones are a sweep.
    (0..14).for_each(|_| drop(ask(&at, &keys[3]).ok()));
    let findings = || world.gateway.run(["findings", "list", "--all"]).ok().as_array().unwrap().clone();
    assert!(findings().is_empty());
    keys.iter().take(13).for_each(|key| drop(ask(&at, key)));
    wait_until("the sweep is found", || !findings().is_empty());
    assert_eq!(text(&findings()[0], "rule"), "enumeration");
    assert_eq!(text(&ask(&at, &keys[4]).fails(4), "word"), "stopped");
    world.gateway.run(["ledger", "verify"]).ok();
}

#[test]
fn a_file_of_numbers_that_are_tried_is_found_by_its_keys() {
    let mut world = World::stopped();
    let file = world.gateway.dir().join("config.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    assert!(config.contains("missing_keys = 240000"), "{config}");
    std::fs::write(&file, config.replace("missing_keys = 240000", "missing_keys = 16384")).unwrap();
    world.gateway.start();
    let at = by_key(&world, "307010/810006", "columns = [\"region\", \"credit_code\"]");
    let base = registrations(67, 3_000);
    let rows = world.path("base.parquet");
    write_parquet(&rows, &base);
    push_rows(&world, &at, &rows, &[]).ok();
    let findings = || world.gateway.run(["findings", "list", "--all"]).ok().as_array().unwrap().clone();
    // As many keys that are there, the same few numbers that are not, again and again: none is trying.
    let known: Vec<String> = (0..60_000).map(|n| code_of(&base, n % 3_000)).collect();
    assert_eq!(matched(&world, &at, &keys_file(&world, &known), "known.csv", &[]).rows.len(), 60_000);
    let few: Vec<String> = (0..60_000).map(|n| format!("T{}", n % 2_000)).collect();
    assert_eq!(matched(&world, &at, &keys_file(&world, &few), "few.csv", &[]).rows.len(), 60_000);
    assert!(findings().is_empty(), "{:?}", findings());
    let tried: Vec<String> = (0..60_000).map(|n| format!("T{n}")).collect();
    let (keys, out) = (keys_file(&world, &tried), world.path("tried.csv"));
    // It may be through before it is cut.
    let ran = world.requester.agent.run(["match", &at.grant, keys.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert!(matches!(ran.code, Some(0 | 4)), "{ran}");
    wait_until("it is found", || !findings().is_empty());
    let found = findings().remove(0);
    assert_eq!(
        (text(&found, "rule"), text(&found["cut"], "what")),
        ("enumeration", format!("grant:{}", at.grant).as_str())
    );
    assert!(text(&found, "text").contains("keys that nobody has"), "{found}");
    assert_eq!(text(&world.requester.agent.run(["query", &at.grant, "--key", "T1"]).fails(4), "word"), "stopped");
}
