//! Grants as the gate keeps them: a million of them. What every request is judged by stands in the grant itself, a few
//! lines of a cache side by side: a plain request reads no other memory of it. What many have in common is held once,
//! elsewhere: columns with their terms, conditions on rows, lists of networks. What follows from those for an entry as it
//! stands (places of columns, the typed condition) is computed when the grant is kept, and per request where the entry
//! changed since.

use super::quota::Limits;
use super::snapshot::{Edition, EntryInForce, EntryView, GrantStatus, GrantView};
use super::table::Keyed;
use chrono::NaiveDate;
use ipnet::{IpNet, Ipv4Net};
use lingqu_protocol::agency::{AgentName, CreditCode};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::{EntrySpec, SharingMethod};
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{EntryId, GrantId};
use lingqu_protocol::predicate::{Predicate, TypedPredicate};
use lingqu_protocol::region::RegionCode;
use lingqu_protocol::scope::{Scope, ScopeError};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

/// Parts that may be forgotten before they are looked for: a round over all of them is nothing beside making so many.
const SWEEP_AT_LEAST: usize = 4_096;

/// A grant in force or not. Cloning it copies no text.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// What it grants.
    pub entry: EntryId,
    /// To whom.
    pub requester: CreditCode,
    /// How far.
    pub scope: GrantScope,
    /// Digest of the signed answer that it follows from; another digest is another scope.
    pub digest: Digest,
}

impl Grant {
    /// Whether it may be used.
    pub fn status(&self) -> &GrantStatus {
        self.scope.seldom.as_ref().map_or(&GrantStatus::InForce, |seldom| &seldom.status)
    }
}

impl Keyed for Grant {
    type Key = GrantId;
    fn key(&self) -> &GrantId {
        &self.id
    }
}

/// A grant's scope. What every request asks stands here; the rest it shares with others that have it in common.
#[derive(Clone, Debug)]
pub struct GrantScope {
    shape: Arc<Shape>,
    rows: Option<Arc<Rows>>,
    /// None where the grant is in force and its only network stands here: nearly always.
    seldom: Option<Arc<Seldom>>,
    /// The first day.
    pub from: NaiveDate,
    /// The last day, included.
    pub until: NaiveDate,
    /// Zero where there is no bound.
    volume_bytes_max: u64,
    /// The edition of the entry's terms by which places and types were computed; none where they could not be.
    computed_for: Option<Edition>,
    /// A network that calls may come from, nearly always the only one.
    network: Option<Ipv4Net>,
    methods: u8,
    marks: Marks,
}

/// What is so for a grant, a bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Marks(u8);

impl Marks {
    /// Some agents of the requester may use it, and others not.
    const LISTS_AGENTS: u8 = 1;
    /// Some column does not leave in clear.
    const TRANSFORMS: u8 = 2;
    /// It is for one purpose.
    const ONE_PURPOSE: u8 = 4;
    /// It bounds the bytes that may pass.
    const VOLUME: u8 = 8;

    fn of<const N: usize>(marks: [(u8, bool); N]) -> Self {
        Self(marks.into_iter().fold(0, |bits, (mark, is_so)| if is_so { bits | mark } else { bits }))
    }

    fn has(self, mark: u8) -> bool {
        self.0 & mark != 0
    }
}

impl GrantScope {
    /// All of it, put together again: for what is rare, not for every request.
    pub fn whole(&self) -> Scope {
        Scope {
            rows: self.rows.as_ref().and_then(|rows| rows.predicate.clone()),
            regions: self.rows.as_ref().map(|rows| rows.regions.clone()).unwrap_or_default(),
            networks: match &self.seldom {
                Some(seldom) => seldom.networks.clone(),
                None => self.network.map(IpNet::V4).into_iter().collect(),
            },
            from: self.from,
            until: self.until,
            volume_bytes_max: self.volume_bytes_max(),
            ..self.shape.terms.clone()
        }
    }

    /// What does not depend on the grant alone: columns, purposes, methods and what else a scope says. Its rows, regions,
    /// networks, period and volume are blank; those are asked of the grant's scope itself.
    pub fn terms(&self) -> &Scope {
        &self.shape.terms
    }

    /// Bytes that may pass in all; no bound where none is given.
    pub fn volume_bytes_max(&self) -> Option<u64> {
        self.marks.has(Marks::VOLUME).then_some(self.volume_bytes_max)
    }

    /// Whether it gives some rows and not others.
    pub(super) fn limits_rows(&self) -> bool {
        self.rows.is_some()
    }

    /// Which rows of an entry it gives.
    ///
    /// # Errors
    /// It lists regions and the entry has no region column any more.
    pub(super) fn rows_of(&self, spec: &EntrySpec) -> Result<Option<Predicate>, ScopeError> {
        self.rows.as_ref().map_or(Ok(None), |rows| rows.of(spec))
    }

    /// Whether this agent of the requester may use it.
    pub(super) fn allows_agent(&self, agent: &AgentName) -> bool {
        !self.marks.has(Marks::LISTS_AGENTS) || self.shape.terms.allows_agent(agent)
    }

