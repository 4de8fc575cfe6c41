//! What the tests of this crate share: a clock that stands where it is put, and a gateway on loopback.

use crate::ca::{Authority, LEAF_VALID_MS, Validity, signing_request};
use crate::key::SigningKey;
use crate::os::OsEntropy;
use crate::quic::{self, Handshakes, Limits, QuicChannel};
use crate::tls::client::{Trust, client_config};
use crate::tls::peer::{Exceptions, PeerIdentity, PeerPolicy, PeerRefused};
use crate::tls::server::{ServerIdentity, server_config};
use lingqu_protocol::host::{Clock, Timestamp};
use quinn::{ConnectionError, Endpoint};
use rustls::pki_types::CertificateDer;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

pub(crate) const NOW: Timestamp = Timestamp(1_800_000_000_000);
pub(crate) const DOMAIN: &str = "example.gov.cn";
pub(crate) const AGENT: &str = "91350100M000100Y43/main";

pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(NOW.0)))
    }

    pub(crate) fn set(&self, at: Timestamp) {
        self.0.store(at.0, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn wall(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

pub(crate) fn key(n: u8) -> SigningKey {
    SigningKey::from_seed([n; 32]).unwrap()
}

pub(crate) fn new_ca(dir: &std::path::Path, domain: &str) -> Authority {
    Authority::create(dir, domain, NOW, &OsEntropy::new()).unwrap()
}

pub(crate) fn agent_chain(ca: &Authority, key: &SigningKey, validity: Validity) -> Vec<CertificateDer<'static>> {
    let request = signing_request(key).unwrap();
    ca.sign_agent(&request, &AGENT.parse().unwrap(), validity, &OsEntropy::new()).unwrap()
}

pub(crate) fn month() -> Validity {
    Validity::starting(NOW, LEAF_VALID_MS)
}

/// A gateway that listens on loopback, with a CA of its own.
pub(crate) struct Gateway {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) ca: Authority,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) policy: Arc<PeerPolicy>,
    pub(crate) identity: Arc<ServerIdentity>,
    pub(crate) endpoint: Endpoint,
}

/// How a handshake went, seen from both ends.
pub(crate) struct Met {
    pub(crate) server: Result<QuicChannel, ConnectionError>,
    pub(crate) client: Result<QuicChannel, ConnectionError>,
}

impl Gateway {
    pub(crate) fn new(exceptions: impl Exceptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = new_ca(dir.path(), DOMAIN);
        let clock = TestClock::new();
        let policy = Arc::new(PeerPolicy::new(ca.certificate(), DOMAIN, Arc::new(exceptions)).unwrap());
        let chain = ca.sign_gateway(&key(1), month(), &OsEntropy::new()).unwrap();
        let identity = Arc::new(ServerIdentity::new(ca.certificate(), DOMAIN, chain, &key(1), NOW).unwrap());
        let tls = server_config(Arc::clone(&policy), Arc::clone(&identity), clock.clone()).unwrap();
        let endpoint = listen(tls, clock.clone());
        Self { dir, ca, clock, policy, identity, endpoint }
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::Ca(self.ca.certificate().clone())
    }

    /// An agent's TLS with this certificate.
    pub(crate) fn client(&self, chain: Vec<CertificateDer<'static>>, key: &SigningKey) -> rustls::ClientConfig {
        client_config(self.trust(), DOMAIN, chain, key, TestClock::new()).unwrap()
    }

    /// TLS of an agent in good standing.
    pub(crate) fn agent(&self) -> rustls::ClientConfig {
        self.client(agent_chain(&self.ca, &key(2), month()), &key(2))
    }

    pub(crate) async fn meet(&self, tls: rustls::ClientConfig) -> Met {
        meet(&self.endpoint, tls, "gateway.example.gov.cn").await
    }

    /// What the gateway calls the peer of a finished handshake.
    pub(crate) fn identify(&self, channel: &QuicChannel) -> Result<PeerIdentity, PeerRefused> {
        self.policy.identify(&channel.peer_chain(), self.clock.wall())
    }
}

pub(crate) fn listen(tls: rustls::ServerConfig, clock: Arc<dyn Clock>) -> Endpoint {
    let handshakes = Handshakes { waiting_max: 16, waiting_bytes_max: 1 << 20, reset_secret: None };
    quic::server_endpoint("127.0.0.1:0".parse().unwrap(), tls, Limits::streams(8, 8), handshakes, clock).unwrap()
}

/// One client dials one server, which accepts; a client that thinks it is in waits for the server's last word.
pub(crate) async fn meet(server: &Endpoint, tls: rustls::ClientConfig, name: &str) -> Met {
    meet_through(server.local_addr().unwrap(), server, tls, name).await
}

/// The same, where the client dials another address, behind which the server is.
pub(crate) async fn meet_through(
    address: std::net::SocketAddr,
    server: &Endpoint,
    tls: rustls::ClientConfig,
    name: &str,
) -> Met {
    let endpoint = quic::client_endpoint("127.0.0.1:0".parse().unwrap(), Limits::streams(8, 8)).unwrap();
    let config = quic::client_config(tls, Limits::streams(8, 8)).unwrap();
    let connecting = endpoint.connect_with(config, address, name).unwrap();
    let accept = async {
        match server.accept().await.unwrap().accept() {
            Ok(connecting) => connecting.await,
            Err(error) => Err(error),
        }
    };
    let (client, server) = tokio::join!(connecting, accept);
    let client = match (client, &server) {
        (Ok(connection), Err(_)) => Err(connection.closed().await),
        (other, _) => other,
    };
    Met { server: server.map(QuicChannel::new), client: client.map(QuicChannel::new) }
}
