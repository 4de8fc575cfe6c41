//! Where a part's bytes come from, as Parquet's reader takes them: ranges that were read and checked before, or a
//! provider's own file, read from its segments as it is needed, each mebibyte checked against its value.

use super::error::LakeError;
use super::manifest::FilePlace;
use super::segment::SegmentStore;
use bytes::{Bytes, BytesMut};
use lingqu_protocol::digest::CHUNK_BYTES;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::plan::{Plan, SEGMENT_CHUNKS};
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};
use std::collections::VecDeque;
use std::io::{self, Cursor, Read};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;

/// Mebibytes of files that all readers of a gateway keep: one for each column of a table of usual width, and for two that
/// are read at a time, of which some lie in one mebibyte with their neighbours.
const KEPT_CHUNKS: usize = 30;

/// Chunks of files that were read a moment ago, for all readers together. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ChunkCache(Arc<Mutex<VecDeque<Kept>>>);

/// A chunk: transfer, file, place.
type Key = (TransferId, u32, u64);

type Kept = (Key, Bytes);

impl ChunkCache {
    fn get(&self, key: Key) -> Option<Bytes> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(known, _)| *known == key)?;
        let found = kept.remove(at)?;
        let bytes = found.1.clone();
        kept.push_back(found);
        Some(bytes)
    }

    /// Gives all of it back: what comes next needs the memory more.
    pub fn clear(&self) {
        let kept = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        drop(kept);
    }

    fn put(&self, key: Key, bytes: Bytes) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_CHUNKS {
            kept.pop_front();
        }
        kept.push_back((key, bytes));
    }
}

/// A part's bytes.
#[derive(Clone)]
pub(crate) enum Source {
    /// Ranges of an object.
    Pieces(Pieces),
    /// A file in segments.
    File(Arc<FileChunks>),
}

/// A part of which only some ranges were read.
#[derive(Clone)]
pub(crate) struct Pieces {
    pub(crate) object_bytes: u64,
    pub(crate) pieces: Vec<(u64, Bytes)>,
}

/// A file of a set, read chunk by chunk. Reading blocks: it belongs on a blocking thread of the runtime.
pub(crate) struct FileChunks {
    store: SegmentStore,
    cache: ChunkCache,
    transfer: TransferId,
    file: u32,
    plan: Arc<Plan>,
    bytes: u64,
    /// The segments that hold it, in order.
    segments: Vec<u32>,
    runtime: Handle,
    /// Why the lake could not give a chunk: Parquet's errors keep no more than its words.
    fault: Mutex<Option<LakeError>>,
}

impl FileChunks {
    /// Opens a file of a set for reading on this runtime.
    pub(crate) fn open(
        store: SegmentStore,
        cache: ChunkCache,
        place: &FilePlace,
    ) -> std::result::Result<Self, LakeError> {
        let plan = Plan::new(place.sizes.to_vec()).map_err(|e| LakeError::columns("planning a set of files", e))?;
        Ok(Self::of_plan(store, cache, place.transfer, place.file, Arc::new(plan)))
    }

    /// The same with a plan that is known.
    pub(crate) fn of_plan(
        store: SegmentStore,
        cache: ChunkCache,
        transfer: TransferId,
        file: u32,
        plan: Arc<Plan>,
    ) -> Self {
        let bytes = plan.sizes().get(file as usize).copied().unwrap_or(0);
        let segments = plan.segments_of(file);
        Self {
            store,
            cache,
            transfer,
            file,
            plan,
            bytes,
            segments,
            runtime: Handle::current(),
            fault: Mutex::default(),
        }
    }

    fn chunk(&self, chunk: u64) -> Result<Bytes> {
        let key = (self.transfer, self.file, chunk);
        if let Some(bytes) = self.cache.get(key) {
            return Ok(bytes);
        }
        let bytes = self.read_chunk(chunk).map_err(|error| {
            let words = ParquetError::General(error.to_string());
            *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            words
        })?;
        self.cache.put(key, bytes.clone());
        Ok(bytes)
    }

