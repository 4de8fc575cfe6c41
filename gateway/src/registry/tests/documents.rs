//! Documents from catalogue to grant, and what is refused on the way.

use super::world::*;
use crate::gate::GrantStatus;
use crate::registry::RegistryError;
use crate::state::{CommitFault, Kind, State, StateError};
use lingqu_certs::document;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::*;
use lingqu_protocol::ids::{ApplicationId, DocumentId, EntryId, GatewayId, GrantId};

#[tokio::test]
async fn from_catalogue_to_grant_each_step_has_its_leaf_and_reaches_the_gate() {
    let w = World::new().await;
    let before = w.ledger_size().await;
    let entry = w.submitted().await;
    assert!(!w.gate.snapshot().entry(&entry.0).unwrap().published);
    w.review(entry, Review::Approve { code: Some(CODE.into()) }).await.unwrap();
    assert!(w.gate.snapshot().find_entry(CODE).unwrap().published);
    let applied = w.applied().await;
    let (grant, taken) = w.approve(applied, Some("columns = [\"region\"]\nuntil = 2027-01-31")).await.unwrap();
    assert_eq!(taken.json["id"], grant.to_string());
    assert_eq!(taken.json["application"], applied.0.to_string());
    assert_eq!(w.ledger_size().await, before + 4, "one leaf a change");
    let view = w.gate.snapshot().grant(&w.requester.code, &grant).unwrap().clone();
    assert_eq!(view.status(), &GrantStatus::InForce);
    assert_eq!(view.scope.terms().columns, ["region"]);
    assert_eq!(view.scope.until.to_string(), "2027-01-31");
    assert!(w.gate.snapshot().grant(&w.other.code, &grant).is_none());

    let shown = w.show(&w.requester, "grant", &grant.to_string()).await.unwrap();
    assert_eq!((shown["status"].as_str(), shown["scope"]["columns"][0].as_str()), (Some("in_force"), Some("region")));
    w.clock.pass(200 * DAY_MS);
    let shown = w.show(&w.requester, "grant", &grant.to_string()).await.unwrap();
    assert_eq!(shown["status"], "expired");
}

#[tokio::test]
async fn a_restart_publishes_the_same() {
    let w = World::new().await;
    w.published().await;
    let grant = w.granted().await;
    w.registry.narrow(&w.provider.agent, &grant.to_string(), "检查").await.unwrap();
    w.registry.stop(&"all".parse().unwrap(), "演练").await.unwrap();
    let (_, gate) = w.restarted().await;
    assert_eq!(gate.snapshot().counts(), w.gate.snapshot().counts());
    assert_eq!(gate.snapshot().stops(), w.gate.snapshot().stops());
    let status = |gate: &crate::gate::Gate| gate.snapshot().grant(&w.requester.code, &grant).unwrap().status().clone();
    assert_eq!(status(&gate), status(&w.gate));
    assert!(matches!(status(&gate), GrantStatus::Suspended { .. }));
}

#[tokio::test]
async fn the_same_document_again_gets_the_same_answer_even_when_it_has_expired() {
    let w = World::new().await;
    let entry = EntryId::from_bits(w.id());
    let sealed = |id, toml: &str| {
        let body = EntryBody { toml: toml.into(), ..w.entry_body(&w.provider, entry) };
        let document = Document { id: DocumentId::from_bits(id), ..w.document(body, None) };
        document::seal(&document, &w.provider.agency_head).unwrap()
    };
    let envelope = sealed(900, ENTRY);
    let late = sealed(901, ENTRY);
    let first = w.carry(&w.provider.agent, &envelope).await.unwrap();
    let leaves = w.ledger_size().await;
    assert_eq!(w.carry(&w.provider.agent, &envelope).await.unwrap(), first);
    assert_eq!(
        word(w.carry(&w.provider.agent, &sealed(900, &ENTRY.replace("daily", "weekly"))).await),
        "document_reused"
    );
    w.clock.pass(2 * DAY_MS);
    assert_eq!(w.carry(&w.provider.agent, &envelope).await.unwrap(), first);
    assert_eq!(word(w.carry(&w.provider.agent, &late).await), "document_expired");
    assert_eq!(w.ledger_size().await, leaves);
    // Another agency that carries it learns nothing from it.
    assert_eq!(word(w.carry(&w.other.agent, &envelope).await), "officer_elsewhere");
}

