//! Backflow at the gate: who stands on a published list in force gets exactly the rows of its own region. There is no
//! application to look at and no condition; a stop and a revocation end it as everything else.

use super::decide::{Denied, Peer, may_speak, stopped};
use super::health::Now;
use super::leash::{Cut, Leash, Selector, Tags};
use super::permit::Permit;
use super::snapshot::{BackflowView, EntryView, Snapshot};
use super::{ClosedWhy, Gate};
use lingqu_protocol::backflow::{RegionSlice, slice_digest};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::{EntryFormat, SharingClass};
use lingqu_protocol::ids::ListId;
use lingqu_protocol::scope::day;
use std::sync::Arc;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowAsk {
    /// An entry's id or code.
    pub entry: String,
    /// Of the columns that the list gives; none named means all.
    pub columns: Vec<String>,
}

/// What was allowed.
#[derive(Clone, Debug)]
pub struct AllowedFollow {
    /// Under which published list.
    pub list: ListId,
    /// Of which entry.
    pub entry: Arc<EntryView>,
    /// Indices of the columns that may leave, in the entry's order.
    pub columns: Vec<usize>,
    /// The rows that may leave.
    pub region: RegionSlice,
}

impl AllowedFollow {
    /// The names of the columns.
    pub fn names(&self) -> Vec<&str> {
        self.columns.iter().filter_map(|at| self.entry.spec.items.get(*at)).map(|item| item.name.as_str()).collect()
    }

    /// What a cursor is bound to.
    pub fn slice(&self) -> Digest {
        slice_digest(&[self.region.own()], &self.region.changes(), &self.names(), self.is_all())
    }

    /// Whether these are all the columns that the entry has.
    fn is_all(&self) -> bool {
        self.columns.len() == self.entry.spec.items.len()
    }

    /// Whether a cursor of this slice goes on: the same rows, and the same columns, or all that there were before the entry
    /// gained others behind them. Columns that were not given before need the state.
    pub fn goes_on_from(&self, slice: &Digest) -> bool {
        let (own, changes, names) = (self.region.own(), self.region.changes(), self.names());
        let is = |columns: &[&str]| slice_digest(&[own], &changes, columns, self.is_all()) == *slice;
        is(&names) || self.is_all() && (1..names.len()).rev().any(|count| names.get(..count).is_some_and(is))
    }
}

/// Whether an agency gets an entry's rows of its own region.
///
/// # Errors
/// [`Denied`].
pub fn decide(snapshot: &Snapshot, peer: &Peer, ask: &FollowAsk, now: Now) -> Result<AllowedFollow, Denied> {
    may_speak(snapshot, peer)?;
    let agency = snapshot.agency(&peer.agent.agency).ok_or(Denied::UnknownAgent)?;
    let entry = snapshot.find_entry(&ask.entry).filter(|entry| entry.published).ok_or(Denied::EntryNotFound)?;
    let gives = |list: &BackflowView| {
        list.rows.iter().any(|(row, of)| *of == entry.id && row.to.include(agency.code, &agency.duties, agency.level))
    };
    // The latest that names this department for this entry counts.
    let mut named = snapshot.lists().rev().filter(|list| gives(list));
    let list = match (named.clone().find(|list| list.revoked.is_none()), named.next()) {
        (Some(list), _) => list,
        (None, Some(BackflowView { list, revoked: Some((since, reason)), .. })) => {
            return Err(Denied::ListRevoked { list: *list, reason: reason.clone(), since: *since });
        }
        (None, _) => return Err(Denied::NoEntitlement),
    };
    stopped(snapshot, |s| *s == Selector::List(list.list) || *s == Selector::Entry(entry.id))?;
    if entry.spec.sharing_class == SharingClass::NotShared {
        return Err(Denied::NotShared);
    }
    if entry.spec.format != EntryFormat::Table || entry.spec.region_column.is_none() {
        return Err(Denied::NoRegion);
    }
    let columns = columns(list, entry, ask, |row| row.to.include(agency.code, &agency.duties, agency.level))?;
    let region = RegionSlice::new(agency.region, &list.region_changes, day(now.wall));
    Ok(AllowedFollow { list: list.list, entry: Arc::clone(entry), columns, region })
}

