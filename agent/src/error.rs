//! What can go wrong at an agent, and the one place where it becomes an exit code.
//!
//! Every error says what happened, whose fault it is and what to do next, in English and in Chinese.

mod from_certs;

use lingqu_protocol::close::CloseCode;
use lingqu_protocol::session::SessionError;
use lingqu_protocol::stream::StreamError;
use lingqu_protocol::wire::Fault;
use std::fmt;
use std::io;
use std::path::Path;

/// Characters of a text from the gateway that are shown: a screenful, whatever a broken gateway sends.
const FAULT_CHARS_MAX: usize = 4_000;

/// A text in the two languages of this program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// English.
    pub en: String,
    /// 中文.
    pub zh: String,
}

impl Text {
    /// Both texts.
    pub fn new(en: impl Into<String>, zh: impl Into<String>) -> Self {
        Self { en: en.into(), zh: zh.into() }
    }
}

/// Who has to change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// The one who gave the command, or the data.
    Caller,
    /// The gateway, or who operates it.
    Gateway,
    /// This machine or this program.
    Agent,
    /// What lies between the two.
    Network,
}

impl Party {
    /// Its stable word, for programs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Gateway => "gateway",
            Self::Agent => "agent",
            Self::Network => "network",
        }
    }

    fn text(self) -> Text {
        match self {
            Self::Caller => Text::new("in the command or its data", "命令或数据"),
            Self::Gateway => Text::new("at the gateway", "网关"),
            Self::Agent => Text::new("on this machine", "本机"),
            Self::Network => Text::new("in the network", "网络"),
        }
    }
}

/// What happened and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// A stable word for programs: `profile_missing`.
    pub word: String,
    /// What happened.
    pub what: Text,
    /// What to do next; may be empty.
    pub next: Text,
}

impl Told {
    /// What happened, under a stable word. Boxed, for it travels in a `Result`.
    pub fn new(word: &str, en: impl Into<String>, zh: impl Into<String>) -> Box<Self> {
        Box::new(Self { word: word.to_owned(), what: Text::new(en, zh), next: Text::default() })
    }

    /// Adds what to do next.
    #[must_use]
    pub fn next(mut self: Box<Self>, en: impl Into<String>, zh: impl Into<String>) -> Box<Self> {
        self.next = Text::new(en, zh);
        self
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what.en)?;
        if self.next.en.is_empty() { Ok(()) } else { write!(f, "; next: {}", self.next.en) }
    }
}

/// Why a command did not do what was asked. [`AgentError::exit_code`] says with which exit code it ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// The command line, or a file that belongs to it, is not what the command takes.
    #[error("{0}")]
    Usage(Box<Told>),
    /// Nothing of this name is here (in the profile, in the outbox), or it may not be done.
    #[error("{0}")]
    NotFound(Box<Told>),
    /// The data that was to be sent, or an input about it, is bad.
    #[error("{0}")]
    Data(Box<Told>),
    /// A digest, a signature or a proof does not hold.
    #[error("{0}")]
    Integrity(Box<Told>),
    /// The gateway could not be reached in the number of tries allowed.
    #[error("{0}")]
    Unreachable(Box<Told>),
    /// This machine: its disk, its random generator, its profile.
    #[error("{0}")]
    Machine(Box<Told>),
    /// The gateway sent what no gateway should.
    #[error("{0}")]
    Peer(Box<Told>),
    /// The gateway said no, with its reason.
    #[error("the gateway refused ({}): {}", .0.word, .0.text)]
    Refused(Box<Fault>),
    /// A stream or the connection ended before its end.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl From<StreamError> for AgentError {
    fn from(error: StreamError) -> Self {
        Self::Session(error.into())
    }
}