    /// Whether some column does not leave in clear.
    pub(super) fn transforms_any(&self) -> bool {
        self.marks.has(Marks::TRANSFORMS)
    }

    /// What may be used up under it.
    pub fn limits(&self) -> Limits {
        Limits { volume_bytes_max: self.volume_bytes_max(), ..Limits::of(&self.shape.terms) }
    }

    /// The first instant of the period.
    pub fn starts_at(&self) -> Timestamp {
        Scope::first_instant(self.from)
    }

    /// The first instant after the period.
    pub fn ends_at(&self) -> Timestamp {
        Scope::instant_after(self.until)
    }

    /// Whether a call may come from `address`. An IPv4 address written in IPv6 counts as IPv4.
    pub fn allows_network(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if self.network.is_some_and(|network| IpNet::V4(network).contains(&address)) {
            return true;
        }
        match self.seldom.as_deref() {
            Some(Seldom { networks, .. }) => networks.is_empty() || networks.iter().any(|net| net.contains(&address)),
            None => self.network.is_none(),
        }
    }

    /// Whether it may be used in this way.
    pub(super) fn allows_method(&self, method: SharingMethod) -> bool {
        self.methods & bit(method) != 0
    }

    /// Whether the entry's terms are those by which [`places`](Self::places) and [`typed_rows`](Self::typed_rows) were
    /// computed; where they are not, the entry changed since, and both are computed per request.
    pub(super) fn fits(&self, entry: &EntryInForce) -> bool {
        self.computed_for.is_some() && self.computed_for == entry.edition
    }

    /// Places of all columns that are granted; they hold where it [`fits`](Self::fits).
    pub(super) fn places(&self) -> &[usize] {
        self.shape.places.as_deref().unwrap_or_default()
    }

    /// The condition on rows, where there is one; it holds where the scope [`fits`](Self::fits).
    pub(super) fn typed_rows(&self) -> Option<&TypedPredicate> {
        self.rows.as_ref()?.typed.as_ref()
    }

    /// Whether it is for one purpose alone.
    pub(super) fn has_one_purpose(&self) -> bool {
        self.marks.has(Marks::ONE_PURPOSE)
    }
}

/// What does not stand in a scope: a grant that is not in force, or several networks, or one of IPv6.
#[derive(Debug, PartialEq, Eq)]
struct Seldom {
    status: GrantStatus,
    /// All of them.
    networks: Vec<IpNet>,
}

/// What grants of one entry have in common.
#[derive(Debug)]
struct Shape {
    entry: EntryId,
    edition: Option<Edition>,
    terms: Scope,
    /// None where a column is gone or named twice: whoever asks then hears which.
    places: Option<Box<[usize]>>,
}

fn bit(method: SharingMethod) -> u8 {
    1 << method as u8
}

fn places_in(terms: &Scope, spec: &EntrySpec) -> Option<Box<[usize]>> {
    let mut places = Vec::with_capacity(terms.columns.len());
    for name in terms.delivered() {
        let (place, _) = spec.item(name)?;
        if places.contains(&place) {
            return None;
        }
        places.push(place);
    }
    Some(places.into())
}

/// A condition on the rows of one entry.
#[derive(Debug)]
struct Rows {
    entry: EntryId,
    edition: Option<Edition>,
    predicate: Option<Predicate>,
    regions: Vec<RegionCode>,
    /// None where the entry has no such column, or one of another type: whoever asks then hears which.
    typed: Option<TypedPredicate>,
}

impl Rows {
    fn of(&self, spec: &EntrySpec) -> Result<Option<Predicate>, ScopeError> {
        Scope::rows_within(self.predicate.as_ref(), &self.regions, spec)
    }

    fn typed_by(self, entry: Option<&EntryView>) -> Self {
        let typed = entry.and_then(|entry| self.of(&entry.spec).ok().flatten()?.check(&entry.spec).ok());
        Self { typed, ..self }
    }
}

/// Finds equal parts, so that each is held once.
#[derive(Debug, Default)]
pub(super) struct Parts {
    shapes: Interned<Shape>,
    rows: Interned<Rows>,
    seldom: Interned<Seldom>,
    editions: u64,
    hasher: foldhash::fast::RandomState,
}

impl Parts {
    /// The grant as it is kept, beside its entry as that now stands.
    pub(super) fn keep(&mut self, view: &GrantView, entry: Option<&EntryInForce>) -> Grant {
        let scope = view.scope.as_ref();
        let (shape, rows) = (self.shape(view, entry), self.rows(view, entry));
        let is_whole = shape.places.is_some() && rows.as_ref().is_none_or(|rows| rows.typed.is_some());
        let seldom = self.seldom(&view.status, &scope.networks);
        let scope = GrantScope {
            shape,
            rows,
            seldom,
            from: scope.from,
            until: scope.until,
            volume_bytes_max: scope.volume_bytes_max.unwrap_or_default(),
            computed_for: entry.filter(|_| is_whole).and_then(|entry| entry.edition),
            network: scope.networks.iter().find_map(|network| match network {
                IpNet::V4(network) => Some(*network),
                IpNet::V6(_) => None,
            }),
            methods: scope.methods.iter().fold(0, |bits, method| bits | bit(*method)),
            marks: Marks::of([
                (Marks::LISTS_AGENTS, !scope.agents.is_empty()),
                (Marks::TRANSFORMS, !scope.transforms.is_empty()),
                (Marks::ONE_PURPOSE, scope.purposes.len() == 1),
                (Marks::VOLUME, scope.volume_bytes_max.is_some()),
            ]),
        };
        Grant { id: view.id, entry: view.entry, requester: view.requester, scope, digest: view.digest }
    }

