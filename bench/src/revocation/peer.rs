//! An agent with many transfers at a time, in a process of its own: it pulls files and forgets them, pushes made-up ones,
//! and writes down when the last byte of each stream came and when each transfer heard that it was cut.

use crate::error::BenchError;
use crate::peers::{orders, say};
use bytes::Bytes;
use lingqu_agent::connect::{ControlStream, Session};
use lingqu_agent::error::AgentError;
use lingqu_certs::ca::server_name;
use lingqu_certs::moments::now_ns;
use lingqu_certs::os::{OsEntropy, SystemClock};
use lingqu_certs::profile::Profile;
use lingqu_certs::quic::{self, Limits, QuicChannel};
use lingqu_protocol::digest::{CHUNK_BYTES, chunk_value};
use lingqu_protocol::frame::{self, Event, FrameKind};
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::plan::Plan;
use lingqu_protocol::session::{FrameReader, FrameWriter};
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{
    DataHello, ManifestFile, ManifestPart, Pull, PullStart, PushFiles, SegmentRange, reply, request, step,
};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Data streams that the gateway may have open towards a connection of this peer: four for each of its pulls.
const UNI_STREAMS: u32 = 256;

/// How long a transfer that was cut waits for the reason before it is told as silent.
const REASON_WAIT: Duration = Duration::from_secs(20);

/// What a peer is told at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Setting {
    pub(super) profile: PathBuf,
    pub(super) domain: String,
    pub(super) gateway: SocketAddr,
    pub(super) connections: usize,
}

/// What a peer is told to do, a line each.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// Begin transfers, spread over the connections.
    Start { pulls: usize, pushes: usize, target: String, push_bytes: u64 },
    /// Say how much has passed.
    Count,
    /// Say how each transfer went, and be ready for the next round.
    Tell,
}

/// How a transfer went. Times are CLOCK_MONOTONIC in nanoseconds; 0 where it never came to that.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) is_pull: bool,
    pub(super) address: String,
    pub(super) streams: u64,
    pub(super) bytes: u64,
    /// The last byte that this application got (a pull) or gave away (a push).
    pub(super) last_byte_ns: u64,
    /// The last chunk whose first byte came.
    pub(super) last_chunk_ns: u64,
    /// When the fault came.
    pub(super) cut_ns: u64,
    /// The fault's word, or how else it ended.
    pub(super) word: String,
    /// Whether it looked complete.
    pub(super) complete: bool,
}

#[derive(Default)]
struct Flow {
    streams: AtomicU64,
    bytes: AtomicU64,
    last_byte_ns: AtomicU64,
    last_chunk_ns: AtomicU64,
}

impl Flow {
    fn passed(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.last_byte_ns.fetch_max(now_ns(), Ordering::Relaxed);
    }
}

struct Connection {
    session: Session<QuicChannel>,
    address: String,
    pulls: Mutex<HashMap<String, Arc<Flow>>>,
}

struct Running {
    is_pull: bool,
    address: String,
    flow: Arc<Flow>,
    ended: tokio::task::JoinHandle<(u64, String, bool)>,
}

/// Runs until standard input ends.
///
/// # Errors
/// When the gateway does not let it in.
pub async fn run(setting: &str) -> Result<(), BenchError> {
    let setting: Setting = serde_json::from_str(setting).map_err(BenchError::data("the peer's setting"))?;
    let mut connections = Vec::new();
    let mut sockets = Vec::new();
    for _ in 0..setting.connections {
        let (connection, socket) = dial(&setting).await?;
        tokio::spawn(take_streams(Arc::clone(&connection)));
        connections.push(connection);
        sockets.push(socket);
    }
    say(&serde_json::json!({ "ready": connections.len() }))?;
    let mut running: Vec<Running> = Vec::new();
    let mut lines = orders();
    while let Some(line) = lines.recv().await {
        match serde_json::from_str(&line).map_err(BenchError::data("an order"))? {
            Order::Start { pulls, pushes, target, push_bytes } => {
                for (i, connection) in (0..pulls + pushes).zip(connections.iter().cycle()) {
                    running.push(begin(connection, i < pulls, &target, push_bytes)?);
                }
            }
            Order::Count => {
                let bytes: u64 = running.iter().map(|r| r.flow.bytes.load(Ordering::Relaxed)).sum();
                let moving = running.iter().filter(|r| r.flow.bytes.load(Ordering::Relaxed) > 0).count();
                say(&serde_json::json!({ "bytes": bytes, "moving": moving, "at_ns": now_ns() }))?;
            }
            Order::Tell => {
                let mut told = Vec::new();
                for transfer in running.drain(..) {
                    told.push(ended(transfer).await);
                }
                connections.iter().for_each(|c| c.pulls.lock().unwrap_or_else(PoisonError::into_inner).clear());
                say(&serde_json::json!(told))?;
            }
        }
    }
    Ok(())
}

