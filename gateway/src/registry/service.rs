//! The registry at work: look at what stands, let a machine decide, commit records and leaves in one transaction, then
//! publish. One change at a time is committed and published in this process, so that the gate learns of changes in the
//! order in which they became durable; between processes the revisions that a change expects keep the order.

use super::agency::Agency;
use super::agent::{Agent, AgentStatus};
use super::backflow::List;
use super::entry::Entry;
use super::error::{Refusal, RegistryError};
use super::fact::{Actor, Fact};
use super::finding::Finding;
use super::grant::Grant;
use super::invitation::Invitation;
use super::leaf;
use super::paper::Paper;
use super::port::{Cuts, EntryUpdate, Nobody, Publish, Update};
use super::record::{self, Stored};
use super::renewal::Renewal;
use super::renewals::OpenRenewals;
use super::stop::{Selector, Stop};
use super::terms;
use crate::state::{Change, Expect, Filter, Kind, State, Write};
use lingqu_certs::ca::Authority;
use lingqu_certs::document::Opened;
use lingqu_certs::key::PublicKey;
use lingqu_certs::root::open_as_root;
use lingqu_protocol::agency::{AgentId, CreditCode};
use lingqu_protocol::documents::{AgencyBody, Body, Document, EntryBody};
use lingqu_protocol::dsse::Envelope;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::host::{Clock, Entropy, Timestamp};
use lingqu_protocol::ids::{DocumentId, EntryId, GatewayId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// How often a change that met another is tried anew: with one writer a process, more means that something is wrong.
pub(super) const CONFLICTS_MAX: usize = 8;

/// Records read at a time in a walk: bodies may be large, and a page of them is held in memory.
const SCAN_RECORDS: u32 = 100;

/// Who this gateway is, as the root says.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its id.
    pub gateway: GatewayId,
    /// Its domain.
    pub domain: String,
    /// The pinned root.
    pub root: PublicKey,
    /// The root's statement of its keys.
    pub statement: Envelope,
    /// The address that agents dial, `host:port`.
    pub address: String,
    /// How long an agent's certificate lives.
    pub certificate_valid_ms: i64,
}

/// Keys of invitations that are open, for the handshake: it asks for every certificate that names no agent.
#[derive(Debug, Default)]
pub struct OpenInvitations(RwLock<HashMap<[u8; 32], Timestamp>>);

impl OpenInvitations {
    /// Whether this key is let in now, for `join` alone.
    pub fn is_open(&self, key: &[u8; 32], now: Timestamp) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).is_some_and(|until| now <= *until)
    }

    fn open(&self, key: &PublicKey, until: Timestamp, now: Timestamp) {
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|_, until| now <= *until);
        keys.insert(*key.as_bytes(), until);
    }
}

/// The registry of one gateway.
pub struct Registry {
    pub(super) state: Arc<dyn State>,
    pub(super) gate: Arc<dyn Publish>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) ca: Arc<Authority>,
    identity: Identity,
    invitations: Arc<OpenInvitations>,
    renewals: Arc<OpenRenewals>,
    pub(super) cuts: Arc<dyn Cuts>,
    /// Findings that ended and that the watch has not asked for yet.
    pub(super) ended: Mutex<Vec<Finding>>,
    /// Held from reading what stands until it is published.
    pub(super) writer: tokio::sync::Mutex<()>,
}

/// A thing that was read, with what a write over it expects.
pub(super) struct Found<T> {
    pub(super) thing: T,
    pub(super) expect: Expect,
}

/// A change in the making.
#[derive(Default)]
pub(super) struct Tx {
    change: Change,
    updates: Vec<Update>,
}

/// What counts as a conflict of a thing that was read.
pub(super) fn expect<T>(found: Option<&Found<T>>) -> Expect {
    found.map_or(Expect::Absent, |f| f.expect)
}

