//! Volume or rate above what was approved: refusals for it, and, beside the gate's own count, what was measured to pass.

use super::{Evidence, Refusals, Subject, Suspicion};
use crate::misuse::history::History;
use crate::misuse::observation::{Event, Observation, Refusal};
use crate::misuse::thresholds::Thresholds;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::misuse::Rule;

/// Judges one refusal more, or what a stream moved.
pub(super) fn judge(
    history: &History,
    seen: &Observation,
    thresholds: &Thresholds,
    now: Timestamp,
) -> Option<Suspicion> {
    refused(history, seen, thresholds, now).or_else(|| measured(history, seen, thresholds))
}

fn refused(history: &History, seen: &Observation, thresholds: &Thresholds, now: Timestamp) -> Option<Suspicion> {
    let limits = &thresholds.over_approved;
    let minutes = limits.minutes;
    let refusals = Refusals { rule: Rule::OverApproved, kind: Refusal::AboveLimit, at_least: limits.count, minutes };
    refusals.judge(history, seen, now, |count, word| {
        (
            format!("{count} requests above the approved in {minutes} minutes ({word})"),
            format!("{minutes} 分钟内 {count} 次超出批准的数据量或频率（{word}）"),
        )
    })
}

fn measured(history: &History, seen: &Observation, thresholds: &Thresholds) -> Option<Suspicion> {
    let (Event::Moving(passed) | Event::Ended(passed)) = seen.event else { return None };
    let (grant, approved) = (passed.grant?, passed.volume_bytes_max?);
    let measured = history.measured_bytes(grant);
    let percent = u128::from(thresholds.over_approved.measured_percent);
    (u128::from(measured) * 100 > u128::from(approved) * percent).then(|| Suspicion {
        rule: Rule::OverApproved,
        who: Subject::Agent(seen.who),
        grant: Some(grant),
        entry: Some(passed.entry),
        evidence: Evidence {
            text: format!("{measured} bytes were measured to pass, and {approved} were approved"),
            text_zh: format!("实测传输 {measured} 字节，批准上限为 {approved} 字节"),
            counts: vec![("measured_bytes", measured), ("approved_bytes", approved)],
            shown: Vec::new(),
        },
    })
}
