//! QUIC as both sides use it: endpoints with windows and datagrams sized for bulk, and the session layer's streams on
//! top of a connection ([`channel`]).

pub mod channel;
mod socket;

pub use channel::{QuicChannel, QuicRecv, QuicSend};

use lingqu_protocol::host::Clock;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The largest UDP payload that is sent or taken: what fits a 9,000-byte jumbo frame after IPv6, UDP and some room for
/// tunnels. Discovery finds what the path really takes.
pub const MTU_BYTES_MAX: u16 = 8952;

/// The UDP payload that every path of the internet takes (RFC 9000, 14); discovery starts here.
pub const MTU_BYTES_INITIAL: u16 = 1200;

/// Bytes in flight on one stream: 640 Mb/s over 100 ms, and on a local network more than a core can encrypt.
pub const STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// Bytes in flight towards us on one connection unless the caller gives less: three full streams. Far above the
/// socket's buffer a burst would be dropped by the kernel and paid for twice.
pub const CONNECTION_WINDOW_BYTES: u32 = 24 << 20;

/// Bytes kept for sending again on one connection: two full streams; it is memory that a slow reader can hold.
pub const SEND_WINDOW_BYTES: u64 = 16 << 20;

/// What is asked of the kernel for each socket's buffers: 40 ms at 100 MB/s while the one receiving task is away.
pub const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Silence after which a peer is gone: longer than a firewall's reboot is not waited for, transfers resume.
pub const IDLE_MS_MAX: u32 = 30_000;

/// How often a quiet connection says something: below the shortest UDP binding of common firewalls (RFC 4787 asks for
/// two minutes; many keep 30 s), and three chances before the peer counts as gone.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What a peer may open and hold on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams that the peer may have open in both directions.
    pub bidi_streams: u32,
    /// Streams that the peer may have open towards us.
    pub uni_streams: u32,
    /// Bytes that the peer may have in flight towards us on the whole connection.
    pub connection_window_bytes: u32,
    /// Bytes of a UDP payload that discovery may reach, at most [`MTU_BYTES_MAX`].
    pub mtu_bytes_max: u16,
}

impl Limits {
    /// So many streams each way, and the windows and datagrams of this file.
    pub const fn streams(bidi_streams: u32, uni_streams: u32) -> Self {
        Self {
            bidi_streams,
            uni_streams,
            connection_window_bytes: CONNECTION_WINDOW_BYTES,
            mtu_bytes_max: MTU_BYTES_MAX,
        }
    }
}

/// What a gateway takes before it knows who is there, and what it says to those whom it does not know any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshakes {
    /// First packets that wait for the gateway's decision; more are refused.
    pub waiting_max: usize,
    /// Bytes that are kept for all of them.
    pub waiting_bytes_max: u64,
    /// Where it is the same after a restart, packets of a connection from before are answered with a reset (RFC 9000,
    /// 10.3), and the peer dials again at once instead of waiting out its idle time. A secret; `None` makes one up.
    pub reset_secret: Option<[u8; 32]>,
}

/// An endpoint that accepts. Every waiting handshake is handed to the caller, who accepts, refuses or asks for a retry.
///
/// # Errors
/// What the system says of the address, and settings that do not fit together.
pub fn server_endpoint(
    listen: SocketAddr,
    tls: rustls::ServerConfig,
    limits: Limits,
    handshakes: Handshakes,
    clock: Arc<dyn Clock>,
) -> io::Result<Endpoint> {
    let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(transport(limits)?))
        .max_incoming(handshakes.waiting_max)
        .incoming_buffer_size_total(handshakes.waiting_bytes_max)
        .time_source(Arc::new(ClockSource(clock)));
    endpoint(listen, limits, Some(config), handshakes.reset_secret)
}

/// An endpoint that only dials. `local` is usually the unspecified address of the family to be dialled. A program waits
/// for `wait_idle` before it ends, or the gateway learns of its leaving only from the silence.
///
/// # Errors
/// What the system says of the address.
pub fn client_endpoint(local: SocketAddr, limits: Limits) -> io::Result<Endpoint> {
    endpoint(local, limits, None, None)
}

/// What a client endpoint dials with.
///
/// # Errors
/// Settings that do not fit together; nothing that a peer can cause.
pub fn client_config(tls: rustls::ClientConfig, limits: Limits) -> io::Result<ClientConfig> {
    let crypto = QuicClientConfig::try_from(tls).map_err(io::Error::other)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport(limits)?));
    Ok(config)
}

fn endpoint(
    local: SocketAddr,
    limits: Limits,
    server: Option<ServerConfig>,
    reset_secret: Option<[u8; 32]>,
) -> io::Result<Endpoint> {
    let mut config = EndpointConfig::default();
    if let Some(secret) = reset_secret {
        config.reset_key(Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret)));
        config.cid_generator(|| Box::new(PlainIds));
    }
    config.max_udp_payload_size(mtu(limits)).map_err(io::Error::other)?;
    let socket = socket::open(local, mtu(limits))?;
    Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime))
}

fn transport(limits: Limits) -> io::Result<TransportConfig> {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(mtu(limits));
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.bidi_streams))
        .max_concurrent_uni_streams(VarInt::from_u32(limits.uni_streams))
        // A connection that begins with little may be given more; a stream's own window cannot.
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(limits.connection_window_bytes))
        .send_window(SEND_WINDOW_BYTES)
        .initial_mtu(MTU_BYTES_INITIAL)
        .mtu_discovery_config(Some(discovery))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MS_MAX))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        // Unreliable datagrams are not part of the protocol; what is not offered cannot be filled.
        .datagram_receive_buffer_size(None);
    Ok(transport)
}

fn mtu(limits: Limits) -> u16 {
    limits.mtu_bytes_max.clamp(MTU_BYTES_INITIAL, MTU_BYTES_MAX)
}

/// The injected clock, for the lifetime of address tokens.
struct ClockSource(Arc<dyn Clock>);

impl quinn::TimeSource for ClockSource {
    fn now(&self) -> SystemTime {
        let since = Duration::from_millis(u64::try_from(self.0.wall().0).unwrap_or(0));
        UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
    }
}

/// Connection ids that say nothing. quinn's own carry a check under a key of the process, and packets that fail it are
/// dropped in silence: after a restart that would be every packet of a connection from before.
struct PlainIds;

/// Bytes of a connection id, as quinn's own have.
const CONNECTION_ID_BYTES: usize = 8;

impl quinn::ConnectionIdGenerator for PlainIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        let mut id = [0; CONNECTION_ID_BYTES];
        // Without randomness an id is taken already sooner or later, and its connection is refused: nothing is unsafe.
        let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut id);
        quinn::ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
