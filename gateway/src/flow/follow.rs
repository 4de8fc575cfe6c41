//! A subscription, top to bottom: permit, cursor, then version after version: slice, end record, the receiver's word, its
//! leaf; and where there is nothing new, waiting without looking at anything.

use super::Flow;
use super::error::FlowError;
use super::steps::Ready;
use super::subscription::{Acknowledged, SubscriptionRow};
use super::wires::{DataLane, Token, Wires, token};
use crate::gate::{Denied, FollowPermit, Leash, Peer, Permit};
use crate::lake::split::{Cursor, Split};
use crate::metrics;
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use lingqu_protocol::backflow::{ALIVE_EVERY, RegionSlice, SINK_BYTES_MAX, SliceMode};
use lingqu_protocol::changes::{OP_COLUMN, Op};
use lingqu_protocol::columns::projected_schema;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::frame::{self, FrameKind};
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::ipc::{BatchRoot, Encoder};
use lingqu_protocol::rows::{RowsDigest, RowsSum};
use lingqu_protocol::session::SessionError;
use lingqu_protocol::stream::{Channel, SendHalf};
use lingqu_protocol::wire::{
    self, Alive, CaughtUp, Follow, FollowReady, Slice, SliceAck, SliceEnd, SliceTaken, Step, reply, step,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A receiver may take this long to make a slice durable before its subscription is given up: as long as a reader may hold
/// a pull. It begins that version again when it asks again.
const DURABLE_WAIT: Duration = Duration::from_secs(900);

/// Bytes of slices that are encoded at a time where one subscriber is served.
const PIECE_BYTES_MAX: usize = 1 << 20;

/// The same where very many are.
const PIECE_BYTES_MIN: usize = 16 << 10;

/// What pieces that wait for their readers take together.
const PIECES_BYTES: usize = 16 << 20;

/// What was sent of a slice.
struct Sent {
    rows: u64,
    upserts: u64,
    deletes: u64,
    root: BatchRoot,
    digest: Digest,
}

/// Serves a subscription until either side ends it.
///
/// # Errors
/// Why it ended, where it was not for that everything was said.
pub async fn follow<C: Channel, S: Send>(
    flow: &Arc<Flow>,
    permit: FollowPermit,
    peer: &Peer,
    ask: Follow,
    share: impl Fn(&C) -> S + Send + Sync,
    wires: &mut Wires<C>,
) -> Result<(), FlowError> {
    let id: TransferId = ask.subscription.parse().map_err(|e| FlowError::bad_data(format!("{e}")))?;
    let is_word = |c: u8| c.is_ascii_lowercase() || c == b'-' || c == b'_';
    if ask.sink.len() > SINK_BYTES_MAX || !ask.sink.bytes().all(is_word) {
        return Err(FlowError::bad_data("the kind of sink is a word of a-z"));
    }
    let known = flow.subscription(peer, id, permit.entry().id).await?;
    let claim = flow.claim(id);
    let leash = permit.leash().clone();
    flow.begin_subscription(peer, id, &permit).await?;
    let _counted = metrics::subscribed();
    let following = Following { flow, permit, peer, id, ask: &ask, share: &share };
    claim.work(&leash, following.run(known, wires)).await
}

struct Following<'a, F> {
    flow: &'a Arc<Flow>,
    permit: FollowPermit,
    peer: &'a Peer,
    id: TransferId,
    ask: &'a Follow,
    share: &'a F,
}

