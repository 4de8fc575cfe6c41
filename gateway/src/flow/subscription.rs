//! What the gateway remembers of subscriptions: what was acknowledged last, as advice and for people who look for what is late.

use super::Flow;
use super::commit::read;
use super::error::FlowError;
use crate::gate::{FollowPermit, Peer};
use crate::ledger::Entry;
use crate::metrics;
use crate::state::{Change, Draft, Expect, Filter, Kind, Write};
use lingqu_protocol::backflow::SliceMode;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{EntryId, ListId, TransferId};
use lingqu_protocol::leaf::LeafKind;
use lingqu_protocol::wire::{Record as WireRecord, Records};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;

/// Subscriptions in one page.
const PAGE: u32 = 200;

/// Subscriptions that one agency may have: every entry of a large catalogue into several sinks.
pub const SUBSCRIPTIONS_MAX: usize = 1_000;

/// A subscription as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionRow {
    /// Its id.
    pub id: TransferId,
    /// `CODE/NAME`.
    pub agent: String,
    /// Of which entry.
    pub entry: EntryId,
    /// Under which list it was sent last.
    pub list: ListId,
    /// What kind of sink it has.
    pub sink: String,
    /// The version that was acknowledged last; 0 for none.
    pub version: u64,
    /// Of which slice.
    pub slice: String,
    /// When that version was committed, milliseconds since 1970 UTC.
    pub committed_at: i64,
    /// When it was durable at the sink.
    pub durable_at: i64,
    /// When the subscription was first asked for.
    pub since: i64,
}

/// A slice that is durable at its sink.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// The subscription.
    pub id: TransferId,
    /// Its kind of sink.
    pub sink: String,
    /// The list that it rests on.
    pub list: ListId,
    /// The entry.
    pub entry: EntryId,
    /// The version.
    pub version: u64,
    /// What the slice is.
    pub slice: Digest,
    /// When the version was committed.
    pub committed_at: i64,
    /// How its rows were meant.
    pub mode: SliceMode,
    /// Rows that were sent.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// Digest over the bytes.
    pub bytes_root: Digest,
    /// Digest over the rows.
    pub rows_digest: Digest,
}

impl Flow {
    /// What is remembered of a subscription; another agent's, or one of another entry, is nobody's to use.
    ///
    /// # Errors
    /// It is another agent's or of another entry; the agency has too many; the state's.
    pub async fn subscription(
        &self,
        peer: &Peer,
        id: TransferId,
        entry: EntryId,
    ) -> Result<Option<SubscriptionRow>, FlowError> {
        let Some(record) = self.state().get(Kind::Subscription, &id.to_string()).await? else {
            return Ok(None);
        };
        let row: SubscriptionRow = read(&record)?;
        if row.agent != peer.agent.to_string() {
            return Err(FlowError::NotFound { what: "subscription" });
        }
        if row.entry != entry {
            let what = format!("{id} is a subscription of another entry: start a new one");
            return Err(FlowError::Conflict { what });
        }
        Ok(Some(row))
    }

    /// Records that a subscription begins, with its leaf, before anything of it moves.
    ///
    /// # Errors
    /// The agency has too many subscriptions; the state's.
    pub async fn begin_subscription(
        &self,
        peer: &Peer,
        id: TransferId,
        permit: &FollowPermit,
    ) -> Result<(), FlowError> {
        let allowed = permit.allowed();
        let leaf = Entry::new(LeafKind::Permit, self.now()).what("follow").with(|leaf| {
            leaf.agency = Some(peer.agent.agency);
            leaf.agent = Some(peer.agent.clone());
            leaf.entry = Some(allowed.entry.id);
            leaf.transfer = Some(id);
            leaf.subject = Some(allowed.list.to_string());
        });
        let leaf = leaf.committing_to(permit.slice().to_string()).seal(self.entropy())?;
        let mut writes = Vec::new();
        if self.state().get(Kind::Subscription, &id.to_string()).await?.is_none() {
            let filter = Filter { agency: Some(peer.agent.agency.to_string()), ..Filter::default() };
            let known = self.state().list(Kind::Subscription, filter, None, SUBSCRIPTIONS_MAX as u32).await?;
            if known.len() >= SUBSCRIPTIONS_MAX {
                let what = format!("your agency has {SUBSCRIPTIONS_MAX} subscriptions, which is the most");
                return Err(FlowError::OverLimit { what });
            }
            let row = SubscriptionRow {
                id,
                agent: peer.agent.to_string(),
                entry: allowed.entry.id,
                list: allowed.list,
                sink: String::new(),
                version: 0,
                slice: permit.slice().to_string(),
                committed_at: 0,
                durable_at: 0,
                since: self.now().0,
            };
            writes.push(Write::Put(self.subscription_draft(&row, peer)?, Expect::Absent));
        }
        self.state().commit(Change { writes, leaves: vec![leaf], ..Change::default() }).await?;
        Ok(())
    }

