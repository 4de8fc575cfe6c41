//! Chains of certificates as files, and what stands in one certificate.

use crate::os;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lingqu_protocol::host::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::io;
use std::path::Path;

/// Bytes of a file of certificates: two of ours take under 2,000.
const CERTIFICATE_FILE_BYTES_MAX: u64 = 64 * 1024;

/// How far a certificate's beginning lies before its making, for a peer whose clock is behind.
const BACKDATE_MS: i64 = 5 * 60 * 1000;

/// From when to when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub from: Timestamp,
    /// Last moment.
    pub until: Timestamp,
}

impl Validity {
    /// From now (less what a peer's clock may be behind) for `valid_ms`.
    pub fn starting(now: Timestamp, valid_ms: i64) -> Self {
        Self { from: now.plus_ms(-BACKDATE_MS), until: now.plus_ms(valid_ms) }
    }

    /// When to renew: at two thirds, so that a third is left for a machine that is off or a gateway that is away.
    pub fn renewal_due_at(&self) -> Timestamp {
        self.until.plus_ms(-(self.until.0.saturating_sub(self.from.0) / 3))
    }
}

/// Why a file gave no certificates.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// It could not be read.
    #[error("reading {file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// It holds none, or a damaged one.
    #[error("{0} does not hold certificates (PEM): restore it from its backup, or renew")]
    NotACertificate(String),
}

/// Certificates in PEM, first to last.
pub fn to_pem(chain: &[CertificateDer<'_>]) -> String {
    let mut pem = String::new();
    for certificate in chain {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(certificate);
        for line in text.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

/// The certificates in a PEM text, at least one; `None` where a block is damaged or there is none.
pub fn from_pem(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!chain.is_empty()).then_some(chain)
}

/// Reads a file of certificates.
///
/// # Errors
/// When it cannot be read or holds none.
pub fn load(path: &Path) -> Result<Vec<CertificateDer<'static>>, ChainError> {
    let file = path.display().to_string();
    let pem = os::read_bounded(path, CERTIFICATE_FILE_BYTES_MAX)
        .map_err(|source| ChainError::Io { file: file.clone(), source })?;
    from_pem(&pem).ok_or(ChainError::NotACertificate(file))
}

/// The raw Ed25519 key that a certificate carries; `None` for another algorithm or junk.
pub fn public_key(certificate: &[u8]) -> Option<[u8; 32]> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let spki = parsed.public_key();
    if spki.algorithm.algorithm != x509_parser::oid_registry::OID_SIG_ED25519 {
        return None;
    }
    spki.subject_public_key.data.as_ref().try_into().ok()
}

/// From when to when a certificate says that it is good; `None` for junk.
pub fn validity(certificate: &[u8]) -> Option<Validity> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let at = |seconds: i64| Timestamp(seconds.saturating_mul(1000));
    let (from, until) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    Some(Validity { from: at(from), until: at(until) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::ca::self_signed;
    use crate::key::SigningKey;
    use crate::os::OsEntropy;
    use proptest::prelude::*;

    fn certificate(seed: u8) -> CertificateDer<'static> {
        let key = SigningKey::from_seed([seed; 32]).unwrap();
        self_signed(&key, Validity::starting(Timestamp(1_800_000_000_000), 1000), &OsEntropy::new()).unwrap()
    }

    #[test]
    fn pem_round_trips_and_a_damaged_block_is_none() {
        let chain = vec![certificate(1), certificate(2)];
        let pem = to_pem(&chain);
        assert_eq!(from_pem(pem.as_bytes()).unwrap(), chain);
        assert_eq!(from_pem(b""), None);
        assert_eq!(from_pem(&pem.as_bytes()[..pem.len() - 40]), None);
    }

    #[test]
    fn the_key_is_the_one_that_was_certified() {
        let key = SigningKey::from_seed([1; 32]).unwrap();
        assert_eq!(public_key(&certificate(1)), Some(*key.public().as_bytes()));
        let other = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
        assert_eq!(public_key(other.cert.der()), None, "not Ed25519");
    }

    #[test]
    fn a_third_of_the_time_is_left_to_renew_in() {
        let validity = Validity { from: Timestamp(1000), until: Timestamp(31_000) };
        assert_eq!(validity.renewal_due_at(), Timestamp(21_000));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, at in 0usize..400, to: u8) {
            let _ = (public_key(&bytes), from_pem(&bytes));
            let mut bent = certificate(1).to_vec();
            if let Some(byte) = bent.get_mut(at) {
                *byte = to;
            }
            let _ = public_key(&bent);
        }
    }
}
