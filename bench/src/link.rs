//! A bad network between two programs on one machine: a UDP relay that delays, loses, doubles, reorders and slows
//! datagrams by a seed, cuts one direction or both, and changes the address that the server sees.
//!
//! What happens to a datagram is decided by [`Shaper`], which does no IO; [`Link`] carries it out.

use crate::seeded::Seeded;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Bytes of a UDP payload: the length field's bound.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// What is asked of the kernel for each socket's buffers: a relay that loses by itself would not be the one that was asked
/// for.
const BUFFER_BYTES: usize = 4 << 20;

/// Clients that one link serves at a time: a test has one or two, and each costs a socket. The one that was silent longest
/// gives way to a new one, as in a router.
const CLIENTS_MAX: usize = 64;

/// Datagrams that wait to be delivered in one direction before new ones are lost, as in a router.
const WAITING_MAX: usize = 65_536;

/// What one direction does to datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// How long each takes.
    pub delay: Duration,
    /// How many of 1,000 are lost.
    pub loss_per_mille: u32,
    /// How many of 1,000 arrive twice.
    pub duplicate_per_mille: u32,
    /// How many of 1,000 are overtaken by those behind them.
    pub reorder_per_mille: u32,
    /// How much later one that is overtaken arrives.
    pub reorder_delay: Duration,
    /// Bytes a second; no bound where absent.
    pub rate_bytes_per_second: Option<u64>,
    /// Bytes that wait for their turn under a rate; more are lost.
    pub queue_bytes_max: u64,
    /// Whether nothing passes at all.
    pub cut: bool,
}

/// Decides by a seed when a datagram arrives, and whether it does.
#[derive(Debug)]
pub struct Shaper {
    /// What it does; may be changed at any time.
    pub conditions: Conditions,
    random: Seeded,
    free_at: Duration,
}

impl Shaper {
    /// A direction called `name` under `conditions`.
    pub fn new(conditions: Conditions, seed: u64, name: &str) -> Self {
        Self { conditions, random: Seeded::new(seed, name), free_at: Duration::ZERO }
    }

    /// When a datagram of `bytes` that is sent at `now` arrives: not at all, once or twice.
    pub fn arrivals(&mut self, now: Duration, bytes: usize) -> Vec<Duration> {
        let c = self.conditions;
        // Drawn in any case, so that one condition does not shift the luck of the others.
        let lost = self.random.chance(c.loss_per_mille);
        let doubled = self.random.chance(c.duplicate_per_mille);
        let overtaken = self.random.chance(c.reorder_per_mille);
        if c.cut {
            return Vec::new();
        }
        let mut at = now;
        if let Some(rate) = c.rate_bytes_per_second.filter(|rate| *rate > 0) {
            let start = self.free_at.max(now);
            let waiting_bytes = (start - now).as_secs_f64() * rate as f64;
            if waiting_bytes > c.queue_bytes_max as f64 {
                return Vec::new();
            }
            at = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
            self.free_at = at;
        }
        if lost {
            return Vec::new();
        }
        at += c.delay + if overtaken { c.reorder_delay } else { Duration::ZERO };
        if doubled { vec![at, at] } else { vec![at] }
    }
}

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What passed so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Bytes that came from the client.
    pub up_bytes: u64,
    /// Bytes that came from the server.
    pub down_bytes: u64,
    /// Datagrams that were lost on purpose, in both directions.
    pub lost: u64,
}

#[derive(Debug)]
struct Shared {
    up: Mutex<Shaper>,
    down: Mutex<Shaper>,
    passed: Mutex<Passed>,
    clients: Mutex<HashMap<SocketAddr, Client>>,
    started: Instant,
}

#[derive(Debug)]
struct Client {
    upstream: Arc<UdpSocket>,
    reading: AbortHandle,
    heard_at: Instant,
}

#[derive(Debug)]
struct Parcel {
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    at: Duration,
    bytes: Vec<u8>,
}

/// A running relay. Dropped, it is gone.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    hand: Hand,
    _tasks: JoinSet<()>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while it holds one; a poisoned one is as good as any.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Starts a relay on loopback in front of `server`, with the same conditions both ways.
    ///
    /// # Errors
    /// When the system gives no socket.
    pub async fn start(server: SocketAddr, conditions: Conditions, seed: u64) -> io::Result<Self> {
        let front = Arc::new(socket()?);
        let shared = Arc::new(Shared {
            up: Mutex::new(Shaper::new(conditions, seed, "up")),
            down: Mutex::new(Shaper::new(conditions, seed, "down")),
            passed: Mutex::default(),
            clients: Mutex::default(),
            started: Instant::now(),
        });
        let (parcels, waiting) = mpsc::channel(WAITING_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(deliver(waiting, shared.started));
        let hand = Hand { server, front, shared, parcels };
        tasks.spawn(from_clients(hand.clone()));
        Ok(Self { address: hand.front.local_addr()?, hand, _tasks: tasks })
    }

    /// Where clients send to instead of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what one direction does.
    pub fn set(&self, direction: Direction, conditions: Conditions) {
        locked(self.shaper(direction)).conditions = conditions;
    }

    /// Cuts a direction, or lets it through again.
    pub fn cut(&self, direction: Direction, cut: bool) {
        locked(self.shaper(direction)).conditions.cut = cut;
    }

    /// What passed so far.
    pub fn passed(&self) -> Passed {
        *locked(&self.hand.shared.passed)
    }

    /// From now on the server sees every client under another port, as after a router forgot its bindings.
    ///
    /// # Errors
    /// When the system gives no socket.
    pub async fn change_ports(&self) -> io::Result<()> {
        let known: Vec<SocketAddr> = locked(&self.hand.shared.clients).keys().copied().collect();
        for client in known {
            let made = connect(&self.hand, client).await?;
            if let Some(old) = locked(&self.hand.shared.clients).insert(client, made) {
                old.reading.abort();
            }
        }
        Ok(())
    }

    fn shaper(&self, direction: Direction) -> &Mutex<Shaper> {
        match direction {
            Direction::Up => &self.hand.shared.up,
            Direction::Down => &self.hand.shared.down,
        }
    }
}

