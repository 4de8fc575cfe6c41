//! One large file: pushed and pulled, beside a durable copy and plain QUIC.

use super::{Options, REPETITIONS, Trade, budgets, remove, settle, text};
use crate::baseline::{Sink, copy};
use crate::error::{BenchError, check};
use crate::report::{Sample, Scenario};
use crate::seeded::{Seeded, b3sum, write_file};
use crate::world::Programs;
use std::path::{Path, PathBuf};

/// Bytes of the file: long against a handshake, and too many for any cache of ours.
const BYTES: u64 = 2 << 30;

/// Bytes of the file in a quick run.
const QUICK_BYTES: u64 = 256 << 20;

const CODE: &str = "300001/000001";

pub(super) fn measure(dir: &Path, programs: Programs, options: Options) -> Result<Scenario, BenchError> {
    let mut trade = Trade::open(dir, programs)?;
    let grant = trade.files(CODE)?;
    let bytes = if options.quick { QUICK_BYTES } else { BYTES };
    let source = dir.join("large.bin");
    let expected = write_file(&source, bytes, &mut Seeded::new(options.seed, "large file"))?;
    let mut sink = Sink::start()?;
    let mut scenario = Scenario::default();
    for _ in 0..REPETITIONS {
        settle();
        scenario.add("cp_fsync", copy(&source, &dir.join("copy.bin"))?);
        remove(&dir.join("copy.bin"))?;
        settle();
        scenario.add("quinn_memory", sink.send(bytes)?);
        settle();
        let provider = trade.provider.clone();
        let (_, pushed) = trade.measure(&provider, &["push", "file", CODE, text(&source)?])?;
        scenario.add("push", Sample { bytes, files: 1, ..pushed });
        settle();
        let (requester, out) = (trade.requester.clone(), dir.join("pulled"));
        let (_, pulled) = trade.measure(&requester, &["pull", &grant, "--out", text(&out)?])?;
        scenario.add("pull", Sample { bytes, files: 1, ..pulled });
        let found = b3sum(&only_file(&out)?)?;
        check(found == expected, || format!("the pulled file's b3sum is {found}, the source's {expected}"))?;
        remove(&out)?;
    }
    scenario.ratio("push_over_cp", "push", "cp_fsync", Sample::rate);
    scenario.ratio("pull_over_cp", "pull", "cp_fsync", Sample::rate);
    scenario.ratio("push_over_quinn", "push", "quinn_memory", Sample::rate);
    scenario.ratio("pull_over_quinn", "pull", "quinn_memory", Sample::rate);
    budgets(&mut scenario, &[("push", "push_agent_peak_over_budget"), ("pull", "pull_agent_peak_over_budget")]);
    trade.close()?;
    Ok(scenario)
}

/// The one file that a pull left at `out`: itself, or alone in the folder.
pub(crate) fn only_file(out: &Path) -> Result<PathBuf, BenchError> {
    if out.is_file() {
        return Ok(out.to_owned());
    }
    let entries = std::fs::read_dir(out).map_err(BenchError::io("listing", out))?;
    let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|e| e.path())).collect();
    let mut paths = paths.map_err(BenchError::io("listing", out))?;
    match (paths.pop(), paths.is_empty()) {
        (Some(path), true) if path.is_file() => Ok(path),
        _ => Err(BenchError::Wrong(format!("{} does not hold just one file", out.display()))),
    }
}
