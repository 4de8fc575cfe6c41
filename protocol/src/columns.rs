//! An entry's items as Arrow columns, and what a file's columns lack to be them.
//!
//! Each type has one *canonical* Arrow type ([`arrow_type`]). Programs write the same values in other encodings too (large
//! and view strings, dictionaries): [`differences`] lets those pass, and [`canonical_batch`] turns them into the
//! canonical ones, with the columns in the entry's order. A structure is taken apart: `address{city, street}` is the
//! columns `address.city` and `address.street`, and where the structure is null, so are they.

mod leaves;

use crate::entry::{EntrySpec, ITEMS_MAX, ItemType};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::CastOptions;
use arrow::datatypes::{DataType, Decimal128Type, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use leaves::{leaf_array, leaves};
use std::collections::HashMap;
use std::sync::Arc;
use unicode_normalization::UnicodeNormalization;

/// Bytes that the text of one batch may grow to when dictionaries and views are written out: they can name one long value
/// for every row, so a small batch could otherwise become a very large one.
pub const CANONICAL_BYTES_MAX: u64 = 64 << 20;

/// The time zone of every timestamp.
const UTC: &str = "UTC";

/// The canonical Arrow type of an item: strings `Utf8`, bytes `Binary`, decimals `Decimal128`, days `Date32`, timestamps
/// `Timestamp(Microsecond, "UTC")`.
pub fn arrow_type(item_type: ItemType) -> DataType {
    match item_type {
        ItemType::String => DataType::Utf8,
        ItemType::Int32 => DataType::Int32,
        ItemType::Int64 => DataType::Int64,
        ItemType::Float64 => DataType::Float64,
        // Entries allow no more than the 38 digits of this type, so the scale fits.
        ItemType::Decimal(digits, scale) => DataType::Decimal128(digits, i8::try_from(scale).unwrap_or(i8::MAX)),
        ItemType::Date => DataType::Date32,
        ItemType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
        ItemType::Bool => DataType::Boolean,
        ItemType::Binary => DataType::Binary,
    }
}

/// The type of item that holds every value of an Arrow type, for a first draft of an entry; `None` where there is none
/// (nested types, unsigned 64-bit integers, times without a zone, which could be any instant).
pub fn item_type_for(data_type: &DataType) -> Option<ItemType> {
    Some(match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ItemType::String,
        DataType::Dictionary(_, value) if !matches!(**value, DataType::Dictionary(..)) => item_type_for(value)?,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => ItemType::Int32,
        DataType::Int64 | DataType::UInt32 => ItemType::Int64,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => ItemType::Float64,
        DataType::Decimal32(digits, scale)
        | DataType::Decimal64(digits, scale)
        | DataType::Decimal128(digits, scale) => {
            ItemType::Decimal(*digits, u8::try_from(*scale).ok().filter(|scale| scale <= digits)?)
        }
        DataType::Date32 | DataType::Date64 => ItemType::Date,
        DataType::Timestamp(_, Some(_)) => ItemType::Timestamp,
        DataType::Boolean => ItemType::Bool,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            ItemType::Binary
        }
        _ => return None,
    })
}

/// The columns of a schema that hold values, under their dotted names: what an entry's items for it are called. One may be
/// null where it or anything above it may.
pub fn leaf_fields(schema: &Schema) -> Vec<Field> {
    let nullable = |path: &[usize]| {
        let Some((first, rest)) = path.split_first() else { return true };
        let Some(mut field) = schema.fields().get(*first) else { return true };
        let mut nullable = field.is_nullable();
        for place in rest {
            let DataType::Struct(fields) = field.data_type() else { return true };
            let Some(next) = fields.get(*place) else { return true };
            nullable |= next.is_nullable();
            field = next;
        }
        nullable
    };
    let leaves = leaves(schema, &|_| false);
    leaves.iter().map(|leaf| Field::new(&leaf.name, leaf.data_type.clone(), nullable(&leaf.path))).collect()
}

/// The canonical schema of a whole entry; empty for an entry of files.
pub fn arrow_schema(entry: &EntrySpec) -> SchemaRef {
    projected_schema(entry, &(0..entry.items.len()).collect::<Vec<_>>())
}

