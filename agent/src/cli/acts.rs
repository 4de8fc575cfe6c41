//! Acts: entries, applications, answers, and what is done to grants.

use super::args::{
    AnswerArgs, ApplyArgs, FindingArgs, GrantActArgs, OrderArgs, PublishListArgs, RectifyArgs, ReviewArgs,
    RevokeListArgs, SubmitArgs, SuspendArgs, WithdrawArgs,
};
use super::{App, paper, read_text};
use crate::error::{AgentError, Told};
use crate::records::{self, Kind};
use lingqu_protocol::backflow::BackflowList;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::{
    Answer, AnswerBody, ApplicationBody, BackflowListBody, BackflowRevocationBody, EntryBody, FindingAct,
    FindingActBody, GrantAct, GrantActBody, OrderWithdrawalBody, Review, ReviewBody, StandingOrderBody,
};
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::ids::{ApplicationId, EntryId, GrantId, ListId, OrderId};
use lingqu_protocol::scope::{ApplicationSpec, ScopeSpec};
use lingqu_protocol::spec::{SPEC_BYTES_MAX, SpecError};
use serde_json::Value;
use std::path::Path;

/// `catalogue submit`.
pub(super) async fn submit(app: &App, args: &SubmitArgs) -> Result<(), AgentError> {
    let toml = spec(&args.file, |toml| EntrySpec::parse(toml).map(|_| ()))?;
    let entry = EntryId::random(app.machine.entropy.as_ref()).map_err(|e| AgentError::entropy(&e))?;
    let agency = app.profile()?.settings().agent.agency.to_string();
    paper::act(app, &args.sign, None, EntryBody { entry, agency, toml }).await
}

/// `catalogue review`.
pub(super) async fn review(app: &App, args: &ReviewArgs) -> Result<(), AgentError> {
    let (entry, follows) = stands(app, Kind::Catalogue, &args.id).await?;
    let decision = match &args.return_why {
        Some(why) => Review::Return { why: why.clone() },
        None => Review::Approve { code: args.code.clone() },
    };
    paper::act(app, &args.sign, Some(follows), ReviewBody { entry, decision }).await
}

/// `apply`.
pub(super) async fn apply(app: &App, args: &ApplyArgs) -> Result<(), AgentError> {
    let toml = spec(&args.file, |toml| ApplicationSpec::parse(toml).map(|_| ()))?;
    let application = ApplicationId::random(app.machine.entropy.as_ref()).map_err(|e| AgentError::entropy(&e))?;
    let agency = app.profile()?.settings().agent.agency.to_string();
    // The office head declares it by signing, as `apply --help` says; the gateway takes no application without it.
    let body = ApplicationBody { application, agency, toml, declared_true_lawful_necessary: true };
    paper::act(app, &args.sign, None, body).await
}

/// `answer`.
pub(super) async fn answer(app: &App, args: &AnswerArgs) -> Result<(), AgentError> {
    let scope_toml = match &args.scope {
        Some(file) => Some(spec(file, |toml| ScopeSpec::parse(toml).map(|_| ()))?),
        None => None,
    };
    let (application, follows) = stands(app, Kind::Application, &args.id.to_string()).await?;
    let answer = match &args.refuse {
        Some(why) => Answer::Refuse { why: why.clone() },
        None => {
            let grant = GrantId::random(app.machine.entropy.as_ref()).map_err(|e| AgentError::entropy(&e))?;
            Answer::Approve { grant, scope_toml }
        }
    };
    paper::act(app, &args.sign, Some(follows), AnswerBody { application, answer }).await
}

/// `grant suspend`.
pub(super) async fn suspend(app: &App, args: &SuspendArgs) -> Result<(), AgentError> {
    let id = args.id.to_string();
    let said = app.with_session(async |session| records::narrow(session, &id, &args.reason).await).await?;
    let mut made = serde_json::json!({ "id": id });
    paper::merge(&mut made, said);
    app.output.say(&made, |o| format!("{}: {id}", o.pick("suspended", "已暂停共享权限")))
}

/// `grant reinstate`.
pub(super) async fn reinstate(app: &App, args: &GrantActArgs) -> Result<(), AgentError> {
    grant_act(app, args, GrantAct::Reinstate).await
}

/// `grant terminate`.
pub(super) async fn terminate(app: &App, args: &GrantActArgs) -> Result<(), AgentError> {
    grant_act(app, args, GrantAct::Terminate).await
}

/// `grant rectify`.
pub(super) async fn rectify(app: &App, args: &RectifyArgs) -> Result<(), AgentError> {
    let (grant, follows) = stands(app, Kind::Grant, &args.id.to_string()).await?;
    let body = GrantActBody { grant, act: GrantAct::Rectify { by: args.by }, reason: args.reason.clone() };
    paper::act(app, &args.sign, Some(follows), body).await
}

