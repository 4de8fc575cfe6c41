//! A PostgreSQL server for tests: a cluster of its own in a folder that goes away with it, on a loopback port and a socket.

use super::program::{Reaper, Running, wait_until};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

/// A server that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Postgres {
    server: Option<Running>,
    port: u16,
    /// Who the server runs as: it refuses to be root.
    user: Option<(u32, u32)>,
    dir: TempDir,
    _reaper: Reaper,
}

/// The password of the user `postgres` over TCP.
pub const PASSWORD: &str = "for tests alone";

/// One server that all tests share; each makes tables of its own.
pub fn postgres() -> &'static Postgres {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    SHARED.get_or_init(Postgres::start)
}

impl Postgres {
    /// A new cluster, with its server.
    ///
    /// # Panics
    /// Where PostgreSQL is not installed: `deploy/test` installs it.
    pub fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let reaper = Reaper::of_dir(dir.path());
        let user = server_user();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        std::fs::write(dir.path().join("password"), PASSWORD).unwrap();
        if let Some((uid, gid)) = user {
            for path in ["data", "run", "password", ""] {
                std::os::unix::fs::chown(dir.path().join(path), Some(uid), Some(gid)).unwrap();
            }
        }
        let made = program("initdb", user)
            .args([
                "--no-sync",
                "--username=postgres",
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
                "--encoding=UTF8",
            ])
            .args(["--locale=C", "--pwfile"])
            .arg(dir.path().join("password"))
            .arg("-D")
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut postgres = Self { server: None, port, user, dir, _reaper: reaper };
        postgres.run(&[]);
        postgres
    }

    /// Starts the server with these settings. One that was killed may have left processes that let go of its memory a moment
    /// later: it is started again until it stays.
    pub fn run(&mut self, settings: &[&str]) {
        let socket = self.dir.path().join("run").join(format!(".s.PGSQL.{}", self.port));
        let start = |this: &Self| {
            let mut command = program("postgres", this.user);
            command.arg("-D").arg(this.dir.path().join("data")).args(["-p", &this.port.to_string(), "-c", "fsync=on"]);
            command.arg("-k").arg(this.dir.path().join("run")).args(["-c", "listen_addresses=127.0.0.1"]);
            settings.iter().for_each(|setting| {
                command.args(["-c", setting]);
            });
            Running::start(command)
        };
        self.server = Some(start(self));
        wait_until("the database listens", || {
            if self.server.as_mut().is_some_and(|server| !server.is_running()) {
                std::thread::sleep(std::time::Duration::from_millis(200));
                self.server = Some(start(self));
            }
            socket.exists() && self.try_sql("SELECT 1").is_ok()
        });
    }

    /// kill -9 of the server, and its start.
    pub fn kill_and_start(&mut self) {
        self.kill_and_start_with(&[]);
    }

    fn kill_and_start_with(&mut self, settings: &[&str]) {
        if let Some(server) = self.server.take() {
            server.kill();
        }
        self.run(settings);
    }

    /// From now on it takes nobody over TCP without TLS. Gives the file of the root that its certificate, for 127.0.0.1, is
    /// under.
    pub fn speak_tls_alone(&mut self) -> PathBuf {
        let (root, issuer) = root();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        for (name, text) in [("server.pem", certificate.pem()), ("server.key", key.serialize_pem())] {
            std::fs::write(self.data().join(name), text).unwrap();
            self.give(&self.data().join(name));
        }
        std::fs::write(
            self.data().join("pg_hba.conf"),
            "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n",
        )
        .unwrap();
        self.kill_and_start_with(&["ssl=on", "ssl_cert_file=server.pem", "ssl_key_file=server.key"]);
        let file = self.dir.path().join("root.pem");
        std::fs::write(&file, root).unwrap();
        file
    }

    /// Over the socket, where nobody needs a password.
    pub fn url(&self) -> String {
        let run = self.dir.path().join("run");
        format!("postgres:///postgres?user=postgres&host={}&port={}", run.display(), self.port)
    }

    /// Over TCP, with a password, which is not in it.
    pub fn tcp_url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// The cluster's folder.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A name that no table has yet.
    pub fn new_table(&self) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        format!("登记_{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Runs SQL by psql; what it prints, a row a line and `|` between columns.
    ///
    /// # Panics
    /// Where the database refuses.
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    fn try_sql(&self, sql: &str) -> Result<String, String> {
        let run = self.dir.path().join("run");
        let mut command = program("psql", None);
        command.arg("-h").arg(run).args([
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
            "-X",
            "-q",
            "-A",
            "-t",
            "-c",
            sql,
        ]);
        let said = command.output().unwrap();
        match said.status.success() {
            true => Ok(String::from_utf8(said.stdout).unwrap().trim_end().to_owned()),
            false => Err(String::from_utf8_lossy(&said.stderr).into_owned()),
        }
    }

    /// Gives a file to the server's user, with the rights that a key must have.
    fn give(&self, path: &Path) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((uid, gid)) = self.user {
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
        }
    }
}

/// A root, as PEM, and what signs under it.
pub fn root() -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "root of a database");
    let root = params.self_signed(&key).unwrap();
    (root.pem(), Issuer::new(params, key))
}

/// A program of PostgreSQL's: in the path, or where Debian puts it.
fn program(name: &str, user: Option<(u32, u32)>) -> Command {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = debian.map(|version| version.path().join("bin").join(name)).collect();
    // The newest first; a name without a folder is looked up in the path.
    places.sort();
    let place = places.into_iter().rev().find(|place| place.is_file()).unwrap_or_else(|| PathBuf::from(name));
    let mut command = Command::new(place);
    command.env_clear().env("LC_ALL", "C").env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir("/");
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

/// Who a server of root's runs as: `postgres`, or nobody where that user is not there; `None` where we are not root.
fn server_user() -> Option<(u32, u32)> {
    let id = |args: &[&str]| {
        let said = Command::new("id").args(args).output().unwrap();
        let text = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        said.status.success().then(|| text.parse::<u32>().ok()).flatten()
    };
    if id(&["-u"]) != Some(0) {
        return None;
    }
    ["postgres", "nobody"].iter().find_map(|name| Some((id(&["-u", name])?, id(&["-g", name])?)))
}
