//! What an operator sees, and what a restart keeps.

use lingqu_tests::world::{World, bytes_of, seeded_bytes, shared, text};

#[test]
fn health_readiness_and_metrics_answer() {
    let world = shared();
    assert_eq!(world.gateway.get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(world.gateway.get("/readyz"), (200, "ready\n".to_owned()));
    let (status, page) = world.gateway.get("/metrics");
    assert_eq!(status, 200);
    let names = page.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
    assert!(names.clone().count() > 3 && names.clone().all(|l| l.starts_with("lingqu_")), "{page}");
    assert_eq!(world.gateway.get("/nothing").0, 404);
}

#[test]
fn what_passes_is_counted() {
    let mut world = World::stopped();
    world.gateway.start();
    let file = world.file("f", seeded_bytes(1, 1_000_000));
    world.provider.agent.run(["push", "file", &world.files.entry, file.to_str().unwrap()]).ok();
    let out = world.path("out/");
    world.requester.agent.run(["pull", &world.files.grant, "--out", out.to_str().unwrap()]).ok();
    assert_eq!(world.gateway.metric("lingqu_received_bytes_total"), 1_000_000.0);
    assert_eq!(world.gateway.metric("lingqu_sent_bytes_total"), 1_000_000.0);
}

#[test]
fn a_restart_keeps_everything() {
    let mut world = World::new();
    let bytes = seeded_bytes(1, 2_000_000);
    let file = world.file("f", &bytes);
    let pushed = world.provider.agent.run(["push", "file", &world.files.entry, file.to_str().unwrap()]).ok();
    let listed = |world: &World| {
        let catalogue = world.requester.agent.run(["catalogue", "list"]).ok();
        let grants = world.requester.agent.run(["grant", "list"]).ok();
        let agencies = world.gateway.run(["agency", "list"]).ok();
        (catalogue, grants, agencies)
    };
    let before = listed(&world);
    assert_eq!(before.1.as_array().map(Vec::len), Some(2), "{}", before.1);
    let ended = world.gateway.terminate();
    assert_eq!(ended.code, Some(0), "{ended}");
    world.gateway.start();
    assert_eq!(listed(&world), before);
    world.gateway.restart();
    assert_eq!(listed(&world), before, "and after kill -9");
    let out = world.path("out/");
    world.requester.agent.run(["pull", &world.files.grant, "--out", out.to_str().unwrap()]).ok();
    assert_eq!(bytes_of(&out), [("f".to_owned(), bytes)].into());
    let receipt = world.provider.agent.receipt(text(&pushed, "id"));
    world.provider.agent.run(["receipt", "verify", receipt.to_str().unwrap()]).ok();
    world.gateway.run(["ledger", "verify"]).ok();
    world.gateway.run(["check"]).ok();
}

#[test]
fn errors_have_words_reasons_and_what_to_do_next() {
    let world = shared();
    let error = world.requester.agent.run(["pull", "307010/999999", "--out", "/tmp/x-none.parquet"]).fails(3);
    for field in ["word", "text", "text_zh", "next", "next_zh", "where"] {
        assert!(!text(&error, field).is_empty(), "{field}: {error}");
    }
    assert_eq!(error["exit_code"], 3);
    let usage = world.requester.agent.run(["pull"]);
    assert_eq!(usage.code, Some(2), "{usage}");
}
