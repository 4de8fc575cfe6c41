//! kill -9 of either side in the middle of a match (核对), at named points and at random moments: who runs the same transfer
//! again gets every key's answer, once, and of the version that the match began with.

use arrow::array::AsArray;
use arrow::datatypes::Int32Type;
use lingqu_tests::faults::rng::Rng;
use lingqu_tests::world::data::write_parquet;
use lingqu_tests::world::{
    Granted, Running, World, read_csv, registrations, table_entry_toml, table_scope, text, wait_until,
};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

/// Rows of a version.
const ROWS: usize = 3_000;

/// Keys: more than are answered together.
const KEYS: usize = 90_000;

struct Match {
    world: World,
    at: Granted,
    keys: PathBuf,
    out: PathBuf,
    /// Key, whether it is found, staff, in the order of the keys.
    expected: Vec<[String; 3]>,
}

impl Match {
    fn new() -> Self {
        let world = World::new();
        let code = "307010/850001";
        let toml =
            table_entry_toml(code).replace("[\"batch_exchange\"]", "[\"batch_exchange\", \"service_interface\"]");
        let entry = world.publish(&toml);
        let scope = format!("methods = [\"service_interface\", \"batch_exchange\"]\n{}", table_scope());
        let at = world.granted(entry, code.to_owned(), &scope);
        let batch = registrations(85, ROWS);
        let (regions, codes) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
        let staff = batch.column_by_name("staff").unwrap().as_primitive::<Int32Type>();
        let cell = |row: usize| staff.iter().nth(row).flatten().map_or("∅".to_owned(), |n| n.to_string());
        let inside: HashMap<&str, String> = (0..ROWS)
            .filter(|row| regions.value(*row).starts_with("4403"))
            .map(|row| (codes.value(row), cell(row)))
            .collect();
        let key =
            |n: usize| if n.is_multiple_of(5) { format!("NOBODY-{n}") } else { codes.value(n * 7 % ROWS).to_owned() };
        let answer = |n: usize| match inside.get(key(n).as_str()) {
            Some(staff) => [key(n), "true".to_owned(), staff.clone()],
            None => [key(n), "false".to_owned(), "∅".to_owned()],
        };
        let expected: Vec<[String; 3]> = (0..KEYS).map(answer).collect();
        let keys: String = (0..KEYS).map(|n| format!("{}\n", key(n))).collect();
        let keys = world.file("keys.csv", format!("credit_code\n{keys}"));
        let out = world.path("answers.csv");
        let this = Self { world, at, keys, out, expected };
        this.push(85);
        this
    }

    /// The next version.
    fn push(&self, seed: u64) {
        let file = self.world.path("rows.parquet");
        write_parquet(&file, &registrations(seed, ROWS));
        let args = ["push", "batch", &self.at.entry, file.to_str().unwrap()];
        self.world.provider.agent.run(args).ok();
    }

    fn start(&self) -> Running {
        let (keys, out) = (self.keys.to_str().unwrap(), self.out.to_str().unwrap());
        self.world.requester.agent.start(["match", &self.at.grant, keys, "--columns", "staff", "--out", out])
    }

    /// The transfer that the agent wrote down, once it did.
    fn transfer(&self) -> Option<String> {
        let list = self.world.requester.agent.run(["transfer", "list"]).ok();
        list.as_array().unwrap().first().map(|t| text(t, "id").to_owned())
    }

    /// Answers that lie there are all of them, each once, and nothing lies beside them.
    fn check(&self, transfer: &str, version: u64) {
        let answers = read_csv(&self.out);
        assert_eq!(answers.columns, ["credit_code", "_found", "staff"]);
        assert_eq!(answers.rows.len(), KEYS);
        let wrong = answers.rows.iter().zip(&self.expected).position(|(row, expected)| row[..] != expected[..]);
        assert_eq!(wrong, None, "the first answer that is wrong");
        let receipt = self.world.requester.agent.receipt(transfer);
        let valid = self.world.requester.agent.run(["receipt", "verify", receipt.to_str().unwrap()]).ok();
        let statement = &valid["statement"];
        assert_eq!((&statement["rows"], &statement["dataset_version"]), (&KEYS.into(), &version.into()));
        let dir = std::fs::read_dir(self.out.parent().unwrap()).unwrap();
        let beside = |name: &String| name.contains("answers.csv") && name != "answers.csv";
        let left: Vec<String> = dir.map(|e| e.unwrap().file_name().into_string().unwrap()).filter(beside).collect();
        assert!(left.is_empty(), "{left:?}");
        self.world.gateway.run(["ledger", "verify"]).ok();
    }
}

