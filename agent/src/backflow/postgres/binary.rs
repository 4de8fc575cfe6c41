//! PostgreSQL's binary COPY format, both ways: every value as it is, without a spelling in between.

use super::super::Shape;
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder,
    Int32Builder, Int64Builder, RecordBatch, RecordBatchOptions, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use lingqu_protocol::columns::arrow_type;
use lingqu_protocol::entry::ItemType;
use std::sync::Arc;

/// What a COPY begins with: the signature, no flags, no extension.
const HEAD: [u8; 19] = *b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What it ends with.
const TAIL: [u8; 2] = [0xff, 0xff];

/// Days from 1970-01-01, where Arrow counts from, to 2000-01-01, where PostgreSQL does.
const EPOCH_DAYS: i32 = 10_957;

/// The same in microseconds.
const EPOCH_US: i64 = EPOCH_DAYS as i64 * 86_400_000_000;

/// Signs of a numeric.
const NEGATIVE: u16 = 0x4000;

/// Rows that are handed on at a time.
const ROWS_MAX: usize = 16_384;

/// Bytes of a cell: what PostgreSQL's own limit is.
const CELL_BYTES_MAX: i32 = 1 << 30;

/// Why rows cannot be written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BinaryError {
    /// A value that the database's type does not hold.
    #[error("column {column:?}: {why}")]
    Cannot {
        /// The column.
        column: String,
        /// Why.
        why: &'static str,
    },
    /// Bytes that are no such rows.
    #[error("the database sent rows that cannot be read ({0})")]
    Rows(&'static str),
}

