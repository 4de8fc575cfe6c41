//! Rows as they are read, until they are put in order together.

use super::failed;
use crate::lake::error::LakeError;
use crate::lake::regions::Placed;
use arrow::array::RecordBatch;
use arrow::compute::{concat_batches, interleave_record_batch};
use lingqu_protocol::region::RegionCode;
use std::collections::BTreeMap;

/// Rows of one region that lie one after the other, in the mean, from which on they are copied together and not one by one.
const TOGETHER_ROWS_MIN: usize = 32;

/// Rows that wait to be put in order.
#[derive(Default)]
pub(super) struct Gathered {
    batches: Vec<Batch>,
    bytes: usize,
}

struct Batch {
    rows: RecordBatch,
    /// For each row, which of the codes it has.
    ranks: Vec<u32>,
    /// None for rows without a region, which are nobody's.
    codes: Vec<Option<RegionCode>>,
}

/// Rows of one region that lie one after the other in a batch.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    code: RegionCode,
    batch: usize,
    start: usize,
    rows: usize,
}

/// Rows in the order of their regions.
pub(super) struct Merged {
    pub(super) rows: RecordBatch,
    /// The regions in their order, each with how many rows it has.
    pub(super) regions: Vec<(RegionCode, u32)>,
}

impl Gathered {
    /// Bytes of memory that it holds.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes up rows; gives how many have a region.
    pub(super) fn add(&mut self, rows: RecordBatch, placed: &Placed) -> u64 {
        let codes: Vec<Option<RegionCode>> = placed.codes().iter().map(|code| code.parse().ok()).collect();
        let batch = Batch { rows, ranks: placed.ranks().to_vec(), codes };
        let taken = batch.regions().flatten().count();
        if taken > 0 {
            self.bytes += batch.rows.get_array_memory_size() + batch.ranks.len() * size_of::<u32>();
            self.batches.push(batch);
        }
        taken as u64
    }

    /// All rows that have a region; those of one region stay in the order in which they were added. None where there are none.
    ///
    /// # Errors
    /// They are too many for one batch.
    pub(super) fn merged(self) -> Result<Option<Merged>, LakeError> {
        let mut counts: BTreeMap<RegionCode, u32> = BTreeMap::new();
        for batch in &self.batches {
            batch.regions().flatten().for_each(|code| *counts.entry(code).or_default() += 1);
        }
        let Some(first) = self.batches.first() else { return Ok(None) };
        let regions: Vec<(RegionCode, u32)> = counts.into_iter().collect();
        let stretches = self.stretches();
        let all: usize = stretches.iter().map(|stretch| stretch.rows).sum();
        let rows = if all >= stretches.len() * TOGETHER_ROWS_MIN {
            let slice =
                |stretch: &Stretch| Some(self.batches.get(stretch.batch)?.rows.slice(stretch.start, stretch.rows));
            let slices: Vec<RecordBatch> = stretches.iter().filter_map(slice).collect();
            match slices.as_slice() {
                [only] => only.clone(),
                slices => concat_batches(&first.rows.schema(), slices).map_err(failed)?,
            }
        } else {
            let places = |stretch: &Stretch| {
                let Stretch { batch, start, rows, .. } = *stretch;
                (start..start + rows).map(move |row| (batch, row))
            };
            let order: Vec<(usize, usize)> = stretches.iter().flat_map(places).collect();
            let batches: Vec<&RecordBatch> = self.batches.iter().map(|batch| &batch.rows).collect();
            interleave_record_batch(&batches, &order).map_err(failed)?
        };
        Ok(Some(Merged { rows, regions }))
    }

    /// What lies together, in the order of regions.
    fn stretches(&self) -> Vec<Stretch> {
        let mut stretches: Vec<Stretch> = Vec::new();
        for (batch, of) in self.batches.iter().enumerate() {
            for (start, code) in of.regions().enumerate().filter_map(|(row, code)| Some((row, code?))) {
                match stretches.last_mut() {
                    Some(last) if last.batch == batch && last.code == code && last.start + last.rows == start => {
                        last.rows += 1;
                    }
                    _ => stretches.push(Stretch { code, batch, start, rows: 1 }),
                }
            }
        }
        // Stable.
        stretches.sort_by_key(|stretch| stretch.code);
        stretches
    }
}

impl Batch {
    /// The region of each row.
    fn regions(&self) -> impl Iterator<Item = Option<RegionCode>> {
        self.ranks.iter().map(|rank| self.codes.get(*rank as usize).copied().flatten())
    }
}
