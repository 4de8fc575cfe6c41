//! The gateway's own certificate authority. It says what an agent is called and nothing more; it signs two shapes of
//! leaf and no other: the gateway's (server) and an agent's (client).

pub use crate::chain::Validity;

use crate::chain::{self, ChainError};
use crate::key::{KeyError, SigningKey};
use crate::os;
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::host::{Entropy, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, ServerName};
use std::io;
use std::path::Path;
use std::time::Duration;

/// The CA's certificate within its folder.
pub const CA_CERTIFICATE_FILE: &str = "ca.pem";

/// The CA's key within its folder (0600).
pub const CA_KEY_FILE: &str = "ca.key";

/// How long a leaf lives unless said otherwise: short, for a stolen key ends with it, and long enough that a machine may
/// be off over a holiday.
pub const LEAF_VALID_MS: i64 = 30 * DAY_MS;

/// How long the CA lives: it is pinned by agents, and changing it means inviting them anew.
pub const CA_VALID_MS: i64 = 20 * 365 * DAY_MS;

/// Bytes of a signing request: one of ours takes under 400; it comes from outside.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// The last second that a certificate can name (9999-12-31T23:59:59Z).
const LAST_SECOND: i64 = 253_402_300_799;

pub(crate) const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// What went wrong at the CA.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The CA's files.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The CA's or the request's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The CA's certificate file.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The key in the folder is not the certificate's.
    #[error("the key and the certificate in {0} do not belong together: restore both from one backup")]
    KeysDiffer(String),
    /// The requester's fault.
    #[error("the signing request is refused: {0}")]
    BadRequest(String),
    /// A name that a certificate cannot hold; the caller's fault.
    #[error("{0:?} cannot stand in a certificate")]
    BadName(String),
    /// A time that a certificate cannot hold; the clock's fault.
    #[error("{0} cannot stand in a certificate: check the clock")]
    BadTime(Timestamp),
    /// The library refused.
    #[error("the certificate could not be made: {0}")]
    Library(String),
}

/// A certificate authority with its key.
#[derive(Debug)]
pub struct Authority {
    domain: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, SigningKey>,
}

impl Authority {
    /// Makes a CA for `domain` in a folder that has none.
    ///
    /// # Errors
    /// `AlreadyExists` inside where there is one, and what the system says. Where it failed half way, the key is there
    /// and the certificate is not; a later call goes on with that key.
    pub fn create(dir: &Path, domain: &str, now: Timestamp, entropy: &dyn Entropy) -> Result<Self, CaError> {
        // Agents' names are made of it, and it must not look like a part of one.
        let is_name = matches!(ServerName::try_from(server_name(domain)), Ok(ServerName::DnsName(_)));
        if !is_name || domain.is_empty() || domain.ends_with('.') {
            return Err(CaError::BadName(domain.to_owned()));
        }
        let certificate_file = dir.join(CA_CERTIFICATE_FILE);
        if certificate_file.exists() {
            let source = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(CaError::Io { what: format!("making a CA in {}", dir.display()), source });
        }
        let key = SigningKey::load_or_create(&dir.join(CA_KEY_FILE), entropy)?;
        let mut params = params(Validity::starting(now, CA_VALID_MS), &format!("Lingqu CA of {domain}"), entropy)?;
        // It signs leaves, never another CA.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(library)?;
        os::write_atomic(&certificate_file, certificate.pem().as_bytes())
            .map_err(|source| CaError::Io { what: format!("saving {}", certificate_file.display()), source })?;
        Self::new(domain, certificate.der().clone(), key)
    }

    /// Opens the CA in a folder.
    ///
    /// # Errors
    /// When a file is missing, is not what it should be, or the two do not belong together.
    pub fn load(dir: &Path, domain: &str) -> Result<Self, CaError> {
        let key = SigningKey::load(&dir.join(CA_KEY_FILE))?;
        let certificate = chain::load(&dir.join(CA_CERTIFICATE_FILE))?.swap_remove(0);
        if chain::public_key(&certificate) != Some(*key.public().as_bytes()) {
            return Err(CaError::KeysDiffer(dir.display().to_string()));
        }
        Self::new(domain, certificate, key)
    }

