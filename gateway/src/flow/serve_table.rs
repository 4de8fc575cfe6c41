//! Rows out of the lake: exactly the permitted columns and rows, batch by batch, on one stream.

use super::Flow;
use super::error::FlowError;
use super::meter::Meter;
use super::pull::Delivered;
use super::record::VersionRow;
use super::transform::Transforming;
use super::wires::{DataLane, Wires, token};
use crate::gate::{Permit, PullPermit};
use crate::lake::manifest::TableManifest;
use crate::lake::reader::TableReader;
use crate::metrics;
use arrow::array::RecordBatch;
use bytes::Bytes;
use lingqu_protocol::columns::projected_schema;
use lingqu_protocol::digest::{Algorithm, Digest};
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::frame::{self, FrameKind};
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::ipc;
use lingqu_protocol::rows::RowsDigest;
use lingqu_protocol::session::SessionError;
use lingqu_protocol::stream::{Channel, SendHalf};
use lingqu_protocol::wire::{PullReady, Step, reply, step};
use std::sync::Arc;

/// Serves the permitted rows of a version; gives the stream that the receiver has not confirmed yet.
///
/// # Errors
/// Why the receiver has no end record.
pub async fn serve<C: Channel>(
    flow: &Arc<Flow>,
    permit: &PullPermit,
    transfer: TransferId,
    version: &VersionRow,
    meter: &Meter,
    wires: &mut Wires<C>,
) -> Result<(Delivered, Vec<DataLane<C::Send>>), FlowError> {
    let spec = Arc::clone(&permit.entry().spec);
    let manifest = Arc::new(flow.table_manifest(version).await?);
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
    let mut reader = TableReader::open(flow.lake().clone(), manifest, &names, rows)?;
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
    let schema = Arc::clone(transforming.schema());
    let mut digest = RowsDigest::of_schema(&schema).ok_or_else(|| FlowError::Machine("columns of no item".into()))?;
    let mut sending = Sending {
        lane,
        encoder: ipc::Encoder::new(schema).map_err(|e| FlowError::Machine(e.to_string()))?,
        bytes: blake3::Hasher::new(),
        delivered: Delivered::default(),
    };
    flow.failpoint("pull.before_data");
    let first = sending.encoder.schema().map_err(|e| FlowError::Machine(e.to_string()))?;
    sending.frame(vec![first], meter).await?;
    while let Some(batch) = reader.next().await? {
        flow.failpoint("pull.piece");
        permit.leash().check()?;
        let batch = transformed(&transforming, batch).await?;
        digest.update(&batch).map_err(|e| FlowError::Machine(e.to_string()))?;
        for piece in ipc::cut_to(&batch, meter.piece_bytes(ipc::BATCH_BYTES_AIM)) {
            let (body, _) = sending.encoder.batch(&piece).map_err(|e| FlowError::OverLimit { what: e.to_string() })?;
            sending.frame(body, meter).await?;
            sending.delivered.rows += piece.num_rows() as u64;
            metrics::sent_rows(piece.num_rows() as u64);
            permit.leash().moved().add(0, piece.num_rows() as u64);
        }
    }
    sending.lane.finish();
    let bytes_root = Digest { algorithm: Algorithm::Blake3, bytes: *sending.bytes.finalize().as_bytes() };
    let delivered = Delivered { bytes_root: Some(bytes_root), rows_digest: Some(digest.finish()), ..sending.delivered };
    Ok((delivered, vec![sending.lane]))
}

/// What is said where a version has other columns than its entry has now.
const CHANGED: &str = "the version was pushed before its entry changed: ask the provider to push it again";

/// Where an item of the entry lies in a version: versions keep the columns that the entry had when they came.
fn same_column(spec: &EntrySpec, place: usize, manifest: &TableManifest) -> Option<usize> {
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

struct Sending<S: SendHalf> {
    lane: DataLane<S>,
    encoder: ipc::Encoder,
    bytes: blake3::Hasher,
    delivered: Delivered,
}

impl<S: SendHalf> Sending<S> {
    /// One Batch frame, counted before it is sent. Its pieces share the batch's buffers.
    async fn frame(&mut self, body: Vec<Bytes>, meter: &Meter) -> Result<(), FlowError> {
        let bytes: usize = body.iter().map(Bytes::len).sum();
        meter.take(bytes as u64).await?;
        meter.pace(bytes as u64).await;
        self.lane.raw(Bytes::copy_from_slice(&frame::header(FrameKind::Batch, bytes)?)).await?;
        for piece in body {
            self.bytes.update(&piece);
            self.lane.raw(piece).await?;
        }
        self.delivered.bytes += bytes as u64;
        self.delivered.sent_bytes += bytes as u64;
        metrics::sent(bytes as u64);
        self.lane.leash().moved().add(bytes as u64, 0);
        Ok(())
    }
}
