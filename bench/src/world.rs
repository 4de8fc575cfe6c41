//! A small world of real processes in one folder: a gateway with its root beside it, agencies with officers and agents.
//! Everything is done through the two programs' own commands, as people do it.

use crate::error::{BenchError, check};
use crate::program::{Line, Outcome, Running, beside};
use lingqu_certs::officer::{OFFICER_CERTIFICATE_FILE, OFFICER_REQUEST_FILE};
use lingqu_protocol::agency::CreditCode;
use serde_json::Value;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The domain of the world's gateway: one that nobody can own.
pub(crate) const DOMAIN: &str = "lingqu.example";

/// How long a gateway may take to end what runs after SIGTERM before it is killed.
const DRAIN: Duration = Duration::from_secs(20);

/// The two programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `lingqu-gateway`.
    pub gateway: PathBuf,
    /// `lingqu`.
    pub agent: PathBuf,
}

impl Programs {
    /// Those beside this program.
    ///
    /// # Errors
    /// Where they were not built.
    pub fn find() -> Result<Self, BenchError> {
        Ok(Self { gateway: beside("lingqu-gateway")?, agent: beside("lingqu")? })
    }
}

/// An agency with one agent and two officers.
#[derive(Clone, Debug)]
pub struct Agency {
    /// Its credit code.
    pub code: String,
    /// Its name.
    pub name: String,
    /// Its agent's profile.
    pub profile: PathBuf,
    /// The folder of its agency head, who signs the catalogue.
    pub agency_head: PathBuf,
    /// The folder of its office head, who signs applications and answers.
    pub office_head: PathBuf,
}

/// What an agency is made from.
#[derive(Clone, Copy, Debug)]
pub struct Founding<'a> {
    /// A word for its folder, and its agent's name.
    pub label: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its region and the level of it, as `44:province`.
    pub region: &'a str,
    /// Whether it is the department in charge of sharing.
    pub authority: bool,
    /// A number that makes its code its own.
    pub number: u32,
}

/// Who gives and who gets in a world where rows flow back.
#[derive(Clone, Debug)]
pub struct FlowingBack {
    /// Provides the entry.
    pub provider: Agency,
    /// Gets the rows of its region.
    pub receiver: Agency,
}

/// The world.
#[derive(Debug)]
pub struct World {
    /// Everything lies in it.
    pub dir: PathBuf,
    /// The two programs.
    pub programs: Programs,
    /// Where the gateway listens.
    pub address: String,
    /// Where its metrics are, once it serves.
    pub http: String,
    /// More of the gateway's environment.
    pub(crate) env: Vec<(&'static str, std::ffi::OsString)>,
    gateway: Option<Running>,
}

impl World {
    /// Makes a gateway in `dir`, which is made; it does not serve yet.
    ///
    /// # Errors
    /// When a program fails.
    pub fn create(dir: &Path, programs: Programs) -> Result<Self, BenchError> {
        let address = free_address()?;
        Self::create_behind(dir, programs, address.clone(), &address)
    }

    /// Makes a gateway that listens at `address` and that agents dial at `dialled`.
    ///
    /// # Errors
    /// When a program fails.
    pub fn create_behind(dir: &Path, programs: Programs, address: String, dialled: &str) -> Result<Self, BenchError> {
        std::fs::create_dir_all(dir).map_err(BenchError::io("making", dir))?;
        let world =
            Self { dir: dir.to_owned(), programs, address, http: String::new(), env: Vec::new(), gateway: None };
        let init = world.operator(["init", "--domain", DOMAIN, "--address", dialled]);
        init.arg("--root").arg(world.root()).run(0)?;
        Ok(world)
    }

    /// The root's folder.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The gateway's folder.
    pub fn gateway_dir(&self) -> PathBuf {
        self.dir.join("gateway")
    }

    /// The gateway's log.
    pub fn gateway_log(&self) -> PathBuf {
        self.dir.join("gateway.log")
    }

    /// A `lingqu-gateway` command on this gateway.
    pub fn operator<S: Into<std::ffi::OsString>>(&self, args: impl IntoIterator<Item = S>) -> Line {
        Line::new(&self.programs.gateway).args(args).arg("--dir").arg(self.gateway_dir()).arg("--json")
    }

    /// A `lingqu` command of an agency's agent.
    pub fn agent<S: Into<std::ffi::OsString>>(&self, agency: &Agency, args: impl IntoIterator<Item = S>) -> Line {
        Line::new(&self.programs.agent).arg("--profile").arg(&agency.profile).arg("--json").args(args)
    }

    /// The command that serves, for those who go on by hand.
    pub fn serve_line(&self) -> Line {
        let line = Line::new(&self.programs.gateway).args(["serve", "--listen", &self.address]);
        let line = self.env.iter().fold(line, |line, (name, value)| line.env(name, value));
        line.args(["--http", "127.0.0.1:0", "--dir"]).arg(self.gateway_dir())
    }

