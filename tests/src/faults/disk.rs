//! A disk in memory that keeps POSIX's promises and no more.
//!
//! What was not synced is lost at a crash, or kept in part, torn and out of order; a name is kept or lost apart from the
//! content behind it, so a rename can survive the data it was to publish. Syncs can fail (then what they covered never
//! becomes durable, and a later sync says nothing of it) or lie, space can run out, and the power can go at the Nth
//! operation. All of it follows from seeds.

use super::rng::Rng;
use lingqu_protocol::host::{DirEntry, Disk, DiskFile};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that a torn write keeps or loses as one.
const SECTOR_BYTES: usize = 512;

const ROOT: u64 = 0;

#[derive(Clone, Debug)]
struct Write {
    offset: usize,
    data: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
struct FileNode {
    /// What processes see.
    live: Vec<u8>,
    /// What survives for sure.
    durable: Vec<u8>,
    /// Written since the last sync, in order.
    pending: Vec<Write>,
}

#[derive(Clone, Debug, Default)]
struct DirNode {
    live: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
}

#[derive(Clone, Debug)]
enum Node {
    File(FileNode),
    Dir(DirNode),
}

/// A change of names that is not durable yet; the whole of it becomes durable or none.
#[derive(Clone, Debug)]
struct NameChange {
    /// Directory and name that goes.
    gone: Option<(u64, String)>,
    /// Directory, name and node that comes.
    come: Option<(u64, String, u64)>,
}

impl NameChange {
    fn touches(&self, dir: u64) -> bool {
        self.gone.as_ref().is_some_and(|(of, _)| *of == dir) || self.come.as_ref().is_some_and(|(of, ..)| *of == dir)
    }
}

#[derive(Debug)]
struct Machine {
    nodes: HashMap<u64, Node>,
    next_node: u64,
    names: Vec<NameChange>,
    /// Handles of an earlier boot are dead.
    boot: u64,
    capacity_bytes: usize,
    operations: u64,
    power_off_at: Option<u64>,
    syncs: u64,
    fail_sync_at: Option<u64>,
    lying: bool,
    rng: Rng,
}

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

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Machine {
    fn used_bytes(&self) -> usize {
        let named = self.nodes.values().filter_map(|node| match node {
            Node::Dir(dir) => Some(dir.live.values()),
            Node::File(_) => None,
        });
        named
            .flatten()
            .map(|id| match self.nodes.get(id) {
                Some(Node::File(file)) => file.live.len(),
                _ => 0,
            })
            .sum()
    }

    fn dir(&mut self, id: u64) -> io::Result<&mut DirNode> {
        match self.nodes.get_mut(&id) {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(not_found()),
        }
    }

    fn file(&mut self, id: u64) -> io::Result<&mut FileNode> {
        match self.nodes.get_mut(&id) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(not_found()),
        }
    }

    fn find(&mut self, path: &Path) -> io::Result<u64> {
        let mut at = ROOT;
        for name in names(path)? {
            at = self.dir(at)?.live.get(&name).copied().ok_or_else(not_found)?;
        }
        Ok(at)
    }

    /// The directory of a path, and the last name of it.
    fn place(&mut self, path: &Path) -> io::Result<(u64, String)> {
        let mut all = names(path)?;
        let name = all.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let mut at = ROOT;
        for part in all {
            at = self.dir(at)?.live.get(&part).copied().ok_or_else(not_found)?;
        }
        self.dir(at)?;
        Ok((at, name))
    }

    fn add(&mut self, node: Node) -> u64 {
        let id = self.next_node;
        self.next_node += 1;
        self.nodes.insert(id, node);
        id
    }

    fn change(&mut self, change: NameChange) -> io::Result<()> {
        if let Some((dir, name)) = &change.gone {
            self.dir(*dir)?.live.remove(name);
        }
        if let Some((dir, name, node)) = &change.come {
            self.dir(*dir)?.live.insert(name.clone(), *node);
        }
        self.names.push(change);
        Ok(())
    }

