//! The ledger of a gateway that ran: whoever changes one record of it is found, by the place that was changed.

use lingqu_protocol::leaf::{Leaf, LeafKind};
use lingqu_tests::world::{World, seeded_bytes, text};
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Row};
use std::path::Path;

/// Some leaves: what the template made, a push and a pull.
fn world_with_history() -> World {
    let mut world = World::new();
    let file = world.file("f", seeded_bytes(1, 1_000));
    world.provider.agent.run(["push", "file", &world.files.entry, file.to_str().unwrap()]).ok();
    let out = world.path("out/");
    world.requester.agent.run(["pull", &world.files.grant, "--out", out.to_str().unwrap()]).ok();
    world.requester.agent.run(["pull", &world.table.entry, "--columns", "note", "--out", "-"]).fails(3);
    let ended = world.gateway.terminate();
    assert_eq!(ended.code, Some(0), "{ended}");
    world
}

/// Runs statements against the file of the state, as someone with a shell on the gateway could.
fn tamper(file: &Path, statements: &[&str]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut state = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(file)).await.unwrap();
        for statement in statements {
            let done = sqlx::query(sqlx::AssertSqlSafe(*statement)).execute(&mut state).await.unwrap();
            assert!(done.rows_affected() > 0, "{statement} changed nothing");
        }
        state.close().await.unwrap();
    });
}

fn leaves(file: &Path) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut state = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(file)).await.unwrap();
        let row = sqlx::query("SELECT count(*) FROM leaves").fetch_one(&mut state).await.unwrap();
        row.get::<i64, _>(0) as u64
    })
}

/// Refusals of known agents, as the ledger counts them: how many leaves, and how many in all.
fn refusals(file: &Path) -> (usize, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let leaves: Vec<Leaf> = runtime.block_on(async {
        let mut state = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(file)).await.unwrap();
        let rows = sqlx::query("SELECT bytes FROM leaves").fetch_all(&mut state).await.unwrap();
        rows.iter().map(|row| Leaf::decode(&row.get::<Vec<u8>, _>(0)).unwrap()).collect()
    });
    let ours = leaves.iter().filter(|leaf| leaf.kind == LeafKind::Denied && leaf.agent.is_some());
    let counts: Vec<u64> = ours.map(|leaf| leaf.count.unwrap()).collect();
    (counts.len(), counts.iter().sum())
}

#[test]
fn a_refusal_is_in_the_ledger_though_the_gateway_is_killed_at_once_and_a_clean_end_keeps_the_count() {
    let mut world = World::new();
    let refuse = |world: &World| {
        for _ in 0..3 {
            world.requester.agent.run(["pull", &world.table.entry, "--columns", "note", "--out", "-"]).fails(3);
        }
    };
    refuse(&world);
    world.gateway.kill();
    let (leaves, counted) = refusals(&world.gateway.state_file());
    assert!(leaves >= 1 && counted <= 3, "{leaves} leaves, {counted} refusals");
    world.gateway.start();
    refuse(&world);
    assert_eq!(world.gateway.terminate().code, Some(0));
    assert_eq!(
        refusals(&world.gateway.state_file()).1,
        counted + 3,
        "the running minute is counted when the gateway ends"
    );
}

fn verify(world: &World) -> Value {
    let error = world.gateway.run(["ledger", "verify"]).fails(5);
    assert!(!text(&error, "next").is_empty(), "{error}");
    error
}

#[test]
fn a_ledger_that_nobody_touched_verifies() {
    let world = world_with_history();
    let verified = world.gateway.run(["ledger", "verify"]).ok();
    let size = verified["size"].as_u64().unwrap();
    assert_eq!(size, leaves(&world.gateway.state_file()));
    assert!(size > 10, "every registry change and every permit has its leaf: {size}");
}

#[test]
fn an_edited_leaf_is_named() {
    let world = world_with_history();
    // One character of one field, of the same length.
    let edit = "UPDATE leaves SET bytes = CAST(replace(CAST(bytes AS TEXT), 'pull', 'push') AS BLOB) WHERE leaf_index = \
                (SELECT min(leaf_index) FROM leaves WHERE instr(CAST(bytes AS TEXT), 'pull') > 0)";
    let file = world.gateway.state_file();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let index = runtime.block_on(async {
        let mut state = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&file)).await.unwrap();
        let find = "SELECT min(leaf_index) FROM leaves WHERE instr(CAST(bytes AS TEXT), 'pull') > 0";
        sqlx::query(find).fetch_one(&mut state).await.unwrap().get::<i64, _>(0)
    });
    tamper(&file, &[edit]);
    let error = verify(&world);
    assert!(text(&error, "text").contains(&index.to_string()), "leaf {index}: {error}");
}

#[test]
fn an_edited_commitment_is_named() {
    let world = world_with_history();
    let edit = "UPDATE leaves SET payload = CAST('another' AS BLOB) WHERE leaf_index = \
                (SELECT max(leaf_index) FROM leaves WHERE payload IS NOT NULL)";
    tamper(&world.gateway.state_file(), &[edit]);
    verify(&world);
}

#[test]
fn a_deleted_leaf_is_named() {
    let world = world_with_history();
    tamper(&world.gateway.state_file(), &["DELETE FROM leaves WHERE leaf_index = 5"]);
    let error = verify(&world);
    assert!(text(&error, "text").contains('5'), "{error}");
}

#[test]
fn two_leaves_in_another_order_are_named() {
    let world = world_with_history();
    tamper(
        &world.gateway.state_file(),
        &[
            "UPDATE leaves SET leaf_index = 1000000 WHERE leaf_index = 4",
            "UPDATE leaves SET leaf_index = 4 WHERE leaf_index = 6",
            "UPDATE leaves SET leaf_index = 6 WHERE leaf_index = 1000000",
        ],
    );
    let error = verify(&world);
    assert!(text(&error, "text").contains('4'), "{error}");
}

#[test]
fn a_cut_tail_is_found_with_a_checkpoint_that_an_agent_kept() {
    let world = world_with_history();
    let size = leaves(&world.gateway.state_file());
    let last = size - 6;
    let keep = format!("DELETE FROM heads WHERE size > {last}");
    let cut = format!("DELETE FROM leaves WHERE leaf_index >= {last}");
    tamper(&world.gateway.state_file(), &[&cut, &keep]);
    let kept = std::fs::read_dir(world.requester.agent.profile().join("checkpoints")).unwrap();
    let kept = kept.map(|f| f.unwrap().path()).find(|f| f.is_file()).expect("the agent keeps a checkpoint");
    let ran = world.gateway.run(["ledger", "verify", "--checkpoint", kept.to_str().unwrap()]);
    assert_eq!(ran.code, Some(5), "{ran}");
}

#[test]
fn a_gateway_does_not_serve_what_the_root_did_not_sign() {
    let world = world_with_history();
    let edit = "UPDATE records SET body = CAST(replace(CAST(body AS TEXT), '4403', '4401') AS BLOB) \
                 WHERE kind = 'agency' AND instr(CAST(body AS TEXT), '4403') > 0";
    tamper(&world.gateway.state_file(), &[edit]);
    let ran = world.gateway.run(["check"]);
    assert_ne!(ran.code, Some(0), "{ran}");
}
