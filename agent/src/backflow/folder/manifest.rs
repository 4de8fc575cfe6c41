//! `manifest.json` of a folder: which files hold the rows, of which version they are, and how far the folder is. It is the
//! truth; a file that it does not name is not data.

use crate::backflow::{Cursor, Shape};
use crate::error::{AgentError, Told};
use crate::outbox::replace;
use lingqu_protocol::digest::{Digest, from_hex, to_hex};
use lingqu_protocol::host::{Disk, Timestamp};
use lingqu_protocol::rows::RowsSum;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// Its name in the folder.
pub(super) const NAME: &str = "manifest.json";

/// What this version of the program writes and reads.
const FORMAT: u32 = 1;

/// Bytes of one: tens of thousands of files.
const BYTES_MAX: u64 = 64 << 20;

/// Versions that are listed: more than a year of nights. The rows of older ones are there all the same.
const HISTORY_MAX: usize = 400;

/// The manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    lingqu_manifest: u32,
    /// The entry's id.
    pub(super) entry: String,
    /// `parquet`, `csv` or `arrow`.
    pub(super) format: String,
    /// Counts the manifests of this folder: names of files are made from it, so that none is used twice.
    pub(super) generation: u64,
    /// The last version that is in.
    pub(super) version: u64,
    /// What the slice is, in the gateway's words.
    slice: String,
    pub(super) columns: Shape,
    /// Of all files together.
    pub(super) rows: u64,
    pub(super) rows_digest: Digest,
    /// The files that hold the rows, relative to the folder.
    pub(super) files: Vec<Part>,
    /// Files that the version before named and this one does not: readers that began with it may still read them. They go with
    /// the next version.
    pub(super) retired: Vec<String>,
    /// The latest versions, the last one last.
    pub(super) history: Vec<Taken>,
}

/// One file of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) rows: u64,
    /// Count and sum, as rows_digest has them, in hexadecimal.
    rows_sum: String,
    /// How many of the columns it has: those added later have no value in it.
    pub(super) columns: usize,
}

impl Part {
    pub(super) fn new(name: String, sum: RowsSum, columns: usize) -> Self {
        Self { name, rows: sum.count, rows_sum: to_hex(&sum.to_bytes()), columns }
    }

    /// Count and sum of its rows; `None` where the manifest was damaged.
    pub(super) fn sum(&self) -> Option<RowsSum> {
        let bytes: [u8; RowsSum::BYTES] = from_hex(&self.rows_sum)?.try_into().ok()?;
        let sum = RowsSum::from_bytes(&bytes);
        (sum.count == self.rows).then_some(sum)
    }
}

/// A version that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Taken {
    pub(super) version: u64,
    pub(super) mode: String,
    /// Rows that came with it.
    pub(super) rows: u64,
    /// When it was durable here.
    pub(super) committed_at: String,
}

/// What a new manifest says.
pub(super) struct Next<'a> {
    pub(super) entry: &'a str,
    pub(super) format: &'a str,
    pub(super) cursor: &'a Cursor,
    pub(super) shape: &'a Shape,
    pub(super) files: Vec<Part>,
    pub(super) sum: RowsSum,
    pub(super) mode: &'a str,
    pub(super) came: u64,
    pub(super) now: Timestamp,
}

impl Manifest {
    /// The manifest after `before`.
    pub(super) fn after(before: Option<&Self>, next: Next<'_>) -> Self {
        let is_named = |name: &String| next.files.iter().any(|part| part.name == *name);
        let old = before.into_iter().flat_map(|m| &m.files).map(|part| part.name.clone());
        let retired = old.filter(|name| !is_named(name)).collect();
        let mut history = before.map(|m| m.history.clone()).unwrap_or_default();
        history.push(Taken {
            version: next.cursor.version,
            mode: next.mode.to_owned(),
            rows: next.came,
            committed_at: next.now.to_rfc3339(),
        });
        let too_many = history.len().saturating_sub(HISTORY_MAX);
        history.drain(..too_many);
        Self {
            lingqu_manifest: FORMAT,
            entry: next.entry.to_owned(),
            format: next.format.to_owned(),
            generation: before.map_or(0, |m| m.generation) + 1,
            version: next.cursor.version,
            slice: next.cursor.slice.clone(),
            columns: next.shape.clone(),
            rows: next.sum.count,
            rows_digest: next.sum.digest(),
            files: next.files,
            retired,
            history,
        }
    }

    /// How far the folder is.
    pub(super) fn cursor(&self) -> Cursor {
        Cursor { version: self.version, slice: self.slice.clone() }
    }

    /// Whether it names a file.
    pub(super) fn names(&self, file: &str) -> bool {
        self.files.iter().any(|part| part.name == file) || self.retired.iter().any(|name| name == file)
    }

    /// Reads the manifest of a folder; `None` where there is none.
    pub(super) fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, AgentError> {
        let path = dir.join(NAME);
        let failed = |e: &io::Error| AgentError::io("reading", &path, e);
        let file = match disk.open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(&e)),
        };
        let bytes = file.len().map_err(|e| failed(&e))?;
        if bytes > BYTES_MAX {
            return Err(unreadable(&path, "it is too large"));
        }
        let mut text = vec![0; bytes as usize];
        file.read_exact_at(&mut text, 0).map_err(|e| failed(&e))?;
        let manifest: Self = serde_json::from_slice(&text).map_err(|e| unreadable(&path, &e.to_string()))?;
        if manifest.lingqu_manifest != FORMAT {
            return Err(unreadable(&path, "another version of this program wrote it"));
        }
        let mut sum = RowsSum::default();
        for part in &manifest.files {
            sum.merge(&part.sum().ok_or_else(|| unreadable(&path, "the sum of a file is damaged"))?);
        }
        if sum.digest() != manifest.rows_digest {
            return Err(unreadable(&path, "its digest is not that of its files"));
        }
        Ok(Some(manifest))
    }

    /// Replaces the manifest of a folder, durably.
    pub(super) fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), AgentError> {
        let path = dir.join(NAME);
        let mut json = serde_json::to_vec_pretty(self).map_err(|e| unreadable(&path, &e.to_string()))?;
        json.push(b'\n');
        replace(disk, &path, &json).map_err(|e| AgentError::io("writing", &path, &e))
    }
}

fn unreadable(path: &Path, why: &str) -> AgentError {
    let path = path.display();
    AgentError::Integrity(
        Told::new("manifest", format!("{path} cannot be used: {why}"), format!("{path} 无法使用：{why}"))
            .next("name a new folder: it then begins with everything", "请改用新的目录，将从头接收全部数据"),
    )
}
