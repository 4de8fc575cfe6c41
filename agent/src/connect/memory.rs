//! A connection in memory, for tests: two ends, streams as bounded queues.

use bytes::Bytes;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::stream::{Channel, RecvHalf, SendHalf, StreamError};
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, watch};

/// Sends that a stream holds before it blocks, so that a test can meet a slow reader.
const SENDS_IN_FLIGHT: usize = 8;

enum Piece {
    Bytes(Bytes),
    Finish,
    Reset(CloseCode),
}

/// The writing half.
pub(crate) struct MemorySend {
    to: mpsc::UnboundedSender<Piece>,
    room: Arc<tokio::sync::Semaphore>,
    stopped: watch::Receiver<Option<CloseCode>>,
    closed: watch::Receiver<Option<CloseCode>>,
    ended: bool,
}

/// The reading half.
pub(crate) struct MemoryRecv {
    from: mpsc::UnboundedReceiver<Piece>,
    room: Arc<tokio::sync::Semaphore>,
    rest: Bytes,
    stop: watch::Sender<Option<CloseCode>>,
    closed: watch::Receiver<Option<CloseCode>>,
    ended: bool,
}

type Bi = (MemorySend, MemoryRecv);

struct End {
    open_bi: mpsc::UnboundedSender<Bi>,
    open_uni: mpsc::UnboundedSender<MemoryRecv>,
    accept_bi: tokio::sync::Mutex<mpsc::UnboundedReceiver<Bi>>,
    accept_uni: tokio::sync::Mutex<mpsc::UnboundedReceiver<MemoryRecv>>,
    close: Arc<Mutex<watch::Sender<Option<CloseCode>>>>,
    closed: watch::Receiver<Option<CloseCode>>,
}

/// One end of a connection.
#[derive(Clone)]
pub(crate) struct MemoryChannel(Arc<End>);

/// A connection: both ends.
pub(crate) fn pair() -> (MemoryChannel, MemoryChannel) {
    let (bi_a, from_bi_a) = mpsc::unbounded_channel();
    let (bi_b, from_bi_b) = mpsc::unbounded_channel();
    let (uni_a, from_uni_a) = mpsc::unbounded_channel();
    let (uni_b, from_uni_b) = mpsc::unbounded_channel();
    let (close, closed) = watch::channel(None);
    let close = Arc::new(Mutex::new(close));
    let end = |open_bi, open_uni, accept_bi, accept_uni| {
        MemoryChannel(Arc::new(End {
            open_bi,
            open_uni,
            accept_bi: tokio::sync::Mutex::new(accept_bi),
            accept_uni: tokio::sync::Mutex::new(accept_uni),
            close: close.clone(),
            closed: closed.clone(),
        }))
    };
    (end(bi_a, uni_a, from_bi_b, from_uni_b), end(bi_b, uni_b, from_bi_a, from_uni_a))
}

fn stream(closed: &watch::Receiver<Option<CloseCode>>) -> (MemorySend, MemoryRecv) {
    let (to, from) = mpsc::unbounded_channel();
    let (stop, stopped) = watch::channel(None);
    let room = Arc::new(tokio::sync::Semaphore::new(SENDS_IN_FLIGHT));
    (
        MemorySend { to, room: room.clone(), stopped, closed: closed.clone(), ended: false },
        MemoryRecv { from, room, rest: Bytes::new(), stop, closed: closed.clone(), ended: false },
    )
}

fn lost() -> StreamError {
    StreamError::Lost("the other end was dropped".into())
}

/// Waits until the code is set; for ever where nobody is left who could.
async fn set(watch: &mut watch::Receiver<Option<CloseCode>>) -> CloseCode {
    match watch.wait_for(Option::is_some).await.map(|code| *code) {
        Ok(Some(code)) => code,
        _ => std::future::pending().await,
    }
}

impl SendHalf for MemorySend {
    async fn send(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        tokio::select! {
            biased;
            code = set(&mut self.closed) => Err(StreamError::Closed(code)),
            code = set(&mut self.stopped) => Err(StreamError::Reset(code)),
            permit = self.room.acquire() => {
                permit.map_err(|_| lost())?.forget();
                self.to.send(Piece::Bytes(bytes)).map_err(|_| lost())
            }
        }
    }

    fn finish(&mut self) {
        self.ended = true;
        let _ = self.to.send(Piece::Finish);
    }

    fn reset(&mut self, code: CloseCode) {
        self.ended = true;
        let _ = self.to.send(Piece::Reset(code));
    }
}

impl Drop for MemorySend {
    fn drop(&mut self) {
        if !self.ended {
            // As the QUIC adapter does.
            let _ = self.to.send(Piece::Reset(CloseCode::Internal));
        }
    }
}

impl RecvHalf for MemoryRecv {
    async fn recv(&mut self, max: usize) -> Result<Option<Bytes>, StreamError> {
        if self.rest.is_empty() {
            if self.ended {
                return Ok(None);
            }
            let piece = tokio::select! {
                biased;
                piece = self.from.recv() => piece,
                code = set(&mut self.closed) => return Err(StreamError::Closed(code)),
            };
            match piece {
                Some(Piece::Bytes(bytes)) => {
                    self.room.add_permits(1);
                    self.rest = bytes;
                }
                Some(Piece::Finish) => self.ended = true,
                Some(Piece::Reset(code)) => return Err(StreamError::Reset(code)),
                None => return Err(lost()),
            }
            if self.ended {
                return Ok(None);
            }
        }
        Ok(Some(self.rest.split_to(max.min(self.rest.len()))))
    }

    fn stop(&mut self, code: CloseCode) {
        self.stop.send_replace(Some(code));
    }
}

impl Channel for MemoryChannel {
    type Send = MemorySend;
    type Recv = MemoryRecv;

    async fn open_bi(&self) -> Result<Bi, StreamError> {
        let (send, their_recv) = stream(&self.0.closed);
        let (their_send, recv) = stream(&self.0.closed);
        self.0.open_bi.send((their_send, their_recv)).map_err(|_| lost())?;
        Ok((send, recv))
    }

    async fn accept_bi(&self) -> Result<Bi, StreamError> {
        let mut closed = self.0.closed.clone();
        tokio::select! {
            biased;
            code = set(&mut closed) => Err(StreamError::Closed(code)),
            stream = async { self.0.accept_bi.lock().await.recv().await } => stream.ok_or_else(lost),
        }
    }

    async fn open_uni(&self) -> Result<MemorySend, StreamError> {
        let (send, recv) = stream(&self.0.closed);
        self.0.open_uni.send(recv).map_err(|_| lost())?;
        Ok(send)
    }

    async fn accept_uni(&self) -> Result<MemoryRecv, StreamError> {
        let mut closed = self.0.closed.clone();
        tokio::select! {
            biased;
            code = set(&mut closed) => Err(StreamError::Closed(code)),
            stream = async { self.0.accept_uni.lock().await.recv().await } => stream.ok_or_else(lost),
        }
    }

    fn close(&self, code: CloseCode) {
        if let Ok(close) = self.0.close.lock() {
            close.send_replace(Some(code));
        }
    }
}
