//! Tables in the lake: what is read is what was written, inside the condition and nothing else.

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Decimal128Type, Float64Type, Int64Type};
use lingqu_gateway::lake::LakeError;
use lingqu_gateway::lake::local::LocalStore;
use lingqu_gateway::lake::manifest::{Manifest, TableManifest};
use lingqu_gateway::lake::reader::TableReader;
use lingqu_gateway::lake::store::Lake;
use lingqu_gateway::lake::sweep::Sweeper;
use lingqu_gateway::lake::writer::{TableWriter, WriterBudget};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::predicate::{Predicate, TypedPredicate, Value};
use lingqu_protocol::rows::RowsDigest;
use lingqu_tests::faults::disk::FakeDisk;
use lingqu_tests::faults::rng::Rng;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const TRANSFER: TransferId = TransferId::from_bits(77);

const ENTRY: &str = r#"
name = "个体工商户登记信息"
abstract = "本省个体工商户登记事项"
format = "table"
update_frequency = "daily"
sharing_class = "conditional"
conditions = "限依法履职使用"
purposes = ["低收入家庭核对"]
sharing_methods = ["batch_exchange"]
region_column = "region"
grade = "general-2"

[[items]]
name = "id"
type = "int64"
key = true
grade = "general-2"
personal = false

[[items]]
name = "region"
type = "string"
grade = "general-1"
personal = false

[[items]]
name = "amount"
type = "decimal(15,2)"
grade = "general-2"
personal = false

[[items]]
name = "score"
type = "float64"
grade = "general-2"
personal = false

[[items]]
name = "owner"
type = "string"
grade = "general-3"
personal = true
"#;

/// Short runs, so that small tables have several parts.
const RUN_BYTES: usize = 64 << 10;

const REGIONS: [&str; 6] = ["440304", "440305", "4403", "4401", "110101", "441900"];

pub(crate) fn entry() -> EntrySpec {
    EntrySpec::parse(ENTRY).unwrap()
}

/// `rows` random rows with ids from `first`, in the entry's columns.
pub(crate) fn rows(rng: &mut Rng, first: i64, rows: usize) -> RecordBatch {
    let mut some = |n: u64| (!rng.one_in(5)).then(|| rng.below(n));
    let amounts: Decimal128Array = (0..rows).map(|_| some(1000).map(|n| i128::from(n) - 500)).collect();
    let scores: Float64Array =
        (0..rows).map(|_| some(9).map(|n| [f64::NAN, -0.0, 0.0, 1.5][(n % 4) as usize])).collect();
    let owners: StringArray = (0..rows).map(|_| some(20).map(|n| format!("经营者{n}"))).collect();
    let regions: StringArray = (0..rows).map(|_| Some(REGIONS[rng.below(6) as usize])).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(first..first + rows as i64)),
        Arc::new(regions),
        Arc::new(amounts.with_precision_and_scale(15, 2).unwrap()),
        Arc::new(scores),
        Arc::new(owners),
    ];
    RecordBatch::try_new(lingqu_protocol::columns::arrow_schema(&entry()), columns).unwrap()
}

fn value(batch: &RecordBatch, column: usize, row: usize) -> Value {
    let array = batch.column(column);
    if array.is_null(row) {
        return Value::Null;
    }
    match column {
        0 => Value::Int64(array.as_primitive::<Int64Type>().value(row)),
        2 => Value::Decimal(array.as_primitive::<Decimal128Type>().value(row)),
        3 => Value::Float64(array.as_primitive::<Float64Type>().value(row)),
        _ => Value::String(array.as_string::<i32>().value(row).to_owned()),
    }
}

/// Ids of the rows that the condition selects, by the reference evaluation.
fn expected(batches: &[RecordBatch], predicate: Option<&TypedPredicate>) -> Vec<i64> {
    let mut ids: Vec<i64> = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            if predicate.is_none_or(|p| p.eval_row(&|column| value(batch, column, row)) == Some(true)) {
                ids.push(batch.column(0).as_primitive::<Int64Type>().value(row));
            }
        }
    }
    ids.sort_unstable();
    ids
}

