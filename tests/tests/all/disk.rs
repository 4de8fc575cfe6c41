//! The disk's contract on both disks, and what only the fake one can show.

use lingqu_certs::os::OsDisk;
use lingqu_protocol::host::Disk;
use lingqu_tests::faults::contract;
use lingqu_tests::faults::disk::FakeDisk;
use std::io;
use std::path::Path;

#[test]
fn the_fake_disk_keeps_the_contract() {
    let disk = FakeDisk::new(1 << 20, 1);
    disk.create_dir_all(Path::new("/root")).unwrap();
    contract::disk(&disk, Path::new("/root"));
}

#[test]
fn the_real_disk_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    contract::disk(&OsDisk, dir.path());
}

/// A file of `bytes` under `/a`, its content and name synced or not.
fn written(disk: &FakeDisk, bytes: &[u8], sync: bool, sync_dir: bool) {
    let file = disk.create(Path::new("/a")).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    if sync {
        file.sync().unwrap();
    }
    if sync_dir {
        disk.sync_dir(Path::new("/")).unwrap();
    }
}

fn content(disk: &FakeDisk) -> Option<Vec<u8>> {
    let file = disk.open(Path::new("/a")).ok()?;
    let mut buf = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut buf, 0).unwrap();
    Some(buf)
}

#[test]
fn what_was_synced_survives_and_what_was_not_may_be_lost_or_torn() {
    let bytes = vec![7; 4096];
    let outcomes = |sync, sync_dir| {
        let mut seen = [0; 3];
        for seed in 0..64 {
            let disk = FakeDisk::new(1 << 20, seed);
            written(&disk, &bytes, sync, sync_dir);
            match content(&disk.crash(seed)) {
                None => seen[0] += 1,
                Some(kept) if kept == bytes => seen[1] += 1,
                Some(_) => seen[2] += 1,
            }
        }
        seen
    };
    assert_eq!(outcomes(true, true), [0, 64, 0], "both synced: always whole");
    let [absent, whole, torn] = outcomes(true, false);
    assert!(absent > 0 && whole > 0 && torn == 0, "only the name may be lost");
    let [absent, whole, torn] = outcomes(false, true);
    assert!(absent == 0 && whole > 0 && torn > 0, "only the content may be lost");
}

#[test]
fn a_name_can_outlive_the_data_that_it_was_to_publish() {
    let found = (0..64).any(|seed| {
        let disk = FakeDisk::new(1 << 20, seed);
        let file = disk.create(Path::new("/tmp")).unwrap();
        file.write_all_at(b"content", 0).unwrap();
        disk.rename(Path::new("/tmp"), Path::new("/a")).unwrap();
        content(&disk.crash(seed)).is_some_and(|kept| kept != b"content")
    });
    assert!(found, "a rename before its data");
}

#[test]
fn after_a_failed_sync_a_later_one_says_nothing_of_what_was_lost() {
    let disk = FakeDisk::new(1 << 20, 3);
    let file = disk.create(Path::new("/a")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    file.write_all_at(b"content", 0).unwrap();
    disk.fail_sync_after(0);
    assert!(file.sync().is_err());
    assert!(file.sync().is_ok(), "it fails once");
    assert_eq!(content(&disk), Some(b"content".to_vec()), "readers see it");
    assert_eq!(content(&disk.crash(3)), Some(Vec::new()), "and it was never on the disk");
}

#[test]
fn room_runs_out_and_comes_back_and_old_handles_die() {
    let disk = FakeDisk::new(10, 4);
    let file = disk.create(Path::new("/a")).unwrap();
    let error = file.write_all_at(b"hello world", 0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    disk.remove(Path::new("/a")).unwrap();
    assert_eq!(disk.used_bytes(), 0);
    written(&disk, b"0123456789", true, true);

    disk.power_off_after(1);
    assert!(disk.read_dir(Path::new("/")).is_ok());
    assert!(disk.read_dir(Path::new("/")).is_err() && disk.read_dir(Path::new("/")).is_err());
    let after = disk.crash(4);
    assert_eq!(content(&after), Some(b"0123456789".to_vec()));
    assert!(disk.read_dir(Path::new("/")).is_err(), "a handle from before the crash is dead");
}

#[test]
fn a_log_whose_sync_failed_is_durable_before_it_counts() {
    for seed in 0..40 {
        let disk = FakeDisk::new(1 << 20, seed);
        let log = Path::new("/log");
        let file = disk.create(log).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        file.write_all_at(&[1; 5000], 0).unwrap();
        file.sync().unwrap();
        file.write_all_at(&[2; 3000], 5000).unwrap();
        disk.fail_sync_after(0);
        file.sync().unwrap_err();
        // The process dies and the system lives: the next one reads all of it.
        let disk = disk.restart();
        assert_eq!(disk.open(log).unwrap().len().unwrap(), 8000);
        if seed % 2 == 0 {
            disk.power_off_after(seed % 8);
        }
        let done = lingqu_gateway::state::write_again(&disk, log).is_ok();
        let disk = disk.crash(seed);
        let after = disk.open(log).unwrap();
        let mut kept = vec![0; after.len().unwrap() as usize];
        after.read_exact_at(&mut kept, 0).unwrap();
        assert!(kept.get(..5000) == Some(&[1; 5000]), "seed {seed}: what was durable stays");
        assert!(!done || kept.get(5000..) == Some(&[2; 3000]), "seed {seed}: what is read is durable");
    }
}