impl<F> Following<'_, F> {
    async fn run<C: Channel, S: Send>(
        mut self,
        known: Option<SubscriptionRow>,
        wires: &mut Wires<C>,
    ) -> Result<(), FlowError>
    where
        F: Fn(&C) -> S + Send + Sync,
    {
        let entry = Arc::clone(self.permit.entry());
        let mut versions = self.flow.watch_versions(entry.id).await?;
        let latest = *versions.borrow();
        let mut at = self.begins_at(latest)?;
        let mut slice = self.permit.slice();
        let token = token(self.flow.entropy())?;
        wires.reply(reply::Reply::FollowReady(self.ready(latest, &token, known.as_ref()))).await?;
        let (mut told, mut committed_at) = (None, 0);
        loop {
            self.permit.renew()?;
            let latest = *versions.borrow_and_update();
            self.permit.leash().set_behind(latest.saturating_sub(at));
            if latest > at {
                // Who begins gets the state, and not how it came about.
                let to = if at == 0 { latest } else { at + 1 };
                let ready = self.flow.step(self.permit.entry(), at, to).await.map_err(gone)?;
                let changed = at > 0 && slice != self.permit.slice();
                slice = self.permit.slice();
                self.deliver(&ready, (at, changed), token, wires).await?;
                (at, committed_at) = (to, ready.version.committed_at);
                continue;
            }
            if told != Some(at) {
                if committed_at == 0 && at > 0 {
                    committed_at = self.flow.version(entry.id, at).await?.committed_at;
                }
                let now_ms = self.flow.now().0;
                let caught_up = CaughtUp { version: at, committed_at_ms: committed_at, now_ms };
                wires.reply(reply::Reply::CaughtUp(caught_up)).await?;
                told = Some(at);
                if self.ask.once {
                    return Ok(());
                }
            }
            if !self.wait(&mut versions, wires).await? {
                return Ok(());
            }
        }
    }

    /// Where the receiver's cursor is.
    fn begins_at(&self, latest: u64) -> Result<u64, FlowError> {
        let anew = |why| FlowError::Denied(Denied::StartAnew { why });
        let Some(cursor) = self.ask.cursor.as_ref().filter(|cursor| cursor.version > 0) else { return Ok(0) };
        let is_this = cursor.slice.parse().is_ok_and(|slice: Digest| self.permit.allowed().goes_on_from(&slice));
        if !is_this {
            return Err(anew("the regions or columns that are meant are others than those of your cursor"));
        }
        if cursor.version > latest {
            return Err(anew("your cursor is ahead of this gateway"));
        }
        Ok(cursor.version)
    }

    fn ready(&self, latest: u64, token: &Token, known: Option<&SubscriptionRow>) -> FollowReady {
        let allowed = self.permit.allowed();
        let items = allowed.columns.iter().filter_map(|at| allowed.entry.spec.items.get(*at));
        let keys: Vec<String> = items.filter(|item| item.key).map(|item| item.name.clone()).collect();
        let all = allowed.entry.spec.items.iter().filter(|item| item.key).count();
        FollowReady {
            entry: allowed.entry.id.to_string(),
            list: allowed.list.to_string(),
            regions: vec![allowed.region.own().to_string()],
            columns: allowed.names().into_iter().map(str::to_owned).collect(),
            // A part of a key tells nothing apart.
            keys: if keys.len() == all { keys } else { Vec::new() },
            latest,
            slice: self.permit.slice().to_string(),
            token: token.to_vec().into(),
            advice: known
                .filter(|row| row.version > 0)
                .map(|row| wire::Cursor { version: row.version, slice: row.slice.clone() }),
        }
    }

    /// Waits for a version, giving signs of life; false where the receiver has ended the request.
    async fn wait<C: Channel>(
        &mut self,
        versions: &mut watch::Receiver<u64>,
        wires: &mut Wires<C>,
    ) -> Result<bool, FlowError> {
        loop {
            tokio::select! {
                biased;
                () = self.permit.drained() => {
                    return Err(FlowError::Denied(Denied::Closed(crate::gate::ClosedWhy::Draining)));
                }
                said = wires.reader.message::<Step>("nothing, or the end") => {
                    return match said? {
                        None => Ok(false),
                        Some(_) => {
                            Err(SessionError::Unexpected { expected: "nothing, or the end", got: "a step" }.into())
                        }
                    };
                }
                changed = versions.changed() => {
                    // The sender lives as long as somebody listens.
                    changed.map_err(|_| FlowError::Machine("nobody tells of versions".into()))?;
                    return Ok(true);
                }
                () = tokio::time::sleep(ALIVE_EVERY) => {
                    self.permit.renew()?;
                    wires.reply(reply::Reply::Alive(Alive { now_ms: self.flow.now().0 })).await?;
                }
            }
        }
    }

    async fn deliver<C: Channel, S: Send>(
        &self,
        ready: &Arc<Ready>,
        (from, columns_changed): (u64, bool),
        token: Token,
        wires: &mut Wires<C>,
    ) -> Result<(), FlowError>
    where
        F: Fn(&C) -> S + Send + Sync,
    {
        let allowed = self.permit.allowed();
        let region = &allowed.region;
        let upserts = ready.came.pick(region).rows;
        let deletes = ready.gone.as_ref().map_or(0, |gone| gone.pick(region).rows);
        let version = ready.version.number;
        wires
            .reply(reply::Reply::Slice(Slice {
                version,
                mode: ready.mode.as_str().to_owned(),
                follows: if ready.mode == SliceMode::Full { 0 } else { from },
                rows: upserts + deletes,
                committed_at_ms: ready.version.committed_at,
                columns_changed,
            }))
            .await?;
        // Held until the receiver has everything: dropped before, by a cut, it takes back what has not left yet.
        let (sent, _lane) = match upserts + deletes {
            0 => (Sent::nothing(), None),
            _ => {
                let _share = (self.share)(&wires.channel);
                let leash = self.permit.lane()?;
                let lane = DataLane::open(&wires.channel, self.id, token, leash.clone()).await?;
                let (sent, lane) = self.send(ready, leash, lane).await?;
                (sent, Some(lane))
            }
        };
        self.flow.failpoint("follow.before_end");
        self.permit.leash().check()?;
        let state = state_of(ready, allowed.columns.len() == allowed.entry.spec.items.len(), region);
        wires
            .reply(reply::Reply::SliceEnd(SliceEnd {
                version,
                rows: sent.rows,
                bytes: sent.root.bytes(),
                bytes_root: sent.root.digest().to_string(),
                rows_digest: sent.digest.to_string(),
                upserts: sent.upserts,
                deletes: sent.deletes,
                state_rows: state.map(|(sum, _)| sum.count),
                state_rows_digest: match state {
                    Some((sum, true)) => sum.digest().to_string(),
                    _ => String::new(),
                },
                slice: self.permit.slice().to_string(),
            }))
            .await?;
        let ack = self.durable(version, wires).await?;
        if ack.bytes_root != sent.root.digest().to_string() || ack.rows_digest != sent.digest.to_string() {
            return Err(FlowError::Integrity { what: "the receiver's digests are not those of what was sent".into() });
        }
        let acknowledged = Acknowledged {
            id: self.id,
            sink: self.ask.sink.clone(),
            list: allowed.list,
            entry: allowed.entry.id,
            version,
            slice: self.permit.slice(),
            committed_at: ready.version.committed_at,
            mode: ready.mode,
            rows: sent.rows,
            bytes: sent.root.bytes(),
            bytes_root: sent.root.digest(),
            rows_digest: sent.digest,
        };
        let leaf_index = self.flow.acknowledge(self.peer, &acknowledged).await?;
        self.flow.failpoint("follow.acknowledged");
        wires.reply(reply::Reply::SliceTaken(SliceTaken { version, leaf_index })).await
    }

    async fn durable<C: Channel>(&self, version: u64, wires: &mut Wires<C>) -> Result<SliceAck, FlowError> {
        let what = "the word that a slice is durable";
        let step = tokio::time::timeout(DURABLE_WAIT, wires.reader.expect::<Step>(what));
        match step.await.map_err(|_| FlowError::TooSlow { what })??.step {
            Some(step::Step::SliceAck(ack)) if ack.version == version => Ok(ack),
            _ => Err(SessionError::Unexpected { expected: what, got: "another step" }.into()),
        }
    }

    async fn send<S: SendHalf>(
        &self,
        ready: &Ready,
        leash: Leash,
        lane: DataLane<S>,
    ) -> Result<(Sent, DataLane<S>), FlowError> {
        let allowed = self.permit.allowed();
        let of_entry = projected_schema(&allowed.entry.spec, &allowed.columns);
        let columns: Option<Vec<usize>> =
            allowed.columns.iter().map(|at| ready.places.get(*at).copied().flatten()).collect();
        let columns = columns.ok_or_else(|| FlowError::bad_data("the version lacks a column of its entry"))?;
        let with_op = ready.mode == SliceMode::Changes;
        let schema = if with_op { with_op_column(&of_entry) } else { of_entry };
        let mut sending = Sending {
            lane,
            leash,
            encoder: Encoder::new(Arc::clone(&schema)).map_err(|e| FlowError::Machine(e.to_string()))?,
            digest: RowsDigest::of_schema(&schema).ok_or_else(|| FlowError::Machine("columns of no item".into()))?,
            schema,
            root: BatchRoot::default(),
        };
        self.flow.failpoint("follow.before_data");
        let first = sending.encoder.schema().map_err(|e| FlowError::Machine(e.to_string()))?;
        sending.frame(vec![first]).await?;
        let mut deletes = 0;
        if let Some(gone) = &ready.gone {
            deletes = self.part(gone, &columns, Some(Op::Delete), &mut sending).await?;
        }
        let op = with_op.then_some(Op::Upsert);
        let upserts = self.part(&ready.came, &columns, op, &mut sending).await?;
        sending.lane.finish();
        let sum = sending.digest.sum();
        let sent = Sent { rows: sum.count, upserts, deletes, root: sending.root, digest: sum.digest() };
        Ok((sent, sending.lane))
    }

    /// Sends this subscriber's rows of one side of the step.
    async fn part<S: SendHalf>(
        &self,
        split: &Split,
        columns: &[usize],
        op: Option<Op>,
        sending: &mut Sending<S>,
    ) -> Result<u64, FlowError> {
        let picked = split.pick(&self.permit.allowed().region);
        let mut cursor = Cursor::default();
        // What is encoded and waits for its reader is little for each where there are many.
        let aim = (PIECES_BYTES / metrics::subscriptions().max(1)).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX);
        while let Some(batch) = split.next(&picked, &mut cursor, columns, aim).await? {
            self.flow.failpoint("follow.piece");
            sending.leash.check()?;
            sending.rows(&batch, op).await?;
        }
        Ok(picked.rows)
    }
}

