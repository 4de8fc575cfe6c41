//! Dialling: QUIC below a [`Session`], with what the handshake says turned into words.

use super::{Backoff, Session, with_retries};
use crate::error::{AgentError, Told};
use crate::machine::Machine;
use lingqu_certs::ca::server_name;
use lingqu_certs::quic::{self, QuicChannel, client_endpoint};
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::host::Clock;
use lingqu_protocol::stream::StreamError;
use lingqu_protocol::wire::Fault;
use quinn::{ConnectionError, Endpoint};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long one address may take to shake hands: QUIC sends its first packet again after one second and after three.
const HANDSHAKE_SECS_MAX: u64 = 6;

/// Addresses of one name that are tried: both families of a gateway with a spare.
const ADDRESSES_MAX: usize = 4;

/// How long to wait at the end until the gateway has heard the goodbye.
const GOODBYE_SECS_MAX: u64 = 2;

/// Data streams that the gateway may open at a time: those of a few pulls side by side.
const UNI_STREAMS_FROM_GATEWAY: u32 = 16;

/// What a connection needs: where, and as whom. `tls` is made anew for each try, so that a renewed certificate is used.
pub struct Dialer {
    address: String,
    domain: String,
    tls: Box<dyn Fn() -> Result<rustls::ClientConfig, AgentError> + Send + Sync>,
    clock: Arc<dyn Clock>,
    /// The socket of the latest try; earlier connections keep their own.
    endpoint: Mutex<Option<Endpoint>>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dialer({})", self.address)
    }
}

impl Dialer {
    /// To `address` (`host:port`), which must prove `gateway.<domain>`.
    pub fn new(
        address: &str,
        domain: &str,
        clock: Arc<dyn Clock>,
        tls: impl Fn() -> Result<rustls::ClientConfig, AgentError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            address: address.to_owned(),
            domain: domain.to_owned(),
            tls: Box::new(tls),
            clock,
            endpoint: Mutex::new(None),
        }
    }

    /// Where it dials.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// One try: handshake and greeting. `checkpoint` is what the agent keeps, or empty.
    ///
    /// # Errors
    /// What is in the way, at the network or at the gateway.
    pub async fn dial(&self, checkpoint: String) -> Result<Session<QuicChannel>, AgentError> {
        let mut last = no_address(&self.address);
        for address in self.resolve().await? {
            match self.dial_one(address, checkpoint.clone()).await {
                Err(error) if error.is_transient() => last = error,
                done => return done,
            }
        }
        Err(last)
    }

    /// Tries as often as `backoff` says.
    ///
    /// # Errors
    /// As [`Self::dial`]; [`AgentError::Unreachable`] after the last try.
    pub async fn dial_patiently(
        &self,
        machine: &Machine,
        backoff: Backoff,
        checkpoint: &str,
    ) -> Result<Session<QuicChannel>, AgentError> {
        with_retries(backoff, machine.entropy.as_ref(), async || self.dial(checkpoint.to_owned()).await).await
    }

    /// Waits a moment until the gateway has heard that a connection was closed.
    pub async fn goodbye(&self) {
        let endpoint = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(endpoint) = endpoint {
            let wait = Duration::from_secs(GOODBYE_SECS_MAX);
            if tokio::time::timeout(wait, endpoint.wait_idle()).await.is_err() {
                tracing::debug!("the gateway did not hear the goodbye");
            }
        }
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, AgentError> {
        match tokio::net::lookup_host(&self.address).await {
            Ok(addresses) => Ok(addresses.take(ADDRESSES_MAX).collect()),
            Err(error) => Err(StreamError::Lost(format!("cannot resolve {}: {error}", self.address)).into()),
        }
    }

    async fn dial_one(&self, to: SocketAddr, checkpoint: String) -> Result<Session<QuicChannel>, AgentError> {
        let limits = quic::Limits::streams(0, UNI_STREAMS_FROM_GATEWAY);
        let local: SocketAddr = match to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = |e: std::io::Error| AgentError::from(StreamError::Lost(format!("no socket: {e}")));
        let config = quic::client_config((self.tls)()?, limits).map_err(socket)?;
        let endpoint = client_endpoint(local, limits).map_err(socket)?;
        *self.endpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some(endpoint.clone());
        let connecting = endpoint
            .connect_with(config, to, &server_name(&self.domain))
            .map_err(|e| AgentError::from(StreamError::Lost(format!("cannot dial {to}: {e}"))))?;
        let connection = match tokio::time::timeout(Duration::from_secs(HANDSHAKE_SECS_MAX), connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(handshake(to, &error)),
            Err(_) => return Err(StreamError::Lost(format!("no answer from {to} over UDP")).into()),
        };
        let greeted = Session::greet(QuicChannel::new(connection.clone()), self.clock.as_ref(), checkpoint).await;
        // A gateway that does not take our certificate says so when the handshake is done on our side.
        greeted.map_err(|error| match (&error, connection.close_reason()) {
            (AgentError::Session(_), Some(reason)) => handshake(to, &reason),
            _ => error,
        })
    }
}

fn no_address(address: &str) -> AgentError {
    StreamError::Lost(format!("{address} has no address")).into()
}

