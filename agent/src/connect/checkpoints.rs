//! The last checkpoint that this agent has seen, and the check that the ledger only ever grew since (DESIGN, Ledger).

use super::Greeting;
use crate::error::{AgentError, Told};
use lingqu_certs::key::PublicKey;
use lingqu_certs::os;
use lingqu_certs::receipt::open_gateway;
use lingqu_protocol::checkpoint::{Checkpoint, NOTE_BYTES_MAX, NoteKey, origin};
use lingqu_protocol::digest::{Algorithm, Digest};
use lingqu_protocol::dsse::Envelope;
use lingqu_protocol::merkle::{CONSISTENCY_HASHES_MAX, Hash, verify_consistency};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The file in the profile's folder of checkpoints with the latest one.
const LATEST_FILE: &str = "latest";

/// What a profile pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    /// The root's key.
    pub root: PublicKey,
    /// SHA-256 of the certificate of the gateway's CA.
    pub ca: Digest,
}

/// A folder that keeps the latest checkpoint.
#[derive(Clone, Debug)]
pub struct Checkpoints(PathBuf);

impl Checkpoints {
    /// In this folder; it is made when there is something to keep.
    pub fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// The latest checkpoint as it was kept, or empty.
    ///
    /// # Errors
    /// What the system says; a file that is no text.
    pub fn latest(&self) -> Result<String, AgentError> {
        let path = self.0.join(LATEST_FILE);
        match os::read_bounded(&path, NOTE_BYTES_MAX as u64) {
            Ok(bytes) => String::from_utf8(bytes).map_err(|_| kept_is_damaged(&path, "it is no text")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(AgentError::io("reading", &path, &error)),
        }
    }

    /// Checks what the gateway shows against what was kept, and keeps the new one.
    ///
    /// # Errors
    /// [`AgentError::Integrity`] where the gateway's ledger is not the one that was seen; both checkpoints are then kept as
    /// evidence in a file that the error names.
    pub fn follow(&self, kept: &str, greeting: &Greeting, pins: &Pins) -> Result<(), AgentError> {
        match check(kept, greeting, pins) {
            Ok(Some(new)) => self.keep(&greeting.checkpoint, &new),
            Ok(None) => Ok(()),
            Err(Doubt::KeptIsDamaged(why)) => Err(kept_is_damaged(&self.0.join(LATEST_FILE), &why)),
            Err(doubt) => Err(self.evidence(kept, greeting, &doubt)),
        }
    }

    fn keep(&self, note: &str, new: &Checkpoint) -> Result<(), AgentError> {
        // Another process may have kept a later one in between; a size only ever grows here.
        let size = |note: &str| note.lines().nth(1).and_then(|line| line.parse::<u64>().ok());
        if size(&self.latest()?).is_some_and(|kept| kept >= new.size) {
            return Ok(());
        }
        self.write(LATEST_FILE, note).map(|_| ())
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, AgentError> {
        use lingqu_protocol::host::Disk as _;
        let path = self.0.join(name);
        os::OsDisk
            .create_dir_all(&self.0)
            .and_then(|()| os::write_atomic(&path, text.as_bytes()))
            .map_err(|e| AgentError::io("writing", &path, &e))?;
        Ok(path)
    }

    fn evidence(&self, kept: &str, greeting: &Greeting, doubt: &Doubt) -> AgentError {
        let statement = String::from_utf8_lossy(&greeting.statement);
        let proof: String =
            greeting.consistency.iter().map(|h| format!("{}\n", lingqu_protocol::digest::to_hex(h))).collect();
        let text = format!(
            "{doubt}\n\n-- kept --\n{kept}\n-- shown --\n{}\n-- proof --\n{proof}\n-- statement --\n{statement}\n",
            greeting.checkpoint
        );
        let name = format!("evidence-{}", Digest::sha256(text.as_bytes()).hex().get(..16).unwrap_or_default());
        let (en, zh) = match self.write(&name, &text) {
            Ok(path) => (format!("; evidence: {}", path.display()), format!("；证据：{}", path.display())),
            Err(error) => (format!("; the evidence could not be kept: {error}"), format!("；证据未能保存：{error}")),
        };
        AgentError::Integrity(
            Told::new(
                "ledger_inconsistent",
                format!("the gateway's ledger is not the one that this agent has seen: {doubt}{en}"),
                format!("网关台账与本代理此前所见不一致：{doubt}{zh}"),
            )
            .next(
                "exchange nothing with it; give the evidence to the authority and its auditor",
                "停止与其交换数据；将证据交主管部门及审计人员",
            ),
        )
    }
}

/// Why a ledger is not trusted.
#[derive(Debug, PartialEq, Eq)]
enum Doubt {
    NoCheckpoint,
    Statement(String),
    OtherCa,
    Shown(String),
    KeptIsDamaged(String),
    Proof(String),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCheckpoint => f.write_str("it shows no checkpoint where it showed one before"),
            Self::Statement(why) => write!(f, "the root does not vouch for its keys: {why}"),
            Self::OtherCa => f.write_str("the root vouches for another CA than the pinned one"),
            Self::Shown(why) => write!(f, "its checkpoint does not hold: {why}"),
            Self::KeptIsDamaged(why) => write!(f, "the kept checkpoint does not hold: {why}"),
            Self::Proof(why) => write!(f, "it does not continue the kept checkpoint: {why}"),
        }
    }
}

