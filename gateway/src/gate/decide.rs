//! The decisions. Each is a pure function of the policy in force, the peer, what it asks and the time.
//!
//! What a peer may not see does not exist for it: another's grant is not found, whatever its state. Too much under one's
//! own grant is denied, with what was too much.

use super::health::Now;
use super::leash::Selector;
use super::snapshot::{AgencyView, EntryView, GrantStatus, GrantView, Snapshot};
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::entry::{EntryFormat, SharingClass, SharingMethod};
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::GrantId;
use lingqu_protocol::predicate::{Predicate, TypedPredicate};
use lingqu_protocol::region::RegionCode;
use std::net::IpAddr;
use std::sync::Arc;

pub use super::denied::Denied;

/// Who asks. Its agency's rights come from the policy, never from its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The agent that its certificate names.
    pub agent: AgentId,
    /// The address that its packets come from.
    pub address: IpAddr,
}

/// What a pull is aimed at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A grant.
    Grant(GrantId),
    /// An entry's id or code: the one grant in force is meant.
    Entry(String),
}

impl Target {
    /// What the text names; everything that is no grant's id is taken for an entry.
    pub fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Entry(text.to_owned()), Self::Grant)
    }
}

/// A pull.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Under which grant.
    pub target: Target,
    /// Columns; none named means all that are granted.
    pub columns: Vec<String>,
    /// Rows, among those that are granted.
    pub rows: Option<Predicate>,
    /// Rows of this region, among those.
    pub region: Option<RegionCode>,
    /// For what; a grant of one purpose has it as its default.
    pub purpose: Option<String>,
}

/// What a pull was allowed.
#[derive(Clone, Debug)]
pub struct AllowedPull {
    /// Under which grant.
    pub grant: Arc<GrantView>,
    /// Of which entry.
    pub entry: Arc<EntryView>,
    /// Indices of the columns that may leave, in the order asked for; none for files.
    pub columns: Vec<usize>,
    /// Which rows may leave; all where there is none.
    pub rows: Option<TypedPredicate>,
    /// For what.
    pub purpose: String,
    /// When the permission ends.
    pub ends_at: Option<Timestamp>,
}

/// What a push was allowed.
#[derive(Clone, Debug)]
pub struct AllowedPush {
    /// To which entry.
    pub entry: Arc<EntryView>,
}

/// Whether an agent may speak at all.
///
/// # Errors
/// One that is unknown, blocked or stopped.
pub fn admit<'a>(snapshot: &'a Snapshot, peer: &Peer) -> Result<&'a AgencyView, Denied> {
    let agency = snapshot.agency(&peer.agent.agency).ok_or(Denied::UnknownAgent)?;
    let agent = snapshot.agent(&peer.agent).ok_or(Denied::UnknownAgent)?;
    if let Some(reason) = &agent.blocked {
        return Err(Denied::Blocked { reason: reason.clone() });
    }
    stopped(snapshot, |selector| match selector {
        Selector::All => true,
        Selector::Agency(code) => *code == peer.agent.agency,
        Selector::Agent(agent) => *agent == peer.agent,
        Selector::Entry(_) | Selector::Grant(_) => false,
    })?;
    Ok(agency)
}

/// Whether an agent may push a version of an entry: its agency is the provider.
///
/// # Errors
/// [`Denied`].
pub fn push(snapshot: &Snapshot, peer: &Peer, entry: &str, _now: Now) -> Result<AllowedPush, Denied> {
    let agency = admit(snapshot, peer)?;
    let entry = snapshot.find_entry(entry).ok_or(Denied::EntryNotFound)?;
    if entry.provider != peer.agent.agency {
        // A published entry exists for everyone, another's draft does not.
        let exists = entry.published || agency.authority;
        return Err(if exists { Denied::NotProvider } else { Denied::EntryNotFound });
    }
    if !entry.published {
        return Err(Denied::NotPublished);
    }
    if entry.spec.sharing_class == SharingClass::NotShared {
        return Err(Denied::NotShared);
    }
    stopped(snapshot, |selector| *selector == Selector::Entry(entry.id))?;
    Ok(AllowedPush { entry: Arc::clone(entry) })
}

/// Whether a pull is within its grant, and exactly what may leave.
///
/// # Errors
/// [`Denied`].
pub fn pull(snapshot: &Snapshot, peer: &Peer, ask: &Ask, now: Now) -> Result<AllowedPull, Denied> {
    admit(snapshot, peer)?;
    let grant = find_grant(snapshot, peer, &ask.target, now)?;
    let entry = snapshot.entry(&grant.entry).ok_or(Denied::GrantNotFound)?;
    in_force(grant, now)?;
    stopped(snapshot, |s| *s == Selector::Grant(grant.id) || *s == Selector::Entry(grant.entry))?;
    if !entry.published {
        return Err(Denied::NotPublished);
    }
    let scope = &grant.scope;
    if !scope.allows_network(peer.address) {
        return Err(Denied::Network { seen: peer.address });
    }
    let method = match entry.spec.format {
        EntryFormat::Table => SharingMethod::BatchExchange,
        EntryFormat::File => SharingMethod::FileDownload,
    };
    if !scope.methods.contains(&method) {
        return Err(Denied::Method { asked: method });
    }
    let purpose = purpose(grant, ask.purpose.as_deref())?;
    let (columns, rows) = match entry.spec.format {
        EntryFormat::Table => (columns(grant, entry, &ask.columns)?, rows(grant, entry, ask)?),
        EntryFormat::File if !ask.columns.is_empty() || ask.rows.is_some() || ask.region.is_some() => {
            return Err(Denied::NoColumnsInFiles);
        }
        EntryFormat::File => (Vec::new(), None),
    };
    let ends_at = Some(scope.ends_at());
    Ok(AllowedPull { grant: Arc::clone(grant), entry: Arc::clone(entry), columns, rows, purpose, ends_at })
}

