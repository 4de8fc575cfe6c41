//! From what was seen to what follows: the one task that reads the queue, judges, and hands what is suspected to the
//! registry, which cuts as it would for a person.

use super::history::{Histories, Kept};
use super::observation::{Observation, Who};
use super::queue::{Observed, Seen, Sight};
use super::rules::joining::{self, Terms};
use super::rules::{self, Subject, Suspicion};
use super::thresholds::Thresholds;
use crate::gate::{Gate, Grant, GrantStatus};
use crate::metrics;
use crate::registry::finding::{Evidence, Finding, FindingStatus, Shown, Suspected};
use crate::registry::{Registry, RegistryError};
use crate::state::{Change, Draft, Expect, Filter, Kind, State, StateError, Write};
use lingqu_protocol::agency::{AgentId, CreditCode};
use lingqu_protocol::host::{Clock, Timestamp};
use lingqu_protocol::ids::{EntryId, FindingId, GrantId};
use lingqu_protocol::misuse::{Action, Rule};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Observations that are judged at a time, before the watch looks at its clock again.
const AT_A_TIME: usize = 256;

/// Findings in an hour over all agencies: more than people look at in a year of days. What is over it is counted and
/// logged, and a cut among it is made all the same.
const FINDINGS_AN_HOUR_MAX: u32 = 500;

/// Between two looks at what is due.
const DUE_EVERY_MS: i64 = 1_000;

/// How often an open finding is written again while its rule goes on speaking.
const AGAIN_EVERY_MS: i64 = 60_000;

/// Findings that are kept apart while they are open, and for a while after they ended.
const KEYS_MAX: usize = 16_384;

/// An hour and a day.
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Where what is usual is kept: a setting for each agent.
const KEPT_PARENT: &str = "misuse";

/// The watch over misuse.
pub struct Watch {
    parts: WatchParts,
    observed: Observed,
    histories: Histories,
    cases: HashMap<Case, Standing>,
    hour: (i64, u32),
    due_at: Timestamp,
    /// When it was last said that observations were dropped.
    said: Seen,
}

/// What the watch stands on.
pub struct WatchParts {
    /// Findings and cuts.
    pub registry: Arc<Registry>,
    /// What is in force: whose grant, whose entry.
    pub gate: Arc<Gate>,
    /// What is usual, over restarts.
    pub state: Arc<dyn State>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// When rules speak.
    pub thresholds: Thresholds,
}

/// What a finding is about: the same again is the same finding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Case {
    rule: Rule,
    agency: CreditCode,
    agent: Option<AgentId>,
    grant: Option<GrantId>,
    /// The other grant and the provider that is told, where two join.
    other: Option<String>,
}

impl Case {
    fn of(suspected: &Suspected) -> Self {
        let joined = suspected.evidence.shown.first().filter(|_| suspected.rule == Rule::Joining);
        Self {
            rule: suspected.rule,
            agency: suspected.agency,
            agent: suspected.agent.clone(),
            grant: suspected.grant,
            other: joined.map(|shown| format!("{} {:?}", shown.what, suspected.provider)),
        }
    }
}

/// How a case stands.
#[derive(Clone, Debug)]
enum Standing {
    Open {
        finding: FindingId,
        expires_at: Option<Timestamp>,
        written_at: Timestamp,
        again: u64,
    },
    /// It was lifted; until then the rule does not cut the same again.
    Quiet {
        until: Timestamp,
    },
}

impl Watch {
    /// A watch that has seen nothing yet but what is open and what was kept.
    ///
    /// # Errors
    /// The state's.
    pub async fn begin(parts: WatchParts, observed: Observed) -> Result<Self, RegistryError> {
        let mut watch = Self {
            parts,
            observed,
            histories: Histories::default(),
            cases: HashMap::new(),
            hour: (0, 0),
            due_at: Timestamp(0),
            said: Seen::default(),
        };
        for finding in watch.parts.registry.open_findings().await? {
            watch.keep_open(&finding);
        }
        watch.restore().await.map_err(RegistryError::State)?;
        Ok(watch)
    }

    /// How well it sees.
    pub fn sight(&self) -> Arc<Sight> {
        Arc::clone(&self.observed.sight)
    }

