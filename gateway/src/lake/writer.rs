//! Takes a table's batches in, in bounded runs: checked, sorted by region, one Parquet object each.
//!
//! A run is encoded and put while the next one comes in. Each is durable by itself and says which rows of the sender it
//! holds, so that a push that was cut goes on after the last of those that lie without a gap.
//!
//! Memory: the rows that all writers hold come out of one [`WriterBudget`]. A writer that gets none has its run written
//! and the share given back before it waits, so that slow senders hold up nobody for good.

use super::error::LakeError;
use super::manifest::{Manifest, PARTS_MAX, Part, REGIONS_MAX, Regions, TABLES, TableManifest, path};
use super::parts::{RUN_TAIL_BYTES, Run, encode};
use super::shape::Shape;
use super::store::Lake;
use arrow::array::{Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::rows::RowsSum;
use object_store::path::Path;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// Bytes of Arrow memory in one run: sorted runs this long keep a region's rows of a day in few places, and one that comes
/// in beside one that is encoded, which is there about three times meanwhile, stays well within the gateway's memory.
pub const RUN_BYTES_MAX: usize = 8 << 20;

/// Bytes of Arrow memory in one batch: what a frame on the wire holds at most.
pub const BATCH_BYTES_MAX: usize = 16 << 20;

/// Bytes of a run's record, with its rows by region: what a run of [`RUN_BYTES_MAX`] can have at most is far less.
const RECORD_BYTES_MAX: u64 = 16 << 20;

/// Where the rows of runs that are written anew are counted from: no sender has as many.
const BESIDE_FIRST: u64 = 1 << 50;

/// The unit in which memory is shared: permits are counted in 32 bits.
const UNIT_BYTES: usize = 1 << 10;

/// What all table writers of a gateway share.
#[derive(Clone, Debug)]
pub struct WriterBudget {
    memory: Arc<Semaphore>,
    units: u32,
    run_bytes: usize,
    encoders: Arc<Semaphore>,
}

impl WriterBudget {
    /// Room for `runs` runs of [`RUN_BYTES_MAX`], of which `encoders` are sorted and encoded at a time. At least one each.
    pub fn new(runs: usize, encoders: usize) -> Self {
        Self::with_run_bytes(RUN_BYTES_MAX, runs, encoders)
    }

    /// The same with shorter runs, for machines with little memory.
    pub fn with_run_bytes(run_bytes: usize, runs: usize, encoders: usize) -> Self {
        let run_bytes = run_bytes.clamp(UNIT_BYTES, RUN_BYTES_MAX);
        let units = (runs.max(1) * run_bytes / UNIT_BYTES) as u32;
        let encoders = Arc::new(Semaphore::new(encoders.max(1)));
        Self { memory: Arc::new(Semaphore::new(units as usize)), units, run_bytes, encoders }
    }

    fn units_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).clamp(1, self.units)
    }
}

/// What is kept of a run that is durable.
#[derive(Debug)]
struct Durable {
    part: Part,
    /// The rows that came in it.
    arrived: RowsSum,
}

/// Writes one version of a table.
#[derive(Debug)]
pub struct TableWriter {
    lake: Lake,
    budget: WriterBudget,
    transfer: TransferId,
    shape: Arc<Shape>,
    run: Vec<RecordBatch>,
    run_bytes: usize,
    /// Rows before the run.
    run_first: u64,
    held: Vec<OwnedSemaphorePermit>,
    /// Runs that are encoded and put. Dropped, they end.
    writing: JoinSet<Result<(u64, Run), LakeError>>,
    /// Durable runs by their first row.
    runs: BTreeMap<u64, Durable>,
    /// The rows of all of them by region: one account, however many runs there are. `None` where there are too many regions.
    regions: Option<Regions>,
    rows: u64,
    /// A step is under way, or failed, or was cut short: rows may be missing.
    in_step: bool,
}

