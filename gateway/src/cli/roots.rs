//! What the root signs, where its folder is at hand. The statements go to the gateway; the key never does.

use super::args::{AgencyAdd, AgencyChange};
use super::text;
use crate::admin::Failure;
use crate::folder::Folder;
use lingqu_certs::officer::OfficerRequest;
use lingqu_certs::os::{self, OsEntropy, SystemClock};
use lingqu_certs::root::Root;
use lingqu_protocol::agency::CreditCode;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::{AgencyBody, Body, Document};
use lingqu_protocol::host::Clock as _;
use lingqu_protocol::ids::DocumentId;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// How long a statement may take to its gateway: it may travel by hand.
const STATEMENT_VALID_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// Bytes of a file of agencies: a hundred thousand lines.
const IMPORT_BYTES_MAX: u64 = 16 << 20;

/// The root's statement of an agency, as JSON text.
pub(super) fn agency(dir: &Path, args: &AgencyAdd) -> Result<String, Failure> {
    let body = AgencyBody {
        code: args.code.clone(),
        name: args.name.clone(),
        region: args.region.code.clone(),
        level: args.region.level.clone(),
        duties: args.duty.clone(),
        parent: args.parent.clone(),
        authority: args.authority,
    };
    check(&body).map_err(|e| Failure::usage(e, "see `lingqu-gateway agency add --help`"))?;
    Pen::open(dir, &args.root)?.sign(body, None)
}

/// The root's statement of an agency that `standing` shows, with what is to change, as JSON text. It names the statement
/// that it follows, so that two changes at once do not undo each other.
pub(super) fn agency_over(dir: &Path, args: &AgencyChange, standing: &Value) -> Result<String, Failure> {
    let what = &args.what;
    let duties = standing["duties"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    let region = what.region.clone();
    let (region, level) =
        region.map_or_else(|| (text(standing, "region"), text(standing, "level")), |r| (r.code, r.level));
    let body = AgencyBody {
        code: text(standing, "id"),
        name: what.name.clone().unwrap_or_else(|| text(standing, "name")),
        region,
        level,
        duties: if what.no_duty || !what.duty.is_empty() { what.duty.clone() } else { duties.collect() },
        parent: match (&what.parent, what.no_parent) {
            (Some(parent), _) => Some(parent.clone()),
            (None, true) => None,
            (None, false) => standing["parent"].as_str().map(str::to_owned),
        },
        authority: what.authority || (standing["authority"] == true && !what.no_authority),
    };
    check(&body).map_err(|e| Failure::usage(e, "see `lingqu-gateway agency change --help`"))?;
    let follows = text(standing, "digest").parse::<Digest>();
    let follows = follows.map_err(|e| Failure::ours(format!("the gateway's answer: {e}"), "update the gateway"))?;
    Pen::open(dir, &args.root)?.sign(body, Some(follows))
}

/// The root's statement of an officer, as JSON text.
pub(super) fn officer(dir: &Path, request: &Path, root: &Path) -> Result<String, Failure> {
    let request = OfficerRequest::load(request).map_err(|e| Failure {
        code: 7,
        word: "bad_officer_request".into(),
        text: e.to_string(),
        next: "have it made again with `lingqu officer request`".into(),
    })?;
    Pen::open(dir, root)?.sign(request.body, None)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    code: String,
    name: String,
    region: String,
    level: String,
    #[serde(default)]
    duties: String,
    #[serde(default)]
    parent: Option<String>,
    #[serde(default)]
    authority: Option<bool>,
}

/// The root's statements of the agencies in a CSV file, each with its line. Nothing is signed before every line was read.
pub(super) fn agencies(dir: &Path, file: &Path, root: &Path) -> Result<Vec<(u64, String)>, Failure> {
    let bytes = os::read_bounded(file, IMPORT_BYTES_MAX)
        .map_err(|e| Failure::usage(format!("reading {}: {e}", file.display()), "name a CSV file"))?;
    // Spreadsheets put a mark before UTF-8.
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let bad = |line: u64, problem: String| Failure {
        code: 7,
        word: "bad_line".into(),
        text: format!("{}, line {line}: {problem}", file.display()),
        next: "correct the line; nothing was taken. See `lingqu-gateway agency import --help`".into(),
    };
    let mut bodies = Vec::new();
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
    let headers = reader.headers().map_err(|e| bad(1, e.to_string()))?.clone();
    for record in reader.records() {
        let record = record.map_err(|e| bad(e.position().map_or(0, csv::Position::line), e.to_string()))?;
        let line = record.position().map_or(0, csv::Position::line);
        let row: Row = record.deserialize(Some(&headers)).map_err(|e| bad(line, e.to_string()))?;
        let duties = row.duties.split(';').map(str::trim).filter(|d| !d.is_empty()).map(str::to_owned).collect();
        let body = AgencyBody {
            code: row.code,
            name: row.name,
            region: row.region,
            level: row.level,
            duties,
            parent: row.parent.filter(|p| !p.is_empty()),
            authority: row.authority.unwrap_or(false),
        };
        check(&body).map_err(|problem| bad(line, problem))?;
        bodies.push((line, body));
    }
    let pen = Pen::open(dir, root)?;
    bodies.into_iter().map(|(line, body)| Ok((line, pen.sign(body, None)?))).collect()
}

/// The root's key, and the gateway that its statements are for.
struct Pen {
    root: Root,
    folder: Folder,
}

impl Pen {
    fn open(dir: &Path, root: &Path) -> Result<Self, Failure> {
        let folder = Folder::open(dir)?;
        let root = Root::load(root).map_err(|e| {
            Failure::usage(format!("the root: {e}"), "name the folder that `init --root` made, with --root")
        })?;
        if root.pin() != folder.identity.root {
            let text = format!("this root is {}, and the gateway's is {}", root.pin(), folder.identity.root);
            return Err(Failure::usage(text, "name the root of this gateway with --root"));
        }
        Ok(Self { root, folder })
    }

    fn sign<B: Body>(&self, body: B, predecessor: Option<Digest>) -> Result<String, Failure> {
        let now = SystemClock::new().wall();
        let ours = |e: &dyn std::fmt::Display| Failure::ours(e.to_string(), "nothing was signed");
        let document = Document {
            gateway: self.folder.identity.gateway,
            id: DocumentId::random(&OsEntropy::new()).map_err(|e| ours(&e))?,
            predecessor,
            issued_at: now.0,
            expires_at: now.plus_ms(STATEMENT_VALID_MS).0,
            body,
        };
        Ok(self.root.seal(&document).map_err(|e| ours(&e))?.to_json())
    }
}

/// What the registry would refuse, before the root signs it.
fn check(body: &AgencyBody) -> Result<(), String> {
    use crate::registry::agency::{Statement, state};
    CreditCode::parse(&body.code).map_err(|e| e.to_string())?;
    let by = Statement {
        document: DocumentId::from_bits(0),
        digest: Digest::sha256(b""),
        issued_at: lingqu_protocol::host::Timestamp(0),
    };
    state(None, body, by, lingqu_protocol::host::Timestamp(0)).map(|_| ()).map_err(|e| e.to_string())
}
