//! kill -9 at every named point of a push, and at random moments: what was acknowledged is there and can be proven, what
//! was not is absent or whole, and the same transfer, run again, is committed once.

use lingqu_tests::faults::rng::Rng;
use lingqu_tests::world::data::write_parquet;
use lingqu_tests::world::{Rows, Running, World, bytes_of, read_parquet, registrations, seeded_bytes, text};
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of the file that is pushed: five segments of 8 MiB, the last one short.
const FILE_BYTES: usize = 35_000_000;

const SEGMENT_BYTES: f64 = 8.0 * 1024.0 * 1024.0;

#[derive(Clone, Copy)]
enum What {
    File,
    /// Parquet, which goes as it is.
    Batch,
    /// An Arrow file, which goes as rows.
    Rows,
}

/// Rows that are sent as rows: more than one run of them.
const ROWS: usize = 60_000;

struct Push {
    world: World,
    what: What,
    source: PathBuf,
}

impl Push {
    fn new(what: What) -> Self {
        let world = World::stopped();
        let source = match what {
            What::File => world.file("file", seeded_bytes(1, FILE_BYTES)),
            What::Batch => {
                let path = world.path("rows.parquet");
                write_parquet(&path, &registrations(1, 3_000));
                path
            }
            What::Rows => {
                let path = world.path("rows.arrow");
                let batch = registrations(1, ROWS);
                let file = std::fs::File::create(&path).unwrap();
                let mut writer = arrow::ipc::writer::FileWriter::try_new(file, &batch.schema()).unwrap();
                (0..ROWS).step_by(4_000).for_each(|at| writer.write(&batch.slice(at, 4_000)).unwrap());
                writer.finish().unwrap();
                path
            }
        };
        Self { world, what, source }
    }

    fn start(&self) -> Running {
        let source = self.source.to_str().unwrap();
        let agent = &self.world.provider.agent;
        match self.what {
            What::File => agent.start(["push", "file", &self.world.files.entry, source]),
            What::Batch | What::Rows => agent.start(["push", "batch", &self.world.table.entry, source]),
        }
    }

    /// Pulls a version; its exit code, and whether what came is what was pushed.
    fn pull(&self, version: u64) -> (Option<i32>, bool) {
        let world = &self.world;
        let (grant, out) = match self.what {
            What::File => (&world.files.grant, world.path("out/")),
            What::Batch | What::Rows => (&world.table.grant, world.path("out.parquet")),
        };
        let version = version.to_string();
        let args = ["pull", grant, "--version", &version, "--out", out.to_str().unwrap()];
        let ran = world.requester.agent.run(args);
        let right = out.exists()
            && match self.what {
                What::File => bytes_of(&out) == [("file".to_owned(), seeded_bytes(1, FILE_BYTES))].into(),
                What::Batch | What::Rows => {
                    let count = if matches!(self.what, What::Rows) { ROWS } else { 3_000 };
                    let rows = read_parquet(&out);
                    let columns: Vec<&str> = rows.columns.iter().map(String::as_str).collect();
                    let all = Rows::of(&[registrations(1, count)]).filter("region", |r| r.starts_with("4403"));
                    rows.must_be(&all.select(&columns));
                    true
                }
            };
        (ran.code, right)
    }

    /// Nothing is visible, or all of it is; the ledger holds.
    fn is_visible(&self, version: u64) -> bool {
        self.world.gateway.run(["ledger", "verify"]).ok();
        match self.pull(version) {
            (Some(0), true) => true,
            (Some(3), false) => false,
            other => panic!("half visible: {other:?}"),
        }
    }

    /// The transfer that the agent wrote down, once it did.
    fn transfer(&self) -> Option<String> {
        let list = self.world.provider.agent.run(["transfer", "list"]).ok();
        let list = list.as_array().unwrap().clone();
        assert!(list.len() <= 1, "{list:?}");
        list.first().map(|t| text(t, "id").to_owned())
    }

    /// Finishes the transfer, and checks that it is committed once, whole, with a receipt.
    fn finish(&self, transfer: &str) {
        self.world.provider.agent.run(["transfer", "resume", transfer]).ok();
        self.check(transfer, 1);
    }

    /// A transfer that is through is committed once, whole, with a receipt.
    fn check(&self, transfer: &str, version: u64) {
        let receipt = self.world.provider.agent.receipt(transfer);
        let valid = self.world.provider.agent.run(["receipt", "verify", receipt.to_str().unwrap()]).ok();
        assert_eq!(valid["statement"]["dataset_version"], version);
        assert_eq!(self.pull(version), (Some(0), true));
        assert_eq!(self.pull(version + 1), (Some(3), false), "committed once");
        self.world.gateway.run(["ledger", "verify"]).ok();
    }
}

