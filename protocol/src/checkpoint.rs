//! Checkpoints: a ledger's size and root as text (C2SP tlog-checkpoint) under a signature (C2SP signed-note, Ed25519).
//!
//! Goals: text that other tools for transparency logs read; the same checkpoint has the same bytes every time, because
//! nothing in it but size and root differs and Ed25519 is deterministic. Non-goals: witnesses' cosignatures are carried
//! along and not judged.

use crate::ids::GatewayId;
use crate::merkle::Hash;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Bytes of a signed checkpoint: three short lines, and room for a dozen witnesses.
pub const NOTE_BYTES_MAX: usize = 8 * 1024;

/// Bytes of an origin, which is also the key's name: a domain name, a slash and a gateway's id.
pub const ORIGIN_BYTES_MAX: usize = 300;

/// C2SP signed-note's id of Ed25519. SM2 will have one of its own.
const ED25519_TYPE: u8 = 1;

/// What a signature line begins with.
const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// Makes Ed25519 signatures with a key that is kept elsewhere.
pub trait Signer: Send + Sync + 'static {
    /// The public key's 32 bytes.
    fn public_key(&self) -> [u8; 32];
    /// The signature over `message`. Signing twice gives the same bytes.
    ///
    /// # Errors
    /// Why the key could not be used, for the operator.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], String>;
}

/// A size of a ledger and its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which ledger: see [`origin`].
    pub origin: String,
    /// Leaves.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

/// A key that signs checkpoints, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteKey {
    /// Its name: the origin of the ledger whose checkpoints it signs.
    pub name: String,
    /// Its 32 bytes.
    pub public: [u8; 32],
}

/// Why a text is not a checkpoint that can be trusted. Whoever gave it is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not a signed note with a checkpoint in it.
    #[error("not a checkpoint: {0}")]
    Malformed(&'static str),
    /// No signature line is by the key.
    #[error("the checkpoint is not signed by the expected key")]
    OtherKey,
    /// A line says it is by the key, and its signature is wrong.
    #[error("the checkpoint's signature is wrong")]
    BadSignature,
    /// The checkpoint is of another ledger than the key's.
    #[error("the checkpoint is of another ledger")]
    OtherOrigin,
}

/// The name of a gateway's ledger and of the key that signs its checkpoints.
pub fn origin(domain: &str, gateway: GatewayId) -> String {
    format!("gateway.{domain}/{gateway}")
}

impl NoteKey {
    /// The four bytes that a signature line names the key by.
    pub fn hash(&self) -> [u8; 4] {
        let bytes = [self.name.as_bytes(), b"\n", &[ED25519_TYPE], &self.public].concat();
        let [a, b, c, d, ..] = crate::digest::Digest::sha256(&bytes).bytes;
        [a, b, c, d]
    }

    fn verifies(&self, message: &str, signature: &[u8]) -> bool {
        let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, &self.public);
        key.verify(message.as_bytes(), signature).is_ok()
    }
}

