//! application.toml and the scope file of an answer.

use super::{Scope, SharingMethod, Transform, Transforms};
use crate::agency::AgentName;
use crate::entry::{ITEMS_MAX, PURPOSES_MAX};
use crate::predicate::Predicate;
use crate::region::{RegionCode, RegionTable};
use crate::spec::{NAME_CHARS_MAX, Source, SpecError, TEXT_CHARS_MAX};
use chrono::NaiveDate;
use ipnet::IpNet;
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;
use toml::value::Datetime;

/// Networks that a scope may list: an agency's lines, not its machines.
pub const NETWORKS_MAX: usize = 64;

/// Agents that a scope may list: what a person can read through.
pub const AGENTS_MAX: usize = 64;

/// Regions that a scope may list: every county of the province that has most of them, and room.
pub const REGIONS_MAX: usize = 256;

/// Tables in tables under `[transforms]`: each is one part of a column's name, and no name has more.
pub const TRANSFORM_DEPTH_MAX: usize = crate::entry::NAME_PARTS_MAX;

/// The least rate in bytes a second: a chunk of a file takes 16 seconds then, well within the minute after which a receiver
/// takes silence for a lost connection.
pub const RATE_BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// The scope file of an answer: scope keys, of which each may be left out to leave what was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScopeSpec {
    /// Fewer columns.
    pub columns: Option<Vec<String>>,
    /// What more happens to columns.
    pub transforms: Option<Transforms>,
    /// One more condition on rows.
    pub rows: Option<Predicate>,
    /// Smaller regions.
    pub regions: Option<Vec<RegionCode>>,
    /// Fewer purposes.
    pub purposes: Option<Vec<String>>,
    /// Fewer methods.
    pub methods: Option<Vec<SharingMethod>>,
    /// Fewer agents.
    pub agents: Option<Vec<AgentName>>,
    /// Smaller networks.
    pub networks: Option<Vec<IpNet>>,
    /// A later first day.
    pub from: Option<NaiveDate>,
    /// An earlier last day.
    pub until: Option<NaiveDate>,
    /// Fewer bytes.
    pub volume_bytes_max: Option<u64>,
    /// Fewer bytes a second.
    pub rate_bytes_per_second_max: Option<u64>,
    /// Fewer requests a day.
    pub requests_per_day_max: Option<u64>,
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
            transforms: raw.transforms,
            rows: raw.rows,
            regions: raw.regions,
            purposes: Some(raw.purposes),
            methods: Some(raw.methods),
            agents: raw.agents,
            networks: raw.networks,
            from: Some(raw.from),
            until: Some(raw.until),
            volume_bytes_max: raw.volume_bytes_max,
            rate_bytes_per_second_max: raw.rate_bytes_per_second_max,
            requests_per_day_max: raw.requests_per_day_max,
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
                transforms: spec.transforms.unwrap_or_default(),
                rows: spec.rows,
                regions: spec.regions.unwrap_or_default(),
                purposes: spec.purposes.unwrap_or_default(),
                methods: spec.methods.unwrap_or_default(),
                agents: spec.agents.unwrap_or_default(),
                networks: spec.networks.unwrap_or_default(),
                from: spec.from.ok_or_else(|| missing("from"))?,
                until: spec.until.ok_or_else(|| missing("until"))?,
                volume_bytes_max: spec.volume_bytes_max,
                rate_bytes_per_second_max: spec.rate_bytes_per_second_max,
                requests_per_day_max: spec.requests_per_day_max,
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
    regions: Option<Names>,
    purposes: Option<Names>,
    methods: Option<Names>,
    agents: Option<Names>,
    networks: Option<Names>,
    from: Option<Spanned<Datetime>>,
    until: Option<Spanned<Datetime>>,
    volume_bytes_max: Option<Spanned<u64>>,
    rate_bytes_per_second_max: Option<Spanned<u64>>,
    requests_per_day_max: Option<Spanned<u64>>,
    transforms: Option<Spanned<toml::Table>>,
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
    regions: Option<Names>,
    purposes: Names,
    methods: Names,
    agents: Option<Names>,
    networks: Option<Names>,
    from: Spanned<Datetime>,
    until: Spanned<Datetime>,
    volume_bytes_max: Option<Spanned<u64>>,
    rate_bytes_per_second_max: Option<Spanned<u64>>,
    requests_per_day_max: Option<Spanned<u64>>,
    transforms: Option<Spanned<toml::Table>>,
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
    let limit = |field: &str, value: &Option<Spanned<u64>>, least: u64| match value {
        Some(value) if *value.get_ref() < least => {
            let problem = format!("too little could pass: write at least {least}, or leave the key out");
            Err(at.error(value.span(), field, problem))
        }
        value => Ok(value.as_ref().map(|value| *value.get_ref())),
    };
    Ok(ScopeSpec {
        columns: names("columns", &raw.columns, ITEMS_MAX)?,
        transforms: raw.transforms.as_ref().map(|table| transforms(at, table)).transpose()?,
        rows: rows.transpose()?,
        regions: raw.regions.as_ref().map(|list| regions(at, list)).transpose()?,
        purposes: names("purposes", &raw.purposes, PURPOSES_MAX)?,
        methods: raw.methods.as_ref().map(|list| at.words("methods", list)).transpose()?,
        agents: raw.agents.as_ref().map(|list| agents(at, list)).transpose()?,
        networks: raw.networks.as_ref().map(|list| networks(at, list)).transpose()?,
        from,
        until,
        volume_bytes_max: limit("volume_bytes_max", &raw.volume_bytes_max, 1)?,
        rate_bytes_per_second_max: limit(
            "rate_bytes_per_second_max",
            &raw.rate_bytes_per_second_max,
            RATE_BYTES_PER_SECOND_MIN,
        )?,
        requests_per_day_max: limit("requests_per_day_max", &raw.requests_per_day_max, 1)?,
    })
}

