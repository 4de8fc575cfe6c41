//! Checking a receipt with nothing but the root's public key, and signing checkpoints with a [`SigningKey`].

use crate::document;
use crate::key::{PublicKey, SigningKey};
use lingqu_protocol::checkpoint::Signer;
use lingqu_protocol::documents::{Document, GatewayBody};
use lingqu_protocol::dsse::Envelope;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::GatewayId;
use lingqu_protocol::receipt::{self, Receipt, ReceiptError, Verified};

impl Signer for SigningKey {
    fn public_key(&self) -> [u8; 32] {
        *self.public().as_bytes()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], String> {
        Self::sign(self, message).try_into().map_err(|_| "an Ed25519 signature has 64 bytes".to_owned())
    }
}

/// Checks a receipt, from the root down.
///
/// # Errors
/// The first check that failed.
pub fn verify(receipt: &Receipt, root: &PublicKey) -> Result<Verified, ReceiptError> {
    receipt::verify(receipt, |envelope, gateway| open_gateway(envelope, gateway, root).map(|d| d.body))
}

/// Opens the root's statement about a gateway.
///
/// The statement names the gateway's keys for good; its expiry is the time until which a gateway takes it. It is opened
/// as of its own date.
///
/// # Errors
/// Why the root does not vouch for it.
pub fn open_gateway(
    envelope: &Envelope,
    gateway: GatewayId,
    root: &PublicKey,
) -> Result<Document<GatewayBody>, String> {
    let undated = |e: serde_json::Error| e.to_string();
    let unchecked: Document<GatewayBody> = serde_json::from_slice(&envelope.payload).map_err(undated)?;
    let issued_at = Timestamp(unchecked.issued_at);
    let trusted = |keyid: &str| (keyid == root.key_id().to_string()).then_some(*root);
    document::open::<GatewayBody>(envelope, gateway, issued_at, trusted)
        .map(|opened| opened.document)
        .map_err(|e| e.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use lingqu_protocol::checkpoint::{Checkpoint, origin};
    use lingqu_protocol::digest::{Algorithm, Digest};
    use lingqu_protocol::ids::{DocumentId, EntryId, TransferId};
    use lingqu_protocol::merkle::leaf_hash;
    use lingqu_protocol::receipt::{Algorithms, DataKind, Direction, LedgerProof, RECEIPT_VERSION, Statement};

    const GATEWAY: GatewayId = GatewayId::from_bits(3);

    fn statement_of_gateway(root: &SigningKey, gateway: GatewayId, receipt_key: &SigningKey) -> Envelope {
        let body = GatewayBody {
            domain: "example".into(),
            receipt_key: receipt_key.public().to_string(),
            ca: Digest::sha256(b"ca"),
        };
        let id = DocumentId::from_bits(1);
        let document = Document { gateway, id, predecessor: None, issued_at: 1000, expires_at: 2000, body };
        document::seal(&document, root).unwrap()
    }

    fn receipt(gateway_statement: Envelope, receipt_key: &SigningKey) -> Receipt {
        let statement = Statement {
            version: RECEIPT_VERSION,
            algorithms: Algorithms { ledger: "sha256".into(), signature: "ed25519".into() },
            gateway: GATEWAY,
            transfer: TransferId::from_bits(9),
            agent: "91440300708461136T/night".parse().unwrap(),
            direction: Direction::Pull,
            entry: EntryId::from_bits(4),
            entry_code: None,
            grant: None,
            dataset_version: 2,
            kind: DataKind::Table,
            bytes: 3,
            files_count: None,
            rows: Some(1),
            rows_read: None,
            rows_rejected: None,
            quality: vec![],
            bytes_root: Digest::blake3(b"abc"),
            rows_digest: None,
            files: vec![],
            manifest: None,
            // Long after the statement about the gateway ran out.
            committed_at: 1_000_000,
        };
        let leaf = statement.leaf(&[1; 32]).encode().unwrap();
        let root = leaf_hash(Algorithm::Sha256, &leaf);
        let checkpoint = Checkpoint { origin: origin("example", GATEWAY), size: 1, root }.sign(receipt_key).unwrap();
        let ledger = LedgerProof { index: 0, leaf, salt: vec![1; 32], size: 1, proof: vec![], checkpoint };
        Receipt { statement, ledger, gateway_statement, cosignature: None }
    }

    #[test]
    fn only_the_roots_word_for_this_gateway_counts() {
        let [root, other_root, key, other_key] = [1, 2, 3, 4].map(|seed| SigningKey::from_seed([seed; 32]).unwrap());
        let good = receipt(statement_of_gateway(&root, GATEWAY, &key), &key);
        assert_eq!(verify(&good, &root.public()).unwrap().checkpoint.size, 1);
        assert!(matches!(verify(&good, &other_root.public()), Err(ReceiptError::GatewayStatement(_))));
        let of_another = receipt(statement_of_gateway(&root, GatewayId::from_bits(4), &key), &key);
        assert!(matches!(verify(&of_another, &root.public()), Err(ReceiptError::GatewayStatement(_))));
        let by_another_key = receipt(statement_of_gateway(&root, GATEWAY, &key), &other_key);
        assert!(matches!(verify(&by_another_key, &root.public()), Err(ReceiptError::Checkpoint(_))));
        let mut edited = good;
        edited.gateway_statement.payload[10] ^= 1;
        assert!(matches!(verify(&edited, &root.public()), Err(ReceiptError::GatewayStatement(_))));
    }

    /// For another implementation: made by fixed keys, so that its bytes never change.
    #[test]
    fn the_vector_is_what_we_make_and_verifies() {
        #[derive(serde::Deserialize)]
        struct Vector {
            root: String,
            receipt: String,
        }

        let vector: Vector = serde_json::from_str(include_str!("../../docs/vectors/receipt.json")).unwrap();
        let [root, key] = [1, 3].map(|seed| SigningKey::from_seed([seed; 32]).unwrap());
        let made = receipt(statement_of_gateway(&root, GATEWAY, &key), &key);
        assert_eq!(vector.receipt, made.to_json());
        assert_eq!(vector.root, root.public().to_string());
        let read = Receipt::from_json(vector.receipt.as_bytes()).unwrap();
        assert_eq!(verify(&read, &vector.root.parse().unwrap()).unwrap().checkpoint.size, 1);
    }
}