impl Checkpoint {
    /// The text that is signed: origin, size and root, a line each.
    pub fn body(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// The signed note.
    ///
    /// # Errors
    /// The signer's, for the operator.
    pub fn sign(&self, signer: &dyn Signer) -> Result<String, String> {
        let body = self.body();
        let key = NoteKey { name: self.origin.clone(), public: signer.public_key() };
        let signature = signer.sign(body.as_bytes())?;
        let line = STANDARD.encode([&key.hash()[..], &signature].concat());
        Ok(format!("{body}\n{SIGNATURE_PREFIX}{} {line}\n", key.name))
    }

    /// Reads a signed note and checks the signature of `key`, whose name is the ledger's. Signatures of others are passed
    /// over, and so are lines of the checkpoint after the third, as C2SP says.
    ///
    /// # Errors
    /// Why it cannot be trusted.
    pub fn verify(note: &str, key: &NoteKey) -> Result<Self, CheckpointError> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(CheckpointError::Malformed("it is too long"));
        }
        if note.chars().any(|c| c.is_control() && c != '\n') {
            return Err(CheckpointError::Malformed("it has control characters"));
        }
        let split = note.rfind("\n\n").ok_or(CheckpointError::Malformed("there is no signature"))?;
        let (body, rest) = note.split_at(split + 1);
        let signatures = rest
            .strip_prefix('\n')
            .and_then(|lines| lines.strip_suffix('\n'))
            .ok_or(CheckpointError::Malformed("it does not end in a signature line"))?;
        let mut signed = false;
        for line in signatures.split('\n') {
            let (name, bytes) = signature_line(line).ok_or(CheckpointError::Malformed("a signature line is wrong"))?;
            if let Some(signature) = bytes.strip_prefix(&key.hash()).filter(|_| name == key.name) {
                if !key.verifies(body, signature) {
                    return Err(CheckpointError::BadSignature);
                }
                signed = true;
            }
        }
        if !signed {
            return Err(CheckpointError::OtherKey);
        }
        let checkpoint = Self::parse_body(body)?;
        if checkpoint.origin == key.name { Ok(checkpoint) } else { Err(CheckpointError::OtherOrigin) }
    }

    /// Reads a signed note without looking who signed it: for a size that says no more than where a proof should begin.
    ///
    /// # Errors
    /// Where it is none.
    pub fn unverified(note: &str) -> Result<Self, CheckpointError> {
        let end = note.rfind("\n\n").ok_or(CheckpointError::Malformed("there is no signature"))?;
        Self::parse_body(note.get(..=end).unwrap_or_default())
    }

    /// Reads the signed text alone. Nothing is checked but its form.
    fn parse_body(body: &str) -> Result<Self, CheckpointError> {
        let mut lines = body.split('\n');
        let mut next = |what| lines.next().filter(|l| !l.is_empty()).ok_or(CheckpointError::Malformed(what));
        let origin = next("the origin is missing")?;
        let size = next("the size is missing")?;
        let root = next("the root is missing")?;
        if origin.len() > ORIGIN_BYTES_MAX {
            return Err(CheckpointError::Malformed("the origin is too long"));
        }
        let number: u64 = size.parse().map_err(|_| CheckpointError::Malformed("the size is no number"))?;
        if number.to_string() != size {
            return Err(CheckpointError::Malformed("the size is not written plainly"));
        }
        let root = STANDARD
            .decode(root)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(CheckpointError::Malformed("the root is not 32 bytes in base64"))?;
        Ok(Self { origin: origin.to_owned(), size: number, root })
    }
}

