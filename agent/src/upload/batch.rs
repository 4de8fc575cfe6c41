//! Sends rows on one stream. A push that was cut goes on after the rows that are durable at the gateway: the source is read
//! from its beginning, and where its first rows are not those that lie there, it has changed.

use super::collect::stat;
use super::read::{How, Summary, read_all, reread};
use super::segment::changed;
use super::verbatim;
use crate::connect::{ControlStream, Session, unexpected};
use crate::error::{AgentError, Told};
use crate::outbox::SourceFile;
use crate::records::{self, Kind};
use crate::transfer::{
    Dial, Env, Expected, Meter, Tries, answer, blocking, peer, reason, settle, settle_at_once, task_failed,
};
use bytes::Bytes;
use lingqu_protocol::changes::changes_entry;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::{EntryFormat, EntrySpec};
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::rows::RowsSum;
use lingqu_protocol::session::FrameWriter;
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::reply::Reply;
use lingqu_protocol::wire::{DataHello, PushBatch, PushEnd, request, step};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Batches read ahead of the network.
const READ_AHEAD: usize = 2;

/// What was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct SentRows {
    /// The transfer.
    pub transfer: TransferId,
    /// Rows.
    pub rows: u64,
    /// Bytes of the batches on the wire.
    pub bytes: u64,
    /// Digest of the rows, whatever their order and format.
    pub rows_digest: Digest,
    /// Rows read from the files: those that were sent and those left behind.
    pub read: u64,
    /// Rows left behind.
    pub rejected: u64,
    /// Rows that were sent and named.
    pub marked: u64,
    /// Whether Parquet files went as they are.
    pub verbatim: bool,
    /// Bytes that this run put on the wire.
    pub sent_bytes: u64,
    /// Where the receipt lies.
    pub receipt: PathBuf,
    /// How long this run took.
    pub seconds: f64,
}

/// The entry that rows are pushed to, as the catalogue has it.
///
/// # Errors
/// An entry that does not exist for this agent, or that is of files.
pub async fn entry<C: Channel>(session: &Session<C>, entry: &str) -> Result<EntrySpec, AgentError> {
    let record = records::one(session, Kind::Catalogue, entry).await?;
    let toml = record.get("toml").and_then(serde_json::Value::as_str);
    let toml = toml.ok_or_else(|| peer("a catalogue entry without its text", "目录条目缺少内容"))?;
    let spec = EntrySpec::parse(toml)
        .map_err(|e| peer(format!("a catalogue entry that cannot be read: {e}"), format!("目录条目无法解析：{e}")))?;
    if spec.format == EntryFormat::Table {
        return Ok(spec);
    }
    let told = Told::new("entry_format", "this is an entry of files", "该目录条目为文件类");
    Err(AgentError::Usage(told.next("use `lingqu push file`", "请使用 `lingqu push file`")))
}

