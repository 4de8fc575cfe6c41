//! Leashes: how a permission is taken back from a flow that runs. Cutting is one flag and one wake-up, whatever the flow
//! waits for; it needs no lock of the flow's and no storage.

use super::health::ClosedWhy;
use super::moved::Moved;
use super::passed::{AllPassed, Ended, Passed};
use super::waits::Waits;
use lingqu_protocol::agency::{AgentId, CreditCode};
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{EntryId, GrantId, ListId};
use lingqu_protocol::stream::Ender;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// Why a flow was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// What the peer's streams end with.
    pub code: CloseCode,
    /// A stable word for programs.
    pub word: &'static str,
    /// Why, in the words of who cut it; the peer reads it.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

impl Cut {
    pub(super) fn closed(why: ClosedWhy, since: Timestamp) -> Self {
        let code = if why == ClosedWhy::Draining { CloseCode::Draining } else { CloseCode::Closed };
        Self { code, word: why.word(), reason: String::new(), since }
    }

    fn expired(since: Timestamp) -> Self {
        Self { code: CloseCode::Expired, word: "period_ended", reason: "the period of the grant ended".into(), since }
    }
}

/// Which flows are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Those under a grant.
    Grant(GrantId),
    /// Those of backflow under a published list.
    List(ListId),
    /// Those of an agent.
    Agent(AgentId),
    /// Those of an agency's agents.
    Agency(CreditCode),
    /// Those of an entry's data.
    Entry(EntryId),
    /// All.
    All,
}

/// What a flow can be found by.
#[derive(Clone, Debug)]
pub(super) struct Tags {
    pub(super) grant: Option<GrantId>,
    pub(super) list: Option<ListId>,
    pub(super) agent: AgentId,
    pub(super) entry: EntryId,
    /// Of a subscription that waits for versions: what moves for it has leashes of its own.
    pub(super) standing: bool,
}

impl Tags {
    fn matches(&self, selector: &Selector) -> bool {
        match selector {
            Selector::Grant(grant) => self.grant == Some(*grant),
            Selector::List(list) => self.list == Some(*list),
            Selector::Agent(agent) => self.agent == *agent,
            Selector::Agency(agency) => self.agent.agency == *agency,
            Selector::Entry(entry) => self.entry == *entry,
            Selector::All => true,
        }
    }
}

/// Streams of a flow that are looked through for those that are gone, each time they have doubled: a push may open one for
/// each segment.
const STREAMS_LOOKED_THROUGH: usize = 16;

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One flow's leash. Everything that moves data for the flow holds a clone and checks it for every piece.
#[derive(Clone, Debug)]
pub struct Leash(Arc<Inner>);

struct Inner {
    is_cut: AtomicBool,
    cut: watch::Sender<Option<Cut>>,
    /// What is ended at once, on the thread that cuts: a busy runtime does not delay it.
    at_once: Mutex<Vec<Ender>>,
    tags: Tags,
    ends_at: Option<Timestamp>,
    book: Weak<LeashBook>,
    number: u64,
    moved: Moved,
    waits: Waits,
    began: Duration,
    behind: AtomicU64,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "leash {} of {:?}", self.number, self.tags)
    }
}

impl Leash {
    /// What has passed of the flow so far.
    pub fn moved(&self) -> &Moved {
        &self.0.moved
    }

    /// What it waits for.
    pub fn waits(&self) -> &Waits {
        &self.0.waits
    }

    /// When it began, on the monotonic clock.
    pub fn began(&self) -> Duration {
        self.0.began
    }

    /// Its number, which no other flow of this process has.
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// Whose flow it is.
    pub fn agent(&self) -> &AgentId {
        &self.0.tags.agent
    }

    /// Under which published list; only backflow has one.
    pub fn list(&self) -> Option<ListId> {
        self.0.tags.list
    }

    /// Versions that a subscription has not made durable yet.
    pub fn behind(&self) -> u64 {
        self.0.behind.load(Ordering::Relaxed)
    }

    /// Says how many they are.
    pub fn set_behind(&self, versions: u64) {
        self.0.behind.store(versions, Ordering::Relaxed);
    }

    /// Whether it is a subscription that waits for versions: what moves for it has leashes of its own.
    pub fn is_standing(&self) -> bool {
        self.0.tags.standing
    }

    /// Under which grant; a push has none.
    pub fn grant(&self) -> Option<GrantId> {
        self.0.tags.grant
    }

    /// Of which entry.
    pub fn entry(&self) -> EntryId {
        self.0.tags.entry
    }

