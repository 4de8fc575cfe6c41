//! A pull, top to bottom: permit, its record in the ledger, what there is, what is wanted, data, end record, receipt.

use super::commit::{Committing, Opened, Opening};
use super::error::FlowError;
use super::meter::{Meter, count_request};
use super::record::VersionRow;
use super::serve_table::Asked;
use super::wires::Wires;
use super::{Flow, serve_files, serve_table};
use crate::gate::{Peer, Permit, PullPermit};
use crate::lake::manifest::TableManifest;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::quality::QualityResult;
use lingqu_protocol::receipt::{DataKind, Direction, ReceiptFile};
use lingqu_protocol::session::SessionError;
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{Pull, PullDone, PullEnd, Step, reply, step};
use std::sync::Arc;

/// What was delivered, as the end record says it.
#[derive(Clone, Debug, Default)]
pub struct Delivered {
    /// Bytes sent in this session.
    pub sent_bytes: u64,
    /// Bytes of the files, or of the batches.
    pub bytes: u64,
    /// Files.
    pub files: u64,
    /// Rows.
    pub rows: u64,
    /// Rows that the sender says it read and left behind, where it counted them.
    pub read_rejected: Option<(u64, u64)>,
    /// What the quality rules found in the version.
    pub quality: Vec<QualityResult>,
    /// Digest over the bytes.
    pub bytes_root: Option<Digest>,
    /// Digest over the rows.
    pub rows_digest: Option<Digest>,
    /// The files, where they are few.
    pub listing: Vec<ReceiptFile>,
}

impl Delivered {
    /// What a version of rows holds.
    pub fn version(manifest: &TableManifest) -> Self {
        Self {
            bytes: manifest.bytes(),
            rows: manifest.rows(),
            bytes_root: Some(manifest.root()),
            rows_digest: Some(manifest.rows_digest()),
            ..Self::default()
        }
    }
}

/// Serves a version of an entry to a requester's agent.
///
/// # Errors
/// Why the receiver has no end record.
pub async fn pull<C: Channel>(
    flow: &Arc<Flow>,
    permit: PullPermit,
    peer: &Peer,
    ask: Pull,
    wires: &mut Wires<C>,
) -> Result<(), FlowError> {
    let transfer: TransferId = ask.transfer.parse().map_err(|e| FlowError::bad_data(format!("{e}")))?;
    // Held to the end, so that its data stays while it is read.
    let (version, _held) = flow.hold_version(permit.entry().id, ask.version).await?;
    let content = content_digest(&permit, &version, &ask);
    let opening = Opening {
        transfer,
        direction: Direction::Pull,
        kind: version.kind,
        entry: permit.entry().id,
        grant: Some((permit.grant().id, permit.grant().digest)),
        mode: String::new(),
        content,
    };
    // The first receipt again is no new request; everything else is one, a resume as well.
    if !flow.is_committed(peer, transfer).await? {
        count_request(flow, &permit).await?;
    }
    match flow.open_transfer(peer, opening).await? {
        Opened::Committed(receipt) => {
            return flow.conclude(peer, transfer, receipt, wires).await;
        }
        Opened::Running => {}
    }
    let claim = flow.claim(transfer);
    let meter = Arc::new(Meter::new(Arc::clone(flow), &permit));
    let asked = Asked { transfer, content, mark: &ask.mark };
    let served = claim.work(permit.leash(), serve(flow, &permit, asked, &version, &ask, &meter, wires)).await;
    meter.close().await?;
    let delivered = served?;
    let receipt = flow.commit_delivery(&permit, Committing::delivery(peer, transfer, &version, delivered)).await?;
    flow.conclude(peer, transfer, receipt, wires).await
}

/// Binds a transfer's id to what was asked, under which scope, of which version: another scope is another transfer.
fn content_digest(permit: &PullPermit, version: &VersionRow, ask: &Pull) -> Digest {
    let parts = [
        version.manifest.to_string(),
        permit.grant().digest.to_string(),
        permit.purpose().to_owned(),
        ask.columns.join("\u{1f}"),
        ask.files.join("\u{1f}"),
        ask.r#where.clone(),
        ask.region.clone(),
    ];
    Digest::blake3(parts.join("\u{1e}").as_bytes())
}

async fn serve<C: Channel>(
    flow: &Arc<Flow>,
    permit: &PullPermit,
    asked: Asked<'_>,
    version: &VersionRow,
    ask: &Pull,
    meter: &Arc<Meter>,
    wires: &mut Wires<C>,
) -> Result<Delivered, FlowError> {
    // Held until the receiver has everything: dropped before, by a cut, they take back what has not left yet.
    let (delivered, _lanes) = match version.kind {
        DataKind::File => serve_files::serve(flow, permit, asked.transfer, version, &ask.files, meter, wires).await?,
        DataKind::Table if !ask.files.is_empty() => {
            return Err(FlowError::bad_data("an entry of rows has no files: leave --file out"));
        }
        DataKind::Table => serve_table::serve(flow, permit, asked, version, meter, wires).await?,
    };
    end(flow, permit, delivered, wires).await
}

/// The end record, and the receiver's word that it has everything.
pub(super) async fn end<C: Channel>(
    flow: &Flow,
    permit: &PullPermit,
    delivered: Delivered,
    wires: &mut Wires<C>,
) -> Result<Delivered, FlowError> {
    flow.failpoint("pull.before_end");
    permit.leash().check()?;
    let text = |digest: Option<Digest>| digest.map_or_else(String::new, |d| d.to_string());
    wires
        .reply(reply::Reply::PullEnd(PullEnd {
            bytes: delivered.bytes,
            files: delivered.files,
            rows: delivered.rows,
            bytes_root: text(delivered.bytes_root),
            rows_digest: text(delivered.rows_digest),
        }))
        .await?;
    confirm(&delivered, next_done(wires).await?)?;
    flow.let_go(delivered.sent_bytes);
    Ok(delivered)
}

async fn next_done<C: Channel>(wires: &mut Wires<C>) -> Result<PullDone, FlowError> {
    // The receiver syncs everything to its disk and then says so: as long as it takes, while the connection lives.
    match wires.reader.expect::<Step>("the receiver's word that it has everything").await?.step {
        Some(step::Step::PullDone(done)) => Ok(done),
        _ => Err(SessionError::Unexpected {
            expected: "the receiver's word that it has everything",
            got: "another step",
        }
        .into()),
    }
}

fn confirm(delivered: &Delivered, done: PullDone) -> Result<(), FlowError> {
    let differs = |ours: Option<Digest>, theirs: &str| ours.is_some_and(|d| d.to_string() != theirs);
    if differs(delivered.bytes_root, &done.bytes_root) || differs(delivered.rows_digest, &done.rows_digest) {
        return Err(FlowError::Integrity { what: "the receiver's digests are not those of what was sent".into() });
    }
    Ok(())
}
