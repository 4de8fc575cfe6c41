//! TLS as both sides speak it: 1.3 only, both prove a key, nothing is resumed, nothing is sent early.
//!
//! The gateway's side is [`server`], the agent's is [`client`], and [`peer`] says who a client is.

pub mod client;
pub mod peer;
pub mod server;

use lingqu_protocol::host::{Clock, Timestamp};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The protocol's name in the handshake; another version gets another.
pub const ALPN: &[u8] = b"lingqu/1";

/// What went wrong while setting TLS up (not in a handshake).
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The library refused a key, a certificate or a setting.
    #[error("TLS cannot be set up: {0}")]
    Library(#[from] rustls::Error),
    /// A key file.
    #[error(transparent)]
    Key(#[from] crate::key::KeyError),
    /// A certificate file.
    #[error(transparent)]
    Chain(#[from] crate::chain::ChainError),
    /// A domain that no server name can be made of.
    #[error("{0:?} is not a domain")]
    BadDomain(String),
    /// A gateway's chain that does not end in its CA's certificate, which joiners need.
    #[error("the gateway's certificate file must hold its certificate and then its CA's: make it again")]
    NoCaInChain,
}

/// The cryptography: ring, with TLS 1.3's suites, the one that modern processors do fastest first.
fn provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(CryptoProvider { cipher_suites, ..default_provider() })
}

/// The injected clock, for the library.
struct ClockTime(Arc<dyn Clock>);

impl fmt::Debug for ClockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClockTime")
    }
}

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        unix_time(self.0.wall())
    }
}

/// `None` before 1970, when no certificate of ours is good.
fn unix_time(at: Timestamp) -> Option<UnixTime> {
    Some(UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(at.0).ok()?)))
}

#[cfg(test)]
mod handshake_tests;