/// Kills the gateway at a point, and checks everything.
fn killed_at(what: What, point: &str, pass: u32) {
    let mut push = Push::new(what);
    push.world.gateway.start_to_fail(point, pass);
    let running = push.start();
    let ran = push.world.gateway.wait();
    assert_eq!(ran.code, None, "it aborts at {point}: {ran}");
    // The agent would try again; it dies too, and nobody heard of a receipt.
    let ran = running.kill();
    assert_ne!(ran.code, Some(0), "{ran}");
    push.world.gateway.start();
    let visible = push.is_visible(1);
    assert_eq!(visible, point == "transfer.committed", "{point}");
    let transfer = push.transfer().expect("the outbox had it before the first byte");
    push.finish(&transfer);
    if matches!(push.what, What::File) {
        // At least so many segments were durable when it died, for they are put one after the other or side by side.
        let durable = match point {
            "push.before_commit" => 5,
            "push.after_segment" => pass,
            _ => 0,
        };
        let again = push.world.gateway.metric("lingqu_received_bytes_total");
        let most = (FILE_BYTES as f64 - f64::from(durable) * SEGMENT_BYTES).max(0.0);
        assert!(again <= most, "{again} bytes were sent again, where {most} at most were not durable");
    }
}

#[test]
fn a_file_push_killed_when_it_is_opened() {
    killed_at(What::File, "transfer.opened", 1);
}

#[test]
fn a_file_push_killed_before_a_segment() {
    killed_at(What::File, "push.before_segment", 3);
}

#[test]
fn a_file_push_killed_after_its_first_segment() {
    killed_at(What::File, "push.after_segment", 1);
}

#[test]
fn a_file_push_killed_after_its_last_segment() {
    killed_at(What::File, "push.after_segment", 5);
}

#[test]
fn a_file_push_killed_before_its_commit() {
    killed_at(What::File, "push.before_commit", 1);
}

#[test]
fn a_file_push_killed_between_commit_and_answer() {
    killed_at(What::File, "transfer.committed", 1);
}

#[test]
fn a_batch_push_killed_when_it_is_opened() {
    killed_at(What::Batch, "transfer.opened", 1);
}

#[test]
fn a_batch_push_killed_before_its_manifest() {
    killed_at(What::Batch, "push.before_manifest", 1);
}

#[test]
fn a_batch_push_killed_before_its_commit() {
    killed_at(What::Batch, "push.before_commit", 1);
}

#[test]
fn a_batch_push_killed_between_commit_and_answer() {
    killed_at(What::Batch, "transfer.committed", 1);
}

#[test]
fn a_push_of_rows_killed_before_its_manifest_goes_on_after_its_runs() {
    killed_at(What::Rows, "push.before_manifest", 1);
}

#[test]
fn a_push_of_rows_killed_before_its_commit() {
    killed_at(What::Rows, "push.before_commit", 1);
}

/// Kills either side at random moments of pushes, one after the other. `LINGQU_KILLS` says how often, `LINGQU_SEED` when.
#[test]
fn pushes_killed_at_random_moments_arrive_whole_and_once() {
    killed_at_random(What::File);
}

/// As files are, so are rows.
#[test]
fn pushes_of_rows_killed_at_random_moments_arrive_whole_and_once() {
    killed_at_random(What::Rows);
}

fn killed_at_random(what: What) {
    let number = |name: &str, default: u64| std::env::var(name).ok().map_or(default, |v| v.parse().unwrap());
    let (kills, seed) = (number("LINGQU_KILLS", 6), number("LINGQU_SEED", 1));
    println!("seed {seed}");
    let mut random = Rng::new(seed);
    let mut push = Push::new(what);
    push.world.gateway.start();
    let mut running = push.start();
    let mut version = 1;
    for kill in 0..kills {
        std::thread::sleep(Duration::from_millis(random.below(400)));
        let gateway_dies = random.below(2) == 0;
        if gateway_dies {
            push.world.gateway.kill();
        }
        let ended = running.kill();
        if gateway_dies {
            push.world.gateway.start();
        }
        let visible = push.is_visible(version);
        let who = if gateway_dies { "gateway" } else { "agent" };
        println!("kill {kill}: {who}, version {version} is visible: {visible}, exit {:?}", ended.code);
        running = match (ended.code, push.transfer()) {
            (Some(0), _) => {
                assert!(visible, "acknowledged, and not there");
                push.check(text(&ended.json(), "id"), version);
                version += 1;
                push.start()
            }
            (_, Some(id)) => push.world.provider.agent.start(["transfer", "resume", &id]),
            // It died before it wrote anything down, and so before it sent anything; or when all was done but saying so.
            (_, None) => {
                version += u64::from(visible);
                push.start()
            }
        };
    }
    push.check(text(&running.wait().ok(), "id"), version);
}
