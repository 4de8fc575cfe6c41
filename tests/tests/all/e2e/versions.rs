//! Versions of rows: Parquet that stays as it is, changes by key, and pulls and pushes that go on.

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use lingqu_tests::world::data::{write_csv, write_parquet};
use lingqu_tests::world::{Rows, read_parquet, registrations, shared, text};
use parquet::file::metadata::{ParquetMetaDataReader, ParquetMetaDataWriter};
use parquet::file::statistics::Statistics;
use std::path::Path;
use std::sync::Arc;

const GRANTED: [&str; 7] = ["region", "credit_code", "staff", "capital", "opened", "checked_at", "active"];

fn in_city(region: &str) -> bool {
    region.starts_with("4403")
}

/// The file with a footer that says of every column that its values lie far from where they do.
fn with_statistics_that_lie(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    let length = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
    let at = bytes.len() - 8 - length;
    let metadata = ParquetMetaDataReader::decode_metadata(&bytes[at..at + length]).unwrap();
    let groups = metadata.row_groups().iter().map(|group| {
        let columns = group.columns().iter().map(|column| {
            let lie = match column.statistics() {
                Some(Statistics::Int32(_)) => Some(Statistics::int32(Some(-9), Some(-8), None, Some(0), false)),
                Some(Statistics::ByteArray(_)) => {
                    let text = |t: &str| Some(t.as_bytes().to_vec().into());
                    Some(Statistics::byte_array(text("11"), text("12"), None, Some(0), false))
                }
                _ => None,
            };
            let builder = column.clone().into_builder();
            match lie {
                Some(lie) => builder.set_statistics(lie).build().unwrap(),
                None => builder.build().unwrap(),
            }
        });
        let columns = columns.collect();
        group.clone().into_builder().set_column_metadata(columns).build().unwrap()
    });
    let lying = metadata.clone().into_builder().set_row_groups(groups.collect()).build();
    let mut out = bytes[..at].to_vec();
    ParquetMetaDataWriter::new(&mut out, &lying).finish().unwrap();
    std::fs::write(path, out).unwrap();
}

