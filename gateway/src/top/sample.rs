//! What a gateway that runs says of itself at one moment. Bounded, whatever runs.

use crate::gate::{Gate, Leash, Selector, Wait};
use serde::{Deserialize, Serialize};

/// Flows in one sample: those of which most passed; a screen shows fewer, and a line of the control socket holds them.
const FLOWS_MAX: usize = 2_000;

/// Agencies, and grants, in one sample: those of which most passed.
const SUMS_MAX: usize = 1_000;

/// One moment. Counters only grow while the gateway runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Milliseconds on the gateway's monotonic clock.
    pub at_ms: u64,
    /// Why no permits are given, if so: a word as in `/readyz`.
    pub closed: Option<String>,
    /// Flows that run, those that are not listed among them.
    pub running: u64,
    /// Subscriptions of backflow that stand.
    #[serde(default)]
    pub subscriptions: u64,
    /// Those of them that do not have the latest version yet.
    #[serde(default)]
    pub subscriptions_behind: u64,
    /// Stops in force.
    pub stops: Vec<StopSeen>,
    /// What runs.
    pub flows: Vec<Flow>,
    /// What passed by agency.
    pub agencies: Vec<Sum>,
    /// What passed by grant.
    pub grants: Vec<Sum>,
}

/// A stop in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopSeen {
    /// What is stopped, as `agency:CODE`.
    pub selector: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: String,
}

/// A transfer that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Its number in this process.
    pub number: u64,
    /// `pull`, `push` or `backflow`.
    pub way: String,
    /// Whose.
    pub agent: String,
    /// Under which grant; a push has none.
    pub grant: Option<String>,
    /// Of which entry.
    pub entry: String,
    /// The entry's code and name.
    pub entry_name: String,
    /// Bytes so far.
    pub bytes: u64,
    /// Rows so far.
    pub rows: u64,
    /// How long it has run.
    pub age_ms: u64,
    /// What it waits for now: `reader` (its reader, or the line), `memory` (that other transfers hold); none where it
    /// moves, or where the sender has nothing.
    pub waits_for: Option<String>,
}

/// What passed of an agency or of a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// The agency's code or the grant's id.
    pub id: String,
    /// The agency's name, or the grant's entry and requester.
    pub name: String,
    /// Bytes that came in.
    pub in_bytes: u64,
    /// Bytes handed to the transport.
    pub out_bytes: u64,
    /// Transfers that ended.
    pub ended: u64,
    /// Transfers that run.
    pub running: u64,
}

impl Sample {
    /// Of this gate, now.
    pub fn take(gate: &Gate) -> Self {
        let snapshot = gate.snapshot();
        let now = gate.monotonic();
        let name_of = |entry| {
            let entry = snapshot.entry(&entry);
            entry.map_or_else(String::new, |e| format!("{} {}", e.code.as_deref().unwrap_or_default(), e.spec.name))
        };
        let flow = |leash: &Leash| Flow {
            number: leash.number(),
            way: if leash.list().is_some() {
                "backflow"
            } else if leash.grant().is_some() {
                "pull"
            } else {
                "push"
            }
            .to_owned(),
            agent: leash.agent().to_string(),
            grant: leash.grant().map(|grant| grant.to_string()),
            entry: leash.entry().to_string(),
            entry_name: name_of(leash.entry()),
            bytes: leash.moved().bytes(),
            rows: leash.moved().rows(),
            age_ms: ms(now.saturating_sub(leash.began())),
            waits_for: leash.waits().now().map(|wait| word(wait).to_owned()),
        };
        let (standing, running): (Vec<Leash>, Vec<Leash>) = gate.flows().into_iter().partition(Leash::is_standing);
        let mut flows: Vec<Flow> = running.iter().map(flow).collect();
        flows.sort_unstable_by_key(|flow| (std::cmp::Reverse(flow.bytes), flow.number));
        flows.truncate(FLOWS_MAX);
        let passed = gate.passed();
        let agencies = passed.agencies.iter().map(|(code, passed)| {
            sum(code.to_string(), snapshot.agency(code).map_or_else(String::new, |a| a.name.clone()), passed)
        });
        let grants = passed.grants.iter().map(|(id, passed)| {
            let of = running.iter().find(|leash| leash.grant() == Some(*id));
            let name =
                of.map_or_else(String::new, |leash| format!("{} {}", leash.agent().agency, name_of(leash.entry())));
            sum(id.to_string(), name, passed)
        });
        let stops = snapshot.stops().iter().take(SUMS_MAX).map(|stop| StopSeen {
            selector: selector_text(&stop.selector),
            reason: stop.reason.clone(),
            since: stop.since.to_rfc3339(),
        });
        Self {
            at_ms: ms(now),
            closed: gate.closed().map(|why| why.word().to_owned()),
            running: running.len() as u64,
            subscriptions: standing.len() as u64,
            subscriptions_behind: standing.iter().filter(|leash| leash.behind() > 0).count() as u64,
            stops: stops.collect(),
            flows,
            agencies: largest(agencies.collect()),
            grants: largest(grants.collect()),
        }
    }
}

fn sum(id: String, name: String, passed: &crate::gate::Passed) -> Sum {
    let crate::gate::Passed { in_bytes, out_bytes, ended, running } = *passed;
    Sum { id, name, in_bytes, out_bytes, ended, running }
}

fn largest(mut sums: Vec<Sum>) -> Vec<Sum> {
    sums.sort_unstable_by(|a, b| {
        (b.running, b.in_bytes + b.out_bytes, &b.id).cmp(&(a.running, a.in_bytes + a.out_bytes, &a.id))
    });
    sums.truncate(SUMS_MAX);
    sums
}

const fn word(wait: Wait) -> &'static str {
    match wait {
        Wait::Reader => "reader",
        Wait::Memory => "memory",
    }
}

fn selector_text(selector: &Selector) -> String {
    match selector {
        Selector::Grant(grant) => format!("grant:{grant}"),
        Selector::List(list) => format!("list:{list}"),
        Selector::Agent(agent) => format!("agent:{agent}"),
        Selector::Agency(code) => format!("agency:{code}"),
        Selector::Entry(entry) => format!("entry:{entry}"),
        Selector::All => "all".to_owned(),
    }
}

fn ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
