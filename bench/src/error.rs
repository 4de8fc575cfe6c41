//! What can go wrong while the programs are driven from outside.

use std::io;
use std::path::Path;

/// Why a run stopped. The text says what was being done.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program of ours ended otherwise than expected.
    #[error("`{command}` ended with {exit}, expected {expected}:\n{stderr}")]
    Program {
        /// The command line.
        command: String,
        /// How it ended.
        exit: String,
        /// How it should have ended.
        expected: String,
        /// The end of what it said on standard error.
        stderr: String,
    },
    /// A program is not where it should be.
    #[error("{0} is not there: build the programs first, `cargo build --release --locked`")]
    NotBuilt(String),
    /// Columns or rows that cannot be read or written.
    #[error("{what}: {why}")]
    Data {
        /// What was being done.
        what: String,
        /// What the library said.
        why: String,
    },
    /// What a program said is not what is true.
    #[error("wrong: {0}")]
    Wrong(String),
    /// The command line.
    #[error("{0}")]
    Usage(String),
}

impl BenchError {
    /// An error of the system while `what` was done to `path`.
    pub fn io(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = format!("{what} {}", path.display());
        move |source| Self::Io { what, source }
    }

    /// An error of the system while `what` was done.
    pub fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.to_owned(), source }
    }

    /// An error of a library while `what` was done.
    pub fn data<E: std::fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |why| Self::Data { what, why: why.to_string() }
    }
}

/// Fails with what `why` says unless `holds`.
///
/// # Errors
/// [`BenchError::Wrong`].
pub fn check(holds: bool, why: impl FnOnce() -> String) -> Result<(), BenchError> {
    if holds { Ok(()) } else { Err(BenchError::Wrong(why())) }
}
