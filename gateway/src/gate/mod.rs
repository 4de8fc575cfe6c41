//! The gate: what is let through. [`decide`] judges a request on an immutable [`Snapshot`] and touches nothing else; what
//! it allows becomes a [`Permit`] that only this module can make, and nothing flows without one. A permit holds a
//! [`Leash`]: whoever moves data checks it for every piece, and the gate cuts it when the permission ends.
//!
//! This module knows no transport, no storage and no SQL.

pub mod decide;
pub mod denied;
pub mod follow;
pub mod grant;
pub mod health;
pub mod leash;
pub mod moved;
pub mod passed;
pub mod permit;
pub mod quota;
pub mod snapshot;
mod table;
pub mod waits;

pub use decide::{Ask, Denied, Peer, Target};
pub use follow::{AllowedFollow, FollowAsk, FollowPermit};
pub use grant::{Grant, GrantScope};
pub use health::{ClosedWhy, Now};
pub use leash::{Cut, Leash, Selector};
pub use passed::{AllPassed, Passed};
pub use permit::{Permit, PullPermit, PushPermit};
pub use quota::{Limits, Quota, Under, Used};
pub use snapshot::{
    AgencyView, AgentView, BackflowView, EntryView, GrantStatus, GrantView, Snapshot, StopView, Update,
};
pub use waits::Wait;

use health::Freshness;
use leash::LeashBook;
use lingqu_protocol::entry::{Check, QualityRule, SharingClass};
use lingqu_protocol::host::Clock;
use quota::QuotaBook;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;

/// The gate of one gateway.
pub struct Gate {
    /// Held for as long as it takes to copy or to replace a pointer, never while a snapshot is made.
    snapshot: RwLock<Arc<Snapshot>>,
    /// Who makes the next snapshot.
    publishing: Mutex<()>,
    leashes: Arc<LeashBook>,
    quotas: QuotaBook,
    freshness: Arc<Freshness>,
    draining: AtomicBool,
    /// The same, for those who wait for it.
    drain: watch::Sender<bool>,
    clock: Arc<dyn Clock>,
}

