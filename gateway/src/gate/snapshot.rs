//! The policy that is in force, as one immutable value. A change makes a new one that shares all but a few leaves of its
//! tables with the one before, so that one change of a million grants copies little.

use super::grant::{Grant, Parts};
use super::leash::{Cut, Selector};
use super::table::{Keyed, Table};
use lingqu_protocol::agency::{AgentId, CreditCode};
use lingqu_protocol::backflow::{RegionChange, Row};
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::{EntryFormat, EntrySpec};
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{EntryId, GrantId, ListId};
use lingqu_protocol::region::{RegionCode, RegionLevel};
use lingqu_protocol::scope::Scope;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

/// An agency as the root names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgencyView {
    /// Its credit code.
    pub code: CreditCode,
    /// Its name.
    pub name: String,
    /// Its region.
    pub region: RegionCode,
    /// The region's level.
    pub level: RegionLevel,
    /// Its duties, as published lists name them.
    pub duties: Arc<[String]>,
    /// Whether it is a 政务数据共享主管部门.
    pub authority: bool,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
impl AgencyView {
    /// One of a province without duties, for tests that ask for no more.
    pub(crate) fn of_province(code: &str) -> Self {
        Self {
            code: code.parse().unwrap(),
            name: code.to_owned(),
            region: "44".parse().unwrap(),
            level: RegionLevel::Province,
            duties: [].into(),
            authority: false,
        }
    }
}

/// An agent that joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentView {
    /// Who it is.
    pub id: AgentId,
    /// Why it may not speak any more, if so.
    pub blocked: Option<String>,
}

/// A catalogue entry.
#[derive(Clone, Debug)]
pub struct EntryView {
    /// Its id.
    pub id: EntryId,
    /// Its code, once the authority gave one.
    pub code: Option<String>,
    /// Whose data it is.
    pub provider: CreditCode,
    /// Its terms.
    pub spec: Arc<EntrySpec>,
    /// Whether it is published: one that is not exists for its provider and for authorities alone.
    pub published: bool,
}

/// Whether a grant may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantStatus {
    /// It may.
    InForce,
    /// 暂停: not until it is reinstated.
    Suspended {
        /// Why.
        reason: String,
        /// Since when.
        since: Timestamp,
    },
    /// 终止: never again.
    Terminated {
        /// Why.
        reason: String,
        /// Since when.
        since: Timestamp,
    },
}

/// A grant (共享权限), as it is told to the gate; how the gate keeps it is [`Grant`].
#[derive(Clone, Debug)]
pub struct GrantView {
    /// Its id.
    pub id: GrantId,
    /// What it grants.
    pub entry: EntryId,
    /// To whom.
    pub requester: CreditCode,
    /// How far.
    pub scope: Arc<Scope>,
    /// Whether it may be used.
    pub status: GrantStatus,
    /// Digest of the signed answer that it follows from; another digest is another scope.
    pub digest: Digest,
}

/// A published list of what flows back to whom (回流清单).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackflowView {
    /// Its id.
    pub list: ListId,
    /// When it was published: of several that name a department for an entry, the latest counts.
    pub published_at: Timestamp,
    /// Since when and why it counts no more, if so.
    pub revoked: Option<(Timestamp, String)>,
    /// What flows back to whom, each row with the entry that it means.
    pub rows: Vec<(Row, EntryId)>,
    /// Region codes that are others today.
    pub region_changes: Vec<RegionChange>,
}

/// A stop by an operator or a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopView {
    /// What is stopped.
    pub selector: Selector,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// One change of what is in force.
#[derive(Clone, Debug)]
pub enum Update {
    /// A new or changed agency.
    Agency(AgencyView),
    /// A new or changed agent.
    Agent(AgentView),
    /// A new or changed entry.
    Entry(EntryView),
    /// A new or changed grant.
    Grant(GrantView),
    /// A new or revoked list.
    Backflow(Arc<BackflowView>),
    /// A stop.
    Stop(StopView),
    /// The end of a stop.
    Resume(Selector),
}

/// An agency and what it was granted.
#[derive(Clone, Debug)]
struct Agency {
    code: CreditCode,
    /// None before the root names it.
    view: Option<AgencyView>,
    grants: Arc<BTreeSet<(EntryId, GrantId)>>,
}

impl Keyed for Agency {
    type Key = CreditCode;
    fn key(&self) -> &CreditCode {
        &self.code
    }
}

impl Keyed for AgentView {
    type Key = AgentId;
    fn key(&self) -> &AgentId {
        &self.id
    }
}

/// Which terms of an entry: no two that differ have the same in policies that share their parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Edition(NonZeroU32);

impl Edition {
    /// The one of this number, from 1; none where they have run out, and then nothing is computed ahead.
    pub(super) fn new(number: u64) -> Option<Self> {
        u32::try_from(number).ok().and_then(NonZeroU32::new).map(Self)
    }
}

/// An entry in the table. What every request asks of it stands beside its key: the rest lies elsewhere in memory.
#[derive(Clone, Debug)]
pub(super) struct EntryInForce {
    id: EntryId,
    pub(super) edition: Option<Edition>,
    pub(super) published: bool,
    pub(super) format: EntryFormat,
    pub(super) view: Arc<EntryView>,
}

