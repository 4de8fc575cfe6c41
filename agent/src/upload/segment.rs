//! Reading one segment of a set from its sources, with the value of every item.

use crate::error::{AgentError, Told};
use bytes::{Bytes, BytesMut};
use lingqu_protocol::digest::{CHUNK_BYTES, ChunkValue, chunk_value};
use lingqu_protocol::frame;
use lingqu_protocol::host::{Disk, DiskFile};
use lingqu_protocol::plan::{Item, Plan};
use std::io;
use std::path::Path;
use tokio::sync::mpsc;

use crate::outbox::SourceFile;

/// Chunks read ahead of the network on one stream: one is sent, two wait, one is read.
pub(super) const READ_AHEAD: usize = 2;

/// Frames that are ready to go.
#[derive(Debug)]
pub(super) struct Piece {
    /// To be sent in order.
    pub(super) frames: [Bytes; 2],
    /// Bytes of files among them.
    pub(super) bytes: u64,
}

/// Reads segment `index` and hands its frames to `out`, or to nobody where it is only read again. Gives the values of
/// its items; `None` where the receiver went away.
///
/// Blocks; at most a few chunks are held at a time.
pub(super) fn read_segment(
    disk: &dyn Disk,
    files: &[SourceFile],
    plan: &Plan,
    index: u32,
    out: Option<&mpsc::Sender<Piece>>,
) -> Result<Option<Vec<ChunkValue>>, AgentError> {
    let items = plan.items(index).unwrap_or_default();
    let mut values = Vec::with_capacity(items.len());
    let mut open: Option<(u32, Box<dyn DiskFile>)> = None;
    // Small items share a buffer; a full chunk is handed on without a copy.
    let mut packed = BytesMut::new();
    let mut packed_bytes = 0;
    let send = |piece: Piece| out.is_none_or(|out| out.blocking_send(piece).is_ok());
    for (position, item) in (0u32..).zip(items) {
        let Some(source) = files.get(item.file as usize) else { return Ok(None) };
        if open.as_ref().is_none_or(|(file, _)| *file != item.file) {
            open = Some((item.file, disk.open(&source.path).map_err(|e| unreadable(&source.path, &e))?));
        }
        let Some((_, file)) = &open else { return Ok(None) };
        let mut data = BytesMut::zeroed(item.bytes as usize);
        file.read_exact_at(&mut data, item.file_offset()).map_err(|e| unreadable(&source.path, &e))?;
        let value = chunk_value(&data, item.chunk, source.bytes);
        values.push(value);
        if out.is_none() {
            continue;
        }
        let head =
            frame::item_head(position, &value, item.bytes).map_err(lingqu_protocol::session::SessionError::from)?;
        packed.extend_from_slice(&head);
        packed_bytes += u64::from(item.bytes);
        let data = if is_large(&item) {
            data.freeze()
        } else {
            packed.extend_from_slice(&data);
            Bytes::new()
        };
        if !data.is_empty() || packed.len() as u64 >= CHUNK_BYTES {
            let piece = Piece { frames: [packed.split().freeze(), data], bytes: std::mem::take(&mut packed_bytes) };
            if !send(piece) {
                return Ok(None);
            }
        }
    }
    if !packed.is_empty() && !send(Piece { frames: [packed.freeze(), Bytes::new()], bytes: packed_bytes }) {
        return Ok(None);
    }
    Ok(Some(values))
}

/// An item whose copy would cost more than a frame of its own.
const fn is_large(item: &Item) -> bool {
    item.bytes as u64 > CHUNK_BYTES / 8
}

/// A source that was there when the transfer was written down and now cannot be read.
fn unreadable(path: &Path, error: &io::Error) -> AgentError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound => changed(path),
        _ => AgentError::io("reading", path, error),
    }
}

/// A source whose bytes are not what they were.
pub(super) fn changed(path: &Path) -> AgentError {
    let path = path.display();
    AgentError::Data(
        Told::new(
            "source_changed",
            format!("the source changed since the first attempt: {path}"),
            format!("源文件自首次传输以来已改变：{path}"),
        )
        .next("send it as a new transfer", "请作为新的传输重新发送"),
    )
}
