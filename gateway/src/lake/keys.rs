//! Where the rows of a key lie: for each part, the hashes of its rows' keys in order, each with its row. Made by ingest from
//! the values themselves; what a provider's file says of its values is never read.
//!
//! A section lists the keys of some rows of a part: pages of `PAGE_ENTRIES` entries (hash of the key, 8 bytes; row, counted
//! from the section's first one, 4 bytes; little-endian, in ascending order of both), then a directory with the first hash
//! of each page and the first 16 bytes of the page's BLAKE3 hash. The manifest vouches for the directory, and that for the
//! pages. A section of a run lies in the run's object, those of a provider's file in objects of their own.
//!
//! A look-up reads one page of each section. What it finds are candidates: two keys may have one hash, so whoever reads the
//! rows compares the keys. A key that is there is always found. A section that is damaged is not used, nor one over other
//! columns than the key has now: the part is looked through then.

mod directory;

pub use directory::KeyCache;

use super::error::LakeError;
use super::manifest::Slice;
use super::store::Lake;
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Float64Type};
use bytes::{BufMut, Bytes, BytesMut};
use directory::Directory;
use lingqu_protocol::rows::RowsDigest;
use object_store::path::Path;
use std::ops::Range;
use std::sync::Arc;

/// Entries of a page: six kilobytes, which is one read of a disk.
pub(crate) const PAGE_ENTRIES: usize = 512;

/// Bytes of an entry.
const ENTRY_BYTES: usize = 12;

/// Bytes of a page's line in the directory.
pub(crate) const LINE_BYTES: u64 = 24;

/// Rows that one section of a provider's file lists: eight megabytes while it is made.
pub(crate) const SECTION_ROWS_MAX: usize = 1 << 19;

/// Bytes of pages that are read at once.
const READ_BYTES: usize = 1 << 20;

/// Where the keys of some rows of a part are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySection {
    /// The object.
    pub object: String,
    /// Where its pages start.
    pub pages_at: u64,
    /// Its directory, behind the pages.
    pub directory: Slice,
    /// The row of the part that its rows are counted from.
    pub first_row: u64,
    /// Rows that it lists.
    pub rows: u64,
    /// Places of the key's columns, of which the hashes are.
    pub columns: Vec<usize>,
}

impl KeySection {
    /// Bytes of pages and directory.
    pub(crate) const fn bytes(&self) -> u64 {
        self.directory.offset.saturating_add(self.directory.bytes).saturating_sub(self.pages_at)
    }

    /// Where the directory of so many rows stands, and its length; `None` where that is nowhere.
    pub(crate) fn directory_place(pages_at: u64, rows: u64) -> Option<(u64, u64)> {
        let bytes = rows.div_ceil(PAGE_ENTRIES as u64).checked_mul(LINE_BYTES)?;
        let offset = pages_at.checked_add(rows.checked_mul(ENTRY_BYTES as u64)?)?;
        offset.checked_add(bytes).map(|_| (offset, bytes))
    }

    /// Whether its numbers fit each other.
    fn is_whole(&self) -> bool {
        Self::directory_place(self.pages_at, self.rows) == Some((self.directory.offset, self.directory.bytes))
    }
}

/// The hashes of keys, a row each. Zeros are alike, as they are where values are compared.
///
/// # Errors
/// A column of no item's type.
pub(crate) fn key_hashes(keys: &RecordBatch) -> Result<Vec<u64>, LakeError> {
    let columns = keys.columns().iter().map(zeros_alike).collect();
    let keys = RecordBatch::try_new(keys.schema(), columns).map_err(|e| LakeError::columns("reading keys", e))?;
    let digest = RowsDigest::of_schema(keys.schema_ref());
    let mut digest = digest.ok_or_else(|| LakeError::columns("reading keys", "a key of no item's type"))?;
    let hashes = digest.update(&keys).map_err(|e| LakeError::columns("reading keys", e))?;
    Ok(hashes.iter().map(|hash| *hash as u64).collect())
}

/// A column of floats with one zero; any other as it is.
pub(crate) fn zeros_alike(column: &ArrayRef) -> ArrayRef {
    match column.as_primitive_opt::<Float64Type>() {
        Some(floats) if *column.data_type() == DataType::Float64 => {
            let alike: Float64Array = floats.unary(|value| if value == 0.0 { 0.0 } else { value });
            Arc::new(alike)
        }
        _ => Arc::clone(column),
    }
}

