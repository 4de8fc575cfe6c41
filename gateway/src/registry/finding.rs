//! 疑似问题线索: what a rule found, open until somebody says that it holds or does not, or until nobody did in time. It is
//! never called a violation.

use super::error::Refusal;
use super::fact::{Act, Fact};
use super::stop::Selector;
use super::text;
use lingqu_protocol::agency::{AgentId, CreditCode};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{EntryId, FindingId, GrantId, OrderId};
use lingqu_protocol::misuse::{Action, Rule};

/// Things seen that one finding shows.
pub const SHOWN_MAX: usize = 32;

/// Numbers that one finding shows.
pub const COUNTS_MAX: usize = 16;

/// Characters of a sentence of evidence: two ids, some columns and numbers.
pub const SENTENCE_CHARS_MAX: usize = 1_000;

/// What a rule suspects, before it is a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspected {
    /// The rule.
    pub rule: Rule,
    /// What follows.
    pub action: Action,
    /// Whether it only says what would have followed.
    pub observe_only: bool,
    /// Which agent, where it is one.
    pub agent: Option<AgentId>,
    /// Which agency.
    pub agency: CreditCode,
    /// Under which grant.
    pub grant: Option<GrantId>,
    /// Of which entry.
    pub entry: Option<EntryId>,
    /// Whose data it is.
    pub provider: Option<CreditCode>,
    /// What set it off.
    pub evidence: Evidence,
}

/// What set a rule off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// One sentence.
    pub text: String,
    /// The same in Chinese.
    pub text_zh: String,
    /// The numbers, by name.
    pub counts: Vec<(String, u64)>,
    /// Some of what was seen.
    pub shown: Vec<Shown>,
    /// Observations that found the queue full before it: more may have happened than is shown.
    pub dropped: u64,
}

/// One thing that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: String,
    /// How it was answered, or how much passed.
    pub outcome: String,
    /// From where.
    pub address: String,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its id.
    pub id: FindingId,
    /// What is suspected.
    pub suspected: Suspected,
    /// What was cut, if anything.
    pub cut: Option<CutMade>,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When the rule last spoke.
    pub last_at: Timestamp,
    /// How often it spoke.
    pub count: u64,
    /// What was said of it.
    pub status: FindingStatus,
}

/// A cut that a rule made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutMade {
    /// What was cut.
    pub selector: Selector,
    /// The standing order that it acts under.
    pub order: Option<OrderId>,
    /// By when somebody says that it holds, where there is no order.
    pub confirm_by: Option<Timestamp>,
}

/// What was said of a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindingStatus {
    /// Nothing yet.
    Open,
    /// It holds.
    Confirmed(Said),
    /// It does not hold, or it is settled.
    Lifted(Said),
    /// Nothing in time.
    Expired {
        /// When the time was over.
        at: Timestamp,
    },
}

/// Who said it, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// `operator`, or the agency's credit code.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// Digest of the signed document, where an officer said it.
    pub document: Option<Digest>,
}

impl FindingStatus {
    /// Its word.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Confirmed(_) => "confirmed",
            Self::Lifted(_) => "lifted",
            Self::Expired { .. } => "expired",
        }
    }
}

impl Suspected {
    /// What its action would cut.
    pub fn selector(&self) -> Option<Selector> {
        match self.action {
            Action::Note | Action::Warn => None,
            Action::CutGrant => self.grant.map(Selector::Grant),
            Action::CutAgent => self.agent.clone().map(Selector::Agent),
            Action::CutAgency => Some(Selector::Agency(self.agency)),
        }
    }

    /// Why it is cut, in the words that both sides read.
    pub fn reason(&self) -> String {
        let Evidence { text, text_zh, .. } = &self.evidence;
        let whole = format!("{} {}: {text} / {text_zh}", self.rule.title_zh(), self.rule.code());
        whole.chars().take(text::REASON_CHARS_MAX).collect()
    }
}

impl Finding {
    /// A new finding, with the cut that goes with it.
    pub fn open(
        id: FindingId,
        mut suspected: Suspected,
        cut: Option<CutMade>,
        order: Option<Digest>,
        now: Timestamp,
    ) -> (Self, Fact) {
        bound(&mut suspected.evidence);
        let mut fact = Fact::new(Act::FindingOpened, id, Some(suspected.agency)).because(&suspected.reason());
        if let Some(grant) = suspected.grant {
            fact = fact.on(grant);
        }
        if let Some(order) = order {
            fact = fact.by(order);
        }
        let finding = Self { id, suspected, cut, opened_at: now, last_at: now, count: 1, status: FindingStatus::Open };
        (finding, fact)
    }

