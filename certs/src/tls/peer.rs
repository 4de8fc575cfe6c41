//! Who a client is, from its certificates alone. The same function decides in the handshake and says afterwards which
//! kind of peer was let in; what that peer may do is looked up for every request, elsewhere.

use crate::chain;
use crate::key::PublicKey;
use crate::tls::{TlsError, provider, unix_time};
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::host::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, RootCertStore};
use std::fmt;
use std::sync::Arc;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// Certificates that a client may send: its own and the CA's, and one more for a change of CAs.
const CHAIN_MAX: usize = 3;

/// Whom the gateway lets in beside agents with a certificate in force. Called in the handshake, so it must not block.
pub trait Exceptions: Send + Sync + 'static {
    /// Whether an invitation for this key is open now: for `join` alone.
    fn is_invited(&self, key: &PublicKey) -> bool;
    /// Whether an operator approved that this agent renews with an expired certificate on this key: for `renew` alone.
    fn may_renew_expired(&self, agent: &AgentId, key: &PublicKey) -> bool;
}

/// Nobody.
#[derive(Clone, Copy, Debug)]
pub struct NoExceptions;

impl Exceptions for NoExceptions {
    fn is_invited(&self, _: &PublicKey) -> bool {
        false
    }

    fn may_renew_expired(&self, _: &AgentId, _: &PublicKey) -> bool {
        false
    }
}

/// A client that was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerIdentity {
    /// An agent with a certificate in force.
    Agent {
        /// Its name.
        agent: AgentId,
        /// SHA-256 of its certificate.
        fingerprint: Digest,
        /// When the certificate ends; a connection must not outlive it.
        expires_at: Timestamp,
    },
    /// The holder of an open invitation's key. It may `join` and nothing else.
    Invited {
        /// The invitation's key.
        key: PublicKey,
    },
    /// An agent whose certificate expired, under an open approval. It may `renew` and nothing else.
    ExpiredAgent {
        /// Its name.
        agent: AgentId,
        /// SHA-256 of its certificate.
        fingerprint: Digest,
        /// When the certificate ended.
        expired_at: Timestamp,
    },
}

/// Why a client was not let in; the fault is the client's, but for a wrong clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// It sent no certificate.
    #[error("no certificate: join first")]
    NoCertificate,
    /// More certificates than a client of this gateway has, or junk.
    #[error("the certificate cannot be read")]
    Malformed,
    /// Not signed by this gateway's CA, and no open invitation's key.
    #[error("the certificate is not this gateway's, and no invitation for its key is open")]
    UnknownIssuer,
    /// Past its end, and no renewal was approved.
    #[error("the certificate expired: ask the operator to approve a renewal")]
    Expired,
    /// Before its beginning.
    #[error("the certificate is not valid yet: check both clocks")]
    NotYetValid,
    /// A certificate for something else (the gateway's own, say).
    #[error("the certificate is not one of an agent")]
    WrongUsage,
    /// Under this CA, but without the name of an agent of this domain.
    #[error("the certificate does not name an agent of this domain")]
    WrongName,
}

impl PeerRefused {
    /// What the handshake answers with.
    pub(crate) fn alert(self) -> CertificateError {
        match self {
            Self::NoCertificate | Self::Malformed => CertificateError::BadEncoding,
            Self::UnknownIssuer => CertificateError::UnknownIssuer,
            Self::Expired => CertificateError::Expired,
            Self::NotYetValid => CertificateError::NotValidYet,
            Self::WrongUsage => CertificateError::InvalidPurpose,
            Self::WrongName => CertificateError::ApplicationVerificationFailure,
        }
    }
}

/// What decides who a client is: one CA, one domain, and the exceptions.
pub struct PeerPolicy {
    domain: String,
    pub(crate) webpki: Arc<dyn ClientCertVerifier>,
    exceptions: Arc<dyn Exceptions>,
}

impl fmt::Debug for PeerPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerPolicy").field("domain", &self.domain).finish_non_exhaustive()
    }
}

impl PeerPolicy {
    /// For the CA of a domain.
    ///
    /// # Errors
    /// When `ca` is not a certificate.
    pub fn new(ca: &CertificateDer<'_>, domain: &str, exceptions: Arc<dyn Exceptions>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let webpki = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        Ok(Self { domain: domain.to_owned(), webpki, exceptions })
    }

