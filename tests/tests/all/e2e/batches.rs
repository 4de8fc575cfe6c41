//! Rows in and out: what comes back is what the same filter gives on the source.

use lingqu_tests::world::data::{write_csv, write_parquet};
use lingqu_tests::world::{
    COLUMNS, Granted, Rows, World, read_arrow, read_csv, read_parquet, registrations, shared, text,
};
use std::path::Path;

const GRANTED: [&str; 7] = ["region", "credit_code", "staff", "capital", "opened", "checked_at", "active"];

fn in_city(region: &str) -> bool {
    region.starts_with("4403")
}

fn push(world: &World, at: &Granted, file: &Path, more: &[&str]) -> serde_json::Value {
    let args = ["push", "batch", &at.entry, file.to_str().unwrap()];
    world.provider.agent.run([&args, more].concat()).ok()
}

fn pull(world: &World, at: &Granted, name: &str, more: &[&str]) -> Rows {
    let out = world.path(name);
    let args = ["pull", &at.grant, "--out", out.to_str().unwrap()];
    world.requester.agent.run([&args, more].concat()).ok();
    match out.extension().and_then(|e| e.to_str()) {
        Some("parquet") => read_parquet(&out),
        Some("csv") => read_csv(&out),
        _ => read_arrow(&std::fs::read(&out).unwrap()).unwrap(),
    }
}

#[test]
fn parquet_goes_in_and_every_format_gives_the_same_rows() {
    let world = shared();
    let at = world.new_table();
    let batch = registrations(1, 5_000);
    let file = world.path("rows.parquet");
    write_parquet(&file, &batch);
    let pushed = push(world, &at, &file, &[]);
    let receipt = std::fs::read_to_string(world.provider.agent.receipt(text(&pushed, "id"))).unwrap();
    assert!(receipt.contains("\"rows\":5000"), "{receipt}");

    let expected = Rows::of(&[batch]).filter("region", in_city).select(&GRANTED);
    assert!(expected.rows.len() > 1_000);
    pull(world, &at, "out.parquet", &[]).must_be(&expected);
    pull(world, &at, "out.arrow", &[]).must_be(&expected);
    pull(world, &at, "out.csv", &[]).must_be(&expected);
    let stdout = world.requester.agent.run(["pull", &at.grant, "--out", "-"]);
    assert_eq!(stdout.code, Some(0), "{stdout}");
    read_arrow(&stdout.stdout).unwrap().must_be(&expected);
}

#[test]
fn columns_and_conditions_narrow_what_comes() {
    let world = shared();
    let at = world.new_table();
    let batch = registrations(2, 4_000);
    let file = world.path("rows.parquet");
    write_parquet(&file, &batch);
    push(world, &at, &file, &[]);
    let mine = Rows::of(&[batch]).filter("region", in_city);

    let two = pull(world, &at, "two.parquet", &["--columns", "credit_code,staff"]);
    two.must_be(&mine.select(&["credit_code", "staff"]));
    let where_ = "staff >= 250 and active = true";
    let some = pull(world, &at, "some.parquet", &["--where", where_]);
    let expected = mine.filter("staff", |s| s.parse::<i32>().is_ok_and(|s| s >= 250)).filter("active", |a| a == "true");
    assert!(!expected.rows.is_empty());
    some.must_be(&expected.select(&GRANTED));
    let below = pull(world, &at, "below.parquet", &["--where", "region within '440305'"]);
    below.must_be(&mine.filter("region", |r| r.starts_with("440305")).select(&GRANTED));
    let region = pull(world, &at, "region.parquet", &["--region", "440305"]);
    region.must_be(&below);
    // SQL's meaning of null: `not` of unknown is unknown.
    let not = pull(world, &at, "not.parquet", &["--where", "not (staff >= 250)"]);
    not.must_be(&mine.filter("staff", |s| s.parse::<i32>().is_ok_and(|s| s < 250)).select(&GRANTED));
    let missing = pull(world, &at, "missing.parquet", &["--where", "staff is null"]);
    missing.must_be(&mine.filter("staff", |s| s == "∅").select(&GRANTED));
    let nobody = pull(world, &at, "nobody.parquet", &["--where", "region within '4401'"]);
    nobody.must_be(&mine.filter("region", |_| false).select(&GRANTED));
}

