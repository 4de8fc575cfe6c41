//! Agents, invitations, stops, and lists.

use super::world::*;
use crate::folder::CutsFile;
use crate::gate::Selector as GateSelector;
use crate::registry::port::Cuts;
use crate::registry::stop::Selector;
use crate::registry::{INVITATION_TTL_MS_MAX, PAGE_RECORDS_MAX, RENEWAL_TTL_MS_MAX, RegistryError};
use crate::state::CommitFault;
use lingqu_certs::chain;
use lingqu_certs::invitation::Invitation;
use lingqu_certs::key::SigningKey;
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::ids::GrantId;
use std::sync::Arc;

async fn invited(w: &World, agent: &AgentId) -> [u8; 32] {
    let made = w.registry.invite(agent, DAY_MS).await.unwrap();
    let line: Invitation = made["invitation"].as_str().unwrap().parse().unwrap();
    *line.key().unwrap().public().as_bytes()
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed([n; 32]).unwrap()
}

#[tokio::test]
async fn an_invitation_joins_one_key_and_may_be_asked_again_while_it_is_open() {
    let w = World::new().await;
    let agent = AgentId { agency: w.other.code, name: "second".parse().unwrap() };
    let open = w.registry.invitations();
    let invitation = invited(&w, &agent).await;
    assert!(open.is_open(&invitation, START));
    assert!(!open.is_open(&[9; 32], START));
    let first = w.registry.join(&invitation, &csr(&key(1))).await.unwrap();
    assert_eq!(first.agent, agent);
    assert_eq!(chain::public_key(&first.chain_der[0]), Some(*key(1).public().as_bytes()));
    assert!(w.gate.snapshot().agent(&agent).is_some());
    assert!(w.registry.join(&invitation, &csr(&key(1))).await.is_ok(), "the answer may have been lost");
    assert_eq!(word(w.registry.join(&invitation, &csr(&key(2))).await), "invitation_closed");
    assert_eq!(word(w.registry.join(&[9; 32], &csr(&key(1))).await), "invitation_closed");
    assert_eq!(word(w.registry.join(&invitation, b"junk").await), "bad_request_for_certificate");
    w.clock.pass(DAY_MS + 1);
    assert_eq!(word(w.registry.join(&invitation, &csr(&key(1))).await), "invitation_closed");
    assert!(!open.is_open(&invitation, START.plus_ms(DAY_MS + 1)));
}

#[tokio::test]
async fn a_join_that_was_not_durable_used_nothing_up() {
    let w = World::new().await;
    let agent = AgentId { agency: w.other.code, name: "second".parse().unwrap() };
    let invitation = invited(&w, &agent).await;
    w.state.fail_next_commit(CommitFault::Full);
    assert!(w.registry.join(&invitation, &csr(&key(1))).await.is_err());
    assert!(w.gate.snapshot().agent(&agent).is_none());
    assert!(w.registry.join(&invitation, &csr(&key(2))).await.is_ok(), "the first was never bound");
}

#[tokio::test]
async fn open_invitations_survive_a_restart() {
    let w = World::new().await;
    let agent = AgentId { agency: w.other.code, name: "second".parse().unwrap() };
    let invitation = invited(&w, &agent).await;
    let (registry, _) = w.restarted().await;
    assert!(registry.invitations().is_open(&invitation, START));
    assert!(registry.join(&invitation, &csr(&key(1))).await.is_ok());
}

#[tokio::test]
async fn invitations_are_for_known_agencies_and_a_bounded_time() {
    let w = World::new().await;
    let nobody = AgentId { agency: code(99), name: "a".parse().unwrap() };
    assert_eq!(word(w.registry.invite(&nobody, DAY_MS).await), "not_found");
    for ttl in [0, -1, INVITATION_TTL_MS_MAX + 1, i64::MAX] {
        assert_eq!(word(w.registry.invite(&w.other.agent, ttl).await), "bad_text");
    }
}

