//! A push of rows that come as Parquet files and stay as they are: the bytes as a set of files travels, then every file
//! judged where it lies, then a version whose parts are these files.

use super::Flow;
use super::commit::{Committing, OpenedAlone, Opening};
use super::error::FlowError;
use super::pull::Delivered;
use super::push_batch::{Before, Mode};
use super::push_files::{content_digest, read_names, transfer_data};
use super::wires::Wires;
use crate::gate::{Peer, Permit, PushPermit};
use crate::lake::LakeError;
use crate::lake::manifest::{FilePlace, Manifest, PARTS_MAX, REGIONS_MAX, Regions, TableManifest};
use crate::lake::shape::Shape;
use crate::lake::verbatim::{ProviderFile, describe};
use crate::metrics;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::fileset::FileEntry;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::plan::Plan;
use lingqu_protocol::receipt::{DataKind, Direction};
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{Progress, PushBatch, PushFiles, reply};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often the sender hears how many rows were judged.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// Takes Parquet files as rows.
///
/// # Errors
/// Why nothing was committed. Segments that are durable stay for a resume.
pub(super) async fn push_verbatim<C: Channel>(
    flow: &Arc<Flow>,
    permit: PushPermit,
    peer: &Peer,
    transfer: TransferId,
    ask: PushBatch,
    mode: Mode,
    wires: &mut Wires<C>,
) -> Result<(), FlowError> {
    if mode == Mode::Changes {
        return Err(FlowError::bad_data("changes come as rows, not as they are"));
    }
    let files = PushFiles { transfer: ask.transfer, entry: ask.entry, files: ask.files, bytes: ask.bytes };
    let names = read_names(&files, wires).await?;
    let plan = Arc::new(Plan::new(names.iter().map(|(_, bytes)| *bytes).collect())?);
    if plan.bytes() != files.bytes {
        return Err(FlowError::bad_data("the announced bytes are not the sum of the files"));
    }
    let listing = [ask.mode.as_bytes(), b"\n", &content_digest(&names).bytes].concat();
    let opening = Opening {
        transfer,
        direction: Direction::Push,
        kind: DataKind::Table,
        entry: permit.entry().id,
        grant: None,
        mode: ask.mode,
        content: Digest::blake3(&listing),
    };
    let claim = match flow.open_alone(peer, opening).await? {
        OpenedAlone::Committed(receipt) => return flow.conclude(peer, transfer, receipt, wires).await,
        OpenedAlone::Running(claim) => claim,
    };
    let before = if mode == Mode::Full { None } else { Some(Before::load(flow, &permit).await?) };
    let work = async {
        let files = transfer_data(flow, &permit, transfer, &names, &plan, wires).await?;
        judge(flow, &permit, transfer, &files, before.as_ref(), wires).await
    };
    let manifest = Arc::new(claim.work(permit.leash(), work).await?);
    let quality = super::quality::judge(flow, &permit, &manifest).await?;
    flow.failpoint("push.before_manifest");
    // One that was never named by the state may be there, made onto an older version.
    flow.lake().remove(&crate::lake::manifest::path::<TableManifest>(transfer)).await?;
    let digest = manifest.save(flow.lake(), transfer).await?;
    let follows = before.map(|before| before.number);
    let delivered = Delivered { quality, ..Delivered::version(&manifest) };
    let done = Committing::table(peer, transfer, delivered, digest, follows, &manifest);
    let receipt = flow.commit_version(&permit, done).await?;
    drop(claim);
    flow.conclude(peer, transfer, receipt, wires).await
}

/// Judges every file and makes the version of them.
async fn judge<C: Channel>(
    flow: &Arc<Flow>,
    permit: &PushPermit,
    transfer: TransferId,
    files: &[FileEntry],
    before: Option<&Before>,
    wires: &mut Wires<C>,
) -> Result<TableManifest, FlowError> {
    let shape = Arc::new(Shape::rows(&permit.entry().spec));
    let rows = Arc::new(AtomicU64::new(0));
    let judging = describe_all(flow, &shape, transfer, files, before, &rows);
    tokio::pin!(judging);
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    let (mut told, mut bytes_told) = (0, 0);
    let total: u64 = files.iter().map(|file| file.bytes).sum();
    loop {
        tokio::select! {
            manifest = &mut judging => {
                let manifest = manifest?;
                metrics::received_rows(rows.load(Ordering::Relaxed).saturating_sub(told));
                return Ok(manifest);
            }
            _ = tick.tick() => {
                let seen = rows.load(Ordering::Relaxed);
                metrics::received_rows(seen.saturating_sub(told));
                permit.leash().moved().add(0, seen.saturating_sub(told));
                told = seen;
                bytes_told = total.max(bytes_told);
                let progress = Progress { durable_bytes: bytes_told, rows: seen };
                wires.reply(reply::Reply::Progress(progress)).await?;
            }
        }
    }
}

async fn describe_all(
    flow: &Arc<Flow>,
    shape: &Arc<Shape>,
    transfer: TransferId,
    files: &[FileEntry],
    before: Option<&Before>,
    progress: &Arc<AtomicU64>,
) -> Result<TableManifest, FlowError> {
    let onto = before.and_then(|before| before.manifest.as_ref());
    let (columns, region_column) = shape.columns();
    let mut parts = match onto {
        Some(old) => old.carried_on(columns, region_column)?,
        None => Vec::new(),
    };
    if parts.len() + files.len() > PARTS_MAX {
        return Err(FlowError::OverLimit { what: format!("a version has at most {PARTS_MAX} parts") });
    }
    let mut regions = onto.map_or_else(|| Some(Regions::new()), |old| old.regions.clone());
    let sizes: Arc<[u64]> = files.iter().map(|file| file.bytes).collect();
    for (place, file) in (0u32..).zip(files) {
        let place = FilePlace { transfer, file: place, sizes: sizes.clone() };
        let judged = ProviderFile { place, root: file.root, first_row: 0 };
        let described = describe(flow.lake(), flow.chunk_cache(), shape, judged, progress).await;
        let described = described.map_err(|error| match error {
            LakeError::BadData { what } => FlowError::bad_data(format!("{}: {what}", file.name)),
            other => other.into(),
        })?;
        if let Some(all) = &mut regions {
            for (code, sum) in described.regions {
                all.entry(code).or_default().merge(&sum);
            }
        }
        parts.push(described.part);
    }
    // What was judged is not what is asked for next.
    flow.chunk_cache().clear();
    flow.let_go(sizes.iter().sum());
    let regions = regions.filter(|regions| regions.len() <= REGIONS_MAX);
    Ok(TableManifest { columns: columns.to_vec(), region_column, parts, regions })
}
