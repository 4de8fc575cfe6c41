//! Sending, getting, and what is under way.

use clap::{Args, Subcommand};
use lingqu_protocol::ids::TransferId;
use std::path::PathBuf;

/// `push …`.
#[derive(Debug, Subcommand)]
pub enum PushCommand {
    /// Send rows: Parquet or CSV files, checked against the entry's columns. (批量交换)
    #[command(after_help = "\
Examples:
  lingqu push batch 307010/000001 rows.parquet
  lingqu push batch 307010/000001 part1.csv part2.csv --mode append
  lingqu push batch 307010/000001 rows.csv --check          only look for what is wrong with it")]
    Batch(PushBatchArgs),
    /// Send files and folders as they are. (文件)
    #[command(after_help = "\
Examples:
  lingqu push file 307010/000002 ./archive
  lingqu push file 307010/000002 a.zip b.zip --receipt receipt.json

A push that was cut goes on with the same command, or with `lingqu transfer resume ID`.")]
    File(PushFileArgs),
}

/// How a version of rows relates to the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BatchMode {
    /// These rows are all (全量).
    Full,
    /// These rows come after those before (追加).
    Append,
}

impl BatchMode {
    /// Its word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Append => "append",
        }
    }
}

/// What both kinds of push take.
#[derive(Clone, Debug, Args)]
pub struct PushCommon {
    /// Write it to the outbox and end with exit code 8; `transfer resume` sends it.
    #[arg(long)]
    pub queue: bool,
    /// A name for this transfer, made elsewhere: the same name for the same entry sends once, and every later try gets the
    /// first receipt.
    #[arg(long, value_name = "K")]
    pub idempotency_key: Option<String>,
    /// Write the receipt here too; it is always kept in the profile's folder `receipts`.
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
}

/// `push batch`.
#[derive(Debug, Args)]
pub struct PushBatchArgs {
    /// The entry's id or code.
    pub entry: String,
    /// Parquet or CSV files.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// All rows anew, or more rows.
    #[arg(long, value_enum, default_value_t = BatchMode::Full)]
    pub mode: BatchMode,
    /// Only compare the files with the entry: nothing is sent.
    #[arg(long)]
    pub check: bool,
    /// What both kinds of push take.
    #[command(flatten)]
    pub common: PushCommon,
}

/// `push file`.
#[derive(Debug, Args)]
pub struct PushFileArgs {
    /// The entry's id or code.
    pub entry: String,
    /// Files and folders; a folder keeps its tree.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// What both kinds of push take.
    #[command(flatten)]
    pub common: PushCommon,
}

/// `pull`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lingqu pull grant-... --out rows.parquet
  lingqu pull 307010/000001 --columns region,credit_code --where \"region within '4403'\" --out rows.csv
  lingqu pull grant-... --out - | program-that-reads-arrow
  lingqu pull grant-... --out ./files                        an entry of files

The end of --out says the format: .parquet, .csv or .arrow; `-` is an Arrow IPC stream on standard output. A file appears
under its name when it is whole; exit code 0 means that everything arrived and a receipt is kept.")]
pub struct PullArgs {
    /// A grant's id; or an entry's id or code, where one grant is in force for it.
    pub target: String,
    /// The entry's version; the latest where absent.
    #[arg(long, value_name = "V", value_parser = clap::value_parser!(u64).range(1..))]
    pub version: Option<u64>,
    /// Only these files of the set.
    #[arg(long = "file", value_name = "NAME", num_args = 1..)]
    pub files: Vec<String>,
    /// Only these columns.
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Only rows for which this holds.
    #[arg(long = "where", value_name = "EXPR")]
    pub where_: Option<String>,
    /// Only rows of this region and those below it.
    #[arg(long, value_name = "R")]
    pub region: Option<String>,
    /// What it is for; the grant's purpose where it has just one.
    #[arg(long, value_name = "P")]
    pub purpose: Option<String>,
    /// Where it goes: a file, a folder for files, or `-`.
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// Write the receipt here too.
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
    /// A name for this transfer, made elsewhere: a later try with the same name goes on where this one was cut.
    #[arg(long, value_name = "K")]
    pub idempotency_key: Option<String>,
}

/// `transfer …`.
#[derive(Debug, Subcommand)]
pub enum TransferCommand {
    /// List the transfers of the outbox.
    List,
    /// Show one transfer.
    Show(TransferArgs),
    /// Go on with a transfer that was cut or queued.
    Resume(TransferArgs),
    /// Give a transfer up: what the gateway holds of it is removed.
    Cancel(TransferArgs),
}

/// A transfer by its id.
#[derive(Debug, Args)]
pub struct TransferArgs {
    /// The transfer.
    pub id: TransferId,
}
