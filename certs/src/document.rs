//! Signing documents and opening signed ones. What is signed is DSSE's bytes of type and payload; nothing in a payload
//! is believed, or even parsed, before its signature was checked.

use crate::key::{ED25519_ID, PublicKey, SigningKey};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::{Body, DOCUMENT_BYTES_MAX, Document};
use lingqu_protocol::dsse::{self, Envelope, EnvelopeError, Signature};
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::GatewayId;

/// How far ahead of ours a drafter's clock may be: what an office machine without a time server drifts in a year or so.
pub const DRAFTER_AHEAD_MS_MAX: i64 = 5 * 60 * 1000;

/// What every payload type of this project begins with.
const TYPE_PREFIX: &str = "application/vnd.lingqu.";

/// Why a document was not signed or not opened.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not an envelope, or a prepared document that is none.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The payload is of another type than was asked for.
    #[error("this is a document of type {found:?}, not {expected:?}: hand it in where it belongs")]
    WrongType {
        /// What the caller wanted.
        expected: &'static str,
        /// What the envelope says.
        found: String,
    },
    /// None, or more than one.
    #[error("a document has exactly one signature; this has {0}")]
    SignatureCount(usize),
    /// Nobody who may sign this has that key.
    #[error("the key {0:?} is not known to sign this: have its owner registered, or sign with a registered key")]
    UnknownSigner(String),
    /// A signature in an algorithm that is not ours.
    #[error("the signature's algorithm {0:?} is not supported: sign with ed25519")]
    UnknownAlgorithm(String),
    /// The signature does not match; the document was changed or the signature made up.
    #[error("the signature does not belong to this document: it was changed after it was signed, or is forged")]
    Forged,
    /// Signed, but not a document of this type.
    #[error("the signed document is malformed: {0}")]
    Malformed(String),
    /// Meant for another gateway.
    #[error("the document is for {found}, not for {expected}: draft it again against this gateway")]
    OtherGateway {
        /// The gateway that opens it.
        expected: GatewayId,
        /// The gateway it names.
        found: GatewayId,
    },
    /// Too late.
    #[error("the document expired at {0}: draft and sign it again")]
    Expired(Timestamp),
    /// Drafted in the future.
    #[error("the document was drafted at {0}, which is ahead of this clock: check the drafter's clock")]
    FromTheFuture(Timestamp),
    /// A payload that cannot be written.
    #[error("the document cannot be written: {0}")]
    NotWritable(String),
}

/// A document that was opened: its signature is good and it is for this gateway, now. Whether the signer may sign it is
/// for the caller, who was asked for the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened<B> {
    /// What was signed.
    pub document: Document<B>,
    /// SHA-256 of the payload: what a successor names as its predecessor.
    pub digest: Digest,
    /// Who signed: [`PublicKey::key_id`] as text.
    pub keyid: String,
}

/// Signs a document.
///
/// # Errors
/// When it is larger than a document may be.
pub fn seal<B: Body>(document: &Document<B>, key: &SigningKey) -> Result<Envelope, DocumentError> {
    Ok(sign_payload(B::TYPE, payload_of(document)?, key))
}

/// The exact bytes to be signed, for a key on another machine: type and payload, readable.
///
/// # Errors
/// When it is larger than a document may be.
pub fn prepare<B: Body>(document: &Document<B>) -> Result<Vec<u8>, DocumentError> {
    Ok(dsse::pae(B::TYPE, &payload_of(document)?))
}

/// Signs what [`prepare`] wrote. The one who signs has read it: any type of this project is signed, nothing else.
///
/// # Errors
/// When the bytes are not a prepared document of this project.
pub fn sign_prepared(prepared: &[u8], key: &SigningKey) -> Result<Envelope, DocumentError> {
    let (payload_type, payload) = dsse::parse_pae(prepared)?;
    if !payload_type.starts_with(TYPE_PREFIX) {
        return Err(DocumentError::WrongType { expected: TYPE_PREFIX, found: payload_type });
    }
    Ok(sign_payload(&payload_type, payload, key))
}

/// Opens an envelope: type, count, signature, then form, gateway, period. `verify` gives the key of a key id that may
/// sign documents of this type, at `now`. An auditor passes the time at which the document was acted on.
///
/// # Errors
/// The first check that failed; the fault is with whoever drafted, signed or carried the document.
pub fn open<B: Body>(
    envelope: &Envelope,
    gateway: GatewayId,
    now: Timestamp,
    verify: impl Fn(&str) -> Option<PublicKey>,
) -> Result<Opened<B>, DocumentError> {
    let keyid = verify_envelope(envelope, B::TYPE, verify)?;
    let document: Document<B> =
        serde_json::from_slice(&envelope.payload).map_err(|e| DocumentError::Malformed(e.to_string()))?;
    if document.gateway != gateway {
        return Err(DocumentError::OtherGateway { expected: gateway, found: document.gateway });
    }
    let (issued_at, expires_at) = (Timestamp(document.issued_at), Timestamp(document.expires_at));
    if now > expires_at {
        return Err(DocumentError::Expired(expires_at));
    }
    if issued_at > now.plus_ms(DRAFTER_AHEAD_MS_MAX) {
        return Err(DocumentError::FromTheFuture(issued_at));
    }
    Ok(Opened { document, digest: payload_digest(envelope), keyid })
}

