//! Values as they are written in a condition.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime};
use std::fmt;

/// A value in a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Literal {
    /// `'text'`.
    String(String),
    /// `12`, `-3.50`: exact.
    Number(Number),
    /// `true`, `false`.
    Bool(bool),
    /// `date '2026-01-31'`: days since 1970-01-01.
    Date(i32),
    /// `timestamp '2026-01-31T08:00:00Z'`: microseconds since 1970-01-01T00:00:00Z.
    Timestamp(i64),
}

/// An exact decimal number: `unscaled` × 10^-`scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// All its digits, with the sign.
    pub unscaled: i128,
    /// How many of them stand after the point, at most 38.
    pub scale: u8,
}

impl Number {
    /// This number with `scale` digits after the point; `None` where digits would be lost or 128 bits are too few.
    pub fn rescaled(self, scale: u8) -> Option<i128> {
        match scale.checked_sub(self.scale) {
            Some(more) => self.unscaled.checked_mul(10i128.checked_pow(more.into())?),
            None => {
                let divisor = 10i128.checked_pow(u32::from(self.scale - scale))?;
                if self.unscaled % divisor == 0 { Some(self.unscaled / divisor) } else { None }
            }
        }
    }

    /// The floating-point number nearest to it.
    pub fn nearest_f64(self) -> f64 {
        // The parser of the standard library rounds correctly, which a division would not.
        self.to_string().parse().unwrap_or(f64::NAN)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = usize::from(self.scale);
        let sign = if self.unscaled < 0 { "-" } else { "" };
        let digits = format!("{:0>width$}", self.unscaled.unsigned_abs(), width = scale + 1);
        let (whole, part) = digits.split_at(digits.len() - scale);
        let point = if scale == 0 { "" } else { "." };
        write!(f, "{sign}{whole}{point}{part}")
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(text) => write!(f, "'{}'", text.replace('\'', "''")),
            Self::Number(number) => write!(f, "{number}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Date(days) => write!(f, "date '{}'", date_text(*days)),
            Self::Timestamp(micros) => write!(f, "timestamp '{}'", timestamp_text(*micros)),
        }
    }
}

/// Days since 1970-01-01 of `YYYY-MM-DD`, years 0000 to 9999; `None` where `text` is no such day.
pub fn parse_date(text: &str) -> Option<i32> {
    let date = naive_date(text)?;
    i32::try_from(date.signed_duration_since(NaiveDate::default()).num_days()).ok()
}

/// `YYYY-MM-DD` of days since 1970-01-01; days that a calendar does not reach are written as a number.
pub fn date_text(days: i32) -> String {
    let date = NaiveDate::default().checked_add_signed(chrono::TimeDelta::days(days.into()));
    date.map_or_else(|| format!("{days}d"), |date| date.format("%Y-%m-%d").to_string())
}

/// Microseconds since 1970-01-01T00:00:00Z of `YYYY-MM-DDThh:mm:ss[.ffffff]Z`; `None` where `text` is not that.
pub fn parse_timestamp(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (seconds, fraction) = time.split_once('.').map_or((time, None), |(s, f)| (s, Some(f)));
    let [hour, minute, second] = numbers::<3>(seconds, ':', [2, 2, 2])?;
    let micros = match fraction {
        None => 0,
        Some(digits) if (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{digits:0<6}").parse().ok()?
        }
        Some(_) => return None,
    };
    let time = NaiveTime::from_hms_micro_opt(hour, minute, second, micros)?;
    Some(NaiveDateTime::new(naive_date(date)?, time).and_utc().timestamp_micros())
}

/// `YYYY-MM-DDThh:mm:ss[.ffffff]Z` of microseconds since 1970-01-01T00:00:00Z; what a calendar does not reach is written
/// as a number.
pub fn timestamp_text(micros: i64) -> String {
    let Some(time) = DateTime::from_timestamp_micros(micros) else { return format!("{micros}us") };
    let fraction = match micros.rem_euclid(1_000_000) {
        0 => String::new(),
        micros => format!(".{micros:06}").trim_end_matches('0').to_owned(),
    };
    format!("{}{fraction}Z", time.format("%Y-%m-%dT%H:%M:%S"))
}

fn naive_date(text: &str) -> Option<NaiveDate> {
    let [year, month, day] = numbers::<3>(text, '-', [4, 2, 2])?;
    NaiveDate::from_ymd_opt(year.try_into().ok()?, month, day)
}

/// `N` numbers of exactly so many digits each.
fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[u32; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (slot, len) in numbers.iter_mut().zip(digits) {
        let part = parts.next().filter(|p| p.len() == len && p.bytes().all(|b| b.is_ascii_digit()))?;
        *slot = part.parse().ok()?;
    }
    if parts.next().is_none() { Some(numbers) } else { None }
}
