//! A whole gateway in this process, from its folder to its sessions, behind connections that keep every byte it sends.

use arrow::array::RecordBatch;
use bytes::Bytes;
use lingqu_certs::key::PublicKey;
use lingqu_certs::memory::{MemoryChannel, pair};
use lingqu_certs::os::{OsEntropy, SystemClock};
use lingqu_gateway::edge::operation::Caller;
use lingqu_gateway::edge::session::{Services, serve};
use lingqu_gateway::flow::pseudonym::PseudonymSecret;
use lingqu_gateway::flow::record::{USED_PARENT, used};
use lingqu_gateway::flow::{Facts, Flow, FlowParts};
use lingqu_gateway::folder::{Folder, init};
use lingqu_gateway::gate::{
    AgencyView, AgentView, BackflowView, EntryView, Gate, GrantStatus, GrantView, Peer, Update,
};
use lingqu_gateway::lake::local::LocalStore;
use lingqu_gateway::lake::store::Lake;
use lingqu_gateway::ledger::Ledger;
use lingqu_gateway::misuse::observation::Fingerprint;
use lingqu_gateway::misuse::pair as pair_of_observer;
use lingqu_gateway::registry::Registry;
use lingqu_gateway::state::{Filter, Kind, MemoryState, State};
use lingqu_protocol::backflow::BackflowList;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::frame::{Event, FrameKind, header};
use lingqu_protocol::host::{Clock, Entropy, Timestamp};
use lingqu_protocol::ids::{EntryId, GrantId, ListId, TransferId};
use lingqu_protocol::region::{RegionLevel, RegionTable};
use lingqu_protocol::scope::ApplicationSpec;
use lingqu_protocol::session::{FrameReader, FrameWriter};
use lingqu_protocol::stream::{Channel, SendHalf, StreamError};
use lingqu_protocol::wire::{self, *};
use lingqu_tests::faults::disk::FakeDisk;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const PROVIDER: &str = "91350100M000100Y43";
pub(crate) const REQUESTER: &str = "91512081MA62K0260E";
pub(crate) const ENTRY: EntryId = EntryId::from_bits(1);

/// What was sent on each stream, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record(Arc<Mutex<Vec<Sent>>>);

/// The bytes of one stream.
type Sent = Arc<Mutex<Vec<u8>>>;

impl Record {
    fn stream(&self) -> Sent {
        let stream = Sent::default();
        self.0.lock().unwrap().push(Arc::clone(&stream));
        stream
    }

    /// Whether these bytes stand on one of the streams, across whatever pieces they were sent in.
    pub(crate) fn holds(&self, needle: &[u8]) -> bool {
        let streams = self.0.lock().unwrap();
        streams.iter().any(|stream| stream.lock().unwrap().windows(needle.len()).any(|w| w == needle))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.lock().unwrap().iter().map(|stream| stream.lock().unwrap().len()).sum()
    }
}

/// The gateway's end of a connection, which keeps what is sent on it.
#[derive(Clone)]
struct Recording {
    inner: MemoryChannel,
    record: Record,
}

struct RecordingSend {
    inner: <MemoryChannel as Channel>::Send,
    sent: Sent,
}

impl SendHalf for RecordingSend {
    async fn send(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        // Before it is known whether it arrives: what was handed over may have left.
        self.sent.lock().unwrap().extend_from_slice(&bytes);
        self.inner.send(bytes).await
    }
    fn finish(&mut self) {
        self.inner.finish();
    }
    fn reset(&mut self, code: CloseCode) {
        self.inner.reset(code);
    }
}

impl Recording {
    fn send(&self, inner: <MemoryChannel as Channel>::Send) -> RecordingSend {
        RecordingSend { inner, sent: self.record.stream() }
    }
}

