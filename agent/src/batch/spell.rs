//! Typed columns as text: the spellings that are read back as the same values.

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array,
    Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use chrono::{Datelike, Duration, NaiveDate};
use std::fmt::Write as _;

const DAY_US: i64 = 86_400_000_000;

/// A column by its type.
pub(crate) enum Spelled<'a> {
    String(&'a StringArray),
    Int32(&'a Int32Array),
    Int64(&'a Int64Array),
    Float64(&'a Float64Array),
    Decimal(&'a Decimal128Array, usize),
    Date(&'a Date32Array),
    Timestamp(&'a TimestampMicrosecondArray),
    Bool(&'a BooleanArray),
    Binary(&'a BinaryArray),
}

impl<'a> Spelled<'a> {
    /// Of a canonical column; `None` where it is none.
    pub(crate) fn of(column: &'a ArrayRef) -> Option<Self> {
        Some(match column.data_type() {
            DataType::Utf8 => Self::String(column.as_string_opt()?),
            DataType::Int32 => Self::Int32(column.as_primitive_opt::<Int32Type>()?),
            DataType::Int64 => Self::Int64(column.as_primitive_opt::<Int64Type>()?),
            DataType::Float64 => Self::Float64(column.as_primitive_opt::<Float64Type>()?),
            DataType::Decimal128(_, scale) => {
                Self::Decimal(column.as_primitive_opt::<Decimal128Type>()?, usize::try_from(*scale).ok()?)
            }
            DataType::Date32 => Self::Date(column.as_primitive_opt::<Date32Type>()?),
            DataType::Timestamp(..) => Self::Timestamp(column.as_primitive_opt::<TimestampMicrosecondType>()?),
            DataType::Boolean => Self::Bool(column.as_boolean_opt()?),
            DataType::Binary => Self::Binary(column.as_binary_opt::<i32>()?),
            _ => return None,
        })
    }

    /// All columns of a batch.
    pub(super) fn all(batch: &'a RecordBatch) -> Option<Vec<Self>> {
        batch.columns().iter().map(Self::of).collect()
    }

    pub(crate) fn is_null(&self, row: usize) -> bool {
        match self {
            Self::String(c) => c.is_null(row),
            Self::Int32(c) => c.is_null(row),
            Self::Int64(c) => c.is_null(row),
            Self::Float64(c) => c.is_null(row),
            Self::Decimal(c, _) => c.is_null(row),
            Self::Date(c) => c.is_null(row),
            Self::Timestamp(c) => c.is_null(row),
            Self::Bool(c) => c.is_null(row),
            Self::Binary(c) => c.is_null(row),
        }
    }

    /// The value as JSON: what its numbers cannot hold in every program is a string.
    pub(super) fn json(&self, row: usize) -> serde_json::Value {
        if self.is_null(row) {
            return serde_json::Value::Null;
        }
        match self {
            Self::Int32(c) => c.value(row).into(),
            Self::Int64(c) => c.value(row).into(),
            Self::Bool(c) => c.value(row).into(),
            Self::Float64(c) if c.value(row).is_finite() => c.value(row).into(),
            other => {
                let mut text = String::new();
                other.write(row, &mut text);
                text.into()
            }
        }
    }

    /// Appends the text of a value that is there; a string as it is.
    pub(super) fn write(&self, row: usize, out: &mut String) {
        // Writing to a string cannot fail.
        let _ = match self {
            Self::String(c) => {
                out.push_str(c.value(row));
                Ok(())
            }
            Self::Int32(c) => write!(out, "{}", c.value(row)),
            Self::Int64(c) => write!(out, "{}", c.value(row)),
            Self::Float64(c) => write!(out, "{:?}", c.value(row)),
            Self::Decimal(c, scale) => {
                decimal(c.value(row), *scale, out);
                Ok(())
            }
            Self::Date(c) => {
                day(i64::from(c.value(row)), out);
                Ok(())
            }
            Self::Timestamp(c) => {
                instant(c.value(row), out);
                Ok(())
            }
            Self::Bool(c) => write!(out, "{}", c.value(row)),
            Self::Binary(c) => {
                c.value(row).iter().for_each(|byte| {
                    let _ = write!(out, "{byte:02x}");
                });
                Ok(())
            }
        };
    }
}

fn decimal(value: i128, scale: usize, out: &mut String) {
    if value < 0 {
        out.push('-');
    }
    let digits = value.unsigned_abs().to_string();
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    out.push_str(whole);
    if scale > 0 {
        out.push('.');
        out.push_str(fraction);
    }
}

/// A day since 1970-01-01 as `2026-01-31`.
pub(super) fn day(days: i64, out: &mut String) {
    let date = Duration::try_days(days).and_then(|d| NaiveDate::default().checked_add_signed(d));
    // Days that no calendar of ours has are written as they are counted, which no reader takes for a day.
    let _ = match date {
        Some(date) if (0..=9999).contains(&date.year()) => {
            write!(out, "{:04}-{:02}-{:02}", date.year(), date.month(), date.day())
        }
        _ => write!(out, "day {days}"),
    };
}

fn instant(us: i64, out: &mut String) {
    day(us.div_euclid(DAY_US), out);
    let of_day = us.rem_euclid(DAY_US);
    let (s, fraction) = (of_day / 1_000_000, of_day % 1_000_000);
    let _ = write!(out, "T{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
    if fraction != 0 {
        let _ =
            if fraction % 1000 == 0 { write!(out, ".{:03}", fraction / 1000) } else { write!(out, ".{fraction:06}") };
    }
    out.push('Z');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_spelled_as_they_are_read() {
        let spelled = |write: &dyn Fn(&mut String)| {
            let mut out = String::new();
            write(&mut out);
            out
        };
        assert_eq!(spelled(&|out| decimal(-5, 2, out)), "-0.05");
        assert_eq!(spelled(&|out| decimal(12_345, 0, out)), "12345");
        assert_eq!(spelled(&|out| decimal(i128::MIN, 2, out)), "-1701411834604692317316873037158841057.28");
        assert_eq!(spelled(&|out| day(20_484, out)), "2026-01-31");
        assert_eq!(spelled(&|out| day(i64::MAX, out)), "day 9223372036854775807");
        assert_eq!(spelled(&|out| instant(1_769_817_600_000_001, out)), "2026-01-31T00:00:00.000001Z");
        assert_eq!(spelled(&|out| instant(-1_000, out)), "1969-12-31T23:59:59.999Z");
    }
}
