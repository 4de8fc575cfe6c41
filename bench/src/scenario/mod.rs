//! What is measured. Every scenario sets its own world up and takes its comparisons in turn with what it measures.

mod batch;
mod big;
mod files;
mod small;

pub(crate) use files::only_file;
pub use small::{FILE_BYTES, FILES, Set};

use crate::cost;
use crate::decide;
use crate::error::BenchError;
use crate::facts;
use crate::fanout;
use crate::lookups;
use crate::program::Outcome;
use crate::report::{Sample, Scenario, floors, missed};
use crate::revocation;
use crate::texts::{Asked, file_entry};
use crate::usage;
use crate::world::{Agency, Founding, Programs, World, save};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The agent's memory budget, whatever the size of a transfer.
const AGENT_BUDGET_BYTES: u64 = 128 << 20;

/// The gateway's memory budget with the one or two connections of a scenario.
pub(crate) const GATEWAY_BUDGET_BYTES: u64 = (128 << 20) + 2 * 40_000;

/// Repetitions: the fewest that have a middle.
const REPETITIONS: usize = 3;

/// Bytes of the big file: many times the memory of both budgets.
pub const BIG_BYTES: u64 = 8 << 30;

/// Rows, queries and keys of the look-ups.
pub const LOOKUPS: (u64, usize, u64) = (10_000_000, 2_000, 100_000);

/// Bytes of the big file in a quick run.
const QUICK_BIG_BYTES: u64 = 1 << 30;

/// What is measured, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Name {
    /// One large file, pushed and pulled.
    Files,
    /// Many small files, durable.
    SmallFiles,
    /// Rows, pushed as Parquet and CSV, and one region pulled.
    Batch,
    /// Decisions of the gate.
    Decide,
    /// One big file each way, for its memory; only where it is named.
    Big,
    /// Transfers that are cut; by its own command alone.
    #[value(skip)]
    Revocation,
    /// What watching costs; by its own command alone.
    #[value(skip)]
    Cost,
    /// Records by their key; only where it is named, or by its own command.
    Lookups,
    /// A version that flows back to everybody; by its own command alone.
    #[value(skip)]
    Backflow,
}

impl Name {
    const ALL: [Self; 4] = [Self::Files, Self::SmallFiles, Self::Batch, Self::Decide];

    /// As floors and reports name it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::SmallFiles => "small_files",
            Self::Batch => "batch",
            Self::Decide => "decide",
            Self::Big => "big",
            Self::Revocation => "revocation",
            Self::Cost => "cost",
            Self::Lookups => "lookups",
            Self::Backflow => "backflow",
        }
    }
}

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Smaller sizes, for every change.
    pub quick: bool,
    /// Makes all content.
    pub seed: u64,
}

/// Runs scenarios (all where none is named), writes the report and says which floors are missed.
///
/// # Errors
/// When something cannot be measured at all.
pub fn run(names: &[Name], options: Options, report: Option<&Path>) -> Result<Vec<String>, BenchError> {
    let programs = Programs::find()?;
    let temp = tempfile::tempdir().map_err(BenchError::system("making a folder"))?;
    let mut scenarios = BTreeMap::new();
    let since = Instant::now();
    for name in if names.is_empty() { &Name::ALL[..] } else { names } {
        let dir = temp.path().join(name.word());
        std::fs::create_dir_all(&dir).map_err(BenchError::io("making", &dir))?;
        let scenario = match name {
            Name::Files => files::measure(&dir, programs.clone(), options)?,
            Name::SmallFiles => small::measure(&dir, programs.clone(), options)?,
            Name::Batch => batch::measure(&dir, programs.clone(), options)?,
            Name::Big => big::measure(
                &dir,
                programs.clone(),
                if options.quick { QUICK_BIG_BYTES } else { BIG_BYTES },
                options.seed,
            )?,
            Name::Decide if options.quick => decide::measure(decide::Options::quick(options.seed))?,
            Name::Decide => decide::measure(decide::Options::full(options.seed))?,
            Name::Lookups => {
                let (rows, queries, keys) = if options.quick { (200_000, 300, 5_000) } else { LOOKUPS };
                let of = lookups::Options { rows, queries, keys, verbatim: false, seed: options.seed };
                lookups::measure(&dir, of)?
            }
            Name::Revocation | Name::Cost | Name::Backflow => {
                return Err(BenchError::Usage(format!("use `lingqu-bench {}`", name.word())));
            }
        };
        if *name == Name::Decide {
            print!("{}", decide::to_text(&scenario));
        }
        if *name == Name::Lookups {
            print!("{}", lookups::to_text(&scenario));
        }
        println!("{}", scenario.to_text(name.word()));
        scenarios.insert(name.word(), scenario);
        // What is measured next should not share the disk with what was.
        std::fs::remove_dir_all(&dir).map_err(BenchError::io("removing", &dir))?;
    }
    let missed = missed(&scenarios, &floors()?);
    if let Some(file) = report {
        let scenarios: BTreeMap<_, Value> = scenarios.iter().map(|(name, s)| (*name, s.to_json())).collect();
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map(|t| t.as_secs()).unwrap_or(0);
        let document = json!({
            "version": 1,
            "unix_seconds": at,
            "seconds": since.elapsed().as_secs_f64(),
            "quick": options.quick,
            "seed": options.seed,
            "commit": facts::commit(),
            "machine": facts::machine(temp.path()),
            "scenarios": scenarios,
            "floors_missed": missed,
        });
        let text = serde_json::to_string_pretty(&document).map_err(BenchError::data("writing the report"))?;
        std::fs::write(file, text + "\n").map_err(BenchError::io("writing", file))?;
        println!("report: {}", file.display());
    }
    Ok(missed)
}

