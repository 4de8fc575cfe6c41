//! Sends a set of files over several streams, and goes on where it was when a connection is lost.
//!
//! No splice: what the gateway already has is read again and compared by its values, every segment that this run reads
//! twice must be the same twice, and at the end no source may have another length or time than at the start of the run.

use super::collect::stat;
use super::segment::{Piece, READ_AHEAD, changed, read_segment};
use crate::connect::{ControlStream, Session, unexpected};
use crate::error::{AgentError, Told};
use crate::outbox::SourceFile;
use crate::transfer::{
    Dial, Differs, Env, Expected, Meter, Roots, Tries, answer, blocking, peer, reason, settle, settle_at_once,
    task_failed,
};
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::fileset::{FileEntry, parts_root, set_root};
use lingqu_protocol::frame::{self, FrameKind};
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::plan::Plan;
use lingqu_protocol::session::{FrameWriter, SessionError};
use lingqu_protocol::stream::{Channel, SendHalf, StreamError};
use lingqu_protocol::wire::{
    DATA_STREAMS_MAX, DataHello, ManifestFile, ManifestPart, PushBatch, PushEnd, PushFiles, reply, request, step,
};
use prost::Message;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Bytes of names in one Manifest frame: well inside its bound, whatever protobuf adds.
const MANIFEST_PART_BYTES: usize = 256 << 10;

/// What was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// The transfer.
    pub transfer: TransferId,
    /// Bytes of all files.
    pub bytes: u64,
    /// Files.
    pub files: u64,
    /// Digest of the set.
    pub bytes_root: Digest,
    /// The only file's hash, as `b3sum` prints it.
    pub root: Option<Digest>,
    /// Bytes that this run put on the wire.
    pub sent_bytes: u64,
    /// Bytes that an earlier run had made durable.
    pub resumed_bytes: u64,
    /// Where the receipt lies.
    pub receipt: PathBuf,
    /// How long this run took.
    pub seconds: f64,
}

/// What all streams of a transfer share, over all its connections.
struct Job {
    env: Env,
    transfer: TransferId,
    files: Vec<SourceFile>,
    plan: Arc<Plan>,
    roots: Mutex<Roots>,
    meter: Meter,
    kind: SetOf,
}

/// What a set of files is to the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SetOf {
    /// A version of files.
    Files,
    /// Rows, as Parquet files that stay as they are.
    Rows {
        /// `full` or `append`.
        mode: String,
    },
}

/// Sends `files`, whose names ascend, as transfer `transfer` for `entry`. Tries again when a connection is lost.
///
/// # Errors
/// A source that changed (exit code 7), what the gateway refuses, a connection that stays away.
pub async fn push<D: Dial>(
    env: &Env,
    dial: &D,
    transfer: TransferId,
    entry: &str,
    files: Vec<SourceFile>,
) -> Result<Sent, AgentError> {
    push_set(env, dial, transfer, entry, files, SetOf::Files).await
}

