//! Every metric's name, unit and labels. Label values come from fixed lists: no peer can make new series.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Bytes that came in and are durable.
pub const RECEIVED_BYTES: &str = "lingqu_received_bytes_total";
/// Bytes handed to the transport.
pub const SENT_BYTES: &str = "lingqu_sent_bytes_total";
/// Rows that came in.
pub const RECEIVED_ROWS: &str = "lingqu_received_rows_total";
/// Rows handed to the transport.
pub const SENT_ROWS: &str = "lingqu_sent_rows_total";
/// Requests by `operation` and `outcome`: `done`, `disconnected`, or a close code's name.
pub const REQUESTS: &str = "lingqu_requests_total";
/// Connections that stand.
pub const CONNECTIONS: &str = "lingqu_connections";
/// Handshakes refused, by `reason`.
pub const REFUSED_HANDSHAKES: &str = "lingqu_refused_handshakes_total";
/// Flows under a permit.
pub const RUNNING_FLOWS: &str = "lingqu_running_flows";
/// 1 while permits are given, 0 while the gate is closed.
pub const GATE_OPEN: &str = "lingqu_gate_open";
/// Leaves in the ledger.
pub const LEDGER_SIZE: &str = "lingqu_ledger_leaves";
/// Known agencies, agents, entries and grants, by `kind`.
pub const REGISTERED: &str = "lingqu_registered";
/// Seconds of the gateway's own check of policy, ledger and clock.
pub const CHECK_SECONDS: &str = "lingqu_health_check_seconds";

/// Observations of requests and streams that were handed to the rules.
pub const OBSERVATIONS: &str = "lingqu_observations_total";
/// Observations that found the queue full: findings may be missing.
pub const OBSERVATIONS_DROPPED: &str = "lingqu_observations_dropped_total";
/// Findings (疑似问题线索) by `rule` and by what followed, `action`.
pub const FINDINGS: &str = "lingqu_findings_total";
/// Findings that wait for somebody.
pub const FINDINGS_OPEN: &str = "lingqu_findings_open";
/// Agents whose history was forgotten for others.
pub const HISTORIES_EVICTED: &str = "lingqu_histories_evicted_total";
/// 1 for the reason why the gate is closed, by `reason`; 0 for the others.
pub const GATE_CLOSED: &str = "lingqu_gate_closed";

/// Bytes that were read from the lake, and from what lies beside it.
pub const LAKE_READ_BYTES: &str = "lingqu_lake_read_bytes_total";

/// Rows of versions that were decoded to be split by region.
pub const BACKFLOW_DECODED_ROWS: &str = "lingqu_backflow_decoded_rows_total";
/// Seconds from the commit of a version to its being durable at a subscriber.
pub const BACKFLOW_DURABLE_SECONDS: &str = "lingqu_backflow_durable_seconds";
/// Subscriptions that stand.
pub const SUBSCRIPTIONS: &str = "lingqu_subscriptions";
/// Subscriptions that lack a version that was committed longer ago than they may take.
pub const SUBSCRIPTIONS_LATE: &str = "lingqu_subscriptions_late";

/// Subscriptions that stand now.
static STANDING: AtomicUsize = AtomicUsize::new(0);

/// Describes every metric to the recorder.
pub fn describe() {
    describe_counter!(RECEIVED_BYTES, Unit::Bytes, "bytes that came in and are durable");
    describe_counter!(SENT_BYTES, Unit::Bytes, "bytes handed to the transport");
    describe_counter!(RECEIVED_ROWS, Unit::Count, "rows that came in");
    describe_counter!(SENT_ROWS, Unit::Count, "rows handed to the transport");
    describe_counter!(REQUESTS, Unit::Count, "requests by operation and outcome");
    describe_gauge!(CONNECTIONS, Unit::Count, "connections that stand");
    describe_counter!(REFUSED_HANDSHAKES, Unit::Count, "handshakes refused, by reason");
    describe_gauge!(RUNNING_FLOWS, Unit::Count, "flows under a permit");
    describe_gauge!(GATE_OPEN, Unit::Count, "1 while permits are given");
    describe_gauge!(LEDGER_SIZE, Unit::Count, "leaves in the ledger");
    describe_gauge!(REGISTERED, Unit::Count, "known agencies, agents, entries and grants");
    describe_counter!(OBSERVATIONS, Unit::Count, "observations handed to the rules");
    describe_counter!(OBSERVATIONS_DROPPED, Unit::Count, "observations that found the queue full");
    describe_counter!(FINDINGS, Unit::Count, "findings by rule and by what followed");
    describe_gauge!(FINDINGS_OPEN, Unit::Count, "findings that wait for somebody");
    describe_counter!(HISTORIES_EVICTED, Unit::Count, "agents whose history was forgotten for others");
    describe_gauge!(GATE_CLOSED, Unit::Count, "1 for the reason why the gate is closed");
    describe_counter!(LAKE_READ_BYTES, Unit::Bytes, "bytes read from the lake, and from what lies beside it");
    describe_counter!(BACKFLOW_DECODED_ROWS, Unit::Count, "rows that were decoded to be split by region");
    describe_histogram!(BACKFLOW_DURABLE_SECONDS, Unit::Seconds, "from a version's commit to durable at a subscriber");
    describe_gauge!(SUBSCRIPTIONS, Unit::Count, "subscriptions that stand");
    describe_gauge!(SUBSCRIPTIONS_LATE, Unit::Count, "subscriptions that lack a version for longer than they may");
    describe_histogram!(CHECK_SECONDS, Unit::Seconds, "the gateway's check of policy, ledger and clock");
}