#[tokio::test]
async fn forged_foreign_and_wrongly_signed_documents_are_refused() {
    let w = World::new().await;
    let body = || w.entry_body(&w.provider, EntryId::from_bits(5));
    let agent = &w.provider.agent;
    let good = document::seal(&w.document(body(), None), &w.provider.agency_head).unwrap();
    let mut forged = good.clone();
    forged.payload[20] ^= 1;
    assert_eq!(word(w.carry(agent, &forged).await), "document_refused");
    let elsewhere = Document { gateway: GatewayId::from_bits(8), ..w.document(body(), None) };
    let elsewhere = document::seal(&elsewhere, &w.provider.agency_head).unwrap();
    assert_eq!(word(w.carry(agent, &elsewhere).await), "document_refused");
    let unknown = lingqu_certs::key::SigningKey::from_seed([99; 32]).unwrap();
    assert_eq!(word(w.hand_in(agent, &unknown, body(), None).await), "document_refused");
    for key in [&w.provider.office_head, &w.provider.clerk] {
        assert_eq!(word(w.hand_in(agent, key, body(), None).await), "wrong_role");
    }
    assert_eq!(word(w.hand_in(agent, &w.other.agency_head, body(), None).await), "officer_elsewhere");
    let named = EntryBody { agency: w.other.code.to_string(), ..body() };
    assert_eq!(word(w.hand_in(agent, &w.provider.agency_head, named, None).await), "other_agency");
    assert_eq!(word(w.registry.take_document(agent, b"junk").await), "document_refused");
    let bad = EntryBody { toml: "name = 1".into(), ..body() };
    assert_eq!(word(w.hand_in(agent, &w.provider.agency_head, bad, None).await), "bad_spec");
    assert!(w.carry(agent, &good).await.is_ok(), "the good one is still taken");
}

#[tokio::test]
async fn nobody_signs_against_one_text_and_acts_on_another() {
    let w = World::new().await;
    let entry = w.submitted().await;
    let other = Digest::sha256(b"another text");
    let approve = || Review::Approve { code: Some(CODE.into()) };
    assert_eq!(word(w.review((entry.0, other), approve()).await), "predecessor_changed");
    w.review(entry, approve()).await.unwrap();
    let applied = w.applied().await;
    assert_eq!(word(w.approve((applied.0, other), None).await), "predecessor_changed");
    let (grant, _) = w.approve(applied, None).await.unwrap();
    assert_eq!(word(w.approve(applied, None).await), "wrong_state");
    w.registry.narrow(&w.provider.agent, &grant.to_string(), "检查").await.unwrap();
    let reinstate = || GrantActBody { grant, act: GrantAct::Reinstate, reason: "已整改".into() };
    let by = (&w.provider.agent, &w.provider.office_head);
    assert_eq!(word(w.hand_in(by.0, by.1, reinstate(), Some(other)).await), "predecessor_changed");
    let stands = digest(&w.show(&w.provider, "grant", &grant.to_string()).await.unwrap());
    w.hand_in(by.0, by.1, reinstate(), Some(stands)).await.unwrap();
    assert_eq!(w.gate.snapshot().grant(&w.requester.code, &grant).unwrap().status(), &GrantStatus::InForce);
    w.registry.narrow(&w.provider.agent, &grant.to_string(), "再查").await.unwrap();
    assert_eq!(word(w.hand_in(by.0, by.1, reinstate(), Some(stands)).await), "predecessor_changed");
}

