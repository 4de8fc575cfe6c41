//! A push of files, top to bottom: names, plan, what is durable already, data, end record, commit, receipt.

use super::commit::{Committing, Opened, Opening};
use super::error::FlowError;
use super::wires::{CONTROL_WAIT, Wires};
use super::{Flow, receive};
use crate::gate::{Peer, Permit, PushPermit};
use lingqu_protocol::digest::{Digest, RootBuilder};
use lingqu_protocol::entry::EntryFormat;
use lingqu_protocol::fileset::{FileEntry, set_root};
use lingqu_protocol::frame::Event;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::name::{FileName, NameSet};
use lingqu_protocol::plan::{Plan, SET_FILES_MAX};
use lingqu_protocol::receipt::{DataKind, Direction};
use lingqu_protocol::session::{SessionError, event_name};
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{self, ManifestPart, Progress, PushEnd, PushFiles, Step, reply, step};
use std::sync::Arc;
use std::time::Duration;

/// How often the sender hears what is durable: often enough for a progress bar.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// Segments told in one `Durable` message: 36 bytes each stay far below a control message's bound.
const DURABLE_PER_MESSAGE: usize = 16_384;

/// Takes a set of files from a provider's agent.
///
/// # Errors
/// Why nothing was committed. Segments that are durable stay for a resume.
pub async fn push_files<C: Channel>(
    flow: &Arc<Flow>,
    permit: PushPermit,
    peer: &Peer,
    ask: PushFiles,
    wires: &mut Wires<C>,
) -> Result<(), FlowError> {
    let transfer: TransferId = ask.transfer.parse().map_err(|e| FlowError::bad_data(format!("{e}")))?;
    if permit.entry().spec.format != EntryFormat::File {
        return Err(FlowError::bad_data("this is an entry of rows: use `push batch`"));
    }
    let names = read_names(&ask, wires).await?;
    let plan = Arc::new(Plan::new(names.iter().map(|(_, bytes)| *bytes).collect())?);
    if plan.bytes() != ask.bytes {
        return Err(FlowError::bad_data("the announced bytes are not the sum of the files"));
    }
    let opening = Opening {
        transfer,
        direction: Direction::Push,
        kind: DataKind::File,
        entry: permit.entry().id,
        grant: None,
        mode: "full".to_owned(),
        content: content_digest(&names),
    };
    match flow.open_transfer(peer, opening).await? {
        Opened::Committed(receipt) => {
            tracing::info!("was committed before: the first receipt again");
            return flow.conclude(peer, transfer, receipt, wires).await;
        }
        Opened::Running => {}
    }
    // Owned by one session at a time: an agent that comes back takes the transfer over, and the old session ends.
    let claim = flow.claim(transfer);
    let work = transfer_data(flow, &permit, transfer, &names, &plan, wires);
    let files = claim.work(permit.leash(), work).await?;
    permit.leash().check()?;
    let receipt = flow.commit_version(&permit, Committing::files(peer, transfer, files)).await?;
    flow.conclude(peer, transfer, receipt, wires).await
}

pub(super) async fn read_names<C: Channel>(
    ask: &PushFiles,
    wires: &mut Wires<C>,
) -> Result<Vec<(FileName, u64)>, FlowError> {
    let files = ask.files as usize;
    if files > SET_FILES_MAX {
        return Err(lingqu_protocol::plan::PlanError::TooManyFiles { files }.into());
    }
    let mut set = NameSet::default();
    let mut names: Vec<(FileName, u64)> = Vec::new();
    while names.len() < files {
        let event = tokio::time::timeout(CONTROL_WAIT, wires.reader.next())
            .await
            .map_err(|_| FlowError::TooSlow { what: "the manifest" })??;
        let Some(Event::Manifest(body)) = event else {
            let got = event_name(event.as_ref());
            return Err(SessionError::Unexpected { expected: "a manifest", got }.into());
        };
        let part: ManifestPart = wire::decode(body)?;
        if part.files.is_empty() || names.len() + part.files.len() > files {
            return Err(FlowError::bad_data("the manifest does not have the announced number of files"));
        }
        for file in part.files {
            let name = FileName::parse(&file.name).map_err(|e| FlowError::bad_data(e.to_string()))?;
            if names.last().is_some_and(|(last, _)| last.as_str().as_bytes() >= name.as_str().as_bytes()) {
                return Err(FlowError::bad_data("the manifest's names are not in ascending order"));
            }
            set.insert(&name).map_err(|e| FlowError::bad_data(e.to_string()))?;
            names.push((name, file.bytes));
        }
    }
    Ok(names)
}