impl Registry {
    /// A registry over `state` that tells `gate`.
    pub fn new(
        state: Arc<dyn State>,
        gate: Arc<dyn Publish>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        ca: Arc<Authority>,
        identity: Identity,
    ) -> Self {
        Self {
            state,
            gate,
            clock,
            entropy,
            ca,
            identity,
            invitations: Arc::default(),
            renewals: Arc::default(),
            cuts: Arc::new(Nobody),
            ended: Mutex::default(),
            writer: tokio::sync::Mutex::new(()),
        }
    }

    /// The same, and cuts whose commit fails are kept there.
    #[must_use]
    pub fn keeping(mut self, cuts: Arc<dyn Cuts>) -> Self {
        self.cuts = cuts;
        self
    }

    /// Who this gateway is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The keys of open invitations, for the handshake.
    pub fn invitations(&self) -> Arc<OpenInvitations> {
        Arc::clone(&self.invitations)
    }

    /// The approvals of renewal that are open, for the handshake.
    pub fn renewals(&self) -> Arc<OpenRenewals> {
        Arc::clone(&self.renewals)
    }

    /// Publishes everything that is in force. Called once, before the gate opens. Agencies whose statement the root did
    /// not sign are an error: a state that was changed from outside is not served.
    ///
    /// # Errors
    /// The state's, and [`RegistryError::Damaged`].
    pub async fn load(&self) -> Result<(), RegistryError> {
        let _writer = self.writer.lock().await;
        let now = self.clock.wall();
        let everything = Filter::default();
        let mut pages = Cursor::default();
        while let Some(page) = self.next_page::<Agency>(&everything, &mut pages).await? {
            for agency in &page {
                self.certified::<AgencyBody>(agency.document).await?;
            }
            self.gate.publish(page.into_iter().map(Update::Agency).collect());
        }
        // Stops before what they stop, so that nothing is open for a moment that should not be.
        let mut pages = Cursor::default();
        while let Some(page) = self.next_page::<Stop>(&everything, &mut pages).await? {
            self.gate.publish(page.into_iter().map(Update::Stop).collect());
        }
        let mut pages = Cursor::default();
        while let Some(page) = self.next_page::<Agent>(&everything, &mut pages).await? {
            self.gate.publish(page.into_iter().map(Update::Agent).collect());
        }
        let mut pages = Cursor::default();
        while let Some(page) = self.next_page::<Entry>(&everything, &mut pages).await? {
            let mut updates = Vec::with_capacity(page.len());
            for entry in &page {
                updates.push(self.entry_update(entry).await?);
            }
            self.gate.publish(updates);
        }
        let mut pages = Cursor::default();
        while let Some(page) = self.next_page::<Grant>(&everything, &mut pages).await? {
            let updates = page.into_iter().map(grant_update).collect::<Result<_, _>>()?;
            self.gate.publish(updates);
        }
        let mut pages = Cursor::default();
        while let Some(page) = self.next_page::<List>(&everything, &mut pages).await? {
            self.gate.publish(page.into_iter().map(|list| Update::Backflow(Arc::new(list))).collect());
        }
        let mut pages = Cursor::default();
        while let Some(page) = self.next_page::<Invitation>(&everything, &mut pages).await? {
            for invitation in page.iter().filter(|i| i.is_open(now)) {
                self.remember(invitation, now);
            }
        }
        let mut pages = Cursor::default();
        while let Some(page) = self.next_page::<Renewal>(&everything, &mut pages).await? {
            for renewal in page.iter().filter(|r| r.is_open(now)) {
                self.renewals.open(renewal, now);
            }
        }
        Ok(())
    }

    /// Lets the key of an invitation in until it expires.
    pub(super) fn remember(&self, invitation: &Invitation, now: Timestamp) {
        self.invitations.open(&invitation.key, invitation.expires_at, now);
    }

    /// The agency of a peer that may speak: known, not blocked, not stopped.
    pub(super) async fn participant(&self, peer: &AgentId) -> Result<Agency, RegistryError> {
        let agency = self.known(peer).await?;
        self.not_stopped(&[Selector::All, Selector::Agency(peer.agency)]).await?;
        Ok(agency)
    }

