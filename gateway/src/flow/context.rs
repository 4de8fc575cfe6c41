//! What every flow stands on, given by the composition root.

use super::ahead::Ahead;
use super::claim::{Claim, Claims};
use super::commit::read;
use super::error::FlowError;
use super::opened::OpenVersions;
use super::pseudonym::PseudonymSecret;
use super::record::{LatestRow, VersionRow, latest_id, version_id};
use super::retention::Reading;
use super::steps::Steps;
use crate::lake::lookup::Lookup;
use crate::lake::manifest::{FileSetManifest, Manifest, TableManifest};
use crate::lake::segment::SegmentStore;
use crate::lake::source::ChunkCache;
use crate::lake::store::Lake;
use crate::lake::writer::WriterBudget;
use crate::ledger::{Denials, Ledger, LedgerError};
use crate::state::{Kind, State};
use lingqu_protocol::checkpoint::Checkpoint;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::fileset::FileEntry;
use lingqu_protocol::host::{Clock, Entropy, Timestamp};
use lingqu_protocol::ids::{EntryId, GatewayId, TransferId};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Segments in memory at once, over all transfers: 64 MiB, half of what the gateway may have in all.
const SEGMENTS_IN_MEMORY: usize = 8;

/// Runs of rows in memory at once, over all transfers: each is a few copies of its bound while it is sorted and encoded.
const RUNS_IN_MEMORY: usize = 2;

/// Runs that are sorted and encoded at once: one beside what comes in keeps two processors busy.
const RUNS_ENCODED: usize = 1;

/// Look-ups that read rows at a time: one for each processor of a small machine, each with a row group's columns in memory.
const LOOKUPS_AT_ONCE: usize = 2;

/// Files of keys that are answered at a time; others wait. Each holds its keys and, one of them, their answers.
const MATCHES_AT_ONCE: usize = 4;

/// Bytes that pass through memory until what the allocator kept of them is given back: less would not be missed.
const GIVEN_BACK_BYTES: u64 = 64 << 20;

/// A stream waits this long for memory that slower transfers hold, and then its agent tries again later.
const MEMORY_WAIT: Duration = Duration::from_secs(120);

/// How long a push waits while the rules of others are run: the longest take minutes.
const QUALITY_WAIT: Duration = Duration::from_secs(600);

/// What is fixed about the gateway.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its id.
    pub gateway: GatewayId,
    /// Its domain.
    pub domain: String,
    /// The root's statement of its keys, an envelope's text.
    pub statement: Vec<u8>,
    /// What marks of pulls are sealed with: the same after a restart.
    pub marks_key: [u8; 32],
}

/// What a flow is made of.
pub struct FlowParts {
    /// Records and leaves.
    pub state: Arc<dyn State>,
    /// Proofs and checkpoints.
    pub ledger: Arc<Ledger>,
    /// Objects.
    pub lake: Lake,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// What pseudonyms are made with.
    pub pseudonyms: PseudonymSecret,
    /// What is fixed.
    pub facts: Facts,
    /// Called at named points; does nothing but in kill tests.
    pub failpoint: fn(&str),
}

/// What every flow stands on.
pub struct Flow {
    parts: FlowParts,
    segments: SegmentStore,
    segment_memory: Arc<Semaphore>,
    writers: WriterBudget,
    quality_memory: Arc<Semaphore>,
    chunk_cache: ChunkCache,
    lookup: Lookup,
    opened: OpenVersions,
    lookups: Semaphore,
    matches: Arc<Semaphore>,
    ahead: Arc<Ahead>,
    answers: Semaphore,
    reading: Reading,
    steps: Steps,
    claims: Claims,
    let_go: AtomicU64,
    pub(super) denials: Mutex<Denials>,
}

/// What the gateway's hello says of its ledger.
#[derive(Clone, Debug, Default)]
pub struct Greeting {
    /// The latest checkpoint, a signed note.
    pub checkpoint: String,
    /// The proof that it goes on from the agent's.
    pub consistency: Vec<[u8; 32]>,
}

