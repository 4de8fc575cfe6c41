//! A connection inside one process: the session layer's streams without a network, for tests of whoever speaks over
//! them. It keeps the promises of QUIC's: order, bounded windows, resets that overtake bytes, and a dropped sender that
//! does not look like an end.

use bytes::Bytes;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::stream::{Channel, RecvHalf, SendHalf, StreamError};
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc, watch};

/// Pieces that a stream holds between its ends: small, so that a test meets a full window.
const WINDOW_PIECES: usize = 16;

/// Streams that wait to be accepted.
const WAITING_STREAMS: usize = 64;

type Bidi = (MemorySend, MemoryRecv);

/// One end of a connection.
#[derive(Clone)]
pub struct MemoryChannel(Arc<End>);

struct End {
    bidi_out: mpsc::Sender<Bidi>,
    uni_out: mpsc::Sender<MemoryRecv>,
    bidi_in: Mutex<mpsc::Receiver<Bidi>>,
    uni_in: Mutex<mpsc::Receiver<MemoryRecv>>,
    closed: Closed,
}

/// Whether the connection was closed, by which end and why.
#[derive(Clone)]
struct Closed {
    state: Arc<watch::Sender<Option<(u8, CloseCode)>>>,
    me: u8,
}

/// Two ends of a new connection.
pub fn pair() -> (MemoryChannel, MemoryChannel) {
    let (bidi_a, bidi_at_b) = mpsc::channel(WAITING_STREAMS);
    let (bidi_b, bidi_at_a) = mpsc::channel(WAITING_STREAMS);
    let (uni_a, uni_at_b) = mpsc::channel(WAITING_STREAMS);
    let (uni_b, uni_at_a) = mpsc::channel(WAITING_STREAMS);
    let state = Arc::new(watch::Sender::new(None));
    let end = |bidi_out, uni_out, bidi_in, uni_in, me| {
        let closed = Closed { state: Arc::clone(&state), me };
        let (bidi_in, uni_in) = (Mutex::new(bidi_in), Mutex::new(uni_in));
        MemoryChannel(Arc::new(End { bidi_out, uni_out, bidi_in, uni_in, closed }))
    };
    (end(bidi_a, uni_a, bidi_at_a, uni_at_a, 0), end(bidi_b, uni_b, bidi_at_b, uni_at_b, 1))
}

impl Closed {
    fn other(&self) -> Self {
        Self { state: Arc::clone(&self.state), me: 1 - self.me }
    }

    /// Waits for the connection's end.
    async fn wait(&self) -> StreamError {
        let mut state = self.state.subscribe();
        // The sender lives in `self`, so this waits for a value and for nothing else.
        let by = state.wait_for(Option::is_some).await.ok().and_then(|state| *state);
        match by {
            Some((who, code)) if who != self.me => StreamError::Closed(code),
            _ => StreamError::Lost("closed".into()),
        }
    }
}

impl MemoryChannel {
    fn stream(&self) -> (MemorySend, MemoryRecv) {
        let (pieces, received) = mpsc::channel(WINDOW_PIECES);
        let fate = Arc::new(Fate { reset: watch::Sender::new(None), stopped: watch::Sender::new(None) });
        let send = MemorySend { pieces: Some(pieces), fate: Arc::clone(&fate), closed: self.0.closed.clone() };
        let recv = MemoryRecv { received, rest: Bytes::new(), fate, ended: false, closed: self.0.closed.other() };
        (send, recv)
    }

    async fn until_closed<T>(&self, what: impl Future<Output = Option<T>>) -> Result<T, StreamError> {
        tokio::select! {
            biased;
            error = self.0.closed.wait() => Err(error),
            got = what => got.ok_or_else(|| StreamError::Lost("the other end is gone".into())),
        }
    }
}

impl Channel for MemoryChannel {
    type Send = MemorySend;
    type Recv = MemoryRecv;

