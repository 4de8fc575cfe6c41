//! One data stream of a pull: frames in, checked items out to the disk.

use super::staging::Staging;
use crate::error::{AgentError, Told};
use crate::transfer::{Differs, Meter, Roots, blocking, data_stream, peer, task_failed};
use bytes::{Bytes, BytesMut};
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::digest::{CHUNK_BYTES, ChunkValue, chunk_value};
use lingqu_protocol::frame::Event;
use lingqu_protocol::plan::Item;
use lingqu_protocol::session::{FrameReader, SessionError, event_name};
use lingqu_protocol::stream::RecvHalf;
use lingqu_protocol::wire::DataHello;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Pieces of about a chunk that wait for the disk on one stream.
const WAITING_PIECES: usize = 2;

/// Segments that wait to be made durable: those of all streams that end while one sync runs, and room to spare.
pub(super) const WAITING_SEGMENTS: usize = 64;

/// What all streams of one pull share.
pub(super) struct Intake {
    pub(super) staging: Arc<Staging>,
    pub(super) roots: Arc<Mutex<Roots>>,
    pub(super) meter: Arc<Meter>,
    /// Segments that were asked for and have not begun to come.
    pub(super) wanted: Mutex<BTreeSet<u32>>,
    pub(super) hello: DataHello,
}

struct Arrived {
    item: Item,
    value: ChunkValue,
    data: Bytes,
}

enum Piece {
    Items(Vec<Arrived>),
    SegmentEnd(u32),
}

/// Reads one data stream to its end. Complete segments are told to `commit`.
pub(super) async fn receive<R: RecvHalf>(
    intake: Arc<Intake>,
    recv: R,
    commit: mpsc::Sender<u32>,
) -> Result<(), AgentError> {
    let mut reader = data_stream(recv, &intake.hello).await?;
    let (tx, rx) = mpsc::channel(WAITING_PIECES);
    let of = intake.clone();
    let writer = tokio::spawn(blocking(move || write(&of, rx, &commit)));
    let read = read(&intake, &mut reader, &tx).await;
    drop(tx);
    if let Err(error) = &read {
        reader.stop(match error {
            AgentError::Session(_) => CloseCode::Cancelled,
            _ => CloseCode::Integrity,
        });
    }
    // Where the writer failed, that is why reading ended.
    writer.await.map_err(|e| task_failed(&e))??;
    read
}

async fn read<R: RecvHalf>(
    intake: &Intake,
    reader: &mut FrameReader<R>,
    out: &mpsc::Sender<Piece>,
) -> Result<(), AgentError> {
    while let Some(event) = reader.next().await? {
        let Event::Segment(segment) = event else {
            return Err(SessionError::Unexpected { expected: "a segment", got: event_name(Some(&event)) }.into());
        };
        if !intake.wanted.lock().unwrap_or_else(PoisonError::into_inner).remove(&segment) {
            return Err(peer(
                format!("segment {segment}, which was not asked for"),
                format!("收到未请求的第 {segment} 分段"),
            ));
        }
        let items = intake.staging.plan.items(segment).unwrap_or_default();
        if !read_segment(intake, reader, segment, items, out).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether the writer still listens.
async fn read_segment<R: RecvHalf>(
    intake: &Intake,
    reader: &mut FrameReader<R>,
    segment: u32,
    items: Vec<Item>,
    out: &mpsc::Sender<Piece>,
) -> Result<bool, AgentError> {
    let mut arrived = Vec::new();
    let mut arrived_bytes = 0;
    for (position, item) in (0u32..).zip(items) {
        let value = match reader.next().await? {
            Some(Event::Item { index, value, bytes }) if index == position && bytes == item.bytes => value,
            None => return Err(SessionError::Incomplete.into()),
            event => {
                let got = event_name(event.as_ref());
                return Err(SessionError::Unexpected { expected: "the next item of the segment", got }.into());
            }
        };
        let data = item_data(reader, item.bytes as usize).await?;
        intake.meter.add(data.len() as u64);
        arrived_bytes += data.len() as u64;
        arrived.push(Arrived { item, value, data });
        if arrived_bytes >= CHUNK_BYTES {
            arrived_bytes = 0;
            if out.send(Piece::Items(std::mem::take(&mut arrived))).await.is_err() {
                return Ok(false);
            }
        }
    }
    if !arrived.is_empty() && out.send(Piece::Items(arrived)).await.is_err() {
        return Ok(false);
    }
    Ok(out.send(Piece::SegmentEnd(segment)).await.is_ok())
}

/// The bytes of one item, in one piece: its value is over all of them.
async fn item_data<R: RecvHalf>(reader: &mut FrameReader<R>, bytes: usize) -> Result<Bytes, AgentError> {
    if bytes == 0 {
        return Ok(Bytes::new());
    }
    let mut data = BytesMut::new();
    loop {
        match reader.next().await? {
            Some(Event::ItemData(piece)) if piece.len() == bytes => return Ok(piece),
            Some(Event::ItemData(piece)) => {
                // The plan bounds an item to a chunk.
                data.reserve(bytes - data.len());
                data.extend_from_slice(&piece);
                if data.len() == bytes {
                    return Ok(data.freeze());
                }
            }
            None => return Err(SessionError::Incomplete.into()),
            event => {
                let got = event_name(event.as_ref());
                return Err(SessionError::Unexpected { expected: "an item's bytes", got }.into());
            }
        }
    }
}

/// Checks and writes what one stream brings; blocks.
fn write(intake: &Intake, mut rx: mpsc::Receiver<Piece>, commit: &mpsc::Sender<u32>) -> Result<(), AgentError> {
    let mut values = Vec::new();
    while let Some(piece) = rx.blocking_recv() {
        match piece {
            Piece::Items(arrived) => {
                let mut checked = Vec::with_capacity(arrived.len());
                for Arrived { item, value, data } in arrived {
                    check(intake, &item, &value, &data)?;
                    values.push(value);
                    checked.push((item, data));
                }
                intake.staging.write(&checked)?;
            }
            Piece::SegmentEnd(segment) => {
                let added = {
                    let mut roots = intake.roots.lock().unwrap_or_else(PoisonError::into_inner);
                    roots.add(segment, std::mem::take(&mut values))
                };
                added.map_err(|differs| match differs {
                    Differs::Values => AgentError::Integrity(Told::new(
                        "segment_changed",
                        format!("the gateway sent other bytes for segment {segment} than before"),
                        format!("网关对第 {segment} 分段前后发送的内容不一致"),
                    )),
                    Differs::Shape | Differs::Order => peer("segments far out of order", "分段顺序严重错乱"),
                })?;
                if commit.blocking_send(segment).is_err() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

fn check(intake: &Intake, item: &Item, value: &ChunkValue, data: &[u8]) -> Result<(), AgentError> {
    let file = intake.staging.files.get(item.file as usize);
    let file_bytes = file.map_or(0, |f| f.bytes);
    if chunk_value(data, item.chunk, file_bytes) == *value {
        return Ok(());
    }
    let name = file.map(|f| f.name.as_str()).unwrap_or_default();
    Err(AgentError::Integrity(
        Told::new(
            "chunk_value",
            format!("bytes of {name:?} do not match the value they came with"),
            format!("文件 {name:?} 的数据与其校验值不一致"),
        )
        .next("resume the transfer; if it comes back, check the machines' memory", "继续该传输；若再次出现，检查内存"),
    ))
}
