//! 4, 6, 8, 9: transfers that are not the peer's, or not any more.

use lingqu_protocol::close::CloseCode;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::session::FrameWriter;
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{
    CancelTransfer, DataHello, Narrow, Pull, PullStart, PushBatch, Read, SegmentRange, Step, reply, request, step,
};
use lingqu_tests::world::raw::{Raw, WAIT, fault, runtime};
use lingqu_tests::world::{Got, World, application_toml, day, seeded_bytes, shared, table_scope, text, threat};

fn ask_read(kind: &str, id: &str) -> request::Ask {
    request::Ask::Read(Read { kind: kind.into(), id: id.into(), after: String::new() })
}

fn ask_pull(target: &str, transfer: TransferId) -> request::Ask {
    request::Ask::Pull(Pull { transfer: transfer.to_string(), target: target.into(), ..Pull::default() })
}

#[test]
fn threat_04_a_suspension_ends_the_stream_with_its_reason_and_no_end_record() {
    let world = shared();
    let at = world.new_files();
    let file = world.file("f", seeded_bytes(1, 60_000_000));
    world.provider.agent.run(["push", "file", &at.entry, file.to_str().unwrap()]).ok();
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        let mut control = dialled.request(ask_pull(&at.grant, TransferId::from_bits(4))).await;
        let ready = control.reply().await.unwrap();
        let reply::Reply::PullReady(_) = ready else { panic!("{ready:?}") };
        let _manifest = control.reader.next().await.unwrap();
        let start = PullStart { want: vec![SegmentRange { first: 0, count: 8 }] };
        control.step(step::Step::PullStart(start)).await.unwrap();
        let (_, mut data) = dialled.data_stream().await;
        assert!(data.next().await.unwrap().is_some(), "it flows");
        let suspend = ["grant", "suspend", &at.grant, "--reason", "测试"];
        tokio::task::block_in_place(|| world.provider.agent.run(suspend).ok());
        // What was under way may still come; then the stream is reset, and no later than that.
        let ended = async {
            loop {
                match data.next().await {
                    Ok(Some(_)) => {}
                    other => break other,
                }
            }
        };
        let ended = tokio::time::timeout(WAIT, ended).await.unwrap();
        let Err(error) = ended else { panic!("the stream ended as if it were whole") };
        threat(4, "a suspension in mid-stream: the data stream", error.close_code());
        assert_eq!(error.close_code(), CloseCode::Suspended);
        let (fault, _) = fault(&mut control.reader).await;
        threat(4, "a suspension in mid-stream: the request's stream", &fault);
        assert_eq!((fault.close_code(), fault.word.as_str()), (CloseCode::Suspended, "grant_suspended"), "{fault:?}");
        assert!(control.reader.next().await.unwrap().is_none(), "no end record comes after it");
        assert!(data.bytes() < 50_000_000);
    });
}

#[test]
fn threat_06_another_agents_transfer_is_answered_as_one_that_does_not_exist() {
    let world = World::new();
    let at = &world.files;
    let file = world.file("f", seeded_bytes(1, 1_000));
    let pushed = world.provider.agent.run(["push", "file", &at.entry, file.to_str().unwrap()]).ok();
    let theirs = text(&pushed, "id").to_owned();
    let nobodys = TransferId::from_bits(99).to_string();
    let colleague = world.new_agent(&world.provider, "second");
    runtime().block_on(async {
        for agent in [&world.requester.agent, &world.other.agent, &colleague] {
            let dialled = Raw::of(&world.gateway, agent).dial().await;
            let asks: [fn(&str) -> request::Ask; 2] =
                [|id| ask_read("transfer", id), |id| request::Ask::Cancel(CancelTransfer { transfer: id.into() })];
            for ask in asks {
                let (_, one) = dialled.refused(ask(&theirs)).await;
                let (fault, other) = dialled.refused(ask(&nobodys)).await;
                threat(6, "another agent's transfer id, and one of nobody: the same bytes", &fault);
                assert_eq!(one, other, "byte for byte: {fault:?}");
                assert_eq!(fault.close_code(), CloseCode::Denied);
            }
        }
        // A colleague at the same agency may push, but not under this id.
        let dialled = Raw::of(&world.gateway, &colleague).dial().await;
        let push = |transfer: &str| PushBatch {
            transfer: transfer.into(),
            entry: world.table.entry.clone(),
            mode: "full".into(),
            ..PushBatch::default()
        };
        let (fault, _) = dialled.refused(request::Ask::PushBatch(push(&theirs))).await;
        let (none, _) = dialled.refused(ask_read("transfer", &nobodys)).await;
        threat(6, "a push under a colleague's transfer id", &fault);
        assert_eq!(fault, none, "as if there were none");
    });
    assert_eq!(text(&world.provider.agent.run(["transfer", "show", &theirs]).ok(), "state"), "done");
}

