//! Parquet decoded with text as views: a dictionary's one long value for a million rows costs a million small references,
//! and is written out only for the rows that are wanted, in pieces of bounded size.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::parquet_to_arrow_schema;
use parquet::errors::Result;
use parquet::file::metadata::ParquetMetaData;
use std::sync::Arc;

/// Bytes that one batch's fixed part aims at while it is decoded: many rows of narrow tables, few of wide ones.
const DECODED_BYTES_AIM: usize = 8 << 20;

/// Rows that are decoded at a time, whatever their width.
const DECODED_ROWS: std::ops::RangeInclusive<usize> = 64..=65_536;

/// What a file holds, read as its Parquet types say (an Arrow schema that a writer put beside them is not believed), with
/// text and bytes as views.
///
/// # Errors
/// Types that Arrow does not have.
pub fn metadata(metadata: ParquetMetaData) -> Result<ArrowReaderMetadata> {
    let plain = parquet_to_arrow_schema(metadata.file_metadata().schema_descr(), None)?;
    let view = |field: &Arc<Field>| match field.data_type() {
        DataType::Utf8 => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
        DataType::Binary => Arc::new(field.as_ref().clone().with_data_type(DataType::BinaryView)),
        _ => Arc::clone(field),
    };
    let schema = Schema::new(plain.fields().iter().map(view).collect::<Vec<_>>());
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true).with_schema(Arc::new(schema));
    ArrowReaderMetadata::try_new(Arc::new(metadata), options)
}

/// Rows of these columns to decode at a time.
pub fn decoding_rows(schema: &Schema, leaves: &[usize]) -> usize {
    let width = |leaf: &usize| schema.fields().get(*leaf).map_or(16, |field| width(field.data_type()));
    let row: usize = leaves.iter().map(width).sum();
    (DECODED_BYTES_AIM / row.max(1)).clamp(*DECODED_ROWS.start(), *DECODED_ROWS.end())
}

/// A batch in pieces of about `bytes` at most once its views are written out, in order; a row that is larger is a piece of
/// its own.
pub fn cut_to_bytes(batch: &RecordBatch, bytes: usize) -> Vec<RecordBatch> {
    let fixed: usize = batch.columns().iter().map(|column| width(column.data_type())).sum();
    let rows = batch.num_rows();
    let all: usize = batch.columns().iter().map(|column| text_bytes(column, 0, rows)).fold(0, usize::saturating_add);
    if all.saturating_add(fixed * rows) <= bytes + bytes / 2 {
        return vec![batch.clone()];
    }
    let mut pieces = Vec::new();
    let (mut start, mut held) = (0, 0usize);
    for row in 0..rows {
        let texts = batch.columns().iter().map(|column| text_bytes(column, row, 1)).fold(fixed, usize::saturating_add);
        if row > start && held.saturating_add(texts) > bytes {
            pieces.push(batch.slice(start, row - start));
            (start, held) = (row, 0);
        }
        held = held.saturating_add(texts);
    }
    pieces.push(batch.slice(start, rows - start));
    pieces
}

/// A column as one of this type, which holds the same values.
///
/// # Errors
/// A value that does not fit.
pub fn canonical(column: &ArrayRef, target: &DataType) -> std::result::Result<ArrayRef, ArrowError> {
    if column.data_type() == target {
        return Ok(Arc::clone(column));
    }
    // Not safe mode: it would turn what cannot be cast into nulls without a word.
    cast_with_options(column, target, &CastOptions { safe: false, ..CastOptions::default() })
}

/// Bytes of text in some rows of a column of views; 0 of another.
fn text_bytes(column: &ArrayRef, start: usize, rows: usize) -> usize {
    let views: &[u128] = match column.data_type() {
        DataType::Utf8View => column.as_string_view().views(),
        DataType::BinaryView => column.as_binary_view().views(),
        _ => return 0,
    };
    // The low half of a view's first word is the length.
    let lengths = views.get(start..start + rows).unwrap_or_default().iter().map(|view| *view as u32 as usize);
    lengths.fold(0, usize::saturating_add)
}

fn width(data_type: &DataType) -> usize {
    match data_type {
        DataType::Boolean => 1,
        DataType::FixedSizeBinary(bytes) => usize::try_from(*bytes).unwrap_or(16),
        other => other.primitive_width().unwrap_or(16),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringViewArray};
    use arrow::compute::concat_batches;

    #[test]
    fn pieces_are_bounded_by_what_they_are_written_out() {
        let long = "长".repeat(1000);
        let texts: ArrayRef = Arc::new(StringViewArray::from_iter_values((0..100).map(|_| long.as_str())));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
        let batch = RecordBatch::try_from_iter([("t", texts), ("n", numbers)]).unwrap();
        let pieces = cut_to_bytes(&batch, 10_000);
        assert!(pieces.iter().all(|piece| piece.num_rows() == 3 || piece.num_rows() == 1), "{}", pieces.len());
        assert_eq!(concat_batches(&batch.schema(), &pieces).unwrap(), batch);
        assert_eq!(cut_to_bytes(&batch, 100).len(), 100, "a row is never cut");
        assert_eq!(cut_to_bytes(&batch, 1 << 20).len(), 1);
        assert_eq!(cut_to_bytes(&batch.slice(0, 0), 1).iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    }

    #[test]
    fn text_and_bytes_are_decoded_as_views_and_their_bytes_count() {
        let texts: ArrayRef = Arc::new(arrow::array::StringArray::from_iter_values(["字".repeat(100)]));
        let raw: ArrayRef = Arc::new(arrow::array::BinaryArray::from_iter_values([vec![7u8; 200]]));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values([1]));
        let batch = RecordBatch::try_from_iter([("t", texts), ("r", raw), ("n", numbers)]).unwrap();
        let mut bytes = Vec::new();
        let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        let read = metadata(writer.close().unwrap()).unwrap();
        let types: Vec<&DataType> = read.schema().fields().iter().map(|field| field.data_type()).collect();
        assert_eq!(types, [&DataType::Utf8View, &DataType::BinaryView, &DataType::Int64]);
        let column = |place: usize, of: &DataType| text_bytes(&canonical(batch.column(place), of).unwrap(), 0, 1);
        assert_eq!((column(0, types[0]), column(1, types[1]), column(2, types[2])), (300, 200, 0));
    }

    #[test]
    fn narrow_tables_are_decoded_in_many_rows_and_wide_ones_in_few() {
        let schema = |columns: usize| {
            Schema::new((0..columns).map(|i| Field::new(i.to_string(), DataType::Utf8View, true)).collect::<Vec<_>>())
        };
        let rows = |columns: usize| decoding_rows(&schema(columns), &(0..columns).collect::<Vec<_>>());
        assert_eq!((rows(1), rows(1000)), (65_536, 524));
    }
}
