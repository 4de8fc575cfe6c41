//! Backflow received by real processes: folder, table, command, standard output; reconciliation; the agent that stays.

use lingqu_tests::faults::rng::Rng;
use lingqu_tests::world::data::write_parquet;
use lingqu_tests::world::postgres::{self, PASSWORD, Postgres, postgres};
use lingqu_tests::world::{CITY, Rows, World, read_csv, read_parquet, registrations, text, wait_until};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// An entry that flows back to the requester's city, with nothing pushed yet.
struct Stream {
    entry: String,
    code: String,
}

fn listed(world: &World) -> Stream {
    let granted = world.new_table();
    let list = format!(
        "name = \"回流清单\"\n[[backflow]]\nentry = \"{}\"\nto = [\"{}\"]\nduty = \"市场监管\"\n",
        granted.code, world.requester.code
    );
    let file = world.file("list.toml", list);
    let args = ["backflow-list", "publish", file.to_str().unwrap(), "--key", world.authority.office()];
    world.authority.agent.run(args).ok();
    Stream { entry: granted.entry, code: granted.code }
}

fn push(world: &World, stream: &Stream, mode: &str, file: &Path) {
    world.provider.agent.run(["push", "batch", &stream.entry, file.to_str().unwrap(), "--mode", mode]).ok();
}

fn push_rows(world: &World, stream: &Stream, mode: &str, seed: u64, rows: usize) {
    let file = world.path("rows.parquet");
    write_parquet(&file, &registrations(seed, rows));
    push(world, stream, mode, &file);
}

/// The rows of the requester's city.
fn city(batches: &[(u64, usize)]) -> Rows {
    let batches: Vec<_> = batches.iter().map(|(seed, rows)| registrations(*seed, *rows)).collect();
    Rows::of(&batches).filter("region", |region| region.starts_with(CITY))
}

/// Rows that a folder's manifest names.
fn folder(dir: &Path) -> Rows {
    let manifest: Value = serde_json::from_slice(&std::fs::read(dir.join("manifest.json")).unwrap()).unwrap();
    let files = manifest["files"].as_array().unwrap();
    let read = |file: &Value| {
        let path = dir.join(file["name"].as_str().unwrap());
        if path.extension().is_some_and(|end| end == "csv") { read_csv(&path) } else { read_parquet(&path) }
    };
    files.iter().map(read).reduce(|one, other| one.and(&other)).unwrap()
}

#[test]
fn a_city_gets_its_own_rows_and_no_others_into_a_folder() {
    let world = World::new();
    let stream = listed(&world);
    let out = world.path("rows");
    let run = |more: &[&str]| {
        let base = ["backflow", &stream.code, "--out", out.to_str().unwrap(), "--once"];
        world.requester.agent.run([&base[..], more].concat())
    };
    // Nothing was pushed: the night's alarm.
    let said = run(&["--max-age", "26h"]);
    assert_eq!(said.code, Some(8), "{said}");
    assert_eq!(said.json()["fresh"], false);
    push_rows(&world, &stream, "full", 1, 3_000);
    let said = run(&["--max-age", "26h"]).ok();
    assert_eq!((&said["version"], &said["fresh"], &said["kind"]), (&1.into(), &true.into(), &"folder".into()));
    folder(&out).must_be(&city(&[(1, 3_000)]));
    push_rows(&world, &stream, "append", 2, 500);
    let said = run(&[]).ok();
    assert_eq!(said["versions"][0]["mode"], "append");
    folder(&out).must_be(&city(&[(1, 3_000), (2, 500)]));
    // One row of the city is replaced, one goes, and one is new.
    let before = city(&[(1, 3_000), (2, 500)]);
    let keys: Vec<String> = before.select(&["credit_code"]).rows.into_iter().flatten().take(2).collect();
    let row =
        |op: &str, key: &str| format!("{op},440303,{key},新,1,2,3.5,4.00,2026-01-01,2026-01-01T00:00:00Z,true,00,\n");
    let changes = format!(
        "_op,region,credit_code,operator_name,staff,visits,score,capital,opened,checked_at,active,seal,note\n{}{}{}",
        row("upsert", &keys[0]),
        row("delete", &keys[1]),
        row("upsert", "S000009-000000001"),
    );
    let file = world.file("changes.csv", changes);
    push(&world, &stream, "changes", &file);
    let said = run(&[]).ok();
    assert_eq!((&said["version"], &said["versions"][0]["mode"]), (&3.into(), &"changes".into()));
    let after = folder(&out);
    assert_eq!(after.rows.len(), before.rows.len());
    let has = |key: &str| after.filter("credit_code", |code| code == key).rows.len();
    assert_eq!((has(&keys[0]), has(&keys[1]), has("S000009-000000001")), (1, 0, 1));
    // The same is there, and the receiver can prove it.
    let equal = world.requester.agent.run(["reconcile", &stream.code, "--out", out.to_str().unwrap()]).ok();
    assert_eq!((&equal["equal"], &equal["version"]), (&true.into(), &3.into()));
    assert_eq!(equal["receiver"]["rows_digest"], equal["gateway"]["slice"]["rows_digest"]);
    let provider = world.provider.agent.run(["reconcile", &stream.code]).ok();
    assert_eq!(provider["equal"], true);
    // Who is not on the list is told no more than who asks for nothing that exists.
    let other = world.path("other");
    let args = ["backflow", &stream.code, "--out", other.to_str().unwrap()];
    world.other.agent.run(args).fails(3);
}

