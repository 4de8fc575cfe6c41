use super::*;
use std::collections::HashSet;

const MS: Duration = Duration::from_millis(1);

fn shaper(conditions: Conditions) -> Shaper {
    Shaper::new(conditions, 7, "up")
}

#[test]
fn the_same_seed_decides_the_same() {
    let rough = Conditions {
        delay: MS,
        loss_per_mille: 300,
        duplicate_per_mille: 300,
        reorder_per_mille: 300,
        reorder_delay: 5 * MS,
        ..Conditions::default()
    };
    let run = |seed| {
        let mut shaper = Shaper::new(rough, seed, "up");
        (0..200u32).map(|i| shaper.arrivals(i * MS, 1200)).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let kinds: HashSet<usize> = run(1).iter().map(Vec::len).collect();
    assert_eq!(kinds, HashSet::from([0, 1, 2]), "lost, once and twice all happen");
}

#[test]
fn delay_is_added_and_an_overtaken_datagram_comes_later() {
    let mut straight = shaper(Conditions { delay: 10 * MS, ..Conditions::default() });
    assert_eq!(straight.arrivals(5 * MS, 1), [15 * MS]);
    let mut late = shaper(Conditions { reorder_per_mille: 1000, reorder_delay: 30 * MS, ..Conditions::default() });
    assert_eq!(late.arrivals(5 * MS, 1), [35 * MS]);
}

#[test]
fn a_rate_spaces_datagrams_and_loses_those_beyond_the_queue() {
    let mut slow =
        shaper(Conditions { rate_bytes_per_second: Some(1000), queue_bytes_max: 200, ..Conditions::default() });
    assert_eq!(slow.arrivals(Duration::ZERO, 100), [100 * MS]);
    assert_eq!(slow.arrivals(Duration::ZERO, 100), [200 * MS]);
    assert_eq!(slow.arrivals(Duration::ZERO, 100), [300 * MS], "200 bytes wait: the queue is full and no fuller");
    assert!(slow.arrivals(Duration::ZERO, 100).is_empty());
    assert_eq!(slow.arrivals(300 * MS, 100), [400 * MS], "the queue has drained");
}

#[test]
fn a_cut_direction_passes_nothing() {
    let mut cut = shaper(Conditions { cut: true, ..Conditions::default() });
    assert!((0..100).all(|_| cut.arrivals(MS, 1).is_empty()));
}

/// A server that echoes and tells which addresses it saw.
async fn echo() -> (SocketAddr, Arc<Mutex<Vec<SocketAddr>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (socket.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let saw = Arc::clone(&seen);
    tokio::spawn(async move {
        let mut buf = [0; 2048];
        while let Ok((n, from)) = socket.recv_from(&mut buf).await {
            locked(&saw).push(from);
            socket.send_to(&buf[..n], from).await.unwrap();
        }
    });
    (address, seen)
}

async fn ask(client: &UdpSocket, text: &[u8]) -> Option<Vec<u8>> {
    client.send(text).await.unwrap();
    let mut buf = [0; 2048];
    let got = tokio::time::timeout(Duration::from_millis(300), client.recv(&mut buf)).await.ok()?.unwrap();
    Some(buf[..got].to_vec())
}

#[tokio::test]
async fn datagrams_pass_both_ways_and_a_changed_port_is_seen_by_the_server_alone() {
    let (server, seen) = echo().await;
    let link = Link::start(server, Conditions::default(), 1).await.unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(link.address()).await.unwrap();
    assert_eq!(ask(&client, b"one").await.unwrap(), b"one");
    link.change_ports().await.unwrap();
    assert_eq!(ask(&client, b"two").await.unwrap(), b"two");
    let ports: HashSet<u16> = locked(&seen).iter().map(SocketAddr::port).collect();
    assert_eq!(ports.len(), 2);
    assert_eq!(link.passed(), Passed { up_bytes: 6, down_bytes: 6, lost: 0 });
}

#[tokio::test]
async fn one_direction_can_be_cut_and_healed() {
    let (server, seen) = echo().await;
    let link = Link::start(server, Conditions::default(), 1).await.unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(link.address()).await.unwrap();
    link.cut(Direction::Down, true);
    assert_eq!(ask(&client, b"lost").await, None);
    assert_eq!(locked(&seen).len(), 1, "the way up is open");
    assert_eq!(link.passed().lost, 1);
    link.cut(Direction::Down, false);
    assert_eq!(ask(&client, b"back").await.unwrap(), b"back");
}

#[tokio::test]
async fn a_new_client_is_served_however_many_came_before() {
    let (server, _) = echo().await;
    let link = Link::start(server, Conditions::default(), 1).await.unwrap();
    for _ in 0..CLIENTS_MAX + 5 {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(link.address()).await.unwrap();
        assert_eq!(ask(&client, b"here").await.unwrap(), b"here");
    }
    assert_eq!(locked(&link.hand.shared.clients).len(), CLIENTS_MAX);
}
