#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::state::{Change, Committed, MemoryState, NewLeaf, SqliteState};
use lingqu_certs::document;
use lingqu_certs::key::SigningKey;
use lingqu_certs::receipt;
use lingqu_protocol::checkpoint::{Checkpoint, NoteKey};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::{Document, GatewayBody};
use lingqu_protocol::host::Entropy;
use lingqu_protocol::ids::{DocumentId, EntryId, TransferId};
use lingqu_protocol::leaf::LeafKind;
use lingqu_protocol::merkle::verify_consistency;
use lingqu_protocol::receipt::{Algorithms, DataKind, Direction, RECEIPT_VERSION};
use sqlx::{AssertSqlSafe, ConnectOptions};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

const GATEWAY: GatewayId = GatewayId::from_bits(77);

/// Counts upwards, so that no two salts are equal.
#[derive(Default)]
struct Counting(AtomicU8);

impl Entropy for Counting {
    fn fill(&self, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(self.0.fetch_add(1, Ordering::Relaxed));
        Ok(())
    }
}

struct Setup {
    ledger: Ledger,
    root: SigningKey,
    note_key: NoteKey,
    entropy: Counting,
}

fn setup(state: Arc<dyn State>) -> Setup {
    let [root, key] = [1, 2].map(|seed| SigningKey::from_seed([seed; 32]).unwrap());
    let body = GatewayBody { domain: "d".into(), receipt_key: key.public().to_string(), ca: Digest::sha256(b"") };
    let id = DocumentId::from_bits(1);
    let statement = Document { gateway: GATEWAY, id, predecessor: None, issued_at: 0, expires_at: 1, body };
    let statement = document::seal(&statement, &root).unwrap();
    let note_key = NoteKey { name: origin("d", GATEWAY), public: *key.public().as_bytes() };
    let ledger = Ledger::new(state, Arc::new(key), "d", GATEWAY, statement);
    Setup { ledger, root, note_key, entropy: Counting::default() }
}

fn statement(transfer: u128) -> Statement {
    Statement {
        version: RECEIPT_VERSION,
        algorithms: Algorithms { ledger: "sha256".into(), signature: "ed25519".into() },
        gateway: GATEWAY,
        transfer: TransferId::from_bits(transfer),
        agent: "91440300708461136T/night".parse().unwrap(),
        direction: Direction::Push,
        entry: EntryId::from_bits(4),
        entry_code: None,
        grant: None,
        dataset_version: 1,
        kind: DataKind::Table,
        bytes: 10,
        files_count: None,
        rows: Some(2),
        rows_read: None,
        rows_rejected: None,
        quality: vec![],
        bytes_root: Digest::blake3(b"x"),
        rows_digest: Some(Digest::blake3(b"y")),
        files: vec![],
        manifest: None,
        committed_at: 1000,
    }
}

impl Setup {
    fn entry(&self, word: &str, at: i64) -> NewLeaf {
        let entry = Entry::new(LeafKind::RegistryAct, Timestamp(at)).what(word).committing_to("为什么");
        entry.seal(&self.entropy).unwrap()
    }

    async fn commit(&self, leaves: Vec<NewLeaf>) -> Committed {
        self.ledger.state.commit(Change { leaves, ..Change::default() }).await.unwrap()
    }

    /// Two leaves in each of `commits`.
    async fn fill(&self, commits: i64) {
        for i in 0..commits {
            self.commit(vec![self.entry("first", i), self.entry("second", i)]).await;
        }
    }

    async fn shown(&self) -> Checkpoint {
        let (_, note) = self.ledger.latest().await.unwrap();
        Checkpoint::verify(&note, &self.note_key).unwrap()
    }
}

#[tokio::test]
async fn a_receipt_is_the_same_however_much_later_it_is_asked_for() {
    let setup = setup(MemoryState::new());
    setup.fill(3).await;
    let leaf = receipt_leaf(&statement(5), &setup.entropy).unwrap();
    let committed = setup.commit(vec![setup.entry("before", 1), leaf, setup.entry("after", 1)]).await;
    let (index, size) = (committed.first_index + 1, committed.size);
    let first = setup.ledger.receipt(index, size).await.unwrap();
    receipt::verify(&first, &setup.root.public()).unwrap();
    assert_eq!(first.statement, statement(5));
    setup.fill(20).await;
    assert_eq!(setup.ledger.receipt(index, size).await.unwrap().to_json(), first.to_json());
}

