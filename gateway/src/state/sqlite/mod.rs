//! The state in one SQLite file: one task writes in groups, a pool reads.
//!
//! Write-ahead log with `synchronous = FULL`: a commit is durable when SQLite says so, and readers never wait for it.

mod error;
mod log;
mod read;
mod write;

pub use log::write_again;

use super::{Change, Committed, Filter, Head, Kind, LEDGER_ALGORITHM, LIST_MAX, Record, State, StateError, StoredLeaf};
use async_trait::async_trait;
use error::failed;
use lingqu_certs::os::OsDisk;
use lingqu_protocol::merkle::{Hash, Node, empty_root};
use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Every schema change there ever was, in order. One that was released is never edited: SQLite files remember its hash.
const MIGRATIONS: [(i64, &str, &str); 1] =
    [(1, "records and ledger", include_str!("../migrations/0001_records_and_ledger.sql"))];

/// The least SQLite: earlier ones can lose committed pages when a write-ahead log is reset under a reader.
const SQLITE_LEAST: (u32, u32, u32) = (3, 51, 3);
const SQLITE_LEAST_TEXT: &str = "3.51.3";

/// Connections that read. A read takes microseconds and the gateway's hot path reads a snapshot in memory instead, so a
/// few serve everyone.
const READERS: u32 = 4;

/// How long a statement waits for a lock. Only a backup tool ever holds one against us.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Changes that may wait to be written; the rest wait in their callers. Two full groups, so that one is always ready
/// when the one before it is synced.
const QUEUE_CHANGES: usize = 512;

/// A [`State`] in a SQLite file.
#[derive(Debug)]
pub struct SqliteState {
    jobs: mpsc::Sender<write::Job>,
    readers: SqlitePool,
}

impl SqliteState {
    /// Opens the file at `path`, and makes it with mode 0600 where there is none. At most one process may have it open
    /// for writing; the caller holds the lock that sees to it.
    ///
    /// # Errors
    /// [`StateError::NewerSchema`], [`StateError::OldSqlite`], and the storage's.
    pub async fn open(path: &Path) -> Result<Self, StateError> {
        let log = log_of(path);
        if fs::metadata(&log).map_or(0, |there| there.len()) == 0 {
            create_private(path).map_err(|e| StateError::Storage(format!("{}: {e}", path.display())))?;
        }
        // SQLite would make the log itself, and does not look whether its name became durable.
        create_private(&log).map_err(|e| StateError::Storage(format!("{}: {e}", log.display())))?;
        write_again(&OsDisk, &log).map_err(|e| StateError::Storage(format!("{}: {e}", log.display())))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            // What is purged is overwritten in the file, too.
            .pragma("secure_delete", "ON");
        let one = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await.map_err(failed)?;
        check_version(&one).await?;
        migrate(&one).await?;
        let writer = one.acquire().await.map_err(failed)?.detach();
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.pragma("query_only", "ON"))
            .await
            .map_err(failed)?;
        let (jobs, queue) = mpsc::channel(QUEUE_CHANGES);
        tokio::spawn(write::run(writer, queue));
        Ok(Self { jobs, readers })
    }

    /// Writes what is queued, then closes the file. Every later call gets [`StateError::Closed`].
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        self.readers.close().await;
        // Where the writer is gone already, so is its connection.
        if self.jobs.send(write::Job::Close(done)).await.is_ok() {
            let _gone_is_closed = closed.await;
        }
    }
}

#[async_trait]
impl State for SqliteState {
    async fn get(&self, kind: Kind, id: &str) -> Result<Option<Record>, StateError> {
        read::record(&self.readers, kind, id).await
    }

    async fn list(
        &self,
        kind: Kind,
        filter: Filter,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Record>, StateError> {
        read::records(&self.readers, kind, &filter, after.unwrap_or_default(), limit.min(LIST_MAX)).await
    }

    async fn commit(&self, change: Change) -> Result<Committed, StateError> {
        change.check()?;
        let (answer, answered) = oneshot::channel();
        self.jobs.send(write::Job::Commit(change, answer)).await.map_err(|_| StateError::Closed)?;
        answered.await.map_err(|_| StateError::Closed)?
    }

    async fn head(&self) -> Result<Head, StateError> {
        read::head(&self.readers).await
    }

    async fn root_at(&self, size: u64) -> Result<Option<Hash>, StateError> {
        if size == 0 {
            return Ok(Some(empty_root(LEDGER_ALGORITHM)));
        }
        read::root_at(&self.readers, size).await
    }

    async fn heads(&self, after: u64, limit: u32) -> Result<Vec<Head>, StateError> {
        read::heads(&self.readers, after, limit.min(LIST_MAX)).await
    }

    async fn leaf(&self, index: u64) -> Result<Option<StoredLeaf>, StateError> {
        Ok(read::leaves(&self.readers, index, 1).await?.pop().filter(|leaf| leaf.index == index))
    }

    async fn leaves(&self, from: u64, limit: u32) -> Result<Vec<StoredLeaf>, StateError> {
        read::leaves(&self.readers, from, limit.min(LIST_MAX)).await
    }

    async fn hashes(&self, nodes: &[Node]) -> Result<Vec<Hash>, StateError> {
        let mut reader = self.readers.acquire().await.map_err(failed)?;
        read::hashes(&mut reader, nodes).await
    }
}

/// Where SQLite keeps what was committed and is not in the file yet.
fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Makes the file where there is none. SQLite gives its side files the mode of this one. An empty one is made anew: it may
/// be what a failed sync of its name left, and asking again would prove nothing.
fn create_private(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(there) if there.len() > 0 => return Ok(()),
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.sync_all()?;
    // The name must be as durable as what is written under it.
    #[cfg(unix)]
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

async fn check_version(pool: &SqlitePool) -> Result<(), StateError> {
    let found: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(pool).await.map_err(failed)?;
    if new_enough(&found) { Ok(()) } else { Err(StateError::OldSqlite { found, least: SQLITE_LEAST_TEXT }) }
}

fn new_enough(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next()) >= SQLITE_LEAST
}

async fn migrate(pool: &SqlitePool) -> Result<(), StateError> {
    let migration = |(version, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let migrator = Migrator::with_migrations(MIGRATIONS.into_iter().map(migration).collect());
    migrator.run(pool).await.map_err(|e| match e {
        MigrateError::VersionMissing(found) => StateError::NewerSchema { found },
        MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) => failed(e),
        other => StateError::Damaged(other.to_string()),
    })
}

#[cfg(test)]
mod tests;