#[tokio::test]
async fn an_approved_renewal_is_for_one_agent_one_key_and_one_time() {
    let w = World::new().await;
    let (agent, own) = (&w.other.agent, &w.other.clerk);
    let open = w.registry.renewals();
    let renew = async |key: &SigningKey| w.registry.renew_expired(agent, &key.public(), &csr(key)).await;
    assert_eq!(word(renew(own).await), "renewal_not_approved", "nothing was approved");
    let approved = w.registry.approve_renewal(agent, DAY_MS).await.unwrap();
    assert_eq!(
        (approved["id"].as_str(), approved["status"].as_str()),
        (Some(agent.to_string().as_str()), Some("open"))
    );
    assert!(open.is_open(agent, &own.public(), START));
    assert!(!open.is_open(agent, &key(1).public(), START), "another key");
    assert!(!open.is_open(&w.requester.agent, &own.public(), START), "another agent");
    assert!(!open.is_open(agent, &own.public(), START.plus_ms(DAY_MS + 1)), "too late");
    assert_eq!(word(renew(&key(1)).await), "renewal_not_approved");
    let for_other = w.registry.renew_expired(agent, &own.public(), &csr(&key(1))).await;
    assert_eq!(word(for_other), "bad_request_for_certificate", "a certificate for another key");
    w.state.fail_next_commit(CommitFault::Full);
    assert!(renew(own).await.is_err());
    let certified = renew(own).await.unwrap();
    assert_eq!(chain::public_key(&certified.chain_der[0]), Some(*own.public().as_bytes()));
    assert!(!open.is_open(agent, &own.public(), START));
    assert_eq!(word(renew(own).await), "renewal_not_approved", "once");
    assert_eq!(w.registry.list_renewals("").await.unwrap().0[0]["status"], "used");
}

#[tokio::test]
async fn an_approval_ends_with_its_time_a_withdrawal_a_stop_and_a_new_key() {
    let w = World::new().await;
    let (agent, own) = (&w.other.agent, &w.other.clerk);
    let open = w.registry.renewals();
    let renew = async || w.registry.renew_expired(agent, &own.public(), &csr(own)).await;
    let approve = async || w.registry.approve_renewal(agent, DAY_MS).await;
    approve().await.unwrap();
    w.registry.withdraw_renewal(agent).await.unwrap();
    assert!(!open.is_open(agent, &own.public(), START));
    assert_eq!(word(renew().await), "renewal_not_approved", "withdrawn");
    assert_eq!(word(w.registry.withdraw_renewal(agent).await), "not_found", "nothing is open");
    approve().await.unwrap();
    for selector in [Selector::Agent(agent.clone()), Selector::Agency(agent.agency), Selector::All] {
        w.registry.stop(&selector, "事故").await.unwrap();
        assert_eq!(word(renew().await), "stopped", "{selector}");
        assert_eq!(word(approve().await), "stopped", "{selector}");
        w.registry.resume(&selector, "排除").await.unwrap();
    }
    let invitation = invited(&w, agent).await;
    w.registry.join(&invitation, &csr(&key(1))).await.unwrap();
    assert!(!open.is_open(agent, &own.public(), START), "it joined anew");
    assert_eq!(word(renew().await), "renewal_not_approved");
    assert_eq!(w.registry.list_renewals("").await.unwrap().0[0]["status"], "withdrawn");
    approve().await.unwrap();
    assert_eq!(word(renew().await), "renewal_not_approved", "the key that it had before");
    w.clock.pass(DAY_MS + 1);
    assert_eq!(word(w.registry.renew_expired(agent, &key(1).public(), &csr(&key(1))).await), "renewal_not_approved");
    let nobody = AgentId { agency: w.other.code, name: "nobody".parse().unwrap() };
    assert_eq!(word(w.registry.approve_renewal(&nobody, DAY_MS).await), "not_found");
    for ttl in [0, -1, RENEWAL_TTL_MS_MAX + 1, i64::MAX] {
        assert_eq!(word(w.registry.approve_renewal(agent, ttl).await), "bad_text");
    }
}

