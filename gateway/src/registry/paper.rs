//! Papers: the signed documents themselves, kept whole so that an auditor can check them again, and the claims on codes.

use super::record::Stored;
use crate::state::Kind;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::dsse::Envelope;
use lingqu_protocol::entry::EntryCode;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{DocumentId, EntryId};
use serde::{Deserialize, Serialize};

/// A document that was taken, with the answer that it got: handed in again, it gets the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paper {
    /// Its id.
    pub id: DocumentId,
    /// Digest of its payload.
    pub digest: Digest,
    /// The signed envelope.
    pub envelope: Envelope,
    /// The agency it came from; the root's have none.
    pub agency: Option<String>,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// What it made or changed.
    pub answer: serde_json::Value,
}

/// A paper's row.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperRow {
    id: DocumentId,
    digest: Digest,
    envelope: String,
    agency: Option<String>,
    taken_at: i64,
    answer: serde_json::Value,
}

impl Stored for Paper {
    const KIND: Kind = Kind::Document;
    type Row = PaperRow;
    fn id(&self) -> String {
        self.id.to_string()
    }
    fn owner(&self) -> Option<String> {
        self.agency.clone()
    }
    fn to_row(&self) -> PaperRow {
        PaperRow {
            id: self.id,
            digest: self.digest,
            envelope: self.envelope.to_json(),
            agency: self.agency.clone(),
            taken_at: self.taken_at.0,
            answer: self.answer.clone(),
        }
    }
    fn from_row(row: PaperRow) -> Result<Self, String> {
        Ok(Self {
            id: row.id,
            digest: row.digest,
            envelope: Envelope::from_json(row.envelope.as_bytes()).map_err(|e| e.to_string())?,
            agency: row.agency,
            taken_at: Timestamp(row.taken_at),
            answer: row.answer,
        })
    }
}

/// The one entry that has a code. Written with `Expect::Absent`, it is what keeps codes unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeClaim {
    /// The code.
    pub code: EntryCode,
    /// Its entry.
    pub entry: EntryId,
}

/// A claim's row.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeClaimRow {
    code: String,
    entry: EntryId,
}

impl CodeClaim {
    /// Where the claim on a code stands.
    pub fn id_of(code: &EntryCode) -> String {
        format!("entry-code:{code}")
    }
}

impl Stored for CodeClaim {
    const KIND: Kind = Kind::Setting;
    type Row = CodeClaimRow;
    fn id(&self) -> String {
        Self::id_of(&self.code)
    }
    fn owner(&self) -> Option<String> {
        None
    }
    fn to_row(&self) -> CodeClaimRow {
        CodeClaimRow { code: self.code.to_string(), entry: self.entry }
    }
    fn from_row(row: CodeClaimRow) -> Result<Self, String> {
        Ok(Self { code: row.code.parse().map_err(|e| format!("{e}"))?, entry: row.entry })
    }
}
