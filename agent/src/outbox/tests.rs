#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use lingqu_certs::os::{OsDisk, OsEntropy, SystemClock};
use lingqu_protocol::host::Timestamp;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

fn outbox(dir: &Path) -> Outbox {
    Outbox::open(Arc::new(OsDisk), Arc::new(SystemClock::new()), dir).unwrap()
}

/// A clock that is set.
struct At(AtomicI64);

impl Clock for At {
    fn wall(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// Names in the outbox's folder, without the endings and what is always there.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("outbox")).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != SWEPT);
    names.sort();
    names
}

fn failed() -> State {
    State::Failed { exit_code: 3, word: "denied".into(), text: "no grant".into() }
}

#[test]
fn a_lock_is_there_only_while_somebody_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(dir.path());
    let (hold, mut record) = outbox.create(&OsEntropy::new(), work(7)).unwrap();
    let id = hold.id();
    assert_eq!(names(dir.path()), [format!("{id}.json"), format!("{id}.lock")]);
    outbox.set(&hold, &mut record, failed()).unwrap();
    drop(hold);
    assert_eq!(names(dir.path()), [format!("{id}.json")]);
    drop(outbox.hold(id).unwrap());
    assert_eq!(names(dir.path()), [format!("{id}.json")]);
}

#[test]
fn what_failed_long_ago_is_swept_and_what_was_cut_stays() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(At(AtomicI64::new(1_000)));
    let outbox = Outbox::open(Arc::new(OsDisk), clock.clone(), dir.path()).unwrap();
    let make = |state: State| {
        let (hold, mut record) = outbox.create(&OsEntropy::new(), work(7)).unwrap();
        outbox.set(&hold, &mut record, state).unwrap();
        record.id
    };
    let (over, cut, done) = (make(failed()), make(State::Running), make(State::Done));
    let torn = dir.path().join("outbox").join(format!("{}.tmp", TransferId::from_bits(3)));
    let stale = dir.path().join("outbox").join(format!("{}.lock", TransferId::from_bits(4)));
    std::fs::write(&torn, b"{").unwrap();
    std::fs::write(&stale, b"").unwrap();
    let cleaned = std::cell::RefCell::new(Vec::new());
    let sweep = |at: i64| {
        clock.0.store(at, Ordering::SeqCst);
        outbox.sweep_if_due(|id, _| {
            cleaned.borrow_mut().push(id);
            Ok(())
        });
    };
    sweep(2_000);
    assert!(!torn.exists() && !stale.exists(), "what killed processes left goes at once");
    assert_eq!(names(dir.path()).len(), 3);
    let held = outbox.hold(over).unwrap();
    sweep(1_001 + FAILED_KEPT_MS);
    assert_eq!(names(dir.path()).len(), 4, "one that is run is left: {:?}", names(dir.path()));
    drop(held);
    sweep(1_002 + FAILED_KEPT_MS);
    assert_eq!(names(dir.path()).len(), 3, "once a day is enough");
    sweep(1_001 + FAILED_KEPT_MS + 24 * 3600 * 1000);
    let mut left = vec![format!("{cut}.json"), format!("{done}.json")];
    left.sort();
    assert_eq!(names(dir.path()), left);
    assert_eq!(*cleaned.borrow(), [over]);
    // A clock that was put back by years does not end it.
    let again = make(failed());
    sweep(5);
    assert!(names(dir.path()).contains(&format!("{again}.json")), "it ended in what is now the future");
}

fn work(bytes: u64) -> Work {
    let file = SourceFile { name: "a".into(), path: "/x/a".into(), bytes, modified_ns: 5 };
    Work::PushFiles { entry: "307010/000001".into(), files: vec![file] }
}

#[test]
fn a_record_is_there_for_another_process_before_anything_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (hold, record) = outbox(dir.path()).create(&OsEntropy::new(), work(7)).unwrap();
    let other = outbox(dir.path());
    assert_eq!(other.load(hold.id()).unwrap(), Some(record.clone()));
    assert_eq!(other.list().unwrap(), (vec![record], false));
    assert!(other.is_held(hold.id()).unwrap());
    let busy = other.hold(hold.id()).unwrap_err();
    assert_eq!(busy.told().word, "transfer_running");
    let id = hold.id();
    drop(hold);
    assert!(!other.is_held(id).unwrap());
    assert!(other.hold(id).is_ok());
}

#[test]
fn a_key_names_one_transfer_and_one_content() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(dir.path());
    let id = id_from_key("CODE/a", "307010/000001", "night-1").unwrap();
    assert_eq!(id, id_from_key("CODE/a", "307010/000001", "night-1").unwrap());
    assert_ne!(id, id_from_key("CODE/b", "307010/000001", "night-1").unwrap());
    assert_ne!(id, id_from_key("CODE/a", "307010/000001n", "ight-1").unwrap());
    assert_eq!(id_from_key("a", "b", "").unwrap_err().exit_code(), 2);
    assert_eq!(id_from_key("a", "b", &"k".repeat(257)).unwrap_err().exit_code(), 2);
    let (hold, mut record) = outbox.create_as(id, work(7)).unwrap();
    outbox.set(&hold, &mut record, State::Done).unwrap();
    drop(hold);
    let (hold, again) = outbox.create_as(id, work(7)).unwrap();
    assert_eq!(again.state, State::Done);
    drop(hold);
    assert_eq!(outbox.create_as(id, work(8)).unwrap_err().exit_code(), 2);
}

#[test]
fn what_a_kill_left_behind_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(dir.path());
    let (hold, mut record) = outbox.create(&OsEntropy::new(), work(7)).unwrap();
    let torn = dir.path().join("outbox").join(format!("{}.tmp", hold.id()));
    std::fs::write(&torn, b"{\"id\":").unwrap();
    assert_eq!(outbox.list().unwrap().0.len(), 1, "a temporary file is no transfer");
    outbox.set(&hold, &mut record, State::Running).unwrap();
    assert_eq!(outbox.load(hold.id()).unwrap().unwrap().state, State::Running);
    assert!(!torn.exists());
}

#[test]
fn a_receipt_stays_when_its_transfer_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(dir.path());
    let (hold, _) = outbox.create(&OsEntropy::new(), work(7)).unwrap();
    let path = outbox.keep_receipt(hold.id(), b"{}").unwrap();
    outbox.remove(&hold).unwrap();
    outbox.remove(&hold).unwrap();
    assert_eq!(outbox.load(hold.id()).unwrap(), None);
    assert_eq!(outbox.receipt(hold.id()).unwrap().as_deref(), Some(&b"{}"[..]));
    assert_eq!(path, dir.path().join("receipts").join(format!("{}.json", hold.id())));
}

#[test]
fn a_record_that_is_none_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(dir.path());
    let id = TransferId::from_bits(9);
    std::fs::write(dir.path().join("outbox").join(format!("{id}.json")), b"{").unwrap();
    assert_eq!(outbox.load(id).unwrap_err().told().word, "outbox");
}
