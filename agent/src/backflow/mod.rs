//! Backflow (回流): rows of this agency's own region come back down, version by version, into a sink.
//!
//! [`Sink`] is where they go. What a sink has taken is known from the sink alone: its [`Cursor`] is committed with the data, in
//! one step, and read back when the sink is opened. Whatever dies, and whenever, the next process goes on from there; what the
//! gateway remembers of this subscriber is advice.
//!
//! | sink | promise | how data and cursor become one |
//! |---|---|---|
//! | [`folder::FolderSink`] | exactly once | files are synced, then a manifest that names them and the cursor is replaced |
//! | [`postgres::PostgresSink`] | exactly once | one transaction |
//! | [`stream::StreamSink`] | at least once | not at all: the cursor is kept in the profile after the version was written |
//! | [`command::CommandSink`] | at least once | not at all: the cursor is kept in the profile after the command said 0 |
//!
//! Sinks block; a thread of their own runs them.

pub mod command;
pub mod folder;
pub mod follow;
mod gone;
mod kept;
pub mod postgres;
pub mod reconcile;
pub mod shape;
pub mod spec;
pub mod stream;
#[cfg(test)]
pub(crate) mod testing;
mod worker;

pub use kept::KeptCursor;
pub use lingqu_protocol::backflow::SliceMode as Mode;
pub use shape::{Column, Shape};
pub use worker::Taken;

use crate::error::{AgentError, Told};
use arrow::array::RecordBatch;
use lingqu_protocol::changes::Op;
use lingqu_protocol::rows::RowsSum;

/// How far a sink is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The last version that it holds; versions count from 1.
    pub version: u64,
    /// What the slice was (regions and columns), in the gateway's words: kept and given back as they are.
    pub slice: String,
}

/// What a sink is told before the rows of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The entry's id.
    pub entry: String,
    /// The version.
    pub version: u64,
    /// How its rows stand to those before.
    pub mode: Mode,
    /// Its columns.
    pub shape: Shape,
    /// Rows that come and that go. Where there are none, and it is no full version, the columns stay as they are.
    pub rows: u64,
}

impl Begin {
    /// The columns of a sink after it, where it had `before`.
    pub(crate) fn shape_after(&self, before: Option<&Shape>) -> Shape {
        match before {
            Some(before) if self.rows == 0 && self.mode != Mode::Full => before.clone(),
            _ => self.shape.clone(),
        }
    }
}

/// What a sink does about a version that it is handed twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// It holds each version once, whatever was killed and when.
    ExactlyOnce,
    /// It may be handed a version again after something was killed; the version's number tells.
    AtLeastOnce,
}

impl Promise {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::ExactlyOnce => "exactly_once",
            Self::AtLeastOnce => "at_least_once",
        }
    }
}

/// Where versions go. One process holds a sink at a time.
///
/// A version is `begin`, `rows` as often as there are batches, `held`, `commit`; or `abandon` instead of any of them. After an
/// error a sink is dropped and opened anew.
pub trait Sink: Send {
    /// What it promises.
    fn promise(&self) -> Promise;

    /// Takes the sink for this process, removes what a cut version left, and reads back how far it is; `None` where it holds
    /// nothing. `entry` is the entry's id: a sink takes one.
    ///
    /// # Errors
    /// A sink that another process holds, that is of another entry, or that is not there and cannot be made.
    fn open(&mut self, entry: &str) -> Result<Option<Cursor>, AgentError>;

    /// Begins a version.
    ///
    /// # Errors
    /// Columns that it cannot hold beside those it has.
    fn begin(&mut self, version: &Begin) -> Result<(), AgentError>;

    /// Takes rows of it, in the columns of [`Begin::shape`] and their canonical types. With [`Op::Delete`], which comes with
    /// [`Mode::Changes`] alone and before all others, each row is one that the sink holds, whole, once for each time that it
    /// goes.
    ///
    /// # Errors
    /// What lies under it says; values that it cannot hold.
    fn rows(&mut self, op: Op, batch: &RecordBatch) -> Result<(), AgentError>;

    /// Count and sum of all rows that it will hold once this version is committed; `None` where it holds none that it knows.
    ///
    /// # Errors
    /// What lies under it says; data in it that somebody else changed.
    fn held(&mut self) -> Result<Option<RowsSum>, AgentError>;

    /// Makes the version and the cursor durable, both or neither.
    ///
    /// # Errors
    /// What lies under it says. Whether it was committed is known when the sink is opened again.
    fn commit(&mut self, cursor: &Cursor) -> Result<(), AgentError>;

    /// Forgets the version that was begun.
    fn abandon(&mut self);

    /// Hands every row that it holds to `take`, and says of which version they are; `None` where it holds none. Takes nothing for
    /// this process: somebody else may write meanwhile. Needs no [`open`](Self::open).
    ///
    /// # Errors
    /// What lies under it says; a version that was replaced under the reading, so that it has to begin again.
    fn read(&mut self, entry: &str, take: &mut Take<'_>) -> Result<Option<(Cursor, Shape)>, AgentError>;
}

/// Takes rows that a sink holds.
pub type Take<'a> = dyn FnMut(&RecordBatch) -> Result<(), AgentError> + Send + 'a;

/// A call that does not fit what came before: our fault.
pub(crate) fn out_of_order(what: &str) -> AgentError {
    AgentError::Machine(Told::new("sink_order", format!("{what} without a version"), format!("内部错误：{what}")))
}

/// A sink that belongs to another entry.
pub(crate) fn other_entry(sink: &str, its: &str, asked: &str) -> AgentError {
    AgentError::Usage(
        Told::new(
            "other_entry",
            format!("{sink} holds the entry {its}, and {asked} was asked for"),
            format!("{sink} 中是目录条目 {its} 的数据，不能用于 {asked}"),
        )
        .next("name another folder or table: each takes one entry", "请指定其他目录或表：每处只存放一个目录条目"),
    )
}

/// Columns that cannot stand beside those that are there.
pub(crate) fn other_columns(sink: &str, why: &str) -> AgentError {
    AgentError::Usage(
        Told::new("other_columns", format!("{sink}: {why}"), format!("{sink}：列与已有数据不一致（{why}）")).next(
            "name a new folder or table: it then begins with everything",
            "请改用新的目录或表，将从头接收全部数据",
        ),
    )
}
