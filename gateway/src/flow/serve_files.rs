//! Files out of the lake: the manifest, the segments that the receiver wants, on several streams.

use super::Flow;
use super::ahead::Ahead;
use super::error::FlowError;
use super::meter::Meter;
use super::pull::Delivered;
use super::record::VersionRow;
use super::wires::{DataLane, Token, Wires, token};
use crate::gate::{Leash, Permit, PullPermit};
use crate::lake::segment::SegmentStore;
use lingqu_protocol::digest::{CHUNK_BYTES, ChunkValue};
use lingqu_protocol::fileset::{FileEntry, set_root};
use lingqu_protocol::frame::{self, FrameKind, MANIFEST_BYTES_MAX};
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::plan::{Plan, SEGMENT_CHUNKS};
use lingqu_protocol::receipt::{RECEIPT_FILES_MAX, ReceiptFile};
use lingqu_protocol::session::SessionError;
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{self, ManifestFile, ManifestPart, PullReady, SegmentRange, Step, reply, step};
use prost::Message;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinSet;

/// Serves the named files of a version, or all; gives the streams that the receiver has not confirmed yet.
///
/// # Errors
/// Why the receiver has no end record.
pub async fn serve<C: Channel>(
    flow: &Arc<Flow>,
    permit: &PullPermit,
    transfer: TransferId,
    version: &VersionRow,
    names: &[String],
    meter: &Arc<Meter>,
    wires: &mut Wires<C>,
) -> Result<(Delivered, Vec<DataLane<C::Send>>), FlowError> {
    let manifest = flow.file_manifest(version).await?;
    let all = manifest.files();
    let chosen = choose(all, names)?;
    let files: Vec<FileEntry> = chosen.iter().filter_map(|i| all.get(*i as usize)).cloned().collect();
    let plan = Arc::new(Plan::new(files.iter().map(|f| f.bytes).collect())?);
    let stored = Plan::new(all.iter().map(|f| f.bytes).collect())?;
    let source = Source {
        segments: flow.segments().clone(),
        transfer: version.transfer,
        places: places(&stored),
        stored,
        chosen,
        plan: Arc::clone(&plan),
        ahead: Arc::clone(flow.ahead()),
        failpoint: flow.failpoints(),
    };
    let token = token(flow.entropy())?;
    wires
        .reply(reply::Reply::PullReady(PullReady {
            grant: permit.grant().id.to_string(),
            entry: permit.entry().id.to_string(),
            version: version.number,
            kind: "file".to_owned(),
            token: token.to_vec().into(),
            files: files.len() as u32,
            bytes: plan.bytes(),
            rows_at_most: 0,
            goes_on: false,
        }))
        .await?;
    send_manifest(&files, wires).await?;
    let wanted = match wires.expect::<Step>("the segments that are wanted").await?.step {
        Some(step::Step::PullStart(start)) => wanted(&start.want, &plan)?,
        _ => {
            let expected = "the segments that are wanted";
            return Err(SessionError::Unexpected { expected, got: "another step" }.into());
        }
    };
    flow.failpoint("pull.before_data");
    let (sent_bytes, lanes) =
        send_segments(Arc::new(source), &wanted, transfer, token, permit.leash(), meter, &wires.channel).await?;
    let delivered = Delivered {
        sent_bytes,
        bytes: plan.bytes(),
        files: files.len() as u64,
        bytes_root: Some(set_root(&files)),
        listing: listing(&files),
        ..Delivered::default()
    };
    Ok((delivered, lanes))
}

/// The files as a receipt lists them; none where they are too many for one.
pub fn listing(files: &[FileEntry]) -> Vec<ReceiptFile> {
    if files.len() > RECEIPT_FILES_MAX {
        return Vec::new();
    }
    files.iter().map(|f| ReceiptFile { path: f.name.clone(), bytes: f.bytes, root: f.root }).collect()
}

