//! The receipt that both parties of a transfer keep, and how it is checked offline.
//!
//! A receipt is a [`Statement`] of what was transferred and the proof that the ledger holds it: root → the gateway's
//! receipt key → checkpoint → inclusion of a leaf → commitment to the statement. Nothing but the root's public key is
//! needed to check it. It is JSON text; asked for again it has the same bytes.

use crate::agency::AgentId;
use crate::checkpoint::{Checkpoint, CheckpointError, NoteKey, origin};
use crate::digest::{Algorithm, Digest, from_hex};
use crate::documents::GatewayBody;
use crate::dsse::Envelope;
use crate::host::Timestamp;
use crate::ids::{EntryId, GatewayId, GrantId, TransferId};
use crate::leaf::{Leaf, LeafError, LeafKind, commitment};
use crate::merkle::{Hash, INCLUSION_HASHES_MAX, ProofError, leaf_hash, verify_inclusion};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The version of receipts made here.
pub const RECEIPT_VERSION: u32 = 1;

/// Files that a receipt lists one by one; a larger set is named by the digest of its manifest. Few enough that a receipt
/// stays a text that a person can read.
pub const RECEIPT_FILES_MAX: usize = 64;

/// Bytes of a receipt's text: the files at their longest names, a proof and two signed texts.
pub const RECEIPT_BYTES_MAX: usize = 512 * 1024;

/// Which way the data went, seen from the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the agent to the gateway.
    Push,
    /// From the gateway to the agent.
    Pull,
}

/// What the data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataKind {
    /// A set of files.
    File,
    /// Rows of a table.
    Table,
}

/// The algorithms behind a receipt, by their ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Algorithms {
    /// What hashes the ledger's tree and the commitment.
    pub ledger: String,
    /// What signs checkpoints.
    pub signature: String,
}

/// A grant as it was when data went under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantVersion {
    /// The grant.
    pub id: GrantId,
    /// Digest of the text of its version.
    pub digest: Digest,
}

/// One file of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptFile {
    /// Its path in the set.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its BLAKE3 root, as `b3sum` prints it.
    pub root: Digest,
}

/// What was transferred. Its JSON text, fields in this order and nothing between them, is what the ledger commits to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// [`RECEIPT_VERSION`].
    pub version: u32,
    /// What the proof is made with.
    pub algorithms: Algorithms,
    /// The gateway.
    pub gateway: GatewayId,
    /// The transfer.
    pub transfer: TransferId,
    /// The agent, `CODE/NAME`.
    #[serde(with = "text")]
    pub agent: AgentId,
    /// Which way the data went.
    pub direction: Direction,
    /// The catalogue entry.
    pub entry: EntryId,
    /// The entry's code.
    pub entry_code: Option<String>,
    /// The grant; `None` where a provider pushes its own entry.
    pub grant: Option<GrantVersion>,
    /// The number of the dataset's version.
    pub dataset_version: u64,
    /// What the data is.
    pub kind: DataKind,
    /// Bytes of content.
    pub bytes: u64,
    /// Files, where the data is files.
    pub files_count: Option<u64>,
    /// Rows, where the data is a table.
    pub rows: Option<u64>,
    /// Digest over what was delivered.
    pub bytes_root: Digest,
    /// Digest over the rows, whatever their order and format.
    pub rows_digest: Option<Digest>,
    /// The files, where they are at most [`RECEIPT_FILES_MAX`]; else none.
    pub files: Vec<ReceiptFile>,
    /// Digest of the manifest, where the files are too many to list.
    pub manifest: Option<Digest>,
    /// Milliseconds since 1970 UTC when it was committed.
    pub committed_at: i64,
}

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

impl Statement {
    /// The bytes that the ledger commits to.
    pub fn bytes(&self) -> Vec<u8> {
        // Structs of numbers, texts and lists always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads [`Self::bytes`].
    ///
    /// # Errors
    /// [`ReceiptError::Malformed`] unless they are exactly that.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReceiptError> {
        let statement: Self = serde_json::from_slice(bytes).map_err(|e| ReceiptError::Malformed(e.to_string()))?;
        if statement.bytes() == bytes {
            Ok(statement)
        } else {
            Err(ReceiptError::Malformed("not in its one form".into()))
        }
    }

    /// The leaf that the ledger holds for this statement.
    pub fn leaf(&self, salt: &[u8]) -> Leaf {
        let kind = match self.direction {
            Direction::Push => LeafKind::VersionCommitted,
            Direction::Pull => LeafKind::Delivery,
        };
        Leaf {
            agency: Some(self.agent.agency),
            agent: Some(self.agent.clone()),
            entry: Some(self.entry),
            grant: self.grant.as_ref().map(|g| g.id),
            transfer: Some(self.transfer),
            count: self.rows.or(self.files_count),
            bytes: Some(self.bytes),
            ..Leaf::new(kind, Timestamp(self.committed_at), commitment(salt, &self.bytes()))
        }
    }
}