    async fn open_bi(&self) -> Result<Bidi, StreamError> {
        let (send, their_recv) = self.stream();
        let (mut their_send, mut recv) = self.stream();
        // The second direction starts at the other end.
        their_send.closed = self.0.closed.other();
        recv.closed = self.0.closed.clone();
        self.until_closed(async { self.0.bidi_out.send((their_send, their_recv)).await.ok() }).await?;
        Ok((send, recv))
    }

    async fn accept_bi(&self) -> Result<Bidi, StreamError> {
        self.until_closed(async { self.0.bidi_in.lock().await.recv().await }).await
    }

    async fn open_uni(&self) -> Result<MemorySend, StreamError> {
        let (send, recv) = self.stream();
        self.until_closed(async { self.0.uni_out.send(recv).await.ok() }).await?;
        Ok(send)
    }

    async fn accept_uni(&self) -> Result<MemoryRecv, StreamError> {
        self.until_closed(async { self.0.uni_in.lock().await.recv().await }).await
    }

    fn close(&self, code: CloseCode) {
        let me = self.0.closed.me;
        self.0.closed.state.send_if_modified(|state| {
            let first = state.is_none();
            state.get_or_insert((me, code));
            first
        });
    }
}

/// How a stream ended before its end: from the writing side, from the reading side.
struct Fate {
    reset: watch::Sender<Option<CloseCode>>,
    stopped: watch::Sender<Option<CloseCode>>,
}

fn set_once(fate: &watch::Sender<Option<CloseCode>>, code: CloseCode) {
    fate.send_if_modified(|state| {
        let first = state.is_none();
        state.get_or_insert(code);
        first
    });
}

async fn wait_for(fate: &watch::Sender<Option<CloseCode>>) -> StreamError {
    let mut state = fate.subscribe();
    let code = state.wait_for(Option::is_some).await.ok().and_then(|state| *state);
    StreamError::Reset(code.unwrap_or(CloseCode::Internal))
}

/// The writing half of a stream; dropped before its end, it resets the stream.
pub struct MemorySend {
    pieces: Option<mpsc::Sender<Bytes>>,
    fate: Arc<Fate>,
    closed: Closed,
}

impl SendHalf for MemorySend {
    async fn send(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        let Some(pieces) = &self.pieces else {
            return Err(StreamError::Lost("this side has already ended the stream".into()));
        };
        tokio::select! {
            biased;
            error = self.closed.wait() => Err(error),
            error = wait_for(&self.fate.stopped) => Err(error),
            sent = pieces.send(bytes) => sent.map_err(|_| StreamError::Lost("the other end is gone".into())),
        }
    }

    fn finish(&mut self) {
        self.pieces = None;
    }

    fn reset(&mut self, code: CloseCode) {
        set_once(&self.fate.reset, code);
        self.pieces = None;
    }
}

impl Drop for MemorySend {
    fn drop(&mut self) {
        if self.pieces.is_some() {
            self.reset(CloseCode::Internal);
        }
    }
}

/// The reading half of a stream; dropped before its end, the other end is told to stop.
pub struct MemoryRecv {
    received: mpsc::Receiver<Bytes>,
    rest: Bytes,
    fate: Arc<Fate>,
    ended: bool,
    closed: Closed,
}

impl RecvHalf for MemoryRecv {
    async fn recv(&mut self, max: usize) -> Result<Option<Bytes>, StreamError> {
        while self.rest.is_empty() {
            let piece = tokio::select! {
                biased;
                error = self.closed.wait() => return Err(error),
                error = wait_for(&self.fate.reset) => {
                    self.ended = true;
                    return Err(error);
                }
                piece = self.received.recv() => piece,
            };
            match piece {
                Some(piece) => self.rest = piece,
                None => {
                    self.ended = true;
                    return Ok(None);
                }
            }
        }
        Ok(Some(self.rest.split_to(max.min(self.rest.len()))))
    }

    fn stop(&mut self, code: CloseCode) {
        self.ended = true;
        set_once(&self.fate.stopped, code);
    }
}

impl Drop for MemoryRecv {
    fn drop(&mut self) {
        if !self.ended {
            self.stop(CloseCode::Cancelled);
        }
    }
}