impl AgentError {
    /// The exit code of the command that ends with this error (2 usage, 3 denied or not found, 4 suspended or revoked,
    /// 5 integrity, 6 unreachable, 7 bad data, 1 everything else).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Machine(_) | Self::Peer(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Integrity(_) => 5,
            Self::Unreachable(_) => 6,
            Self::Data(_) => 7,
            Self::Refused(fault) => refusal(fault.close_code()).exit_code(),
            Self::Session(SessionError::Stream(StreamError::Lost(_))) => 6,
            Self::Session(error) => refusal(error.close_code()).exit_code(),
        }
    }

    /// Whether the same request may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused(fault) => fault.close_code().is_transient(),
            Self::Session(SessionError::Stream(StreamError::Lost(_)) | SessionError::Incomplete) => true,
            Self::Session(SessionError::Stream(StreamError::Reset(code) | StreamError::Closed(code))) => {
                code.is_transient()
            }
            _ => false,
        }
    }

    /// Who has to change something.
    pub fn party(&self) -> Party {
        match self {
            Self::Usage(_) | Self::NotFound(_) | Self::Data(_) => Party::Caller,
            Self::Unreachable(_) | Self::Session(SessionError::Stream(StreamError::Lost(_))) => Party::Network,
            Self::Machine(_) => Party::Agent,
            Self::Integrity(_) | Self::Peer(_) => Party::Gateway,
            Self::Refused(fault) => party_of(fault.close_code()),
            Self::Session(error) => party_of(error.close_code()),
        }
    }

    /// What happened and what to do next, whatever the kind of error.
    pub fn told(&self) -> Box<Told> {
        match self {
            Self::Usage(told)
            | Self::NotFound(told)
            | Self::Data(told)
            | Self::Integrity(told)
            | Self::Unreachable(told)
            | Self::Machine(told)
            | Self::Peer(told) => told.clone(),
            Self::Refused(fault) => told_of_fault(fault),
            Self::Session(SessionError::Stream(StreamError::Lost(why))) => {
                Told::new("lost", format!("the connection was lost: {why}"), format!("连接中断：{why}"))
                    .next("check the network, then run the same command again", "检查网络后重新执行同一命令")
            }
            Self::Session(SessionError::Stream(StreamError::Reset(code) | StreamError::Closed(code))) => {
                told_of_code(*code)
            }
            Self::Session(error @ SessionError::Incomplete) => {
                Told::new("incomplete", error.to_string(), "数据流在结束记录之前中止：传输不完整")
                    .next("run the same command again", "重新执行同一命令")
            }
            Self::Session(error) => Told::new("protocol", error.to_string(), format!("网关应答不符合协议：{error}"))
                .next("compare the versions of both programs", "核对双方程序的版本"),
        }
    }

    /// The text for people; the Chinese one first where `chinese`.
    pub fn render(&self, chinese: bool) -> String {
        let told = self.told();
        let party = self.party().text();
        let block = |head: &str, fault: &str, next_head: &str, what: &str, party: &str, next: &str| {
            let mut text = format!("{head}{what} [{}]\n  {fault}{party}\n", told.word);
            if !next.is_empty() {
                text.push_str(&format!("  {next_head}{next}\n"));
            }
            text
        };
        let en = block("error: ", "where: ", "next: ", &told.what.en, &party.en, &told.next.en);
        if !chinese || told.what.zh.is_empty() {
            return en;
        }
        block("错误：", "问题所在：", "下一步：", &told.what.zh, &party.zh, &told.next.zh) + &en
    }

    /// One JSON document on one line: `{"error":{"exit_code":…,"word":…,"where":…,"text":…,"text_zh":…,"next":…,"next_zh":…}}`.
    pub fn to_json(&self) -> serde_json::Value {
        let told = self.told();
        serde_json::json!({"error": {
            "exit_code": self.exit_code(),
            "word": told.word,
            "where": self.party().word(),
            "text": told.what.en,
            "text_zh": told.what.zh,
            "next": told.next.en,
            "next_zh": told.next.zh,
        }})
    }

    /// What the system said about a file of the profile or of the output. A full disk says so.
    pub fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        let path = path.display();
        let told =
            Told::new("disk", format!("{what} {path} failed: {error}"), format!("文件操作失败（{path}）：{error}"));
        Self::Machine(match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                told.next("make room on that disk, then run the same command again", "清理磁盘空间后重新执行同一命令")
            }
            io::ErrorKind::PermissionDenied => told.next(
                "run as the owner of that file, or give this user access",
                "以文件所有者身份运行，或授予访问权限",
            ),
            _ => told.next("check that disk and path", "检查磁盘和路径"),
        })
    }

    /// What the system said about a file that the caller named: one that is not there is the caller's to name again.
    pub fn input(path: &Path, error: &io::Error) -> Self {
        let path = path.display();
        Self::Usage(
            Told::new("input_file", format!("cannot read {path}: {error}"), format!("无法读取 {path}：{error}"))
                .next("name a file that can be read", "请给出可读取的文件"),
        )
    }

    /// The random generator failed.
    pub fn entropy(error: &io::Error) -> Self {
        Self::Machine(Told::new("entropy", error.to_string(), format!("系统随机数发生器失败：{error}")))
    }
}

