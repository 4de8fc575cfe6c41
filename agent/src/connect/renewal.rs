//! New certificates over this agent's own connection.

use super::{Link, Session, unexpected};
use crate::error::{AgentError, Told};
use lingqu_certs::ca::Validity;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{Renew, reply, request};
use rustls::pki_types::CertificateDer;

/// Certificates in one answer, at most: a leaf, its CA, and one between.
const CHAIN_CERTIFICATES_MAX: usize = 3;

/// Renews where two thirds of the certificate's life are over. What fails is logged: the command that is under way has
/// its own business, and there is time to try again.
pub(super) async fn where_due<C: Channel>(link: &Link, session: &Session<C>) {
    let now = link.machine().clock.wall();
    match link.profile().validity() {
        Ok(validity) if !is_due(&validity, now) => {}
        Ok(validity) => match renew(link, session).await {
            Ok(()) => tracing::info!(old_until = %validity.until, "certificate renewed"),
            Err(error) => tracing::warn!(%error, until = %validity.until, "the certificate is due and was not renewed"),
        },
        Err(error) => tracing::warn!(%error, "the certificate cannot be read"),
    }
}

/// Whether two thirds of its life are over.
pub fn is_due(validity: &Validity, now: Timestamp) -> bool {
    let life = validity.until.0.saturating_sub(validity.from.0);
    now.0 >= validity.from.0.saturating_add(life / 3 * 2)
}

/// Asks for a new certificate for the key that is there, and puts it in.
///
/// # Errors
/// A refusal; a certificate that is not this agent's (the old one stays then).
pub async fn renew<C: Channel>(link: &Link, session: &Session<C>) -> Result<(), AgentError> {
    let csr_der = link.profile().signing_request()?.into();
    let certificate = match session.ask(request::Ask::Renew(Renew { csr_der })).await? {
        reply::Reply::Certificate(certificate) => certificate,
        other => return Err(unexpected("a certificate", &other)),
    };
    if certificate.chain_der.len() > CHAIN_CERTIFICATES_MAX {
        return Err(AgentError::Peer(Told::new("chain", "the gateway's chain is too long", "网关返回的证书链过长")));
    }
    let chain: Vec<_> = certificate.chain_der.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    link.profile().replace_certificate(&chain, link.machine().clock.wall())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_at_two_thirds() {
        let validity = Validity { from: Timestamp(1_000), until: Timestamp(4_000) };
        assert!(!is_due(&validity, Timestamp(2_999)));
        assert!(is_due(&validity, Timestamp(3_000)));
        assert!(is_due(&validity, Timestamp(9_000)), "and when it is over");
        assert!(!is_due(&validity, Timestamp(0)));
    }
}