#[tokio::test]
async fn what_has_no_receipt_gets_none() {
    let setup = setup(MemoryState::new());
    setup.fill(1).await;
    let leaf = receipt_leaf(&statement(5), &setup.entropy).unwrap();
    let committed = setup.commit(vec![leaf]).await;
    assert!(matches!(setup.ledger.receipt(0, 2).await, Err(LedgerError::NotAReceipt { index: 0, .. })));
    assert_eq!(setup.ledger.receipt(9, 3).await, Err(LedgerError::NoLeaf { index: 9, size: 3 }));
    assert_eq!(setup.ledger.receipt(2, 2).await, Err(LedgerError::NoLeaf { index: 2, size: 2 }));
    assert_eq!(setup.ledger.receipt(2, 1).await, Err(LedgerError::NotCommitted { size: 1 }));
    setup.ledger.state.commit(Change { purges: vec![2], ..Change::default() }).await.unwrap();
    assert_eq!(setup.ledger.receipt(2, committed.size).await, Err(LedgerError::Purged { index: 2 }));
}

#[tokio::test]
async fn checkpoints_follow_one_another() {
    let setup = setup(MemoryState::new());
    let mut shown = vec![setup.shown().await];
    assert_eq!(setup.ledger.last_at().await, Ok(None));
    for _ in 0..6 {
        setup.fill(1).await;
        shown.push(setup.shown().await);
    }
    assert_eq!(setup.ledger.last_at().await, Ok(Some(Timestamp(0))));
    let last = shown.last().unwrap();
    for old in &shown {
        let proof = setup.ledger.consistency(old.size, last.size).await.unwrap();
        verify_consistency(LEDGER_ALGORITHM, old.size, last.size, &old.root, &last.root, &proof).unwrap();
    }
    assert!(matches!(setup.ledger.consistency(1, 99).await, Err(LedgerError::NoLeaf { .. })));
    assert!(matches!(setup.ledger.consistency(5, 4).await, Err(LedgerError::NoLeaf { .. })));
    assert_eq!(verify(setup.ledger.state.as_ref(), &shown).await, Ok(Head { size: 12, root: last.root }));
}

/// A ledger of ten leaves in a file, one commit for each two, the checkpoint that an agent keeps of it, and its path.
async fn ten_leaves() -> (tempfile::TempDir, PathBuf, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let state = Arc::new(SqliteState::open(&path).await.unwrap());
    let setup = setup(state.clone());
    setup.fill(5).await;
    let shown = setup.shown().await;
    assert_eq!(verify(state.as_ref(), std::slice::from_ref(&shown)).await.map(|h| h.size), Ok(10));
    state.close().await;
    (folder, path, shown)
}

async fn run_sql(path: &PathBuf, sql: &str) {
    let mut conn = sqlx::sqlite::SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.unwrap();
    sqlx::Connection::close(conn).await.unwrap();
}

/// Edits the file of ten leaves with `sql` and says what the verifier finds, without and with an outside checkpoint.
async fn found_after(sql: &str) -> (Option<Fault>, Option<Fault>) {
    let (_folder, path, shown) = ten_leaves().await;
    run_sql(&path, sql).await;
    let state = SqliteState::open(&path).await.unwrap();
    let fault = |result| match result {
        Ok(_) => None,
        Err(VerifyError::Fault(fault)) => Some(fault),
        Err(VerifyError::State(error)) => panic!("{error}"),
    };
    let alone = fault(verify(&state, &[]).await);
    (alone, fault(verify(&state, &[shown]).await))
}

#[tokio::test]
async fn an_edited_record_is_named() {
    let changed = Some(Fault::Changed { index: 6 });
    let edit =
        "UPDATE leaves SET bytes = CAST(replace(CAST(bytes AS TEXT), 'first', 'third') AS BLOB) WHERE leaf_index = 6";
    assert_eq!(found_after(edit).await, (changed.clone(), changed));
    let forged = "UPDATE leaves SET payload = CAST('别的' AS BLOB) WHERE leaf_index = 3";
    let named = Some(Fault::PayloadChanged { index: 3 });
    assert_eq!(found_after(forged).await, (named.clone(), named));
    let both = format!("{edit}; {forged}");
    assert_eq!(found_after(&both).await.0, Some(Fault::PayloadChanged { index: 3 }), "the first is named");
    let half_purged = "UPDATE leaves SET salt = NULL WHERE leaf_index = 3";
    assert_eq!(found_after(half_purged).await.0, Some(Fault::PayloadChanged { index: 3 }));
}

