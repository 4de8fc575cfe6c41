//! Rows as they are read, until they are put in order together.

use crate::lake::error::LakeError;
use crate::lake::regions::Placed;
use arrow::array::RecordBatch;
use arrow::compute::interleave_record_batch;
use lingqu_protocol::region::RegionCode;

/// Rows that wait to be put in order.
#[derive(Default)]
pub(super) struct Gathered {
    batches: Vec<RecordBatch>,
    pieces: Vec<Piece>,
    bytes: usize,
}

/// Rows of one region that lie one after the other in a batch.
#[derive(Clone, Copy, Debug)]
struct Piece {
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

    /// Takes up rows that lie by their regions; gives how many have one.
    pub(super) fn add(&mut self, rows: RecordBatch, placed: &Placed) -> u64 {
        let (batch, mut start, mut taken) = (self.batches.len() as u32, 0u32, 0u64);
        for (code, count) in placed.runs() {
            if let Ok(code) = code.parse::<RegionCode>() {
                self.pieces.push(Piece { code, batch, start, rows: count });
                taken += u64::from(count);
            }
            start += count;
        }
        if taken > 0 {
            self.bytes += rows.get_array_memory_size();
            self.batches.push(rows);
        }
        taken
    }

    /// All rows that have a region; those of one region stay in the order in which they were added. None where there are none.
    ///
    /// # Errors
    /// They are too many for one batch.
    pub(super) fn merged(mut self) -> Result<Option<Merged>, LakeError> {
        // Stable.
        self.pieces.sort_by_key(|piece| piece.code);
        let mut regions: Vec<(RegionCode, u32)> = Vec::new();
        for piece in &self.pieces {
            match regions.last_mut() {
                Some((code, rows)) if *code == piece.code => *rows += piece.rows,
                _ => regions.push((piece.code, piece.rows)),
            }
        }
        let rows = match (self.batches.as_slice(), self.pieces.first()) {
            ([], _) | (_, None) => return Ok(None),
            // In order already, but for those without a region, which come first.
            ([only], Some(first))
                if first.start + regions.iter().map(|(_, rows)| rows).sum::<u32>() == only.num_rows() as u32 =>
            {
                let start = first.start as usize;
                only.slice(start, only.num_rows() - start)
            }
            (batches, _) => {
                let rows = |piece: &Piece| {
                    let Piece { batch, start, rows, .. } = *piece;
                    (start..start + rows).map(move |row| (batch as usize, row as usize))
                };
                let order: Vec<(usize, usize)> = self.pieces.iter().flat_map(rows).collect();
                let batches: Vec<&RecordBatch> = batches.iter().collect();
                interleave_record_batch(&batches, &order).map_err(|e| LakeError::columns("splitting rows", e))?
            }
        };
        Ok(Some(Merged { rows, regions }))
    }
}
