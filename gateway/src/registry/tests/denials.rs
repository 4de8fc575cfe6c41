//! Every operation for every role. An operation without a row does not compile, and one that is missing from the list of
//! all operations is found by its number. The allowed ones are spelt out: the list only ever shrinks.

use super::world::*;
use crate::admin::{self, Command};
use crate::registry::RegistryError;
use lingqu_certs::document;
use lingqu_certs::key::SigningKey;
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::documents::*;
use lingqu_protocol::ids::EntryId;
use lingqu_protocol::misuse::Action;
use serde_json::json;

/// Who tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// No agent that this gateway knows.
    Stranger,
    /// The agency that asked for the grant.
    Requester,
    /// The agency whose data it is.
    Provider,
    /// An agency that has nothing to do with it.
    Other,
    /// The authority for data sharing.
    Authority,
    /// The owner of the control socket.
    Operator,
}

const ROLES: [Role; 6] =
    [Role::Stranger, Role::Requester, Role::Provider, Role::Other, Role::Authority, Role::Operator];

macro_rules! operations {
    ($($name:ident),* $(,)?) => {
        /// What is tried.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Operation { $($name),* }
        const OPERATIONS: &[Operation] = &[$(Operation::$name),*];
    };
}

operations! {
    // Over the wire, with a document that the agency's own officer in the right role signed.
    SubmitEntry, SubmitOthersEntry, Review, Apply, Answer, Reinstate, Terminate, Rectify,
    IssueOrder, WithdrawOrder, ConfirmFinding, LiftFinding, PublishList, RevokeList,
    // Over the wire, without one.
    Narrow, Renew, RenewExpired, ReadStatus, ReadCatalogue, ReadUnpublished, ReadPublished, ReadApplication, ReadGrant, ReadInbox,
    ReadFinding, ReadOrder, ReadLists, ReadAgents, Join, HandInAgency, HandInOfficer,
    // Through the control socket.
    AgencyAdd, AgencyChange, AgencyShow, AgencyList, OfficerAdd, Invite, JoinByFile, AgentList, RenewalApprove, RenewalList, RenewalWithdraw, Stop,
    Resume, FindingsList, FindingShow, FindingSay, SubscriptionList, Top, Check, LedgerVerify,
}

/// What must come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Allowed,
    /// The word of the refusal.
    Refused(&'static str),
    /// There is no way to say it: no such command, no such request.
    NoWay,
}

use Operation::*;
use Outcome::{Allowed, NoWay, Refused};

