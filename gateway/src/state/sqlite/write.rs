//! The one task that writes. It takes what waits, writes it in one transaction, syncs once and answers all: the cost of
//! a sync is shared, and no answer comes before it.

use super::super::{Change, Committed, Draft, Expect, LEDGER_ALGORITHM, LedgerSpan, NewLeaf, StateError, Write};
use super::error::{commit_failed, failed, signed};
use super::read;
use lingqu_protocol::merkle::{Frontier, leaf_hash};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{mpsc, oneshot};

/// Changes in one transaction: enough to share a sync among every request of a busy moment, few enough that the first of
/// them does not wait long for the last.
const GROUP_CHANGES_MAX: usize = 256;

/// What the writer is asked.
#[derive(Debug)]
pub(super) enum Job {
    /// To commit a change and say how it went.
    Commit(Change, oneshot::Sender<Result<Committed, StateError>>),
    /// To close the file and say so.
    Close(oneshot::Sender<()>),
}

/// Runs until it is told to close or nobody can ask any more.
pub(super) async fn run(mut conn: SqliteConnection, mut queue: mpsc::Receiver<Job>) {
    let mut jobs = Vec::new();
    // `None` until it is read, and after a failure, when what the file holds is what counts.
    let mut frontier = None;
    let mut poisoned = false;
    while queue.recv_many(&mut jobs, GROUP_CHANGES_MAX).await > 0 {
        let (mut changes, mut answers, mut closing) = (Vec::new(), Vec::new(), None);
        for job in jobs.drain(..) {
            match job {
                Job::Commit(_, answer) if closing.is_some() => reply(answer, Err(StateError::Closed)),
                Job::Commit(change, answer) => {
                    changes.push(change);
                    answers.push(answer);
                }
                Job::Close(done) => closing = Some(done),
            }
        }
        let results = match (poisoned, changes.is_empty()) {
            (true, _) => Err(StateError::Poisoned),
            (false, true) => Ok(Vec::new()),
            (false, false) => commit_group(&mut conn, &mut frontier, &changes).await,
        };
        match results {
            Ok(results) => answers.into_iter().zip(results).for_each(|(answer, result)| reply(answer, result)),
            Err(error) => {
                if !poisoned {
                    tracing::error!(%error, changes = changes.len(), "the state could not commit");
                }
                poisoned |= error == StateError::Poisoned;
                answers.into_iter().for_each(|answer| reply(answer, Err(error.clone())));
            }
        }
        if let Some(done) = closing {
            // What waits now gets `Closed` when the queue goes.
            drop(queue);
            close(conn).await;
            // The one who asked may have gone; the file is closed all the same.
            let _asker_gone = done.send(());
            return;
        }
    }
    close(conn).await;
}

async fn close(conn: SqliteConnection) {
    if let Err(error) = conn.close().await {
        // Everything that was acknowledged is in the write-ahead log, which the next opening reads.
        tracing::warn!(%error, "the state's file did not close cleanly");
    }
}

fn reply(answer: oneshot::Sender<Result<Committed, StateError>>, result: Result<Committed, StateError>) {
    // A caller that went away does not undo its change; it will find it when it asks again.
    let _caller_gone = answer.send(result);
}

/// Commits a group and returns each change's own outcome, or the failure that all of them share.
async fn commit_group(
    conn: &mut SqliteConnection,
    frontier: &mut Option<Frontier>,
    changes: &[Change],
) -> Result<Vec<Result<Committed, StateError>>, StateError> {
    let before = frontier.take();
    execute(conn, "BEGIN IMMEDIATE").await?;
    let written = match before {
        Some(before) => write_group(conn, before, changes).await,
        None => match load_frontier(conn).await {
            Ok(before) => write_group(conn, before, changes).await,
            Err(error) => Err(error),
        },
    };
    let committed = match written {
        Ok(written) => match sqlx::query("COMMIT").execute(&mut *conn).await {
            Ok(_) => Ok(written),
            Err(error) => Err(commit_failed(error)),
        },
        Err(error) => Err(error),
    };
    match committed {
        Ok((results, after)) => {
            *frontier = Some(after);
            Ok(results)
        }
        Err(error) => {
            // SQLite ends the transaction by itself after some failures, and then says so to this.
            if let Err(rollback) = execute(conn, "ROLLBACK").await {
                tracing::debug!(error = %rollback, "rolling back after a failure");
            }
            Err(error)
        }
    }
}

/// The tree as the file has it, checked against the root that was committed for its size.
async fn load_frontier(conn: &mut SqliteConnection) -> Result<Frontier, StateError> {
    let head = read::head(&mut *conn).await?;
    let hashes = read::hashes(conn, &Frontier::nodes(head.size)).await?;
    Frontier::restore(LEDGER_ALGORITHM, head.size, hashes)
        .filter(|frontier| frontier.root() == head.root)
        .ok_or_else(|| StateError::Damaged(format!("the ledger of {} leaves has another root than it had", head.size)))
}

type Written = (Vec<Result<Committed, StateError>>, Frontier);

async fn write_group(
    conn: &mut SqliteConnection,
    mut frontier: Frontier,
    changes: &[Change],
) -> Result<Written, StateError> {
    let mut results = Vec::with_capacity(changes.len());
    for change in changes {
        let first_index = frontier.size();
        let size = first_index + change.leaves.len() as u64;
        let span = (!change.leaves.is_empty()).then_some(LedgerSpan { first_index, size });
        match write_records(conn, &change.writes, span).await {
            Err(conflict @ StateError::Conflict { .. }) => results.push(Err(conflict)),
            Err(error) => return Err(error),
            Ok(()) => {
                write_leaves(conn, &mut frontier, &change.leaves).await?;
                purge(conn, &change.purges).await?;
                results.push(Ok(Committed { first_index, size, root: frontier.root() }));
            }
        }
    }
    Ok((results, frontier))
}

