//! Names that are not known to be durable yet.
//!
//! A name is durable when its directory was synced after it was made. Until then it is in doubt, and where the sync failed
//! it stays so: everybody sees it, and a power cut may take it back. A second sync says nothing about it, for after a
//! failure the kernel forgets that there was something to write, and answers that all is well.
//!
//! Two things keep anybody from counting on such a name:
//!
//! - Within the process, [`Doubts`]: who wants to know of the object waits until the sync has ended; of one whose sync failed
//!   and that could not be taken back nobody hears anything but an error.
//! - For the next process, [`Marks`]: an empty file in `.puts/` for each name in doubt, made before the name and removed
//!   after the sync. Marks are never synced. They need to live as long as the kernel does: after a power cut the kernel
//!   shows what the disk holds, and nothing is in doubt.
//!
//! What a start finds marked is named again: the object is renamed away and back, which is something new to write, and
//! its directory is synced. That costs nothing for each object that was put, only for the few whose put was cut. The bytes
//! need nothing: an object gets its name only after its bytes were synced with success.

use lingqu_protocol::host::{DirEntry, Disk, make_own_dir};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Where temporary files and marks are. No object's name starts with a dot.
const PUTS: &str = ".puts";

/// Starts the name of a file that is being written.
const TEMPORARY: &str = "t";

/// Starts the name of a mark.
const MARK: &str = "d";

/// Starts the name of an object that was moved aside for a moment, to be named again or to be removed. A start that finds
/// one brings it back.
const AWAY: &str = "r";

/// Stands for the slashes of an object's path, in which it cannot be.
const SLASH: &str = "+";

/// How a doubt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The name is durable, or was never made.
    Settled,
    /// The sync failed, and the name was taken back.
    TakenBack,
    /// The sync failed, and the name is still to be seen.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// So many are being made under this name.
    Open(u32),
    /// For as long as this process lives nothing is known of it.
    Lost,
}

#[derive(Debug, Default)]
struct Names {
    standing: HashMap<PathBuf, Standing>,
    /// How often a name was seen that is there no more, or must be seen as that.
    failures: u64,
}

/// Names in doubt of this process: those of puts under way, and those whose sync failed.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    names: Mutex<Names>,
    ended: Condvar,
}

impl Doubts {
    /// A name is about to be made.
    pub(super) fn begin(&self, path: &Path) {
        let mut names = self.lock();
        match names.standing.entry(path.to_path_buf()).or_insert(Standing::Open(0)) {
            Standing::Open(count) => *count += 1,
            Standing::Lost => {}
        }
    }

    /// Its directory was synced, or not.
    pub(super) fn end(&self, path: &Path, fate: Fate) {
        let mut names = self.lock();
        names.failures += u64::from(fate != Fate::Settled);
        match (fate, names.standing.get_mut(path)) {
            (Fate::Unknown, Some(standing)) => *standing = Standing::Lost,
            (_, Some(Standing::Open(count))) if *count > 1 => *count -= 1,
            (_, Some(Standing::Open(_))) => {
                names.standing.remove(path);
            }
            (_, Some(Standing::Lost) | None) => {}
        }
        drop(names);
        self.ended.notify_all();
    }

    /// Waits until `path` is in no doubt.
    ///
    /// # Errors
    /// Its sync failed, and it is still to be seen: whether it is there cannot be said.
    pub(super) fn wait(&self, path: &Path) -> io::Result<()> {
        let open = |names: &mut Names| matches!(names.standing.get(path), Some(Standing::Open(_)));
        let names = self.ended.wait_while(self.lock(), open).unwrap_or_else(PoisonError::into_inner);
        if names.standing.contains_key(path) { Err(lost()) } else { Ok(()) }
    }

