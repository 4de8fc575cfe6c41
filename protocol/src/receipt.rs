//! The receipt that both parties of a transfer keep, and how it is checked offline.
//!
//! A receipt is a [`Statement`] of what was transferred and the proof that the ledger holds it: root → the gateway's
//! receipt key → checkpoint → inclusion of a leaf → commitment to the statement. Nothing but the root's public key is
//! needed to check it. It is JSON text; asked for again it has the same bytes.

mod json;
mod statement;

pub use json::RECEIPT_BYTES_MAX;
pub use statement::{
    Algorithms, DataKind, Direction, GrantVersion, RECEIPT_FILES_MAX, RECEIPT_VERSION, ReceiptFile, Statement,
};

use crate::checkpoint::{Checkpoint, CheckpointError, NoteKey, origin};
use crate::digest::{Algorithm, from_hex, to_hex};
use crate::documents::GatewayBody;
use crate::dsse::Envelope;
use crate::ids::GatewayId;
use crate::leaf::{Leaf, LeafError};
use crate::merkle::{Hash, ProofError, leaf_hash, verify_inclusion};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Where the ledger holds a statement, with the proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerProof {
    /// Index of its leaf.
    pub index: u64,
    /// The leaf's exact bytes.
    pub leaf: Vec<u8>,
    /// Opens the leaf's commitment to the statement.
    pub salt: Vec<u8>,
    /// Leaves in the tree that the proof is for.
    pub size: u64,
    /// RFC 9162 inclusion proof, from the leaf upwards.
    pub proof: Vec<Hash>,
    /// The signed checkpoint of that tree.
    pub checkpoint: String,
}

/// The agent's signature over the receipt without it ([`Receipt::cosigned_bytes`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cosignature {
    /// The agent's public key, `ed25519:<64 hex digits>`.
    pub key: String,
    /// The signature in base64.
    pub signature: String,
}

/// A receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// What was transferred.
    pub statement: Statement,
    /// Where the ledger holds it.
    pub ledger: LedgerProof,
    /// The root's statement that names the gateway's receipt key.
    pub gateway_statement: Envelope,
    /// The agent's signature, where it gave one.
    pub cosignature: Option<Cosignature>,
}

/// What a receipt proves, beside its statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The gateway as the root names it.
    pub gateway: GatewayBody,
    /// The checkpoint that the gateway signed: to compare with others'.
    pub checkpoint: Checkpoint,
    /// The key that cosigned. Whether it is the agent's is for its certificate to say.
    pub cosigned_by: Option<String>,
}

