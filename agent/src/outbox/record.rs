//! What one file of the outbox holds. These types are the file's format.

use crate::batch::ReadOptions;
use crate::batch::sink::WriteOptions;
use crate::upload::read::How;
use lingqu_protocol::ids::TransferId;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its id, fixed before its first byte.
    pub id: TransferId,
    /// Milliseconds since 1970 UTC.
    pub created_at: i64,
    /// When it was done or failed, milliseconds since 1970 UTC.
    #[serde(default)]
    pub ended_at: Option<i64>,
    /// How far it is.
    pub state: State,
    /// What is to be done.
    pub work: Work,
}

/// How far a transfer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not begun.
    Queued,
    /// Begun; interrupted where no process holds it.
    Running,
    /// Done, with its receipt kept.
    Done,
    /// Ended with an error.
    Failed {
        /// The exit code of the command.
        exit_code: u8,
        /// The error's stable word.
        word: String,
        /// What happened.
        text: String,
    },
}

impl State {
    /// Its stable word.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed { .. } => "failed",
        }
    }
}

/// A file that is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its name in the set.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Its length when the transfer was written down.
    pub bytes: u64,
    /// When it was last changed, nanoseconds since 1970 UTC.
    pub modified_ns: i64,
}

/// What a transfer is to do; enough to go on after a kill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Sends a set of files.
    PushFiles {
        /// An entry's id or code.
        entry: String,
        /// In ascending order of their names' bytes.
        files: Vec<SourceFile>,
    },
    /// Sends rows.
    PushBatch {
        /// An entry's id or code.
        entry: String,
        /// `full` or `append`.
        mode: String,
        /// In the order in which they are sent.
        files: Vec<SourceFile>,
        /// How they are read, and what is done about dirty rows.
        #[serde(default)]
        how: How,
    },
    /// Fetches a version of an entry.
    Pull(PullWork),
}

/// What is fetched and to where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullWork {
    /// A grant's id, or an entry's id or code.
    pub target: String,
    /// 0 means the latest.
    pub version: u64,
    /// Names of files; empty means all.
    pub files: Vec<String>,
    /// Names of columns; empty means all that is granted.
    pub columns: Vec<String>,
    /// A predicate; empty means all that is granted.
    pub where_text: String,
    /// A region; empty means all that is granted.
    pub region: String,
    /// Empty means the grant's only one.
    pub purpose: String,
    /// Where it goes; `-` is standard output.
    pub out: PathBuf,
    /// How text is written.
    #[serde(default)]
    pub write: WriteOptions,
    /// The keys whose records are asked for; all that is granted where there are none.
    #[serde(default)]
    pub keys: Option<KeysWork>,
}

/// A file of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysWork {
    /// Where it lies.
    pub file: SourceFile,
    /// How it is read.
    #[serde(default)]
    pub options: ReadOptions,
}

impl Work {
    /// Its stable word.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::PushFiles { .. } => "push_files",
            Self::PushBatch { .. } => "push_batch",
            Self::Pull(PullWork { keys: Some(_), .. }) => "match",
            Self::Pull(_) => "pull",
        }
    }

    /// Whether both ask for the same. Times of files do not count: a copy of the same file is the same content, and
    /// digests decide about the rest.
    pub fn same_as(&self, other: &Self) -> bool {
        let files = |a: &[SourceFile], b: &[SourceFile]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.name == b.name && a.bytes == b.bytes)
        };
        match (self, other) {
            (Self::PushFiles { entry: a, files: x }, Self::PushFiles { entry: b, files: y }) => a == b && files(x, y),
            (
                Self::PushBatch { entry: a, mode: m, files: x, how: h },
                Self::PushBatch { entry: b, mode: n, files: y, how: i },
            ) => a == b && m == n && h == i && files(x, y),
            (Self::Pull(a), Self::Pull(b)) => {
                let file = |work: &PullWork| work.keys.as_ref().map(|k| (k.file.name.clone(), k.file.bytes));
                let rest = |work: &PullWork| {
                    let options = work.keys.as_ref().map(|k| k.options.clone());
                    (PullWork { keys: None, ..work.clone() }, options)
                };
                file(a) == file(b) && rest(a) == rest(b)
            }
            _ => false,
        }
    }
}
