//! An agent's profile: a folder with its key, its certificate, the CA and the root that it trusts, and where its gateway
//! is. The agent's state (outbox, receipts, checkpoints, cursors) lies beside them in folders of its own.

mod settings;

pub use settings::Settings;

use crate::ca::{CaError, Validity, signing_request};
use crate::chain::{self, ChainError};
use crate::key::{KeyError, PublicKey, SigningKey};
use crate::os;
use crate::tls::TlsError;
use crate::tls::client::{Trust, client_config};
use crate::tls::peer::{NoExceptions, PeerIdentity, PeerPolicy, PeerRefused};
use lingqu_protocol::host::{Clock, Disk as _, Entropy, Timestamp};
use rustls::pki_types::CertificateDer;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the profile says of agent and gateway; written last, so that a profile with it is whole.
pub const SETTINGS_FILE: &str = "profile.toml";

/// The agent's certificate, then the CA's.
pub const CERTIFICATE_FILE: &str = "agent.pem";

/// The agent's key (0600).
pub const KEY_FILE: &str = "agent.key";

/// The certificate of the gateway's CA.
pub const CA_FILE: &str = "ca.pem";

/// Bytes of the settings: six short lines.
const SETTINGS_BYTES_MAX: u64 = 16 * 1024;

/// What went wrong with a profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// There is one already.
    #[error("{0} is a profile already: leave it, or join into another folder")]
    Exists(String),
    /// There is none.
    #[error("{0} is not a profile: run `lingqu --profile {0} join INVITATION` first")]
    Missing(String),
    /// A file or the folder.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Settings that cannot be read.
    #[error("{file} is damaged: {why}; restore it, or join again")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// The agent's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A certificate file.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The signing request could not be made.
    #[error(transparent)]
    Request(#[from] CaError),
    /// TLS cannot be set up with what the profile holds.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A certificate that this profile's CA would not let in; the old one stays.
    #[error("the new certificate is refused: {0}")]
    Refused(#[from] PeerRefused),
    /// A certificate for another agent or another key; the old one stays.
    #[error("the new certificate is {0}, not this profile's: ask the gateway's operator")]
    NotOurs(&'static str),
}

/// A folder whose key is made and whose certificate is not there yet. The key stays when joining fails, so that it can
/// be tried again with the same one.
#[derive(Debug)]
pub struct Draft {
    dir: PathBuf,
    key: SigningKey,
}

impl Draft {
    /// Makes the folder (0700) and the key (0600), or takes those of an attempt before.
    ///
    /// # Errors
    /// `Exists` where there is a whole profile, and what the system says.
    pub fn open(dir: &Path, entropy: &dyn Entropy) -> Result<Self, ProfileError> {
        use std::os::unix::fs::PermissionsExt as _;
        if dir.join(SETTINGS_FILE).exists() {
            return Err(ProfileError::Exists(dir.display().to_string()));
        }
        os::OsDisk.create_dir_all(dir).map_err(io_error("making", dir))?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(io_error("closing", dir))?;
        let key = SigningKey::load_or_create(&dir.join(KEY_FILE), entropy)?;
        Ok(Self { dir: dir.to_owned(), key })
    }

    /// What the gateway signs: a PKCS#10 request in DER.
    ///
    /// # Errors
    /// None is known; what the library says.
    pub fn signing_request(&self) -> Result<Vec<u8>, ProfileError> {
        Ok(signing_request(&self.key)?)
    }

    /// The profile's key.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Writes what the gateway answered, after checking that it is for this key and this agent.
    ///
    /// # Errors
    /// A chain that is not this agent's under this CA, and what the system says. Nothing counts until all is written.
    pub fn complete(
        self,
        settings: Settings,
        ca: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<Profile, ProfileError> {
        let ca = ca.clone().into_owned();
        check_chain(&settings, &ca, &self.key.public(), chain, now)?;
        let write = |name: &str, text: String| {
            let file = self.dir.join(name);
            os::write_atomic(&file, text.as_bytes()).map_err(io_error("writing", &file))
        };
        write(CA_FILE, chain::to_pem(std::slice::from_ref(&ca)))?;
        write(CERTIFICATE_FILE, chain::to_pem(chain))?;
        write(SETTINGS_FILE, settings.to_toml()?)?;
        Ok(Profile { dir: self.dir, settings, ca })
    }
}

/// A whole profile. Key and certificate are read from the folder for each connection, so that a renewal by another
/// process is seen.
#[derive(Clone, Debug)]
pub struct Profile {
    dir: PathBuf,
    settings: Settings,
    ca: CertificateDer<'static>,
}

impl Profile {
    /// Opens a profile.
    ///
    /// # Errors
    /// `Missing`, `Damaged`, and what the system says.
    pub fn load(dir: &Path) -> Result<Self, ProfileError> {
        let file = dir.join(SETTINGS_FILE);
        let text = match os::read_bounded(&file, SETTINGS_BYTES_MAX) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(ProfileError::Missing(dir.display().to_string()));
            }
            other => other.map_err(io_error("reading", &file))?,
        };
        let settings = Settings::from_toml(&text)
            .map_err(|why| ProfileError::Damaged { file: file.display().to_string(), why })?;
        let ca = chain::load(&dir.join(CA_FILE))?.swap_remove(0);
        Ok(Self { dir: dir.to_owned(), settings, ca })
    }

    /// Who this is and where its gateway is.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The certificate of the gateway's CA.
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// The key, read now.
    ///
    /// # Errors
    /// What the system says, and a damaged file.
    pub fn key(&self) -> Result<SigningKey, ProfileError> {
        Ok(SigningKey::load(&self.dir.join(KEY_FILE))?)
    }

    /// The certificate chain, read now.
    ///
    /// # Errors
    /// What the system says, and a damaged file.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, ProfileError> {
        Ok(chain::load(&self.dir.join(CERTIFICATE_FILE))?)
    }

    /// From when to when the certificate in the folder is good.
    ///
    /// # Errors
    /// As [`Self::chain`].
    pub fn validity(&self) -> Result<Validity, ProfileError> {
        let file = self.dir.join(CERTIFICATE_FILE);
        let validity = self.chain()?.first().and_then(|leaf| chain::validity(leaf));
        let why = || "it holds no certificate that can be read".to_owned();
        validity.ok_or_else(|| ProfileError::Damaged { file: file.display().to_string(), why: why() })
    }

    /// TLS for the next connection, with the key and certificate that are in the folder now.
    ///
    /// # Errors
    /// A key or certificate that cannot be read or do not belong together.
    pub fn tls(&self, clock: Arc<dyn Clock>) -> Result<rustls::ClientConfig, ProfileError> {
        let trust = Trust::Ca(self.ca.clone());
        Ok(client_config(trust, &self.settings.domain, self.chain()?, &self.key()?, clock)?)
    }

    /// A request to renew the certificate for the key that is there.
    ///
    /// # Errors
    /// As [`Self::key`].
    pub fn signing_request(&self) -> Result<Vec<u8>, ProfileError> {
        Ok(signing_request(&self.key()?)?)
    }

    /// Puts a renewed certificate in, whole or not at all. Connections that stand are not touched.
    ///
    /// # Errors
    /// One that is not this agent's, this key's, under this CA and in force; the old one stays.
    pub fn replace_certificate(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<(), ProfileError> {
        check_chain(&self.settings, &self.ca, &self.key()?.public(), chain, now)?;
        let file = self.dir.join(CERTIFICATE_FILE);
        os::write_atomic(&file, chain::to_pem(chain).as_bytes()).map_err(io_error("writing", &file))
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where transfers wait that were not acknowledged.
    pub fn outbox_dir(&self) -> PathBuf {
        self.dir.join("outbox")
    }

    /// Where receipts lie, `ID.json` each.
    pub fn receipts_dir(&self) -> PathBuf {
        self.dir.join("receipts")
    }

    /// Where the ledger's checkpoints lie that this agent has seen.
    pub fn checkpoints_dir(&self) -> PathBuf {
        self.dir.join("checkpoints")
    }

    /// Where it is kept how far each backflow was followed.
    pub fn cursors_dir(&self) -> PathBuf {
        self.dir.join("cursors")
    }
}

/// That the gateway would let this chain in as this agent, and that it is on our key.
fn check_chain(
    settings: &Settings,
    ca: &CertificateDer<'_>,
    key: &PublicKey,
    chain: &[CertificateDer<'_>],
    now: Timestamp,
) -> Result<(), ProfileError> {
    let policy = PeerPolicy::new(ca, &settings.domain, Arc::new(NoExceptions))?;
    match policy.identify(chain, now)? {
        PeerIdentity::Agent { agent, .. } if agent == settings.agent => {}
        _ => return Err(ProfileError::NotOurs("another agent's")),
    }
    let certified = chain.first().and_then(|leaf| chain::public_key(leaf)).map(PublicKey::from_bytes);
    if certified.as_ref() != Some(key) {
        return Err(ProfileError::NotOurs("on another key"));
    }
    Ok(())
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ProfileError {
    let what = format!("{doing} {}", path.display());
    move |source| ProfileError::Io { what, source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::ca::{Authority, LEAF_VALID_MS};
    use crate::os::OsEntropy;
    use lingqu_protocol::ids::GatewayId;
    use std::os::unix::fs::PermissionsExt;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const DOMAIN: &str = "example.gov.cn";

    fn settings() -> Settings {
        Settings {
            agent: "91350100M000100Y43/main".parse().unwrap(),
            address: "127.0.0.1:4433".into(),
            domain: DOMAIN.into(),
            gateway: GatewayId::from_bits(7),
            root: PublicKey::from_bytes([9; 32]),
        }
    }

    struct World {
        dir: tempfile::TempDir,
        ca: Authority,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let ca = Authority::create(dir.path(), DOMAIN, NOW, &OsEntropy::new()).unwrap();
            Self { dir, ca }
        }

        fn sign(&self, request: &[u8], agent: &str, from: Timestamp) -> Vec<CertificateDer<'static>> {
            let validity = Validity::starting(from, LEAF_VALID_MS);
            self.ca.sign_agent(request, &agent.parse().unwrap(), validity, &OsEntropy::new()).unwrap()
        }

        fn profile_dir(&self) -> PathBuf {
            self.dir.path().join("p")
        }

        fn joined(&self) -> Profile {
            let draft = Draft::open(&self.profile_dir(), &OsEntropy::new()).unwrap();
            let chain = self.sign(&draft.signing_request().unwrap(), "91350100M000100Y43/main", NOW);
            draft.complete(settings(), self.ca.certificate(), &chain, NOW).unwrap()
        }
    }

    #[test]
    fn a_profile_is_made_once_and_comes_back() {
        let world = World::new();
        assert!(matches!(Profile::load(&world.profile_dir()), Err(ProfileError::Missing(_))));
        let made = world.joined();
        let loaded = Profile::load(&world.profile_dir()).unwrap();
        assert_eq!((loaded.settings(), loaded.ca()), (made.settings(), made.ca()));
        assert_eq!(loaded.validity().unwrap().until, NOW.plus_ms(LEAF_VALID_MS));
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(loaded.dir()), mode(&loaded.dir().join(KEY_FILE))), (0o700, 0o600));
        let again = Draft::open(&world.profile_dir(), &OsEntropy::new());
        assert!(matches!(again, Err(ProfileError::Exists(_))));
    }

    #[test]
    fn an_attempt_that_failed_is_taken_up_with_the_same_key() {
        let world = World::new();
        let first = Draft::open(&world.profile_dir(), &OsEntropy::new()).unwrap().key().public();
        let second = Draft::open(&world.profile_dir(), &OsEntropy::new()).unwrap().key().public();
        assert_eq!(first, second);
        assert!(matches!(Profile::load(&world.profile_dir()), Err(ProfileError::Missing(_))));
    }

    #[test]
    fn only_our_own_certificate_replaces_ours() {
        let world = World::new();
        let profile = world.joined();
        let request = profile.signing_request().unwrap();
        let before = profile.chain().unwrap();
        let later = NOW.plus_ms(LEAF_VALID_MS * 2 / 3);
        let theirs = world.sign(&request, "91350100M000100Y43/other", later);
        assert!(matches!(profile.replace_certificate(&theirs, later), Err(ProfileError::NotOurs(_))));
        let other_key = signing_request(&SigningKey::from_seed([3; 32]).unwrap()).unwrap();
        let other_key = world.sign(&other_key, "91350100M000100Y43/main", later);
        assert!(matches!(profile.replace_certificate(&other_key, later), Err(ProfileError::NotOurs(_))));
        let stranger = World::new().sign(&request, "91350100M000100Y43/main", later);
        assert!(matches!(profile.replace_certificate(&stranger, later), Err(ProfileError::Refused(_))));
        assert_eq!(profile.chain().unwrap(), before);

        let renewed = world.sign(&request, "91350100M000100Y43/main", later);
        profile.replace_certificate(&renewed, later).unwrap();
        assert_eq!(profile.chain().unwrap(), renewed);
        assert_eq!(profile.validity().unwrap().until, later.plus_ms(LEAF_VALID_MS));
    }

    #[test]
    fn damaged_settings_are_named_and_unknown_keys_refused() {
        let world = World::new();
        let profile = world.joined();
        let file = profile.dir().join(SETTINGS_FILE);
        let good = std::fs::read_to_string(&file).unwrap();
        for bad in [format!("{good}spare = 1\n"), good.replace("ed25519", "rsa"), String::new(), "\u{fffd}".into()] {
            std::fs::write(&file, bad).unwrap();
            assert!(matches!(Profile::load(profile.dir()), Err(ProfileError::Damaged { .. })));
        }
    }
}