impl TableWriter {
    /// Starts the version of a transfer anew. What an earlier attempt of it left is removed; the caller sees to it that a
    /// transfer has one writer at a time.
    ///
    /// # Errors
    /// [`LakeError::Conflict`] where an attempt of it was finished: [`Manifest::find`] gives it; the store failed.
    pub async fn start(
        lake: Lake,
        budget: WriterBudget,
        transfer: TransferId,
        entry: &EntrySpec,
    ) -> Result<Self, LakeError> {
        let manifest = path::<TableManifest>(transfer);
        if lake.len(&manifest).await?.is_some() {
            return Err(LakeError::Conflict { object: manifest.to_string() });
        }
        lake.remove_all(&directory(transfer)).await?;
        Ok(Self::new(lake, budget, transfer, Shape::rows(entry)))
    }

    /// Goes on with the version of a transfer after the runs that earlier attempts made durable: see
    /// [`durable`](Self::durable). A manifest that was never named by the state is removed.
    ///
    /// # Errors
    /// The store failed.
    pub async fn resume(
        lake: Lake,
        budget: WriterBudget,
        transfer: TransferId,
        shape: Shape,
    ) -> Result<Self, LakeError> {
        lake.remove(&path::<TableManifest>(transfer)).await?;
        let mut writer = Self::new(lake, budget, transfer, shape);
        writer.find_runs().await?;
        Ok(writer)
    }

