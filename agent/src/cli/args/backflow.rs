//! Backflow, reconciliation, and the agent as a service, as clap reads them.

use crate::backflow::spec::{Said, SinkFormat};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Where rows flow back to.
#[derive(Clone, Debug, Default, Args)]
pub struct SinkArgs {
    /// A folder of files with a manifest, or `-` for Arrow IPC on standard output.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// A command of the shell for each version: its rows come on the command's standard input.
    #[arg(long, value_name = "CMD", conflicts_with = "out")]
    pub exec: Option<String>,
    /// A PostgreSQL database: postgres://USER@HOST:PORT/DATABASE?sslmode=verify-full. The password is in PGPASSWORD or ~/.pgpass.
    #[arg(long, value_name = "URL", conflicts_with_all = ["out", "exec"], requires = "table")]
    pub postgres: Option<String>,
    /// The table, with or without its schema; it is made where it is not there.
    #[arg(long, value_name = "T", requires = "postgres")]
    pub table: Option<String>,
    /// The format of files, or of what a command gets. (格式)
    #[arg(long, value_enum)]
    pub format: Option<SinkFormat>,
}

impl SinkArgs {
    /// What was said.
    pub fn said(&self) -> Said<'_> {
        Said {
            out: self.out.as_deref(),
            exec: self.exec.as_deref(),
            postgres: self.postgres.as_deref(),
            table: self.table.as_deref(),
            format: self.format,
        }
    }
}

/// `backflow`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lingqu backflow 307010/000001 --out ./registrations --follow
  lingqu backflow 307010/000001 --out ./registrations --once --max-age 26h      every night, from cron
  lingqu backflow 307010/000001 --postgres postgres://me@db/county --table registrations --follow
  lingqu backflow 307010/000001 --exec './load.sh' --format csv --follow
  lingqu backflow 307010/000001 --out - | program-that-reads-arrow

Rows of this agency's own region come by the authority's published list; nothing is applied for. The first version is everything;
then each version comes as it was pushed: full, more rows, or changes.
A folder and a table hold each version exactly once, whatever is killed: rows and cursor are made durable together. Standard output
and a command get each version at least once, with its number (the schema's metadata lingqu.version; LINGQU_VERSION), for
nobody can write them and the cursor in one step.
In a folder, manifest.json names the files that hold the rows; a file that it does not name is not data.
--json: one document at the end; with --follow one line for each version.
Exit code 8: nothing as fresh as --max-age came. 5: rows differ from what the gateway says, and nothing of that version was taken.
中文：按主管部门公布的回流清单接收本地区数据，无需申请。文件夹和数据库表每个版本恰好一次；标准输出和命令至少一次，以版本号区分。
退出码 8 表示没有足够新的版本。")]
pub struct BackflowArgs {
    /// An entry's id or code.
    pub entry: String,
    /// Where rows go.
    #[command(flatten)]
    pub sink: SinkArgs,
    /// Only these of the columns that the list gives.
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Stay, and take each version as it comes. (持续接收)
    #[arg(long, conflicts_with = "once")]
    pub follow: bool,
    /// End when everything is here; the same as without --follow. (一次)
    #[arg(long)]
    pub once: bool,
    /// Raise the alarm (exit code 8) where the latest version is older than this: 26h, 90m, 7d. (最长时限)
    #[arg(long, value_name = "AGE", value_parser = duration, conflicts_with = "follow")]
    pub max_age: Option<Duration>,
}

/// `reconcile`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lingqu reconcile 307010/000001 --out ./registrations        the receiver: is everything here?
  lingqu reconcile 307010/000001                              the provider: does the gateway have what was pushed?

Compares rows and rows_digest of the version that the sink holds: provider, gateway, receiver, and each region.
Exit code 0: equal. 5: not equal, and what is missing is named.")]
pub struct ReconcileArgs {
    /// An entry's id or code.
    pub entry: String,
    /// What is compared with the gateway.
    #[command(flatten)]
    pub sink: SinkArgs,
    /// The version; that of the sink, or else the latest, where absent.
    #[arg(long = "at", value_name = "V", value_parser = clap::value_parser!(u64).range(1..))]
    pub version: Option<u64>,
}

/// `agent …`.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Stay: send what is queued, and follow what PROFILE/agent.toml lists, until SIGTERM.
    #[command(after_help = "\
PROFILE/agent.toml, all of it may be left out:
  outbox = true                              # send what `push --queue` wrote down, and go on with what was cut

  [[follow]]                                 # as many as there are
  entry = \"307010/000001\"
  out = \"/srv/registrations\"                 # or exec = \"CMD\", or postgres = \"URL\" and table = \"T\"
  format = \"parquet\"                         # parquet, csv, arrow
  columns = []                               # of those that the list gives; all where empty
  max_age = \"26h\"                            # warn where the latest version is older

What fails is started again with pauses of up to five minutes. SIGTERM lets a version that comes get to its end.")]
    Run,
}

/// `service …`.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Write a systemd unit for `lingqu agent run`.
    #[command(after_help = "\
Examples:
  lingqu --profile /var/lib/lingqu-agent/main service install --dry-run
  sudo lingqu --profile /var/lib/lingqu-agent/main service install --user lingqu-agent")]
    Install(ServiceInstallArgs),
}

/// `service install`.
#[derive(Debug, Args)]
pub struct ServiceInstallArgs {
    /// The user that the agent runs as.
    #[arg(long, value_name = "USER", default_value = "lingqu-agent")]
    pub user: String,
    /// The unit's name.
    #[arg(long, value_name = "NAME", default_value = "lingqu-agent")]
    pub name: String,
    /// Where units lie.
    #[arg(long, value_name = "DIR", default_value = "/etc/systemd/system")]
    pub unit_dir: PathBuf,
    /// Print the unit and write nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// A length of time: a number and s, m, h or d.
///
/// # Errors
/// What is none.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no length of time: write 90m, 26h or 7d");
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let secs = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(number) * secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_a_unit() {
        assert_eq!(duration("26h"), Ok(Duration::from_secs(26 * 3_600)));
        assert_eq!(duration("90m"), Ok(Duration::from_secs(5_400)));
        for wrong in ["", "h", "26", "-1h", "1.5h", "26H", "26 h", "99999999999d", "一h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
