//! Agents: which machines speak for an agency, and which certificates they were given.

use super::error::Refusal;
use super::fact::{Act, Fact};
use super::stop::{ByRule, Selector, Stop};
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::host::Timestamp;

/// Certificates that are remembered of one agent: those of a year at the usual life, and some that were lost on the way.
pub const CERTIFICATES_MAX: usize = 24;

/// A certificate that was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issued {
    /// SHA-256 of the certificate.
    pub fingerprint: Digest,
    /// SHA-256 of its public key.
    pub key: Digest,
    /// When it was issued.
    pub at: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
}

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its name.
    pub id: AgentId,
    /// When it first joined.
    pub joined_at: Timestamp,
    /// Whether it may talk.
    pub status: AgentStatus,
    /// Its latest certificates, the oldest first.
    pub certificates: Vec<Issued>,
}

/// Whether an agent may talk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentStatus {
    /// It may.
    Active,
    /// 临时阻断: the operator stopped it.
    Blocked {
        /// Why.
        reason: String,
        /// Since when.
        at: Timestamp,
        /// The finding behind it, where a rule blocked it.
        by_rule: Option<ByRule>,
    },
}

impl AgentStatus {
    /// Its word.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Blocked { .. } => "blocked",
        }
    }
}

impl Agent {
    /// The stop that stands over it, where it is blocked.
    pub fn stopped(&self) -> Option<Stop> {
        let AgentStatus::Blocked { reason, at, by_rule } = &self.status else { return None };
        let selector = Selector::Agent(self.id.clone());
        Some(Stop { selector, reason: reason.clone(), since: *at, by_rule: *by_rule })
    }

    /// An agent with its first certificate, or one that joined before with another.
    ///
    /// # Errors
    /// [`Refusal::Stopped`] where it is blocked: an invitation does not lift that.
    pub fn join(current: Option<&Self>, id: &AgentId, issued: Issued) -> Result<Self, Refusal> {
        match current {
            None => Ok(Self {
                id: id.clone(),
                joined_at: issued.at,
                status: AgentStatus::Active,
                certificates: vec![issued],
            }),
            Some(agent) => agent.with(issued),
        }
    }

    /// A new certificate over its own connection.
    ///
    /// # Errors
    /// [`Refusal::Stopped`] where it is blocked.
    pub fn renew(&self, issued: Issued) -> Result<(Self, Fact), Refusal> {
        let fact = Fact::new(Act::AgentRenewed, &self.id, Some(self.id.agency)).on(issued.fingerprint);
        Ok((self.with(issued)?, fact))
    }

    /// Blocks it. `None` where it is blocked already: the first reason stands. A person's word takes over a rule's.
    pub fn block(&self, reason: &str, by_rule: Option<ByRule>, now: Timestamp) -> Option<(Self, Fact)> {
        let at = match &self.status {
            AgentStatus::Active => now,
            AgentStatus::Blocked { at, by_rule: Some(_), .. } if by_rule.is_none() => *at,
            AgentStatus::Blocked { .. } => return None,
        };
        let fact = Fact::new(Act::Stopped, format!("agent:{}", self.id), Some(self.id.agency)).because(reason);
        let status = AgentStatus::Blocked { reason: reason.to_owned(), at, by_rule };
        Some((Self { status, ..self.clone() }, fact))
    }

    /// Lets it talk again.
    ///
    /// # Errors
    /// [`Refusal::NotStopped`].
    pub fn unblock(&self, reason: &str) -> Result<(Self, Fact), Refusal> {
        if self.status == AgentStatus::Active {
            return Err(Refusal::NotStopped(format!("agent {}", self.id)));
        }
        let fact = Fact::new(Act::Resumed, format!("agent:{}", self.id), Some(self.id.agency)).because(reason);
        Ok((Self { status: AgentStatus::Active, ..self.clone() }, fact))
    }

    fn with(&self, issued: Issued) -> Result<Self, Refusal> {
        if let AgentStatus::Blocked { reason, .. } = &self.status {
            return Err(Refusal::Stopped { what: format!("agent {}", self.id), reason: reason.clone() });
        }
        let mut next = self.clone();
        next.certificates.push(issued);
        let spare = next.certificates.len().saturating_sub(CERTIFICATES_MAX);
        next.certificates.drain(..spare);
        Ok(next)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn issued(n: u8) -> Issued {
        let at = Timestamp(n.into());
        Issued { fingerprint: Digest::sha256(&[n]), key: Digest::sha256(&[n, n]), at, not_after: at.plus_ms(9) }
    }

    fn id() -> AgentId {
        "91350100M000100Y43/main".parse().unwrap()
    }

    #[test]
    fn a_blocked_agent_gets_no_certificate_until_it_is_let_in_again() {
        let agent = Agent::join(None, &id(), issued(1)).unwrap();
        assert!(agent.unblock("r").is_err());
        let (blocked, fact) = agent.block("lost laptop", None, Timestamp(5)).unwrap();
        assert_eq!((fact.act, fact.reason.as_deref()), (Act::Stopped, Some("lost laptop")));
        assert!(matches!(blocked.renew(issued(2)), Err(Refusal::Stopped { .. })));
        assert!(matches!(Agent::join(Some(&blocked), &id(), issued(2)), Err(Refusal::Stopped { .. })));
        assert!(blocked.block("again", None, Timestamp(6)).is_none());
        let (active, _) = blocked.unblock("found").unwrap();
        assert_eq!(active.renew(issued(2)).unwrap().0.certificates.len(), 2);
    }

    proptest! {
        #[test]
        fn certificates_stay_bounded_and_the_newest_is_kept(steps in prop::collection::vec(0u8..4, 0..80)) {
            let mut agent = Agent::join(None, &id(), issued(0)).unwrap();
            for (i, step) in steps.into_iter().enumerate() {
                let blocked = matches!(agent.status, AgentStatus::Blocked { .. });
                match step {
                    0 => if let Some((next, _)) = agent.block("r", None, Timestamp(1)) { agent = next },
                    1 => if let Ok((next, _)) = agent.unblock("r") { agent = next },
                    _ => match agent.renew(issued(i as u8)) {
                        Ok((next, _)) => {
                            prop_assert!(!blocked);
                            prop_assert_eq!(next.certificates.last(), Some(&issued(i as u8)));
                            agent = next;
                        }
                        Err(_) => prop_assert!(blocked),
                    },
                }
                prop_assert!(agent.certificates.len() <= CERTIFICATES_MAX);
            }
        }
    }
}
