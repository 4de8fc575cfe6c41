//! One suite for every connection that the session layer may run on.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::memory;
use crate::quic::{MTU_BYTES_MAX, QuicChannel};
use crate::testing::Gateway;
use crate::tls::peer::NoExceptions;
use bytes::Bytes;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::stream::{Channel, RecvHalf, SendHalf, StreamError};

/// Reads to the end.
async fn drain(recv: &mut impl RecvHalf) -> Result<Vec<u8>, StreamError> {
    let mut all = Vec::new();
    while let Some(piece) = recv.recv(1000).await? {
        assert!(!piece.is_empty() && piece.len() <= 1000);
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

/// A stream from `a` to `b` that has carried something.
async fn opened<C: Channel>(a: &C, b: &C) -> (C::Send, C::Recv) {
    let mut send = a.open_uni().await.unwrap();
    send.send(Bytes::from_static(b"begin")).await.unwrap();
    let mut recv = b.accept_uni().await.unwrap();
    assert_eq!(recv.recv(5).await.unwrap().unwrap(), "begin");
    (send, recv)
}

async fn suite<C: Channel>(a: C, b: C) {
    // Bytes arrive in order, in pieces no larger than asked for, both ways.
    let sent: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    let (mut ask, mut answered) = a.open_bi().await.unwrap();
    let writing = async {
        for piece in sent.chunks(3001) {
            ask.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        ask.finish();
    };
    let echoing = async {
        let (mut answer, mut asked) = b.accept_bi().await.unwrap();
        while let Some(piece) = asked.recv(777).await.unwrap() {
            answer.send(piece).await.unwrap();
        }
        answer.finish();
    };
    let ((), (), got) = tokio::join!(writing, echoing, drain(&mut answered));
    assert_eq!(got.unwrap(), sent);

    // A sender that is dropped does not look like an end.
    let (send, mut recv) = opened(&a, &b).await;
    drop(send);
    assert_eq!(drain(&mut recv).await, Err(StreamError::Reset(CloseCode::Internal)));

    // A reset says why, from either end.
    let (mut send, mut recv) = opened(&b, &a).await;
    send.reset(CloseCode::Suspended);
    assert_eq!(drain(&mut recv).await, Err(StreamError::Reset(CloseCode::Suspended)));
    drop(send);

    // One who finished and was dropped has finished.
    let (mut send, mut recv) = opened(&a, &b).await;
    send.finish();
    drop(send);
    assert_eq!(drain(&mut recv).await, Ok(vec![]));

    // A reader that stops says why, and one that is dropped says that it went away.
    for (stop, code) in [(Some(CloseCode::OverLimit), CloseCode::OverLimit), (None, CloseCode::Cancelled)] {
        let (mut send, mut recv) = opened(&a, &b).await;
        match stop {
            Some(code) => recv.stop(code),
            None => drop(recv),
        }
        let error = loop {
            if let Err(error) = send.send(Bytes::from_static(&[0; 1024])).await {
                break error;
            }
        };
        assert_eq!(error, StreamError::Reset(code));
    }

    // A closed connection says why on every stream and to whoever waits for one.
    let (mut send, mut recv) = opened(&a, &b).await;
    a.close(CloseCode::Draining);
    let closed = StreamError::Closed(CloseCode::Draining);
    assert_eq!(b.accept_bi().await.err(), Some(closed.clone()));
    assert_eq!(b.accept_uni().await.err(), Some(closed.clone()));
    assert_eq!(b.open_uni().await.err(), Some(closed.clone()));
    assert_eq!(recv.recv(1).await, Err(closed));
    assert!(matches!(send.send(Bytes::from_static(b"x")).await, Err(StreamError::Lost(_))));
    assert!(matches!(a.open_bi().await.err(), Some(StreamError::Lost(_))));
}

async fn quic() -> (Gateway, QuicChannel, QuicChannel) {
    let gateway = Gateway::new(NoExceptions);
    let met = gateway.meet(gateway.agent()).await;
    (gateway, met.client.unwrap(), met.server.unwrap())
}

#[tokio::test]
async fn quic_keeps_the_promises() {
    let (_gateway, client, server) = quic().await;
    suite(client, server).await;
    let (_gateway, client, server) = quic().await;
    suite(server, client).await;
}

#[tokio::test]
async fn memory_keeps_the_promises() {
    let (a, b) = memory::pair();
    suite(a.clone(), b.clone()).await;
    let (a, b) = memory::pair();
    suite(b, a).await;
}

#[tokio::test]
async fn bulk_arrives_whole_in_the_largest_datagrams() {
    let (_gateway, client, server) = quic().await;
    let block = Bytes::from(vec![7; 1 << 20]);
    let mtu = || client.connection().stats().path.current_mtu;
    let mut sent = 0usize;
    let (mut send, mut recv) = opened(&client, &server).await;
    let writing = async {
        // On loopback discovery ends at the bound; a batch that were too large for one UDP send would end it at 1200.
        while sent < 32 || (mtu() < MTU_BYTES_MAX && sent < 512) {
            send.send(block.clone()).await.unwrap();
            sent += 1;
        }
        send.finish();
    };
    let reading = async {
        let mut total = 0;
        while let Some(piece) = recv.recv(usize::MAX).await.unwrap() {
            assert!(piece.iter().all(|b| *b == 7));
            total += piece.len();
        }
        total
    };
    let ((), total) = tokio::join!(writing, reading);
    assert_eq!(total, sent << 20);
    assert_eq!(mtu(), MTU_BYTES_MAX);
}

#[tokio::test]
async fn a_connection_that_is_dropped_is_not_done() {
    let (_gateway, client, server) = quic().await;
    // A client that leaves before it heard from the gateway closes in a form that the gateway no longer reads.
    drop(opened(&server, &client).await);
    let (send, mut recv) = opened(&client, &server).await;
    drop(client);
    // A stream keeps its connection.
    drop(send);
    let end = drain(&mut recv).await;
    let ends = [StreamError::Reset(CloseCode::Internal), StreamError::Closed(CloseCode::Internal)];
    assert!(matches!(&end, Err(error) if ends.contains(error)), "{end:?}");
    assert_eq!(server.closed().await, StreamError::Closed(CloseCode::Internal));
}
