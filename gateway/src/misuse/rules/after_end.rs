//! Requests under a grant whose period is over or that was ended. (That disposal was due joins this rule once disposals
//! are kept: they are one more kind of refusal.)

use super::{Evidence, Subject, Suspicion, shown, since};
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
    let (refusal, answered) = seen.refusal()?;
    let grant = answered.grant.filter(|_| refusal == Refusal::AfterEnd)?;
    let limits = &thresholds.use_after_expiry;
    let under = || {
        let late = history.denials(&[Refusal::AfterEnd], since(now, limits.minutes));
        late.filter(|d| d.answered.grant == Some(grant))
    };
    let count = under().count() as u64;
    (count >= limits.count.into()).then(|| Suspicion {
        rule: Rule::UseAfterExpiry,
        who: Subject::Agent(seen.who),
        grant: Some(grant),
        entry: answered.entry,
        evidence: Evidence {
            text: format!(
                "{count} requests in {} minutes under a grant that is over ({})",
                limits.minutes, answered.word
            ),
            text_zh: format!("共享权限到期或终止后，{} 分钟内仍请求 {count} 次", limits.minutes),
            counts: vec![("refused", count), ("window_minutes", limits.minutes.into())],
            shown: shown(under()),
        },
    })
}
