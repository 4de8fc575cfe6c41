//! A state in memory whose crashes and failures are the caller's to choose, for simulations.
//!
//! What is durable here is what [`State::commit`] applied; a commit that is held back when the crash comes is lost, as the
//! one before its fsync is on a real disk.

use super::{
    Change, Committed, Expect, Filter, Head, Kind, LEDGER_ALGORITHM, LIST_MAX, LedgerSpan, Record, State, StateError,
    StoredLeaf, Write,
};
use async_trait::async_trait;
use lingqu_protocol::merkle::{Frontier, Hash, Node, empty_root, leaf_hash};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// How the next commit fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFault {
    /// The disk is full: nothing is written and the next commit may go well.
    Full,
    /// The storage fails: nothing is written and the next commit may go well.
    Refused,
    /// The sync fails and the change is lost. No commit is taken until the next [`MemoryState::crash`].
    SyncLost,
    /// The sync is said to fail, and yet the change is there after the next [`MemoryState::crash`].
    SyncKept,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Held,
    Dead,
}

/// What survives a crash.
#[derive(Clone)]
struct Durable {
    records: BTreeMap<(Kind, String), Record>,
    leaves: Vec<StoredLeaf>,
    nodes: HashMap<Node, Hash>,
    heads: BTreeMap<u64, Hash>,
    frontier: Frontier,
}

struct Inner {
    /// What readers see.
    visible: Durable,
    /// What a crash leaves, where that is more than what readers see.
    kept: Option<Durable>,
    faults: VecDeque<CommitFault>,
    poisoned: bool,
}

/// A [`State`] in memory.
pub struct MemoryState {
    inner: Mutex<Inner>,
    phase: watch::Sender<Phase>,
}

impl Default for MemoryState {
    fn default() -> Self {
        Self::starting_from(Durable {
            records: BTreeMap::new(),
            leaves: Vec::new(),
            nodes: HashMap::new(),
            heads: BTreeMap::new(),
            frontier: Frontier::new(LEDGER_ALGORITHM),
        })
    }
}

impl MemoryState {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Makes the next commit that no earlier call is waiting for fail.
    pub fn fail_next_commit(&self, fault: CommitFault) {
        self.lock().faults.push_back(fault);
    }

    /// Holds commits back from now on: they wait, and a crash loses them.
    pub fn hold_commits(&self) {
        self.phase.send_if_modified(|phase| std::mem::replace(phase, Phase::Held) == Phase::Running);
    }

    /// Lets commits through again.
    pub fn release_commits(&self) {
        self.phase.send_if_modified(|phase| {
            let held = *phase == Phase::Held;
            if held {
                *phase = Phase::Running;
            }
            held
        });
    }

    /// Ends this state at once, answers what waits on it with [`StateError::Closed`], and opens what survived.
    pub fn crash(&self) -> Arc<Self> {
        self.phase.send_replace(Phase::Dead);
        let inner = self.lock();
        Arc::new(Self::starting_from(inner.kept.as_ref().unwrap_or(&inner.visible).clone()))
    }

