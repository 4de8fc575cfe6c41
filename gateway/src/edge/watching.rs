//! What a session hands to the watch over misuse: each request with how it was answered, each flow while it runs. Nothing
//! here waits, and nothing of what a peer wrote is kept but a number for it.

use super::close;
use crate::flow::FlowError;
use crate::gate::{self, Gate, Peer, Permit, PullPermit, Target};
use crate::misuse::Observer;
use crate::misuse::observation::{Answered, Fingerprint, Question};
use crate::misuse::queue::Watched;
use lingqu_protocol::ids::{EntryId, GrantId};
use lingqu_protocol::wire::request::Ask;
use std::sync::Arc;

/// Characters of a target that are looked up: an id or a code.
const TARGET_CHARS_MAX: usize = 64;

/// What was asked, before the request is taken apart.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    operation: &'static str,
    number: u64,
    target: String,
}

impl Asked {
    /// Of a request.
    pub(super) fn of(ask: &Ask, print: &Fingerprint) -> Self {
        let operation = super::operation::name(ask);
        let (number, target) = match ask {
            Ask::Pull(pull) => {
                let head = [operation, &pull.target, &pull.r#where, &pull.region, &pull.purpose];
                let parts = head.into_iter().chain(pull.columns.iter().map(String::as_str));
                (print.of(parts.chain(["files"]).chain(pull.files.iter().map(String::as_str))), pull.target.as_str())
            }
            Ask::Query(query) => {
                let head = [operation, &query.target, &query.purpose];
                let parts = head.into_iter().chain(query.columns.iter().map(String::as_str)).chain(["key"]);
                let keys = query.key.iter().flat_map(|key| [key.name.as_str(), key.value.as_str()]);
                (print.of(parts.chain(keys)), query.target.as_str())
            }
            Ask::MatchKeys(ask) => {
                let head = [operation, &ask.target, &ask.purpose, &ask.keys_digest];
                (print.of(head.into_iter().chain(ask.columns.iter().map(String::as_str))), ask.target.as_str())
            }
            Ask::PushFiles(push) => (print.of([operation, &push.entry]), push.entry.as_str()),
            Ask::PushBatch(push) => (print.of([operation, &push.entry]), push.entry.as_str()),
            Ask::Follow(follow) => {
                let parts = [operation, &follow.entry].into_iter();
                (print.of(parts.chain(follow.columns.iter().map(String::as_str))), follow.entry.as_str())
            }
            Ask::Read(read) => (print.of([operation, &read.kind, &read.id]), ""),
            Ask::Narrow(narrow) => (print.of([operation, &narrow.grant]), narrow.grant.as_str()),
            Ask::Join(_) | Ask::Renew(_) | Ask::Document(_) | Ask::Cancel(_) => (print.of([operation]), ""),
        };
        Self { operation, number, target: target.chars().take(TARGET_CHARS_MAX).collect() }
    }

    /// How it was answered in the end.
    pub(super) fn answered(&self, gate: &Gate, peer: &Peer, outcome: Result<(), &FlowError>) -> Answered {
        let word = match outcome {
            Ok(()) => "done",
            Err(FlowError::Denied(denied)) => denied.word(),
            Err(FlowError::Registry(error)) => error.word(),
            Err(error) => close::outcome(error),
        };
        let (grant, entry) = meant(gate, peer, &self.target);
        Answered { operation: self.operation, word, grant, entry, asked: self.number }
    }

    /// That it was let through.
    pub(super) fn given(&self, grant: Option<GrantId>, entry: EntryId) -> Answered {
        Answered { operation: self.operation, word: "given", grant, entry: Some(entry), asked: self.number }
    }
}

/// The grant and the entry that a target means, as far as they exist for the peer.
fn meant(gate: &Gate, peer: &Peer, target: &str) -> (Option<GrantId>, Option<EntryId>) {
    if target.is_empty() {
        return (None, None);
    }
    let (snapshot, agency) = (gate.snapshot(), &peer.agent.agency);
    match Target::parse(target) {
        Target::Grant(id) => {
            let grant = snapshot.grant(agency, &id);
            (grant.map(|g| g.id), grant.map(|g| g.entry))
        }
        Target::Entry(text) => {
            let Some(entry) = snapshot.find_entry(&text).map(|entry| entry.id) else { return (None, None) };
            let mut grants = snapshot.grants_of(agency, entry);
            let only = grants.next().filter(|_| grants.next().is_none());
            (only.map(|g| g.id), Some(entry))
        }
    }
}

/// Watches a pull that was permitted, until what this returns is dropped.
pub(super) fn pull(
    observer: &Arc<Observer>,
    (peer, connection): (&Peer, u64),
    asked: &Asked,
    permit: &PullPermit,
    wanted: &gate::Ask,
) -> Watched {
    let grant = permit.grant();
    observer.answered(peer, connection, asked.given(Some(grant.id), permit.entry().id));
    let question = observer.fingerprint().question(wanted.rows.as_ref(), wanted.region);
    observer.began(peer, connection, permit.leash(), grant.scope.volume_bytes_max(), question)
}

/// Watches a request by key that was permitted, until what this returns is dropped. Its keys are the question: the same
/// items with other values have the same shape.
pub(super) fn service<'a>(
    observer: &Arc<Observer>,
    (peer, connection): (&Peer, u64),
    asked: &Asked,
    permit: &PullPermit,
    keys: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Watched {
    let grant = permit.grant();
    observer.answered(peer, connection, asked.given(Some(grant.id), permit.entry().id));
    let (names, values): (Vec<&str>, Vec<&str>) = keys.into_iter().unzip();
    let print = observer.fingerprint();
    let question = Question { shape: print.of([asked.operation].into_iter().chain(names)), value: print.of(values) };
    observer.began(peer, connection, permit.leash(), grant.scope.volume_bytes_max(), Some(question))
}

/// Notes a subscription that was permitted. What it gets is its own region's, so there is no volume to watch.
pub(super) fn follow(observer: &Arc<Observer>, (peer, connection): (&Peer, u64), asked: &Asked, permit: &impl Permit) {
    observer.answered(peer, connection, asked.given(None, permit.entry().id));
}

/// Watches a push that was permitted, until what this returns is dropped.
pub(super) fn push(
    observer: &Arc<Observer>,
    (peer, connection): (&Peer, u64),
    asked: &Asked,
    permit: &impl Permit,
) -> Watched {
    observer.answered(peer, connection, asked.given(None, permit.entry().id));
    observer.began(peer, connection, permit.leash(), None, None)
}
