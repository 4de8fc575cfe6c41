//! A registry with real keys, real documents and a real gate, in memory.

use crate::gate::Gate;
use crate::registry::{Identity, Registry, RegistryError, Taken};
use crate::state::{MemoryState, State};
use lingqu_certs::ca::{Authority, signing_request};
use lingqu_certs::document;
use lingqu_certs::invitation::Invitation;
use lingqu_certs::key::SigningKey;
use lingqu_certs::os::OsEntropy;
use lingqu_certs::root::Root;
use lingqu_protocol::agency::{AgentId, CreditCode};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::*;
use lingqu_protocol::dsse::Envelope;
use lingqu_protocol::host::{Clock, Timestamp};
use lingqu_protocol::ids::{ApplicationId, DocumentId, EntryId, GatewayId, GrantId, ListId, OrderId};
use lingqu_protocol::leaf::Leaf;
use lingqu_protocol::misuse::{Action, Rule};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

pub(crate) const GATEWAY: GatewayId = GatewayId::from_bits(7);
pub(crate) const DOMAIN: &str = "lingqu.test";
/// 2026-12-02, within the period of [`APPLICATION`].
pub(crate) const START: Timestamp = Timestamp(1_796_176_800_000);
pub(crate) const DAY_MS: i64 = 24 * 60 * 60 * 1000;
pub(crate) const CODE: &str = "307010/000001";

pub(crate) const ENTRY: &str = include_str!("../../../../protocol/fixtures/entry.toml");

pub(crate) const APPLICATION: &str = include_str!("../../../../protocol/fixtures/application.toml");

pub(crate) struct TestClock(AtomicI64, AtomicI64);

impl TestClock {
    /// The wall clock jumps.
    pub(crate) fn jump(&self, ms: i64) {
        self.1.fetch_add(ms, Ordering::SeqCst);
    }

    pub(crate) fn pass(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn wall(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst) + self.1.load(Ordering::SeqCst))
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis((self.0.load(Ordering::SeqCst) - START.0) as u64)
    }
}

/// An agency with its officers and its agent.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) code: CreditCode,
    pub(crate) agent: AgentId,
    pub(crate) agency_head: SigningKey,
    pub(crate) office_head: SigningKey,
    pub(crate) clerk: SigningKey,
}

pub(crate) struct World {
    pub(crate) registry: Arc<Registry>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) state: Arc<MemoryState>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) root: Root,
    pub(crate) authority: Member,
    pub(crate) provider: Member,
    pub(crate) requester: Member,
    pub(crate) other: Member,
    ids: AtomicU64,
    dir: tempfile::TempDir,
}

/// A credit code with the right check character.
pub(crate) fn code(n: u32) -> CreditCode {
    let body = format!("1144030000{n:07}");
    "0123456789ABCDEFGHJKLMNPQRTUWXY".chars().find_map(|c| CreditCode::parse(&format!("{body}{c}")).ok()).unwrap()
}

fn member(n: u32) -> Member {
    let key = |m: u8| SigningKey::from_seed([n as u8 * 16 + m; 32]).unwrap();
    let agent = AgentId { agency: code(n), name: "main".parse().unwrap() };
    Member { code: code(n), agent, agency_head: key(1), office_head: key(2), clerk: key(3) }
}

impl World {
    /// Four agencies with officers and agents, nothing else.
    pub(crate) async fn new() -> Self {
        Self::over(MemoryState::new()).await
    }

    async fn over(state: Arc<MemoryState>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::init(&dir.path().join("root"), &OsEntropy::new()).unwrap();
        let clock = Arc::new(TestClock(AtomicI64::new(START.0), AtomicI64::new(0)));
        let ca = Authority::create(dir.path(), DOMAIN, START, &OsEntropy::new()).unwrap();
        let gate = Arc::new(Gate::new(clock.clone()));
        let registry = Arc::new(registry(&state, &gate, &clock, ca, &root));
        let world = Self {
            registry,
            gate,
            state,
            clock,
            root,
            authority: member(1),
            provider: member(2),
            requester: member(3),
            other: member(4),
            ids: AtomicU64::new(1),
            dir,
        };
        for (member, authority) in
            [(&world.authority, true), (&world.provider, false), (&world.requester, false), (&world.other, false)]
        {
            world.registry.agency_add(&world.agency(member.code, authority)).await.unwrap();
            for (key, role) in [
                (&member.agency_head, OfficerRole::AgencyHead),
                (&member.office_head, OfficerRole::OfficeHead),
                (&member.clerk, OfficerRole::Clerk),
            ] {
                world.registry.officer_add(&world.officer(member.code, key, role)).await.unwrap();
            }
            world.join(member).await;
        }
        world
    }

    /// The same, with a place for cuts that cannot be recorded.
    pub(crate) fn keeping(mut self, cuts: Arc<dyn crate::registry::port::Cuts>) -> Self {
        let registry = Arc::into_inner(self.registry).unwrap();
        self.registry = Arc::new(registry.keeping(cuts));
        self
    }