/// SHA-256 of an envelope's payload: what a successor names.
pub fn payload_digest(envelope: &Envelope) -> Digest {
    Digest::sha256(&envelope.payload)
}

/// Signs a payload that is no [`Document`] (a request, a profile statement).
pub(crate) fn sign_payload(payload_type: &str, payload: Vec<u8>, key: &SigningKey) -> Envelope {
    let signature = Signature {
        keyid: key.public().key_id().to_string(),
        algorithm: ED25519_ID.into(),
        sig: key.sign(&dsse::pae(payload_type, &payload)),
    };
    Envelope { payload_type: payload_type.into(), payload, signatures: vec![signature] }
}

/// Checks type, size and the one signature; gives the signer's key id.
pub(crate) fn verify_envelope(
    envelope: &Envelope,
    payload_type: &'static str,
    verify: impl Fn(&str) -> Option<PublicKey>,
) -> Result<String, DocumentError> {
    if envelope.payload_type != payload_type {
        return Err(DocumentError::WrongType { expected: payload_type, found: envelope.payload_type.clone() });
    }
    check_size(&envelope.payload)?;
    let [signature] = envelope.signatures.as_slice() else {
        return Err(DocumentError::SignatureCount(envelope.signatures.len()));
    };
    if signature.algorithm != ED25519_ID {
        return Err(DocumentError::UnknownAlgorithm(signature.algorithm.clone()));
    }
    let key = verify(&signature.keyid).ok_or_else(|| DocumentError::UnknownSigner(signature.keyid.clone()))?;
    // The key that was looked up must be the one that is named, whatever the look-up believes.
    if key.key_id().to_string() != signature.keyid {
        return Err(DocumentError::UnknownSigner(signature.keyid.clone()));
    }
    key.verify(&envelope.signed_bytes(), &signature.sig).map_err(|_| DocumentError::Forged)?;
    Ok(signature.keyid.clone())
}

fn payload_of<B: Body>(document: &Document<B>) -> Result<Vec<u8>, DocumentError> {
    let payload = serde_json::to_vec_pretty(document).map_err(|e| DocumentError::NotWritable(e.to_string()))?;
    check_size(&payload)?;
    Ok(payload)
}

