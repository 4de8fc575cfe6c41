//! The byte streams that a session runs on. The session layer sees these and never QUIC, so that TLS over TCP can carry
//! the same frames where a firewall drops UDP.

use crate::close::CloseCode;
use bytes::Bytes;
use std::future::Future;

/// How a stream ended before its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer ended this stream with a code.
    #[error("the peer ended the stream: {0:?}")]
    Reset(CloseCode),
    /// The peer ended the whole connection with a code.
    #[error("the peer closed the connection: {0:?}")]
    Closed(CloseCode),
    /// The connection is gone without a word: a time-out, an unreachable network.
    #[error("the connection was lost: {0}")]
    Lost(String),
}

/// The half of a stream that this side writes.
pub trait SendHalf: Send + 'static {
    /// Hands over `bytes` without copying them; waits for the peer's window.
    fn send(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), StreamError>> + Send;
    /// Says that nothing follows.
    fn finish(&mut self);
    /// Ends the stream at once; bytes that were not sent are dropped.
    fn reset(&mut self, code: CloseCode);
    /// What does the same from elsewhere, at once and whoever waits for the stream meanwhile; `None` for a transport that
    /// cannot.
    fn ender(&self) -> Option<Ender> {
        None
    }
}

/// Ends one half of a stream from elsewhere: resets what is written, stops what is read. Whoever waits for it then fails.
pub trait EndsStream: Send + Sync {
    /// Ends it, where it has not ended. It waits for nothing.
    fn end(&self, code: CloseCode);
    /// Whether there is nothing left to end.
    fn is_gone(&self) -> bool;
}

/// What ends one half of a stream.
pub type Ender = Box<dyn EndsStream>;

/// The half of a stream that this side reads.
pub trait RecvHalf: Send + 'static {
    /// The next bytes in order, at most `max`; `None` when the peer finished.
    fn recv(&mut self, max: usize) -> impl Future<Output = Result<Option<Bytes>, StreamError>> + Send;
    /// Tells the peer to stop sending.
    fn stop(&mut self, code: CloseCode);
    /// What does the same from elsewhere, at once and whoever waits for the stream meanwhile; `None` for a transport that
    /// cannot.
    fn ender(&self) -> Option<Ender> {
        None
    }
}

/// A connection that can make more streams: bulk bytes of one transfer travel on several.
pub trait Channel: Clone + Send + Sync + 'static {
    /// The writing half of its streams.
    type Send: SendHalf;
    /// The reading half of its streams.
    type Recv: RecvHalf;
    /// Opens a stream on which both sides write; waits while the peer allows no more.
    fn open_bi(&self) -> impl Future<Output = Result<(Self::Send, Self::Recv), StreamError>> + Send;
    /// Waits for the peer to open one.
    fn accept_bi(&self) -> impl Future<Output = Result<(Self::Send, Self::Recv), StreamError>> + Send;
    /// Opens a stream on which only this side writes.
    fn open_uni(&self) -> impl Future<Output = Result<Self::Send, StreamError>> + Send;
    /// Waits for the peer to open one.
    fn accept_uni(&self) -> impl Future<Output = Result<Self::Recv, StreamError>> + Send;
    /// Gives the connection another share of the memory for bytes in flight, each way; a transport that has no windows of
    /// its own has nothing to share.
    fn set_windows(&self, _bytes: u32) {}
    /// Lets the peer have so many streams open, in both directions and towards us; what it may have is not taken back. A
    /// transport that keeps nothing for streams that are not open has nothing to let.
    fn set_streams(&self, _bidi: u32, _uni: u32) {}
    /// Closes the connection and everything on it.
    fn close(&self, code: CloseCode);
}
