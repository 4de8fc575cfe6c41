#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::super::Expect;
use super::super::contract::{self, Backend, change};
use super::*;
use sqlx::{AssertSqlSafe, ConnectOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;

#[derive(Default)]
struct Files {
    made: Mutex<Vec<(tempfile::TempDir, Arc<SqliteState>)>>,
}

#[async_trait]
impl Backend for Files {
    type State = SqliteState;
    async fn open(&self) -> Arc<SqliteState> {
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(SqliteState::open(&folder.path().join("state.db")).await.unwrap());
        self.made.lock().unwrap().push((folder, state.clone()));
        state
    }
    async fn reopen(&self, state: Arc<SqliteState>) -> Arc<SqliteState> {
        state.close().await;
        let place = self.made.lock().unwrap().iter().position(|(_, s)| Arc::ptr_eq(s, &state)).unwrap();
        let path = self.made.lock().unwrap()[place].0.path().join("state.db");
        let again = Arc::new(SqliteState::open(&path).await.unwrap());
        self.made.lock().unwrap()[place].1 = again.clone();
        again
    }
}

fn new_path() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    (folder, path)
}

/// Runs a statement on a file behind the state's back.
async fn behind_its_back(path: &Path, sql: &str) {
    let mut conn = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.unwrap();
    sqlx::Connection::close(conn).await.unwrap();
}

#[tokio::test]
async fn sqlite_keeps_the_contract() {
    assert_eq!(contract::run(&Files::default()).await, Ok(()));
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_may_read_its_files() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, path) = new_path();
    let state = SqliteState::open(&path).await.unwrap();
    state.commit(change("a", Expect::Any)).await.unwrap();
    let modes: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| (e.file_name().into_string().unwrap(), e.metadata().unwrap().permissions().mode() & 0o777))
        .collect();
    assert!(modes.len() >= 2, "{modes:?}");
    assert!(modes.iter().all(|(_, mode)| *mode == 0o600), "{modes:?}");
}

#[tokio::test]
async fn what_a_killed_process_left_in_the_log_is_there() {
    let (folder, path) = new_path();
    let state = SqliteState::open(&path).await.unwrap();
    state.commit(change("a", Expect::Any)).await.unwrap();
    // The files as a kill leaves them.
    let killed = folder.path().join("killed");
    fs::create_dir(&killed).unwrap();
    for name in ["state.db", "state.db-wal"] {
        fs::copy(folder.path().join(name), killed.join(name)).unwrap();
    }
    assert!(fs::metadata(killed.join("state.db-wal")).unwrap().len() > 0);
    let again = SqliteState::open(&killed.join("state.db")).await.unwrap();
    assert_eq!(again.head().await.unwrap(), state.head().await.unwrap());
    again.commit(change("b", Expect::Any)).await.unwrap();
    // A name without content is made anew, before anything is written under it.
    let empty = folder.path().join("empty.db");
    fs::write(&empty, b"").unwrap();
    fs::write(folder.path().join("empty.db-wal"), b"").unwrap();
    SqliteState::open(&empty).await.unwrap().commit(change("c", Expect::Any)).await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let (_folder, path) = new_path();
    SqliteState::open(&path).await.unwrap().close().await;
    behind_its_back(
        &path,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (999, 'from the future', 1, x'00', 0)",
    )
    .await;
    assert_eq!(SqliteState::open(&path).await.unwrap_err(), StateError::NewerSchema { found: 999 });
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let (_folder, path) = new_path();
    fs::write(&path, [b'x'; 8192]).unwrap();
    assert!(matches!(SqliteState::open(&path).await.unwrap_err(), StateError::Damaged(_)));
}

#[test]
fn versions_compare_as_numbers() {
    for (version, enough) in
        [("3.51.3", true), ("3.51.2", false), ("3.100.0", true), ("3.9.9", false), ("4.0", true), ("nonsense", false)]
    {
        assert_eq!(new_enough(version), enough, "{version}");
    }
}

#[tokio::test]
async fn a_closed_state_says_so() {
    let (_folder, path) = new_path();
    let state = SqliteState::open(&path).await.unwrap();
    state.close().await;
    assert_eq!(state.commit(change("a", Expect::Any)).await, Err(StateError::Closed));
    assert_eq!(state.head().await, Err(StateError::Closed));
    state.close().await;
}

#[tokio::test]
async fn a_ledger_whose_edge_was_edited_takes_no_more() {
    let (_folder, path) = new_path();
    let state = SqliteState::open(&path).await.unwrap();
    state.commit(change("a", Expect::Any)).await.unwrap();
    state.close().await;
    behind_its_back(&path, "UPDATE nodes SET hash = zeroblob(32)").await;
    let state = SqliteState::open(&path).await.unwrap();
    assert!(matches!(state.commit(change("b", Expect::Any)).await, Err(StateError::Damaged(_))));
    assert!(state.get(Kind::Setting, "b").await.unwrap().is_none());
}

#[tokio::test]
async fn a_group_that_fails_fails_for_all_and_leaves_nothing() {
    let (_folder, path) = new_path();
    let state = Arc::new(SqliteState::open(&path).await.unwrap());
    state.commit(change("a", Expect::Any)).await.unwrap();
    // The storage refuses one row, in the middle of what will be one group or several.
    behind_its_back(
        &path,
        "CREATE TRIGGER refuse BEFORE INSERT ON leaves WHEN NEW.leaf_index = 3 BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    .await;
    let results = futures::future::join_all((0..8).map(|i| state.commit(change(&format!("b{i}"), Expect::Any)))).await;
    assert!(results.iter().any(Result::is_err));
    behind_its_back(&path, "DROP TRIGGER refuse").await;
    let acknowledged = results.iter().filter(|r| r.is_ok()).count() as u64;
    assert_eq!(state.head().await.unwrap().size, 1 + acknowledged);
    for (i, result) in results.iter().enumerate() {
        let there = state.get(Kind::Setting, &format!("b{i}")).await.unwrap().is_some();
        assert_eq!(there, result.is_ok(), "{i}: {result:?}");
    }
    // It goes on from what the file holds.
    let next = state.commit(change("c", Expect::Any)).await.unwrap();
    assert_eq!(next.first_index, 1 + acknowledged);
}

#[tokio::test]
async fn a_full_disk_is_a_clean_failure() {
    let (_folder, path) = new_path();
    let state = SqliteState::open(&path).await.unwrap();
    let (done, closed) = oneshot::channel();
    state.jobs.send(write::Job::Close(done)).await.unwrap();
    closed.await.unwrap();
    // A writer whose file may not grow is one on a full disk.
    let writer = SqliteConnectOptions::new().filename(&path).pragma("max_page_count", "30").connect().await.unwrap();
    let (jobs, queue) = mpsc::channel(8);
    tokio::spawn(write::run(writer, queue));
    let state = SqliteState { jobs, readers: state.readers.clone() };
    let big = || {
        let mut big = change("big", Expect::Any);
        big.leaves[0].payload = vec![1; 500_000];
        big
    };
    assert_eq!(state.commit(big()).await, Err(StateError::Full));
    assert_eq!(state.get(Kind::Setting, "big").await, Ok(None));
    assert_eq!(state.commit(change("small", Expect::Any)).await.unwrap().first_index, 0);
    assert_eq!(state.commit(big()).await, Err(StateError::Full));
    assert_eq!(state.commit(change("small again", Expect::Any)).await.unwrap().first_index, 1);
}
