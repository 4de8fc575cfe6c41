//! How a set of files is cut into segments. Both sides make the same plan from the files' sizes, so that a segment's
//! index means the same bytes on the wire, in the lake and after a resume.
//!
//! A file of more than one chunk has segments of its own, of eight chunks each; files of one chunk are packed together
//! in their order, so that ten thousand small files cost a few objects and not ten thousand.

use crate::digest::{CHUNK_BYTES, chunk_count};
use std::ops::Range;

/// Chunks in a full segment: what is sent again when a side dies is a few segments, and one object put costs one sync.
pub const SEGMENT_CHUNKS: u32 = 8;

/// Bytes in a full segment.
pub const SEGMENT_BYTES: u64 = CHUNK_BYTES * SEGMENT_CHUNKS as u64;

/// Files in one pack: bounds the values that stand behind a segment's data to 128 KiB.
pub const PACK_FILES_MAX: u32 = 4096;

/// Files in one set: the manifest is held in memory on both sides, a few hundred bytes for each.
pub const SET_FILES_MAX: usize = 100_000;

/// Segments in one set: the plan is held in memory on both sides, 32 bytes for each; full segments make 8 TiB.
pub const SET_SEGMENTS_MAX: usize = 1 << 20;

/// A set that cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A set has at least one file.
    #[error("a transfer of files needs at least one file")]
    Empty,
    /// Too many files.
    #[error("{files} files are more than one transfer takes ({SET_FILES_MAX}): send them in several transfers")]
    TooManyFiles {
        /// Files in the set.
        files: usize,
    },
    /// Too many bytes.
    #[error("the set is larger than one transfer takes (8 TiB): send it in several transfers")]
    TooManyBytes,
}

/// One verified piece of a segment: a chunk of a large file, or a whole small file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Index of its file in the set.
    pub file: u32,
    /// Index of the chunk in that file.
    pub chunk: u64,
    /// Where it starts in the segment.
    pub segment_offset: u64,
    /// Its length.
    pub bytes: u32,
}

impl Item {
    /// Where it starts in its file.
    pub const fn file_offset(&self) -> u64 {
        self.chunk * CHUNK_BYTES
    }
}

#[derive(Clone, Debug)]
enum Cut {
    /// Chunks of one large file.
    Slice { file: u32, chunks: Range<u64> },
    /// A range of the small files.
    Pack(Range<u32>),
}

/// A set of files cut into segments.
#[derive(Clone, Debug)]
pub struct Plan {
    sizes: Vec<u64>,
    /// Indices of the files of one chunk, in order.
    small: Vec<u32>,
    cuts: Vec<Cut>,
    bytes: u64,
}

impl Plan {
    /// The plan for files of these sizes, in this order.
    ///
    /// # Errors
    /// No file, or more than one transfer takes.
    pub fn new(sizes: Vec<u64>) -> Result<Self, PlanError> {
        if sizes.is_empty() {
            return Err(PlanError::Empty);
        }
        if sizes.len() > SET_FILES_MAX {
            return Err(PlanError::TooManyFiles { files: sizes.len() });
        }
        let bytes = sizes.iter().try_fold(0u64, |sum, size| sum.checked_add(*size)).ok_or(PlanError::TooManyBytes)?;
        if bytes > SEGMENT_BYTES * SET_SEGMENTS_MAX as u64 {
            return Err(PlanError::TooManyBytes);
        }
        let mut small = Vec::new();
        let mut cuts = Vec::new();
        for (file, size) in (0u32..).zip(&sizes) {
            if *size <= CHUNK_BYTES {
                small.push(file);
                continue;
            }
            let chunks = chunk_count(*size);
            for first in (0..chunks).step_by(SEGMENT_CHUNKS as usize) {
                cuts.push(Cut::Slice { file, chunks: first..chunks.min(first + u64::from(SEGMENT_CHUNKS)) });
            }
        }
        pack(&small, &sizes, &mut cuts);
        if cuts.len() > SET_SEGMENTS_MAX {
            return Err(PlanError::TooManyBytes);
        }
        Ok(Self { sizes, small, cuts, bytes })
    }

    /// Segments in the set.
    pub fn segments(&self) -> u32 {
        self.cuts.len() as u32
    }

    /// Bytes in the set.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Size of each file, in the set's order.
    pub fn sizes(&self) -> &[u64] {
        &self.sizes
    }

    /// Bytes in a segment; `None` where the plan has none with this index.
    pub fn segment_bytes(&self, segment: u32) -> Option<u64> {
        Some(self.items(segment)?.iter().map(|i| u64::from(i.bytes)).sum())
    }

