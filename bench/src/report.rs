//! What was measured, as one JSON document with every raw sample, and the floors it is held against.

use crate::error::BenchError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The floors, carried in the program: a run on another machine is held against the same.
const FLOORS: &str = include_str!("../floors.toml");

/// One measurement. What was not measured is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// Wall-clock seconds, for programs from start to end.
    pub seconds: f64,
    /// Bytes of content.
    pub bytes: u64,
    /// Rows of content.
    pub rows: u64,
    /// Files of content.
    pub files: u64,
    /// Processor seconds of the sending or asking program.
    pub agent_cpu_seconds: f64,
    /// Processor seconds of the answering program meanwhile.
    pub gateway_cpu_seconds: f64,
    /// The sending or asking program's highest memory.
    pub agent_peak_bytes: u64,
    /// The answering program's highest memory meanwhile.
    pub gateway_peak_bytes: u64,
}

impl Sample {
    /// Bytes a second.
    pub fn rate(&self) -> f64 {
        self.bytes as f64 / self.seconds.max(1e-9)
    }

    /// Files a second.
    pub fn files_rate(&self) -> f64 {
        self.files as f64 / self.seconds.max(1e-9)
    }

    /// Processor seconds of both sides for 10^9 bytes.
    pub fn cpu_seconds_per_gb(&self) -> f64 {
        (self.agent_cpu_seconds + self.gateway_cpu_seconds) * 1e9 / (self.bytes.max(1) as f64)
    }
}

/// The samples of one scenario by what was done, and the ratios between them.
#[derive(Clone, Debug, Default)]
pub struct Scenario {
    /// Samples of each thing that was done, in the order of repetitions.
    pub samples: BTreeMap<&'static str, Vec<Sample>>,
    /// Ratios by name, as floors name them after the scenario's name and a dot.
    pub ratios: BTreeMap<&'static str, f64>,
    /// What else was measured, in a form of its own; null where nothing was.
    pub figures: Value,
}

impl Scenario {
    /// Adds a sample.
    pub fn add(&mut self, what: &'static str, sample: Sample) {
        self.samples.entry(what).or_default().push(sample);
    }

    /// The median of `of` over the samples of `what`; 0 where there are none.
    pub fn median(&self, what: &str, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.get(what).into_iter().flatten().map(of).collect())
    }

    /// The ratio of two things that were done in turn: the median of the ratios of each repetition, so that what slowed
    /// the machine for a while slowed both.
    pub fn ratio(&mut self, name: &'static str, over: &str, under: &str, of: impl Fn(&Sample) -> f64) {
        let list = |what: &str| self.samples.get(what).into_iter().flatten().map(&of).collect::<Vec<_>>();
        let pairs = list(over).into_iter().zip(list(under));
        let ratios: Vec<f64> = pairs.filter(|(_, b)| *b > 0.0).map(|(a, b)| a / b).collect();
        if !ratios.is_empty() {
            self.ratios.insert(name, median(ratios));
        }
    }

    /// As JSON: raw samples, medians and ratios.
    pub fn to_json(&self) -> Value {
        let medians: BTreeMap<_, _> = self.samples.keys().map(|what| (*what, self.medians(what))).collect();
        json!({ "samples": self.samples, "medians": medians, "ratios": self.ratios, "figures": self.figures })
    }

    fn medians(&self, what: &str) -> Value {
        let of = |f: fn(&Sample) -> f64| self.median(what, f);
        json!({
            "seconds": of(|s| s.seconds),
            "mb_per_second": of(|s| s.rate() / 1e6),
            "files_per_second": of(Sample::files_rate),
            "cpu_seconds_per_gb": of(Sample::cpu_seconds_per_gb),
            "agent_peak_mib": of(|s| s.agent_peak_bytes as f64 / 1048576.0),
            "gateway_peak_mib": of(|s| s.gateway_peak_bytes as f64 / 1048576.0),
        })
    }

    /// A table for people.
    pub fn to_text(&self, name: &str) -> String {
        let mut text = format!("{name}\n");
        for what in self.samples.keys() {
            let of = |f: fn(&Sample) -> f64| self.median(what, f);
            text += &format!(
                "  {what:<22} {:>8.3} s {:>9.1} MB/s {:>9.0} files/s {:>7.2} CPU-s/GB   peak MiB: agent {:>5.0}, gateway {:>5.0}\n",
                of(|s| s.seconds),
                of(|s| s.rate() / 1e6),
                of(Sample::files_rate),
                of(Sample::cpu_seconds_per_gb),
                of(|s| s.agent_peak_bytes as f64 / 1048576.0),
                of(|s| s.gateway_peak_bytes as f64 / 1048576.0),
            );
        }
        for (ratio, value) in &self.ratios {
            text += &format!("  {name}.{ratio} = {value:.3}\n");
        }
        text
    }
}

