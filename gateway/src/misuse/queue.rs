//! The bounded queue between what is seen and what judges it. Whoever sees something never waits: a full queue drops the
//! observation and counts it, and everything that is found while some were dropped says so.

use super::observation::{Answered, Event, Fingerprint, Key, KeySet, Observation, Passed, Question, Who};
use crate::gate::{Leash, Peer};
use crate::metrics;
use lingqu_protocol::agency::CreditCode;
use lingqu_protocol::host::{Clock, Timestamp};
use lingqu_protocol::ids::GrantId;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Observations that may wait: a second of requests at the rate that one gateway answers, in under 3 MB.
pub const WAITING_MAX: usize = 8192;

/// Grants whose change waits to be looked at: an import of answers. What is over it is looked at when the requester's
/// next grant changes.
const CHANGED_MAX: usize = 4096;

/// How well the watch sees.
#[derive(Debug, Default)]
pub struct Sight {
    taken: AtomicU64,
    dropped: AtomicU64,
    dropped_at: AtomicI64,
}

/// How well the watch has seen, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Observations that were queued.
    pub taken: u64,
    /// Observations that found the queue full.
    pub dropped: u64,
    /// When that was last, if ever.
    pub dropped_at: Option<Timestamp>,
}

impl Seen {
    /// How many were dropped since `before` was seen.
    pub const fn dropped_since(self, before: Self) -> u64 {
        self.dropped.saturating_sub(before.dropped)
    }
}

impl Sight {
    /// How well it has seen so far.
    pub fn seen(&self) -> Seen {
        let dropped = self.dropped.load(Ordering::Relaxed);
        let at = Timestamp(self.dropped_at.load(Ordering::Relaxed));
        Seen { taken: self.taken.load(Ordering::Relaxed), dropped, dropped_at: (dropped > 0).then_some(at) }
    }
}

/// Where what is seen is handed in. Every call returns at once.
pub struct Observer {
    queue: mpsc::Sender<Observation>,
    changed: mpsc::Sender<(CreditCode, GrantId)>,
    sight: Arc<Sight>,
    running: Arc<Mutex<HashMap<u64, Running>>>,
    fingerprint: Fingerprint,
    clock: Arc<dyn Clock>,
}

/// What whoever judges reads.
pub struct Observed {
    /// What was seen.
    pub queue: mpsc::Receiver<Observation>,
    /// Grants that were made or changed, with their requesters.
    pub changed: mpsc::Receiver<(CreditCode, GrantId)>,
    /// How well it is seen.
    pub sight: Arc<Sight>,
    running: Arc<Mutex<HashMap<u64, Running>>>,
}

/// A flow that is watched while it runs.
struct Running {
    who: Who,
    connection: u64,
    address: IpAddr,
    leash: Leash,
    volume_bytes_max: Option<u64>,
    seen_at: Duration,
}

/// Both ends. `fingerprint` makes numbers of what is asked.
pub fn pair(fingerprint: Fingerprint, clock: Arc<dyn Clock>) -> (Observer, Observed) {
    let (queue, waiting) = mpsc::channel(WAITING_MAX);
    let (changed, grants) = mpsc::channel(CHANGED_MAX);
    let (sight, running) = (Arc::<Sight>::default(), Arc::default());
    let observed =
        Observed { queue: waiting, changed: grants, sight: Arc::clone(&sight), running: Arc::clone(&running) };
    (Observer { queue, changed, sight, running, fingerprint, clock }, observed)
}

impl Observer {
    /// Hands in an observation, or counts it as dropped.
    pub fn see(&self, observation: Observation) {
        match self.queue.try_send(observation) {
            Ok(()) => {
                self.sight.taken.fetch_add(1, Ordering::Relaxed);
                metrics::observed();
            }
            Err(_) => {
                self.sight.dropped_at.store(observation.at.0, Ordering::Relaxed);
                self.sight.dropped.fetch_add(1, Ordering::Relaxed);
                metrics::observation_dropped();
            }
        }
    }

    /// A connection stands; it is gone when what this returns is dropped.
    pub fn connected(self: &Arc<Self>, peer: &Peer, connection: u64) -> Connected {
        let seen = self.of(peer, connection, Event::Connected);
        self.see(seen);
        Connected { observer: Arc::clone(self), seen }
    }

    /// A request was answered.
    pub fn answered(&self, peer: &Peer, connection: u64, answered: Answered) {
        self.see(self.of(peer, connection, Event::Answered(answered)));
    }

    /// A flow begins; it has ended when what this returns is dropped.
    pub fn began(
        self: &Arc<Self>,
        peer: &Peer,
        connection: u64,
        leash: &Leash,
        volume_bytes_max: Option<u64>,
        question: Option<Question>,
    ) -> Watched {
        let running = Running {
            who: Who::from(&peer.agent),
            connection,
            address: peer.address,
            leash: leash.clone(),
            volume_bytes_max,
            seen_at: self.clock.monotonic(),
        };
        lock(&self.running).insert(leash.number(), running);
        Watched { observer: Arc::clone(self), flow: leash.number(), question }
    }

