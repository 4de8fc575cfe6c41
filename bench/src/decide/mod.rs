//! How long the gate takes to decide: a policy of a million grants, uniform random over all of them, beside one random
//! read in an array of the same size; and what a request sees while the policy changes.
//!
//! What is timed is `decide::pull`, the very function that a request goes through, by the id of its grant. A clock call
//! costs tens of nanoseconds, so decisions are timed in batches of `BATCH`: a sample is a batch's mean, and the figures
//! are of those means. Because a mean hides a slow one among its neighbours, the same calls are timed a second time one
//! by one, with the clock's own cost (measured beside it) taken off; those are told as `single`.
//!
//! What a request asks lies ready in the cache, as it does when it was just parsed; what it is judged by does not.

mod policy;

use crate::error::{BenchError, check};
use crate::report::Scenario;
use crate::seeded::Seeded;
use crate::usage;
use lingqu_gateway::gate::{Gate, Now, PullPermit, decide};
use policy::{Picker, Population};
use serde_json::{Value, json};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Decisions in one timed batch: enough that the clock is a few percent, few enough that a batch is one moment.
const BATCH: usize = 16;

/// Parts of the measured load, each beside as many random reads: a machine whose pace changes meets both alike.
const PARTS: u64 = 64;

/// Memory that a grant may take (docs: operations).
const GRANT_BYTES_MAX: f64 = 400.0;

/// Changes a second beside which requests are measured.
const CHANGES_PER_SECOND: u32 = 100;

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Grants in force.
    pub grants: u64,
    /// Agents that ask.
    pub agents: u64,
    /// Decisions that are timed.
    pub decisions: u64,
    /// How long requests are measured without changes, and how long with them.
    pub seconds: u64,
    /// Makes policy and requests.
    pub seed: u64,
}

impl Options {
    /// A million grants of ten thousand agents.
    pub const fn full(seed: u64) -> Self {
        Self { grants: 1_000_000, agents: 10_000, decisions: 4_000_000, seconds: 10, seed }
    }

    /// A tenth of it, for every change: a smaller table, part of which fits the cache.
    pub const fn quick(seed: u64) -> Self {
        Self { grants: 100_000, agents: 1_000, decisions: 400_000, seconds: 1, seed }
    }
}

