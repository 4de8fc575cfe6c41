//! Permits: the proof that the gate let something through. Only this module makes them, they cannot be copied, and
//! everything in `flow` asks for one.

use super::decide::{AllowedPull, AllowedPush, Peer};
use super::grant::Grant;
use super::leash::{Leash, Tags};
use super::snapshot::EntryView;
use super::volume::Volume;
use lingqu_protocol::predicate::TypedPredicate;
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
    allowed: AllowedPull,
    volume: Arc<Volume>,
    leash: Leash,
}

impl PullPermit {
    pub(super) fn new(allowed: AllowedPull, volume: Arc<Volume>, leash: Leash) -> Self {
        Self { allowed, volume, leash }
    }

    /// Under which grant.
    pub fn grant(&self) -> &Grant {
        &self.allowed.grant
    }

    /// Indices of the columns that may leave, in the order asked for; none for files.
    pub fn columns(&self) -> &[usize] {
        self.allowed.columns.places()
    }

    /// Which rows may leave; all where there is none.
    pub fn rows(&self) -> Option<&TypedPredicate> {
        self.allowed.rows()
    }

    /// For what.
    pub fn purpose(&self) -> &str {
        self.allowed.purpose.text()
    }

    /// What the bytes count against; reserved before they are sent.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }
}

impl Permit for PullPermit {
    fn leash(&self) -> &Leash {
        &self.leash
    }
    fn entry(&self) -> &Arc<EntryView> {
        &self.allowed.entry
    }
}

/// A version of an entry may come in.
#[derive(Debug)]
pub struct PushPermit {
    allowed: AllowedPush,
    leash: Leash,
}

impl PushPermit {
    pub(super) fn new(allowed: AllowedPush, leash: Leash) -> Self {
        Self { allowed, leash }
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

pub(super) fn tags_of_pull(peer: &Peer, allowed: &AllowedPull) -> Tags {
    Tags { grant: Some(allowed.grant.id), agent: peer.agent.clone(), entry: allowed.entry.id }
}

pub(super) fn tags_of_push(peer: &Peer, allowed: &AllowedPush) -> Tags {
    Tags { grant: None, agent: peer.agent.clone(), entry: allowed.entry.id }
}
