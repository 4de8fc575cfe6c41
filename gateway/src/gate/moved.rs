//! What has passed of one flow, for whoever watches it. The flow adds to it beside the metrics, two relaxed additions a
//! piece and nothing else; it never waits for a reader.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one flow.
#[derive(Debug, Default)]
pub struct Moved {
    bytes: AtomicU64,
    rows: AtomicU64,
    observed_bytes: AtomicU64,
    observed_rows: AtomicU64,
}

impl Moved {
    /// Counts what just passed.
    pub fn add(&self, bytes: u64, rows: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if rows != 0 {
            self.rows.fetch_add(rows, Ordering::Relaxed);
        }
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Bytes and rows since the last call: whoever asks at last gets the rest, and all answers together are all that
    /// passed, however many ask.
    pub fn take_new(&self) -> (u64, u64) {
        (since(&self.bytes, &self.observed_bytes), since(&self.rows, &self.observed_rows))
    }
}

fn since(total: &AtomicU64, seen: &AtomicU64) -> u64 {
    let now = total.load(Ordering::Relaxed);
    // The higher of two readers' totals stays, so that nothing is told twice.
    now.saturating_sub(seen.fetch_max(now, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_in_parts_is_the_whole() {
        let moved = Moved::default();
        let told: u64 = std::thread::scope(|scope| {
            let readers: Vec<_> =
                (0..3).map(|_| scope.spawn(|| (0..1000).map(|_| moved.take_new().0).sum::<u64>())).collect();
            (0..5000).for_each(|_| moved.add(3, 1));
            readers.into_iter().map(|r| r.join().unwrap_or(0)).sum()
        });
        assert_eq!(told + moved.take_new().0, 15_000);
        assert_eq!((moved.bytes(), moved.rows()), (15_000, 5_000));
        assert_eq!(moved.take_new(), (0, 0));
    }
}
