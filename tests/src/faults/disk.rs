//! A disk in memory that keeps POSIX's promises and no more.
//!
//! What was not synced is lost at a crash, or kept in part, torn and out of order; a name is kept or lost apart from the
//! content behind it, so a rename can survive the data it was to publish. Syncs can fail (then what they covered never
//! becomes durable, and a later sync says nothing of it) or lie, space can run out, and the power can go at the Nth
//! operation. All of it follows from seeds.

use super::machine::{DirNode, FileNode, Machine, NameChange, Node, ROOT, names};
use super::rng::Rng;
use lingqu_protocol::host::{DirEntry, Disk, DiskFile, DiskLock};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A handle on the fake disk for one boot of its machine: after [`FakeDisk::crash`] it answers with errors, so that what
/// still runs from before cannot touch the disk that survived.
#[derive(Clone, Debug)]
pub struct FakeDisk {
    machine: Arc<Mutex<Machine>>,
    boot: u64,
}

impl FakeDisk {
    /// An empty disk with room for `capacity_bytes` of file content; `seed` decides what is torn.
    pub fn new(capacity_bytes: usize, seed: u64) -> Self {
        let machine = Machine {
            nodes: HashMap::from([(ROOT, Node::Dir(DirNode::default()))]),
            next_node: ROOT + 1,
            names: Vec::new(),
            boot: 0,
            capacity_bytes,
            operations: 0,
            power_off_at: None,
            syncs: 0,
            fail_sync_at: None,
            lying: false,
            locks: HashMap::new(),
            rng: Rng::new(seed),
        };
        Self { machine: Arc::new(Mutex::new(machine)), boot: 0 }
    }

    /// The power goes in the middle of the `n`th operation from now (0 is the next): that one and all later fail.
    pub fn power_off_after(&self, n: u64) {
        let mut machine = self.lock();
        machine.power_off_at = Some(machine.operations + n);
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        let machine = self.lock();
        machine.power_off_at.is_some_and(|at| machine.operations > at)
    }

    /// The `n`th sync from now (0 is the next) fails, once.
    pub fn fail_sync_after(&self, n: u64) {
        let mut machine = self.lock();
        machine.fail_sync_at = Some(machine.syncs + n);
    }

    /// Takes back faults that were planned and did not come yet.
    pub fn plan_no_faults(&self) {
        let mut machine = self.lock();
        machine.power_off_at = None;
        machine.fail_sync_at = None;
    }

    /// From now on syncs answer that all is well and do nothing: a planted bug.
    pub fn lie_about_sync(&self) {
        self.lock().lying = true;
    }

    /// Another capacity, for content that is there as well.
    pub fn set_capacity(&self, capacity_bytes: usize) {
        self.lock().capacity_bytes = capacity_bytes;
    }

