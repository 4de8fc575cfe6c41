//! The gateway's process.

use super::program::{Program, Ran, Running, memory_bytes, run};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// From start to the ready line: opening the state and one commit.
const READY_WAIT: Duration = Duration::from_secs(30);

/// Where ports are looked for: below those that the system gives to sockets that ask for none, so that an agent's socket
/// does not take the port while its gateway is restarted.
const PORTS: std::ops::Range<u16> = 10_000..30_000;

/// A gateway's folder, and its process where it runs.
#[derive(Debug)]
pub struct Gateway {
    running: Option<Running>,
    dir: PathBuf,
    root: PathBuf,
    port: u16,
    http: Option<String>,
}

impl Gateway {
    /// The gateway in this folder.
    pub fn new(dir: PathBuf, root: PathBuf, port: u16) -> Self {
        Self { running: None, dir, root, port, http: None }
    }

    /// Makes the folder and the root.
    pub fn init(dir: PathBuf, root: PathBuf) -> Self {
        let gateway = Self::new(dir, root, free_port());
        let (address, root) = (gateway.address().to_string(), gateway.root.to_str().unwrap().to_owned());
        gateway.run(["init", "--root", &root, "--domain", "lingqu.test", "--address", &address]).ok();
        gateway
    }

    /// Starts it and waits until it is ready.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts it with a failpoint armed: it aborts at the `pass`-th pass of `name`.
    pub fn start_to_fail(&mut self, name: &str, pass: u32) {
        self.start_with(&[("LINGQU_FAILPOINT", &format!("{name}={pass}"))]);
    }

    /// Starts it with more in its environment.
    ///
    /// # Panics
    /// Where it does not become ready.
    pub fn start_with(&mut self, env: &[(&str, &str)]) {
        assert!(self.running.is_none(), "it runs already");
        let listen = self.address().to_string();
        let mut command = self.command(["serve", "--listen", &listen, "--http", "127.0.0.1:0"]);
        command.envs(env.iter().copied());
        self.start_command(command, listen);
    }

    /// Starts it so that a limit on the size of its files is an error of its writes and does not end it.
    pub fn start_for_file_limits(&mut self) {
        let listen = self.address().to_string();
        let serve = self.command(["serve", "--listen", &listen, "--http", "127.0.0.1:0"]);
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(serve.get_program()).args(serve.get_args());
        command.env_clear().envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
        self.start_command(command, listen);
    }

    /// From now on none of its files may be longer than this; every write beyond fails.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32);
        let limit = rustix::process::Rlimit { current: bytes, maximum: None };
        rustix::process::prlimit(pid, rustix::process::Resource::Fsize, limit).unwrap();
    }

    fn start_command(&mut self, command: Command, listen: String) {
        assert!(self.running.is_none(), "it runs already");
        let (running, stdout) = Running::start_unread(command);
        let (sender, ready) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout);
            let mut line = String::new();
            let read = lines.read_line(&mut line);
            let _gone = sender.send(read.map(|_| line));
            // What else it says is nobody's, and it must not wait for a reader.
            let _broken = lines.read_to_end(&mut Vec::new());
        });
        let line = match ready.recv_timeout(READY_WAIT) {
            Ok(Ok(line)) if line.starts_with("ready ") => line,
            other => panic!("the gateway did not become ready ({other:?}): {}", running.kill()),
        };
        let field = |name: &str| line.split_whitespace().find_map(|w| w.strip_prefix(name)).map(str::to_owned);
        assert_eq!(field("quic="), Some(listen), "{line}");
        self.http = Some(field("http=").unwrap_or_else(|| panic!("no http address in {line}")));
        self.running = Some(running);
    }

    /// kill -9.
    pub fn kill(&mut self) -> Ran {
        let ran = self.running.take().expect("it runs").kill();
        ran.must_not_panic();
        ran
    }

    /// SIGTERM, and waits for its end.
    pub fn terminate(&mut self) -> Ran {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for its end, as after a failpoint.
    pub fn wait(&mut self) -> Ran {
        let ran = self.running.take().expect("it runs").wait_for(Duration::from_secs(60));
        ran.must_not_panic();
        ran
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.running.as_ref().expect("it runs").stderr_so_far()
    }

    /// kill -9 and start again.
    pub fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// Whether its process lives.
    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(Running::is_running)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.running.as_ref().expect("it runs").signal(signal);
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("it runs").pid()
    }

    /// Most bytes of memory that it held so far.
    pub fn memory_bytes_most(&self) -> u64 {
        memory_bytes(self.pid(), "VmHWM:").unwrap()
    }

    /// Bytes of memory that it holds now.
    pub fn memory_bytes(&self) -> u64 {
        memory_bytes(self.pid(), "VmRSS:").unwrap()
    }

    /// One of its commands, with `--dir` and `--json`.
    pub fn command<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> std::process::Command {
        let mut command = Program::Gateway.command(args);
        command.arg("--dir").arg(&self.dir);
        command
    }

    /// Runs one of its commands to its end.
    pub fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Ran {
        let mut command = self.command(args);
        command.arg("--json");
        run(command)
    }

    /// Stops (临时阻断) what `selector` names, such as `["--all"]`.
    pub fn stop(&self, selector: &[&str], reason: &str) -> Value {
        self.run([&["stop"], selector, &["--reason", reason]].concat()).ok()
    }

    /// Lifts a stop.
    pub fn resume(&self, selector: &[&str], reason: &str) -> Value {
        self.run([&["resume"], selector, &["--reason", reason]].concat()).ok()
    }

    /// Where agents dial.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Status and body of a page of its HTTP server.
    pub fn get(&self, path: &str) -> (u16, String) {
        super::http::http_get(self.http.as_ref().expect("it runs"), path)
    }

    /// A metric's value: the sum over the series whose line begins with `series`.
    pub fn metric(&self, series: &str) -> f64 {
        let (status, page) = self.get("/metrics");
        assert_eq!(status, 200);
        let values = page.lines().filter(|l| l.starts_with(series)).filter_map(|l| l.rsplit(' ').next());
        values.map(|v| v.parse::<f64>().unwrap()).sum()
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The root's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of its state.
    pub fn state_file(&self) -> PathBuf {
        self.dir.join("state/lingqu.db")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        let ran = running.kill();
        if std::thread::panicking() {
            // The test has its own message; what the gateway said may be why.
            let tail: Vec<&str> = ran.stderr.lines().rev().filter(|l| !l.starts_with("  ")).take(40).collect();
            println!("--- the gateway's log ends\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        } else {
            ran.must_not_panic();
        }
    }
}

/// A UDP port that is free now.
pub(super) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let span = PORTS.end - PORTS.start;
    // Test runs beside each other begin at different places.
    let start = (std::process::id() % u32::from(span)) as u16;
    for _ in 0..span {
        let port = PORTS.start + (start + NEXT.fetch_add(1, Ordering::Relaxed) % span) % span;
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}
