//! Tests over real QUIC on loopback: who is met, who is not, and with which exit code that ends.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::join;
use crate::testing::{GATEWAY, World};
use lingqu_certs::ca::Validity;
use lingqu_certs::key::{PublicKey, SigningKey};
use lingqu_certs::profile::{Draft, Profile};
use lingqu_certs::quic::{self, Handshakes, QuicChannel};
use lingqu_certs::tls::client::{Trust, client_config};
use lingqu_certs::tls::peer::{Exceptions, PeerPolicy};
use lingqu_certs::tls::server::{ServerIdentity, server_config};
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::ids::GatewayId;
use lingqu_protocol::wire::Certificate;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Lets holders of an invitation in while the test says so.
#[derive(Clone, Default)]
struct Invitations(Arc<AtomicBool>);

impl Exceptions for Invitations {
    fn is_invited(&self, _: &PublicKey) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn may_renew_expired(&self, _: &AgentId, _: &PublicKey) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A gateway on loopback that greets everyone, and signs what a joiner asks for.
struct Gateway {
    world: Arc<World>,
    invitations: Invitations,
    endpoint: quinn::Endpoint,
}

/// What the gateway says it is.
#[derive(Clone, Copy)]
struct Says {
    gateway: GatewayId,
}

impl Gateway {
    fn start(says: Says) -> Self {
        let mut world = World::new();
        let (clock, invitations) = (world.machine.clock.clone(), Invitations::default());
        let policy = PeerPolicy::new(world.ca.certificate(), World::DOMAIN, Arc::new(invitations.clone())).unwrap();
        let key = SigningKey::from_seed([3; 32]).unwrap();
        let chain = world.ca.sign_gateway(&key, world.month(), world.machine.entropy.as_ref()).unwrap();
        let identity = ServerIdentity::new(world.ca.certificate(), World::DOMAIN, chain, &key, clock.wall()).unwrap();
        let tls = server_config(Arc::new(policy), Arc::new(identity), clock.clone()).unwrap();
        let handshakes = Handshakes { waiting_max: 16, waiting_bytes_max: 1 << 20, reset_secret: None };
        let limits = quic::Limits::streams(8, 8);
        let endpoint = quic::server_endpoint("127.0.0.1:0".parse().unwrap(), tls, limits, handshakes, clock).unwrap();
        world.address = endpoint.local_addr().unwrap().to_string();
        let gateway = Self { world: Arc::new(world), invitations, endpoint };
        tokio::spawn(serve(gateway.endpoint.clone(), Arc::clone(&gateway.world), says));
        gateway
    }

    fn link(&self) -> Link {
        Link::new(self.world.machine.clone(), self.world.profile())
    }
}

async fn serve(endpoint: quinn::Endpoint, world: Arc<World>, says: Says) {
    while let Some(incoming) = endpoint.accept().await {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let Ok(connection) = incoming.accept().unwrap().await else { return };
            let channel = QuicChannel::new(connection);
            let (send, recv) = channel.accept_bi().await.unwrap();
            let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(recv));
            let _: Hello = reader.expect("Hello").await.unwrap();
            let welcome = Welcome {
                version: 1,
                limits: Some(wire::limits()),
                gateway: says.gateway.to_string(),
                domain: World::DOMAIN.into(),
                now_ms: world.machine.clock.wall().0,
                statement: world.statement().into(),
                ..Welcome::default()
            };
            writer.message(&welcome).await.unwrap();
            while let Ok((send, recv)) = channel.accept_bi().await {
                let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(recv));
                let request: Request = reader.expect("Request").await.unwrap();
                let (request::Ask::Join(wire::Join { csr_der }) | request::Ask::Renew(wire::Renew { csr_der })) =
                    request.ask.unwrap()
                else {
                    panic!("the test asks for certificates alone")
                };
                let certificate = Certificate {
                    chain_der: world.chain(&csr_der, world.month()).iter().map(|der| der.to_vec().into()).collect(),
                    agent: world.agent().to_string(),
                    gateway: GATEWAY.to_string(),
                    domain: World::DOMAIN.into(),
                    root_key: world.root().public().to_string(),
                    statement: world.statement().into(),
                };
                writer.message(&Reply::from(reply::Reply::Certificate(certificate))).await.unwrap();
                writer.finish();
            }
        });
    }
}

const HONEST: Says = Says { gateway: GATEWAY };

#[tokio::test]
async fn a_profile_meets_its_gateway() {
    let gateway = Gateway::start(HONEST);
    let link = gateway.link();
    let session = link.open(Backoff::ONCE).await.unwrap();
    assert_eq!(session.greeting().gateway, GATEWAY);
    session.close();
    link.goodbye().await;
}

#[tokio::test]
async fn another_gateway_under_the_same_ca_is_not_ours() {
    let gateway = Gateway::start(Says { gateway: GatewayId::from_bits(10) });
    let error = gateway.link().dial().await.unwrap_err();
    assert_eq!((error.exit_code(), error.told().word.as_str()), (5, "other_gateway"));
}

