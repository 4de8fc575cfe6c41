//! A sudden departure from the agent's own history: far more in a day than it ever took, or much at an hour of the week at
//! which it never took anything.

use super::{Evidence, Shown, Subject, Suspicion};
use crate::misuse::history::History;
use crate::misuse::observation::{Event, Observation};
use crate::misuse::thresholds::Thresholds;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::misuse::Rule;

/// A normal distribution's deviation, in median absolute deviations, times a thousand.
const DEVIATION_OF_MEDIAN_PERMILLE: u64 = 1483;

/// Judges what a stream moved.
pub(super) fn judge(history: &History, seen: &Observation, thresholds: &Thresholds, _: Timestamp) -> Option<Suspicion> {
    let (Event::Moving(passed) | Event::Ended(passed)) = seen.event else { return None };
    passed.grant?;
    let (limits, usual) = (&thresholds.departure, history.baseline());
    let floor = limits.floor_mib << 20;
    let today = usual.today_bytes();
    if today < floor || (usual.days() as u64) < limits.days_min.into() {
        return None;
    }
    let (median, deviation) = usual.median_and_deviation()?;
    let sigma = deviation.saturating_mul(DEVIATION_OF_MEDIAN_PERMILLE) / 1000;
    let far = median.saturating_add(sigma.saturating_mul(limits.deviations.into()));
    let largest = usual.largest_bytes();
    let bound = far.max(largest.saturating_mul(limits.largest_times.into()));
    let (quiet, hour) = (usual.quiet_weeks(), usual.hour_bytes());
    let (text, text_zh) = if today > bound {
        (
            format!("{today} bytes today; its median day has {median}, its largest {largest}"),
            format!("今日已获取 {today} 字节；其日中位数为 {median}，历史最大值为 {largest}"),
        )
    } else if quiet >= limits.quiet_weeks && hour >= floor.max(median) {
        (
            format!("{hour} bytes in an hour of the week at which nothing came for {quiet} weeks"),
            format!("在过去 {quiet} 周从无传输的时段内获取 {hour} 字节"),
        )
    } else {
        return None;
    };
    Some(Suspicion {
        rule: Rule::Departure,
        who: Subject::Agent(seen.who),
        grant: passed.grant,
        entry: Some(passed.entry),
        evidence: Evidence {
            text,
            text_zh,
            counts: vec![
                ("today_bytes", today),
                ("hour_bytes", hour),
                ("median_bytes", median),
                ("deviation_bytes", sigma),
                ("largest_bytes", largest),
                ("days", usual.days() as u64),
                ("quiet_weeks", quiet.into()),
            ],
            shown: vec![Shown {
                at: seen.at,
                what: "moved".to_owned(),
                outcome: format!("{} bytes", passed.bytes),
                address: seen.address.to_string(),
            }],
        },
    })
}
