//! Real handshakes over loopback: who is let in, who is not, and that nothing is carried over to a later connection.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::ca::{DAY_MS, LEAF_VALID_MS, Validity, self_signed};
use crate::invitation::Invitation;
use crate::key::{PublicKey, SigningKey};
use crate::os::OsEntropy;
use crate::testing::*;
use crate::tls::client::{GatewayVerifier, Trust, client_config, pinned_ca};
use crate::tls::peer::{Exceptions, NoExceptions, PeerIdentity};
use crate::tls::server::{ServerIdentity, server_config};
use crate::tls::{ClockTime, provider};
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::stream::{Channel, RecvHalf, SendHalf};
use quinn::ConnectionError;
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::{CertificateDer, ServerName};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

// Alerts of RFC 8446, 6.2.
const BAD_CERTIFICATE: u8 = 42;
const UNSUPPORTED_CERTIFICATE: u8 = 43;
const CERTIFICATE_EXPIRED: u8 = 45;
const UNKNOWN_CA: u8 = 48;
const ACCESS_DENIED: u8 = 49;
const DECRYPT_ERROR: u8 = 51;
const CERTIFICATE_REQUIRED: u8 = 116;
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// The alert with which this side ended the handshake.
fn alert(result: Result<impl Sized, ConnectionError>) -> u8 {
    match result.map(|_| ()).unwrap_err() {
        ConnectionError::TransportError(error) => (u64::from(error.code) - 0x100).try_into().unwrap(),
        other => panic!("ended without an alert: {other}"),
    }
}

/// That the gateway refused with `expected`, and that the client was told.
async fn refused(gateway: &Gateway, tls: rustls::ClientConfig, expected: u8) {
    let met = gateway.meet(tls).await;
    assert_eq!(alert(met.server), expected);
    assert!(matches!(met.client, Err(ConnectionError::ConnectionClosed(_))), "{:?}", met.client);
}

#[tokio::test]
async fn an_agent_in_good_standing_is_known_by_its_certificate() {
    let gateway = Gateway::new(NoExceptions);
    let chain = agent_chain(&gateway.ca, &key(2), month());
    let fingerprint = Digest::sha256(&chain[0]);
    let met = gateway.meet(gateway.client(chain, &key(2))).await;
    let expected =
        PeerIdentity::Agent { agent: AGENT.parse().unwrap(), fingerprint, expires_at: NOW.plus_ms(LEAF_VALID_MS) };
    assert_eq!(gateway.identify(&met.server.unwrap()), Ok(expected));
    assert!(met.client.is_ok());
}

#[tokio::test]
async fn without_a_certificate_nobody_comes_in() {
    let gateway = Gateway::new(NoExceptions);
    let verifier = GatewayVerifier::new(gateway.trust(), DOMAIN).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_details(provider(), Arc::new(ClockTime(TestClock::new())))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    tls.alpn_protocols = vec![super::ALPN.to_vec()];
    refused(&gateway, tls, CERTIFICATE_REQUIRED).await;
}

#[tokio::test]
async fn another_ca_another_usage_another_time_another_domain_are_refused() {
    let gateway = Gateway::new(NoExceptions);
    let dir = tempfile::tempdir().unwrap();
    let stranger = agent_chain(&new_ca(dir.path(), DOMAIN), &key(2), month());
    refused(&gateway, gateway.client(stranger, &key(2)), UNKNOWN_CA).await;

    let own = gateway.ca.sign_gateway(&key(2), month(), &OsEntropy::new()).unwrap();
    refused(&gateway, gateway.client(own, &key(2)), UNSUPPORTED_CERTIFICATE).await;

    let past = Validity { from: NOW.plus_ms(-2 * DAY_MS), until: NOW.plus_ms(-1000) };
    refused(&gateway, gateway.client(agent_chain(&gateway.ca, &key(2), past), &key(2)), CERTIFICATE_EXPIRED).await;
    let future = Validity { from: NOW.plus_ms(1000), until: NOW.plus_ms(DAY_MS) };
    refused(&gateway, gateway.client(agent_chain(&gateway.ca, &key(2), future), &key(2)), CERTIFICATE_EXPIRED).await;

    let other_domain = crate::ca::Authority::load(gateway.dir.path(), "elsewhere.gov.cn").unwrap();
    let foreign = agent_chain(&other_domain, &key(2), month());
    refused(&gateway, gateway.client(foreign, &key(2)), ACCESS_DENIED).await;
}

