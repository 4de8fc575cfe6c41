//! Days and instants as agencies write them.

use super::{Why, why};
use chrono::{NaiveDate, NaiveTime};
use std::fmt;
use std::str::FromStr;

/// Microseconds of a second and of a day.
const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;

/// An offset from UTC, in minutes east.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Zone(i16);

/// A text that is no offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an offset from UTC such as +08:00, or Z")]
pub struct BadZone;

impl FromStr for Zone {
    type Err = BadZone;
    fn from_str(text: &str) -> Result<Self, BadZone> {
        zone(text.as_bytes()).ok_or(BadZone)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { '-' } else { '+' };
        write!(f, "{sign}{:02}:{:02}", self.0.abs() / 60, self.0.abs() % 60)
    }
}

/// Days since 1970-01-01 of `2026-01-31`, `2026/1/31`, `20260131` or `2026年1月31日`, with nothing or midnight after it.
pub(super) fn date(text: &[u8]) -> Result<i32, Why> {
    let (day, rest) = day(text)?;
    match rest {
        b"" | b" 00:00:00" | b"T00:00:00" | b" 00:00:00.000" | b" 0:00:00" | b" 0:00" | b" 00:00" => Ok(day),
        _ => Err(why("a time of day or other text follows the day", "日期之后有时刻或其他内容")),
    }
}

/// Microseconds since 1970-01-01T00:00:00Z of a day, `T` or a blank, a time, and a zone: `2026-01-31T08:00:00+08:00`.
pub(super) fn timestamp(text: &[u8], default: Option<Zone>) -> Result<i64, Why> {
    let (day, rest) = day(text)?;
    let (time, rest) = match rest.split_first() {
        None => (0, rest),
        Some((b'T' | b't' | b' ', rest)) => time(rest)?,
        Some(_) => return Err(no_time()),
    };
    let rest = rest.trim_ascii();
    let zone = if rest.is_empty() { default } else { Some(zone(rest).ok_or_else(no_zone)?) };
    let zone = zone.ok_or_else(no_zone)?;
    Ok(i64::from(day) * DAY_US + time - i64::from(zone.0) * 60 * SECOND_US)
}

fn no_zone() -> Why {
    why(
        "a timestamp says its zone: 2026-01-31T08:00:00+08:00 (or give --zone for those that say none)",
        "时间须带时区：2026-01-31T08:00:00+08:00（未带时区的可用 --zone 指定）",
    )
}

fn no_time() -> Why {
    why("its time of day cannot be read", "时刻无法识别")
}

/// The day at the front, and what follows it.
fn day(text: &[u8]) -> Result<(i32, &[u8]), Why> {
    let none = || {
        why(
            "it is no day: write 2026-01-31 (2026/1/31, 20260131 and 2026年1月31日 are read too)",
            "不是日期：请写 2026-01-31（也接受 2026/1/31、20260131、2026年1月31日）",
        )
    };
    let (year, rest) = number(text, 4, 4).ok_or_else(none)?;
    let (month, day, rest) = match rest.split_first() {
        Some((separator @ (b'-' | b'/'), rest)) => {
            let (month, rest) = number(rest, 1, 2).ok_or_else(none)?;
            let rest = rest.strip_prefix(&[*separator]).ok_or_else(none)?;
            let (day, rest) = number(rest, 1, 2).ok_or_else(none)?;
            (month, day, rest)
        }
        _ => match rest.strip_prefix("年".as_bytes()) {
            Some(rest) => {
                let (month, rest) = number(rest, 1, 2).ok_or_else(none)?;
                let rest = rest.strip_prefix("月".as_bytes()).ok_or_else(none)?;
                let (day, rest) = number(rest, 1, 2).ok_or_else(none)?;
                (month, day, rest.strip_prefix("日".as_bytes()).ok_or_else(none)?)
            }
            None => {
                let (month, rest) = number(rest, 2, 2).ok_or_else(none)?;
                let (day, rest) = number(rest, 2, 2).ok_or_else(none)?;
                (month, day, rest)
            }
        },
    };
    if rest.first().is_some_and(u8::is_ascii_digit) {
        return Err(none());
    }
    let date = i32::try_from(year).ok().and_then(|year| NaiveDate::from_ymd_opt(year, month, day));
    let date = date.ok_or_else(|| why("the calendar has no day like this", "日历上没有这一天"))?;
    let days = date.signed_duration_since(NaiveDate::default()).num_days();
    Ok((i32::try_from(days).map_err(|_| none())?, rest))
}

/// Microseconds of the day, and what follows.
fn time(text: &[u8]) -> Result<(i64, &[u8]), Why> {
    let (hour, rest) = number(text, 1, 2).ok_or_else(no_time)?;
    let (minute, rest) = rest.strip_prefix(b":").and_then(|rest| number(rest, 2, 2)).ok_or_else(no_time)?;
    let (second, rest) = match rest.strip_prefix(b":") {
        Some(rest) => number(rest, 2, 2).ok_or_else(no_time)?,
        None => (0, rest),
    };
    let mut fraction = 0i64;
    let mut left = rest;
    if let Some(rest) = rest.strip_prefix(b".") {
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let (digits, after) = rest.split_at(digits);
        for place in 0..digits.len().max(6) {
            let digit = digits.get(place).map_or(0, |b| i64::from(b - b'0'));
            if place < 6 {
                fraction = fraction * 10 + digit;
            } else if digit != 0 {
                return Err(why("it is finer than a microsecond", "精度超过微秒"));
            }
        }
        left = after;
    }
    let time = NaiveTime::from_hms_opt(hour, minute, second).ok_or_else(no_time)?;
    let seconds = time.signed_duration_since(NaiveTime::MIN).num_seconds();
    Ok((seconds * SECOND_US + fraction, left))
}

/// `Z`, `+08:00`, `+0800` or `+08`.
fn zone(text: &[u8]) -> Option<Zone> {
    if matches!(text, b"Z" | b"z" | b"UTC") {
        return Some(Zone(0));
    }
    let (sign, rest) = match text.split_first()? {
        (b'+', rest) => (1, rest),
        (b'-', rest) => (-1, rest),
        _ => return None,
    };
    let (hours, rest) = number(rest, 2, 2)?;
    let rest = rest.strip_prefix(b":").unwrap_or(rest);
    let minutes = if rest.is_empty() { 0 } else { number(rest, 2, 2).filter(|(_, rest)| rest.is_empty())?.0 };
    if hours > 18 || minutes > 59 {
        return None;
    }
    Some(Zone(sign * i16::try_from(hours * 60 + minutes).ok()?))
}

/// The number of `least` to `most` digits at the front, and what follows.
fn number(text: &[u8], least: usize, most: usize) -> Option<(u32, &[u8])> {
    let digits = text.iter().take(most).take_while(|b| b.is_ascii_digit()).count();
    if digits < least {
        return None;
    }
    let (number, rest) = text.split_at(digits);
    Some((number.iter().fold(0, |n, b| n * 10 + u32::from(b - b'0')), rest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_an_offset() {
        for (text, minutes) in [("+08:00", 480), ("-0330", -210), ("Z", 0), ("+08", 480)] {
            assert_eq!(text.parse::<Zone>(), Ok(Zone(minutes)));
        }
        assert_eq!(Zone(480).to_string(), "+08:00");
        assert!(["", "08:00", "+19", "+08:60", "Asia/Shanghai"].iter().all(|t| t.parse::<Zone>().is_err()));
        assert_eq!(timestamp(b"2026-01-31 08:00:00", Some(Zone(480))).unwrap(), 1_769_817_600_000_000);
    }
}
