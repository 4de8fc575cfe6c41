#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::collect::collect;
use super::files::push;
use crate::error::AgentError;
use crate::scripted::{Gateway, Lie, env, pattern, sample};
use lingqu_protocol::digest::{CHUNK_BYTES, Digest};
use lingqu_protocol::ids::TransferId;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const ID: TransferId = TransferId::from_bits(5);

/// Writes the sample set and gives its folder.
fn source(dir: &Path) -> PathBuf {
    let folder = dir.join("source");
    for (name, data) in sample() {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, data).unwrap();
    }
    folder
}

async fn run(dir: &Path, gateway: &Arc<Gateway>) -> Result<super::files::Sent, AgentError> {
    let files = collect(&[dir.join("source")]).unwrap();
    push(&env(dir), gateway, ID, "307010/000001", files).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_arrives_whole_with_a_cosigned_receipt() {
    let dir = tempfile::tempdir().unwrap();
    source(dir.path());
    let gateway = Gateway::new(Lie::None);
    let sent = run(dir.path(), &gateway).await.unwrap();
    assert_eq!(gateway.pushed(&ID.to_string()), sample());
    let bytes: usize = sample().iter().map(|f| f.1.len()).sum();
    assert_eq!((sent.bytes, sent.sent_bytes, sent.resumed_bytes), (bytes as u64, bytes as u64, 0));
    assert_eq!((sent.files, sent.root), (5, None));
    assert!(sent.receipt.is_file());
    assert_eq!(gateway.cosigned.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_file_has_the_hash_that_b3sum_prints() {
    let dir = tempfile::tempdir().unwrap();
    let data = pattern(9, 2 * CHUNK_BYTES + 1);
    std::fs::create_dir(dir.path().join("source")).unwrap();
    std::fs::write(dir.path().join("source/f"), &data).unwrap();
    let sent = run(dir.path(), &Gateway::new(Lie::None)).await.unwrap();
    assert_eq!(sent.root, Some(Digest::blake3(&data)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    source(dir.path());
    let gateway = Gateway::new(Lie::Lose(2));
    let sent = run(dir.path(), &gateway).await.unwrap();
    assert_eq!(gateway.pushed(&ID.to_string()), sample());
    assert_eq!(gateway.dials.load(Ordering::SeqCst), 2);
    assert_eq!(gateway.held.lock().unwrap()[&ID.to_string()].commits, 1);
    // The scripted gateway panics where a durable segment is sent again.
    assert!(sent.sent_bytes >= sent.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_sends_only_what_is_not_durable() {
    let dir = tempfile::tempdir().unwrap();
    source(dir.path());
    let gateway = Gateway::new(Lie::Suspend(2));
    assert_eq!(run(dir.path(), &gateway).await.unwrap_err().exit_code(), 4);
    let before: u64 = gateway.held.lock().unwrap()[&ID.to_string()].segments.values().map(|s| s.1.len() as u64).sum();
    gateway.honest();
    let sent = run(dir.path(), &gateway).await.unwrap();
    assert_eq!((sent.resumed_bytes, sent.sent_bytes), (before, sent.bytes - before));
    assert_eq!(gateway.pushed(&ID.to_string()), sample());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changed_in_between_is_bad_data_and_no_splice() {
    let dir = tempfile::tempdir().unwrap();
    let folder = source(dir.path());
    let gateway = Gateway::new(Lie::Suspend(3));
    run(dir.path(), &gateway).await.unwrap_err();
    gateway.honest();
    let changed: Vec<_> =
        sample().into_iter().map(|(n, d)| (n, d.iter().map(|b| b ^ 1).collect::<Vec<u8>>())).collect();
    for (name, data) in changed {
        std::fs::write(folder.join(name), data).unwrap();
    }
    let error = run(dir.path(), &gateway).await.unwrap_err();
    assert_eq!((error.exit_code(), error.told().word.as_str()), (7, "source_changed"));
    assert_eq!(gateway.held.lock().unwrap()[&ID.to_string()].commits, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_after_the_commit_gives_the_first_receipt() {
    let dir = tempfile::tempdir().unwrap();
    let folder = source(dir.path());
    let gateway = Gateway::new(Lie::LoseReceipt);
    let sent = run(dir.path(), &gateway).await.unwrap();
    assert_eq!(sent.sent_bytes, sent.bytes, "nothing is sent again");
    let again = run(dir.path(), &gateway).await.unwrap();
    assert_eq!((again.sent_bytes, again.bytes_root), (0, sent.bytes_root));
    assert_eq!(gateway.held.lock().unwrap()[&ID.to_string()].commits, 1);
    let mut other = std::fs::read(folder.join("big")).unwrap();
    other[0] ^= 1;
    std::fs::write(folder.join("big"), other).unwrap();
    assert_eq!(run(dir.path(), &gateway).await.unwrap_err().exit_code(), 5, "the receipt is for other bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_ends_it_at_once_and_a_receipt_that_lies_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    source(dir.path());
    let gateway = Gateway::new(Lie::Deny);
    assert_eq!(run(dir.path(), &gateway).await.unwrap_err().exit_code(), 3);
    assert_eq!(gateway.dials.load(Ordering::SeqCst), 1);
    let gateway = Gateway::new(Lie::WrongReceipt);
    assert_eq!(run(dir.path(), &gateway).await.unwrap_err().exit_code(), 5);
    assert!(!env(dir.path()).outbox.receipt_path(ID).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_small_files_are_a_few_segments() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("source");
    std::fs::create_dir(&folder).unwrap();
    for i in 0..10_000u64 {
        std::fs::write(folder.join(format!("f{i:05}")), i.to_be_bytes()).unwrap();
    }
    let gateway = Gateway::new(Lie::None);
    let sent = run(dir.path(), &gateway).await.unwrap();
    assert_eq!((sent.files, sent.bytes), (10_000, 80_000));
    assert_eq!(gateway.segments_got.load(Ordering::SeqCst), 3);
    let pushed = gateway.pushed(&ID.to_string());
    assert!(pushed.iter().enumerate().all(|(i, f)| f.1 == (i as u64).to_be_bytes()));
}
