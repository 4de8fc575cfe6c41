//! Which rows an agency's slice holds: those of its own region and all that lies within it, with codes that were merged
//! or renamed followed to where they lie today. Nothing is read from the digits of a code but what the table says.

use crate::region::{RegionCode, RegionTable};
use chrono::NaiveDate;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Steps from a code upwards: five levels, and a change or two on each. A list whose changes need more is refused, so the
/// walk is bounded for certain.
const STEPS_MAX: usize = 16;

/// One region code that is another since a day: merged into it, or renamed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionChange {
    /// The code that is no more.
    pub from: RegionCode,
    /// Where its rows belong.
    pub to: RegionCode,
    /// The first day.
    pub since: NaiveDate,
    /// The decision (批复) that it rests on.
    pub basis: String,
}

/// The regions of one agency on one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionSlice {
    own: RegionCode,
    moved: Arc<BTreeMap<RegionCode, RegionCode>>,
}

impl RegionSlice {
    /// The slice of the region `own` on day `today`, under these changes.
    pub fn new(own: RegionCode, changes: &[RegionChange], today: NaiveDate) -> Self {
        Self { own, moved: Arc::new(in_force(changes, today)) }
    }

    /// The agency's own region.
    pub const fn own(&self) -> RegionCode {
        self.own
    }

    /// Whether a row with this code belongs to it.
    pub fn contains(&self, code: RegionCode) -> bool {
        above(code, &self.moved).is_some_and(|mut chain| chain.any(|at| at == self.own))
    }

    /// Whether a text of a region column belongs to it; what is no code does not.
    pub fn contains_text(&self, code: &str) -> bool {
        RegionTable::national().check(code).is_ok_and(|code| self.contains(code))
    }

    /// Where its codes stand in an ordered list: each begins with one of these. Not all that do are in it where codes were
    /// changed: ask [`contains`](Self::contains).
    pub fn prefixes(&self) -> Vec<RegionCode> {
        let own = std::iter::once(self.own);
        own.chain(self.moved.keys().copied().filter(|from| self.contains(*from))).collect()
    }

    /// Whether everything that begins with its own code is in it and nothing else is.
    pub fn is_plain(&self) -> bool {
        self.moved.is_empty()
    }

    /// The changes that bear on it, from and to, in the order of their codes: what a cursor is bound to.
    pub fn changes(&self) -> Vec<(RegionCode, RegionCode)> {
        let table = RegionTable::national();
        let bears = |from: &RegionCode| self.contains(*from) || table.is_within(*from, self.own);
        self.moved.iter().filter(|(from, _)| bears(from)).map(|(from, to)| (*from, *to)).collect()
    }
}

/// The changes that are in force on a day; of several of one code the latest.
fn in_force(changes: &[RegionChange], today: NaiveDate) -> BTreeMap<RegionCode, RegionCode> {
    let mut dated: Vec<&RegionChange> = changes.iter().filter(|change| change.since <= today).collect();
    dated.sort_by_key(|change| change.since);
    dated.into_iter().map(|change| (change.from, change.to)).collect()
}

/// A code and all above it; none where the walk does not end. A code that was changed is followed and is itself no more.
fn above(
    code: RegionCode,
    moved: &BTreeMap<RegionCode, RegionCode>,
) -> Option<impl Iterator<Item = RegionCode> + use<>> {
    let table = RegionTable::national();
    let mut chain = Vec::with_capacity(5);
    let mut at = Some(code);
    for _ in 0..STEPS_MAX {
        let Some(here) = at else { return Some(chain.into_iter()) };
        at = match moved.get(&here) {
            Some(to) => Some(*to),
            None => {
                chain.push(here);
                table.parent(here)
            }
        };
    }
    at.is_none().then(|| chain.into_iter())
}

