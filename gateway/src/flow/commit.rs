//! What a transfer leaves in state and ledger. Data first, then the one transaction of records and leaf, then the receipt:
//! what is acknowledged is there, and what is there was recorded.

use super::Flow;
use super::claim::AloneClaim;
use super::error::FlowError;
use super::pull::Delivered;
use super::record::{LatestRow, TransferRow, TransferStatus, VersionRow, latest_id, version_draft};
use super::serve_files::listing;
use super::wires::{CONTROL_WAIT, Wires};
use crate::gate::{Peer, Permit, PullPermit, PushPermit};
use crate::lake::manifest::{Part, TableManifest};
use crate::ledger::{Entry, receipt_leaf};
use crate::state::{Change, Draft, Expect, Kind, NewLeaf, Record, StateError, Write};
use lingqu_certs::key::{ED25519_ID, PublicKey};
use lingqu_protocol::digest::{Algorithm, Digest};
use lingqu_protocol::fileset::{FileEntry, set_root};
use lingqu_protocol::ids::{EntryId, GrantId, TransferId};
use lingqu_protocol::leaf::LeafKind;
use lingqu_protocol::receipt::{
    Algorithms, DataKind, Direction, GrantVersion, RECEIPT_FILES_MAX, RECEIPT_VERSION, ReceiptFile, Statement,
};
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{self, Receipt, Step, reply, step};

/// Tries of a commit that lost a race for the next version number: each loser's next try meets one racer less.
const COMMIT_TRIES: usize = 16;

/// The mode of a pull that answers keys.
pub const MATCH_MODE: &str = "match";

/// Whether a transfer that begins has ended already.
#[derive(Clone, Debug)]
pub enum Opened {
    /// It runs.
    Running,
    /// It was committed; its first receipt.
    Committed(Receipt),
}

/// The same for one that is held alone.
pub(super) enum OpenedAlone {
    /// It runs, in this session only.
    Running(AloneClaim),
    /// It was committed; its first receipt.
    Committed(Receipt),
}

/// A transfer that begins.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Its id.
    pub transfer: TransferId,
    /// Which way.
    pub direction: Direction,
    /// What.
    pub kind: DataKind,
    /// Of which entry.
    pub entry: EntryId,
    /// Under which grant, and the digest of the answer that it follows from.
    pub grant: Option<(GrantId, Digest)>,
    /// `full`, `append`, `changes`; of a pull nothing or [`MATCH_MODE`].
    pub mode: String,
    /// What its id is bound to.
    pub content: Digest,
}

/// A transfer that is whole.
#[derive(Clone, Debug)]
pub struct Committing {
    peer: Peer,
    transfer: TransferId,
    kind: DataKind,
    version: Option<u64>,
    delivered: Delivered,
    manifest: Option<Manifest>,
}

/// The manifest of a new version.
#[derive(Clone, Debug)]
enum Manifest {
    Files(Vec<FileEntry>),
    /// Rows, whose manifest object is in the lake already; with the version that they are appended to.
    Table {
        digest: Digest,
        follows: Option<u64>,
        sources: Vec<TransferId>,
    },
}

impl Committing {
    /// A set of files whose every segment is durable.
    pub fn files(peer: &Peer, transfer: TransferId, files: Vec<FileEntry>) -> Self {
        let delivered = Delivered {
            bytes: files.iter().map(|f| f.bytes).sum(),
            files: files.len() as u64,
            bytes_root: Some(set_root(&files)),
            listing: listing(&files),
            ..Delivered::default()
        };
        let manifest = Some(Manifest::Files(files));
        Self { peer: peer.clone(), transfer, kind: DataKind::File, version: None, delivered, manifest }
    }

    /// Rows whose every part is durable, and their manifest.
    pub fn table(
        peer: &Peer,
        transfer: TransferId,
        delivered: Delivered,
        digest: Digest,
        follows: Option<u64>,
        version: &TableManifest,
    ) -> Self {
        let mut sources: Vec<TransferId> = version.parts.iter().filter_map(Part::transfer).collect();
        sources.sort_unstable();
        sources.dedup();
        let manifest = Some(Manifest::Table { digest, follows, sources });
        Self { peer: peer.clone(), transfer, kind: DataKind::Table, version: None, delivered, manifest }
    }

    /// A version that was delivered whole.
    pub fn delivery(peer: &Peer, transfer: TransferId, version: &VersionRow, delivered: Delivered) -> Self {
        let number = Some(version.number);
        // Whoever gets a version gets with it what is known of its quality.
        let delivered = Delivered { quality: version.quality.clone(), ..delivered };
        Self { peer: peer.clone(), transfer, kind: version.kind, version: number, delivered, manifest: None }
    }
}

