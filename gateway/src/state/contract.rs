//! What every backend of the state must do, as one suite to run on each.
//!
//! It reports instead of panicking, so that it can be shown to catch a backend that is wrong.

use super::{
    BODY_BYTES_MAX, Change, Committed, Draft, Expect, Filter, Kind, LEAVES_MAX, LEDGER_ALGORITHM, LIST_MAX, LedgerSpan,
    NewLeaf, State, StateError, Write,
};
use async_trait::async_trait;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::merkle::{Frontier, Plan, empty_root, leaf_hash, verify_consistency, verify_inclusion};
use std::sync::Arc;

/// Makes the states that the suite runs on.
#[async_trait]
pub trait Backend: Sync {
    /// What is tested.
    type State: State;
    /// A new, empty state.
    async fn open(&self) -> Arc<Self::State>;
    /// Ends `state` and opens the same storage again.
    async fn reopen(&self, state: Arc<Self::State>) -> Arc<Self::State>;
}

/// What did not hold, and where.
pub type Failure = String;

/// Runs every case, each on a new state.
///
/// # Errors
/// The first thing that does not hold.
pub async fn run<B: Backend>(backend: &B) -> Result<(), Failure> {
    named("empty", empty(backend.open().await.as_ref()).await)?;
    named("writes", writes(backend.open().await.as_ref()).await)?;
    named("expectations", expectations(backend.open().await.as_ref()).await)?;
    named("paging", paging(backend.open().await.as_ref()).await)?;
    named("atomicity", atomicity(backend.open().await.as_ref()).await)?;
    named("limits", limits(backend.open().await.as_ref()).await)?;
    named("ledger", ledger(backend.open().await.as_ref()).await)?;
    named("purge", purge(backend.open().await.as_ref()).await)?;
    named("concurrency", concurrency(backend.open().await).await)?;
    named("durability", durability(backend).await)
}

/// A change that puts the setting `id` and adds one leaf, for tests.
pub fn change(id: &str, expect: Expect) -> Change {
    let leaf = NewLeaf { bytes: format!("leaf of {id}").into_bytes(), salt: vec![7; 32], payload: b"payload".to_vec() };
    Change { leaves: vec![leaf], ..Change::put(draft(id), expect) }
}

fn draft(id: &str) -> Draft {
    let body = format!("{{\"id\":\"{id}\"}}").into_bytes();
    Draft { kind: Kind::Setting, id: id.into(), agency: None, parent: None, body, changed_at: Timestamp(1) }
}

fn named(name: &str, result: Result<(), Failure>) -> Result<(), Failure> {
    result.map_err(|failure| format!("{name}: {failure}"))
}

fn holds(condition: bool, what: &str) -> Result<(), Failure> {
    if condition { Ok(()) } else { Err(what.to_owned()) }
}

fn ok<T>(result: Result<T, StateError>) -> Result<T, Failure> {
    result.map_err(|e| e.to_string())
}

fn conflicts(result: Result<Committed, StateError>, id: &str) -> Result<(), Failure> {
    let expected = Err(StateError::Conflict { kind: Kind::Setting, id: id.into() });
    if result == expected { Ok(()) } else { Err(format!("a conflict over {id} was due, found {result:?}")) }
}

async fn empty(state: &impl State) -> Result<(), Failure> {
    let head = ok(state.head().await)?;
    holds(head.size == 0 && head.root == empty_root(LEDGER_ALGORITHM), "the empty ledger has the empty root")?;
    holds(ok(state.root_at(0).await)? == Some(head.root), "size 0 has a root")?;
    holds(ok(state.root_at(1).await)?.is_none(), "size 1 has no root yet")?;
    holds(ok(state.heads(0, 10).await)?.is_empty(), "no head")?;
    holds(ok(state.leaf(0).await)?.is_none(), "no leaf")?;
    holds(ok(state.leaves(0, 10).await)?.is_empty(), "no leaves")?;
    for kind in Kind::ALL {
        holds(ok(state.get(kind, "x").await)?.is_none(), "no record")?;
        holds(ok(state.list(kind, Filter::default(), None, 10).await)?.is_empty(), "no records")?;
    }
    let nothing = ok(state.commit(Change::default()).await)?;
    holds(nothing == Committed { first_index: 0, size: 0, root: head.root }, "a change of nothing changes nothing")
}