/// A refusal never ends a command with 0, whatever code a gateway wrote into it.
const fn refusal(code: CloseCode) -> CloseCode {
    match code {
        CloseCode::Done => CloseCode::Protocol,
        code => code,
    }
}

const fn party_of(code: CloseCode) -> Party {
    match code {
        CloseCode::Denied
        | CloseCode::Suspended
        | CloseCode::Expired
        | CloseCode::OverLimit
        | CloseCode::BadData
        | CloseCode::Cancelled => Party::Caller,
        CloseCode::Integrity => Party::Network,
        CloseCode::Done
        | CloseCode::Protocol
        | CloseCode::Busy
        | CloseCode::Draining
        | CloseCode::Closed
        | CloseCode::Internal => Party::Gateway,
    }
}

/// A gateway's texts are shown without control characters, and not without end.
fn shown(text: &str) -> String {
    text.chars().take(FAULT_CHARS_MAX).map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn told_of_fault(fault: &Fault) -> Box<Told> {
    let fallback = told_of_code(fault.close_code());
    let or = |given: &str, fallback: String| if given.is_empty() { fallback } else { shown(given) };
    // A gateway that gives a text in one language only must not be shown with a guess in the other.
    let zh = if fault.text.is_empty() { fallback.what.zh } else { shown(&fault.text) };
    let next_zh = if fault.next.is_empty() { fallback.next.zh } else { shown(&fault.next) };
    Box::new(Told {
        word: or(&fault.word, fallback.word),
        what: Text::new(or(&fault.text, fallback.what.en), or(&fault.text_zh, zh)),
        next: Text::new(or(&fault.next, fallback.next.en), or(&fault.next_zh, next_zh)),
    })
}

fn told_of_code(code: CloseCode) -> Box<Told> {
    let told =
        |word: &str, what: (&str, &str), next: (&str, &str)| Told::new(word, what.0, what.1).next(next.0, next.1);
    match code {
        CloseCode::Denied => told(
            "denied",
            (
                "this is outside what was approved, or does not exist for this agent",
                "超出批准的共享范围，或对本代理不存在",
            ),
            (
                "look at `lingqu grant list`; ask the provider for what is missing",
                "查看 `lingqu grant list`；所缺部分请向提供部门申请",
            ),
        ),
        CloseCode::Suspended => told(
            "suspended",
            ("the permission was suspended, terminated or stopped", "共享权限已被暂停、终止或阻断"),
            (
                "look at `lingqu grant list` for the reason, then talk to the provider or the authority",
                "用 `lingqu grant list` 查看原因，并联系提供部门或主管部门",
            ),
        ),
        CloseCode::Expired => told(
            "expired",
            ("the permission's period or the certificate's has ended", "共享权限或证书已过期"),
            ("run `lingqu status`; renew the certificate or apply again", "执行 `lingqu status`；更新证书或重新申请"),
        ),
        CloseCode::OverLimit => told(
            "over_limit",
            ("a limit of the gateway or of the grant was reached", "已达到网关或共享权限的上限"),
            ("ask for less, or for a wider grant", "减少请求量，或申请扩大范围"),
        ),
        CloseCode::Integrity => told(
            "integrity",
            ("bytes do not match their digest", "数据与其摘要不一致"),
            (
                "run the same command again; if it comes back, check disk and memory",
                "重新执行；若再次出现，检查磁盘和内存",
            ),
        ),
        CloseCode::BadData => told(
            "bad_data",
            ("the data is not what its entry allows, or cannot be read", "数据不符合目录条目或无法解析"),
            ("compare it with `lingqu catalogue show`", "与 `lingqu catalogue show` 的内容核对"),
        ),
        CloseCode::Protocol | CloseCode::Done => told(
            "protocol",
            ("the two programs do not speak the same protocol", "双方程序的协议不一致"),
            ("compare the versions of both programs", "核对双方程序的版本"),
        ),
        CloseCode::Busy => told("busy", ("the gateway is busy", "网关繁忙"), ("try again later", "稍后重试")),
        CloseCode::Draining => {
            told("draining", ("the gateway is shutting down", "网关正在停机"), ("try again later", "稍后重试"))
        }
        CloseCode::Closed => told(
            "closed",
            (
                "the gateway is closed: it cannot vouch for its policy, its ledger or its clock",
                "网关已关闭：无法保证其策略、台账或时钟",
            ),
            ("ask its operator; try again later", "联系网关运维人员，稍后重试"),
        ),
        CloseCode::Internal => told(
            "internal",
            ("the gateway failed", "网关内部错误"),
            ("try again; if it comes back, tell its operator the time", "重试；若再次出现，将时间告知运维人员"),
        ),
        CloseCode::Cancelled => told(
            "cancelled",
            ("it was cancelled", "已取消"),
            ("run the command again if you want it", "如仍需要，请重新执行"),
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use lingqu_protocol::frame::FrameError;

    fn told() -> Box<Told> {
        Told::new("w", "what", "什么").next("do", "做")
    }

    fn fault(code: CloseCode) -> Box<Fault> {
        Box::new(Fault { code: code.code(), ..Fault::default() })
    }

    #[test]
    fn the_table_of_exit_codes() {
        let reset = |code| AgentError::from(StreamError::Reset(code));
        let table = [
            (AgentError::Machine(told()), 1),
            (AgentError::Peer(told()), 1),
            (AgentError::Usage(told()), 2),
            (AgentError::NotFound(told()), 3),
            (AgentError::Refused(fault(CloseCode::Denied)), 3),
            (AgentError::Refused(fault(CloseCode::OverLimit)), 3),
            (AgentError::Refused(fault(CloseCode::Suspended)), 4),
            (AgentError::Refused(fault(CloseCode::Expired)), 4),
            (reset(CloseCode::Suspended), 4),
            (AgentError::from(StreamError::Closed(CloseCode::Suspended)), 4),
            (AgentError::Integrity(told()), 5),
            (AgentError::Refused(fault(CloseCode::Integrity)), 5),
            (AgentError::Unreachable(told()), 6),
            (AgentError::from(StreamError::Lost("gone".into())), 6),
            (AgentError::Refused(fault(CloseCode::Busy)), 6),
            (reset(CloseCode::Draining), 6),
            (AgentError::Data(told()), 7),
            (AgentError::Refused(fault(CloseCode::BadData)), 7),
            (AgentError::Refused(fault(CloseCode::Internal)), 1),
            (AgentError::Session(SessionError::Incomplete), 1),
            (AgentError::Session(SessionError::Frame(FrameError::UnknownKind(9))), 1),
        ];
        for (error, code) in table {
            assert_eq!(error.exit_code(), code, "{error:?}");
        }
    }

    #[test]
    fn no_refusal_ends_with_zero() {
        for code in CloseCode::ALL {
            assert_ne!(AgentError::Refused(fault(code)).exit_code(), 0, "{code:?}");
            assert_ne!(AgentError::from(StreamError::Reset(code)).exit_code(), 0, "{code:?}");
        }
    }

    #[test]
    fn every_code_says_what_and_what_next_in_both_languages() {
        for code in CloseCode::ALL {
            let told = AgentError::Refused(fault(code)).told();
            for text in [told.what.en, told.what.zh, told.next.en, told.next.zh, told.word] {
                assert!(!text.is_empty(), "{code:?}");
            }
        }
    }

    #[test]
    fn the_gateways_words_come_first_and_clean() {
        let fault = Fault {
            code: CloseCode::Denied.code(),
            word: "columns_outside_scope".into(),
            text: "no\u{1b}[31m".into(),
            text_zh: "列超出范围".into(),
            ..Fault::default()
        };
        let error = AgentError::Refused(Box::new(fault));
        assert_eq!(error.told().what, Text::new("no\u{fffd}[31m", "列超出范围"));
        let zh = error.render(true);
        assert!(zh.starts_with("错误：列超出范围 [columns_outside_scope]"), "{zh}");
        assert!(zh.contains("error: no"), "English follows");
        assert!(error.render(false).starts_with("error: no"));
    }

    #[test]
    fn json_holds_what_a_program_needs() {
        let json = AgentError::Data(told()).to_json();
        assert_eq!(json["error"]["exit_code"], 7);
        assert_eq!(json["error"]["where"], "caller");
        assert_eq!(json["error"]["next_zh"], "做");
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        assert!(AgentError::Unreachable(told()).is_transient());
        assert!(AgentError::from(StreamError::Lost("x".into())).is_transient());
        assert!(AgentError::Refused(fault(CloseCode::Draining)).is_transient());
        for code in [CloseCode::Denied, CloseCode::Suspended, CloseCode::Integrity, CloseCode::BadData] {
            assert!(!AgentError::Refused(fault(code)).is_transient(), "{code:?}");
        }
        assert!(!AgentError::Integrity(told()).is_transient());
    }
}