/// Sorts and encodes a section whose entries are hashes with rows of the part; its pages will start at `pages_at` of
/// `object`.
///
/// # Errors
/// Rows that lie further apart than a section reaches: ours.
pub(crate) fn encode(
    mut entries: Vec<(u64, u64)>,
    object: String,
    pages_at: u64,
    columns: Vec<usize>,
) -> Result<(Bytes, KeySection), LakeError> {
    entries.sort_unstable();
    let first_row = entries.iter().map(|(_, row)| *row).min().unwrap_or(0);
    let pages = entries.len().div_ceil(PAGE_ENTRIES);
    let mut bytes = BytesMut::with_capacity(entries.len() * ENTRY_BYTES + pages * LINE_BYTES as usize);
    let mut directory = BytesMut::with_capacity(pages * LINE_BYTES as usize);
    for page in entries.chunks(PAGE_ENTRIES) {
        let start = bytes.len();
        for (hash, row) in page {
            let place = u32::try_from(row - first_row).map_err(|e| LakeError::columns("listing keys", e))?;
            bytes.put_u64_le(*hash);
            bytes.put_u32_le(place);
        }
        directory.put_u64_le(page.first().map_or(0, |(hash, _)| *hash));
        directory.put_slice(&seal(bytes.get(start..).unwrap_or_default()));
    }
    let slice = Slice {
        offset: pages_at + bytes.len() as u64,
        bytes: directory.len() as u64,
        digest: *blake3::hash(&directory).as_bytes(),
    };
    bytes.put_slice(&directory);
    let rows = entries.len() as u64;
    Ok((bytes.freeze(), KeySection { object, pages_at, directory: slice, first_row, rows, columns }))
}

fn seal(page: &[u8]) -> [u8; 16] {
    let hash = blake3::hash(page);
    let (first, _) = hash.as_bytes().split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
    *first
}

/// Candidates for these hashes, which are in ascending order and each there once: (hash, row of the part).
///
/// # Errors
/// The section is damaged, or the store failed.
pub(crate) async fn find(
    lake: &Lake,
    cache: &KeyCache,
    section: &KeySection,
    hashes: &[u64],
) -> Result<Vec<(u64, u64)>, LakeError> {
    let object = Path::from(section.object.as_str());
    let directory = match cache.get(section) {
        Some(directory) => directory,
        None => {
            let Slice { offset, bytes, digest } = section.directory;
            let read = lake.range(&object, offset..offset.saturating_add(bytes)).await?;
            let whole = blake3::hash(&read).as_bytes() == &digest;
            let directory = Directory::read(&read).filter(|_| whole && section.is_whole());
            let directory = Arc::new(directory.ok_or_else(damaged)?);
            cache.put(section, &directory);
            directory
        }
    };
    let mut found = Vec::new();
    let pages = directory.pages_of(hashes);
    for some in pages.chunks(READ_BYTES / (PAGE_ENTRIES * ENTRY_BYTES)) {
        let runs = runs(some);
        let ranges: Vec<Range<u64>> =
            runs.iter().map(|run| page_range(section, run.start).start..page_range(section, run.end - 1).end).collect();
        let read = lake.ranges(&object, &ranges).await?;
        for (run, bytes) in runs.into_iter().zip(read) {
            for (page, bytes) in run.zip(bytes.chunks(PAGE_ENTRIES * ENTRY_BYTES)) {
                let sealed = directory.seal_of(page).is_some_and(|sealed| *sealed == seal(bytes));
                if !sealed {
                    return Err(damaged());
                }
                in_page(bytes, hashes, section.first_row, &mut found);
            }
        }
    }
    Ok(found)
}

fn damaged() -> LakeError {
    LakeError::columns("looking a key up", "a list of keys is not what was written")
}

fn page_range(section: &KeySection, page: usize) -> Range<u64> {
    let page_bytes = (PAGE_ENTRIES * ENTRY_BYTES) as u64;
    let start = section.pages_at.saturating_add(page as u64 * page_bytes);
    start..start.saturating_add(page_bytes).min(section.directory.offset)
}

/// Pages that follow each other, as ranges.
fn runs(pages: &[usize]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for page in pages {
        match runs.last_mut() {
            Some(run) if run.end == *page => run.end += 1,
            _ => runs.push(*page..page + 1),
        }
    }
    runs
}