/// `findings confirm`, `findings lift`.
pub(super) async fn say(app: &App, args: &FindingArgs, act: FindingAct) -> Result<(), AgentError> {
    let body = FindingActBody { finding: args.id, act, reason: args.reason.clone() };
    paper::act(app, &args.sign, None, body).await
}

/// `standing-order issue`.
pub(super) async fn issue_order(app: &App, args: &OrderArgs) -> Result<(), AgentError> {
    let body = StandingOrderBody {
        order: OrderId::random(app.machine.entropy.as_ref()).map_err(|e| AgentError::entropy(&e))?,
        agency: app.profile()?.settings().agent.agency.to_string(),
        rules: args.rules.clone(),
        strongest: args.strongest,
        until: args.until,
        reason: args.reason.clone(),
    };
    paper::act(app, &args.sign, None, body).await
}

/// `standing-order withdraw`.
pub(super) async fn withdraw_order(app: &App, args: &WithdrawArgs) -> Result<(), AgentError> {
    let (order, follows) = stands(app, Kind::StandingOrder, &args.id.to_string()).await?;
    let body = OrderWithdrawalBody { order, reason: args.reason.clone() };
    paper::act(app, &args.sign, Some(follows), body).await
}

/// `backflow-list publish`.
pub(super) async fn publish_list(app: &App, args: &PublishListArgs) -> Result<(), AgentError> {
    let toml = spec(&args.file, |toml| BackflowList::parse(toml).map(|_| ()))?;
    let list = ListId::random(app.machine.entropy.as_ref()).map_err(|e| AgentError::entropy(&e))?;
    let agency = app.profile()?.settings().agent.agency.to_string();
    paper::act(app, &args.sign, None, BackflowListBody { list, agency, toml }).await
}

/// `backflow-list revoke`.
pub(super) async fn revoke_list(app: &App, args: &RevokeListArgs) -> Result<(), AgentError> {
    let (list, follows) = stands(app, Kind::BackflowList, &args.id.to_string()).await?;
    let body = BackflowRevocationBody { list, reason: args.reason.clone() };
    paper::act(app, &args.sign, Some(follows), body).await
}

async fn grant_act(app: &App, args: &GrantActArgs, act: GrantAct) -> Result<(), AgentError> {
    let (grant, follows) = stands(app, Kind::Grant, &args.id.to_string()).await?;
    let body = GrantActBody { grant, act, reason: args.reason.clone() };
    paper::act(app, &args.sign, Some(follows), body).await
}

/// A record's id and the digest of the document that stands for it, as the gateway shows it now.
async fn stands<I>(app: &App, kind: Kind, id: &str) -> Result<(I, Digest), AgentError>
where
    I: std::str::FromStr<Err: std::fmt::Display>,
{
    let record = app.with_session(async |session| records::one(session, kind, id).await).await?;
    let id = record.get("id").and_then(Value::as_str).unwrap_or_default();
    let id = id.parse().map_err(|e| {
        AgentError::Peer(Told::new(
            "bad_record",
            format!("the gateway's record: {e}"),
            format!("网关记录标识无效：{e}"),
        ))
    })?;
    Ok((id, records::digest(&record)?))
}

/// A file that people wrote, read as a whole and checked: it travels verbatim.
fn spec(path: &Path, check: impl FnOnce(&str) -> Result<(), SpecError>) -> Result<String, AgentError> {
    let toml = read_text(path, SPEC_BYTES_MAX)?;
    check(&toml).map_err(|e| {
        let file = path.display();
        AgentError::Data(
            Told::new("bad_spec", format!("{file}: {e}"), format!("{file}：{e}"))
                .next("correct that line, then run the same command again", "修改该行后重新执行"),
        )
    })?;
    Ok(toml)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_file_is_bad_data_and_names_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scope.toml");
        let parse = |toml: &str| {
            std::fs::write(&path, toml).unwrap();
            spec(&path, |toml| ScopeSpec::parse(toml).map(|_| ()))
        };
        assert_eq!(parse("columns = [\"a\"]\n").unwrap(), "columns = [\"a\"]\n");
        let error = parse("columns = [\"a\"]\nnonsense = 1\n").unwrap_err();
        assert_eq!(error.exit_code(), 7);
        assert!(error.to_string().contains("line 2") && error.to_string().contains("scope.toml"), "{error}");
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(spec(&path, |_| Ok(())).unwrap_err().exit_code(), 7);
        assert_eq!(spec(&dir.path().join("none"), |_| Ok(())).unwrap_err().exit_code(), 2);
    }
}