    /// The agency of a peer that is known and not blocked.
    pub(super) async fn known(&self, peer: &AgentId) -> Result<Agency, RegistryError> {
        let unknown = || Refusal::not_found("agent", &peer.to_string());
        let agent: Found<Agent> = self.find(&peer.to_string()).await?.ok_or_else(unknown)?;
        if let AgentStatus::Blocked { reason, .. } = agent.thing.status {
            return Err(Refusal::Stopped { what: format!("agent {peer}"), reason }.into());
        }
        self.agency(peer.agency).await
    }

    /// An agency whose statement the root signed.
    pub(super) async fn agency(&self, code: CreditCode) -> Result<Agency, RegistryError> {
        let unknown = || Refusal::not_found("agency", code.as_str());
        let agency: Found<Agency> = self.find(code.as_str()).await?.ok_or_else(unknown)?;
        let agency = agency.thing;
        let opened = self.certified::<AgencyBody>(agency.document).await?;
        if opened.digest != agency.digest || opened.document.body.authority != agency.authority {
            return Err(RegistryError::Damaged(format!("agency {code} is not what the root signed")));
        }
        Ok(agency)
    }

    /// Refuses where one of these is stopped.
    pub(super) async fn not_stopped(&self, selectors: &[Selector]) -> Result<(), RegistryError> {
        for selector in selectors {
            if let Some(stop) = self.find::<Stop>(&selector.to_string()).await? {
                return Err(Refusal::Stopped { what: selector.to_string(), reason: stop.thing.reason }.into());
            }
        }
        Ok(())
    }

    /// A statement of the root that was taken before, checked again as of then.
    pub(super) async fn certified<B: Body>(&self, document: DocumentId) -> Result<Opened<B>, RegistryError> {
        let damaged = |why: String| RegistryError::Damaged(format!("the root's statement {document}: {why}"));
        let paper = self.paper(document).await?;
        open_as_root(&paper.envelope, &self.identity.root, self.identity.gateway, paper.taken_at)
            .map_err(|e| damaged(e.to_string()))
    }

    /// A paper that must be there.
    pub(super) async fn paper(&self, document: DocumentId) -> Result<Paper, RegistryError> {
        let paper: Option<Found<Paper>> = self.find(&document.to_string()).await?;
        paper.map(|p| p.thing).ok_or_else(|| RegistryError::Damaged(format!("{document} is missing")))
    }

    /// entry.toml of the latest text, from its signed document.
    pub(super) async fn latest_toml(&self, entry: &Entry) -> Result<String, RegistryError> {
        let damaged = |why: String| RegistryError::Damaged(format!("{}: {why}", entry.latest.document));
        let paper = self.paper(entry.latest.document).await?;
        let document: Document<EntryBody> =
            serde_json::from_slice(&paper.envelope.payload).map_err(|e| damaged(e.to_string()))?;
        if paper.digest != entry.latest.digest || document.body.entry != entry.id {
            return Err(damaged("it is not the entry's text".into()));
        }
        Ok(document.body.toml)
    }

    /// What the gate is told of an entry.
    pub(super) async fn entry_update(&self, entry: &Entry) -> Result<Update, RegistryError> {
        let toml = match &entry.published {
            Some(published) => published.toml.clone(),
            None => self.latest_toml(entry).await?,
        };
        let spec = stored_spec(entry.id, &toml)?;
        Ok(Update::Entry(EntryUpdate {
            id: entry.id,
            code: entry.code.as_ref().map(ToString::to_string),
            provider: entry.provider,
            spec: Arc::new(spec),
            published: entry.published.is_some(),
        }))
    }

