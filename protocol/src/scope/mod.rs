//! What may be shared (共享范围): columns and what happens to them, rows, regions, purposes, methods, agents, networks,
//! period, volume, rate and number of requests; and the two files that say it: application.toml, a request, and the scope
//! file of an answer, which has its scope keys alone.
//!
//! An answer narrows what was asked or leaves it: a key that it does not give stays as asked, its condition on rows is
//! added to the one asked for, its transforms are laid over those asked for, and nothing in it may be wider
//! ([`effective`]).

mod error;
mod file;
mod narrow;
mod transform;

pub use crate::entry::SharingMethod;
pub use error::{ScopeError, ScopeErrors};
pub use file::{
    AGENTS_MAX, ApplicationSpec, NETWORKS_MAX, RATE_BYTES_PER_SECOND_MIN, REGIONS_MAX, ScopeSpec, TRANSFORM_DEPTH_MAX,
};
pub use narrow::effective;
pub use transform::{BadTransform, MASK_KEPT_CHARS_MAX, PSEUDONYM_ALGORITHM, Transform, Transforms};

use crate::agency::AgentName;
use crate::digest::Digest;
use crate::entry::{EntryFormat, EntrySpec, SharingClass};
use crate::host::Timestamp;
use crate::predicate::Predicate;
use crate::region::RegionCode;
use chrono::{NaiveDate, NaiveTime};
use ipnet::IpNet;
use std::net::IpAddr;

/// Milliseconds that China Standard Time is ahead of UTC: the days of a scope are days there.
const CST_AHEAD_MS: i64 = 8 * 60 * 60 * 1000;

/// Milliseconds of a day. China Standard Time has no other days.
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// What may be shared. Made by reading an application, or by narrowing one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Columns, each once; none where the entry is one of files. A structure's name stands for all leaves below it until
    /// the scope is [`resolved`](Self::resolved).
    pub columns: Vec<String>,
    /// What happens to columns before they leave; the others leave in clear.
    pub transforms: Transforms,
    /// Rows; all where there is no condition.
    pub rows: Option<Predicate>,
    /// Rows of these regions, among those; all where none is listed.
    pub regions: Vec<RegionCode>,
    /// 使用用途; one or more.
    pub purposes: Vec<String>,
    /// 共享方式; one or more.
    pub methods: Vec<SharingMethod>,
    /// Agents of the requester that may use it; all where none is listed.
    pub agents: Vec<AgentName>,
    /// Networks that the requester may call from; any where none is listed.
    pub networks: Vec<IpNet>,
    /// 使用时限: the first day, in China Standard Time.
    pub from: NaiveDate,
    /// 使用时限: the last day, included, in China Standard Time.
    pub until: NaiveDate,
    /// Bytes that may pass in all; no bound where none is given.
    pub volume_bytes_max: Option<u64>,
    /// Bytes that may pass in a second, over all that flows at a time; no bound where none is given.
    pub rate_bytes_per_second_max: Option<u64>,
    /// Requests on one day of China Standard Time; no bound where none is given.
    pub requests_per_day_max: Option<u64>,
}

impl Scope {
    /// The first instant of the period.
    pub fn starts_at(&self) -> Timestamp {
        Self::first_instant(self.from)
    }

    /// The first instant after the period: midnight at the end of its last day.
    pub fn ends_at(&self) -> Timestamp {
        Self::instant_after(self.until)
    }

    /// The first instant of a period that begins on this day.
    pub fn first_instant(from: NaiveDate) -> Timestamp {
        midnight(from)
    }

    /// The first instant after a period that has this as its last day.
    pub fn instant_after(until: NaiveDate) -> Timestamp {
        until.succ_opt().map_or(Timestamp(i64::MAX), midnight)
    }

    /// Whether `now` lies in the period.
    pub fn is_open_at(&self, now: Timestamp) -> bool {
        self.starts_at() <= now && now < self.ends_at()
    }

    /// Whether a call may come from `address`. An IPv4 address written in IPv6 counts as IPv4.
    pub fn allows_network(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.is_empty() || self.networks.iter().any(|net| net.contains(&address))
    }

    /// Whether this agent of the requester may use it.
    pub fn allows_agent(&self, agent: &AgentName) -> bool {
        self.agents.is_empty() || self.agents.contains(agent)
    }

    /// The columns that leave, in their order: all that are listed but those that are dropped.
    pub fn delivered(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(String::as_str).filter(|c| self.transforms.of(c) != Some(Transform::Drop))
    }

    /// Whether a column leaves as it is.
    pub fn is_in_clear(&self, column: &str) -> bool {
        self.columns.iter().any(|c| c == column) && self.transforms.of(column).is_none()
    }

    /// Whether the entry can be shared like this: its columns exist and take what happens to them, its condition on rows
    /// types, it has regions where some are listed, and methods and purposes are offered.
    ///
    /// # Errors
    /// Every mistake.
    pub fn check(&self, entry: &EntrySpec) -> Result<(), ScopeErrors> {
        let mut errors = Vec::new();
        if entry.sharing_class == SharingClass::NotShared {
            errors.push(ScopeError::NotShared);
        }
        match entry.format {
            EntryFormat::File if !self.columns.is_empty() => errors.push(ScopeError::FilesHaveNoColumns),
            EntryFormat::Table if self.columns.is_empty() => errors.push(ScopeError::NoColumns),
            _ => {}
        }
        if entry.format == EntryFormat::Table {
            let unknown = self.columns.iter().filter(|column| entry.leaves(column).is_empty());
            errors.extend(unknown.cloned().map(ScopeError::NoColumn));
        }
        errors.extend(self.check_transforms(entry));
        if let Some(Err(mistakes)) = self.rows.as_ref().map(|rows| rows.check(entry)) {
            errors.push(ScopeError::Rows(mistakes));
        }
        if !self.regions.is_empty() && entry.region_column.is_none() {
            errors.push(ScopeError::NoRegions);
        }
        let methods = self.methods.iter().filter(|method| !entry.sharing_methods.contains(method));
        errors.extend(methods.copied().map(ScopeError::MethodNotOffered));
        if entry.sharing_class == SharingClass::Conditional {
            let purposes = self.purposes.iter().filter(|purpose| !entry.purposes.contains(purpose));
            errors.extend(purposes.cloned().map(ScopeError::PurposeNotOffered));
        }
        ScopeErrors::none_or(errors)
    }

