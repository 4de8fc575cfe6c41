//! The local store as an object store, and over a disk that fails.

use bytes::Bytes;
use futures::TryStreamExt;
use lingqu_gateway::lake::local::LocalStore;
use lingqu_protocol::host::{DirEntry, Disk, DiskFile, DiskLock};
use lingqu_tests::faults::disk::FakeDisk;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};

const ROOT: &str = "/lake";

fn open(disk: &FakeDisk) -> LocalStore {
    LocalStore::open(Arc::new(disk.clone()), ROOT).unwrap()
}

fn payload(bytes: &'static [u8]) -> PutPayload {
    bytes.chunks(3).map(Bytes::from_static).collect()
}

async fn names(store: &LocalStore, prefix: &str) -> Vec<String> {
    let prefix = (!prefix.is_empty()).then(|| Path::from(prefix));
    let mut all: Vec<_> = store.list(prefix.as_ref()).map_ok(|m| m.location.to_string()).try_collect().await.unwrap();
    all.sort();
    all
}

fn files_on(disk: &FakeDisk, dir: &str) -> Vec<String> {
    disk.read_dir(std::path::Path::new(dir)).unwrap().into_iter().map(|e| e.name).collect()
}

#[tokio::test]
async fn objects_are_put_read_listed_renamed_and_deleted() {
    let disk = FakeDisk::new(1 << 24, 1);
    let store = open(&disk);
    let (a, b) = (Path::from("files/t/a"), Path::from("files/t/b"));
    store.put(&a, payload(b"hello world")).await.unwrap();
    assert_eq!(store.get(&a).await.unwrap().bytes().await.unwrap(), "hello world");
    assert_eq!(store.get_range(&a, 6..9).await.unwrap(), "wor");
    assert_eq!(store.get_ranges(&a, &[9..11, 0..2]).await.unwrap(), [Bytes::from("ld"), Bytes::from("he")]);
    let suffix = GetOptions { range: Some(GetRange::Suffix(4)), ..GetOptions::default() };
    assert_eq!(store.get_opts(&a, suffix).await.unwrap().bytes().await.unwrap(), "orld");
    assert_eq!(store.head(&a).await.unwrap().size, 11);
    assert!(store.get_range(&a, 20..21).await.is_err());

    let again = store.put_opts(&a, payload(b"other"), PutMode::Create.into()).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    assert_eq!(store.get(&a).await.unwrap().bytes().await.unwrap(), "hello world");
    store.put(&a, payload(b"other")).await.unwrap();
    assert_eq!(store.get(&a).await.unwrap().bytes().await.unwrap(), "other");

    store.put(&b, payload(b"")).await.unwrap();
    assert_eq!(store.get(&b).await.unwrap().bytes().await.unwrap(), "");
    store.put(&Path::from("files/u/a"), payload(b"1")).await.unwrap();
    store.put(&Path::from("top"), payload(b"2")).await.unwrap();
    assert_eq!(names(&store, "").await, ["files/t/a", "files/t/b", "files/u/a", "top"]);
    assert_eq!(names(&store, "files/t").await, ["files/t/a", "files/t/b"]);
    assert_eq!(names(&store, "files/t/a").await, [""; 0], "a prefix is not its own object");
    assert_eq!(names(&store, "none").await, [""; 0]);
    let level = store.list_with_delimiter(Some(&Path::from("files"))).await.unwrap();
    assert_eq!(level.common_prefixes, [Path::from("files/t"), Path::from("files/u")]);
    assert!(level.objects.is_empty());

    store.rename(&b, &Path::from("quarantine/b")).await.unwrap();
    assert!(matches!(store.head(&b).await, Err(Error::NotFound { .. })));
    store.delete(&a).await.unwrap();
    store.delete(&a).await.unwrap();
    assert_eq!(names(&store, "").await, ["files/u/a", "quarantine/b", "top"]);
    assert_eq!(names(&open(&disk.crash(1)), "").await, ["files/u/a", "quarantine/b", "top"], "all of it is durable");
    assert!(matches!(store.copy(&a, &b).await, Err(Error::NotImplemented { .. })));
    assert!(matches!(store.put_multipart(&a).await, Err(Error::NotImplemented { .. })));
}

#[tokio::test]
async fn large_objects_stream_in_pieces() {
    let store = open(&FakeDisk::new(1 << 24, 1));
    let content: Vec<u8> = (0..(5 << 20) / 2).map(|i| (i % 251) as u8).collect();
    let path = Path::from("files/t/large");
    store.put(&path, content.clone().into()).await.unwrap();
    let pieces: Vec<Bytes> = store.get(&path).await.unwrap().into_stream().try_collect().await.unwrap();
    assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [1 << 20, 1 << 20, 1 << 19]);
    assert_eq!(pieces.concat(), content);
}

