//! A machine that was off for too long renews with its expired certificate, where the operator approved it.

use lingqu_tests::world::raw::expire;
use lingqu_tests::world::{Agent, Gateway, World, text};

fn approve(gateway: &Gateway, agent: &str) {
    let approved = gateway.run(["renewal", "approve", agent, "--ttl", "2h"]).ok();
    assert_eq!((text(&approved, "id"), text(&approved, "status")), (agent, "open"));
}

/// `renew` and any other command are told what the operator has to type.
fn is_kept_out(agent: &Agent, name: &str) {
    for command in ["renew", "status"] {
        let error = agent.run([command]).fails(4);
        assert_eq!(text(&error, "word"), "certificate_expired");
        assert!(text(&error, "next").contains(&format!("lingqu-gateway renewal approve {name}")), "{error}");
    }
}

#[test]
fn an_expired_agent_renews_once_under_an_approval_and_under_nothing_else() {
    let mut world = World::new();
    let (name, other) = (format!("{}/main", world.requester.code), format!("{}/main", world.other.code));
    let agent = world.requester.agent.clone();
    expire(&world.gateway, &agent);
    is_kept_out(&agent, &name);
    assert_eq!(world.gateway.run(["renewal", "list"]).ok(), serde_json::json!([]));
    approve(&world.gateway, &other);
    is_kept_out(&agent, &name);

    approve(&world.gateway, &name);
    // An approval is in the state: a gateway that starts again knows it.
    world.gateway.restart();
    let renewed = agent.run(["renew"]).ok();
    assert_eq!(text(&renewed, "id"), name);
    agent.run(["status"]).ok();
    let list = world.gateway.run(["renewal", "list"]).ok();
    let of = |name: &str| list.as_array().unwrap().iter().find(|r| r["id"] == name).unwrap()["status"].clone();
    assert_eq!((of(&name), of(&other)), ("used".into(), "open".into()));

    expire(&world.gateway, &agent);
    is_kept_out(&agent, &name);
    approve(&world.gateway, &name);
    world.gateway.run(["renewal", "withdraw", &name]).ok();
    is_kept_out(&agent, &name);
    let error = world.gateway.run(["renewal", "withdraw", &name]).fails(3);
    assert!(text(&error, "next").contains("renewal list"), "{error}");

    approve(&world.gateway, &name);
    world.gateway.stop(&["--agent", &name], "设备遗失");
    agent.run(["renew"]).fails(4);
    world.gateway.resume(&["--agent", &name], "已找回");
    // Any command renews on its way, and goes on with what it was asked.
    agent.run(["grant", "list"]).ok();
    is_kept_out_of_more(&world.gateway, &name);
    world.gateway.run(["ledger", "verify"]).ok();
}

/// What an operator types wrong.
fn is_kept_out_of_more(gateway: &Gateway, name: &str) {
    let code = name.split('/').next().unwrap();
    let error = gateway.run(["renewal", "approve", &format!("{code}/nobody")]).fails(3);
    assert!(text(&error, "next").contains("agent list"), "{error}");
    gateway.run(["renewal", "approve", "nobody"]).fails(2);
    gateway.run(["renewal", "approve", name, "--ttl", "8d"]).fails(7);
    let agents = gateway.run(["agent", "list"]).ok();
    assert!(agents.as_array().unwrap().iter().any(|a| a["id"] == name && a["status"] == "active"), "{agents}");
}
