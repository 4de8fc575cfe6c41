//! The ledger's Merkle tree, hashed as RFC 6962 says: `H(0x00 ‖ leaf)` and `H(0x01 ‖ left ‖ right)`.
//!
//! Pure: nothing here stores a hash. A log keeps the hash of every *complete* subtree by its [`Node`]; a [`Plan`] says
//! which of them a root or a proof needs and combines them. An earlier tree's root and proofs can always be made again,
//! because complete subtrees never change.

use crate::digest::Algorithm;

/// A hash in the tree.
pub type Hash = [u8; 32];

/// Hashes in an inclusion proof, at most: one a level, and no tree has more levels than the bits of its size.
pub const INCLUSION_HASHES_MAX: usize = 64;

/// Hashes in a consistency proof, at most: one a level and the shared subtree itself.
pub const CONSISTENCY_HASHES_MAX: usize = 65;

/// A complete subtree: the leaves `index << level` to `(index + 1) << level`, exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// 0 for a leaf.
    pub level: u8,
    /// Its place among the subtrees of its level, from the left.
    pub index: u64,
}

fn hash(algorithm: Algorithm, parts: &[&[u8]]) -> Hash {
    let mut out = [0; 32];
    match algorithm {
        Algorithm::Sha256 => {
            let mut context = ring::digest::Context::new(&ring::digest::SHA256);
            parts.iter().for_each(|part| context.update(part));
            out.copy_from_slice(context.finish().as_ref());
        }
        Algorithm::Blake3 => {
            let mut hasher = blake3::Hasher::new();
            parts.iter().for_each(|part| {
                hasher.update(part);
            });
            out = *hasher.finalize().as_bytes();
        }
    }
    out
}

/// The hash of the tree without leaves: the hash of nothing.
pub fn empty_root(algorithm: Algorithm) -> Hash {
    hash(algorithm, &[])
}

/// The hash of a leaf with these bytes.
pub fn leaf_hash(algorithm: Algorithm, leaf: &[u8]) -> Hash {
    hash(algorithm, &[&[0], leaf])
}

/// The hash of a node over its two children.
pub fn node_hash(algorithm: Algorithm, left: &Hash, right: &Hash) -> Hash {
    hash(algorithm, &[&[1], left, right])
}

/// The right edge of a growing tree: the complete subtrees that make up its size, largest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontier {
    algorithm: Algorithm,
    size: u64,
    /// One for each set bit of `size`, from the highest.
    stack: Vec<Hash>,
}

impl Frontier {
    /// The tree without leaves.
    pub const fn new(algorithm: Algorithm) -> Self {
        Self { algorithm, size: 0, stack: Vec::new() }
    }

    /// The subtrees that [`Self::restore`] needs for a tree of `size` leaves.
    pub fn nodes(size: u64) -> Vec<Node> {
        complete_nodes(0, size)
    }

    /// The frontier of a stored tree, from the hashes of [`Self::nodes`] in their order; `None` where there are not
    /// as many.
    pub fn restore(algorithm: Algorithm, size: u64, hashes: Vec<Hash>) -> Option<Self> {
        (hashes.len() == size.count_ones() as usize).then_some(Self { algorithm, size, stack: hashes })
    }

    /// Adds a leaf by its hash and returns every subtree that is now complete, the leaf first: what a log stores.
    pub fn append(&mut self, leaf: Hash) -> Vec<(Node, Hash)> {
        let mut node = Node { level: 0, index: self.size };
        let mut hash = leaf;
        let mut made = vec![(node, hash)];
        while node.index & 1 == 1 {
            let Some(left) = self.stack.pop() else { break };
            hash = node_hash(self.algorithm, &left, &hash);
            node = Node { level: node.level + 1, index: node.index >> 1 };
            made.push((node, hash));
        }
        self.stack.push(hash);
        self.size += 1;
        made
    }

