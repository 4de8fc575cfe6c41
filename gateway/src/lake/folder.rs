//! The blocking half of the local store: objects as files of one folder, which this process alone owns.
//!
//! A put is a temporary file in the same directory, synced, renamed, and its directory synced: after that it survives
//! power loss, before that no reader sees it.

use bytes::Bytes;
use lingqu_protocol::host::{Disk, DiskFile};
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Starts the name of a file that is being written. No object's name starts with a dot, so none is mistaken for it.
const TEMPORARY: &str = ".put-";

/// Directories remembered as durable: one for each transfer under way and room for more; forgetting costs a sync.
const KNOWN_MAX: usize = 4096;

/// Directories that can be synced at the same time, if they are lucky: more than a disk does at once.
const SYNC_LOCKS: usize = 16;

/// Bytes in one path component: what file systems take, less room for a temporary name.
const COMPONENT_BYTES_MAX: usize = 200;

/// Components in an object's path: the layout uses three, quarantine adds one.
const COMPONENTS_MAX: usize = 8;

/// What directories are known to be.
#[derive(Default)]
struct Directories {
    /// Made, and their names durable up to the root.
    durable: HashSet<PathBuf>,
    /// A sync of theirs, or of their own name, failed. Which names are on the disk is not known, and asking again may
    /// answer falsely that all are: nothing is put in them or below until a restart, which finds them empty and makes
    /// them anew, or finds what was durable before.
    failed: HashSet<PathBuf>,
}

/// Objects with their lengths, and directories, each in order.
pub(crate) type Listing = (Vec<(String, u64)>, Vec<String>);

/// Objects as files of one folder.
pub(crate) struct Folder {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    temporaries: AtomicU64,
    directories: Mutex<Directories>,
    /// Held while looking whether a name is taken and taking it. No other process writes here.
    names: Mutex<()>,
    /// One is held while a directory is synced and the outcome noted, so that nobody takes the success of a later sync
    /// for the fate of names that a failed one lost. Which one follows from the directory: others do not wait.
    syncs: [Mutex<()>; SYNC_LOCKS],
}

impl Folder {
    /// Opens the folder, making it where it is not there. Removes what a crash left half written and makes every name
    /// that is seen durable: a name whose sync a crash prevented would else be taken for acknowledged.
    pub(crate) fn open(disk: Arc<dyn Disk>, root: PathBuf) -> io::Result<Self> {
        disk.create_dir_all(&root)?;
        root.parent().map_or(Ok(()), |parent| disk.sync_dir(parent))?;
        let folder = Self {
            disk,
            root,
            temporaries: AtomicU64::new(0),
            directories: Mutex::default(),
            names: Mutex::new(()),
            syncs: Default::default(),
        };
        let mut left = vec![folder.root.clone()];
        while let Some(dir) = left.pop() {
            for entry in folder.disk.read_dir(&dir)? {
                let path = dir.join(&entry.name);
                if entry.is_dir {
                    if folder.disk.read_dir(&path)?.is_empty() {
                        folder.disk.remove_dir_all(&path)?;
                    } else {
                        left.push(path);
                    }
                } else if entry.name.starts_with(TEMPORARY) {
                    folder.disk.remove(&path)?;
                }
            }
            folder.disk.sync_dir(&dir)?;
        }
        Ok(folder)
    }

    /// Puts an object whole and durable. With `create`, an object that is there is left and the error is
    /// `AlreadyExists`. After an error nothing of it is there; where the directory's sync failed, what it replaced is
    /// gone too.
    pub(crate) fn put(&self, object: &str, pieces: &[Bytes], create: bool) -> io::Result<()> {
        let path = self.path(object)?;
        let dir = path.parent().unwrap_or(&self.root).to_path_buf();
        if create && self.exists(&path)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.make_directory(&dir)?;
        let temporary = dir.join(format!("{TEMPORARY}{}", self.temporaries.fetch_add(1, Ordering::Relaxed)));
        let written = self.write(&temporary, pieces).and_then(|()| {
            let _held = lock(&self.names);
            if create && self.exists(&path)? {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            self.disk.rename(&temporary, &path)
        });
        if let Err(error) = written {
            self.discard(&temporary);
            return Err(error);
        }
        self.sync_directory(&dir).inspect_err(|_| self.discard(&path))
    }

    /// Length of an object.
    pub(crate) fn len(&self, object: &str) -> io::Result<u64> {
        self.disk.open(&self.path(object)?)?.len()
    }

    /// Opens an object for reading.
    pub(crate) fn open_object(&self, object: &str) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open(&self.path(object)?)
    }

