//! How an answer narrows what was asked: each key has its order, and nothing may be wider.

use super::{Scope, ScopeError, ScopeErrors, ScopeSpec};
use crate::entry::is_at_or_below;
use crate::predicate::Predicate;
use crate::region::RegionTable;

impl Scope {
    /// Whether this scope is nowhere wider than `requested`. A condition on rows is narrower where it has every part of
    /// the other's, joined by `and`; a column where it is one of the other's or below one; a region where it lies in one.
    ///
    /// # Errors
    /// Every key in which it is wider.
    pub fn narrows(&self, requested: &Self) -> Result<(), ScopeErrors> {
        let mut errors = Vec::new();
        let mut wider = |key: &'static str, what: String| errors.push(ScopeError::Wider { key, what });
        for column in self.columns.iter().filter(|name| !requested.covers(name)) {
            wider("columns", column.clone());
        }
        for name in self.transforms.wider_than(&requested.transforms, &self.columns) {
            let shown = |scope: &Self| scope.transforms.of(name).map_or("in clear".to_owned(), |t| t.to_string());
            wider("transforms", format!("{name} {} instead of {}", shown(self), shown(requested)));
        }
        let asked = requested.rows.as_ref().map_or(&[][..], Predicate::conjuncts);
        let got = self.rows.as_ref().map_or(&[][..], Predicate::conjuncts);
        for part in beyond(asked, got) {
            wider("where", format!("rows without {part}"));
        }
        let table = RegionTable::national();
        let within = |got, asked: &_| table.is_within(got, *asked);
        for what in not_in(&self.regions, &requested.regions, "every region", |got, asked| within(*got, asked)) {
            wider("regions", what);
        }
        for purpose in beyond(&self.purposes, &requested.purposes) {
            wider("purposes", purpose.clone());
        }
        for method in beyond(&self.methods, &requested.methods) {
            wider("methods", method.to_string());
        }
        for what in not_in(&self.agents, &requested.agents, "every agent", |got, asked| got == asked) {
            wider("agents", what);
        }
        for what in not_in(&self.networks, &requested.networks, "every network", |got, asked| asked.contains(got)) {
            wider("networks", what);
        }
        if self.from < requested.from {
            wider("from", self.from.to_string());
        }
        if self.until > requested.until {
            wider("until", self.until.to_string());
        }
        for (key, got, asked) in [
            ("volume_bytes_max", self.volume_bytes_max, requested.volume_bytes_max),
            ("rate_bytes_per_second_max", self.rate_bytes_per_second_max, requested.rate_bytes_per_second_max),
            ("requests_per_day_max", self.requests_per_day_max, requested.requests_per_day_max),
        ] {
            match (got, asked) {
                (None, Some(_)) => wider(key, "no bound".to_owned()),
                (Some(got), Some(asked)) if got > asked => wider(key, got.to_string()),
                _ => {}
            }
        }
        if self.from > self.until {
            errors.push(ScopeError::EmptyPeriod { from: self.from, until: self.until });
        }
        ScopeErrors::none_or(errors)
    }

    /// Whether `name` is one of the columns or lies below one.
    fn covers(&self, name: &str) -> bool {
        self.columns.iter().any(|column| is_at_or_below(name, column))
    }
}

/// What an answer gives: what was asked, narrowed by the answer's scope file where there is one.
///
/// # Errors
/// Every key in which the answer is wider than the request.
pub fn effective(requested: &Scope, answered: Option<&ScopeSpec>) -> Result<Scope, ScopeErrors> {
    let Some(answer) = answered else { return Ok(requested.clone()) };
    let columns = or_asked(&answer.columns, &requested.columns);
    let strange = answer.transforms.iter().flat_map(|more| more.iter());
    let strange = strange.filter(|(name, _)| !super::transform::concerns(name, &columns));
    ScopeErrors::none_or(strange.map(|(name, _)| ScopeError::NoColumnToTransform(name.to_owned())).collect())?;
    let over = answer.transforms.clone().unwrap_or_default();
    let scope = Scope {
        transforms: requested.transforms.overlaid(&over, &columns),
        columns,
        rows: match (&requested.rows, &answer.rows) {
            (Some(asked), Some(added)) => Some(asked.and(added)),
            (one, other) => one.clone().or_else(|| other.clone()),
        },
        regions: or_asked(&answer.regions, &requested.regions),
        purposes: or_asked(&answer.purposes, &requested.purposes),
        methods: or_asked(&answer.methods, &requested.methods),
        agents: or_asked(&answer.agents, &requested.agents),
        networks: or_asked(&answer.networks, &requested.networks),
        from: answer.from.unwrap_or(requested.from),
        until: answer.until.unwrap_or(requested.until),
        volume_bytes_max: answer.volume_bytes_max.or(requested.volume_bytes_max),
        rate_bytes_per_second_max: answer.rate_bytes_per_second_max.or(requested.rate_bytes_per_second_max),
        requests_per_day_max: answer.requests_per_day_max.or(requested.requests_per_day_max),
    };
    scope.narrows(requested)?;
    Ok(scope)
}

fn or_asked<T: Clone>(answered: &Option<Vec<T>>, asked: &[T]) -> Vec<T> {
    answered.clone().unwrap_or_else(|| asked.to_vec())
}

/// What `given` has and `allowed` has not.
fn beyond<'a, T: PartialEq>(given: &'a [T], allowed: &[T]) -> impl Iterator<Item = &'a T> {
    given.iter().filter(|value| !allowed.contains(value))
}

/// What a list gives beyond another, where an empty list means all and is called `all`.
fn not_in<T: ToString>(given: &[T], asked: &[T], all: &str, is_in: impl Fn(&T, &T) -> bool) -> Vec<String> {
    if asked.is_empty() {
        return Vec::new();
    }
    if given.is_empty() {
        return vec![all.to_owned()];
    }
    given.iter().filter(|got| !asked.iter().any(|asked| is_in(got, asked))).map(ToString::to_string).collect()
}
