//! How the registry's things are written in the state: one explicit row type each, as JSON. Rows are read back into
//! domain types with every check, for a state may be restored from anywhere.

use super::agency::Agency;
use super::agent::{Agent, AgentStatus, Issued};
use super::application::{Application, ApplicationStatus};
use super::entry::{Entry, EntryVersion, Latest, Published};
use super::error::RegistryError;
use super::grant::{Grant, GrantStatus};
use super::invitation::{Invitation, InvitationStatus};
use super::officer::Officer;
use super::stop::Stop;
use crate::state::{Draft, Kind, Record};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::OfficerRole;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{ApplicationId, DocumentId, EntryId, GrantId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::str::FromStr;

/// A thing of the registry with a place in the state.
pub trait Stored: Sized + Send + Sync {
    /// What it is there.
    const KIND: Kind;
    /// Its body there.
    type Row: Serialize + DeserializeOwned;
    /// Its id there.
    fn id(&self) -> String;
    /// The agency that it belongs to: who asked, for what was asked.
    fn owner(&self) -> Option<String>;
    /// What it hangs on: the provider, for what was asked of one.
    fn parent(&self) -> Option<String> {
        None
    }
    /// Its body.
    fn to_row(&self) -> Self::Row;
    /// What the body says; the text says what is wrong with it.
    ///
    /// # Errors
    /// A body that this program cannot have written.
    fn from_row(row: Self::Row) -> Result<Self, String>;
}

/// The record of a thing.
///
/// # Errors
/// [`RegistryError::Damaged`]; none is known.
pub fn draft<T: Stored>(thing: &T, now: Timestamp) -> Result<Draft, RegistryError> {
    let id = thing.id();
    let body = serde_json::to_vec(&thing.to_row())
        .map_err(|e| RegistryError::Damaged(format!("{} {id} cannot be written: {e}", T::KIND)))?;
    Ok(Draft { kind: T::KIND, id, agency: thing.owner(), parent: thing.parent(), body, changed_at: now })
}

/// The thing in a record.
///
/// # Errors
/// [`RegistryError::Damaged`], with the record's id.
pub fn thing<T: Stored>(record: &Record) -> Result<T, RegistryError> {
    let damaged = |why: String| RegistryError::Damaged(format!("{} {}: {why}", record.kind, record.id));
    let row: T::Row = serde_json::from_slice(&record.body).map_err(|e| damaged(e.to_string()))?;
    let thing = T::from_row(row).map_err(damaged)?;
    // The record is found by its id, so a body under another's id would be taken for it.
    if record.kind != T::KIND || thing.id() != record.id {
        return Err(damaged(format!("it holds {} {}", T::KIND, thing.id())));
    }
    Ok(thing)
}

fn parse<T: FromStr<Err: Display>>(what: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|e| format!("{what} {text:?}: {e}"))
}

/// 政务部门.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgencyRow {
    code: String,
    name: String,
    region: String,
    level: String,
    duties: Vec<String>,
    parent: Option<String>,
    authority: bool,
    document: DocumentId,
    digest: Digest,
    stated_at: i64,
    changed_at: i64,
}

impl Stored for Agency {
    const KIND: Kind = Kind::Agency;
    type Row = AgencyRow;
    fn id(&self) -> String {
        self.code.to_string()
    }
    fn owner(&self) -> Option<String> {
        Some(self.code.to_string())
    }
    fn parent(&self) -> Option<String> {
        self.parent.map(|p| p.to_string())
    }
    fn to_row(&self) -> AgencyRow {
        AgencyRow {
            code: self.code.to_string(),
            name: self.name.clone(),
            region: self.region.to_string(),
            level: self.level.to_string(),
            duties: self.duties.clone(),
            parent: self.parent.map(|p| p.to_string()),
            authority: self.authority,
            document: self.document,
            digest: self.digest,
            stated_at: self.stated_at.0,
            changed_at: self.changed_at.0,
        }
    }
    fn from_row(row: AgencyRow) -> Result<Self, String> {
        Ok(Self {
            code: parse("code", &row.code)?,
            name: row.name,
            region: parse("region", &row.region)?,
            level: parse("level", &row.level)?,
            duties: row.duties,
            parent: row.parent.as_deref().map(|p| parse("parent", p)).transpose()?,
            authority: row.authority,
            document: row.document,
            digest: row.digest,
            stated_at: Timestamp(row.stated_at),
            changed_at: Timestamp(row.changed_at),
        })
    }
}

/// An officer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfficerRow {
    key: String,
    agency: String,
    name: String,
    role: OfficerRole,
    document: DocumentId,
    digest: Digest,
    added_at: i64,
}

impl Stored for Officer {
    const KIND: Kind = Kind::Officer;
    type Row = OfficerRow;
    fn id(&self) -> String {
        self.key.key_id().to_string()
    }
    fn owner(&self) -> Option<String> {
        Some(self.agency.to_string())
    }
    fn to_row(&self) -> OfficerRow {
        OfficerRow {
            key: self.key.to_string(),
            agency: self.agency.to_string(),
            name: self.name.clone(),
            role: self.role,
            document: self.document,
            digest: self.digest,
            added_at: self.added_at.0,
        }
    }
    fn from_row(row: OfficerRow) -> Result<Self, String> {
        Ok(Self {
            key: parse("key", &row.key)?,
            agency: parse("agency", &row.agency)?,
            name: row.name,
            role: row.role,
            document: row.document,
            digest: row.digest,
            added_at: Timestamp(row.added_at),
        })
    }
}

