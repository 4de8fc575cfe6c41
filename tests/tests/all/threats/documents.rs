//! 11: who signs what.

use lingqu_certs::officer::{Officer, read_envelope};
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::wire::{SendDocument, request};
use lingqu_tests::world::raw::{Raw, runtime};
use lingqu_tests::world::{World, application_toml, shared, table_scope, text, threat};

/// A new application for the shared table; its id.
fn apply(world: &World, code: &str) -> String {
    let toml = world.file("application.toml", application_toml(code, &table_scope()));
    let applied = world.requester.agent.run(["apply", toml.to_str().unwrap(), "--key", world.requester.office()]).ok();
    text(&applied, "id").to_owned()
}

fn grants_of(world: &World, application: &str) -> usize {
    let grants = world.requester.agent.run(["grant", "list"]).ok();
    grants.as_array().unwrap().iter().filter(|g| g["application"] == application).count()
}

#[test]
fn threat_11_someone_elses_sign_off_is_refused() {
    let world = shared();
    let at = world.new_table();
    let application = apply(world, &at.code);
    let answer =
        |agent: &lingqu_tests::world::Agent, key: &str| agent.run(["answer", &application, "--approve", "--key", key]);
    let provider = &world.provider;
    for (whose, key) in [
        ("the requester's own", world.requester.office()),
        ("another agency's", world.other.office()),
        ("the authority's", world.authority.office()),
        ("the provider's agency head, who signs the catalogue", provider.head()),
    ] {
        let ran = answer(&provider.agent, key);
        threat(11, format!("an answer signed with the key of {whose}"), &ran);
        assert!(matches!(ran.code, Some(3 | 5 | 7)), "{whose}: {ran}");
        assert_eq!(grants_of(world, &application), 0, "{whose}");
    }
    // A key that nobody certified.
    let stranger = world.path("stranger");
    let out = stranger.to_str().unwrap();
    let request =
        ["officer", "request", "--agency", &provider.code, "--name", "假冒", "--role", "office-head", "--out", out];
    provider.agent.run(request).ok();
    let ran = answer(&provider.agent, out);
    threat(11, "an answer signed with a key that nobody certified", &ran);
    assert!(matches!(ran.code, Some(3 | 5 | 7)), "{ran}");
    // The right signature, handed in by an agent of another agency.
    let (prepared, signed) = (world.path("answer.bin"), world.path("answer.json"));
    let (prepared, signed) = (prepared.to_str().unwrap(), signed.to_str().unwrap());
    provider.agent.run(["answer", &application, "--approve", "--prepare", prepared]).ok();
    provider.agent.run(["sign", prepared, "--key", provider.office(), "--out", signed]).ok();
    let ran = world.other.agent.run(["send", signed]);
    threat(11, "a good answer, handed in by another agency's agent", &ran);
    assert!(matches!(ran.code, Some(3 | 5 | 7)), "{ran}");
    assert_eq!(grants_of(world, &application), 0);
    provider.agent.run(["send", signed]).ok();
    assert_eq!(grants_of(world, &application), 1);
}

#[test]
fn threat_11_a_forged_signature_or_a_changed_text_is_refused() {
    let world = shared();
    let at = world.new_table();
    let application = apply(world, &at.code);
    let provider = &world.provider;
    let (prepared, signed) = (world.path("answer.bin"), world.path("answer.json"));
    let (prepared, signed) = (prepared.to_str().unwrap(), signed.to_str().unwrap());
    provider.agent.run(["answer", &application, "--approve", "--prepare", prepared]).ok();
    provider.agent.run(["sign", prepared, "--key", provider.office(), "--out", signed]).ok();
    let good = read_envelope(std::path::Path::new(signed)).unwrap();
    let mut forged = Vec::new();
    for place in (0..good.payload.len()).step_by(7) {
        let mut bad = good.clone();
        bad.payload[place] ^= 1;
        forged.push(bad);
    }
    for place in [0, 31, 63] {
        let mut bad = good.clone();
        bad.signatures[0].sig[place] ^= 1;
        forged.push(bad);
    }
    let mut bad = good.clone();
    bad.payload_type = bad.payload_type.replace("answer", "grant-act");
    forged.push(bad);
    let mut bad = good.clone();
    bad.signatures.clear();
    forged.push(bad);
    // Signed well, by the key of an officer who may, over a text that a root alone signs.
    let officer = Officer::load(&provider.office).unwrap();
    assert!(officer.seal(&root_document(world)).is_err(), "not even here");
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &provider.agent).dial().await;
        for (number, bad) in forged.into_iter().enumerate() {
            let envelope = bad.to_json().into_bytes().into();
            let (fault, _) = dialled.refused(request::Ask::Document(SendDocument { envelope })).await;
            threat(11, format!("a forged answer, number {number}"), &fault);
            assert!(!fault.word.is_empty() && fault.close_code() != CloseCode::Internal, "{fault:?}");
        }
        for junk in [&b""[..], b"{}", b"[1,2", &[0xff; 900]] {
            let envelope = junk.to_vec().into();
            let (fault, _) = dialled.refused(request::Ask::Document(SendDocument { envelope })).await;
            threat(11, format!("{} bytes in place of a document", junk.len()), &fault);
        }
    });
    assert_eq!(grants_of(world, &application), 0);
    provider.agent.run(["send", signed]).ok();
    assert_eq!(grants_of(world, &application), 1, "the good one was good all the time");
}

fn root_document(world: &World) -> lingqu_protocol::documents::Document<lingqu_protocol::documents::AgencyBody> {
    lingqu_protocol::documents::Document {
        gateway: lingqu_protocol::ids::GatewayId::from_bits(1),
        id: lingqu_protocol::ids::DocumentId::from_bits(1),
        predecessor: None,
        issued_at: 0,
        expires_at: i64::MAX,
        body: lingqu_protocol::documents::AgencyBody {
            code: world.provider.code.clone(),
            name: "x".into(),
            region: "44".into(),
            level: "province".into(),
            duties: Vec::new(),
            parent: None,
            authority: true,
        },
    }
}

#[test]
fn threat_11_a_sign_off_that_is_replayed_does_nothing_again() {
    let world = shared();
    let at = world.new_table();
    let provider = &world.provider;
    let suspend = || provider.agent.run(["grant", "suspend", &at.grant, "--reason", "测试"]).ok();
    let status = || text(&world.requester.agent.run(["grant", "show", &at.grant]).ok(), "status").to_owned();
    suspend();
    let (prepared, signed) = (world.path("act.bin"), world.path("act.json"));
    let (prepared, signed) = (prepared.to_str().unwrap(), signed.to_str().unwrap());
    provider.agent.run(["grant", "reinstate", &at.grant, "--reason", "已整改", "--prepare", prepared]).ok();
    provider.agent.run(["sign", prepared, "--key", provider.office(), "--out", signed]).ok();
    provider.agent.run(["send", signed]).ok();
    let in_force = status();
    suspend();
    let suspended = status();
    assert_ne!(in_force, suspended);
    // Handed in again it may be answered as it was the first time, but the grant stays as it is.
    let answer = provider.agent.run(["send", signed]);
    let after = status();
    let got = format!("exit {:?}; the grant is {after} as before", answer.code);
    threat(11, "a reinstatement handed in again after another suspension", got);
    assert_eq!(after, suspended);
    // The same for the answer that made the grant: no second one.
    assert_eq!(grants_of(world, &at.application), 1);
}
