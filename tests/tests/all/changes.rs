//! Versions made by changes, runs that are gone on after, and columns that an entry gained: each against what a plain map of
//! rows gives.

use crate::tables::{digest_of, entry, lake, read_ids, rows, write};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use lingqu_gateway::lake::compact::compact;
use lingqu_gateway::lake::manifest::{Manifest, Regions, TableManifest};
use lingqu_gateway::lake::merge;
use lingqu_gateway::lake::reader::{Position, TableReader};
use lingqu_gateway::lake::shape::Shape;
use lingqu_gateway::lake::source::ChunkCache;
use lingqu_gateway::lake::store::Lake;
use lingqu_gateway::lake::writer::{TableWriter, WriterBudget};
use lingqu_protocol::changes::changes_entry;
use lingqu_protocol::columns::arrow_schema;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::rows::{RowsDigest, RowsSum};
use lingqu_tests::faults::disk::FakeDisk;
use lingqu_tests::faults::rng::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;

const RUN_BYTES: usize = 64 << 10;

fn budget() -> WriterBudget {
    WriterBudget::with_run_bytes(RUN_BYTES, 2, 1)
}

/// One row of each key.
type Model = BTreeMap<i64, RecordBatch>;

/// The rows of a batch with these keys in their place.
fn keyed(batch: &RecordBatch, keys: &[i64]) -> RecordBatch {
    let mut columns = batch.columns().to_vec();
    columns[0] = Arc::new(Int64Array::from(keys.to_vec()));
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

/// Random changes of keys below `keys`: rows, some to put in and some to take away, with the model brought forward.
fn changes(rng: &mut Rng, model: &mut Model, keys: u64, count: usize) -> RecordBatch {
    let ids: Vec<i64> = (0..count).map(|_| rng.below(keys) as i64).collect();
    let batch = keyed(&rows(rng, 0, count), &ids);
    let deletes: Vec<bool> = (0..count).map(|_| rng.one_in(3)).collect();
    for (row, id) in ids.iter().enumerate() {
        if deletes[row] {
            model.remove(id);
        } else {
            model.insert(*id, batch.slice(row, 1));
        }
    }
    // A row that deletes has its key and nothing else.
    let mask = arrow::array::BooleanArray::from(deletes.clone());
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    for column in columns.iter_mut().skip(1) {
        *column = arrow::compute::nullif(column, &mask).unwrap();
    }
    columns.push(Arc::new(StringArray::from_iter_values(deletes.iter().map(|d| if *d { "delete" } else { "upsert" }))));
    RecordBatch::try_new(arrow_schema(&changes_entry(&entry())), columns).unwrap()
}

async fn apply(lake: &Lake, transfer: u128, batches: &[RecordBatch], onto: Option<&TableManifest>) -> TableManifest {
    let id = TransferId::from_bits(transfer);
    let mut writer = TableWriter::resume(lake.clone(), budget(), id, Shape::changes(&entry())).await.unwrap();
    for batch in batches {
        writer.write(batch.clone()).await.unwrap();
    }
    let came = writer.complete(None).await.unwrap();
    let (cache, shape) = (ChunkCache::default(), Shape::rows(&entry()));
    let merged = merge::apply(lake, &cache, &shape, came, onto).await.unwrap();
    let merged = compact(lake, &cache, budget(), id, &shape, merged).await.unwrap();
    let digest = merged.save(lake, id).await.unwrap();
    TableManifest::load(lake, id, digest).await.unwrap()
}

/// What is read, counted and summed up is what the model has.
async fn must_be(lake: &Lake, manifest: &TableManifest, model: &Model) {
    assert_eq!(read_ids(lake, manifest, None).await.unwrap(), model.keys().copied().collect::<Vec<_>>());
    assert_eq!(manifest.rows(), model.len() as u64);
    let mut digest = RowsDigest::new(&entry());
    let mut regions = Regions::new();
    for row in model.values() {
        let hash = digest.update(row).unwrap()[0];
        let code = row.column(1).as_string::<i32>().value(0).to_owned();
        regions.entry(code).or_default().add_row(hash);
    }
    assert_eq!(manifest.rows_digest(), digest.finish());
    assert_eq!(manifest.regions.as_ref(), Some(&regions));
    let names: Vec<&str> = manifest.columns.iter().map(|c| c.name.as_str()).collect();
    let mut reader = TableReader::open(lake.clone(), Arc::new(manifest.clone()), &names, None).unwrap();
    let mut read = RowsDigest::new(&entry());
    while let Some(batch) = reader.next().await.unwrap() {
        read.update(&batch).unwrap();
    }
    assert_eq!(read.finish(), digest.finish());
}

#[tokio::test]
async fn versions_with_changes_are_what_a_map_of_rows_is() {
    for seed in 0..6 {
        let mut rng = Rng::new(seed);
        let lake = lake(&FakeDisk::new(1 << 30, seed));
        let mut model = Model::new();
        let base = rows(&mut rng, 0, 900);
        (0..900).for_each(|id| drop(model.insert(id as i64, base.slice(id, 1))));
        let (mut manifest, _) =
            write(&lake, TransferId::from_bits(1), std::slice::from_ref(&base), None).await.unwrap();
        must_be(&lake, &manifest, &model).await;
        for step in 0..5u128 {
            let before = (manifest.clone(), model.clone());
            let count = 1 + rng.below(500) as usize;
            let batches: Vec<RecordBatch> = (0..2).map(|_| changes(&mut rng, &mut model, 1200, count)).collect();
            manifest = apply(&lake, 2 + step, &batches, Some(&manifest)).await;
            must_be(&lake, &manifest, &model).await;
            // The version before it is still what it was.
            must_be(&lake, &before.0, &before.1).await;
        }
    }
}

#[tokio::test]
async fn changes_without_a_version_before_them_are_one() {
    let mut rng = Rng::new(9);
    let lake = lake(&FakeDisk::new(1 << 30, 9));
    let mut model = Model::new();
    let batch = changes(&mut rng, &mut model, 50, 200);
    let manifest = apply(&lake, 1, &[batch], None).await;
    must_be(&lake, &manifest, &model).await;
}

#[tokio::test]
async fn many_small_parts_become_few() {
    let mut rng = Rng::new(3);
    let lake = lake(&FakeDisk::new(1 << 30, 3));
    let (cache, shape) = (ChunkCache::default(), Shape::rows(&entry()));
    let mut manifest: Option<TableManifest> = None;
    let mut all = Vec::new();
    for night in 0..40u32 {
        let batch = rows(&mut rng, i64::from(night) * 10, 10);
        let id = TransferId::from_bits(u128::from(night) + 1);
        let mut writer = TableWriter::resume(lake.clone(), budget(), id, shape.clone()).await.unwrap();
        writer.write(batch.clone()).await.unwrap();
        let next = writer.complete(manifest.as_ref()).await.unwrap();
        let next = compact(&lake, &cache, budget(), id, &shape, next).await.unwrap();
        next.save(&lake, id).await.unwrap();
        all.push(batch);
        assert_eq!(next.rows_digest(), digest_of(&all));
        assert!(next.parts.len() <= 33, "{} parts", next.parts.len());
        manifest = Some(next);
    }
    let manifest = manifest.unwrap();
    assert!(manifest.parts.len() < 20, "{} parts", manifest.parts.len());
    assert_eq!(read_ids(&lake, &manifest, None).await.unwrap(), (0..400).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_writer_goes_on_after_what_is_durable_however_it_was_cut() {
    for seed in 0..8 {
        let mut rng = Rng::new(seed);
        let disk = FakeDisk::new(1 << 30, seed);
        let batches: Vec<_> = (0..8).map(|i| rows(&mut rng, i * 500, 500)).collect();
        let whole = concat_batches(&batches[0].schema(), &batches).unwrap();
        let id = TransferId::from_bits(5);
        let mut disk = disk;
        let (mut durable, mut tries) = (RowsSum::default(), 0);
        let manifest = loop {
            let lake = lake(&disk);
            let shape = Shape::rows(&entry());
            let mut writer = TableWriter::resume(lake.clone(), budget(), id, shape).await.unwrap();
            let found = writer.durable();
            assert!(found.count >= durable.count, "what was durable stays: {} of {}", found.count, durable.count);
            let mut digest = RowsDigest::new(&entry());
            digest.update(&whole.slice(0, found.count as usize)).unwrap();
            assert_eq!(digest.sum(), found, "they are the first of the rows");
            let mut at = found.count as usize;
            // The sender cuts its batches anew, and dies somewhere.
            let dies_at = if tries < 4 { at + rng.below(1500) as usize } else { usize::MAX };
            while at < whole.num_rows() && at < dies_at {
                let count = (1 + rng.below(300) as usize).min(whole.num_rows() - at);
                writer.write(whole.slice(at, count)).await.unwrap();
                at += count;
            }
            if at == whole.num_rows() && at < dies_at {
                break writer.finish(None).await.unwrap().0;
            }
            if rng.one_in(2) {
                writer.flush().await.unwrap();
                durable = writer.durable();
            }
            drop(writer);
            disk = disk.crash(seed + tries);
            tries += 1;
        };
        assert_eq!(manifest.rows_digest(), digest_of(&batches));
        let lake = lake(&disk);
        assert_eq!(read_ids(&lake, &manifest, None).await.unwrap(), (0..4000).collect::<Vec<i64>>());
    }
}

#[tokio::test]
async fn a_read_goes_on_from_any_position_with_the_rows_that_are_left() {
    let mut rng = Rng::new(4);
    let lake = lake(&FakeDisk::new(1 << 30, 4));
    let mut model = Model::new();
    let base = rows(&mut rng, 0, 3000);
    let (manifest, _) = write(&lake, TransferId::from_bits(1), std::slice::from_ref(&base), None).await.unwrap();
    let batch = changes(&mut rng, &mut model, 4000, 900);
    let manifest = Arc::new(apply(&lake, 2, &[batch], Some(&manifest)).await);
    let open = || TableReader::open(lake.clone(), manifest.clone(), &["id"], None).unwrap();
    let ids = |batch: &RecordBatch| batch.column(0).as_primitive::<Int64Type>().values().to_vec();
    let (mut reader, mut whole) = (open(), Vec::new());
    let mut positions = vec![(Position::default(), 0)];
    while let Some(batch) = reader.next().await.unwrap() {
        whole.extend(ids(&batch));
        positions.extend(reader.position().map(|position| (position, whole.len())));
    }
    for (position, given) in positions {
        let mut reader = open();
        reader.seek(position);
        let mut rest = Vec::new();
        while let Some(batch) = reader.next().await.unwrap() {
            rest.extend(ids(&batch));
        }
        assert_eq!(rest, whole[given..], "{position:?}");
    }
}

#[tokio::test]
async fn a_column_that_an_entry_gained_is_missing_in_older_rows() {
    let mut rng = Rng::new(6);
    let lake = lake(&FakeDisk::new(1 << 30, 6));
    let first = rows(&mut rng, 0, 40);
    let (old, _) = write(&lake, TransferId::from_bits(1), std::slice::from_ref(&first), None).await.unwrap();
    let mut grown = entry();
    let item = grown.items[4].clone();
    grown.items.push(lingqu_protocol::entry::DataItem { name: "remark".into(), nullable: true, ..item });
    let more = rows(&mut rng, 40, 20);
    let mut columns = more.columns().to_vec();
    columns.push(Arc::new(StringArray::from_iter_values((0..20).map(|i| format!("r{i}")))));
    let more = RecordBatch::try_new(arrow_schema(&grown), columns).unwrap();
    let mut writer = TableWriter::start(lake.clone(), budget(), TransferId::from_bits(2), &grown).await.unwrap();
    writer.write(more.clone()).await.unwrap();
    let (new, _) = writer.finish(Some(&old)).await.unwrap();
    let mut expected = RowsDigest::new(&grown);
    expected.update(&more).unwrap();
    let mut sum = expected.sum();
    let mut before = RowsDigest::new(&entry());
    before.update(&first).unwrap();
    sum.merge(&before.sum());
    assert_eq!(new.rows_digest(), sum.digest());
    let mut reader = TableReader::open(lake.clone(), Arc::new(new), &["id", "remark"], None).unwrap();
    let (mut missing, mut there) = (0, 0);
    while let Some(batch) = reader.next().await.unwrap() {
        let ids = batch.column(0).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            assert_eq!(batch.column(1).is_null(row), ids.value(row) < 40);
            if batch.column(1).is_null(row) { missing += 1 } else { there += 1 }
        }
    }
    assert_eq!((missing, there), (40, 20));
    // What is not a gain at the end needs a full version.
    let mut other = entry();
    other.items[2].nullable = false;
    let mut writer = TableWriter::start(lake.clone(), budget(), TransferId::from_bits(3), &other).await.unwrap();
    assert!(writer.complete(Some(&old)).await.is_err());
}
