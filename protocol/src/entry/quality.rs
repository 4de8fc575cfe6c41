//! 质量规则 (article 18): what an entry demands of its values beyond their types, in `[[quality]]` tables of entry.toml.

use super::{DataItem, EntryCode, ItemType};
use crate::ids::EntryId;
use crate::predicate::{parse_date, parse_timestamp};
use crate::spec::{NAME_CHARS_MAX, Source, SpecError, words};
use serde::Deserialize;
use std::collections::HashSet;
use toml::Spanned;

/// Rules of one entry: each is run on every row.
pub const RULES_MAX: usize = 64;

/// Rules of one entry that look at all its rows together: each takes passes over its columns and memory for them.
pub const SET_RULES_MAX: usize = 4;

/// Columns of a rule that a row is unique by.
pub const UNIQUE_COLUMNS_MAX: usize = 16;

/// Characters of a pattern; a longer one is a program.
pub const PATTERN_CHARS_MAX: usize = 500;

/// Bytes that a compiled pattern may take.
pub const PATTERN_BYTES_MAX: usize = 1 << 20;

words! {
    /// What becomes of a row that a rule finds.
    OnFailure {
        /// 剔除: it does not land.
        Reject = "reject",
        /// 标记: it lands, and is named to its sender.
        Mark = "mark",
        /// 计数: it lands, and is counted.
        Count = "count",
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QualityRule {
    /// Its name, the only one of its entry: what was given, or `required(credit_code)`.
    pub name: String,
    /// Places of its items.
    pub columns: Vec<usize>,
    /// What it demands.
    pub check: Check,
    /// What becomes of rows that it finds.
    pub on_failure: OnFailure,
}

/// What a rule demands. But for [`Check::Required`], a missing value passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// 完整性: a value is there, and is no blank text.
    Required,
    /// 值域: the value lies between these, both included.
    Range {
        /// The least.
        min: Option<Bound>,
        /// The most.
        max: Option<Bound>,
    },
    /// 格式: the whole text matches this regular expression.
    Pattern(String),
    /// 唯一性: no two rows of a version have the same values.
    Unique,
    /// 一致性: the value stands in a column of another entry's latest version.
    Reference {
        /// The other entry.
        entry: Referenced,
        /// Its item.
        item: String,
    },
}

/// How another entry is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Referenced {
    /// By its id.
    Id(EntryId),
    /// By its code.
    Code(EntryCode),
}

impl std::fmt::Display for Referenced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Code(code) => code.fmt(f),
        }
    }
}

/// A bound, in the units of its column: whole numbers, decimals times 10^scale, days, microseconds; or a float's bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Of everything that is exact.
    Exact(i128),
    /// Of floats: the number's bits.
    Float(u64),
}

impl Check {
    /// Its stable word.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Range { .. } => "range",
            Self::Pattern(_) => "pattern",
            Self::Unique => "unique",
            Self::Reference { .. } => "reference",
        }
    }

    /// Whether one row is enough to judge it.
    pub const fn is_row_local(&self) -> bool {
        matches!(self, Self::Required | Self::Range { .. } | Self::Pattern(_))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    rule: Spanned<String>,
    name: Option<Spanned<String>>,
    column: Option<Spanned<String>>,
    columns: Option<Spanned<Vec<Spanned<String>>>>,
    on_failure: Spanned<String>,
    min: Option<Spanned<toml::Value>>,
    max: Option<Spanned<toml::Value>>,
    pattern: Option<Spanned<String>>,
    entry: Option<Spanned<String>>,
    item: Option<Spanned<String>>,
}