async fn ended(transfer: Running) -> Told {
    let Running { is_pull, address, flow, ended } = transfer;
    let (cut_ns, word, complete) = match tokio::time::timeout(REASON_WAIT, ended).await {
        Ok(Ok(outcome)) => outcome,
        _ => (0, "silent".to_owned(), false),
    };
    let of = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
    Told {
        is_pull,
        address,
        streams: of(&flow.streams),
        bytes: of(&flow.bytes),
        last_byte_ns: of(&flow.last_byte_ns),
        last_chunk_ns: of(&flow.last_chunk_ns),
        cut_ns,
        word,
        complete,
    }
}

async fn dial(setting: &Setting) -> Result<(Arc<Connection>, quinn::Endpoint), BenchError> {
    fn failed(error: impl std::fmt::Display) -> BenchError {
        BenchError::data("dialling")(error)
    }
    let profile = Profile::load(&setting.profile).map_err(BenchError::data("reading the profile"))?;
    let tls = profile.tls(Arc::new(SystemClock::new())).map_err(BenchError::data("the profile's TLS"))?;
    let limits = Limits::streams(0, UNI_STREAMS);
    let config = quic::client_config(tls, limits).map_err(BenchError::system("preparing QUIC"))?;
    let socket = quic::client_endpoint(([0, 0, 0, 0], 0).into(), limits).map_err(BenchError::system("a socket"))?;
    let port = socket.local_addr().map_err(BenchError::system("a socket's address"))?.port();
    let connecting = socket.connect_with(config, setting.gateway, &server_name(&setting.domain)).map_err(failed)?;
    let channel = QuicChannel::new(connecting.await.map_err(failed)?);
    let session = Session::greet(channel, &SystemClock::new(), String::new()).await.map_err(failed)?;
    let address = format!("127.0.0.1:{port}");
    Ok((Arc::new(Connection { session, address, pulls: Mutex::default() }), socket))
}

/// Takes the data streams of a connection's pulls.
async fn take_streams(connection: Arc<Connection>) {
    while let Ok(stream) = connection.session.channel().accept_uni().await {
        let connection = Arc::clone(&connection);
        tokio::spawn(async move {
            let mut reader = FrameReader::new(stream);
            let Ok(hello) = reader.expect::<DataHello>("a data hello").await else { return };
            let flow =
                connection.pulls.lock().unwrap_or_else(PoisonError::into_inner).get(&hello.transfer).map(Arc::clone);
            let Some(flow) = flow else { return };
            flow.streams.fetch_add(1, Ordering::Relaxed);
            // It ends with the stream, however that ends.
            while let Ok(Some(event)) = reader.next().await {
                match event {
                    Event::ItemData(data) => flow.passed(data.len()),
                    Event::Item { .. } => {
                        flow.last_chunk_ns.fetch_max(now_ns(), Ordering::Relaxed);
                    }
                    _ => {}
                }
            }
        });
    }
}

fn begin(connection: &Arc<Connection>, is_pull: bool, target: &str, bytes: u64) -> Result<Running, BenchError> {
    let transfer = TransferId::random(&OsEntropy::new()).map_err(BenchError::system("randomness"))?.to_string();
    let flow = Arc::new(Flow::default());
    let (connection, target, of) = (Arc::clone(connection), target.to_owned(), Arc::clone(&flow));
    let address = connection.address.clone();
    if is_pull {
        connection.pulls.lock().unwrap_or_else(PoisonError::into_inner).insert(transfer.clone(), Arc::clone(&flow));
    }
    let ended = tokio::spawn(async move {
        let outcome = if is_pull {
            pull(&connection, transfer, target).await
        } else {
            push(&connection, transfer, target, bytes, &of).await
        };
        let at = now_ns();
        match outcome {
            Ok(()) => (at, "complete".to_owned(), true),
            Err(AgentError::Refused(fault)) => (at, fault.word, false),
            Err(other) => (at, other.to_string(), false),
        }
    });
    Ok(Running { is_pull, address, flow, ended })
}

