//! Everything that must survive: records and the ledger's leaves, changed together in one transaction.
//!
//! One trait with several backends: [`SqliteState`] for one machine, [`MemoryState`] for simulations, and one
//! [`contract`] suite that all of them pass. Records are opaque here: what a body means belongs to whoever wrote it.

pub mod contract;
mod memory;
mod sqlite;

pub use memory::{CommitFault, MemoryState};
pub use sqlite::{SqliteState, write_again};

use async_trait::async_trait;
use lingqu_protocol::digest::Algorithm;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::leaf::LEAF_BYTES_MAX;
use lingqu_protocol::merkle::{Hash, Node};
use std::fmt;

/// What hashes the ledger's tree.
pub const LEDGER_ALGORITHM: Algorithm = Algorithm::Sha256;

/// Bytes of a record's id: the longest is an agent's `CODE/NAME` or a setting's name, with room.
pub const ID_BYTES_MAX: usize = 256;

/// Bytes of a record's body: a signed document at its own limit, whose envelope writes it in base64, and some room.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Bytes of a leaf's salt.
pub const SALT_BYTES_MAX: usize = 64;

/// Writes in one change: an import of every agency of a province goes in one.
pub const WRITES_MAX: usize = 4096;

/// Leaves (or purges) in one change, so that one caller does not hold up the group that it is committed with.
pub const LEAVES_MAX: usize = 1024;

/// Records or leaves that one read returns at most. Larger limits are taken as this.
pub const LIST_MAX: u32 = 1000;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// 政务部门.
    Agency,
    /// An officer with a certified key.
    Officer,
    /// An agent of an agency.
    Agent,
    /// An invitation, open or used.
    Invitation,
    /// An approval that an agent renews with its expired certificate.
    Renewal,
    /// A catalogue entry.
    Entry,
    /// An application.
    Application,
    /// A grant.
    Grant,
    /// A signed envelope, by its document id.
    Document,
    /// A transfer, running or ended.
    Transfer,
    /// A version of a dataset.
    Version,
    /// A stop that is in force.
    Stop,
    /// A setting of the gateway itself.
    Setting,
    /// What a receipt is made from.
    Receipt,
    /// 疑似问题线索.
    Finding,
    /// An order under which rules may cut.
    StandingOrder,
    /// 回流清单.
    BackflowList,
    /// What a subscription of an agent acknowledged last.
    Subscription,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Agency,
        Self::Officer,
        Self::Agent,
        Self::Invitation,
        Self::Renewal,
        Self::Entry,
        Self::Application,
        Self::Grant,
        Self::Document,
        Self::Transfer,
        Self::Version,
        Self::Stop,
        Self::Setting,
        Self::Receipt,
        Self::Finding,
        Self::StandingOrder,
        Self::BackflowList,
        Self::Subscription,
    ];

    /// Its name on disk.
    pub const fn id(self) -> &'static str {
        match self {
            Self::Agency => "agency",
            Self::Officer => "officer",
            Self::Agent => "agent",
            Self::Invitation => "invitation",
            Self::Renewal => "renewal",
            Self::Entry => "entry",
            Self::Application => "application",
            Self::Grant => "grant",
            Self::Document => "document",
            Self::Transfer => "transfer",
            Self::Version => "version",
            Self::Stop => "stop",
            Self::Setting => "setting",
            Self::Receipt => "receipt",
            Self::Finding => "finding",
            Self::StandingOrder => "standing_order",
            Self::BackflowList => "backflow_list",
            Self::Subscription => "subscription",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// A record before it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// What it is.
    pub kind: Kind,
    /// Its id, at most [`ID_BYTES_MAX`] bytes and not empty.
    pub id: String,
    /// The agency it belongs to, which [`Filter`] finds it by.
    pub agency: Option<String>,
    /// What it hangs on (a version on its entry, an agent on its agency), which [`Filter`] finds it by.
    pub parent: Option<String>,
    /// JSON text, at most [`BODY_BYTES_MAX`] bytes.
    pub body: Vec<u8>,
    /// When it changed.
    pub changed_at: Timestamp,
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: String,
    /// 1 when it was first written, one more with every write.
    pub revision: u64,
    /// The agency it belongs to.
    pub agency: Option<String>,
    /// What it hangs on.
    pub parent: Option<String>,
    /// JSON text.
    pub body: Vec<u8>,
    /// When it changed.
    pub changed_at: Timestamp,
    /// The leaves that were committed with this revision, where there were any.
    pub ledger: Option<LedgerSpan>,
}

