//! One budget for bytes in flight. A connection that moves nothing has room for control messages; those that move data
//! share the rest, and each gets less the more there are, so that memory stays what it is whoever comes.

use lingqu_protocol::stream::Channel;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Bytes in flight towards the gateway over all transfers, and as many kept for sending again: with the segments in
/// memory they make three quarters of the gateway's 128 MiB.
const BUDGET_BYTES: u32 = 32 << 20;

/// What one transfer can use: a gigabit a second over 100 ms. With the segments that are being put together it bounds what
/// is sent again when a side dies.
const SHARE_BYTES_MAX: u32 = 12 << 20;

/// What every transfer gets: some datagrams, so that it goes on, however many there are.
const SHARE_BYTES_MIN: u32 = 32 << 10;

/// Steps of a share within a doubling, as a power of two: at most an eighth of the budget is nobody's.
const STEPS_BITS: u32 = 3;

/// What a connection has that moves nothing.
pub const IDLE_BYTES: u32 = 64 << 10;

/// A connection keeps its share for so long after its last transfer. Taken back at once, resets that come twice would close
/// it (`certs::quic::QuicRecv` says why), and with a cut they come: from every stream of a push, over a line that is full.
/// Agents hear of a cut, and reset, within two seconds with 1,000 transfers on two cores.
const SHARE_KEPT: Duration = Duration::from_secs(5);

/// The connections that move data now.
#[derive(Default)]
pub struct Windows(Mutex<HashMap<u64, Active>>);

struct Active {
    transfers: usize,
    /// How often the last of its transfers has ended: whether another began meanwhile.
    ended: u64,
    /// What it was given last; none before it was given anything.
    share: Option<u32>,
    resize: Box<dyn Fn(u32) + Send>,
}

impl Active {
    fn new(resize: impl Fn(u32) + Send + 'static) -> Self {
        Self { transfers: 0, ended: 0, share: None, resize: Box::new(resize) }
    }

    fn give(&mut self, share: u32) {
        if self.share != Some(share) {
            self.share = Some(share);
            (self.resize)(share);
        }
    }
}

/// A transfer's share; dropped, the others have more after a while.
pub struct Share {
    windows: Arc<Windows>,
    connection: u64,
}

impl Windows {
    /// A share for a transfer on a connection that the caller numbers.
    pub fn take<C: Channel>(self: &Arc<Self>, connection: u64, channel: &C) -> Share {
        let mut active = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = channel.clone();
        let mine = active.entry(connection).or_insert_with(|| Active::new(move |bytes| channel.set_windows(bytes)));
        mine.transfers += 1;
        divide(&mut active);
        Share { windows: Arc::clone(self), connection }
    }
}

impl Windows {
    /// Takes a share back where no transfer has begun since the last one ended.
    fn take_back(&self, connection: u64, ended: u64) {
        let mut active = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = active.get(&connection).filter(|mine| (mine.transfers, mine.ended) == (0, ended)) {
            (mine.resize)(IDLE_BYTES);
            active.remove(&connection);
            divide(&mut active);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut active = self.windows.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mine) = active.get_mut(&self.connection) else { return };
        mine.transfers -= 1;
        if mine.transfers > 0 {
            return;
        }
        mine.ended += 1;
        let (windows, connection, ended) = (Arc::clone(&self.windows), self.connection, mine.ended);
        drop(active);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    tokio::time::sleep(SHARE_KEPT).await;
                    windows.take_back(connection, ended);
                });
            }
            // The runtime is ending, and the connection with it.
            Err(_) => windows.take_back(connection, ended),
        }
    }
}

/// Gives each what it has now. Whoever has it already is left alone: to change a window wakes its connection, and thousands
/// that begin together would wake each other every time.
fn divide(active: &mut HashMap<u64, Active>) {
    let share = share(active.len());
    active.values_mut().for_each(|a| a.give(share));
}

