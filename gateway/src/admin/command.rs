//! The operator's commands. There is none that an agency's officer must sign: those come over the wire.

use super::Failure;
use crate::flow::late;
use crate::gate::{ClosedWhy, Gate};
use crate::ledger::{VerifyError, verify};
use crate::misuse::queue::Sight;
use crate::registry::stop::Selector;
use crate::registry::{Refusal, Registry, RegistryError};
use crate::state::State;
use crate::top::Sample;
use lingqu_certs::joining::{JoinAnswer, JoinRequest};
use lingqu_certs::moments::{self, Moment};
use lingqu_protocol::agency::{AgentId, CreditCode};
use lingqu_protocol::checkpoint::{Checkpoint, NoteKey, origin};
use lingqu_protocol::digest::to_hex;
use lingqu_protocol::documents::{FindingAct, GatewayBody};
use lingqu_protocol::dsse::Envelope;
use lingqu_protocol::host::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// Checkpoints from outside that one command compares: those of every agency of a province.
const CHECKPOINTS_MAX: usize = 1024;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Takes the root's statement of an agency, a DSSE envelope as JSON text.
    AgencyAdd {
        /// The envelope.
        envelope: String,
    },
    /// Takes the root's statement of an agency over the one that stands, a DSSE envelope as JSON text.
    AgencyChange {
        /// The envelope.
        envelope: String,
    },
    /// One agency.
    AgencyShow {
        /// Its credit code.
        code: String,
    },
    /// A page of agencies.
    AgencyList {
        /// Where the last page ended.
        after: String,
    },
    /// Takes the root's statement of an officer, a DSSE envelope as JSON text.
    OfficerAdd {
        /// The envelope.
        envelope: String,
    },
    /// Invites an agent.
    Invite {
        /// The agency's credit code.
        agency: String,
        /// The agent's name.
        agent: String,
        /// How long the invitation is open.
        ttl_ms: i64,
    },
    /// A page of agents.
    AgentList {
        /// Where the last page ended.
        after: String,
    },
    /// Approves that an agent renews with its expired certificate, once.
    RenewalApprove {
        /// `CODE/NAME`.
        agent: String,
        /// How long the approval is open.
        ttl_ms: i64,
    },
    /// A page of approvals.
    RenewalList {
        /// Where the last page ended.
        after: String,
    },
    /// Withdraws an approval.
    RenewalWithdraw {
        /// `CODE/NAME`.
        agent: String,
    },
    /// A certificate for a joiner who cannot reach the gateway: the text of its request's file.
    Join {
        /// The file's text.
        request: String,
    },
    /// 临时阻断: stops an agency, an agent, an entry, a grant or everything.
    Stop {
        /// `agency:CODE`, `agent:CODE/NAME`, `entry:ID`, `grant:ID` or `all`.
        selector: String,
        /// Why.
        reason: String,
    },
    /// Lifts a stop.
    Resume {
        /// As for a stop.
        selector: String,
        /// Why.
        reason: String,
    },
    /// A page of findings (疑似问题线索).
    FindingsList {
        /// Where the last page ended.
        after: String,
    },
    /// One finding, with its evidence.
    FindingShow {
        /// Its id.
        id: String,
    },
    /// Says that a finding holds, or lifts it.
    FindingSay {
        /// Its id.
        id: String,
        /// What is said.
        act: FindingAct,
        /// Why.
        reason: String,
    },
    /// A page of subscriptions of backflow, with what each lacks.
    SubscriptionList {
        /// Where the last page ended.
        after: String,
    },
    /// How things stand in the gateway that runs, for the live view.
    Top {},
    /// Looks whether everything that the root signed still stands, and says what is stopped.
    Check {},
    /// Walks the whole ledger.
    LedgerVerify {
        /// Signed checkpoints that others kept.
        checkpoints: Vec<String>,
    },
}

/// What commands work on.
#[derive(Clone)]
pub struct Desk {
    /// The registry.
    pub registry: Arc<Registry>,
    /// Records and leaves.
    pub state: Arc<dyn State>,
    /// The gateway that runs, where one does.
    pub running: Option<Running>,
}

