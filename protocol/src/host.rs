//! Ports to the machine. The programs never ask the operating system for time, randomness or storage themselves: they are
//! handed these traits by their composition root, so that tests can hand them a clock that jumps and a disk that forgets.

use std::io;
use std::path::Path;
use std::time::Duration;

/// Wall-clock time in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// RFC 3339 in UTC with milliseconds, for people and for JSON.
    pub fn to_rfc3339(self) -> String {
        chrono::DateTime::from_timestamp_millis(self.0)
            .map_or_else(|| format!("{}ms", self.0), |t| t.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
    }

    /// This time moved by `ms` milliseconds, held at the ends of the range.
    #[must_use]
    pub fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

/// The two clocks of a machine. Deadlines of the law use `wall`; leases and time-outs use `monotonic`.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time; may jump.
    fn wall(&self) -> Timestamp;
    /// Time since an arbitrary fixed point; never goes back.
    fn monotonic(&self) -> Duration;
}

/// A source of unpredictable bytes.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `buf`.
    ///
    /// # Errors
    /// When the system's generator fails; the caller must not go on without it.
    fn fill(&self, buf: &mut [u8]) -> io::Result<()>;
}

/// What a directory holds, one name at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Name within the directory.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Length in bytes; 0 for a directory.
    pub len: u64,
}

/// A disk with the promises of POSIX and no more: what was not synced may be lost, and a name is durable only when its
/// directory was synced. Calls block; asynchronous code makes them on a blocking thread.
pub trait Disk: Send + Sync + 'static {
    /// Makes a new file for reading and writing.
    ///
    /// # Errors
    /// `AlreadyExists` where the name is taken, and what the system says.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file for reading.
    ///
    /// # Errors
    /// `NotFound`, and what the system says.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file that exists for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, and what the system says.
    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Renames, replacing what is at `to`.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// `NotFound`, and what the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory that holds nothing.
    ///
    /// # Errors
    /// `NotFound`, `DirectoryNotEmpty`, and what the system says.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all in it; none there is no error.
    ///
    /// # Errors
    /// What the system says.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory and its parents. The new names are durable when this returns.
    ///
    /// # Errors
    /// What the system says.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// What the system says. A failed sync is never tried again: the pages may be gone.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Lists a directory, in no order.
    ///
    /// # Errors
    /// `NotFound`, and what the system says.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Takes the lock of a file, which is made where it is not there; `None` where another holds it. It is given back when
    /// it is dropped and when the process dies. The file may be removed by who holds its lock, and by nobody else.
    ///
    /// # Errors
    /// What the system says.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>>;
    /// Whether another holds the lock of a file; a file that is not there has none.
    ///
    /// # Errors
    /// What the system says.
    fn is_locked(&self, path: &Path) -> io::Result<bool>;
}

/// A lock that is held.
pub trait DiskLock: Send + Sync {}

/// Makes a directory of the program's own, and its parents, durably.
///
/// One that is there and empty is made anew: it may be what a failed sync of its name left, and a second sync of that name
/// would answer that all is well (see [`Disk::sync_dir`]). One that holds something was durable before that was put in it.
/// Nobody else may be about to put something into the directory meanwhile.
///
/// # Errors
/// What the system says.
pub fn make_own_dir(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    use io::ErrorKind::{DirectoryNotEmpty, NotADirectory, NotFound, PermissionDenied, ResourceBusy};
    match disk.remove_dir(path) {
        Ok(()) => {}
        // In use; not there; or made by somebody else: a link, a mounted disk, a folder in a place that is not ours.
        Err(error)
            if matches!(
                error.kind(),
                DirectoryNotEmpty | NotFound | NotADirectory | ResourceBusy | PermissionDenied
            ) => {}
        Err(error) => return Err(error),
    }
    disk.create_dir_all(path)
}

/// A file open on a [`Disk`].
pub trait DiskFile: Send + Sync {
    /// Reads at `offset` until `buf` is full.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file ends first, and what the system says.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `buf` at `offset`.
    ///
    /// # Errors
    /// What the system says; `StorageFull` when there is no room. Any part may have been written.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the content durable (not the name: see [`Disk::sync_dir`]).
    ///
    /// # Errors
    /// What the system says. A failed sync is never tried again: the pages may be gone.
    fn sync(&self) -> io::Result<()>;
    /// Length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// What the system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}
