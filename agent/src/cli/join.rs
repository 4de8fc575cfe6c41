//! `join`.

use super::args::JoinArgs;
use super::{App, read_input, read_text, write_output};
use crate::connect::{Backoff, Dialer};
use crate::error::AgentError;
use crate::join;
use lingqu_certs::invitation::Invitation;
use lingqu_certs::joining::{JOIN_FILE_BYTES_MAX, JoinAnswer, JoinRequest};
use lingqu_certs::profile::{Draft, Profile};
use lingqu_certs::tls::client::{Trust, client_config};
use serde_json::json;
use std::path::Path;

/// Bytes of a file that holds an invitation.
const INVITATION_BYTES_MAX: usize = 4 * 1024;

pub(super) async fn join(app: &App, args: &JoinArgs) -> Result<(), AgentError> {
    let dir = app.profile_dir()?;
    let invitation = invitation(&args.invitation)?;
    let draft = Draft::open(dir, app.machine.entropy.as_ref())?;
    if let Some(file) = &args.request {
        return write_request(app, &draft, &invitation, file);
    }
    let answer = match &args.certificate {
        Some(file) => JoinAnswer::parse(&read_input(file, JOIN_FILE_BYTES_MAX)?)?,
        None => ask(app, &draft, &invitation).await?,
    };
    let profile = join::complete(&app.machine, draft, &invitation, answer)?;
    joined(app, &profile)
}

fn invitation(text: &str) -> Result<Invitation, AgentError> {
    match text.parse() {
        Ok(invitation) => Ok(invitation),
        // A line is long to type; it may lie in a file.
        Err(_) if Path::new(text).is_file() => Ok(read_text(Path::new(text), INVITATION_BYTES_MAX)?.parse()?),
        Err(error) => Err(error.into()),
    }
}

fn write_request(app: &App, draft: &Draft, invitation: &Invitation, file: &Path) -> Result<(), AgentError> {
    let text = JoinRequest::file(invitation, &draft.signing_request()?)?;
    write_output(file, text.as_bytes())?;
    let (path, key) = (file.display().to_string(), draft.key().public());
    let made = json!({ "id": key.key_id(), "key": key.to_string(), "request": path });
    app.output.say(&made, |o| {
        format!(
            "{}: {path}\n{}: lingqu --profile {} join INVITATION --certificate FILE",
            o.pick("hand this to the gateway's operator", "请将此文件交网关运维人员"),
            o.pick("then", "随后"),
            app.profile_dir.as_deref().unwrap_or(Path::new("DIR")).display(),
        )
    })
}

async fn ask(app: &App, draft: &Draft, invitation: &Invitation) -> Result<JoinAnswer, AgentError> {
    let tls = {
        let (invitation, machine) = (invitation.clone(), app.machine.clone());
        move || {
            let certificate = invitation.certificate(machine.clock.wall(), machine.entropy.as_ref())?;
            let (trust, domain) = (Trust::Pin(invitation.ca), &invitation.domain);
            client_config(trust, domain, vec![certificate], &invitation.key()?, machine.clock.clone())
                .map_err(|error| lingqu_certs::profile::ProfileError::Tls(error).into())
        }
    };
    let dialer = Dialer::new(&invitation.address, &invitation.domain, app.machine.clock.clone(), tls);
    let session = dialer.dial_patiently(&app.machine, Backoff::COMMAND, "").await?;
    let answer = join::ask(&session, draft).await;
    session.close();
    dialer.goodbye().await;
    answer
}

fn joined(app: &App, profile: &Profile) -> Result<(), AgentError> {
    let settings = profile.settings();
    let (agent, until) = (settings.agent.to_string(), profile.validity()?.until);
    let made = json!({
        "id": agent,
        "gateway": settings.gateway,
        "profile": profile.dir().display().to_string(),
        "root": settings.root.to_string(),
        "until": until.to_rfc3339(),
    });
    app.output.say(&made, |o| {
        format!(
            "{}: {agent}\n  {}: {until}\n  {}: {}",
            o.pick("joined as", "已接入"),
            o.pick("certificate until", "证书有效期至"),
            o.pick("the root's key, to compare with the operator's root.pub", "根公钥，请与运维人员的 root.pub 核对"),
            settings.root,
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use lingqu_certs::os::OsEntropy;
    use lingqu_protocol::digest::Digest;

    #[test]
    fn an_invitation_is_read_from_the_line_or_a_file() {
        let line = Invitation::new("g:1", "d", Digest::sha256(b"ca"), &OsEntropy::new()).unwrap();
        assert_eq!(invitation(&line.to_string()).unwrap(), line);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("invitation");
        std::fs::write(&file, format!("{line}\n")).unwrap();
        assert_eq!(invitation(file.to_str().unwrap()).unwrap(), line);
        assert_eq!(invitation("nonsense").unwrap_err().exit_code(), 2);
        std::fs::write(&file, "nonsense").unwrap();
        assert_eq!(invitation(file.to_str().unwrap()).unwrap_err().exit_code(), 2);
    }
}
