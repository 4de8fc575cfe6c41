//! Backflow by the programs as they run: a list that the authority signed, rows that a provider pushed, a department that
//! follows; and a gateway that is killed at each point of a slice.

use lingqu_protocol::frame::Event;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::ipc::{BatchRoot, Decoder};
use lingqu_protocol::rows::RowsDigest;
use lingqu_protocol::wire::{Cursor, Follow, SliceAck, SliceEnd, Step, reply, request, step};
use lingqu_tests::world::{Dialled, Granted, Raw, World, read_parquet, registrations, runtime, text};
use std::path::PathBuf;
use std::time::Duration;

const ROWS: usize = 2_000;

/// An entry with rows, and a list that gives it to the requester.
fn listed(world: &World) -> (Granted, PathBuf, String) {
    let at = world.new_table();
    let file = world.path("rows.parquet");
    lingqu_tests::world::data::write_parquet(&file, &registrations(7, ROWS));
    world.provider.agent.run(["push", "batch", &at.entry, file.to_str().unwrap()]).ok();
    let toml = format!(
        "name = \"回流清单\"\n[[backflow]]\nentry = \"{}\"\nto = [\"{}\"]\nlevels = [\"city\"]\nduty = \"监管\"\n",
        at.code, world.requester.code
    );
    let list = world.file("list.toml", toml);
    let args = ["backflow-list", "publish", list.to_str().unwrap(), "--key", world.authority.office()];
    let published = world.authority.agent.run(args).ok();
    (at, file, text(&published, "id").to_owned())
}

/// Follows once from a cursor: what came, and the last end record; how it ended where it did not end well.
async fn once(
    dialled: &Dialled,
    entry: &str,
    cursor: Option<Cursor>,
    ack: bool,
) -> Result<(Vec<arrow::array::RecordBatch>, Option<SliceEnd>), String> {
    let subscription = TransferId::from_bits(77).to_string();
    let sink = "folder".to_owned();
    let ask = Follow { subscription, entry: entry.into(), cursor, once: true, sink, columns: vec![], lz4: true };
    let mut control = dialled.request(request::Ask::Follow(ask)).await;
    let (mut batches, mut last) = (Vec::new(), None);
    loop {
        let reply = tokio::time::timeout(Duration::from_secs(20), control.reply()).await.map_err(|e| e.to_string())?;
        match reply.map_err(|e| e.to_string())? {
            reply::Reply::FollowReady(_) | reply::Reply::SliceTaken(_) => {}
            reply::Reply::Slice(slice) if slice.rows > 0 => {
                let recv = dialled.session.channel();
                let recv = lingqu_protocol::stream::Channel::accept_uni(recv).await.map_err(|e| e.to_string())?;
                let mut data = lingqu_protocol::session::FrameReader::new(recv).taking_lz4();
                let (mut decoder, mut root, mut digest) =
                    (Decoder::default(), BatchRoot::default(), None::<RowsDigest>);
                while let Some(event) = data.next().await.map_err(|e| e.to_string())? {
                    let Event::Batch(body) = event else { continue };
                    root.add([&body[..]]);
                    let Some(batch) = decoder.decode(body).unwrap() else { continue };
                    digest
                        .get_or_insert_with(|| RowsDigest::of_schema(&batch.schema()).unwrap())
                        .update(&batch)
                        .unwrap();
                    batches.push(batch);
                }
                let end = match control.reply().await.map_err(|e| e.to_string())? {
                    reply::Reply::SliceEnd(end) => end,
                    other => return Err(format!("{other:?}")),
                };
                assert_eq!(end.bytes_root, root.digest().to_string());
                assert_eq!(end.rows_digest, digest.unwrap().finish().to_string());
                last = Some(end.clone());
                if !ack {
                    return Ok((batches, last));
                }
                let SliceEnd { version, bytes_root, rows_digest, .. } = end;
                let ack = Step::from(step::Step::SliceAck(SliceAck { version, bytes_root, rows_digest }));
                control.writer.message(&ack).await.map_err(|e| e.to_string())?;
            }
            reply::Reply::CaughtUp(_) => return Ok((batches, last)),
            other => return Err(format!("{other:?}")),
        }
    }
}

#[test]
fn a_department_on_a_signed_list_follows_its_own_city_and_a_kill_at_any_point_loses_and_doubles_nothing() {
    let mut world = World::new();
    let (at, file, list) = listed(&world);
    let expected = read_parquet(&file).filter("region", |code| code.starts_with("4403"));
    for (point, pass) in
        [("follow.before_data", 1), ("follow.piece", 1), ("follow.before_end", 1), ("follow.acknowledged", 1)]
    {
        world.gateway.kill();
        world.gateway.start_to_fail(point, pass);
        runtime().block_on(async {
            let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
            let ended = once(&dialled, &at.entry, None, true).await;
            assert!(ended.is_err(), "{point}: the gateway was to die");
        });
        world.gateway.wait();
        world.gateway.start();
        runtime().block_on(async {
            let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
            // The sink has nothing, whatever the gateway had written down: it gets all of it.
            let (batches, end) = once(&dialled, &at.entry, None, true).await.unwrap();
            let found = lingqu_tests::world::Rows::of(&batches);
            assert_eq!(sorted(&found), sorted(&expected), "{point}");
            let cursor = Cursor { version: 1, slice: end.unwrap().slice };
            let (again, _) = once(&dialled, &at.entry, Some(cursor), true).await.unwrap();
            assert!(again.is_empty(), "{point}: what is durable does not come again");
        });
    }
    let subscriptions = |world: &World| world.gateway.metric("lingqu_subscriptions");
    assert!(subscriptions(&world) <= 1.0);
    // Compared, and revoked.
    let shown = world.requester.agent.run(["backflow-list", "show", &list]).ok();
    assert_eq!(shown["own_entries"], serde_json::json!([at.entry]));
    let revoke = ["backflow-list", "revoke", &list, "--reason", "清单调整", "--key", world.authority.office()];
    world.authority.agent.run(revoke).ok();
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        let ended = once(&dialled, &at.entry, None, true).await.unwrap_err();
        assert!(ended.contains("list_revoked") || ended.contains("revoked"), "{ended}");
    });
    let refused = world.other.agent.run(["backflow-list", "publish", "x", "--key", world.other.office()]);
    assert_ne!(refused.code, Some(0));
}

fn sorted(rows: &lingqu_tests::world::Rows) -> Vec<Vec<String>> {
    let mut rows = rows.rows.clone();
    rows.sort();
    rows
}
