//! Follows an entry: opens the sink, asks the gateway for what comes after its cursor, and hands one version after the other to it.
//! Lost connections are dialled again; what was not durable comes again whole.

use super::worker::{Columns, Piece, Taken, Taking, Worker, ended};
use super::{Cursor, Shape, Sink};
use crate::connect::{Backoff, ControlStream, Session, unexpected};
use crate::error::{AgentError, Told};
use crate::outbox::id_from_key;
use crate::records::{self, Kind};
use crate::transfer::{Dial, Meter, answer, next_data_stream, peer, reason};
use lingqu_protocol::backflow::SILENCE_MAX;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::frame::Event;
use lingqu_protocol::host::Entropy;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::session::{SessionError, event_name};
use lingqu_protocol::stream::{Channel, StreamError};
use lingqu_protocol::wire::reply::Reply;
use lingqu_protocol::wire::{self, CaughtUp, DataHello, Follow, FollowReady, Slice, SliceAck, SliceEnd, request, step};
use std::sync::Arc;
use tokio::sync::watch;

/// Words of a refusal after which it is asked for everything anew.
const START_ANEW: &str = "start_anew";

/// What is followed, and into what.
pub struct Subscription {
    /// The entry's id or code.
    pub entry: String,
    /// Of the columns that the list gives; all of them where empty.
    pub columns: Vec<String>,
    /// To end where the latest version is durable.
    pub once: bool,
    /// What kind of sink it is: `folder`, `stdout`, `command`, `postgresql`.
    pub kind: &'static str,
    /// What tells this sink from the agent's others.
    pub sink: String,
    /// Makes the sink for the entry with this id; asked once.
    pub make: MakeSink,
}

/// Makes a sink for an entry by its id.
pub type MakeSink = Box<dyn FnOnce(&str) -> Result<Box<dyn Sink>, AgentError> + Send>;

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("entry", &self.entry).field("sink", &self.sink).finish_non_exhaustive()
    }
}

/// What is told while an entry is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The subscription stands: what it is called, the entry's id, and the regions.
    Began {
        /// The subscription.
        id: TransferId,
        /// The entry.
        entry: String,
        /// The regions whose rows come.
        regions: Vec<String>,
        /// The version that the sink holds; 0 where none.
        version: u64,
    },
    /// A version is durable at the sink, and the gateway knows.
    Took(Taken),
    /// Everything up to this version is durable.
    CaughtUp(Age),
}

/// How old the latest version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// The version; 0 where nothing was ever pushed.
    pub version: u64,
    /// Milliseconds since it was committed, by the gateway's clock.
    pub age_ms: i64,
}

/// What following is given from outside.
pub struct Ground {
    /// The agent's name, which the subscription's id is made from.
    pub agent: String,
    /// For pauses that are not in step with other agents'.
    pub entropy: Arc<dyn Entropy>,
    /// How patiently a lost connection is dialled again.
    pub backoff: Backoff,
    /// Counts bytes.
    pub meter: Arc<Meter>,
    /// Becomes true where this is to end: between two versions.
    pub stop: watch::Receiver<bool>,
}

impl std::fmt::Debug for Ground {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ground").field("agent", &self.agent).field("backoff", &self.backoff).finish_non_exhaustive()
    }
}