    /// Leaves in the tree.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root over all leaves.
    pub fn root(&self) -> Hash {
        fold(self.algorithm, &self.stack).unwrap_or_else(|| empty_root(self.algorithm))
    }
}

/// Combines complete subtrees that lie side by side, largest first, into the hash over them all.
fn fold(algorithm: Algorithm, hashes: &[Hash]) -> Option<Hash> {
    let (last, rest) = hashes.split_last()?;
    Some(rest.iter().rev().fold(*last, |right, left| node_hash(algorithm, left, &right)))
}

/// The complete subtrees of the leaves `from..to`, where `from` is a multiple of the largest of them.
fn complete_nodes(from: u64, to: u64) -> Vec<Node> {
    let mut start = from;
    let mut nodes = Vec::new();
    for level in (0..64u8).rev() {
        if (to - from) >> level & 1 == 1 {
            nodes.push(Node { level, index: start >> level });
            start += 1 << level;
        }
    }
    nodes
}

/// What gives the hashes of complete subtrees that a log stores.
pub trait HashReader {
    /// Why it could not.
    type Error;
    /// The hash of a subtree that is complete in the log.
    ///
    /// # Errors
    /// Where the log has no such subtree, or cannot read it.
    fn hash(&self, node: Node) -> Result<Hash, Self::Error>;
}

/// Which stored hashes a root or a proof needs, and how they combine. Where hashes are read asynchronously, read those of
/// [`Plan::nodes`] first and give them to [`Plan::combine`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Ranges of leaves, one for each hash of the result.
    ranges: Vec<(u64, u64)>,
}

impl Plan {
    /// The root of the first `size` leaves: one hash. `None` for no leaves, whose root is [`empty_root`].
    pub fn root(size: u64) -> Option<Self> {
        (size > 0).then(|| Self { ranges: vec![(0, size)] })
    }

    /// The proof that leaf `index` is in the tree of `size` leaves (RFC 9162, 2.1.3.1). `None` where it is not.
    pub fn inclusion(index: u64, size: u64) -> Option<Self> {
        if index >= size {
            return None;
        }
        let (mut from, mut to) = (0, size);
        let mut ranges = Vec::new();
        while to - from > 1 {
            let middle = from + split(to - from);
            if index < middle {
                ranges.push((middle, to));
                to = middle;
            } else {
                ranges.push((from, middle));
                from = middle;
            }
        }
        ranges.reverse();
        Some(Self { ranges })
    }

    /// The proof that the tree of `old_size` leaves is the beginning of the tree of `size` (RFC 9162, 2.1.4.1). `None`
    /// where `old_size` is larger. From an empty or an equal tree the proof is empty.
    pub fn consistency(old_size: u64, size: u64) -> Option<Self> {
        if old_size > size {
            return None;
        }
        let mut ranges = Vec::new();
        if old_size > 0 && old_size < size {
            let (mut from, mut to) = (0, size);
            while old_size != to {
                let middle = from + split(to - from);
                if old_size <= middle {
                    ranges.push((middle, to));
                    to = middle;
                } else {
                    ranges.push((from, middle));
                    from = middle;
                }
            }
            // The verifier has the old root, so that the subtree from the very left needs no sending.
            if from > 0 {
                ranges.push((from, to));
            }
            ranges.reverse();
        }
        Some(Self { ranges })
    }

    /// The complete subtrees whose hashes [`Self::combine`] takes, in its order.
    pub fn nodes(&self) -> Vec<Node> {
        self.ranges.iter().flat_map(|(from, to)| complete_nodes(*from, *to)).collect()
    }

    /// The result, from the hashes of [`Self::nodes`] in their order. `None` where there are not as many.
    pub fn combine(&self, algorithm: Algorithm, mut hashes: &[Hash]) -> Option<Vec<Hash>> {
        let mut out = Vec::with_capacity(self.ranges.len());
        for (from, to) in &self.ranges {
            let (head, tail) = hashes.split_at_checked((to - from).count_ones() as usize)?;
            out.push(fold(algorithm, head)?);
            hashes = tail;
        }
        hashes.is_empty().then_some(out)
    }

