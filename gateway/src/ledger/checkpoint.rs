//! Signing checkpoints, and refusing to sign a second root for a size.

use super::LedgerError;
use crate::state::Head;
use lingqu_protocol::checkpoint::{Checkpoint, Signer};
use lingqu_protocol::merkle::Hash;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Roots signed by this process that are kept beside those that the state keeps: enough to see a file that is edited while
/// the gateway runs, at 100 bytes each.
const SIGNED_MAX: usize = 4096;

/// Signs a ledger's checkpoints.
pub(super) struct Notary {
    origin: String,
    signer: Arc<dyn Signer>,
    signed: Mutex<BTreeMap<u64, Hash>>,
}

impl Notary {
    pub(super) fn new(origin: String, signer: Arc<dyn Signer>) -> Self {
        Self { origin, signer, signed: Mutex::new(BTreeMap::new()) }
    }

    /// The signed checkpoint of `head`, whose root was made from the tree; `committed` is the root that the commit that
    /// ended there recorded.
    pub(super) fn sign(&self, head: Head, committed: Hash) -> Result<String, LedgerError> {
        if head.root != committed {
            return Err(LedgerError::SecondRoot { size: head.size });
        }
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if *signed.entry(head.size).or_insert(head.root) != head.root {
            return Err(LedgerError::SecondRoot { size: head.size });
        }
        if signed.len() > SIGNED_MAX {
            signed.pop_first();
        }
        drop(signed);
        let checkpoint = Checkpoint { origin: self.origin.clone(), size: head.size, root: head.root };
        checkpoint.sign(self.signer.as_ref()).map_err(LedgerError::Signer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Constant;

    impl Signer for Constant {
        fn public_key(&self) -> [u8; 32] {
            [1; 32]
        }
        fn sign(&self, _: &[u8]) -> Result<[u8; 64], String> {
            Ok([2; 64])
        }
    }

    #[test]
    fn a_second_root_for_a_size_is_never_signed() {
        let notary = Notary::new("o".into(), Arc::new(Constant));
        let (first, second) = ([1; 32], [2; 32]);
        let refused = Err(LedgerError::SecondRoot { size: 5 });
        assert_eq!(notary.sign(Head { size: 5, root: first }, second), refused);
        assert!(notary.sign(Head { size: 5, root: first }, first).is_ok());
        assert!(notary.sign(Head { size: 5, root: first }, first).is_ok());
        // The state was edited throughout, and agrees with itself.
        assert_eq!(notary.sign(Head { size: 5, root: second }, second), refused);
        assert!(notary.sign(Head { size: 6, root: second }, second).is_ok());
    }
}