/// The table: stranger, requester, provider, other, authority, operator.
const fn expected(operation: Operation) -> [Outcome; 6] {
    const NOT_FOUND: Outcome = Refused("not_found");
    const NOT_PROVIDER: Outcome = Refused("not_provider");
    const NOT_AUTHORITY: Outcome = Refused("not_authority");
    const RENEWAL: Outcome = Refused("renewal_not_approved");
    const CLOSED: Outcome = Refused("invitation_closed");
    const TYPE: Outcome = Refused("document_type");
    const KIND: Outcome = Refused("unknown_kind");
    match operation {
        SubmitEntry => [NOT_FOUND, Allowed, Allowed, Allowed, Allowed, NoWay],
        SubmitOthersEntry => [NOT_FOUND, NOT_PROVIDER, Allowed, NOT_PROVIDER, NOT_PROVIDER, NoWay],
        Review => [NOT_FOUND, NOT_FOUND, NOT_AUTHORITY, NOT_FOUND, Allowed, NoWay],
        Apply => [NOT_FOUND, Allowed, Allowed, Allowed, Allowed, NoWay],
        Answer => [NOT_FOUND, NOT_PROVIDER, Allowed, NOT_FOUND, NOT_PROVIDER, NoWay],
        Reinstate => [NOT_FOUND, NOT_PROVIDER, Allowed, NOT_FOUND, Allowed, NoWay],
        Terminate | Rectify => [NOT_FOUND, NOT_PROVIDER, Allowed, NOT_FOUND, Allowed, NoWay],
        IssueOrder => [NOT_FOUND, Allowed, Allowed, Allowed, Allowed, NoWay],
        WithdrawOrder => [NOT_FOUND, NOT_FOUND, Allowed, NOT_FOUND, Allowed, NoWay],
        PublishList | RevokeList => [NOT_FOUND, NOT_AUTHORITY, NOT_AUTHORITY, NOT_AUTHORITY, Allowed, NoWay],
        // What is published is for everyone to see.
        ReadLists => [NOT_FOUND, Allowed, Allowed, Allowed, Allowed, NoWay],
        ConfirmFinding | LiftFinding => [NOT_FOUND, NOT_PROVIDER, Allowed, NOT_FOUND, Allowed, NoWay],
        ReadFinding => [NOT_FOUND, Allowed, Allowed, NOT_FOUND, Allowed, NoWay],
        ReadOrder => [NOT_FOUND, NOT_FOUND, Allowed, NOT_FOUND, Allowed, NoWay],
        Narrow => [NOT_FOUND, NOT_PROVIDER, Allowed, NOT_FOUND, Allowed, NoWay],
        Renew => [NOT_FOUND, Allowed, Allowed, Allowed, Allowed, NoWay],
        RenewExpired => [NOT_FOUND, RENEWAL, RENEWAL, RENEWAL, RENEWAL, NoWay],
        ReadStatus => [NOT_FOUND, Allowed, Allowed, Allowed, Allowed, NoWay],
        ReadCatalogue => [NOT_FOUND, Allowed, Allowed, Allowed, Allowed, NoWay],
        ReadUnpublished => [NOT_FOUND, NOT_FOUND, Allowed, NOT_FOUND, Allowed, NoWay],
        ReadPublished => [NOT_FOUND, Allowed, Allowed, Allowed, Allowed, NoWay],
        ReadApplication => [NOT_FOUND, Allowed, Allowed, NOT_FOUND, Allowed, NoWay],
        ReadGrant => [NOT_FOUND, Allowed, Allowed, NOT_FOUND, Allowed, NoWay],
        ReadInbox => [NOT_FOUND, Allowed, Allowed, Allowed, Allowed, NoWay],
        ReadAgents => [NOT_FOUND, KIND, KIND, KIND, KIND, NoWay],
        Join => [CLOSED, CLOSED, CLOSED, CLOSED, CLOSED, NoWay],
        HandInAgency => [TYPE, TYPE, TYPE, TYPE, TYPE, NoWay],
        HandInOfficer => [TYPE, TYPE, TYPE, TYPE, TYPE, NoWay],
        AgencyAdd | AgencyChange | AgencyShow | AgencyList | OfficerAdd | Invite | JoinByFile | AgentList
        | RenewalApprove | RenewalList | RenewalWithdraw | Stop | Resume | FindingsList | FindingShow | FindingSay
        | SubscriptionList | Top | Check | LedgerVerify => [NoWay, NoWay, NoWay, NoWay, NoWay, Allowed],
    }
}

/// Who carries and who signs.
struct Hand {
    agent: AgentId,
    agency: String,
    agency_head: SigningKey,
    office_head: SigningKey,
}

fn hand(w: &World, role: Role) -> Option<Hand> {
    let again = |n: u8| SigningKey::from_seed([n; 32]).unwrap();
    // The seeds that `World` gives each member.
    let (member, n) = match role {
        Role::Operator => return None,
        Role::Stranger => {
            let agency = code(77);
            let agent = AgentId { agency, name: "main".parse().unwrap() };
            return Some(Hand { agent, agency: agency.to_string(), agency_head: again(201), office_head: again(202) });
        }
        Role::Authority => (&w.authority, 1),
        Role::Provider => (&w.provider, 2),
        Role::Requester => (&w.requester, 3),
        Role::Other => (&w.other, 4),
    };
    let hand = Hand {
        agent: member.agent.clone(),
        agency: member.code.to_string(),
        agency_head: again(n * 16 + 1),
        office_head: again(n * 16 + 2),
    };
    assert_eq!(hand.agency_head.public(), member.agency_head.public());
    Some(hand)
}

