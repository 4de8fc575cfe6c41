//! What is remembered of each agent, so that rules can judge: bounded for one agent and in all.
//!
//! A history only remembers; it never judges. What does not fit any more goes, the oldest first, and that can only make a
//! rule speak later, never wrongly.

mod baseline;
mod sweep;

pub use baseline::{Baseline, DAYS_KEPT, HOUR_MS, Kept};
pub use sweep::Sweep;

use super::observation::{Answered, Event, Observation, Refusal, Who};
use super::thresholds::Thresholds;
use ipnet::IpNet;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::GrantId;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// Refusals that are kept of one agent: what the largest threshold asks for, in under 20 KB.
pub const DENIALS_KEPT_MAX: usize = 128;

/// Connections of one agent that are told apart: some machines with some programs each; the others are not looked at.
const CONNECTIONS_MAX: usize = 32;

/// Turns from one place to another that are kept.
const TURNS_MAX: usize = 16;

/// Shapes of questions of one agent that are counted at the same time, and files of keys twice; a new one takes the place of
/// the oldest.
const SWEEPS_MAX: usize = 6;

/// Grants of one agent whose measured bytes are kept; what falls out is measured again from nothing.
const GRANTS_MAX: usize = 64;

/// Agents that are remembered: as many as may be connected, with as many again that come and go. At 3 KB for one that
/// behaves this is 24 MB; the longest unseen one is forgotten first.
pub const AGENTS_MAX: usize = 8192;

/// Refusals that are kept over all agents, in under 10 MB: agents that all misbehave at once share them.
const DENIALS_IN_ALL_MAX: usize = 64 * 1024;

/// A refusal that was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Denial {
    /// When.
    pub at: Timestamp,
    /// Its kind.
    pub refusal: Refusal,
    /// What was refused.
    pub answered: Answered,
    /// From where it was asked.
    pub address: IpAddr,
}

/// A connection that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    connection: u64,
    network: IpNet,
}

/// A turn: something was done in one network after another one was active, while both had a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// When.
    pub at: Timestamp,
    /// Where the agent was before.
    pub from: IpNet,
    /// Where it was then.
    pub to: IpNet,
}

/// What is remembered of one agent.
#[derive(Clone, Debug, Default)]
pub struct History {
    denials: VecDeque<Denial>,
    places: Vec<Place>,
    active_in: Option<IpNet>,
    turns: VecDeque<Turn>,
    sweeps: VecDeque<Sweep>,
    measured: VecDeque<(GrantId, u64)>,
    baseline: Baseline,
    seen_at: Timestamp0,
}

/// A time that begins at nothing.
#[derive(Clone, Copy, Debug)]
struct Timestamp0(Timestamp);

impl Default for Timestamp0 {
    fn default() -> Self {
        Self(Timestamp(i64::MIN))
    }
}

impl History {
    /// Remembers what was seen.
    pub fn record(&mut self, seen: &Observation, thresholds: &Thresholds) {
        self.seen_at = Timestamp0(seen.at);
        match &seen.event {
            Event::Connected => self.connected(seen, thresholds),
            Event::Gone => self.places.retain(|place| place.connection != seen.connection),
            Event::Answered(answered) => {
                if let Some(refusal) = Refusal::of(answered.word) {
                    push(
                        &mut self.denials,
                        DENIALS_KEPT_MAX,
                        Denial { at: seen.at, refusal, answered: *answered, address: seen.address },
                    );
                }
                self.active(seen);
            }
            Event::Key(key) => {
                let half_ms = i64::from(thresholds.enumeration.minutes) * 30_000;
                self.sweep(key.grant, key.set.shape()).count(key.number, 0, seen.at, half_ms);
            }
            Event::Moving(passed) | Event::Ended(passed) => {
                if passed.bytes > 0 {
                    self.active(seen);
                }
                if let Some(grant) = passed.grant {
                    self.measure(grant, passed.bytes);
                    self.baseline.add(seen.at, passed.bytes);
                }
                let small = passed.rows_in_all <= thresholds.enumeration.rows_small;
                if let (Event::Ended(_), Some(question), true) = (&seen.event, passed.question, small) {
                    let half_ms = i64::from(thresholds.enumeration.minutes) * 30_000;
                    self.sweep(passed.grant, question.shape).count(
                        question.value,
                        passed.rows_in_all,
                        seen.at,
                        half_ms,
                    );
                }
            }
        }
    }

