//! What a change of the registry says of itself in the ledger.

use lingqu_protocol::agency::{AgentId, CreditCode};
use lingqu_protocol::digest::Digest;

macro_rules! acts {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// What was done.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Act { $($(#[$doc])* $name,)* }

        impl Act {
            /// Its word in the ledger.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

acts! {
    /// An agency was named by the root.
    AgencyAdded = "agency_added",
    /// What the root says of an agency was replaced.
    AgencyChanged = "agency_changed",
    /// An officer was named by the root.
    OfficerAdded = "officer_added",
    /// An invitation was made.
    Invited = "agent_invited",
    /// An agent joined and got a certificate.
    AgentJoined = "agent_joined",
    /// An agent got another certificate.
    AgentRenewed = "agent_renewed",
    /// An agent got another certificate with its expired one, under an approval.
    AgentRenewedExpired = "agent_renewed_expired",
    /// The operator approved that an agent renews with its expired certificate.
    RenewalApproved = "renewal_approved",
    /// Such an approval was withdrawn.
    RenewalWithdrawn = "renewal_withdrawn",
    /// An entry was submitted.
    EntrySubmitted = "entry_submitted",
    /// An entry was published.
    EntryPublished = "entry_published",
    /// An entry was sent back.
    EntryReturned = "entry_returned",
    /// An application was submitted.
    ApplicationSubmitted = "application_submitted",
    /// An application was answered with a grant.
    ApplicationApproved = "application_approved",
    /// An application was refused.
    ApplicationRefused = "application_refused",
    /// A grant was suspended.
    GrantSuspended = "grant_suspended",
    /// A suspension was lifted.
    GrantReinstated = "grant_reinstated",
    /// A grant has to be put right by a day.
    GrantRectificationOrdered = "grant_rectification_ordered",
    /// A grant was ended for good.
    GrantTerminated = "grant_terminated",
    /// A rule found something (疑似问题线索).
    FindingOpened = "finding_opened",
    /// Somebody said that a finding holds.
    FindingConfirmed = "finding_confirmed",
    /// Somebody said that it does not, or that it is settled.
    FindingLifted = "finding_lifted",
    /// Nobody said anything in time.
    FindingExpired = "finding_expired",
    /// A standing order was given.
    OrderIssued = "standing_order_issued",
    /// A standing order was withdrawn.
    OrderWithdrawn = "standing_order_withdrawn",
    /// A backflow list was published.
    BackflowPublished = "backflow_list_published",
    /// A backflow list was revoked.
    BackflowRevoked = "backflow_list_revoked",
    /// The operator or a rule stopped something.
    Stopped = "stopped",
    /// The operator lifted a stop.
    Resumed = "resumed",
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The gateway's operator, through the socket's owner.
    Operator,
    /// An agent, for its agency.
    Agent(AgentId),
    /// A rule of the gateway, or its clock.
    Rule,
}

/// One change, in the fields that are not personal, and what is not for everyone beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What was done.
    pub act: Act,
    /// To what: an id.
    pub subject: String,
    /// The agency that it concerns.
    pub agency: Option<CreditCode>,
    /// What else it concerns: the entry of an application, the grant of an answer.
    pub object: Option<String>,
    /// The signed document that it rests on.
    pub document: Option<Digest>,
    /// Why, in words. It may name persons, so the ledger holds only a commitment to it.
    pub reason: Option<String>,
}

impl Fact {
    /// `act` on `subject`, for `agency`.
    pub fn new(act: Act, subject: impl ToString, agency: Option<CreditCode>) -> Self {
        Self { act, subject: subject.to_string(), agency, object: None, document: None, reason: None }
    }

    /// With the document it rests on.
    #[must_use]
    pub fn by(mut self, document: Digest) -> Self {
        self.document = Some(document);
        self
    }

    /// With what else it concerns.
    #[must_use]
    pub fn on(mut self, object: impl ToString) -> Self {
        self.object = Some(object.to_string());
        self
    }

    /// With its reason.
    #[must_use]
    pub fn because(mut self, reason: &str) -> Self {
        self.reason = Some(reason.to_owned());
        self
    }
}
