//! One subscriber, speaking the protocol by itself.

use super::peer::Setting;
use crate::error::{BenchError, check};
use bytes::Bytes;
use lingqu_agent::connect::{ControlStream, Session};
use lingqu_agent::error::AgentError;
use lingqu_certs::ca::{server_name, signing_request};
use lingqu_certs::invitation::Invitation;
use lingqu_certs::key::SigningKey;
use lingqu_certs::os::{OsEntropy, SystemClock};
use lingqu_certs::quic::{self, Limits, QuicChannel};
use lingqu_certs::tls::client::{Trust, client_config};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::frame::Event;
use lingqu_protocol::host::Clock as _;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::ipc::{BatchRoot, Decoder};
use lingqu_protocol::rows::{RowsDigest, RowsSum};
use lingqu_protocol::session::FrameReader;
use lingqu_protocol::stream::Channel as _;
use lingqu_protocol::wire::{DataHello, Follow, Join, Slice, SliceAck, SliceEnd, reply, request, step};
use quinn::Endpoint;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Batches that wait to be checked while the next come in: of 128 KiB each what an agent has room for.
const CHECKED_LATER: usize = 16;

/// Bytes that a slow subscriber has room for.
const SLOW_WINDOW_BYTES: u32 = 16 << 10;

/// What a slow one waits before it takes anything, and after each piece.
const SLOW_WAIT: Duration = Duration::from_secs(2);

/// How a subscriber behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Takes what comes.
    Live,
    /// Takes a little and waits, with little room.
    Slow,
    /// Will be killed.
    Dead,
}

/// How a version was taken.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) version: u64,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// From the version's commit until the gateway said that the acknowledgement is durable, in milliseconds.
    pub(super) took_ms: i64,
    /// From asking to follow until the first rows came, in milliseconds: only of the first version that has any.
    pub(super) first_rows_ms: f64,
    /// From asking to follow until this version was taken.
    pub(super) whole_ms: f64,
}

/// Who a subscriber is.
pub(super) struct Identity {
    domain: String,
    ca: Digest,
    key: SigningKey,
    chain: Vec<CertificateDer<'static>>,
}

fn failed(error: impl std::fmt::Display) -> BenchError {
    BenchError::data("a subscriber")(error)
}

/// Joins by an invitation, as `lingqu join` does, and keeps key and certificate in memory.
pub(super) async fn join(socket: &Endpoint, gateway: SocketAddr, invitation: &str) -> Result<Identity, BenchError> {
    let (clock, entropy) = (Arc::new(SystemClock::new()), OsEntropy::new());
    let invitation: Invitation = invitation.parse().map_err(failed)?;
    let certificate = invitation.certificate(clock.wall(), &entropy).map_err(failed)?;
    let invited = Identity {
        domain: invitation.domain.clone(),
        ca: invitation.ca,
        key: invitation.key().map_err(failed)?,
        chain: vec![certificate],
    };
    let session = dial(socket, gateway, &invited, Kind::Live).await?;
    let key = SigningKey::generate(&entropy).map_err(failed)?;
    let csr_der = signing_request(&key).map_err(failed)?.into();
    let answer = session.ask(request::Ask::Join(Join { csr_der })).await.map_err(failed)?;
    session.close();
    match answer {
        reply::Reply::Certificate(of) => {
            let chain = of.chain_der.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
            Ok(Identity { key, chain, ..invited })
        }
        other => Err(failed(lingqu_agent::connect::unexpected("a certificate", &other))),
    }
}

async fn dial(
    socket: &Endpoint,
    gateway: SocketAddr,
    identity: &Identity,
    kind: Kind,
) -> Result<Session<QuicChannel>, BenchError> {
    let clock = Arc::new(SystemClock::new());
    let Identity { domain, ca, key, chain } = identity;
    let tls = client_config(Trust::Pin(*ca), domain, chain.clone(), key, clock.clone()).map_err(failed)?;
    let mut limits = Limits::streams(0, 4);
    if kind == Kind::Slow {
        limits.connection_window_bytes = SLOW_WINDOW_BYTES;
    }
    let config = quic::client_config(tls, limits).map_err(failed)?;
    let connecting = socket.connect_with(config, gateway, &server_name(domain)).map_err(failed)?;
    let channel = QuicChannel::new(connecting.await.map_err(failed)?);
    Session::greet(channel, clock.as_ref(), String::new()).await.map_err(failed)
}

/// A subscription that stands.
pub(super) struct Subscriber {
    session: Session<QuicChannel>,
    control: ControlStream<QuicChannel>,
    kind: Kind,
    asked: Instant,
    told: Told,
}

impl Subscriber {
    /// Asks to follow.
    pub(super) async fn follow(socket: &Endpoint, setting: &Setting, identity: &Identity) -> Result<Self, BenchError> {
        let session = dial(socket, setting.gateway, identity, setting.kind).await?;
        let subscription = TransferId::random(&OsEntropy::new()).map_err(failed)?.to_string();
        let entry = setting.entry.clone();
        let ask = Follow { subscription, entry, sink: "memory".to_owned(), lz4: setting.lz4, ..Follow::default() };
        let asked = Instant::now();
        let mut control = session.request(request::Ask::Follow(ask)).await.map_err(failed)?;
        match control.reply().await.map_err(failed)? {
            reply::Reply::FollowReady(_) => {}
            other => return Err(failed(lingqu_agent::connect::unexpected("leave to follow", &other))),
        }
        Ok(Self { session, control, kind: setting.kind, asked, told: Told::default() })
    }

