//! The directories of lists of keys, and those that were read a moment ago.

use super::{KeySection, LINE_BYTES};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of directories that are kept: those of a hundred million rows.
const KEPT_BYTES: usize = 5 << 20;

/// The first hash and the seal of each page.
#[derive(Debug)]
pub(super) struct Directory(Vec<(u64, [u8; 16])>);

impl Directory {
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (lines, rest) = bytes.as_chunks::<{ LINE_BYTES as usize }>();
        let line = |line: &[u8; LINE_BYTES as usize]| {
            let (first, seal) = line.split_first_chunk::<8>()?;
            Some((u64::from_le_bytes(*first), seal.try_into().ok()?))
        };
        let lines: Vec<(u64, [u8; 16])> = lines.iter().map(line).collect::<Option<_>>()?;
        (rest.is_empty() && lines.is_sorted_by_key(|(first, _)| *first)).then_some(Self(lines))
    }

    /// The seal of a page.
    pub(super) fn seal_of(&self, page: usize) -> Option<&[u8; 16]> {
        self.0.get(page).map(|(_, seal)| seal)
    }

    /// Pages that can hold one of these hashes, which are in ascending order; each once, in order.
    pub(super) fn pages_of(&self, hashes: &[u64]) -> Vec<usize> {
        let mut pages = Vec::new();
        for hash in hashes {
            // One before the first that begins with it may end with it.
            let begins = self.0.partition_point(|(first, _)| first < hash);
            let ends = self.0.partition_point(|(first, _)| first <= hash);
            let next = pages.last().map_or(0, |last| last + 1);
            pages.extend(begins.saturating_sub(1).max(next)..ends);
        }
        pages
    }
}

/// Directories that were read a moment ago, for all look-ups together. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct KeyCache(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    directories: HashMap<(String, u64), Arc<Directory>>,
    /// The oldest first.
    order: VecDeque<(String, u64)>,
    bytes: usize,
}

impl KeyCache {
    pub(super) fn get(&self, section: &KeySection) -> Option<Arc<Directory>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.directories.get(&(section.object.clone(), section.pages_at)).cloned()
    }

    pub(super) fn put(&self, section: &KeySection, directory: &Arc<Directory>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (section.object.clone(), section.pages_at);
        if kept.directories.insert(key.clone(), Arc::clone(directory)).is_none() {
            kept.order.push_back(key);
            kept.bytes += directory.0.len() * LINE_BYTES as usize;
        }
        while kept.bytes > KEPT_BYTES
            && let Some(oldest) = kept.order.pop_front()
        {
            let gone = kept.directories.remove(&oldest).map_or(0, |directory| directory.0.len());
            kept.bytes = kept.bytes.saturating_sub(gone * LINE_BYTES as usize);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::encode;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn directories_are_kept_within_their_bound() {
        let cache = KeyCache::default();
        let directory = Arc::new(Directory(vec![(0, [0; 16]); 10_000]));
        let (_, section) = encode(Vec::new(), "keys".into(), 0, vec![]).unwrap();
        for at in 0..100 {
            cache.put(&KeySection { pages_at: at, ..section.clone() }, &directory);
        }
        let kept = cache.0.lock().unwrap();
        assert!(kept.bytes <= KEPT_BYTES && kept.directories.len() == kept.order.len());
        assert_eq!(kept.bytes, kept.directories.len() * 10_000 * LINE_BYTES as usize);
    }

    proptest! {
        #[test]
        fn no_directory_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _read = Directory::read(&bytes);
        }
    }
}
