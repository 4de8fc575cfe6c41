//! Misuse, found and cut while data flows, by real processes; what both sides read of it, and how it ends.

use super::control::{held_pull, large_table, must_be_cut};
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::wire::{Pull, Read, request};
use lingqu_tests::world::data::write_parquet;
use lingqu_tests::world::raw::{Dialled, Raw, runtime};
use lingqu_tests::world::{World, registrations, text, wait_until};
use serde_json::Value;

fn pull(target: &str) -> Pull {
    let transfer = TransferId::random(&lingqu_certs::os::OsEntropy::new()).unwrap().to_string();
    Pull { transfer, target: target.into(), ..Pull::default() }
}

/// So many different requests outside a grant.
async fn probe(dialled: &Dialled, grant: &str, count: usize) -> Vec<String> {
    let mut words = Vec::new();
    for n in 0..count {
        let columns = vec![format!("column_{n}")];
        let (fault, _) = dialled.refused(request::Ask::Pull(Pull { columns, ..pull(grant) })).await;
        words.push(fault.word);
    }
    words
}

fn findings(world: &World) -> Vec<Value> {
    world.gateway.run(["findings", "list", "--all"]).ok().as_array().unwrap().clone()
}

/// Changes a line of config.toml before the gateway starts.
fn configured(from: &str, to: &str) -> World {
    let mut world = World::stopped();
    let file = world.gateway.dir().join("config.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    assert!(config.contains(from), "{from} is not in {config}");
    std::fs::write(&file, config.replace(from, to)).unwrap();
    world.gateway.start();
    world
}

#[test]
fn requests_outside_scope_cut_the_running_stream_and_one_command_lifts_it() {
    let world = World::new();
    let at = large_table(&world);
    let held = held_pull(&world, &at.grant);
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        let words = probe(&dialled, &at.grant, 23).await;
        assert!(words.iter().all(|word| word == "columns_outside_scope"), "{words:?}");
        assert!(findings(&world).is_empty(), "twenty-three are not twenty-four");
        probe(&dialled, &at.grant, 24).await;
    });
    must_be_cut(&world, held, "stopped");
    let found = findings(&world);
    assert_eq!(found.len(), 1, "{found:?}");
    let (id, found) = (text(&found[0], "id").to_owned(), &found[0]);
    assert_eq!((text(found, "rule"), text(found, "status")), ("scope_probing", "open"));
    assert_eq!(text(&found["cut"], "what"), format!("grant:{}", at.grant));
    assert!(found["cut"]["confirm_by"].is_string() && found["shown"].as_array().unwrap().len() > 10, "{found}");

    // Both sides read what, why and by when; who has nothing to do with it finds nothing.
    for side in [&world.requester, &world.provider, &world.authority] {
        let shown = side.agent.run(["findings", "show", &id]).ok();
        assert_eq!(text(&shown, "title_zh"), "多种超出共享范围的试探请求");
        assert_eq!(side.agent.run(["findings", "list"]).ok().as_array().unwrap().len(), 1);
        let grant = side.agent.run(["grant", "show", &at.grant]).ok();
        assert_eq!(text(&grant["stopped"][0], "finding"), id);
    }
    world.other.agent.run(["findings", "show", &id]).fails(3);
    assert_eq!(world.other.agent.run(["findings", "list"]).ok().as_array().unwrap().len(), 0);
    let out = world.path("again.parquet");
    let again = ["pull", &at.grant, "--out", out.to_str().unwrap()];
    let error = world.requester.agent.run(again).fails(4);
    assert!(text(&error, "text").contains(&id) && text(&error, "text_zh").contains("超出共享范围"), "{error}");

    world.gateway.run(["findings", "lift", &id, "--reason", "误判"]).ok();
    world.requester.agent.run(again).ok();
    assert_eq!(text(&world.gateway.run(["findings", "show", &id]).ok(), "status"), "lifted");
    assert_eq!(world.gateway.metric("lingqu_findings_total{rule=\"scope_probing\""), 1.0);
    assert!(world.gateway.metric("lingqu_observations_total") > 50.0);
    world.gateway.run(["ledger", "verify"]).ok();
}

