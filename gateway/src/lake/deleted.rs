//! Which rows of a row group later changes replaced or deleted. A part is never written again for them: a version names its
//! parts with what is left out of each, so that older versions stay as they were.

use arrow::array::BooleanArray;
use arrow::buffer::BooleanBuffer;

/// Form of a list of gaps between places, for few rows.
const GAPS: u8 = 1;

/// Form of one bit for each row.
const BITS: u8 = 2;

/// Rows that are left out, by their place in a row group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// One bit for each row up to the last that is deleted.
    bits: Vec<u8>,
    count: u64,
}

impl Deleted {
    /// How many.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Whether this row is.
    pub fn contains(&self, row: usize) -> bool {
        self.bits.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1)
    }

    /// Adds a row; whether it was not there before.
    pub fn insert(&mut self, row: usize) -> bool {
        if self.bits.len() <= row / 8 {
            self.bits.resize(row / 8 + 1, 0);
        }
        let Some(byte) = self.bits.get_mut(row / 8) else { return false };
        let is_new = *byte >> (row % 8) & 1 == 0;
        *byte |= 1 << (row % 8);
        self.count += u64::from(is_new);
        is_new
    }

    /// Adds all of `other`.
    pub fn add(&mut self, other: &Self) {
        for row in (0..other.bits.len() * 8).filter(|row| other.contains(*row)) {
            self.insert(row);
        }
    }

    /// For `rows` rows from `first` on, which stay; `None` where all do.
    pub fn staying(&self, first: usize, rows: usize) -> Option<BooleanArray> {
        if self.count == 0 {
            return None;
        }
        Some(BooleanArray::new(BooleanBuffer::collect_bool(rows, |row| !self.contains(first + row)), None))
    }

    /// As it is kept: nothing, or a form and its bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        if self.count == 0 {
            return Vec::new();
        }
        let mut gaps = vec![GAPS];
        let mut next = 0;
        for row in (0..self.bits.len() * 8).filter(|row| self.contains(*row)) {
            prost::encoding::encode_varint((row - next) as u64, &mut gaps);
            next = row + 1;
            if gaps.len() > self.bits.len() {
                return [&[BITS], self.bits.as_slice()].concat();
            }
        }
        gaps
    }

    /// What [`to_bytes`](Self::to_bytes) wrote; `None` where a row is not one of `rows`.
    pub(crate) fn from_bytes(bytes: &[u8], rows: u64) -> Option<Self> {
        let mut deleted = Self::default();
        match bytes.split_first() {
            None => {}
            Some((&GAPS, mut gaps)) => {
                let mut next = 0u64;
                while !gaps.is_empty() {
                    let row = next.checked_add(prost::encoding::decode_varint(&mut gaps).ok()?)?;
                    (row < rows).then_some(())?;
                    deleted.insert(usize::try_from(row).ok()?);
                    next = row + 1;
                }
            }
            Some((&BITS, bits)) => {
                deleted.bits = bits.to_vec();
                deleted.count = bits.iter().map(|byte| u64::from(byte.count_ones())).sum();
                let last = (0..bits.len() * 8).rev().find(|row| deleted.contains(*row));
                (last.is_none_or(|last| (last as u64) < rows)).then_some(())?;
            }
            Some(_) => return None,
        }
        Some(deleted)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_kept_is_what_was_deleted(rows in prop::collection::btree_set(0usize..3000, 0..400)) {
            let mut deleted = Deleted::default();
            rows.iter().for_each(|row| assert!(deleted.insert(*row) && !deleted.insert(*row)));
            let kept = deleted.to_bytes();
            prop_assert!(kept.len() <= 3000 / 8 + 2);
            prop_assert_eq!(Deleted::from_bytes(&kept, 3000), Some(deleted.clone()));
            prop_assert_eq!(deleted.count(), rows.len() as u64);
            if let Some(last) = rows.last() {
                prop_assert_eq!(Deleted::from_bytes(&kept, *last as u64), None, "a row that is not there");
                let staying = deleted.staying(10, 100).unwrap();
                prop_assert!((0..100).all(|row| staying.value(row) != rows.contains(&(row + 10))));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..50), rows in 0u64..100) {
            let _read = Deleted::from_bytes(&bytes, rows);
        }
    }
}