    /// Takes version after version, and says of each how it was taken.
    pub(super) async fn run(mut self, sender: watch::Sender<Told>) -> Result<(), BenchError> {
        loop {
            match self.control.reply().await.map_err(failed)? {
                reply::Reply::Slice(slice) => {
                    self.take(slice).await?;
                    // Nobody listens where the run is over.
                    let _ = sender.send(self.told.clone());
                }
                reply::Reply::CaughtUp(_) | reply::Reply::Alive(_) => {}
                other => return Err(failed(lingqu_agent::connect::unexpected("a version", &other))),
            }
        }
    }

    async fn take(&mut self, slice: Slice) -> Result<(), BenchError> {
        self.pause().await;
        let taken = if slice.rows > 0 { self.data().await? } else { Taken::default() };
        if let Some(first) = taken.first_rows.filter(|_| self.told.first_rows_ms <= 0.0) {
            self.told.first_rows_ms = first.saturating_duration_since(self.asked).as_secs_f64() * 1e3;
        }
        let end = loop {
            match self.control.reply().await.map_err(failed)? {
                reply::Reply::SliceEnd(end) => break end,
                reply::Reply::Alive(_) => {}
                other => return Err(failed(lingqu_agent::connect::unexpected("the end of a version", &other))),
            }
        };
        let (bytes_root, rows_digest) = taken.check(&slice, &end)?;
        let ack = SliceAck { version: slice.version, bytes_root, rows_digest };
        self.control.step(step::Step::SliceAck(ack)).await.map_err(failed)?;
        loop {
            match self.control.reply().await.map_err(failed)? {
                reply::Reply::SliceTaken(_) => break,
                reply::Reply::Alive(_) => {}
                other => return Err(failed(lingqu_agent::connect::unexpected("that it was taken", &other))),
            }
        }
        let took_ms = SystemClock::new().wall().0.saturating_sub(slice.committed_at_ms);
        let (version, bytes) = (slice.version, taken.root.bytes());
        let whole_ms = self.asked.elapsed().as_secs_f64() * 1e3;
        self.told = Told { version, rows: slice.rows, bytes, took_ms, whole_ms, ..self.told };
        Ok(())
    }

    /// Takes the rows of a version. They are checked beside the next that come, as an agent does.
    async fn data(&mut self) -> Result<Taken, BenchError> {
        let stream = self.session.channel().accept_uni().await.map_err(failed)?;
        let mut reader = FrameReader::new(stream).taking_lz4();
        reader.expect::<DataHello>("a data hello").await.map_err(failed)?;
        let (sender, mut bodies) = mpsc::channel(CHECKED_LATER);
        let checking = tokio::spawn(async move {
            let mut taken = Taken::default();
            while let Some(body) = bodies.recv().await {
                taken.add(body)?;
            }
            Ok::<_, BenchError>(taken)
        });
        loop {
            match reader.next().await {
                Ok(Some(Event::Batch(body))) => {
                    if sender.send(body).await.is_err() {
                        // What is wrong with it is known below.
                        break;
                    }
                    self.pause().await;
                }
                Ok(None) => break,
                Ok(Some(_)) => return Err(BenchError::Wrong("another frame than a batch".to_owned())),
                // Why is said on the control stream.
                Err(error) => return Err(failed(self.control.reason(AgentError::from(error)).await)),
            }
        }
        drop(sender);
        checking.await.map_err(failed)?
    }

    async fn pause(&self) {
        if self.kind == Kind::Slow {
            tokio::time::sleep(SLOW_WAIT).await;
        }
    }
}

/// What came of a version.
#[derive(Default)]
struct Taken {
    root: BatchRoot,
    decoder: Decoder,
    digest: Option<RowsDigest>,
    first_rows: Option<Instant>,
}

impl Taken {
    /// Takes a frame.
    fn add(&mut self, body: Bytes) -> Result<(), BenchError> {
        self.root.add([&body[..]]);
        let batch = self.decoder.decode(body).map_err(failed)?;
        if self.digest.is_none() {
            self.digest = self.decoder.schema().and_then(|schema| RowsDigest::of_schema(schema));
        }
        let Some(batch) = batch else { return Ok(()) };
        self.first_rows.get_or_insert_with(Instant::now);
        let digest = self.digest.as_mut().ok_or_else(|| BenchError::Wrong("columns of no item".to_owned()))?;
        digest.update(&batch).map_err(failed)?;
        Ok(())
    }

    /// Compares with what the gateway says; the digests to acknowledge with.
    fn check(&self, slice: &Slice, end: &SliceEnd) -> Result<(String, String), BenchError> {
        let sum = self.digest.as_ref().map_or_else(RowsSum::default, RowsDigest::sum);
        let (root, digest) = (self.root.digest().to_string(), sum.digest().to_string());
        check(sum.count == slice.rows && end.rows == sum.count, || {
            format!("{} rows came where {} were said", sum.count, slice.rows)
        })?;
        check(root == end.bytes_root && digest == end.rows_digest, || "digests differ".to_owned())?;
        Ok((root, digest))
    }
}
