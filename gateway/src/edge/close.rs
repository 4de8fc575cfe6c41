//! Every error of the gateway as what a peer is told of it: here and nowhere else. The inside of our own failures (paths,
//! the words of libraries) stays in the log.

use crate::flow::FlowError;
use crate::gate::{Cut, Denied};
use crate::lake::LakeError;
use crate::state::StateError;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::name::escape_for_log;
use lingqu_protocol::session::SessionError;
use lingqu_protocol::wire::Fault;

/// Characters of a text that quotes the peer's own data back to it.
const TEXT_CHARS_MAX: usize = 600;

/// The close code of an error.
pub fn code(error: &FlowError) -> CloseCode {
    match error {
        FlowError::Denied(denied) => denied.code(),
        FlowError::Cut(cut) => cut.code,
        FlowError::Registry(error) => error.close_code(),
        FlowError::Session(error) => error.close_code(),
        FlowError::Lake(LakeError::BadData { .. } | LakeError::Conflict { .. }) => CloseCode::BadData,
        FlowError::Lake(LakeError::TooLarge { .. }) => CloseCode::OverLimit,
        FlowError::Lake(LakeError::Damaged { .. }) => CloseCode::Integrity,
        FlowError::Lake(LakeError::Full { .. }) | FlowError::State(StateError::Full) => CloseCode::Busy,
        FlowError::State(StateError::Poisoned | StateError::Closed) => CloseCode::Closed,
        FlowError::Plan(_) | FlowError::OverLimit { .. } => CloseCode::OverLimit,
        FlowError::BadData { .. } | FlowError::Conflict { .. } => CloseCode::BadData,
        FlowError::Integrity { .. } => CloseCode::Integrity,
        FlowError::NotFound { .. } => CloseCode::Denied,
        FlowError::TooSlow { .. } => CloseCode::Protocol,
        FlowError::Busy => CloseCode::Busy,
        FlowError::Lake(_) | FlowError::State(_) | FlowError::Ledger(_) | FlowError::Machine(_) => CloseCode::Internal,
    }
}

/// What the peer is told: short, and without what could steer a terminal, whoever's words it quotes.
pub fn fault(error: &FlowError) -> Fault {
    let fault = words(error);
    Fault { text: short(&fault.text), text_zh: short(&fault.text_zh), ..fault }
}

/// How a request ended, as metrics and logs call it. A peer that went away is its own outcome: it is nobody's failure that
/// an operator should get up for.
pub fn outcome(error: &FlowError) -> &'static str {
    if matches!(error, FlowError::Session(SessionError::Stream(_) | SessionError::Incomplete)) {
        return "disconnected";
    }
    match code(error) {
        CloseCode::Done => "done",
        CloseCode::Denied => "denied",
        CloseCode::Suspended => "suspended",
        CloseCode::Expired => "expired",
        CloseCode::OverLimit => "over_limit",
        CloseCode::Integrity => "integrity",
        CloseCode::BadData => "bad_data",
        CloseCode::Protocol => "protocol",
        CloseCode::Busy => "busy",
        CloseCode::Draining => "draining",
        CloseCode::Closed => "closed",
        CloseCode::Internal => "internal",
        CloseCode::Cancelled => "cancelled",
    }
}

