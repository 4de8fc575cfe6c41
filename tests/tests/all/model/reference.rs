//! The naive reference: what a scope means, written once more, row by row and as simply as it can be said. It shares no
//! code with the gate, the lake or the parsers: it reads the table of regions itself, knows its own dates, networks and
//! three-valued logic, and makes pseudonyms from the words of docs/PROTOCOL.md.

use chrono::{FixedOffset, NaiveDate, TimeZone};
use lingqu_protocol::digest::Digest;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Null,
    Text(String),
    Int(i64),
}

/// A condition.
#[derive(Clone, Debug)]
pub(crate) enum Cond {
    Compare(&'static str, &'static str, Cell),
    Between(&'static str, Cell, Cell),
    In(&'static str, Vec<Cell>),
    IsNull(&'static str, bool),
    Within(&'static str, String),
    And(Vec<Cond>),
    Or(Vec<Cond>),
    Not(Box<Cond>),
}

/// What happens to a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Change {
    Drop,
    Mask(usize, usize),
    Pseudonym,
}

/// An entry: columns with whether they hold whole numbers; none where it is one of files.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) columns: Vec<(&'static str, bool)>,
    pub(crate) region: Option<&'static str>,
    pub(crate) rows: Vec<BTreeMap<&'static str, Cell>>,
}

/// A grant's state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Status {
    InForce,
    Suspended,
    Terminated,
}

/// A grant.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) id: String,
    pub(crate) requester: &'static str,
    pub(crate) entry: usize,
    pub(crate) status: Status,
    pub(crate) columns: Vec<&'static str>,
    pub(crate) changes: BTreeMap<&'static str, Change>,
    pub(crate) rows: Option<Cond>,
    pub(crate) regions: Vec<String>,
    pub(crate) purposes: Vec<&'static str>,
    pub(crate) methods: Vec<&'static str>,
    pub(crate) agents: Vec<&'static str>,
    pub(crate) networks: Vec<([u8; 4], u32)>,
    pub(crate) from: NaiveDate,
    pub(crate) until: NaiveDate,
    pub(crate) volume: Option<u64>,
    pub(crate) per_day: Option<u64>,
    /// Used so far: bytes, the last day, requests on it.
    pub(crate) used: (u64, NaiveDate, u64),
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) agency: &'static str,
    pub(crate) agent: &'static str,
    pub(crate) address: [u8; 4],
    pub(crate) at_ms: i64,
    pub(crate) by_entry: bool,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Option<Cond>,
    pub(crate) region: Option<String>,
    pub(crate) purpose: Option<&'static str>,
}

/// Parents of all codes of the table of regions, read from its files.
static PARENTS: LazyLock<HashMap<String, Option<String>>> = LazyLock::new(|| {
    let mut parents = HashMap::new();
    for (file, above) in [("provinces", ""), ("cities", "provinceCode"), ("areas", "cityCode"), ("streets", "areaCode")]
    {
        let path = format!("{}/../deploy/data/{file}.csv", env!("CARGO_MANIFEST_DIR"));
        let mut reader = csv::Reader::from_path(&path).unwrap();
        let at = |reader: &mut csv::Reader<_>, name: &str| reader.headers().unwrap().iter().position(|h| h == name);
        let (code, parent) = (at(&mut reader, "code").unwrap(), at(&mut reader, above));
        for record in reader.records() {
            let record = record.unwrap();
            parents.insert(record[code].to_owned(), parent.map(|p| record[p].to_owned()));
        }
    }
    parents
});

/// Codes right below a code.
pub(crate) fn below(code: &str) -> Vec<String> {
    let mut found: Vec<String> =
        PARENTS.iter().filter(|(_, parent)| parent.as_deref() == Some(code)).map(|(code, _)| code.clone()).collect();
    found.sort();
    found
}

fn parent(code: &str) -> Option<Option<String>> {
    if let Some(parent) = PARENTS.get(code) {
        return Some(parent.clone());
    }
    let village = code.len() == 12 && !code.ends_with("000") && PARENTS.contains_key(&code[..9]) && code.is_ascii();
    village.then(|| Some(code[..9].to_owned()))
}

