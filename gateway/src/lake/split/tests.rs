use super::*;
use arrow::array::{Array, ArrayRef, Int64Array, StringArray};
use lingqu_protocol::frame::{Decoder as Frames, Event};
use object_store::memory::InMemory;
use proptest::prelude::*;
use std::sync::Arc;

const CODES: [&str; 8] = ["44", "4403", "440304", "440304001", "441900", "441900003", "419001", "11"];

fn lake() -> Lake {
    Lake::new(Arc::new(InMemory::new()))
}

/// All columns, in messages as they are.
const PLAIN: Takes<'static> = Takes { columns: None, lz4: false };

/// All columns, in compressed frames too.
const LZ4: Takes<'static> = Takes { columns: None, lz4: true };

fn batch(rows: &[(Option<usize>, i64)]) -> RecordBatch {
    wide(rows, 1)
}

/// Rows whose text says the same so many times.
fn wide(rows: &[(Option<usize>, i64)], times: usize) -> RecordBatch {
    named(rows, |n| format!("secret-{n}").repeat(times))
}

/// Rows whose text, of so many bytes, does not become smaller.
fn noisy(rows: &[(Option<usize>, i64)], bytes: usize) -> RecordBatch {
    named(rows, |n| {
        // From places far from each other.
        let mut state = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let next = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'!' + (state >> 57) as u8 % 90)
        });
        next.take(bytes).collect()
    })
}

fn named(rows: &[(Option<usize>, i64)], name: impl Fn(i64) -> String) -> RecordBatch {
    let codes: ArrayRef = Arc::new(StringArray::from_iter(rows.iter().map(|(code, _)| code.map(|at| CODES[at]))));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, n)| name(*n))));
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, n)| *n)));
    RecordBatch::try_from_iter_with_nullable([("region", codes, true), ("name", names, true), ("n", numbers, true)])
        .unwrap()
}

async fn split(lake: &Lake, batches: &[RecordBatch], spilled: bool) -> Split {
    let folder = Path::from("splits/1");
    let mut splitter = Splitter::new(lake.clone(), folder, batches[0].schema(), 0).unwrap();
    if spilled {
        splitter.memory_bytes_max = 0;
    }
    for batch in batches {
        splitter.add(batch).await.unwrap();
    }
    splitter.finish().await.unwrap()
}

/// The next rows, made from messages where they would go as they are.
async fn next(slice: &Slice, cursor: &mut Cursor, columns: &[usize], aim: usize) -> Option<RecordBatch> {
    match slice.next(cursor, Takes { columns: Some(columns), lz4: true }, aim).await.unwrap()? {
        Piece::Rows(rows) => Some(rows),
        Piece::Ready(_) => panic!("some columns do not go as they are"),
    }
}

async fn read(slice: &Slice, aim: usize) -> Vec<i64> {
    let (mut cursor, mut found) = (Cursor::default(), Vec::new());
    while let Some(batch) = next(slice, &mut cursor, &[2], aim).await {
        let column = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
        assert!(!column.is_empty());
        found.extend(column.values());
    }
    found.sort_unstable();
    found
}

/// The same of all columns, as a receiver gets them.
async fn read_whole(split: &Split, own: &str, takes: Takes<'_>, aim: usize) -> Vec<i64> {
    let (slice, mut cursor, mut found) = (split.slice(&region(own)), Cursor::default(), Vec::new());
    let mut decoder = split.held().decoder().unwrap();
    while let Some(piece) = slice.next(&mut cursor, takes, aim).await.unwrap() {
        let batches = match piece {
            Piece::Rows(rows) => {
                // Only a row that is larger than that is larger than it, and what becomes one message is not.
                assert!(rows.num_rows() == 1 || rows.get_array_memory_size() < 4 * aim + (16 << 10), "{aim}");
                vec![rows]
            }
            Piece::Ready(frames) => frames.iter().map(|f| decoder.decode(message(f)).unwrap().unwrap()).collect(),
        };
        for batch in batches {
            found.extend(batch.column(2).as_any().downcast_ref::<Int64Array>().unwrap().values());
        }
    }
    found.sort_unstable();
    found
}

