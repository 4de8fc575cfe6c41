//! Following against a gateway in memory that speaks the protocol, honestly or not.

use super::*;
use crate::backflow::folder::{FolderFormat, FolderSink};
use crate::backflow::testing::{rows, shape};
use crate::backflow::{Mode, spec::SinkSpec};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use lingqu_certs::memory::{MemoryChannel, pair};
use lingqu_certs::os::{OsDisk, OsEntropy, SystemClock};
use lingqu_protocol::changes::OP_COLUMN;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::ids::GatewayId;
use lingqu_protocol::ipc::{BatchRoot, Encoder};
use lingqu_protocol::rows::{RowsDigest, RowsSum};
use lingqu_protocol::session::{FrameReader, FrameWriter};
use lingqu_protocol::wire::{Alive, Fault, Hello, Record, Records, Request, SliceTaken, Step, Welcome, reply};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

const ENTRY_TOML: &str = r#"
name = "n"
abstract = "a"
format = "table"
update_frequency = "daily"
sharing_class = "unconditional"
sharing_methods = ["batch_exchange"]
grade = "general-1"
[[items]]
name = "id"
type = "int64"
key = true
personal = false
[[items]]
name = "name"
type = "string"
personal = false
"#;

/// What the gateway does wrong, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    None,
    /// The end record of a version has another digest.
    WrongDigest,
    /// The state after a version has other rows.
    WrongState,
    /// The connection goes away in the middle of a version.
    LoseRows,
    /// It goes away after the end record, before the acknowledgement was heard.
    LoseAck,
    /// The cursor is of no use.
    StartAnew,
    /// The list is revoked in the middle of a version.
    Revoke,
    /// Rows go after others came.
    OutOfOrder,
}