#[tokio::test]
async fn someone_elses_certificate_without_its_key_is_no_use() {
    let gateway = Gateway::new(NoExceptions);
    let chain = agent_chain(&gateway.ca, &key(2), month());
    let thief = client_config(gateway.trust(), DOMAIN, chain, &key(3), TestClock::new());
    assert!(thief.is_err(), "our own client does not even try");
}

#[tokio::test]
async fn the_gateways_clock_is_the_injected_one() {
    let gateway = Gateway::new(NoExceptions);
    gateway.clock.set(NOW.plus_ms(LEAF_VALID_MS - 1000));
    assert!(gateway.meet(gateway.agent()).await.server.is_ok());
    gateway.clock.set(NOW.plus_ms(LEAF_VALID_MS + 1000));
    refused(&gateway, gateway.agent(), CERTIFICATE_EXPIRED).await;
}

struct Invited {
    key: PublicKey,
    open: Arc<AtomicBool>,
}

impl Exceptions for Invited {
    fn is_invited(&self, key: &PublicKey) -> bool {
        *key == self.key && self.open.load(Ordering::SeqCst)
    }

    fn may_renew_expired(&self, _: &AgentId, _: &PublicKey) -> bool {
        false
    }
}

#[tokio::test]
async fn an_open_invitations_key_is_let_in_as_invited_and_no_other() {
    let open = Arc::new(AtomicBool::new(true));
    let mut invitation = Invitation::new("127.0.0.1:1", DOMAIN, Digest::sha256(b""), &OsEntropy::new()).unwrap();
    let joiner = invitation.key().unwrap();
    let gateway = Gateway::new(Invited { key: joiner.public(), open: Arc::clone(&open) });
    invitation.ca = gateway.ca.digest();
    let tls = |key: &SigningKey, certificate| {
        client_config(Trust::Pin(invitation.ca), DOMAIN, vec![certificate], key, TestClock::new()).unwrap()
    };
    let own = || invitation.certificate(NOW, &OsEntropy::new()).unwrap();

    let met = gateway.meet(tls(&joiner, own())).await;
    assert_eq!(gateway.identify(&met.server.unwrap()), Ok(PeerIdentity::Invited { key: joiner.public() }));
    let chain = met.client.unwrap().peer_chain();
    assert_eq!(pinned_ca(&chain, &invitation.ca), Some(gateway.ca.certificate()), "the joiner learns the CA");

    let other = self_signed(&key(9), month(), &OsEntropy::new()).unwrap();
    refused(&gateway, tls(&key(9), other), UNKNOWN_CA).await;
    open.store(false, Ordering::SeqCst);
    refused(&gateway, tls(&joiner, own()), UNKNOWN_CA).await;
}

struct Approved(AgentId, PublicKey);

impl Exceptions for Approved {
    fn is_invited(&self, _: &PublicKey) -> bool {
        false
    }

    fn may_renew_expired(&self, agent: &AgentId, key: &PublicKey) -> bool {
        *agent == self.0 && *key == self.1
    }
}