/// The word of a gateway that does not let an expired certificate in.
pub(super) const CERTIFICATE_EXPIRED: &str = "certificate_expired";

/// QUIC's error codes of the TLS layer: this plus the alert's number (RFC 9001, 4.8).
const CRYPTO_ERROR: u64 = 0x100;

/// How a handshake ended, in this program's words.
fn handshake(to: SocketAddr, error: &ConnectionError) -> AgentError {
    let alert = |code: u64| code.checked_sub(CRYPTO_ERROR).and_then(|alert| u8::try_from(alert).ok());
    match error {
        ConnectionError::TransportError(ours) => match alert(ours.code.into()) {
            Some(_) => not_the_gateway(to, &ours.reason),
            None => StreamError::Lost(format!("{to}: {error}")).into(),
        },
        ConnectionError::ConnectionClosed(theirs) => match alert(theirs.error_code.into()) {
            Some(alert) => not_let_in(alert),
            None => StreamError::Lost(format!("{to}: {error}")).into(),
        },
        ConnectionError::ApplicationClosed(close) => {
            StreamError::Closed(CloseCode::from_code(close.error_code.into_inner())).into()
        }
        other => StreamError::Lost(format!("{to}: {other}")).into(),
    }
}

fn not_the_gateway(to: SocketAddr, reason: &str) -> AgentError {
    AgentError::Integrity(
        Told::new(
            "not_the_gateway",
            format!("{to} did not prove that it is the gateway of this profile: {reason}"),
            format!("{to} 未能证明自己是本配置所属网关：{reason}"),
        )
        .next(
            "check the address and this machine's clock; if both are right, somebody stands in between: tell the operator",
            "核对地址和本机时钟；如均无误，可能存在中间人，请告知运维人员",
        ),
    )
}

/// TLS alerts (RFC 8446, 6) that say what is wrong with our certificate.
fn not_let_in(alert: u8) -> AgentError {
    let fault = |code: CloseCode, word: &str, text: (&str, &str), next: (&str, &str)| {
        AgentError::Refused(Box::new(Fault {
            code: code.code(),
            word: word.into(),
            text: text.0.into(),
            text_zh: text.1.into(),
            next: next.0.into(),
            next_zh: next.1.into(),
        }))
    };
    match alert {
        // handshake_failure, protocol_version, no_application_protocol: nothing that a certificate could change.
        40 | 70 | 120 => AgentError::Peer(
            Told::new(
                "protocol",
                format!("what answers there does not speak this protocol (alert {alert})"),
                format!("对方不支持本协议（告警 {alert}）"),
            )
            .next("check the address; compare the versions of both programs", "核对地址及双方程序版本"),
        ),
        45 => fault(
            CloseCode::Expired,
            CERTIFICATE_EXPIRED,
            ("the gateway says that this agent's certificate has expired", "网关提示本代理证书已过期"),
            (
                "ask the gateway's operator to approve a renewal, then run `lingqu renew`; check this machine's clock",
                "请网关运维人员批准更新后执行 `lingqu renew`；并核对本机时钟",
            ),
        ),
        44 => fault(
            CloseCode::Suspended,
            "certificate_revoked",
            ("the gateway does not take this agent's certificate any more", "网关不再接受本代理的证书"),
            ("ask the gateway's operator why", "向网关运维人员了解原因"),
        ),
        _ => fault(
            CloseCode::Denied,
            "certificate_refused",
            (
                "the gateway does not know this certificate, or the invitation is used, withdrawn or too old",
                "网关不认可该证书，或邀请已使用、撤回或过期",
            ),
            (
                "check that the address is this gateway's; ask its operator for a new invitation",
                "核对网关地址；向运维人员索取新的邀请",
            ),
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn alerts_have_their_exit_codes() {
        assert_eq!(not_let_in(45).exit_code(), 4);
        assert_eq!(not_let_in(44).exit_code(), 4);
        assert_eq!(not_let_in(120).exit_code(), 1, "not about the certificate");
        for alert in [42, 46, 48, 49, 116] {
            assert_eq!(not_let_in(alert).exit_code(), 3, "{alert}");
        }
        assert!(!not_let_in(48).is_transient(), "trying again does not help");
        let to: SocketAddr = "192.0.2.1:1".parse().unwrap();
        assert_eq!(not_the_gateway(to, "x").exit_code(), 5);
        assert!(handshake(to, &ConnectionError::TimedOut).is_transient());
        assert_eq!(handshake(to, &ConnectionError::Reset).exit_code(), 6);
    }

    #[test]
    fn what_this_machine_lacks_and_what_nobody_answers_are_told_apart() {
        let machine = crate::machine::tests::real();
        let dialer = Dialer::new("127.0.0.1:9", "example.gov.cn", machine.clock.clone(), || {
            Err(AgentError::Machine(Told::new("no_tls", "no TLS in this test", "")))
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(dialer.dial(String::new())).unwrap_err();
        assert_eq!(error.exit_code(), 1, "what this machine lacks is said as such: {error}");
        let nameless = Dialer::new("gateway.invalid:1", "d", machine.clock.clone(), || unreachable!());
        let error = runtime.block_on(nameless.dial_patiently(&machine, Backoff::ONCE, "")).unwrap_err();
        assert_eq!(error.exit_code(), 6, "{error}");
    }
}
