//! One subscriber's rows of a split, piece by piece.

use super::{Held, Run, row_bytes};
use crate::lake::error::LakeError;
use crate::lake::scrub::scrub_batch;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use std::sync::Arc;

/// What one subscriber's slice is made of.
pub struct Slice {
    held: Arc<Held>,
    runs: Vec<Run>,
    rows: u64,
}

/// Where a read of a slice is. It holds no rows: a slow receiver would hold them too.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    run: usize,
    row: u32,
}

impl Slice {
    pub(super) fn new(held: Arc<Held>, runs: Vec<Run>) -> Self {
        let rows = runs.iter().map(|run| u64::from(run.rows)).sum();
        Self { held, runs, rows }
    }

    /// Its rows.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// What is left of it where the first `batches` batches that were read have been handed on already.
    #[must_use]
    pub fn after(self, batches: u32) -> Self {
        let runs = self.runs.into_iter().filter(|run| run.batch >= batches).collect();
        Self::new(self.held, runs)
    }

    /// Next rows, of about `bytes_aim` at most, with these columns; `next` is where it is. `None` at the end. Nothing else is in
    /// them.
    ///
    /// # Errors
    /// Damaged or gone beside the lake: it is made again by whoever asks next.
    pub async fn next(
        &self,
        next: &mut Cursor,
        columns: &[usize],
        bytes_aim: usize,
    ) -> Result<Option<RecordBatch>, LakeError> {
        let mut pieces: Vec<RecordBatch> = Vec::new();
        let (mut bytes, mut rows) = (0usize, 0usize);
        while let Some(run) = self.runs.get(next.run) {
            let left = (run.rows - next.row) as usize;
            let rest = self.held.rows(run).await?.slice(next.row as usize, left);
            let rest = rest.project(columns).map_err(|e| LakeError::columns("reading a split", e))?;
            let each = row_bytes(&rest);
            let room = bytes_aim.saturating_sub(bytes) / each.max(1);
            let most = lingqu_protocol::ipc::BATCH_ROWS_MAX - rows;
            let taken = left.min(room.max(usize::from(rows == 0))).min(most);
            bytes += taken * each;
            rows += taken;
            next.row += taken as u32;
            if taken > 0 {
                pieces.push(rest.slice(0, taken));
            }
            if next.row < run.rows {
                break;
            }
            (next.run, next.row) = (next.run + 1, 0);
        }
        let Some(first) = pieces.first() else { return Ok(None) };
        let joined = match pieces.len() {
            1 => first.clone(),
            _ => concat_batches(&first.schema(), &pieces).map_err(|e| LakeError::columns("reading a split", e))?,
        };
        scrub_batch(&joined).map(Some)
    }
}