    /// Watches for ever.
    pub async fn run(mut self) {
        let left_out = self.parts.thresholds.left_out();
        if !left_out.is_empty() {
            let codes: Vec<&str> = left_out.iter().map(|rule| rule.code()).collect();
            tracing::warn!(rules = codes.join(" "), "these rules over misuse do not work: config.toml leaves them out");
        }
        let sample = Duration::from_secs(self.parts.thresholds.sample_seconds.into());
        let mut samples = tokio::time::interval(sample);
        samples.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seen = Vec::with_capacity(AT_A_TIME);
        loop {
            tokio::select! {
                count = self.observed.queue.recv_many(&mut seen, AT_A_TIME) => {
                    if count == 0 {
                        // Nobody is left who could see anything.
                        return;
                    }
                    for observation in seen.drain(..) {
                        self.judge(&observation).await;
                    }
                }
                Some(grant) = self.observed.changed.recv() => self.judge_grant(grant).await,
                _ = samples.tick(), if !self.parts.thresholds.rules.is_empty() => {
                    let clock = &self.parts.clock;
                    for observation in self.observed.sample(clock.wall(), clock.monotonic()) {
                        self.judge(&observation).await;
                    }
                }
                _ = tick.tick() => {}
            }
            self.look_at_the_clock().await;
        }
    }

    /// Judges everything that waits, and what is due.
    #[cfg(test)]
    async fn catch_up(&mut self) {
        while let Ok(observation) = self.observed.queue.try_recv() {
            self.judge(&observation).await;
        }
        while let Ok(grant) = self.observed.changed.try_recv() {
            self.judge_grant(grant).await;
        }
        self.due_at = Timestamp(0);
        self.look_at_the_clock().await;
    }

    async fn judge(&mut self, seen: &Observation) {
        let thresholds = &self.parts.thresholds;
        if thresholds.rules.is_empty() {
            // What nobody judges is not remembered either. Findings from before still end in their time.
            return;
        }
        let history = self.histories.record(seen, thresholds);
        let found: Vec<Suspicion> = rules::judge(history, seen, thresholds, seen.at).collect();
        for suspicion in found {
            self.suspect(&suspicion, None, seen.at).await;
        }
    }

    /// Whether a grant that was made or changed joins with others of its requester.
    async fn judge_grant(&mut self, (requester, grant): (CreditCode, GrantId)) {
        if !self.parts.thresholds.works(Rule::Joining) {
            return;
        }
        let snapshot = self.parts.gate.snapshot();
        let terms = |grant: &Grant| {
            let entry = snapshot.entry(&grant.entry)?;
            let ids = (grant.id, grant.entry, entry.provider);
            let scope = grant.scope.whole();
            let clear = scope.columns.iter().filter(|column| scope.is_in_clear(column));
            (*grant.status() == GrantStatus::InForce).then(|| Terms::new(ids, &entry.spec, clear))
        };
        let Some(own) = snapshot.grant(&requester, &grant).and_then(terms) else { return };
        let others: Vec<Terms> = snapshot.grants(&requester).filter(|g| g.id != grant).filter_map(terms).collect();
        let now = self.parts.clock.wall();
        let joined: Vec<_> = joining::judge(requester, &own, &others, now).collect();
        for (suspicion, providers) in joined {
            // Each provider whose data would be joined is told, and the authority with them.
            let mut told = providers.to_vec();
            told.dedup();
            for provider in told {
                self.suspect(&suspicion, Some(provider), now).await;
            }
        }
    }

    async fn suspect(&mut self, suspicion: &Suspicion, provider: Option<CreditCode>, now: Timestamp) {
        let Some(mut suspected) = self.suspected(suspicion, provider) else { return };
        let case = Case::of(&suspected);
        match self.cases.get_mut(&case) {
            Some(Standing::Open { finding, written_at, again, .. }) => {
                *again += 1;
                if now.0 - written_at.0 >= AGAIN_EVERY_MS {
                    let (id, times) = (*finding, std::mem::take(again));
                    *written_at = now;
                    if let Err(error) = self.parts.registry.suspect_again(id, times, suspected.evidence).await {
                        tracing::error!(%error, finding = %id, "a finding could not be written again");
                    }
                }
                return;
            }
            Some(Standing::Quiet { until }) if *until > now && suspected.action.cuts() => {
                suspected.action = Action::Warn;
            }
            _ => {}
        }
        if !self.may_find(now) && !suspected.action.cuts() {
            return;
        }
        self.open(suspected).await;
    }

