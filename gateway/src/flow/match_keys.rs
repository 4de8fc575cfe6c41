//! The records of many keys (核对), top to bottom: permit, its record in the ledger, keys up, answers down, end record, receipt.
//!
//! Keys come in bounded batches and are answered in bounded batches, in their order; memory is the same whatever their
//! number. A match that was cut begins anew: as the same transfer it answers the same keys from the same version.

use super::Flow;
use super::answer::{Answering, Bounds};
use super::commit::{Committing, MATCH_MODE, Opened, Opening};
use super::error::FlowError;
use super::meter::{Meter, count_request};
use super::pull::{Delivered, end};
use super::record::VersionRow;
use super::serve_table::Sending;
use super::wires::{Arrivals, DataLane, Wires};
use crate::gate::{Peer, Permit, PullPermit, Wait};
use arrow::array::{Array, RecordBatch};
use arrow::compute::concat_batches;
use lingqu_protocol::columns::canonical_batch;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::frame::Event;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::ipc;
use lingqu_protocol::keys::MATCH_KEYS_MAX;
use lingqu_protocol::receipt::{DataKind, Direction};
use lingqu_protocol::rows::RowsDigest;
use lingqu_protocol::session::{FrameReader, SessionError, event_name};
use lingqu_protocol::stream::{Channel, RecvHalf, SendHalf};
use lingqu_protocol::wire::{MatchKeys, Progress, PullReady, Step, reply, step};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Keys that are answered together: the more, the fewer times what lies in no order of them is read again.
const KEYS_AT_ONCE: usize = 1 << 16;

/// Bytes of keys that are answered together.
const KEYS_BYTES: usize = 4 << 20;

/// What is found for them: where it is more, they are answered in two halves.
const BOUNDS: Bounds = Bounds { rows: 1 << 18, bytes: 8 << 20 };

/// How often the receiver hears how many rows were sent.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Keys must go on coming within this while nothing of ours is waited for.
const KEYS_WAIT: Duration = Duration::from_secs(120);

/// Answers a file of keys. `answered` hears of each, by its hash, and whether something was found for it.
///
/// # Errors
/// Why the receiver has no end record.
pub async fn match_keys<C: Channel>(
    flow: &Arc<Flow>,
    permit: PullPermit,
    peer: &Peer,
    ask: MatchKeys,
    answered: impl Fn(u64, bool) + Sync,
    wires: &mut Wires<C>,
) -> Result<(), FlowError> {
    let transfer: TransferId = ask.transfer.parse().map_err(|e| FlowError::bad_data(format!("{e}")))?;
    let keys_digest: Digest = ask.keys_digest.parse().map_err(|e| FlowError::bad_data(format!("{e}")))?;
    if ask.keys > MATCH_KEYS_MAX {
        let what = format!("a match has at most {MATCH_KEYS_MAX} keys: make several files of them");
        return Err(FlowError::OverLimit { what });
    }
    // Held to the end, so that its data stays while it is read.
    let (version, _held) = flow.hold_version(permit.entry().id, ask.version).await?;
    if version.kind != DataKind::Table {
        return Err(FlowError::NotFound { what: "version of rows" });
    }
    let content = content_digest(&permit, &version, &ask);
    let opening = Opening {
        transfer,
        direction: Direction::Pull,
        kind: version.kind,
        entry: permit.entry().id,
        grant: Some((permit.grant().id, permit.grant().digest)),
        mode: MATCH_MODE.to_owned(),
        content,
    };
    // The first receipt again is no new request; everything else is one.
    if !flow.is_committed(peer, transfer).await? {
        count_request(flow, &permit).await?;
    }
    match flow.open_transfer(peer, opening).await? {
        Opened::Committed(receipt) => return flow.conclude(peer, transfer, receipt, wires).await,
        Opened::Running => {}
    }
    let claim = flow.claim(transfer);
    let meter = Arc::new(Meter::new(Arc::clone(flow), &permit));
    let work = async {
        let answering = Arc::new(Answering::new(flow, &permit, &version).await?);
        let answered = &answered;
        let matching = Matching { flow, permit: &permit, answering, answered, transfer, content, meter: &meter };
        // Held until the receiver has everything: dropped before, by a cut, it takes back what has not left yet.
        let (delivered, lane) = matching.run(&version, (ask.keys, keys_digest), wires).await?;
        let delivered = end(flow, &permit, delivered, wires).await?;
        drop(lane);
        Ok(delivered)
    };
    let served = claim.work(permit.leash(), work).await;
    meter.close().await?;
    let delivered = served?;
    let receipt = flow.commit_delivery(&permit, Committing::delivery(peer, transfer, &version, delivered)).await?;
    flow.conclude(peer, transfer, receipt, wires).await
}