#[tokio::test]
async fn an_application_fits_its_entry_and_an_answer_only_narrows() {
    let w = World::new().await;
    let apply = async |toml: String| {
        let body = w.application_body(&w.requester, &toml);
        w.hand_in(&w.requester.agent, &w.requester.office_head, body, None).await
    };
    assert_eq!(word(apply(APPLICATION.into()).await), "not_found");
    w.submitted().await;
    assert_eq!(word(apply(APPLICATION.into()).await), "not_found", "not published yet");
    let (_, terms) = w.published().await;
    for (named, taken) in [(terms, true), (Digest::sha256(b"older terms"), false)] {
        let body = w.application_body(&w.requester, APPLICATION);
        let result = w.hand_in(&w.requester.agent, &w.requester.office_head, body, Some(named)).await;
        assert_eq!(result.is_ok(), taken, "{result:?}");
    }
    assert_eq!(word(apply(APPLICATION.replace("\"credit_code\"", "\"salary\"")).await), "not_offered");
    assert_eq!(word(apply(APPLICATION.replace("[\"低收入家庭核对\"]", "[\"商业用途\"]")).await), "not_offered");
    assert_eq!(word(apply(APPLICATION.replace("batch_exchange", "file_download")).await), "not_offered");
    assert_eq!(word(apply(APPLICATION.replace("until", "untill")).await), "bad_spec");
    let silent =
        ApplicationBody { declared_true_lawful_necessary: false, ..w.application_body(&w.requester, APPLICATION) };
    let taken = w.hand_in(&w.requester.agent, &w.requester.office_head, silent, None).await;
    assert_eq!(word(taken), "not_declared");
    let applied = w.applied().await;
    for wider in [
        "columns = [\"region\", \"credit_code\", \"operator_name\"]",
        "until = 2028-01-01",
        "purposes = [\"商业用途\"]",
    ] {
        assert_eq!(word(w.approve(applied, Some(wider)).await), "scope_wider", "{wider}");
    }
    assert_eq!(word(w.approve(applied, Some("colums = []")).await), "bad_spec");
    assert_eq!(word(w.approve(applied, Some("where = \"salary = 1\"")).await), "not_offered");
    let show = w.show(&w.requester, "application", &applied.0.to_string()).await.unwrap();
    assert_eq!(show["status"], "submitted", "nothing of that was taken");
    w.approve(applied, Some("where = \"operator_name = '张三'\"")).await.unwrap();
}

#[tokio::test]
async fn a_refusal_has_its_reason_and_ends_the_application() {
    let w = World::new().await;
    w.published().await;
    let applied = w.applied().await;
    let refuse = |why: &str| AnswerBody { application: applied.0, answer: Answer::Refuse { why: why.into() } };
    let by = (&w.provider.agent, &w.provider.office_head);
    assert_eq!(word(w.hand_in(by.0, by.1, refuse(" "), Some(applied.1)).await), "bad_text");
    w.hand_in(by.0, by.1, refuse("超出履职需要"), Some(applied.1)).await.unwrap();
    assert_eq!(word(w.approve(applied, None).await), "wrong_state");
    let shown = w.show(&w.requester, "application", &applied.0.to_string()).await.unwrap();
    assert_eq!((shown["status"].as_str(), shown["why"].as_str()), (Some("refused"), Some("超出履职需要")));
}

#[tokio::test]
async fn a_code_belongs_to_one_entry() {
    let w = World::new().await;
    w.published().await;
    let second = w.submitted().await;
    assert_eq!(word(w.review(second, Review::Approve { code: Some(CODE.into()) }).await), "code_taken");
    assert_eq!(word(w.review(second, Review::Approve { code: None }).await), "code_missing");
    w.review(second, Review::Approve { code: Some("307010/000002".into()) }).await.unwrap();
    let named =
        EntryBody { toml: format!("code = \"{CODE}\"\n{ENTRY}"), ..w.entry_body(&w.other, EntryId::from_bits(w.id())) };
    assert_eq!(word(w.hand_in(&w.other.agent, &w.other.agency_head, named, None).await), "code_taken");
}

#[tokio::test]
async fn a_new_version_is_reviewed_beside_the_one_in_force() {
    let w = World::new().await;
    let (entry, first) = w.published().await;
    let body = || EntryBody { toml: ENTRY.replace("daily", "weekly"), ..w.entry_body(&w.provider, entry) };
    let by = (&w.provider.agent, &w.provider.agency_head);
    assert_eq!(word(w.hand_in(by.0, by.1, body(), None).await), "predecessor_changed");
    let second = digest(&w.hand_in(by.0, by.1, body(), Some(first)).await.unwrap().json);
    let frequency = async |by| w.show(by, "catalogue", CODE).await.unwrap()["update_frequency"].clone();
    assert_eq!(frequency(&w.requester).await, "daily");
    assert_eq!(frequency(&w.provider).await, "weekly");
    let in_force = || w.gate.snapshot().entry(&entry).unwrap().spec.update_frequency.as_str();
    assert_eq!(in_force(), "daily");
    w.review((entry, second), Review::Approve { code: None }).await.unwrap();
    assert_eq!(frequency(&w.requester).await, "weekly");
    assert_eq!(in_force(), "weekly");
}

