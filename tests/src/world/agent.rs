//! Agencies and their agents.

use super::program::{Program, Ran, Running, run};
use std::path::{Path, PathBuf};
use std::process::Command;

/// An agent: a profile that `lingqu` is run with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    profile: PathBuf,
}

/// An agency with two officers and an agent.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its credit code.
    pub code: String,
    /// Its agent.
    pub agent: Agent,
    /// The folder of its agency head (部门负责人).
    pub head: PathBuf,
    /// The folder of its office head (共享工作机构负责人).
    pub office: PathBuf,
}

impl Member {
    /// The member `name` of the world in `dir`.
    pub fn at(dir: &Path, name: &str, number: u32) -> Self {
        let dir = dir.join(name);
        let agent = Agent::new(dir.join("profile"));
        Self { code: credit_code(number), agent, head: dir.join("head"), office: dir.join("office") }
    }

    /// The agency head's folder, as an argument.
    pub fn head(&self) -> &str {
        self.head.to_str().unwrap()
    }

    /// The office head's folder, as an argument.
    pub fn office(&self) -> &str {
        self.office.to_str().unwrap()
    }
}

impl Agent {
    /// With this profile.
    pub fn new(profile: PathBuf) -> Self {
        Self { profile }
    }

    /// Its profile's folder.
    pub fn profile(&self) -> &Path {
        &self.profile
    }

    /// A command, with `--json`.
    pub fn command<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Program::Agent.command(args);
        command.arg("--json").env("LINGQU_PROFILE", &self.profile);
        command
    }

    /// Runs a command to its end.
    pub fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Ran {
        run(self.command(args))
    }

    /// Starts a command.
    pub fn start<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Running {
        Running::start(self.command(args))
    }

    /// The receipt of a transfer, as it lies in the profile.
    pub fn receipt(&self, transfer: &str) -> PathBuf {
        self.profile.join("receipts").join(format!("{transfer}.json"))
    }

    /// The transfers of its outbox by state.
    pub fn transfers(&self, state: &str) -> Vec<String> {
        let list = self.run(["transfer", "list"]).ok();
        let all = list.as_array().cloned().unwrap_or_default();
        let of_state = all.iter().filter(|t| t["state"] == state);
        of_state.map(|t| super::text(t, "id").to_owned()).collect()
    }
}

/// A made-up credit code with the right check character.
pub(super) fn credit_code(number: u32) -> String {
    let body = format!("1144030000{number:07}");
    let all = "0123456789ABCDEFGHJKLMNPQRTUWXY".chars().map(|check| format!("{body}{check}"));
    all.into_iter().find(|code| lingqu_protocol::agency::CreditCode::parse(code).is_ok()).unwrap()
}
