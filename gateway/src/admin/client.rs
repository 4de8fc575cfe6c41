//! Handing a command to whoever can do it: the gateway that runs, or this process.

use super::{Answer, Command, Desk, Failure, LINE_BYTES_MAX, execute};
use crate::folder::{CutsFile, Folder, FolderError, Layout};
use crate::registry::Registry;
use crate::registry::port::Nobody;
use crate::state::SqliteState;
use lingqu_certs::os::{OsEntropy, SystemClock};
use serde_json::Value;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Tries before giving up on a folder that another process holds: it may be starting, or be at a command itself.
const TRIES: usize = 25;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a running gateway may take over a command: a walk over a ledger of a hundred million leaves.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3600);

/// Does a command on the gateway in `dir`: through its control socket while it runs, else here, under the folder's lock.
///
/// # Errors
/// Why it was not done; exit code 6 where the folder stayed with another process that does not answer.
pub async fn run(dir: &Path, command: Command) -> Result<Value, Failure> {
    let layout = Layout::new(dir);
    if !layout.config().exists() {
        return Err(FolderError::NoGateway(dir.display().to_string()).into());
    }
    let mut locked = None;
    for _ in 0..TRIES {
        match UnixStream::connect(layout.control_socket()).await {
            Ok(stream) => return ask(stream, &command).await,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
            Err(e) => {
                let path = layout.control_socket();
                return Err(Failure::unreachable(
                    format!("{}: {e}", path.display()),
                    "run it as the user that the gateway runs as",
                ));
            }
        }
        match Folder::lock(&layout) {
            Ok(_held) => return here(dir, command).await,
            Err(error @ FolderError::Locked(_)) => locked = Some(error),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(PAUSE).await;
    }
    let locked = locked.map_or_else(|| Failure::unreachable("nobody answers", "try again"), Failure::from);
    Err(locked)
}

/// In this process. The caller holds the lock.
async fn here(dir: &Path, command: Command) -> Result<Value, Failure> {
    let folder = Folder::open(dir)?;
    let cuts = Arc::new(CutsFile::open(&folder.layout.cuts())?);
    let state = SqliteState::open(&folder.layout.state()).await.map_err(FolderError::State)?;
    let state = Arc::new(state);
    let registry = Registry::new(
        state.clone(),
        Arc::new(Nobody),
        Arc::new(SystemClock::new()),
        Arc::new(OsEntropy::new()),
        Arc::new(folder.ca),
        folder.identity,
    )
    .keeping(cuts);
    let desk = Desk { registry: Arc::new(registry), state: state.clone(), running: None };
    let done = execute(&desk, command).await;
    state.close().await;
    done
}

async fn ask(mut stream: UnixStream, command: &Command) -> Result<Value, Failure> {
    let lost = |e: &dyn std::fmt::Display| {
        Failure::unreachable(
            format!("the gateway that runs did not answer: {e}"),
            "look whether it was done before you try again: `lingqu-gateway check`",
        )
    };
    let mut line = serde_json::to_vec(command).map_err(|e| Failure::ours(e.to_string(), "report this"))?;
    line.push(b'\n');
    stream.write_all(&line).await.map_err(|e| lost(&e))?;
    stream.shutdown().await.map_err(|e| lost(&e))?;
    let mut text = Vec::new();
    let mut bounded = stream.take(LINE_BYTES_MAX as u64);
    let read = tokio::time::timeout(ANSWER_TIMEOUT, bounded.read_to_end(&mut text)).await;
    read.map_err(|e| lost(&e))?.map_err(|e| lost(&e))?;
    match serde_json::from_slice(&text).map_err(|e| lost(&e))? {
        Answer::Ok(value) => Ok(value),
        Answer::Error(failure) => Err(failure),
    }
}
