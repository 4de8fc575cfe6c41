//! PostgreSQL's binary COPY format, both ways: every value as it is, without a spelling in between.

mod decode;
mod numeric;

pub(super) use decode::{Decoder, TakeRows};

use crate::batch::Spelled;
use arrow::array::RecordBatch;

/// What a COPY begins with: the signature, no flags, no extension.
const HEAD: [u8; 19] = *b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What it ends with.
const TAIL: [u8; 2] = [0xff, 0xff];

/// Days from 1970-01-01, where Arrow counts from, to 2000-01-01, where PostgreSQL does.
const EPOCH_DAYS: i32 = 10_957;

/// The same in microseconds.
const EPOCH_US: i64 = EPOCH_DAYS as i64 * 86_400_000_000;

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
    let columns: Vec<(&str, Spelled<'_>)> = places
        .iter()
        .filter_map(|place| Some((schema.fields().get(*place)?, batch.columns().get(*place)?)))
        .map(|(field, column)| Some((field.name().as_str(), Spelled::of(column)?)))
        .collect::<Option<_>>()
        .ok_or(BinaryError::Rows("a type that no item has"))?;
    for row in 0..batch.num_rows() {
        out.extend(count.to_be_bytes());
        for (name, cells) in &columns {
            put(cells, row, &mut out).map_err(|why| BinaryError::Cannot { column: (*name).to_owned(), why })?;
        }
    }
    out.extend(TAIL);
    Ok(out)
}

fn put(cells: &Spelled<'_>, row: usize, out: &mut Vec<u8>) -> Result<(), &'static str> {
    if cells.is_null(row) {
        out.extend((-1i32).to_be_bytes());
        return Ok(());
    }
    match cells {
        Spelled::String(a) => {
            let text = a.value(row).as_bytes();
            if text.contains(&0) {
                return Err("a text holds the character 0, which PostgreSQL's text cannot");
            }
            field(out, text)
        }
        Spelled::Int32(a) => field(out, &a.value(row).to_be_bytes()),
        Spelled::Int64(a) => field(out, &a.value(row).to_be_bytes()),
        Spelled::Float64(a) => field(out, &a.value(row).to_be_bytes()),
        Spelled::Decimal(a, scale) => field(out, &numeric::encode(a.value(row), *scale as u32)),
        Spelled::Date(a) => {
            let days = a.value(row).checked_sub(EPOCH_DAYS).ok_or("a date before those that PostgreSQL has")?;
            field(out, &days.to_be_bytes())
        }
        Spelled::Timestamp(a) => {
            let us = a.value(row).checked_sub(EPOCH_US).ok_or("a time before those that PostgreSQL has")?;
            field(out, &us.to_be_bytes())
        }
        Spelled::Bool(a) => field(out, &[u8::from(a.value(row))]),
        Spelled::Binary(a) => field(out, a.value(row)),
    }
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), &'static str> {
    let length = i32::try_from(bytes.len()).ok().filter(|n| *n < CELL_BYTES_MAX).ok_or("a value of over 1 GiB")?;
    out.extend(length.to_be_bytes());
    out.extend(bytes);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::decode::Column;
    use super::*;
    use crate::backflow::Column as ShapeColumn;
    use crate::backflow::Shape;
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
