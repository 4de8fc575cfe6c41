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
use super::stop::{self, Selector, Stop};
use super::{text, views};
use crate::state::{Expect, Filter, Kind, LIST_MAX};
use lingqu_certs::document::Opened;
use lingqu_certs::invitation::Invitation as InvitationLine;
use lingqu_certs::root::open_as_root;
use lingqu_protocol::agency::{AgentId, CreditCode};
use lingqu_protocol::documents::{AgencyBody, Body, FindingAct, OfficerBody};
use lingqu_protocol::dsse::Envelope;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::EntryId;
use serde_json::{Value, json};

/// How long an invitation may be open: one that lies around longer is a key that lies around.
pub const INVITATION_TTL_MS_MAX: i64 = 30 * 24 * 60 * 60 * 1000;

impl Registry {
    /// Takes the root's statement of an agency that is not here yet. Where one is that the statement says nothing new of,
    /// nothing happens.
    ///
    /// # Errors
    /// [`Refusal::AgencyExists`]; what is wrong with the statement; ours.
    pub async fn agency_add(&self, envelope: &Envelope) -> Result<Value, RegistryError> {
        self.agency_stated(envelope, false).await
    }

    /// Takes the root's statement of an agency over the one that stands, which it names as its predecessor.
    ///
    /// # Errors
    /// No such agency; [`Refusal::Predecessor`]; what is wrong with the statement; ours.
    pub async fn agency_change(&self, envelope: &Envelope) -> Result<Value, RegistryError> {
        self.agency_stated(envelope, true).await
    }

    async fn agency_stated(&self, envelope: &Envelope, changes: bool) -> Result<Value, RegistryError> {
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
            match (&current, changes) {
                (Some(standing), false) => {
                    let differs = standing.thing.differences(&next);
                    if differs.is_empty() {
                        return Ok(views::agency(&standing.thing));
                    }
                    return Err(Refusal::AgencyExists { code: body.code.clone(), differs: differs.join(", ") }.into());
                }
                (None, true) => return Err(Refusal::not_found("agency", &body.code).into()),
                (Some(standing), true) if opened.document.predecessor != Some(standing.thing.digest) => {
                    let expected = standing.thing.digest.to_string();
                    let found = opened.document.predecessor.map_or_else(|| "nothing".into(), |d| d.to_string());
                    return Err(Refusal::Predecessor { expected, found }.into());
                }
                _ => {}
            }
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

    /// The entry that has a code.
    ///
    /// # Errors
    /// The state's.
    pub async fn entry_of_code(&self, code: &str) -> Result<Option<EntryId>, RegistryError> {
        Ok(self.find_entry(code).await?.map(|entry| entry.id))
    }

    /// 临时阻断: stops at once. The gate acts first; where the commit fails it stays stopped, over a restart too.
    ///
    /// # Errors
    /// A bad reason, or an agent that is not there; ours, as [`RegistryError::Unrecorded`].
    pub async fn stop(&self, selector: &Selector, reason: &str) -> Result<Value, RegistryError> {
        let reason = text::reason(reason)?;
        let stop = Stop { selector: selector.clone(), reason, since: self.clock.wall(), by_rule: None };
        self.cut_first(&stop).await?;
        let done = retried!(self, {
            let mut tx = Tx::default();
            if self.cut_into(&mut tx, &stop, &Actor::Operator).await? {
                self.commit(tx).await?;
            }
            Ok(json!({ "id": selector.to_string(), "status": "stopped" }))
        });
        self.cut_recorded(done, stop)
    }

    /// Lifts a stop. One that a rule made is lifted with its finding.
    ///
    /// # Errors
    /// Nothing stopped, a finding that was confirmed, a bad reason; ours.
    pub async fn resume(&self, selector: &Selector, reason: &str) -> Result<Value, RegistryError> {
        let reason = text::reason(reason)?;
        if let Some(by) = self.rule_behind(selector).await? {
            let finding = self.say_of_finding(&by.finding.to_string(), FindingAct::Lift, &reason).await?;
            return Ok(json!({ "id": selector.to_string(), "status": "resumed", "finding": finding["id"] }));
        }
        retried!(self, {
            let now = self.clock.wall();
            let mut tx = Tx::default();
            let fact = if let Selector::Agent(id) = selector {
                let unknown = || Refusal::not_found("agent", &id.to_string());
                let agent: Found<Agent> = self.find(&id.to_string()).await?.ok_or_else(unknown)?;
                match agent.thing.unblock(&reason) {
                    Ok((next, fact)) => {
                        tx.put(&next, agent.expect, now)?;
                        tx.publish(Update::Agent(next));
                        fact
                    }
                    // Cut, and never recorded: the gate alone knows of it.
                    Err(_) if self.is_kept(selector) => {
                        tx.publish(Update::Agent(agent.thing));
                        stop::lifted(selector, &reason)
                    }
                    Err(refused) => return Err(refused.into()),
                }
            } else {
                let current: Option<Found<Stop>> = self.find(&selector.to_string()).await?;
                if current.is_none() && !self.is_kept(selector) {
                    return Err(Refusal::NotStopped(selector.to_string()).into());
                }
                if current.is_some() {
                    tx.delete(Kind::Stop, selector.to_string(), expect(current.as_ref()));
                }
                tx.publish(Update::Resume(selector.clone()));
                stop::lifted(selector, &reason)
            };
            self.record(&mut tx, &fact, &Actor::Operator, now)?;
            self.commit(tx).await?;
            self.forget_cut(selector);
            Ok(json!({ "id": selector.to_string(), "status": "resumed" }))
        })
    }

    /// One agency as it stands.
    ///
    /// # Errors
    /// Not there; ours.
    pub async fn agency_show(&self, code: CreditCode) -> Result<Value, RegistryError> {
        self.agency(code).await.map(|agency| views::agency(&agency))
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

    /// What is stopped: at most one page of it, and cuts that could not be recorded.
    ///
    /// # Errors
    /// Ours.
    pub async fn stops(&self) -> Result<Vec<Value>, RegistryError> {
        let page = self.state.list(Kind::Stop, Filter::default(), None, LIST_MAX).await?;
        let view = |stop: Stop| {
            json!({ "id": stop.selector.to_string(), "reason": stop.reason, "since": stop.since.to_rfc3339(),
                "finding": stop.by_rule.map(|by| by.finding),
                "confirm_by": stop.by_rule.and_then(|by| by.confirm_by).map(|by| by.to_rfc3339()) })
        };
        let mut stops =
            page.iter().map(|record| Ok(view(record::thing(record)?))).collect::<Result<Vec<_>, RegistryError>>()?;
        for cut in self.cuts.all() {
            let mut unrecorded = view(cut);
            unrecorded["unrecorded"] = json!(true);
            stops.push(unrecorded);
        }
        Ok(stops)
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
