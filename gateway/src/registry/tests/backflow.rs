//! Published lists: from the paper to the gate and back, over a restart.

use super::world::*;
use crate::gate::{FollowAsk, Gate, Peer};
use lingqu_protocol::documents::*;
use std::sync::Arc;

fn follow(gate: &Arc<Gate>, by: &Member) -> &'static str {
    let peer = Peer { agent: by.agent.clone(), address: [127, 0, 0, 1].into() };
    let ask = FollowAsk { entry: CODE.into(), columns: Vec::new() };
    gate.follow(&peer, ask).map_or_else(
        |denied| denied.word(),
        |permit| {
            assert_eq!(permit.allowed().region.own().as_str(), "4403");
            "allowed"
        },
    )
}

#[tokio::test]
async fn a_list_gives_what_it_names_until_it_is_revoked_and_over_a_restart() {
    let w = World::new().await;
    w.published().await;
    w.gate.refresh(std::time::Duration::from_secs(1000));
    assert_eq!(follow(&w.gate, &w.requester), "no_entitlement");
    let (list, digest) = w.listed().await;
    assert_eq!((follow(&w.gate, &w.requester), follow(&w.gate, &w.other)), ("allowed", "no_entitlement"));
    let shown = w.show(&w.requester, "backflow-list", &list.to_string()).await.unwrap();
    assert_eq!((shown["status"].as_str(), shown["own_entries"].as_array().map(Vec::len)), (Some("in_force"), Some(1)));
    let (_, again) = w.restarted().await;
    again.refresh(std::time::Duration::from_secs(1000));
    assert_eq!(follow(&again, &w.requester), "allowed");
    let body = BackflowRevocationBody { list, reason: "清单调整".into() };
    let by = &w.authority;
    w.hand_in(&by.agent, &by.office_head, body.clone(), Some(digest)).await.unwrap();
    assert_eq!(follow(&w.gate, &w.requester), "list_revoked");
    assert_eq!(word(w.hand_in(&by.agent, &by.office_head, body, Some(digest)).await), "wrong_state");
    let (_, again) = w.restarted().await;
    again.refresh(std::time::Duration::from_secs(1000));
    assert_eq!(follow(&again, &w.requester), "list_revoked");
    let acts: Vec<String> = w.leaves().await.into_iter().filter_map(|leaf| leaf.what).collect();
    assert!(acts.iter().any(|act| act == "backflow_list_published"));
    assert!(acts.iter().any(|act| act == "backflow_list_revoked"));
}

#[tokio::test]
async fn a_list_of_what_is_not_there_is_refused() {
    let w = World::new().await;
    let by = &w.authority;
    let body = w.list_body();
    assert_eq!(word(w.hand_in(&by.agent, &by.office_head, body.clone(), None).await), "not_found");
    w.published().await;
    let wrong = BackflowListBody { toml: body.toml.clone() + "items = [\"nothing\"]\n", ..body.clone() };
    assert_eq!(word(w.hand_in(&by.agent, &by.office_head, wrong, None).await), "bad_spec");
    let unread = BackflowListBody { toml: "x".into(), ..body.clone() };
    assert_eq!(word(w.hand_in(&by.agent, &by.office_head, unread, None).await), "bad_spec");
    assert_eq!(word(w.hand_in(&by.agent, &by.clerk, body, None).await), "wrong_role");
}
