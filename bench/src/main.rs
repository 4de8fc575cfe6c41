//! The `lingqu-bench` command.

use clap::{Args, Parser, Subcommand};
use lingqu_bench::error::BenchError;
use lingqu_bench::lineitem::{self, Format};
use lingqu_bench::scenario::{self, Name};
use lingqu_bench::{
    baseline, cost, decide, demo, fanout, flight, kill, kill_backflow, kill_batch, lookups, outside, revocation,
};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Measures and shows Lingqu's programs from outside.
#[derive(Debug, Parser)]
#[command(name = "lingqu-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure, beside a plain copy and plain QUIC; exit code 1 where a floor (bench/floors.toml) is missed.
    Run(RunArgs),
    /// Measure a decision of the gate: a million grants, beside one random read of as much memory.
    Decide(DecideArgs),
    /// Measure many small files, durable, beside `rsync -a --fsync` over ssh on loopback.
    Files(FilesArgs),
    /// Push and pull one big file: exit code 1 where either side held more memory than its budget.
    Big(BigArgs),
    /// Cut many running transfers and measure when the last byte went by.
    Revocation(RevocationArgs),
    /// Measure what the rules over misuse cost, in pairs with and without them.
    Cost(CostArgs),
    /// Measure queries by key (p50, p99) and a match of many keys (keys a second), with the gateway's memory.
    Lookups(LookupsArgs),
    /// Measure backflow: one push to thousands of subscribers, some dead and some slow; or how soon one subscriber has it.
    Backflow(fanout::Arguments),
    /// Subscribers of `backflow`.
    #[command(hide = true)]
    BackflowPeer {
        #[arg(long)]
        setting: String,
    },
    /// An agent of `revocation`.
    #[command(hide = true)]
    RevocationPeer {
        #[arg(long)]
        setting: String,
    },
    /// Show the whole exchange once, on real regions and synthetic registrations.
    Demo(DemoArgs),
    /// Write TPC-H lineitem with a region column, and its entry.toml.
    Lineitem(LineitemArgs),
    /// Kill agent or gateway at random moments of a push and resume.
    Kill(KillArgs),
    /// Send lineitem through the gateway and let pyarrow compare what comes back.
    Outside(OutsideArgs),
    /// Measure one subscriber in memory beside pyarrow's Flight with mutual TLS over the same Parquet.
    Flight(FlightArgs),
    /// The server that plain QUIC is measured against.
    #[command(hide = true)]
    QuinnSink,
    /// The client that plain QUIC is measured with.
    #[command(hide = true)]
    QuinnSource(SourceArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Smaller sizes: under three minutes.
    #[arg(long)]
    quick: bool,
    /// Makes all content.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the report here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only these.
    #[arg(long = "scenario", value_enum, value_name = "NAME", num_args = 1..)]
    scenarios: Vec<Name>,
}