    /// Writes more parts of a version whose own rows are written: what is written anew of earlier parts. Its runs stand
    /// beside the others and are of no use to another attempt.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn beside(
        lake: Lake,
        budget: WriterBudget,
        transfer: TransferId,
        shape: Shape,
    ) -> Result<Self, LakeError> {
        let mut writer = Self::new(lake, budget, transfer, shape);
        (writer.rows, writer.run_first) = (BESIDE_FIRST, BESIDE_FIRST);
        let mut objects = writer.lake.list(&directory(transfer));
        while let Some(meta) = objects.try_next().await? {
            if meta.location.filename().and_then(first_row).is_some_and(|first| first >= BESIDE_FIRST) {
                writer.lake.remove(&meta.location).await?;
            }
        }
        Ok(writer)
    }

    fn new(lake: Lake, budget: WriterBudget, transfer: TransferId, shape: Shape) -> Self {
        Self {
            lake,
            budget,
            transfer,
            shape: Arc::new(shape),
            run: Vec::new(),
            run_bytes: 0,
            run_first: 0,
            held: Vec::new(),
            writing: JoinSet::new(),
            runs: BTreeMap::new(),
            regions: Some(Regions::new()),
            rows: 0,
            in_step: false,
        }
    }

    /// Takes up the durable runs that follow each other without a gap, and removes what is left.
    async fn find_runs(&mut self) -> Result<(), LakeError> {
        let mut found: BTreeMap<u64, Vec<(Path, u64)>> = BTreeMap::new();
        let mut objects = self.lake.list(&directory(self.transfer));
        while let Some(meta) = objects.try_next().await? {
            let first = meta.location.filename().and_then(first_row).filter(|first| *first < BESIDE_FIRST);
            found.entry(first.unwrap_or(u64::MAX)).or_default().push((meta.location, meta.size));
        }
        while let Some(candidates) = found.get_mut(&self.rows) {
            let Some((object, bytes)) = candidates.pop() else { break };
            let Some(run) = read_run(&self.lake, &object, bytes, self.shape.columns.len()).await? else {
                // Logged where it is moved; for the sender its rows are just not there.
                let _ = self.lake.quarantine(&object, None, "its record").await;
                continue;
            };
            let rows = run.arrived.count;
            self.keep(self.rows, run);
            self.rows += rows;
            if rows == 0 {
                break;
            }
        }
        self.run_first = self.rows;
        for (object, _) in found.into_values().flatten() {
            self.lake.remove(&object).await?;
        }
        Ok(())
    }

    /// The schema that batches must have.
    pub fn schema(&self) -> SchemaRef {
        self.shape.arriving.clone()
    }

    /// Rows taken so far, those of earlier attempts among them.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Count and sum of the rows that are durable: the first of the sender's, without a gap.
    pub fn durable(&self) -> RowsSum {
        let mut sum = RowsSum::default();
        for (first, run) in &self.runs {
            if *first == sum.count {
                sum.merge(&run.arrived);
            }
        }
        sum
    }

    /// Takes a batch, waiting for memory. When it is durable, [`durable`](Self::durable) counts it.
    ///
    /// # Errors
    /// [`LakeError::BadData`] names row and column of the first value that breaks a rule; a batch of over
    /// [`BATCH_BYTES_MAX`]; no room; the store failed. After an error, or where the future was dropped before its end,
    /// the version cannot be finished whole, and every later call says so.
    pub async fn write(&mut self, batch: RecordBatch) -> Result<(), LakeError> {
        self.begin_step()?;
        self.take(batch).await?;
        self.in_step = false;
        Ok(())
    }

    async fn take(&mut self, batch: RecordBatch) -> Result<(), LakeError> {
        while let Some(written) = self.writing.try_join_next() {
            self.written(written)?;
        }
        let bytes: usize =
            batch.columns().iter().map(|c| c.to_data().get_slice_memory_size().unwrap_or(usize::MAX / 2)).sum();
        if bytes > BATCH_BYTES_MAX {
            let (bytes, bytes_max) = (bytes as u64, BATCH_BYTES_MAX as u64);
            return Err(LakeError::TooLarge { what: "a batch", bytes, bytes_max });
        }
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let (shape, first_row) = (self.shape.clone(), self.rows);
        let batch = tokio::task::spawn_blocking(move || shape.check(batch, first_row)).await??;
        if self.run_bytes + bytes > self.budget.run_bytes {
            self.write_run();
        }
        self.take_memory(bytes).await?;
        self.rows += batch.num_rows() as u64;
        self.run_bytes += bytes;
        self.run.push(batch);
        if self.run_bytes >= self.budget.run_bytes {
            self.write_run();
        }
        Ok(())
    }

    /// Writes what is left and the manifest, all of it durable when this returns: the state can name the digest. With
    /// `onto`, the new version goes on from an earlier one's parts.
    ///
    /// # Errors
    /// [`LakeError::BadData`] where `onto` has other columns; too many parts; no room; the store failed.
    pub async fn finish(mut self, onto: Option<&TableManifest>) -> Result<(TableManifest, Digest), LakeError> {
        let manifest = self.complete(onto).await?;
        let digest = manifest.save(&self.lake, self.transfer).await?;
        Ok((manifest, digest))
    }

    /// Writes what is left, all of it durable when this returns, and gives what the manifest is to say.
    ///
    /// # Errors
    /// As for [`finish`](Self::finish).
    pub async fn complete(&mut self, onto: Option<&TableManifest>) -> Result<TableManifest, LakeError> {
        self.begin_step()?;
        let (columns, region_column) = (self.shape.columns.clone(), self.shape.region);
        let mut parts = match onto {
            Some(old) => old.carried_on(&columns, region_column)?,
            None => Vec::new(),
        };
        self.write_run();
        self.wait_for_runs().await?;
        parts.extend(std::mem::take(&mut self.runs).into_values().map(|run| run.part));
        if parts.len() > PARTS_MAX {
            let (bytes, bytes_max) = (parts.len() as u64, PARTS_MAX as u64);
            return Err(LakeError::TooLarge { what: "parts of a table version", bytes, bytes_max });
        }
        let own = self.regions.replace(Regions::new());
        let before = onto.map_or_else(|| Some(Regions::new()), |old| old.regions.clone());
        let regions = before.zip(own).and_then(|(before, own)| joined(before, own));
        Ok(TableManifest { columns, region_column, parts, regions })
    }

    async fn take_memory(&mut self, bytes: usize) -> Result<(), LakeError> {
        let units = self.budget.units_of(bytes);
        if let Ok(permit) = self.budget.memory.clone().try_acquire_many_owned(units) {
            self.held.push(permit);
            return Ok(());
        }
        self.write_run();
        let wanted = self.budget.memory.clone().acquire_many_owned(units);
        tokio::pin!(wanted);
        let permit = loop {
            tokio::select! {
                permit = &mut wanted => break permit,
                // A run that cannot be written gives its memory back as well, but nobody is to wait for others then.
                Some(written) = self.writing.join_next() => {
                    let (first, run) = written??;
                    self.keep(first, run);
                }
            }
        };
        self.held.push(permit.map_err(|e| LakeError::columns("waiting for memory", e))?);
        Ok(())
    }

    /// Writes the rows that are held in memory as a part and gives their memory back. To be called when the sender is
    /// slow, so that it holds up nobody.
    ///
    /// # Errors
    /// No room; the store failed. The version cannot be finished whole then.
    pub async fn flush(&mut self) -> Result<(), LakeError> {
        self.begin_step()?;
        self.write_run();
        self.wait_for_runs().await?;
        self.in_step = false;
        Ok(())
    }

    fn begin_step(&mut self) -> Result<(), LakeError> {
        if std::mem::replace(&mut self.in_step, true) {
            return Err(LakeError::columns("writing a table", "an earlier step failed or was cut short"));
        }
        Ok(())
    }

    /// Has the run encoded and put, with the memory that it holds.
    fn write_run(&mut self) {
        if self.run.is_empty() {
            return;
        }
        let (run, held) = (std::mem::take(&mut self.run), std::mem::take(&mut self.held));
        let first = std::mem::replace(&mut self.run_first, self.rows);
        self.run_bytes = 0;
        let object = directory(self.transfer).join(run_name(first, self.rows));
        let (lake, shape, encoders) = (self.lake.clone(), self.shape.clone(), self.budget.encoders.clone());
        self.writing.spawn(async move {
            let encoder = encoders.acquire_owned().await;
            let encoder = encoder.map_err(|e| LakeError::columns("waiting for an encoder", e))?;
            let name = object.to_string();
            let encoded = tokio::task::spawn_blocking(move || encode(name, &shape, run, first)).await??;
            let is_new = lake.put_new(&object, encoded.pieces).await?;
            drop((encoder, held));
            if !is_new {
                // Another session of this transfer put it a moment ago: the same rows, or the source has changed since.
                let bytes = lake.len(&object).await?.unwrap_or(0);
                let there = read_run(&lake, &object, bytes, encoded.run.part.leaves.len()).await?;
                if there.as_ref() != Some(&encoded.run) {
                    return Err(LakeError::Conflict { object: object.to_string() });
                }
            }
            Ok((first, encoded.run))
        });
    }

    async fn wait_for_runs(&mut self) -> Result<(), LakeError> {
        while let Some(written) = self.writing.join_next().await {
            self.written(written)?;
        }
        Ok(())
    }

    fn written(
        &mut self,
        written: Result<Result<(u64, Run), LakeError>, tokio::task::JoinError>,
    ) -> Result<(), LakeError> {
        let (first, run) = written??;
        self.keep(first, run);
        Ok(())
    }

    fn keep(&mut self, first: u64, run: Run) {
        let Run { part, regions, arrived } = run;
        self.regions = self.regions.take().and_then(|all| joined(all, regions));
        self.runs.insert(first, Durable { part, arrived });
    }
}

