//! The command line of `lingqu-bench backflow`.

use super::{First, Options, SlowLink, Timely, first_rows, measure, slow_link, timeliness};
use crate::error::BenchError;
use crate::scenario::{self, Name};
use clap::Args;

/// Counties that ask for their first rows.
const REGIONS: usize = 5;

/// What `lingqu-bench backflow` is told.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Subscribers, each of a region of its own.
    #[arg(long, value_parser = clap::value_parser!(u64).range(10..=4_000))]
    subscribers: Option<u64>,
    /// Rows of the version; with --timeliness of each version.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    rows: Option<u64>,
    /// A small run: under a minute.
    #[arg(long)]
    quick: bool,
    /// Instead: from commit to durable in the folder of one real subscriber.
    #[arg(long)]
    timeliness: bool,
    /// With --timeliness: how many versions.
    #[arg(long, default_value_t = 50)]
    versions: u64,
    /// Instead: from asking to the first rows of a county of TPC-H lineitem at this scale.
    #[arg(long, value_name = "SCALE", conflicts_with = "timeliness")]
    first_rows: Option<f64>,
    /// Instead: one subscriber behind a link of so many megabits a second, without and with compression; may be several.
    #[arg(long, value_name = "MEGABITS", num_args = 1..=100)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000))]
    #[arg(conflicts_with_all = ["timeliness", "first_rows", "subscribers", "rows", "quick"])]
    link: Vec<u64>,
    /// With --link: TPC-H's scale of the version; 0.1 where nothing is said.
    #[arg(long, requires = "link")]
    scale: Option<f64>,
    /// Decides which rows lie where.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON document instead of the lines.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Measures, tells, and says which floors are missed.
    ///
    /// # Errors
    /// When something cannot be measured, or anybody got other rows than its own.
    pub fn run(&self) -> Result<Vec<String>, BenchError> {
        let temp = tempfile::tempdir().map_err(BenchError::system("making a folder"))?;
        let one = if self.timeliness {
            let options = Timely { versions: self.versions, rows: self.rows.unwrap_or(10_000) };
            Some(timeliness(temp.path(), options)?)
        } else if !self.link.is_empty() {
            let options = SlowLink { scale: self.scale.unwrap_or(0.1), megabits: self.link.clone() };
            Some(slow_link(temp.path(), &options)?)
        } else {
            let first = self.first_rows.map(|scale| First { scale, regions: REGIONS });
            first.map(|first| first_rows(temp.path(), first)).transpose()?
        };
        if let Some(told) = one {
            println!("{}", serde_json::to_string_pretty(&told).map_err(BenchError::data("writing JSON"))?);
            return Ok(Vec::new());
        }
        let usual = if self.quick { Options::QUICK } else { Options::FULL };
        let subscribers = self.subscribers.map_or(usual.subscribers, |count| count as usize);
        let options = Options { subscribers, rows: self.rows.unwrap_or(usual.rows), seed: self.seed };
        scenario::alone(Name::Backflow, measure(temp.path(), options)?, self.json)
    }
}
