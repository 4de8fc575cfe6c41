//! Invitations: open, then used by one key, once. That an invitation expired is a reading of the clock, not a state.

use super::error::Refusal;
use super::fact::{Act, Fact};
use lingqu_certs::key::PublicKey;
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::host::Timestamp;

/// An invitation. The gateway stores the public half of its key and nothing that could use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// The key that the invited side proves to hold.
    pub key: PublicKey,
    /// Who is invited.
    pub agent: AgentId,
    /// When it was made.
    pub made_at: Timestamp,
    /// After this it is closed.
    pub expires_at: Timestamp,
    /// Whether it was used.
    pub status: InvitationStatus,
}

/// Whether an invitation was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvitationStatus {
    /// Not yet.
    Open,
    /// By the key with this digest, and by no other.
    Used {
        /// Digest of the public key in the signing request.
        key: Digest,
        /// When.
        at: Timestamp,
    },
}

/// Invites an agent.
pub fn invite(key: PublicKey, agent: AgentId, now: Timestamp, expires_at: Timestamp) -> (Invitation, Fact) {
    let fact = Fact::new(Act::Invited, &agent, Some(agent.agency));
    (Invitation { key, agent, made_at: now, expires_at, status: InvitationStatus::Open }, fact)
}

impl Invitation {
    /// Whether its key is let in, for `join` alone.
    pub fn is_open(&self, now: Timestamp) -> bool {
        now <= self.expires_at
    }

    /// Uses it for the key with digest `key`. The same key may ask again while it is open: the answer may have been lost.
    ///
    /// # Errors
    /// [`Refusal::Invitation`].
    pub fn redeem(&self, key: Digest, now: Timestamp) -> Result<(Self, Fact), Refusal> {
        if !self.is_open(now) {
            return Err(Refusal::Invitation("has expired"));
        }
        let at = match self.status {
            InvitationStatus::Open => now,
            InvitationStatus::Used { key: first, at } if first == key => at,
            InvitationStatus::Used { .. } => return Err(Refusal::Invitation("was used with another key")),
        };
        let fact = Fact::new(Act::AgentJoined, &self.agent, Some(self.agent.agency)).on(key);
        Ok((Self { status: InvitationStatus::Used { key, at }, ..self.clone() }, fact))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open() -> Invitation {
        let agent = "91350100M000100Y43/main".parse().unwrap();
        invite(PublicKey::from_bytes([1; 32]), agent, Timestamp(0), Timestamp(100)).0
    }

    fn key(n: u8) -> Digest {
        Digest::sha256(&[n])
    }

    #[test]
    fn used_once_by_one_key_and_never_late() {
        let (used, fact) = open().redeem(key(1), Timestamp(100)).unwrap();
        assert_eq!(fact.act, Act::AgentJoined);
        assert_eq!(used.redeem(key(1), Timestamp(100)).unwrap().0, used);
        assert!(used.redeem(key(2), Timestamp(100)).is_err());
        assert!(used.redeem(key(1), Timestamp(101)).is_err());
        assert!(open().redeem(key(1), Timestamp(101)).is_err());
    }

    proptest! {
        #[test]
        fn at_most_one_key_ever_joins(tries in prop::collection::vec((0u8..4, 0i64..200), 0..30)) {
            let mut invitation = open();
            let mut first = None;
            for (n, t) in tries {
                if let Ok((next, _)) = invitation.redeem(key(n), Timestamp(t)) {
                    prop_assert!(t <= 100);
                    prop_assert_eq!(*first.get_or_insert(n), n);
                    invitation = next;
                }
            }
        }
    }
}
