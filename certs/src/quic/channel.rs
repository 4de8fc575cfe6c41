//! The session layer's streams on a QUIC connection. Close codes travel as application error codes; bytes are handed on
//! without copies.

use crate::moments::{self, Moment};
use bytes::Bytes;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::stream::{Channel, Ender, EndsStream, RecvHalf, SendHalf, StreamError};
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};
use rustls::pki_types::CertificateDer;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};

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
        Ok(QuicRecv::new(stream, &self.0))
    }

    fn set_windows(&self, bytes: u32) {
        self.0.0.set_receive_window(VarInt::from_u32(bytes));
        self.0.0.set_send_window(bytes.into());
    }

    fn set_streams(&self, bidi: u32, uni: u32) {
        self.0.0.set_max_concurrent_bi_streams(VarInt::from_u32(bidi));
        self.0.0.set_max_concurrent_uni_streams(VarInt::from_u32(uni));
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
        Ok((send, QuicRecv::new(recv, &self.0)))
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
    fn lock(&self) -> MutexGuard<'_, SendStream> {
        lock(&self.stream)
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

    fn ender(&self) -> Option<Ender> {
        Some(Box::new(Resetting(Arc::downgrade(&self.stream), Arc::downgrade(&self._keeps_open))))
    }
}

/// Resets a stream from elsewhere.
struct Resetting(Weak<Mutex<SendStream>>, Weak<Handle>);

impl EndsStream for Resetting {
    fn end(&self, code: CloseCode) {
        let (Some(stream), Some(connection)) = (self.0.upgrade(), self.1.upgrade()) else { return };
        // It fails on a stream that has ended.
        if lock(&stream).reset(wire_code(code)).is_ok() {
            moments::note(|| Moment::Reset { to: connection.0.remote_address() });
        }
    }

    fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for QuicSend {
    fn drop(&mut self) {
        if !self.ended {
            self.reset(CloseCode::Internal);
        }
    }
}

/// The reading half of a stream. Dropped before its end, the peer is told to stop.
///
/// quinn-proto (0.11.19, `Recv::reset`) counts a reset that comes twice, because our acknowledgement was late, as if the
/// peer had sent the bytes that it never sent twice: where the connection's window has no room for that, it closes the whole
/// connection as if the peer had broken it (FLOW_CONTROL_ERROR), with every other transfer on it. A stream that was stopped
/// before its reset comes is safe, and so is a connection whose window was not made smaller shortly before: then the
/// bytes of the first reset have been given back to it.
#[derive(Debug)]
pub struct QuicRecv {
    /// Locked for moments and never while somebody waits: a cut stops it from elsewhere.
    reading: Arc<Mutex<Reading>>,
    _keeps_open: Arc<Handle>,
}

#[derive(Debug)]
struct Reading {
    stream: RecvStream,
    ended: Option<Ended>,
    /// Who waits for more: stopped from elsewhere, nothing more comes.
    waits: Option<Waker>,
}

#[derive(Clone, Copy, Debug)]
enum Ended {
    Read,
    Reset(VarInt),
    Stopped,
}

impl Reading {
    fn stop(&mut self, code: CloseCode) {
        if self.ended.is_none() {
            self.ended = Some(Ended::Stopped);
            // It fails on a stream that has ended: there is nothing to stop.
            let _ended = self.stream.stop(wire_code(code));
        }
    }
}

impl QuicRecv {
    fn new(stream: RecvStream, connection: &Arc<Handle>) -> Self {
        let reading = Reading { stream, ended: None, waits: None };
        Self { reading: Arc::new(Mutex::new(reading)), _keeps_open: Arc::clone(connection) }
    }
}

impl RecvHalf for QuicRecv {
    async fn recv(&mut self, max: usize) -> Result<Option<Bytes>, StreamError> {
        let read = poll_fn(|cx| {
            let mut reading = lock(&self.reading);
            match reading.ended {
                None => {}
                Some(Ended::Read) => return Poll::Ready(Ok(None)),
                Some(Ended::Reset(code)) => return Poll::Ready(Err(ReadError::Reset(code))),
                Some(Ended::Stopped) => return Poll::Ready(Err(ReadError::ClosedStream)),
            }
            // Made anew for each look: the library wakes this task all the same.
            let read = pin!(reading.stream.read_chunk(max, true)).poll(cx);
            match &read {
                Poll::Ready(Ok(None)) => reading.ended = Some(Ended::Read),
                Poll::Ready(Err(ReadError::Reset(code))) => reading.ended = Some(Ended::Reset(*code)),
                Poll::Ready(_) => {}
                Poll::Pending => reading.waits = Some(cx.waker().clone()),
            }
            read
        });
        match read.await {
            Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
            Err(ReadError::Reset(code)) => Err(StreamError::Reset(CloseCode::from_code(code.into_inner()))),
            Err(ReadError::ConnectionLost(error)) => Err(connection_error(error)),
            Err(ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected) => {
                Err(StreamError::Lost("this side has already ended the stream".into()))
            }
        }
    }

    fn stop(&mut self, code: CloseCode) {
        lock(&self.reading).stop(code);
    }

    fn ender(&self) -> Option<Ender> {
        Some(Box::new(Stopping(Arc::downgrade(&self.reading), Arc::downgrade(&self._keeps_open))))
    }
}

/// Stops a stream from elsewhere.
struct Stopping(Weak<Mutex<Reading>>, Weak<Handle>);

impl EndsStream for Stopping {
    fn end(&self, code: CloseCode) {
        // The connection outlives the stream in here: it closes where its last handle goes.
        let (Some(reading), Some(_connection)) = (self.0.upgrade(), self.1.upgrade()) else { return };
        let waits = {
            let mut reading = lock(&reading);
            reading.stop(code);
            reading.waits.take()
        };
        if let Some(waits) = waits {
            waits.wake();
        }
    }

    fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl Drop for QuicRecv {
    fn drop(&mut self) {
        // The library would say 0 here, which is "done".
        lock(&self.reading).stop(CloseCode::Cancelled);
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
