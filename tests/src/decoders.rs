//! Every decoder that reads what a peer, a file or a person gives, behind one shape: bytes in, no panic, and where something
//! was read, writing it again gives something that reads the same. The property tests and the fuzz targets share these.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a property that does not hold is a finding")]

use bytes::Bytes;
use lingqu_certs::invitation::Invitation;
use lingqu_protocol::agency::{AgentId, AgentName, CreditCode};
use lingqu_protocol::checkpoint::{Checkpoint, NoteKey};
use lingqu_protocol::digest::{Algorithm, Digest};
use lingqu_protocol::documents::*;
use lingqu_protocol::dsse::{Envelope, pae, parse_pae};
use lingqu_protocol::entry::{EntryCode, EntrySpec, ItemType};
use lingqu_protocol::frame::{self, Event, FrameKind};
use lingqu_protocol::ids::{ApplicationId, DocumentId, EntryId, GatewayId, GrantId, TransferId};
use lingqu_protocol::leaf::Leaf;
use lingqu_protocol::merkle;
use lingqu_protocol::name::{FileName, NameSet, escape_for_log};
use lingqu_protocol::plan::Plan;
use lingqu_protocol::predicate::Predicate;
use lingqu_protocol::receipt::{Receipt, Statement};
use lingqu_protocol::region::{RegionCode, RegionTable};
use lingqu_protocol::rows::RowsDigest;
use lingqu_protocol::scope::{ApplicationSpec, ScopeSpec};
use lingqu_protocol::{ipc, wire};
use prost::Message;
use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::sync::LazyLock;

/// Feeds bytes to a decoder.
pub type Decode = fn(&[u8]);

/// Every decoder, by the name of its fuzz target.
pub const ALL: [(&str, Decode); 19] = [
    ("frame", frame_bytes),
    ("wire_request", wire_request),
    ("wire_reply", wire_reply),
    ("ipc", ipc_messages),
    ("predicate", predicate),
    ("entry_toml", entry_toml),
    ("scope_toml", scope_toml),
    ("application_toml", application_toml),
    ("dsse", dsse),
    ("document", document),
    ("checkpoint", checkpoint),
    ("receipt", receipt),
    ("leaf", leaf),
    ("name", name),
    ("identifiers", identifiers),
    ("invitation", invitation),
    ("merkle_proof", merkle_proof),
    ("plan", plan),
    ("parquet_pages", parquet_pages),
];

/// Files of `protocol/src` with a decoder, and the targets that reach it; a test finds files that are missing here.
pub const WHERE: [(&str, &[&str]); 22] = [
    ("agency.rs", &["identifiers"]),
    ("backflow/list.rs", &["entry_toml"]),
    ("checkpoint.rs", &["checkpoint"]),
    ("digest.rs", &["identifiers"]),
    ("documents.rs", &["document"]),
    ("dsse.rs", &["dsse"]),
    ("entry/mod.rs", &["entry_toml"]),
    ("entry/terms.rs", &["entry_toml", "identifiers"]),
    ("frame.rs", &["frame"]),
    ("ids.rs", &["identifiers"]),
    ("ipc.rs", &["ipc"]),
    ("leaf.rs", &["leaf"]),
    ("merkle.rs", &["merkle_proof"]),
    ("name.rs", &["name"]),
    ("pages.rs", &["parquet_pages"]),
    ("plan.rs", &["plan"]),
    ("predicate/mod.rs", &["predicate"]),
    ("receipt/json.rs", &["receipt"]),
    ("receipt/statement.rs", &["receipt"]),
    ("region.rs", &["identifiers"]),
    ("scope/file.rs", &["scope_toml", "application_toml"]),
    ("wire.rs", &["wire_request", "wire_reply"]),
];

/// Frames, cut where the first byte says: what comes out does not depend on how the bytes came.
pub fn frame_bytes(data: &[u8]) {
    let Some((first, stream)) = data.split_first() else { return };
    let whole = events(stream, stream.len().max(1));
    let cut = events(stream, usize::from(*first).max(1));
    assert_eq!(whole, cut, "what is read must not depend on the pieces in which it comes");
}

