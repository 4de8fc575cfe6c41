//! What can go wrong at an agent, and the one place where it becomes an exit code.
//!
//! Every error says what happened, whose fault it is and what to do next, in English and in Chinese.

mod from_certs;
mod words;

use lingqu_protocol::close::CloseCode;
use lingqu_protocol::session::SessionError;
use lingqu_protocol::stream::StreamError;
use lingqu_protocol::wire::Fault;
use std::fmt;
use std::io;
use std::path::Path;

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
            Self::Refused(fault) if USAGE_WORDS.contains(&fault.word.as_str()) => 2,
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
            Self::Refused(fault) => words::of_fault(fault),
            Self::Session(SessionError::Stream(StreamError::Lost(why))) => {
                Told::new("lost", format!("the connection was lost: {why}"), format!("连接中断：{why}"))
                    .next("check the network, then run the same command again", "检查网络后重新执行同一命令")
            }
            Self::Session(SessionError::Stream(StreamError::Reset(code) | StreamError::Closed(code))) => {
                words::of_code(*code)
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

/// Refusals of the gateway that say that the command line does not fit the entry: only the gateway knows its types.
const USAGE_WORDS: [&str; 4] = ["bad_predicate", "column_twice", "no_columns_in_files", "no_region_column"];

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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
