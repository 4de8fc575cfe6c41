//! Reads rows of a COPY.

use super::{BinaryError, EPOCH_DAYS, EPOCH_US, HEAD, TAIL, numeric};
use crate::backflow::Shape;
use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder, Int32Builder,
    Int64Builder, RecordBatch, RecordBatchOptions, StringBuilder, TimestampMicrosecondBuilder,
};
use lingqu_protocol::columns::arrow_type;
use lingqu_protocol::entry::ItemType;
use std::sync::Arc;

/// Rows that are handed on at a time.
const ROWS_MAX: usize = 16_384;

/// Reads rows of a COPY out of its pieces, in whatever way they are cut. In front of the columns may stand one of 6 bytes, the
/// place of each row in its table.
pub(in super::super) struct Decoder {
    shape: Shape,
    columns: Vec<Column>,
    buffer: Vec<u8>,
    with_places: bool,
    places: Vec<[u8; 6]>,
    rows: usize,
    begun: bool,
    ended: bool,
}

pub(super) enum Column {
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
pub(in super::super) type TakeRows<'a, E> = dyn FnMut(&RecordBatch, &[[u8; 6]]) -> Result<(), E> + Send + 'a;

impl Decoder {
    pub(in super::super) fn new(shape: &Shape, with_places: bool) -> Self {
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
    pub(in super::super) fn piece<E: From<BinaryError>>(
        &mut self,
        piece: &[u8],
        take: &mut TakeRows<'_, E>,
    ) -> Result<(), E> {
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
    pub(in super::super) fn end<E: From<BinaryError>>(&mut self, take: &mut TakeRows<'_, E>) -> Result<(), E> {
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
    pub(super) fn of(item_type: ItemType) -> Self {
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
            Self::Decimal(b, scale) => b.append_value(numeric::decode(bytes, *scale)?),
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

    pub(super) fn finish(&mut self) -> ArrayRef {
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
