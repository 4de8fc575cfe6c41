//! Columns of the nine item types as Arrow arrays, seen without their wrapping.

use super::error::LakeError;
use super::manifest::ColumnSummary;
use arrow::array::{
    Array, ArrowNumericType, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array,
    Int32Array, Int64Array, PrimitiveArray, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::{max, min};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::datatypes::{Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use lingqu_protocol::predicate::{ColumnStats, Value, compare_floats};
use std::cmp::Ordering;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Bytes of a text bound in a manifest: enough for codes and names, and a manifest's size does not follow the data.
pub(crate) const BOUND_BYTES_MAX: usize = 64;

/// Values that are looked at to judge a column.
const SAMPLE_ROWS: usize = 2048;

/// A column of one of the item types.
#[derive(Clone, Copy)]
pub(crate) enum Column<'a> {
    String(&'a StringArray),
    Int32(&'a Int32Array),
    Int64(&'a Int64Array),
    Float64(&'a Float64Array),
    Decimal(&'a Decimal128Array),
    Date(&'a Date32Array),
    Timestamp(&'a TimestampMicrosecondArray),
    Bool(&'a BooleanArray),
    Binary(&'a BinaryArray),
}

impl<'a> Column<'a> {
    /// The column that this array is.
    pub(crate) fn of(array: &'a dyn Array) -> Result<Self, LakeError> {
        let column = match array.data_type() {
            DataType::Utf8 => array.as_string_opt().map(Self::String),
            DataType::Int32 => array.as_primitive_opt::<Int32Type>().map(Self::Int32),
            DataType::Int64 => array.as_primitive_opt::<Int64Type>().map(Self::Int64),
            DataType::Float64 => array.as_primitive_opt::<Float64Type>().map(Self::Float64),
            DataType::Decimal128(..) => array.as_primitive_opt::<Decimal128Type>().map(Self::Decimal),
            DataType::Date32 => array.as_primitive_opt::<Date32Type>().map(Self::Date),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                array.as_primitive_opt::<TimestampMicrosecondType>().map(Self::Timestamp)
            }
            DataType::Boolean => array.as_boolean_opt().map(Self::Bool),
            DataType::Binary => array.as_binary_opt().map(Self::Binary),
            _ => None,
        };
        column.ok_or_else(|| LakeError::BadData { what: format!("{} is the type of no item", array.data_type()) })
    }

    /// Whether its values come again often enough for a dictionary to be worth its making: judged by some of them.
    pub(crate) fn repeats(&self) -> bool {
        let mut seen: HashSet<u128> = HashSet::new();
        let rows = match self {
            Self::String(a) => sample(*a, |row| seen.insert(text_key(a.value(row).as_bytes()))),
            Self::Binary(a) => sample(*a, |row| seen.insert(text_key(a.value(row)))),
            Self::Int32(a) => sample(*a, |row| seen.insert(a.value(row) as u128)),
            Self::Int64(a) => sample(*a, |row| seen.insert(a.value(row) as u128)),
            Self::Float64(a) => sample(*a, |row| seen.insert(u128::from(a.value(row).to_bits()))),
            Self::Decimal(a) => sample(*a, |row| seen.insert(a.value(row) as u128)),
            Self::Date(a) => sample(*a, |row| seen.insert(a.value(row) as u128)),
            Self::Timestamp(a) => sample(*a, |row| seen.insert(a.value(row) as u128)),
            // One bit each is as short as it gets.
            Self::Bool(_) => return false,
        };
        seen.len() <= rows / 4 * 3
    }

    /// The bounds of its values and how many are missing. Bounds of texts are at most [`BOUND_BYTES_MAX`] long: a least
    /// one is cut, a greatest one that is longer is not known.
    pub(crate) fn stats(&self) -> (ColumnStats, u64) {
        let (bounds, array): (Option<(Value, Value)>, &dyn Array) = match self {
            Self::String(a) => (
                bounds(a.iter().flatten(), |x, y| x.as_bytes().cmp(y.as_bytes()), |v| Value::String((*v).to_owned())),
                *a,
            ),
            Self::Int32(a) => (extremes(a, Value::Int32), *a),
            Self::Int64(a) => (extremes(a, Value::Int64), *a),
            Self::Float64(a) => (bounds(a.iter().flatten(), |x, y| compare_floats(*x, *y), |v| Value::Float64(*v)), *a),
            Self::Decimal(a) => (extremes(a, Value::Decimal), *a),
            Self::Date(a) => (extremes(a, Value::Date), *a),
            Self::Timestamp(a) => (extremes(a, Value::Timestamp), *a),
            Self::Bool(a) => (bounds(a.iter().flatten(), Ord::cmp, |v| Value::Bool(*v)), *a),
            // Binary columns are not compared.
            Self::Binary(a) => (None, *a),
        };
        let nulls = array.null_count();
        let (min, max) = bounds.map_or((None, None), |(min, max)| (cut(min), Some(max).filter(is_short)));
        let stats = ColumnStats { min, max, may_be_null: nulls > 0, may_be_value: nulls < array.len() };
        (stats, nulls as u64)
    }
}

/// What is known of a column over two lots of rows, from what is known of each.
pub(crate) fn widened(a: ColumnSummary, b: ColumnSummary) -> ColumnSummary {
    let bound = |x: Option<Value>, y: Option<Value>, x_has: bool, y_has: bool, least: bool| match (x_has, y_has) {
        (true, true) => x.zip(y).and_then(|(x, y)| outer(x, y, least)),
        (true, false) => x,
        (false, _) => y,
    };
    let (has_a, has_b) = (a.stats.may_be_value, b.stats.may_be_value);
    let stats = ColumnStats {
        min: bound(a.stats.min, b.stats.min, has_a, has_b, true),
        max: bound(a.stats.max, b.stats.max, has_a, has_b, false),
        may_be_null: a.stats.may_be_null || b.stats.may_be_null,
        may_be_value: has_a || has_b,
    };
    ColumnSummary { column: a.column, stats, nulls: a.nulls + b.nulls }
}

/// The lesser or the greater of two bounds of one type; none where they are not to be compared.
fn outer(a: Value, b: Value, least: bool) -> Option<Value> {
    let order = match (&a, &b) {
        (Value::String(a), Value::String(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Value::Int32(a), Value::Int32(b)) => a.cmp(b),
        (Value::Int64(a), Value::Int64(b)) => a.cmp(b),
        (Value::Float64(a), Value::Float64(b)) => compare_floats(*a, *b),
        (Value::Decimal(a), Value::Decimal(b)) => a.cmp(b),
        (Value::Date(a), Value::Date(b)) => a.cmp(b),
        (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        _ => return None,
    };
    Some(if order.is_le() == least { a } else { b })
}

/// Calls `see` for some of the rows that have a value, spread over all of them; how many these were.
fn sample(array: &dyn Array, mut see: impl FnMut(usize) -> bool) -> usize {
    let step = (array.len() / SAMPLE_ROWS).max(1);
    let rows = (0..array.len()).step_by(step).filter(|row| array.is_valid(*row));
    rows.map(&mut see).count()
}

/// Stands for a text among those of a sample: two that are taken for one do no harm.
fn text_key(text: &[u8]) -> u128 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish().into()
}

/// The bounds of numbers, by the kernels that look at several at a time.
fn extremes<T: ArrowNumericType>(
    array: &PrimitiveArray<T>,
    value: impl Fn(T::Native) -> Value,
) -> Option<(Value, Value)> {
    Some((value(min(array)?), value(max(array)?)))
}

fn bounds<T: Copy>(
    mut values: impl Iterator<Item = T>,
    compare: impl Fn(&T, &T) -> Ordering,
    value: impl Fn(&T) -> Value,
) -> Option<(Value, Value)> {
    let first = values.next()?;
    let (min, max) = values.fold((first, first), |(min, max), next| {
        let min = if compare(&next, &min).is_lt() { next } else { min };
        let max = if compare(&next, &max).is_gt() { next } else { max };
        (min, max)
    });
    Some((value(&min), value(&max)))
}

/// A text cut to a prefix, which is never greater than the text.
fn cut(value: Value) -> Option<Value> {
    match value {
        Value::String(mut text) => {
            text.truncate(text.floor_char_boundary(BOUND_BYTES_MAX));
            Some(Value::String(text))
        }
        other => Some(other),
    }
}

fn is_short(value: &Value) -> bool {
    !matches!(value, Value::String(text) if text.len() > BOUND_BYTES_MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn stats(array: &dyn Array) -> (Option<Value>, Option<Value>, u64) {
        let (stats, nulls) = Column::of(array).unwrap().stats();
        (stats.min, stats.max, nulls)
    }

    #[test]
    fn bounds_hold_and_are_short() {
        let array = Int32Array::from(vec![Some(3), None, Some(-1)]);
        assert_eq!(stats(&array), (Some(Value::Int32(-1)), Some(Value::Int32(3)), 1));
        assert_eq!(stats(&Int32Array::from(vec![None, None])), (None, None, 2));
        let long = "灵".repeat(40);
        let (min, max, _) = stats(&StringArray::from(vec![long.as_str()]));
        assert_eq!(min, Some(Value::String("灵".repeat(21))), "cut between characters");
        assert_eq!(max, None);
        let (min, max, _) = stats(&Float64Array::from(vec![f64::NAN, 1.0, -0.0]));
        assert!(min == Some(Value::Float64(0.0)) && matches!(max, Some(Value::Float64(v)) if v.is_nan()));
    }

    #[test]
    fn what_is_known_of_two_lots_holds_for_both() {
        let of = |values: Vec<Option<i32>>| {
            let (stats, nulls) = Column::of(&Int32Array::from(values)).unwrap().stats();
            ColumnSummary { column: 0, stats, nulls }
        };
        let lots = [vec![Some(3), None], vec![], vec![None], vec![Some(-1), Some(7)]];
        let known = lots.clone().map(of).into_iter().reduce(widened).unwrap();
        assert_eq!(known, of(lots.concat()));
        let text = |values: Vec<&str>| {
            let (stats, nulls) = Column::of(&StringArray::from(values)).unwrap().stats();
            ColumnSummary { column: 0, stats, nulls }
        };
        let long = "x".repeat(100);
        let known = widened(text(vec!["b"]), text(vec![&long, "a"]));
        assert_eq!(
            (known.stats.min, known.stats.max),
            (Some(Value::String("a".into())), None),
            "unknown stays unknown"
        );
    }

    #[test]
    fn other_types_are_no_items() {
        assert!(Column::of(&arrow::array::Int8Array::from(vec![1])).is_err());
    }
}
