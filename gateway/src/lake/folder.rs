//! The blocking half of the local store: objects as files of one folder, which this process alone owns.
//!
//! A put is a temporary file, synced, renamed, and its directory synced: after that it survives power loss, before that no
//! reader sees it. What is between rename and sync is in [`doubt`](super::doubt).
//!
//! Nothing here looks through the folder: a start reads what is marked as in doubt, and a directory is looked at when it is
//! first put in.

use super::doubt::{Doubts, Fate, Marks};
use bytes::Bytes;
use lingqu_protocol::host::{Disk, DiskFile, make_own_dir};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Directories remembered as durable: one for each transfer under way and room for more; forgetting costs a look.
const KNOWN_MAX: usize = 4096;

/// Directories that can be synced at the same time, if they are lucky: more than a disk does at once.
const SYNC_LOCKS: usize = 16;

/// Bytes in an object's path: with a number before it, it is a name that file systems take.
const OBJECT_BYTES_MAX: usize = 200;

/// Components in an object's path: the layout uses three, quarantine adds one.
const COMPONENTS_MAX: usize = 8;

/// What directories are known to be.
#[derive(Default)]
struct Directories {
    /// Made, and their names durable up to the root; with how many are putting something in them.
    durable: HashMap<PathBuf, usize>,
    /// A sync of theirs, or of their own name, failed. Which names are on the disk is not known, and asking again may
    /// answer falsely that all are: nothing is put in them or below until a restart, which settles what is in doubt.
    failed: HashSet<PathBuf>,
}

/// Objects with their lengths, and directories, each in order.
pub(crate) type Listing = (Vec<(String, u64)>, Vec<String>);

/// Objects as files of one folder.
pub(crate) struct Folder {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    marks: Marks,
    doubts: Doubts,
    directories: Mutex<Directories>,
    /// Held while looking whether a name is taken and taking it. No other process writes here.
    names: Mutex<()>,
    /// One is held while a directory is synced and the outcome noted, so that nobody takes the success of a later sync
    /// for the fate of names that a failed one lost. Which one follows from the directory: others do not wait.
    syncs: [Mutex<()>; SYNC_LOCKS],
}

/// A directory that somebody is putting something in; it stays meanwhile.
struct InUse<'a> {
    folder: &'a Folder,
    dir: PathBuf,
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        if let Some(users) = lock(&self.folder.directories).durable.get_mut(&self.dir) {
            *users = users.saturating_sub(1);
        }
    }
}

impl Folder {
    /// Opens the folder, making it where it is not there, removes what a crash left half written, and makes durable what
    /// it left in doubt: that would else be taken for acknowledged.
    pub(crate) fn open(disk: Arc<dyn Disk>, root: PathBuf) -> io::Result<Self> {
        make_own_dir(disk.as_ref(), &root)?;
        let path = |object: &str| is_object(object).then(|| within(&root, object));
        let (marks, named_again) = Marks::open(disk.clone(), &root, path)?;
        if named_again > 0 {
            tracing::info!(objects = named_again, "made durable what an earlier process left in doubt");
        }
        Ok(Self {
            disk,
            root,
            marks,
            doubts: Doubts::default(),
            directories: Mutex::default(),
            names: Mutex::new(()),
            syncs: Default::default(),
        })
    }

    /// Puts an object whole and durable. With `create`, an object that is there is left and the error is
    /// `AlreadyExists`. After an error nothing of it is there; where the directory's sync failed, what it replaced is
    /// gone too.
    pub(crate) fn put(&self, object: &str, pieces: &[Bytes], create: bool) -> io::Result<()> {
        let path = self.path(object)?;
        if create && self.exists(&path)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let _in_use = self.make_directory(path.parent().unwrap_or(&self.root))?;
        let temporary = self.marks.temporary();
        self.write(&temporary, pieces)
            .and_then(|()| self.name(&temporary, object, &path, create, true))
            .inspect_err(|_| self.marks.clear(&temporary))
    }

    /// Length of an object.
    pub(crate) fn len(&self, object: &str) -> io::Result<u64> {
        self.open_object(object)?.len()
    }

