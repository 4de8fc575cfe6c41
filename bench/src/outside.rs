//! An outside check: lineitem goes through the gateway as Parquet and as CSV, and pyarrow and openpyxl, which share no code with
//! the programs, compare what comes back with the source.

use crate::error::{BenchError, check};
use crate::lineitem::{self, Format};
use crate::program::Line;
use crate::scenario::Trade;
use crate::texts::Asked;
use crate::world::{Programs, number_of};
use serde_json::Value;
use std::path::Path;

/// The comparison, for the Python that is installed.
const SCRIPT: &str = include_str!("../outside.py");

/// The city whose rows are compared one by one.
const REGION: &str = "4403";

const FROM_PARQUET: &str = "300003/000001";
const FROM_CSV: &str = "300003/000002";

/// Runs it in `dir` at TPC-H's `scale` and gives what pyarrow said.
///
/// # Errors
/// When something differs, a program fails, or Python has no pyarrow or openpyxl.
pub fn run(dir: &Path, scale: f64) -> Result<Value, BenchError> {
    let trade = Trade::open(dir, Programs::find()?)?;
    let parquet = lineitem::write(&dir.join("parquet"), scale, Format::Parquet)?;
    let csv = lineitem::write(&dir.join("csv"), scale, Format::Csv)?;
    let spec = lingqu_protocol::entry::EntrySpec::parse(&lineitem::entry_toml());
    let spec = spec.map_err(BenchError::data("reading the entry"))?;
    let columns: Vec<&str> = spec.items.iter().map(|item| item.name.as_str()).collect();
    let mut pulled = Vec::new();
    for (code, written) in [(FROM_PARQUET, &parquet), (FROM_CSV, &csv)] {
        let asked = Asked {
            entry: code,
            basis: "测试",
            scenario: "外部核对",
            purpose: "测试",
            method: "batch_exchange",
            columns: &columns,
            rows: None,
        };
        trade.share(code, &lineitem::entry_toml(), asked)?;
        let push = trade.world.agent(&trade.provider, ["push", "batch", code]).arg(&written.data).run(0)?;
        let rows = number_of(&push, "rows")?;
        check(rows == written.rows, || format!("{rows} rows were taken, the source has {}", written.rows))?;
        let out = dir.join(format!("{}.parquet", code.replace('/', "-")));
        trade.world.agent(&trade.requester, ["pull", code, "--out"]).arg(&out).run(0)?;
        pulled.push(out);
    }
    let plain: &[&str] = &[];
    for (end, more) in [
        ("parquet", plain),
        ("csv", plain),
        ("arrow", plain),
        ("jsonl", plain),
        ("xlsx", plain),
        ("gb.csv", &["--encoding", "gb18030"][..]),
    ] {
        let out = dir.join(format!("region.{end}"));
        let pull = trade.world.agent(&trade.requester, ["pull", FROM_PARQUET, "--region", REGION]);
        pull.args(more).args(["--columns", "l_orderkey,l_extendedprice,region", "--out"]).arg(&out).run(0)?;
        pulled.push(out);
    }
    trade.close()?;
    let compare = Line::new(Path::new("python3")).args(["-c", SCRIPT]).arg(&parquet.data).args(pulled).arg(REGION);
    compare.run(0)?.json()
}
