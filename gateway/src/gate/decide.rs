//! The decisions. Each is a pure function of the policy in force, the peer, what it asks and the time.
//!
//! What a peer may not see does not exist for it: another's grant is not found, whatever its state. Too much under one's
//! own grant is denied, with what was too much.

use super::grant::{Grant, GrantScope};
use super::health::Now;
use super::leash::Selector;
use super::snapshot::{AgencyView, EntryInForce, EntryView, GrantStatus, Snapshot};
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::entry::{EntryFormat, SharingClass, SharingMethod};
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::GrantId;
use lingqu_protocol::predicate::{Predicate, TypedPredicate};
use lingqu_protocol::region::RegionCode;
use lingqu_protocol::scope::Transform;
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

/// What a pull was allowed, as long as the policy is looked at: judging copies nothing of it.
#[derive(Clone, Debug)]
pub struct AllowedPull<'p> {
    /// Under which grant.
    pub grant: &'p Grant,
    /// Of which entry.
    pub entry: &'p Arc<EntryView>,
    /// What of it may leave, and for what.
    pub share: Share,
    /// When the permission ends.
    pub ends_at: Timestamp,
}

/// What may leave under a grant, as far as the request made it other than what is granted.
#[derive(Clone, Debug)]
pub struct Share {
    columns: Columns,
    rows: Rows,
    transforms: Vec<Option<Transform>>,
    purpose: Option<String>,
}

#[derive(Clone, Debug)]
enum Columns {
    /// All that are granted.
    Granted,
    /// Those that were asked for; none for files.
    Asked(Vec<usize>),
}

#[derive(Clone, Debug)]
enum Rows {
    /// All that are granted; all where the grant has no condition.
    Granted,
    /// All.
    All,
    /// Those that were asked for, among those that are granted.
    Asked(TypedPredicate),
}

impl Share {
    /// Indices of the columns that may leave, in the order asked for; none for files.
    pub(super) fn columns<'a>(&'a self, scope: &'a GrantScope) -> &'a [usize] {
        match &self.columns {
            Columns::Granted => scope.places(),
            Columns::Asked(places) => places,
        }
    }

    /// Which rows may leave; all where there is none.
    pub(super) fn rows<'a>(&'a self, scope: &'a GrantScope) -> Option<&'a TypedPredicate> {
        match &self.rows {
            Rows::Granted => scope.typed_rows(),
            Rows::All => None,
            Rows::Asked(typed) => Some(typed),
        }
    }

    /// What happens to the column at a place among [`columns`](Self::columns) before it leaves; `None` where it leaves in
    /// clear.
    pub(super) fn transform(&self, place: usize) -> Option<Transform> {
        self.transforms.get(place).copied().flatten()
    }

    /// For what.
    pub(super) fn purpose<'a>(&'a self, scope: &'a GrantScope) -> &'a str {
        self.purpose.as_deref().or(scope.terms().purposes.first().map(String::as_str)).unwrap_or("")
    }
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
    may_speak(snapshot, peer)?;
    snapshot.agency(&peer.agent.agency).ok_or(Denied::UnknownAgent)
}

/// [`admit`] without the agency: what every pull is judged by first.
pub(super) fn may_speak(snapshot: &Snapshot, peer: &Peer) -> Result<(), Denied> {
    // Who is an agent is an agent of an agency that the root named: the registry takes no other.
    let agent = snapshot.agent(&peer.agent).ok_or(Denied::UnknownAgent)?;
    if let Some(reason) = &agent.blocked {
        return Err(Denied::Blocked { reason: reason.clone() });
    }
    stopped(snapshot, |selector| match selector {
        Selector::All => true,
        Selector::Agency(code) => *code == peer.agent.agency,
        Selector::Agent(agent) => *agent == peer.agent,
        Selector::Entry(_) | Selector::Grant(_) | Selector::List(_) => false,
    })
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
pub fn pull<'p>(snapshot: &'p Snapshot, peer: &Peer, ask: &Ask, now: Now) -> Result<AllowedPull<'p>, Denied> {
    delivery(snapshot, peer, ask, now, Way::Whole)
}

/// Whether records may be asked for by their key (服务接口), and exactly what of them may leave. Whoever may not see a key
/// in clear may not ask by it.
///
/// # Errors
/// [`Denied`].
pub fn service<'p>(snapshot: &'p Snapshot, peer: &Peer, ask: &Ask, now: Now) -> Result<AllowedPull<'p>, Denied> {
    delivery(snapshot, peer, ask, now, Way::ByKey)
}

