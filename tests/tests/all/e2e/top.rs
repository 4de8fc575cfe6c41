//! The live view as programs have it, and the stop that its row stands for.

use lingqu_tests::world::data::write_parquet;
use lingqu_tests::world::{Running, World, registrations, seeded_bytes, text, wait_until};
use serde_json::Value;
use std::io::Read as _;

fn top(world: &World) -> Value {
    world.gateway.run(["top", "--once"]).ok()
}

#[test]
fn top_says_what_runs_what_passed_and_what_is_stopped() {
    let world = World::new();
    let quiet = top(&world);
    assert_eq!((quiet["open"].as_bool(), quiet["running"].as_u64()), (Some(true), Some(0)), "{quiet}");
    let file = world.file("f", seeded_bytes(1, 3_000_000));
    world.provider.agent.run(["push", "file", &world.files.entry, file.to_str().unwrap()]).ok();
    let pushed = top(&world);
    let agency = &pushed["agencies"][0];
    assert_eq!((text(agency, "id"), agency["in_bytes"].as_u64()), (world.provider.code.as_str(), Some(3_000_000)));
    assert_eq!((agency["ended"].as_u64(), agency["out_bytes"].as_u64()), (Some(1), Some(0)));

    // A pull whose reader holds it up.
    let code = "307010/820000".to_owned();
    let entry = world.publish(&lingqu_tests::world::table_entry_toml(&code));
    let at = world.granted(entry, code, "columns = [\"region\", \"credit_code\", \"note\", \"operator_name\"]");
    let rows = world.path("rows.parquet");
    write_parquet(&rows, &registrations(1, 600_000));
    world.provider.agent.run(["push", "batch", &at.entry, rows.to_str().unwrap()]).ok();
    let (running, mut out) = Running::start_unread(world.requester.agent.command(["pull", &at.grant, "--out", "-"]));
    out.read_exact(&mut [0; 10_000]).unwrap();
    let held = |seen: &Value| seen["transfers"][0]["waits_for"] == "reader";
    wait_until("the pull is seen to be held", || held(&top(&world)));
    let seen = top(&world);
    let row = &seen["transfers"][0];
    assert_eq!((text(row, "way"), text(row, "grant")), ("pull", at.grant.as_str()), "{row}");
    assert!(text(row, "agent").starts_with(&world.requester.code) && text(row, "entry_name").contains("307010/820000"));
    let grant = seen["grants"].as_array().unwrap().iter().find(|g| g["id"] == at.grant.as_str()).unwrap();
    assert!(grant["out_bytes"].as_u64() > Some(0) && grant["running"] == 1, "{grant}");

    // What the row's stop does.
    world.gateway.stop(&["--grant", text(row, "grant")], "测试阻断");
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    let ended = running.wait();
    assert_eq!(ended.code, Some(4), "{ended}");
    let stopped = top(&world);
    assert_eq!(stopped["running"], 0, "{stopped}");
    assert_eq!(text(&stopped["stops"][0], "selector"), format!("grant:{}", at.grant));
    assert_eq!(text(&stopped["stops"][0], "reason"), "测试阻断");
}

#[test]
fn top_needs_a_gateway_and_a_terminal_or_once() {
    let mut world = World::new();
    let error = world.gateway.run(["top"]).ok();
    assert_eq!(text(&error, "id"), "top", "--json is one look");
    world.gateway.terminate();
    let error = world.gateway.run(["top", "--once"]).fails(6);
    assert!(text(&error, "text").contains("no gateway runs"), "{error}");
}
