//! Fetches rows on one stream and writes them where they are wanted. What came is kept beside the output, so that a pull
//! which was cut goes on after it; only a stream on standard output cannot be taken up again.
//!
//! Frames go to a thread of their own over a short queue, so that what the gateway says on the control stream is heard
//! while the output is blocked: a pull into a pipe that nobody reads still ends in the moment in which its permission
//! does. That thread is no task of the runtime, so a program that ends does not wait for it.

use super::journal::{Arrived, Place, Saved};
use super::writing::{Message, Output, Writer};
use super::{is_there, place, staging_path};
use crate::batch::sink::{Format, WriteOptions};
use crate::connect::{ControlStream, unexpected};
use crate::error::{AgentError, Told};
use crate::outbox::PullWork;
use crate::transfer::{Env, Expected, Meter, blocking, next_data_stream, reason, settle, settle_at_once};
use bytes::Bytes;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::frame::Event;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::receipt::Receipt;
use lingqu_protocol::session::{FrameReader, SessionError, event_name};
use lingqu_protocol::stream::{Channel, RecvHalf, StreamError};
use lingqu_protocol::wire::reply::Reply;
use lingqu_protocol::wire::{self, DataHello, Mark, PullDone, PullEnd, PullReady, PullStart, step};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A gateway that sends nothing for this long while the output waits for it has lost us.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What was fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct GotRows {
    /// The transfer.
    pub transfer: TransferId,
    /// The version.
    pub version: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes of the batches on the wire.
    pub bytes: u64,
    /// Digest over them.
    pub bytes_root: Digest,
    /// Digest of the rows.
    pub rows_digest: Digest,
    /// Bytes that came in this run.
    pub received_bytes: u64,
    /// Where they went.
    pub out: PathBuf,
    /// Where the receipt lies.
    pub receipt: PathBuf,
    /// How long this run took.
    pub seconds: f64,
}

/// Makes the output that a stream goes to; asked once.
pub type Stdout = Box<dyn FnOnce() -> Box<dyn io::Write + Send> + Send>;

/// A pull of rows over all its connections.
pub(super) struct RowsPull {
    env: Env,
    transfer: TransferId,
    out: PathBuf,
    options: WriteOptions,
    staged: PathBuf,
    meter: Arc<Meter>,
    stdout: Option<Stdout>,
    /// Whether bytes went to an output that cannot be taken back.
    begun_stream: bool,
    /// All of it lies in its place but for the name; only the receipt is missing.
    whole: Option<(u64, Arrived)>,
    place: Place,
    /// What is durable from before.
    saved: Option<Saved>,
}

impl RowsPull {
    pub(super) fn new(env: &Env, transfer: TransferId, work: &PullWork, stdout: Stdout) -> Self {
        Self {
            env: env.clone(),
            transfer,
            staged: staging_path(&work.out, transfer),
            out: work.out.clone(),
            options: work.write,
            meter: Arc::new(Meter::new(0, env.show_progress)),
            stdout: Some(stdout),
            begun_stream: false,
            whole: None,
            place: Place::beside(env.disk.clone(), &work.out, transfer),
            saved: None,
        }
    }

    /// Looks for what is durable of an earlier attempt; gives the version that it was of, and the gateway's mark.
    pub(super) async fn look(&mut self) -> Result<Option<(u64, Bytes)>, AgentError> {
        if Format::of(&self.out).is_ok_and(|format| format == Format::Stream) {
            return Ok(None);
        }
        let (place, out) = (self.place.clone(), self.out.clone());
        self.saved = blocking(move || place.load().map_err(|e| AgentError::io("reading", &out, &e))).await?;
        let Some(saved) = &self.saved else { return Ok(None) };
        if let Some(whole) = saved.whole.clone().filter(|_| self.staged.is_file()) {
            self.whole = Some((saved.version, whole));
        }
        Ok(Some((saved.version, saved.mark())))
    }

    /// Bytes that were durable when the last connection began.
    pub(super) fn progress(&self) -> u64 {
        self.saved.as_ref().map_or(0, Saved::bytes)
    }

    /// Whether another connection could go on.
    pub(super) const fn can_start_again(&self) -> bool {
        !self.begun_stream || self.whole.is_some()
    }

