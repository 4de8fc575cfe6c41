//! One subscriber's rows of a split, piece by piece.

use super::held::damaged;
use super::{Held, Run};
use crate::lake::error::LakeError;
use crate::lake::scrub::scrub_batch;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use bytes::Bytes;
use lingqu_protocol::ipc::{BATCH_ROWS_MAX, Decoder};
use lingqu_protocol::rows::RowsSum;
use std::sync::Arc;

/// Bytes of a message from which on it goes as it is beside others: of a smaller one a good part is its head, and several
/// together are one message of its size.
const AS_IT_IS_BYTES_MIN: usize = 8 << 10;

/// What one subscriber's slice is made of.
pub struct Slice {
    held: Arc<Held>,
    runs: Vec<Run>,
    rows: u64,
}

/// Where a read of a slice is. It holds no rows: a slow receiver would hold them too.
#[derive(Default)]
pub struct Cursor {
    run: usize,
    /// The next row of that run, where it comes in parts.
    row: usize,
    decoder: Option<Decoder>,
}

/// What comes next of a slice.
pub enum Piece {
    /// Messages that can be sent as they are.
    Ready(Vec<Frame>),
    /// Rows that have still to be made one.
    Rows(RecordBatch),
}

/// An Arrow message of some rows of one region, all columns.
pub struct Frame {
    /// The message.
    pub body: Bytes,
    /// BLAKE3 of it.
    pub digest: [u8; 32],
    /// Count and sum of its rows.
    pub sum: RowsSum,
}

impl Slice {
    pub(super) fn new(held: Arc<Held>, runs: Vec<Run>) -> Self {
        let rows = runs.iter().map(|run| run.sum().count).sum();
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

    /// What comes next, of about `bytes_aim` at most; `next` is where it is. With all columns, messages come as they lie where they
    /// are large enough; with `columns`, rows that share what was read, and nothing else is in them. `None` at the end.
    ///
    /// # Errors
    /// Damaged or gone beside the lake: it is made again by whoever asks next.
    pub async fn next(
        &self,
        next: &mut Cursor,
        columns: Option<&[usize]>,
        bytes_aim: usize,
    ) -> Result<Option<Piece>, LakeError> {
        let Some(first) = self.runs.get(next.run) else { return Ok(None) };
        // What was begun in parts goes on so, however much may wait by now.
        if first.bytes as usize > bytes_aim || next.row > 0 {
            return self.part(first, next, columns, bytes_aim).await.map(Some);
        }
        let runs = self.piece(next.run, bytes_aim);
        let messages = self.held.messages(runs).await?;
        next.run += runs.len();
        let bytes: usize = messages.iter().map(Bytes::len).sum();
        if columns.is_none() && (runs.len() == 1 || bytes / runs.len() >= AS_IT_IS_BYTES_MIN) {
            let frame = |(body, run): (Bytes, &Run)| Frame { body, digest: run.digest, sum: run.sum() };
            return Ok(Some(Piece::Ready(messages.into_iter().zip(runs).map(frame).collect())));
        }
        let mut batches = Vec::with_capacity(messages.len());
        for message in messages {
            batches.push(self.decoded(message, next, columns)?);
        }
        let Some(first) = batches.first() else { return Ok(None) };
        let rows = match batches.len() {
            1 => first.clone(),
            _ => concat_batches(&first.schema(), &batches).map_err(damaged)?,
        };
        Ok(Some(Piece::Rows(rows)))
    }

    /// A part of a run that is more than what may wait for its reader: read again for each, and not held in between.
    async fn part(
        &self,
        run: &Run,
        next: &mut Cursor,
        columns: Option<&[usize]>,
        bytes_aim: usize,
    ) -> Result<Piece, LakeError> {
        let message = self.held.messages(std::slice::from_ref(run)).await?.pop().unwrap_or_default();
        let rows = self.decoded(message, next, columns)?;
        let left = rows.num_rows().saturating_sub(next.row);
        let most = (rows.num_rows() * bytes_aim / run.bytes.max(1) as usize).clamp(1, left.max(1));
        // Rebuilt: it would hold all of the run.
        let part = scrub_batch(&rows.slice(next.row.min(rows.num_rows()), most.min(left)))?;
        next.row += most;
        if next.row >= rows.num_rows() {
            (next.run, next.row) = (next.run + 1, 0);
        }
        Ok(Piece::Rows(part))
    }

    fn decoded(&self, message: Bytes, next: &mut Cursor, columns: Option<&[usize]>) -> Result<RecordBatch, LakeError> {
        let decoder = match &mut next.decoder {
            Some(decoder) => decoder,
            none => none.insert(self.held.decoder()?),
        };
        let rows = decoder.decode(message).map_err(damaged)?.ok_or_else(|| damaged("no rows in a run"))?;
        match columns {
            Some(places) => rows.project(places).map_err(damaged),
            None => Ok(rows),
        }
    }

    /// The runs from this one on that make a piece: one at least.
    fn piece(&self, from: usize, bytes_aim: usize) -> &[Run] {
        let rest = self.runs.get(from..).unwrap_or_default();
        let sizes = rest.iter().scan((0usize, 0u64), |(bytes, rows), run| {
            *bytes += run.bytes as usize;
            *rows += run.sum().count;
            Some(*bytes <= bytes_aim && *rows <= BATCH_ROWS_MAX as u64)
        });
        let most = sizes.take_while(|fits| *fits).count();
        rest.get(..most.max(1).min(rest.len())).unwrap_or_default()
    }
}
