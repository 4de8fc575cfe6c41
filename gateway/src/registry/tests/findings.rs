//! Findings with their cuts, from suspicion to its end; standing orders; rectification.

use super::world::*;
use crate::gate::{Ask, GrantStatus, Peer, Permit as _, Target};
use crate::registry::RegistryError;
use crate::registry::finding::{Evidence, Finding};
use crate::registry::stop::Selector;
use crate::state::{CommitFault, State as _};
use lingqu_protocol::documents::*;
use lingqu_protocol::ids::GrantId;
use lingqu_protocol::leaf::Leaf;
use lingqu_protocol::misuse::{Action, Rule};
use std::time::Duration;

async fn granted() -> (World, GrantId) {
    let w = World::new().await;
    w.published().await;
    let grant = w.granted().await;
    w.gate.refresh(Duration::from_secs(100_000_000));
    (w, grant)
}

fn ask(w: &World, grant: GrantId) -> Result<crate::gate::PullPermit, &'static str> {
    let peer = Peer { agent: w.requester.agent.clone(), address: "127.0.0.1".parse().unwrap() };
    let ask = Ask { target: Target::Grant(grant), columns: vec![], rows: None, region: None, purpose: None };
    w.gate.pull(&peer, &ask).map_err(|denied| denied.word())
}

async fn whats(w: &World, from: u64) -> Vec<String> {
    let leaves = w.state.leaves(from, 100).await.unwrap();
    leaves.iter().map(|leaf| Leaf::decode(&leaf.bytes).unwrap().what.unwrap_or_default()).collect()
}

async fn say(w: &World, finding: &Finding, act: FindingAct) -> Result<serde_json::Value, RegistryError> {
    w.registry.say_of_finding(&finding.id.to_string(), act, "核查").await
}

async fn sign(w: &World, by: &Member, finding: &Finding, act: FindingAct) -> Result<(), RegistryError> {
    let body = FindingActBody { finding: finding.id, act, reason: "已整改".into() };
    w.hand_in(&by.agent, &by.office_head, body, None).await.map(drop)
}

#[tokio::test]
async fn a_rules_cut_acts_at_once_and_both_sides_read_why_and_by_when() {
    let (w, grant) = granted().await;
    let running = ask(&w, grant).unwrap();
    let before = w.ledger_size().await;
    let finding = w.found(grant).await;
    let cut = running.leash().check().unwrap_err();
    assert!(cut.reason.contains("scope_probing") && cut.reason.contains(&finding.id.to_string()), "{}", cut.reason);
    assert!(cut.reason.contains("2026-12-03T"), "by when: {}", cut.reason);
    assert_eq!(ask(&w, grant).unwrap_err(), "stopped");
    assert_eq!(whats(&w, before).await, ["finding_opened", "stopped"], "in one transaction");
    for side in [&w.requester, &w.provider, &w.authority] {
        let shown = w.show(side, "grant", &grant.to_string()).await.unwrap();
        assert_eq!(shown["stopped"][0]["finding"], finding.id.to_string());
        let shown = w.show(side, "finding", &finding.id.to_string()).await.unwrap();
        assert_eq!((shown["status"].as_str(), shown["rule"].as_str()), (Some("open"), Some("scope_probing")));
        assert!(shown["next"]["zh"].as_str().unwrap().contains("前确认或解除"), "{shown}");
    }
    let inbox = w.registry.read(&w.provider.agent, "inbox", "", "").await.unwrap();
    assert_eq!(inbox.records.last().unwrap().1["act"], "confirm_or_lift");
}

