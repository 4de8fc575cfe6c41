//! Takes a table's batches in, in bounded runs: checked, sorted by region, one Parquet object each.
//!
//! Memory: the rows that all writers hold come out of one [`WriterBudget`]. A writer that gets none writes the run that
//! it has and gives its share back before it waits, so that slow senders hold up nobody for good.

use super::error::LakeError;
use super::manifest::{ColumnInfo, Manifest, PARTS_MAX, Part, TABLES, TableManifest, path};
use super::parts::encode;
use super::store::Lake;
use super::values::Column;
use arrow::array::{Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use lingqu_protocol::columns::arrow_schema;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::region::RegionTable;
use lingqu_protocol::rows::RowsDigest;
use object_store::path::Path;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of Arrow memory in one run: sorted runs this long keep a region's rows of a day in few places, and two of them
/// with their encoded forms stay well within the gateway's memory.
pub const RUN_BYTES_MAX: usize = 16 << 20;

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

/// What a table must look like.
#[derive(Debug)]
struct Shape {
    columns: Vec<ColumnInfo>,
    schema: SchemaRef,
    region: Option<usize>,
    keys: Vec<usize>,
    /// Of no rows.
    digest: RowsDigest,
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
    held: Vec<OwnedSemaphorePermit>,
    parts: Vec<Part>,
    rows: u64,
    /// A step is under way, or failed, or was cut short: rows may be missing.
    in_step: bool,
}

impl TableWriter {
    /// Starts the version of a transfer. What an earlier attempt of it left is removed; the caller sees to it that a
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
        let columns = TableManifest::columns_of(entry);
        let shape = Shape {
            columns,
            schema: arrow_schema(entry),
            region: entry.region_column,
            keys: entry.key_columns().collect(),
            digest: RowsDigest::new(entry),
        };
        Ok(Self {
            lake,
            budget,
            transfer,
            shape: Arc::new(shape),
            run: Vec::new(),
            run_bytes: 0,
            held: Vec::new(),
            parts: Vec::new(),
            rows: 0,
            in_step: false,
        })
    }

    /// The schema that batches must have: the entry's items in their order.
    pub fn schema(&self) -> SchemaRef {
        self.shape.schema.clone()
    }

    /// Rows taken so far.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes a batch, waiting for memory. Nothing of it is durable before [`TableWriter::finish`].
    ///
    /// # Errors
    /// [`LakeError::BadData`] names row and column of the first value that breaks a rule; a batch of over
    /// [`RUN_BYTES_MAX`]; no room; the store failed. After an error, or where the future was dropped before its end,
    /// the version cannot be finished whole, and every later call says so.
    pub async fn write(&mut self, batch: RecordBatch) -> Result<(), LakeError> {
        self.begin_step()?;
        self.take(batch).await?;
        self.in_step = false;
        Ok(())
    }

    async fn take(&mut self, batch: RecordBatch) -> Result<(), LakeError> {
        let bytes: usize =
            batch.columns().iter().map(|c| c.to_data().get_slice_memory_size().unwrap_or(usize::MAX / 2)).sum();
        if bytes > RUN_BYTES_MAX {
            let (bytes, bytes_max) = (bytes as u64, RUN_BYTES_MAX as u64);
            return Err(LakeError::TooLarge { what: "a batch", bytes, bytes_max });
        }
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let (shape, first_row) = (self.shape.clone(), self.rows);
        let batch = tokio::task::spawn_blocking(move || shape.check(batch, first_row)).await??;
        self.take_memory(bytes).await?;
        self.rows += batch.num_rows() as u64;
        self.run_bytes += bytes;
        self.run.push(batch);
        if self.run_bytes >= self.budget.run_bytes {
            self.write_run().await?;
        }
        Ok(())
    }

    /// Writes what is left and the manifest, all of it durable when this returns: the state can name the digest. With
    /// `onto`, the new version goes on from an earlier one's parts.
    ///
    /// # Errors
    /// [`LakeError::BadData`] where `onto` has other columns; too many parts; no room; the store failed.
    pub async fn finish(mut self, onto: Option<&TableManifest>) -> Result<(TableManifest, Digest), LakeError> {
        self.begin_step()?;
        if onto.is_some_and(|old| old.columns != self.shape.columns || old.region_column != self.shape.region) {
            return Err(bad("the version to go on from has other columns: send a full one".to_owned()));
        }
        self.write_run().await?;
        let mut parts = onto.map(|old| old.parts.clone()).unwrap_or_default();
        parts.append(&mut self.parts);
        if parts.len() > PARTS_MAX {
            let (bytes, bytes_max) = (parts.len() as u64, PARTS_MAX as u64);
            return Err(LakeError::TooLarge { what: "parts of a table version", bytes, bytes_max });
        }
        let (columns, region_column) = (self.shape.columns.clone(), self.shape.region);
        let manifest = TableManifest { columns, region_column, parts };
        let digest = manifest.save(&self.lake, self.transfer).await?;
        Ok((manifest, digest))
    }

    async fn take_memory(&mut self, bytes: usize) -> Result<(), LakeError> {
        let units = self.budget.units_of(bytes);
        if let Ok(permit) = self.budget.memory.clone().try_acquire_many_owned(units) {
            self.held.push(permit);
            return Ok(());
        }
        self.write_run().await?;
        let permit = self.budget.memory.clone().acquire_many_owned(units).await;
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
        self.write_run().await?;
        self.in_step = false;
        Ok(())
    }

    fn begin_step(&mut self) -> Result<(), LakeError> {
        if std::mem::replace(&mut self.in_step, true) {
            return Err(LakeError::columns("writing a table", "an earlier step failed or was cut short"));
        }
        Ok(())
    }

    async fn write_run(&mut self) -> Result<(), LakeError> {
        if self.run.is_empty() {
            return Ok(());
        }
        let object = directory(self.transfer).join(format!("{:08}", self.parts.len()));
        let (run, shape, name) = (std::mem::take(&mut self.run), self.shape.clone(), object.to_string());
        self.run_bytes = 0;
        let encoder = self.budget.encoders.clone().acquire_owned().await;
        let encoder = encoder.map_err(|e| LakeError::columns("waiting for an encoder", e))?;
        let encoded = tokio::task::spawn_blocking(move || {
            let encoded = encode(name, &shape.schema, &run, shape.region, &shape.keys, shape.digest.clone());
            drop(encoder);
            encoded
        });
        let (bytes, part) = encoded.await??;
        if !self.lake.put_new(&object, vec![bytes]).await? {
            return Err(LakeError::Conflict { object: object.to_string() });
        }
        self.parts.push(part);
        self.held.clear();
        Ok(())
    }
}

