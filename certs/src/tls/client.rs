//! The agent's side of the handshake: the gateway must prove `gateway.<domain>` under the pinned CA, whatever address
//! was dialled and whatever name was sent.

use crate::ca::server_name;
use crate::key::SigningKey;
use crate::tls::{ALPN, ClockTime, TlsError, provider};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::host::Clock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// How an agent knows the gateway's CA.
#[derive(Clone, Debug)]
pub enum Trust {
    /// By its certificate, from the profile.
    Ca(CertificateDer<'static>),
    /// By the SHA-256 of its certificate, from an invitation; the gateway sends the certificate itself.
    Pin(Digest),
}

/// TLS for one connection of an agent: `chain` and `key` are what it presents. Made anew for each connection, so that a
/// renewed certificate is used from the next one on.
///
/// # Errors
/// When chain, key or domain are not what they should be.
pub fn client_config(
    trust: Trust,
    domain: &str,
    chain: Vec<CertificateDer<'static>>,
    key: &SigningKey,
    clock: Arc<dyn Clock>,
) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(GatewayVerifier::new(trust, domain)?))
        .with_client_auth_cert(chain, key.to_der())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

/// The CA's certificate among those that the gateway sent, for a joiner who knows its digest.
pub fn pinned_ca<'a>(chain: &'a [CertificateDer<'static>], pin: &Digest) -> Option<&'a CertificateDer<'static>> {
    chain.iter().find(|certificate| Digest::sha256(certificate) == *pin)
}

/// Checks that a server is the gateway of a domain.
#[derive(Debug)]
pub struct GatewayVerifier {
    trust: Anchor,
    name: ServerName<'static>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Anchor {
    Roots(RootCertStore),
    Pin(Digest),
}

impl GatewayVerifier {
    /// For a domain.
    ///
    /// # Errors
    /// When the domain or the CA's certificate is none.
    pub fn new(trust: Trust, domain: &str) -> Result<Self, TlsError> {
        let name = ServerName::try_from(server_name(domain)).map_err(|_| TlsError::BadDomain(domain.to_owned()))?;
        let trust = match trust {
            Trust::Ca(ca) => Anchor::Roots(roots(ca)?),
            Trust::Pin(pin) => Anchor::Pin(pin),
        };
        Ok(Self { trust, name, provider: provider() })
    }

    /// The name that the server must prove.
    pub fn name(&self) -> &ServerName<'static> {
        &self.name
    }
}

impl ServerCertVerifier for GatewayVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _asked_for: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let verify = |roots: &RootCertStore| {
            verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, algorithms)
        };
        match &self.trust {
            Anchor::Roots(roots) => verify(roots)?,
            Anchor::Pin(pin) => {
                let ca = intermediates
                    .iter()
                    .find(|certificate| Digest::sha256(certificate) == *pin)
                    .ok_or(CertificateError::UnknownIssuer)?;
                verify(&roots(ca.clone().into_owned())?)?;
            }
        }
        verify_server_name(&leaf, &self.name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn roots(ca: CertificateDer<'static>) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca)?;
    Ok(roots)
}
