//! One world made with the programs' own commands, and copied for every test that needs one of its own.

use super::agent::Member;
use super::gateway::{Gateway, free_port};
use super::program::Reaper;
use super::specs::{application_toml, file_entry_toml, table_entry_toml, table_scope};
use super::{Granted, World, text};
use std::path::Path;
use std::sync::OnceLock;
use tempfile::TempDir;

/// The province of the provider.
pub const PROVINCE: &str = "44";

/// The city of the requester.
pub const CITY: &str = "4403";

/// Another city of the same province.
pub const OTHER_CITY: &str = "4401";

/// What the data is shared for.
pub const PURPOSE: &str = "低收入家庭核对";

/// The world that others are copied from.
#[derive(Debug)]
pub struct Template {
    base: TempDir,
    port: u16,
    table: Granted,
    files: Granted,
    _reaper: Reaper,
}

impl Template {
    /// The one of this test run.
    pub fn get() -> &'static Self {
        static TEMPLATE: OnceLock<Template> = OnceLock::new();
        TEMPLATE.get_or_init(Self::make)
    }

    fn make() -> Self {
        let base = tempfile::Builder::new().prefix("lingqu-tests-").tempdir().unwrap();
        let reaper = Reaper::of_dir(base.path());
        let dir = base.path().join("template");
        let mut gateway = Gateway::init(dir.join("gateway"), dir.join("root"));
        let [authority, provider, requester, other] = members(&dir);
        add_agency(&gateway, &authority, &format!("{PROVINCE}:province"), &["--authority"]);
        add_agency(&gateway, &provider, &format!("{PROVINCE}:province"), &[]);
        add_agency(&gateway, &requester, &format!("{CITY}:city"), &[]);
        add_agency(&gateway, &other, &format!("{CITY}:city"), &[]);
        gateway.start();
        for member in [&authority, &provider, &requester, &other] {
            join(&gateway, member, "main");
        }
        let file = |name: &str, toml: String| {
            let path = dir.join(name);
            std::fs::write(&path, toml).unwrap();
            path
        };
        let granted = |code: &str, entry_toml: String, scope: &str| {
            let entry = publish(&provider, &authority, &file("entry.toml", entry_toml));
            let application = application_toml(code, scope);
            let (application, grant) = grant(&requester, &provider, &file("application.toml", application));
            Granted { entry, code: code.to_owned(), application, grant }
        };
        let table = granted("307010/000001", table_entry_toml("307010/000001"), &table_scope());
        let files = granted("307010/000002", file_entry_toml("307010/000002"), "");
        let port = gateway.address().port();
        let ran = gateway.terminate();
        assert_eq!(ran.code, Some(0), "{ran}");
        Self { base, port, table, files, _reaper: reaper }
    }

    /// A copy of it under a port of its own.
    pub fn copy(&self) -> World {
        let dir = tempfile::Builder::new().prefix("world-").tempdir_in(self.base.path()).unwrap();
        let port = free_port();
        let [old, new] = [self.port, port].map(|port| format!("127.0.0.1:{port}"));
        copy_dir(&self.base.path().join("template"), dir.path(), &old, &new);
        let [authority, provider, requester, other] = members(dir.path());
        World {
            gateway: Gateway::new(dir.path().join("gateway"), dir.path().join("root"), port),
            authority,
            provider,
            requester,
            other,
            table: self.table.clone(),
            files: self.files.clone(),
            dir,
            scratch: 0.into(),
        }
    }
}

fn members(dir: &Path) -> [Member; 4] {
    let names = ["authority", "provider", "requester", "other"];
    let mut numbers = 1..;
    names.map(|name| Member::at(dir, name, numbers.next().unwrap()))
}

/// Adds an agency and its two officers.
fn add_agency(gateway: &Gateway, member: &Member, region: &str, more: &[&str]) {
    let root = gateway.root().to_str().unwrap();
    let name = format!("测试部门 {}", member.code);
    let args = ["agency", "add", &member.code, "--name", &name, "--region", region, "--root", root];
    gateway.run([&args, more].concat()).ok();
    for (dir, role, name) in [(&member.head, "agency-head", "王芳"), (&member.office, "office-head", "李强")] {
        let out = dir.to_str().unwrap();
        let request = ["officer", "request", "--agency", &member.code, "--name", name, "--role", role, "--out", out];
        let request = member.agent.run(request).ok();
        let certificate = dir.join("officer.cert");
        let add = ["officer", "add", text(&request, "request"), "--root", root, "--out", certificate.to_str().unwrap()];
        gateway.run(add).ok();
    }
}

/// Invites an agent and has it join.
pub(super) fn join(gateway: &Gateway, member: &Member, agent: &str) {
    let invitation = gateway.run(["invite", &member.code, "--agent", agent]).ok();
    let joined = member.agent.run(["join", text(&invitation, "invitation")]).ok();
    assert_eq!(text(&joined, "id"), format!("{}/{agent}", member.code));
}

/// An entry from its file to the catalogue; its id.
pub(super) fn publish(provider: &Member, authority: &Member, toml: &Path) -> String {
    let submitted = provider.agent.run(["catalogue", "submit", toml.to_str().unwrap(), "--key", provider.head()]).ok();
    let entry = text(&submitted, "id").to_owned();
    authority.agent.run(["catalogue", "review", &entry, "--approve", "--key", authority.office()]).ok();
    entry
}

/// An application from its file to the grant; both ids.
pub(super) fn grant(requester: &Member, provider: &Member, toml: &Path) -> (String, String) {
    let applied = requester.agent.run(["apply", toml.to_str().unwrap(), "--key", requester.office()]).ok();
    let application = text(&applied, "id").to_owned();
    let answered = provider.agent.run(["answer", &application, "--approve", "--key", provider.office()]).ok();
    assert_eq!(text(&answered, "application"), application);
    (application, text(&answered, "id").to_owned())
}

/// Copies a folder; where `old` stands in a text file, `new` of the same length does in the copy.
fn copy_dir(from: &Path, to: &Path, old: &str, new: &str) {
    assert_eq!(old.len(), new.len());
    std::fs::create_dir_all(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let (from, to) = (item.path(), to.join(item.file_name()));
        let kind = item.file_type().unwrap();
        if kind.is_dir() {
            copy_dir(&from, &to, old, new);
        } else if kind.is_file() {
            std::fs::copy(&from, &to).unwrap();
            if let Ok(text) = std::fs::read_to_string(&to)
                && text.contains(old)
            {
                std::fs::write(&to, text.replace(old, new)).unwrap();
            }
        }
    }
}
