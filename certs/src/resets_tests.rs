//! A reset that comes twice, because the acknowledgement of the first was lost, must not cost the connection.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::quic::{self, Handshakes, Limits, QuicChannel, QuicRecv};
use crate::testing::{DOMAIN, Gateway, meet_through};
use crate::tls::peer::NoExceptions;
use crate::tls::server::server_config;
use bytes::Bytes;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::stream::{Channel, RecvHalf, SendHalf, StreamError};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::UdpSocket;

/// What the server takes at first; then it takes less, as the gateway does when others come.
const WINDOW_BYTES: u32 = 64 << 10;
const LESS_BYTES: u32 = 8 << 10;

/// What the client writes and never sends: once it fits what the server still takes, twice it does not.
const UNSENT_BYTES: usize = 40 << 10;

/// A line on which each direction can be cut.
struct Line {
    address: SocketAddr,
    up: Arc<AtomicBool>,
    down: Arc<AtomicBool>,
}

impl Line {
    async fn to(server: SocketAddr) -> Self {
        let bound = || UdpSocket::bind("127.0.0.1:0");
        let (front, back) = (Arc::new(bound().await.unwrap()), Arc::new(bound().await.unwrap()));
        back.connect(server).await.unwrap();
        let (up, down) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
        let line = Self { address: front.local_addr().unwrap(), up: Arc::clone(&up), down: Arc::clone(&down) };
        tokio::spawn(async move {
            let (mut from_client, mut from_server) = (vec![0; 65_536], vec![0; 65_536]);
            let mut client = None;
            loop {
                tokio::select! {
                    came = front.recv_from(&mut from_client) => {
                        let (bytes, from) = came.unwrap();
                        client = Some(from);
                        if up.load(Ordering::SeqCst) {
                            back.send(&from_client[..bytes]).await.unwrap();
                        }
                    }
                    came = back.recv(&mut from_server) => {
                        let (bytes, Some(to)) = (came.unwrap(), client) else { continue };
                        if down.load(Ordering::SeqCst) {
                            front.send_to(&from_server[..bytes], to).await.unwrap();
                        }
                    }
                }
            }
        });
        line
    }
}

/// Resets a stream towards a server that does not read, until the reset has come twice at least. The server may have made
/// its window smaller, and have stopped the stream, before.
async fn reset_twice(made_smaller: bool, stopped: bool) -> (Line, QuicChannel, QuicChannel, QuicRecv) {
    let gateway = Gateway::new(NoExceptions);
    let tls = server_config(Arc::clone(&gateway.policy), Arc::clone(&gateway.identity), gateway.clock.clone()).unwrap();
    let limits = Limits { connection_window_bytes: WINDOW_BYTES, ..Limits::streams(8, 8) };
    let handshakes = Handshakes { waiting_max: 16, waiting_bytes_max: 1 << 20, reset_secret: None };
    let any = "127.0.0.1:0".parse().unwrap();
    let endpoint = quic::server_endpoint(any, tls, limits, handshakes, gateway.clock.clone()).unwrap();
    let line = Line::to(endpoint.local_addr().unwrap()).await;
    let met = meet_through(line.address, &endpoint, gateway.agent(), &format!("gateway.{DOMAIN}")).await;
    let (client, server) = (met.client.unwrap(), met.server.unwrap());

    let mut send = client.open_uni().await.unwrap();
    send.send(Bytes::from_static(b"begin")).await.unwrap();
    let mut recv = server.accept_uni().await.unwrap();
    assert_eq!(recv.recv(5).await.unwrap().unwrap(), "begin");
    if made_smaller {
        server.set_windows(LESS_BYTES);
    }
    line.up.store(false, Ordering::SeqCst);
    send.send(Bytes::from(vec![0; UNSENT_BYTES])).await.unwrap();
    send.reset(CloseCode::Cancelled);
    if stopped {
        recv.ender().unwrap().end(CloseCode::Suspended);
    }
    line.down.store(false, Ordering::SeqCst);
    line.up.store(true, Ordering::SeqCst);
    let resets = || server.connection().stats().frame_rx.reset_stream;
    while resets() < 3 && server.connection().close_reason().is_none() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    line.down.store(true, Ordering::SeqCst);
    (line, client, server, recv)
}

/// Where this fails, quinn counts such a reset once: what [`QuicRecv`] says of it, and what is done against it, can go.
#[tokio::test]
async fn a_reset_that_comes_twice_costs_the_connection_whose_window_was_made_smaller() {
    let (_line, _client, server, _recv) = reset_twice(true, false).await;
    let reason = server.connection().close_reason().expect("it stands").to_string();
    assert!(reason.contains("more data than permitted"), "{reason}");
}

#[tokio::test]
async fn it_does_not_where_the_window_stays_or_the_stream_was_stopped() {
    for (stopped, read) in [
        (false, StreamError::Reset(CloseCode::Cancelled)),
        (true, StreamError::Lost("this side has already ended the stream".into())),
    ] {
        let (_line, client, server, mut recv) = reset_twice(stopped, stopped).await;
        assert_eq!(server.connection().close_reason(), None);
        assert_eq!(recv.recv(1).await, Err(read));
        let mut send = client.open_uni().await.unwrap();
        send.send(Bytes::from_static(b"on")).await.unwrap();
        assert_eq!(server.accept_uni().await.unwrap().recv(2).await.unwrap().unwrap(), "on");
    }
}

#[tokio::test]
async fn who_waits_for_more_wakes_when_it_is_stopped_from_elsewhere() {
    let gateway = Gateway::new(NoExceptions);
    let met = gateway.meet(gateway.agent()).await;
    let (client, server) = (met.client.unwrap(), met.server.unwrap());
    let mut send = client.open_uni().await.unwrap();
    send.send(Bytes::from_static(b"begin")).await.unwrap();
    let mut recv = server.accept_uni().await.unwrap();
    assert_eq!(recv.recv(5).await.unwrap().unwrap(), "begin");
    let ender = recv.ender().unwrap();
    let waits = tokio::spawn(async move { recv.recv(1).await });
    tokio::task::yield_now().await;
    ender.end(CloseCode::Suspended);
    assert!(matches!(waits.await.unwrap(), Err(StreamError::Lost(_))), "stopped, and no end");
    assert!(ender.is_gone());
    let error = loop {
        if let Err(error) = send.send(Bytes::from_static(&[0; 1024])).await {
            break error;
        }
    };
    assert_eq!(error, StreamError::Reset(CloseCode::Suspended));
}