fn find_grant<'a>(
    snapshot: &'a Snapshot,
    peer: &Peer,
    target: &Target,
    now: Now,
) -> Result<&'a Arc<GrantView>, Denied> {
    let requester = &peer.agent.agency;
    let text = match target {
        Target::Grant(id) => return snapshot.grant(requester, id).ok_or(Denied::GrantNotFound),
        Target::Entry(text) => text,
    };
    let entry = snapshot.find_entry(text).filter(|e| e.published).ok_or(Denied::EntryNotFound)?;
    let mut of_entry: Vec<_> = snapshot.grants(requester).filter(|g| g.entry == entry.id).collect();
    // Where some are in force and others are not, the ones in force are meant.
    let usable: Vec<_> = of_entry.iter().filter(|g| in_force(g, now).is_ok()).copied().collect();
    if !usable.is_empty() {
        of_entry = usable;
    }
    match of_entry.as_slice() {
        [] => Err(Denied::NoGrant),
        [only] => Ok(only),
        several => {
            let mut grants: Vec<_> = several.iter().map(|g| g.id).collect();
            grants.sort_unstable();
            Err(Denied::SeveralGrants { grants })
        }
    }
}

fn in_force(grant: &GrantView, now: Now) -> Result<(), Denied> {
    match &grant.status {
        GrantStatus::InForce => {}
        GrantStatus::Suspended { reason, since } => {
            return Err(Denied::Suspended { grant: grant.id, reason: reason.clone(), since: *since });
        }
        GrantStatus::Terminated { reason, since } => {
            return Err(Denied::Terminated { grant: grant.id, reason: reason.clone(), since: *since });
        }
    }
    if now.wall < grant.scope.starts_at() {
        return Err(Denied::NotYet { from: grant.scope.from });
    }
    if now.wall >= grant.scope.ends_at() {
        return Err(Denied::PeriodEnded { until: grant.scope.until });
    }
    Ok(())
}

fn purpose(grant: &GrantView, asked: Option<&str>) -> Result<String, Denied> {
    match (asked, grant.scope.purposes.as_slice()) {
        (Some(asked), allowed) if allowed.iter().any(|p| p == asked) => Ok(asked.to_owned()),
        (Some(asked), allowed) => Err(Denied::Purpose { asked: asked.to_owned(), allowed: allowed.to_vec() }),
        (None, [only]) => Ok(only.clone()),
        (None, allowed) => Err(Denied::PurposeNeeded { allowed: allowed.to_vec() }),
    }
}

fn columns(grant: &GrantView, entry: &EntryView, asked: &[String]) -> Result<Vec<usize>, Denied> {
    let granted = &grant.scope.columns;
    let outside: Vec<String> = asked.iter().filter(|c| !granted.contains(c)).cloned().collect();
    if !outside.is_empty() {
        return Err(Denied::Columns { outside, granted: granted.clone() });
    }
    let wanted = if asked.is_empty() { granted } else { asked };
    let mut columns = Vec::with_capacity(wanted.len());
    for name in wanted {
        // A column that the entry no longer has is not made up.
        let (index, _) = entry.spec.item(name).ok_or_else(|| Denied::ColumnGone { column: name.clone() })?;
        if columns.contains(&index) {
            return Err(Denied::ColumnTwice { column: name.clone() });
        }
        columns.push(index);
    }
    Ok(columns)
}

/// The provider's condition may name any column; the requester's only such as it was granted, or the answers to its
/// questions would tell what it may not read.
fn rows(grant: &GrantView, entry: &EntryView, ask: &Ask) -> Result<Option<TypedPredicate>, Denied> {
    let granted = &grant.scope.columns;
    let mut rows = grant.scope.rows.clone();
    let mut narrow = |more: Predicate| rows = Some(rows.as_ref().map_or(more.clone(), |rows| rows.and(&more)));
    if let Some(asked) = &ask.rows {
        let outside = grant.scope.hidden_columns(asked);
        if !outside.is_empty() {
            return Err(Denied::PredicateColumns { outside });
        }
        narrow(asked.clone());
    }
    if let Some(region) = ask.region {
        let column = &entry.spec.region_item().ok_or(Denied::NoRegion)?.name;
        if !granted.contains(column) {
            return Err(Denied::PredicateColumns { outside: vec![column.clone()] });
        }
        narrow(Predicate::within(column, region));
    }
    let Some(rows) = rows else { return Ok(None) };
    rows.check(&entry.spec).map(Some).map_err(|e| Denied::BadPredicate { why: e.to_string() })
}

fn stopped(snapshot: &Snapshot, concerns: impl Fn(&Selector) -> bool) -> Result<(), Denied> {
    match snapshot.stops().iter().find(|stop| concerns(&stop.selector)) {
        None => Ok(()),
        Some(stop) => Err(Denied::Stopped { reason: stop.reason.clone(), since: stop.since }),
    }
}
