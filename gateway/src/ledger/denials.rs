//! Counting denials, so that nobody can fill the ledger with them.
//!
//! The first denial of an agent for a reason in a minute gets its leaf at once; its repeats become one count when the
//! minute is over. So it is with peers that have no identity, all of them together, and with what is over the quota, where
//! the reason or the agent is lost and the count is not. A process that is killed loses the counts of repeats of the running
//! minute and nothing else: that there were denials, whose and why, is in the ledger already.

use lingqu_protocol::agency::AgentId;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::leaf::{LeafKind, WHAT_CHARS_MAX};
use std::collections::BTreeMap;

use super::Entry;

/// Length of a minute.
const MINUTE_MS: i64 = 60_000;

/// Reasons of one agent that are told apart within a minute. A program that errs does so in a few ways.
const REASONS_PER_AGENT_MAX: usize = 8;

/// Pairs of agent and reason that are told apart within a minute, over all agents: what the ledger takes in a day at this
/// rate is under a gigabyte.
const PAIRS_MAX: usize = 256;

/// Summaries that wait to be taken. Two full minutes: whoever takes them comes once a minute.
const DUE_MAX: usize = 2 * (PAIRS_MAX + 4);

/// The reason that stands for those that a quota left no room for.
const OTHER: &str = "other";

/// The reason that stands for peers without an identity.
const STRANGERS: &str = "unauthenticated";

/// A leaf to be written about denials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The minute in which they were, by its begin; for a single denial its own time.
    pub at: Timestamp,
    /// Whose requests, where that is known and within the quota.
    pub agent: Option<AgentId>,
    /// The reason, as a stable word.
    pub reason: &'static str,
    /// How many.
    pub count: u64,
}

/// Counts denials. Pure: it is told the time.
#[derive(Clone, Debug, Default)]
pub struct Denials {
    /// The minute that is counted, from 1970.
    minute: i64,
    /// Denials by agent and reason, in all; the first of each has its leaf.
    pairs: BTreeMap<AgentId, BTreeMap<&'static str, u64>>,
    pairs_count: usize,
    /// Of agents that came when the pairs were used up.
    others: u64,
    /// Of peers without an identity.
    unauthenticated: u64,
    due: Vec<Summary>,
}

impl Denials {
    /// Counts a denial of `agent` for `reason` (a stable word of this program). `Some` is to be written now.
    pub fn denied(&mut self, now: Timestamp, agent: &AgentId, reason: &'static str) -> Option<Summary> {
        debug_assert!(reason.len() <= WHAT_CHARS_MAX);
        self.roll(now);
        let first = |reason| Some(Summary { at: now, agent: Some(agent.clone()), reason, count: 1 });
        let room = self.pairs_count < PAIRS_MAX;
        let Some(reasons) = self.pairs.get_mut(agent) else {
            if room {
                self.pairs.insert(agent.clone(), BTreeMap::from([(reason, 1)]));
                self.pairs_count += 1;
                return first(reason);
            }
            self.others = self.others.saturating_add(1);
            return (self.others == 1).then_some(Summary { at: now, agent: None, reason: OTHER, count: 1 });
        };
        let told_apart = reasons.contains_key(reason) || (room && reasons.len() < REASONS_PER_AGENT_MAX);
        let reason = if told_apart { reason } else { OTHER };
        match reasons.get_mut(reason) {
            Some(count) => {
                *count = count.saturating_add(1);
                None
            }
            None if room || reason == OTHER => {
                // An agent's rest takes a pair beyond the quota: there are at most as many as agents in it.
                reasons.insert(reason, 1);
                self.pairs_count += 1;
                first(reason)
            }
            None => None,
        }
    }

    /// Counts a refused handshake, or anything else of a peer without an identity. The first of a minute is due at once.
    pub fn unauthenticated(&mut self, now: Timestamp) {
        self.roll(now);
        self.unauthenticated = self.unauthenticated.saturating_add(1);
        if self.unauthenticated == 1 {
            self.push(Summary { at: now, agent: None, reason: STRANGERS, count: 1 });
        }
    }

    /// Takes back what was to be written and could not be; it is due again.
    pub fn put_back(&mut self, summaries: Vec<Summary>) {
        summaries.into_iter().for_each(|summary| self.push(summary));
    }