    fn starting_from(durable: Durable) -> Self {
        Self {
            inner: Mutex::new(Inner { visible: durable, kept: None, faults: VecDeque::new(), poisoned: false }),
            phase: watch::Sender::new(Phase::Running),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that holds the lock can panic between two of its writes.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, read: impl FnOnce(&Durable) -> T) -> Result<T, StateError> {
        if *self.phase.borrow() == Phase::Dead {
            return Err(StateError::Closed);
        }
        Ok(read(&self.lock().visible))
    }
}

impl Inner {
    fn commit(&mut self, change: Change) -> Result<Committed, StateError> {
        if self.poisoned {
            return Err(StateError::Poisoned);
        }
        self.visible.check(&change.writes)?;
        match self.faults.pop_front() {
            None => Ok(self.visible.apply(change)),
            Some(CommitFault::Full) => Err(StateError::Full),
            Some(CommitFault::Refused) => Err(StateError::Storage("injected".into())),
            Some(CommitFault::SyncLost) => {
                self.poisoned = true;
                Err(StateError::Poisoned)
            }
            Some(CommitFault::SyncKept) => {
                let mut kept = self.visible.clone();
                kept.apply(change);
                self.poisoned = true;
                self.kept = Some(kept);
                Err(StateError::Poisoned)
            }
        }
    }
}

impl Durable {
    /// Whether every write finds what it expects, those before it being done.
    fn check(&self, writes: &[Write]) -> Result<(), StateError> {
        let mut ahead: BTreeMap<(Kind, &str), Option<u64>> = BTreeMap::new();
        for write in writes {
            let (kind, id, expect, put) = match write {
                Write::Put(draft, expect) => (draft.kind, draft.id.as_str(), *expect, true),
                Write::Delete(kind, id, expect) => (*kind, id.as_str(), *expect, false),
            };
            let stored = || self.records.get(&(kind, id.to_owned())).map(|r| r.revision);
            let found = ahead.get(&(kind, id)).copied().unwrap_or_else(stored);
            if !holds(expect, found) {
                return Err(StateError::Conflict { kind, id: id.to_owned() });
            }
            ahead.insert((kind, id), put.then(|| found.unwrap_or(0) + 1));
        }
        Ok(())
    }

    /// Does what was checked.
    fn apply(&mut self, change: Change) -> Committed {
        let first_index = self.frontier.size();
        let size = first_index + change.leaves.len() as u64;
        let span = (!change.leaves.is_empty()).then_some(LedgerSpan { first_index, size });
        for write in change.writes {
            match write {
                Write::Delete(kind, id, _) => drop(self.records.remove(&(kind, id))),
                Write::Put(draft, _) => {
                    let key = (draft.kind, draft.id.clone());
                    let over = self.records.get(&key).map(|r| r.revision);
                    self.records.insert(key, Record::written(draft, over, span));
                }
            }
        }
        for (index, leaf) in (first_index..).zip(change.leaves) {
            self.nodes.extend(self.frontier.append(leaf_hash(LEDGER_ALGORITHM, &leaf.bytes)));
            let (salt, payload) = (Some(leaf.salt), Some(leaf.payload));
            self.leaves.push(StoredLeaf { index, bytes: leaf.bytes, salt, payload });
        }
        for index in change.purges {
            if let Some(leaf) = usize::try_from(index).ok().and_then(|i| self.leaves.get_mut(i)) {
                (leaf.salt, leaf.payload) = (None, None);
            }
        }
        let root = self.frontier.root();
        if span.is_some() {
            self.heads.insert(size, root);
        }
        Committed { first_index, size, root }
    }
}

/// Whether a record at revision `found` is what was expected.
fn holds(expect: Expect, found: Option<u64>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => found.is_none(),
        Expect::Revision(revision) => found == Some(revision),
    }
}

#[async_trait]
impl State for MemoryState {
    async fn get(&self, kind: Kind, id: &str) -> Result<Option<Record>, StateError> {
        self.read(|d| d.records.get(&(kind, id.to_owned())).cloned())
    }

