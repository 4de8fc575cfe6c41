//! Frames over a stream: what both programs' session layers are written on.

use crate::close::CloseCode;
use crate::frame::{Decoder, Event, FrameError};
use crate::stream::{Ender, RecvHalf, SendHalf, StreamError};
use crate::wire;
use bytes::Bytes;
use prost::Message;

/// Bytes asked of the transport at a time: a chunk, so that bulk is handed on as it comes.
const READ_BYTES_MAX: usize = 1 << 20;

/// Why a session on a stream could not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The transport ended it.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The peer sent what is no frame or no message.
    #[error("the peer does not speak this protocol: {0}")]
    Frame(#[from] FrameError),
    /// The peer sent another message than the one that must come here.
    #[error("the peer sent {got} where {expected} must come")]
    Unexpected {
        /// What must come.
        expected: &'static str,
        /// What came.
        got: &'static str,
    },
    /// The stream ended before its end record.
    #[error("the stream ended before its end record: the transfer is incomplete")]
    Incomplete,
}

impl SessionError {
    /// The close code that tells the peer, or that the peer told.
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::Stream(StreamError::Reset(code) | StreamError::Closed(code)) => *code,
            Self::Stream(StreamError::Lost(_)) | Self::Incomplete => CloseCode::Internal,
            Self::Frame(_) | Self::Unexpected { .. } => CloseCode::Protocol,
        }
    }
}

/// What an event is called in an error.
pub fn event_name(event: Option<&Event>) -> &'static str {
    match event {
        None => "the end of the stream",
        Some(Event::Control(_)) => "a control message",
        Some(Event::Manifest(_)) => "a manifest",
        Some(Event::Segment(_)) => "a segment",
        Some(Event::Item { .. }) => "an item",
        Some(Event::ItemData(_)) => "an item's bytes",
        Some(Event::Batch(_)) => "a batch",
    }
}

/// The reading half of a stream, frame by frame.
#[derive(Debug)]
pub struct FrameReader<R> {
    recv: R,
    decoder: Decoder,
    bytes: u64,
}

impl<R: RecvHalf> FrameReader<R> {
    /// Reads frames from `recv`.
    pub fn new(recv: R) -> Self {
        Self { recv, decoder: Decoder::default(), bytes: 0 }
    }

    /// The same, for batches that may come compressed.
    #[must_use]
    pub fn taking_lz4(self) -> Self {
        Self { decoder: self.decoder.taking_lz4(), ..self }
    }

    /// The next event; `None` at the end of the stream, between frames.
    ///
    /// Cancel safe: nothing that was read is lost when the future is dropped.
    ///
    /// # Errors
    /// What the transport says, and bytes that are no frames.
    pub async fn next(&mut self) -> Result<Option<Event>, SessionError> {
        loop {
            if let Some(event) = self.decoder.next()? {
                return Ok(Some(event));
            }
            match self.recv.recv(READ_BYTES_MAX).await? {
                Some(bytes) => {
                    self.bytes += bytes.len() as u64;
                    self.decoder.push(bytes);
                }
                None => {
                    self.decoder.finish()?;
                    return Ok(None);
                }
            }
        }
    }

    /// The next control message; `None` at the end of the stream.
    ///
    /// # Errors
    /// Also where another frame comes; `expected` names what must come.
    pub async fn message<M: Message + Default>(&mut self, expected: &'static str) -> Result<Option<M>, SessionError> {
        match self.next().await? {
            Some(Event::Control(body)) => Ok(Some(wire::decode(body)?)),
            None => Ok(None),
            other => Err(SessionError::Unexpected { expected, got: event_name(other.as_ref()) }),
        }
    }

    /// The next control message, which must come.
    ///
    /// # Errors
    /// Also [`SessionError::Incomplete`] at the end of the stream.
    pub async fn expect<M: Message + Default>(&mut self, expected: &'static str) -> Result<M, SessionError> {
        self.message(expected).await?.ok_or(SessionError::Incomplete)
    }

    /// Bytes read from the stream so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Tells the peer to stop sending.
    pub fn stop(&mut self, code: CloseCode) {
        self.recv.stop(code);
    }

    /// What stops the stream from elsewhere, where the transport can.
    pub fn ender(&self) -> Option<Ender> {
        self.recv.ender()
    }
}

/// The writing half of a stream, frame by frame.
#[derive(Debug)]
pub struct FrameWriter<S> {
    send: S,
}

impl<S: SendHalf> FrameWriter<S> {
    /// Writes frames to `send`.
    pub fn new(send: S) -> Self {
        Self { send }
    }