/// Counts bytes that came in and are durable.
pub fn received(bytes: u64) {
    counter!(RECEIVED_BYTES).increment(bytes);
}

/// Counts bytes handed to the transport.
pub fn sent(bytes: u64) {
    counter!(SENT_BYTES).increment(bytes);
}

/// Counts rows that came in.
pub fn received_rows(rows: u64) {
    counter!(RECEIVED_ROWS).increment(rows);
}

/// Counts rows handed to the transport.
pub fn sent_rows(rows: u64) {
    counter!(SENT_ROWS).increment(rows);
}

/// Counts a request and how it ended: `outcome` is one of a fixed list.
pub fn request(operation: &'static str, outcome: &'static str) {
    counter!(REQUESTS, "operation" => operation, "outcome" => outcome).increment(1);
}

/// Counts a refused handshake.
pub fn refused_handshake(reason: &'static str) {
    counter!(REFUSED_HANDSHAKES, "reason" => reason).increment(1);
}

/// Says how many connections stand.
pub fn connections(now: usize) {
    gauge!(CONNECTIONS).set(now as f64);
}

/// What the once-a-second check found.
pub fn health(open: bool, running: usize, ledger: u64, registered: [usize; 4], took: Duration) {
    gauge!(GATE_OPEN).set(if open { 1.0 } else { 0.0 });
    gauge!(RUNNING_FLOWS).set(running as f64);
    gauge!(LEDGER_SIZE).set(ledger as f64);
    for (kind, count) in ["agency", "agent", "entry", "grant"].into_iter().zip(registered) {
        gauge!(REGISTERED, "kind" => kind).set(count as f64);
    }
    histogram!(CHECK_SECONDS).record(took.as_secs_f64());
}

/// Counts an observation that was queued.
pub fn observed() {
    counter!(OBSERVATIONS).increment(1);
}

/// Counts an observation that found the queue full.
pub fn observation_dropped() {
    counter!(OBSERVATIONS_DROPPED).increment(1);
}

/// Counts a finding and what followed.
pub fn finding(rule: &'static str, action: &'static str) {
    counter!(FINDINGS, "rule" => rule, "action" => action).increment(1);
}

/// Says how many findings are open, and how many histories were forgotten so far.
pub fn misuse(open: usize, evicted: u64) {
    gauge!(FINDINGS_OPEN).set(open as f64);
    counter!(HISTORIES_EVICTED).absolute(evicted);
}

/// Counts bytes that were read from the lake.
pub fn lake_read(bytes: usize) {
    counter!(LAKE_READ_BYTES).increment(bytes as u64);
}

/// Counts rows that were decoded to be split by region.
pub fn backflow_decoded(rows: u64) {
    counter!(BACKFLOW_DECODED_ROWS).increment(rows);
}

/// Says how long a version took from its commit to a subscriber's disk.
pub fn backflow_durable(took: Duration) {
    histogram!(BACKFLOW_DURABLE_SECONDS).record(took.as_secs_f64());
}

/// Says how many subscriptions lack a version for longer than they may.
pub fn backflow_late(count: usize) {
    gauge!(SUBSCRIPTIONS_LATE).set(count as f64);
}

/// A subscription that stands, until it is dropped.
#[derive(Debug)]
pub struct Subscribed(());

/// Counts a subscription that stands.
pub fn subscribed() -> Subscribed {
    gauge!(SUBSCRIPTIONS).set((STANDING.fetch_add(1, Ordering::Relaxed) + 1) as f64);
    Subscribed(())
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        gauge!(SUBSCRIPTIONS).set(STANDING.fetch_sub(1, Ordering::Relaxed).saturating_sub(1) as f64);
    }
}

/// Subscriptions that stand now.
pub fn subscriptions() -> usize {
    STANDING.load(Ordering::Relaxed)
}

/// Says why the gate is closed, of the reasons that there are.
pub fn gate_closed(reasons: impl Iterator<Item = (&'static str, bool)>) {
    for (reason, is) in reasons {
        gauge!(GATE_CLOSED, "reason" => reason).set(if is { 1.0 } else { 0.0 });
    }
}
