use super::*;
use crate::lake::split::{Cursor, Piece, SPLITS, Slice, Splitter, Takes};
use crate::lake::store::Lake;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use lingqu_protocol::backflow::RegionSlice;
use lingqu_protocol::ids::TransferId;
use object_store::memory::InMemory;
use object_store::path::Path;

/// Rows of one step, of about nine mebibytes, of which compression leaves six.
const ROWS: i64 = 300_000;

const TAKES: Takes<'static> = Takes { columns: None, lz4: true };

fn batch() -> RecordBatch {
    let region: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..ROWS).map(|n| ["440303", "440304"][(n % 2) as usize])));
    let noise = |n: i64| n.wrapping_mul(0x5851_f42d_4c95_7f2d).rotate_left(29).wrapping_mul(0x1405_7b7e_f767_814f);
    let number: ArrayRef = Arc::new(Int64Array::from_iter_values((0..ROWS).map(noise)));
    let other: ArrayRef = Arc::new(Int64Array::from_iter_values((ROWS..2 * ROWS).map(noise)));
    RecordBatch::try_from_iter([("region", region), ("number", number), ("other", other)]).unwrap()
}

fn version(number: u64) -> VersionRow {
    VersionRow {
        entry: EntryId::from_bits(1),
        number,
        kind: DataKind::Table,
        transfer: TransferId::from_bits(1),
        manifest: Digest::sha256(b"manifest"),
        bytes: 0,
        files: 0,
        rows: ROWS as u64,
        rows_read: None,
        rows_rejected: None,
        quality: Vec::new(),
        bytes_root: Digest::sha256(b"bytes"),
        rows_digest: None,
        committed_at: 0,
        follows: Some(number - 1),
        sources: Vec::new(),
        retired_at: None,
    }
}

async fn ready(lake: &Lake, number: u64) -> Ready {
    let batch = batch();
    let mut splitter = Splitter::new(lake.clone(), Path::from(format!("splits/{number}")), batch.schema(), 0).unwrap();
    splitter.add(&batch).await.unwrap();
    let came = splitter.finish().await.unwrap();
    assert!(came.held().is_in_memory(), "small enough to stay there");
    let version = version(number);
    Ready { version, mode: SliceMode::Append, gone: None, came, regions: None, places: Vec::new() }
}

async fn count(slice: &Slice, cursor: &mut Cursor) -> u64 {
    let mut rows = 0;
    while let Some(piece) = slice.next(cursor, TAKES, 1 << 20).await.unwrap() {
        rows += of(&piece);
    }
    rows
}

fn of(piece: &Piece) -> u64 {
    match piece {
        Piece::Ready(frames) => frames.iter().map(|frame| frame.sum.count).sum(),
        Piece::Rows(rows) => rows.num_rows() as u64,
    }
}

/// Twenty receivers that each stand still in another version.
#[tokio::test]
async fn what_slow_receivers_of_many_versions_hold_is_bounded_and_still_comes_whole() {
    let (steps, lake) = (Steps::default(), Lake::new(Arc::new(InMemory::new())));
    let own = RegionSlice::new("440304".parse().unwrap(), &[], "2026-11-22".parse().unwrap());
    let entry = EntryId::from_bits(1);
    let mut slow = Vec::new();
    let mut most = 0usize;
    for number in 1..=20 {
        let slot = steps.slot((entry, number - 1, number, Digest::sha256(b"columns")));
        steps.make_room(0).await;
        let made = ready(&lake, number).await;
        steps.make_room(made.memory_bytes()).await;
        steps.hold(&made);
        let slice = made.came.slice(&own);
        slot.set(Arc::new(made)).ok().unwrap();
        let mut cursor = Cursor::default();
        let first = of(&slice.next(&mut cursor, TAKES, 64 << 10).await.unwrap().unwrap());
        slow.push((slice, cursor, first));
        let held =
            steps.held.lock().unwrap().iter().filter_map(Weak::upgrade).map(|held| held.memory_bytes()).sum::<usize>();
        most = most.max(held);
    }
    assert!(most <= KEPT_BYTES, "{most} bytes were held at once");
    assert!(most > KEPT_BYTES / 2, "what fits stays in memory: {most}");
    for (slice, mut cursor, first) in slow {
        assert_eq!(first + count(&slice, &mut cursor).await, ROWS as u64 / 2);
    }
    drop(steps);
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(lake.directories(&Path::from(SPLITS)).await.unwrap().is_empty(), "nothing is left beside the lake");
}

#[tokio::test]
async fn what_is_being_made_is_not_forgotten_for_what_is_made() {
    let (steps, lake) = (Steps::default(), Lake::new(Arc::new(InMemory::new())));
    let key = |n| (EntryId::from_bits(n), 0, 1, Digest::sha256(b"columns"));
    let waiting = steps.slot(key(0));
    let mut made = 0;
    for n in 1..=6 {
        let step = ready(&lake, u64::try_from(n).unwrap()).await;
        made += step.memory_bytes();
        steps.slot(key(n)).set(Arc::new(step)).ok().unwrap();
    }
    assert!(made > KEPT_BYTES, "{made} bytes: some of them is forgotten");
    assert!(Arc::ptr_eq(&waiting, &steps.slot(key(0))), "whoever asks next waits for the same");
}
