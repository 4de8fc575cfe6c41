//! Grants as the gate keeps them: a million of them, each in two lines of a cache. What many have in common is held once:
//! columns with their terms, conditions on rows, the networks of a requester. What follows from it for an entry as it
//! stands (places of columns, the typed condition) is computed once, and again where the entry changed since.

use super::quota::Limits;
use super::snapshot::{EntryView, GrantStatus, GrantView};
use super::table::Keyed;
use chrono::NaiveDate;
use ipnet::IpNet;
use lingqu_protocol::agency::{AgentName, CreditCode};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::{EntryFormat, EntrySpec, SharingMethod};
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{EntryId, GrantId};
use lingqu_protocol::predicate::{Predicate, TypedPredicate};
use lingqu_protocol::region::RegionCode;
use lingqu_protocol::scope::{Scope, ScopeError};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// Parts that may be forgotten before they are looked for: a round over all of them is nothing beside making so many.
const SWEEP_AT_LEAST: usize = 4_096;

/// A grant in force or not. Cloning it copies no text.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// How far.
    pub scope: GrantScope,
    /// Digest of the signed answer that it follows from; another digest is another scope.
    pub digest: Digest,
    /// None where it is in force: nearly always.
    status: Option<Arc<GrantStatus>>,
}

impl Grant {
    /// What it grants.
    pub fn entry(&self) -> EntryId {
        self.scope.shape.entry
    }

    /// To whom.
    pub fn requester(&self) -> CreditCode {
        self.scope.party.requester
    }

    /// Whether it may be used.
    pub fn status(&self) -> &GrantStatus {
        self.status.as_deref().unwrap_or(&GrantStatus::InForce)
    }
}

impl Keyed for Grant {
    type Key = GrantId;
    fn key(&self) -> &GrantId {
        &self.id
    }
}

/// A grant's scope. What is its own stands here; the rest it shares with others.
#[derive(Clone, Debug)]
pub struct GrantScope {
    shape: Arc<Shape>,
    party: Arc<Party>,
    rows: Option<Arc<Rows>>,
    /// The first day.
    pub from: NaiveDate,
    /// The last day, included.
    pub until: NaiveDate,
    /// Bytes that may pass in all; no bound where none is given.
    pub volume_bytes_max: Option<u64>,
}

impl GrantScope {
    /// All of it, put together again: for what is rare, not for every request.
    pub fn whole(&self) -> Scope {
        Scope {
            rows: self.rows.as_ref().and_then(|rows| rows.predicate.clone()),
            regions: self.rows.as_ref().map(|rows| rows.regions.clone()).unwrap_or_default(),
            networks: self.party.networks().copied().collect(),
            from: self.from,
            until: self.until,
            volume_bytes_max: self.volume_bytes_max,
            ..self.shape.terms.clone()
        }
    }

    /// What does not depend on the grant alone: columns, purposes, methods and what else a scope says. Its rows, regions,
    /// networks, period and volume are blank; those are asked of the grant's scope itself.
    pub fn terms(&self) -> &Scope {
        &self.shape.terms
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
        !self.shape.lists_agents || self.shape.terms.allows_agent(agent)
    }

    /// Whether some column does not leave in clear.
    pub(super) fn transforms_any(&self) -> bool {
        self.shape.transforms_any
    }

    /// What may be used up under it.
    pub fn limits(&self) -> Limits {
        Limits { volume_bytes_max: self.volume_bytes_max, ..self.shape.limits }
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
        self.party.first.is_none() || self.party.networks().any(|net| net.contains(&address))
    }

    /// Whether it may be used in this way.
    pub(super) fn allows_method(&self, method: SharingMethod) -> bool {
        self.shape.methods & bit(method) != 0
    }

    /// Whether the entry is one of files, as it now stands.
    pub(super) fn format(&self, entry: &EntryView) -> EntryFormat {
        let known = self.known(entry);
        // What is in force of the entry lies elsewhere in memory: it is read only where it changed.
        if Arc::ptr_eq(&known.0, &entry.spec) { known.1 } else { entry.spec.format }
    }

    /// Places of all columns that are granted, where the entry still has them.
    pub(super) fn places<'a>(&'a self, entry: &EntryView) -> Option<&'a [usize]> {
        let known = self.known(entry);
        if Arc::ptr_eq(&known.0, &entry.spec) { known.2.as_deref() } else { None }
    }

    fn known(&self, entry: &EntryView) -> &Known {
        let of = |spec: &Arc<EntrySpec>| (Arc::clone(spec), spec.format, self.shape.places_in(spec));
        self.shape.known.get_or_init(|| of(&entry.spec))
    }

    /// The condition on rows as the entry types it; `None` where there is none, or where the entry changed since.
    pub(super) fn typed_rows(&self, entry: &EntryView) -> Option<TypedRows> {
        let rows = self.rows.as_ref()?;
        let known = rows.typed.get_or_init(|| (Arc::clone(&entry.spec), rows.typed_as(&entry.spec)));
        let holds = Arc::ptr_eq(&known.0, &entry.spec) && known.1.is_some();
        holds.then(|| TypedRows::Shared(Arc::clone(rows)))
    }

    /// The one purpose that it is for, where there is just one.
    pub(super) fn only_purpose(&self) -> Option<SharedText> {
        matches!(self.shape.terms.purposes.as_slice(), [_]).then(|| SharedText(Arc::clone(&self.shape)))
    }

    /// The terms, to be held as long as an answer is.
    pub(super) fn hold_places(&self) -> SharedPlaces {
        SharedPlaces(Arc::clone(&self.shape))
    }
}

