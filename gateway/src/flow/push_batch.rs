//! A push of rows, top to bottom: permit, schema, batches into sorted runs, end record, commit, receipt.

use super::commit::{Committing, Opening};
use super::error::FlowError;
use super::pull::Delivered;
use super::wires::{Arrivals, Wires};
use super::{Flow, Opened};
use crate::gate::{Leash, Peer, Permit, PushPermit, Wait};
use crate::lake::manifest::TableManifest;
use crate::lake::writer::TableWriter;
use crate::metrics;
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
    if ask.mode != "full" && ask.mode != "append" {
        return Err(FlowError::bad_data("the mode is `full` or `append`"));
    }
    let opening = Opening {
        transfer,
        direction: Direction::Push,
        kind: DataKind::Table,
        entry: permit.entry().id,
        grant: None,
        mode: ask.mode.clone(),
        content: Digest::blake3(ask.mode.as_bytes()),
    };
    match flow.open_transfer(peer, opening).await? {
        Opened::Committed(receipt) => {
            return flow.conclude(peer, transfer, receipt, wires).await;
        }
        Opened::Running => {}
    }
    let claim = flow.claim(transfer);
    let before = if ask.mode == "append" { Some(Before::load(flow, &permit).await?) } else { None };
    let taken = tokio::select! {
        biased;
        cut = permit.leash().cut() => return Err(cut.into()),
        () = claim.lost() => return Err(FlowError::Conflict { what: "another session took this transfer over".into() }),
        taken = take(flow, &permit, &spec, transfer, wires) => taken?,
    };
    flow.failpoint("push.before_manifest");
    let onto = before.as_ref().and_then(|b| b.manifest.as_ref());
    let (manifest, digest) = taken.writer.finish(onto).await?;
    let manifest = Arc::new(manifest);
    confirm(&taken.end, &manifest, onto.map_or(0, |old| old.parts.len()))?;
    let quality = super::quality::judge(flow, &permit, &manifest).await?;
    let delivered = Delivered {
        quality,
        bytes: manifest.bytes(),
        rows: manifest.rows(),
        bytes_root: Some(manifest.root()),
        rows_digest: Some(manifest.rows_digest()),
        read_rejected: taken.end.read.zip(taken.end.rejected),
        ..Delivered::default()
    };
    let follows = before.map(|b| b.number);
    let receipt = flow.commit_version(&permit, Committing::table(peer, transfer, delivered, digest, follows)).await?;
    flow.conclude(peer, transfer, receipt, wires).await
}

/// The version that rows are appended to; none is a version without rows.
struct Before {
    number: u64,
    manifest: Option<TableManifest>,
}

impl Before {
    async fn load(flow: &Flow, permit: &PushPermit) -> Result<Self, FlowError> {
        let entry = permit.entry().id;
        let Some(number) = flow.latest(entry).await? else { return Ok(Self { number: 0, manifest: None }) };
        let version = flow.version(entry, number).await?;
        Ok(Self { number, manifest: Some(flow.table_manifest(&version).await?) })
    }
}

/// Rows that came, and their end record.
struct Taken {
    writer: TableWriter,
    end: PushEnd,
}

/// What the lake holds of this push against the sender's end record.
fn confirm(end: &PushEnd, manifest: &TableManifest, old_parts: usize) -> Result<(), FlowError> {
    let mut sum = RowsSum::default();
    manifest.parts.iter().skip(old_parts).for_each(|part| sum.merge(&part.rows_sum));
    let ours = sum.digest().to_string();
    // What was read and left behind is the sender's word; that it adds up is not.
    let counts = end.read.unwrap_or(end.rows).checked_sub(end.rejected.unwrap_or(0));
    if counts != Some(end.rows) {
        return Err(FlowError::bad_data("the end record's counts do not add up: read = sent + rejected"));
    }
    if end.rows == sum.count && end.rows_digest == ours {
        return Ok(());
    }
    let what = format!("{} rows sent, {} arrived; {} sent, {ours} arrived", end.rows, sum.count, end.rows_digest);
    Err(FlowError::Integrity { what })
}

async fn take<C: Channel>(
    flow: &Arc<Flow>,
    permit: &PushPermit,
    spec: &Arc<EntrySpec>,
    transfer: TransferId,
    wires: &mut Wires<C>,
) -> Result<Taken, FlowError> {
    // What an attempt before this one left was never acknowledged.
    flow.discard_table(transfer).await?;
    let writer = TableWriter::start(flow.lake().clone(), flow.writer_budget(), transfer, spec).await?;
    let mut arrivals = wires.router.wait_for(transfer, 1, flow.entropy())?;
    let token = arrivals.token().to_vec().into();
    wires.reply(reply::Reply::PushReady(PushReady { token, data_streams_max: 1, durable_follows: false })).await?;
    let rows = AtomicU64::new(0);
    let reading = read(flow, &mut arrivals, spec, permit.leash(), writer, &rows);
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
    while let Some(body) = next_batch(&mut stream).await? {
        flow.failpoint("push.batch");
        leash.check()?;
        let bytes = body.len() as u64;
        let decoded = decoder.decode(body).map_err(|e| FlowError::bad_data(e.to_string()))?;
        let Some(batch) = decoded else {
            check_schema(spec, &decoder)?;
            continue;
        };
        // Columns by name and types by the entry: from here on a batch is what the entry says.
        let batch =
            lingqu_protocol::columns::canonical_batch(spec, &batch).map_err(|e| FlowError::bad_data(e.to_string()))?;
        let count = batch.num_rows() as u64;
        {
            // Rows that wait for their turn wait for memory, and for the disk behind it.
            let _waiting = leash.waits().begin(Wait::Memory);
            writer.write(batch).await?;
        }
        rows.fetch_add(count, Ordering::Relaxed);
        metrics::received(bytes);
        metrics::received_rows(count);
        leash.moved().add(bytes, count);
    }
    Ok(writer)
}

async fn next_batch<R: RecvHalf>(stream: &mut FrameReader<R>) -> Result<Option<bytes::Bytes>, FlowError> {
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
