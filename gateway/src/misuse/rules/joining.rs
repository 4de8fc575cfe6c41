//! Grants of one requester that together join what none gives alone (article 25): they share a key in clear, and each
//! gives personal columns that the other does not. Judged when a grant is made or changed.

use super::{Evidence, Shown, Subject, Suspicion};
use lingqu_protocol::agency::CreditCode;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{EntryId, GrantId};
use lingqu_protocol::misuse::Rule;
use std::collections::BTreeSet;

/// What a grant gives, as far as joining is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The grant.
    pub grant: GrantId,
    /// Its entry.
    pub entry: EntryId,
    /// The entry's provider.
    pub provider: CreditCode,
    /// Keys that it gives in clear: their names.
    pub keys: BTreeSet<String>,
    /// Personal columns that it gives in clear.
    pub personal: BTreeSet<String>,
}

impl Terms {
    /// Of a grant that gives these columns of `spec` in clear.
    pub fn new<'a>(
        (grant, entry, provider): (GrantId, EntryId, CreditCode),
        spec: &EntrySpec,
        clear: impl IntoIterator<Item = &'a String>,
    ) -> Self {
        let (mut keys, mut personal) = (BTreeSet::new(), BTreeSet::new());
        for (_, item) in clear.into_iter().filter_map(|name| spec.item(name)) {
            if item.key {
                keys.insert(item.name.clone());
            }
            if item.personal {
                personal.insert(item.name.clone());
            }
        }
        Self { grant, entry, provider, keys, personal }
    }
}

/// What a new or changed grant joins with, one suspicion for each other grant. `others` are those of the same requester
/// that are in force.
pub fn judge<'a>(
    requester: CreditCode,
    new: &'a Terms,
    others: &'a [Terms],
    now: Timestamp,
) -> impl Iterator<Item = (Suspicion, [CreditCode; 2])> + 'a {
    others.iter().filter_map(move |other| {
        let joined = join(new, other)?;
        let text = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
        let (keys, mine, theirs) = (text(&joined.keys), text(&new.personal), text(&other.personal));
        let suspicion = Suspicion {
            rule: Rule::Joining,
            who: Subject::Agency(requester),
            grant: Some(new.grant),
            entry: Some(new.entry),
            evidence: Evidence {
                text: format!(
                    "{} and {} share {keys} in clear; together they give {mine} and {theirs}",
                    new.grant, other.grant
                ),
                text_zh: format!(
                    "{} 与 {} 均以明文提供 {keys}，两者关联可得到 {mine} 与 {theirs}",
                    new.grant, other.grant
                ),
                counts: vec![("keys", joined.keys.len() as u64), ("personal_columns", joined.personal as u64)],
                shown: vec![Shown {
                    at: now,
                    what: other.grant.to_string(),
                    outcome: format!("of {}", other.entry),
                    address: other.provider.to_string(),
                }],
            },
        };
        Some((suspicion, [new.provider, other.provider]))
    })
}

struct Joined {
    keys: BTreeSet<String>,
    personal: usize,
}

fn join(one: &Terms, other: &Terms) -> Option<Joined> {
    if one.grant == other.grant || one.entry == other.entry {
        return None;
    }
    let keys: BTreeSet<String> = one.keys.intersection(&other.keys).cloned().collect();
    let more = |a: &Terms, b: &Terms| a.personal.iter().any(|name| !b.personal.contains(name) && !keys.contains(name));
    let personal = one.personal.union(&other.personal).count();
    (!keys.is_empty() && more(one, other) && more(other, one)).then_some(Joined { keys, personal })
}
