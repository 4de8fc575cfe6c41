//! How transfers and versions lie in the state: explicit rows, JSON text, one conversion each way.

use crate::gate::{Under, Used};
use crate::state::{Draft, Kind, Record, StateError};
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{EntryId, GrantId, TransferId};
use lingqu_protocol::quality::QualityResult;
use lingqu_protocol::receipt::{DataKind, Direction};
use serde::{Deserialize, Serialize};

/// How far a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferStatus {
    /// Begun, and not at its end record yet: running, or waiting to be resumed.
    Open,
    /// At its end record, committed.
    Committed,
    /// Given up; its id is spent.
    Cancelled,
}

/// A transfer, as `transfer show` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRow {
    /// Its id.
    pub id: TransferId,
    /// `CODE/NAME`.
    pub agent: String,
    /// Which way.
    pub direction: Direction,
    /// What.
    pub kind: DataKind,
    /// Of which entry.
    pub entry: EntryId,
    /// Under which grant, where it is a pull.
    pub grant: Option<GrantId>,
    /// Digest of the answer that the grant follows from.
    pub grant_digest: Option<Digest>,
    /// `full` or `append`, where it is a push.
    pub mode: String,
    /// How far.
    pub status: TransferStatus,
    /// What its id is bound to: names and sizes, or what was asked.
    pub content: Digest,
    /// The dataset's version that it made or read.
    pub version: Option<u64>,
    /// Bytes of files, or of batches on the wire.
    pub bytes: u64,
    /// Files.
    pub files: u64,
    /// Rows.
    pub rows: u64,
    /// Rows that the sender says it read, where it is a push that counted them.
    #[serde(default)]
    pub rows_read: Option<u64>,
    /// Rows that the sender says it left behind.
    #[serde(default)]
    pub rows_rejected: Option<u64>,
    /// Digest over what was delivered.
    pub bytes_root: Option<Digest>,
    /// Digest over the rows, whatever their order and format.
    pub rows_digest: Option<Digest>,
    /// Milliseconds since 1970 UTC.
    pub opened_at: i64,
    /// Milliseconds since 1970 UTC.
    pub ended_at: Option<i64>,
}

/// A version of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRow {
    /// Of which entry.
    pub entry: EntryId,
    /// 1, 2, 3 …
    pub number: u64,
    /// What.
    pub kind: DataKind,
    /// The transfer that brought it, under whose id its objects lie.
    pub transfer: TransferId,
    /// Digest of its manifest object.
    pub manifest: Digest,
    /// Bytes.
    pub bytes: u64,
    /// Files.
    pub files: u64,
    /// Rows.
    pub rows: u64,
    /// Rows that the sender says it read for it, where it counted them.
    #[serde(default)]
    pub rows_read: Option<u64>,
    /// Rows that the sender says it left behind.
    #[serde(default)]
    pub rows_rejected: Option<u64>,
    /// What the quality rules of its entry found in it.
    #[serde(default)]
    pub quality: Vec<QualityResult>,
    /// Digest over its bytes.
    pub bytes_root: Digest,
    /// Digest over its rows.
    pub rows_digest: Option<Digest>,
    /// Milliseconds since 1970 UTC.
    pub committed_at: i64,
    /// The version that its push went on from, where it was no full one.
    #[serde(default)]
    pub follows: Option<u64>,
    /// The transfers under whose ids its parts lie, where it is of rows: its own, and those that it goes on from.
    #[serde(default)]
    pub sources: Vec<TransferId>,
    /// When its data was let go, in milliseconds since 1970 UTC; this record stays.
    #[serde(default)]
    pub retired_at: Option<i64>,
}

/// The latest version of a dataset: what a commit moves forward, and only from where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatestRow {
    /// Its number.
    pub latest: u64,
}

impl TransferRow {
    /// Whether it is this agent's: to others it does not exist.
    pub fn is_of(&self, agent: &AgentId) -> bool {
        self.agent == agent.to_string()
    }
}

/// A version as it is written down.
///
/// # Errors
/// Ours.
pub(super) fn version_draft(version: &VersionRow, now: Timestamp) -> Result<Draft, super::FlowError> {
    let body = serde_json::to_vec(version).map_err(|e| super::FlowError::Machine(e.to_string()))?;
    Ok(Draft {
        kind: Kind::Version,
        id: version_id(version.entry, version.number),
        agency: None,
        parent: Some(version.entry.to_string()),
        body,
        changed_at: now,
    })
}

/// The id of a version's record; padded so that versions are listed in their order.
pub fn version_id(entry: EntryId, number: u64) -> String {
    format!("{entry}/{number:020}")
}

/// The id of the record that holds a dataset's latest version.
pub fn latest_id(entry: EntryId) -> String {
    format!("latest/{entry}")
}

/// What records of accounts hang on: they are listed once, at start.
pub const USED_PARENT: &str = "volume";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsedRow {
    used_bytes: u64,
    #[serde(default)]
    day: i64,
    #[serde(default)]
    requests: u64,
}

/// The record of what was used up under a permission.
pub fn used_draft(under: Under, used: Used, now: Timestamp) -> Draft {
    Draft {
        kind: Kind::Setting,
        id: format!("{USED_PARENT}/{under}"),
        agency: None,
        parent: Some(USED_PARENT.to_owned()),
        body: format!("{{\"used_bytes\":{},\"day\":{},\"requests\":{}}}", used.bytes, used.day, used.requests)
            .into_bytes(),
        changed_at: now,
    }
}

/// The permission and what was used up under it, in such a record.
///
/// # Errors
/// The record is damaged.
pub fn used(record: &Record) -> Result<(Under, Used), StateError> {
    let id = record.id.strip_prefix(USED_PARENT).and_then(|id| id.strip_prefix('/'));
    let grant: Option<GrantId> = id.and_then(|id| id.parse().ok());
    let row = serde_json::from_slice::<UsedRow>(&record.body).ok();
    let damaged = || StateError::Damaged(format!("{}: what was used of a grant", record.id));
    let (grant, row) = grant.zip(row).ok_or_else(damaged)?;
    Ok((Under::Grant(grant), Used { bytes: row.used_bytes, day: row.day, requests: row.requests }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_account_reads_back_and_an_older_record_too() {
        let under = Under::Grant(GrantId::from_bits(7));
        let spent = Used { bytes: 3, day: 20_778, requests: 4 };
        let draft = used_draft(under, spent, Timestamp(1));
        let mut record = Record {
            kind: draft.kind,
            id: draft.id,
            revision: 1,
            agency: draft.agency,
            parent: draft.parent,
            body: draft.body,
            changed_at: draft.changed_at,
            ledger: None,
        };
        assert_eq!(used(&record), Ok((under, spent)));
        record.body = b"{\"used_bytes\":5}".to_vec();
        assert_eq!(used(&record), Ok((under, Used { bytes: 5, ..Used::default() })));
        for bad in [&b"{}"[..], b"", b"{\"used_bytes\":-1}", b"{\"used_bytes\":1,\"x\":1}"] {
            record.body = bad.to_vec();
            assert!(used(&record).is_err());
        }
        record.id = "volume/x".to_owned();
        assert!(used(&record).is_err());
    }
}