/// What a gateway that runs can say of itself.
#[derive(Clone)]
pub struct Running {
    /// Its gate.
    pub gate: Arc<Gate>,
    /// How well misuse is watched.
    pub sight: Arc<Sight>,
}

impl Running {
    /// Whether permits are given, and if not why and what to do; what runs; how well misuse is watched.
    fn view(&self) -> Value {
        let (gate, seen) = (&self.gate, self.sight.seen());
        let why = gate.closed();
        json!({
            "open": why.is_none(),
            "why": why.map(ClosedWhy::word),
            "means": why.map(|why| json!({ "en": why.means().0, "zh": why.means().1 })),
            "running": gate.running(),
            "observations": {
                "taken": seen.taken,
                "dropped": seen.dropped,
                "dropped_at": seen.dropped_at.map(Timestamp::to_rfc3339),
            },
        })
    }
}

/// Does what a command says.
///
/// # Errors
/// Why not, for the operator.
pub async fn execute(desk: &Desk, command: Command) -> Result<Value, Failure> {
    let (registry, state) = (desk.registry.as_ref(), desk.state.as_ref());
    Ok(match command {
        Command::AgencyAdd { envelope } => registry.agency_add(&parse(&envelope)?).await?,
        Command::AgencyChange { envelope } => registry.agency_change(&parse(&envelope)?).await?,
        Command::AgencyShow { code } => {
            let next = "see `lingqu-gateway agency list`";
            let code = CreditCode::parse(&code).map_err(|e| Failure::usage(format!("{code:?}: {e}"), next))?;
            registry.agency_show(code).await?
        }
        Command::AgencyList { after } => {
            let (agencies, next) = registry.agencies(&after).await?;
            json!({ "agencies": agencies, "next": next })
        }
        Command::OfficerAdd { envelope } => registry.officer_add(&parse(&envelope)?).await?,
        Command::Invite { agency, agent, ttl_ms } => {
            let usage = |e: &dyn std::fmt::Display| Failure::usage(e.to_string(), "see `lingqu-gateway invite --help`");
            let agency = CreditCode::parse(&agency).map_err(|e| usage(&e))?;
            let name = agent.parse().map_err(|e| usage(&e))?;
            registry.invite(&AgentId { agency, name }, ttl_ms).await?
        }
        Command::AgentList { after } => {
            let (agents, next) = registry.agents(&after).await?;
            json!({ "agents": agents, "next": next })
        }
        Command::RenewalApprove { agent, ttl_ms } => registry.approve_renewal(&agent_id(&agent)?, ttl_ms).await?,
        Command::RenewalList { after } => {
            let (renewals, next) = registry.list_renewals(&after).await?;
            json!({ "renewals": renewals, "next": next })
        }
        Command::RenewalWithdraw { agent } => registry.withdraw_renewal(&agent_id(&agent)?).await?,
        Command::Join { request } => join(registry, &request).await?,
        Command::Stop { selector, reason } => {
            moments::note(|| Moment::Accepted);
            registry.stop(&selected(registry, &selector).await?, &reason).await?
        }
        Command::Resume { selector, reason } => registry.resume(&selected(registry, &selector).await?, &reason).await?,
        Command::FindingsList { after } => {
            let (findings, next) = registry.findings(&after).await?;
            let seen = desk.running.as_ref().map(|running| running.view()["observations"].take());
            json!({ "findings": findings, "next": next, "observations": seen })
        }
        Command::FindingShow { id } => registry.finding(&id).await?,
        Command::FindingSay { id, act, reason } => registry.say_of_finding(&id, act, &reason).await?,
        Command::Check {} => {
            let mut found = registry.check().await?;
            found["gate"] = desk.running.as_ref().map(Running::view).into();
            found
        }
        Command::SubscriptionList { after } => {
            let (subscriptions, next) = late::standing(state, &after)
                .await
                .map_err(|e| Failure::ours(e.to_string(), "see the gateway's log; nothing was changed"))?;
            json!({ "subscriptions": subscriptions, "next": next })
        }
        Command::Top {} => match &desk.running {
            Some(running) => serde_json::to_value(Sample::take(&running.gate))
                .map_err(|e| Failure::ours(e.to_string(), "report this"))?,
            None => {
                return Err(Failure::unreachable("no gateway runs in this folder", "start it: lingqu-gateway serve"));
            }
        },
        Command::LedgerVerify { checkpoints } => ledger_verify(registry, state, &checkpoints).await?,
    })
}