#[test]
fn threat_06_others_records_do_not_exist() {
    let world = shared();
    let at = &world.table;
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.other.agent).dial().await;
        for (kind, id, unknown) in [
            ("grant", &at.grant, "grant-00000000000000000000000007"),
            ("application", &at.application, "application-00000000000000000000000007"),
        ] {
            let (fault, one) = dialled.refused(ask_read(kind, id)).await;
            let (_, other) = dialled.refused(ask_read(kind, unknown)).await;
            threat(6, format!("another agency's {kind}"), &fault);
            let without = |bytes: &[u8], id: &str| String::from_utf8_lossy(bytes).replace(id, "ID");
            assert_eq!(without(&one, id), without(&other, unknown), "{fault:?}");
        }
        let (one, _) = dialled.refused(ask_pull(&at.grant, TransferId::from_bits(6))).await;
        let (other, _) = dialled.refused(ask_pull("grant-00000000000000000000000007", TransferId::from_bits(7))).await;
        threat(6, "a pull under another agency's grant", &one);
        assert_eq!(one, other);
        let narrow = |grant: &str| request::Ask::Narrow(Narrow { grant: grant.into(), reason: "x".into() });
        let (one, _) = dialled.refused(narrow(&at.grant)).await;
        let (other, _) = dialled.refused(narrow("grant-00000000000000000000000007")).await;
        let without = |text: &str, id: &str| text.replace(id, "ID");
        assert_eq!(without(&one.text, &at.grant), without(&other.text, "grant-00000000000000000000000007"));
        threat(6, "a suspension of another agency's grant", &one);
        assert_eq!((one.code, one.word), (other.code, other.word));
    });
    world.requester.agent.run(["grant", "show", &at.grant]).ok();
}

#[test]
fn threat_06_a_token_of_another_connection_opens_nothing() {
    let world = World::new();
    let colleague = world.new_agent(&world.provider, "second");
    runtime().block_on(async {
        let mine = Raw::of(&world.gateway, &world.provider.agent).dial().await;
        let transfer = TransferId::from_bits(66);
        let (mut control, token) = mine.open_batch(&world.table.entry, transfer).await.unwrap();
        let theirs = Raw::of(&world.gateway, &colleague).dial().await;
        let mut send = theirs.connection().open_uni().await.unwrap();
        let hello = DataHello { transfer: transfer.to_string(), token: token.clone() };
        send.write_all(&lingqu_protocol::wire::encode(&hello).unwrap()).await.unwrap();
        let stopped = tokio::time::timeout(WAIT, send.stopped()).await.expect("the stream is stopped").unwrap();
        let got = stopped.map(|code| CloseCode::from_code(code.into_inner()));
        threat(6, "a data stream with another connection's token", got.map_or(Got::from("taken"), Got::from));
        assert!(stopped.is_some());
        // The right connection's stream is still taken: an empty one, and so bad data or an end that does not fit.
        let mut data = FrameWriter::new(mine.session.channel().open_uni().await.unwrap());
        data.message(&hello).await.unwrap();
        data.finish();
        let end = step::Step::PushEnd(lingqu_protocol::wire::PushEnd { rows: 7, ..Default::default() });
        control.writer.message(&Step::from(end)).await.unwrap();
        let (fault, _) = fault(&mut control.reader).await;
        assert!(matches!(fault.close_code(), CloseCode::Integrity | CloseCode::BadData), "{fault:?}");
    });
}