#[test]
fn under_a_standing_order_a_cut_stands_until_an_officer_signs_after_it_was_confirmed() {
    let mut world = World::new();
    let office = world.provider.office().to_owned();
    let until = lingqu_tests::world::day(90);
    let order = world.provider.agent.run([
        "standing-order",
        "issue",
        "--rule",
        "scope_probing",
        "--strongest",
        "cut_grant",
        "--until",
        &until,
        "--reason",
        "夜间值守",
        "--key",
        &office,
    ]);
    let order = text(&order.ok(), "id").to_owned();
    let grant = world.table.grant.clone();
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        probe(&dialled, &grant, 24).await;
    });
    wait_until("it is found", || !findings(&world).is_empty());
    let found = findings(&world).remove(0);
    let id = text(&found, "id").to_owned();
    assert_eq!((text(&found["cut"], "order"), &found["cut"]["confirm_by"]), (order.as_str(), &Value::Null));
    // It stands over a restart, and over the end of its order.
    let withdraw = ["standing-order", "withdraw", &order, "--reason", "撤销", "--key", &office];
    world.provider.agent.run(withdraw).ok();
    assert_eq!(text(&world.provider.agent.run(["standing-order", "show", &order]).ok(), "status"), "withdrawn");
    world.gateway.restart();
    let out = world.path("out.parquet");
    let pull = ["pull", &grant, "--out", out.to_str().unwrap()];
    assert_eq!(text(&world.requester.agent.run(pull).fails(4), "word"), "stopped");
    world.provider.agent.run(["findings", "confirm", &id, "--reason", "已核实", "--key", &office]).ok();
    let refused = world.gateway.run(["findings", "lift", &id, "--reason", "r"]).fails(3);
    assert_eq!(text(&refused, "word"), "needs_signature", "{refused}");
    let by = lingqu_tests::world::day(10);
    world.provider.agent.run(["grant", "rectify", &grant, "--by", &by, "--reason", "补充台账", "--key", &office]).ok();
    let waiting = world.requester.agent.run(["inbox"]).ok();
    assert_eq!(text(&waiting[0], "act"), "rectify");
    world.provider.agent.run(["findings", "lift", &id, "--reason", "已整改", "--key", &office]).ok();
    let error = world.requester.agent.run(pull).fails(4);
    assert!(text(&error, "text").contains(&by), "suspended with its day: {error}");
    world.provider.agent.run(["grant", "reinstate", &grant, "--reason", "已整改", "--key", &office]).ok();
    // Nothing was pushed, so there is no version: the permission is back.
    assert_eq!(text(&world.requester.agent.run(pull).fails(3), "word"), "not_found");
}

#[test]
fn a_sweep_over_keys_is_cut() {
    let world = configured("different = 240", "different = 12");
    let at = &world.table;
    let file = world.path("rows.parquet");
    write_parquet(&file, &registrations(1, 500));
    world.provider.agent.run(["push", "batch", &at.entry, file.to_str().unwrap()]).ok();
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        let ask = |n: usize| Pull { r#where: format!("credit_code = 'KEY{n}'"), ..pull(&at.grant) };
        for n in 0..11 {
            assert!(dialled.pull_rows(ask(n)).await.end.is_some());
        }
        // The same questions again are no sweep.
        for n in 0..11 {
            assert!(dialled.pull_rows(ask(n)).await.end.is_some());
        }
        assert!(findings(&world).is_empty());
        // The twelfth is one too many; it may be cut itself, or the one after it.
        for n in 11.. {
            assert!(n < 1_000, "nothing was cut");
            if let Some(fault) = dialled.pull_rows(ask(n)).await.fault {
                assert_eq!(fault.word, "stopped", "{fault:?}");
                break;
            }
        }
    });
    // The cut acts first; its finding is committed after.
    wait_until("it is found", || !findings(&world).is_empty());
    let found = findings(&world);
    assert_eq!((found.len(), text(&found[0], "rule")), (1, "enumeration"), "{found:?}");
}

#[test]
fn one_identity_in_two_places_at_once_is_cut_and_two_programs_in_one_place_are_not() {
    let world = World::new();
    let agent = format!("{}/main", world.requester.code);
    runtime().block_on(async {
        let status = || request::Ask::Read(Read { kind: "status".into(), ..Read::default() });
        let home = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        let beside = Raw { from: "127.0.0.9:0".parse().unwrap(), ..Raw::of(&world.gateway, &world.requester.agent) };
        let beside = beside.dial().await;
        for _ in 0..10 {
            home.ask(status()).await;
            beside.ask(status()).await;
        }
        assert!(findings(&world).is_empty(), "one network");
        let away = Raw { from: "127.0.7.1:0".parse().unwrap(), ..Raw::of(&world.gateway, &world.requester.agent) };
        let away = away.dial().await;
        for _ in 0..4 {
            for place in [&home, &away] {
                // The last of them may find itself cut.
                let _cut = tokio::time::timeout(std::time::Duration::from_secs(5), async {
                    let mut stream = place.session.request(status()).await.ok()?;
                    stream.writer.finish();
                    stream.reply().await.ok()
                })
                .await;
            }
        }
    });
    wait_until("it is found", || !findings(&world).is_empty());
    let found = findings(&world).remove(0);
    assert_eq!((text(&found, "rule"), text(&found["cut"], "what")), ("two_places", format!("agent:{agent}").as_str()));
    let error = world.requester.agent.run(["status"]);
    assert_eq!(error.code, Some(4), "{error}");
    // Other agents of the agency are not touched.
    let other = world.new_agent(&world.requester, "second");
    other.run(["status"]).ok();
    world.gateway.run(["findings", "lift", text(&found, "id"), "--reason", "双线路"]).ok();
    world.requester.agent.run(["status"]).ok();
}