async fn join(registry: &Registry, request: &str) -> Result<Value, Failure> {
    let request = JoinRequest::parse(request.as_bytes()).map_err(|e| Failure {
        code: 7,
        word: "bad_join_request".into(),
        text: e.to_string(),
        next: "have it made again with `lingqu join INVITATION --request FILE`".into(),
    })?;
    let certified = registry.join(request.invitation.as_bytes(), &request.csr_der).await?;
    let identity = registry.identity();
    let answer = JoinAnswer {
        chain_der: certified.chain_der,
        agent: certified.agent.to_string(),
        gateway: identity.gateway.to_string(),
        domain: identity.domain.clone(),
        root_key: identity.root.to_string(),
        statement: identity.statement.to_json().into_bytes(),
    };
    Ok(json!({ "id": certified.agent.to_string(), "answer": answer.file() }))
}

async fn ledger_verify(registry: &Registry, state: &dyn State, notes: &[String]) -> Result<Value, Failure> {
    if notes.len() > CHECKPOINTS_MAX {
        return Err(Failure::usage(format!("more than {CHECKPOINTS_MAX} checkpoints"), "compare them in parts"));
    }
    let key = note_key(registry)?;
    let mut outside = Vec::with_capacity(notes.len());
    for note in notes {
        let checkpoint = Checkpoint::verify(note, &key).map_err(|e| Failure {
            code: 5,
            word: "bad_checkpoint".into(),
            text: format!("a checkpoint is not this gateway's: {e}"),
            next: "use checkpoints that agents of this gateway kept".into(),
        })?;
        outside.push(checkpoint);
    }
    match verify(state, &outside).await {
        Ok(head) => Ok(json!({
            "id": "ledger", "status": "good", "size": head.size, "root": to_hex(&head.root),
            "checkpoints": outside.len(),
        })),
        Err(VerifyError::Fault(fault)) => Err(Failure {
            code: 5,
            word: "ledger_changed".into(),
            text: fault.to_string(),
            next: "keep the folder as it is, and compare with the agencies' receipts and checkpoints".into(),
        }),
        Err(VerifyError::State(error)) => Err(RegistryError::State(error).into()),
    }
}

/// The key that this gateway's checkpoints are signed with, as the root names it.
fn note_key(registry: &Registry) -> Result<NoteKey, Failure> {
    let identity = registry.identity();
    let ours = |e: String| Failure::ours(e, "restore the folder from one backup");
    let statement = crate::folder::statement_of(&identity.statement, &identity.root)?;
    let body: GatewayBody = statement.body;
    let key: lingqu_certs::key::PublicKey = body.receipt_key.parse().map_err(|e| ours(format!("{e}")))?;
    Ok(NoteKey { name: origin(&identity.domain, identity.gateway), public: *key.as_bytes() })
}

fn parse(envelope: &str) -> Result<Envelope, RegistryError> {
    Envelope::from_json(envelope.as_bytes()).map_err(|e| Refusal::Document(e.to_string()).into())
}

fn agent_id(text: &str) -> Result<AgentId, Failure> {
    let next = "write it CODE/NAME, as `lingqu-gateway agent list` does";
    text.parse().map_err(|e| Failure::usage(format!("{text:?}: {e}"), next))
}

/// What a text selects; an entry may be named by its code, too.
async fn selected(registry: &Registry, text: &str) -> Result<Selector, Failure> {
    let parsed: Result<Selector, _> = text.parse();
    // What has an id is not looked for first: a state that fails does not keep anybody from stopping it.
    if let (Err(_), Some(code)) = (&parsed, text.strip_prefix("entry:")) {
        let found = registry.entry_of_code(code).await?;
        return found.map(Selector::Entry).ok_or_else(|| {
            Failure::usage(
                format!("no entry has the id or the code {code:?}"),
                "ids and codes stand in `lingqu catalogue list` of any agent; `--all` stops everything",
            )
        });
    }
    parsed.map_err(|e| Failure::usage(format!("{text:?}: {e}"), "see `lingqu-gateway stop --help`"))
}
