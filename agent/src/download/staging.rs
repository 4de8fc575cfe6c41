//! Where a set is put together: `OUT.partial-TRANSFER/`, with the files under `files/`, one bit for each durable segment
//! in `durable`, and what it is all for in `state.json`.
//!
//! Kill safety. `state.json` is written last when the folder is made, so a folder without one is begun anew. A segment's
//! bit is written only after its bytes, and the names of its files, were synced; a bit that is lost costs a segment sent
//! again. Bits only go from 0 to 1, so a torn write of the bitmap holds no bit that was not earned. What a broken disk
//! makes of it is found at the end, where every file is hashed before the set gets its name. One rename makes it visible.

use crate::error::{AgentError, Told};
use crate::outbox::replace;
use lingqu_protocol::digest::{CHUNK_BYTES, Digest, RootBuilder, chunk_count, chunk_value};
use lingqu_protocol::fileset::{FileEntry, set_root};
use lingqu_protocol::host::{Disk, DiskFile};
use lingqu_protocol::plan::{Item, Plan};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of `state.json`: a few fixed fields.
const STATE_BYTES_MAX: u64 = 64 << 10;

/// Threads that write small files of one stream: a sync waits for the disk and not for the processor, and the disk
/// takes several at once.
const SMALL_WRITERS: usize = 8;

/// What a staging folder is for; the format of `state.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StagingState {
    pub(super) version: u64,
    pub(super) set_root: Digest,
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// The only file's name, where `--out` names the file itself.
    pub(super) single: Option<String>,
}

/// A set on its way to the disk.
pub(super) struct Staging {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    pub(super) files: Vec<FileEntry>,
    pub(super) plan: Plan,
    pub(super) state: StagingState,
    durable: Mutex<Vec<u8>>,
    bitmap: Box<dyn DiskFile>,
    /// Whether segments of an earlier process are in it.
    pub(super) resumed: bool,
}

/// The state of the staging folder at `folder`, where it was made completely.
pub(super) fn load_state(disk: &dyn Disk, folder: &Path) -> Result<Option<StagingState>, AgentError> {
    let path = folder.join("state.json");
    let file = match disk.open(&path) {
        Ok(file) => file,
        // A pull of rows has a file in its place.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(AgentError::io("reading", &path, &e)),
    };
    let read = || {
        let mut bytes = vec![0; file.len()?.min(STATE_BYTES_MAX) as usize];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|e: io::Error| AgentError::io("reading", &path, &e))?;
    // One that cannot be read is from another version or a broken disk: begun anew.
    Ok(serde_json::from_slice(&bytes).ok())
}

