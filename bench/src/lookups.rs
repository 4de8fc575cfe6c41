//! Records by their key: single queries over one connection, as a service window asks, and files of keys, as agencies match
//! theirs against another's. Rows are made from a seed; every answer is compared with what its row was made of.

use crate::error::{BenchError, check};
use crate::program::Outcome;
use crate::report::{Sample, Scenario};
use crate::scenario::Trade;
use crate::seeded::Seeded;
use crate::texts::Asked;
use crate::usage;
use crate::world::{Programs, number_of};
use arrow::array::{ArrayRef, AsArray, Date32Array, Decimal128Array, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::Int32Type;
use lingqu_agent::connect::{Link, Session};
use lingqu_agent::lookup;
use lingqu_agent::machine::Machine;
use lingqu_certs::os::{OsDisk, OsEntropy, SystemClock};
use lingqu_certs::profile::Profile;
use lingqu_certs::quic::QuicChannel;
use lingqu_protocol::wire::{KeyValue, Query};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const CODE: &str = "300001/000005";

/// Rows that are made at a time.
const BATCH_ROWS: u64 = 65_536;

/// Queries before those that count: they fill what is kept in memory.
const WARM_UP: usize = 50;

/// What a service window should wait for its record at most, nearly always.
const P99_AIM_MS: f64 = 20.0;

/// Of a thousand keys, those that nobody has.
const ABSENT_PER_MILLE: u32 = 100;

const REGIONS: [&str; 8] = ["440303", "440304", "440305", "440103", "440104", "440402", "440604", "440703"];

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Rows of the version.
    pub rows: u64,
    /// Single queries.
    pub queries: usize,
    /// Keys of the match.
    pub keys: u64,
    /// Whether the rows lie as their provider's Parquet file.
    pub verbatim: bool,
    /// Makes rows and keys.
    pub seed: u64,
}

/// Measures in `dir`.
///
/// # Errors
/// When something cannot be measured, or an answer is wrong.
pub fn measure(dir: &Path, options: Options) -> Result<Scenario, BenchError> {
    let mut trade = Trade::open(dir, Programs::find()?)?;
    only_observing(&mut trade)?;
    let columns = ["region", "person", "name", "capital", "opened", "staff"];
    let asked = Asked {
        entry: CODE,
        basis: "测试",
        scenario: "服务接口测试",
        purpose: "测试",
        method: "service_interface",
        columns: &columns,
        rows: None,
    };
    let grant = trade.share(CODE, ENTRY, asked)?;
    let file = dir.join("rows.parquet");
    write_rows(&file, options.rows)?;
    let mut scenario = Scenario::default();
    let bytes = std::fs::metadata(&file).map_err(BenchError::io("looking at", &file))?.len();
    let path = file.to_str().ok_or_else(|| BenchError::Usage("a folder that is not UTF-8".to_owned()))?;
    let mut push = vec!["push", "batch", CODE, path];
    if !options.verbatim {
        push.push("--no-verbatim");
    }
    let provider = trade.provider.clone();
    let (outcome, sample) = trade.measure(&provider, &push)?;
    check(number_of(&outcome, "rows")? == options.rows, || "not all rows landed".to_owned())?;
    scenario.add("push", Sample { bytes, rows: options.rows, ..sample });
    std::fs::remove_file(&file).map_err(BenchError::io("removing", &file))?;

    let pid = trade.world.gateway()?.pid();
    usage::forget_peak(pid);
    let before = usage::of(pid).cpu_seconds;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(BenchError::system("starting threads"))?;
    let (mut times_ms, seconds) = runtime.block_on(queries(&trade, &grant, options))?;
    let after = usage::of(pid);
    times_ms.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = (times_ms.len() as f64 * share).ceil() as usize;
        times_ms.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    };
    let (p50, p90, p99, most) = (at(0.5), at(0.9), at(0.99), at(1.0));
    scenario.add(
        "queries",
        Sample {
            seconds,
            rows: times_ms.len() as u64,
            gateway_cpu_seconds: after.cpu_seconds - before,
            gateway_peak_bytes: after.peak_bytes,
            ..Sample::default()
        },
    );

    let keys = dir.join("keys.csv");
    let present = write_keys(&keys, options)?;
    let out = dir.join("answers.csv");
    let (keys_text, out_text) = (text(&keys)?, text(&out)?);
    let requester = trade.requester.clone();
    let (outcome, sample): (Outcome, Sample) =
        trade.measure(&requester, &["match", &grant, keys_text, "--out", out_text])?;
    check(number_of(&outcome, "rows")? == options.keys, || "not every key has one answer".to_owned())?;
    check_answers(&out, options, present)?;
    let keys_per_second = options.keys as f64 / sample.seconds.max(1e-9);
    scenario.add("match", Sample { rows: options.keys, ..sample });

    let peak = scenario.samples.values().flatten().map(|s| s.gateway_peak_bytes).max().unwrap_or(0);
    scenario.ratios.insert("gateway_peak_over_budget", peak as f64 / crate::scenario::GATEWAY_BUDGET_BYTES as f64);
    scenario.ratios.insert("query_p99_over_aim", p99 / P99_AIM_MS);
    scenario.figures = json!({
        "seed": options.seed, "rows": options.rows, "verbatim": options.verbatim, "parquet_bytes": bytes,
        "queries": times_ms.len(), "query_ms_p50": p50, "query_ms_p90": p90, "query_ms_p99": p99, "query_ms_max": most,
        "queries_per_second": times_ms.len() as f64 / seconds.max(1e-9),
        "match_keys": options.keys, "match_found": present, "match_keys_per_second": keys_per_second,
        "gateway_peak_mib": peak as f64 / 1_048_576.0,
    });
    trade.close()?;
    Ok(scenario)
}

