//! The gateway's folder: where each thing lies, and opening what belongs together.

mod cuts;
mod init;

pub use cuts::CutsFile;
pub use init::{Made, init};

use crate::config::{Config, ConfigError};
use crate::registry::Identity;
use lingqu_certs::ca::{Authority, CaError};
use lingqu_certs::chain::{self, Validity};
use lingqu_certs::document::{DocumentError, payload_digest};
use lingqu_certs::key::{KeyError, PublicKey, SigningKey};
use lingqu_certs::os::{self, OsDisk};
use lingqu_certs::root::{RootError, open_as_root};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::{Document, GatewayBody};
use lingqu_protocol::dsse::{ENVELOPE_TEXT_BYTES_MAX, Envelope, EnvelopeError};
use lingqu_protocol::host::{Disk as _, DiskLock, Entropy, Timestamp};
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of root.pub: one key as text takes 73.
const PIN_BYTES_MAX: u64 = 1024;

/// Milliseconds of a day.
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Where each thing lies in a gateway's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout(PathBuf);

impl Layout {
    /// The layout of `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// The folder, where the CA's certificate and key lie too.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// The configuration.
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// The gateway's certificate, with the CA's behind it.
    pub fn server_certificate(&self) -> PathBuf {
        self.0.join("server.crt")
    }

    /// The gateway's key (0600).
    pub fn server_key(&self) -> PathBuf {
        self.0.join("server.key")
    }

    /// The key that signs receipts and checkpoints (0600).
    pub fn receipt_key(&self) -> PathBuf {
        self.0.join("receipt.key")
    }

    /// The secret that pseudonyms are made with (0600). Without it nobody can make the same ones again.
    pub fn pseudonym_secret(&self) -> PathBuf {
        self.0.join("pseudonym.key")
    }

    /// The pinned root's public key.
    pub fn root_pin(&self) -> PathBuf {
        self.0.join("root.pub")
    }

    /// The root's statement of the gateway's keys.
    pub fn statement(&self) -> PathBuf {
        self.0.join("statement.json")
    }

    /// State and ledger.
    pub fn state(&self) -> PathBuf {
        self.0.join("state").join("lingqu.db")
    }

    /// The data.
    pub fn lake(&self) -> PathBuf {
        self.0.join("lake")
    }

    /// Where a running gateway takes the operator's commands.
    pub fn control_socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// Cuts that could not be recorded.
    pub fn cuts(&self) -> PathBuf {
        self.0.join("unrecorded-cuts")
    }

    /// Held by the one process that works on the folder.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }
}

