//! What a leaf of the ledger says: typed fields that are nobody's personal data, and a salted commitment to the rest.
//!
//! A leaf is JSON text with its fields in one order and nothing between them, so that a leaf has one encoding and an
//! auditor can read it with no tool. What is committed to (predicates, file names, reasons) lies beside the ledger with
//! its salt; both can be destroyed, and the leaf still proves when something was done and by whom.

use crate::agency::{AgentId, CreditCode};
use crate::digest::Digest;
use crate::ids::{ApplicationId, DocumentId, EntryId, GrantId, TransferId};
use serde::{Deserialize, Serialize};

/// Bytes of a leaf's text: every field at its longest takes under a third of this.
pub const LEAF_BYTES_MAX: usize = 4096;

/// Bytes of a commitment's salt: as many as its digest has, so that guessing the payload is no easier than guessing it.
pub const SALT_BYTES: usize = 32;

/// Characters of [`Leaf::what`]: a stable word for programs.
pub const WHAT_CHARS_MAX: usize = 64;

/// Characters of [`Leaf::subject`]: an agent's `CODE/NAME` or a digest with its algorithm, with room.
pub const SUBJECT_CHARS_MAX: usize = 128;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeafKind {
    /// A request was let through.
    Permit,
    /// Requests were denied: `count` of them, for the reason `what`, in the minute from `at`.
    Denied,
    /// The registry changed: an entry, an application, a grant, an officer. `what` says how.
    RegistryAct,
    /// An agent joined or renewed its certificate.
    Identity,
    /// A provider's version became visible: the leaf of a push's receipt.
    VersionCommitted,
    /// A delivery ended whole: the leaf of a pull's receipt.
    Delivery,
    /// A transfer was cut off.
    Cut,
    /// Something was stopped.
    Stop,
    /// Something that was stopped goes on.
    Resume,
    /// Salts and payloads were destroyed.
    Purge,
    /// The gateway began, or was restored from a backup. Signed.
    Epoch,
}

/// A leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    /// What happened.
    pub kind: LeafKind,
    /// Milliseconds since 1970 UTC.
    pub at: i64,
    /// More about what happened: a stable word of `a-z 0-9 . _ -`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    /// What it is about, where that has no field of its own: an id of `A-Z a-z 0-9 . _ - : /`, nobody's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The agency that acted or that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_text")]
    pub agency: Option<CreditCode>,
    /// The agent that acted or that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_text")]
    pub agent: Option<AgentId>,
    /// The entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryId>,
    /// The application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<ApplicationId>,
    /// The grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantId>,
    /// The transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<TransferId>,
    /// The signed document that caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<DocumentId>,
    /// The digest of that document's payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document_digest: Option<Digest>,
    /// How often it happened, or how many things it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Bytes that passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// [`commitment`] to the rest.
    pub commitment: Digest,
}

/// Bytes that are not a leaf.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// More than the bound.
    #[error("a leaf of {0} bytes is over the limit")]
    TooLong(usize),
    /// Not a leaf's JSON, or a field that is none.
    #[error("not a leaf: {0}")]
    Malformed(String),
    /// A leaf in other words than its one encoding.
    #[error("the leaf is not in its one encoding")]
    NotCanonical,
}

/// `SHA-256(salt ‖ payload)`. The salt is [`SALT_BYTES`] random bytes.
pub fn commitment(salt: &[u8], payload: &[u8]) -> Digest {
    Digest::sha256(&[salt, payload].concat())
}

impl Leaf {
    /// A leaf with nothing but these; set what else applies.
    pub const fn new(kind: LeafKind, at: crate::host::Timestamp, commitment: Digest) -> Self {
        Self {
            kind,
            at: at.0,
            what: None,
            subject: None,
            agency: None,
            agent: None,
            entry: None,
            application: None,
            grant: None,
            transfer: None,
            document: None,
            document_digest: None,
            count: None,
            bytes: None,
            commitment,
        }
    }

    /// Its bytes.
    ///
    /// # Errors
    /// Where `what` is no stable word or `subject` no id: the caller's fault.
    pub fn encode(&self) -> Result<Vec<u8>, LeafError> {
        self.check()?;
        let bytes = serde_json::to_vec(self).map_err(|e| LeafError::Malformed(e.to_string()))?;
        if bytes.len() > LEAF_BYTES_MAX { Err(LeafError::TooLong(bytes.len())) } else { Ok(bytes) }
    }

    /// The leaf that these bytes are the one encoding of.
    ///
    /// # Errors
    /// Why they are not.
    pub fn decode(bytes: &[u8]) -> Result<Self, LeafError> {
        if bytes.len() > LEAF_BYTES_MAX {
            return Err(LeafError::TooLong(bytes.len()));
        }
        let leaf: Self = serde_json::from_slice(bytes).map_err(|e| LeafError::Malformed(e.to_string()))?;
        if leaf.encode()? == bytes { Ok(leaf) } else { Err(LeafError::NotCanonical) }
    }