    fn new(domain: &str, certificate: CertificateDer<'static>, key: SigningKey) -> Result<Self, CaError> {
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(library)?;
        Ok(Self { domain: domain.to_owned(), certificate, issuer })
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// SHA-256 of its certificate: what an invitation pins.
    pub fn digest(&self) -> Digest {
        Digest::sha256(&self.certificate)
    }

    /// A certificate for the gateway's key, with the CA's behind it (a joiner knows the CA by its digest alone).
    ///
    /// # Errors
    /// When the domain or the time cannot stand in a certificate.
    pub fn sign_gateway(
        &self,
        key: &SigningKey,
        validity: Validity,
        entropy: &dyn Entropy,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let name = server_name(&self.domain);
        let san = SanType::DnsName(name.as_str().try_into().map_err(|_| CaError::BadName(name.clone()))?);
        self.sign_leaf(key, "Lingqu gateway", san, ExtendedKeyUsagePurpose::ServerAuth, validity, entropy)
    }

    /// A certificate that names `agent`, for the key of a PKCS#10 request in DER. All else that the request asks for is ignored; its signature proves that the requester
    /// has the key.
    ///
    /// # Errors
    /// `BadRequest` for the requester's faults; the rest are the caller's.
    pub fn sign_agent(
        &self,
        request_der: &[u8],
        agent: &AgentId,
        validity: Validity,
        entropy: &dyn Entropy,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        if request_der.len() > REQUEST_BYTES_MAX {
            return Err(CaError::BadRequest(format!("larger than {REQUEST_BYTES_MAX} bytes")));
        }
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request_der))
            .map_err(|e| CaError::BadRequest(e.to_string()))?;
        if request.public_key.algorithm() != &rcgen::PKCS_ED25519 || request.public_key.der_bytes().len() != 32 {
            return Err(CaError::BadRequest("its key is not Ed25519".into()));
        }
        let uri = agent.to_uri(&self.domain);
        let san = SanType::URI(uri.as_str().try_into().map_err(|_| CaError::BadName(uri.clone()))?);
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        self.sign_leaf(&request.public_key, "Lingqu agent", san, usage, validity, entropy)
    }

    fn sign_leaf(
        &self,
        key: &impl PublicKeyData,
        common_name: &str,
        san: SanType,
        usage: ExtendedKeyUsagePurpose,
        validity: Validity,
        entropy: &dyn Entropy,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let mut params = params(validity, common_name, entropy)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.subject_alt_names = vec![san];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(key, &self.issuer).map_err(library)?;
        Ok(vec![leaf.der().clone(), self.certificate.clone()])
    }
}

/// A signing request (PKCS#10, DER) for a key: it asks for no name, because names are given by the gateway.
///
/// # Errors
/// None is known; what the library says.
pub fn signing_request(key: &SigningKey) -> Result<Vec<u8>, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(key).map_err(library)?;
    Ok(request.der().to_vec())
}

/// A self-signed certificate that carries a key and nothing worth believing: what a joiner presents.
///
/// # Errors
/// When the time cannot stand in a certificate.
pub fn self_signed(
    key: &SigningKey,
    validity: Validity,
    entropy: &dyn Entropy,
) -> Result<CertificateDer<'static>, CaError> {
    let mut params = params(validity, "Lingqu invitation", entropy)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params.self_signed(key).map_err(library)?.der().clone())
}

/// The name that every gateway of a domain proves, whatever address is dialled.
pub fn server_name(domain: &str) -> String {
    format!("gateway.{domain}")
}

fn params(validity: Validity, common_name: &str, entropy: &dyn Entropy) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + seconds(validity.from)?;
    params.not_after = epoch + seconds(validity.until)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let mut serial = [0; 16];
    entropy.fill(&mut serial).map_err(|source| CaError::Io { what: "making a serial number".into(), source })?;
    // A serial number is positive and not zero (RFC 5280, 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

/// Whole seconds since 1970, as certificates count.
fn seconds(at: Timestamp) -> Result<Duration, CaError> {
    let seconds = at.0.div_euclid(1000);
    let since = u64::try_from(seconds).ok().filter(|_| seconds <= LAST_SECOND).ok_or(CaError::BadTime(at))?;
    Ok(Duration::from_secs(since))
}

