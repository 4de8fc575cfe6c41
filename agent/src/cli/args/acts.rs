//! Acts that an officer signs, and what can be read of them.

use crate::batch::TextEncoding;
use clap::{Args, Subcommand};
use lingqu_protocol::documents::Day;
use lingqu_protocol::ids::{ApplicationId, FindingId, GrantId, ListId, OrderId};
use lingqu_protocol::misuse::{Action, Rule};
use std::path::PathBuf;

/// Who signs: an officer's key on this machine, or one elsewhere.
#[derive(Clone, Debug, Args)]
pub struct SignArgs {
    /// The officer's folder (`officer request --out`): sign and send now.
    #[arg(long, value_name = "ODIR", required_unless_present = "prepare", conflicts_with = "prepare")]
    pub key: Option<PathBuf>,
    /// Write the exact bytes to be signed to a file; then `sign FILE --key ODIR --out S` where the key is, and `send S`.
    #[arg(long, value_name = "FILE")]
    pub prepare: Option<PathBuf>,
    /// Days in which it must be handed in.
    #[arg(long, value_name = "DAYS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=30))]
    pub valid_days: u32,
}

/// `catalogue …`.
#[derive(Debug, Subcommand)]
pub enum CatalogueCommand {
    /// Write an entry.toml from a file of rows (目录模板): items with guessed types, to be completed by hand.
    #[command(after_help = "\
Examples:
  lingqu catalogue template --from rows.csv --out entry.toml
  lingqu catalogue template --from rows.xlsx --sheet 登记 --encoding gb18030

Types are guessed with care: what could be a code (leading zeros, 15 digits and more) stays a string. Columns that could be
the key are named in comments.")]
    Template(TemplateArgs),
    /// Submit an entry for review (提交). The agency head signs.
    #[command(after_help = "Example:\n  lingqu catalogue submit entry.toml --key ./head")]
    Submit(SubmitArgs),
    /// Review a submitted entry (审核), for an authority. Its office head or agency head signs.
    #[command(after_help = "\
Examples:
  lingqu catalogue review entry-... --approve --code 307010/000001 --key ./head
  lingqu catalogue review entry-... --return '缺少数据分级' --key ./head")]
    Review(ReviewArgs),
    /// List the entries that exist for this agent.
    List,
    /// Show one entry, its versions, or the regions of a version.
    Show(ShowEntryArgs),
}

/// `catalogue template`.
#[derive(Debug, Args)]
pub struct TemplateArgs {
    /// The file of rows: .parquet, .csv, .arrow, .jsonl or .xlsx.
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// Where the entry goes; standard output where absent.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The encoding of a text file; found where absent.
    #[arg(long, value_enum, value_name = "ENCODING")]
    pub encoding: Option<TextEncoding>,
    /// The sheet of an Excel file; the first where absent.
    #[arg(long, value_name = "NAME")]
    pub sheet: Option<String>,
}

/// `catalogue show`.
#[derive(Debug, Args)]
pub struct ShowEntryArgs {
    /// Its id or code.
    pub id: String,
    /// List its versions with their counts and digests: for its provider and the authority. (版本)
    #[arg(long)]
    pub versions: bool,
    /// List the regions of this version with their rows and digests: for its provider and the authority. (版本的行政区划)
    #[arg(long, value_name = "V", conflicts_with = "versions", value_parser = clap::value_parser!(u64).range(1..))]
    pub version: Option<u64>,
}

/// A thing by its id.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Its id (an entry's also by code).
    pub id: String,
}

/// `catalogue submit`.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The entry, as entry.toml.
    pub file: PathBuf,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `catalogue review`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("decision").required(true).args(["approve", "return_why"])))]