/// The canonical schema of the items at `places`, in that order; places that the entry does not have are left out.
pub fn projected_schema(entry: &EntrySpec, places: &[usize]) -> SchemaRef {
    let items = places.iter().filter_map(|place| entry.items.get(*place));
    let fields = items.map(|item| Field::new(&item.name, arrow_type(item.item_type), item.nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Places of `columns` among an entry's items, in the entry's order, which is the order in which columns travel.
///
/// # Errors
/// The first name that the entry does not have.
pub fn places(entry: &EntrySpec, columns: &[String]) -> Result<Vec<usize>, String> {
    let known: HashMap<&str, usize> = entry.items.iter().enumerate().map(|(i, item)| (item.name.as_str(), i)).collect();
    let found = columns.iter().map(|name| known.get(name.as_str()).copied().ok_or_else(|| name.clone()));
    let mut places = found.collect::<Result<Vec<_>, _>>()?;
    places.sort_unstable();
    places.dedup();
    Ok(places)
}

/// One way in which a file's columns are not the entry's. The fault is the file's, or the entry needs an update.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// The file lacks a column.
    #[error("column {name:?} ({expected}) is missing")]
    Missing {
        /// The item.
        name: String,
        /// Its type.
        expected: ItemType,
    },
    /// The file has a column that the entry does not have.
    #[error("column {name:?} is not in the entry: drop it, or update the entry")]
    Extra {
        /// The column.
        name: String,
    },
    /// The file writes a column's name in another case, Unicode form or with spaces around it.
    #[error("column {found:?} is called {name:?} in the entry: rename it")]
    Renamed {
        /// The item.
        name: String,
        /// The column.
        found: String,
    },
    /// A column has another type.
    #[error("column {name:?} is {found} in the file and {expected} in the entry")]
    Retyped {
        /// The item.
        name: String,
        /// Its type.
        expected: ItemType,
        /// The column's Arrow type.
        found: String,
    },
    /// A column holds several values a row.
    #[error("column {name:?} is {found}: lists and maps are not shared; make one row of each value, or leave it out")]
    Unsupported {
        /// The column.
        name: String,
        /// Its Arrow type.
        found: String,
    },
    /// The file has two columns of one name.
    #[error("column {name:?} stands twice in the file")]
    Repeated {
        /// The column.
        name: String,
    },
}

/// Every difference between an entry and a file's schema; none where the file fits. Order is free, and so is what a schema
/// says of nulls, which is checked on the values.
pub fn differences(entry: &EntrySpec, schema: &Schema) -> Vec<Difference> {
    let known: HashMap<&str, ItemType> = entry.items.iter().map(|i| (i.name.as_str(), i.item_type)).collect();
    let leaves = leaves(schema, &|name| known.contains_key(name));
    let mut found: HashMap<&str, &DataType> = HashMap::new();
    let mut differences = Vec::new();
    for leaf in &leaves {
        if found.insert(&leaf.name, leaf.data_type).is_some() {
            differences.push(Difference::Repeated { name: cut(&leaf.name) });
        }
    }
    let mut extra: HashMap<String, &str> =
        found.keys().filter(|name| !known.contains_key(*name)).map(|name| (loose(name), *name)).collect();
    for item in &entry.items {
        let (name, expected) = (item.name.clone(), item.item_type);
        match found.get(name.as_str()) {
            Some(data_type) if is_encoding_of(expected, data_type) => {}
            Some(data_type) if data_type.is_nested() && !matches!(data_type, DataType::Struct(_)) => {
                differences.push(Difference::Unsupported { name, found: shown(data_type) });
            }
            Some(data_type) => differences.push(Difference::Retyped { name, expected, found: shown(data_type) }),
            None => differences.push(match extra.remove(&loose(&name)) {
                Some(found) => Difference::Renamed { name, found: cut(found) },
                None => Difference::Missing { name, expected },
            }),
        }
    }
    let mut extra: Vec<&str> = extra.into_values().collect();
    extra.sort_unstable();
    // A file may have any number of columns; a list of more than this helps nobody.
    differences.extend(extra.into_iter().take(ITEMS_MAX).map(|name| match found.get(name) {
        Some(data_type) if data_type.is_nested() => {
            Difference::Unsupported { name: cut(name), found: shown(data_type) }
        }
        _ => Difference::Extra { name: cut(name) },
    }));
    differences
}

/// Why a batch cannot be made canonical.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    /// Its columns are not the entry's.
    #[error("the batch does not fit the entry: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Differs(Vec<Difference>),
    /// Written out it would be too large.
    #[error("a batch would take more than {CANONICAL_BYTES_MAX} bytes: write smaller batches or row groups")]
    TooLarge,
    /// A column that always has a value lacks one.
    #[error("column {name:?} lacks a value in {count} rows: fill it in, or say nullable = true in the entry")]
    Null {
        /// The item.
        name: String,
        /// Rows without a value.
        count: usize,
    },
    /// Arrow cannot do it.
    #[error("the batch cannot be read: {0}")]
    Arrow(#[from] ArrowError),
}

/// A batch with the entry's columns in the entry's order and canonical types. Columns that are canonical are passed on
/// without a copy.
///
/// # Errors
/// Where its columns are not the entry's, a value is missing that may not be, a decimal has more digits than its type, or
/// the batch would grow past [`CANONICAL_BYTES_MAX`].
pub fn canonical_batch(entry: &EntrySpec, batch: &RecordBatch) -> Result<RecordBatch, CanonicalError> {
    let differences = differences(entry, batch.schema_ref());
    if !differences.is_empty() {
        return Err(CanonicalError::Differs(differences));
    }
    let leaves = leaves(batch.schema_ref(), &|name| entry.item(name).is_some());
    let paths: HashMap<&str, &[usize]> = leaves.iter().map(|leaf| (leaf.name.as_str(), &leaf.path[..])).collect();
    let mut bytes = 0u64;
    let mut columns = Vec::with_capacity(entry.items.len());
    for item in &entry.items {
        let column = paths.get(item.name.as_str()).map(|path| leaf_array(batch, path)).transpose()?.flatten();
        let column = column.ok_or_else(|| {
            let missing = Difference::Missing { name: item.name.clone(), expected: item.item_type };
            CanonicalError::Differs(vec![missing])
        })?;
        let target = arrow_type(item.item_type);
        let column: ArrayRef = if *column.data_type() == target {
            column
        } else {
            bytes = bytes.saturating_add(written_out_bytes(&column));
            if bytes > CANONICAL_BYTES_MAX {
                return Err(CanonicalError::TooLarge);
            }
            // Not safe mode: it would turn what cannot be cast into nulls without a word.
            let options = CastOptions { safe: false, ..CastOptions::default() };
            arrow::compute::cast_with_options(&column, &target, &options)?
        };
        if let (ItemType::Decimal(digits, _), Some(decimals)) =
            (item.item_type, column.as_primitive_opt::<Decimal128Type>())
        {
            // The type promises so many digits; a file can hold more, and every sum over them would be wrong.
            decimals.validate_decimal_precision(digits)?;
        }
        let count = column.logical_null_count();
        if !item.nullable && count > 0 {
            return Err(CanonicalError::Null { name: item.name.clone(), count });
        }
        columns.push(column);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(arrow_schema(entry), columns, &options)?)
}

/// Whether an Arrow type holds exactly the values of an item's type, in whatever encoding.
fn is_encoding_of(item_type: ItemType, data_type: &DataType) -> bool {
    match (item_type, data_type) {
        // A dictionary in a dictionary is nobody's data.
        (ItemType::String | ItemType::Binary, DataType::Dictionary(_, value)) => {
            !matches!(**value, DataType::Dictionary(..)) && is_encoding_of(item_type, value)
        }
        (ItemType::String, DataType::LargeUtf8 | DataType::Utf8View) => true,
        (ItemType::Binary, DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_)) => true,
        // Coarser units widen without loss; finer ones would lose digits. UTC has several names.
        (ItemType::Timestamp, DataType::Timestamp(unit, Some(zone))) => {
            *unit != TimeUnit::Nanosecond && matches!(zone.as_ref(), "UTC" | "Z" | "+00:00" | "Etc/UTC" | "GMT")
        }
        _ => *data_type == arrow_type(item_type),
    }
}

/// Bytes that the values of a column take when each is written out on its own.
fn written_out_bytes(column: &ArrayRef) -> u64 {
    match column.data_type() {
        DataType::Utf8View => column.as_string_view().lengths().map(u64::from).sum(),
        DataType::BinaryView => column.as_binary_view().lengths().map(u64::from).sum(),
        DataType::Dictionary(_, _) => {
            let dictionary = column.as_any_dictionary();
            let lengths = value_lengths(dictionary.values());
            if lengths.is_empty() {
                // All is null.
                return 0;
            }
            // Keys of null rows may be anything, and count for at most one value each.
            let keys = dictionary.normalized_keys();
            keys.into_iter().map(|key| lengths.get(key).copied().unwrap_or(0)).fold(0, u64::saturating_add)
        }
        _ => column.get_array_memory_size() as u64,
    }
}

fn value_lengths(values: &ArrayRef) -> Vec<u64> {
    let longest = |column: &ArrayRef| column.get_array_memory_size() as u64;
    match values.data_type() {
        DataType::Utf8 => values.as_string::<i32>().iter().map(|v| v.map_or(0, |v| v.len() as u64)).collect(),
        DataType::LargeUtf8 => values.as_string::<i64>().iter().map(|v| v.map_or(0, |v| v.len() as u64)).collect(),
        DataType::Utf8View => values.as_string_view().lengths().map(u64::from).collect(),
        DataType::Binary => values.as_binary::<i32>().iter().map(|v| v.map_or(0, |v| v.len() as u64)).collect(),
        DataType::LargeBinary => values.as_binary::<i64>().iter().map(|v| v.map_or(0, |v| v.len() as u64)).collect(),
        // No better bound is known, so each key may stand for all of it.
        _ => vec![longest(values); values.len()],
    }
}

/// A file's own name for a column, cut to a length that can be shown.
fn cut(name: &str) -> String {
    name.chars().take(200).collect()
}

fn shown(data_type: &DataType) -> String {
    data_type.to_string().chars().take(80).collect()
}

fn loose(name: &str) -> String {
    name.trim().nfc().flat_map(char::to_lowercase).nfc().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