#[test]
fn what_is_missing_at_the_receiver_is_named() {
    let world = World::new();
    let stream = listed(&world);
    push_rows(&world, &stream, "full", 3, 400);
    let (server, table) = (postgres(), postgres().new_table());
    let sink = ["--postgres", &server.tcp_url(), "--table", &table].map(str::to_owned);
    let command = |verb: &str| {
        let mut command = world.requester.agent.command([verb, &stream.code]);
        command.args(&sink).env("PGPASSWORD", PASSWORD);
        lingqu_tests::world::Running::start(command).wait()
    };
    let said = command("backflow").ok();
    assert_eq!((&said["kind"], &said["version"]), (&"postgresql".into(), &1.into()));
    assert!(!said.to_string().contains(PASSWORD));
    let rows = city(&[(3, 400)]);
    assert_eq!(server.sql(&format!("SELECT count(*) FROM \"{table}\"")), rows.rows.len().to_string());
    assert_eq!(command("reconcile").ok()["equal"], true);
    server.sql(&format!("DELETE FROM \"{table}\" WHERE region = '440303' AND ctid = (SELECT min(ctid) FROM \"{table}\" WHERE region = '440303')"));
    let said = command("reconcile");
    assert_eq!(said.code, Some(5), "{said}");
    assert_eq!(said.error()["word"], "not_equal");
    let report = said.json();
    let differences = report["differences"].as_array().unwrap();
    let county = differences.iter().find(|d| d["region"] == "440303").unwrap();
    assert_eq!((&county["missing"], &county["too_many"]), (&1.into(), &0.into()), "{report}");
    // A password on the command line is refused before anything is dialled, and never repeated.
    let args = ["backflow", &stream.code, "--postgres", "postgres://u:hunter2@h/d", "--table", "t"];
    let refused = world.requester.agent.run(args);
    assert!(!format!("{refused}").replace(&refused.what, "").contains("hunter2"), "{refused}");
    refused.fails(2);
}

#[test]
fn a_database_is_known_by_its_certificate_and_no_other_gets_a_row() {
    let world = World::new();
    let stream = listed(&world);
    push_rows(&world, &stream, "full", 5, 200);
    let mut server = Postgres::start();
    let table = server.new_table();
    let root = server.speak_tls_alone();
    let other = world.file("other.pem", postgres::root().0);
    let backflow = |host: &str, query: String| {
        let url = server.tcp_url().replace("127.0.0.1", host) + &query;
        let mut command =
            world.requester.agent.command(["backflow", &stream.code, "--postgres", &url, "--table", &table]);
        command.env("PGPASSWORD", PASSWORD);
        lingqu_tests::world::Running::start(command).wait()
    };
    let verified =
        |host: &str, root: &Path| backflow(host, format!("?sslmode=verify-full&sslrootcert={}", root.display()));
    // Under another root; and under another name than the certificate's.
    for refused in [verified("127.0.0.1", &other), verified("localhost", &root)] {
        let refused = refused.fails(2);
        assert_eq!(refused["word"], "postgres_tls", "{refused}");
    }
    let missing = verified("127.0.0.1", &world.path("missing.pem")).fails(2);
    assert_eq!(missing["word"], "postgres_file", "{missing}");
    // A database that wants TLS alone refuses who asks for none.
    backflow("127.0.0.1", "?sslmode=disable".to_owned()).fails(2);
    assert_eq!(server.sql(&format!("SELECT to_regclass('\"{table}\"')")), "");
    assert_eq!(verified("127.0.0.1", &root).ok()["version"], 1);
    assert_eq!(server.sql(&format!("SELECT count(*) FROM \"{table}\"")), city(&[(5, 200)]).rows.len().to_string());
}

#[test]
fn a_command_and_standard_output_get_versions_with_their_numbers() {
    let world = World::new();
    let stream = listed(&world);
    push_rows(&world, &stream, "full", 4, 300);
    let got = world.path("got.csv");
    let exec = format!("cat > {}; echo $LINGQU_VERSION $LINGQU_MODE >> {}.said", got.display(), got.display());
    let said = world.requester.agent.run(["backflow", &stream.code, "--exec", &exec, "--format", "csv"]).ok();
    assert_eq!((&said["kind"], &said["promise"]), (&"command".into(), &"at_least_once".into()));
    read_csv(&got).must_be(&city(&[(4, 300)]));
    let ran = world.requester.agent.run(["backflow", &stream.code, "--out", "-"]);
    assert_eq!(ran.code, Some(0), "{ran}");
    let reader = arrow::ipc::reader::StreamReader::try_new(&ran.stdout[..], None).unwrap();
    assert_eq!(reader.schema().metadata()["lingqu.version"], "1");
    let batches: Vec<_> = reader.map(Result::unwrap).collect();
    Rows::of(&batches).must_be(&city(&[(4, 300)]));
    // Both know where they are.
    world.requester.agent.run(["backflow", &stream.code, "--exec", &exec, "--format", "csv"]).ok();
    assert_eq!(std::fs::read_to_string(format!("{}.said", got.display())).unwrap(), "1 full\n");
}

