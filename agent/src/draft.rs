//! Documents as this agent drafts them: bound to the gateway, with an id of their own and an end.

use crate::error::AgentError;
use crate::machine::Machine;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::{
    Answer, AnswerBody, ApplicationBody, BackflowListBody, BackflowRevocationBody, Body, Document, EntryBody,
    FindingActBody, GrantActBody, OrderWithdrawalBody, ReviewBody, Signer, StandingOrderBody,
};
use lingqu_protocol::ids::{DocumentId, GatewayId};
use serde_json::{Value, json};

/// Days in which a document can be handed in, at most: long enough to carry it by hand, short enough that nobody acts on
/// what was meant a season ago.
pub const VALID_DAYS_MAX: u32 = 30;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// A document that says `body`, to be handed in within `valid_days` (at most [`VALID_DAYS_MAX`]).
///
/// # Errors
/// When the random generator fails.
pub fn document<B: Body>(
    machine: &Machine,
    gateway: GatewayId,
    predecessor: Option<Digest>,
    valid_days: u32,
    body: B,
) -> Result<Document<B>, AgentError> {
    let now = machine.clock.wall();
    Ok(Document {
        gateway,
        id: DocumentId::random(machine.entropy.as_ref()).map_err(|e| AgentError::entropy(&e))?,
        predecessor,
        issued_at: now.0,
        expires_at: now.plus_ms(i64::from(valid_days.clamp(1, VALID_DAYS_MAX)) * DAY_MS).0,
        body,
    })
}

/// What is known of a document from its type and payload alone, for people and programs.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// What is made or changed: `id` first of all (`{"id": GRANT, "application": ID}` for an answer that grants).
    pub made: Value,
    /// The document's id.
    pub document: DocumentId,
    /// Its gateway.
    pub gateway: GatewayId,
    /// Whose signature it needs.
    pub signer: Signer,
    /// Milliseconds since 1970 UTC until it can be handed in.
    pub expires_at: i64,
}

/// Reads a payload of one type.
type Reader = fn(&str, &[u8]) -> Option<Summary>;

/// Reads a payload without checking any signature; `None` where it is no document that an officer signs.
pub fn summary(payload_type: &str, payload: &[u8]) -> Option<Summary> {
    let readers: [Reader; 10] = [
        |t, p| read::<EntryBody>(t, p, |b| json!({"id": b.entry})),
        |t, p| read::<ReviewBody>(t, p, |b| json!({"id": b.entry})),
        |t, p| read::<ApplicationBody>(t, p, |b| json!({"id": b.application})),
        |t, p| {
            read::<AnswerBody>(t, p, |b| match &b.answer {
                Answer::Approve { grant, .. } => json!({"id": grant, "application": b.application}),
                Answer::Refuse { .. } => json!({"id": b.application, "application": b.application}),
            })
        },
        |t, p| read::<GrantActBody>(t, p, |b| json!({"id": b.grant})),
        |t, p| read::<StandingOrderBody>(t, p, |b| json!({"id": b.order})),
        |t, p| read::<OrderWithdrawalBody>(t, p, |b| json!({"id": b.order})),
        |t, p| read::<FindingActBody>(t, p, |b| json!({"id": b.finding})),
        |t, p| read::<BackflowListBody>(t, p, |b| json!({"id": b.list})),
        |t, p| read::<BackflowRevocationBody>(t, p, |b| json!({"id": b.list})),
    ];
    readers.into_iter().find_map(|reader| reader(payload_type, payload))
}

fn read<B: Body>(payload_type: &str, payload: &[u8], made: fn(&B) -> Value) -> Option<Summary> {
    if payload_type != B::TYPE {
        return None;
    }
    let document: Document<B> = serde_json::from_slice(payload).ok()?;
    Some(Summary {
        made: made(&document.body),
        document: document.id,
        gateway: document.gateway,
        signer: B::SIGNER,
        expires_at: document.expires_at,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use lingqu_certs::document::{open, prepare, seal, sign_prepared};
    use lingqu_certs::key::SigningKey;
    use lingqu_protocol::documents::{AgencyBody, OfficerRole};
    use lingqu_protocol::dsse::parse_pae;
    use lingqu_protocol::ids::{ApplicationId, GrantId};

    const HERE: GatewayId = GatewayId::from_bits(4);

    fn answer() -> AnswerBody {
        let answer = Answer::Approve { grant: GrantId::from_bits(2), scope_toml: Some("x".into()) };
        AnswerBody { application: ApplicationId::from_bits(1), answer }
    }

    #[test]
    fn a_document_is_bound_and_ends() {
        let machine = crate::machine::tests::real();
        let follows = Some(Digest::sha256(b"application"));
        let one = document(&machine, HERE, follows, 1, answer()).unwrap();
        assert_eq!((one.gateway, one.predecessor), (HERE, follows));
        assert_eq!(one.expires_at - one.issued_at, DAY_MS);
        let other = document(&machine, HERE, follows, 90, answer()).unwrap();
        assert_eq!(other.expires_at - other.issued_at, 30 * DAY_MS, "never longer");
        assert_ne!(one.id, other.id);
    }

    #[test]
    fn signed_elsewhere_it_is_the_same_document() {
        let machine = crate::machine::tests::real();
        let key = SigningKey::from_seed([7; 32]).unwrap();
        let drafted = document(&machine, HERE, None, 1, answer()).unwrap();
        let prepared = prepare(&drafted).unwrap();
        let envelope = sign_prepared(&prepared, &key).unwrap();
        assert_eq!(envelope, seal(&drafted, &key).unwrap());
        let known = |keyid: &str| (keyid == key.public().key_id().to_string()).then_some(key.public());
        let opened = open::<AnswerBody>(&envelope, HERE, machine.clock.wall(), known).unwrap();
        assert_eq!(opened.document, drafted);
        let (payload_type, payload) = parse_pae(&prepared).unwrap();
        let summary = summary(&payload_type, &payload).unwrap();
        assert_eq!(summary.made, json!({"id": GrantId::from_bits(2), "application": ApplicationId::from_bits(1)}));
        assert_eq!((summary.document, summary.gateway), (drafted.id, HERE));
        assert_eq!(summary.signer, Signer::Officer(&[OfficerRole::OfficeHead]));
    }

    #[test]
    fn a_refusal_names_its_application() {
        let machine = crate::machine::tests::real();
        let body = AnswerBody { application: ApplicationId::from_bits(1), answer: Answer::Refuse { why: "w".into() } };
        let payload = serde_json::to_vec(&document(&machine, HERE, None, 1, body).unwrap()).unwrap();
        let made = summary(AnswerBody::TYPE, &payload).unwrap().made;
        assert_eq!(made["id"], json!(ApplicationId::from_bits(1)));
    }

    #[test]
    fn what_no_officer_signs_has_no_summary() {
        assert_eq!(summary(AgencyBody::TYPE, b"{}"), None);
        assert_eq!(summary(AnswerBody::TYPE, b"{}"), None);
        assert_eq!(summary("text/plain", b""), None);
    }
}
