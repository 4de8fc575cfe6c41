//! Refusals in the ledger: the first of its kind in a minute at once, the rest as one count.

use super::Flow;
use super::error::FlowError;
use crate::gate::Peer;
use crate::ledger::{Denials, Summary};
use crate::state::Change;
use std::sync::PoisonError;

impl Flow {
    /// Counts a refusal: the first of its kind in a minute has its leaf at once, the rest are one count.
    pub async fn note_refusal(&self, peer: &Peer, error: &FlowError) {
        let FlowError::Denied(denied) = error else { return };
        let first = self.denials().denied(self.now(), &peer.agent, denied.word());
        let Some(first) = first else { return };
        if let Err(error) = self.write_denials(vec![first]).await {
            tracing::error!(%error, "a refusal could not be recorded yet; it is kept");
        }
    }

    /// Counts a peer that was refused before it was known who it is.
    pub fn note_stranger(&self) {
        self.denials().unauthenticated(self.now());
    }

    /// Writes what is due about refusals; with `all`, what the running minute has so far as well, for the gateway ends.
    ///
    /// # Errors
    /// The state's, or the system has no randomness: all of it is kept and is due again.
    pub async fn flush_denials(&self, all: bool) -> Result<(), FlowError> {
        let due = match all {
            true => self.denials().take_all(self.now()),
            false => self.denials().take_due(self.now()),
        };
        self.write_denials(due).await
    }

    async fn write_denials(&self, summaries: Vec<Summary>) -> Result<(), FlowError> {
        if summaries.is_empty() {
            return Ok(());
        }
        let written = async {
            let leaves = summaries.iter().map(|summary| Ok(summary.entry().seal(self.entropy())?));
            let leaves = leaves.collect::<Result<Vec<_>, FlowError>>()?;
            self.state().commit(Change { leaves, ..Change::default() }).await?;
            Ok::<(), FlowError>(())
        };
        let written = written.await;
        if written.is_err() {
            self.denials().put_back(summaries);
        }
        written
    }

    fn denials(&self) -> std::sync::MutexGuard<'_, Denials> {
        self.denials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