async fn writes(state: &impl State) -> Result<(), Failure> {
    let first = Draft {
        agency: Some("91440300MA5DA1234X".into()),
        parent: Some("上级".into()),
        changed_at: Timestamp(-5),
        ..draft("名字/with 'quotes\"")
    };
    ok(state.commit(Change::put(first.clone(), Expect::Absent)).await)?;
    let stored = ok(state.get(Kind::Setting, &first.id).await)?.ok_or("it was written")?;
    holds(stored.to_draft() == first, "it reads back as written")?;
    holds(stored.revision == 1 && stored.ledger.is_none(), "first revision, no leaves")?;
    holds(ok(state.get(Kind::Entry, &first.id).await)?.is_none(), "another kind has its own ids")?;

    let second = Draft { agency: None, body: b"{}".to_vec(), changed_at: Timestamp(9), ..first.clone() };
    let with_leaf =
        Change { leaves: change("x", Expect::Any).leaves, ..Change::put(second.clone(), Expect::Revision(1)) };
    ok(state.commit(with_leaf).await)?;
    let stored = ok(state.get(Kind::Setting, &first.id).await)?.ok_or("it is still there")?;
    holds(stored.to_draft() == second, "all of it is replaced")?;
    holds(stored.revision == 2, "one revision more")?;
    holds(stored.ledger == Some(LedgerSpan { first_index: 0, size: 1 }), "it says where its leaf is")?;

    let delete = Write::Delete(Kind::Setting, first.id.clone(), Expect::Revision(2));
    ok(state.commit(Change { writes: vec![delete], ..Change::default() }).await)?;
    holds(ok(state.get(Kind::Setting, &first.id).await)?.is_none(), "it is gone")
}

async fn expectations(state: &impl State) -> Result<(), Failure> {
    conflicts(state.commit(change("a", Expect::Revision(1))).await, "a")?;
    ok(state.commit(change("a", Expect::Any)).await)?;
    conflicts(state.commit(change("a", Expect::Absent)).await, "a")?;
    conflicts(state.commit(change("a", Expect::Revision(2))).await, "a")?;
    conflicts(state.commit(change("a", Expect::Revision(u64::MAX))).await, "a")?;
    ok(state.commit(change("a", Expect::Any)).await)?;
    let revision = ok(state.get(Kind::Setting, "a").await)?.map(|r| r.revision);
    holds(revision == Some(2), "any write makes one revision more")?;
    let delete = |id: &str, expect| {
        let writes = vec![Write::Delete(Kind::Setting, id.into(), expect)];
        state.commit(Change { writes, ..Change::default() })
    };
    conflicts(delete("a", Expect::Revision(1)).await, "a")?;
    conflicts(delete("a", Expect::Absent).await, "a")?;
    conflicts(delete("b", Expect::Revision(1)).await, "b")?;
    ok(delete("b", Expect::Any).await)?;
    ok(delete("b", Expect::Absent).await)?;
    ok(delete("a", Expect::Any).await)?;
    ok(state.commit(change("a", Expect::Absent)).await)?;
    holds(ok(state.head().await)?.size == 3, "conflicts leave no leaf")
}

async fn paging(state: &impl State) -> Result<(), Failure> {
    let ids: Vec<String> = (0..2500).map(|i| format!("{i:05}")).collect();
    let mut shuffled: Vec<&String> = ids.iter().collect();
    shuffled.sort_by_key(|id| leaf_hash(LEDGER_ALGORITHM, id.as_bytes()));
    let put = |id: &&String| {
        let odd = id.ends_with(['1', '3', '5', '7', '9']);
        let agency = Some(if odd { "odd" } else { "even" }.to_owned());
        let parent = id.ends_with("00").then(|| "hundred".to_owned());
        Write::Put(Draft { agency, parent, ..draft(id) }, Expect::Absent)
    };
    ok(state.commit(Change { writes: shuffled.iter().map(put).collect(), ..Change::default() }).await)?;
    ok(state.commit(Change::put(Draft { kind: Kind::Stop, ..draft("00000") }, Expect::Absent)).await)?;
    for limit in [1000, u32::MAX] {
        let mut found = Vec::new();
        loop {
            let after = found.last().cloned();
            let page = ok(state.list(Kind::Setting, Filter::default(), after.as_deref(), limit).await)?;
            let full = page.len() == LIST_MAX as usize;
            found.extend(page.into_iter().map(|r| r.id));
            if !full {
                break;
            }
        }
        holds(found == ids, "pages hold every record once, in order, and of one kind")?;
    }
    holds(ok(state.list(Kind::Setting, Filter::default(), None, 0).await)?.is_empty(), "none asked, none given")?;
    for (agency, parent, after, expected) in [
        (Some("odd"), None, Some("00004"), vec!["00005", "00007", "00009"]),
        (None, Some("hundred"), Some("00300"), vec!["00400", "00500", "00600"]),
        (Some("even"), Some("hundred"), None, vec!["00000", "00100", "00200"]),
        (Some("odd"), Some("hundred"), None, vec![]),
    ] {
        let filter = Filter { agency: agency.map(Into::into), parent: parent.map(Into::into) };
        let page = ok(state.list(Kind::Setting, filter.clone(), after, 3).await)?;
        let found: Vec<_> = page.iter().map(|r| r.id.as_str()).collect();
        holds(found == expected, &format!("{filter:?} after {after:?} finds {found:?}"))?;
    }
    Ok(())
}

