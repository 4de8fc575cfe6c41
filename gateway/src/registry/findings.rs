//! Findings and standing orders at work: what a rule suspects becomes a finding with its cut, in one transaction; a person
//! confirms or lifts it; what nobody confirmed in time ends by itself.

use super::agency::Agency;
use super::error::{Refusal, RegistryError};
use super::fact::Actor;
use super::finding::{CutMade, Evidence, Finding, FindingStatus, Said, Suspected};
use super::order::StandingOrder;
use super::paper::Paper;
use super::record;
use super::service::{Cursor, Found, Registry, Tx, retried};
use super::stop::{ByRule, Stop};
use super::{text, views};
use crate::state::{Expect, Filter, Kind, LIST_MAX};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::{Document, FindingAct, StandingOrderBody};
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::FindingId;
use serde_json::Value;
use std::sync::PoisonError;

/// Findings that ended and that nobody has asked for yet: more than one look of the watch brings.
const ENDED_MAX: usize = 1024;

/// Who says something of a finding.
#[derive(Clone, Debug)]
pub(super) struct Voice {
    pub(super) name: String,
    pub(super) actor: Actor,
    pub(super) document: Option<Digest>,
}

impl Registry {
    /// Takes up what a rule suspects. What its action cuts is cut at the gate first, then finding and cut are written
    /// together; where that fails it stays cut, over a restart too. A cut under a standing order stands; any other has to be
    /// confirmed within `confirm_ms`.
    ///
    /// # Errors
    /// Ours. What was to be cut is cut.
    pub async fn suspect(&self, suspected: Suspected, confirm_ms: i64) -> Result<Finding, RegistryError> {
        let since = self.clock.wall();
        let id = FindingId::random(&*self.entropy).map_err(|e| RegistryError::Ours(e.to_string()))?;
        let selector = suspected.selector().filter(|_| !suspected.observe_only);
        let reason = suspected.reason();
        let confirm_by = Some(since.plus_ms(confirm_ms));
        let stop = |confirm_by| {
            let selector = selector.clone()?;
            let by_rule = Some(ByRule { finding: id, confirm_by });
            Some(Stop { selector, reason: reason.clone(), since, by_rule })
        };
        if let Some(stop) = stop(confirm_by) {
            self.cut_first(&stop).await?;
        }
        let done = retried!(self, {
            let order = if selector.is_some() { self.order_for(&suspected, since).await? } else { None };
            let confirm_by = if order.is_some() { None } else { confirm_by };
            let cut = selector.clone().map(|selector| CutMade {
                selector,
                order: order.as_ref().map(|order| order.id),
                confirm_by,
            });
            let digest = order.as_ref().map(|order| order.digest);
            let (finding, fact) = Finding::open(id, suspected.clone(), cut, digest, since);
            let mut tx = Tx::default();
            tx.put(&finding, Expect::Absent, since)?;
            self.record(&mut tx, &fact, &Actor::Rule, since)?;
            if let Some(stop) = stop(confirm_by) {
                self.cut_into(&mut tx, &stop, &Actor::Rule).await?;
            }
            self.commit(tx).await?;
            Ok(finding)
        });
        match stop(confirm_by) {
            Some(stop) => self.cut_recorded(done, stop),
            None => done,
        }
    }

    /// Takes up what only warns, unless the same rule's finding about the same agent and entry stands open. Gives whether it
    /// is new.
    ///
    /// # Errors
    /// Ours.
    pub async fn suspect_once(&self, suspected: Suspected) -> Result<bool, RegistryError> {
        let of_agency = Filter { agency: Some(suspected.agency.to_string()), ..Filter::default() };
        let mut pages = Cursor::default();
        while let Some(page) = self.next_page::<Finding>(&of_agency, &mut pages).await? {
            let is_known = |finding: &Finding| {
                let of = &finding.suspected;
                finding.status == FindingStatus::Open
                    && (of.rule, &of.agent, of.entry) == (suspected.rule, &suspected.agent, suspected.entry)
            };
            if page.iter().any(is_known) {
                return Ok(false);
            }
        }
        self.suspect(suspected, 0).await.map(|_| true)
    }