#[derive(Debug, Args)]
struct DecideArgs {
    /// Grants in force.
    #[arg(long, default_value_t = 1_000_000)]
    grants: u64,
    /// Agents that ask.
    #[arg(long, default_value_t = 10_000)]
    agents: u64,
    /// Makes policy and requests.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON document instead of the table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct FilesArgs {
    /// Files in the set.
    #[arg(long, default_value_t = scenario::FILES)]
    files: u64,
    /// Bytes of each file.
    #[arg(long, default_value_t = scenario::FILE_BYTES, value_parser = clap::value_parser!(u64).range(..=16 << 20))]
    bytes: u64,
    /// How often each way.
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Makes all content.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON document instead of the table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct BigArgs {
    /// The file's size; twice as much is needed on the disk.
    #[arg(long, default_value_t = scenario::BIG_BYTES >> 30, value_parser = clap::value_parser!(u64).range(1..=8192))]
    gib: u64,
    /// Makes the content.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON document instead of the table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RevocationArgs {
    /// Transfers that run when they are cut, pulls and pushes; may be several.
    #[arg(long, value_name = "N", num_args = 1.., default_values_t = [1, 100, 1000])]
    transfers: Vec<usize>,
    /// Cuts of each.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Bytes of what is pulled, and of each push.
    #[arg(long, default_value = "2GiB", value_parser = size)]
    size: u64,
    /// Makes the content.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON document instead of the table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct CostArgs {
    /// Pairs.
    #[arg(long, default_value_t = 100)]
    pairs: usize,
    /// Bytes of each transfer.
    #[arg(long, default_value = "512MiB", value_parser = size)]
    size: u64,
    /// Makes the content.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON document instead of the line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct LookupsArgs {
    /// Rows of the version.
    #[arg(long, default_value_t = scenario::LOOKUPS.0, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    rows: u64,
    /// Single queries.
    #[arg(long, default_value_t = scenario::LOOKUPS.1)]
    queries: usize,
    /// Keys of the match.
    #[arg(long, default_value_t = scenario::LOOKUPS.2)]
    keys: u64,
    /// Let the rows lie as their provider's Parquet file.
    #[arg(long)]
    verbatim: bool,
    /// Makes rows and keys.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON document instead of the lines.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// The folder to make; it is left to look around in.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print one JSON document instead of the account.
    #[arg(long)]
    json: bool,
    /// Smaller sizes.
    #[arg(long)]
    small: bool,
}

#[derive(Debug, Args)]
struct LineitemArgs {
    /// The folder to write into.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// TPC-H's scale: 1 is six million rows.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// The format.
    #[arg(long, value_enum, default_value_t = Format::Parquet)]
    format: Format,
}

#[derive(Debug, Args)]
struct KillArgs {
    /// Kill pushes and pulls of rows instead of a push of a file: half of the kills each.
    #[arg(long)]
    batch: bool,
    /// Kill gateway and subscribers while versions flow back into a folder, and a table with --postgres.
    #[arg(long, conflicts_with = "batch")]
    backflow: bool,
    /// With --backflow: a database too, as `lingqu backflow --postgres` takes it; a table of it is made and stays.
    #[arg(long, value_name = "URL", requires = "backflow")]
    postgres: Option<String>,
    /// With --batch: TPC-H's scale of the rows.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// The file's size, as `2GiB`, `512MiB` or bytes.
    #[arg(long, default_value = "2GiB", value_parser = size)]
    size: u64,
    /// How many kills.
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Decides content and moments.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Who is killed.
    #[arg(long, value_enum, default_value_t = kill::Side::Both)]
    side: kill::Side,
}

#[derive(Debug, Args)]
struct OutsideArgs {
    /// TPC-H's scale: 1 is six million rows.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
}

#[derive(Debug, Args)]
struct FlightArgs {
    /// TPC-H's scale: 1 is six million rows.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// How often, in turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    repetitions: u8,
}

#[derive(Debug, Args)]
struct SourceArgs {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    certificate: String,
    #[arg(long)]
    bytes: u64,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(if matches!(error, BenchError::Usage(_)) { 2 } else { 1 })
        }
    }
}

