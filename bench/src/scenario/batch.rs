//! Rows: lineitem pushed as Parquet that stays as it is, as Parquet that goes as rows, as CSV and as an Arrow IPC file, and
//! one province's rows pulled; beside one thread that only decodes. The digest of the rows is the same in all of them.

use super::{ASKED, Options, REPETITIONS, Trade, budgets, remove, settle, text};
use crate::error::{BenchError, check};
use crate::lineitem::{self, Format, Written};
use crate::report::{Sample, Scenario};
use crate::texts::Asked;
use crate::world::Programs;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

/// TPC-H's scale: six million rows, about 1 GB in memory.
const SCALE: f64 = 1.0;

/// TPC-H's scale in a quick run.
const QUICK_SCALE: f64 = 0.05;

/// The province whose rows are pulled.
const REGION: &str = "44";

const CODE: &str = "300002/000001";

/// Columns that are granted and pulled.
const COLUMNS: [&str; 3] = ["l_orderkey", "l_extendedprice", "region"];

pub(super) fn measure(dir: &Path, programs: Programs, options: Options) -> Result<Scenario, BenchError> {
    let mut trade = Trade::open(dir, programs)?;
    let scale = if options.quick { QUICK_SCALE } else { SCALE };
    let parquet = lineitem::write(&dir.join("parquet"), scale, Format::Parquet)?;
    let csv = lineitem::write(&dir.join("csv"), scale, Format::Csv)?;
    let arrow = lineitem::write(&dir.join("arrow"), scale, Format::Arrow)?;
    let where_ = format!("region within '{REGION}'");
    let asked = Asked { entry: CODE, columns: &COLUMNS, rows: Some(&where_), ..ASKED };
    let grant = trade.share(CODE, &lineitem::entry_toml(), asked)?;
    let expected = rows_within(&parquet);
    let mut scenario = Scenario::default();
    for _ in 0..REPETITIONS {
        settle();
        scenario.add("decode_parquet", decode(&parquet)?);
        settle();
        let provider = trade.provider.clone();
        let mut digests = BTreeSet::new();
        let rows: &[&str] = &["--no-verbatim"];
        for (what, written, more) in [
            ("push_csv", &csv, &[] as &[&str]),
            ("push_arrow", &arrow, &[]),
            ("push_parquet_as_rows", &parquet, rows),
            ("push_parquet", &parquet, &[]),
        ] {
            let args = [&["push", "batch", CODE, text(&written.data)?], more].concat();
            let (outcome, pushed) = trade.measure(&provider, &args)?;
            let said = outcome.json()?;
            check(said["rows"] == written.rows, || format!("{what}: {} rows of {}", said["rows"], written.rows))?;
            check(said["verbatim"] == (what == "push_parquet"), || format!("{what}: {}", said["verbatim"]))?;
            digests.insert(said["rows_digest"].to_string());
            scenario.add(what, Sample { bytes: written.bytes, rows: written.rows, ..pushed });
            settle();
        }
        check(digests.len() == 1, || format!("the same rows have several digests: {digests:?}"))?;
        let (requester, out) = (trade.requester.clone(), dir.join("region.parquet"));
        let (_, pulled) = trade.measure(&requester, &["pull", &grant, "--out", text(&out)?])?;
        let rows = rows_of(&out)?;
        check(rows == expected, || format!("{rows} rows of region {REGION} were pulled, the source has {expected}"))?;
        let bytes = std::fs::metadata(&out).map_err(BenchError::io("reading", &out))?.len();
        scenario.add("pull_region", Sample { bytes, rows, ..pulled });
        remove(&out)?;
    }
    scenario.ratio("push_parquet_over_decode", "push_parquet", "decode_parquet", Sample::rate);
    let push = [
        ("push_parquet", "push_parquet_agent_peak_over_budget"),
        ("push_parquet_as_rows", "push_parquet_as_rows_agent_peak_over_budget"),
        ("push_csv", "push_csv_agent_peak_over_budget"),
        ("push_arrow", "push_arrow_agent_peak_over_budget"),
    ];
    budgets(&mut scenario, &push);
    trade.close()?;
    Ok(scenario)
}

/// Reads every row of the file in this thread and forgets it.
fn decode(written: &Written) -> Result<Sample, BenchError> {
    let since = Instant::now();
    let rows = rows_of(&written.data)?;
    Ok(Sample { seconds: since.elapsed().as_secs_f64(), bytes: written.bytes, rows, ..Sample::default() })
}

/// Rows of a Parquet file, counted one by one.
fn rows_of(path: &Path) -> Result<u64, BenchError> {
    let failed = || format!("reading {}", path.display());
    let file = File::open(path).map_err(BenchError::io("opening", path))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.build())
        .map_err(BenchError::data(failed()))?;
    let mut rows = 0;
    for batch in reader {
        rows += batch.map_err(BenchError::data(failed()))?.num_rows() as u64;
    }
    Ok(rows)
}

/// How many rows the source has in the province: a county's code begins with its province's.
fn rows_within(written: &Written) -> u64 {
    written.regions.iter().filter(|(code, _)| code.starts_with(REGION)).map(|(_, rows)| rows).sum()
}
