//! How soon one subscriber has what is pushed: from commit to durable in a folder that a real process keeps, and from asking to
//! the first rows of a region of a large version.

use super::peer::Order;
use super::subscriber::{Kind, Told};
use super::world::{CODE, Fan};
use super::{LOOK_EVERY, Peer};
use crate::decide::Times;
use crate::error::{BenchError, check};
use crate::lineitem::{self, Format};
use crate::world::{Founding, Programs, World};
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
    let found =
        |label, name, authority, region, number| world.found(Founding { label, name, region, authority, number });
    let authority = found("authority", "测试主管部门", true, "44:province", 1)?;
    let provider = found("provider", "测试提供部门", false, "44:province", 2)?;
    let receiver = found("receiver", "测试接收部门", false, "4403:city", 3)?;
    let save = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(BenchError::io("writing", &path))?;
        Ok::<_, BenchError>(path)
    };
    world.publish(&provider, &authority, &save("entry.toml", &super::world::entry_toml())?, CODE)?;
    let code = &receiver.code;
    let list = format!("name = \"回流清单\"\n[[backflow]]\nentry = \"{CODE}\"\nto = [\"{code}\"]\nduty = \"测试\"\n");
    let publish = world.agent(&authority, ["backflow-list", "publish"]).arg(save("list.toml", &list)?);
    publish.arg("--key").arg(&authority.office_head).run(0)?;
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
        let file = save("rows.csv", &text)?;
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
            let mut peer = Peer::start(&fan, number * 2 + at as u8, Kind::Live, vec![subscriber.clone()])?;
            peer.order(&Order::Join { invitations: vec![subscriber.invitation.clone()] })?;
            let _joined: Value = peer.answer()?;
            peer.order(&Order::Tell { version: 1 })?;
            let told: Vec<Told> = peer.answer()?;
            let expected =
                written.regions.iter().find(|(code, _)| *code == subscriber.region).map_or(0, |(_, rows)| *rows);
            let told = told.into_iter().next().unwrap_or_default();
            check(told.rows == expected, || format!("{} got {} rows of {expected}", subscriber.region, told.rows))?;
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