    /// Removes objects, durably; those that are not there are no error. The first error ends it.
    pub(crate) fn remove(&self, objects: &[String]) -> io::Result<()> {
        let mut touched = HashSet::new();
        for object in objects {
            let path = self.path(object)?;
            match self.disk.remove(&path) {
                Ok(()) => {
                    touched.extend(path.parent().map(Path::to_path_buf));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        touched.iter().try_for_each(|dir| self.sync_directory(dir))
    }

    /// Renames an object, durably.
    pub(crate) fn rename(&self, from: &str, to: &str, create: bool) -> io::Result<()> {
        let (from, to) = (self.path(from)?, self.path(to)?);
        let (from_dir, to_dir) = (from.parent().unwrap_or(&self.root), to.parent().unwrap_or(&self.root));
        self.make_directory(to_dir)?;
        {
            let _held = lock(&self.names);
            if create && self.exists(&to)? {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            self.disk.rename(&from, &to)?;
        }
        self.sync_directory(to_dir)?;
        self.sync_directory(from_dir)
    }

    /// What one directory of objects holds; nothing where there is no such directory.
    pub(crate) fn list(&self, prefix: &str) -> io::Result<Listing> {
        let path = if prefix.is_empty() { self.root.clone() } else { self.path(prefix)? };
        let entries = match self.disk.read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Vec::new(),
            Err(error) => return Err(error),
        };
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        for entry in entries.into_iter().filter(|e| !e.name.starts_with('.')) {
            let name = if prefix.is_empty() { entry.name } else { format!("{prefix}/{}", entry.name) };
            if entry.is_dir { directories.push(name) } else { files.push((name, entry.len)) }
        }
        files.sort();
        directories.sort();
        Ok((files, directories))
    }

    fn write(&self, temporary: &Path, pieces: &[Bytes]) -> io::Result<()> {
        let file = self.disk.create(temporary)?;
        let mut offset = 0;
        for piece in pieces {
            file.write_all_at(piece, offset)?;
            offset += piece.len() as u64;
        }
        file.sync()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.disk.open(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes what a failed put left, so that its space is given back at once. Where that fails too, the next start
    /// does it.
    fn discard(&self, path: &Path) {
        match self.disk.remove(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "could not remove what a failed put left"),
        }
    }

    /// Makes a directory and its name durable, from the root down. Others wait meanwhile: nothing may be acknowledged in
    /// a directory that was made but is not durable yet.
    fn make_directory(&self, dir: &Path) -> io::Result<()> {
        let mut directories = lock(&self.directories);
        refuse_failed(&directories, dir)?;
        if directories.durable.contains(dir) {
            return Ok(());
        }
        if directories.durable.len() >= KNOWN_MAX {
            directories.durable.clear();
        }
        let mut levels: Vec<&Path> = dir.ancestors().take_while(|level| **level != self.root).collect();
        levels.reverse();
        for level in levels {
            if directories.durable.contains(level) {
                continue;
            }
            // It may be there from before and its name not durable, so its parent is synced in any case.
            let made = self.disk.create_dir_all(level);
            if let Err(error) = made.and_then(|()| level.parent().map_or(Ok(()), |parent| self.disk.sync_dir(parent))) {
                // No room is no failed sync: it may be tried again when there is some.
                if error.kind() != io::ErrorKind::StorageFull {
                    directories.failed.insert(level.to_path_buf());
                }
                return Err(error);
            }
            directories.durable.insert(level.to_path_buf());
        }
        Ok(())
    }

    fn sync_directory(&self, dir: &Path) -> io::Result<()> {
        let mut hasher = DefaultHasher::new();
        dir.hash(&mut hasher);
        let _held = self.syncs.get(hasher.finish() as usize % SYNC_LOCKS).map(lock);
        let synced = self.disk.sync_dir(dir);
        let mut directories = lock(&self.directories);
        if synced.is_err() {
            directories.failed.insert(dir.to_path_buf());
        }
        synced.and_then(|()| refuse_failed(&directories, dir))
    }

    fn path(&self, object: &str) -> io::Result<PathBuf> {
        if !is_object(object) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{object:?} is not an object's path")));
        }
        Ok(object.split('/').fold(self.root.clone(), |path, part| path.join(part)))
    }
}

/// Reads a range of a file into one buffer.
pub(crate) fn read(file: &dyn DiskFile, range: Range<u64>) -> io::Result<Bytes> {
    let len = range.end.checked_sub(range.start).and_then(|len| usize::try_from(len).ok());
    let mut buf = vec![0; len.ok_or(io::ErrorKind::InvalidInput)?];
    file.read_exact_at(&mut buf, range.start)?;
    Ok(buf.into())
}

/// Whether `object` is a path that the lake makes: it stays in the folder, and means the same on every file system.
fn is_object(object: &str) -> bool {
    let parts = || object.split('/');
    parts().count() <= COMPONENTS_MAX
        && parts().all(|part| {
            (1..=COMPONENT_BYTES_MAX).contains(&part.len())
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'))
        })
}

fn refuse_failed(directories: &Directories, dir: &Path) -> io::Result<()> {
    if dir.ancestors().any(|level| directories.failed.contains(level)) {
        return Err(io::Error::other("a sync of this directory failed: check the disk and restart"));
    }
    Ok(())
}

/// What these locks guard is whole after every statement, so a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lakes_own_paths_are_paths() {
        for good in ["files/transfer-01/00000001", "tables/x/manifest", "a"] {
            assert!(is_object(good), "{good}");
        }
        let long = "a".repeat(COMPONENT_BYTES_MAX + 1);
        let deep = ["a"; COMPONENTS_MAX + 1].join("/");
        for bad in
            ["", "/", "a/", "/a", "a//b", "..", "a/../b", ".put-1", "A", "a\\b", "a\0", "a b", "é", "%2e", &long, &deep]
        {
            assert!(!is_object(bad), "{bad}");
        }
    }
}
