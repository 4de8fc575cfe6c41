//! Rows that a version takes away, by the hashes of whole rows: what is left of them when all rows were looked at was never there.

use crate::error::{AgentError, Told};
use arrow::array::BooleanArray;
use std::collections::HashMap;

/// Hashes of rows with how often each goes. Some 50 bytes for a row.
#[derive(Debug, Default)]
pub(super) struct Gone {
    rows: HashMap<u128, u32>,
    left: u64,
}

impl Gone {
    /// Adds rows, once for each time that they come.
    pub(super) fn add(&mut self, hashes: &[u128]) {
        for hash in hashes {
            *self.rows.entry(*hash).or_default() += 1;
        }
        self.left += hashes.len() as u64;
    }

    /// Whether one more row of this hash goes; it is counted off.
    pub(super) fn take(&mut self, hash: u128) -> bool {
        match self.rows.get_mut(&hash) {
            Some(times) if *times > 0 => {
                *times -= 1;
                self.left -= 1;
                true
            }
            _ => false,
        }
    }

    /// Which rows of these hashes stay; `None` where all do.
    pub(super) fn mask(&mut self, hashes: &[u128]) -> Option<BooleanArray> {
        if self.left == 0 {
            return None;
        }
        let stays: Vec<bool> = hashes.iter().map(|hash| !self.take(*hash)).collect();
        stays.contains(&false).then(|| BooleanArray::from(stays))
    }

    /// Rows that were not found.
    pub(super) const fn left(&self) -> u64 {
        self.left
    }
}

/// Rows that are not what they were said to be.
pub(super) fn not_rows(error: &dyn std::fmt::Display) -> AgentError {
    let told = Told::new("rows", format!("these are not the rows that were said: {error}"), "收到的数据行不符");
    AgentError::Peer(told)
}

/// A version takes rows away that the sink does not hold.
pub(super) fn not_held(sink: &str, rows: u64) -> AgentError {
    AgentError::Integrity(
        Told::new(
            "sink_differs",
            format!("{rows} rows that this version takes away are not in {sink}: something else changed it"),
            format!("该版本要删除的 {rows} 行不在 {sink} 中：数据可能被其他程序改动"),
        )
        .next(
            "see `lingqu reconcile`; a new folder or table begins with everything",
            "可用 `lingqu reconcile` 对账；改用新的目录或表将从头接收",
        ),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_row_goes_as_often_as_it_was_said() {
        let mut gone = Gone::default();
        gone.add(&[1, 1, 2, 9]);
        let mask = gone.mask(&[1, 3, 1, 1, 2]).unwrap();
        assert_eq!(mask, BooleanArray::from(vec![false, true, false, true, false]));
        assert_eq!(gone.left(), 1);
        assert_eq!(gone.mask(&[1, 2, 3]), None);
        assert!(gone.take(9) && !gone.take(9));
        assert_eq!(gone.left(), 0);
    }
}