impl EntryInForce {
    pub(super) fn new(edition: Option<Edition>, view: EntryView) -> Self {
        Self { id: view.id, edition, published: view.published, format: view.spec.format, view: Arc::new(view) }
    }
}

impl Keyed for EntryInForce {
    type Key = EntryId;
    fn key(&self) -> &EntryId {
        &self.id
    }
}

/// The policy in force.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    agencies: Table<Agency>,
    agents: Table<AgentView>,
    entries: Table<EntryInForce>,
    codes: Table<(String, EntryId)>,
    grants: Table<Grant>,
    stops: Arc<Vec<StopView>>,
    /// In the order in which they were published.
    lists: Arc<BTreeMap<(Timestamp, ListId), Arc<BackflowView>>>,
    /// Shared by all that follow from each other; used by whoever makes the next one.
    parts: Arc<Mutex<Parts>>,
}

impl Snapshot {
    /// The policy after `updates`, and what has to be cut because of them.
    pub fn with(&self, updates: Vec<Update>) -> (Self, Vec<(Selector, Cut)>) {
        let mut next = self.clone();
        let cuts = updates.into_iter().filter_map(|update| next.apply(update)).collect();
        (next, cuts)
    }

    /// An agency.
    pub fn agency(&self, code: &CreditCode) -> Option<&AgencyView> {
        self.agencies.get(code)?.view.as_ref()
    }

    /// An agent.
    pub fn agent(&self, id: &AgentId) -> Option<&AgentView> {
        self.agents.get(id)
    }

    /// An entry by its id.
    pub fn entry(&self, id: &EntryId) -> Option<&Arc<EntryView>> {
        self.entry_in_force(id).map(|entry| &entry.view)
    }

    pub(super) fn entry_in_force(&self, id: &EntryId) -> Option<&EntryInForce> {
        self.entries.get(id)
    }

    /// An entry by its id or its code.
    pub fn find_entry(&self, text: &str) -> Option<&Arc<EntryView>> {
        match text.parse() {
            Ok(id) => self.entry(&id),
            Err(_) => self.entry(&self.codes.get(&text.to_owned())?.1),
        }
    }

    /// A grant of this requester.
    pub fn grant(&self, requester: &CreditCode, id: &GrantId) -> Option<&Grant> {
        self.grants.get(id).filter(|grant| grant.requester == *requester)
    }

    /// All grants of this requester.
    pub fn grants(&self, requester: &CreditCode) -> impl Iterator<Item = &Grant> {
        let ids = self.agencies.get(requester).into_iter().flat_map(|agency| agency.grants.iter());
        ids.filter_map(|(_, id)| self.grants.get(id))
    }

    /// This requester's grants of an entry, in the order of their ids.
    pub fn grants_of(&self, requester: &CreditCode, entry: EntryId) -> impl Iterator<Item = &Grant> {
        let range = (entry, GrantId::from_bits(0))..=(entry, GrantId::from_bits(u128::MAX));
        let ids = self.agencies.get(requester).into_iter().flat_map(move |agency| agency.grants.range(range.clone()));
        ids.filter_map(|(_, id)| self.grants.get(id))
    }

    /// The stops in force.
    pub fn stops(&self) -> &[StopView] {
        &self.stops
    }

    /// The published lists, the oldest first, those that were revoked among them.
    pub fn lists(&self) -> impl DoubleEndedIterator<Item = &BackflowView> + Clone {
        self.lists.values().map(Arc::as_ref)
    }

    /// Agencies, agents, entries and grants that are known.
    pub fn counts(&self) -> [usize; 4] {
        [self.agencies.len(), self.agents.len(), self.entries.len(), self.grants.len()]
    }

    fn apply(&mut self, update: Update) -> Option<(Selector, Cut)> {
        match update {
            Update::Agency(agency) => {
                let known = self.known(agency.code);
                self.agencies.insert(Agency { view: Some(agency), ..known });
                None
            }
            Update::Agent(agent) => {
                let cut = agent.blocked.clone().map(|reason| {
                    let cut = Cut { code: CloseCode::Suspended, word: "agent_blocked", reason, since: Timestamp(0) };
                    (Selector::Agent(agent.id.clone()), cut)
                });
                self.agents.insert(agent);
                cut
            }
            Update::Entry(entry) => self.apply_entry(entry),
            Update::Grant(grant) => self.apply_grant(grant),
            Update::Backflow(list) => {
                let cut = list.revoked.clone().map(|(since, reason)| {
                    let cut = Cut { code: CloseCode::Suspended, word: "list_revoked", reason, since };
                    (Selector::List(list.list), cut)
                });
                Arc::make_mut(&mut self.lists).insert((list.published_at, list.list), list);
                cut
            }
            Update::Stop(stop) => {
                let cut =
                    Cut { code: CloseCode::Suspended, word: "stopped", reason: stop.reason.clone(), since: stop.since };
                let selector = stop.selector.clone();
                let stops = Arc::make_mut(&mut self.stops);
                stops.retain(|s| s.selector != selector);
                stops.push(stop);
                Some((selector, cut))
            }
            Update::Resume(selector) => {
                Arc::make_mut(&mut self.stops).retain(|s| s.selector != selector);
                None
            }
        }
    }