#[tokio::test]
async fn a_blocked_agent_is_shown_with_the_grants_of_its_agency_until_it_is_let_in_again() {
    let (w, grant) = granted().await;
    let shown = async |side| w.show(side, "grant", &grant.to_string()).await.unwrap()["stopped"].clone();
    let selector = Selector::Agent(w.requester.agent.clone());
    w.registry.stop(&Selector::Agent(w.other.agent.clone()), "别家的").await.unwrap();
    w.registry.stop(&selector, "设备遗失").await.unwrap();
    // The blocked agent itself hears why when it asks, and reads nothing.
    for side in [&w.provider, &w.authority] {
        let stopped = shown(side).await;
        assert_eq!(stopped.as_array().unwrap().len(), 1, "{stopped}");
        assert_eq!((&stopped[0]["what"], &stopped[0]["reason"]), (&selector.to_string().into(), &"设备遗失".into()));
        assert_eq!((stopped[0]["since"].is_string(), stopped[0]["finding"].is_null()), (true, true));
    }
    w.registry.resume(&selector, "找到").await.unwrap();
    assert_eq!(shown(&w.requester).await.as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn a_wrong_cut_is_lifted_in_one_command_and_the_ledger_keeps_both() {
    let (w, grant) = granted().await;
    let finding = w.found(grant).await;
    let before = w.ledger_size().await;
    say(&w, &finding, FindingAct::Lift).await.unwrap();
    assert!(ask(&w, grant).is_ok());
    assert_eq!(whats(&w, before).await, ["finding_lifted", "resumed"]);
    assert_eq!(w.registry.take_ended().len(), 1, "the watch hears of it");
    assert_eq!(word(say(&w, &finding, FindingAct::Confirm).await), "wrong_state");
    // `resume` of what a rule stopped is the same.
    let again = w.found(grant).await;
    w.registry.resume(&Selector::Grant(grant), "误判").await.unwrap();
    assert!(ask(&w, grant).is_ok());
    assert_eq!(w.registry.finding(&again.id.to_string()).await.unwrap()["status"], "lifted");
}

#[tokio::test]
async fn what_nobody_confirms_ends_by_itself_and_what_was_confirmed_needs_a_signature() {
    let (w, grant) = granted().await;
    let finding = w.found(grant).await;
    assert!(!w.registry.expire_finding(finding.id, 1).await.unwrap(), "its time is not over");
    w.clock.pass(DAY_MS);
    let before = w.ledger_size().await;
    assert!(w.registry.expire_finding(finding.id, 1).await.unwrap());
    assert_eq!(whats(&w, before).await, ["finding_expired", "resumed"]);
    assert!(ask(&w, grant).is_ok());

    let finding = w.found(grant).await;
    say(&w, &finding, FindingAct::Confirm).await.unwrap();
    w.clock.pass(3 * DAY_MS);
    assert!(!w.registry.expire_finding(finding.id, 1).await.unwrap());
    assert_eq!(ask(&w, grant).unwrap_err(), "stopped");
    assert_eq!(word(say(&w, &finding, FindingAct::Lift).await), "needs_signature");
    assert_eq!(word(w.registry.resume(&Selector::Grant(grant), "r").await), "needs_signature");
    assert_eq!(word(sign(&w, &w.requester, &finding, FindingAct::Lift).await), "not_provider");
    sign(&w, &w.provider, &finding, FindingAct::Lift).await.unwrap();
    assert!(ask(&w, grant).is_ok());
}

#[tokio::test]
async fn under_a_standing_order_a_cut_stands_and_without_it_in_force_it_does_not() {
    let (w, grant) = granted().await;
    let body = w.order_body(&w.provider, Action::CutGrant);
    let order = body.order;
    let taken = w.hand_in(&w.provider.agent, &w.provider.office_head, body, None).await.unwrap();
    let finding = w.found(grant).await;
    let cut = finding.cut.as_ref().unwrap();
    assert_eq!((cut.order, cut.confirm_by), (Some(order), None));
    w.clock.pass(10 * DAY_MS);
    assert!(!w.registry.expire_finding(finding.id, 1).await.unwrap());
    assert_eq!(ask(&w, grant).unwrap_err(), "stopped");
    say(&w, &finding, FindingAct::Lift).await.unwrap();
    // Another rule, a stronger action and another provider's grants are not covered.
    for other in [
        crate::registry::finding::Suspected { rule: Rule::Enumeration, ..w.suspected(grant) },
        crate::registry::finding::Suspected { action: Action::CutAgent, ..w.suspected(grant) },
        crate::registry::finding::Suspected { provider: Some(w.other.code), ..w.suspected(grant) },
    ] {
        let finding = w.registry.suspect(other, DAY_MS).await.unwrap();
        assert!(finding.cut.as_ref().unwrap().confirm_by.is_some(), "{finding:?}");
        say(&w, &finding, FindingAct::Lift).await.unwrap();
    }
    let withdraw = OrderWithdrawalBody { order, reason: "撤销".into() };
    let follows = Some(digest(&taken.json));
    w.hand_in(&w.provider.agent, &w.provider.office_head, withdraw, follows).await.unwrap();
    assert!(w.found(grant).await.cut.unwrap().confirm_by.is_some());
    let shown = w.show(&w.authority, "standing-order", &order.to_string()).await.unwrap();
    assert_eq!((shown["status"].as_str(), shown["reaches"].as_str()), (Some("withdrawn"), Some("own")));
}

#[tokio::test]
async fn an_order_that_the_state_says_more_of_than_was_signed_is_damage() {
    let (w, grant) = granted().await;
    let body = w.order_body(&w.provider, Action::CutGrant);
    let id = body.order.to_string();
    w.hand_in(&w.provider.agent, &w.provider.office_head, body, None).await.unwrap();
    let record = w.state.get(crate::state::Kind::StandingOrder, &id).await.unwrap().unwrap();
    let mut draft = record.to_draft();
    draft.body = String::from_utf8(draft.body).unwrap().replace("2027-03-31", "2036-03-31").into_bytes();
    w.state.commit(crate::state::Change::put(draft, crate::state::Expect::Any)).await.unwrap();
    assert!(w.registry.suspect(w.suspected(grant), DAY_MS).await.is_err());
    assert_eq!(ask(&w, grant).unwrap_err(), "stopped", "and it is cut all the same");
}

#[tokio::test]
async fn a_persons_stop_takes_over_and_a_rule_does_not_touch_one() {
    let (w, grant) = granted().await;
    let finding = w.found(grant).await;
    w.registry.stop(&Selector::Grant(grant), "人工阻断").await.unwrap();
    w.clock.pass(2 * DAY_MS);
    assert!(w.registry.expire_finding(finding.id, 1).await.unwrap());
    assert_eq!(ask(&w, grant).unwrap_err(), "stopped", "the person's stop stands");
    let second = w.found(grant).await;
    say(&w, &second, FindingAct::Lift).await.unwrap();
    assert_eq!(ask(&w, grant).unwrap_err(), "stopped");
    w.registry.resume(&Selector::Grant(grant), "r").await.unwrap();
    assert!(ask(&w, grant).is_ok());
}

#[tokio::test]
async fn an_agent_is_cut_and_let_in_again_and_a_restart_keeps_the_cut() {
    let (w, grant) = granted().await;
    let suspected = crate::registry::finding::Suspected { action: Action::CutAgent, ..w.suspected(grant) };
    let finding = w.registry.suspect(suspected, DAY_MS).await.unwrap();
    assert_eq!(ask(&w, grant).unwrap_err(), "agent_blocked");
    let (registry, gate) = w.restarted().await;
    let blocked = gate.snapshot().agent(&w.requester.agent).unwrap().blocked.clone().unwrap();
    assert!(blocked.contains(&finding.id.to_string()), "{blocked}");
    assert_eq!(registry.open_findings().await.unwrap(), std::slice::from_ref(&finding));
    say(&w, &finding, FindingAct::Lift).await.unwrap();
    assert!(ask(&w, grant).is_ok());
}

#[tokio::test]
async fn observing_only_cuts_nothing_and_repeats_are_one_finding() {
    let (w, grant) = granted().await;
    let observed = crate::registry::finding::Suspected { observe_only: true, ..w.suspected(grant) };
    let finding = w.registry.suspect(observed, DAY_MS).await.unwrap();
    assert!(finding.cut.is_none() && ask(&w, grant).is_ok());
    w.registry.suspect_again(finding.id, 7, Evidence::default()).await.unwrap();
    let shown = w.registry.finding(&finding.id.to_string()).await.unwrap();
    assert_eq!((shown["count"].as_u64(), shown["observe_only"].as_bool()), (Some(8), Some(true)));
    let (all, next) = w.registry.findings("").await.unwrap();
    assert_eq!((all.len(), next.as_str()), (1, ""));
}

#[tokio::test]
async fn a_cut_that_cannot_be_written_stays_cut() {
    let (w, grant) = granted().await;
    w.state.fail_next_commit(CommitFault::Full);
    assert!(w.registry.suspect(w.suspected(grant), DAY_MS).await.is_err());
    assert_eq!(ask(&w, grant).unwrap_err(), "stopped");
}

#[tokio::test]
async fn a_rectification_is_ordered_met_by_reinstatement_or_ends_in_termination() {
    let (w, grant) = granted().await;
    let stands = async || digest(&w.show(&w.provider, "grant", &grant.to_string()).await.unwrap());
    let act = async |act: GrantAct| {
        let body = GrantActBody { grant, act, reason: "补充使用台账".into() };
        w.hand_in(&w.provider.agent, &w.provider.office_head, body, Some(stands().await)).await
    };
    let running = ask(&w, grant).unwrap();
    act(GrantAct::Rectify { by: "2026-12-20".parse().unwrap() }).await.unwrap();
    assert!(running.leash().check().unwrap_err().reason.contains("2026-12-20"), "what, and by when");
    assert_eq!(ask(&w, grant).unwrap_err(), "grant_suspended");
    let waiting = async |of: &Member| -> Vec<String> {
        let inbox = w.registry.read(&of.agent, "inbox", "", "").await.unwrap();
        inbox.records.iter().map(|(_, json)| json["act"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((waiting(&w.requester).await, waiting(&w.provider).await), (vec!["rectify".into()], vec![]));
    w.clock.pass(20 * DAY_MS);
    let shown = w.show(&w.requester, "grant", &grant.to_string()).await.unwrap();
    assert_eq!(shown["rectify"]["overdue"], true);
    assert_eq!(waiting(&w.authority).await, ["reinstate_or_terminate"]);
    act(GrantAct::Rectify { by: "2027-01-20".parse().unwrap() }).await.unwrap();
    assert_eq!(waiting(&w.authority).await, Vec::<String>::new(), "there is time again");
    act(GrantAct::Reinstate).await.unwrap();
    assert!(ask(&w, grant).is_ok());
    act(GrantAct::Rectify { by: "2027-01-20".parse().unwrap() }).await.unwrap();
    act(GrantAct::Terminate).await.unwrap();
    let status = w.gate.snapshot().grant(&w.requester.code, &grant).unwrap().status().clone();
    assert!(matches!(status, GrantStatus::Terminated { .. }));
    assert_eq!(word(act(GrantAct::Rectify { by: "2027-01-20".parse().unwrap() }).await), "wrong_state");
}
