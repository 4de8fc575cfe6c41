//! 1, 2, 3, 5, 10: who is let in.

use lingqu_certs::ca::{Authority, LEAF_VALID_MS, Validity};
use lingqu_certs::key::SigningKey;
use lingqu_certs::os::{OsEntropy, SystemClock};
use lingqu_certs::profile::Profile;
use lingqu_certs::tls::client::{GatewayVerifier, Trust};
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::wire::{Read, reply, request};
use lingqu_tests::world::raw::{DOMAIN, Raw, WAIT, ca, chain_from, now, runtime};
use lingqu_tests::world::{Agent, World, shared, text, threat};
use quinn::ConnectionError;
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

fn read(kind: &str, id: &str) -> request::Ask {
    request::Ask::Read(Read { kind: kind.into(), id: id.into(), after: String::new() })
}

#[test]
fn threat_01_no_or_a_bad_certificate_is_refused_in_the_handshake() {
    let world = World::new();
    let gateway = &world.gateway;
    let agent = format!("{}/main", world.requester.code);
    let key = SigningKey::from_seed([7; 32]).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let other_ca = Authority::create(elsewhere.path(), DOMAIN, now(), &OsEntropy::new()).unwrap();
    let request = lingqu_certs::ca::signing_request(&key).unwrap();
    let validity = Validity::starting(now(), LEAF_VALID_MS);
    let sign = |ca: &Authority| ca.sign_agent(&request, &agent.parse().unwrap(), validity, &OsEntropy::new()).unwrap();
    let other_domain = Authority::load(gateway.dir(), "elsewhere.test").unwrap();
    let chains = [
        ("wrong CA", sign(&other_ca)),
        ("wrong domain", sign(&other_domain)),
        ("a server's key usage", ca(gateway).sign_gateway(&key, validity, &OsEntropy::new()).unwrap()),
        ("expired", chain_from(gateway, &agent, &key, now().plus_ms(-LEAF_VALID_MS - DAY_MS))),
        ("not yet valid", chain_from(gateway, &agent, &key, now().plus_ms(DAY_MS))),
        ("the CA's own", vec![ca(gateway).certificate().clone()]),
    ];
    let refused = |what: &str, raw: Raw| {
        let error = runtime().block_on(raw.refused());
        threat(1, what, &error);
        assert!(matches!(error, ConnectionError::ConnectionClosed(_)), "{what}: {error:?}");
    };
    for (what, chain) in chains {
        let tls = match what {
            // Its key is not ours: rustls would not even try.
            "the CA's own" => {
                let key = SigningKey::load(&gateway.dir().join("ca.key")).unwrap();
                Raw::with_chain(gateway, chain, &key)
            }
            _ => Raw::with_chain(gateway, chain, &key),
        };
        refused(what, tls);
    }
    let trust = Trust::Ca(ca(gateway).certificate().clone());
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(GatewayVerifier::new(trust, DOMAIN).unwrap()))
        .with_no_client_auth();
    tls.alpn_protocols = vec![lingqu_certs::tls::ALPN.to_vec()];
    refused("no certificate", Raw::with(gateway, tls.clone()));
    let mut good = Profile::load(world.requester.agent.profile()).unwrap().tls(Arc::new(SystemClock::new())).unwrap();
    good.alpn_protocols = vec![b"h3".to_vec()];
    refused("another protocol", Raw::with(gateway, good));

    assert!(gateway.metric("lingqu_refused_handshakes_total") >= 8.0, "each is counted");
    world.requester.agent.run(["status"]).ok();
}

#[test]
fn threat_01_an_invitations_key_joins_and_does_nothing_else() {
    let world = shared();
    let invitation = world.gateway.run(["invite", &world.other.code, "--agent", "only-join"]).ok();
    let invitation: lingqu_certs::invitation::Invitation = text(&invitation, "invitation").parse().unwrap();
    let chain = vec![invitation.certificate(now(), &OsEntropy::new()).unwrap()];
    let raw = Raw::with_chain(&world.gateway, chain, &invitation.key().unwrap());
    runtime().block_on(async {
        let dialled = raw.dial().await;
        for kind in ["catalogue", "grant", "status"] {
            let (fault, _) = dialled.refused(read(kind, "")).await;
            threat(1, format!("an invitation's key reads {kind}"), &fault);
            assert_eq!(fault.close_code(), CloseCode::Denied, "{fault:?}");
        }
    });
}

#[test]
fn threat_02_an_agent_that_was_blocked_is_refused_and_its_connection_closed() {
    let world = World::new();
    let agent = format!("{}/main", world.requester.code);
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        assert!(matches!(dialled.ask(read("grant", "")).await, reply::Reply::Records(_)));
        tokio::task::block_in_place(|| world.gateway.stop(&["--agent", &agent], "设备遗失"));
        let mut stream = match dialled.session.request(read("grant", "")).await {
            Ok(stream) => stream,
            // The connection may be closed before the request is out.
            Err(error) => {
                threat(2, "a request on the connection of an agent that was blocked", error.to_string());
                assert_eq!(error.exit_code(), 4, "{error}");
                return;
            }
        };
        let answer = tokio::time::timeout(WAIT, stream.reply()).await.unwrap().unwrap_err();
        threat(2, "a request on the connection of an agent that was blocked", answer.to_string());
        assert_eq!(answer.exit_code(), 4, "{answer}");
        let closed = tokio::time::timeout(WAIT, dialled.connection().closed()).await.expect("the connection is closed");
        threat(2, "its connection after that", &closed);
        let ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed:?}") };
        assert_eq!(CloseCode::from_code(close.error_code.into_inner()), CloseCode::Suspended);
    });
    let ran = world.requester.agent.run(["status"]);
    threat(2, "a new connection of it", &ran);
    ran.fails(4);
    world.other.agent.run(["status"]).ok();
    world.gateway.resume(&["--agent", &agent], "已找回");
    world.requester.agent.run(["status"]).ok();
}

