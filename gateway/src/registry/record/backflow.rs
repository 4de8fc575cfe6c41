//! Rows of published backflow lists.

use super::{Stored, parse};
use crate::registry::backflow::List;
use crate::state::Kind;
use lingqu_protocol::backflow::BackflowList;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{DocumentId, EntryId, ListId};
use serde::{Deserialize, Serialize};

/// 回流清单.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListRow {
    id: ListId,
    issuer: String,
    toml: String,
    entries: Vec<EntryId>,
    document: DocumentId,
    digest: Digest,
    published_at: i64,
    revoked: Option<(i64, String)>,
}

impl Stored for List {
    const KIND: Kind = Kind::BackflowList;
    type Row = ListRow;
    fn id(&self) -> String {
        self.id.to_string()
    }
    fn owner(&self) -> Option<String> {
        Some(self.issuer.to_string())
    }
    fn to_row(&self) -> ListRow {
        ListRow {
            id: self.id,
            issuer: self.issuer.to_string(),
            toml: self.toml.clone(),
            entries: self.entries.clone(),
            document: self.document,
            digest: self.digest,
            published_at: self.published_at.0,
            revoked: self.revoked.as_ref().map(|(at, why)| (at.0, why.clone())),
        }
    }
    fn from_row(row: ListRow) -> Result<Self, String> {
        let list = BackflowList::parse(&row.toml).map_err(|e| format!("toml: {e}"))?;
        if list.rows.len() != row.entries.len() {
            return Err(format!("{} rows and {} entries", list.rows.len(), row.entries.len()));
        }
        Ok(Self {
            id: row.id,
            issuer: parse("issuer", &row.issuer)?,
            toml: row.toml,
            list,
            entries: row.entries,
            document: row.document,
            digest: row.digest,
            published_at: Timestamp(row.published_at),
            revoked: row.revoked.map(|(at, why)| (Timestamp(at), why)),
        })
    }
}