    async fn list(
        &self,
        kind: Kind,
        filter: Filter,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Record>, StateError> {
        let wanted = |r: &&Record| {
            filter.agency.as_ref().is_none_or(|a| r.agency.as_ref() == Some(a))
                && filter.parent.as_ref().is_none_or(|p| r.parent.as_ref() == Some(p))
        };
        let from = Bound::Excluded((kind, after.unwrap_or_default().to_owned()));
        let limit = limit.min(LIST_MAX) as usize;
        self.read(|d| {
            let later = d.records.range((from, Bound::Unbounded)).take_while(|((k, _), _)| *k == kind);
            later.map(|(_, r)| r).filter(wanted).take(limit).cloned().collect()
        })
    }

    async fn commit(&self, change: Change) -> Result<Committed, StateError> {
        change.check()?;
        let mut phase = self.phase.subscribe();
        let phase = phase.wait_for(|phase| *phase != Phase::Held).await.map_err(|_| StateError::Closed)?;
        // The phase stays borrowed, so that a crash comes before this commit or after it.
        if *phase == Phase::Dead {
            return Err(StateError::Closed);
        }
        self.lock().commit(change)
    }

    async fn head(&self) -> Result<Head, StateError> {
        self.read(|d| Head { size: d.frontier.size(), root: d.frontier.root() })
    }

    async fn root_at(&self, size: u64) -> Result<Option<Hash>, StateError> {
        if size == 0 {
            return Ok(Some(empty_root(LEDGER_ALGORITHM)));
        }
        self.read(|d| d.heads.get(&size).copied())
    }

    async fn heads(&self, after: u64, limit: u32) -> Result<Vec<Head>, StateError> {
        let later = (Bound::Excluded(after), Bound::Unbounded);
        let limit = limit.min(LIST_MAX) as usize;
        self.read(|d| d.heads.range(later).take(limit).map(|(&size, &root)| Head { size, root }).collect())
    }

    async fn leaf(&self, index: u64) -> Result<Option<StoredLeaf>, StateError> {
        self.read(|d| usize::try_from(index).ok().and_then(|i| d.leaves.get(i)).cloned())
    }

    async fn leaves(&self, from: u64, limit: u32) -> Result<Vec<StoredLeaf>, StateError> {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        self.read(|d| d.leaves.iter().skip(from).take(limit.min(LIST_MAX) as usize).cloned().collect())
    }

    async fn hashes(&self, nodes: &[Node]) -> Result<Vec<Hash>, StateError> {
        self.read(|d| {
            let hash =
                |n: &Node| d.nodes.get(n).copied().ok_or_else(|| StateError::Damaged(format!("{n:?} is missing")));
            nodes.iter().map(hash).collect()
        })?
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::contract::{self, Backend};
    use super::*;

    struct Memory;

    #[async_trait]
    impl Backend for Memory {
        type State = MemoryState;
        async fn open(&self) -> Arc<MemoryState> {
            MemoryState::new()
        }
        async fn reopen(&self, state: Arc<MemoryState>) -> Arc<MemoryState> {
            state.crash()
        }
    }

    #[tokio::test]
    async fn memory_keeps_the_contract() {
        assert_eq!(contract::run(&Memory).await, Ok(()));
    }

    #[tokio::test]
    async fn a_crash_loses_what_was_held_and_nothing_else() {
        let state = MemoryState::new();
        state.commit(contract::change("kept", Expect::Absent)).await.unwrap();
        state.hold_commits();
        let held = tokio::spawn({
            let state = state.clone();
            async move { state.commit(contract::change("held", Expect::Absent)).await }
        });
        tokio::task::yield_now().await;
        let after = state.crash();
        assert_eq!(held.await.unwrap(), Err(StateError::Closed));
        assert_eq!(state.head().await, Err(StateError::Closed));
        assert_eq!(after.head().await.unwrap().size, 1);
        assert!(after.get(Kind::Setting, "kept").await.unwrap().is_some());
        assert_eq!(after.get(Kind::Setting, "held").await, Ok(None));
    }

    #[tokio::test]
    async fn a_failed_sync_poisons_and_a_failed_write_does_not() {
        for (fault, poisons, survives) in [
            (CommitFault::Full, false, false),
            (CommitFault::Refused, false, false),
            (CommitFault::SyncLost, true, false),
            (CommitFault::SyncKept, true, true),
        ] {
            let state = MemoryState::new();
            state.fail_next_commit(fault);
            let failed = state.commit(contract::change("first", Expect::Absent)).await;
            assert_eq!(failed == Err(StateError::Poisoned), poisons, "{fault:?}");
            assert_eq!(state.head().await.unwrap().size, 0);
            let second = state.commit(contract::change("second", Expect::Absent)).await;
            assert_eq!(second.is_err(), poisons, "{fault:?}");
            let after = state.crash();
            assert_eq!(after.get(Kind::Setting, "first").await.unwrap().is_some(), survives, "{fault:?}");
            after.commit(contract::change("third", Expect::Absent)).await.unwrap();
        }
    }
}