impl Receipt {
    /// The JSON text. The same receipt has the same bytes every time.
    pub fn to_json(&self) -> String {
        // As in `Statement::bytes`.
        serde_json::to_string(&ReceiptJson::from(self)).unwrap_or_default()
    }

    /// Reads JSON text, whatever its spacing. Nothing is verified but its form.
    ///
    /// # Errors
    /// [`ReceiptError::Malformed`]: a receipt has no fields that the proof would not cover.
    pub fn from_json(text: &[u8]) -> Result<Self, ReceiptError> {
        if text.len() > RECEIPT_BYTES_MAX {
            return Err(ReceiptError::Malformed(format!("{} bytes are over the limit", text.len())));
        }
        let malformed = |e: serde_json::Error| ReceiptError::Malformed(e.to_string());
        // The version first: a newer receipt has fields that are unknown here, and that is not its fault.
        let version: VersionJson = serde_json::from_slice(text).map_err(malformed)?;
        if version.version != RECEIPT_VERSION {
            return Err(ReceiptError::Unknown { what: "receipt version", found: version.version.to_string() });
        }
        let json: ReceiptJson = serde_json::from_slice(text).map_err(malformed)?;
        let known = serde_json::to_value(&json).map_err(malformed)?;
        if serde_json::from_slice::<serde_json::Value>(text).map_err(malformed)? != known {
            return Err(ReceiptError::Malformed("it has fields that are unknown or not in their one form".into()));
        }
        json.try_into()
    }

    /// What the agent signs: the JSON text without a cosignature.
    pub fn cosigned_bytes(&self) -> Vec<u8> {
        Self { cosignature: None, ..self.clone() }.to_json().into_bytes()
    }
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
    from_hex(text.strip_prefix("ed25519:")?)?.try_into().ok()
}

#[derive(Deserialize)]
struct VersionJson {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct ReceiptJson {
    #[serde(flatten)]
    statement: Statement,
    ledger: LedgerJson,
    gateway_statement: serde_json::Value,
    cosignature: Option<Cosignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LedgerJson {
    index: u64,
    leaf: String,
    salt: String,
    size: u64,
    proof: Vec<String>,
    checkpoint: String,
}

impl From<&Receipt> for ReceiptJson {
    fn from(receipt: &Receipt) -> Self {
        let ledger = &receipt.ledger;
        Self {
            statement: receipt.statement.clone(),
            ledger: LedgerJson {
                index: ledger.index,
                leaf: STANDARD.encode(&ledger.leaf),
                salt: STANDARD.encode(&ledger.salt),
                size: ledger.size,
                proof: ledger.proof.iter().map(|hash| STANDARD.encode(hash)).collect(),
                checkpoint: ledger.checkpoint.clone(),
            },
            // An envelope's text is JSON.
            gateway_statement: serde_json::from_str(&receipt.gateway_statement.to_json()).unwrap_or_default(),
            cosignature: receipt.cosignature.clone(),
        }
    }
}

impl TryFrom<ReceiptJson> for Receipt {
    type Error = ReceiptError;
    fn try_from(json: ReceiptJson) -> Result<Self, ReceiptError> {
        let malformed = |what: &str| ReceiptError::Malformed(what.to_owned());
        let decode = |text: &str| STANDARD.decode(text).map_err(|e| ReceiptError::Malformed(e.to_string()));
        if json.ledger.proof.len() > INCLUSION_HASHES_MAX {
            return Err(malformed("the proof is longer than any"));
        }
        if json.statement.files.len() > RECEIPT_FILES_MAX {
            return Err(malformed("it lists more files than a receipt does"));
        }
        let hash = |text: &String| decode(text)?.try_into().map_err(|_| malformed("a hash has 32 bytes"));
        let envelope = Envelope::from_json(json.gateway_statement.to_string().as_bytes());
        Ok(Self {
            statement: json.statement,
            ledger: LedgerProof {
                index: json.ledger.index,
                leaf: decode(&json.ledger.leaf)?,
                salt: decode(&json.ledger.salt)?,
                size: json.ledger.size,
                proof: json.ledger.proof.iter().map(hash).collect::<Result<_, _>>()?,
                checkpoint: json.ledger.checkpoint,
            },
            gateway_statement: envelope.map_err(|e| ReceiptError::Malformed(e.to_string()))?,
            cosignature: json.cosignature,
        })
    }
}

/// A value as its text.
mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::fmt::Display;
    use std::str::FromStr;

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
