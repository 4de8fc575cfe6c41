//! Who works on a transfer: one session at a time. An agent that comes back takes its transfer over, and the session that
//! had it ends.

use super::error::FlowError;
use crate::gate::Leash;
use lingqu_protocol::ids::TransferId;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{OwnedMutexGuard, watch};

type Owners = Arc<Mutex<HashMap<TransferId, watch::Sender<u64>>>>;

/// Every transfer that some session works on.
#[derive(Default)]
pub(super) struct Claims {
    owners: Owners,
    /// Held by the session that works on what a transfer left in the lake.
    alone: Mutex<HashMap<TransferId, Weak<tokio::sync::Mutex<()>>>>,
}

impl Claims {
    /// Takes a transfer over from whoever runs it.
    pub(super) fn take(&self, transfer: TransferId) -> Claim {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = owners.entry(transfer).or_insert_with(|| watch::Sender::new(0));
        sender.send_modify(|owner| *owner += 1);
        let mine = *sender.borrow();
        Claim { transfer, mine, owner: sender.subscribe(), owners: Arc::clone(&self.owners) }
    }

    /// The same, and waits until no other session works on what this transfer left in the lake: one that was taken over
    /// ends soon, or is about to commit, and then the caller finds the transfer committed.
    pub(super) async fn take_alone(&self, transfer: TransferId) -> AloneClaim {
        let claim = self.take(transfer);
        let mutex = {
            let mut all = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, held| held.strong_count() > 0);
            let known = all.get(&transfer).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let new = Arc::new(tokio::sync::Mutex::new(()));
                all.insert(transfer, Arc::downgrade(&new));
                new
            })
        };
        AloneClaim { claim, _alone: mutex.lock_owned().await }
    }
}

/// A session's hold of a transfer, until another session takes it over.
pub struct Claim {
    transfer: TransferId,
    mine: u64,
    owner: watch::Receiver<u64>,
    owners: Owners,
}

impl Claim {
    /// Does this work for as long as the permission stands and no other session takes the transfer over.
    ///
    /// # Errors
    /// Of the work; of the cut; [`FlowError::Conflict`] where another session has the transfer now.
    pub async fn work<T>(
        &self,
        leash: &Leash,
        work: impl Future<Output = Result<T, FlowError>>,
    ) -> Result<T, FlowError> {
        tokio::select! {
            // A cut counts before everything that is ready beside it.
            biased;
            cut = leash.cut() => Err(cut.into()),
            () = self.lost() => Err(FlowError::Conflict { what: "another session took this over".into() }),
            // A cut ends the streams too, and the work may fail of that before the cut itself is seen.
            done = work => done.map_err(|error| leash.check().err().map_or(error, FlowError::from)),
        }
    }

    async fn lost(&self) {
        let mut owner = self.owner.clone();
        // Without a sender nobody can take it over any more.
        if owner.wait_for(|owner| *owner != self.mine).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if *self.owner.borrow() == self.mine {
            owners.remove(&self.transfer);
        }
    }
}

/// A claim whose former holder has ended.
pub(super) struct AloneClaim {
    claim: Claim,
    _alone: OwnedMutexGuard<()>,
}

impl Deref for AloneClaim {
    type Target = Claim;

    fn deref(&self) -> &Claim {
        &self.claim
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn who_comes_later_has_it() {
        let (claims, id) = (Claims::default(), TransferId::from_bits(1));
        let first = claims.take(id);
        let second = claims.take(id);
        first.lost().await;
        drop(first);
        let still = tokio::time::timeout(Duration::from_millis(20), second.lost()).await;
        assert!(still.is_err(), "the end of the first takes nothing from the second");
        let third = claims.take(id);
        second.lost().await;
        drop(third);
        assert_eq!(claims.owners.lock().unwrap().len(), 0, "nothing stays of what ended");
    }

    #[tokio::test]
    async fn alone_is_when_the_former_session_has_ended() {
        let (claims, id) = (Claims::default(), TransferId::from_bits(1));
        let first = claims.take_alone(id).await;
        let second = claims.take_alone(id);
        tokio::pin!(second);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut second).await.is_err(), "the first still works");
        first.lost().await;
        drop(first);
        let _second = second.await;
        let other = claims.take_alone(TransferId::from_bits(2));
        tokio::time::timeout(Duration::from_secs(5), other).await.expect("another transfer is not held up");
    }
}