#[tokio::test]
async fn a_path_that_the_lake_does_not_make_is_refused() {
    let store = open(&FakeDisk::new(1 << 20, 1));
    for path in ["", "UPPER", ".put-1", "a/%2E%2E/b", "文件"] {
        let error = store.put(&Path::from(path), payload(b"x")).await.unwrap_err();
        assert!(error.to_string().contains("LocalStore"), "{path}: {error}");
    }
    assert!(Path::parse("../a").is_err(), "the store's own paths cannot leave it");
}

#[tokio::test]
async fn of_many_that_create_one_object_one_wins() {
    let store = open(&FakeDisk::new(1 << 20, 1));
    let path = Path::from("files/t/a");
    let tries = (0..16u8).map(|i| {
        let (store, path) = (store.clone(), path.clone());
        tokio::spawn(async move { store.put_opts(&path, vec![i; 8].into(), PutMode::Create.into()).await.map(|_| i) })
    });
    let done: Vec<_> = futures::future::join_all(tries).await.into_iter().map(Result::unwrap).collect();
    let winners: Vec<u8> = done.into_iter().flatten().collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), vec![winners[0]; 8]);
}

#[tokio::test]
async fn a_full_disk_fails_cleanly_and_its_space_comes_back() {
    let disk = FakeDisk::new(1000, 1);
    let store = open(&disk);
    store.put(&Path::from("files/t/a"), vec![1; 600].into()).await.unwrap();
    assert!(store.put(&Path::from("files/t/b"), vec![2; 600].into()).await.is_err());
    assert_eq!(disk.used_bytes(), 600, "what the failed put wrote is gone");
    assert_eq!(files_on(&disk, "/lake/files/t"), ["a"]);
    store.put(&Path::from("files/t/b"), vec![2; 400].into()).await.unwrap();
}

#[tokio::test]
async fn a_failed_sync_fails_its_object_and_is_not_tried_again() {
    // One put syncs the new folders' names, the content, and the folder: each may be the one that fails.
    for nth in 0..6 {
        let disk = FakeDisk::new(1 << 20, nth);
        let store = open(&disk);
        let path = Path::from("files/t/a");
        disk.fail_sync_after(nth);
        if store.put(&path, payload(b"content")).await.is_ok() {
            assert!(nth > 2, "the put ended before sync {nth}");
            continue;
        }
        assert!(matches!(store.head(&path).await, Err(Error::NotFound { .. })), "sync {nth}: the object is not there");
        // Whether a second try is taken or refused, what it acknowledges holds.
        let acknowledged = store.put(&path, payload(b"content")).await.is_ok();
        let after = open(&disk.crash(nth));
        assert_eq!(after.head(&path).await.is_ok(), acknowledged, "sync {nth}");
    }
}

#[tokio::test]
async fn the_start_sweeps_what_a_crash_left() {
    for seed in 0..40 {
        let disk = FakeDisk::new(1 << 20, seed);
        let store = open(&disk);
        store.put(&Path::from("files/t/a"), payload(b"content")).await.unwrap();
        disk.power_off_after(seed % 8);
        let acknowledged = store.put(&Path::from("files/t/b"), payload(b"more content")).await.is_ok();
        let disk = if seed % 2 == 0 { disk.crash(seed) } else { disk.restart() };
        let store = open(&disk);
        let left = files_on(&disk, "/lake/.puts");
        assert!(left.is_empty(), "seed {seed}: {left:?}");
        let left = files_on(&disk, "/lake/files/t");
        assert!(left.contains(&"a".to_owned()));
        if let Ok(got) = store.get(&Path::from("files/t/b")).await {
            assert_eq!(got.bytes().await.unwrap(), "more content", "seed {seed}: whole or absent");
            assert!(
                open(&disk.crash(seed)).head(&Path::from("files/t/b")).await.is_ok(),
                "seed {seed}: seen is durable"
            );
        } else {
            assert!(!acknowledged, "seed {seed}");
        }
    }
}

