//! Every format in and out through the real programs: what is read from what was written has the same digest of rows.

use crate::e2e::push_rows;
use arrow::array::*;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use lingqu_tests::world::data::write_parquet;
use lingqu_tests::world::{Granted, PURPOSE, World, shared, text};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Ends of files; `arrows` is an Arrow stream, which goes out by standard output, and `gb18030.csv` CSV in GB18030, which is
/// said on the way out and found on the way in.
const FORMATS: [&str; 7] = ["parquet", "csv", "gb18030.csv", "arrow", "arrows", "jsonl", "xlsx"];

/// Those that hold any text.
const FORMATS_OF_LONG_TEXT: [&str; 6] = ["parquet", "csv", "gb18030.csv", "arrow", "arrows", "jsonl"];

/// An entry with these items (name, type, nullable), and the grant of all of them.
fn entry(world: &World, items: &[(String, &str, bool)], more: &str) -> Granted {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let code = format!("307020/{:06}", NEXT.fetch_add(1, Ordering::Relaxed));
    let items_toml: String = items
        .iter()
        .map(|(name, of, nullable)| {
            format!("[[items]]\nname = \"{name}\"\ntype = \"{of}\"\npersonal = false\nnullable = {nullable}\n")
        })
        .collect();
    let toml = format!(
        "name = \"格式往返\"\ncode = \"{code}\"\nabstract = \"合成数据，仅供测试\"\nformat = \"table\"\n\
         update_frequency = \"daily\"\nsharing_class = \"conditional\"\nconditions = \"限依法履职使用\"\n\
         purposes = [\"{PURPOSE}\"]\nsharing_methods = [\"batch_exchange\"]\ngrade = \"general-2\"\n{more}\n{items_toml}"
    );
    let id = world.publish(&toml);
    let names: Vec<&String> = items.iter().map(|(name, ..)| name).collect();
    world.granted(id, code, &format!("columns = {names:?}"))
}

/// Rows with everything that goes wrong first, in an item of every type.
fn telling() -> (Vec<(String, &'static str, bool)>, RecordBatch) {
    let items = [
        ("code", "string", false),
        ("名称", "string", true),
        ("i", "int32", true),
        ("l", "int64", true),
        ("f", "float64", true),
        ("d", "decimal(38,4)", true),
        ("m", "decimal(15,2)", true),
        ("day", "date", true),
        ("t", "timestamp", true),
        ("b", "bool", true),
        ("x", "binary", true),
    ];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["110101199003070012", "007", "=1+1", "0", "x,\"y\"\n z", " 末 "])),
        Arc::new(StringArray::from(vec![
            Some("𠀀龥，灵渠"),
            None,
            Some("NaN"),
            Some("null"),
            Some("a\tb|c;d"),
            Some("_x0041_"),
        ])),
        Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX), Some(0), Some(-1), Some(1)])),
        Arc::new(Int64Array::from(vec![
            Some(i64::MIN),
            None,
            Some(i64::MAX),
            Some(0),
            Some(999_999_999_999_999),
            Some(1 << 53),
        ])),
        Arc::new(Float64Array::from(vec![
            Some(f64::NAN),
            None,
            Some(f64::INFINITY),
            Some(-0.0),
            Some(5e-324),
            Some(0.1 + 0.2),
        ])),
        Arc::new(
            Decimal128Array::from(vec![
                Some(10i128.pow(38) - 1),
                None,
                Some(1 - 10i128.pow(38)),
                Some(0),
                Some(1),
                Some(-1),
            ])
            .with_precision_and_scale(38, 4)
            .unwrap(),
        ),
        Arc::new(
            Decimal128Array::from(vec![Some(999_999_999_999_999), None, Some(-1), Some(10), Some(12_345), Some(0)])
                .with_precision_and_scale(15, 2)
                .unwrap(),
        ),
        Arc::new(Date32Array::from(vec![Some(-719_162), None, Some(2_932_896), Some(0), Some(-25_509), Some(20_484)])),
        Arc::new(
            TimestampMicrosecondArray::from(vec![
                Some(-1),
                None,
                Some(253_402_300_799_999_999),
                Some(0),
                Some(1_769_817_600_000_001),
                Some(-62_135_596_800_000_000),
            ])
            .with_timezone("UTC"),
        ),
        Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true), None, Some(false)])),
        Arc::new(BinaryArray::from_opt_vec(vec![Some(&[0, 255]), None, Some(&[7]), Some(b"abc"), None, Some(&[0])])),
    ];
    let types: Vec<DataType> = columns.iter().map(|c| c.data_type().clone()).collect();
    let fields: Vec<Field> =
        items.iter().zip(types).map(|((name, _, nullable), of)| Field::new(*name, of, *nullable)).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    (items.iter().map(|(n, t, null)| ((*n).to_owned(), *t, *null)).collect(), batch)
}