/// Pulls all segments of a set of files.
async fn pull(connection: &Connection, transfer: String, target: String) -> Result<(), AgentError> {
    let ask = Pull { transfer, target, ..Pull::default() };
    let mut control = connection.session.request(request::Ask::Pull(ask)).await?;
    let ready = match control.reply().await? {
        reply::Reply::PullReady(ready) => ready,
        other => return Err(lingqu_agent::connect::unexpected("PullReady", &other)),
    };
    let mut sizes = Vec::new();
    while sizes.len() < ready.files as usize {
        match control.reader.next().await? {
            Some(Event::Manifest(body)) => {
                let part: ManifestPart = lingqu_protocol::wire::decode(body).map_err(session)?;
                sizes.extend(part.files.iter().map(|file| file.bytes));
            }
            _ => return Err(session(lingqu_protocol::session::SessionError::Incomplete)),
        }
    }
    let count = Plan::new(sizes).map_or(0, |plan| plan.segments());
    control.step(step::Step::PullStart(PullStart { want: vec![SegmentRange { first: 0, count }] })).await?;
    control.reply().await.map(drop)
}

fn session(error: impl Into<lingqu_protocol::session::SessionError>) -> AgentError {
    error.into().into()
}

/// Pushes one made-up file on one data stream.
async fn push(
    connection: &Connection,
    transfer: String,
    entry: String,
    bytes: u64,
    flow: &Flow,
) -> Result<(), AgentError> {
    let ask = PushFiles { transfer: transfer.clone(), entry, files: 1, bytes };
    let mut control = connection.session.request(request::Ask::PushFiles(ask)).await?;
    let file = ManifestFile { name: "made-up.bin".to_owned(), bytes, root: Bytes::new() };
    let manifest = ManifestPart { files: vec![file] }.encode_to_vec();
    if let Err(error) = control.writer.raw(frame::encode(FrameKind::Manifest, &manifest).map_err(session)?).await {
        // A gateway that refuses stops reading, and says why.
        return Err(control.reason(error.into()).await);
    }
    let ready = match control.reply().await? {
        reply::Reply::PushReady(ready) => ready,
        other => return Err(lingqu_agent::connect::unexpected("PushReady", &other)),
    };
    let opened = async {
        let mut data = FrameWriter::new(connection.session.channel().open_uni().await?);
        data.message(&DataHello { transfer, token: ready.token }).await?;
        Ok::<_, AgentError>(data)
    };
    let mut data = match opened.await {
        Ok(data) => data,
        // A push that is cut while its stream is on its way: why is said on the control stream.
        Err(error) => return Err(control.reason(error).await),
    };
    flow.streams.fetch_add(1, Ordering::Relaxed);
    let sending = async {
        match send(&mut data, bytes, flow).await {
            Ok(()) => data.finish(),
            // Why is said on the control stream.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        fault = refusal(&mut control) => Err(fault),
        () = sending => Ok(()),
    }
}

async fn refusal(control: &mut ControlStream<QuicChannel>) -> AgentError {
    loop {
        match control.reply().await {
            Ok(reply::Reply::Progress(_)) => {}
            Ok(other) => return lingqu_agent::connect::unexpected("progress", &other),
            Err(error) => return error,
        }
    }
}

async fn send<S: lingqu_protocol::stream::SendHalf>(
    data: &mut FrameWriter<S>,
    bytes: u64,
    flow: &Flow,
) -> Result<(), AgentError> {
    let chunk = Bytes::from(vec![0x5a; CHUNK_BYTES as usize]);
    let Ok(plan) = Plan::new(vec![bytes]) else { return Ok(()) };
    for segment in 0..plan.segments() {
        data.raw(frame::segment(segment)).await?;
        for (place, item) in (0u32..).zip(plan.items(segment).unwrap_or_default()) {
            let piece = chunk.slice(..item.bytes as usize);
            let value = chunk_value(&piece, item.chunk, bytes);
            data.raw(frame::item_head(place, &value, item.bytes).map_err(session)?).await?;
            data.raw(piece).await?;
            flow.passed(item.bytes as usize);
        }
    }
    Ok(())
}
