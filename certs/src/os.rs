//! The real machine behind the ports of [`lingqu_protocol::host`]: the system's clocks, its random generator and its disk.

use lingqu_protocol::host::{Clock, DirEntry, Disk, DiskFile, DiskLock, Entropy, Timestamp};
use ring::rand::{SecureRandom, SystemRandom};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Permissions of a file that only its owner may read.
const SECRET_MODE: u32 = 0o600;

/// Permissions of a file that anyone on the machine may read (certificates, public keys).
const PUBLIC_MODE: u32 = 0o644;

/// Tries for a lock. Looking at one, and removing one, take it for less than a pause.
const LOCK_TRIES: u32 = 4;

/// Between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The system's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Its monotonic time starts now.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        Timestamp(match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => ms(since),
            Err(before) => -ms(before.duration()),
        })
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// The system's random generator.
#[derive(Clone, Debug)]
pub struct OsEntropy(SystemRandom);

impl OsEntropy {
    /// A handle to it.
    pub fn new() -> Self {
        Self(SystemRandom::new())
    }
}

impl Default for OsEntropy {
    fn default() -> Self {
        Self::new()
    }
}

impl Entropy for OsEntropy {
    fn fill(&self, buf: &mut [u8]) -> io::Result<()> {
        self.0.fill(buf).map_err(|_| io::Error::other("the system's random generator failed"))
    }
}

/// The system's disk, with real fsync of files and directories.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

impl Disk for OsDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Box::new(OsFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OsFile(File::open(path)?)))
    }

    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OsFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_dir_all(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        create_dir_all_durably(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|name| {
                io::Error::new(io::ErrorKind::InvalidData, format!("a name that is not UTF-8: {name:?}"))
            })?;
            // A directory of directories is listed without looking at each.
            let is_dir = entry.file_type()?.is_dir();
            let len = match is_dir {
                true => 0,
                false => match entry.metadata() {
                    Ok(meta) => meta.len(),
                    // Another process removed it since.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                },
            };
            entries.push(DirEntry { name, is_dir, len });
        }
        Ok(entries)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        for _ in 0..LOCK_TRIES {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            match file.try_lock() {
                // Its holder may have removed it between our opening and locking it: that one is no lock any more.
                Ok(()) if is_at(&file, path)? => return Ok(Some(Box::new(OsLock { file }))),
                Ok(()) => {}
                // Somebody who looks whether it is held has it for a moment.
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => file.unlock().map(|()| false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

struct OsLock {
    file: File,
}

impl DiskLock for OsLock {}

impl Drop for OsLock {
    fn drop(&mut self) {
        // Closing alone is not enough: a program that another thread starts holds a copy of the file until it has begun.
        // Where it cannot be unlocked, closing is all there is.
        let _ = self.file.unlock();
    }
}

/// Whether `path` still names this file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

struct OsFile(File);

impl DiskFile for OsFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        // The length is needed to read the data back, and fdatasync writes it; times are not.
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// Writes a file that only its owner may read, whole or not at all, durable when this returns.
///
/// # Errors
/// What the system says; what was at `path` is unchanged then, or already replaced where the directory's sync failed.
pub fn write_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, SECRET_MODE)
}

/// Writes a file that others may read, whole or not at all, durable when this returns.
///
/// # Errors
/// As [`write_secret`].
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, PUBLIC_MODE)
}

/// Like [`write_secret`], but never over a file that is there: a key that was made once is not made again.
///
/// # Errors
/// `AlreadyExists` where the name is taken, and what the system says.
pub fn create_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = write_temp(path, bytes, SECRET_MODE)?;
    // A hard link fails where the name is taken; a rename would replace.
    let linked = std::fs::hard_link(&temp, path);
    std::fs::remove_file(&temp)?;
    linked?;
    OsDisk.sync_dir(parent(path))
}

/// Reads a whole file of at most `max` bytes.
///
/// # Errors
/// `NotFound`, `FileTooLarge`, and what the system says.
pub fn read_bounded(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        let text = format!("{} is larger than the {max} bytes that it may have", path.display());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temp = write_temp(path, bytes, mode)?;
    if let Err(error) = std::fs::rename(&temp, path) {
        std::fs::remove_file(&temp)?;
        return Err(error);
    }
    OsDisk.sync_dir(parent(path))
}

/// Writes and syncs a file beside `path`, with the mode set before the first byte.
fn write_temp(path: &Path, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path without a name"))?;
    // Two processes, and two threads of one, must not write the same file.
    let unique = format!(".{}.{}.{}", name.display(), std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
    let temp = path.with_file_name(unique);
    // One that a killed process with this number left behind; its content has no meaning.
    if let Err(error) = std::fs::remove_file(&temp)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temp)?;
    match file.write_all(bytes).and_then(|()| file.sync_all()) {
        Ok(()) => Ok(temp),
        Err(error) => {
            std::fs::remove_file(&temp)?;
            Err(error)
        }
    }
}

fn create_dir_all_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = parent(path);
    create_dir_all_durably(above)?;
    match std::fs::create_dir(path) {
        // Another made it in between; its name may not be synced yet.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other?,
    }
    OsDisk.sync_dir(above)
}

/// The directory that holds `path`'s name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_secret_is_its_owners_alone_and_replaces_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_atomic(&path, b"open").unwrap();
        write_secret(&path, b"secret").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"secret");
        assert_eq!(mode(&path), 0o600);
        let names = OsDisk.read_dir(dir.path()).unwrap();
        assert_eq!(names, [DirEntry { name: "key".into(), is_dir: false, len: 6 }], "no temporary file is left");
    }

    #[test]
    fn a_secret_that_is_there_is_not_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create_secret(&path, b"first").unwrap();
        assert_eq!(create_secret(&path, b"second").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(OsDisk.read_dir(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_file_over_its_bound_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_atomic(&path, &[7; 10]).unwrap();
        assert_eq!(read_bounded(&path, 10).unwrap(), [7; 10]);
        assert_eq!(read_bounded(&path, 9).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn the_disk_does_what_its_port_says() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        OsDisk.create_dir_all(&deep).unwrap();
        OsDisk.create_dir_all(&deep).unwrap();
        let path = deep.join("f");
        let file = OsDisk.create(&path).unwrap();
        assert!(file.is_empty().unwrap());
        file.write_all_at(b"world", 6).unwrap();
        file.write_all_at(b"hello ", 0).unwrap();
        file.sync().unwrap();
        assert_eq!(OsDisk.create(&path).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        let mut buf = [0; 11];
        OsDisk.open(&path).unwrap().read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"hello world");
        let past = OsDisk.open(&path).unwrap().read_exact_at(&mut buf, 1).unwrap_err();
        assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
        OsDisk.rename(&path, &deep.join("g")).unwrap();
        OsDisk.sync_dir(&deep).unwrap();
        assert_eq!(OsDisk.open_rw(&path).err().unwrap().kind(), io::ErrorKind::NotFound);
        OsDisk.remove_dir_all(&dir.path().join("a")).unwrap();
        OsDisk.remove_dir_all(&dir.path().join("a")).unwrap();
        assert!(OsDisk.read_dir(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn clocks_and_entropy_are_the_systems() {
        let clock = SystemClock::new();
        assert!(clock.wall() > Timestamp(1_700_000_000_000));
        assert!(clock.monotonic() <= clock.monotonic());
        let (mut a, mut b) = ([0; 32], [0; 32]);
        OsEntropy::new().fill(&mut a).unwrap();
        OsEntropy::new().fill(&mut b).unwrap();
        assert_ne!(a, b);
    }
}
