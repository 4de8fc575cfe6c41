//! What can be said to `lingqu`, as clap reads it.

mod acts;
mod backflow;
mod transfers;

pub use acts::*;
pub use backflow::*;
pub use transfers::*;

use clap::{Args, Parser, Subcommand};
use lingqu_protocol::documents::OfficerRole;
use std::path::PathBuf;

/// What `--help` says after the commands.
const AFTER_HELP: &str = "\
First steps:
  lingqu --profile ~/lingqu join lingqu-invite-1:...     the operator of the gateway gives the invitation
  export LINGQU_PROFILE=~/lingqu
  lingqu doctor                                            is everything ready? what must the firewall let through?
  lingqu catalogue list                                    what can be shared
  lingqu push file ENTRY ./export                          send a folder
  lingqu pull GRANT --out rows.parquet                     get what a grant allows

Output: text for people on standard output; with --json one JSON document there (a thing made has a field `id`, lists
are arrays). Logs go to standard error (LINGQU_LOG=info for more). An error goes to standard error, with --json as one
line {\"error\":{\"exit_code\",\"word\",\"where\",\"text\",\"text_zh\",\"next\",\"next_zh\"}}, its last; standard output is empty then (but for
doctor and push batch --check, whose reports come first).
中文：环境变量 LC_ALL 或 LANG 以 zh 开头时，先显示中文。

Exit codes: 0 done, 1 our fault, 2 usage, 3 denied or not found, 4 suspended or revoked, 5 integrity, 6 unreachable after
retries, 7 the data is bad, 8 not done yet: queued, or nothing as fresh as --max-age came.";

/// Lingqu 灵渠: the agent of the government data exchange gateway (政务数据交换网关代理).
#[derive(Debug, Parser)]
#[command(name = "lingqu", version, after_help = AFTER_HELP, max_term_width = 120)]
pub struct Cli {
    /// The agent's folder: its key, certificate, outbox and receipts (`join` makes it).
    #[arg(long, global = true, env = "LINGQU_PROFILE", value_name = "DIR")]
    pub profile: Option<PathBuf>,
    /// Print one JSON document for programs instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// What is to be done.
    #[command(subcommand)]
    pub command: Command,
}

/// Everything that `lingqu` does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Become an agent of a gateway: make a key here, get its certificate, write the profile. (接入)
    Join(JoinArgs),
    /// What this agent is, and whether the gateway knows it. (状态)
    Status,
    /// Look for what is in the way: network, MTU, clock, certificate. (诊断)
    Doctor,
    /// Get a new certificate over this agent's own connection. (更新证书)
    Renew,
    /// Officers' keys. (签署人)
    #[command(subcommand)]
    Officer(OfficerCommand),
    /// What waits for this agency: applications to answer, entries to review. (待办)
    Inbox,
    /// The catalogue of what can be shared. (政务数据目录)
    #[command(subcommand)]
    Catalogue(CatalogueCommand),
    /// Ask for data of the catalogue. (共享申请)
    Apply(ApplyArgs),
    /// Applications, made and received. (共享申请)
    #[command(subcommand)]
    Application(ApplicationCommand),
    /// Answer an application; the same as `application answer`. (答复)
    Answer(AnswerArgs),
    /// Grants, given and held. (共享权限)
    #[command(subcommand)]
    Grant(GrantCommand),
    /// What rules over misuse found, never called a violation. (疑似问题线索)
    #[command(subcommand)]
    Findings(FindingsCommand),
    /// Orders under which rules may cut. (常设授权)
    #[command(subcommand)]
    StandingOrder(StandingOrderCommand),
    /// What flows back to whom, as the authority published it. (回流清单)
    #[command(subcommand)]
    BackflowList(BackflowListCommand),
    /// Sign what `--prepare` wrote, with no connection. (签署)
    Sign(SignFileArgs),
    /// Hand in a signed document. (提交)
    Send(SendArgs),
    /// Check a signed document against the pinned root and show what it says. (验证)
    Verify(VerifyArgs),
    /// Send data. (推送)
    #[command(subcommand)]
    Push(PushCommand),
    /// Get what a grant allows. (拉取)
    Pull(PullArgs),
    /// Ask for one record by its key. (服务接口)
    Query(QueryArgs),
    /// Ask for the records of a file of keys. (核对)
    Match(MatchArgs),
    /// Get this agency's own region of an entry, version by version, by the published list. (回流)
    Backflow(BackflowArgs),
    /// Compare rows and digests of provider, gateway and receiver. (对账)
    Reconcile(ReconcileArgs),
    /// The agent as a program that stays. (代理服务)
    #[command(subcommand)]
    Agent(AgentCommand),
    /// The agent as a service of this machine. (系统服务)
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Transfers in this agent's outbox. (传输)
    #[command(subcommand)]
    Transfer(TransferCommand),
    /// Receipts. (回执)
    #[command(subcommand)]
    Receipt(ReceiptCommand),
}

