//! Reading: what exists for one peer. Published entries exist for everyone; applications and grants for the two sides and
//! the authority; to all others they are not found.

use super::agency::Agency;
use super::agent::Agent;
use super::application::{Application, ApplicationStatus};
use super::entry::{Entry, Latest};
use super::error::{Refusal, RegistryError};
use super::finding::{Finding, FindingStatus};
use super::grant::{Grant, GrantStatus};
use super::order::StandingOrder;
use super::papers::visible;
use super::record::{self, Stored};
use super::service::{Cursor, Found, Registry, stored_spec};
use super::stop::{Selector, Stop};
use super::{terms, views};
use crate::state::{Filter, LIST_MAX};
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::host::Timestamp;
use serde_json::{Value, json};

/// Records of one page: a screen or two, and a message that is answered at once.
pub const PAGE_RECORDS_MAX: usize = 100;

/// Bytes of JSON after which a page ends: half of what a control message holds, so that the last record fits too.
const PAGE_BYTES: usize = 512 * 1024;

/// Stops that are shown over one grant: with twenty of its agents blocked, a requester asks about them and not about the grant.
const STOPS_SHOWN_MAX: usize = 24;

/// A page of records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Ids and JSON documents, in the order of the ids.
    pub records: Vec<(String, Value)>,
    /// Where the next page starts; empty at the end.
    pub next: String,
}

/// A page being filled.
#[derive(Default)]
pub(super) struct Filling {
    pub(super) page: Page,
    bytes: usize,
}

impl Filling {
    pub(super) fn is_full(&self) -> bool {
        self.page.records.len() >= PAGE_RECORDS_MAX || self.bytes >= PAGE_BYTES
    }

    pub(super) fn push(&mut self, id: String, json: Value) {
        self.bytes += json.to_string().len();
        self.page.records.push((id, json));
    }

    /// The page, with more behind it.
    pub(super) fn cut(mut self) -> Page {
        self.page.next = self.page.records.last().map(|(id, _)| id.clone()).unwrap_or_default();
        self.page
    }
}

impl Registry {
    /// Records of `kind` (`catalogue`, `application`, `grant`, `finding`, `standing-order`,
    /// `backflow-list`, `inbox`, `status`) that exist for `peer`: one where an id
    /// is given, else a page of those after `after`.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::UnknownKind`], [`Refusal::Stopped`]; or ours.
    pub async fn read(&self, peer: &AgentId, kind: &str, id: &str, after: &str) -> Result<Page, RegistryError> {
        let agency = self.participant(peer).await?;
        let now = self.clock.wall();
        match (kind, id) {
            ("catalogue", "") => self.catalogue(&agency, after).await,
            ("catalogue", id) => self.one_entry(&agency, id).await,
            ("application", "") => self.both_sides::<Application>(&agency, after, |a| Ok(views::application(a))).await,
            ("application", id) => self.one_application(&agency, id).await,
            ("grant", "") => self.both_sides::<Grant>(&agency, after, |g| grant_view(g, now)).await,
            ("grant", id) => self.one_grant(&agency, id, now).await,
            ("finding", "") => self.both_sides::<Finding>(&agency, after, |f| Ok(views::finding(f))).await,
            ("finding", id) => self.one_finding(&agency, id).await,
            ("standing-order", "") => {
                self.both_sides::<StandingOrder>(&agency, after, |o| Ok(views::order(o, now))).await
            }
            ("standing-order", id) => self.one_order(&agency, id, now).await,
            ("backflow-list", "") => self.lists(after).await,
            ("backflow-list", id) => self.one_list(&agency, id).await,
            ("inbox", _) => self.inbox(&agency, after, now).await,
            ("status", _) => self.status(peer, &agency, now).await,
            (other, _) => Err(Refusal::UnknownKind(other.chars().take(80).collect()).into()),
        }
    }

