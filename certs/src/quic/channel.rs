//! The session layer's streams on a QUIC connection. Close codes travel as application error codes; bytes are handed on
//! without copies.

use crate::moments::{self, Moment};
use bytes::Bytes;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::stream::{Channel, RecvHalf, Resetter, SendHalf, StreamError};
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};
use rustls::pki_types::CertificateDer;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

/// A QUIC connection whose handshake is done. When the last handle to it and to its streams is dropped without
/// [`Channel::close`], it closes as our fault: the QUIC library would close with 0, which is "done".
#[derive(Clone, Debug)]
pub struct QuicChannel(Arc<Handle>);

#[derive(Debug)]
struct Handle(Connection);

impl Drop for Handle {
    fn drop(&mut self) {
        if self.0.close_reason().is_none() {
            self.0.close(wire_code(CloseCode::Internal), &[]);
        }
    }
}

impl QuicChannel {
    /// Over an established connection.
    pub fn new(connection: Connection) -> Self {
        Self(Arc::new(Handle(connection)))
    }

    /// The peer's certificates, its own first, as they were checked in the handshake; empty when it sent none.
    pub fn peer_chain(&self) -> Vec<CertificateDer<'static>> {
        let identity =
            self.connection().peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        identity.map(|chain| *chain).unwrap_or_default()
    }

    /// Where the peer's packets come from now.
    pub fn remote_address(&self) -> SocketAddr {
        self.connection().remote_address()
    }

    /// Waits until the connection is gone, and says how it went.
    pub async fn closed(&self) -> StreamError {
        connection_error(self.connection().closed().await)
    }

    /// The connection itself, for its statistics.
    pub fn connection(&self) -> &Connection {
        &self.0.0
    }
}

impl Channel for QuicChannel {
    type Send = QuicSend;
    type Recv = QuicRecv;

    async fn open_bi(&self) -> Result<(QuicSend, QuicRecv), StreamError> {
        self.both(self.connection().open_bi().await)
    }

    async fn accept_bi(&self) -> Result<(QuicSend, QuicRecv), StreamError> {
        self.both(self.connection().accept_bi().await)
    }

    async fn open_uni(&self) -> Result<QuicSend, StreamError> {
        let stream = self.connection().open_uni().await.map_err(connection_error)?;
        Ok(QuicSend { stream: Arc::new(Mutex::new(stream)), ended: false, _keeps_open: Arc::clone(&self.0) })
    }

    async fn accept_uni(&self) -> Result<QuicRecv, StreamError> {
        let stream = self.connection().accept_uni().await.map_err(connection_error)?;
        Ok(QuicRecv { stream, ended: false, _keeps_open: Arc::clone(&self.0) })
    }

    fn set_windows(&self, bytes: u32) {
        self.0.0.set_receive_window(VarInt::from_u32(bytes));
        self.0.0.set_send_window(bytes.into());
    }

    fn close(&self, code: CloseCode) {
        self.connection().close(wire_code(code), &[]);
    }
}

impl QuicChannel {
    fn both(
        &self,
        streams: Result<(SendStream, RecvStream), ConnectionError>,
    ) -> Result<(QuicSend, QuicRecv), StreamError> {
        let (send, recv) = streams.map_err(connection_error)?;
        let send = QuicSend { stream: Arc::new(Mutex::new(send)), ended: false, _keeps_open: Arc::clone(&self.0) };
        Ok((send, QuicRecv { stream: recv, ended: false, _keeps_open: Arc::clone(&self.0) }))
    }
}

fn wire_code(code: CloseCode) -> VarInt {
    VarInt::from_u32(code.code())
}

/// The writing half of a stream. Dropped before [`SendHalf::finish`], it is reset: the QUIC library would finish it, and
/// a cut transfer would look complete.
#[derive(Debug)]
pub struct QuicSend {
    /// Locked for moments and never while somebody waits: a cut resets it from elsewhere.
    stream: Arc<Mutex<SendStream>>,
    ended: bool,
    _keeps_open: Arc<Handle>,
}

