//! Requests for purposes that were not approved.

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
    let grant = answered.grant.filter(|_| refusal == Refusal::Purpose)?;
    let limits = &thresholds.purpose_not_approved;
    let under = || {
        let of_purpose = history.denials(&[Refusal::Purpose], since(now, limits.minutes));
        of_purpose.filter(|d| d.answered.grant == Some(grant))
    };
    let count = under().count() as u64;
    (count >= limits.count.into()).then(|| Suspicion {
        rule: Rule::PurposeNotApproved,
        who: Subject::Agent(seen.who),
        grant: Some(grant),
        entry: answered.entry,
        evidence: Evidence {
            text: format!("{count} requests for purposes that were not approved in {} minutes", limits.minutes),
            text_zh: format!("{} 分钟内 {count} 次以未获批准的用途请求数据", limits.minutes),
            counts: vec![("refused", count), ("window_minutes", limits.minutes.into())],
            shown: shown(under()),
        },
    })
}
