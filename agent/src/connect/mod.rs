//! A session with the gateway: greeting, limits, requests. It sees streams and never QUIC.

mod backoff;
mod checkpoints;
mod dial;
mod link;
#[cfg(test)]
mod loopback;
mod renewal;
#[cfg(test)]
pub(crate) mod testing;

pub use backoff::{Backoff, with_retries};
pub use checkpoints::{Checkpoints, Pins};
pub use dial::Dialer;
pub use link::Link;
pub use renewal::{is_due, renew};

use crate::error::{AgentError, Told};
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::frame::Event;
use lingqu_protocol::host::Clock;
use lingqu_protocol::ids::GatewayId;
use lingqu_protocol::session::{FrameReader, FrameWriter, SessionError, event_name};
use lingqu_protocol::stream::{Channel, RecvHalf, SendHalf as _};
use lingqu_protocol::wire::{self, Hello, Limits, Reply, Request, Step, Welcome, reply, request, step};
use std::fmt;
use std::time::Duration;

/// How long one answer that needs no data may take: longer than a busy gateway's commit, shorter than a person's
/// patience. A transfer's own replies have the transfer's deadlines.
pub const ANSWER_SECS_MAX: u64 = 60;

/// How long to look for the reason when a stream was cut: the gateway tries to say it before the stream ends.
const REASON_SECS_MAX: u64 = 5;

/// Replies that may lie before a reason: the progress told while a stream was being cut.
const REPLIES_BEFORE_REASON_MAX: usize = 1_000;

/// A clock difference from here on is worth a warning: more than a long round trip can explain.
pub const CLOCK_DIFFERENCE_WARNING_MS: i64 = 2_000;

/// What the gateway said when the connection began.
#[derive(Clone, Debug, PartialEq)]
pub struct Greeting {
    /// Protocol version that both speak.
    pub version: u32,
    /// The smaller of both sides' limits.
    pub limits: Limits,
    /// The gateway's id.
    pub gateway: GatewayId,
    /// Its domain.
    pub domain: String,
    /// This agent's address as the gateway sees it.
    pub address_seen: String,
    /// Milliseconds by which the gateway's clock is ahead of this machine's (negative: behind).
    pub clock_difference_ms: i64,
    /// How long Hello and Welcome took.
    pub round_trip: Duration,
    /// The gateway's latest checkpoint, a signed note; not checked yet.
    pub checkpoint: String,
    /// Consistency proof from the checkpoint that this agent sent; not checked yet.
    pub consistency: Vec<Vec<u8>>,
    /// The root-signed statement of the gateway's keys (DSSE envelope as JSON); not checked yet.
    pub statement: Vec<u8>,
}

/// A connection after its greeting. Requests may run side by side on it.
pub struct Session<C: Channel> {
    channel: C,
    greeting: Greeting,
    /// The greeting's stream: it stays open as long as the session.
    _hello: (C::Send, FrameReader<C::Recv>),
}

/// One request's stream.
pub struct ControlStream<C: Channel> {
    /// What this side says: steps, after the request.
    pub writer: FrameWriter<C::Send>,
    /// What the gateway answers. [`ControlStream::reply`] reads it with refusals told apart.
    pub reader: FrameReader<C::Recv>,
}

impl<C: Channel> Session<C> {
    /// Greets the gateway on a new connection. `checkpoint` is the last one that this agent keeps, or empty.
    ///
    /// # Errors
    /// What the connection says; a gateway that refuses, or that speaks no version of ours.
    pub async fn greet(channel: C, clock: &dyn Clock, checkpoint: String) -> Result<Self, AgentError> {
        let (mut send, recv) = channel.open_bi().await?;
        let mut reader = FrameReader::new(recv);
        let hello = Hello {
            versions: wire::VERSIONS.to_vec(),
            limits: Some(wire::limits()),
            software: concat!("lingqu ", env!("CARGO_PKG_VERSION")).to_owned(),
            checkpoint,
        };
        let frame = wire::encode(&hello).map_err(SessionError::from)?;
        let (before_wall, before) = (clock.wall(), clock.monotonic());
        send.send(frame).await?;
        let welcome = within(ANSWER_SECS_MAX, welcome(&mut reader)).await?;
        let round_trip = clock.monotonic().saturating_sub(before);
        let here_ms = before_wall.plus_ms(i64::try_from(round_trip.as_millis() / 2).unwrap_or(i64::MAX)).0;
        let greeting = greeting(welcome, here_ms, round_trip)?;
        warn_about_clock(&greeting);
        Ok(Self { channel, greeting, _hello: (send, reader) })
    }

