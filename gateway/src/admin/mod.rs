//! What the operator may do: one command, one answer, as a line of JSON each. While a gateway runs, commands go through
//! its control socket, which only its owner can use; without one they run in this process, under the folder's lock.

mod client;
mod command;
mod server;

pub use client::run;
pub use command::{Command, Desk, Running, execute};
pub use server::{ControlSocket, ServerError};

use crate::folder::FolderError;
use crate::registry::RegistryError;
use lingqu_protocol::close::CloseCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// Bytes of a line: a signed document in JSON within JSON, or a page of a thousand agencies.
const LINE_BYTES_MAX: usize = 4 << 20;

/// How long the other side may take over a line: it is a program on the same machine.
const LINE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a command did not do what was asked, in the words of whoever found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// A stable word for programs.
    pub word: String,
    /// What happened.
    pub text: String,
    /// What to do next.
    pub next: String,
}

/// The answer to a command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Ok(Value),
    Error(Failure),
}

impl Failure {
    /// The caller's mistake.
    pub fn usage(text: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code: 2, word: "usage".into(), text: text.into(), next: next.into() }
    }

    /// Our fault.
    pub fn ours(text: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code: 1, word: "internal".into(), text: text.into(), next: next.into() }
    }

    /// Nobody answers.
    pub fn unreachable(text: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code: 6, word: "unreachable".into(), text: text.into(), next: next.into() }
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        // A stop that is met here is what the operator made: not a suspended exchange, but something not to be done.
        let code = match error.close_code() {
            CloseCode::BadData => CloseCode::BadData.exit_code(),
            code => code.exit_code(),
        };
        Self { code, word: error.word().into(), text: error.to_string(), next: error.next().into() }
    }
}

impl From<FolderError> for Failure {
    fn from(error: FolderError) -> Self {
        let (code, word, next) = match &error {
            FolderError::NoGateway(_) => (2, "no_gateway", "name the folder with --dir"),
            FolderError::NotEmpty(_) => (2, "not_empty", "choose another folder with --dir"),
            FolderError::RootInside { .. } => (2, "root_inside", "choose another folder with --root"),
            FolderError::Usage(_) | FolderError::Config(_) => (2, "usage", "correct what is named"),
            FolderError::Locked(_) => (6, "locked", "try again when it is done"),
            FolderError::Differs(_) | FolderError::Statement(_) | FolderError::OtherPseudonyms => {
                (5, "folder_differs", "restore the whole folder from one backup")
            }
            FolderError::Cuts { .. } => (
                5,
                "cuts_unreadable",
                "read in the log and in the file what was to be stopped; move the file away, then `stop` it and serve",
            ),
            _ => (1, "folder_failed", "look at what is named; nothing was changed"),
        };
        Self { code, word: word.into(), text: error.to_string(), next: next.into() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
