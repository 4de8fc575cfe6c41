//! What an agent usually takes: bytes of each of its last days, and how each hour of the week was. Robust: one wild day
//! moves neither the median nor the median deviation.

use lingqu_protocol::host::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Days that are kept: a month and its end.
pub const DAYS_KEPT: usize = 35;

/// Hours of a week.
const HOURS: usize = 168;

/// An hour.
pub const HOUR_MS: i64 = 3_600_000;

const DAY_MS: i64 = 24 * HOUR_MS;

/// China Standard Time is this far ahead of UTC: days and hours are those of the people who work.
const CST_AHEAD_MS: i64 = 8 * HOUR_MS;

/// Weight of the newest week in an hour's mean: about the last two months count.
const NEWEST: f32 = 0.25;

/// Bytes under which an hour counts as quiet: status and catalogue, no data.
const QUIET_BYTES: u64 = 1 << 20;

/// What is usual, in the form that is kept over restarts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The last days with traffic: number of the day, and bytes.
    pub days: Vec<(i64, u64)>,
    /// Of each hour of the week: mebibytes on average, and weeks that were seen.
    pub hours: Vec<(f32, u16)>,
    /// The first day that was seen.
    pub since: i64,
}

/// What an agent usually takes.
#[derive(Clone, Debug)]
pub struct Baseline {
    days: VecDeque<(i64, u64)>,
    hours: Option<Box<[Hour; HOURS]>>,
    since: i64,
    today: (i64, u64),
    hour: (i64, u64),
    changed: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Hour {
    mean_mib: f32,
    weeks: u16,
}

impl Default for Baseline {
    fn default() -> Self {
        Self {
            days: VecDeque::new(),
            hours: None,
            since: i64::MAX,
            today: (i64::MIN, 0),
            hour: (i64::MIN, 0),
            changed: false,
        }
    }
}

impl Baseline {
    /// Counts bytes at a time. A clock that went back counts on in the day and hour it was in.
    pub(super) fn add(&mut self, at: Timestamp, bytes: u64) {
        let (day, hour) = (day(at), hour(at));
        if day > self.today.0 {
            self.end_day(day);
        }
        if hour > self.hour.0 {
            self.end_hour(hour);
        }
        self.today.1 = self.today.1.saturating_add(bytes);
        self.hour.1 = self.hour.1.saturating_add(bytes);
        self.since = self.since.min(day);
    }

    /// Bytes of the day that runs.
    pub const fn today_bytes(&self) -> u64 {
        self.today.1
    }

    /// Bytes of the hour that runs.
    pub const fn hour_bytes(&self) -> u64 {
        self.hour.1
    }

    /// Days with traffic that are known, the one that runs not among them.
    pub fn days(&self) -> usize {
        self.days.len()
    }

    /// The median of the known days' bytes, and the median absolute deviation from it.
    pub fn median_and_deviation(&self) -> Option<(u64, u64)> {
        let mut bytes: Vec<u64> = self.days.iter().map(|(_, bytes)| *bytes).collect();
        let middle = median(&mut bytes)?;
        let mut away: Vec<u64> = bytes.iter().map(|b| b.abs_diff(middle)).collect();
        Some((middle, median(&mut away)?))
    }

    /// The largest known day.
    pub fn largest_bytes(&self) -> u64 {
        self.days.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0)
    }

    /// For how many weeks nothing came in the hour of the week that runs; 0 where something did, or it is not known.
    pub fn quiet_weeks(&self) -> u32 {
        let Some(hours) = &self.hours else { return 0 };
        let here = hours.get(self.hour.0.rem_euclid(HOURS as i64) as usize).copied().unwrap_or_default();
        if here.mean_mib > 0.0 {
            return 0;
        }
        // An hour that was never busy was quiet for as long as the agent is known.
        u32::try_from((self.today.0 - self.since) / 7).unwrap_or(0)
    }

    /// The form that is kept, where a day ended since the last call.
    pub(super) fn take_changed(&mut self) -> Option<Kept> {
        std::mem::take(&mut self.changed).then(|| Kept {
            days: self.days.iter().copied().collect(),
            hours: self.hours.iter().flat_map(|h| h.iter().map(|h| (h.mean_mib, h.weeks))).collect(),
            since: self.since,
        })
    }

    /// From the form that was kept; what is too much of it is left out.
    pub(super) fn from_kept(kept: Kept) -> Self {
        let mut hours = Box::new([Hour::default(); HOURS]);
        for (slot, (mean_mib, weeks)) in hours.iter_mut().zip(&kept.hours) {
            *slot = Hour { mean_mib: if mean_mib.is_finite() { *mean_mib } else { 0.0 }, weeks: *weeks };
        }
        let spare = kept.days.len().saturating_sub(DAYS_KEPT);
        let days = kept.days.into_iter().skip(spare).collect();
        Self { days, hours: (!kept.hours.is_empty()).then_some(hours), since: kept.since, ..Self::default() }
    }

    fn end_day(&mut self, next: i64) {
        if self.today.1 > 0 {
            if self.days.len() >= DAYS_KEPT {
                self.days.pop_front();
            }
            self.days.push_back(self.today);
            self.changed = true;
        }
        self.today = (next, 0);
    }

