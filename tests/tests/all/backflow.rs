//! Backflow: every department gets exactly the rows of its own region, version after version, decoded once however many
//! follow; and nothing of another region is ever on its wire.

use super::inside::{Connection, ENTRY, Half, Inside, PROVIDER};
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use lingqu_certs::memory::MemoryChannel;
use lingqu_protocol::agency::CreditCode;
use lingqu_protocol::backflow::ALIVE_EVERY;
use lingqu_protocol::changes::{OP_COLUMN, changes_entry};
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::frame::Event;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::ipc::{BatchRoot, Decoder, Encoder, cut};
use lingqu_protocol::rows::{RowsDigest, RowsSum};
use lingqu_protocol::session::FrameReader;
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{
    Cursor, DataHello, Fault, Follow, FollowReady, PushEnd, Read, Slice, SliceAck, SliceEnd, Step, reply, request, step,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const TERMS: &str = r#"
name = "n"
abstract = "a"
format = "table"
update_frequency = "daily"
sharing_class = "conditional"
conditions = "c"
purposes = ["p"]
sharing_methods = ["batch_exchange"]
region_column = "region"
grade = "general-1"
items = [
  { name = "region", type = "string", personal = false },
  { name = "code", type = "string", key = true, personal = false },
  { name = "note", type = "string", personal = false },
  { name = "n", type = "int64", personal = false },
]
"#;

/// The townships of the national table, which every department's region is told by.
fn townships() -> Vec<&'static str> {
    let lines = include_str!("../../../deploy/data/streets.csv").lines().skip(1);
    lines.map(|line| line.split(',').next().unwrap().trim_matches('"')).collect()
}

/// A credit code with the right check character.
fn code(n: usize) -> String {
    let body = format!("1144030000{n:07}");
    let mut all = "0123456789ABCDEFGHJKLMNPQRTUWXY".chars();
    all.find_map(|c| CreditCode::parse(&format!("{body}{c}")).ok()).unwrap().to_string()
}

/// Region, code, note and number.
type Row<'a> = (&'a str, &'a str, &'a str, i64);