#[test]
fn parquet_that_fits_stays_as_it_is_and_its_own_statistics_are_read_by_nobody() {
    let world = shared();
    let at = world.new_table();
    let batch = registrations(21, 6_000);
    let file = world.path("lying.parquet");
    write_parquet(&file, &batch);
    with_statistics_that_lie(&file);
    let pushed = world.provider.agent.run(["push", "batch", &at.entry, file.to_str().unwrap()]).ok();
    assert_eq!((&pushed["verbatim"], &pushed["rows"]), (&true.into(), &6_000.into()), "{pushed}");
    let mine = Rows::of(std::slice::from_ref(&batch)).filter("region", in_city);
    let pull = |name: &str, more: &[&str]| {
        let out = world.path(name);
        world.requester.agent.run([&["pull", &at.grant, "--out", out.to_str().unwrap()], more].concat()).ok();
        read_parquet(&out)
    };
    pull("all.parquet", &[]).must_be(&mine.select(&GRANTED));
    let some = pull("some.parquet", &["--where", "staff >= 250 and region within '440305'"]);
    let expected = mine.filter("staff", |s| s.parse::<i32>().is_ok_and(|s| s >= 250));
    some.must_be(&expected.filter("region", |r| r.starts_with("440305")).select(&GRANTED));
    // The same rows as rows, and in another format, have the same digest.
    let rows = world.provider.agent.run(["push", "batch", &at.entry, file.to_str().unwrap(), "--no-verbatim"]).ok();
    assert_eq!((&rows["verbatim"], &rows["rows_digest"]), (&false.into(), &pushed["rows_digest"]));
    let arrow = world.path("rows.arrow");
    let mut writer =
        arrow::ipc::writer::FileWriter::try_new(std::fs::File::create(&arrow).unwrap(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let rows = world.provider.agent.run(["push", "batch", &at.entry, arrow.to_str().unwrap()]).ok();
    assert_eq!(rows["rows_digest"], pushed["rows_digest"]);
    // More of it, as it is, behind rows that were encoded.
    let more = registrations(22, 500);
    write_parquet(&file, &more);
    let args = ["push", "batch", &at.entry, file.to_str().unwrap(), "--mode", "append"];
    assert_eq!(world.provider.agent.run(args).ok()["verbatim"], true);
    pull("both.parquet", &[]).must_be(&Rows::of(&[batch, more]).filter("region", in_city).select(&GRANTED));
}

#[test]
fn a_bad_row_of_a_file_that_stays_as_it_is_is_named() {
    let world = shared();
    let at = world.new_table();
    let batch = registrations(23, 300);
    let mut codes: Vec<String> =
        batch.column(0).as_any().downcast_ref::<StringArray>().unwrap().iter().map(|c| c.unwrap().to_owned()).collect();
    codes[123] = "999999".to_owned();
    let mut columns = batch.columns().to_vec();
    columns[0] = Arc::new(StringArray::from(codes));
    let file = world.path("bad.parquet");
    write_parquet(&file, &RecordBatch::try_new(batch.schema(), columns).unwrap());
    let error = world.provider.agent.run(["push", "batch", &at.entry, file.to_str().unwrap()]).fails(7);
    assert!(text(&error, "text").contains("row 124, column region"), "{error}");
}

#[test]
fn changes_replace_add_and_delete_by_key_and_older_versions_stay() {
    let world = shared();
    let at = world.new_table();
    let base = registrations(24, 400);
    let file = world.path("base.parquet");
    write_parquet(&file, &base);
    world.provider.agent.run(["push", "batch", &at.entry, file.to_str().unwrap()]).ok();
    // Rows 0 to 99 get other values, 100 to 149 go, and ten come.
    let other = registrations(25, 160);
    let mut columns: Vec<ArrayRef> = other.columns().to_vec();
    let keys = (0..160).map(|i| if i < 150 { format!("S000024-{i:09}") } else { format!("NEW-{i}") });
    columns[1] = Arc::new(StringArray::from_iter_values(keys));
    let changed = RecordBatch::try_new(other.schema(), columns.clone()).unwrap();
    let ops = (0..160).map(|i| if (100..150).contains(&i) { "delete" } else { "upsert" });
    columns.push(Arc::new(StringArray::from_iter_values(ops)));
    let mut fields: Vec<_> = other.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(arrow::datatypes::Field::new("_op", arrow::datatypes::DataType::Utf8, false)));
    let schema = Arc::new(arrow::datatypes::Schema::new(fields));
    let changes = RecordBatch::try_new(schema, columns).unwrap();
    let file = world.path("changes.parquet");
    write_parquet(&file, &changes);
    let args = ["push", "batch", &at.entry, file.to_str().unwrap(), "--mode", "changes"];
    let pushed = world.provider.agent.run(args).ok();
    assert_eq!((&pushed["rows"], &pushed["verbatim"]), (&160.into(), &false.into()));
    let pull = |version: &str| {
        let out = world.path(&format!("{version}.parquet"));
        world.requester.agent.run(["pull", &at.grant, "--version", version, "--out", out.to_str().unwrap()]).ok();
        read_parquet(&out)
    };
    let mine = |batches: &[RecordBatch]| Rows::of(batches).filter("region", in_city).select(&GRANTED);
    pull("1").must_be(&mine(std::slice::from_ref(&base)));
    pull("2").must_be(&mine(&[base.slice(150, 250), changed.slice(0, 100), changed.slice(150, 10)]));
    // A change that does not say what is to be done is named; so is an entry without a key.
    let file = world.path("no_op.csv");
    write_csv(&file, &base.project(&[0, 1]).unwrap());
    let error = world.provider.agent.run(["push", "batch", &at.entry, file.to_str().unwrap(), "--mode", "changes"]);
    assert!(text(&error.fails(7), "text").contains("_op"), "named");
}
