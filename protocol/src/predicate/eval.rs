//! What a condition means, row by row: the reference that the lake's evaluation on columns is tested against.

use super::types::TypedPredicate;
use crate::region::{RegionCode, RegionTable};
use std::cmp::Ordering;

/// A value of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Missing.
    Null,
    /// Text.
    String(String),
    /// 32-bit integer.
    Int32(i32),
    /// 64-bit integer.
    Int64(i64),
    /// Floating point.
    Float64(f64),
    /// All digits of a decimal, at its column's scale.
    Decimal(i128),
    /// Days since 1970-01-01.
    Date(i32),
    /// Microseconds since 1970-01-01T00:00:00Z.
    Timestamp(i64),
    /// True or false.
    Bool(bool),
    /// Bytes.
    Binary(Vec<u8>),
}

impl Value {
    /// How it stands to `other`, by the rules of conditions; `None` where one is null or they are of two types.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        Some(match (self, other) {
            (Self::String(a), Self::String(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Self::Int32(a), Self::Int32(b)) | (Self::Date(a), Self::Date(b)) => a.cmp(b),
            (Self::Int64(a), Self::Int64(b)) | (Self::Timestamp(a), Self::Timestamp(b)) => a.cmp(b),
            (Self::Float64(a), Self::Float64(b)) => compare_floats(*a, *b),
            (Self::Decimal(a), Self::Decimal(b)) => a.cmp(b),
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Binary(a), Self::Binary(b)) => a.cmp(b),
            _ => return None,
        })
    }
}

/// The order of floats in conditions: as numbers, -0 equal to 0, NaN equal to itself and greater than every number.
///
/// Arrow's own comparison differs (it tells -0 from 0 and puts some NaN first), so columns are compared with this too.
pub fn compare_floats(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// Whether the region code `value` lies in `region`; `None` where it is no region of the table.
pub fn within(value: &str, region: RegionCode) -> Option<bool> {
    let table = RegionTable::national();
    table.check(value).ok().map(|code| table.is_within(code, region))
}

impl TypedPredicate {
    /// What it says of the row whose value in each column `get` gives: true, false, or unknown (`None`). A row is
    /// selected where this is `Some(true)`. A value of another type than its column's is taken as null.
    pub fn eval_row(&self, get: &dyn Fn(usize) -> Value) -> Option<bool> {
        match self {
            Self::And(parts) => parts.iter().map(|part| part.eval_row(get)).fold(Some(true), and),
            Self::Or(parts) => parts.iter().map(|part| part.eval_row(get)).fold(Some(false), or),
            Self::Not(inner) => inner.eval_row(get).map(|holds| !holds),
            Self::Compare { column, op, value } => get(*column).compare(value).map(|order| op.holds(order)),
            Self::In { column, values } => {
                let found = get(*column);
                let equal = values.iter().map(|value| found.compare(value).map(Ordering::is_eq));
                equal.fold(Some(false), or)
            }
            Self::IsNull { column, negated } => Some((get(*column) == Value::Null) != *negated),
            Self::Within { column, region } => match get(*column) {
                Value::String(code) => within(&code, *region),
                _ => None,
            },
        }
    }
}

/// SQL's `and`.
pub(super) fn and(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

/// SQL's `or`.
pub(super) fn or(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}
