//! Versions of rows that are asked by key again and again: what is made of a manifest for an entry as it stands is kept, for
//! reading it costs more than the answer.

use super::Flow;
use super::error::FlowError;
use super::record::VersionRow;
use super::serve_table::grown;
use crate::lake::manifest::{RowGroup, TableManifest};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::EntrySpec;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of memory that all of them take together; one that is larger alone is read for each request.
const KEPT_BYTES: usize = 8 << 20;

/// Manifests that were read a moment ago, the oldest first.
#[derive(Debug, Default)]
pub(super) struct OpenVersions(Mutex<VecDeque<Kept>>);

#[derive(Debug)]
struct Kept {
    manifest: Digest,
    spec: Arc<EntrySpec>,
    made: Arc<TableManifest>,
    bytes: usize,
}

impl OpenVersions {
    fn get(&self, manifest: Digest, spec: &Arc<EntrySpec>) -> Option<Arc<TableManifest>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Another text of the entry is another view of its versions.
        let found = kept.iter().find(|kept| kept.manifest == manifest && Arc::ptr_eq(&kept.spec, spec));
        found.map(|kept| Arc::clone(&kept.made))
    }

    fn put(&self, manifest: Digest, spec: &Arc<EntrySpec>, made: &Arc<TableManifest>) {
        let bytes = weight(made);
        if bytes > KEPT_BYTES {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|kept| kept.manifest != manifest);
        kept.push_back(Kept { manifest, spec: Arc::clone(spec), made: Arc::clone(made), bytes });
        while kept.iter().map(|kept| kept.bytes).sum::<usize>() > KEPT_BYTES {
            kept.pop_front();
        }
    }
}

impl Flow {
    /// The parts of a version with the columns that its entry has now.
    pub(super) async fn opened_version(
        &self,
        version: &VersionRow,
        spec: &Arc<EntrySpec>,
    ) -> Result<Arc<TableManifest>, FlowError> {
        if let Some(made) = self.opened().get(version.manifest, spec) {
            return Ok(made);
        }
        let made = Arc::new(grown(self.table_manifest(version).await?, spec));
        self.opened().put(version.manifest, spec, &made);
        Ok(made)
    }
}

/// About how much memory a manifest takes.
fn weight(manifest: &TableManifest) -> usize {
    let group = |group: &RowGroup| {
        let summaries = group.summaries.len() * 2 * (size_of::<crate::lake::manifest::ColumnSummary>());
        size_of::<RowGroup>()
            + group.chunks.len() * 48
            + summaries
            + group.rows as usize / 8 * usize::from(group.deleted.count() > 0)
    };
    let parts = manifest.parts.iter();
    let parts = parts.map(|part| 512 + part.leaves.len() * 16 + part.row_groups.iter().map(group).sum::<usize>());
    parts.sum::<usize>() + manifest.columns.len() * 128 + manifest.regions.as_ref().map_or(0, |all| all.len() * 96)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ENTRY: &str = include_str!("../../../protocol/fixtures/entry.toml");

    #[test]
    fn what_is_kept_is_of_one_version_and_one_text_and_bounded() {
        let spec = Arc::new(EntrySpec::parse(ENTRY).unwrap());
        let regions = |count: usize| (0..count).map(|n| (n.to_string(), Default::default())).collect();
        let of = |count| {
            Arc::new(TableManifest {
                columns: vec![],
                region_column: None,
                parts: vec![],
                regions: Some(regions(count)),
            })
        };
        let opened = OpenVersions::default();
        let (one, other) = (Digest::blake3(b"1"), Digest::blake3(b"2"));
        opened.put(one, &spec, &of(10));
        assert!(opened.get(one, &spec).is_some() && opened.get(other, &spec).is_none());
        let text = Arc::new(spec.as_ref().clone());
        assert!(opened.get(one, &text).is_none(), "the entry was published anew");
        opened.put(other, &spec, &of(50_000));
        assert!(opened.get(one, &spec).is_some() && opened.get(other, &spec).is_some());
        opened.put(Digest::blake3(b"3"), &spec, &of(60_000));
        assert!(opened.get(one, &spec).is_none() && opened.get(other, &spec).is_none(), "the oldest went");
        opened.put(Digest::blake3(b"4"), &spec, &of(100_000));
        assert!(opened.get(Digest::blake3(b"4"), &spec).is_none(), "too large to be kept");
    }
}
