//! Kills gateway or subscribers at random moments while versions flow back into a folder and, where a database is named, a table.
//! In the end each must hold every version once: by the number of rows, which this program counts itself, and by rows_digest, which
//! `lingqu reconcile` compares with the gateway's.

use crate::error::{BenchError, check};
use crate::kill::Side;
use crate::program::Running;
use crate::seeded::Seeded;
use crate::texts::flowing_entry;
use crate::world::{Agency, FlowingBack, Programs, World, save};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const CODE: &str = "300002/000011";

/// The entry's columns, and whether they are its key.
const ITEMS: [(&str, &str, bool); 3] = [("region", "string", false), ("id", "int64", true), ("value", "int64", false)];

/// The city whose rows flow back, and regions of rows: three of four are its own.
const CITY: &str = "4403";
const REGIONS: [&str; 4] = ["440303", "440304", "440305", "440106"];

/// Rows of the first version, and of each later one at most.
const ROWS_FIRST: u64 = 20_000;
const ROWS_MOST: u64 = 5_000;

/// The longest pause before a kill: versions take less, so a kill hits every part of one.
const PAUSE_MS: u64 = 600;

/// A sink that is not there by then is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(180);

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many kills.
    pub kills: u32,
    /// Decides content and moments.
    pub seed: u64,
    /// Who is killed.
    pub side: Side,
    /// A database, as `lingqu backflow --postgres` takes it; none, and only the folder is followed.
    pub postgres: Option<String>,
}

/// A subscriber with its sink.
struct Follower {
    name: &'static str,
    sink: Vec<String>,
    running: Option<Running>,
    kills: u32,
}

impl Follower {
    fn start(&mut self, world: &World, receiver: &Agency) -> Result<(), BenchError> {
        let line = world.agent(receiver, ["backflow", CODE, "--follow"]).args(self.sink.iter());
        self.running = Some(line.start()?);
        Ok(())
    }

    fn reconcile(&self, world: &World, receiver: &Agency) -> Result<Option<Value>, BenchError> {
        let outcome = world.agent(receiver, ["reconcile", CODE]).args(self.sink.iter()).start()?.finish()?;
        // Nothing is there yet, or the sink goes on under the reading.
        if outcome.exit == Some(0) { outcome.json().map(Some) } else { Ok(None) }
    }
}

/// The rows as they should be.
#[derive(Default)]
struct Model {
    rows: BTreeMap<u64, (usize, u64)>,
    next: u64,
}

impl Model {
    /// CSV of a version, which it takes into account.
    fn version(&mut self, number: u32, random: &mut Seeded) -> (&'static str, String) {
        let mode = match number {
            0 => "full",
            _ if number.is_multiple_of(2) => "changes",
            _ => "append",
        };
        let is_changes = mode == "changes";
        let mut text = if is_changes { "_op,region,id,value\n" } else { "region,id,value\n" }.to_owned();
        let mut row = |op: &str, id: u64, (region, value): (usize, u64)| {
            let region = REGIONS.get(region).copied().unwrap_or_default();
            let op = if is_changes { format!("{op},") } else { String::new() };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{op}{region},{id},{value}");
        };
        if is_changes {
            let ids: Vec<u64> = self.rows.keys().copied().filter(|_| random.chance(50)).collect();
            for id in ids {
                if random.chance(500) {
                    row("delete", id, (0, 0));
                    self.rows.remove(&id);
                } else {
                    // A row may move to another region.
                    let new = (random.below(4) as usize, random.next_u64() >> 20);
                    row("upsert", id, new);
                    self.rows.insert(id, new);
                }
            }
        }
        let come = if number == 0 { ROWS_FIRST } else { 1 + random.below(ROWS_MOST) };
        for _ in 0..come {
            let new = (random.below(4) as usize, random.next_u64() >> 20);
            row("upsert", self.next, new);
            self.rows.insert(self.next, new);
            self.next += 1;
        }
        (mode, text)
    }

    fn in_city(&self) -> usize {
        self.rows.values().filter(|(region, _)| REGIONS.get(*region).is_some_and(|code| code.starts_with(CITY))).count()
    }
}