impl Flow {
    /// Records that a transfer begins, with its leaf, before anything of it moves. A transfer that was committed gives its
    /// first receipt again; one that belongs to another agent does not exist.
    ///
    /// # Errors
    /// Another agent's id, an id used for something else, or the state's.
    pub async fn open_transfer(&self, peer: &Peer, opening: Opening) -> Result<Opened, FlowError> {
        let id = opening.transfer.to_string();
        if let Some(record) = self.state().get(Kind::Transfer, &id).await? {
            let row: TransferRow = read(&record)?;
            if !row.is_of(&peer.agent) {
                return Err(FlowError::NotFound { what: "transfer" });
            }
            if row.content != opening.content || row.direction != opening.direction || row.entry != opening.entry {
                let what = match opening.direction {
                    Direction::Push => format!("{id} was begun for other content"),
                    Direction::Pull => {
                        format!("{id} was begun under another scope, for another version, or asked for other rows")
                    }
                };
                return Err(FlowError::Conflict { what: format!("{what}: start a new transfer") });
            }
            return match row.status {
                TransferStatus::Committed => Ok(Opened::Committed(self.receipt_of(&record).await?)),
                TransferStatus::Cancelled => {
                    Err(FlowError::Conflict { what: format!("{id} was cancelled: start a new transfer") })
                }
                TransferStatus::Open => {
                    // A resume is judged and recorded as the first attempt was.
                    self.state()
                        .commit(Change { leaves: vec![self.permit_leaf(peer, &opening)?], ..Change::default() })
                        .await?;
                    Ok(Opened::Running)
                }
            };
        }
        let row = TransferRow {
            id: opening.transfer,
            agent: peer.agent.to_string(),
            direction: opening.direction,
            kind: opening.kind,
            entry: opening.entry,
            grant: opening.grant.map(|(id, _)| id),
            grant_digest: opening.grant.map(|(_, digest)| digest),
            mode: opening.mode.clone(),
            status: TransferStatus::Open,
            content: opening.content,
            version: None,
            bytes: 0,
            files: 0,
            rows: 0,
            rows_read: None,
            rows_rejected: None,
            bytes_root: None,
            rows_digest: None,
            opened_at: self.now().0,
            ended_at: None,
        };
        let write = Write::Put(self.draft(&row, peer)?, Expect::Absent);
        let leaf = self.permit_leaf(peer, &opening)?;
        self.state().commit(Change { writes: vec![write], leaves: vec![leaf], ..Change::default() }).await?;
        self.failpoint("transfer.opened");
        Ok(Opened::Running)
    }

    /// Opens a transfer that leaves something in the lake before its commit, and holds it alone: a session that had it
    /// before has ended.
    ///
    /// # Errors
    /// Those of opening it.
    pub(super) async fn open_alone(&self, peer: &Peer, opening: Opening) -> Result<OpenedAlone, FlowError> {
        if let Opened::Committed(receipt) = self.open_transfer(peer, opening.clone()).await? {
            return Ok(OpenedAlone::Committed(receipt));
        }
        let hold = self.claims().take_alone(opening.transfer).await;
        if !self.is_committed(peer, opening.transfer).await? {
            return Ok(OpenedAlone::Running(hold));
        }
        // By the session that was taken over, a moment ago.
        match self.open_transfer(peer, opening).await? {
            Opened::Committed(receipt) => Ok(OpenedAlone::Committed(receipt)),
            Opened::Running => Err(FlowError::Busy),
        }
    }

    /// Whether a transfer of this agent's was committed: then its first receipt is all that is left to give.
    ///
    /// # Errors
    /// The state's.
    pub async fn is_committed(&self, peer: &Peer, transfer: TransferId) -> Result<bool, FlowError> {
        let record = self.state().get(Kind::Transfer, &transfer.to_string()).await?;
        let row = record.as_ref().map(read::<TransferRow>).transpose()?;
        Ok(row.is_some_and(|row| row.is_of(&peer.agent) && row.status == TransferStatus::Committed))
    }

