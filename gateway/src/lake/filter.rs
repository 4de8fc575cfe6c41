//! A row condition evaluated on columns: one pass over a column for each term, with SQL's three values.
//!
//! What it means is what `TypedPredicate::eval_row` says; a property test compares the two.

use super::error::LakeError;
use super::values::Column;
use arrow::array::{Array, BooleanArray, BooleanBufferBuilder, RecordBatch, StringArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::{and_kleene, is_not_null, is_null, not, or_kleene};
use lingqu_protocol::predicate::{CompareOp, TypedPredicate, Value, compare_floats, within};
use lingqu_protocol::region::RegionCode;

/// What the condition says of each row: true, false, or null for unknown. `place` gives, for a column's place in the
/// entry, its place in the batch.
///
/// # Errors
/// A column that the condition reads is not in the batch: ours.
pub fn evaluate(
    predicate: &TypedPredicate,
    batch: &RecordBatch,
    place: &dyn Fn(usize) -> Option<usize>,
) -> Result<BooleanArray, LakeError> {
    Evaluation { batch, place }.run(predicate)
}

struct Evaluation<'a> {
    batch: &'a RecordBatch,
    place: &'a dyn Fn(usize) -> Option<usize>,
}

impl Evaluation<'_> {
    fn run(&self, predicate: &TypedPredicate) -> Result<BooleanArray, LakeError> {
        match predicate {
            TypedPredicate::And(parts) => self.join(parts, true, and_kleene),
            TypedPredicate::Or(parts) => self.join(parts, false, or_kleene),
            TypedPredicate::Not(inner) => not(&self.run(inner)?).map_err(failed),
            TypedPredicate::Compare { column, op, value } => Ok(compare(self.column(*column)?, *op, value)),
            TypedPredicate::In { column, values } => Ok(contains(self.column(*column)?, values)),
            TypedPredicate::IsNull { column, negated } => {
                let array = self.array(*column)?;
                if *negated { is_not_null(array) } else { is_null(array) }.map_err(failed)
            }
            TypedPredicate::Within { column, region } => match self.column(*column)? {
                Column::String(array) => Ok(lies_within(array, *region)),
                other => Ok(unknown(rows_of(other))),
            },
        }
    }

    fn join(
        &self,
        parts: &[TypedPredicate],
        start: bool,
        join: fn(&BooleanArray, &BooleanArray) -> Result<BooleanArray, arrow::error::ArrowError>,
    ) -> Result<BooleanArray, LakeError> {
        let rows = self.batch.num_rows();
        let start = if start { BooleanBuffer::new_set(rows) } else { BooleanBuffer::new_unset(rows) };
        parts.iter().try_fold(BooleanArray::new(start, None), |sum, part| join(&sum, &self.run(part)?).map_err(failed))
    }

    fn array(&self, column: usize) -> Result<&dyn Array, LakeError> {
        let array = (self.place)(column).and_then(|at| self.batch.columns().get(at));
        array.map(AsRef::as_ref).ok_or_else(|| LakeError::columns("evaluating a condition", "a column was not read"))
    }

    fn column(&self, column: usize) -> Result<Column<'_>, LakeError> {
        Column::of(self.array(column)?)
    }
}

fn compare(column: Column<'_>, op: CompareOp, value: &Value) -> BooleanArray {
    match (column, value) {
        (Column::String(a), Value::String(v)) => test(a, |i| op.holds(a.value(i).as_bytes().cmp(v.as_bytes()))),
        (Column::Int32(a), Value::Int32(v)) => test(a, |i| op.holds(a.value(i).cmp(v))),
        (Column::Int64(a), Value::Int64(v)) => test(a, |i| op.holds(a.value(i).cmp(v))),
        (Column::Float64(a), Value::Float64(v)) => test(a, |i| op.holds(compare_floats(a.value(i), *v))),
        (Column::Decimal(a), Value::Decimal(v)) => test(a, |i| op.holds(a.value(i).cmp(v))),
        (Column::Date(a), Value::Date(v)) => test(a, |i| op.holds(a.value(i).cmp(v))),
        (Column::Timestamp(a), Value::Timestamp(v)) => test(a, |i| op.holds(a.value(i).cmp(v))),
        (Column::Bool(a), Value::Bool(v)) => test(a, |i| op.holds(a.value(i).cmp(v))),
        (Column::Binary(a), Value::Binary(v)) => test(a, |i| op.holds(a.value(i).cmp(v.as_slice()))),
        (other, _) => unknown(rows_of(other)),
    }
}