    /// A rule spoke again of what is open already. Left alone where it is not open any more.
    ///
    /// # Errors
    /// Ours.
    pub async fn suspect_again(&self, id: FindingId, times: u64, evidence: Evidence) -> Result<(), RegistryError> {
        retried!(self, {
            let now = self.clock.wall();
            let Some(found) = self.find::<Finding>(&id.to_string()).await? else { return Ok(()) };
            if found.thing.status != FindingStatus::Open {
                return Ok(());
            }
            let mut tx = Tx::default();
            tx.put(&found.thing.again(times, evidence.clone(), now), found.expect, now)?;
            self.commit(tx).await
        })
    }

    /// What the operator says of a finding. One command lifts a wrong cut; the ledger keeps both.
    ///
    /// # Errors
    /// Not there, not open, confirmed (an officer's signature lifts that), a bad reason; ours.
    pub async fn say_of_finding(&self, id: &str, act: FindingAct, reason: &str) -> Result<Value, RegistryError> {
        let reason = text::reason(reason)?;
        let voice = Voice { name: "operator".to_owned(), actor: Actor::Operator, document: None };
        retried!(self, {
            let now = self.clock.wall();
            let found: Found<Finding> = self.find(id).await?.ok_or_else(|| Refusal::not_found("finding", id))?;
            let mut tx = Tx::default();
            let finding = self.say_into(&mut tx, found, act, &reason, &voice, now).await?;
            self.commit(tx).await?;
            self.ended(&finding);
            Ok(views::finding(&finding))
        })
    }

    /// Writes what is said of a finding, and what follows for its cut, into a change.
    pub(super) async fn say_into(
        &self,
        tx: &mut Tx,
        found: Found<Finding>,
        act: FindingAct,
        reason: &str,
        voice: &Voice,
        now: Timestamp,
    ) -> Result<Finding, RegistryError> {
        let said = Said { by: voice.name.clone(), reason: reason.to_owned(), at: now, document: voice.document };
        let (finding, fact) = match act {
            FindingAct::Confirm => found.thing.confirm(said)?,
            FindingAct::Lift => found.thing.lift(said)?,
        };
        tx.put(&finding, found.expect, now)?;
        self.record(tx, &fact, &voice.actor, now)?;
        if let Some(cut) = &finding.cut {
            let of = (finding.id, &cut.selector);
            match act {
                FindingAct::Confirm => self.settle_into(tx, of, now).await?,
                FindingAct::Lift => self.release_into(tx, of, reason, &voice.actor, now).await?,
            }
        }
        Ok(finding)
    }

    /// Ends a finding of which nobody said anything in time, with its cut. False where it is not due.
    ///
    /// # Errors
    /// Ours.
    pub async fn expire_finding(&self, id: FindingId, open_ms_max: i64) -> Result<bool, RegistryError> {
        retried!(self, {
            let now = self.clock.wall();
            let Some(found) = self.find::<Finding>(&id.to_string()).await? else { return Ok(false) };
            let Some((finding, fact)) = found.thing.expire(open_ms_max, now) else { return Ok(false) };
            let mut tx = Tx::default();
            tx.put(&finding, found.expect, now)?;
            self.record(&mut tx, &fact, &Actor::Rule, now)?;
            if let Some(cut) = &finding.cut {
                let of = (finding.id, &cut.selector);
                self.release_into(&mut tx, of, "not confirmed in time 逾期未确认", &Actor::Rule, now).await?;
            }
            self.commit(tx).await?;
            self.ended(&finding);
            Ok(true)
        })
    }

