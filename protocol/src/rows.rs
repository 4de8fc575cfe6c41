//! The digest of a set of rows: the same whatever the order of the rows, the cuts into batches and files, and the format
//! they lie in. Provider, gateway and receiver each compute it and compare.
//!
//! # Specification (version 1)
//!
//! All integers are big-endian. A row is encoded as the concatenation of its cells, in the order of the entry's items (of
//! those items alone that are delivered). A cell is
//!
//! ```text
//! type tag   1 byte
//! presence   1 byte, 0 = null (the cell ends here), 1 = a value follows
//! value      as below
//! ```
//!
//! | item | tag | value |
//! |---|---|---|
//! | string | 1 | length in bytes, 4 bytes; the UTF-8 bytes as they are, not normalised |
//! | int32 | 2 | 4 bytes, two's complement |
//! | int64 | 3 | 8 bytes, two's complement |
//! | float64 | 4 | 8 bytes, IEEE 754 binary64; every NaN is written `7ff8000000000000`; -0 and 0 stay two values |
//! | decimal(p,s) | 5 | 16 bytes, two's complement: the value times 10^s, s being the entry's scale |
//! | date | 6 | 4 bytes, two's complement: days since 1970-01-01 |
//! | timestamp | 7 | 8 bytes, two's complement: microseconds since 1970-01-01T00:00:00Z |
//! | bool | 8 | 1 byte: 0 or 1 |
//! | binary | 9 | length in bytes, 4 bytes; the bytes |
//!
//! The hash of a row is the BLAKE3 hash (32 bytes) of its encoding, read as an integer. The *sum* is the sum of the hashes
//! of all rows modulo 2^256. The digest is the BLAKE3 hash of
//!
//! ```text
//! "lingqu rows_digest 1\n"   21 bytes
//! count of rows              8 bytes
//! sum                        32 bytes
//! ```
//!
//! NaN has one form because formats do not keep its other bits. -0 keeps its sign because formats do keep it, so a sign
//! that got lost is damage. Names of columns are not in it: both sides agree on the entry first. Rows that occur twice
//! count twice. Test vectors: docs/vectors/rows_digest.json.
//!
//! # What it proves, and what not
//!
//! Among parties that are honest it finds loss, duplication and damage of rows. It is not a commitment: one who chooses the
//! rows can find other rows with the same sum (it is the AdHash construction, which a generalised birthday attack breaks
//! at this width). `bytes_root`, over what was delivered, is the one to hold a liar to.

use crate::columns::{arrow_type, item_type_for};
use crate::digest::Digest;
use crate::entry::{EntrySpec, ItemType};
use arrow::array::{Array, AsArray, BinaryArray, BooleanArray, PrimitiveArray, RecordBatch, StringArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, Schema, TimestampMicrosecondType,
};

/// What stands before count and sum, so that no other digest of this program is over the same bytes.
const DOMAIN: &[u8; 21] = b"lingqu rows_digest 1\n";

/// The bits of every NaN.
const NAN_BITS: u64 = 0x7ff8_0000_0000_0000;

/// Count and sum of rows: all that a digest needs, so it can be kept with a part and added to others'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowsSum {
    /// Rows.
    pub count: u64,
    /// Sum of their hashes modulo 2^256, the least significant limb first.
    limbs: [u64; 4],
}

impl RowsSum {
    /// Bytes of [`to_bytes`](Self::to_bytes).
    pub const BYTES: usize = 40;

    /// Adds the rows of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.count = self.count.wrapping_add(other.count);
        self.add(other.limbs);
    }

    /// The digest of these rows.
    pub fn digest(&self) -> Digest {
        let mut text = [0; DOMAIN.len() + Self::BYTES];
        let (domain, rest) = text.split_at_mut(DOMAIN.len());
        domain.copy_from_slice(DOMAIN);
        rest.copy_from_slice(&self.to_bytes());
        Digest::blake3(&text)
    }

    /// Count (8 bytes) and sum (32 bytes), big-endian.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let words = [self.count, self.limbs[3], self.limbs[2], self.limbs[1], self.limbs[0]];
        let mut bytes = [0; Self::BYTES];
        for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) wrote.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut words = [0; 5];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        let [count, limbs @ ..] = words;
        Self { count, limbs: [limbs[3], limbs[2], limbs[1], limbs[0]] }
    }

    fn add(&mut self, limbs: [u64; 4]) {
        let mut carry = false;
        for (sum, limb) in self.limbs.iter_mut().zip(limbs) {
            let (partial, first) = sum.overflowing_add(limb);
            let (total, second) = partial.overflowing_add(u64::from(carry));
            *sum = total;
            carry = first || second;
        }
    }

    fn add_row(&mut self, encoded: &[u8]) {
        let hash = blake3::hash(encoded);
        let mut limbs = [0; 4];
        for (limb, chunk) in limbs.iter_mut().rev().zip(hash.as_bytes().chunks_exact(8)) {
            *limb = chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        self.count = self.count.wrapping_add(1);
        self.add(limbs);
    }
}

