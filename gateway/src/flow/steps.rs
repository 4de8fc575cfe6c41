//! Steps between versions, ready for any number of subscribers: each is read and split by region once, whoever asks first,
//! and the others wait for that. What is kept is bounded, and whatever was let go is made again for whoever asks.

mod making;

use super::Flow;
use super::error::FlowError;
use super::record::VersionRow;
use super::retention;
use crate::gate::EntryView;
use crate::lake::diff;
use crate::lake::manifest::{ColumnInfo, Regions, TableManifest};
use crate::lake::split::{Held, Split, Tap};
use crate::metrics;
use lingqu_protocol::backflow::SliceMode;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::{DataItem, EntrySpec};
use lingqu_protocol::ids::EntryId;
use lingqu_protocol::receipt::DataKind;
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{OnceCell, Semaphore, watch};

/// Bytes of memory that steps hold together, whoever still sends from them: two of the largest. What is more lies beside the
/// lake, from where slow receivers read their own.
const KEPT_BYTES: usize = 28 << 20;

/// Steps that are kept: beyond it only their memory would be told, and not their files.
const KEPT_STEPS: usize = 32;

/// One step of an entry, split by region.
pub struct Ready {
    /// The version that it leads to.
    pub version: VersionRow,
    /// How its rows are meant.
    pub mode: SliceMode,
    /// Rows that are gone.
    pub gone: Option<Split>,
    /// Rows that came.
    pub came: Split,
    /// Count and sum of the rows of each region after it, over all columns; none where there are too many regions.
    pub regions: Option<Regions>,
    /// The places of the entry's items among the columns of its rows.
    pub places: Vec<Option<usize>>,
}

impl Ready {
    fn memory_bytes(&self) -> usize {
        let regions = self.regions.as_ref().map_or(0, |regions| regions.len() * 96);
        self.splits().map(Split::memory_bytes).sum::<usize>() + regions
    }

    fn splits(&self) -> impl Iterator<Item = &Split> {
        self.gone.iter().chain([&self.came])
    }
}

/// An entry, the version that is gone on from (0: from nothing), the version, and the columns that the entry has.
type Key = (EntryId, u64, u64, Digest);

type Slot = Arc<OnceCell<Arc<Ready>>>;

/// A step on its way. Boxed, because one may turn out to be another.
pub type Making<'a> = Pin<Box<dyn Future<Output = Result<Arc<Ready>, FlowError>> + Send + 'a>>;

/// What is kept of steps, and who waits for versions.
#[derive(Default)]
pub struct Steps {
    /// The one that was asked for last is last.
    kept: Mutex<VecDeque<(Key, Slot)>>,
    /// All whose rows are held, by us or by who sends from them; the oldest first.
    held: Mutex<Vec<Weak<Held>>>,
    latest: Mutex<HashMap<EntryId, watch::Sender<u64>>>,
    building: Building,
    decoded: AtomicU64,
}

/// One is read at a time: memory is bounded, and a second would only make the first slower.
struct Building(Semaphore);

impl Default for Building {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

impl Steps {
    fn slot(&self, key: Key) -> Slot {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.iter().position(|(of, _)| *of == key).and_then(|at| kept.remove(at));
        let slot = known.map_or_else(Slot::default, |(_, slot)| slot);
        kept.push_back((key, Arc::clone(&slot)));
        evict(&mut kept, KEPT_BYTES);
        slot
    }

