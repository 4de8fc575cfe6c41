//! Pseudonyms: HMAC-SHA-256 under a key of the permission, cut to 128 bits. The keys follow from one secret of the gateway,
//! which never leaves it, so the same value has the same pseudonym in every pull and version under one permission, and
//! pseudonyms under two have nothing in common for anyone without the secret.

use super::error::FlowError;
use crate::gate::Under;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lingqu_certs::os;
use lingqu_protocol::digest::{from_hex, to_hex};
use lingqu_protocol::host::Entropy;
use ring::{hkdf, hmac};
use std::io;
use std::path::Path;

/// Characters of a pseudonym: 128 bits in base64url.
pub const PSEUDONYM_CHARS: usize = 22;

/// Bytes of the secret.
const SECRET_BYTES: usize = 32;

/// Bytes of the secret's file: its head, 64 digits and a line end.
const FILE_BYTES_MAX: u64 = 256;

/// What the secret's file begins with.
const FILE_HEAD: &str = "lingqu-pseudonym-secret-1:";

/// What keys are made for: no other key is made from the same bytes.
const KEY_INFO: &[u8] = b"lingqu pseudonym key v1 ";

/// What the secret is named by, without telling it.
const ID_INFO: &[u8] = b"lingqu pseudonym secret id v1";

/// The gateway's secret. Its `Debug` shows its name alone.
pub struct PseudonymSecret {
    bytes: [u8; SECRET_BYTES],
}

impl std::fmt::Debug for PseudonymSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PseudonymSecret({})", self.id())
    }
}

impl PseudonymSecret {
    /// A new one.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate(entropy: &dyn Entropy) -> io::Result<Self> {
        let mut bytes = [0; SECRET_BYTES];
        entropy.fill(&mut bytes)?;
        Ok(Self { bytes })
    }

    /// Reads its file; `None` where there is none.
    ///
    /// # Errors
    /// What the system says; `InvalidData` where the file holds something else.
    pub fn load(path: &Path) -> io::Result<Option<Self>> {
        let text = match os::read_bounded(path, FILE_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let text = String::from_utf8_lossy(&text);
        let bytes = text.trim_end().strip_prefix(FILE_HEAD).and_then(from_hex);
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "no secret of pseudonyms: restore it from the backup");
        bytes.map(|bytes| Some(Self { bytes })).ok_or_else(bad)
    }

    /// Writes its file, which only its owner may read; never over one that is there.
    ///
    /// # Errors
    /// What the system says.
    pub fn save_new(&self, path: &Path) -> io::Result<()> {
        os::create_secret(path, format!("{FILE_HEAD}{}\n", to_hex(&self.bytes)).as_bytes())
    }

    /// Its name: tells two secrets apart and nothing of either.
    pub fn id(&self) -> String {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.bytes), ID_INFO);
        to_hex(tag.as_ref().first_chunk::<16>().map_or(&[], |id| &id[..]))
    }

    /// The key of a permission.
    ///
    /// # Errors
    /// The library refuses to expand the secret: none is known for one key's length.
    pub fn key(&self, under: Under) -> Result<PseudonymKey, FlowError> {
        let secret = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &self.bytes);
        let Under::Grant(grant) = under;
        let name = format!("grant {grant}");
        let info = [KEY_INFO, name.as_bytes()];
        let key = secret.expand(&info, hmac::HMAC_SHA256);
        let refused = |_| FlowError::Machine("a key for pseudonyms could not be made".into());
        Ok(PseudonymKey(key.map_err(refused)?.into()))
    }
}

/// The key of one permission.
#[derive(Clone)]
pub struct PseudonymKey(hmac::Key);

impl PseudonymKey {
    /// The pseudonym of a text. That of the empty text is like any other: it tells that two values are both empty.
    pub fn text(&self, value: &str) -> [u8; PSEUDONYM_CHARS] {
        self.of(b's', value.as_bytes())
    }

    /// The pseudonym of a whole number, whatever its width; never that of a text with the same digits.
    pub fn number(&self, value: i64) -> [u8; PSEUDONYM_CHARS] {
        self.of(b'i', &value.to_be_bytes())
    }

    fn of(&self, tag: u8, value: &[u8]) -> [u8; PSEUDONYM_CHARS] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&[tag]);
        context.update(value);
        let full = context.sign();
        let mut text = [b'A'; PSEUDONYM_CHARS];
        let cut = full.as_ref().first_chunk::<16>().copied().unwrap_or_default();
        // 16 bytes are always 22 characters.
        let _written = URL_SAFE_NO_PAD.encode_slice(cut, &mut text);
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use lingqu_certs::os::OsEntropy;
    use lingqu_protocol::ids::GrantId;
    use std::os::unix::fs::PermissionsExt as _;

    fn secret(byte: u8) -> PseudonymSecret {
        PseudonymSecret { bytes: [byte; SECRET_BYTES] }
    }

    fn text(bytes: [u8; PSEUDONYM_CHARS]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn the_same_value_under_the_same_grant_is_the_same_and_nothing_else_is() {
        let under = |bits| Under::Grant(GrantId::from_bits(bits));
        let key = secret(7).key(under(1)).unwrap();
        let mut seen = std::collections::HashSet::new();
        for value in ["", "a", "A", "4", "张三", "张三 "] {
            assert_eq!(text(key.text(value)), text(secret(7).key(under(1)).unwrap().text(value)));
            for other in [
                key.text(value),
                secret(7).key(under(2)).unwrap().text(value),
                secret(8).key(under(1)).unwrap().text(value),
            ] {
                assert!(seen.insert(text(other)), "{value:?}");
            }
        }
        for number in [0, 4, -4, i64::MIN] {
            assert!(seen.insert(text(key.number(number))), "{number}");
        }
        assert!(
            seen.iter().all(|p| p.len() == 22 && p.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)))
        );
    }

    /// The vector of docs/PROTOCOL.md: whoever holds the secret can make the same again with any HMAC.
    #[test]
    fn the_documented_vector_holds() {
        let key = secret(0).key(Under::Grant(GrantId::from_bits(0))).unwrap();
        let expand = |info: &[u8]| {
            let mut input = info.to_vec();
            input.push(1);
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[0; SECRET_BYTES]), &input)
        };
        let name = format!("lingqu pseudonym key v1 grant {}", GrantId::from_bits(0));
        let by_hand = hmac::Key::new(hmac::HMAC_SHA256, expand(name.as_bytes()).as_ref());
        let tag = hmac::sign(&by_hand, "s张三".as_bytes());
        assert_eq!(text(key.text("张三")), URL_SAFE_NO_PAD.encode(&tag.as_ref()[..16]));
    }

    #[test]
    fn the_file_is_the_owners_and_is_not_made_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pseudonym.key");
        assert!(PseudonymSecret::load(&path).unwrap().is_none());
        let made = PseudonymSecret::generate(&OsEntropy::new()).unwrap();
        made.save_new(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = PseudonymSecret::load(&path).unwrap().unwrap();
        assert_eq!((read.bytes, read.id()), (made.bytes, made.id()));
        assert!(made.save_new(&path).is_err());
        assert!(!format!("{read:?}").contains(&to_hex(&read.bytes)));
        for bad in ["", "lingqu-pseudonym-secret-1:00", "x"] {
            std::fs::write(&path, bad).unwrap();
            assert!(PseudonymSecret::load(&path).is_err(), "{bad}");
        }
    }
}
