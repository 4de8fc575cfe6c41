//! A push of rows, top to bottom: permit, what is durable already, schema, batches into sorted runs, end record, commit,
//! receipt.

use super::Flow;
use super::commit::{Committing, OpenedAlone, Opening};
use super::error::FlowError;
use super::pull::Delivered;
use super::wires::{Arrivals, Wires};
use crate::gate::{Leash, Peer, Permit, PushPermit, Wait};
use crate::lake::manifest::{Manifest, TableManifest};
use crate::lake::shape::Shape;
use crate::lake::writer::TableWriter;
use crate::lake::{compact, merge};
use crate::metrics;
use arrow::array::RecordBatch;
use bytes::Bytes;
use lingqu_protocol::changes::OP_COLUMN;
use lingqu_protocol::columns::differences;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::{EntryFormat, EntrySpec};
use lingqu_protocol::frame::Event;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::ipc;
use lingqu_protocol::receipt::{DataKind, Direction};
use lingqu_protocol::rows::RowsSum;
use lingqu_protocol::session::{FrameReader, SessionError, event_name};
use lingqu_protocol::stream::{Channel, RecvHalf};
use lingqu_protocol::wire::{Progress, PushBatch, PushEnd, PushReady, Step, reply, step};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often the sender hears how many rows came.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// A batch must arrive within this, once its stream waits for nothing of ours.
const BATCH_WAIT: Duration = Duration::from_secs(120);

/// Takes rows from a provider's agent.
///
/// # Errors
/// Why nothing was committed.
pub async fn push_batch<C: Channel>(
    flow: &Arc<Flow>,
    permit: PushPermit,
    peer: &Peer,
    ask: PushBatch,
    wires: &mut Wires<C>,
) -> Result<(), FlowError> {
    let transfer: TransferId = ask.transfer.parse().map_err(|e| FlowError::bad_data(format!("{e}")))?;
    let spec = Arc::clone(&permit.entry().spec);
    if spec.format != EntryFormat::Table {
        return Err(FlowError::bad_data("this is an entry of files: use `push file`"));
    }
    let mode = Mode::parse(&ask.mode)?;
    if ask.files > 0 {
        return super::push_verbatim::push_verbatim(flow, permit, peer, transfer, ask, mode, wires).await;
    }
    let shape = mode.shape(&spec)?;
    let opening = Opening {
        transfer,
        direction: Direction::Push,
        kind: DataKind::Table,
        entry: permit.entry().id,
        grant: None,
        mode: ask.mode.clone(),
        content: Digest::blake3(ask.mode.as_bytes()),
    };
    let claim = match flow.open_alone(peer, opening).await? {
        OpenedAlone::Committed(receipt) => return flow.conclude(peer, transfer, receipt, wires).await,
        OpenedAlone::Running(claim) => claim,
    };
    let before = if mode == Mode::Full { None } else { Some(Before::load(flow, &permit).await?) };
    let taken = claim.work(permit.leash(), take(flow, &permit, shape, transfer, wires)).await?;
    flow.failpoint("push.before_manifest");
    let onto = before.as_ref().and_then(|b| b.manifest.as_ref());
    let (manifest, digest) = version(flow, taken.writer, transfer, mode, &spec, onto).await?;
    let manifest = Arc::new(manifest);
    let quality = super::quality::judge(flow, &permit, &manifest).await?;
    let follows = before.map(|b| b.number);
    let delivered =
        Delivered { quality, read_rejected: taken.end.read.zip(taken.end.rejected), ..Delivered::version(&manifest) };
    let done = Committing::table(peer, transfer, delivered, digest, follows, &manifest);
    let receipt = flow.commit_version(&permit, done).await?;
    drop(claim);
    flow.conclude(peer, transfer, receipt, wires).await
}

/// The version that rows are appended to; none is a version without rows.
pub(super) struct Before {
    pub(super) number: u64,
    pub(super) manifest: Option<TableManifest>,
}

impl Before {
    pub(super) async fn load(flow: &Flow, permit: &PushPermit) -> Result<Self, FlowError> {
        let entry = permit.entry().id;
        let Some(number) = flow.latest(entry).await? else { return Ok(Self { number: 0, manifest: None }) };
        let version = flow.version(entry, number).await?;
        Ok(Self { number, manifest: Some(flow.table_manifest(&version).await?) })
    }
}

