//! The outbox: what this agent set out to move, written down before the first byte moves.
//!
//! `PROFILE/outbox/ID.json` holds one transfer, `PROFILE/outbox/ID.lock` is there while a process runs it and is held by
//! that process, and `PROFILE/receipts/ID.json` is its receipt. Several processes share one outbox.
//!
//! Kill safety. A record is written to a temporary file, synced, renamed, and its directory synced: after a kill or a
//! power cut there is the old record, the new one, or none, and none means that nothing was sent yet. A record is only
//! written by the holder of its lock, which the system takes back from a process that dies; so a record that says
//! running and whose lock is free was interrupted. A receipt is durable before its record says done.
//!
//! What an earlier process left is to be seen and need not be on the disk: its sync may have failed. So a record and a
//! receipt that something new rests on are written again first.
//!
//! A transfer that succeeded leaves its receipt. One that failed stays for [`FAILED_KEPT_MS`], so that it can be looked at
//! and resumed, and is then swept. One that was cut stays until it is resumed or given up.

mod record;
mod sweep;

pub use record::{KeysWork, PullWork, Record, SourceFile, State, Work};

use crate::error::{AgentError, Told};
use lingqu_protocol::host::{Clock, Disk, DiskLock, Entropy, make_own_dir};
use lingqu_protocol::ids::TransferId;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of one record: a hundred thousand sources with long paths.
const RECORD_BYTES_MAX: u64 = 256 << 20;

/// Bytes of one receipt; the gateway's control messages hold no more.
const RECEIPT_BYTES_MAX: u64 = 1 << 20;

/// Transfers that a listing shows: more is not read by people, and a program asks for one by its id.
pub const LIST_MAX: usize = 1_000;

/// How long a transfer that failed is kept, in milliseconds: as long as the gateway keeps what it got of one.
pub const FAILED_KEPT_MS: i64 = 30 * 24 * 3600 * 1000;

/// When the outbox was last swept, milliseconds since 1970 UTC; empty where it never was. It is there from the beginning,
/// so that the folder is never empty.
const SWEPT: &str = ".swept";

/// Tries to make the outbox's folder: another process that makes it at the same time is in the way once.
const FOLDER_TRIES: u32 = 8;

/// Bytes of an idempotency key: a name, not a document.
const KEY_BYTES_MAX: usize = 256;

/// Makes the ids that come from keys nothing else's.
const KEY_DOMAIN: &[u8] = b"lingqu idempotency key v1\n";

/// The transfers of one profile.
#[derive(Clone)]
pub struct Outbox {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    folder: PathBuf,
    receipts: PathBuf,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// The right to run one transfer; given back when dropped, or when the process dies.
pub struct Hold {
    id: TransferId,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    lock: Option<Box<dyn DiskLock>>,
}

impl Hold {
    /// The transfer.
    pub const fn id(&self) -> TransferId {
        self.id
    }
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hold").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // While it is held, so that nobody else's goes.
        if let Err(error) = self.disk.remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a lock's file could not be removed; a later sweep does it");
        }
        self.lock.take();
    }
}

/// The id of the transfer that `key` names for this agent and entry: the same on every try.
///
/// # Errors
/// A key that is empty or too long.
pub fn id_from_key(agent: &str, entry: &str, key: &str) -> Result<TransferId, AgentError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(AgentError::Usage(Told::new(
            "idempotency_key",
            format!("an idempotency key has 1 to {KEY_BYTES_MAX} bytes, this one has {}", key.len()),
            format!("幂等键长度须为 1 至 {KEY_BYTES_MAX} 字节，当前为 {} 字节", key.len()),
        )));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(KEY_DOMAIN);
    for part in [agent, entry, key] {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let mut bits = [0; 16];
    hasher.finalize_xof().fill(&mut bits);
    Ok(TransferId::from_bits(u128::from_be_bytes(bits)))
}

