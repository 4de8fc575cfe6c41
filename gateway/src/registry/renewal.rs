//! Approvals of renewal: an agent that was off for longer than its certificate lives renews with the expired one, where
//! the operator approved it. Open, then used once or withdrawn; that an approval ran out is a reading of the clock, not a
//! state.

use super::error::Refusal;
use super::fact::{Act, Fact};
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::host::Timestamp;

/// An approval. An agent has one at most: a later one takes the place of an earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Who may renew.
    pub agent: AgentId,
    /// Digest of the one key that may: that of the certificate which the agent was issued last when it was approved.
    pub key: Digest,
    /// When it was approved.
    pub approved_at: Timestamp,
    /// After this it is closed.
    pub expires_at: Timestamp,
    /// What became of it.
    pub status: RenewalStatus,
}

/// What became of an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalStatus {
    /// Nothing yet.
    Open,
    /// The agent renewed.
    Used {
        /// SHA-256 of the certificate that it got.
        certificate: Digest,
        /// When.
        at: Timestamp,
    },
    /// The operator thought better of it, or the agent joined anew.
    Withdrawn {
        /// When.
        at: Timestamp,
    },
}

/// Approves that `agent` renews with an expired certificate on the key with digest `key`, until `expires_at`.
pub fn approve(agent: AgentId, key: Digest, now: Timestamp, expires_at: Timestamp) -> (Renewal, Fact) {
    let fact = Fact::new(Act::RenewalApproved, &agent, Some(agent.agency));
    (Renewal { agent, key, approved_at: now, expires_at, status: RenewalStatus::Open }, fact)
}

impl Renewal {
    /// Whether the agent may renew under it now.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.status == RenewalStatus::Open && now <= self.expires_at
    }

    /// Its word at `now`.
    pub fn word(&self, now: Timestamp) -> &'static str {
        match self.status {
            RenewalStatus::Open if now <= self.expires_at => "open",
            RenewalStatus::Open => "expired",
            RenewalStatus::Used { .. } => "used",
            RenewalStatus::Withdrawn { .. } => "withdrawn",
        }
    }

    /// Uses it, for a connection on the key with digest `key`, to issue `certificate`. Once: an agent that did not get
    /// the answer needs another approval.
    ///
    /// # Errors
    /// [`Refusal::RenewalClosed`].
    pub fn redeem(&self, key: Digest, certificate: Digest, now: Timestamp) -> Result<(Self, Fact), Refusal> {
        match self.status {
            RenewalStatus::Used { .. } => return Err(Refusal::RenewalClosed("the approval was used")),
            RenewalStatus::Withdrawn { .. } => return Err(Refusal::RenewalClosed("the approval was withdrawn")),
            RenewalStatus::Open if now > self.expires_at => {
                return Err(Refusal::RenewalClosed("the approval has expired"));
            }
            RenewalStatus::Open if key != self.key => {
                return Err(Refusal::RenewalClosed("the approval is for another key"));
            }
            RenewalStatus::Open => {}
        }
        let fact = Fact::new(Act::AgentRenewedExpired, &self.agent, Some(self.agent.agency)).on(certificate);
        Ok((Self { status: RenewalStatus::Used { certificate, at: now }, ..self.clone() }, fact))
    }

    /// Closes it. `None` where it is not open any more.
    pub fn withdraw(&self, now: Timestamp) -> Option<(Self, Fact)> {
        let fact = Fact::new(Act::RenewalWithdrawn, &self.agent, Some(self.agent.agency));
        let closed = || Self { status: RenewalStatus::Withdrawn { at: now }, ..self.clone() };
        self.is_open(now).then(|| (closed(), fact))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(n: u8) -> Digest {
        Digest::sha256(&[n])
    }

    fn open() -> Renewal {
        approve("91350100M000100Y43/main".parse().unwrap(), key(1), Timestamp(0), Timestamp(100)).0
    }

    #[test]
    fn used_once_by_its_key_and_never_late() {
        let (used, fact) = open().redeem(key(1), key(9), Timestamp(100)).unwrap();
        assert_eq!((fact.act, fact.object), (Act::AgentRenewedExpired, Some(key(9).to_string())));
        assert_eq!(used.word(Timestamp(100)), "used");
        for (renewal, with, at) in
            [(&used, 1, 100), (&open(), 2, 50), (&open(), 1, 101), (&open().withdraw(Timestamp(5)).unwrap().0, 1, 50)]
        {
            assert!(matches!(renewal.redeem(key(with), key(9), Timestamp(at)), Err(Refusal::RenewalClosed(_))));
        }
    }

    #[test]
    fn only_what_is_open_is_withdrawn() {
        let (withdrawn, fact) = open().withdraw(Timestamp(5)).unwrap();
        assert_eq!((fact.act, withdrawn.word(Timestamp(5))), (Act::RenewalWithdrawn, "withdrawn"));
        assert!(withdrawn.withdraw(Timestamp(6)).is_none());
        assert!(open().withdraw(Timestamp(101)).is_none());
        assert_eq!((open().word(Timestamp(100)), open().word(Timestamp(101))), ("open", "expired"));
    }

    proptest! {
        #[test]
        fn one_renewal_at_most_whatever_comes(tries in prop::collection::vec((0u8..4, 0i64..200, any::<bool>()), 0..30)) {
            let mut renewal = open();
            let mut renewed = 0;
            for (n, t, withdraws) in tries {
                let now = Timestamp(t);
                let was_open = renewal.is_open(now);
                if withdraws {
                    prop_assert_eq!(renewal.withdraw(now).is_some(), was_open);
                    renewal = renewal.withdraw(now).map_or(renewal, |(next, _)| next);
                } else if let Ok((next, _)) = renewal.redeem(key(n), key(9), now) {
                    prop_assert!(was_open && n == 1);
                    renewed += 1;
                    renewal = next;
                }
            }
            prop_assert!(renewed <= 1);
        }
    }
}
