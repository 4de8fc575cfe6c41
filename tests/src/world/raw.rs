//! A peer that speaks QUIC and frames itself, and does with them what no agent would.

use super::agent::Agent;
use super::gateway::Gateway;
use bytes::Bytes;
use lingqu_agent::connect::{ControlStream, Session};
use lingqu_certs::ca::{Authority, LEAF_VALID_MS, Validity, server_name, signing_request};
use lingqu_certs::key::SigningKey;
use lingqu_certs::os::{OsEntropy, SystemClock};
use lingqu_certs::profile::Profile;
use lingqu_certs::quic::{self, Limits, QuicChannel};
use lingqu_certs::tls::client::{Trust, client_config};
use lingqu_protocol::frame::{Event, FrameKind};
use lingqu_protocol::host::{Clock, Timestamp};
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::session::{FrameReader, FrameWriter};
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{DataHello, Fault, PushBatch, PushEnd, Reply, Request, Step, decode, reply, request, step};
use quinn::{Connection, ConnectionError, Endpoint};
use rustls::pki_types::CertificateDer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A handshake, an answer, an end: none may take longer.
pub const WAIT: Duration = Duration::from_secs(20);

/// The domain of every test's gateway.
pub const DOMAIN: &str = "lingqu.test";

/// A runtime for a test that speaks itself.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Who dials, and how.
#[derive(Debug)]
pub struct Raw {
    /// Where.
    pub address: SocketAddr,
    /// What TLS is made of; tests change what they like.
    pub tls: rustls::ClientConfig,
    /// The name that is asked for.
    pub name: String,
    /// What the gateway may open and have in flight towards us.
    pub limits: Limits,
    /// The address that it dials from.
    pub from: SocketAddr,
}

/// A connection that was greeted, with the socket below it.
#[derive(Debug)]
pub struct Dialled {
    /// The session.
    pub session: Session<QuicChannel>,
    /// Its socket.
    pub endpoint: Endpoint,
}

impl Raw {
    /// As an agent that joined.
    pub fn of(gateway: &Gateway, agent: &Agent) -> Self {
        let profile = Profile::load(agent.profile()).unwrap();
        Self::with(gateway, profile.tls(Arc::new(SystemClock::new())).unwrap())
    }

    /// With this chain on this key.
    pub fn with_chain(gateway: &Gateway, chain: Vec<CertificateDer<'static>>, key: &SigningKey) -> Self {
        let trust = Trust::Ca(ca(gateway).certificate().clone());
        Self::with(gateway, client_config(trust, DOMAIN, chain, key, Arc::new(SystemClock::new())).unwrap())
    }

    /// With this TLS.
    pub fn with(gateway: &Gateway, tls: rustls::ClientConfig) -> Self {
        Self {
            address: gateway.address(),
            tls,
            name: server_name(DOMAIN),
            limits: Limits::streams(4, 16),
            from: ([0, 0, 0, 0], 0).into(),
        }
    }

    /// Shakes hands, and waits a moment for a gateway that refuses only then.
    ///
    /// # Errors
    /// How the gateway, or this side, ended it.
    pub async fn shake_hands(&self) -> Result<(Connection, Endpoint), ConnectionError> {
        let endpoint = quic::client_endpoint(self.from, self.limits).unwrap();
        let config = quic::client_config(self.tls.clone(), self.limits).unwrap();
        let connecting = endpoint.connect_with(config, self.address, &self.name).unwrap();
        let connection = tokio::time::timeout(WAIT, connecting).await.expect("an answer to the handshake")?;
        // TLS 1.3: the server's refusal of our certificate comes after our side is done.
        match tokio::time::timeout(Duration::from_millis(300), connection.closed()).await {
            Ok(error) => Err(error),
            Err(_) => Ok((connection, endpoint)),
        }
    }