#[tokio::test]
async fn a_deleted_record_is_named() {
    let missing = Some(Fault::Missing { index: 4 });
    assert_eq!(found_after("DELETE FROM leaves WHERE leaf_index = 4").await, (missing.clone(), missing));
    // Deleted, and the ones behind it moved up.
    let moved = "DELETE FROM leaves WHERE leaf_index = 4;
        UPDATE leaves SET leaf_index = 4 WHERE leaf_index = 5;";
    assert_eq!(found_after(moved).await.0, Some(Fault::Changed { index: 4 }));
}

#[tokio::test]
async fn reordered_records_are_named() {
    let swap = "UPDATE leaves SET leaf_index = 100 WHERE leaf_index = 2;
        UPDATE leaves SET leaf_index = 2 WHERE leaf_index = 7;
        UPDATE leaves SET leaf_index = 7 WHERE leaf_index = 100;";
    assert_eq!(found_after(swap).await.0, Some(Fault::Changed { index: 2 }));
}

#[tokio::test]
async fn changed_hashes_and_roots_are_named() {
    let hash = "UPDATE nodes SET hash = zeroblob(32) WHERE level = 1 AND node_index = 1";
    let node = lingqu_protocol::merkle::Node { level: 1, index: 1 };
    assert_eq!(found_after(hash).await.0, Some(Fault::HashChanged { node, index: 3 }));
    let missing = "DELETE FROM nodes WHERE level = 2 AND node_index = 1";
    let node = lingqu_protocol::merkle::Node { level: 2, index: 1 };
    assert_eq!(found_after(missing).await.0, Some(Fault::HashChanged { node, index: 7 }));
    let root = "UPDATE heads SET root = zeroblob(32) WHERE size = 6";
    assert_eq!(found_after(root).await.0, Some(Fault::OtherRoot { from: 4, size: 6 }));
}

#[tokio::test]
async fn a_cut_tail_is_seen() {
    let cut = "DELETE FROM leaves WHERE leaf_index >= 7";
    assert_eq!(found_after(cut).await.0, Some(Fault::Missing { index: 7 }));
    let heads = "DELETE FROM heads WHERE size > 6";
    assert_eq!(found_after(heads).await.0, Some(Fault::NeverCommitted { index: 6 }));
    // Cut so that what is left is a good ledger, as an older database is: only the outside checkpoint tells.
    let clean = "DELETE FROM leaves WHERE leaf_index >= 6; DELETE FROM heads WHERE size > 6;
        DELETE FROM nodes WHERE (node_index + 1) << level > 6;";
    assert_eq!(found_after(clean).await, (None, Some(Fault::Shorter { size: 6, outside: 10 })));
}

#[tokio::test]
async fn a_rewritten_history_is_seen_from_outside() {
    let (_folder, _, shown) = ten_leaves().await;
    // Another ledger of the same size: what a thorough forger leaves behind.
    let setup = setup(MemoryState::new());
    setup.fill(4).await;
    setup.commit(vec![setup.entry("first", 4), setup.entry("forged", 4)]).await;
    let state = setup.ledger.state.as_ref();
    assert!(verify(state, &[]).await.is_ok());
    assert_eq!(verify(state, std::slice::from_ref(&shown)).await, Err(Fault::Forked { size: 10 }.into()));
    // Two checkpoints for one size: one of them is not this ledger's.
    let own = setup.shown().await;
    assert_eq!(verify(state, &[own, shown]).await, Err(Fault::Forked { size: 10 }.into()));
}

#[tokio::test]
async fn nothing_is_signed_over_an_edited_ledger() {
    let (_folder, path, _) = ten_leaves().await;
    run_sql(&path, "UPDATE nodes SET hash = zeroblob(32) WHERE level = 3").await;
    let setup = setup(Arc::new(SqliteState::open(&path).await.unwrap()));
    assert_eq!(setup.ledger.latest().await.unwrap_err(), LedgerError::SecondRoot { size: 10 });
    let leaf = setup.ledger.state.leaf(1).await.unwrap().unwrap();
    let proof = setup.ledger.inclusion(1, 10, &leaf.bytes).await;
    assert_eq!(proof.unwrap_err(), LedgerError::SecondRoot { size: 10 });
    // Earlier trees that do not rest on that hash are as good as ever.
    assert!(setup.ledger.checkpoint(6).await.is_ok());
}

#[tokio::test]
async fn a_long_ledger_is_walked_in_pages() {
    let setup = setup(MemoryState::new());
    for i in 0..5 {
        let leaves = (0..501).map(|_| setup.entry("many", i)).collect();
        setup.commit(leaves).await;
    }
    assert_eq!(verify(setup.ledger.state.as_ref(), &[setup.shown().await]).await.map(|h| h.size), Ok(2505));
}
