//! What may be used up under a permission: bytes in all, bytes a second, requests a day. One account for all that runs
//! under it, so that parallel pulls together cannot exceed what was approved.
//!
//! Bytes are reserved in blocks before they are sent and requests are counted before they are answered; what was reserved
//! and not sent is given back. Whoever moves data makes the account durable before it goes on ([`Quota::recording`]).

use lingqu_protocol::ids::GrantId;
use lingqu_protocol::scope::Scope;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Bytes reserved at a time where a flow's size is not known before: one durable record per block is nothing beside the
/// block, and a crash costs the permission no more than this.
const BLOCK_BYTES: u64 = 64 << 20;

/// The part of what is left that one reservation takes at most: the last bytes of a small limit are shared by all that run,
/// and the records that it takes grow with the logarithm of the limit alone.
const BLOCK_SHARE: u64 = 16;

/// A flow that was held up may catch up by this: timers are late by milliseconds, and a rate would never be reached.
const CATCH_UP: Duration = Duration::from_millis(100);

/// What a permission rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Under {
    /// A grant.
    Grant(GrantId),
}

impl fmt::Display for Under {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grant(grant) => grant.fmt(f),
        }
    }
}

/// How much may be used up; no bound where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in all.
    pub volume_bytes_max: Option<u64>,
    /// Bytes a second.
    pub rate_bytes_per_second_max: Option<u64>,
    /// Requests a day.
    pub requests_per_day_max: Option<u64>,
}

impl Limits {
    /// Those of a scope.
    pub fn of(scope: &Scope) -> Self {
        Self {
            volume_bytes_max: scope.volume_bytes_max,
            rate_bytes_per_second_max: scope.rate_bytes_per_second_max,
            requests_per_day_max: scope.requests_per_day_max,
        }
    }
}

/// What was used up, reserved bytes among it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Bytes in all.
    pub bytes: u64,
    /// The last day on which something was asked, as [`lingqu_protocol::scope::day_of`] counts it.
    pub day: i64,
    /// Requests on that day.
    pub requests: u64,
}

/// The account of one permission.
#[derive(Debug, Default)]
pub struct Quota {
    account: Mutex<Account>,
    recording: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    limits: Limits,
    used: Used,
    /// When all bytes so far will have passed at the approved rate, on the monotonic clock.
    passed_at: Duration,
}

impl Quota {
    /// How much may be used up.
    pub fn limits(&self) -> Limits {
        self.lock().limits
    }

    /// What was used up so far.
    pub fn used(&self) -> Used {
        self.lock().used
    }

    /// Held while the account is made durable, so that an older record never replaces a newer one.
    pub async fn recording(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.recording.lock().await
    }

    /// Reserves bytes for a flow that needs `bytes` now and may need more: these and some, or less where there is no more.
    pub fn reserve(&self, bytes: u64) -> u64 {
        let mut account = self.lock();
        let max = account.limits.volume_bytes_max.unwrap_or(u64::MAX);
        let left = max.saturating_sub(account.used.bytes);
        let taken = bytes.max(BLOCK_BYTES.min(left / BLOCK_SHARE)).min(left);
        account.used.bytes = account.used.bytes.saturating_add(taken);
        taken
    }

    /// Gives back what was reserved and not sent.
    pub fn release(&self, bytes: u64) {
        let mut account = self.lock();
        account.used.bytes = account.used.bytes.saturating_sub(bytes);
    }

    /// Counts a request on a day. False where the day has no more; it is not counted then. A clock that went back over
    /// midnight does not open a day again.
    pub fn count_request(&self, day: i64) -> bool {
        let mut account = self.lock();
        if day > account.used.day {
            account.used.day = day;
            account.used.requests = 0;
        }
        let allowed = account.limits.requests_per_day_max.is_none_or(|max| account.used.requests < max);
        account.used.requests = account.used.requests.saturating_add(u64::from(allowed));
        allowed
    }

