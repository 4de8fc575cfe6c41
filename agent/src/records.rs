//! What the gateway's registry shows this agent, and what it is handed.

use crate::connect::{Session, unexpected};
use crate::error::{AgentError, Told};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::dsse::Envelope;
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{Narrow, Read, Record, SendDocument, reply, request};
use serde_json::Value;

/// Pages of one list, at most: with some hundred records a page more than anybody reads, and an end for a gateway that
/// has none.
const PAGES_MAX: usize = 10_000;

/// The field of a record with the digest of the document that made it: what a document about it follows.
const DIGEST_FIELD: &str = "digest";

/// What can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Entries of the catalogue.
    Catalogue,
    /// Applications made and received.
    Application,
    /// Grants given and held.
    Grant,
    /// What rules found, about this agency or on its data.
    Finding,
    /// Standing orders of this agency.
    StandingOrder,
    /// Published lists of what flows back to whom.
    BackflowList,
    /// What waits for this agency.
    Inbox,
    /// This agent, as the gateway knows it.
    Status,
    /// Versions of an entry.
    Version,
    /// Regions of a version.
    VersionRegion,
    /// Rows and digests of a version, for who compares them (对账).
    Reconcile,
}

impl Kind {
    /// Its word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Catalogue => "catalogue",
            Self::Application => "application",
            Self::Grant => "grant",
            Self::Finding => "finding",
            Self::StandingOrder => "standing-order",
            Self::BackflowList => "backflow-list",
            Self::Inbox => "inbox",
            Self::Status => "status",
            Self::Version => "version",
            Self::VersionRegion => "version_region",
            Self::Reconcile => "reconcile",
        }
    }
}

/// Every record of a kind that exists for this agent.
///
/// # Errors
/// A refusal; a gateway whose pages have no end.
pub async fn all<C: Channel>(session: &Session<C>, kind: Kind) -> Result<Vec<Value>, AgentError> {
    all_of(session, kind, "").await
}

/// Every record of a kind that belongs to `id`.
///
/// # Errors
/// As for [`all`].
pub async fn all_of<C: Channel>(session: &Session<C>, kind: Kind, id: &str) -> Result<Vec<Value>, AgentError> {
    let mut records = Vec::new();
    let mut after = String::new();
    for _ in 0..PAGES_MAX {
        let page = read(session, Read { kind: kind.word().into(), id: id.to_owned(), after: after.clone() }).await?;
        records.extend(page.records.into_iter().map(value).collect::<Result<Vec<_>, _>>()?);
        if page.next.is_empty() {
            return Ok(records);
        }
        if page.next == after {
            break;
        }
        after = page.next;
    }
    Err(AgentError::Peer(Told::new("endless_list", "the gateway's list has no end", "网关返回的列表没有结尾")))
}

/// One record.
///
/// # Errors
/// A refusal: what does not exist for this agent is denied.
pub async fn one<C: Channel>(session: &Session<C>, kind: Kind, id: &str) -> Result<Value, AgentError> {
    let page = read(session, Read { kind: kind.word().into(), id: id.to_owned(), after: String::new() }).await?;
    match page.records.into_iter().next() {
        Some(record) => value(record),
        None => Err(AgentError::NotFound(
            Told::new(
                "not_found",
                format!("there is no {} {id} for this agent", kind.word()),
                format!("没有找到 {id}"),
            )
            .next("look at the list", "查看列表"),
        )),
    }
}

/// The digest that a document about this record names as its predecessor.
///
/// # Errors
/// A record without one: the gateway's fault.
pub fn digest(record: &Value) -> Result<Digest, AgentError> {
    let text = record.get(DIGEST_FIELD).and_then(Value::as_str).unwrap_or_default();
    text.parse().map_err(|e| {
        AgentError::Peer(Told::new("no_digest", format!("the gateway's record: {e}"), format!("网关记录缺少摘要：{e}")))
    })
}

/// Hands in a signed document and gives what it made or changed, as the gateway says.
///
/// # Errors
/// A refusal.
pub async fn hand_in<C: Channel>(session: &Session<C>, envelope: &Envelope) -> Result<Value, AgentError> {
    let ask = request::Ask::Document(SendDocument { envelope: envelope.to_json().into_bytes().into() });
    taken(session.ask(ask).await?)
}

/// Suspends a grant at once.
///
/// # Errors
/// A refusal.
pub async fn narrow<C: Channel>(session: &Session<C>, grant: &str, reason: &str) -> Result<Value, AgentError> {
    let ask = request::Ask::Narrow(Narrow { grant: grant.into(), reason: reason.into() });
    taken(session.ask(ask).await?)
}

fn taken(reply: reply::Reply) -> Result<Value, AgentError> {
    match reply {
        reply::Reply::Document(taken) if taken.json.is_empty() => Ok(Value::Object(serde_json::Map::new())),
        reply::Reply::Document(taken) => parse(&taken.json),
        reply::Reply::Done(_) => Ok(Value::Object(serde_json::Map::new())),
        other => Err(unexpected("a document's acknowledgement", &other)),
    }
}