#[tokio::test]
async fn the_store_works_on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let open = || LocalStore::open(Arc::new(lingqu_certs::os::OsDisk), dir.path().join("lake")).unwrap();
    let (a, b) = (Path::from("files/t/a"), Path::from("files/t/b"));
    let store = open();
    store.put(&a, payload(b"hello world")).await.unwrap();
    store.put(&b, payload(b"")).await.unwrap();
    assert!(matches!(
        store.put_opts(&a, payload(b"x"), PutMode::Create.into()).await,
        Err(Error::AlreadyExists { .. })
    ));
    store.rename(&b, &Path::from("quarantine/files/t/b")).await.unwrap();
    let puts = dir.path().join("lake/.puts");
    std::fs::write(puts.join("t9"), b"half").unwrap();
    std::fs::write(puts.join("d7+files+t+a"), b"").unwrap();
    std::fs::write(puts.join("d8+files+t+none"), b"").unwrap();
    std::fs::write(puts.join("d9+..+t"), b"").unwrap();
    let store = open();
    assert_eq!(std::fs::read_dir(&puts).unwrap().count(), 0, "swept");
    assert_eq!(names(&store, "").await, ["files/t/a", "quarantine/files/t/b"]);
    assert_eq!(store.get_range(&a, 6..11).await.unwrap(), "world");
    store.delete(&a).await.unwrap();
    assert!(!dir.path().join("lake/files").join("t").exists(), "a folder goes with its last object");
    store.put(&a, payload(b"again")).await.unwrap();
    assert_eq!(open().get(&a).await.unwrap().bytes().await.unwrap(), "again");
}

#[tokio::test]
async fn a_name_in_doubt_is_durable_before_it_counts() {
    // Every sync of a put fails, and the process is killed at every operation after it: before the name is taken back,
    // too. The system lives on, and shows names that are not on the disk. Then the power goes.
    let (a, b) = (Path::from("files/t/a"), Path::from("files/t/b"));
    let mut seen = [0; 2];
    for (nth, killed_at, killed_again_at) in
        (0..5).flat_map(|n| (0..16).flat_map(move |k| (0..16).map(move |again| (n, k, again))))
    {
        let case = format!("sync {nth}, operation {killed_at}, operation {killed_again_at}");
        let disk = FakeDisk::new(1 << 20, nth);
        let store = open(&disk);
        store.put(&a, payload(b"first")).await.unwrap();
        disk.fail_sync_after(nth % 3);
        disk.power_off_after(killed_at);
        let acknowledged = store.put(&b, payload(b"second")).await.is_ok();
        let mut disk = disk.restart();
        // The start may be killed, or fail, as well.
        disk.power_off_after(killed_again_at);
        if nth > 2 {
            disk.fail_sync_after(0);
        }
        if LocalStore::open(Arc::new(disk.clone()), ROOT).is_err() {
            seen[0] += 1;
        }
        disk = disk.restart();
        let store = open(&disk);
        let counts = store.head(&b).await.is_ok();
        seen[1] += usize::from(counts && !acknowledged);
        assert!(counts || !acknowledged, "{case}: acknowledged and not there");
        let store = open(&disk.crash(killed_at));
        assert_eq!(store.get(&a).await.unwrap().bytes().await.unwrap(), "first", "{case}");
        if counts {
            assert_eq!(store.get(&b).await.unwrap().bytes().await.unwrap(), "second", "{case}: it counted as durable");
        }
    }
    assert!(seen.iter().all(|n| *n > 0), "starts were cut and doubtful names were seen: {seen:?}");
}

#[tokio::test]
async fn what_was_removed_does_not_come_back() {
    // As above: a removal whose sync fails, a kill, a start, the removal again, and then the power cut.
    let a = Path::from("files/t/a");
    let mut removed = 0;
    for (nth, killed_at) in (0..3).flat_map(|n| (0..8).map(move |k| (n, k))) {
        let disk = FakeDisk::new(1 << 20, nth);
        let store = open(&disk);
        store.put(&a, payload(b"content")).await.unwrap();
        disk.fail_sync_after(nth);
        disk.power_off_after(killed_at);
        let done = store.delete(&a).await.is_ok();
        // Tried again at once, it is not done because there is nothing to be seen any more.
        let seen: Result<Vec<_>, _> = store.list(Some(&Path::from("files/t"))).try_collect().await;
        assert!(done || seen.is_err(), "sync {nth}, operation {killed_at}: {seen:?}");
        let disk = disk.restart();
        let store = open(&disk);
        let done = done || store.delete(&a).await.is_ok();
        removed += usize::from(done);
        let back = open(&disk.crash(killed_at)).head(&a).await.is_ok();
        assert!(!(done && back), "sync {nth}, operation {killed_at}: it was removed and is back");
    }
    assert!(removed > 12, "{removed} of 24 were removed");
}