impl Shape {
    /// Checks a batch, the first row of which is row `first_row` of the version, and gives it the schema's own fields.
    fn check(&self, batch: RecordBatch, first_row: u64) -> Result<RecordBatch, LakeError> {
        let fields = batch.schema();
        let same = fields.fields().len() == self.columns.len()
            && fields
                .fields()
                .iter()
                .zip(self.schema.fields())
                .all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type());
        if !same {
            return Err(bad("a batch has other columns than its entry".to_owned()));
        }
        for (column, array) in self.columns.iter().zip(batch.columns()) {
            let missing = (!column.nullable).then(|| array.nulls().and_then(|n| (0..n.len()).find(|i| n.is_null(*i))));
            if let Some(row) = missing.flatten() {
                return Err(at(first_row, row, &column.name, "a value is missing where the entry wants one"));
            }
        }
        if let Some((region, column)) = self.region.and_then(|r| Some((batch.columns().get(r)?, self.columns.get(r)?)))
        {
            let Column::String(codes) = Column::of(region.as_ref())? else {
                return Err(bad(format!("region column {} is not of strings", column.name)));
            };
            check_regions(codes, first_row, &column.name)?;
        }
        RecordBatch::try_new(self.schema.clone(), batch.columns().to_vec()).map_err(|e| bad(e.to_string()))
    }
}

fn check_regions(codes: &StringArray, first_row: u64, column: &str) -> Result<(), LakeError> {
    let table = RegionTable::national();
    let mut last = None;
    for (row, code) in codes.iter().enumerate().filter_map(|(row, code)| Some((row, code?))) {
        if last != Some(code) {
            table.check(code).map_err(|e| at(first_row, row, column, &e.to_string()))?;
            last = Some(code);
        }
    }
    Ok(())
}

pub(crate) fn directory(transfer: TransferId) -> Path {
    Path::from(TABLES).join(transfer.to_string())
}

/// Rows are counted from 1 for people.
fn at(first_row: u64, row: usize, column: &str, problem: &str) -> LakeError {
    bad(format!("row {}, column {column}: {problem}", first_row + row as u64 + 1))
}

fn bad(what: String) -> LakeError {
    LakeError::BadData { what }
}
