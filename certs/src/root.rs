//! The root: a key in a folder outside the gateway's, best on another machine. Its public key is pinned in every
//! profile; what it signed is what agencies, officers and the gateway's own keys are known by.

use crate::document::{self, DocumentError, Opened};
use crate::key::{KeyError, PublicKey, SigningKey};
use crate::os;
use lingqu_protocol::documents::{Body, Document, Signer};
use lingqu_protocol::dsse::Envelope;
use lingqu_protocol::host::{Entropy, Timestamp};
use lingqu_protocol::ids::GatewayId;
use std::io;
use std::path::Path;

/// The root's key within its folder (0600).
pub const ROOT_KEY_FILE: &str = "root.key";

/// The root's public key within its folder: the text to compare over the telephone.
pub const ROOT_PIN_FILE: &str = "root.pub";

/// What went wrong at the root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Its key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A file or the folder.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// What was to be signed.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A document that an officer signs and the root does not; the caller's fault.
    #[error("the root does not sign documents of type {0:?}")]
    NotTheRoots(&'static str),
}

/// The root with its private key.
#[derive(Debug)]
pub struct Root {
    key: SigningKey,
}

impl Root {
    /// Makes the root in a folder that has none; the folder is made where it is missing.
    ///
    /// # Errors
    /// `AlreadyExists` inside where a root is there: it is never made again.
    pub fn init(dir: &Path, entropy: &dyn Entropy) -> Result<Self, RootError> {
        use lingqu_protocol::host::Disk as _;
        let io_error = |what: &str, source| RootError::Io { what: format!("{what} {}", dir.display()), source };
        os::OsDisk.create_dir_all(dir).map_err(|e| io_error("making the root's folder", e))?;
        let key = SigningKey::generate(entropy)?;
        key.save_new(&dir.join(ROOT_KEY_FILE))?;
        let pin = format!("{}\n", key.public());
        os::write_atomic(&dir.join(ROOT_PIN_FILE), pin.as_bytes()).map_err(|e| io_error("writing the pin to", e))?;
        Ok(Self { key })
    }

    /// Opens the root in a folder.
    ///
    /// # Errors
    /// When there is no key or no good one.
    pub fn load(dir: &Path) -> Result<Self, RootError> {
        Ok(Self { key: SigningKey::load(&dir.join(ROOT_KEY_FILE))? })
    }

    /// Its public key: what everyone pins.
    pub fn pin(&self) -> PublicKey {
        self.key.public()
    }

    /// Signs what the root says of an agency, an officer or the gateway.
    ///
    /// # Errors
    /// `NotTheRoots` for any other document.
    pub fn seal<B: Body>(&self, document: &Document<B>) -> Result<Envelope, RootError> {
        if B::SIGNER != Signer::Root {
            return Err(RootError::NotTheRoots(B::TYPE));
        }
        Ok(document::seal(document, &self.key)?)
    }
}

/// Opens a document that the root with this pin must have signed.
///
/// # Errors
/// As [`document::open`]; `UnknownSigner` for anyone else's signature.
pub fn open_as_root<B: Body>(
    envelope: &Envelope,
    pin: &PublicKey,
    gateway: GatewayId,
    now: Timestamp,
) -> Result<Opened<B>, DocumentError> {
    let keyid = pin.key_id().to_string();
    document::open(envelope, gateway, now, |asked| (asked == keyid).then_some(*pin))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::os::OsEntropy;
    use lingqu_protocol::documents::{GrantAct, GrantActBody, OfficerBody, OfficerRole};
    use lingqu_protocol::ids::{DocumentId, GrantId};
    use std::os::unix::fs::PermissionsExt;

    const HERE: GatewayId = GatewayId::from_bits(1);
    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn document<B>(body: B) -> Document<B> {
        Document {
            gateway: HERE,
            id: DocumentId::from_bits(2),
            predecessor: None,
            issued_at: NOW.0,
            expires_at: NOW.0 + 1,
            body,
        }
    }

    #[test]
    fn a_root_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/root");
        let root = Root::init(&path, &OsEntropy::new()).unwrap();
        assert!(Root::init(&path, &OsEntropy::new()).is_err());
        assert_eq!(Root::load(&path).unwrap().pin(), root.pin());
        let pin = std::fs::read_to_string(path.join(ROOT_PIN_FILE)).unwrap();
        assert_eq!(pin.trim().parse::<PublicKey>().unwrap(), root.pin());
        let mode = std::fs::metadata(path.join(ROOT_KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_root_signs_what_is_the_roots_and_only_its_own_signature_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::init(&dir.path().join("a"), &OsEntropy::new()).unwrap();
        let other = Root::init(&dir.path().join("b"), &OsEntropy::new()).unwrap();
        let officer = document(OfficerBody {
            agency: "91350100M000100Y43".into(),
            name: "张三".into(),
            role: OfficerRole::OfficeHead,
            key: other.pin().to_string(),
        });
        let envelope = root.seal(&officer).unwrap();
        assert_eq!(open_as_root::<OfficerBody>(&envelope, &root.pin(), HERE, NOW).unwrap().document, officer);
        let foreign = open_as_root::<OfficerBody>(&envelope, &other.pin(), HERE, NOW);
        assert!(matches!(foreign, Err(DocumentError::UnknownSigner(_))));
        let act = GrantActBody { grant: GrantId::from_bits(3), act: GrantAct::Reinstate, reason: String::new() };
        assert!(matches!(root.seal(&document(act)), Err(RootError::NotTheRoots(_))));
    }
}
