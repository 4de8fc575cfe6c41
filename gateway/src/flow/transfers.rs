//! An agent's own transfers: what it sees of them, and giving one up.

use super::Flow;
use super::commit::read;
use super::error::FlowError;
use super::record::{TransferRow, TransferStatus};
use crate::gate::Peer;
use crate::state::{Change, Expect, Filter, Kind, Write};
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::wire::{Record as WireRecord, Records};
use std::collections::HashSet;

/// A transfer that was begun this long ago and never ended is not resumed any more: its agent kept its outbox for a month.
const RESUME_MS_MAX: i64 = 30 * 24 * 3600 * 1000;

/// Transfers in one answer.
const PAGE: u32 = 200;

impl Flow {
    /// The agent's own transfers.
    ///
    /// # Errors
    /// One that does not exist for it, or the state's.
    pub async fn transfers(&self, peer: &Peer, id: &str, after: &str) -> Result<Records, FlowError> {
        let own = |record: &crate::state::Record| read::<TransferRow>(record).map(|row| row.is_of(&peer.agent));
        let wire = |record: crate::state::Record| WireRecord { id: record.id, json: record.body.into() };
        if !id.is_empty() {
            let record = self.state().get(Kind::Transfer, id).await?;
            let record = record.ok_or(FlowError::NotFound { what: "transfer" })?;
            if !own(&record)? {
                return Err(FlowError::NotFound { what: "transfer" });
            }
            return Ok(Records { records: vec![wire(record)], next: String::new() });
        }
        let filter = Filter { parent: Some(peer.agent.to_string()), ..Filter::default() };
        let after = (!after.is_empty()).then_some(after);
        let found = self.state().list(Kind::Transfer, filter, after, PAGE).await?;
        let next = if found.len() == PAGE as usize { found.last().map(|r| r.id.clone()) } else { None };
        Ok(Records { records: found.into_iter().map(wire).collect(), next: next.unwrap_or_default() })
    }

    /// Transfers whose objects are needed: those of versions that are kept, and such as may still be resumed.
    ///
    /// # Errors
    /// The state's or the lake's.
    pub async fn transfers_with_data(&self) -> Result<HashSet<TransferId>, FlowError> {
        // Transfers that may be resumed first: one that is committed in between is then among the versions.
        let mut live = HashSet::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.state().list(Kind::Transfer, Filter::default(), after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            for row in page.iter().map(read::<TransferRow>) {
                let row = row?;
                let given_up = self.now().0.saturating_sub(row.opened_at) > RESUME_MS_MAX;
                if row.status == TransferStatus::Open && !given_up {
                    live.insert(row.id);
                }
            }
        }
        live.extend(self.transfers_of_versions().await?);
        Ok(live)
    }

    /// Gives up an open transfer of this agent's: its id is spent, and what was durable of it goes.
    ///
    /// # Errors
    /// One that does not exist for it, one that is committed, or the state's.
    pub async fn cancel(&self, peer: &Peer, id: &str) -> Result<(), FlowError> {
        let missing = || FlowError::NotFound { what: "transfer" };
        let transfer: TransferId = id.parse().map_err(|_| missing())?;
        let Some(record) = self.state().get(Kind::Transfer, id).await? else {
            return self.forget_subscription(peer, transfer).await;
        };
        let row: TransferRow = read(&record)?;
        if !row.is_of(&peer.agent) {
            return Err(missing());
        }
        match row.status {
            TransferStatus::Cancelled => return Ok(()),
            TransferStatus::Committed => {
                return Err(FlowError::Conflict { what: "the transfer is committed: it cannot be taken back".into() });
            }
            TransferStatus::Open => {}
        }
        // Whoever runs it stops before its objects go.
        let _claim = self.claim(transfer);
        let row = TransferRow { status: TransferStatus::Cancelled, ended_at: Some(self.now().0), ..row };
        let write = Write::Put(self.draft(&row, peer)?, Expect::Revision(record.revision));
        self.state().commit(Change { writes: vec![write], ..Change::default() }).await?;
        self.segments().remove(transfer).await?;
        self.lake().remove_all(&crate::lake::writer::directory(transfer)).await?;
        Ok(())
    }
}