impl Channel for Recording {
    type Send = RecordingSend;
    type Recv = <MemoryChannel as Channel>::Recv;
    async fn open_bi(&self) -> Result<(Self::Send, Self::Recv), StreamError> {
        let (send, recv) = self.inner.open_bi().await?;
        Ok((self.send(send), recv))
    }
    async fn accept_bi(&self) -> Result<(Self::Send, Self::Recv), StreamError> {
        let (send, recv) = self.inner.accept_bi().await?;
        Ok((self.send(send), recv))
    }
    async fn open_uni(&self) -> Result<Self::Send, StreamError> {
        Ok(self.send(self.inner.open_uni().await?))
    }
    async fn accept_uni(&self) -> Result<Self::Recv, StreamError> {
        self.inner.accept_uni().await
    }
    fn close(&self, code: CloseCode) {
        self.inner.close(code);
    }
}

/// The gateway.
pub(crate) struct Inside {
    services: Arc<Services>,
    state: Arc<MemoryState>,
    lake: Lake,
    dir: Arc<tempfile::TempDir>,
}

impl Inside {
    /// A gateway that knows a provider and a requester, each with the agents `a` and `b`.
    pub(crate) async fn new() -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let (clock, entropy) = (SystemClock::new(), OsEntropy::new());
        let (gateway, root) = (dir.path().join("gateway"), dir.path().join("root"));
        init(&gateway, &root, "lingqu.test", "127.0.0.1:4433", &clock, &entropy).await.unwrap();
        let store = LocalStore::open(Arc::new(FakeDisk::new(1 << 30, 1)), "/lake").unwrap();
        Self::start(dir, MemoryState::new(), Lake::new(Arc::new(store))).await
    }

    /// The same gateway after its process ended: what was not durable is forgotten, and its policy is yet to be loaded.
    pub(crate) async fn restart(self) -> Self {
        Self::start(self.dir, self.state, self.lake).await
    }

    async fn start(dir: Arc<tempfile::TempDir>, state: Arc<MemoryState>, lake: Lake) -> Self {
        let folder = Folder::open(&dir.path().join("gateway")).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy::new());
        let gate = Arc::new(Gate::new(Arc::clone(&clock)));
        let identity = folder.identity;
        let durable: Arc<dyn State> = state.clone();
        let facts = Facts {
            gateway: identity.gateway,
            domain: identity.domain.clone(),
            statement: identity.statement.to_json().into(),
            marks_key: [7; 32],
        };
        let key = Arc::new(folder.receipt_key);
        let statement = identity.statement.clone();
        let ledger = Ledger::new(Arc::clone(&durable), key, &identity.domain, identity.gateway, statement);
        let flow = Flow::new(FlowParts {
            state: Arc::clone(&durable),
            ledger: Arc::new(ledger),
            lake: lake.clone(),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            pseudonyms: PseudonymSecret::load(&folder.layout.pseudonym_secret()).unwrap().unwrap(),
            facts,
            failpoint: |_| {},
        });
        // Nobody judges what is observed here.
        let (observer, _) = pair_of_observer(Fingerprint::new([7; 32]), Arc::clone(&clock));
        let observer = Arc::new(observer);
        let publish = Arc::clone(&gate) as Arc<dyn lingqu_gateway::registry::Publish>;
        let registry = Registry::new(durable, publish, clock, entropy, Arc::new(folder.ca), identity);
        let filter = Filter { parent: Some(USED_PARENT.to_owned()), ..Filter::default() };
        for record in state.list(Kind::Setting, filter, None, 1000).await.unwrap() {
            let (under, used) = used(&record).unwrap();
            gate.restore_used(under, used);
        }
        let mut updates = Vec::new();
        for code in [PROVIDER, REQUESTER] {
            updates.push(Update::Agency(AgencyView {
                code: code.parse().unwrap(),
                name: code.into(),
                region: "44".parse().unwrap(),
                level: RegionLevel::Province,
                duties: [].into(),
                authority: false,
            }));
            let agents = ["a", "b"].map(|name| format!("{code}/{name}").parse().unwrap());
            updates.extend(agents.map(|id| Update::Agent(AgentView { id, blocked: None })));
        }
        gate.publish(updates);
        gate.refresh(Duration::from_secs(3600));
        let (registry, flow) = (Arc::new(registry), Arc::new(flow));
        let connections = AtomicU64::new(0);
        let services = Arc::new(Services { gate, registry, flow, windows: Arc::default(), connections, observer });
        Self { services, state, lake, dir }
    }

    /// Puts the entry with these terms in force.
    pub(crate) fn publish(&self, toml: &str) {
        let spec = Arc::new(EntrySpec::parse(toml).unwrap());
        let provider = PROVIDER.parse().unwrap();
        let view = EntryView { id: ENTRY, code: None, provider, spec, published: true };
        self.services.gate.publish(vec![Update::Entry(view)]);
    }

    /// Puts a grant of the entry in force, under these keys of application.toml and a period that is open.
    pub(crate) fn grant(&self, number: u128, entry_toml: &str, keys: &str) -> GrantId {
        let today = chrono::Utc::now().date_naive();
        let (from, until) = (today - chrono::TimeDelta::days(2), today + chrono::TimeDelta::days(30));
        let toml = format!(
            "entry = \"x\"\nbasis = \"b\"\nscenario = \"s\"\npurposes = [\"p\"]\nmethods = [\"batch_exchange\", \"service_interface\"]\nfrom = {from}\n\
             until = {until}\n{keys}"
        );
        let spec = EntrySpec::parse(entry_toml).unwrap();
        let scope = ApplicationSpec::parse(&toml).unwrap_or_else(|e| panic!("{e}\n{toml}")).scope;
        scope.check(&spec).unwrap_or_else(|e| panic!("{e}\n{toml}"));
        let id = GrantId::from_bits(number);
        self.services.gate.publish(vec![Update::Grant(GrantView {
            id,
            entry: ENTRY,
            requester: REQUESTER.parse().unwrap(),
            scope: Arc::new(scope.resolved(&spec)),
            status: GrantStatus::InForce,
            digest: Digest::blake3(toml.as_bytes()),
        })]);
        id
    }

    /// Names departments with agents, each in charge of its region, with the duty `回流`.
    pub(crate) fn departments(&self, all: &[(String, &str)]) {
        let table = RegionTable::national();
        let updates = all.iter().flat_map(|(code, region)| {
            let region = table.check(region).unwrap();
            let agency = AgencyView {
                code: code.parse().unwrap(),
                name: code.clone(),
                region,
                level: table.level(region),
                duties: ["回流".to_owned()].into(),
                authority: false,
            };
            let agent = AgentView { id: format!("{code}/a").parse().unwrap(), blocked: None };
            [Update::Agency(agency), Update::Agent(agent)]
        });
        self.services.gate.publish(updates.collect());
    }

    /// Puts a list in force, or revokes it, that gives the entry to whoever has the duty `回流`; `rest` are more of its lines.
    pub(crate) fn list(&self, number: u128, revoked: Option<&str>, rest: &str) {
        let toml = format!("name = \"n\"\n[[backflow]]\nentry = \"x\"\nto_duties = [\"回流\"]\nduty = \"d\"\n{rest}");
        let list = BackflowList::parse(&toml).unwrap();
        self.services.gate.publish(vec![Update::Backflow(Arc::new(BackflowView {
            list: ListId::from_bits(number),
            published_at: Timestamp(number as i64),
            revoked: revoked.map(|why| (Timestamp(0), why.to_owned())),
            rows: list.rows.into_iter().map(|row| (row, ENTRY)).collect(),
            region_changes: list.region_changes,
        }))]);
    }

    /// The gate and what flows.
    pub(crate) fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Connects as agent `a` of an agency.
    pub(crate) async fn connect(&self, agency: &str) -> Connection {
        let (here, there) = pair();
        let record = Record::default();
        let there = Recording { inner: there, record: record.clone() };
        let address = "127.0.0.1:7".parse().unwrap();
        let peer = Peer { agent: format!("{agency}/a").parse().unwrap(), address: "127.0.0.1".parse().unwrap() };
        let caller = Caller::Agent { peer, key: PublicKey::from_bytes([0; 32]), address };
        tokio::spawn(serve(Arc::clone(&self.services), caller, there));
        let (send, recv) = here.open_bi().await.unwrap();
        let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(recv));
        let hello = Hello { versions: wire::VERSIONS.to_vec(), limits: Some(wire::limits()), ..Hello::default() };
        writer.message(&hello).await.unwrap();
        reader.expect::<Welcome>("a welcome").await.unwrap();
        Connection { agency: agency.to_owned(), channel: here, record, _hello: (writer, reader) }
    }
}