/// A world of its own for every try, so that none meets what another left.
async fn outcome(operation: Operation, role: Role) -> Outcome {
    // The wire has no request for these: `every_request_has_its_rows` lists what an agent can send.
    let by_socket = matches!(
        operation,
        AgencyAdd
            | AgencyChange
            | AgencyShow
            | AgencyList
            | OfficerAdd
            | Invite
            | JoinByFile
            | AgentList
            | RenewalApprove
            | RenewalList
            | RenewalWithdraw
            | Stop
            | Resume
            | FindingsList
            | FindingShow
            | FindingSay
            | SubscriptionList
            | Top
            | Check
            | LedgerVerify
    );
    if by_socket && role != Role::Operator {
        return NoWay;
    }
    let w = World::new().await;
    let Some(by) = hand(&w, role) else { return operator(&w, operation).await };
    let (published, text) = w.published().await;
    let waiting = w.submitted().await;
    let applied = w.applied().await;
    let (grant, _) = w.approve(w.applied().await, None).await.unwrap();
    let read = async |kind: &str, id: &str| w.registry.read(&by.agent, kind, id, "").await.map(drop);
    let act = async |act: GrantAct| {
        let stands = digest(&w.show(&w.authority, "grant", &grant.to_string()).await.unwrap());
        let body = GrantActBody { grant, act, reason: "r".into() };
        w.hand_in(&by.agent, &by.office_head, body, Some(stands)).await.map(drop)
    };
    let entry = |entry| EntryBody { entry, agency: by.agency.clone(), toml: ENTRY.into() };
    let result: Result<(), RegistryError> = match operation {
        SubmitEntry => {
            let body = entry(EntryId::from_bits(w.id()));
            w.hand_in(&by.agent, &by.agency_head, body, None).await.map(drop)
        }
        SubmitOthersEntry => w.hand_in(&by.agent, &by.agency_head, entry(published), Some(text)).await.map(drop),
        Review => {
            let decision = lingqu_protocol::documents::Review::Approve { code: Some("307010/000009".into()) };
            let body = ReviewBody { entry: waiting.0, decision };
            w.hand_in(&by.agent, &by.office_head, body, Some(waiting.1)).await.map(drop)
        }
        Apply => {
            let application = w.application_body(&w.requester, APPLICATION);
            let body = ApplicationBody { agency: by.agency.clone(), ..application };
            w.hand_in(&by.agent, &by.office_head, body, None).await.map(drop)
        }
        Answer => {
            let answer = lingqu_protocol::documents::Answer::Refuse { why: "r".into() };
            let body = AnswerBody { application: applied.0, answer };
            w.hand_in(&by.agent, &by.office_head, body, Some(applied.1)).await.map(drop)
        }
        Reinstate => {
            w.registry.narrow(&w.provider.agent, &grant.to_string(), "r").await.unwrap();
            act(GrantAct::Reinstate).await
        }
        Terminate => act(GrantAct::Terminate).await,
        Rectify => act(GrantAct::Rectify { by: "2027-01-31".parse().unwrap() }).await,
        IssueOrder => {
            let body = w.order_body(&w.provider, Action::CutGrant);
            let body = StandingOrderBody { agency: by.agency.clone(), ..body };
            w.hand_in(&by.agent, &by.office_head, body, None).await.map(drop)
        }
        WithdrawOrder => {
            let (order, digest) = ordered(&w).await;
            let body = OrderWithdrawalBody { order, reason: "r".into() };
            w.hand_in(&by.agent, &by.office_head, body, Some(digest)).await.map(drop)
        }
        PublishList => {
            let body = BackflowListBody { agency: by.agency.clone(), ..w.list_body() };
            w.hand_in(&by.agent, &by.office_head, body, None).await.map(drop)
        }
        RevokeList => {
            let (list, digest) = w.listed().await;
            let body = BackflowRevocationBody { list, reason: "r".into() };
            w.hand_in(&by.agent, &by.office_head, body, Some(digest)).await.map(drop)
        }
        ConfirmFinding | LiftFinding => {
            let finding = w.found(grant).await.id;
            let act = if operation == LiftFinding { FindingAct::Lift } else { FindingAct::Confirm };
            let body = FindingActBody { finding, act, reason: "r".into() };
            w.hand_in(&by.agent, &by.office_head, body, None).await.map(drop)
        }
        ReadFinding => read("finding", &w.found(grant).await.id.to_string()).await,
        ReadOrder => read("standing-order", &ordered(&w).await.0.to_string()).await,
        ReadLists => read("backflow-list", &w.listed().await.0.to_string()).await,
        Narrow => w.registry.narrow(&by.agent, &grant.to_string(), "r").await.map(drop),
        Renew => w.registry.renew(&by.agent, &csr(&by.office_head)).await.map(drop),
        RenewExpired => {
            let key = by.office_head.public();
            w.registry.renew_expired(&by.agent, &key, &csr(&by.office_head)).await.map(drop)
        }
        ReadStatus => read("status", "").await,
        ReadCatalogue => read("catalogue", "").await,
        ReadUnpublished => read("catalogue", &waiting.0.to_string()).await,
        ReadPublished => read("catalogue", CODE).await,
        ReadApplication => read("application", &applied.0.to_string()).await,
        ReadGrant => read("grant", &grant.to_string()).await,
        ReadInbox => read("inbox", "").await,
        ReadAgents => read("agent", "").await,
        Join => w.registry.join(by.office_head.public().as_bytes(), &csr(&by.office_head)).await.map(drop),
        HandInAgency => w.carry(&by.agent, &w.agency(code(78), true)).await.map(drop),
        HandInOfficer => {
            let statement = w.officer(by.agent.agency, &by.office_head, OfficerRole::AgencyHead);
            w.carry(&by.agent, &statement).await.map(drop)
        }
        AgencyAdd | AgencyChange | AgencyShow | AgencyList | OfficerAdd | Invite | JoinByFile | AgentList
        | RenewalApprove | RenewalList | RenewalWithdraw | Stop | Resume | FindingsList | FindingShow | FindingSay
        | SubscriptionList | Top | Check | LedgerVerify => {
            return NoWay;
        }
    };
    match result {
        Ok(()) => Allowed,
        Err(RegistryError::Refused(refusal)) => Refused(refusal.word()),
        Err(other) => panic!("{operation:?} by {role:?}: {other}"),
    }
}

