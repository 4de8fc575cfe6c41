//! Reading, with a statement for each question.

use super::super::{Filter, Head, Kind, LEDGER_ALGORITHM, LedgerSpan, Record, StateError, StoredLeaf};
use super::error::{failed, hash, signed, unsigned};
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::merkle::{Hash, Node, empty_root};
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{Row, SqliteExecutor};

macro_rules! select_records {
    ($rest:literal) => {
        concat!(
            "SELECT id, revision, agency, parent, body, changed_at, ledger_first, ledger_size FROM records WHERE kind = ?1 ",
            $rest
        )
    };
}

pub(super) async fn record(pool: &SqlitePool, kind: Kind, id: &str) -> Result<Option<Record>, StateError> {
    let query = sqlx::query(select_records!("AND id = ?2")).bind(kind.id()).bind(id);
    let row = query.fetch_optional(pool).await.map_err(failed)?;
    row.map(|row| to_record(kind, &row)).transpose()
}

pub(super) async fn records(
    pool: &SqlitePool,
    kind: Kind,
    filter: &Filter,
    after: &str,
    limit: u32,
) -> Result<Vec<Record>, StateError> {
    let sql = match (&filter.agency, &filter.parent) {
        (None, None) => select_records!("AND id > ?2 ORDER BY id LIMIT ?3"),
        (Some(_), None) => select_records!("AND id > ?2 AND agency = ?4 ORDER BY id LIMIT ?3"),
        (None, Some(_)) => select_records!("AND id > ?2 AND parent = ?5 ORDER BY id LIMIT ?3"),
        (Some(_), Some(_)) => select_records!("AND id > ?2 AND agency = ?4 AND parent = ?5 ORDER BY id LIMIT ?3"),
    };
    let query = sqlx::query(sql).bind(kind.id()).bind(after).bind(limit);
    let query = match (&filter.agency, &filter.parent) {
        (None, None) => query,
        (agency, None) => query.bind(agency),
        (agency, parent) => query.bind(agency).bind(parent),
    };
    let rows = query.fetch_all(pool).await.map_err(failed)?;
    rows.iter().map(|row| to_record(kind, row)).collect()
}

fn to_record(kind: Kind, row: &SqliteRow) -> Result<Record, StateError> {
    let first: Option<i64> = row.try_get(6).map_err(failed)?;
    let size: Option<i64> = row.try_get(7).map_err(failed)?;
    let ledger = match (first, size) {
        (Some(first), Some(size)) => Some(LedgerSpan { first_index: unsigned(first)?, size: unsigned(size)? }),
        _ => None,
    };
    Ok(Record {
        kind,
        id: row.try_get(0).map_err(failed)?,
        revision: unsigned(row.try_get(1).map_err(failed)?)?,
        agency: row.try_get(2).map_err(failed)?,
        parent: row.try_get(3).map_err(failed)?,
        body: row.try_get(4).map_err(failed)?,
        changed_at: Timestamp(row.try_get(5).map_err(failed)?),
        ledger,
    })
}

pub(super) async fn head<'e>(executor: impl SqliteExecutor<'e>) -> Result<Head, StateError> {
    let query = sqlx::query("SELECT size, root FROM heads ORDER BY size DESC LIMIT 1");
    match query.fetch_optional(executor).await.map_err(failed)? {
        Some(row) => to_head(&row),
        None => Ok(Head { size: 0, root: empty_root(LEDGER_ALGORITHM) }),
    }
}

pub(super) async fn heads(pool: &SqlitePool, after: u64, limit: u32) -> Result<Vec<Head>, StateError> {
    let query = sqlx::query("SELECT size, root FROM heads WHERE size > ?1 ORDER BY size LIMIT ?2");
    let rows = query.bind(signed(after)).bind(limit).fetch_all(pool).await.map_err(failed)?;
    rows.iter().map(to_head).collect()
}

pub(super) async fn root_at(pool: &SqlitePool, size: u64) -> Result<Option<Hash>, StateError> {
    let query = sqlx::query_scalar("SELECT root FROM heads WHERE size = ?1").bind(signed(size));
    let found: Option<Vec<u8>> = query.fetch_optional(pool).await.map_err(failed)?;
    found.map(|bytes| hash(&bytes)).transpose()
}

fn to_head(row: &SqliteRow) -> Result<Head, StateError> {
    let root: Vec<u8> = row.try_get(1).map_err(failed)?;
    Ok(Head { size: unsigned(row.try_get(0).map_err(failed)?)?, root: hash(&root)? })
}

pub(super) async fn leaves(pool: &SqlitePool, from: u64, limit: u32) -> Result<Vec<StoredLeaf>, StateError> {
    let sql = "SELECT leaf_index, bytes, salt, payload FROM leaves WHERE leaf_index >= ?1 ORDER BY leaf_index LIMIT ?2";
    let rows = sqlx::query(sql).bind(signed(from)).bind(limit).fetch_all(pool).await.map_err(failed)?;
    let to_leaf = |row: &SqliteRow| {
        Ok(StoredLeaf {
            index: unsigned(row.try_get(0).map_err(failed)?)?,
            bytes: row.try_get(1).map_err(failed)?,
            salt: row.try_get(2).map_err(failed)?,
            payload: row.try_get(3).map_err(failed)?,
        })
    };
    rows.iter().map(to_leaf).collect()
}

pub(super) async fn hashes(conn: &mut SqliteConnection, nodes: &[Node]) -> Result<Vec<Hash>, StateError> {
    let mut hashes = Vec::with_capacity(nodes.len());
    for node in nodes {
        let query = sqlx::query_scalar("SELECT hash FROM nodes WHERE level = ?1 AND node_index = ?2");
        let query = query.bind(node.level).bind(signed(node.index));
        let found: Option<Vec<u8>> = query.fetch_optional(&mut *conn).await.map_err(failed)?;
        let bytes = found.ok_or_else(|| StateError::Damaged(format!("{node:?} is missing")))?;
        hashes.push(hash(&bytes)?);
    }
    Ok(hashes)
}
