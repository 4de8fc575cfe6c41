//! Ed25519 keys: made from injected entropy, kept as PKCS#8 in PEM, named by a digest. Every text form carries the
//! algorithm's id, so that SM2 can join.

use crate::os;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lingqu_protocol::digest::{Digest, from_hex, to_hex};
use lingqu_protocol::host::Entropy;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

/// The algorithm's id on the wire and on disk.
pub const ED25519_ID: &str = "ed25519";

/// Bytes of a key file: a PEM block of an Ed25519 key has 119, and comments may stand around it.
const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;

/// What stands before the seed in a PKCS#8 v1 Ed25519 private key (RFC 8410): version, the algorithm's OID, two lengths.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// What went wrong with a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read or written, or the entropy failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path where there is one.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A key file without an Ed25519 key in PKCS#8.
    #[error("{0} does not hold an Ed25519 private key (PEM, PKCS#8): restore it from its owner's copy")]
    NotAPrivateKey(String),
    /// A text that is not a public key.
    #[error("not a public key: expected ed25519, a colon and 64 hexadecimal digits")]
    NotAPublicKey,
    /// A signature that this key did not make over these bytes.
    #[error("the signature is not this key's over these bytes")]
    BadSignature,
}

/// A private key that signs. Its `Debug` shows the public half alone.
pub struct SigningKey {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// When the entropy fails.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        entropy.fill(&mut seed).map_err(|source| KeyError::Io { what: "making a key".into(), source })?;
        Self::from_seed(seed)
    }

    /// The key that belongs to a seed of 32 bytes.
    ///
    /// # Errors
    /// None is known; a library that refuses the seed would be reported as not a private key.
    pub fn from_seed(seed: [u8; 32]) -> Result<Self, KeyError> {
        let pair =
            Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyError::NotAPrivateKey("the seed".into()))?;
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Ok(Self { seed, pair, public: PublicKey(public) })
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// When it cannot be read or holds no Ed25519 key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let pem = os::read_bounded(path, KEY_FILE_BYTES_MAX).map_err(io_error("reading", path))?;
        let bad = || KeyError::NotAPrivateKey(path.display().to_string());
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| bad())?;
        let (prefix, seed) = der.secret_pkcs8_der().split_at_checked(PKCS8_PREFIX.len()).ok_or_else(bad)?;
        if prefix != PKCS8_PREFIX {
            return Err(bad());
        }
        Self::from_seed(seed.try_into().map_err(|_| bad())?)
    }

    /// Saves it for its owner alone (0600), never over a file that is there.
    ///
    /// # Errors
    /// `AlreadyExists` inside `Io` where the name is taken, and what the system says.
    pub fn save_new(&self, path: &Path) -> Result<(), KeyError> {
        os::create_secret(path, self.to_pem().as_bytes()).map_err(io_error("saving the new key", path))
    }

    /// The key in `path`, made there first if there is none.
    ///
    /// # Errors
    /// As [`Self::load`] and [`Self::save_new`].
    pub fn load_or_create(path: &Path, entropy: &dyn Entropy) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let key = Self::generate(entropy)?;
        match key.save_new(path) {
            // Another process was first; its key is the one.
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            other => other.map(|()| key),
        }
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The 64 bytes of the signature over `message`.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    /// The private key in PKCS#8, for the TLS library.
    pub fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8()))
    }

    fn pkcs8(&self) -> Vec<u8> {
        [PKCS8_PREFIX.as_slice(), &self.seed].concat()
    }

    fn to_pem(&self) -> String {
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(self.pkcs8()))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public)
    }
}

impl rcgen::PublicKeyData for SigningKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for SigningKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Self::sign(self, message))
    }
}

/// A public key, written `ed25519:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// From the raw 32 bytes of an Ed25519 public key.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its name in envelopes: the SHA-256 of its text, so that the name covers the algorithm too.
    pub fn key_id(&self) -> Digest {
        Digest::sha256(self.to_string().as_bytes())
    }

    /// Checks a signature over `message`.
    ///
    /// # Errors
    /// `BadSignature`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), KeyError> {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).map_err(|_| KeyError::BadSignature)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ED25519_ID}:{}", to_hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let key = text
            .strip_prefix(ED25519_ID)
            .and_then(|rest| rest.strip_prefix(':'))
            .and_then(from_hex)
            .and_then(|bytes| Some(Self(bytes.try_into().ok()?)))
            .ok_or(KeyError::NotAPublicKey)?;
        // One key has one text, or two key ids would stand for it.
        if key.to_string() == text { Ok(key) } else { Err(KeyError::NotAPublicKey) }
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    let what = format!("{doing} {}", path.display());
    move |source| KeyError::Io { what, source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::os::OsEntropy;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_first_vector_of_rfc_8032_holds() {
        let seed = from_hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let key = SigningKey::from_seed(seed.try_into().unwrap()).unwrap();
        let public = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(key.public().to_string(), public);
        let signature = key.sign(b"");
        assert!(to_hex(&signature).starts_with("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"));
        assert!(key.public().verify(b"", &signature).is_ok());
    }

    #[test]
    fn a_saved_key_is_its_owners_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        let key = SigningKey::load_or_create(&path, &OsEntropy::new()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(SigningKey::load(&path).unwrap().public(), key.public());
        assert_eq!(SigningKey::load_or_create(&path, &OsEntropy::new()).unwrap().public(), key.public());
        assert!(matches!(key.save_new(&path), Err(KeyError::Io { .. })));
        assert!(!format!("{key:?}").contains(&to_hex(&key.seed)));
    }

    #[test]
    fn a_damaged_key_file_is_an_error_and_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        for bad in ["", "junk", "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n"] {
            std::fs::write(&path, bad).unwrap();
            let loaded = SigningKey::load_or_create(&path, &OsEntropy::new());
            assert!(matches!(loaded, Err(KeyError::NotAPrivateKey(_))), "{bad:?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), bad);
        }
    }

    proptest! {
        #[test]
        fn a_signature_is_one_keys_over_one_message(seed: [u8; 32], message: Vec<u8>, flip in 0usize..64) {
            let key = SigningKey::from_seed(seed).unwrap();
            let mut signature = key.sign(&message);
            prop_assert!(key.public().verify(&message, &signature).is_ok());
            let mut other = message.clone();
            other.push(0);
            prop_assert!(key.public().verify(&other, &signature).is_err());
            signature[flip] ^= 1;
            prop_assert!(key.public().verify(&message, &signature).is_err());
        }

        #[test]
        fn the_text_round_trips(bytes: [u8; 32]) {
            let key = PublicKey::from_bytes(bytes);
            prop_assert_eq!(key.to_string().parse::<PublicKey>().unwrap(), key);
            let upper = format!("ed25519:{}", to_hex(&bytes).to_uppercase());
            prop_assert_eq!(upper.parse::<PublicKey>().is_ok(), upper == key.to_string());
        }

        #[test]
        fn no_text_panics(text in ".{0,90}") {
            let _ = text.parse::<PublicKey>();
        }
    }
}