    /// The rule spoke again, `times` times.
    #[must_use]
    pub fn again(&self, times: u64, mut evidence: Evidence, now: Timestamp) -> Self {
        bound(&mut evidence);
        let suspected = Suspected { evidence, ..self.suspected.clone() };
        Self { suspected, count: self.count.saturating_add(times), last_at: now.max(self.last_at), ..self.clone() }
    }

    /// Somebody says that it holds. What was cut stays cut.
    ///
    /// # Errors
    /// It is not open, or the reason is not good.
    pub fn confirm(&self, said: Said) -> Result<(Self, Fact), Refusal> {
        let said = Said { reason: text::reason(&said.reason)?, ..said };
        if self.status != FindingStatus::Open {
            return Err(self.wrong("open"));
        }
        let fact = self.fact(Act::FindingConfirmed, &said);
        let cut = self.cut.clone().map(|cut| CutMade { confirm_by: None, ..cut });
        Ok((Self { cut, status: FindingStatus::Confirmed(said), ..self.clone() }, fact))
    }

    /// Somebody says that it does not hold, or that it is settled. What was confirmed needs an officer's signature.
    ///
    /// # Errors
    /// It is over, it was confirmed and nobody signed, or the reason is not good.
    pub fn lift(&self, said: Said) -> Result<(Self, Fact), Refusal> {
        let said = Said { reason: text::reason(&said.reason)?, ..said };
        match &self.status {
            FindingStatus::Open => {}
            FindingStatus::Confirmed(_) if said.document.is_some() => {}
            FindingStatus::Confirmed(_) => return Err(Refusal::NeedsSignature(self.id.to_string())),
            FindingStatus::Lifted(_) | FindingStatus::Expired { .. } => return Err(self.wrong("open or confirmed")),
        }
        let fact = self.fact(Act::FindingLifted, &said);
        Ok((Self { status: FindingStatus::Lifted(said), ..self.clone() }, fact))
    }

    /// Nobody said anything in time. `None` where it is not due, or not open.
    pub fn expire(&self, open_ms_max: i64, now: Timestamp) -> Option<(Self, Fact)> {
        if self.status != FindingStatus::Open || self.expires_at(open_ms_max).is_none_or(|at| at > now) {
            return None;
        }
        let fact = Fact::new(Act::FindingExpired, self.id, Some(self.suspected.agency));
        Some((Self { status: FindingStatus::Expired { at: now }, ..self.clone() }, fact))
    }

    /// When it ends by itself: a cut without an order when it should have been confirmed, what cut nothing after a while,
    /// and a cut under an order not at all.
    pub fn expires_at(&self, open_ms_max: i64) -> Option<Timestamp> {
        match &self.cut {
            Some(cut) => cut.confirm_by,
            None => Some(self.opened_at.plus_ms(open_ms_max)),
        }
    }

    fn fact(&self, act: Act, said: &Said) -> Fact {
        let fact = Fact::new(act, self.id, Some(self.suspected.agency)).because(&said.reason);
        match said.document {
            Some(document) => fact.by(document),
            None => fact,
        }
    }

    fn wrong(&self, needed: &'static str) -> Refusal {
        Refusal::WrongState { what: "finding", id: self.id.to_string(), is: self.status.word(), needed }
    }
}

