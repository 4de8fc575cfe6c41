//! The QUIC endpoint: who may begin a handshake, who may hold a connection, and how many.

use super::operation::Caller;
use super::session::{self, Services};
use super::windows::IDLE_BYTES;
use crate::gate::Peer;
use crate::metrics;
use lingqu_certs::key::PublicKey;
use lingqu_certs::quic::{Handshakes, Limits, QuicChannel};
use lingqu_certs::tls::peer::{PeerIdentity, PeerPolicy};
use lingqu_protocol::agency::CreditCode;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::host::{Clock, Timestamp};
use lingqu_protocol::stream::Channel;
use quinn::{Endpoint, Incoming};
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A handshake is two round trips; after this its place is needed by someone else.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);

/// Handshakes under way beyond which addresses must prove themselves (QUIC's Retry): a spoofed flood then costs us a
/// packet each and no state.
const RETRY_ABOVE: usize = 32;

/// Handshakes under way at all: each costs a signature and some kilobytes.
const HANDSHAKES_MAX: usize = 256;

/// Connections: at 70 KB each, 290 MB. Two thirds of that are quinn's and TLS's.
const CONNECTIONS_MAX: usize = 4096;

/// Connections from one address: an agency's agents may stand behind one translated address.
const PER_ADDRESS_MAX: usize = 256;

/// Connections of one agency: some for each of its agents, and never so many that others find no place.
const PER_AGENCY_MAX: usize = 256;

/// What a handshake takes of memory and lets go, about: certificates, keys, and datagrams of its own size.
const HANDSHAKE_BYTES: u64 = 64 << 10;

/// How long the connection of an agent with an expired certificate may last: it renews, which is one request, and dials
/// again with what it got.
const EXPIRED_MS_MAX: i64 = 60_000;

/// What a connection begins with; one that moves data is given its share of the windows, and one that needs them more streams.
pub const LIMITS: Limits = Limits {
    connection_window_bytes: IDLE_BYTES,
    ..Limits::streams(session::REQUEST_STREAMS_FIRST, session::DATA_STREAMS_FIRST)
};

/// First packets that wait to be looked at.
pub const fn handshakes(reset_secret: [u8; 32]) -> Handshakes {
    Handshakes { waiting_max: 1024, waiting_bytes_max: 4 << 20, reset_secret: Some(reset_secret) }
}

/// What accepting stands on.
pub struct Door {
    /// What sessions stand on.
    pub services: Arc<Services>,
    /// Who is who.
    pub policy: Arc<PeerPolicy>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Accepts connections until the endpoint is closed.
pub async fn accept(door: Arc<Door>, endpoint: Endpoint) {
    let counts = Arc::new(Counts::default());
    while let Some(incoming) = endpoint.accept().await {
        let handshakes = counts.handshakes.load(Ordering::Relaxed);
        if handshakes >= HANDSHAKES_MAX {
            metrics::refused_handshake("too_many_handshakes");
            incoming.refuse();
        } else if handshakes >= RETRY_ABOVE && !incoming.remote_address_validated() {
            // It fails only for an address that is validated.
            let _ = incoming.retry();
        } else {
            let (door, counts) = (Arc::clone(&door), Arc::clone(&counts));
            counts.handshakes.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move { connect(&door, &counts, incoming).await });
        }
    }
}

async fn connect(door: &Door, counts: &Arc<Counts>, incoming: Incoming) {
    let address = incoming.remote_address();
    let network = network_of(address.ip());
    let place = take(&counts.addresses, network, PER_ADDRESS_MAX);
    let (Some(_place), true) = (&place, counts.connections.load(Ordering::Relaxed) < CONNECTIONS_MAX) else {
        counts.handshakes.fetch_sub(1, Ordering::Relaxed);
        metrics::refused_handshake("too_many_connections");
        incoming.refuse();
        return;
    };
    let connecting = match incoming.accept() {
        Ok(connecting) => tokio::time::timeout(HANDSHAKE_WAIT, connecting).await,
        Err(error) => {
            counts.handshakes.fetch_sub(1, Ordering::Relaxed);
            refused(door);
            tracing::debug!(%address, %error, "no handshake");
            return;
        }
    };
    counts.handshakes.fetch_sub(1, Ordering::Relaxed);
    let connection = match connecting {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            refused(door);
            tracing::info!(%address, %error, "handshake failed");
            return;
        }
        Err(_) => return metrics::refused_handshake("handshake_slow"),
    };
    let channel = QuicChannel::new(connection);
    let standing = counts.connections.fetch_add(1, Ordering::Relaxed) + 1;
    metrics::connections(standing);
    serve(door, counts, channel).await;
    metrics::connections(counts.connections.fetch_sub(1, Ordering::Relaxed).saturating_sub(1));
}