impl Staging {
    /// Goes on in `folder` where it is for the same set, else begins anew.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        folder: PathBuf,
        files: Vec<FileEntry>,
        plan: Plan,
        version: u64,
        out_is_folder: bool,
    ) -> Result<Self, AgentError> {
        let single = match files.as_slice() {
            [only] if !out_is_folder => Some(only.name.clone()),
            _ => None,
        };
        let state = StagingState {
            version,
            set_root: set_root(&files),
            files: files.len() as u64,
            bytes: plan.bytes(),
            single,
        };
        let failed = |path: &Path, e: io::Error| AgentError::io("preparing", path, &e);
        let bitmap_path = folder.join("durable");
        let bitmap_bytes = (plan.segments() as usize).div_ceil(8);
        let mut durable = vec![0; bitmap_bytes];
        if load_state(&*disk, &folder)?.as_ref() == Some(&state) {
            let bitmap = disk.open_rw(&bitmap_path).map_err(|e| failed(&bitmap_path, e))?;
            bitmap.read_exact_at(&mut durable, 0).map_err(|e| failed(&bitmap_path, e))?;
            let resumed = durable.iter().any(|b| *b != 0);
            return Ok(Self { disk, folder, files, plan, state, durable: Mutex::new(durable), bitmap, resumed });
        }
        disk.remove_dir_all(&folder).map_err(|e| failed(&folder, e))?;
        lay_out(&*disk, &folder, &files).map_err(|e| failed(&folder, e))?;
        let made = || {
            let bitmap = disk.create(&bitmap_path)?;
            bitmap.write_all_at(&durable, 0)?;
            bitmap.sync()?;
            Ok(bitmap)
        };
        let bitmap = made().map_err(|e| failed(&bitmap_path, e))?;
        let json = serde_json::to_vec(&state).map_err(|e| failed(&folder, io::Error::other(e)))?;
        replace(&*disk, &folder.join("state.json"), &json).map_err(|e| failed(&folder, e))?;
        Ok(Self { disk, folder, files, plan, state, durable: Mutex::new(durable), bitmap, resumed: false })
    }

    /// Whether a segment is durable.
    pub(super) fn has(&self, segment: u32) -> bool {
        let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        durable.get(segment as usize / 8).is_some_and(|byte| byte >> (segment % 8) & 1 == 1)
    }

    /// Segments that are not durable, in order.
    pub(super) fn missing(&self) -> Vec<u32> {
        (0..self.plan.segments()).filter(|s| !self.has(*s)).collect()
    }

    /// Writes items whose values were checked. Small files are synced here, large ones when their segment is committed.
    pub(super) fn write(&self, items: &[(Item, impl AsRef<[u8]> + Sync)]) -> Result<(), AgentError> {
        let one = |(item, data): &(Item, _)| self.write_item(item, AsRef::<[u8]>::as_ref(data));
        if items.len() < SMALL_WRITERS {
            return items.iter().try_for_each(one);
        }
        std::thread::scope(|scope| {
            let part = items.len().div_ceil(SMALL_WRITERS);
            let writers: Vec<_> =
                items.chunks(part).map(|part| scope.spawn(move || part.iter().try_for_each(one))).collect();
            writers.into_iter().try_for_each(|w| {
                w.join().unwrap_or_else(|_| Err(self.disk_failed(Path::new(""), &io::Error::other("a writer failed"))))
            })
        })
    }

    fn write_item(&self, item: &Item, data: &[u8]) -> Result<(), AgentError> {
        let Some(file) = self.files.get(item.file as usize) else { return Ok(()) };
        let path = self.path(file);
        let write = || {
            let small = file.bytes <= CHUNK_BYTES;
            let handle = if small { self.create_anew(&path)? } else { self.disk.open_rw(&path)? };
            handle.write_all_at(data, item.file_offset())?;
            if small { handle.sync() } else { Ok(()) }
        };
        write().map_err(|e| self.disk_failed(&path, &e))
    }

    fn create_anew(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        match self.disk.create(path) {
            // An attempt that was cut had begun it. Its name may be left of a sync that failed, and it holds nothing that
            // counts.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.disk.remove(path)?;
                self.disk.create(path)
            }
            other => other,
        }
    }

    /// Makes segments durable: bytes, then names, then bits.
    pub(super) fn commit(&self, segments: &[u32]) -> Result<(), AgentError> {
        let (mut large, mut folders) = (BTreeSet::new(), BTreeSet::new());
        for item in segments.iter().filter_map(|s| self.plan.items(*s)).flatten() {
            let Some(file) = self.files.get(item.file as usize) else { continue };
            let path = self.path(file);
            if file.bytes > CHUNK_BYTES {
                large.insert(path);
            } else if let Some(folder) = path.parent() {
                folders.insert(folder.to_owned());
            }
        }
        for path in large {
            let sync = || self.disk.open_rw(&path)?.sync();
            sync().map_err(|e| self.disk_failed(&path, &e))?;
        }
        for folder in folders {
            self.disk.sync_dir(&folder).map_err(|e| self.disk_failed(&folder, &e))?;
        }
        self.mark(segments, true)
    }

    /// Takes back the bits of a file's segments, so that a resume asks for them again.
    fn forget(&self, file: usize) -> Result<(), AgentError> {
        self.mark(&self.plan.segments_of(file as u32), false)
    }

    fn mark(&self, segments: &[u32], set: bool) -> Result<(), AgentError> {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = durable.clone();
        for segment in segments {
            if let Some(byte) = next.get_mut(*segment as usize / 8) {
                let bit = 1 << (segment % 8);
                *byte = if set { *byte | bit } else { *byte & !bit };
            }
        }
        let write = || {
            self.bitmap.write_all_at(&next, 0)?;
            self.bitmap.sync()
        };
        write().map_err(|e| self.disk_failed(&self.folder.join("durable"), &e))?;
        *durable = next;
        Ok(())
    }

    /// Reads every file back and compares it with the manifest.
    pub(super) fn verify_from_disk(&self) -> Result<(), AgentError> {
        for (index, file) in self.files.iter().enumerate() {
            let path = self.path(file);
            let sound = match hash_file(&*self.disk, &path, file.bytes) {
                Ok((root, len)) => root == Some(file.root) && len == file.bytes,
                Err(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound) => false,
                Err(e) => return Err(self.disk_failed(&path, &e)),
            };
            if !sound {
                return Err(self.unsound(index));
            }
        }
        Ok(())
    }

    /// Compares hashes that were made of what arrived with the manifest.
    pub(super) fn verify(&self, roots: &[Digest]) -> Result<(), AgentError> {
        match self.files.iter().zip(roots).position(|(file, root)| file.root != *root) {
            None if roots.len() == self.files.len() => Ok(()),
            at => Err(self.unsound(at.unwrap_or_default())),
        }
    }

    fn unsound(&self, file: usize) -> AgentError {
        // What was written for it must be fetched again; where even that cannot be noted, all of it.
        if self.forget(file).is_err()
            && let Err(error) = self.disk.remove_dir_all(&self.folder)
        {
            tracing::error!(folder = %self.folder.display(), %error, "a damaged staging folder could not be removed");
        }
        let name = self.files.get(file).map(|f| f.name.as_str()).unwrap_or_default();
        AgentError::Integrity(
            Told::new(
                "file_hash",
                format!("the file {name:?} does not have the hash that the gateway announced"),
                format!("文件 {name:?} 与网关宣布的摘要不一致"),
            )
            .next("resume the transfer: that file is fetched again", "继续该传输，将重新获取该文件"),
        )
    }

    fn path(&self, file: &FileEntry) -> PathBuf {
        self.folder.join("files").join(&file.name)
    }

    fn disk_failed(&self, path: &Path, error: &io::Error) -> AgentError {
        AgentError::io("writing", path, error)
    }
}

