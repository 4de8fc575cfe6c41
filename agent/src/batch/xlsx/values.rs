//! What an Excel cell spells in an item.

use super::book::{Book, Style};
use super::sheet::Cell;
use crate::batch::cells::{Why, why};
use chrono::{Duration, NaiveDate};
use lingqu_protocol::entry::ItemType;
use std::borrow::Cow;

/// Numbers from here on have more digits than Excel keeps.
const DIGITS_KEPT: f64 = 1e15;

/// Excel's days: day 60 is one that never was, so that those before it are off by one.
const DAYS_FALSE: i64 = 60;

/// The text that a cell spells in an item of this type; or what stands there, and why it is none.
pub(super) fn spelled<'a>(
    book: &'a Book,
    item_type: ItemType,
    cell: &'a Cell,
    has_zone: bool,
) -> Result<Cow<'a, str>, (String, Why)> {
    match cell {
        Cell::Empty => Ok("".into()),
        Cell::Shared(_) | Cell::Text(_) => cell
            .text(book)
            .map(Cow::Borrowed)
            .ok_or_else(|| (String::new(), why("its text is not in the file", "文件中缺少该文本"))),
        Cell::Bool(value) if item_type == ItemType::Bool => Ok(if *value { "true" } else { "false" }.into()),
        Cell::Bool(value) => {
            Err((value.to_string(), why("it is TRUE or FALSE, and the item is not", "是布尔值，与数据项类型不符")))
        }
        Cell::Error(text) => Err((text.clone(), why("its formula failed", "公式出错"))),
        Cell::Number(text, style) => {
            let no_number = || (text.clone(), why("it is no number", "不是数值"));
            let number: f64 = text.parse().map_err(|_| no_number())?;
            if !number.is_finite() {
                return Err(no_number());
            }
            number_in(book, item_type, text, number, book.style(*style), has_zone).map_err(|e| (text.clone(), e))
        }
    }
}

fn number_in<'a>(
    book: &Book,
    item_type: ItemType,
    text: &'a str,
    number: f64,
    style: Style,
    has_zone: bool,
) -> Result<Cow<'a, str>, Why> {
    match item_type {
        ItemType::Float64 => Ok(text.into()),
        ItemType::Date if style == Style::Date => date(book, number).map(Cow::Owned),
        ItemType::Timestamp if style == Style::Date => {
            if !has_zone {
                return Err(why(
                    "Excel's times have no zone: say --zone +08:00, or write text with a zone",
                    "Excel 的时间没有时区：请用 --zone +08:00 指定，或写成带时区的文本",
                ));
            }
            instant(book, number).map(Cow::Owned)
        }
        ItemType::String if style == Style::Date => Err(why(
            "it is a day or a time, and the item is text: format the column as text",
            "是日期或时间，而数据项为文本：请将该列设为文本格式",
        )),
        ItemType::Decimal(..) => Ok(rounded(number).into()),
        _ => {
            let digits = whole(number)?;
            Ok(match (item_type, style) {
                (ItemType::String, Style::Padded(width)) => format!("{digits:0>width$}").into(),
                _ => digits.into(),
            })
        }
    }
}

/// The digits of a whole number that Excel keeps all of.
fn whole(number: f64) -> Result<String, Why> {
    if number.abs() >= DIGITS_KEPT {
        return Err(why(
            "digits were lost: Excel keeps 15 digits of a number; format the column as text before codes are entered",
            "数字已丢失精度：Excel 的数值只保留 15 位；请先将该列设为文本格式再录入代码",
        ));
    }
    if number.fract() != 0.0 {
        return Err(why("it is a number with decimals", "是带小数的数值"));
    }
    Ok(format!("{number:.0}"))
}