/// Whether every walk under these changes ends, whatever the day: checked once, when a list is taken.
pub(super) fn ends(changes: &[RegionChange]) -> bool {
    changes.iter().all(|last| {
        let moved = in_force(changes, last.since);
        moved.keys().all(|from| above(*from, &moved).is_some())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(text: &str) -> RegionCode {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    fn change(from: &str, to: &str, since: &str) -> RegionChange {
        RegionChange { from: code(from), to: code(to), since: day(since), basis: "批复".into() }
    }

    #[test]
    fn a_county_that_ends_in_zeros_and_a_group_have_exactly_their_own() {
        let today = day("2026-11-22");
        for (own, inside, outside) in [
            ("441900", "441900003", "442000001"),
            ("442000", "442000001", "441900003"),
            ("460400", "460400100", "460105001"),
            ("4419", "441900", "442000"),
            ("4190", "419001", "410102"),
            ("44", "441900003", "45"),
        ] {
            let slice = RegionSlice::new(code(own), &[], today);
            assert!(slice.contains(code(own)) && slice.is_plain());
            assert!(slice.contains_text(inside), "{own} has {inside}");
            assert!(!slice.contains_text(outside), "{own} has not {outside}");
        }
        assert!(!RegionSlice::new(code("441900"), &[], today).contains(code("4419")), "what is above is not within");
        assert!(!RegionSlice::new(code("44"), &[], today).contains_text("440000"));
    }

    #[test]
    fn a_code_that_was_merged_belongs_to_its_successor_from_its_day_on() {
        // 福田区 into 南山区, across to another city: 罗湖区 into 东莞.
        let changes = [change("440304", "440305", "2026-07-01"), change("440303", "441900", "2026-08-01")];
        let slice = |own, today| RegionSlice::new(code(own), &changes, day(today));
        assert!(!slice("440305", "2026-06-30").contains_text("440304001"));
        assert!(slice("440304", "2026-06-30").contains_text("440304001"));
        assert!(slice("440305", "2026-07-01").contains_text("440304001"));
        assert!(slice("440305", "2026-07-01").contains_text("440304"));
        assert!(!slice("440304", "2026-07-01").contains_text("440304001"), "what was merged is no more");
        assert!(slice("4403", "2026-07-31").contains_text("440303001"));
        assert!(!slice("4403", "2026-08-01").contains_text("440303001"), "it lies in another city now");
        assert!(slice("4419", "2026-08-01").contains_text("440303001"));
        let east = slice("441900", "2026-08-01");
        assert_eq!(east.prefixes(), [code("441900"), code("440303")]);
        assert_eq!(east.changes(), [(code("440303"), code("441900"))]);
        assert!(!east.is_plain());
        assert!(slice("11", "2026-08-01").changes().is_empty(), "what is elsewhere makes no other slice");
    }

    #[test]
    fn changes_that_go_in_a_ring_are_found() {
        assert!(ends(&[change("440304", "440305", "2026-07-01"), change("440305", "440306", "2026-08-01")]));
        assert!(!ends(&[change("440304", "440305", "2026-07-01"), change("440305", "440304", "2026-08-01")]));
        // Into what lies within itself.
        assert!(!ends(&[change("4403", "440304", "2026-07-01")]));
        // Back again is no ring where the later one replaces the earlier.
        assert!(ends(&[change("440304", "440305", "2026-07-01"), change("440304", "440306", "2026-08-01")]));
    }

    proptest! {
        #[test]
        fn every_code_lies_in_exactly_one_slice_of_each_level(at in 0usize..3, moves in prop::collection::vec((0usize..6, 0usize..6), 0..4)) {
            let counties = ["440303", "440304", "440305", "440306", "441900", "442000"];
            let changes: Vec<RegionChange> =
                moves.iter().map(|(a, b)| change(counties[*a], counties[*b], "2026-01-01")).collect();
            prop_assume!(ends(&changes));
            let today = day("2026-01-02");
            let row = code(["440303001", "440304001", "441900003"][at]);
            let holders = counties.iter().filter(|own| RegionSlice::new(code(own), &changes, today).contains(row));
            prop_assert_eq!(holders.count(), 1);
        }
    }
}