fn pull(world: &World, at: &Granted, name: &str, more: &[&str]) -> (PathBuf, String) {
    let out = world.path(name);
    if name.ends_with(".arrows") {
        let ran = world.requester.agent.run([&["pull", &at.grant, "--out", "-"], more].concat());
        assert_eq!(ran.code, Some(0), "{ran}");
        std::fs::write(&out, ran.stdout).unwrap();
        let digest = digest_of(world, at, &out);
        return (out, digest);
    }
    let encoding: &[&str] = if name.ends_with(".gb18030.csv") { &["--encoding", "gb18030"] } else { &[] };
    let args = ["pull", &at.grant, "--out", out.to_str().unwrap()];
    let pulled = world.requester.agent.run([&args, encoding, more].concat()).ok();
    (out, text(&pulled, "rows_digest").to_owned())
}

/// What the agent reads from a file.
fn digest_of(world: &World, at: &Granted, file: &Path) -> String {
    let checked = push_rows(world, at, file, &["--check"]).ok();
    text(&checked, "rows_digest").to_owned()
}

/// Goes in as every format and comes out as every format.
fn every_pair(world: &World, items: &[(String, &str, bool)], batch: &RecordBatch, formats: &[&str]) {
    let at = entry(world, items, "");
    let source = world.path("source.parquet");
    write_parquet(&source, batch);
    let expected = text(&push_rows(world, &at, &source, &[]).ok(), "rows_digest").to_owned();
    for from in formats {
        let (file, digest) = pull(world, &at, &format!("in.{from}"), &[]);
        assert_eq!(digest, expected, "{from} out");
        let pushed = push_rows(world, &at, &file, &[]).ok();
        assert_eq!(text(&pushed, "rows_digest"), expected, "{from} in again");
        for to in formats {
            let (file, digest) = pull(world, &at, &format!("out.{to}"), &[]);
            assert_eq!(
                (digest, digest_of(world, &at, &file)),
                (expected.clone(), expected.clone()),
                "{from} in, {to} out"
            );
        }
    }
}

#[test]
fn every_type_survives_every_pair_of_formats() {
    let (items, batch) = telling();
    every_pair(shared(), &items, &batch, &FORMATS);
}

#[test]
fn no_rows_survive_every_pair_of_formats() {
    let (items, batch) = telling();
    every_pair(shared(), &items, &batch.slice(0, 0), &FORMATS);
}

#[test]
fn a_thousand_columns_survive_every_pair_of_formats() {
    let items: Vec<(String, &str, bool)> =
        (0..1_000).map(|n| (format!("数据项{n}"), if n % 2 == 0 { "string" } else { "int64" }, true)).collect();
    let column = |n: usize| -> ArrayRef {
        if n.is_multiple_of(2) {
            Arc::new(StringArray::from_iter((0..50).map(|row| (n == 0 || row % 7 != 0).then(|| format!("{row:018}")))))
        } else {
            Arc::new(Int64Array::from_iter((0..50).map(|row| (row % 5 != 0).then_some(row * n as i64))))
        }
    };
    let columns: Vec<ArrayRef> = (0..1_000).map(column).collect();
    let fields: Vec<Field> =
        items.iter().zip(&columns).map(|((name, ..), c)| Field::new(name, c.data_type().clone(), true)).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    every_pair(shared(), &items, &batch, &FORMATS);
}