/// What grants of one entry have in common.
#[derive(Debug)]
struct Shape {
    entry: EntryId,
    terms: Scope,
    /// A bit for each.
    methods: u8,
    /// What most grants have nothing of stands as one bit where it is read: the terms lie elsewhere in memory.
    lists_agents: bool,
    transforms_any: bool,
    limits: Limits,
    known: OnceLock<Known>,
}

/// An entry as it stood when it was first asked for, its format, and the places of all columns where they could be found.
type Known = (Arc<EntrySpec>, EntryFormat, Option<Box<[usize]>>);

fn bit(method: SharingMethod) -> u8 {
    1 << method as u8
}

impl Shape {
    /// `None` where a column is gone or named twice: whoever asks then hears which.
    fn places_in(&self, spec: &EntrySpec) -> Option<Box<[usize]>> {
        let mut places = Vec::with_capacity(self.terms.columns.len());
        for name in self.terms.delivered() {
            let (place, _) = spec.item(name)?;
            if places.contains(&place) {
                return None;
            }
            places.push(place);
        }
        Some(places.into())
    }
}

/// Who calls, and from where.
#[derive(Debug)]
struct Party {
    requester: CreditCode,
    /// The first, or only, network stands here: one line of memory is read, not two. None where any will do.
    first: Option<IpNet>,
    more: Vec<IpNet>,
}

impl Party {
    fn networks(&self) -> impl Iterator<Item = &IpNet> {
        self.first.iter().chain(&self.more)
    }
}

/// A condition on the rows of one entry.
#[derive(Debug)]
pub(super) struct Rows {
    entry: EntryId,
    predicate: Option<Predicate>,
    regions: Vec<RegionCode>,
    typed: OnceLock<(Arc<EntrySpec>, Option<TypedPredicate>)>,
}

impl Rows {
    fn of(&self, spec: &EntrySpec) -> Result<Option<Predicate>, ScopeError> {
        Scope::rows_within(self.predicate.as_ref(), &self.regions, spec)
    }

    fn typed_as(&self, spec: &EntrySpec) -> Option<TypedPredicate> {
        self.of(spec).ok().flatten()?.check(spec).ok()
    }
}

/// A typed condition: the grant's own, or one that was made for a request.
#[derive(Clone, Debug)]
pub(super) enum TypedRows {
    Shared(Arc<Rows>),
    Made(TypedPredicate),
}

impl TypedRows {
    pub(super) fn get(&self) -> Option<&TypedPredicate> {
        match self {
            Self::Shared(rows) => rows.typed.get().and_then(|(_, typed)| typed.as_ref()),
            Self::Made(typed) => Some(typed),
        }
    }
}

/// All granted columns' places.
#[derive(Clone, Debug)]
pub(super) struct SharedPlaces(Arc<Shape>);

impl SharedPlaces {
    pub(super) fn get(&self) -> &[usize] {
        self.0.known.get().and_then(|(_, _, places)| places.as_deref()).unwrap_or_default()
    }
}

/// The only purpose of a grant.
#[derive(Clone, Debug)]
pub(super) struct SharedText(Arc<Shape>);

impl SharedText {
    pub(super) fn get(&self) -> &str {
        self.0.terms.purposes.first().map_or("", String::as_str)
    }
}

/// Finds equal parts, so that each is held once.
#[derive(Debug, Default)]
pub(super) struct Parts {
    shapes: Interned<Shape>,
    parties: Interned<Party>,
    rows: Interned<Rows>,
    hasher: foldhash::fast::RandomState,
}

impl Parts {
    /// The grant as it is kept.
    pub(super) fn keep(&mut self, view: &GrantView) -> Grant {
        let scope = view.scope.as_ref();
        let blank = Scope {
            rows: None,
            regions: Vec::new(),
            networks: Vec::new(),
            from: NaiveDate::MIN,
            until: NaiveDate::MAX,
            volume_bytes_max: None,
            ..scope.clone()
        };
        let methods = blank.methods.iter().fold(0, |bits, method| bits | bit(*method));
        let shape = self.shapes.find(
            self.hasher.hash_one((
                (view.entry, &blank.columns, &blank.purposes, &blank.agents),
                (blank.rate_bytes_per_second_max, blank.requests_per_day_max),
            )),
            |shape| (shape.entry, &shape.terms) == (view.entry, &blank),
            || Shape {
                entry: view.entry,
                methods,
                lists_agents: !blank.agents.is_empty(),
                transforms_any: !blank.transforms.is_empty(),
                limits: Limits::of(&blank),
                terms: blank.clone(),
                known: OnceLock::new(),
            },
        );
        let (first, more) = (scope.networks.first().copied(), scope.networks.get(1..).unwrap_or_default());
        let party = self.parties.find(
            self.hasher.hash_one((view.requester, &scope.networks)),
            |party| (party.requester, party.first, party.more.as_slice()) == (view.requester, first, more),
            || Party { requester: view.requester, first, more: more.to_vec() },
        );
        let rows = (scope.rows.is_some() || !scope.regions.is_empty()).then(|| {
            self.rows.find(
                self.hash_of(view.entry, scope.rows.as_ref(), &scope.regions),
                |rows| (rows.entry, &rows.predicate, &rows.regions) == (view.entry, &scope.rows, &scope.regions),
                || Rows {
                    entry: view.entry,
                    predicate: scope.rows.clone(),
                    regions: scope.regions.clone(),
                    typed: OnceLock::new(),
                },
            )
        });
        let status = (view.status != GrantStatus::InForce).then(|| Arc::new(view.status.clone()));
        let Scope { from, until, volume_bytes_max, .. } = *scope;
        let scope = GrantScope { shape, party, rows, from, until, volume_bytes_max };
        Grant { id: view.id, scope, digest: view.digest, status }
    }

    fn hash_of(&self, entry: EntryId, predicate: Option<&Predicate>, regions: &[RegionCode]) -> u64 {
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