#[tokio::test]
async fn open_approvals_survive_a_restart_and_leave_their_leaves() {
    let w = World::new().await;
    let (agent, own) = (&w.other.agent, &w.other.clerk);
    w.registry.approve_renewal(agent, DAY_MS).await.unwrap();
    let (registry, _) = w.restarted().await;
    assert!(registry.renewals().is_open(agent, &own.public(), START));
    registry.renew_expired(agent, &own.public(), &csr(own)).await.unwrap();
    let (registry, _) = w.restarted().await;
    assert!(!registry.renewals().is_open(agent, &own.public(), START), "used");
    let said: Vec<_> =
        w.leaves().await.into_iter().rev().take(2).map(|leaf| (leaf.what.unwrap(), leaf.agent)).collect();
    let expected = [("agent_renewed_expired".to_owned(), Some(agent.clone())), ("renewal_approved".to_owned(), None)];
    assert_eq!(said, expected);
}

#[tokio::test]
async fn a_blocked_agent_and_a_stopped_agency_say_and_get_nothing() {
    let w = World::new().await;
    let renew = async || w.registry.renew(&w.other.agent, &csr(&key(1))).await;
    assert!(renew().await.is_ok());
    for (selector, gate) in [
        (Selector::Agent(w.other.agent.clone()), None),
        (Selector::Agency(w.other.code), Some(GateSelector::Agency(w.other.code))),
        (Selector::All, Some(GateSelector::All)),
    ] {
        let invitation = invited(&w, &w.other.agent).await;
        w.registry.stop(&selector, "事故").await.unwrap();
        w.registry.stop(&selector, "again").await.unwrap();
        match gate {
            Some(gate) => assert!(w.gate.snapshot().stops().iter().any(|s| s.selector == gate && s.reason == "事故")),
            None => assert!(w.gate.snapshot().agent(&w.other.agent).unwrap().blocked.is_some()),
        }
        assert_eq!(word(renew().await), "stopped", "{selector}");
        assert_eq!(word(w.registry.join(&invitation, &csr(&key(1))).await), "stopped", "{selector}");
        assert_eq!(word(w.registry.read(&w.other.agent, "status", "", "").await), "stopped", "{selector}");
        w.registry.resume(&selector, "排除").await.unwrap();
        assert!(w.gate.snapshot().stops().is_empty());
        assert!(w.gate.snapshot().agent(&w.other.agent).unwrap().blocked.is_none());
        assert!(renew().await.is_ok(), "{selector}");
        assert_eq!(word(w.registry.resume(&selector, "r").await), "not_stopped");
    }
    assert_eq!(word(w.registry.stop(&Selector::All, "").await), "bad_text");
}

#[tokio::test]
async fn a_stop_acts_even_when_it_cannot_be_recorded() {
    let w = World::new().await;
    w.state.fail_next_commit(CommitFault::Full);
    let stopped = w.registry.stop(&Selector::All, "事故").await;
    assert!(matches!(stopped, Err(RegistryError::Unrecorded { .. })));
    assert_eq!(w.gate.snapshot().stops().len(), 1);
}

#[tokio::test]
async fn a_cut_that_could_not_be_recorded_holds_over_a_restart_and_is_recorded_then() {
    let dir = tempfile::tempdir().unwrap();
    let kept = || Arc::new(CutsFile::open(&dir.path().join("cuts")).unwrap());
    let w = World::new().await.keeping(kept());
    w.published().await;
    let grant = w.granted().await;
    let agent = Selector::Agent(w.other.agent.clone());
    w.state.fail_next_commit(CommitFault::Full);
    assert!(w.registry.stop(&Selector::All, "事故").await.is_err());
    w.state.fail_next_commit(CommitFault::Full);
    assert!(w.registry.stop(&agent, "设备遗失").await.is_err());
    w.state.fail_next_commit(CommitFault::Full);
    let suspended = w.registry.narrow(&w.provider.agent, &grant.to_string(), "检查").await;
    assert_eq!(suspended.unwrap_err().word(), "unrecorded");
    let stops = w.registry.stops().await.unwrap();
    assert_eq!((stops.len(), &stops[0]["unrecorded"]), (3, &true.into()));

    let (registry, gate) = w.restarted().await;
    let registry = registry.keeping(kept());
    assert!(gate.snapshot().stops().is_empty(), "the state knows nothing of it");
    w.state.fail_next_commit(CommitFault::Full);
    assert!(registry.record_cuts().await.is_err(), "a gateway that cannot record them does not serve");
    registry.record_cuts().await.unwrap();
    let stops: Vec<_> = gate.snapshot().stops().iter().map(|s| (s.selector.clone(), s.reason.clone())).collect();
    assert!(stops.contains(&(GateSelector::All, "事故".to_owned())), "{stops:?}");
    assert!(stops.contains(&(GateSelector::Grant(grant), "检查".to_owned())), "{stops:?}");
    assert_eq!(gate.snapshot().agent(&w.other.agent).unwrap().blocked.as_deref(), Some("设备遗失"));
    assert!(kept().all().is_empty());
    let (registry, gate) = w.restarted().await;
    assert_eq!(gate.snapshot().stops().len(), 2, "recorded");
    registry.resume(&Selector::Grant(grant), "排除").await.unwrap();
}