/// The middle value; of an even number the mean of both; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    let at = |i: usize| values.get(i).copied().unwrap_or(0.0);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => at(half),
        _ => (at(half - 1) + at(half)) / 2.0,
    }
}

/// A bound on a ratio, with its reason.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floor {
    /// `scenario.ratio`.
    pub ratio: String,
    /// The least it may be.
    pub at_least: Option<f64>,
    /// The most it may be.
    pub at_most: Option<f64>,
    /// Why this bound.
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Floors {
    floor: Vec<Floor>,
}

/// The floors of this program.
///
/// # Errors
/// Where the file that the program was built with is damaged.
pub fn floors() -> Result<Vec<Floor>, BenchError> {
    let floors: Floors = toml::from_str(FLOORS).map_err(BenchError::data("reading floors.toml"))?;
    Ok(floors.floor)
}

/// The floors that these scenarios miss, each as a sentence. Ratios that were not measured are not judged.
pub fn missed(scenarios: &BTreeMap<&'static str, Scenario>, floors: &[Floor]) -> Vec<String> {
    let value = |floor: &Floor| {
        let (scenario, ratio) = floor.ratio.split_once('.')?;
        scenarios.get(scenario)?.ratios.get(ratio).copied()
    };
    let sentence = |floor: &Floor| {
        let value = value(floor)?;
        let bound = match (floor.at_least, floor.at_most) {
            (Some(least), _) if value < least => format!("at least {least}"),
            (_, Some(most)) if value > most => format!("at most {most}"),
            _ => return None,
        };
        Some(format!("{} is {value:.3}, which must be {bound}: {}", floor.ratio, floor.reason))
    };
    floors.iter().filter_map(sentence).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(vec![]).abs() < 1e-9);
    }

    #[test]
    fn every_floor_is_one_bound_with_a_reason() {
        let floors = floors().unwrap();
        assert!(!floors.is_empty());
        for floor in floors {
            assert!(floor.at_least.is_some() != floor.at_most.is_some(), "{floor:?}");
            assert!(floor.reason.len() > 20 && floor.ratio.contains('.'), "{floor:?}");
        }
    }

    #[test]
    fn a_missed_floor_is_told_and_an_unmeasured_one_is_not() {
        let floor =
            |ratio: &str, at_least, at_most| Floor { ratio: ratio.into(), at_least, at_most, reason: "why".into() };
        let mut scenario = Scenario::default();
        let sample = |seconds| Sample { seconds, bytes: 100, ..Sample::default() };
        for (fast, slow) in [(1.0, 2.0), (1.0, 4.0), (1.0, 2.0)] {
            scenario.add("fast", sample(fast));
            scenario.add("slow", sample(slow));
        }
        scenario.ratio("slow_over_fast", "slow", "fast", Sample::rate);
        let scenarios = BTreeMap::from([("s", scenario)]);
        let judge = |floor| missed(&scenarios, &[floor]);
        assert!(judge(floor("s.slow_over_fast", Some(0.5), None)).is_empty());
        assert!(judge(floor("s.slow_over_fast", Some(0.51), None))[0].contains("0.500"));
        assert_eq!(judge(floor("s.slow_over_fast", None, Some(0.4))).len(), 1);
        assert!(judge(floor("s.other", Some(9.0), None)).is_empty());
        assert!(judge(floor("t.slow_over_fast", Some(9.0), None)).is_empty());
    }
}