    /// Refusals of these kinds since `since`, the oldest first.
    pub fn denials(&self, kinds: &[Refusal], since: Timestamp) -> impl Iterator<Item = &Denial> {
        self.denials.iter().filter(move |denial| denial.at >= since && kinds.contains(&denial.refusal))
    }

    /// Turns between two networks since `since`, the oldest first.
    pub fn turns(&self, since: Timestamp) -> impl Iterator<Item = &Turn> {
        self.turns.iter().filter(move |turn| turn.at >= since)
    }

    /// Whether connections stand in both networks.
    pub fn stands_in(&self, one: IpNet, other: IpNet) -> bool {
        let has = |network| self.places.iter().any(|place| place.network == network);
        has(one) && has(other)
    }

    /// The count of a kind of question under a grant.
    pub fn sweep_of(&self, grant: Option<GrantId>, shape: u64) -> Option<&Sweep> {
        self.sweeps.iter().find(|sweep| sweep.is_of(grant, shape))
    }

    /// Bytes measured under a grant since this process began.
    pub fn measured_bytes(&self, grant: GrantId) -> u64 {
        self.measured.iter().find(|(of, _)| *of == grant).map_or(0, |(_, bytes)| *bytes)
    }

    /// What the agent usually takes.
    pub const fn baseline(&self) -> &Baseline {
        &self.baseline
    }

    /// Forgets what a person has looked at, so that only what comes after it counts. What is usual stays.
    pub fn forgive(&mut self) {
        self.denials.clear();
        self.turns.clear();
        self.sweeps.clear();
        self.measured.clear();
    }

    fn connected(&mut self, seen: &Observation, thresholds: &Thresholds) {
        if self.places.len() < CONNECTIONS_MAX
            && let Some(network) = thresholds.place(seen.address)
        {
            self.places.push(Place { connection: seen.connection, network });
        }
    }

    /// Something was done on a connection: a turn, where another network was active before and still has a connection.
    fn active(&mut self, seen: &Observation) {
        let Some(here) = self.places.iter().find(|p| p.connection == seen.connection).map(|p| p.network) else {
            return;
        };
        let before = self.active_in.replace(here).filter(|before| *before != here);
        if let Some(from) = before.filter(|from| self.stands_in(*from, here)) {
            push(&mut self.turns, TURNS_MAX, Turn { at: seen.at, from, to: here });
        }
    }

    fn measure(&mut self, grant: GrantId, bytes: u64) {
        match self.measured.iter_mut().find(|(of, _)| *of == grant) {
            Some((_, total)) => *total = total.saturating_add(bytes),
            None => push(&mut self.measured, GRANTS_MAX, (grant, bytes)),
        }
    }

    fn sweep(&mut self, grant: Option<GrantId>, shape: u64) -> &mut Sweep {
        let at = match self.sweeps.iter().position(|sweep| sweep.is_of(grant, shape)) {
            Some(at) => at,
            None => {
                push(&mut self.sweeps, SWEEPS_MAX, Sweep::new(grant, shape));
                self.sweeps.len() - 1
            }
        };
        &mut self.sweeps[at]
    }
}

fn push<T>(queue: &mut VecDeque<T>, max: usize, value: T) {
    if queue.len() >= max {
        queue.pop_front();
    }
    queue.push_back(value);
}

/// The histories of all agents.
#[derive(Debug, Default)]
pub struct Histories {
    agents: HashMap<Who, History>,
    denials: usize,
    evicted: u64,
}

impl Histories {
    /// Remembers what was seen, and gives the history of who did it.
    pub fn record(&mut self, seen: &Observation, thresholds: &Thresholds) -> &History {
        if !self.agents.contains_key(&seen.who) && self.agents.len() >= AGENTS_MAX {
            self.evict();
        }
        let history = self.agents.entry(seen.who).or_default();
        let before = history.denials.len();
        history.record(seen, thresholds);
        self.denials = self.denials + history.denials.len() - before;
        if self.denials > DENIALS_IN_ALL_MAX {
            self.thin();
        }
        self.agents.entry(seen.who).or_default()
    }

    /// What is remembered of an agent, to be changed.
    pub fn of(&mut self, who: &Who) -> Option<&mut History> {
        self.agents.get_mut(who)
    }

