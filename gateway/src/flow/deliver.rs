//! One version for one subscriber: slice, rows, end record, the receiver's word, its leaf. While it is sent, it holds its own
//! slice and nothing of anybody else's.

use super::error::FlowError;
use super::follow::{Following, gone};
use super::pace::Pace;
use super::reconcile::slice_sum;
use super::sending::{Sending, Sent};
use super::steps::{Ready, Sendable};
use super::subscription::Acknowledged;
use super::wires::{DataLane, Token, Wires};
use crate::gate::Permit;
use crate::lake::manifest::Regions;
use crate::lake::split::{Cursor, Piece, Slice as Rows, Takes, Tapped, tap};
use crate::metrics;
use lingqu_protocol::backflow::{ALIVE_EVERY, SliceMode};
use lingqu_protocol::changes::Op;
use lingqu_protocol::columns::projected_schema;
use lingqu_protocol::ipc;
use lingqu_protocol::rows::RowsSum;
use lingqu_protocol::session::SessionError;
use lingqu_protocol::stream::{Channel, SendHalf};
use lingqu_protocol::wire::{Alive, Slice, SliceAck, SliceEnd, SliceTaken, Step, reply, step};
use std::sync::PoisonError;
use std::time::Duration;

/// A receiver may take this long to make a slice durable before its subscription is given up: as long as a reader may hold
/// a pull. It begins that version again when it asks again.
const DURABLE_WAIT: Duration = Duration::from_secs(900);

/// What is said of a version before and after its rows.
struct Told {
    number: u64,
    committed_at: i64,
    mode: SliceMode,
    upserts: u64,
    deletes: u64,
    /// Count and sum of the slice's rows after it.
    state: Option<RowsSum>,
    /// Places of the columns that are sent among those of the rows.
    columns: Vec<usize>,
}

/// Where the rows come from.
enum Origin {
    /// The split, where there is one.
    Split { gone: Option<Rows>, came: Rows },
    /// What is read and split now, for this one first: the version before it, and the version.
    Begun { from: u64, to: u64 },
}

