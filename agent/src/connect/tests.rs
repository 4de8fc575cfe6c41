use super::*;
use bytes::Bytes;
use lingqu_certs::memory::{MemoryChannel, pair};
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::wire::{Done, Fault, Progress, PullDone, Read, Records};
use std::sync::atomic::{AtomicU64, Ordering};

/// Each look at the monotonic clock finds 100 ms more.
struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn wall(&self) -> Timestamp {
        Timestamp(1_000_000)
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(100, Ordering::Relaxed))
    }
}

fn clock() -> TestClock {
    TestClock(AtomicU64::new(0))
}

fn welcome_message() -> Welcome {
    Welcome {
        version: 1,
        limits: Some(Limits { control_bytes_max: 1000, data_streams_max: 64, batch_bytes_max: u32::MAX }),
        gateway: GatewayId::from_bits(9).to_string(),
        domain: "example.gov.cn".into(),
        now_ms: 1_000_000 + 50 - 3_000,
        address_seen: "192.0.2.1:5".into(),
        checkpoint: "note".into(),
        consistency: vec![Bytes::from(vec![1; 32])],
        statement: Bytes::from_static(b"{}"),
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

/// A gateway that takes Hello and answers with these frames.
async fn greet_with(frames: Vec<Bytes>) -> (Result<Session<MemoryChannel>, AgentError>, Hello) {
    let (agent, gateway) = pair();
    let gateway = async move {
        let (mut send, recv) = gateway.accept_bi().await.unwrap();
        let mut reader = FrameReader::new(recv);
        let hello: Hello = reader.expect("Hello").await.unwrap();
        for frame in frames {
            send.send(frame).await.unwrap();
        }
        send.finish();
        hello
    };
    let clock = clock();
    tokio::join!(Session::greet(agent, &clock, "old note".into()), gateway)
}

fn greet(message: &impl prost::Message) -> Result<Session<MemoryChannel>, AgentError> {
    run(greet_with(vec![wire::encode(message).unwrap()])).0
}

#[test]
fn a_greeting_negotiates_and_measures() {
    let (session, hello) = run(greet_with(vec![wire::encode(&welcome_message()).unwrap()]));
    assert_eq!(hello.versions, [1]);
    assert_eq!(hello.checkpoint, "old note");
    let session = session.unwrap();
    let greeting = session.greeting();
    assert_eq!(greeting.gateway, GatewayId::from_bits(9));
    assert_eq!(greeting.limits.control_bytes_max, 1000, "theirs is smaller");
    assert_eq!(greeting.limits.data_streams_max, wire::DATA_STREAMS_MAX, "ours is smaller");
    assert_eq!(greeting.round_trip, Duration::from_millis(100));
    assert_eq!(greeting.clock_difference_ms, -3_000, "compared with the middle of the round trip");
    assert_eq!(greeting.consistency, [vec![1; 32]]);
}

#[test]
fn a_version_that_was_not_offered_is_the_gateways_fault() {
    let error = greet(&Welcome { version: 2, ..welcome_message() }).unwrap_err();
    assert!(matches!(&error, AgentError::Peer(told) if told.word == "version"), "{error:?}");
    assert_eq!(error.exit_code(), 1);
}

#[test]
fn a_gateway_without_a_name_is_refused() {
    assert!(matches!(greet(&Welcome { gateway: "x".into(), ..welcome_message() }), Err(AgentError::Peer(_))));
}

#[test]
fn a_fault_in_place_of_welcome_keeps_its_words() {
    let fault = Fault { code: CloseCode::Suspended.code(), word: "agent_stopped".into(), ..Fault::default() };
    let error = greet(&Reply::from(reply::Reply::Fault(fault.clone()))).unwrap_err();
    assert_eq!(error, AgentError::Refused(Box::new(fault)));
    assert_eq!(error.exit_code(), 4);
}

#[test]
fn silence_and_nonsense_are_no_greeting() {
    assert_eq!(run(greet_with(vec![])).0.unwrap_err(), SessionError::Incomplete.into());
    let nonsense = lingqu_protocol::frame::encode(lingqu_protocol::frame::FrameKind::Control, &[0xff; 9]).unwrap();
    assert!(matches!(run(greet_with(vec![nonsense])).0, Err(AgentError::Session(SessionError::Frame(_)))));
    let segment = lingqu_protocol::frame::segment(3);
    assert!(matches!(run(greet_with(vec![segment])).0, Err(AgentError::Session(SessionError::Unexpected { .. }))));
}

/// A session and the gateway's end of it, past the greeting.
async fn open() -> (Session<MemoryChannel>, MemoryChannel, impl Sized) {
    let (agent, gateway) = pair();
    let answer = async {
        let (send, recv) = gateway.accept_bi().await.unwrap();
        let mut writer = FrameWriter::new(send);
        writer.message(&welcome_message()).await.unwrap();
        (writer, recv)
    };
    let clock = clock();
    let (session, kept) = tokio::join!(Session::greet(agent, &clock, String::new()), answer);
    (session.unwrap(), gateway, kept)
}

fn read() -> request::Ask {
    request::Ask::Read(Read { kind: "grant".into(), ..Read::default() })
}

#[test]
fn one_question_has_one_answer() {
    run(async {
        let (session, gateway, _kept) = open().await;
        let serve = async {
            let (send, recv) = gateway.accept_bi().await.unwrap();
            let mut reader = FrameReader::new(recv);
            let request: Request = reader.expect("Request").await.unwrap();
            assert_eq!(request.ask, Some(read()));
            assert_eq!(reader.next().await.unwrap(), None, "the question is finished");
            let mut writer = FrameWriter::new(send);
            writer.message(&Reply::from(reply::Reply::Records(Records::default()))).await.unwrap();
            writer.finish();
        };
        let (reply, ()) = tokio::join!(session.ask(read()), serve);
        assert_eq!(reply.unwrap(), reply::Reply::Records(Records::default()));
    });
}

fn denied() -> Fault {
    Fault { code: CloseCode::Denied.code(), word: "no_grant".into(), ..Fault::default() }
}

#[test]
fn a_refusal_is_told_apart() {
    run(async {
        let (session, gateway, _kept) = open().await;
        let serve = async {
            let (send, _recv) = gateway.accept_bi().await.unwrap();
            let mut writer = FrameWriter::new(send);
            writer.message(&Reply::from(reply::Reply::Fault(denied()))).await.unwrap();
            writer.finish();
        };
        let (reply, ()) = tokio::join!(session.ask(read()), serve);
        assert_eq!(reply.unwrap_err(), AgentError::Refused(Box::new(denied())));
    });
}

#[test]
fn a_cut_stream_gives_the_reason_that_lies_behind_progress() {
    run(async {
        let (session, gateway, _kept) = open().await;
        let mut stream = session.request(read()).await.unwrap();
        let (send, mut recv) = gateway.accept_bi().await.unwrap();
        recv.stop(CloseCode::Denied);
        let mut writer = FrameWriter::new(send);
        writer.message(&Reply::from(reply::Reply::Progress(Progress::default()))).await.unwrap();
        writer.message(&Reply::from(reply::Reply::Fault(denied()))).await.unwrap();
        let step = step::Step::PullDone(PullDone::default());
        assert_eq!(stream.step(step.clone()).await.unwrap_err(), AgentError::Refused(Box::new(denied())));
        writer.finish();
        let bare = stream.step(step).await.unwrap_err();
        assert_eq!(bare, lingqu_protocol::stream::StreamError::Reset(CloseCode::Denied).into(), "no second reason");
    });
}

#[test]
fn an_end_without_an_answer_and_an_empty_reply_are_errors() {
    run(async {
        let (session, gateway, _kept) = open().await;
        let mut stream = session.request(read()).await.unwrap();
        let (send, _recv) = gateway.accept_bi().await.unwrap();
        let mut writer = FrameWriter::new(send);
        writer.message(&Reply { reply: None }).await.unwrap();
        writer.finish();
        assert!(matches!(stream.reply().await, Err(AgentError::Session(SessionError::Unexpected { .. }))));
        assert_eq!(stream.reply().await.unwrap_err(), SessionError::Incomplete.into());
    });
}

#[test]
fn a_closed_connection_says_its_code() {
    run(async {
        let (session, gateway, _kept) = open().await;
        let mut stream = session.request(read()).await.unwrap();
        gateway.close(CloseCode::Suspended);
        assert_eq!(stream.reply().await.unwrap_err().exit_code(), 4);
        assert_eq!(session.ask(read()).await.unwrap_err().exit_code(), 4);
    });
}

#[test]
fn a_reply_out_of_place_is_named() {
    let error = unexpected("records", &reply::Reply::Done(Done {}));
    assert!(error.to_string().contains("the end where records must come"), "{error}");
}
