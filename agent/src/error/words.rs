//! What is said of a refusal: the gateway's own words, or ours where it gave none.

use super::{Text, Told};
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::wire::Fault;

/// Characters of a text from the gateway that are shown: a screenful, whatever a broken gateway sends.
const FAULT_CHARS_MAX: usize = 4_000;

/// A gateway's texts are shown without control characters, and not without end.
fn shown(text: &str) -> String {
    text.chars().take(FAULT_CHARS_MAX).map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

pub(super) fn of_fault(fault: &Fault) -> Box<Told> {
    let fallback = of_code(fault.close_code());
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

pub(super) fn of_code(code: CloseCode) -> Box<Told> {
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
                "the reason stands with the error or in `lingqu grant list`; where that is refused too, all of this agent was \
                 stopped. Talk to the provider, or to the gateway's operator",
                "原因见错误信息或 `lingqu grant list`；若该命令也被拒绝，则本代理已被整体阻断。请联系提供部门或网关运维人员",
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
