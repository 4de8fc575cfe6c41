//! Receipts of one's own transfers: checked before they count, and signed with the agent's key.

use crate::error::{AgentError, Told};
use crate::transfer::{Expected, Notary};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lingqu_certs::key::ED25519_ID;
use lingqu_certs::profile::Profile;
use lingqu_protocol::receipt::{Cosignature, Receipt, ReceiptError};
use lingqu_protocol::wire::Cosign;
use std::fmt::Display;

/// Trusts what the profile pins, and signs with the profile's key.
#[derive(Clone, Debug)]
pub struct ProfileNotary(Profile);

impl ProfileNotary {
    /// For a profile.
    pub const fn new(profile: Profile) -> Self {
        Self(profile)
    }
}

impl Notary for ProfileNotary {
    fn verify(&self, receipt: &[u8], expected: &Expected) -> Result<(), AgentError> {
        let receipt = Receipt::from_json(receipt).map_err(|e| does_not_hold(&e))?;
        let settings = self.0.settings();
        lingqu_certs::receipt::verify(&receipt, &settings.root).map_err(|e| does_not_hold(&e))?;
        let says = &receipt.statement;
        same("gateway", says.gateway, settings.gateway)?;
        same("agent", &says.agent, &settings.agent)?;
        same("transfer", says.transfer, expected.transfer)?;
        at_least_as("bytes_root", Some(says.bytes_root), expected.bytes_root)?;
        at_least_as("rows_digest", says.rows_digest, expected.rows_digest)?;
        at_least_as("bytes", Some(says.bytes), expected.bytes)?;
        at_least_as("files", says.files_count, expected.files)?;
        at_least_as("rows", says.rows, expected.rows)
    }

    fn cosign(&self, receipt: &[u8]) -> Result<(Cosign, Vec<u8>), AgentError> {
        let mut receipt = Receipt::from_json(receipt).map_err(|e| does_not_hold(&e))?;
        let key = self.0.key()?;
        let signature = key.sign(&receipt.cosigned_bytes());
        receipt.cosignature =
            Some(Cosignature { key: key.public().to_string(), signature: STANDARD.encode(&signature) });
        let cosign = Cosign { algorithm: ED25519_ID.into(), signature: signature.into() };
        Ok((cosign, receipt.to_json().into_bytes()))
    }
}

/// What this side knows must stand in the receipt; what it does not know is the receipt's to say.
fn at_least_as<T: PartialEq + Display>(field: &str, says: Option<T>, expected: Option<T>) -> Result<(), AgentError> {
    match (says, expected) {
        (_, None) => Ok(()),
        (Some(says), Some(expected)) => same(field, says, expected),
        (None, Some(expected)) => Err(differs(field, "nothing", &expected.to_string())),
    }
}

fn same<T: PartialEq + Display>(field: &str, says: T, expected: T) -> Result<(), AgentError> {
    if says == expected { Ok(()) } else { Err(differs(field, &says.to_string(), &expected.to_string())) }
}

fn differs(field: &str, says: &str, expected: &str) -> AgentError {
    AgentError::Integrity(
        Told::new(
            "receipt_differs",
            format!("the receipt says {field} {says}; it must be {expected}"),
            format!("回执中 {field} 为 {says}，应为 {expected}"),
        )
        .next("keep your data; tell the gateway's operator", "保留数据，并告知网关运维人员"),
    )
}

