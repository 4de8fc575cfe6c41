//! Rows as they are read, until they are put in order together.

use super::failed;
use crate::lake::error::LakeError;
use crate::lake::regions::Placed;
use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, interleave_record_batch};
use lingqu_protocol::region::RegionCode;

/// Rows of one region that lie one after the other, in the mean, from which on they are copied together and not one by one.
const TOGETHER_ROWS_MIN: usize = 32;

/// Rows that wait to be put in order.
#[derive(Default)]
pub(super) struct Gathered {
    batches: Vec<Batch>,
    stretches: Vec<Stretch>,
    bytes: usize,
}

struct Batch {
    rows: RecordBatch,
    /// In which order its rows lie by region; none where they do so already.
    order: Option<UInt32Array>,
}

/// Rows of one region that lie one after the other in a batch, in its order.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    code: RegionCode,
    batch: u32,
    start: u32,
    rows: u32,
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
        let (batch, mut start, mut taken) = (self.batches.len() as u32, 0u32, 0u64);
        for (code, count) in placed.runs() {
            // Those without one are nobody's.
            if let Ok(code) = code.parse::<RegionCode>() {
                self.stretches.push(Stretch { code, batch, start, rows: count });
                taken += u64::from(count);
            }
            start += count;
        }
        if taken > 0 {
            let order = placed.order();
            let order_bytes = order.as_ref().map_or(0, |order| order.len() * size_of::<u32>());
            self.bytes += rows.get_array_memory_size() + order_bytes;
            self.batches.push(Batch { rows, order });
        }
        taken
    }

    /// All rows that have a region; those of one region stay in the order in which they were added. None where there are none.
    ///
    /// # Errors
    /// They are too many for one batch.
    pub(super) fn merged(mut self) -> Result<Option<Merged>, LakeError> {
        let Some(first) = self.batches.first() else { return Ok(None) };
        // Stable.
        self.stretches.sort_by_key(|stretch| stretch.code);
        let mut regions: Vec<(RegionCode, u32)> = Vec::new();
        for stretch in &self.stretches {
            match regions.last_mut() {
                Some((code, rows)) if *code == stretch.code => *rows += stretch.rows,
                _ => regions.push((stretch.code, stretch.rows)),
            }
        }
        let all: usize = regions.iter().map(|(_, rows)| *rows as usize).sum();
        let lie_by_region = self.batches.iter().all(|batch| batch.order.is_none());
        let rows = if lie_by_region && all >= self.stretches.len() * TOGETHER_ROWS_MIN {
            let slice = |stretch: &Stretch| {
                let batch = self.batches.get(stretch.batch as usize)?;
                Some(batch.rows.slice(stretch.start as usize, stretch.rows as usize))
            };
            let slices: Vec<RecordBatch> = self.stretches.iter().filter_map(slice).collect();
            match slices.as_slice() {
                [only] => only.clone(),
                slices => concat_batches(&first.rows.schema(), slices).map_err(failed)?,
            }
        } else {
            let mut order: Vec<(usize, usize)> = Vec::with_capacity(all);
            for Stretch { batch, start, rows, .. } in &self.stretches {
                let lies = self.batches.get(*batch as usize).and_then(|batch| batch.order.as_ref());
                let row = |at: u32| lies.and_then(|order| order.values().get(at as usize)).copied().unwrap_or(at);
                order.extend((*start..*start + *rows).map(|at| (*batch as usize, row(at) as usize)));
            }
            let batches: Vec<&RecordBatch> = self.batches.iter().map(|batch| &batch.rows).collect();
            interleave_record_batch(&batches, &order).map_err(failed)?
        };
        Ok(Some(Merged { rows, regions }))
    }
}