/// Adds the entries of a page whose hash is one of these.
fn in_page(page: &[u8], hashes: &[u64], first_row: u64, found: &mut Vec<(u64, u64)>) {
    let (entries, _) = page.as_chunks::<ENTRY_BYTES>();
    let hash_of = |entry: &[u8; ENTRY_BYTES]| entry.first_chunk::<8>().map_or(0, |hash| u64::from_le_bytes(*hash));
    let (Some(least), Some(most)) = (entries.first().map(hash_of), entries.last().map(hash_of)) else { return };
    let from = hashes.partition_point(|hash| *hash < least);
    for hash in hashes.iter().skip(from).take_while(|hash| **hash <= most) {
        let start = entries.partition_point(|entry| hash_of(entry) < *hash);
        for entry in entries.iter().skip(start).take_while(|entry| hash_of(entry) == *hash) {
            let place = entry.last_chunk::<4>().map_or(0, |place| u32::from_le_bytes(*place));
            found.push((*hash, first_row + u64::from(place)));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray};
    use object_store::memory::InMemory;
    use proptest::prelude::*;

    async fn kept(entries: Vec<(u64, u64)>, pages_at: usize) -> (Lake, KeySection) {
        let lake = Lake::new(Arc::new(InMemory::new()));
        let (bytes, section) = encode(entries, "keys".into(), pages_at as u64, vec![0]).unwrap();
        assert!(section.is_whole() && section.bytes() == bytes.len() as u64);
        let before = Bytes::from(vec![7; pages_at]);
        lake.put_new(&Path::from("keys"), vec![before, bytes, Bytes::from_static(b"behind")]).await.unwrap();
        (lake, section)
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    fn batch(column: ArrayRef) -> RecordBatch {
        RecordBatch::try_from_iter([("k", column)]).unwrap()
    }

    #[test]
    fn one_page_is_read_for_one_key_whatever_the_rows() {
        run(async {
            let rows = 200_000u64;
            let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
            let hashes = key_hashes(&batch(keys)).unwrap();
            let (lake, section) = kept(hashes.iter().copied().zip(0..).collect(), 100).await;
            let cache = KeyCache::default();
            let directory_pages = rows.div_ceil(PAGE_ENTRIES as u64);
            assert_eq!(section.directory.bytes, directory_pages * LINE_BYTES);
            for row in [0, 1, 777, rows - 1] {
                let hash = hashes[row as usize];
                let found = find(&lake, &cache, &section, &[hash]).await.unwrap();
                assert!(found.contains(&(hash, row)), "no false negative");
                assert_eq!(found.len(), 1, "64 bits of 200,000 keys");
                assert!(cache.get(&section).unwrap().pages_of(&[hash]).len() <= 2);
            }
        });
    }

    #[test]
    fn keys_that_are_not_there_are_hardly_ever_candidates() {
        run(async {
            let there: ArrayRef = Arc::new(Int64Array::from_iter_values((0..50_000).map(|n| n * 2)));
            let hashes = key_hashes(&batch(there)).unwrap();
            let (lake, section) = kept(hashes.into_iter().zip(0..).collect(), 0).await;
            let absent: ArrayRef = Arc::new(Int64Array::from_iter_values((0..50_000).map(|n| n * 2 + 1)));
            let mut asked = key_hashes(&batch(absent)).unwrap();
            asked.sort_unstable();
            let found = find(&lake, &KeyCache::default(), &section, &asked).await.unwrap();
            // 50,000 × 50,000 pairs over 2^64: one would be a wonder.
            assert_eq!(found, []);
        });
    }

    #[test]
    fn a_byte_that_changed_is_found() {
        run(async {
            let entries: Vec<_> = (0..2_000u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15), n)).collect();
            let (bytes, section) = encode(entries.clone(), "keys".into(), 0, vec![0]).unwrap();
            let mut asked: Vec<u64> = entries.iter().map(|(hash, _)| *hash).collect();
            asked.sort_unstable();
            for at in (0..bytes.len()).step_by(97) {
                let lake = Lake::new(Arc::new(InMemory::new()));
                let mut changed = bytes.to_vec();
                changed[at] ^= 1;
                lake.put_new(&Path::from("keys"), vec![changed.into()]).await.unwrap();
                assert!(find(&lake, &KeyCache::default(), &section, &asked).await.is_err(), "byte {at}");
            }
        });
    }

    #[test]
    fn zeros_are_one_key_and_other_floats_are_not() {
        let hashes = |values: Vec<f64>| key_hashes(&batch(Arc::new(Float64Array::from(values)))).unwrap();
        let found = hashes(vec![0.0, -0.0, 1.0, f64::NAN, -f64::NAN]);
        assert!(found[0] == found[1] && found[0] != found[2] && found[3] == found[4]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_key_that_is_there_is_found_and_nothing_else(
            // Few different hashes and whole pages of one, so that pages begin and end in their middle.
            hashes in prop::collection::vec(prop_oneof![0u64..40, any::<u64>()], 0..3_000),
            first in 0u64..1 << 40, asked in prop::collection::btree_set(prop_oneof![0u64..60, any::<u64>()], 0..30),
        ) {
            let entries: Vec<(u64, u64)> = hashes.iter().copied().zip(first..).collect();
            let asked: Vec<u64> = asked.into_iter().chain(hashes.first().copied()).collect::<std::collections::BTreeSet<_>>()
                .into_iter().collect();
            let mut expected: Vec<_> = entries.iter().copied().filter(|(hash, _)| asked.contains(hash)).collect();
            let mut found = run(async {
                let (lake, section) = kept(entries, 13).await;
                find(&lake, &KeyCache::default(), &section, &asked).await.unwrap()
            });
            expected.sort_unstable();
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn the_same_key_has_one_hash_in_every_batch(texts in prop::collection::vec("\\PC{0,8}", 1..40), at in any::<prop::sample::Index>()) {
            let all = key_hashes(&batch(Arc::new(StringArray::from(texts.clone())))).unwrap();
            let at = at.index(texts.len());
            let one = key_hashes(&batch(Arc::new(StringArray::from(vec![texts[at].clone()])))).unwrap();
            prop_assert_eq!(one[0], all[at]);
        }
    }
}
