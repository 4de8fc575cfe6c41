//! Scopes with everything in them, by the programs as people run them: nested items, regions, agents, requests a day, masks
//! and pseudonyms; an answer that narrows and one that does not.

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Fields};
use lingqu_tests::world::data::write_parquet;
use lingqu_tests::world::{World, read_csv, read_parquet, text};
use std::path::Path;
use std::sync::Arc;

const ROWS: usize = 600;

fn entry_toml(code: &str) -> String {
    let items = ["region", "card", "address.city", "address.street"]
        .map(|name| format!("[[items]]\nname = \"{name}\"\ntype = \"string\"\npersonal = true\n"))
        .concat();
    format!(
        "name = \"人员地址\"\ncode = \"{code}\"\nabstract = \"合成数据，仅供测试\"\nformat = \"table\"\nupdate_frequency = \"daily\"\n\
         sharing_class = \"unconditional\"\nsharing_methods = [\"batch_exchange\"]\nregion_column = \"region\"\n\
         grade = \"general-3\"\n{items}[[items]]\nname = \"staff\"\ntype = \"int32\"\npersonal = false\n"
    )
}

fn rows() -> RecordBatch {
    let texts = |f: &dyn Fn(usize) -> String| Arc::new(StringArray::from_iter_values((0..ROWS).map(f))) as ArrayRef;
    let (city, street) = (texts(&|i| format!("深圳{i}")), texts(&|i| format!("深南大道 {i} 号")));
    let fields: Fields = ["city", "street"].map(|name| Field::new(name, DataType::Utf8, true)).into_iter().collect();
    let there: Vec<bool> = (0..ROWS).map(|i| i % 4 != 0).collect();
    let address = StructArray::new(fields, vec![city, street], Some(there.into()));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("region", texts(&|i| ["440304", "440103", "441900"][i % 3].to_owned())),
        ("card", texts(&|i| format!("4403041990010{:05}", i % 50))),
        ("address", Arc::new(address)),
        ("staff", Arc::new(Int32Array::from_iter_values((0..ROWS as i32).map(|i| i % 9)))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

fn write(path: &Path, batch: &RecordBatch) {
    write_parquet(path, batch);
}

#[test]
fn everything_in_a_scope_holds_from_end_to_end() {
    let world = World::new();
    let code = "307010/800001";
    let entry = world.publish(&entry_toml(code));
    let scope = "columns = [\"region\", \"card\", \"address\", \"staff\"]\nregions = [\"4403\", \"441900\"]\nagents = [\"main\"]\n\
                 requests_per_day_max = 4\nrate_bytes_per_second_max = 50_000_000\n\n[transforms]\ncard = \"pseudonym\"\n\
                 address.city = \"mask(2,0)\"";
    let at = world.granted(entry, code.into(), scope);
    let file = world.path("rows.parquet");
    write(&file, &rows());
    world.provider.agent.run(["push", "batch", &at.entry, file.to_str().unwrap()]).ok();

    let shown = world.requester.agent.run(["grant", "show", &at.grant]).ok();
    let scope = &shown["scope"];
    assert_eq!(scope["columns"], serde_json::json!(["region", "card", "address.city", "address.street", "staff"]));
    assert_eq!(scope["transforms"], serde_json::json!({"card": "pseudonym", "address.city": "mask(2,0)"}));
    assert_eq!(scope["pseudonym_algorithm"], "hmac-sha256-128");
    assert_eq!(scope["regions"], serde_json::json!(["4403", "441900"]));
    assert_eq!((&scope["agents"], &scope["requests_per_day_max"]), (&serde_json::json!(["main"]), &4.into()));
    assert_eq!(scope["rate_bytes_per_second_max"], 50_000_000);

    let day = || (chrono::Utc::now() + chrono::Duration::hours(8)).date_naive();
    let today = day();
    let pull = |name: &str, more: &[&str]| {
        let out = world.path(name);
        (world.requester.agent.run([&["pull", &at.grant, "--out", out.to_str().unwrap()], more].concat()), out)
    };
    let pulled = |name: &str, more: &[&str]| {
        let (ran, out) = pull(name, more);
        ran.ok();
        out
    };
    let got = read_csv(&pulled("all.csv", &[]));
    assert_eq!(got.columns, ["region", "card", "address.city", "address.street", "staff"]);
    assert_eq!(got.rows.len(), ROWS * 2 / 3);
    for row in &got.rows {
        assert!(row[0] == "440304" || row[0] == "441900", "{row:?}");
        assert!(row[1].len() == 22 && !row[1].starts_with("4403"), "{row:?}");
        let null = "∅";
        assert!(
            row[2] == null && row[3] == null || row[2].starts_with("深圳*") && row[3].starts_with("深南大道"),
            "{row:?}"
        );
    }
    let some = ["--columns", "card,address.city", "--where", "address.street is not null", "--region", "441900"];
    let some = read_parquet(&pulled("some.parquet", &some));
    assert_eq!(some.columns, ["card", "address.city"]);
    let (all, found) = (got.select(&["card", "address.city"]), some.rows.len());
    assert!(found > 0 && some.rows.iter().all(|row| all.rows.contains(row)), "the same pseudonyms in another pull");

    // Outside of it, by name, and nothing is counted.
    let denied = |more: &[&str], word: &str| {
        let (ran, out) = pull("none.csv", more);
        let error = ran.fails(3);
        assert_eq!(text(&error, "word"), word, "{error}");
        assert!(!out.exists());
    };
    denied(&["--columns", "address"], "columns_outside_scope");
    denied(&["--columns", "address.City"], "columns_outside_scope");
    denied(&["--where", "card = '440304199001000001'"], "predicate_outside_scope");
    denied(&["--where", "address.city = '深圳1'"], "predicate_outside_scope");
    let night = world.new_agent(&world.requester, "night");
    let error = night.run(["pull", &at.grant, "--out", world.path("none.csv").to_str().unwrap()]).fails(3);
    assert_eq!(text(&error, "word"), "agent_outside_scope");

    // The day's requests, of which two were used and none of those that were refused.
    pulled("third.csv", &[]);
    pulled("fourth.csv", &[]);
    if day() == today {
        denied(&[], "requests_used_up");
    }
}

#[test]
fn an_answer_may_narrow_each_key_and_widen_none() {
    let world = World::new();
    let code = "307010/800002";
    world.publish(&entry_toml(code));
    let application =
        "columns = [\"region\", \"card\", \"address\"]\nregions = [\"4403\"]\n\n[transforms]\ncard = \"mask(6,0)\"";
    let toml = lingqu_tests::world::application_toml(code, application);
    let file = |name: &str, text: &str| {
        let path = world.path(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let applied = world.requester.agent.run(["apply", &file("a.toml", &toml), "--key", world.requester.office()]).ok();
    let id = text(&applied, "id").to_owned();
    let answer = |scope: &str| {
        let scope = file("scope.toml", scope);
        let args = ["answer", &id, "--approve", "--scope", &scope, "--key", world.provider.office()];
        world.provider.agent.run(args)
    };
    for (wider, part) in [
        ("regions = [\"44\"]", "regions"),
        ("columns = [\"staff\"]", "columns"),
        ("[transforms]\ncard = \"pseudonym\"", "transforms"),
        ("[transforms]\nregion = \"hash\"", "transforms.region"),
        ("rate_bytes_per_second_max = 1", "rate_bytes_per_second_max"),
        ("agents = [\"Main\"]", "agents"),
    ] {
        let ran = answer(wider);
        assert!(ran.code != Some(0) && ran.stderr.contains(part), "{wider}: {ran}");
    }
    let narrower = "columns = [\"region\", \"card\", \"address.city\"]\nregions = [\"440304\"]\nagents = [\"main\"]\n\
                    requests_per_day_max = 24\n\n[transforms]\ncard = \"drop\"";
    let grant = text(&answer(narrower).ok(), "id").to_owned();
    let shown = world.requester.agent.run(["grant", "show", &grant]).ok();
    assert_eq!(shown["scope"]["columns"], serde_json::json!(["region", "card", "address.city"]));
    assert_eq!(shown["scope"]["transforms"], serde_json::json!({"card": "drop"}));
    assert_eq!(shown["scope"]["regions"], serde_json::json!(["440304"]));
}

#[test]
fn lists_and_structures_that_differ_are_named() {
    let world = World::new();
    let entry = world.publish(&entry_toml("307010/800003"));
    let plain = rows();
    let mut fields: Vec<Field> = plain.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    let mut columns = plain.columns().to_vec();
    let list = ListArray::from_iter_primitive::<arrow::datatypes::Int32Type, _, _>(vec![Some(vec![Some(1)]); ROWS]);
    fields[3] = Field::new("staff", list.data_type().clone(), true);
    columns[3] = Arc::new(list);
    let inner: Fields = [Field::new("City", DataType::Utf8, true)].into_iter().collect();
    let city: ArrayRef = Arc::new(StringArray::from(vec!["x"; ROWS]));
    columns[2] = Arc::new(StructArray::new(inner, vec![city], None));
    fields[2] = Field::new("address", columns[2].data_type().clone(), true);
    let file = world.path("bad.parquet");
    let schema = arrow::datatypes::Schema::new(fields);
    write(&file, &RecordBatch::try_new(Arc::new(schema), columns).unwrap());
    let error = world.provider.agent.run(["push", "batch", &entry, file.to_str().unwrap()]).fails(7);
    for part in ["lists and maps are not shared", "address.City", "address.street"] {
        assert!(text(&error, "text").contains(part), "{part}: {error}");
    }
}