/// The rules of an entry.
pub(super) fn rules(
    at: Source<'_>,
    raw: &Spanned<Vec<RawRule>>,
    items: &[DataItem],
) -> Result<Vec<QualityRule>, SpecError> {
    at.bounded("quality", raw, RULES_MAX)?;
    let mut names = HashSet::new();
    let mut rules = Vec::with_capacity(raw.get_ref().len());
    let mut of_sets = 0;
    for (i, raw) in raw.get_ref().iter().enumerate() {
        let rule = one(at, i, raw, items)?;
        if !names.insert(rule.name.clone()) {
            let problem = format!("another rule is called {:?} too: give this one a name", rule.name);
            return Err(at.error(raw.rule.span(), &format!("quality[{i}].name"), problem));
        }
        of_sets += usize::from(!rule.check.is_row_local());
        if of_sets > SET_RULES_MAX {
            let problem = format!("an entry has at most {SET_RULES_MAX} rules that are unique or reference");
            return Err(at.error(raw.rule.span(), &format!("quality[{i}].rule"), problem));
        }
        rules.push(rule);
    }
    Ok(rules)
}

fn one(at: Source<'_>, i: usize, raw: &RawRule, items: &[DataItem]) -> Result<QualityRule, SpecError> {
    let field = |key: &str| format!("quality[{i}].{key}");
    let wrong = |key: &str, problem: &str| at.error(raw.rule.span(), &field(key), problem);
    let place = |name: &Spanned<String>| {
        let place = items.iter().position(|item| item.name == *name.get_ref());
        place.ok_or_else(|| {
            let problem = format!("no item has the name {:?}: name one of the items", name.get_ref());
            at.error(name.span(), &field("column"), problem)
        })
    };
    let columns = match (&raw.column, &raw.columns) {
        (Some(column), None) => vec![place(column)?],
        (None, Some(columns)) => {
            at.bounded(&field("columns"), columns, UNIQUE_COLUMNS_MAX)?;
            let places = columns.get_ref().iter().map(place).collect::<Result<Vec<_>, _>>()?;
            let distinct: HashSet<_> = places.iter().collect();
            if places.is_empty() || distinct.len() != places.len() {
                return Err(at.error(columns.span(), &field("columns"), "name each item once, and at least one"));
            }
            places
        }
        _ => {
            return Err(wrong("column", "name the item with column = \"…\"; a unique rule may have columns = [\"…\"]"));
        }
    };
    let item = columns.first().and_then(|place| items.get(*place));
    let item = item.ok_or_else(|| wrong("column", "name an item"))?;
    let word = raw.rule.get_ref().as_str();
    if columns.len() > 1 && word != "unique" {
        return Err(wrong("columns", "only a unique rule has several columns: write column = \"…\""));
    }
    let check = match word {
        "required" => Check::Required,
        "unique" => Check::Unique,
        "range" => {
            let bound = |key: &str, value: &Option<Spanned<toml::Value>>| match value {
                None => Ok(None),
                Some(value) => bound(item.item_type, value.get_ref())
                    .map(Some)
                    .map_err(|problem| at.error(value.span(), &field(key), problem)),
            };
            let (min, max) = (bound("min", &raw.min)?, bound("max", &raw.max)?);
            if min.is_none() && max.is_none() {
                return Err(wrong("min", "a range has min, max or both"));
            }
            Check::Range { min, max }
        }
        "pattern" => {
            let pattern = raw.pattern.as_ref().ok_or_else(|| wrong("pattern", "a pattern rule has pattern = '…'"))?;
            if item.item_type != ItemType::String {
                let problem = format!("patterns are for strings, and {} is {}", item.name, item.item_type);
                return Err(at.error(pattern.span(), &field("pattern"), problem));
            }
            compiled(pattern.get_ref()).map_err(|problem| at.error(pattern.span(), &field("pattern"), problem))?;
            Check::Pattern(pattern.get_ref().clone())
        }
        "reference" => {
            let why = "a reference rule has entry = \"CODE\" and item = \"NAME\" of the other entry";
            let entry = raw.entry.as_ref().ok_or_else(|| wrong("entry", why))?;
            let other = raw.item.as_ref().ok_or_else(|| wrong("item", why))?;
            let named = entry.get_ref();
            let referenced =
                named.parse().map(Referenced::Code).ok().or_else(|| named.parse().map(Referenced::Id).ok());
            let referenced =
                referenced.ok_or_else(|| at.error(entry.span(), &field("entry"), "expected an entry's code or id"))?;
            Check::Reference { entry: referenced, item: at.text(&field("item"), other, NAME_CHARS_MAX)? }
        }
        _ => {
            let problem = "expected required, range, pattern, unique or reference";
            return Err(at.error(raw.rule.span(), &field("rule"), problem));
        }
    };
    let keys: [(&str, Option<std::ops::Range<usize>>, bool); 5] = [
        ("min", raw.min.as_ref().map(Spanned::span), word == "range"),
        ("max", raw.max.as_ref().map(Spanned::span), word == "range"),
        ("pattern", raw.pattern.as_ref().map(Spanned::span), word == "pattern"),
        ("entry", raw.entry.as_ref().map(Spanned::span), word == "reference"),
        ("item", raw.item.as_ref().map(Spanned::span), word == "reference"),
    ];
    if let Some((key, Some(span), _)) = keys.into_iter().find(|(_, span, belongs)| span.is_some() && !belongs) {
        return Err(at.error(span, &field(key), format!("a {word} rule has none: remove it")));
    }
    let on_failure = at.word(&field("on_failure"), &raw.on_failure)?;
    let name = match &raw.name {
        Some(name) => at.text(&field("name"), name, NAME_CHARS_MAX)?,
        None => {
            let names: Vec<&str> =
                columns.iter().filter_map(|place| items.get(*place)).map(|item| item.name.as_str()).collect();
            format!("{word}({})", names.join(","))
        }
    };
    Ok(QualityRule { name, columns, check, on_failure })
}

