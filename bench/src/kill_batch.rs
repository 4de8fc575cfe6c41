//! Kills agent or gateway at random moments of a push of rows and of a pull of rows, starts what was killed again, resumes,
//! and checks that nothing is twice and nothing is lost: by the number of rows, by rows_digest, and by the bytes of the
//! file, which are those of an unbroken pull.

use crate::error::{BenchError, check};
use crate::kill::Side;
use crate::lineitem::{self, Format};
use crate::link::{Conditions, Link};
use crate::program::Running;
use crate::seeded::{Seeded, b3sum, transfer_id};
use crate::texts::Asked;
use crate::world::{Agency, Founding, Programs, World, free_address, save};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What may be sent again for each kill: what is in flight, what is not yet durable, and the run that is encoded.
const RESENT_BYTES_MAX: u64 = 96 << 20;

/// How often is looked while a kill waits for its moment.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A transfer that takes longer than this to its next moment is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(180);

/// Exit code: unreachable after retries.
const UNREACHABLE: i32 = 6;

const CODE: &str = "300002/000009";

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// TPC-H's scale.
    pub scale: f64,
    /// How many kills, half of them in the push.
    pub kills: u32,
    /// Decides moments.
    pub seed: u64,
    /// Who is killed.
    pub side: Side,
}

/// One kill: how far the transfer was, in what is durable at its receiver, before this part of it and after.
#[derive(Clone, Copy, Debug)]
struct Killed {
    gateway: bool,
    before: u64,
    after: u64,
    wire_bytes: u64,
}

/// A transfer that is killed.
struct Leg {
    agency: Agency,
    transfer: String,
    begin: Vec<String>,
    /// Whether its bytes go towards the gateway.
    up: bool,
    /// Where what is durable is looked up.
    durable: PathBuf,
}

struct Stage {
    world: World,
    link: Link,
}

/// Runs it in `dir` and gives what happened as JSON.
///
/// # Errors
/// When a digest or a count differs, progress went back, too much was sent again, or a program fails.
pub fn run(dir: &Path, options: Options) -> Result<Value, BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(BenchError::system("starting the relay's threads"))?;
    let listen = free_address()?;
    let server = listen.parse().map_err(BenchError::data("reading an address"))?;
    let link = runtime.block_on(Link::start(server, Conditions::default(), options.seed));
    let link = link.map_err(BenchError::system("starting the relay"))?;
    let mut world = World::create_behind(&dir.join("world"), Programs::find()?, listen, &link.address().to_string())?;
    world.serve()?;
    let found = |label, name, authority, number| {
        world.found(Founding { label, name, region: "44:province", authority, number })
    };
    let authority = found("authority", "测试主管部门", true, 1)?;
    let provider = found("provider", "测试提供部门", false, 2)?;
    let requester = found("requester", "测试需求部门", false, 3)?;
    let grant = share(&world, &authority, &provider, &requester)?;
    // CSV goes as rows, so that runs and not segments are what is gone on after.
    let written = lineitem::write(&dir.join("data"), options.scale, Format::Csv)?;
    let mut random = Seeded::new(options.seed, "moments of rows");
    let mut stage = Stage { world, link };
    let half = options.kills / 2;

    let transfer = transfer_id(&mut random);
    let push = Leg {
        agency: provider.clone(),
        begin: words(&["push", "batch", CODE, text(&written.data)?, "--idempotency-key", &transfer]),
        durable: stage.world.gateway_dir().join("lake/tables").join(&transfer),
        up: true,
        transfer,
    };
    let (pushes, pushed) = stage.kills(&push, options.kills - half, written.bytes, &mut random, options.side)?;
    let digest = pushed["rows_digest"].as_str().unwrap_or_default().to_owned();
    check(pushed["rows"] == written.rows, || format!("{} rows were pushed of {}", pushed["rows"], written.rows))?;
    let looked =
        stage.world.agent(&provider, ["push", "batch", CODE, text(&written.data)?, "--check"]).run(0)?.json()?;
    check(looked["rows_digest"] == digest, || {
        format!("the source's digest is {}, {digest} was pushed", looked["rows_digest"])
    })?;

    let whole = dir.join("whole.parquet");
    let unbroken = stage.world.agent(&requester, ["pull", &grant, "--out", text(&whole)?]).run(0)?.json()?;
    let bytes = unbroken["bytes"].as_u64().unwrap_or(0);
    let transfer = transfer_id(&mut random);
    let out = dir.join("killed.parquet");
    let pull = Leg {
        agency: requester,
        begin: words(&["pull", &grant, "--out", text(&out)?, "--idempotency-key", &transfer]),
        durable: dir.join(format!("killed.parquet.partial-{transfer}.state")),
        up: false,
        transfer,
    };
    let (pulls, pulled) = stage.kills(&pull, half, bytes, &mut random, options.side)?;
    for (what, said) in [("an unbroken pull", &unbroken), ("the pull that was killed", &pulled)] {
        let rows = &said["rows"];
        check(*rows == written.rows, || format!("{what} has {rows} rows, the source {}", written.rows))?;
        let found = &said["rows_digest"];
        check(*found == digest, || format!("{what} has {found}, the push {digest}"))?;
    }
    check(unbroken["bytes_root"] == pulled["bytes_root"], || "the frames of both pulls differ".to_owned())?;
    let (one, other) = (b3sum(&whole)?, b3sum(&out)?);
    check(one == other, || format!("the files of both pulls differ: {one}, {other}"))?;
    check(stage.world.drain()?, || "the gateway did not drain".to_owned())?;
    let told = |k: &Killed| {
        let side = if k.gateway { "gateway" } else { "agent" };
        json!({ "side": side, "before": k.before, "after": k.after, "wire_bytes": k.wire_bytes })
    };
    Ok(json!({
        "rows": written.rows,
        "seed": options.seed,
        "rows_digest": digest,
        "file_b3sum": one,
        "kills": pushes.len() + pulls.len(),
        "push": { "kills": pushes.iter().map(told).collect::<Vec<_>>(), "last_command": pushed },
        "pull": { "kills": pulls.iter().map(told).collect::<Vec<_>>(), "last_command": pulled },
    }))
}

