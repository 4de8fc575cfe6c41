//! Every interleaving of a cut with a transfer: before its first byte, in the middle, while it waits for the other side,
//! after its last byte and before its end record, and while it is resumed; pulls and pushes, files and rows. The gateway is
//! held at a point, the stop goes through, and then the transfer goes on: into the cut. Whoever receives knows that it is
//! incomplete, and once the stop is lifted the same transfer is judged anew and goes through.

use lingqu_protocol::close::CloseCode;
use lingqu_protocol::frame;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::session::{FrameReader, FrameWriter};
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{DataHello, ManifestFile, ManifestPart, PushFiles};
use lingqu_protocol::wire::{Pull, PullStart, SegmentRange, reply, request, step};
use lingqu_tests::world::data::{with_column, write_parquet};
use lingqu_tests::world::raw::{Dialled, Raw, WAIT, fault, runtime};
use lingqu_tests::world::{Agent, Granted, Running, World, b3sum, read_parquet, registrations, seeded_bytes, text};
use lingqu_tests::world::{Rows, bytes_of, wait_until};
use prost::Message as _;
use std::path::PathBuf;
use std::sync::Arc;

/// Three segments of 8 MiB.
const FILE_BYTES: usize = 20_000_000;

/// Rows with 20 MB of notes: several batches.
const ROWS: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    PullFile,
    PullRows,
    PushFile,
    /// Rows, each batch decoded and sorted by the gateway.
    PushRows,
    /// Parquet that fits, which stays as it is.
    PushVerbatim,
}

/// A world with a transfer to be cut.
struct Case {
    what: What,
    world: World,
    at: Granted,
    source: PathBuf,
    out: PathBuf,
    go: PathBuf,
}

impl Case {
    fn new(what: What) -> Self {
        let mut world = World::stopped();
        let is_file = matches!(what, What::PullFile | What::PushFile);
        let source = if is_file {
            world.file("file", seeded_bytes(1, FILE_BYTES))
        } else {
            let path = world.path("rows.parquet");
            write_parquet(&path, &rows());
            path
        };
        let (out, go) = (world.path(if is_file { "out/" } else { "out.parquet" }), world.path("go"));
        world.gateway.start();
        let at = if is_file {
            world.files.clone()
        } else {
            let code = "307010/810000".to_owned();
            let entry = world.publish(&lingqu_tests::world::table_entry_toml(&code));
            world.granted(entry, code, "columns = [\"region\", \"credit_code\", \"note\"]")
        };
        let case = Self { what, world, at, source, out, go };
        if case.pulls() {
            let kind = if is_file { "file" } else { "batch" };
            case.world.provider.agent.run(["push", kind, &case.at.entry, case.source.to_str().unwrap()]).ok();
        }
        case
    }

    fn pulls(&self) -> bool {
        matches!(self.what, What::PullFile | What::PullRows)
    }

    fn agent(&self) -> &Agent {
        if self.pulls() { &self.world.requester.agent } else { &self.world.provider.agent }
    }

    /// Starts the gateway again so that it holds at the `pass`-th pass of `point`.
    fn hold_at(&mut self, point: &str, pass: u32) {
        for file in [self.go.clone(), self.go.with_extension("reached")] {
            let _not_there = std::fs::remove_file(file);
        }
        self.world.gateway.kill();
        self.world.gateway.start_with(&[("LINGQU_FAILPOINT", &format!("{point}={pass}:{}", self.go.display()))]);
    }

    fn start(&self) -> Running {
        let (source, out) = (self.source.to_str().unwrap(), self.out.to_str().unwrap());
        match self.what {
            What::PullFile | What::PullRows => self.agent().start(["pull", &self.at.grant, "--out", out]),
            What::PushFile => self.agent().start(["push", "file", &self.at.entry, source]),
            What::PushRows => self.agent().start(["push", "batch", &self.at.entry, source, "--no-verbatim"]),
            What::PushVerbatim => self.agent().start(["push", "batch", &self.at.entry, source]),
        }
    }

    /// Waits until the gateway is held, stops the entry, and lets the gateway go on into the cut.
    fn stop_when_held(&self) {
        let reached = self.go.with_extension("reached");
        wait_until("the gateway is held", || reached.exists());
        self.stop();
        std::fs::write(&self.go, b"").unwrap();
    }

    fn stop(&self) {
        self.world.gateway.stop(&["--entry", &self.at.entry], "测试阻断");
    }

    fn must_be_cut(&self, running: Running) {
        let error = running.wait().fails(4);
        assert_eq!(text(&error, "word"), "stopped", "{error}");
        assert!(text(&error, "text").contains("测试阻断"), "{error}");
        self.nothing_came_of_it();
    }