    /// Records that a slice is durable at its sink: one record and one leaf, in a group with those of others. Gives the
    /// place of the leaf.
    ///
    /// # Errors
    /// The state's.
    pub async fn acknowledge(&self, peer: &Peer, of: &Acknowledged) -> Result<u64, FlowError> {
        let now = self.now();
        let before = self.subscription(peer, of.id, of.entry).await?;
        let row = SubscriptionRow {
            id: of.id,
            agent: peer.agent.to_string(),
            entry: of.entry,
            list: of.list,
            sink: of.sink.clone(),
            version: of.version,
            slice: of.slice.to_string(),
            committed_at: of.committed_at,
            durable_at: now.0,
            since: before.map_or(now.0, |row| row.since),
        };
        let payload = json!({
            "version": of.version, "slice": of.slice, "mode": of.mode.as_str(), "rows": of.rows, "bytes": of.bytes,
            "bytes_root": of.bytes_root, "rows_digest": of.rows_digest, "list": of.list,
        });
        let leaf = Entry::new(LeafKind::Delivery, now).what("backflow").with(|leaf| {
            leaf.agency = Some(peer.agent.agency);
            leaf.agent = Some(peer.agent.clone());
            leaf.entry = Some(of.entry);
            leaf.transfer = Some(of.id);
            leaf.count = Some(of.rows);
            leaf.bytes = Some(of.bytes);
        });
        let leaf = leaf.committing_to(payload.to_string()).seal(self.entropy())?;
        let writes = vec![Write::Put(self.subscription_draft(&row, peer)?, Expect::Any)];
        let committed = self.state().commit(Change { writes, leaves: vec![leaf], ..Change::default() }).await?;
        let took = u64::try_from(now.0.saturating_sub(of.committed_at)).unwrap_or(0);
        metrics::backflow_durable(Duration::from_millis(took));
        Ok(committed.first_index)
    }

    /// Forgets a subscription of this agent's, whose sink is no more: it is not late from here on.
    ///
    /// # Errors
    /// One that does not exist for it, or the state's.
    pub async fn forget_subscription(&self, peer: &Peer, id: TransferId) -> Result<(), FlowError> {
        let missing = || FlowError::NotFound { what: "transfer" };
        let record = self.state().get(Kind::Subscription, &id.to_string()).await?.ok_or_else(missing)?;
        let row: SubscriptionRow = read(&record)?;
        if row.agent != peer.agent.to_string() {
            return Err(missing());
        }
        // Whoever runs it stops first, so that it is not written again.
        let _claim = self.claim(id);
        let writes = vec![Write::Delete(Kind::Subscription, record.id, Expect::Any)];
        self.state().commit(Change { writes, ..Change::default() }).await?;
        Ok(())
    }

    fn subscription_draft(&self, row: &SubscriptionRow, peer: &Peer) -> Result<Draft, FlowError> {
        Ok(Draft {
            kind: Kind::Subscription,
            id: row.id.to_string(),
            agency: Some(peer.agent.agency.to_string()),
            parent: Some(row.entry.to_string()),
            body: serde_json::to_vec(row).map_err(|e| FlowError::Machine(e.to_string()))?,
            changed_at: self.now(),
        })
    }

    /// The subscriptions of the peer's own agency, or one of them: what was acknowledged last, and what is missing.
    ///
    /// # Errors
    /// One that does not exist for it, or the state's.
    pub async fn subscriptions(&self, peer: &Peer, id: &str, after: &str) -> Result<Records, FlowError> {
        let missing = || FlowError::NotFound { what: "subscription" };
        let own = Some(peer.agent.agency.to_string());
        if !id.is_empty() {
            let record = self.state().get(Kind::Subscription, id).await?.filter(|record| record.agency == own);
            let record = record.ok_or_else(missing)?;
            return Ok(Records { records: vec![self.subscription_view(&read(&record)?).await?], next: String::new() });
        }
        let filter = Filter { agency: own, ..Filter::default() };
        let found = self.state().list(Kind::Subscription, filter, (!after.is_empty()).then_some(after), PAGE).await?;
        let next = if found.len() == PAGE as usize { found.last().map(|r| r.id.clone()) } else { None };
        let mut records = Vec::with_capacity(found.len());
        for record in &found {
            records.push(self.subscription_view(&read(record)?).await?);
        }
        Ok(Records { records, next: next.unwrap_or_default() })
    }

    async fn subscription_view(&self, row: &SubscriptionRow) -> Result<WireRecord, FlowError> {
        let latest = self.latest(row.entry).await?.unwrap_or(0);
        let rfc = |ms: i64| (ms > 0).then(|| Timestamp(ms).to_rfc3339());
        let json = json!({
            "id": row.id,
            "agent": row.agent,
            "entry": row.entry,
            "list": row.list,
            "sink": row.sink,
            "version": row.version,
            "committed_at": rfc(row.committed_at),
            "durable_at": rfc(row.durable_at),
            "lag_ms": (row.version > 0).then(|| row.durable_at.saturating_sub(row.committed_at)),
            "latest": latest,
            "behind": latest.saturating_sub(row.version),
            "since": rfc(row.since),
        });
        Ok(WireRecord { id: row.id.to_string(), json: json.to_string().into_bytes().into() })
    }
}