fn killed_at(point: &str, pass: u32) {
    let mut it = Match::new();
    it.world.gateway.kill();
    it.world.gateway.start_to_fail(point, pass);
    let running = it.start();
    let ran = it.world.gateway.wait();
    assert_eq!(ran.code, None, "it aborts at {point}: {ran}");
    // The agent would try again; it dies too.
    assert_ne!(running.kill().code, Some(0));
    assert!(!it.out.exists(), "half an answer is none");
    it.world.gateway.start();
    let transfer = it.transfer().expect("the outbox had it before anything was asked");
    it.world.requester.agent.run(["transfer", "resume", &transfer]).ok();
    it.check(&transfer, 1);
}

#[test]
fn a_match_killed_when_it_is_opened() {
    killed_at("transfer.opened", 1);
}

#[test]
fn a_match_killed_before_its_first_answers() {
    killed_at("match.piece", 1);
}

#[test]
fn a_match_killed_in_the_middle() {
    killed_at("match.piece", 2);
}

#[test]
fn a_match_killed_before_its_end() {
    killed_at("pull.before_end", 1);
}

#[test]
fn a_match_killed_between_commit_and_answer() {
    killed_at("transfer.committed", 1);
}

#[test]
fn a_match_whose_agent_is_killed_in_the_middle_is_answered_from_the_version_that_it_began_with() {
    let mut it = Match::new();
    it.world.gateway.kill();
    let go_on = it.world.path("go-on");
    it.world.gateway.start_with(&[("LINGQU_FAILPOINT", &format!("match.piece=2:{}", go_on.display()))]);
    let running = it.start();
    wait_until("the gateway is in the middle", || go_on.with_extension("reached").exists());
    assert_ne!(running.kill().code, Some(0));
    std::fs::write(&go_on, "").unwrap();
    assert!(!it.out.exists());
    let transfer = it.transfer().unwrap();
    it.push(86);
    it.world.requester.agent.run(["transfer", "resume", &transfer]).ok();
    it.check(&transfer, 1);
}

/// Kills either side at random moments. `LINGQU_KILLS` says how often, `LINGQU_SEED` when.
#[test]
fn matches_killed_at_random_moments_are_answered_whole_and_once() {
    let number = |name: &str, default: u64| std::env::var(name).ok().map_or(default, |v| v.parse().unwrap());
    let (kills, seed) = (number("LINGQU_KILLS", 6), number("LINGQU_SEED", 1));
    println!("seed {seed}");
    let mut random = Rng::new(seed);
    let mut it = Match::new();
    let mut running = it.start();
    for kill in 0..kills {
        std::thread::sleep(Duration::from_millis(random.below(900)));
        let gateway_dies = random.below(2) == 0;
        if gateway_dies {
            it.world.gateway.kill();
        }
        let ended = running.kill();
        if gateway_dies {
            it.world.gateway.start();
        }
        let who = if gateway_dies { "gateway" } else { "agent" };
        println!("kill {kill}: {who}, answers are there: {}, exit {:?}", it.out.exists(), ended.code);
        running = match (ended.code, it.transfer()) {
            (Some(0), _) => {
                it.check(text(&ended.json(), "id"), 1);
                std::fs::remove_file(&it.out).unwrap();
                it.start()
            }
            (_, Some(id)) => it.world.requester.agent.start(["transfer", "resume", &id]),
            // It died before it wrote anything down; or when all was done but saying so.
            (_, None) => {
                if it.out.exists() {
                    std::fs::remove_file(&it.out).unwrap();
                }
                it.start()
            }
        };
    }
    let done = running.wait().ok();
    it.check(text(&done, "id"), 1);
}
