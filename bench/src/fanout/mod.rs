//! Backflow to everybody: one push to an entry of 3,000 regions, one subscriber a region, some dead, some slow; how soon the last
//! live one has its rows, and what it costs the gateway.
//!
//! Agencies, agents, certificates and the list are made through the gateway's own doors. Subscribers are tasks of a few
//! processes, each with a connection of its own from one of many addresses of loopback; what they take they check and throw away, so
//! that no disk of theirs is measured. The dead are processes that are killed before the push: for the gateway they
//! are there until their connections time out.
//!
//! Times are from the version's commit, by the machine's one clock. Subscribers and gateway share the cores.

mod arguments;
mod measured;
mod peer;
mod slow_link;
mod subscriber;
mod timely;
mod world;

pub use arguments::Arguments;
pub use peer::run as peer;
pub use slow_link::{SlowLink, slow_link};
pub use timely::{First, Timely, Whole, first_rows, timeliness};

use self::peer::{Order, Setting};
use self::subscriber::{Kind, Told};
use self::world::{Fan, Subscribing};
use crate::error::{BenchError, check};
use crate::peers::Process;
use crate::report::Scenario;
use crate::usage;
use measured::Counters;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// Processes of live subscribers.
const LIVE_PEERS: usize = 3;

/// Shares of those that are dead and slow: one in so many each.
const SHARE: usize = 10;

/// The gateway's memory: so much, and so much for each connection.
const BUDGET_BYTES: u64 = 128 << 20;
const CONNECTION_BYTES: u64 = 40_000;

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Subscribers, each of a region of its own.
    pub subscribers: usize,
    /// Rows of the version that is pushed to all of them.
    pub rows: u64,
    /// Decides which rows lie where.
    pub seed: u64,
}

impl Options {
    /// What the issue asks for.
    pub const FULL: Self = Self { subscribers: 3_000, rows: 1_000_000, seed: 1 };

    /// Enough to see whether it works.
    pub const QUICK: Self = Self { subscribers: 60, rows: 60_000, seed: 1 };
}

/// Measures in `dir`.
///
/// # Errors
/// When something cannot be measured, or anybody got other rows than its own.
pub fn measure(dir: &Path, options: Options) -> Result<Scenario, BenchError> {
    let since = Instant::now();
    let mut fan = Fan::open(dir, options.subscribers)?;
    let first = fan.version(dir, options.subscribers as u64, options.seed)?;
    fan.push(&first.file)?;
    let made_seconds = since.elapsed().as_secs_f64();

    let since = Instant::now();
    let mut peers = peers(&fan)?;
    for peer in &mut peers {
        peer.order(&Order::Join { invitations: peer.of.iter().map(|s| s.invitation.clone()).collect() })?;
    }
    for peer in &mut peers {
        let _joined: Value = peer.answer()?;
    }
    tell_all(&mut peers, 1, &first.rows_of)?;
    let joined_seconds = since.elapsed().as_secs_f64();

    let second = fan.version(dir, options.rows, options.seed + 1)?;
    let pid = fan.world.gateway()?.pid();
    let joined_peak = usage::of(pid).peak_bytes;
    // Killed without a word: for the gateway they still stand.
    let dead = peers.iter().filter(|peer| peer.kind == Kind::Dead).map(|peer| peer.of.len()).sum::<usize>();
    peers.retain(|peer| peer.kind != Kind::Dead);
    // What a push itself reads, to judge what came, is not the fan-out's.
    fan.publish_quiet(dir)?;
    let before = Counters::read(&fan.world.http)?;
    fan.push_to(world::QUIET_CODE, &second.file)?;
    let of_push = Counters::read(&fan.world.http)?.since(&before);
    usage::forget_peak(pid);
    let before = Counters::read(&fan.world.http)?;
    let cpu_before = usage::of(pid).cpu_seconds;
    fan.push(&second.file)?;
    let (mut live, mut slow): (Vec<Peer>, Vec<Peer>) = peers.into_iter().partition(|peer| peer.kind == Kind::Live);
    let told = tell_all(&mut live, 2, &second.rows_of)?;
    let behind = fan.behind()?;
    let of_slow = tell_all(&mut slow, 2, &second.rows_of)?;
    let after = Counters::read(&fan.world.http)?;
    let used = usage::of(pid);
    let behind_after = fan.behind()?;
    for subscriber in fan.subscribers.iter().filter(|s| s.kind == Kind::Dead) {
        check(behind_after.contains(&subscriber.code), || {
            format!("the dead {} is not shown as behind", subscriber.code)
        })?;
    }
    check(behind_after.len() == dead, || format!("{} are behind, of {dead} dead", behind_after.len()))?;

    let mut moved = after.since(&before);
    moved.read_bytes -= of_push.read_bytes;
    let budget = BUDGET_BYTES + CONNECTION_BYTES * options.subscribers as u64;
    let mut scenario = Scenario::default();
    scenario.ratios.insert("decoded_over_distinct", moved.decoded_rows / options.rows.max(1) as f64);
    scenario.ratios.insert("read_over_sent", moved.read_bytes / moved.sent_bytes.max(1.0));
    let peak = used.peak_bytes.max(joined_peak);
    scenario.ratios.insert("gateway_peak_over_budget", peak as f64 / budget as f64);
    let mut times: Vec<i64> = told.iter().map(|told| told.took_ms).collect();
    times.sort_unstable();
    let at =
        |share: f64| times.get(((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1))).copied();
    scenario.figures = json!({
        "seed": options.seed,
        "subscribers": options.subscribers,
        "live": told.len(), "slow": of_slow.len(), "dead": dead,
        "rows": options.rows,
        "made_seconds": made_seconds, "joined_seconds": joined_seconds,
        "live_ms_p50": at(0.5), "live_ms_p99": at(0.99), "last_live_ms": times.last(),
        "last_slow_ms": of_slow.iter().map(|told| told.took_ms).max(),
        "behind_when_the_last_live_had_it": behind.len(),
        "behind_in_the_end": behind_after.len(),
        "decoded_rows": moved.decoded_rows,
        "read_bytes_of_the_push": of_push.read_bytes, "read_bytes": moved.read_bytes, "sent_bytes": moved.sent_bytes,
        "gateway_peak_mib_of_the_push": used.peak_bytes as f64 / 1_048_576.0,
        "gateway_peak_mib_of_joining": joined_peak as f64 / 1_048_576.0,
        "gateway_budget_mib": budget as f64 / 1_048_576.0,
        "gateway_cpu_seconds": used.cpu_seconds - cpu_before,
    });
    drop((live, slow));
    fan.world.drain()?;
    Ok(scenario)
}