#[test]
fn csv_goes_in_as_the_same_rows() {
    let world = shared();
    let scope = "columns = [\"region\", \"credit_code\", \"note\", \"score\", \"visits\", \"opened\"]";
    let code = "307010/900001".to_owned();
    let toml = lingqu_tests::world::table_entry_toml(&code);
    let entry = world.publish(&toml.replace("[[items]]\nname = \"seal\"\ntype = \"binary\"\npersonal = false\n", ""));
    let at = world.granted(entry, code, scope);
    let batch = registrations(3, 2_000);
    let seal = batch.schema().index_of("seal").unwrap();
    let kept: Vec<usize> = (0..batch.num_columns()).filter(|i| *i != seal).collect();
    let batch = batch.project(&kept).unwrap();
    let (one, two) = (world.path("1.csv"), world.path("2.csv"));
    write_csv(&one, &batch.slice(0, 700));
    write_csv(&two, &batch.slice(700, 1_300));
    let args = ["push", "batch", &at.entry, one.to_str().unwrap(), two.to_str().unwrap()];
    world.provider.agent.run(args).ok();
    // Columns travel in the order in which they were granted.
    let wanted = ["region", "credit_code", "note", "score", "visits", "opened"];
    pull(world, &at, "out.parquet", &[]).must_be(&Rows::of(&[batch]).select(&wanted));
}

#[test]
fn append_adds_rows_and_full_starts_anew() {
    let world = shared();
    let at = world.new_table();
    let batches = [registrations(4, 900), registrations(5, 700), registrations(6, 300)];
    let file = |i: usize| {
        let file = world.path("rows.parquet");
        write_parquet(&file, &batches[i]);
        file
    };
    push(world, &at, &file(0), &[]);
    push(world, &at, &file(1), &["--mode", "append"]);
    push(world, &at, &file(2), &["--mode", "full"]);
    let expected = |of: &[usize]| {
        let rows: Vec<_> = of.iter().map(|i| batches[*i].clone()).collect();
        Rows::of(&rows).filter("region", in_city).select(&GRANTED)
    };
    pull(world, &at, "1.parquet", &["--version", "1"]).must_be(&expected(&[0]));
    pull(world, &at, "2.parquet", &["--version", "2"]).must_be(&expected(&[0, 1]));
    pull(world, &at, "3.parquet", &[]).must_be(&expected(&[2]));
}

#[test]
fn a_file_that_does_not_fit_is_only_checked() {
    let world = shared();
    let at = world.new_table();
    let good = world.path("good.parquet");
    write_parquet(&good, &registrations(7, 50));
    let checked = push(world, &at, &good, &["--check"]);
    assert!(checked.is_object(), "{checked}");
    let bad = world.path("bad.parquet");
    let batch = registrations(7, 50);
    write_parquet(&bad, &batch.project(&(0..COLUMNS.len() - 1).collect::<Vec<_>>()).unwrap());
    let args = ["push", "batch", &at.entry, bad.to_str().unwrap(), "--check"];
    let ran = world.provider.agent.run(args);
    assert_eq!(ran.code, Some(7), "{ran}");
    // The report first, then the error.
    let (report, error) = (ran.json(), ran.error());
    assert_eq!((&report["valid"], &report["errors"][0]["word"]), (&false.into(), &"columns".into()), "{report}");
    assert!(text(&error, "text").contains("\"note\""), "{error}");
    let out = world.path("out.parquet");
    world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).fails(3);
    assert!(!out.exists(), "nothing was sent");
}

#[test]
fn what_two_pulls_count_is_what_the_receipts_say() {
    let world = shared();
    let at = world.new_table();
    let file = world.path("rows.parquet");
    write_parquet(&file, &registrations(8, 1_000));
    push(world, &at, &file, &[]);
    let digest = |name: &str| {
        let out = world.path(name);
        let pulled = world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).ok();
        let receipt = std::fs::read(world.requester.agent.receipt(text(&pulled, "id"))).unwrap();
        let receipt: serde_json::Value = serde_json::from_slice(&receipt).unwrap();
        (text(&receipt, "rows_digest").to_owned(), receipt["rows"].as_u64().unwrap())
    };
    let (parquet, csv) = (digest("a.parquet"), digest("a.csv"));
    assert_eq!(parquet, csv, "independent of the format");
    assert_eq!(parquet.1, pull(world, &at, "b.arrow", &[]).rows.len() as u64);
}
