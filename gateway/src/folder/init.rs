//! Making a gateway: the root where there is none, then everything beside the folder's final name, then one rename.

use super::{DAY_MS, Folder, FolderError, Layout, io_error};
use crate::config::Config;
use crate::flow::pseudonym::PseudonymSecret;
use crate::lake::local::LocalStore;
use crate::ledger::Entry;
use crate::state::{Change, SqliteState, State};
use lingqu_certs::ca::{Authority, CA_VALID_MS};
use lingqu_certs::chain::{self, Validity};
use lingqu_certs::document::payload_digest;
use lingqu_certs::key::SigningKey;
use lingqu_certs::os::{self, OsDisk};
use lingqu_certs::root::{ROOT_KEY_FILE, Root};
use lingqu_protocol::documents::{Document, GatewayBody};
use lingqu_protocol::host::{Clock, Disk as _, Entropy};
use lingqu_protocol::ids::{DocumentId, GatewayId};
use lingqu_protocol::leaf::LeafKind;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Days that the gateway's first certificate lives, as the new config.toml says.
const GATEWAY_DAYS: i64 = 30;

/// What `init` made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The gateway.
    pub gateway: GatewayId,
    /// Its domain.
    pub domain: String,
    /// The root's public key: what everyone pins.
    pub root: String,
    /// Whether the root was there before.
    pub root_was_there: bool,
}

/// Makes a gateway in `dir`, which must be missing or empty, and its root in `root_dir` where there is none. When it fails
/// there is no gateway: what was made of it lies beside `dir` under a name that says so, and the root stays.
///
/// # Errors
/// See [`FolderError`]; nothing that was there is changed.
pub async fn init(
    dir: &Path,
    root_dir: &Path,
    domain: &str,
    address: &str,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Made, FolderError> {
    let config = Config::template(address).map_err(FolderError::Usage)?;
    apart(dir, root_dir)?;
    match std::fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(false) => return Err(FolderError::NotEmpty(dir.display().to_string())),
        Err(source) => return Err(io_error("looking into", dir)(source)),
    }
    let now = clock.wall();
    let root_was_there = root_dir.join(ROOT_KEY_FILE).exists();
    let random = |source| FolderError::Io { what: "making ids".into(), source };
    let gateway = GatewayId::random(entropy).map_err(random)?;

    let absolute = std::path::absolute(dir).map_err(io_error("finding", dir))?;
    let part = beside(&absolute, gateway)?;
    OsDisk.create_dir_all(&part).map_err(io_error("making", &part))?;
    private(&part)?;
    let layout = Layout::new(&part);
    // The CA before the root: it refuses a bad domain, and then nothing has been made that stays.
    let ca = Authority::create(&part, domain, now, entropy)?;
    let root = if root_was_there { Root::load(root_dir)? } else { Root::init(root_dir, entropy)? };
    private(root_dir)?;
    let server_key = SigningKey::generate(entropy)?;
    server_key.save_new(&layout.server_key())?;
    let chain = ca.sign_gateway(&server_key, Validity::starting(now, GATEWAY_DAYS * DAY_MS), entropy)?;
    let receipt_key = SigningKey::generate(entropy)?;
    receipt_key.save_new(&layout.receipt_key())?;
    let secret = PseudonymSecret::generate(entropy).map_err(random)?;
    let path = layout.pseudonym_secret();
    secret.save_new(&path).map_err(io_error("writing", &path))?;
    let id = DocumentId::random(entropy).map_err(random)?;
    let statement = root.seal(&Document {
        gateway,
        id,
        predecessor: None,
        issued_at: now.0,
        expires_at: now.plus_ms(CA_VALID_MS).0,
        body: GatewayBody { domain: domain.to_owned(), receipt_key: receipt_key.public().to_string(), ca: ca.digest() },
    })?;
    let pin = root.pin().to_string();
    for (path, text) in [
        (layout.server_certificate(), chain::to_pem(&chain)),
        (layout.root_pin(), format!("{pin}\n")),
        (layout.statement(), statement.to_json()),
        (layout.config(), config),
    ] {
        os::write_atomic(&path, text.as_bytes()).map_err(io_error("writing", &path))?;
    }
    let state_file = layout.state();
    let (state_dir, lake) = (state_file.parent().unwrap_or(&part), layout.lake());
    OsDisk.create_dir_all(state_dir).map_err(io_error("making", state_dir))?;
    LocalStore::open(Arc::new(OsDisk), &lake).map_err(io_error("making", &lake))?;
    for folder in [state_dir, &lake] {
        private(folder)?;
    }
    let state = SqliteState::open(&state_file).await?;
    let began = Entry::new(LeafKind::Epoch, now).what("began").about(&id.to_string());
    let began = began.with(|leaf| leaf.document_digest = Some(payload_digest(&statement)));
    let change = Change { leaves: vec![began.seal(entropy)?], ..Change::default() };
    state.commit(change).await?;
    state.close().await;
    // What was made opens, or it is not given its name.
    Folder::open(&part)?;
    std::fs::rename(&part, &absolute).map_err(io_error("naming", &absolute))?;
    let parent = absolute.parent().unwrap_or(Path::new("/"));
    OsDisk.sync_dir(parent).map_err(io_error("syncing", parent))?;
    Ok(Made { gateway, domain: domain.to_owned(), root: pin, root_was_there })
}