/// Rows that came, all of them durable, as their end record says, and that.
struct Taken {
    writer: TableWriter,
    end: PushEnd,
}

/// What arrived against the sender's end record.
fn confirm(end: &PushEnd, arrived: RowsSum) -> Result<(), FlowError> {
    let ours = arrived.digest().to_string();
    // What was read and left behind is the sender's word; that it adds up is not.
    let counts = end.read.unwrap_or(end.rows).checked_sub(end.rejected.unwrap_or(0));
    if counts != Some(end.rows) {
        return Err(FlowError::bad_data("the end record's counts do not add up: read = sent + rejected"));
    }
    if end.rows == arrived.count && end.rows_digest == ours {
        return Ok(());
    }
    let what = format!("{} rows sent, {} arrived; {} sent, {ours} arrived", end.rows, arrived.count, end.rows_digest);
    Err(FlowError::Integrity { what })
}

/// What a push does with the rows that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The version is what is sent.
    Full,
    /// The version is the one before it and what is sent.
    Append,
    /// The version is the one before it with what is sent in the place of what had the same keys.
    Changes,
}

impl Mode {
    fn parse(word: &str) -> Result<Self, FlowError> {
        match word {
            "full" => Ok(Self::Full),
            "append" => Ok(Self::Append),
            "changes" => Ok(Self::Changes),
            _ => Err(FlowError::bad_data("the mode is `full`, `append` or `changes`")),
        }
    }

    fn shape(self, spec: &EntrySpec) -> Result<Shape, FlowError> {
        if self != Self::Changes {
            return Ok(Shape::rows(spec));
        }
        if spec.key_columns().next().is_none() {
            return Err(FlowError::bad_data("the entry has no key: changes need one, send a full version"));
        }
        if spec.item(OP_COLUMN).is_some() {
            return Err(FlowError::bad_data(format!("the entry has an item {OP_COLUMN}: it takes no changes")));
        }
        Ok(Shape::changes(spec))
    }
}

/// The version that the rows that came make, with parts written anew where that is due.
async fn version(
    flow: &Arc<Flow>,
    mut writer: TableWriter,
    transfer: TransferId,
    mode: Mode,
    spec: &Arc<EntrySpec>,
    onto: Option<&TableManifest>,
) -> Result<(TableManifest, Digest), FlowError> {
    let (lake, cache) = (flow.lake(), flow.chunk_cache());
    let shape = Shape::rows(spec);
    let mut manifest = match mode {
        Mode::Full | Mode::Append => writer.complete(onto).await?,
        Mode::Changes => merge::apply(lake, cache, &shape, writer.complete(None).await?, onto).await?,
    };
    if mode != Mode::Full {
        manifest = compact::compact(lake, cache, flow.writer_budget(), transfer, &shape, manifest).await?;
    }
    let digest = manifest.save(lake, transfer).await?;
    Ok((manifest, digest))
}

async fn take<C: Channel>(
    flow: &Arc<Flow>,
    permit: &PushPermit,
    shape: Shape,
    transfer: TransferId,
    wires: &mut Wires<C>,
) -> Result<Taken, FlowError> {
    let arriving = shape.entry().clone();
    // Runs take the place of what reads keep.
    flow.chunk_cache().clear();
    let writer = TableWriter::resume(flow.lake().clone(), flow.writer_budget(), transfer, shape).await?;
    let durable = writer.durable();
    let rows_sum = if durable.count > 0 { durable.to_bytes().to_vec().into() } else { Bytes::new() };
    let mut arrivals = wires.router.wait_for(transfer, 1, permit.leash(), flow.entropy())?;
    let token = arrivals.token().to_vec().into();
    wires
        .reply(reply::Reply::PushReady(PushReady { token, data_streams_max: 1, durable_follows: false, rows_sum }))
        .await?;
    let rows = AtomicU64::new(durable.count);
    let reading = read(flow, &mut arrivals, &arriving, permit.leash(), writer, &rows);
    tokio::pin!(reading);
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    let mut end: Option<PushEnd> = None;
    let writer = loop {
        tokio::select! {
            step = wires.reader.expect::<Step>("the end record"), if end.is_none() => end = Some(end_record(step?)?),
            writer = &mut reading => break writer?,
            _ = tick.tick() => {
                let progress = Progress { durable_bytes: 0, rows: rows.load(Ordering::Relaxed) };
                wires.reply(reply::Reply::Progress(progress)).await?;
            }
        }
    };
    let end = match end {
        Some(end) => end,
        None => end_record(wires.expect::<Step>("the end record").await?)?,
    };
    confirm(&end, writer.durable())?;
    Ok(Taken { writer, end })
}

