//! Joining: the key is made here, the gateway of the invitation certifies it, and the profile is whole or not there.

use crate::connect::{Session, unexpected};
use crate::error::{AgentError, Told};
use crate::machine::Machine;
use lingqu_certs::invitation::Invitation;
use lingqu_certs::joining::{JoinAnswer, JoinError};
use lingqu_certs::profile::{Draft, Profile, Settings};
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{self, Join, reply, request};

/// Asks for the certificate over a connection that was opened with the invitation's key.
///
/// # Errors
/// A refusal.
pub async fn ask<C: Channel>(session: &Session<C>, draft: &Draft) -> Result<JoinAnswer, AgentError> {
    let csr_der = draft.signing_request()?.into();
    match session.ask(request::Ask::Join(Join { csr_der })).await? {
        reply::Reply::Certificate(certificate) => Ok(answer(certificate)),
        other => Err(unexpected("a certificate", &other)),
    }
}

/// Makes the profile from what the gateway answered, over a connection or in a file.
///
/// # Errors
/// [`AgentError::Integrity`] where the answer is not from the invitation's gateway, or not for the key that was made.
pub fn complete(
    machine: &Machine,
    draft: Draft,
    invitation: &Invitation,
    answer: JoinAnswer,
) -> Result<Profile, AgentError> {
    let admission = answer.admit(invitation)?;
    let settings = Settings {
        agent: admission.agent,
        address: invitation.address.clone(),
        domain: invitation.domain.clone(),
        gateway: admission.gateway,
        root: admission.root,
    };
    Ok(draft.complete(settings, &admission.ca, &admission.chain, machine.clock.wall())?)
}

fn answer(certificate: wire::Certificate) -> JoinAnswer {
    JoinAnswer {
        chain_der: certificate.chain_der.iter().map(|der| der.to_vec()).collect(),
        agent: certificate.agent,
        gateway: certificate.gateway,
        domain: certificate.domain,
        root_key: certificate.root_key,
        statement: certificate.statement.to_vec(),
    }
}

impl From<JoinError> for AgentError {
    fn from(error: JoinError) -> Self {
        let text = error.to_string();
        match error {
            JoinError::NotThis { .. } | JoinError::NotInvited => Self::Usage(
                Told::new("join_file", text.clone(), format!("接入文件无效：{text}"))
                    .next("name the file that the operator gave back", "请给出运维人员返回的文件"),
            ),
            JoinError::NotTheGateway(_) => Self::Integrity(
                Told::new("not_the_gateway", text.clone(), format!("应答并非来自邀请所指的网关：{text}"))
                    .next("do not use it; tell the gateway's operator", "不要使用，并告知网关运维人员"),
            ),
            JoinError::Key(error) => error.into(),
            JoinError::Ca(error) => error.into(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::connect::testing::scripted;
    use crate::testing::{GATEWAY, World};
    use lingqu_certs::key::SigningKey;
    use lingqu_protocol::close::CloseCode;
    use lingqu_protocol::wire::{Certificate, Fault};

    fn open(world: &World) -> Draft {
        Draft::open(&world.profile_dir(), world.machine.entropy.as_ref()).unwrap()
    }

    fn certificate(world: &World, csr_der: &[u8]) -> Certificate {
        Certificate {
            chain_der: world.chain(csr_der, world.month()).iter().map(|der| der.to_vec().into()).collect(),
            agent: world.agent().to_string(),
            gateway: GATEWAY.to_string(),
            domain: World::DOMAIN.into(),
            root_key: world.root().public().to_string(),
            statement: world.statement().into(),
        }
    }

    #[test]
    fn an_invitation_becomes_a_profile_once() {
        let world = World::new();
        let draft = open(&world);
        let csr = draft.signing_request().unwrap();
        let reply = reply::Reply::Certificate(certificate(&world, &csr));
        let (answer, asked) = scripted(vec![reply], async |session| ask(&session, &draft).await);
        assert!(matches!(&asked[..], [request::Ask::Join(_)]));
        let profile = complete(&world.machine, draft, &world.invitation(), answer.unwrap()).unwrap();
        assert_eq!(profile.settings().agent.to_string(), "91350100M000100Y43/main");
        assert_eq!(profile.settings().gateway, GATEWAY);
        let again = Draft::open(&world.profile_dir(), world.machine.entropy.as_ref()).unwrap_err();
        assert_eq!(AgentError::from(again).exit_code(), 2);
    }

    #[test]
    fn a_lost_answer_is_asked_for_again_with_the_same_key() {
        let world = World::new();
        let draft = open(&world);
        let key = draft.key().public();
        let (answer, _) = scripted(vec![], async |session| {
            session.close();
            ask(&session, &draft).await
        });
        assert!(answer.is_err());
        drop(draft);
        let draft = open(&world);
        assert_eq!(draft.key().public(), key);
        let answer = answer_of(&world, &draft);
        assert!(complete(&world.machine, draft, &world.invitation(), answer).is_ok());
    }

    fn answer_of(world: &World, draft: &Draft) -> JoinAnswer {
        answer(certificate(world, &draft.signing_request().unwrap()))
    }

    #[test]
    fn a_certificate_on_another_key_makes_no_profile() {
        let world = World::new();
        let other = lingqu_certs::ca::signing_request(&SigningKey::from_seed([2; 32]).unwrap()).unwrap();
        let answer = answer(certificate(&world, &other));
        let error = complete(&world.machine, open(&world), &world.invitation(), answer).unwrap_err();
        assert_eq!(error.exit_code(), 5);
        assert!(Profile::load(&world.profile_dir()).is_err());
    }

    #[test]
    fn an_invitation_that_was_used_is_refused() {
        let world = World::new();
        let draft = open(&world);
        let fault = Fault { code: CloseCode::Denied.code(), word: "invitation_used".into(), ..Fault::default() };
        let (answer, _) = scripted(vec![reply::Reply::Fault(fault)], async |session| ask(&session, &draft).await);
        assert_eq!(answer.unwrap_err().exit_code(), 3);
    }
}