/// Whether a value lies in a region; unknown where it is none.
pub(crate) fn within(value: &Cell, region: &str) -> Option<bool> {
    let Cell::Text(code) = value else { return None };
    parent(code)?;
    let mut at = code.clone();
    loop {
        if at == region {
            return Some(true);
        }
        match parent(&at) {
            Some(Some(above)) => at = above,
            _ => return Some(false),
        }
    }
}

impl Cell {
    fn compare(&self, other: &Self) -> Option<std::cmp::Ordering> {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Text(text) => format!("'{}'", text.replace('\'', "''")),
            Self::Int(n) => n.to_string(),
        }
    }
}

impl Cond {
    /// In the language of conditions.
    pub(crate) fn text(&self) -> String {
        let joined =
            |parts: &[Self], word: &str| parts.iter().map(|p| format!("({})", p.text())).collect::<Vec<_>>().join(word);
        match self {
            Self::Compare(column, op, value) => format!("{column} {op} {}", value.text()),
            Self::Between(column, low, high) => format!("{column} between {} and {}", low.text(), high.text()),
            Self::In(column, values) => {
                format!("{column} in ({})", values.iter().map(Cell::text).collect::<Vec<_>>().join(", "))
            }
            Self::IsNull(column, negated) => format!("{column} is {}null", if *negated { "not " } else { "" }),
            Self::Within(column, region) => format!("{column} within '{region}'"),
            Self::And(parts) => joined(parts, " and "),
            Self::Or(parts) => joined(parts, " or "),
            Self::Not(inner) => format!("not ({})", inner.text()),
        }
    }

    pub(crate) fn columns(&self) -> BTreeSet<&'static str> {
        match self {
            Self::Compare(column, ..)
            | Self::Between(column, ..)
            | Self::In(column, _)
            | Self::IsNull(column, _)
            | Self::Within(column, _) => BTreeSet::from([*column]),
            Self::And(parts) | Self::Or(parts) => parts.iter().flat_map(Self::columns).collect(),
            Self::Not(inner) => inner.columns(),
        }
    }

    /// True, false, or unknown.
    pub(crate) fn holds(&self, row: &BTreeMap<&'static str, Cell>) -> Option<bool> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        match self {
            Self::Compare(column, op, value) => {
                let order = row[column].compare(value)?;
                Some(match *op {
                    "=" => order == Equal,
                    "!=" => order != Equal,
                    "<" => order == Less,
                    "<=" => order != Greater,
                    ">" => order == Greater,
                    _ => order != Less,
                })
            }
            Self::Between(column, low, high) => {
                Some(row[column].compare(low)? != Less && row[column].compare(high)? != Greater)
            }
            Self::In(column, values) => {
                if row[column] == Cell::Null {
                    return None;
                }
                Some(values.iter().any(|value| row[column].compare(value) == Some(Equal)))
            }
            Self::IsNull(column, negated) => Some((row[column] == Cell::Null) != *negated),
            Self::Within(column, region) => within(&row[column], region),
            Self::And(parts) => {
                let all: Vec<_> = parts.iter().map(|part| part.holds(row)).collect();
                if all.contains(&Some(false)) {
                    Some(false)
                } else if all.contains(&None) {
                    None
                } else {
                    Some(true)
                }
            }
            Self::Or(parts) => {
                let all: Vec<_> = parts.iter().map(|part| part.holds(row)).collect();
                if all.contains(&Some(true)) {
                    Some(true)
                } else if all.contains(&None) {
                    None
                } else {
                    Some(false)
                }
            }
            Self::Not(inner) => inner.holds(row).map(|holds| !holds),
        }
    }
}