    /// Opens an object for reading. One that is being put is waited for.
    pub(crate) fn open_object(&self, object: &str) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path(object)?;
        self.doubts.wait(&path)?;
        self.disk.open(&path)
    }

    /// Removes objects, durably; those that are not there are no error. The first error ends it: what was removed before it
    /// may be there again after a restart, and until then nobody is told whether it is. Directories that hold nothing then
    /// go, too.
    pub(crate) fn remove(&self, objects: &[String]) -> io::Result<()> {
        let paths = objects.iter().map(|object| self.path(object)).collect::<io::Result<Vec<_>>>()?;
        paths.iter().try_for_each(|path| self.doubts.wait(path))?;
        paths.iter().for_each(|path| self.doubts.begin(path));
        let removed = self.remove_all(objects, &paths);
        let fate = if removed.is_ok() { Fate::Settled } else { Fate::Unknown };
        paths.iter().for_each(|path| self.doubts.end(path, fate));
        removed?.iter().for_each(|dir| self.prune(dir));
        Ok(())
    }

    /// Gives the directories that something was removed from.
    fn remove_all(&self, objects: &[String], paths: &[PathBuf]) -> io::Result<HashSet<PathBuf>> {
        let (mut touched, mut aside) = (HashSet::new(), Vec::new());
        for (object, path) in objects.iter().zip(paths) {
            // Aside first: what is gone from sight and maybe not from the disk could not be removed by who tries again.
            let away = self.marks.away(object);
            let moved = match self.disk.rename(path, &away) {
                // Removing makes room, so it must not need any.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => self.disk.remove(path),
                moved => moved.map(|()| aside.push(away)),
            };
            match moved {
                Ok(()) => touched.extend(path.parent().map(Path::to_path_buf)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        touched.iter().try_for_each(|dir| self.sync_directory(dir))?;
        if !aside.is_empty() {
            aside.iter().try_for_each(|path| self.disk.remove(path))?;
            self.sync_directory(self.marks.folder())?;
        }
        Ok(touched)
    }

    /// Renames an object, durably.
    pub(crate) fn rename(&self, from: &str, to: &str, create: bool) -> io::Result<()> {
        let (from, target) = (self.path(from)?, self.path(to)?);
        self.doubts.wait(&from)?;
        let _in_use = self.make_directory(target.parent().unwrap_or(&self.root))?;
        self.name(&from, to, &target, create, false)?;
        let from_dir = from.parent().unwrap_or(&self.root);
        self.sync_directory(from_dir)?;
        self.prune(from_dir);
        Ok(())
    }

    /// What one directory of objects holds; nothing where there is no such directory. What is being put is waited for.
    pub(crate) fn list(&self, prefix: &str) -> io::Result<Listing> {
        let path = if prefix.is_empty() { self.root.clone() } else { self.path(prefix)? };
        let entries = match self.doubts.without(&path, || self.disk.read_dir(&path)) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Listing::default());
            }
            Err(error) => return Err(error),
        };
        if entries.is_empty() {
            // What a crash left between a directory and its first object.
            self.prune(&path);
        }
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

    /// Gives the file `from`, whose bytes are durable, the name of `object`, durably. Where that fails after the rename,
    /// the name is taken back with `take_back`, so that its space is given back at once.
    fn name(&self, from: &Path, object: &str, to: &Path, create: bool, take_back: bool) -> io::Result<()> {
        let mark = self.marks.mark(object)?;
        self.doubts.begin(to);
        let end = |fate| {
            self.doubts.end(to, fate);
            // While it is to be seen and not known to be durable, its mark stays.
            if fate != Fate::Unknown {
                self.marks.clear(&mark);
            }
        };
        if let Err(error) = self.take_name(from, to, create) {
            end(Fate::Settled);
            return Err(error);
        }
        if let Err(error) = self.sync_directory(to.parent().unwrap_or(&self.root)) {
            let taken_back = take_back
                && match self.disk.remove(to) {
                    Ok(()) => true,
                    Err(error) => error.kind() == io::ErrorKind::NotFound,
                };
            end(if taken_back { Fate::TakenBack } else { Fate::Unknown });
            return Err(error);
        }
        end(Fate::Settled);
        Ok(())
    }

    fn take_name(&self, from: &Path, to: &Path, create: bool) -> io::Result<()> {
        let _held = lock(&self.names);
        if create && self.is_there(to)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.disk.rename(from, to)
    }

    /// Whether there is an object. One that is being put is waited for.
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.doubts.wait(path)?;
        self.is_there(path)
    }

    fn is_there(&self, path: &Path) -> io::Result<bool> {
        match self.disk.open(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes a directory and its name durable, from the root down. Others wait meanwhile: nothing may be acknowledged in
    /// a directory that was made but is not durable yet.
    fn make_directory(&self, dir: &Path) -> io::Result<InUse<'_>> {
        let mut directories = lock(&self.directories);
        refuse_failed(&directories, dir)?;
        if directories.durable.len() >= KNOWN_MAX {
            directories.durable.retain(|_, users| *users > 0);
        }
        let mut levels: Vec<&Path> = dir.ancestors().take_while(|level| **level != self.root).collect();
        levels.reverse();
        for level in levels {
            if directories.durable.contains_key(level) {
                continue;
            }
            if let Err(error) = make_own_dir(self.disk.as_ref(), level) {
                // No room is no failed sync: it may be tried again when there is some.
                if error.kind() != io::ErrorKind::StorageFull {
                    directories.failed.insert(level.to_path_buf());
                }
                return Err(error);
            }
            directories.durable.insert(level.to_path_buf(), 0);
        }
        *directories.durable.entry(dir.to_path_buf()).or_default() += 1;
        Ok(InUse { folder: self, dir: dir.to_path_buf() })
    }

    /// Removes a directory that holds nothing and that nobody puts anything in. It need not be durable: one that comes
    /// back is empty, and is made anew before anything is put in it.
    fn prune(&self, dir: &Path) {
        let mut directories = lock(&self.directories);
        let is_used = directories.durable.get(dir).is_some_and(|users| *users > 0);
        if dir == self.root || is_used {
            return;
        }
        match self.disk.remove_dir(dir) {
            Ok(()) => {
                directories.durable.remove(dir);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => {}
            Err(error) => tracing::warn!(dir = %dir.display(), %error, "an empty directory could not be removed"),
        }
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
        Ok(within(&self.root, object))
    }
}

fn within(root: &Path, object: &str) -> PathBuf {
    object.split('/').fold(root.to_path_buf(), |path, part| path.join(part))
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
    object.len() <= OBJECT_BYTES_MAX
        && parts().count() <= COMPONENTS_MAX
        && parts().all(|part| {
            !part.is_empty()
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
        let long = "a".repeat(OBJECT_BYTES_MAX + 1);
        let deep = ["a"; COMPONENTS_MAX + 1].join("/");
        for bad in [
            "", "/", "a/", "/a", "a//b", "..", "a/../b", ".put-1", "A", "a\\b", "a\0", "a b", "é", "%2e", "a+b", &long,
            &deep,
        ] {
            assert!(!is_object(bad), "{bad}");
        }
    }
}