    /// One thing, by its id.
    pub(super) async fn find<T: Stored>(&self, id: &str) -> Result<Option<Found<T>>, RegistryError> {
        // What a peer sends as an id may be longer than any id; then there is nothing of that name.
        if id.is_empty() || id.len() > crate::state::ID_BYTES_MAX {
            return Ok(None);
        }
        let Some(record) = self.state.get(T::KIND, id).await? else { return Ok(None) };
        Ok(Some(Found { thing: record::thing(&record)?, expect: Expect::Revision(record.revision) }))
    }

    /// The next page of the things under `filter`, in the order of their ids; `None` after the last.
    pub(super) async fn next_page<T: Stored>(
        &self,
        filter: &Filter,
        cursor: &mut Cursor,
    ) -> Result<Option<Vec<T>>, RegistryError> {
        if cursor.done {
            return Ok(None);
        }
        let page = self.state.list(T::KIND, filter.clone(), cursor.after.as_deref(), SCAN_RECORDS).await?;
        cursor.done = page.len() < SCAN_RECORDS as usize;
        cursor.after = page.last().map(|record| record.id.clone());
        page.iter().map(record::thing).collect::<Result<_, _>>().map(Some)
    }

    /// Commits a change and puts it in force. The caller holds the writer's lock.
    pub(super) async fn commit(&self, tx: Tx) -> Result<(), RegistryError> {
        self.state.commit(tx.change).await?;
        if !tx.updates.is_empty() {
            self.gate.publish(tx.updates);
        }
        Ok(())
    }

    /// Adds a fact to a change.
    pub(super) fn record(&self, tx: &mut Tx, fact: &Fact, by: &Actor, now: Timestamp) -> Result<(), RegistryError> {
        tx.change.leaves.push(leaf::of(fact, by, now, &*self.entropy)?);
        Ok(())
    }
}

/// Does an attempt, alone in this process, until it does not meet another process's change, a bounded number of times.
/// A macro, because futures of asynchronous closures cannot be spawned yet.
macro_rules! retried {
    ($registry:expr, $attempt:block) => {{
        let _writer = $registry.writer.lock().await;
        let mut left = $crate::registry::service::CONFLICTS_MAX;
        loop {
            let done: Result<_, $crate::registry::RegistryError> = async { $attempt }.await;
            match done {
                Err($crate::registry::RegistryError::State($crate::state::StateError::Conflict { .. }))
                    if left == 0 =>
                {
                    break Err($crate::registry::RegistryError::Busy);
                }
                Err($crate::registry::RegistryError::State($crate::state::StateError::Conflict { .. })) => left -= 1,
                other => break other,
            }
        }
    }};
}
pub(super) use retried;

/// Where a walk through records is.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    after: Option<String>,
    done: bool,
}

impl Cursor {
    /// Begins after `after`; at the beginning where it is empty.
    pub(super) fn after(after: &str) -> Self {
        Self { after: (!after.is_empty()).then(|| after.to_owned()), done: false }
    }
}

impl Tx {
    /// Writes a thing.
    pub(super) fn put<T: Stored>(&mut self, thing: &T, expect: Expect, now: Timestamp) -> Result<(), RegistryError> {
        self.change.writes.push(Write::Put(record::draft(thing, now)?, expect));
        Ok(())
    }

    /// Deletes a thing.
    pub(super) fn delete(&mut self, kind: Kind, id: String, expect: Expect) {
        self.change.writes.push(Write::Delete(kind, id, expect));
    }

    /// Puts an update in force after the commit.
    pub(super) fn publish(&mut self, update: Update) {
        self.updates.push(update);
    }
}

/// What the gate is told of a grant.
pub(super) fn grant_update(grant: Grant) -> Result<Update, RegistryError> {
    let scope = terms::granted(&grant)?;
    Ok(Update::Grant(Box::new(grant), Arc::new(scope)))
}

/// The terms in a text that was taken before.
pub(super) fn stored_spec(entry: EntryId, toml: &str) -> Result<EntrySpec, RegistryError> {
    EntrySpec::parse(toml).map_err(|e| RegistryError::Damaged(format!("{entry}: {e}")))
}
