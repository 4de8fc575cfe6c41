//! What is in the fake disk: nodes, what of them is durable, and what a crash makes of the rest.

use super::rng::Rng;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Component, Path};

/// Bytes that a torn write keeps or loses as one.
const SECTOR_BYTES: usize = 512;

pub(super) const ROOT: u64 = 0;

#[derive(Clone, Debug)]
pub(super) struct Write {
    offset: usize,
    data: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct FileNode {
    /// What processes see.
    pub(super) live: Vec<u8>,
    /// What survives for sure.
    pub(super) durable: Vec<u8>,
    /// Written since the last sync, in order.
    pub(super) pending: Vec<Write>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct DirNode {
    pub(super) live: BTreeMap<String, u64>,
    pub(super) durable: BTreeMap<String, u64>,
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    File(FileNode),
    Dir(DirNode),
}

/// A change of names that is not durable yet; the whole of it becomes durable or none.
#[derive(Clone, Debug)]
pub(super) struct NameChange {
    /// Directory and name that goes.
    pub(super) gone: Option<(u64, String)>,
    /// Directory, name and node that comes.
    pub(super) come: Option<(u64, String, u64)>,
}

impl NameChange {
    pub(super) fn touches(&self, dir: u64) -> bool {
        self.gone.as_ref().is_some_and(|(of, _)| *of == dir) || self.come.as_ref().is_some_and(|(of, ..)| *of == dir)
    }
}

/// The state behind all handles.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) nodes: HashMap<u64, Node>,
    pub(super) next_node: u64,
    pub(super) names: Vec<NameChange>,
    /// Handles of an earlier boot are dead.
    pub(super) boot: u64,
    pub(super) capacity_bytes: usize,
    pub(super) operations: u64,
    pub(super) power_off_at: Option<u64>,
    pub(super) syncs: u64,
    pub(super) fail_sync_at: Option<u64>,
    pub(super) lying: bool,
    /// Which files are locked, and by which boot.
    pub(super) locks: HashMap<u64, u64>,
    pub(super) rng: Rng,
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Machine {
    pub(super) fn used_bytes(&self) -> usize {
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

    pub(super) fn dir(&mut self, id: u64) -> io::Result<&mut DirNode> {
        match self.nodes.get_mut(&id) {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(not_found()),
        }
    }

    pub(super) fn file(&mut self, id: u64) -> io::Result<&mut FileNode> {
        match self.nodes.get_mut(&id) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(not_found()),
        }
    }

    pub(super) fn find(&mut self, path: &Path) -> io::Result<u64> {
        let mut at = ROOT;
        for name in names(path)? {
            at = self.dir(at)?.live.get(&name).copied().ok_or_else(not_found)?;
        }
        Ok(at)
    }

    /// The directory of a path, and the last name of it.
    pub(super) fn place(&mut self, path: &Path) -> io::Result<(u64, String)> {
        let mut all = names(path)?;
        let name = all.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let mut at = ROOT;
        for part in all {
            at = self.dir(at)?.live.get(&part).copied().ok_or_else(not_found)?;
        }
        self.dir(at)?;
        Ok((at, name))
    }

    pub(super) fn add(&mut self, node: Node) -> u64 {
        let id = self.next_node;
        self.next_node += 1;
        self.nodes.insert(id, node);
        id
    }

    pub(super) fn change(&mut self, change: NameChange) -> io::Result<()> {
        if let Some((dir, name)) = &change.gone {
            self.dir(*dir)?.live.remove(name);
        }
        if let Some((dir, name, node)) = &change.come {
            self.dir(*dir)?.live.insert(name.clone(), *node);
        }
        self.names.push(change);
        Ok(())
    }

    pub(super) fn make_durable(&mut self, change: &NameChange) {
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
    pub(super) fn sync_works(&mut self) -> Result<bool, io::Error> {
        let now = self.syncs;
        self.syncs += 1;
        if self.fail_sync_at == Some(now) { Err(io::Error::other("a sync failed")) } else { Ok(!self.lying) }
    }

    pub(super) fn sync_names(&mut self, dir: u64) -> io::Result<()> {
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

    pub(super) fn sync_content(&mut self, node: u64) -> io::Result<()> {
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

    pub(super) fn write(&mut self, node: u64, offset: usize, data: &[u8]) -> io::Result<()> {
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

    pub(super) fn lose_power(&mut self, rng: &mut Rng) {
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

pub(super) fn names(path: &Path) -> io::Result<Vec<String>> {
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
