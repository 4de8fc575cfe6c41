//! Rows of what is shared: entries, applications, grants.

use super::{Stored, parse};
use crate::registry::application::{Application, ApplicationStatus};
use crate::registry::entry::{Entry, EntryVersion, Latest, Published};
use crate::registry::grant::{Grant, GrantStatus, Rectification};
use crate::state::Kind;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::Day;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{ApplicationId, DocumentId, EntryId, GrantId};
use serde::{Deserialize, Serialize};

/// 政务数据目录条目.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryRow {
    id: EntryId,
    provider: String,
    code: Option<String>,
    published: Option<PublishedRow>,
    latest: VersionRow,
    is: LatestRow,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishedRow {
    version: VersionRow,
    toml: String,
    since: i64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionRow {
    number: u32,
    document: DocumentId,
    digest: Digest,
    at: i64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum LatestRow {
    Published,
    Submitted,
    Returned { why: String, at: i64 },
}

impl From<EntryVersion> for VersionRow {
    fn from(v: EntryVersion) -> Self {
        Self { number: v.number, document: v.document, digest: v.digest, at: v.at.0 }
    }
}

impl From<VersionRow> for EntryVersion {
    fn from(v: VersionRow) -> Self {
        Self { number: v.number, document: v.document, digest: v.digest, at: Timestamp(v.at) }
    }
}

impl Stored for Entry {
    const KIND: Kind = Kind::Entry;
    type Row = EntryRow;
    fn id(&self) -> String {
        self.id.to_string()
    }
    fn owner(&self) -> Option<String> {
        Some(self.provider.to_string())
    }
    fn to_row(&self) -> EntryRow {
        let published =
            |p: &Published| PublishedRow { version: p.version.into(), toml: p.toml.clone(), since: p.since.0 };
        EntryRow {
            id: self.id,
            provider: self.provider.to_string(),
            code: self.code.as_ref().map(ToString::to_string),
            published: self.published.as_ref().map(published),
            latest: self.latest.into(),
            is: match &self.is {
                Latest::Published => LatestRow::Published,
                Latest::Submitted => LatestRow::Submitted,
                Latest::Returned { why, at } => LatestRow::Returned { why: why.clone(), at: at.0 },
            },
        }
    }
    fn from_row(row: EntryRow) -> Result<Self, String> {
        let published =
            |p: PublishedRow| Published { version: p.version.into(), toml: p.toml, since: Timestamp(p.since) };
        Ok(Self {
            id: row.id,
            provider: parse("provider", &row.provider)?,
            code: row.code.as_deref().map(|c| parse("code", c)).transpose()?,
            published: row.published.map(published),
            latest: row.latest.into(),
            is: match row.is {
                LatestRow::Published => Latest::Published,
                LatestRow::Submitted => Latest::Submitted,
                LatestRow::Returned { why, at } => Latest::Returned { why, at: Timestamp(at) },
            },
        })
    }
}

/// 共享申请.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplicationRow {
    id: ApplicationId,
    requester: String,
    entry: EntryId,
    provider: String,
    toml: String,
    document: DocumentId,
    digest: Digest,
    submitted_at: i64,
    status: ApplicationStatusRow,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum ApplicationStatusRow {
    Submitted,
    Approved { grant: GrantId, answer: Digest, at: i64 },
    Refused { why: String, answer: Digest, at: i64 },
}

impl Stored for Application {
    const KIND: Kind = Kind::Application;
    type Row = ApplicationRow;
    fn id(&self) -> String {
        self.id.to_string()
    }
    fn owner(&self) -> Option<String> {
        Some(self.requester.to_string())
    }
    fn parent(&self) -> Option<String> {
        Some(self.provider.to_string())
    }
    fn to_row(&self) -> ApplicationRow {
        use ApplicationStatus::{Approved, Refused, Submitted};
        ApplicationRow {
            id: self.id,
            requester: self.requester.to_string(),
            entry: self.entry,
            provider: self.provider.to_string(),
            toml: self.toml.clone(),
            document: self.document,
            digest: self.digest,
            submitted_at: self.submitted_at.0,
            status: match &self.status {
                Submitted => ApplicationStatusRow::Submitted,
                Approved { grant, answer, at } => {
                    ApplicationStatusRow::Approved { grant: *grant, answer: *answer, at: at.0 }
                }
                Refused { why, answer, at } => {
                    ApplicationStatusRow::Refused { why: why.clone(), answer: *answer, at: at.0 }
                }
            },
        }
    }
    fn from_row(row: ApplicationRow) -> Result<Self, String> {
        use ApplicationStatusRow::{Approved, Refused, Submitted};
        Ok(Self {
            id: row.id,
            requester: parse("requester", &row.requester)?,
            entry: row.entry,
            provider: parse("provider", &row.provider)?,
            toml: row.toml,
            document: row.document,
            digest: row.digest,
            submitted_at: Timestamp(row.submitted_at),
            status: match row.status {
                Submitted => ApplicationStatus::Submitted,
                Approved { grant, answer, at } => ApplicationStatus::Approved { grant, answer, at: Timestamp(at) },
                Refused { why, answer, at } => ApplicationStatus::Refused { why, answer, at: Timestamp(at) },
            },
        })
    }
}

/// 共享权限.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantRow {
    id: GrantId,
    application: ApplicationId,
    entry: EntryId,
    provider: String,
    requester: String,
    application_toml: String,
    scope_toml: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leaves: Option<Vec<String>>,
    answer: Digest,
    digest: Digest,
    made_at: i64,
    status: GrantStatusRow,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum GrantStatusRow {
    InForce,
    Suspended {
        reason: String,
        by: String,
        since: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rectify: Option<RectificationRow>,
    },
    Terminated {
        reason: String,
        since: i64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RectificationRow {
    by: Day,
    reason: String,
    ordered_at: i64,
}

impl Stored for Grant {
    const KIND: Kind = Kind::Grant;
    type Row = GrantRow;
    fn id(&self) -> String {
        self.id.to_string()
    }
    fn owner(&self) -> Option<String> {
        Some(self.requester.to_string())
    }
    fn parent(&self) -> Option<String> {
        Some(self.provider.to_string())
    }
    fn to_row(&self) -> GrantRow {
        GrantRow {
            id: self.id,
            application: self.application,
            entry: self.entry,
            provider: self.provider.to_string(),
            requester: self.requester.to_string(),
            application_toml: self.application_toml.clone(),
            scope_toml: self.scope_toml.clone(),
            leaves: self.leaves.clone(),
            answer: self.answer,
            digest: self.digest,
            made_at: self.made_at.0,
            status: match &self.status {
                GrantStatus::InForce => GrantStatusRow::InForce,
                GrantStatus::Suspended { reason, by, since, rectify } => GrantStatusRow::Suspended {
                    reason: reason.clone(),
                    by: by.to_string(),
                    since: since.0,
                    rectify: rectify.as_ref().map(|r| RectificationRow {
                        by: r.by,
                        reason: r.reason.clone(),
                        ordered_at: r.ordered_at.0,
                    }),
                },
                GrantStatus::Terminated { reason, since } => {
                    GrantStatusRow::Terminated { reason: reason.clone(), since: since.0 }
                }
            },
        }
    }
    fn from_row(row: GrantRow) -> Result<Self, String> {
        Ok(Self {
            id: row.id,
            application: row.application,
            entry: row.entry,
            provider: parse("provider", &row.provider)?,
            requester: parse("requester", &row.requester)?,
            application_toml: row.application_toml,
            scope_toml: row.scope_toml,
            leaves: row.leaves,
            answer: row.answer,
            digest: row.digest,
            made_at: Timestamp(row.made_at),
            status: match row.status {
                GrantStatusRow::InForce => GrantStatus::InForce,
                GrantStatusRow::Suspended { reason, by, since, rectify } => GrantStatus::Suspended {
                    reason,
                    by: parse("by", &by)?,
                    since: Timestamp(since),
                    rectify: rectify.map(|r| Rectification {
                        by: r.by,
                        reason: r.reason,
                        ordered_at: Timestamp(r.ordered_at),
                    }),
                },
                GrantStatusRow::Terminated { reason, since } => {
                    GrantStatus::Terminated { reason, since: Timestamp(since) }
                }
            },
        })
    }
}
