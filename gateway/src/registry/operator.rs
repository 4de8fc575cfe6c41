//! What the gateway's operator does through the control socket. The root's key is not here: agencies and officers come
//! as statements that the root signed elsewhere.

use super::agency::{self, Agency, Statement};
use super::agent::Agent;
use super::entry::Entry;
use super::error::{Refusal, RegistryError};
use super::fact::{Actor, Fact};
use super::grant::Grant;
use super::invitation;
use super::officer;
use super::paper::Paper;
use super::port::Update;
use super::record;
use super::service::{Cursor, Found, Registry, Tx, expect, grant_update, retried};
use super::stop::{Selector, Stop};
use super::{text, views};
use crate::state::{Expect, Filter, Kind, LIST_MAX};
use lingqu_certs::document::Opened;
use lingqu_certs::invitation::Invitation as InvitationLine;
use lingqu_certs::root::open_as_root;
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::documents::{AgencyBody, Body, OfficerBody};
use lingqu_protocol::dsse::Envelope;
use lingqu_protocol::host::Timestamp;
use serde_json::{Value, json};

/// How long an invitation may be open: one that lies around longer is a key that lies around.
pub const INVITATION_TTL_MS_MAX: i64 = 30 * 24 * 60 * 60 * 1000;

impl Registry {
    /// Takes the root's statement of an agency.
    ///
    /// # Errors
    /// What is wrong with the statement; ours.
    pub async fn agency_add(&self, envelope: &Envelope) -> Result<Value, RegistryError> {
        retried!(self, {
            let now = self.clock.wall();
            let opened = match self.open_statement::<AgencyBody>(envelope, now).await? {
                Statements::Seen(answer) => return Ok(answer),
                Statements::New(opened) => opened,
            };
            let body = &opened.document.body;
            if let Some(parent) = &body.parent {
                let known: Option<Found<Agency>> = self.find(parent).await?;
                known.ok_or_else(|| Refusal::not_found("agency", parent))?;
            }
            let current: Option<Found<Agency>> = self.find(&body.code).await?;
            let issued_at = Timestamp(opened.document.issued_at);
            let by = Statement { document: opened.document.id, digest: opened.digest, issued_at };
            let (next, fact) = agency::state(current.as_ref().map(|c| &c.thing), body, by, now)?;
            let mut tx = Tx::default();
            tx.put(&next, expect(current.as_ref()), now)?;
            let answer = views::agency(&next);
            tx.publish(Update::Agency(next));
            self.finish_statement(tx, &opened, envelope, &fact, answer, now).await
        })
    }

    /// Takes the root's statement of an officer.
    ///
    /// # Errors
    /// What is wrong with the statement; ours.
    pub async fn officer_add(&self, envelope: &Envelope) -> Result<Value, RegistryError> {
        retried!(self, {
            let now = self.clock.wall();
            let opened = match self.open_statement::<OfficerBody>(envelope, now).await? {
                Statements::Seen(answer) => return Ok(answer),
                Statements::New(opened) => opened,
            };
            let body = &opened.document.body;
            let known: Option<Found<Agency>> = self.find(&body.agency).await?;
            known.ok_or_else(|| Refusal::not_found("agency", &body.agency))?;
            let key: lingqu_certs::key::PublicKey =
                body.key.parse().map_err(|_| Refusal::Spec { what: "key", problem: "not a public key".into() })?;
            let keyid = key.key_id().to_string();
            let current: Option<Found<officer::Officer>> = self.find(&keyid).await?;
            let standing = current.as_ref().map(|c| &c.thing);
            let (next, fact) = officer::state(standing, body, opened.document.id, opened.digest, now)?;
            let mut tx = Tx::default();
            tx.put(&next, expect(current.as_ref()), now)?;
            let answer = json!({ "id": keyid, "agency": body.agency, "name": body.name, "role": body.role });
            self.finish_statement(tx, &opened, envelope, &fact, answer, now).await
        })
    }

