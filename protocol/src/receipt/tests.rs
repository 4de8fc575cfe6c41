#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::checkpoint::Signer;
use crate::checkpoint::tests::Seeded;
use crate::digest::Digest;
use crate::ids::{EntryId, GrantId, TransferId};
use crate::leaf::LeafKind;
use crate::merkle::{Frontier, Plan};
use proptest::prelude::*;
use std::collections::HashMap;

const GATEWAY: GatewayId = GatewayId::from_bits(3);
const SALT: [u8; 32] = [5; 32];

fn statement() -> Statement {
    Statement {
        version: RECEIPT_VERSION,
        algorithms: Algorithms { ledger: "sha256".into(), signature: "ed25519".into() },
        gateway: GATEWAY,
        transfer: TransferId::from_bits(9),
        agent: "91440300708461136T/night".parse().unwrap(),
        direction: Direction::Push,
        entry: EntryId::from_bits(4),
        entry_code: Some("307010/000001".into()),
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
        files: vec![ReceiptFile { path: "目录/一.csv".into(), bytes: 3, root: Digest::blake3(b"abc") }],
        manifest: None,
        committed_at: 1_790_000_000_123,
    }
}

fn body() -> GatewayBody {
    let key = crate::digest::to_hex(&Seeded::new(1).public_key());
    GatewayBody { domain: "example".into(), receipt_key: format!("ed25519:{key}"), ca: Digest::sha256(b"ca") }
}

/// A receipt for leaf 5 of 11.
fn receipt() -> Receipt {
    receipt_over(&statement().leaf(&SALT).encode().unwrap())
}

fn receipt_over(leaf: &[u8]) -> Receipt {
    let (index, size) = (5, 11);
    let mut frontier = Frontier::new(Algorithm::Sha256);
    let mut nodes = HashMap::new();
    for i in 0..size {
        let bytes = if i == index { leaf.to_vec() } else { i.to_string().into_bytes() };
        nodes.extend(frontier.append(leaf_hash(Algorithm::Sha256, &bytes)));
    }
    let plan = Plan::inclusion(index, size).unwrap();
    let hashes: Vec<_> = plan.nodes().iter().map(|n| nodes[n]).collect();
    let checkpoint = Checkpoint { origin: origin("example", GATEWAY), size, root: frontier.root() };
    Receipt {
        statement: statement(),
        ledger: LedgerProof {
            index,
            leaf: leaf.to_vec(),
            salt: SALT.to_vec(),
            size,
            proof: plan.combine(Algorithm::Sha256, &hashes).unwrap(),
            checkpoint: checkpoint.sign(&Seeded::new(1)).unwrap(),
        },
        gateway_statement: Envelope { payload_type: "t".into(), payload: b"{}".to_vec(), signatures: vec![] },
        cosignature: None,
    }
}

fn check(receipt: &Receipt) -> Result<Verified, ReceiptError> {
    verify(receipt, |_, gateway| if gateway == GATEWAY { Ok(body()) } else { Err("another gateway".into()) })
}

#[test]
fn a_good_receipt_verifies_and_its_text_is_stable() {
    let receipt = receipt();
    let verified = check(&receipt).unwrap();
    assert_eq!((verified.checkpoint.size, verified.cosigned_by), (11, None));
    let text = receipt.to_json();
    assert!(
        text.starts_with(r#"{"version":1,"algorithms":{"ledger":"sha256","signature":"ed25519"},"gateway":"gateway-"#)
    );
    let again = Receipt::from_json(text.as_bytes()).unwrap();
    assert_eq!(again, receipt);
    assert_eq!(again.to_json(), text);
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(&text).unwrap()).unwrap();
    assert_eq!(Receipt::from_json(pretty.as_bytes()), Ok(receipt));
}

#[test]
fn every_link_of_the_chain_is_checked() {
    let good = receipt();
    let refused = verify(&good, |_, _| Err("not the root's".into()));
    assert_eq!(refused, Err(ReceiptError::GatewayStatement("not the root's".into())));
    let other_key =
        verify(&good, |_, _| Ok(GatewayBody { receipt_key: format!("ed25519:{}", "00".repeat(32)), ..body() }));
    assert_eq!(other_key, Err(ReceiptError::Checkpoint(CheckpointError::OtherKey)));
    let other_domain = verify(&good, |_, _| Ok(GatewayBody { domain: "elsewhere".into(), ..body() }));
    assert_eq!(other_domain, Err(ReceiptError::Checkpoint(CheckpointError::OtherKey)));
    let strange_key = verify(&good, |_, _| Ok(GatewayBody { receipt_key: "sm2:00".into(), ..body() }));
    assert!(matches!(strange_key, Err(ReceiptError::Unknown { what: "receipt key", .. })));

    let changed = |change: fn(&mut Receipt)| {
        let mut receipt = good.clone();
        change(&mut receipt);
        check(&receipt).unwrap_err()
    };
    assert_eq!(changed(|r| r.ledger.size = 12), ReceiptError::OtherSize { proof: 12, checkpoint: 11 });
    assert_eq!(changed(|r| r.ledger.index = 4), ReceiptError::Inclusion(ProofError::WrongRoot));
    assert_eq!(changed(|r| r.ledger.proof[0][0] ^= 1), ReceiptError::Inclusion(ProofError::WrongRoot));
    assert_eq!(changed(|r| r.ledger.leaf[0] ^= 1), ReceiptError::Inclusion(ProofError::WrongRoot));
    assert_eq!(changed(|r| r.ledger.salt[0] ^= 1), ReceiptError::OtherLeaf { field: "commitment" });
    assert!(matches!(changed(|r| r.statement.gateway = GatewayId::from_bits(1)), ReceiptError::GatewayStatement(_)));
    assert!(matches!(changed(|r| r.statement.version = 2), ReceiptError::Unknown { .. }));
    assert!(matches!(changed(|r| r.statement.algorithms.ledger = "sm3".into()), ReceiptError::Unknown { .. }));
    assert!(matches!(changed(|r| r.statement.algorithms.signature = "sm2".into()), ReceiptError::Unknown { .. }));
}