    fn read_chunk(&self, chunk: u64) -> std::result::Result<Bytes, LakeError> {
        let outside = || LakeError::columns("reading a file", "a range outside of it");
        let place = usize::try_from(chunk / u64::from(SEGMENT_CHUNKS)).map_err(|_| outside())?;
        let segment = *self.segments.get(place).ok_or_else(outside)?;
        let items = self.plan.items(segment).ok_or_else(outside)?;
        let item = items.iter().position(|item| (item.file, item.chunk) == (self.file, chunk)).ok_or_else(outside)?;
        self.runtime.block_on(async {
            let reader = self.store.open(self.transfer, &self.plan, segment).await?;
            reader.read_item(item as u32).await
        })
    }

    /// Its transfer, and its number in the set.
    pub(crate) const fn name(&self) -> (TransferId, u32) {
        (self.transfer, self.file)
    }

    /// Why the last read failed, where it was the lake: what is damaged at rest is not the decoder's fault.
    pub(crate) fn take_fault(&self) -> Option<LakeError> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Some of its bytes.
    pub(crate) fn range(&self, start: u64, length: usize) -> Result<Bytes> {
        // Checked before memory is taken for it: lengths come from the file.
        let end = start.checked_add(length as u64).filter(|end| *end <= self.bytes);
        let end = end.ok_or_else(|| ParquetError::EOF(format!("{length} bytes at {start} lie outside the file")))?;
        let first = start / CHUNK_BYTES;
        let skip = (start % CHUNK_BYTES) as usize;
        if end <= (first + 1) * CHUNK_BYTES {
            let chunk = self.chunk(first)?;
            return chunk.get(skip..skip + length).map(|_| chunk.slice(skip..skip + length)).ok_or_else(short);
        }
        let mut whole = BytesMut::with_capacity(length);
        let (mut chunk, mut skip) = (first, skip);
        while whole.len() < length {
            let bytes = self.chunk(chunk)?;
            let piece = bytes.get(skip..).filter(|piece| !piece.is_empty()).ok_or_else(short)?;
            whole.extend_from_slice(piece.get(..length - whole.len()).unwrap_or(piece));
            (chunk, skip) = (chunk + 1, 0);
        }
        Ok(whole.freeze())
    }
}

impl Pieces {
    fn at(&self, start: u64) -> Result<Bytes> {
        let within = self.pieces.iter().find_map(|(offset, bytes)| {
            let skip = usize::try_from(start.checked_sub(*offset)?).ok()?;
            (skip < bytes.len()).then(|| bytes.slice(skip..))
        });
        within.ok_or_else(|| ParquetError::General("a range that was not read".to_owned()))
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        match self {
            Self::Pieces(pieces) => pieces.object_bytes,
            Self::File(file) => file.bytes,
        }
    }
}

impl ChunkReader for Source {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(match self {
            Self::Pieces(pieces) => Box::new(Cursor::new(pieces.at(start)?)),
            Self::File(file) => Box::new(FileRead { file: file.clone(), at: start }),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        match self {
            Self::Pieces(pieces) => {
                let bytes = pieces.at(start)?;
                if bytes.len() < length { Err(short()) } else { Ok(bytes.slice(..length)) }
            }
            Self::File(file) => file.range(start, length),
        }
    }
}

struct FileRead {
    file: Arc<FileChunks>,
    at: u64,
}

impl Read for FileRead {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() || self.at >= self.file.bytes {
            return Ok(0);
        }
        let chunk = self.file.chunk(self.at / CHUNK_BYTES).map_err(io::Error::other)?;
        let rest = chunk.get((self.at % CHUNK_BYTES) as usize..).unwrap_or_default();
        let bytes = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..bytes), rest.get(..bytes)) {
            to.copy_from_slice(from);
        }
        self.at += bytes as u64;
        Ok(bytes)
    }
}

fn short() -> ParquetError {
    ParquetError::EOF("a range ends early".to_owned())
}