    /// The items of a segment, in order; `None` where the plan has none with this index.
    pub fn items(&self, segment: u32) -> Option<Vec<Item>> {
        let mut segment_offset = 0;
        let mut next = |file: u32, chunk: u64| {
            let size = self.sizes.get(file as usize).copied().unwrap_or(0);
            let bytes = size.saturating_sub(chunk * CHUNK_BYTES).min(CHUNK_BYTES) as u32;
            let item = Item { file, chunk, segment_offset, bytes };
            segment_offset += u64::from(bytes);
            item
        };
        Some(match self.cuts.get(segment as usize)? {
            Cut::Slice { file, chunks } => chunks.clone().map(|chunk| next(*file, chunk)).collect(),
            Cut::Pack(range) => {
                self.small.get(range.start as usize..range.end as usize)?.iter().map(|file| next(*file, 0)).collect()
            }
        })
    }

    /// The segments that hold a file, in the order of its bytes.
    pub fn segments_of(&self, file: u32) -> Vec<u32> {
        let position = self.small.binary_search(&file).ok().map(|p| p as u32);
        (0u32..)
            .zip(&self.cuts)
            .filter(|(_, cut)| match cut {
                Cut::Slice { file: of, .. } => *of == file,
                Cut::Pack(range) => position.is_some_and(|p| range.contains(&p)),
            })
            .map(|(index, _)| index)
            .collect()
    }
}

fn pack(small: &[u32], sizes: &[u64], cuts: &mut Vec<Cut>) {
    let mut start = 0;
    let mut bytes = 0;
    for (position, file) in (0u32..).zip(small) {
        let size = sizes.get(*file as usize).copied().unwrap_or(0);
        if position > start && (bytes + size > SEGMENT_BYTES || position - start == PACK_FILES_MAX) {
            cuts.push(Cut::Pack(start..position));
            start = position;
            bytes = 0;
        }
        bytes += size;
    }
    if (start as usize) < small.len() {
        cuts.push(Cut::Pack(start..small.len() as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(sizes: Vec<u64>) -> Result<(), TestCaseError> {
        let plan = Plan::new(sizes.clone()).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let mut seen: Vec<u64> = vec![0; sizes.len()];
        let mut chunks: Vec<u64> = vec![0; sizes.len()];
        for segment in 0..plan.segments() {
            let items = plan.items(segment).unwrap_or_default();
            prop_assert!(!items.is_empty());
            prop_assert!(plan.segment_bytes(segment) <= Some(SEGMENT_BYTES));
            let mut offset = 0;
            for item in items {
                let file = item.file as usize;
                prop_assert_eq!(item.segment_offset, offset);
                prop_assert_eq!(item.file_offset(), seen[file], "chunks of a file come in order");
                prop_assert!(plan.segments_of(item.file).contains(&segment));
                offset += u64::from(item.bytes);
                seen[file] += u64::from(item.bytes);
                chunks[file] += 1;
            }
        }
        prop_assert_eq!(&seen, &sizes, "every byte is in one segment");
        for (file, size) in sizes.iter().enumerate() {
            prop_assert_eq!(chunks[file], chunk_count(*size), "an empty file has its item too");
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn every_byte_of_every_file_is_in_one_segment(
            sizes in prop::collection::vec(prop_oneof![0u64..5000, 0..3 * CHUNK_BYTES, 0..40 * CHUNK_BYTES], 1..60)
        ) {
            check(sizes)?;
        }
    }

    #[test]
    fn small_files_share_segments_and_large_ones_do_not() {
        let plan = Plan::new(vec![4096; 10_000]);
        assert_eq!(plan.map(|p| p.segments()), Ok(5), "40 MB in packs of 8 MiB");
        let plan = Plan::new(vec![0; 10_000]).map(|p| p.segments());
        assert_eq!(plan, Ok(3), "empty files are bounded by their number");
        let plan =
            Plan::new(vec![10, CHUNK_BYTES + 1, 20]).map(|p| (p.segments_of(0), p.segments_of(1), p.segments_of(2)));
        assert_eq!(plan, Ok((vec![1], vec![0], vec![1])));
    }

    #[test]
    fn sizes_that_a_peer_makes_up_are_refused() {
        assert_eq!(Plan::new(vec![]).err(), Some(PlanError::Empty));
        assert_eq!(Plan::new(vec![u64::MAX, 1]).err(), Some(PlanError::TooManyBytes));
        assert_eq!(Plan::new(vec![u64::MAX]).err(), Some(PlanError::TooManyBytes));
        assert_eq!(
            Plan::new(vec![0; SET_FILES_MAX + 1]).err(),
            Some(PlanError::TooManyFiles { files: SET_FILES_MAX + 1 })
        );
    }
}