pub(crate) type Half<H> = (FrameWriter<<H as Channel>::Send>, FrameReader<<H as Channel>::Recv>);

/// An agent's end of a connection, and what the gateway sent on it.
pub(crate) struct Connection {
    /// Whose.
    pub(crate) agency: String,
    pub(crate) channel: MemoryChannel,
    pub(crate) record: Record,
    _hello: Half<MemoryChannel>,
}

/// What a pull gave.
#[derive(Debug, Default)]
pub(crate) struct Got {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) schema: Option<arrow::datatypes::SchemaRef>,
    /// Bytes of the bodies of Batch frames.
    pub(crate) bytes: u64,
    pub(crate) end: Option<PullEnd>,
    pub(crate) receipt: Option<Bytes>,
    pub(crate) fault: Option<Fault>,
}

impl Connection {
    pub(crate) async fn request(&self, ask: request::Ask) -> Half<MemoryChannel> {
        let (send, recv) = self.channel.open_bi().await.unwrap();
        let mut writer = FrameWriter::new(send);
        writer.message(&Request::from(ask)).await.unwrap();
        (writer, FrameReader::new(recv))
    }

    pub(crate) async fn reply(reader: &mut FrameReader<<MemoryChannel as Channel>::Recv>) -> reply::Reply {
        loop {
            match reader.expect::<Reply>("a reply").await.unwrap().reply.unwrap() {
                reply::Reply::Progress(_) => {}
                other => return other,
            }
        }
    }

