//! The walk over every leaf: does the ledger still say what was committed, and what others were shown?

use crate::state::{Head, LEDGER_ALGORITHM, LIST_MAX, State, StateError, StoredLeaf};
use lingqu_protocol::checkpoint::Checkpoint;
use lingqu_protocol::leaf::{Leaf, commitment};
use lingqu_protocol::merkle::{Frontier, Hash, Node, empty_root, leaf_hash};
use std::collections::{BTreeMap, VecDeque};

/// The first thing that is wrong with a ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The leaf is gone.
    #[error("leaf {index} is missing")]
    Missing {
        /// Which.
        index: u64,
    },
    /// The leaf is another than when its hash was stored: it was edited, or leaves were reordered.
    #[error("leaf {index} was changed")]
    Changed {
        /// Which.
        index: u64,
    },
    /// What the leaf commits to was changed.
    #[error("what leaf {index} commits to was changed")]
    PayloadChanged {
        /// Which.
        index: u64,
    },
    /// The leaf's bytes are no leaf.
    #[error("leaf {index} cannot be read: {why}")]
    Unreadable {
        /// Which.
        index: u64,
        /// Why.
        why: String,
    },
    /// A stored hash is missing or was changed, while the leaves under it were not.
    #[error("the stored hash of {node:?}, which leaf {index} completed, is wrong")]
    HashChanged {
        /// Which.
        node: Node,
        /// The last leaf under it.
        index: u64,
    },
    /// The leaves agree with their hashes and not with the root that was committed: both were edited.
    #[error("leaves {from} to {size} (exclusive) were changed together with their hashes")]
    OtherRoot {
        /// The first leaf that may be the changed one; those before it are good.
        from: u64,
        /// Leaves in the ledger that has another root.
        size: u64,
    },
    /// There are leaves after the last commit.
    #[error("leaf {index} was never committed")]
    NeverCommitted {
        /// The first of them.
        index: u64,
    },
    /// A checkpoint from outside is for more leaves than there are: the tail was cut off, or an older state restored.
    #[error("the ledger has {size} leaves, and a checkpoint shows that it had {outside}")]
    Shorter {
        /// Leaves.
        size: u64,
        /// Leaves that the checkpoint shows.
        outside: u64,
    },
    /// A checkpoint from outside has another root for its size: history was rewritten, or two were told.
    #[error("the first {size} leaves are not those that a checkpoint was signed for")]
    Forked {
        /// The checkpoint's size.
        size: u64,
    },
}

/// Why a ledger was not found good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Something is wrong with it.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It could not be read.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Walks the whole ledger, recomputing every hash, and compares it with the roots of its own commits and with `outside`:
/// checkpoints whose signature the caller has checked. Holds one page of leaves at a time. Returns the size and root that
/// were found good.
///
/// # Errors
/// The first fault, in the order of the leaves.
pub async fn verify(state: &dyn State, outside: &[Checkpoint]) -> Result<Head, VerifyError> {
    let head = state.head().await?;
    let mut shown: BTreeMap<u64, Vec<Hash>> = BTreeMap::new();
    for checkpoint in outside {
        shown.entry(checkpoint.size).or_default().push(checkpoint.root);
    }
    let mut walk =
        Walk { frontier: Frontier::new(LEDGER_ALGORITHM), heads: Heads::default(), shown, good_until: 0, state };
    walk.compare(0, empty_root(LEDGER_ALGORITHM))?;
    loop {
        // Leaves that are committed while this walks are not its business.
        let left = head.size - walk.frontier.size();
        let page = u32::try_from(left).unwrap_or(u32::MAX).min(LIST_MAX);
        if page == 0 {
            break;
        }
        let leaves = state.leaves(walk.frontier.size(), page).await?;
        walk.page(&leaves, page).await?;
    }
    walk.nothing_after(head.size).await?;
    // Whatever outside checkpoint was not met is for more leaves than there are.
    match walk.shown.keys().next() {
        Some(&outside) => Err(Fault::Shorter { size: head.size, outside }.into()),
        None => Ok(Head { size: head.size, root: walk.frontier.root() }),
    }
}

struct Walk<'a> {
    state: &'a dyn State,
    frontier: Frontier,
    heads: Heads,
    /// Roots from outside that were not met yet, by size.
    shown: BTreeMap<u64, Vec<Hash>>,
    /// Leaves that a committed root was found good over.
    good_until: u64,
}