/// What the relay's tasks hold.
#[derive(Clone, Debug)]
struct Hand {
    server: SocketAddr,
    front: Arc<UdpSocket>,
    shared: Arc<Shared>,
    parcels: mpsc::Sender<Parcel>,
}

impl Hand {
    /// Hands a datagram over as its direction's shaper says.
    fn send(&self, direction: Direction, socket: &Arc<UdpSocket>, to: SocketAddr, bytes: &[u8]) {
        let now = self.shared.started.elapsed();
        let arrivals = match direction {
            Direction::Up => locked(&self.shared.up).arrivals(now, bytes.len()),
            Direction::Down => locked(&self.shared.down).arrivals(now, bytes.len()),
        };
        let mut passed = locked(&self.shared.passed);
        match direction {
            Direction::Up => passed.up_bytes += bytes.len() as u64,
            Direction::Down => passed.down_bytes += bytes.len() as u64,
        }
        passed.lost += u64::from(arrivals.is_empty());
        drop(passed);
        for at in arrivals {
            // A full queue loses the datagram, as a router does.
            let _ = self.parcels.try_send(Parcel { socket: Arc::clone(socket), to, at, bytes: bytes.to_vec() });
        }
    }
}

/// A socket on loopback whose buffers hold what both programs may send in a burst: the kernel gives what it allows.
fn socket() -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    socket.set_send_buffer_size(BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    UdpSocket::from_std(socket.into())
}

async fn from_clients(hand: Hand) {
    let mut buf = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        // An error here is a client's port that is closed by now: nothing to relay.
        let Ok((bytes, client)) = hand.front.recv_from(&mut buf).await else { continue };
        let known = locked(&hand.shared.clients).get_mut(&client).map(|known| {
            known.heard_at = Instant::now();
            Arc::clone(&known.upstream)
        });
        let upstream = match known {
            Some(upstream) => upstream,
            None => {
                let Ok(made) = connect(&hand, client).await else { continue };
                let upstream = Arc::clone(&made.upstream);
                let mut clients = locked(&hand.shared.clients);
                make_room(&mut clients);
                clients.insert(client, made);
                upstream
            }
        };
        if let Some(datagram) = buf.get(..bytes) {
            hand.send(Direction::Up, &upstream, hand.server, datagram);
        }
    }
}

/// Forgets the client that was silent longest where there are as many as there may be.
fn make_room(clients: &mut HashMap<SocketAddr, Client>) {
    let oldest = clients.iter().min_by_key(|(_, client)| client.heard_at).map(|(address, _)| *address);
    if clients.len() >= CLIENTS_MAX
        && let Some(gone) = oldest.and_then(|address| clients.remove(&address))
    {
        gone.reading.abort();
    }
}

/// A socket towards the server for one client, and the task that carries its answers back.
async fn connect(hand: &Hand, client: SocketAddr) -> io::Result<Client> {
    let upstream = Arc::new(socket()?);
    let (hand, socket) = (hand.clone(), Arc::clone(&upstream));
    let reading = tokio::spawn(async move {
        let mut buf = vec![0; DATAGRAM_BYTES_MAX];
        // The relay's other tasks end with it; this one ends when nobody can be answered any more.
        while !hand.parcels.is_closed() {
            let Ok((bytes, from)) = socket.recv_from(&mut buf).await else { continue };
            if let Some(datagram) = buf.get(..bytes).filter(|_| from == hand.server) {
                hand.send(Direction::Down, &hand.front, client, datagram);
            }
        }
    });
    Ok(Client { upstream, reading: reading.abort_handle(), heard_at: Instant::now() })
}

impl Drop for Link {
    fn drop(&mut self) {
        for client in locked(&self.hand.shared.clients).values() {
            client.reading.abort();
        }
    }
}

/// Sends each datagram at its time; those of the same time in the order in which they came.
async fn deliver(mut parcels: mpsc::Receiver<Parcel>, started: Instant) {
    let mut order = 0u64;
    let mut due: BinaryHeap<Reverse<(Duration, u64)>> = BinaryHeap::new();
    let mut held: HashMap<u64, Parcel> = HashMap::new();
    loop {
        let next = due.peek().map(|Reverse((at, _))| started + *at);
        tokio::select! {
            parcel = parcels.recv() => {
                let Some(parcel) = parcel else { return };
                due.push(Reverse((parcel.at, order)));
                held.insert(order, parcel);
                order += 1;
            }
            () = wait_until(next), if next.is_some() => {}
        }
        let now = started.elapsed();
        while due.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, id))) = due.pop() else { break };
            if let Some(parcel) = held.remove(&id) {
                // UDP promises nothing: what cannot be sent is lost.
                let _ = parcel.socket.send_to(&parcel.bytes, parcel.to).await;
            }
        }
    }
}

async fn wait_until(at: Option<Instant>) {
    if let Some(at) = at {
        sleep_until(at).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
