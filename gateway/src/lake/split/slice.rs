//! One subscriber's rows of a split, piece by piece.

use super::held::damaged;
use super::{AS_IT_IS_BYTES_MIN, Held, Run};
use crate::lake::error::LakeError;
use crate::lake::scrub::scrub_batch;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use bytes::Bytes;
use lingqu_protocol::frame::{self, Event};
use lingqu_protocol::ipc::{BATCH_ROWS_MAX, Decoder};
use lingqu_protocol::rows::RowsSum;
use std::sync::Arc;

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

/// How a receiver takes rows.
#[derive(Clone, Copy, Debug)]
pub struct Takes<'a> {
    /// Places of the columns; none for all of them, in messages that lie ready.
    pub columns: Option<&'a [usize]>,
    /// Messages in compressed frames, too.
    pub lz4: bool,
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
    /// The message, as it travels.
    pub body: Body,
    /// Bytes of the message.
    pub bytes: usize,
    /// BLAKE3 of the message.
    pub digest: [u8; 32],
    /// Count and sum of its rows.
    pub sum: RowsSum,
}

/// How a message travels.
pub enum Body {
    /// As it is: the frame's head comes before it.
    Plain(Bytes),
    /// The whole frame that holds it, compressed.
    Lz4(Bytes),
}

impl Takes<'_> {
    /// Bytes that wait for the receiver while it takes this run by itself.
    pub(super) const fn waiting(&self, run: &Run) -> usize {
        (if self.is_compressed(run) { run.kept_bytes } else { run.bytes }) as usize
    }

    /// Whether it is a part only that may wait. A compressed frame goes whole up to twice the aim: its parts would be restored
    /// one by one, and be more bytes.
    const fn is_parted(&self, run: &Run, bytes_aim: usize) -> bool {
        self.waiting(run) > (if self.is_compressed(run) { bytes_aim.saturating_mul(2) } else { bytes_aim })
    }

    const fn is_compressed(&self, run: &Run) -> bool {
        self.lz4 && self.columns.is_none() && run.is_lz4()
    }

    /// Whether these go as messages that lie ready.
    fn are_ready(&self, runs: &[Run]) -> bool {
        let bytes: usize = runs.iter().map(|run| run.bytes as usize).sum();
        self.columns.is_none() && (runs.len() == 1 || bytes >= runs.len() * AS_IT_IS_BYTES_MIN)
    }
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
    /// are large enough; with some, rows that share what was read, and nothing else is in them. `None` at the end.
    ///
    /// # Errors
    /// Damaged or gone beside the lake: it is made again by whoever asks next.
    pub async fn next(
        &self,
        next: &mut Cursor,
        takes: Takes<'_>,
        bytes_aim: usize,
    ) -> Result<Option<Piece>, LakeError> {
        let Some(first) = self.runs.get(next.run) else { return Ok(None) };
        // What was begun in parts goes on so, however much may wait by now.
        if takes.is_parted(first, bytes_aim) || next.row > 0 {
            return self.part(first, next, takes, bytes_aim).await.map(Some);
        }
        let mut runs = self.piece(next.run, bytes_aim, |run| takes.waiting(run));
        if !takes.are_ready(runs) {
            // They are restored, and become one message.
            runs = self.piece(next.run, bytes_aim, |run| run.bytes as usize);
        }
        let kept = self.held.kept(runs).await?.into_iter().zip(runs);
        next.run += runs.len();
        if takes.are_ready(runs) {
            let frames = kept.map(|(kept, run)| run.frame(kept, takes.lz4)).collect::<Result<_, _>>()?;
            return Ok(Some(Piece::Ready(frames)));
        }
        let mut batches = Vec::with_capacity(runs.len());
        for (kept, run) in kept {
            batches.push(self.decoded(run.message(kept)?, next, takes.columns)?);
        }
        let Some(first) = batches.first() else { return Ok(None) };
        let rows = match batches.len() {
            1 => first.clone(),
            _ => concat_batches(&first.schema(), &batches).map_err(damaged)?,
        };
        Ok(Some(Piece::Rows(rows)))
    }

    /// A part of a run that is more than what may wait for its reader: read again for each, and not held in between.
    async fn part(&self, run: &Run, next: &mut Cursor, takes: Takes<'_>, bytes_aim: usize) -> Result<Piece, LakeError> {
        let kept = self.held.kept(std::slice::from_ref(run)).await?.pop().unwrap_or_default();
        let rows = self.decoded(run.message(kept)?, next, takes.columns)?;
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
    fn piece(&self, from: usize, bytes_aim: usize, waiting: impl Fn(&Run) -> usize) -> &[Run] {
        let rest = self.runs.get(from..).unwrap_or_default();
        let sizes = rest.iter().scan((0usize, 0u64), |(bytes, rows), run| {
            *bytes += waiting(run);
            *rows += run.sum().count;
            Some(*bytes <= bytes_aim && *rows <= BATCH_ROWS_MAX as u64)
        });
        let most = sizes.take_while(|fits| *fits).count();
        rest.get(..most.max(1).min(rest.len())).unwrap_or_default()
    }
}

impl Run {
    /// Its message, out of what is kept of it.
    fn message(&self, kept: Bytes) -> Result<Bytes, LakeError> {
        if !self.is_lz4() {
            return Ok(kept);
        }
        let mut frames = frame::Decoder::default().taking_lz4();
        frames.push(kept);
        match frames.next().map_err(damaged)? {
            Some(Event::Batch(message)) if message.len() == self.bytes as usize => Ok(message),
            _ => Err(damaged("a frame of something else than its message")),
        }
    }

    fn frame(&self, kept: Bytes, takes_lz4: bool) -> Result<Frame, LakeError> {
        let body = match self.is_lz4() && takes_lz4 {
            true => Body::Lz4(kept),
            false => Body::Plain(self.message(kept)?),
        };
        Ok(Frame { body, bytes: self.bytes as usize, digest: self.digest, sum: self.sum() })
    }
}
