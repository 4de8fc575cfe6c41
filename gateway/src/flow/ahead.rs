//! What is read ahead of those who receive: how much at a time and on how many streams, so that memory stays what it is
//! however many they are and however slowly they read.

use super::error::FlowError;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// What pieces that wait for their readers take together, about.
const BYTES: usize = 32 << 20;

/// Bytes of a piece where few are served: a chunk of a file is read, checked and sent at once.
const PIECE_BYTES_MAX: usize = 1 << 20;

/// The same where very many are.
const PIECE_BYTES_MIN: usize = 16 << 10;

/// Streams that are served before another transfer gets one only: by then each has all processors busy.
const STREAMS_OF_MANY: usize = 64;

/// Pieces that are read and made from rows at a time. What thousands are woken for at once is done some after the others,
/// and what else there is to do comes in between; a store that answers slowly is asked for several.
const MADE_AT_ONCE: usize = 16;

/// Slices that are sent at a time where thousands are woken at once: each holds a stream, a piece and what is not
/// acknowledged yet. More would not be faster, and the last would have theirs no earlier.
const SENT_AT_ONCE: usize = 128;

/// Who takes longer than this goes on beside the others: a slow reader keeps nobody waiting.
const PLACE_KEPT: Duration = Duration::from_millis(250);

/// How many are served now.
#[derive(Debug)]
pub(super) struct Ahead {
    streams: AtomicUsize,
    making: Semaphore,
    sending: Semaphore,
}

/// A stream that is served, until it is dropped.
#[derive(Debug)]
pub(super) struct Served(Arc<Ahead>);

impl Default for Ahead {
    fn default() -> Self {
        Self {
            streams: AtomicUsize::new(0),
            making: Semaphore::new(MADE_AT_ONCE),
            sending: Semaphore::new(SENT_AT_ONCE),
        }
    }
}

impl Ahead {
    /// One stream more.
    pub(super) fn serve(self: &Arc<Self>) -> Served {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Served(Arc::clone(self))
    }

    /// Streams that a transfer gets, which could use so many.
    pub(super) fn streams(&self, useful: usize) -> usize {
        if self.streams.load(Ordering::Relaxed) < STREAMS_OF_MANY { useful } else { useful.min(1) }
    }

    /// Bytes of a piece, where at least so many may ask for one.
    pub(super) fn piece_bytes(&self, standing: usize) -> usize {
        let streams = self.streams.load(Ordering::Relaxed).max(standing);
        (BYTES / streams.max(1)).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX)
    }

    /// Sends a slice when its turn comes, and holds nobody up for long.
    pub(super) async fn in_turn<T>(&self, sending: impl Future<Output = Result<T, FlowError>>) -> Result<T, FlowError> {
        let place = self.sending.acquire().await.map_err(|e| FlowError::Machine(e.to_string()))?;
        tokio::pin!(sending);
        if let Ok(sent) = tokio::time::timeout(PLACE_KEPT, &mut sending).await {
            return sent;
        }
        drop(place);
        sending.await
    }

    /// Leave to make a piece from rows. It is not held while a reader is waited for.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, FlowError> {
        self.making.acquire().await.map_err(|e| FlowError::Machine(e.to_string()))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_are_served_the_less_each_holds() {
        let ahead = Arc::new(Ahead::default());
        assert_eq!((ahead.streams(4), ahead.piece_bytes(0)), (4, PIECE_BYTES_MAX));
        let mut served = Vec::new();
        while served.len() < 10_000 {
            served.push(ahead.serve());
            let held = served.len() * ahead.piece_bytes(0);
            assert!(held <= BYTES.max(served.len() * PIECE_BYTES_MIN), "{}", served.len());
        }
        assert_eq!((ahead.streams(4), ahead.streams(0), ahead.piece_bytes(0)), (1, 0, PIECE_BYTES_MIN));
        served.truncate(2);
        assert_eq!((ahead.streams(4), ahead.piece_bytes(0)), (4, PIECE_BYTES_MAX));
        assert_eq!(ahead.piece_bytes(1_024), 32 << 10, "those who stand may all be woken at once");
    }

    #[tokio::test]
    async fn slow_readers_keep_nobody_waiting() {
        let ahead = Arc::new(Ahead::default());
        let mut slow = tokio::task::JoinSet::new();
        for _ in 0..SENT_AT_ONCE {
            let ahead = Arc::clone(&ahead);
            slow.spawn(async move { ahead.in_turn(std::future::pending::<Result<(), FlowError>>()).await });
        }
        while ahead.sending.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        // All places are taken, by those who never end, and it is sent all the same.
        let sent = ahead.in_turn(async { Ok(7) }).await;
        assert!(sent.is_ok_and(|sent| sent == 7));
        assert_eq!(slow.len(), SENT_AT_ONCE, "they go on");
    }
}