fn library(error: rcgen::Error) -> CaError {
    CaError::Library(error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::os::OsEntropy;
    use x509_parser::extensions::GeneralName;
    use x509_parser::parse_x509_certificate;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn authority(dir: &Path) -> Authority {
        Authority::create(dir, "example.gov.cn", NOW, &OsEntropy::new()).unwrap()
    }

    fn agent() -> AgentId {
        "91350100M000100Y43/main-1".parse().unwrap()
    }

    fn key() -> SigningKey {
        SigningKey::generate(&OsEntropy::new()).unwrap()
    }

    #[test]
    fn a_ca_is_made_once_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let made = authority(dir.path());
        let again = Authority::create(dir.path(), "example.gov.cn", NOW, &OsEntropy::new());
        assert!(matches!(again, Err(CaError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists));
        let loaded = Authority::load(dir.path(), "example.gov.cn").unwrap();
        assert_eq!(loaded.digest(), made.digest());

        std::fs::remove_file(dir.path().join(CA_KEY_FILE)).unwrap();
        key().save_new(&dir.path().join(CA_KEY_FILE)).unwrap();
        assert!(matches!(Authority::load(dir.path(), "example.gov.cn"), Err(CaError::KeysDiffer(_))));
    }

    #[test]
    fn an_agents_leaf_says_what_the_gateway_says_and_nothing_that_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let ca = authority(dir.path());
        let key = key();
        let mut greedy = CertificateParams::new(vec!["gateway.example.gov.cn".to_owned()]).unwrap();
        greedy.distinguished_name.push(DnType::CommonName, "root of all");
        greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let request = greedy.serialize_request(&key).unwrap();
        let validity = Validity::starting(NOW, LEAF_VALID_MS);
        let chain = ca.sign_agent(request.der(), &agent(), validity, &OsEntropy::new()).unwrap();
        assert_eq!(chain::public_key(&chain[0]), Some(*key.public().as_bytes()));
        assert_eq!(&chain[1], ca.certificate());

        let (_, leaf) = parse_x509_certificate(&chain[0]).unwrap();
        let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
        let uri = agent().to_uri("example.gov.cn");
        assert_eq!(*names, [GeneralName::URI(&uri)]);
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any && usage.other.is_empty());
        assert!(!leaf.is_ca());
        assert!(!leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
        assert!(!leaf.subject().to_string().contains("root"));
        assert_eq!(leaf.validity().not_after.timestamp(), (NOW.0 + LEAF_VALID_MS) / 1000);
        assert!(leaf.verify_signature(Some(parse_x509_certificate(&chain[1]).unwrap().1.public_key())).is_ok());
    }

    #[test]
    fn serial_numbers_do_not_repeat() {
        let dir = tempfile::tempdir().unwrap();
        let ca = authority(dir.path());
        let request = signing_request(&key()).unwrap();
        let validity = Validity::starting(NOW, LEAF_VALID_MS);
        let serial = || {
            let chain = ca.sign_agent(&request, &agent(), validity, &OsEntropy::new()).unwrap();
            parse_x509_certificate(&chain[0]).unwrap().1.raw_serial().to_vec()
        };
        let (a, b) = (serial(), serial());
        assert_ne!(a, b);
        assert_eq!(a.len(), 16);
    }

    #[test]
    fn a_request_without_proof_of_its_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ca = authority(dir.path());
        let key = key();
        let good = signing_request(&key).unwrap();
        let validity = Validity::starting(NOW, LEAF_VALID_MS);
        let sign = |request: &[u8]| ca.sign_agent(request, &agent(), validity, &OsEntropy::new());
        assert!(sign(&good).is_ok());
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            // A flip outside what the requester signed may pass, but never with another key.
            match sign(&bad) {
                Ok(chain) => assert_eq!(chain::public_key(&chain[0]), Some(*key.public().as_bytes()), "byte {i}"),
                Err(refused) => assert!(matches!(refused, CaError::BadRequest(_)), "byte {i}: {refused}"),
            }
        }
        let mut forged = good.clone();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert!(matches!(sign(&forged), Err(CaError::BadRequest(_))), "a broken signature");
        let ecdsa = rcgen::KeyPair::generate().unwrap();
        let other = CertificateParams::default().serialize_request(&ecdsa).unwrap();
        assert!(matches!(sign(other.der()), Err(CaError::BadRequest(_))));
        assert!(matches!(sign(&vec![0x30; REQUEST_BYTES_MAX + 1]), Err(CaError::BadRequest(_))));
    }

    #[test]
    fn a_domain_is_a_name_of_dns() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["", "a.", "a b", "a/agency", "a..b", "政务", &"a.".repeat(130)] {
            let made = Authority::create(dir.path(), bad, NOW, &OsEntropy::new());
            assert!(matches!(made, Err(CaError::BadName(_))), "{bad:?}");
        }
        assert!(Authority::create(dir.path(), "localhost", NOW, &OsEntropy::new()).is_ok());
    }

    #[test]
    fn a_time_that_no_certificate_holds_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        for at in [i64::MIN, -1, i64::MAX, (LAST_SECOND + 1) * 1000] {
            let made = Authority::create(dir.path(), "d", Timestamp(at), &OsEntropy::new());
            assert!(matches!(made, Err(CaError::BadTime(_))), "{at}");
        }
    }
}
