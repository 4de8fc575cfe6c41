//! An invitation: one line that lets one machine join once. It says where the gateway is, which CA it must prove to be
//! under, and carries the seed of a key that the gateway accepts while the invitation is open. It is a secret.

use crate::ca::{CaError, Validity, self_signed};
use crate::key::{KeyError, SigningKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lingqu_protocol::digest::{Algorithm, Digest};
use lingqu_protocol::host::{Entropy, Timestamp};
use rustls::pki_types::CertificateDer;
use std::fmt;
use std::io;
use std::str::FromStr;

/// What the line begins with; another form gets another number.
const PREFIX: &str = "lingqu-invite-1:";

/// Algorithm of the seed's key, as a byte: Ed25519.
const KEY_ED25519: u8 = 1;

/// Algorithm of the CA's digest, as a byte: SHA-256.
const DIGEST_SHA256: u8 = 1;

/// Bytes of the checksum: enough to catch a slip of the hand or a cut line; it guards against nobody.
const CHECKSUM_BYTES: usize = 4;

/// Bytes of an address or a domain: each has its length in one byte, and DNS names end at 253.
const TEXT_BYTES_MAX: usize = 255;

/// Characters of a line: two texts, digest, seed and checksum in base64, with room.
const LINE_CHARS_MAX: usize = 1024;

/// How long the joiner's own certificate says it lives. The gateway asks the invitation, not this.
const CERTIFICATE_VALID_MS: i64 = 24 * 60 * 60 * 1000;

/// An invitation. Its `Debug` leaves the seed out; its `Display` is the line itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Where to dial: `host:port`.
    pub address: String,
    /// The gateway's domain.
    pub domain: String,
    /// SHA-256 of the certificate of the gateway's CA.
    pub ca: Digest,
    seed: [u8; 32],
}

/// A line that is not an invitation; whoever copied it should copy it again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadInvitation {
    /// Another beginning.
    #[error("not an invitation: it begins with {PREFIX}; copy the whole line that the operator printed")]
    Prefix,
    /// Cut, or changed on the way.
    #[error("the invitation is damaged (its checksum differs): copy the whole line again")]
    Damaged,
    /// From another version, or too long.
    #[error("the invitation cannot be read: {0}")]
    Unreadable(&'static str),
}

impl Invitation {
    /// A new one.
    ///
    /// # Errors
    /// When the entropy fails, or a text is longer than an invitation holds (`InvalidInput`).
    pub fn new(address: &str, domain: &str, ca: Digest, entropy: &dyn Entropy) -> io::Result<Self> {
        if address.len() > TEXT_BYTES_MAX || domain.len() > TEXT_BYTES_MAX || ca.algorithm != Algorithm::Sha256 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "an address, domain or digest no invitation holds",
            ));
        }
        let mut seed = [0; 32];
        entropy.fill(&mut seed)?;
        Ok(Self { address: address.to_owned(), domain: domain.to_owned(), ca, seed })
    }

    /// Its key. The gateway keeps the public half and forgets the rest.
    ///
    /// # Errors
    /// None is known.
    pub fn key(&self) -> Result<SigningKey, KeyError> {
        SigningKey::from_seed(self.seed)
    }

    /// The self-signed certificate that a joiner presents.
    ///
    /// # Errors
    /// When the clock is out of any certificate's range, or the entropy fails.
    pub fn certificate(&self, now: Timestamp, entropy: &dyn Entropy) -> Result<CertificateDer<'static>, CaError> {
        self_signed(&self.key()?, Validity::starting(now, CERTIFICATE_VALID_MS), entropy)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![KEY_ED25519];
        bytes.extend_from_slice(&self.seed);
        bytes.push(DIGEST_SHA256);
        bytes.extend_from_slice(&self.ca.bytes);
        for text in [&self.address, &self.domain] {
            // `new` and `from_str` hold both below 256.
            bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
            bytes.extend_from_slice(text.as_bytes());
        }
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }
}

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.bytes()))
    }
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, domain, ca, seed: _ } = self;
        f.debug_struct("Invitation")
            .field("address", address)
            .field("domain", domain)
            .field("ca", ca)
            .finish_non_exhaustive()
    }
}

