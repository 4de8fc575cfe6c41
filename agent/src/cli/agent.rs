//! `agent run`: an agent that stays. It sends what is queued and follows what its profile lists.

use super::backflow::{FOREVER, ground, stop_on_signal, subscription};
use super::{App, DONE, transfers};
use crate::backflow::follow::{Seen, follow, is_stale, stopped};
use crate::backflow::spec::{Said, SinkFormat, SinkSpec};
use crate::cli::args::duration;
use crate::connect::Link;
use crate::error::{AgentError, Told};
use lingqu_certs::os;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;

/// The file in the profile.
const FILE: &str = "agent.toml";

/// Bytes of it: some hundred subscriptions.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Entries that one agent follows: each has a thread and a stream.
const FOLLOW_MAX: usize = 256;

/// How often the outbox is looked at.
const OUTBOX_EVERY: Duration = Duration::from_secs(15);

/// The first pause before what failed is started again; each further one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_secs(2);

/// The longest such pause: an agency that was put on the list in the morning has its rows before anybody asks.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// How long a version that comes may take to its end after SIGTERM; systemd waits for 90 seconds.
const DRAIN: Duration = Duration::from_secs(60);

/// agent.toml.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentFile {
    #[serde(default = "yes")]
    pub(super) outbox: bool,
    #[serde(default)]
    pub(super) follow: Vec<FollowItem>,
}

/// One subscription in it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FollowItem {
    entry: String,
    out: Option<PathBuf>,
    exec: Option<String>,
    postgres: Option<String>,
    table: Option<String>,
    format: Option<SinkFormat>,
    #[serde(default)]
    columns: Vec<String>,
    max_age: Option<String>,
}

const fn yes() -> bool {
    true
}

impl FollowItem {
    fn spec(&self) -> Result<SinkSpec, AgentError> {
        if self.out.as_ref().is_some_and(|out| !out.is_absolute()) {
            let told = Told::new("relative_path", "`out` must be an absolute folder", "out 须为绝对路径的目录");
            return Err(AgentError::Usage(told));
        }
        SinkSpec::of(&Said {
            out: self.out.as_deref(),
            exec: self.exec.as_deref(),
            postgres: self.postgres.as_deref(),
            table: self.table.as_deref(),
            format: self.format,
        })
    }

    /// The folder that it writes to.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.out.as_deref()
    }
}

/// Reads PROFILE/agent.toml; none there is one that says nothing.
pub(super) fn read(profile: &Path) -> Result<AgentFile, AgentError> {
    let path = profile.join(FILE);
    let text = match os::read_bounded(&path, FILE_BYTES_MAX) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| wrong(&path, "it is not UTF-8"))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(AgentError::io("reading", &path, &e)),
    };
    parse(&text).map_err(|why| wrong(&path, &why))
}

fn parse(text: &str) -> Result<AgentFile, String> {
    let file: AgentFile = toml::from_str(text).map_err(|e| e.to_string())?;
    if file.follow.len() > FOLLOW_MAX {
        return Err(format!("at most {FOLLOW_MAX} entries are followed"));
    }
    for item in &file.follow {
        item.spec().map_err(|e| format!("{}: {e}", item.entry))?;
        item.max_age.as_deref().map(duration).transpose()?;
    }
    Ok(file)
}

fn wrong(path: &Path, why: &str) -> AgentError {
    let path = path.display();
    AgentError::Usage(
        Told::new("agent_file", format!("{path}: {why}"), format!("{path}：{why}"))
            .next("see `lingqu agent run --help`", "参见 `lingqu agent run --help`"),
    )
}

/// `agent run`.
pub(super) async fn run(app: &App) -> Result<u8, AgentError> {
    let link = app.link()?;
    let file = read(link.profile().dir())?;
    let stop = stop_on_signal();
    tracing::info!(follow = file.follow.len(), outbox = file.outbox, "the agent runs");
    let follows = file.follow.into_iter().map(|item| stay(app, &link, item, stop.clone()));
    let outbox = async {
        if file.outbox {
            drain(app, &stop).await;
        }
    };
    let all = futures::future::join(futures::future::join_all(follows), outbox);
    tokio::pin!(all);
    tokio::select! {
        // Where there is nothing to do it waits all the same: a service that ends is started again and again.
        _ = &mut all => stopped(&stop).await,
        () = stopped(&stop) => {
            if tokio::time::timeout(DRAIN, &mut all).await.is_err() {
                tracing::warn!("not all came to its end in time; it goes on with the next start");
            }
        }
    }
    link.goodbye().await;
    Ok(DONE)
}