#[tokio::test]
async fn an_expired_agent_is_let_in_under_an_approval_as_expired_and_no_other() {
    let past = Validity { from: NOW.plus_ms(-2 * DAY_MS), until: NOW.plus_ms(-1000) };
    let gateway = Gateway::new(Approved(AGENT.parse().unwrap(), key(2).public()));
    let chain = agent_chain(&gateway.ca, &key(2), past);
    let fingerprint = Digest::sha256(&chain[0]);
    let met = gateway.meet(gateway.client(chain, &key(2))).await;
    let expected = PeerIdentity::ExpiredAgent { agent: AGENT.parse().unwrap(), fingerprint, expired_at: past.until };
    assert_eq!(gateway.identify(&met.server.unwrap()), Ok(expected));

    let dir = tempfile::tempdir().unwrap();
    let stranger = agent_chain(&new_ca(dir.path(), DOMAIN), &key(2), past);
    refused(&gateway, gateway.client(stranger, &key(2)), UNKNOWN_CA).await;
    let strict = Gateway::new(Approved("91350100M000100Y43/other".parse().unwrap(), key(2).public()));
    let chain = agent_chain(&strict.ca, &key(2), past);
    refused(&strict, strict.client(chain, &key(2)), CERTIFICATE_EXPIRED).await;
    let other_key = agent_chain(&gateway.ca, &key(3), past);
    refused(&gateway, gateway.client(other_key, &key(3)), CERTIFICATE_EXPIRED).await;
}

#[tokio::test]
async fn the_certificate_counts_and_not_the_name_that_was_sent() {
    let gateway = Gateway::new(NoExceptions);
    let met = meet(&gateway.endpoint, gateway.agent(), "something.else").await;
    assert!(matches!(gateway.identify(&met.server.unwrap()), Ok(PeerIdentity::Agent { .. })));
    assert!(met.client.is_ok(), "it proved gateway.{DOMAIN}, whatever it was called");
}

/// A server with this chain, which takes any agent of `gateway`.
fn impostor(
    gateway: &Gateway,
    chain: Vec<CertificateDer<'static>>,
    of: &crate::ca::Authority,
    domain: &str,
) -> quinn::Endpoint {
    let identity = ServerIdentity::new(of.certificate(), domain, chain, &key(1), NOW).unwrap();
    let tls = server_config(Arc::clone(&gateway.policy), Arc::new(identity), TestClock::new()).unwrap();
    listen(tls, TestClock::new())
}

#[tokio::test]
async fn an_agent_talks_to_its_own_gateway_alone() {
    let gateway = Gateway::new(NoExceptions);
    let dir = tempfile::tempdir().unwrap();
    let stranger = new_ca(dir.path(), DOMAIN);
    let chain = stranger.sign_gateway(&key(1), month(), &OsEntropy::new()).unwrap();
    let other_ca = impostor(&gateway, chain, &stranger, DOMAIN);
    // It has the CA's name, and a signature that the CA did not make.
    assert_eq!(alert(meet(&other_ca, gateway.agent(), "gateway.example.gov.cn").await.client), DECRYPT_ERROR);
    let pinned = Trust::Pin(gateway.ca.digest());
    let joiner = self_signed(&key(9), month(), &OsEntropy::new()).unwrap();
    let tls = client_config(pinned, DOMAIN, vec![joiner], &key(9), TestClock::new()).unwrap();
    assert_eq!(alert(meet(&other_ca, tls, "gateway.example.gov.cn").await.client), UNKNOWN_CA);

    // Its own CA, but the name of another domain's gateway, even when that is the name that was asked for.
    let elsewhere = crate::ca::Authority::load(gateway.dir.path(), "elsewhere.gov.cn").unwrap();
    let chain = elsewhere.sign_gateway(&key(1), month(), &OsEntropy::new()).unwrap();
    let other_name = impostor(&gateway, chain, &elsewhere, "elsewhere.gov.cn");
    for name in ["gateway.elsewhere.gov.cn", "gateway.example.gov.cn"] {
        let met = meet(&other_name, gateway.agent(), name).await;
        assert_eq!(alert(met.client), BAD_CERTIFICATE, "asked for {name}");
        assert!(met.server.is_err());
    }

    // An agent's certificate does not make a gateway.
    let chain = agent_chain(&gateway.ca, &key(1), month());
    assert!(ServerIdentity::new(gateway.ca.certificate(), DOMAIN, chain, &key(1), NOW).is_err());
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let gateway = Gateway::new(NoExceptions);
    let mut tls = gateway.agent();
    tls.alpn_protocols = vec![b"lingqu/0".to_vec()];
    let met = gateway.meet(tls).await;
    assert_eq!(alert(met.server), NO_APPLICATION_PROTOCOL);
    assert!(met.client.is_err());
}