/// Many small files by themselves, beside rsync.
///
/// # Errors
/// When something cannot be measured at all.
pub fn small_files(set: Set) -> Result<Scenario, BenchError> {
    let temp = tempfile::tempdir().map_err(BenchError::system("making a folder"))?;
    small::measure_set(temp.path(), Programs::find()?, set)
}

/// One big file by itself.
///
/// # Errors
/// When something cannot be measured at all.
pub fn big_file(bytes: u64, seed: u64) -> Result<Scenario, BenchError> {
    let temp = tempfile::tempdir().map_err(BenchError::system("making a folder"))?;
    big::measure(temp.path(), Programs::find()?, bytes, seed)
}

/// Tells of one scenario that was measured by itself, and says which of its floors are missed.
///
/// # Errors
/// Where it cannot be written.
pub fn alone(name: Name, scenario: Scenario, as_json: bool) -> Result<Vec<String>, BenchError> {
    let scenarios = BTreeMap::from([(name.word(), scenario)]);
    let missed = missed(&scenarios, &floors()?);
    for (word, scenario) in &scenarios {
        if as_json {
            let document = json!({
                "version": 1,
                "commit": facts::commit(),
                "machine": facts::machine(Path::new(".")),
                "scenarios": { *word: scenario.to_json() },
                "floors_missed": missed,
            });
            let text = serde_json::to_string_pretty(&document).map_err(BenchError::data("writing the report"))?;
            println!("{text}");
        } else {
            match name {
                Name::Decide => print!("{}", decide::to_text(scenario)),
                Name::Revocation => print!("{}", revocation::to_text(scenario)),
                Name::Backflow => print!("{}", fanout::to_text(scenario)),
                Name::Cost => print!("{}", cost::to_text(scenario)),
                Name::Lookups => print!("{}", lookups::to_text(scenario)),
                Name::Files | Name::SmallFiles | Name::Batch | Name::Big => {}
            }
            println!("{}", scenario.to_text(word));
            if let Some(missing) = scenario.figures["rsync_missing"].as_str() {
                println!("  nothing beside it: {missing}");
            }
        }
    }
    Ok(missed)
}

/// A world with one provider and one requester.
pub(crate) struct Trade {
    pub(crate) world: World,
    /// Ids of the entries that were shared, by their codes.
    entries: std::cell::RefCell<BTreeMap<String, String>>,
    authority: Agency,
    pub(crate) provider: Agency,
    pub(crate) requester: Agency,
}

impl Trade {
    pub(crate) fn open(dir: &Path, programs: Programs) -> Result<Self, BenchError> {
        Self::open_with(dir, programs, &[])
    }

