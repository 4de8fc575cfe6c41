//! Why a flow ended without its end record. What the peer is told of each is in `edge::close`, in one place.

use crate::gate::{Cut, Denied};
use crate::lake::LakeError;
use crate::ledger::LedgerError;
use crate::registry::RegistryError;
use crate::state::StateError;
use lingqu_protocol::frame::FrameError;
use lingqu_protocol::plan::PlanError;
use lingqu_protocol::session::SessionError;

/// Why a request or its flow ended.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// The gate refused: the peer's, or its agency's.
    #[error("denied: {0:?}")]
    Denied(Denied),
    /// The gate cut it while it ran.
    #[error("cut: {} ({})", .0.word, .0.reason)]
    Cut(Cut),
    /// The registry refused.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The transport ended, or the peer does not speak the protocol.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The lake's, or what it found wrong with the peer's data.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// Ours: the state.
    #[error(transparent)]
    State(#[from] StateError),
    /// Ours: the ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The peer's: a set of files that cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The peer's: data or names that the entry or the protocol does not allow.
    #[error("{what}")]
    BadData {
        /// What is wrong, and where.
        what: String,
    },
    /// The peer's: what arrived is not what its end record says.
    #[error("what arrived is not what was sent: {what}")]
    Integrity {
        /// What differs.
        what: String,
    },
    /// The peer's: a transfer, version or file that does not exist for it.
    #[error("no such {what}")]
    NotFound {
        /// What.
        what: &'static str,
    },
    /// The peer's: the same id for something else.
    #[error("{what}")]
    Conflict {
        /// What differs.
        what: String,
    },
    /// The peer was too slow.
    #[error("the peer was too slow: {what} did not come in time")]
    TooSlow {
        /// What was waited for.
        what: &'static str,
    },
    /// A limit of the gateway.
    #[error("over the gateway's limit: {what}")]
    OverLimit {
        /// Which, and what to do instead.
        what: String,
    },
    /// Too many requests at once.
    #[error("too many requests on this connection")]
    Busy,
    /// Ours: the machine.
    #[error("the machine failed: {0}")]
    Machine(String),
}

impl From<Denied> for FlowError {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl From<Cut> for FlowError {
    fn from(cut: Cut) -> Self {
        Self::Cut(cut)
    }
}

impl From<FrameError> for FlowError {
    fn from(error: FrameError) -> Self {
        Self::Session(error.into())
    }
}

impl From<lingqu_protocol::stream::StreamError> for FlowError {
    fn from(error: lingqu_protocol::stream::StreamError) -> Self {
        Self::Session(error.into())
    }
}

impl From<tokio::task::JoinError> for FlowError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Machine(error.to_string())
    }
}

impl FlowError {
    /// An error about the peer's data.
    pub fn bad_data(what: impl Into<String>) -> Self {
        Self::BadData { what: what.into() }
    }
}
