use super::*;
use lingqu_certs::document;
use lingqu_certs::key::SigningKey;
use lingqu_protocol::documents::{Document, GatewayBody};
use lingqu_protocol::ids::{DocumentId, GatewayId};
use lingqu_protocol::merkle::{Frontier, HashReader, Node, Plan, leaf_hash};
use lingqu_protocol::wire;
use std::collections::HashMap;
use std::time::Duration;

const GATEWAY: GatewayId = GatewayId::from_bits(5);
const DOMAIN: &str = "example.gov.cn";

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32]).unwrap()
}

fn pins() -> Pins {
    Pins { root: key(1).public(), ca: Digest::sha256(b"ca") }
}

/// A ledger whose leaf `i` says `i`, but from `fork_at` on something else.
struct Log(Frontier, HashMap<Node, Hash>);

impl HashReader for Log {
    type Error = Node;
    fn hash(&self, node: Node) -> Result<Hash, Node> {
        self.1.get(&node).copied().ok_or(node)
    }
}

impl Log {
    fn new(size: u64, fork_at: u64) -> Self {
        let mut log = Self(Frontier::new(Algorithm::Sha256), HashMap::new());
        for i in 0..size {
            let leaf = format!("{i}{}", if i < fork_at { "" } else { "!" });
            let made = log.0.append(leaf_hash(Algorithm::Sha256, leaf.as_bytes()));
            log.1.extend(made);
        }
        log
    }

    fn note(&self) -> String {
        let root = self.0.root();
        Checkpoint { origin: origin(DOMAIN, GATEWAY), size: self.0.size(), root }.sign(&key(2)).unwrap()
    }

    fn proof_from(&self, old_size: u64) -> Vec<Vec<u8>> {
        let plan = Plan::consistency(old_size, self.0.size()).unwrap();
        plan.read(Algorithm::Sha256, self).unwrap().into_iter().map(|hash| hash.to_vec()).collect()
    }
}

fn statement(signer: u8, gateway: GatewayId, ca: &[u8]) -> Vec<u8> {
    let body = GatewayBody { domain: DOMAIN.into(), receipt_key: key(2).public().to_string(), ca: Digest::sha256(ca) };
    let document =
        Document { gateway, id: DocumentId::from_bits(1), predecessor: None, issued_at: 1, expires_at: 2, body };
    document::seal(&document, &key(signer)).unwrap().to_json().into_bytes()
}

fn shown(checkpoint: String, consistency: Vec<Vec<u8>>) -> Greeting {
    Greeting {
        version: 1,
        limits: wire::limits(),
        gateway: GATEWAY,
        domain: DOMAIN.into(),
        address_seen: String::new(),
        clock_difference_ms: 0,
        round_trip: Duration::ZERO,
        checkpoint,
        consistency,
        statement: statement(1, GATEWAY, b"ca"),
    }
}

#[test]
fn a_ledger_that_grows_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(dir.path().join("checkpoints"));
    assert_eq!(checkpoints.latest().unwrap(), "");
    let mut kept = String::new();
    for (old, size) in [(0, 3), (3, 3), (3, 4), (4, 11), (11, 64)] {
        let log = Log::new(size, u64::MAX);
        let proof = if old == 0 { vec![] } else { log.proof_from(old) };
        checkpoints.follow(&kept, &shown(log.note(), proof), &pins()).unwrap();
        kept = checkpoints.latest().unwrap();
        assert_eq!(kept, log.note());
    }
    // Another process, whose connection is older, comes late with what it saw.
    checkpoints.follow("", &shown(Log::new(11, u64::MAX).note(), vec![]), &pins()).unwrap();
    assert_eq!(checkpoints.latest().unwrap(), kept, "the larger one stays");
}

#[test]
fn a_fork_a_cut_tail_and_a_missing_checkpoint_are_integrity_errors_with_evidence() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(dir.path().to_owned());
    let kept = Log::new(7, u64::MAX).note();
    checkpoints.follow("", &shown(kept.clone(), vec![]), &pins()).unwrap();
    let forked = Log::new(12, 5);
    let honest = Log::new(12, u64::MAX);
    let cases = [
        shown(forked.note(), forked.proof_from(7)),
        shown(Log::new(7, 5).note(), vec![]),
        shown(honest.note(), vec![]),
        shown(honest.note(), vec![vec![0; 31]]),
        shown(honest.note(), vec![vec![0; 32]; CONSISTENCY_HASHES_MAX + 1]),
        shown(Log::new(6, u64::MAX).note(), vec![]),
        shown(String::new(), vec![]),
    ];
    for (i, greeting) in cases.iter().enumerate() {
        let error = checkpoints.follow(&kept, greeting, &pins()).unwrap_err();
        assert_eq!(error.exit_code(), 5, "case {i}: {error}");
        assert_eq!(error.told().word, "ledger_inconsistent", "case {i}");
        let path = error.told().what.en.rsplit_once("evidence: ").unwrap().1.to_owned();
        let evidence = std::fs::read_to_string(path).unwrap();
        assert!(evidence.contains(&kept), "case {i}: what was kept is in the evidence");
        assert!(evidence.contains(&greeting.checkpoint), "case {i}: what was shown is in the evidence");
        assert_eq!(checkpoints.latest().unwrap(), kept, "case {i}: what was kept stays");
    }
}

#[test]
fn only_the_roots_word_for_this_gateway_and_ca_counts() {
    let good = shown(Log::new(2, u64::MAX).note(), vec![]);
    assert!(check("", &good, &pins()).is_ok());
    for bad in [
        statement(3, GATEWAY, b"ca"),
        statement(1, GatewayId::from_bits(6), b"ca"),
        statement(1, GATEWAY, b"another ca"),
        b"{}".to_vec(),
        vec![],
    ] {
        let doubt = check("", &Greeting { statement: bad, ..good.clone() }, &pins()).unwrap_err();
        assert!(matches!(doubt, Doubt::Statement(_) | Doubt::OtherCa), "{doubt:?}");
    }
    let other_domain = Greeting { domain: "elsewhere".into(), ..good };
    assert_eq!(check("", &other_domain, &pins()).unwrap_err(), Doubt::OtherCa);
}

#[test]
fn a_checkpoint_by_another_key_and_a_damaged_kept_one_are_told_apart() {
    let log = Log::new(2, u64::MAX);
    let by_other = Checkpoint { origin: origin(DOMAIN, GATEWAY), size: 2, root: log.0.root() }.sign(&key(9)).unwrap();
    assert!(matches!(check("", &shown(by_other.clone(), vec![]), &pins()), Err(Doubt::Shown(_))));
    assert!(matches!(check(&by_other, &shown(log.note(), vec![]), &pins()), Err(Doubt::KeptIsDamaged(_))));
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(dir.path().to_owned());
    let error = checkpoints.follow("junk", &shown(log.note(), vec![]), &pins()).unwrap_err();
    assert_eq!((error.exit_code(), error.told().word.as_str()), (5, "checkpoint_damaged"));
    std::fs::write(dir.path().join(LATEST_FILE), [0xff, 0xfe]).unwrap();
    assert_eq!(checkpoints.latest().unwrap_err().exit_code(), 5);
}