    /// What the gateway said at the beginning.
    pub const fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// The connection below, for data streams ([`Channel::open_uni`], [`Channel::accept_uni`]).
    pub const fn channel(&self) -> &C {
        &self.channel
    }

    /// Opens a stream and asks. The stream stays open for steps.
    ///
    /// # Errors
    /// What the connection says.
    pub async fn request(&self, ask: request::Ask) -> Result<ControlStream<C>, AgentError> {
        let (send, recv) = self.channel.open_bi().await?;
        let mut stream = ControlStream::<C> { writer: FrameWriter::new(send), reader: FrameReader::new(recv) };
        if let Err(error) = stream.writer.message(&Request::from(ask)).await {
            return Err(stream.reason(error.into()).await);
        }
        Ok(stream)
    }

    /// Asks what needs one answer and no data.
    ///
    /// # Errors
    /// A refusal as [`AgentError::Refused`]; no answer in [`ANSWER_SECS_MAX`].
    pub async fn ask(&self, ask: request::Ask) -> Result<reply::Reply, AgentError> {
        within(ANSWER_SECS_MAX, async {
            let mut stream = self.request(ask).await?;
            stream.writer.finish();
            stream.reply().await
        })
        .await
    }

    /// Says goodbye where a request was answered, by what it asked for or by a refusal; a connection that failed has
    /// nobody to say it to.
    pub fn close_after<T>(&self, outcome: &Result<T, AgentError>) {
        if matches!(outcome, Ok(_) | Err(AgentError::Refused(_))) {
            self.close();
        }
    }

    /// Says goodbye: everything that was asked has been answered.
    pub fn close(&self) {
        self.channel.close(CloseCode::Done);
    }
}

impl<C: Channel> fmt::Debug for Session<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({:?})", self.greeting)
    }
}

impl<C: Channel> fmt::Debug for ControlStream<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ControlStream")
    }
}

impl<C: Channel> ControlStream<C> {
    /// The next reply.
    ///
    /// # Errors
    /// A refusal as [`AgentError::Refused`]; a stream that ended first.
    pub async fn reply(&mut self) -> Result<reply::Reply, AgentError> {
        let reply: Reply = self.reader.expect("a reply").await?;
        match reply.reply {
            Some(reply::Reply::Fault(fault)) => Err(AgentError::Refused(Box::new(fault))),
            Some(reply) => Ok(reply),
            None => Err(SessionError::Unexpected { expected: "a reply", got: "an unknown reply" }.into()),
        }
    }

    /// Sends a step of a transfer. Where the gateway cut the stream, the error is the reason that it gave.
    ///
    /// # Errors
    /// As [`Self::reply`].
    pub async fn step(&mut self, step: step::Step) -> Result<(), AgentError> {
        match self.writer.message(&Step::from(step)).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.reason(error.into()).await),
        }
    }

    /// The refusal that the gateway gave on this stream, looked for a few seconds; `error` where there is none. For a
    /// data stream that was cut: its code says little, the control stream says why.
    pub async fn reason(&mut self, error: AgentError) -> AgentError {
        let look = async {
            for _ in 0..REPLIES_BEFORE_REASON_MAX {
                match self.reply().await {
                    Ok(_) => {}
                    Err(refused @ AgentError::Refused(_)) => return Some(refused),
                    Err(_) => return None,
                }
            }
            None
        };
        match tokio::time::timeout(Duration::from_secs(REASON_SECS_MAX), look).await {
            Ok(Some(refused)) => refused,
            Ok(None) | Err(_) => error,
        }
    }
}

