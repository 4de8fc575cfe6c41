//! The digest of a set of rows: the same whatever the order of the rows, the cuts into batches and files, and the format
//! they lie in. Provider, gateway and receiver each compute it and compare.
//!
//! # Specification (version 2)
//!
//! All integers are big-endian. A row is encoded as the concatenation of its cells that have a value, in the order of the
//! entry's items (of those items alone that are delivered); a missing value is not written. A cell is
//!
//! ```text
//! place      2 bytes, the item's place among those that are delivered, from 0
//! type tag   1 byte
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
//! The hash of a row is XXH3 with 128 bits and seed 0 over its encoding, read as an integer (the canonical form that
//! `xxhsum -H2` prints). The *sum* is the sum of the hashes of all rows modulo 2^128. The digest is the BLAKE3 hash of
//!
//! ```text
//! "lingqu rows_digest 2\n"   21 bytes
//! count of rows              8 bytes
//! sum                        16 bytes
//! ```
//!
//! NaN has one form because formats do not keep its other bits. -0 keeps its sign because formats do keep it, so a sign
//! that got lost is damage. Missing values are not written, so that an item which an entry gains at its end changes no
//! digest of the rows from before. Names of columns are not in it: both sides agree on the entry first. Rows that occur
//! twice count twice. Test vectors: docs/vectors/rows_digest.json.
//!
//! # What it proves, and what not
//!
//! Among parties that are honest it finds loss, duplication and damage of rows, and a difference by accident goes unseen
//! once in 2^128. It is not a commitment, and a hash of rows with more bits or a key would not make it one: a sum of hashes
//! gives way to a generalised birthday attack at any width that is worth its time. So the hash of a row is one that costs
//! a tenth of reading the row and not several times as much. `bytes_root`, over what was delivered, is the one to hold a
//! liar to.

mod cells;

use crate::columns::{arrow_type, item_type_for};
use crate::digest::Digest;
use crate::entry::{EntrySpec, ItemType};
use arrow::array::{Array as _, RecordBatch};
use arrow::datatypes::Schema;
use cells::{Cells, Row};
use twox_hash::XxHash3_128;

/// What stands before count and sum, so that no other digest of this program is over the same bytes.
const DOMAIN: &[u8; 21] = b"lingqu rows_digest 2\n";

/// The bits of every NaN.
const NAN_BITS: u64 = 0x7ff8_0000_0000_0000;

/// Count and sum of rows: all that a digest needs, so it can be kept with a part and added to others'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowsSum {
    /// Rows.
    pub count: u64,
    /// Sum of their hashes modulo 2^128.
    sum: u128,
}

impl RowsSum {
    /// Bytes of [`to_bytes`](Self::to_bytes).
    pub const BYTES: usize = 24;

    /// Adds the rows of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.count = self.count.wrapping_add(other.count);
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// Takes the rows of `other` away, which were added before.
    pub fn take(&mut self, other: &Self) {
        self.count = self.count.wrapping_sub(other.count);
        self.sum = self.sum.wrapping_sub(other.sum);
    }

    /// Adds one row by its hash.
    pub fn add_row(&mut self, hash: u128) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(hash);
    }

    /// The digest of these rows.
    pub fn digest(&self) -> Digest {
        let mut text = [0; DOMAIN.len() + Self::BYTES];
        let (domain, rest) = text.split_at_mut(DOMAIN.len());
        domain.copy_from_slice(DOMAIN);
        rest.copy_from_slice(&self.to_bytes());
        Digest::blake3(&text)
    }

    /// Count (8 bytes) and sum (16 bytes), big-endian.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (count, sum) = bytes.split_at_mut(8);
        count.copy_from_slice(&self.count.to_be_bytes());
        sum.copy_from_slice(&self.sum.to_be_bytes());
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) wrote.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let number = |bytes: &[u8]| bytes.iter().fold(0u128, |word, byte| word << 8 | u128::from(*byte));
        let (count, sum) = bytes.split_at(8);
        Self { count: number(count) as u64, sum: number(sum) }
    }
}

/// Computes the digest of rows as their batches pass.
#[derive(Clone, Debug)]
pub struct RowsDigest {
    columns: Vec<(String, ItemType)>,
    sum: RowsSum,
    row: Row,
    /// Of the last batch. Kept for its memory.
    hashes: Vec<u128>,
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
        Self { columns: columns.collect(), sum: RowsSum::default(), row: Row::default(), hashes: Vec::new() }
    }

    /// Adds the rows of a batch, whose columns are exactly those of the digest, in their order and canonical types. Gives
    /// the hash of each row, to be added where the row belongs: this is how the digests of all region slices come out of
    /// one pass.
    ///
    /// # Errors
    /// Where they are not; nothing is added then.
    pub fn update(&mut self, batch: &RecordBatch) -> Result<&[u128], RowsError> {
        let cells = self.cells(batch)?;
        self.hashes.clear();
        self.hashes.reserve(batch.num_rows());
        for row in 0..batch.num_rows() {
            let hash = XxHash3_128::oneshot(self.row.write(&cells, row));
            self.hashes.push(hash);
            self.sum.add_row(hash);
        }
        Ok(&self.hashes)
    }

    /// Adds the rows that `other` has seen, over the same columns.
    pub fn merge(&mut self, other: &Self) {
        self.sum.merge(&other.sum);
    }

    /// Adds rows whose count and sum are known.
    pub fn add_sum(&mut self, sum: &RowsSum) {
        self.sum.merge(sum);
    }

    /// Count and sum so far.
    pub fn sum(&self) -> RowsSum {
        self.sum
    }

    /// The same, and begins anew.
    pub fn take_sum(&mut self) -> RowsSum {
        std::mem::take(&mut self.sum)
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
        for (place, ((name, item_type), (field, column))) in (0..=u16::MAX).zip(columns) {
            let canonical = if field.name() == name { Cells::new(place, column.as_ref(), *item_type) } else { None };
            cells.push(canonical.ok_or_else(|| RowsError::Column {
                place: place.into(),
                expected: format!("{name:?} {}", arrow_type(*item_type)),
                found: format!("{:?} {}", field.name(), column.data_type()).chars().take(200).collect(),
            })?);
        }
        Ok(cells)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
