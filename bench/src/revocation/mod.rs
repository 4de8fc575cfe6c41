//! How soon a stop stops: many transfers of many agents in processes of their own, both ways and at full load, are cut by
//! the operator's own command, and everyone's clock says when the last byte went by.
//!
//! All times are CLOCK_MONOTONIC, which every process of a machine shares, and count from the moment in which the gateway
//! accepted the command on its control socket. From inside the gateway ([`lingqu_certs::moments`], which is asked for when
//! the process starts) comes when the last datagram that could hold data of a connection's pulls was handed to the
//! socket: the last one sent before all of the connection's data streams were reset. quinn makes a datagram and hands it
//! over under the lock that a reset takes, so what leaves afterwards was made afterwards, and holds reasons, resets and
//! acknowledgements; unless the socket had no room for it before. Where the socket was full in the second before the stop
//! or since, the first datagram after the resets counts instead, and the report says in how many rounds. From the agents
//! comes when their application got its last byte, which does not depend on any of this, and when it heard why.
//!
//! A thread of this process sleeps a millisecond over and over meanwhile; how late it wakes is what the machine's scheduler
//! adds to everybody's times. Peers and gateway share the cores: what is measured includes the peers' own work.

mod judge;
mod peer;

pub use peer::run as peer;

use self::peer::{Order, Setting, Told};
use crate::error::{BenchError, check};
use crate::peers::Process;
use crate::program::Line;
use crate::report::Scenario;
use crate::scenario::Trade;
use crate::seeded::{Seeded, write_file};
use crate::texts::{Asked, file_entry};
use crate::usage;
use crate::world::{Agency, Programs};
use judge::{Moments, Round};
use lingqu_certs::moments::now_ns;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Processes, each with an agent of its own: half of them pull, half of them push.
const AGENTS: usize = 10;

/// Connections of each.
const CONNECTIONS: usize = 5;

/// Between two looks at how much has passed.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Load is steady before it is cut for so many looks.
const STEADY_LOOKS: usize = 4;

/// Looks that a round may take until its transfers run.
const LOOKS_MAX: usize = 400;

const CODE: &str = "300001/000003";

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Transfers that run when they are cut, one number a series.
    pub transfers: Vec<usize>,
    /// Cuts of each series.
    pub rounds: usize,
    /// Bytes of the version that is pulled, and of each push.
    pub bytes: u64,
    /// Makes the content.
    pub seed: u64,
}

/// Measures in `dir`.
///
/// # Errors
/// When something cannot be measured, or something that was cut looked complete.
pub fn measure(dir: &Path, options: &Options) -> Result<Scenario, BenchError> {
    let moments = dir.join("moments");
    let mut trade = Trade::open_with(dir, Programs::find()?, &[("LINGQU_MOMENTS", &moments)])?;
    let asked = Asked {
        entry: CODE,
        basis: "测试",
        scenario: "阻断测试",
        purpose: "测试",
        method: "file_download",
        columns: &[],
        rows: None,
    };
    let grant = trade.share(CODE, &file_entry("测试文件"), asked)?;
    let source = dir.join("large.bin");
    write_file(&source, options.bytes, &mut Seeded::new(options.seed, "revocation"))?;
    let provider = trade.provider.clone();
    trade.world.agent(&provider, ["push", "file", CODE]).arg(&source).run(0)?;
    std::fs::remove_file(&source).map_err(BenchError::io("removing", &source))?;
    let mut peers = Vec::new();
    for i in 0..AGENTS {
        let agency = if i % 2 == 0 { trade.requester.clone() } else { trade.provider.clone() };
        peers.push(Peer::start(&trade, &agency, i)?);
    }
    let mut figures = Vec::new();
    let mut scenario = Scenario::default();
    for transfers in &options.transfers {
        let mut rounds = Vec::new();
        for _ in 0..options.rounds {
            rounds.push(round(&mut trade, &mut peers, &grant, *transfers, options.bytes, &moments)?);
        }
        figures.push(judge::series(*transfers, &rounds));
    }
    for (name, of) in [("sent_beyond_scheduler_over_5_ms", "sent_beyond"), ("agents_last_byte_over_aim", "over_aim")] {
        let worst = figures.iter().filter_map(|f| f[of].as_f64()).fold(0.0, f64::max);
        scenario.ratios.insert(name, worst);
    }
    scenario.figures = json!({
        "seed": options.seed,
        "agents": AGENTS,
        "connections": AGENTS * CONNECTIONS,
        "rounds": options.rounds,
        "series": figures,
    });
    drop(peers);
    trade.close()?;
    Ok(scenario)
}

/// The table for people.
pub fn to_text(scenario: &Scenario) -> String {
    let mut text = format!(
        "revocation: {} agents, {} connections, {} cuts each; milliseconds after the stop was accepted\n  {:>9} {:>8} {:>8} {:>6}   {:>21}   {:>21}   {:>21}   {:>13} {:>9}\n  {:>9} {:>8} {:>8} {:>6}   {:>10}{:>11}   {:>10}{:>11}   {:>10}{:>11}   {:>13} {:>9}\n",
        scenario.figures["agents"],
        scenario.figures["connections"],
        scenario.figures["rounds"],
        "",
        "",
        "",
        "",
        "last datagram sent",
        "agent's last byte",
        "agent knows why",
        "scheduler's",
        "gateway",
        "transfers",
        "streams",
        "MB/s",
        "load",
        "median",
        "p99",
        "median",
        "p99",
        "median",
        "p99",
        "own p99",
        "peak MiB",
    );
    for series in scenario.figures["series"].as_array().into_iter().flatten() {
        let at = |key: &str, q: &str| series[key][q].as_f64().unwrap_or(0.0);
        text += &format!(
            "  {:>9} {:>8} {:>8.0} {:>5.0}%   {:>10.2}{:>11.2}   {:>10.2}{:>11.2}   {:>10.2}{:>11.2}   {:>13.2} {:>9.0}\n",
            series["transfers"].as_u64().unwrap_or(0),
            series["streams"].as_u64().unwrap_or(0),
            series["mb_per_second"].as_f64().unwrap_or(0.0),
            series["load"].as_f64().unwrap_or(0.0) * 100.0,
            at("sent_ms", "median"),
            at("sent_ms", "p99"),
            at("last_byte_ms", "median"),
            at("last_byte_ms", "p99"),
            at("knows_ms", "median"),
            at("knows_ms", "p99"),
            at("scheduler_ms", "p99"),
            series["gateway_peak_bytes"].as_f64().unwrap_or(0.0) / f64::from(1 << 20),
        );
    }
    text
}

