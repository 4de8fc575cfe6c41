//! A world of real processes: a gateway, agencies with officers, agents that joined, entries and grants.
//!
//! [`Template`] makes one world, once a test run, with the programs' own commands; [`World::new`] copies its folders, which
//! takes milliseconds, and starts a gateway on them. [`shared`] is one such world for all tests that leave each other
//! alone: they make their own entries and never stop the gateway.
//!
//! Everything is bounded in time, and every process ends with the test run, however that ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a harness that cannot go on fails the test")]

mod agent;
pub mod data;
mod files;
mod gateway;
mod http;
pub mod postgres;
mod program;
pub mod raw;
mod specs;
mod template;
mod threats;

pub use agent::{Agent, Member};
pub use data::{COLUMNS, Rows, read_arrow, read_csv, read_parquet, registrations};
pub use files::{Tree, b3sum, bytes_of, flip_byte, seeded_bytes};
pub use gateway::Gateway;
pub use http::http_get;
pub use program::{Program, Ran, Running, wait_until};
pub use raw::{Dialled, Raw, runtime};
pub use specs::{application_toml, day, file_entry_toml, table_entry_toml, table_scope};
pub use template::{CITY, OTHER_CITY, PROVINCE, PURPOSE, Template};
pub use threats::{Got, threat};

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

/// A gateway that runs, with everyone around it.
#[derive(Debug)]
pub struct World {
    /// The gateway. First, so that it ends before its folder does.
    pub gateway: Gateway,
    /// The authority (政务数据共享主管部门), of the province.
    pub authority: Member,
    /// The provider, of the province.
    pub provider: Member,
    /// The requester, of the city [`CITY`]; it holds the grants.
    pub requester: Member,
    /// Another agency of the same city, which holds nothing.
    pub other: Member,
    /// An entry of rows that is published, with nothing pushed yet.
    pub table: Granted,
    /// An entry of files that is published, with nothing pushed yet.
    pub files: Granted,
    dir: TempDir,
    scratch: AtomicU64,
}

/// An entry, and the requester's grant for it.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The entry's id.
    pub entry: String,
    /// The entry's code.
    pub code: String,
    /// The application that was answered.
    pub application: String,
    /// The grant.
    pub grant: String,
}

/// The world that tests share when they disturb nobody.
pub fn shared() -> &'static World {
    static SHARED: OnceLock<World> = OnceLock::new();
    SHARED.get_or_init(World::new)
}

impl World {
    /// A world of its own, with a gateway that runs.
    pub fn new() -> Self {
        let mut world = Self::stopped();
        world.gateway.start();
        world
    }

    /// A world whose gateway does not run yet.
    pub fn stopped() -> Self {
        Template::get().copy()
    }

    /// A path in the world's folder that nobody uses yet.
    pub fn path(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join(format!("t{}", self.scratch.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&dir).unwrap();
        dir.join(name)
    }

    /// A file with this text.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Submits an entry of the provider's and has the authority publish it; its id.
    pub fn publish(&self, toml: &str) -> String {
        template::publish(&self.provider, &self.authority, &self.file("entry.toml", toml))
    }

    /// A new entry of rows that only the calling test uses, with the requester's grant as [`table_scope`] says.
    pub fn new_table(&self) -> Granted {
        let code = self.new_code();
        let entry = self.publish(&table_entry_toml(&code));
        self.granted(entry, code, &table_scope())
    }

    /// A new entry of files that only the calling test uses, with the requester's grant.
    pub fn new_files(&self) -> Granted {
        let code = self.new_code();
        let entry = self.publish(&file_entry_toml(&code));
        self.granted(entry, code, "")
    }

    /// The requester applies with this scope, the provider approves.
    pub fn granted(&self, entry: String, code: String, scope: &str) -> Granted {
        let toml = application_toml(&code, scope);
        let (application, grant) =
            template::grant(&self.requester, &self.provider, &self.file("application.toml", toml));
        Granted { entry, code, application, grant }
    }

    /// Another agent of an agency, which joins now.
    pub fn new_agent(&self, agency: &Member, name: &str) -> Agent {
        let agent = Agent::new(self.path(name));
        let invitation = self.gateway.run(["invite", &agency.code, "--agent", name]).ok();
        agent.run(["join", text(&invitation, "invitation")]).ok();
        agent
    }

    /// A good credit code of an agency that is not here.
    pub fn agency_nobody_has(&self) -> String {
        agent::credit_code(999)
    }

    fn new_code(&self) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(100);
        format!("307010/{:06}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Where everything of this world lies.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// The text field `name` of a JSON document.
///
/// # Panics
/// Where there is none.
pub fn text<'a>(json: &'a Value, name: &str) -> &'a str {
    json.get(name).and_then(Value::as_str).unwrap_or_else(|| panic!("no text field {name} in {json}"))
}
