#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::read;
use super::sink::{Format, Sink};
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
    let mut batches = Vec::new();
    read(&OsDisk, path, &spec(), &mut |batch| {
        batches.push(batch);
        Ok(true)
    })?;
    Ok(concat_batches(&arrow_schema(&spec()), &batches).unwrap())
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
    let rows = csv(format!("{HEADER}\n{ROW}\n2,,,,,,,,\n")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let digest = |batch: &RecordBatch| {
        let mut digest = RowsDigest::new(&spec());
        digest.update(batch).unwrap();
        assert_eq!(RowsDigest::of_schema(&batch.schema()).map(|d| d.sum().count), Some(0));
        digest.finish()
    };
    for (name, format) in [("a.csv", Format::Csv), ("a.parquet", Format::Parquet)] {
        let path = dir.path().join(name);
        assert_eq!(Format::of(&path).unwrap(), format);
        let mut sink = Sink::create(&OsDisk, &path, format, rows.schema()).unwrap();
        sink.batch(&rows, &bytes::Bytes::new()).unwrap();
        sink.finish().unwrap();
        assert_eq!(digest(&rows_of(&path).unwrap()), digest(&rows), "{name}");
    }
    assert_eq!(Format::of(Path::new("a.xlsx")).unwrap_err().exit_code(), 2);
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
    assert!(second("1,,").contains("line 4 has 3 fields where the header has 9"));
}

#[test]
fn columns_that_are_not_the_entrys_are_each_named() {
    let error = why("i,s,l,f,d,day,t,b,extra,S \n");
    assert!(error.contains("\"x\"") && error.contains("extra"), "{error}");
    assert!(why("").contains("header"));
}

#[test]
fn another_encoding_and_quotes_without_an_end_are_said_so() {
    assert!(why([format!("{HEADER}\n1,").as_bytes(), b"\xbc\xd7,,,,,,,\n"].concat()).contains("GB18030"));
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
    read(&OsDisk, &path, &spec(), &mut |batch| {
        sizes.push(batch.num_rows());
        Ok(true)
    })
    .unwrap();
    assert_eq!(sizes.iter().sum::<usize>(), 40_000);
    assert!(sizes.len() > 1 && sizes.iter().all(|s| *s <= 65_536));
    let whole = read(&OsDisk, &path, &spec(), &mut |_| Ok(false)).unwrap();
    assert!(!whole, "who has enough gets no more");
}