    /// The result, reading what it needs.
    ///
    /// # Errors
    /// The reader's.
    pub fn read<R: HashReader>(&self, algorithm: Algorithm, reader: &R) -> Result<Vec<Hash>, R::Error> {
        let hashes = self.nodes().into_iter().map(|node| reader.hash(node)).collect::<Result<Vec<_>, _>>()?;
        Ok(self.combine(algorithm, &hashes).unwrap_or_default())
    }
}

/// The largest power of two below `size`, which is at least 2: where RFC 6962 splits.
const fn split(size: u64) -> u64 {
    1 << (63 - (size - 1).leading_zeros())
}

/// Why a proof does not hold. Whoever made the proof, or what it is about, is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The leaf's index is not below the size, or the old tree is larger than the new.
    #[error("the proof is about {index} in a tree of {size}")]
    OutOfRange {
        /// The leaf's index, or the old size.
        index: u64,
        /// Leaves in the tree.
        size: u64,
    },
    /// More or fewer hashes than a proof for this place has.
    #[error("the proof has {found} hashes, which is not the number for its place")]
    WrongLength {
        /// Hashes in it.
        found: usize,
    },
    /// It leads to another root than the one given.
    #[error("the proof leads to another root")]
    WrongRoot,
    /// It leads to another old root than the one given.
    #[error("the proof leads to another old root")]
    WrongOldRoot,
}

/// Checks that the leaf with hash `leaf` is at `index` in the tree of `size` leaves with this `root` (RFC 9162, 2.1.3.2).
///
/// # Errors
/// Why it is not shown.
pub fn verify_inclusion(
    algorithm: Algorithm,
    leaf: &Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange { index, size });
    }
    let wrong_length = ProofError::WrongLength { found: proof.len() };
    let (mut fnode, mut snode) = (index, size - 1);
    let mut hash = *leaf;
    for step in proof {
        if snode == 0 {
            return Err(wrong_length);
        }
        if fnode & 1 == 1 || fnode == snode {
            hash = node_hash(algorithm, step, &hash);
            while fnode & 1 == 0 && fnode != 0 {
                fnode >>= 1;
                snode >>= 1;
            }
        } else {
            hash = node_hash(algorithm, &hash, step);
        }
        fnode >>= 1;
        snode >>= 1;
    }
    if snode != 0 {
        return Err(wrong_length);
    }
    if hash == *root { Ok(()) } else { Err(ProofError::WrongRoot) }
}