/// Keeps evidence within its bounds: it is made by rules, from names that others chose.
fn bound(evidence: &mut Evidence) {
    for sentence in [&mut evidence.text, &mut evidence.text_zh] {
        if sentence.chars().count() > SENTENCE_CHARS_MAX {
            *sentence = sentence.chars().take(SENTENCE_CHARS_MAX).collect();
        }
    }
    evidence.counts.truncate(COUNTS_MAX);
    evidence.shown.truncate(SHOWN_MAX);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn suspected(action: Action) -> Suspected {
        let agent: AgentId = "91350100M000100Y43/main".parse().unwrap();
        Suspected {
            rule: Rule::ScopeProbing,
            action,
            observe_only: false,
            agency: agent.agency,
            agent: Some(agent),
            grant: Some(GrantId::from_bits(4)),
            entry: Some(EntryId::from_bits(5)),
            provider: Some("91512081MA62K0260E".parse().unwrap()),
            evidence: Evidence {
                text: "24 requests".into(),
                text_zh: "24 次".into(),
                counts: vec![("different".into(), 24)],
                shown: vec![],
                dropped: 0,
            },
        }
    }

    fn said(signed: bool) -> Said {
        let document = signed.then(|| Digest::sha256(b"d"));
        Said { by: "operator".into(), reason: "核查".into(), at: Timestamp(5), document }
    }

    fn open(cut: bool) -> Finding {
        let suspected = suspected(Action::CutGrant);
        let selector = suspected.selector().unwrap();
        let cut = cut.then_some(CutMade { selector, order: None, confirm_by: Some(Timestamp(100)) });
        Finding::open(FindingId::from_bits(1), suspected, cut, None, Timestamp(1)).0
    }

    #[test]
    fn an_open_one_is_confirmed_lifted_or_ends_and_a_confirmed_one_needs_a_signature() {
        let (confirmed, fact) = open(true).confirm(said(false)).unwrap();
        assert_eq!((fact.act, confirmed.status.word()), (Act::FindingConfirmed, "confirmed"));
        assert_eq!(confirmed.cut.as_ref().unwrap().confirm_by, None);
        assert_eq!(confirmed.lift(said(false)), Err(Refusal::NeedsSignature(confirmed.id.to_string())));
        assert_eq!(confirmed.lift(said(true)).unwrap().0.status.word(), "lifted");
        assert_eq!(confirmed.expire(1, Timestamp(1_000)), None);
        let (lifted, _) = open(true).lift(said(false)).unwrap();
        assert!(lifted.confirm(said(true)).is_err() && lifted.lift(said(true)).is_err());
        assert!(open(true).confirm(Said { reason: " ".into(), ..said(false) }).is_err());
    }

    #[test]
    fn each_kind_ends_at_its_time() {
        assert_eq!(open(true).expire(1_000, Timestamp(99)), None);
        let (expired, fact) = open(true).expire(1_000, Timestamp(100)).unwrap();
        assert_eq!((fact.act, expired.status.word()), (Act::FindingExpired, "expired"));
        assert_eq!(open(false).expire(1_000, Timestamp(1_000)), None);
        assert!(open(false).expire(1_000, Timestamp(1_001)).is_some());
        let mut ordered = open(true);
        ordered.cut.as_mut().unwrap().confirm_by = None;
        assert_eq!(ordered.expire(1_000, Timestamp(i64::MAX)), None, "an order stands behind it");
    }

    #[test]
    fn evidence_is_bounded_and_the_reason_names_the_rule() {
        let mut long = suspected(Action::Warn);
        long.evidence.text = "字".repeat(5_000);
        long.evidence.shown =
            vec![Shown { at: Timestamp(0), what: "w".into(), outcome: "o".into(), address: "a".into() }; SHOWN_MAX + 9];
        let (finding, fact) = Finding::open(FindingId::from_bits(1), long, None, None, Timestamp(1));
        assert_eq!(finding.suspected.evidence.shown.len(), SHOWN_MAX);
        let reason = fact.reason.unwrap();
        assert!(reason.contains("scope_probing") && reason.chars().count() <= text::REASON_CHARS_MAX);
        assert_eq!(finding.suspected.selector(), None);
    }

    proptest! {
        #[test]
        fn nothing_follows_an_end_and_only_a_signature_lifts_what_was_confirmed(
            steps in prop::collection::vec((0u8..4, any::<bool>(), 0i64..200), 0..30), cut: bool,
        ) {
            let mut finding = open(cut);
            for (step, signed, at) in steps {
                let before = finding.status.clone();
                let next = match step {
                    0 => finding.confirm(said(signed)).ok().map(|n| n.0),
                    1 => finding.lift(said(signed)).ok().map(|n| n.0),
                    2 => finding.expire(50, Timestamp(at)).map(|n| n.0),
                    _ => Some(finding.again(1, Evidence::default(), Timestamp(at))),
                };
                if let Some(next) = next {
                    let changed = next.status != before;
                    let over = matches!(before, FindingStatus::Lifted(_) | FindingStatus::Expired { .. });
                    prop_assert!(!(changed && over));
                    if matches!(before, FindingStatus::Confirmed(_)) && changed {
                        prop_assert!(signed && step == 1);
                    }
                    finding = next;
                }
            }
        }
    }
}
