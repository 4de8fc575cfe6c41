//! The thread that writes rows, and what a pull does when it ends early.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use arrow::array::{Int64Array, RecordBatch};
use arrow::ipc::reader::StreamReader;
use lingqu_certs::memory::{MemoryChannel, pair};
use lingqu_certs::os::OsDisk;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::frame::{self, FrameKind};
use lingqu_protocol::ipc::{BatchRoot, Encoder};
use lingqu_protocol::rows::RowsDigest;
use lingqu_protocol::session::FrameWriter;
use lingqu_protocol::wire::{Fault, Reply as ReplyMessage};
use std::sync::Mutex;

fn rows() -> RecordBatch {
    let n = Arc::new(Int64Array::from_iter_values(0..1000)) as arrow::array::ArrayRef;
    RecordBatch::try_from_iter_with_nullable([("n", n, true)]).unwrap()
}

fn bodies() -> Vec<Bytes> {
    let mut encoder = Encoder::new(rows().schema()).unwrap();
    let schema = encoder.schema().unwrap();
    let (pieces, _) = encoder.batch(&rows()).unwrap();
    vec![schema, Bytes::from(pieces.concat())]
}

fn hello() -> DataHello {
    DataHello { transfer: "t".into(), token: Bytes::from_static(b"token") }
}

/// Everything that was written, for a test to look at.
#[derive(Clone, Default)]
struct Pipe(Arc<Mutex<Vec<u8>>>);

impl io::Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(buf);
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A pipe that nobody reads: a write never returns.
struct Stuck;

impl io::Write for Stuck {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        loop {
            std::thread::park();
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn writer(out: impl io::Write + Send + 'static) -> Writer {
    Writer::start(Output::Stream(Box::new(out)), Arc::new(Meter::new(0, false))).unwrap()
}

/// A control stream at the agent, and the gateway's ends of it and of the connection.
async fn connected()
-> (ControlStream<MemoryChannel>, MemoryChannel, FrameWriter<<MemoryChannel as Channel>::Send>, MemoryChannel) {
    let (ours, theirs) = pair();
    let (mut send, recv) = ours.open_bi().await.unwrap();
    lingqu_protocol::stream::SendHalf::finish(&mut send);
    let (their_send, _) = theirs.accept_bi().await.unwrap();
    let control = ControlStream { writer: FrameWriter::new(send), reader: FrameReader::new(recv) };
    (control, ours, FrameWriter::new(their_send), theirs)
}

async fn data(theirs: &MemoryChannel, frames: &[Bytes]) -> FrameWriter<<MemoryChannel as Channel>::Send> {
    let mut data = FrameWriter::new(theirs.open_uni().await.unwrap());
    data.message(&hello()).await.unwrap();
    for body in frames {
        data.raw(frame::encode(FrameKind::Batch, body).unwrap()).await.unwrap();
    }
    data
}

fn end(rows: u64) -> PullEnd {
    PullEnd { rows, ..PullEnd::default() }
}

#[tokio::test]
async fn rows_reach_a_stream_that_ends_with_its_marker() {
    let (mut control, ours, mut gateway, theirs) = connected().await;
    data(&theirs, &bodies()).await.finish();
    gateway.message(&ReplyMessage::from(Reply::PullEnd(end(1000)))).await.unwrap();
    let pipe = Pipe::default();
    let writer = writer(pipe.clone());
    let (said, arrived) = flow(&mut control, &ours, &hello(), &writer).await.unwrap();
    assert_eq!((said.rows, arrived.rows), (1000, 1000));
    let mut whole = RowsDigest::of_schema(&rows().schema()).unwrap();
    whole.update(&rows()).unwrap();
    assert_eq!(arrived.rows_digest, whole.finish());
    let mut root = BatchRoot::default();
    bodies().iter().for_each(|body| root.add([&body[..]]));
    assert_eq!((arrived.bytes_root, arrived.bytes), (root.digest(), root.bytes()));
    assert_eq!(check_end(&said, &arrived).unwrap_err().exit_code(), 5, "an end record for other bytes");
    writer.finish().await.unwrap();
    let written = pipe.0.lock().unwrap().clone();
    let back: Vec<_> = StreamReader::try_new(&written[..], None).unwrap().map(Result::unwrap).collect();
    assert_eq!(back, [rows()]);
    assert!(written.ends_with(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_is_heard_while_nobody_reads_the_output() {
    let (mut control, ours, mut gateway, theirs) = connected().await;
    let mut frames = bodies();
    frames.extend(std::iter::repeat_n(frames[1].clone(), 8));
    let _open = data(&theirs, &frames).await;
    let fault = Fault { code: CloseCode::Suspended.code(), ..Fault::default() };
    let writer = writer(Stuck);
    let hello = hello();
    let (got, ()) = tokio::join!(flow(&mut control, &ours, &hello, &writer), async {
        gateway.message(&ReplyMessage::from(Reply::Fault(fault))).await.unwrap();
    });
    assert_eq!(got.unwrap_err().exit_code(), 4);
}

#[tokio::test]
async fn a_stream_that_is_cut_has_no_marker_and_no_end() {
    let (mut control, ours, _gateway, theirs) = connected().await;
    let mut cut = data(&theirs, &bodies()).await;
    let pipe = Pipe::default();
    let writer = writer(pipe.clone());
    let hello = hello();
    let (got, ()) = tokio::join!(flow(&mut control, &ours, &hello, &writer), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        cut.reset(CloseCode::Suspended);
    });
    assert_eq!(got.unwrap_err().exit_code(), 4);
    writer.stop();
    drop(writer);
    assert!(!pipe.0.lock().unwrap().ends_with(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]));
}

#[tokio::test]
async fn bytes_that_are_no_rows_and_a_wrong_token_are_refused() {
    let (mut control, ours, _gateway, theirs) = connected().await;
    data(&theirs, &[Bytes::from_static(b"nonsense, not Arrow")]).await.finish();
    let nonsense = writer(Pipe::default());
    let error = flow(&mut control, &ours, &hello(), &nonsense).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, AgentError::Peer(_)), "{error}");
    let (mut control, ours, _gateway, theirs) = connected().await;
    data(&theirs, &bodies()).await.finish();
    let other = DataHello { token: Bytes::from_static(b"nekot"), ..hello() };
    let error = flow(&mut control, &ours, &other, &writer(Pipe::default())).await.map(|_| ()).unwrap_err();
    assert_eq!(error.told().word, "protocol");
}

#[test]
fn a_file_takes_its_place_only_when_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (staged, out) = (dir.path().join("rows.csv.partial"), dir.path().join("rows.csv"));
    std::fs::write(&staged, b"n\n").unwrap();
    assert!(!out.exists());
    place(&OsDisk, &staged, &out).unwrap();
    assert!(out.exists() && !staged.exists());
}