/// Starts transfers, waits until they run at full load, cuts them, and asks everybody when it was over.
fn round(
    trade: &mut Trade,
    peers: &mut [Peer],
    grant: &str,
    transfers: usize,
    bytes: u64,
    moments: &Path,
) -> Result<Round, BenchError> {
    let pid = trade.world.gateway()?.pid();
    usage::forget_peak(pid);
    let pulls = transfers.div_ceil(2);
    let half = peers.len() / 2;
    for (i, peer) in peers.iter_mut().enumerate() {
        let share = |all: usize| all / half + usize::from(i / 2 < all % half);
        let (pulls, pushes) = if peer.pulls { (share(pulls), 0) } else { (0, share(transfers - pulls)) };
        let target = if peer.pulls { grant } else { CODE }.to_owned();
        peer.process.order(&Order::Start { pulls, pushes, target, push_bytes: bytes })?;
    }
    let rates = load(peers, pulls)?;
    let scheduler = Lateness::watch();
    std::thread::sleep(LOOK_EVERY);
    let stop = trade.world.operator(["stop", "--entry", &trade.entry_id(CODE)?, "--reason", "测试阻断"]);
    stop.run(0)?;
    std::thread::sleep(Duration::from_millis(500));
    let mut told: Vec<Told> = Vec::new();
    for peer in peers.iter_mut() {
        told.extend(peer.process.ask::<Vec<Told>>(&Order::Tell)?);
    }
    let late = scheduler.end();
    let resume = trade.world.operator(["resume", "--entry", &trade.entry_id(CODE)?, "--reason", "测试恢复"]);
    resume.run(0)?;
    check(told.len() == transfers, || format!("{} of {transfers} transfers told how they went", told.len()))?;
    for transfer in &told {
        check(!transfer.complete && transfer.word == "stopped", || format!("cut, and not told so: {transfer:?}"))?;
    }
    // The gateway writes what it noted every 50 ms.
    std::thread::sleep(Duration::from_millis(200));
    let gateway_peak_bytes = usage::of(pid).peak_bytes;
    Ok(Round { told, moments: Moments::read(moments)?, late_ms: late, rates, gateway_peak_bytes })
}

/// Waits until every pull moves and the load has been steady; bytes a second of each look.
fn load(peers: &mut [Peer], pulls: usize) -> Result<Vec<f64>, BenchError> {
    let (mut rates, mut before, mut since) = (Vec::new(), 0u64, now_ns());
    for _ in 0..LOOKS_MAX {
        std::thread::sleep(LOOK_EVERY);
        let (mut bytes, mut moving) = (0, 0);
        for peer in peers.iter_mut() {
            let count: Value = peer.process.ask(&Order::Count)?;
            bytes += count["bytes"].as_u64().unwrap_or(0);
            moving += if peer.pulls { count["moving"].as_u64().unwrap_or(0) as usize } else { 0 };
        }
        let now = now_ns();
        if moving >= pulls {
            rates.push(bytes.saturating_sub(before) as f64 * 1e9 / now.saturating_sub(since).max(1) as f64);
        }
        (before, since) = (bytes, now);
        if rates.len() > STEADY_LOOKS {
            return Ok(rates);
        }
    }
    Err(BenchError::Wrong("the transfers did not all begin".to_owned()))
}

/// How late a thread wakes that sleeps a millisecond, over and over.
struct Lateness {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<f64>>,
}

impl Lateness {
    fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let nap = Duration::from_millis(1);
            let mut late = Vec::new();
            while !seen.load(Ordering::Relaxed) {
                let since = Instant::now();
                std::thread::sleep(nap);
                late.push(since.elapsed().saturating_sub(nap).as_secs_f64() * 1e3);
            }
            late
        });
        Self { stop, thread }
    }

    fn end(self) -> Vec<f64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// A process with an agent of its own.
struct Peer {
    process: Process,
    pulls: bool,
}

impl Peer {
    fn start(trade: &Trade, agency: &Agency, number: usize) -> Result<Self, BenchError> {
        let name = format!("peer-{number}");
        let profile: PathBuf = trade.world.dir.join(&name);
        let invited = trade.world.operator(["invite", &agency.code, "--agent", &name]).run(0)?.json()?;
        let invitation = invited["invitation"].as_str().unwrap_or_default().to_owned();
        Line::new(&trade.world.programs.agent).arg("--profile").arg(&profile).args(["join", &invitation]).run(0)?;
        let gateway = trade.world.address.parse().map_err(BenchError::data("the gateway's address"))?;
        let setting = Setting { profile, domain: crate::world::DOMAIN.to_owned(), gateway, connections: CONNECTIONS };
        let mut process = Process::start("revocation-peer", &setting)?;
        process.answer::<Value>()?;
        Ok(Self { process, pulls: number.is_multiple_of(2) })
    }
}