    /// No receipt, no file under its last name, no version.
    fn nothing_came_of_it(&self) {
        let receipts = std::fs::read_dir(self.agent().profile().join("receipts")).unwrap();
        let kept: Vec<_> = receipts.map(|file| file.unwrap().path()).filter(|p| p.extension().is_some()).collect();
        assert_eq!(kept, Vec::<PathBuf>::new(), "a receipt for what is incomplete");
        assert!(!self.out.exists(), "{} is there", self.out.display());
        assert!(self.agent().transfers("done").is_empty());
    }

    fn transfer(&self) -> String {
        let list = self.agent().run(["transfer", "list"]).ok();
        let list = list.as_array().unwrap();
        assert_eq!(list.len(), 1, "{list:?}");
        text(&list[0], "id").to_owned()
    }

    /// While the stop stands a resume is refused; once it is lifted the same transfer goes through, whole and once.
    fn goes_on_later(&self) {
        let transfer = self.transfer();
        self.agent().run(["transfer", "resume", &transfer]).fails(4);
        self.nothing_came_of_it();
        self.world.gateway.resume(&["--entry", &self.at.entry], "测试恢复");
        self.agent().run(["transfer", "resume", &transfer]).ok();
        let receipt = self.agent().receipt(&transfer);
        let valid = self.agent().run(["receipt", "verify", receipt.to_str().unwrap()]).ok();
        assert_eq!(valid["statement"]["dataset_version"], 1);
        if !self.pulls() {
            let pull = ["pull", &self.at.grant, "--out", self.out.to_str().unwrap()];
            self.world.requester.agent.run(pull).ok();
        }
        match self.what {
            What::PullFile | What::PushFile => {
                assert_eq!(bytes_of(&self.out), [("file".to_owned(), seeded_bytes(1, FILE_BYTES))].into());
            }
            What::PullRows | What::PushRows | What::PushVerbatim => {
                let expected = Rows::of(&[rows()]).select(&["region", "credit_code", "note"]);
                read_parquet(&self.out).must_be(&expected);
            }
        }
        self.world.gateway.run(["ledger", "verify"]).ok();
    }
}

fn rows() -> arrow::array::RecordBatch {
    let note = |i: usize| b3sum(&i.to_le_bytes()).repeat(2_000 / 64);
    let notes = arrow::array::StringArray::from_iter_values((0..ROWS).map(note));
    with_column(&registrations(1, ROWS), "note", Arc::new(notes))
}

/// Cuts a transfer at a point, and checks everything.
fn cut_at(what: What, point: &str, pass: u32) {
    let mut case = Case::new(what);
    case.hold_at(point, pass);
    let running = case.start();
    case.stop_when_held();
    case.must_be_cut(running);
    case.goes_on_later();
}

#[test]
fn before_the_first_byte() {
    for (what, point) in [
        (What::PullFile, "pull.before_data"),
        (What::PullRows, "transfer.opened"),
        (What::PushFile, "transfer.opened"),
        (What::PushRows, "transfer.opened"),
        (What::PushVerbatim, "transfer.opened"),
    ] {
        cut_at(what, point, 1);
    }
}

#[test]
fn in_the_middle_of_files() {
    cut_at(What::PullFile, "pull.piece", 11);
    cut_at(What::PushFile, "push.before_segment", 2);
}

#[test]
fn in_the_middle_of_rows() {
    cut_at(What::PullRows, "pull.piece", 2);
    cut_at(What::PushRows, "push.batch", 3);
    cut_at(What::PushVerbatim, "push.before_segment", 2);
}

#[test]
fn after_the_last_byte_and_before_the_end_record() {
    cut_at(What::PullFile, "pull.before_end", 1);
    cut_at(What::PullRows, "pull.before_end", 1);
    cut_at(What::PushFile, "push.after_segment", 3);
    cut_at(What::PushRows, "push.before_manifest", 1);
    cut_at(What::PushVerbatim, "push.before_manifest", 1);
}

#[test]
fn after_the_end_record_and_before_the_commit() {
    cut_at(What::PushFile, "push.before_commit", 1);
    cut_at(What::PushRows, "push.before_commit", 1);
    cut_at(What::PushVerbatim, "push.before_commit", 1);
}

#[test]
fn during_a_resume() {
    for (what, point) in [(What::PullFile, "pull.piece"), (What::PushFile, "push.before_segment")] {
        let mut case = Case::new(what);
        case.hold_at(point, 2);
        let running = case.start();
        let reached = case.go.with_extension("reached");
        wait_until("the gateway is held", || reached.exists());
        // The agent dies in the middle, and is run again.
        running.kill();
        case.hold_at(point, 1);
        let resumed = case.agent().start(["transfer", "resume", &case.transfer()]);
        case.stop_when_held();
        case.must_be_cut(resumed);
        case.goes_on_later();
    }
}

#[test]
fn a_cut_after_the_commit_comes_too_late_for_that_transfer() {
    let mut case = Case::new(What::PushFile);
    case.hold_at("transfer.committed", 1);
    let running = case.start();
    case.stop_when_held();
    let done = running.wait().ok();
    assert!(case.agent().receipt(text(&done, "id")).is_file());
}