impl Outbox {
    /// The outbox of the profile in `profile`; its folders are made where they are not there.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, profile: &Path) -> Result<Self, AgentError> {
        let (folder, receipts) = (profile.join("outbox"), profile.join("receipts"));
        for path in [&folder, &receipts] {
            own_folder(&*disk, path).map_err(|e| AgentError::io("making the folder", path, &e))?;
        }
        Ok(Self { disk, clock, folder, receipts })
    }

    /// Writes down a new transfer, durably, and holds it.
    ///
    /// # Errors
    /// What the disk or the generator says.
    pub fn create(&self, entropy: &dyn Entropy, work: Work) -> Result<(Hold, Record), AgentError> {
        let id = TransferId::random(entropy).map_err(|e| AgentError::entropy(&e))?;
        self.create_as(id, work)
    }

    /// As [`create`](Self::create), under an id that comes from a key. The same work under the same key is the same
    /// transfer: its record is given back as it is.
    ///
    /// # Errors
    /// Also where the key was used for other work, or another process runs this transfer.
    pub fn create_as(&self, id: TransferId, work: Work) -> Result<(Hold, Record), AgentError> {
        let hold = self.hold(id)?;
        if let Some(record) = self.load(id)? {
            if !record.work.same_as(&work) {
                return Err(AgentError::Usage(
                    Told::new(
                        "idempotency_key",
                        format!("this idempotency key was used for other content ({id})"),
                        format!("该幂等键已用于其他内容（{id}）"),
                    )
                    .next("use a new key for new content", "新内容请使用新的幂等键"),
                ));
            }
            // Its last writer may not have lived to see it synced.
            self.write(&record)?;
            return Ok((hold, record));
        }
        let record = Record { id, created_at: self.clock.wall().0, ended_at: None, state: State::Queued, work };
        self.write(&record)?;
        Ok((hold, record))
    }

    /// Takes the right to run a transfer.
    ///
    /// # Errors
    /// Where another process runs it; what the disk says.
    pub fn hold(&self, id: TransferId) -> Result<Hold, AgentError> {
        let path = self.lock_path(id);
        match self.disk.lock(&path).map_err(|e| AgentError::io("locking", &path, &e))? {
            Some(lock) => Ok(Hold { id, disk: self.disk.clone(), path, lock: Some(lock) }),
            None => Err(AgentError::Usage(
                Told::new(
                    "transfer_running",
                    format!("{id} is run by another process"),
                    format!("{id} 正由另一进程执行"),
                )
                .next("wait for it, or stop that process", "请等待其结束，或停止该进程"),
            )),
        }
    }

    /// Whether a process runs this transfer now.
    ///
    /// # Errors
    /// What the disk says.
    pub fn is_held(&self, id: TransferId) -> Result<bool, AgentError> {
        let path = self.lock_path(id);
        self.disk.is_locked(&path).map_err(|e| AgentError::io("looking at", &path, &e))
    }

    /// Changes the state of a transfer that is held, durably.
    ///
    /// # Errors
    /// What the disk says.
    pub fn set(&self, hold: &Hold, record: &mut Record, state: State) -> Result<(), AgentError> {
        debug_assert_eq!(hold.id, record.id);
        let has_ended = matches!(state, State::Done | State::Failed { .. });
        record.ended_at = has_ended.then(|| self.clock.wall().0);
        record.state = state;
        self.write(record)
    }

    /// The transfer with this id; `None` where the outbox has none.
    ///
    /// # Errors
    /// What the disk says; a record that this version cannot read.
    pub fn load(&self, id: TransferId) -> Result<Option<Record>, AgentError> {
        let path = self.record_path(id);
        let Some(bytes) = self.read(&path, RECORD_BYTES_MAX)? else { return Ok(None) };
        let record: Record = serde_json::from_slice(&bytes).map_err(|e| unreadable(&path, &e.to_string()))?;
        if record.id == id { Ok(Some(record)) } else { Err(unreadable(&path, "it names another transfer")) }
    }

    /// The latest transfers, newest first, at most [`LIST_MAX`]; and whether there are more.
    ///
    /// # Errors
    /// What the disk says.
    pub fn list(&self) -> Result<(Vec<Record>, bool), AgentError> {
        let names = self.disk.read_dir(&self.folder).map_err(|e| AgentError::io("listing", &self.folder, &e))?;
        let mut records = Vec::new();
        let mut more = false;
        for name in names {
            let Some(id) = name.name.strip_suffix(".json").and_then(|n| n.parse().ok()) else { continue };
            // Another process may have removed it in between.
            if let Some(record) = self.load(id)? {
                records.push(record);
            }
            // Holds at most twice what is shown, however many there are.
            if records.len() >= 2 * LIST_MAX {
                more |= newest(&mut records);
            }
        }
        more |= newest(&mut records);
        Ok((records, more))
    }

    /// Forgets a transfer that is held; its receipt, if any, stays.
    ///
    /// # Errors
    /// What the disk says.
    pub fn remove(&self, hold: &Hold) -> Result<(), AgentError> {
        let path = self.record_path(hold.id);
        match self.disk.remove(&path) {
            Ok(()) => self.sync_folder(&self.folder),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(AgentError::io("removing", &path, &e)),
        }
    }

    /// Keeps a receipt, durably, and says where.
    ///
    /// # Errors
    /// What the disk says.
    pub fn keep_receipt(&self, id: TransferId, json: &[u8]) -> Result<PathBuf, AgentError> {
        let path = self.receipt_path(id);
        self.replace(&path, json)?;
        Ok(path)
    }

    /// Where a transfer's receipt lies once it is done.
    pub fn receipt_path(&self, id: TransferId) -> PathBuf {
        self.receipts.join(format!("{id}.json"))
    }

    /// A transfer's receipt, where it is here.
    ///
    /// # Errors
    /// What the disk says.
    pub fn receipt(&self, id: TransferId) -> Result<Option<Vec<u8>>, AgentError> {
        self.read(&self.receipt_path(id), RECEIPT_BYTES_MAX)
    }

    /// As [`receipt`](Self::receipt), of an earlier process, whose sync may have failed: durable when this returns.
    ///
    /// # Errors
    /// What the disk says.
    pub fn receipt_kept_before(&self, id: TransferId) -> Result<Option<Vec<u8>>, AgentError> {
        let receipt = self.receipt(id)?;
        if let Some(json) = &receipt {
            self.keep_receipt(id, json)?;
        }
        Ok(receipt)
    }

    fn lock_path(&self, id: TransferId) -> PathBuf {
        self.folder.join(format!("{id}.lock"))
    }

    fn record_path(&self, id: TransferId) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    fn write(&self, record: &Record) -> Result<(), AgentError> {
        let path = self.record_path(record.id);
        let bytes = serde_json::to_vec(record).map_err(|e| unreadable(&path, &e.to_string()))?;
        self.replace(&path, &bytes)
    }

    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, AgentError> {
        let failed = |e: &io::Error| AgentError::io("reading", path, e);
        let file = match self.disk.open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(&e)),
        };
        let bytes = file.len().map_err(|e| failed(&e))?;
        if bytes > bytes_max {
            return Err(unreadable(path, &format!("it has {bytes} bytes, more than the {bytes_max} allowed")));
        }
        let mut out = vec![0; bytes as usize];
        file.read_exact_at(&mut out, 0).map_err(|e| failed(&e))?;
        Ok(Some(out))
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), AgentError> {
        replace(&*self.disk, path, bytes).map_err(|e| AgentError::io("writing", path, &e))
    }

    fn sync_folder(&self, path: &Path) -> Result<(), AgentError> {
        self.disk.sync_dir(path).map_err(|e| AgentError::io("syncing", path, &e))
    }
}