/// Computes the digest of rows as their batches pass.
#[derive(Clone, Debug)]
pub struct RowsDigest {
    columns: Vec<(String, ItemType)>,
    sum: RowsSum,
    /// The encoding of one row, kept for its memory.
    row: Vec<u8>,
}

/// A batch that is not one of the rows that are summed up. The caller makes batches canonical first
/// ([`crate::columns::canonical_batch`]).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowsError {
    /// Another number of columns.
    #[error("the batch has {found} columns, and the digest is over {expected}")]
    Columns {
        /// Of the digest.
        expected: usize,
        /// Of the batch.
        found: usize,
    },
    /// Another column in a place, or a type that is not canonical.
    #[error("column {place} of the batch is {found}, and the digest is over {expected}")]
    Column {
        /// From 0.
        place: usize,
        /// Name and Arrow type in the digest.
        expected: String,
        /// Name and Arrow type in the batch.
        found: String,
    },
}

impl RowsDigest {
    /// Over all items of a table.
    pub fn new(entry: &EntrySpec) -> Self {
        Self::over(entry.items.iter().map(|item| (item.name.clone(), item.item_type)))
    }

    /// Over the items at `places` (in the order of the entry: see [`crate::columns::places`]).
    pub fn of_places(entry: &EntrySpec, places: &[usize]) -> Self {
        let items = places.iter().filter_map(|place| entry.items.get(*place));
        Self::over(items.map(|item| (item.name.clone(), item.item_type)))
    }

    /// Over the columns of a canonical schema, as a batch on the wire has; `None` where a column's type is of no item.
    pub fn of_schema(schema: &Schema) -> Option<Self> {
        let columns = schema.fields().iter().map(|f| Some((f.name().clone(), item_type_for(f.data_type())?)));
        Some(Self::over(columns.collect::<Option<Vec<_>>>()?.into_iter()))
    }

    fn over(columns: impl Iterator<Item = (String, ItemType)>) -> Self {
        Self { columns: columns.collect(), sum: RowsSum::default(), row: Vec::new() }
    }

    /// Adds the rows of a batch, whose columns are exactly those of the digest, in their order and canonical types.
    ///
    /// # Errors
    /// Where they are not; nothing is added then.
    pub fn update(&mut self, batch: &RecordBatch) -> Result<(), RowsError> {
        let cells = self.cells(batch)?;
        for row in 0..batch.num_rows() {
            self.row.clear();
            for cell in &cells {
                cell.encode(row, &mut self.row);
            }
            self.sum.add_row(&self.row);
        }
        Ok(())
    }

    /// Gives `take` each row of a batch with the sum of it alone, to be merged where the row belongs: this is how the
    /// digests of all region slices come out of one pass. The digest's own sum is not changed.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn each_row(&mut self, batch: &RecordBatch, mut take: impl FnMut(usize, &RowsSum)) -> Result<(), RowsError> {
        let cells = self.cells(batch)?;
        for row in 0..batch.num_rows() {
            self.row.clear();
            cells.iter().for_each(|cell| cell.encode(row, &mut self.row));
            let mut alone = RowsSum::default();
            alone.add_row(&self.row);
            take(row, &alone);
        }
        Ok(())
    }

    /// Adds the rows that `other` has seen, over the same columns.
    pub fn merge(&mut self, other: &Self) {
        self.sum.merge(&other.sum);
    }

    /// Count and sum so far.
    pub fn sum(&self) -> RowsSum {
        self.sum
    }

    /// The digest of the rows so far.
    pub fn finish(&self) -> Digest {
        self.sum.digest()
    }

    fn cells<'a>(&self, batch: &'a RecordBatch) -> Result<Vec<Cells<'a>>, RowsError> {
        if batch.num_columns() != self.columns.len() {
            return Err(RowsError::Columns { expected: self.columns.len(), found: batch.num_columns() });
        }
        let schema = batch.schema_ref();
        let columns = self.columns.iter().zip(schema.fields().iter().zip(batch.columns()));
        let mut cells = Vec::with_capacity(self.columns.len());
        for (place, ((name, item_type), (field, column))) in columns.enumerate() {
            let canonical = if field.name() == name { Cells::new(column.as_ref(), *item_type) } else { None };
            cells.push(canonical.ok_or_else(|| RowsError::Column {
                place,
                expected: format!("{name:?} {}", arrow_type(*item_type)),
                found: format!("{:?} {}", field.name(), column.data_type()).chars().take(200).collect(),
            })?);
        }
        Ok(cells)
    }
}

