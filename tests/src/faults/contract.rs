//! What every disk must do, real or fake. A fake that does not is no proof of anything.

use lingqu_protocol::host::{Disk, DiskFile, make_own_dir};
use std::io;
use std::path::Path;

/// Runs the whole contract in the folder `root`, which is there and empty.
///
/// # Panics
/// Where the disk breaks it; the message says which promise.
pub fn disk(disk: &dyn Disk, root: &Path) {
    files(disk, &root.join("files"));
    names(disk, &root.join("names"));
    directories(disk, &root.join("directories"));
    locks(disk, &root.join("locks"));
}

fn locks(disk: &dyn Disk, root: &Path) {
    ok("make the folder", disk.create_dir_all(root));
    let path = root.join("lock");
    assert!(!ok("look at no lock", disk.is_locked(&path)));
    let held = ok("lock", disk.lock(&path));
    assert!(held.is_some(), "a free lock is taken");
    assert!(ok("look at it", disk.is_locked(&path)));
    assert!(ok("lock again", disk.lock(&path)).is_none(), "nobody else gets it");
    drop(held);
    assert!(!ok("look at it, given back", disk.is_locked(&path)));
    let held = ok("lock what was given back", disk.lock(&path));
    assert!(held.is_some());
    ok("remove its file", disk.remove(&path));
    let other = ok("lock the new file", disk.lock(&path));
    assert!(other.is_some(), "what was removed locks nothing");
    drop(held);
    assert!(ok("look at the new one", disk.is_locked(&path)), "giving the old one back changes nothing");
    drop(other);
    refused("lock in a folder that is not", disk.lock(&root.join("none/lock")), io::ErrorKind::NotFound);
}

fn files(disk: &dyn Disk, root: &Path) {
    ok("make the folder", disk.create_dir_all(root));
    let path = root.join("a");
    let file = ok("create", disk.create(&path));
    assert!(ok("is_empty", file.is_empty()), "a new file is empty");
    ok("write", file.write_all_at(b"hello world", 0));
    ok("write over", file.write_all_at(b"W", 6));
    ok("write past the end", file.write_all_at(b"!", 13));
    ok("sync", file.sync());
    ok("sync_dir", disk.sync_dir(root));
    assert_eq!(ok("len", file.len()), 14, "a write past the end grows the file");
    assert_eq!(content(disk, &path), b"hello World\0\0!", "the gap is zeros");

    refused("create what is there", disk.create(&path), io::ErrorKind::AlreadyExists);
    refused("open what is not", disk.open(&root.join("b")), io::ErrorKind::NotFound);
    refused("open_rw what is not", disk.open_rw(&root.join("b")), io::ErrorKind::NotFound);
    refused("create where no folder is", disk.create(&root.join("none/b")), io::ErrorKind::NotFound);

    let reader = ok("open", disk.open(&path));
    let mut buf = [0; 4];
    refused("read past the end", reader.read_exact_at(&mut buf, 12), io::ErrorKind::UnexpectedEof);
    ok("read in the middle", reader.read_exact_at(&mut buf, 6));
    assert_eq!(&buf, b"Worl");
    ok("read nothing at the end", reader.read_exact_at(&mut [], 14));
    assert!(reader.write_all_at(b"x", 0).is_err(), "a file opened for reading is not written");

    let again = ok("open_rw", disk.open_rw(&path));
    ok("write again", again.write_all_at(b"J", 0));
    ok("read what is just written", reader.read_exact_at(&mut buf, 0));
    assert_eq!(&buf, b"Jell", "handles see each other's writes");
}

fn names(disk: &dyn Disk, root: &Path) {
    ok("make the folder", disk.create_dir_all(root));
    put(disk, &root.join("a"), b"first");
    put(disk, &root.join("b"), b"second");
    let open = ok("open", disk.open(&root.join("b")));
    ok("rename over", disk.rename(&root.join("a"), &root.join("b")));
    assert_eq!(content(disk, &root.join("b")), b"first", "a rename replaces");
    refused("open the old name", disk.open(&root.join("a")), io::ErrorKind::NotFound);
    let mut buf = [0; 6];
    ok("read what was replaced", open.read_exact_at(&mut buf, 0));
    assert_eq!(&buf, b"second", "an open file outlives its name");

    refused("rename what is not", disk.rename(&root.join("x"), &root.join("y")), io::ErrorKind::NotFound);
    ok("remove", disk.remove(&root.join("b")));
    refused("remove again", disk.remove(&root.join("b")), io::ErrorKind::NotFound);
}

fn directories(disk: &dyn Disk, root: &Path) {
    let deep = root.join("one/two");
    ok("make folders", disk.create_dir_all(&deep));
    ok("make them again", disk.create_dir_all(&deep));
    put(disk, &root.join("one/file"), b"12345");
    let mut listed: Vec<_> = ok("read_dir", disk.read_dir(&root.join("one")));
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    let listed: Vec<_> = listed.into_iter().map(|e| (e.name, e.is_dir, e.len)).collect();
    assert_eq!(listed, [("file".to_owned(), false, 5), ("two".to_owned(), true, 0)]);
    refused("list what is not", disk.read_dir(&root.join("none")), io::ErrorKind::NotFound);
    refused("sync a folder that is not", disk.sync_dir(&root.join("none")), io::ErrorKind::NotFound);

    let kept = root.join("one");
    refused("remove a folder that holds something", disk.remove_dir(&kept), io::ErrorKind::DirectoryNotEmpty);
    refused("remove a folder that is not", disk.remove_dir(&root.join("none")), io::ErrorKind::NotFound);
    ok("make an empty folder", disk.create_dir_all(&kept.join("empty")));
    ok("remove an empty folder", disk.remove_dir(&kept.join("empty")));
    refused("remove it again", disk.remove_dir(&kept.join("empty")), io::ErrorKind::NotFound);
    ok("make an own folder", make_own_dir(disk, &kept.join("own/folder")));
    ok("make it again, empty", make_own_dir(disk, &kept.join("own/folder")));
    ok("leave one that is in use", make_own_dir(disk, &kept));
    assert_eq!(content(disk, &kept.join("file")), b"12345");
    ok("remove it", disk.remove_dir_all(&kept.join("own")));

    ok("move to another folder", disk.rename(&root.join("one/file"), &deep.join("file")));
    assert_eq!(content(disk, &deep.join("file")), b"12345");
    ok("remove a tree", disk.remove_dir_all(&root.join("one")));
    ok("remove a tree that is gone", disk.remove_dir_all(&root.join("one")));
    refused("open in it", disk.open(&deep.join("file")), io::ErrorKind::NotFound);
}

fn put(disk: &dyn Disk, path: &Path, bytes: &[u8]) {
    let file = ok("create", disk.create(path));
    ok("write", file.write_all_at(bytes, 0));
}

fn content(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    let file: Box<dyn DiskFile> = ok("open", disk.open(path));
    let mut buf = vec![0; ok("len", file.len()) as usize];
    ok("read", file.read_exact_at(&mut buf, 0));
    buf
}

#[track_caller]
fn ok<T>(doing: &str, result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{doing}: {error}"))
}

#[track_caller]
fn refused<T>(doing: &str, result: io::Result<T>, kind: io::ErrorKind) {
    match result {
        Ok(_) => panic!("{doing}: must be refused"),
        Err(error) => assert_eq!(error.kind(), kind, "{doing}: {error}"),
    }
}