/// The columns that all rows of the list for this department give together, of those the ones that were asked for.
fn columns(
    list: &BackflowView,
    entry: &EntryView,
    ask: &FollowAsk,
    is_theirs: impl Fn(&lingqu_protocol::backflow::Row) -> bool,
) -> Result<Vec<usize>, Denied> {
    let rows: Vec<_> = list.rows.iter().filter(|(row, of)| *of == entry.id && is_theirs(row)).collect();
    let gives = |name: &str| {
        rows.iter().any(|(row, _)| row.items.as_ref().is_none_or(|items| items.iter().any(|item| item == name)))
    };
    let given = entry.spec.items.iter().enumerate().filter(|(_, item)| gives(&item.name));
    let given: Vec<(usize, &str)> = given.map(|(at, item)| (at, item.name.as_str())).collect();
    let outside: Vec<String> =
        ask.columns.iter().filter(|name| !given.iter().any(|(_, has)| has == name)).cloned().collect();
    if !outside.is_empty() {
        return Err(Denied::Columns { outside, granted: given.iter().map(|(_, name)| (*name).to_owned()).collect() });
    }
    let wanted = given.iter().filter(|(_, name)| ask.columns.is_empty() || ask.columns.iter().any(|c| c == name));
    let wanted: Vec<usize> = wanted.map(|(at, _)| *at).collect();
    match wanted.is_empty() {
        true => Err(Denied::ColumnGone { column: "items".to_owned() }),
        false => Ok(wanted),
    }
}

fn tags(peer: &Peer, allowed: &AllowedFollow, standing: bool) -> Tags {
    Tags { grant: None, list: Some(allowed.list), agent: peer.agent.clone(), entry: allowed.entry.id, standing }
}

/// An agency's own rows of an entry may leave, version after version, as long as this is renewed.
pub struct FollowPermit {
    allowed: AllowedFollow,
    slice: Digest,
    leash: Leash,
    gate: Arc<Gate>,
    peer: Peer,
    ask: FollowAsk,
}

impl Gate {
    /// Judges a subscription.
    ///
    /// # Errors
    /// [`Denied`], with what the peer may know of the reason.
    pub fn follow(self: &Arc<Self>, peer: &Peer, ask: FollowAsk) -> Result<FollowPermit, Denied> {
        let allowed = decide(&self.snapshot(), peer, &ask, self.judging()?)?;
        let leash = self.leashes.attach(tags(peer, &allowed, true), None, self.clock.monotonic());
        // As for a pull: every narrowing finds the leash or is seen here.
        let allowed = decide(&self.snapshot(), peer, &ask, self.judging()?)?;
        let slice = allowed.slice();
        Ok(FollowPermit { allowed, slice, leash, gate: Arc::clone(self), peer: peer.clone(), ask })
    }
}

impl FollowPermit {
    /// What was allowed.
    pub const fn allowed(&self) -> &AllowedFollow {
        &self.allowed
    }

    /// What a cursor is bound to.
    pub const fn slice(&self) -> Digest {
        self.slice
    }

    /// Judges the subscription anew: before each version, and while it waits.
    ///
    /// # Errors
    /// [`Denied`]; [`Denied::StartAnew`] where other rows or columns are meant now, so that what was sent so far is another
    /// slice.
    pub fn renew(&mut self) -> Result<(), Denied> {
        let now = self.gate.judging()?;
        let allowed = decide(&self.gate.snapshot(), &self.peer, &self.ask, now)?;
        if !allowed.goes_on_from(&self.slice) {
            return Err(Denied::StartAnew { why: "the regions or columns that are meant are others now" });
        }
        if allowed.list != self.allowed.list {
            // The leash hangs on the list that was: whoever asks again hangs on the one that is.
            return Err(Denied::Closed(ClosedWhy::Draining));
        }
        self.slice = allowed.slice();
        self.allowed = allowed;
        Ok(())
    }

    /// A leash for one slice, which is cut with the subscription's own.
    ///
    /// # Errors
    /// The subscription was cut.
    pub fn lane(&self) -> Result<Leash, Cut> {
        let leash = self.gate.leashes.attach(self.tags(false), None, self.gate.clock.monotonic());
        // What is cut from here on finds both.
        self.leash.check()?;
        Ok(leash)
    }

    fn tags(&self, standing: bool) -> Tags {
        tags(&self.peer, &self.allowed, standing)
    }

    /// Waits until the gateway drains: nothing new begins then.
    pub async fn drained(&self) {
        self.gate.drained().await;
    }
}

impl Permit for FollowPermit {
    fn leash(&self) -> &Leash {
        &self.leash
    }
    fn entry(&self) -> &Arc<EntryView> {
        &self.allowed.entry
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