/// The lines for people.
pub fn to_text(scenario: &Scenario) -> String {
    let of = |key: &str| scenario.figures.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    format!(
        "lookups over {} rows: query p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, at most {:.2} ms; match {:.0} keys/s of {}; \
         gateway's peak {:.0} MiB\n",
        of("rows"),
        of("query_ms_p50"),
        of("query_ms_p90"),
        of("query_ms_p99"),
        of("query_ms_max"),
        of("match_keys_per_second"),
        of("match_keys"),
        of("gateway_peak_mib"),
    )
}

const ENTRY: &str = "\
name = \"人员登记信息\"
abstract = \"合成数据，仅供测试\"
format = \"table\"
update_frequency = \"daily\"
sharing_class = \"conditional\"
conditions = \"仅用于测试\"
purposes = [\"测试\"]
sharing_methods = [\"batch_exchange\", \"service_interface\"]
region_column = \"region\"
grade = \"general-2\"
items = [
  { name = \"region\", type = \"string\", personal = false },
  { name = \"person\", type = \"string\", key = true, personal = true },
  { name = \"name\", type = \"string\", personal = true },
  { name = \"capital\", type = \"decimal(15,2)\", personal = false },
  { name = \"opened\", type = \"date\", personal = false },
  { name = \"staff\", type = \"int32\", personal = false },
]
";

/// Rules speak and cut nothing: thousands of queries in a minute are what the rule over sweeps is there for.
fn only_observing(trade: &mut Trade) -> Result<(), BenchError> {
    trade.world.drain()?;
    let file = trade.world.gateway_dir().join("config.toml");
    let config = std::fs::read_to_string(&file).map_err(BenchError::io("reading", &file))?;
    check(config.contains("observe_only = false"), || "the configuration has no rules".to_owned())?;
    let config = config.replace("observe_only = false", "observe_only = true");
    std::fs::write(&file, config).map_err(BenchError::io("writing", &file))?;
    trade.world.serve()
}

/// The key of a row: no order of rows is one of keys, and every row has its own, for the factor is odd.
fn person(row: u64) -> String {
    format!("{:020}", row.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn staff(row: u64) -> i32 {
    i32::try_from(row % 9_973).unwrap_or(0)
}

fn write_rows(path: &Path, rows: u64) -> Result<(), BenchError> {
    let failed = |e: parquet::errors::ParquetError| BenchError::data("writing Parquet")(e);
    let file = std::fs::File::create(path).map_err(BenchError::io("making", path))?;
    let mut writer: Option<ArrowWriter<std::fs::File>> = None;
    let mut file = Some(file);
    for first in (0..rows).step_by(BATCH_ROWS as usize) {
        let batch = rows_of(first..rows.min(first + BATCH_ROWS))?;
        if let Some(file) = file.take() {
            writer = Some(ArrowWriter::try_new(file, batch.schema(), None).map_err(failed)?);
        }
        if let Some(writer) = &mut writer {
            writer.write(&batch).map_err(failed)?;
        }
    }
    writer.map_or(Ok(()), |writer| writer.close().map(drop).map_err(failed))
}

fn rows_of(rows: std::ops::Range<u64>) -> Result<RecordBatch, BenchError> {
    let texts = |of: &dyn Fn(u64) -> String| Arc::new(StringArray::from_iter_values(rows.clone().map(of))) as ArrayRef;
    let region = |row: u64| REGIONS.get((row % 8) as usize).copied().unwrap_or("44").to_owned();
    let capital = Decimal128Array::from_iter_values(rows.clone().map(|row| i128::from(row % 10_000_019)));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("region", texts(&region)),
        ("person", texts(&person)),
        ("name", texts(&|row| format!("合成人员{row}"))),
        ("capital", Arc::new(capital.with_precision_and_scale(15, 2).map_err(BenchError::data("making rows"))?)),
        ("opened", Arc::new(Date32Array::from_iter_values(rows.clone().map(|row| (row % 20_000) as i32)))),
        ("staff", Arc::new(Int32Array::from_iter_values(rows.clone().map(staff)))),
    ];
    RecordBatch::try_from_iter(columns).map_err(BenchError::data("making rows"))
}

/// A key, and the row that has it where one does.
fn some_key(options: Options, random: &mut Seeded) -> (String, Option<u64>) {
    let row = random.below(options.rows);
    if random.chance(ABSENT_PER_MILLE) { (person(options.rows + row), None) } else { (person(row), Some(row)) }
}

/// Queries one after the other over one connection: the milliseconds of each, and the seconds of all.
async fn queries(trade: &Trade, grant: &str, options: Options) -> Result<(Vec<f64>, f64), BenchError> {
    let machine =
        Machine { clock: Arc::new(SystemClock::new()), entropy: Arc::new(OsEntropy::new()), disk: Arc::new(OsDisk) };
    let profile = Profile::load(&trade.requester.profile).map_err(BenchError::data("reading the profile"))?;
    let link = Link::new(machine, profile);
    let session = link.dial().await.map_err(BenchError::data("dialling"))?;
    let mut random = Seeded::new(options.seed, "queries");
    for _ in 0..WARM_UP {
        ask(&session, grant, options, &mut random).await?;
    }
    let mut times_ms = Vec::with_capacity(options.queries);
    let since = Instant::now();
    for _ in 0..options.queries {
        let begun = Instant::now();
        ask(&session, grant, options, &mut random).await?;
        times_ms.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    let seconds = since.elapsed().as_secs_f64();
    session.close();
    link.goodbye().await;
    Ok((times_ms, seconds))
}

async fn ask(
    session: &Session<QuicChannel>,
    grant: &str,
    options: Options,
    random: &mut Seeded,
) -> Result<(), BenchError> {
    let (value, row) = some_key(options, random);
    let key = vec![KeyValue { name: String::new(), value }];
    let query = Query { target: grant.to_owned(), key, ..Query::default() };
    let found = lookup::query(session, query).await.map_err(BenchError::data("asking"))?;
    let told = found
        .batches
        .first()
        .and_then(|batch| batch.column_by_name("staff")?.as_primitive_opt::<Int32Type>().map(|column| column.value(0)));
    check(told == row.map(staff), || format!("row {row:?} was answered with {told:?}"))
}

/// Writes the file of keys; says how many of them are there.
fn write_keys(path: &Path, options: Options) -> Result<u64, BenchError> {
    let file = std::fs::File::create(path).map_err(BenchError::io("making", path))?;
    let (mut out, mut random, mut present) = (BufWriter::new(file), Seeded::new(options.seed, "keys"), 0);
    writeln!(out, "person").map_err(BenchError::io("writing", path))?;
    for _ in 0..options.keys {
        let (key, row) = some_key(options, &mut random);
        present += u64::from(row.is_some());
        writeln!(out, "{key}").map_err(BenchError::io("writing", path))?;
    }
    out.flush().map_err(BenchError::io("writing", path))?;
    Ok(present)
}

/// Every key has its answer, in the order of the keys.
fn check_answers(path: &Path, options: Options, present: u64) -> Result<(), BenchError> {
    let mut reader = csv::Reader::from_path(path).map_err(BenchError::data("reading answers"))?;
    let names = reader.headers().map_err(BenchError::data("reading answers"))?.clone();
    let place = |name: &str| {
        let found = names.iter().position(|n| n == name);
        found.ok_or_else(|| BenchError::Wrong(format!("no column {name} among the answers")))
    };
    let (key, found, of_staff) = (place("person")?, place("_found")?, place("staff")?);
    let (mut random, mut seen) = (Seeded::new(options.seed, "keys"), 0);
    for answer in reader.records() {
        let answer = answer.map_err(BenchError::data("reading answers"))?;
        let (asked, row) = some_key(options, &mut random);
        let expected = row.map_or(String::new(), |row| staff(row).to_string());
        let right = answer.get(key) == Some(asked.as_str())
            && answer.get(found) == Some(if row.is_some() { "true" } else { "false" })
            && answer.get(of_staff) == Some(expected.as_str());
        check(right, || format!("key {asked} was answered with {answer:?}"))?;
        seen += u64::from(row.is_some());
    }
    check(seen == present, || format!("{seen} keys were found, {present} are there"))
}

fn text(path: &Path) -> Result<&str, BenchError> {
    path.to_str().ok_or_else(|| BenchError::Usage(format!("{} is not UTF-8", path.display())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use lingqu_protocol::entry::EntrySpec;
    use std::collections::HashSet;

    #[test]
    fn every_row_has_a_key_of_its_own_and_the_entry_is_one() {
        let spec = EntrySpec::parse(ENTRY).unwrap();
        assert_eq!(spec.key_columns().count(), 1);
        let batch = rows_of(10..1_000).unwrap();
        assert_eq!(batch.num_columns(), spec.items.len());
        let keys: HashSet<_> = (0..100_000).map(person).collect();
        assert_eq!(keys.len(), 100_000);
    }
}