pub struct ReviewArgs {
    /// The entry's id or code.
    pub id: String,
    /// Publish it.
    #[arg(long)]
    pub approve: bool,
    /// The entry's code, where it has none.
    #[arg(long, value_name = "CODE", requires = "approve", conflicts_with = "return_why")]
    pub code: Option<String>,
    /// Send it back, and why.
    #[arg(long = "return", value_name = "WHY")]
    pub return_why: Option<String>,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `apply`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  lingqu apply application.toml --key ./office-head

By signing, the office head declares that the application is true, lawful and necessary (共享条例第二十条：真实、合法、必要).")]
pub struct ApplyArgs {
    /// The application, as application.toml.
    pub file: PathBuf,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `application …`.
#[derive(Debug, Subcommand)]
pub enum ApplicationCommand {
    /// List applications made and received.
    List,
    /// Show one application.
    Show(ShowArgs),
    /// Answer one (答复). The provider's office head signs.
    Answer(AnswerArgs),
}

/// `answer`, `application answer`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("decision").required(true).args(["approve", "refuse"])))]
#[command(after_help = "\
Examples:
  lingqu answer application-... --approve --key ./office-head
  lingqu answer application-... --approve --scope narrower.toml --key ./office-head
  lingqu answer application-... --refuse '与履职无关' --prepare answer.bin

The answer is bound to the exact text of the application as it was read when the answer was drafted.")]
pub struct AnswerArgs {
    /// The application.
    pub id: ApplicationId,
    /// Grant it: as asked, or as --scope says.
    #[arg(long)]
    pub approve: bool,
    /// A file with a narrower scope (application.toml's scope keys).
    #[arg(long, value_name = "FILE", requires = "approve", conflicts_with = "refuse")]
    pub scope: Option<PathBuf>,
    /// Refuse it, and why.
    #[arg(long, value_name = "WHY")]
    pub refuse: Option<String>,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `grant …`.
#[derive(Debug, Subcommand)]
pub enum GrantCommand {
    /// List grants given and held.
    List,
    /// Show one grant.
    Show(ShowArgs),
    /// Suspend a grant at once (暂停共享权限): what flows is cut. Needs no officer's key.
    Suspend(SuspendArgs),
    /// Order that it be put right by a day (限期整改): what is in force is suspended with the order. The office head of the
    /// provider or of the authority signs.
    Rectify(RectifyArgs),
    /// Lift a suspension (恢复). The provider's office head signs.
    Reinstate(GrantActArgs),
    /// End a grant for good (终止共享). The provider's office head signs.
    Terminate(GrantActArgs),
}

/// `grant suspend`.
#[derive(Debug, Args)]
pub struct SuspendArgs {
    /// The grant.
    pub id: GrantId,
    /// Why.
    #[arg(long, value_name = "WHY")]
    pub reason: String,
}

/// `grant rectify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  lingqu grant rectify grant-... --by 2026-12-31 --reason '补充使用台账，删除超范围数据' --key ./office-head

The requester reads it in `inbox` and `grant show`. Put right in time: `grant reinstate`. Not, or not enough: `grant terminate`
(共享条例第二十七条). The same command with another day gives more time.")]
pub struct RectifyArgs {
    /// The grant.
    pub id: GrantId,
    /// The last day, in China Standard Time.
    #[arg(long, value_name = "DATE")]
    pub by: Day,
    /// What has to be put right.
    #[arg(long, value_name = "WHY")]
    pub reason: String,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `findings …`.
#[derive(Debug, Subcommand)]
pub enum FindingsCommand {
    /// List findings: about this agency, on its own data, or all for the authority.
    List,
    /// Show one with its evidence, and what to do by when.
    Show(ShowArgs),
    /// Say that it holds (确认): what was cut stays cut. The office head of the provider or of the authority signs.
    #[command(after_help = "Example:\n  lingqu findings confirm finding-... --reason 已核实 --key ./office-head")]
    Confirm(FindingArgs),
    /// Say that it does not hold, or is settled (解除): what was cut goes on. The office head of the provider or of the
    /// authority signs.
    #[command(after_help = "Example:\n  lingqu findings lift finding-... --reason 已整改 --key ./office-head")]
    Lift(FindingArgs),
}

/// `findings confirm`, `findings lift`.
#[derive(Debug, Args)]
pub struct FindingArgs {
    /// The finding.
    pub id: FindingId,
    /// Why.
    #[arg(long, value_name = "WHY")]
    pub reason: String,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `standing-order …`.
#[derive(Debug, Subcommand)]
pub enum StandingOrderCommand {
    /// Give one: which rules may cut, how far, until when. The office head of the authority or of a provider signs.
    #[command(after_help = "\
Examples:
  lingqu standing-order issue --rule scope_probing --rule enumeration --strongest cut_grant --until 2027-03-31 \\
    --reason 夜间无人值守 --key ./office-head
  lingqu standing-order issue --rule two_places --strongest cut_agent --until 2027-03-31 --reason 防止密钥盗用 --prepare o.bin

A provider's order reaches grants of its own entries and no further than cut_grant; the authority's reaches everybody.
Without an order a rule's cut has to be confirmed in time, or it is lifted by itself.")]
    Issue(OrderArgs),
    /// Take one back before its last day; what was cut under it stays cut. Its office head, or the authority's, signs.
    Withdraw(WithdrawArgs),
    /// List them: those of this agency, or all for the authority.
    List,
    /// Show one.
    Show(ShowArgs),
}

/// `standing-order issue`.
#[derive(Debug, Args)]
pub struct OrderArgs {
    /// A rule; may be given again.
    #[arg(long = "rule", value_name = "CODE", required = true)]
    pub rules: Vec<Rule>,
    /// The strongest action: cut_grant, cut_agent or cut_agency.
    #[arg(long, value_name = "ACTION")]
    pub strongest: Action,
    /// Its last day, in China Standard Time.
    #[arg(long, value_name = "DATE")]
    pub until: Day,
    /// Why.
    #[arg(long, value_name = "WHY")]
    pub reason: String,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `standing-order withdraw`.
#[derive(Debug, Args)]
pub struct WithdrawArgs {
    /// The order.
    pub id: OrderId,
    /// Why.
    #[arg(long, value_name = "WHY")]
    pub reason: String,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `backflow-list …`.
#[derive(Debug, Subcommand)]
pub enum BackflowListCommand {
    /// Publish a list (公布回流清单), for an authority. Its office head or agency head signs.
    #[command(after_help = "\
Example:
  lingqu backflow-list publish list.toml --key ./office-head

list.toml:
  name = \"2026年第一批回流清单\"