/// `— NAME BASE64`: the name, and the key's hash with the signature after it.
fn signature_line(line: &str) -> Option<(&str, Vec<u8>)> {
    let (name, text) = line.strip_prefix(SIGNATURE_PREFIX)?.split_once(' ')?;
    let bytes = STANDARD.decode(text).ok()?;
    (!name.is_empty() && bytes.len() > 4).then_some((name, bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    /// A signer from a seed.
    pub(crate) struct Seeded(Ed25519KeyPair);

    impl Seeded {
        pub(crate) fn new(seed: u8) -> Self {
            Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
        }
        pub(crate) fn key(&self, name: &str) -> NoteKey {
            NoteKey { name: name.into(), public: self.public_key() }
        }
    }

    impl Signer for Seeded {
        fn public_key(&self) -> [u8; 32] {
            self.0.public_key().as_ref().try_into().unwrap()
        }
        fn sign(&self, message: &[u8]) -> Result<[u8; 64], String> {
            Ok(self.0.sign(message).as_ref().try_into().unwrap())
        }
    }

    const NAME: &str = "gateway.example/ledger";

    fn checkpoint(size: u64) -> Checkpoint {
        Checkpoint { origin: NAME.into(), size, root: [0xab; 32] }
    }

    #[test]
    fn the_published_note_verifies() {
        // golang.org/x/mod/sumdb/note: PeterNeumann's key and its signed text.
        let key = NoteKey {
            name: "PeterNeumann".into(),
            public: STANDARD.decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW").unwrap()[1..].try_into().unwrap(),
        };
        assert_eq!(key.hash(), [0xc7, 0x4f, 0x20, 0xa3]);
        let text =
            "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
        let line = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";
        let (_, bytes) = signature_line(&format!("{SIGNATURE_PREFIX}PeterNeumann {line}")).unwrap();
        assert_eq!(bytes[..4], key.hash());
        assert!(key.verifies(text, &bytes[4..]));
    }

    #[test]
    fn the_text_is_that_of_c2sp_and_is_the_same_every_time() {
        let signer = Seeded::new(1);
        let note = checkpoint(42).sign(&signer).unwrap();
        let root = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=";
        assert!(note.starts_with(&format!("{NAME}\n42\n{root}\n\n\u{2014} {NAME} ")), "{note}");
        assert_eq!(checkpoint(42).sign(&signer).unwrap(), note);
        assert_eq!(Checkpoint::verify(&note, &signer.key(NAME)), Ok(checkpoint(42)));
    }

    #[test]
    fn other_keys_and_other_ledgers_are_told_apart() {
        let (ours, other) = (Seeded::new(1), Seeded::new(2));
        let note = checkpoint(7).sign(&ours).unwrap();
        assert_eq!(Checkpoint::verify(&note, &other.key(NAME)), Err(CheckpointError::OtherKey));
        assert_eq!(Checkpoint::verify(&note, &ours.key("other")), Err(CheckpointError::OtherKey));
        let edited = note.replacen("\n7\n", "\n8\n", 1);
        assert_eq!(Checkpoint::verify(&edited, &ours.key(NAME)), Err(CheckpointError::BadSignature));
        // A good signature by our key over a checkpoint that says it is another ledger's.
        let foreign = Checkpoint { origin: "elsewhere".into(), ..checkpoint(7) };
        let body = foreign.body();
        let bytes = [&ours.key(NAME).hash()[..], &ours.sign(body.as_bytes()).unwrap()].concat();
        let note = format!("{body}\n\u{2014} {NAME} {}\n", STANDARD.encode(bytes));
        assert_eq!(Checkpoint::verify(&note, &ours.key(NAME)), Err(CheckpointError::OtherOrigin));
    }

    #[test]
    fn witnesses_and_later_lines_are_passed_over() {
        let signer = Seeded::new(1);
        let body = format!("{}extension\n", checkpoint(7).body());
        let bytes = [&signer.key(NAME).hash()[..], &signer.sign(body.as_bytes()).unwrap()].concat();
        let witness = STANDARD.encode([7; 76]);
        let note = format!("{body}\n\u{2014} witness {witness}\n\u{2014} {NAME} {}\n", STANDARD.encode(bytes));
        assert_eq!(Checkpoint::verify(&note, &signer.key(NAME)), Ok(checkpoint(7)));
    }

    #[test]
    fn malformed_notes_are_refused() {
        let signer = Seeded::new(1);
        let good = checkpoint(7).sign(&signer).unwrap();
        for bad in [
            String::new(),
            good.trim_end().to_owned(),
            good.replace("\n\n", "\n"),
            good.replace('\u{2014}', "-"),
            format!("{good}\n"),
            format!("{good}x\n"),
            format!("\u{7}{good}"),
            "x".repeat(NOTE_BYTES_MAX + 1),
        ] {
            let found = Checkpoint::verify(&bad, &signer.key(NAME));
            assert!(matches!(found, Err(CheckpointError::Malformed(_))), "{bad:?}: {found:?}");
        }
        for body in ["", "a\n", "a\n1\n", "a\n01\nAA==\n", "a\n-1\nAA==\n", "a\n1\nAA==\n"] {
            assert!(matches!(Checkpoint::parse_body(body), Err(CheckpointError::Malformed(_))), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn every_checkpoint_round_trips(size: u64, root: Hash, seed: u8) {
            let signer = Seeded::new(seed);
            let checkpoint = Checkpoint { origin: NAME.into(), size, root };
            let note = checkpoint.sign(&signer).unwrap();
            prop_assert_eq!(Checkpoint::verify(&note, &signer.key(NAME)), Ok(checkpoint));
        }

        #[test]
        fn no_byte_of_a_note_can_change(at in any::<prop::sample::Index>(), to in "[ -~\n]") {
            let signer = Seeded::new(1);
            let note = checkpoint(123_456).sign(&signer).unwrap();
            let at = at.index(note.len());
            prop_assume!(note.is_char_boundary(at) && note.is_char_boundary(at + 1) && note[at..=at] != to);
            let mut edited = note.clone();
            edited.replace_range(at..=at, &to);
            prop_assert!(Checkpoint::verify(&edited, &signer.key(NAME)).is_err());
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,200}(\n\n\u{2014} \\PC{0,50}\n)?") {
            let _ = Checkpoint::verify(&text, &Seeded::new(1).key(NAME));
        }
    }
}
