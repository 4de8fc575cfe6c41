//! The thread that a sink runs on: takes the frames of one version after the other, checks them against the gateway's end record,
//! and only then lets the sink commit.

use super::gone::not_rows;
use super::{Begin, Cursor, Mode, Shape, Sink};
use crate::error::{AgentError, Told};
use crate::transfer::peer;
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Schema;
use bytes::Bytes;
use lingqu_protocol::changes::{OP_COLUMN, Op};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::ipc::{BatchRoot, Decoder};
use lingqu_protocol::rows::{RowsDigest, RowsSum};
use lingqu_protocol::wire::{Slice, SliceEnd};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Bytes of frames that wait for the sink, or one frame that is larger: while one is checked and written, others come in.
const WAITING_BYTES: usize = 2 << 20;

/// Frames that wait for the sink, however small they are.
const WAITING_FRAMES: usize = 64;

/// What a version came to, once it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The version.
    pub version: u64,
    /// How its rows stood to those before.
    pub mode: Mode,
    /// Rows that came with it.
    pub rows: u64,
    /// Bytes of them on the wire.
    pub bytes: u64,
    /// Digest over the frames.
    pub bytes_root: Digest,
    /// Digest over the rows that came.
    pub rows_digest: Digest,
    /// Count and digest of all rows that the sink holds; `None` where it does not know.
    pub held: Option<(u64, Digest)>,
    /// When the version was committed at the gateway, milliseconds since 1970 UTC.
    pub committed_at_ms: i64,
}

/// What a version's columns are, where no rows say it.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    /// All that may come, with their types.
    pub(super) shape: Shape,
    /// Those that tell rows apart.
    pub(super) keys: Vec<String>,
}

enum Order {
    Open(oneshot::Sender<Result<Option<Cursor>, AgentError>>),
    Slice {
        slice: Slice,
        columns: Columns,
        pieces: mpsc::Receiver<Piece>,
        answer: oneshot::Sender<Result<Taken, AgentError>>,
    },
}

/// What comes of a slice.
pub(super) enum Piece {
    Frame(Bytes, OwnedSemaphorePermit),
    End(Box<SliceEnd>),
}

/// The thread's handle. Dropped, the thread ends after what it is at.
pub(super) struct Worker {
    orders: mpsc::Sender<Order>,
}

/// A slice that is being taken.
pub(super) struct Taking {
    pub(super) pieces: mpsc::Sender<Piece>,
    pub(super) answer: oneshot::Receiver<Result<Taken, AgentError>>,
    room: Arc<Semaphore>,
}

impl Taking {
    /// With the end that its pieces come out of.
    fn new(answer: oneshot::Receiver<Result<Taken, AgentError>>) -> (Self, mpsc::Receiver<Piece>) {
        let (pieces, queue) = mpsc::channel(WAITING_FRAMES);
        (Self { pieces, answer, room: Arc::new(Semaphore::new(WAITING_BYTES)) }, queue)
    }

    /// Hands a frame to the sink, once there is room for it; `false` where the sink takes no more.
    pub(super) async fn frame(&self, body: Bytes) -> bool {
        let bytes = body.len().min(WAITING_BYTES) as u32;
        let Ok(room) = Arc::clone(&self.room).acquire_many_owned(bytes).await else { return false };
        self.pieces.send(Piece::Frame(body, room)).await.is_ok()
    }
}

impl Worker {
    /// Starts the thread for a sink of the entry with the id `entry`.
    pub(super) fn start(sink: Box<dyn Sink>, entry: String) -> Result<Self, AgentError> {
        let (orders, queue) = mpsc::channel(1);
        std::thread::Builder::new()
            .name("sink".into())
            .spawn(move || run(sink, &entry, queue))
            .map_err(|e| AgentError::io("starting a thread for", Path::new("the sink"), &e))?;
        Ok(Self { orders })
    }

    /// Opens the sink, or opens it again after an error; gives how far it is.
    pub(super) async fn open(&self) -> Result<Option<Cursor>, AgentError> {
        let (answer, cursor) = oneshot::channel();
        self.orders.send(Order::Open(answer)).await.map_err(|_| ended())?;
        cursor.await.map_err(|_| ended())?
    }

    /// Begins a slice. Where its sender goes away without an end, the slice is forgotten.
    pub(super) async fn slice(&self, slice: Slice, columns: Columns) -> Result<Taking, AgentError> {
        let (answer, taken) = oneshot::channel();
        let (taking, pieces) = Taking::new(taken);
        let order = Order::Slice { slice, columns, pieces, answer };
        self.orders.send(order).await.map_err(|_| ended())?;
        Ok(taking)
    }
}

/// The sink's thread is no more.
pub(super) fn ended() -> AgentError {
    AgentError::Machine(Told::new("sink", "the sink's thread ended", "接收线程已结束"))
}

