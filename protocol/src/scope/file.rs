//! application.toml and the scope file of an answer.

use super::{Scope, SharingMethod};
use crate::entry::{ITEMS_MAX, PURPOSES_MAX};
use crate::predicate::Predicate;
use crate::spec::{NAME_CHARS_MAX, Source, SpecError, TEXT_CHARS_MAX};
use chrono::NaiveDate;
use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;
use toml::value::Datetime;

/// Networks that a scope may list: an agency's lines, not its machines.
pub const NETWORKS_MAX: usize = 64;

/// The scope file of an answer: scope keys, of which each may be left out to leave what was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScopeSpec {
    /// Fewer columns.
    pub columns: Option<Vec<String>>,
    /// One more condition on rows.
    pub rows: Option<Predicate>,
    /// Fewer purposes.
    pub purposes: Option<Vec<String>>,
    /// Fewer methods.
    pub methods: Option<Vec<SharingMethod>>,
    /// Smaller networks.
    pub networks: Option<Vec<IpNet>>,
    /// A later first day.
    pub from: Option<NaiveDate>,
    /// An earlier last day.
    pub until: Option<NaiveDate>,
    /// Fewer bytes.
    pub volume_bytes_max: Option<u64>,
}

impl ScopeSpec {
    /// Reads a scope file.
    ///
    /// # Errors
    /// Names the first mistake: where it is, the field, and what to write instead.
    pub fn parse(toml: &str) -> Result<Self, SpecError> {
        let at = Source(toml);
        scope(at, &at.read()?)
    }
}

/// 共享申请 (article 20): what is asked for, on what basis, and where it will be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationSpec {
    /// The entry, by id or code.
    pub entry: String,
    /// 使用依据.
    pub basis: String,
    /// 使用场景.
    pub scenario: String,
    /// What is asked for.
    pub scope: Scope,
}

impl ApplicationSpec {
    /// Reads application.toml. Whether the entry can be shared like this is for [`Scope::check`].
    ///
    /// # Errors
    /// Names the first mistake: where it is, the field, and what to write instead.
    pub fn parse(toml: &str) -> Result<Self, SpecError> {
        let at = Source(toml);
        let raw: RawApplication = at.read()?;
        let keys = RawScope {
            columns: raw.columns,
            rows: raw.rows,
            purposes: Some(raw.purposes),
            methods: Some(raw.methods),
            networks: raw.networks,
            from: Some(raw.from),
            until: Some(raw.until),
            volume_bytes_max: raw.volume_bytes_max,
        };
        let spec = scope(at, &keys)?;
        // The three keys that are wrapped above are always there: serde refuses a file without them.
        let missing = |field: &str| at.error(0..0, field, "is missing: add it");
        Ok(Self {
            entry: at.text("entry", &raw.entry, NAME_CHARS_MAX)?,
            basis: at.text("basis", &raw.basis, TEXT_CHARS_MAX)?,
            scenario: at.text("scenario", &raw.scenario, TEXT_CHARS_MAX)?,
            scope: Scope {
                columns: spec.columns.unwrap_or_default(),
                rows: spec.rows,
                purposes: spec.purposes.unwrap_or_default(),
                methods: spec.methods.unwrap_or_default(),
                networks: spec.networks.unwrap_or_default(),
                from: spec.from.ok_or_else(|| missing("from"))?,
                until: spec.until.ok_or_else(|| missing("until"))?,
                volume_bytes_max: spec.volume_bytes_max,
            },
        })
    }
}

type Names = Spanned<Vec<Spanned<String>>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScope {
    columns: Option<Names>,
    #[serde(rename = "where")]
    rows: Option<Spanned<String>>,
    purposes: Option<Names>,
    methods: Option<Names>,
    networks: Option<Names>,
    from: Option<Spanned<Datetime>>,
    until: Option<Spanned<Datetime>>,
    volume_bytes_max: Option<Spanned<u64>>,
}

// serde cannot both flatten and refuse unknown keys, so the scope's keys are written again.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawApplication {
    entry: Spanned<String>,
    basis: Spanned<String>,
    scenario: Spanned<String>,
    columns: Option<Names>,
    #[serde(rename = "where")]
    rows: Option<Spanned<String>>,
    purposes: Names,
    methods: Names,
    networks: Option<Names>,
    from: Spanned<Datetime>,
    until: Spanned<Datetime>,
    volume_bytes_max: Option<Spanned<u64>>,
}

fn scope(at: Source<'_>, raw: &RawScope) -> Result<ScopeSpec, SpecError> {
    let names = |field: &str, list: &Option<Names>, max: usize| {
        list.as_ref().map(|list| at.names(field, list, max)).transpose()
    };
    let rows = raw
        .rows
        .as_ref()
        .map(|text| Predicate::parse(text.get_ref()).map_err(|e| at.error(text.span(), "where", e.to_string())));
    let from = raw.from.as_ref().map(|value| day(at, "from", value)).transpose()?;
    let until = raw.until.as_ref().map(|value| day(at, "until", value)).transpose()?;
    if let (Some(first), Some(last), Some(value)) = (from, until, &raw.until)
        && last < first
    {
        let problem = format!("{last} is before {first}, when the period begins: choose a later day");
        return Err(at.error(value.span(), "until", problem));
    }
    if let Some(value) = raw.volume_bytes_max.as_ref().filter(|value| *value.get_ref() == 0) {
        return Err(at.error(value.span(), "volume_bytes_max", "nothing could pass: write more, or leave the key out"));
    }
    Ok(ScopeSpec {
        columns: names("columns", &raw.columns, ITEMS_MAX)?,
        rows: rows.transpose()?,
        purposes: names("purposes", &raw.purposes, PURPOSES_MAX)?,
        methods: raw.methods.as_ref().map(|list| at.words("methods", list)).transpose()?,
        networks: raw.networks.as_ref().map(|list| networks(at, list)).transpose()?,
        from,
        until,
        volume_bytes_max: raw.volume_bytes_max.as_ref().map(|value| *value.get_ref()),
    })
}

fn day(at: Source<'_>, field: &str, value: &Spanned<Datetime>) -> Result<NaiveDate, SpecError> {
    let plain = match value.get_ref() {
        Datetime { date: Some(date), time: None, offset: None } => {
            NaiveDate::from_ymd_opt(date.year.into(), date.month.into(), date.day.into())
        }
        _ => None,
    };
    plain.ok_or_else(|| at.error(value.span(), field, "expected a day without a time, such as 2026-12-01"))
}

fn networks(at: Source<'_>, list: &Names) -> Result<Vec<IpNet>, SpecError> {
    at.bounded("networks", list, NETWORKS_MAX)?;
    let read = |(i, value): (usize, &Spanned<String>)| {
        let error = |problem: String| at.error(value.span(), &format!("networks[{i}]"), problem);
        let net: IpNet = value.get_ref().parse().map_err(|_| {
            error(format!("{:?} is not a network: write 10.1.0.0/16, or /32 for one address", value.get_ref()))
        })?;
        if net.trunc() == net {
            Ok(net)
        } else {
            Err(error(format!("{net} has bits after its prefix: write {}", net.trunc())))
        }
    };
    list.get_ref().iter().enumerate().map(read).collect()
}
