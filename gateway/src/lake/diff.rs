//! What lies between two versions: rows that are gone and rows that came, told from their manifests. Parts that both have
//! are not read, but for the row groups in which rows were deleted.

use super::deleted::Deleted;
use super::manifest::{Part, RowGroup, TableManifest};
use lingqu_protocol::backflow::SliceMode;

/// Rows of parts that are no longer there, up to which they are compared with those that came, to send what really changed
/// where parts were only written anew. Above it the state is sent: at some 40 bytes a row, this is 20 MiB of memory.
pub const COMPARED_ROWS_MAX: u64 = 500_000;

/// What leads from one version to a later one.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// How its rows are meant. With [`compared`](Self::compared), `Changes` may turn out as `Append`.
    pub mode: SliceMode,
    /// Rows that are gone.
    pub gone: TableManifest,
    /// Rows that came.
    pub came: TableManifest,
    /// Whether rows may be among both, because parts were written anew: what is equal cancels out.
    pub compared: bool,
}

/// The step from `before` to `after`; all of `after` where there is nothing before, or nothing of it is left and it was not
/// gone on from (`goes_on`), which parts that were written anew do not tell.
pub fn between(before: Option<&TableManifest>, after: &TableManifest, goes_on: bool) -> Step {
    let none = TableManifest { parts: Vec::new(), regions: None, ..after.clone() };
    let full = |none: TableManifest| Step {
        mode: SliceMode::Full,
        gone: none,
        came: TableManifest { regions: None, ..after.clone() },
        compared: false,
    };
    let Some(before) = before else { return full(none) };
    let mut gone = Vec::new();
    let mut kept = 0usize;
    let mut dropped_rows = 0u64;
    for old in &before.parts {
        match after.parts.iter().find(|part| is_same(part, old)) {
            Some(new) => {
                kept += 1;
                gone.extend(newly_deleted(old, new));
            }
            None => {
                dropped_rows += old.rows();
                gone.push(old.clone());
            }
        }
    }
    let came: Vec<Part> =
        after.parts.iter().filter(|part| !before.parts.iter().any(|old| is_same(part, old))).cloned().collect();
    // Nothing of it is left although it had something: what came is all there is.
    if (kept == 0 && dropped_rows > 0 && !goes_on) || dropped_rows > COMPARED_ROWS_MAX {
        return full(none);
    }
    gone.iter_mut().for_each(|part| part.leaves.resize(after.columns.len(), None));
    let mode = if gone.is_empty() { SliceMode::Append } else { SliceMode::Changes };
    let compared = dropped_rows > 0 && !came.is_empty();
    let of = |parts| TableManifest { parts, ..none.clone() };
    Step { mode, gone: of(gone), came: of(came), compared }
}

fn is_same(a: &Part, b: &Part) -> bool {
    a.object == b.object && a.digest == b.digest && a.file.as_ref().map(|f| f.file) == b.file.as_ref().map(|f| f.file)
}

/// A part as if only those of its rows were there that `new` has deleted and `old` had not; none where there are none.
fn newly_deleted(old: &Part, new: &Part) -> Option<Part> {
    let groups = old.row_groups.iter().zip(&new.row_groups);
    if groups.clone().all(|(a, b)| a.deleted == b.deleted) {
        return None;
    }
    let row_groups = groups.map(|(a, b)| {
        let mut deleted = Deleted::default();
        for row in 0..usize::try_from(a.rows).unwrap_or(0) {
            if a.deleted.contains(row) || !b.deleted.contains(row) {
                deleted.insert(row);
            }
        }
        RowGroup { deleted, ..a.clone() }
    });
    Some(Part { row_groups: row_groups.collect(), ..old.clone() })
}