/// The share of each of so many. It changes in steps, a few with each doubling, so that one more seldom changes everybody's.
fn share(count: usize) -> u32 {
    let equal = BUDGET_BYTES / u32::try_from(count).unwrap_or(u32::MAX).max(1);
    let step = (1 << equal.checked_ilog2().unwrap_or(0)) >> STEPS_BITS;
    (equal - equal % step.max(1)).clamp(SHARE_BYTES_MIN, SHARE_BYTES_MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn take(windows: &Arc<Windows>, connection: u64) -> (Share, Arc<AtomicU32>) {
        let seen = Arc::new(AtomicU32::new(0));
        let shown = Arc::clone(&seen);
        (take_with(windows, connection, move |bytes| shown.store(bytes, Ordering::SeqCst)), seen)
    }

    fn take_with(windows: &Arc<Windows>, connection: u64, resize: impl Fn(u32) + Send + 'static) -> Share {
        let mut active = windows.0.lock().unwrap();
        active.entry(connection).or_insert_with(|| Active::new(resize)).transfers += 1;
        divide(&mut active);
        drop(active);
        Share { windows: Arc::clone(windows), connection }
    }

    #[test]
    fn shares_are_equal_and_add_up_to_the_budget() {
        let windows = Arc::<Windows>::default();
        let (first, seen) = take(&windows, 0);
        assert_eq!(seen.load(Ordering::SeqCst), SHARE_BYTES_MAX);
        let others: Vec<_> = (1..4).map(|i| take(&windows, i)).collect();
        assert_eq!(seen.load(Ordering::SeqCst), BUDGET_BYTES / 4);
        assert!(others.iter().all(|(_, seen)| seen.load(Ordering::SeqCst) == BUDGET_BYTES / 4));
        let again = take(&windows, 0).0;
        assert_eq!(seen.load(Ordering::SeqCst), BUDGET_BYTES / 4, "a second transfer of a connection takes no more");
        drop(others);
        assert_eq!(seen.load(Ordering::SeqCst), SHARE_BYTES_MAX);
        drop(first);
        assert_eq!(seen.load(Ordering::SeqCst), SHARE_BYTES_MAX, "the other transfer of the connection goes on");
        drop(again);
        assert_eq!(seen.load(Ordering::SeqCst), IDLE_BYTES);
    }

    #[tokio::test]
    async fn a_share_is_kept_for_a_while_and_for_who_begins_again_meanwhile() {
        let windows = Arc::<Windows>::default();
        let (first, seen) = take(&windows, 0);
        let share = || seen.load(Ordering::SeqCst);
        drop(first);
        assert_eq!(share(), SHARE_BYTES_MAX);
        let (again, _) = take(&windows, 0);
        windows.take_back(0, 1);
        assert_eq!(share(), SHARE_BYTES_MAX, "the first one's time is over, and another has begun");
        drop(again);
        windows.take_back(0, 1);
        assert_eq!(share(), SHARE_BYTES_MAX, "its own time is not over");
        windows.take_back(0, 2);
        assert_eq!((share(), windows.0.lock().unwrap().len()), (IDLE_BYTES, 0));
    }

    #[test]
    fn thousands_that_begin_together_seldom_wake_each_other() {
        let windows = Arc::<Windows>::default();
        let woken = Arc::new(AtomicU32::new(0));
        let take_one = |connection| {
            let woken = Arc::clone(&woken);
            take_with(&windows, connection, move |_| {
                woken.fetch_add(1, Ordering::SeqCst);
            })
        };
        let _all: Vec<Share> = (0..3000).map(take_one).collect();
        let each = f64::from(woken.load(Ordering::SeqCst)) / 3000.0;
        assert!(each < 8.0, "each was woken {each} times");
    }

    #[test]
    fn a_share_is_at_most_the_equal_part_and_nearly_all_of_it() {
        for count in 1..=1024usize {
            let equal = BUDGET_BYTES / count as u32;
            let share = share(count);
            assert!(share <= equal.min(SHARE_BYTES_MAX), "{count}");
            assert!(share >= (equal / 8 * 7).min(SHARE_BYTES_MAX), "{count}: {share} of {equal}");
        }
    }

    #[test]
    fn the_thousandth_still_goes_on() {
        let windows = Arc::<Windows>::default();
        let all: Vec<_> = (0..2000).map(|i| take(&windows, i)).collect();
        assert!(all.iter().all(|(_, seen)| seen.load(Ordering::SeqCst) == SHARE_BYTES_MIN));
    }
}