    async fn catalogue(&self, agency: &Agency, after: &str) -> Result<Page, RegistryError> {
        let mut filling = Filling::default();
        let (everything, mut pages) = (Filter::default(), Cursor::after(after));
        while let Some(page) = self.next_page::<Entry>(&everything, &mut pages).await? {
            for entry in page.iter().filter(|entry| visible(entry, agency)) {
                if filling.is_full() {
                    return Ok(filling.cut());
                }
                let spec = stored_spec(entry.id, &self.toml_for(entry, agency).await?)?;
                filling.push(entry.id.to_string(), views::entry(entry, &spec, knows(entry, agency)));
            }
        }
        Ok(filling.page)
    }

    async fn one_entry(&self, agency: &Agency, id: &str) -> Result<Page, RegistryError> {
        let entry = self.find_entry(id).await?.filter(|entry| visible(entry, agency));
        let entry = entry.ok_or_else(|| Refusal::not_found("entry", id))?;
        let toml = self.toml_for(&entry, agency).await?;
        let spec = stored_spec(entry.id, &toml)?;
        let provider = self.agency(entry.provider).await?;
        let mut json = views::entry(&entry, &spec, knows(&entry, agency));
        if let Some(fields) = json.as_object_mut() {
            fields.insert("toml".into(), toml.into());
            fields.insert("provider_name".into(), provider.name.into());
        }
        Ok(one(entry.id.to_string(), json))
    }

    async fn one_application(&self, agency: &Agency, id: &str) -> Result<Page, RegistryError> {
        let found: Option<Found<Application>> = self.find(id).await?;
        let application = found.map(|f| f.thing).filter(|a| is_side(a.requester, a.provider, agency));
        let application = application.ok_or_else(|| Refusal::not_found("application", id))?;
        let mut json = views::application(&application);
        if let Some(fields) = json.as_object_mut() {
            fields.insert("toml".into(), application.toml.clone().into());
        }
        Ok(one(id.to_owned(), json))
    }

    async fn one_grant(&self, agency: &Agency, id: &str, now: Timestamp) -> Result<Page, RegistryError> {
        let found: Option<Found<Grant>> = self.find(id).await?;
        let grant = found.map(|f| f.thing).filter(|g| is_side(g.requester, g.provider, agency));
        let grant = grant.ok_or_else(|| Refusal::not_found("grant", id))?;
        let mut json = grant_view(&grant, now)?;
        if let Some(fields) = json.as_object_mut() {
            fields.insert("scope".into(), views::scope(&terms::granted(&grant)?));
            fields.insert("stopped".into(), self.stops_over(&grant).await?.into());
        }
        Ok(one(id.to_owned(), json))
    }

    /// The stops that stand over a grant: its own, its entry's, its requester's, everything's, and those of its requester's
    /// agents, who cannot use it while the others can.
    async fn stops_over(&self, grant: &Grant) -> Result<Vec<Value>, RegistryError> {
        let mut stops = Vec::new();
        for selector in
            [Selector::Grant(grant.id), Selector::Entry(grant.entry), Selector::Agency(grant.requester), Selector::All]
        {
            if let Some(stop) = self.find::<Stop>(&selector.to_string()).await? {
                stops.push(views::stop(&stop.thing));
            }
        }
        let theirs = Filter { agency: Some(grant.requester.to_string()), ..Filter::default() };
        let mut pages = Cursor::default();
        while let Some(page) = self.next_page::<Agent>(&theirs, &mut pages).await? {
            let left = STOPS_SHOWN_MAX.saturating_sub(stops.len());
            stops.extend(page.iter().filter_map(Agent::stopped).take(left).map(|stop| views::stop(&stop)));
            if stops.len() >= STOPS_SHOWN_MAX {
                break;
            }
        }
        Ok(stops)
    }

    /// One finding: of the agency that it is about, of the provider whose data it is, and of the authority.
    async fn one_finding(&self, agency: &Agency, id: &str) -> Result<Page, RegistryError> {
        let found: Option<Found<Finding>> = self.find(id).await?;
        let finding = found.map(|f| f.thing).filter(|f| {
            let of = &f.suspected;
            agency.authority || of.agency == agency.code || of.provider == Some(agency.code)
        });
        let finding = finding.ok_or_else(|| Refusal::not_found("finding", id))?;
        Ok(one(id.to_owned(), views::finding(&finding)))
    }