/// Keeps whatever a server hands out for resumption.
#[derive(Debug, Default)]
struct Tickets(Mutex<VecDeque<Tls13ClientSessionValue>>);

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.lock().unwrap().push_back(value);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.lock().unwrap().pop_front()
    }
}

/// One message each way, so that all that the server sent at the handshake's end has arrived.
async fn exchange(met: Met) {
    let (server, client) = (met.server.unwrap(), met.client.unwrap());
    let (mut send, mut recv) = client.open_bi().await.unwrap();
    send.send("ping".into()).await.unwrap();
    send.finish();
    let (mut answer, mut question) = server.accept_bi().await.unwrap();
    assert_eq!(question.recv(64).await.unwrap().unwrap(), "ping");
    answer.send("pong".into()).await.unwrap();
    answer.finish();
    assert_eq!(recv.recv(64).await.unwrap().unwrap(), "pong");
    client.close(CloseCode::Done);
}

#[tokio::test]
async fn no_ticket_is_ever_sent_and_nothing_goes_early() {
    let gateway = Gateway::new(NoExceptions);
    let store = Arc::new(Tickets::default());
    let greedy = || {
        let mut tls = gateway.agent();
        tls.resumption = Resumption::store(store.clone());
        tls.enable_early_data = true;
        tls
    };
    for _ in 0..2 {
        exchange(gateway.meet(greedy()).await).await;
        assert!(store.0.lock().unwrap().is_empty());
    }
    let limits = crate::quic::Limits::streams(1, 1);
    let endpoint = crate::quic::client_endpoint("127.0.0.1:0".parse().unwrap(), limits).unwrap();
    let config = crate::quic::client_config(greedy(), limits).unwrap();
    let address = gateway.endpoint.local_addr().unwrap();
    let connecting = endpoint.connect_with(config, address, "gateway.example.gov.cn").unwrap();
    assert!(connecting.into_0rtt().is_err());
}

#[tokio::test]
async fn a_new_certificate_is_seen_by_new_connections_and_a_bad_one_by_none() {
    let gateway = Gateway::new(NoExceptions);
    let seen = |met: &Met| met.client.as_ref().unwrap().peer_chain()[0].clone();
    let first = gateway.meet(gateway.agent()).await;
    assert_eq!(seen(&first), gateway.identity.certificate());

    let (chain_file, key_file) = (gateway.dir.path().join("g.pem"), gateway.dir.path().join("g.key"));
    let chain = gateway.ca.sign_gateway(&key(4), month(), &OsEntropy::new()).unwrap();
    let pem = crate::chain::to_pem(&chain);
    key(4).save_new(&key_file).unwrap();
    for cut in [0, 1, pem.len() / 4, pem.len() / 2, pem.len() - 40] {
        std::fs::write(&chain_file, &pem[..cut]).unwrap();
        assert!(gateway.identity.reload(&chain_file, &key_file, NOW).is_err(), "{cut} bytes");
    }
    let wrong_key = gateway.ca.sign_gateway(&key(5), month(), &OsEntropy::new()).unwrap();
    assert!(gateway.identity.replace(wrong_key, &key(4), NOW).is_err());
    let lone = vec![chain[0].clone()];
    assert!(gateway.identity.replace(lone, &key(4), NOW).is_err(), "joiners need the CA's certificate");
    let late = Timestamp(NOW.0 + LEAF_VALID_MS + 1000);
    assert!(gateway.identity.replace(chain.clone(), &key(4), late).is_err());
    assert_eq!(seen(&gateway.meet(gateway.agent()).await), seen(&first));

    std::fs::write(&chain_file, &pem).unwrap();
    gateway.identity.reload(&chain_file, &key_file, NOW).unwrap();
    assert_eq!(seen(&gateway.meet(gateway.agent()).await), chain[0]);
    exchange(first).await;
}