async fn atomicity(state: &impl State) -> Result<(), Failure> {
    ok(state.commit(change("there", Expect::Absent)).await)?;
    let before = ok(state.head().await)?;
    let mut half = change("new", Expect::Absent);
    half.writes.push(Write::Delete(Kind::Setting, "there".into(), Expect::Any));
    half.writes.push(Write::Put(draft("missing"), Expect::Revision(4)));
    half.purges.push(0);
    conflicts(state.commit(half).await, "missing")?;
    holds(ok(state.get(Kind::Setting, "new").await)?.is_none(), "no earlier write is left")?;
    holds(ok(state.get(Kind::Setting, "there").await)?.is_some(), "no earlier delete is left")?;
    holds(ok(state.head().await)? == before, "no leaf is left")?;
    holds(ok(state.leaf(0).await)?.is_some_and(|l| l.salt.is_some()), "no purge is left")?;

    let twice = [Expect::Absent, Expect::Revision(1), Expect::Any].map(|expect| Write::Put(draft("twice"), expect));
    ok(state.commit(Change { writes: twice.to_vec(), ..Change::default() }).await)?;
    let revision = ok(state.get(Kind::Setting, "twice").await)?.map(|r| r.revision);
    holds(revision == Some(3), "a later write of a change sees an earlier one")
}

async fn limits(state: &impl State) -> Result<(), Failure> {
    let too_large = |result: Result<Committed, StateError>| {
        holds(matches!(result, Err(StateError::TooLarge { .. })), &format!("too large was due, found {result:?}"))
    };
    let body = vec![b' '; BODY_BYTES_MAX];
    ok(state.commit(Change::put(Draft { body: body.clone(), ..draft("a") }, Expect::Absent)).await)?;
    let body = [body, vec![b' ']].concat();
    too_large(state.commit(Change::put(Draft { body, ..draft("b") }, Expect::Absent)).await)?;
    too_large(state.commit(change(&"x".repeat(300), Expect::Absent)).await)?;
    let leaf = NewLeaf { bytes: b"l".to_vec(), salt: vec![], payload: vec![] };
    let leaves = |n| Change { leaves: vec![leaf.clone(); n], ..Change::default() };
    too_large(state.commit(leaves(LEAVES_MAX + 1)).await)?;
    ok(state.commit(leaves(LEAVES_MAX)).await)?;
    let empty = state.commit(change("", Expect::Absent)).await;
    holds(empty == Err(StateError::EmptyId), "an empty id is refused")
}

async fn ledger(state: &impl State) -> Result<(), Failure> {
    let mut frontier = Frontier::new(LEDGER_ALGORITHM);
    let mut heads = Vec::new();
    for round in 0..20u64 {
        let leaves: Vec<_> = (0..round % 4)
            .map(|i| NewLeaf { bytes: format!("{round}.{i}").into_bytes(), salt: vec![1], payload: vec![] })
            .collect();
        let first_index = frontier.size();
        leaves.iter().for_each(|l| drop(frontier.append(leaf_hash(LEDGER_ALGORITHM, &l.bytes))));
        let committed = ok(state.commit(Change { leaves: leaves.clone(), ..Change::default() }).await)?;
        let expected = Committed { first_index, size: frontier.size(), root: frontier.root() };
        holds(committed == expected, &format!("round {round}: {committed:?}"))?;
        let stored = ok(state.leaves(first_index, 10).await)?;
        holds(stored.iter().map(|l| &l.bytes).eq(leaves.iter().map(|l| &l.bytes)), "leaves read back in order")?;
        if !leaves.is_empty() {
            heads.push(ok(state.head().await)?);
            holds(ok(state.root_at(committed.size).await)? == Some(committed.root), "its root is kept")?;
        }
    }
    holds(ok(state.heads(0, 1000).await)? == heads, "every committed size keeps its root")?;
    holds(ok(state.heads(heads[2].size, 2).await)? == heads[3..5], "heads are paged")?;
    holds(ok(state.root_at(2).await)?.is_none(), "no commit ended at 2")?;
    let Some(last) = heads.last() else { return Err("no head".into()) };
    for index in 0..last.size {
        let leaf = ok(state.leaf(index).await)?.ok_or("every index has its leaf")?;
        holds(leaf.index == index, "a leaf knows its index")?;
        let proof = prove(state, Plan::inclusion(index, last.size)).await?;
        let hash = leaf_hash(LEDGER_ALGORITHM, &leaf.bytes);
        let checked = verify_inclusion(LEDGER_ALGORITHM, &hash, index, last.size, &proof, &last.root);
        checked.map_err(|e| format!("leaf {index}: {e}"))?;
    }
    for old in &heads {
        let proof = prove(state, Plan::consistency(old.size, last.size)).await?;
        verify_consistency(LEDGER_ALGORITHM, old.size, last.size, &old.root, &last.root, &proof)
            .map_err(|e| format!("from {}: {e}", old.size))?;
    }
    let missing = state.hashes(&Frontier::nodes(last.size + 1)).await;
    holds(matches!(missing, Err(StateError::Damaged(_))), "a hash that is not there is an error")
}

