//! What of a part is decoded for a read, and which rows and columns of it are given.

use super::super::error::LakeError;
use super::super::filter::evaluate;
use super::super::manifest::{Part, TableManifest};
use super::super::scrub::scrub_batch;
use super::{Open, group_of};
use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{and, filter, prep_null_mask_filter};
use arrow::datatypes::{Field, Schema, SchemaRef};
use lingqu_protocol::columns::arrow_type;
use lingqu_protocol::predicate::TypedPredicate;
use lingqu_protocol::views;
use std::sync::Arc;

/// What is read, in places of the entry's items.
pub(super) struct Query {
    pub(super) predicate: Option<TypedPredicate>,
    /// Columns to decode, in order.
    pub(super) decoded: Vec<usize>,
    /// Columns to give, as places among the decoded.
    pub(super) given: Vec<usize>,
    pub(super) schema: SchemaRef,
}

/// Where a part has the columns that are decoded: for each of them its place in a decoded batch, or its type, all null.
pub(super) struct Layout {
    pub(super) places: Vec<Option<usize>>,
    pub(super) leaves: Vec<usize>,
}

impl Query {
    /// Where a part has the columns that are decoded.
    pub(super) fn layout(&self, part: &Part) -> Layout {
        let leaf = |column: &usize| part.leaves.get(*column).copied().flatten();
        let mut leaves: Vec<usize> = self.decoded.iter().filter_map(leaf).collect();
        leaves.sort_unstable();
        leaves.dedup();
        let place = |column: &usize| leaves.binary_search(&leaf(column)?).ok();
        Layout { places: self.decoded.iter().map(place).collect(), leaves: leaves.clone() }
    }

    /// The rows and columns of a piece that are asked for, rebuilt.
    pub(super) fn select(
        &self,
        manifest: &TableManifest,
        open: &Open,
        piece: &RecordBatch,
    ) -> Result<RecordBatch, LakeError> {
        let failed = |e| LakeError::columns("selecting rows", e);
        let first = usize::try_from(open.row).unwrap_or(usize::MAX);
        let rows = piece.num_rows();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.decoded.len());
        for (column, place) in self.decoded.iter().zip(&open.layout.places) {
            let info = manifest.columns.get(*column);
            let target = info.map(|info| arrow_type(info.item_type));
            let target = target.ok_or_else(|| LakeError::columns("selecting rows", "a column that is none"))?;
            columns.push(match place.and_then(|place| piece.columns().get(place)) {
                // Those that the condition reads are needed as they are meant; the others once it is known which rows.
                Some(array) if self.is_read_by_condition(*column) => {
                    views::canonical(array, &target).map_err(failed)?
                }
                Some(array) => Arc::clone(array),
                None => new_null_array(&target, rows),
            });
        }
        let mut mask: Option<BooleanArray> = None;
        if let Some(group) = group_of(manifest, open.part, open.group).filter(|_| !open.is_chosen) {
            mask = group.deleted.staying(first, rows);
        }
        if let Some(predicate) = &self.predicate {
            let fields = self.decoded.iter().zip(&columns);
            let fields = fields.map(|(at, column)| Field::new(at.to_string(), column.data_type().clone(), true));
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
            let batch = RecordBatch::try_new_with_options(schema, columns.clone(), &options).map_err(failed)?;
            let holds = evaluate(predicate, &batch, &|column| self.decoded.binary_search(&column).ok())?;
            // What is unknown is not selected.
            let holds = if holds.null_count() > 0 { prep_null_mask_filter(&holds) } else { holds };
            mask = Some(match mask {
                Some(stays) => and(&stays, &holds).map_err(failed)?,
                None => holds,
            });
        }
        let kept = mask.as_ref().map_or(rows, |mask| mask.true_count());
        let mut given = Vec::with_capacity(self.given.len());
        for (place, field) in self.given.iter().zip(self.schema.fields()) {
            let column = columns.get(*place);
            let column = column.ok_or_else(|| LakeError::columns("selecting rows", "a column was not decoded"))?;
            let column = match &mask {
                Some(mask) if kept < rows => filter(column, mask).map_err(failed)?,
                _ => Arc::clone(column),
            };
            given.push(views::canonical(&column, field.data_type()).map_err(failed)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(kept));
        let selected = RecordBatch::try_new_with_options(self.schema.clone(), given, &options).map_err(failed)?;
        scrub_batch(&selected)
    }

    fn is_read_by_condition(&self, column: usize) -> bool {
        self.predicate.as_ref().is_some_and(|predicate| predicate.columns().contains(&column))
    }
}
