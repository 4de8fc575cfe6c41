//! What watching costs: the same transfer through the same gateway, started anew for each, in turn with every rule over
//! misuse and with none, and the processor time of each. One folder serves both, for how its file lies in the system's cache is
//! worth more than any rule; a process of its own serves each, for so is how its memory happens to lie. Pairs are interleaved
//! and change their order, so that what slows the machine for a while slows both; the bound is of the mean ratio over all
//! pairs.

use crate::error::{BenchError, check};
use crate::report::Scenario;
use crate::scenario::{Trade, only_file};
use crate::seeded::{Seeded, b3sum, write_file};
use crate::texts::{Asked, file_entry};
use crate::usage;
use crate::world::Programs;
use serde_json::{Value, json};
use std::path::Path;

/// What names the rules that work, in a gateway's config.toml.
const RULES: &str = "rules = [";

const CODE: &str = "300001/000004";

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Pairs.
    pub pairs: usize,
    /// Bytes of each transfer.
    pub bytes: u64,
    /// Makes the content.
    pub seed: u64,
}

/// Measures in `dir`.
///
/// # Errors
/// When something cannot be measured, or what comes back differs.
pub fn measure(dir: &Path, options: Options) -> Result<Scenario, BenchError> {
    let source = dir.join("source.bin");
    let expected = write_file(&source, options.bytes, &mut Seeded::new(options.seed, "cost"))?;
    let mut side = Side::open(dir, Programs::find()?, &source)?;
    // The first transfers fill caches and are not counted.
    side.pull(true, &expected)?;
    side.pull(false, &expected)?;
    let mut pairs: Vec<(f64, f64)> = Vec::new();
    for i in 0..options.pairs {
        let with_first = i % 2 == 0;
        let first = side.pull(with_first, &expected)?;
        let second = side.pull(!with_first, &expected)?;
        pairs.push(if with_first { (first, second) } else { (second, first) });
    }
    let logs: Vec<f64> = pairs.iter().map(|(with, without)| (with / without.max(1e-9)).ln()).collect();
    let (mean, half) = mean_and_half(&logs);
    let per_gb = |of: fn(&(f64, f64)) -> f64| {
        crate::report::median(pairs.iter().map(of).collect()) * 1e9 / options.bytes.max(1) as f64
    };
    let mut scenario = Scenario::default();
    scenario.ratios.insert("with_rules_over_without_upper", (mean + half).exp());
    scenario.figures = json!({
        "seed": options.seed,
        "pairs": options.pairs,
        "bytes": options.bytes,
        "gateway_cpu_seconds_per_gb_with": per_gb(|p| p.0),
        "gateway_cpu_seconds_per_gb_without": per_gb(|p| p.1),
        "ratio": mean.exp(),
        "ratio_lower_95": (mean - half).exp(),
        "ratio_upper_95": (mean + half).exp(),
        "samples": pairs,
    });
    side.trade.close()?;
    Ok(scenario)
}

/// The lines for people.
pub fn to_text(scenario: &Scenario) -> String {
    let of = |key: &str| scenario.figures.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    format!(
        "cost: gateway CPU-s/GB with rules {:.3}, without {:.3}; ratio {:.4}, 95 % within {:.4} and {:.4}, {} pairs\n",
        of("gateway_cpu_seconds_per_gb_with"),
        of("gateway_cpu_seconds_per_gb_without"),
        of("ratio"),
        of("ratio_lower_95"),
        of("ratio_upper_95"),
        of("pairs"),
    )
}

/// The gateway, with and without rules.
struct Side {
    trade: Trade,
    grant: String,
    out: std::path::PathBuf,
    /// Its configuration with all rules.
    config: String,
}

impl Side {
    fn open(dir: &Path, programs: Programs, source: &Path) -> Result<Self, BenchError> {
        let mut trade = Trade::open(dir, programs)?;
        let asked = Asked {
            entry: CODE,
            basis: "测试",
            scenario: "成本测试",
            purpose: "测试",
            method: "file_download",
            columns: &[],
            rows: None,
        };
        let grant = trade.share(CODE, &file_entry("测试文件"), asked)?;
        trade.world.agent(&trade.provider, ["push", "file", CODE]).arg(source).run(0)?;
        let file = trade.world.gateway_dir().join("config.toml");
        let config = std::fs::read_to_string(&file).map_err(BenchError::io("reading", &file))?;
        check(config.contains(RULES), || format!("{} names no rules", file.display()))?;
        trade.world.drain()?;
        Ok(Self { trade, grant, out: dir.join("out"), config })
    }

    /// Starts the gateway and pulls once; the gateway's processor seconds for that.
    fn pull(&mut self, has_rules: bool, expected: &str) -> Result<f64, BenchError> {
        let file = self.trade.world.gateway_dir().join("config.toml");
        let config = if has_rules { self.config.clone() } else { without_rules(&self.config) };
        std::fs::write(&file, config).map_err(BenchError::io("writing", &file))?;
        self.trade.world.serve()?;
        let pid = self.trade.world.gateway()?.pid();
        let before = usage::of(pid).cpu_seconds;
        let requester = self.trade.requester.clone();
        self.trade.world.agent(&requester, ["pull", &self.grant, "--out"]).arg(&self.out).run(0)?;
        let used = usage::of(pid).cpu_seconds - before;
        self.trade.world.drain()?;
        let found = b3sum(&only_file(&self.out)?)?;
        check(found == expected, || format!("the pulled file's b3sum is {found}, the source's {expected}"))?;
        let gone = if self.out.is_dir() { std::fs::remove_dir_all(&self.out) } else { std::fs::remove_file(&self.out) };
        gone.map_err(BenchError::io("removing", &self.out))?;
        Ok(used)
    }
}

/// A configuration in which no rule works.
fn without_rules(config: &str) -> String {
    let lines = config.lines().map(|line| if line.starts_with(RULES) { "rules = []" } else { line });
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The mean, and half of its interval of 95 % by Student's t.
fn mean_and_half(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let spread = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    (mean, student(values.len().saturating_sub(1)) * (spread / count).sqrt())
}

/// Student's t for 95 % on both sides, by degrees of freedom.
const STUDENT: [(usize, f64); 11] = [
    (1, 12.71),
    (2, 4.30),
    (3, 3.18),
    (4, 2.78),
    (5, 2.57),
    (7, 2.36),
    (9, 2.26),
    (14, 2.14),
    (19, 2.09),
    (29, 2.05),
    (39, 2.03),
];

/// Between the table's rows the larger.
fn student(freedom: usize) -> f64 {
    let row = STUDENT.iter().rev().find(|(rows, _)| *rows <= freedom);
    row.map_or(f64::INFINITY, |(_, t)| *t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_rules_are_taken_out() {
        assert_eq!(without_rules("a = 1\nrules = [\"x\", \"y\"]\n# rules\n"), "a = 1\nrules = []\n# rules\n");
    }

    #[test]
    fn the_interval_is_students() {
        let values: Vec<f64> = (0..20).map(|i| f64::from(i % 2)).collect();
        let (mean, half) = mean_and_half(&values);
        assert!((mean - 0.5).abs() < 1e-9);
        assert!((half - 2.09 * (20.0 * 0.25 / 19.0 / 20.0_f64).sqrt()).abs() < 1e-9, "{half}");
        assert!(mean_and_half(&[1.0]).1.is_nan() || mean_and_half(&[1.0]).1.is_infinite(), "one pair has no bound");
    }
}