    fn apply_entry(&mut self, mut entry: EntryView) -> Option<(Selector, Cut)> {
        let id = entry.id;
        let before = self.entry_in_force(&id).cloned();
        if let Some(code) = before.as_ref().and_then(|before| before.view.code.as_ref()) {
            self.codes.remove(code);
        }
        if let Some(code) = &entry.code {
            self.codes.insert((code.clone(), id));
        }
        let edition = match before.as_ref().filter(|before| before.view.spec == entry.spec) {
            Some(before) => {
                // The very same one: what grants have computed from it still holds.
                entry.spec = Arc::clone(&before.view.spec);
                before.edition
            }
            None => self.parts.lock().unwrap_or_else(PoisonError::into_inner).next_edition(),
        };
        let was = before.is_some_and(|before| before.published);
        let is = entry.published;
        self.entries.insert(EntryInForce::new(edition, entry));
        (was && !is).then(|| {
            let reason = "the entry is no longer published".to_owned();
            let cut = Cut { code: CloseCode::Suspended, word: "entry_withdrawn", reason, since: Timestamp(0) };
            (Selector::Entry(id), cut)
        })
    }

    fn apply_grant(&mut self, grant: GrantView) -> Option<(Selector, Cut)> {
        let selector = Selector::Grant(grant.id);
        let before = self.grant(&grant.requester, &grant.id).map(|g| g.digest);
        let suspended =
            |word, reason: &str, since| Cut { code: CloseCode::Suspended, word, reason: reason.to_owned(), since };
        let cut = match &grant.status {
            GrantStatus::InForce if before.is_some_and(|digest| digest != grant.digest) => {
                Some(suspended("grant_amended", "the grant was amended; ask again under its new scope", Timestamp(0)))
            }
            GrantStatus::InForce => None,
            GrantStatus::Suspended { reason, since } => Some(suspended("grant_suspended", reason, *since)),
            GrantStatus::Terminated { reason, since } => Some(suspended("grant_terminated", reason, *since)),
        };
        let entry = self.entries.get(&grant.entry);
        let kept = self.parts.lock().unwrap_or_else(PoisonError::into_inner).keep(&grant, entry);
        self.grants.insert(kept);
        let mut agency = self.known(grant.requester);
        if !agency.grants.contains(&(grant.entry, grant.id)) {
            Arc::make_mut(&mut agency.grants).insert((grant.entry, grant.id));
            self.agencies.insert(agency);
        }
        cut.map(|cut| (selector, cut))
    }

    /// What is known of an agency, as a copy that can be changed.
    fn known(&self, code: CreditCode) -> Agency {
        self.agencies.get(&code).cloned().unwrap_or_else(|| Agency { code, view: None, grants: Arc::default() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_stands_once_beside_others_and_ends_alone() {
        let entry = Selector::Entry(EntryId::from_bits(1));
        let stop = |selector: &Selector, reason: &str| {
            Update::Stop(StopView { selector: selector.clone(), reason: reason.to_owned(), since: Timestamp(1) })
        };
        let reasons = |snapshot: &Snapshot| snapshot.stops().iter().map(|s| s.reason.clone()).collect::<Vec<_>>();
        let (stopped, cuts) =
            Snapshot::default().with(vec![stop(&entry, "first"), stop(&Selector::All, "other"), stop(&entry, "last")]);
        assert_eq!((reasons(&stopped), cuts.len()), (vec!["other".to_owned(), "last".to_owned()], 3));
        let (resumed, cuts) = stopped.with(vec![Update::Resume(entry)]);
        assert_eq!((reasons(&resumed), cuts.len()), (vec!["other".to_owned()], 0));
    }

    #[test]
    fn an_entry_cuts_what_runs_where_it_is_withdrawn_and_never_else() {
        let spec = Arc::new(EntrySpec::parse(include_str!("../../../protocol/fixtures/entry.toml")).unwrap());
        let id = EntryId::from_bits(1);
        let entry = |published: bool| {
            let provider = "91350100M000100Y43".parse().unwrap();
            Update::Entry(EntryView { id, code: None, provider, spec: Arc::clone(&spec), published })
        };
        for (was, is, cuts) in [
            (None, false, 0),
            (None, true, 0),
            (Some(false), false, 0),
            (Some(false), true, 0),
            (Some(true), true, 0),
            (Some(true), false, 1),
        ] {
            let (before, _) = Snapshot::default().with(was.into_iter().map(entry).collect());
            let (_, made) = before.with(vec![entry(is)]);
            let made: Vec<_> = made.into_iter().map(|(selector, cut)| (selector, cut.word)).collect();
            assert_eq!(made, vec![(Selector::Entry(id), "entry_withdrawn"); cuts], "{was:?} to {is}");
        }
    }
}
