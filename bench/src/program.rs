//! The programs under measurement, run as processes: what they were told, what they said, and what they used.

use crate::error::BenchError;
use crate::usage::{self, Usage};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

/// How often a running process's memory is read: a peak that lasted less than this at the very end goes unseen.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Characters of standard error that an error message repeats.
const STDERR_SHOWN_CHARS: usize = 4000;

/// A file of this name beside this very program.
///
/// # Errors
/// [`BenchError::NotBuilt`] where there is none.
pub fn beside(name: &str) -> Result<PathBuf, BenchError> {
    let me = std::env::current_exe().map_err(BenchError::system("finding this program"))?;
    let path = me.parent().unwrap_or_else(|| Path::new(".")).join(name);
    if path.is_file() { Ok(path) } else { Err(BenchError::NotBuilt(path.display().to_string())) }
}

/// A command line, as it will be run and as people read it.
#[derive(Clone, Debug)]
pub struct Line {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    log: Option<PathBuf>,
}

impl Line {
    /// `program` without arguments.
    pub fn new(program: &Path) -> Self {
        Self { program: program.to_owned(), args: Vec::new(), env: Vec::new(), log: None }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// One more variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Writes standard error to this file instead of keeping it.
    #[must_use]
    pub fn log(mut self, file: &Path) -> Self {
        self.log = Some(file.to_owned());
        self
    }

    /// As one would type it.
    pub fn text(&self) -> String {
        let name = self.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.args.iter().fold(name, |mut text, arg| {
            text.push(' ');
            text.push_str(&quoted(&arg.to_string_lossy()));
            text
        })
    }

    /// Starts it.
    ///
    /// # Errors
    /// When the system does not.
    pub fn start(self) -> Result<Running, BenchError> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(log) = &self.log {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(log);
            command.stderr(file.map_err(BenchError::io("opening", log))?);
        }
        let mut child = command.spawn().map_err(BenchError::io("starting", &self.program))?;
        let stderr = child.stderr.take().map(|pipe| spawn(move || read_all(pipe)));
        let stdout = child.stdout.take();
        Ok(Running { line: self, since: Instant::now(), child, stdout, stderr, usage: Usage::default() })
    }

    /// Runs it to its end, which must be exit code `expected`.
    ///
    /// # Errors
    /// When it cannot be started or ends otherwise.
    pub fn run(self, expected: i32) -> Result<Outcome, BenchError> {
        let text = self.text();
        let outcome = self.start()?.finish()?;
        if outcome.exit == Some(expected) {
            return Ok(outcome);
        }
        let exit = outcome.exit.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"));
        Err(BenchError::Program {
            command: text,
            exit,
            expected: format!("exit code {expected}"),
            stderr: outcome.tail(),
        })
    }
}

fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,@+".contains(c);
    if !arg.is_empty() && arg.chars().all(plain) { arg.to_owned() } else { format!("'{}'", arg.replace('\'', "'\\''")) }
}

fn read_all(mut pipe: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    // What was read before an error is still worth showing.
    let _ = pipe.read_to_end(&mut all);
    all
}

/// A process that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    line: Line,
    since: Instant,
    child: Child,
    stdout: Option<ChildStdout>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    usage: Usage,
}

/// How a process went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its exit code; `None` when a signal ended it.
    pub exit: Option<i32>,
    /// What it wrote to standard output and nobody else read.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: String,
    /// From its start to its end.
    pub seconds: f64,
    /// What it used.
    pub usage: Usage,
    /// The command line.
    pub command: String,
}

impl Outcome {
    /// Standard output as the one JSON document that `--json` promises.
    ///
    /// # Errors
    /// Where it is none.
    pub fn json(&self) -> Result<Value, BenchError> {
        serde_json::from_slice(&self.stdout)
            .map_err(BenchError::data(format!("reading the JSON of `{}`", self.command)))
    }

    /// The error that a program told with `--json`: the last line of standard error.
    pub fn error_json(&self) -> Option<Value> {
        let line = self.stderr.lines().rev().find(|line| line.starts_with('{'))?;
        serde_json::from_str::<Value>(line).ok()?.get("error").cloned()
    }

    /// The end of standard error.
    pub fn tail(&self) -> String {
        let skip = self.stderr.chars().count().saturating_sub(STDERR_SHOWN_CHARS);
        self.stderr.chars().skip(skip).collect()
    }
}

impl Running {
    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it used so far.
    pub fn usage(&mut self) -> Usage {
        self.usage = self.usage.and(usage::of(self.pid()));
        self.usage
    }