impl QuicSend {
    fn lock(&self) -> std::sync::MutexGuard<'_, SendStream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of streams with a higher priority go first; 0 where nothing is said.
    pub fn set_priority(&self, priority: i32) {
        // It fails on a stream that has ended, whose priority no longer matters.
        let _ended = self.lock().set_priority(priority);
    }
}

impl SendHalf for QuicSend {
    async fn send(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        let mut rest = [bytes];
        let written = poll_fn(|cx| {
            loop {
                let [left] = &rest;
                if left.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                // Made anew for each look: what was not written stays in `rest`, and the library wakes this task all the same.
                let mut stream = self.lock();
                let writing = stream.write_chunks(&mut rest);
                match pin!(writing).poll(cx) {
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        written.await.map_err(|error| match error {
            WriteError::Stopped(code) => StreamError::Reset(CloseCode::from_code(code.into_inner())),
            WriteError::ConnectionLost(error) => connection_error(error),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => {
                StreamError::Lost("this side has already ended the stream".into())
            }
        })
    }

    fn finish(&mut self) {
        self.ended = true;
        // It fails on a stream that the peer stopped or this side reset: the peer knows already.
        let _ended = self.lock().finish();
    }

    fn reset(&mut self, code: CloseCode) {
        self.ended = true;
        // It fails on a stream that was reset before; the first code counts.
        if self.lock().reset(wire_code(code)).is_ok() {
            moments::note(|| Moment::Reset { to: self._keeps_open.0.remote_address() });
        }
    }

    fn resetter(&self) -> Option<Resetter> {
        let (stream, keeps_open) = (Arc::downgrade(&self.stream), Arc::downgrade(&self._keeps_open));
        Some(Box::new(move |code| {
            if let (Some(stream), Some(connection)) = (stream.upgrade(), keeps_open.upgrade()) {
                // It fails on a stream that has ended.
                if stream.lock().unwrap_or_else(PoisonError::into_inner).reset(wire_code(code)).is_ok() {
                    moments::note(|| Moment::Reset { to: connection.0.remote_address() });
                }
            }
        }))
    }
}

impl Drop for QuicSend {
    fn drop(&mut self) {
        if !self.ended {
            self.reset(CloseCode::Internal);
        }
    }
}

/// The reading half of a stream. Dropped before its end, the peer is told to stop.
#[derive(Debug)]
pub struct QuicRecv {
    stream: RecvStream,
    ended: bool,
    _keeps_open: Arc<Handle>,
}

impl RecvHalf for QuicRecv {
    async fn recv(&mut self, max: usize) -> Result<Option<Bytes>, StreamError> {
        match self.stream.read_chunk(max, true).await {
            Ok(Some(chunk)) => Ok(Some(chunk.bytes)),
            Ok(None) => {
                self.ended = true;
                Ok(None)
            }
            Err(ReadError::Reset(code)) => {
                self.ended = true;
                Err(StreamError::Reset(CloseCode::from_code(code.into_inner())))
            }
            Err(ReadError::ConnectionLost(error)) => Err(connection_error(error)),
            Err(ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected) => {
                Err(StreamError::Lost("this side has already ended the stream".into()))
            }
        }
    }

    fn stop(&mut self, code: CloseCode) {
        self.ended = true;
        // It fails on a stream that has ended: there is nothing to stop.
        let _ended = self.stream.stop(wire_code(code));
    }
}

impl Drop for QuicRecv {
    fn drop(&mut self) {
        if !self.ended {
            // The library would say 0 here, which is "done".
            self.stop(CloseCode::Cancelled);
        }
    }
}

/// What became of a connection, in the session layer's words.
pub fn connection_error(error: ConnectionError) -> StreamError {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            StreamError::Closed(CloseCode::from_code(close.error_code.into_inner()))
        }
        other => StreamError::Lost(other.to_string()),
    }
}