/// A standing order of the provider.
async fn ordered(w: &World) -> (lingqu_protocol::ids::OrderId, lingqu_protocol::digest::Digest) {
    let body = w.order_body(&w.provider, Action::CutGrant);
    let order = body.order;
    let taken = w.hand_in(&w.provider.agent, &w.provider.office_head, body, None).await.unwrap();
    (order, digest(&taken.json))
}

async fn invitation(w: &World) -> lingqu_certs::invitation::Invitation {
    let made = w.registry.invite(&w.other.agent, DAY_MS).await.unwrap();
    made["invitation"].as_str().unwrap().parse().unwrap()
}

/// The operator has the commands of the control socket, and they are all it has.
async fn operator(w: &World, operation: Operation) -> Outcome {
    let command = match operation {
        AgencyAdd => json!({ "do": "agency_add", "envelope": w.agency(code(78), false).to_json() }),
        AgencyChange => {
            let envelope = w.agency_over(&w.other, "新名称", w.stated(&w.other).await).to_json();
            json!({ "do": "agency_change", "envelope": envelope })
        }
        AgencyShow => json!({ "do": "agency_show", "code": w.other.code.to_string() }),
        AgencyList => json!({ "do": "agency_list", "after": "" }),
        OfficerAdd => {
            let key = SigningKey::from_seed([203; 32]).unwrap();
            let envelope = w.officer(w.other.code, &key, OfficerRole::Clerk).to_json();
            json!({ "do": "officer_add", "envelope": envelope })
        }
        Invite => json!({ "do": "invite", "agency": w.other.code.to_string(), "agent": "b", "ttl_ms": 1000 }),
        JoinByFile => {
            let csr = csr(&w.other.clerk);
            let request = lingqu_certs::joining::JoinRequest::file(&invitation(w).await, &csr).unwrap();
            json!({ "do": "join", "request": request })
        }
        AgentList => json!({ "do": "agent_list", "after": "" }),
        SubscriptionList => json!({ "do": "subscription_list", "after": "" }),
        RenewalApprove => json!({ "do": "renewal_approve", "agent": w.other.agent.to_string(), "ttl_ms": 1000 }),
        RenewalList => json!({ "do": "renewal_list", "after": "" }),
        RenewalWithdraw => {
            w.registry.approve_renewal(&w.other.agent, 1000).await.unwrap();
            json!({ "do": "renewal_withdraw", "agent": w.other.agent.to_string() })
        }
        Stop => json!({ "do": "stop", "selector": "all", "reason": "r" }),
        Resume => {
            w.registry.stop(&crate::registry::stop::Selector::All, "r").await.unwrap();
            json!({ "do": "resume", "selector": "all", "reason": "r" })
        }
        FindingsList => json!({ "do": "findings_list", "after": "" }),
        FindingShow | FindingSay => {
            w.published().await;
            let finding = w.found(w.granted().await).await.id;
            match operation {
                FindingShow => json!({ "do": "finding_show", "id": finding }),
                _ => json!({ "do": "finding_say", "id": finding, "act": "lift", "reason": "r" }),
            }
        }
        Top => json!({ "do": "top" }),
        Check => json!({ "do": "check" }),
        LedgerVerify => json!({ "do": "ledger_verify", "checkpoints": [] }),
        // Whatever it would be called, no command takes an officer's document or reads for an agency.
        SubmitEntry | SubmitOthersEntry | Review | Apply | Answer | Reinstate | Terminate | Rectify | IssueOrder
        | WithdrawOrder | PublishList | RevokeList | ReadLists | ConfirmFinding | LiftFinding | HandInAgency
        | HandInOfficer => {
            let body = w.entry_body(&w.provider, EntryId::from_bits(1));
            let envelope = document::seal(&w.document(body, None), &w.provider.agency_head).unwrap().to_json();
            for word in ["agency_add", "officer_add"] {
                let command = serde_json::from_value(json!({ "do": word, "envelope": envelope })).unwrap();
                let failure = admin::execute(&w.desk(), command).await.unwrap_err();
                assert_eq!(failure.word, "document_refused", "{operation:?}");
            }
            json!({ "do": "take_document", "envelope": envelope })
        }
        Narrow => json!({ "do": "narrow", "grant": "g", "reason": "r" }),
        Renew => json!({ "do": "renew", "csr": "" }),
        RenewExpired => json!({ "do": "renew_expired", "csr": "" }),
        Join => json!({ "do": "join", "invitation": "", "csr": "" }),
        ReadStatus | ReadCatalogue | ReadUnpublished | ReadPublished | ReadApplication | ReadGrant | ReadInbox
        | ReadFinding | ReadOrder | ReadAgents => json!({ "do": "read", "kind": "status", "id": "" }),
    };
    let Ok(command) = serde_json::from_value::<Command>(command) else { return NoWay };
    match admin::execute(&w.desk(), command).await {
        Ok(_) => Allowed,
        // It was let through, and no gateway serves here that could be watched.
        Err(failure) if operation == Top && failure.word == "unreachable" => Allowed,
        Err(failure) => panic!("{operation:?} by the operator: {failure}"),
    }
}

