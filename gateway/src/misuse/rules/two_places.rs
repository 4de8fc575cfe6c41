//! One identity that works in two networks by turns, with connections standing in both: a copied key, or one profile on
//! two machines. A machine that moves makes one turn and no more.

use super::{Evidence, Shown, Subject, Suspicion, since};
use crate::misuse::history::History;
use crate::misuse::observation::Observation;
use crate::misuse::thresholds::Thresholds;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::misuse::Rule;

/// Judges whatever an agent did.
pub(super) fn judge(
    history: &History,
    seen: &Observation,
    thresholds: &Thresholds,
    now: Timestamp,
) -> Option<Suspicion> {
    let limits = &thresholds.two_places;
    let turns: Vec<_> = history.turns(since(now, limits.minutes)).collect();
    let last = turns.last()?;
    // Only what just made the last turn is judged: afterwards the finding stands.
    if last.at != seen.at || !history.stands_in(last.from, last.to) {
        return None;
    }
    let between =
        turns.iter().filter(|t| (t.from, t.to) == (last.from, last.to) || (t.to, t.from) == (last.from, last.to));
    let shown: Vec<Shown> = between
        .map(|turn| Shown {
            at: turn.at,
            what: "active".to_owned(),
            outcome: format!("after {}", turn.from),
            address: turn.to.to_string(),
        })
        .collect();
    let count = shown.len() as u64;
    (count >= limits.turns.into()).then(|| Suspicion {
        rule: Rule::TwoPlaces,
        who: Subject::Agent(seen.who),
        grant: None,
        entry: None,
        evidence: Evidence {
            text: format!(
                "active in {} and {} by turns, {count} times in {} minutes, connected in both",
                last.from, last.to, limits.minutes
            ),
            text_zh: format!(
                "{} 分钟内在 {} 与 {} 两处网络交替活动 {count} 次，且两处连接同时存在",
                limits.minutes, last.from, last.to
            ),
            counts: vec![("turns", count), ("window_minutes", limits.minutes.into())],
            shown,
        },
    })
}
