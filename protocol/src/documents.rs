//! What officers and the root sign. A document is JSON text in a DSSE envelope ([`crate::dsse`]): the signature covers
//! its type and its exact bytes, so that what was read is what was signed.
//!
//! Every document is bound to one gateway, has an id made by its drafter (handing it in twice does it once), may name
//! the digest of the document it follows, and expires.

use crate::digest::Digest;
use crate::ids::{ApplicationId, DocumentId, EntryId, FindingId, GatewayId, GrantId, ListId, OrderId};
use crate::misuse::{Action, Rule};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

/// Bytes that a document may have: room for an entry of a thousand items, and nothing a signer could not look through.
pub const DOCUMENT_BYTES_MAX: usize = 512 * 1024;

/// A document before it is signed. `B` is its body; `B::TYPE` is the payload type that the signature covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document<B> {
    /// The gateway it is meant for; nothing at any other.
    pub gateway: GatewayId,
    /// Made by the drafter.
    pub id: DocumentId,
    /// Digest of the payload that it follows (the answer's application, the act's grant), so that nobody signs against
    /// one text and acts on another.
    pub predecessor: Option<Digest>,
    /// Milliseconds since 1970 UTC when it was drafted.
    pub issued_at: i64,
    /// Milliseconds since 1970 UTC after which the gateway does not take it any more.
    pub expires_at: i64,
    /// What it says.
    pub body: B,
}

/// A body with the payload type that a signature over it covers.
pub trait Body: Serialize + for<'de> Deserialize<'de> + Clone + Send + Sync + 'static {
    /// The DSSE payload type.
    const TYPE: &'static str;
    /// Who may sign it.
    const SIGNER: Signer;
}

/// Whose signature a document needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// The root that lies outside the gateway.
    Root,
    /// An officer of one of these roles.
    Officer(&'static [OfficerRole]),
}

/// What an officer is at the agency (REGULATION articles 8, 13, 20).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OfficerRole {
    /// 部门负责人: signs the catalogue (article 13).
    AgencyHead,
    /// 共享工作机构负责人: signs applications and answers (article 20).
    OfficeHead,
    /// 经办人: drafts, signs nothing that binds.
    Clerk,
}

/// 政务数据目录条目: a provider submits an entry (article 13).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryBody {
    /// The entry.
    pub entry: EntryId,
    /// The provider.
    pub agency: String,
    /// entry.toml, verbatim.
    pub toml: String,
}

/// The authority's review of a submitted entry (article 16).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReviewBody {
    /// The entry.
    pub entry: EntryId,
    /// What was decided.
    pub decision: Review,
}

/// What an authority says of a submitted entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Review {
    /// Published, under the code given here where the entry has none.
    Approve {
        /// The entry's code, where the authority gives one.
        code: Option<String>,
    },
    /// Sent back.
    Return {
        /// Why.
        why: String,
    },
}

/// 共享申请: a requester asks (article 20).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplicationBody {
    /// The application.
    pub application: ApplicationId,
    /// The requester.
    pub agency: String,
    /// application.toml, verbatim.
    pub toml: String,
    /// The declaration of article 20: true, lawful and necessary.
    pub declared_true_lawful_necessary: bool,
}

/// The provider's answer (article 21).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerBody {
    /// The application that is answered.
    pub application: ApplicationId,
    /// What is answered.
    pub answer: Answer,
}

/// What a provider answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// Granted: as asked, or as the scope says.
    Approve {
        /// The grant that follows.
        grant: GrantId,
        /// A scope file, verbatim, where less than what was asked is granted.
        scope_toml: Option<String>,
    },
    /// Refused.
    Refuse {
        /// The reason that article 21 asks for.
        why: String,
    },
}

/// An act on a grant that needs an officer: it widens, or it ends for good (article 27).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantActBody {
    /// The grant.
    pub grant: GrantId,
    /// What is done.
    pub act: GrantAct,
    /// Why.
    pub reason: String,
}

/// What may be done to a grant under an officer's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantAct {
    /// 恢复: in force again.
    Reinstate,
    /// 终止: ended for good.
    Terminate,
    /// 限期整改: suspended until it is put right, by this day at the latest.
    Rectify {
        /// The last day.
        by: Day,
    },
}

/// A day in China Standard Time, written `2026-12-31`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub NaiveDate);

impl std::fmt::Display for Day {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

/// A text that is no day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a day such as 2026-12-31")]
pub struct BadDay;

impl std::str::FromStr for Day {
    type Err = BadDay;
    fn from_str(text: &str) -> Result<Self, BadDay> {
        text.parse::<NaiveDate>().ok().filter(|day| day.to_string() == text).map(Self).ok_or(BadDay)
    }
}

impl Serialize for Day {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A standing order (article 35): the office head of the authority or of a provider says beforehand which rules may cut,
/// how far, and until when. A provider's reaches grants of its own entries alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandingOrderBody {
    /// The order, made by the drafter.
    pub order: OrderId,
    /// The agency that gives it.
    pub agency: String,
    /// Which rules; one or more, each once.
    pub rules: Vec<Rule>,
    /// The strongest action that it allows; one that cuts.
    pub strongest: Action,
    /// Its last day.
    pub until: Day,
    /// Why.
    pub reason: String,
}

/// The end of a standing order, before its last day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderWithdrawalBody {
    /// The order.
    pub order: OrderId,
    /// Why.
    pub reason: String,
}

