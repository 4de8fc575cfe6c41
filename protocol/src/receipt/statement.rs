//! What was transferred, in the one text that the ledger commits to.

use super::ReceiptError;
use crate::agency::AgentId;
use crate::digest::Digest;
use crate::host::Timestamp;
use crate::ids::{EntryId, GatewayId, GrantId, TransferId};
use crate::leaf::{Leaf, LeafKind, commitment};
use crate::quality::QualityResult;
use serde::{Deserialize, Serialize};

/// The version of receipts made here.
pub const RECEIPT_VERSION: u32 = 1;

/// Files that a receipt lists one by one; a larger set is named by the digest of its manifest. Few enough that a receipt
/// stays a text that a person can read.
pub const RECEIPT_FILES_MAX: usize = 64;

/// Which way the data went, seen from the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the agent to the gateway.
    Push,
    /// From the gateway to the agent.
    Pull,
}

/// What the data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataKind {
    /// A set of files.
    File,
    /// Rows of a table.
    Table,
}

/// The algorithms behind a receipt, by their ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Algorithms {
    /// What hashes the ledger's tree and the commitment.
    pub ledger: String,
    /// What signs checkpoints.
    pub signature: String,
}

/// A grant as it was when data went under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantVersion {
    /// The grant.
    pub id: GrantId,
    /// Digest of the text of its version.
    pub digest: Digest,
}

/// One file of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptFile {
    /// Its path in the set.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its BLAKE3 root, as `b3sum` prints it.
    pub root: Digest,
}

/// What was transferred. Its JSON text, fields in this order and nothing between them, is what the ledger commits to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// [`RECEIPT_VERSION`].
    pub version: u32,
    /// What the proof is made with.
    pub algorithms: Algorithms,
    /// The gateway.
    pub gateway: GatewayId,
    /// The transfer.
    pub transfer: TransferId,
    /// The agent, `CODE/NAME`.
    #[serde(with = "text")]
    pub agent: AgentId,
    /// Which way the data went.
    pub direction: Direction,
    /// The catalogue entry.
    pub entry: EntryId,
    /// The entry's code.
    pub entry_code: Option<String>,
    /// The grant; `None` where a provider pushes its own entry.
    pub grant: Option<GrantVersion>,
    /// The number of the dataset's version.
    pub dataset_version: u64,
    /// What the data is.
    pub kind: DataKind,
    /// Bytes of content.
    pub bytes: u64,
    /// Files, where the data is files.
    pub files_count: Option<u64>,
    /// Rows, where the data is a table.
    pub rows: Option<u64>,
    /// Rows that the sender of a table says it read, where it counted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_read: Option<u64>,
    /// Rows that the sender left behind because they are not what the entry says: read = sent + rejected, where sent are the
    /// rows that came with this transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_rejected: Option<u64>,
    /// What the quality rules of the entry found in the version, as the gateway ran them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quality: Vec<QualityResult>,
    /// Digest over what was delivered.
    pub bytes_root: Digest,
    /// Digest over the rows, whatever their order and format.
    pub rows_digest: Option<Digest>,
    /// The files, where they are at most [`RECEIPT_FILES_MAX`]; else none.
    pub files: Vec<ReceiptFile>,
    /// Digest of the manifest, where the files are too many to list.
    pub manifest: Option<Digest>,
    /// Milliseconds since 1970 UTC when it was committed.
    pub committed_at: i64,
}

impl Statement {
    /// The bytes that the ledger commits to.
    pub fn bytes(&self) -> Vec<u8> {
        // Structs of numbers, texts and lists always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads [`Self::bytes`].
    ///
    /// # Errors
    /// [`ReceiptError::Malformed`] unless they are exactly that.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReceiptError> {
        let statement: Self = serde_json::from_slice(bytes).map_err(|e| ReceiptError::Malformed(e.to_string()))?;
        if statement.bytes() == bytes {
            Ok(statement)
        } else {
            Err(ReceiptError::Malformed("not in its one form".into()))
        }
    }

    /// The leaf that the ledger holds for this statement.
    pub fn leaf(&self, salt: &[u8]) -> Leaf {
        let kind = match self.direction {
            Direction::Push => LeafKind::VersionCommitted,
            Direction::Pull => LeafKind::Delivery,
        };
        Leaf {
            agency: Some(self.agent.agency),
            agent: Some(self.agent.clone()),
            entry: Some(self.entry),
            grant: self.grant.as_ref().map(|g| g.id),
            transfer: Some(self.transfer),
            count: self.rows.or(self.files_count),
            bytes: Some(self.bytes),
            ..Leaf::new(kind, Timestamp(self.committed_at), commitment(salt, &self.bytes()))
        }
    }
}

/// A value as its text.
mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::fmt::Display;
    use std::str::FromStr;

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}
