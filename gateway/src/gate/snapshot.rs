//! The policy that is in force, as one immutable value. A change makes a new one that shares all but the changed agency's
//! shard with the one before, so that one change of a million grants copies little.

use super::leash::{Cut, Selector};
use lingqu_protocol::agency::{AgentId, AgentName, CreditCode};
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{EntryId, GrantId};
use lingqu_protocol::region::{RegionCode, RegionLevel};
use lingqu_protocol::scope::Scope;
use std::collections::HashMap;
use std::sync::Arc;

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
    /// Whether it is a 政务数据共享主管部门.
    pub authority: bool,
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

/// A grant (共享权限).
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
    /// A stop.
    Stop(StopView),
    /// The end of a stop.
    Resume(Selector),
}

/// Everything about one agency that a request of its agents is judged by.
#[derive(Clone, Debug, Default)]
pub(super) struct Shard {
    pub(super) agency: Option<AgencyView>,
    pub(super) agents: HashMap<AgentName, AgentView>,
    pub(super) grants: HashMap<GrantId, Arc<GrantView>>,
}

/// The policy in force.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    shards: Arc<HashMap<CreditCode, Arc<Shard>>>,
    entries: Arc<HashMap<EntryId, Arc<EntryView>>>,
    codes: Arc<HashMap<String, EntryId>>,
    stops: Arc<Vec<StopView>>,
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
        self.shards.get(code)?.agency.as_ref()
    }

    /// An agent.
    pub fn agent(&self, id: &AgentId) -> Option<&AgentView> {
        self.shards.get(&id.agency)?.agents.get(&id.name)
    }

    /// An entry by its id.
    pub fn entry(&self, id: &EntryId) -> Option<&Arc<EntryView>> {
        self.entries.get(id)
    }

    /// An entry by its id or its code.
    pub fn find_entry(&self, text: &str) -> Option<&Arc<EntryView>> {
        match text.parse() {
            Ok(id) => self.entries.get(&id),
            Err(_) => self.entries.get(self.codes.get(text)?),
        }
    }

    /// A grant of this requester.
    pub fn grant(&self, requester: &CreditCode, id: &GrantId) -> Option<&Arc<GrantView>> {
        self.shards.get(requester)?.grants.get(id)
    }

    /// All grants of this requester, in no order.
    pub fn grants(&self, requester: &CreditCode) -> impl Iterator<Item = &Arc<GrantView>> {
        self.shards.get(requester).into_iter().flat_map(|shard| shard.grants.values())
    }

    /// The stops in force.
    pub fn stops(&self) -> &[StopView] {
        &self.stops
    }

    /// Agencies, agents, entries and grants that are known.
    pub fn counts(&self) -> [usize; 4] {
        let agents = self.shards.values().map(|s| s.agents.len()).sum();
        let grants = self.shards.values().map(|s| s.grants.len()).sum();
        [self.shards.len(), agents, self.entries.len(), grants]
    }

    fn apply(&mut self, update: Update) -> Option<(Selector, Cut)> {
        match update {
            Update::Agency(agency) => {
                let code = agency.code;
                self.shard(code).agency = Some(agency);
                None
            }
            Update::Agent(agent) => {
                let cut = agent.blocked.clone().map(|reason| {
                    let cut = Cut { code: CloseCode::Suspended, word: "agent_blocked", reason, since: Timestamp(0) };
                    (Selector::Agent(agent.id.clone()), cut)
                });
                self.shard(agent.id.agency).agents.insert(agent.id.name.clone(), agent);
                cut
            }
            Update::Entry(entry) => self.apply_entry(entry),
            Update::Grant(grant) => self.apply_grant(grant),
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

    fn apply_entry(&mut self, entry: EntryView) -> Option<(Selector, Cut)> {
        let id = entry.id;
        let codes = Arc::make_mut(&mut self.codes);
        codes.retain(|_, of| *of != id);
        if let Some(code) = &entry.code {
            codes.insert(code.clone(), id);
        }
        let was = self.entries.get(&id).is_some_and(|e| e.published);
        let is = entry.published;
        Arc::make_mut(&mut self.entries).insert(id, Arc::new(entry));
        (was && !is).then(|| {
            let reason = "the entry is no longer published".to_owned();
            let cut = Cut { code: CloseCode::Suspended, word: "entry_withdrawn", reason, since: Timestamp(0) };
            (Selector::Entry(id), cut)
        })
    }

    fn apply_grant(&mut self, grant: GrantView) -> Option<(Selector, Cut)> {
        let selector = Selector::Grant(grant.id);
        let before = self.shard(grant.requester).grants.get(&grant.id).map(|g| g.digest);
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
        self.shard(grant.requester).grants.insert(grant.id, Arc::new(grant));
        cut.map(|cut| (selector, cut))
    }

    fn shard(&mut self, agency: CreditCode) -> &mut Shard {
        Arc::make_mut(Arc::make_mut(&mut self.shards).entry(agency).or_default())
    }
}