async fn slice(split: &Split, own: &str, aim: usize) -> Vec<i64> {
    let slice = split.slice(&region(own));
    let found = read(&slice, aim).await;
    assert_eq!(found.len() as u64, slice.rows());
    found
}

/// The message that a frame brings to its receiver.
fn message(frame: &Frame) -> Bytes {
    let body = match &frame.body {
        Body::Plain(message) => return message.clone(),
        Body::Lz4(body) => body.clone(),
    };
    let mut frames = Frames::default().taking_lz4();
    frames.push(body);
    let Some(Event::Batch(message)) = frames.next().unwrap() else { panic!("one frame, and whole") };
    frames.finish().unwrap();
    message
}

fn region(own: &str) -> RegionSlice {
    RegionSlice::new(own.parse().unwrap(), &[], "2026-11-22".parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_slice_has_exactly_its_rows_in_memory_and_beside_the_lake(
        codes in prop::collection::vec(prop::option::weighted(0.9, 0usize..8), 1..200),
        aim in prop_oneof![1usize..4000, 4000usize..1 << 17],
        cut in 1usize..60,
        spilled: bool,
        times in prop_oneof![Just(1usize), Just(60)],
    ) {
        let rows: Vec<(Option<usize>, i64)> = codes.iter().zip(0i64..).map(|(code, n)| (*code, n)).collect();
        let batches: Vec<RecordBatch> = rows.chunks(cut).map(|rows| wide(rows, times)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let lake = lake();
            let split = split(&lake, &batches, spilled).await;
            assert_eq!(split.disk_bytes() > 0, spilled && rows.iter().any(|(code, _)| code.is_some()));
            for own in ["44", "4403", "440304", "4419", "441900", "4190", "41", "11", "12"] {
                let expected: Vec<i64> = rows
                    .iter()
                    .filter(|(code, _)| code.is_some_and(|at| CODES[at].starts_with(own)))
                    .map(|(_, n)| *n)
                    .collect();
                assert_eq!(slice(&split, own, aim).await, expected, "{own}");
                for takes in [PLAIN, LZ4] {
                    assert_eq!(read_whole(&split, own, takes, aim).await, expected, "{own}, {takes:?}");
                }
            }
            // Out of memory in the middle of a read: nothing is lost, and nothing comes twice.
            let own = split.slice(&region("44"));
            let mut cursor = Cursor::default();
            let first = next(&own, &mut cursor, &[2], aim).await.map_or(0, |batch| batch.num_rows());
            split.held().move_out().await.unwrap();
            assert!(!split.held().is_in_memory());
            let mut rest = 0;
            while let Some(batch) = next(&own, &mut cursor, &[2], aim).await {
                rest += batch.num_rows();
            }
            assert_eq!((first + rest) as u64, own.rows());
            let all: Vec<i64> = rows.iter().filter(|(code, _)| code.is_some_and(|at| CODES[at].starts_with("44"))).map(|(_, n)| *n).collect();
            assert_eq!(read(&own, aim).await, all);
        });
    }
}

#[tokio::test]
async fn what_lies_beside_the_lake_is_checked_and_goes_with_its_split() {
    let lake = lake();
    let rows = batch(&[(Some(2), 1), (Some(4), 2)]);
    let held = split(&lake, std::slice::from_ref(&rows), true).await;
    assert!(lake.len(&Path::from("splits/1/0")).await.unwrap().is_some());
    drop(held);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(lake.len(&Path::from("splits/1/0")).await.unwrap().is_none());
    let held = split(&lake, &[rows], true).await;
    let object = Path::from("splits/1/0");
    let mut bytes = lake.get(&object, 1 << 20).await.unwrap().to_vec();
    lake.remove(&object).await.unwrap();
    let last = bytes.len() - 20;
    bytes[last] ^= 1;
    lake.put_new(&object, vec![bytes.into()]).await.unwrap();
    assert!(held.slice(&region("441900")).next(&mut Cursor::default(), PLAIN, 1000).await.is_err());
    clear(&lake).await.unwrap();
    assert!(lake.len(&object).await.unwrap().is_none());
}

