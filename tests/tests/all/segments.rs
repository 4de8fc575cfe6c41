//! Segments of file versions: durable or absent, and every flipped bit found.

use bytes::Bytes;
use lingqu_gateway::lake::LakeError;
use lingqu_gateway::lake::local::LocalStore;
use lingqu_gateway::lake::segment::{SegmentStore, VerifiedSegment};
use lingqu_gateway::lake::store::Lake;
use lingqu_protocol::digest::{CHUNK_BYTES, ChunkValue, Digest, RootBuilder, chunk_value};
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::plan::Plan;
use lingqu_tests::faults::disk::FakeDisk;
use lingqu_tests::faults::rng::Rng;
use std::path::PathBuf;
use std::sync::Arc;

const TRANSFER: TransferId = TransferId::from_bits(42);

fn open(disk: &FakeDisk) -> SegmentStore {
    SegmentStore::new(Lake::new(Arc::new(LocalStore::open(Arc::new(disk.clone()), "/lake").unwrap())))
}

/// Segment `segment` of a set with these contents, as a sender cuts it.
pub(crate) fn cut(plan: &Plan, files: &[Vec<u8>], segment: u32) -> (Vec<Bytes>, Vec<ChunkValue>) {
    let items = plan.items(segment).unwrap();
    items
        .iter()
        .map(|item| {
            let file = &files[item.file as usize];
            let start = item.file_offset() as usize;
            let data = &file[start..start + item.bytes as usize];
            (Bytes::copy_from_slice(data), chunk_value(data, item.chunk, file.len() as u64))
        })
        .unzip()
}

fn verified(plan: &Plan, files: &[Vec<u8>], segment: u32) -> VerifiedSegment {
    let (data, values) = cut(plan, files, segment);
    VerifiedSegment::check(plan, segment, data, values).unwrap()
}

fn object(segment: u32) -> PathBuf {
    PathBuf::from(format!("/lake/files/{TRANSFER}/{segment:08}"))
}

#[tokio::test]
async fn files_come_back_and_their_values_combine_to_the_plain_hash() {
    let mut rng = Rng::new(1);
    let sizes = [0, 5, CHUNK_BYTES, CHUNK_BYTES + 1, 9 * CHUNK_BYTES + 17];
    let files: Vec<Vec<u8>> = sizes.iter().map(|size| rng.bytes(*size as usize)).collect();
    let plan = Plan::new(sizes.to_vec()).unwrap();
    let disk = FakeDisk::new(1 << 30, 1);
    let store = open(&disk);
    for segment in (0..plan.segments()).rev() {
        assert!(!store.durable(TRANSFER, &plan).await.unwrap().is_complete());
        store.put(TRANSFER, verified(&plan, &files, segment)).await.unwrap();
    }
    let store = open(&disk.crash(1));
    let durable = store.durable(TRANSFER, &plan).await.unwrap();
    assert!(durable.is_complete() && durable.missing().next().is_none());
    for (index, file) in (0u32..).zip(&files) {
        let (mut root, mut content) = (RootBuilder::new(file.len() as u64), Vec::new());
        for segment in plan.segments_of(index) {
            let reader = store.open(TRANSFER, &plan, segment).await.unwrap();
            for (at, item) in (0u32..).zip(reader.items()).filter(|(_, item)| item.file == index) {
                assert_eq!(item.file_offset(), content.len() as u64);
                content.extend_from_slice(&reader.read_item(at).await.unwrap());
                root.push(reader.values()[at as usize]);
            }
        }
        assert!(content == *file, "file {index}");
        assert_eq!(root.finish(), Some(Digest::blake3(file)), "file {index}");
    }
    store.remove(TRANSFER).await.unwrap();
    assert_eq!(open(&disk.crash(2)).durable(TRANSFER, &plan).await.unwrap().count(), 0);
}

#[tokio::test]
async fn the_same_segment_again_is_no_error_and_another_is_a_conflict() {
    let plan = Plan::new(vec![4, 4]).unwrap();
    let store = open(&FakeDisk::new(1 << 20, 1));
    let first = vec![b"same".to_vec(), b"data".to_vec()];
    store.put(TRANSFER, verified(&plan, &first, 0)).await.unwrap();
    store.put(TRANSFER, verified(&plan, &first, 0)).await.unwrap();
    let other = vec![b"same".to_vec(), b"DATA".to_vec()];
    let error = store.put(TRANSFER, verified(&plan, &other, 0)).await.unwrap_err();
    assert!(matches!(error, LakeError::Conflict { .. }), "{error}");
    let reader = store.open(TRANSFER, &plan, 0).await.unwrap();
    assert_eq!(reader.read_item(1).await.unwrap(), "data");
    assert!(reader.read_item(2).await.is_err());
}

