//! Text into typed columns, a cell at a time: what CSV, JSON Lines and Excel files have in common. Which spellings are
//! read is the same for all of them, and stands in docs/OPERATIONS.md.

mod times;

pub use times::Zone;

use crate::error::Text;
use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder,
    Int32Builder, Int64Builder, StringArray, TimestampMicrosecondBuilder,
};
use lingqu_protocol::entry::ItemType;
use std::sync::Arc;

/// UTC as the entry's columns name it.
const UTC: &str = "UTC";

/// Why a text is no value of its type; boxed, for good rows carry the room for it too.
pub(super) type Why = Box<Text>;

pub(super) fn why(en: impl Into<String>, zh: impl Into<String>) -> Why {
    Box::new(Text::new(en, zh))
}

/// One column under construction.
pub(super) struct Column {
    values: Values,
    zone: Option<Zone>,
}

enum Values {
    /// Bytes: that they are UTF-8 is checked once for the whole column, which is much cheaper than once a cell.
    String(BinaryBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float64(Float64Builder),
    Decimal(Decimal128Builder, u8, u8),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
    Bool(BooleanBuilder),
    Binary(BinaryBuilder),
}

/// A column that is built, and the rows whose text was not UTF-8, with what there is of it. Those rows are null.
pub(super) struct Built {
    pub(super) column: ArrayRef,
    pub(super) not_utf8: Vec<(usize, String)>,
}

impl Column {
    /// Of values of `item_type`; timestamps that say no zone are in `zone`, where there is one.
    pub(super) fn new(item_type: ItemType, zone: Option<Zone>) -> Self {
        let values = match item_type {
            ItemType::String => Values::String(BinaryBuilder::new()),
            ItemType::Int32 => Values::Int32(Int32Builder::new()),
            ItemType::Int64 => Values::Int64(Int64Builder::new()),
            ItemType::Float64 => Values::Float64(Float64Builder::new()),
            ItemType::Decimal(digits, scale) => {
                let data_type = lingqu_protocol::columns::arrow_type(item_type);
                Values::Decimal(Decimal128Builder::new().with_data_type(data_type), digits, scale)
            }
            ItemType::Date => Values::Date(Date32Builder::new()),
            ItemType::Timestamp => Values::Timestamp(TimestampMicrosecondBuilder::new()),
            ItemType::Bool => Values::Bool(BooleanBuilder::new()),
            ItemType::Binary => Values::Binary(BinaryBuilder::new()),
        };
        Self { values, zone }
    }

    /// Appends no value.
    pub(super) fn null(&mut self) {
        match &mut self.values {
            Values::String(b) | Values::Binary(b) => b.append_null(),
            Values::Int32(b) => b.append_null(),
            Values::Int64(b) => b.append_null(),
            Values::Float64(b) => b.append_null(),
            Values::Decimal(b, ..) => b.append_null(),
            Values::Date(b) => b.append_null(),
            Values::Timestamp(b) => b.append_null(),
            Values::Bool(b) => b.append_null(),
        }
    }

    /// Appends the value that `text` spells. Where it spells none, no value is appended, so that rows stay aligned.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn text(&mut self, text: &[u8]) -> Result<(), Why> {
        if let Values::String(b) = &mut self.values {
            b.append_value(text);
            return Ok(());
        }
        let text = text.trim_ascii();
        let outcome = match &mut self.values {
            Values::String(_) => Ok(()),
            Values::Int32(b) => match integer(text) {
                Ok(n) => i32::try_from(n).map(|n| b.append_value(n)).map_err(|_| out_of_range()),
                Err(e) => Err(e),
            },
            Values::Int64(b) => integer(text).map(|n| b.append_value(n)),
            Values::Float64(b) => float(text).map(|f| b.append_value(f)),
            Values::Decimal(b, digits, scale) => decimal(text, *digits, *scale).map(|d| b.append_value(d)),
            Values::Date(b) => times::date(text).map(|d| b.append_value(d)),
            Values::Timestamp(b) => times::timestamp(text, self.zone).map(|t| b.append_value(t)),
            Values::Bool(b) => boolean(text).map(|v| b.append_value(v)),
            Values::Binary(b) => std::str::from_utf8(text)
                .ok()
                .and_then(lingqu_protocol::digest::from_hex)
                .map(|bytes| b.append_value(bytes))
                .ok_or_else(|| why("bytes are written as pairs of hexadecimal digits", "二进制须写成十六进制数字对")),
        };
        if outcome.is_err() {
            self.null();
        }
        outcome
    }

