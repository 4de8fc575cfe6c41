#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::{Got, GotFiles, clean, place, pull, staging_path};
use crate::error::AgentError;
use crate::outbox::PullWork;
use crate::scripted::{Gateway, Lie, env, sample};
use lingqu_certs::os::OsDisk;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::host::{DirEntry, Disk, DiskFile, DiskLock};
use lingqu_protocol::ids::TransferId;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const ID: TransferId = TransferId::from_bits(6);

fn gateway(lie: Lie) -> Arc<Gateway> {
    let gateway = Gateway::new(lie);
    *gateway.served.lock().unwrap() = sample();
    gateway
}

async fn run(dir: &Path, gateway: &Arc<Gateway>) -> Result<GotFiles, AgentError> {
    let work = PullWork { target: "grant".into(), out: dir.join("out"), ..PullWork::default() };
    match pull(&env(dir), gateway, ID, &work, Box::new(|| Box::new(io::sink()))).await? {
        Got::Files(got) => Ok(got),
        Got::Rows(rows) => panic!("rows: {rows:?}"),
    }
}

fn check(dir: &Path) {
    for (name, data) in sample() {
        assert!(std::fs::read(dir.join("out").join(&name)).unwrap() == data, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_arrives_whole_under_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(Lie::None);
    let got = run(dir.path(), &gateway).await.unwrap();
    check(dir.path());
    assert_eq!((got.version, got.files, got.received_bytes, got.resumed_bytes), (7, 5, got.bytes, 0));
    assert!(got.receipt.is_file());
    clean(&OsDisk, ID, &got.out).unwrap();
    assert!(!staging_path(&got.out, ID).exists());
    assert_eq!(gateway.cosigned.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_file_is_the_output_itself() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(Lie::None);
    *gateway.served.lock().unwrap() = vec![("a/f".into(), b"hello".to_vec())];
    let got = run(dir.path(), &gateway).await.unwrap();
    assert_eq!(std::fs::read(dir.path().join("out")).unwrap(), b"hello");
    assert_eq!(got.root, Some(Digest::blake3(b"hello")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_is_there_is_refused_before_anything_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("out"), b"mine").unwrap();
    let gateway = gateway(Lie::None);
    assert_eq!(run(dir.path(), &gateway).await.unwrap_err().exit_code(), 2);
    assert_eq!(gateway.dials.load(Ordering::SeqCst), 0);
    assert_eq!(std::fs::read(dir.path().join("out")).unwrap(), b"mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(Lie::Lose(2));
    run(dir.path(), &gateway).await.unwrap();
    check(dir.path());
    assert_eq!(gateway.dials.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_shows_and_a_new_process_asks_only_for_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(Lie::Suspend(3));
    assert_eq!(run(dir.path(), &gateway).await.unwrap_err().exit_code(), 4);
    assert!(!dir.path().join("out").exists(), "nothing incomplete gets the name");
    gateway.honest();
    let got = run(dir.path(), &gateway).await.unwrap();
    check(dir.path());
    assert_eq!(got.resumed_bytes + got.received_bytes, got.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_costs_no_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(Lie::LoseReceipt);
    let got = run(dir.path(), &gateway).await.unwrap();
    check(dir.path());
    assert_eq!(got.received_bytes, got.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_lies_is_found_and_nothing_gets_the_name() {
    let table = [
        (Lie::WrongValue, 5, "chunk_value"),
        (Lie::WrongRoot, 5, "file_hash"),
        (Lie::WrongToken, 1, "protocol"),
        (Lie::OutOfOrder, 1, "file_name"),
        (Lie::Climb, 1, "file_name"),
        (Lie::NoEnd, 1, "incomplete"),
        (Lie::WrongEnd, 1, "protocol"),
        (Lie::WrongReceipt, 5, "receipt"),
    ];
    for (lie, exit_code, word) in table {
        let dir = tempfile::tempdir().unwrap();
        let error = run(dir.path(), &gateway(lie)).await.unwrap_err();
        assert_eq!((error.exit_code(), error.told().word.as_str()), (exit_code, word), "{lie:?}: {error}");
        assert!(!dir.path().join("out").exists(), "{lie:?}");
        assert!(!dir.path().join("climb").exists(), "{lie:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_disk_lost_is_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(Lie::Suspend(4));
    run(dir.path(), &gateway).await.unwrap_err();
    gateway.honest();
    // Every durable byte is flipped at rest.
    let files = staging_path(&dir.path().join("out"), ID).join("files");
    let big = files.join("big");
    let flipped: Vec<u8> = std::fs::read(&big).unwrap().iter().map(|b| b ^ 0xff).collect();
    assert!(!flipped.is_empty());
    std::fs::write(&big, flipped).unwrap();
    let error = run(dir.path(), &gateway).await.unwrap_err();
    assert_eq!((error.exit_code(), error.told().word.as_str()), (5, "file_hash"));
    run(dir.path(), &gateway).await.unwrap();
    check(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_receipt_and_name_is_finished_without_the_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(Lie::None);
    let got = run(dir.path(), &gateway).await.unwrap();
    // As if the rename had not happened.
    let staged = staging_path(&got.out, ID).join("files");
    std::fs::rename(&got.out, &staged).unwrap();
    let dials = gateway.dials.load(Ordering::SeqCst);
    let again = run(dir.path(), &gateway).await.unwrap();
    check(dir.path());
    assert_eq!((again.bytes_root, again.received_bytes), (got.bytes_root, 0));
    assert_eq!(gateway.dials.load(Ordering::SeqCst), dials);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_an_earlier_process_gave_is_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(Lie::None);
    let got = run(dir.path(), &gateway).await.unwrap();
    // It is to be seen; whether it is on the disk, its process did not live to say.
    let dials = gateway.dials.load(Ordering::SeqCst);
    assert_eq!(run(dir.path(), &gateway).await.unwrap().bytes_root, got.bytes_root);
    check(dir.path());
    assert_eq!(gateway.dials.load(Ordering::SeqCst), dials);
    // Something else of that name is not replaced, and what was fetched stays.
    let staged = staging_path(&got.out, ID).join("files");
    std::fs::rename(&got.out, &staged).unwrap();
    std::fs::write(&got.out, "another's").unwrap();
    run(dir.path(), &gateway).await.unwrap_err();
    assert_eq!(std::fs::read(&got.out).unwrap(), b"another's");
    assert!(staged.is_dir());
}

/// The real disk, on which syncing a directory fails.
struct NoSync;

impl Disk for NoSync {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        OsDisk.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        OsDisk.open(path)
    }
    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        OsDisk.open_rw(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove_dir(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove_dir_all(path)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        OsDisk.create_dir_all(path)
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Err(io::Error::other("a sync failed"))
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        OsDisk.read_dir(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        OsDisk.lock(path)
    }
    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        OsDisk.is_locked(path)
    }
}

#[test]
fn an_output_whose_name_is_not_durable_is_not_left_to_be_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (from, out) = (dir.path().join("out.partial"), dir.path().join("out"));
    std::fs::write(&from, b"rows").unwrap();
    place(&NoSync, &from, &out).unwrap_err();
    assert!(from.exists() && !out.exists());
    place(&OsDisk, &from, &out).unwrap();
    assert_eq!(std::fs::read(&out).unwrap(), b"rows");
}

#[test]
fn what_is_left_beside_an_output_goes_whether_it_is_a_set_or_rows() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let staged = staging_path(&out, ID);
    clean(&OsDisk, ID, &out).unwrap();
    std::fs::write(&staged, b"half").unwrap();
    clean(&OsDisk, ID, &out).unwrap();
    std::fs::create_dir_all(staged.join("files/a")).unwrap();
    clean(&OsDisk, ID, &out).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