    async fn open(&mut self, suspected: Suspected) {
        let (rule, action, observe_only) = (suspected.rule, suspected.action, suspected.observe_only);
        let confirm_ms = i64::from(self.parts.thresholds.confirm_within_hours) * HOUR_MS;
        let what = suspected.reason();
        match self.parts.registry.suspect(suspected, confirm_ms).await {
            Ok(finding) => {
                metrics::finding(rule.code(), if observe_only { "observed" } else { action.word() });
                let cut = finding.cut.as_ref().map(|cut| cut.selector.to_string());
                tracing::warn!(finding = %finding.id, rule = rule.code(), cut, observe_only, "suspected: {what}");
                self.keep_open(&finding);
            }
            Err(error) => {
                tracing::error!(%error, rule = rule.code(), "a finding could not be written; what it cut stays cut: {what}");
            }
        }
    }

    /// What a suspicion is for the registry: with the action that the configuration gives, and whose data it is.
    fn suspected(&self, suspicion: &Suspicion, provider: Option<CreditCode>) -> Option<Suspected> {
        let (action, observe_only) = rules::action(suspicion, &self.parts.thresholds);
        let (agent, agency) = match suspicion.who {
            Subject::Agent(who) => (Some(who.agent()?), who.agency()),
            Subject::Agency(agency) => (None, agency),
        };
        let snapshot = self.parts.gate.snapshot();
        let entry: Option<EntryId> = suspicion
            .entry
            .or_else(|| suspicion.grant.and_then(|grant| snapshot.grant(&agency, &grant).map(|grant| grant.entry)));
        let provider = provider.or_else(|| entry.and_then(|entry| snapshot.entry(&entry).map(|entry| entry.provider)));
        let evidence = &suspicion.evidence;
        Some(Suspected {
            rule: suspicion.rule,
            action,
            observe_only,
            agent,
            agency,
            grant: suspicion.grant,
            entry,
            provider,
            evidence: Evidence {
                text: evidence.text.clone(),
                text_zh: evidence.text_zh.clone(),
                counts: evidence.counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
                shown: evidence
                    .shown
                    .iter()
                    .map(|s| Shown {
                        at: s.at,
                        what: s.what.clone(),
                        outcome: s.outcome.clone(),
                        address: s.address.clone(),
                    })
                    .collect(),
                dropped: self.observed.sight.seen().dropped,
            },
        })
    }

    /// Counts against the hour's findings.
    fn may_find(&mut self, now: Timestamp) -> bool {
        let hour = now.0.div_euclid(HOUR_MS);
        if self.hour.0 != hour {
            self.hour = (hour, 0);
        }
        self.hour.1 += 1;
        if self.hour.1 == FINDINGS_AN_HOUR_MAX + 1 {
            tracing::error!("more than {FINDINGS_AN_HOUR_MAX} findings in this hour: the rest is not written down");
        }
        self.hour.1 <= FINDINGS_AN_HOUR_MAX
    }

    /// How long a finding that cut nothing stays open.
    fn open_ms_max(&self) -> i64 {
        i64::from(self.parts.thresholds.open_days) * DAY_MS
    }

    fn keep_open(&mut self, finding: &Finding) {
        let (expires_at, written_at) = (finding.expires_at(self.open_ms_max()), finding.last_at);
        if self.cases.len() >= KEYS_MAX {
            let now = self.parts.clock.wall();
            self.cases.retain(|_, standing| !matches!(standing, Standing::Quiet { until } if *until <= now));
        }
        let case = Case::of(&finding.suspected);
        if self.cases.len() < KEYS_MAX || self.cases.contains_key(&case) {
            let standing = Standing::Open { finding: finding.id, expires_at, written_at, again: 0 };
            self.cases.insert(case, standing);
        }
    }