    /// Whether the flow may go on.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), Cut> {
        if !self.0.is_cut.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(self.0.cut.borrow().clone().unwrap_or_else(|| Cut::closed(ClosedWhy::Stale, Timestamp(0))))
    }

    /// Ends a stream the moment the flow is cut, on the thread that cuts it; now, where it was cut already.
    pub fn ends(&self, stream: Ender) {
        let mut streams = lock(&self.0.at_once);
        if streams.len() >= STREAMS_LOOKED_THROUGH && streams.len().is_power_of_two() {
            streams.retain(|stream| !stream.is_gone());
        }
        streams.push(stream);
        drop(streams);
        // Cut in between: whoever comes second does it, and twice is no harm.
        if let Err(cut) = self.check() {
            self.0.act(cut.code);
        }
    }

    /// Waits until the flow is cut. Selected on beside everything that can block.
    pub async fn cut(&self) -> Cut {
        let mut seen = self.0.cut.subscribe();
        loop {
            if let Some(cut) = seen.borrow_and_update().clone() {
                return cut;
            }
            if seen.changed().await.is_err() {
                // The sender lives in `self`, so this cannot be; if it were, nothing may flow.
                return Cut::closed(ClosedWhy::Stale, Timestamp(0));
            }
        }
    }
}

impl Inner {
    /// Whoever checks from here on sees the cut; nobody wakes yet. False where it was cut before.
    fn mark(&self, cut: &Cut) -> bool {
        let mut first = false;
        self.cut.send_if_modified(|slot| {
            first = slot.is_none();
            if first {
                *slot = Some(cut.clone());
                self.is_cut.store(true, Ordering::Release);
            }
            false
        });
        first
    }

    fn wake(&self) {
        self.cut.send_if_modified(|_| true);
    }

    fn act(&self, code: CloseCode) {
        // Outside the lock: what is ended may be the last that holds something.
        let streams = std::mem::take(&mut *lock(&self.at_once));
        streams.iter().for_each(|stream| stream.end(code));
    }
}

impl Inner {
    /// What passed of it: a flow under a grant or a list goes out, another comes in.
    fn passed(&self) -> Passed {
        let bytes = self.moved.bytes();
        if self.tags.grant.is_some() || self.tags.list.is_some() {
            Passed { out_bytes: bytes, ..Passed::default() }
        } else {
            Passed { in_bytes: bytes, ..Passed::default() }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(book) = self.book.upgrade() {
            if self.tags.standing {
                book.lock().remove(&self.number);
                return;
            }
            book.ended.add(&self.tags.agent, self.tags.grant, &Passed { ended: 1, ..self.passed() });
            book.lock().remove(&self.number);
        }
    }
}

/// Every leash that is out.
#[derive(Debug, Default)]
pub(super) struct LeashBook {
    next: AtomicU64,
    out: Mutex<HashMap<u64, Weak<Inner>>>,
    ended: Ended,
}

impl LeashBook {
    pub(super) fn attach(self: &Arc<Self>, tags: Tags, ends_at: Option<Timestamp>, began: Duration) -> Leash {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let inner = Arc::new(Inner {
            is_cut: AtomicBool::new(false),
            cut: watch::Sender::new(None),
            at_once: Mutex::new(Vec::new()),
            tags,
            ends_at,
            book: Arc::downgrade(self),
            number,
            moved: Moved::default(),
            waits: Waits::default(),
            began,
            behind: AtomicU64::new(0),
        });
        self.lock().insert(number, Arc::downgrade(&inner));
        Leash(inner)
    }

    pub(super) fn cut(&self, selector: &Selector, cut: &Cut) -> usize {
        self.pull(cut, |inner| inner.tags.matches(selector))
    }

    /// All streams of all flows first: who wakes goes on to say why, on the same few threads and under the same locks.
    fn pull(&self, cut: &Cut, which: impl Fn(&Inner) -> bool) -> usize {
        let mut held = self.held();
        held.retain(|inner| which(inner) && inner.mark(cut));
        held.iter().for_each(|inner| inner.act(cut.code));
        held.iter().for_each(|inner| inner.wake());
        held.len()
    }

    pub(super) fn expire(&self, now: Timestamp) {
        for inner in self.held() {
            if let Some(ends_at) = inner.ends_at.filter(|end| *end <= now) {
                let cut = Cut::expired(ends_at);
                if inner.mark(&cut) {
                    inner.act(cut.code);
                    inner.wake();
                }
            }
        }
    }