async fn ask_pull(
    dialled: &Dialled,
    grant: &str,
) -> lingqu_agent::connect::ControlStream<lingqu_certs::quic::QuicChannel> {
    let transfer = TransferId::from_bits(4_000).to_string();
    let ask = Pull { transfer, target: grant.to_owned(), ..Pull::default() };
    let mut control = dialled.request(request::Ask::Pull(ask)).await;
    let ready = control.reply().await.unwrap();
    let reply::Reply::PullReady(_) = ready else { panic!("{ready:?}") };
    let _manifest = control.reader.next().await.unwrap();
    let start = PullStart { want: vec![SegmentRange { first: 0, count: 1 }] };
    control.step(step::Step::PullStart(start)).await.unwrap();
    control
}

/// The gateway has handed all of it to its transport and finished the stream, and nearly all of it waits there: this side
/// acknowledges nothing, as a slow line would, for nobody runs its connection meanwhile.
#[test]
fn what_waits_in_the_transport_does_not_leave_after_a_cut() {
    let world = World::new();
    let bytes = 8_000_000;
    let file = world.file("f", seeded_bytes(1, bytes));
    world.provider.agent.run(["push", "file", &world.files.entry, file.to_str().unwrap()]).ok();
    let alone = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    alone.block_on(async {
        let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        let mut control = ask_pull(&dialled, &world.files.grant).await;
        // The request leaves, and then this thread does other things.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        wait_until("all of it was handed over", || world.gateway.metric("lingqu_sent_bytes_total") >= bytes as f64);
        world.gateway.stop(&["--entry", &world.files.entry], "测试阻断");
        let data = tokio::time::timeout(WAIT, dialled.session.channel().accept_uni()).await.unwrap().unwrap();
        let mut data = FrameReader::new(data);
        let ended = async {
            loop {
                match data.next().await {
                    Ok(Some(_)) => {}
                    other => break other,
                }
            }
        };
        let ended = tokio::time::timeout(WAIT, ended).await.unwrap();
        let Err(error) = ended else { panic!("the stream ended as if it were whole: {} bytes", data.bytes()) };
        assert_eq!(error.close_code(), CloseCode::Suspended);
        assert!(data.bytes() < bytes as u64 / 2, "{} bytes came", data.bytes());
        assert_eq!(fault(&mut control.reader).await.0.word, "stopped");
    });
}

/// Others hold all the memory for segments; the push that waits for some hears of the cut at once.
#[test]
fn a_push_that_waits_for_memory_is_cut() {
    let case = Case::new(What::PushFile);
    let hoard = case.world.new_files();
    runtime().block_on(async {
        let dialled = Raw::of(&case.world.gateway, &case.world.provider.agent).dial().await;
        let mut held = Vec::new();
        for number in 0..2u128 {
            held.push(hoard_memory(&dialled, &hoard.entry, TransferId::from_bits(5_000 + number)).await);
        }
        let running = case.start();
        wait_until("it runs", || case.agent().transfers("running").len() == 1);
        // Its segments are on their way and nobody takes them.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        assert!(case.world.gateway.metric("lingqu_received_bytes_total") < 1.0, "it was to wait");
        tokio::task::block_in_place(|| case.stop());
        tokio::task::block_in_place(|| case.must_be_cut(running));
        drop(held);
    });
    case.goes_on_later();
}

type Hoard = (
    lingqu_agent::connect::ControlStream<lingqu_certs::quic::QuicChannel>,
    Vec<FrameWriter<<lingqu_certs::quic::QuicChannel as Channel>::Send>>,
);

/// Opens a push with four streams, each of which has begun a segment and says no more.
async fn hoard_memory(dialled: &Dialled, entry: &str, transfer: TransferId) -> Hoard {
    let bytes = 40_000_000;
    let transfer = transfer.to_string();
    let ask = PushFiles { transfer: transfer.clone(), entry: entry.to_owned(), files: 1, bytes };
    let mut control = dialled.request(request::Ask::PushFiles(ask)).await;
    let files = vec![ManifestFile { name: "f".into(), bytes, root: Default::default() }];
    let manifest = ManifestPart { files }.encode_to_vec();
    control.writer.raw(frame::encode(frame::FrameKind::Manifest, &manifest).unwrap()).await.unwrap();
    let ready = control.reply().await.unwrap();
    let reply::Reply::PushReady(ready) = ready else { panic!("{ready:?}") };
    let mut streams = Vec::new();
    for segment in 0..4 {
        let mut data = FrameWriter::new(dialled.session.channel().open_uni().await.unwrap());
        data.message(&DataHello { transfer: transfer.clone(), token: ready.token.clone() }).await.unwrap();
        data.raw(frame::segment(segment)).await.unwrap();
        streams.push(data);
    }
    (control, streams)
}
