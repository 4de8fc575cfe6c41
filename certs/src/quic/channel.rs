//! The session layer's streams on a QUIC connection. Close codes travel as application error codes; bytes are handed on
//! without copies.

use bytes::Bytes;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::stream::{Channel, RecvHalf, SendHalf, StreamError};
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};
use rustls::pki_types::CertificateDer;
use std::net::SocketAddr;

/// A QUIC connection whose handshake is done.
#[derive(Clone, Debug)]
pub struct QuicChannel(Connection);

impl QuicChannel {
    /// Over an established connection.
    pub fn new(connection: Connection) -> Self {
        Self(connection)
    }

    /// The peer's certificates, its own first, as they were checked in the handshake; empty when it sent none.
    pub fn peer_chain(&self) -> Vec<CertificateDer<'static>> {
        let identity = self.0.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        identity.map(|chain| *chain).unwrap_or_default()
    }

    /// Where the peer's packets come from now.
    pub fn remote_address(&self) -> SocketAddr {
        self.0.remote_address()
    }

    /// Gives this connection another share of the budget of windows.
    pub fn set_receive_window_bytes(&self, bytes: u32) {
        self.0.set_receive_window(VarInt::from_u32(bytes));
    }

    /// Waits until the connection is gone, and says how it went.
    pub async fn closed(&self) -> StreamError {
        connection_error(self.0.closed().await)
    }

    /// The connection itself, for its statistics.
    pub fn connection(&self) -> &Connection {
        &self.0
    }
}

impl Channel for QuicChannel {
    type Send = QuicSend;
    type Recv = QuicRecv;

    async fn open_bi(&self) -> Result<(QuicSend, QuicRecv), StreamError> {
        let (send, recv) = self.0.open_bi().await.map_err(connection_error)?;
        Ok((QuicSend::new(send), QuicRecv::new(recv)))
    }

    async fn accept_bi(&self) -> Result<(QuicSend, QuicRecv), StreamError> {
        let (send, recv) = self.0.accept_bi().await.map_err(connection_error)?;
        Ok((QuicSend::new(send), QuicRecv::new(recv)))
    }

    async fn open_uni(&self) -> Result<QuicSend, StreamError> {
        self.0.open_uni().await.map(QuicSend::new).map_err(connection_error)
    }

    async fn accept_uni(&self) -> Result<QuicRecv, StreamError> {
        self.0.accept_uni().await.map(QuicRecv::new).map_err(connection_error)
    }

    fn close(&self, code: CloseCode) {
        self.0.close(VarInt::from_u32(code.code()), &[]);
    }
}

/// The writing half of a stream. Dropped before [`SendHalf::finish`], it is reset: the QUIC library would finish it, and
/// a cut transfer would look complete.
#[derive(Debug)]
pub struct QuicSend {
    stream: SendStream,
    ended: bool,
}

impl QuicSend {
    fn new(stream: SendStream) -> Self {
        Self { stream, ended: false }
    }

    /// Bytes of streams with a higher priority go first; 0 where nothing is said.
    pub fn set_priority(&self, priority: i32) {
        // It fails on a stream that has ended, whose priority no longer matters.
        let _ended = self.stream.set_priority(priority);
    }
}

impl SendHalf for QuicSend {
    async fn send(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.stream.write_chunk(bytes).await.map_err(|error| match error {
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
        let _ended = self.stream.finish();
    }

    fn reset(&mut self, code: CloseCode) {
        self.ended = true;
        // It fails on a stream that was reset before; the first code counts.
        let _ended = self.stream.reset(VarInt::from_u32(code.code()));
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
}

impl QuicRecv {
    fn new(stream: RecvStream) -> Self {
        Self { stream, ended: false }
    }
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
        let _ended = self.stream.stop(VarInt::from_u32(code.code()));
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