#[tokio::test]
async fn damage_of_a_compressed_message_is_found_however_it_is_read() {
    let (lake, object) = (lake(), Path::from("splits/1/0"));
    let held = split(&lake, &[wide(&[(Some(4), 1), (Some(4), 2)], 2_000)], true).await;
    assert!(held.runs.len() == 1 && held.runs.iter().all(Run::is_lz4));
    let own = held.slice(&region("441900"));
    let some = Takes { columns: Some(&[2]), lz4: true };
    let ways = [(LZ4, 1 << 20), (PLAIN, 1 << 20), (some, 1 << 20), (LZ4, 10), (PLAIN, 10)];
    for (takes, aim) in ways {
        assert!(own.next(&mut Cursor::default(), takes, aim).await.is_ok());
    }
    let whole = lake.get(&object, 1 << 20).await.unwrap();
    // Kind, length of the frame, length of the message, and the block.
    for at in [0, 2, 4, 6, 8, 9, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1;
        lake.remove(&object).await.unwrap();
        lake.put_new(&object, vec![bytes.into()]).await.unwrap();
        for (takes, aim) in ways {
            assert!(own.next(&mut Cursor::default(), takes, aim).await.is_err(), "byte {at}, {takes:?}, {aim}");
        }
    }
}

/// Small messages beside one that compression makes small: what is joined is not more than may wait.
#[tokio::test]
async fn what_is_joined_is_counted_as_it_will_be() {
    let mut splitter = Splitter::new(lake(), Path::from("splits/1"), batch(&[]).schema(), 0).unwrap();
    splitter.memory_bytes_max = 0;
    for n in 0..15 {
        splitter.add(&batch(&[(Some(2), n)])).await.unwrap();
    }
    splitter.add(&wide(&[(Some(2), 15)], 12_000)).await.unwrap();
    let split = splitter.finish().await.unwrap();
    let large = split.runs.last().unwrap();
    assert!(split.runs.len() == 16 && large.bytes > 100 << 10 && large.kept_bytes < 4 << 10);
    let (own, mut cursor) = (split.slice(&region("440304")), Cursor::default());
    let Some(Piece::Rows(rows)) = own.next(&mut cursor, LZ4, 16 << 10).await.unwrap() else { panic!("joined") };
    assert_eq!(rows.num_rows(), 15);
    let Some(Piece::Ready(ready)) = own.next(&mut cursor, LZ4, 16 << 10).await.unwrap() else { panic!("as it lies") };
    assert!(matches!(ready.as_slice(), [Frame { body: Body::Lz4(_), .. }]));
    assert!(own.next(&mut cursor, LZ4, 16 << 10).await.unwrap().is_none());
}

/// A compressed frame goes whole where it is not much more than may wait, and in parts where it is.
#[tokio::test]
async fn a_frame_that_is_much_more_than_may_wait_comes_in_parts() {
    let rows: Vec<(Option<usize>, i64)> = (0..2_000).map(|n| (Some(2), n)).collect();
    let split = split(&lake(), &[batch(&rows)], false).await;
    let run = split.runs.first().unwrap();
    let own = split.slice(&region("440304"));
    for (takes, aim, is_whole) in [
        (LZ4, run.kept_bytes.div_ceil(2), true),
        (LZ4, run.kept_bytes.div_ceil(2) - 1, false),
        (PLAIN, run.bytes, true),
        (PLAIN, run.bytes - 1, false),
    ] {
        let piece = own.next(&mut Cursor::default(), takes, aim as usize).await.unwrap().unwrap();
        assert_eq!(matches!(piece, Piece::Ready(_)), is_whole, "{takes:?}, {aim}");
    }
}

