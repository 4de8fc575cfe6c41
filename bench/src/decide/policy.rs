//! A policy as a province would have it, made from a seed: two agents an agency, an entry for every two agents, and
//! grants of random agencies for random entries. Every agency calls from a network of its own; columns, rows, period and
//! volume differ from grant to grant. A grant follows from its number alone, so that requests and changes find it again.

use crate::error::BenchError;
use crate::world::credit_code;
use lingqu_gateway::gate::{AgencyView, AgentView, Ask, EntryView, Gate, GrantStatus, GrantView, Peer, Target, Update};
use lingqu_protocol::agency::{AgentId, CreditCode};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::host::{Clock, Timestamp};
use lingqu_protocol::ids::{EntryId, GrantId};
use lingqu_protocol::predicate::Predicate;
use lingqu_protocol::region::{RegionCode, RegionLevel};
use lingqu_protocol::scope::{ApplicationSpec, Scope};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

/// 2027-01-01: within every period of this policy.
pub(super) const NOW: Timestamp = Timestamp(1_798_732_800_000);

/// Columns of every entry.
const COLUMNS: u64 = 12;

/// Sets of columns that an entry's grants are given: what applications of one kind ask for.
const COLUMN_SETS: u64 = 8;

/// Cities whose rows are granted; a third of the grants is for all rows.
const CITIES: [&str; 8] = ["4401", "4403", "4404", "4406", "4407", "4413", "4419", "4420"];

/// Updates that are put in force at once, as at a start.
const PAGE: usize = 1_000;

const APPLICATION: &str = r#"
entry = "307010/000001"
basis = "社会救助暂行办法"
scenario = "低收入家庭经济状况核对"
purposes = ["低收入家庭核对"]
columns = ["region"]
methods = ["batch_exchange"]
networks = ["10.0.0.0/24"]
from = 2026-01-01
until = 2027-06-30
"#;

/// A clock that stands.
pub(super) struct Fixed;

impl Clock for Fixed {
    fn wall(&self) -> Timestamp {
        NOW
    }
    fn monotonic(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// A well-mixed number from another: the finaliser of SplitMix64.
pub(super) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Who and what there is.
pub(super) struct Population {
    pub(super) grants: u64,
    pub(super) agents: u64,
    pub(super) seed: u64,
    agencies: Vec<CreditCode>,
    scope: Scope,
    columns: Vec<Vec<String>>,
    rows: Vec<Predicate>,
}

impl Population {
    pub(super) fn new(grants: u64, agents: u64, seed: u64) -> Result<Self, BenchError> {
        let count = u32::try_from(agents / 2).unwrap_or(u32::MAX).max(1);
        let code = |number| -> Result<CreditCode, BenchError> {
            CreditCode::parse(&credit_code("4403:city", number)?).map_err(BenchError::data("making a credit code"))
        };
        let scope = ApplicationSpec::parse(APPLICATION).map_err(BenchError::data("the bench's application"))?.scope;
        let columns = (0..COLUMN_SETS).map(|set| {
            let chosen = (1..COLUMNS).filter(|column| mix(set * COLUMNS + column).is_multiple_of(3)).map(column);
            std::iter::once("region".to_owned()).chain(chosen).collect()
        });
        let rows = CITIES.iter().map(|city| Predicate::parse(&format!("region within '{city}'")));
        Ok(Self {
            grants,
            agents,
            seed,
            agencies: (0..count).map(code).collect::<Result<_, _>>()?,
            scope,
            columns: columns.collect(),
            rows: rows.collect::<Result<_, _>>().map_err(BenchError::data("the bench's conditions"))?,
        })
    }

    /// Puts all of it in force.
    pub(super) fn publish(&self, gate: &Gate) -> Result<(), BenchError> {
        let mut page = Page { gate, updates: Vec::with_capacity(PAGE) };
        let region: RegionCode = "44".parse().map_err(BenchError::data("a region"))?;
        for (i, code) in self.agencies.iter().enumerate() {
            let name = format!("部门 {i}");
            page.put(Update::Agency(AgencyView {
                code: *code,
                name,
                region,
                level: RegionLevel::Province,
                duties: [].into(),
                authority: false,
            }));
        }
        for i in 0..self.agents {
            page.put(Update::Agent(AgentView { id: self.agent(i)?, blocked: None }));
        }
        for i in 0..self.entries() {
            let spec = EntrySpec::parse(&entry_toml()).map_err(BenchError::data("the bench's entry"))?;
            page.put(Update::Entry(EntryView {
                id: entry_id(i),
                code: Some(format!("307010/{i:06}")),
                provider: self.agency(mix(i)),
                spec: Arc::new(spec),
                published: true,
            }));
        }
        for i in 0..self.grants {
            page.put(self.grant(i, false));
        }
        page.flush();
        Ok(())
    }

    /// A grant, in force or suspended.
    pub(super) fn grant(&self, number: u64, suspended: bool) -> Update {
        let random = mix(self.seed ^ mix(number));
        let mut scope = self.scope.clone();
        scope.columns.clone_from(&self.columns[(random % COLUMN_SETS) as usize]);
        let city = (random >> 8) as usize % (CITIES.len() * 3 / 2);
        scope.rows = self.rows.get(city).cloned();
        if let Some(network) = scope.networks.first_mut() {
            *network = ipnet::Ipv4Net::new_assert(home(self.agency_of(number)), 24).into();
        }
        scope.from = scope.from - chrono::Days::new((random >> 16) % 365);
        scope.until = scope.until + chrono::Days::new((random >> 24) % 365);
        scope.volume_bytes_max = (random >> 32).is_multiple_of(2).then_some((random >> 40) * 1_000_000 + 1);
        let reason = "测试".to_owned();
        Update::Grant(GrantView {
            id: grant_id(self.seed, number),
            entry: entry_id(mix(random) % self.entries()),
            requester: self.agency(self.agency_of(number)),
            scope: Arc::new(scope),
            status: if suspended { GrantStatus::Suspended { reason, since: NOW } } else { GrantStatus::InForce },
            digest: Digest::blake3(&number.to_le_bytes()),
        })
    }

    fn entries(&self) -> u64 {
        (self.agents / 2).max(1)
    }

    fn agency_of(&self, grant: u64) -> u64 {
        mix(mix(self.seed ^ grant)) % self.agencies.len().max(1) as u64
    }

    fn agency(&self, number: u64) -> CreditCode {
        self.agencies[(number % self.agencies.len().max(1) as u64) as usize]
    }

    fn agent(&self, number: u64) -> Result<AgentId, BenchError> {
        let count = self.agencies.len().max(1) as u64;
        let name = format!("agent-{}", number / count).parse();
        Ok(AgentId { agency: self.agency(number), name: name.map_err(BenchError::data("an agent's name"))? })
    }
}

struct Page<'a> {
    gate: &'a Gate,
    updates: Vec<Update>,
}

impl Page<'_> {
    fn put(&mut self, update: Update) {
        self.updates.push(update);
        if self.updates.len() == PAGE {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.gate.publish(std::mem::replace(&mut self.updates, Vec::with_capacity(PAGE)));
    }
}

/// A request that its grant allows.
pub(super) struct Request {
    pub(super) peer: Peer,
    pub(super) ask: Ask,
}

/// Picks grants, uniform random over all, and makes the requests of one of their agents.
pub(super) struct Picker<'a> {
    population: &'a Population,
    agents: Vec<AgentId>,
    narrowed: bool,
    random: u64,
    requests: Vec<Request>,
}