/// The lines for people.
pub fn to_text(scenario: &Scenario) -> String {
    let figures = &scenario.figures;
    let of = |key: &str| figures[key].as_f64().unwrap_or(0.0);
    format!(
        "backflow: {} subscribers ({} live, {} slow, {} dead), one version of {} rows\n  from commit to acknowledged: median \
         {:.0} ms, p99 {:.0} ms, the last live one {:.0} ms; the last slow one {:.0} ms\n  behind in the end: {} (the \
         dead)\n  rows decoded / distinct {:.3}; bytes read from the lake / sent {:.3} ({:.1} MB / {:.1} MB)\n  gateway: peak \
         {:.0} MiB in the push, {:.0} MiB before (budget {:.0} MiB), {:.1} CPU s\n  made in {:.0} s, joined in {:.0} s\n",
        figures["subscribers"],
        figures["live"],
        figures["slow"],
        figures["dead"],
        figures["rows"],
        of("live_ms_p50"),
        of("live_ms_p99"),
        of("last_live_ms"),
        of("last_slow_ms"),
        figures["behind_in_the_end"],
        scenario.ratios.get("decoded_over_distinct").copied().unwrap_or(0.0),
        scenario.ratios.get("read_over_sent").copied().unwrap_or(0.0),
        of("read_bytes") / 1e6,
        of("sent_bytes") / 1e6,
        of("gateway_peak_mib_of_the_push"),
        of("gateway_peak_mib_of_joining"),
        of("gateway_budget_mib"),
        of("gateway_cpu_seconds"),
        of("made_seconds"),
        of("joined_seconds"),
    )
}

/// Waits until all have taken a version, and checks that each got as many rows as its region has.
fn tell_all(
    peers: &mut [Peer],
    version: u64,
    rows_of: &std::collections::HashMap<String, u64>,
) -> Result<Vec<Told>, BenchError> {
    let mut all = Vec::new();
    for peer in peers.iter_mut() {
        peer.order(&Order::Tell { version })?;
    }
    for peer in peers {
        let told: Vec<Told> = peer.answer()?;
        check(told.len() == peer.of.len(), || "not everybody told how it went".to_owned())?;
        for (told, subscriber) in told.iter().zip(&peer.of) {
            let expected = rows_of.get(&subscriber.region).copied().unwrap_or(0);
            check(told.rows == expected, || {
                format!("{} got {} rows, its region has {expected}", subscriber.region, told.rows)
            })?;
        }
        all.extend(told);
    }
    Ok(all)
}

fn peers(fan: &Fan) -> Result<Vec<Peer>, BenchError> {
    let of = |kind| fan.subscribers.iter().filter(move |s| s.kind == kind).cloned().collect::<Vec<_>>();
    let live = of(Kind::Live);
    let mut groups: Vec<(Kind, Vec<Subscribing>)> =
        live.chunks(live.len().div_ceil(LIVE_PEERS).max(1)).map(|chunk| (Kind::Live, chunk.to_vec())).collect();
    groups.extend([(Kind::Slow, of(Kind::Slow)), (Kind::Dead, of(Kind::Dead))]);
    groups
        .into_iter()
        .enumerate()
        .map(|(number, (kind, of))| Peer::start(&fan.setting(number as u8, kind)?, of))
        .collect()
}

/// A process of subscribers.
struct Peer {
    process: Process,
    kind: Kind,
    of: Vec<Subscribing>,
}

impl Peer {
    fn start(setting: &Setting, of: Vec<Subscribing>) -> Result<Self, BenchError> {
        Ok(Self { process: Process::start("backflow-peer", setting)?, kind: setting.kind, of })
    }

    fn order(&mut self, order: &Order) -> Result<(), BenchError> {
        self.process.order(order)
    }

    fn answer<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, BenchError> {
        self.process.answer()
    }
}

/// Between two looks at something that changes elsewhere.
const LOOK_EVERY: Duration = Duration::from_millis(5);
