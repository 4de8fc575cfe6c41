//! How a row is written to be hashed: cell after cell into memory that stays in the processor, which is why it takes little
//! longer than to read the row. What a short text is copied with runs over its end, and the next cell is written over that.

use super::NAN_BITS;
use crate::columns::arrow_type;
use crate::entry::ItemType;
use arrow::array::{Array, AsArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};

/// Bytes of a cell before its value: place and tag.
const HEAD_BYTES: usize = 3;

/// Bytes of the length of a text.
const LENGTH_BYTES: usize = 4;

/// Texts up to this are copied in one move of this size.
const SHORT_BYTES: usize = 32;

/// What a cell is written in at most, but for a long text: head, length, and a short text or the largest number.
const ROOM_BYTES: usize = HEAD_BYTES + LENGTH_BYTES + SHORT_BYTES;

/// The cells of a column, by their canonical type.
pub(super) struct Cells<'a> {
    /// Place and tag, and a byte that the value is written over.
    head: [u8; HEAD_BYTES + 1],
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    Four(&'a [i32]),
    Eight(&'a [i64]),
    Float(&'a [f64]),
    Sixteen(&'a [i128]),
    Bool(&'a BooleanBuffer),
    Text { offsets: &'a [i32], bytes: &'a [u8] },
}

/// A row while it is written. Kept for its memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Row(Vec<u8>);

impl<'a> Cells<'a> {
    /// `None` where the column is not of the canonical type.
    pub(super) fn new(place: u16, column: &'a dyn Array, item_type: ItemType) -> Option<Self> {
        if *column.data_type() != arrow_type(item_type) {
            return None;
        }
        let (tag, values) = match item_type {
            ItemType::String => {
                let texts = column.as_string_opt::<i32>()?;
                (1, Values::Text { offsets: texts.value_offsets(), bytes: texts.value_data() })
            }
            ItemType::Int32 => (2, Values::Four(column.as_primitive_opt::<Int32Type>()?.values())),
            ItemType::Int64 => (3, Values::Eight(column.as_primitive_opt::<Int64Type>()?.values())),
            ItemType::Float64 => (4, Values::Float(column.as_primitive_opt::<Float64Type>()?.values())),
            ItemType::Decimal(..) => (5, Values::Sixteen(column.as_primitive_opt::<Decimal128Type>()?.values())),
            ItemType::Date => (6, Values::Four(column.as_primitive_opt::<Date32Type>()?.values())),
            ItemType::Timestamp => (7, Values::Eight(column.as_primitive_opt::<TimestampMicrosecondType>()?.values())),
            ItemType::Bool => (8, Values::Bool(column.as_boolean_opt()?.values())),
            ItemType::Binary => {
                let texts = column.as_binary_opt::<i32>()?;
                (9, Values::Text { offsets: texts.value_offsets(), bytes: texts.value_data() })
            }
        };
        let [high, low] = place.to_be_bytes();
        let nulls = column.nulls().filter(|nulls| nulls.null_count() > 0);
        Some(Self { head: [high, low, tag, 0], nulls, values })
    }
}

impl Row {
    /// A row as it is hashed.
    pub(super) fn write(&mut self, cells: &[Cells<'_>], row: usize) -> &[u8] {
        // Every cell finds room for itself and for those behind it, so that nothing is checked twice.
        let room = cells.len() * ROOM_BYTES;
        if self.0.len() < room {
            self.0.resize(room, 0);
        }
        let mut at = 0;
        for cell in cells {
            if cell.nulls.is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            at += match &cell.values {
                Values::Four(values) => self.put(at, cell.head, be(values, row, i32::to_be_bytes)),
                Values::Eight(values) => self.put(at, cell.head, be(values, row, i64::to_be_bytes)),
                Values::Sixteen(values) => self.put(at, cell.head, be(values, row, i128::to_be_bytes)),
                Values::Float(values) => self.put(at, cell.head, be(values, row, bits)),
                Values::Bool(values) => self.put(at, cell.head, [u8::from(values.value(row))]),
                Values::Text { offsets, bytes } => {
                    let offset = |at: usize| offsets.get(at).map_or(0, |offset| *offset as usize);
                    self.text(at, room, cell.head, bytes, offset(row)..offset(row + 1))
                }
            };
        }
        self.0.get(..at).unwrap_or_default()
    }

    #[inline]
    fn put<const N: usize>(&mut self, at: usize, head: [u8; HEAD_BYTES + 1], value: [u8; N]) -> usize {
        if let Some(room) = self.room(at) {
            let (first, rest) = room.split_at_mut(HEAD_BYTES);
            first.copy_from_slice(head.first_chunk::<HEAD_BYTES>().unwrap_or(&[0; HEAD_BYTES]));
            if let Some(place) = rest.first_chunk_mut::<N>() {
                *place = value;
            }
        }
        HEAD_BYTES + N
    }

    #[inline]
    fn text(
        &mut self,
        at: usize,
        room: usize,
        head: [u8; HEAD_BYTES + 1],
        bytes: &[u8],
        place: std::ops::Range<usize>,
    ) -> usize {
        // A column of this type has 32-bit offsets, so no value is longer than 31 bits.
        let head_bytes = self.put(at, head, u32::try_from(place.len()).unwrap_or(u32::MAX).to_be_bytes());
        let (start, length) = (at + head_bytes, place.len());
        let short = if length <= SHORT_BYTES { bytes.get(place.start..) } else { None };
        match short.and_then(|from| from.first_chunk::<SHORT_BYTES>()) {
            Some(short) => {
                let into = self.0.get_mut(start..).and_then(|rest| rest.first_chunk_mut::<SHORT_BYTES>());
                if let Some(into) = into {
                    *into = *short;
                }
            }
            None => {
                if self.0.len() < start + length + room {
                    self.0.resize(start + length + room, 0);
                }
                let into = self.0.get_mut(start..start + length);
                if let (Some(into), Some(text)) = (into, bytes.get(place)) {
                    into.copy_from_slice(text);
                }
            }
        }
        head_bytes + length
    }

    #[inline]
    fn room(&mut self, at: usize) -> Option<&mut [u8; ROOM_BYTES]> {
        self.0.get_mut(at..)?.first_chunk_mut::<ROOM_BYTES>()
    }
}

#[inline]
fn be<T: Copy + Default, const N: usize>(values: &[T], row: usize, bytes: impl Fn(T) -> [u8; N]) -> [u8; N] {
    bytes(values.get(row).copied().unwrap_or_default())
}

fn bits(value: f64) -> [u8; 8] {
    (if value.is_nan() { NAN_BITS } else { value.to_bits() }).to_be_bytes()
}
