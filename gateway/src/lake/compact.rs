//! Parts written anew: small ones that many pushes left, and those of which later changes left little. It is done in the
//! push that makes it due, as a part of the new version; older versions keep the parts that they have.

use super::error::LakeError;
use super::manifest::{Part, TableManifest};
use super::reader::TableReader;
use super::shape::Shape;
use super::source::ChunkCache;
use super::store::Lake;
use super::writer::{TableWriter, WriterBudget};
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::rows::RowsSum;
use std::sync::Arc;

/// A part of fewer rows is small: reading it costs as much as its place in a larger one.
const SMALL_ROWS: u64 = 8_192;

/// Small parts that are left as they are: a month of nightly pushes.
const SMALL_PARTS_MAX: usize = 32;

/// Bytes of parts that one push writes anew at most; what is left is due again with the next.
const BYTES_MAX: u64 = 256 << 20;

/// Writes anew what is due of a version that transfer `transfer` makes; gives the version with the new parts.
///
/// # Errors
/// Damaged at rest; no room; the store failed.
pub async fn compact(
    lake: &Lake,
    cache: &ChunkCache,
    budget: WriterBudget,
    transfer: TransferId,
    shape: &Shape,
    manifest: TableManifest,
) -> Result<TableManifest, LakeError> {
    let chosen = due(&manifest.parts);
    if chosen.is_empty() {
        return Ok(manifest);
    }
    let (old, mut parts): (Vec<_>, Vec<_>) =
        manifest.parts.iter().cloned().enumerate().partition(|(index, _)| chosen.contains(index));
    let old: Vec<Part> = old.into_iter().map(|(_, part)| part).collect();
    let mut before = RowsSum::default();
    old.iter().for_each(|part| before.merge(&part.rows_sum));
    let of = TableManifest { parts: old, regions: None, ..manifest.clone() };
    let names: Vec<&str> = manifest.columns.iter().map(|column| column.name.as_str()).collect();
    let mut reader = TableReader::open(lake.clone(), Arc::new(of), &names, None)?.with_cache(cache.clone());
    let mut writer = TableWriter::beside(lake.clone(), budget, transfer, shape.clone()).await?;
    while let Some(batch) = reader.next().await? {
        writer.write(batch).await?;
    }
    let written = writer.complete(None).await?;
    let mut after = RowsSum::default();
    written.parts.iter().for_each(|part| after.merge(&part.rows_sum));
    if after != before {
        // Nothing was made visible: the push fails, and the version before it stays.
        return Err(LakeError::columns("writing parts anew", "the rows are not those that were there"));
    }
    tracing::info!(parts = chosen.len(), into = written.parts.len(), rows = after.count, "parts were written anew");
    let kept = parts.drain(..).map(|(_, part)| part);
    let parts = kept.chain(written.parts).collect();
    Ok(TableManifest { parts, ..manifest })
}

/// Places of the parts that are due.
fn due(parts: &[Part]) -> Vec<usize> {
    let all = |part: &Part| part.row_groups.iter().map(|group| group.rows).sum::<u64>();
    let small = parts.iter().filter(|part| part.rows() < SMALL_ROWS).count() > SMALL_PARTS_MAX;
    let is_due = |part: &Part| part.rows() * 2 < all(part) || small && part.rows() < SMALL_ROWS;
    let mut bytes = 0u64;
    let chosen = parts.iter().enumerate().filter(|(_, part)| is_due(part)).take_while(|(_, part)| {
        bytes = bytes.saturating_add(part.bytes);
        bytes <= BYTES_MAX
    });
    chosen.map(|(index, _)| index).collect()
}