fn run(mut sink: Box<dyn Sink>, entry: &str, mut orders: mpsc::Receiver<Order>) {
    while let Some(order) = orders.blocking_recv() {
        match order {
            Order::Open(answer) => {
                let opened = sink.open(entry);
                // Who asked may have been given up; the next one asks again.
                let _gone = answer.send(opened);
            }
            Order::Slice { slice, columns, pieces, answer } => {
                let taken = Taker::new(&mut *sink, entry, slice, columns).take(pieces);
                match taken {
                    Ok(Some(taken)) => {
                        let _gone = answer.send(Ok(taken));
                    }
                    Ok(None) => sink.abandon(),
                    Err(error) => {
                        sink.abandon();
                        let _gone = answer.send(Err(error));
                    }
                }
            }
        }
    }
}

/// Takes one slice.
struct Taker<'a> {
    sink: &'a mut dyn Sink,
    entry: &'a str,
    slice: Slice,
    columns: Columns,
    mode: Option<Mode>,
    decoder: Decoder,
    root: BatchRoot,
    digest: Option<RowsDigest>,
    begun: Option<Shape>,
    upserts: u64,
    deletes: u64,
}

impl<'a> Taker<'a> {
    fn new(sink: &'a mut dyn Sink, entry: &'a str, slice: Slice, columns: Columns) -> Self {
        Self {
            sink,
            entry,
            mode: slice.mode.parse().ok(),
            slice,
            columns,
            decoder: Decoder::default(),
            root: BatchRoot::default(),
            digest: None,
            begun: None,
            upserts: 0,
            deletes: 0,
        }
    }

    /// `None` where the slice was cut.
    fn take(mut self, mut pieces: mpsc::Receiver<Piece>) -> Result<Option<Taken>, AgentError> {
        loop {
            match pieces.blocking_recv() {
                None => return Ok(None),
                // Its room is given back once it is done with.
                Some(Piece::Frame(body, _room)) => self.frame(body)?,
                Some(Piece::End(end)) => return self.end(&end).map(Some),
            }
        }
    }

    fn mode(&self) -> Result<Mode, AgentError> {
        self.mode.ok_or_else(|| {
            let shown: String = self.slice.mode.chars().take(20).collect();
            peer(format!("a version of an unknown mode: {shown:?}"), format!("未知的版本模式：{shown:?}"))
        })
    }

    fn frame(&mut self, body: Bytes) -> Result<(), AgentError> {
        self.root.add([&body[..]]);
        let Some(batch) = self.decoder.decode(body).map_err(|e| not_rows(&e))? else {
            let schema = self.decoder.schema().cloned().ok_or_else(|| not_rows(&"no schema"))?;
            self.digest = Some(RowsDigest::of_schema(&schema).ok_or_else(|| not_rows(&"a type that is not sent"))?);
            let shape = self.shape_of(&schema)?;
            return self.begin(shape);
        };
        let Some(digest) = &mut self.digest else { return Err(not_rows(&"no schema")) };
        digest.update(&batch).map_err(|e| not_rows(&e))?;
        if self.mode()? != Mode::Changes {
            self.upserts += batch.num_rows() as u64;
            return self.sink.rows(Op::Upsert, &batch);
        }
        let (rows, deletes) = split(&batch)?;
        let gone = deletes.true_count() as u64;
        if gone > 0 && self.upserts > 0 {
            return Err(peer("rows are taken away after others came", "删除行出现在新增行之后"));
        }
        if gone > 0 {
            self.deletes += gone;
            let gone = filter_record_batch(&rows, &deletes).map_err(|e| not_rows(&e))?;
            self.sink.rows(Op::Delete, &gone)?;
        }
        if gone < rows.num_rows() as u64 {
            let come = arrow::compute::not(&deletes).and_then(|come| filter_record_batch(&rows, &come));
            let come = come.map_err(|e| not_rows(&e))?;
            self.upserts += come.num_rows() as u64;
            self.sink.rows(Op::Upsert, &come)?;
        }
        Ok(())
    }

    /// The columns that the rows say.
    fn shape_of(&self, schema: &Schema) -> Result<Shape, AgentError> {
        let mut shape = Shape::of_schema(schema).ok_or_else(|| not_rows(&"a type that is not sent"))?;
        if self.mode()? == Mode::Changes && shape.0.pop().is_none_or(|column| column.name != OP_COLUMN) {
            return Err(not_rows(&"changes without the column _op"));
        }
        shape.0.iter_mut().for_each(|column| column.key = self.columns.keys.contains(&column.name));
        Ok(shape)
    }

    fn begin(&mut self, shape: Shape) -> Result<(), AgentError> {
        let begin = Begin {
            entry: self.entry.to_owned(),
            version: self.slice.version,
            mode: self.mode()?,
            shape: shape.clone(),
            rows: self.slice.rows,
        };
        self.sink.begin(&begin)?;
        self.begun = Some(shape);
        Ok(())
    }