/// A pattern that the whole text must match, in linear time whatever the text.
///
/// # Errors
/// What is wrong with it.
pub fn compiled(pattern: &str) -> Result<regex::Regex, String> {
    if pattern.chars().count() > PATTERN_CHARS_MAX {
        return Err(format!("a pattern has at most {PATTERN_CHARS_MAX} characters"));
    }
    // Alone first: brackets around it must not make sense of what has none.
    let bounded = |text: &str| {
        regex::RegexBuilder::new(text)
            .size_limit(PATTERN_BYTES_MAX)
            .dfa_size_limit(PATTERN_BYTES_MAX)
            .nest_limit(32)
            .build()
            .map_err(|e| e.to_string().chars().take(300).collect::<String>())
    };
    bounded(pattern)?;
    bounded(&format!(r"\A(?:{pattern})\z"))
}

fn bound(item_type: ItemType, value: &toml::Value) -> Result<Bound, String> {
    let text = match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(n) => n.to_string(),
        toml::Value::Float(n) => n.to_string(),
        toml::Value::Datetime(at) => at.to_string(),
        _ => return Err("expected a number, a day or an instant".to_owned()),
    };
    let exact = |value: Option<i128>| value.map(Bound::Exact).ok_or_else(|| format!("{text:?} is no {item_type}"));
    match item_type {
        ItemType::Int32 | ItemType::Int64 => exact(scaled(&text, 0)),
        ItemType::Decimal(_, scale) => exact(scaled(&text, scale)),
        ItemType::Date => exact(parse_date(&text).map(i128::from)),
        ItemType::Timestamp => exact(parse_timestamp(&text).map(i128::from)),
        ItemType::Float64 => {
            let number: Option<f64> = text.parse().ok().filter(|n: &f64| !n.is_nan());
            number.map(|n| Bound::Float(n.to_bits())).ok_or_else(|| format!("{text:?} is no {item_type}"))
        }
        ItemType::String | ItemType::Bool | ItemType::Binary => {
            Err(format!("a {item_type} has no range: use a pattern"))
        }
    }
}