/// Follows until it is caught up (`once`), it is told to stop, or an error that does not pass. Gives how old the latest version was
/// when the sink had caught up last; `None` where it was stopped before.
///
/// # Errors
/// What the gateway refuses, a sink that fails, digests that differ (nothing of that version is committed), a connection that stays
/// away for longer than `ground.backoff` says.
pub async fn follow<D: Dial>(
    dial: &D,
    ground: &Ground,
    subscription: Subscription,
    see: &mut (dyn FnMut(Seen) + Send),
) -> Result<Option<Age>, AgentError> {
    let mut run = Run { dial, ground, subscription, entry: None, anew: false, age: None, progress: 0 };
    let mut failures = 0;
    loop {
        let before = run.progress;
        let error = match run.connection(see).await {
            Ok(()) => return Ok(run.age),
            Err(error) => error,
        };
        if let AgentError::Refused(fault) = &error
            && fault.word == START_ANEW
            && !run.anew
        {
            tracing::warn!("the gateway cannot go on from this cursor; everything comes anew");
            run.anew = true;
            continue;
        }
        if !error.is_transient() {
            return Err(error);
        }
        failures = if run.progress > before { 1 } else { failures + 1 };
        let mut dice = [0; 4];
        ground.entropy.fill(&mut dice).map_err(|e| AgentError::entropy(&e))?;
        let Some(pause) = ground.backoff.wait(failures, u32::from_le_bytes(dice)) else { return Err(error) };
        tracing::warn!(%error, failures, pause_ms = pause.as_millis() as u64, "trying again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stopped(&ground.stop) => return Ok(run.age),
        }
    }
}

/// One subscription over all its connections.
struct Run<'a, D> {
    dial: &'a D,
    ground: &'a Ground,
    subscription: Subscription,
    entry: Option<Entry>,
    /// The gateway said that the cursor is of no use.
    anew: bool,
    age: Option<Age>,
    progress: u64,
}

/// The entry, once the gateway said what it is.
struct Entry {
    id: String,
    spec: EntrySpec,
    subscription: TransferId,
    worker: Worker,
}

/// What came on a request's stream.
enum Next {
    Slice(Slice),
    CaughtUp(CaughtUp),
    Alive,
    Ended,
    Stopped,
}

