//! How far a transfer is: for people a bar, for the retry loop a number that must grow.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A transfer that is over sooner gets no bar.
const QUIET: Duration = Duration::from_secs(1);

/// Counts bytes; draws them after a while, where a terminal looks.
#[derive(Debug)]
pub struct Meter {
    bytes: AtomicU64,
    started: Instant,
    shown: AtomicBool,
    bar: ProgressBar,
}

impl Meter {
    /// Of `total` bytes; never drawn where `show` is false.
    pub fn new(total: u64, show: bool) -> Self {
        let bar = ProgressBar::hidden();
        bar.set_length(total);
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
            bar.set_style(style);
        }
        let shown = AtomicBool::new(!show || !std::io::stderr().is_terminal());
        Self { bytes: AtomicU64::new(0), started: Instant::now(), shown, bar }
    }

    /// Says how many bytes there are, where it was not known at first.
    pub fn set_total(&self, total: u64) {
        self.bar.set_length(total);
    }

    /// Bytes that moved in this run.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bar.inc(bytes);
        self.show();
    }

    /// Bytes that need not move: an earlier run moved them.
    pub fn skip(&self, bytes: u64) {
        self.bar.inc(bytes);
        self.show();
    }

    /// Bytes that moved so far in this run.
    pub fn moved(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Time since it was made.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn show(&self) {
        if !self.shown.load(Ordering::Relaxed)
            && self.started.elapsed() > QUIET
            && !self.shown.swap(true, Ordering::Relaxed)
        {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
