//! Where the pages of providers' files lie, for who wants single rows of them: without it the head of every page before the
//! one that is wanted is read, and a row group of a million rows has tens of megabytes before its last.
//!
//! A map is made from the heads of the pages, which were looked through when the file came and are checked by their values
//! each time they are read; the file's own page index is never read. It is made when it is first wanted and kept for a
//! while.

use super::source::{FileChunks, Source};
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::pages::page_map;
use parquet::file::metadata::page_index::PageIndexProvider;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use std::any::Any;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Pages whose places are kept, for all look-ups together: three megabytes, and those of some hundred million rows.
const KEPT_PAGES: usize = 1 << 17;

/// A column of a row group of a file.
type Key = (TransferId, u32, usize, usize);

/// Maps that were made a moment ago, for all look-ups together. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct PageMaps(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    maps: HashMap<Key, Arc<OffsetIndexMetaData>>,
    /// The oldest first.
    order: VecDeque<Key>,
    pages: usize,
}

impl PageMaps {
    fn get(&self, key: &Key) -> Option<Arc<OffsetIndexMetaData>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).maps.get(key).cloned()
    }

    fn put(&self, key: Key, map: &Arc<OffsetIndexMetaData>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.maps.insert(key, Arc::clone(map)).is_none() {
            kept.order.push_back(key);
            kept.pages += map.page_locations().len();
        }
        while kept.pages > KEPT_PAGES
            && let Some(oldest) = kept.order.pop_front()
        {
            let gone = kept.maps.remove(&oldest).map_or(0, |map| map.page_locations().len());
            kept.pages = kept.pages.saturating_sub(gone);
        }
    }
}

/// The maps of one file, for some of its columns, as Parquet's reader asks for them. Asking reads the file and blocks.
pub(crate) struct FilePages {
    source: Source,
    /// Transfer and number of the file.
    name: (TransferId, u32),
    maps: PageMaps,
    /// For each row group its rows and the columns that are wanted.
    columns: Vec<(u64, Vec<(usize, ColumnChunkMetaData)>)>,
    made: Vec<OnceLock<BTreeMap<usize, Arc<OffsetIndexMetaData>>>>,
}

impl fmt::Debug for FilePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilePages").field("row_groups", &self.columns.len()).finish_non_exhaustive()
    }
}

impl FilePages {
    /// Of the columns in these places of a file with this metadata.
    pub(crate) fn new(file: &Arc<FileChunks>, maps: PageMaps, metadata: &ParquetMetaData, leaves: &[usize]) -> Self {
        let columns = metadata.row_groups().iter().map(|group| {
            let wanted = leaves.iter().filter_map(|leaf| Some((*leaf, group.columns().get(*leaf)?.clone())));
            (u64::try_from(group.num_rows()).unwrap_or(0), wanted.collect())
        });
        let columns: Vec<_> = columns.collect();
        let made = columns.iter().map(|_| OnceLock::new()).collect();
        Self { source: Source::File(Arc::clone(file)), name: file.name(), maps, columns, made }
    }

    fn make(&self, group: usize) -> BTreeMap<usize, Arc<OffsetIndexMetaData>> {
        let Some((rows, columns)) = self.columns.get(group) else { return BTreeMap::new() };
        let map = |(leaf, column): &(usize, ColumnChunkMetaData)| {
            let key = (self.name.0, self.name.1, group, *leaf);
            if let Some(map) = self.maps.get(&key) {
                return Some((*leaf, map));
            }
            // Where the lake fails the reader meets that itself, and says so.
            let map = Arc::new(page_map(&self.source, column, *rows)?);
            self.maps.put(key, &map);
            Some((*leaf, map))
        };
        columns.iter().filter_map(map).collect()
    }
}

impl PageIndexProvider for FilePages {
    fn has_offset_indexes(&self) -> bool {
        true
    }

    fn has_column_indexes(&self) -> bool {
        false
    }

    fn column_index(&self, _row_group: usize, _column: usize) -> Option<&ColumnIndexMetaData> {
        None
    }

    fn offset_index(&self, row_group: usize, column: usize) -> Option<&OffsetIndexMetaData> {
        let made = self.made.get(row_group)?.get_or_init(|| self.make(row_group));
        made.get(&column).map(Arc::as_ref)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use parquet::file::metadata::OffsetIndexBuilder;

    #[test]
    fn maps_are_kept_within_their_bound() {
        let maps = PageMaps::default();
        let mut builder = OffsetIndexBuilder::new();
        (0..1_000).for_each(|page| {
            builder.append_offset_and_size(page * 10, 10);
            builder.append_row_count(1);
        });
        let map = Arc::new(builder.build());
        let key = |group| (TransferId::from_bits(1), 0, group, 0);
        for group in 0..500 {
            maps.put(key(group), &map);
            maps.put(key(group), &map);
        }
        let kept = maps.0.lock().unwrap();
        assert_eq!((kept.pages, kept.maps.len(), kept.order.len()), (131_000, 131, 131));
        assert!(!kept.maps.contains_key(&key(368)) && kept.maps.contains_key(&key(499)));
    }
}
