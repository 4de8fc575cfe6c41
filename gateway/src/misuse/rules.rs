//! The rules. Each is a pure function of what is remembered, what was just seen, the thresholds and the time, and says in
//! words and numbers what set it off. None of them decides anything: that is for `enforce`, and then for people.

mod after_end;
mod departure;
mod enumeration;
pub mod joining;
mod over_approved;
mod probing;
mod purpose;
mod repeated;
mod two_places;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod week;

use super::history::{Denial, History};
use super::observation::{Observation, Refusal, Who};
use super::thresholds::Thresholds;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{EntryId, GrantId};
use lingqu_protocol::misuse::{Action, Rule};

/// Observations that stand in the evidence: the first and the last of them tell the story.
pub const SHOWN_MAX: usize = 24;

/// A rule.
pub type Judge = fn(&History, &Observation, &Thresholds, Timestamp) -> Option<Suspicion>;

/// Every rule that judges what is seen; the one over grants that join has its own moment ([`joining`]).
pub const JUDGES: [(Rule, Judge); 8] = [
    (Rule::TwoPlaces, two_places::judge),
    (Rule::ScopeProbing, probing::judge),
    (Rule::ScopeRepeated, repeated::judge),
    (Rule::PurposeNotApproved, purpose::judge),
    (Rule::UseAfterExpiry, after_end::judge),
    (Rule::OverApproved, over_approved::judge),
    (Rule::Enumeration, enumeration::judge),
    (Rule::Departure, departure::judge),
];

/// What a rule found.
#[derive(Clone, Debug, PartialEq)]
pub struct Suspicion {
    /// The rule.
    pub rule: Rule,
    /// Whom it is about.
    pub who: Subject,
    /// Under which grant.
    pub grant: Option<GrantId>,
    /// Of which entry.
    pub entry: Option<EntryId>,
    /// What set it off.
    pub evidence: Evidence,
}

/// Whom a suspicion is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// One agent.
    Agent(Who),
    /// A whole agency.
    Agency(lingqu_protocol::agency::CreditCode),
}

/// What set a rule off, so that a person can see it again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// One sentence.
    pub text: String,
    /// The same in Chinese.
    pub text_zh: String,
    /// The numbers, by name.
    pub counts: Vec<(&'static str, u64)>,
    /// Some of what was seen.
    pub shown: Vec<Shown>,
}

/// One thing that was seen, for people.
#[derive(Clone, Debug, PartialEq)]
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

impl From<&Denial> for Shown {
    fn from(denial: &Denial) -> Self {
        Self {
            at: denial.at,
            what: denial.answered.operation.to_owned(),
            outcome: denial.answered.word.to_owned(),
            address: denial.address.to_string(),
        }
    }
}

/// Everything that the rules that work find in what was just seen.
pub fn judge<'a>(
    history: &'a History,
    seen: &'a Observation,
    thresholds: &'a Thresholds,
    now: Timestamp,
) -> impl Iterator<Item = Suspicion> + 'a {
    let working = JUDGES.iter().filter(|(rule, _)| thresholds.works(*rule));
    working.filter_map(move |(_, judge)| judge(history, seen, thresholds, now))
}

/// What follows from a suspicion, as the configuration says. A cut needs something to cut: without a grant its cut is a
/// warning.
pub fn action(suspicion: &Suspicion, thresholds: &Thresholds) -> (Action, bool) {
    let (action, observe_only) = thresholds.of(suspicion.rule);
    let has_grant = suspicion.grant.is_some();
    let has_agent = matches!(suspicion.who, Subject::Agent(_));
    let possible = match action {
        Action::CutGrant => has_grant,
        Action::CutAgent => has_agent,
        _ => true,
    };
    (if possible { action } else { Action::Warn }, observe_only)
}

/// So many refusals of one kind under one grant within so long: what several rules are.
struct Refusals {
    rule: Rule,
    kind: Refusal,
    at_least: u32,
    minutes: u32,
}

impl Refusals {
    /// Judges one refusal more. `told` gives the sentence in both languages, of the count and the last refusal's word.
    fn judge(
        &self,
        history: &History,
        seen: &Observation,
        now: Timestamp,
        told: impl FnOnce(u64, &str) -> (String, String),
    ) -> Option<Suspicion> {
        let (refusal, answered) = seen.refusal()?;
        let grant = answered.grant.filter(|_| refusal == self.kind)?;
        let kinds = [self.kind];
        let under = || {
            let refused = history.denials(&kinds, since(now, self.minutes));
            refused.filter(|denial| denial.answered.grant == Some(grant))
        };
        let count = under().count() as u64;
        if count < self.at_least.into() {
            return None;
        }
        let (text, text_zh) = told(count, answered.word);
        let counts = vec![("refused", count), ("window_minutes", self.minutes.into())];
        Some(Suspicion {
            rule: self.rule,
            who: Subject::Agent(seen.who),
            grant: Some(grant),
            entry: answered.entry,
            evidence: Evidence { text, text_zh, counts, shown: shown(under()) },
        })
    }
}

/// The beginning of a window that ends now.
fn since(now: Timestamp, minutes: u32) -> Timestamp {
    now.plus_ms(-i64::from(minutes) * 60_000)
}

/// The first and the last of what was seen.
fn shown<'a>(denials: impl Iterator<Item = &'a Denial>) -> Vec<Shown> {
    let mut all: Vec<Shown> = denials.map(Shown::from).collect();
    const { assert!(SHOWN_MAX.is_multiple_of(2), "as many of the first as of the last") };
    let half = SHOWN_MAX / 2;
    let last = all.split_off(all.len().saturating_sub(half));
    all.truncate(half);
    all.extend(last);
    all
}