/// Of thousands of regions each has a few rows in every batch: together they are one message.
#[tokio::test]
async fn rows_of_one_region_from_many_batches_are_read_at_once() {
    for spilled in [false, true] {
        let folder = Path::from("splits/1");
        let mut splitter = Splitter::new(lake(), folder, batch(&[]).schema(), 0).unwrap();
        for n in 0..20 {
            splitter.add(&batch(&[(Some(2), n), (Some(4), 100 + n)])).await.unwrap();
        }
        splitter.memory_bytes_max = if spilled { 0 } else { MEMORY_BYTES };
        let split = splitter.finish().await.unwrap();
        assert_eq!((split.runs.len(), split.held().is_in_memory()), (2, !spilled));
        let own = split.slice(&region("440304"));
        assert_eq!(read(&own, 1 << 20).await, (0..20).collect::<Vec<i64>>());
    }
}

#[tokio::test]
async fn nothing_of_another_region_is_in_a_slice() {
    // Kept as it is, and compressed.
    for (spilled, times) in [(false, 1), (true, 1), (false, 2_000), (true, 2_000)] {
        let rows = wide(&[(Some(4), 11), (Some(2), 22), (Some(4), 33), (Some(7), 44)], times);
        let split = split(&lake(), std::slice::from_ref(&rows), spilled).await;
        assert!(split.runs.iter().all(|run| run.is_lz4() == (times > 1)));
        let own = split.slice(&region("440304"));
        let found = next(&own, &mut Cursor::default(), &[1, 2], 1 << 20).await.unwrap();
        let mut encoder = Encoder::new(found.schema()).unwrap();
        let mut wire = encoder.schema().unwrap().to_vec();
        wire.extend(encoder.batch(&found).unwrap().0.concat());
        let mut wires = vec![wire];
        for takes in [PLAIN, LZ4] {
            let Some(Piece::Ready(ready)) = own.next(&mut Cursor::default(), takes, 1 << 20).await.unwrap() else {
                panic!("all columns go as they are");
            };
            wires.push(ready.iter().flat_map(|frame| message(frame).to_vec()).collect());
        }
        for wire in wires {
            let text = String::from_utf8_lossy(&wire).into_owned();
            assert!(text.contains("secret-22"));
            for other in ["secret-11", "secret-33", "secret-44"] {
                assert!(!text.contains(other), "{other}");
            }
        }
    }
}

/// What goes as it lies is what would have been made of the rows: message by message, its digest and the sum of its rows.
#[tokio::test]
async fn messages_that_are_ready_say_what_they_hold() {
    let rows: Vec<(Option<usize>, i64)> = (0..40_000).map(|n| (Some([2, 4][n as usize % 2]), n)).collect();
    let rows = batch(&rows);
    for (spilled, takes) in [(false, PLAIN), (true, PLAIN), (false, LZ4), (true, LZ4)] {
        let split = split(&lake(), std::slice::from_ref(&rows), spilled).await;
        let own = split.slice(&region("440304"));
        let (mut cursor, mut sum, mut found) = (Cursor::default(), RowsSum::default(), 0u64);
        let mut decoder = split.held().decoder().unwrap();
        let mut digest = RowsDigest::of_schema(&rows.schema()).unwrap();
        let mut frames = 0;
        while let Some(piece) = own.next(&mut cursor, takes, 1 << 20).await.unwrap() {
            let Piece::Ready(ready) = piece else { panic!("all columns go as they are") };
            for frame in ready {
                let message = message(&frame);
                match frame.body {
                    Body::Plain(_) => assert!(!takes.lz4 || message.len() < AS_IT_IS_BYTES_MIN, "these become smaller"),
                    Body::Lz4(body) => assert!(takes.lz4 && body.len() < message.len()),
                }
                assert_eq!((*blake3::hash(&message).as_bytes(), message.len()), (frame.digest, frame.bytes));
                assert!(message.len() < 2 * RUN_BYTES_MAX, "{} bytes", message.len());
                let batch = decoder.decode(message).unwrap().unwrap();
                assert_eq!(frame.sum.count, batch.num_rows() as u64);
                digest.update(&batch).unwrap();
                sum.merge(&frame.sum);
                found += batch.num_rows() as u64;
                frames += 1;
            }
        }
        assert_eq!((found, sum), (20_000, digest.sum()));
        assert!(frames > 1, "more than one message");
    }
}

