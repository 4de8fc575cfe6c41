#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::reject::{RejectOptions, Tally};
use super::sift::Sieve;
use super::sink::{Format, Sink, WriteOptions};
use super::{ReadOptions, TextEncoding, read};
use crate::error::AgentError;
use ::arrow::array::RecordBatch;
use ::arrow::compute::concat_batches;
use lingqu_certs::os::OsDisk;
use lingqu_protocol::columns::arrow_schema;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::rows::RowsDigest;
use std::path::Path;

/// An entry with an item of every type.
fn spec() -> EntrySpec {
    let mut toml = String::from(
        r#"
name = "样例"
code = "307010/000001"
abstract = "样例"
format = "table"
update_frequency = "daily"
sharing_class = "conditional"
conditions = "限依法履职使用"
purposes = ["p"]
sharing_methods = ["batch_exchange"]
grade = "general-1"
"#,
    );
    let items = [
        ("s", "string"),
        ("i", "int32"),
        ("l", "int64"),
        ("f", "float64"),
        ("d", "decimal(15,2)"),
        ("day", "date"),
        ("t", "timestamp"),
        ("b", "bool"),
        ("x", "binary"),
    ];
    for (name, item_type) in items {
        let nullable = name != "i";
        toml.push_str(&format!(
            "[[items]]\nname = \"{name}\"\ntype = \"{item_type}\"\ngrade = \"general-1\"\npersonal = false\nnullable = {nullable}\n"
        ));
    }
    EntrySpec::parse(&toml).unwrap()
}

const HEADER: &str = "i,s,l,f,d,day,t,b,x";
const ROW: &str = "1,\"甲,\"\"乙\"\"\n丙\",2,1.5,12.30,2026-01-31,2026-01-31T08:00:00+08:00,true,00ff";

fn rows_of(path: &Path) -> Result<RecordBatch, AgentError> {
    rows_with(path, &spec(), &ReadOptions::default())
}

fn rows_with(path: &Path, spec: &EntrySpec, options: &ReadOptions) -> Result<RecordBatch, AgentError> {
    let mut batches = Vec::new();
    let mut sieve = Sieve::new(spec)?;
    let mut tally = Tally::new(&OsDisk, &RejectOptions::default(), false)?;
    read(&OsDisk, path, spec, options, &mut |piece| {
        let sifted = sieve.sift(piece)?;
        tally.take(path, &sifted)?;
        batches.push(sifted.batch);
        Ok(true)
    })?;
    tally.finish()?;
    Ok(concat_batches(&arrow_schema(spec), &batches).unwrap())
}

fn csv(bytes: impl AsRef<[u8]>) -> Result<RecordBatch, AgentError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.csv");
    std::fs::write(&path, bytes).unwrap();
    rows_of(&path)
}

fn why(bytes: impl AsRef<[u8]>) -> String {
    let error = csv(bytes).unwrap_err();
    assert_eq!(error.exit_code(), 7, "{error}");
    error.to_string()
}

#[test]
fn a_csv_file_has_typed_rows_in_the_entrys_order() {
    let plain = csv(format!("{HEADER}\n{ROW}\n2,,,,,,,,\n")).unwrap();
    assert_eq!((plain.num_rows(), plain.schema()), (2, arrow_schema(&spec())));
    let marked = csv(format!("\u{feff}{HEADER}\r\n{ROW}\r\n2,,,,,,,,")).unwrap();
    assert_eq!(plain, marked);
    assert!((0..9).filter(|c| *c != 1).all(|c| plain.column(c).is_null(1)), "an empty field is no value");
}

