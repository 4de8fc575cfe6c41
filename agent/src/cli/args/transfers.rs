//! Sending, getting, and what is under way.

use crate::batch::reject::Percent;
use crate::batch::{TextEncoding, Zone};
use clap::{Args, Subcommand};
use lingqu_protocol::ids::TransferId;
use std::path::PathBuf;

/// `push …`.
#[derive(Debug, Subcommand)]
pub enum PushCommand {
    /// Send rows: Parquet, CSV, Arrow, JSON Lines or Excel files, checked against the entry. (批量交换)
    #[command(after_help = "\
Examples:
  lingqu push batch 307010/000001 rows.parquet
  lingqu push batch 307010/000001 part1.csv part2.csv --mode append
  lingqu push batch 307010/000001 ./export                   every file of a folder, formats may be mixed
  lingqu push batch 307010/000001 rows.csv --check           only look for what is wrong, and name all of it
  lingqu push batch 307010/000001 rows.csv --encoding gb18030 --delimiter '|'
  lingqu push batch 307010/000001 rows.csv --reject bad.csv --reject-rows-max 100 --reject-percent-max 0.5

The end of a file's name says its format: .parquet; .csv, .tsv, .txt; .arrow, .arrows, .ipc, .feather; .jsonl, .ndjson;
.xlsx. UTF-8 and GB18030, and what separates fields, are found where they are not said. Dates are read as 2026-01-31,
2026/1/31, 20260131 and 2026年1月31日. Without --reject-rows-max and --reject-percent-max the first dirty row refuses all.")]
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
    /// Each row says in a column `_op` whether it replaces or adds the row of its key (`upsert`) or takes it away (`delete`)
    /// (增量变更).
    Changes,
}

impl BatchMode {
    /// Its word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Append => "append",
            Self::Changes => "changes",
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
    /// Files of rows, and folders of them.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// All rows anew, more rows, or changes by key.
    #[arg(long, value_enum, default_value_t = BatchMode::Full)]
    pub mode: BatchMode,
    /// Send Parquet files as rows. Files that fit their entry else go as they are: not decoded here and not encoded there.
    /// (不按原文件传输)
    #[arg(long)]
    pub no_verbatim: bool,
    /// Only compare the files with the entry and name everything that is wrong: nothing is sent. (只检查)
    #[arg(long)]
    pub check: bool,
    /// The encoding of text files; found where absent. (编码)
    #[arg(long, value_enum, value_name = "ENCODING")]
    pub encoding: Option<TextEncoding>,
    /// What separates fields in CSV: one ASCII character, or `tab`; found among , tab ; | where absent. (分隔符)
    #[arg(long, value_name = "CHAR", value_parser = delimiter)]
    pub delimiter: Option<char>,
    /// The zone of timestamps that say none, such as +08:00. (时区)
    #[arg(long, value_name = "OFFSET", allow_hyphen_values = true)]
    pub zone: Option<Zone>,
    /// The sheet of an Excel file; the first where absent. (工作表)
    #[arg(long, value_name = "NAME")]
    pub sheet: Option<String>,
    /// Write what is wrong with which row here, as CSV: file, line, column, value, reason. (脏数据文件)
    #[arg(long, value_name = "FILE")]
    pub reject: Option<PathBuf>,
    /// How many dirty rows may stay behind while the others are sent; both limits must hold where both are given.
    #[arg(long, value_name = "N")]
    pub reject_rows_max: Option<u64>,
    /// How many of a hundred rows may stay behind, up to 4 decimals.
    #[arg(long, value_name = "P")]
    pub reject_percent_max: Option<Percent>,
    /// What both kinds of push take.
    #[command(flatten)]
    pub common: PushCommon,
}

/// One ASCII character, or the word `tab`.
fn delimiter(text: &str) -> Result<char, String> {
    let mut chars = text.chars();
    match (text, chars.next(), chars.next()) {
        ("tab" | "\\t", ..) => Ok('\t'),
        (_, Some(c), None) if c.is_ascii() && !matches!(c, '"' | '\n' | '\r') && !c.is_ascii_alphanumeric() => Ok(c),
        _ => Err("expected one ASCII character that is no letter, digit or quote, or `tab`".to_owned()),
    }
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

The end of --out says the format: .parquet, .csv, .jsonl, .xlsx or .arrow; `-` is an Arrow IPC stream on standard output.
In CSV an empty field is no value and \"\" the empty string; Excel does not tell them apart. A file appears
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
    /// The encoding of CSV: utf-8, utf-8-bom (for Excel), gb18030 or gbk. (编码)
    #[arg(long, value_enum, value_name = "ENCODING")]
    pub encoding: Option<TextEncoding>,
    /// In CSV, put an apostrophe before text that a spreadsheet would run as a formula; the text is another one then.
    #[arg(long)]
    pub guard_formulas: bool,
    /// A name for this transfer, made elsewhere: a later try with the same name goes on where this one was cut.
    #[arg(long, value_name = "K")]
    pub idempotency_key: Option<String>,
}

