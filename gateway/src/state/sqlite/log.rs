//! The log that an earlier process left, made durable before anything in it counts.
//!
//! A commit is durable when the log was synced. Where that sync failed, nothing was acknowledged and the writer stopped; but
//! the kernel may go on showing the commit, and a process that is started again would read it, and answer from it, and lose
//! it with the power. A second sync proves nothing, for the kernel has forgotten that there was something to write. So what
//! the log holds is written again, as it is. Torn in the middle it is what it was: SQLite takes the commits up to the first
//! frame whose checksum does not fit.

use lingqu_protocol::host::Disk;
use std::io;
use std::path::Path;

/// Bytes written at once.
const PIECE_BYTES: u64 = 1 << 20;

/// Writes the file at `path` again in its place and syncs it. One that is empty needs nothing. It costs as much as a log
/// holds between two checkpoints, some megabytes.
///
/// # Errors
/// What the disk says.
pub fn write_again(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let file = disk.open_rw(path)?;
    let bytes = file.len()?;
    if bytes == 0 {
        return Ok(());
    }
    let mut piece = vec![0; PIECE_BYTES.min(bytes) as usize];
    let mut offset = 0;
    while offset < bytes {
        let part = PIECE_BYTES.min(bytes - offset) as usize;
        let piece = piece.get_mut(..part).unwrap_or_default();
        file.read_exact_at(piece, offset)?;
        file.write_all_at(piece, offset)?;
        offset += part as u64;
    }
    file.sync()
}
