use super::*;
use crate::machine::Machine;
use crate::machine::tests::real;
use crate::output::{Language, Output};
use lingqu_certs::document::seal;
use lingqu_certs::key::SigningKey;
use lingqu_protocol::documents::{Answer, AnswerBody, GatewayBody, OfficerBody, OfficerRole};
use lingqu_protocol::ids::{ApplicationId, GatewayId, GrantId};
use std::path::PathBuf;

const HERE: GatewayId = GatewayId::from_bits(1);

fn app() -> App {
    App { machine: real(), output: Output { json: true, language: Language::English }, profile_dir: None }
}

fn officer(dir: &Path, machine: &Machine) -> PathBuf {
    let dir = dir.join("officer");
    let says = OfficerBody { agency: "a".into(), name: "n".into(), role: OfficerRole::OfficeHead, key: String::new() };
    Officer::request(&dir, says, machine.entropy.as_ref()).unwrap();
    dir
}

fn answer(app: &App) -> Document<AnswerBody> {
    let answer = Answer::Approve { grant: GrantId::from_bits(4), scope_toml: None };
    let body = AnswerBody { application: ApplicationId::from_bits(3), answer };
    draft::document(&app.machine, HERE, Some(Digest::sha256(b"application")), 1, body).unwrap()
}

#[test]
fn what_is_prepared_is_signed_elsewhere() {
    let (app, dir) = (app(), tempfile::tempdir().unwrap());
    let key = officer(dir.path(), &app.machine);
    let (file, out) = (dir.path().join("prepared"), dir.path().join("signed"));
    let drafted = answer(&app);
    std::fs::write(&file, prepare(&drafted).unwrap()).unwrap();
    let args = SignFileArgs { file, key: key.clone(), out: out.clone() };
    let (summary, payload) = sign_file(&args).unwrap();
    assert_eq!(summary.made["id"], json!(GrantId::from_bits(4)));
    assert_eq!(serde_json::from_slice::<Document<AnswerBody>>(&payload).unwrap(), drafted);
    let envelope = Envelope::from_json(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!(envelope, Officer::load(&key).unwrap().seal(&drafted).unwrap(), "as if signed here");
}

#[test]
fn an_officer_signs_nothing_else() {
    let (app, dir) = (app(), tempfile::tempdir().unwrap());
    let key = officer(dir.path(), &app.machine);
    let out = dir.path().join("signed");
    let body = GatewayBody { domain: "d".into(), receipt_key: "k".into(), ca: Digest::sha256(b"ca") };
    let gateway = draft::document(&app.machine, HERE, None, 1, body).unwrap();
    let foreign = lingqu_protocol::dsse::pae("text/plain", b"pay everything");
    for prepared in [prepare(&gateway).unwrap(), foreign, b"junk".to_vec()] {
        let file = dir.path().join("prepared");
        std::fs::write(&file, prepared).unwrap();
        let args = SignFileArgs { file, key: key.clone(), out: out.clone() };
        assert_eq!(sign_file(&args).unwrap_err().exit_code(), 2);
        assert!(!out.exists());
    }
    let file = dir.path().join("prepared");
    std::fs::write(&file, prepare(&answer(&app)).unwrap()).unwrap();
    let args = SignFileArgs { file, key: dir.path().join("nobody"), out };
    assert_eq!(sign_file(&args).unwrap_err().told().word, "officer_key");
}

#[test]
fn trust_comes_from_the_file_or_the_profile() {
    let (app, dir) = (app(), tempfile::tempdir().unwrap());
    let key = SigningKey::from_seed([1; 32]).unwrap().public();
    let file = dir.path().join("root.pub");
    std::fs::write(&file, format!("{key}\n")).unwrap();
    assert_eq!(trust(&app, Some(&file)).unwrap(), key);
    std::fs::write(&file, "junk").unwrap();
    assert_eq!(trust(&app, Some(&file)).unwrap_err().exit_code(), 2);
    assert_eq!(trust(&app, None).unwrap_err().told().word, "no_trust");
}

#[test]
fn the_gateways_fields_are_added_and_ours_stay() {
    let mut made = json!({"id": "ours"});
    merge(&mut made, json!({"id": "theirs", "status": "submitted"}));
    assert_eq!(made, json!({"id": "ours", "status": "submitted"}));
    merge(&mut made, json!("no object"));
    assert_eq!(made["id"], "ours");
}

#[test]
fn a_payload_is_shown_line_by_line_and_clean() {
    assert_eq!(readable("{\n \"a\": \"\u{1b}\u{202e}\"\n}".as_bytes()), "{\n \"a\": \"\u{fffd}\u{fffd}\"\n}\n");
}

#[test]
fn a_document_for_another_gateway_is_known_before_it_is_sent() {
    let app = app();
    let envelope = seal(&answer(&app), &SigningKey::from_seed([1; 32]).unwrap()).unwrap();
    assert_eq!(known(&envelope.payload_type, &envelope.payload).unwrap().gateway, HERE);
    assert_eq!(known("text/plain", b"").unwrap_err().exit_code(), 2);
}