    /// Open findings whose time is over: no other is looked for in the state.
    fn due(&self, now: Timestamp) -> Vec<FindingId> {
        let due = |standing: &Standing| match standing {
            Standing::Open { finding, expires_at: Some(at), .. } if *at <= now => Some(*finding),
            _ => None,
        };
        self.cases.values().filter_map(due).collect()
    }

    /// What people said meanwhile, what is due, and what is to be kept: about once a second.
    async fn look_at_the_clock(&mut self) {
        let now = self.parts.clock.wall();
        for finding in self.parts.registry.take_ended() {
            self.forget(&finding, now);
        }
        if now.0 - self.due_at.0 < DUE_EVERY_MS && now >= self.due_at {
            return;
        }
        self.due_at = now;
        for id in self.due(now) {
            match self.parts.registry.expire_finding(id, self.open_ms_max()).await {
                Ok(true) => tracing::warn!(finding = %id, "nobody confirmed it in time: it ended, and its cut with it"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, finding = %id, "a finding that is due could not be ended"),
            }
        }
        for finding in self.parts.registry.take_ended() {
            self.forget(&finding, now);
        }
        let open = self.cases.values().filter(|s| matches!(s, Standing::Open { .. })).count();
        metrics::misuse(open, self.histories.evicted());
        self.say_dropped();
        if let Err(error) = self.keep().await {
            tracing::error!(%error, "what is usual could not be kept; it is tried again after the next day");
        }
    }

    /// What ended is not open any more, and what was looked at does not count again.
    fn forget(&mut self, finding: &Finding, now: Timestamp) {
        if let Some(agent) = &finding.suspected.agent {
            self.histories.forgive(&Who::from(agent));
        }
        let quiet_ms = i64::from(self.parts.thresholds.quiet_hours) * HOUR_MS;
        // Who lifted it has looked. What ended unseen is cut again where it goes on.
        let looked_at = matches!(finding.status, FindingStatus::Lifted(_));
        let case = self.cases.iter().find_map(|(case, standing)| match standing {
            Standing::Open { finding: id, .. } if *id == finding.id => Some(case.clone()),
            _ => None,
        });
        let Some(case) = case else { return };
        if looked_at {
            self.cases.insert(case, Standing::Quiet { until: now.plus_ms(quiet_ms) });
        } else {
            self.cases.remove(&case);
        }
    }

    fn say_dropped(&mut self) {
        let seen = self.observed.sight.seen();
        let lost = seen.dropped_since(self.said);
        if lost > 0 {
            let Seen { taken, dropped, .. } = seen;
            tracing::warn!(lost, taken, dropped, "observations were dropped: findings may be missing");
            self.said = seen;
        }
    }

    async fn keep(&mut self) -> Result<(), StateError> {
        let now = self.parts.clock.wall();
        for (who, kept) in self.histories.take_changed() {
            let Some(agent) = who.agent() else { continue };
            let body = serde_json::to_vec(&kept).map_err(|e| StateError::Damaged(e.to_string()))?;
            let draft = Draft {
                kind: Kind::Setting,
                id: format!("{KEPT_PARENT}/{agent}"),
                agency: None,
                parent: Some(KEPT_PARENT.to_owned()),
                body,
                changed_at: now,
            };
            let writes = vec![Write::Put(draft, Expect::Any)];
            self.parts.state.commit(Change { writes, ..Change::default() }).await?;
        }
        Ok(())
    }

    async fn restore(&mut self) -> Result<(), StateError> {
        let filter = Filter { parent: Some(KEPT_PARENT.to_owned()), ..Filter::default() };
        let mut after: Option<String> = None;
        loop {
            let page = self.parts.state.list(Kind::Setting, filter.clone(), after.as_deref(), 1000).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id.clone());
            for record in &page {
                let agent = record.id.strip_prefix("misuse/").and_then(|id| id.parse::<AgentId>().ok());
                let kept = serde_json::from_slice::<Kept>(&record.body).ok();
                // One that cannot be read is one agent whose days are counted anew.
                match agent.zip(kept) {
                    Some((agent, kept)) => self.histories.restore(Who::from(&agent), kept),
                    None => tracing::warn!(id = %record.id, "what is usual for an agent could not be read"),
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