impl Flow {
    /// From its parts.
    pub fn new(parts: FlowParts) -> Self {
        let chunk_cache = ChunkCache::default();
        Self {
            segments: SegmentStore::new(parts.lake.clone()),
            lookup: Lookup::new(parts.lake.clone(), chunk_cache.clone()),
            opened: OpenVersions::default(),
            lookups: Semaphore::new(LOOKUPS_AT_ONCE),
            matches: Arc::new(Semaphore::new(MATCHES_AT_ONCE)),
            ahead: Arc::default(),
            answers: Semaphore::new(1),
            parts,
            segment_memory: Arc::new(Semaphore::new(SEGMENTS_IN_MEMORY)),
            writers: WriterBudget::new(RUNS_IN_MEMORY, RUNS_ENCODED),
            quality_memory: Arc::new(Semaphore::new(1)),
            chunk_cache,
            reading: Reading::default(),
            steps: Steps::default(),
            claims: Claims::default(),
            let_go: AtomicU64::new(0),
            denials: Mutex::new(Denials::default()),
        }
    }

    /// Records and leaves.
    pub fn state(&self) -> &dyn State {
        self.parts.state.as_ref()
    }

    /// Proofs and checkpoints.
    pub fn ledger(&self) -> &Ledger {
        &self.parts.ledger
    }

    /// Objects.
    pub fn lake(&self) -> &Lake {
        &self.parts.lake
    }

    /// File versions' objects.
    pub fn segments(&self) -> &SegmentStore {
        &self.segments
    }

    /// Randomness.
    pub fn entropy(&self) -> &dyn Entropy {
        self.parts.entropy.as_ref()
    }

    /// What pseudonyms are made with.
    pub fn pseudonyms(&self) -> &PseudonymSecret {
        &self.parts.pseudonyms
    }

    /// What is fixed.
    pub fn facts(&self) -> &Facts {
        &self.parts.facts
    }

    /// The wall clock.
    pub fn now(&self) -> Timestamp {
        self.parts.clock.wall()
    }

    /// The monotonic clock.
    pub fn monotonic(&self) -> Duration {
        self.parts.clock.monotonic()
    }

    /// A named point, where kill tests end the process.
    pub fn failpoint(&self, name: &str) {
        (self.parts.failpoint)(name);
    }

    /// The same, for what outlives a borrow of the flow.
    pub fn failpoints(&self) -> fn(&str) {
        self.parts.failpoint
    }

    /// A share of the memory for one segment.
    ///
    /// # Errors
    /// Others hold all of it for too long.
    pub async fn segment_memory(&self) -> Result<OwnedSemaphorePermit, FlowError> {
        share(&self.segment_memory).await
    }

    /// Takes a transfer over from whoever runs it.
    pub fn claim(&self, transfer: TransferId) -> Claim {
        self.claims.take(transfer)
    }

    /// Which session works on what.
    pub(super) const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// A version of an entry; 0 means the latest.
    ///
    /// # Errors
    /// There is none, or the state's.
    pub async fn version(&self, entry: EntryId, number: u64) -> Result<VersionRow, FlowError> {
        let number = if number > 0 { number } else { self.latest(entry).await?.unwrap_or(0) };
        let record = self.state().get(Kind::Version, &version_id(entry, number)).await?;
        read(
            &record.ok_or(FlowError::NotFound {
                what: "version of this entry: nothing was pushed yet, or not as often",
            })?,
        )
    }

    /// The number of an entry's latest version.
    ///
    /// # Errors
    /// The state's.
    pub async fn latest(&self, entry: EntryId) -> Result<Option<u64>, FlowError> {
        let record = self.state().get(Kind::Setting, &latest_id(entry)).await?;
        Ok(record.as_ref().map(read::<LatestRow>).transpose()?.map(|l| l.latest))
    }

    /// The latest checkpoint, and the proof that it goes on from the one that an agent keeps. A hello is answered without
    /// them where the ledger fails: the agent then sees that it got none.
    pub async fn greeting(&self, known: &str) -> Greeting {
        match self.grown_from(known).await {
            Ok(greeting) => greeting,
            Err(error) => {
                tracing::error!(%error, "no checkpoint for a hello");
                Greeting::default()
            }
        }
    }

    async fn grown_from(&self, known: &str) -> Result<Greeting, LedgerError> {
        let (head, checkpoint) = self.ledger().latest().await?;
        let known = Checkpoint::unverified(known).ok().map(|c| c.size);
        let consistency = match known.filter(|size| (1..head.size).contains(size)) {
            Some(size) => self.ledger().consistency(size, head.size).await?,
            None => Vec::new(),
        };
        Ok(Greeting { checkpoint, consistency })
    }

    /// The files of a version.
    ///
    /// # Errors
    /// The lake's: not there, damaged.
    pub async fn file_manifest(&self, version: &VersionRow) -> Result<FileSetManifest, FlowError> {
        Ok(FileSetManifest::load(self.lake(), version.transfer, version.manifest).await?)
    }

