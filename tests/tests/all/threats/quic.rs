//! 12, 13, 14, 15: packets, handshakes, streams.

use lingqu_agent::connect::Session;
use lingqu_certs::os::SystemClock;
use lingqu_certs::quic::QuicChannel;
use lingqu_gateway::edge::session::DATA_STREAMS_FIRST;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::frame::{self, FrameKind};
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::session::FrameWriter;
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{self, Pull, PullStart, Read, SegmentRange, reply, request, step};
use lingqu_tests::faults::rng::Rng;
use lingqu_tests::world::raw::{Raw, runtime};
use lingqu_tests::world::{World, bytes_of, seeded_bytes, threat};
use std::net::UdpSocket;
use std::time::Duration;

/// What the gateway may hold at most, with room for a build that is not optimised.
const MEMORY_BYTES_MAX: u64 = 160 << 20;

/// The first packets of so many clients that never go on.
fn initials(world: &World, count: usize) -> Vec<Vec<u8>> {
    let trap = UdpSocket::bind("127.0.0.1:0").unwrap();
    trap.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut raw = Raw::of(&world.gateway, &world.requester.agent);
    raw.address = trap.local_addr().unwrap();
    runtime().block_on(async {
        let mut packets = Vec::new();
        for _ in 0..count {
            let endpoint = lingqu_certs::quic::client_endpoint(([127, 0, 0, 1], 0).into(), raw.limits).unwrap();
            let config = lingqu_certs::quic::client_config(raw.tls.clone(), raw.limits).unwrap();
            let _connecting = endpoint.connect_with(config, raw.address, &raw.name).unwrap();
            let mut packet = vec![0; 65_536];
            let len = tokio::task::block_in_place(|| trap.recv(&mut packet)).unwrap();
            packet.truncate(len);
            packets.push(packet);
        }
        packets
    })
}

/// A long header packet of QUIC version 1 that asks for a token.
fn is_retry(packet: &[u8]) -> bool {
    packet.len() > 5 && packet[0] & 0xf0 == 0xf0 && packet[1..5] == [0, 0, 0, 1]
}

#[test]
fn threat_12_broken_and_made_up_packets_cost_nothing() {
    let world = World::new();
    let initial = initials(&world, 1).remove(0);
    let before = world.gateway.memory_bytes();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |packet: &[u8]| {
        // A full socket drops it, as a network may.
        let _dropped = socket.send_to(packet, world.gateway.address());
    };
    let mut random = Rng::new(12);
    for i in 0..6_000 {
        let packet = match i % 4 {
            0 => {
                let len = random.below(1_400) as usize;
                random.bytes(len)
            }
            1 => initial[..random.below(initial.len() as u64) as usize].to_vec(),
            2 => {
                let mut packet = initial.clone();
                for _ in 0..=random.below(4) {
                    let at = random.below(packet.len() as u64) as usize;
                    packet[at] ^= 1 << random.below(8);
                }
                packet
            }
            _ => {
                // Another version, another connection id.
                let mut packet = initial.clone();
                let fresh = random.bytes(16);
                packet[1..17].copy_from_slice(&fresh);
                packet
            }
        };
        send(&packet);
    }
    world.requester.agent.run(["status"]).ok();
    let grown = world.gateway.memory_bytes().saturating_sub(before);
    let got = format!("the gateway serves; its memory grew by {} KiB", grown >> 10);
    threat(12, "6,000 broken, cut, mutated and made-up packets", got);
    assert!(grown < 48 << 20, "{grown} bytes for nothing");
}

