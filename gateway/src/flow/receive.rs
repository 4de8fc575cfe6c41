//! Data streams into segments. Each stream assembles one segment at a time in a buffer that it holds a share of the
//! gateway's memory for, checks every item, puts it durably and takes the next; a stream that waits for memory or for the
//! disk stops reading, and so its peer stops sending.

use super::Flow;
use super::error::FlowError;
use super::wires::Arrivals;
use crate::gate::{Leash, Wait};
use crate::lake::segment::{Durable, VerifiedSegment};
use bytes::{Bytes, BytesMut};
use lingqu_certs::moments::{self, Moment};
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::digest::ChunkValue;
use lingqu_protocol::frame::Event;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::plan::Plan;
use lingqu_protocol::session::{FrameReader, SessionError, event_name};
use lingqu_protocol::stream::RecvHalf;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// A segment must arrive within this, once its stream waits for nothing of ours: 8 MiB in two minutes is 70 KB/s, slower
/// than any line that an agency has.
const SEGMENT_WAIT: Duration = Duration::from_secs(120);

/// One transfer's reception.
#[derive(Clone)]
pub struct Reception {
    flow: Arc<Flow>,
    transfer: TransferId,
    plan: Arc<Plan>,
    leash: Leash,
    progress: Arc<ReceptionProgress>,
}

struct ReceptionProgress {
    durable_bytes: AtomicU64,
    /// Durable or being received: a segment comes once.
    claimed: Mutex<HashSet<u32>>,
    /// Segments that are durable.
    durable: watch::Sender<u32>,
}

/// The running reception.
pub struct Receiving {
    /// Dropped, every stream's task ends with it.
    _tasks: JoinSet<()>,
    failures: mpsc::Receiver<FlowError>,
    reception: Reception,
}

impl Reception {
    /// The reception of a transfer of which `durable` is there.
    pub fn new(flow: Arc<Flow>, transfer: TransferId, plan: Arc<Plan>, leash: Leash, durable: Durable) -> Self {
        let bytes = durable.present().filter_map(|segment| plan.segment_bytes(segment)).sum();
        let progress = ReceptionProgress {
            durable_bytes: AtomicU64::new(bytes),
            claimed: Mutex::new(durable.present().collect()),
            durable: watch::Sender::new(durable.count()),
        };
        Self { flow, transfer, plan, leash, progress: Arc::new(progress) }
    }

    /// Takes the data streams as they arrive.
    pub fn start<R: RecvHalf>(self, mut arrivals: Arrivals<R>) -> Receiving {
        let (failed, failures) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        let reception = self.clone();
        tasks.spawn(async move {
            let mut streams = JoinSet::new();
            loop {
                tokio::select! {
                    arrival = arrivals.next() => match arrival {
                        Some(stream) => { streams.spawn(self.clone().receive(stream)); }
                        None => return,
                    },
                    Some(ended) = streams.join_next() => {
                        if let Err(error) = ended.map_err(FlowError::from).and_then(|r| r) {
                            // The first failure is the one that is told; the channel holds it.
                            let _ = failed.try_send(error);
                        }
                    }
                }
            }
        });
        Receiving { _tasks: tasks, failures, reception }
    }

    async fn receive<R: RecvHalf>(self, mut stream: FrameReader<R>) -> Result<(), FlowError> {
        loop {
            let next = tokio::time::timeout(SEGMENT_WAIT, stream.next()).await;
            let event = next.map_err(|_| FlowError::TooSlow { what: "a segment" })??;
            let segment = match event {
                None => return Ok(()),
                Some(Event::Segment(segment)) => segment,
                other => return Err(unexpected("a segment", other.as_ref())),
            };
            // Memory first: until there is some, the peer's window stays shut.
            let memory = {
                let _waiting = self.leash.waits().begin(Wait::Memory);
                self.flow.segment_memory().await?
            };
            self.claim(segment)?;
            let assembled = tokio::time::timeout(SEGMENT_WAIT, self.assemble(segment, &mut stream)).await;
            let outcome = match assembled {
                Ok(Ok((data, values))) => self.store(segment, data, values).await,
                Ok(Err(error)) => Err(error),
                Err(_) => Err(FlowError::TooSlow { what: "a segment" }),
            };
            drop(memory);
            if let Err(error) = outcome {
                self.lock_claimed().remove(&segment);
                stream.stop(CloseCode::Internal);
                return Err(error);
            }
        }
    }