/// Few large rows among many small ones: no message is more than a frame holds, and none is lost.
#[tokio::test]
async fn rows_of_very_unequal_size_are_cut_by_their_own() {
    let sizes: Vec<usize> = (0..20_000).map(|n| if n > 19_990 { 3 << 20 } else { 3 }).collect();
    let codes: ArrayRef = Arc::new(StringArray::from_iter_values(sizes.iter().map(|_| "440304")));
    let notes: ArrayRef = Arc::new(StringArray::from_iter_values(sizes.iter().map(|bytes| "x".repeat(*bytes))));
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..20_000));
    let rows = RecordBatch::try_from_iter_with_nullable([
        ("region", codes, true),
        ("name", notes, true),
        ("n", numbers, true),
    ]);
    let rows = rows.unwrap();
    for spilled in [false, true] {
        let split = split(&lake(), std::slice::from_ref(&rows), spilled).await;
        let own = split.slice(&region("440304"));
        assert!(split.runs.iter().all(|run| (run.bytes as usize) < 4 << 20), "at most one large row in a message");
        assert_eq!(read(&own, 64 << 10).await, (0..20_000).collect::<Vec<i64>>());
    }
}

/// A receiver that stands still holds what it was given and not what lies beside it.
#[tokio::test]
async fn what_a_slow_receiver_holds_is_its_own() {
    let rows: Vec<(Option<usize>, i64)> = (0..80).map(|n| (Some([2, 4][n as usize % 2]), n)).collect();
    // Kept as frames, and as they are.
    for (batch, takes) in [(wide(&rows, 2_000), LZ4), (noisy(&rows, 20_000), LZ4), (noisy(&rows, 20_000), PLAIN)] {
        let split = split(&lake(), &[batch], false).await;
        let own = split.slice(&region("440304"));
        assert!(split.runs.len() > 4);
        let one = takes.waiting(split.runs.first().unwrap());
        let Some(Piece::Ready(ready)) = own.next(&mut Cursor::default(), takes, one).await.unwrap() else {
            panic!("all columns go as they are");
        };
        let [Frame { body: Body::Plain(bytes) | Body::Lz4(bytes), .. }] = ready.as_slice() else { panic!("one frame") };
        assert!(bytes.is_unique(), "a view of its block would hold all of it");
    }
}

/// What compression does not make smaller is kept as it is, and so is what is too small to go by itself.
#[tokio::test]
async fn what_would_not_become_smaller_is_not_compressed() {
    let rows: Vec<(Option<usize>, i64)> = (0..5).map(|n| (Some(2), n)).collect();
    for bytes in [20_000, 10] {
        let split = split(&lake(), &[noisy(&rows, bytes)], false).await;
        assert!(split.runs.iter().all(|run| !run.is_lz4()), "{bytes}");
    }
}

/// More and less may wait for each while a slice is sent: nothing comes twice, and nothing is left out.
#[tokio::test]
async fn pieces_may_change_their_size_at_any_time() {
    let rows: Vec<(Option<usize>, i64)> = (0..40_000).map(|n| (Some(2), n)).collect();
    for (spilled, takes) in [(false, PLAIN), (true, PLAIN), (false, LZ4), (true, LZ4)] {
        let split = split(&lake(), &[batch(&rows)], spilled).await;
        let own = split.slice(&region("440304"));
        let (mut cursor, mut sum, mut pieces) = (Cursor::default(), 0, [0; 2]);
        for aim in [16 << 10, 1 << 20, 20 << 10, 300 << 10].into_iter().cycle() {
            match own.next(&mut cursor, takes, aim).await.unwrap() {
                None => break,
                Some(Piece::Ready(ready)) => {
                    sum += ready.iter().map(|frame| frame.sum.count).sum::<u64>();
                    pieces[0] += 1;
                }
                Some(Piece::Rows(rows)) => {
                    sum += rows.num_rows() as u64;
                    pieces[1] += 1;
                }
            }
        }
        assert_eq!(sum, 40_000);
        assert!(pieces.iter().all(|count| *count > 0), "{pieces:?}: both ways were gone");
    }
}