#[test]
fn threat_13_half_open_handshakes_are_asked_for_proof_of_their_address() {
    let world = World::new();
    let packets = initials(&world, 120);
    let sockets: Vec<UdpSocket> = (0..120).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for (socket, packet) in sockets.iter().zip(&packets) {
        socket.send_to(packet, world.gateway.address()).unwrap();
    }
    // While they hang, one who goes on gets in.
    world.requester.agent.run(["status"]).ok();
    std::thread::sleep(Duration::from_secs(1));
    let mut retries = 0;
    let mut answered = 0;
    for socket in &sockets {
        let mut packet = [0; 2_000];
        socket.set_nonblocking(true).unwrap();
        if let Ok(len) = socket.recv(&mut packet) {
            answered += 1;
            retries += usize::from(is_retry(&packet[..len]));
        }
    }
    let got = format!("{answered} answered, {retries} of them with Retry; another agent is served meanwhile");
    threat(13, "120 handshakes that never go on", got);
    assert!(answered > 20, "{answered}");
    assert!(retries > 0 && retries < answered, "{retries} of {answered}: some places are free, the others must prove");
    assert!(world.gateway.memory_bytes_most() < MEMORY_BYTES_MAX);
}

#[test]
fn threat_13_connections_of_one_address_and_one_agency_are_capped() {
    let world = World::new();
    runtime().block_on(async {
        let raw = Raw::of(&world.gateway, &world.requester.agent);
        let endpoint = lingqu_certs::quic::client_endpoint(([127, 0, 0, 1], 0).into(), raw.limits).unwrap();
        let config = lingqu_certs::quic::client_config(raw.tls.clone(), raw.limits).unwrap();
        let mut open = Vec::new();
        let mut refused = 0;
        for _ in 0..300 {
            // Each says hello: one that says nothing is let go after a while, and would make room for another.
            let connecting = endpoint.connect_with(config.clone(), raw.address, &raw.name).unwrap();
            let greeted = match connecting.await {
                Ok(connection) => {
                    let channel = QuicChannel::new(connection);
                    Session::greet(channel, &SystemClock::new(), String::new()).await.ok()
                }
                Err(_) => None,
            };
            match greeted {
                Some(session) => open.push(session),
                None => refused += 1,
            }
            if refused > 3 {
                break;
            }
        }
        let got = format!("{} stand, then refused", open.len());
        threat(13, "300 connections from one address", got);
        assert!(refused > 3, "{} connections stand", open.len());
        assert!(open.len() >= 200, "only {} stand", open.len());
        // Those that stand are not touched; when some go, others come.
        assert!(open.iter().all(|session| session.channel().connection().close_reason().is_none()));
        for session in open.drain(..) {
            session.close();
        }
        endpoint.wait_idle().await;
    });
    world.requester.agent.run(["status"]).ok();
    assert!(world.gateway.metric("lingqu_refused_handshakes_total") > 3.0);
}

#[test]
fn threat_14_streams_that_say_nothing_or_never_end_are_closed() {
    let world = lingqu_tests::world::shared();
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        let silent = Raw::of(&world.gateway, &world.other.agent);
        let nothing = b"".to_vec();
        let half = frame::header(FrameKind::Control, 1 << 20).unwrap().to_vec();
        let begun = [half.clone(), vec![0; 100]].concat();
        let said = |bytes: Vec<u8>| dialled.say(bytes, false);
        // A stream that carries no byte does not exist for its receiver; one byte makes it.
        let (one, two, no_hello) = tokio::join!(said([nothing, vec![1]].concat()), said(begun), async {
            let (connection, _endpoint) = silent.shake_hands().await.unwrap();
            tokio::time::timeout(Duration::from_secs(20), connection.closed()).await.expect("closed without a hello")
        });
        for replies in [one, two] {
            let [reply] = replies.as_slice() else { panic!("{replies:?}") };
            let Some(reply::Reply::Fault(fault)) = &reply.reply else { panic!("{reply:?}") };
            threat(14, "a stream that begins and says no more", fault);
            assert_eq!(fault.word, "too_slow", "{fault:?}");
        }
        threat(14, "a connection without a hello", &no_hello);
        let quinn::ConnectionError::ApplicationClosed(close) = no_hello else { panic!("{no_hello:?}") };
        assert_eq!(CloseCode::from_code(close.error_code.into_inner()), CloseCode::Protocol);
        let read = request::Ask::Read(Read { kind: "grant".into(), ..Read::default() });
        assert!(matches!(dialled.ask(read).await, reply::Reply::Records(_)), "the connection goes on");
    });
}

