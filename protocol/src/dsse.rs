//! The envelope around a signed document, as DSSE (secure-systems-lab/dsse v1) defines it: the signature covers the type
//! and the exact bytes of the payload, so that nothing is parsed or re-encoded before it was checked.
//!
//! Goals: one text form, one form of the bytes to be signed, both bounded. Non-goals: no key, no signature is made or
//! checked here (`certs::document` does that).

use crate::documents::DOCUMENT_BYTES_MAX;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Signatures in one envelope: more than any document asks for, few enough to check them all.
pub const SIGNATURES_MAX: usize = 8;

/// Bytes of a payload type, of a key id and of an algorithm id: room for a media type with parameters.
pub const NAME_BYTES_MAX: usize = 256;

/// Bytes of one signature: room for a post-quantum one.
pub const SIGNATURE_BYTES_MAX: usize = 8 * 1024;

/// Bytes of an envelope's JSON text: payload and signatures in base64 (four for three) and the names around them.
pub const ENVELOPE_TEXT_BYTES_MAX: usize =
    DOCUMENT_BYTES_MAX / 3 * 4 + SIGNATURES_MAX * (SIGNATURE_BYTES_MAX * 2 + 4 * NAME_BYTES_MAX) + 4096;

/// What the bytes to be signed begin with.
const PAE_PREFIX: &[u8] = b"DSSEv1 ";

/// A payload, its type, and signatures over both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The media type of the payload.
    pub payload_type: String,
    /// The exact bytes that were signed.
    pub payload: Vec<u8>,
    /// Signatures, unchecked.
    pub signatures: Vec<Signature>,
}

/// One signature over [`pae`] of type and payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Which key is said to have signed.
    pub keyid: String,
    /// The algorithm's id (`ed25519`).
    pub algorithm: String,
    /// The signature's bytes.
    pub sig: Vec<u8>,
}