#[tokio::test]
async fn narrowing_acts_even_when_the_commit_fails_and_widening_does_not() {
    let w = World::new().await;
    w.published().await;
    let grant = w.granted().await;
    let status = || w.gate.snapshot().grant(&w.requester.code, &grant).unwrap().status().clone();
    w.state.fail_next_commit(CommitFault::Full);
    let result = w.registry.narrow(&w.provider.agent, &grant.to_string(), "检查").await;
    let Err(RegistryError::Unrecorded { cause, .. }) = result else { panic!("{result:?}") };
    assert_eq!(*cause, RegistryError::State(StateError::Full));
    assert!(matches!(status(), GrantStatus::Suspended { .. }), "cut although it could not be recorded");
    w.registry.narrow(&w.provider.agent, &grant.to_string(), "检查").await.unwrap();
    let stands = digest(&w.show(&w.provider, "grant", &grant.to_string()).await.unwrap());
    let reinstate = GrantActBody { grant, act: GrantAct::Reinstate, reason: "已整改".into() };
    let sealed = document::seal(&w.document(reinstate, Some(stands)), &w.provider.office_head).unwrap();
    w.state.fail_next_commit(CommitFault::Full);
    assert!(w.carry(&w.provider.agent, &sealed).await.is_err());
    assert!(matches!(status(), GrantStatus::Suspended { .. }), "nothing is widened before it is durable");
    w.carry(&w.provider.agent, &sealed).await.unwrap();
    assert_eq!(status(), GrantStatus::InForce);

    let stands = digest(&w.show(&w.provider, "grant", &grant.to_string()).await.unwrap());
    let terminate = GrantActBody { grant, act: GrantAct::Terminate, reason: "拒不整改".into() };
    let sealed = document::seal(&w.document(terminate, Some(stands)), &w.provider.office_head).unwrap();
    w.state.fail_next_commit(CommitFault::Full);
    assert!(w.carry(&w.provider.agent, &sealed).await.is_err());
    assert!(matches!(status(), GrantStatus::Terminated { .. }));
}

#[tokio::test]
async fn an_officer_or_agency_that_the_root_did_not_sign_is_damage() {
    let w = World::new().await;
    let (entry, text) = w.submitted().await;
    // Somebody writes a role into the state that the root never gave.
    let keyid = w.authority.clerk.public().key_id().to_string();
    let record = w.state.get(Kind::Officer, &keyid).await.unwrap().unwrap();
    let mut draft = record.to_draft();
    draft.body = String::from_utf8(draft.body).unwrap().replace("\"clerk\"", "\"office-head\"").into_bytes();
    let change = crate::state::Change::put(draft, crate::state::Expect::Any);
    w.state.commit(change).await.unwrap();
    let body = ReviewBody { entry, decision: Review::Approve { code: Some(CODE.into()) } };
    let taken = w.hand_in(&w.authority.agent, &w.authority.clerk, body, Some(text)).await;
    assert!(matches!(taken, Err(RegistryError::Damaged(_))), "{taken:?}");

    let record = w.state.get(Kind::Agency, w.other.code.as_str()).await.unwrap().unwrap();
    let mut draft = record.to_draft();
    draft.body =
        String::from_utf8(draft.body).unwrap().replace("\"authority\":false", "\"authority\":true").into_bytes();
    w.state.commit(crate::state::Change::put(draft, crate::state::Expect::Any)).await.unwrap();
    let read = w.registry.read(&w.other.agent, "inbox", "", "").await;
    assert!(matches!(read, Err(RegistryError::Damaged(_))), "{read:?}");
}

#[tokio::test]
async fn what_others_own_is_not_found_whatever_its_id() {
    let w = World::new().await;
    w.published().await;
    let grant = w.granted().await;
    let unknown = GrantId::from_bits(0xdead);
    for id in [grant, unknown] {
        let text = id.to_string();
        assert_eq!(word(w.show(&w.other, "grant", &text).await), "not_found");
        assert_eq!(word(w.registry.narrow(&w.other.agent, &text, "r").await), "not_found");
        let body = GrantActBody { grant: id, act: GrantAct::Terminate, reason: "r".into() };
        let taken = w.hand_in(&w.other.agent, &w.other.office_head, body, None).await;
        assert_eq!(word(taken), "not_found");
    }
    let body = AnswerBody { application: ApplicationId::from_bits(1), answer: Answer::Refuse { why: "r".into() } };
    assert_eq!(word(w.hand_in(&w.other.agent, &w.other.office_head, body, None).await), "not_found");
    let long = "x".repeat(10_000);
    assert_eq!(word(w.show(&w.other, "grant", &long).await), "not_found");
}