impl Stage {
    /// Kills a transfer so often, and gives the kills and what its last command said.
    fn kills(
        &mut self,
        leg: &Leg,
        kills: u32,
        bytes: u64,
        random: &mut Seeded,
        side: Side,
    ) -> Result<(Vec<Killed>, Value), BenchError> {
        let step = bytes / (u64::from(kills) + 1) * 8 / 5;
        let mut done: Vec<Killed> = Vec::new();
        let mut running = self.world.agent(&leg.agency, leg.begin.iter()).start()?;
        let (mut wire, mut durable) = (self.wire(leg), 0);
        for _ in 0..kills {
            let moment = wire + random.below(step.max(1));
            running = match self.wait(leg, running, moment)? {
                Waited::Moment(running) => running,
                Waited::Done(said) => return Ok((done, said)),
            };
            let gateway = match side {
                Side::Agent => false,
                Side::Gateway => true,
                Side::Both => random.chance(500),
            };
            if gateway {
                self.world.kill_gateway()?;
                self.world.serve()?;
            } else {
                running.kill()?;
                running = self.resume(leg)?;
            }
            let (now, after) = (self.wire(leg), leg.durable());
            check(after >= durable, || format!("{durable} was durable before a kill, {after} after it"))?;
            let killed = Killed { gateway, before: durable, after, wire_bytes: now - wire };
            eprintln!("kill {} of {kills}: {killed:?}", done.len() + 1);
            done.push(killed);
            (wire, durable) = (now, after);
        }
        let allowed = bytes * 3 / 2 + RESENT_BYTES_MAX * u64::from(kills);
        match self.wait(leg, running, u64::MAX)? {
            Waited::Done(said) => {
                let sent = self.wire(leg);
                check(sent <= allowed * 2, || format!("{sent} bytes went over the wire for {bytes}"))?;
                Ok((done, said))
            }
            Waited::Moment(_) => Err(BenchError::Wrong("the transfer never ends".to_owned())),
        }
    }

    fn resume(&self, leg: &Leg) -> Result<Running, BenchError> {
        self.world.agent(&leg.agency, ["transfer", "resume", &leg.transfer]).start()
    }

    fn wire(&self, leg: &Leg) -> u64 {
        let passed = self.link.passed();
        if leg.up { passed.up_bytes } else { passed.down_bytes }
    }

    fn wait(&self, leg: &Leg, mut running: Running, wire_bytes: u64) -> Result<Waited, BenchError> {
        let since = Instant::now();
        loop {
            if running.ended()? {
                let outcome = running.finish()?;
                match outcome.exit {
                    Some(0) => return Ok(Waited::Done(outcome.json()?)),
                    // Unreachable after retries: what a person would do is to try again.
                    Some(UNREACHABLE) => running = self.resume(leg)?,
                    other => {
                        return Err(BenchError::Wrong(format!("it ended with {other:?}: {}", outcome.tail())));
                    }
                }
            }
            if self.wire(leg) >= wire_bytes {
                return Ok(Waited::Moment(running));
            }
            check(since.elapsed() < STUCK_AFTER, || "the transfer makes no progress".to_owned())?;
            sleep(LOOK_EVERY);
        }
    }
}

impl Leg {
    /// Rows that are durable of a push, from the names of its runs; bytes that are durable of a pull, as it wrote them down.
    fn durable(&self) -> u64 {
        if !self.up {
            let state = std::fs::read(&self.durable).unwrap_or_default();
            let state: Value = serde_json::from_slice(&state).unwrap_or_default();
            return state["bytes"].as_u64().unwrap_or(0);
        }
        let names = std::fs::read_dir(&self.durable).into_iter().flatten().flatten();
        let run = |entry: std::fs::DirEntry| {
            let name = entry.file_name().to_str()?.to_owned();
            let (first, rows) = name.split_once('-')?;
            Some((first.parse::<u64>().ok()?, rows.parse::<u64>().ok()?))
        };
        let mut runs: Vec<(u64, u64)> = names.filter_map(run).collect();
        runs.sort_unstable();
        runs.into_iter().fold(0, |end, (first, rows)| if first == end { end + rows } else { end })
    }
}

/// What came first.
enum Waited {
    /// The moment to kill.
    Moment(Running),
    /// The end of the transfer, with what it said.
    Done(Value),
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn text(path: &Path) -> Result<&str, BenchError> {
    path.to_str().ok_or_else(|| BenchError::Usage(format!("{} is not UTF-8", path.display())))
}

fn share(world: &World, authority: &Agency, provider: &Agency, requester: &Agency) -> Result<String, BenchError> {
    world.publish(provider, authority, &save(&world.dir, "entry.toml", &lineitem::entry_toml())?, CODE)?;
    let columns = lineitem::columns();
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let asked = Asked {
        entry: CODE,
        basis: "测试",
        scenario: "中断恢复测试",
        purpose: "测试",
        method: "batch_exchange",
        columns: &columns,
        rows: None,
    };
    world.grant(requester, provider, &save(&world.dir, "application.toml", &asked.to_toml())?)
}