fn words(error: &FlowError) -> Fault {
    // The detail names row, column or file, which a reader of Chinese needs as well.
    let own = |word, zh: &str, next, next_zh| {
        let text = error.to_string();
        told(code(error), word, &text, &format!("{zh}：{text}"), next, next_zh)
    };
    match error {
        FlowError::Denied(denied) => denied.fault(),
        FlowError::Cut(cut) => cut_fault(cut),
        FlowError::Registry(error) => error.to_fault(),
        FlowError::Session(SessionError::Stream(_)) => {
            own("connection_ended", "连接已中断", "resume: lingqu transfer resume ID", "请续传：lingqu transfer resume")
        }
        FlowError::Session(_) => own("protocol", "对方不符合本协议", "update the agent", "请更新代理程序"),
        FlowError::Lake(LakeError::BadData { .. }) | FlowError::BadData { .. } => {
            own("bad_data", "数据不符合要求", "correct the data and push it again", "请更正数据后重新推送")
        }
        FlowError::Conflict { .. } | FlowError::Lake(LakeError::Conflict { .. }) => {
            own("conflict", "与已有内容冲突", "start a new transfer", "请发起新的传输")
        }
        FlowError::Lake(LakeError::Damaged { .. }) => told(
            CloseCode::Integrity,
            "damaged_at_rest",
            "the stored data is damaged; it was set aside",
            "存储的数据已损坏并被隔离",
            "ask the provider to push the entry again",
            "请提供部门重新推送",
        ),
        FlowError::Lake(LakeError::Full { .. }) | FlowError::State(StateError::Full) => told(
            CloseCode::Busy,
            "disk_full",
            "the gateway's disk is full",
            "网关磁盘已满",
            "try again when the operator made room; nothing was lost",
            "请待管理员清理磁盘后重试，数据未丢失",
        ),
        FlowError::Lake(LakeError::TooLarge { .. }) | FlowError::OverLimit { .. } | FlowError::Plan(_) => {
            own("over_limit", "超出网关限制", "send less at a time, or later", "请减少单次数据量或稍后再试")
        }
        FlowError::Integrity { .. } => own("integrity", "完整性校验失败", "run the transfer again", "请重新传输"),
        FlowError::NotFound { .. } => own("not_found", "没有此对象", "check the id or the name", "请核对编号或名称"),
        FlowError::TooSlow { .. } => own("too_slow", "对方响应过慢", "resume the transfer", "请续传"),
        FlowError::Busy => own("busy", "请求过多", "try again with fewer requests at a time", "请减少并发后重试"),
        FlowError::Lake(_) | FlowError::State(_) | FlowError::Ledger(_) | FlowError::Machine(_) => told(
            code(error),
            "internal",
            "the gateway could not do its part",
            "网关内部故障",
            "try again; the operator finds the cause in the gateway's log",
            "请重试；管理员可在网关日志中查明原因",
        ),
    }
}

fn cut_fault(cut: &Cut) -> Fault {
    let text = format!("cut at {}: {}: {}", cut.since, cut.word, cut.reason);
    let (next, next_zh) = match cut.code {
        CloseCode::Draining | CloseCode::Closed => ("resume later: lingqu transfer resume ID", "请稍后续传"),
        CloseCode::Expired => Denied::PeriodEnded { until: chrono::NaiveDate::MAX }.next(),
        _ => (
            "settle it with the provider or the operator; what you have is incomplete",
            "请与提供部门或管理员沟通；已收数据不完整",
        ),
    };
    told(cut.code, cut.word, &text, &format!("传输已被切断：{}", cut.reason), next, next_zh)
}

fn told(code: CloseCode, word: &str, text: &str, text_zh: &str, next: &str, next_zh: &str) -> Fault {
    Fault {
        code: code.code(),
        word: word.to_owned(),
        text: text.to_owned(),
        text_zh: text_zh.to_owned(),
        next: next.to_owned(),
        next_zh: next_zh.to_owned(),
    }
}

fn short(text: &str) -> String {
    escape_for_log(text).chars().take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_went_away_is_not_our_failure() {
        use lingqu_protocol::stream::StreamError;
        for gone in [
            SessionError::Stream(StreamError::Reset(CloseCode::Internal)),
            SessionError::Stream(StreamError::Closed(CloseCode::Done)),
            SessionError::Stream(StreamError::Lost("timed out".into())),
            SessionError::Incomplete,
        ] {
            assert_eq!(outcome(&gone.into()), "disconnected");
        }
        assert_eq!(outcome(&FlowError::Machine("ours".into())), "internal");
        assert_eq!(outcome(&FlowError::Denied(Denied::NoGrant)), "denied");
    }

    #[test]
    fn our_own_failures_keep_their_inside() {
        for error in [
            FlowError::Machine("/var/lib/secret: no".into()),
            FlowError::State(StateError::Storage("/var/lib/secret.db".into())),
            FlowError::State(StateError::Poisoned),
        ] {
            let fault = fault(&error);
            assert!(!format!("{fault:?}").contains("secret"), "{fault:?}");
            assert_eq!(fault.code, code(&error).code());
        }
    }

    #[test]
    fn what_a_peer_wrote_comes_back_escaped_and_short() {
        let fault = fault(&FlowError::bad_data(format!("\u{1b}[31m\u{202e}{}", "x".repeat(5000))));
        assert!(!fault.text.contains('\u{1b}') && !fault.text.contains('\u{202e}'));
        assert!(fault.text.chars().count() <= TEXT_CHARS_MAX);
        let asked = "\u{1b}[2J\u{202e}".to_owned();
        let denied = Denied::Columns { outside: vec![asked], granted: vec!["region".into()] };
        let fault = super::fault(&FlowError::Denied(denied));
        for text in [&fault.text, &fault.text_zh] {
            assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}') && text.contains("region"), "{text:?}");
        }
    }
}