    /// Makes a version visible: manifest object, then version, dataset and transfer in one transaction with the leaf.
    ///
    /// # Errors
    /// A cut between the last byte and here, or the state's; nothing is visible then.
    pub async fn commit_version(&self, permit: &PushPermit, done: Committing) -> Result<wire::Receipt, FlowError> {
        let entry = permit.entry();
        let (manifest, follows, sources) = match &done.manifest {
            Some(Manifest::Files(files)) => (self.put_file_manifest(done.transfer, files).await?, None, Vec::new()),
            Some(Manifest::Table { digest, follows, sources }) => (*digest, *follows, sources.clone()),
            None => return Err(FlowError::Machine("a version without a manifest".into())),
        };
        self.failpoint("push.before_commit");
        for _ in 0..COMMIT_TRIES {
            permit.leash().check()?;
            let latest = self.state().get(Kind::Setting, &latest_id(entry.id)).await?;
            let number = latest.as_ref().map(read::<LatestRow>).transpose()?.map_or(0, |l| l.latest) + 1;
            if follows.is_some_and(|version| version + 1 != number) {
                return Err(FlowError::Conflict { what: "another version came in between: push again".into() });
            }
            let version = VersionRow {
                entry: entry.id,
                number,
                kind: done.kind,
                transfer: done.transfer,
                manifest,
                bytes: done.delivered.bytes,
                files: done.delivered.files,
                rows: done.delivered.rows,
                rows_read: done.delivered.read_rejected.map(|(read, _)| read),
                rows_rejected: done.delivered.read_rejected.map(|(_, rejected)| rejected),
                quality: done.delivered.quality.clone(),
                bytes_root: root(&done.delivered)?,
                rows_digest: done.delivered.rows_digest,
                committed_at: self.now().0,
                follows,
                sources: sources.clone(),
                retired_at: None,
            };
            let dataset = Draft {
                kind: Kind::Setting,
                id: latest_id(entry.id),
                agency: None,
                parent: None,
                body: json(&LatestRow { latest: number })?,
                changed_at: self.now(),
            };
            let writes = vec![
                Write::Put(version_draft(&version, self.now())?, Expect::Absent),
                Write::Put(dataset, latest.as_ref().map_or(Expect::Absent, |l| Expect::Revision(l.revision))),
            ];
            match self.finish(permit, &done, number, None, writes).await {
                Err(FlowError::State(StateError::Conflict { kind: Kind::Setting | Kind::Version, .. })) => {}
                outcome => {
                    if outcome.is_ok() {
                        self.steps().announce(entry.id, number);
                    }
                    return outcome;
                }
            }
        }
        Err(FlowError::Busy)
    }

    /// Records a delivery, once the receiver said that it has everything.
    ///
    /// # Errors
    /// The state's.
    pub async fn commit_delivery(&self, permit: &PullPermit, done: Committing) -> Result<wire::Receipt, FlowError> {
        let grant = GrantVersion { id: permit.grant().id, digest: permit.grant().digest };
        let version = done.version.unwrap_or(0);
        self.finish(permit, &done, version, Some(grant), Vec::new()).await
    }

    async fn finish(
        &self,
        permit: &impl Permit,
        done: &Committing,
        version: u64,
        grant: Option<GrantVersion>,
        mut writes: Vec<Write>,
    ) -> Result<wire::Receipt, FlowError> {
        let id = done.transfer.to_string();
        let record = self.state().get(Kind::Transfer, &id).await?.ok_or(FlowError::NotFound { what: "transfer" })?;
        let before: TransferRow = read(&record)?;
        if before.status == TransferStatus::Committed {
            return self.receipt_of(&record).await;
        }
        let now = self.now();
        let row = TransferRow {
            status: TransferStatus::Committed,
            version: Some(version),
            bytes: done.delivered.bytes,
            files: done.delivered.files,
            rows: done.delivered.rows,
            rows_read: done.delivered.read_rejected.map(|(read, _)| read),
            rows_rejected: done.delivered.read_rejected.map(|(_, rejected)| rejected),
            bytes_root: done.delivered.bytes_root,
            rows_digest: done.delivered.rows_digest,
            ended_at: Some(now.0),
            ..before
        };
        writes.push(Write::Put(self.draft(&row, &done.peer)?, Expect::Revision(record.revision)));
        let entry = permit.entry();
        let is_table = done.kind == DataKind::Table;
        let lists = done.delivered.files <= RECEIPT_FILES_MAX as u64;
        let statement = Statement {
            version: RECEIPT_VERSION,
            algorithms: Algorithms { ledger: Algorithm::Sha256.id().to_owned(), signature: "ed25519".to_owned() },
            gateway: self.facts().gateway,
            transfer: done.transfer,
            agent: done.peer.agent.clone(),
            direction: row.direction,
            entry: entry.id,
            entry_code: entry.code.clone(),
            grant,
            dataset_version: version,
            kind: done.kind,
            bytes: row.bytes,
            files_count: (!is_table).then_some(row.files),
            rows: is_table.then_some(row.rows),
            rows_read: done.delivered.read_rejected.map(|(read, _)| read),
            rows_rejected: done.delivered.read_rejected.map(|(_, rejected)| rejected),
            quality: done.delivered.quality.clone(),
            bytes_root: root(&done.delivered)?,
            rows_digest: row.rows_digest,
            files: if lists { done.delivered.listing.clone() } else { Vec::<ReceiptFile>::new() },
            manifest: (!is_table && !lists).then(|| root(&done.delivered)).transpose()?,
            committed_at: now.0,
        };
        let leaves = vec![receipt_leaf(&statement, self.entropy())?];
        self.state().commit(Change { writes, leaves, ..Change::default() }).await?;
        self.failpoint("transfer.committed");
        let record = self.state().get(Kind::Transfer, &id).await?.ok_or(FlowError::NotFound { what: "transfer" })?;
        self.receipt_of(&record).await
    }

