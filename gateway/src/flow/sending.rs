//! Frames of one subscriber's slice: encoded, digested, counted, under a leash.

use super::error::FlowError;
use super::pace::Pace;
use super::wires::DataLane;
use crate::gate::Leash;
use crate::lake::split::{Body, Frame as Message};
use crate::metrics;
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use lingqu_protocol::changes::{OP_COLUMN, Op};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::frame::{self, FrameKind, lz4};
use lingqu_protocol::ipc::{BatchRoot, Encoder};
use lingqu_protocol::rows::{RowsDigest, RowsSum};
use lingqu_protocol::stream::SendHalf;
use std::sync::Arc;
use tokio::time::Instant;

/// One subscriber's rows of a version, on their way.
pub(super) struct Sending<S: SendHalf> {
    lane: DataLane<S>,
    leash: Leash,
    encoder: Encoder,
    schema: SchemaRef,
    root: BatchRoot,
    digest: RowsDigest,
    /// None where the receiver takes nothing compressed.
    pace: Option<Pace>,
}

/// What was sent of a slice.
pub(super) struct Sent {
    pub(super) rows: u64,
    pub(super) root: BatchRoot,
    pub(super) digest: Digest,
}

/// Rows as they go over the wire.
pub(super) struct Encoded {
    body: Vec<Bytes>,
    rows: u64,
}

impl Sent {
    pub(super) fn nothing() -> Self {
        let none = RowsSum::default();
        Self { rows: 0, root: BatchRoot::default(), digest: none.digest() }
    }
}

impl<S: SendHalf> Sending<S> {
    /// Begins with the schema: the columns of the slice, and behind them what a row means where rows go as well.
    pub(super) async fn begin(
        lane: DataLane<S>,
        leash: Leash,
        columns: SchemaRef,
        with_op: bool,
        pace: Option<Pace>,
    ) -> Result<Self, FlowError> {
        let schema = if with_op { with_op_column(&columns) } else { columns };
        let mut sending = Self {
            lane,
            leash,
            encoder: Encoder::new(Arc::clone(&schema)).map_err(|e| FlowError::Machine(e.to_string()))?,
            digest: RowsDigest::of_schema(&schema).ok_or_else(|| FlowError::Machine("columns of no item".into()))?,
            schema,
            root: BatchRoot::default(),
            pace,
        };
        let first = sending.encoder.schema().map_err(|e| FlowError::Machine(e.to_string()))?;
        sending.root.add(std::iter::once(&first[..]));
        sending.frame(vec![first], 0).await?;
        Ok(sending)
    }

    /// Ends the stream. The lane is held until the receiver has everything.
    pub(super) fn end(mut self) -> (Sent, DataLane<S>, Option<Pace>) {
        self.lane.finish();
        let sum = self.digest.sum();
        (Sent { rows: sum.count, root: self.root, digest: sum.digest() }, self.lane, self.pace)
    }

    /// Makes a frame of rows, which is to be sent next.
    pub(super) fn encode(&mut self, batch: &RecordBatch, op: Option<Op>) -> Result<Encoded, FlowError> {
        self.leash.check()?;
        let failed = |e: arrow::error::ArrowError| FlowError::Machine(e.to_string());
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        if let Some(op) = op {
            columns.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(op.word(), batch.num_rows()))));
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(failed)?;
        self.digest.update(&batch).map_err(|e| FlowError::Machine(e.to_string()))?;
        let (body, _) = self.encoder.batch(&batch).map_err(|e| FlowError::OverLimit { what: e.to_string() })?;
        self.root.add(body.iter().map(|piece| &piece[..]));
        Ok(Encoded { body, rows: batch.num_rows() as u64 })
    }

    /// Sends a message of all columns as it lies.
    pub(super) async fn as_it_is(&mut self, message: Message) -> Result<(), FlowError> {
        self.leash.check()?;
        self.root.add_hashed(message.bytes, &message.digest);
        self.digest.add_sum(&message.sum);
        let (bytes, rows) = (message.bytes, message.sum.count);
        match message.body {
            // Of what the receiver takes, it would have been compressed if that made it smaller.
            Body::Plain(body) => self.plain(vec![body], bytes, rows).await,
            Body::Lz4(frame) => self.pieces([frame], bytes, rows).await,
        }
    }

    /// Sends what was made of rows.
    pub(super) async fn send(&mut self, Encoded { body, rows }: Encoded) -> Result<(), FlowError> {
        self.frame(body, rows).await
    }

    /// Sends a batch: as it is, or compressed where that is worth it.
    async fn frame(&mut self, body: Vec<Bytes>, rows: u64) -> Result<(), FlowError> {
        let bytes: usize = body.iter().map(Bytes::len).sum();
        match self.compressed(&body) {
            Some(frame) => self.pieces([frame], bytes, rows).await,
            None => self.plain(body, bytes, rows).await,
        }
    }

    async fn plain(&mut self, body: Vec<Bytes>, bytes: usize, rows: u64) -> Result<(), FlowError> {
        let head = Bytes::copy_from_slice(&frame::header(FrameKind::Batch, bytes)?);
        self.pieces(std::iter::once(head).chain(body), bytes, rows).await
    }

    fn compressed(&mut self, body: &[Bytes]) -> Option<Bytes> {
        let pace = self.pace.as_mut()?;
        if !pace.compresses() {
            return None;
        }
        let frame = lz4::batch(body);
        if frame.is_none() {
            pace.in_vain();
        }
        frame
    }

    /// Sends what a frame is made of. What is counted as moved is its batch, however it travels.
    async fn pieces(
        &mut self,
        pieces: impl IntoIterator<Item = Bytes, IntoIter: Send>,
        batch_bytes: usize,
        rows: u64,
    ) -> Result<(), FlowError> {
        let (mut bytes, since) = (0, Instant::now());
        for piece in pieces {
            bytes += piece.len();
            self.lane.raw(piece).await?;
        }
        if let Some(pace) = &mut self.pace {
            pace.sent(bytes, since.elapsed());
        }
        metrics::sent(bytes as u64);
        metrics::sent_rows(rows);
        self.leash.moved().add(batch_bytes as u64, rows);
        Ok(())
    }
}

fn with_op_column(schema: &SchemaRef) -> SchemaRef {
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(OP_COLUMN, DataType::Utf8, false)));
    Arc::new(Schema::new(fields))
}