impl FromStr for Invitation {
    type Err = BadInvitation;
    fn from_str(line: &str) -> Result<Self, BadInvitation> {
        let body = line.trim().strip_prefix(PREFIX).ok_or(BadInvitation::Prefix)?;
        if body.len() > LINE_CHARS_MAX {
            return Err(BadInvitation::Unreadable("it is too long"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| BadInvitation::Damaged)?;
        let (content, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(BadInvitation::Damaged)?;
        if checksum(content) != *sum {
            return Err(BadInvitation::Damaged);
        }
        let cut = BadInvitation::Unreadable("it ends too early");
        let (&[key_algorithm], rest) = content.split_first_chunk().ok_or(cut.clone())?;
        let (&seed, rest) = rest.split_first_chunk::<32>().ok_or(cut.clone())?;
        let (&[digest_algorithm], rest) = rest.split_first_chunk().ok_or(cut.clone())?;
        let (&ca, rest) = rest.split_first_chunk::<32>().ok_or(cut.clone())?;
        if key_algorithm != KEY_ED25519 || digest_algorithm != DIGEST_SHA256 {
            return Err(BadInvitation::Unreadable("it uses an algorithm that this version does not have"));
        }
        let (address, rest) = text(rest)?;
        let (domain, rest) = text(rest)?;
        if !rest.is_empty() {
            return Err(BadInvitation::Unreadable("something follows it"));
        }
        Ok(Self { address, domain, ca: Digest { algorithm: Algorithm::Sha256, bytes: ca }, seed })
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Digest::sha256(bytes).bytes;
    [digest[0], digest[1], digest[2], digest[3]]
}

/// A text behind its length.
fn text(bytes: &[u8]) -> Result<(String, &[u8]), BadInvitation> {
    let cut = || BadInvitation::Unreadable("it ends too early");
    let (&len, rest) = bytes.split_first().ok_or_else(cut)?;
    let (text, rest) = rest.split_at_checked(len.into()).ok_or_else(cut)?;
    let text = std::str::from_utf8(text).map_err(|_| BadInvitation::Unreadable("a name in it is not text"))?;
    Ok((text.to_owned(), rest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::chain;
    use crate::os::OsEntropy;
    use proptest::prelude::*;

    fn invitation() -> Invitation {
        let ca = Digest::sha256(b"ca");
        Invitation::new("gw.example.gov.cn:4433", "example.gov.cn", ca, &OsEntropy::new()).unwrap()
    }

    #[test]
    fn the_certificate_is_on_the_seeds_key() {
        let invitation = invitation();
        let certificate = invitation.certificate(Timestamp(1_800_000_000_000), &OsEntropy::new()).unwrap();
        let key = invitation.key().unwrap().public();
        assert_eq!(chain::public_key(&certificate), Some(*key.as_bytes()));
        assert_eq!(invitation.to_string().parse::<Invitation>().unwrap().key().unwrap().public(), key);
    }

    #[test]
    fn every_slip_of_one_character_is_seen() {
        let line = invitation().to_string();
        assert!(line.is_ascii() && !line.contains(char::is_whitespace));
        for i in 0..line.len() {
            let mut bytes = line.clone().into_bytes();
            bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
            assert!(String::from_utf8(bytes).unwrap().parse::<Invitation>().is_err(), "character {i}");
            assert!(line[..i].parse::<Invitation>().is_err(), "cut at {i}");
        }
        assert_eq!(format!("  {line}\n").parse::<Invitation>().unwrap().to_string(), line);
    }

    #[test]
    fn nobody_sees_the_seed_in_a_log() {
        let invitation = invitation();
        let hex = lingqu_protocol::digest::to_hex(&invitation.seed);
        let debug = format!("{invitation:?}");
        assert!(!debug.contains(&hex) && !debug.contains("seed"), "{debug}");
    }

    #[test]
    fn what_does_not_fit_is_not_made() {
        let ca = Digest::sha256(b"ca");
        let made = |address: &str, ca| Invitation::new(address, "d", ca, &OsEntropy::new());
        assert!(made(&"a".repeat(255), ca).unwrap().to_string().parse::<Invitation>().is_ok());
        assert!(made(&"a".repeat(256), ca).is_err());
        assert!(made("a", Digest::blake3(b"ca")).is_err());
    }

    proptest! {
        #[test]
        fn the_line_round_trips(address in ".{0,60}", domain in ".{0,60}", ca: [u8; 32], seed: [u8; 32]) {
            let ca = Digest { algorithm: Algorithm::Sha256, bytes: ca };
            let invitation = Invitation { address, domain, ca, seed };
            prop_assert_eq!(invitation.to_string().parse(), Ok(invitation));
        }

        #[test]
        fn no_line_panics(bytes: Vec<u8>, text in ".{0,80}") {
            let mut sealed = bytes.clone();
            sealed.extend_from_slice(&checksum(&bytes));
            let _ = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(sealed)).parse::<Invitation>();
            let _ = format!("{PREFIX}{text}").parse::<Invitation>();
        }
    }
}
