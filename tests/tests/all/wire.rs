//! The wire test: values planted where a scope does not reach never stand among the bytes that the gateway sends, whatever
//! is asked; and limits hold over parallel pulls, resumes and restarts.
//!
//! All bytes of all streams towards the peer are looked through, as the session hands them to the transport. A control run
//! under the full scope finds the same values, so the test can fail.

use super::inside::{Connection, Got, Inside, PROVIDER, REQUESTER};
use arrow::array::*;
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Fields, Int32Type};
use lingqu_protocol::columns::canonical_batch;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::ids::GrantId;
use lingqu_protocol::keys::key_entry;
use lingqu_protocol::receipt::Receipt;
use lingqu_protocol::rows::RowsDigest;
use lingqu_protocol::wire::{KeyValue, MatchKeys, Pull, Query};
use lingqu_tests::world::raw::batch_frames;
use std::collections::BTreeSet;
use std::sync::Arc;

const TERMS: &str = r#"
name = "n"
abstract = "a"
format = "table"
update_frequency = "daily"
sharing_class = "unconditional"
sharing_methods = ["batch_exchange", "service_interface"]
region_column = "region"
grade = "general-1"
items = [
  { name = "region", type = "string", personal = false },
  { name = "code", type = "string", key = true, personal = false },
  { name = "owner.name", type = "string", personal = true },
  { name = "owner.card", type = "string", personal = true },
  { name = "owner.number", type = "int64", personal = true },
  { name = "secret", type = "string", personal = false },
  { name = "kind", type = "string", personal = false },
  { name = "note", type = "string", personal = false },
  { name = "staff", type = "int32", personal = false },
  { name = "visits", type = "int64", personal = false },
]
"#;

const ROWS: usize = 2_400;
const REGIONS: [&str; 6] = ["440304", "440305", "440305001", "441900", "442000", "460400"];

/// Of rows of other regions, in a column that is granted in clear.
const REGION: &str = "SENTINEL-ELSEWHERE-7f31";
/// Of a column that was not granted.
const SECRET: &str = "SENTINEL-SECRET-0b77";
/// Between the characters that a mask keeps.
const MASKED: &str = "SENTINEL-MASKED-c4d9";
/// Of texts that leave as pseudonyms.
const CARD: &str = "SENTINEL-CARD-55ae";
/// Of a column that is granted and dropped.
const DROPPED: &str = "SENTINEL-DROPPED-21cc";
/// Of the provider's condition, which the requester's pull does not tell.
const CONDITION: &str = "SENTINEL-CONDITION-9e02";
/// A dictionary's value that rows of other regions have.
const DICTIONARY: &str = "SENTINEL-DICTIONARY-f00d";
/// A dictionary's value that no row has.
const UNUSED: &str = "SENTINEL-UNUSED-1dea";
/// Under nulls.
const HIDDEN: &str = "SENTINEL-HIDDEN-a11e";
/// Whole numbers: one that leaves as a pseudonym, one that is not granted, one under nulls.
const NUMBERS: [i64; 2] = [0x5EC2_37A1_1234_5671, 0x5EC2_37A1_1234_5672];
const HIDDEN_NUMBER: i32 = 0x5EC2_37A3;

/// The grants' scope, by which none of the above leaves.
const NARROW: &str = r#"
columns = ["region", "code", "owner", "kind", "note", "staff"]
regions = ["4403", "441900"]
where = "secret != 'SENTINEL-CONDITION-9e02' and region != '440304'"

[transforms]
owner.name = "mask(1,1)"
owner.card = "pseudonym"
owner.number = "pseudonym"
"#;

/// Everything in clear.
const FULL: &str = r#"
columns = ["region", "code", "owner", "secret", "kind", "note", "staff", "visits"]
"#;

fn in_scope(row: usize) -> bool {
    ["440305", "440305001", "441900"].contains(&REGIONS[row % REGIONS.len()])
}

