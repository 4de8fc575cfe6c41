//! Many different requests outside one grant's scope: somebody tries what opens.

use super::{Evidence, Subject, Suspicion, shown, since};
use crate::misuse::history::History;
use crate::misuse::observation::{Observation, Refusal};
use crate::misuse::thresholds::Thresholds;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::misuse::Rule;
use std::collections::HashSet;

/// What a scope says no to. A purpose tried among columns is a try like them.
const KINDS: &[Refusal] = &[Refusal::OutsideScope, Refusal::Purpose];

/// Judges one refusal more.
pub(super) fn judge(
    history: &History,
    seen: &Observation,
    thresholds: &Thresholds,
    now: Timestamp,
) -> Option<Suspicion> {
    let (refusal, answered) = seen.refusal()?;
    if !KINDS.contains(&refusal) {
        return None;
    }
    let grant = answered.grant?;
    let limits = &thresholds.scope_probing;
    let under = || history.denials(KINDS, since(now, limits.minutes)).filter(|d| d.answered.grant == Some(grant));
    let different = under().map(|d| d.answered.asked).collect::<HashSet<_>>().len() as u64;
    (different >= limits.different.into()).then(|| Suspicion {
        rule: Rule::ScopeProbing,
        who: Subject::Agent(seen.who),
        grant: Some(grant),
        entry: answered.entry,
        evidence: Evidence {
            text: format!("{different} different requests outside the grant in {} minutes", limits.minutes),
            text_zh: format!("{} 分钟内提出 {different} 种超出共享范围的请求", limits.minutes),
            counts: vec![
                ("different", different),
                ("refused", under().count() as u64),
                ("window_minutes", limits.minutes.into()),
            ],
            shown: shown(under()),
        },
    })
}