impl Gate {
    /// A gate that knows nobody and is closed until [`refresh`](Self::refresh) says that its policy is fresh.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            snapshot: RwLock::new(Arc::new(Snapshot::default())),
            publishing: Mutex::new(()),
            leashes: Arc::new(LeashBook::default()),
            quotas: QuotaBook::default(),
            freshness: Arc::new(Freshness::default()),
            draining: AtomicBool::new(false),
            drain: watch::Sender::new(false),
            clock,
        }
    }

    /// What is in force now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts changes in force. What they narrow is cut before this returns.
    pub fn publish(&self, updates: Vec<Update>) {
        let cuts: Vec<(Selector, Cut)> = {
            let _alone = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
            let (next, cuts) = self.snapshot().with(updates);
            let next = Arc::new(next);
            let before = {
                let mut current = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
                std::mem::replace(&mut *current, next)
            };
            // Requests go on while what nobody has any more is taken down.
            drop(before);
            cuts
        };
        for (selector, cut) in cuts {
            self.leashes.cut(&selector, &cut);
        }
    }

    /// Cuts everything that runs under `selector`; says how many flows that were. The permission itself is narrowed by
    /// [`publish`](Self::publish).
    pub fn cut(&self, selector: &Selector, cut: &Cut) -> usize {
        self.leashes.cut(selector, cut)
    }

    /// Flows that run now.
    pub fn running(&self) -> usize {
        self.leashes.len()
    }

    /// Every flow that runs now and was not cut, for whoever watches.
    pub fn flows(&self) -> Vec<Leash> {
        self.leashes.running()
    }

    /// What passed by agency and by grant since the start, for whoever watches.
    pub fn passed(&self) -> AllPassed {
        self.leashes.passed()
    }

    /// The monotonic clock, which [`Leash::began`] is told in.
    pub fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Says that policy, ledger and clock were found in order at `now`: permits are given until `for_at_most` later.
    pub fn refresh(&self, for_at_most: Duration) {
        self.freshness.open_until(self.clock.monotonic() + for_at_most);
    }

    /// Gives no more permits, and cuts what runs, until the next [`refresh`](Self::refresh).
    pub fn close(&self, why: ClosedWhy) {
        self.freshness.close(why);
        self.leashes.cut(&Selector::All, &Cut::closed(why, self.clock.wall()));
    }

    /// Gives no more permits, and lets what runs go on: the gateway is about to end.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.drain.send_replace(true);
    }

    /// Waits until [`drain`](Self::drain) was called.
    pub async fn drained(&self) {
        // The sender lives in `self`: the wait ends with what it waits for.
        let mut drain = self.drain.subscribe();
        let _drained = drain.wait_for(|drained| *drained).await.is_ok();
    }

    /// Why no permits are given now, if so.
    pub fn closed(&self) -> Option<ClosedWhy> {
        if self.draining.load(Ordering::SeqCst) {
            return Some(ClosedWhy::Draining);
        }
        self.freshness.closed(self.clock.monotonic())
    }

    /// Cuts what has outlived its permission: the period of a grant, or the freshness of all policy. Called every few
    /// milliseconds by a watchdog thread outside the runtime, so that a stalled runtime cannot prolong a permission.
    pub fn watch(&self) {
        let now = self.now();
        if let Some(why) = self.freshness.closed(now.monotonic) {
            self.leashes.cut(&Selector::All, &Cut::closed(why, now.wall));
        }
        self.leashes.expire(now.wall);
    }

    /// Judges a pull.
    ///
    /// # Errors
    /// [`Denied`], with what the peer may know of the reason.
    pub fn pull(&self, peer: &Peer, ask: &Ask) -> Result<PullPermit, Denied> {
        self.delivery(peer, ask, decide::pull)
    }

    /// Judges a request for records by their key.
    ///
    /// # Errors
    /// [`Denied`], with what the peer may know of the reason.
    pub fn service(&self, peer: &Peer, ask: &Ask) -> Result<PullPermit, Denied> {
        self.delivery(peer, ask, decide::service)
    }

    fn delivery(
        &self,
        peer: &Peer,
        ask: &Ask,
        judge: for<'p> fn(&'p Snapshot, &Peer, &Ask, Now) -> Result<decide::AllowedPull<'p>, Denied>,
    ) -> Result<PullPermit, Denied> {
        let snapshot = self.snapshot();
        let allowed = judge(&snapshot, peer, ask, self.judging()?)?;
        let quota = self.quotas.of(Under::Grant(allowed.grant.id), allowed.grant.scope.limits());
        let leash =
            self.leashes.attach(permit::tags_of_pull(peer, &allowed), Some(allowed.ends_at), self.clock.monotonic());
        // The snapshot may have been narrowed between the decision and the leash: judge again with the leash on, so that
        // every narrowing either finds the leash or is seen here.
        judge(&self.snapshot(), peer, ask, self.judging()?)?;
        Ok(PullPermit::new(allowed, quota, leash))
    }

    /// Judges a push to an entry of the peer's own agency.
    ///
    /// # Errors
    /// [`Denied`], with what the peer may know of the reason.
    pub fn push(&self, peer: &Peer, entry: &str) -> Result<PushPermit, Denied> {
        let allowed = decide::push(&self.snapshot(), peer, entry, self.judging()?)?;
        let leash = self.leashes.attach(permit::tags_of_push(peer, &allowed), None, self.clock.monotonic());
        let snapshot = self.snapshot();
        decide::push(&snapshot, peer, entry, self.judging()?)?;
        let referenced = referenced(&snapshot, &allowed.entry);
        Ok(PushPermit::new(allowed, leash, referenced))
    }

    /// Judges whether an agent may speak at all: on each connection and for each request that moves no data.
    ///
    /// # Errors
    /// [`Denied`] for one that is unknown, blocked or stopped.
    pub fn admit(&self, peer: &Peer) -> Result<(), Denied> {
        decide::admit(&self.snapshot(), peer).map(drop)
    }

    /// What was used under a permission, as the state remembers it; once, at start.
    pub fn restore_used(&self, under: Under, used: Used) {
        self.quotas.restore(under, used);
    }

    fn now(&self) -> Now {
        Now { wall: self.clock.wall(), monotonic: self.clock.monotonic() }
    }

    fn judging(&self) -> Result<Now, Denied> {
        self.closed().map_or_else(|| Ok(self.now()), |why| Err(Denied::Closed(why)))
    }
}

/// The entries that the quality rules of an entry refer to, rule by rule. A rule says of each value whether the other entry
/// has it, so it may refer only to entries of the same provider, and to those that everybody may have.
fn referenced(snapshot: &Snapshot, entry: &EntryView) -> Vec<Option<Arc<EntryView>>> {
    let open = |other: &&Arc<EntryView>| {
        other.published && (other.provider == entry.provider || other.spec.sharing_class == SharingClass::Unconditional)
    };
    let find = |rule: &QualityRule| match &rule.check {
        Check::Reference { entry, .. } => snapshot.find_entry(&entry.to_string()).filter(open).cloned(),
        _ => None,
    };
    entry.spec.quality.iter().map(find).collect()
}

#[cfg(test)]
mod scope_tests;
#[cfg(test)]
mod tests;