pub(crate) async fn read_ids(
    lake: &Lake,
    manifest: &TableManifest,
    predicate: Option<TypedPredicate>,
) -> Result<Vec<i64>, LakeError> {
    let mut reader = TableReader::open(lake.clone(), Arc::new(manifest.clone()), &["id"], predicate)?;
    let mut ids = Vec::new();
    while let Some(batch) = reader.next().await? {
        assert_eq!(batch.num_columns(), 1);
        ids.extend(batch.column(0).as_primitive::<Int64Type>().values());
    }
    ids.sort_unstable();
    Ok(ids)
}

fn typed(text: &str) -> TypedPredicate {
    Predicate::parse(text).unwrap().check(&entry()).unwrap()
}

pub(crate) fn lake(disk: &FakeDisk) -> Lake {
    Lake::new(Arc::new(LocalStore::open(Arc::new(disk.clone()), "/lake").unwrap()))
}

pub(crate) async fn write(
    lake: &Lake,
    transfer: TransferId,
    batches: &[RecordBatch],
    onto: Option<&TableManifest>,
) -> Result<(TableManifest, Digest), LakeError> {
    let mut writer =
        TableWriter::start(lake.clone(), WriterBudget::with_run_bytes(RUN_BYTES, 2, 1), transfer, &entry()).await?;
    for batch in batches {
        writer.write(batch.clone()).await?;
    }
    writer.finish(onto).await
}

pub(crate) fn digest_of(batches: &[RecordBatch]) -> Digest {
    let mut digest = RowsDigest::new(&entry());
    batches.iter().for_each(|batch| {
        digest.update(batch).unwrap();
    });
    digest.finish()
}

#[tokio::test]
async fn conditions_select_what_the_reference_selects() {
    let mut rng = Rng::new(1);
    let batches: Vec<_> = (0..5).map(|i| rows(&mut rng, i * 400, 400)).collect();
    let disk = FakeDisk::new(1 << 30, 1);
    let (_, digest) = write(&lake(&disk), TRANSFER, &batches, None).await.unwrap();
    let lake = lake(&disk.crash(1));
    let manifest = TableManifest::load(&lake, TRANSFER, digest).await.unwrap();
    assert_eq!(manifest.rows(), 2000);
    assert_eq!(manifest.rows_digest(), digest_of(&batches));
    for text in [
        "region within '44'",
        "region within '4403' and amount > 1.00",
        "not region within '4403'",
        "score >= 1.5 or score = 0",
        "score > 100",
        "owner in ('经营者1', '经营者2') and not (amount between -1 and 1)",
        "owner is null and amount is not null",
        "id >= 1990",
        "id > 5000",
        "amount = 0.01 or region = '441900'",
    ] {
        let predicate = typed(text);
        let got = read_ids(&lake, &manifest, Some(predicate.clone())).await.unwrap();
        assert_eq!(got, expected(&batches, Some(&predicate)), "{text}");
    }
    assert_eq!(read_ids(&lake, &manifest, None).await.unwrap(), expected(&batches, None));
}

#[tokio::test]
async fn columns_come_in_the_order_asked_for_and_only_those() {
    let batch = rows(&mut Rng::new(2), 0, 300);
    let lake = lake(&FakeDisk::new(1 << 30, 1));
    let (manifest, _) = write(&lake, TRANSFER, std::slice::from_ref(&batch), None).await.unwrap();
    let manifest = Arc::new(manifest);
    let predicate = Some(typed("region within '4403' and id < 200"));
    let mut reader = TableReader::open(lake.clone(), manifest.clone(), &["owner", "amount", "id"], predicate).unwrap();
    let mut seen = 0;
    while let Some(got) = reader.next().await.unwrap() {
        let names: Vec<_> = got.schema().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["owner", "amount", "id"]);
        for row in 0..got.num_rows() {
            let id = got.column(2).as_primitive::<Int64Type>().value(row) as usize;
            assert_eq!(got.column(0).slice(row, 1).to_data(), batch.column(4).slice(id, 1).to_data());
            assert_eq!(got.column(1).slice(row, 1).to_data(), batch.column(2).slice(id, 1).to_data());
            seen += 1;
        }
    }
    assert!(seen > 0);
    let open = |columns: &[&str]| TableReader::open(lake.clone(), manifest.clone(), columns, None);
    assert!(matches!(open(&["none"]), Err(LakeError::BadData { .. })));
    assert!(matches!(open(&["id", "id"]), Err(LakeError::BadData { .. })));
}

