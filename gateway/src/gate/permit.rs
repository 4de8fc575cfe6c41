//! Permits: the proof that the gate let something through. Only this module makes them, they cannot be copied, and
//! everything in `flow` asks for one.

use super::decide::{AllowedPull, AllowedPush, Peer, Share};
use super::grant::Grant;
use super::leash::{Leash, Tags};
use super::quota::{Quota, Under};
use super::snapshot::EntryView;
use lingqu_protocol::predicate::TypedPredicate;
use lingqu_protocol::scope::Transform;
use std::sync::Arc;

/// What every permit has.
pub trait Permit {
    /// Checked for every piece, selected on beside every wait.
    fn leash(&self) -> &Leash;
    /// Of which entry.
    fn entry(&self) -> &Arc<EntryView>;
}

/// Data of an entry may leave, as far as this says.
#[derive(Debug)]
pub struct PullPermit {
    grant: Grant,
    entry: Arc<EntryView>,
    share: Share,
    quota: Arc<Quota>,
    leash: Leash,
}

impl PullPermit {
    /// Holds what was allowed, whatever the policy becomes; the leash says when that ends.
    pub(super) fn new(allowed: AllowedPull<'_>, quota: Arc<Quota>, leash: Leash) -> Self {
        let AllowedPull { grant, entry, share, .. } = allowed;
        Self { grant: grant.clone(), entry: Arc::clone(entry), share, quota, leash }
    }

    /// What it rests on: whose limits it uses up, and whose pseudonyms it gives.
    pub fn under(&self) -> Under {
        Under::Grant(self.grant.id)
    }

    /// Under which grant.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Indices of the columns that may leave, in the order asked for; none for files.
    pub fn columns(&self) -> &[usize] {
        self.share.columns(&self.grant.scope)
    }

    /// Which rows may leave; all where there is none.
    pub fn rows(&self) -> Option<&TypedPredicate> {
        self.share.rows(&self.grant.scope)
    }

    /// For what.
    pub fn purpose(&self) -> &str {
        self.share.purpose(&self.grant.scope)
    }

    /// What happens to the column at a place among [`columns`](Self::columns) before it leaves; `None` where it leaves in
    /// clear.
    pub fn transform(&self, place: usize) -> Option<Transform> {
        self.share.transform(place)
    }

    /// What bytes and requests count against, before they are sent and answered.
    pub fn quota(&self) -> &Arc<Quota> {
        &self.quota
    }
}

impl Permit for PullPermit {
    fn leash(&self) -> &Leash {
        &self.leash
    }
    fn entry(&self) -> &Arc<EntryView> {
        &self.entry
    }
}

/// A version of an entry may come in.
#[derive(Debug)]
pub struct PushPermit {
    allowed: AllowedPush,
    leash: Leash,
    referenced: Vec<Option<Arc<EntryView>>>,
}

impl PushPermit {
    /// `referenced` are the entries that the quality rules of the entry refer to, rule by rule.
    pub(super) fn new(allowed: AllowedPush, leash: Leash, referenced: Vec<Option<Arc<EntryView>>>) -> Self {
        Self { allowed, leash, referenced }
    }

    /// The entry that a quality rule refers to, by the rule's place; none where there is none that it may refer to.
    pub fn referenced(&self, rule: usize) -> Option<&Arc<EntryView>> {
        self.referenced.get(rule)?.as_ref()
    }
}

impl Permit for PushPermit {
    fn leash(&self) -> &Leash {
        &self.leash
    }
    fn entry(&self) -> &Arc<EntryView> {
        &self.allowed.entry
    }
}

pub(super) fn tags_of_pull(peer: &Peer, allowed: &AllowedPull<'_>) -> Tags {
    Tags {
        grant: Some(allowed.grant.id),
        list: None,
        agent: peer.agent.clone(),
        entry: allowed.entry.id,
        standing: false,
    }
}

pub(super) fn tags_of_push(peer: &Peer, allowed: &AllowedPush) -> Tags {
    Tags { grant: None, list: None, agent: peer.agent.clone(), entry: allowed.entry.id, standing: false }
}