    /// Finishes a transfer whose receipt an earlier process kept: all that was left was to name the file.
    pub(super) async fn finish_interrupted(&self) -> Result<Option<GotRows>, AgentError> {
        let (outbox, transfer) = (self.env.outbox.clone(), self.transfer);
        let Some(json) = blocking(move || outbox.receipt_kept_before(transfer)).await? else { return Ok(None) };
        let Ok(receipt) = Receipt::from_json(&json) else { return Ok(None) };
        let said = receipt.statement;
        let (Some(rows), Some(rows_digest)) = (said.rows, said.rows_digest) else { return Ok(None) };
        let (disk, staged, out) = (self.env.disk.clone(), self.staged.clone(), self.out.clone());
        let here = blocking(move || {
            let failed = |e: io::Error| AgentError::io("placing", &out, &e);
            if is_there(&*disk, &staged).map_err(failed)? && !is_there(&*disk, &out).map_err(failed)? {
                place(&*disk, &staged, &out).map_err(failed)?;
            }
            is_there(&*disk, &out).map_err(failed)
        })
        .await?;
        if !here {
            return Ok(None);
        }
        let arrived = Arrived { rows, bytes: said.bytes, bytes_root: said.bytes_root, rows_digest };
        Ok(Some(self.got(said.dataset_version, arrived, self.env.outbox.receipt_path(transfer))))
    }

    /// Finishes a transfer that the gateway has committed already, where this process has all of it; `None` where not.
    pub(super) async fn finish_with<C: Channel>(
        &mut self,
        control: &mut ControlStream<C>,
        receipt: &[u8],
    ) -> Result<Option<GotRows>, AgentError> {
        let Some((version, arrived)) = self.whole.clone() else { return Ok(None) };
        let path = settle_at_once(control, &self.env, &self.expected(&arrived), receipt).await?;
        self.name().await?;
        Ok(Some(self.got(version, arrived, path)))
    }

    /// One connection's worth of it: all of it, for rows start anew.
    pub(super) async fn attempt<C: Channel>(
        &mut self,
        channel: &C,
        mut control: ControlStream<C>,
        ready: PullReady,
    ) -> Result<GotRows, AgentError> {
        let format = Format::of(&self.out)?;
        // Where a condition holds nobody knows how many there will be.
        format.takes(ready.rows_at_most)?;
        let output = self.output(format, &ready).await?;
        control.step(step::Step::PullStart(PullStart::default())).await?;
        let hello = DataHello { transfer: self.transfer.to_string(), token: ready.token };
        let writer = Writer::start(output, self.meter.clone())?;
        let (end, arrived) = match flow(&mut control, channel, &hello, &writer).await {
            Ok((end, writer_said)) => (end, writer_said),
            Err(error) => {
                writer.stop();
                let error = reason(&mut control, error).await;
                self.discard(format).await?;
                return Err(error);
            }
        };
        if let Err(error) = check_end(&end, &arrived) {
            writer.stop();
            self.discard(format).await?;
            // What was kept is not what was sent: the next try begins anew.
            self.forget().await?;
            return Err(error);
        }
        writer.finish().await?;
        let done =
            PullDone { bytes_root: arrived.bytes_root.to_string(), rows_digest: arrived.rows_digest.to_string() };
        self.whole = Some((ready.version, arrived.clone()));
        control.step(step::Step::PullDone(done)).await?;
        let receipt = settle(&mut control, &self.env, &self.expected(&arrived)).await?;
        self.name().await?;
        Ok(self.got(ready.version, arrived, receipt))
    }

    fn expected(&self, arrived: &Arrived) -> Expected {
        Expected {
            transfer: self.transfer,
            bytes_root: Some(arrived.bytes_root),
            rows_digest: Some(arrived.rows_digest),
            bytes: Some(arrived.bytes),
            files: None,
            rows: Some(arrived.rows),
        }
    }

    /// Gives a file its name.
    async fn name(&self) -> Result<(), AgentError> {
        if Format::of(&self.out)? == Format::Stream {
            return Ok(());
        }
        let (disk, staged, out) = (self.env.disk.clone(), self.staged.clone(), self.out.clone());
        blocking(move || place(&*disk, &staged, &out).map_err(|e| AgentError::io("placing", &out, &e))).await?;
        self.forget().await
    }

    /// Removes what was kept to go on with.
    async fn forget(&self) -> Result<(), AgentError> {
        let (kept, out) = (self.place.clone(), self.out.clone());
        blocking(move || kept.remove().map_err(|e| AgentError::io("removing what was kept of", &out, &e))).await
    }

    fn got(&self, version: u64, arrived: Arrived, receipt: PathBuf) -> GotRows {
        GotRows {
            transfer: self.transfer,
            version,
            rows: arrived.rows,
            bytes: arrived.bytes,
            bytes_root: arrived.bytes_root,
            rows_digest: arrived.rows_digest,
            received_bytes: self.meter.moved(),
            out: self.out.clone(),
            receipt,
            seconds: self.meter.elapsed().as_secs_f64(),
        }
    }

    async fn output(&mut self, format: Format, ready: &PullReady) -> Result<Output, AgentError> {
        if format != Format::Stream {
            self.discard(format).await?;
            let (kept, version, out) = (self.place.clone(), ready.version, self.out.clone());
            let saved = self.saved.clone().filter(|_| ready.goes_on);
            let journal = blocking(move || {
                let journal = match saved {
                    Some(saved) => kept.go_on(saved),
                    None => kept.begin(version),
                };
                journal.map_err(|e| AgentError::io("keeping what comes of", &out, &e))
            });
            let journal = Box::new(journal.await?);
            let (disk, path, options) = (self.env.disk.clone(), self.staged.clone(), self.options);
            return Ok(Output::File { disk, path, format, options, journal });
        }
        self.begun_stream = true;
        self.stdout.take().map(|out| Output::Stream(out())).ok_or_else(|| {
            AgentError::Machine(Told::new("stdout", "standard output was begun already", "标准输出已开始写入"))
        })
    }