/// Runs it in `dir` and gives what happened as JSON.
///
/// # Errors
/// When a count or a digest differs, a sink never gets there, or a program fails.
pub fn run(dir: &Path, options: &Options) -> Result<Value, BenchError> {
    let mut world = World::create(&dir.join("world"), Programs::find()?)?;
    world.serve()?;
    let FlowingBack { provider, receiver } = world.flowing_back(dir, &flowing_entry(CODE, &ITEMS), CODE)?;

    let mut followers = vec![Follower {
        name: "folder",
        sink: vec!["--out".into(), dir.join("rows").display().to_string()],
        running: None,
        kills: 0,
    }];
    if let Some(url) = &options.postgres {
        let table = format!("lingqu_kill_{}_{}", options.seed, std::process::id());
        let sink = vec!["--postgres".into(), url.clone(), "--table".into(), table];
        followers.push(Follower { name: "postgresql", sink, running: None, kills: 0 });
    }
    for follower in &mut followers {
        follower.start(&world, &receiver)?;
    }
    let mut random = Seeded::new(options.seed, "backflow");
    let mut model = Model::default();
    let mut gateway_kills = 0;
    for number in 0..options.kills {
        let (mode, text) = model.version(number, &mut random);
        let file = save(dir, "rows.csv", &text)?;
        let push = world.agent(&provider, ["push", "batch", CODE, "--mode", mode]).arg(file);
        push.run(0)?;
        sleep(Duration::from_millis(random.below(PAUSE_MS)));
        let gateway = match options.side {
            Side::Agent => false,
            Side::Gateway => true,
            Side::Both => random.chance(400),
        };
        if gateway {
            world.kill_gateway()?;
            world.serve()?;
            gateway_kills += 1;
        } else {
            let which = random.below(followers.len() as u64) as usize;
            if let Some(follower) = followers.get_mut(which) {
                if let Some(running) = follower.running.take() {
                    running.kill()?;
                }
                follower.start(&world, &receiver)?;
                follower.kills += 1;
            }
        }
        eprintln!("kill {} of {}: {}", number + 1, options.kills, if gateway { "gateway" } else { "subscriber" });
    }
    let mut said = Vec::new();
    for follower in &mut followers {
        let report = arrived(follower, &world, &receiver, options.kills)?;
        let rows = report["receiver"]["rows"].as_u64().unwrap_or(0);
        let expected = model.in_city() as u64;
        check(rows == expected, || format!("{} holds {rows} rows where {expected} should be", follower.name))?;
        let (here, there) = (&report["receiver"]["rows_digest"], &report["gateway"]["slice"]["rows_digest"]);
        check(here.is_string() && here == there, || format!("{}: {here} is not the gateway's {there}", follower.name))?;
        if let Some(running) = follower.running.take() {
            running.kill()?;
        }
        said.push(json!({ "sink": follower.name, "kills": follower.kills, "rows": rows, "rows_digest": here }));
    }
    check(world.drain()?, || "the gateway did not drain".to_owned())?;
    Ok(json!({
        "seed": options.seed, "kills": options.kills, "gateway_kills": gateway_kills, "versions": options.kills,
        "rows_in_all": model.rows.len(), "sinks": said,
    }))
}

/// Waits until a sink holds the last version and is equal to the gateway.
fn arrived(follower: &mut Follower, world: &World, receiver: &Agency, version: u32) -> Result<Value, BenchError> {
    let since = Instant::now();
    loop {
        if let Some(report) = follower.reconcile(world, receiver)?
            && report["receiver"]["version"] == version
        {
            return Ok(report);
        }
        // A follower that met something that does not pass has said what.
        if let Some(running) = &mut follower.running
            && running.ended()?
            && let Some(running) = follower.running.take()
        {
            let outcome = running.finish()?;
            return Err(BenchError::Wrong(format!("{} ended: {}", follower.name, outcome.tail())));
        }
        check(since.elapsed() < STUCK_AFTER, || format!("{} never holds version {version}", follower.name))?;
        sleep(Duration::from_millis(200));
    }
}