/// Whether a column's value is among `values`. Their order is made once, and each row is one binary search.
fn contains(column: Column<'_>, values: &[Value]) -> BooleanArray {
    macro_rules! search {
        ($array:expr, $kind:ident, $compare:expr) => {{
            let compare = $compare;
            let mut sorted: Vec<_> =
                values.iter().filter_map(|v| if let Value::$kind(v) = v { Some(v) } else { None }).collect();
            if sorted.len() < values.len() {
                // One of another type is unknown, so nothing is known to be absent; the typing rules it out.
                return unknown($array.len());
            }
            sorted.sort_by(|a, b| compare(a, b));
            test($array, |i| {
                let value = $array.value(i);
                sorted.binary_search_by(|probe| compare(probe, &value)).is_ok()
            })
        }};
    }
    match column {
        Column::String(a) => {
            let mut sorted: Vec<&str> =
                values.iter().filter_map(|v| if let Value::String(v) = v { Some(v.as_str()) } else { None }).collect();
            if sorted.len() < values.len() {
                return unknown(a.len());
            }
            sorted.sort_unstable();
            test(a, |i| sorted.binary_search(&a.value(i)).is_ok())
        }
        Column::Int32(a) => search!(a, Int32, |x: &i32, y: &i32| x.cmp(y)),
        Column::Int64(a) => search!(a, Int64, |x: &i64, y: &i64| x.cmp(y)),
        Column::Float64(a) => search!(a, Float64, |x: &f64, y: &f64| compare_floats(*x, *y)),
        Column::Decimal(a) => search!(a, Decimal, |x: &i128, y: &i128| x.cmp(y)),
        Column::Date(a) => search!(a, Date, |x: &i32, y: &i32| x.cmp(y)),
        Column::Timestamp(a) => search!(a, Timestamp, |x: &i64, y: &i64| x.cmp(y)),
        Column::Bool(a) => search!(a, Bool, |x: &bool, y: &bool| x.cmp(y)),
        Column::Binary(a) => unknown(a.len()),
    }
}

/// Runs of one region are the rule, for parts are sorted by it: the last answer is kept.
fn lies_within(array: &StringArray, region: RegionCode) -> BooleanArray {
    let mut values = BooleanBufferBuilder::new(array.len());
    let mut known = BooleanBufferBuilder::new(array.len());
    let mut last: Option<(&str, Option<bool>)> = None;
    for code in array {
        let answer = match (code, last) {
            (None, _) => None,
            (Some(code), Some((before, answer))) if before == code => answer,
            (Some(code), _) => {
                let answer = within(code, region);
                last = Some((code, answer));
                answer
            }
        };
        values.append(answer == Some(true));
        known.append(answer.is_some());
    }
    BooleanArray::new(values.finish(), Some(NullBuffer::new(known.finish())))
}

fn test(array: &dyn Array, holds: impl Fn(usize) -> bool) -> BooleanArray {
    BooleanArray::new(BooleanBuffer::collect_bool(array.len(), holds), array.nulls().cloned())
}

fn unknown(rows: usize) -> BooleanArray {
    BooleanArray::new_null(rows)
}

fn rows_of(column: Column<'_>) -> usize {
    match column {
        Column::String(a) => a.len(),
        Column::Int32(a) => a.len(),
        Column::Int64(a) => a.len(),
        Column::Float64(a) => a.len(),
        Column::Decimal(a) => a.len(),
        Column::Date(a) => a.len(),
        Column::Timestamp(a) => a.len(),
        Column::Bool(a) => a.len(),
        Column::Binary(a) => a.len(),
    }
}