/// Rows as one COPY.
pub(super) fn encode(batch: &RecordBatch, places: &[usize]) -> Result<Vec<u8>, BinaryError> {
    let mut out = Vec::with_capacity(batch.get_array_memory_size() + HEAD.len() + batch.num_rows() * 8);
    out.extend(HEAD);
    let count = i16::try_from(places.len()).map_err(|_| BinaryError::Rows("too many columns"))?;
    let schema = batch.schema();
    let columns: Vec<(&str, Cells<'_>)> = places
        .iter()
        .filter_map(|place| Some((schema.fields().get(*place)?, batch.columns().get(*place)?)))
        .map(|(field, column)| Some((field.name().as_str(), Cells::of(column)?)))
        .collect::<Option<_>>()
        .ok_or(BinaryError::Rows("a type that no item has"))?;
    for row in 0..batch.num_rows() {
        out.extend(count.to_be_bytes());
        for (name, cells) in &columns {
            cells.put(row, &mut out).map_err(|why| BinaryError::Cannot { column: (*name).to_owned(), why })?;
        }
    }
    out.extend(TAIL);
    Ok(out)
}

enum Cells<'a> {
    String(&'a arrow::array::StringArray),
    Int32(&'a arrow::array::Int32Array),
    Int64(&'a arrow::array::Int64Array),
    Float64(&'a arrow::array::Float64Array),
    Decimal(&'a arrow::array::Decimal128Array, u32),
    Date(&'a arrow::array::Date32Array),
    Timestamp(&'a arrow::array::TimestampMicrosecondArray),
    Bool(&'a arrow::array::BooleanArray),
    Binary(&'a arrow::array::BinaryArray),
}

impl<'a> Cells<'a> {
    fn of(column: &'a ArrayRef) -> Option<Self> {
        Some(match column.data_type() {
            DataType::Utf8 => Self::String(column.as_string_opt()?),
            DataType::Int32 => Self::Int32(column.as_primitive_opt::<Int32Type>()?),
            DataType::Int64 => Self::Int64(column.as_primitive_opt::<Int64Type>()?),
            DataType::Float64 => Self::Float64(column.as_primitive_opt::<Float64Type>()?),
            DataType::Decimal128(_, scale) => {
                Self::Decimal(column.as_primitive_opt::<Decimal128Type>()?, u32::try_from(*scale).ok()?)
            }
            DataType::Date32 => Self::Date(column.as_primitive_opt::<Date32Type>()?),
            DataType::Timestamp(..) => Self::Timestamp(column.as_primitive_opt::<TimestampMicrosecondType>()?),
            DataType::Boolean => Self::Bool(column.as_boolean_opt()?),
            DataType::Binary => Self::Binary(column.as_binary_opt::<i32>()?),
            _ => return None,
        })
    }

    fn array(&self) -> &dyn Array {
        match self {
            Self::String(a) => *a,
            Self::Int32(a) => *a,
            Self::Int64(a) => *a,
            Self::Float64(a) => *a,
            Self::Decimal(a, _) => *a,
            Self::Date(a) => *a,
            Self::Timestamp(a) => *a,
            Self::Bool(a) => *a,
            Self::Binary(a) => *a,
        }
    }

    fn put(&self, row: usize, out: &mut Vec<u8>) -> Result<(), &'static str> {
        if self.array().is_null(row) {
            out.extend((-1i32).to_be_bytes());
            return Ok(());
        }
        match self {
            Self::String(a) => {
                let text = a.value(row).as_bytes();
                if text.contains(&0) {
                    return Err("a text holds the character 0, which PostgreSQL's text cannot");
                }
                field(out, text)
            }
            Self::Int32(a) => field(out, &a.value(row).to_be_bytes()),
            Self::Int64(a) => field(out, &a.value(row).to_be_bytes()),
            Self::Float64(a) => field(out, &a.value(row).to_be_bytes()),
            Self::Decimal(a, scale) => field(out, &numeric(a.value(row), *scale)),
            Self::Date(a) => {
                let days = a.value(row).checked_sub(EPOCH_DAYS).ok_or("a date before those that PostgreSQL has")?;
                field(out, &days.to_be_bytes())
            }
            Self::Timestamp(a) => {
                let us = a.value(row).checked_sub(EPOCH_US).ok_or("a time before those that PostgreSQL has")?;
                field(out, &us.to_be_bytes())
            }
            Self::Bool(a) => field(out, &[u8::from(a.value(row))]),
            Self::Binary(a) => field(out, a.value(row)),
        }
    }
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), &'static str> {
    let length = i32::try_from(bytes.len()).ok().filter(|n| *n < CELL_BYTES_MAX).ok_or("a value of over 1 GiB")?;
    out.extend(length.to_be_bytes());
    out.extend(bytes);
    Ok(())
}

/// A numeric: its digits to the base 10,000, the weight of the first, sign and scale.
fn numeric(value: i128, scale: u32) -> Vec<u8> {
    let mut rest = value.unsigned_abs();
    let mut digits: Vec<u16> = Vec::new();
    // The lowest group of the fraction may have fewer than four digits of its own.
    let own = scale % 4;
    if own > 0 {
        let cut = 10u128.pow(own);
        digits.push((rest % cut) as u16 * 10u16.pow(4 - own));
        rest /= cut;
    }
    while rest > 0 {
        digits.push((rest % 10_000) as u16);
        rest /= 10_000;
    }
    let fraction_groups = scale.div_ceil(4) as i16;
    let weight = digits.len() as i16 - fraction_groups - 1;
    digits.reverse();
    let empty = digits.iter().all(|digit| *digit == 0);
    if empty {
        digits.clear();
    }
    let mut out = Vec::with_capacity(8 + digits.len() * 2);
    out.extend((digits.len() as i16).to_be_bytes());
    out.extend(if empty { 0i16 } else { weight }.to_be_bytes());
    out.extend(if value < 0 { NEGATIVE } else { 0 }.to_be_bytes());
    out.extend((scale as u16).to_be_bytes());
    digits.iter().for_each(|digit| out.extend(digit.to_be_bytes()));
    out
}

fn from_numeric(bytes: &[u8], scale: u32) -> Option<i128> {
    let (head, digits) = bytes.split_first_chunk::<8>()?;
    let word = |at: usize| Some(u16::from_be_bytes([*head.get(at)?, *head.get(at + 1)?]));
    let weight = i32::from(word(2)? as i16);
    let negative = match word(4)? {
        0 => false,
        NEGATIVE => true,
        // NaN and the infinities.
        _ => return None,
    };
    let mut value = 0i128;
    for (at, digit) in (0i32..).zip(digits.chunks_exact(2)) {
        let digit = i128::from(u16::from_be_bytes([*digit.first()?, *digit.get(1)?]));
        let exponent = 4 * (weight - at) + scale as i32;
        let part = match u32::try_from(exponent) {
            Ok(_) | Err(_) if digit == 0 => 0,
            Ok(exponent) => digit.checked_mul(10i128.checked_pow(exponent)?)?,
            Err(_) => {
                let cut = 10i128.checked_pow(exponent.unsigned_abs())?;
                if digit % cut != 0 {
                    return None;
                }
                digit / cut
            }
        };
        value = value.checked_add(part)?;
    }
    Some(if negative { -value } else { value })
}

/// Reads rows of a COPY out of its pieces, in whatever way they are cut. In front of the columns may stand one of 6 bytes, the
/// place of each row in its table.
pub(super) struct Decoder {
    shape: Shape,
    columns: Vec<Column>,
    buffer: Vec<u8>,
    with_places: bool,
    places: Vec<[u8; 6]>,
    rows: usize,
    begun: bool,
    ended: bool,
}

enum Column {
    String(StringBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float64(Float64Builder),
    Decimal(Decimal128Builder, u32),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
    Bool(BooleanBuilder),
    Binary(BinaryBuilder),
}

/// Takes rows, with their places in the table where those were asked for.
pub(super) type TakeRows<'a, E> = dyn FnMut(&RecordBatch, &[[u8; 6]]) -> Result<(), E> + Send + 'a;

impl Decoder {
    pub(super) fn new(shape: &Shape, with_places: bool) -> Self {
        let columns = shape.0.iter().map(|column| Column::of(column.item_type)).collect();
        Self {
            shape: shape.clone(),
            columns,
            buffer: Vec::new(),
            with_places,
            places: Vec::new(),
            rows: 0,
            begun: false,
            ended: false,
        }
    }

    /// Takes a piece, and hands rows on where there are enough.
    pub(super) fn piece<E: From<BinaryError>>(&mut self, piece: &[u8], take: &mut TakeRows<'_, E>) -> Result<(), E> {
        self.buffer.extend_from_slice(piece);
        let buffer = std::mem::take(&mut self.buffer);
        let mut at = 0;
        while let Some(used) = self.row(buffer.get(at..).unwrap_or_default())? {
            at += used;
            if self.rows >= ROWS_MAX {
                self.hand(take)?;
            }
        }
        self.buffer = buffer;
        self.buffer.drain(..at);
        Ok(())
    }

    /// Hands the last rows on.
    pub(super) fn end<E: From<BinaryError>>(&mut self, take: &mut TakeRows<'_, E>) -> Result<(), E> {
        if !self.ended || !self.buffer.is_empty() {
            return Err(BinaryError::Rows("they have no end").into());
        }
        if self.rows > 0 { self.hand(take) } else { Ok(()) }
    }

    fn hand<E: From<BinaryError>>(&mut self, take: &mut TakeRows<'_, E>) -> Result<(), E> {
        let columns: Vec<ArrayRef> = self.columns.iter_mut().map(Column::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let batch = RecordBatch::try_new_with_options(self.shape.schema(), columns, &options)
            .map_err(|_| BinaryError::Rows("a key has no value"))?;
        self.rows = 0;
        take(&batch, &self.places)?;
        self.places.clear();
        Ok(())
    }

    /// Reads one row where all of it is there; gives how many bytes it took.
    fn row(&mut self, bytes: &[u8]) -> Result<Option<usize>, BinaryError> {
        if !self.begun {
            if bytes.len() < HEAD.len() {
                return Ok(None);
            }
            if !bytes.starts_with(&HEAD) {
                return Err(BinaryError::Rows("they do not begin as a COPY does"));
            }
            self.begun = true;
            return Ok(Some(HEAD.len()));
        }
        let Some((count, rest)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
        if self.ended {
            return Err(BinaryError::Rows("something follows their end"));
        }
        if *count == TAIL {
            self.ended = true;
            return Ok(Some(TAIL.len()));
        }
        let expected = self.columns.len() + usize::from(self.with_places);
        if usize::from(u16::from_be_bytes(*count)) != expected {
            return Err(BinaryError::Rows("another number of columns"));
        }
        // Looked through first, so that no half row is taken.
        let mut fields = Vec::with_capacity(expected);
        let mut rest = rest;
        for _ in 0..expected {
            let Some((length, after)) = rest.split_first_chunk::<4>() else { return Ok(None) };
            let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
                fields.push(None);
                rest = after;
                continue;
            };
            let Some((value, after)) = after.split_at_checked(length) else { return Ok(None) };
            fields.push(Some(value));
            rest = after;
        }
        let mut fields = fields.into_iter();
        if self.with_places {
            let place = fields.next().flatten().and_then(|place| place.try_into().ok());
            self.places.push(place.ok_or(BinaryError::Rows("a row has no place"))?);
        }
        for (column, value) in self.columns.iter_mut().zip(fields) {
            column.push(value).ok_or(BinaryError::Rows("a value is not of its column's type"))?;
        }
        self.rows += 1;
        Ok(Some(bytes.len() - rest.len()))
    }
}

impl Column {
    fn of(item_type: ItemType) -> Self {
        match item_type {
            ItemType::String => Self::String(StringBuilder::new()),
            ItemType::Int32 => Self::Int32(Int32Builder::new()),
            ItemType::Int64 => Self::Int64(Int64Builder::new()),
            ItemType::Float64 => Self::Float64(Float64Builder::new()),
            ItemType::Decimal(_, scale) => {
                let builder = Decimal128Builder::new().with_data_type(arrow_type(item_type));
                Self::Decimal(builder, u32::from(scale))
            }
            ItemType::Date => Self::Date(Date32Builder::new()),
            ItemType::Timestamp => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(arrow_type(item_type)))
            }
            ItemType::Bool => Self::Bool(BooleanBuilder::new()),
            ItemType::Binary => Self::Binary(BinaryBuilder::new()),
        }
    }

    /// `None` where the bytes are no value of the type.
    fn push(&mut self, value: Option<&[u8]>) -> Option<()> {
        let Some(bytes) = value else {
            match self {
                Self::String(b) => b.append_null(),
                Self::Int32(b) => b.append_null(),
                Self::Int64(b) => b.append_null(),
                Self::Float64(b) => b.append_null(),
                Self::Decimal(b, _) => b.append_null(),
                Self::Date(b) => b.append_null(),
                Self::Timestamp(b) => b.append_null(),
                Self::Bool(b) => b.append_null(),
                Self::Binary(b) => b.append_null(),
            }
            return Some(());
        };
        match self {
            Self::String(b) => b.append_value(std::str::from_utf8(bytes).ok()?),
            Self::Int32(b) => b.append_value(i32::from_be_bytes(bytes.try_into().ok()?)),
            Self::Int64(b) => b.append_value(i64::from_be_bytes(bytes.try_into().ok()?)),
            Self::Float64(b) => b.append_value(f64::from_be_bytes(bytes.try_into().ok()?)),
            Self::Decimal(b, scale) => b.append_value(from_numeric(bytes, *scale)?),
            Self::Date(b) => b.append_value(i32::from_be_bytes(bytes.try_into().ok()?).checked_add(EPOCH_DAYS)?),
            Self::Timestamp(b) => b.append_value(i64::from_be_bytes(bytes.try_into().ok()?).checked_add(EPOCH_US)?),
            Self::Bool(b) => b.append_value(match bytes {
                [0] => false,
                [1] => true,
                _ => return None,
            }),
            Self::Binary(b) => b.append_value(bytes),
        }
        Some(())
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::String(b) => Arc::new(b.finish()),
            Self::Int32(b) => Arc::new(b.finish()),
            Self::Int64(b) => Arc::new(b.finish()),
            Self::Float64(b) => Arc::new(b.finish()),
            Self::Decimal(b, _) => Arc::new(b.finish()),
            Self::Date(b) => Arc::new(b.finish()),
            Self::Timestamp(b) => Arc::new(b.finish()),
            Self::Bool(b) => Arc::new(b.finish()),
            Self::Binary(b) => Arc::new(b.finish()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::backflow::Column as ShapeColumn;
    use proptest::prelude::*;

    fn shape() -> Shape {
        let types = "string int32 int64 float64 decimal(38,7) date timestamp bool binary";
        let column = |text: &str| ShapeColumn { name: text.into(), item_type: text.parse().unwrap(), key: false };
        Shape(types.split(' ').map(column).collect())
    }

    /// What a row is made from.
    type Values = (String, i32, i64, u64, i64, Option<bool>);

    /// Rows of values of all types, some of them missing.
    fn rows(values: &[Values]) -> RecordBatch {
        let mut columns: Vec<Column> = shape().0.iter().map(|c| Column::of(c.item_type)).collect();
        for (text, int, long, bits, money, flag) in values {
            for column in &mut columns {
                match column {
                    Column::String(b) => b.append_value(text),
                    Column::Int32(b) => b.append_value(*int),
                    Column::Int64(b) => b.append_option((long % 3 != 0).then_some(*long)),
                    Column::Float64(b) => b.append_value(f64::from_bits(*bits)),
                    Column::Decimal(b, _) => b.append_value(i128::from(*money) * i128::from(*long)),
                    Column::Date(b) => b.append_value(*int / 2000),
                    Column::Timestamp(b) => b.append_option(flag.map(|_| *money / 1000)),
                    Column::Bool(b) => b.append_option(*flag),
                    Column::Binary(b) => b.append_value(text.as_bytes()),
                }
            }
        }
        let arrays = columns.iter_mut().map(Column::finish).collect();
        RecordBatch::try_new(shape().schema(), arrays).unwrap()
    }

    fn decoded(bytes: &[u8], cut: usize) -> Result<Vec<RecordBatch>, BinaryError> {
        let (mut decoder, mut got) = (Decoder::new(&shape(), false), Vec::new());
        let mut take = |batch: &RecordBatch, _: &[[u8; 6]]| {
            got.push(batch.clone());
            Ok(())
        };
        for piece in bytes.chunks(cut) {
            decoder.piece(piece, &mut take)?;
        }
        decoder.end(&mut take)?;
        Ok(got)
    }

    proptest! {
        #[test]
        fn rows_come_back_as_they_were(
            values in proptest::collection::vec(
                ("[^\0]{0,9}", any::<i32>(), any::<i64>(), any::<u64>(), any::<i64>(), any::<Option<bool>>()), 1..20),
            cut in 1usize..90,
        ) {
            let batch = rows(&values);
            let bytes = encode(&batch, &(0..batch.num_columns()).collect::<Vec<_>>()).unwrap();
            let got = decoded(&bytes, cut).unwrap();
            let got = arrow::compute::concat_batches(&shape().schema(), &got).unwrap();
            let (mut one, mut other) = (shape().digest(), shape().digest());
            one.update(&batch).unwrap();
            other.update(&got).unwrap();
            prop_assert_eq!(one.sum(), other.sum());
        }

        #[test]
        fn junk_is_refused_and_never_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 1usize..50) {
            let _ = decoded(&bytes, cut);
            let mut whole = HEAD.to_vec();
            whole.append(&mut bytes);
            let _ = decoded(&whole, cut);
        }
    }

    #[test]
    fn numerics_are_those_of_the_database() {
        // As `select numeric_send(…)` prints them.
        for (value, scale, hex) in [
            (0i128, 2, "0000000000000002"),
            (1, 2, "0001ffff000000020064"),
            (1234567, 2, "000300010000000200010929_1a2c"),
            (-15, 1, "00020000400000010001_1388"),
            (10000, 0, "0002000100000000_00010000"),
        ] {
            let expected = lingqu_protocol::digest::from_hex(&hex.replace('_', "")).unwrap();
            let got = numeric(value, scale);
            assert_eq!(from_numeric(&got, scale), Some(value));
            assert_eq!(got, expected, "{value} {scale}");
        }
        let largest = 10i128.pow(38) - 1;
        for scale in 0..=38 {
            for value in [largest, -largest, 1, -1] {
                assert_eq!(from_numeric(&numeric(value, scale), scale), Some(value), "{value} {scale}");
            }
        }
    }

    #[test]
    fn a_text_with_a_zero_is_told_by_its_column() {
        let batch = rows(&[("a\0b".into(), 0, 0, 0, 0, None)]);
        let error = encode(&batch, &[0]).unwrap_err();
        assert!(error.to_string().contains("\"string\""), "{error}");
    }

    #[test]
    fn a_copy_without_its_end_is_none() {
        let batch = rows(&[("a".into(), 0, 1, 0, 0, None)]);
        let bytes = encode(&batch, &(0..9).collect::<Vec<_>>()).unwrap();
        for cut in [bytes.len() - 1, bytes.len() - 2, 30, 0] {
            assert!(decoded(&bytes[..cut], 16).is_err(), "{cut}");
        }
    }
}
