//! Rows of findings and standing orders.

use super::{Stored, parse};
use crate::registry::finding::{CutMade, Evidence, Finding, FindingStatus, Said, Shown, Suspected};
use crate::registry::order::StandingOrder;
use crate::state::Kind;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::Day;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{DocumentId, EntryId, FindingId, GrantId, OrderId};
use lingqu_protocol::misuse::{Action, Rule};
use serde::{Deserialize, Serialize};

/// 疑似问题线索.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindingRow {
    id: FindingId,
    rule: Rule,
    action: Action,
    observe_only: bool,
    agent: Option<String>,
    agency: String,
    grant: Option<GrantId>,
    entry: Option<EntryId>,
    provider: Option<String>,
    evidence: EvidenceRow,
    cut: Option<CutRow>,
    opened_at: i64,
    last_at: i64,
    count: u64,
    status: FindingStatusRow,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EvidenceRow {
    text: String,
    text_zh: String,
    counts: Vec<(String, u64)>,
    shown: Vec<ShownRow>,
    dropped: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShownRow {
    at: i64,
    what: String,
    outcome: String,
    address: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CutRow {
    selector: String,
    order: Option<OrderId>,
    confirm_by: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum FindingStatusRow {
    Open,
    Confirmed(SaidRow),
    Lifted(SaidRow),
    Expired { at: i64 },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SaidRow {
    by: String,
    reason: String,
    at: i64,
    document: Option<Digest>,
}

impl From<&Said> for SaidRow {
    fn from(said: &Said) -> Self {
        Self { by: said.by.clone(), reason: said.reason.clone(), at: said.at.0, document: said.document }
    }
}

impl From<SaidRow> for Said {
    fn from(row: SaidRow) -> Self {
        Self { by: row.by, reason: row.reason, at: Timestamp(row.at), document: row.document }
    }
}

impl From<&Evidence> for EvidenceRow {
    fn from(evidence: &Evidence) -> Self {
        let shown = |s: &Shown| ShownRow {
            at: s.at.0,
            what: s.what.clone(),
            outcome: s.outcome.clone(),
            address: s.address.clone(),
        };
        Self {
            text: evidence.text.clone(),
            text_zh: evidence.text_zh.clone(),
            counts: evidence.counts.clone(),
            shown: evidence.shown.iter().map(shown).collect(),
            dropped: evidence.dropped,
        }
    }
}

impl From<EvidenceRow> for Evidence {
    fn from(row: EvidenceRow) -> Self {
        let shown = |s: ShownRow| Shown { at: Timestamp(s.at), what: s.what, outcome: s.outcome, address: s.address };
        Self {
            text: row.text,
            text_zh: row.text_zh,
            counts: row.counts,
            shown: row.shown.into_iter().map(shown).collect(),
            dropped: row.dropped,
        }
    }
}

impl Stored for Finding {
    const KIND: Kind = Kind::Finding;
    type Row = FindingRow;
    fn id(&self) -> String {
        self.id.to_string()
    }
    fn owner(&self) -> Option<String> {
        Some(self.suspected.agency.to_string())
    }
    fn parent(&self) -> Option<String> {
        self.suspected.provider.map(|code| code.to_string())
    }
    fn to_row(&self) -> FindingRow {
        let of = &self.suspected;
        FindingRow {
            id: self.id,
            rule: of.rule,
            action: of.action,
            observe_only: of.observe_only,
            agent: of.agent.as_ref().map(ToString::to_string),
            agency: of.agency.to_string(),
            grant: of.grant,
            entry: of.entry,
            provider: of.provider.map(|code| code.to_string()),
            evidence: (&of.evidence).into(),
            cut: self.cut.as_ref().map(|cut| CutRow {
                selector: cut.selector.to_string(),
                order: cut.order,
                confirm_by: cut.confirm_by.map(|at| at.0),
            }),
            opened_at: self.opened_at.0,
            last_at: self.last_at.0,
            count: self.count,
            status: match &self.status {
                FindingStatus::Open => FindingStatusRow::Open,
                FindingStatus::Confirmed(said) => FindingStatusRow::Confirmed(said.into()),
                FindingStatus::Lifted(said) => FindingStatusRow::Lifted(said.into()),
                FindingStatus::Expired { at } => FindingStatusRow::Expired { at: at.0 },
            },
        }
    }
    fn from_row(row: FindingRow) -> Result<Self, String> {
        let cut = |cut: CutRow| {
            let selector = parse("selector", &cut.selector)?;
            Ok::<_, String>(CutMade { selector, order: cut.order, confirm_by: cut.confirm_by.map(Timestamp) })
        };
        Ok(Self {
            id: row.id,
            suspected: Suspected {
                rule: row.rule,
                action: row.action,
                observe_only: row.observe_only,
                agent: row.agent.as_deref().map(|a| parse("agent", a)).transpose()?,
                agency: parse("agency", &row.agency)?,
                grant: row.grant,
                entry: row.entry,
                provider: row.provider.as_deref().map(|p| parse("provider", p)).transpose()?,
                evidence: row.evidence.into(),
            },
            cut: row.cut.map(cut).transpose()?,
            opened_at: Timestamp(row.opened_at),
            last_at: Timestamp(row.last_at),
            count: row.count,
            status: match row.status {
                FindingStatusRow::Open => FindingStatus::Open,
                FindingStatusRow::Confirmed(said) => FindingStatus::Confirmed(said.into()),
                FindingStatusRow::Lifted(said) => FindingStatus::Lifted(said.into()),
                FindingStatusRow::Expired { at } => FindingStatus::Expired { at: Timestamp(at) },
            },
        })
    }
}

/// A standing order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderRow {
    id: OrderId,
    issuer: String,
    authority: bool,
    rules: Vec<Rule>,
    strongest: Action,
    until: Day,
    reason: String,
    document: DocumentId,
    digest: Digest,
    issued_at: i64,
    withdrawn: Option<(i64, String)>,
}

impl Stored for StandingOrder {
    const KIND: Kind = Kind::StandingOrder;
    type Row = OrderRow;
    fn id(&self) -> String {
        self.id.to_string()
    }
    fn owner(&self) -> Option<String> {
        Some(self.issuer.to_string())
    }
    fn to_row(&self) -> OrderRow {
        OrderRow {
            id: self.id,
            issuer: self.issuer.to_string(),
            authority: self.authority,
            rules: self.rules.clone(),
            strongest: self.strongest,
            until: self.until,
            reason: self.reason.clone(),
            document: self.document,
            digest: self.digest,
            issued_at: self.issued_at.0,
            withdrawn: self.withdrawn.as_ref().map(|(at, why)| (at.0, why.clone())),
        }
    }
    fn from_row(row: OrderRow) -> Result<Self, String> {
        Ok(Self {
            id: row.id,
            issuer: parse("issuer", &row.issuer)?,
            authority: row.authority,
            rules: row.rules,
            strongest: row.strongest,
            until: row.until,
            reason: row.reason,
            document: row.document,
            digest: row.digest,
            issued_at: Timestamp(row.issued_at),
            withdrawn: row.withdrawn.map(|(at, why)| (Timestamp(at), why)),
        })
    }
}