fn does_not_hold(error: &ReceiptError) -> AgentError {
    AgentError::Integrity(
        Told::new("receipt", format!("the receipt does not hold: {error}"), format!("回执验证未通过：{error}"))
            .next("keep your data; tell the gateway's operator", "保留数据，并告知网关运维人员"),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::testing::{GATEWAY, World};
    use lingqu_certs::document;
    use lingqu_protocol::checkpoint::{Checkpoint, origin};
    use lingqu_protocol::digest::{Algorithm, Digest};
    use lingqu_protocol::ids::{EntryId, TransferId};
    use lingqu_protocol::merkle::leaf_hash;
    use lingqu_protocol::receipt::{Algorithms, DataKind, Direction, LedgerProof, RECEIPT_VERSION, Statement, verify};

    fn statement(world: &World) -> Statement {
        Statement {
            version: RECEIPT_VERSION,
            algorithms: Algorithms { ledger: "sha256".into(), signature: "ed25519".into() },
            gateway: GATEWAY,
            transfer: TransferId::from_bits(9),
            agent: world.agent(),
            direction: Direction::Push,
            entry: EntryId::from_bits(4),
            entry_code: None,
            grant: None,
            dataset_version: 2,
            kind: DataKind::File,
            bytes: 3,
            files_count: Some(1),
            rows: None,
            rows_read: None,
            rows_rejected: None,
            quality: vec![],
            bytes_root: Digest::blake3(b"abc"),
            rows_digest: None,
            files: vec![],
            manifest: None,
            committed_at: 1_000_000,
        }
    }

    fn receipt(world: &World, statement: Statement) -> Vec<u8> {
        let leaf = statement.leaf(&[1; 32]).encode().unwrap();
        let root = leaf_hash(Algorithm::Sha256, &leaf);
        let name = origin(World::DOMAIN, statement.gateway);
        let checkpoint = Checkpoint { origin: name, size: 1, root }.sign(&world.receipt_key()).unwrap();
        let ledger = LedgerProof { index: 0, leaf, salt: vec![1; 32], size: 1, proof: vec![], checkpoint };
        let gateway_statement = document::seal(&world.gateway_document(statement.gateway), &world.root()).unwrap();
        Receipt { statement, ledger, gateway_statement, cosignature: None }.to_json().into_bytes()
    }

    fn expected() -> Expected {
        Expected {
            transfer: TransferId::from_bits(9),
            bytes_root: Some(Digest::blake3(b"abc")),
            rows_digest: None,
            bytes: Some(3),
            files: Some(1),
            rows: None,
        }
    }

    #[test]
    fn a_receipt_that_says_what_was_sent_is_taken_and_signed() {
        let world = World::new();
        let notary = ProfileNotary::new(world.profile());
        let json = receipt(&world, statement(&world));
        notary.verify(&json, &expected()).unwrap();
        let (cosign, kept) = notary.cosign(&json).unwrap();
        let kept = Receipt::from_json(&kept).unwrap();
        let cosigned = lingqu_certs::receipt::verify(&kept, &world.profile().settings().root).unwrap();
        assert_eq!(cosigned.cosigned_by, Some(world.profile().key().unwrap().public().to_string()));
        assert_eq!(cosign.algorithm, "ed25519");
        let mut signed = Receipt::from_json(&json).unwrap();
        let key = world.profile().key().unwrap().public();
        signed.cosignature = Some(lingqu_protocol::receipt::Cosignature {
            key: key.to_string(),
            signature: {
                use base64::Engine as _;
                base64::engine::general_purpose::STANDARD.encode(&cosign.signature)
            },
        });
        let open = |envelope: &_, gateway| {
            lingqu_certs::receipt::open_gateway(envelope, gateway, &world.root().public()).map(|d| d.body)
        };
        assert_eq!(verify(&signed, open).unwrap().cosigned_by, Some(key.to_string()), "it verifies as a cosignature");
    }

    #[test]
    fn a_receipt_that_says_anything_else_is_an_integrity_error() {
        let world = World::new();
        let notary = ProfileNotary::new(world.profile());
        let good = statement(&world);
        let bad = [
            Statement { transfer: TransferId::from_bits(8), ..good.clone() },
            Statement { agent: "91350100M000100Y43/other".parse().unwrap(), ..good.clone() },
            Statement { bytes_root: Digest::blake3(b"abd"), ..good.clone() },
            Statement { bytes: 4, ..good.clone() },
            Statement { files_count: None, rows: Some(1), ..good.clone() },
            Statement { gateway: lingqu_protocol::ids::GatewayId::from_bits(77), ..good.clone() },
        ];
        for (i, statement) in bad.into_iter().enumerate() {
            let error = notary.verify(&receipt(&world, statement), &expected()).unwrap_err();
            assert_eq!(error.exit_code(), 5, "case {i}");
        }
        let rows = Expected { rows: Some(5), ..expected() };
        assert_eq!(notary.verify(&receipt(&world, good.clone()), &rows).unwrap_err().told().word, "receipt_differs");
        let mut forged = receipt(&world, good);
        let at = forged.len() / 2;
        forged[at] ^= 1;
        assert_eq!(notary.verify(&forged, &expected()).unwrap_err().exit_code(), 5);
        assert_eq!(notary.cosign(b"junk").unwrap_err().exit_code(), 5);
    }
}