fn choose(all: &[FileEntry], names: &[String]) -> Result<Vec<u32>, FlowError> {
    if names.is_empty() {
        return Ok((0..all.len() as u32).collect());
    }
    let find = |name: &String| all.binary_search_by(|f| f.name.as_bytes().cmp(name.as_bytes())).map(|i| i as u32);
    let mut chosen =
        names.iter().map(find).collect::<Result<Vec<_>, _>>().map_err(|_| FlowError::NotFound { what: "file" })?;
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

async fn send_manifest<C: Channel>(files: &[FileEntry], wires: &mut Wires<C>) -> Result<(), FlowError> {
    let mut part = ManifestPart::default();
    // A name is at most a kilobyte; half of the bound leaves room for one more of any length.
    let full = MANIFEST_BYTES_MAX / 2;
    let mut bytes = 0;
    for file in files {
        bytes += file.name.len() + 64;
        part.files.push(ManifestFile {
            name: file.name.clone(),
            bytes: file.bytes,
            root: file.root.bytes.to_vec().into(),
        });
        if bytes >= full {
            send_part(&std::mem::take(&mut part), wires).await?;
            bytes = 0;
        }
    }
    if part.files.is_empty() { Ok(()) } else { send_part(&part, wires).await }
}

async fn send_part<C: Channel>(part: &ManifestPart, wires: &mut Wires<C>) -> Result<(), FlowError> {
    Ok(wires.writer.raw(frame::encode(FrameKind::Manifest, &part.encode_to_vec())?).await?)
}

fn wanted(ranges: &[SegmentRange], plan: &Plan) -> Result<Vec<u32>, FlowError> {
    let mut wanted: Vec<u32> = Vec::new();
    for range in ranges {
        let end = range.first.checked_add(range.count).filter(|end| *end <= plan.segments());
        let end = end.ok_or_else(|| FlowError::bad_data("segments are wanted that the plan does not have"))?;
        if wanted.last().is_some_and(|last| range.first <= *last) {
            return Err(FlowError::bad_data("the wanted segments are not in ascending order"));
        }
        wanted.extend(range.first..end);
    }
    Ok(wanted)
}

/// Where the items of the chosen files lie in the stored version.
struct Source {
    segments: SegmentStore,
    transfer: TransferId,
    stored: Plan,
    /// Of each stored file, its first segment; of a packed one, its item there.
    places: HashMap<u32, (u32, u32)>,
    chosen: Vec<u32>,
    plan: Arc<Plan>,
    ahead: Arc<Ahead>,
    failpoint: fn(&str),
}

fn places(stored: &Plan) -> HashMap<u32, (u32, u32)> {
    let mut places = HashMap::new();
    for segment in 0..stored.segments() {
        for (index, item) in (0u32..).zip(stored.items(segment).unwrap_or_default()) {
            places.entry(item.file).or_insert((segment, index));
        }
    }
    places
}

impl Source {
    /// The items of a segment of the receiver's plan, read from where they are stored, each checked.
    async fn send<S: lingqu_protocol::stream::SendHalf>(
        &self,
        segment: u32,
        leash: &Leash,
        meter: &Meter,
        lane: &mut DataLane<S>,
    ) -> Result<(), FlowError> {
        meter.take(self.plan.segment_bytes(segment).unwrap_or(0)).await?;
        leash.check()?;
        lane.raw(frame::segment(segment)).await?;
        let mut open = None;
        for (index, item) in (0u32..).zip(self.plan.items(segment).unwrap_or_default()) {
            let gone = || FlowError::NotFound { what: "file" };
            let file = *self.chosen.get(item.file as usize).ok_or_else(gone)?;
            let (first, place) = *self.places.get(&file).ok_or_else(gone)?;
            let (at, place) = if self.stored.sizes().get(file as usize).is_some_and(|bytes| *bytes > CHUNK_BYTES) {
                let chunks = u64::from(SEGMENT_CHUNKS);
                (first + (item.chunk / chunks) as u32, (item.chunk % chunks) as u32)
            } else {
                (first, place)
            };
            let reader = match open.take() {
                Some((of, reader)) if of == at => reader,
                _ => self.segments.open(self.transfer, &self.stored, at).await?,
            };
            let value: ChunkValue = reader.values().get(place as usize).copied().unwrap_or_default();
            let mut data = reader.item(place)?;
            let mut piece = data.next(self.ahead.piece_bytes(0)).await?;
            lane.raw(frame::item_head(index, &value, item.bytes)?).await?;
            loop {
                (self.failpoint)("pull.piece");
                meter.pace(piece.len() as u64).await;
                leash.check()?;
                lane.raw(piece).await?;
                if data.is_at_end() {
                    break;
                }
                piece = data.next(self.ahead.piece_bytes(0)).await?;
            }
            open = Some((at, reader));
        }
        Ok(())
    }
}

async fn send_segments<C: Channel>(
    source: Arc<Source>,
    wanted: &[u32],
    transfer: TransferId,
    token: Token,
    leash: &Leash,
    meter: &Arc<Meter>,
    channel: &C,
) -> Result<(u64, Vec<DataLane<C::Send>>), FlowError> {
    // All of it is there before the first byte of any leaves; what is not sent after all is given back.
    let bytes: u64 = wanted.iter().filter_map(|segment| source.plan.segment_bytes(*segment)).sum();
    meter.reserve(bytes).await?;
    let queue: VecDeque<u32> = wanted.iter().copied().collect();
    let queue = Arc::new(Mutex::new(queue));
    let mut streams = JoinSet::new();
    let lanes = source.ahead.streams((wire::DATA_STREAMS_MAX as usize).min(wanted.len()));
    for _ in 0..lanes {
        let served = source.ahead.serve();
        let mut lane = DataLane::open(channel, transfer, token, leash.clone()).await?;
        let (source, queue, leash) = (Arc::clone(&source), Arc::clone(&queue), leash.clone());
        let meter = Arc::clone(meter);
        streams.spawn(async move {
            let _served = served;
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(segment) = next else {
                    lane.finish();
                    return Ok::<_, FlowError>(lane);
                };
                source.send(segment, &leash, &meter, &mut lane).await?;
                let bytes = source.plan.segment_bytes(segment).unwrap_or(0);
                crate::metrics::sent(bytes);
                leash.moved().add(bytes, 0);
            }
        });
    }
    let mut held = Vec::with_capacity(lanes);
    while let Some(ended) = streams.join_next().await {
        held.push(ended??);
    }
    Ok((bytes, held))
}