/// Bytes that are not an envelope, or not the bytes of one to be signed. The fault is the sender's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// More than the bound.
    #[error("{what} is too large: {len} bytes where {max} are allowed")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// Its length in bytes (or its count).
        len: usize,
        /// The bound.
        max: usize,
    },
    /// No JSON, or other keys than an envelope has.
    #[error("not a DSSE envelope: {0}")]
    NotAnEnvelope(String),
    /// A field that is not base64.
    #[error("{0} is not base64")]
    NotBase64(&'static str),
    /// Bytes that do not have the form of bytes to be signed.
    #[error("not a prepared document: expected \"DSSEv1\", a length, a type, a length and a payload")]
    NotPrepared,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct EnvelopeJson {
    payload_type: String,
    payload: String,
    signatures: Vec<SignatureJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureJson {
    keyid: String,
    algorithm: String,
    sig: String,
}

impl Envelope {
    /// The JSON text, one line.
    pub fn to_json(&self) -> String {
        let signatures = self.signatures.iter().map(|s| SignatureJson {
            keyid: s.keyid.clone(),
            algorithm: s.algorithm.clone(),
            sig: STANDARD.encode(&s.sig),
        });
        let json = EnvelopeJson {
            payload_type: self.payload_type.clone(),
            payload: STANDARD.encode(&self.payload),
            signatures: signatures.collect(),
        };
        // Three strings and a list always have a JSON form.
        serde_json::to_string(&json).unwrap_or_default()
    }

    /// Reads JSON text from a peer or a file. Nothing is verified but form and size.
    ///
    /// # Errors
    /// Which part is too large or malformed.
    pub fn from_json(text: &[u8]) -> Result<Self, EnvelopeError> {
        bounded("an envelope", text.len(), ENVELOPE_TEXT_BYTES_MAX)?;
        let json: EnvelopeJson =
            serde_json::from_slice(text).map_err(|e| EnvelopeError::NotAnEnvelope(e.to_string()))?;
        bounded("a payload type", json.payload_type.len(), NAME_BYTES_MAX)?;
        bounded("the list of signatures", json.signatures.len(), SIGNATURES_MAX)?;
        let payload = STANDARD.decode(&json.payload).map_err(|_| EnvelopeError::NotBase64("payload"))?;
        bounded("a payload", payload.len(), DOCUMENT_BYTES_MAX)?;
        let signatures = json.signatures.into_iter().map(signature_from_json).collect::<Result<_, _>>()?;
        Ok(Self { payload_type: json.payload_type, payload, signatures })
    }

    /// The bytes that its signatures cover.
    pub fn signed_bytes(&self) -> Vec<u8> {
        pae(&self.payload_type, &self.payload)
    }
}

/// The bytes that a signature covers: `DSSEv1 <length> <type> <length> <payload>`, lengths in decimal bytes. They are
/// readable where the payload is, and are what `--prepare` writes.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

/// Takes [`pae`] apart again: type and payload of a prepared document.
///
/// # Errors
/// `NotPrepared` unless the bytes are exactly what [`pae`] makes; `TooLarge`.
pub fn parse_pae(bytes: &[u8]) -> Result<(String, Vec<u8>), EnvelopeError> {
    bounded("a prepared document", bytes.len(), DOCUMENT_BYTES_MAX + NAME_BYTES_MAX + 64)?;
    let parts = || {
        let rest = bytes.strip_prefix(PAE_PREFIX)?;
        let (payload_type, rest) = sized(rest)?;
        let (payload, rest) = sized(rest.strip_prefix(b" ")?)?;
        rest.is_empty().then_some((std::str::from_utf8(payload_type).ok()?, payload))
    };
    let (payload_type, payload) = parts().ok_or(EnvelopeError::NotPrepared)?;
    bounded("a payload type", payload_type.len(), NAME_BYTES_MAX)?;
    bounded("a payload", payload.len(), DOCUMENT_BYTES_MAX)?;
    // A length may be written in one way only, or two texts would stand for one document.
    if pae(payload_type, payload) != bytes {
        return Err(EnvelopeError::NotPrepared);
    }
    Ok((payload_type.to_owned(), payload.to_vec()))
}

/// `<length> <that many bytes>`, and what follows.
fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().position(|b| *b == b' ')?;
    let len: usize = std::str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
    bytes.get(space + 1..)?.split_at_checked(len)
}

fn signature_from_json(json: SignatureJson) -> Result<Signature, EnvelopeError> {
    bounded("a key id", json.keyid.len(), NAME_BYTES_MAX)?;
    bounded("an algorithm id", json.algorithm.len(), NAME_BYTES_MAX)?;
    let sig = STANDARD.decode(&json.sig).map_err(|_| EnvelopeError::NotBase64("sig"))?;
    bounded("a signature", sig.len(), SIGNATURE_BYTES_MAX)?;
    Ok(Signature { keyid: json.keyid, algorithm: json.algorithm, sig })
}

fn bounded(what: &'static str, len: usize, max: usize) -> Result<(), EnvelopeError> {
    if len > max { Err(EnvelopeError::TooLarge { what, len, max }) } else { Ok(()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn the_specifications_vector_holds() {
        // secure-systems-lab/dsse, protocol.md, test vectors.
        let bytes = pae("http://example.com/HelloWorld", b"hello world");
        assert_eq!(bytes, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
        assert_eq!(parse_pae(&bytes).unwrap(), ("http://example.com/HelloWorld".into(), b"hello world".to_vec()));
        let payload_type = "http://example.com/HelloWorld".to_owned();
        let envelope = Envelope { payload_type, payload: b"hello world".to_vec(), signatures: Vec::new() };
        assert_eq!(envelope.signed_bytes(), bytes);
    }

    #[test]
    fn other_forms_of_a_length_and_loose_ends_are_refused() {
        for bad in [
            "",
            "DSSEv1 ",
            "DSSEv1 1 a 1 ",
            "DSSEv1 1 a 1 bb",
            "DSSEv1 01 a 1 b",
            "DSSEv1 +1 a 1 b",
            "DSSEv1 1 a  1 b",
            "DSSEv2 1 a 1 b",
            "DSSEv1 18446744073709551616 a 1 b",
            "DSSEv1 18446744073709551615 a 1 b",
        ] {
            assert_eq!(parse_pae(bad.as_bytes()), Err(EnvelopeError::NotPrepared), "{bad:?}");
        }
    }

    #[test]
    fn too_much_is_refused_by_name() {
        let big =
            Envelope { payload_type: "t".into(), payload: vec![b' '; DOCUMENT_BYTES_MAX + 1], signatures: vec![] };
        let what = |r: Result<Envelope, _>| match r {
            Err(EnvelopeError::TooLarge { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(what(Envelope::from_json(big.to_json().as_bytes())), "a payload");
        assert_eq!(what(Envelope::from_json(&vec![b' '; ENVELOPE_TEXT_BYTES_MAX + 1])), "an envelope");
        let signature = Signature { keyid: "k".into(), algorithm: "a".into(), sig: vec![1] };
        let many = Envelope { payload_type: "t".into(), payload: vec![], signatures: vec![signature; 9] };
        assert_eq!(what(Envelope::from_json(many.to_json().as_bytes())), "the list of signatures");
    }

    #[test]
    fn a_full_envelope_fits_its_bound() {
        let signature =
            Signature { keyid: "k".repeat(256), algorithm: "a".repeat(256), sig: vec![7; SIGNATURE_BYTES_MAX] };
        let full = Envelope {
            payload_type: "t".repeat(256),
            payload: vec![7; DOCUMENT_BYTES_MAX],
            signatures: vec![signature; SIGNATURES_MAX],
        };
        assert_eq!(Envelope::from_json(full.to_json().as_bytes()).unwrap(), full);
    }

    #[test]
    fn unknown_keys_and_bad_base64_are_refused() {
        let unknown = br#"{"payloadType":"t","payload":"","signatures":[],"x":1}"#;
        assert!(matches!(Envelope::from_json(unknown), Err(EnvelopeError::NotAnEnvelope(_))));
        let bad = br#"{"payloadType":"t","payload":"*","signatures":[]}"#;
        assert_eq!(Envelope::from_json(bad), Err(EnvelopeError::NotBase64("payload")));
    }

    proptest! {
        #[test]
        fn json_round_trips(
            payload_type in ".{0,40}",
            payload in vec(any::<u8>(), 0..300),
            signatures in vec(("[a-z0-9:]{0,70}", "[a-z0-9]{0,9}", vec(any::<u8>(), 0..70)), 0..4),
        ) {
            let signatures =
                signatures.into_iter().map(|(keyid, algorithm, sig)| Signature { keyid, algorithm, sig }).collect();
            let envelope = Envelope { payload_type, payload, signatures };
            prop_assert_eq!(Envelope::from_json(envelope.to_json().as_bytes()), Ok(envelope));
        }

        #[test]
        fn prepared_bytes_round_trip(payload_type in ".{0,40}", payload in vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(parse_pae(&pae(&payload_type, &payload)), Ok((payload_type, payload)));
        }

        #[test]
        fn what_is_taken_as_prepared_is_what_would_be_signed(text in "DSSEv1 [0-9]{1,2} [a-z ]{0,9} [0-9]{1,2} [a-z ]{0,9}") {
            if let Ok((payload_type, payload)) = parse_pae(text.as_bytes()) {
                prop_assert_eq!(pae(&payload_type, &payload), text.into_bytes());
            }
        }

        #[test]
        fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = Envelope::from_json(&bytes);
            let _ = parse_pae(&bytes);
        }
    }
}
