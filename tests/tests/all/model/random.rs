//! Random rows, grants and requests. Requests lie near the edges of their grants: on the days and in the milliseconds
//! around a period's ends, in and beside its networks, about its columns and the ones next to them.

use super::day;
use super::reference::{Cell, Change, Cond, Grant, Request, Status, Table, below};
use lingqu_tests::faults::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

pub(crate) const REQUESTERS: [&str; 2] = ["91512081MA62K0260E", "91330100799655058B"];
pub(crate) const OTHER: &str = "11440300000000001R";
pub(crate) const AGENTS: [&str; 3] = ["main", "night-1", "third"];
const PURPOSES: [&str; 3] = ["低收入家庭核对", "统计", "审批"];
const METHODS: [&str; 3] = ["batch_exchange", "file_download", "service_interface"];
const DAY_MS: i64 = 24 * 3600 * 1000;

/// Codes of each level, and such as look like another level than they are.
static REGIONS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut codes: Vec<String> = [
        "44",
        "4403",
        "440304",
        "440305",
        "4401",
        "440103",
        "4419",
        "441900",
        "4420",
        "442000",
        "4604",
        "460400",
        "46",
        "11",
        "1101",
        "110101",
        "4190",
        "419001",
        "350527000",
        "440304001",
    ]
    .map(str::to_owned)
    .to_vec();
    for county in ["441900", "442000", "460400", "440305"] {
        codes.extend(below(county).into_iter().take(2));
    }
    codes.push(format!("{}001", below("110101")[0]));
    codes
});

/// Texts that are no region of the table: unknown to `within`.
const STRANGE: [&str; 4] = ["440300", "999999", "", "深圳"];

fn pick<T: Clone>(rng: &mut Rng, list: &[T]) -> T {
    list[rng.below(list.len() as u64) as usize].clone()
}

/// Some of a list, in its order; at least one.
fn some<T: Clone>(rng: &mut Rng, list: &[T]) -> Vec<T> {
    loop {
        let chosen: Vec<T> = list.iter().filter(|_| rng.one_in(2)).cloned().collect();
        if !chosen.is_empty() {
            return chosen;
        }
    }
}

pub(crate) fn row(rng: &mut Rng, number: usize, has_region: bool) -> BTreeMap<&'static str, Cell> {
    let maybe = |rng: &mut Rng, cell: Cell| if rng.one_in(5) { Cell::Null } else { cell };
    let text = |rng: &mut Rng, texts: &[&str]| Cell::Text(pick(rng, texts).to_owned());
    let mut row = BTreeMap::new();
    let region = match (has_region, rng.below(6)) {
        (false, 0) => Cell::Null,
        (false, 1) => text(rng, &STRANGE),
        _ => Cell::Text(pick(rng, &REGIONS)),
    };
    row.insert("region", region);
    row.insert("code", Cell::Text(format!("C{number:04}")));
    for (column, texts) in [
        ("owner", &["张三", "张三丰", "李四", "", "a'b"][..]),
        ("address.city", &["深圳", "东莞", "Sansha"]),
        ("address.at.street", &["深南大道", "x", "long street name"]),
        ("address.at.number", &["1", "12", "123"]),
        ("addressee", &["张三", "x"]),
    ] {
        let cell = text(rng, texts);
        row.insert(column, maybe(rng, cell));
    }
    let staff = Cell::Int(rng.below(7) as i64 - 2);
    row.insert("staff", maybe(rng, staff));
    let visits = Cell::Int(pick(rng, &[0, 1, -1, i64::from(i32::MAX) + 1, i64::MIN, i64::MAX]));
    row.insert("visits", maybe(rng, visits));
    row
}