/// `query`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lingqu query grant-... --key 91350100M000100Y43
  lingqu query 307010/000001 --key credit_code=91350100M000100Y43 --columns region,staff --json
  lingqu query grant-... --key year=2026 --key number=17       a key of two items

The grant must allow the service interface (服务接口) and give the key's items in clear. Values are written as 2026-01-31,
2026-01-31T08:00:00Z, 12.50, true; text as it is (=VALUE where it has an = and no name stands before it).
With --json: {\"found\", \"records\": [{...}], \"grant\", \"entry\", \"version\", \"leaf\"}; leaf is the answer's place in the
ledger. Exit code 0 where the question was answered, found or not.")]
pub struct QueryArgs {
    /// A grant's id; or an entry's id or code, where one grant is in force for it.
    pub target: String,
    /// A value of the key: NAME=VALUE, or VALUE where the entry has one key item; once for each key item. (主键)
    #[arg(long, value_name = "NAME=VALUE", required = true, allow_hyphen_values = true)]
    pub key: Vec<String>,
    /// Only these columns, beside the key's.
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// The entry's version; the latest where absent.
    #[arg(long, value_name = "V", value_parser = clap::value_parser!(u64).range(1..))]
    pub version: Option<u64>,
    /// What it is for; the grant's purpose where it has just one.
    #[arg(long, value_name = "P")]
    pub purpose: Option<String>,
}

/// `match`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lingqu match grant-... keys.csv --out answers.csv
  lingqu match 307010/000001 people.xlsx --columns staff,capital --out answers.parquet

The file of keys has the entry's key items as its columns and no others; .csv, .parquet, .arrow, .jsonl and .xlsx are read
as by push. Keys that cannot be read are all looked for first: nothing is asked then, and each is named by line and column.
The answers come in the order of the keys: the key's items, _found, and the other columns that the grant gives. A key that
is not found has one row with _found false, one with several records has several rows.
A match that was cut begins anew with the same command, or with `lingqu transfer resume ID`; each try is a request.")]
pub struct MatchArgs {
    /// A grant's id; or an entry's id or code, where one grant is in force for it.
    pub target: String,
    /// The file of keys. (主键文件)
    pub keys: PathBuf,
    /// Where the answers go: a file that ends in .parquet, .csv, .jsonl, .xlsx or .arrow, or `-`.
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// Only these columns, beside the key's.
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// The entry's version; the latest where absent.
    #[arg(long, value_name = "V", value_parser = clap::value_parser!(u64).range(1..))]
    pub version: Option<u64>,
    /// What it is for; the grant's purpose where it has just one.
    #[arg(long, value_name = "P")]
    pub purpose: Option<String>,
    /// The encoding of a text file of keys; found where absent. (主键文件编码)
    #[arg(long, value_enum, value_name = "ENCODING")]
    pub keys_encoding: Option<TextEncoding>,
    /// What separates fields in a CSV file of keys; found where absent. (分隔符)
    #[arg(long, value_name = "CHAR", value_parser = delimiter)]
    pub delimiter: Option<char>,
    /// The zone of timestamps in the keys that say none, such as +08:00. (时区)
    #[arg(long, value_name = "OFFSET", allow_hyphen_values = true)]
    pub zone: Option<Zone>,
    /// The sheet of an Excel file of keys; the first where absent. (工作表)
    #[arg(long, value_name = "NAME")]
    pub sheet: Option<String>,
    /// The encoding of CSV answers: utf-8, utf-8-bom (for Excel), gb18030 or gbk. (编码)
    #[arg(long, value_enum, value_name = "ENCODING")]
    pub encoding: Option<TextEncoding>,
    /// In CSV, put an apostrophe before text that a spreadsheet would run as a formula; the text is another one then.
    #[arg(long)]
    pub guard_formulas: bool,
    /// Write the receipt here too.
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
    /// A name for this transfer, made elsewhere: a later try with the same name and keys is the same transfer.
    #[arg(long, value_name = "K")]
    pub idempotency_key: Option<String>,
}

/// `transfer …`.
#[derive(Debug, Subcommand)]
pub enum TransferCommand {
    /// List the transfers of the outbox. Those that failed are kept for 30 days after they ended.
    List,
    /// Show one transfer.
    Show(TransferArgs),
    /// Go on with a transfer that was cut, queued or failed.
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
