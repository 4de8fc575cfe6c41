//! Why the registry did not do what was asked: whose fault it is, and what to do next, in both languages.

use crate::state::StateError;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::documents::OfficerRole;
use lingqu_protocol::wire;

/// What was asked cannot be done; the fault is with the one who asked, drafted or signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing that exists for the one who asks.
    #[error("there is no {what} {id:?} here")]
    NotFound {
        /// What it would be.
        what: &'static str,
        /// What was given, cut to a length that can be shown.
        id: String,
    },
    /// The envelope or the signature.
    #[error("{0}")]
    Document(String),
    /// A document that came too late.
    #[error("{0}")]
    DocumentExpired(String),
    /// A payload type that nobody hands in here.
    #[error("a document of type {0:?} is not taken here")]
    DocumentType(String),
    /// A document id that stands for another text already.
    #[error("another document was handed in under the id {0}")]
    DocumentReused(String),
    /// Signed against another text than the one that stands here now.
    #[error("the document follows {found}, and what stands here now is {expected}")]
    Predecessor {
        /// The digest that stands here.
        expected: String,
        /// The digest that was named, or `nothing`.
        found: String,
    },
    /// An act that was signed before what it answers happened.
    #[error("the document was drafted at {drafted}, before the suspension of {since} that it would lift")]
    ActTooOld {
        /// When it was drafted.
        drafted: String,
        /// Since when the grant is suspended.
        since: String,
    },
    /// The signer belongs to another agency than the agent that carries the document.
    #[error("the signer is an officer of another agency than this agent")]
    OfficerElsewhere,
    /// The signer's office does not sign this.
    #[error("an officer in the role {found:?} does not sign this: it needs {needed:?}")]
    WrongRole {
        /// The signer's role.
        found: OfficerRole,
        /// Roles that sign it.
        needed: &'static [OfficerRole],
    },
    /// The body speaks for another agency.
    #[error("the document speaks for agency {named}, and its signer is of {own}")]
    OtherAgency {
        /// The agency in the body.
        named: String,
        /// The signer's.
        own: String,
    },
    /// Only a 政务数据共享主管部门 may do it.
    #[error("only the authority for data sharing does this")]
    NotAuthority,
    /// Only the provider may do it.
    #[error("only the agency that provides {0} does this")]
    NotProvider(String),
    /// It is not in a state that allows this.
    #[error("{what} {id} is {is}, so this cannot be done: it must be {needed}")]
    WrongState {
        /// What it is.
        what: &'static str,
        /// Which.
        id: String,
        /// Its state.
        is: &'static str,
        /// The state that would allow it.
        needed: &'static str,
    },
    /// An agency that is named already, otherwise than it would be now.
    #[error("agency {code} is here already, and this would change its {differs}")]
    AgencyExists {
        /// Its code.
        code: String,
        /// The fields that differ.
        differs: String,
    },
    /// An id that is in use.
    #[error("the id {0} is in use already")]
    IdTaken(String),
    /// A code that another entry has.
    #[error("another entry has the code {0}")]
    CodeTaken(String),
    /// Neither the entry nor the review gives a code.
    #[error("the entry has no code, and the review gives none")]
    CodeMissing,
    /// An entry keeps its code.
    #[error("the entry's code is {is}, and {given} was given")]
    CodeChanged {
        /// The code it has.
        is: String,
        /// The code that was given.
        given: String,
    },
    /// A text in a document that breaks its rules.
    #[error("{what}: {problem}")]
    Spec {
        /// Which text.
        what: &'static str,
        /// Where and what.
        problem: String,
    },
    /// An entry that is not shared.
    #[error("the entry {0} is not shared (article 15)")]
    NotShared(String),
    /// Asked for what the entry does not offer.
    #[error("the application does not fit its entry: {0}")]
    NotOffered(String),
    /// An answer that grants what was not asked for.
    #[error("the answer's scope is wider than what was asked for: {0}")]
    Wider(String),
    /// The declaration of article 20 is missing.
    #[error("the application does not declare that it is true, lawful and necessary (article 20)")]
    NotDeclared,
    /// A text that is empty, too long or holds what cannot be seen.
    #[error("{what} {problem}")]
    Text {
        /// Which text.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// An invitation that is not open.
    #[error("the invitation {0}")]
    Invitation(&'static str),
    /// A renewal with an expired certificate that is not approved.
    #[error("the certificate has expired, and its renewal is not open: {0}")]
    RenewalClosed(&'static str),
    /// A signing request that is not one.
    #[error("the signing request is not good: {0}")]
    Csr(String),
    /// The agency, the agent or everything was stopped by the operator.
    #[error("{what} was stopped: {reason}")]
    Stopped {
        /// What was stopped.
        what: String,
        /// Why.
        reason: String,
    },
    /// Not something that is stopped.
    #[error("{0} is not stopped")]
    NotStopped(String),
    /// Something that was confirmed and that only an officer lifts.
    #[error("{0} was confirmed: an office head of the provider or of the authority lifts it")]
    NeedsSignature(String),
    /// A kind of record that nobody reads here.
    #[error("there are no records of kind {0:?}")]
    UnknownKind(String),
}

/// Why the registry did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The caller's fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Ours: a cut acted and could not be recorded.
    #[error("{what} is cut and stays cut, but it could not be recorded: {cause}")]
    Unrecorded {
        /// What was cut.
        what: String,
        /// Why it could not be recorded.
        cause: Box<Self>,
    },
    /// Nobody's: others changed the same thing again and again.
    #[error("others were changing the same thing at the same time")]
    Busy,
    /// Ours: the state.
    #[error(transparent)]
    State(#[from] StateError),
    /// Ours: a record that this program cannot have written.
    #[error("a record of the registry is damaged: {0}")]
    Damaged(String),
    /// Ours: the CA or the system's randomness.
    #[error("the gateway could not do its part: {0}")]
    Ours(String),
}

/// How a refusal reads: what programs and people get beside its text.
struct Reading {
    code: CloseCode,
    word: &'static str,
    zh: &'static str,
    next: &'static str,
    next_zh: &'static str,
}

const fn reading(
    code: CloseCode,
    word: &'static str,
    zh: &'static str,
    next: &'static str,
    next_zh: &'static str,
) -> Reading {
    Reading { code, word, zh, next, next_zh }
}

impl Refusal {
    /// Nothing of that name exists for the one who asks. What a peer sent is cut to a length that can be shown.
    pub fn not_found(what: &'static str, id: &str) -> Self {
        Self::NotFound { what, id: id.chars().take(80).collect() }
    }

    /// The close code of a stream that ends with it.
    pub fn close_code(&self) -> CloseCode {
        self.reading().code
    }

    /// A stable word for programs.
    pub fn word(&self) -> &'static str {
        self.reading().word
    }

    /// What to do next.
    pub fn next(&self) -> &'static str {
        self.reading().next
    }

    fn reading(&self) -> Reading {
        use CloseCode::{BadData, Denied, Expired, Protocol, Suspended};
        match self {
            Self::NotFound { what: "agent", .. } => reading(
                Denied,
                "not_found",
                "没有此代理",
                "the gateway's operator sees who joined with `lingqu-gateway agent list`; an agency that has no agent yet \
                 is stopped whole, with --agency",
                "管理员可用 lingqu-gateway agent list 查看已加入的代理；尚无代理的部门请用 --agency 整体阻断",
            ),
            Self::NotFound { what: "agency", .. } => reading(
                Denied,
                "not_found",
                "没有此部门",
                "check the credit code: `lingqu-gateway agency list` shows every agency",
                "核对统一社会信用代码；可用 lingqu-gateway agency list 查看",
            ),
            Self::NotFound { what: "open renewal", .. } => reading(
                Denied,
                "not_found",
                "该代理没有待使用的续期批准",
                "`lingqu-gateway renewal list` shows each agent's latest approval",
                "可用 lingqu-gateway renewal list 查看",
            ),
            Self::NotFound { .. } => reading(
                Denied,
                "not_found",
                "没有此对象，或对贵单位不可见",
                "check the id; `lingqu catalogue list`, `application list` and `grant list` show what exists for you",
                "核对编号；可用 catalogue list、application list、grant list 查看",
            ),
            Self::Document(_) => reading(
                Denied,
                "document_refused",
                "文件或签名无效",
                "draft the document again and have a registered officer sign it",
                "重新起草，由已登记的人员签署",
            ),
            Self::DocumentExpired(_) => {
                reading(Denied, "document_expired", "文件已过期", "draft and sign it again", "重新起草并签署")
            }
            Self::DocumentType(_) => reading(
                Denied,
                "document_type",
                "此处不接收这类文件",
                "agencies and officers are added at the gateway: `lingqu-gateway agency add`, `officer add`",
                "部门和人员由网关管理员登记",
            ),
            Self::DocumentReused(_) => reading(
                Denied,
                "document_reused",
                "文件编号已用于另一份文件",
                "draft it again: a new draft gets a new id",
                "重新起草，编号会更新",
            ),
            Self::Predecessor { .. } => reading(
                Denied,
                "predecessor_changed",
                "所依据的文件已变更",
                "look at what stands here now and draft again",
                "查看最新内容后重新起草",
            ),
            Self::ActTooOld { .. } => {
                reading(Denied, "act_too_old", "文件签署早于暂停时间", "draft and sign it again", "重新起草并签署")
            }
            Self::OfficerElsewhere => reading(
                Denied,
                "officer_elsewhere",
                "签署人不属于本部门",
                "have an officer of this agent's own agency sign it",
                "请由本部门人员签署",
            ),
            Self::WrongRole { .. } => reading(
                Denied,
                "wrong_role",
                "签署人无权签署此类文件",
                "have it signed by the officer in that role",
                "请由相应负责人签署",
            ),
            Self::OtherAgency { .. } => reading(
                Denied,
                "other_agency",
                "文件以其他部门名义作出",
                "draft it for your own agency",
                "请以本部门名义起草",
            ),
            Self::NotAuthority => reading(
                Denied,
                "not_authority",
                "仅限政务数据共享主管部门",
                "ask the authority for data sharing",
                "请联系政务数据共享主管部门",
            ),
            Self::NotProvider(_) => {
                reading(Denied, "not_provider", "仅限政务数据提供部门", "ask its provider", "请联系数据提供部门")
            }
            Self::WrongState { .. } => reading(
                Denied,
                "wrong_state",
                "当前状态不允许此操作",
                "look at it with `show`, and start from the state it is in",
                "用 show 查看当前状态",
            ),
            Self::AgencyExists { .. } => reading(
                Denied,
                "agency_exists",
                "该部门已登记，内容不同",
                "nothing was changed; `lingqu-gateway agency show CODE` shows what stands, and `agency change CODE` with \
                 the options that are to change (and --root) changes it",
                "未作改动；用 lingqu-gateway agency show 查看，用 agency change 修改",
            ),
            Self::IdTaken(_) => {
                reading(Denied, "id_taken", "编号已被使用", "draft it again with a new id", "请换用新编号重新起草")
            }
            Self::CodeTaken(_) => {
                reading(Denied, "code_taken", "目录代码已被使用", "give another code", "请换用其他代码")
            }
            Self::CodeMissing => reading(
                Denied,
                "code_missing",
                "目录缺少代码",
                "review it again with --code",
                "审核时用 --code 给出代码",
            ),
            Self::CodeChanged { .. } => reading(
                Denied,
                "code_changed",
                "目录代码不得更改",
                "leave the code as it is, or submit a new entry",
                "保持原代码，或另行提交新条目",
            ),
            Self::Spec { .. } => {
                reading(BadData, "bad_spec", "文件内容不符合要求", "correct the line that is named", "按提示修改该行")
            }
            Self::NotShared(_) => reading(
                Denied,
                "not_shared",
                "该目录不予共享",
                "read its reason in `lingqu catalogue show`",
                "用 catalogue show 查看理由",
            ),
            Self::NotOffered(_) => reading(
                Denied,
                "not_offered",
                "目录未提供所申请的内容",
                "ask for what `lingqu catalogue show` lists",
                "按 catalogue show 所列内容申请",
            ),
            Self::Wider(_) => reading(
                Denied,
                "scope_wider",
                "答复范围超出申请范围",
                "grant what was asked or less",
                "答复范围不得超出申请",
            ),
            Self::NotDeclared => reading(
                Denied,
                "not_declared",
                "缺少真实、合法、必要的声明",
                "draft the application with its declaration",
                "请在申请中作出声明",
            ),
            Self::Text { .. } => reading(BadData, "bad_text", "文字不符合要求", "correct the text", "请修改文字"),
            Self::Invitation(_) => reading(
                Expired,
                "invitation_closed",
                "邀请已失效",
                "ask the operator for a new one: `lingqu-gateway invite`",
                "请管理员重新签发邀请",
            ),
            Self::RenewalClosed(_) => reading(
                Expired,
                "renewal_not_approved",
                "证书已过期，续期未获批准",
                "ask the gateway's operator for `lingqu-gateway renewal approve CODE/NAME`, then run `lingqu renew`",
                "请网关管理员执行 lingqu-gateway renewal approve 后再执行 lingqu renew",
            ),
            Self::Csr(_) => reading(
                BadData,
                "bad_request_for_certificate",
                "证书请求无效",
                "make the request with `lingqu join` or `lingqu renew`",
                "请用 lingqu join 或 renew 生成",
            ),
            Self::Stopped { .. } => {
                reading(Suspended, "stopped", "已被临时阻断", "ask the gateway's operator why", "请联系网关管理员")
            }
            Self::NotStopped(_) => {
                reading(Denied, "not_stopped", "未被阻断", "list what is stopped with `check`", "用 check 查看")
            }
            Self::NeedsSignature(_) => reading(
                Denied,
                "needs_signature",
                "已确认，须由提供部门或主管部门的共享工作机构负责人签署解除",
                "lingqu findings lift ID --reason WHY --key ODIR, at the provider or the authority",
                "由提供部门或主管部门执行 lingqu findings lift 并签署",
            ),
            Self::UnknownKind(_) => reading(
                Protocol,
                "unknown_kind",
                "没有此类记录",
                "update the agent: it asks for what this gateway does not know",
                "请更新代理程序",
            ),
        }
    }
}