/// Binds a transfer's id to its names and sizes: the same id cannot be used for another set.
pub(super) fn content_digest(names: &[(FileName, u64)]) -> Digest {
    let zero = Digest { algorithm: lingqu_protocol::digest::Algorithm::Blake3, bytes: [0; 32] };
    let listing: Vec<FileEntry> = names
        .iter()
        .map(|(name, bytes)| FileEntry { name: name.as_str().to_owned(), bytes: *bytes, root: zero })
        .collect();
    set_root(&listing)
}

pub(super) async fn transfer_data<C: Channel>(
    flow: &Arc<Flow>,
    permit: &impl Permit,
    transfer: TransferId,
    names: &[(FileName, u64)],
    plan: &Arc<Plan>,
    wires: &mut Wires<C>,
) -> Result<Vec<FileEntry>, FlowError> {
    let durable = flow.segments().durable(transfer, plan).await?;
    // Segments take the place of what reads keep.
    flow.chunk_cache().clear();
    let streams = wire::DATA_STREAMS_MAX;
    let arrivals = wires.router.wait_for(transfer, streams as usize, permit.leash(), flow.entropy())?;
    wires
        .reply(reply::Reply::PushReady(wire::PushReady {
            token: arrivals.token().to_vec().into(),
            data_streams_max: streams,
            durable_follows: durable.count() > 0,
            ..wire::PushReady::default()
        }))
        .await?;
    let present: Vec<u32> = durable.present().collect();
    tell_durable(flow, transfer, plan, &present, wires).await?;

    let reception =
        receive::Reception::new(Arc::clone(flow), transfer, Arc::clone(plan), permit.leash().clone(), durable);
    let mut receiving = reception.start(arrivals);
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    let end = loop {
        tokio::select! {
            step = wires.reader.expect::<Step>("the end record") => match step?.step {
                Some(step::Step::PushEnd(end)) => break end,
                _ => return Err(SessionError::Unexpected { expected: "the end record", got: "another step" }.into()),
            },
            failed = receiving.failed() => return Err(failed),
            _ = tick.tick() => {
                let durable_bytes = receiving.durable_bytes();
                wires.reply(reply::Reply::Progress(Progress { durable_bytes, rows: 0 })).await?;
            }
        }
    };
    receiving.complete().await?;
    flow.let_go(plan.bytes());
    verify(flow, transfer, names, plan, &end).await
}

async fn tell_durable<C: Channel>(
    flow: &Flow,
    transfer: TransferId,
    plan: &Plan,
    present: &[u32],
    wires: &mut Wires<C>,
) -> Result<(), FlowError> {
    let mut parts = present.chunks(DURABLE_PER_MESSAGE).peekable();
    while let Some(part) = parts.next() {
        let mut digests = Vec::with_capacity(part.len() * 32);
        for segment in part {
            let values = flow.segments().values(transfer, plan, *segment).await?;
            digests.extend(Digest::blake3(values.as_flattened()).bytes);
        }
        let last = parts.peek().is_none();
        let durable = wire::Durable { segments: part.to_vec(), values_digests: digests.into(), last };
        wires.reply(reply::Reply::Durable(durable)).await?;
    }
    Ok(())
}

/// Every file's hash from what lies in the lake, and all of it against the sender's end record.
async fn verify(
    flow: &Flow,
    transfer: TransferId,
    names: &[(FileName, u64)],
    plan: &Plan,
    end: &PushEnd,
) -> Result<Vec<FileEntry>, FlowError> {
    let mut roots: Vec<RootBuilder> = plan.sizes().iter().map(|bytes| RootBuilder::new(*bytes)).collect();
    for segment in 0..plan.segments() {
        let values = flow.segments().values(transfer, plan, segment).await?;
        for (item, value) in plan.items(segment).unwrap_or_default().iter().zip(values) {
            if let Some(root) = roots.get_mut(item.file as usize) {
                root.push(value);
            }
        }
    }
    let incomplete = || FlowError::Integrity { what: "a file is not complete".into() };
    let mut files = Vec::with_capacity(names.len());
    for ((name, bytes), root) in names.iter().zip(roots) {
        files.push(FileEntry {
            name: name.as_str().to_owned(),
            bytes: *bytes,
            root: root.finish().ok_or_else(incomplete)?,
        });
    }
    let ours = set_root(&files);
    if end.bytes_root != ours.to_string() || end.bytes != plan.bytes() || end.files != files.len() as u64 {
        return Err(FlowError::Integrity { what: format!("sent {}, arrived {ours}", end.bytes_root) });
    }
    Ok(files)
}
