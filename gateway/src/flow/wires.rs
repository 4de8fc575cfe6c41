//! The streams of one request: its control stream, and the data streams that the peer opens for it or that are opened for
//! the peer. A data stream is bound to its transfer by a token that only the two sides know, so that the same frames can
//! travel where every stream is a connection of its own.

use super::error::FlowError;
use crate::gate::{Leash, Wait};
use bytes::Bytes;
use lingqu_certs::key::PublicKey;
use lingqu_certs::moments::{self, Moment};
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::frame::Event;
use lingqu_protocol::host::Entropy;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::session::{FrameReader, FrameWriter, SessionError, event_name};
use lingqu_protocol::stream::{Channel, SendHalf};
use lingqu_protocol::wire::{DataHello, Reply, reply};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Bytes of a token: nobody guesses it while the transfer runs.
pub const TOKEN_BYTES: usize = 16;

/// Names a transfer's data streams.
pub type Token = [u8; TOKEN_BYTES];

/// A peer that owes a control message gets this long: people are not waiting on the other side, programs are, and the
/// longest of their work between two messages is one sync of a disk.
pub const CONTROL_WAIT: Duration = Duration::from_secs(60);

/// A receiver that takes nothing for this long is given up, and may resume: people hold a pipe while they read a screen,
/// and not for longer than they leave a desk.
const STALL_WAIT: Duration = Duration::from_secs(900);

/// The streams of one request.
pub struct Wires<C: Channel> {
    /// Opens data streams.
    pub channel: C,
    /// What the gateway says.
    pub writer: FrameWriter<C::Send>,
    /// What the agent says.
    pub reader: FrameReader<C::Recv>,
    /// Where the agent's data streams arrive.
    pub router: Arc<Router<C::Recv>>,
    /// The key that the agent proved to hold in the handshake; its receipts are cosigned with it.
    pub signer: Option<PublicKey>,
}

impl<C: Channel> Wires<C> {
    /// Says something to the agent.
    ///
    /// # Errors
    /// What the transport says.
    pub async fn reply(&mut self, reply: impl Into<reply::Reply>) -> Result<(), FlowError> {
        Ok(self.writer.message(&Reply::from(reply.into())).await?)
    }

    /// The agent's next message, which must come, and soon.
    ///
    /// # Errors
    /// What the transport says, another message, or none in time.
    pub async fn expect<M: prost::Message + Default>(&mut self, what: &'static str) -> Result<M, FlowError> {
        tokio::time::timeout(CONTROL_WAIT, self.reader.expect(what))
            .await
            .map_err(|_| FlowError::TooSlow { what })?
            .map_err(Into::into)
    }
}

/// Brings the data streams that a peer opens to the requests that wait for them.
#[derive(Debug)]
pub struct Router<R>(Mutex<HashMap<Token, Waiting<R>>>);

#[derive(Debug)]
struct Waiting<R> {
    transfer: TransferId,
    leash: Leash,
    sender: mpsc::Sender<FrameReader<R>>,
}

/// The data streams of one transfer, as they arrive. Dropped, the transfer takes no more.
#[derive(Debug)]
pub struct Arrivals<R> {
    token: Token,
    receiver: mpsc::Receiver<FrameReader<R>>,
    router: Arc<Router<R>>,
}

