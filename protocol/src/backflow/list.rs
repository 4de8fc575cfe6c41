//! The authority's published list (回流清单): which entry flows back to which departments, for which duty, with which items;
//! and the changes of region codes that count for it.

use super::slice::{self, RegionChange};
use crate::agency::CreditCode;
use crate::entry::ITEMS_MAX;
use crate::region::{RegionLevel, RegionTable};
use crate::spec::{NAME_CHARS_MAX, Source, SpecError, TEXT_CHARS_MAX};
use chrono::NaiveDate;
use serde::Deserialize;
use toml::Spanned;
use toml::value::Datetime;

/// Rows of one list: what a person can read through before signing it.
pub const ROWS_LISTED_MAX: usize = 1_000;

/// Departments or duties in one row: every county's department of a large province by its code, many times over.
pub const RECEIVERS_MAX: usize = 4_096;

/// Changes of region codes in one list: more than the country had in any ten years.
pub const REGION_CHANGES_MAX: usize = 4_096;

/// Items that one row lists: as many as an entry has.
pub const ITEMS_LISTED_MAX: usize = ITEMS_MAX;

/// A published list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackflowList {
    /// What it is called.
    pub name: String,
    /// What flows back to whom.
    pub rows: Vec<Row>,
    /// Codes that are others today.
    pub region_changes: Vec<RegionChange>,
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The entry, by id or code.
    pub entry: String,
    /// To whom.
    pub to: Receivers,
    /// For which duty (履职) it is received.
    pub duty: String,
    /// Which items; none listed means all that the entry has.
    pub items: Option<Vec<String>>,
}

/// To whom a row goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receivers {
    /// These departments.
    pub agencies: Vec<CreditCode>,
    /// Every department whose signed statement names one of these duties.
    pub duties: Vec<String>,
    /// Only those of these levels, where any is listed.
    pub levels: Vec<RegionLevel>,
}

impl Receivers {
    /// Whether a department with these duties, in charge of a region of this level, is among them.
    pub fn include(&self, agency: CreditCode, duties: &[String], level: RegionLevel) -> bool {
        let named = self.agencies.contains(&agency) || duties.iter().any(|duty| self.duties.contains(duty));
        named && (self.levels.is_empty() || self.levels.contains(&level))
    }
}