    /// Forgets what a person has looked at.
    pub fn forgive(&mut self, who: &Who) {
        if let Some(history) = self.agents.get_mut(who) {
            self.denials -= history.denials.len();
            history.forgive();
        }
    }

    /// Takes up what was usual before this process began.
    pub fn restore(&mut self, who: Who, kept: Kept) {
        if self.agents.len() < AGENTS_MAX {
            self.agents.entry(who).or_default().baseline = Baseline::from_kept(kept);
        }
    }

    /// What is usual for agents whose day ended since the last call, to be kept.
    pub fn take_changed(&mut self) -> Vec<(Who, Kept)> {
        self.agents.iter_mut().filter_map(|(who, h)| h.baseline.take_changed().map(|kept| (*who, kept))).collect()
    }

    /// Agents that are remembered.
    pub fn len(&self) -> usize {
        self.agents.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty()
    }

    /// Agents that were forgotten for others.
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Forgets the agent that was not seen for longest.
    fn evict(&mut self) {
        let oldest = self.agents.iter().min_by_key(|(_, history)| history.seen_at.0).map(|(who, _)| *who);
        if let Some(history) = oldest.and_then(|who| self.agents.remove(&who)) {
            self.denials -= history.denials.len();
            self.evicted += 1;
        }
    }