    /// The column, and the builder is empty again.
    pub(super) fn finish(&mut self) -> Built {
        let column: ArrayRef = match &mut self.values {
            Values::String(b) => return strings(b.finish()),
            Values::Int32(b) => Arc::new(b.finish()),
            Values::Int64(b) => Arc::new(b.finish()),
            Values::Float64(b) => Arc::new(b.finish()),
            Values::Decimal(b, ..) => Arc::new(b.finish()),
            Values::Date(b) => Arc::new(b.finish()),
            Values::Timestamp(b) => Arc::new(b.finish().with_timezone(UTC)),
            Values::Bool(b) => Arc::new(b.finish()),
            Values::Binary(b) => Arc::new(b.finish()),
        };
        Built { column, not_utf8: Vec::new() }
    }
}

fn strings(bytes: BinaryArray) -> Built {
    if let Ok(column) = StringArray::try_from_binary(bytes.clone()) {
        return Built { column: Arc::new(column), not_utf8: Vec::new() };
    }
    let bad = |row: &usize| bytes.is_valid(*row) && std::str::from_utf8(bytes.value(*row)).is_err();
    let rows: Vec<usize> = (0..bytes.len()).filter(bad).collect();
    let column: StringArray = bytes.iter().map(|v| v.and_then(|v| std::str::from_utf8(v).ok())).collect();
    let shown = |row: &usize| String::from_utf8_lossy(bytes.value(*row)).chars().take(super::SHOWN_CHARS).collect();
    Built { column: Arc::new(column), not_utf8: rows.iter().map(|row| (*row, shown(row))).collect() }
}

fn out_of_range() -> Why {
    why("it is out of range", "超出取值范围")
}

fn integer(text: &[u8]) -> Result<i64, Why> {
    let (negative, digits) = signed(text);
    if digits.is_empty() {
        return Err(why("it is no whole number", "不是整数"));
    }
    let mut value = 0i64;
    for byte in digits {
        if !byte.is_ascii_digit() {
            return Err(why("it is no whole number", "不是整数"));
        }
        let digit = i64::from(byte - b'0');
        // Downwards, for there is one negative number more than there are positive ones.
        value = value.checked_mul(10).and_then(|v| v.checked_sub(digit)).ok_or_else(out_of_range)?;
    }
    if negative { Ok(value) } else { value.checked_neg().ok_or_else(out_of_range) }
}

fn float(text: &[u8]) -> Result<f64, Why> {
    let parsed = std::str::from_utf8(text).ok().and_then(|t| t.parse::<f64>().ok());
    let value = parsed.ok_or_else(|| why("it is no number", "不是数值"))?;
    let says_so = text.iter().any(|b| b.eq_ignore_ascii_case(&b'n'));
    if value.is_infinite() && !says_so {
        return Err(out_of_range());
    }
    Ok(value)
}

fn decimal(text: &[u8], digits: u8, scale: u8) -> Result<i128, Why> {
    let none = || why("it is no decimal number", "不是十进制小数");
    let (negative, number) = signed(text);
    let point = number.iter().position(|b| *b == b'.').unwrap_or(number.len());
    let (whole, rest) = number.split_at(point);
    let fraction = rest.get(1..).unwrap_or_default();
    if (whole.is_empty() && fraction.is_empty()) || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return Err(none());
    }
    let significant = fraction.iter().rposition(|b| *b != b'0').map_or(0, |last| last + 1);
    if significant > usize::from(scale) {
        return Err(why(format!("it has more than {scale} decimals"), format!("小数位超过 {scale} 位")));
    }
    let zeros = usize::from(scale) - significant;
    let all = whole.iter().chain(fraction.iter().take(significant)).chain(std::iter::repeat_n(&b'0', zeros));
    let too_many = || why(format!("it has more than {digits} digits"), format!("数字超过 {digits} 位"));
    let mut value = 0i128;
    for byte in all {
        let digit = i128::from(byte - b'0');
        value = value.checked_mul(10).and_then(|v| v.checked_add(digit)).ok_or_else(too_many)?;
    }
    // 38 digits are the most that an entry has, and 10^38 fits.
    if value >= 10i128.pow(u32::from(digits.min(38))) {
        return Err(too_many());
    }
    Ok(if negative { -value } else { value })
}

fn boolean(text: &[u8]) -> Result<bool, Why> {
    match text {
        b"1" => Ok(true),
        b"0" => Ok(false),
        _ if text.eq_ignore_ascii_case(b"true") || text == "是".as_bytes() => Ok(true),
        _ if text.eq_ignore_ascii_case(b"false") || text == "否".as_bytes() => Ok(false),
        _ => Err(why("expected true, false, 1, 0, 是 or 否", "须为 true、false、1、0、是 或 否")),
    }
}