/// What is wrong with a folder.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// There is no gateway in it.
    #[error("{0} holds no gateway: make one with `lingqu-gateway init --dir {0} --root ROOTDIR`")]
    NoGateway(String),
    /// It is not empty.
    #[error("{0} is there and not empty: choose another folder; nothing is overwritten")]
    NotEmpty(String),
    /// The root inside the folder, or the folder inside the root's.
    #[error(
        "the root's folder {root} and the gateway's {dir} must not be one inside the other: keep the root elsewhere"
    )]
    RootInside {
        /// The root's folder.
        root: String,
        /// The gateway's.
        dir: String,
    },
    /// Another process works on it.
    #[error("another process works on {0}: wait for it, or use the gateway that runs there")]
    Locked(String),
    /// A file.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address or a name that cannot be.
    #[error("{0}")]
    Usage(String),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The CA.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The root.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The root's statement.
    #[error("the root's statement of this gateway: {0}")]
    Statement(#[from] DocumentError),
    /// The statement's file.
    #[error("the root's statement of this gateway: {0}")]
    Envelope(#[from] EnvelopeError),
    /// Files that do not belong together.
    #[error("{0} is not what the root's statement names: restore the folder from one backup")]
    Differs(&'static str),
    /// The file of cuts that could not be recorded.
    #[error("{file} holds cuts that could not be recorded, and it cannot be read: {why}")]
    Cuts {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// The secret of pseudonyms is gone, or another one.
    #[error(
        "pseudonym.key is not there, or not the one that pseudonyms were made with before: restore it from the backup"
    )]
    OtherPseudonyms,
    /// State or ledger.
    #[error(transparent)]
    State(#[from] crate::state::StateError),
    /// The first entry of the ledger.
    #[error(transparent)]
    Ledger(#[from] crate::ledger::LedgerError),
}

/// A gateway's folder with what belongs together, checked.
pub struct Folder {
    /// Where each thing lies.
    pub layout: Layout,
    /// The configuration.
    pub config: Config,
    /// Who this gateway is, as the root says.
    pub identity: Identity,
    /// The CA.
    pub ca: Authority,
    /// The key that signs receipts and checkpoints.
    pub receipt_key: SigningKey,
}

impl Folder {
    /// Opens a folder. The root's statement is checked against the pin, and receipt key and CA against the statement.
    ///
    /// # Errors
    /// The first thing that is missing or does not belong to the rest.
    pub fn open(dir: &Path) -> Result<Self, FolderError> {
        let layout = Layout::new(dir);
        if !layout.config().exists() {
            return Err(FolderError::NoGateway(dir.display().to_string()));
        }
        let config = Config::load(&layout.config())?;
        let read = |path: &Path, max: u64| os::read_bounded(path, max).map_err(io_error("reading", path));
        let pin = read(&layout.root_pin(), PIN_BYTES_MAX)?;
        let root: PublicKey = String::from_utf8_lossy(&pin).trim().parse()?;
        let text = read(&layout.statement(), ENVELOPE_TEXT_BYTES_MAX as u64)?;
        let statement = Envelope::from_json(&text)?;
        let document = statement_of(&statement, &root)?;
        let body = &document.body;
        let ca = Authority::load(dir, &body.domain)?;
        if ca.digest() != body.ca {
            return Err(FolderError::Differs("the CA"));
        }
        let receipt_key = SigningKey::load(&layout.receipt_key())?;
        if receipt_key.public().to_string() != body.receipt_key {
            return Err(FolderError::Differs("the receipt key"));
        }
        let identity = Identity {
            gateway: document.gateway,
            domain: body.domain.clone(),
            root,
            statement,
            address: config.address.clone(),
            certificate_valid_ms: i64::from(config.agent_days) * DAY_MS,
        };
        Ok(Self { layout, config, identity, ca, receipt_key })
    }

    /// Takes the folder for this process, until the lock is dropped.
    ///
    /// # Errors
    /// [`FolderError::Locked`] where another process has it.
    pub fn lock(layout: &Layout) -> Result<Box<dyn DiskLock>, FolderError> {
        let path = layout.lock();
        let lock = OsDisk.lock(&path).map_err(io_error("locking", &path))?;
        lock.ok_or_else(|| FolderError::Locked(layout.dir().display().to_string()))
    }

    /// Makes the gateway's own certificate anew where two thirds of its life are over, or where it is missing. Says
    /// whether it did: then the running gateway takes it up.
    ///
    /// # Errors
    /// The CA's, and what the system says; the old certificate stays.
    pub fn renew_server(&self, now: Timestamp, entropy: &dyn Entropy) -> Result<bool, FolderError> {
        let path = self.layout.server_certificate();
        let life_ms = i64::from(self.config.gateway_days) * DAY_MS;
        let current = chain::load(&path).ok().and_then(|chain| chain::validity(chain.first()?));
        if current.is_some_and(|validity| now < validity.renewal_due_at()) {
            return Ok(false);
        }
        let key = SigningKey::load(&self.layout.server_key())?;
        let chain = self.ca.sign_gateway(&key, Validity::starting(now, life_ms), entropy)?;
        os::write_atomic(&path, chain::to_pem(&chain).as_bytes()).map_err(io_error("writing", &path))?;
        Ok(true)
    }

    /// Digest of the root's statement.
    pub fn statement_digest(&self) -> Digest {
        payload_digest(&self.identity.statement)
    }
}

/// The root's statement of a gateway, checked as of when it was made: it holds until another replaces it.
///
/// # Errors
/// Anyone else's signature, or another document.
pub fn statement_of(envelope: &Envelope, root: &PublicKey) -> Result<Document<GatewayBody>, FolderError> {
    // The gateway's id is in the statement itself; its signature is checked over it.
    let named: Document<GatewayBody> =
        serde_json::from_slice(&envelope.payload).map_err(|e| DocumentError::Malformed(e.to_string()))?;
    Ok(open_as_root(envelope, root, named.gateway, Timestamp(named.issued_at))?.document)
}

fn io_error(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let what = format!("{doing} {}", path.display());
    move |source| FolderError::Io { what, source }
}
