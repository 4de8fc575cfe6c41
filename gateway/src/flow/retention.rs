//! Which versions are kept, and that nothing goes away under a reader.

use super::Flow;
use super::commit::read;
use super::error::FlowError;
use super::record::{VersionRow, version_draft};
use crate::ledger::Entry;
use crate::state::{Change, Expect, Filter, Kind, StateError, Write};
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{EntryId, TransferId};
use lingqu_protocol::leaf::LeafKind;
use lingqu_protocol::receipt::DataKind;
use lingqu_protocol::region::RegionTable;
use lingqu_protocol::wire::{Record as WireRecord, Records};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Versions in one page.
const PAGE: u32 = 200;

/// Regions in one page: at some 300 bytes each half of what a message holds.
const REGIONS_PAGE: usize = 1000;

const DAY_MS: i64 = 24 * 3600 * 1000;

/// Which versions of an entry are kept. The latest always is; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// So many of the latest.
    pub versions: u64,
    /// Those that were the latest within so many days.
    pub days: u32,
}

/// Which versions are being read now.
#[derive(Clone, Debug, Default)]
pub struct Reading(Arc<Mutex<HashMap<(EntryId, u64), usize>>>);

/// Holds a version while it is read; dropped, it is held no more.
#[derive(Debug)]
pub struct Held {
    reading: Reading,
    version: (EntryId, u64),
}

impl Reading {
    fn hold(&self, entry: EntryId, number: u64) -> Held {
        let version = (entry, number);
        *self.lock().entry(version).or_default() += 1;
        Held { reading: self.clone(), version }
    }

    fn is_held(&self, entry: EntryId, number: u64) -> bool {
        self.lock().contains_key(&(entry, number))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(EntryId, u64), usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.reading.lock();
        if let Some(count) = held.get_mut(&self.version) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.version);
            }
        }
    }
}

impl Flow {
    /// A version to read; 0 means the latest. While it is held, it is kept.
    ///
    /// # Errors
    /// There is none, it is no longer kept, or the state's.
    pub async fn hold_version(&self, entry: EntryId, number: u64) -> Result<(VersionRow, Held), FlowError> {
        let number = self.version(entry, number).await?.number;
        let held = self.reading().hold(entry, number);
        // Looked at again: what was let go before it was held is gone.
        let version = self.version(entry, number).await?;
        if version.retired_at.is_some() {
            return Err(FlowError::NotFound { what: "version any more: it is older than what the gateway keeps" });
        }
        Ok((version, held))
    }

    /// Lets versions go that need not be kept: their records stay, with digests and counts, and their data is nobody's.
    ///
    /// # Errors
    /// The state's; the next round goes on.
    pub async fn retire(&self, retention: Retention) -> Result<usize, FlowError> {
        if retention == Retention::default() {
            return Ok(0);
        }
        let mut retired = 0;
        let mut newest: HashMap<EntryId, u64> = HashMap::new();
        let mut all = Vec::new();
        self.each_version(|row| all.push((row.entry, row.number, row.committed_at, row.retired_at.is_some()))).await?;
        for (entry, number, ..) in &all {
            let latest = newest.entry(*entry).or_default();
            *latest = (*latest).max(*number);
        }
        let committed: HashMap<(EntryId, u64), i64> = all.iter().map(|(e, n, at, _)| ((*e, *n), *at)).collect();
        for (entry, number, _, gone) in &all {
            let latest = newest.get(entry).copied().unwrap_or(0);
            if *gone || *number >= latest {
                continue;
            }
            let too_many = retention.versions > 0 && latest - number >= retention.versions;
            let followed_at = committed.get(&(*entry, number + 1)).copied().unwrap_or(i64::MAX);
            let kept_until = followed_at.saturating_add(i64::from(retention.days) * DAY_MS);
            let too_old = retention.days > 0 && self.now().0 > kept_until;
            if (too_many || too_old)
                && !self.reading().is_held(*entry, *number)
                && self.retire_one(*entry, *number).await?
            {
                retired += 1;
            }
        }
        Ok(retired)
    }