/// One that did not show who it is: counted at once, and in the ledger once a minute.
fn refused(door: &Door) {
    metrics::refused_handshake("handshake_failed");
    door.services.flow.note_stranger();
}

async fn serve(door: &Door, counts: &Arc<Counts>, channel: QuicChannel) {
    let address = channel.remote_address();
    let chain = channel.peer_chain();
    let key = chain.first().and_then(|leaf| lingqu_certs::chain::public_key(leaf)).map(PublicKey::from_bytes);
    let Some(key) = key else { return channel.close(CloseCode::Denied) };
    let identity = match door.policy.identify(&chain, door.clock.wall()) {
        Ok(identity) => identity,
        Err(error) => {
            // The handshake let it in a moment ago; an invitation may have ended since.
            tracing::info!(%address, %error, "refused after the handshake");
            return channel.close(CloseCode::Denied);
        }
    };
    let (caller, agency, until) = caller(identity, key, address, door.clock.wall());
    let _place = match agency.map(|agency| take(&counts.agencies, agency, PER_AGENCY_MAX)) {
        Some(None) => {
            metrics::refused_handshake("too_many_connections");
            return channel.close(CloseCode::Busy);
        }
        place => place,
    };
    let name = caller.name();
    if let Some(peer) = caller.peer()
        && let Err(denied) = door.services.gate.admit(peer)
    {
        tracing::info!(caller = %name, word = denied.word(), "refused at the door");
        return channel.close(denied.code());
    }
    let left = until.map_or(Duration::MAX, |end| lifetime(door.clock.wall(), end));
    tracing::info!(caller = %name, %address, "connected");
    door.services.flow.let_go(HANDSHAKE_BYTES);
    let ended = tokio::select! {
        ended = session::serve(Arc::clone(&door.services), caller, channel.clone()) => ended,
        () = tokio::time::sleep(left) => {
            channel.close(CloseCode::Expired);
            Ok(())
        }
    };
    match ended {
        Ok(()) => tracing::info!(caller = %name, "gone"),
        Err(error) => tracing::info!(caller = %name, %error, "gone"),
    }
}

fn caller(
    identity: PeerIdentity,
    key: PublicKey,
    address: std::net::SocketAddr,
    now: Timestamp,
) -> (Caller, Option<CreditCode>, Option<Timestamp>) {
    match identity {
        PeerIdentity::Agent { agent, expires_at, .. } => {
            let agency = agent.agency;
            let peer = Peer { agent, address: address.ip().to_canonical() };
            (Caller::Agent { peer, key, address }, Some(agency), Some(expires_at))
        }
        PeerIdentity::Invited { key } => (Caller::Invited { key: *key.as_bytes(), address }, None, None),
        PeerIdentity::ExpiredAgent { agent, .. } => {
            let agency = agent.agency;
            let peer = Peer { agent, address: address.ip().to_canonical() };
            (Caller::Expired { peer, key, address }, Some(agency), Some(now.plus_ms(EXPIRED_MS_MAX)))
        }
    }
}

fn lifetime(now: Timestamp, end: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(end.0.saturating_sub(now.0)).unwrap_or(0))
}

/// What counts as one address: a host of IPv4, and a subscriber's /64 of IPv6.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX)).into(),
    }
}

#[derive(Default)]
struct Counts {
    handshakes: AtomicUsize,
    connections: AtomicUsize,
    addresses: Tally<IpAddr>,
    agencies: Tally<CreditCode>,
}

type Tally<K> = Arc<Mutex<HashMap<K, usize>>>;

/// One counted connection; dropped, it counts no more.
struct Place<K: Eq + Hash> {
    tally: Tally<K>,
    key: K,
}

fn take<K: Eq + Hash + Clone>(tally: &Tally<K>, key: K, max: usize) -> Option<Place<K>> {
    let mut counts = tally.lock().unwrap_or_else(PoisonError::into_inner);
    let count = counts.entry(key.clone()).or_insert(0);
    if *count >= max {
        return None;
    }
    *count += 1;
    Some(Place { tally: Arc::clone(tally), key })
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut counts = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_and_given_back() {
        let tally: Tally<u8> = Tally::default();
        let held: Vec<_> = (0..3).filter_map(|_| take(&tally, 7, 2)).collect();
        assert_eq!(held.len(), 2);
        assert!(take(&tally, 8, 2).is_some(), "others have their own");
        drop(held);
        assert!(take(&tally, 7, 2).is_some());
        assert!(tally.lock().unwrap().is_empty(), "nothing is left of those that went");
    }

    #[test]
    fn a_subscriber_is_one_address_however_it_writes_itself() {
        let same = |a: &str, b: &str| network_of(a.parse().unwrap()) == network_of(b.parse().unwrap());
        assert!(same("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(same("2001:db8::1", "2001:db8::ffff:1"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
    }
}