/// A message of few rows is mostly its head: many small ones are sent as few.
#[tokio::test]
async fn small_messages_are_joined() {
    let lake = lake();
    let folder = Path::from("splits/1");
    let mut splitter = Splitter::new(lake, folder, batch(&[]).schema(), 0).unwrap();
    splitter.memory_bytes_max = 0;
    for n in 0..20 {
        // Each batch alone is over the bound: one message each.
        splitter.add(&batch(&[(Some(2), n)])).await.unwrap();
    }
    let split = splitter.finish().await.unwrap();
    assert_eq!(split.runs.len(), 20);
    let own = split.slice(&region("440304"));
    let mut cursor = Cursor::default();
    let Some(Piece::Rows(rows)) = own.next(&mut cursor, LZ4, 1 << 20).await.unwrap() else { panic!("joined") };
    assert_eq!((rows.num_rows(), rows.num_columns()), (20, 3));
    assert!(own.next(&mut cursor, LZ4, 1 << 20).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_let_go_of_is_gone_for_its_readers_and_not_wrong() {
    let rows = batch(&[(Some(2), 1), (Some(4), 2)]);
    let lake = lake();
    let split = split(&lake, std::slice::from_ref(&rows), false).await;
    let own = split.slice(&region("44"));
    assert!(split.held().is_in_memory());
    split.held().let_go();
    assert!(!split.held().is_in_memory() && split.held().memory_bytes() == 0);
    assert!(own.next(&mut Cursor::default(), LZ4, 1000).await.is_err(), "it is asked for again, and made anew");
}

#[tokio::test]
async fn who_sets_a_split_off_gets_its_rows_while_it_is_made_and_the_rest_from_it() {
    // In memory; each batch beside the lake; some batches together beside it.
    let one = batch(&[(Some(0), 0), (Some(7), 100), (None, 200)]).get_array_memory_size();
    let cases = [MEMORY_BYTES, 0, one].into_iter().flat_map(|most| [0usize, 1, 2, 9].map(|taken| (most, taken)));
    for (memory_bytes_max, taken) in cases {
        let (tap, mut tapped) = tap(region("44"));
        let splitter = Splitter::new(lake(), Path::from("splits/1"), batch(&[]).schema(), 0).unwrap();
        let mut splitter = splitter.tapped(Some(tap));
        splitter.memory_bytes_max = memory_bytes_max;
        let (mut seen, mut all) = (Vec::new(), Vec::new());
        let take = |batch: RecordBatch, seen: &mut Vec<i64>| {
            seen.extend(batch.column(2).as_any().downcast_ref::<Int64Array>().unwrap().values());
        };
        for n in 0..9i64 {
            // Every third batch has nothing of the slice.
            let code = if n % 3 == 2 { 7 } else { (n % 6) as usize };
            splitter.add(&batch(&[(Some(code), n), (Some(7), 100 + n), (None, 200 + n)])).await.unwrap();
            if code != 7 {
                all.push(n);
            }
            if seen.len() < taken
                && let Ok(Some(batch)) = tokio::time::timeout(std::time::Duration::ZERO, tapped.next()).await
            {
                take(batch, &mut seen);
            }
        }
        let split = splitter.finish().await.unwrap();
        match memory_bytes_max {
            0 => assert!(!split.held().is_in_memory()),
            MEMORY_BYTES => assert!(split.held().is_in_memory() && split.disk_bytes() == 0),
            _ => assert!(split.disk_bytes() > 0),
        }
        while let Some(batch) = tapped.next().await {
            take(batch, &mut seen);
        }
        let early = seen.len();
        let rest = split.slice(&region("44")).after(tapped.through());
        seen.extend(read(&rest, 1000).await);
        seen.sort_unstable();
        assert_eq!(seen, all, "{memory_bytes_max}, {taken}");
        assert_eq!(early == all.len(), taken == 9, "{taken}: a slow one is not waited for");
    }
}