/// How data leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// All that is granted, or what a condition selects.
    Whole,
    /// The records of keys.
    ByKey,
}

fn delivery<'p>(snapshot: &'p Snapshot, peer: &Peer, ask: &Ask, now: Now, way: Way) -> Result<AllowedPull<'p>, Denied> {
    may_speak(snapshot, peer)?;
    let grant = find_grant(snapshot, peer, &ask.target, now)?;
    let entry = snapshot.entry_in_force(&grant.entry).ok_or(Denied::GrantNotFound)?;
    let ends_at = in_force(grant, now)?;
    stopped(snapshot, |s| *s == Selector::Grant(grant.id) || *s == Selector::Entry(grant.entry))?;
    if !entry.published {
        return Err(Denied::NotPublished);
    }
    let scope = &grant.scope;
    if !scope.allows_network(peer.address) {
        return Err(Denied::Network { seen: peer.address });
    }
    if !scope.allows_agent(&peer.agent.name) {
        return Err(Denied::Agent { asked: peer.agent.name.clone() });
    }
    let method = match (way, entry.format) {
        (Way::ByKey, _) => SharingMethod::ServiceInterface,
        (Way::Whole, EntryFormat::Table) => SharingMethod::BatchExchange,
        (Way::Whole, EntryFormat::File) => SharingMethod::FileDownload,
    };
    if !scope.allows_method(method) {
        return Err(Denied::Method { asked: method });
    }
    let purpose = purpose(grant, ask.purpose.as_deref())?;
    if way == Way::ByKey {
        keys_in_clear(scope, &entry.view)?;
    }
    let (columns, rows) = match entry.format {
        EntryFormat::Table => (columns(grant, entry, &ask.columns)?, rows(grant, entry, ask)?),
        EntryFormat::File if !ask.columns.is_empty() || ask.rows.is_some() || ask.region.is_some() => {
            return Err(Denied::NoColumnsInFiles);
        }
        EntryFormat::File => (files_whole(scope)?, Rows::All),
    };
    let mut share = Share { columns, rows, transforms: Vec::new(), purpose };
    if scope.transforms_any() {
        share.transforms = transforms(scope, &entry.view, share.columns(scope))?;
    }
    Ok(AllowedPull { grant, entry: &entry.view, share, ends_at })
}

/// Whoever may not see a key would learn it from the answers to its guesses.
fn keys_in_clear(scope: &GrantScope, entry: &EntryView) -> Result<(), Denied> {
    let keys = || entry.spec.items.iter().filter(|item| item.key);
    if keys().next().is_none() {
        return Err(Denied::NoKey);
    }
    let outside: Vec<String> =
        keys().filter(|key| !scope.terms().is_in_clear(&key.name)).map(|key| key.name.clone()).collect();
    if outside.is_empty() { Ok(()) } else { Err(Denied::PredicateColumns { outside }) }
}

fn find_grant<'a>(snapshot: &'a Snapshot, peer: &Peer, target: &Target, now: Now) -> Result<&'a Grant, Denied> {
    let requester = &peer.agent.agency;
    let text = match target {
        Target::Grant(id) => return snapshot.grant(requester, id).ok_or(Denied::GrantNotFound),
        Target::Entry(text) => text,
    };
    let entry = snapshot.find_entry(text).filter(|e| e.published).ok_or(Denied::EntryNotFound)?;
    let mut of_entry: Vec<_> = snapshot.grants_of(requester, entry.id).collect();
    // Where some are in force and others are not, the ones in force are meant.
    let usable: Vec<_> = of_entry.iter().filter(|g| in_force(g, now).is_ok()).copied().collect();
    if !usable.is_empty() {
        of_entry = usable;
    }
    match of_entry.as_slice() {
        [] => Err(Denied::NoGrant),
        [only] => Ok(only),
        several => {
            // In the order of their ids.
            Err(Denied::SeveralGrants { grants: several.iter().map(|g| g.id).collect() })
        }
    }
}