    /// What is to be written by now: the counts of minutes that are over, and firsts that have no leaf yet. Call it every
    /// few seconds.
    pub fn take_due(&mut self, now: Timestamp) -> Vec<Summary> {
        self.roll(now);
        std::mem::take(&mut self.due)
    }

    /// What is due, and the count of the running minute: when the gateway ends.
    pub fn take_all(&mut self, now: Timestamp) -> Vec<Summary> {
        self.roll(now);
        self.end_minute();
        std::mem::take(&mut self.due)
    }

    /// Begins another minute where `now` is in a later one. A clock that went back counts on in the minute it was in.
    fn roll(&mut self, now: Timestamp) {
        let minute = now.0.div_euclid(MINUTE_MS);
        if minute > self.minute {
            self.end_minute();
            self.minute = minute;
        }
    }

    fn end_minute(&mut self) {
        let at = Timestamp(self.minute.saturating_mul(MINUTE_MS));
        for (agent, reasons) in std::mem::take(&mut self.pairs) {
            for (reason, count) in reasons {
                // The first has its leaf.
                self.push(Summary { at, agent: Some(agent.clone()), reason, count: count - 1 });
            }
        }
        self.pairs_count = 0;
        let (others, unauthenticated) = (std::mem::take(&mut self.others), std::mem::take(&mut self.unauthenticated));
        // Here, too, the first has its leaf.
        self.push(Summary { at, agent: None, reason: OTHER, count: others.saturating_sub(1) });
        self.push(Summary { at, agent: None, reason: STRANGERS, count: unauthenticated.saturating_sub(1) });
    }

    fn push(&mut self, summary: Summary) {
        if summary.count == 0 {
            return;
        }
        if self.due.len() < DUE_MAX {
            self.due.push(summary);
        } else if let Some(last) = self.due.last_mut() {
            // Nobody took them for minutes. The number is kept, and what it is of is not.
            let count = last.count.saturating_add(summary.count);
            *last = Summary { agent: None, reason: OTHER, count, ..summary };
        }
    }
}