#[tokio::test]
async fn a_cut_that_was_never_recorded_is_lifted_or_recorded_by_the_same_process() {
    let dir = tempfile::tempdir().unwrap();
    let kept = || Arc::new(CutsFile::open(&dir.path().join("cuts")).unwrap());
    let w = World::new().await.keeping(kept());
    for selector in [Selector::All, Selector::Agent(w.other.agent.clone())] {
        w.state.fail_next_commit(CommitFault::Full);
        assert!(w.registry.stop(&selector, "事故").await.is_err());
        w.registry.resume(&selector, "误报").await.unwrap();
        assert!(kept().all().is_empty() && w.gate.snapshot().stops().is_empty());
        assert!(w.gate.snapshot().agent(&w.other.agent).unwrap().blocked.is_none());
        assert_eq!(word(w.registry.resume(&selector, "r").await), "not_stopped");
        w.state.fail_next_commit(CommitFault::Full);
        assert!(w.registry.stop(&selector, "事故").await.is_err());
        w.registry.stop(&selector, "事故").await.unwrap();
        assert!(kept().all().is_empty(), "the second try recorded it");
        w.registry.resume(&selector, "排除").await.unwrap();
    }
}

#[tokio::test]
async fn what_takes_away_is_let_through_a_stop() {
    let w = World::new().await;
    w.published().await;
    let grant = w.granted().await;
    w.registry.stop(&Selector::All, "事故").await.unwrap();
    w.registry.narrow(&w.provider.agent, &grant.to_string(), "检查").await.unwrap();
    assert_eq!(w.registry.stops().await.unwrap().len(), 1);
}

#[tokio::test]
async fn statements_of_the_root_and_of_nobody_else() {
    let w = World::new().await;
    let before = w.registry.agencies("").await.unwrap().0.len();
    let statement = w.agency(code(50), false);
    let added = w.registry.agency_add(&statement).await.unwrap();
    assert_eq!(added["id"], code(50).to_string());
    assert_eq!(w.registry.agency_add(&statement).await.unwrap(), added, "again is once");
    assert_eq!(w.registry.agencies("").await.unwrap().0.len(), before + 1);
    let mut forged = w.agency(code(51), true);
    forged.payload[30] ^= 1;
    assert_eq!(word(w.registry.agency_add(&forged).await), "document_refused");
    let nowhere = w.officer(code(60), &key(9), lingqu_protocol::documents::OfficerRole::Clerk);
    assert_eq!(word(w.registry.officer_add(&nowhere).await), "not_found");
    assert_eq!(word(w.registry.agency_add(&nowhere).await), "document_refused", "another type");
    // Over the wire nobody hands in statements of the root.
    assert_eq!(word(w.carry(&w.authority.agent, &w.agency(code(52), true)).await), "document_type");
}

