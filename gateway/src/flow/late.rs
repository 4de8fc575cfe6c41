//! Who is behind: subscriptions that lack a version, for the operator who asks, and those that lack it for too long, for the
//! findings.

use super::Flow;
use super::commit::read;
use super::error::FlowError;
use super::record::{LatestRow, latest_id};
use super::subscription::SubscriptionRow;
use crate::state::{Filter, Kind, State};
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{EntryId, TransferId};
use serde_json::{Value, json};
use std::collections::HashMap;

/// Subscriptions in one page.
const PAGE: u32 = 200;

/// A subscription that lacks a version for longer than it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// Which.
    pub id: TransferId,
    /// Whose.
    pub agent: AgentId,
    /// Of which entry.
    pub entry: EntryId,
    /// The version that is durable at its sink; 0 for none.
    pub version: u64,
    /// The latest version.
    pub latest: u64,
    /// For how long the next version has been there, in milliseconds.
    pub waited_ms: u64,
}

/// A page of all subscriptions, behind the one that is named, with what each lacks; and where the next page begins, or nothing.
///
/// # Errors
/// The state's.
pub async fn standing(state: &dyn State, after: &str) -> Result<(Vec<Value>, String), FlowError> {
    let after = (!after.is_empty()).then_some(after);
    let page = state.list(Kind::Subscription, Filter::default(), after, PAGE).await?;
    let next = if page.len() == PAGE as usize { page.last().map(|last| last.id.clone()) } else { None };
    let mut known: HashMap<EntryId, u64> = HashMap::new();
    let mut rows = Vec::with_capacity(page.len());
    for record in &page {
        let row: SubscriptionRow = read(record)?;
        let latest = match known.get(&row.entry) {
            Some(latest) => *latest,
            None => {
                let record = state.get(Kind::Setting, &latest_id(row.entry)).await?;
                let latest = record.as_ref().map(read::<LatestRow>).transpose()?.map_or(0, |row| row.latest);
                known.insert(row.entry, latest);
                latest
            }
        };
        rows.push(json!({
            "id": row.id,
            "agent": row.agent,
            "entry": row.entry,
            "sink": row.sink,
            "version": row.version,
            "latest": latest,
            "behind": latest.saturating_sub(row.version),
            "durable_at": (row.durable_at > 0).then(|| Timestamp(row.durable_at).to_rfc3339()),
            "lag_ms": (row.version > 0).then(|| row.durable_at.saturating_sub(row.committed_at)),
        }));
    }
    Ok((rows, next.unwrap_or_default()))
}

impl Flow {
    /// Subscriptions whose next version was committed more than `limit_ms` ago.
    ///
    /// # Errors
    /// The state's.
    pub async fn late(&self, limit_ms: i64) -> Result<Vec<Late>, FlowError> {
        let now = self.now().0;
        let (mut late, mut after) = (Vec::new(), None::<String>);
        // When versions were committed, each looked up once.
        let mut known: HashMap<(EntryId, u64), i64> = HashMap::new();
        let mut latest: HashMap<EntryId, u64> = HashMap::new();
        loop {
            let page = self.state().list(Kind::Subscription, Filter::default(), after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(late) };
            after = Some(last.id.clone());
            for record in &page {
                let row: SubscriptionRow = read(record)?;
                let newest = match latest.get(&row.entry) {
                    Some(newest) => *newest,
                    None => {
                        let newest = self.latest(row.entry).await?.unwrap_or(0);
                        latest.insert(row.entry, newest);
                        newest
                    }
                };
                // Who has nothing yet waits for the state, which is the latest version.
                let next = if row.version == 0 { newest } else { row.version + 1 };
                if newest <= row.version {
                    continue;
                }
                let committed_at = match known.get(&(row.entry, next)) {
                    Some(at) => *at,
                    None => {
                        let at = self.version(row.entry, next).await?.committed_at;
                        known.insert((row.entry, next), at);
                        at
                    }
                };
                let waited = now.saturating_sub(committed_at.max(row.since));
                if waited > limit_ms
                    && let Ok(agent) = row.agent.parse()
                {
                    let waited_ms = u64::try_from(waited).unwrap_or(0);
                    let version = row.version;
                    late.push(Late { id: row.id, agent, entry: row.entry, version, latest: newest, waited_ms });
                }
            }
        }
    }
}