    fn end_hour(&mut self, next: i64) {
        let (ended, bytes) = std::mem::replace(&mut self.hour, (next, 0));
        if bytes < QUIET_BYTES {
            return;
        }
        let hours = self.hours.get_or_insert_with(|| Box::new([Hour::default(); HOURS]));
        if let Some(hour) = hours.get_mut(ended.rem_euclid(HOURS as i64) as usize) {
            let mib = bytes as f32 / (1 << 20) as f32;
            hour.mean_mib = if hour.weeks == 0 { mib } else { hour.mean_mib * (1.0 - NEWEST) + mib * NEWEST };
            hour.weeks = hour.weeks.saturating_add(1);
        }
    }
}

fn day(at: Timestamp) -> i64 {
    at.0.saturating_add(CST_AHEAD_MS).div_euclid(DAY_MS)
}

fn hour(at: Timestamp) -> i64 {
    at.0.saturating_add(CST_AHEAD_MS).div_euclid(HOUR_MS)
}

fn median(values: &mut [u64]) -> Option<u64> {
    let middle = values.len().checked_sub(1)? / 2;
    Some(*values.select_nth_unstable(middle).1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// 02:00 in China on a Monday.
    const MONDAY: i64 = 4 * DAY_MS + 2 * HOUR_MS - CST_AHEAD_MS;

    fn nightly(weeks: i64) -> Baseline {
        let mut baseline = Baseline::default();
        for day in 0..weeks * 7 {
            baseline.add(Timestamp(MONDAY + day * DAY_MS), (100 + day as u64 % 5) << 20);
        }
        baseline
    }

    #[test]
    fn one_wild_day_moves_neither_median_nor_deviation() {
        let mut baseline = nightly(4);
        let before = baseline.median_and_deviation().unwrap();
        assert_eq!((baseline.days(), baseline.largest_bytes()), (27, 104 << 20));
        assert_eq!(before, (102 << 20, 1 << 20));
        baseline.add(Timestamp(MONDAY + 28 * DAY_MS), 90 << 30);
        baseline.add(Timestamp(MONDAY + 29 * DAY_MS), 1);
        let (median, deviation) = baseline.median_and_deviation().unwrap();
        assert!(median.abs_diff(before.0) <= 1 << 20 && deviation <= before.1 + (1 << 20));
        assert_eq!(baseline.largest_bytes(), 90 << 30);
    }

    #[test]
    fn an_hour_is_quiet_where_nothing_came_for_weeks() {
        let mut baseline = nightly(6);
        baseline.add(Timestamp(MONDAY + 42 * DAY_MS), 1 << 30);
        assert_eq!(baseline.quiet_weeks(), 0, "its usual hour");
        baseline.add(Timestamp(MONDAY + 42 * DAY_MS + 13 * HOUR_MS), 1 << 30);
        assert_eq!(baseline.quiet_weeks(), 6, "three in the afternoon");
        assert_eq!(baseline.hour_bytes(), 1 << 30);
        assert_eq!(nightly(1).quiet_weeks(), 0, "too little is known");
    }

    #[test]
    fn what_is_less_than_data_leaves_an_hour_quiet() {
        for (bytes, weeks) in [((1 << 20) - 1, 6), (1 << 20, 0)] {
            let mut baseline = nightly(6);
            let three = MONDAY + 13 * HOUR_MS;
            baseline.add(Timestamp(three + 42 * DAY_MS), bytes);
            baseline.add(Timestamp(three + 49 * DAY_MS), 0);
            assert_eq!(baseline.quiet_weeks().min(6), weeks, "{bytes}");
        }
    }

    #[test]
    fn a_day_begins_at_midnight_in_china() {
        let mut baseline = Baseline::default();
        let days = [0, 15, 16].map(|utc_hour| {
            baseline.add(Timestamp(utc_hour * HOUR_MS), 1);
            baseline.days()
        });
        assert_eq!(days, [0, 0, 1]);
    }

    #[test]
    fn in_an_hours_mean_the_newest_week_counts_a_quarter() {
        let mut baseline = Baseline::default();
        for (week, mib) in [100u64, 200, 0].into_iter().enumerate() {
            baseline.add(Timestamp(MONDAY + week as i64 * 7 * DAY_MS), mib << 20);
        }
        let kept = baseline.take_changed().unwrap();
        assert_eq!((kept.days, kept.since), (vec![(4, 100 << 20), (11, 200 << 20)], 4));
        let busy: Vec<_> = kept.hours.into_iter().enumerate().filter(|(_, (_, weeks))| *weeks > 0).collect();
        assert_eq!(busy, [(4 * 24 + 2, (125.0, 2))], "of both weeks in which something came");
    }

    #[test]
    fn it_is_kept_over_a_restart() {
        let mut baseline = nightly(10);
        let kept = baseline.take_changed().unwrap();
        assert_eq!(baseline.take_changed(), None);
        assert_eq!(kept.days.len(), DAYS_KEPT);
        let text = serde_json::to_string(&kept).unwrap();
        assert!(text.len() < 8192, "{}", text.len());
        let mut again = Baseline::from_kept(serde_json::from_str(&text).unwrap());
        assert_eq!(again.median_and_deviation(), baseline.median_and_deviation());
        again.add(Timestamp(MONDAY + 70 * DAY_MS + 13 * HOUR_MS), 1);
        assert_eq!(again.quiet_weeks(), 10);
        let wrong = Kept { days: vec![(1, 1); 100], hours: vec![(f32::NAN, 1); 300], since: 0 };
        assert_eq!(Baseline::from_kept(wrong).days(), DAYS_KEPT);
    }

    #[test]
    fn a_clock_that_goes_back_counts_on() {
        let mut baseline = nightly(2);
        let days = baseline.days();
        baseline.add(Timestamp(MONDAY), 5);
        assert_eq!(baseline.days(), days);
    }
}