/// Whole frames, with an item's pieces put together, and how it ended.
fn events(stream: &[u8], piece: usize) -> (Vec<Event>, Option<frame::FrameError>) {
    let mut decoder = frame::Decoder::default();
    let mut all: Vec<Event> = Vec::new();
    for bytes in stream.chunks(piece) {
        decoder.push(Bytes::copy_from_slice(bytes));
        loop {
            match (decoder.next(), all.last_mut()) {
                (Ok(None), _) => break,
                (Ok(Some(Event::ItemData(more))), Some(Event::ItemData(data))) => {
                    *data = Bytes::from([data.as_ref(), more.as_ref()].concat());
                }
                (Ok(Some(event)), _) => all.push(event),
                (Err(error), _) => return (all, Some(error)),
            }
        }
    }
    (all, decoder.finish().err())
}

/// What an agent says.
pub fn wire_request(data: &[u8]) {
    message::<wire::Request>(data);
    message::<wire::Hello>(data);
    message::<wire::Step>(data);
    message::<wire::ManifestPart>(data);
    message::<wire::DataHello>(data);
}

/// What a gateway says.
pub fn wire_reply(data: &[u8]) {
    message::<wire::Reply>(data);
    message::<wire::Welcome>(data);
    message::<wire::DataHello>(data);
    message::<wire::ManifestPart>(data);
}

fn message<M: Message + Default + PartialEq + Debug>(data: &[u8]) {
    if let Ok(read) = wire::decode::<M>(Bytes::copy_from_slice(data)) {
        let again = wire::decode::<M>(read.encode_to_vec().into());
        assert_eq!(again.as_ref(), Ok(&read));
        // A message that was read fits a frame again, unless it was too long for one before.
        assert!(wire::encode(&read).is_ok() || data.len() > FrameKind::Control.body_bytes_max());
    }
}

/// A Parquet file that may stay as it is; one that fits has as many rows as its row groups together.
pub fn parquet_pages(data: &[u8]) {
    if let Ok(fit) = lingqu_protocol::pages::inspect(&Bytes::copy_from_slice(data), &ENTRY) {
        let rows = fit.metadata.metadata().row_groups().iter().map(|group| group.num_rows());
        assert_eq!(u64::try_from(rows.sum::<i64>()), Ok(fit.rows));
    }
}