#[tokio::test]
async fn every_operation_for_every_role_is_as_the_table_says() {
    let mut wrong = Vec::new();
    for operation in OPERATIONS {
        for (role, expected) in ROLES.into_iter().zip(expected(*operation)) {
            let got = outcome(*operation, role).await;
            if got != expected {
                wrong.push(format!("{operation:?} by {role:?}: expected {expected:?}, got {got:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The operator's commands and the table's are the same: a command without a row is found here.
#[test]
fn every_command_has_its_row() {
    let row = |command: Command| match command {
        Command::AgencyAdd { .. } => AgencyAdd,
        Command::AgencyChange { .. } => AgencyChange,
        Command::AgencyShow { .. } => AgencyShow,
        Command::AgencyList { .. } => AgencyList,
        Command::OfficerAdd { .. } => OfficerAdd,
        Command::Invite { .. } => Invite,
        Command::Join { .. } => JoinByFile,
        Command::AgentList { .. } => AgentList,
        Command::RenewalApprove { .. } => RenewalApprove,
        Command::RenewalList { .. } => RenewalList,
        Command::RenewalWithdraw { .. } => RenewalWithdraw,
        Command::Stop { .. } => Stop,
        Command::Resume { .. } => Resume,
        Command::FindingsList { .. } => FindingsList,
        Command::FindingShow { .. } => FindingShow,
        Command::FindingSay { .. } => FindingSay,
        Command::SubscriptionList { .. } => SubscriptionList,
        Command::Top {} => Top,
        Command::Check {} => Check,
        Command::LedgerVerify { .. } => LedgerVerify,
    };
    assert_eq!(row(Command::Check {}), Check);
}

/// So are the requests of the wire; what moves data has its rows at the gate.
#[test]
fn every_request_has_its_rows() {
    use lingqu_protocol::wire::request::Ask;
    let rows = |ask: &Ask| -> &[Operation] {
        match ask {
            Ask::Join(_) => &[Join],
            Ask::Renew(_) => &[Renew, RenewExpired],
            Ask::Document(_) => &[
                SubmitEntry,
                SubmitOthersEntry,
                Review,
                Apply,
                Answer,
                Reinstate,
                Terminate,
                Rectify,
                IssueOrder,
                WithdrawOrder,
                ConfirmFinding,
                LiftFinding,
                PublishList,
                RevokeList,
                HandInAgency,
                HandInOfficer,
            ],
            Ask::Read(_) => &[
                ReadStatus,
                ReadCatalogue,
                ReadUnpublished,
                ReadPublished,
                ReadApplication,
                ReadGrant,
                ReadInbox,
                ReadFinding,
                ReadOrder,
                ReadLists,
                ReadAgents,
            ],
            Ask::Narrow(_) => &[Narrow],
            Ask::PushFiles(_)
            | Ask::PushBatch(_)
            | Ask::Pull(_)
            | Ask::Query(_)
            | Ask::MatchKeys(_)
            | Ask::Cancel(_)
            | Ask::Follow(_) => &[],
        }
    };
    assert_eq!(rows(&Ask::Narrow(lingqu_protocol::wire::Narrow::default())), [Narrow]);
}