fn regions(at: Source<'_>, list: &Names) -> Result<Vec<RegionCode>, SpecError> {
    each(at, "regions", list, REGIONS_MAX, |text| RegionTable::national().check(text).map_err(|e| e.to_string()))
}

fn agents(at: Source<'_>, list: &Names) -> Result<Vec<AgentName>, SpecError> {
    each(at, "agents", list, AGENTS_MAX, |text| AgentName::parse(text).map_err(|e| e.to_string()))
}

/// A list whose values are read one by one, none twice.
fn each<T: PartialEq>(
    at: Source<'_>,
    field: &str,
    list: &Names,
    count_max: usize,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, SpecError> {
    at.bounded(field, list, count_max)?;
    let mut values = Vec::with_capacity(list.get_ref().len());
    for (i, text) in list.get_ref().iter().enumerate() {
        let error = |problem: String| at.error(text.span(), &format!("{field}[{i}]"), problem);
        let value = read(text.get_ref()).map_err(error)?;
        if values.contains(&value) {
            return Err(error(format!("{:?} stands twice: remove one", text.get_ref())));
        }
        values.push(value);
    }
    Ok(values)
}

fn transforms(at: Source<'_>, table: &Spanned<toml::Table>) -> Result<Transforms, SpecError> {
    let mut found = BTreeMap::new();
    gather(at, table.span(), "", table.get_ref(), TRANSFORM_DEPTH_MAX, &mut found)?;
    if found.is_empty() {
        return Err(at.error(table.span(), "transforms", "must not be empty: name a column, or leave the table out"));
    }
    Ok(Transforms::new(found))
}

/// `address.city = "drop"` is a table in a table to TOML, and `"address.city" = "drop"` is not: both name one column.
fn gather(
    at: Source<'_>,
    span: std::ops::Range<usize>,
    above: &str,
    table: &toml::Table,
    depth_left: usize,
    found: &mut BTreeMap<String, Transform>,
) -> Result<(), SpecError> {
    for (key, value) in table {
        let name = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        let field = format!("transforms.{}", name.chars().take(NAME_CHARS_MAX).collect::<String>());
        let error = |problem: String| at.error(span.clone(), &field, problem);
        let name = at.text(&field, &Spanned::new(span.clone(), name), NAME_CHARS_MAX)?;
        match value {
            toml::Value::Table(inner) if depth_left > 1 => {
                gather(at, span.clone(), &name, inner, depth_left - 1, found)?;
            }
            toml::Value::String(text) => {
                let transform = text.parse().map_err(|e: super::BadTransform| error(e.to_string()))?;
                if found.insert(name, transform).is_some() {
                    return Err(error("stands twice: remove one".to_owned()));
                }
                if found.len() > ITEMS_MAX {
                    return Err(error(format!("more than {ITEMS_MAX} columns are named")));
                }
            }
            _ => return Err(error("expected a text: drop, mask, mask(PREFIX,SUFFIX) or pseudonym".to_owned())),
        }
    }
    Ok(())
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
