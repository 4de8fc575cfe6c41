//! A sweep over keys or regions: very many different questions of one shape, each with a small answer.

use super::{Evidence, Shown, Subject, Suspicion};
use crate::misuse::history::History;
use crate::misuse::observation::{Event, Observation};
use crate::misuse::thresholds::Thresholds;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::misuse::Rule;

/// Judges a question that was answered.
pub(super) fn judge(history: &History, seen: &Observation, thresholds: &Thresholds, _: Timestamp) -> Option<Suspicion> {
    let Event::Ended(passed) = seen.event else { return None };
    let limits = &thresholds.enumeration;
    let question = passed.question.filter(|_| passed.rows_in_all <= limits.rows_small)?;
    let sweep = history.sweep_of(passed.grant, question.shape)?;
    let (different, rows) = (sweep.different(), sweep.rows());
    (different >= limits.different).then(|| Suspicion {
        rule: Rule::Enumeration,
        who: Subject::Agent(seen.who),
        grant: passed.grant,
        entry: Some(passed.entry),
        evidence: Evidence {
            text: format!(
                "at least {different} different questions of one kind in {} minutes, with {rows} rows in all",
                limits.minutes
            ),
            text_zh: format!("{} 分钟内以同一方式提出至少 {different} 个不同的查询，共返回 {rows} 行", limits.minutes),
            counts: vec![("different", different.into()), ("rows", rows), ("window_minutes", limits.minutes.into())],
            shown: vec![Shown {
                at: seen.at,
                what: "pull".to_owned(),
                outcome: format!("{} rows", passed.rows_in_all),
                address: seen.address.to_string(),
            }],
        },
    })
}