/// The checkpoint that the gateway shows, if it shows one and may be believed.
fn check(kept: &str, greeting: &Greeting, pins: &Pins) -> Result<Option<Checkpoint>, Doubt> {
    let key = receipt_key(greeting, pins)?;
    if greeting.checkpoint.is_empty() {
        return if kept.is_empty() { Ok(None) } else { Err(Doubt::NoCheckpoint) };
    }
    let shown = Checkpoint::verify(&greeting.checkpoint, &key).map_err(|e| Doubt::Shown(e.to_string()))?;
    if kept.is_empty() {
        return Ok(Some(shown));
    }
    let old = Checkpoint::verify(kept, &key).map_err(|e| Doubt::KeptIsDamaged(e.to_string()))?;
    let proof = hashes(&greeting.consistency)?;
    verify_consistency(Algorithm::Sha256, old.size, shown.size, &old.root, &shown.root, &proof)
        .map_err(|e| Doubt::Proof(format!("{e} (kept size {}, shown size {})", old.size, shown.size)))?;
    Ok(Some(shown))
}

/// The key that signs checkpoints, on the root's word.
fn receipt_key(greeting: &Greeting, pins: &Pins) -> Result<NoteKey, Doubt> {
    let envelope = Envelope::from_json(&greeting.statement).map_err(|e| Doubt::Statement(e.to_string()))?;
    let statement = open_gateway(&envelope, greeting.gateway, &pins.root).map_err(Doubt::Statement)?;
    if statement.body.ca != pins.ca || statement.body.domain != greeting.domain {
        return Err(Doubt::OtherCa);
    }
    let key: PublicKey = statement.body.receipt_key.parse().map_err(|_| Doubt::Statement("it names no key".into()))?;
    Ok(NoteKey { name: origin(&greeting.domain, greeting.gateway), public: *key.as_bytes() })
}

fn hashes(proof: &[Vec<u8>]) -> Result<Vec<Hash>, Doubt> {
    if proof.len() > CONSISTENCY_HASHES_MAX {
        return Err(Doubt::Proof("the proof is too long".into()));
    }
    let hash =
        |bytes: &Vec<u8>| Hash::try_from(bytes.as_slice()).map_err(|_| Doubt::Proof("a hash has 32 bytes".into()));
    proof.iter().map(hash).collect()
}

fn kept_is_damaged(path: &Path, why: &str) -> AgentError {
    let path = path.display();
    AgentError::Integrity(
        Told::new(
            "checkpoint_damaged",
            format!("the kept checkpoint {path} cannot be checked: {why}"),
            format!("保存的检查点 {path} 无法验证：{why}"),
        )
        .next(
            "restore it from a copy; removing it gives up the proof that the ledger only grew",
            "从副本恢复；若删除，将失去台账只增不改的证明",
        ),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