    fn claim(&self, segment: u32) -> Result<(), FlowError> {
        if segment >= self.plan.segments() {
            return Err(FlowError::bad_data(format!("the plan has no segment {segment}")));
        }
        if !self.lock_claimed().insert(segment) {
            return Err(FlowError::bad_data(format!("segment {segment} was sent twice")));
        }
        Ok(())
    }

    async fn assemble<R: RecvHalf>(
        &self,
        segment: u32,
        stream: &mut FrameReader<R>,
    ) -> Result<(Bytes, Vec<ChunkValue>), FlowError> {
        let items = self.plan.items(segment).unwrap_or_default();
        let mut data = BytesMut::with_capacity(self.plan.segment_bytes(segment).unwrap_or(0) as usize);
        let mut values = Vec::with_capacity(items.len());
        for (expected, item) in (0u32..).zip(&items) {
            match stream.next().await? {
                Some(Event::Item { index, value, bytes }) if index == expected && bytes == item.bytes => {
                    values.push(value)
                }
                Some(Event::Item { index, bytes, .. }) => {
                    return Err(FlowError::bad_data(format!(
                        "item {index} of {bytes} bytes came where segment {segment} has item {expected} of {}",
                        item.bytes
                    )));
                }
                other => return Err(unexpected("an item", other.as_ref())),
            }
            let mut left = item.bytes as usize;
            while left > 0 {
                match stream.next().await? {
                    // The decoder gives no more than the item's frame holds.
                    Some(Event::ItemData(piece)) => {
                        left = left.saturating_sub(piece.len());
                        data.extend_from_slice(&piece);
                    }
                    other => return Err(unexpected("an item's bytes", other.as_ref())),
                }
            }
        }
        Ok((data.freeze(), values))
    }

    /// Checked, then written, then counted. A cut flow writes nothing more.
    async fn store(&self, segment: u32, data: Bytes, values: Vec<ChunkValue>) -> Result<(), FlowError> {
        self.leash.check()?;
        moments::note(|| Moment::Begun);
        let bytes = data.len() as u64;
        let plan = Arc::clone(&self.plan);
        let verified =
            tokio::task::spawn_blocking(move || VerifiedSegment::check(&plan, segment, vec![data], values)).await??;
        self.flow.failpoint("push.before_segment");
        self.flow.segments().put(self.transfer, verified).await?;
        self.flow.failpoint("push.after_segment");
        self.progress.durable_bytes.fetch_add(bytes, Ordering::Relaxed);
        crate::metrics::received(bytes);
        self.leash.moved().add(bytes, 0);
        self.progress.durable.send_modify(|segments| *segments += 1);
        Ok(())
    }

    fn lock_claimed(&self) -> std::sync::MutexGuard<'_, HashSet<u32>> {
        self.progress.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Receiving {
    /// Bytes that are durable so far.
    pub fn durable_bytes(&self) -> u64 {
        self.reception.progress.durable_bytes.load(Ordering::Relaxed)
    }

    /// Waits for the first data stream that fails.
    pub async fn failed(&mut self) -> FlowError {
        match self.failures.recv().await {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    /// Waits until every segment is durable.
    ///
    /// # Errors
    /// A stream failed, or the sender's end record came and segments did not.
    pub async fn complete(mut self) -> Result<(), FlowError> {
        let segments = self.reception.plan.segments();
        let mut durable = self.reception.progress.durable.subscribe();
        tokio::select! {
            failed = self.failed() => Err(failed),
            all = tokio::time::timeout(SEGMENT_WAIT, durable.wait_for(|n| *n >= segments)) => match all {
                Ok(_) => Ok(()),
                Err(_) => Err(FlowError::TooSlow { what: "the last segments" }),
            },
        }
    }
}

fn unexpected(expected: &'static str, got: Option<&Event>) -> FlowError {
    SessionError::Unexpected { expected, got: event_name(got) }.into()
}