/// Until when a grant may be used, if now.
fn in_force(grant: &Grant, now: Now) -> Result<Timestamp, Denied> {
    match grant.status() {
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
    let ends_at = grant.scope.ends_at();
    if now.wall >= ends_at {
        return Err(Denied::PeriodEnded { until: grant.scope.until });
    }
    Ok(ends_at)
}

/// The purpose that was named; none where the grant's only one is meant.
fn purpose(grant: &Grant, asked: Option<&str>) -> Result<Option<String>, Denied> {
    let allowed = || &grant.scope.terms().purposes;
    match asked {
        Some(asked) if allowed().iter().any(|p| p == asked) => Ok(Some(asked.to_owned())),
        Some(asked) => Err(Denied::Purpose { asked: asked.to_owned(), allowed: allowed().clone() }),
        None if grant.scope.has_one_purpose() => Ok(None),
        None => Err(Denied::PurposeNeeded { allowed: allowed().clone() }),
    }
}

fn columns(grant: &Grant, entry: &EntryInForce, asked: &[String]) -> Result<Columns, Denied> {
    if asked.is_empty() && grant.scope.fits(entry) {
        return Ok(Columns::Granted);
    }
    let granted: Vec<&str> = grant.scope.terms().delivered().collect();
    let outside: Vec<String> = asked.iter().filter(|c| !granted.contains(&c.as_str())).cloned().collect();
    if !outside.is_empty() {
        return Err(Denied::Columns { outside, granted: granted.into_iter().map(str::to_owned).collect() });
    }
    let wanted = if asked.is_empty() { granted } else { asked.iter().map(String::as_str).collect() };
    let mut columns = Vec::with_capacity(wanted.len());
    for name in wanted {
        // A column that the entry no longer has is not made up.
        let (index, _) = entry.view.spec.item(name).ok_or_else(|| Denied::ColumnGone { column: name.to_owned() })?;
        if columns.contains(&index) {
            return Err(Denied::ColumnTwice { column: name.to_owned() });
        }
        columns.push(index);
    }
    Ok(Columns::Asked(columns))
}

/// What happens to the columns that leave. The entry may have given one another type since the grant was made: a value
/// that cannot be treated as the grant says does not leave at all.
fn transforms(scope: &GrantScope, entry: &EntryView, columns: &[usize]) -> Result<Vec<Option<Transform>>, Denied> {
    let items = columns.iter().filter_map(|place| entry.spec.items.get(*place));
    let judged = items.map(|item| match scope.terms().transforms.of(&item.name) {
        Some(transform) if !transform.fits(item.item_type) => {
            Err(Denied::TransformUnfit { column: item.name.clone(), transform, item_type: item.item_type })
        }
        transform => Ok(transform),
    });
    judged.collect()
}

/// Files leave whole: a grant of some columns or rows of what was a table, and became an entry of files, gives nothing.
fn files_whole(scope: &GrantScope) -> Result<Columns, Denied> {
    let column = scope.terms().columns.first().cloned();
    match column.or(scope.limits_rows().then(|| "where".to_owned())) {
        None => Ok(Columns::Asked(Vec::new())),
        Some(column) => Err(Denied::ColumnGone { column }),
    }
}

/// The provider's condition may name any column; the requester's only such as it was granted, or the answers to its
/// questions would tell what it may not read.
fn rows(grant: &Grant, entry: &EntryInForce, ask: &Ask) -> Result<Rows, Denied> {
    let scope = &grant.scope;
    if ask.rows.is_none() && ask.region.is_none() && (!scope.limits_rows() || scope.fits(entry)) {
        return Ok(Rows::Granted);
    }
    let spec = &entry.view.spec;
    let gone = |_| Denied::ColumnGone { column: "region_column".to_owned() };
    let mut rows = scope.rows_of(spec).map_err(gone)?;
    let mut narrow = |more: Predicate| rows = Some(rows.as_ref().map_or(more.clone(), |rows| rows.and(&more)));
    if let Some(asked) = &ask.rows {
        let outside = scope.terms().hidden_columns(asked);
        if !outside.is_empty() {
            return Err(Denied::PredicateColumns { outside });
        }
        narrow(asked.clone());
    }
    if let Some(region) = ask.region {
        let column = &spec.region_item().ok_or(Denied::NoRegion)?.name;
        if !scope.terms().is_in_clear(column) {
            return Err(Denied::PredicateColumns { outside: vec![column.clone()] });
        }
        narrow(Predicate::within(column, region));
    }
    let Some(rows) = rows else { return Ok(Rows::All) };
    rows.check(spec).map(Rows::Asked).map_err(|e| Denied::BadPredicate { why: e.to_string() })
}

pub(super) fn stopped(snapshot: &Snapshot, concerns: impl Fn(&Selector) -> bool) -> Result<(), Denied> {
    match snapshot.stops().iter().find(|stop| concerns(&stop.selector)) {
        None => Ok(()),
        Some(stop) => Err(Denied::Stopped { reason: stop.reason.clone(), since: stop.since }),
    }
}
