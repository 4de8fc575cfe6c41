//! Rows out of the lake: exactly the permitted columns and rows, batch by batch, on one stream.

use super::Flow;
use super::error::FlowError;
use super::mark::Mark;
use super::meter::Meter;
use super::pull::Delivered;
use super::record::VersionRow;
use super::transform::Transforming;
use super::wires::{DataLane, Wires, token};
use crate::gate::{Permit, PullPermit};
use crate::lake::manifest::TableManifest;
use crate::lake::reader::{Position, TableReader};
use crate::metrics;
use arrow::array::RecordBatch;
use bytes::Bytes;
use lingqu_protocol::columns::projected_schema;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::frame::{self, FrameKind};
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::ipc::{self, BatchRoot};
use lingqu_protocol::rows::{RowsDigest, RowsSum};
use lingqu_protocol::session::SessionError;
use lingqu_protocol::stream::{Channel, SendHalf};
use lingqu_protocol::wire::{self, PullReady, Step, reply, step};
use std::sync::Arc;

/// What a pull of rows is: its transfer, what that is bound to, and where its receiver would go on.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The transfer.
    pub transfer: TransferId,
    /// Version, grant, purpose, columns and condition.
    pub content: Digest,
    /// The token of the last mark that is durable at the receiver; empty where there is none.
    pub mark: &'a [u8],
}

/// A version with the columns that its entry has gained since at its end: it has no values there.
pub(super) fn grown(manifest: TableManifest, spec: &EntrySpec) -> TableManifest {
    let columns = TableManifest::columns_of(spec);
    match manifest.carried_on(&columns, spec.region_column) {
        Ok(parts) => TableManifest { columns, parts, ..manifest },
        // An entry that changed otherwise: only what is named as it was can be read.
        Err(_) => manifest,
    }
}

/// Serves the permitted rows of a version, from the receiver's mark on where it has one; gives the stream that the receiver
/// has not confirmed yet.
///
/// # Errors
/// Why the receiver has no end record.
pub async fn serve<C: Channel>(
    flow: &Arc<Flow>,
    permit: &PullPermit,
    asked: Asked<'_>,
    version: &VersionRow,
    meter: &Meter,
    wires: &mut Wires<C>,
) -> Result<(Delivered, Vec<DataLane<C::Send>>), FlowError> {
    let spec = Arc::clone(&permit.entry().spec);
    let manifest = Arc::new(grown(flow.table_manifest(version).await?, &spec));
    let transfer = asked.transfer;
    let begun = Mark::open(asked.mark, &flow.facts().marks_key, asked.content);
    let names: Vec<&str> =
        permit.columns().iter().filter_map(|i| spec.items.get(*i)).map(|item| item.name.as_str()).collect();
    let rows = permit.rows().map(|rows| rows.moved(&|place| same_column(&spec, place, &manifest)));
    let changed = || FlowError::bad_data(CHANGED);
    let rows = rows.map(|moved| moved.ok_or_else(changed)).transpose()?;
    if permit.columns().iter().any(|place| same_column(&spec, *place, &manifest).is_none()) {
        return Err(changed());
    }
    // How many rows lie outside the scope is not told either.
    let rows_at_most = if rows.is_none() { manifest.rows() } else { 0 };
    let mut reader =
        TableReader::open(flow.lake().clone(), manifest, &names, rows)?.with_cache(flow.chunk_cache().clone());
    let token = token(flow.entropy())?;
    wires
        .reply(reply::Reply::PullReady(PullReady {
            grant: permit.grant().id.to_string(),
            entry: permit.entry().id.to_string(),
            version: version.number,
            kind: "table".to_owned(),
            token: token.to_vec().into(),
            files: 0,
            bytes: 0,
            rows_at_most,
            goes_on: begun.is_some(),
        }))
        .await?;
    match wires.expect::<Step>("the receiver's start").await?.step {
        Some(step::Step::PullStart(_)) => {}
        _ => return Err(SessionError::Unexpected { expected: "the receiver's start", got: "another step" }.into()),
    }
    let lane = DataLane::open(&wires.channel, transfer, token, permit.leash().clone()).await?;
    let transforming = Transforming::new(
        &projected_schema(&spec, permit.columns()),
        |place| permit.transform(place),
        flow.pseudonyms().key(permit.under())?,
    )?;
    let mut sending = Sending::new(flow, lane, transforming, asked.content)?;
    flow.failpoint("pull.before_data");
    sending.schema(meter).await?;
    if let Some(mark) = begun {
        // The schema is sent again, for whoever decodes, and counts once.
        reader.seek(mark.position);
        (sending.root, sending.before) = (mark.root, mark.rows);
    }
    let mut next = reader.next().await?;
    while let Some(batch) = next.take() {
        flow.failpoint("pull.piece");
        permit.leash().check()?;
        let position = reader.position();
        // The next rows are read while these are sent.
        let (ahead, sent) = tokio::join!(reader.next(), sending.rows(batch, position, meter));
        sent?;
        next = ahead?;
    }
    let (delivered, lane) = sending.finish();
    Ok((delivered, vec![lane]))
}