impl Walk<'_> {
    async fn page(&mut self, leaves: &[StoredLeaf], expected: u32) -> Result<(), VerifyError> {
        let first = self.frontier.size();
        let in_place = (first..).zip(leaves).take_while(|(index, leaf)| leaf.index == *index).count();
        let (leaves, rest) = leaves.split_at(in_place);
        let mut made = Vec::with_capacity(leaves.len());
        let mut roots = Vec::with_capacity(leaves.len());
        for leaf in leaves {
            made.push(self.frontier.append(leaf_hash(LEDGER_ALGORITHM, &leaf.bytes)));
            roots.push(self.frontier.root());
        }
        let mut wrong = self.wrong_hash(&made).await?;
        for (leaf, root) in leaves.iter().zip(roots) {
            if let Some((_, fault)) = wrong.take_if(|(index, _)| *index == leaf.index) {
                return Err(fault.into());
            }
            self.leaf(leaf, root).await?;
        }
        let complete = rest.is_empty() && leaves.len() == expected as usize;
        if complete { Ok(()) } else { Err(Fault::Missing { index: self.frontier.size() }.into()) }
    }

    /// Checks a leaf whose hash is the stored one; `root` is over the leaves up to it.
    async fn leaf(&mut self, leaf: &StoredLeaf, root: Hash) -> Result<(), VerifyError> {
        let size = leaf.index + 1;
        check_content(leaf)?;
        if let Some(committed) = self.heads.root_at(self.state, size).await? {
            if committed != root {
                return Err(Fault::OtherRoot { from: self.good_until, size }.into());
            }
            self.good_until = size;
        }
        Ok(self.compare(size, root)?)
    }

    /// The first stored hash that is not the one that the leaves lead to, with the leaf that completed it.
    async fn wrong_hash(&self, made: &[Vec<(Node, Hash)>]) -> Result<Option<(u64, Fault)>, VerifyError> {
        let nodes: Vec<Node> = made.iter().flatten().map(|(node, _)| *node).collect();
        let stored = match self.state.hashes(&nodes).await {
            Ok(stored) => stored.into_iter().map(Some).collect(),
            // One of them is missing. Which one is found by asking for each.
            Err(StateError::Damaged(_)) => self.one_by_one(&nodes).await?,
            Err(error) => return Err(error.into()),
        };
        let mut stored: VecDeque<Option<Hash>> = stored.into();
        for completed in made {
            let index = completed.first().map_or(0, |(leaf, _)| leaf.index);
            for (node, hash) in completed {
                if stored.pop_front().flatten() != Some(*hash) {
                    let fault = match node.level {
                        0 => Fault::Changed { index },
                        _ => Fault::HashChanged { node: *node, index },
                    };
                    return Ok(Some((index, fault)));
                }
            }
        }
        Ok(None)
    }

    async fn one_by_one(&self, nodes: &[Node]) -> Result<Vec<Option<Hash>>, VerifyError> {
        let mut stored = Vec::with_capacity(nodes.len());
        for node in nodes {
            stored.push(match self.state.hashes(&[*node]).await {
                Ok(hashes) => hashes.first().copied(),
                Err(StateError::Damaged(_)) => None,
                Err(error) => return Err(error.into()),
            });
        }
        Ok(stored)
    }

    fn compare(&mut self, size: u64, root: Hash) -> Result<(), Fault> {
        match self.shown.remove(&size) {
            Some(shown) if shown.iter().any(|other| *other != root) => Err(Fault::Forked { size }),
            _ => Ok(()),
        }
    }

    /// Leaves that the last commit does not know of. One that is committed while this walks is known by now.
    async fn nothing_after(&self, size: u64) -> Result<(), VerifyError> {
        let later = self.state.leaves(size, 1).await?;
        match later.first() {
            Some(leaf) if self.state.head().await?.size == size => {
                Err(Fault::NeverCommitted { index: leaf.index }.into())
            }
            _ => Ok(()),
        }
    }
}

fn check_content(stored: &StoredLeaf) -> Result<(), Fault> {
    let index = stored.index;
    let leaf = Leaf::decode(&stored.bytes).map_err(|e| Fault::Unreadable { index, why: e.to_string() })?;
    match (&stored.salt, &stored.payload) {
        (None, None) => Ok(()),
        (Some(salt), Some(payload)) if commitment(salt, payload) == leaf.commitment => Ok(()),
        _ => Err(Fault::PayloadChanged { index }),
    }
}

/// The committed roots, a page at a time.
#[derive(Default)]
struct Heads {
    page: VecDeque<Head>,
    read_until: u64,
    ended: bool,
}

impl Heads {
    /// The root committed for `size`. Sizes must be asked for in order.
    async fn root_at(&mut self, state: &dyn State, size: u64) -> Result<Option<Hash>, StateError> {
        loop {
            while self.page.front().is_some_and(|head| head.size < size) {
                self.page.pop_front();
            }
            if let Some(head) = self.page.front() {
                return Ok((head.size == size).then_some(head.root));
            }
            if self.ended {
                return Ok(None);
            }
            self.page = state.heads(self.read_until, LIST_MAX).await?.into();
            self.ended = self.page.len() < LIST_MAX as usize;
            self.read_until = self.page.back().map_or(self.read_until, |head| head.size);
        }
    }
}
