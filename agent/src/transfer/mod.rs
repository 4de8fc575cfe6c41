//! What uploads and downloads share: how they reach the gateway, how they try again, and how a transfer is settled with
//! a receipt.
//!
//! Everything here and in [`crate::upload`] and [`crate::download`] is generic over the streams and the disk, so that a
//! scripted gateway in memory can tell it lies.

mod progress;
mod roots;
mod settle;
mod tries;

pub use progress::Meter;
pub use roots::{Differs, Roots, values_digest};
pub use settle::{Expected, Notary, settle, settle_at_once};
pub use tries::{Patience, Tries};

use crate::connect::{ControlStream, Session};
use crate::error::{AgentError, Told};
use crate::outbox::Outbox;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::host::{Clock, Disk};
use lingqu_protocol::session::{FrameReader, SessionError};
use lingqu_protocol::stream::{Channel, RecvHalf, StreamError};
use lingqu_protocol::wire::DataHello;
use lingqu_protocol::wire::reply::Reply;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// How long the reason of a broken data stream is waited for: the gateway says it before it resets, so it is a round trip
/// away at most.
const REASON_WAIT: Duration = Duration::from_secs(3);

/// Reaches the gateway, again and again where it must.
pub trait Dial: Send + Sync {
    /// What a connection's streams are.
    type Channel: Channel;
    /// One try to connect, until the gateway said Welcome.
    fn dial(&self) -> impl Future<Output = Result<Session<Self::Channel>, AgentError>> + Send;
}

/// What a transfer is given from outside.
#[derive(Clone)]
pub struct Env {
    /// Where sources are read, and staging and receipts are written.
    pub disk: Arc<dyn Disk>,
    /// Measures how long it took.
    pub clock: Arc<dyn Clock>,
    /// Where receipts are kept.
    pub outbox: Outbox,
    /// Checks receipts and signs them.
    pub notary: Arc<dyn Notary>,
    /// How often a lost connection is tried again.
    pub patience: Patience,
    /// Whether a bar is drawn on the terminal.
    pub show_progress: bool,
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").field("outbox", &self.outbox).field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// A blocking task that panicked or was dropped with the runtime.
pub(crate) fn task_failed(error: &tokio::task::JoinError) -> AgentError {
    AgentError::Machine(Told::new("task", format!("a worker failed: {error}"), format!("内部任务失败：{error}")))
}

/// The gateway sent what no gateway should.
pub(crate) fn peer(en: impl Into<String>, zh: impl Into<String>) -> AgentError {
    AgentError::Peer(Told::new("protocol", en, zh).next("compare the versions of both programs", "核对双方程序的版本"))
}

/// A data stream that the gateway opened, where it begins with `hello`: it belongs to what was asked.
pub(crate) async fn data_stream<R: RecvHalf>(recv: R, hello: &DataHello) -> Result<FrameReader<R>, AgentError> {
    let mut data = FrameReader::new(recv);
    let said: DataHello = data.expect("DataHello").await?;
    if said == *hello {
        return Ok(data);
    }
    data.stop(CloseCode::Protocol);
    Err(peer("a data stream of something else", "收到不属于本次请求的数据流"))
}

/// The next one.
pub(crate) async fn next_data_stream<C: Channel>(
    channel: &C,
    hello: &DataHello,
) -> Result<FrameReader<C::Recv>, AgentError> {
    data_stream(channel.accept_uni().await?, hello).await
}

/// Does blocking work on a blocking thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AgentError> + Send + 'static,
) -> Result<T, AgentError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| task_failed(&e))?
}

/// The next reply that is not about progress. Cancel safe.
pub(crate) async fn answer<C: Channel>(control: &mut ControlStream<C>) -> Result<Reply, AgentError> {
    loop {
        match control.reply().await? {
            Reply::Progress(_) => {}
            other => return Ok(other),
        }
    }
}

/// Why a data stream broke, looked for a few seconds on the control stream: a refusal, or the end of the whole connection,
/// says more than the code of one stream; else `error` itself.
pub(crate) async fn reason<C: Channel>(control: &mut ControlStream<C>, error: AgentError) -> AgentError {
    if !matches!(error, AgentError::Session(SessionError::Stream(StreamError::Reset(_)))) {
        return if matches!(error, AgentError::Session(_)) { control.reason(error).await } else { error };
    }
    let look = async {
        loop {
            if let Err(said) = answer(control).await {
                return said;
            }
        }
    };
    match tokio::time::timeout(REASON_WAIT, look).await {
        Ok(
            said @ (AgentError::Refused(_)
            | AgentError::Session(SessionError::Stream(StreamError::Closed(_) | StreamError::Lost(_)))),
        ) => said,
        Ok(_) | Err(_) => error,
    }
}
