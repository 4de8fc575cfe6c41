//! Agents come and stay: joining under an invitation, renewing over their own connection; and what an agency may do
//! without an officer's key: narrow.

use super::agent::{Agent, Issued};
use super::error::{Refusal, RegistryError};
use super::fact::Actor;
use super::grant::Grant;
use super::invitation::Invitation;
use super::port::Update;
use super::service::{Found, Registry, Tx, expect, grant_update, retried};
use super::stop::{Selector, Stop};
use super::text;
use lingqu_certs::ca::{CaError, Validity};
use lingqu_certs::chain;
use lingqu_certs::key::PublicKey;
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::host::Timestamp;
use serde_json::{Value, json};

/// A certificate for an agent.
#[derive(Clone, Debug)]
pub struct Certified {
    /// Who it names.
    pub agent: AgentId,
    /// The leaf, then the CA, each in DER.
    pub chain_der: Vec<Vec<u8>>,
}

impl Registry {
    /// A certificate for the key in a signing request, under the invitation whose key the peer proved to hold. The same
    /// key may ask again while the invitation is open.
    ///
    /// # Errors
    /// [`Refusal::Invitation`], [`Refusal::Csr`], [`Refusal::Stopped`], or ours.
    pub async fn join(&self, invitation: &[u8; 32], csr_der: &[u8]) -> Result<Certified, RegistryError> {
        let id = PublicKey::from_bytes(*invitation).key_id().to_string();
        retried!(self, {
            let now = self.clock.wall();
            let unknown = || Refusal::Invitation("is not known here");
            let invited: Found<Invitation> = self.find(&id).await?.ok_or_else(unknown)?;
            let agent_id = invited.thing.agent.clone();
            self.not_stopped(&[Selector::All, Selector::Agency(agent_id.agency)]).await?;
            self.agency(agent_id.agency).await?;
            let (chain_der, issued) = self.certificate(&agent_id, csr_der, now)?;
            let (used, fact) = invited.thing.redeem(issued.key, now)?;
            let current: Option<Found<Agent>> = self.find(&agent_id.to_string()).await?;
            let agent = Agent::join(current.as_ref().map(|c| &c.thing), &agent_id, issued)?;
            let mut tx = Tx::default();
            tx.put(&used, invited.expect, now)?;
            tx.put(&agent, expect(current.as_ref()), now)?;
            self.close_renewal(&mut tx, &agent_id, now).await?;
            self.record(&mut tx, &fact, &Actor::Agent(agent_id.clone()), now)?;
            tx.publish(Update::Agent(agent));
            self.commit(tx).await?;
            self.renewals().close(&agent_id);
            Ok(Certified { agent: agent_id, chain_der })
        })
    }

    /// Another certificate for an agent over its own connection.
    ///
    /// # Errors
    /// [`Refusal::Csr`], [`Refusal::Stopped`], or ours.
    pub async fn renew(&self, peer: &AgentId, csr_der: &[u8]) -> Result<Certified, RegistryError> {
        retried!(self, {
            let now = self.clock.wall();
            self.participant(peer).await?;
            let unknown = || Refusal::not_found("agent", &peer.to_string());
            let current: Found<Agent> = self.find(&peer.to_string()).await?.ok_or_else(unknown)?;
            let (chain_der, issued) = self.certificate(peer, csr_der, now)?;
            let (agent, fact) = current.thing.renew(issued)?;
            let mut tx = Tx::default();
            tx.put(&agent, current.expect, now)?;
            self.record(&mut tx, &fact, &Actor::Agent(peer.clone()), now)?;
            tx.publish(Update::Agent(agent));
            self.commit(tx).await?;
            Ok(Certified { agent: peer.clone(), chain_der })
        })
    }

    /// 暂停: suspends a grant at once, on the word of an agent of its provider or of the authority. The gate acts first;
    /// where the commit fails the grant stays cut, over a restart too (as a stop of the grant), and the error says so.
    ///
    /// # Errors
    /// Not there for this peer, not its provider, terminated already, a bad reason; or ours.
    pub async fn narrow(&self, peer: &AgentId, grant: &str, reason: &str) -> Result<Value, RegistryError> {
        let unknown = || Refusal::not_found("grant", grant);
        // Not asked whether the agency is stopped: what takes permission away is always let through.
        let agency = self.known(peer).await?;
        let suspended = |found: &Found<Grant>, now: Timestamp| {
            self.may_act(&found.thing, &agency)?;
            found.thing.suspend(agency.code, reason, now)
        };
        let first: Found<Grant> = self.find(grant).await?.ok_or_else(unknown)?;
        let cut = Stop {
            selector: Selector::Grant(first.thing.id),
            reason: text::reason(reason)?,
            since: self.clock.wall(),
            by_rule: None,
        };
        if let Some((next, _)) = suspended(&first, cut.since)? {
            self.gate.publish(vec![grant_update(next)?]);
        }
        let done = retried!(self, {
            let now = self.clock.wall();
            let current: Found<Grant> = self.find(grant).await?.ok_or_else(unknown)?;
            if let Some((next, fact)) = suspended(&current, now)? {
                let mut tx = Tx::default();
                tx.put(&next, current.expect, now)?;
                self.record(&mut tx, &fact, &Actor::Agent(peer.clone()), now)?;
                tx.publish(grant_update(next)?);
                self.commit(tx).await?;
            }
            Ok(json!({ "id": grant, "status": "suspended" }))
        });
        self.cut_recorded(done, cut)
    }

    pub(super) fn certificate(
        &self,
        agent: &AgentId,
        csr_der: &[u8],
        now: Timestamp,
    ) -> Result<(Vec<Vec<u8>>, Issued), RegistryError> {
        let validity = Validity::starting(now, self.identity().certificate_valid_ms);
        let chain = self.ca.sign_agent(csr_der, agent, validity, &*self.entropy).map_err(|e| match e {
            CaError::BadRequest(why) => Refusal::Csr(why).into(),
            other => RegistryError::Ours(other.to_string()),
        })?;
        let ours = || RegistryError::Ours("the CA made a certificate without a key".into());
        let leaf = chain.first().ok_or_else(ours)?;
        let key = chain::public_key(leaf).ok_or_else(ours)?;
        let issued =
            Issued { fingerprint: Digest::sha256(leaf), key: Digest::sha256(&key), at: now, not_after: validity.until };
        Ok((chain.iter().map(|der| der.to_vec()).collect(), issued))
    }
}
