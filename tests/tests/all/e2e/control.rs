//! Taking a permission back while data flows, and ending a gateway while data flows.

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use lingqu_tests::world::data::{with_column, write_parquet};
use lingqu_tests::world::{
    Granted, Running, World, bytes_of, read_arrow, registrations, seeded_bytes, text, wait_until,
};
use rustix::process::Signal;
use std::io::Read;
use std::process::ChildStdout;
use std::sync::Arc;
use std::time::Duration;

/// A table with so many bytes in the requester's rows that no window or pipe holds them all.
pub(super) fn large_table(world: &World) -> Granted {
    let code = "307010/800000".to_owned();
    let entry = world.publish(&lingqu_tests::world::table_entry_toml(&code));
    let at = world.granted(entry, code, "columns = [\"region\", \"credit_code\", \"note\"]");
    let file = world.path("large.parquet");
    write_parquet(&file, &large_rows(60_000_000));
    world.provider.agent.run(["push", "batch", &at.entry, file.to_str().unwrap()]).ok();
    at
}

fn large_rows(bytes: usize) -> RecordBatch {
    let cell_bytes = 4_000;
    let rows = bytes / cell_bytes;
    let cell = |i: usize| lingqu_tests::world::b3sum(&i.to_le_bytes()).repeat(cell_bytes / 64);
    let notes: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(cell)));
    with_column(&registrations(1, rows), "note", notes)
}

/// A pull to standard output whose reader has stopped after the first bytes.
pub(super) fn held_pull(world: &World, grant: &str) -> (Running, ChildStdout, Vec<u8>) {
    let (running, mut out) = Running::start_unread(world.requester.agent.command(["pull", grant, "--out", "-"]));
    let mut first = vec![0; 100_000];
    out.read_exact(&mut first).unwrap();
    (running, out, first)
}

/// Reads the rest, and checks that the receiver knows that it is incomplete.
pub(super) fn must_be_cut(world: &World, (running, mut out, mut got): (Running, ChildStdout, Vec<u8>), word: &str) {
    out.read_to_end(&mut got).unwrap();
    let ran = running.wait();
    assert_eq!(ran.code, Some(4), "{ran}");
    assert_eq!(text(&ran.error(), "word"), word, "{ran}");
    assert!(got.len() < 50_000_000, "{} bytes came in spite of the cut", got.len());
    assert_eq!(read_arrow(&got).map(|_| ()), Err("the stream has no end marker".into()));
    assert_eq!(world.requester.agent.transfers("done").len(), 0, "no receipt for what is incomplete");
}

#[test]
fn a_suspension_cuts_a_pull_that_its_reader_holds_up() {
    let world = World::new();
    let at = large_table(&world);
    let held = held_pull(&world, &at.grant);
    let suspended = world.provider.agent.run(["grant", "suspend", &at.grant, "--reason", "超范围使用"]).ok();
    assert_eq!(text(&suspended, "id"), at.grant);
    must_be_cut(&world, held, "grant_suspended");

    let out = world.path("again.parquet");
    let args = ["pull", &at.grant, "--out", out.to_str().unwrap()];
    let error = world.requester.agent.run(args).fails(4);
    assert!(text(&error, "text").contains("超范围使用"), "{error}");
    let office = world.provider.office();
    let reinstate = ["grant", "reinstate", &at.grant, "--reason", "已整改", "--key", office];
    world.provider.agent.run(reinstate).ok();
    world.requester.agent.run(args).ok();
    let terminate = ["grant", "terminate", &at.grant, "--reason", "到期不再需要", "--key", office];
    world.provider.agent.run(terminate).ok();
    let args = ["pull", &at.grant, "--out", "-"];
    world.requester.agent.run(args).fails(4);
    world.gateway.run(["ledger", "verify"]).ok();
}

#[test]
fn the_operator_stops_everything_and_lets_go_again() {
    let mut world = World::new();
    let at = large_table(&world);
    let held = held_pull(&world, &at.grant);
    world.gateway.stop(&["--all"], "安全事件");
    must_be_cut(&world, held, "stopped");
    let file = world.file("f", seeded_bytes(1, 1_000));
    let push = ["push", "file", &world.files.entry, file.to_str().unwrap()];
    world.provider.agent.run(push).fails(4);
    world.gateway.restart();
    world.provider.agent.run(push).fails(4);
    world.gateway.resume(&["--all"], "已处置");
    world.provider.agent.run(push).ok();
    let pulled = world.requester.agent.run(["pull", &at.grant, "--out", "-"]);
    assert_eq!(pulled.code, Some(0), "{}", pulled.stderr);
    assert!(read_arrow(&pulled.stdout).is_ok());
}