#[test]
fn threat_08_a_resume_is_judged_anew() {
    let world = World::new();
    let at = &world.files;
    let file = world.file("f", seeded_bytes(1, 120_000_000));
    world.provider.agent.run(["push", "file", &at.entry, file.to_str().unwrap()]).ok();
    let out = world.path("out/");
    let pull = world.requester.agent.start(["pull", &at.code, "--out", out.to_str().unwrap()]);
    lingqu_tests::world::wait_until("it flows", || world.gateway.metric("lingqu_sent_bytes_total") > 10_000_000.0);
    pull.kill();
    let id = world.requester.agent.transfers("interrupted").pop().expect("the outbox knows it");
    // Suspended: the resume is refused.
    world.provider.agent.run(["grant", "suspend", &at.grant, "--reason", "测试"]).ok();
    let sent = world.gateway.metric("lingqu_sent_bytes_total");
    let ran = world.requester.agent.run(["transfer", "resume", &id]);
    threat(8, "a resume after the grant was suspended", &ran);
    ran.fails(4);
    assert_eq!(world.gateway.metric("lingqu_sent_bytes_total"), sent, "not a byte");
    // Another grant for the same entry: another scope is another transfer.
    let office = world.provider.office();
    world.provider.agent.run(["grant", "terminate", &at.grant, "--reason", "测试", "--key", office]).ok();
    let narrower = format!("until = {}", day(3));
    let next = world.granted(at.entry.clone(), at.code.clone(), &narrower);
    let resumed = world.requester.agent.run(["transfer", "resume", &id]);
    threat(8, "a resume under another grant of the same entry", &resumed);
    assert_eq!(resumed.code, Some(7), "{resumed}");
    assert!(!out.exists());
    world.requester.agent.run(["pull", &next.grant, "--out", out.to_str().unwrap()]).ok();
    assert!(out.join("f").is_file());
}

#[test]
fn threat_09_outside_its_period_a_grant_gives_nothing() {
    // That the end of a period cuts what runs is shown with an injected clock, in the gate's own tests.
    let world = shared();
    let at = world.new_table();
    let scope = format!("{}\nfrom = {}\nuntil = {}", table_scope(), day(2), day(5));
    let later = world.granted(at.entry.clone(), at.code.clone(), &scope);
    let out = world.path("out.parquet");
    let ran = world.requester.agent.run(["pull", &later.grant, "--out", out.to_str().unwrap()]);
    threat(9, "a pull before the grant's period", &ran);
    let error = ran.fails(3);
    assert_eq!(text(&error, "word"), "period_not_begun");
    // A period that is over cannot even be asked for, or is not approved, or gives nothing.
    let over = format!("{}\nfrom = {}\nuntil = {}", table_scope(), day(-9), day(-2));
    let toml = world.file("over.toml", application_toml(&at.code, &over));
    let applied = world.requester.agent.run(["apply", toml.to_str().unwrap(), "--key", world.requester.office()]);
    threat(9, "an application for a period that is over", &applied);
    if applied.code == Some(0) {
        let id = text(&applied.json(), "id").to_owned();
        let answered = world.provider.agent.run(["answer", &id, "--approve", "--key", world.provider.office()]);
        threat(9, "an answer that approves a period that is over", &answered);
        if answered.code == Some(0) {
            let grant = text(&answered.json(), "id").to_owned();
            let ran = world.requester.agent.run(["pull", &grant, "--out", out.to_str().unwrap()]);
            threat(9, "a pull after the grant's period", &ran);
            let error = ran.fails(4);
            assert_eq!(text(&error, "word"), "period_ended");
        }
    }
    assert!(!out.exists());
}
