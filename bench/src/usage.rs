//! What a process used: processor time and the highest memory it ever held, as Linux counts them under `/proc`.

use std::fs;

/// Clock ticks in a second under `/proc`: part of Linux's interface to programs, the same on every machine.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Seconds of processor time, in the program and in the kernel for it.
    pub cpu_seconds: f64,
    /// The most memory it held at once, in bytes.
    pub peak_bytes: u64,
}

impl Usage {
    /// This with a newer reading: time only grows, and a process that has ended shows no memory any more.
    #[must_use]
    pub fn and(self, newer: Self) -> Self {
        Self { cpu_seconds: self.cpu_seconds.max(newer.cpu_seconds), peak_bytes: self.peak_bytes.max(newer.peak_bytes) }
    }
}

/// What process `pid` used so far; of one that ended and was not yet collected, its time alone.
pub fn of(pid: u32) -> Usage {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    Usage { cpu_seconds: cpu_seconds(&read("stat")), peak_bytes: peak_bytes(&read("status")) }
}

/// Memory that this very process holds now, in bytes.
pub fn resident_bytes() -> u64 {
    kib_of(&fs::read_to_string("/proc/self/status").unwrap_or_default(), "VmRSS:")
}

/// Lets process `pid` count its highest memory from now on. Where the kernel does not allow it, it goes on as before.
pub fn forget_peak(pid: u32) {
    // The peak then includes what was before: a reading that is too high, never one that is too low.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// Fields 14 and 15 of `stat`. The program's name, in brackets, may hold blanks: fields are counted after it.
fn cpu_seconds(stat: &str) -> f64 {
    let after = stat.rfind(')').and_then(|at| stat.get(at + 1..)).unwrap_or_default();
    let ticks = after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>();
    ticks / TICKS_PER_SECOND
}

fn peak_bytes(status: &str) -> u64 {
    kib_of(status, "VmHWM:")
}

fn kib_of(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 1 1 1";
        assert!((cpu_seconds(stat) - 2.0).abs() < 1e-9);
        assert!(cpu_seconds("").abs() < 1e-9);
    }

    #[test]
    fn the_peak_is_in_kib() {
        assert_eq!(peak_bytes("VmPeak:\t 9 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n"), 2 << 20);
        assert_eq!(peak_bytes(""), 0);
    }

    #[test]
    fn this_very_process_has_used_something() {
        assert!(of(std::process::id()).peak_bytes > 1 << 20);
    }
}
