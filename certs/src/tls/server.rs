//! The gateway's side of the handshake: its own certificate, which can be replaced while it serves, and the check of
//! the client's.

use crate::chain;
use crate::key::SigningKey;
use crate::tls::client::{GatewayVerifier, Trust};
use crate::tls::peer::PeerPolicy;
use crate::tls::{ALPN, ClockTime, TlsError, provider, unix_time};
use lingqu_protocol::host::{Clock, Timestamp};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

/// TLS for a gateway: every client must prove itself to `peers`; `identity` is presented whatever name is asked for.
///
/// # Errors
/// What the library refuses; nothing that a peer can cause.
pub fn server_config(
    peers: Arc<PeerPolicy>,
    identity: Arc<ServerIdentity>,
    clock: Arc<dyn Clock>,
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(ClientVerifier(peers)))
        .with_cert_resolver(identity);
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would carry the certificate of an earlier day; 0-RTT could be replayed.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    Ok(config)
}

/// The gateway's certificate and key. New connections see what was put in last; those that stand are not touched.
#[derive(Debug)]
pub struct ServerIdentity {
    verifier: GatewayVerifier,
    ca: CertificateDer<'static>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServerIdentity {
    /// With a chain that ends in the certificate of the CA.
    ///
    /// # Errors
    /// When chain, key, CA, domain and time do not fit together.
    pub fn new(
        ca: &CertificateDer<'_>,
        domain: &str,
        chain: Vec<CertificateDer<'static>>,
        key: &SigningKey,
        now: Timestamp,
    ) -> Result<Self, TlsError> {
        let ca = ca.clone().into_owned();
        let verifier = GatewayVerifier::new(Trust::Ca(ca.clone()), domain)?;
        let current = RwLock::new(checked(&verifier, &ca, chain, key, now)?);
        Ok(Self { verifier, ca, current })
    }

    /// Puts another certificate in, if it is good; else the old one stays.
    ///
    /// # Errors
    /// Why it is not good: another key's, another CA's, another name, expired.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &SigningKey,
        now: Timestamp,
    ) -> Result<(), TlsError> {
        let new = checked(&self.verifier, &self.ca, chain, key, now)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// Reads certificate and key from files and puts them in, if they are whole and good; else the old ones stay.
    ///
    /// # Errors
    /// Why not.
    pub fn reload(&self, chain_file: &Path, key_file: &Path, now: Timestamp) -> Result<(), TlsError> {
        self.replace(chain::load(chain_file)?, &SigningKey::load(key_file)?, now)
    }

    /// The certificate that new connections see.
    pub fn certificate(&self) -> CertificateDer<'static> {
        let current = self.current();
        // `checked` lets no empty chain in.
        current.cert.first().cloned().unwrap_or_else(|| self.ca.clone())
    }

    fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // The name that the client asks for is not looked at: the certificate counts.
        Some(self.current())
    }
}

fn checked(
    verifier: &GatewayVerifier,
    ca: &CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: &SigningKey,
    now: Timestamp,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let [leaf, rest @ ..] = chain.as_slice() else { return Err(TlsError::NoCaInChain) };
    if rest.last() != Some(ca) {
        return Err(TlsError::NoCaInChain);
    }
    let now = unix_time(now).ok_or_else(|| rustls::Error::FailedToGetCurrentTime)?;
    verifier.verify_server_cert(leaf, rest, verifier.name(), &[], now)?;
    Ok(Arc::new(CertifiedKey::from_der(chain, key.to_der(), &provider())?))
}

#[derive(Debug)]
struct ClientVerifier(Arc<PeerPolicy>);

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hint: a joiner's certificate is under no CA.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let chain: Vec<_> = std::iter::once(end_entity).chain(intermediates).cloned().collect();
        let now_ms = i64::try_from(now.as_secs().saturating_mul(1000)).unwrap_or(i64::MAX);
        match self.0.identify(&chain, Timestamp(now_ms)) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(refused) => Err(refused.alert().into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.webpki.supported_verify_schemes()
    }
}