    /// One standing order: of the agency that gave it, and of the authority.
    async fn one_order(&self, agency: &Agency, id: &str, now: Timestamp) -> Result<Page, RegistryError> {
        let found: Option<Found<StandingOrder>> = self.find(id).await?;
        let order = found.map(|f| f.thing).filter(|o| agency.authority || o.issuer == agency.code);
        let order = order.ok_or_else(|| Refusal::not_found("standing order", id))?;
        Ok(one(id.to_owned(), views::order(&order, now)))
    }

    /// What waits for an act of this agency: applications to answer, entries to review, own entries that were returned,
    /// findings to look at, grants to put right.
    async fn inbox(&self, agency: &Agency, after: &str, now: Timestamp) -> Result<Page, RegistryError> {
        let mut filling = Filling::default();
        let own = Filter { agency: Some(agency.code.to_string()), ..Filter::default() };
        let theirs = Filter { parent: Some(agency.code.to_string()), ..Filter::default() };
        let all = |one: &Filter| if agency.authority { Filter::default() } else { one.clone() };
        // Ids begin with what they name, in this order, so that one cursor goes through all of them.
        if "application-" >= stage(after) {
            let mut pages = Cursor::after(after);
            while let Some(page) = self.next_page::<Application>(&theirs, &mut pages).await? {
                for application in page.iter().filter(|a| a.status == ApplicationStatus::Submitted) {
                    if filling.is_full() {
                        return Ok(filling.cut());
                    }
                    filling.push(application.id.to_string(), views::waiting("answer", views::application(application)));
                }
            }
        }
        if "entry-" >= stage(after) {
            let mut pages = Cursor::after(from(after, "entry-"));
            while let Some(page) = self.next_page::<Entry>(&all(&own), &mut pages).await? {
                for entry in page {
                    let act = match entry.is {
                        Latest::Submitted if agency.authority => "review",
                        Latest::Returned { .. } if entry.provider == agency.code => "submit_again",
                        _ => continue,
                    };
                    if filling.is_full() {
                        return Ok(filling.cut());
                    }
                    let spec = stored_spec(entry.id, &self.toml_for(&entry, agency).await?)?;
                    filling.push(entry.id.to_string(), views::waiting(act, views::entry(&entry, &spec, true)));
                }
            }
        }
        if "finding-" >= stage(after) {
            let mut pages = Cursor::after(from(after, "finding-"));
            while let Some(page) = self.next_page::<Finding>(&all(&theirs), &mut pages).await? {
                for finding in page.iter().filter(|f| f.status == FindingStatus::Open) {
                    if filling.is_full() {
                        return Ok(filling.cut());
                    }
                    filling.push(finding.id.to_string(), views::waiting("confirm_or_lift", views::finding(finding)));
                }
            }
        }
        // Who holds a grant puts it right in time; who gave it, or the authority, says what follows when it was not.
        let mut grants = vec![own.clone(), theirs.clone()];
        if agency.authority {
            grants = vec![Filter::default()];
        }
        for filter in grants {
            let mut pages = Cursor::after(from(after, "grant-"));
            while let Some(page) = self.next_page::<Grant>(&filter, &mut pages).await? {
                for grant in page {
                    let act = match rectification_act(&grant, agency, now) {
                        Some(act) => act,
                        None => continue,
                    };
                    if filling.is_full() {
                        return Ok(filling.cut());
                    }
                    filling.push(grant.id.to_string(), views::waiting(act, grant_view(&grant, now)?));
                }
            }
        }
        Ok(filling.page)
    }