    /// Invites an agent; the line that it joins with. An agent that lost its key is invited again.
    ///
    /// # Errors
    /// No such agency, a stop, a time that is too long; ours.
    pub async fn invite(&self, agent: &AgentId, ttl_ms: i64) -> Result<Value, RegistryError> {
        if !(1..=INVITATION_TTL_MS_MAX).contains(&ttl_ms) {
            let problem = "must be above nothing and at most 30 days".to_owned();
            return Err(Refusal::Text { what: "the time that an invitation is open", problem }.into());
        }
        let identity = self.identity();
        retried!(self, {
            let now = self.clock.wall();
            self.agency(agent.agency).await?;
            let ours = |e: &dyn std::fmt::Display| RegistryError::Ours(e.to_string());
            let line = InvitationLine::new(&identity.address, &identity.domain, self.ca.digest(), &*self.entropy)
                .map_err(|e| ours(&e))?;
            let key = line.key().map_err(|e| ours(&e))?.public();
            let expires_at = now.plus_ms(ttl_ms);
            let (invitation, fact) = invitation::invite(key, agent.clone(), now, expires_at);
            let mut tx = Tx::default();
            tx.put(&invitation, Expect::Absent, now)?;
            self.record(&mut tx, &fact, &Actor::Operator, now)?;
            self.commit(tx).await?;
            self.remember(&invitation, now);
            Ok(json!({ "id": agent.to_string(), "invitation": line.to_string(),
                "expires_at": expires_at.to_rfc3339() }))
        })
    }

    /// 临时阻断: stops at once. The gate acts first; where the commit fails it stays stopped until this process ends.
    ///
    /// # Errors
    /// A bad reason, or an agent that is not there; ours.
    pub async fn stop(&self, selector: &Selector, reason: &str) -> Result<Value, RegistryError> {
        let reason = text::reason(reason)?;
        let stop = Stop { selector: selector.clone(), reason: reason.clone(), since: self.clock.wall() };
        match selector {
            Selector::Agent(id) => {
                let unknown = || Refusal::not_found("agent", &id.to_string());
                let agent: Found<Agent> = self.find(&id.to_string()).await?.ok_or_else(unknown)?;
                if let Some((blocked, _)) = agent.thing.block(&reason, stop.since) {
                    self.gate.publish(vec![Update::Agent(blocked)]);
                }
            }
            // Whether it exists is not asked: what is stopped before it exists stays stopped.
            _ => self.gate.publish(vec![Update::Stop(stop)]),
        }
        retried!(self, {
            let now = self.clock.wall();
            let mut tx = Tx::default();
            let fact = if let Selector::Agent(id) = selector {
                let unknown = || Refusal::not_found("agent", &id.to_string());
                let agent: Found<Agent> = self.find(&id.to_string()).await?.ok_or_else(unknown)?;
                agent.thing.block(&reason, now).map(|(next, fact)| (Written::Agent(next), agent.expect, fact))
            } else {
                let current: Option<Found<Stop>> = self.find(&selector.to_string()).await?;
                if let Some(standing) = &current {
                    // Its reason is the one that was recorded.
                    self.gate.publish(vec![Update::Stop(standing.thing.clone())]);
                }
                let made = Stop::make(current.as_ref().map(|c| &c.thing), selector, &reason, now)?;
                made.map(|(next, fact)| (Written::Stop(next), Expect::Absent, fact))
            };
            if let Some((written, expected, fact)) = fact {
                match written {
                    Written::Agent(agent) => {
                        tx.put(&agent, expected, now)?;
                        tx.publish(Update::Agent(agent));
                    }
                    Written::Stop(stop) => {
                        tx.put(&stop, expected, now)?;
                        tx.publish(Update::Stop(stop));
                    }
                }
                self.record(&mut tx, &fact, &Actor::Operator, now)?;
                self.commit(tx).await?;
            }
            Ok(json!({ "id": selector.to_string(), "status": "stopped" }))
        })
    }

    /// Lifts a stop.
    ///
    /// # Errors
    /// Nothing stopped, a bad reason; ours.
    pub async fn resume(&self, selector: &Selector, reason: &str) -> Result<Value, RegistryError> {
        let reason = text::reason(reason)?;
        retried!(self, {
            let now = self.clock.wall();
            let mut tx = Tx::default();
            let fact = if let Selector::Agent(id) = selector {
                let unknown = || Refusal::not_found("agent", &id.to_string());
                let agent: Found<Agent> = self.find(&id.to_string()).await?.ok_or_else(unknown)?;
                let (next, fact) = agent.thing.unblock(&reason)?;
                tx.put(&next, agent.expect, now)?;
                tx.publish(Update::Agent(next));
                fact
            } else {
                let current: Option<Found<Stop>> = self.find(&selector.to_string()).await?;
                let fact = Stop::lift(current.as_ref().map(|c| &c.thing), selector, &reason)?;
                tx.delete(Kind::Stop, selector.to_string(), expect(current.as_ref()));
                tx.publish(Update::Resume(selector.clone()));
                fact
            };
            self.record(&mut tx, &fact, &Actor::Operator, now)?;
            self.commit(tx).await?;
            Ok(json!({ "id": selector.to_string(), "status": "resumed" }))
        })
    }