/// As [`push`], of a set that may be rows.
pub(super) async fn push_set<D: Dial>(
    env: &Env,
    dial: &D,
    transfer: TransferId,
    entry: &str,
    files: Vec<SourceFile>,
    kind: SetOf,
) -> Result<Sent, AgentError> {
    let plan =
        Arc::new(Plan::new(files.iter().map(|f| f.bytes).collect()).map_err(|e| {
            AgentError::Usage(Told::new("file_set", e.to_string(), format!("文件集合不符合要求：{e}")))
        })?);
    let meter = Meter::new(plan.bytes(), env.show_progress);
    let roots = Mutex::new(Roots::new(plan.clone()));
    let before = checked(&files).await?;
    let job = Arc::new(Job { env: env.clone(), transfer, files, plan, roots, meter, kind });
    let mut tries = Tries::new(env.patience);
    let mut resumed_bytes = None;
    loop {
        let error = match dial.dial().await {
            Ok(session) => {
                let outcome = attempt(&job, &session, entry, &before, &mut resumed_bytes).await;
                session.close_after(&outcome);
                match outcome {
                    Ok((receipt, roots)) => return Ok(sent(&job, receipt, &roots, resumed_bytes.unwrap_or(0))),
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        tries.again(error, job.meter.moved()).await?;
    }
}

fn sent(job: &Job, receipt: PathBuf, set: &[FileEntry], resumed_bytes: u64) -> Sent {
    Sent {
        transfer: job.transfer,
        bytes: job.plan.bytes(),
        files: set.len() as u64,
        bytes_root: set_root(set),
        root: if let [only] = set { Some(only.root) } else { None },
        sent_bytes: job.meter.moved(),
        resumed_bytes,
        receipt,
        seconds: job.meter.elapsed().as_secs_f64(),
    }
}

async fn attempt<C: Channel>(
    job: &Arc<Job>,
    session: &Session<C>,
    entry: &str,
    before: &[i64],
    resumed_bytes: &mut Option<u64>,
) -> Result<(PathBuf, Vec<FileEntry>), AgentError> {
    let mut control = announce(job, session, entry).await?;
    let ready = match answer(&mut control).await? {
        reply::Reply::PushReady(ready) => ready,
        reply::Reply::Receipt(receipt) => {
            // Committed before, and only the answer was lost; or the key was used before. The receipt must be for
            // what lies here now.
            let set = hash_all(job).await?;
            let path = settle_at_once(&mut control, &job.env, &expected(job, &set), &receipt.json).await?;
            return Ok((path, set));
        }
        other => return Err(unexpected("PushReady", &other)),
    };
    let durable = if ready.durable_follows { durable(job, &mut control).await? } else { HashMap::new() };
    if resumed_bytes.is_none() {
        let bytes = durable.keys().filter_map(|segment| job.plan.segment_bytes(*segment)).sum();
        *resumed_bytes = Some(bytes);
        job.meter.skip(bytes);
    }
    let streams = ready.data_streams_max.clamp(1, DATA_STREAMS_MAX);
    let hello = DataHello { transfer: job.transfer.to_string(), token: ready.token };
    send_all(job, session.channel(), &mut control, durable, hello, streams).await?;
    let set = set_of(job)?;
    unchanged(job, before).await?;
    let end = PushEnd {
        read: None,
        rejected: None,
        bytes: job.plan.bytes(),
        files: set.len() as u64,
        rows: 0,
        bytes_root: set_root(&set).to_string(),
        rows_digest: String::new(),
    };
    control.step(step::Step::PushEnd(end)).await?;
    let path = settle(&mut control, &job.env, &expected(job, &set)).await?;
    Ok((path, set))
}

fn expected(job: &Job, set: &[FileEntry]) -> Expected {
    if let SetOf::Rows { mode } = &job.kind {
        // What the version holds: of a full push these files, of an append those before them too.
        let full = mode == "full";
        return Expected {
            transfer: job.transfer,
            bytes_root: full.then(|| parts_root(set.iter().map(|file| (file.bytes, file.root)))),
            rows_digest: None,
            bytes: full.then(|| job.plan.bytes()),
            files: None,
            rows: None,
        };
    }
    Expected {
        transfer: job.transfer,
        bytes_root: Some(set_root(set)),
        rows_digest: None,
        bytes: Some(job.plan.bytes()),
        files: Some(set.len() as u64),
        rows: None,
    }
}

/// Asks, and names the files.
async fn announce<C: Channel>(job: &Job, session: &Session<C>, entry: &str) -> Result<ControlStream<C>, AgentError> {
    let (transfer, entry) = (job.transfer.to_string(), entry.to_owned());
    let (files, bytes) = (job.files.len() as u32, job.plan.bytes());
    let ask = match &job.kind {
        SetOf::Files => request::Ask::PushFiles(PushFiles { transfer, entry, files, bytes }),
        SetOf::Rows { mode } => {
            request::Ask::PushBatch(PushBatch { transfer, entry, mode: mode.clone(), files, bytes })
        }
    };
    let mut control = session.request(ask).await?;
    let names = async {
        let mut part = ManifestPart::default();
        let mut part_bytes = 0;
        for file in &job.files {
            // 32 bytes cover what protobuf adds to a name.
            part_bytes += file.name.len() + 32;
            part.files.push(ManifestFile { name: file.name.clone(), bytes: file.bytes, root: Default::default() });
            if part_bytes >= MANIFEST_PART_BYTES {
                control.writer.raw(manifest(&part)?).await?;
                part.files.clear();
                part_bytes = 0;
            }
        }
        if !part.files.is_empty() {
            control.writer.raw(manifest(&part)?).await?;
        }
        Ok::<_, AgentError>(())
    };
    match names.await {
        Ok(()) => Ok(control),
        // A gateway that refuses stops reading; its reason is on the way.
        Err(error) => Err(reason(&mut control, error).await),
    }
}

fn manifest(part: &ManifestPart) -> Result<bytes::Bytes, AgentError> {
    Ok(frame::encode(FrameKind::Manifest, &part.encode_to_vec()).map_err(SessionError::from)?)
}

/// What the gateway has already: the digest over the values of each durable segment.
async fn durable<C: Channel>(job: &Job, control: &mut ControlStream<C>) -> Result<HashMap<u32, [u8; 32]>, AgentError> {
    let mut known = HashMap::new();
    loop {
        let part = match answer(control).await? {
            reply::Reply::Durable(part) => part,
            other => return Err(unexpected("Durable", &other)),
        };
        let (digests, rest) = part.values_digests.as_chunks::<32>();
        let fits = digests.len() == part.segments.len() && rest.is_empty();
        if !fits || part.segments.iter().any(|s| *s >= job.plan.segments()) {
            return Err(peer(
                "the gateway named durable segments that do not fit the plan",
                "网关列出的已存分段与计划不符",
            ));
        }
        known.extend(part.segments.into_iter().zip(digests.iter().copied()));
        if part.last {
            return Ok(known);
        }
    }
}

/// Sends or checks every segment, on as many streams as both sides allow, and listens for a refusal meanwhile.
async fn send_all<C: Channel>(
    job: &Arc<Job>,
    channel: &C,
    control: &mut ControlStream<C>,
    durable: HashMap<u32, [u8; 32]>,
    hello: DataHello,
    streams: u32,
) -> Result<(), AgentError> {
    let next = Arc::new(AtomicU32::new(0));
    let durable = Arc::new(durable);
    let mut workers = JoinSet::new();
    for _ in 0..streams.min(job.plan.segments()) {
        let stream = DataStream { channel: channel.clone(), hello: hello.clone(), writer: None };
        workers.spawn(work(job.clone(), stream, next.clone(), durable.clone()));
    }
    loop {
        tokio::select! {
            done = workers.join_next() => match done {
                None => return Ok(()),
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => {
                    workers.shutdown().await;
                    return Err(reason(control, error).await);
                }
                Some(Err(error)) => return Err(task_failed(&error)),
            },
            reply = answer(control) => return match reply {
                Ok(other) => Err(unexpected("progress", &other)),
                Err(error) => Err(error),
            },
        }
    }
}

/// A data stream that is opened when there is something to send, and never looks finished when it is not.
struct DataStream<C: Channel> {
    channel: C,
    hello: DataHello,
    writer: Option<FrameWriter<C::Send>>,
}

impl<C: Channel> DataStream<C> {
    async fn writer(&mut self) -> Result<&mut FrameWriter<C::Send>, AgentError> {
        if self.writer.is_none() {
            let writer = self.writer.insert(FrameWriter::new(self.channel.open_uni().await?));
            writer.message(&self.hello).await?;
        }
        self.writer.as_mut().ok_or_else(|| StreamError::Lost("the stream is gone".into()).into())
    }

    fn finish(mut self) {
        if let Some(mut writer) = self.writer.take() {
            writer.finish();
        }
    }
}

impl<C: Channel> Drop for DataStream<C> {
    fn drop(&mut self) {
        if let Some(writer) = &mut self.writer {
            writer.reset(CloseCode::Cancelled);
        }
    }
}

async fn work<C: Channel>(
    job: Arc<Job>,
    mut stream: DataStream<C>,
    next: Arc<AtomicU32>,
    durable: Arc<HashMap<u32, [u8; 32]>>,
) -> Result<(), AgentError> {
    loop {
        let segment = next.fetch_add(1, Ordering::Relaxed);
        if segment >= job.plan.segments() {
            stream.finish();
            return Ok(());
        }
        match durable.get(&segment) {
            Some(digest) => verify(&job, segment, digest).await?,
            None => send(&job, segment, stream.writer().await?).await?,
        }
    }
}

/// Reads a segment that the gateway has and compares it, unless this run has read it before.
async fn verify(job: &Arc<Job>, segment: u32, digest: &[u8; 32]) -> Result<(), AgentError> {
    let known = job.roots.lock().unwrap_or_else(PoisonError::into_inner).digest(segment);
    if known.is_none() {
        let of = job.clone();
        let values = blocking(move || read_segment(&*of.env.disk, &of.files, &of.plan, segment, None)).await?;
        add(job, segment, values.unwrap_or_default())?;
    }
    let known = job.roots.lock().unwrap_or_else(PoisonError::into_inner).digest(segment);
    if known.as_ref() == Some(digest) { Ok(()) } else { Err(changed_segment(job, segment)) }
}

async fn send<S: SendHalf>(job: &Arc<Job>, segment: u32, writer: &mut FrameWriter<S>) -> Result<(), AgentError> {
    writer.raw(frame::segment(segment)).await?;
    let (tx, mut rx) = mpsc::channel::<Piece>(READ_AHEAD);
    let of = job.clone();
    let reader = tokio::spawn(blocking(move || read_segment(&*of.env.disk, &of.files, &of.plan, segment, Some(&tx))));
    while let Some(piece) = rx.recv().await {
        for frame in piece.frames {
            if !frame.is_empty() {
                writer.raw(frame).await?;
            }
        }
        job.meter.add(piece.bytes);
    }
    match reader.await.map_err(|e| task_failed(&e))?? {
        Some(values) => add(job, segment, values),
        None => Err(StreamError::Lost("the stream is gone".into()).into()),
    }
}

fn add(job: &Job, segment: u32, values: Vec<[u8; 32]>) -> Result<(), AgentError> {
    let added = job.roots.lock().unwrap_or_else(PoisonError::into_inner).add(segment, values);
    added.map_err(|differs| match differs {
        Differs::Values => changed_segment(job, segment),
        Differs::Shape | Differs::Order => AgentError::Machine(Told::new(
            "plan",
            format!("segment {segment} does not fit the plan"),
            format!("第 {segment} 分段与计划不符"),
        )),
    })
}

fn changed_segment(job: &Job, segment: u32) -> AgentError {
    let file = job.plan.items(segment).and_then(|items| items.first().map(|i| i.file as usize));
    changed(&file.and_then(|f| job.files.get(f)).map(|f| f.path.clone()).unwrap_or_default())
}

/// The set with its hashes; every segment was read.
fn set_of(job: &Job) -> Result<Vec<FileEntry>, AgentError> {
    let roots = job.roots.lock().unwrap_or_else(PoisonError::into_inner).finish();
    let roots =
        roots.ok_or_else(|| AgentError::Machine(Told::new("plan", "a segment was not read", "有分段未读取")))?;
    let entry = |(file, root): (&SourceFile, Digest)| FileEntry { name: file.name.clone(), bytes: file.bytes, root };
    Ok(job.files.iter().zip(roots).map(entry).collect())
}

/// Reads what this run has not read yet, without sending it.
async fn hash_all(job: &Arc<Job>) -> Result<Vec<FileEntry>, AgentError> {
    for segment in 0..job.plan.segments() {
        let known = job.roots.lock().unwrap_or_else(PoisonError::into_inner).digest(segment);
        if known.is_none() {
            let of = job.clone();
            let values = blocking(move || read_segment(&*of.env.disk, &of.files, &of.plan, segment, None)).await?;
            add(job, segment, values.unwrap_or_default())?;
        }
    }
    set_of(job)
}

/// Times of the sources now; every length must be what was written down.
async fn checked(files: &[SourceFile]) -> Result<Vec<i64>, AgentError> {
    let files = files.to_vec();
    blocking(move || {
        files
            .iter()
            .map(|file| match stat(&file.path) {
                Ok(now) if now.bytes == file.bytes => Ok(now.modified_ns),
                Ok(_) => Err(changed(&file.path)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(changed(&file.path)),
                Err(e) => Err(AgentError::io("reading", &file.path, &e)),
            })
            .collect()
    })
    .await
}

/// No source was written to while it was read.
async fn unchanged(job: &Job, before: &[i64]) -> Result<(), AgentError> {
    let after = checked(&job.files).await?;
    match before.iter().zip(&after).position(|(a, b)| a != b).and_then(|at| job.files.get(at)) {
        Some(file) => Err(changed(&file.path)),
        None => Ok(()),
    }
}
