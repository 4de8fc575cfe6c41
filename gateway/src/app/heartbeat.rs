//! The gateway's own pulse: once a second it looks whether policy, ledger and clock are in order and keeps the gate open
//! for a few seconds more; a thread outside the runtime cuts what outlives its permission even where the runtime stalls.

use crate::flow::Flow;
use crate::gate::health::ClockCheck;
use crate::gate::{ClosedWhy, Gate, Now};
use crate::ledger;
use crate::metrics;
use crate::state::{Change, Draft, Expect, Kind, State};
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

/// Between two writes that show that the ledger takes records. With the time that a write may take
/// ([`OPEN_FOR`]), a disk that takes none closes the gate within seven seconds.
const WRITE_EVERY: Duration = Duration::from_secs(2);

/// Where those writes go.
const WRITTEN_ID: &str = "pulse";

/// Looks once a second, for ever.
pub(super) async fn run(gate: Arc<Gate>, flow: Arc<Flow>, clock: Arc<dyn Clock>) {
    let mut pulse = Pulse::new(clock.as_ref());
    let mut tick = tokio::time::interval(PULSE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let began = clock.monotonic();
        let closed = pulse.beat(&gate, flow.state(), clock.as_ref(), OPEN_FOR).await;
        if let Err(error) = flow.flush_denials(false).await {
            tracing::error!(%error, "refusals could not be recorded; they are kept, and tried again");
        }
        let size = flow.state().head().await.map_or(0, |head| head.size);
        let took = clock.monotonic().saturating_sub(began);
        metrics::health(closed.is_none(), gate.running(), size, gate.snapshot().counts(), took);
        let why = gate.closed();
        metrics::gate_closed(ClosedWhy::ALL.into_iter().map(|reason| (reason.word(), why == Some(reason))));
    }
}

/// What a look remembers for the next.
struct Pulse {
    check: ClockCheck,
    was_closed: Option<ClosedWhy>,
    wrote_at: Option<Duration>,
}

impl Pulse {
    fn new(clock: &dyn Clock) -> Self {
        Self { check: ClockCheck::new(now(clock)), was_closed: None, wrote_at: None }
    }

    /// Looks once, and opens the gate for a while or closes it: what runs is cut then.
    async fn beat(&mut self, gate: &Gate, state: &dyn State, clock: &dyn Clock, wait: Duration) -> Option<ClosedWhy> {
        let closed = self.look(state, clock, wait).await;
        match closed {
            None => gate.refresh(OPEN_FOR),
            Some(why) => gate.close(why),
        }
        if closed != self.was_closed {
            match closed {
                Some(why) => tracing::error!(why = why.word(), next = why.means().0, "the gate is closed"),
                None => tracing::info!("the gate is open again"),
            }
            self.was_closed = closed;
        }
        closed
    }

    async fn look(&mut self, state: &dyn State, clock: &dyn Clock, wait: Duration) -> Option<ClosedWhy> {
        let last = match tokio::time::timeout(wait, ledger::last_at(state)).await {
            Ok(Ok(last)) => last,
            Ok(Err(error)) => {
                tracing::error!(%error, "the ledger cannot be read");
                return Some(ClosedWhy::LedgerFailed);
            }
            Err(_) => return Some(ClosedWhy::Stale),
        };
        if !self.check.is_sure(now(clock), last) {
            return Some(ClosedWhy::ClockUnsure);
        }
        let due = self.wrote_at.is_none_or(|at| clock.monotonic().saturating_sub(at) >= WRITE_EVERY);
        if !due {
            return None;
        }
        // Until a write goes well every look tries one.
        self.wrote_at = None;
        match tokio::time::timeout(wait, state.commit(Change::put(written(clock), Expect::Any))).await {
            Ok(Ok(_)) => {
                self.wrote_at = Some(clock.monotonic());
                None
            }
            Ok(Err(error)) => {
                // Said once: every look tries again.
                if self.was_closed != Some(ClosedWhy::LedgerFailed) {
                    tracing::error!(%error, "the ledger does not take records");
                }
                Some(ClosedWhy::LedgerFailed)
            }
            Err(_) => Some(ClosedWhy::Stale),
        }
    }
}

/// What shows that records are taken: nothing but the time.
fn written(clock: &dyn Clock) -> Draft {
    let at = clock.wall();
    let body = format!("{{\"at\":{}}}", at.0).into_bytes();
    Draft { kind: Kind::Setting, id: WRITTEN_ID.to_owned(), agency: None, parent: None, body, changed_at: at }
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
