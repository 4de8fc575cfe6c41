//! What may be shared (共享范围): columns, rows, purposes, methods, networks, period and volume, and the two files that say
//! it: application.toml, a request, and the scope file of an answer, which has its scope keys alone.
//!
//! An answer narrows what was asked or leaves it: a key that it does not give stays as asked, its condition on rows is
//! added to the one asked for, and nothing in it may be wider ([`effective`]).

mod file;

pub use crate::entry::SharingMethod;
pub use file::{ApplicationSpec, NETWORKS_MAX, ScopeSpec};

use crate::digest::Digest;
use crate::entry::{EntryFormat, EntrySpec, SharingClass};
use crate::host::Timestamp;
use crate::predicate::{Predicate, TypeMistakes};
use chrono::{NaiveDate, NaiveTime};
use ipnet::IpNet;
use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;

/// Milliseconds that China Standard Time is ahead of UTC: the days of a scope are days there.
const CST_AHEAD_MS: i64 = 8 * 60 * 60 * 1000;

/// What may be shared. Made by reading an application, or by narrowing one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Columns in clear, each once; none where the entry is one of files.
    pub columns: Vec<String>,
    /// Rows; all where there is no condition.
    pub rows: Option<Predicate>,
    /// 使用用途; one or more.
    pub purposes: Vec<String>,
    /// 共享方式; one or more.
    pub methods: Vec<SharingMethod>,
    /// Networks that the requester may call from; any where none is listed.
    pub networks: Vec<IpNet>,
    /// 使用时限: the first day, in China Standard Time.
    pub from: NaiveDate,
    /// 使用时限: the last day, included, in China Standard Time.
    pub until: NaiveDate,
    /// Bytes that may pass in all; no bound where none is given.
    pub volume_bytes_max: Option<u64>,
}

impl Scope {
    /// The first instant of the period.
    pub fn starts_at(&self) -> Timestamp {
        Self::first_instant(self.from)
    }

    /// The first instant after the period: midnight at the end of its last day.
    pub fn ends_at(&self) -> Timestamp {
        Self::instant_after(self.until)
    }

    /// The first instant of a period that begins on this day.
    pub fn first_instant(from: NaiveDate) -> Timestamp {
        midnight(from)
    }

    /// The first instant after a period that has this as its last day.
    pub fn instant_after(until: NaiveDate) -> Timestamp {
        until.succ_opt().map_or(Timestamp(i64::MAX), midnight)
    }

    /// Whether `now` lies in the period.
    pub fn is_open_at(&self, now: Timestamp) -> bool {
        self.starts_at() <= now && now < self.ends_at()
    }

    /// Whether a call may come from `address`. An IPv4 address written in IPv6 counts as IPv4.
    pub fn allows_network(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.is_empty() || self.networks.iter().any(|net| net.contains(&address))
    }

    /// Whether the entry can be shared like this: its columns exist, its condition on rows types, and methods and purposes
    /// are offered.
    ///
    /// # Errors
    /// Every mistake.
    pub fn check(&self, entry: &EntrySpec) -> Result<(), ScopeErrors> {
        let mut errors = Vec::new();
        if entry.sharing_class == SharingClass::NotShared {
            errors.push(ScopeError::NotShared);
        }
        match entry.format {
            EntryFormat::File if !self.columns.is_empty() => errors.push(ScopeError::FilesHaveNoColumns),
            EntryFormat::Table if self.columns.is_empty() => errors.push(ScopeError::NoColumns),
            _ => {}
        }
        if entry.format == EntryFormat::Table {
            let known: HashSet<&str> = entry.items.iter().map(|item| item.name.as_str()).collect();
            let unknown = self.columns.iter().filter(|column| !known.contains(column.as_str()));
            errors.extend(unknown.cloned().map(ScopeError::NoColumn));
        }
        if let Some(Err(mistakes)) = self.rows.as_ref().map(|rows| rows.check(entry)) {
            errors.push(ScopeError::Rows(mistakes));
        }
        let methods = self.methods.iter().filter(|method| !entry.sharing_methods.contains(method));
        errors.extend(methods.copied().map(ScopeError::MethodNotOffered));
        if entry.sharing_class == SharingClass::Conditional {
            let purposes = self.purposes.iter().filter(|purpose| !entry.purposes.contains(purpose));
            errors.extend(purposes.cloned().map(ScopeError::PurposeNotOffered));
        }
        ScopeErrors::none_or(errors)
    }

    /// Whether this scope is nowhere wider than `requested`. A condition on rows is narrower where it has every part of
    /// the other's, joined by `and`.
    ///
    /// # Errors
    /// Every key in which it is wider.
    pub fn narrows(&self, requested: &Self) -> Result<(), ScopeErrors> {
        let mut errors = Vec::new();
        let mut wider = |key: &'static str, what: String| errors.push(ScopeError::Wider { key, what });
        for column in beyond(&self.columns, &requested.columns) {
            wider("columns", column.clone());
        }
        let asked = requested.rows.as_ref().map_or(&[][..], Predicate::conjuncts);
        let got = self.rows.as_ref().map_or(&[][..], Predicate::conjuncts);
        for part in beyond(asked, got) {
            wider("where", format!("rows without {part}"));
        }
        for purpose in beyond(&self.purposes, &requested.purposes) {
            wider("purposes", purpose.clone());
        }
        for method in beyond(&self.methods, &requested.methods) {
            wider("methods", method.to_string());
        }
        if !requested.networks.is_empty() {
            if self.networks.is_empty() {
                wider("networks", "every network".to_owned());
            }
            for net in self.networks.iter().filter(|net| !requested.networks.iter().any(|asked| asked.contains(*net))) {
                wider("networks", net.to_string());
            }
        }
        if self.from < requested.from {
            wider("from", self.from.to_string());
        }
        if self.until > requested.until {
            wider("until", self.until.to_string());
        }
        match (self.volume_bytes_max, requested.volume_bytes_max) {
            (None, Some(_)) => wider("volume_bytes_max", "no bound".to_owned()),
            (Some(got), Some(asked)) if got > asked => wider("volume_bytes_max", got.to_string()),
            _ => {}
        }
        if self.from > self.until {
            errors.push(ScopeError::EmptyPeriod { from: self.from, until: self.until });
        }
        ScopeErrors::none_or(errors)
    }