async fn prove(state: &impl State, plan: Option<Plan>) -> Result<Vec<[u8; 32]>, Failure> {
    let plan = plan.ok_or("there is such a proof")?;
    let hashes = ok(state.hashes(&plan.nodes()).await)?;
    plan.combine(LEDGER_ALGORITHM, &hashes).ok_or_else(|| "as many hashes as asked for".into())
}

async fn purge(state: &impl State) -> Result<(), Failure> {
    ok(state.commit(change("a", Expect::Absent)).await)?;
    ok(state.commit(change("b", Expect::Absent)).await)?;
    let before = ok(state.head().await)?;
    ok(state.commit(Change { purges: vec![0, 99], ..Change::default() }).await)?;
    let (purged, other) = (ok(state.leaf(0).await)?, ok(state.leaf(1).await)?);
    holds(purged.is_some_and(|l| l.salt.is_none() && l.payload.is_none() && !l.bytes.is_empty()), "purged")?;
    holds(other.is_some_and(|l| l.salt.is_some() && l.payload.as_deref() == Some(b"payload")), "only that one")?;
    holds(ok(state.head().await)? == before, "the tree does not change")
}

async fn concurrency<S: State>(state: Arc<S>) -> Result<(), Failure> {
    let commits = (0..200u32).map(|i| {
        let state = state.clone();
        // Every fourth fights over one record.
        let id = if i % 4 == 0 { "same".to_owned() } else { format!("{i:03}") };
        tokio::spawn(async move { state.commit(change(&id, Expect::Absent)).await })
    });
    let (mut won, mut lost) = (Vec::new(), 0);
    for commit in commits.collect::<Vec<_>>() {
        match commit.await.map_err(|e| e.to_string())? {
            Ok(committed) => won.push(committed),
            Err(StateError::Conflict { .. }) => lost += 1,
            Err(other) => return Err(other.to_string()),
        }
    }
    won.sort_by_key(|c| c.first_index);
    holds(lost == 49 && won.len() == 151, &format!("one of fifty wins; {lost} lost"))?;
    for (i, committed) in (0u64..).zip(&won) {
        holds(committed.first_index == i && committed.size == i + 1, "indexes are dense and distinct")?;
        holds(ok(state.root_at(i + 1).await)? == Some(committed.root), "each was told its own root")?;
    }
    let listed = ok(state.list(Kind::Setting, Filter::default(), None, 1000).await)?;
    holds(listed.len() == won.len(), "each is there")?;
    for record in listed {
        let span = record.ledger.ok_or("each has its leaf")?;
        let leaf = ok(state.leaf(span.first_index).await)?.ok_or("the leaf is there")?;
        holds(leaf.bytes == format!("leaf of {}", record.id).into_bytes(), "and the leaf is its own")?;
    }
    Ok(())
}