/// Sends what is queued or was cut, until told to stop.
async fn drain(app: &App, stop: &watch::Receiver<bool>) {
    loop {
        let sent = tokio::select! {
            sent = transfers::drain(app) => sent,
            // A transfer that is cut here goes on with the next start: its record says so.
            () = stopped(stop) => return,
        };
        if let Err(error) = sent {
            tracing::warn!(%error, "the outbox could not be looked at; it is tried again");
        }
        tokio::select! {
            () = tokio::time::sleep(OUTBOX_EVERY) => {}
            () = stopped(stop) => return,
        }
    }
}

/// Follows one entry, and starts again what failed, until told to stop.
async fn stay(app: &App, link: &Link, item: FollowItem, stop: watch::Receiver<bool>) {
    let mut pause = PAUSE_FIRST;
    let most = item.max_age.as_deref().and_then(|age| duration(age).ok());
    loop {
        let mut moved = false;
        let outcome = match item.spec() {
            Ok(spec) => {
                let ground = ground(link, app, FOREVER, stop.clone());
                let subscription = subscription(app, link, &spec, item.entry.clone(), item.columns.clone(), false);
                let entry = item.entry.clone();
                let mut see = |seen| match seen {
                    Seen::Took(taken) => {
                        moved = true;
                        tracing::info!(entry, version = taken.version, rows = taken.rows, "a version is durable");
                    }
                    Seen::CaughtUp(age) => {
                        moved = true;
                        let most = most.and_then(|most| i64::try_from(most.as_millis()).ok());
                        if let Some(told) = most.and_then(|most| is_stale(Some(age), most)) {
                            tracing::warn!(entry, word = told.word, "{told}");
                        }
                    }
                    Seen::Began { .. } => {}
                };
                follow(link, &ground, subscription, &mut see).await.map(|_| ())
            }
            Err(error) => Err(error),
        };
        if *stop.borrow() {
            return;
        }
        if moved {
            pause = PAUSE_FIRST;
        }
        match outcome {
            Ok(()) => tracing::info!(entry = item.entry, "it ended; it is followed again"),
            Err(error) => {
                let told = error.told();
                tracing::error!(entry = item.entry, word = told.word, %error, pause_s = pause.as_secs(), "it failed; it is started again");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stopped(&stop) => return,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_says_nothing_drains_the_outbox() {
        let file = parse("").unwrap();
        assert!(file.outbox && file.follow.is_empty());
    }

    #[test]
    fn every_sink_may_be_listed_and_nothing_unknown() {
        let text = "outbox = false\n[[follow]]\nentry = \"a\"\nout = \"/x\"\nformat = \"csv\"\nmax_age = \"26h\"\n\
                    [[follow]]\nentry = \"b\"\nexec = \"cat\"\n[[follow]]\nentry = \"c\"\npostgres = \"postgres://h/d\"\ntable = \"t\"\n";
        let file = parse(text).unwrap();
        assert!(!file.outbox);
        let kinds: Vec<_> = file.follow.iter().map(|item| item.spec().unwrap().kind()).collect();
        assert_eq!(kinds, ["folder", "command", "postgresql"]);
        for wrong in [
            "outboxes = true",
            "[[follow]]\nentry = \"a\"",
            "[[follow]]\nentry = \"a\"\nout = \"relative\"",
            "[[follow]]\nentry = \"a\"\nout = \"/x\"\nexec = \"cat\"",
            "[[follow]]\nentry = \"a\"\nout = \"/x\"\nmax_age = \"soon\"",
            "[[follow]]\nentry = \"a\"\nout = \"/x\"\nsecret = 1",
            "[[follow]]\nentry = \"a\"\npostgres = \"postgres://u:p@h/d\"\ntable = \"t\"",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