    /// A handshake that the gateway must refuse: how it did.
    ///
    /// # Panics
    /// Where it lets us in, or says nothing.
    pub async fn refused(&self) -> ConnectionError {
        let endpoint = quic::client_endpoint(([0, 0, 0, 0], 0).into(), self.limits).unwrap();
        let config = quic::client_config(self.tls.clone(), self.limits).unwrap();
        let connecting = endpoint.connect_with(config, self.address, &self.name).unwrap();
        match tokio::time::timeout(WAIT, connecting).await.expect("an answer to the handshake") {
            Err(error) => error,
            // The refusal of our certificate comes after our side is done.
            Ok(connection) => tokio::time::timeout(WAIT, connection.closed()).await.expect("a refusal"),
        }
    }

    /// Shakes hands and says hello.
    pub async fn dial(&self) -> Dialled {
        let (connection, endpoint) = self.shake_hands().await.expect("a handshake");
        let clock = SystemClock::new();
        let greeting = Session::greet(QuicChannel::new(connection), &clock, String::new());
        let session = tokio::time::timeout(WAIT, greeting).await.expect("an answer to hello").expect("a welcome");
        Dialled { session, endpoint }
    }
}

impl Dialled {
    /// The connection.
    pub fn connection(&self) -> Connection {
        self.session.channel().connection().clone()
    }

    /// A request whose stream stays open.
    pub async fn request(&self, ask: request::Ask) -> ControlStream<QuicChannel> {
        self.session.request(ask).await.expect("a stream for the request")
    }

    /// A request that is refused; the fault as it came, and its bytes.
    pub async fn refused(&self, ask: request::Ask) -> (Fault, Bytes) {
        let mut stream = self.request(ask).await;
        fault(&mut stream.reader).await
    }

    /// The answer to a request.
    pub async fn ask(&self, ask: request::Ask) -> reply::Reply {
        let mut stream = self.request(ask).await;
        stream.writer.finish();
        tokio::time::timeout(WAIT, stream.reply()).await.expect("an answer in time").expect("no fault")
    }

    /// Sends these bytes on a new stream in place of a request, and reads what comes back until it ends.
    pub async fn say(&self, bytes: impl Into<Bytes>, finish: bool) -> Vec<Reply> {
        let (mut send, recv) = self.connection().open_bi().await.unwrap();
        // The gateway may stop the stream before it has read all of it.
        let _stopped = send.write_all(&bytes.into()).await;
        if finish {
            let _stopped = send.finish();
        }
        replies(recv).await
    }

    /// The next stream that the gateway opens, behind its hello.
    pub async fn data_stream(&self) -> (DataHello, FrameReader<<QuicChannel as Channel>::Recv>) {
        let recv = tokio::time::timeout(WAIT, self.session.channel().accept_uni()).await.expect("a data stream");
        let mut reader = FrameReader::new(recv.unwrap());
        let hello = reader.expect::<DataHello>("a data hello").await.unwrap();
        (hello, reader)
    }
}

/// Reads replies until a fault comes.
///
/// # Panics
/// Where the stream ends without one.
pub async fn fault(reader: &mut FrameReader<<QuicChannel as Channel>::Recv>) -> (Fault, Bytes) {
    loop {
        let event = tokio::time::timeout(WAIT, reader.next()).await.expect("an answer in time").expect("a stream");
        let Some(Event::Control(body)) = event else { panic!("{event:?} came in place of a fault") };
        if let Some(reply::Reply::Fault(fault)) = decode::<Reply>(body.clone()).unwrap().reply {
            return (fault, body);
        }
    }
}

/// Every whole reply on a stream until it ends, however it ends.
pub async fn replies(mut recv: quinn::RecvStream) -> Vec<Reply> {
    let mut decoder = lingqu_protocol::frame::Decoder::default();
    let mut all = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = recv.read_chunk(1 << 16, true).await {
            decoder.push(chunk.bytes);
            while let Ok(Some(event)) = decoder.next() {
                if let Event::Control(body) = event {
                    all.push(decode::<Reply>(body).unwrap());
                }
            }
        }
    };
    tokio::time::timeout(WAIT, read).await.expect("the end of the stream");
    all
}

