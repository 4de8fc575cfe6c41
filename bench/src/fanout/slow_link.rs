//! What compression is worth: a version of lineitem from memory to one subscriber behind a link of a given rate, compressed where
//! the gateway finds that worth it, and not.

use super::peer::Setting;
use super::subscriber::Kind;
use super::timely::taken;
use super::world::Fan;
use crate::error::BenchError;
use crate::lineitem::{self, Format};
use crate::link::{Conditions, Link};
use crate::usage;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// The province in whose counties all rows lie.
const PROVINCE: &str = "44";

/// How long a datagram takes each way.
const DELAY: Duration = Duration::from_millis(5);

/// How long a datagram may wait for its turn: a router's usual queue.
const QUEUE: Duration = Duration::from_millis(50);

/// Nothing is lost by chance.
const LUCK: u64 = 0;

/// How to measure.
#[derive(Clone, Debug)]
pub struct SlowLink {
    /// TPC-H's scale of the version.
    pub scale: f64,
    /// Rates of the link, in megabits a second: at most 100.
    pub megabits: Vec<u64>,
}

/// Measures in `dir`: of each rate without and with compression the seconds from asking to the acknowledgement, the bytes that
/// the gateway sent with what the link's queue had no room for, and the gateway's processor time.
///
/// # Errors
/// When something cannot be measured, or rows are missing.
pub fn slow_link(dir: &Path, options: &SlowLink) -> Result<Value, BenchError> {
    let counties = lineitem::county_codes()?.into_iter().filter(|code| code.starts_with(PROVINCE)).collect();
    let written = lineitem::write_over(dir, options.scale, Format::Parquet, counties)?;
    let subscribers = vec![(PROVINCE, Kind::Live); 1 + options.megabits.len() * 2];
    let mut fan = Fan::with(dir, &subscribers, &lineitem::entry_toml())?;
    fan.push(&written.data)?;
    let pid = fan.world.gateway()?.pid();
    let direct = |number| fan.setting(number, Kind::Live);
    let mut next = fan.subscribers.clone().into_iter().zip(0u8..);
    let mut subscriber = || next.next().ok_or_else(|| BenchError::Usage("too many rates".to_owned()));
    // From here on it is split, and what is sent is ready.
    let (first, number) = subscriber()?;
    taken(&direct(number)?, &first, written.rows)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(BenchError::system("starting threads"))?;
    let mut measured = Vec::new();
    for megabits in &options.megabits {
        for lz4 in [false, true] {
            let (subscriber, number) = subscriber()?;
            let direct = direct(number)?;
            let link = runtime.block_on(Link::start(direct.gateway, conditions(*megabits), LUCK));
            let link = link.map_err(BenchError::system("starting a link"))?;
            let setting = Setting { gateway: link.address(), lz4, ..direct };
            let before = usage::of(pid).cpu_seconds;
            let told = taken(&setting, &subscriber, written.rows)?;
            measured.push(json!({
                "megabits": megabits, "lz4": lz4, "seconds": told.whole_ms / 1e3, "arrow_bytes": told.bytes,
                "sent_bytes": link.passed().down_bytes, "datagrams_without_room": link.passed().lost,
                "gateway_cpu_seconds": usage::of(pid).cpu_seconds - before,
            }));
        }
    }
    drop(runtime);
    fan.world.drain()?;
    Ok(json!({ "scale": options.scale, "rows": written.rows, "measured": measured }))
}

fn conditions(megabits: u64) -> Conditions {
    let rate = megabits * 125_000;
    Conditions {
        delay: DELAY,
        rate_bytes_per_second: Some(rate),
        queue_bytes_max: rate * QUEUE.as_millis() as u64 / 1000,
        ..Conditions::default()
    }
}
