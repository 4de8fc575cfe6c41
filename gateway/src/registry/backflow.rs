//! 回流清单: the authority's published lists of what flows back to whom (article 24). No application and no condition: who
//! stands on a list in force gets the rows of its own region, until the list is revoked or something is stopped.

use super::entry::follows;
use super::error::Refusal;
use super::fact::{Act, Fact};
use super::text;
use lingqu_protocol::agency::CreditCode;
use lingqu_protocol::backflow::BackflowList;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::BackflowListBody;
use lingqu_protocol::entry::{EntryFormat, EntrySpec, SharingClass};
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{DocumentId, EntryId, ListId};

/// A published list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Its id.
    pub id: ListId,
    /// The authority that published it.
    pub issuer: CreditCode,
    /// Its file, verbatim.
    pub toml: String,
    /// What the file says.
    pub list: BackflowList,
    /// For each of its rows the entry that is meant.
    pub entries: Vec<EntryId>,
    /// The signed document.
    pub document: DocumentId,
    /// Digest of its payload: what a revocation follows.
    pub digest: Digest,
    /// When it was published.
    pub published_at: Timestamp,
    /// When and why it was revoked, if it was.
    pub revoked: Option<(Timestamp, String)>,
}

impl List {
    /// Takes a list whose rows were looked up: `entries` are theirs, each with the text in force.
    ///
    /// # Errors
    /// A file with a mistake, an entry that cannot flow back, or an item that it does not have.
    pub fn publish(
        body: &BackflowListBody,
        issuer: CreditCode,
        list: BackflowList,
        entries: &[(EntryId, EntrySpec)],
        (document, digest): (DocumentId, Digest),
        now: Timestamp,
    ) -> Result<(Self, Fact), Refusal> {
        for (place, (row, (_, spec))) in list.rows.iter().zip(entries).enumerate() {
            fits(spec, row.items.as_deref())
                .map_err(|problem| Refusal::Spec { what: "list", problem: format!("backflow[{place}]: {problem}") })?;
        }
        let entries = entries.iter().map(|(id, _)| *id).collect();
        let fact = Fact::new(Act::BackflowPublished, body.list, Some(issuer)).by(digest).because(&list.name);
        let published = Self {
            id: body.list,
            issuer,
            toml: body.toml.clone(),
            list,
            entries,
            document,
            digest,
            published_at: now,
            revoked: None,
        };
        Ok((published, fact))
    }

    /// Takes it back.
    ///
    /// # Errors
    /// Revoked already, signed against another list, or a reason that is not good.
    pub fn revoke(
        &self,
        predecessor: Option<Digest>,
        by: CreditCode,
        digest: Digest,
        reason: &str,
        now: Timestamp,
    ) -> Result<(Self, Fact), Refusal> {
        let reason = text::reason(reason)?;
        if self.revoked.is_some() {
            return Err(Refusal::WrongState {
                what: "backflow list",
                id: self.id.to_string(),
                is: "revoked",
                needed: "in_force",
            });
        }
        follows(Some(self.digest), predecessor)?;
        let fact = Fact::new(Act::BackflowRevoked, self.id, Some(by)).by(digest).because(&reason);
        Ok((Self { revoked: Some((now, reason)), ..self.clone() }, fact))
    }

    /// Its word.
    pub const fn status(&self) -> &'static str {
        if self.revoked.is_some() { "revoked" } else { "in_force" }
    }
}

/// Whether rows of an entry can flow back by region, with these items.
fn fits(spec: &EntrySpec, items: Option<&[String]>) -> Result<(), String> {
    if spec.format != EntryFormat::Table || spec.region_column.is_none() {
        return Err("the entry has no region column, so nobody's own rows can be told apart".into());
    }
    if spec.sharing_class == SharingClass::NotShared {
        return Err("the entry is not shared (不予共享)".into());
    }
    match items.unwrap_or_default().iter().find(|item| spec.item(item).is_none()) {
        Some(missing) => Err(format!("the entry has no item {missing:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ENTRY: &str = include_str!("../../../protocol/fixtures/entry.toml");

    fn body(items: &str) -> BackflowListBody {
        let toml = format!(
            "name = \"清单\"\n[[backflow]]\nentry = \"307010/000001\"\nto_duties = [\"市场监管\"]\nduty = \"监管\"\n{items}"
        );
        BackflowListBody { list: ListId::from_bits(1), agency: "91350100M000100Y43".into(), toml }
    }

    fn publish(items: &str, entry: &str) -> Result<List, Refusal> {
        let body = body(items);
        let list = BackflowList::parse(&body.toml).unwrap();
        let entries = [(EntryId::from_bits(5), EntrySpec::parse(entry).unwrap())];
        let by = (DocumentId::from_bits(2), Digest::sha256(b"l"));
        List::publish(&body, "91350100M000100Y43".parse().unwrap(), list, &entries, by, Timestamp(1)).map(|made| made.0)
    }

    #[test]
    fn only_what_has_regions_and_items_flows_back_and_a_list_is_revoked_once() {
        let list = publish("items = [\"region\"]", ENTRY).unwrap();
        assert_eq!((list.entries.as_slice(), list.status()), ([EntryId::from_bits(5)].as_slice(), "in_force"));
        assert!(publish("items = [\"nothing\"]", ENTRY).is_err());
        assert!(publish("", &ENTRY.replace("region_column = \"region\"\n", "")).is_err(), "no region column");
        let (by, digest) = (list.issuer, Digest::sha256(b"r"));
        assert!(list.revoke(None, by, digest, "r", Timestamp(2)).is_err(), "it follows the list");
        assert!(list.revoke(Some(list.digest), by, digest, "", Timestamp(2)).is_err());
        let (revoked, fact) = list.revoke(Some(list.digest), by, digest, "调整", Timestamp(2)).unwrap();
        assert_eq!((revoked.status(), fact.act), ("revoked", Act::BackflowRevoked));
        assert!(revoked.revoke(Some(list.digest), by, digest, "r", Timestamp(3)).is_err());
    }
}