  [[backflow]]
  entry = \"307010/000001\"
  to_duties = [\"市场监管\"]        # every department with this duty, and/or: to = [\"CREDIT CODE\"]
  levels = [\"county\"]             # of these levels alone; may be left out
  duty = \"辖区市场主体监管\"
  items = [\"region\", \"credit_code\"]   # all where left out

  [[region_changes]]               # codes that were merged or renamed, from a day on
  from = \"440304\"
  to = \"440305\"
  since = 2026-07-01
  basis = \"国函〔2026〕1号\"

Who is named gets the rows of its own region, without an application: lingqu backflow ENTRY --out DIR. Where several lists name
a department for an entry, the latest counts.")]
    Publish(PublishListArgs),
    /// Revoke a list (撤销): what flows under it ends at once. The authority's office head or agency head signs.
    Revoke(RevokeListArgs),
    /// List them.
    List,
    /// Show one, and which of its entries this department receives.
    Show(ShowArgs),
}

/// `backflow-list publish`.
#[derive(Debug, Args)]
pub struct PublishListArgs {
    /// The list.
    pub file: PathBuf,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `backflow-list revoke`.
#[derive(Debug, Args)]
pub struct RevokeListArgs {
    /// The list.
    pub id: ListId,
    /// Why.
    #[arg(long, value_name = "WHY")]
    pub reason: String,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `grant reinstate`, `grant terminate`.
#[derive(Debug, Args)]
pub struct GrantActArgs {
    /// The grant.
    pub id: GrantId,
    /// Why.
    #[arg(long, value_name = "WHY")]
    pub reason: String,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `sign`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example, where the officer's key is on a machine of its own:
  lingqu answer application-... --approve --prepare answer.bin      on the agent's machine
  lingqu sign answer.bin --key ./office-head --out answer.json      on the officer's machine; it shows what is signed
  lingqu send answer.json                                           on the agent's machine")]
pub struct SignFileArgs {
    /// What `--prepare` wrote.
    pub file: PathBuf,
    /// The officer's folder.
    #[arg(long, value_name = "ODIR")]
    pub key: PathBuf,
    /// The signed document to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// `send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// A signed document.
    pub file: PathBuf,
}

/// `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A signed document.
    pub file: PathBuf,
    /// The signer's certificate (`officer add --out`), where the signer is an officer.
    #[arg(long, value_name = "CERT")]
    pub signer: Option<PathBuf>,
    /// The root's public key; the profile's where absent.
    #[arg(long, value_name = "FILE")]
    pub trust: Option<PathBuf>,
}