impl<R> Default for Router<R> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<R: lingqu_protocol::stream::RecvHalf> Router<R> {
    /// Waits for up to `streams` data streams of a transfer under a new token. They end when the leash is cut, wherever they
    /// are by then.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn wait_for(
        self: &Arc<Self>,
        transfer: TransferId,
        streams: usize,
        leash: &Leash,
        entropy: &dyn Entropy,
    ) -> Result<Arrivals<R>, FlowError> {
        let token = token(entropy)?;
        let (sender, receiver) = mpsc::channel(streams.max(1));
        self.lock().insert(token, Waiting { transfer, leash: leash.clone(), sender });
        Ok(Arrivals { token, receiver, router: Arc::clone(self) })
    }

    /// Brings a stream that the peer opened to where it belongs; one that belongs nowhere is stopped.
    ///
    /// # Errors
    /// Where the stream does not begin as a data stream does.
    pub async fn route(&self, recv: R) -> Result<(), SessionError> {
        let mut reader = FrameReader::new(recv);
        let hello: DataHello = match reader.next().await? {
            Some(Event::Control(body)) => lingqu_protocol::wire::decode(body)?,
            other => {
                return Err(SessionError::Unexpected { expected: "a data hello", got: event_name(other.as_ref()) });
            }
        };
        let waiting = Token::try_from(hello.token.as_ref()).ok().and_then(|token| {
            let waiting = self.lock();
            let found = waiting.get(&token)?;
            (found.transfer.to_string() == hello.transfer).then(|| (found.leash.clone(), found.sender.clone()))
        });
        let sent = waiting.map(|(leash, sender)| {
            if let Some(stream) = reader.ender() {
                leash.ends(stream);
            }
            sender.try_send(reader)
        });
        match sent {
            Some(Ok(())) => Ok(()),
            Some(Err(mpsc::error::TrySendError::Full(mut reader) | mpsc::error::TrySendError::Closed(mut reader))) => {
                reader.stop(CloseCode::OverLimit);
                Ok(())
            }
            None => Err(SessionError::Unexpected { expected: "the token of a transfer", got: "another" }),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Token, Waiting<R>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R> Arrivals<R> {
    /// The token that the peer's data streams must show.
    pub const fn token(&self) -> &Token {
        &self.token
    }

    /// The next data stream.
    pub async fn next(&mut self) -> Option<FrameReader<R>> {
        self.receiver.recv().await
    }
}

impl<R> Drop for Arrivals<R> {
    fn drop(&mut self) {
        self.router.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.token);
    }
}

/// A new token.
///
/// # Errors
/// When the system has no randomness.
pub fn token(entropy: &dyn Entropy) -> Result<Token, FlowError> {
    let mut token = [0; TOKEN_BYTES];
    entropy.fill(&mut token).map_err(|e| FlowError::Machine(e.to_string()))?;
    Ok(token)
}

/// A data stream that the gateway opened. Whatever ends it before [`finish`](Self::finish) resets it: with the cut's code
/// where its leash was cut, so that the receiver knows not only that it is incomplete but why. One that is finished is held
/// until the receiver has everything: what still waits for the receiver's window then must not leave after a cut.
pub struct DataLane<S: SendHalf> {
    writer: FrameWriter<S>,
    leash: Leash,
    finished: bool,
}

impl<S: SendHalf> DataLane<S> {
    /// Opens one for a transfer.
    ///
    /// # Errors
    /// What the transport says; a cut.
    pub async fn open<C: Channel<Send = S>>(
        channel: &C,
        transfer: TransferId,
        token: Token,
        leash: Leash,
    ) -> Result<Self, FlowError> {
        leash.check()?;
        let mut lane = Self { writer: FrameWriter::new(channel.open_uni().await?), leash, finished: false };
        if let Some(stream) = lane.writer.ender() {
            lane.leash.ends(stream);
        }
        lane.writer.message(&DataHello { transfer: transfer.to_string(), token: token.to_vec().into() }).await?;
        Ok(lane)
    }

    /// Sends bytes that are a frame, or a part of one; not one of them once the leash is cut, however long the peer's
    /// window keeps them waiting.
    ///
    /// # Errors
    /// What the transport says; a cut.
    pub async fn raw(&mut self, bytes: Bytes) -> Result<(), FlowError> {
        self.leash.check()?;
        moments::note(|| Moment::Begun);
        let _waiting = self.leash.waits().begin(Wait::Reader);
        tokio::select! {
            biased;
            cut = self.leash.cut() => Err(cut.into()),
            sent = tokio::time::timeout(STALL_WAIT, self.writer.raw(bytes)) => match sent {
                Ok(sent) => Ok(sent?),
                Err(_) => Err(FlowError::TooSlow { what: "room in the receiver's window" }),
            },
        }
    }

    /// The leash that it hangs on.
    pub const fn leash(&self) -> &Leash {
        &self.leash
    }

    /// Sends a control message between frames.
    ///
    /// # Errors
    /// What the transport says; a cut.
    pub async fn message(&mut self, message: &impl prost::Message) -> Result<(), FlowError> {
        let bytes = lingqu_protocol::wire::encode(message)?;
        self.raw(bytes).await
    }

    /// Says that nothing follows.
    pub fn finish(&mut self) {
        self.finished = true;
        self.writer.finish();
    }
}

impl<S: SendHalf> Drop for DataLane<S> {
    fn drop(&mut self) {
        match self.leash.check() {
            Err(cut) => self.writer.reset(cut.code),
            Ok(()) if !self.finished => self.writer.reset(CloseCode::Internal),
            Ok(()) => {}
        }
    }
}