/// An agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRow {
    id: String,
    joined_at: i64,
    status: AgentStatusRow,
    certificates: Vec<IssuedRow>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum AgentStatusRow {
    Active,
    Blocked { reason: String, at: i64 },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuedRow {
    fingerprint: Digest,
    key: Digest,
    at: i64,
    not_after: i64,
}

impl Stored for Agent {
    const KIND: Kind = Kind::Agent;
    type Row = AgentRow;
    fn id(&self) -> String {
        self.id.to_string()
    }
    fn owner(&self) -> Option<String> {
        Some(self.id.agency.to_string())
    }
    fn to_row(&self) -> AgentRow {
        let issued =
            |i: &Issued| IssuedRow { fingerprint: i.fingerprint, key: i.key, at: i.at.0, not_after: i.not_after.0 };
        AgentRow {
            id: self.id.to_string(),
            joined_at: self.joined_at.0,
            status: match &self.status {
                AgentStatus::Active => AgentStatusRow::Active,
                AgentStatus::Blocked { reason, at } => AgentStatusRow::Blocked { reason: reason.clone(), at: at.0 },
            },
            certificates: self.certificates.iter().map(issued).collect(),
        }
    }
    fn from_row(row: AgentRow) -> Result<Self, String> {
        let issued = |i: IssuedRow| Issued {
            fingerprint: i.fingerprint,
            key: i.key,
            at: Timestamp(i.at),
            not_after: Timestamp(i.not_after),
        };
        Ok(Self {
            id: parse("id", &row.id)?,
            joined_at: Timestamp(row.joined_at),
            status: match row.status {
                AgentStatusRow::Active => AgentStatus::Active,
                AgentStatusRow::Blocked { reason, at } => AgentStatus::Blocked { reason, at: Timestamp(at) },
            },
            certificates: row.certificates.into_iter().map(issued).collect(),
        })
    }
}

/// An invitation.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvitationRow {
    key: String,
    agent: String,
    made_at: i64,
    expires_at: i64,
    used: Option<UsedRow>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsedRow {
    key: Digest,
    at: i64,
}

impl Stored for Invitation {
    const KIND: Kind = Kind::Invitation;
    type Row = InvitationRow;
    fn id(&self) -> String {
        self.key.key_id().to_string()
    }
    fn owner(&self) -> Option<String> {
        Some(self.agent.agency.to_string())
    }
    fn to_row(&self) -> InvitationRow {
        InvitationRow {
            key: self.key.to_string(),
            agent: self.agent.to_string(),
            made_at: self.made_at.0,
            expires_at: self.expires_at.0,
            used: match self.status {
                InvitationStatus::Open => None,
                InvitationStatus::Used { key, at } => Some(UsedRow { key, at: at.0 }),
            },
        }
    }
    fn from_row(row: InvitationRow) -> Result<Self, String> {
        let used = |used: UsedRow| InvitationStatus::Used { key: used.key, at: Timestamp(used.at) };
        Ok(Self {
            key: parse("key", &row.key)?,
            agent: parse("agent", &row.agent)?,
            made_at: Timestamp(row.made_at),
            expires_at: Timestamp(row.expires_at),
            status: row.used.map_or(InvitationStatus::Open, used),
        })
    }
}

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
    answer: Digest,
    digest: Digest,
    made_at: i64,
    status: GrantStatusRow,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum GrantStatusRow {
    InForce,
    Suspended { reason: String, by: String, since: i64 },
    Terminated { reason: String, since: i64 },
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
            answer: self.answer,
            digest: self.digest,
            made_at: self.made_at.0,
            status: match &self.status {
                GrantStatus::InForce => GrantStatusRow::InForce,
                GrantStatus::Suspended { reason, by, since } => {
                    GrantStatusRow::Suspended { reason: reason.clone(), by: by.to_string(), since: since.0 }
                }
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
            answer: row.answer,
            digest: row.digest,
            made_at: Timestamp(row.made_at),
            status: match row.status {
                GrantStatusRow::InForce => GrantStatus::InForce,
                GrantStatusRow::Suspended { reason, by, since } => {
                    GrantStatus::Suspended { reason, by: parse("by", &by)?, since: Timestamp(since) }
                }
                GrantStatusRow::Terminated { reason, since } => {
                    GrantStatus::Terminated { reason, since: Timestamp(since) }
                }
            },
        })
    }
}

/// 临时阻断.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopRow {
    selector: String,
    reason: String,
    since: i64,
}

impl Stored for Stop {
    const KIND: Kind = Kind::Stop;
    type Row = StopRow;
    fn id(&self) -> String {
        self.selector.to_string()
    }
    fn owner(&self) -> Option<String> {
        self.selector.agency().map(|code| code.to_string())
    }
    fn to_row(&self) -> StopRow {
        StopRow { selector: self.selector.to_string(), reason: self.reason.clone(), since: self.since.0 }
    }
    fn from_row(row: StopRow) -> Result<Self, String> {
        Ok(Self { selector: parse("selector", &row.selector)?, reason: row.reason, since: Timestamp(row.since) })
    }
}
