//! What people and programs read.

use super::text;
use crate::admin::Failure;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;

/// Where answers go.
pub(super) struct Output {
    /// One JSON document on standard output.
    pub(super) json: bool,
}

impl Output {
    /// Says an answer: `value` to programs, `words` to people.
    pub(super) fn say(&self, value: &Value, words: impl FnOnce(&Value) -> String) -> Result<(), Failure> {
        let text = if self.json { value.to_string() } else { words(value) };
        let mut out = std::io::stdout().lock();
        let written = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
        written.map_err(|e| Failure::ours(format!("standard output: {e}"), "it was done; look at it with `check`"))
    }

    /// Says something beside the answer, to people alone.
    pub(super) fn hint(&self, words: &str) {
        if !self.json {
            // Standard error may be closed; the answer was given.
            let _ = writeln!(std::io::stderr().lock(), "{words}");
        }
    }

    /// Says why nothing came of it, on standard error.
    pub(super) fn say_failure(&self, failure: &Failure) {
        let Failure { code, word, text, next } = failure;
        let line = if self.json {
            json!({ "error": { "code": code, "word": word, "text": text, "next": next } }).to_string()
        } else {
            format!("error 错误: {text}\nnext 下一步: {next}")
        };
        // Nothing is left to tell it to where standard error is gone; the exit code still says it.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}

/// One agency, a field a line.
pub(super) fn agency(value: &Value) -> String {
    let mut lines = String::new();
    for (name, field) in value.as_object().into_iter().flatten().filter(|(_, field)| !field.is_null()) {
        let field = field.as_str().map_or_else(|| field.to_string(), str::to_owned);
        // Writing to a String does not fail.
        let _ = writeln!(lines, "{name:<10} {field}");
    }
    lines
}

/// Agencies, a line each.
pub(super) fn agencies(value: &Value) -> String {
    let mut lines = String::new();
    for agency in value.as_array().into_iter().flatten() {
        let authority = if agency["authority"] == true { "  主管部门" } else { "" };
        // Writing to a String does not fail.
        let _ = writeln!(
            lines,
            "{}  {:<12} {:<9} {}{authority}",
            text(agency, "id"),
            text(agency, "region"),
            text(agency, "level"),
            text(agency, "name"),
        );
    }
    if lines.is_empty() { "no agencies yet 尚无部门: lingqu-gateway agency add --help".into() } else { lines }
}

/// Agents, a line each.
pub(super) fn agents(value: &Value) -> String {
    let mut lines = String::new();
    for agent in value.as_array().into_iter().flatten() {
        let until = text(agent, "certificate_until");
        // Writing to a String does not fail.
        let _ = writeln!(
            lines,
            "{:<40} {:<8} certificate until 证书有效期至 {until}",
            text(agent, "id"),
            text(agent, "status")
        );
    }
    if lines.is_empty() { "no agents yet 尚无代理: lingqu-gateway invite --help".into() } else { lines }
}

/// Subscriptions of backflow, a line each.
pub(super) fn subscriptions(value: &Value) -> String {
    let mut lines = String::new();
    for row in value.as_array().into_iter().flatten() {
        let number = |name: &str| row[name].as_u64().unwrap_or(0);
        let durable = row["durable_at"].as_str().unwrap_or("never 从未");
        // Writing to a String does not fail.
        let _ = writeln!(
            lines,
            "{:<40} {:<26} version 版本 {} of 共 {}, behind 落后 {}, durable 落盘 {durable}",
            text(row, "agent"),
            text(row, "entry"),
            number("version"),
            number("latest"),
            number("behind"),
        );
    }
    if lines.is_empty() { "no such subscription 无此类订阅".into() } else { lines }
}

/// Approvals of renewal, a line each.
pub(super) fn renewals(value: &Value) -> String {
    let mut lines = String::new();
    for renewal in value.as_array().into_iter().flatten() {
        let (id, status, until) = (text(renewal, "id"), text(renewal, "status"), text(renewal, "expires_at"));
        // Writing to a String does not fail.
        let _ = writeln!(lines, "{id:<40} {status:<9} until 至 {until}");
    }
    if lines.is_empty() { "no renewal was approved 尚无续期批准".into() } else { lines }
}

/// Findings, a line each.
pub(super) fn findings(value: &Value) -> String {
    let mut lines = String::new();
    for finding in value.as_array().into_iter().flatten() {
        let cut = finding["cut"]["what"].as_str().map(|what| format!("  cut 已阻断 {what}")).unwrap_or_default();
        let by =
            finding["cut"]["confirm_by"].as_str().map(|by| format!(", confirm by 须确认 {by}")).unwrap_or_default();
        // Writing to a String does not fail.
        let _ = writeln!(
            lines,
            "{}  {:<9} {:<20} {}  x{}{cut}{by}\n    {}",
            text(finding, "id"),
            text(finding, "status"),
            text(finding, "rule"),
            finding["agent"].as_str().map_or_else(|| text(finding, "agency"), str::to_owned),
            finding["count"],
            text(finding, "text"),
        );
    }
    if lines.is_empty() { "nothing found 无线索".into() } else { lines }
}

/// One finding with its evidence.
pub(super) fn finding(value: &Value) -> String {
    let mut lines = findings(&Value::Array(vec![value.clone()]));
    let mut line = |name: &str, what: &str| {
        if !what.is_empty() && what != "null" {
            // Writing to a String does not fail.
            let _ = writeln!(lines, "{name}: {what}");
        }
    };
    line("what 内容", &format!("{} / {}", text(value, "title"), text(value, "text_zh")));
    line("article 条款", &text(value, "article"));
    for name in ["grant", "entry", "provider", "agency", "opened_at", "last_at"] {
        line(name, &text(value, name));
    }
    line("counts 数值", &value["counts"].to_string());
    line("standing order 常设授权", value["cut"]["order"].as_str().unwrap_or_default());
    if value["observations_dropped"].as_u64().unwrap_or(0) > 0 {
        line("observations dropped before 此前丢弃的观测", &value["observations_dropped"].to_string());
    }
    for shown in value["shown"].as_array().into_iter().flatten() {
        let parts = ["at", "what", "outcome", "address"].map(|name| text(shown, name));
        line("seen 观测", &parts.join("  "));
    }
    if value["said"].is_object() {
        line(
            "said 结论",
            &format!(
                "{} by {} at {}",
                text(&value["said"], "reason"),
                text(&value["said"], "by"),
                text(&value["said"], "at")
            ),
        );
    }
    line("next 下一步", &format!("{}\n{}", text(&value["next"], "en"), text(&value["next"], "zh")));
    lines
}

/// What a check found.
pub(super) fn check(value: &Value) -> String {
    let mut lines = format!(
        "gateway {} of {}: all that the root signed stands 签署内容完好\n{} agencies, {} officers, {} entries, {} grants\n",
        text(value, "id"),
        text(value, "domain"),
        value["agencies"],
        value["officers"],
        value["entries"],
        value["grants"],
    );
    let gate = &value["gate"];
    match gate["open"].as_bool() {
        Some(true) => lines.push_str("the gate is open 正在放行\n"),
        Some(false) => {
            let (en, zh) = (text(&gate["means"], "en"), text(&gate["means"], "zh"));
            let _ = writeln!(lines, "the gate is CLOSED 已停止放行: {}\n  {en}\n  {zh}", text(gate, "why"));
        }
        None => lines.push_str("no gateway runs on this folder 网关未运行\n"),
    }
    for stop in value["stops"].as_array().into_iter().flatten() {
        let _ = writeln!(
            lines,
            "stopped 已阻断{}: {} since {}: {}",
            if stop["unrecorded"] == true { " (not recorded yet 尚未入账)" } else { "" },
            text(stop, "id"),
            text(stop, "since"),
            text(stop, "reason")
        );
    }
    lines
}
