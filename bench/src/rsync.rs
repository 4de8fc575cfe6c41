//! What people use today for many small files, made as durable: `rsync -a --fsync` over ssh, to an sshd of our own on
//! loopback, with keys of its own in a folder that goes away.

use crate::error::BenchError;
use crate::program::{Line, Running};
use crate::report::Sample;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long sshd may take until it answers.
const READY_WAIT: Duration = Duration::from_secs(10);

/// Between two looks at whether it does.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where programs of the system lie that a user's path does not name.
const SYSTEM_DIRS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// rsync with a server of its own. Dropped, the server ends.
#[derive(Debug)]
pub struct Rsync {
    rsync: PathBuf,
    shell: String,
    to: String,
    _sshd: Running,
}

/// The programs that it takes.
struct Tools {
    rsync: PathBuf,
    ssh: PathBuf,
    keygen: PathBuf,
    sshd: PathBuf,
}

impl Rsync {
    /// Starts an sshd in `dir`. `Err` of the inner result says what is missing on this machine.
    ///
    /// # Errors
    /// When what is there does not work.
    pub fn start(dir: &Path) -> Result<Result<Self, String>, BenchError> {
        let tools = match tools() {
            Ok(tools) => tools,
            Err(missing) => return Ok(Err(missing)),
        };
        std::fs::create_dir_all(dir).map_err(BenchError::io("making", dir))?;
        let (host, own) = (dir.join("host"), dir.join("own"));
        for key in [&host, &own] {
            Line::new(&tools.keygen).args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key).run(0)?;
        }
        let authorized = dir.join("authorized_keys");
        std::fs::copy(own.with_extension("pub"), &authorized).map_err(BenchError::io("writing", &authorized))?;
        let port = free_port()?;
        let config = dir.join("sshd_config");
        let text = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nUseDNS no\n",
            host.display(),
            authorized.display(),
        );
        std::fs::write(&config, text).map_err(BenchError::io("writing", &config))?;
        let mut sshd = Line::new(&tools.sshd).args(["-D", "-e", "-f"]).arg(&config).start()?;
        let until = Instant::now() + READY_WAIT;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if sshd.ended()? || Instant::now() > until {
                return Ok(Err(format!("sshd does not start: {}", sshd.kill()?.tail().trim())));
            }
            sleep(LOOK_EVERY);
        }
        let user = Line::new(Path::new("id")).arg("-un").run(0)?;
        let user = String::from_utf8_lossy(&user.stdout).trim().to_owned();
        let shell = format!(
            "{} -F /dev/null -p {port} -i {} -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=no \
             -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            tools.ssh.display(),
            own.display(),
        );
        Ok(Ok(Self { rsync: tools.rsync, shell, to: format!("{user}@127.0.0.1"), _sshd: sshd }))
    }

    /// Sends the tree at `from` to a new folder at `to`, each file durable when this returns.
    ///
    /// # Errors
    /// When it does not work.
    pub fn send(&self, from: &Path, to: &Path) -> Result<Sample, BenchError> {
        let line = Line::new(&self.rsync).args(["-a", "--fsync", "-e", &self.shell]);
        let line = line.arg(format!("{}/", from.display())).arg(format!("{}:{}/", self.to, to.display()));
        let sent = line.run(0)?;
        Ok(Sample { seconds: sent.seconds, agent_cpu_seconds: sent.usage.cpu_seconds, ..Sample::default() })
    }
}

/// The programs, or a sentence that says which are missing.
fn tools() -> Result<Tools, String> {
    let mut missing = Vec::new();
    let mut find = |name: &'static str| {
        let found = find(name);
        if found.is_none() {
            missing.push(name);
        }
        found.unwrap_or_default()
    };
    let tools = Tools { rsync: find("rsync"), ssh: find("ssh"), keygen: find("ssh-keygen"), sshd: find("sshd") };
    if !missing.is_empty() {
        return Err(format!("not on this machine: {}", missing.join(", ")));
    }
    let help = Line::new(&tools.rsync).arg("--help").run(0).map_err(|e| e.to_string())?;
    if !String::from_utf8_lossy(&help.stdout).contains("--fsync") {
        return Err("this rsync has no --fsync: 3.2.4 or later is needed".to_owned());
    }
    Ok(tools)
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(SYSTEM_DIRS.map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// A TCP port on loopback that was free a moment ago.
fn free_port() -> Result<u16, BenchError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    Ok(listener.map_err(BenchError::system("looking for a free port"))?.port())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_arrives_or_it_is_said_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        std::fs::create_dir_all(from.join("a")).unwrap();
        std::fs::write(from.join("a/b"), "x").unwrap();
        match Rsync::start(&dir.path().join("ssh")).unwrap() {
            Ok(rsync) => {
                let to = dir.path().join("to");
                assert!(rsync.send(&from, &to).unwrap().seconds > 0.0);
                assert_eq!(std::fs::read(to.join("a/b")).unwrap(), b"x");
            }
            Err(missing) => assert!(!missing.is_empty()),
        }
    }
}