async fn durability<B: Backend>(backend: &B) -> Result<(), Failure> {
    let mut state = backend.open().await;
    for round in 0..5u64 {
        ok(state.commit(change("counter", Expect::Any)).await)?;
        ok(state.commit(change(&format!("round {round}"), Expect::Absent)).await)?;
        let (before, leaves) = (ok(state.head().await)?, ok(state.leaves(0, 1000).await)?);
        let record = ok(state.get(Kind::Setting, "counter").await)?;
        state = backend.reopen(state).await;
        holds(ok(state.head().await)? == before && before.size == 2 * (round + 1), "the head is as it was")?;
        holds(ok(state.leaves(0, 1000).await)? == leaves, "the leaves are as they were")?;
        let again = ok(state.get(Kind::Setting, "counter").await)?;
        holds(again == record && again.is_some_and(|r| r.revision == round + 1), "the record is as it was")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    //! The suite catches backends that are wrong.

    use super::super::{Head, MemoryState, Record, StoredLeaf};
    use super::*;
    use lingqu_protocol::merkle::{Hash, Node};

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Bug {
        None,
        IgnoresExpectations,
        DropsALeaf,
        ForgetsTheFilter,
        RepeatsTheLastOfAPage,
        KeepsPurged,
        ForgetsHeads,
        SwapsHashes,
    }

    struct Buggy(Arc<MemoryState>, Bug);

    #[async_trait]
    impl State for Buggy {
        async fn get(&self, kind: Kind, id: &str) -> Result<Option<Record>, StateError> {
            self.0.get(kind, id).await
        }
        async fn list(
            &self,
            kind: Kind,
            filter: Filter,
            after: Option<&str>,
            limit: u32,
        ) -> Result<Vec<Record>, StateError> {
            let filter = if self.1 == Bug::ForgetsTheFilter { Filter::default() } else { filter };
            let repeated = match after {
                Some(id) if self.1 == Bug::RepeatsTheLastOfAPage && limit > 0 => self.0.get(kind, id).await?,
                _ => None,
            };
            let mut page = self.0.list(kind, filter, after, limit).await?;
            page.splice(0..0, repeated);
            Ok(page)
        }
        async fn commit(&self, mut change: Change) -> Result<Committed, StateError> {
            match self.1 {
                Bug::IgnoresExpectations => {
                    for write in &mut change.writes {
                        let (Write::Put(_, expect) | Write::Delete(_, _, expect)) = write;
                        *expect = Expect::Any;
                    }
                }
                Bug::DropsALeaf if change.leaves.len() == 3 => drop(change.leaves.pop()),
                Bug::KeepsPurged => change.purges.clear(),
                _ => {}
            }
            self.0.commit(change).await
        }
        async fn head(&self) -> Result<Head, StateError> {
            self.0.head().await
        }
        async fn root_at(&self, size: u64) -> Result<Option<Hash>, StateError> {
            if self.1 == Bug::ForgetsHeads { Ok(None) } else { self.0.root_at(size).await }
        }
        async fn heads(&self, after: u64, limit: u32) -> Result<Vec<Head>, StateError> {
            self.0.heads(after, limit).await
        }
        async fn leaf(&self, index: u64) -> Result<Option<StoredLeaf>, StateError> {
            self.0.leaf(index).await
        }
        async fn leaves(&self, from: u64, limit: u32) -> Result<Vec<StoredLeaf>, StateError> {
            self.0.leaves(from, limit).await
        }
        async fn hashes(&self, nodes: &[Node]) -> Result<Vec<Hash>, StateError> {
            let mut hashes = self.0.hashes(nodes).await?;
            if self.1 == Bug::SwapsHashes {
                hashes.reverse();
            }
            Ok(hashes)
        }
    }

    #[async_trait]
    impl Backend for Bug {
        type State = Buggy;
        async fn open(&self) -> Arc<Buggy> {
            Arc::new(Buggy(MemoryState::new(), *self))
        }
        async fn reopen(&self, state: Arc<Buggy>) -> Arc<Buggy> {
            Arc::new(Buggy(state.0.crash(), *self))
        }
    }

    /// Opens another, empty storage instead of the same.
    struct Forgetful;

    #[async_trait]
    impl Backend for Forgetful {
        type State = MemoryState;
        async fn open(&self) -> Arc<MemoryState> {
            MemoryState::new()
        }
        async fn reopen(&self, _: Arc<MemoryState>) -> Arc<MemoryState> {
            MemoryState::new()
        }
    }

    #[tokio::test]
    async fn planted_bugs_are_caught() {
        assert_eq!(run(&Bug::None).await, Ok(()));
        for (bug, case) in [
            (Bug::IgnoresExpectations, "expectations: "),
            (Bug::DropsALeaf, "ledger: "),
            (Bug::ForgetsTheFilter, "paging: "),
            (Bug::RepeatsTheLastOfAPage, "paging: "),
            (Bug::KeepsPurged, "purge: "),
            (Bug::ForgetsHeads, "empty: "),
            (Bug::SwapsHashes, "ledger: "),
        ] {
            let found = run(&bug).await.err().unwrap_or_default();
            assert!(found.starts_with(case), "{bug:?}: {found:?}");
        }
        assert!(run(&Forgetful).await.is_err_and(|found| found.starts_with("durability: ")));
    }
}