/// Arrow IPC messages, each with its length before it; what is valid is counted as rows.
pub fn ipc_messages(data: &[u8]) {
    let mut decoder = ipc::Decoder::default();
    let mut rest = data;
    let mut digest = RowsDigest::new(&ENTRY);
    while let [high, low, more @ ..] = rest {
        let bytes = usize::from(u16::from_be_bytes([*high, *low])).min(more.len());
        let (body, left) = more.split_at(bytes);
        rest = left;
        match decoder.decode(Bytes::copy_from_slice(body)) {
            Ok(Some(batch)) => {
                if let Ok(batch) = lingqu_protocol::columns::canonical_batch(&ENTRY, &batch) {
                    digest.update(&batch).expect("a canonical batch has the entry's columns");
                }
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
    digest.finish();
}

/// The entry that rows and predicates are judged against.
pub const ENTRY_TOML: &str = r#"
name = "n"
abstract = "a"
format = "table"
update_frequency = "daily"
sharing_class = "unconditional"
sharing_methods = ["batch_exchange"]
region_column = "region"
grade = "general-1"
items = [
  { name = "region", type = "string", personal = false },
  { name = "n", type = "int64", personal = false },
  { name = "d", type = "decimal(15,2)", personal = false },
  { name = "t", type = "date", personal = false },
  { name = "b", type = "bool", personal = false },
]
"#;

static ENTRY: LazyLock<EntrySpec> = LazyLock::new(|| EntrySpec::parse(ENTRY_TOML).expect("the entry of this file"));

/// Row predicates.
pub fn predicate(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(read) = Predicate::parse(text) else { return };
    let canonical = read.to_string();
    assert_eq!(Predicate::parse(&canonical).as_ref(), Ok(&read), "the canonical text means the same: {canonical}");
    if let Ok(typed) = read.check(&ENTRY) {
        typed.eval_row(&|_| lingqu_protocol::predicate::Value::Null);
    }
}

/// entry.toml.
pub fn entry_toml(data: &[u8]) {
    if let Ok(Ok(entry)) = std::str::from_utf8(data).map(EntrySpec::parse) {
        assert!(entry.region_column.is_none_or(|place| place < entry.items.len()));
        lingqu_protocol::columns::arrow_schema(&entry);
    }
    // A list of backflow names entries and their items, in the same TOML.
    let _read = std::str::from_utf8(data).map(lingqu_protocol::backflow::BackflowList::parse);
}

/// A scope file.
pub fn scope_toml(data: &[u8]) {
    // Only that nothing panics: a scope file has no second form.
    let _read = std::str::from_utf8(data).map(ScopeSpec::parse);
}

/// application.toml.
pub fn application_toml(data: &[u8]) {
    if let Ok(Ok(application)) = std::str::from_utf8(data).map(ApplicationSpec::parse) {
        // Whether it fits is nobody's promise; that judging it ends is.
        let _fits = application.scope.check(&ENTRY);
        application.scope.content_digest();
        assert!(application.scope.starts_at() < application.scope.ends_at());
        assert!(application.scope.narrows(&application.scope).is_ok(), "a scope is no wider than itself");
    }
}

/// DSSE envelopes and the bytes that are signed.
pub fn dsse(data: &[u8]) {
    if let Ok(read) = Envelope::from_json(data) {
        assert_eq!(Envelope::from_json(read.to_json().as_bytes()).as_ref(), Ok(&read));
        let signed = read.signed_bytes();
        assert!(parse_pae(&signed).is_ok());
    }
    if let Ok((of, payload)) = parse_pae(data) {
        assert_eq!(pae(&of, &payload), data, "one form only: two texts are never signed as one");
    }
}

/// Documents that officers and the root sign.
pub fn document(data: &[u8]) {
    body::<EntryBody>(data);
    body::<ReviewBody>(data);
    body::<ApplicationBody>(data);
    body::<AnswerBody>(data);
    body::<GrantActBody>(data);
    body::<OfficerBody>(data);
    body::<AgencyBody>(data);
    body::<GatewayBody>(data);
}

fn body<B: Body + PartialEq + Debug>(data: &[u8]) {
    if let Ok(read) = serde_json::from_slice::<Document<B>>(data) {
        let again = serde_json::from_slice::<Document<B>>(&serde_json::to_vec(&read).unwrap());
        assert_eq!(again.unwrap(), read);
    }
}

/// Signed checkpoints. Nobody forges one for a key that nobody has.
pub fn checkpoint(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(read) = Checkpoint::unverified(text) {
        assert!(text.starts_with(&read.body()), "what is verified is what was read");
        let key = NoteKey { name: read.origin, public: [7; 32] };
        assert!(Checkpoint::verify(text, &key).is_err());
    }
}

/// Receipts. None is valid that another root did not sign.
pub fn receipt(data: &[u8]) {
    if let Ok(statement) = Statement::from_bytes(data) {
        assert_eq!(statement.bytes(), data);
    }
    if let Ok(read) = Receipt::from_json(data) {
        let again = Receipt::from_json(read.to_json().as_bytes());
        assert_eq!(again.as_ref(), Ok(&read));
        let root = lingqu_certs::key::PublicKey::from_bytes([7; 32]);
        assert!(lingqu_certs::receipt::verify(&read, &root).is_err());
    }
}

/// Leaves of the ledger.
pub fn leaf(data: &[u8]) {
    if let Ok(read) = Leaf::decode(data) {
        assert_eq!(read.encode().as_deref(), Ok(data), "one form only: two leaves are never one hash");
    }
}

/// File names, one a line, into one set.
pub fn name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let escaped = escape_for_log(text);
    assert!(escaped.chars().all(|c| !c.is_control()), "{escaped:?}");
    let mut set = NameSet::default();
    let base = std::path::Path::new("/base");
    for line in text.split('\n') {
        let Ok(name) = FileName::parse(line) else { continue };
        assert_eq!(name.as_str(), line);
        let path = base.join(name.as_str());
        assert!(path.starts_with(base) && path.components().count() == 2 + name.parts().count(), "{path:?}");
        if set.insert(&name).is_ok() {
            assert!(set.insert(&name).is_err(), "a name twice");
        }
    }
}

/// Ids, codes, digests, regions, types.
pub fn identifiers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    from_text::<TransferId>(text);
    from_text::<GrantId>(text);
    from_text::<EntryId>(text);
    from_text::<ApplicationId>(text);
    from_text::<DocumentId>(text);
    from_text::<GatewayId>(text);
    from_text::<CreditCode>(text);
    from_text::<AgentName>(text);
    from_text::<AgentId>(text);
    from_text::<Digest>(text);
    from_text::<EntryCode>(text);
    from_text::<ItemType>(text);
    from_text::<RegionCode>(text);
    from_text::<lingqu_certs::key::PublicKey>(text);
    if let Ok(code) = RegionTable::national().check(text) {
        assert_eq!(code.to_string(), text);
    }
    if let Ok(agent) = AgentId::from_uri(text, "d") {
        assert_eq!(agent.to_uri("d"), text);
    }
}

fn from_text<T: FromStr + Display + PartialEq + Debug>(text: &str)
where
    T::Err: Debug,
{
    if let Ok(read) = text.parse::<T>() {
        assert_eq!(read.to_string().parse::<T>().as_ref().ok(), Some(&read));
    }
}

/// Invitations.
pub fn invitation(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(read) = text.parse::<Invitation>() {
        assert_eq!(read.to_string().parse::<Invitation>().as_ref().ok(), Some(&read));
        assert!(!format!("{read:?}").contains(text.trim()), "a debug text is no invitation");
    }
}

/// Proofs of inclusion and consistency.
pub fn merkle_proof(data: &[u8]) {
    let Some((numbers, hashes)) = data.split_at_checked(16) else { return };
    let number = |at: usize| u64::from_be_bytes(numbers[at..at + 8].try_into().unwrap());
    let proof: Vec<[u8; 32]> = hashes.as_chunks::<32>().0.to_vec();
    let (index, size) = (number(0), number(8));
    let root = [7; 32];
    let included = merkle::verify_inclusion(Algorithm::Sha256, &[1; 32], index, size, &proof, &root);
    assert!(included.is_err(), "nobody knows what hashes to this root");
    let grown = merkle::verify_consistency(Algorithm::Sha256, index, size, &[1; 32], &root, &proof);
    assert!(grown.is_err());
}

/// Sizes of files, as a peer announces them.
pub fn plan(data: &[u8]) {
    let sizes: Vec<u64> = data.as_chunks::<8>().0.iter().map(|size| u64::from_be_bytes(*size)).collect();
    // A plan of the largest files has more segments than can be walked here.
    let walked = sizes.iter().try_fold(0u64, |sum, size| sum.checked_add(*size)).is_some_and(|sum| sum < 1 << 30);
    let Ok(plan) = Plan::new(sizes.clone()) else { return };
    assert_eq!(plan.bytes(), sizes.iter().sum::<u64>());
    if walked {
        let bytes = (0..plan.segments()).map(|s| plan.segment_bytes(s).unwrap()).sum::<u64>();
        assert_eq!(bytes, plan.bytes());
    }
    assert_eq!(plan.segment_bytes(plan.segments()), None);
}