#[test]
fn cells_of_four_megabytes_survive_all_but_excel_which_says_so() {
    let world = shared();
    let items = vec![("id".to_owned(), "string", false), ("text".to_owned(), "string", true)];
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["1", "2", "3"]));
    let long = "灵".repeat(4 * 1024 * 1024 / 3);
    let cells: ArrayRef = Arc::new(StringArray::from(vec![Some(long.as_str()), None, Some("\"\n,")]));
    let fields = vec![Field::new("id", DataType::Utf8, false), Field::new("text", DataType::Utf8, true)];
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![ids, cells]).unwrap();
    every_pair(world, &items, &batch, &FORMATS_OF_LONG_TEXT);

    let at = entry(world, &items, "");
    let source = world.path("source.parquet");
    write_parquet(&source, &batch);
    push_rows(world, &at, &source, &[]).ok();
    let out = world.path("out.xlsx");
    let error = world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).fails(2);
    assert_eq!(text(&error, "word"), "excel_limit", "{error}");
    assert!(text(&error, "text").contains("column \"text\""), "{error}");
    assert!(!out.exists());
}

#[test]
fn the_empty_string_is_not_a_missing_one_but_in_excel() {
    let world = shared();
    let items = vec![("id".to_owned(), "string", false), ("s".to_owned(), "string", true)];
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["1", "2"]));
    let cells: ArrayRef = Arc::new(StringArray::from(vec![Some(""), None]));
    let fields = vec![Field::new("id", DataType::Utf8, false), Field::new("s", DataType::Utf8, true)];
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![ids, cells]).unwrap();
    every_pair(world, &items, &batch, &FORMATS_OF_LONG_TEXT);
}

#[test]
fn gb18030_in_and_out_and_what_gbk_has_not() {
    let world = shared();
    let (items, batch) = telling();
    let at = entry(world, &items, "");
    let source = world.path("source.parquet");
    write_parquet(&source, &batch);
    let expected = text(&push_rows(world, &at, &source, &[]).ok(), "rows_digest").to_owned();
    let (gb, _) = pull(world, &at, "gb.csv", &["--encoding", "gb18030"]);
    let bytes = std::fs::read(&gb).unwrap();
    assert!(
        std::str::from_utf8(&bytes).is_err() && bytes.windows(4).any(|w| w == [0xc3, 0xfb, 0xb3, 0xc6]),
        "名称 in GB18030"
    );
    assert_eq!(digest_of(world, &at, &gb), expected, "found");
    let said = push_rows(world, &at, &gb, &["--check", "--encoding", "gb18030"]).ok();
    assert_eq!(text(&said, "rows_digest"), expected);
    let (marked, _) = pull(world, &at, "bom.csv", &["--encoding", "utf-8-bom"]);
    assert!(std::fs::read(&marked).unwrap().starts_with(&[0xef, 0xbb, 0xbf]));
    assert_eq!(digest_of(world, &at, &marked), expected);
    let out = world.path("gbk.csv");
    let args = ["pull", &at.grant, "--encoding", "gbk", "--out", out.to_str().unwrap()];
    let error = world.requester.agent.run(args).fails(2);
    assert!(text(&error, "text").contains("U+20000") && text(&error, "text").contains("row 1"), "{error}");
    let (guarded, _) = pull(world, &at, "guarded.csv", &["--guard-formulas"]);
    assert!(std::fs::read_to_string(guarded).unwrap().contains("'=1+1"));
    let args = ["pull", &at.grant, "--encoding", "gbk", "--out", "x.parquet"];
    world.requester.agent.run(args).fails(2);
}