fn failed(error: arrow::error::ArrowError) -> LakeError {
    LakeError::columns("evaluating a condition", error)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use arrow::array::{
        ArrayRef, BinaryArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
        TimestampMicrosecondArray,
    };
    use proptest::prelude::*;
    use std::sync::Arc;

    const CODES: [&str; 8] = ["44", "4403", "440304", "4401", "441900", "11", "999999", ""];

    /// A column's values, from which both an array and single values are made.
    type Cells = Vec<Option<u8>>;

    fn float(n: u8) -> f64 {
        [f64::NAN, -0.0, 0.0, 1.5, -2.0, f64::INFINITY, -f64::NAN, 3.0][usize::from(n % 8)]
    }

    fn value(column: usize, n: u8) -> Value {
        let small = i32::from(n % 5) - 2;
        match column {
            0 => Value::String(CODES[usize::from(n % 8)].to_owned()),
            1 => Value::Int32(small),
            2 => Value::Int64(i64::from(small)),
            3 => Value::Float64(float(n)),
            4 => Value::Decimal(i128::from(small)),
            5 => Value::Date(small),
            6 => Value::Timestamp(i64::from(small)),
            7 => Value::Bool(n.is_multiple_of(2)),
            _ => Value::Binary(vec![n % 3]),
        }
    }

    macro_rules! array {
        ($kind:ident, $array:ty, $column:expr, $cells:expr) => {{
            let values = $cells.iter().map(|n| {
                n.map(|n| match value($column, n) {
                    Value::$kind(v) => v,
                    other => panic!("{other:?}"),
                })
            });
            values.collect::<$array>()
        }};
    }

    fn batch(cells: &[Cells]) -> RecordBatch {
        let binary: Vec<Option<Vec<u8>>> = cells[8].iter().map(|n| n.map(|n| vec![n % 3])).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(array!(String, StringArray, 0, cells[0])),
            Arc::new(array!(Int32, Int32Array, 1, cells[1])),
            Arc::new(array!(Int64, Int64Array, 2, cells[2])),
            Arc::new(array!(Float64, Float64Array, 3, cells[3])),
            Arc::new(array!(Decimal, Decimal128Array, 4, cells[4]).with_precision_and_scale(10, 2).unwrap()),
            Arc::new(array!(Date, Date32Array, 5, cells[5])),
            Arc::new(array!(Timestamp, TimestampMicrosecondArray, 6, cells[6]).with_timezone("UTC")),
            Arc::new(array!(Bool, BooleanArray, 7, cells[7])),
            Arc::new(binary.iter().map(Option::as_deref).collect::<BinaryArray>()),
        ];
        RecordBatch::try_from_iter(columns.into_iter().enumerate().map(|(i, c)| (format!("c{i}"), c))).unwrap()
    }

    fn predicates() -> impl Strategy<Value = TypedPredicate> {
        use CompareOp::{Eq, Ge, Gt, Le, Lt, Ne};
        let ops = prop::sample::select(vec![Eq, Ne, Lt, Le, Gt, Ge]);
        let leaf = prop_oneof![
            (0usize..8, ops, any::<u8>()).prop_map(|(column, op, n)| TypedPredicate::Compare {
                column,
                op,
                value: value(column, n)
            }),
            (0usize..8, prop::collection::vec(any::<u8>(), 1..4)).prop_map(|(column, ns)| TypedPredicate::In {
                column,
                values: ns.into_iter().map(|n| value(column, n)).collect()
            }),
            (0usize..9, any::<bool>()).prop_map(|(column, negated)| TypedPredicate::IsNull { column, negated }),
            prop::sample::select(vec!["44", "4403", "11"]).prop_map(|code| TypedPredicate::Within {
                column: 0,
                region: lingqu_protocol::region::RegionTable::national().check(code).unwrap(),
            }),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(TypedPredicate::And),
                prop::collection::vec(inner.clone(), 0..4).prop_map(TypedPredicate::Or),
                inner.prop_map(|p| TypedPredicate::Not(Box::new(p))),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn columns_and_rows_agree(
            predicate in predicates(),
            cells in prop::collection::vec(prop::collection::vec(prop::option::weighted(0.8, any::<u8>()), 12), 9),
            skip in 0usize..4,
        ) {
            let batch = batch(&cells).slice(skip, 12 - skip);
            let got = evaluate(&predicate, &batch, &Some).unwrap();
            for row in 0..batch.num_rows() {
                let get = |column: usize| cells[column][row + skip].map_or(Value::Null, |n| value(column, n));
                let expected = predicate.eval_row(&get);
                let found = got.is_valid(row).then(|| got.value(row));
                prop_assert_eq!(found, expected, "row {}", row);
            }
        }
    }

    #[test]
    fn a_column_that_was_not_read_is_an_error() {
        let cells = vec![vec![Some(1)]; 9];
        let predicate = TypedPredicate::IsNull { column: 1, negated: false };
        assert!(evaluate(&predicate, &batch(&cells), &|_| None).is_err());
    }
}