    /// A grant was made or changed: whether it joins with others is looked at.
    pub fn grant_changed(&self, requester: CreditCode, grant: GrantId) {
        if self.changed.try_send((requester, grant)).is_err() {
            tracing::warn!(%grant, "too many grants changed at once: this one is looked at with the next");
        }
    }

    /// Makes numbers of what is asked.
    pub const fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// How well the watch sees.
    pub fn sight(&self) -> &Arc<Sight> {
        &self.sight
    }

    fn of(&self, peer: &Peer, connection: u64, event: Event) -> Observation {
        Observation { at: self.clock.wall(), who: Who::from(&peer.agent), connection, address: peer.address, event }
    }
}

impl Observed {
    /// What every running flow moved since it was last looked at. Reads counters that the flows keep anyway.
    pub fn sample(&self, wall: Timestamp, monotonic: Duration) -> Vec<Observation> {
        let mut running = lock(&self.running);
        running.values_mut().map(|flow| flow.look(wall, monotonic, None, false)).collect()
    }
}

impl Running {
    fn look(&mut self, at: Timestamp, monotonic: Duration, question: Option<Question>, ended: bool) -> Observation {
        let (bytes, rows) = self.leash.moved().take_new();
        let elapsed = monotonic.saturating_sub(self.seen_at);
        self.seen_at = monotonic;
        let passed = Passed {
            grant: self.leash.grant(),
            entry: self.leash.entry(),
            bytes,
            rows,
            rows_in_all: self.leash.moved().rows(),
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            volume_bytes_max: self.volume_bytes_max,
            question,
        };
        let event = if ended { Event::Ended(passed) } else { Event::Moving(passed) };
        Observation { at, who: self.who, connection: self.connection, address: self.address, event }
    }
}

fn lock(running: &Mutex<HashMap<u64, Running>>) -> std::sync::MutexGuard<'_, HashMap<u64, Running>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection that stands.
pub struct Connected {
    observer: Arc<Observer>,
    seen: Observation,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let at = self.observer.clock.wall();
        self.observer.see(Observation { at, event: Event::Gone, ..self.seen });
    }
}

/// A flow that runs.
pub struct Watched {
    observer: Arc<Observer>,
    flow: u64,
    question: Option<Question>,
}