type Rows = Vec<(i64, &'static str)>;

/// One version: how, which rows go, which come, and what there is then.
struct Version {
    mode: Mode,
    gone: Rows,
    come: Rows,
    state: Rows,
}

struct Gateway {
    versions: Vec<Version>,
    lie: Mutex<(u64, Lie)>,
    asked: Mutex<Vec<Follow>>,
    acked: Mutex<Vec<u64>>,
}

enum Cut {
    Gone,
    Fault(&'static str, CloseCode),
}

impl<E: Into<SessionError>> From<E> for Cut {
    fn from(_: E) -> Self {
        Self::Gone
    }
}

type Writer = FrameWriter<<MemoryChannel as Channel>::Send>;
type Reader = FrameReader<<MemoryChannel as Channel>::Recv>;

fn with_op(batch: &RecordBatch, op: &str) -> RecordBatch {
    let mut fields: Vec<Arc<Field>> = batch.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(OP_COLUMN, DataType::Utf8, false)));
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    columns.push(Arc::new(StringArray::from(vec![op; batch.num_rows()])));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn sum(rows_held: &Rows) -> RowsSum {
    let mut digest = shape().digest();
    digest.update(&rows(rows_held)).unwrap();
    digest.sum()
}

impl Gateway {
    fn new(lie: Lie, at: u64) -> Arc<Self> {
        let version = |mode, gone: &[_], come: &[_], state: &[_]| Version {
            mode,
            gone: gone.to_vec(),
            come: come.to_vec(),
            state: state.to_vec(),
        };
        let versions = vec![
            version(Mode::Full, &[], &[(1, "a"), (2, "b")], &[(1, "a"), (2, "b")]),
            version(Mode::Append, &[], &[(3, "c")], &[(1, "a"), (2, "b"), (3, "c")]),
            version(Mode::Changes, &[(1, "a"), (2, "b")], &[(2, "β")], &[(2, "β"), (3, "c")]),
            version(Mode::Append, &[], &[], &[(2, "β"), (3, "c")]),
        ];
        Arc::new(Self { versions, lie: Mutex::new((at, lie)), asked: Mutex::default(), acked: Mutex::default() })
    }

    /// The lie for this version, told once.
    fn lies(&self, version: u64, lie: Lie) -> bool {
        let mut told = self.lie.lock().unwrap();
        let now = *told == (version, lie);
        if now && lie != Lie::WrongDigest && lie != Lie::WrongState {
            *told = (0, Lie::None);
        }
        now
    }

    async fn serve(self: Arc<Self>, channel: MemoryChannel) {
        let Ok((send, recv)) = channel.accept_bi().await else { return };
        let (mut writer, mut reader): (Writer, Reader) = (FrameWriter::new(send), FrameReader::new(recv));
        let _: Hello = reader.expect("Hello").await.unwrap();
        let welcome = Welcome {
            version: 1,
            limits: Some(wire::limits()),
            gateway: GatewayId::from_bits(1).to_string(),
            domain: "test".into(),
            ..Welcome::default()
        };
        writer.message(&welcome).await.unwrap();
        while let Ok((send, recv)) = channel.accept_bi().await {
            let (mut writer, mut reader): (Writer, Reader) = (FrameWriter::new(send), FrameReader::new(recv));
            let Ok(request) = reader.expect::<Request>("a request").await else { return };
            let served = match request.ask.unwrap() {
                request::Ask::Read(_) => {
                    let json = serde_json::json!({"id": "entry-1", "toml": ENTRY_TOML}).to_string();
                    let records = vec![Record { id: "entry-1".into(), json: json.into_bytes().into() }];
                    let page = Records { records, next: String::new() };
                    writer.message(&wire::Reply::from(reply::Reply::Records(page))).await.map_err(Cut::from)
                }
                request::Ask::Follow(ask) => self.follow(&channel, ask, &mut writer, &mut reader).await,
                other => panic!("not scripted: {other:?}"),
            };
            match served {
                Ok(()) => writer.finish(),
                Err(Cut::Gone) => return channel.close(CloseCode::Draining),
                Err(Cut::Fault(word, code)) => {
                    let fault = Fault { code: code.code(), word: word.into(), ..Fault::default() };
                    let _ = writer.message(&wire::Reply::from(reply::Reply::Fault(fault))).await;
                    writer.finish();
                }
            }
        }
    }

    async fn follow(
        &self,
        channel: &MemoryChannel,
        ask: Follow,
        out: &mut Writer,
        steps: &mut Reader,
    ) -> Result<(), Cut> {
        self.asked.lock().unwrap().push(ask.clone());
        let cursor = ask.cursor.as_ref().map_or(0, |cursor| cursor.version);
        if cursor > 0 && self.lies(cursor + 1, Lie::StartAnew) {
            return Err(Cut::Fault("start_anew", CloseCode::Denied));
        }
        let ready = FollowReady {
            entry: "entry-1".into(),
            regions: vec!["4403".into()],
            columns: vec!["id".into(), "name".into()],
            keys: vec!["id".into()],
            latest: self.versions.len() as u64,
            token: Bytes::from_static(b"token"),
            ..FollowReady::default()
        };
        say(out, reply::Reply::FollowReady(ready)).await?;
        for (version, said) in (1u64..).zip(&self.versions) {
            if version <= cursor {
                continue;
            }
            // Without a cursor, what there is comes whole; of this script the first version, or the state so far.
            let anew = cursor == 0 && version == 1;
            self.version(channel, &ask, version, said, anew, out).await?;
            if self.lies(version, Lie::LoseAck) {
                return Err(Cut::Gone);
            }
            let ack = match steps.expect::<Step>("a step").await?.step {
                Some(step::Step::SliceAck(ack)) => ack,
                other => panic!("not scripted: {other:?}"),
            };
            assert_eq!(ack.version, version);
            self.acked.lock().unwrap().push(version);
            say(out, reply::Reply::SliceTaken(SliceTaken { version, leaf_index: version })).await?;
        }
        let latest = self.versions.len() as u64;
        say(out, reply::Reply::CaughtUp(CaughtUp { version: latest, committed_at_ms: 1_000, now_ms: 3_500 })).await?;
        if !ask.once {
            say(out, reply::Reply::Alive(Alive { now_ms: 4_000 })).await?;
            let _ended = steps.next().await;
        }
        Ok(())
    }

    async fn version(
        &self,
        channel: &MemoryChannel,
        ask: &Follow,
        version: u64,
        said: &Version,
        anew: bool,
        out: &mut Writer,
    ) -> Result<(), Cut> {
        let mode = if anew { Mode::Full } else { said.mode };
        let changes = mode == Mode::Changes;
        let mut batches = Vec::new();
        let (gone, come) = (rows(&said.gone), rows(&said.come));
        if changes {
            batches = vec![with_op(&gone, "delete"), with_op(&come, "upsert")];
            if self.lies(version, Lie::OutOfOrder) {
                batches.reverse();
            }
        } else if come.num_rows() > 0 {
            batches.push(come);
        }
        let count: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let slice = Slice {
            version,
            mode: mode.to_string(),
            follows: if anew { 0 } else { version - 1 },
            rows: count as u64,
            committed_at_ms: 1_000,
            columns_changed: false,
        };
        say(out, reply::Reply::Slice(slice)).await?;
        let (mut root, mut sum_sent) = (BatchRoot::default(), RowsSum::default());
        if let Some(first) = batches.first() {
            let mut encoder = Encoder::new(first.schema()).unwrap();
            let mut digest = RowsDigest::of_schema(&first.schema()).unwrap();
            let mut data: Writer = FrameWriter::new(channel.open_uni().await.map_err(|_| Cut::Gone)?);
            let hello = DataHello { transfer: ask.subscription.clone(), token: Bytes::from_static(b"token") };
            data.message(&hello).await?;
            let mut bodies = vec![encoder.schema().unwrap()];
            for batch in &batches {
                digest.update(batch).unwrap();
                let (pieces, _) = encoder.batch(batch).unwrap();
                bodies.push(pieces.concat().into());
            }
            sum_sent = digest.sum();
            for (at, body) in bodies.iter().enumerate() {
                if at == 1 && self.lies(version, Lie::LoseRows) {
                    return Err(Cut::Gone);
                }
                if at == 1 && self.lies(version, Lie::Revoke) {
                    data.reset(CloseCode::Suspended);
                    return Err(Cut::Fault("list_revoked", CloseCode::Suspended));
                }
                root.add([&body[..]]);
                let frame = lingqu_protocol::frame::encode(lingqu_protocol::frame::FrameKind::Batch, body).unwrap();
                data.raw(frame).await?;
            }
            data.finish();
        }
        let mut rows_digest = sum_sent.digest();
        if self.lies(version, Lie::WrongDigest) {
            rows_digest = RowsSum::default().digest();
        }
        let mut state = sum(&said.state);
        if self.lies(version, Lie::WrongState) {
            state.add_row(7);
        }
        let deletes = if changes { said.gone.len() as u64 } else { 0 };
        let end = SliceEnd {
            version,
            rows: count as u64,
            bytes: root.bytes(),
            bytes_root: root.digest().to_string(),
            rows_digest: rows_digest.to_string(),
            upserts: count as u64 - deletes,
            deletes,
            state_rows: Some(state.count),
            state_rows_digest: state.digest().to_string(),
            slice: "blake3:slice".into(),
        };
        say(out, reply::Reply::SliceEnd(end)).await
    }
}

async fn say(out: &mut Writer, reply: reply::Reply) -> Result<(), Cut> {
    Ok(out.message(&wire::Reply::from(reply)).await?)
}

struct Memory(Arc<Gateway>);

impl Dial for Memory {
    type Channel = MemoryChannel;
    async fn dial(&self) -> Result<Session<MemoryChannel>, AgentError> {
        let (agent, gateway) = pair();
        tokio::spawn(self.0.clone().serve(gateway));
        Session::greet(agent, &SystemClock::new(), String::new()).await
    }
}

fn ground() -> Ground {
    let (_, stop) = watch::channel(false);
    Ground {
        agent: "91350100M000100Y43/main".into(),
        entropy: Arc::new(OsEntropy::new()),
        backoff: Backoff { tries_max: 4, first: Duration::ZERO, most: Duration::ZERO },
        meter: Arc::new(Meter::new(0, false)),
        stop,
    }
}

fn folder(dir: &Path) -> FolderSink {
    FolderSink::new(Arc::new(OsDisk), Arc::new(SystemClock::new()), dir, FolderFormat::Arrow)
}

fn subscription(dir: &Path, once: bool) -> Subscription {
    let sink = folder(dir);
    Subscription {
        entry: "307010/000001".into(),
        columns: Vec::new(),
        once,
        kind: SinkSpec::Folder(dir.to_owned(), FolderFormat::Arrow).kind(),
        sink: dir.display().to_string(),
        make: Box::new(move |entry| {
            assert_eq!(entry, "entry-1");
            Ok(Box::new(sink))
        }),
    }
}

/// Follows once; what was seen.
async fn run(gateway: &Arc<Gateway>, dir: &Path) -> (Result<Option<Age>, AgentError>, Vec<u64>) {
    let mut taken = Vec::new();
    let ended = follow(&Memory(gateway.clone()), &ground(), subscription(dir, true), &mut |seen| {
        if let Seen::Took(took) = seen {
            taken.push(took.version);
        }
    })
    .await;
    (ended, taken)
}

/// The version that the folder holds, with its rows' sum.
fn held(dir: &Path) -> Option<(u64, RowsSum)> {
    let mut digest = shape().digest();
    let read = folder(dir).read("entry-1", &mut |batch| {
        digest.update(batch).unwrap();
        Ok(())
    });
    read.unwrap().map(|(cursor, _)| (cursor.version, digest.sum()))
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_once_and_a_second_run_has_nothing_to_do() {
    let (dir, gateway) = (tempfile::tempdir().unwrap(), Gateway::new(Lie::None, 0));
    let place = dir.path().join("rows");
    let (ended, taken) = run(&gateway, &place).await;
    assert_eq!(ended.unwrap(), Some(Age { version: 4, age_ms: 2_500 }));
    assert_eq!(taken, [1, 2, 3, 4]);
    let expected = (4, sum(&gateway.versions[3].state));
    assert_eq!(held(&place), Some(expected));
    let (ended, taken) = run(&gateway, &place).await;
    assert!(ended.unwrap().is_some() && taken.is_empty());
    let asked = gateway.asked.lock().unwrap().clone();
    assert_eq!(asked[0].cursor, None);
    assert_eq!(asked[1].cursor, Some(wire::Cursor { version: 4, slice: "blake3:slice".into() }));
    assert_eq!(asked[0].subscription, asked[1].subscription, "one sink is one subscription");
    assert_eq!((asked[0].sink.as_str(), asked[0].once), ("folder", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_anywhere_changes_nothing() {
    for lie in [Lie::LoseRows, Lie::LoseAck] {
        for at in 1..=3 {
            let (dir, gateway) = (tempfile::tempdir().unwrap(), Gateway::new(lie, at));
            let place = dir.path().join("rows");
            let (ended, taken) = run(&gateway, &place).await;
            assert!(ended.is_ok(), "{lie:?} {at}: {ended:?}");
            assert_eq!(held(&place), Some((4, sum(&gateway.versions[3].state))), "{lie:?} {at}");
            // What was durable is not asked for again, whether or not it was heard.
            assert!(taken.is_sorted_by(|one, other| one < other), "{lie:?} {at}: {taken:?}");
            let asked = gateway.asked.lock().unwrap()[1].cursor.clone().map_or(0, |cursor| cursor.version);
            let most = if lie == Lie::LoseAck { at } else { at - 1 };
            assert!((at - 1..=most).contains(&asked), "{lie:?} {at}: {asked}");
            assert_eq!(gateway.asked.lock().unwrap().len(), 2);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_that_differ_commit_nothing() {
    for (lie, word) in [(Lie::WrongDigest, "rows_digest"), (Lie::WrongState, "state_differs")] {
        for at in 1..=3 {
            let (dir, gateway) = (tempfile::tempdir().unwrap(), Gateway::new(lie, at));
            let place = dir.path().join("rows");
            let (ended, taken) = run(&gateway, &place).await;
            let error = ended.unwrap_err();
            assert_eq!((error.exit_code(), error.told().word.as_str()), (5, word), "{lie:?} {at}");
            assert_eq!(taken.len() as u64, at - 1);
            assert_eq!(held(&place).map_or(0, |held| held.0), at - 1, "{lie:?} {at}");
            assert_eq!(gateway.acked.lock().unwrap().len() as u64, at - 1);
        }
    }
    let (dir, gateway) = (tempfile::tempdir().unwrap(), Gateway::new(Lie::OutOfOrder, 3));
    let error = run(&gateway, &dir.path().join("rows")).await.0.unwrap_err();
    assert!(matches!(error, AgentError::Peer(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_no_use_begins_anew_and_replaces_everything() {
    let (dir, gateway) = (tempfile::tempdir().unwrap(), Gateway::new(Lie::WrongDigest, 3));
    let place = dir.path().join("rows");
    assert!(run(&gateway, &place).await.0.is_err());
    *gateway.lie.lock().unwrap() = (3, Lie::StartAnew);
    let (ended, taken) = run(&gateway, &place).await;
    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!(taken, [1, 2, 3, 4]);
    assert_eq!(held(&place), Some((4, sum(&gateway.versions[3].state))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_revoked_ends_it_with_its_reason() {
    let (dir, gateway) = (tempfile::tempdir().unwrap(), Gateway::new(Lie::Revoke, 2));
    let place = dir.path().join("rows");
    let (ended, taken) = run(&gateway, &place).await;
    let error = ended.unwrap_err();
    assert_eq!((error.exit_code(), error.told().word.as_str()), (4, "list_revoked"), "{error}");
    assert_eq!(taken, [1]);
    assert_eq!(held(&place).unwrap().0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_stops_when_it_is_told_to() {
    let (dir, gateway) = (tempfile::tempdir().unwrap(), Gateway::new(Lie::None, 0));
    let (tell, stop) = watch::channel(false);
    let ground = Ground { stop, ..ground() };
    let ended = follow(&Memory(gateway), &ground, subscription(&dir.path().join("rows"), false), &mut |seen| {
        if matches!(seen, Seen::CaughtUp(_)) {
            tell.send(true).unwrap();
        }
    })
    .await;
    assert_eq!(ended.unwrap().map(|age| age.version), Some(4));
}

#[test]
fn what_is_stale_raises_the_alarm() {
    let age = |version, age_ms| Some(Age { version, age_ms });
    assert_eq!(is_stale(age(3, 1_000), 1_000), None);
    assert!(is_stale(age(3, 1_001), 1_000).is_some());
    assert!(is_stale(age(0, 0), 1_000).is_some());
    assert!(is_stale(None, 1_000).is_some());
}