    async fn retire_one(&self, entry: EntryId, number: u64) -> Result<bool, FlowError> {
        let id = super::record::version_id(entry, number);
        let Some(record) = self.state().get(Kind::Version, &id).await? else { return Ok(false) };
        let row = VersionRow { retired_at: Some(self.now().0), ..read(&record)? };
        let write = Write::Put(version_draft(&row, self.now())?, Expect::Revision(record.revision));
        let leaf = Entry::new(LeafKind::RegistryAct, self.now()).what("version_retired").with(|leaf| {
            leaf.entry = Some(entry);
            leaf.transfer = Some(row.transfer);
        });
        let leaf = leaf.committing_to(id).seal(self.entropy())?;
        match self.state().commit(Change { writes: vec![write], leaves: vec![leaf], ..Change::default() }).await {
            Ok(_) => Ok(true),
            Err(StateError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Transfers whose objects versions need that are kept: their own, and those of the parts that they go on from.
    ///
    /// # Errors
    /// The state's or the lake's.
    pub async fn transfers_of_versions(&self) -> Result<HashSet<TransferId>, FlowError> {
        let mut kept = Vec::new();
        self.each_version(|row| {
            if row.retired_at.is_none() {
                kept.push(row);
            }
        })
        .await?;
        let mut live = HashSet::new();
        for row in kept {
            live.insert(row.transfer);
            if row.kind == DataKind::Table && row.sources.is_empty() {
                // Of a gateway that did not write them down.
                let manifest = self.table_manifest(&row).await?;
                live.extend(manifest.parts.iter().filter_map(crate::lake::manifest::Part::transfer));
            }
            live.extend(row.sources);
        }
        Ok(live)
    }

    /// The versions of an entry, as its provider sees them.
    ///
    /// # Errors
    /// The state's.
    pub async fn versions(&self, entry: EntryId, after: &str) -> Result<Records, FlowError> {
        let filter = Filter { parent: Some(entry.to_string()), ..Filter::default() };
        let after = (!after.is_empty()).then_some(after);
        let found = self.state().list(Kind::Version, filter, after, PAGE).await?;
        let next = if found.len() == PAGE as usize { found.last().map(|r| r.id.clone()) } else { None };
        let mut records = Vec::with_capacity(found.len());
        for record in &found {
            let row: VersionRow = read(record)?;
            let json = serde_json::json!({
                "id": record.id,
                "entry": row.entry,
                "version": row.number,
                "kind": row.kind,
                "transfer": row.transfer,
                "bytes": row.bytes,
                "files": (row.kind == DataKind::File).then_some(row.files),
                "rows": (row.kind == DataKind::Table).then_some(row.rows),
                "bytes_root": row.bytes_root,
                "rows_digest": row.rows_digest,
                "committed_at": Timestamp(row.committed_at).to_rfc3339(),
                "let_go_at": row.retired_at.map(|at| Timestamp(at).to_rfc3339()),
            });
            records.push(WireRecord { id: record.id.clone(), json: json.to_string().into_bytes().into() });
        }
        Ok(Records { records, next: next.unwrap_or_default() })
    }

    /// The regions of a version, each with its rows and digests, as its provider sees them.
    ///
    /// # Errors
    /// There is no such version of rows, it is no longer kept, or the state's or the lake's.
    pub async fn version_regions(&self, entry: EntryId, number: u64, after: &str) -> Result<Records, FlowError> {
        let (version, _held) = self.hold_version(entry, number).await?;
        if version.kind != DataKind::Table {
            return Err(FlowError::NotFound { what: "version of rows" });
        }
        let manifest = self.table_manifest(&version).await?;
        let all =
            manifest.regions.as_ref().ok_or(FlowError::NotFound { what: "digest by region: there are too many" })?;
        let table = RegionTable::national();
        let rest = all.iter().filter(|(code, _)| after.is_empty() || code.as_str() > after);
        let mut records = Vec::new();
        let mut next = String::new();
        for (code, sum) in rest {
            if records.len() == REGIONS_PAGE {
                next = records.last().map(|last: &WireRecord| last.id.clone()).unwrap_or_default();
                break;
            }
            let json = serde_json::json!({
                "id": code,
                "name": table.check(code).ok().and_then(|code| table.name(code)),
                "rows": sum.count,
                "bytes_root": table.check(code).ok().map(|code| manifest.region_root(code)),
                "rows_digest": sum.digest(),
            });
            records.push(WireRecord { id: code.clone(), json: json.to_string().into_bytes().into() });
        }
        Ok(Records { records, next })
    }

    async fn each_version(&self, mut see: impl FnMut(VersionRow)) -> Result<(), FlowError> {
        let mut after: Option<String> = None;
        loop {
            let page = self.state().list(Kind::Version, Filter::default(), after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id.clone());
            for record in &page {
                see(read(record)?);
            }
        }
    }
}