impl<D: Dial> Run<'_, D> {
    /// One connection's worth of it.
    async fn connection(&mut self, see: &mut (dyn FnMut(Seen) + Send)) -> Result<(), AgentError> {
        let session = self.dial.dial().await?;
        let outcome = self.session(&session, see).await;
        session.close_after(&outcome);
        outcome
    }

    async fn session(
        &mut self,
        session: &Session<D::Channel>,
        see: &mut (dyn FnMut(Seen) + Send),
    ) -> Result<(), AgentError> {
        if self.entry.is_none() {
            self.entry = Some(self.resolve(session).await?);
        }
        let entry = self.entry.as_ref().ok_or_else(ended)?;
        // Opened anew on every connection: what the sink holds is known from the sink alone.
        let held = entry.worker.open().await?;
        let cursor = if self.anew { None } else { held.clone() };
        let ask = Follow {
            subscription: entry.subscription.to_string(),
            entry: entry.id.clone(),
            cursor: cursor.map(|Cursor { version, slice }| wire::Cursor { version, slice }),
            columns: self.subscription.columns.clone(),
            once: self.subscription.once,
            sink: self.subscription.kind.to_owned(),
            lz4: true,
        };
        let mut control = session.request(request::Ask::Follow(ask)).await?;
        let ready = match answer(&mut control).await? {
            Reply::FollowReady(ready) => ready,
            other => return Err(unexpected("leave to follow", &other)),
        };
        if ready.entry != entry.id {
            return Err(peer("another entry than the one that was asked for", "返回的目录条目与请求不符"));
        }
        see(Seen::Began {
            id: entry.subscription,
            entry: entry.id.clone(),
            regions: ready.regions.clone(),
            version: held.map_or(0, |cursor| cursor.version),
        });
        loop {
            match self.next(&mut control).await? {
                Next::Alive => {}
                Next::Stopped | Next::Ended => return Ok(()),
                Next::CaughtUp(said) => {
                    let age_ms = said.now_ms.saturating_sub(said.committed_at_ms).max(0);
                    let age = Age { version: said.version, age_ms };
                    self.age = Some(age);
                    self.progress += 1;
                    see(Seen::CaughtUp(age));
                    if self.subscription.once {
                        return Ok(());
                    }
                }
                Next::Slice(slice) => {
                    let taken = self.slice(session.channel(), &mut control, &ready, slice).await?;
                    self.anew = false;
                    self.progress += 1;
                    see(Seen::Took(taken));
                }
            }
        }
    }

    /// What the entry is, and the sink for it.
    async fn resolve(&mut self, session: &Session<D::Channel>) -> Result<Entry, AgentError> {
        let (id, spec) = entry_of(session, &self.subscription.entry).await?;
        // A key has few bytes; what a sink is called may have many.
        let key = format!("backflow {}", blake3::hash(self.subscription.sink.as_bytes()));
        let subscription = id_from_key(&self.ground.agent, &id, &key)?;
        let again: MakeSink = Box::new(|_| Err(ended()));
        let make = std::mem::replace(&mut self.subscription.make, again);
        let worker = Worker::start(make(&id)?, id.clone())?;
        Ok(Entry { id, spec, subscription, worker })
    }

    /// The next word of the gateway, unless this is to stop.
    async fn next<C: Channel>(&self, control: &mut ControlStream<C>) -> Result<Next, AgentError> {
        let reply = tokio::select! {
            biased;
            () = stopped(&self.ground.stop) => return Ok(Next::Stopped),
            reply = tokio::time::timeout(SILENCE_MAX, control.reply()) => reply,
        };
        Ok(match reply.map_err(|_| silence())? {
            Ok(Reply::Slice(slice)) => Next::Slice(slice),
            Ok(Reply::CaughtUp(said)) => Next::CaughtUp(said),
            Ok(Reply::Alive(_)) => Next::Alive,
            Ok(other) => return Err(unexpected("a version", &other)),
            Err(AgentError::Session(SessionError::Incomplete)) if self.subscription.once && self.age.is_some() => {
                Next::Ended
            }
            Err(error) => return Err(error),
        })
    }

    /// Takes one version: frames to the sink, the end record, the sink's commit, the acknowledgement.
    async fn slice<C: Channel>(
        &self,
        channel: &C,
        control: &mut ControlStream<C>,
        ready: &FollowReady,
        slice: Slice,
    ) -> Result<Taken, AgentError> {
        let entry = self.entry.as_ref().ok_or_else(ended)?;
        let (version, rows) = (slice.version, slice.rows);
        let columns = Columns {
            shape: with_keys(Shape::of_entry(&entry.spec, &ready.columns), &ready.keys),
            keys: ready.keys.clone(),
        };
        let mut taking = entry.worker.slice(slice, columns).await?;
        let hello = DataHello { transfer: entry.subscription.to_string(), token: ready.token.clone() };
        let end = match flow(control, channel, (rows > 0).then_some(&hello), &mut taking, &self.ground.meter).await {
            Ok(end) => end,
            Err(error) => return Err(reason(control, error).await),
        };
        let Taking { pieces, answer: taken, .. } = taking;
        // A sink that went away has said why.
        let _gone = pieces.send(Piece::End(Box::new(end))).await;
        drop(pieces);
        let taken = taken.await.map_err(|_| ended())??;
        let ack =
            SliceAck { version, bytes_root: taken.bytes_root.to_string(), rows_digest: taken.rows_digest.to_string() };
        control.step(step::Step::SliceAck(ack)).await?;
        loop {
            match tokio::time::timeout(SILENCE_MAX, answer(control)).await.map_err(|_| silence())?? {
                Reply::SliceTaken(said) if said.version == version => return Ok(taken),
                Reply::Alive(_) => {}
                other => return Err(unexpected("that the version was taken", &other)),
            }
        }
    }
}