#[test]
fn an_agent_that_stays_sends_its_outbox_and_follows() {
    let world = World::new();
    let stream = listed(&world);
    let out = world.path("rows");
    let toml = format!("[[follow]]\nentry = \"{}\"\nout = \"{}\"\nformat = \"csv\"\n", stream.code, out.display());
    std::fs::write(world.requester.agent.profile().join("agent.toml"), toml).unwrap();
    let receiver = world.requester.agent.start(["agent", "run"]);
    let sender = world.provider.agent.start(["agent", "run"]);
    let file = world.path("rows.parquet");
    write_parquet(&file, &registrations(5, 200));
    let queued = world.provider.agent.run(["push", "batch", &stream.entry, file.to_str().unwrap(), "--queue"]);
    assert_eq!(queued.code, Some(8), "{queued}");
    wait_until("the version is durable", || out.join("manifest.json").exists());
    folder(&out).must_be(&city(&[(5, 200)]));
    for running in [receiver, sender] {
        running.signal(rustix::process::Signal::TERM);
        let ran = running.wait();
        assert_eq!(ran.code, Some(0), "{ran}");
    }
    let unit = world.requester.agent.run(["service", "install", "--dry-run"]).ok();
    let unit = text(&unit, "unit").to_owned();
    assert!(unit.contains("agent run") && unit.contains(out.to_str().unwrap()), "{unit}");
}

/// kill -9 of gateway and subscriber at random moments of a follow. `LINGQU_KILLS` says how often, `LINGQU_SEED` when.
#[test]
fn a_follow_that_is_killed_at_random_has_each_version_once() {
    let number = |name: &str, default: u64| std::env::var(name).ok().map_or(default, |v| v.parse().unwrap());
    let (kills, seed) = (number("LINGQU_KILLS", 6), number("LINGQU_SEED", 1));
    println!("seed {seed}");
    let mut random = Rng::new(seed);
    let mut world = World::new();
    let stream = listed(&world);
    let (out, server, table) = (world.path("rows"), postgres(), postgres().new_table());
    let (url, dir) = (server.url(), out.to_str().unwrap().to_owned());
    let agent = world.requester.agent.clone();
    let sinks: [Vec<String>; 2] = [
        ["--out", &dir].map(str::to_owned).to_vec(),
        ["--postgres", &url, "--table", &table].map(str::to_owned).to_vec(),
    ];
    let start = |sink: &[String]| {
        let mut command = agent.command(["backflow", &stream.code, "--follow"]);
        command.args(sink);
        lingqu_tests::world::Running::start(command)
    };
    let mut running: Vec<_> = sinks.iter().map(|sink| start(sink)).collect();
    let mut pushed = Vec::new();
    for kill in 0..kills {
        let (seed, rows) = (100 + kill, 200 + random.below(3_000) as usize);
        push_rows(&world, &stream, if kill == 0 { "full" } else { "append" }, seed, rows);
        pushed.push((seed, rows));
        std::thread::sleep(Duration::from_millis(random.below(400)));
        match random.below(3) {
            0 => {
                world.gateway.kill();
                world.gateway.start();
            }
            which => {
                let place = which as usize - 1;
                running.remove(place).kill();
                running.insert(place, start(&sinks[place]));
            }
        }
    }
    let expected = city(&pushed);
    let latest = pushed.len().to_string();
    let version = || {
        let manifest = std::fs::read(out.join("manifest.json")).ok();
        manifest.and_then(|json| serde_json::from_slice::<Value>(&json).ok()).map(|json| json["version"].to_string())
    };
    wait_until("the folder has all versions", || version().as_deref() == Some(&latest));
    let cursor = format!("SELECT version FROM lingqu_backflow WHERE sink = '{table}'");
    wait_until("the table has all versions", || server.sql(&cursor) == latest);
    running.into_iter().for_each(|follower| drop(follower.kill()));
    folder(&out).must_be(&expected);
    assert_eq!(server.sql(&format!("SELECT count(*) FROM \"{table}\"")), expected.rows.len().to_string());
    for sink in &sinks {
        let mut command = agent.command(["reconcile", &stream.code]);
        command.args(sink);
        assert_eq!(lingqu_tests::world::Running::start(command).wait().ok()["equal"], true);
    }
}
