//! Arrays rebuilt from nothing but their visible values: no offset, no spare bytes, nothing under nulls, nothing shared.
//!
//! Kernels may return slices of what they were given, and Arrow's formats send whole buffers. What is outside a scope
//! must not be in them.

use super::error::LakeError;
use super::values::Column;
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, BooleanArray, GenericByteArray, PrimitiveArray, RecordBatch,
    RecordBatchOptions,
};
use arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::ByteArrayType;
use std::sync::Arc;

/// `batch` rebuilt from its visible values.
///
/// # Errors
/// A column is of no item's type.
pub fn scrub_batch(batch: &RecordBatch) -> Result<RecordBatch, LakeError> {
    let columns = batch.columns().iter().map(|column| scrub(column)).collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
        .map_err(|e| LakeError::columns("rebuilding a batch", e))
}

/// `array` rebuilt from its visible values.
///
/// # Errors
/// It is of no item's type.
pub fn scrub(array: &dyn Array) -> Result<ArrayRef, LakeError> {
    Ok(match Column::of(array)? {
        Column::String(a) => bytes(a)?,
        Column::Binary(a) => bytes(a)?,
        Column::Int32(a) => primitive(a),
        Column::Int64(a) => primitive(a),
        Column::Float64(a) => primitive(a),
        Column::Decimal(a) => primitive(a),
        Column::Date(a) => primitive(a),
        Column::Timestamp(a) => primitive(a),
        Column::Bool(a) => {
            let values = BooleanBuffer::collect_bool(a.len(), |i| a.is_valid(i) && a.value(i));
            Arc::new(BooleanArray::new(values, nulls(a)))
        }
    })
}

fn nulls(array: &dyn Array) -> Option<NullBuffer> {
    let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0)?;
    Some(NullBuffer::new(BooleanBuffer::collect_bool(array.len(), |i| nulls.is_valid(i))))
}

fn primitive<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>) -> ArrayRef {
    let values: Vec<T::Native> = if array.null_count() == 0 {
        array.values().to_vec()
    } else {
        array.iter().map(Option::unwrap_or_default).collect()
    };
    Arc::new(PrimitiveArray::<T>::new(values.into(), nulls(array)).with_data_type(array.data_type().clone()))
}

fn bytes<T: ByteArrayType<Offset = i32>>(array: &GenericByteArray<T>) -> Result<ArrayRef, LakeError> {
    let mut offsets = Vec::with_capacity(array.len() + 1);
    let visible = (0..array.len()).filter(|row| array.is_valid(*row));
    let length: usize = visible.map(|row| usize::try_from(array.value_length(row)).unwrap_or(0)).sum();
    let mut values: Vec<u8> = Vec::with_capacity(length);
    offsets.push(0i32);
    for index in 0..array.len() {
        if array.is_valid(index) {
            let value: &T::Native = array.value(index);
            values.extend_from_slice(value.as_ref());
        }
        // It cannot be more than the array had, which fitted.
        offsets.push(i32::try_from(values.len()).unwrap_or(i32::MAX));
    }
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    let rebuilt = GenericByteArray::<T>::try_new(offsets, values.into(), nulls(array));
    Ok(Arc::new(rebuilt.map_err(|e| LakeError::columns("rebuilding a column", e))?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use arrow::array::{BinaryArray, Decimal128Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::compute::nullif;

    /// All bytes of all buffers of an array.
    fn all_bytes(array: &ArrayRef) -> Vec<u8> {
        let data = array.to_data();
        let nulls = data.nulls().map(|n| n.buffer().as_slice().to_vec()).unwrap_or_default();
        data.buffers().iter().flat_map(|b| b.as_slice().to_vec()).chain(nulls).collect()
    }

    #[test]
    fn hidden_values_are_gone_and_visible_ones_stay() {
        let secret = |array: &ArrayRef| {
            // The secret is in the middle; one copy is sliced away, another is made null.
            let mask = BooleanArray::from(vec![false, true, false]);
            [array.slice(0, 1), array.slice(2, 1), nullif(array, &mask).unwrap()]
        };
        let key = 0x5ec2_e75e_c2e7_5ec2_i64;
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["open", "secret", "more"])),
            Arc::new(BinaryArray::from(vec![b"open".as_slice(), b"secret", b"more"])),
            Arc::new(Int64Array::from(vec![1, key, 3])),
            Arc::new(TimestampMicrosecondArray::from(vec![1, key, 3]).with_timezone("UTC")),
            Arc::new(Decimal128Array::from(vec![1, i128::from(key), 3]).with_precision_and_scale(20, 2).unwrap()),
        ];
        let needles: [&[u8]; 2] = [b"secret", &key.to_le_bytes()];
        for array in &arrays {
            for view in secret(array) {
                let rebuilt = scrub(&view).unwrap();
                assert_eq!(&rebuilt, &view, "the same values and type");
                assert_eq!(rebuilt.offset(), 0);
                let held = all_bytes(&rebuilt);
                for needle in needles {
                    assert!(!held.windows(needle.len()).any(|w| w == needle), "{:?}", array.data_type());
                }
            }
        }
    }

    #[test]
    fn bits_past_the_end_are_zero() {
        let array: ArrayRef = Arc::new(BooleanArray::from(vec![true; 20]));
        let held = all_bytes(&scrub(&array.slice(3, 3)).unwrap());
        assert_eq!(held.iter().map(|b| b.count_ones()).sum::<u32>(), 3);
        let array: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(2), Some(3)]));
        let rebuilt = scrub(&array.slice(0, 2)).unwrap();
        assert_eq!(
            rebuilt.to_data().nulls().unwrap().buffer().as_slice().iter().map(|b| b.count_ones()).sum::<u32>(),
            1
        );
    }
}
