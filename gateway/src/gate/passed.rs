//! What passed by agency and by grant, for whoever watches. A flow counts for itself alone ([`super::moved`]); it is added
//! here once, when it ends, so that the data's loops share nothing.

use lingqu_protocol::agency::{AgentId, CreditCode};
use lingqu_protocol::ids::GrantId;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// Agencies, and grants, that are remembered: more than move anything on one day; a hundred bytes each.
const REMEMBERED_MAX: usize = 8_192;

/// What passed of an agency or a grant since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Bytes that came in.
    pub in_bytes: u64,
    /// Bytes handed to the transport.
    pub out_bytes: u64,
    /// Flows that ended.
    pub ended: u64,
    /// Flows that run.
    pub running: u64,
}

impl Passed {
    fn add(&mut self, other: &Self) {
        self.in_bytes += other.in_bytes;
        self.out_bytes += other.out_bytes;
        self.ended += other.ended;
        self.running += other.running;
    }
}

/// One side's sums.
#[derive(Clone, Debug, Default)]
pub struct AllPassed {
    /// By agency.
    pub agencies: HashMap<CreditCode, Passed>,
    /// By grant.
    pub grants: HashMap<GrantId, Passed>,
}

impl AllPassed {
    /// Adds a flow.
    pub(super) fn add(&mut self, agent: &AgentId, grant: Option<GrantId>, passed: &Passed) {
        self.agencies.entry(agent.agency).or_default().add(passed);
        if let Some(grant) = grant {
            self.grants.entry(grant).or_default().add(passed);
        }
    }
}

/// What ended.
#[derive(Debug, Default)]
pub(super) struct Ended(Mutex<AllPassed>);

impl Ended {
    pub(super) fn add(&self, agent: &AgentId, grant: Option<GrantId>, passed: &Passed) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        make_room(&mut all.agencies);
        make_room(&mut all.grants);
        all.add(agent, grant, passed);
    }

    pub(super) fn all(&self) -> AllPassed {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Forgets those of which least passed.
fn make_room<K: Eq + Hash + Copy>(of: &mut HashMap<K, Passed>) {
    if of.len() < REMEMBERED_MAX {
        return;
    }
    let bytes = |p: &Passed| p.in_bytes + p.out_bytes;
    let mut all: Vec<u64> = of.values().map(bytes).collect();
    let middle = all.len() / 2;
    let (_, median, _) = all.select_nth_unstable(middle);
    let median = *median;
    of.retain(|_, passed| bytes(passed) > median);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_by_agency_and_grant_and_bounded() {
        let ended = Ended::default();
        let agent: AgentId = "91350100M000100Y43/a".parse().unwrap();
        for number in 0..3 * REMEMBERED_MAX as u128 {
            let passed = Passed { out_bytes: number as u64, ended: 1, ..Passed::default() };
            ended.add(&agent, Some(GrantId::from_bits(number)), &passed);
            assert!(ended.0.lock().unwrap().grants.len() <= REMEMBERED_MAX, "{number}");
        }
        assert_eq!(ended.all().agencies[&agent.agency].ended, 3 * REMEMBERED_MAX as u64);
    }

    #[test]
    fn the_half_of_which_most_passed_stays() {
        let left = |count: usize, bytes: fn(u64) -> u64| {
            let of = (0..count as u64).map(|number| (number, Passed { in_bytes: bytes(number), ..Passed::default() }));
            let mut of: HashMap<u64, Passed> = of.collect();
            make_room(&mut of);
            of
        };
        assert_eq!(left(REMEMBERED_MAX - 1, |number| number).len(), REMEMBERED_MAX - 1, "nothing is forgotten early");
        let (most, half) = (left(REMEMBERED_MAX, |number| number), REMEMBERED_MAX as u64 / 2);
        assert!(most.len() as u64 == half - 1 && most.keys().all(|number| *number > half), "{} stay", most.len());
        assert!(left(REMEMBERED_MAX, |_| 7).len() < REMEMBERED_MAX, "there is room where all are equal, too");
    }
}