impl Sent {
    fn nothing() -> Self {
        let none = RowsSum::default();
        Self { rows: 0, upserts: 0, deletes: 0, root: BatchRoot::default(), digest: none.digest() }
    }
}

struct Sending<S: SendHalf> {
    lane: DataLane<S>,
    leash: Leash,
    encoder: Encoder,
    schema: SchemaRef,
    root: BatchRoot,
    digest: RowsDigest,
}

impl<S: SendHalf> Sending<S> {
    async fn rows(&mut self, batch: &RecordBatch, op: Option<Op>) -> Result<(), FlowError> {
        let failed = |e: arrow::error::ArrowError| FlowError::Machine(e.to_string());
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        if let Some(op) = op {
            columns.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(op.word(), batch.num_rows()))));
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(failed)?;
        self.digest.update(&batch).map_err(|e| FlowError::Machine(e.to_string()))?;
        let (body, _) = self.encoder.batch(&batch).map_err(|e| FlowError::OverLimit { what: e.to_string() })?;
        self.frame(body).await?;
        metrics::sent_rows(batch.num_rows() as u64);
        self.leash.moved().add(0, batch.num_rows() as u64);
        Ok(())
    }

    async fn frame(&mut self, body: Vec<Bytes>) -> Result<(), FlowError> {
        let bytes: usize = body.iter().map(Bytes::len).sum();
        self.lane.raw(Bytes::copy_from_slice(&frame::header(FrameKind::Batch, bytes)?)).await?;
        self.root.add(body.iter().map(|piece| &piece[..]));
        for piece in body {
            self.lane.raw(piece).await?;
        }
        metrics::sent(bytes as u64);
        self.leash.moved().add(bytes as u64, 0);
        Ok(())
    }
}

fn with_op_column(schema: &SchemaRef) -> SchemaRef {
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(OP_COLUMN, DataType::Utf8, false)));
    Arc::new(Schema::new(fields))
}

/// Count and sum of all rows of a slice after a step, and whether the sum is over the columns that are sent.
fn state_of(ready: &Ready, all_columns: bool, region: &RegionSlice) -> Option<(RowsSum, bool)> {
    Some((super::subscription::slice_sum(ready.regions.as_ref()?, region), all_columns))
}

/// What is no longer kept cannot be gone on from.
fn gone(error: FlowError) -> FlowError {
    match error {
        FlowError::NotFound { .. } => {
            FlowError::Denied(Denied::StartAnew { why: "the next version after your cursor is no longer kept" })
        }
        other => other,
    }
}
