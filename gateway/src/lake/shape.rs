//! What the rows of a version look like as they come, and what is summed up of them.

use super::error::LakeError;
use super::manifest::{ColumnInfo, Regions, TableManifest};
use super::regions::Placed;
use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use lingqu_protocol::changes::{Op, changes_entry};
use lingqu_protocol::columns::arrow_schema;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::rows::{RowsDigest, RowsSum};
use std::sync::Arc;

/// What a table must look like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// What batches are of: the entry, or changes of its rows.
    entry: Arc<EntrySpec>,
    pub(crate) columns: Vec<ColumnInfo>,
    /// What batches have: the version's columns, and for changes what is to be done with each row.
    pub(crate) arriving: SchemaRef,
    pub(crate) region: Option<usize>,
    pub(crate) keys: Vec<usize>,
    /// Place of the column that says what is to be done, where rows are changes.
    pub(crate) op: Option<usize>,
    /// Over the version's columns, of no rows.
    pub(crate) digest: RowsDigest,
    /// Over what arrives, of no rows.
    arriving_digest: RowsDigest,
}

/// What a run sums up to.
pub(crate) struct Summed {
    /// Rows that came.
    pub(crate) arrived: RowsSum,
    /// Those of them that are rows of the version.
    pub(crate) stays: RowsSum,
    pub(crate) regions: Regions,
}

impl Shape {
    /// Of rows of an entry.
    pub fn rows(entry: &EntrySpec) -> Self {
        Self {
            entry: Arc::new(entry.clone()),
            columns: TableManifest::columns_of(entry),
            arriving: arrow_schema(entry),
            region: entry.region_column,
            keys: entry.key_columns().collect(),
            op: None,
            digest: RowsDigest::new(entry),
            arriving_digest: RowsDigest::new(entry),
        }
    }

    /// Of changes of an entry's rows, as [`changes_entry`] has them.
    pub fn changes(entry: &EntrySpec) -> Self {
        let changes = changes_entry(entry);
        Self {
            arriving: arrow_schema(&changes),
            op: Some(entry.items.len()),
            arriving_digest: RowsDigest::new(&changes),
            entry: Arc::new(changes),
            ..Self::rows(entry)
        }
    }

    /// Columns of the version, and which of them is the region's.
    pub fn columns(&self) -> (&[ColumnInfo], Option<usize>) {
        (&self.columns, self.region)
    }

    /// What batches are of.
    pub const fn entry(&self) -> &Arc<EntrySpec> {
        &self.entry
    }

    /// Checks a batch, the first row of which is row `first_row` of the version, and gives it the schema's own fields.
    /// Regions are looked at when the run is encoded.
    pub(crate) fn check(&self, batch: RecordBatch, first_row: u64) -> Result<RecordBatch, LakeError> {
        let fields = batch.schema();
        let same = fields.fields().len() == self.arriving.fields().len()
            && fields
                .fields()
                .iter()
                .zip(self.arriving.fields())
                .all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type());
        if !same {
            return Err(bad("a batch has other columns than its entry".to_owned()));
        }
        let stays = self.stays(&batch, first_row)?;
        for (column, array) in self.columns.iter().zip(batch.columns()) {
            let Some(nulls) = array.nulls().filter(|nulls| !column.nullable && nulls.null_count() > 0) else {
                continue;
            };
            let must = |row: usize| self.is_key(&column.name) || stays.as_ref().is_none_or(|stays| stays.value(row));
            if let Some(row) = (0..nulls.len()).find(|row| nulls.is_null(*row) && must(*row)) {
                return Err(at(first_row, row, &column.name, "a value is missing where the entry wants one"));
            }
        }
        RecordBatch::try_new(self.arriving.clone(), batch.columns().to_vec()).map_err(|e| bad(e.to_string()))
    }

    /// Counts and sums of rows that were checked.
    pub(crate) fn sum_up(&self, rows: &RecordBatch, placed: &Placed) -> Result<Summed, LakeError> {
        let failed = |e| LakeError::columns("summing up rows", e);
        let mut regions = Regions::new();
        let mut digest = self.digest.clone();
        let Some(stays) = self.stays(rows, 0)? else {
            let hashes = digest.update(rows).map_err(failed)?;
            placed.sum_up(hashes, |_| true, &mut regions);
            return Ok(Summed { arrived: digest.sum(), stays: digest.sum(), regions });
        };
        let mut arrived = self.arriving_digest.clone();
        arrived.update(rows).map_err(failed)?;
        let columns: Vec<usize> = (0..self.columns.len()).collect();
        let own = rows.project(&columns).map_err(|e| LakeError::columns("summing up rows", e))?;
        let hashes = digest.update(&own).map_err(failed)?.to_vec();
        placed.sum_up(&hashes, |row| stays.value(row), &mut regions);
        let mut digest = self.digest.clone();
        let kept = filter_record_batch(&own, &stays).map_err(|e| LakeError::columns("summing up rows", e))?;
        digest.update(&kept).map_err(failed)?;
        Ok(Summed { arrived: arrived.sum(), stays: digest.sum(), regions })
    }

    /// Which rows are rows of the version, where some may not be: a change that deletes is none.
    fn stays(&self, rows: &RecordBatch, first_row: u64) -> Result<Option<BooleanArray>, LakeError> {
        let Some(place) = self.op else { return Ok(None) };
        let ops = rows.columns().get(place).and_then(|column| column.as_string_opt::<i32>());
        let ops = ops.ok_or_else(|| bad("changes do not say what is to be done with each row".to_owned()))?;
        for row in 0..ops.len() {
            if ops.is_null(row) || Op::of_word(ops.value(row)).is_none() {
                return Err(at(first_row, row, lingqu_protocol::changes::OP_COLUMN, "it is `upsert` or `delete`"));
            }
        }
        let stays = BooleanBuffer::collect_bool(ops.len(), |row| Op::of_word(ops.value(row)) == Some(Op::Upsert));
        Ok(Some(BooleanArray::new(stays, None)))
    }

    fn is_key(&self, name: &str) -> bool {
        self.keys.iter().filter_map(|key| self.columns.get(*key)).any(|key| key.name == name)
    }
}

/// Rows are counted from 1 for people.
fn at(first_row: u64, row: usize, column: &str, problem: &str) -> LakeError {
    bad(format!("row {}, column {column}: {problem}", first_row + row as u64 + 1))
}

fn bad(what: String) -> LakeError {
    LakeError::BadData { what }
}
