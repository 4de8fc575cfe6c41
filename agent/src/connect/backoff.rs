//! Trying again: a bounded number of times, with waits that grow and are never in step with other agents'.

use crate::error::{AgentError, Party, Told};
use lingqu_protocol::host::Entropy;
use std::time::Duration;

/// How often and how patiently something is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Tries in all, at least one.
    pub tries_max: u32,
    /// The longest wait before the second try; it doubles from try to try.
    pub first: Duration,
    /// No wait is longer.
    pub most: Duration,
}

impl Backoff {
    /// For a command that somebody waits for: a restarting gateway is met again, and a wrong address is reported within
    /// about half a minute, most of it spent waiting for handshakes.
    pub const COMMAND: Self = Self { tries_max: 4, first: Duration::from_millis(500), most: Duration::from_secs(5) };

    /// One try: to look at what is there.
    pub const ONCE: Self = Self { tries_max: 1, first: Duration::ZERO, most: Duration::ZERO };

    /// The wait after `tries` tries, none after the last. Between half and all of the step, by `dice`.
    pub fn wait(&self, tries: u32, dice: u32) -> Option<Duration> {
        if tries >= self.tries_max {
            return None;
        }
        let doublings = tries.saturating_sub(1).min(31);
        let step = self.first.saturating_mul(1 << doublings).min(self.most);
        Some(step / 2 + (step / 2).mul_f64(f64::from(dice) / f64::from(u32::MAX)))
    }
}

/// Runs `attempt` until it succeeds, fails for good, or was tried often enough.
///
/// # Errors
/// The first error that will not pass; the last one where the tries are used up, a lost connection as
/// [`AgentError::Unreachable`].
pub async fn with_retries<T>(
    backoff: Backoff,
    entropy: &dyn Entropy,
    mut attempt: impl AsyncFnMut() -> Result<T, AgentError>,
) -> Result<T, AgentError> {
    let mut tries = 0;
    loop {
        let error = match attempt().await {
            Err(error) if error.is_transient() => error,
            done => return done,
        };
        tries += 1;
        let mut dice = [0; 4];
        entropy.fill(&mut dice).map_err(|e| AgentError::entropy(&e))?;
        match backoff.wait(tries, u32::from_le_bytes(dice)) {
            Some(wait) => {
                tracing::info!(tries, wait_ms = wait.as_millis() as u64, %error, "trying again");
                tokio::time::sleep(wait).await;
            }
            None => return Err(given_up(error, tries)),
        }
    }
}

fn given_up(error: AgentError, tries: u32) -> AgentError {
    if error.party() != Party::Network {
        return error;
    }
    let told = error.told();
    let (en, zh) = (told.what.en, told.what.zh);
    AgentError::Unreachable(
        Told::new("unreachable", format!("{en} (tries: {tries})"), format!("{zh}（已尝试 {tries} 次）")).next(
            "see that the address is right, the gateway serves there, and the firewall lets UDP to it and back; once joined, \
             `lingqu doctor` says what to ask for",
            "请确认地址正确、网关正在该地址提供服务、防火墙放行往返 UDP；接入后可用 `lingqu doctor` 列出需放行的内容",
        ),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use lingqu_protocol::close::CloseCode;
    use lingqu_protocol::stream::StreamError;

    struct Dice;
    impl Entropy for Dice {
        fn fill(&self, buf: &mut [u8]) -> std::io::Result<()> {
            buf.fill(0);
            Ok(())
        }
    }

    const QUICK: Backoff = Backoff { tries_max: 3, first: Duration::ZERO, most: Duration::ZERO };

    fn run(errors: Vec<AgentError>) -> (Result<u32, AgentError>, u32) {
        let mut errors = errors.into_iter();
        let mut calls = 0;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let got = runtime.block_on(with_retries(QUICK, &Dice, async || {
            calls += 1;
            errors.next().map_or(Ok(7), Err)
        }));
        (got, calls)
    }

    fn lost() -> AgentError {
        StreamError::Lost("no route".into()).into()
    }

    #[test]
    fn waits_grow_are_bounded_and_end() {
        let backoff = Backoff { tries_max: 5, first: Duration::from_secs(1), most: Duration::from_secs(3) };
        let waits = |dice| (1..=5).map(|tries| backoff.wait(tries, dice)).collect::<Vec<_>>();
        let seconds = |s: &[f64]| s.iter().map(|s| Some(Duration::from_secs_f64(*s))).chain([None]).collect::<Vec<_>>();
        assert_eq!(waits(u32::MAX), seconds(&[1.0, 2.0, 3.0, 3.0]));
        assert_eq!(waits(0), seconds(&[0.5, 1.0, 1.5, 1.5]));
        assert_eq!(Backoff::ONCE.wait(1, 0), None);
        assert!(Backoff { tries_max: u32::MAX, ..backoff }.wait(u32::MAX - 1, 9).is_some());
    }

    #[test]
    fn what_may_pass_is_tried_until_it_does() {
        assert_eq!(run(vec![lost(), lost()]), (Ok(7), 3));
    }

    #[test]
    fn a_gateway_that_stays_away_is_unreachable() {
        let (got, calls) = run(vec![lost(), lost(), lost()]);
        let error = got.unwrap_err();
        assert_eq!((error.exit_code(), calls), (6, 3));
        assert!(error.to_string().contains("no route") && error.to_string().contains("doctor"), "{error}");
    }

    #[test]
    fn what_will_not_pass_is_said_at_once() {
        let denied = AgentError::from(StreamError::Closed(CloseCode::Suspended));
        assert_eq!(run(vec![denied.clone()]), (Err(denied), 1));
    }

    #[test]
    fn a_draining_gateway_keeps_its_own_words() {
        let draining = AgentError::from(StreamError::Closed(CloseCode::Draining));
        assert_eq!(run(vec![draining.clone(); 3]), (Err(draining), 3));
    }
}
