//! `push batch --check`: everything that would stop a push, as far as it shows before anything is sent.

use super::args::{BatchMode, PushBatchArgs};
use super::transfers::{Desk, how};
use super::{App, DONE};
use crate::batch::reject::SHOWN_MAX;
use crate::error::AgentError;
use crate::output::{Language, Output, clean};
use crate::records::{self, Kind};
use crate::upload::batch;
use crate::upload::check::{self, Aim, Checked, Judged, NAMED_MAX, Place, RegionLook, RuleLook};
use crate::upload::collect::collect_rows;
use lingqu_protocol::changes::changes_entry;
use serde_json::{Value, json};

/// The report first, and then, where not all may be sent, an error.
pub(super) async fn check(app: &App, args: &PushBatchArgs) -> Result<u8, AgentError> {
    let files = collect_rows(&args.paths)?;
    let count = files.len();
    let desk = Desk::new(app)?;
    let session = desk.link.open(crate::connect::Backoff::COMMAND).await?;
    let spec = batch::entry(&session, &args.entry).await?;
    let status = records::one(&session, Kind::Status, "").await?;
    session.close();
    desk.link.goodbye().await;
    let is_changes = args.mode == BatchMode::Changes;
    let spec = if is_changes { changes_entry(&spec) } else { spec };
    // A region that this program's table does not have is no reason not to look.
    let own = status.get("region").and_then(Value::as_str).and_then(|code| code.parse().ok());
    let how = how(args)?;
    let checked = check::check(&desk.env, spec, files, how.clone(), Aim { is_changes, own }).await?;
    let tally = &checked.tally;
    let refusal = checked.refusal();
    let valid = checked.failed.is_empty() && tally.is_allowed() && refusal.is_none();
    let faults: Vec<Value> = tally
        .first()
        .iter()
        .map(|named| {
            json!({
                "file": named.file, "line": named.cell.line, "column": named.cell.column, "value": named.cell.value,
                "outcome": named.cell.outcome.word(), "reason": named.cell.why.en, "reason_zh": named.cell.why.zh,
            })
        })
        .collect();
    let errors: Vec<Value> = checked.failed.iter().map(|e| e.to_json()["error"].clone()).collect();
    let summary = checked.summary.as_ref();
    let said = json!({
        "id": args.entry, "valid": valid, "files": count, "read": tally.read(), "rejected": tally.rejected(),
        "marked": tally.marked(), "rows": tally.read() - tally.rejected(),
        "rows_digest": summary.map(|s| s.rows_digest), "bytes": summary.map(|s| s.bytes), "faults": faults,
        "errors": errors, "reject_file": how.rejects.file,
        "quality": checked.rules.iter().map(rule_json).collect::<Vec<_>>(),
        "regions": checked.regions.as_ref().map(regions_json),
    });
    app.output.say(&said, |o| report(o, &checked, count))?;
    if let Some(error) = checked.failed.into_iter().next() {
        return Err(error);
    }
    match refusal {
        _ if !checked.tally.is_allowed() => Err(checked.tally.over()),
        Some(error) => Err(error),
        None => Ok(DONE),
    }
}

fn rule_json(rule: &RuleLook) -> Value {
    let (mut judged, mut checked, mut failed, mut rows, mut why) = ("here", None, None, Vec::new(), None);
    match &rule.judged {
        Judged::Here { checked: looked, failed: found, twice } => {
            (checked, failed) = (Some(*looked), Some(*found));
            rows =
                twice.iter().map(|row| json!({"at": place_json(&row.at), "same_as": place_json(&row.first)})).collect();
        }
        Judged::TooMany { rows } => checked = Some(*rows),
        Judged::AtGateway(text) => (judged, why) = ("gateway", Some(text)),
    }
    json!({
        "rule": rule.name, "check": rule.check, "on_failure": rule.on_failure.as_str(), "judged": judged,
        "checked": checked, "failed": failed, "rows": rows, "why": why.map(|w| &w.en), "why_zh": why.map(|w| &w.zh),
    })
}

fn place_json(place: &Place) -> Value {
    json!({"file": place.file, "line": place.line})
}