    /// Halves what is kept of everybody's refusals.
    fn thin(&mut self) {
        for history in self.agents.values_mut() {
            let spare = history.denials.len() / 2;
            history.denials.drain(..spare);
        }
        self.denials = self.agents.values().map(|history| history.denials.len()).sum();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::observation::{Passed, Question};
    use super::*;
    use lingqu_protocol::ids::EntryId;
    use proptest::prelude::*;

    fn who(n: usize) -> Who {
        Who::from(&format!("91350100M000100Y43/a{n}").parse().unwrap())
    }

    fn seen(n: usize, at: i64, event: Event) -> Observation {
        Observation { at: Timestamp(at), who: who(n), connection: n as u64, address: [10, 0, 0, 1].into(), event }
    }

    fn denied(word: &'static str) -> Event {
        Event::Answered(Answered { operation: "pull", word, grant: None, entry: None, asked: 0 })
    }

    fn ended(value: u64, rows: u64) -> Event {
        Event::Ended(Passed {
            grant: Some(GrantId::from_bits(1)),
            entry: EntryId::from_bits(1),
            bytes: 10,
            rows,
            rows_in_all: rows,
            elapsed_ms: 1,
            volume_bytes_max: None,
            question: Some(Question { shape: 1, value }),
        })
    }

    fn moving(grant: u128, bytes: u64) -> Event {
        Event::Moving(Passed {
            grant: Some(GrantId::from_bits(grant)),
            entry: EntryId::from_bits(1),
            bytes,
            rows: 1,
            rows_in_all: 1,
            elapsed_ms: 1,
            volume_bytes_max: None,
            question: None,
        })
    }

    #[test]
    fn what_is_forgiven_does_not_count_any_more_and_what_is_usual_stays() {
        let thresholds = Thresholds::default();
        let mut all = Histories::default();
        for i in 0..10 {
            all.record(&seen(1, i, denied("columns_outside_scope")), &thresholds);
            all.record(&seen(1, i, ended(i as u64, 1)), &thresholds);
        }
        for at in [1, 2] {
            all.record(&seen(2, at, denied("columns_outside_scope")), &thresholds);
        }
        assert_eq!(all.denials, 12, "what all hold together is bounded");
        assert_eq!(all.of(&who(1)).unwrap().denials(&[Refusal::OutsideScope], Timestamp(5)).count(), 5);
        let grant = Some(GrantId::from_bits(1));
        assert_eq!(all.of(&who(1)).unwrap().sweep_of(grant, 1).unwrap().different(), 10);
        all.forgive(&who(1));
        assert_eq!(all.denials, 2);
        let history = all.of(&who(1)).unwrap();
        assert_eq!(history.denials(&[Refusal::OutsideScope], Timestamp(0)).count(), 0);
        assert!(history.sweep_of(grant, 1).is_none());
        assert_eq!(history.baseline().today_bytes(), 100);
    }

    #[test]
    fn what_is_measured_adds_up_for_each_grant() {
        let mut history = History::default();
        for (grant, bytes) in [(1, 10), (2, 200), (1, 5), (2, 1)] {
            history.record(&seen(1, 1, moving(grant, bytes)), &Thresholds::default());
        }
        let measured = [1, 2, 3].map(|grant| history.measured_bytes(GrantId::from_bits(grant)));
        assert_eq!((measured, history.baseline().today_bytes()), ([15, 201, 0], 216));
    }

    #[test]
    fn a_turn_needs_something_done_and_a_connection_in_both_places() {
        let thresholds = Thresholds::default();
        let mut history = History::default();
        let at = |connection: u64, third: u8, event| Observation {
            at: Timestamp(1),
            who: who(1),
            connection,
            address: [10, 0, third, 1].into(),
            event,
        };
        let act = || denied("done");
        for (connection, third) in [(1, 1), (2, 1), (3, 2)] {
            history.record(&at(connection, third, Event::Connected), &thresholds);
            history.record(&at(connection, third, act()), &thresholds);
        }
        assert_eq!(history.turns(Timestamp(0)).count(), 1, "1 to 1 is none, 1 to 2 is one");
        history.record(&at(1, 1, moving(1, 0)), &thresholds);
        assert_eq!(history.turns(Timestamp(0)).count(), 1, "a stream that stands still does nothing");
        history.record(&at(3, 2, Event::Gone), &thresholds);
        history.record(&at(4, 3, Event::Connected), &thresholds);
        history.record(&at(1, 1, act()), &thresholds);
        assert_eq!(history.turns(Timestamp(0)).count(), 1, "the other place is gone, whatever else stands");
        history.record(&at(5, 2, Event::Connected), &thresholds);
        history.record(&at(5, 2, act()), &thresholds);
        assert_eq!(history.turns(Timestamp(0)).count(), 2, "and there again: the first place has stood all the while");
    }

    #[test]
    fn memory_is_bounded_for_one_and_in_all() {
        let thresholds = Thresholds::default();
        let mut all = Histories::default();
        assert!(all.is_empty());
        for n in 0..AGENTS_MAX + 10 {
            all.record(&seen(n, n as i64, denied("no_grant")), &thresholds);
        }
        assert_eq!((all.len(), all.evicted(), all.is_empty()), (AGENTS_MAX, 10, false));
        assert_eq!(all.denials, AGENTS_MAX, "who is forgotten holds nothing");
        assert!(all.of(&who(9)).is_none() && all.of(&who(10)).is_some(), "the longest unseen goes");
        all.restore(who(9), Kept { days: Vec::new(), hours: Vec::new(), since: 0 });
        assert_eq!(all.len(), AGENTS_MAX, "what was usual takes nobody's place");
        let (mut most, mut halved) = (0, false);
        for _ in 0..20 {
            for n in 10..AGENTS_MAX {
                let before = all.denials;
                all.record(&seen(n, 1, denied("no_grant")), &thresholds);
                most = most.max(all.denials);
                halved |= all.denials < before * 6 / 10;
            }
        }
        assert_eq!((most, halved), (DENIALS_IN_ALL_MAX, true));
        assert_eq!(all.denials, all.agents.values().map(|h| h.denials.len()).sum::<usize>());
    }

    proptest! {
        #[test]
        fn one_agent_stays_within_its_bounds(steps in prop::collection::vec((0u8..5, 0u64..1000, 0i64..1_000_000), 0..600)) {
            let thresholds = Thresholds::default();
            let mut history = History::default();
            for (step, n, at) in steps {
                let event = match step {
                    0 => Event::Connected,
                    1 => Event::Gone,
                    2 => denied("columns_outside_scope"),
                    3 => ended(n, n),
                    _ => Event::Ended(Passed {
                        grant: Some(GrantId::from_bits(n.into())),
                        question: Some(Question { shape: n, value: n }),
                        entry: EntryId::from_bits(1), bytes: n, rows: 0, rows_in_all: 0, elapsed_ms: 0, volume_bytes_max: None,
                    }),
                };
                let address = [10, (n % 7) as u8, 0, 1].into();
                history.record(&Observation { at: Timestamp(at), who: who(1), connection: n % 50, address, event }, &thresholds);
                prop_assert!(history.denials.len() <= DENIALS_KEPT_MAX && history.places.len() <= CONNECTIONS_MAX);
                prop_assert!(history.turns.len() <= TURNS_MAX && history.sweeps.len() <= SWEEPS_MAX);
                prop_assert!(history.measured.len() <= GRANTS_MAX);
            }
        }
    }
}