#[tokio::test]
async fn a_start_that_is_cut_while_it_brings_an_object_back_loses_nothing() {
    let a = Path::from("files/t/a");
    // A removal is cut after its first step and that step becomes durable; the starts after it fail or are killed.
    for (failing, killed_at) in (0..4).flat_map(|n| (0..24).map(move |k| (n, k))) {
        let disk = FakeDisk::new(1 << 20, failing);
        let store = open(&disk);
        store.put(&a, payload(b"content")).await.unwrap();
        disk.rename("/lake/files/t/a".as_ref(), "/lake/.puts/r0+files+t+a".as_ref()).unwrap();
        disk.sync_dir("/lake/files/t".as_ref()).unwrap();
        let disk = disk.crash(killed_at);
        disk.fail_sync_after(failing);
        disk.power_off_after(killed_at);
        let first = LocalStore::open(Arc::new(disk.clone()), ROOT).is_ok();
        let disk = disk.restart();
        let store = open(&disk);
        assert!(store.head(&a).await.is_ok(), "sync {failing}, operation {killed_at}, {first}: it is brought back");
        let store = open(&disk.crash(killed_at));
        assert!(store.head(&a).await.is_ok(), "sync {failing}, operation {killed_at}, {first}: and was to be seen");
    }
}

#[tokio::test]
async fn a_folder_whose_own_name_is_in_doubt_is_made_anew() {
    for nth in 0..2 {
        let disk = FakeDisk::new(1 << 20, nth);
        let store = open(&disk);
        disk.fail_sync_after(nth);
        assert!(store.put(&Path::from("files/t/a"), payload(b"lost")).await.is_err());
        // The folder is to be seen, and not on the disk.
        let disk = disk.restart();
        open(&disk).put(&Path::from("files/t/a"), payload(b"kept")).await.unwrap();
        let got = open(&disk.crash(nth)).get(&Path::from("files/t/a")).await;
        assert_eq!(got.unwrap().bytes().await.unwrap(), "kept", "sync {nth}");
    }
}

/// A disk whose next sync of a directory waits to be told, and then fails.
struct Waiting {
    disk: FakeDisk,
    armed: AtomicBool,
    syncing: Barrier,
    told: Barrier,
}

impl Disk for Waiting {
    fn create(&self, path: &std::path::Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.create(path)
    }
    fn open(&self, path: &std::path::Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open(path)
    }
    fn open_rw(&self, path: &std::path::Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open_rw(path)
    }
    fn rename(&self, from: &std::path::Path, to: &std::path::Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &std::path::Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn remove_dir(&self, path: &std::path::Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }
    fn remove_dir_all(&self, path: &std::path::Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }
    fn create_dir_all(&self, path: &std::path::Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }
    fn sync_dir(&self, path: &std::path::Path) -> io::Result<()> {
        if self.armed.swap(false, Ordering::SeqCst) {
            self.syncing.wait();
            self.told.wait();
            self.disk.fail_sync_after(0);
        }
        self.disk.sync_dir(path)
    }
    fn read_dir(&self, path: &std::path::Path) -> io::Result<Vec<DirEntry>> {
        self.disk.read_dir(path)
    }
    fn lock(&self, path: &std::path::Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.disk.lock(path)
    }
    fn is_locked(&self, path: &std::path::Path) -> io::Result<bool> {
        self.disk.is_locked(path)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_counts_on_an_object_whose_sync_has_not_ended() {
    let (syncing, told) = (Barrier::new(2), Barrier::new(2));
    let waiting = Arc::new(Waiting { disk: FakeDisk::new(1 << 20, 1), armed: AtomicBool::new(false), syncing, told });
    let store = LocalStore::open(waiting.clone(), ROOT).unwrap();
    let (a, b) = (Path::from("files/t/a"), Path::from("files/t/b"));
    store.put(&a, payload(b"first")).await.unwrap();
    waiting.armed.store(true, Ordering::SeqCst);
    let put = tokio::spawn({
        let (store, b) = (store.clone(), b.clone());
        async move { store.put(&b, payload(b"second")).await }
    });
    tokio::task::block_in_place(|| waiting.syncing.wait());
    // Its name is to be seen on the disk. A session that took the transfer over asks what is durable.
    assert_eq!(files_on(&waiting.disk, "/lake/files/t").len(), 2);
    let asked = tokio::spawn({
        let (store, b) = (store.clone(), b.clone());
        async move { (names(&store, "files/t").await, store.head(&b).await.is_ok()) }
    });
    let again = tokio::spawn({
        let (store, b) = (store.clone(), b.clone());
        async move { store.put_opts(&b, payload(b"second"), PutMode::Create.into()).await }
    });
    tokio::task::yield_now().await;
    tokio::task::block_in_place(|| waiting.told.wait());
    assert!(put.await.unwrap().is_err());
    assert_eq!(asked.await.unwrap(), (vec!["files/t/a".to_owned()], false));
    let again = again.await.unwrap();
    assert!(again.is_err_and(|e| !matches!(e, Error::AlreadyExists { .. })), "what is lost is not taken for the same");
}
