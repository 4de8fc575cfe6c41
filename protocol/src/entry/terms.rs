//! The words, types and codes that an entry is written in.

use crate::spec::words;
use std::fmt;
use std::str::FromStr;

/// Digits that a decimal may have: what 128 bits hold.
pub const DECIMAL_DIGITS_MAX: u8 = 38;

words! {
    /// 信息资源格式: what a version of the entry is.
    EntryFormat {
        /// Rows with the entry's items.
        Table = "table",
        /// Named files.
        File = "file",
    }
}

words! {
    /// 共享属性 (articles 14 and 15).
    SharingClass {
        /// 无条件共享.
        Unconditional = "unconditional",
        /// 有条件共享.
        Conditional = "conditional",
        /// 不予共享.
        NotShared = "not_shared",
    }
}

words! {
    /// 共享方式 (article 22).
    SharingMethod {
        /// 服务接口: one record or a few by key.
        ServiceInterface = "service_interface",
        /// 批量交换: whole versions of a table.
        BatchExchange = "batch_exchange",
        /// 文件下载: files.
        FileDownload = "file_download",
    }
}

words! {
    /// 更新周期: how often a new version is due.
    UpdateFrequency {
        /// 实时.
        Realtime = "realtime",
        /// 每日.
        Daily = "daily",
        /// 每周.
        Weekly = "weekly",
        /// 每月.
        Monthly = "monthly",
        /// 每季度.
        Quarterly = "quarterly",
        /// 每年.
        Yearly = "yearly",
        /// 不定期.
        Irregular = "irregular",
    }
}

words! {
    /// 数据分类分级 (GB/T 43697-2024), the strictest first.
    Grade {
        /// 核心数据.
        Core = "core",
        /// 重要数据.
        Important = "important",
        /// 一般数据, level 4.
        General4 = "general-4",
        /// 一般数据, level 3.
        General3 = "general-3",
        /// 一般数据, level 2.
        General2 = "general-2",
        /// 一般数据, level 1.
        General1 = "general-1",
    }
}

words! {
    /// What a refusal to share may rest on (article 15): nothing lower than these.
    BasisKind {
        /// 法律.
        Law = "law",
        /// 行政法规.
        AdministrativeRegulation = "administrative_regulation",
        /// 国务院决定.
        StateCouncilDecision = "state_council_decision",
    }
}

/// The type of an item's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ItemType {
    /// Text in UTF-8.
    String,
    /// 32-bit signed integer.
    Int32,
    /// 64-bit signed integer.
    Int64,
    /// 64-bit floating point.
    Float64,
    /// Exact decimal of (digits, digits after the point).
    Decimal(u8, u8),
    /// Calendar day.
    Date,
    /// Point in time in microseconds, UTC.
    Timestamp,
    /// True or false.
    Bool,
    /// Bytes.
    Binary,
}

impl fmt::Display for ItemType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String => f.write_str("string"),
            Self::Int32 => f.write_str("int32"),
            Self::Int64 => f.write_str("int64"),
            Self::Float64 => f.write_str("float64"),
            Self::Decimal(digits, scale) => write!(f, "decimal({digits},{scale})"),
            Self::Date => f.write_str("date"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Bool => f.write_str("bool"),
            Self::Binary => f.write_str("binary"),
        }
    }
}

/// A text that is no type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a type: expected string, int32, int64, float64, decimal(DIGITS,SCALE) with 1 to 38 digits and SCALE of \
     them after the point, date, timestamp, bool or binary"
)]
pub struct BadItemType(pub String);

impl FromStr for ItemType {
    type Err = BadItemType;
    fn from_str(text: &str) -> Result<Self, BadItemType> {
        let bad = || BadItemType(text.chars().take(40).collect());
        Ok(match text {
            "string" => Self::String,
            "int32" => Self::Int32,
            "int64" => Self::Int64,
            "float64" => Self::Float64,
            "date" => Self::Date,
            "timestamp" => Self::Timestamp,
            "bool" => Self::Bool,
            "binary" => Self::Binary,
            _ => {
                let inner = text.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')'));
                let (digits, scale) = inner.and_then(|inner| inner.split_once(',')).ok_or_else(bad)?;
                let number = |text: &str| -> Option<u8> {
                    let text = text.trim();
                    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
                };
                let (digits, scale) = (number(digits).ok_or_else(bad)?, number(scale).ok_or_else(bad)?);
                if !(1..=DECIMAL_DIGITS_MAX).contains(&digits) || scale > digits {
                    return Err(bad());
                }
                Self::Decimal(digits, scale)
            }
        })
    }
}

/// An entry's code in the catalogue (2017 national guide): class (1 base, 2 theme, 3 department), item of 2 digits, sub-item
/// of 3, detail of any length, a slash and a sequence number. `307010/000001` is one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryCode(String);

/// A text that is no entry's code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an entry's code: expected 1, 2 or 3, five digits or more, a slash and a sequence number of up to 12 \
     digits, such as 307010/000001"
)]
pub struct BadEntryCode(pub String);

impl EntryCode {
    /// The code.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EntryCode {
    type Err = BadEntryCode;
    fn from_str(text: &str) -> Result<Self, BadEntryCode> {
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let good = text.split_once('/').is_some_and(|(class, sequence)| {
            class.starts_with(['1', '2', '3'])
                && (6..=32).contains(&class.len())
                && digits(class)
                && (1..=12).contains(&sequence.len())
                && digits(sequence)
        });
        if good { Ok(Self(text.to_owned())) } else { Err(BadEntryCode(text.chars().take(40).collect())) }
    }
}

impl fmt::Display for EntryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