/// Measures, and gives ratios and figures.
///
/// # Errors
/// Where a decision is not what it must be.
pub fn measure(options: Options) -> Result<Scenario, BenchError> {
    let population = Arc::new(Population::new(options.grants, options.agents, options.seed)?);
    let before = usage::resident_bytes();
    let gate = Arc::new(Gate::new(Arc::new(policy::Fixed)));
    let built = Instant::now();
    population.publish(&gate)?;
    let built = built.elapsed();
    let bytes = usage::resident_bytes().saturating_sub(before);
    let bytes_per_grant = bytes as f64 / options.grants as f64;
    let now = Now { wall: policy::NOW, monotonic: Duration::from_secs(1) };
    let snapshot = gate.snapshot();
    let [agencies, agents, entries, grants] = snapshot.counts();
    check(grants as u64 == options.grants, || format!("{grants} grants are in force of {}", options.grants))?;

    let decide_one = |request: &policy::Request| match decide::pull(&snapshot, &request.peer, &request.ask, now) {
        Ok(allowed) => {
            black_box(allowed);
            Ok(())
        }
        Err(denied) => Err(BenchError::Wrong(format!("a decision in the measured load was {denied:?}"))),
    };
    let clock_ns = clock_cost_ns();
    let mut figures = serde_json::Map::new();
    let mut plain = Times::default();
    let mut reads = RandomReads::new(bytes, options.seed, clock_ns);
    let batches_in_part = options.decisions / BATCH as u64 / PARTS;
    for (name, stream, narrowed) in [("plain", 1, false), ("narrowed", 2, true)] {
        let mut picker = Picker::new(&population, stream, narrowed)?;
        let mut batches = Times::default();
        let mut singles = Times::default();
        for part in 0..PARTS {
            for _ in 0..batches_in_part {
                let requests = picker.next(BATCH);
                let since = Instant::now();
                for request in requests {
                    decide_one(request)?;
                }
                let took = since.elapsed().as_nanos() as f64;
                // The first parts warm code and predictors up.
                if part >= PARTS / 8 {
                    batches.add((took - clock_ns).max(0.0) / BATCH as f64);
                }
            }
            if !narrowed {
                reads.measure(batches_in_part, part >= PARTS / 8);
            }
        }
        for _ in 0..options.decisions / 8 / BATCH as u64 {
            for request in picker.next(BATCH) {
                let since = Instant::now();
                decide_one(request)?;
                singles.add((since.elapsed().as_nanos() as f64 - clock_ns).max(0.0));
            }
        }
        figures.insert(name.to_owned(), json!({ "batched_ns": batches.summary(), "single_ns": singles.summary() }));
        if !narrowed {
            plain = batches;
        }
    }
    // The array goes: permits are measured without it.
    let mut reads = reads.ended();
    let mut scenario = Scenario::default();
    // What is smaller lies in the cache, and a read of it says nothing of memory: another name, which no floor has.
    let is_full = options.grants >= Options::full(options.seed).grants;
    let name = if is_full { "median_over_random_read" } else { "small_median_over_random_read" };
    scenario.ratios.insert(name, plain.at(0.5) / reads.at(0.5).max(1e-9));
    let name = if is_full { "p99_over_random_read_p99" } else { "small_p99_over_random_read_p99" };
    scenario.ratios.insert(name, plain.at(0.99) / reads.at(0.99).max(1e-9));
    scenario.ratios.insert("grant_bytes_over_budget", bytes_per_grant / GRANT_BYTES_MAX);
    drop(snapshot);

    let quiet = requests(&gate, &population, options, None)?;
    let changing = requests(&gate, &population, options, Some(CHANGES_PER_SECOND))?;
    figures.insert("requests_quiet_ns".to_owned(), quiet.0);
    figures.insert("requests_while_changing_ns".to_owned(), changing.0);
    figures.insert("publish_ns".to_owned(), changing.1);
    figures.insert("random_read_ns".to_owned(), reads.summary());
    scenario.figures = json!({
        "seed": options.seed,
        "agencies": agencies,
        "agents": agents,
        "entries": entries,
        "grants": grants,
        "bytes": bytes,
        "bytes_per_grant": bytes_per_grant,
        "build_seconds": built.as_secs_f64(),
        "batch": BATCH,
        "clock_ns": clock_ns,
        "changes_per_second": CHANGES_PER_SECOND,
        "figures": Value::Object(figures),
    });
    Ok(scenario)
}

/// The table for people.
pub fn to_text(scenario: &Scenario) -> String {
    let figures = &scenario.figures["figures"];
    let mut text = format!(
        "decide: {} grants, {} agents, {} entries, {:.0} B a grant\n  {:<34}{:>9}{:>9}{:>9}{:>10}\n",
        scenario.figures["grants"],
        scenario.figures["agents"],
        scenario.figures["entries"],
        scenario.figures["bytes_per_grant"].as_f64().unwrap_or(0.0),
        "ns",
        "median",
        "p99",
        "p99.9",
        "most"
    );
    let rows = [
        ("one random read", &figures["random_read_ns"]),
        ("decision, mean of a batch", &figures["plain"]["batched_ns"]),
        ("decision, one by one", &figures["plain"]["single_ns"]),
        ("decision with columns and region", &figures["narrowed"]["batched_ns"]),
        ("permit, policy at rest", &figures["requests_quiet_ns"]),
        ("permit, 100 changes a second", &figures["requests_while_changing_ns"]),
        ("one change put in force", &figures["publish_ns"]),
    ];
    for (name, of) in rows {
        let at = |key: &str| of[key].as_f64().unwrap_or(0.0);
        text +=
            &format!("  {name:<34}{:>9.0}{:>9.0}{:>9.0}{:>10.0}\n", at("median"), at("p99"), at("p999"), at("most"));
    }
    text
}