    /// Sends a control message.
    ///
    /// # Errors
    /// What the transport says; a message over its bound.
    pub async fn message(&mut self, message: &impl Message) -> Result<(), SessionError> {
        Ok(self.send.send(wire::encode(message)?).await?)
    }

    /// Sends bytes that are a frame, or a part of one, already; without copying them.
    ///
    /// # Errors
    /// What the transport says.
    pub async fn raw(&mut self, bytes: Bytes) -> Result<(), SessionError> {
        Ok(self.send.send(bytes).await?)
    }

    /// Says that nothing follows.
    pub fn finish(&mut self) {
        self.send.finish();
    }

    /// Ends the stream at once.
    pub fn reset(&mut self, code: CloseCode) {
        self.send.reset(code);
    }

    /// What resets the stream from elsewhere, where the transport can.
    pub fn ender(&self) -> Option<Ender> {
        self.send.ender()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::{DataHello, Done};
    use std::collections::VecDeque;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// What the other side did, or is to do: both halves of a stream without a transport.
    #[derive(Debug, Default)]
    struct Script {
        bytes: VecDeque<Bytes>,
        ended: Vec<String>,
    }

    impl SendHalf for Script {
        async fn send(&mut self, bytes: Bytes) -> Result<(), StreamError> {
            self.bytes.push_back(bytes);
            Ok(())
        }

        fn finish(&mut self) {
            self.ended.push("finished".into());
        }

        fn reset(&mut self, code: CloseCode) {
            self.ended.push(format!("reset {code:?}"));
        }
    }

    impl RecvHalf for Script {
        async fn recv(&mut self, _max: usize) -> Result<Option<Bytes>, StreamError> {
            Ok(self.bytes.pop_front())
        }

        fn stop(&mut self, code: CloseCode) {
            self.ended.push(format!("stopped {code:?}"));
        }
    }

    /// Nothing here waits.
    fn done<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    fn what_is_written_is_read_and_counted_and_ends_as_it_was_ended() {
        let hello = DataHello { transfer: "t".into(), token: Bytes::from_static(b"token") };
        let mut writer = FrameWriter::new(Script::default());
        done(writer.message(&hello)).unwrap();
        done(writer.raw(crate::frame::segment(7))).unwrap();
        let written: usize = writer.send.bytes.iter().map(Bytes::len).sum();
        writer.finish();
        writer.reset(CloseCode::Busy);
        assert_eq!(writer.send.ended, ["finished", "reset Busy"]);
        assert!(writer.ender().is_none());

        let mut reader = FrameReader::new(writer.send);
        assert_eq!(done(reader.expect::<DataHello>("a hello")), Ok(hello));
        assert_eq!(done(reader.next()), Ok(Some(Event::Segment(7))));
        assert_eq!(done(reader.message::<Done>("the end")), Ok(None));
        assert_eq!(done(reader.expect::<Done>("the end")), Err(SessionError::Incomplete));
        assert_eq!(reader.bytes(), written as u64);
        reader.stop(CloseCode::Denied);
        assert_eq!(reader.recv.ended.last().map(String::as_str), Some("stopped Denied"));
    }

    #[test]
    fn another_frame_than_must_come_and_half_a_frame_are_refused() {
        let mut other = FrameReader::new(Script { bytes: [crate::frame::segment(7)].into(), ..Script::default() });
        let expected = SessionError::Unexpected { expected: "a hello", got: "a segment" };
        assert_eq!(done(other.expect::<DataHello>("a hello")), Err(expected.clone()));
        let half = crate::frame::segment(7).slice(..2);
        let mut cut = FrameReader::new(Script { bytes: [half].into(), ..Script::default() });
        let error = done(cut.next()).unwrap_err();
        assert!(matches!(error, SessionError::Frame(_)), "{error}");
        for (error, code) in [
            (expected, CloseCode::Protocol),
            (error, CloseCode::Protocol),
            (SessionError::Incomplete, CloseCode::Internal),
            (StreamError::Lost(String::new()).into(), CloseCode::Internal),
            (StreamError::Reset(CloseCode::Suspended).into(), CloseCode::Suspended),
            (StreamError::Closed(CloseCode::Draining).into(), CloseCode::Draining),
        ] {
            assert_eq!(error.close_code(), code, "{error}");
        }
        let body = Bytes::new();
        let names = [
            (Event::Control(body.clone()), "a control message"),
            (Event::Manifest(body.clone()), "a manifest"),
            (Event::Segment(1), "a segment"),
            (Event::ItemData(body.clone()), "an item's bytes"),
            (Event::Batch(body), "a batch"),
        ];
        assert!(names.iter().all(|(event, name)| event_name(Some(event)) == *name));
        assert_eq!(event_name(None), "the end of the stream");
    }
}