/// What an office head says of a finding (疑似问题线索).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindingActBody {
    /// The finding.
    pub finding: FindingId,
    /// What is said.
    pub act: FindingAct,
    /// Why.
    pub reason: String,
}

/// What can be said of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingAct {
    /// It holds; what was cut stays cut.
    Confirm,
    /// It does not hold, or is settled; what was cut goes on.
    Lift,
}

/// 回流清单: the authority publishes what flows back to whom (article 24).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackflowListBody {
    /// The list, made by the drafter.
    pub list: ListId,
    /// The authority.
    pub agency: String,
    /// The list's file, verbatim: see [`crate::backflow::BackflowList`].
    pub toml: String,
}

/// A published list is taken back; what follows from it ends at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackflowRevocationBody {
    /// The list.
    pub list: ListId,
    /// Why.
    pub reason: String,
}

/// The root names an officer and the key it made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfficerBody {
    /// The officer's agency.
    pub agency: String,
    /// The officer's name.
    pub name: String,
    /// What the officer is there.
    pub role: OfficerRole,
    /// The public key, `ed25519:<64 hex digits>`.
    pub key: String,
}

/// The root names an agency (政务部门), its region and its duties.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgencyBody {
    /// Its credit code.
    pub code: String,
    /// Its name.
    pub name: String,
    /// Its region, with the level beside it: the level is never read from zeros.
    pub region: String,
    /// `province`, `city`, `county`, `township` or `village`.
    pub level: String,
    /// Its duties, as backflow lists name them.
    pub duties: Vec<String>,
    /// The agency above it.
    pub parent: Option<String>,
    /// Whether it is a 政务数据共享主管部门.
    pub authority: bool,
}

/// The root names a gateway's own keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayBody {
    /// Its domain, in agents' names and in `gateway.<domain>`.
    pub domain: String,
    /// The key that signs receipts and checkpoints, `ed25519:<64 hex digits>`.
    pub receipt_key: String,
    /// Digest of the certificate of its CA.
    pub ca: Digest,
}

macro_rules! bodies {
    ($($body:ty, $name:literal, $signer:expr;)*) => {
        $(impl Body for $body {
            const TYPE: &'static str = concat!("application/vnd.lingqu.", $name, "+json; version=1");
            const SIGNER: Signer = $signer;
        })*
    };
}

bodies! {
    EntryBody, "entry", Signer::Officer(&[OfficerRole::AgencyHead]);
    ReviewBody, "review", Signer::Officer(&[OfficerRole::OfficeHead, OfficerRole::AgencyHead]);
    ApplicationBody, "application", Signer::Officer(&[OfficerRole::OfficeHead]);
    AnswerBody, "answer", Signer::Officer(&[OfficerRole::OfficeHead]);
    GrantActBody, "grant-act", Signer::Officer(&[OfficerRole::OfficeHead]);
    StandingOrderBody, "standing-order", Signer::Officer(&[OfficerRole::OfficeHead]);
    OrderWithdrawalBody, "order-withdrawal", Signer::Officer(&[OfficerRole::OfficeHead]);
    FindingActBody, "finding-act", Signer::Officer(&[OfficerRole::OfficeHead]);
    BackflowListBody, "backflow-list", Signer::Officer(&[OfficerRole::OfficeHead, OfficerRole::AgencyHead]);
    BackflowRevocationBody, "backflow-revocation", Signer::Officer(&[OfficerRole::OfficeHead, OfficerRole::AgencyHead]);
    OfficerBody, "officer", Signer::Root;
    AgencyBody, "agency", Signer::Root;
    GatewayBody, "gateway", Signer::Root;
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn acts_on_a_grant_are_written_like_this() {
        let day: Day = "2026-12-31".parse().unwrap();
        for (act, text) in [
            (GrantAct::Reinstate, r#""reinstate""#),
            (GrantAct::Terminate, r#""terminate""#),
            (GrantAct::Rectify { by: day }, r#"{"rectify":{"by":"2026-12-31"}}"#),
        ] {
            assert_eq!(serde_json::to_string(&act).unwrap(), text);
            assert_eq!(serde_json::from_str::<GrantAct>(text).unwrap(), act);
        }
        for bad in ["2026-2-1", "2026-02-30", "31.12.2026", "", "+2026-01-01"] {
            assert!(bad.parse::<Day>().is_err(), "{bad}");
        }
    }
}
