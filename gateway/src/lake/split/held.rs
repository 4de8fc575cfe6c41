//! What holds the rows of a split: memory, or objects beside the lake. Slices hold it too, for as long as they are sent.

use super::{Message, Run, cut, message};
use crate::lake::error::LakeError;
use crate::lake::regions::Placed;
use crate::lake::store::Lake;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use lingqu_protocol::ipc::{Decoder, Encoder};
use object_store::path::Path;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Rows of some regions, in their order.
pub(super) enum Block {
    Memory(RecordBatch),
    /// An object of messages.
    Disk(Path),
    /// It was to leave memory, and there was no room beside the lake.
    Gone,
}

#[derive(Default)]
struct Blocks {
    list: Vec<Block>,
    /// Messages of runs that were in memory first, by their block and first row.
    moved: HashMap<(u32, u32), Message>,
    memory_bytes: usize,
    disk_bytes: u64,
}

/// The rows of a split.
pub struct Held {
    lake: Lake,
    folder: Path,
    schema: SchemaRef,
    /// The message of the schema, which whoever decodes needs first.
    head: Bytes,
    region: usize,
    blocks: RwLock<Blocks>,
    is_beside: AtomicBool,
}

impl Held {
    pub(super) fn new(lake: Lake, folder: Path, schema: SchemaRef, head: Bytes, region: usize) -> Self {
        Self { lake, folder, schema, head, region, blocks: RwLock::default(), is_beside: AtomicBool::new(false) }
    }

    /// Bytes of memory that the rows take.
    pub fn memory_bytes(&self) -> usize {
        let blocks = self.read();
        blocks.memory_bytes + blocks.moved.len() * (size_of::<Message>() + 16)
    }

    /// Whether rows of it are in memory.
    pub fn is_in_memory(&self) -> bool {
        self.read().memory_bytes > 0
    }

    /// Bytes beside the lake.
    pub fn disk_bytes(&self) -> u64 {
        self.read().disk_bytes
    }

    /// Moves its rows out of memory, beside the lake, from where each slice is read as it is needed. Where there is no room,
    /// they are let go all the same: whoever reads them then fails, asks again, and they are split anew.
    ///
    /// # Errors
    /// There was no room.
    pub async fn move_out(&self) -> Result<(), LakeError> {
        let in_memory: Vec<(usize, RecordBatch)> = {
            let blocks = self.read();
            let in_memory = |(at, block): (usize, &Block)| match block {
                Block::Memory(rows) => Some((at, rows.clone())),
                Block::Disk(_) | Block::Gone => None,
            };
            blocks.list.iter().enumerate().filter_map(in_memory).collect()
        };
        let mut outcome = Ok(());
        for (at, rows) in in_memory {
            outcome = self.move_block(at, &rows).await;
            if outcome.is_err() {
                break;
            }
        }
        self.let_go();
        outcome
    }

    /// Lets go what is in memory still.
    pub(super) fn let_go(&self) {
        let mut blocks = self.write();
        blocks.memory_bytes = 0;
        for block in &mut blocks.list {
            if matches!(block, Block::Memory(_)) {
                *block = Block::Gone;
            }
        }
    }

    async fn move_block(&self, at: usize, rows: &RecordBatch) -> Result<(), LakeError> {
        let failed = |e| LakeError::columns("moving a split", e);
        let mut encoder = Encoder::new(self.schema.clone()).map_err(failed)?;
        encoder.schema().map_err(failed)?;
        let (mut pieces, mut messages, mut offset) = (Vec::new(), Vec::new(), 0usize);
        let placed = Placed::of(rows, Some(self.region), 0)?;
        let regions = placed.runs().filter_map(|(code, count)| Some((code.parse().ok()?, count)));
        for (_, start, count) in cut(rows, regions) {
            let (of, bytes, digest) = message(&mut encoder, &rows.slice(start as usize, count as usize))?;
            messages.push(((at as u32, start), Message { at: offset as u32, bytes: bytes as u32, digest }));
            pieces.extend(of);
            offset += bytes;
        }
        let object = self.object(at);
        self.is_beside();
        self.lake.put_new(&object, pieces).await?;
        let mut blocks = self.write();
        blocks.disk_bytes += offset as u64;
        blocks.moved.extend(messages);
        if let Some(block) = blocks.list.get_mut(at) {
            *block = Block::Disk(object);
        }
        Ok(())
    }

    pub(super) const fn lake(&self) -> &Lake {
        &self.lake
    }

    pub(super) fn object(&self, number: usize) -> Path {
        self.folder.clone().join(number.to_string())
    }

    /// From here on something of it may lie beside the lake.
    pub(super) fn is_beside(&self) {
        self.is_beside.store(true, Ordering::Release);
    }

    pub(super) fn fill(&self, list: Vec<Block>, memory_bytes: usize, disk_bytes: u64) {
        *self.write() = Blocks { list, moved: HashMap::new(), memory_bytes, disk_bytes };
    }

    /// The rows of a run.
    pub(super) async fn rows(&self, run: &Run) -> Result<RecordBatch, LakeError> {
        let damaged = |why: &str| LakeError::columns("reading a split", why);
        let (object, message) = {
            let blocks = self.read();
            match blocks.list.get(run.block as usize) {
                Some(Block::Memory(batch)) => return Ok(batch.slice(run.start as usize, run.rows as usize)),
                Some(Block::Disk(object)) => {
                    let message = run.message.or_else(|| blocks.moved.get(&(run.block, run.start)).copied());
                    (object.clone(), message.ok_or_else(|| damaged("a run without a message"))?)
                }
                Some(Block::Gone) => {
                    return Err(damaged("its memory was needed, and there was no room beside the lake"));
                }
                None => return Err(damaged("a block that is none")),
            }
        };
        let range: Range<u64> = u64::from(message.at)..u64::from(message.at) + u64::from(message.bytes);
        let body = self.lake.range(&object, range).await?;
        if *blake3::hash(&body).as_bytes() != message.digest {
            return Err(damaged("its bytes are not those that were written"));
        }
        let mut decoder = Decoder::default();
        let decoded = decoder.decode(self.head.clone()).and_then(|_| decoder.decode(body));
        let batch = decoded.map_err(|e| LakeError::columns("reading a split", e))?;
        batch.ok_or_else(|| damaged("no rows in a run"))
    }

    fn read(&self) -> RwLockReadGuard<'_, Blocks> {
        self.blocks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Blocks> {
        self.blocks.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_beside.load(Ordering::Acquire) {
            return;
        }
        let (lake, folder) = (self.lake.clone(), self.folder.clone());
        // Without a runtime the process ends, and the next start removes it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = lake.remove_all(&folder).await {
                    tracing::warn!(%error, "a split could not be removed; the next start does");
                }
            });
        }
    }
}