/// `join`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lingqu --profile ~/lingqu join lingqu-invite-1:...
  Without a connection to the gateway:
  lingqu --profile ~/lingqu join lingqu-invite-1:... --request request.json      then carry the file to the operator
  lingqu --profile ~/lingqu join lingqu-invite-1:... --certificate answer.json   with what the operator gave back

If the answer is lost, run the same command again: the key that was made is kept until it has its certificate.")]
pub struct JoinArgs {
    /// The invitation, as the operator gave it, or a file that holds it.
    pub invitation: String,
    /// Write the request to a file instead of sending it.
    #[arg(long, value_name = "FILE", conflicts_with = "certificate")]
    pub request: Option<PathBuf>,
    /// Take the certificate from a file that the operator gave back.
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
}

/// `officer …`.
#[derive(Debug, Subcommand)]
pub enum OfficerCommand {
    /// Make an officer's key on this machine, and a request to have it registered.
    #[command(after_help = "\
Example:
  lingqu officer request --agency 91350100M000100Y43 --name 王芳 --role office-head --out ./wang

The folder then holds the key (never give it away) and officer.request: the operator registers it with
`lingqu-gateway officer add officer.request --root ROOTDIR --out CERT`.")]
    Request(OfficerRequestArgs),
}

/// `officer request`.
#[derive(Debug, Args)]
pub struct OfficerRequestArgs {
    /// The agency's credit code (统一社会信用代码).
    #[arg(long, value_name = "CODE")]
    pub agency: String,
    /// The officer's name.
    #[arg(long)]
    pub name: String,
    /// What the officer is: the agency head (部门负责人) signs the catalogue, the office head (共享工作机构负责人)
    /// applications and answers; a clerk (经办人) drafts.
    #[arg(long, value_enum)]
    pub role: RoleArg,
    /// The folder to make.
    #[arg(long, value_name = "ODIR")]
    pub out: PathBuf,
}

/// An officer's role on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RoleArg {
    /// 部门负责人
    AgencyHead,
    /// 共享工作机构负责人
    OfficeHead,
    /// 经办人
    Clerk,
}

impl From<RoleArg> for OfficerRole {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::AgencyHead => Self::AgencyHead,
            RoleArg::OfficeHead => Self::OfficeHead,
            RoleArg::Clerk => Self::Clerk,
        }
    }
}

/// `receipt …`.
#[derive(Debug, Subcommand)]
pub enum ReceiptCommand {
    /// Check a receipt with no connection: digests, signatures, its place in the ledger.
    #[command(after_help = "\
Examples:
  lingqu receipt verify ~/lingqu/receipts/transfer-....json
  lingqu receipt verify receipt.json --trust root.pub        an auditor, without a profile")]
    Verify(ReceiptVerifyArgs),
}

/// `receipt verify`.
#[derive(Debug, Args)]
pub struct ReceiptVerifyArgs {
    /// The receipt.
    pub file: PathBuf,
    /// The root's public key, from somewhere other than the gateway; the profile's where absent.
    #[arg(long, value_name = "FILE")]
    pub trust: Option<PathBuf>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
