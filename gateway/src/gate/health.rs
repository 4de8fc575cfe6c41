//! When in doubt, closed: no fresh policy, no writable ledger or no sure clock means no exchange.

use lingqu_protocol::host::Timestamp;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// The two clocks, read once for one decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Wall clock: periods of grants.
    pub wall: Timestamp,
    /// Monotonic clock: leases and freshness.
    pub monotonic: Duration,
}

/// Why the gate is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ClosedWhy {
    /// The gateway has not loaded its policy yet.
    Starting = 1,
    /// The policy or the ledger could not be read or written for too long.
    Stale = 2,
    /// The wall clock cannot be trusted.
    ClockUnsure = 3,
    /// The ledger does not take records.
    LedgerFailed = 4,
    /// The gateway is shutting down.
    Draining = 5,
}

impl ClosedWhy {
    /// A stable word for programs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Stale => "policy_stale",
            Self::ClockUnsure => "clock_unsure",
            Self::LedgerFailed => "ledger_failed",
            Self::Draining => "draining",
        }
    }

    /// All of them.
    pub const ALL: [Self; 5] = [Self::Starting, Self::Stale, Self::ClockUnsure, Self::LedgerFailed, Self::Draining];

    /// What it means and what to do, in English and Chinese.
    pub const fn means(self) -> (&'static str, &'static str) {
        match self {
            Self::Starting => ("the gateway is loading its policy; wait", "网关正在加载，请稍候"),
            Self::Stale => (
                "policy or ledger could not be looked at for 5 s: the disk or the machine is too slow; look at both",
                "5 秒内未能核对策略或账本：磁盘或系统过慢，请检查",
            ),
            Self::ClockUnsure => (
                "the wall clock jumped or is behind the ledger: put the time service right; the gate opens by itself",
                "系统时钟跳变或落后于账本：请恢复时间同步，随后自动放行",
            ),
            Self::LedgerFailed => (
                "the ledger does not take records: is the disk full, read-only or failing? then restart the gateway",
                "账本无法写入：请检查磁盘空间、只读状态及故障，处置后重启网关",
            ),
            Self::Draining => ("the gateway was told to end", "网关正在停止服务"),
        }
    }

    fn from_u8(byte: u8) -> Option<Self> {
        [Self::Starting, Self::Stale, Self::ClockUnsure, Self::LedgerFailed, Self::Draining]
            .into_iter()
            .find(|w| *w as u8 == byte)
    }
}

/// The wall clock may be this far behind the last ledger record: records are stamped before they are queued.
const BEHIND_LEDGER_MS_MAX: i64 = 2_000;

/// The wall clock may move this far from the monotonic one between two checks: a step of NTP, not a jump.
const DRIFT_MS_MAX: i64 = 5_000;

/// Finds out whether the wall clock can be trusted.
#[derive(Clone, Copy, Debug)]
pub struct ClockCheck {
    wall: Timestamp,
    monotonic: Duration,
}

impl ClockCheck {
    /// Starts from a reading of both clocks.
    pub const fn new(now: Now) -> Self {
        Self { wall: now.wall, monotonic: now.monotonic }
    }

    /// Whether the wall clock is in order: it has not moved away from the monotonic clock since the last call that was,
    /// and it is not behind the last ledger record.
    pub fn is_sure(&mut self, now: Now, last_ledger: Option<Timestamp>) -> bool {
        let passed_ms = i64::try_from(now.monotonic.saturating_sub(self.monotonic).as_millis()).unwrap_or(i64::MAX);
        let drift_ms = now.wall.0.saturating_sub(self.wall.0).saturating_sub(passed_ms);
        let behind = last_ledger.is_some_and(|last| now.wall.0 < last.0.saturating_sub(BEHIND_LEDGER_MS_MAX));
        // What was sure stays the base while the clock is not: a jump is not forgiven by waiting for the next check.
        let sure = drift_ms.saturating_abs() <= DRIFT_MS_MAX && !behind;
        if sure {
            *self = Self::new(now);
        }
        sure
    }
}

/// Until when the policy counts as fresh. A lease: nobody has to be alive for it to end.
#[derive(Debug)]
pub(super) struct Freshness {
    until_ms: AtomicU64,
    why: AtomicU8,
}

impl Default for Freshness {
    fn default() -> Self {
        Self { until_ms: AtomicU64::new(0), why: AtomicU8::new(ClosedWhy::Starting as u8) }
    }
}

impl Freshness {
    pub(super) fn open_until(&self, monotonic: Duration) {
        self.why.store(ClosedWhy::Stale as u8, Ordering::SeqCst);
        self.until_ms.store(u64::try_from(monotonic.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    pub(super) fn close(&self, why: ClosedWhy) {
        self.until_ms.store(0, Ordering::SeqCst);
        self.why.store(why as u8, Ordering::SeqCst);
    }

    pub(super) fn closed(&self, monotonic: Duration) -> Option<ClosedWhy> {
        if monotonic.as_millis() < u128::from(self.until_ms.load(Ordering::SeqCst)) {
            return None;
        }
        ClosedWhy::from_u8(self.why.load(Ordering::SeqCst)).or(Some(ClosedWhy::Stale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall_ms: i64, monotonic_ms: u64) -> Now {
        Now { wall: Timestamp(wall_ms), monotonic: Duration::from_millis(monotonic_ms) }
    }

    #[test]
    fn a_clock_that_jumps_either_way_is_unsure_until_it_is_back() {
        for jump_ms in [3_600_000, -3_600_000, 5_001, -5_001] {
            let mut check = ClockCheck::new(at(1_000_000_000, 0));
            assert!(check.is_sure(at(1_000_001_000, 1_000), None));
            assert!(!check.is_sure(at(1_000_002_000 + jump_ms, 2_000), None), "{jump_ms}");
            assert!(!check.is_sure(at(1_000_003_000 + jump_ms, 3_000), None), "waiting does not forgive {jump_ms}");
            assert!(check.is_sure(at(1_000_004_000, 4_000), None));
        }
    }

    #[test]
    fn a_step_of_ntp_is_allowed_and_a_slow_slew_is_followed() {
        let mut check = ClockCheck::new(at(0, 0));
        for i in 1..100 {
            assert!(check.is_sure(at(i * 1_000 + i * 400, i as u64 * 1_000), None), "slew of 400 ms a second at {i}");
        }
        assert!(check.is_sure(at(99 * 1_400 + 5_000, 99_000), None));
    }

    #[test]
    fn a_clock_behind_the_ledger_is_unsure() {
        let mut check = ClockCheck::new(at(10_000, 0));
        assert!(check.is_sure(at(10_000, 0), Some(Timestamp(12_000))));
        assert!(!check.is_sure(at(10_000, 0), Some(Timestamp(12_001))));
    }

    #[test]
    fn freshness_ends_by_itself_and_says_why() {
        let fresh = Freshness::default();
        assert_eq!(fresh.closed(Duration::ZERO), Some(ClosedWhy::Starting));
        fresh.open_until(Duration::from_millis(100));
        assert_eq!(fresh.closed(Duration::from_millis(99)), None);
        assert_eq!(fresh.closed(Duration::from_millis(100)), Some(ClosedWhy::Stale));
        fresh.close(ClosedWhy::ClockUnsure);
        assert_eq!(fresh.closed(Duration::from_millis(1)), Some(ClosedWhy::ClockUnsure));
    }
}
