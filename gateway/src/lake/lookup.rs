//! Finds the rows of keys in a version: by the lists of keys of its parts, and where a part has none, by looking its keys
//! through.

use super::deleted::Deleted;
use super::error::LakeError;
use super::keys::{KeyCache, KeySection, find, key_hashes};
use super::manifest::{Part, TableManifest};
use super::page_maps::PageMaps;
use super::reader::{Chosen, TableReader};
use super::source::ChunkCache;
use super::store::Lake;
use futures::StreamExt;
use futures::future::BoxFuture;
use lingqu_protocol::predicate::TypedPredicate;
use std::sync::Arc;

/// Sections that are looked into at a time: reads wait for a disk, not for a processor.
const SECTIONS_AT_ONCE: usize = 8;

/// A part's place, a section of it, and what was found there.
type Look = (usize, KeySection, Result<Vec<(u64, u64)>, LakeError>);

/// What a look-up reads.
#[derive(Clone)]
pub struct Lookup {
    lake: Lake,
    chunks: ChunkCache,
    cache: KeyCache,
    maps: PageMaps,
}

impl Lookup {
    /// On this lake, with what readers of files share.
    pub fn new(lake: Lake, chunks: ChunkCache) -> Self {
        Self { lake, chunks, cache: KeyCache::default(), maps: PageMaps::default() }
    }

    /// Rows that may have one of these keys, none of them taken away by a later change: all rows that do, and hardly any
    /// others. `columns` are the places of the key's columns in the version, in the order of `hashes`' making, and `near`
    /// is what a row with one of the keys must be, as far as that is known. `None` where there are more than `rows_max`.
    ///
    /// # Errors
    /// Damaged at rest; the store failed.
    pub async fn rows(
        &self,
        manifest: &Arc<TableManifest>,
        columns: &[usize],
        hashes: &[u64],
        near: Option<&TypedPredicate>,
        rows_max: usize,
    ) -> Result<Option<Chosen>, LakeError> {
        let mut hashes = hashes.to_vec();
        hashes.sort_unstable();
        hashes.dedup();
        let hashes: Arc<[u64]> = hashes.into();
        let may = |part: &Part| {
            part.rows() > 0
                && part.row_groups.iter().any(|group| near.is_none_or(|near| near.may_match(&|c| group.stats(c))))
        };
        let mut sections = Vec::new();
        let mut unlisted = Vec::new();
        for (place, part) in manifest.parts.iter().enumerate().filter(|(_, part)| may(part)) {
            if is_listed(part, columns) {
                sections.extend(part.keys.iter().map(|section| self.look(place, section.clone(), Arc::clone(&hashes))));
            } else {
                unlisted.push(place);
            }
        }
        let mut chosen = Chosen::new();
        let mut rows = 0usize;
        let mut damaged: Vec<usize> = Vec::new();
        // In the order of the parts, so that one that is damaged is looked through once.
        let mut looks = futures::stream::iter(sections).buffered(SECTIONS_AT_ONCE);
        while let Some((place, section, found)) = looks.next().await {
            let Some(part) = manifest.parts.get(place) else { continue };
            match found {
                Ok(found) => {
                    rows = rows.saturating_add(choose(place, part, found.into_iter().map(|(_, row)| row), &mut chosen))
                }
                Err(error) => {
                    tracing::error!(object = %section.object, %error, "a list of keys cannot be used: its part is looked through");
                    damaged.push(place);
                }
            }
            if rows > rows_max {
                return Ok(None);
            }
        }
        drop(looks);
        damaged.dedup();
        for place in unlisted.into_iter().chain(damaged) {
            let Some(part) = manifest.parts.get(place) else { continue };
            let found = self.look_through(manifest, part, columns, &hashes).await?;
            chosen.retain(|(of, _), _| *of != place);
            choose(place, part, found.into_iter(), &mut chosen);
            if chosen.values().map(Vec::len).sum::<usize>() > rows_max {
                return Ok(None);
            }
        }
        for rows in chosen.values_mut() {
            rows.sort_unstable();
            rows.dedup();
        }
        Ok(Some(chosen))
    }

    /// Looks into one section of the part at `place`.
    fn look(&self, place: usize, section: KeySection, hashes: Arc<[u64]>) -> BoxFuture<'static, Look> {
        let (lake, cache) = (self.lake.clone(), self.cache.clone());
        Box::pin(async move {
            let found = find(&lake, &cache, &section, &hashes).await;
            (place, section, found)
        })
    }

    /// Reads these rows of a version as [`TableReader`] does.
    ///
    /// # Errors
    /// As [`TableReader::open`].
    pub fn read(
        &self,
        manifest: &Arc<TableManifest>,
        names: &[&str],
        predicate: Option<TypedPredicate>,
        chosen: Chosen,
    ) -> Result<TableReader, LakeError> {
        let reader = TableReader::open(self.lake.clone(), Arc::clone(manifest), names, predicate)?;
        Ok(reader.with_cache(self.chunks.clone()).with_maps(self.maps.clone()).choosing(chosen))
    }

    /// Rows of a part with one of these hashes, from reading its keys.
    async fn look_through(
        &self,
        manifest: &TableManifest,
        part: &Part,
        columns: &[usize],
        hashes: &[u64],
    ) -> Result<Vec<u64>, LakeError> {
        let mut alone = part.clone();
        // Every row is wanted, so that rows are counted as they lie.
        alone.row_groups.iter_mut().for_each(|group| group.deleted = Deleted::default());
        let (columns_of, region_column) = (manifest.columns.clone(), manifest.region_column);
        let mut of = TableManifest { columns: columns_of, region_column, parts: vec![alone], regions: None };
        of.columns.iter_mut().for_each(|column| column.nullable = true);
        let names: Vec<String> =
            columns.iter().filter_map(|place| of.columns.get(*place)).map(|column| column.name.clone()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let reader = TableReader::open(self.lake.clone(), Arc::new(of), &names, None)?;
        let mut reader = reader.with_cache(self.chunks.clone());
        let (mut found, mut first) = (Vec::new(), 0u64);
        while let Some(batch) = reader.next().await? {
            let listed = key_hashes(&batch)?;
            let there = listed.iter().zip(first..).filter(|(hash, _)| hashes.binary_search(hash).is_ok());
            found.extend(there.map(|(_, row)| row));
            first += batch.num_rows() as u64;
        }
        Ok(found)
    }
}

/// Whether the keys of all rows of a part are listed, over these columns.
fn is_listed(part: &Part, columns: &[usize]) -> bool {
    let all: u64 = part.row_groups.iter().map(|group| group.rows).sum();
    let listed = part.keys.iter().fold(0, |sum: u64, section: &KeySection| sum.saturating_add(section.rows));
    listed == all && part.keys.iter().all(|section| section.columns == columns)
}

/// Adds rows of a part, as they are counted over all of it, to those of its row groups; says how many.
fn choose(place: usize, part: &Part, rows: impl Iterator<Item = u64>, chosen: &mut Chosen) -> usize {
    let mut ends = Vec::with_capacity(part.row_groups.len());
    let mut end = 0u64;
    for group in &part.row_groups {
        end = end.saturating_add(group.rows);
        ends.push(end);
    }
    let mut count = 0;
    for row in rows {
        let group = ends.partition_point(|end| *end <= row);
        let Some(of) = part.row_groups.get(group) else { continue };
        let start = ends.get(group).map_or(0, |end| end - of.rows);
        let Ok(at) = usize::try_from(row - start) else { continue };
        if !of.deleted.contains(at) {
            chosen.entry((place, group)).or_default().push(at);
            count += 1;
        }
    }
    count
}
