//! What passes, counted against the grant's volume before it is sent. Reservations are durable: after a crash a grant has
//! used at least what left, never less.

use super::Flow;
use super::error::FlowError;
use super::record::volume_id;
use crate::gate::volume::Volume;
use crate::gate::{Denied, PullPermit};
use crate::state::{Change, Draft, Expect, Kind};
use lingqu_protocol::ids::GrantId;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Bytes reserved at a time where a flow's size is not known before: one durable record per block is nothing beside the
/// block, and a crash costs the grant no more than this.
const BLOCK_BYTES: u64 = 64 << 20;

/// Counts one flow against its grant.
pub struct Meter {
    flow: Arc<Flow>,
    grant: GrantId,
    bytes_max: Option<u64>,
    volume: Arc<Volume>,
    left: Mutex<u64>,
}

impl Meter {
    /// For a permitted pull.
    pub fn new(flow: Arc<Flow>, permit: &PullPermit) -> Self {
        let grant = permit.grant();
        Self {
            flow,
            grant: grant.id,
            bytes_max: grant.scope.volume_bytes_max,
            volume: Arc::clone(permit.volume()),
            left: Mutex::new(0),
        }
    }

    /// Counts bytes that are about to be sent.
    ///
    /// # Errors
    /// The grant has no more, or the reservation cannot be made durable.
    pub async fn take(&self, bytes: u64) -> Result<(), FlowError> {
        let Some(bytes_max) = self.bytes_max else { return Ok(()) };
        let mut left = self.left.lock().await;
        if *left < bytes {
            let wanted = bytes.saturating_sub(*left).max(BLOCK_BYTES);
            *left += self.volume.reserve(wanted);
            self.remember().await?;
        }
        match left.checked_sub(bytes) {
            Some(rest) => {
                *left = rest;
                Ok(())
            }
            None => Err(Denied::Volume { bytes_max }.into()),
        }
    }

    /// Gives back what was reserved and not sent, durably.
    ///
    /// # Errors
    /// The state's; the grant then counts as having used more than it did.
    pub async fn close(&self) -> Result<(), FlowError> {
        let rest = std::mem::take(&mut *self.left.lock().await);
        if rest > 0 {
            self.volume.release(rest);
            self.remember().await?;
        }
        Ok(())
    }

    async fn remember(&self) -> Result<(), FlowError> {
        let draft = Draft {
            kind: Kind::Setting,
            id: volume_id(self.grant),
            agency: None,
            parent: Some("volume".to_owned()),
            body: format!("{{\"used_bytes\":{}}}", self.volume.used_bytes()).into_bytes(),
            changed_at: self.flow.now(),
        };
        self.flow.state().commit(Change::put(draft, Expect::Any)).await?;
        Ok(())
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // A flow that was cut or lost: what it had reserved is free again in memory, and durably with the next record.
        self.volume.release(std::mem::take(self.left.get_mut()));
    }
}
