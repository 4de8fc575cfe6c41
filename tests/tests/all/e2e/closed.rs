//! When in doubt, closed: a real gateway whose clock lies behind its ledger, and one whose disk takes no more.

use super::control::large_table;
use lingqu_certs::os::{OsEntropy, SystemClock};
use lingqu_gateway::ledger::Entry;
use lingqu_gateway::state::{Change, SqliteState, State as _};
use lingqu_protocol::host::Clock as _;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::leaf::LeafKind;
use lingqu_protocol::wire::{Pull, PullStart, Step, reply, request, step};
use lingqu_tests::world::raw::{Raw, fault, runtime};
use lingqu_tests::world::{World, text, wait_until};

fn pull(target: &str) -> request::Ask {
    let transfer = TransferId::random(&OsEntropy::new()).unwrap().to_string();
    request::Ask::Pull(Pull { transfer, target: target.into(), ..Pull::default() })
}

#[test]
fn a_clock_behind_the_ledger_gives_no_permits_and_the_operator_sees_why() {
    let mut world = World::stopped();
    runtime().block_on(async {
        let state = SqliteState::open(&world.gateway.state_file()).await.unwrap();
        let ahead = SystemClock::new().wall().plus_ms(3_600_000);
        let leaf = Entry::new(LeafKind::RegistryAct, ahead).what("test").seal(&OsEntropy::new()).unwrap();
        state.commit(Change { leaves: vec![leaf], ..Change::default() }).await.unwrap();
        state.close().await;
    });
    world.gateway.start();
    let (status, body) = world.gateway.get("/readyz");
    assert_eq!((status, body.lines().next()), (503, Some("closed: clock_unsure")));
    assert!(body.contains("time service") && body.contains("时间同步"), "{body}");
    let found = world.gateway.run(["check"]).ok();
    assert_eq!((found["gate"]["open"].as_bool(), text(&found["gate"], "why")), (Some(false), "clock_unsure"));
    assert_eq!(world.gateway.metric("lingqu_gate_open"), 0.0);
    assert_eq!(world.gateway.metric("lingqu_gate_closed{reason=\"clock_unsure\"}"), 1.0);
    assert!(world.gateway.log().contains("the gate is closed"));
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        let (fault, _) = dialled.refused(pull(&world.table.grant)).await;
        assert_eq!(fault.word, "clock_unsure", "{fault:?}");
    });
}

#[test]
fn a_ledger_that_cannot_be_written_cuts_what_runs_and_opens_when_it_can() {
    let mut world = World::stopped();
    world.gateway.start_for_file_limits();
    let at = large_table(&world);
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        let mut control = dialled.request(pull(&at.grant)).await;
        assert!(matches!(control.reply().await.unwrap(), reply::Reply::PullReady(_)));
        control.writer.message(&Step::from(step::Step::PullStart(PullStart::default()))).await.unwrap();
        // Its data is not read: the windows are full, and it waits.
        let _data = dialled.data_stream().await;
        world.gateway.limit_files(Some(0));
        let (cut, _) = fault(&mut control.reader).await;
        assert_eq!(cut.word, "ledger_failed", "{cut:?}");
        let (status, body) = world.gateway.get("/readyz");
        assert_eq!((status, body.lines().next()), (503, Some("closed: ledger_failed")));
        let (refused, _) = dialled.refused(pull(&at.grant)).await;
        assert_eq!(refused.word, "ledger_failed", "{refused:?}");
        assert_eq!(text(&world.gateway.run(["check"]).ok()["gate"], "why"), "ledger_failed");
    });
    world.gateway.limit_files(None);
    // Where a sync failed only another process goes on; else the gate opens by itself.
    if world.gateway.get("/readyz").0 != 200 && world.gateway.log().contains("open it again") {
        world.gateway.kill();
        world.gateway.start();
    }
    wait_until("the gate opens again", || world.gateway.get("/readyz").0 == 200);
    let out = world.path("rows.parquet");
    world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).ok();
    world.gateway.run(["ledger", "verify"]).ok();
}