impl Grant {
    /// The leaves that leave, in their order: those of the columns, structures taken apart, none twice, none dropped.
    pub(crate) fn leaves(&self, table: &Table) -> Vec<&'static str> {
        let mut leaves = Vec::new();
        for column in &self.columns {
            for (name, _) in &table.columns {
                let below =
                    name.len() > column.len() && name.starts_with(column) && name.as_bytes()[column.len()] == b'.';
                if (name == column || below) && !leaves.contains(name) {
                    leaves.push(*name);
                }
            }
        }
        leaves.retain(|leaf| self.change(leaf) != Some(Change::Drop));
        leaves
    }

    /// What happens to a leaf: what is said of it, else of the structure right above it, and so on.
    pub(crate) fn change(&self, leaf: &str) -> Option<Change> {
        let parts: Vec<&str> = leaf.split('.').collect();
        (1..=parts.len()).rev().find_map(|n| self.changes.get(parts[..n].join(".").as_str())).copied()
    }

    fn in_clear(&self, name: &str, table: &Table) -> bool {
        self.leaves(table).contains(&name) && self.change(name).is_none()
    }

    /// Every reason to deny a request, by its word; none where it is allowed.
    pub(crate) fn reasons(&self, request: &Request, table: &Table) -> BTreeSet<&'static str> {
        let mut reasons = BTreeSet::new();
        if request.agency != self.requester {
            return BTreeSet::from([if request.by_entry { "no_grant" } else { "grant_not_found" }]);
        }
        match self.status {
            Status::InForce => {}
            Status::Suspended => drop(reasons.insert("grant_suspended")),
            Status::Terminated => drop(reasons.insert("grant_terminated")),
        }
        let day = day_in_china(request.at_ms);
        if day < self.from {
            reasons.insert("period_not_begun");
        }
        if day > self.until {
            reasons.insert("period_ended");
        }
        let bit = |address: [u8; 4], i: usize| address[i / 8] >> (7 - i % 8) & 1;
        let is_in = |(net, len): &([u8; 4], u32)| (0..*len as usize).all(|i| bit(*net, i) == bit(request.address, i));
        if !self.networks.is_empty() && !self.networks.iter().any(is_in) {
            reasons.insert("network_outside_scope");
        }
        if !self.agents.is_empty() && !self.agents.contains(&request.agent) {
            reasons.insert("agent_outside_scope");
        }
        let files = table.columns.is_empty();
        if !self.methods.contains(&if files { "file_download" } else { "batch_exchange" }) {
            reasons.insert("method_outside_scope");
        }
        match request.purpose {
            Some(purpose) if !self.purposes.contains(&purpose) => drop(reasons.insert("purpose_outside_scope")),
            None if self.purposes.len() > 1 => drop(reasons.insert("purpose_needed")),
            _ => {}
        }
        if files {
            if !request.columns.is_empty() || request.rows.is_some() || request.region.is_some() {
                reasons.insert("no_columns_in_files");
            }
            return reasons;
        }
        let leaves = self.leaves(table);
        if request.columns.iter().any(|column| !leaves.contains(&column.as_str())) {
            reasons.insert("columns_outside_scope");
        } else if request.columns.iter().collect::<BTreeSet<_>>().len() < request.columns.len() {
            reasons.insert("column_twice");
        }
        if request.rows.iter().flat_map(Cond::columns).any(|column| !self.in_clear(column, table)) {
            reasons.insert("predicate_outside_scope");
        }
        match (&request.region, table.region) {
            (Some(_), None) => drop(reasons.insert("no_region_column")),
            (Some(_), Some(column)) if !self.in_clear(column, table) => drop(reasons.insert("predicate_outside_scope")),
            _ => {}
        }
        reasons
    }

    /// Whether a row leaves.
    pub(crate) fn gives(&self, request: &Request, table: &Table, row: &BTreeMap<&'static str, Cell>) -> bool {
        let lies = |region: &String| table.region.is_some_and(|column| within(&row[column], region) == Some(true));
        self.rows.iter().chain(&request.rows).all(|cond| cond.holds(row) == Some(true))
            && (self.regions.is_empty() || self.regions.iter().any(lies))
            && request.region.iter().all(lies)
    }

    /// The columns that leave, in the order asked for.
    pub(crate) fn delivered(&self, request: &Request, table: &Table) -> Vec<&'static str> {
        let leaves = self.leaves(table);
        if request.columns.is_empty() {
            return leaves;
        }
        let find = |name: &String| leaves.iter().find(|leaf| *leaf == name).copied();
        request.columns.iter().filter_map(find).collect()
    }

    /// A cell as it leaves.
    pub(crate) fn shown(&self, leaf: &str, cell: &Cell) -> String {
        match (self.change(leaf), cell) {
            (_, Cell::Null) => "∅".to_owned(),
            (None, Cell::Text(text)) => text.clone(),
            (None, Cell::Int(n)) => n.to_string(),
            (Some(Change::Mask(prefix, suffix)), Cell::Text(text)) => {
                let chars: Vec<char> = text.chars().collect();
                let hidden = chars.len() <= prefix + suffix;
                let keep = |i: usize| !hidden && (i < prefix || i >= chars.len() - suffix);
                chars.iter().enumerate().map(|(i, c)| if keep(i) { *c } else { '*' }).collect()
            }
            (Some(Change::Pseudonym), Cell::Text(text)) => self.pseudonym(&[b"s", text.as_bytes()].concat()),
            (Some(Change::Pseudonym), Cell::Int(n)) => self.pseudonym(&[&b"i"[..], &n.to_be_bytes()].concat()),
            other => panic!("{other:?} does not leave"),
        }
    }

    fn pseudonym(&self, value: &[u8]) -> String {
        let info = format!("lingqu pseudonym key v1 grant {}\u{1}", self.id);
        let key = hmac(&SECRET, info.as_bytes());
        base64url(&hmac(&key, value)[..16])
    }
}