#[tokio::test]
async fn an_agency_that_is_there_is_changed_by_a_change_and_by_nothing_else() {
    let w = World::new().await;
    let before = w.ledger_size().await;
    let same = w.agency(w.authority.code, true);
    assert_eq!(w.registry.agency_add(&same).await.unwrap()["authority"], true);
    assert_eq!(w.ledger_size().await, before, "what says nothing new changes nothing");
    let refused = w.registry.agency_add(&w.agency(w.authority.code, false)).await.unwrap_err();
    assert!(refused.to_string().contains("authority") && refused.next().contains("agency change"), "{refused}");
    assert_eq!(word::<()>(Err(refused)), "agency_exists");
    assert_eq!(w.registry.agency_show(w.authority.code).await.unwrap()["authority"], true);

    let stated = w.stated(&w.other).await;
    let changed = w.registry.agency_change(&w.agency_over(&w.other, "新名称", stated)).await.unwrap();
    assert_eq!((changed["name"].as_str(), w.ledger_size().await), (Some("新名称"), before + 1));
    assert_eq!(w.leaves().await.last().unwrap().what.as_deref(), Some("agency_changed"));
    assert_eq!(w.gate.snapshot().agency(&w.other.code).unwrap().name, "新名称");
    let late = w.agency_over(&w.other, "另一名称", stated);
    assert_eq!(word(w.registry.agency_change(&late).await), "predecessor_changed");
    let unnamed = w.agency(w.other.code, false);
    assert_eq!(word(w.registry.agency_change(&unnamed).await), "predecessor_changed", "it follows nothing");
    assert_eq!(word(w.registry.agency_change(&w.agency(code(79), false)).await), "not_found");
}

#[tokio::test]
async fn lists_go_on_where_they_stopped_and_show_each_once() {
    let w = World::new().await;
    w.published().await;
    let mut made = std::collections::BTreeSet::new();
    for _ in 0..PAGE_RECORDS_MAX + 5 {
        made.insert(w.granted().await.to_string());
    }
    for member in [&w.requester, &w.provider, &w.authority] {
        let mut seen = Vec::new();
        let mut after = String::new();
        loop {
            let page = w.registry.read(&member.agent, "grant", "", &after).await.unwrap();
            seen.extend(page.records.into_iter().map(|(id, _)| id));
            after = page.next;
            if after.is_empty() {
                break;
            }
        }
        assert_eq!(seen, made.iter().cloned().collect::<Vec<_>>());
    }
    let none = w.registry.read(&w.other.agent, "grant", "", "").await.unwrap();
    assert!(none.records.is_empty());
    assert!(GrantId::from_bits(1).to_string() < GrantId::from_bits(2).to_string());
}

#[tokio::test]
async fn the_inbox_holds_what_waits_for_this_agency() {
    let w = World::new().await;
    let inbox = async |member: &Member| {
        let page = w.registry.read(&member.agent, "inbox", "", "").await.unwrap();
        page.records.into_iter().map(|(_, json)| json["act"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    w.published().await;
    let entry = w.submitted().await;
    let applied = w.applied().await;
    assert_eq!(inbox(&w.authority).await, ["review"]);
    assert_eq!(inbox(&w.provider).await, ["answer"]);
    assert!(inbox(&w.requester).await.is_empty());
    w.review(entry, lingqu_protocol::documents::Review::Return { why: "缺项".into() }).await.unwrap();
    assert!(inbox(&w.authority).await.is_empty());
    assert_eq!(inbox(&w.provider).await, ["answer", "submit_again"]);
    w.approve(applied, None).await.unwrap();
    assert_eq!(inbox(&w.provider).await, ["submit_again"]);
}

/// The service runs on tasks of a runtime with many threads.
#[tokio::test]
async fn its_futures_can_be_spawned() {
    fn sendable<T: Send>(value: T) -> T {
        value
    }
    let w = World::new().await;
    let read = sendable(w.registry.read(&w.other.agent, "status", "", "")).await.unwrap();
    assert_eq!(read.records[0].1["status"], "active");
    drop(sendable(w.registry.take_document(&w.other.agent, b"")));
    drop(sendable(w.registry.join(&[0; 32], b"")));
    drop(sendable(w.registry.renew(&w.other.agent, b"")));
    drop(sendable(w.registry.narrow(&w.other.agent, "", "")));
    drop(sendable(w.registry.stop(&Selector::All, "")));
    drop(sendable(w.registry.resume(&Selector::All, "")));
    drop(sendable(w.registry.load()));
    drop(sendable(w.registry.invite(&w.other.agent, 1)));
    drop(sendable(w.registry.approve_renewal(&w.other.agent, 1)));
    drop(sendable(w.registry.withdraw_renewal(&w.other.agent)));
    drop(sendable(w.registry.renew_expired(&w.other.agent, &key(1).public(), b"")));
}
