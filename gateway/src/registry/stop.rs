//! 临时阻断: what the operator stopped, at once and whole (article 35).

use super::error::Refusal;
use super::fact::{Act, Fact};
use super::text;
use lingqu_protocol::agency::{AgentId, CreditCode};
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{EntryId, FindingId, GrantId, ListId};
use std::fmt;
use std::str::FromStr;

/// What is stopped, written `agency:CODE`, `agent:CODE/NAME`, `entry:ID`, `grant:ID`, `list:ID` or `all`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// An agency with all its agents.
    Agency(CreditCode),
    /// One agent.
    Agent(AgentId),
    /// An entry's data.
    Entry(EntryId),
    /// One grant.
    Grant(GrantId),
    /// What flows back under one published list.
    List(ListId),
    /// Everything.
    All,
}

/// A stop in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// What is stopped.
    pub selector: Selector,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// The finding behind it, where a rule made it.
    pub by_rule: Option<ByRule>,
}

/// What stands behind a rule's stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByRule {
    /// What was found.
    pub finding: FindingId,
    /// By when somebody has to say that it holds; nobody has to under a standing order, or once it was said.
    pub confirm_by: Option<Timestamp>,
}

impl ByRule {
    /// A reason for whoever meets the stop: with what to read, and what happens by when.
    pub fn told(of: Option<&Self>, reason: &str) -> String {
        match of {
            None => reason.to_owned(),
            Some(Self { finding, confirm_by: None }) => format!("{reason} [{finding}]"),
            Some(Self { finding, confirm_by: Some(by) }) => {
                format!("{reason} [{finding}; lifted at {by} unless confirmed 逾期未确认则自动解除]")
            }
        }
    }
}

/// A text that selects nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected agency:CODE, agent:CODE/NAME, entry:ID, grant:ID, list:ID or all")]
pub struct BadSelector;

impl Stop {
    /// Stops `selector`. `None` where it is stopped already: the first reason stands. A person's stop takes over a rule's:
    /// it no longer ends by itself.
    ///
    /// # Errors
    /// A reason that is not good.
    pub fn make(
        current: Option<&Self>,
        selector: &Selector,
        reason: &str,
        by_rule: Option<ByRule>,
        now: Timestamp,
    ) -> Result<Option<(Self, Fact)>, Refusal> {
        let reason = text::reason(reason)?;
        let since = match current {
            None => now,
            Some(standing) if standing.by_rule.is_some() && by_rule.is_none() => standing.since,
            Some(_) => return Ok(None),
        };
        let fact = Fact::new(Act::Stopped, selector, selector.agency()).because(&reason);
        Ok(Some((Self { selector: selector.clone(), reason, since, by_rule }, fact)))
    }
}

/// That a stop of `selector` was lifted.
pub fn lifted(selector: &Selector, reason: &str) -> Fact {
    Fact::new(Act::Resumed, selector, selector.agency()).because(reason)
}

impl Selector {
    /// The agency it concerns, where it names one.
    pub fn agency(&self) -> Option<CreditCode> {
        match self {
            Self::Agency(code) => Some(*code),
            Self::Agent(agent) => Some(agent.agency),
            Self::Entry(_) | Self::Grant(_) | Self::List(_) | Self::All => None,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agency(code) => write!(f, "agency:{code}"),
            Self::Agent(agent) => write!(f, "agent:{agent}"),
            Self::Entry(entry) => write!(f, "entry:{entry}"),
            Self::Grant(grant) => write!(f, "grant:{grant}"),
            Self::List(list) => write!(f, "list:{list}"),
            Self::All => f.write_str("all"),
        }
    }
}

impl FromStr for Selector {
    type Err = BadSelector;
    fn from_str(text: &str) -> Result<Self, BadSelector> {
        if text == "all" {
            return Ok(Self::All);
        }
        let (kind, id) = text.split_once(':').ok_or(BadSelector)?;
        match kind {
            "agency" => id.parse().map(Self::Agency).map_err(|_| BadSelector),
            "agent" => id.parse().map(Self::Agent).map_err(|_| BadSelector),
            "entry" => id.parse().map(Self::Entry).map_err(|_| BadSelector),
            "grant" => id.parse().map(Self::Grant).map_err(|_| BadSelector),
            "list" => id.parse().map(Self::List).map_err(|_| BadSelector),
            _ => Err(BadSelector),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stopped_once_lifted_once() {
        let all = Selector::All;
        let (stop, _) = Stop::make(None, &all, "事故", None, Timestamp(1)).unwrap().unwrap();
        assert_eq!(Stop::make(Some(&stop), &all, "again", None, Timestamp(2)), Ok(None));
        assert!(Stop::make(None, &all, "", None, Timestamp(2)).is_err());
        // A rule does not touch a person's stop; a person takes over a rule's.
        let rule = Some(ByRule { finding: FindingId::from_bits(1), confirm_by: Some(Timestamp(9)) });
        assert_eq!(Stop::make(Some(&stop), &all, "rule", rule, Timestamp(2)), Ok(None));
        let (cut, _) = Stop::make(None, &all, "rule", rule, Timestamp(2)).unwrap().unwrap();
        assert_eq!(Stop::make(Some(&cut), &all, "rule", rule, Timestamp(3)), Ok(None));
        let (over, _) = Stop::make(Some(&cut), &all, "person", None, Timestamp(3)).unwrap().unwrap();
        assert_eq!((over.since, over.by_rule, over.reason.as_str()), (Timestamp(2), None, "person"));
        assert!(ByRule::told(rule.as_ref(), "r").contains("finding-"));
        assert_eq!(lifted(&stop.selector, "排除").act, Act::Resumed);
    }

    proptest! {
        #[test]
        fn selectors_round_trip_and_no_text_panics(bits: u128, text in "\\PC{0,40}") {
            let agency = CreditCode::parse("91350100M000100Y43").unwrap();
            for selector in [
                Selector::All,
                Selector::Agency(agency),
                Selector::Agent(AgentId { agency, name: "a-1".parse().unwrap() }),
                Selector::Entry(EntryId::from_bits(bits)),
                Selector::Grant(GrantId::from_bits(bits)),
                Selector::List(ListId::from_bits(bits)),
            ] {
                prop_assert_eq!(selector.to_string().parse(), Ok(selector));
            }
            let _ = text.parse::<Selector>();
        }
    }
}