#[tokio::test]
async fn a_gateway_under_another_ca_is_an_integrity_error() {
    let (ours, theirs) = (Gateway::start(HONEST), Gateway::start(HONEST));
    // The profile of one, at the address of the other.
    let profile = ours.world.profile();
    let tls = {
        let (profile, clock) = (profile.clone(), ours.world.machine.clock.clone());
        move || Ok(profile.tls(clock.clone())?)
    };
    let dialer = Dialer::new(&theirs.world.address, World::DOMAIN, ours.world.machine.clock.clone(), tls);
    let error = dialer.dial(String::new()).await.unwrap_err();
    assert_eq!((error.exit_code(), error.told().word.as_str()), (5, "not_the_gateway"), "{error}");
}

/// Dials with a certificate of this period, made by the gateway's own CA.
async fn dial_with(gateway: &Gateway, validity: Validity) -> AgentError {
    let world = Arc::clone(&gateway.world);
    let key = || SigningKey::from_seed([8; 32]).unwrap();
    let chain = world.chain(&lingqu_certs::ca::signing_request(&key()).unwrap(), validity);
    let (trust, clock) = (Trust::Ca(world.ca.certificate().clone()), world.machine.clock.clone());
    let tls = move || Ok(client_config(trust.clone(), World::DOMAIN, chain.clone(), &key(), clock.clone()).unwrap());
    let dialer = Dialer::new(&world.address, World::DOMAIN, world.machine.clock.clone(), tls);
    dialer.dial(String::new()).await.unwrap_err()
}

#[tokio::test]
async fn an_expired_certificate_is_told_as_such() {
    let gateway = Gateway::start(HONEST);
    let now = gateway.world.machine.clock.wall();
    let error = dial_with(&gateway, Validity { from: now.plus_ms(-10_000), until: now.plus_ms(-5_000) }).await;
    assert_eq!((error.exit_code(), error.told().word.as_str()), (4, "certificate_expired"), "{error}");
}

#[tokio::test]
async fn an_expired_certificate_is_renewed_where_that_is_approved_and_the_gateway_met_again() {
    let gateway = Gateway::start(HONEST);
    let world = &gateway.world;
    let profile = world.profile();
    let now = world.machine.clock.wall();
    let past = Validity { from: now.plus_ms(-10_000), until: now.plus_ms(-5_000) };
    let expired = world.chain(&profile.signing_request().unwrap(), past);
    let file = world.profile_dir().join(lingqu_certs::profile::CERTIFICATE_FILE);
    std::fs::write(&file, lingqu_certs::chain::to_pem(&expired)).unwrap();
    let told = gateway.link().dial().await.unwrap_err().told();
    assert_eq!(told.word, "certificate_expired");
    let command = format!("lingqu-gateway renewal approve {}", world.agent());
    assert!(told.next.en.contains(&command) && told.next.zh.contains(&command), "{told:?}");

    gateway.invitations.0.store(true, Ordering::SeqCst);
    let session = gateway.link().dial().await.unwrap();
    assert_eq!(session.greeting().gateway, GATEWAY);
    assert!(profile.validity().unwrap().until > now, "renewed, and dialled again");
}

#[tokio::test]
async fn an_invitation_becomes_a_profile_that_meets_the_gateway_and_renews() {
    let gateway = Gateway::start(HONEST);
    let (world, invitation) = (&gateway.world, gateway.world.invitation());
    let dialer = || {
        let (invitation, machine) = (invitation.clone(), world.machine.clone());
        Dialer::new(&world.address, World::DOMAIN, world.machine.clock.clone(), move || {
            let certificate = invitation.certificate(machine.clock.wall(), machine.entropy.as_ref())?;
            let (trust, key) = (Trust::Pin(invitation.ca), invitation.key()?);
            Ok(client_config(trust, World::DOMAIN, vec![certificate], &key, machine.clock.clone()).unwrap())
        })
    };
    let error = dialer().dial(String::new()).await.unwrap_err();
    assert_eq!((error.exit_code(), error.told().word.as_str()), (3, "certificate_refused"), "not open yet: {error}");

    gateway.invitations.0.store(true, Ordering::SeqCst);
    let draft = Draft::open(&world.profile_dir(), world.machine.entropy.as_ref()).unwrap();
    let session = dialer().dial(String::new()).await.unwrap();
    let answer = join::ask(&session, &draft).await.unwrap();
    join::complete(&world.machine, draft, &invitation, answer).unwrap();

    let profile = Profile::load(&world.profile_dir()).unwrap();
    let before = profile.chain().unwrap();
    let link = gateway.link();
    let session = link.open(Backoff::ONCE).await.unwrap();
    renew(&link, &session).await.unwrap();
    assert_ne!(profile.chain().unwrap(), before, "a new certificate");
    link.open(Backoff::ONCE).await.unwrap();
}