#[test]
fn each_stop_stops_what_it_names_and_nothing_else() {
    let world = World::new();
    let file = world.file("f", seeded_bytes(1, 1_000));
    let push = || world.provider.agent.run(["push", "file", &world.files.entry, file.to_str().unwrap()]);
    push().ok();
    let pull = || {
        let out = world.path("out/");
        world.requester.agent.run(["pull", &world.files.grant, "--out", out.to_str().unwrap()])
    };
    let agent = format!("{}/main", world.requester.code);
    for (selector, pushes, pulls) in [
        (["--agency", world.requester.code.as_str()], 0, 4),
        (["--agent", agent.as_str()], 0, 4),
        (["--entry", world.files.entry.as_str()], 4, 4),
        (["--entry", world.files.code.as_str()], 4, 4),
        (["--grant", world.files.grant.as_str()], 0, 4),
        (["--grant", world.table.grant.as_str()], 0, 0),
        (["--agency", world.provider.code.as_str()], 4, 0),
    ] {
        world.gateway.stop(&selector, "测试");
        assert_eq!(push().code, Some(pushes), "push under a stop of {selector:?}");
        let pulled = pull();
        assert_eq!(pulled.code, Some(pulls), "pull under a stop of {selector:?}: {pulled}");
        world.gateway.resume(&selector, "测试");
        assert_eq!((push().code, pull().code), (Some(0), Some(0)), "after {selector:?}");
    }
    // A code that nothing has stops nothing, and its error names it.
    let refused = world.gateway.run(["stop", "--entry", "300001/999999", "--reason", "测试"]).fails(2);
    assert!(text(&refused, "text").contains("300001/999999"), "{refused}");
}

#[test]
fn a_drain_parks_what_runs_and_it_goes_on_later() {
    let mut world = World::new();
    let bytes = seeded_bytes(7, 150_000_000);
    let file = world.file("large", &bytes);
    let push = world.provider.agent.start(["push", "file", &world.files.entry, file.to_str().unwrap()]);
    wait_until("some of it is durable", || world.gateway.metric("lingqu_received_bytes_total") > 10_000_000.0);
    // An agent that does not answer any more does not hold a drain up.
    push.signal(Signal::STOP);
    world.gateway.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(200));
    assert!(world.gateway.is_running(), "what runs may end");
    assert_eq!(world.gateway.get("/readyz").0, 503);
    // The second signal parks what still runs.
    let drained = world.gateway.terminate();
    assert_eq!(drained.code, Some(0), "{drained}");
    push.signal(Signal::CONT);
    world.gateway.start();
    let ran = push.wait();
    let agent = &world.provider.agent;
    if ran.code != Some(0) {
        // It gave up before the gateway was back: the transfer is parked, and goes on.
        assert_eq!(ran.code, Some(6), "{ran}");
        let waiting = agent.transfers("interrupted");
        assert_eq!(waiting.len(), 1, "{waiting:?}");
        agent.run(["transfer", "resume", &waiting[0]]).ok();
    }
    let received = world.gateway.metric("lingqu_received_bytes_total");
    assert!(received < 145_000_000.0, "{received} bytes came again though some were durable");
    let out = world.path("out/");
    world.requester.agent.run(["pull", &world.files.grant, "--out", out.to_str().unwrap()]).ok();
    assert!(bytes_of(&out)["large"] == bytes);
}

#[test]
fn a_stopped_process_does_not_keep_its_transfer() {
    let world = World::new();
    let bytes = seeded_bytes(8, 100_000_000);
    let file = world.file("large", &bytes);
    let push = world.provider.agent.start(["push", "file", &world.files.entry, file.to_str().unwrap()]);
    wait_until("some of it is durable", || world.gateway.metric("lingqu_received_bytes_total") > 10_000_000.0);
    push.signal(Signal::STOP);
    // Another process cannot take it while its owner may still run.
    let id = world.provider.agent.transfers("running").pop().unwrap();
    let refused = world.provider.agent.run(["transfer", "resume", &id]);
    assert_eq!(refused.code, Some(2), "{refused}");
    push.kill();
    world.provider.agent.run(["transfer", "resume", &id]).ok();
    let out = world.path("out/");
    world.requester.agent.run(["pull", &world.files.grant, "--out", out.to_str().unwrap()]).ok();
    assert!(bytes_of(&out)["large"] == bytes);
}