/// Both accounts as one; `None` where there are too many regions to keep one.
fn joined(mut all: Regions, more: Regions) -> Option<Regions> {
    for (code, sum) in more {
        all.entry(code).or_default().merge(&sum);
    }
    (all.len() <= REGIONS_MAX).then_some(all)
}

/// The run that an object holds; `None` where it is not whole.
async fn read_run(lake: &Lake, object: &Path, bytes: u64, columns: usize) -> Result<Option<Run>, LakeError> {
    let tail_at = bytes.saturating_sub(RUN_TAIL_BYTES);
    let tail = lake.range(object, tail_at..bytes).await?;
    let Some(record_bytes) = Run::record_bytes(&tail).filter(|bytes| *bytes <= RECORD_BYTES_MAX.min(tail_at)) else {
        return Ok(None);
    };
    let record = lake.range(object, tail_at - record_bytes..bytes).await?;
    let run = Run::from_tail(&record, bytes, columns);
    Ok(run.filter(|run| run.part.object == object.to_string()))
}

/// The name of the run of rows `first..end` of the sender.
fn run_name(first: u64, end: u64) -> String {
    format!("{first:016}-{:08}", end - first)
}

/// The first row of the run of this name; `None` where it is no run's.
fn first_row(name: &str) -> Option<u64> {
    let (first, _) = name.split_once('-')?;
    first.parse().ok()
}

pub(crate) fn directory(transfer: TransferId) -> Path {
    Path::from(TABLES).join(transfer.to_string())
}