/// Checks that the tree of `old_size` leaves with `old_root` is the beginning of the tree of `size` leaves with `root`
/// (RFC 9162, 2.1.4.2). Every tree follows the empty one.
///
/// # Errors
/// Why it is not shown. [`ProofError::WrongRoot`] for equal sizes and two roots is the proof of a fork.
pub fn verify_consistency(
    algorithm: Algorithm,
    old_size: u64,
    size: u64,
    old_root: &Hash,
    root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if old_size > size {
        return Err(ProofError::OutOfRange { index: old_size, size });
    }
    let wrong_length = ProofError::WrongLength { found: proof.len() };
    if old_size == 0 || old_size == size {
        if !proof.is_empty() {
            return Err(wrong_length);
        }
        if old_size == 0 && *old_root != empty_root(algorithm) {
            return Err(ProofError::WrongOldRoot);
        }
        return if old_size == 0 || old_root == root { Ok(()) } else { Err(ProofError::WrongRoot) };
    }
    let (first, rest) = if old_size.is_power_of_two() {
        (*old_root, proof)
    } else {
        let (first, rest) = proof.split_first().ok_or(wrong_length)?;
        (*first, rest)
    };
    let trailing = (old_size - 1).trailing_ones();
    let (mut fnode, mut snode) = ((old_size - 1) >> trailing, (size - 1) >> trailing);
    let (mut old_hash, mut hash) = (first, first);
    for step in rest {
        if snode == 0 {
            return Err(wrong_length);
        }
        if fnode & 1 == 1 || fnode == snode {
            old_hash = node_hash(algorithm, step, &old_hash);
            hash = node_hash(algorithm, step, &hash);
            while fnode & 1 == 0 && fnode != 0 {
                fnode >>= 1;
                snode >>= 1;
            }
        } else {
            hash = node_hash(algorithm, &hash, step);
        }
        fnode >>= 1;
        snode >>= 1;
    }
    if snode != 0 {
        return Err(wrong_length);
    }
    if old_hash != *old_root {
        return Err(ProofError::WrongOldRoot);
    }
    if hash == *root { Ok(()) } else { Err(ProofError::WrongRoot) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::digest::{from_hex, to_hex};
    use proptest::prelude::*;
    use std::collections::HashMap;

    const SHA: Algorithm = Algorithm::Sha256;

    /// The eight leaves of Certificate Transparency's own reference tests.
    const LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];

    /// The roots of their first one to eight.
    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    struct Log {
        frontier: Frontier,
        nodes: HashMap<Node, Hash>,
        leaves: Vec<Hash>,
    }

    impl HashReader for Log {
        type Error = Node;
        fn hash(&self, node: Node) -> Result<Hash, Node> {
            self.nodes.get(&node).copied().ok_or(node)
        }
    }

    impl Log {
        fn of(leaves: impl IntoIterator<Item = Vec<u8>>) -> Self {
            let mut log = Self { frontier: Frontier::new(SHA), nodes: HashMap::new(), leaves: Vec::new() };
            for leaf in leaves {
                let hash = leaf_hash(SHA, &leaf);
                log.leaves.push(hash);
                log.nodes.extend(log.frontier.append(hash));
            }
            log
        }
        fn numbered(size: u64) -> Self {
            Self::of((0..size).map(|i| i.to_be_bytes().to_vec()))
        }
        fn proof(&self, plan: Option<Plan>) -> Vec<Hash> {
            plan.unwrap().read(SHA, self).unwrap()
        }
    }

    /// The definition of RFC 6962, word for word.
    fn naive_root(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(SHA),
            [only] => *only,
            _ => {
                let (left, right) = leaves.split_at(split(leaves.len() as u64) as usize);
                node_hash(SHA, &naive_root(left), &naive_root(right))
            }
        }
    }

    fn published() -> Log {
        Log::of(LEAVES.iter().map(|text| from_hex(text).unwrap()))
    }

    #[test]
    fn the_published_roots_hold() {
        assert_eq!(to_hex(&empty_root(SHA)), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let mut frontier = Frontier::new(SHA);
        for (leaf, root) in LEAVES.iter().zip(ROOTS) {
            frontier.append(leaf_hash(SHA, &from_hex(leaf).unwrap()));
            assert_eq!(to_hex(&frontier.root()), root);
        }
    }

    #[test]
    fn the_published_proofs_hold() {
        let log = published();
        let hex = |proof: Vec<Hash>| proof.iter().map(|h| to_hex(h)).collect::<Vec<_>>();
        assert_eq!(
            hex(log.proof(Plan::inclusion(0, 8))),
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ]
        );
        assert_eq!(
            hex(log.proof(Plan::inclusion(2, 3))),
            ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]
        );
        assert_eq!(
            hex(log.proof(Plan::consistency(1, 8))),
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ]
        );
        assert_eq!(
            hex(log.proof(Plan::consistency(6, 8))),
            [
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ]
        );
    }

    #[test]
    fn every_proof_of_every_small_tree_holds_and_no_other_does() {
        let log = Log::numbered(40);
        for size in 0..=40u64 {
            let root = naive_root(&log.leaves[..size as usize]);
            if size > 0 {
                assert_eq!(log.proof(Plan::root(size)), [root]);
            }
            for index in 0..size {
                let proof = log.proof(Plan::inclusion(index, size));
                let leaf = &log.leaves[index as usize];
                assert_eq!(verify_inclusion(SHA, leaf, index, size, &proof, &root), Ok(()));
                assert!(verify_inclusion(SHA, leaf, index + 1, size, &proof, &root).is_err());
                assert!(verify_inclusion(SHA, &[9; 32], index, size, &proof, &root).is_err());
                let longer: Vec<_> = proof.iter().copied().chain([[0; 32]]).collect();
                assert!(verify_inclusion(SHA, leaf, index, size, &longer, &root).is_err());
                if let Some((_, shorter)) = proof.split_last() {
                    assert!(verify_inclusion(SHA, leaf, index, size, shorter, &root).is_err());
                }
            }
            for old in 0..=size {
                let old_root = naive_root(&log.leaves[..old as usize]);
                let proof = log.proof(Plan::consistency(old, size));
                assert_eq!(verify_consistency(SHA, old, size, &old_root, &root, &proof), Ok(()), "{old} to {size}");
                assert!(verify_consistency(SHA, old, size, &[1; 32], &root, &proof).is_err());
                if old > 0 {
                    assert!(verify_consistency(SHA, old, size, &old_root, &[1; 32], &proof).is_err());
                }
                let longer: Vec<_> = proof.iter().copied().chain([[0; 32]]).collect();
                assert!(verify_consistency(SHA, old, size, &old_root, &root, &longer).is_err());
            }
        }
    }

    #[test]
    fn proofs_of_what_is_not_there_are_not_planned() {
        assert_eq!(Plan::inclusion(3, 3), None);
        assert_eq!(Plan::consistency(4, 3), None);
        assert_eq!(Plan::root(0), None);
        assert!(Plan::inclusion(u64::MAX - 1, u64::MAX).unwrap().nodes().len() > 1);
        assert!(Plan::inclusion(0, u64::MAX).unwrap().ranges.len() <= INCLUSION_HASHES_MAX);
    }

    proptest! {
        #[test]
        fn the_frontier_is_the_naive_tree_and_restores(size in 0u64..300) {
            let log = Log::numbered(size);
            prop_assert_eq!(log.frontier.root(), naive_root(&log.leaves));
            let stored = Frontier::nodes(size).iter().map(|n| log.nodes[n]).collect();
            prop_assert_eq!(Frontier::restore(SHA, size, stored), Some(log.frontier.clone()));
            prop_assert_eq!(Frontier::restore(SHA, size + 1, vec![]).is_some(), false);
        }

        #[test]
        fn a_flipped_bit_anywhere_breaks_a_proof(
            size in 2u64..200, at in any::<prop::sample::Index>(), bit in 0usize..256, step in any::<prop::sample::Index>(),
        ) {
            let log = Log::numbered(size);
            let root = log.frontier.root();
            let index = at.index(size as usize) as u64;
            let mut proof = log.proof(Plan::inclusion(index, size));
            let hit = step.index(proof.len());
            proof[hit][bit / 8] ^= 1 << (bit % 8);
            let leaf = &log.leaves[index as usize];
            prop_assert_eq!(verify_inclusion(SHA, leaf, index, size, &proof, &root), Err(ProofError::WrongRoot));
        }

        #[test]
        fn no_proof_panics(
            leaf: Hash, root: Hash, old: u64, size: u64, proof in prop::collection::vec(any::<Hash>(), 0..70),
        ) {
            prop_assert!(verify_inclusion(SHA, &leaf, old, size, &proof, &root).is_err());
            let _ = verify_consistency(SHA, old, size, &leaf, &root, &proof);
        }
    }
}
