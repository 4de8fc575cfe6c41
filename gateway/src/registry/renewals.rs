//! Renewal with an expired certificate: the operator approves it for one agent, and that agent renews, once.

use super::agent::Agent;
use super::error::{Refusal, RegistryError};
use super::fact::Actor;
use super::people::Certified;
use super::port::Update;
use super::record;
use super::renewal::{Renewal, RenewalStatus, approve};
use super::service::{Found, Registry, Tx, expect, retried};
use super::stop::Selector;
use crate::state::{Filter, Kind, LIST_MAX};
use lingqu_certs::key::PublicKey;
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::host::Timestamp;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// How long an approval may be open: the machine is on, or its operator would not ask; a week covers a holiday.
pub const RENEWAL_TTL_MS_MAX: i64 = 7 * 24 * 60 * 60 * 1000;

/// Approvals that are open, for the handshake: it asks for every certificate of this CA that has expired.
#[derive(Debug, Default)]
pub struct OpenRenewals(RwLock<HashMap<AgentId, (Digest, Timestamp)>>);

impl OpenRenewals {
    /// Whether this agent is let in now with an expired certificate on this key, for `renew` alone.
    pub fn is_open(&self, agent: &AgentId, key: &PublicKey, now: Timestamp) -> bool {
        let open = self.0.read().unwrap_or_else(PoisonError::into_inner);
        open.get(agent).is_some_and(|(approved, until)| *approved == digest(key) && now <= *until)
    }

    pub(super) fn open(&self, renewal: &Renewal, now: Timestamp) {
        let mut open = self.0.write().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, (_, until)| now <= *until);
        open.insert(renewal.agent.clone(), (renewal.key, renewal.expires_at));
    }

    pub(super) fn close(&self, agent: &AgentId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(agent);
    }
}

/// How the registry names a key.
fn digest(key: &PublicKey) -> Digest {
    Digest::sha256(key.as_bytes())
}

impl Registry {
    /// Approves that an agent renews with its expired certificate, once, within `ttl_ms`. For the key that the agent was
    /// certified for last, and no other.
    ///
    /// # Errors
    /// No such agent, a stop, a time that is too long; ours.
    pub async fn approve_renewal(&self, agent: &AgentId, ttl_ms: i64) -> Result<Value, RegistryError> {
        if !(1..=RENEWAL_TTL_MS_MAX).contains(&ttl_ms) {
            let problem = "must be above nothing and at most 7 days".to_owned();
            return Err(Refusal::Text { what: "the time that an approval is open", problem }.into());
        }
        retried!(self, {
            let now = self.clock.wall();
            self.participant(agent).await?;
            self.not_stopped(&[Selector::Agent(agent.clone())]).await?;
            let unknown = || Refusal::not_found("agent", &agent.to_string());
            let known: Found<Agent> = self.find(&agent.to_string()).await?.ok_or_else(unknown)?;
            let damaged = || RegistryError::Damaged(format!("agent {agent} has no certificate"));
            let last = known.thing.certificates.last().ok_or_else(damaged)?;
            let current: Option<Found<Renewal>> = self.find(&agent.to_string()).await?;
            let (renewal, fact) = approve(agent.clone(), last.key, now, now.plus_ms(ttl_ms));
            let mut tx = Tx::default();
            tx.put(&renewal, expect(current.as_ref()), now)?;
            self.record(&mut tx, &fact, &Actor::Operator, now)?;
            self.commit(tx).await?;
            self.renewals().open(&renewal, now);
            let mut answer = view(&renewal, now);
            answer["certificate_until"] = json!(last.not_after.to_rfc3339());
            Ok(answer)
        })
    }

    /// Withdraws an open approval. The handshake hears of it first.
    ///
    /// # Errors
    /// None is open; ours.
    pub async fn withdraw_renewal(&self, agent: &AgentId) -> Result<Value, RegistryError> {
        self.renewals().close(agent);
        retried!(self, {
            let now = self.clock.wall();
            let none = || Refusal::not_found("open renewal", &agent.to_string());
            let current: Found<Renewal> = self.find(&agent.to_string()).await?.ok_or_else(none)?;
            let (closed, fact) = current.thing.withdraw(now).ok_or_else(none)?;
            let mut tx = Tx::default();
            tx.put(&closed, current.expect, now)?;
            self.record(&mut tx, &fact, &Actor::Operator, now)?;
            self.commit(tx).await?;
            Ok(view(&closed, now))
        })
    }