/// Permits as a request gets them, with leash and volume, one by one, while a thread changes the policy or not.
fn requests(
    gate: &Arc<Gate>,
    population: &Arc<Population>,
    options: Options,
    changes_per_second: Option<u32>,
) -> Result<(Value, Value), BenchError> {
    gate.refresh(Duration::from_secs(u64::from(u32::MAX)));
    let stop = Arc::new(AtomicBool::new(false));
    let changer = changes_per_second.map(|rate| {
        let (gate, stop, population) = (Arc::clone(gate), Arc::clone(&stop), Arc::clone(population));
        std::thread::spawn(move || {
            let mut changes = Times::default();
            let mut random = Seeded::new(population.seed, "changes");
            let mut next = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                next += Duration::from_secs(1) / rate;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                let grant = random.below(population.grants);
                // Suspended and reinstated at once: the load that is measured stays allowed but for a moment.
                for suspended in [true, false] {
                    let update = population.grant(grant, suspended);
                    let since = Instant::now();
                    gate.publish(vec![update]);
                    changes.add(since.elapsed().as_nanos() as f64);
                }
            }
            changes
        })
    });
    let clock_ns = clock_cost_ns();
    let mut picker = Picker::new(population, 3, false)?;
    let mut times = Times::default();
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let mut refused = 0u64;
    while Instant::now() < until {
        for request in picker.next(BATCH) {
            let since = Instant::now();
            let permit: Result<PullPermit, _> = gate.pull(&request.peer, &request.ask);
            times.add((since.elapsed().as_nanos() as f64 - clock_ns).max(0.0));
            refused += u64::from(permit.is_err());
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut changes = changer.and_then(|thread| thread.join().ok()).unwrap_or_default();
    // One that was asked for in the moment of its suspension may be.
    check(refused <= changes.0.len() as u64, || format!("{refused} permits were refused"))?;
    Ok((times.summary(), changes.summary()))
}

/// Reads of an array, each at a place that the one before decides, so that no two overlap.
struct RandomReads {
    array: Vec<u64>,
    value: u64,
    clock_ns: f64,
    times: Times,
}

impl RandomReads {
    /// Of an array of `bytes`.
    fn new(bytes: u64, seed: u64, clock_ns: f64) -> Self {
        // Filled, so that every page is one of its own.
        let array = (0..(bytes / 8).max(1)).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        Self { array, value: Seeded::new(seed, "reads").next_u64(), clock_ns, times: Times::default() }
    }

    /// The times, without the array.
    fn ended(self) -> Times {
        self.times
    }

    /// So many batches of reads.
    fn measure(&mut self, batches: u64, counts: bool) {
        for _ in 0..batches {
            let since = Instant::now();
            for _ in 0..BATCH {
                // The value read decides the next place.
                let next = self.value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let place = ((u128::from(next) * self.array.len() as u128) >> 64) as usize;
                self.value = next ^ black_box(self.array.get(place).copied().unwrap_or(0));
            }
            let took = since.elapsed().as_nanos() as f64;
            if counts {
                self.times.add((took - self.clock_ns).max(0.0) / BATCH as f64);
            }
        }
    }
}

/// What reading the clock twice costs: the median.
fn clock_cost_ns() -> f64 {
    let mut times = Times::default();
    for _ in 0..100_000 {
        let since = Instant::now();
        times.add(since.elapsed().as_nanos() as f64);
    }
    times.at(0.5)
}

/// Samples in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    pub(crate) fn add(&mut self, ns: f64) {
        self.0.push(ns);
    }

    /// The sample below which `share` of all lie.
    pub(crate) fn at(&mut self, share: f64) -> f64 {
        self.0.sort_unstable_by(f64::total_cmp);
        let place = ((self.0.len() as f64 * share) as usize).min(self.0.len().saturating_sub(1));
        self.0.get(place).copied().unwrap_or(0.0)
    }

    pub(crate) fn summary(&mut self) -> Value {
        json!({
            "samples": self.0.len(),
            "median": self.at(0.5),
            "p90": self.at(0.9),
            "p99": self.at(0.99),
            "p999": self.at(0.999),
            "most": self.at(1.0),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let mut times = Times((0..=100).map(f64::from).collect());
        assert!((times.at(0.5) - 50.0).abs() < 1e-9 && (times.at(0.99) - 99.0).abs() < 1.1);
        assert!(Times::default().at(0.5).abs() < 1e-9);
    }

    #[test]
    fn a_small_policy_is_measured_whole() {
        let options = Options { grants: 500, agents: 20, decisions: 2_000, seconds: 0, seed: 3 };
        let scenario = measure(options).unwrap();
        assert_eq!(scenario.figures["grants"], 500);
        assert!(scenario.ratios["small_median_over_random_read"] > 0.0);
        assert!(to_text(&scenario).contains("one random read"));
    }
}