impl BackflowList {
    /// Reads a list. Whether its entries are there and have these items is for the gateway to see.
    ///
    /// # Errors
    /// Names the first mistake: where it is, the field, and what to write instead.
    pub fn parse(toml: &str) -> Result<Self, SpecError> {
        let at = Source(toml);
        let raw: RawList = at.read()?;
        at.bounded("backflow", &raw.backflow, ROWS_LISTED_MAX)?;
        let rows = raw.backflow.get_ref().iter().enumerate().map(|(i, row)| read_row(at, i, row));
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        let region_changes = match &raw.region_changes {
            None => Vec::new(),
            Some(changes) => {
                at.bounded("region_changes", changes, REGION_CHANGES_MAX)?;
                let read = changes.get_ref().iter().enumerate().map(|(i, change)| read_change(at, i, change));
                read.collect::<Result<Vec<_>, _>>()?
            }
        };
        if let Some(changes) = raw.region_changes.as_ref().filter(|_| !slice::ends(&region_changes)) {
            let problem = "the changes go in a ring, or one leads into what lies within itself: correct them";
            return Err(at.error(changes.span(), "region_changes", problem));
        }
        Ok(Self { name: at.text("name", &raw.name, NAME_CHARS_MAX)?, rows, region_changes })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawList {
    name: Spanned<String>,
    backflow: Spanned<Vec<RawRow>>,
    region_changes: Option<Spanned<Vec<RawChange>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRow {
    entry: Spanned<String>,
    to: Option<Spanned<Vec<Spanned<String>>>>,
    to_duties: Option<Spanned<Vec<Spanned<String>>>>,
    levels: Option<Spanned<Vec<Spanned<String>>>>,
    duty: Spanned<String>,
    items: Option<Spanned<Vec<Spanned<String>>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChange {
    from: Spanned<String>,
    to: Spanned<String>,
    since: Spanned<Datetime>,
    basis: Spanned<String>,
}

fn read_row(at: Source<'_>, i: usize, raw: &RawRow) -> Result<Row, SpecError> {
    let field = |name: &str| format!("backflow[{i}].{name}");
    let entry = at.text(&field("entry"), &raw.entry, NAME_CHARS_MAX)?;
    let mut to = Receivers::default();
    if let Some(list) = &raw.to {
        at.bounded(&field("to"), list, RECEIVERS_MAX)?;
        for code in list.get_ref() {
            let code = CreditCode::parse(code.get_ref())
                .map_err(|e| at.error(code.span(), &field("to"), e.to_string()))
                .and_then(|known| match to.agencies.contains(&known) {
                    true => Err(at.error(code.span(), &field("to"), format!("{known} stands twice: remove one"))),
                    false => Ok(known),
                })?;
            to.agencies.push(code);
        }
    }
    if let Some(list) = &raw.to_duties {
        to.duties = at.names(&field("to_duties"), list, RECEIVERS_MAX)?;
    }
    if to.agencies.is_empty() && to.duties.is_empty() {
        let problem = "says nobody who receives it: write `to` (credit codes) or `to_duties`";
        return Err(at.error(raw.entry.span(), &field("to"), problem));
    }
    if let Some(list) = &raw.levels {
        at.bounded(&field("levels"), list, 5)?;
        for level in list.get_ref() {
            let known: RegionLevel = level
                .get_ref()
                .parse()
                .map_err(|e: crate::region::BadRegionLevel| at.error(level.span(), &field("levels"), e.to_string()))?;
            to.levels.push(known);
        }
    }
    let items = raw.items.as_ref().map(|list| at.names(&field("items"), list, ITEMS_LISTED_MAX)).transpose()?;
    Ok(Row { entry, to, duty: at.text(&field("duty"), &raw.duty, TEXT_CHARS_MAX)?, items })
}

fn read_change(at: Source<'_>, i: usize, raw: &RawChange) -> Result<RegionChange, SpecError> {
    let field = |name: &str| format!("region_changes[{i}].{name}");
    let code = |name: &str, text: &Spanned<String>| {
        let known = RegionTable::national().check(text.get_ref());
        known.map_err(|e| at.error(text.span(), &field(name), e.to_string()))
    };
    let value = raw.since.get_ref();
    let day = match (value.date, value.time, value.offset) {
        (Some(date), None, None) => NaiveDate::from_ymd_opt(date.year.into(), date.month.into(), date.day.into()),
        _ => None,
    };
    let since = day.ok_or_else(|| at.error(raw.since.span(), &field("since"), "expected a day, as in 2026-07-01"))?;
    Ok(RegionChange {
        from: code("from", &raw.from)?,
        to: code("to", &raw.to)?,
        since,
        basis: at.text(&field("basis"), &raw.basis, TEXT_CHARS_MAX)?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "2026年第一批回流清单"

[[backflow]]
entry = "307010/000001"
to_duties = ["市场监管"]
levels = ["county", "city"]
duty = "辖区市场主体监管"
items = ["region", "credit_code"]

[[backflow]]
entry = "307010/000002"
to = ["91350100M000100Y43"]
duty = "社会救助"

[[region_changes]]
from = "440304"
to = "440305"
since = 2026-07-01
basis = "国函〔2026〕1号"
"#;

    #[test]
    fn a_list_says_who_gets_what_for_which_duty() {
        let list = BackflowList::parse(GOOD).unwrap();
        assert_eq!((list.rows.len(), list.region_changes.len()), (2, 1));
        let [first, second] = list.rows.as_slice() else { panic!("two rows") };
        let (own, other) = ("91350100M000100Y43".parse().unwrap(), "91512081MA62K0260E".parse().unwrap());
        let duties = vec!["市场监管".to_owned()];
        assert!(first.to.include(other, &duties, RegionLevel::County));
        assert!(!first.to.include(other, &duties, RegionLevel::Province), "another level");
        assert!(!first.to.include(own, &[], RegionLevel::County), "no such duty");
        assert!(
            second.to.include(own, &[], RegionLevel::Province)
                && !second.to.include(other, &duties, RegionLevel::County)
        );
        assert_eq!((second.items.as_ref(), first.items.as_ref().map(Vec::len)), (None, Some(2)));
    }

    #[test]
    fn mistakes_are_named_with_their_field() {
        for (from, to, field) in [
            ("to_duties = [\"市场监管\"]\n", "", "backflow[0].to"),
            ("[\"91350100M000100Y43\"]", "[\"91350100M000100Y4Z\"]", "backflow[1].to"),
            ("[\"91350100M000100Y43\"]", "[\"91350100M000100Y43\",\"91350100M000100Y43\"]", "backflow[1].to"),
            ("\"county\"", "\"planet\"", "backflow[0].levels"),
            ("to = \"440305\"", "to = \"440300\"", "region_changes[0].to"),
            ("to = \"440305\"", "to = \"440304001\"", "region_changes"),
            ("2026-07-01", "2026-07-01T00:00:00", "region_changes[0].since"),
            ("duty = \"社会救助\"", "duty = \"\"", "backflow[1].duty"),
            ("duty = \"社会救助\"", "duty = \"x\"\nwhere = \"1\"", "where"),
            ("\"credit_code\"]", "\"region\"]", "backflow[0].items[1]"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            let error = BackflowList::parse(&text).unwrap_err();
            assert_eq!(error.field, field, "{error}");
        }
    }
}
