//! The audit ledger over the [`State`]: what is written in it, proofs for those who hold receipts,
//! and the walk that finds what was changed behind its back.
//!
//! Leaves are written by the state's own transactions, together with what they are about. Here they are made
//! ([`Entry`]), proved ([`Ledger`]) and checked ([`verify`]). There is never a second root for a size: each commit records
//! the root it led to, and nothing else is ever signed.

mod checkpoint;
mod denials;
mod entry;
mod tree;
mod verify;

pub use denials::{Denials, Summary};
pub use entry::{Entry, receipt_leaf};
pub use verify::{Fault, VerifyError, verify};

use crate::state::{Head, LEDGER_ALGORITHM, State, StateError};
use checkpoint::Notary;
use lingqu_protocol::checkpoint::{Signer, origin};
use lingqu_protocol::dsse::Envelope;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::GatewayId;
use lingqu_protocol::leaf::{Leaf, LeafError};
use lingqu_protocol::merkle::{Hash, leaf_hash, verify_inclusion};
use lingqu_protocol::receipt::{LedgerProof, Receipt, ReceiptError, Statement};
use std::sync::Arc;

/// Why the ledger did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The state failed; see there whose fault it is.
    #[error(transparent)]
    State(#[from] StateError),
    /// The caller's: an entry that no leaf can hold.
    #[error("the entry cannot be written: {0}")]
    Entry(#[from] LeafError),
    /// The caller's: a leaf that is not there, or not in a tree of that size.
    #[error("there is no leaf {index} in a ledger of {size}")]
    NoLeaf {
        /// The leaf asked for.
        index: u64,
        /// Leaves.
        size: u64,
    },
    /// The caller's: no commit ended at this size, so that it has no checkpoint.
    #[error("no commit ended at {size} leaves")]
    NotCommitted {
        /// The size asked for.
        size: u64,
    },
    /// What the receipt says was destroyed. Receipts that were handed out stay good.
    #[error("what leaf {index} commits to was purged")]
    Purged {
        /// The leaf.
        index: u64,
    },
    /// The caller's: the leaf is of no transfer.
    #[error("leaf {index} has no receipt: {why}")]
    NotAReceipt {
        /// The leaf.
        index: u64,
        /// Why.
        why: ReceiptError,
    },
    /// Ours: the ledger was changed behind the gateway's back. Nothing is signed; run `ledger verify`.
    #[error("the ledger of {size} leaves has another root than the one that was committed: nothing is signed")]
    SecondRoot {
        /// The size.
        size: u64,
    },
    /// Ours: the key cannot sign.
    #[error("the receipt key cannot sign: {0}")]
    Signer(String),
    /// Ours: the system's generator failed.
    #[error("no random bytes for a salt: {0}")]
    Entropy(String),
}

/// Proofs and receipts from the ledger.
pub struct Ledger {
    state: Arc<dyn State>,
    notary: Notary,
    gateway_statement: Envelope,
}

impl Ledger {
    /// The ledger of `gateway` at `domain` in `state`. `signer` has the receipt key; `gateway_statement` is the root's
    /// statement that names it.
    pub fn new(
        state: Arc<dyn State>,
        signer: Arc<dyn Signer>,
        domain: &str,
        gateway: GatewayId,
        gateway_statement: Envelope,
    ) -> Self {
        Self { state, notary: Notary::new(origin(domain, gateway), signer), gateway_statement }
    }

    /// The receipt of the transfer whose leaf is `index`, proved for the ledger of `size` leaves. Asked again with the
    /// same numbers (a record's [`LedgerSpan`](crate::state::LedgerSpan) has them), it has the same bytes.
    ///
    /// # Errors
    /// [`LedgerError::NotAReceipt`], [`LedgerError::Purged`], [`LedgerError::NotCommitted`], and ours.
    pub async fn receipt(&self, index: u64, size: u64) -> Result<Receipt, LedgerError> {
        let leaf = self.state.leaf(index).await?.ok_or(LedgerError::NoLeaf { index, size })?;
        let (Some(salt), Some(payload)) = (leaf.salt, leaf.payload) else { return Err(LedgerError::Purged { index }) };
        let not_a_receipt = |why| LedgerError::NotAReceipt { index, why };
        let statement = Statement::from_bytes(&payload).map_err(not_a_receipt)?;
        let of_statement = statement.leaf(&salt).encode()?;
        if of_statement != leaf.bytes {
            return Err(not_a_receipt(ReceiptError::OtherLeaf { field: "leaf" }));
        }
        let (proof, checkpoint) = self.inclusion(index, size, &leaf.bytes).await?;
        let ledger = LedgerProof { index, leaf: leaf.bytes, salt, size, proof, checkpoint };
        Ok(Receipt { statement, ledger, gateway_statement: self.gateway_statement.clone(), cosignature: None })
    }

    /// The proof that leaf `index` with these bytes is in the ledger of `size` leaves, and that ledger's signed checkpoint.
    ///
    /// # Errors
    /// [`LedgerError::NoLeaf`], [`LedgerError::NotCommitted`], and ours.
    pub async fn inclusion(&self, index: u64, size: u64, leaf: &[u8]) -> Result<(Vec<Hash>, String), LedgerError> {
        let (head, checkpoint) = self.signed(size).await?;
        let proof = tree::inclusion(self.state.as_ref(), index, size).await?;
        // A proof that its receiver would refuse is not handed out: it is how damage is seen first.
        verify_inclusion(LEDGER_ALGORITHM, &leaf_hash(LEDGER_ALGORITHM, leaf), index, size, &proof, &head.root)
            .map_err(|_| LedgerError::SecondRoot { size })?;
        Ok((proof, checkpoint))
    }

    /// The signed checkpoint of the ledger of `size` leaves, at which a commit ended. The same every time.
    ///
    /// # Errors
    /// [`LedgerError::NotCommitted`], and ours.
    pub async fn checkpoint(&self, size: u64) -> Result<String, LedgerError> {
        Ok(self.signed(size).await?.1)
    }

    /// The ledger now, and its signed checkpoint.
    ///
    /// # Errors
    /// Ours.
    pub async fn latest(&self) -> Result<(Head, String), LedgerError> {
        let size = self.state.head().await?.size;
        self.signed(size).await
    }

    /// The proof that the ledger of `old_size` leaves is the beginning of the one of `size`.
    ///
    /// # Errors
    /// [`LedgerError::NoLeaf`] where `old_size` is the larger or `size` is not there, and ours.
    pub async fn consistency(&self, old_size: u64, size: u64) -> Result<Vec<Hash>, LedgerError> {
        tree::consistency(self.state.as_ref(), old_size, size).await
    }

    /// When the last leaf says it was written: see [`last_at`].
    ///
    /// # Errors
    /// Ours; a last leaf that cannot be read is [`StateError::Damaged`].
    pub async fn last_at(&self) -> Result<Option<Timestamp>, LedgerError> {
        Ok(last_at(self.state.as_ref()).await?)
    }

    async fn signed(&self, size: u64) -> Result<(Head, String), LedgerError> {
        let committed = self.state.root_at(size).await?.ok_or(LedgerError::NotCommitted { size })?;
        let root = tree::root(self.state.as_ref(), size).await?;
        let head = Head { size, root };
        Ok((head, self.notary.sign(head, committed)?))
    }
}

/// When the last leaf says it was written: the wall clock must not be far behind. `None` for an empty ledger.
///
/// # Errors
/// The state's; a last leaf that cannot be read is [`StateError::Damaged`].
pub async fn last_at(state: &dyn State) -> Result<Option<Timestamp>, StateError> {
    let Some(last) = state.head().await?.size.checked_sub(1) else { return Ok(None) };
    let missing = || StateError::Damaged(format!("leaf {last} is missing"));
    let leaf = state.leaf(last).await?.ok_or_else(missing)?;
    let leaf = Leaf::decode(&leaf.bytes).map_err(|e| StateError::Damaged(format!("leaf {last}: {e}")))?;
    Ok(Some(Timestamp(leaf.at)))
}

#[cfg(test)]
mod tests;