/// Waits until this is to end; for ever where nobody is there to say so.
pub async fn stopped(stop: &watch::Receiver<bool>) {
    if stop.clone().wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What an entry is: its id and its items.
///
/// # Errors
/// One that does not exist for this agent, or that is of files.
pub async fn entry_of<C: Channel>(session: &Session<C>, entry: &str) -> Result<(String, EntrySpec), AgentError> {
    let record = records::one(session, Kind::Catalogue, entry).await?;
    let id = record.get("id").and_then(serde_json::Value::as_str);
    let id = id.ok_or_else(|| peer("a catalogue entry without an id", "目录条目缺少标识"))?.to_owned();
    Ok((id, crate::upload::batch::entry(session, entry).await?))
}

fn with_keys(mut shape: Shape, keys: &[String]) -> Shape {
    for column in &mut shape.0 {
        column.key = keys.contains(&column.name);
    }
    shape
}

/// Takes a slice's data stream and hears the control stream all the while; gives the end record once both came.
async fn flow<C: Channel>(
    control: &mut ControlStream<C>,
    channel: &C,
    hello: Option<&DataHello>,
    taking: &mut Taking,
    meter: &Meter,
) -> Result<SliceEnd, AgentError> {
    let mut end = None;
    let mut data = None;
    if let Some(hello) = hello {
        let opening = next_data_stream(channel, hello);
        tokio::pin!(opening);
        data = Some(loop {
            tokio::select! {
                data = &mut opening => break data?.taking_lz4(),
                reply = control.reply() => hear(reply?, &mut end)?,
                () = tokio::time::sleep(SILENCE_MAX) => return Err(silence()),
            }
        });
    }
    loop {
        let Some(reader) = &mut data else {
            match end {
                Some(end) => return Ok(end),
                None => {
                    let reply = tokio::time::timeout(SILENCE_MAX, control.reply()).await.map_err(|_| silence())?;
                    hear(reply?, &mut end)?;
                    continue;
                }
            }
        };
        tokio::select! {
            biased;
            reply = control.reply() => hear(reply?, &mut end)?,
            frame = reader.next() => match frame? {
                Some(Event::Batch(body)) => {
                    meter.add(body.len() as u64);
                    let taken = tokio::select! {
                        taken = taking.frame(body) => taken,
                        // A permission that ends is heard while the sink is slow.
                        fault = refusal(control, &mut end) => return Err(fault),
                    };
                    if !taken {
                        return Err(failed(taking).await);
                    }
                }
                None => data = None,
                other => {
                    let got = event_name(other.as_ref());
                    return Err(SessionError::Unexpected { expected: "a batch", got }.into());
                }
            },
            () = tokio::time::sleep(SILENCE_MAX) => return Err(silence()),
        }
    }
}

/// Hears the control stream until it says that there is no more.
async fn refusal<C: Channel>(control: &mut ControlStream<C>, end: &mut Option<SliceEnd>) -> AgentError {
    loop {
        match control.reply().await.and_then(|reply| hear(reply, end)) {
            Ok(()) => {}
            Err(error) => return error,
        }
    }
}

/// Why the sink takes no more.
async fn failed(taking: &mut Taking) -> AgentError {
    match (&mut taking.answer).await {
        Ok(Err(error)) => error,
        Ok(Ok(_)) | Err(_) => ended(),
    }
}

fn hear(reply: Reply, end: &mut Option<SliceEnd>) -> Result<(), AgentError> {
    match reply {
        Reply::Progress(_) | Reply::Alive(_) => Ok(()),
        Reply::SliceEnd(said) if end.is_none() => {
            *end = Some(said);
            Ok(())
        }
        other => Err(unexpected("the end of a version", &other)),
    }
}

fn silence() -> AgentError {
    StreamError::Lost("the gateway sends nothing".into()).into()
}

/// The alarm of a nightly run: nothing as fresh as was asked for came.
pub fn is_stale(age: Option<Age>, age_ms_max: i64) -> Option<Box<Told>> {
    match age {
        Some(Age { version: 1.., age_ms }) if age_ms <= age_ms_max => None,
        Some(Age { version: version @ 1.., age_ms }) => {
            let (hours, most) = (age_ms / 3_600_000, age_ms_max / 3_600_000);
            Some(
                Told::new(
                    "stale",
                    format!("the latest version ({version}) is {hours} h old, and at most {most} h were asked for"),
                    format!("最新版本（第 {version} 版）已有 {hours} 小时，超过要求的 {most} 小时"),
                )
                .next("ask the provider why nothing was pushed", "请联系提供部门查明未推送的原因"),
            )
        }
        Some(_) | None => Some(
            Told::new("stale", "no version has ever come", "尚无任何版本")
                .next("ask the provider when it begins", "请联系提供部门确认何时开始推送"),
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "follow_tests.rs"]
mod tests;
