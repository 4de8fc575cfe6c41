//! The gate behind the registry's port: how things of the registry look from there.

use super::agent::AgentStatus;
use super::grant::{GrantStatus, Rectification};
use super::port::{Publish, Update};
use super::stop::{ByRule, Selector};
use crate::gate::{self, AgencyView, AgentView, BackflowView, EntryView, Gate, GrantView, StopView};
use std::sync::Arc;

impl Publish for Gate {
    fn publish(&self, updates: Vec<Update>) {
        Self::publish(self, updates.into_iter().map(view).collect());
    }
}

fn view(update: Update) -> gate::Update {
    match update {
        Update::Agency(agency) => gate::Update::Agency(AgencyView {
            code: agency.code,
            name: agency.name,
            region: agency.region,
            level: agency.level,
            duties: agency.duties.into(),
            authority: agency.authority,
        }),
        Update::Agent(agent) => gate::Update::Agent(AgentView {
            id: agent.id,
            blocked: match agent.status {
                AgentStatus::Active => None,
                AgentStatus::Blocked { reason, by_rule, .. } => Some(ByRule::told(by_rule.as_ref(), &reason)),
            },
        }),
        Update::Entry(entry) => gate::Update::Entry(EntryView {
            id: entry.id,
            code: entry.code,
            provider: entry.provider,
            spec: entry.spec,
            published: entry.published,
        }),
        Update::Grant(grant, scope) => gate::Update::Grant(GrantView {
            id: grant.id,
            entry: grant.entry,
            requester: grant.requester,
            scope: Arc::clone(&scope),
            status: match grant.status {
                GrantStatus::InForce => gate::GrantStatus::InForce,
                GrantStatus::Suspended { reason, since, rectify, .. } => {
                    gate::GrantStatus::Suspended { reason: told(reason, rectify.as_ref()), since }
                }
                GrantStatus::Terminated { reason, since } => gate::GrantStatus::Terminated { reason, since },
            },
            digest: grant.answer,
        }),
        Update::Backflow(list) => gate::Update::Backflow(Arc::new(BackflowView {
            list: list.id,
            published_at: list.published_at,
            revoked: list.revoked.clone(),
            rows: list.list.rows.iter().cloned().zip(list.entries.iter().copied()).collect(),
            region_changes: list.list.region_changes.clone(),
        })),
        Update::Stop(stop) => gate::Update::Stop(StopView {
            selector: selector(&stop.selector),
            reason: ByRule::told(stop.by_rule.as_ref(), &stop.reason),
            since: stop.since,
        }),
        Update::Resume(stopped) => gate::Update::Resume(selector(&stopped)),
    }
}

/// A suspension's reason with what has to be put right by when, for whoever meets it.
fn told(reason: String, rectify: Option<&Rectification>) -> String {
    match rectify {
        Some(order) => format!("{reason}; rectify by 限期整改 {}: {}", order.by, order.reason),
        None => reason,
    }
}

fn selector(of: &Selector) -> gate::Selector {
    match of {
        Selector::Agency(code) => gate::Selector::Agency(*code),
        Selector::Agent(agent) => gate::Selector::Agent(agent.clone()),
        Selector::Entry(entry) => gate::Selector::Entry(*entry),
        Selector::Grant(grant) => gate::Selector::Grant(*grant),
        Selector::List(list) => gate::Selector::List(*list),
        Selector::All => gate::Selector::All,
    }
}
