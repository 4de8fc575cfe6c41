use super::*;
use lingqu_certs::document::seal;
use lingqu_certs::key::SigningKey;
use lingqu_protocol::documents::{Answer, OfficerRole};
use lingqu_protocol::ids::{ApplicationId, DocumentId};

const HERE: GatewayId = GatewayId::from_bits(1);

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32]).unwrap()
}

fn document<B: Body>(body: B, gateway: GatewayId) -> Document<B> {
    // Long expired by any clock: what was signed once can be checked for ever.
    Document { gateway, id: DocumentId::from_bits(2), predecessor: None, issued_at: 10, expires_at: 20, body }
}

fn certificate(officer: u8, role: OfficerRole, signer: u8, gateway: GatewayId) -> Envelope {
    let body = OfficerBody {
        agency: "91350100M000100Y43".into(),
        name: "王芳".into(),
        role,
        key: key(officer).public().to_string(),
    };
    seal(&document(body, gateway), &key(signer)).unwrap()
}

fn answer(signer: u8) -> Envelope {
    let body = AnswerBody { application: ApplicationId::from_bits(3), answer: Answer::Refuse { why: "w".into() } };
    seal(&document(body, HERE), &key(signer)).unwrap()
}

fn check(
    envelope: &Envelope,
    signer: Option<&Envelope>,
    expected: Option<GatewayId>,
) -> Result<Option<OfficerBody>, u8> {
    verified(envelope, signer, &key(1).public(), expected).map_err(|error| error.exit_code())
}

#[test]
fn an_officers_document_holds_under_the_root() {
    let certificate = certificate(5, OfficerRole::OfficeHead, 1, HERE);
    for expected in [None, Some(HERE)] {
        let officer = check(&answer(5), Some(&certificate), expected).unwrap().unwrap();
        assert_eq!(officer.name, "王芳");
    }
    assert_eq!(check(&certificate, None, Some(HERE)), Ok(None), "the certificate itself is the root's");
}

#[test]
fn anything_else_does_not_hold() {
    let good = certificate(5, OfficerRole::OfficeHead, 1, HERE);
    assert_eq!(check(&answer(5), None, None), Err(2), "whose is it?");
    assert_eq!(check(&answer(6), Some(&good), None), Err(5), "another key");
    assert_eq!(check(&answer(5), Some(&certificate(5, OfficerRole::Clerk, 1, HERE)), None), Err(5), "a clerk");
    let self_made = certificate(5, OfficerRole::OfficeHead, 5, HERE);
    assert_eq!(check(&answer(5), Some(&self_made), None), Err(5), "a certificate of one's own");
    let elsewhere = certificate(5, OfficerRole::OfficeHead, 1, GatewayId::from_bits(7));
    assert_eq!(check(&answer(5), Some(&elsewhere), None), Err(5), "an officer of another gateway");
    assert_eq!(check(&answer(5), Some(&good), Some(GatewayId::from_bits(7))), Err(5), "a document for another gateway");
    let mut changed = answer(5);
    changed.payload[40] ^= 1;
    assert!(matches!(check(&changed, Some(&good), None), Err(2 | 5)), "changed after it was signed");
    let unknown = Envelope { payload_type: "text/plain".into(), ..answer(5) };
    assert_eq!(check(&unknown, Some(&good), None), Err(2), "no document of this project");
    let claimed = Envelope { payload_type: OfficerBody::TYPE.into(), ..answer(5) };
    assert_eq!(check(&claimed, None, None), Err(5), "another type than was signed");
}