    /// A page of all agencies after `after`, with where the next starts.
    ///
    /// # Errors
    /// Ours.
    pub async fn agencies(&self, after: &str) -> Result<(Vec<Value>, String), RegistryError> {
        let after = (!after.is_empty()).then_some(after);
        let page = self.state.list(Kind::Agency, Filter::default(), after, LIST_MAX).await?;
        let next = if page.len() < LIST_MAX as usize { None } else { page.last().map(|r| r.id.clone()) };
        let agencies = page.iter().map(record::thing::<Agency>);
        let agencies = agencies.map(|agency| Ok(views::agency(&agency?))).collect::<Result<_, RegistryError>>()?;
        Ok((agencies, next.unwrap_or_default()))
    }

    /// What is stopped: at most one page of it.
    ///
    /// # Errors
    /// Ours.
    pub async fn stops(&self) -> Result<Vec<Value>, RegistryError> {
        let page = self.state.list(Kind::Stop, Filter::default(), None, LIST_MAX).await?;
        let view = |stop: Stop| {
            json!({ "id": stop.selector.to_string(), "reason": stop.reason,
            "since": stop.since.to_rfc3339() })
        };
        page.iter().map(|record| Ok(view(record::thing(record)?))).collect()
    }

    /// Looks whether the root signed every agency and officer that stands here, and whether every entry and grant can be
    /// read; says what is stopped.
    ///
    /// # Errors
    /// The first thing that is damaged; ours.
    pub async fn check(&self) -> Result<Value, RegistryError> {
        let everything = Filter::default();
        let (mut agencies, mut officers, mut entries, mut grants) = (0u64, 0u64, 0u64, 0u64);
        let mut pages = Cursor::default();
        while let Some(page) = self.next_page::<Agency>(&everything, &mut pages).await? {
            for agency in page {
                self.agency(agency.code).await?;
                agencies += 1;
            }
        }
        let mut pages = Cursor::default();
        while let Some(page) = self.next_page::<officer::Officer>(&everything, &mut pages).await? {
            for officer in page {
                self.officer(&officer.key.key_id().to_string()).await?;
                officers += 1;
            }
        }
        let mut pages = Cursor::default();
        while let Some(page) = self.next_page::<Entry>(&everything, &mut pages).await? {
            for entry in page {
                self.entry_update(&entry).await?;
                entries += 1;
            }
        }
        let mut pages = Cursor::default();
        while let Some(page) = self.next_page::<Grant>(&everything, &mut pages).await? {
            for grant in page {
                grant_update(grant)?;
                grants += 1;
            }
        }
        let identity = self.identity();
        Ok(json!({
            "id": identity.gateway,
            "status": "good",
            "domain": identity.domain,
            "root": identity.root.to_string(),
            "agencies": agencies,
            "officers": officers,
            "entries": entries,
            "grants": grants,
            "stops": self.stops().await?,
        }))
    }

    /// Opens a statement of the root, or finds the answer that it got before.
    async fn open_statement<B: Body>(
        &self,
        envelope: &Envelope,
        now: Timestamp,
    ) -> Result<Statements<B>, RegistryError> {
        let identity = self.identity();
        let opened: Opened<B> = open_as_root(envelope, &identity.root, identity.gateway, now)
            .map_err(|e| Refusal::Document(e.to_string()))?;
        let id = opened.document.id;
        match self.find::<Paper>(&id.to_string()).await? {
            Some(paper) if paper.thing.digest == opened.digest => Ok(Statements::Seen(paper.thing.answer)),
            Some(_) => Err(Refusal::DocumentReused(id.to_string()).into()),
            None => Ok(Statements::New(opened)),
        }
    }

    async fn finish_statement<B: Body>(
        &self,
        mut tx: Tx,
        opened: &Opened<B>,
        envelope: &Envelope,
        fact: &Fact,
        answer: Value,
        now: Timestamp,
    ) -> Result<Value, RegistryError> {
        let paper = Paper {
            id: opened.document.id,
            digest: opened.digest,
            envelope: envelope.clone(),
            agency: None,
            taken_at: now,
            answer: answer.clone(),
        };
        tx.put(&paper, Expect::Absent, now)?;
        self.record(&mut tx, fact, &Actor::Operator, now)?;
        self.commit(tx).await?;
        Ok(answer)
    }
}

enum Statements<B> {
    New(Opened<B>),
    Seen(Value),
}

enum Written {
    Agent(Agent),
    Stop(Stop),
}