impl Summary {
    /// The ledger's entry for it.
    pub fn entry(&self) -> Entry {
        Entry::new(LeafKind::Denied, self.at).what(self.reason).with(|leaf| {
            leaf.agency = self.agent.as_ref().map(|agent| agent.agency);
            leaf.agent.clone_from(&self.agent);
            leaf.count = Some(self.count);
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn agent(i: usize) -> AgentId {
        format!("91440300708461136T/a{i}").parse().unwrap()
    }

    fn at(minute: i64, ms: i64) -> Timestamp {
        Timestamp(minute * MINUTE_MS + ms)
    }

    #[test]
    fn the_first_is_written_at_once_and_repeats_once_a_minute() {
        let mut denials = Denials::default();
        let first = denials.denied(at(5, 10), &agent(1), "suspended").unwrap();
        assert_eq!(first, Summary { at: at(5, 10), agent: Some(agent(1)), reason: "suspended", count: 1 });
        for ms in 0..1000 {
            assert_eq!(denials.denied(at(5, ms), &agent(1), "suspended"), None);
        }
        assert!(denials.denied(at(5, 20), &agent(1), "no_grant").is_some());
        assert!(denials.denied(at(5, 20), &agent(2), "suspended").is_some());
        assert_eq!(denials.take_due(at(5, 59_999)), []);
        let repeats = Summary { at: at(5, 0), agent: Some(agent(1)), reason: "suspended", count: 1000 };
        assert_eq!(denials.take_due(at(6, 0)), [repeats]);
        assert!(denials.denied(at(6, 1), &agent(1), "suspended").is_some());
    }

    #[test]
    fn what_has_no_identity_is_one_leaf_at_once_and_one_a_minute() {
        let mut denials = Denials::default();
        (0..10_000).for_each(|ms| denials.unauthenticated(at(9, 5 + ms)));
        let strangers = |at, count| Summary { at, agent: None, reason: STRANGERS, count };
        assert_eq!(denials.take_due(at(9, 10_000)), [strangers(at(9, 5), 1)]);
        denials.unauthenticated(at(9, 10_001));
        assert_eq!(denials.take_due(at(9, 10_002)), []);
        assert_eq!(denials.take_due(at(10, 0)), [strangers(at(9, 0), 10_000)]);
        assert_eq!(denials.take_due(at(11, 0)), []);
    }

    #[test]
    fn what_could_not_be_written_is_due_again() {
        let mut denials = Denials::default();
        let first = denials.denied(at(5, 10), &agent(1), "suspended").unwrap();
        denials.unauthenticated(at(5, 11));
        let due = denials.take_due(at(5, 12));
        assert_eq!(denials.take_due(at(5, 13)), []);
        denials.put_back(vec![first.clone()]);
        denials.put_back(due.clone());
        assert_eq!(denials.take_due(at(5, 14)), [vec![first], due].concat());
    }

    #[test]
    fn the_end_leaves_no_count_behind() {
        let mut denials = Denials::default();
        for ms in 0..5 {
            denials.denied(at(5, ms), &agent(1), "suspended");
        }
        (0..3).for_each(|ms| denials.unauthenticated(at(5, ms)));
        let left: Vec<_> = denials.take_all(at(5, 9)).into_iter().map(|s| (s.reason, s.count)).collect();
        assert_eq!(left, [(STRANGERS, 1), ("suspended", 4), (STRANGERS, 2)]);
        assert_eq!(denials.take_all(at(5, 9)), []);
    }

    #[test]
    fn one_agent_does_not_use_up_the_reasons_of_others() {
        const REASONS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
        let mut denials = Denials::default();
        let written: Vec<_> = REASONS.iter().filter_map(|r| denials.denied(at(1, 0), &agent(1), r)).collect();
        assert_eq!(written.len(), REASONS_PER_AGENT_MAX + 1);
        assert_eq!(written.last().unwrap().reason, OTHER);
        assert!(denials.denied(at(1, 0), &agent(2), "a").is_some());
        let total: u64 = denials.take_all(at(1, 1)).iter().map(|s| s.count).sum();
        assert_eq!(total as usize, REASONS.len() + 1 - written.len() - 1);
    }

    #[test]
    fn a_clock_that_goes_back_counts_on() {
        let mut denials = Denials::default();
        assert!(denials.denied(at(5, 0), &agent(1), "a").is_some());
        assert!(denials.denied(at(2, 0), &agent(1), "a").is_none());
        assert_eq!(denials.take_due(at(3, 0)), []);
        assert_eq!(denials.take_due(at(6, 0)).len(), 1);
    }

    #[test]
    fn its_leaf_says_who_why_and_how_many() {
        let leaf = Denials::default().denied(at(5, 1), &agent(1), "suspended").unwrap();
        let leaf = leaf.entry().seal(&Zeros).unwrap();
        let leaf = lingqu_protocol::leaf::Leaf::decode(&leaf.bytes).unwrap();
        assert_eq!((leaf.kind, leaf.what.as_deref(), leaf.count), (LeafKind::Denied, Some("suspended"), Some(1)));
        assert_eq!((leaf.agency, leaf.agent), (Some(agent(1).agency), Some(agent(1))));
    }

    struct Zeros;

    impl lingqu_protocol::host::Entropy for Zeros {
        fn fill(&self, _: &mut [u8]) -> std::io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        /// Whatever comes: no denial is lost from the count, and the leaves of a minute are bounded.
        #[test]
        fn nothing_is_lost_and_leaves_are_bounded(
            events in prop::collection::vec((0i64..4, 0usize..400, 0usize..12), 0..3000), untaken: bool,
        ) {
            const REASONS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
            let mut sorted = events;
            sorted.sort_by_key(|(minute, ..)| *minute);
            let (mut denials, mut counted, mut now) = (Denials::default(), 0, at(0, 0));
            let mut leaves_by_minute: BTreeMap<i64, usize> = BTreeMap::new();
            for (minute, who, why) in &sorted {
                now = at(*minute, 0);
                if *who == 0 {
                    denials.unauthenticated(now);
                } else if let Some(written) = denials.denied(now, &agent(*who), REASONS[*why]) {
                    counted += written.count;
                    *leaves_by_minute.entry(*minute).or_default() += 1;
                }
                if !untaken {
                    counted += denials.take_due(now).iter().map(|s| s.count).sum::<u64>();
                }
            }
            counted += denials.take_all(now).iter().map(|s| s.count).sum::<u64>();
            prop_assert_eq!(counted, sorted.len() as u64);
            prop_assert!(leaves_by_minute.values().all(|leaves| *leaves <= 2 * PAIRS_MAX));
        }
    }
}
