//! What the one who sets a split off gets while it is made: its own rows, as they are read. It never holds the split up: what
//! its reader does not take in time it takes from the split afterwards.

use super::failed;
use crate::lake::error::LakeError;
use crate::lake::regions::Placed;
use crate::lake::scrub::scrub_batch;
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use lingqu_protocol::backflow::RegionSlice;
use lingqu_protocol::region::RegionCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::mpsc;

/// Batches that wait for their reader: one that is sent and one that comes.
const WAITING_MAX: usize = 2;

/// The end that rows are handed to.
pub struct Tap {
    of: RegionSlice,
    sender: mpsc::Sender<RecordBatch>,
    through: Arc<AtomicU32>,
}

/// The end that they come out of.
pub struct Tapped {
    receiver: mpsc::Receiver<RecordBatch>,
    through: Arc<AtomicU32>,
}

/// For the rows of this slice.
pub fn tap(of: RegionSlice) -> (Tap, Tapped) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let through = Arc::new(AtomicU32::new(0));
    (Tap { of, sender, through: Arc::clone(&through) }, Tapped { receiver, through })
}

impl Tap {
    /// Hands on what of a batch belongs to the slice; gives whether it did, and the next batch may come.
    pub(super) fn offer(&self, batch: u32, rows: &RecordBatch, placed: &Placed) -> Result<bool, LakeError> {
        let is_mine = |code: &String| code.parse::<RegionCode>().is_ok_and(|code| self.of.contains(code));
        let codes: Vec<bool> = placed.codes().iter().map(is_mine).collect();
        if codes.contains(&true) {
            let mine = if codes.contains(&false) {
                let mask: BooleanArray = placed.ranks().iter().map(|rank| codes.get(*rank as usize).copied()).collect();
                filter_record_batch(rows, &mask).map_err(failed)?
            } else {
                rows.clone()
            };
            if self.sender.try_send(scrub_batch(&mine)?).is_err() {
                // It is slow, or gone: from here on it reads the split as everybody does.
                return Ok(false);
            }
        }
        self.through.store(batch + 1, Ordering::Release);
        Ok(true)
    }
}

impl Tapped {
    /// The next rows; none when no more come this way.
    pub async fn next(&mut self) -> Option<RecordBatch> {
        self.receiver.recv().await
    }

    /// So many batches of the split were handed on to the end, once no more come: what is left is [`Slice::after`] them.
    ///
    /// [`Slice::after`]: super::Slice::after
    pub fn through(&self) -> u32 {
        self.through.load(Ordering::Acquire)
    }
}