/// The gateway's own CA, whose key the test takes from its folder.
pub fn ca(gateway: &Gateway) -> Authority {
    Authority::load(gateway.dir(), DOMAIN).unwrap()
}

/// A chain for this agent, as the gateway's CA would sign it from this moment on.
pub fn chain_from(gateway: &Gateway, agent: &str, key: &SigningKey, from: Timestamp) -> Vec<CertificateDer<'static>> {
    let request = signing_request(key).unwrap();
    let validity = Validity::starting(from, LEAF_VALID_MS);
    ca(gateway).sign_agent(&request, &agent.parse().unwrap(), validity, &OsEntropy::new()).unwrap()
}

/// Gives an agent a certificate on its own key that expired a day ago, in place of the one that it has: a machine that was
/// off for too long.
pub fn expire(gateway: &Gateway, agent: &Agent) {
    let profile = Profile::load(agent.profile()).unwrap();
    let long_ago = now().plus_ms(-LEAF_VALID_MS - 24 * 60 * 60 * 1000);
    let chain = chain_from(gateway, &profile.settings().agent.to_string(), &profile.key().unwrap(), long_ago);
    let file = agent.profile().join(lingqu_certs::profile::CERTIFICATE_FILE);
    std::fs::write(file, lingqu_certs::chain::to_pem(&chain)).unwrap();
}

/// Now.
pub fn now() -> Timestamp {
    SystemClock::new().wall()
}

/// A request frame.
pub fn request_bytes(ask: request::Ask) -> Bytes {
    lingqu_protocol::wire::encode(&Request::from(ask)).unwrap()
}

/// What a pull brought, frame by frame.
#[derive(Debug, Default)]
pub struct Pulled {
    /// Bodies of Batch and Manifest frames, items' bytes, and every control message but the receipt.
    pub bodies: Vec<Bytes>,
    /// Rows, where there were any.
    pub batches: Vec<arrow::array::RecordBatch>,
    /// The gateway's end record; `None` where a fault came in its place.
    pub end: Option<lingqu_protocol::wire::PullEnd>,
    /// The fault.
    pub fault: Option<Fault>,
}

impl Pulled {
    /// Whether these bytes stand anywhere in what came.
    pub fn holds(&self, needle: &[u8]) -> bool {
        self.bodies.iter().any(|body| body.windows(needle.len()).any(|w| w == needle))
    }
}

impl Dialled {
    /// Pulls rows and keeps every byte that comes, up to the end record.
    pub async fn pull_rows(&self, ask: lingqu_protocol::wire::Pull) -> Pulled {
        let mut pulled = Pulled::default();
        let mut control = self.request(request::Ask::Pull(ask)).await;
        match self.next_reply(&mut control, &mut pulled).await {
            reply::Reply::PullReady(_) => {}
            reply::Reply::Fault(fault) => {
                pulled.fault = Some(fault);
                return pulled;
            }
            other => panic!("{other:?}"),
        }
        let start = lingqu_protocol::wire::PullStart::default();
        control.writer.message(&Step::from(step::Step::PullStart(start))).await.unwrap();
        let (_, mut data) = self.data_stream().await;
        let mut decoder = lingqu_protocol::ipc::Decoder::default();
        loop {
            match tokio::time::timeout(WAIT, data.next()).await.expect("data in time") {
                Ok(Some(Event::Batch(body))) => {
                    pulled.bodies.push(body.clone());
                    pulled.batches.extend(decoder.decode(body).unwrap());
                }
                // A mark: where the pull could go on. It is on the wire like all else.
                Ok(Some(Event::Control(body))) => pulled.bodies.push(body),
                Ok(None) | Err(_) => break,
                Ok(other) => panic!("{other:?}"),
            }
        }
        match self.next_reply(&mut control, &mut pulled).await {
            reply::Reply::PullEnd(end) => pulled.end = Some(end),
            reply::Reply::Fault(fault) => pulled.fault = Some(fault),
            other => panic!("{other:?}"),
        }
        pulled
    }