    /// Takes standard output away: the caller reads it.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.stdout.take()
    }

    /// Waits for a first line on standard output; what follows is read and dropped.
    ///
    /// # Errors
    /// When it ends without one; the error holds what it said.
    pub fn first_line(mut self) -> Result<(Self, String), BenchError> {
        let mut line = String::new();
        if let Some(stdout) = self.stdout.take() {
            let mut reader = BufReader::new(stdout);
            reader.read_line(&mut line).map_err(BenchError::system("reading a program's first line"))?;
            spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        }
        if !line.ends_with('\n') {
            let command = self.line.text();
            let log = self.line.log.clone();
            let outcome = self.finish()?;
            let stderr = log.and_then(|log| std::fs::read_to_string(log).ok()).unwrap_or_else(|| outcome.tail());
            let exit = outcome.exit.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"));
            return Err(BenchError::Program { command, exit, expected: "a line when it is ready".to_owned(), stderr });
        }
        Ok((self, line.trim_end().to_owned()))
    }

    /// Whether it has ended (and was not yet collected).
    ///
    /// # Errors
    /// What the system says.
    pub fn ended(&mut self) -> Result<bool, BenchError> {
        self.usage();
        let Some(pid) = Pid::from_raw(i32::try_from(self.pid()).unwrap_or(0)) else { return Ok(true) };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let seen =
            waitid(WaitId::Pid(pid), options).map_err(|e| BenchError::system("waiting for a program")(e.into()))?;
        Ok(seen.is_some())
    }

    /// Waits for its end and collects it.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish(mut self) -> Result<Outcome, BenchError> {
        let reading = self.stdout.take().map(|pipe| spawn(move || read_all(pipe)));
        while !self.ended()? {
            sleep(LOOK_EVERY);
        }
        let seconds = self.since.elapsed().as_secs_f64();
        // It has ended and is not collected: its processor time is complete now.
        let usage = self.usage();
        let status = self.child.wait().map_err(BenchError::system("collecting a program"))?;
        let joined = |handle: Option<JoinHandle<Vec<u8>>>| handle.and_then(|h| h.join().ok()).unwrap_or_default();
        let stdout = joined(reading);
        let stderr = String::from_utf8_lossy(&joined(self.stderr.take())).into_owned();
        Ok(Outcome { exit: status.code(), stdout, stderr, seconds, usage, command: self.line.text() })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// What the system says.
    pub fn signal(&self, signal: Signal) -> Result<(), BenchError> {
        let Some(pid) = Pid::from_raw(i32::try_from(self.pid()).unwrap_or(0)) else { return Ok(()) };
        kill_process(pid, signal).map_err(|e| BenchError::system("sending a signal")(e.into()))
    }

    /// Kills it with no warning (`kill -9`) and collects it.
    ///
    /// # Errors
    /// What the system says.
    pub fn kill(self) -> Result<Outcome, BenchError> {
        self.signal(Signal::KILL)?;
        self.finish()
    }

    /// Asks it to end (SIGTERM), and kills it where it has not within `patience`. `true` where it ended by itself.
    ///
    /// # Errors
    /// What the system says.
    pub fn stop(mut self, patience: Duration) -> Result<(Outcome, bool), BenchError> {
        self.signal(Signal::TERM)?;
        let until = Instant::now() + patience;
        while Instant::now() < until {
            if self.ended()? {
                return Ok((self.finish()?, true));
            }
            sleep(LOOK_EVERY);
        }
        Ok((self.kill()?, false))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Collected already, or ended this very moment: both are what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Line {
        Line::new(Path::new("/bin/sh")).arg("-c").arg(script)
    }

    #[test]
    fn exit_code_and_both_outputs_are_seen() {
        let outcome = sh("echo '{\"id\":7}'; echo 'log'; exit 0").run(0).unwrap();
        assert!(outcome.json().is_err(), "two documents are not one");
        let outcome = sh("echo '{\"id\":7}'; echo '{\"error\":{\"word\":\"w\"}}' >&2; exit 3").run(3).unwrap();
        assert_eq!(outcome.json().unwrap()["id"], 7);
        assert_eq!(outcome.error_json().unwrap()["word"], "w");
        assert!(matches!(sh("exit 3").run(0), Err(BenchError::Program { .. })));
    }

    #[test]
    fn what_a_process_used_is_known_after_its_end() {
        let outcome = sh("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done").run(0).unwrap();
        assert!(outcome.usage.cpu_seconds > 0.0 && outcome.usage.peak_bytes > 0, "{outcome:?}");
    }

    #[test]
    fn a_killed_process_has_no_exit_code() {
        let (running, line) = sh("echo ready; exec sleep 60").start().unwrap().first_line().unwrap();
        assert_eq!(line, "ready");
        assert_eq!(running.kill().unwrap().exit, None);
        let (running, _) =
            sh("trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done").start().unwrap().first_line().unwrap();
        let (outcome, by_itself) = running.stop(Duration::from_secs(30)).unwrap();
        assert_eq!((outcome.exit, by_itself), (Some(9), true));
    }

    #[test]
    fn a_program_that_ends_before_it_is_ready_says_why() {
        let error = sh("echo no >&2; exit 2").start().unwrap().first_line().expect_err("it is not ready");
        assert!(error.to_string().contains("no") && error.to_string().contains("exit code 2"), "{error}");
    }
}
