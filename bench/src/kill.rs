//! Kills agent or gateway at random moments of a push, starts what was killed again, resumes, and checks that the file
//! is the same on both sides and how much was sent again for each kill.

use crate::error::{BenchError, check};
use crate::link::{Conditions, Link};
use crate::program::Running;
use crate::scenario::only_file;
use crate::seeded::{Seeded, b3sum, transfer_id, write_file};
use crate::texts::{Asked, file_entry};
use crate::world::{Agency, Founding, Programs, World, free_address, save};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What may be sent again for each kill: what is in flight or not yet durable at that moment.
const RESENT_BYTES_MAX: u64 = 64 << 20;

/// How often the lake is looked at while a kill waits for its moment.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Bytes towards the gateway that count as progress: more than handshakes and questions take.
const PROGRESS_BYTES: u64 = 1 << 20;

/// A push that shows no progress for so long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// Exit code: unreachable after retries.
const UNREACHABLE: i32 = 6;

const CODE: &str = "300001/000003";

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Side {
    /// The agent that pushes.
    Agent,
    /// The gateway.
    Gateway,
    /// Each as the seed says.
    Both,
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of the file.
    pub bytes: u64,
    /// How many kills.
    pub kills: u32,
    /// Decides content and moments.
    pub seed: u64,
    /// Who is killed.
    pub side: Side,
}

/// Where it stands.
struct Stage {
    world: World,
    provider: Agency,
    requester: Agency,
    link: Link,
    source: PathBuf,
    transfer: String,
}

/// One kill.
#[derive(Clone, Copy, Debug)]
struct Killed {
    gateway: bool,
    /// Bytes that had gone towards the gateway since the kill before, with all that QUIC adds.
    wire_bytes: u64,
    /// By how much the gateway's folder had grown since.
    kept_bytes: u64,
}

impl Killed {
    /// What has to be sent again, at most: what went out and was not kept.
    fn lost_bytes(&self) -> u64 {
        self.wire_bytes.saturating_sub(self.kept_bytes)
    }
}

/// Runs it in `dir` and gives what happened as JSON.
///
/// # Errors
/// When a digest differs, too much was sent again, or a program fails.
pub fn run(dir: &Path, options: Options) -> Result<Value, BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(BenchError::system("starting the relay's threads"))?;
    // The relay counts what is really sent; it changes nothing on the way.
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
    let source = dir.join("source.bin");
    let expected = write_file(&source, options.bytes, &mut Seeded::new(options.seed, "file to kill"))?;
    let mut random = Seeded::new(options.seed, "moments");
    let transfer = transfer_id(&mut random);
    let mut stage = Stage { world, provider, requester, link, source, transfer };
    let (kills, finished) = stage.kills(&mut random, options)?;
    let out = dir.join("pulled");
    stage.world.agent(&stage.requester, ["pull", &grant, "--out"]).arg(&out).run(0)?;
    let found = b3sum(&only_file(&out)?)?;
    check(found == expected, || format!("the pulled file's b3sum is {found}, the source's {expected}"))?;
    let worst = kills.iter().map(Killed::lost_bytes).max().unwrap_or(0);
    check(worst <= RESENT_BYTES_MAX, || {
        format!("{worst} bytes were sent again after a kill, at most {RESENT_BYTES_MAX}")
    })?;
    check(stage.world.drain()?, || "the gateway did not drain".to_owned())?;
    let told = |k: &Killed| {
        let side = if k.gateway { "gateway" } else { "agent" };
        json!({ "side": side, "wire_bytes": k.wire_bytes, "kept_bytes": k.kept_bytes, "lost_bytes": k.lost_bytes() })
    };
    Ok(json!({
        "bytes": options.bytes,
        "seed": options.seed,
        "transfer": stage.transfer,
        "b3sum_source": expected,
        "b3sum_pulled": found,
        "kills": kills.iter().map(told).collect::<Vec<_>>(),
        "lost_bytes_worst": worst,
        "lost_bytes_max": RESENT_BYTES_MAX,
        "wire_bytes": stage.link.passed().up_bytes,
        "last_command": finished,
    }))
}