impl<F> Following<'_, F> {
    /// Delivers what leads from one version to another, until it is durable; gives when the version was committed. What it does
    /// is boxed step by step: while thousands wait for the receivers' words, none holds what reading and sending takes.
    pub(super) async fn deliver<C: Channel, S: Send>(
        &self,
        (from, to): (u64, u64),
        columns_changed: bool,
        token: Token,
        wires: &mut Wires<C>,
    ) -> Result<i64, FlowError>
    where
        F: Fn(&C) -> S + Send + Sync,
    {
        let allowed = self.permit.allowed();
        let (told, rows) = self.working(Box::pin(self.prepare(from, to)), wires).await.map_err(gone)?;
        let version = told.number;
        wires
            .reply(reply::Reply::Slice(Slice {
                version,
                mode: told.mode.as_str().to_owned(),
                follows: if told.mode == SliceMode::Full { 0 } else { from },
                rows: told.upserts + told.deletes,
                committed_at_ms: told.committed_at,
                columns_changed,
            }))
            .await?;
        // Held until the receiver has everything: dropped before, by a cut, it takes back what has not left yet.
        let (sent, _lane) = match told.upserts + told.deletes {
            0 => (Sent::nothing(), None),
            expected => {
                let channel = wires.channel.clone();
                let sending = Box::pin(self.send_all(rows, &told, token, &channel));
                let (sent, lane) = self.working(self.flow.ahead().in_turn(sending), wires).await?;
                if sent.rows != expected {
                    let what = format!("{} rows of version {version} were found where there are {expected}", sent.rows);
                    return Err(FlowError::Machine(what));
                }
                (sent, Some(lane))
            }
        };
        self.flow.failpoint("follow.before_end");
        self.permit.leash().check()?;
        let all_columns = allowed.columns.len() == allowed.entry.spec.items.len();
        let state = told.state.as_ref();
        wires
            .reply(reply::Reply::SliceEnd(SliceEnd {
                version,
                rows: sent.rows,
                bytes: sent.root.bytes(),
                bytes_root: sent.root.digest().to_string(),
                rows_digest: sent.digest.to_string(),
                upserts: told.upserts,
                deletes: told.deletes,
                state_rows: state.map(|sum| sum.count),
                state_rows_digest: state.filter(|_| all_columns).map(|s| s.digest().to_string()).unwrap_or_default(),
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
            committed_at: told.committed_at,
            mode: told.mode,
            rows: sent.rows,
            bytes: sent.root.bytes(),
            bytes_root: sent.root.digest(),
            rows_digest: sent.digest,
        };
        let leaf_index = Box::pin(self.flow.acknowledge(self.peer, &acknowledged)).await?;
        self.flow.failpoint("follow.acknowledged");
        self.flow.let_go(sent.root.bytes());
        wires.reply(reply::Reply::SliceTaken(SliceTaken { version, leaf_index })).await?;
        Ok(told.committed_at)
    }

    /// Gives signs of life while something takes its time: a large version that is read, or a slow receiver.
    async fn working<C: Channel, T>(
        &self,
        work: impl Future<Output = Result<T, FlowError>>,
        wires: &mut Wires<C>,
    ) -> Result<T, FlowError> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep(ALIVE_EVERY) => {
                    self.permit.leash().check()?;
                    wires.reply(reply::Reply::Alive(Alive { now_ms: self.flow.now().0 })).await?;
                }
            }
        }
    }

    async fn durable<C: Channel>(&self, version: u64, wires: &mut Wires<C>) -> Result<SliceAck, FlowError> {
        let what = "the word that a slice is durable";
        let step = tokio::time::timeout(DURABLE_WAIT, wires.reader.expect::<Step>(what));
        match step.await.map_err(|_| FlowError::TooSlow { what })??.step {
            Some(step::Step::SliceAck(ack)) if ack.version == version => Ok(ack),
            _ => Err(SessionError::Unexpected { expected: what, got: "another step" }.into()),
        }
    }

    /// What is to be sent. Who begins gets its first rows while the version is still read, where it is known how many they will be.
    async fn prepare(&self, from: u64, to: u64) -> Result<(Told, Origin), FlowError> {
        let allowed = self.permit.allowed();
        if from == 0 && !self.flow.is_begun(&allowed.entry, from, to) {
            let Sendable { version, manifest, places, .. } = self.flow.sent_version(&allowed.entry, to).await?;
            if let Some(state) = self.state_of(manifest.regions.as_ref()) {
                let told = Told {
                    number: version.number,
                    committed_at: version.committed_at,
                    mode: SliceMode::Full,
                    upserts: state.count,
                    deletes: 0,
                    state: Some(state),
                    columns: self.columns(&places)?,
                };
                return Ok((told, Origin::Begun { from, to }));
            }
        }
        let ready = self.flow.step(&allowed.entry, from, to, None).await?;
        let (gone, came) = self.slices(&ready);
        let told = Told {
            number: ready.version.number,
            committed_at: ready.version.committed_at,
            mode: ready.mode,
            upserts: came.rows(),
            deletes: gone.as_ref().map_or(0, Rows::rows),
            state: self.state_of(ready.regions.as_ref()),
            columns: self.columns(&ready.places)?,
        };
        Ok((told, Origin::Split { gone, came }))
    }

    fn slices(&self, ready: &Ready) -> (Option<Rows>, Rows) {
        let region = &self.permit.allowed().region;
        (ready.gone.as_ref().map(|gone| gone.slice(region)), ready.came.slice(region))
    }

    fn state_of(&self, regions: Option<&Regions>) -> Option<RowsSum> {
        Some(slice_sum(regions?, &self.permit.allowed().region))
    }

    fn columns(&self, places: &[Option<usize>]) -> Result<Vec<usize>, FlowError> {
        let columns = self.permit.allowed().columns.iter().map(|at| places.get(*at).copied().flatten());
        let columns: Option<Vec<usize>> = columns.collect();
        columns.ok_or_else(|| FlowError::bad_data("the version lacks a column of its entry"))
    }

    /// Sends all rows on a stream of their own, which is given back open: what it sent may still be on its way.
    async fn send_all<C: Channel, S: Send>(
        &self,
        rows: Origin,
        told: &Told,
        token: Token,
        channel: &C,
    ) -> Result<(Sent, DataLane<C::Send>), FlowError>
    where
        F: Fn(&C) -> S + Send + Sync,
    {
        let _share = (self.share)(channel);
        let _served = self.flow.ahead().serve();
        let allowed = self.permit.allowed();
        let leash = self.permit.lane()?;
        let lane = DataLane::open(channel, self.id, token, leash.clone()).await?;
        self.flow.failpoint("follow.before_data");
        let schema = projected_schema(&allowed.entry.spec, &allowed.columns);
        let with_op = told.mode == SliceMode::Changes;
        let mut sending = Sending::begin(lane, leash, schema, with_op, self.ask.lz4.then(|| self.pace())).await?;
        self.send(rows, told, &mut sending).await?;
        let (sent, lane, pace) = sending.end();
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner) = pace.unwrap_or_default();
        Ok((sent, lane))
    }

    fn pace(&self) -> Pace {
        std::mem::take(&mut self.pace.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn send<S: SendHalf>(&self, rows: Origin, told: &Told, sending: &mut Sending<S>) -> Result<(), FlowError> {
        let came = match rows {
            Origin::Split { gone, came } => {
                if let Some(gone) = gone {
                    self.part(&gone, &told.columns, Some(Op::Delete), sending).await?;
                }
                came
            }
            Origin::Begun { from, to } => {
                let (tap, mut tapped) = tap(self.permit.allowed().region.clone());
                let making =
                    async { self.flow.step(&self.permit.allowed().entry, from, to, Some(tap)).await.map_err(gone) };
                let (ready, ()) = tokio::try_join!(making, self.early(&mut tapped, &told.columns, sending))?;
                self.slices(&ready).1.after(tapped.through())
            }
        };
        let op = (told.mode == SliceMode::Changes).then_some(Op::Upsert);
        self.part(&came, &told.columns, op, sending).await
    }

    /// Sends what is handed on while the version is read.
    async fn early<S: SendHalf>(
        &self,
        tapped: &mut Tapped,
        columns: &[usize],
        sending: &mut Sending<S>,
    ) -> Result<(), FlowError> {
        while let Some(batch) = tapped.next().await {
            let batch = batch.project(columns).map_err(|e| FlowError::Machine(e.to_string()))?;
            for piece in ipc::cut_to(&batch, self.piece_bytes()) {
                self.flow.failpoint("follow.piece");
                let encoded = sending.encode(&piece, None)?;
                sending.send(encoded).await?;
            }
        }
        Ok(())
    }

    /// Sends rows of one side of a split.
    async fn part<S: SendHalf>(
        &self,
        slice: &Rows,
        columns: &[usize],
        op: Option<Op>,
        sending: &mut Sending<S>,
    ) -> Result<(), FlowError> {
        let is_all = columns.iter().copied().eq(0..self.permit.allowed().entry.spec.items.len());
        let takes = Takes { columns: (!is_all || op.is_some()).then_some(columns), lz4: self.ask.lz4 };
        let mut cursor = Cursor::default();
        loop {
            let turn = self.flow.ahead().turn().await?;
            match slice.next(&mut cursor, takes, self.piece_bytes()).await? {
                None => return Ok(()),
                Some(Piece::Ready(messages)) => {
                    drop(turn);
                    for message in messages {
                        self.flow.failpoint("follow.piece");
                        sending.as_it_is(message).await?;
                    }
                }
                Some(Piece::Rows(batch)) => {
                    self.flow.failpoint("follow.piece");
                    let encoded = sending.encode(&batch, op)?;
                    drop((turn, batch));
                    sending.send(encoded).await?;
                }
            }
        }
    }

    /// All who stand may be served at once.
    fn piece_bytes(&self) -> usize {
        self.flow.ahead().piece_bytes(metrics::subscriptions())
    }
}
