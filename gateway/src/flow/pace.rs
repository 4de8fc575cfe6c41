//! Whether rows that are made for one receiver are worth compressing (what lies ready for all is compressed once:
//! [`crate::lake::split`]): where the link takes longer for a byte than it costs to make two into one. Nobody says how fast a
//! link is, so it is seen: how long what was sent had to wait for room. As long as all of it fits into the windows (8 MiB, less
//! where many are served) nothing waits, and nothing is known: they go as they are.

use std::time::Duration;

/// A link slower than this has its rows compressed for it. LZ4 takes a few hundred megabytes a second of one processor and halves
/// what tables have; on a link of a gigabit or less that is time won, above it processor time lost.
const BYTES_PER_SECOND_MAX: u64 = 100_000_000;

/// What is looked back on: a link that becomes faster or slower is seen after so much.
const LOOKED_AT_BYTES: u64 = 4 << 20;

/// Before so much was sent, one busy moment would count for a slow link.
const KNOWN_FROM_BYTES: u64 = 512 << 10;

/// Batches that go as they are after one that compression did not make smaller: rows of one table are alike.
const LEFT_ALONE: u32 = 64;

/// How a stream of rows gets along.
#[derive(Debug, Default)]
pub(super) struct Pace {
    bytes: u64,
    waited: Duration,
    left_alone: u32,
}

impl Pace {
    /// So many bytes had to wait so long for room.
    pub(super) fn sent(&mut self, bytes: usize, waited: Duration) {
        self.bytes += bytes as u64;
        self.waited += waited;
        if self.bytes > LOOKED_AT_BYTES {
            self.bytes /= 2;
            self.waited /= 2;
        }
    }

    /// Whether the next batch is worth compressing.
    pub(super) fn compresses(&mut self) -> bool {
        if self.left_alone > 0 {
            self.left_alone -= 1;
            return false;
        }
        let in_time = u128::from(BYTES_PER_SECOND_MAX) * self.waited.as_nanos() / 1_000_000_000;
        self.bytes >= KNOWN_FROM_BYTES && in_time > u128::from(self.bytes)
    }

    /// Compression did not make a batch smaller.
    pub(super) const fn in_vain(&mut self) {
        self.left_alone = LEFT_ALONE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(batches: u32, bytes: usize, waited: Duration) -> Pace {
        let mut pace = Pace::default();
        (0..batches).for_each(|_| pace.sent(bytes, waited));
        pace
    }

    #[test]
    fn a_slow_link_is_seen_and_a_fast_one_left_alone() {
        let piece = 256 << 10;
        for (batches, waited_us, compresses) in [
            (100, 0, false),
            // 256 KiB in 2.5 ms are 105 MB/s, in 2.7 ms 97.
            (100, 2_500, false),
            (100, 2_700, true),
            (2, 2_700, true),
            // So little may only have met a busy moment.
            (1, 1_000_000, false),
        ] {
            let mut pace = after(batches, piece, Duration::from_micros(waited_us));
            assert_eq!(pace.compresses(), compresses, "{batches} of {waited_us} us");
        }
    }

    #[test]
    fn a_link_that_becomes_fast_is_seen_within_what_is_looked_at() {
        let mut pace = after(100, 1 << 20, Duration::from_millis(100));
        assert!(pace.compresses());
        let mut batches = 0;
        while pace.compresses() {
            pace.sent(1 << 20, Duration::ZERO);
            batches += 1;
        }
        assert!(batches < 30, "{batches}");
    }

    #[test]
    fn what_does_not_become_smaller_is_left_alone_for_a_while() {
        let mut pace = after(100, 1 << 20, Duration::from_millis(100));
        pace.in_vain();
        let tried: Vec<bool> = (0..=LEFT_ALONE).map(|_| pace.compresses()).collect();
        assert_eq!(tried.iter().filter(|tried| **tried).count(), 1);
        assert_eq!(tried.last(), Some(&true));
    }
}