    /// How long a flow has to wait before it may send `bytes` more, counting them. Over any time, no more passes than the
    /// rate gives for it, for `CATCH_UP` and for one piece.
    pub fn pace(&self, bytes: u64, now: Duration) -> Duration {
        let mut account = self.lock();
        let Some(rate) = account.limits.rate_bytes_per_second_max else { return Duration::ZERO };
        let begins_at = account.passed_at.max(now.saturating_sub(CATCH_UP));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        account.passed_at = begins_at.saturating_add(takes);
        begins_at.saturating_sub(now)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
pub(super) struct QuotaBook {
    accounts: Mutex<HashMap<Under, Arc<Quota>>>,
    /// Of all permissions that have no limit: nothing is counted there.
    unbounded: Arc<Quota>,
}

impl QuotaBook {
    /// The one account of a permission; an amended limit is in force for flows that run, too.
    pub(super) fn of(&self, under: Under, limits: Limits) -> Arc<Quota> {
        if limits == Limits::default() {
            return Arc::clone(&self.unbounded);
        }
        let quota = self.account(under);
        quota.lock().limits = limits;
        quota
    }

    pub(super) fn restore(&self, under: Under, used: Used) {
        self.account(under).lock().used = used;
    }

    fn account(&self, under: Under) -> Arc<Quota> {
        Arc::clone(self.accounts.lock().unwrap_or_else(PoisonError::into_inner).entry(under).or_default())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GRANT: Under = Under::Grant(GrantId::from_bits(1));

    fn volume(bytes_max: u64) -> Limits {
        Limits { volume_bytes_max: Some(bytes_max), ..Limits::default() }
    }

    #[test]
    fn parallel_reservations_never_exceed_the_limit() {
        let book = QuotaBook::default();
        let quota = book.of(GRANT, volume(1_000));
        let taken: u64 = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..8)
                .map(|_| {
                    let quota = book.of(GRANT, volume(1_000));
                    scope.spawn(move || (0..100).map(|_| quota.reserve(7)).sum::<u64>())
                })
                .collect();
            takers.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(taken, 1_000, "all of it, and not a byte more");
        assert_eq!(quota.reserve(1), 0);
        quota.release(10);
        assert_eq!(quota.reserve(100), 10);
    }

    #[test]
    fn blocks_shrink_so_that_a_slow_flow_does_not_hold_the_rest() {
        let book = QuotaBook::default();
        let quota = book.of(GRANT, volume(1 << 40));
        assert_eq!(quota.reserve(1), BLOCK_BYTES);
        let small = book.of(Under::Grant(GrantId::from_bits(2)), volume(1_600));
        assert_eq!(small.reserve(1), 100);
        assert_eq!(small.reserve(1_000), 1_000, "what is needed is given where it is there");
        assert_eq!(small.reserve(1), 500 / BLOCK_SHARE);
    }

    #[test]
    fn what_was_used_outlives_a_restart_and_an_amended_limit() {
        let book = QuotaBook::default();
        book.restore(GRANT, Used { bytes: 900, day: 20_000, requests: 2 });
        assert_eq!(book.of(GRANT, volume(1_000)).reserve(500), 100);
        assert_eq!(book.of(GRANT, volume(1_200)).reserve(500), 200);
        let daily = book.of(GRANT, Limits { requests_per_day_max: Some(3), ..Limits::default() });
        assert!(daily.count_request(20_000) && !daily.count_request(20_000));
        assert_eq!(daily.used(), Used { bytes: 1_200, day: 20_000, requests: 3 });
        let open = book.of(Under::Grant(GrantId::from_bits(2)), Limits::default());
        assert_eq!(open.pace(u64::MAX, Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_permission_goes_by_the_id_of_its_grant() {
        assert_eq!(GRANT.to_string(), GrantId::from_bits(1).to_string());
    }

    #[test]
    fn a_day_begins_once() {
        let quota = QuotaBook::default().of(GRANT, Limits { requests_per_day_max: Some(2), ..Limits::default() });
        let days = [5, 5, 5, 6, 5, 6, 6, 8];
        assert_eq!(days.map(|day| quota.count_request(day)), [true, true, false, true, true, false, false, true]);
    }

    #[test]
    fn a_rate_is_shared_and_idle_time_is_not_saved_up() {
        let book = QuotaBook::default();
        let rate = Limits { rate_bytes_per_second_max: Some(1_000), ..Limits::default() };
        let (one, other) = (book.of(GRANT, rate), book.of(GRANT, rate));
        let at = Duration::from_secs;
        assert_eq!(one.pace(2_000, at(10)), Duration::ZERO, "the first piece goes at once");
        assert_eq!(other.pace(1_000, at(10)), at(2) - CATCH_UP, "and the next waits for it, whoever's it is");
        assert_eq!(one.pace(1_000, at(10)), at(3) - CATCH_UP);
        assert_eq!(one.pace(1, at(1_000)), Duration::ZERO);
        assert_eq!(one.pace(1_000, at(1_000)), Duration::ZERO, "what it may catch up");
        assert!(one.pace(1, at(1_000)) > Duration::from_millis(850), "and no more");
    }

    proptest! {
        #[test]
        fn no_window_of_time_passes_more_than_its_rate(
            rate in 1u64..1_000_000, pieces in prop::collection::vec((1u64..100_000, 0u64..2_000), 1..60),
        ) {
            let limits = Limits { rate_bytes_per_second_max: Some(rate), ..Limits::default() };
            let quota = QuotaBook::default().of(GRANT, limits);
            let mut now = Duration::from_secs(1);
            let mut sent: Vec<(Duration, u64)> = Vec::new();
            for (bytes, idle_ms) in pieces {
                now += Duration::from_millis(idle_ms);
                // The flow waits, as the meter does, and only then sends.
                now += quota.pace(bytes, now);
                sent.push((now, bytes));
            }
            for (i, (from, _)) in sent.iter().enumerate() {
                let mut passed = 0u128;
                for (to, bytes) in &sent[i..] {
                    passed += u128::from(*bytes);
                    let window = *to - *from + CATCH_UP;
                    let allowed = u128::from(rate) * window.as_nanos() / 1_000_000_000 + u128::from(*bytes) + sent.len() as u128;
                    prop_assert!(passed <= allowed, "{passed} of {allowed} in {window:?}");
                }
            }
        }

        #[test]
        fn the_account_is_what_flows_hold(
            max in 0u64..100_000, steps in prop::collection::vec((any::<bool>(), 0u64..5_000), 0..100),
        ) {
            let quota = QuotaBook::default().of(GRANT, volume(max));
            let mut held = 0u64;
            for (take, bytes) in steps {
                if take {
                    held += quota.reserve(bytes);
                } else {
                    let back = bytes.min(held);
                    quota.release(back);
                    held -= back;
                }
                prop_assert_eq!(quota.used().bytes, held);
                prop_assert!(held <= max);
            }
        }
    }
}