    /// The parts of a version of rows.
    ///
    /// # Errors
    /// The lake's: not there, damaged.
    pub async fn table_manifest(&self, version: &VersionRow) -> Result<TableManifest, FlowError> {
        Ok(TableManifest::load(self.lake(), version.transfer, version.manifest).await?)
    }

    /// Puts the manifest of a new version of files.
    ///
    /// # Errors
    /// The lake's.
    pub async fn put_file_manifest(&self, transfer: TransferId, files: &[FileEntry]) -> Result<Digest, FlowError> {
        Ok(FileSetManifest::new(files.to_vec())?.save(self.lake(), transfer).await?)
    }

    /// What all readers of providers' own files share.
    pub const fn chunk_cache(&self) -> &ChunkCache {
        &self.chunk_cache
    }

    /// Finds rows by their key.
    pub const fn lookup(&self) -> &Lookup {
        &self.lookup
    }

    /// Versions of rows that are asked by key again and again.
    pub(super) const fn opened(&self) -> &OpenVersions {
        &self.opened
    }

    /// Leave to read the rows of one key.
    pub(super) async fn lookup_turn(&self) -> Result<SemaphorePermit<'_>, FlowError> {
        turn(&self.lookups).await
    }

    /// Leave to hold the answers of many keys, which one match has at a time.
    pub(super) async fn answers_turn(&self) -> Result<SemaphorePermit<'_>, FlowError> {
        turn(&self.answers).await
    }

    /// Leave to answer a file of keys.
    pub(super) async fn match_turn(&self) -> Result<OwnedSemaphorePermit, FlowError> {
        share(&self.matches).await
    }

    /// Says that so many bytes have passed through memory, at the end of a transfer, of its data or of a handshake. Now and then what the
    /// allocator keeps of it is given back to the system: not in the middle of a transfer, which would wait for that.
    pub fn let_go(&self, bytes: u64) {
        if self.let_go.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) < GIVEN_BACK_BYTES {
            return;
        }
        self.let_go.store(0, Ordering::Relaxed);
        // It takes milliseconds, and nobody waits for it.
        drop(tokio::task::spawn_blocking(lingqu_memory::give_back));
    }

    /// What is read ahead of those who receive.
    pub(super) const fn ahead(&self) -> &Arc<Ahead> {
        &self.ahead
    }

    /// Steps between versions, for those who follow.
    pub const fn steps(&self) -> &Steps {
        &self.steps
    }

    /// Which versions are being read.
    pub const fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Leave to hold what quality rules hold, which one push has at a time.
    ///
    /// # Errors
    /// [`FlowError::Busy`] where others hold it for too long.
    pub async fn quality_memory(&self) -> Result<OwnedSemaphorePermit, FlowError> {
        let permit = tokio::time::timeout(QUALITY_WAIT, self.quality_memory.clone().acquire_owned()).await;
        permit.map_err(|_| FlowError::Busy)?.map_err(|e| FlowError::Machine(e.to_string()))
    }

    /// What the latest version of an entry of rows came to, for those who know of its versions.
    ///
    /// # Errors
    /// The state's.
    pub async fn latest_version(&self, entry: EntryId) -> Result<Option<serde_json::Value>, FlowError> {
        let Some(number) = self.latest(entry).await? else { return Ok(None) };
        let version = self.version(entry, number).await?;
        Ok(Some(serde_json::json!({
            "number": version.number,
            "transfer": version.transfer,
            "committed_at": Timestamp(version.committed_at).to_rfc3339(),
            "rows": version.rows,
            "files": version.files,
            "bytes": version.bytes,
            "rows_read": version.rows_read,
            "rows_rejected": version.rows_rejected,
            "quality": version.quality,
        })))
    }

    /// What all writers of rows share.
    pub fn writer_budget(&self) -> WriterBudget {
        self.writers.clone()
    }
}

async fn turn(all: &Semaphore) -> Result<SemaphorePermit<'_>, FlowError> {
    let permit = tokio::time::timeout(MEMORY_WAIT, all.acquire()).await;
    permit.map_err(|_| FlowError::Busy)?.map_err(|e| FlowError::Machine(e.to_string()))
}

async fn share(memory: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, FlowError> {
    match tokio::time::timeout(MEMORY_WAIT, Arc::clone(memory).acquire_owned()).await {
        Ok(Ok(share)) => Ok(share),
        Ok(Err(_)) | Err(_) => Err(FlowError::OverLimit { what: "the memory for transfers; try again later".into() }),
    }
}