    /// What `read` lists of the directory `dir`, without what is in doubt. What was in doubt before is waited for.
    ///
    /// # Errors
    /// Those of `read`; a name in it is lost.
    pub(super) fn without(
        &self,
        dir: &Path,
        read: impl Fn() -> io::Result<Vec<DirEntry>>,
    ) -> io::Result<Vec<DirEntry>> {
        let in_dir = |(path, standing): (&PathBuf, &Standing)| {
            matches!(standing, Standing::Open(_)) && path.parent() == Some(dir)
        };
        loop {
            let open = |names: &mut Names| names.standing.iter().any(in_dir);
            let names = self.ended.wait_while(self.lock(), open).unwrap_or_else(PoisonError::into_inner);
            let failures = names.failures;
            drop(names);
            let mut entries = read()?;
            let names = self.lock();
            let is_lost =
                |(path, standing): (&PathBuf, &Standing)| *standing == Standing::Lost && path.parent() == Some(dir);
            if names.standing.iter().any(is_lost) {
                return Err(lost());
            }
            // A name that was listed may have been taken back since. A directory fails once, so this ends.
            if names.failures == failures {
                entries.retain(|entry| !names.standing.contains_key(&dir.join(&entry.name)));
                return Ok(entries);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lost() -> io::Error {
    io::Error::other("a sync of this object's name failed: check the disk and restart")
}

/// The folder of temporary files and marks.
pub(super) struct Marks {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    folder: PathBuf,
    next: AtomicU64,
}

impl Marks {
    /// Opens the folder in the store's folder `root`, makes durable what is in doubt, and removes what was half written.
    /// Gives the number of objects that were in doubt.
    ///
    /// # Errors
    /// What the disk says. What was in doubt is still so, and the next start tries again.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        root: &Path,
        object_path: impl Fn(&str) -> Option<PathBuf>,
    ) -> io::Result<(Self, usize)> {
        let marks = Self { disk, root: root.to_path_buf(), folder: root.join(PUTS), next: AtomicU64::new(0) };
        marks.disk.create_dir_all(&marks.folder)?;
        let named_again = marks.settle(object_path)?;
        Ok((marks, named_again))
    }

    /// Where the next file is written before it has its name.
    pub(super) fn temporary(&self) -> PathBuf {
        self.folder.join(format!("{TEMPORARY}{}", self.number()))
    }

    /// Says that the name of `object` is about to be in doubt.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn mark(&self, object: &str) -> io::Result<PathBuf> {
        let name = format!("{MARK}{}{SLASH}{}", self.number(), object.replace('/', SLASH));
        let path = self.folder.join(name);
        match self.disk.create(&path) {
            // One of an earlier process says the same.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(path),
        }
    }

    /// Where `object` is moved to be removed.
    pub(super) fn away(&self, object: &str) -> PathBuf {
        self.folder.join(format!("{AWAY}{}{SLASH}{}", self.number(), object.replace('/', SLASH)))
    }

    /// The folder, which is synced once what was moved aside is removed.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes a temporary file or a mark. One that stays costs the next start a little work.
    pub(super) fn clear(&self, path: &Path) {
        match self.disk.remove(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "could not be removed; the next start does it")
            }
        }
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn settle(&self, object_path: impl Fn(&str) -> Option<PathBuf>) -> io::Result<usize> {
        let (mut doubtful, mut ours) = (BTreeSet::new(), Vec::new());
        for entry in self.disk.read_dir(&self.folder)? {
            let at = self.folder.join(&entry.name);
            if let Some(object) = entry.name.strip_prefix(AWAY).and_then(object) {
                // A start or a removal was cut while this one was aside. Where the name is there, it is the later one.
                if let Some(path) = object_path(&object) {
                    if !self.exists(&path)? {
                        // Named again it is in doubt, and this start may be cut, too.
                        ours.push(self.mark(&object)?);
                        self.disk.create_dir_all(path.parent().unwrap_or(&self.root))?;
                        self.disk.rename(&at, &path)?;
                    }
                    doubtful.insert((object, path));
                }
                ours.push(at);
            } else if entry.name.starts_with(TEMPORARY) {
                ours.push(at);
            } else if let Some(object) = entry.name.strip_prefix(MARK).and_then(object) {
                doubtful.extend(object_path(&object).map(|path| (object, path)));
                ours.push(at);
            }
        }
        let (mut named_again, mut directories) = (0, BTreeSet::new());
        for (object, path) in doubtful {
            if self.exists(&path)? {
                let away = self.away(&object);
                self.disk.rename(&path, &away)?;
                self.disk.rename(&away, &path)?;
                directories.extend(path.parent().map(Path::to_path_buf));
                named_again += 1;
            }
        }
        directories.iter().try_for_each(|dir| self.disk.sync_dir(dir))?;
        // Not before: until here the doubt stands.
        for path in ours {
            match self.disk.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        // A folder of its own for each process: what an earlier one removed from its folder and could not sync stays away.
        make_own_dir(self.disk.as_ref(), &self.folder)?;
        Ok(named_again)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.disk.open(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The object that a name in the folder is about, after its first letter.
fn object(name: &str) -> Option<String> {
    Some(name.split_once(SLASH)?.1.replace(SLASH, "/"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::thread;

    fn entry(name: &str) -> DirEntry {
        DirEntry { name: name.to_owned(), is_dir: false, len: 1 }
    }

    fn count(doubts: &Doubts, dir: &str) -> Option<usize> {
        doubts.without(Path::new(dir), || Ok(vec![entry("a"), entry("b")])).ok().map(|listed| listed.len())
    }

    #[test]
    fn who_asks_waits_until_the_doubt_has_ended() {
        let path = Path::new("/d/a");
        for (fate, known) in [(Fate::Settled, true), (Fate::TakenBack, true), (Fate::Unknown, false)] {
            let doubts = Doubts::default();
            doubts.begin(path);
            thread::scope(|scope| {
                let waiting = scope.spawn(|| doubts.wait(path).is_ok());
                let listing = scope.spawn(|| count(&doubts, "/d"));
                doubts.wait(Path::new("/d/b")).unwrap();
                doubts.end(path, fate);
                assert_eq!(waiting.join().unwrap(), known, "{fate:?}");
                assert_eq!(listing.join().unwrap(), known.then_some(2), "{fate:?}");
            });
        }
    }

    #[test]
    fn a_name_that_is_lost_stays_lost() {
        let (doubts, path) = (Doubts::default(), Path::new("/d/a"));
        doubts.begin(path);
        doubts.begin(path);
        doubts.end(path, Fate::Unknown);
        doubts.end(path, Fate::Settled);
        doubts.begin(path);
        doubts.end(path, Fate::Settled);
        assert!(doubts.wait(path).is_err());
        assert_eq!(count(&doubts, "/d"), None);
        assert_eq!(count(&doubts, "/e"), Some(2));
    }

    #[test]
    fn a_listing_during_which_a_name_was_taken_back_is_read_again() {
        let (doubts, path) = (Doubts::default(), Path::new("/d/a"));
        let reads = AtomicU64::new(0);
        let listed = doubts.without(Path::new("/d"), || {
            if reads.fetch_add(1, Ordering::Relaxed) > 0 {
                return Ok(vec![entry("b")]);
            }
            doubts.begin(path);
            doubts.end(path, Fate::TakenBack);
            Ok(vec![entry("a"), entry("b")])
        });
        assert_eq!(listed.unwrap(), [entry("b")]);
    }
}