#[tokio::test]
async fn row_groups_outside_a_region_are_not_read() {
    let mut rng = Rng::new(3);
    // One region after the other, as counties send them.
    let batches: Vec<_> = (0..8)
        .map(|i| {
            let batch = rows(&mut rng, i * 2000, 2000);
            let mut columns = batch.columns().to_vec();
            columns[1] = Arc::new(StringArray::from(vec![["110101", "440304"][usize::from(i >= 4)]; 2000]));
            RecordBatch::try_new(batch.schema(), columns).unwrap()
        })
        .collect();
    let lake = lake(&FakeDisk::new(1 << 30, 1));
    let (manifest, _) = write(&lake, TRANSFER, &batches, None).await.unwrap();
    assert!(manifest.parts.len() > 1, "several runs: {}", manifest.parts.len());
    let groups: usize = manifest.parts.iter().map(|p| p.row_groups.len()).sum();
    let manifest = Arc::new(manifest);
    let left = |text: &str| {
        TableReader::open(lake.clone(), manifest.clone(), &["id"], Some(typed(text))).unwrap().row_groups_left()
    };
    assert_eq!(left("region within '12'"), 0);
    assert_eq!(left("id < 0"), 0);
    let some = left("region within '11'");
    assert!(some > 0 && some < groups, "{some} of {groups}");
    assert!(left("region within '44'") < groups);
    let predicate = typed("region within '11'");
    assert_eq!(
        read_ids(&lake, &manifest, Some(predicate.clone())).await.unwrap(),
        expected(&batches, Some(&predicate))
    );
}

#[tokio::test]
async fn appending_goes_on_from_the_parts_that_are_there() {
    let mut rng = Rng::new(4);
    let (first, second) = (rows(&mut rng, 0, 100), rows(&mut rng, 100, 50));
    let lake = lake(&FakeDisk::new(1 << 30, 1));
    let (old, _) = write(&lake, TRANSFER, std::slice::from_ref(&first), None).await.unwrap();
    let next = TransferId::from_bits(78);
    let (new, digest) = write(&lake, next, std::slice::from_ref(&second), Some(&old)).await.unwrap();
    assert_eq!(new.parts[0].digest, old.parts[0].digest);
    assert_eq!(new.rows_digest(), digest_of(&[first, second]));
    let loaded = TableManifest::load(&lake, next, digest).await.unwrap();
    assert_eq!(read_ids(&lake, &loaded, None).await.unwrap(), (0..150).collect::<Vec<i64>>());
    let again =
        TableWriter::start(lake.clone(), WriterBudget::with_run_bytes(RUN_BYTES, 1, 1), TRANSFER, &entry()).await;
    assert!(matches!(again, Err(LakeError::Conflict { .. })), "a finished version is not begun again");
}

#[tokio::test]
async fn bad_rows_are_named() {
    let lake = lake(&FakeDisk::new(1 << 30, 1));
    let good = rows(&mut Rng::new(5), 0, 10);
    let with = |column: usize, array: ArrayRef| {
        let mut columns = good.columns().to_vec();
        columns[column] = array;
        let schema = good.schema();
        let fields: Vec<_> = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns).unwrap()
    };
    let mut codes = vec![Some("4403"); 10];
    codes[6] = Some("440300");
    let padded = with(1, Arc::new(StringArray::from(codes.clone())));
    codes[6] = None;
    let missing = with(1, Arc::new(StringArray::from(codes)));
    let no_key = with(0, Arc::new(Int64Array::from_iter((0..10).map(|i| (i != 3).then_some(i)))));
    let fewer = good.project(&[0, 1]).unwrap();
    for (batch, part) in [
        (padded, "row 17, column region"),
        (missing, "row 17, column region"),
        (no_key, "row 14, column id"),
        (fewer, "other columns"),
    ] {
        let mut writer =
            TableWriter::start(lake.clone(), WriterBudget::with_run_bytes(RUN_BYTES, 1, 1), TRANSFER, &entry())
                .await
                .unwrap();
        writer.write(good.clone()).await.unwrap();
        let error = match writer.write(batch).await {
            // Regions are looked at when the run is written.
            Ok(()) => writer.flush().await.unwrap_err(),
            Err(error) => error,
        };
        assert!(matches!(error, LakeError::BadData { .. }) && error.to_string().contains(part), "{error}");
    }
}

