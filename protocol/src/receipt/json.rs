//! The receipt's JSON text.

use super::{Cosignature, LedgerProof, RECEIPT_FILES_MAX, RECEIPT_VERSION, Receipt, ReceiptError, Statement};
use crate::dsse::Envelope;
use crate::merkle::INCLUSION_HASHES_MAX;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Bytes of a receipt's text: the files at their longest names, a proof and two signed texts.
pub const RECEIPT_BYTES_MAX: usize = 512 * 1024;

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
