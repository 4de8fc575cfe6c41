//! Making leaves: non-personal fields in the clear, the rest behind a salted commitment.

use super::LedgerError;
use crate::state::NewLeaf;
use lingqu_protocol::host::{Entropy, Timestamp};
use lingqu_protocol::leaf::{Leaf, LeafKind, SALT_BYTES, commitment};
use lingqu_protocol::receipt::Statement;

/// An entry before it has a salt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    leaf: Leaf,
    payload: Vec<u8>,
}

impl Entry {
    /// An entry of a kind, with nothing else said.
    pub fn new(kind: LeafKind, at: Timestamp) -> Self {
        // The commitment is made when the salt is.
        Self { leaf: Leaf::new(kind, at, commitment(&[], &[])), payload: Vec::new() }
    }

    /// With fields that are nobody's personal data.
    #[must_use]
    pub fn with(mut self, set: impl FnOnce(&mut Leaf)) -> Self {
        set(&mut self.leaf);
        self
    }

    /// With a stable word that says more about what happened.
    #[must_use]
    pub fn what(self, word: &str) -> Self {
        self.with(|leaf| leaf.what = Some(word.to_owned()))
    }

    /// About the thing with this id: in the field that such ids have, else as the subject.
    #[must_use]
    pub fn about(self, id: &str) -> Self {
        self.with(|leaf| {
            if let Ok(id) = id.parse() {
                leaf.entry = Some(id);
            } else if let Ok(id) = id.parse() {
                leaf.application = Some(id);
            } else if let Ok(id) = id.parse() {
                leaf.grant = Some(id);
            } else if let Ok(id) = id.parse() {
                leaf.transfer = Some(id);
            } else if let Ok(id) = id.parse() {
                leaf.document = Some(id);
            } else {
                leaf.subject = Some(id.to_owned());
            }
        })
    }

    /// With what is only committed to: predicates, file names, reasons, names of people.
    #[must_use]
    pub fn committing_to(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = payload.into();
        self
    }

    /// The leaf, with a fresh salt.
    ///
    /// # Errors
    /// [`LedgerError::Entry`] where a field has no place in a leaf, and [`LedgerError::Entropy`].
    pub fn seal(self, entropy: &dyn Entropy) -> Result<NewLeaf, LedgerError> {
        let Self { mut leaf, payload } = self;
        let salt = salt(entropy)?;
        leaf.commitment = commitment(&salt, &payload);
        Ok(NewLeaf { bytes: leaf.encode()?, salt, payload })
    }
}

/// The leaf of a transfer that a receipt is for.
///
/// # Errors
/// [`LedgerError::Entropy`].
pub fn receipt_leaf(statement: &Statement, entropy: &dyn Entropy) -> Result<NewLeaf, LedgerError> {
    let salt = salt(entropy)?;
    Ok(NewLeaf { bytes: statement.leaf(&salt).encode()?, payload: statement.bytes(), salt })
}

fn salt(entropy: &dyn Entropy) -> Result<Vec<u8>, LedgerError> {
    let mut salt = vec![0; SALT_BYTES];
    entropy.fill(&mut salt).map_err(|e| LedgerError::Entropy(e.to_string()))?;
    Ok(salt)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use lingqu_protocol::ids::{ApplicationId, DocumentId, EntryId, GrantId, TransferId};
    use std::io;

    struct Fixed(Option<u8>);

    impl Entropy for Fixed {
        fn fill(&self, buf: &mut [u8]) -> io::Result<()> {
            buf.fill(self.0.ok_or_else(|| io::Error::other("dry"))?);
            Ok(())
        }
    }

    #[test]
    fn what_is_committed_to_is_not_in_the_leaf() {
        let entry = Entry::new(LeafKind::RegistryAct, Timestamp(7)).what("grant_suspended").committing_to("因张三举报");
        let (sealed, other) = (entry.clone().seal(&Fixed(Some(1))).unwrap(), entry.seal(&Fixed(Some(2))).unwrap());
        assert!(!String::from_utf8(sealed.bytes.clone()).unwrap().contains("张三"));
        assert_ne!(sealed.bytes, other.bytes, "equal payloads cannot be told from the leaves");
        let leaf = Leaf::decode(&sealed.bytes).unwrap();
        assert_eq!(leaf.commitment, commitment(&sealed.salt, &sealed.payload));
        assert_eq!(leaf.what.as_deref(), Some("grant_suspended"));
    }

    #[test]
    fn ids_find_their_fields() {
        let about = |id: String| Entry::new(LeafKind::RegistryAct, Timestamp(7)).about(&id).leaf;
        assert_eq!(about(EntryId::from_bits(1).to_string()).entry, Some(EntryId::from_bits(1)));
        assert_eq!(about(ApplicationId::from_bits(1).to_string()).application, Some(ApplicationId::from_bits(1)));
        assert_eq!(about(GrantId::from_bits(1).to_string()).grant, Some(GrantId::from_bits(1)));
        assert_eq!(about(TransferId::from_bits(1).to_string()).transfer, Some(TransferId::from_bits(1)));
        assert_eq!(about(DocumentId::from_bits(1).to_string()).document, Some(DocumentId::from_bits(1)));
        assert_eq!(about("sha256:00".into()).subject.as_deref(), Some("sha256:00"));
    }

    #[test]
    fn a_name_is_no_subject_and_no_entropy_is_no_leaf() {
        let entry = Entry::new(LeafKind::RegistryAct, Timestamp(7));
        assert!(matches!(entry.clone().about("张三").seal(&Fixed(Some(1))), Err(LedgerError::Entry(_))));
        assert!(matches!(entry.seal(&Fixed(None)), Err(LedgerError::Entropy(_))));
    }
}
