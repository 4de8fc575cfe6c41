//! A table of a PostgreSQL database: exactly once, for data and cursor are one transaction.
//!
//! The table is made from the entry, with an index on its key. The cursor lies in the table `lingqu_backflow` of the same schema,
//! one row for each table that is fed. Rows come by COPY in its binary format, rows that go are deleted by their key, or where there
//! is none by all of their columns. Readers see the version before until the commit. What was deleted is compared with what should
//! have been: a table that somebody else changed is told, and not made worse.

mod binary;
mod error;
mod session;
mod target;

pub use target::Target;

use super::{Begin, Cursor, Promise, Shape, Sink, Take, out_of_order};
use crate::error::AgentError;
use arrow::array::RecordBatch;
use error::{PgError, away};
use lingqu_protocol::changes::Op;
use lingqu_protocol::rows::RowsSum;
use session::{Open, connect};
use std::time::Duration;
use tokio::runtime::Handle;

/// How long one statement may take: the commit of a province's rows on a slow disk takes minutes, and a database that says nothing
/// for longer is gone.
const STATEMENT_SECS_MAX: u64 = 900;

/// How long to wait for a connection.
const CONNECT_SECS_MAX: u64 = 30;

/// A table as a sink.
pub struct PostgresSink {
    target: Target,
    runtime: Handle,
    open: Option<Open>,
}

impl std::fmt::Debug for PostgresSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PostgresSink").field(&self.target).finish()
    }
}

impl PostgresSink {
    /// The table `target`. `runtime` does the waiting; the sink's own calls block and must not be made on its threads.
    pub fn new(target: Target, runtime: Handle) -> Self {
        Self { target, runtime, open: None }
    }

    /// Does `work` on the open database.
    fn on<T>(&mut self, work: impl AsyncFnOnce(&mut Open) -> Result<T, PgError>) -> Result<T, AgentError> {
        let shown = self.target.shown();
        let open = self.open.as_mut().ok_or_else(|| out_of_order("a table"))?;
        self.runtime.block_on(within(STATEMENT_SECS_MAX, work(open))).map_err(|e| e.told(shown))
    }
}

async fn within<T>(secs: u64, work: impl Future<Output = Result<T, PgError>>) -> Result<T, PgError> {
    match tokio::time::timeout(Duration::from_secs(secs), work).await {
        Ok(done) => done,
        Err(_) => Err(away("PostgreSQL", &format!("no answer in {secs} s")).into()),
    }
}

impl Sink for PostgresSink {
    fn promise(&self) -> Promise {
        Promise::ExactlyOnce
    }

    fn open(&mut self, entry: &str) -> Result<Option<Cursor>, AgentError> {
        self.open = None;
        let target = self.target.clone();
        let opening = within(CONNECT_SECS_MAX, async {
            let mut open = connect(&target, entry).await?;
            open.make_cursors().await?;
            open.known = open.load(target.shown()).await?;
            Ok(open)
        });
        let open = self.runtime.block_on(opening).map_err(|e| e.told(target.shown()))?;
        let cursor = open.known.as_ref().map(|known| known.cursor.clone());
        self.open = Some(open);
        Ok(cursor)
    }

    fn begin(&mut self, version: &Begin) -> Result<(), AgentError> {
        self.abandon();
        let shown = self.target.shown().to_owned();
        self.on(async |open| open.begin(&shown, version).await)
    }

    fn rows(&mut self, op: Op, batch: &RecordBatch) -> Result<(), AgentError> {
        let shown = self.target.shown().to_owned();
        self.on(async |open| match op {
            Op::Delete => open.stage(batch).await,
            Op::Upsert => {
                open.apply(&shown).await?;
                open.insert(batch).await
            }
        })
    }

    fn held(&mut self) -> Result<Option<RowsSum>, AgentError> {
        let shown = self.target.shown().to_owned();
        self.on(async |open| {
            open.apply(&shown).await?;
            Ok(Some(open.building()?.sum()))
        })
    }

    fn commit(&mut self, cursor: &Cursor) -> Result<(), AgentError> {
        let shown = self.target.shown().to_owned();
        self.on(async |open| {
            open.apply(&shown).await?;
            open.commit(cursor).await
        })
    }

    fn abandon(&mut self) {
        if self.open.as_ref().is_none_or(|open| open.version.is_none()) {
            return;
        }
        let undone = self.on(async |open| {
            open.version = None;
            Ok(open.run("ROLLBACK").await?)
        });
        if let Err(error) = undone {
            // The server does it by itself where the connection is gone.
            tracing::info!(%error, "a transaction could not be rolled back by a word; its connection is closed");
            self.open = None;
        }
    }

    fn read(&mut self, entry: &str, take: &mut Take<'_>) -> Result<Option<(Cursor, Shape)>, AgentError> {
        let target = self.target.clone();
        let reading = within(STATEMENT_SECS_MAX, async {
            let mut open = connect(&target, entry).await?;
            // One view of cursor and rows.
            open.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            if !open.has_cursors().await? {
                return Ok(None);
            }
            let Some(known) = open.load(target.shown()).await? else { return Ok(None) };
            let shape = known.shape;
            open.read(&shape, take).await?;
            Ok(Some((known.cursor, shape)))
        });
        self.runtime.block_on(reading).map_err(|e| e.told(target.shown()))
    }
}
