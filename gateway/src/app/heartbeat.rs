//! The gateway's own pulse: once a second it looks whether policy, ledger and clock are in order and keeps the gate open
//! for a few seconds more; a thread outside the runtime cuts what outlives its permission even where the runtime stalls.

use crate::flow::{Flow, FlowError};
use crate::gate::health::ClockCheck;
use crate::gate::{ClosedWhy, Gate, Now};
use crate::metrics;
use crate::state::Change;
use lingqu_protocol::host::Clock;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Between two looks.
const PULSE: Duration = Duration::from_secs(1);

/// How long a look keeps the gate open: some looks may be late on a busy machine, and not more than this passes under a
/// policy that nobody could read.
const OPEN_FOR: Duration = Duration::from_secs(5);

/// Between two rounds of the watchdog: the end of a period is kept to this.
const WATCH: Duration = Duration::from_millis(20);

/// Looks once a second, for ever.
pub(super) async fn run(gate: Arc<Gate>, flow: Arc<Flow>, clock: Arc<dyn Clock>) {
    let mut check = ClockCheck::new(now(clock.as_ref()));
    let mut tick = tokio::time::interval(PULSE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut was_closed = None;
    loop {
        tick.tick().await;
        let began = clock.monotonic();
        let closed = look(&flow, &mut check, clock.as_ref()).await;
        match closed {
            None => gate.refresh(OPEN_FOR),
            Some(why) => gate.close(why),
        }
        if closed != was_closed {
            match closed {
                Some(why) => tracing::error!(why = why.word(), "the gate is closed"),
                None => tracing::info!("the gate is open again"),
            }
            was_closed = closed;
        }
        if let Err(error) = flush_denials(&flow).await {
            tracing::error!(%error, "refusals could not be recorded; they are kept for the next minute");
        }
        let size = flow.state().head().await.map_or(0, |head| head.size);
        let took = clock.monotonic().saturating_sub(began);
        metrics::health(closed.is_none(), gate.running(), size, gate.snapshot().counts(), took);
    }
}

async fn look(flow: &Flow, check: &mut ClockCheck, clock: &dyn Clock) -> Option<ClosedWhy> {
    match tokio::time::timeout(OPEN_FOR, flow.ledger().last_at()).await {
        Ok(Ok(last)) => (!check.is_sure(now(clock), last)).then_some(ClosedWhy::ClockUnsure),
        Ok(Err(error)) => {
            tracing::error!(%error, "the ledger cannot be read");
            Some(ClosedWhy::LedgerFailed)
        }
        Err(_) => Some(ClosedWhy::Stale),
    }
}

async fn flush_denials(flow: &Flow) -> Result<(), FlowError> {
    let leaves = flow.due_denials()?;
    if !leaves.is_empty() {
        flow.state().commit(Change { leaves, ..Change::default() }).await?;
    }
    Ok(())
}

fn now(clock: &dyn Clock) -> Now {
    Now { wall: clock.wall(), monotonic: clock.monotonic() }
}

/// Starts the watchdog; it ends with the gate.
///
/// # Errors
/// The system gives no thread.
pub(super) fn watchdog(gate: &Arc<Gate>) -> std::io::Result<()> {
    let gate: Weak<Gate> = Arc::downgrade(gate);
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        while let Some(gate) = gate.upgrade() {
            gate.watch();
            drop(gate);
            std::thread::sleep(WATCH);
        }
    })?;
    Ok(())
}
