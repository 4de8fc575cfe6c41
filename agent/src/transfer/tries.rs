//! Trying again: a lost connection is no reason to wake anybody, as long as something moves between two losses.

use crate::error::AgentError;
use std::time::Duration;

/// How often and how fast a transfer is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Failures in a row, without a byte moving between them, that end it.
    pub failures_max: u32,
    /// The first pause; each further one is twice as long.
    pub pause_first: Duration,
    /// The longest pause.
    pub pause_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        // About a minute and a half in all: a gateway that restarts, a router that changes over.
        Self { failures_max: 12, pause_first: Duration::from_millis(200), pause_max: Duration::from_secs(10) }
    }
}

/// The failures of one transfer so far.
#[derive(Debug)]
pub struct Tries {
    patience: Patience,
    failures: u32,
    progress: u64,
}

impl Tries {
    /// None yet.
    pub const fn new(patience: Patience) -> Self {
        Self { patience, failures: 0, progress: 0 }
    }

    /// Says what failed and how far the transfer is, and waits until the next try.
    ///
    /// # Errors
    /// Returns `error` where trying again cannot help, or has not helped often enough.
    pub async fn again(&mut self, error: AgentError, progress: u64) -> Result<(), AgentError> {
        if !error.is_transient() {
            return Err(error);
        }
        if progress > self.progress {
            self.progress = progress;
            self.failures = 0;
        }
        if self.failures >= self.patience.failures_max {
            return Err(error);
        }
        let pause = self.patience.pause_first.saturating_mul(1 << self.failures.min(16)).min(self.patience.pause_max);
        self.failures += 1;
        tracing::warn!(%error, failures = self.failures, pause_ms = pause.as_millis() as u64, "trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use lingqu_protocol::close::CloseCode;
    use lingqu_protocol::stream::StreamError;

    fn patience() -> Patience {
        Patience { failures_max: 2, pause_first: Duration::ZERO, pause_max: Duration::ZERO }
    }

    #[tokio::test]
    async fn progress_starts_the_count_again_and_its_lack_ends_it() {
        let lost = || AgentError::from(StreamError::Lost("x".into()));
        let mut tries = Tries::new(patience());
        for progress in 1..20 {
            tries.again(lost(), progress).await.unwrap();
        }
        tries.again(lost(), 19).await.unwrap();
        assert_eq!(tries.again(lost(), 19).await.unwrap_err(), lost());
    }

    #[tokio::test]
    async fn what_cannot_pass_is_not_tried_again() {
        let mut tries = Tries::new(patience());
        let suspended = AgentError::from(StreamError::Reset(CloseCode::Suspended));
        assert_eq!(tries.again(suspended.clone(), 5).await.unwrap_err(), suspended);
    }
}