#[test]
fn every_field_of_the_statement_is_bound() {
    let differs = |change: fn(&mut Statement)| {
        let mut receipt = receipt();
        change(&mut receipt.statement);
        match check(&receipt) {
            Err(ReceiptError::OtherLeaf { field }) => field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(differs(|s| s.transfer = TransferId::from_bits(1)), "transfer");
    assert_eq!(differs(|s| s.agent = "91440300708461136T/other".parse().unwrap()), "agent");
    assert_eq!(differs(|s| s.direction = Direction::Pull), "direction");
    assert_eq!(differs(|s| s.entry = EntryId::from_bits(1)), "entry");
    assert_eq!(differs(|s| s.entry_code = None), "commitment");
    let grant = |s: &mut Statement| s.grant = Some(GrantVersion { id: GrantId::from_bits(1), digest: s.bytes_root });
    assert_eq!(differs(grant), "grant");
    assert_eq!(differs(|s| s.dataset_version = 3), "commitment");
    assert_eq!(differs(|s| s.kind = DataKind::Table), "commitment");
    assert_eq!(differs(|s| s.bytes = 4), "bytes");
    assert_eq!(differs(|s| s.files_count = Some(2)), "count");
    assert_eq!(differs(|s| s.rows = Some(1)), "commitment");
    assert_eq!(differs(|s| s.bytes_root = Digest::blake3(b"x")), "commitment");
    assert_eq!(differs(|s| s.rows_digest = Some(Digest::blake3(b"x"))), "commitment");
    assert_eq!(differs(|s| s.files[0].path = "二".into()), "commitment");
    assert_eq!(differs(|s| s.manifest = Some(Digest::blake3(b"x"))), "commitment");
    assert_eq!(differs(|s| s.committed_at += 1), "committed_at");
}

#[test]
fn a_leaf_of_another_kind_is_no_receipt() {
    let cut = Leaf { kind: LeafKind::Cut, ..statement().leaf(&SALT) };
    assert_eq!(check(&receipt_over(&cut.encode().unwrap())), Err(ReceiptError::OtherLeaf { field: "direction" }));
    let more = Leaf { what: Some("more".into()), ..statement().leaf(&SALT) };
    assert_eq!(check(&receipt_over(&more.encode().unwrap())), Err(ReceiptError::OtherLeaf { field: "leaf" }));
    assert!(matches!(check(&receipt_over(b"{}")), Err(ReceiptError::Leaf(_))));
}

#[test]
fn a_cosignature_covers_the_whole_receipt() {
    let (agent, mut cosigned) = (Seeded::new(9), receipt());
    let key = format!("ed25519:{}", crate::digest::to_hex(&agent.public_key()));
    let signature = STANDARD.encode(agent.sign(&cosigned.cosigned_bytes()).unwrap());
    cosigned.cosignature = Some(Cosignature { key: key.clone(), signature });
    assert_eq!(check(&cosigned).unwrap().cosigned_by, Some(key));
    let read = Receipt::from_json(cosigned.to_json().as_bytes()).unwrap();
    assert_eq!(read, cosigned);
    let mut moved = cosigned;
    moved.gateway_statement.payload = b"{ }".to_vec();
    assert_eq!(check(&moved), Err(ReceiptError::Cosignature));
}

#[test]
fn fields_that_no_proof_covers_are_refused() {
    let text = receipt().to_json();
    for edited in [
        text.replacen("{\"version\":1,", "{\"version\":1,\"approved\":true,", 1),
        text.replacen("\"salt\"", "\"pepper\":1,\"salt\"", 1),
        text.replacen("\"ledger\":\"sha256\"", "\"ledger\":\"sha256\",\"more\":1", 1),
        text.replacen("{\"version\":1,", "{", 1),
        "[]".into(),
    ] {
        assert!(matches!(Receipt::from_json(edited.as_bytes()), Err(ReceiptError::Malformed(_))), "{edited}");
    }
    let newer = text.replacen("{\"version\":1,", "{\"version\":2,\"more\":1,", 1);
    assert!(matches!(Receipt::from_json(newer.as_bytes()), Err(ReceiptError::Unknown { .. })));
}

proptest! {
    #[test]
    fn no_byte_of_a_receipt_can_change(at in any::<prop::sample::Index>(), to in "[ -~]") {
        let good = receipt();
        let mut text = good.to_json();
        let at = at.index(text.len());
        prop_assume!(text.is_char_boundary(at) && text.is_char_boundary(at + 1) && text[at..=at] != to);
        text.replace_range(at..=at, &to);
        // The gateway's statement is the root's to check, which is not done here.
        if let Ok(read) = Receipt::from_json(text.as_bytes()) {
            let same = Receipt { gateway_statement: good.gateway_statement.clone(), ..read.clone() } == good;
            prop_assert!(same || check(&read).is_err(), "{text}");
        }
    }

    #[test]
    fn statements_read_back(bytes: u64, rows in prop::option::of(any::<u64>()), path in "\\PC{0,40}", at: i64) {
        let mut statement = Statement { bytes, rows, committed_at: at, ..statement() };
        statement.files[0].path = path;
        prop_assert_eq!(Statement::from_bytes(&statement.bytes()), Ok(statement));
    }
}