#[test]
fn every_format_gives_the_same_rows_back() {
    let long = "长".repeat(5_000);
    let rows = csv(format!(
        "{HEADER}\n{ROW}\n2,,,,,,,,\n-3,\"\",-9223372036854775808,NaN,-0.01,1970-01-01,1969-12-31T23:59:59.999999Z,false,\n\
         4,\" =x\t,;|\",999999999999999,-0.0,0,9999-12-31,,,\n5,110101199003070012,1,1e300,1,1900-01-01,,,\n6,{long},,inf,,,,,\n"
    ))
    .unwrap();
    assert_eq!(rows.num_rows(), 6);
    let dir = tempfile::tempdir().unwrap();
    let digest = |batch: &RecordBatch| {
        let mut digest = RowsDigest::new(&spec());
        digest.update(batch).unwrap();
        digest.finish()
    };
    let gb = WriteOptions { encoding: Some(TextEncoding::Gb18030), guard_formulas: false };
    let bom = WriteOptions { encoding: Some(TextEncoding::Utf8Bom), guard_formulas: false };
    for (name, format, options) in [
        ("a.csv", Format::Csv, WriteOptions::default()),
        ("gb.csv", Format::Csv, gb),
        ("bom.csv", Format::Csv, bom),
        ("a.parquet", Format::Parquet, WriteOptions::default()),
        ("a.arrow", Format::Arrow, WriteOptions::default()),
        ("a.jsonl", Format::JsonLines, WriteOptions::default()),
        ("a.xlsx", Format::Excel, WriteOptions::default()),
    ] {
        let path = dir.path().join(name);
        assert_eq!(Format::of(&path).unwrap(), format);
        for rows in [&rows, &rows.slice(0, 0)] {
            let _ = std::fs::remove_file(&path);
            let mut sink = Sink::create(&OsDisk, &path, format, options, rows.schema()).unwrap();
            sink.batch(&rows.slice(0, rows.num_rows() / 2), &bytes::Bytes::new()).unwrap();
            sink.batch(&rows.slice(rows.num_rows() / 2, rows.num_rows().div_ceil(2)), &bytes::Bytes::new()).unwrap();
            sink.finish().unwrap();
            let back = rows_of(&path).unwrap();
            if format == Format::Excel && rows.num_rows() > 0 {
                // Excel has no empty strings.
                assert!(back.column(0).is_null(2));
                for row in [0, 1, 3, 4, 5] {
                    assert_eq!(digest(&back.slice(row, 1)), digest(&rows.slice(row, 1)), "{name} row {row}");
                }
                continue;
            }
            assert_eq!(digest(&back), digest(rows), "{name}");
        }
    }
    assert_eq!(Format::of(Path::new("a.xls")).unwrap_err().exit_code(), 2);
}

#[test]
fn a_bad_value_is_named_with_line_column_value_and_reason() {
    let second = |row: &str| why(format!("{HEADER}\n{ROW}\n{row}\n"));
    // The first row has a line break in a quoted value.
    assert!(second("x,,,,,,,,").contains("line 4, column \"i\": \"x\""));
    assert!(second(",,,,,,,,").contains("a value must be there"));
    assert!(second("99999999999,,,,,,,,").contains("out of range"));
    assert!(second("1,,,,1.234,,,,").contains("more than 2 decimals"));
    assert!(second("1,,,,,2026-02-30,,,").contains("column \"day\""));
    assert!(second("1,,,,,,2026-01-31T08:00:00,,").contains("says its zone"));
    assert!(second("1,,,,,,,,0g").contains("hexadecimal"));
    assert!(second("1,,").contains("line 4: the row has 3 fields where the header has 9"));
}

#[test]
fn columns_that_are_not_the_entrys_are_each_named() {
    let error = why("i,s,l,f,d,day,t,b,extra,S \n");
    assert!(error.contains("\"x\"") && error.contains("extra"), "{error}");
    assert!(why("").contains("header"));
}

#[test]
fn another_encoding_and_quotes_without_an_end_are_said_so() {
    let gb = csv([format!("{HEADER}\n1,").as_bytes(), b"\xbc\xd7,,,,,,,\n"].concat()).unwrap();
    assert_eq!(gb, csv(format!("{HEADER}\n1,甲,,,,,,,\n")).unwrap());
    let mixed = [format!("{HEADER}\n1,甲,,,,,,,\n1,乙,,,,,,,\n2,").as_bytes(), b"\xbc\xd7,,,,,,,\n"].concat();
    let said = why(mixed);
    assert!(said.contains("line 4, column \"s\"") && said.contains("UTF-8"), "{said}");
    assert!(why(format!("{HEADER}\n1,,,,,,,,\"00\n2,,,,,,,,\n")).contains("never closes"));
    let mut long = format!("{HEADER}\n1,\"").into_bytes();
    long.resize(40 << 20, b'x');
    assert!(why(long).contains("16 MiB"));
}

#[test]
fn a_parquet_file_that_is_none_is_bad_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    std::fs::write(&path, b"PAR1 nonsense PAR1").unwrap();
    assert_eq!(rows_of(&path).unwrap_err().exit_code(), 7);
}

#[test]
fn many_rows_come_in_bounded_batches() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.csv");
    let text = format!("{HEADER}\n") + &"7,abc,,,,,,,\n".repeat(40_000);
    std::fs::write(&path, text).unwrap();
    let mut sizes = Vec::new();
    read(&OsDisk, &path, &spec(), &ReadOptions::default(), &mut |piece| {
        sizes.push(piece.batch.num_rows());
        Ok(true)
    })
    .unwrap();
    assert_eq!(sizes.iter().sum::<usize>(), 40_000);
    assert!(sizes.len() > 1 && sizes.iter().all(|s| *s <= 65_536));
    let whole = read(&OsDisk, &path, &spec(), &ReadOptions::default(), &mut |_| Ok(false)).unwrap();
    assert!(!whole, "who has enough gets no more");
}