    fn make_durable(&mut self, change: &NameChange) {
        if let Some((dir, name)) = &change.gone
            && let Ok(dir) = self.dir(*dir)
        {
            dir.durable.remove(name);
        }
        if let Some((dir, name, node)) = &change.come
            && let Ok(dir) = self.dir(*dir)
        {
            dir.durable.insert(name.clone(), *node);
        }
    }

    /// Whether a sync does its work. A lie does not, and says nothing.
    fn sync_works(&mut self) -> Result<bool, io::Error> {
        let now = self.syncs;
        self.syncs += 1;
        if self.fail_sync_at == Some(now) { Err(io::Error::other("a sync failed")) } else { Ok(!self.lying) }
    }

    fn sync_names(&mut self, dir: u64) -> io::Result<()> {
        let works = self.sync_works();
        if !matches!(works, Ok(false)) {
            let (touched, rest) =
                std::mem::take(&mut self.names).into_iter().partition(|c: &NameChange| c.touches(dir));
            self.names = rest;
            // After a failure the kernel forgets that there was something to write.
            if works.is_ok() {
                let touched: Vec<NameChange> = touched;
                touched.iter().for_each(|change| self.make_durable(change));
            }
        }
        works.map(|_| ())
    }

    fn sync_content(&mut self, node: u64) -> io::Result<()> {
        let works = self.sync_works();
        let file = self.file(node)?;
        if !matches!(works, Ok(false)) {
            let pending = std::mem::take(&mut file.pending);
            // After a failure the kernel forgets that there was something to write.
            for write in pending.iter().filter(|_| works.is_ok()) {
                lay(&mut file.durable, write.offset, &write.data);
            }
        }
        works.map(|_| ())
    }

    fn write(&mut self, node: u64, offset: usize, data: &[u8]) -> io::Result<()> {
        let end = offset + data.len();
        let grows = end.saturating_sub(self.file(node)?.live.len());
        let room = self.capacity_bytes.saturating_sub(self.used_bytes());
        let fits = if grows > room { data.len() - (grows - room).min(data.len()) } else { data.len() };
        let kept = data.get(..fits).unwrap_or(data);
        let file = self.file(node)?;
        lay(&mut file.live, offset, kept);
        file.pending.push(Write { offset, data: kept.to_vec() });
        if fits < data.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn lose_power(&mut self, rng: &mut Rng) {
        for change in std::mem::take(&mut self.names) {
            if rng.one_in(2) {
                self.make_durable(&change);
            }
        }
        let mut ids: Vec<u64> = self.nodes.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            match self.nodes.get_mut(&id) {
                Some(Node::File(file)) => {
                    let mut pending = std::mem::take(&mut file.pending);
                    rng.shuffle(&mut pending);
                    for write in pending {
                        tear(&mut file.durable, &write, rng);
                    }
                    file.live.clone_from(&file.durable);
                }
                Some(Node::Dir(dir)) => dir.live.clone_from(&dir.durable),
                None => {}
            }
        }
    }
}

/// Lays what a crash keeps of a write: all, nothing, or some of its sectors.
fn tear(content: &mut Vec<u8>, write: &Write, rng: &mut Rng) {
    match rng.below(3) {
        0 => {}
        1 => lay(content, write.offset, &write.data),
        _ => {
            for (index, sector) in write.data.chunks(SECTOR_BYTES).enumerate() {
                if rng.one_in(2) {
                    lay(content, write.offset + index * SECTOR_BYTES, sector);
                }
            }
        }
    }
}

fn lay(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if !data.is_empty() && content.len() < end {
        content.resize(end, 0);
    }
    if let Some(place) = content.get_mut(offset..end) {
        place.copy_from_slice(data);
    }
}

fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut out = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir => {}
            Component::Normal(name) => out.push(name.to_string_lossy().into_owned()),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    Ok(out)
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