/// The secret that the tests' pseudonyms are made with.
pub(crate) const SECRET: [u8; 32] = [0x5a; 32];

/// The day in China at a point in time.
pub(crate) fn day_in_china(at_ms: i64) -> NaiveDate {
    FixedOffset::east_opt(8 * 3600).unwrap().timestamp_millis_opt(at_ms).unwrap().date_naive()
}

/// HMAC-SHA-256 by RFC 2104, with a key of 32 bytes.
fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let pad = |with: u8| (0..64).map(|i| key.get(i).copied().unwrap_or(0) ^ with).collect::<Vec<u8>>();
    let inner = Digest::sha256(&[pad(0x36), message.to_vec()].concat()).bytes;
    Digest::sha256(&[pad(0x5c), inner.to_vec()].concat()).bytes
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bit = |i: usize| bytes.get(i / 8).map_or(0, |byte| byte >> (7 - i % 8) & 1);
    let digit = |at: usize| (0..6).fold(0, |n, i| n << 1 | bit(at * 6 + i));
    (0..(bytes.len() * 8).div_ceil(6)).map(|at| char::from(DIGITS[usize::from(digit(at))])).collect()
}

#[test]
fn the_reference_knows_what_it_says() {
    let text = |t: &str| Cell::Text(t.to_owned());
    assert_eq!(within(&text("441900"), "4419"), Some(true));
    assert_eq!(within(&text("4419"), "441900"), Some(false));
    assert_eq!(within(&text("440300"), "44"), None);
    assert_eq!(within(&text("110101001001"), "110101"), Some(true));
    assert_eq!(day_in_china(1_796_054_400_000 - 1).to_string(), "2026-11-30");
    assert_eq!(day_in_china(1_796_054_400_000).to_string(), "2026-12-01");
    assert_eq!(base64url(b"\xfb\xef\xff"), "--__");
    // RFC 4231, case 1 has a key of 20 bytes, which zeros fill up to 32 without a difference.
    let mut key = [0; 32];
    key[..20].fill(0x0b);
    assert!(hmac(&key, b"Hi There").starts_with(&[0xb0, 0x34, 0x4c, 0x61]));
}
