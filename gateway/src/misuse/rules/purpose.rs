//! Requests for purposes that were not approved.

use super::{Refusals, Suspicion};
use crate::misuse::history::History;
use crate::misuse::observation::{Observation, Refusal};
use crate::misuse::thresholds::Thresholds;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::misuse::Rule;

/// Judges one refusal more.
pub(super) fn judge(
    history: &History,
    seen: &Observation,
    thresholds: &Thresholds,
    now: Timestamp,
) -> Option<Suspicion> {
    let limits = &thresholds.purpose_not_approved;
    let minutes = limits.minutes;
    let refusals = Refusals { rule: Rule::PurposeNotApproved, kind: Refusal::Purpose, at_least: limits.count, minutes };
    refusals.judge(history, seen, now, |count, _| {
        (
            format!("{count} requests for purposes that were not approved in {minutes} minutes"),
            format!("{minutes} 分钟内 {count} 次以未获批准的用途请求数据"),
        )
    })
}
