//! Counting different questions in a fixed number of bytes.

use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::GrantId;

/// Bits of one half's map: different questions up to some thousands leave marks of their own.
const BITS: usize = 8192;

/// Different questions of one shape under one grant, in a window that moves by halves.
///
/// Each value marks one bit. Two values may share a bit, so the marks are never more than the different values: what is
/// said is "at least so many".
#[derive(Clone, Debug)]
pub struct Sweep {
    grant: Option<GrantId>,
    shape: u64,
    half: i64,
    now: Box<[u64; BITS / 64]>,
    before: Box<[u64; BITS / 64]>,
    rows: [u64; 2],
}

impl Sweep {
    /// Nothing counted yet.
    pub(super) fn new(grant: Option<GrantId>, shape: u64) -> Self {
        let empty = || Box::new([0; BITS / 64]);
        Self { grant, shape, half: i64::MIN, now: empty(), before: empty(), rows: [0; 2] }
    }

    /// Whether it counts these.
    pub(super) fn is_of(&self, grant: Option<GrantId>, shape: u64) -> bool {
        self.grant == grant && self.shape == shape
    }

    /// Counts a question and the rows of its answer.
    pub(super) fn count(&mut self, value: u64, rows: u64, at: Timestamp, half_ms: i64) {
        let half = at.0.div_euclid(half_ms.max(1));
        if half > self.half {
            // The half before is kept where it is just before; else the window is empty.
            let adjacent = half == self.half.saturating_add(1);
            std::mem::swap(&mut self.before, &mut self.now);
            self.rows = if adjacent { [0, self.rows[0]] } else { [0, 0] };
            if !adjacent {
                self.before.fill(0);
            }
            self.now.fill(0);
            self.half = half;
        }
        let bit = (value % BITS as u64) as usize;
        if let Some(word) = self.now.get_mut(bit / 64) {
            *word |= 1 << (bit % 64);
        }
        self.rows[0] = self.rows[0].saturating_add(rows);
    }

    /// At least so many different ones in the window.
    pub fn different(&self) -> u32 {
        self.now.iter().zip(self.before.iter()).map(|(now, before)| (now | before).count_ones()).sum()
    }

    /// Rows of their answers.
    pub const fn rows(&self) -> u64 {
        self.rows[0].saturating_add(self.rows[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn a_window_moves_by_halves() {
        let mut sweep = Sweep::new(None, 1);
        (0..100).for_each(|value| sweep.count(value, 1, Timestamp(0), 1000));
        (90..150).for_each(|value| sweep.count(value, 1, Timestamp(1000), 1000));
        assert_eq!((sweep.different(), sweep.rows()), (150, 160), "ten that are asked in both halves are ten");
        sweep.count(1, 1, Timestamp(2000), 1000);
        assert_eq!((sweep.different(), sweep.rows()), (61, 61), "the first half is gone");
        sweep.count(1, 1, Timestamp(9000), 1000);
        assert_eq!((sweep.different(), sweep.rows()), (1, 1), "after a pause nothing is left");
    }

    proptest! {
        #[test]
        fn never_more_than_there_were(values in prop::collection::vec(any::<u64>(), 0..2000)) {
            let mut sweep = Sweep::new(None, 1);
            values.iter().for_each(|value| sweep.count(*value, 0, Timestamp(0), 1000));
            let exact = values.iter().collect::<HashSet<_>>().len();
            prop_assert!(sweep.different() as usize <= exact);
            // And not far below: some hundreds of marks rarely meet.
            prop_assert!(exact < 20 || sweep.different() as usize > exact * 8 / 10);
        }
    }
}
