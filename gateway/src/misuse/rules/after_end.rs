//! Requests under a grant whose period is over or that was ended. (That disposal was due joins this rule once disposals
//! are kept: they are one more kind of refusal.)

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
    let limits = &thresholds.use_after_expiry;
    let minutes = limits.minutes;
    let refusals = Refusals { rule: Rule::UseAfterExpiry, kind: Refusal::AfterEnd, at_least: limits.count, minutes };
    refusals.judge(history, seen, now, |count, word| {
        (
            format!("{count} requests in {minutes} minutes under a grant that is over ({word})"),
            format!("共享权限到期或终止后，{minutes} 分钟内仍请求 {count} 次"),
        )
    })
}