    fn check(&self) -> Result<(), LeafError> {
        let is_word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c);
        let is_id = |c: u8| c.is_ascii_alphanumeric() || b"._-:/".contains(&c);
        let made_of = |text: &Option<String>, max: usize, allowed: &dyn Fn(u8) -> bool| {
            text.as_ref().is_none_or(|text| (1..=max).contains(&text.len()) && text.bytes().all(allowed))
        };
        if !made_of(&self.what, WHAT_CHARS_MAX, &is_word) {
            return Err(LeafError::Malformed("what is no stable word".into()));
        }
        if !made_of(&self.subject, SUBJECT_CHARS_MAX, &is_id) {
            return Err(LeafError::Malformed("the subject is no id".into()));
        }
        Ok(())
    }
}

/// Optional values as their text.
mod optional_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::fmt::Display;
    use std::str::FromStr;

    pub(super) fn serialize<T: Display, S: Serializer>(value: &Option<T>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => s.collect_str(value),
            None => s.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<T>, D::Error> {
        let text = Option::<String>::deserialize(d)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::host::Timestamp;
    use proptest::option::of;
    use proptest::prelude::*;

    const AGENT: &str = "91440300708461136T/night";

    fn full() -> Leaf {
        let agent: AgentId = AGENT.parse().unwrap();
        Leaf {
            what: Some("w".repeat(WHAT_CHARS_MAX)),
            subject: Some("S".repeat(SUBJECT_CHARS_MAX)),
            agency: Some(agent.agency),
            agent: Some(agent),
            entry: Some(EntryId::from_bits(u128::MAX)),
            application: Some(ApplicationId::from_bits(u128::MAX)),
            grant: Some(GrantId::from_bits(u128::MAX)),
            transfer: Some(TransferId::from_bits(u128::MAX)),
            document: Some(DocumentId::from_bits(u128::MAX)),
            document_digest: Some(Digest::blake3(b"")),
            count: Some(u64::MAX),
            bytes: Some(u64::MAX),
            ..Leaf::new(LeafKind::VersionCommitted, Timestamp(i64::MIN), commitment(b"salt", b"payload"))
        }
    }

    #[test]
    fn the_encoding_is_this_text() {
        let leaf = Leaf {
            what: Some("columns_outside_scope".into()),
            count: Some(3),
            ..Leaf::new(LeafKind::Denied, Timestamp(5), commitment(b"", b""))
        };
        let text = r#"{"kind":"denied","at":5,"what":"columns_outside_scope","count":3,"commitment":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}"#;
        assert_eq!(String::from_utf8(leaf.encode().unwrap()).unwrap(), text);
        assert_eq!(Leaf::decode(text.as_bytes()), Ok(leaf));
    }

    #[test]
    fn the_longest_leaf_is_well_within_its_bound() {
        let bytes = full().encode().unwrap();
        assert!(bytes.len() < LEAF_BYTES_MAX / 3, "{}", bytes.len());
        assert_eq!(Leaf::decode(&bytes), Ok(full()));
    }

    #[test]
    fn other_words_for_a_leaf_are_refused() {
        let text =
            String::from_utf8(Leaf::new(LeafKind::Cut, Timestamp(5), commitment(b"", b"")).encode().unwrap()).unwrap();
        for edited in [
            text.replace(",\"at\"", ", \"at\""),
            text.replace(",\"commitment\"", ",\"what\":null,\"commitment\""),
            text.replace("cut", "\\u0063ut"),
        ] {
            assert_eq!(Leaf::decode(edited.as_bytes()), Err(LeafError::NotCanonical), "{edited}");
        }
        for edited in [
            text.replace("cut", "cat"),
            text.replace(",\"at\":5", ",\"at\":5,\"at\":5"),
            text.replace(",\"at\":5", ",\"at\":5,\"extra\":5"),
            text.replace(",\"at\":5", ",\"at\":5,\"agent\":\"x\""),
            text.replace(",\"at\":5", ",\"at\":5,\"what\":\"A B\""),
            text.replace(",\"at\":5", ",\"at\":5,\"subject\":\"张三\""),
        ] {
            assert!(matches!(Leaf::decode(edited.as_bytes()), Err(LeafError::Malformed(_))), "{edited}");
        }
    }

    proptest! {
        #[test]
        fn every_leaf_round_trips(
            at: i64, what in of("[a-z0-9._-]{1,64}"), entry in of(any::<u128>()), grant in of(any::<u128>()),
            count in of(any::<u64>()), bytes in of(any::<u64>()), salt: [u8; 32], named: bool,
        ) {
            let leaf = Leaf {
                what, count, bytes,
                agent: named.then(|| AGENT.parse().unwrap()),
                entry: entry.map(EntryId::from_bits),
                grant: grant.map(GrantId::from_bits),
                ..Leaf::new(LeafKind::Permit, Timestamp(at), commitment(&salt, b"x"))
            };
            prop_assert_eq!(Leaf::decode(&leaf.encode().unwrap()), Ok(leaf));
        }

        #[test]
        fn what_decodes_encodes_to_itself(bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>()) {
            let _ = Leaf::decode(&bytes);
            let mut edited = full().encode().unwrap();
            let at = at.index(edited.len());
            edited[at] = bytes.first().copied().unwrap_or(b'0');
            if let Ok(leaf) = Leaf::decode(&edited) {
                prop_assert_eq!(leaf.encode().unwrap(), edited);
            }
        }
    }
}