fn regions_json(look: &RegionLook) -> Value {
    let one = |(code, (rows, first)): (&String, &(u64, Place))| json!({"region": code, "rows": rows, "first": place_json(first)});
    json!({
        "column": look.item, "own": look.own.to_string(), "rows_outside": look.rows, "regions_outside": look.outside.len(),
        "outside": look.outside.iter().take(NAMED_MAX).map(one).collect::<Vec<_>>(),
    })
}

fn report(o: &Output, checked: &Checked, files: usize) -> String {
    let tally = &checked.tally;
    let counts = [
        (o.pick("files", "文件数"), files as u64),
        (o.pick("rows read", "读取行数"), tally.read()),
        (o.pick("rows that fit", "符合要求的行数"), tally.read() - tally.rejected()),
        (o.pick("rows that do not", "不符合要求的行数"), tally.rejected()),
        (o.pick("rows marked", "标记的行数"), tally.marked()),
    ];
    let mut text: String = counts.iter().map(|(name, n)| format!("{name}: {n}\n")).collect();
    let chinese = o.language == Language::Chinese;
    for error in &checked.failed {
        let told = error.told();
        let what = if chinese { &told.what.zh } else { &told.what.en };
        text.push_str(&format!("  {}\n", clean(what)));
    }
    for named in tally.first() {
        text.push_str(&format!("  {}\n", clean(&named.text(chinese))));
    }
    if tally.first().len() == SHOWN_MAX {
        text.push_str(o.pick("  and more: --reject FILE has all of them\n", "  ……其余见 --reject 指定的文件\n"));
    }
    checked.rules.iter().for_each(|rule| rule_lines(o, rule, &mut text));
    if let Some(look) = checked.regions.as_ref().filter(|look| look.rows > 0) {
        region_lines(o, look, &mut text);
    }
    text
}

fn rule_lines(o: &Output, rule: &RuleLook, text: &mut String) {
    let chinese = o.language == Language::Chinese;
    let name = clean(&format!("{} ({}, {})", rule.name, rule.check, rule.on_failure.as_str()));
    let said = match &rule.judged {
        Judged::Here { checked, failed, .. } if chinese => format!("在 {checked} 行中发现 {failed} 行"),
        Judged::Here { checked, failed, .. } => format!("finds {failed} of {checked} rows"),
        Judged::TooMany { rows } if chinese => format!("{rows} 行超过检查上限"),
        Judged::TooMany { rows } => format!("{rows} rows are more than it looks at"),
        Judged::AtGateway(why) if chinese => format!("推送时由网关检查，此处不作判断：{}", why.zh),
        Judged::AtGateway(why) => format!("judged at the gateway when it is pushed, and not here: {}", why.en),
    };
    text.push_str(&format!("{} {name}: {said}\n", o.pick("quality rule", "质量规则")));
    let Judged::Here { twice, failed, .. } = &rule.judged else { return };
    for row in twice {
        let (at, first) = (shown(o, &row.at), shown(o, &row.first));
        text.push_str(&format!("  {at}{}{first}\n", o.pick(" has the values of ", " 与下列行的值相同：")));
    }
    if *failed > twice.len() as u64 && !twice.is_empty() {
        text.push_str(o.pick("  and more\n", "  ……\n"));
    }
}

fn region_lines(o: &Output, look: &RegionLook, text: &mut String) {
    let (rows, item, own) = (look.rows, clean(&look.item), look.own);
    text.push_str(&match o.language {
        Language::Chinese => {
            format!("有 {rows} 行的 {item} 不在本部门行政区划 {own} 之内（网关不因此拒绝，请确认）：\n")
        }
        Language::English => format!(
            "rows of regions outside of your own, {own}: {rows} by {item} (nothing refuses them; look whether they are meant):\n"
        ),
    });
    for (code, (rows, first)) in look.outside.iter().take(NAMED_MAX) {
        text.push_str(&format!("  {}: {rows}{}{}\n", clean(code), o.pick(", first at ", "，首见于 "), shown(o, first)));
    }
    if look.outside.len() > NAMED_MAX {
        text.push_str(o.pick("  and more\n", "  ……\n"));
    }
}

fn shown(o: &Output, place: &Place) -> String {
    let (file, line) = (clean(&place.file.to_string_lossy()), place.line);
    match o.language {
        Language::Chinese => format!("{file} 第 {line} 行"),
        Language::English => format!("{file}: line {line}"),
    }
}