    /// A page of approvals after `after`, with where the next starts: the latest of each agent.
    ///
    /// # Errors
    /// Ours.
    pub async fn list_renewals(&self, after: &str) -> Result<(Vec<Value>, String), RegistryError> {
        let now = self.clock.wall();
        self.page(Kind::Renewal, after, |renewal: Renewal| view(&renewal, now)).await
    }

    /// A page of agents after `after`, with where the next starts.
    ///
    /// # Errors
    /// Ours.
    pub async fn agents(&self, after: &str) -> Result<(Vec<Value>, String), RegistryError> {
        let view = |agent: Agent| {
            json!({
                "id": agent.id.to_string(),
                "status": agent.status.word(),
                "joined_at": agent.joined_at.to_rfc3339(),
                "certificate_until": agent.certificates.last().map(|c| c.not_after.to_rfc3339()),
            })
        };
        self.page(Kind::Agent, after, view).await
    }

    async fn page<T: record::Stored>(
        &self,
        kind: Kind,
        after: &str,
        view: impl Fn(T) -> Value,
    ) -> Result<(Vec<Value>, String), RegistryError> {
        let after = (!after.is_empty()).then_some(after);
        let page = self.state.list(kind, Filter::default(), after, LIST_MAX).await?;
        let next = if page.len() < LIST_MAX as usize { None } else { page.last().map(|r| r.id.clone()) };
        let views = page.iter().map(|r| Ok(view(record::thing(r)?))).collect::<Result<_, RegistryError>>()?;
        Ok((views, next.unwrap_or_default()))
    }

    /// Another certificate for an agent whose certificate has expired, for the key that its connection proved to hold,
    /// under an open approval. That key must still be the one that it was certified for last.
    ///
    /// # Errors
    /// [`Refusal::RenewalClosed`], [`Refusal::Csr`], [`Refusal::Stopped`], or ours.
    pub async fn renew_expired(
        &self,
        peer: &AgentId,
        key: &PublicKey,
        csr_der: &[u8],
    ) -> Result<Certified, RegistryError> {
        retried!(self, {
            let now = self.clock.wall();
            self.participant(peer).await?;
            let unknown = || Refusal::not_found("agent", &peer.to_string());
            let current: Found<Agent> = self.find(&peer.to_string()).await?.ok_or_else(unknown)?;
            let none = || Refusal::RenewalClosed("nothing was approved");
            let approved: Found<Renewal> = self.find(&peer.to_string()).await?.ok_or_else(none)?;
            if current.thing.certificates.last().is_none_or(|last| last.key != digest(key)) {
                return Err(Refusal::RenewalClosed("this agent was certified for another key since").into());
            }
            let (chain_der, issued) = self.certificate(peer, csr_der, now)?;
            if issued.key != digest(key) {
                return Err(Refusal::Csr("it is for another key than the expired certificate's".into()).into());
            }
            let (used, fact) = approved.thing.redeem(digest(key), issued.fingerprint, now)?;
            let (agent, _) = current.thing.renew(issued)?;
            let mut tx = Tx::default();
            tx.put(&used, approved.expect, now)?;
            tx.put(&agent, current.expect, now)?;
            self.record(&mut tx, &fact, &Actor::Agent(peer.clone()), now)?;
            tx.publish(Update::Agent(agent));
            self.commit(tx).await?;
            self.renewals().close(peer);
            Ok(Certified { agent: peer.clone(), chain_der })
        })
    }

    /// Closes an open approval of an agent that joins anew: its expired certificate is of no use to it any more.
    pub(super) async fn close_renewal(
        &self,
        tx: &mut Tx,
        agent: &AgentId,
        now: Timestamp,
    ) -> Result<(), RegistryError> {
        let current: Option<Found<Renewal>> = self.find(&agent.to_string()).await?;
        if let Some(current) = current
            && let Some((closed, _)) = current.thing.withdraw(now)
        {
            tx.put(&closed, current.expect, now)?;
        }
        Ok(())
    }
}

fn view(renewal: &Renewal, now: Timestamp) -> Value {
    let at = match renewal.status {
        RenewalStatus::Open => None,
        RenewalStatus::Used { at, .. } | RenewalStatus::Withdrawn { at } => Some(at.to_rfc3339()),
    };
    json!({
        "id": renewal.agent.to_string(),
        "status": renewal.word(now),
        "approved_at": renewal.approved_at.to_rfc3339(),
        "expires_at": renewal.expires_at.to_rfc3339(),
        "closed_at": at,
    })
}