#[tokio::test]
async fn every_flipped_byte_is_found_named_and_put_aside() {
    let files = vec![b"hello".to_vec(), Vec::new(), b"world of water".to_vec()];
    let plan = Plan::new(files.iter().map(|f| f.len() as u64).collect()).unwrap();
    let data_bytes = 19;
    let object_bytes = data_bytes + 3 * 32 + 80;
    for at in 0..object_bytes {
        let disk = FakeDisk::new(1 << 20, 1);
        let store = open(&disk);
        store.put(TRANSFER, verified(&plan, &files, 0)).await.unwrap();
        disk.flip(&object(0), at, 1 << (at % 8)).unwrap();
        let found = match store.open(TRANSFER, &plan, 0).await {
            Err(error) => Err(error),
            Ok(reader) => {
                let (a, b, c) = (reader.read_item(0).await, reader.read_item(1).await, reader.read_item(2).await);
                a.and(b).and(c)
            }
        };
        let Err(LakeError::Damaged { object: named, item, quarantine, .. }) = found else {
            panic!("byte {at}: {found:?}");
        };
        assert_eq!(named, format!("files/{TRANSFER}/00000000"));
        let expected = if at < 5 {
            Some(0)
        } else if at < data_bytes {
            Some(2)
        } else {
            None
        };
        assert_eq!(item, expected, "byte {at}");
        assert_eq!(quarantine, format!("quarantine/files/{TRANSFER}/00000000"));
        assert_eq!(store.durable(TRANSFER, &plan).await.unwrap().count(), 0, "it counts no more");
        store.put(TRANSFER, verified(&plan, &files, 0)).await.unwrap();
        assert_eq!(store.open(TRANSFER, &plan, 0).await.unwrap().read_item(0).await.unwrap(), "hello");
    }
}

#[tokio::test]
async fn a_segment_of_the_wrong_length_does_not_count() {
    let files = vec![vec![1; 100]];
    let plan = Plan::new(vec![100]).unwrap();
    let disk = FakeDisk::new(1 << 20, 1);
    let store = open(&disk);
    store.put(TRANSFER, verified(&plan, &files, 0)).await.unwrap();
    let longer = Plan::new(vec![101]).unwrap();
    assert_eq!(store.durable(TRANSFER, &longer).await.unwrap().count(), 0);
    assert!(matches!(store.values(TRANSFER, &plan, 0).await, Err(LakeError::NotFound { .. })), "it is in quarantine");
}

#[tokio::test]
async fn a_full_disk_is_said_and_nothing_of_the_segment_stays() {
    let files = vec![vec![1; 1000]];
    let plan = Plan::new(vec![1000]).unwrap();
    let disk = FakeDisk::new(500, 1);
    let store = open(&disk);
    let error = store.put(TRANSFER, verified(&plan, &files, 0)).await.unwrap_err();
    assert!(matches!(error, LakeError::Full { .. }), "{error:?}");
    assert_eq!(disk.used_bytes(), 0);
    disk.set_capacity(5000);
    store.put(TRANSFER, verified(&plan, &files, 0)).await.unwrap();
    assert!(store.durable(TRANSFER, &plan).await.unwrap().is_complete());
}

#[tokio::test]
async fn any_object_store_will_do() {
    let files = vec![b"hello".to_vec(), b"world".to_vec()];
    let plan = Plan::new(vec![5, 5]).unwrap();
    let inner = Arc::new(object_store::memory::InMemory::new());
    let store = SegmentStore::new(Lake::new(inner.clone()));
    store.put(TRANSFER, verified(&plan, &files, 0)).await.unwrap();
    assert!(store.durable(TRANSFER, &plan).await.unwrap().is_complete());
    assert_eq!(store.open(TRANSFER, &plan, 0).await.unwrap().read_item(1).await.unwrap(), "world");
    let longer = Plan::new(vec![5, 6]).unwrap();
    assert_eq!(store.durable(TRANSFER, &longer).await.unwrap().count(), 0);
    assert_eq!(store.durable(TRANSFER, &plan).await.unwrap().count(), 0, "it is in quarantine");
    let left: Vec<_> =
        futures::TryStreamExt::try_collect(object_store::ObjectStore::list(inner.as_ref(), None)).await.unwrap();
    assert_eq!(left.len(), 1);
    store.remove(TRANSFER).await.unwrap();
}
