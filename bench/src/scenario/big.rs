//! One big file, once each way: the most memory that either side ever held, beside its budget.

use super::{Trade, budgets, only_file, remove, settle, text};
use crate::error::{BenchError, check};
use crate::report::{Sample, Scenario};
use crate::seeded::{Seeded, b3sum, write_file};
use crate::world::Programs;
use std::path::Path;

const CODE: &str = "300001/000004";

/// Pushes and pulls a file of `bytes` bytes. The source is removed once it was pushed: two copies are on the disk at most.
pub(super) fn measure(dir: &Path, programs: Programs, bytes: u64, seed: u64) -> Result<Scenario, BenchError> {
    let mut trade = Trade::open(dir, programs)?;
    let grant = trade.files(CODE)?;
    let source = dir.join("big.bin");
    let expected = write_file(&source, bytes, &mut Seeded::new(seed, "big file"))?;
    let mut scenario = Scenario::default();
    settle();
    let provider = trade.provider.clone();
    let (_, pushed) = trade.measure(&provider, &["push", "file", CODE, text(&source)?])?;
    scenario.add("push", Sample { bytes, files: 1, ..pushed });
    remove(&source)?;
    settle();
    let (requester, out) = (trade.requester.clone(), dir.join("pulled"));
    let (_, pulled) = trade.measure(&requester, &["pull", &grant, "--out", text(&out)?])?;
    scenario.add("pull", Sample { bytes, files: 1, ..pulled });
    let found = b3sum(&only_file(&out)?)?;
    check(found == expected, || format!("the pulled file's b3sum is {found}, the source's was {expected}"))?;
    budgets(&mut scenario, &[("push", "push_agent_peak_over_budget"), ("pull", "pull_agent_peak_over_budget")]);
    scenario.figures = serde_json::json!({
        "b3sum": found,
        "agent_budget_bytes": super::AGENT_BUDGET_BYTES,
        "gateway_budget_bytes": super::GATEWAY_BUDGET_BYTES,
    });
    trade.close()?;
    Ok(scenario)
}