#[test]
fn threat_14_what_is_no_frame_or_no_request_ends_its_stream_alone() {
    let world = lingqu_tests::world::shared();
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        let control = |body: &[u8]| frame::encode(FrameKind::Control, body).unwrap().to_vec();
        for (what, bytes) in [
            ("no frame", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
            ("a frame over its bound", vec![1, 0xff, 0xff, 0xff, 0xff]),
            ("an unknown kind", vec![9, 0, 0, 0, 0]),
            ("a frame of another kind", frame::segment(1).to_vec()),
            ("no message", control(&[0xff; 40])),
            ("an empty request", control(&[])),
            ("a field that is not known", control(&[0xfa, 0x3f, 1, 0])),
            ("half a frame", vec![1, 0, 0]),
        ] {
            let replies = dialled.say(bytes, true).await;
            let [reply] = replies.as_slice() else { panic!("{what}: {replies:?}") };
            let Some(reply::Reply::Fault(fault)) = &reply.reply else { panic!("{what}: {reply:?}") };
            threat(14, what, fault);
            assert_eq!(fault.close_code(), CloseCode::Protocol, "{what}: {fault:?}");
        }
        // More requests at once than one connection may have: the last ones hear that it is busy.
        let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
        let mut held = Vec::new();
        for n in 0..64 {
            let connection = dialled.connection();
            let opening = tokio::time::timeout(Duration::from_secs(5), connection.open_bi());
            held.push(opening.await.unwrap_or_else(|_| panic!("stream {n}")).unwrap());
            held.last_mut().unwrap().0.write_all(&[1]).await.unwrap();
        }
        let read = wire::Request::from(request::Ask::Read(Read { kind: "grant".into(), ..Read::default() }));
        let replies = tokio::time::timeout(Duration::from_secs(5), dialled.say(wire::encode(&read).unwrap(), true));
        let replies = replies.await.expect("a stream for the 65th");
        let busy = replies
            .iter()
            .any(|r| matches!(&r.reply, Some(reply::Reply::Fault(f)) if f.close_code() == CloseCode::Busy));
        threat(14, "65 requests at once", if busy { "the last hears that it is busy" } else { "all are served" });
        assert!(busy, "{replies:?}");
        drop(held);
    });
    world.requester.agent.run(["status"]).ok();
}

#[test]
fn threat_14_readers_that_take_nothing_hold_nobody_up() {
    let world = World::new();
    let at = &world.files;
    let bytes = seeded_bytes(1, 60_000_000);
    let file = world.file("f", &bytes);
    world.provider.agent.run(["push", "file", &at.entry, file.to_str().unwrap()]).ok();
    runtime().block_on(async {
        let mut held = Vec::new();
        for n in 0..6u128 {
            // A connection each: what lies unread on one takes all of its window.
            let dialled = Raw::of(&world.gateway, &world.requester.agent).dial().await;
            let transfer = TransferId::from_bits(0x1400 + n).to_string();
            let ask = Pull { transfer, target: at.grant.clone(), ..Pull::default() };
            let mut control = dialled.request(request::Ask::Pull(ask)).await;
            assert!(matches!(control.reply().await.unwrap(), reply::Reply::PullReady(_)));
            let _manifest = control.reader.next().await.unwrap();
            let start = PullStart { want: vec![SegmentRange { first: 0, count: 8 }] };
            control.step(step::Step::PullStart(start)).await.unwrap();
            held.push((dialled, control));
        }
        tokio::task::block_in_place(|| {
            let out = world.path("out/");
            world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).ok();
            assert!(bytes_of(&out)["f"] == bytes);
        });
        drop(held);
    });
    let most = world.gateway.memory_bytes_most();
    let got = format!("another pull is whole; the gateway held {} MiB at most", most >> 20);
    threat(14, "six readers that take nothing", got);
    assert!(most < MEMORY_BYTES_MAX, "{most}");
}