/// Why a receipt proves nothing. The fault is with whoever made it or changed it since.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// No receipt's JSON.
    #[error("not a receipt: {0}")]
    Malformed(String),
    /// A version or algorithm that this program does not know; a newer one may.
    #[error("this program does not know {what} {found:?}")]
    Unknown {
        /// What is unknown.
        what: &'static str,
        /// What was found.
        found: String,
    },
    /// The root did not sign the gateway's statement.
    #[error("the root does not vouch for the gateway: {0}")]
    GatewayStatement(String),
    /// The checkpoint is not the gateway's.
    #[error("the gateway did not sign the checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The proof is for another tree than the checkpoint's.
    #[error("the proof is for {proof} leaves and the checkpoint for {checkpoint}")]
    OtherSize {
        /// Leaves that the proof is for.
        proof: u64,
        /// Leaves that the checkpoint is for.
        checkpoint: u64,
    },
    /// The leaf is not in the tree.
    #[error("the ledger does not hold the leaf: {0}")]
    Inclusion(#[from] ProofError),
    /// The leaf is none.
    #[error("the leaf cannot be read: {0}")]
    Leaf(#[from] LeafError),
    /// The leaf says something else than the receipt.
    #[error("the ledger says otherwise: {field} differs")]
    OtherLeaf {
        /// What differs first; `commitment` stands for whatever is only committed to.
        field: &'static str,
    },
    /// The cosignature is wrong.
    #[error("the cosignature is wrong")]
    Cosignature,
}

/// Checks a receipt, from the root down. `open` checks that the root signed the gateway's statement and that it is about
/// the given gateway (`lingqu_certs` has it), and says what it says.
///
/// # Errors
/// The first check that failed.
pub fn verify(
    receipt: &Receipt,
    open: impl FnOnce(&Envelope, GatewayId) -> Result<GatewayBody, String>,
) -> Result<Verified, ReceiptError> {
    let Receipt { statement, ledger, .. } = receipt;
    let algorithm = check_algorithms(statement)?;
    let gateway = open(&receipt.gateway_statement, statement.gateway).map_err(ReceiptError::GatewayStatement)?;
    let public = ed25519_key(&gateway.receipt_key)
        .ok_or_else(|| ReceiptError::Unknown { what: "receipt key", found: gateway.receipt_key.clone() })?;
    let key = NoteKey { name: origin(&gateway.domain, statement.gateway), public };
    let checkpoint = Checkpoint::verify(&ledger.checkpoint, &key)?;
    if checkpoint.size != ledger.size {
        return Err(ReceiptError::OtherSize { proof: ledger.size, checkpoint: checkpoint.size });
    }
    let hash = leaf_hash(algorithm, &ledger.leaf);
    verify_inclusion(algorithm, &hash, ledger.index, ledger.size, &ledger.proof, &checkpoint.root)?;
    same_leaf(&Leaf::decode(&ledger.leaf)?, &statement.leaf(&ledger.salt))?;
    let cosigned_by = receipt.cosignature.as_ref().map(|c| check_cosignature(receipt, c)).transpose()?;
    Ok(Verified { gateway, checkpoint, cosigned_by })
}

fn check_algorithms(statement: &Statement) -> Result<Algorithm, ReceiptError> {
    let unknown = |what, found: &str| Err(ReceiptError::Unknown { what, found: found.to_owned() });
    if statement.version != RECEIPT_VERSION {
        return unknown("receipt version", &statement.version.to_string());
    }
    if statement.algorithms.signature != "ed25519" {
        return unknown("signature algorithm", &statement.algorithms.signature);
    }
    if statement.algorithms.ledger != Algorithm::Sha256.id() {
        return unknown("ledger algorithm", &statement.algorithms.ledger);
    }
    Ok(Algorithm::Sha256)
}

/// Compares field by field, so that a difference has a name.
fn same_leaf(found: &Leaf, expected: &Leaf) -> Result<(), ReceiptError> {
    let fields = [
        ("direction", found.kind == expected.kind),
        ("transfer", found.transfer == expected.transfer),
        ("agent", found.agent == expected.agent && found.agency == expected.agency),
        ("entry", found.entry == expected.entry),
        ("grant", found.grant == expected.grant),
        ("bytes", found.bytes == expected.bytes),
        ("count", found.count == expected.count),
        ("committed_at", found.at == expected.at),
        ("commitment", found.commitment == expected.commitment),
        ("leaf", found == expected),
    ];
    match fields.into_iter().find(|(_, same)| !same) {
        Some((field, _)) => Err(ReceiptError::OtherLeaf { field }),
        None => Ok(()),
    }
}

fn check_cosignature(receipt: &Receipt, cosignature: &Cosignature) -> Result<String, ReceiptError> {
    let public = ed25519_key(&cosignature.key).ok_or(ReceiptError::Cosignature)?;
    let signature = STANDARD.decode(&cosignature.signature).map_err(|_| ReceiptError::Cosignature)?;
    ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, public)
        .verify(&receipt.cosigned_bytes(), &signature)
        .map_err(|_| ReceiptError::Cosignature)?;
    Ok(cosignature.key.clone())
}

fn ed25519_key(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix("ed25519:")?;
    // One key has one text: a receipt with a changed byte is not the receipt.
    let bytes = from_hex(digits).filter(|bytes| to_hex(bytes) == digits)?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests;