    /// Pushes rows as they are.
    pub(crate) async fn push(&self, bodies: Vec<Bytes>, end: PushEnd) {
        self.push_as("full", bodies, end).await;
    }

    /// The same in another mode.
    pub(crate) async fn push_as(&self, mode: &str, bodies: Vec<Bytes>, end: PushEnd) {
        let transfer = TransferId::random(&OsEntropy::new()).unwrap().to_string();
        let ask = PushBatch {
            transfer: transfer.clone(),
            entry: ENTRY.to_string(),
            mode: mode.to_owned(),
            ..PushBatch::default()
        };
        let (mut writer, mut reader) = self.request(request::Ask::PushBatch(ask)).await;
        let reply::Reply::PushReady(ready) = Self::reply(&mut reader).await else { panic!("not ready") };
        let mut data = FrameWriter::new(self.channel.open_uni().await.unwrap());
        data.message(&DataHello { transfer, token: ready.token }).await.unwrap();
        for body in bodies {
            let head = header(FrameKind::Batch, body.len()).unwrap();
            data.raw(Bytes::copy_from_slice(&head)).await.unwrap();
            data.raw(body).await.unwrap();
        }
        data.finish();
        writer.message(&Step::from(step::Step::PushEnd(end))).await.unwrap();
        match Self::reply(&mut reader).await {
            reply::Reply::Receipt(_) => {}
            other => panic!("{other:?}"),
        }
    }

    /// Asks for one key.
    pub(crate) async fn query(&self, ask: Query) -> Got {
        let mut got = Got::default();
        let (mut writer, mut reader) = self.request(request::Ask::Query(ask)).await;
        writer.finish();
        match Self::reply(&mut reader).await {
            reply::Reply::Answer(_) => {}
            reply::Reply::Fault(fault) => return Got { fault: Some(fault), ..got },
            other => panic!("{other:?}"),
        }
        let mut decoder = lingqu_protocol::ipc::Decoder::default();
        while let Some(event) = reader.next().await.unwrap() {
            let Event::Batch(body) = event else { panic!("{event:?}") };
            got.bytes += body.len() as u64;
            got.batches.extend(decoder.decode(body).unwrap());
        }
        got.schema = decoder.schema().cloned();
        got
    }

