//! What a sink is said to be, on the command line or in agent.toml, and the sink that it makes.

use super::command::{CommandFormat, CommandSink};
use super::folder::{FolderFormat, FolderSink};
use super::postgres::{PostgresSink, Target};
use super::stream::StreamSink;
use super::{KeptCursor, Promise, Sink};
use crate::error::{AgentError, Told};
use crate::machine::Machine;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use tokio::runtime::Handle;

/// Formats of folders and commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SinkFormat {
    /// Parquet files (a folder's default)
    Parquet,
    /// CSV in UTF-8
    Csv,
    /// Arrow IPC (a command's default)
    Arrow,
}

/// Where an entry goes.
#[derive(Clone, Debug)]
pub enum SinkSpec {
    /// A folder of files with a manifest.
    Folder(PathBuf, FolderFormat),
    /// Arrow IPC on standard output.
    Stdout,
    /// A command for each version.
    Command(String, CommandFormat),
    /// A table.
    Postgres(Box<Target>),
}

/// What was said.
#[derive(Clone, Debug, Default)]
pub struct Said<'a> {
    /// A folder, or `-`.
    pub out: Option<&'a Path>,
    /// A command.
    pub exec: Option<&'a str>,
    /// A database.
    pub postgres: Option<&'a str>,
    /// Its table.
    pub table: Option<&'a str>,
    /// The format of folder or command.
    pub format: Option<SinkFormat>,
}

impl SinkSpec {
    /// Reads what was said.
    ///
    /// # Errors
    /// None of them, more than one, or a format that it does not have.
    pub fn of(said: &Said<'_>) -> Result<Self, AgentError> {
        let usage = |en: &str, zh: &str| {
            let told = Told::new("sink", en, zh);
            AgentError::Usage(told.next("see `lingqu backflow --help`", "参见 `lingqu backflow --help`"))
        };
        match (said.out, said.exec, said.postgres) {
            (Some(out), None, None) if out.as_os_str() == "-" => match said.format {
                None | Some(SinkFormat::Arrow) => Ok(Self::Stdout),
                Some(_) => Err(usage("standard output takes Arrow alone", "标准输出仅支持 Arrow")),
            },
            (Some(out), None, None) => {
                let format = match said.format.unwrap_or(SinkFormat::Parquet) {
                    SinkFormat::Parquet => FolderFormat::Parquet,
                    SinkFormat::Csv => FolderFormat::Csv,
                    SinkFormat::Arrow => FolderFormat::Arrow,
                };
                let out = std::path::absolute(out).map_err(|e| AgentError::io("finding", out, &e))?;
                Ok(Self::Folder(out, format))
            }
            (None, Some(command), None) => match said.format.unwrap_or(SinkFormat::Arrow) {
                SinkFormat::Arrow => Ok(Self::Command(command.to_owned(), CommandFormat::Arrow)),
                SinkFormat::Csv => Ok(Self::Command(command.to_owned(), CommandFormat::Csv)),
                SinkFormat::Parquet => Err(usage("a command takes arrow or csv", "命令仅支持 arrow 或 csv")),
            },
            (None, None, Some(url)) => {
                let table = said.table.ok_or_else(|| usage("--postgres needs --table", "--postgres 需要 --table"))?;
                if said.format.is_some() {
                    return Err(usage("a table has no --format", "数据库表不需要 --format"));
                }
                Ok(Self::Postgres(Box::new(Target::parse(url, table)?)))
            }
            _ => Err(usage(
                "say one of --out, --exec, --postgres with --table",
                "请指定 --out、--exec、--postgres（加 --table）之一",
            )),
        }
    }

    /// Its word.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Folder(..) => "folder",
            Self::Stdout => "stdout",
            Self::Command(..) => "command",
            Self::Postgres(_) => "postgresql",
        }
    }

    /// What it promises.
    pub const fn promise(&self) -> Promise {
        match self {
            Self::Folder(..) | Self::Postgres(_) => Promise::ExactlyOnce,
            Self::Stdout | Self::Command(..) => Promise::AtLeastOnce,
        }
    }

    /// What tells it from others, and what people read. Holds no password.
    pub fn name(&self) -> String {
        match self {
            Self::Folder(dir, _) => dir.display().to_string(),
            Self::Stdout => "standard output".to_owned(),
            Self::Command(command, _) => command.clone(),
            Self::Postgres(target) => target.shown().to_owned(),
        }
    }

    /// The sink, for the entry with the id `entry`. `profile` is the profile's folder, `runtime` waits for a database.
    pub fn build(&self, machine: &Machine, profile: &Path, runtime: Handle, entry: &str) -> Box<dyn Sink> {
        let kept = || {
            let name = format!("{} {entry} {}", self.kind(), self.name());
            KeptCursor::new(machine.disk.clone(), profile, name)
        };
        match self {
            Self::Folder(dir, format) => {
                Box::new(FolderSink::new(machine.disk.clone(), machine.clock.clone(), dir, *format))
            }
            Self::Stdout => Box::new(StreamSink::new(kept(), Box::new(|| Box::new(std::io::stdout())))),
            Self::Command(command, format) => {
                Box::new(CommandSink::new(machine.disk.clone(), kept(), command.clone(), *format))
            }
            Self::Postgres(target) => Box::new(PostgresSink::new(target.as_ref().clone(), runtime)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_sink_is_said_and_no_more() {
        let out = Some(Path::new("rows"));
        let said = Said { out, ..Said::default() };
        assert!(
            matches!(SinkSpec::of(&said).unwrap(), SinkSpec::Folder(dir, FolderFormat::Parquet) if dir.is_absolute())
        );
        let dash = Some(Path::new("-"));
        assert_eq!(SinkSpec::of(&Said { out: dash, ..Said::default() }).unwrap().kind(), "stdout");
        let (exec, url, table) = (Some("cat"), Some("postgres://h/d"), Some("t"));
        assert_eq!(SinkSpec::of(&Said { exec, ..Said::default() }).unwrap().kind(), "command");
        assert_eq!(SinkSpec::of(&Said { postgres: url, table, ..Said::default() }).unwrap().kind(), "postgresql");
        for wrong in [
            Said::default(),
            Said { exec, ..said.clone() },
            Said { postgres: url, ..Said::default() },
            Said { exec, format: Some(SinkFormat::Parquet), ..Said::default() },
            Said { out: dash, format: Some(SinkFormat::Csv), ..Said::default() },
            Said { postgres: url, table, format: Some(SinkFormat::Csv), ..Said::default() },
        ] {
            assert_eq!(SinkSpec::of(&wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }
}
