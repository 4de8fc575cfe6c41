//! What a pull of rows has got so far, so that it can go on: the frames themselves, in a file beside the output, and the
//! gateway's last mark up to which they are durable.
//!
//! Formats have no state that could be kept in the middle of a file, so a pull that goes on makes its output anew from the
//! frames that it has, and asks the gateway only for the rest. The output is then, byte by byte, what an unbroken pull makes.

use super::staging_path;
use crate::outbox::replace;
use bytes::Bytes;
use lingqu_protocol::digest::{Digest, from_hex, to_hex};
use lingqu_protocol::frame::BATCH_BYTES_MAX;
use lingqu_protocol::host::{Disk, DiskFile};
use lingqu_protocol::ids::TransferId;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes after which frames are made durable: what a pull that is cut has to ask for again, at most.
const DURABLE_EVERY_BYTES: u64 = 16 << 20;

/// Bytes of a state file: a mark and a few numbers.
const STATE_BYTES_MAX: u64 = 64 << 10;

/// Bytes before each frame: its length.
const LENGTH_BYTES: u64 = 4;

/// What came, as counted here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Arrived {
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) bytes_root: Digest,
    pub(super) rows_digest: Digest,
}

/// What is written down of a pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    /// The version that is pulled.
    pub(super) version: u64,
    /// Bytes of the frames that are durable, and whole.
    bytes: u64,
    /// The gateway's mark behind them, in hexadecimal.
    mark: String,
    /// All of it, where the output is whole and durable but for its name.
    pub(super) whole: Option<Arrived>,
}

impl Saved {
    /// Bytes of the frames that are durable.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The gateway's mark.
    pub(super) fn mark(&self) -> Bytes {
        from_hex(&self.mark).unwrap_or_default().into()
    }
}

/// Removes what was kept beside `out`; nothing there is no error.
///
/// # Errors
/// What the disk says.
pub(super) fn remove_beside(disk: &dyn Disk, out: &Path, transfer: TransferId) -> io::Result<()> {
    paths(out, transfer).iter().try_for_each(|path| gone(disk, path))
}

/// State and frames.
fn paths(out: &Path, transfer: TransferId) -> [PathBuf; 2] {
    [".state", ".frames"].map(|end| {
        let mut path = staging_path(out, transfer).into_os_string();
        path.push(end);
        PathBuf::from(path)
    })
}

fn gone(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Where a pull's frames and state lie.
#[derive(Clone)]
pub(super) struct Place {
    disk: Arc<dyn Disk>,
    frames: PathBuf,
    state: PathBuf,
}

impl Place {
    /// Beside `out`.
    pub(super) fn beside(disk: Arc<dyn Disk>, out: &Path, transfer: TransferId) -> Self {
        let [state, frames] = paths(out, transfer);
        Self { disk, frames, state }
    }

    /// What an earlier process wrote down; `None` where there is nothing of use.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn load(&self) -> io::Result<Option<Saved>> {
        let file = match self.disk.open(&self.state) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let bytes = file.len()?;
        if bytes > STATE_BYTES_MAX {
            return Ok(None);
        }
        let mut text = vec![0; bytes as usize];
        file.read_exact_at(&mut text, 0)?;
        let Ok(saved) = serde_json::from_slice::<Saved>(&text) else { return Ok(None) };
        let frames = match self.disk.open(&self.frames) {
            Ok(file) => file.len()?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(e),
        };
        Ok((frames >= saved.bytes).then_some(saved))
    }

    /// Removes both; none there is no error.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn remove(&self) -> io::Result<()> {
        [&self.state, &self.frames].into_iter().try_for_each(|path| gone(&*self.disk, path))
    }

    /// Begins anew, and writes down of which version: who goes on after a kill wants no other.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn begin(&self, version: u64) -> io::Result<Journal> {
        self.remove()?;
        let file = self.disk.create(&self.frames)?;
        self.disk.sync_dir(super::parent(&self.frames))?;
        let saved = Saved { version, bytes: 0, mark: String::new(), whole: None };
        let journal = Journal { place: self.clone(), file, at: 0, saved, first: None };
        journal.write()?;
        Ok(journal)
    }

    /// Goes on after what is durable.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn go_on(&self, saved: Saved) -> io::Result<Journal> {
        let file = self.disk.open_rw(&self.frames)?;
        Ok(Journal { place: self.clone(), file, at: 0, saved, first: None })
    }
}

