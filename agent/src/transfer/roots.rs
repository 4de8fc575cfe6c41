//! The hashes of a set's files, put together from the values of segments that come in any order.

use lingqu_protocol::digest::{ChunkValue, Digest, RootBuilder, chunk_count};
use lingqu_protocol::plan::Plan;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Segments that may wait for an earlier one. A few streams are never this far apart; at 8 chunk values each this is
/// 16 MiB.
const WAITING_MAX: usize = 64 * 1024;

/// What [`Roots::add`] does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Differs {
    /// The segment has other values than it had before: its bytes changed.
    Values,
    /// Not a segment of the plan, or not as many values as it has items.
    Shape,
    /// Too many segments came before an earlier one.
    Order,
}

/// The digest that stands for a segment's values: what the gateway sends for a durable segment.
pub fn values_digest(values: &[ChunkValue]) -> [u8; 32] {
    *blake3::hash(values.as_flattened()).as_bytes()
}

/// Combines the values of segments to the hashes of files.
#[derive(Debug)]
pub struct Roots {
    plan: Arc<Plan>,
    digests: Vec<Option<[u8; 32]>>,
    waiting: BTreeMap<u32, Vec<ChunkValue>>,
    next: u32,
    file: Option<RootBuilder>,
    roots: Vec<Option<Digest>>,
}

impl Roots {
    /// For the files of `plan`.
    pub fn new(plan: Arc<Plan>) -> Self {
        let (segments, files) = (plan.segments() as usize, plan.sizes().len());
        Self {
            plan,
            digests: vec![None; segments],
            waiting: BTreeMap::new(),
            next: 0,
            file: None,
            roots: vec![None; files],
        }
    }

    /// Adds a segment's values. One that was added before must have the same again.
    ///
    /// # Errors
    /// See [`Differs`].
    pub fn add(&mut self, segment: u32, values: Vec<ChunkValue>) -> Result<(), Differs> {
        let digest = values_digest(&values);
        let slot = self.digests.get_mut(segment as usize).ok_or(Differs::Shape)?;
        match slot {
            Some(known) if *known == digest => return Ok(()),
            Some(_) => return Err(Differs::Values),
            None => *slot = Some(digest),
        }
        if self.waiting.len() >= WAITING_MAX {
            return Err(Differs::Order);
        }
        self.waiting.insert(segment, values);
        while let Some(values) = self.waiting.remove(&self.next) {
            self.combine(self.next, &values)?;
            self.next += 1;
        }
        Ok(())
    }

    /// The digest over a segment's values, where it was added.
    pub fn digest(&self, segment: u32) -> Option<[u8; 32]> {
        self.digests.get(segment as usize).copied().flatten()
    }

    /// The hash of each file; `None` where a segment is missing.
    pub fn finish(&self) -> Option<Vec<Digest>> {
        self.roots.iter().copied().collect()
    }

    fn combine(&mut self, segment: u32, values: &[ChunkValue]) -> Result<(), Differs> {
        let items = self.plan.items(segment).ok_or(Differs::Shape)?;
        if items.len() != values.len() {
            return Err(Differs::Shape);
        }
        for (item, value) in items.iter().zip(values) {
            let size = self.plan.sizes().get(item.file as usize).copied().unwrap_or(0);
            if item.chunk == 0 {
                self.file = Some(RootBuilder::new(size));
            }
            let Some(builder) = &mut self.file else { return Err(Differs::Shape) };
            builder.push(*value);
            if item.chunk + 1 == chunk_count(size)
                && let Some(slot) = self.roots.get_mut(item.file as usize)
            {
                *slot = self.file.take().and_then(RootBuilder::finish);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use lingqu_protocol::digest::{CHUNK_BYTES, chunk_value};
    use proptest::prelude::*;

    fn pattern(file: usize, bytes: u64) -> Vec<u8> {
        (0..bytes).map(|i| (i % 251) as u8 ^ file as u8).collect()
    }

    fn values(plan: &Plan, files: &[Vec<u8>], segment: u32) -> Vec<ChunkValue> {
        let items = plan.items(segment).unwrap();
        items
            .iter()
            .map(|i| {
                let file = &files[i.file as usize];
                let start = i.file_offset() as usize;
                chunk_value(&file[start..start + i.bytes as usize], i.chunk, file.len() as u64)
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn segments_in_any_order_give_plain_hashes(
            sizes in prop::collection::vec(prop_oneof![0u64..5000, 0..9 * CHUNK_BYTES], 1..6), seed: u64,
        ) {
            let files: Vec<_> = sizes.iter().enumerate().map(|(i, s)| pattern(i, *s)).collect();
            let plan = Arc::new(Plan::new(sizes).unwrap());
            let mut order: Vec<u32> = (0..plan.segments()).collect();
            order.sort_by_key(|s| u64::from(*s).wrapping_mul(seed | 1).rotate_left(17));
            let mut roots = Roots::new(plan.clone());
            for segment in &order {
                prop_assert_eq!(roots.finish(), None, "a segment is missing");
                roots.add(*segment, values(&plan, &files, *segment)).unwrap();
                roots.add(*segment, values(&plan, &files, *segment)).unwrap();
            }
            let plain: Vec<_> = files.iter().map(|f| Digest::blake3(f)).collect();
            prop_assert_eq!(roots.finish(), Some(plain));
        }
    }

    #[test]
    fn a_segment_that_changed_is_known() {
        let plan = Arc::new(Plan::new(vec![3, 4]).unwrap());
        let mut roots = Roots::new(plan);
        assert_eq!(roots.add(0, vec![[0; 32]; 2]), Ok(()));
        assert_eq!(roots.add(0, vec![[1; 32]; 2]), Err(Differs::Values));
        assert_eq!(roots.add(1, vec![]), Err(Differs::Shape));
        let plan = Arc::new(Plan::new(vec![3, 4]).unwrap());
        assert_eq!(Roots::new(plan).add(0, vec![[0; 32]]), Err(Differs::Shape));
    }
}