/// A decimal number times 10^scale; none where digits would be lost.
fn scaled(text: &str, scale: u8) -> Option<i128> {
    let (negative, number) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = fraction.trim_end_matches('0');
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty()
        || whole.len() > 38
        || fraction.len() > usize::from(scale)
        || !digits(whole)
        || !digits(fraction)
    {
        return None;
    }
    let all = format!("{whole}{fraction:0<width$}", width = usize::from(scale));
    let value: i128 = all.parse().ok()?;
    Some(if negative { -value } else { value })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::entry::EntrySpec;

    fn entry(rules: &str) -> Result<EntrySpec, String> {
        let toml = format!(
            "name = \"样例\"\ncode = \"307010/000001\"\nabstract = \"样例\"\nformat = \"table\"\n\
             update_frequency = \"daily\"\nsharing_class = \"conditional\"\nconditions = \"限依法履职使用\"\n\
             purposes = [\"p\"]\nsharing_methods = [\"batch_exchange\"]\ngrade = \"general-1\"\n{rules}\n\
             [[items]]\nname = \"s\"\ntype = \"string\"\npersonal = false\n\
             [[items]]\nname = \"d\"\ntype = \"decimal(9,2)\"\npersonal = false\n\
             [[items]]\nname = \"day\"\ntype = \"date\"\npersonal = false\n"
        );
        EntrySpec::parse(&toml).map_err(|e| e.to_string())
    }

    fn rule(text: &str) -> Result<QualityRule, String> {
        entry(&format!("[[quality]]\n{text}\non_failure = \"count\"\n")).map(|e| e.quality[0].clone())
    }

    #[test]
    fn rules_are_read_in_the_units_of_their_columns() {
        assert_eq!(rule("rule = \"required\"\ncolumn = \"s\"").unwrap().name, "required(s)");
        let range = rule("rule = \"range\"\ncolumn = \"d\"\nmin = \"-0.50\"\nmax = 7").unwrap().check;
        assert_eq!(range, Check::Range { min: Some(Bound::Exact(-50)), max: Some(Bound::Exact(700)) });
        let day = rule("rule = \"range\"\ncolumn = \"day\"\nmin = 1970-01-02").unwrap().check;
        assert_eq!(day, Check::Range { min: Some(Bound::Exact(1)), max: None });
        let unique = rule("rule = \"unique\"\ncolumns = [\"s\", \"day\"]").unwrap();
        assert_eq!((unique.columns, unique.name.as_str()), (vec![0, 2], "unique(s,day)"));
        let to =
            rule("rule = \"reference\"\ncolumn = \"s\"\nentry = \"307010/000002\"\nitem = \"code\"").unwrap().check;
        assert!(matches!(to, Check::Reference { item, .. } if item == "code"));
    }

    #[test]
    fn rules_that_make_no_sense_are_named() {
        for (text, said) in [
            ("rule = \"required\"\ncolumn = \"x\"", "no item"),
            ("rule = \"required\"", "column"),
            ("rule = \"required\"\ncolumn = \"s\"\nmin = 1", "remove it"),
            ("rule = \"range\"\ncolumn = \"s\"\nmin = 1", "pattern"),
            ("rule = \"range\"\ncolumn = \"d\"\nmin = \"0.001\"", "no decimal"),
            ("rule = \"range\"\ncolumn = \"d\"", "min, max or both"),
            ("rule = \"pattern\"\ncolumn = \"d\"\npattern = 'a'", "for strings"),
            ("rule = \"pattern\"\ncolumn = \"s\"\npattern = 'a('", "unclosed"),
            ("rule = \"pattern\"\ncolumn = \"s\"\npattern = 'a)|(b'", "unopened"),
            ("rule = \"pattern\"\ncolumn = \"s\"\npattern = '(a{1000}){1000}'", "size"),
            ("rule = \"reference\"\ncolumn = \"s\"\nentry = \"x\"\nitem = \"y\"", "code or id"),
            ("rule = \"sum\"\ncolumn = \"s\"", "expected required"),
        ] {
            let error = rule(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        let five: String = (0..5)
            .map(|n| {
                format!("[[quality]]\nrule = \"unique\"\ncolumn = \"s\"\nname = \"{n}\"\non_failure = \"count\"\n")
            })
            .collect();
        assert!(entry(&five).unwrap_err().contains("at most 4"));
    }

    #[test]
    fn a_pattern_matches_the_whole_text() {
        let pattern = compiled("a|bc").unwrap();
        assert!(
            pattern.is_match("a") && pattern.is_match("bc") && !pattern.is_match("abc") && !pattern.is_match("a\n")
        );
    }
}
