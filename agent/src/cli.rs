//! The `lingqu` command: what can be said ([`args`]), and what is done about it.

pub mod args;

mod acts;
mod agent;
mod backflow;
mod check;
mod checking;
mod doctor;
mod join;
mod look;
mod lookup;
mod officer;
mod paper;
mod receipt;
mod renew;
mod service;
mod template;
mod transfers;

use crate::connect::{Backoff, Link, Session, with_retries};
use crate::error::{AgentError, Told};
use crate::machine::Machine;
use crate::output::Output;
use crate::records::Kind;
use args::{
    AgentCommand, ApplicationCommand, BackflowListCommand, CatalogueCommand, Command, FindingsCommand, GrantCommand,
    OfficerCommand, ReceiptCommand, ServiceCommand, StandingOrderCommand,
};
use lingqu_certs::os;
use lingqu_certs::profile::Profile;
use lingqu_certs::quic::QuicChannel;
use lingqu_protocol::documents::FindingAct;
use std::path::{Path, PathBuf};

/// Exit code of a command that did what was asked.
pub const DONE: u8 = 0;

/// Exit code of a command that wrote down what was asked, to be done later.
pub const QUEUED: u8 = 8;

/// Exit code of a command that could not reach the gateway.
const UNREACHABLE: u8 = 6;

/// What every command is given.
#[derive(Debug)]
pub struct App {
    /// Clock, entropy and disk.
    pub machine: Machine,
    /// How it speaks.
    pub output: Output,
    /// The profile's folder, where one was named.
    pub profile_dir: Option<PathBuf>,
}

impl App {
    /// The folder that was named for the profile.
    ///
    /// # Errors
    /// `Usage` where none was.
    pub fn profile_dir(&self) -> Result<&Path, AgentError> {
        self.profile_dir.as_deref().ok_or_else(|| {
            AgentError::Usage(
                Told::new("no_profile", "no profile was named", "未指定代理配置目录").next(
                    "add --profile DIR, or set LINGQU_PROFILE",
                    "加上 --profile 目录，或设置环境变量 LINGQU_PROFILE",
                ),
            )
        })
    }

    /// The profile that was named.
    ///
    /// # Errors
    /// `Usage` where none was, or it is none.
    pub fn profile(&self) -> Result<Profile, AgentError> {
        Ok(Profile::load(self.profile_dir()?)?)
    }

    /// The way to the profile's gateway.
    ///
    /// # Errors
    /// As [`Self::profile`].
    pub fn link(&self) -> Result<Link, AgentError> {
        Ok(Link::new(self.machine.clone(), self.profile()?))
    }

    /// Opens a session, lets `work` use it, and says goodbye. A connection that is lost under it is opened again and the
    /// work done again: a document has its own id and is taken once, a suspension stands, and reading changes nothing.
    ///
    /// # Errors
    /// What is in the way, and what `work` says.
    pub async fn with_session<T>(
        &self,
        work: impl AsyncFn(&Session<QuicChannel>) -> Result<T, AgentError>,
    ) -> Result<T, AgentError> {
        let link = self.link()?;
        let done = with_retries(Backoff::COMMAND, self.machine.entropy.as_ref(), async || {
            let session = link.dial().await?;
            let done = work(&session).await;
            session.close();
            match done {
                Err(error) if is_worth_another_connection(&error) => Err(error),
                done => Ok(done),
            }
        })
        .await;
        link.goodbye().await;
        done?
    }
}

/// Whether the connection, and not the request, is what failed.
fn is_worth_another_connection(error: &AgentError) -> bool {
    // A gateway that takes a request and is silent for a minute is not asked for many minutes.
    error.is_transient() && error.exit_code() == UNREACHABLE && !matches!(error, AgentError::Unreachable(_))
}

