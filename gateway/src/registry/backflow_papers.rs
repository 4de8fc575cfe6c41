//! Signed documents about backflow: a list, and its revocation. Both are the authority's.

use super::agency::Agency;
use super::backflow::List;
use super::error::{Refusal, RegistryError};
use super::papers::{OpenedOrSeen, Taken, speaks_for};
use super::port::Update;
use super::reads::{Filling, Page};
use super::service::{Cursor, Found, Registry, Tx, stored_spec};
use crate::state::{Expect, Filter};
use lingqu_protocol::backflow::BackflowList;
use lingqu_protocol::documents::{BackflowListBody, BackflowRevocationBody};
use serde_json::{Value, json};
use std::sync::Arc;

impl Registry {
    pub(super) async fn publish_list(&self, opened: OpenedOrSeen<BackflowListBody>) -> Result<Taken, RegistryError> {
        let signed = match opened {
            OpenedOrSeen::Seen(taken) => return Ok(taken),
            OpenedOrSeen::Opened(signed) => signed,
        };
        let body = signed.body();
        let issuer = speaks_for(&body.agency, &signed.agency)?;
        if !signed.agency.authority {
            return Err(Refusal::NotAuthority.into());
        }
        let list =
            BackflowList::parse(&body.toml).map_err(|e| Refusal::Spec { what: "list", problem: e.to_string() })?;
        let mut entries = Vec::with_capacity(list.rows.len());
        for row in &list.rows {
            let unknown = || Refusal::not_found("entry", &row.entry);
            let entry = self.find_entry(&row.entry).await?.ok_or_else(unknown)?;
            let published = entry.published.as_ref().ok_or_else(unknown)?;
            entries.push((entry.id, stored_spec(entry.id, &published.toml)?));
        }
        let document = (signed.opened.document.id, signed.digest());
        let (list, fact) = List::publish(body, issuer, list, &entries, document, signed.now)?;
        if self.find::<List>(&list.id.to_string()).await?.is_some() {
            return Err(Refusal::IdTaken(list.id.to_string()).into());
        }
        let mut tx = Tx::default();
        tx.put(&list, Expect::Absent, signed.now)?;
        let answer =
            json!({ "id": list.id, "status": list.status(), "rows": list.entries.len(), "digest": list.digest });
        tx.publish(Update::Backflow(Arc::new(list)));
        self.finish(tx, &signed, &fact, answer).await
    }

    pub(super) async fn revoke_list(
        &self,
        opened: OpenedOrSeen<BackflowRevocationBody>,
    ) -> Result<Taken, RegistryError> {
        let signed = match opened {
            OpenedOrSeen::Seen(taken) => return Ok(taken),
            OpenedOrSeen::Opened(signed) => signed,
        };
        let body = signed.body();
        if !signed.agency.authority {
            return Err(Refusal::NotAuthority.into());
        }
        let unknown = || Refusal::not_found("backflow list", &body.list.to_string());
        let current: Found<List> = self.find(&body.list.to_string()).await?.ok_or_else(unknown)?;
        let by = signed.agency.code;
        let (list, fact) = current.thing.revoke(signed.predecessor(), by, signed.digest(), &body.reason, signed.now)?;
        let mut tx = Tx::default();
        tx.put(&list, current.expect, signed.now)?;
        let answer = json!({ "id": list.id, "status": list.status() });
        let update = Update::Backflow(Arc::new(list));
        // It narrows: the gate acts first, whatever becomes of the commit.
        self.gate.publish(vec![update.clone()]);
        tx.publish(update);
        self.finish(tx, &signed, &fact, answer).await
    }

    /// The lists, which are published for everyone to see.
    pub(super) async fn lists(&self, after: &str) -> Result<Page, RegistryError> {
        let mut filling = Filling::default();
        let (everything, mut pages) = (Filter::default(), Cursor::after(after));
        while let Some(page) = self.next_page::<List>(&everything, &mut pages).await? {
            for list in &page {
                if filling.is_full() {
                    return Ok(filling.cut());
                }
                filling.push(list.id.to_string(), view(list));
            }
        }
        Ok(filling.page)
    }

    pub(super) async fn one_list(&self, agency: &Agency, id: &str) -> Result<Page, RegistryError> {
        let found: Option<Found<List>> = self.find(id).await?;
        let list = found.map(|found| found.thing).ok_or_else(|| Refusal::not_found("backflow list", id))?;
        let mut json = view(&list);
        if let Some(fields) = json.as_object_mut() {
            fields.insert("toml".into(), list.toml.clone().into());
            let own = list.list.rows.iter().zip(&list.entries);
            let own = own.filter(|(row, _)| row.to.include(agency.code, &agency.duties, agency.level));
            fields.insert("own_entries".into(), own.map(|(_, entry)| entry.to_string()).collect::<Vec<_>>().into());
        }
        Ok(Page { records: vec![(id.to_owned(), json)], next: String::new() })
    }
}

fn view(list: &List) -> Value {
    let rows = list.list.rows.iter().zip(&list.entries);
    // A list's own text holds who receives; here as many as a screen shows.
    let rows = rows.take(50).map(|(row, entry)| {
        json!({ "entry": entry, "duty": row.duty, "items": row.items, "duties": row.to.duties,
            "agencies": row.to.agencies.len(), "levels": row.to.levels.iter().map(|l| l.as_str()).collect::<Vec<_>>() })
    });
    json!({
        "id": list.id,
        "name": list.list.name,
        "issuer": list.issuer.to_string(),
        "status": list.status(),
        "digest": list.digest,
        "published_at": list.published_at.to_rfc3339(),
        "revoked_at": list.revoked.as_ref().map(|(at, _)| at.to_rfc3339()),
        "why": list.revoked.as_ref().map(|(_, why)| why.clone()),
        "rows_count": list.entries.len(),
        "rows": rows.collect::<Vec<_>>(),
        "region_changes": list.list.region_changes.len(),
    })
}
