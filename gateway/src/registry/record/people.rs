//! Rows of who takes part: agencies, officers, agents, invitations, approvals of renewal, and stops.

use super::{Stored, parse};
use crate::registry::agency::Agency;
use crate::registry::agent::{Agent, AgentStatus, Issued};
use crate::registry::invitation::{Invitation, InvitationStatus};
use crate::registry::officer::Officer;
use crate::registry::renewal::{Renewal, RenewalStatus};
use crate::registry::stop::{ByRule, Stop};
use crate::state::Kind;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::OfficerRole;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{DocumentId, FindingId};
use serde::{Deserialize, Serialize};

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
    Blocked {
        reason: String,
        at: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by_rule: Option<ByRuleRow>,
    },
}

/// The finding behind a rule's stop.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ByRuleRow {
    finding: FindingId,
    confirm_by: Option<i64>,
}

impl From<&ByRule> for ByRuleRow {
    fn from(by: &ByRule) -> Self {
        Self { finding: by.finding, confirm_by: by.confirm_by.map(|at| at.0) }
    }
}

impl From<ByRuleRow> for ByRule {
    fn from(row: ByRuleRow) -> Self {
        Self { finding: row.finding, confirm_by: row.confirm_by.map(Timestamp) }
    }
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
                AgentStatus::Blocked { reason, at, by_rule } => AgentStatusRow::Blocked {
                    reason: reason.clone(),
                    at: at.0,
                    by_rule: by_rule.as_ref().map(Into::into),
                },
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
                AgentStatusRow::Blocked { reason, at, by_rule } => {
                    AgentStatus::Blocked { reason, at: Timestamp(at), by_rule: by_rule.map(Into::into) }
                }
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

/// An approval of renewal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewalRow {
    agent: String,
    key: Digest,
    approved_at: i64,
    expires_at: i64,
    status: RenewalStatusRow,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum RenewalStatusRow {
    Open,
    Used { certificate: Digest, at: i64 },
    Withdrawn { at: i64 },
}

impl Stored for Renewal {
    const KIND: Kind = Kind::Renewal;
    type Row = RenewalRow;
    fn id(&self) -> String {
        self.agent.to_string()
    }
    fn owner(&self) -> Option<String> {
        Some(self.agent.agency.to_string())
    }
    fn to_row(&self) -> RenewalRow {
        RenewalRow {
            agent: self.agent.to_string(),
            key: self.key,
            approved_at: self.approved_at.0,
            expires_at: self.expires_at.0,
            status: match self.status {
                RenewalStatus::Open => RenewalStatusRow::Open,
                RenewalStatus::Used { certificate, at } => RenewalStatusRow::Used { certificate, at: at.0 },
                RenewalStatus::Withdrawn { at } => RenewalStatusRow::Withdrawn { at: at.0 },
            },
        }
    }
    fn from_row(row: RenewalRow) -> Result<Self, String> {
        Ok(Self {
            agent: parse("agent", &row.agent)?,
            key: row.key,
            approved_at: Timestamp(row.approved_at),
            expires_at: Timestamp(row.expires_at),
            status: match row.status {
                RenewalStatusRow::Open => RenewalStatus::Open,
                RenewalStatusRow::Used { certificate, at } => RenewalStatus::Used { certificate, at: Timestamp(at) },
                RenewalStatusRow::Withdrawn { at } => RenewalStatus::Withdrawn { at: Timestamp(at) },
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by_rule: Option<ByRuleRow>,
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
        StopRow {
            selector: self.selector.to_string(),
            reason: self.reason.clone(),
            since: self.since.0,
            by_rule: self.by_rule.as_ref().map(Into::into),
        }
    }
    fn from_row(row: StopRow) -> Result<Self, String> {
        Ok(Self {
            selector: parse("selector", &row.selector)?,
            reason: row.reason,
            since: Timestamp(row.since),
            by_rule: row.by_rule.map(Into::into),
        })
    }
}
