//! Once an hour: versions that need not be kept are let go, and what they and transfers left that nobody comes back for is
//! removed from the lake.

use crate::flow::retention::Retention;
use crate::flow::{Flow, FlowError};
use crate::lake::sweep::Sweeper;
use lingqu_protocol::host::Clock;
use std::sync::Arc;
use std::time::Duration;

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(3600);

/// How long objects without an owner are left: longer than any transfer takes between its first object and its record,
/// were their order ever wrong.
const ORPHAN_AGE: Duration = Duration::from_secs(24 * 3600);

/// Cleans up, for ever.
pub(super) async fn run(flow: Arc<Flow>, retention: Retention, clock: Arc<dyn Clock>) {
    let mut sweeper = Sweeper::new(flow.lake().clone(), ORPHAN_AGE);
    let mut tick = tokio::time::interval(EVERY);
    loop {
        tick.tick().await;
        if let Err(error) = round(&flow, retention, &mut sweeper, clock.as_ref()).await {
            tracing::error!(%error, "orphans could not be looked for; the next round goes on");
        }
    }
}

async fn round(flow: &Flow, retention: Retention, sweeper: &mut Sweeper, clock: &dyn Clock) -> Result<(), FlowError> {
    let retired = flow.retire(retention).await?;
    if retired > 0 {
        tracing::info!(versions = retired, "let versions go that need not be kept");
    }
    let live = flow.transfers_with_data().await?;
    let removed = sweeper.sweep(clock.monotonic(), |transfer| live.contains(&transfer)).await?;
    if !removed.is_empty() {
        tracing::info!(transfers = removed.len(), "removed what was left of transfers");
    }
    Ok(())
}