    /// Every flow that runs and was not cut.
    pub(super) fn running(&self) -> Vec<Leash> {
        self.held().into_iter().map(Leash).filter(|leash| leash.check().is_ok()).collect()
    }

    /// What passed since the start, of flows that ended and of those that run.
    pub(super) fn passed(&self) -> AllPassed {
        let mut all = self.ended.all();
        for inner in self.held().iter().filter(|inner| !inner.tags.standing) {
            all.add(&inner.tags.agent, inner.tags.grant, &Passed { running: 1, ..inner.passed() });
        }
        all
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// The leashes, taken out of the lock: dropping the last hold of one takes the lock itself.
    fn held(&self) -> Vec<Arc<Inner>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Weak<Inner>>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::gate::Wait;
    use lingqu_protocol::stream::EndsStream;

    const AGENT: &str = "91350100M000100Y43/a";

    fn tags(grant: Option<u128>, list: Option<u128>, standing: bool) -> Tags {
        Tags {
            grant: grant.map(GrantId::from_bits),
            list: list.map(ListId::from_bits),
            agent: AGENT.parse().unwrap(),
            entry: EntryId::from_bits(1),
            standing,
        }
    }

    struct Counted(Arc<Mutex<Vec<CloseCode>>>, bool);

    impl lingqu_protocol::stream::EndsStream for Counted {
        fn end(&self, code: CloseCode) {
            lock(&self.0).push(code);
        }

        fn is_gone(&self) -> bool {
            self.1
        }
    }

    #[test]
    fn a_cut_ends_each_stream_once_and_what_is_gone_is_not_kept() {
        let book = Arc::new(LeashBook::default());
        let leash = book.attach(tags(Some(1), None, false), None, Duration::ZERO);
        let ended = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..1000 {
            leash.ends(Box::new(Counted(Arc::clone(&ended), true)));
        }
        assert!(lock(&leash.0.at_once).len() <= STREAMS_LOOKED_THROUGH, "{}", lock(&leash.0.at_once).len());
        lock(&leash.0.at_once).clear();
        leash.ends(Box::new(Counted(Arc::clone(&ended), false)));
        assert!(lock(&ended).is_empty());
        let cut = Cut { code: CloseCode::Suspended, word: "stopped", reason: String::new(), since: Timestamp(1) };
        assert_eq!((book.cut(&Selector::All, &cut), book.cut(&Selector::All, &cut)), (1, 0));
        assert_eq!(*lock(&ended), [CloseCode::Suspended]);
        leash.ends(Box::new(Counted(Arc::clone(&ended), false)));
        assert_eq!(lock(&ended).len(), 2, "one that comes after the cut is ended as it comes");
    }

    #[test]
    fn a_leash_says_whose_flow_it_is() {
        let book = Arc::new(LeashBook::default());
        let first = book.attach(tags(Some(3), None, false), None, Duration::from_secs(9));
        let second = book.attach(tags(None, Some(4), true), None, Duration::ZERO);
        assert_ne!(first.number(), second.number());
        assert_eq!((first.began(), second.began()), (Duration::from_secs(9), Duration::ZERO));
        assert_eq!((first.grant(), first.list(), first.is_standing()), (Some(GrantId::from_bits(3)), None, false));
        assert_eq!((second.grant(), second.list(), second.is_standing()), (None, Some(ListId::from_bits(4)), true));
        assert_eq!((first.agent().to_string().as_str(), first.entry()), (AGENT, EntryId::from_bits(1)));
        let _held_up = first.waits().begin(Wait::Memory);
        assert_eq!((first.waits().now(), second.waits().now()), (Some(Wait::Memory), None));
        let shown = format!("{first:?}");
        assert!(shown.contains("leash 0") && shown.contains(AGENT), "{shown}");
        assert_eq!(book.running().len(), 2);
    }

    /// A stream that counts how often it was ended.
    struct Stream {
        ends: Arc<AtomicU64>,
        gone: bool,
    }

    impl EndsStream for Stream {
        fn end(&self, code: CloseCode) {
            assert_eq!(code, CloseCode::Suspended);
            self.ends.fetch_add(1, Ordering::Relaxed);
        }

        fn is_gone(&self) -> bool {
            self.gone
        }
    }

    #[test]
    fn who_cuts_ends_the_streams_and_one_that_comes_too_late_ends_at_once() {
        let book = Arc::new(LeashBook::default());
        let ends = Arc::new(AtomicU64::new(0));
        let stream = |gone| Box::new(Stream { ends: Arc::clone(&ends), gone });
        let leash = book.attach(tags(Some(3), None, false), None, Duration::ZERO);
        let other = book.attach(tags(Some(4), None, false), None, Duration::ZERO);
        leash.ends(stream(false));
        other.ends(stream(false));
        let cut = Cut { code: CloseCode::Suspended, word: "stopped", reason: String::new(), since: Timestamp(0) };
        let selector = Selector::Grant(GrantId::from_bits(3));
        assert_eq!((book.cut(&selector, &cut), book.cut(&selector, &cut)), (1, 0), "the second finds nothing to cut");
        assert_eq!(ends.load(Ordering::Relaxed), 1);
        leash.ends(stream(false));
        assert_eq!(ends.load(Ordering::Relaxed), 2);
        assert_eq!(book.running().iter().map(Leash::number).collect::<Vec<_>>(), [other.number()]);
    }

    #[test]
    fn streams_that_are_gone_are_forgotten() {
        let book = Arc::new(LeashBook::default());
        let ends = Arc::new(AtomicU64::new(0));
        let leash = book.attach(tags(Some(3), None, false), None, Duration::ZERO);
        for number in 0..100 * STREAMS_LOOKED_THROUGH {
            leash.ends(Box::new(Stream { ends: Arc::clone(&ends), gone: number > 0 }));
        }
        let held = lock(&leash.0.at_once).len();
        assert!(held <= 2 * STREAMS_LOOKED_THROUGH, "{held}");
        let cut = Cut { code: CloseCode::Suspended, word: "stopped", reason: String::new(), since: Timestamp(0) };
        assert_eq!(book.cut(&Selector::All, &cut), 1);
        assert_eq!(ends.load(Ordering::Relaxed), held as u64, "the one that still runs is among them");
    }

    #[test]
    fn streams_are_looked_through_when_they_have_doubled_and_not_for_each_one() {
        struct Runs(Arc<AtomicU64>);
        impl EndsStream for Runs {
            fn end(&self, _code: CloseCode) {}
            fn is_gone(&self) -> bool {
                self.0.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
        let leash = Arc::new(LeashBook::default()).attach(tags(Some(3), None, false), None, Duration::ZERO);
        let looked_at = Arc::new(AtomicU64::new(0));
        for _ in 0..8 * STREAMS_LOOKED_THROUGH {
            leash.ends(Box::new(Runs(Arc::clone(&looked_at))));
        }
        let (looked_at, once) = (looked_at.load(Ordering::Relaxed), STREAMS_LOOKED_THROUGH as u64);
        assert_eq!(looked_at, once + 2 * once + 4 * once);
    }

    #[test]
    fn what_passed_goes_out_under_a_grant_or_a_list_and_comes_in_otherwise() {
        let book = Arc::new(LeashBook::default());
        let attach = |tags| book.attach(tags, None, Duration::ZERO);
        let pulls = [attach(tags(Some(1), None, false)), attach(tags(Some(1), None, false))];
        let push = attach(tags(None, None, false));
        let slice = attach(tags(None, Some(2), false));
        let waits = attach(tags(None, Some(2), true));
        for (leash, bytes) in [(&pulls[0], 1), (&pulls[1], 10), (&push, 100), (&slice, 1_000), (&waits, 10_000)] {
            leash.moved().add(bytes, 0);
        }
        waits.set_behind(7);
        assert_eq!((waits.behind(), slice.behind()), (7, 0));
        let agency = |passed: &AllPassed| passed.agencies[&AGENT.parse::<AgentId>().unwrap().agency];
        let grant = |passed: &AllPassed| passed.grants[&GrantId::from_bits(1)];
        let now = book.passed();
        assert_eq!(agency(&now), Passed { in_bytes: 100, out_bytes: 1_011, ended: 0, running: 4 });
        assert_eq!(grant(&now), Passed { in_bytes: 0, out_bytes: 11, ended: 0, running: 2 });
        let [first, second] = pulls;
        drop(first);
        drop((push, waits));
        let then = book.passed();
        assert_eq!(agency(&then), Passed { in_bytes: 100, out_bytes: 1_011, ended: 2, running: 2 });
        assert_eq!(grant(&then), Passed { in_bytes: 0, out_bytes: 11, ended: 1, running: 1 });
        drop((second, slice));
        assert_eq!(agency(&book.passed()), Passed { in_bytes: 100, out_bytes: 1_011, ended: 4, running: 0 });
        assert_eq!(book.len(), 0);
    }
}