fn signed(text: &[u8]) -> (bool, &[u8]) {
    match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use arrow::array::AsArray;
    use arrow::datatypes::{Date32Type, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
    use proptest::prelude::*;

    fn one(item_type: ItemType, text: &str) -> Result<ArrayRef, String> {
        let mut column = Column::new(item_type, None);
        column.text(text.as_bytes()).map_err(|e| e.en)?;
        Ok(column.finish().column)
    }

    #[test]
    fn spellings_that_are_read() {
        for text in ["2026-01-31", "2026/1/31", "20260131", "2026-1-31", "2026年1月31日", " 2026-01-31 00:00:00"] {
            let column = one(ItemType::Date, text).unwrap();
            assert_eq!(column.as_primitive::<Date32Type>().value(0), 20_484, "{text}");
        }
        for text in [
            "2026-01-31T08:00:00+08:00",
            "2026-01-31 00:00:00Z",
            "2026/1/31 8:00 +0800",
            "2026-01-31T08:00:00.000000+08",
        ] {
            let column = one(ItemType::Timestamp, text).unwrap();
            assert_eq!(column.as_primitive::<TimestampMicrosecondType>().value(0), 1_769_817_600_000_000, "{text}");
        }
        let decimal =
            |text| one(ItemType::Decimal(5, 2), text).map(|column| column.as_primitive::<Decimal128Type>().value(0));
        assert_eq!(decimal("-1.5"), Ok(-150));
        assert_eq!(decimal(".50"), Ok(50));
        assert_eq!(decimal("999.99000"), Ok(99_999));
        let int = |text| one(ItemType::Int64, text).map(|column| column.as_primitive::<Int64Type>().value(0));
        assert_eq!(int("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(int("007"), Ok(7));
        for (text, expected) in [("是", true), ("FALSE", false), ("1", true)] {
            assert_eq!(one(ItemType::Bool, text).unwrap().as_boolean().value(0), expected);
        }
        assert!(one(ItemType::Float64, "NaN").unwrap().as_primitive::<Float64Type>().value(0).is_nan());
    }

    #[test]
    fn spellings_that_are_not() {
        for (item_type, text, said) in [
            (ItemType::Date, "2026-02-30", "no day"),
            (ItemType::Date, "31/01/2026", "2026-01-31"),
            (ItemType::Date, "2026-01-31 08:00:00", "time"),
            (ItemType::Date, "260131", "2026-01-31"),
            (ItemType::Timestamp, "2026-01-31T08:00:00", "zone"),
            (ItemType::Timestamp, "2026-01-31T25:00:00Z", "time"),
            (ItemType::Timestamp, "2026-01-31T08:00:00.1234567Z", "microsecond"),
            (ItemType::Decimal(5, 2), "1.234", "2 decimals"),
            (ItemType::Decimal(5, 2), "1000", "5 digits"),
            (ItemType::Decimal(5, 2), "1,000", "no decimal"),
            (ItemType::Decimal(5, 2), "1e2", "no decimal"),
            (ItemType::Int32, "2147483648", "out of range"),
            (ItemType::Int64, "9223372036854775808", "out of range"),
            (ItemType::Int64, "1.0", "whole"),
            (ItemType::Float64, "1e999", "out of range"),
            (ItemType::Bool, "yes", "true"),
            (ItemType::Binary, "0g", "hexadecimal"),
        ] {
            let error = one(item_type, text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn text_that_is_no_text_is_named_by_its_row() {
        let mut column = Column::new(ItemType::String, None);
        column.text("甲".as_bytes()).unwrap();
        column.text(b"\xbc\xd7").unwrap();
        column.null();
        let built = column.finish();
        assert_eq!(built.not_utf8.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1]);
        assert_eq!((built.column.len(), built.column.null_count()), (3, 2));
    }

    proptest! {
        #[test]
        fn numbers_and_times_read_back(n: i64, d in -99_999i128..99_999, day in -700_000i32..2_900_000, bytes in "\\PC{0,20}") {
            let read = one(ItemType::Int64, &n.to_string()).unwrap();
            prop_assert_eq!(read.as_primitive::<Int64Type>().value(0), n);
            let text = format!("{}{}.{:02}", if d < 0 { "-" } else { "" }, d.abs() / 100, d.abs() % 100);
            let read = one(ItemType::Decimal(5, 2), &text).unwrap();
            prop_assert_eq!(read.as_primitive::<Decimal128Type>().value(0), d);
            let date = arrow::temporal_conversions::date32_to_datetime(day).unwrap();
            let read = one(ItemType::Date, &date.format("%Y-%m-%d").to_string()).unwrap();
            prop_assert_eq!(read.as_primitive::<Date32Type>().value(0), day);
            for item_type in [ItemType::Int32, ItemType::Float64, ItemType::Date, ItemType::Timestamp, ItemType::Bool] {
                let _ = one(item_type, &bytes);
            }
        }
    }
}