    /// The next edition of some entry's terms. It is counted here, beside what is computed for editions and found again by
    /// them, so that none is given twice.
    pub(super) fn next_edition(&mut self) -> Option<Edition> {
        self.editions += 1;
        Edition::new(self.editions)
    }

    /// None where all there is to say stands in the scope itself.
    fn seldom(&mut self, status: &GrantStatus, networks: &[IpNet]) -> Option<Arc<Seldom>> {
        let state = match (status, networks) {
            (GrantStatus::InForce, [] | [IpNet::V4(_)]) => return None,
            (GrantStatus::InForce, _) => (0, "", Timestamp(0)),
            (GrantStatus::Suspended { reason, since }, _) => (1, reason.as_str(), *since),
            (GrantStatus::Terminated { reason, since }, _) => (2, reason.as_str(), *since),
        };
        let hash = self.hasher.hash_one((state.0, state.1, state.2.0, networks));
        let is_it = |known: &Seldom| known.status == *status && known.networks == networks;
        Some(self.seldom.find(hash, is_it, || Seldom { status: status.clone(), networks: networks.to_vec() }))
    }

    fn shape(&mut self, view: &GrantView, entry: Option<&EntryInForce>) -> Arc<Shape> {
        let edition = entry.and_then(|entry| entry.edition);
        let blank = Scope {
            rows: None,
            regions: Vec::new(),
            networks: Vec::new(),
            from: NaiveDate::MIN,
            until: NaiveDate::MAX,
            volume_bytes_max: None,
            ..view.scope.as_ref().clone()
        };
        self.shapes.find(
            self.hasher.hash_one((
                (view.entry, edition, &blank.columns, &blank.purposes, &blank.agents),
                (blank.rate_bytes_per_second_max, blank.requests_per_day_max),
            )),
            |shape| (shape.entry, shape.edition, &shape.terms) == (view.entry, edition, &blank),
            || Shape {
                entry: view.entry,
                edition,
                places: entry.and_then(|entry| places_in(&blank, &entry.view.spec)),
                terms: blank.clone(),
            },
        )
    }

    fn rows(&mut self, view: &GrantView, entry: Option<&EntryInForce>) -> Option<Arc<Rows>> {
        let Scope { rows: predicate, regions, .. } = view.scope.as_ref();
        if predicate.is_none() && regions.is_empty() {
            return None;
        }
        let edition = entry.and_then(|entry| entry.edition);
        let hash = self.hash_of((view.entry, edition), predicate.as_ref(), regions);
        let is_it = |rows: &Rows| {
            (rows.entry, rows.edition, &rows.predicate, &rows.regions) == (view.entry, edition, predicate, regions)
        };
        let make = || {
            let (predicate, regions) = (predicate.clone(), regions.clone());
            let untyped = Rows { entry: view.entry, edition, predicate, regions, typed: None };
            untyped.typed_by(entry.map(|entry| entry.view.as_ref()))
        };
        Some(self.rows.find(hash, is_it, make))
    }

    fn hash_of(&self, entry: (EntryId, Option<Edition>), predicate: Option<&Predicate>, regions: &[RegionCode]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        (entry, regions).hash(&mut hasher);
        // A condition has one text.
        predicate.map(ToString::to_string).hash(&mut hasher);
        hasher.finish()
    }
}

/// Parts by their hash.
#[derive(Debug)]
struct Interned<T> {
    by_hash: HashMap<u64, Vec<Arc<T>>, foldhash::fast::RandomState>,
    swept_at: usize,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self { by_hash: HashMap::default(), swept_at: SWEEP_AT_LEAST }
    }
}

impl<T> Interned<T> {
    fn find(&mut self, hash: u64, is_it: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> Arc<T> {
        if self.by_hash.len() >= self.swept_at {
            // What no grant has any more.
            self.by_hash.retain(|_, parts| {
                parts.retain(|part| Arc::strong_count(part) > 1);
                !parts.is_empty()
            });
            self.swept_at = SWEEP_AT_LEAST.max(self.by_hash.len() * 2);
        }
        let same = self.by_hash.entry(hash).or_default();
        if let Some(found) = same.iter().find(|part| is_it(part)) {
            return Arc::clone(found);
        }
        let made = Arc::new(make());
        same.push(Arc::clone(&made));
        made
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