    /// The receipt of a committed transfer: the same bytes whenever it is asked for.
    async fn receipt_of(&self, record: &Record) -> Result<wire::Receipt, FlowError> {
        let span = record.ledger.ok_or_else(|| FlowError::Machine("a committed transfer without its leaf".into()))?;
        let receipt = self.ledger().receipt(span.first_index, span.size).await?;
        Ok(wire::Receipt { json: receipt.to_json().into() })
    }

    /// Hands the receipt over, takes the agent's signature over it, stores that beside the transfer and says that all is
    /// done.
    ///
    /// # Errors
    /// A signature that is not this agent's, the state's, or a transport that ended. The transfer is committed either way.
    pub async fn conclude<C: Channel>(
        &self,
        peer: &Peer,
        transfer: TransferId,
        receipt: wire::Receipt,
        wires: &mut Wires<C>,
    ) -> Result<(), FlowError> {
        let signed = receipt.json.clone();
        wires.reply(reply::Reply::Receipt(receipt)).await?;
        let step = tokio::time::timeout(CONTROL_WAIT, wires.reader.message::<Step>("the receipt's cosignature"))
            .await
            .map_err(|_| FlowError::TooSlow { what: "the receipt's cosignature" })??;
        if let Some(Step { step: Some(step::Step::Cosign(cosign)) }) = step {
            let is_theirs = |key: &PublicKey| key.verify(&signed, &cosign.signature).is_ok();
            if cosign.algorithm != ED25519_ID || !wires.signer.as_ref().is_some_and(is_theirs) {
                return Err(FlowError::Integrity { what: "the receipt's cosignature is not this agent's".into() });
            }
            let body = serde_json::json!({
                "transfer": transfer,
                "agent": peer.agent.to_string(),
                "algorithm": cosign.algorithm,
                "signature": lingqu_protocol::digest::to_hex(&cosign.signature),
            });
            let draft = Draft {
                kind: Kind::Receipt,
                id: transfer.to_string(),
                agency: Some(peer.agent.agency.to_string()),
                parent: None,
                body: json(&body)?,
                changed_at: self.now(),
            };
            self.state().commit(Change::put(draft, Expect::Any)).await?;
        }
        wires.reply(reply::Reply::Done(wire::Done {})).await
    }

    fn permit_leaf(&self, peer: &Peer, opening: &Opening) -> Result<NewLeaf, FlowError> {
        let what = match opening.direction {
            Direction::Push => "push",
            Direction::Pull if opening.mode == MATCH_MODE => "match",
            Direction::Pull => "pull",
        };
        let entry = Entry::new(LeafKind::Permit, self.now()).what(what).with(|leaf| {
            leaf.agency = Some(peer.agent.agency);
            leaf.agent = Some(peer.agent.clone());
            leaf.entry = Some(opening.entry);
            leaf.grant = opening.grant.map(|(id, _)| id);
            leaf.transfer = Some(opening.transfer);
        });
        Ok(entry.committing_to(opening.content.to_string()).seal(self.entropy())?)
    }

    pub(super) fn draft(&self, row: &TransferRow, peer: &Peer) -> Result<Draft, FlowError> {
        Ok(Draft {
            kind: Kind::Transfer,
            id: row.id.to_string(),
            agency: Some(peer.agent.agency.to_string()),
            parent: Some(peer.agent.to_string()),
            body: json(row)?,
            changed_at: self.now(),
        })
    }
}

/// A record's row.
pub(super) fn read<T: serde::de::DeserializeOwned>(record: &Record) -> Result<T, FlowError> {
    serde_json::from_slice(&record.body)
        .map_err(|e| FlowError::State(StateError::Damaged(format!("{} {}: {e}", record.kind, record.id))))
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, FlowError> {
    serde_json::to_vec(value).map_err(|e| FlowError::Machine(e.to_string()))
}

fn root(delivered: &Delivered) -> Result<Digest, FlowError> {
    delivered.bytes_root.ok_or_else(|| FlowError::Machine("a transfer without a digest".into()))
}