    async fn next_reply(&self, control: &mut ControlStream<QuicChannel>, pulled: &mut Pulled) -> reply::Reply {
        loop {
            let event = tokio::time::timeout(WAIT, control.reader.next())
                .await
                .expect("a reply in time")
                .expect("a reply, or a fault");
            let Some(Event::Control(body)) = event else { panic!("{event:?}") };
            pulled.bodies.push(body.clone());
            match decode::<Reply>(body).unwrap().reply.expect("a reply that is known here") {
                reply::Reply::Progress(_) => {}
                other => return other,
            }
        }
    }

    /// Opens a push of rows: its control stream, and the token for its data stream; or the fault.
    ///
    /// # Errors
    /// Where the gateway refuses.
    pub async fn open_batch(
        &self,
        entry: &str,
        transfer: TransferId,
    ) -> Result<(ControlStream<QuicChannel>, Bytes), Fault> {
        let ask = PushBatch {
            transfer: transfer.to_string(),
            entry: entry.to_owned(),
            mode: "full".to_owned(),
            ..PushBatch::default()
        };
        let mut control = self.request(request::Ask::PushBatch(ask)).await;
        match self.next_reply(&mut control, &mut Pulled::default()).await {
            reply::Reply::PushReady(ready) => Ok((control, ready.token)),
            reply::Reply::Fault(fault) => Err(fault),
            other => panic!("{other:?}"),
        }
    }

    /// Pushes the bodies of Batch frames as they are, with an end record; the receipt, or the fault.
    ///
    /// # Errors
    /// Where the gateway refuses.
    pub async fn push_batch(&self, entry: &str, bodies: Vec<Bytes>, end: PushEnd) -> Result<Bytes, Fault> {
        let transfer = TransferId::random(&OsEntropy::new()).unwrap();
        let (mut control, token) = self.open_batch(entry, transfer).await?;
        let mut data = FrameWriter::new(self.session.channel().open_uni().await.unwrap());
        let hello = DataHello { transfer: transfer.to_string(), token };
        data.message(&hello).await.unwrap();
        for body in bodies {
            let Ok(head) = lingqu_protocol::frame::header(FrameKind::Batch, body.len()) else { break };
            // The gateway may have stopped the stream.
            if data.raw(Bytes::copy_from_slice(&head)).await.is_err() || data.raw(body).await.is_err() {
                break;
            }
        }
        data.finish();
        // Nor does it read the end of what it refused.
        let _stopped = control.writer.message(&Step::from(step::Step::PushEnd(end))).await;
        match self.next_reply(&mut control, &mut Pulled::default()).await {
            reply::Reply::Receipt(receipt) => Ok(receipt.json),
            reply::Reply::Fault(fault) => Err(fault),
            other => panic!("{other:?}"),
        }
    }
}

/// Bodies of Batch frames that hold these rows, and the end record that belongs to them.
pub fn batch_frames(entry_toml: &str, batch: &arrow::array::RecordBatch) -> (Vec<Bytes>, PushEnd) {
    let spec = lingqu_protocol::entry::EntrySpec::parse(entry_toml).unwrap();
    let mut encoder = lingqu_protocol::ipc::Encoder::new(batch.schema()).unwrap();
    let mut bodies = vec![encoder.schema().unwrap()];
    let mut digest = lingqu_protocol::rows::RowsDigest::new(&spec);
    for piece in lingqu_protocol::ipc::cut(batch) {
        let (body, _) = encoder.batch(&piece).unwrap();
        bodies.push(body.concat().into());
        digest.update(&lingqu_protocol::columns::canonical_batch(&spec, &piece).unwrap()).unwrap();
    }
    let rows = batch.num_rows() as u64;
    (bodies, PushEnd { rows, rows_digest: digest.finish().to_string(), ..PushEnd::default() })
}
