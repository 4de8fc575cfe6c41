//! The same request outside scope, again and again.

use super::{Evidence, Subject, Suspicion, shown, since};
use crate::misuse::history::History;
use crate::misuse::observation::{Observation, Refusal};
use crate::misuse::thresholds::Thresholds;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::misuse::Rule;

/// What is outside: a scope, or what exists for the asker.
const KINDS: &[Refusal] = &[Refusal::OutsideScope, Refusal::NotThere];

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
    let limits = &thresholds.scope_repeated;
    let same = || history.denials(KINDS, since(now, limits.minutes)).filter(|d| d.answered.asked == answered.asked);
    let count = same().count() as u64;
    (count >= limits.count.into()).then(|| Suspicion {
        rule: Rule::ScopeRepeated,
        who: Subject::Agent(seen.who),
        grant: answered.grant,
        entry: answered.entry,
        evidence: Evidence {
            text: format!(
                "the same request was refused {count} times in {} minutes ({})",
                limits.minutes, answered.word
            ),
            text_zh: format!("{} 分钟内同一请求被拒绝 {count} 次（{}）", limits.minutes, answered.word),
            counts: vec![("refused", count), ("window_minutes", limits.minutes.into())],
            shown: shown(same()),
        },
    })
}
