//! What can go wrong in the lake, and whose fault it is.

use std::io;

/// An operation of the lake that failed.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    /// No such object. Ours where the state names it; the caller's otherwise.
    #[error("object {object} is not in the lake")]
    NotFound {
        /// Path of the object.
        object: String,
    },
    /// Bytes at rest are not those that were put: the object was moved to quarantine, and its data must be sent again
    /// or restored from a copy.
    #[error("object {object} is damaged ({what}); it is kept as {quarantine}: send its data again or restore it")]
    Damaged {
        /// Path of the object.
        object: String,
        /// Which item of a segment, where one is known.
        item: Option<u32>,
        /// What is wrong with it.
        what: String,
        /// Where it is now.
        quarantine: String,
    },
    /// The object is there with other content: the source changed between two attempts, or two sources share an id.
    #[error("object {object} is already there with other content: the source changed, start a new transfer")]
    Conflict {
        /// Path of the object.
        object: String,
    },
    /// The peer's data does not fit what it announced or what its entry says.
    #[error("bad data: {what}")]
    BadData {
        /// Row and column, or item, and what is wrong.
        what: String,
    },
    /// More than the lake takes in one piece.
    #[error("{what}: {bytes} bytes are more than {bytes_max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The most it may have.
        bytes_max: u64,
    },
    /// The disk is full: nothing of this object was kept; try again when there is room.
    #[error("no room for object {object}: free space or send less")]
    Full {
        /// Path of the object.
        object: String,
    },
    /// The store failed; ours.
    #[error("the store failed on object {object}")]
    Store {
        /// Path of the object.
        object: String,
        /// What it said.
        #[source]
        source: object_store::Error,
    },
    /// Arrow or Parquet failed on data that was checked; ours.
    #[error("{doing} failed")]
    Columns {
        /// What was being done.
        doing: &'static str,
        /// What the library said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A task was cancelled or panicked; ours.
    #[error("a task of the lake ended early")]
    Task(#[from] tokio::task::JoinError),
}

impl LakeError {
    /// What the store said of `object`.
    pub(crate) fn store(object: impl std::fmt::Display, source: object_store::Error) -> Self {
        let object = object.to_string();
        match &source {
            object_store::Error::NotFound { .. } => Self::NotFound { object },
            object_store::Error::Generic { source: cause, .. } if is_full(cause.as_ref()) => Self::Full { object },
            _ => Self::Store { object, source },
        }
    }

    /// What Arrow or Parquet said.
    pub(crate) fn columns(doing: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Columns { doing, source: source.into() }
    }
}

fn is_full(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|e| matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}
