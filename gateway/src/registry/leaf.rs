//! A fact as a leaf of the ledger: what is not personal in clear, the reason behind a salted commitment.

use super::error::RegistryError;
use super::fact::{Act, Actor, Fact};
use crate::ledger::{Entry, LedgerError};
use crate::state::NewLeaf;
use lingqu_protocol::host::{Entropy, Timestamp};
use lingqu_protocol::leaf::LeafKind;

/// The leaf of `fact`, done by `by` at `now`.
///
/// # Errors
/// When the system's randomness fails.
pub(super) fn of(fact: &Fact, by: &Actor, now: Timestamp, entropy: &dyn Entropy) -> Result<NewLeaf, RegistryError> {
    let kind = match fact.act {
        Act::Invited
        | Act::AgentJoined
        | Act::AgentRenewed
        | Act::AgentRenewedExpired
        | Act::RenewalApproved
        | Act::RenewalWithdrawn => LeafKind::Identity,
        Act::Stopped => LeafKind::Stop,
        Act::Resumed => LeafKind::Resume,
        _ => LeafKind::RegistryAct,
    };
    let mut entry = Entry::new(kind, now).what(fact.act.word()).about(&fact.subject).with(|leaf| {
        leaf.agency = fact.agency;
        leaf.document_digest = fact.document;
        leaf.agent = match by {
            Actor::Agent(agent) => Some(agent.clone()),
            Actor::Operator | Actor::Rule => None,
        };
    });
    if let Some(object) = &fact.object {
        // Where both have no field of their own the subject is the agent that acts, which stands in its field already.
        entry = entry.about(object);
    }
    entry.committing_to(fact.reason.clone().unwrap_or_default()).seal(entropy).map_err(|e| match e {
        LedgerError::State(state) => state.into(),
        other => RegistryError::Ours(other.to_string()),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use lingqu_certs::os::OsEntropy;
    use lingqu_protocol::agency::AgentId;
    use lingqu_protocol::digest::Digest;
    use lingqu_protocol::ids::{ApplicationId, EntryId};
    use lingqu_protocol::leaf::Leaf;

    fn leaf(fact: &Fact, by: &Actor) -> (Leaf, NewLeaf) {
        let new = of(fact, by, Timestamp(5), &OsEntropy::new()).unwrap();
        (Leaf::decode(&new.bytes).unwrap(), new)
    }

    #[test]
    fn who_what_and_when_are_clear_and_the_reason_is_not() {
        let agent: AgentId = "91350100M000100Y43/main".parse().unwrap();
        let (application, entry) = (ApplicationId::from_bits(1), EntryId::from_bits(2));
        let fact = Fact::new(Act::ApplicationRefused, application, Some(agent.agency))
            .on(entry)
            .by(Digest::sha256(b"d"))
            .because("张三不符合条件");
        let (leaf, new) = leaf(&fact, &Actor::Agent(agent.clone()));
        assert_eq!((leaf.kind, leaf.at, leaf.what.as_deref()), (LeafKind::RegistryAct, 5, Some("application_refused")));
        assert_eq!((leaf.application, leaf.entry, leaf.agent), (Some(application), Some(entry), Some(agent)));
        assert_eq!(leaf.document_digest, Some(Digest::sha256(b"d")));
        assert!(!String::from_utf8(new.bytes).unwrap().contains("张三"));
        assert_eq!(new.payload, "张三不符合条件".as_bytes());
    }

    #[test]
    fn the_longest_names_fit() {
        let agent = AgentId { agency: "91350100M000100Y43".parse().unwrap(), name: "a".repeat(64).parse().unwrap() };
        let key = Digest::sha256(b"key");
        let joined = Fact::new(Act::AgentJoined, &agent, Some(agent.agency)).on(key);
        let (leaf_of_join, _) = leaf(&joined, &Actor::Agent(agent.clone()));
        assert_eq!((leaf_of_join.agent, leaf_of_join.subject), (Some(agent.clone()), Some(key.to_string())));
        let stopped = Fact::new(Act::Stopped, format!("agent:{agent}"), Some(agent.agency));
        assert_eq!(leaf(&stopped, &Actor::Operator).0.kind, LeafKind::Stop);
    }
}