/// Replaces a small file whole or not at all, durable when this returns. One writer at a time for a path.
///
/// # Errors
/// What the disk says.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = path.with_extension("tmp");
    match disk.remove(&temp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = disk.create(&temp)?;
    file.write_all_at(bytes, 0)?;
    file.sync()?;
    drop(file);
    disk.rename(&temp, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Makes a folder, durably, with something in it.
fn own_folder(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let mut outcome = Ok(());
    for _ in 0..FOLDER_TRIES {
        make_own_dir(disk, path)?;
        // From here on nobody takes it for one whose name may be lost.
        outcome = match disk.create(&path.join(SWEPT)) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
            Err(error) => return Err(error),
        };
    }
    outcome
}

/// Keeps the newest [`LIST_MAX`]; whether any was left out.
fn newest(records: &mut Vec<Record>) -> bool {
    records.sort_by_key(|r| (std::cmp::Reverse(r.created_at), r.id));
    let more = records.len() > LIST_MAX;
    records.truncate(LIST_MAX);
    more
}

fn unreadable(path: &Path, why: &str) -> AgentError {
    let path = path.display();
    AgentError::Machine(
        Told::new("outbox", format!("{path} cannot be used: {why}"), format!("{path} 无法使用：{why}"))
            .next("move that file away and send again", "移走该文件后重新发送"),
    )
}

#[cfg(test)]
mod tests;
