//! What keys are answered with under one permit: the rows that have them and that the grant gives, in the order in which they
//! were asked; each key that has none gets one row that says so. Queries and matches share it.

use super::Flow;
use super::error::FlowError;
use super::record::VersionRow;
use super::serve_table::{CHANGED, same_column};
use super::transform::Transforming;
use crate::gate::{Permit, PullPermit};
use crate::lake::keys::{key_hashes, zeros_alike};
use crate::lake::manifest::TableManifest;
use crate::lake::scrub::scrub_batch;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{interleave, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{Row, RowConverter, SortField};
use lingqu_protocol::columns::{arrow_schema, arrow_type};
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::keys::{FOUND_COLUMN, key_entry};
use lingqu_protocol::predicate::{CompareOp, TypedPredicate, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// Rows that may have one of the keys of one answer: their places take some megabytes.
const CANDIDATES_MAX: usize = 1 << 18;

/// What keys are answered with.
pub(super) struct Answering {
    manifest: Arc<TableManifest>,
    /// The provider's condition, in places of the version.
    rows: Option<TypedPredicate>,
    keys: Arc<EntrySpec>,
    key_schema: SchemaRef,
    /// Places of the key's columns in the version.
    key_places: Vec<usize>,
    /// What is read: the key's columns, then the others that leave.
    names: Vec<String>,
    /// Of answers before masks and pseudonyms are made.
    plain: SchemaRef,
    transforming: Transforming,
}

/// How much one answer may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Rows that are found.
    pub(super) rows: usize,
    /// Bytes of Arrow memory that they take.
    pub(super) bytes: usize,
}

impl Answering {
    /// Of a version, under this permit.
    ///
    /// # Errors
    /// The version has other columns than its entry now; the lake.
    pub(super) async fn new(flow: &Flow, permit: &PullPermit, version: &VersionRow) -> Result<Self, FlowError> {
        let spec = &permit.entry().spec;
        let manifest = flow.opened_version(version, spec).await?;
        let changed = || FlowError::bad_data(CHANGED);
        let place = |item: usize| same_column(spec, item, &manifest);
        let rows = permit.rows().map(|rows| rows.moved(&place).ok_or_else(changed)).transpose()?;
        let key_places = spec.key_columns().map(place).collect::<Option<Vec<_>>>().ok_or_else(changed)?;
        if spec.item(FOUND_COLUMN).is_some() {
            return Err(FlowError::bad_data(format!("the entry has an item {FOUND_COLUMN}: it is not asked by key")));
        }
        let is_key = |item: usize| spec.items.get(item).is_some_and(|item| item.key);
        // Places among the permit's columns and the entry's items, of all that are no keys.
        let others: Vec<(usize, usize)> =
            permit.columns().iter().copied().enumerate().filter(|(_, item)| !is_key(*item)).collect();
        if others.iter().any(|(_, item)| place(*item).is_none()) {
            return Err(changed());
        }
        let keys = Arc::new(key_entry(spec));
        let key_schema = arrow_schema(&keys);
        let key_count = key_schema.fields().len();
        let items = others.iter().filter_map(|(_, item)| spec.items.get(*item));
        let names = keys.items.iter().chain(items.clone()).map(|item| item.name.clone()).collect();
        let found = Arc::new(Field::new(FOUND_COLUMN, DataType::Boolean, false));
        let other_fields = items.map(|item| Arc::new(Field::new(&item.name, arrow_type(item.item_type), true)));
        let fields = key_schema.fields().iter().cloned().chain([found]).chain(other_fields);
        let plain = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let transform = |column: usize| {
            let (of_permit, _) = others.get(column.checked_sub(key_count + 1)?)?;
            permit.transform(*of_permit)
        };
        let transforming = Transforming::new(&plain, transform, flow.pseudonyms().key(permit.under())?)?;
        Ok(Self { manifest, rows, keys, key_schema, key_places, names, plain, transforming })
    }

    /// An entry whose rows are keys.
    pub(super) const fn keys(&self) -> &Arc<EntrySpec> {
        &self.keys
    }

    /// What rows of keys have.
    pub(super) const fn key_schema(&self) -> &SchemaRef {
        &self.key_schema
    }

    /// What happens to answers before they leave.
    pub(super) const fn transforming(&self) -> &Transforming {
        &self.transforming
    }

    /// What a row with this one key must be.
    pub(super) fn near(&self, key: &[Value]) -> TypedPredicate {
        let same = |(column, value): (&usize, &Value)| TypedPredicate::Compare {
            column: *column,
            op: CompareOp::Eq,
            value: value.clone(),
        };
        TypedPredicate::And(self.key_places.iter().zip(key).map(same).collect())
    }

    /// The answers to some keys, before masks and pseudonyms are made, and how many rows were found; `None` where they are
    /// more than the bounds. The leash is checked for every batch that is read.
    ///
    /// # Errors
    /// A cut; damaged at rest; the store failed.
    pub(super) async fn answer(
        self: &Arc<Self>,
        flow: &Flow,
        permit: &PullPermit,
        asked: RecordBatch,
        near: Option<&TypedPredicate>,
        bounds: Bounds,
    ) -> Result<Option<(RecordBatch, u64)>, FlowError> {
        let hashes = key_hashes(&asked)?;
        let lookup = flow.lookup();
        let found = lookup.rows(&self.manifest, &self.key_places, &hashes, near, CANDIDATES_MAX).await?;
        let Some(chosen) = found else { return Ok(None) };
        let mut batches = Vec::new();
        if !chosen.is_empty() {
            let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
            let mut reader = lookup.read(&self.manifest, &names, self.rows.clone(), chosen)?;
            let (mut rows, mut bytes) = (0, 0);
            while let Some(batch) = reader.next().await? {
                permit.leash().check()?;
                rows += batch.num_rows();
                bytes += batch.get_array_memory_size();
                if rows > bounds.rows || bytes > bounds.bytes {
                    return Ok(None);
                }
                batches.push(batch);
            }
        }
        let this = Arc::clone(self);
        let composed = tokio::task::spawn_blocking(move || {
            let (batch, found) = this.compose(&asked, &batches).map_err(|e| FlowError::Machine(e.to_string()))?;
            Ok::<_, FlowError>((scrub_batch(&batch)?, found))
        });
        composed.await?.map(Some)
    }

    /// For each row of an answer its key's hash, and whether something was found for it.
    ///
    /// # Errors
    /// What is no answer: ours.
    pub(super) fn found(&self, answer: &RecordBatch) -> Result<impl Iterator<Item = (u64, bool)>, FlowError> {
        let ours = |e: &dyn std::fmt::Display| FlowError::Machine(e.to_string());
        let key_count = self.key_schema.fields().len();
        let keys = answer.project(&(0..key_count).collect::<Vec<_>>()).map_err(|e| ours(&e))?;
        let found = answer.columns().get(key_count).and_then(|column| column.as_boolean_opt().cloned());
        let found = found.ok_or_else(|| ours(&"an answer that does not say what was found"))?;
        Ok(key_hashes(&keys)?.into_iter().enumerate().map(move |(row, hash)| (hash, found.value(row))))
    }

    /// Rows that were found beside the keys that were asked, and how many of them there are. Rows whose key has the same
    /// hash as one that was asked and is another stay behind here.
    fn compose(&self, asked: &RecordBatch, found: &[RecordBatch]) -> Result<(RecordBatch, u64), ArrowError> {
        let key_count = self.key_schema.fields().len();
        let fields = self.key_schema.fields().iter().map(|field| SortField::new(field.data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        let of_keys = |batch: &RecordBatch| {
            let columns: Vec<ArrayRef> = batch.columns().iter().take(key_count).map(zeros_alike).collect();
            converter.convert_columns(&columns)
        };
        let asked_keys = of_keys(asked)?;
        // Which different key each that was asked is.
        let mut known: HashMap<Row<'_>, usize> = HashMap::new();
        let numbers: Vec<usize> = asked_keys
            .iter()
            .map(|key| {
                let next = known.len();
                *known.entry(key).or_insert(next)
            })
            .collect();
        // (key, batch, row), by key, rows of one in the order in which they lie.
        let mut rows: Vec<(usize, usize, usize)> = Vec::new();
        for (at, batch) in found.iter().enumerate() {
            let keys = of_keys(batch)?;
            rows.extend(keys.iter().enumerate().filter_map(|(row, key)| Some((*known.get(&key)?, at, row))));
        }
        rows.sort_by_key(|(key, ..)| *key);
        let (mut of_asked, mut picked, mut is_found) = (Vec::new(), Vec::new(), Vec::new());
        for (ordinal, key) in (0u32..).zip(&numbers) {
            let start = rows.partition_point(|(of, ..)| of < key);
            let before = picked.len();
            for (_, batch, row) in rows.iter().skip(start).take_while(|(of, ..)| of == key) {
                of_asked.push(ordinal);
                picked.push((batch + 1, *row));
                is_found.push(true);
            }
            if picked.len() == before {
                of_asked.push(ordinal);
                picked.push((0, 0));
                is_found.push(false);
            }
        }
        let found_rows = is_found.iter().filter(|found| **found).count() as u64;
        let of_asked = UInt32Array::from(of_asked);
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.plain.fields().len());
        for column in asked.columns() {
            columns.push(take(column, &of_asked, None)?);
        }
        columns.push(Arc::new(BooleanArray::from(is_found)));
        for (place, field) in self.plain.fields().iter().skip(key_count + 1).enumerate() {
            let none = new_null_array(field.data_type(), 1);
            let mut sources: Vec<&dyn Array> = vec![none.as_ref()];
            for batch in found {
                let column = batch.columns().get(key_count + place);
                let missing = || ArrowError::SchemaError("a column was not read".to_owned());
                sources.push(column.ok_or_else(missing)?.as_ref());
            }
            columns.push(interleave(&sources, &picked)?);
        }
        Ok((RecordBatch::try_new(Arc::clone(&self.plain), columns)?, found_rows))
    }
}