#[tokio::test]
async fn writers_that_share_little_memory_all_end() {
    let mut rng = Rng::new(6);
    let batches: Vec<_> = (0..3).map(|i| rows(&mut rng, i * 600, 600)).collect();
    let lake = lake(&FakeDisk::new(1 << 30, 1));
    let budget = WriterBudget::with_run_bytes(RUN_BYTES, 1, 1);
    let tasks = (0..6u128).map(|n| {
        let (lake, budget, batches) = (lake.clone(), budget.clone(), batches.clone());
        tokio::spawn(async move {
            let mut writer = TableWriter::start(lake, budget, TransferId::from_bits(n), &entry()).await.unwrap();
            for batch in batches {
                writer.write(batch).await.unwrap();
                tokio::task::yield_now().await;
            }
            writer.finish(None).await.unwrap().0.rows()
        })
    });
    for done in futures::future::join_all(tasks).await {
        assert_eq!(done.unwrap(), 1_800);
    }
}

/// Polls a future once and drops it, as a select does when another branch is first. The runtime's only thread for
/// blocking work has something else to do meanwhile, so that the future cannot be done at once.
async fn cut_short<T>(future: impl Future<Output = T>) {
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let busy = tokio::task::spawn_blocking(move || wait.recv().is_err());
    assert!(futures::future::FutureExt::now_or_never(future).is_none(), "it was done at once");
    drop(go_on);
    assert!(busy.await.unwrap());
}

#[test]
fn what_was_cut_short_does_not_go_on_with_rows_missing() {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    runtime.block_on(cut_short_everywhere());
}

async fn cut_short_everywhere() {
    let batch = rows(&mut Rng::new(10), 0, 50);
    let lake = lake(&FakeDisk::new(1 << 30, 1));
    let budget = WriterBudget::new(1, 1);
    let mut writer = TableWriter::start(lake.clone(), budget.clone(), TRANSFER, &entry()).await.unwrap();
    cut_short(writer.write(batch.clone())).await;
    assert!(writer.write(batch.clone()).await.is_err());
    assert!(writer.finish(None).await.is_err());

    let mut writer = TableWriter::start(lake.clone(), budget, TRANSFER, &entry()).await.unwrap();
    writer.write(batch.clone()).await.unwrap();
    writer.flush().await.unwrap();
    writer.write(rows(&mut Rng::new(11), 50, 50)).await.unwrap();
    let (manifest, _) = writer.finish(None).await.unwrap();
    assert_eq!((manifest.rows(), manifest.parts.len()), (100, 2), "a flush gives a part of its own");
    let mut reader = TableReader::open(lake, Arc::new(manifest), &["id"], None).unwrap();
    cut_short(reader.next()).await;
    assert!(reader.next().await.is_err());
}

#[tokio::test]
async fn batches_keep_near_their_aim_even_where_dictionaries_made_long_texts_small() {
    let lake = lake(&FakeDisk::new(1 << 30, 1));
    let mut writer = TableWriter::start(lake.clone(), WriterBudget::new(2, 1), TRANSFER, &entry()).await.unwrap();
    for i in 0..5 {
        let batch = rows(&mut Rng::new(12), i * 3000, 3000);
        let mut columns = batch.columns().to_vec();
        columns[4] = Arc::new(StringArray::from(vec!["长".repeat(340); 3000]));
        writer.write(RecordBatch::try_new(batch.schema(), columns).unwrap()).await.unwrap();
    }
    let (manifest, _) = writer.finish(None).await.unwrap();
    assert!(manifest.bytes() < 1 << 20, "the dictionary works: {} bytes", manifest.bytes());
    let mut reader = TableReader::open(lake, Arc::new(manifest), &["owner"], None).unwrap();
    let mut batches = 0;
    while let Some(batch) = reader.next().await.unwrap() {
        assert!(batch.get_array_memory_size() <= lingqu_protocol::ipc::BATCH_BYTES_AIM * 3 / 2);
        batches += 1;
    }
    assert!(batches >= 3);
}