/// Where the folder is made until it is whole: beside its final name, so that the rename stays within one disk.
fn beside(dir: &Path, gateway: GatewayId) -> Result<PathBuf, FolderError> {
    let usage = || FolderError::Usage(format!("{} cannot be a gateway's folder: name one", dir.display()));
    let name = dir.file_name().ok_or_else(usage)?.to_string_lossy().into_owned();
    let parent = dir.parent().ok_or_else(usage)?;
    Ok(parent.join(format!(".{name}.unfinished-{gateway}")))
}

/// Refuses a root within the gateway's folder, and the other way round: who gets one must not have the other.
fn apart(dir: &Path, root_dir: &Path) -> Result<(), FolderError> {
    let (dir, root) = (resolved(dir)?, resolved(root_dir)?);
    if root.starts_with(&dir) || dir.starts_with(&root) {
        return Err(FolderError::RootInside { root: root.display().to_string(), dir: dir.display().to_string() });
    }
    Ok(())
}

/// The path without links and `..`, as far as it exists.
fn resolved(path: &Path) -> Result<PathBuf, FolderError> {
    let absolute = std::path::absolute(path).map_err(io_error("finding", path))?;
    let mut known = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::ParentDir => {
                known.pop();
            }
            other => known.push(other),
        }
        if let Ok(real) = std::fs::canonicalize(&known) {
            known = real;
        }
    }
    Ok(known)
}