/// Counts the tickets that a server gives.
#[derive(Debug, Default)]
struct Tickets(AtomicUsize);

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: rustls::NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        None
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

#[test]
fn threat_03_no_session_is_resumed_and_no_early_data_taken() {
    let world = shared();
    let tickets = Arc::new(Tickets::default());
    let mut raw = Raw::of(&world.gateway, &world.requester.agent);
    raw.tls.resumption = Resumption::store(tickets.clone());
    raw.tls.enable_early_data = true;
    runtime().block_on(async {
        let dialled = raw.dial().await;
        assert!(matches!(dialled.ask(read("grant", "")).await, reply::Reply::Records(_)));
        let given = tickets.0.load(Ordering::SeqCst);
        threat(3, "a client that would resume a session", format!("{given} tickets given"));
        assert_eq!(given, 0, "there is nothing to resume with");
        // The same with a store that would use them.
        raw.tls.resumption = Resumption::in_memory_sessions(8);
        for _ in 0..2 {
            let dialled = raw.dial().await;
            dialled.ask(read("grant", "")).await;
            let config = lingqu_certs::quic::client_config(raw.tls.clone(), raw.limits).unwrap();
            let connecting = dialled.endpoint.connect_with(config, raw.address, &raw.name).unwrap();
            let early = connecting.into_0rtt();
            threat(3, "early data", if early.is_ok() { "taken" } else { "not possible: a full handshake" });
            let Err(connecting) = early else { panic!("early data would be sent") };
            connecting.await.expect("a full handshake").close(0u32.into(), &[]);
        }
    });
}

#[test]
fn threat_05_an_invitation_lets_one_key_join_once() {
    let world = shared();
    let invite = || {
        let made = world.gateway.run(["invite", &world.other.code, "--agent", "second"]).ok();
        text(&made, "invitation").to_owned()
    };
    let line = invite();
    let (first, second) = (Agent::new(world.path("first")), Agent::new(world.path("second")));
    first.run(["join", &line]).ok();
    let ran = second.run(["join", &line]);
    threat(5, "an invitation again, with another key", &ran);
    assert!(matches!(ran.code, Some(3 | 4 | 6)), "used twice, with another key: {ran}");
    assert!(!second.profile().join("agent.pem").exists());
    second.run(["status"]).fails(2);
    first.run(["status"]).ok();
    // A line that was changed on the way is not one.
    let line = invite();
    let mut cut = line.clone();
    cut.pop();
    let ran = second.run(["join", &cut]);
    threat(5, "an invitation without its last character", &ran);
    ran.fails(2);
    let ran = second.run(["join", &line.to_lowercase()]);
    threat(5, "an invitation in small letters", &ran);
    assert_eq!(ran.code, Some(2), "{ran}");
    second.run(["join", &line]).ok();
    // The agent is whoever joined last under the name: its key was lost, or its operator would not have invited it again.
    second.run(["status"]).ok();
}

#[test]
fn threat_10_the_certificate_counts_whatever_name_was_asked_for() {
    let world = shared();
    let raw = |name: &str| Raw { name: name.into(), ..Raw::of(&world.gateway, &world.requester.agent) };
    runtime().block_on(async {
        for name in ["gateway.elsewhere.test", "agency.lingqu.test", "localhost"] {
            let dialled = raw(name).dial().await;
            let reply::Reply::Records(records) = dialled.ask(read("grant", "")).await else { panic!() };
            let grants: Vec<&str> = records.records.iter().map(|r| r.id.as_str()).collect();
            let is_own = grants.contains(&world.table.grant.as_str());
            let got = format!("served as the certificate says; its own grants: {is_own}");
            threat(10, format!("the name {name} is asked for"), got);
            assert!(is_own, "{name}: the requester's own grants: {grants:?}");
        }
        // And the other way round: a server with another certificate is not the gateway, whatever it was called.
        let mut other = raw("gateway.lingqu.test");
        let elsewhere = tempfile::tempdir().unwrap();
        let ca = Authority::create(elsewhere.path(), DOMAIN, now(), &OsEntropy::new()).unwrap();
        let profile = Profile::load(world.requester.agent.profile()).unwrap();
        let trust = Trust::Ca(ca.certificate().clone());
        let (chain, key) = (profile.chain().unwrap(), profile.key().unwrap());
        let clock = Arc::new(SystemClock::new());
        other.tls = lingqu_certs::tls::client::client_config(trust, DOMAIN, chain, &key, clock).unwrap();
        let error = other.refused().await;
        threat(10, "a server with another CA's certificate", &error);
        assert!(matches!(error, ConnectionError::TransportError(_)), "{error:?}");
    });
}
