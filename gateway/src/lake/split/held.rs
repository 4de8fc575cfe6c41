//! What holds the messages of a split: memory, or objects beside the lake. Slices hold it too, for as long as they are sent.

use super::Run;
use crate::lake::error::LakeError;
use crate::lake::store::Lake;
use bytes::Bytes;
use lingqu_protocol::ipc::Decoder;
use object_store::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Messages of some runs, one after the other.
pub(super) enum Block {
    Memory(Bytes),
    /// An object beside the lake.
    Disk(Path),
    /// It was to leave memory, and there was no room beside the lake.
    Gone,
}

#[derive(Default)]
struct Blocks {
    list: Vec<Block>,
    memory_bytes: usize,
    disk_bytes: u64,
}

/// The rows of a split.
pub struct Held {
    lake: Lake,
    folder: Path,
    /// The message of the schema, which whoever decodes needs first.
    head: Bytes,
    blocks: RwLock<Blocks>,
    is_beside: AtomicBool,
}

/// Where a block is.
enum Place {
    Memory(Bytes),
    Disk(Path),
}

impl Held {
    pub(super) fn new(lake: Lake, folder: Path, head: Bytes) -> Self {
        Self { lake, folder, head, blocks: RwLock::default(), is_beside: AtomicBool::new(false) }
    }

    /// Bytes of memory that the rows take.
    pub fn memory_bytes(&self) -> usize {
        self.read().memory_bytes
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
        let in_memory: Vec<(usize, Bytes)> = {
            let blocks = self.read();
            let in_memory = |(at, block): (usize, &Block)| match block {
                Block::Memory(messages) => Some((at, messages.clone())),
                Block::Disk(_) | Block::Gone => None,
            };
            blocks.list.iter().enumerate().filter_map(in_memory).collect()
        };
        let mut outcome = Ok(());
        for (at, messages) in in_memory {
            let bytes = messages.len() as u64;
            outcome = self.put(at, messages).await.map(|object| {
                let mut blocks = self.write();
                blocks.disk_bytes += bytes;
                if let Some(block) = blocks.list.get_mut(at) {
                    *block = Block::Disk(object);
                }
            });
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

    /// Puts the messages of a block beside the lake; gives the object.
    pub(super) async fn put(&self, block: usize, messages: Bytes) -> Result<Path, LakeError> {
        let object = self.folder.clone().join(block.to_string());
        // From here on something of it may lie there.
        self.is_beside.store(true, Ordering::Release);
        self.lake.put_new(&object, vec![messages]).await?;
        Ok(object)
    }

    pub(super) fn fill(&self, list: Vec<Block>, memory_bytes: usize, disk_bytes: u64) {
        *self.write() = Blocks { list, memory_bytes, disk_bytes };
    }

    /// What decodes messages of it.
    pub(super) fn decoder(&self) -> Result<Decoder, LakeError> {
        let mut decoder = Decoder::default();
        decoder.decode(self.head.clone()).map_err(damaged)?;
        Ok(decoder)
    }

    /// What is kept of these runs. Those that lie side by side are read at once; those from beside the lake are checked.
    pub(super) async fn kept(&self, runs: &[Run]) -> Result<Vec<Bytes>, LakeError> {
        let mut found = Vec::with_capacity(runs.len());
        let is_next = |a: &Run, b: &Run| a.block == b.block && a.at + a.kept_bytes == b.at;
        for side_by_side in runs.chunk_by(is_next) {
            let (Some(first), Some(last)) = (side_by_side.first(), side_by_side.last()) else { continue };
            let range = first.at as usize..last.at as usize + last.kept_bytes as usize;
            let place = self.place(first.block)?;
            let is_inside = |messages: &Bytes| range.end <= messages.len();
            let (all, is_checked) = match place {
                // A copy: whoever is slow would hold the whole block, wherever the rest of it went meanwhile.
                Place::Memory(messages) if is_inside(&messages) => {
                    let copied = messages.get(range).map(Bytes::copy_from_slice);
                    (copied.unwrap_or_default(), true)
                }
                Place::Memory(_) => return Err(damaged("a run outside of its block")),
                Place::Disk(object) => (self.lake.range(&object, range.start as u64..range.end as u64).await?, false),
            };
            for run in side_by_side {
                let start = (run.at - first.at) as usize;
                let end = start + run.kept_bytes as usize;
                if all.len() < end {
                    return Err(damaged("it is shorter than it was"));
                }
                let kept = all.slice(start..end);
                if !is_checked && !run.is_kept_as(&kept) {
                    return Err(damaged("its bytes are not those that were written"));
                }
                found.push(kept);
            }
        }
        Ok(found)
    }

    fn place(&self, block: u32) -> Result<Place, LakeError> {
        match self.read().list.get(block as usize) {
            Some(Block::Memory(messages)) => Ok(Place::Memory(messages.clone())),
            Some(Block::Disk(object)) => Ok(Place::Disk(object.clone())),
            Some(Block::Gone) => Err(damaged("its memory was needed, and there was no room beside the lake")),
            None => Err(damaged("a block that is none")),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Blocks> {
        self.blocks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Blocks> {
        self.blocks.write().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn damaged(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LakeError {
    LakeError::columns("reading a split", why)
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