/// Leaves that one change added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerSpan {
    /// Index of the first.
    pub first_index: u64,
    /// Leaves in the ledger after the last: the size that a receipt's proof is for.
    pub size: u64,
}

/// What a write expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No record of that kind and id.
    Absent,
    /// A record at this revision.
    Revision(u64),
    /// Whatever there is.
    Any,
}

/// One write of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Writes a record, new or over the one there.
    Put(Draft, Expect),
    /// Deletes a record; whether it may be absent is for the expectation to say. Written again, it begins at revision 1.
    Delete(Kind, String, Expect),
}

/// A leaf to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLeaf {
    /// The leaf's exact bytes, at most [`LEAF_BYTES_MAX`].
    pub bytes: Vec<u8>,
    /// Opens the commitment in the leaf; may be purged.
    pub salt: Vec<u8>,
    /// What the commitment is to, at most [`BODY_BYTES_MAX`] bytes; may be purged.
    pub payload: Vec<u8>,
}

/// What is committed together: all of it, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Applied in order; a later one sees what an earlier one wrote. At most [`WRITES_MAX`].
    pub writes: Vec<Write>,
    /// Added to the ledger in order. At most [`LEAVES_MAX`].
    pub leaves: Vec<NewLeaf>,
    /// Leaves whose salt and payload go, so that nobody can open their commitment again. At most [`LEAVES_MAX`]; one
    /// that is not there is ignored.
    pub purges: Vec<u64>,
}

/// Where a change went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Index of its first leaf; the size where it had none.
    pub first_index: u64,
    /// Leaves in the ledger after it.
    pub size: u64,
    /// The root at that size.
    pub root: Hash,
}

/// A size of the ledger and its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Leaves.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

/// A leaf as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLeaf {
    /// Its index.
    pub index: u64,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
    /// `None` once purged.
    pub salt: Option<Vec<u8>>,
    /// `None` once purged.
    pub payload: Option<Vec<u8>>,
}

/// Which records of a kind are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those of this agency.
    pub agency: Option<String>,
    /// Those that hang on this.
    pub parent: Option<String>,
}

/// Why the state did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The caller's: a record is not as it was expected. Nothing of the change was done; read it again.
    #[error("{kind} {id} is not as expected: it was changed in between")]
    Conflict {
        /// What it is.
        kind: Kind,
        /// Which.
        id: String,
    },
    /// The caller's: part of the change is over a limit. Nothing of it was done.
    #[error("{what}: {found} is over the limit of {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large.
        found: usize,
        /// Its limit.
        max: usize,
    },
    /// The caller's: a record without an id.
    #[error("a record needs an id")]
    EmptyId,
    /// Ours: the disk is full. Nothing of the change was done; it can be tried again when there is room.
    #[error("the disk under the state is full")]
    Full,
    /// Ours: the storage failed. Nothing of the change was done.
    #[error("the state's storage failed: {0}")]
    Storage(String),
    /// Ours: the storage failed in a way that leaves open whether a change is durable. No change is taken until the
    /// state is opened again and says what it holds.
    #[error("the state's storage failed while it was made durable; open it again")]
    Poisoned,
    /// Ours: the state was closed.
    #[error("the state is closed")]
    Closed,
    /// Ours: what is stored cannot be: a row is missing or malformed.
    #[error("the state is damaged: {0}")]
    Damaged(String),
    /// The operator's: a newer program wrote this state.
    #[error("the state was written by a newer program (schema {found}); this one will not touch it")]
    NewerSchema {
        /// The schema found.
        found: i64,
    },
    /// The operator's: the SQLite library is too old to be trusted with write-ahead logs.
    #[error("SQLite {found} is too old: at least {least} is needed")]
    OldSqlite {
        /// The version found.
        found: String,
        /// The least version.
        least: &'static str,
    },
}

