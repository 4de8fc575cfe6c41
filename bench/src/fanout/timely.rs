//! How soon one subscriber has what is pushed: from commit to durable in a folder that a real process keeps, and from asking to
//! the first rows of a region of a large version.

use super::peer::{Order, Setting};
use super::subscriber::{Kind, Told};
use super::world::{CODE, Fan, Subscribing};
use super::{LOOK_EVERY, Peer};
use crate::decide::Times;
use crate::error::{BenchError, check};
use crate::lineitem::{self, Format};
use crate::world::{FlowingBack, Programs, World, save};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// A version that is not durable by then is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// How to measure commit to durable.
#[derive(Clone, Copy, Debug)]
pub struct Timely {
    /// Versions, each added to those before.
    pub versions: u64,
    /// Rows of each.
    pub rows: u64,
}

/// From a version's commit to its being durable in the folder of a `lingqu backflow --follow`, as the gateway sees it: the
/// acknowledgement comes after the files, their names and the manifest are synced. All rows are of the subscriber's region.
///
/// # Errors
/// When something cannot be measured.
pub fn timeliness(dir: &Path, options: Timely) -> Result<Value, BenchError> {
    let mut world = World::create(&dir.join("world"), Programs::find()?)?;
    world.serve()?;
    let FlowingBack { provider, receiver } = world.flowing_back(dir, &super::world::entry_toml(), CODE)?;
    let follower = world.agent(&receiver, ["backflow", CODE, "--follow", "--out"]).arg(dir.join("rows")).start()?;
    let mut times = Times::default();
    for version in 1..=options.versions {
        let mut text = "region,id,name,amount\n".to_owned();
        for row in 0..options.rows {
            let id = version * options.rows + row;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "44030{},{id},登记主体{id:012},{}", 3 + row % 3, row * 7919);
        }
        let mode = if version == 1 { "full" } else { "append" };
        let file = save(dir, "rows.csv", &text)?;
        world.agent(&provider, ["push", "batch", CODE, "--mode", mode]).arg(file).run(0)?;
        times.add(durable(&world, version)?);
    }
    follower.kill()?;
    world.drain()?;
    Ok(json!({ "versions": options.versions, "rows": options.rows, "commit_to_durable_ms": times.summary() }))
}

/// Waits until the only subscription has a version; how long that took, in milliseconds.
fn durable(world: &World, version: u64) -> Result<f64, BenchError> {
    let since = Instant::now();
    loop {
        let shown = world.operator(["subscriptions"]).run(0)?.json()?;
        if shown[0]["version"] == version {
            return Ok(shown[0]["lag_ms"].as_f64().unwrap_or(0.0));
        }
        check(since.elapsed() < STUCK_AFTER, || format!("version {version} is not durable: {shown}"))?;
        std::thread::sleep(LOOK_EVERY);
    }
}

/// How to measure the first rows.
#[derive(Clone, Copy, Debug)]
pub struct First {
    /// TPC-H's scale of the version.
    pub scale: f64,
    /// Regions that ask, one after the other; before each the gateway starts anew.
    pub regions: usize,
}

/// From asking to follow until the first rows of a county came, over lineitem: cold, as the first who asks after a start, and
/// hot, as the second. The rows lie as their provider's file, in which every county is everywhere.
///
/// # Errors
/// When something cannot be measured.
pub fn first_rows(dir: &Path, options: First) -> Result<Value, BenchError> {
    let counties = lineitem::county_codes()?;
    let step = (counties.len() / (options.regions * 2).max(1)).max(1);
    let asking: Vec<(&str, Kind)> =
        counties.iter().step_by(step).take(options.regions * 2).map(|code| (code.as_str(), Kind::Live)).collect();
    let mut fan = Fan::with(dir, &asking, &lineitem::entry_toml())?;
    let written = lineitem::write(dir, options.scale, Format::Parquet)?;
    fan.push(&written.data)?;
    let (mut cold, mut hot, mut whole) = (Times::default(), Times::default(), Times::default());
    let subscribers = fan.subscribers.clone();
    for (number, pair) in (0u8..).zip(subscribers.chunks(2)) {
        fan.world.drain()?;
        fan.world.serve()?;
        for (at, subscriber) in pair.iter().enumerate() {
            let mut rows = written.regions.iter().filter(|(code, _)| *code == subscriber.region);
            let setting = fan.setting(number * 2 + at as u8, Kind::Live)?;
            let told = taken(&setting, subscriber, rows.next().map_or(0, |(_, rows)| *rows))?;
            if at == 0 { &mut cold } else { &mut hot }.add(told.first_rows_ms);
            if at == 0 {
                whole.add(told.whole_ms);
            }
        }
    }
    fan.world.drain()?;
    Ok(json!({
        "scale": options.scale, "rows": written.rows,
        "first_rows_cold_ms": cold.summary(), "all_rows_cold_ms": whole.summary(), "first_rows_hot_ms": hot.summary(),
    }))
}

/// How one subscriber, in a process of its own, takes the first version, which has so many rows for it.
pub(super) fn taken(setting: &Setting, subscriber: &Subscribing, rows: u64) -> Result<Told, BenchError> {
    let mut peer = Peer::start(setting, vec![subscriber.clone()])?;
    peer.order(&Order::Join { invitations: vec![subscriber.invitation.clone()] })?;
    let _joined: Value = peer.answer()?;
    peer.order(&Order::Tell { version: 1 })?;
    let told: Vec<Told> = peer.answer()?;
    let told = told.into_iter().next().unwrap_or_default();
    check(told.rows == rows, || format!("{} got {} rows of {rows}", subscriber.region, told.rows))?;
    Ok(told)
}

/// A version of lineitem that flows back whole to departments of one region, one after the other.
pub struct Whole {
    fan: Fan,
    next: usize,
}

impl Whole {
    /// Pushes `data`, whose rows all lie in `region`, for so many subscribers.
    ///
    /// # Errors
    /// When a program fails.
    pub fn open(dir: &Path, region: &str, data: &Path, subscribers: usize) -> Result<Self, BenchError> {
        let fan = Fan::with(dir, &vec![(region, Kind::Live); subscribers], &lineitem::entry_toml())?;
        fan.push(data)?;
        Ok(Self { fan, next: 0 })
    }

    /// Starts the gateway anew and lets two subscribers take all `rows`: the first while the version is read, the second from
    /// what was split for it. Gives megabytes of Arrow a second of each, from asking to the acknowledgement.
    ///
    /// # Errors
    /// When rows are missing.
    pub fn cold_and_hot(&mut self, rows: u64) -> Result<(f64, f64), BenchError> {
        self.fan.world.drain()?;
        self.fan.world.serve()?;
        let mut take = || {
            let subscriber = self.fan.subscribers.get(self.next).cloned();
            let subscriber = subscriber.ok_or_else(|| BenchError::Usage("no subscriber is left".to_owned()))?;
            self.next += 1;
            let told = taken(&self.fan.setting(self.next as u8, Kind::Live)?, &subscriber, rows)?;
            Ok::<_, BenchError>(told.bytes as f64 / told.whole_ms.max(1e-6) / 1e3)
        };
        Ok((take()?, take()?))
    }

    /// Ends the gateway.
    ///
    /// # Errors
    /// What the system says.
    pub fn close(mut self) -> Result<(), BenchError> {
        self.fan.world.drain().map(drop)
    }
}
