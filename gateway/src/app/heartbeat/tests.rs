//! Each reason to close, end to end over a real registry and gate: no new permit, what runs is cut, and it opens again by
//! itself where that can be.

use super::*;
use crate::gate::{Ask, Peer, Permit as _, PullPermit, Target};
use crate::registry::tests::world::World;
use crate::state::{CommitFault, Committed, Filter, Head, Record, StateError, StoredLeaf};
use async_trait::async_trait;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::ids::GrantId;
use lingqu_protocol::merkle::{Hash, Node};

const SOON: Duration = Duration::from_millis(50);

struct Beating {
    w: World,
    grant: GrantId,
    pulse: Pulse,
}

async fn beating() -> Beating {
    let w = World::new().await;
    w.published().await;
    let grant = w.granted().await;
    let pulse = Pulse::new(w.clock.as_ref());
    let mut beating = Beating { w, grant, pulse };
    assert_eq!(beating.ask().unwrap_err(), "starting");
    assert_eq!(beating.beat().await, None);
    beating
}

impl Beating {
    async fn beat(&mut self) -> Option<ClosedWhy> {
        let w = &self.w;
        self.pulse.beat(&w.gate, w.state.as_ref(), w.clock.as_ref(), SOON).await
    }

    /// A second later.
    async fn next(&mut self) -> Option<ClosedWhy> {
        self.w.clock.pass(1_000);
        self.beat().await
    }

    fn ask(&self) -> Result<PullPermit, &'static str> {
        let peer = Peer { agent: self.w.requester.agent.clone(), address: "127.0.0.1".parse().unwrap() };
        let target = Target::Grant(self.grant);
        let ask = Ask { target, columns: vec![], rows: None, region: None, purpose: None };
        self.w.gate.pull(&peer, &ask).map_err(|denied| denied.word())
    }
}

#[tokio::test]
async fn a_ledger_that_takes_no_records_closes_and_opens_again_when_it_does() {
    let mut b = beating().await;
    let running = b.ask().unwrap();
    b.w.state.fail_next_commit(CommitFault::Full);
    // Within the two seconds between two writes it is not known yet; then it is.
    assert_eq!(b.next().await, None);
    assert_eq!(b.next().await, Some(ClosedWhy::LedgerFailed));
    assert_eq!(running.leash().check().unwrap_err().code, CloseCode::Closed);
    assert_eq!(b.ask().unwrap_err(), "ledger_failed");
    assert_eq!(b.next().await, None, "there is room again, and the next look finds it");
    assert!(b.ask().is_ok());
    b.w.state.fail_next_commit(CommitFault::SyncLost);
    b.next().await;
    for _ in 0..5 {
        assert_eq!(b.next().await, Some(ClosedWhy::LedgerFailed), "a sync that failed is not tried again");
    }
}

#[tokio::test]
async fn a_clock_that_is_unsure_closes_and_opens_again_when_it_is_right() {
    let mut b = beating().await;
    let running = b.ask().unwrap();
    b.w.clock.jump(3_600_000);
    assert_eq!(b.next().await, Some(ClosedWhy::ClockUnsure));
    assert_eq!(running.leash().check().unwrap_err().word, "clock_unsure");
    assert_eq!(b.ask().unwrap_err(), "clock_unsure");
    b.w.clock.jump(-3_600_000);
    assert_eq!(b.next().await, None);
    // Behind the last record.
    b.w.clock.jump(-2_000_000);
    assert_eq!(b.next().await, Some(ClosedWhy::ClockUnsure));
}

#[tokio::test]
async fn a_state_that_does_not_answer_closes_and_what_runs_is_cut_at_the_stated_time() {
    let mut b = beating().await;
    let running = b.ask().unwrap();
    let hanging = Hanging;
    let w = &b.w;
    assert_eq!(b.pulse.beat(&w.gate, &hanging, w.clock.as_ref(), SOON).await, Some(ClosedWhy::Stale));
    assert_eq!(running.leash().check().unwrap_err().word, "policy_stale");
    // And where nobody even looks any more, the watchdog's thread does it five seconds after the last look.
    assert_eq!(b.next().await, None);
    let running = b.ask().unwrap();
    b.w.clock.pass(4_999);
    b.w.gate.watch();
    running.leash().check().unwrap();
    b.w.clock.pass(1);
    b.w.gate.watch();
    assert_eq!(running.leash().check().unwrap_err().word, "policy_stale");
    assert_eq!(b.ask().unwrap_err(), "policy_stale");
}

/// A state behind a disk that does not answer.
struct Hanging;

async fn never<T>() -> Result<T, StateError> {
    std::future::pending().await
}

#[async_trait]
impl State for Hanging {
    async fn get(&self, _: Kind, _: &str) -> Result<Option<Record>, StateError> {
        never().await
    }
    async fn list(&self, _: Kind, _: Filter, _: Option<&str>, _: u32) -> Result<Vec<Record>, StateError> {
        never().await
    }
    async fn commit(&self, _: Change) -> Result<Committed, StateError> {
        never().await
    }
    async fn head(&self) -> Result<Head, StateError> {
        never().await
    }
    async fn root_at(&self, _: u64) -> Result<Option<Hash>, StateError> {
        never().await
    }
    async fn heads(&self, _: u64, _: u32) -> Result<Vec<Head>, StateError> {
        never().await
    }
    async fn leaf(&self, _: u64) -> Result<Option<StoredLeaf>, StateError> {
        never().await
    }
    async fn leaves(&self, _: u64, _: u32) -> Result<Vec<StoredLeaf>, StateError> {
        never().await
    }
    async fn hashes(&self, _: &[Node]) -> Result<Vec<Hash>, StateError> {
        never().await
    }
}
