//! A sweep over keys or regions: very many different questions of one shape, each with a small answer.

use super::{Evidence, Shown, Subject, Suspicion};
use crate::misuse::history::History;
use crate::misuse::observation::{Event, Key, KeySet, Observation};
use crate::misuse::thresholds::Thresholds;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::misuse::Rule;

/// Judges a question that was answered, or a key of a file.
pub(super) fn judge(history: &History, seen: &Observation, thresholds: &Thresholds, _: Timestamp) -> Option<Suspicion> {
    let passed = match seen.event {
        Event::Ended(passed) => passed,
        Event::Key(key) => return of_keys(history, seen, thresholds, key),
        _ => return None,
    };
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

/// Files of keys may have millions, for that is what they are for; what is a sweep is far more of them than one agency
/// compares in the time, or very many that nobody has.
fn of_keys(history: &History, seen: &Observation, thresholds: &Thresholds, key: Key) -> Option<Suspicion> {
    let limits = &thresholds.enumeration;
    let (most, en, zh) = match key.set {
        KeySet::Missing => (limits.missing_keys, "keys that nobody has", "查无结果的主键"),
        KeySet::Any => (limits.different_keys, "keys", "主键"),
    };
    let marks = history.sweep_of(key.grant, key.set.shape())?.different();
    let keys = u64::from(marks) * key.set.keys_per_mark();
    (keys >= most).then(|| Suspicion {
        rule: Rule::Enumeration,
        who: Subject::Agent(seen.who),
        grant: key.grant,
        entry: Some(key.entry),
        evidence: Evidence {
            text: format!("about {keys} different {en} in files of keys in {} minutes", limits.minutes),
            text_zh: format!("{} 分钟内核对的不同{zh}约 {keys} 个", limits.minutes),
            counts: vec![("different_keys", keys), ("window_minutes", limits.minutes.into())],
            shown: vec![Shown {
                at: seen.at,
                what: "match".to_owned(),
                outcome: format!("about {keys} {en}"),
                address: seen.address.to_string(),
            }],
        },
    })
}