/// The state. Reads see only what is durable.
#[async_trait]
pub trait State: Send + Sync + 'static {
    /// One record.
    ///
    /// # Errors
    /// The storage's.
    async fn get(&self, kind: Kind, id: &str) -> Result<Option<Record>, StateError>;

    /// Records of a kind in the order of their ids, those after `after` (exclusive), at most `limit` and [`LIST_MAX`].
    /// Fewer than that means that there are no more.
    ///
    /// # Errors
    /// The storage's.
    async fn list(
        &self,
        kind: Kind,
        filter: Filter,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Record>, StateError>;

    /// Makes a change durable, all of it or nothing. Dropping the future does not undo a change that is on its way.
    ///
    /// # Errors
    /// [`StateError::Conflict`] and [`StateError::TooLarge`] are the caller's; after any other but
    /// [`StateError::Poisoned`] nothing of the change is there.
    async fn commit(&self, change: Change) -> Result<Committed, StateError>;

    /// The ledger's size and root now.
    ///
    /// # Errors
    /// The storage's.
    async fn head(&self) -> Result<Head, StateError>;

    /// The root that was committed for exactly `size` leaves; `None` where no commit ended there. Size 0 always has one.
    ///
    /// # Errors
    /// The storage's.
    async fn root_at(&self, size: u64) -> Result<Option<Hash>, StateError>;

    /// Committed sizes and roots in order, those with a size above `after`, at most `limit` and [`LIST_MAX`].
    ///
    /// # Errors
    /// The storage's.
    async fn heads(&self, after: u64, limit: u32) -> Result<Vec<Head>, StateError>;

    /// One leaf.
    ///
    /// # Errors
    /// The storage's.
    async fn leaf(&self, index: u64) -> Result<Option<StoredLeaf>, StateError>;

    /// Leaves in order from index `from`, at most `limit` and [`LIST_MAX`].
    ///
    /// # Errors
    /// The storage's.
    async fn leaves(&self, from: u64, limit: u32) -> Result<Vec<StoredLeaf>, StateError>;

    /// The stored hashes of complete subtrees, in the order asked for.
    ///
    /// # Errors
    /// [`StateError::Damaged`] where one is not there, and the storage's.
    async fn hashes(&self, nodes: &[Node]) -> Result<Vec<Hash>, StateError>;
}

impl Change {
    /// A change of one record and nothing else.
    pub fn put(draft: Draft, expect: Expect) -> Self {
        Self { writes: vec![Write::Put(draft, expect)], ..Self::default() }
    }

    /// Refuses what is over a limit, before it is queued.
    pub(crate) fn check(&self) -> Result<(), StateError> {
        let limit = |what, found, max| {
            if found > max { Err(StateError::TooLarge { what, found, max }) } else { Ok(()) }
        };
        limit("writes in a change", self.writes.len(), WRITES_MAX)?;
        limit("leaves in a change", self.leaves.len(), LEAVES_MAX)?;
        limit("purges in a change", self.purges.len(), LEAVES_MAX)?;
        for write in &self.writes {
            let (Write::Put(Draft { id, .. }, _) | Write::Delete(_, id, _)) = write;
            if id.is_empty() {
                return Err(StateError::EmptyId);
            }
            match write {
                Write::Delete(_, id, _) => limit("a record's id", id.len(), ID_BYTES_MAX)?,
                Write::Put(draft, _) => {
                    limit("a record's id", draft.id.len(), ID_BYTES_MAX)?;
                    limit("a record's agency", draft.agency.as_ref().map_or(0, String::len), ID_BYTES_MAX)?;
                    limit("a record's parent", draft.parent.as_ref().map_or(0, String::len), ID_BYTES_MAX)?;
                    limit("a record's body", draft.body.len(), BODY_BYTES_MAX)?;
                }
            }
        }
        for leaf in &self.leaves {
            limit("a leaf", leaf.bytes.len(), LEAF_BYTES_MAX)?;
            limit("a leaf's salt", leaf.salt.len(), SALT_BYTES_MAX)?;
            limit("a leaf's payload", leaf.payload.len(), BODY_BYTES_MAX)?;
        }
        Ok(())
    }
}

impl Record {
    /// The record that `draft` becomes over one at revision `over`.
    pub(crate) fn written(draft: Draft, over: Option<u64>, ledger: Option<LedgerSpan>) -> Self {
        let Draft { kind, id, agency, parent, body, changed_at } = draft;
        Self { kind, id, revision: over.unwrap_or(0) + 1, agency, parent, body, changed_at, ledger }
    }

    /// A draft with the same content, to change and write back under `Expect::Revision(self.revision)`.
    pub fn to_draft(&self) -> Draft {
        Draft {
            kind: self.kind,
            id: self.id.clone(),
            agency: self.agency.clone(),
            parent: self.parent.clone(),
            body: self.body.clone(),
            changed_at: self.changed_at,
        }
    }
}