    /// The same, with more in the gateway's environment.
    pub(crate) fn open_with(dir: &Path, programs: Programs, env: &[(&'static str, &Path)]) -> Result<Self, BenchError> {
        let mut world = World::create(&dir.join("world"), programs)?;
        world.env = env.iter().map(|(name, value)| (*name, value.as_os_str().to_owned())).collect();
        world.serve()?;
        let found = |label, name, authority, number| {
            world.found(Founding { label, name, region: "44:province", authority, number })
        };
        let authority = found("authority", "测试主管部门", true, 1)?;
        let provider = found("provider", "测试提供部门", false, 2)?;
        let requester = found("requester", "测试需求部门", false, 3)?;
        Ok(Self { world, entries: Default::default(), authority, provider, requester })
    }

    /// Publishes an entry of files under `code` and gives the requester a grant of it.
    fn files(&self, code: &str) -> Result<String, BenchError> {
        let asked = Asked { entry: code, method: "file_download", columns: &[], ..ASKED };
        self.share(code, &file_entry("测试文件"), asked)
    }

    /// Publishes `entry` under `code` and gives the requester what is `asked`.
    pub(crate) fn share(&self, code: &str, entry: &str, asked: Asked<'_>) -> Result<String, BenchError> {
        let dir = &self.world.dir;
        let id = self.world.publish(&self.provider, &self.authority, &save(dir, "entry.toml", entry)?, code)?;
        self.entries.borrow_mut().insert(code.to_owned(), id);
        self.world.grant(&self.requester, &self.provider, &save(dir, "application.toml", &asked.to_toml())?)
    }

    /// The id of an entry that was shared.
    pub(crate) fn entry_id(&self, code: &str) -> Result<String, BenchError> {
        let id = self.entries.borrow().get(code).cloned();
        id.ok_or_else(|| BenchError::Wrong(format!("no entry {code} was shared")))
    }

    /// Runs an agent's command and takes the measure of it and of the gateway meanwhile.
    pub(crate) fn measure(&mut self, agency: &Agency, args: &[&str]) -> Result<(Outcome, Sample), BenchError> {
        let pid = self.world.gateway()?.pid();
        usage::forget_peak(pid);
        let before = usage::of(pid).cpu_seconds;
        let outcome = self.world.agent(agency, args.iter().copied()).run(0)?;
        let after = usage::of(pid);
        let sample = Sample {
            seconds: outcome.seconds,
            agent_cpu_seconds: outcome.usage.cpu_seconds,
            gateway_cpu_seconds: after.cpu_seconds - before,
            agent_peak_bytes: outcome.usage.peak_bytes,
            gateway_peak_bytes: after.peak_bytes,
            ..Sample::default()
        };
        Ok((outcome, sample))
    }

    pub(crate) fn close(mut self) -> Result<(), BenchError> {
        let drained = self.world.drain()?;
        crate::error::check(drained, || {
            format!("the gateway did not drain: see {}", self.world.gateway_log().display())
        })
    }
}

/// What every scenario's application says.
const ASKED: Asked<'static> = Asked {
    entry: "",
    basis: "测试",
    scenario: "性能测试",
    purpose: "测试",
    method: "batch_exchange",
    columns: &[],
    rows: None,
};

/// A path as an argument.
fn text(path: &Path) -> Result<&str, BenchError> {
    path.to_str().ok_or_else(|| BenchError::Usage(format!("{} is not UTF-8", path.display())))
}

/// Removes what a repetition made, so that the next finds the disk as it was.
fn remove(path: &Path) -> Result<(), BenchError> {
    let gone = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    gone.map_err(BenchError::io("removing", path))
}

/// Lets the disk finish what was written before, so that nobody pays for another's writes.
fn settle() {
    rustix::fs::sync();
    std::thread::sleep(Duration::from_millis(100));
}

/// Adds the ratios of memory to its budget.
fn budgets(scenario: &mut Scenario, whats: &[(&'static str, &'static str)]) {
    for (what, name) in whats {
        let peak = scenario.samples.get(what).into_iter().flatten().map(|s| s.agent_peak_bytes).max().unwrap_or(0);
        scenario.ratios.insert(name, peak as f64 / AGENT_BUDGET_BYTES as f64);
    }
    let measured = whats.iter().filter_map(|(what, _)| scenario.samples.get(what)).flatten();
    let peak = measured.map(|s| s.gateway_peak_bytes).max().unwrap_or(0);
    scenario.ratios.insert("gateway_peak_over_budget", peak as f64 / GATEWAY_BUDGET_BYTES as f64);
}
