//! The outbox: ids that are fixed before the first byte, the same transfer twice, what is listed, resumed, given up.

use lingqu_protocol::ids::TransferId;
use lingqu_tests::world::{bytes_of, seeded_bytes, shared, text};

#[test]
fn the_same_transfer_twice_gives_the_first_receipt() {
    let world = shared();
    let at = world.new_files();
    let file = world.file("f", seeded_bytes(1, 20_000));
    let key = TransferId::from_bits(0x1234_5678_9abc_def0_1122_3344_5566_7788).to_string();
    let args = ["push", "file", &at.entry, file.to_str().unwrap(), "--idempotency-key", &key];
    let agent = &world.provider.agent;
    assert_eq!(text(&agent.run(args).ok(), "id"), key);
    let first = std::fs::read(agent.receipt(&key)).unwrap();
    assert_eq!(text(&agent.run(args).ok(), "id"), key);
    assert_eq!(std::fs::read(agent.receipt(&key)).unwrap(), first);

    // An agent that lost its outbox asks the gateway, which answers with the same receipt.
    let outbox = agent.profile().join("outbox");
    for ending in ["json", "lock"] {
        // There may be none: then the receipt came from somewhere else, which the next lines show.
        let _missing = std::fs::remove_file(outbox.join(format!("{key}.{ending}")));
    }
    std::fs::remove_file(agent.receipt(&key)).unwrap();
    agent.run(args).ok();
    let again = std::fs::read(agent.receipt(&key)).unwrap();
    assert_eq!(again, first, "byte for byte");
    let out = world.path("out/");
    let args = ["pull", &at.grant, "--version", "2", "--out", out.to_str().unwrap()];
    world.requester.agent.run(args).fails(3);

    // The same id for other content is refused.
    let other = world.file("g", seeded_bytes(2, 20_001));
    let args = ["push", "file", &at.entry, other.to_str().unwrap(), "--idempotency-key", &key];
    let ran = agent.run(args);
    assert!(matches!(ran.code, Some(2 | 7)), "{ran}");
}

#[test]
fn what_is_queued_is_listed_shown_and_resumed() {
    let world = shared();
    let at = world.new_files();
    let file = world.file("later", seeded_bytes(3, 100_000));
    let agent = &world.provider.agent;
    let queued = agent.run(["push", "file", &at.entry, file.to_str().unwrap(), "--queue"]);
    assert_eq!(queued.code, Some(8), "{queued}");
    let id = text(&queued.json(), "id").to_owned();
    assert!(agent.transfers("queued").contains(&id));
    let shown = agent.run(["transfer", "show", &id]).ok();
    assert_eq!((text(&shown, "id"), text(&shown, "state")), (id.as_str(), "queued"));
    let out = world.path("out/");
    world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).fails(3);
    agent.run(["transfer", "resume", &id]).ok();
    assert_eq!(text(&agent.run(["transfer", "show", &id]).ok(), "state"), "done");
    // What is done has a receipt, and nothing to go on with: that is no error.
    agent.run(["transfer", "resume", &id]).ok();
    world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).ok();
    assert_eq!(bytes_of(&out), [("later".to_owned(), seeded_bytes(3, 100_000))].into());
    world.requester.agent.run(["pull", &at.grant, "--version", "2", "--out", "/nowhere/x"]).fails(2);
}

#[test]
fn what_is_given_up_is_gone() {
    let world = shared();
    let at = world.new_files();
    let file = world.file("never", seeded_bytes(4, 100_000));
    let agent = &world.provider.agent;
    let queued = agent.run(["push", "file", &at.entry, file.to_str().unwrap(), "--queue"]);
    let id = text(&queued.json(), "id").to_owned();
    agent.run(["transfer", "cancel", &id]).ok();
    let resumed = agent.run(["transfer", "resume", &id]);
    assert!(matches!(resumed.code, Some(2 | 3 | 7)), "{resumed}");
    let unknown = TransferId::from_bits(5).to_string();
    agent.run(["transfer", "show", &unknown]).fails(3);
    agent.run(["transfer", "cancel", &unknown]).fails(3);
}

#[test]
fn a_source_that_changes_in_between_is_bad_data() {
    let world = shared();
    let at = world.new_files();
    let file = world.file("changes", seeded_bytes(5, 100_000));
    let agent = &world.provider.agent;
    let queued = agent.run(["push", "file", &at.entry, file.to_str().unwrap(), "--queue"]);
    let id = text(&queued.json(), "id").to_owned();
    std::fs::write(&file, seeded_bytes(6, 100_001)).unwrap();
    agent.run(["transfer", "resume", &id]).fails(7);
    let out = world.path("out/");
    world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).fails(3);
}
