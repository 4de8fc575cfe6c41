//! Sending and getting, handed on to the modules that do it.

use super::App;
use super::args::{PullArgs, PushCommand, TransferCommand};
use crate::error::{AgentError, Told};

/// `push`.
pub(super) async fn push(_app: &App, _command: PushCommand) -> Result<u8, AgentError> {
    Err(not_in_this_build())
}

/// `pull`.
pub(super) async fn pull(_app: &App, _args: PullArgs) -> Result<u8, AgentError> {
    Err(not_in_this_build())
}

/// `transfer`.
pub(super) async fn transfer(_app: &App, _command: TransferCommand) -> Result<u8, AgentError> {
    Err(not_in_this_build())
}

fn not_in_this_build() -> AgentError {
    AgentError::Machine(Told::new("not_built", "transfers are not part of this build", "本构建不含传输功能"))
}