/// Only the owner looks into it.
fn private(dir: &Path) -> Result<(), FolderError> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(io_error("closing", dir))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::ledger::verify;
    use lingqu_certs::os::{OsEntropy, SystemClock};
    use std::os::unix::fs::PermissionsExt as _;

    async fn make(dir: &Path, root: &Path, domain: &str) -> Result<Made, FolderError> {
        init(dir, root, domain, "127.0.0.1:4433", &SystemClock::new(), &OsEntropy::new()).await
    }

    #[tokio::test]
    async fn a_gateway_is_made_whole_and_nothing_is_overwritten() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, root) = (temp.path().join("gw"), temp.path().join("root"));
        let made = make(&dir, &root, "lingqu.test").await.unwrap();
        assert!(!made.root_was_there);
        let folder = Folder::open(&dir).unwrap();
        assert_eq!(folder.identity.gateway, made.gateway);
        for secret in ["ca.key", "server.key", "receipt.key", "pseudonym.key", "state/lingqu.db"] {
            let mode = std::fs::metadata(dir.join(secret)).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{secret}");
        }
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        let state = SqliteState::open(&folder.layout.state()).await.unwrap();
        assert_eq!(verify(&state, &[]).await.unwrap().size, 1);
        let before = std::fs::read(dir.join("ca.pem")).unwrap();
        assert!(matches!(make(&dir, &root, "lingqu.test").await, Err(FolderError::NotEmpty(_))));
        assert_eq!(std::fs::read(dir.join("ca.pem")).unwrap(), before);
        // A second gateway under the same root.
        let second = make(&temp.path().join("gw2"), &root, "lingqu.test").await.unwrap();
        assert!(second.root_was_there);
        assert_eq!(second.root, made.root);
        assert_ne!(second.gateway, made.gateway);
        let left: Vec<_> = std::fs::read_dir(temp.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "{left:?}");
    }

    #[tokio::test]
    async fn the_root_stays_outside() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("gw");
        std::fs::create_dir(temp.path().join("real")).unwrap();
        std::os::unix::fs::symlink(temp.path().join("real"), temp.path().join("link")).unwrap();
        for (dir, root) in [
            (dir.clone(), dir.join("root")),
            (dir.clone(), dir.clone()),
            (dir.clone(), temp.path().to_owned()),
            (dir.clone(), dir.join("../gw/root")),
            (temp.path().join("real"), temp.path().join("link/root")),
        ] {
            let made = make(&dir, &root, "lingqu.test").await;
            assert!(matches!(made, Err(FolderError::RootInside { .. })), "{dir:?} {root:?}");
        }
    }

    #[tokio::test]
    async fn a_bad_name_or_address_makes_no_gateway_and_no_root() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, root) = (temp.path().join("gw"), temp.path().join("root"));
        assert!(make(&dir, &root, "not a name").await.is_err());
        let nowhere = init(&dir, &root, "d.cn", "nowhere", &SystemClock::new(), &OsEntropy::new()).await;
        assert!(matches!(nowhere, Err(FolderError::Usage(_))));
        assert!(!dir.exists() && !root.exists());
    }

    #[tokio::test]
    async fn files_of_two_gateways_do_not_open_together() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("root");
        for name in ["a", "b"] {
            make(&temp.path().join(name), &root, "lingqu.test").await.unwrap();
        }
        let (a, b) = (temp.path().join("a"), temp.path().join("b"));
        std::fs::copy(b.join("receipt.key"), a.join("receipt.key")).unwrap();
        assert!(matches!(Folder::open(&a), Err(FolderError::Differs("the receipt key"))));
        for file in ["ca.pem", "ca.key"] {
            std::fs::copy(a.join(file), b.join(file)).unwrap();
        }
        assert!(matches!(Folder::open(&b), Err(FolderError::Differs("the CA"))));
        assert!(matches!(Folder::open(temp.path()), Err(FolderError::NoGateway(_))));
    }

    #[tokio::test]
    async fn one_process_at_a_time_and_the_certificate_renews() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("gw");
        make(&dir, &temp.path().join("root"), "lingqu.test").await.unwrap();
        let layout = Layout::new(&dir);
        let held = Folder::lock(&layout).unwrap();
        assert!(matches!(Folder::lock(&layout), Err(FolderError::Locked(_))));
        drop(held);
        assert!(Folder::lock(&layout).is_ok());
        let folder = Folder::open(&dir).unwrap();
        let (now, entropy) = (SystemClock::new().wall(), OsEntropy::new());
        assert!(!folder.renew_server(now, &entropy).unwrap());
        let later = now.plus_ms(21 * DAY_MS);
        assert!(folder.renew_server(later, &entropy).unwrap());
        assert!(!folder.renew_server(later, &entropy).unwrap());
        std::fs::write(layout.server_certificate(), "half writ").unwrap();
        assert!(folder.renew_server(later, &entropy).unwrap());
    }
}