    /// Who a client with this chain (its own certificate first) is at `now`. That it has the key is for the handshake to
    /// prove.
    ///
    /// # Errors
    /// Why it is not let in.
    pub fn identify(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<PeerIdentity, PeerRefused> {
        let (leaf, others) = chain.split_first().ok_or(PeerRefused::NoCertificate)?;
        if chain.len() > CHAIN_MAX {
            return Err(PeerRefused::Malformed);
        }
        let refused = match self.verify_at(leaf, others, now) {
            Ok(()) => {
                let (agent, expires_at) = self.name_of(leaf)?;
                return Ok(PeerIdentity::Agent { agent, fingerprint: Digest::sha256(leaf), expires_at });
            }
            Err(refused) => refused,
        };
        let Some(key) = chain::public_key(leaf).map(PublicKey::from_bytes) else { return Err(refused) };
        if self.exceptions.is_invited(&key) {
            return Ok(PeerIdentity::Invited { key });
        }
        if refused == PeerRefused::Expired {
            let (agent, expired_at) = self.name_of(leaf)?;
            // All but the time must be right: it is judged as of its last moment.
            self.verify_at(leaf, others, expired_at)?;
            if self.exceptions.may_renew_expired(&agent, &key) {
                let fingerprint = Digest::sha256(leaf);
                return Ok(PeerIdentity::ExpiredAgent { agent, fingerprint, expired_at });
            }
        }
        Err(refused)
    }

    fn verify_at(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        at: Timestamp,
    ) -> Result<(), PeerRefused> {
        let at = unix_time(at).ok_or(PeerRefused::NotYetValid)?;
        match self.webpki.verify_client_cert(leaf, others, at) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InvalidCertificate(why)) => Err(match why {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => PeerRefused::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => PeerRefused::NotYetValid,
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                    PeerRefused::WrongUsage
                }
                CertificateError::BadEncoding => PeerRefused::Malformed,
                _ => PeerRefused::UnknownIssuer,
            }),
            Err(_) => Err(PeerRefused::Malformed),
        }
    }

    /// The agent that a certificate names, and the certificate's last moment. The library lets a certificate without a
    /// usage pass; here the usage must be there and be the client's alone.
    fn name_of(&self, leaf: &CertificateDer<'_>) -> Result<(AgentId, Timestamp), PeerRefused> {
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|_| PeerRefused::Malformed)?;
        if !is_client_only(&parsed) {
            return Err(PeerRefused::WrongUsage);
        }
        let names = parsed.subject_alternative_name().map_err(|_| PeerRefused::Malformed)?;
        let [GeneralName::URI(uri)] = names.as_ref().map_or(&[][..], |n| n.value.general_names.as_slice()) else {
            return Err(PeerRefused::WrongName);
        };
        let agent = AgentId::from_uri(uri, &self.domain).map_err(|_| PeerRefused::WrongName)?;
        let validity = chain::validity(leaf).ok_or(PeerRefused::Malformed)?;
        Ok((agent, validity.until))
    }
}

fn is_client_only(leaf: &X509Certificate<'_>) -> bool {
    let Ok(Some(usage)) = leaf.extended_key_usage() else { return false };
    let usage = usage.value;
    let others = usage.any
        || usage.server_auth
        || usage.code_signing
        || usage.email_protection
        || usage.time_stamping
        || usage.ocsp_signing
        || !usage.other.is_empty();
    usage.client_auth && !others
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::testing::{AGENT, DOMAIN, NOW, key};
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, SanType};

    const CLIENT: ExtendedKeyUsagePurpose = ExtendedKeyUsagePurpose::ClientAuth;

    /// What a policy says of a leaf that a careless CA of this name signed.
    fn judged(usages: &[ExtendedKeyUsagePurpose], names: &[SanType]) -> Result<PeerIdentity, PeerRefused> {
        let mut ca_params = CertificateParams::default();
        ca_params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = ca_params.self_signed(&key(1)).unwrap();
        let mut params = CertificateParams::default();
        params.extended_key_usages = usages.to_vec();
        params.subject_alt_names = names.to_vec();
        let leaf = params.signed_by(&key(2), &Issuer::from_params(&ca_params, key(1))).unwrap();
        let policy = PeerPolicy::new(ca.der(), DOMAIN, Arc::new(NoExceptions)).unwrap();
        policy.identify(&[leaf.der().clone(), ca.der().clone()], NOW)
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn ours() -> SanType {
        uri(&AGENT.parse::<AgentId>().unwrap().to_uri(DOMAIN))
    }

    #[test]
    fn the_usage_must_be_a_clients_alone() {
        assert!(matches!(judged(&[CLIENT], &[ours()]), Ok(PeerIdentity::Agent { .. })));
        use ExtendedKeyUsagePurpose::*;
        for others in [
            vec![],
            vec![Any],
            vec![ServerAuth],
            vec![CLIENT, Any],
            vec![CLIENT, ServerAuth],
            vec![CLIENT, CodeSigning],
        ] {
            assert_eq!(judged(&others, &[ours()]), Err(PeerRefused::WrongUsage), "{others:?}");
        }
    }

    #[test]
    fn the_name_must_be_one_agents_of_this_domain() {
        let dns = SanType::DnsName("gateway.example.gov.cn".try_into().unwrap());
        let elsewhere = AGENT.parse::<AgentId>().unwrap().to_uri("elsewhere.gov.cn");
        for names in [
            vec![],
            vec![dns.clone()],
            vec![ours(), dns],
            vec![ours(), ours()],
            vec![uri(&elsewhere)],
            vec![uri("spiffe://example.gov.cn/agency/91350100M000100Y43")],
            vec![uri("spiffe://example.gov.cn/agency/91350100M000100Y44/agent/main")],
        ] {
            assert_eq!(judged(&[CLIENT], &names), Err(PeerRefused::WrongName), "{names:?}");
        }
    }

    #[test]
    fn junk_and_too_much_are_malformed() {
        let ca = CertificateParams::default().self_signed(&key(1)).unwrap();
        let policy = PeerPolicy::new(ca.der(), DOMAIN, Arc::new(NoExceptions)).unwrap();
        assert_eq!(policy.identify(&[], NOW), Err(PeerRefused::NoCertificate));
        assert_eq!(policy.identify(&[CertificateDer::from(vec![0x30; 9])], NOW), Err(PeerRefused::Malformed));
        assert_eq!(policy.identify(&vec![ca.der().clone(); CHAIN_MAX + 1], NOW), Err(PeerRefused::Malformed));
        assert_eq!(policy.identify(&[ca.der().clone()], Timestamp(-1)), Err(PeerRefused::NotYetValid));
    }
}