async fn read<C: Channel>(session: &Session<C>, ask: Read) -> Result<lingqu_protocol::wire::Records, AgentError> {
    match session.ask(request::Ask::Read(ask)).await? {
        reply::Reply::Records(records) => Ok(records),
        other => Err(unexpected("records", &other)),
    }
}

/// A record's JSON, which always has the field `id`.
fn value(record: Record) -> Result<Value, AgentError> {
    let mut json = parse(&record.json)?;
    if let Value::Object(fields) = &mut json {
        fields.entry("id").or_insert(Value::String(record.id));
    }
    Ok(json)
}

fn parse(json: &[u8]) -> Result<Value, AgentError> {
    serde_json::from_slice(json).map_err(|e| {
        AgentError::Peer(Told::new(
            "bad_json",
            format!("the gateway's record: {e}"),
            format!("网关返回的记录无法解析：{e}"),
        ))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::connect::testing::scripted;
    use lingqu_protocol::close::CloseCode;
    use lingqu_protocol::wire::{DocumentTaken, Done, Fault, Records};
    use serde_json::json;

    fn page(ids: &[&str], next: &str) -> reply::Reply {
        let record = |id: &&str| Record { id: (*id).into(), json: br#"{"name":"n"}"#.to_vec().into() };
        reply::Reply::Records(Records { records: ids.iter().map(record).collect(), next: next.into() })
    }

    #[test]
    fn pages_make_one_list() {
        let (got, asked) =
            scripted(vec![page(&["a", "b"], "b"), page(&["c"], "")], async |s| all(&s, Kind::Grant).await);
        let ids: Vec<_> = got.unwrap().iter().map(|r| r["id"].clone()).collect();
        assert_eq!(ids, ["a", "b", "c"]);
        let after: Vec<_> = asked
            .into_iter()
            .map(|ask| match ask {
                request::Ask::Read(read) => (read.kind, read.after),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(after, [("grant".to_owned(), String::new()), ("grant".into(), "b".into())]);
    }

    #[test]
    fn a_list_without_an_end_is_the_gateways_fault() {
        let (got, asked) = scripted(vec![page(&["a"], "x"), page(&["b"], "x")], async |s| all(&s, Kind::Grant).await);
        assert!(matches!(got, Err(AgentError::Peer(_))));
        assert_eq!(asked.len(), 2);
    }

    #[test]
    fn nothing_found_and_nonsense_are_told_apart() {
        let (got, _) = scripted(vec![page(&[], "")], async |s| one(&s, Kind::Application, "a").await);
        assert_eq!(got.unwrap_err().exit_code(), 3);
        let junk = reply::Reply::Records(Records {
            records: vec![Record { id: "a".into(), json: b"{".to_vec().into() }],
            next: String::new(),
        });
        let (got, _) = scripted(vec![junk], async |s| one(&s, Kind::Application, "a").await);
        assert!(matches!(got, Err(AgentError::Peer(_))));
        let (got, _) = scripted(vec![reply::Reply::Done(Done {})], async |s| one(&s, Kind::Application, "a").await);
        assert!(matches!(got, Err(AgentError::Session(_))));
    }

    #[test]
    fn a_record_names_the_digest_that_is_followed() {
        let is = Digest::sha256(b"x");
        assert_eq!(digest(&json!({"digest": is})).unwrap(), is);
        for bad in [json!({}), json!({"digest": "x"}), json!([]), json!({"digest": 3})] {
            assert!(matches!(digest(&bad), Err(AgentError::Peer(_))), "{bad}");
        }
    }

    #[test]
    fn a_document_is_handed_in_once_and_its_refusal_kept() {
        let envelope = Envelope { payload_type: "t".into(), payload: b"p".to_vec(), signatures: vec![] };
        let taken =
            reply::Reply::Document(DocumentTaken { document: "d".into(), json: br#"{"id":"x"}"#.to_vec().into() });
        let (got, asked) = scripted(vec![taken], async |s| hand_in(&s, &envelope).await);
        assert_eq!(got.unwrap(), json!({"id": "x"}));
        assert!(matches!(&asked[..], [request::Ask::Document(d)] if d.envelope == envelope.to_json().as_bytes()));
        let fault = Fault { code: CloseCode::Denied.code(), ..Fault::default() };
        let (got, _) = scripted(vec![reply::Reply::Fault(fault)], async |s| narrow(&s, "g", "why").await);
        assert_eq!(got.unwrap_err().exit_code(), 3);
        let (got, _) = scripted(vec![reply::Reply::Done(Done {})], async |s| narrow(&s, "g", "why").await);
        assert_eq!(got.unwrap(), json!({}));
    }
}