fn rows(of: &[Row<'_>]) -> RecordBatch {
    let texts = |pick: &dyn Fn(&Row<'_>) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(of.iter().map(pick)))
    };
    let columns: [(&str, ArrayRef); 4] = [
        ("region", texts(&|row| row.0.to_owned())),
        ("code", texts(&|row| row.1.to_owned())),
        ("note", texts(&|row| row.2.to_owned())),
        ("n", Arc::new(Int64Array::from_iter_values(of.iter().map(|row| row.3)))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
}

/// Frames and end record of rows; as changes where each has what is to be done.
fn frames(batch: &RecordBatch, ops: Option<&[&str]>) -> (Vec<Bytes>, PushEnd) {
    let mut spec = EntrySpec::parse(TERMS).unwrap();
    let mut batch = batch.clone();
    if let Some(ops) = ops {
        spec = changes_entry(&spec);
        let mut columns: Vec<(String, ArrayRef)> =
            batch.schema().fields().iter().map(|f| f.name().clone()).zip(batch.columns().iter().cloned()).collect();
        columns.push((OP_COLUMN.to_owned(), Arc::new(StringArray::from_iter_values(ops))));
        batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    }
    let mut encoder = Encoder::new(batch.schema()).unwrap();
    let mut bodies = vec![encoder.schema().unwrap()];
    let mut digest = RowsDigest::new(&spec);
    for piece in cut(&batch) {
        let (body, _) = encoder.batch(&piece).unwrap();
        bodies.push(body.concat().into());
        digest.update(&lingqu_protocol::columns::canonical_batch(&spec, &piece).unwrap()).unwrap();
    }
    let end = PushEnd { rows: batch.num_rows() as u64, rows_digest: digest.finish().to_string(), ..PushEnd::default() };
    (bodies, end)
}

/// A subscription as a receiver has it, with the state that it keeps.
struct Following {
    control: Half<MemoryChannel>,
    ready: FollowReady,
    connection: Arc<Connection>,
    /// Rows as text, with how often each is there.
    state: BTreeMap<String, usize>,
    sum: RowsSum,
    slice: String,
    /// How long it leaves each batch lying, as a slow link does.
    waits: Duration,
}

/// What came.
#[derive(Debug)]
enum Said {
    Slice(Slice, SliceEnd),
    CaughtUp(u64),
    Fault(Fault),
    End,
}

async fn follow(connection: Arc<Connection>, ask: Follow) -> Result<Following, Fault> {
    // Each agency has one.
    let bits = connection.agency.bytes().fold(7u128, |bits, byte| bits.wrapping_mul(41).wrapping_add(u128::from(byte)));
    let subscription = TransferId::from_bits(bits).to_string();
    let ask = Follow { subscription, entry: ENTRY.to_string(), sink: "folder".into(), ..ask };
    let mut control = connection.request(request::Ask::Follow(ask)).await;
    match Connection::reply(&mut control.1).await {
        reply::Reply::FollowReady(ready) => {
            let (state, sum, slice) = (BTreeMap::new(), RowsSum::default(), ready.slice.clone());
            Ok(Following { control, ready, connection, state, sum, slice, waits: Duration::ZERO })
        }
        reply::Reply::Fault(fault) => Err(fault),
        other => panic!("{other:?}"),
    }
}

impl Following {
    /// The next thing that is said; a slice is taken up, and not acknowledged yet.
    async fn next(&mut self) -> Said {
        loop {
            let reply = match self.control.1.message::<lingqu_protocol::wire::Reply>("a reply").await {
                Ok(Some(reply)) => reply.reply.unwrap(),
                _ => return Said::End,
            };
            match reply {
                reply::Reply::Slice(slice) => return self.take(slice).await,
                reply::Reply::CaughtUp(caught_up) => return Said::CaughtUp(caught_up.version),
                reply::Reply::Fault(fault) => return Said::Fault(fault),
                reply::Reply::Alive(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn take(&mut self, slice: Slice) -> Said {
        let (mut root, mut digest, mut op_digest) = (BatchRoot::default(), RowsSum::default(), None::<RowsDigest>);
        if slice.mode == "full" {
            (self.state, self.sum) = (BTreeMap::new(), RowsSum::default());
        }
        let mut rows = 0;
        if slice.rows > 0 {
            let mut data = FrameReader::new(self.connection.channel.accept_uni().await.unwrap()).taking_lz4();
            let Ok(hello) = data.expect::<DataHello>("a data hello").await else { return self.fault().await };
            assert_eq!(hello.token, self.ready.token);
            let mut decoder = Decoder::default();
            loop {
                match data.next().await {
                    Ok(Some(Event::Batch(body))) => {
                        tokio::time::sleep(self.waits).await;
                        root.add([&body[..]]);
                        let Some(batch) = decoder.decode(body).unwrap() else { continue };
                        rows += batch.num_rows() as u64;
                        let op_digest =
                            op_digest.get_or_insert_with(|| RowsDigest::of_schema(&batch.schema()).unwrap());
                        op_digest.update(&batch).unwrap();
                        self.apply(&batch, &slice.mode);
                    }
                    Ok(None) => break,
                    Err(_) => return self.fault().await,
                    other => panic!("{other:?}"),
                }
            }
        }
        if let Some(op_digest) = &op_digest {
            digest = op_digest.sum();
        }
        let end = match Connection::reply(&mut self.control.1).await {
            reply::Reply::SliceEnd(end) => end,
            reply::Reply::Fault(fault) => return Said::Fault(fault),
            other => panic!("{other:?}"),
        };
        assert_eq!((end.rows, slice.rows), (rows, rows));
        assert_eq!(end.bytes_root, root.digest().to_string());
        assert_eq!(end.rows_digest, digest.digest().to_string());
        assert_eq!(end.upserts + end.deletes, rows);
        assert_eq!(end.state_rows, Some(self.sum.count));
        // Of some columns the gateway keeps no sum.
        let state = if self.ready.columns.len() == 4 { self.sum.digest().to_string() } else { String::new() };
        assert_eq!(end.state_rows_digest, state, "the state as the gateway knows it");
        self.slice = end.slice.clone();
        Said::Slice(slice, end)
    }

    async fn fault(&mut self) -> Said {
        match Connection::reply(&mut self.control.1).await {
            reply::Reply::Fault(fault) => Said::Fault(fault),
            other => panic!("{other:?}"),
        }
    }

    fn apply(&mut self, batch: &RecordBatch, mode: &str) {
        let items: Vec<usize> =
            (0..batch.num_columns()).filter(|at| batch.schema().field(*at).name() != OP_COLUMN).collect();
        let plain = batch.project(&items).unwrap();
        let mut digest = RowsDigest::of_schema(&plain.schema()).unwrap();
        let hashes = digest.update(&plain).unwrap().to_vec();
        let ops = batch.column_by_name(OP_COLUMN).map(|column| column.as_string::<i32>());
        assert_eq!(ops.is_some(), mode == "changes");
        for (row, hash) in hashes.iter().enumerate() {
            let text: Vec<String> = plain
                .columns()
                .iter()
                .map(|column| match column.as_string_opt::<i32>() {
                    Some(texts) => texts.value(row).to_owned(),
                    None => column.as_primitive::<Int64Type>().value(row).to_string(),
                })
                .collect();
            let text = text.join("|");
            let mut one = RowsSum::default();
            one.add_row(*hash);
            if ops.is_some_and(|ops| ops.value(row) == "delete") {
                self.sum.take(&one);
                let count = self.state.get_mut(&text).expect("a row that is there goes");
                *count -= 1;
                if *count == 0 {
                    self.state.remove(&text);
                }
            } else {
                self.sum.merge(&one);
                *self.state.entry(text).or_default() += 1;
            }
        }
    }

    async fn ack(&mut self, end: &SliceEnd) -> Result<u64, Fault> {
        let ack =
            SliceAck { version: end.version, bytes_root: end.bytes_root.clone(), rows_digest: end.rows_digest.clone() };
        self.control.0.message(&Step::from(step::Step::SliceAck(ack))).await.unwrap();
        match Connection::reply(&mut self.control.1).await {
            reply::Reply::SliceTaken(taken) => Ok(taken.leaf_index),
            reply::Reply::Fault(fault) => Err(fault),
            other => panic!("{other:?}"),
        }
    }

    /// Takes up and acknowledges a slice; its mode.
    async fn slice(&mut self) -> (String, u64) {
        match self.next().await {
            Said::Slice(slice, end) => {
                self.ack(&end).await.unwrap();
                (slice.mode, slice.version)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn caught_up(&mut self) -> u64 {
        match self.next().await {
            Said::CaughtUp(version) => version,
            other => panic!("{other:?}"),
        }
    }

    fn cursor(&self, version: u64) -> Option<Cursor> {
        Some(Cursor { version, slice: self.slice.clone() })
    }

    fn codes(&self) -> BTreeSet<&str> {
        self.state.keys().map(|row| row.split('|').nth(1).unwrap()).collect()
    }
}

async fn connect(inside: &Inside, agency: &str) -> Arc<Connection> {
    Arc::new(inside.connect(agency).await)
}

/// Departments of regions, by their codes.
fn departments(inside: &Inside, regions: &[&'static str]) -> BTreeMap<&'static str, String> {
    let all: Vec<(String, &str)> = regions.iter().enumerate().map(|(n, region)| (code(n), *region)).collect();
    inside.departments(&all);
    all.into_iter().map(|(code, region)| (region, code)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_townships_of_the_country_reach_their_provinces_cities_and_counties_exactly() {
    let inside = Inside::new().await;
    inside.publish(TERMS);
    inside.list(1, None, "");
    let townships = townships();
    assert_eq!(townships.len(), 41_352);
    let mut all: Vec<(&str, String, String, i64)> = townships
        .iter()
        .zip(0i64..)
        .map(|(region, n)| (*region, format!("C{region}"), format!("SENTINEL-{region}-"), n))
        .collect();
    // Codes that end in zeros, groups, and what is registered right at a province.
    for region in ["441900", "442000", "460400", "4419", "4190", "4290", "4690", "6590", "44", "419001"] {
        all.push((region, format!("C{region}"), format!("SENTINEL-{region}-"), -1));
    }
    let of: Vec<(&str, &str, &str, i64)> = all.iter().map(|r| (r.0, r.1.as_str(), r.2.as_str(), r.3)).collect();
    let provider = inside.connect(PROVIDER).await;
    let (bodies, end) = frames(&rows(&of), None);
    provider.push(bodies, end).await;

    let provinces: BTreeSet<&'static str> = townships.iter().map(|code| &code[..2]).collect();
    assert_eq!(provinces.len(), 31);
    let mut regions: Vec<&'static str> = provinces.iter().copied().collect();
    regions.extend(["4403", "4419", "4420", "4604", "4190", "4290", "4690", "6590", "1101", "5002", "3301"]);
    regions.extend(["441900", "442000", "460400", "419001", "440304", "110101", "330102", "654301"]);
    regions.extend(["441900003", "440304001"]);
    let whose = departments(&inside, &regions);
    let mut seen = 0;
    for region in &regions {
        let connection = connect(&inside, &whose[region]).await;
        let ask = Follow { once: true, ..Follow::default() };
        let mut following = follow(Arc::clone(&connection), ask).await.unwrap();
        assert_eq!(following.ready.regions, [*region]);
        assert_eq!(following.slice().await, ("full".to_owned(), 1), "{region}");
        assert_eq!(following.caught_up().await, 1);
        assert!(matches!(following.next().await, Said::End));
        let expected: BTreeSet<&str> = of.iter().filter(|row| row.0.starts_with(region)).map(|row| row.1).collect();
        assert_eq!(following.codes(), expected, "{region}: no row more, no row less");
        if region.len() == 2 {
            seen += following.state.values().sum::<usize>();
        }
        // Nothing of others is among the bytes that it was sent.
        for (other, ..) in of.iter().step_by(977).filter(|row| !row.0.starts_with(region)) {
            assert!(
                !connection.record.holds(format!("SENTINEL-{other}-").as_bytes()),
                "{other} on the wire of {region}"
            );
        }
        let mine = of.iter().find(|row| row.0.starts_with(region)).unwrap();
        assert!(connection.record.holds(mine.2.as_bytes()), "the test can fail");
    }
    assert_eq!(seen, of.len(), "the provinces together are the whole");
    let decoded = inside.services().flow.steps().decoded_rows();
    assert!(decoded as f64 <= 1.05 * of.len() as f64, "{decoded} rows decoded of {}", of.len());
}

/// A provider that pushed some rows, and a department of 441900.
async fn begun() -> (Inside, Connection, String) {
    let inside = Inside::new().await;
    inside.publish(TERMS);
    inside.list(1, None, "");
    let provider = inside.connect(PROVIDER).await;
    let (bodies, end) = frames(
        &rows(&[("441900", "a", "x", 1), ("441900003", "b", "x", 2), ("4403", "c", "SENTINEL-ELSEWHERE", 3)]),
        None,
    );
    provider.push(bodies, end).await;
    let own = departments(&inside, &["441900", "4403"])["441900"].clone();
    (inside, provider, own)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_append_and_changes_come_as_they_are_committed_and_the_state_is_the_gateways() {
    let (inside, provider, own) = begun().await;
    let connection = connect(&inside, &own).await;
    let mut following = follow(Arc::clone(&connection), Follow::default()).await.unwrap();
    assert_eq!(following.ready.keys, ["code"]);
    assert_eq!(following.slice().await, ("full".to_owned(), 1));
    assert_eq!(following.caught_up().await, 1);
    let push = async |mode: &str, of: &[(&str, &str, &str, i64)], ops: Option<&[&str]>| {
        let (bodies, end) = frames(&rows(of), ops);
        provider.push_as(mode, bodies, end).await;
    };
    push("append", &[("441900003", "d", "y", 4), ("4403", "e", "SENTINEL-ELSEWHERE", 5)], None).await;
    assert_eq!(following.slice().await, ("append".to_owned(), 2));
    assert_eq!(following.codes(), BTreeSet::from(["a", "b", "d"]));
    assert_eq!(following.caught_up().await, 2);
    // One replaced, one deleted, one moved away, one moved in, and one elsewhere.
    let changes = [
        ("441900", "a", "z", 10),
        ("441900003", "b", "", 0),
        ("4403", "d", "SENTINEL-ELSEWHERE", 12),
        ("441900", "c", "z", 13),
        ("4403", "e", "SENTINEL-ELSEWHERE", 14),
    ];
    push("changes", &changes, Some(&["upsert", "delete", "upsert", "upsert", "upsert"])).await;
    assert_eq!(following.slice().await, ("changes".to_owned(), 3));
    assert_eq!(following.state.keys().collect::<Vec<_>>(), ["441900|a|z|10", "441900|c|z|13"]);
    assert_eq!(following.caught_up().await, 3);
    // Nothing of the region changes: the version is told, and nothing is sent.
    push("append", &[("4403", "f", "SENTINEL-ELSEWHERE", 6)], None).await;
    assert_eq!(following.slice().await, ("append".to_owned(), 4));
    assert_eq!(following.caught_up().await, 4);
    push("full", &[("441900", "q", "w", 1), ("4403", "r", "SENTINEL-ELSEWHERE", 2)], None).await;
    assert_eq!(following.slice().await, ("full".to_owned(), 5));
    assert_eq!(following.codes(), BTreeSet::from(["q"]));
    assert!(!connection.record.holds(b"SENTINEL-ELSEWHERE"));
    // A cursor from before goes through what came since, and ends where the other one is.
    let again = Follow { cursor: Some(Cursor { version: 4, slice: following.slice.clone() }), ..Follow::default() };
    let mut late = follow(connect(&inside, &own).await, again).await.unwrap();
    assert_eq!(late.ready.advice.as_ref().map(|advice| advice.version), Some(5), "advice, and no more");
    assert_eq!(late.slice().await, ("full".to_owned(), 5));
    assert_eq!(late.state, following.state);
    // Whoever asks with the same id takes the subscription over.
    let Said::CaughtUp(5) = following.next().await else { panic!("the first had caught up before") };
    let Said::Fault(fault) = following.next().await else { panic!("the first goes on") };
    assert_eq!(fault.word, "conflict");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_parts_that_are_written_anew_are_no_changes() {
    let (inside, provider, own) = begun().await;
    let mut following = follow(connect(&inside, &own).await, Follow::default()).await.unwrap();
    following.slice().await;
    following.caught_up().await;
    for n in 0..40i64 {
        let key = format!("k{n}");
        let (bodies, end) = frames(&rows(&[("441900", &key, "y", n), ("4403", &format!("o{n}"), "y", n)]), None);
        provider.push_as("append", bodies, end).await;
        let Said::Slice(slice, end) = following.next().await else { panic!("no slice") };
        assert_eq!((slice.mode.as_str(), end.rows), ("append", 1), "version {}", slice.version);
        following.ack(&end).await.unwrap();
        following.caught_up().await;
    }
    assert_eq!(following.state.len(), 42);
}

/// Rows that lie ready are compressed, and on a slow link all are, for those alone who take that; what comes out is the same,
/// digests and all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_travel_compressed_where_that_is_worth_it_and_are_the_same_ones() {
    let inside = Inside::new().await;
    inside.publish(TERMS);
    inside.list(1, None, "");
    let codes: Vec<String> = (0..40_000).map(|n| format!("{n:012}")).collect();
    let note = "the same words in every row, as registers have them, again and again and again";
    let of: Vec<Row<'_>> = codes.iter().map(|code| ("441900", code.as_str(), note, 7)).collect();
    let (bodies, end) = frames(&rows(&of), None);
    inside.connect(PROVIDER).await.push(bodies, end).await;
    let own = departments(&inside, &["441900", "4403"])["441900"].clone();
    // Over a slow link as rows while they are read, then over a fast one as messages that lie ready, then over a slow one as
    // rows of some columns; and last who takes it plain.
    for (columns, lz4, slow) in
        [(&[][..], true, true), (&[], true, false), (&["code", "note"], true, true), (&[], false, true)]
    {
        let connection = connect(&inside, &own).await;
        let columns = columns.iter().map(|c| (*c).to_owned()).collect();
        let ask = Follow { once: true, lz4, columns, ..Follow::default() };
        let mut following = follow(Arc::clone(&connection), ask).await.unwrap();
        following.waits = if slow { Duration::from_millis(30) } else { Duration::ZERO };
        let Said::Slice(_, end) = following.next().await else { panic!("a slice must come") };
        let (sent, whole) = (connection.record.bytes() as u64, end.bytes);
        assert!(whole > 3 << 20, "enough to see the link by: {whole}");
        if lz4 {
            assert!(sent < whole / 10 * 8, "{sent} of {whole} bytes");
        } else {
            assert!(sent > whole, "{sent} of {whole} bytes");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_cannot_go_on_is_told_to_start_anew() {
    let (inside, _provider, own) = begun().await;
    let mut following = follow(connect(&inside, &own).await, Follow::default()).await.unwrap();
    following.slice().await;
    let word = async |cursor, columns: &[&str]| {
        let columns = columns.iter().map(|c| (*c).to_owned()).collect();
        let ask = Follow { cursor, columns, once: true, ..Follow::default() };
        follow(connect(&inside, &own).await, ask).await.map_or_else(|fault| fault.word, |_| "ready".to_owned())
    };
    assert_eq!(word(following.cursor(1), &[]).await, "ready");
    assert_eq!(word(following.cursor(2), &[]).await, "start_anew", "ahead of the gateway");
    assert_eq!(word(following.cursor(1), &["region", "code"]).await, "start_anew", "other columns");
    assert_eq!(word(None, &["region", "code"]).await, "ready");
    let fewer = slice_of(&inside, &own, &["region", "code"]).await;
    assert_eq!(word(Some(Cursor { version: 1, slice: fewer }), &[]).await, "start_anew", "more columns than it has");
    assert_eq!(word(None, &["nothing"]).await, "columns_outside_scope");
    assert_eq!(word(Some(Cursor { version: 1, slice: "x".into() }), &[]).await, "start_anew");
    // The entry gains a column at its end: what was there before goes on.
    inside.publish(&TERMS.replace("\n]\n", "\n  { name = \"more\", type = \"string\", personal = false },\n]\n"));
    assert_eq!(word(following.cursor(1), &[]).await, "ready");
    // The list names less: that is another slice.
    inside.list(2, None, "items = [\"region\", \"code\"]\n");
    assert_eq!(word(following.cursor(1), &[]).await, "start_anew");
}

async fn slice_of(inside: &Inside, own: &str, columns: &[&str]) -> String {
    let columns = columns.iter().map(|c| (*c).to_owned()).collect();
    let ask = Follow { columns, once: true, ..Follow::default() };
    follow(connect(inside, own).await, ask).await.map(|following| following.slice).unwrap_or_else(|f| panic!("{f:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_ends_what_waits_and_what_flows_and_wrong_words_are_not_taken() {
    let (inside, provider, own) = begun().await;
    let mut waiting = follow(connect(&inside, &own).await, Follow::default()).await.unwrap();
    let Said::Slice(_, end) = waiting.next().await else { panic!("no slice") };
    let wrong = SliceEnd { rows_digest: RowsSum::default().digest().to_string(), ..end.clone() };
    assert_eq!(waiting.ack(&wrong).await.unwrap_err().word, "integrity");
    let mut waiting = follow(connect(&inside, &own).await, Follow::default()).await.unwrap();
    assert_eq!(waiting.slice().await, ("full".to_owned(), 1), "it was not acknowledged: it comes again");
    waiting.caught_up().await;
    inside.list(1, Some("调整"), "");
    let Said::Fault(fault) = waiting.next().await else { panic!("it goes on") };
    assert_eq!((fault.word.as_str(), fault.code), ("list_revoked", 0x11));
    let fault = follow(connect(&inside, &own).await, Follow::default()).await.err().unwrap();
    assert_eq!(fault.word, "list_revoked");
    // Who is on no list, or asks for what is not there, is told so.
    let fault = follow(connect(&inside, PROVIDER).await, Follow::default()).await.err().unwrap();
    assert_eq!(fault.word, "no_entitlement");
    drop(provider);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_what_waits_at_once() {
    let (inside, _provider, own) = begun().await;
    let mut waiting = follow(connect(&inside, &own).await, Follow::default()).await.unwrap();
    waiting.slice().await;
    waiting.caught_up().await;
    inside.services().gate.drain();
    let Said::Fault(fault) = waiting.next().await else { panic!("it goes on") };
    assert_eq!(fault.code, 0x31);
    assert!(ALIVE_EVERY.as_secs() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_at_the_gateway_can_be_compared() {
    let (inside, _provider, own) = begun().await;
    let connection = connect(&inside, &own).await;
    let mut following = follow(Arc::clone(&connection), Follow { once: true, ..Follow::default() }).await.unwrap();
    following.slice().await;
    following.caught_up().await;
    let read = async |agency: &str, kind: &str, id: &str| {
        let ask = Read { kind: kind.into(), id: id.into(), after: String::new() };
        let connection = connect(&inside, agency).await;
        let (_writer, mut reader) = connection.request(request::Ask::Read(ask)).await;
        match Connection::reply(&mut reader).await {
            reply::Reply::Records(records) => Ok(records
                .records
                .iter()
                .map(|record| serde_json::from_slice::<serde_json::Value>(&record.json).unwrap())
                .collect::<Vec<_>>()),
            reply::Reply::Fault(fault) => Err(fault.word),
            other => panic!("{other:?}"),
        }
    };
    let records = read(&own, "reconcile", &ENTRY.to_string()).await.unwrap();
    let ids: Vec<&str> = records.iter().map(|record| record["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["version", "slice", "441900", "441900003"]);
    assert_eq!((records[0]["rows"].as_u64(), records[1]["rows"].as_u64()), (Some(3), Some(2)));
    assert_eq!(records[1]["rows_digest"].as_str().unwrap(), following.sum.digest().to_string());
    assert_eq!(read(&own, "reconcile", &format!("{ENTRY}@7")).await.unwrap_err(), "not_found");
    assert_eq!(read(PROVIDER, "reconcile", &ENTRY.to_string()).await.unwrap_err(), "no_entitlement");
    let subscriptions = read(&own, "subscription", "").await.unwrap();
    assert_eq!(subscriptions.len(), 1);
    assert_eq!((subscriptions[0]["version"].as_u64(), subscriptions[0]["behind"].as_u64()), (Some(1), Some(0)));
    let id = subscriptions[0]["id"].as_str().unwrap();
    assert_eq!(read(PROVIDER, "subscription", id).await.unwrap_err(), "not_found");
    assert!(read(PROVIDER, "subscription", "").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lacks_a_version_is_late_and_who_is_forgotten_is_not() {
    let (inside, provider, own) = begun().await;
    let mut following = follow(connect(&inside, &own).await, Follow::default()).await.unwrap();
    following.slice().await;
    let flow = Arc::clone(&inside.services().flow);
    assert!(flow.late(-1).await.unwrap().is_empty(), "it has the latest version");
    drop(following);
    let (bodies, end) = frames(&rows(&[("4403", "z", "y", 4)]), None);
    provider.push_as("append", bodies, end).await;
    let late = flow.late(-1).await.unwrap();
    assert_eq!(late.len(), 1);
    assert_eq!((late[0].version, late[0].latest, late[0].agent.agency.to_string()), (1, 2, own.clone()));
    assert!(flow.late(3_600_000).await.unwrap().is_empty(), "not yet");
    let cancel = |agency: String| {
        let peer = lingqu_gateway::gate::Peer {
            agent: format!("{agency}/a").parse().unwrap(),
            address: "127.0.0.1".parse().unwrap(),
        };
        let (flow, id) = (Arc::clone(&flow), late[0].id.to_string());
        async move { flow.cancel(&peer, &id).await }
    };
    assert!(cancel(PROVIDER.to_owned()).await.is_err(), "another's does not exist");
    cancel(own).await.unwrap();
    assert!(flow.late(-1).await.unwrap().is_empty());
}