    /// Bytes of content of all files that have a name.
    pub fn used_bytes(&self) -> usize {
        self.lock().used_bytes()
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Changes a byte at rest, as a failing disk does.
    ///
    /// # Errors
    /// No such file, or no such byte.
    pub fn flip(&self, path: &Path, offset: usize, mask: u8) -> io::Result<()> {
        let mut machine = self.lock();
        let node = machine.find(path)?;
        let file = machine.file(node)?;
        for copy in [&mut file.live, &mut file.durable] {
            if let Some(byte) = copy.get_mut(offset) {
                *byte ^= mask;
            }
        }
        Ok(())
    }

    /// The process is killed and started again: all that the kernel has is still there.
    #[must_use]
    pub fn restart(&self) -> Self {
        let mut machine = self.lock();
        machine.boot += 1;
        machine.power_off_at = None;
        machine.fail_sync_at = None;
        Self { machine: self.machine.clone(), boot: machine.boot }
    }

    /// The power fails and comes back. What was synced is there; of the rest `seed` decides.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        self.lock().lose_power(&mut Rng::new(seed));
        self.restart()
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation: counts it, and tells whether the power goes in the middle of it.
    fn begin(&self) -> io::Result<(MutexGuard<'_, Machine>, bool)> {
        let mut machine = self.lock();
        if machine.boot != self.boot {
            return Err(io::Error::other("this process was killed"));
        }
        let now = machine.operations;
        machine.operations += 1;
        match machine.power_off_at {
            Some(at) if now > at => Err(off()),
            at => Ok((machine, at == Some(now))),
        }
    }

    /// Runs one operation that either happens or does not when the power goes in the middle of it.
    fn operation<T>(&self, work: impl FnOnce(&mut Machine) -> io::Result<T>) -> io::Result<T> {
        let (mut machine, dying) = self.begin()?;
        if dying {
            if machine.rng.one_in(2) {
                // It happened, and nobody hears of it.
                let _ = work(&mut machine);
            }
            return Err(off());
        }
        work(&mut machine)
    }
}

fn off() -> io::Error {
    io::Error::other("the power is off")
}

impl Disk for FakeDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let node = self.operation(|machine| {
            let (dir, name) = machine.place(path)?;
            if machine.dir(dir)?.live.contains_key(&name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let node = machine.add(Node::File(FileNode::default()));
            machine.change(NameChange { gone: None, come: Some((dir, name, node)) })?;
            Ok(node)
        })?;
        Ok(Box::new(FakeFile { disk: self.clone(), node, writable: true }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let node = self.operation(|machine| {
            let node = machine.find(path)?;
            machine.file(node).map(|_| node)
        })?;
        Ok(Box::new(FakeFile { disk: self.clone(), node, writable: false }))
    }

    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let node = self.operation(|machine| {
            let node = machine.find(path)?;
            machine.file(node).map(|_| node)
        })?;
        Ok(Box::new(FakeFile { disk: self.clone(), node, writable: true }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operation(|machine| {
            let node = machine.find(from)?;
            let (from, to) = (machine.place(from)?, machine.place(to)?);
            if from == to {
                return Ok(());
            }
            machine.change(NameChange { gone: Some(from), come: Some((to.0, to.1, node)) })
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operation(|machine| {
            let node = machine.find(path)?;
            machine.file(node)?;
            let place = machine.place(path)?;
            machine.change(NameChange { gone: Some(place), come: None })
        })
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.operation(|machine| {
            let node = machine.find(path)?;
            if !machine.dir(node)?.live.is_empty() {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            let place = machine.place(path)?;
            machine.change(NameChange { gone: Some(place), come: None })
        })
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.operation(|machine| {
            let node = match machine.find(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                found => found?,
            };
            machine.dir(node)?;
            let place = machine.place(path)?;
            machine.change(NameChange { gone: Some(place), come: None })
        })
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.operation(|machine| {
            let mut at = ROOT;
            for name in names(path)? {
                at = match machine.dir(at)?.live.get(&name).copied() {
                    Some(next) => next,
                    None => {
                        let node = machine.add(Node::Dir(DirNode::default()));
                        machine.change(NameChange { gone: None, come: Some((at, name, node)) })?;
                        machine.sync_names(at)?;
                        node
                    }
                };
                machine.dir(at)?;
            }
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.operation(|machine| {
            let dir = machine.find(path)?;
            machine.dir(dir)?;
            machine.sync_names(dir)
        })
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.operation(|machine| {
            let dir = machine.find(path)?;
            let names = machine.dir(dir)?.live.clone();
            Ok(names
                .into_iter()
                .map(|(name, node)| match machine.nodes.get(&node) {
                    Some(Node::File(file)) => DirEntry { name, is_dir: false, len: file.live.len() as u64 },
                    _ => DirEntry { name, is_dir: true, len: 0 },
                })
                .collect())
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let boot = self.boot;
        let node = self.operation(|machine| {
            let node = match machine.find(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let (dir, name) = machine.place(path)?;
                    let node = machine.add(Node::File(FileNode::default()));
                    machine.change(NameChange { gone: None, come: Some((dir, name, node)) })?;
                    node
                }
                found => found?,
            };
            machine.file(node)?;
            // One that an earlier boot held is free.
            if machine.locks.get(&node) == Some(&boot) {
                return Ok(None);
            }
            machine.locks.insert(node, boot);
            Ok(Some(node))
        })?;
        Ok(node.map(|node| Box::new(FakeLock { disk: self.clone(), node }) as Box<dyn DiskLock>))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        let boot = self.boot;
        self.operation(|machine| match machine.find(path) {
            Ok(node) => Ok(machine.locks.get(&node) == Some(&boot)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        })
    }
}

struct FakeLock {
    disk: FakeDisk,
    node: u64,
}

impl DiskLock for FakeLock {}

impl Drop for FakeLock {
    fn drop(&mut self) {
        let mut machine = self.disk.lock();
        if machine.locks.get(&self.node) == Some(&self.disk.boot) {
            machine.locks.remove(&self.node);
        }
    }
}

struct FakeFile {
    disk: FakeDisk,
    node: u64,
    writable: bool,
}

impl DiskFile for FakeFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.operation(|machine| {
            let content = &machine.file(self.node)?.live;
            let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
            let wanted = start.checked_add(buf.len()).and_then(|end| content.get(start..end));
            buf.copy_from_slice(wanted.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let (mut machine, dying) = self.disk.begin()?;
        if dying {
            let part = machine.rng.below(buf.len() as u64 + 1) as usize;
            let _ = machine.write(self.node, start, buf.get(..part).unwrap_or(buf));
            return Err(off());
        }
        machine.write(self.node, start, buf)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.operation(|machine| machine.sync_content(self.node))
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.operation(|machine| Ok(machine.file(self.node)?.live.len() as u64))
    }
}