    /// Starts the gateway and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends instead.
    pub fn serve(&mut self) -> Result<(), BenchError> {
        let (running, line) = self.serve_line().log(&self.gateway_log()).start()?.first_line()?;
        let http = line.split(' ').find_map(|word| word.strip_prefix("http="));
        check(line.starts_with("ready "), || format!("the gateway said {line:?} instead of that it is ready"))?;
        self.http = http.unwrap_or_default().to_owned();
        self.gateway = Some(running);
        Ok(())
    }

    /// The gateway's process.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn gateway(&mut self) -> Result<&mut Running, BenchError> {
        self.gateway.as_mut().ok_or_else(|| BenchError::Wrong("the gateway does not run".to_owned()))
    }

    /// Ends the gateway as an operator does (SIGTERM); `true` where it drained by itself.
    ///
    /// # Errors
    /// What the system says.
    pub fn drain(&mut self) -> Result<bool, BenchError> {
        self.gateway.take().map_or(Ok(true), |running| Ok(running.stop(DRAIN)?.1))
    }

    /// Ends the gateway with no warning (`kill -9`).
    ///
    /// # Errors
    /// What the system says.
    pub fn kill_gateway(&mut self) -> Result<(), BenchError> {
        self.gateway.take().map_or(Ok(()), |running| running.kill().map(|_| ()))
    }

    /// Adds an agency, registers its officers, invites its agent and lets it join. The gateway serves.
    ///
    /// # Errors
    /// When a program fails.
    pub fn found(&self, founding: Founding<'_>) -> Result<Agency, BenchError> {
        let code = credit_code(founding.region, founding.number)?;
        let home = self.dir.join("agencies").join(founding.label);
        std::fs::create_dir_all(&home).map_err(BenchError::io("making", &home))?;
        let mut add = self.operator(["agency", "add", &code, "--name", founding.name, "--region", founding.region]);
        if founding.authority {
            add = add.arg("--authority");
        }
        add.arg("--root").arg(self.root()).run(0)?;
        let agency_head = self.officer(&home, &code, "agency-head", &format!("{}部门负责人", founding.name))?;
        let office_head = self.officer(&home, &code, "office-head", &format!("{}共享工作机构负责人", founding.name))?;
        let invited = self.operator(["invite", &code, "--agent", founding.label]).run(0)?.json()?;
        let invitation = text_with(&invited, "lingqu-invit")
            .ok_or_else(|| BenchError::Wrong(format!("no invitation in {invited}")))?;
        let profile = home.join("profile");
        let agency = Agency { code, name: founding.name.to_owned(), profile, agency_head, office_head };
        self.agent(&agency, ["join", invitation]).run(0)?;
        Ok(agency)
    }

    fn officer(&self, home: &Path, code: &str, role: &str, name: &str) -> Result<PathBuf, BenchError> {
        let dir = home.join(role);
        let request = Line::new(&self.programs.agent).args(["officer", "request", "--agency", code, "--name", name]);
        request.args(["--role", role, "--json", "--out"]).arg(&dir).run(0)?;
        let add = self.operator(["officer", "add"]).arg(dir.join(OFFICER_REQUEST_FILE)).arg("--root").arg(self.root());
        add.arg("--out").arg(dir.join(OFFICER_CERTIFICATE_FILE)).run(0)?;
        Ok(dir)
    }

    /// The provider submits an entry and the authority publishes it. Gives its id.
    ///
    /// # Errors
    /// When a program fails.
    pub fn publish(
        &self,
        provider: &Agency,
        authority: &Agency,
        entry: &Path,
        code: &str,
    ) -> Result<String, BenchError> {
        let submit = self.agent(provider, ["catalogue", "submit"]).arg(entry);
        let id = id_of(&submit.arg("--key").arg(&provider.agency_head).run(0)?)?;
        let review = self.agent(authority, ["catalogue", "review", &id, "--approve", "--code", code]);
        review.arg("--key").arg(&authority.office_head).run(0)?;
        Ok(id)
    }

    /// An authority, a provider of an entry, and a city's agency to which a published list lets its rows flow back. Their
    /// documents are written in `dir`.
    ///
    /// # Errors
    /// When a program or a file fails.
    pub fn flowing_back(&self, dir: &Path, entry: &str, code: &str) -> Result<FlowingBack, BenchError> {
        let found =
            |label, name, authority, region, number| self.found(Founding { label, name, region, authority, number });
        let authority = found("authority", "测试主管部门", true, "44:province", 1)?;
        let provider = found("provider", "测试提供部门", false, "44:province", 2)?;
        let receiver = found("receiver", "测试接收部门", false, "4403:city", 3)?;
        self.publish(&provider, &authority, &save(dir, "entry.toml", entry)?, code)?;
        self.list_receivers(dir, &authority, code, &[&receiver.code])?;
        Ok(FlowingBack { provider, receiver })
    }