#[tokio::test]
async fn every_flipped_byte_of_a_part_is_found_or_was_not_needed() {
    let batch = rows(&mut Rng::new(7), 0, 20);
    let disk = FakeDisk::new(1 << 30, 1);
    let lake = lake(&disk);
    let (manifest, _) = write(&lake, TRANSFER, std::slice::from_ref(&batch), None).await.unwrap();
    let part = &manifest.parts[0];
    let path = PathBuf::from(format!("/lake/{}", part.object));
    let aside = PathBuf::from(format!("/lake/quarantine/{}", part.object));
    let columns: Vec<&str> = manifest.columns.iter().map(|c| c.name.as_str()).collect();
    let mut found = 0;
    for at in 0..part.bytes {
        disk.flip(&path, at as usize, 1 << (at % 8)).unwrap();
        let mut reader = TableReader::open(lake.clone(), Arc::new(manifest.clone()), &columns, None).unwrap();
        match reader.next().await {
            Ok(Some(got)) => {
                // Only the magic numbers around the columns and the metadata are read by nobody.
                assert!(at < 4 || at >= part.bytes - 8, "byte {at}");
                assert_eq!(got.num_rows(), 20);
                disk.flip(&path, at as usize, 1 << (at % 8)).unwrap();
            }
            Ok(None) => panic!("byte {at}: rows are gone"),
            Err(LakeError::Damaged { object, .. }) => {
                assert_eq!(object, part.object);
                found += 1;
                disk_move(&disk, &aside, &path);
                disk.flip(&path, at as usize, 1 << (at % 8)).unwrap();
            }
            Err(other) => panic!("byte {at}: {other:?}"),
        }
    }
    assert_eq!(found, part.bytes - 12);
}

fn disk_move(disk: &FakeDisk, from: &std::path::Path, to: &std::path::Path) {
    use lingqu_protocol::host::Disk;
    disk.rename(from, to).unwrap();
}

#[tokio::test]
async fn a_full_disk_is_said_and_another_attempt_clears_the_first() {
    let mut rng = Rng::new(8);
    let batches: Vec<_> = (0..8).map(|i| rows(&mut rng, i * 600, 600)).collect();
    let disk = FakeDisk::new(1 << 30, 1);
    let (manifest, _) = write(&lake(&disk), TransferId::from_bits(1), &batches, None).await.unwrap();
    assert!(manifest.parts.len() > 1);
    disk.set_capacity(disk.used_bytes() + manifest.parts[0].bytes as usize + 10);
    let error = write(&lake(&disk), TRANSFER, &batches, None).await.unwrap_err();
    assert!(matches!(error, LakeError::Full { .. }), "{error:?}");
    disk.set_capacity(1 << 30);
    let (again, _) = write(&lake(&disk), TRANSFER, &batches, None).await.unwrap();
    assert_eq!(again.rows_digest(), manifest.rows_digest());
}

#[tokio::test]
async fn orphans_are_swept_once_they_are_old_and_versions_stay() {
    let batch = rows(&mut Rng::new(9), 0, 20);
    let lake = lake(&FakeDisk::new(1 << 30, 1));
    let orphan = TransferId::from_bits(1);
    let (manifest, _) = write(&lake, TRANSFER, std::slice::from_ref(&batch), None).await.unwrap();
    write(&lake, orphan, std::slice::from_ref(&batch), None).await.unwrap();
    let mut sweeper = Sweeper::new(lake.clone(), Duration::from_secs(60));
    let live = |id| id == TRANSFER;
    assert_eq!(sweeper.sweep(Duration::from_secs(1000), live).await.unwrap(), []);
    assert_eq!(sweeper.sweep(Duration::from_secs(1059), live).await.unwrap(), []);
    assert_eq!(sweeper.sweep(Duration::from_secs(1060), live).await.unwrap(), [orphan]);
    assert_eq!(sweeper.sweep(Duration::from_secs(2000), live).await.unwrap(), []);
    assert_eq!(sweeper.sweep(Duration::from_secs(3000), live).await.unwrap(), []);
    assert_eq!(read_ids(&lake, &manifest, None).await.unwrap().len(), 20);
}