    /// What commands of the operator work on.
    pub(crate) fn desk(&self) -> crate::admin::Desk {
        crate::admin::Desk { registry: Arc::clone(&self.registry), state: self.state.clone(), running: None }
    }

    /// The same state under a new registry and a new gate, as after a restart.
    pub(crate) async fn restarted(&self) -> (Registry, Arc<Gate>) {
        let gate = Arc::new(Gate::new(self.clock.clone()));
        let ca = Authority::load(self.dir.path(), DOMAIN).unwrap();
        let registry = registry(&self.state, &gate, &self.clock, ca, &self.root);
        registry.load().await.unwrap();
        (registry, gate)
    }

    pub(crate) async fn join(&self, member: &Member) {
        let made = self.registry.invite(&member.agent, DAY_MS).await.unwrap();
        let line: Invitation = made["invitation"].as_str().unwrap().parse().unwrap();
        let csr = csr(&member.clerk);
        self.registry.join(line.key().unwrap().public().as_bytes(), &csr).await.unwrap();
    }

    pub(crate) fn id(&self) -> u128 {
        self.ids.fetch_add(1, Ordering::SeqCst).into()
    }

    pub(crate) fn document<B>(&self, body: B, predecessor: Option<Digest>) -> Document<B> {
        let now = self.clock.wall();
        Document {
            gateway: GATEWAY,
            id: DocumentId::from_bits(self.id()),
            predecessor,
            issued_at: now.0,
            expires_at: now.0 + DAY_MS,
            body,
        }
    }

    pub(crate) fn agency(&self, code: CreditCode, authority: bool) -> Envelope {
        let body = AgencyBody {
            code: code.to_string(),
            name: format!("部门{code}"),
            region: "4403".into(),
            level: "city".into(),
            duties: vec![],
            parent: None,
            authority,
        };
        self.root.seal(&self.document(body, None)).unwrap()
    }

    /// The root's statement that an agency has this name, over the one with digest `follows`.
    pub(crate) fn agency_over(&self, of: &Member, name: &str, follows: Digest) -> Envelope {
        let body: Document<AgencyBody> = serde_json::from_slice(&self.agency(of.code, false).payload).unwrap();
        let body = AgencyBody { name: name.into(), ..body.body };
        self.root.seal(&self.document(body, Some(follows))).unwrap()
    }

    /// Digest of what the root says of an agency.
    pub(crate) async fn stated(&self, of: &Member) -> Digest {
        digest(&self.registry.agency_show(of.code).await.unwrap())
    }

    pub(crate) fn officer(&self, agency: CreditCode, key: &SigningKey, role: OfficerRole) -> Envelope {
        let key = key.public().to_string();
        let body = OfficerBody { agency: agency.to_string(), name: "王芳".into(), role, key };
        self.root.seal(&self.document(body, None)).unwrap()
    }

    /// Seals a body and hands it in.
    pub(crate) async fn hand_in<B: Body>(
        &self,
        by: &AgentId,
        key: &SigningKey,
        body: B,
        predecessor: Option<Digest>,
    ) -> Result<Taken, RegistryError> {
        self.carry(by, &document::seal(&self.document(body, predecessor), key).unwrap()).await
    }

    pub(crate) async fn carry(&self, by: &AgentId, envelope: &Envelope) -> Result<Taken, RegistryError> {
        self.registry.take_document(by, envelope.to_json().as_bytes()).await
    }

    pub(crate) fn entry_body(&self, of: &Member, entry: EntryId) -> EntryBody {
        EntryBody { entry, agency: of.code.to_string(), toml: ENTRY.into() }
    }

    /// A submitted entry of the provider, and the digest of its text.
    pub(crate) async fn submitted(&self) -> (EntryId, Digest) {
        let entry = EntryId::from_bits(self.id());
        let body = self.entry_body(&self.provider, entry);
        let taken = self.hand_in(&self.provider.agent, &self.provider.agency_head, body, None).await.unwrap();
        (entry, digest(&taken.json))
    }

    pub(crate) async fn review(
        &self,
        (entry, text): (EntryId, Digest),
        decision: Review,
    ) -> Result<Taken, RegistryError> {
        let body = ReviewBody { entry, decision };
        self.hand_in(&self.authority.agent, &self.authority.office_head, body, Some(text)).await
    }

    /// A published entry.
    pub(crate) async fn published(&self) -> (EntryId, Digest) {
        let submitted = self.submitted().await;
        self.review(submitted, Review::Approve { code: Some(CODE.into()) }).await.unwrap();
        submitted
    }

    pub(crate) fn application_body(&self, of: &Member, toml: &str) -> ApplicationBody {
        ApplicationBody {
            application: ApplicationId::from_bits(self.id()),
            agency: of.code.to_string(),
            toml: toml.into(),
            declared_true_lawful_necessary: true,
        }
    }