fn run(command: Command) -> Result<ExitCode, BenchError> {
    match command {
        Command::Run(args) => measure(&args),
        Command::Decide(args) => {
            let full = decide::Options::full(args.seed);
            let measured = decide::measure(decide::Options { grants: args.grants, agents: args.agents, ..full })?;
            Ok(judged(&scenario::alone(Name::Decide, measured, args.json)?))
        }
        Command::Files(args) => {
            let FilesArgs { files, bytes, repetitions, seed, json } = args;
            let set = scenario::Set { files, file_bytes: bytes, repetitions, beside_rsync: true, seed };
            Ok(judged(&scenario::alone(Name::SmallFiles, scenario::small_files(set)?, json)?))
        }
        Command::Big(args) => {
            let measured = scenario::big_file(args.gib << 30, args.seed)?;
            Ok(judged(&scenario::alone(Name::Big, measured, args.json)?))
        }
        Command::Revocation(args) => {
            let temp = tempfile::tempdir().map_err(BenchError::system("making a folder"))?;
            let RevocationArgs { transfers, rounds, size, seed, json } = args;
            let options = revocation::Options { transfers, rounds, bytes: size, seed };
            let measured = revocation::measure(temp.path(), &options)?;
            Ok(judged(&scenario::alone(Name::Revocation, measured, json)?))
        }
        Command::Cost(args) => {
            let temp = tempfile::tempdir().map_err(BenchError::system("making a folder"))?;
            let options = cost::Options { pairs: args.pairs, bytes: args.size, seed: args.seed };
            let measured = cost::measure(temp.path(), options)?;
            Ok(judged(&scenario::alone(Name::Cost, measured, args.json)?))
        }
        Command::Lookups(args) => {
            let temp = tempfile::tempdir().map_err(BenchError::system("making a folder"))?;
            let LookupsArgs { rows, queries, keys, verbatim, seed, json } = args;
            let measured = lookups::measure(temp.path(), lookups::Options { rows, queries, keys, verbatim, seed })?;
            Ok(judged(&scenario::alone(Name::Lookups, measured, json)?))
        }
        Command::Backflow(args) => Ok(judged(&args.run()?)),
        Command::BackflowPeer { setting } => block_on(fanout::peer(&setting)),
        Command::RevocationPeer { setting } => block_on(revocation::peer(&setting)),
        Command::Demo(args) => {
            demo::run(&demo::Options { dir: args.dir, json: args.json, small: args.small })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Lineitem(args) => {
            let written = lineitem::write(&args.out, args.scale, args.format)?;
            let sums: Vec<_> = written.sums.iter().map(|(n, s)| json!({ "column": n, "sum": s.to_string() })).collect();
            let told = json!({
                "data": written.data, "entry": written.entry, "rows": written.rows, "bytes": written.bytes, "sums": sums,
            });
            println!("{told}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Kill(args) => {
            let temp = tempfile::tempdir().map_err(BenchError::system("making a folder"))?;
            if args.backflow {
                let (kills, seed, side) = (args.kills, args.seed, args.side);
                let options = kill_backflow::Options { kills, seed, side, postgres: args.postgres };
                let told = kill_backflow::run(temp.path(), &options)?;
                println!("{}", serde_json::to_string_pretty(&told).map_err(BenchError::data("writing JSON"))?);
                return Ok(ExitCode::SUCCESS);
            }
            if args.batch {
                let options =
                    kill_batch::Options { scale: args.scale, kills: args.kills, seed: args.seed, side: args.side };
                let told = kill_batch::run(temp.path(), options)?;
                println!("{}", serde_json::to_string_pretty(&told).map_err(BenchError::data("writing JSON"))?);
                return Ok(ExitCode::SUCCESS);
            }
            let options = kill::Options { bytes: args.size, kills: args.kills, seed: args.seed, side: args.side };
            let told = kill::run(temp.path(), options)?;
            println!("{}", serde_json::to_string_pretty(&told).map_err(BenchError::data("writing JSON"))?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Outside(args) => {
            let temp = tempfile::tempdir().map_err(BenchError::system("making a folder"))?;
            println!("{}", outside::run(temp.path(), args.scale)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Flight(args) => {
            let temp = tempfile::tempdir().map_err(BenchError::system("making a folder"))?;
            let options = flight::Options { scale: args.scale, repetitions: usize::from(args.repetitions) };
            let told = flight::run(temp.path(), options)?;
            println!("{}", serde_json::to_string_pretty(&told).map_err(BenchError::data("writing JSON"))?);
            Ok(ExitCode::SUCCESS)
        }
        Command::QuinnSink => block_on(baseline::sink()),
        Command::QuinnSource(args) => block_on(baseline::source(args.to, &args.certificate, args.bytes)),
    }
}

fn measure(args: &RunArgs) -> Result<ExitCode, BenchError> {
    let options = scenario::Options { quick: args.quick, seed: args.seed };
    let missed = scenario::run(&args.scenarios, options, args.json.as_deref().map(Path::new))?;
    Ok(judged(&missed))
}

fn judged(missed: &[String]) -> ExitCode {
    for floor in missed {
        eprintln!("missed: {floor}");
    }
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn block_on(work: impl Future<Output = Result<(), BenchError>>) -> Result<ExitCode, BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(BenchError::system("starting threads"))?.block_on(work)?;
    Ok(ExitCode::SUCCESS)
}

/// A size with a unit of 1,024.
fn size(text: &str) -> Result<u64, String> {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("", 0)];
    let parsed = units.into_iter().find_map(|(unit, shift)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(1 << shift)
    });
    parsed.ok_or_else(|| format!("{text:?} is not a size: write 2GiB, 512MiB or a number of bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("2GiB"), Ok(2 << 30));
        assert_eq!(size("7"), Ok(7));
        for bad in ["", "GiB", "-1", "2GB", "99999999999GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