/// The cells of a column, by their canonical type.
struct Cells<'a> {
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    String(&'a StringArray),
    Int32(&'a PrimitiveArray<Int32Type>),
    Int64(&'a PrimitiveArray<Int64Type>),
    Float64(&'a PrimitiveArray<Float64Type>),
    Decimal(&'a PrimitiveArray<Decimal128Type>),
    Date(&'a PrimitiveArray<Date32Type>),
    Timestamp(&'a PrimitiveArray<TimestampMicrosecondType>),
    Bool(&'a BooleanArray),
    Binary(&'a BinaryArray),
}

impl<'a> Cells<'a> {
    /// `None` where the column is not of the canonical type.
    fn new(column: &'a dyn Array, item_type: ItemType) -> Option<Self> {
        if *column.data_type() != arrow_type(item_type) {
            return None;
        }
        let values = match item_type {
            ItemType::String => Values::String(column.as_string_opt()?),
            ItemType::Int32 => Values::Int32(column.as_primitive_opt()?),
            ItemType::Int64 => Values::Int64(column.as_primitive_opt()?),
            ItemType::Float64 => Values::Float64(column.as_primitive_opt()?),
            ItemType::Decimal(..) => Values::Decimal(column.as_primitive_opt()?),
            ItemType::Date => Values::Date(column.as_primitive_opt()?),
            ItemType::Timestamp => Values::Timestamp(column.as_primitive_opt()?),
            ItemType::Bool => Values::Bool(column.as_boolean_opt()?),
            ItemType::Binary => Values::Binary(column.as_binary_opt()?),
        };
        Some(Self { nulls: column.nulls().filter(|nulls| nulls.null_count() > 0), values })
    }

    /// Appends the cell of `row`.
    fn encode(&self, row: usize, out: &mut Vec<u8>) {
        out.push(self.tag());
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            out.push(0);
            return;
        }
        out.push(1);
        match &self.values {
            Values::String(column) => encode_bytes(column.value(row).as_bytes(), out),
            Values::Int32(column) => out.extend_from_slice(&column.value(row).to_be_bytes()),
            Values::Int64(column) => out.extend_from_slice(&column.value(row).to_be_bytes()),
            Values::Float64(column) => {
                let value = column.value(row);
                let bits = if value.is_nan() { NAN_BITS } else { value.to_bits() };
                out.extend_from_slice(&bits.to_be_bytes());
            }
            Values::Decimal(column) => out.extend_from_slice(&column.value(row).to_be_bytes()),
            Values::Date(column) => out.extend_from_slice(&column.value(row).to_be_bytes()),
            Values::Timestamp(column) => out.extend_from_slice(&column.value(row).to_be_bytes()),
            Values::Bool(column) => out.push(u8::from(column.value(row))),
            Values::Binary(column) => encode_bytes(column.value(row), out),
        }
    }

    const fn tag(&self) -> u8 {
        match self.values {
            Values::String(_) => 1,
            Values::Int32(_) => 2,
            Values::Int64(_) => 3,
            Values::Float64(_) => 4,
            Values::Decimal(_) => 5,
            Values::Date(_) => 6,
            Values::Timestamp(_) => 7,
            Values::Bool(_) => 8,
            Values::Binary(_) => 9,
        }
    }
}

fn encode_bytes(value: &[u8], out: &mut Vec<u8>) {
    // A column of this type has 32-bit offsets, so no value is longer than 31 bits.
    let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(value);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