    /// An application of the requester, and its digest. There must be a published entry.
    pub(crate) async fn applied(&self) -> (ApplicationId, Digest) {
        let body = self.application_body(&self.requester, APPLICATION);
        let id = body.application;
        let taken = self.hand_in(&self.requester.agent, &self.requester.office_head, body, None).await.unwrap();
        (id, digest(&taken.json))
    }

    pub(crate) async fn approve(
        &self,
        (application, digest): (ApplicationId, Digest),
        scope_toml: Option<&str>,
    ) -> Result<(GrantId, Taken), RegistryError> {
        let grant = GrantId::from_bits(self.id());
        let answer = Answer::Approve { grant, scope_toml: scope_toml.map(str::to_owned) };
        let body = AnswerBody { application, answer };
        let taken = self.hand_in(&self.provider.agent, &self.provider.office_head, body, Some(digest)).await?;
        Ok((grant, taken))
    }

    /// A grant in force, over a published entry.
    pub(crate) async fn granted(&self) -> GrantId {
        let applied = self.applied().await;
        self.approve(applied, None).await.unwrap().0
    }

    /// A finding about the requester under this grant, which cut it.
    pub(crate) async fn found(&self, grant: GrantId) -> crate::registry::finding::Finding {
        self.registry.suspect(self.suspected(grant), DAY_MS).await.unwrap()
    }

    /// What a rule suspects of the requester under this grant.
    pub(crate) fn suspected(&self, grant: GrantId) -> crate::registry::finding::Suspected {
        crate::registry::finding::Suspected {
            grant: Some(grant),
            agent: Some(self.requester.agent.clone()),
            agency: self.requester.code,
            provider: Some(self.provider.code),
            ..crate::registry::finding::tests::suspected(Action::CutGrant)
        }
    }

    /// A standing order for cutting grants.
    pub(crate) fn order_body(&self, of: &Member, strongest: Action) -> StandingOrderBody {
        StandingOrderBody {
            order: OrderId::from_bits(self.id()),
            agency: of.code.to_string(),
            rules: vec![Rule::ScopeProbing],
            strongest,
            until: "2027-03-31".parse().unwrap(),
            reason: "夜间值守".into(),
        }
    }

    /// A list that gives the published entry to whoever has the duty. There must be a published entry.
    pub(crate) fn list_body(&self) -> BackflowListBody {
        let toml = format!(
            "name = \"回流清单\"\n[[backflow]]\nentry = \"{CODE}\"\nto = [\"{}\"]\nduty = \"监管\"\n",
            self.requester.code
        );
        BackflowListBody { list: ListId::from_bits(self.id()), agency: self.authority.code.to_string(), toml }
    }

    /// A published list, and its digest.
    pub(crate) async fn listed(&self) -> (ListId, Digest) {
        let body = self.list_body();
        let list = body.list;
        let taken = self.hand_in(&self.authority.agent, &self.authority.office_head, body, None).await.unwrap();
        (list, digest(&taken.json))
    }

    /// One record as a peer reads it.
    pub(crate) async fn show(&self, by: &Member, kind: &str, id: &str) -> Result<Value, RegistryError> {
        Ok(self.registry.read(&by.agent, kind, id, "").await?.records.swap_remove(0).1)
    }

    /// The first thousand leaves.
    pub(crate) async fn leaves(&self) -> Vec<Leaf> {
        let leaves = self.state.leaves(0, 1000).await.unwrap();
        leaves.iter().map(|leaf| Leaf::decode(&leaf.bytes).unwrap()).collect()
    }

    pub(crate) async fn ledger_size(&self) -> u64 {
        self.state.head().await.unwrap().size
    }
}

fn registry(
    state: &Arc<MemoryState>,
    gate: &Arc<Gate>,
    clock: &Arc<TestClock>,
    ca: Authority,
    root: &Root,
) -> Registry {
    let statement = GatewayBody { domain: DOMAIN.into(), receipt_key: root.pin().to_string(), ca: ca.digest() };
    let document = Document {
        gateway: GATEWAY,
        id: DocumentId::from_bits(0),
        predecessor: None,
        issued_at: START.0,
        expires_at: START.0,
        body: statement,
    };
    let identity = Identity {
        gateway: GATEWAY,
        domain: DOMAIN.into(),
        root: root.pin(),
        statement: root.seal(&document).unwrap(),
        address: "127.0.0.1:4433".into(),
        certificate_valid_ms: 30 * DAY_MS,
    };
    Registry::new(state.clone(), gate.clone(), clock.clone(), Arc::new(OsEntropy::new()), Arc::new(ca), identity)
}

pub(crate) fn csr(key: &SigningKey) -> Vec<u8> {
    signing_request(key).unwrap()
}

pub(crate) fn digest(json: &Value) -> Digest {
    json["digest"].as_str().unwrap().parse().unwrap()
}

/// The word of a refusal; other errors fail the test.
pub(crate) fn word<T: std::fmt::Debug>(result: Result<T, RegistryError>) -> &'static str {
    match result {
        Err(RegistryError::Refused(refusal)) => refusal.word(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}