/// Folders for every name, and the large files, empty; all names durable.
fn lay_out(disk: &dyn Disk, folder: &Path, files: &[FileEntry]) -> io::Result<()> {
    let root = folder.join("files");
    disk.create_dir_all(&root)?;
    let mut folders = BTreeSet::new();
    for file in files {
        let path = root.join(&file.name);
        let parent = path.parent().unwrap_or(&root).to_owned();
        if !folders.contains(&parent) {
            disk.create_dir_all(&parent)?;
        }
        if file.bytes > CHUNK_BYTES {
            disk.create(&path)?;
        }
        folders.insert(parent);
    }
    folders.iter().try_for_each(|folder| disk.sync_dir(folder))
}

/// Hashes every file of a staging folder and compares the set with what the folder is for.
pub(super) fn verify_tree(disk: &dyn Disk, folder: &Path, state: &StagingState) -> Result<(), AgentError> {
    let root = folder.join("files");
    let failed = |e: io::Error| AgentError::io("reading", &root, &e);
    let mut files = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(prefix) = folders.pop() {
        for entry in disk.read_dir(&root.join(&prefix)).map_err(failed)? {
            let name = if prefix.is_empty() { entry.name } else { format!("{prefix}/{}", entry.name) };
            if entry.is_dir {
                folders.push(name);
            } else {
                let (hash, bytes) = hash_file(disk, &root.join(&name), entry.len).map_err(failed)?;
                let hash = hash.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
                files.push(FileEntry { name, bytes, root: hash });
            }
        }
    }
    files.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    if set_root(&files) == state.set_root {
        return Ok(());
    }
    Err(AgentError::Integrity(
        Told::new("file_hash", "the files here are not those that were sent", "本机文件与所发送的不一致")
            .next("pull again as a new transfer", "请作为新的传输重新拉取"),
    ))
}

/// The hash of a file that should have `bytes`, and the length that it has.
fn hash_file(disk: &dyn Disk, path: &Path, bytes: u64) -> io::Result<(Option<Digest>, u64)> {
    let mut buffer = vec![0; CHUNK_BYTES.min(bytes) as usize];
    let handle = disk.open(path)?;
    let mut root = RootBuilder::new(bytes);
    for chunk in 0..chunk_count(bytes) {
        let part = bytes.saturating_sub(chunk * CHUNK_BYTES).min(CHUNK_BYTES) as usize;
        let data = buffer.get_mut(..part).unwrap_or_default();
        handle.read_exact_at(data, chunk * CHUNK_BYTES)?;
        root.push(chunk_value(data, chunk, bytes));
    }
    Ok((root.finish(), handle.len()?))
}

/// What of a staging folder becomes the output.
pub(super) fn whole(folder: &Path, state: &StagingState) -> PathBuf {
    let files = folder.join("files");
    state.single.as_ref().map_or(files.clone(), |name| files.join(name))
}