impl Stage {
    /// Kills as often as asked, or until the push is done; gives the kills and what the push said in the end.
    fn kills(&mut self, random: &mut Seeded, options: Options) -> Result<(Vec<Killed>, Value), BenchError> {
        // Four fifths of an even share on average, so that the push is not done before the last kill.
        let step = options.bytes / (u64::from(options.kills) + 1) * 8 / 5;
        let mut kills: Vec<Killed> = Vec::new();
        let mut push = self.start(true)?;
        let (mut wire, mut kept) = (self.link.passed().up_bytes, self.kept_bytes());
        for _ in 0..options.kills {
            let moment = wire + random.below(step.max(1));
            push = match self.wait(push, moment)? {
                Waited::Moment(push) => push,
                Waited::Done(said) => return Ok((kills, said)),
            };
            let gateway = match options.side {
                Side::Agent => false,
                Side::Gateway => true,
                Side::Both => random.chance(500),
            };
            if gateway {
                self.world.kill_gateway()?;
                self.world.serve()?;
            } else {
                push.kill()?;
                push = self.start(false)?;
            }
            let now = (self.link.passed().up_bytes, self.kept_bytes());
            kills.push(Killed { gateway, wire_bytes: now.0 - wire, kept_bytes: now.1.saturating_sub(kept) });
            eprintln!("kill {} of {}: {:?}", kills.len(), options.kills, kills.last());
            (wire, kept) = now;
        }
        match self.wait(push, u64::MAX)? {
            Waited::Done(said) => Ok((kills, said)),
            Waited::Moment(_) => Err(BenchError::Wrong("the push never ends".to_owned())),
        }
    }

    fn start(&self, first: bool) -> Result<Running, BenchError> {
        if first {
            let push = self.world.agent(&self.provider, ["push", "file", CODE]).arg(&self.source);
            push.args(["--idempotency-key", &self.transfer]).start()
        } else {
            self.world.agent(&self.provider, ["transfer", "resume", &self.transfer]).start()
        }
    }

    /// Waits until so many bytes went towards the gateway or the push is done. One that gave up on a gateway that was
    /// killed is started again, for at most so long as nothing is stuck.
    fn wait(&self, mut push: Running, wire_bytes: u64) -> Result<Waited, BenchError> {
        let mut progress = (self.link.passed().up_bytes, Instant::now());
        loop {
            if push.ended()? {
                let outcome = push.finish()?;
                match outcome.exit {
                    Some(0) => return Ok(Waited::Done(outcome.json()?)),
                    // Unreachable after retries: what a person would do is to try again.
                    Some(UNREACHABLE) => push = self.start(false)?,
                    other => {
                        let why = format!("the push ended with {other:?}: {}", outcome.tail());
                        return Err(BenchError::Wrong(why));
                    }
                }
            }
            let now = self.link.passed().up_bytes;
            if now >= wire_bytes {
                return Ok(Waited::Moment(push));
            }
            // Handshakes of a push that never gets further are no progress.
            if now > progress.0 + PROGRESS_BYTES {
                progress = (now, Instant::now());
            }
            check(progress.1.elapsed() < STUCK_AFTER, || "the push makes no progress".to_owned())?;
            sleep(LOOK_EVERY);
        }
    }

    fn kept_bytes(&self) -> u64 {
        folder_bytes(&self.world.gateway_dir())
    }
}

/// What came first.
enum Waited {
    /// The moment to kill.
    Moment(Running),
    /// The end of the push, with what it said.
    Done(Value),
}

fn share(world: &World, authority: &Agency, provider: &Agency, requester: &Agency) -> Result<String, BenchError> {
    world.publish(provider, authority, &save(&world.dir, "entry.toml", &file_entry("测试文件"))?, CODE)?;
    let asked = Asked {
        entry: CODE,
        basis: "测试",
        scenario: "中断恢复测试",
        purpose: "测试",
        method: "file_download",
        columns: &[],
        rows: None,
    };
    world.grant(requester, provider, &save(&world.dir, "application.toml", &asked.to_toml())?)
}

/// Bytes of all files under `dir`. What disappears while it is counted counts for nothing.
pub(crate) fn folder_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