/// A number at the 15 digits that Excel shows, without an exponent.
fn rounded(number: f64) -> String {
    let text = format!("{number:.14e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let decimals = usize::try_from(14 - exponent).unwrap_or(0).min(400);
    let mantissa: f64 = mantissa.parse().unwrap_or(0.0);
    let value: f64 = format!("{mantissa}e{exponent}").parse().unwrap_or(number);
    let fixed = format!("{value:.decimals$}");
    if fixed.contains('.') { fixed.trim_end_matches('0').trim_end_matches('.').to_owned() } else { fixed }
}

fn day_of(book: &Book, days: i64) -> Option<NaiveDate> {
    let start = if book.from_1904 {
        NaiveDate::from_ymd_opt(1904, 1, 1)?
    } else if days < DAYS_FALSE {
        NaiveDate::from_ymd_opt(1899, 12, 31)?
    } else {
        NaiveDate::from_ymd_opt(1899, 12, 30)?
    };
    let first = i64::from(!book.from_1904);
    if !(first..=2_958_465).contains(&days) || (!book.from_1904 && days == DAYS_FALSE) {
        return None;
    }
    start.checked_add_signed(Duration::days(days))
}

fn no_day() -> Why {
    why("Excel's calendar has no day like this", "Excel 日历上没有这一天")
}

pub(super) fn date(book: &Book, number: f64) -> Result<String, Why> {
    if number.fract() != 0.0 {
        return Err(why("it has a time of day, and the item is a day", "含有时刻，而数据项为日期"));
    }
    day_of(book, number as i64).map(|day| day.to_string()).ok_or_else(no_day)
}

/// Excel's fractions of a day stand for milliseconds.
fn instant(book: &Book, number: f64) -> Result<String, Why> {
    let all_ms = (number * 86_400_000.0).round() as i64;
    let (days, ms) = (all_ms.div_euclid(86_400_000), all_ms.rem_euclid(86_400_000));
    let day = day_of(book, days).ok_or_else(no_day)?;
    let (s, ms) = (ms / 1000, ms % 1000);
    Ok(format!("{day}T{:02}:{:02}:{:02}.{ms:03}", s / 3600, s / 60 % 60, s % 60))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(item_type: ItemType, number: &str, style: Style) -> Result<String, String> {
        let book = Book::default();
        let text = number_in(&book, item_type, number, number.parse().unwrap(), style, true);
        text.map(Cow::into_owned).map_err(|e| e.en)
    }

    #[test]
    fn numbers_are_what_excel_shows() {
        let decimal = ItemType::Decimal(15, 4);
        assert_eq!(of(decimal, "0.30000000000000004", Style::Number).unwrap(), "0.3");
        assert_eq!(of(decimal, "1.5E-3", Style::Number).unwrap(), "0.0015");
        assert_eq!(of(decimal, "12345678901.25", Style::Number).unwrap(), "12345678901.25");
        assert_eq!(of(decimal, "1E+20", Style::Number).unwrap(), "100000000000000000000");
        assert_eq!(of(ItemType::String, "110101", Style::Number).unwrap(), "110101");
        assert_eq!(of(ItemType::String, "7", Style::Padded(6)).unwrap(), "000007");
        assert!(of(ItemType::String, "110101199003070000", Style::Number).unwrap_err().contains("digits were lost"));
        assert!(of(ItemType::Int64, "1.5", Style::Number).unwrap_err().contains("decimals"));
    }

    #[test]
    fn days_are_excels_days() {
        assert_eq!(of(ItemType::Date, "46053", Style::Date).unwrap(), "2026-01-31");
        assert_eq!(of(ItemType::Date, "1", Style::Date).unwrap(), "1900-01-01");
        assert_eq!(of(ItemType::Date, "61", Style::Date).unwrap(), "1900-03-01");
        assert!(of(ItemType::Date, "60", Style::Date).is_err());
        assert_eq!(of(ItemType::Date, "20260131", Style::Number).unwrap(), "20260131");
        assert!(of(ItemType::Date, "46053.5", Style::Date).unwrap_err().contains("time of day"));
        assert_eq!(of(ItemType::Timestamp, "46053.5", Style::Date).unwrap(), "2026-01-31T12:00:00.000");
        assert!(of(ItemType::String, "46053", Style::Date).unwrap_err().contains("format the column"));
    }
}
