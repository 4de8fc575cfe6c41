//! The one path of a cut, a person's and a rule's: the gate first, then what is written, in whatever transaction it belongs
//! to. Where the transaction fails it stays cut.

use super::agent::{Agent, AgentStatus};
use super::error::{Refusal, RegistryError};
use super::fact::{Act, Actor, Fact};
use super::port::Update;
use super::service::{Found, Registry, Tx, expect};
use super::stop::{ByRule, Selector, Stop};
use crate::state::Kind;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::FindingId;

impl Registry {
    /// Cuts at the gate, before anything is written. Nothing is asked of the state but for an agent, whose record says
    /// whether it exists.
    pub(super) async fn cut_first(&self, stop: &Stop) -> Result<(), RegistryError> {
        let update = match &stop.selector {
            Selector::Agent(id) => {
                let agent: Found<Agent> = self.agent_of(&id.to_string()).await?;
                agent.thing.block(&stop.reason, stop.by_rule, stop.since).map(|(blocked, _)| Update::Agent(blocked))
            }
            // Whether it exists is not asked: what is stopped before it exists stays stopped.
            _ => Some(Update::Stop(stop.clone())),
        };
        if let Some(update) = update {
            self.gate.publish(vec![update]);
        }
        Ok(())
    }

    /// Writes a cut into a change. False where another one stands, whose reason is the one that counts.
    pub(super) async fn cut_into(&self, tx: &mut Tx, stop: &Stop, by: &Actor) -> Result<bool, RegistryError> {
        let now = stop.since;
        let fact = if let Selector::Agent(id) = &stop.selector {
            let agent: Found<Agent> = self.agent_of(&id.to_string()).await?;
            let Some((next, fact)) = agent.thing.block(&stop.reason, stop.by_rule, now) else { return Ok(false) };
            tx.put(&next, agent.expect, now)?;
            tx.publish(Update::Agent(next));
            fact
        } else {
            let current: Option<Found<Stop>> = self.find(&stop.selector.to_string()).await?;
            let standing = current.as_ref().map(|c| &c.thing);
            let Some((next, fact)) = Stop::make(standing, &stop.selector, &stop.reason, stop.by_rule, now)? else {
                if let Some(standing) = standing {
                    // Its reason is the one that was recorded.
                    self.gate.publish(vec![Update::Stop(standing.clone())]);
                }
                return Ok(false);
            };
            tx.put(&next, expect(current.as_ref()), now)?;
            tx.publish(Update::Stop(next));
            fact
        };
        self.record(tx, &fact, by, now)?;
        Ok(true)
    }

    /// Writes the end of a rule's cut into a change; a stop that a person has taken over stays.
    pub(super) async fn release_into(
        &self,
        tx: &mut Tx,
        (finding, selector): (FindingId, &Selector),
        reason: &str,
        by: &Actor,
        now: Timestamp,
    ) -> Result<(), RegistryError> {
        let of = |by_rule: Option<ByRule>| by_rule.is_some_and(|by| by.finding == finding);
        let fact = if let Selector::Agent(id) = selector {
            let agent: Found<Agent> = self.agent_of(&id.to_string()).await?;
            match agent.thing.status {
                AgentStatus::Blocked { by_rule, .. } if of(by_rule) => {}
                _ => return Ok(()),
            }
            let (next, fact) = agent.thing.unblock(reason)?;
            tx.put(&next, agent.expect, now)?;
            tx.publish(Update::Agent(next));
            fact
        } else {
            let current: Option<Found<Stop>> = self.find(&selector.to_string()).await?;
            let Some(standing) = current.filter(|c| of(c.thing.by_rule)) else { return Ok(()) };
            tx.delete(Kind::Stop, selector.to_string(), standing.expect);
            tx.publish(Update::Resume(selector.clone()));
            Fact::new(Act::Resumed, selector, selector.agency()).because(reason)
        };
        self.record(tx, &fact, by, now)
    }

    /// Writes into a change that a rule's cut needs no word any more.
    pub(super) async fn settle_into(
        &self,
        tx: &mut Tx,
        (finding, selector): (FindingId, &Selector),
        now: Timestamp,
    ) -> Result<(), RegistryError> {
        let settled = Some(ByRule { finding, confirm_by: None });
        if let Selector::Agent(id) = selector {
            let agent: Found<Agent> = self.agent_of(&id.to_string()).await?;
            let AgentStatus::Blocked { reason, at, by_rule: Some(by) } = &agent.thing.status else { return Ok(()) };
            if by.finding != finding {
                return Ok(());
            }
            let status = AgentStatus::Blocked { reason: reason.clone(), at: *at, by_rule: settled };
            let next = Agent { status, ..agent.thing.clone() };
            tx.put(&next, agent.expect, now)?;
            tx.publish(Update::Agent(next));
            return Ok(());
        }
        let current: Option<Found<Stop>> = self.find(&selector.to_string()).await?;
        if let Some(Found { thing, expect }) = current
            && thing.by_rule.is_some_and(|by| by.finding == finding)
        {
            let next = Stop { by_rule: settled, ..thing };
            tx.put(&next, expect, now)?;
            tx.publish(Update::Stop(next));
        }
        Ok(())
    }

    /// What stands behind a stop, where a rule made it.
    pub(super) async fn rule_behind(&self, selector: &Selector) -> Result<Option<ByRule>, RegistryError> {
        if let Selector::Agent(id) = selector {
            let agent: Found<Agent> = self.agent_of(&id.to_string()).await?;
            return Ok(match agent.thing.status {
                AgentStatus::Blocked { by_rule, .. } => by_rule,
                AgentStatus::Active => None,
            });
        }
        Ok(self.find::<Stop>(&selector.to_string()).await?.and_then(|stop| stop.thing.by_rule))
    }

    async fn agent_of(&self, id: &str) -> Result<Found<Agent>, RegistryError> {
        self.find(id).await?.ok_or_else(|| Refusal::not_found("agent", id).into())
    }
}