/// Sends the rows of `files` as transfer `transfer`. `mode` is `full`, `append` or `changes`. Parquet files that fit go as
/// they are, see [`super::verbatim`].
///
/// # Errors
/// Rows that are not what the entry says, a source that changed meanwhile (both exit code 7), what the gateway refuses,
/// a connection that stays away.
pub async fn push<D: Dial>(
    env: &Env,
    dial: &D,
    transfer: TransferId,
    entry: &str,
    mode: &str,
    files: Vec<SourceFile>,
    how: &How,
) -> Result<SentRows, AgentError> {
    let why = match verbatim::may(mode, &files, how) {
        Ok(()) => match fits(env, dial, entry, &files).await? {
            Ok(()) => return verbatim::push(env, dial, transfer, entry, mode, files).await,
            Err(why) => why,
        },
        Err(why) => why,
    };
    tracing::info!(%transfer, %why, "these files go as rows");
    let job = Job {
        env,
        transfer,
        entry,
        mode,
        files,
        how,
        meter: Arc::new(Meter::new(0, env.show_progress)),
        durable_rows: AtomicU64::new(0),
    };
    let mut tries = Tries::new(env.patience);
    loop {
        let error = match dial.dial().await {
            Ok(session) => {
                let outcome = job.attempt(&session).await;
                session.close_after(&outcome);
                match outcome {
                    Ok((summary, receipt)) => {
                        return Ok(SentRows {
                            transfer,
                            rows: summary.rows,
                            bytes: summary.bytes,
                            rows_digest: summary.rows_digest,
                            read: summary.read,
                            rejected: summary.rejected,
                            marked: summary.marked,
                            verbatim: false,
                            sent_bytes: job.meter.moved(),
                            receipt,
                            seconds: job.meter.elapsed().as_secs_f64(),
                        });
                    }
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        // What is durable is progress; what was sent and lost is none.
        tries.again(error, job.durable_rows.load(Ordering::Relaxed)).await?;
    }
}

/// Whether files go as they are, once the entry is known.
async fn fits<D: Dial>(
    env: &Env,
    dial: &D,
    name: &str,
    files: &[SourceFile],
) -> Result<Result<(), verbatim::Why>, AgentError> {
    let mut tries = Tries::new(env.patience);
    let spec = loop {
        let error = match dial.dial().await {
            Ok(session) => {
                let outcome = entry(&session, name).await;
                session.close_after(&outcome);
                match outcome {
                    Ok(spec) => break spec,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        tries.again(error, 0).await?;
    };
    verbatim::fits(env, &spec, files).await
}

struct Job<'a> {
    env: &'a Env,
    transfer: TransferId,
    entry: &'a str,
    mode: &'a str,
    files: Vec<SourceFile>,
    how: &'a How,
    meter: Arc<Meter>,
    /// Rows that were durable when a connection began.
    durable_rows: AtomicU64,
}

impl Job<'_> {
    async fn attempt<C: Channel>(&self, session: &Session<C>) -> Result<(Summary, PathBuf), AgentError> {
        let spec = entry(session, self.entry).await?;
        let spec = if self.mode == "changes" { changes_entry(&spec) } else { spec };
        self.unchanged().await?;
        let ask = PushBatch {
            transfer: self.transfer.to_string(),
            entry: self.entry.to_owned(),
            mode: self.mode.to_owned(),
            ..PushBatch::default()
        };
        let mut control = session.request(request::Ask::PushBatch(ask)).await?;
        let ready = match answer(&mut control).await? {
            Reply::PushReady(ready) => ready,
            Reply::Receipt(receipt) => {
                // Committed before. The receipt must be for what lies here now.
                let summary = reread(self.env, spec, self.files.clone(), self.how).await?;
                let expected = self.expected(&summary);
                let path = settle_at_once(&mut control, self.env, &expected, &receipt.json).await?;
                return Ok((summary, path));
            }
            other => return Err(unexpected("leave to push", &other)),
        };
        let hello = DataHello { transfer: self.transfer.to_string(), token: ready.token };
        let durable = durable_rows(&ready.rows_sum)?;
        self.durable_rows.store(durable.count, Ordering::Relaxed);
        let summary = self.send(session.channel(), &mut control, hello, spec, durable).await?;
        self.unchanged().await?;
        let end = PushEnd {
            bytes: summary.bytes,
            files: 0,
            rows: summary.rows,
            bytes_root: summary.bytes_root.to_string(),
            rows_digest: summary.rows_digest.to_string(),
            read: Some(summary.read),
            rejected: Some(summary.rejected),
        };
        control.step(step::Step::PushEnd(end)).await?;
        let path = settle(&mut control, self.env, &self.expected(&summary)).await?;
        Ok((summary, path))
    }

    /// A receipt says what the version holds: of a full push just these rows, of an append those before them too.
    fn expected(&self, summary: &Summary) -> Expected {
        let full = self.mode == "full";
        Expected {
            transfer: self.transfer,
            bytes_root: None,
            rows_digest: full.then_some(summary.rows_digest),
            bytes: None,
            files: None,
            rows: full.then_some(summary.rows),
        }
    }

    async fn send<C: Channel>(
        &self,
        channel: &C,
        control: &mut ControlStream<C>,
        hello: DataHello,
        spec: EntrySpec,
        durable: RowsSum,
    ) -> Result<Summary, AgentError> {
        let (tx, mut rx) = mpsc::channel::<Vec<Bytes>>(READ_AHEAD);
        let (env, files, meter, how) = (self.env.clone(), self.files.clone(), self.meter.clone(), self.how.clone());
        let reading = tokio::spawn(blocking(move || read_all(&env, &spec, &files, &how, Some((&tx, durable)))));
        let sending = async {
            let mut writer = FrameWriter::new(channel.open_uni().await?);
            writer.message(&hello).await?;
            while let Some(frame) = rx.recv().await {
                for piece in frame {
                    let bytes = piece.len() as u64;
                    writer.raw(piece).await?;
                    meter.add(bytes);
                }
            }
            // A reader that failed sent no end: the stream must not look finished then.
            Ok::<_, AgentError>(writer)
        };
        let sent = tokio::select! {
            sent = sending => sent,
            reply = answer(control) => return Err(match reply {
                Ok(other) => unexpected("progress", &other),
                Err(error) => error,
            }),
        };
        let mut writer = match sent {
            Ok(writer) => writer,
            Err(error) => return Err(reason(control, error).await),
        };
        let summary = reading.await.map_err(|e| task_failed(&e))?;
        match &summary {
            Ok(_) => writer.finish(),
            Err(_) => writer.reset(lingqu_protocol::close::CloseCode::BadData),
        }
        summary
    }

    /// No source has another length or time than when the transfer was written down.
    async fn unchanged(&self) -> Result<(), AgentError> {
        let files = self.files.clone();
        blocking(move || {
            let same = |f: &SourceFile| {
                stat(&f.path).is_ok_and(|now| (now.bytes, now.modified_ns) == (f.bytes, f.modified_ns))
            };
            files.iter().find(|f| !same(f)).map_or(Ok(()), |f| Err(changed(&f.path)))
        })
        .await
    }
}

/// What the gateway says of the rows that it has.
fn durable_rows(said: &[u8]) -> Result<RowsSum, AgentError> {
    if said.is_empty() {
        return Ok(RowsSum::default());
    }
    let said = said.try_into();
    let said = said.map_err(|_| peer("rows that are durable, in no form that is known", "网关返回的续传信息无效"))?;
    Ok(RowsSum::from_bytes(said))
}
