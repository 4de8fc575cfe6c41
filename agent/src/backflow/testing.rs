//! What the tests of sinks share: rows of two columns.

#![allow(clippy::unwrap_used)]

use super::{Begin, Column, Mode, Shape};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use lingqu_protocol::entry::ItemType;
use std::sync::Arc;

/// A key and a name.
pub(crate) fn shape() -> Shape {
    let column = |name: &str, item_type, key| Column { name: name.into(), item_type, key };
    Shape(vec![column("id", ItemType::Int64, true), column("name", ItemType::String, false)])
}

/// A version of such rows.
pub(crate) fn begin(version: u64, mode: Mode) -> Begin {
    Begin { entry: "entry-1".into(), version, mode, shape: shape(), rows: 1 }
}

/// Such rows.
pub(crate) fn rows(rows: &[(i64, &str)]) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1)));
    RecordBatch::try_new(shape().schema(), vec![ids, names]).unwrap()
}
