//! The secret that pseudonyms are made with, which must be the one that earlier ones were made with: another would make every
//! requester's pseudonyms worthless without a word.

use super::ServeError;
use crate::flow::pseudonym::PseudonymSecret;
use crate::folder::FolderError;
use crate::state::{Change, Draft, Expect, Kind, State};
use lingqu_protocol::host::{Clock, Entropy};
use lingqu_protocol::scope::PSEUDONYM_ALGORITHM;
use std::path::Path;

/// The record that names the secret and its algorithm.
const ID: &str = "pseudonym-secret";

/// The gateway's secret. A gateway from before there were pseudonyms gets one here.
///
/// # Errors
/// The file is missing or another than the state names; what the system or the state says.
pub(super) async fn open(
    path: &Path,
    state: &dyn State,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<PseudonymSecret, ServeError> {
    let known = state.get(Kind::Setting, ID).await?;
    let secret = match PseudonymSecret::load(path).map_err(super::doing("the secret of pseudonyms"))? {
        Some(secret) => secret,
        None if known.is_some() => return Err(FolderError::OtherPseudonyms.into()),
        None => {
            let secret = PseudonymSecret::generate(entropy).map_err(super::doing("making the secret of pseudonyms"))?;
            secret.save_new(path).map_err(super::doing("writing the secret of pseudonyms"))?;
            secret
        }
    };
    let body = serde_json::json!({ "algorithm": PSEUDONYM_ALGORITHM, "id": secret.id() }).to_string().into_bytes();
    match known {
        Some(record) if record.body != body => Err(FolderError::OtherPseudonyms.into()),
        Some(_) => Ok(secret),
        None => {
            let id = ID.to_owned();
            let draft = Draft { kind: Kind::Setting, id, agency: None, parent: None, body, changed_at: clock.wall() };
            state.commit(Change::put(draft, Expect::Absent)).await?;
            Ok(secret)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::state::MemoryState;
    use lingqu_certs::os::{OsEntropy, SystemClock};

    #[tokio::test]
    async fn a_gateway_keeps_the_secret_that_it_began_with() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pseudonym.key");
        let (state, clock, entropy) = (MemoryState::new(), SystemClock::new(), OsEntropy::new());
        let open = || open(&path, state.as_ref(), &clock, &entropy);
        let first = open().await.unwrap();
        assert_eq!(open().await.unwrap().id(), first.id());
        let kept = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let missing = open().await.unwrap_err();
        assert!(matches!(missing, ServeError::Folder(FolderError::OtherPseudonyms)), "{missing}");
        assert!(!path.exists(), "and no other is made in its place");
        PseudonymSecret::generate(&entropy).unwrap().save_new(&path).unwrap();
        assert!(matches!(open().await, Err(ServeError::Folder(FolderError::OtherPseudonyms))));
        std::fs::write(&path, kept).unwrap();
        assert_eq!(open().await.unwrap().id(), first.id());
        let record = state.get(Kind::Setting, ID).await.unwrap().unwrap();
        assert!(String::from_utf8(record.body).unwrap().contains("\"hmac-sha256-128\""));
    }
}
