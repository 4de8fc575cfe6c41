//! The built programs, run as processes.

use serde_json::Value;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A command that takes longer than this hangs: the slowest of them tries an unreachable gateway six times.
const COMMAND_WAIT: Duration = Duration::from_secs(120);

/// One of the two programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `lingqu-gateway`.
    Gateway,
    /// `lingqu`.
    Agent,
}

impl Program {
    /// The file of the program: in the folder of this build's profile, beside which the test runs; or in the folder that
    /// `LINGQU_PROGRAMS` names, to test programs that were built or installed elsewhere.
    ///
    /// # Panics
    /// Where it was not built.
    pub fn path(self) -> PathBuf {
        let name = match self {
            Self::Gateway => "lingqu-gateway",
            Self::Agent => "lingqu",
        };
        let dir = std::env::var_os("LINGQU_PROGRAMS").map(PathBuf::from).unwrap_or_else(|| {
            let test = std::env::current_exe().unwrap();
            // target/PROFILE/deps/all-HASH
            test.ancestors().nth(2).unwrap().to_owned()
        });
        let path = dir.join(name);
        let release = if dir.ends_with("release") { " --release" } else { "" };
        assert!(
            path.is_file(),
            "{} is not there: run `cargo build{release} -p lingqu-gateway -p lingqu-agent` first",
            path.display()
        );
        path
    }

    /// A command with nothing of this process's environment that could change what it does.
    pub fn command<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(self.path());
        command.args(args).env_clear().env("LANG", "C").stdin(Stdio::null());
        for kept in ["PATH", "HOME", "RUST_BACKTRACE", "TMPDIR", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command
    }
}

/// What a command that ended has said.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
    /// What was run, for messages.
    pub what: String,
    /// Most bytes of memory that it was seen to hold.
    pub memory_bytes_most: u64,
}

impl Ran {
    /// Its standard output as one JSON document.
    ///
    /// # Panics
    /// Where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|e| panic!("{self}\nstandard output is not one JSON document: {e}"))
    }

    /// The JSON document of a command that must have exit code 0.
    ///
    /// # Panics
    /// Where it has another.
    pub fn ok(self) -> Value {
        self.must_not_panic();
        assert_eq!(self.code, Some(0), "{self}");
        self.json()
    }

    /// The `error` of a command that must have this exit code: the last line of standard error, with an empty standard
    /// output.
    ///
    /// # Panics
    /// Where it has another exit code, or says it in another way.
    pub fn fails(self, code: i32) -> Value {
        self.must_not_panic();
        assert_eq!(self.code, Some(code), "{self}");
        assert!(self.stdout.is_empty(), "an error leaves standard output empty\n{self}");
        self.error()
    }

    /// A command line that is none: exit code 2, in the words of the parser of command lines.
    ///
    /// # Panics
    /// Where it was taken.
    pub fn fails_usage(self) {
        self.must_not_panic();
        assert_eq!(self.code, Some(2), "{self}");
        assert!(self.stdout.is_empty() && self.stderr.contains("--help"), "{self}");
    }

    /// No input makes a process panic (THREATS, I6).
    ///
    /// # Panics
    /// Where it did.
    pub fn must_not_panic(&self) {
        assert!(!self.stderr.contains("panicked at"), "{self}");
    }

    /// The `error` on the last line of standard error.
    ///
    /// # Panics
    /// Where it says none.
    pub fn error(&self) -> Value {
        let line = self.stderr.lines().rfind(|line| line.starts_with("{\"error\""));
        let line = line.unwrap_or_else(|| panic!("no error line\n{self}"));
        let mut json: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}\n{self}"));
        json["error"].take()
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let out = String::from_utf8_lossy(&self.stdout);
        let out: String = out.chars().take(2_000).collect();
        write!(f, "{}: exit {:?}\n--- stdout\n{out}\n--- stderr\n{}", self.what, self.code, self.stderr)
    }
}

/// A process that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    reaper: Reaper,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    said: Arc<Mutex<Vec<u8>>>,
    what: String,
    began: Instant,
    memory_bytes_most: u64,
}

impl Running {
    /// Starts `command`. Its standard output and error are read all the time, so that it never waits for us.
    pub fn start(mut command: Command) -> Self {
        let what = format!("{command:?}");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = drain(child.stdout.take().unwrap());
        Self::new(child, Some(stdout), what)
    }