#[test]
fn a_folder_of_mixed_formats_is_one_push() {
    let world = shared();
    let (items, batch) = telling();
    let at = entry(world, &items, "");
    let source = world.path("source.parquet");
    write_parquet(&source, &batch);
    push_rows(world, &at, &source, &[]).ok();
    let dir = world.path("x").parent().unwrap().join("export");
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    let mut all = Vec::new();
    for (n, format) in FORMATS.iter().enumerate() {
        let (file, _) = pull(world, &at, &format!("a.{format}"), &[]);
        std::fs::rename(file, dir.join(if n % 2 == 0 { "sub" } else { "" }).join(format!("{n}.{format}"))).unwrap();
        all.push(batch.clone());
    }
    std::fs::write(dir.join("_SUCCESS"), "").unwrap();
    std::fs::write(dir.join("sub/.1.parquet.crc"), "x").unwrap();
    let whole = world.path("whole.parquet");
    write_parquet(&whole, &concat_batches(&batch.schema(), &all).unwrap());
    let expected = digest_of(world, &at, &whole);
    let pushed = push_rows(world, &at, &dir, &[]).ok();
    assert_eq!((text(&pushed, "rows_digest"), pushed["read"].as_u64()), (expected.as_str(), Some(42)));
    std::fs::write(dir.join("readme.md"), "x").unwrap();
    let error = push_rows(world, &at, &dir, &[]).fails(2);
    assert!(text(&error, "text").contains("readme.md"), "{error}");
}

#[test]
fn a_thousand_small_files_are_one_push() {
    let world = shared();
    let items = vec![("id".to_owned(), "int64", false)];
    let at = entry(world, &items, "");
    let dir = world.path("x").parent().unwrap().join("many");
    std::fs::create_dir_all(&dir).unwrap();
    for n in 0..1_000 {
        std::fs::write(dir.join(format!("{n}.csv")), format!("id\n{n}\n")).unwrap();
    }
    let pushed = push_rows(world, &at, &dir, &[]).ok();
    assert_eq!((pushed["rows"].as_u64(), pushed["read"].as_u64()), (Some(1_000), Some(1_000)));
}

#[test]
fn a_draft_of_an_entry_takes_its_own_file() {
    let world = shared();
    let csv = "code,name,amount,day\n007,甲,12.50,2026-01-31\n008,乙,3,2026/2/1\n";
    let file = world.file("登记.csv", csv);
    let made = world.provider.agent.run(["catalogue", "template", "--from", file.to_str().unwrap()]).ok();
    let toml = text(&made, "toml").replace("purposes = [\"（用途）\"]", &format!("purposes = [\"{PURPOSE}\"]"));
    let code = "307021/000001";
    let toml = toml.replace("# code = \"307010/000001\"", &format!("code = \"{code}\" #"));
    let id = world.publish(&toml);
    let at = world.granted(id, code.to_owned(), "columns = [\"code\", \"name\", \"amount\", \"day\"]");
    let pushed = push_rows(world, &at, &file, &[]).ok();
    assert_eq!(pushed["rows"], 2);
    let (out, _) = pull(world, &at, "out.csv", &[]);
    let back = std::fs::read_to_string(out).unwrap();
    assert!(back.contains("007,甲,12.50,2026-01-31") && back.contains("008,乙,3.00,2026-02-01"), "{back}");
}

#[test]
fn times_without_a_zone_want_one() {
    let world = shared();
    let items = vec![("t".to_owned(), "timestamp", true)];
    let at = entry(world, &items, "");
    let local = world.file("local.csv", "t\n2026-01-31 08:00:00\n");
    let error = push_rows(world, &at, &local, &[]).fails(7);
    assert!(text(&error, "text").contains("--zone"), "{error}");
    let with = push_rows(world, &at, &local, &["--check", "--zone", "+08:00"]).ok();
    let utc = world.file("utc.csv", "t\n2026-01-31T00:00:00Z\n");
    assert_eq!(text(&with, "rows_digest"), digest_of(world, &at, &utc));
    assert_eq!(TimeUnit::Microsecond, TimeUnit::Microsecond);
}