/// What is said where a version has other columns than its entry has now.
pub(super) const CHANGED: &str = "the version was pushed before its entry changed: ask the provider to push it again";

/// Where an item of the entry lies in a version: versions keep the columns that the entry had when they came.
pub(super) fn same_column(spec: &EntrySpec, place: usize, manifest: &TableManifest) -> Option<usize> {
    let item = spec.items.get(place)?;
    manifest.columns.iter().position(|column| column.name == item.name && column.item_type == item.item_type)
}

/// A batch as it leaves. Hashing is not done where streams wait.
async fn transformed(transforming: &Transforming, batch: RecordBatch) -> Result<RecordBatch, FlowError> {
    if transforming.is_idle() {
        return Ok(batch);
    }
    let transforming = transforming.clone();
    tokio::task::spawn_blocking(move || transforming.apply(&batch)).await?
}

/// Rows on their way to the receiver.
pub(super) struct Sending<S: SendHalf> {
    lane: DataLane<S>,
    encoder: ipc::Encoder,
    transforming: Transforming,
    root: BatchRoot,
    digest: RowsDigest,
    /// Rows that an earlier session delivered.
    before: RowsSum,
    sent_bytes: u64,
    key: [u8; 32],
    content: Digest,
}

impl<S: SendHalf> Sending<S> {
    /// Of rows that leave as `transforming` says, in a transfer that is bound to `content`.
    pub(super) fn new(
        flow: &Flow,
        lane: DataLane<S>,
        transforming: Transforming,
        content: Digest,
    ) -> Result<Self, FlowError> {
        let schema = Arc::clone(transforming.schema());
        let digest = RowsDigest::of_schema(&schema).ok_or_else(|| FlowError::Machine("columns of no item".into()))?;
        Ok(Self {
            lane,
            encoder: ipc::Encoder::new(schema).map_err(|e| FlowError::Machine(e.to_string()))?,
            root: BatchRoot::default(),
            digest,
            transforming,
            before: RowsSum::default(),
            sent_bytes: 0,
            key: flow.facts().marks_key,
            content,
        })
    }

    /// The first frame.
    pub(super) async fn schema(&mut self, meter: &Meter) -> Result<(), FlowError> {
        let first = self.encoder.schema().map_err(|e| FlowError::Machine(e.to_string()))?;
        self.frame(vec![first], meter).await
    }

    /// What was delivered, and the stream, whose bytes may still wait for the receiver.
    pub(super) fn finish(mut self) -> (Delivered, DataLane<S>) {
        self.lane.finish();
        let rows = self.so_far();
        let delivered = Delivered {
            bytes: self.root.bytes(),
            sent_bytes: self.sent_bytes,
            rows: rows.count,
            bytes_root: Some(self.root.digest()),
            rows_digest: Some(rows.digest()),
            ..Delivered::default()
        };
        (delivered, self.lane)
    }

    /// Rows of the version, in as many frames as they need, and a mark behind them where a read can go on from there.
    pub(super) async fn rows(
        &mut self,
        batch: RecordBatch,
        position: Option<Position>,
        meter: &Meter,
    ) -> Result<(), FlowError> {
        let batch = transformed(&self.transforming, batch).await?;
        self.digest.update(&batch).map_err(|e| FlowError::Machine(e.to_string()))?;
        for piece in ipc::cut_to(&batch, meter.piece_bytes(ipc::BATCH_BYTES_AIM)) {
            let (body, _) = self.encoder.batch(&piece).map_err(|e| FlowError::OverLimit { what: e.to_string() })?;
            self.frame(body, meter).await?;
            metrics::sent_rows(piece.num_rows() as u64);
            self.lane.leash().moved().add(0, piece.num_rows() as u64);
        }
        let Some(position) = position else { return Ok(()) };
        let mark = Mark { position, root: self.root, rows: self.so_far() };
        self.lane.message(&wire::Mark { token: mark.seal(&self.key, self.content).into() }).await
    }

    /// Rows that were delivered, by this session and those before it.
    fn so_far(&self) -> RowsSum {
        let mut rows = self.before;
        rows.merge(&self.digest.sum());
        rows
    }

    /// One Batch frame, counted before it is sent. Its pieces share the batch's buffers.
    async fn frame(&mut self, body: Vec<Bytes>, meter: &Meter) -> Result<(), FlowError> {
        let bytes: usize = body.iter().map(Bytes::len).sum();
        meter.take(bytes as u64).await?;
        meter.pace(bytes as u64).await;
        self.lane.raw(Bytes::copy_from_slice(&frame::header(FrameKind::Batch, bytes)?)).await?;
        self.root.add(body.iter().map(|piece| &piece[..]));
        for piece in body {
            self.lane.raw(piece).await?;
        }
        self.sent_bytes += bytes as u64;
        metrics::sent(bytes as u64);
        self.lane.leash().moved().add(bytes as u64, 0);
        Ok(())
    }
}