/// Binds a transfer's id to what was asked, under which scope, of which version.
fn content_digest(permit: &PullPermit, version: &VersionRow, ask: &MatchKeys) -> Digest {
    let parts = [
        MATCH_MODE.to_owned(),
        version.manifest.to_string(),
        permit.grant().digest.to_string(),
        permit.purpose().to_owned(),
        ask.columns.join("\u{1f}"),
        ask.keys.to_string(),
        ask.keys_digest.clone(),
    ];
    Digest::blake3(parts.join("\u{1e}").as_bytes())
}

/// One match that runs.
struct Matching<'a> {
    flow: &'a Arc<Flow>,
    permit: &'a PullPermit,
    answering: Arc<Answering>,
    answered: &'a (dyn Fn(u64, bool) + Sync),
    transfer: TransferId,
    content: Digest,
    meter: &'a Meter,
}

impl Matching<'_> {
    /// Takes the keys and sends their answers; gives what was delivered, and the stream.
    async fn run<C: Channel>(
        &self,
        version: &VersionRow,
        (count, digest): (u64, Digest),
        wires: &mut Wires<C>,
    ) -> Result<(Delivered, DataLane<C::Send>), FlowError> {
        let mut arrivals = wires.router.wait_for(self.transfer, 1, self.permit.leash(), self.flow.entropy())?;
        let token = *arrivals.token();
        wires
            .reply(reply::Reply::PullReady(PullReady {
                grant: self.permit.grant().id.to_string(),
                entry: self.permit.entry().id.to_string(),
                version: version.number,
                kind: "table".to_owned(),
                token: token.to_vec().into(),
                ..PullReady::default()
            }))
            .await?;
        match wires.expect::<Step>("the receiver's start").await?.step {
            Some(step::Step::PullStart(_)) => {}
            _ => return Err(SessionError::Unexpected { expected: "the receiver's start", got: "another step" }.into()),
        }
        // Waited for before anything of the keys is held.
        let _turn = self.flow.match_turn().await?;
        let lane = DataLane::open(&wires.channel, self.transfer, token, self.permit.leash().clone()).await?;
        let mut sending = Sending::new(self.flow, lane, self.answering.transforming().clone(), self.content)?;
        sending.schema(self.meter).await?;
        let work = async {
            let mut keys = Keys::open(&mut arrivals, &self.answering, count).await?;
            while let Some(asked) = keys.next().await? {
                self.answer(asked, &mut sending).await?;
            }
            keys.confirm(count, digest)?;
            Ok::<_, FlowError>(sending.finish())
        };
        tokio::pin!(work);
        let mut tick = tokio::time::interval(PROGRESS_EVERY);
        loop {
            tokio::select! {
                done = &mut work => return done,
                // A large version is read for a while before its first answers: the receiver hears that we are here.
                _ = tick.tick() => {
                    let rows = self.permit.leash().moved().rows();
                    wires.reply(reply::Reply::Progress(Progress { durable_bytes: 0, rows })).await?;
                }
            }
        }
    }

    /// Answers some keys, together where the answers are not too many at once, else in halves.
    async fn answer<S: SendHalf>(&self, asked: RecordBatch, sending: &mut Sending<S>) -> Result<(), FlowError> {
        let mut left = VecDeque::from([asked]);
        while let Some(asked) = left.pop_front() {
            self.permit.leash().check()?;
            let found = {
                let _waiting = self.permit.leash().waits().begin(Wait::Memory);
                let _turn = self.flow.answers_turn().await?;
                self.answering.answer(self.flow, self.permit, asked.clone(), None, BOUNDS).await?
            };
            match found {
                Some((batch, _)) => {
                    for (hash, is_found) in self.answering.found(&batch)? {
                        (self.answered)(hash, is_found);
                    }
                    self.flow.failpoint("match.piece");
                    sending.rows(batch, None, self.meter).await?;
                }
                None if asked.num_rows() > 1 => {
                    let half = asked.num_rows() / 2;
                    left.push_front(asked.slice(half, asked.num_rows() - half));
                    left.push_front(asked.slice(0, half));
                }
                None => {
                    let what = format!(
                        "one key has more than {} rows or {} bytes: pull them with --where",
                        BOUNDS.rows, BOUNDS.bytes
                    );
                    return Err(FlowError::OverLimit { what });
                }
            }
        }
        Ok(())
    }
}