    /// The authority publishes that an entry's rows flow back to these agencies, by their codes.
    ///
    /// # Errors
    /// When a program or a file fails.
    pub fn list_receivers(
        &self,
        dir: &Path,
        authority: &Agency,
        entry: &str,
        receivers: &[&str],
    ) -> Result<(), BenchError> {
        let named = receivers.iter().map(|code| format!("\"{code}\"")).collect::<Vec<_>>().join(", ");
        let list = format!("name = \"回流清单\"\n[[backflow]]\nentry = \"{entry}\"\nto = [{named}]\nduty = \"测试\"\n");
        let publish = self.agent(authority, ["backflow-list", "publish"]).arg(save(dir, "list.toml", &list)?);
        publish.arg("--key").arg(&authority.office_head).run(0).map(drop)
    }

    /// The requester applies and the provider answers with yes. Gives the grant's id.
    ///
    /// # Errors
    /// When a program fails.
    pub fn grant(&self, requester: &Agency, provider: &Agency, application: &Path) -> Result<String, BenchError> {
        let apply = self.agent(requester, ["apply"]).arg(application).arg("--key").arg(&requester.office_head);
        let application = id_of(&apply.run(0)?)?;
        let answer = self.agent(provider, ["answer", &application, "--approve"]);
        id_of(&answer.arg("--key").arg(&provider.office_head).run(0)?)
    }
}

/// Writes a text where it can be named to a program.
///
/// # Errors
/// When it cannot be written.
pub fn save(dir: &Path, name: &str, text: &str) -> Result<PathBuf, BenchError> {
    let path = dir.join(name);
    std::fs::write(&path, text).map_err(BenchError::io("writing", &path))?;
    Ok(path)
}

/// The field `id` of what a program made.
///
/// # Errors
/// Where there is none.
pub fn id_of(outcome: &Outcome) -> Result<String, BenchError> {
    let json = outcome.json()?;
    let id = json.get("id").and_then(Value::as_str).map(str::to_owned);
    id.ok_or_else(|| BenchError::Wrong(format!("`{}` gave no id: {json}", outcome.command)))
}

/// The first text anywhere in `json` that starts with `start`.
pub fn text_with<'a>(json: &'a Value, start: &str) -> Option<&'a str> {
    match json {
        Value::String(text) if text.starts_with(start) => Some(text),
        Value::Array(list) => list.iter().find_map(|item| text_with(item, start)),
        Value::Object(fields) => fields.values().find_map(|item| text_with(item, start)),
        _ => None,
    }
}

/// The first value under the key `name` anywhere in `json`.
pub fn value_of<'a>(json: &'a Value, name: &str) -> Option<&'a Value> {
    match json {
        Value::Object(fields) => fields.get(name).or_else(|| fields.values().find_map(|item| value_of(item, name))),
        Value::Array(list) => list.iter().find_map(|item| value_of(item, name)),
        _ => None,
    }
}

/// The number under the key `name` of what a program said.
///
/// # Errors
/// Where it said none.
pub fn number_of(outcome: &Outcome, name: &str) -> Result<u64, BenchError> {
    let json = outcome.json()?;
    let number = value_of(&json, name).and_then(Value::as_u64);
    number.ok_or_else(|| BenchError::Wrong(format!("`{}` gave no number {name}: {json}", outcome.command)))
}

/// A made-up code of a government body with the right check character.
pub(crate) fn credit_code(region: &str, number: u32) -> Result<String, BenchError> {
    let digits: String = region.chars().take_while(char::is_ascii_digit).collect();
    let body = format!("11{digits:0<6}MB{number:07}");
    let made = "0123456789ABCDEFGHJKLMNPQRTUWXY".chars().map(|check| format!("{body}{check}"));
    let good = made.into_iter().find(|code| CreditCode::parse(code).is_ok());
    good.ok_or_else(|| BenchError::Wrong(format!("no check character fits {body}")))
}

/// A UDP port on loopback that was free a moment ago.
///
/// # Errors
/// What the system says.
pub fn free_address() -> Result<String, BenchError> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    Ok(socket.map_err(BenchError::system("looking for a free port"))?.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn made_up_codes_are_codes_and_differ() {
        let codes: Vec<String> = (1..50).map(|n| credit_code("4403:city", n).unwrap()).collect();
        assert!(codes.iter().all(|code| CreditCode::parse(code).is_ok() && code.starts_with("11440300MB")));
        assert!(codes.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn values_are_found_wherever_they_stand() {
        let json = json!({"a": [{"b": 7}], "c": {"invitation": "lingqu-invitation:x"}});
        assert_eq!(value_of(&json, "b"), Some(&json!(7)));
        assert_eq!(text_with(&json, "lingqu-invit"), Some("lingqu-invitation:x"));
        assert_eq!(value_of(&json, "d"), None);
    }
}