    fn check_transforms(&self, entry: &EntrySpec) -> Vec<ScopeError> {
        let resolved = self.resolved(entry);
        let items = || resolved.columns.iter().filter_map(|column| entry.item(column)).map(|(_, item)| item);
        // A name that no column of the scope is at or below does nothing, and whoever wrote it thought that it did.
        let idle = self
            .transforms
            .iter()
            .filter(|(name, _)| !resolved.columns.iter().any(|column| crate::entry::is_at_or_below(column, name)));
        let mut errors: Vec<_> = idle.map(|(name, _)| ScopeError::NoColumnToTransform(name.to_owned())).collect();
        errors.extend(items().filter_map(|item| {
            let transform = self.transforms.of(&item.name).filter(|transform| !transform.fits(item.item_type))?;
            Some(ScopeError::TransformUnfit { column: item.name.clone(), item_type: item.item_type, transform })
        }));
        if items().next().is_some() && resolved.delivered().next().is_none() {
            errors.push(ScopeError::AllDropped);
        }
        errors
    }

    /// The same with the leaves that the entry has now in place of structures. A leaf that the entry gets later is not
    /// among them.
    #[must_use]
    pub fn resolved(&self, entry: &EntrySpec) -> Self {
        let mut columns: Vec<String> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for column in &self.columns {
            let leaves = entry.leaves(column).into_iter().filter_map(|place| entry.items.get(place));
            let names: Vec<&str> = leaves.map(|item| item.name.as_str()).collect();
            // What the entry does not have stays, to be refused by name.
            let names = if names.is_empty() { vec![column.as_str()] } else { names };
            columns.extend(names.into_iter().filter(|name| seen.insert(name.to_string())).map(str::to_owned));
        }
        Self { columns, ..self.clone() }
    }

    /// Which rows of an entry this gives: those that its condition selects, within its regions; all where it has neither.
    ///
    /// # Errors
    /// It lists regions and the entry has no region column any more.
    pub fn rows_of(&self, entry: &EntrySpec) -> Result<Option<Predicate>, ScopeError> {
        Self::rows_within(self.rows.as_ref(), &self.regions, entry)
    }

    /// [`rows_of`](Self::rows_of) for what was kept of a scope.
    ///
    /// # Errors
    /// As there.
    pub fn rows_within(
        rows: Option<&Predicate>,
        regions: &[RegionCode],
        entry: &EntrySpec,
    ) -> Result<Option<Predicate>, ScopeError> {
        if regions.is_empty() {
            return Ok(rows.cloned());
        }
        let column = &entry.region_item().ok_or(ScopeError::NoRegions)?.name;
        let within = Predicate::within_any(column, regions);
        Ok(Some(rows.map_or(within.clone(), |rows| rows.and(&within))))
    }

    /// The columns that `predicate` names and this scope does not give in clear: a requester that could ask about them
    /// would learn their values row by row. Empty where it may be asked.
    pub fn hidden_columns(&self, predicate: &Predicate) -> Vec<String> {
        predicate.columns().into_iter().filter(|name| !self.is_in_clear(name)).map(str::to_owned).collect()
    }

    /// Digest of what decides which bytes flow: columns in their order and what happens to them, rows and regions. A
    /// position in a transfer holds for this digest alone; period, networks and limits are judged anew each time and are
    /// not in it.
    pub fn content_digest(&self) -> Digest {
        let mut text = String::from("lingqu scope content 2\n");
        let transforms = self.transforms.iter().map(|(name, transform)| format!("{name}={transform}"));
        let parts = [
            self.columns.clone(),
            transforms.collect(),
            self.rows.iter().map(ToString::to_string).collect(),
            self.regions.iter().map(ToString::to_string).collect(),
        ];
        for list in parts {
            // Counts before lists and lengths before texts, so that no two scopes are written alike.
            text.push_str(&format!("#{}", list.len()));
            list.iter().for_each(|part| text.push_str(&format!("{}:{part}", part.len())));
        }
        Digest::blake3(text.as_bytes())
    }
}

/// The calendar day of China Standard Time that `now` lies in, counted from 1970-01-01: what a day's requests are counted
/// on.
pub fn day_of(now: Timestamp) -> i64 {
    now.0.saturating_add(CST_AHEAD_MS).div_euclid(DAY_MS)
}

/// The day of China Standard Time that `now` lies in.
pub fn day(now: Timestamp) -> NaiveDate {
    let days = i32::try_from(day_of(now)).unwrap_or(i32::MAX);
    NaiveDate::from_epoch_days(days).unwrap_or(NaiveDate::MAX)
}

/// The first instant of a day in China Standard Time.
pub fn midnight(day: NaiveDate) -> Timestamp {
    Timestamp(day.and_time(NaiveTime::MIN).and_utc().timestamp_millis() - CST_AHEAD_MS)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