/// Frames being kept.
pub(super) struct Journal {
    place: Place,
    file: Box<dyn DiskFile>,
    at: u64,
    saved: Saved,
    /// The frame that holds the schema.
    first: Option<Bytes>,
}

impl Journal {
    /// The next frame that is durable from before; `None` after the last.
    ///
    /// # Errors
    /// What the disk says; a length that no frame has.
    pub(super) fn replay(&mut self) -> io::Result<Option<Bytes>> {
        if self.at >= self.saved.bytes {
            return Ok(None);
        }
        let mut length = [0; LENGTH_BYTES as usize];
        self.file.read_exact_at(&mut length, self.at)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > BATCH_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that is longer than any"));
        }
        let mut body = vec![0; length];
        self.file.read_exact_at(&mut body, self.at + LENGTH_BYTES)?;
        self.at += LENGTH_BYTES + length as u64;
        let body = Bytes::from(body);
        self.first.get_or_insert_with(|| body.clone());
        Ok(Some(body))
    }

    /// The frame that holds the schema, where it was kept.
    pub(super) const fn first(&self) -> Option<&Bytes> {
        self.first.as_ref()
    }

    /// Keeps a frame.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn frame(&mut self, body: &Bytes) -> io::Result<()> {
        self.file.write_all_at(&(body.len() as u32).to_be_bytes(), self.at)?;
        self.file.write_all_at(body, self.at + LENGTH_BYTES)?;
        self.at += LENGTH_BYTES + body.len() as u64;
        self.first.get_or_insert_with(|| body.clone());
        Ok(())
    }

    /// Takes the gateway's mark behind the frames so far; makes them durable where there are enough of them.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn mark(&mut self, token: &[u8]) -> io::Result<()> {
        if self.at - self.saved.bytes < DURABLE_EVERY_BYTES {
            return Ok(());
        }
        self.file.sync()?;
        self.saved.bytes = self.at;
        self.saved.mark = to_hex(token);
        self.write()
    }

    /// Writes down that the output is whole and durable.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn whole(&mut self, arrived: &Arrived) -> io::Result<()> {
        self.saved.whole = Some(arrived.clone());
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let text = serde_json::to_vec(&self.saved).map_err(io::Error::other)?;
        replace(&*self.place.disk, &self.place.state, &text)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use lingqu_certs::os::OsDisk;

    #[test]
    fn what_is_durable_is_replayed_and_the_rest_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("rows.parquet");
        let place = Place::beside(Arc::new(OsDisk), &out, TransferId::from_bits(5));
        assert_eq!(place.load().unwrap(), None);
        let mut journal = place.begin(7).unwrap();
        let begun = place.load().unwrap().unwrap();
        assert_eq!((begun.version, begun.bytes(), begun.mark().len()), (7, 0, 0));
        let frame = |byte: u8| Bytes::from(vec![byte; 6 << 20]);
        for byte in 0..4 {
            journal.frame(&frame(byte)).unwrap();
            journal.mark(&[byte]).unwrap();
        }
        // Three frames are more than what is made durable at a time; the fourth was only written.
        let saved = place.load().unwrap().unwrap();
        assert_eq!((saved.version, saved.mark().as_ref()), (7, [2].as_slice()));
        let mut journal = place.go_on(saved).unwrap();
        for byte in 0..3 {
            assert_eq!(journal.replay().unwrap(), Some(frame(byte)));
        }
        assert_eq!(journal.replay().unwrap(), None);
        assert_eq!(journal.first(), Some(&frame(0)));
        journal.frame(&frame(9)).unwrap();
        let arrived =
            Arrived { rows: 1, bytes: 2, bytes_root: Digest::blake3(b"a"), rows_digest: Digest::blake3(b"b") };
        journal.whole(&arrived).unwrap();
        assert_eq!(place.load().unwrap().unwrap().whole, Some(arrived));
        place.remove().unwrap();
        place.remove().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
