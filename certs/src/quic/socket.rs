//! The UDP socket under an endpoint: buffers sized and read back, batches kept below what one UDP send can carry.

use super::SOCKET_BUFFER_BYTES;
use crate::moments::{self, Moment};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

/// Bytes that one UDP send over IPv4 can carry, all segments of a batch together. A batch above it fails, the failure is
/// swallowed below us and looks like loss.
const BATCH_BYTES_MAX: usize = 65_507;

/// What the batches of all connections that stand are to come to: each keeps the room of the largest that it ever sent, and one
/// datagram more, for as long as it stands. Up to 535 connections send full batches, 7 datagrams of 8,952 bytes.
const BATCHES_BYTES: usize = 32 << 20;

/// Datagrams of a batch however many connections stand: where most of thousands only wait, the one that sends much still has
/// a third of the system calls.
const SEGMENTS_MIN: usize = 3;

/// A bound socket whose batches fit for datagrams of `mtu_bytes`.
pub(super) fn open(local: SocketAddr, mtu_bytes: u16) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    Ok(Arc::new(capped(local, mtu_bytes)?))
}

fn capped(local: SocketAddr, mtu_bytes: u16) -> io::Result<CappedSocket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    if local.is_ipv6() {
        // `[::]` serves both families, as an operator expects of "listen everywhere".
        socket.set_only_v6(false)?;
    }
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    // Linux reports twice what it gave, to count its own bookkeeping (socket(7)).
    let doubled = if cfg!(target_os = "linux") { 2 } else { 1 };
    for (reported_bytes, setting) in
        [(socket.recv_buffer_size()?, "net.core.rmem_max"), (socket.send_buffer_size()?, "net.core.wmem_max")]
    {
        let got_bytes = reported_bytes / doubled;
        if got_bytes < SOCKET_BUFFER_BYTES {
            tracing::warn!(
                got_bytes,
                wanted_bytes = SOCKET_BUFFER_BYTES,
                setting,
                "the kernel gave a smaller socket buffer: bursts will be lost and sent again; raise the setting"
            );
        }
    }
    socket.bind(&local.into())?;
    let inner = TokioRuntime.wrap_udp_socket(socket.into())?;
    Ok(CappedSocket { inner, mtu_bytes, connections: Arc::default() })
}

/// Datagrams of `mtu_bytes` that one of so many connections may send at once.
fn segments_max(mtu_bytes: u16, connections: usize) -> usize {
    let of = |bytes: usize| bytes / usize::from(mtu_bytes.max(1));
    of(BATCHES_BYTES / connections.max(1)).max(SEGMENTS_MIN).min(of(BATCH_BYTES_MAX)).max(1)
}

/// A socket that sends fewer datagrams at once and is otherwise the one inside.
#[derive(Debug)]
struct CappedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    mtu_bytes: u16,
    /// Each has one poller for as long as it stands.
    connections: Arc<AtomicUsize>,
}

impl AsyncUdpSocket for CappedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let poller = Arc::clone(&self.inner).create_io_poller();
        Box::pin(CountedPoller { poller, connections: Arc::clone(&self.connections) })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.inner.try_send(transmit);
        match &sent {
            Ok(()) => moments::note(|| Moment::Sent { to: transmit.destination, bytes: transmit.contents.len() }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => moments::note(|| Moment::Full),
            Err(_) => {}
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments().min(segments_max(self.mtu_bytes, self.connections.load(Ordering::Relaxed)))
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// A connection's poller, which counts as one and notes when there was no room.
#[derive(Debug)]
struct CountedPoller {
    poller: Pin<Box<dyn UdpPoller>>,
    connections: Arc<AtomicUsize>,
}

impl UdpPoller for CountedPoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let room = self.poller.as_mut().poll_writable(cx);
        if room.is_pending() {
            moments::note(|| Moment::Full);
        }
        room
    }
}

impl Drop for CountedPoller {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::quic::{Limits, MTU_BYTES_INITIAL, MTU_BYTES_MAX, client_config};
    use crate::testing::Gateway;
    use crate::tls::peer::NoExceptions;
    use quinn::{Endpoint, EndpointConfig};
    use std::time::Duration;

    #[test]
    fn a_full_batch_fits_one_send_for_every_datagram_size() {
        for mtu in MTU_BYTES_INITIAL..=MTU_BYTES_MAX {
            let bytes = segments_max(mtu, 1) * usize::from(mtu);
            assert!(bytes <= BATCH_BYTES_MAX && bytes + usize::from(mtu) > BATCH_BYTES_MAX, "{mtu}");
        }
        let batches = [0, 535, 536, 1_249, 1_250, 4_096].map(|of| segments_max(MTU_BYTES_MAX, of));
        assert_eq!(batches, [7, 7, 6, 3, 3, 3]);
        assert_eq!(segments_max(u16::MAX, 4_096), 1, "a datagram that fills a batch is one");
    }

    #[tokio::test]
    async fn a_connection_counts_once_and_for_as_long_as_it_stands() {
        let gateway = Gateway::new(NoExceptions);
        let socket = Arc::new(capped("127.0.0.1:0".parse().unwrap(), MTU_BYTES_MAX).unwrap());
        let standing = || socket.connections.load(Ordering::Relaxed);
        let config = EndpointConfig::default();
        let endpoint =
            Endpoint::new_with_abstract_socket(config, None, socket.clone(), Arc::new(TokioRuntime)).unwrap();
        let address = gateway.endpoint.local_addr().unwrap();
        let mut met = Vec::new();
        for count in 1..=3 {
            let config = client_config(gateway.agent(), Limits::streams(8, 8)).unwrap();
            let connecting = endpoint.connect_with(config, address, "gateway.example.gov.cn").unwrap();
            let accepting = async { gateway.endpoint.accept().await.unwrap().await };
            met.push(tokio::try_join!(connecting, accepting).unwrap());
            assert_eq!(standing(), count);
        }
        drop(met);
        tokio::time::timeout(Duration::from_secs(10), async {
            while standing() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn all_but_the_batch_is_the_plain_sockets() {
        let plain = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let plain = TokioRuntime.wrap_udp_socket(plain).unwrap();
        let capped = open("127.0.0.1:0".parse().unwrap(), MTU_BYTES_MAX).unwrap();
        assert_eq!(capped.max_receive_segments(), plain.max_receive_segments());
        assert_eq!(capped.may_fragment(), plain.may_fragment());
        assert_eq!(capped.max_transmit_segments(), plain.max_transmit_segments().min(7));
        assert!(capped.local_addr().unwrap().port() != 0);
    }
}