    /// Starts `command` and gives its standard output to the caller, who may let it wait.
    pub fn start_unread(mut command: Command) -> (Self, std::process::ChildStdout) {
        let what = format!("{command:?}");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = child.stdout.take().unwrap();
        (Self::new(child, None, what), out)
    }

    fn new(mut child: Child, stdout: Option<JoinHandle<Vec<u8>>>, what: String) -> Self {
        let reaper = Reaper::of(child.id());
        let said = Arc::default();
        let stderr = Some(drain(Copied { from: child.stderr.take().unwrap(), to: Arc::clone(&said) }));
        Self { child, reaper, stdout, stderr, said, what, began: Instant::now(), memory_bytes_most: 0 }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal by its number.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// kill -9.
    pub fn kill(mut self) -> Ran {
        // It may have ended by itself a moment ago.
        let _ended = self.child.kill();
        self.wait()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// Where it does not come.
    pub fn wait(self) -> Ran {
        let left = COMMAND_WAIT.saturating_sub(self.began.elapsed()).max(Duration::from_secs(10));
        self.wait_for(left)
    }

    /// Waits for its end, this long.
    ///
    /// # Panics
    /// Where it does not come.
    pub fn wait_for(mut self, at_most: Duration) -> Ran {
        let deadline = Instant::now() + at_most;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() > deadline {
                break None;
            }
            self.memory_bytes_most = memory_bytes(self.child.id(), "VmHWM:").unwrap_or(0).max(self.memory_bytes_most);
            std::thread::sleep(Duration::from_millis(2));
        };
        let Some(status) = status else {
            let _ended = self.child.kill();
            let ran = self.ended(None);
            panic!("it did not end in {at_most:?}: {ran}");
        };
        self.ended(Some(status))
    }

    /// What it has said on standard error so far.
    pub fn stderr_so_far(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn ended(&mut self, status: Option<ExitStatus>) -> Ran {
        self.reaper.dismiss();
        Ran {
            code: status.and_then(|s| s.code()),
            stdout: drained(self.stdout.take()),
            stderr: String::from_utf8_lossy(&drained(self.stderr.take())).into_owned(),
            what: self.what.clone(),
            memory_bytes_most: self.memory_bytes_most,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
        self.reaper.dismiss();
    }
}

/// A figure of a process's memory, as the system names it; `None` where it has ended.
pub(super) fn memory_bytes(pid: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(field))?;
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Runs a command to its end.
///
/// # Panics
/// Where it hangs.
pub(super) fn run(command: Command) -> Ran {
    Running::start(command).wait()
}

/// A pipe whose bytes are seen by others as they come.
struct Copied<R> {
    from: R,
    to: Arc<Mutex<Vec<u8>>>,
}

impl<R: Read> Read for Copied<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.to.lock().unwrap().extend_from_slice(&buffer[..read]);
        Ok(read)
    }
}

fn drain(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        // A pipe that breaks has ended.
        let _broken = from.read_to_end(&mut all);
        all
    })
}

fn drained(pipe: Option<JoinHandle<Vec<u8>>>) -> Vec<u8> {
    pipe.map_or_else(Vec::new, |reader| reader.join().unwrap())
}

/// Kills a process, or removes a folder, when this process ends before it does so itself: `kill -9` of a test run leaves
/// nothing behind.
#[derive(Debug)]
pub(super) struct Reaper(Option<(Child, ChildStdin)>);

impl Reaper {
    /// Of a process.
    pub(super) fn of(pid: u32) -> Self {
        Self::run(&format!("read word || kill -9 {pid}"))
    }

    /// Of a folder. Twice, for a process that dies with it may write until it is dead.
    pub(super) fn of_dir(dir: &Path) -> Self {
        Self::run(&format!("read word || {{ rm -rf '{0}'; sleep 1; rm -rf '{0}'; }}", dir.display()))
    }

    fn run(script: &str) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let word = child.stdin.take().unwrap();
        Self(Some((child, word)))
    }

    /// Nothing is left to do.
    pub(super) fn dismiss(&mut self) {
        if let Some((mut child, mut word)) = self.0.take() {
            let _gone = word.write_all(b"done\n");
            drop(word);
            let _ended = child.wait();
        }
    }
}

/// Waits until `met` holds.
///
/// # Panics
/// Where it does not in half a minute.
pub fn wait_until(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !met() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