impl RegistryError {
    /// The close code of a stream that ends with it.
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::Refused(refusal) => refusal.close_code(),
            Self::Unrecorded { cause, .. } => cause.close_code(),
            Self::Busy => CloseCode::Busy,
            // Without a place to write to there is no exchange: that is a closed gate, not a fault of this request.
            Self::State(StateError::Full | StateError::Poisoned | StateError::Closed) => CloseCode::Closed,
            Self::State(_) | Self::Damaged(_) | Self::Ours(_) => CloseCode::Internal,
        }
    }

    /// A stable word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.word(),
            Self::Unrecorded { .. } => "unrecorded",
            Self::Busy => "busy",
            Self::State(_) => "state_failed",
            Self::Damaged(_) => "state_damaged",
            Self::Ours(_) => "internal",
        }
    }

    /// What to do next.
    pub fn next(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.next(),
            Self::Unrecorded { .. } => {
                "make room or mend the gateway's disk, then do the same again, so that the ledger has it; it holds meanwhile"
            }
            Self::Busy => "try again",
            Self::State(StateError::Full) => "the operator makes room on the gateway's disk; then try again",
            Self::State(_) | Self::Damaged(_) | Self::Ours(_) => "the operator finds the cause in the gateway's log",
        }
    }

    /// The message that a peer gets. Our own failures are told without their inside: it may hold paths.
    pub fn to_fault(&self) -> wire::Fault {
        let (text, text_zh, next_zh) = match self {
            Self::Refused(refusal) => {
                let reading = refusal.reading();
                (refusal.to_string(), reading.zh, reading.next_zh)
            }
            Self::Unrecorded { what, .. } => (
                format!("{what} is cut and stays cut, but it could not be recorded"),
                "已切断并保持切断，但未能记入账本",
                "请稍后再次提交，以便记录；期间保持切断",
            ),
            Self::Busy => (self.to_string(), "正忙", "请重试"),
            Self::State(_) | Self::Damaged(_) | Self::Ours(_) => {
                ("the gateway could not do its part".to_owned(), "网关内部故障", "请联系网关管理员")
            }
        };
        wire::Fault {
            code: self.close_code().code(),
            word: self.word().to_owned(),
            text,
            text_zh: text_zh.to_owned(),
            next: self.next().to_owned(),
            next_zh: next_zh.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_and_what_is_ours_say_nothing_of_the_inside() {
        let long = "x".repeat(10_000);
        assert!(Refusal::not_found("grant", &long).to_string().len() < 200);
        let fault = RegistryError::State(StateError::Storage("/var/lib/secret.db".into())).to_fault();
        assert_eq!(fault.code, CloseCode::Internal.code());
        assert!(!format!("{fault:?}").contains("secret"));
        let fault = RegistryError::Damaged("row 7 of /x".into()).to_fault();
        assert!(!format!("{fault:?}").contains("row 7"));
    }

    #[test]
    fn a_full_disk_closes_the_gate_and_a_refusal_does_not() {
        assert_eq!(RegistryError::from(StateError::Full).close_code(), CloseCode::Closed);
        assert_eq!(RegistryError::from(Refusal::NotAuthority).close_code(), CloseCode::Denied);
        assert!(RegistryError::Busy.close_code().is_transient());
        let cause = Box::new(RegistryError::State(StateError::Storage("/var/lib/secret.db".into())));
        let fault = RegistryError::Unrecorded { what: "all".into(), cause }.to_fault();
        assert_eq!((fault.code, fault.word.as_str()), (CloseCode::Internal.code(), "unrecorded"));
        assert!(!format!("{fault:?}").contains("secret"));
    }
}
