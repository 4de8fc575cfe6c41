//! The control socket of a running gateway.

use super::{Answer, Command, Desk, Failure, LINE_BYTES_MAX, LINE_TIMEOUT, execute};
use crate::folder::Layout;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Commands at once: one operator and some scripts.
const COMMANDS_MAX: usize = 16;

/// The user who may do everything on a machine anyway.
const SUPERUSER: u32 = 0;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct ServerError {
    what: String,
    source: io::Error,
}

/// The socket, bound. It is removed when it is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// The user that the socket belongs to: the one this process runs as.
    owner: u32,
}

impl ControlSocket {
    /// Binds the socket of a folder. The caller holds the folder's lock, so a socket that is there is a dead one's.
    ///
    /// # Errors
    /// What the system says; a path over 107 bytes is too long for a socket.
    pub fn bind(layout: &Layout) -> Result<Self, ServerError> {
        let path = layout.control_socket();
        let error = |doing: &str| {
            let what = format!("{doing} {}", path.display());
            move |source| ServerError { what, source }
        };
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(error("removing the old")(e)),
        }
        let listener = UnixListener::bind(&path).map_err(error("binding"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(error("closing"))?;
        let owner = std::fs::metadata(&path).map_err(error("looking at"))?.uid();
        Ok(Self { listener, path, owner })
    }

    /// Takes commands until it is dropped.
    pub async fn serve(self, desk: Desk) {
        let places = Arc::new(Semaphore::new(COMMANDS_MAX));
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the control socket did not accept a command");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            // The mode of a socket is not looked at everywhere, so the peer is.
            let peer = stream.peer_cred().map(|cred| cred.uid());
            if !matches!(peer, Ok(uid) if uid == self.owner || uid == SUPERUSER) {
                tracing::warn!(?peer, "a command of another user was refused");
                continue;
            }
            let desk = desk.clone();
            tokio::spawn(async move {
                if let Err(error) = one(stream, &desk).await {
                    tracing::warn!(%error, "a command was not answered");
                }
                drop(place);
            });
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the control socket was gone already");
        }
    }
}

/// One command, one answer.
async fn one(stream: UnixStream, desk: &Desk) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    // One byte more than may be, to tell a line that is too long from one that just fits.
    let mut bounded = BufReader::new(read).take(LINE_BYTES_MAX as u64 + 1);
    timeout(LINE_TIMEOUT, bounded.read_until(b'\n', &mut line)).await??;
    let answer = if line.len() > LINE_BYTES_MAX {
        Err(Failure::usage(format!("a command of over {LINE_BYTES_MAX} bytes"), "send less at a time"))
    } else {
        match serde_json::from_slice::<Command>(&line) {
            Ok(command) => execute(desk, command).await,
            Err(error) => Err(Failure::usage(
                format!("not a command: {error}"),
                "use the `lingqu-gateway` of the same version as the gateway that runs",
            )),
        }
    };
    let answer = answer.map_or_else(Answer::Error, Answer::Ok);
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    timeout(LINE_TIMEOUT, write.write_all(&text)).await??;
    write.shutdown().await
}