    /// The columns that `predicate` names and this scope does not give in clear: a requester that could ask about them
    /// would learn their values row by row. Empty where it may be asked.
    pub fn hidden_columns(&self, predicate: &Predicate) -> Vec<String> {
        let hidden = |name: &&str| !self.columns.iter().any(|column| column == name);
        predicate.columns().into_iter().filter(hidden).map(str::to_owned).collect()
    }

    /// Digest of what decides which bytes flow: columns in their order, and rows. A position in a transfer holds for this
    /// digest alone; period, networks and volume are judged anew each time and are not in it.
    pub fn content_digest(&self) -> Digest {
        let mut text = String::from("lingqu scope content 1\n");
        let rows = self.rows.as_ref().map(ToString::to_string);
        // Lengths before texts, so that no two scopes are written alike.
        for part in self.columns.iter().map(String::as_str).chain(["where"]).chain(rows.as_deref()) {
            text.push_str(&format!("{}:{part}", part.len()));
        }
        Digest::blake3(format!("{text}#{}", self.columns.len()).as_bytes())
    }
}

/// What an answer gives: what was asked, narrowed by the answer's scope file where there is one.
///
/// # Errors
/// Every key in which the answer is wider than the request.
pub fn effective(requested: &Scope, answered: Option<&ScopeSpec>) -> Result<Scope, ScopeErrors> {
    let Some(answer) = answered else { return Ok(requested.clone()) };
    let given = |key: &Option<Vec<String>>, asked: &[String]| key.clone().unwrap_or_else(|| asked.to_vec());
    let scope = Scope {
        columns: given(&answer.columns, &requested.columns),
        rows: match (&requested.rows, &answer.rows) {
            (Some(asked), Some(added)) => Some(asked.and(added)),
            (one, other) => one.clone().or_else(|| other.clone()),
        },
        purposes: given(&answer.purposes, &requested.purposes),
        methods: answer.methods.clone().unwrap_or_else(|| requested.methods.clone()),
        networks: answer.networks.clone().unwrap_or_else(|| requested.networks.clone()),
        from: answer.from.unwrap_or(requested.from),
        until: answer.until.unwrap_or(requested.until),
        volume_bytes_max: answer.volume_bytes_max.or(requested.volume_bytes_max),
    };
    scope.narrows(requested)?;
    Ok(scope)
}

/// Why a scope cannot be. The fault is its writer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// The entry is 不予共享.
    #[error("the entry is not shared (article 15)")]
    NotShared,
    /// Columns of an entry of files.
    #[error("the entry is one of files: leave columns out")]
    FilesHaveNoColumns,
    /// A table without columns.
    #[error("the entry is a table: list the columns that are needed")]
    NoColumns,
    /// A column that the entry does not have.
    #[error("the entry has no column {0:?}: see `catalogue show` for its items")]
    NoColumn(String),
    /// A condition on rows that does not fit the entry.
    #[error("where: {0}")]
    Rows(TypeMistakes),
    /// A method that the entry does not offer.
    #[error("the entry does not offer {0}: see its sharing_methods")]
    MethodNotOffered(SharingMethod),
    /// A purpose that a conditional entry does not allow.
    #[error("the entry is not shared for {0:?}: see its purposes")]
    PurposeNotOffered(String),
    /// An answer gives more than was asked.
    #[error("{key}: {what} was not asked for: an answer can only narrow the request")]
    Wider {
        /// The key.
        key: &'static str,
        /// What is too much.
        what: String,
    },
    /// A period that ends before it begins.
    #[error("the period ends on {until}, before it begins on {from}")]
    EmptyPeriod {
        /// Its first day.
        from: NaiveDate,
        /// Its last day.
        until: NaiveDate,
    },
}

/// Every reason why a scope cannot be; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeErrors(pub Vec<ScopeError>);

impl ScopeErrors {
    fn none_or(errors: Vec<ScopeError>) -> Result<(), Self> {
        if errors.is_empty() { Ok(()) } else { Err(Self(errors)) }
    }
}

impl fmt::Display for ScopeErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for ScopeErrors {}

/// What `given` has and `allowed` has not.
fn beyond<'a, T: PartialEq>(given: &'a [T], allowed: &[T]) -> impl Iterator<Item = &'a T> {
    given.iter().filter(|value| !allowed.contains(value))
}

fn midnight(day: NaiveDate) -> Timestamp {
    Timestamp(day.and_time(NaiveTime::MIN).and_utc().timestamp_millis() - CST_AHEAD_MS)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
