//! The cursor of a sink that cannot keep one itself: a small file in the profile, written after the version was handed on.

use super::{Cursor, other_entry};
use crate::error::{AgentError, Told};
use crate::outbox::replace;
use lingqu_protocol::host::{Disk, DiskLock, make_own_dir};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of such a file: a few words.
const BYTES_MAX: u64 = 64 << 10;

/// What stands in it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    sink: String,
    entry: String,
    version: u64,
    slice: String,
}

/// The place of one sink's cursor.
pub struct KeptCursor {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    sink: String,
    held: Option<(String, Box<dyn DiskLock>)>,
}

impl std::fmt::Debug for KeptCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptCursor").field("folder", &self.folder).field("sink", &self.sink).finish_non_exhaustive()
    }
}

impl KeptCursor {
    /// Of the sink called `sink`, in the profile's folder `profile`.
    pub fn new(disk: Arc<dyn Disk>, profile: &Path, sink: String) -> Self {
        Self { disk, folder: profile.join("backflow"), sink, held: None }
    }

    /// Where files of this sink lie: its cursor, and what it keeps beside it under the same name.
    pub fn path(&self, end: &str) -> PathBuf {
        let hash = blake3::hash(self.sink.as_bytes()).to_hex();
        self.folder.join(format!("{}.{end}", hash.get(..32).unwrap_or_default()))
    }

    /// Takes it for this process and reads it.
    ///
    /// # Errors
    /// Where another process holds it, or the disk fails.
    pub fn open(&mut self, entry: &str) -> Result<Option<Cursor>, AgentError> {
        self.held = None;
        let path = self.path("json");
        let failed = |e: &io::Error| AgentError::io("reading", &path, e);
        make_own_dir(&*self.disk, &self.folder).map_err(|e| failed(&e))?;
        let lock = self.disk.lock(&self.path("lock")).map_err(|e| failed(&e))?.ok_or_else(|| is_held(&self.sink))?;
        let cursor = match self.disk.open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(failed(&e)),
            Ok(file) => {
                let bytes = file.len().map_err(|e| failed(&e))?;
                let mut text = vec![0; bytes.min(BYTES_MAX) as usize];
                file.read_exact_at(&mut text, 0).map_err(|e| failed(&e))?;
                let said: Text = serde_json::from_slice(&text).map_err(|e| unreadable(&path, &e.to_string()))?;
                if said.entry != entry {
                    return Err(other_entry(&self.sink, &said.entry, entry));
                }
                Some(Cursor { version: said.version, slice: said.slice })
            }
        };
        self.held = Some((entry.to_owned(), lock));
        Ok(cursor)
    }

    /// Keeps a cursor, durably.
    ///
    /// # Errors
    /// What the disk says.
    pub fn keep(&mut self, cursor: &Cursor) -> Result<(), AgentError> {
        let Some((entry, _)) = &self.held else { return Err(super::out_of_order("a cursor")) };
        let text = Text {
            sink: self.sink.clone(),
            entry: entry.clone(),
            version: cursor.version,
            slice: cursor.slice.clone(),
        };
        let path = self.path("json");
        let json = serde_json::to_vec(&text).map_err(|e| unreadable(&path, &e.to_string()))?;
        replace(&*self.disk, &path, &json).map_err(|e| AgentError::io("writing", &path, &e))
    }
}

/// Another process has this sink.
pub(super) fn is_held(sink: &str) -> AgentError {
    AgentError::Usage(
        Told::new("sink_in_use", format!("{sink} is used by another process"), format!("{sink} 正由另一进程使用"))
            .next("stop that process first", "请先停止该进程"),
    )
}

fn unreadable(path: &Path, why: &str) -> AgentError {
    let path = path.display();
    AgentError::Machine(
        Told::new("cursor", format!("{path} cannot be used: {why}"), format!("{path} 无法使用：{why}"))
            .next("move that file away: everything comes again", "移走该文件后将重新接收全部数据"),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use lingqu_certs::os::OsDisk;

    #[test]
    fn it_is_read_back_held_by_one_and_of_one_entry() {
        let dir = tempfile::tempdir().unwrap();
        let kept = |sink: &str| KeptCursor::new(Arc::new(OsDisk), dir.path(), sink.into());
        let mut one = kept("stdout");
        assert_eq!(one.open("entry-1").unwrap(), None);
        assert_eq!(kept("stdout").open("entry-1").unwrap_err().told().word, "sink_in_use");
        assert_eq!(kept("another").open("entry-2").unwrap(), None);
        let cursor = Cursor { version: 7, slice: "blake3:00".into() };
        one.keep(&cursor).unwrap();
        drop(one);
        assert_eq!(kept("stdout").open("entry-2").unwrap_err().told().word, "other_entry");
        assert_eq!(kept("stdout").open("entry-1").unwrap(), Some(cursor));
    }
}