    /// Compares everything with what the gateway says, and commits.
    fn end(mut self, end: &SliceEnd) -> Result<Taken, AgentError> {
        if self.begun.is_none() {
            let shape = self.columns.shape.clone();
            self.begin(shape)?;
        }
        let sum = self.digest.as_ref().map(RowsDigest::sum).unwrap_or_default();
        let (rows_digest, bytes_root) = (sum.digest(), self.root.digest());
        let same = end.version == self.slice.version
            && (end.rows, end.bytes) == (sum.count, self.root.bytes())
            && (end.upserts, end.deletes) == (self.upserts, self.deletes)
            && end.bytes_root == bytes_root.to_string()
            && end.rows_digest == rows_digest.to_string();
        if !same {
            return Err(differs(end, sum.count));
        }
        let held = self.sink.held()?;
        if let (Some(held), Some(rows)) = (held, end.state_rows)
            && (held.count != rows || !is_digest_of(&end.state_rows_digest, &held))
        {
            return Err(state_differs(end, rows, held));
        }
        self.sink.commit(&Cursor { version: end.version, slice: end.slice.clone() })?;
        Ok(Taken {
            version: end.version,
            mode: self.mode()?,
            rows: sum.count,
            bytes: self.root.bytes(),
            bytes_root,
            rows_digest,
            held: held.map(|held| (held.count, held.digest())),
            committed_at_ms: self.slice.committed_at_ms,
        })
    }
}

/// Whether a text is the digest of these rows; one that is empty says nothing.
fn is_digest_of(text: &str, sum: &RowsSum) -> bool {
    text.is_empty() || sum.digest().to_string() == text
}

/// Rows of changes without what is to be done with them, and which of them go.
fn split(batch: &RecordBatch) -> Result<(RecordBatch, BooleanArray), AgentError> {
    let last = batch.num_columns().checked_sub(1).ok_or_else(|| not_rows(&"no columns"))?;
    let ops = batch.column(last).as_string_opt::<i32>().ok_or_else(|| not_rows(&"_op is no text"))?;
    let ops = ops.iter().map(|op| op.and_then(Op::of_word).map(|op| op == Op::Delete));
    let deletes: Option<Vec<bool>> = ops.collect();
    let deletes = deletes.ok_or_else(|| not_rows(&"_op is neither upsert nor delete"))?;
    let rows = batch.project(&(0..last).collect::<Vec<_>>()).map_err(|e| not_rows(&e))?;
    Ok((rows, BooleanArray::from(deletes)))
}

fn differs(end: &SliceEnd, came: u64) -> AgentError {
    AgentError::Integrity(
        Told::new(
            "rows_digest",
            format!("version {}: {} rows were sent and {came} came, or their digests differ", end.version, end.rows),
            format!("第 {} 版：发送 {} 行，收到 {came} 行，或摘要不一致", end.version, end.rows),
        )
        .next(
            "nothing was committed; run it again, and if it comes back tell the gateway's operator",
            "数据未提交；请重新执行，若再次出现请告知网关运维人员",
        ),
    )
}

fn state_differs(end: &SliceEnd, rows: u64, held: RowsSum) -> AgentError {
    AgentError::Integrity(
        Told::new(
            "state_differs",
            format!(
                "after version {} there would be {} rows here and {rows} at the gateway, or their digests differ",
                end.version, held.count
            ),
            format!("第 {} 版之后本地为 {} 行，网关为 {rows} 行，或摘要不一致", end.version, held.count),
        )
        .next(
            "nothing was committed; see `lingqu reconcile`; a new folder or table begins with everything",
            "数据未提交；可用 `lingqu reconcile` 对账；改用新的目录或表将从头接收",
        ),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Whether a frame is taken without anything that is read meanwhile.
    async fn is_taken(taking: &Taking, bytes: usize) -> bool {
        tokio::time::timeout(Duration::ZERO, taking.frame(vec![0; bytes].into())).await.is_ok_and(|taken| taken)
    }

    /// What waits for a slow sink is bounded by its bytes, and a frame that is larger than the bound comes by itself.
    #[tokio::test]
    async fn what_waits_for_a_sink_is_bounded_by_its_bytes() {
        let (taking, mut queue) = Taking::new(oneshot::channel().1);
        for _ in 0..4 {
            assert!(is_taken(&taking, WAITING_BYTES / 4).await);
        }
        assert!(!is_taken(&taking, 1).await, "there is no room");
        drop(queue.recv().await.unwrap());
        assert!(is_taken(&taking, 1).await, "what was done with has made room");
        assert!(!is_taken(&taking, WAITING_BYTES * 3).await, "others wait still");
        for _ in 0..4 {
            drop(queue.recv().await.unwrap());
        }
        assert!(is_taken(&taking, WAITING_BYTES * 3).await);
        assert!(!is_taken(&taking, 1).await, "it has all the room");
        drop(queue);
        assert!(!taking.frame(vec![0].into()).await, "the sink takes no more, and nobody waits for it");
    }

    #[tokio::test]
    async fn small_frames_are_bounded_by_their_number() {
        let (taking, _queue) = Taking::new(oneshot::channel().1);
        for _ in 0..WAITING_FRAMES {
            assert!(is_taken(&taking, 1).await);
        }
        assert!(!is_taken(&taking, 1).await);
    }
}