    /// Makes room for `coming` bytes more: first what nobody has asked for is forgotten, then what slow receivers still send
    /// from is moved beside the lake, the oldest first.
    async fn make_room(&self, coming: usize) {
        let (kept, own): (usize, Vec<usize>) = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            evict(&mut kept, KEPT_BYTES.saturating_sub(coming));
            let ready = kept.iter().filter_map(|(_, slot)| slot.get());
            let own = ready.flat_map(|ready| ready.splits()).map(|split| Arc::as_ptr(split.held()).addr()).collect();
            (kept.iter().map(|(_, slot)| bytes(slot)).sum(), own)
        };
        let others: Vec<Arc<Held>> = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.retain(|held| held.strong_count() > 0);
            held.iter().filter_map(Weak::upgrade).filter(|held| !own.contains(&Arc::as_ptr(held).addr())).collect()
        };
        let mut sum = kept + coming + others.iter().map(|held| held.memory_bytes()).sum::<usize>();
        for held in others {
            if sum <= KEPT_BYTES {
                break;
            }
            let before = held.memory_bytes();
            if held.is_in_memory()
                && let Err(error) = held.move_out().await
            {
                tracing::error!(%error, "slices that slow receivers hold could not be moved beside the lake; they ask again");
            }
            sum = sum.saturating_sub(before.saturating_sub(held.memory_bytes()));
        }
    }

    fn hold(&self, ready: &Ready) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.extend(ready.splits().map(|split| Arc::downgrade(split.held())));
    }

    /// Rows that were decoded to be split, since the start.
    pub fn decoded_rows(&self) -> u64 {
        self.decoded.load(Ordering::Relaxed)
    }

    fn count_decoded(&self, rows: usize) {
        self.decoded.fetch_add(rows as u64, Ordering::Relaxed);
        metrics::backflow_decoded(rows as u64);
    }

    /// Says that an entry has a new version.
    pub fn announce(&self, entry: EntryId, number: u64) {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = latest.get(&entry) {
            sender.send_if_modified(|known| {
                let is_new = *known < number;
                *known = number.max(*known);
                is_new
            });
        }
    }

    fn watch(&self, entry: EntryId) -> watch::Receiver<u64> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.retain(|id, sender| *id == entry || sender.receiver_count() > 0);
        latest.entry(entry).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }
}

impl Flow {
    /// The latest version of an entry as it changes, without a look at the state for each who waits.
    ///
    /// # Errors
    /// The state's.
    pub async fn watch_versions(&self, entry: EntryId) -> Result<watch::Receiver<u64>, FlowError> {
        // Listening comes first: a version that is committed meanwhile is heard or read.
        let mut receiver = self.steps().watch(entry);
        let latest = self.latest(entry).await?.unwrap_or(0);
        self.steps().announce(entry, latest);
        // What was just said is seen already.
        let _known = *receiver.borrow_and_update();
        Ok(receiver)
    }

    /// The step of an entry from one version (0: from nothing) to another. Where this is what makes it, and it is all that there is,
    /// `tap` is handed the rows of its slice as they are read.
    ///
    /// # Errors
    /// One of them is not kept, or was pushed before the entry changed; the lake's.
    pub fn step<'a>(&'a self, entry: &'a EntryView, from: u64, to: u64, tap: Option<Tap>) -> Making<'a> {
        Box::pin(self.step_once(entry, from, to, tap))
    }

    /// Whether a step is there, or somebody makes it.
    pub fn is_begun(&self, entry: &EntryView, from: u64, to: u64) -> bool {
        let (key, kept) = (key(entry, from, to), self.steps().kept.lock().unwrap_or_else(PoisonError::into_inner));
        kept.iter().any(|(of, _)| *of == key)
    }

    async fn step_once(
        &self,
        entry: &EntryView,
        from: u64,
        to: u64,
        tap: Option<Tap>,
    ) -> Result<Arc<Ready>, FlowError> {
        let slot = self.steps().slot(key(entry, from, to));
        // Boxed: thousands wait here for the one that makes it, and hold nothing of the making.
        let ready = slot.get_or_try_init(|| Box::pin(self.build(entry, from, to, tap)));
        Ok(Arc::clone(ready.await?))
    }