fn term(rng: &mut Rng, columns: &[(&'static str, bool)]) -> Cond {
    let (column, number) = pick(rng, columns);
    let value = |rng: &mut Rng| match number {
        true => Cell::Int(rng.below(7) as i64 - 2),
        false if column == "region" => Cell::Text(pick(rng, &REGIONS)),
        false => Cell::Text(pick(rng, &["张三", "深圳", "x", "1", "C0100", "a'b", ""]).to_owned()),
    };
    match rng.below(6) {
        0 => Cond::IsNull(column, rng.one_in(2)),
        1 => {
            let values = (0..1 + rng.below(3)).map(|_| value(rng)).collect();
            Cond::In(column, values)
        }
        2 => Cond::Between(column, value(rng), value(rng)),
        3 if !number => Cond::Within(column, pick(rng, &REGIONS)),
        _ => Cond::Compare(column, pick(rng, &["=", "!=", "<", "<=", ">", ">="]), value(rng)),
    }
}

fn cond(rng: &mut Rng, columns: &[(&'static str, bool)], depth: u32) -> Cond {
    let parts = |rng: &mut Rng| (0..2 + rng.below(2)).map(|_| cond(rng, columns, depth + 1)).collect();
    match rng.below(if depth < 3 { 6 } else { 1 }) {
        1 => Cond::And(parts(rng)),
        2 => Cond::Or(parts(rng)),
        3 => Cond::Not(Box::new(cond(rng, columns, depth + 1))),
        _ => term(rng, columns),
    }
}

fn change(rng: &mut Rng, numbers: bool) -> Change {
    match rng.below(3) {
        0 => Change::Drop,
        1 if !numbers => Change::Mask(rng.below(4) as usize, rng.below(3) as usize),
        _ => Change::Pseudonym,
    }
}

pub(crate) fn grant(rng: &mut Rng, id: String, requester: &'static str, entry: usize, table: &Table) -> Grant {
    let files = table.columns.is_empty();
    let names: Vec<&'static str> =
        table.columns.iter().map(|(name, _)| *name).chain(["address", "address.at"]).collect();
    let status = match rng.below(20) {
        0 => Status::Suspended,
        1 => Status::Terminated,
        _ => Status::InForce,
    };
    let from = rng.below(4) as i64;
    let mut grant = Grant {
        id,
        requester,
        entry,
        status,
        columns: if files { Vec::new() } else { some(rng, &names) },
        changes: BTreeMap::new(),
        rows: (!files && rng.one_in(2)).then(|| cond(rng, &table.columns, 0)),
        regions: Vec::new(),
        purposes: some(rng, &PURPOSES),
        methods: some(rng, &METHODS),
        agents: if rng.one_in(3) { some(rng, &AGENTS) } else { Vec::new() },
        networks: Vec::new(),
        from: day(from),
        until: day(from + rng.below(4) as i64),
        volume: rng.one_in(2).then(|| 1 + rng.below(100_000)),
        per_day: rng.one_in(2).then(|| 1 + rng.below(6)),
        used: (0, chrono::NaiveDate::from_ymd_opt(1970, 1, 1).unwrap(), 0),
    };
    if rng.one_in(3) {
        grant.networks = (0..1 + rng.below(2)).map(|_| network(rng)).collect::<BTreeSet<_>>().into_iter().collect();
    }
    if table.region.is_some() && rng.one_in(2) {
        let codes: BTreeSet<String> = (0..1 + rng.below(4)).map(|_| pick(rng, &REGIONS)).collect();
        grant.regions = codes.into_iter().collect();
    }
    if rng.one_in(2) {
        // Names of columns that are granted, of their leaves, and of structures that hold one.
        for _ in 0..1 + rng.below(4) {
            let Some((leaf, number)) = (!files).then(|| pick(rng, &table.columns)) else { break };
            let covered = |of: &str| leaf == of || leaf.strip_prefix(of).is_some_and(|rest| rest.starts_with('.'));
            if !grant.columns.iter().any(|column| covered(column)) {
                continue;
            }
            let above = leaf.match_indices('.').map(|(at, _)| &leaf[..at]).collect::<Vec<_>>();
            let name = pick(rng, &[vec![leaf], above].concat());
            grant.changes.insert(name, change(rng, number));
        }
        if !files && grant.leaves(table).is_empty() {
            grant.changes.clear();
        }
    }
    grant
}

fn network(rng: &mut Rng) -> ([u8; 4], u32) {
    let length = pick(rng, &[0, 1, 7, 8, 9, 15, 24, 31, 32]);
    let mut bits = u32::from_be_bytes([10, 1, rng.below(4) as u8, rng.below(256) as u8]);
    if length < 32 {
        bits = if length == 0 { 0 } else { bits >> (32 - length) << (32 - length) };
    }
    (bits.to_be_bytes(), length)
}

/// application.toml of a grant.
pub(crate) fn application(grant: &Grant) -> String {
    let list =
        |texts: &mut dyn Iterator<Item = String>| texts.map(|t| format!("\"{t}\"")).collect::<Vec<_>>().join(", ");
    let mut text = String::from("entry = \"x\"\nbasis = \"b\"\nscenario = \"s\"\n");
    let mut add = |key: &str, mut values: Vec<String>| {
        if !values.is_empty() {
            text.push_str(&format!("{key} = [{}]\n", list(&mut values.drain(..))));
        }
    };
    let owned = |texts: &[&'static str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    add("columns", owned(&grant.columns));
    add("purposes", owned(&grant.purposes));
    add("methods", owned(&grant.methods));
    add("agents", owned(&grant.agents));
    add("regions", grant.regions.clone());
    let network = |(net, len): &([u8; 4], u32)| format!("{}/{len}", std::net::Ipv4Addr::from(*net));
    add("networks", grant.networks.iter().map(network).collect());
    text.push_str(&format!("from = {}\nuntil = {}\n", grant.from, grant.until));
    if let Some(rows) = &grant.rows {
        text.push_str(&format!("where = \"\"\"{}\"\"\"\n", rows.text()));
    }
    for (key, value) in [("volume_bytes_max", grant.volume), ("requests_per_day_max", grant.per_day)] {
        text.push_str(&value.map_or(String::new(), |value| format!("{key} = {value}\n")));
    }
    if !grant.changes.is_empty() {
        text.push_str("[transforms]\n");
    }
    for (name, change) in &grant.changes {
        let word = match change {
            Change::Drop => "drop".to_owned(),
            Change::Mask(0, 0) => "mask".to_owned(),
            Change::Mask(prefix, suffix) => format!("mask({prefix},{suffix})"),
            Change::Pseudonym => "pseudonym".to_owned(),
        };
        text.push_str(&format!("\"{name}\" = \"{word}\"\n"));
    }
    text
}

pub(crate) fn request(rng: &mut Rng, grant: &Grant, table: &Table) -> Request {
    let odd = |rng: &mut Rng| rng.one_in(25);
    let agency = if odd(rng) { pick(rng, &[OTHER, REQUESTERS[0], REQUESTERS[1]]) } else { grant.requester };
    let agent = match grant.agents.is_empty() || odd(rng) {
        true => pick(rng, &AGENTS),
        false => pick(rng, &grant.agents),
    };
    let mut address = [10, 1, rng.below(4) as u8, rng.below(256) as u8];
    if let (Some((net, _)), false) = (grant.networks.first(), odd(rng)) {
        address = *net;
    }
    if odd(rng) {
        // One bit beside.
        let bit = rng.below(32) as usize;
        address[bit / 8] ^= 0x80 >> (bit % 8);
    }
    // Midnight in China is 16:00 of the day before in UTC.
    let midnight =
        |day: chrono::NaiveDate| day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_millis() - DAY_MS / 3;
    let (first, last) = (midnight(grant.from), midnight(grant.until));
    let at_ms = match rng.below(12) {
        0 => first - 1,
        1 => last + DAY_MS,
        2 => first,
        3 => last + DAY_MS - 1,
        4 => midnight(day(rng.below(9) as i64 - 1)) + rng.below(3) as i64 - 1,
        _ => first + rng.below((last - first + DAY_MS) as u64) as i64,
    };
    let purpose = match rng.below(4) {
        0 if odd(rng) => Some("别的用途"),
        0 => Some(pick(rng, &PURPOSES)),
        1 => None,
        _ => Some(pick(rng, &grant.purposes)),
    };
    let leaves = grant.leaves(table);
    let mut columns: Vec<String> = match leaves.is_empty() || rng.one_in(2) {
        true => Vec::new(),
        false => some(rng, &leaves).into_iter().map(str::to_owned).collect(),
    };
    rng.shuffle(&mut columns);
    if odd(rng) {
        let strange =
            ["address", "address.at", "REGION", "region ", "\"region\"", "address.City", "city", "*", "", "no_such"];
        columns.push(match rng.below(3) {
            0 => pick(rng, &strange).to_owned(),
            1 => table.columns.first().map_or("x".to_owned(), |_| pick(rng, &table.columns).0.to_owned()),
            _ => columns.first().cloned().unwrap_or_default(),
        });
    }
    // Mostly about what is in clear, so that most are allowed.
    let clear: Vec<_> = table
        .columns
        .iter()
        .filter(|(name, _)| leaves.contains(name) && grant.change(name).is_none())
        .copied()
        .collect();
    let mut rows = None;
    if !table.columns.is_empty() && rng.one_in(2) {
        let about = if clear.is_empty() || rng.one_in(8) { &table.columns } else { &clear };
        if !clear.is_empty() || odd(rng) {
            rows = Some(cond(rng, about, 0));
        }
    } else if table.columns.is_empty() && odd(rng) {
        rows = Some(Cond::IsNull("region", false));
    }
    let region_in_clear = table.region.is_some_and(|column| clear.iter().any(|(name, _)| *name == column));
    let region = (region_in_clear && rng.one_in(3) || odd(rng)).then(|| pick(rng, &REGIONS));
    let by_entry = rng.one_in(3);
    // Another requester has a grant of its own for the entry: its name would mean that one.
    let agency = if by_entry && agency != grant.requester { OTHER } else { agency };
    Request { agency, agent, address, at_ms, by_entry, columns, rows, region, purpose }
}