    /// A page of all findings after `after`, with where the next starts: for the operator.
    ///
    /// # Errors
    /// Ours.
    pub async fn findings(&self, after: &str) -> Result<(Vec<Value>, String), RegistryError> {
        let after = (!after.is_empty()).then_some(after);
        let page = self.state.list(Kind::Finding, Filter::default(), after, LIST_MAX).await?;
        let next = if page.len() < LIST_MAX as usize { None } else { page.last().map(|r| r.id.clone()) };
        let findings = page.iter().map(record::thing::<Finding>);
        let findings = findings.map(|f| Ok(views::finding(&f?))).collect::<Result<_, RegistryError>>()?;
        Ok((findings, next.unwrap_or_default()))
    }

    /// One finding: for the operator.
    ///
    /// # Errors
    /// Not there; ours.
    pub async fn finding(&self, id: &str) -> Result<Value, RegistryError> {
        let found: Option<Found<Finding>> = self.find(id).await?;
        Ok(views::finding(&found.ok_or_else(|| Refusal::not_found("finding", id))?.thing))
    }

    /// Every finding that is open: once, when the watch begins.
    ///
    /// # Errors
    /// Ours.
    pub async fn open_findings(&self) -> Result<Vec<Finding>, RegistryError> {
        let (everything, mut pages, mut open) = (Filter::default(), Cursor::default(), Vec::new());
        while let Some(page) = self.next_page::<Finding>(&everything, &mut pages).await? {
            open.extend(page.into_iter().filter(|finding| finding.status == FindingStatus::Open));
        }
        Ok(open)
    }

    /// Findings that ended since the last call, for the watch.
    pub fn take_ended(&self) -> Vec<Finding> {
        std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn ended(&self, finding: &Finding) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.len() < ENDED_MAX {
            ended.push(finding.clone());
        }
    }

    /// The standing order that a cut acts under, if there is one. Its paper is looked at again: a cut rests on what was
    /// signed, not on what the state says of it.
    async fn order_for(&self, of: &Suspected, now: Timestamp) -> Result<Option<StandingOrder>, RegistryError> {
        let (everything, mut pages) = (Filter::default(), Cursor::default());
        while let Some(page) = self.next_page::<StandingOrder>(&everything, &mut pages).await? {
            for order in page {
                if order.covers(of.rule, of.action, of.provider, now) && self.order_stands(&order).await? {
                    return Ok(Some(order));
                }
            }
        }
        Ok(None)
    }

    async fn order_stands(&self, order: &StandingOrder) -> Result<bool, RegistryError> {
        let paper: Paper = self.paper(order.document).await?;
        let document: Document<StandingOrderBody> = serde_json::from_slice(&paper.envelope.payload)
            .map_err(|e| RegistryError::Damaged(format!("{}: {e}", order.document)))?;
        let body = &document.body;
        let same = paper.digest == order.digest
            && body.order == order.id
            && body.strongest == order.strongest
            && body.until == order.until
            && order.rules.iter().all(|rule| body.rules.contains(rule));
        if !same {
            return Err(RegistryError::Damaged(format!("{} is not what was signed", order.id)));
        }
        let issuer: Agency = self.agency(order.issuer).await?;
        Ok(issuer.authority || !order.authority)
    }

    /// Whether an agency says something of a finding: the authority, and the provider whose data it is.
    pub(super) fn may_say(&self, finding: &Finding, agency: &Agency) -> Result<(), Refusal> {
        if agency.authority || finding.suspected.provider == Some(agency.code) {
            return Ok(());
        }
        Err(match finding.suspected.agency == agency.code {
            true => {
                Refusal::NotProvider(finding.suspected.entry.map_or_else(|| "its data".to_owned(), |e| e.to_string()))
            }
            false => Refusal::not_found("finding", &finding.id.to_string()),
        })
    }
}

/// A finding's act by a document, for [`Voice`].
pub(super) fn voice_of(agency: &Agency, actor: Actor, document: Digest) -> Voice {
    Voice { name: agency.code.to_string(), actor, document: Some(document) }
}