impl<'a> Picker<'a> {
    /// `narrowed` asks for named columns and a region; else all that is granted is asked for.
    pub(super) fn new(population: &'a Population, stream: u64, narrowed: bool) -> Result<Self, BenchError> {
        let agents = (0..population.agents).map(|i| population.agent(i)).collect::<Result<_, _>>()?;
        Ok(Self { population, agents, narrowed, random: mix(population.seed ^ mix(stream)), requests: Vec::new() })
    }

    pub(super) fn next(&mut self, count: usize) -> &[Request] {
        self.requests.clear();
        for _ in 0..count {
            self.random = mix(self.random);
            let grant = self.random % self.population.grants;
            let agency = self.population.agency_of(grant);
            let agencies = self.population.agencies.len() as u64;
            let agents = (self.population.agents / agencies).max(1);
            let agent = agency + agencies * ((self.random >> 40) % agents);
            let (columns, region) =
                if self.narrowed { (vec!["region".to_owned()], "440305".parse().ok()) } else { (Vec::new(), None) };
            self.requests.push(Request {
                peer: Peer {
                    agent: self.agents[agent as usize].clone(),
                    address: IpAddr::V4(Ipv4Addr::from(u32::from(home(agency)) | 7)),
                },
                ask: Ask {
                    target: Target::Grant(grant_id(self.population.seed, grant)),
                    columns,
                    rows: None,
                    region,
                    purpose: None,
                },
            });
        }
        &self.requests
    }
}

fn grant_id(seed: u64, number: u64) -> GrantId {
    let high = mix(seed.wrapping_add(number));
    GrantId::from_bits(u128::from(high) << 64 | u128::from(mix(high ^ number)))
}

fn entry_id(number: u64) -> EntryId {
    EntryId::from_bits(u128::from(mix(number)) << 64 | u128::from(mix(!number)))
}

/// The network that an agency's agents call from.
fn home(agency: u64) -> Ipv4Addr {
    Ipv4Addr::from((10 << 24) | ((agency as u32 & 0xffff) << 8))
}

fn column(number: u64) -> String {
    format!("column_{number:02}")
}

fn entry_toml() -> String {
    let items = (1..COLUMNS).map(|i| {
        format!("[[items]]\nname = \"{}\"\ntype = \"string\"\ngrade = \"general-2\"\npersonal = false\n", column(i))
    });
    format!(
        r#"name = "登记信息"
abstract = "合成"
format = "table"
update_frequency = "daily"
sharing_class = "conditional"
conditions = "限依法履职使用"
purposes = ["低收入家庭核对"]
sharing_methods = ["batch_exchange"]
region_column = "region"
grade = "general-2"
[[items]]
name = "region"
type = "string"
grade = "general-1"
personal = false
{}"#,
        items.collect::<String>()
    )
}