/// Does what was asked and gives the exit code: [`DONE`] or [`QUEUED`].
///
/// # Errors
/// Everything else; [`AgentError::exit_code`] has the code.
pub async fn run(app: &App, command: Command) -> Result<u8, AgentError> {
    match command {
        Command::Join(args) => join::join(app, &args).await?,
        Command::Status => look::status(app).await?,
        Command::Doctor => doctor::doctor(app).await?,
        Command::Renew => renew::renew(app).await?,
        Command::Officer(OfficerCommand::Request(args)) => officer::request(app, args)?,
        Command::Inbox => look::list(app, Kind::Inbox).await?,
        Command::Catalogue(CatalogueCommand::Template(args)) => template::template(app, &args)?,
        Command::Catalogue(CatalogueCommand::Submit(args)) => acts::submit(app, &args).await?,
        Command::Catalogue(CatalogueCommand::Review(args)) => acts::review(app, &args).await?,
        Command::Catalogue(CatalogueCommand::List) => look::list(app, Kind::Catalogue).await?,
        Command::Catalogue(CatalogueCommand::Show(args)) => look::show_entry(app, &args).await?,
        Command::Apply(args) => acts::apply(app, &args).await?,
        Command::Application(ApplicationCommand::List) => look::list(app, Kind::Application).await?,
        Command::Application(ApplicationCommand::Show(args)) => look::show(app, Kind::Application, &args.id).await?,
        Command::Application(ApplicationCommand::Answer(args)) | Command::Answer(args) => {
            acts::answer(app, &args).await?;
        }
        Command::Grant(GrantCommand::List) => look::list(app, Kind::Grant).await?,
        Command::Grant(GrantCommand::Show(args)) => look::show(app, Kind::Grant, &args.id).await?,
        Command::Grant(GrantCommand::Suspend(args)) => acts::suspend(app, &args).await?,
        Command::Grant(GrantCommand::Reinstate(args)) => acts::reinstate(app, &args).await?,
        Command::Grant(GrantCommand::Terminate(args)) => acts::terminate(app, &args).await?,
        Command::Grant(GrantCommand::Rectify(args)) => acts::rectify(app, &args).await?,
        Command::Findings(FindingsCommand::List) => look::list(app, Kind::Finding).await?,
        Command::Findings(FindingsCommand::Show(args)) => look::show(app, Kind::Finding, &args.id).await?,
        Command::Findings(FindingsCommand::Confirm(args)) => acts::say(app, &args, FindingAct::Confirm).await?,
        Command::Findings(FindingsCommand::Lift(args)) => acts::say(app, &args, FindingAct::Lift).await?,
        Command::StandingOrder(StandingOrderCommand::Issue(args)) => acts::issue_order(app, &args).await?,
        Command::StandingOrder(StandingOrderCommand::Withdraw(args)) => acts::withdraw_order(app, &args).await?,
        Command::StandingOrder(StandingOrderCommand::List) => look::list(app, Kind::StandingOrder).await?,
        Command::StandingOrder(StandingOrderCommand::Show(args)) => {
            look::show(app, Kind::StandingOrder, &args.id).await?;
        }
        Command::BackflowList(BackflowListCommand::Publish(args)) => acts::publish_list(app, &args).await?,
        Command::BackflowList(BackflowListCommand::Revoke(args)) => acts::revoke_list(app, &args).await?,
        Command::BackflowList(BackflowListCommand::List) => look::list(app, Kind::BackflowList).await?,
        Command::BackflowList(BackflowListCommand::Show(args)) => look::show(app, Kind::BackflowList, &args.id).await?,
        Command::Sign(args) => paper::sign(app, &args)?,
        Command::Send(args) => paper::send(app, &args).await?,
        Command::Verify(args) => paper::verify(app, &args)?,
        Command::Push(command) => return transfers::push(app, command).await,
        Command::Pull(args) => return transfers::pull(app, args).await,
        Command::Query(args) => lookup::query(app, &args).await?,
        Command::Match(args) => return transfers::match_keys(app, args).await,
        Command::Transfer(command) => return transfers::transfer(app, command).await,
        Command::Backflow(args) => return backflow::backflow(app, args).await,
        Command::Reconcile(args) => return backflow::reconcile(app, args).await,
        Command::Agent(AgentCommand::Run) => return agent::run(app).await,
        Command::Service(ServiceCommand::Install(args)) => service::install(app, &args)?,
        Command::Receipt(ReceiptCommand::Verify(args)) => receipt::verify(app, &args)?,
    }
    Ok(DONE)
}

/// A file that the caller named.
pub(crate) fn read_input(path: &Path, bytes_max: usize) -> Result<Vec<u8>, AgentError> {
    os::read_bounded(path, bytes_max as u64).map_err(|e| AgentError::input(path, &e))
}

/// A text file that the caller named.
pub(crate) fn read_text(path: &Path, bytes_max: usize) -> Result<String, AgentError> {
    String::from_utf8(read_input(path, bytes_max)?).map_err(|_| {
        let path = path.display();
        AgentError::Data(
            Told::new("not_utf8", format!("{path} is not UTF-8 text"), format!("{path} 不是 UTF-8 文本"))
                .next("save it as UTF-8", "另存为 UTF-8 编码"),
        )
    })
}

/// Writes a file that the caller named, whole or not at all.
pub(crate) fn write_output(path: &Path, bytes: &[u8]) -> Result<(), AgentError> {
    os::write_atomic(path, bytes).map_err(|e| AgentError::io("writing", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lingqu_protocol::close::CloseCode;
    use lingqu_protocol::stream::StreamError;

    #[test]
    fn a_lost_connection_is_opened_again_and_a_refusal_is_not_argued_with() {
        let reset = |code| AgentError::from(StreamError::Closed(code));
        assert!(is_worth_another_connection(&StreamError::Lost("x".into()).into()));
        assert!(is_worth_another_connection(&reset(CloseCode::Draining)));
        for error in [reset(CloseCode::Denied), reset(CloseCode::Suspended), reset(CloseCode::Internal)] {
            assert!(!is_worth_another_connection(&error), "{error}");
        }
        assert!(!is_worth_another_connection(&AgentError::Unreachable(Told::new("no_answer", "silence", ""))));
    }
}