impl Watched {
    /// A key of a file was answered; `hash` is the same for the same key.
    pub fn key(&self, hash: u64, is_found: bool) {
        let number = self.observer.fingerprint.of_key(hash);
        let counts = |set: &KeySet| (*set == KeySet::Any || !is_found) && set.marks(number);
        for set in KeySet::ALL.into_iter().filter(counts) {
            let seen = lock(&self.observer.running).get(&self.flow).map(|flow| Observation {
                at: self.observer.clock.wall(),
                who: flow.who,
                connection: flow.connection,
                address: flow.address,
                event: Event::Key(Key { grant: flow.leash.grant(), entry: flow.leash.entry(), set, number }),
            });
            if let Some(seen) = seen {
                self.observer.see(seen);
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Out of the lock: the leash's last hold is dropped with what is taken out.
        let ended = lock(&self.observer.running).remove(&self.flow);
        if let Some(mut flow) = ended {
            let clock = &self.observer.clock;
            self.observer.see(flow.look(clock.wall(), clock.monotonic(), self.question, true));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::gate::{AgencyView, AgentView, EntryView, Gate, Permit as _, Update};
    use lingqu_protocol::entry::EntrySpec;
    use lingqu_protocol::ids::EntryId;

    const CODE: &str = "91350100M000100Y43";

    const ENTRY: &str = r#"
name = "n"
abstract = "a"
format = "file"
update_frequency = "daily"
sharing_class = "unconditional"
sharing_methods = ["file_download"]
grade = "general-1"
"#;

    struct Still;

    impl Clock for Still {
        fn wall(&self) -> Timestamp {
            Timestamp(7)
        }
        fn monotonic(&self) -> Duration {
            Duration::from_secs(9)
        }
    }

    /// Each look is a millisecond later.
    #[derive(Default)]
    struct Ticking(AtomicI64);

    impl Clock for Ticking {
        fn wall(&self) -> Timestamp {
            Timestamp(self.0.fetch_add(1, Ordering::Relaxed))
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    fn peer() -> Peer {
        Peer { agent: format!("{CODE}/a").parse().unwrap(), address: "10.0.0.1".parse().unwrap() }
    }

    fn done() -> Answered {
        Answered { operation: "read", word: "done", grant: None, entry: None, asked: 1 }
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_never_waits() {
        let (observer, mut observed) = pair(Fingerprint::new([0; 32]), Arc::new(Still));
        assert_eq!(observer.sight().seen(), Seen::default());
        for _ in 0..WAITING_MAX + 3 {
            observer.answered(&peer(), 1, done());
        }
        let seen = observer.sight().seen();
        assert_eq!((seen.taken, seen.dropped, seen.dropped_at), (WAITING_MAX as u64, 3, Some(Timestamp(7))));
        assert!(observed.queue.try_recv().is_ok());
        observer.answered(&peer(), 1, done());
        assert_eq!(observer.sight().seen().dropped, 3);
        drop(observed);
        observer.answered(&peer(), 1, done());
        assert_eq!(observer.sight().seen().dropped, 4, "nobody judges any more: that is said, and nothing fails");
    }

    /// A flow that may run, of the first entry.
    fn flow(gate: &Gate) -> crate::gate::PushPermit {
        let agency = CODE.parse().unwrap();
        let spec = Arc::new(EntrySpec::parse(ENTRY).unwrap());
        let entry = EntryId::from_bits(1);
        gate.publish(vec![
            Update::Agency(AgencyView::of_province(CODE)),
            Update::Agent(AgentView { id: peer().agent, blocked: None }),
            Update::Entry(EntryView { id: entry, code: None, provider: agency, spec, published: true }),
        ]);
        gate.refresh(Duration::from_secs(5));
        gate.push(&peer(), &entry.to_string()).unwrap()
    }

    fn waiting(observed: &mut Observed) -> Vec<Observation> {
        std::iter::from_fn(|| observed.queue.try_recv().ok()).collect()
    }

    #[test]
    fn what_was_dropped_is_counted_between_two_looks() {
        let seen = |dropped| Seen { dropped, ..Seen::default() };
        assert_eq!([(5, 5), (12, 5), (0, 5)].map(|(now, before)| seen(now).dropped_since(seen(before))), [0, 7, 0]);
    }

    #[test]
    fn a_connection_is_seen_when_it_stands_and_when_it_goes() {
        let (observer, mut observed) = pair(Fingerprint::new([0; 32]), Arc::new(Ticking::default()));
        let connected = Arc::new(observer).connected(&peer(), 4);
        let [stands] = waiting(&mut observed)[..] else { panic!("one") };
        drop(connected);
        let [goes] = waiting(&mut observed)[..] else { panic!("one") };
        assert_eq!(stands, Observation { event: Event::Connected, at: Timestamp(0), ..goes });
        assert_eq!((goes.event, goes.at, goes.connection), (Event::Gone, Timestamp(1), 4));
        assert_eq!((goes.who, goes.address), (Who::from(&peer().agent), peer().address));
    }

    #[test]
    fn a_key_of_a_file_is_seen_where_it_stands_for_others_of_its_kind() {
        let fingerprint = Fingerprint::new([0; 32]);
        let of = |missing: bool, any: bool| {
            let marks = |key: &u64| KeySet::ALL.map(|set| set.marks(fingerprint.of_key(*key))) == [missing, any];
            (0..).find(marks).unwrap()
        };
        let (neither, one, both) = (of(false, false), of(true, false), of(true, true));
        let gate = Gate::new(Arc::new(Still));
        let permit = flow(&gate);
        let (observer, mut observed) = pair(Fingerprint::new([0; 32]), Arc::new(Still));
        let watched = Arc::new(observer).began(&peer(), 4, permit.leash(), None, None);
        for (key, is_found, sets) in [
            (neither, false, &[][..]),
            (one, true, &[]),
            (one, false, &[KeySet::Missing]),
            (both, true, &[KeySet::Any]),
            (both, false, &[KeySet::Missing, KeySet::Any]),
        ] {
            watched.key(key, is_found);
            let number = fingerprint.of_key(key);
            let entry = EntryId::from_bits(1);
            let seen = |set: &KeySet| Observation {
                at: Timestamp(7),
                who: Who::from(&peer().agent),
                connection: 4,
                address: peer().address,
                event: Event::Key(Key { grant: None, entry, set: *set, number }),
            };
            assert_eq!(waiting(&mut observed), sets.iter().map(seen).collect::<Vec<_>>(), "{key} {is_found}");
        }
    }

    #[test]
    fn a_flow_is_seen_while_it_runs_and_at_its_end_and_nothing_twice() {
        let gate = Gate::new(Arc::new(Still));
        let permit = flow(&gate);
        let (observer, mut observed) = pair(Fingerprint::new([0; 32]), Arc::new(Still));
        let observer = Arc::new(observer);
        let watched = observer.began(&peer(), 4, permit.leash(), Some(100), None);
        permit.leash().moved().add(30, 3);
        let moving = observed.sample(Timestamp(8), Duration::from_secs(14));
        let [Observation { event: Event::Moving(passed), connection: 4, .. }] = moving[..] else {
            panic!("{moving:?}")
        };
        assert_eq!((passed.bytes, passed.rows, passed.elapsed_ms), (30, 3, 5000));
        permit.leash().moved().add(5, 1);
        drop(watched);
        assert!(observed.sample(Timestamp(8), Duration::from_secs(14)).is_empty());
        let ended = observed.queue.try_recv().unwrap();
        let Event::Ended(passed) = ended.event else { panic!("{ended:?}") };
        assert_eq!((passed.bytes, passed.rows, passed.rows_in_all), (5, 1, 4));
        drop(permit);
        assert_eq!(gate.running(), 0, "the watch holds nothing");
    }
}
