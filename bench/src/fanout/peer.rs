//! Many subscribers in one process: each with a key, a certificate and a connection of its own. They keep nothing: what they take
//! is decoded, counted and compared with the gateway's digests, and then acknowledged.

use super::subscriber::{Kind, Subscriber, Told, join};
use crate::error::BenchError;
use crate::peers::{orders, say};
use lingqu_certs::quic::{self, Limits};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Connections from one address: fewer than the gateway takes from one, so that no limit has to be another for this.
const PER_ADDRESS: usize = 200;

/// Handshakes at a time: fewer than those beyond which the gateway asks addresses to prove themselves.
const AT_ONCE: usize = 8;

/// What a peer is told at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Setting {
    /// Makes its addresses of loopback its own.
    pub(super) number: u8,
    pub(super) gateway: SocketAddr,
    pub(super) entry: String,
    pub(super) kind: Kind,
    /// Whether it takes what is compressed.
    pub(super) lz4: bool,
}

/// What a peer is told to do, a line each.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// Join as these, and follow the entry.
    Join { invitations: Vec<String> },
    /// Say how each took this version, once all have.
    Tell { version: u64 },
}

/// Runs until standard input ends.
///
/// # Errors
/// When the gateway does not let it in, or something that came is wrong.
pub async fn run(setting: &str) -> Result<(), BenchError> {
    let setting: Setting = serde_json::from_str(setting).map_err(BenchError::data("the peer's setting"))?;
    let mut running: Vec<watch::Receiver<Told>> = Vec::new();
    let mut work: JoinSet<Result<(), BenchError>> = JoinSet::new();
    let mut lines = orders();
    while let Some(line) = lines.recv().await {
        match serde_json::from_str(&line).map_err(BenchError::data("an order"))? {
            Order::Join { invitations } => {
                let turns = Arc::new(Semaphore::new(AT_ONCE));
                let mut joining = JoinSet::new();
                for (at, chunk) in invitations.chunks(PER_ADDRESS).enumerate() {
                    let host = Ipv4Addr::new(127, 1, setting.number, at as u8 + 1);
                    let limits = Limits::streams(0, 4);
                    let socket = quic::client_endpoint((host, 0).into(), limits);
                    let socket = socket.map_err(BenchError::system("a socket"))?;
                    for (place, invitation) in chunk.iter().enumerate() {
                        let (turns, socket, invitation) = (Arc::clone(&turns), socket.clone(), invitation.clone());
                        let setting = setting.clone();
                        joining.spawn(async move {
                            // Nobody closes it.
                            let _turn = turns.acquire().await;
                            let identity = join(&socket, setting.gateway, &invitation).await?;
                            let at = at * PER_ADDRESS + place;
                            Subscriber::follow(&socket, &setting, &identity).await.map(|subscriber| (at, subscriber))
                        });
                    }
                }
                let mut all = Vec::new();
                while let Some(joined) = joining.join_next().await {
                    all.push(joined.map_err(BenchError::data("joining"))??);
                }
                all.sort_by_key(|(at, _)| *at);
                for (_, subscriber) in all {
                    let (sender, receiver) = watch::channel(Told::default());
                    running.push(receiver);
                    work.spawn(subscriber.run(sender));
                }
                say(&serde_json::json!({ "joined": running.len() }))?;
            }
            Order::Tell { version } => {
                let mut told = Vec::new();
                for receiver in &mut running {
                    let taken = receiver.wait_for(|told| told.version >= version).await.map(|told| told.clone());
                    match taken {
                        Ok(taken) => told.push(taken),
                        Err(_) => return Err(ended(&mut work).await),
                    }
                }
                say(&serde_json::json!(told))?;
            }
        }
    }
    Ok(())
}

/// Why a subscriber ended.
async fn ended(work: &mut JoinSet<Result<(), BenchError>>) -> BenchError {
    while let Some(ended) = work.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(error) => return BenchError::data("a subscriber")(error),
        }
    }
    BenchError::Wrong("a subscriber ended".to_owned())
}