    async fn status(&self, peer: &AgentId, agency: &Agency, now: Timestamp) -> Result<Page, RegistryError> {
        let unknown = || Refusal::not_found("agent", &peer.to_string());
        let agent: Found<Agent> = self.find(&peer.to_string()).await?.ok_or_else(unknown)?;
        let mut json = views::agency(agency);
        if let Some(fields) = json.as_object_mut() {
            let identity = self.identity();
            fields.insert("id".into(), peer.to_string().into());
            fields.insert("agency".into(), agency.code.to_string().into());
            fields.insert("gateway".into(), identity.gateway.to_string().into());
            fields.insert("domain".into(), identity.domain.clone().into());
            fields.insert("status".into(), agent.thing.status.word().into());
            fields.insert("now".into(), now.to_rfc3339().into());
            let latest = agent.thing.certificates.last();
            let certificate = latest
                .map(|c| json!({ "fingerprint": c.fingerprint.to_string(), "not_after": c.not_after.to_rfc3339() }));
            fields.insert("certificate".into(), certificate.into());
        }
        Ok(one(peer.to_string(), json))
    }

    /// The text of an entry that `agency` sees: the latest for its provider and the authority, for others the one in force.
    async fn toml_for(&self, entry: &Entry, agency: &Agency) -> Result<String, RegistryError> {
        match &entry.published {
            Some(published) if entry.is == Latest::Published || !knows(entry, agency) => Ok(published.toml.clone()),
            _ => self.latest_toml(entry).await,
        }
    }

    /// A page of the things that belong to an agency or hang on it; of all for the authority.
    async fn both_sides<T: Stored>(
        &self,
        agency: &Agency,
        after: &str,
        view: impl Fn(&T) -> Result<Value, RegistryError> + Send,
    ) -> Result<Page, RegistryError> {
        let code = Some(agency.code.to_string());
        let filters = if agency.authority {
            vec![Filter::default()]
        } else {
            vec![Filter { agency: code.clone(), ..Filter::default() }, Filter { parent: code, ..Filter::default() }]
        };
        let after = (!after.is_empty()).then_some(after);
        let mut records = std::collections::BTreeMap::new();
        // One more than a page from each side, so that the page is known to be the last or not.
        let limit = (PAGE_RECORDS_MAX as u32 + 1).min(LIST_MAX);
        for filter in filters {
            let page = self.state.list(T::KIND, filter, after, limit).await?;
            records.extend(page.into_iter().map(|record| (record.id.clone(), record)));
        }
        let mut filling = Filling::default();
        for (id, record) in records {
            if filling.is_full() {
                return Ok(filling.cut());
            }
            filling.push(id, view(&record::thing(&record)?)?);
        }
        Ok(filling.page)
    }
}

/// The prefix of the ids that a cursor stands in.
fn stage(after: &str) -> &str {
    after.find('-').and_then(|end| after.get(..=end)).unwrap_or_default()
}

/// Where a walk over the ids with this prefix begins, for a cursor that may stand before them.
fn from<'a>(after: &'a str, prefix: &str) -> &'a str {
    if after.starts_with(prefix) { after } else { "" }
}

/// What a rectification waits for, from whom.
fn rectification_act(grant: &Grant, agency: &Agency, now: Timestamp) -> Option<&'static str> {
    let GrantStatus::Suspended { rectify: Some(order), .. } = &grant.status else { return None };
    let decides = grant.provider == agency.code || agency.authority;
    match (grant.requester == agency.code, order.is_overdue(now)) {
        (true, _) => Some("rectify"),
        (false, true) if decides => Some("reinstate_or_terminate"),
        _ => None,
    }
}

fn grant_view(grant: &Grant, now: Timestamp) -> Result<Value, RegistryError> {
    Ok(views::grant(grant, &terms::granted(grant)?, now))
}

fn one(id: String, json: Value) -> Page {
    Page { records: vec![(id, json)], next: String::new() }
}

/// Whether `agency` knows of texts that are not in force.
fn knows(entry: &Entry, agency: &Agency) -> bool {
    entry.provider == agency.code || agency.authority
}

fn is_side(
    requester: lingqu_protocol::agency::CreditCode,
    provider: lingqu_protocol::agency::CreditCode,
    agency: &Agency,
) -> bool {
    requester == agency.code || provider == agency.code || agency.authority
}