fn end_record(step: Step) -> Result<PushEnd, FlowError> {
    match step.step {
        Some(step::Step::PushEnd(end)) => Ok(end),
        _ => Err(unexpected("the end record", "another step")),
    }
}

async fn read<R: RecvHalf>(
    flow: &Flow,
    arrivals: &mut Arrivals<R>,
    spec: &Arc<EntrySpec>,
    leash: &Leash,
    mut writer: TableWriter,
    rows: &AtomicU64,
) -> Result<TableWriter, FlowError> {
    let mut stream = arrivals.next().await.ok_or(SessionError::Incomplete)?;
    let mut decoder = ipc::Decoder::default();
    let mut next = next_batch(&mut stream).await?;
    let mut all = 0u64;
    while let Some(body) = next.take() {
        flow.failpoint("push.batch");
        leash.check()?;
        let bytes = body.len() as u64;
        all += bytes;
        let decoding = decode(spec, decoder, body);
        // The next one comes in while this one is looked at and while it waits for memory.
        let (ahead, done) = tokio::join!(next_batch(&mut stream), async {
            let (back, batch) = decoding.await?;
            let count = batch.as_ref().map_or(0, |batch| batch.num_rows() as u64);
            if let Some(batch) = batch {
                // Rows that wait for their turn wait for memory, and for the disk behind it.
                let _waiting = leash.waits().begin(Wait::Memory);
                writer.write(batch).await?;
            }
            Ok::<_, FlowError>((back, count))
        });
        let (back, count) = done?;
        decoder = back;
        rows.fetch_add(count, Ordering::Relaxed);
        metrics::received(bytes);
        metrics::received_rows(count);
        leash.moved().add(bytes, count);
        next = ahead?;
    }
    // What came whole is durable before the end record is looked at: a push that is cut here goes on from its end.
    writer.flush().await?;
    flow.let_go(all);
    Ok(writer)
}

/// The rows of a frame as the entry has them, on a thread for work: columns by name, types by the entry, validation on.
async fn decode(
    spec: &Arc<EntrySpec>,
    mut decoder: ipc::Decoder,
    body: Bytes,
) -> Result<(ipc::Decoder, Option<RecordBatch>), FlowError> {
    let spec = Arc::clone(spec);
    let decoded = tokio::task::spawn_blocking(move || {
        let decoded = decoder.decode(body).map_err(|e| FlowError::bad_data(e.to_string()))?;
        let Some(batch) = decoded else {
            check_schema(&spec, &decoder)?;
            return Ok((decoder, None));
        };
        let batch =
            lingqu_protocol::columns::canonical_batch(&spec, &batch).map_err(|e| FlowError::bad_data(e.to_string()))?;
        Ok((decoder, Some(batch)))
    });
    decoded.await?
}

async fn next_batch<R: RecvHalf>(stream: &mut FrameReader<R>) -> Result<Option<Bytes>, FlowError> {
    let event = tokio::time::timeout(BATCH_WAIT, stream.next()).await;
    match event.map_err(|_| FlowError::TooSlow { what: "a batch" })?? {
        None => Ok(None),
        Some(Event::Batch(body)) => Ok(Some(body)),
        other => Err(unexpected("a batch", event_name(other.as_ref()))),
    }
}

fn check_schema(spec: &EntrySpec, decoder: &ipc::Decoder) -> Result<(), FlowError> {
    let Some(schema) = decoder.schema() else { return Err(FlowError::bad_data("the rows have no schema")) };
    let differences = differences(spec, schema);
    if differences.is_empty() {
        return Ok(());
    }
    let all: Vec<String> = differences.iter().map(ToString::to_string).collect();
    Err(FlowError::bad_data(format!("the rows differ from the entry: {}", all.join("; "))))
}

fn unexpected(expected: &'static str, got: &'static str) -> FlowError {
    SessionError::Unexpected { expected, got }.into()
}