/// Writes one change's records, all or none: a conflict undoes the change and leaves the rest of the group.
async fn write_records(
    conn: &mut SqliteConnection,
    writes: &[Write],
    span: Option<LedgerSpan>,
) -> Result<(), StateError> {
    // A single write that conflicts has done nothing that would need undoing.
    let several = writes.len() > 1;
    if several {
        execute(conn, "SAVEPOINT change").await?;
    }
    let mut result = Ok(());
    for write in writes {
        result = match write {
            Write::Put(draft, expect) => put(conn, draft, *expect, span).await,
            Write::Delete(kind, id, expect) => {
                let found = revision(conn, kind.id(), id).await?;
                let holds = match expect {
                    Expect::Any => true,
                    Expect::Absent => found.is_none(),
                    Expect::Revision(revision) => found == Some(signed(*revision)),
                };
                if holds {
                    delete(conn, kind.id(), id).await
                } else {
                    Err(StateError::Conflict { kind: *kind, id: id.clone() })
                }
            }
        };
        if result.is_err() {
            break;
        }
    }
    if several {
        if result.is_err() {
            execute(conn, "ROLLBACK TO change").await?;
        }
        execute(conn, "RELEASE change").await?;
    }
    result
}

async fn put(
    conn: &mut SqliteConnection,
    draft: &Draft,
    expect: Expect,
    span: Option<LedgerSpan>,
) -> Result<(), StateError> {
    let sql = match expect {
        Expect::Absent => {
            "INSERT INTO records (kind, id, revision, agency, parent, body, changed_at, ledger_first, ledger_size)
             VALUES (?1, ?2, 1, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (kind, id) DO NOTHING"
        }
        Expect::Any => {
            "INSERT INTO records (kind, id, revision, agency, parent, body, changed_at, ledger_first, ledger_size)
             VALUES (?1, ?2, 1, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (kind, id) DO UPDATE SET
             revision = revision + 1, agency = ?3, parent = ?4, body = ?5, changed_at = ?6, ledger_first = ?7,
             ledger_size = ?8"
        }
        Expect::Revision(_) => {
            "UPDATE records SET revision = revision + 1, agency = ?3, parent = ?4, body = ?5, changed_at = ?6,
             ledger_first = ?7, ledger_size = ?8 WHERE kind = ?1 AND id = ?2 AND revision = ?9"
        }
    };
    let query = sqlx::query(sql)
        .bind(draft.kind.id())
        .bind(&draft.id)
        .bind(&draft.agency)
        .bind(&draft.parent)
        .bind(&draft.body)
        .bind(draft.changed_at.0)
        .bind(span.map(|s| signed(s.first_index)))
        .bind(span.map(|s| signed(s.size)));
    let query = if let Expect::Revision(revision) = expect { query.bind(signed(revision)) } else { query };
    let done = query.execute(conn).await.map_err(failed)?;
    if done.rows_affected() == 0 {
        return Err(StateError::Conflict { kind: draft.kind, id: draft.id.clone() });
    }
    Ok(())
}

async fn revision(conn: &mut SqliteConnection, kind: &str, id: &str) -> Result<Option<i64>, StateError> {
    let query = sqlx::query_scalar("SELECT revision FROM records WHERE kind = ?1 AND id = ?2").bind(kind).bind(id);
    query.fetch_optional(conn).await.map_err(failed)
}

async fn delete(conn: &mut SqliteConnection, kind: &str, id: &str) -> Result<(), StateError> {
    let query = sqlx::query("DELETE FROM records WHERE kind = ?1 AND id = ?2").bind(kind).bind(id);
    query.execute(conn).await.map(drop).map_err(failed)
}

async fn write_leaves(
    conn: &mut SqliteConnection,
    frontier: &mut Frontier,
    leaves: &[NewLeaf],
) -> Result<(), StateError> {
    for leaf in leaves {
        let query = sqlx::query("INSERT INTO leaves (leaf_index, bytes, salt, payload) VALUES (?1, ?2, ?3, ?4)");
        let query = query.bind(signed(frontier.size())).bind(&leaf.bytes).bind(&leaf.salt).bind(&leaf.payload);
        query.execute(&mut *conn).await.map_err(failed)?;
        for (node, hash) in frontier.append(leaf_hash(LEDGER_ALGORITHM, &leaf.bytes)) {
            let query = sqlx::query("INSERT INTO nodes (level, node_index, hash) VALUES (?1, ?2, ?3)");
            let query = query.bind(node.level).bind(signed(node.index)).bind(hash.to_vec());
            query.execute(&mut *conn).await.map_err(failed)?;
        }
    }
    if leaves.is_empty() {
        return Ok(());
    }
    let query = sqlx::query("INSERT INTO heads (size, root) VALUES (?1, ?2)");
    let query = query.bind(signed(frontier.size())).bind(frontier.root().to_vec());
    query.execute(conn).await.map(drop).map_err(failed)
}

async fn purge(conn: &mut SqliteConnection, indexes: &[u64]) -> Result<(), StateError> {
    for index in indexes {
        let query = sqlx::query("UPDATE leaves SET salt = NULL, payload = NULL WHERE leaf_index = ?1");
        query.bind(signed(*index)).execute(&mut *conn).await.map_err(failed)?;
    }
    Ok(())
}

async fn execute(conn: &mut SqliteConnection, sql: &'static str) -> Result<(), StateError> {
    sqlx::query(sql).execute(conn).await.map(drop).map_err(failed)
}