/// Rows as a provider may have them: structures, dictionaries, bytes under nulls.
fn rows() -> RecordBatch {
    let texts = |f: &dyn Fn(usize) -> String| Arc::new(StringArray::from_iter_values((0..ROWS).map(f))) as ArrayRef;
    let elsewhere =
        |text: &str, row: usize| if in_scope(row) { format!("open-{row}") } else { format!("{text}-{row}") };
    let name = texts(&|row| format!("甲{MASKED}-{row}乙"));
    let card = texts(&|row| format!("{CARD}-{}", row % 37));
    let number: ArrayRef = Arc::new(Int64Array::from(vec![NUMBERS[0]; ROWS]));
    let fields: Fields = [("name", &name), ("card", &card), ("number", &number)]
        .map(|(name, array)| Field::new(name, array.data_type().clone(), true))
        .into_iter()
        .collect();
    // A null structure hides values of all its leaves.
    let there: Vec<bool> = (0..ROWS).map(|row| row % 7 != 0).collect();
    let owner: ArrayRef = Arc::new(StructArray::new(fields, vec![name, card, number], Some(NullBuffer::from(there))));
    let dictionary = StringArray::from(vec!["shop", "market", DICTIONARY, UNUSED]);
    let keys: Vec<i32> = (0..ROWS).map(|row| if in_scope(row) { (row % 2) as i32 } else { 2 }).collect();
    let kind: ArrayRef = Arc::new(DictionaryArray::<Int32Type>::new(Int32Array::from(keys), Arc::new(dictionary)));
    let valid: Vec<bool> = (0..ROWS).map(|row| row % 3 == 0).collect();
    let values = vec![HIDDEN; ROWS].concat();
    let hidden: ArrayRef = Arc::new(StringArray::new(
        OffsetBuffer::from_lengths(vec![HIDDEN.len(); ROWS]),
        Buffer::from(values.as_bytes()),
        Some(NullBuffer::from(vec![false; ROWS])),
    ));
    let numbers: Vec<i32> = valid.iter().map(|valid| if *valid { 7 } else { HIDDEN_NUMBER }).collect();
    let staff: ArrayRef = Arc::new(Int32Array::new(ScalarBuffer::from(numbers), Some(NullBuffer::from(valid))));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("region", texts(&|row| REGIONS[row % REGIONS.len()].to_owned())),
        ("code", texts(&|row| format!("{}-{row:06}", elsewhere(REGION, row)))),
        ("owner", owner),
        ("secret", texts(&|row| if row % 5 == 0 { CONDITION.to_owned() } else { format!("{SECRET}-{row}") })),
        ("kind", kind),
        ("note", hidden),
        ("staff", staff),
        ("visits", Arc::new(Int64Array::from(vec![NUMBERS[1]; ROWS]))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

fn needles() -> Vec<(&'static str, Vec<u8>)> {
    let texts = [REGION, SECRET, MASKED, CARD, CONDITION, DICTIONARY, UNUSED, HIDDEN];
    let mut needles: Vec<_> = texts.into_iter().map(|text| (text, text.as_bytes().to_vec())).collect();
    for number in NUMBERS {
        needles.push(("a number", number.to_le_bytes().to_vec()));
        needles.push(("a number, the other way round", number.to_be_bytes().to_vec()));
        needles.push(("a number in digits", number.to_string().into_bytes()));
    }
    needles.push(("a number under a null", HIDDEN_NUMBER.to_le_bytes().to_vec()));
    needles
}

fn pull(grant: impl ToString) -> Pull {
    Pull { target: grant.to_string(), ..Pull::default() }
}

/// A gateway with the rows, pushed as a peer may send them: what lies under nulls is on that wire.
async fn world() -> (Inside, RecordBatch) {
    let inside = Inside::new().await;
    inside.publish(TERMS);
    let spec = EntrySpec::parse(TERMS).unwrap();
    let flat = canonical_batch(&spec, &rows()).unwrap();
    let provider = inside.connect(PROVIDER).await;
    for _ in 0..2 {
        let (bodies, end) = batch_frames(TERMS, &flat);
        let sent = bodies.concat();
        for hidden in [HIDDEN.as_bytes(), &HIDDEN_NUMBER.to_le_bytes()] {
            assert!(sent.windows(hidden.len()).any(|w| w == hidden), "the gateway gets what lies under nulls");
        }
        provider.push(bodies, end).await;
    }
    (inside, flat)
}

fn column<'a>(got: &'a Got, name: &str) -> Vec<Option<&'a str>> {
    got.batches.iter().flat_map(|b| b.column_by_name(name).unwrap().as_string::<i32>().iter()).collect()
}