    /// Removes what an attempt that failed had written.
    async fn discard(&self, format: Format) -> Result<(), AgentError> {
        if format == Format::Stream {
            return Ok(());
        }
        let (disk, staged) = (self.env.disk.clone(), self.staged.clone());
        blocking(move || match disk.remove(&staged) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(AgentError::io("removing", &staged, &e)),
            _ => Ok(()),
        })
        .await
    }
}

/// Takes the data stream, hands its frames to the writer, and hears the control stream all the while.
async fn flow<C: Channel>(
    control: &mut ControlStream<C>,
    channel: &C,
    hello: &DataHello,
    writer: &Writer,
) -> Result<(PullEnd, Arrived), AgentError> {
    let mut end = None;
    let opening = next_data_stream(channel, hello);
    tokio::pin!(opening);
    let mut data = loop {
        tokio::select! {
            data = &mut opening => break data?,
            // An end record may overtake the data.
            reply = control.reply() => hear(reply?, &mut end)?,
            () = tokio::time::sleep(SILENCE_MAX) => return Err(silence()),
        }
    };
    let mut waiting: Option<Message> = None;
    let mut all_read = false;
    let mut asked: Option<oneshot::Receiver<Arrived>> = None;
    let mut arrived = None;
    loop {
        if let (Some(end), Some(arrived)) = (&end, &arrived) {
            return Ok((PullEnd::clone(end), Arrived::clone(arrived)));
        }
        tokio::select! {
            biased;
            reply = control.reply() => hear(reply?, &mut end)?,
            // Room for the frame that waits; a writer that went away has a reason.
            room = writer.queue.reserve(), if waiting.is_some() => match (room, waiting.take()) {
                (Ok(room), Some(message)) => room.send(message),
                _ => return Err(writer.failed().await),
            },
            frame = next(&mut data), if waiting.is_none() && !all_read => match frame? {
                Some(message) => waiting = Some(message),
                None => {
                    all_read = true;
                    let (answer, sum) = oneshot::channel();
                    waiting = Some(Message::Sum(answer));
                    asked = Some(sum);
                }
            },
            sum = wait(&mut asked), if asked.is_some() => match sum {
                Some(sum) => (arrived, asked) = (Some(sum), None),
                None => return Err(writer.failed().await),
            },
            () = tokio::time::sleep(SILENCE_MAX), if waiting.is_none() && asked.is_none() => {
                return Err(silence());
            },
        }
    }
}

async fn wait(asked: &mut Option<oneshot::Receiver<Arrived>>) -> Option<Arrived> {
    match asked {
        Some(arrived) => arrived.await.ok(),
        None => None,
    }
}

async fn next<R: RecvHalf>(data: &mut FrameReader<R>) -> Result<Option<Message>, AgentError> {
    match data.next().await? {
        Some(Event::Batch(body)) => Ok(Some(Message::Frame(body))),
        Some(Event::Control(body)) => {
            let mark: Mark = wire::decode(body).map_err(SessionError::from)?;
            Ok(Some(Message::Mark(mark.token)))
        }
        None => Ok(None),
        other => Err(SessionError::Unexpected { expected: "a batch", got: event_name(other.as_ref()) }.into()),
    }
}

fn hear(reply: Reply, end: &mut Option<PullEnd>) -> Result<(), AgentError> {
    match reply {
        Reply::Progress(_) => Ok(()),
        Reply::PullEnd(said) if end.is_none() => {
            *end = Some(said);
            Ok(())
        }
        other => Err(unexpected("the end of the pull", &other)),
    }
}

fn silence() -> AgentError {
    StreamError::Lost("the gateway sends nothing".into()).into()
}

fn check_end(end: &PullEnd, arrived: &Arrived) -> Result<(), AgentError> {
    let same = (end.rows, end.bytes) == (arrived.rows, arrived.bytes)
        && end.bytes_root == arrived.bytes_root.to_string()
        && end.rows_digest == arrived.rows_digest.to_string();
    if same {
        return Ok(());
    }
    Err(AgentError::Integrity(
        Told::new(
            "rows_digest",
            format!("{} rows were sent and {} came, or their digests differ", end.rows, arrived.rows),
            format!("发送 {} 行，收到 {} 行，或摘要不一致", end.rows, arrived.rows),
        )
        .next("pull again; if it comes back, tell the gateway's operator", "重新拉取；若再次出现，请告知网关运维人员"),
    ))
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