#[test]
fn threat_15_fragments_with_gaps_do_not_grow_past_the_windows() {
    let mut world = World::stopped();
    world.gateway.start();
    let at = &world.files;
    // A path on which every eighth packet towards the gateway is late by some dozen others, or lost.
    let path = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to_agents = path.try_clone().unwrap();
    let gateway = UdpSocket::bind("127.0.0.1:0").unwrap();
    gateway.connect(world.gateway.address()).unwrap();
    let from_gateway = gateway.try_clone().unwrap();
    let agent_at = std::sync::Arc::new(std::sync::Mutex::new(None));
    let (known, ended) = (agent_at.clone(), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let done = ended.clone();
    path.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    from_gateway.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let up = std::thread::spawn(move || {
        let mut random = Rng::new(15);
        let mut late: std::collections::VecDeque<Vec<u8>> = Default::default();
        let mut packet = vec![0; 65_536];
        while !ended.load(std::sync::atomic::Ordering::SeqCst) {
            let Ok((len, from)) = path.recv_from(&mut packet) else { continue };
            *agent_at.lock().unwrap() = Some(from);
            match random.below(40) {
                0 => {}
                1..5 => late.push_back(packet[..len].to_vec()),
                _ => {
                    let _dropped = gateway.send(&packet[..len]);
                }
            }
            if late.len() > 24 {
                let _dropped = gateway.send(&late.pop_front().unwrap());
            }
        }
    });
    let stop = done.clone();
    let relay = to_agents.local_addr().unwrap();
    let down = std::thread::spawn(move || {
        let mut packet = vec![0; 65_536];
        while !stop.load(std::sync::atomic::Ordering::SeqCst) {
            let Ok(len) = from_gateway.recv(&mut packet) else { continue };
            if let Some(agent) = *known.lock().unwrap() {
                let _dropped = to_agents.send_to(&packet[..len], agent);
            }
        }
    });
    let settings = world.provider.agent.profile().join("profile.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text.replace(&world.gateway.address().to_string(), &relay.to_string())).unwrap();
    let bytes = seeded_bytes(15, 12_000_000);
    let file = world.file("f", &bytes);
    world.provider.agent.run(["push", "file", &at.entry, file.to_str().unwrap()]).ok();
    done.store(true, std::sync::atomic::Ordering::SeqCst);
    up.join().unwrap();
    down.join().unwrap();
    let out = world.path("out/");
    world.requester.agent.run(["pull", &at.grant, "--out", out.to_str().unwrap()]).ok();
    assert!(bytes_of(&out)["f"] == bytes);
    let most = world.gateway.memory_bytes_most();
    let got = format!("arrived whole; the gateway held {} MiB at most", most >> 20);
    threat(15, "12 MB of which every eighth packet is late or lost", got);
    assert!(most < MEMORY_BYTES_MAX, "{most}");
}

#[test]
fn threat_15_a_data_stream_with_a_gap_is_bounded_by_its_window() {
    let world = lingqu_tests::world::shared();
    let at = world.new_table();
    runtime().block_on(async {
        let dialled = Raw::of(&world.gateway, &world.provider.agent).dial().await;
        // Bytes for a transfer that nobody opened: they stop at the window of an idle connection.
        let mut open = Vec::new();
        let one_more = || tokio::time::timeout(Duration::from_secs(5), dialled.session.channel().open_uni());
        for _ in 0..DATA_STREAMS_FIRST {
            let mut data = FrameWriter::new(one_more().await.expect("a stream").unwrap());
            let write = data.raw(vec![1; 4 << 20].into());
            let written = tokio::time::timeout(Duration::from_millis(200), write).await;
            let taken = matches!(written, Ok(Ok(())));
            threat(15, "4 MiB on a data stream of no transfer", format!("taken: {taken}"));
            assert!(!taken, "4 MiB were taken from nobody known");
            open.push(data);
        }
        let waits =
            tokio::time::timeout(Duration::from_millis(300), dialled.session.channel().open_uni()).await.is_err();
        threat(15, "one stream more than those that nobody asked for", format!("waits: {waits}"));
        assert!(waits, "there is room for more streams than a connection without a transfer has");
        assert!(dialled.open_batch(&at.entry, TransferId::from_bits(1515)).await.is_ok(), "control goes on beside it");
        one_more().await.expect("a transfer has its streams, whatever lies beside it").unwrap();
    });
}