fn check_size(payload: &[u8]) -> Result<(), EnvelopeError> {
    if payload.len() > DOCUMENT_BYTES_MAX {
        return Err(EnvelopeError::TooLarge { what: "a document", len: payload.len(), max: DOCUMENT_BYTES_MAX });
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use lingqu_protocol::documents::{GrantAct, GrantActBody, Review, ReviewBody};
    use lingqu_protocol::ids::{DocumentId, EntryId, GrantId};

    const HERE: GatewayId = GatewayId::from_bits(1);
    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn key(n: u8) -> SigningKey {
        SigningKey::from_seed([n; 32]).unwrap()
    }

    fn document() -> Document<GrantActBody> {
        Document {
            gateway: HERE,
            id: DocumentId::from_bits(2),
            predecessor: Some(Digest::sha256(b"grant")),
            issued_at: NOW.0,
            expires_at: NOW.0 + 1000,
            body: GrantActBody { grant: GrantId::from_bits(3), act: GrantAct::Reinstate, reason: "已整改".into() },
        }
    }

    fn known(keys: &[&SigningKey]) -> impl Fn(&str) -> Option<PublicKey> {
        let keys: Vec<_> = keys.iter().map(|k| k.public()).collect();
        move |id| keys.iter().find(|k| k.key_id().to_string() == id).copied()
    }

    fn open_here(envelope: &Envelope) -> Result<Opened<GrantActBody>, DocumentError> {
        open(envelope, HERE, NOW, known(&[&key(1)]))
    }

    #[test]
    fn what_was_sealed_opens_to_the_same() {
        let envelope = seal(&document(), &key(1)).unwrap();
        let again = Envelope::from_json(envelope.to_json().as_bytes()).unwrap();
        let opened = open_here(&again).unwrap();
        assert_eq!(opened.document, document());
        assert_eq!(opened.digest, Digest::sha256(&envelope.payload));
        assert_eq!(opened.keyid, key(1).public().key_id().to_string());
    }

    #[test]
    fn preparing_and_signing_elsewhere_gives_the_same_envelope() {
        let prepared = prepare(&document()).unwrap();
        assert_eq!(sign_prepared(&prepared, &key(1)).unwrap(), seal(&document(), &key(1)).unwrap());
        assert!(String::from_utf8(prepared.clone()).unwrap().contains("已整改"), "readable as it is");
        assert!(sign_prepared(&prepared[1..], &key(1)).is_err());
        let foreign = dsse::pae("application/other", b"{}");
        assert!(matches!(sign_prepared(&foreign, &key(1)), Err(DocumentError::WrongType { .. })));
    }

    #[test]
    fn any_flipped_byte_is_a_forgery() {
        let good = seal(&document(), &key(1)).unwrap();
        for i in 0..good.payload.len() {
            let mut bad = good.clone();
            bad.payload[i] ^= 1;
            assert!(matches!(open_here(&bad), Err(DocumentError::Forged)), "byte {i}");
        }
        for i in 0..64 {
            let mut bad = good.clone();
            bad.signatures[0].sig[i] ^= 1;
            assert!(matches!(open_here(&bad), Err(DocumentError::Forged)), "signature byte {i}");
        }
    }

    #[test]
    fn another_signer_and_a_borrowed_key_id_are_refused() {
        let other = seal(&document(), &key(2)).unwrap();
        assert!(matches!(open_here(&other), Err(DocumentError::UnknownSigner(_))));
        let mut borrowed = other.clone();
        borrowed.signatures[0].keyid = key(1).public().key_id().to_string();
        assert!(matches!(open_here(&borrowed), Err(DocumentError::Forged)));
        let careless = open::<GrantActBody>(&other, HERE, NOW, |_| Some(key(1).public()));
        assert!(matches!(careless, Err(DocumentError::UnknownSigner(_))));
    }

    #[test]
    fn one_signature_in_a_known_algorithm_no_more_no_less() {
        let good = seal(&document(), &key(1)).unwrap();
        for count in [0, 2] {
            let mut bad = good.clone();
            bad.signatures = vec![good.signatures[0].clone(); count];
            assert!(matches!(open_here(&bad), Err(DocumentError::SignatureCount(n)) if n == count));
        }
        let mut bad = good;
        bad.signatures[0].algorithm = "none".into();
        assert!(matches!(open_here(&bad), Err(DocumentError::UnknownAlgorithm(_))));
    }

    #[test]
    fn another_gateway_another_time_another_type() {
        let at =
            |gateway, now| open::<GrantActBody>(&seal(&document(), &key(1)).unwrap(), gateway, now, known(&[&key(1)]));
        assert!(matches!(at(GatewayId::from_bits(9), NOW), Err(DocumentError::OtherGateway { .. })));
        assert!(at(HERE, NOW.plus_ms(1000)).is_ok());
        assert!(matches!(at(HERE, NOW.plus_ms(1001)), Err(DocumentError::Expired(_))));
        assert!(at(HERE, NOW.plus_ms(-DRAFTER_AHEAD_MS_MAX)).is_ok());
        let early = at(HERE, NOW.plus_ms(-DRAFTER_AHEAD_MS_MAX - 1));
        assert!(matches!(early, Err(DocumentError::FromTheFuture(_))));

        let body = ReviewBody { entry: EntryId::from_bits(1), decision: Review::Approve { code: None } };
        let d = document();
        let review = Document {
            body,
            gateway: d.gateway,
            id: d.id,
            predecessor: None,
            issued_at: d.issued_at,
            expires_at: d.expires_at,
        };
        let envelope = seal(&review, &key(1)).unwrap();
        assert!(matches!(open_here(&envelope), Err(DocumentError::WrongType { .. })));
        let mut relabelled = envelope;
        relabelled.payload_type = <GrantActBody as Body>::TYPE.into();
        assert!(matches!(open_here(&relabelled), Err(DocumentError::Forged)), "the type is signed too");
    }

    #[test]
    fn a_document_that_is_too_large_is_not_signed() {
        let mut big = document();
        big.body.reason = "x".repeat(DOCUMENT_BYTES_MAX);
        assert!(matches!(seal(&big, &key(1)), Err(DocumentError::Envelope(EnvelopeError::TooLarge { .. }))));
    }

    #[test]
    fn signed_junk_is_malformed_not_a_panic() {
        for junk in [&b"{}"[..], b"", b"\xff", b"[[[["] {
            let envelope = sign_payload(<GrantActBody as Body>::TYPE, junk.to_vec(), &key(1));
            assert!(matches!(open_here(&envelope), Err(DocumentError::Malformed(_))));
        }
    }
}