/// Keys as they come.
struct Keys<'a, R> {
    stream: FrameReader<R>,
    decoder: ipc::Decoder,
    answering: &'a Answering,
    digest: RowsDigest,
    count_max: u64,
    /// What came and was not handed on.
    ahead: Option<RecordBatch>,
    ended: bool,
}

impl<'a, R: RecvHalf> Keys<'a, R> {
    async fn open(arrivals: &mut Arrivals<R>, answering: &'a Answering, count_max: u64) -> Result<Self, FlowError> {
        let waiting = tokio::time::timeout(KEYS_WAIT, arrivals.next()).await;
        let stream = waiting.map_err(|_| FlowError::TooSlow { what: "the stream of keys" })?;
        let digest = RowsDigest::new(answering.keys());
        let stream = stream.ok_or(SessionError::Incomplete)?;
        Ok(Self { stream, decoder: ipc::Decoder::default(), answering, digest, count_max, ahead: None, ended: false })
    }

    /// The next keys, at most as many as are answered together; `None` at their end.
    async fn next(&mut self) -> Result<Option<RecordBatch>, FlowError> {
        let mut some: Vec<RecordBatch> = self.ahead.take().into_iter().collect();
        let size = |some: &[RecordBatch]| {
            let rows: usize = some.iter().map(RecordBatch::num_rows).sum();
            (rows, some.iter().map(RecordBatch::get_array_memory_size).sum::<usize>())
        };
        while !self.ended {
            let (rows, bytes) = size(&some);
            if rows >= KEYS_AT_ONCE || bytes >= KEYS_BYTES {
                break;
            }
            match self.frame().await? {
                Some(batch) => some.push(batch),
                None => self.ended = true,
            }
        }
        if some.is_empty() {
            return Ok(None);
        }
        let joined =
            concat_batches(self.answering.key_schema(), &some).map_err(|e| FlowError::Machine(e.to_string()))?;
        if joined.num_rows() <= KEYS_AT_ONCE {
            return Ok(Some(joined));
        }
        self.ahead = Some(joined.slice(KEYS_AT_ONCE, joined.num_rows() - KEYS_AT_ONCE));
        Ok(Some(joined.slice(0, KEYS_AT_ONCE)))
    }

    /// The keys of the next frame that has some.
    async fn frame(&mut self) -> Result<Option<RecordBatch>, FlowError> {
        loop {
            let event = tokio::time::timeout(KEYS_WAIT, self.stream.next()).await;
            let body = match event.map_err(|_| FlowError::TooSlow { what: "the next keys" })?? {
                None => return Ok(None),
                Some(Event::Batch(body)) => body,
                other => {
                    let got = event_name(other.as_ref());
                    return Err(SessionError::Unexpected { expected: "a batch of keys", got }.into());
                }
            };
            let Some(batch) = self.decoder.decode(body).map_err(|e| FlowError::bad_data(e.to_string()))? else {
                continue;
            };
            let keys = self.answering.keys();
            let batch = canonical_batch(keys, &batch).map_err(|e| FlowError::bad_data(format!("keys: {e}")))?;
            if batch.columns().iter().any(|column| column.null_count() > 0) {
                return Err(FlowError::bad_data("a key lacks a value"));
            }
            self.digest.update(&batch).map_err(|e| FlowError::Machine(e.to_string()))?;
            if self.digest.sum().count > self.count_max {
                return Err(FlowError::bad_data("more keys came than were announced"));
            }
            if batch.num_rows() > 0 {
                return RecordBatch::try_new(Arc::clone(self.answering.key_schema()), batch.columns().to_vec())
                    .map(Some)
                    .map_err(|e| FlowError::bad_data(e.to_string()));
            }
        }
    }

    /// All keys came, and no others.
    fn confirm(&self, count: u64, digest: Digest) -> Result<(), FlowError> {
        let came = self.digest.sum();
        if came.count == count && came.digest() == digest {
            return Ok(());
        }
        let what = format!("{count} keys announced as {digest}, {} arrived as {}", came.count, came.digest());
        Err(FlowError::Integrity { what })
    }
}