/// What must not happen here: a reply that does not belong to the request.
pub fn unexpected(expected: &'static str, reply: &reply::Reply) -> AgentError {
    let got = match reply {
        reply::Reply::Fault(_) => "a fault",
        reply::Reply::Certificate(_) => "a certificate",
        reply::Reply::Document(_) => "a document's acknowledgement",
        reply::Reply::Records(_) => "records",
        reply::Reply::PushReady(_) => "leave to push",
        reply::Reply::Durable(_) => "durable ranges",
        reply::Reply::Progress(_) => "progress",
        reply::Reply::PullReady(_) => "leave to pull",
        reply::Reply::PullEnd(_) => "the end of a pull",
        reply::Reply::Receipt(_) => "a receipt",
        reply::Reply::Done(_) => "the end",
        reply::Reply::Answer(_) => "an answer",
        reply::Reply::FollowReady(_) => "leave to follow",
        reply::Reply::Slice(_) => "a version",
        reply::Reply::SliceEnd(_) => "the end of a version",
        reply::Reply::SliceTaken(_) => "that a version was taken",
        reply::Reply::CaughtUp(_) => "that there is no more",
        reply::Reply::Alive(_) => "a sign of life",
    };
    SessionError::Unexpected { expected, got }.into()
}

/// Does `work`, which takes no longer than that.
pub(crate) async fn within<T>(secs: u64, work: impl Future<Output = Result<T, AgentError>>) -> Result<T, AgentError> {
    match tokio::time::timeout(Duration::from_secs(secs), work).await {
        Ok(done) => done,
        Err(_) => Err(AgentError::Unreachable(
            Told::new(
                "no_answer",
                format!("the gateway took the request and gave no answer in {secs} s"),
                format!("网关接收请求后 {secs} 秒内未应答"),
            )
            .next(
                "run the same command again: what was done is not done twice",
                "重新执行同一命令：已完成的不会重复执行",
            ),
        )),
    }
}

/// Welcome, or the fault that stands in its place.
async fn welcome<R: RecvHalf>(reader: &mut FrameReader<R>) -> Result<Welcome, AgentError> {
    let body = match reader.next().await? {
        Some(Event::Control(body)) => body,
        None => return Err(SessionError::Incomplete.into()),
        other => return Err(SessionError::Unexpected { expected: "Welcome", got: event_name(other.as_ref()) }.into()),
    };
    // The first field of both messages has the same number and another type, so that neither reads as the other.
    match wire::decode::<Welcome>(body.clone()) {
        Ok(welcome) => Ok(welcome),
        Err(error) => match wire::decode::<Reply>(body).map(|r| r.reply) {
            Ok(Some(reply::Reply::Fault(fault))) => Err(AgentError::Refused(Box::new(fault))),
            _ => Err(SessionError::from(error).into()),
        },
    }
}

fn greeting(welcome: Welcome, here_ms: i64, round_trip: Duration) -> Result<Greeting, AgentError> {
    if !wire::VERSIONS.contains(&welcome.version) {
        let (theirs, ours) = (welcome.version, wire::VERSIONS);
        return Err(AgentError::Peer(
            Told::new(
                "version",
                format!("the gateway chose protocol version {theirs}; this program speaks {ours:?}"),
                format!("网关选择的协议版本为 {theirs}，本程序支持 {ours:?}"),
            )
            .next("install a version of this program that fits the gateway", "安装与网关匹配的版本"),
        ));
    }
    let gateway = welcome.gateway.parse().map_err(|e| {
        AgentError::Peer(Told::new("gateway_id", format!("the gateway's name: {e}"), format!("网关标识无效：{e}")))
    })?;
    Ok(Greeting {
        version: welcome.version,
        limits: smaller(wire::limits(), welcome.limits.unwrap_or_else(wire::limits)),
        gateway,
        domain: welcome.domain,
        address_seen: welcome.address_seen,
        clock_difference_ms: welcome.now_ms.saturating_sub(here_ms),
        round_trip,
        checkpoint: welcome.checkpoint,
        consistency: welcome.consistency.iter().map(|hash| hash.to_vec()).collect(),
        statement: welcome.statement.to_vec(),
    })
}

fn smaller(ours: Limits, theirs: Limits) -> Limits {
    Limits {
        control_bytes_max: ours.control_bytes_max.min(theirs.control_bytes_max),
        data_streams_max: ours.data_streams_max.min(theirs.data_streams_max).max(1),
        batch_bytes_max: ours.batch_bytes_max.min(theirs.batch_bytes_max),
    }
}

fn warn_about_clock(greeting: &Greeting) {
    let ms = greeting.clock_difference_ms;
    if ms.saturating_abs() >= CLOCK_DIFFERENCE_WARNING_MS {
        tracing::warn!(difference_ms = ms, "this machine's clock differs from the gateway's: set it (NTP)");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