/// The digests and counts of a pull are over what was delivered, and so is its receipt.
fn is_whole(got: &Got) {
    let end = got.end.as_ref().unwrap_or_else(|| panic!("{:?}", got.fault));
    let mut digest = RowsDigest::of_schema(got.schema.as_ref().unwrap()).unwrap();
    for batch in &got.batches {
        digest.update(batch).unwrap();
    }
    assert_eq!(end.rows_digest, digest.finish().to_string());
    assert_eq!(end.bytes, got.bytes);
    let receipt = Receipt::from_json(got.receipt.as_ref().unwrap()).unwrap();
    assert_eq!(receipt.statement.rows_digest.map(|d| d.to_string()), Some(end.rows_digest.clone()));
    assert_eq!(receipt.statement.rows, Some(end.rows));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outside_the_scope_is_on_the_wire() {
    let (inside, flat) = world().await;
    let narrow = inside.grant(1, TERMS, NARROW);
    let dropping = inside.grant(2, TERMS, &NARROW.replace("owner.card = \"pseudonym\"", "owner.card = \"drop\""));
    let requester = inside.connect(REQUESTER).await;
    let expected = (0..ROWS).filter(|row| in_scope(*row) && row % 5 != 0).count();
    for ask in [
        pull(narrow),
        Pull { version: 1, ..pull(narrow) },
        Pull { columns: vec!["owner.card".into(), "owner.name".into(), "note".into()], ..pull(narrow) },
        Pull { r#where: "staff is null or note is null".into(), ..pull(narrow) },
        Pull { region: "46".into(), ..pull(narrow) },
        Pull { region: "44".into(), ..pull(narrow) },
        pull(dropping),
    ] {
        let got = requester.pull(ask.clone()).await;
        is_whole(&got);
        let rows: usize = got.batches.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, if ask.region == "46" { 0 } else { expected }, "{ask:?}");
    }
    // Refusals are bytes, too.
    for ask in [
        Pull { columns: vec!["secret".into()], ..pull(narrow) },
        Pull { columns: vec!["owner".into()], ..pull(narrow) },
        Pull { columns: vec!["owner.card".into()], ..pull(dropping) },
        Pull { r#where: "owner.number > 0".into(), ..pull(narrow) },
        Pull { r#where: "secret is null".into(), ..pull(narrow) },
        Pull { version: 9, ..pull(narrow) },
    ] {
        assert!(requester.pull(ask).await.fault.is_some());
    }
    assert!(requester.record.holds("open-".as_bytes()), "what is looked for would be found");
    for (what, needle) in needles() {
        assert!(!requester.record.holds(&needle), "{what}");
    }

    // The control: under the full scope all of it leaves but what no row has and what lies under nulls.
    let full = inside.grant(3, TERMS, FULL);
    let control = inside.connect(REQUESTER).await;
    let got = control.pull(pull(full)).await;
    is_whole(&got);
    assert_eq!(got.batches.iter().map(RecordBatch::num_rows).sum::<usize>(), flat.num_rows());
    for (what, needle) in needles() {
        let never = [UNUSED, HIDDEN, "a number under a null", "a number, the other way round", "a number in digits"];
        assert_eq!(control.record.holds(&needle), !never.contains(&what), "{what}");
    }
}

/// The frames of keys, and what they are announced as.
fn keys_of(codes: &[String]) -> (MatchKeys, Vec<bytes::Bytes>) {
    let keys = key_entry(&EntrySpec::parse(TERMS).unwrap());
    let column: ArrayRef = Arc::new(StringArray::from(codes.to_vec()));
    let batch = RecordBatch::try_new(lingqu_protocol::columns::arrow_schema(&keys), vec![column]).unwrap();
    let mut encoder = lingqu_protocol::ipc::Encoder::new(batch.schema()).unwrap();
    let mut bodies = vec![encoder.schema().unwrap()];
    for piece in (0..batch.num_rows()).step_by(100).map(|at| batch.slice(at, 100.min(batch.num_rows() - at))) {
        bodies.push(encoder.batch(&piece).unwrap().0.concat().into());
    }
    let mut digest = RowsDigest::new(&keys);
    digest.update(&batch).unwrap();
    let keys = batch.num_rows() as u64;
    (MatchKeys { keys, keys_digest: digest.finish().to_string(), ..MatchKeys::default() }, bodies)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_by_key_hold_nothing_outside_the_scope() {
    let (inside, flat) = world().await;
    let narrow = inside.grant(1, TERMS, NARROW);
    let requester = inside.connect(REQUESTER).await;
    let query = |grant: GrantId, key: &str| {
        let key = vec![KeyValue { name: String::new(), value: key.to_owned() }];
        Query { target: grant.to_string(), key, ..Query::default() }
    };
    let codes: Vec<String> =
        flat.column_by_name("code").unwrap().as_string::<i32>().iter().map(|code| code.unwrap().to_owned()).collect();
    let given = |row: usize| in_scope(row) && !row.is_multiple_of(5);
    // Keys that the asker may know, of rows in its scope and of none; the key comes back as it was asked.
    let open: Vec<usize> = (0..ROWS).filter(|row| in_scope(*row)).collect();
    for row in open.iter().step_by(97) {
        let got = requester.query(query(narrow, &codes[*row])).await;
        assert!(got.fault.is_none(), "{:?}", got.fault);
        let rows: usize = got.batches.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, usize::from(given(*row)), "row {row}");
    }
    let asked: Vec<String> = open.iter().map(|row| codes[*row].clone()).chain(["open-nobody".to_owned()]).collect();
    let (ask, bodies) = keys_of(&asked);
    let got = requester.match_keys(MatchKeys { target: narrow.to_string(), ..ask }, bodies).await;
    is_whole(&got);
    let found: usize = got.batches.iter().map(|b| b.column_by_name("_found").unwrap().as_boolean().true_count()).sum();
    assert_eq!(found, open.iter().filter(|row| given(**row)).count());
    assert_eq!(got.end.as_ref().map(|end| end.rows), Some(asked.len() as u64));
    let names: Vec<_> = got.schema.as_ref().unwrap().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names[..3], ["code", "_found", "region"]);
    assert!(column(&got, "owner.name").iter().flatten().all(|n| n.starts_with("甲*") && n.ends_with("*乙")));
    // Refusals and broken keys are bytes, too.
    for (ask, word) in [
        (Query { columns: vec!["secret".into()], ..query(narrow, "x") }, "columns_outside_scope"),
        (Query { key: vec![], ..query(narrow, "x") }, "bad_data"),
        (Query { version: 9, ..query(narrow, "x") }, "not_found"),
    ] {
        assert_eq!(requester.query(ask).await.fault.unwrap().word, word);
    }
    let (ask, bodies) = keys_of(&asked[..3]);
    let lying = MatchKeys { target: narrow.to_string(), keys: 4, ..ask.clone() };
    assert_eq!(requester.match_keys(lying, bodies.clone()).await.fault.unwrap().word, "integrity");
    let fewer = MatchKeys { target: narrow.to_string(), keys: 2, ..ask };
    assert_eq!(requester.match_keys(fewer, bodies).await.fault.unwrap().word, "bad_data");
    for (what, needle) in needles() {
        assert!(!requester.record.holds(&needle), "{what}");
    }
    assert!(requester.record.holds("open-".as_bytes()), "what is looked for would be found");

    // The control: a key that is outside tells nothing under the narrow scope, and all under the full one.
    let secret = (0..ROWS).find(|row| !in_scope(*row) && row % 5 != 0).unwrap();
    assert_eq!(requester.query(query(narrow, &codes[secret])).await.batches.len(), 0);
    assert!(!requester.record.holds(REGION.as_bytes()), "a key is not said back where there is no row");
    let full = inside.grant(3, TERMS, FULL);
    let control = inside.connect(REQUESTER).await;
    let got = control.query(query(full, &codes[secret])).await;
    assert_eq!(got.batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    assert!(control.record.holds(SECRET.as_bytes()) && control.record.holds(REGION.as_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_holds_for_queries_too() {
    let (inside, flat) = world().await;
    let grant = inside.grant(1, TERMS, &format!("volume_bytes_max = 20_000\n{NARROW}"));
    let requester = inside.connect(REQUESTER).await;
    let codes = flat.column_by_name("code").unwrap().as_string::<i32>().clone();
    let mut total = 0;
    let mut words = BTreeSet::new();
    for row in (0..ROWS).filter(|row| in_scope(*row) && row % 5 != 0).take(200) {
        let key = vec![KeyValue { name: "code".to_owned(), value: codes.value(row).to_owned() }];
        let got = requester.query(Query { target: grant.to_string(), key, ..Query::default() }).await;
        total += got.bytes;
        words.extend(got.fault.map(|fault| fault.word));
    }
    assert_eq!(words, BTreeSet::from(["volume_used_up".to_owned()]));
    assert!((15_000..=20_000).contains(&total), "{total}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_by_an_answer_is_on_no_stream() {
    let inside = Inside::new().await;
    let terms = TERMS.replacen("name = \"kind\"", "name = \"kind_of\"", 1);
    inside.publish(&terms);
    let texts = |text: String| Arc::new(StringArray::from(vec![text; 50])) as ArrayRef;
    let spec = EntrySpec::parse(&terms).unwrap();
    let columns = spec.items.iter().map(|item| {
        let array = match item.name.as_str() {
            "region" => texts("440305".into()),
            "owner.card" => texts(format!("{DROPPED}-x")),
            "owner.number" | "visits" => Arc::new(Int64Array::from(vec![1; 50])) as ArrayRef,
            "staff" => Arc::new(Int32Array::from(vec![1; 50])) as ArrayRef,
            other => texts(format!("open {other}")),
        };
        (item.name.clone(), array)
    });
    let (bodies, end) = batch_frames(&terms, &RecordBatch::try_from_iter(columns).unwrap());
    inside.connect(PROVIDER).await.push(bodies, end).await;
    let keys = "columns = [\"owner\", \"note\"]\n[transforms]\nowner.card = \"drop\"";
    let grant = inside.grant(1, &terms, keys);
    let requester = inside.connect(REQUESTER).await;
    let got = requester.pull(pull(grant)).await;
    is_whole(&got);
    let names: Vec<_> = got.schema.unwrap().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["owner.name", "owner.number", "note"]);
    assert!(!requester.record.holds(DROPPED.as_bytes()) && requester.record.holds(b"open note"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pseudonyms_join_within_a_grant_and_never_across_two() {
    let (inside, _) = world().await;
    let [one, two] = [1, 2].map(|number| inside.grant(number, TERMS, NARROW));
    let requester = inside.connect(REQUESTER).await;
    let set =
        |got: &Got, name: &str| column(got, name).into_iter().flatten().map(str::to_owned).collect::<BTreeSet<_>>();
    let first = requester.pull(Pull { version: 1, ..pull(one) }).await;
    let again = requester.pull(Pull { version: 2, columns: vec!["owner.card".into()], ..pull(one) }).await;
    let other = requester.pull(pull(two)).await;
    let cards = set(&first, "owner.card");
    assert_eq!(cards.len(), 37, "as many as there are cards");
    assert!(cards.iter().all(|card| card.len() == 22));
    assert_eq!(cards, set(&again, "owner.card"), "across pulls and versions");
    assert!(cards.is_disjoint(&set(&other, "owner.card")));
    assert_eq!((set(&first, "owner.number").len(), set(&other, "owner.number").len()), (1, 1));
    assert!(set(&first, "owner.number").is_disjoint(&set(&other, "owner.number")));
    let names = column(&first, "owner.name");
    assert!(names.iter().flatten().all(|n| n.starts_with("甲*") && n.ends_with("*乙")), "{:?}", names.first());
    assert!(names.contains(&None), "a null stays null");
    let schema = first.schema.clone().unwrap();
    let field = schema.field_with_name("owner.number").unwrap();
    assert_eq!(*field.data_type(), DataType::Utf8);
    assert_eq!(field.metadata()["lingqu.transform"], "pseudonym hmac-sha256-128");
    // A gateway that starts again makes the same ones.
    let inside = inside.restart().await;
    inside.publish(TERMS);
    inside.grant(1, TERMS, NARROW);
    let after = inside.connect(REQUESTER).await.pull(pull(one)).await;
    assert_eq!(cards, set(&after, "owner.card"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_versions_columns_are_found_by_name_after_the_entry_changed() {
    let (inside, _) = world().await;
    // The same items in another order, and one more: places in the entry are not places in the version.
    let mut lines: Vec<&str> = TERMS.lines().collect();
    let at = lines.iter().position(|line| line.contains("\"visits\"")).unwrap();
    let visits = lines.remove(at);
    let region = lines.iter().position(|line| line.contains("name = \"region\"")).unwrap();
    lines.insert(region, visits);
    inside.publish(&lines.join("\n"));
    let grant = inside.grant(1, &lines.join("\n"), NARROW);
    let requester = inside.connect(REQUESTER).await;
    let got = requester.pull(pull(grant)).await;
    is_whole(&got);
    assert!(column(&got, "region").iter().all(|r| ["440305", "440305001", "441900"].contains(&r.unwrap())));
    for (what, needle) in needles() {
        assert!(!requester.record.holds(&needle), "{what}");
    }
    // A column that has another type in the version is not given as what it is not.
    inside.publish(&TERMS.replacen("\"staff\", type = \"int32\"", "\"staff\", type = \"int64\"", 1));
    let got = requester.pull(pull(grant)).await;
    assert!(got.fault.is_some_and(|fault| fault.text.contains("before its entry changed")));
}

async fn totals(connections: &[Connection], ask: impl Fn() -> Pull) -> (u64, Vec<Got>) {
    let all = futures::future::join_all(connections.iter().map(|connection| connection.pull(ask()))).await;
    (all.iter().map(|got| got.bytes).sum(), all)
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_pulls_resumes_and_restarts_stay_within_the_volume() {
    let (inside, _) = world().await;
    let free = inside.grant(9, TERMS, NARROW);
    let size = inside.connect(REQUESTER).await.pull(pull(free)).await.bytes;
    let max = size * 5 / 2;
    let keys = |more: &str| format!("volume_bytes_max = {max}\n{more}{NARROW}");
    let grant = inside.grant(1, TERMS, &keys(""));
    let connections = futures::future::join_all((0..6).map(|_| inside.connect(REQUESTER))).await;
    let (sent, all) = totals(&connections, || pull(grant)).await;
    let whole = all.iter().filter(|got| got.end.is_some()).count();
    assert!(sent <= max && whole < 6, "{sent} of {max}, {whole} whole");
    for got in all.iter().filter(|got| got.end.is_none()) {
        assert_eq!(got.fault.as_ref().map(|f| f.word.as_str()), Some("volume_used_up"));
    }
    // Again and again, and by a gateway that starts again: what was sent stays counted.
    let (mut inside, mut total) = (inside, sent);
    for _ in 0..4 {
        inside = inside.restart().await;
        inside.publish(TERMS);
        inside.grant(1, TERMS, &keys(""));
        let connection = inside.connect(REQUESTER).await;
        for _ in 0..2 {
            total += connection.pull(pull(grant)).await.bytes;
        }
        assert!(total <= max, "{total} of {max}");
    }
    assert!(total > max - size, "and what was approved can be used: {total} of {max}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_days_requests_are_counted_over_resumes_and_restarts() {
    let (inside, _) = world().await;
    let keys = format!("requests_per_day_max = 3\n{NARROW}");
    let grant = inside.grant(1, TERMS, &keys);
    let connection = inside.connect(REQUESTER).await;
    let transfer = lingqu_protocol::ids::TransferId::from_bits(77).to_string();
    let first = connection.pull_as(transfer.clone(), pull(grant)).await;
    is_whole(&first);
    let again = connection.pull_as(transfer.clone(), pull(grant)).await;
    assert_eq!(again.receipt, first.receipt, "the first receipt again is no new request");
    assert!(connection.pull(Pull { columns: vec!["secret".into()], ..pull(grant) }).await.fault.is_some());
    is_whole(&connection.pull(pull(grant)).await);
    // Midnight may pass while this runs: then the day has more again, and the test has nothing to say.
    let day =
        || lingqu_protocol::scope::day_of(lingqu_protocol::host::Timestamp(chrono::Utc::now().timestamp_millis()));
    let today = day();
    let inside = inside.restart().await;
    inside.publish(TERMS);
    inside.grant(1, TERMS, &keys);
    let connections = futures::future::join_all((0..4).map(|_| inside.connect(REQUESTER))).await;
    let (_, all) = totals(&connections, || pull(grant)).await;
    let words: Vec<_> = all.iter().filter_map(|got| got.fault.as_ref()).map(|fault| fault.word.as_str()).collect();
    if day() == today {
        assert_eq!(words, ["requests_used_up"; 3], "one was left");
        let before = connections[0].record.bytes();
        assert!(connections[0].pull(pull(grant)).await.fault.is_some());
        assert!(connections[0].record.bytes() - before < 1_000, "a refusal is all that was sent");
        let kept = connections[0].pull_as(transfer, pull(grant)).await;
        assert_eq!(kept.receipt, first.receipt, "and the receipt is still there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_slows_and_loses_nothing() {
    let (inside, _) = world().await;
    let [fast, slow] = [(1, ""), (2, "rate_bytes_per_second_max = 2_000_000\n")]
        .map(|(number, more)| inside.grant(number, TERMS, &format!("{more}{NARROW}")));
    let connection = inside.connect(REQUESTER).await;
    let (fast, slow) = (connection.pull(pull(fast)).await, connection.pull(pull(slow)).await);
    is_whole(&slow);
    let rows = |got: &Got| got.batches.iter().map(RecordBatch::num_rows).sum::<usize>();
    assert_eq!(rows(&fast), rows(&slow));
    assert!(column(&fast, "code") == column(&slow, "code"));
}
