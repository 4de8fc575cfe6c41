//! What passes, counted against what may be used up under the permission before it is sent, and held to its rate.
//! Reservations are durable: after a crash a permission has used at least what left, never less.

use super::Flow;
use super::error::FlowError;
use super::record::used_draft;
use crate::gate::{Denied, Limits, PullPermit, Quota, Under};
use crate::state::{Change, Expect};
use lingqu_protocol::scope::day_of;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Counts one flow against its permission.
pub struct Meter {
    flow: Arc<Flow>,
    under: Under,
    quota: Arc<Quota>,
    /// As they were when the flow was permitted: where they are amended, it is cut.
    limits: Limits,
    left: Mutex<u64>,
}

impl Meter {
    /// For a permitted pull.
    pub fn new(flow: Arc<Flow>, permit: &PullPermit) -> Self {
        let quota = Arc::clone(permit.quota());
        let limits = quota.limits();
        Self { flow, under: permit.under(), quota, limits, left: Mutex::new(0) }
    }

    /// Sees to it that all of a flow can be counted, before any of it is sent.
    ///
    /// # Errors
    /// There is not as much, or the reservation cannot be made durable.
    pub async fn reserve(&self, bytes: u64) -> Result<(), FlowError> {
        self.fill(&mut *self.left.lock().await, bytes).await
    }

    /// Sees to it that `left` holds `bytes`.
    async fn fill(&self, left: &mut u64, bytes: u64) -> Result<(), FlowError> {
        let Some(bytes_max) = self.limits.volume_bytes_max else { return Ok(()) };
        if *left < bytes {
            *left += self.quota.reserve(bytes.saturating_sub(*left));
            remember(&self.flow, self.under, &self.quota).await?;
        }
        if *left < bytes { Err(Denied::Volume { bytes_max }.into()) } else { Ok(()) }
    }

    /// Counts bytes that are about to be sent.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub async fn take(&self, bytes: u64) -> Result<(), FlowError> {
        if self.limits.volume_bytes_max.is_none() {
            return Ok(());
        }
        let mut left = self.left.lock().await;
        self.fill(&mut left, bytes).await?;
        *left = left.saturating_sub(bytes);
        Ok(())
    }

    /// Waits until bytes that are about to be sent may pass at the approved rate. Where none was approved, nothing is done.
    pub async fn pace(&self, bytes: u64) {
        if self.limits.rate_bytes_per_second_max.is_none() {
            return;
        }
        let wait = self.quota.pace(bytes, self.flow.monotonic());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Bytes that one piece should have at most, of `aim`: what passes in a second, so that a slow flow is never silent for
    /// as long as its receiver would take for a lost connection.
    pub fn piece_bytes(&self, aim: usize) -> usize {
        let rate = self.limits.rate_bytes_per_second_max;
        rate.map_or(aim, |rate| aim.min(usize::try_from(rate).unwrap_or(usize::MAX)))
    }

    /// Gives back what was reserved and not sent, durably.
    ///
    /// # Errors
    /// The state's; the permission then counts as having used more than it did.
    pub async fn close(&self) -> Result<(), FlowError> {
        let rest = std::mem::take(&mut *self.left.lock().await);
        if rest > 0 {
            self.quota.release(rest);
            remember(&self.flow, self.under, &self.quota).await?;
        }
        Ok(())
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // A flow that was cut or lost: what it had reserved is free again in memory, and durably with the next record.
        self.quota.release(std::mem::take(self.left.get_mut()));
    }
}

/// Counts a request that the gate allowed, durably, before it is answered.
///
/// # Errors
/// The day has no more, or the count cannot be made durable.
pub async fn count_request(flow: &Flow, permit: &PullPermit) -> Result<(), FlowError> {
    let quota = permit.quota();
    let Some(per_day_max) = quota.limits().requests_per_day_max else { return Ok(()) };
    if !quota.count_request(day_of(flow.now())) {
        return Err(Denied::Requests { per_day_max }.into());
    }
    remember(flow, permit.under(), quota).await
}

/// Makes an account durable. One at a time for each: what is read last is written last.
async fn remember(flow: &Flow, under: Under, quota: &Quota) -> Result<(), FlowError> {
    let _recording = quota.recording().await;
    let draft = used_draft(under, quota.used(), flow.now());
    flow.state().commit(Change::put(draft, Expect::Any)).await?;
    Ok(())
}