    /// A version of an entry as it is sent now.
    ///
    /// # Errors
    /// It is not kept, is of files, or was pushed before the entry changed; the lake's.
    pub(super) async fn sent_version(&self, entry: &EntryView, number: u64) -> Result<Sendable, FlowError> {
        let (version, held) = self.hold_version(entry.id, number).await?;
        if version.kind != DataKind::Table {
            return Err(FlowError::bad_data("a version of files has no regions: only rows flow back"));
        }
        let manifest = grown(self.table_manifest(&version).await?, &entry.spec)?;
        let place = |item: &DataItem| {
            let is_it = |column: &ColumnInfo| column.name == item.name && column.item_type == item.item_type;
            manifest.columns.iter().position(is_it)
        };
        let places = entry.spec.items.iter().map(place).collect();
        Ok(Sendable { version, manifest, places, _held: held })
    }

    async fn build(&self, entry: &EntryView, from: u64, to: u64, tap: Option<Tap>) -> Result<Arc<Ready>, FlowError> {
        let Sendable { version, manifest: after, places, _held } = self.sent_version(entry, to).await?;
        let (before, _before_held) = match from {
            0 => (None, None),
            from => {
                let (version, held) = self.hold_version(entry.id, from).await?;
                (Some(self.table_manifest(&version).await?), Some(held))
            }
        };
        // Where the version before cannot be read under the columns of now, the state is sent.
        let before = before.and_then(|before| grown(before, &entry.spec).ok());
        let step = diff::between(before.as_ref(), &after, version.follows == Some(from));
        if from > 0 && step.mode == SliceMode::Full {
            // What those get who begin anew: read once for both.
            return self.step(entry, 0, to, tap).await;
        }
        let _alone = self.steps().building.0.acquire().await.map_err(|_| FlowError::Busy)?;
        self.steps().make_room(0).await;
        let regions = after.regions.clone();
        let started = self.monotonic();
        let (mode, gone, came) = self.split(step, tap).await?;
        let rows = came.rows() + gone.as_ref().map_or(0, Split::rows);
        tracing::info!(entry = %entry.id, version = to, from, mode = mode.as_str(), rows,
            took = ?self.monotonic().saturating_sub(started), beside_bytes = came.disk_bytes(), "split by region");
        let ready = Ready { version, mode, gone, came, regions, places };
        self.steps().make_room(ready.memory_bytes()).await;
        self.steps().hold(&ready);
        Ok(Arc::new(ready))
    }
}

/// A version as it is sent now.
pub(super) struct Sendable {
    pub(super) version: VersionRow,
    pub(super) manifest: TableManifest,
    /// The places of the entry's items among its columns.
    pub(super) places: Vec<Option<usize>>,
    _held: retention::Held,
}

fn key(entry: &EntryView, from: u64, to: u64) -> Key {
    let columns = TableManifest {
        columns: TableManifest::columns_of(&entry.spec),
        region_column: entry.spec.region_column,
        parts: Vec::new(),
        regions: None,
    };
    (entry.id, from, to, columns.schema_digest())
}

fn bytes(slot: &Slot) -> usize {
    slot.get().map_or(0, |ready| ready.memory_bytes())
}

/// Forgets what was asked for longest ago. Who sends one holds it; here it is only no longer kept for others. One that is being
/// made stays: others wait for it.
fn evict(kept: &mut VecDeque<(Key, Slot)>, bytes_max: usize) {
    let mut held: usize = kept.iter().map(|(_, slot)| bytes(slot)).sum();
    while kept.len() > 1 && (held > bytes_max || kept.len() > KEPT_STEPS) {
        let Some(oldest) = kept.iter().position(|(_, slot)| slot.initialized()) else { break };
        let Some((_, gone)) = kept.remove(oldest) else { break };
        held = held.saturating_sub(bytes(&gone));
    }
}

/// A version with the columns that its entry has gained since at its end.
fn grown(manifest: TableManifest, spec: &EntrySpec) -> Result<TableManifest, FlowError> {
    let columns = TableManifest::columns_of(spec);
    let parts = manifest.carried_on(&columns, spec.region_column).map_err(|_| {
        FlowError::bad_data("the version was pushed before its entry changed: ask the provider to push it again")
    })?;
    Ok(TableManifest { columns, parts, ..manifest })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