    /// Asks for many keys: the bodies of their frames, and what they are announced as.
    pub(crate) async fn match_keys(&self, ask: MatchKeys, bodies: Vec<Bytes>) -> Got {
        let transfer = TransferId::random(&OsEntropy::new()).unwrap().to_string();
        let ask = MatchKeys { transfer: transfer.clone(), ..ask };
        let (mut writer, mut reader) = self.request(request::Ask::MatchKeys(ask)).await;
        let ready = match Self::reply(&mut reader).await {
            reply::Reply::PullReady(ready) => ready,
            reply::Reply::Fault(fault) => return Got { fault: Some(fault), ..Got::default() },
            other => panic!("{other:?}"),
        };
        writer.message(&Step::from(step::Step::PullStart(PullStart::default()))).await.unwrap();
        let mut keys = FrameWriter::new(self.channel.open_uni().await.unwrap());
        keys.message(&DataHello { transfer, token: ready.token }).await.unwrap();
        for body in bodies {
            let head = header(FrameKind::Batch, body.len()).unwrap();
            keys.raw(Bytes::copy_from_slice(&head)).await.unwrap();
            keys.raw(body).await.unwrap();
        }
        keys.finish();
        self.delivery(Got::default(), writer, reader).await
    }

    /// Pulls to the end, or to the fault that comes instead.
    pub(crate) async fn pull(&self, ask: Pull) -> Got {
        let transfer = TransferId::random(&OsEntropy::new()).unwrap().to_string();
        self.pull_as(transfer, ask).await
    }

    /// The same under a transfer's id.
    pub(crate) async fn pull_as(&self, transfer: String, ask: Pull) -> Got {
        let got = Got::default();
        let (mut writer, mut reader) = self.request(request::Ask::Pull(Pull { transfer, ..ask })).await;
        match Self::reply(&mut reader).await {
            reply::Reply::PullReady(_) => {}
            reply::Reply::Fault(fault) => return Got { fault: Some(fault), ..got },
            reply::Reply::Receipt(receipt) => return Got { receipt: Some(receipt.json), ..got },
            other => panic!("{other:?}"),
        }
        writer.message(&Step::from(step::Step::PullStart(PullStart::default()))).await.unwrap();
        self.delivery(got, writer, reader).await
    }

    /// Rows that come, their end and their receipt.
    async fn delivery(
        &self,
        mut got: Got,
        mut writer: FrameWriter<<MemoryChannel as Channel>::Send>,
        mut reader: FrameReader<<MemoryChannel as Channel>::Recv>,
    ) -> Got {
        let mut data = FrameReader::new(self.channel.accept_uni().await.unwrap());
        // A reset may overtake everything that was sent before it, the hello as well; the reason is on the other stream.
        let greeted = data.expect::<DataHello>("a data hello").await.is_ok();
        let mut decoder = lingqu_protocol::ipc::Decoder::default();
        while greeted && let Ok(Some(event)) = data.next().await {
            let body = match event {
                Event::Batch(body) => body,
                // Marks, which a receiver that keeps nothing has no use for.
                Event::Control(_) => continue,
                other => panic!("{other:?}"),
            };
            got.bytes += body.len() as u64;
            got.batches.extend(decoder.decode(body).unwrap());
        }
        got.schema = decoder.schema().cloned();
        let end = match Self::reply(&mut reader).await {
            reply::Reply::PullEnd(end) => end,
            reply::Reply::Fault(fault) => return Got { fault: Some(fault), ..got },
            other => panic!("{other:?}"),
        };
        let done = PullDone { bytes_root: end.bytes_root.clone(), rows_digest: end.rows_digest.clone() };
        got.end = Some(end);
        writer.message(&Step::from(step::Step::PullDone(done))).await.unwrap();
        match Self::reply(&mut reader).await {
            reply::Reply::Receipt(receipt) => got.receipt = Some(receipt.json),
            other => panic!("{other:?}"),
        }
        writer.finish();
        // The last word comes when the gateway has seen the end.
        assert!(matches!(Self::reply(&mut reader).await, reply::Reply::Done(_)));
        got
    }
}
