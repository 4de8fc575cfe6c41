//! Checking signed documents from the root down, with no connection.

use super::paper::known;
use crate::error::{AgentError, Told};
use crate::output::clean;
use lingqu_certs::document::{DocumentError, open};
use lingqu_certs::key::PublicKey;
use lingqu_certs::root::open_as_root;
use lingqu_protocol::documents::{
    AgencyBody, AnswerBody, ApplicationBody, BackflowListBody, BackflowRevocationBody, Body, Document, EntryBody,
    FindingActBody, GatewayBody, GrantActBody, OfficerBody, OrderWithdrawalBody, ReviewBody, Signer, StandingOrderBody,
};
use lingqu_protocol::dsse::Envelope;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::GatewayId;

/// Checks a document from the root down and gives the officer who signed, none where the root did. It is opened as of its
/// own date: an auditor looks at old papers.
pub(super) fn verified(
    envelope: &Envelope,
    signer: Option<&Envelope>,
    root: &PublicKey,
    expected: Option<GatewayId>,
) -> Result<Option<OfficerBody>, AgentError> {
    if let Some(check) = root_reader(&envelope.payload_type) {
        check(envelope, root, expected)?;
        return Ok(None);
    }
    let summary = known(&envelope.payload_type, &envelope.payload)?;
    let Some(certificate) = signer else {
        return Err(AgentError::Usage(
            Told::new(
                "no_signer_certificate",
                "an officer signed this: whose certificate?",
                "该文书由签署人签署，缺少其证书",
            )
            .next("add --signer CERT (`officer add --out`)", "加上 --signer 证书文件"),
        ));
    };
    let officer = as_root::<OfficerBody>(certificate, root, Some(expected.unwrap_or(summary.gateway)))?.body;
    match summary.signer {
        Signer::Officer(roles) if roles.contains(&officer.role) => {}
        _ => {
            return Err(AgentError::Integrity(Told::new(
                "role",
                format!("{} is {:?} and may not sign this", clean(&officer.name), officer.role),
                format!("{} 的职务无权签署该文书", clean(&officer.name)),
            )));
        }
    }
    let key: PublicKey = officer.key.parse()?;
    let gateway = expected.unwrap_or(summary.gateway);
    let readers: [OfficerReader; 10] = [
        as_officer::<EntryBody>,
        as_officer::<ReviewBody>,
        as_officer::<ApplicationBody>,
        as_officer::<AnswerBody>,
        as_officer::<GrantActBody>,
        as_officer::<StandingOrderBody>,
        as_officer::<OrderWithdrawalBody>,
        as_officer::<FindingActBody>,
        as_officer::<BackflowListBody>,
        as_officer::<BackflowRevocationBody>,
    ];
    for reader in readers {
        if reader(envelope, gateway, key)? {
            return Ok(Some(officer));
        }
    }
    Err(DocumentError::Malformed("no reader for its type".into()).into())
}

/// Whether the envelope is of the reader's type; then it must hold.
type OfficerReader = fn(&Envelope, GatewayId, PublicKey) -> Result<bool, AgentError>;

type RootReader = fn(&Envelope, &PublicKey, Option<GatewayId>) -> Result<(), AgentError>;

fn root_reader(payload_type: &str) -> Option<RootReader> {
    let readers: [(&str, RootReader); 3] = [
        (OfficerBody::TYPE, |e, r, g| as_root::<OfficerBody>(e, r, g).map(|_| ())),
        (AgencyBody::TYPE, |e, r, g| as_root::<AgencyBody>(e, r, g).map(|_| ())),
        (GatewayBody::TYPE, |e, r, g| as_root::<GatewayBody>(e, r, g).map(|_| ())),
    ];
    readers.into_iter().find(|(name, _)| *name == payload_type).map(|(_, reader)| reader)
}

fn as_root<B: Body>(
    envelope: &Envelope,
    root: &PublicKey,
    expected: Option<GatewayId>,
) -> Result<Document<B>, AgentError> {
    let (gateway, at) = dated::<B>(envelope)?;
    Ok(open_as_root::<B>(envelope, root, expected.unwrap_or(gateway), at)?.document)
}

fn as_officer<B: Body>(envelope: &Envelope, gateway: GatewayId, key: PublicKey) -> Result<bool, AgentError> {
    if envelope.payload_type != B::TYPE {
        return Ok(false);
    }
    let (_, at) = dated::<B>(envelope)?;
    let known = |keyid: &str| (keyid == key.key_id().to_string()).then_some(key);
    open::<B>(envelope, gateway, at, known)?;
    Ok(true)
}

/// The gateway and date that a document claims, before anything was checked.
fn dated<B: Body>(envelope: &Envelope) -> Result<(GatewayId, Timestamp), AgentError> {
    let document: Document<B> =
        serde_json::from_slice(&envelope.payload).map_err(|e| DocumentError::Malformed(e.to_string()))?;
    Ok((document.gateway, Timestamp(document.issued_at)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
