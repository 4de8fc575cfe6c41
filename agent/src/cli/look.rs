//! Looking: lists, single things, and this agent itself.

use super::App;
use super::args::ShowEntryArgs;
use crate::error::AgentError;
use crate::output::{Output, Table, clean};
use crate::records::{self, Kind};
use lingqu_certs::profile::Profile;
use lingqu_protocol::host::Timestamp;
use serde_json::{Value, json};

/// A column of a list: the record's field, and its heading in both languages.
type Column = (&'static str, &'static str, &'static str);

const fn columns(kind: Kind) -> &'static [Column] {
    const ID: Column = ("id", "id", "标识");
    const STATUS: Column = ("status", "status", "状态");
    const ENTRY: Column = ("entry", "entry", "目录条目");
    const REQUESTER: Column = ("requester", "requester", "需求部门");
    const PROVIDER: Column = ("provider", "provider", "提供部门");
    const NAME: Column = ("name", "name", "名称");
    match kind {
        Kind::Catalogue => &[ID, ("code", "code", "代码"), NAME, ("format", "format", "格式"), STATUS, PROVIDER],
        Kind::Application => &[ID, STATUS, ENTRY, REQUESTER, PROVIDER, ("grant", "grant", "共享权限")],
        Kind::Grant => &[ID, STATUS, ENTRY, REQUESTER, PROVIDER, ("until", "until", "截止")],
        Kind::Finding => &[
            ID,
            STATUS,
            ("rule", "rule", "规则"),
            ("agency", "about", "涉及部门"),
            ("grant", "grant", "共享权限"),
            ("action", "action", "处置"),
            ("text", "what", "内容"),
        ],
        Kind::StandingOrder => &[
            ID,
            STATUS,
            ("issuer", "by", "签发部门"),
            ("rules", "rules", "规则"),
            ("strongest", "strongest", "最强处置"),
            ("until", "until", "截止"),
        ],
        Kind::BackflowList => &[
            ID,
            STATUS,
            NAME,
            ("issuer", "by", "公布部门"),
            ("rows_count", "rows", "条数"),
            ("published_at", "since", "时间"),
        ],
        Kind::Inbox => &[ID, ("act", "to do", "待办"), STATUS, NAME, ENTRY, REQUESTER],
        Kind::Status => &[ID, STATUS],
        Kind::Version => &[
            ("version", "version", "版本"),
            ("rows", "rows", "行数"),
            ("bytes", "bytes", "字节"),
            ("rows_digest", "rows_digest", "数据行摘要"),
            ("committed_at", "since", "时间"),
        ],
        Kind::Reconcile => {
            &[("region", "region", "行政区划"), ("rows", "rows", "行数"), ("rows_digest", "rows_digest", "数据行摘要")]
        }
        Kind::VersionRegion => &[ID, NAME, ("rows", "rows", "行数"), ("rows_digest", "rows_digest", "数据行摘要")],
    }
}

/// `… list`, `inbox`.
pub(super) async fn list(app: &App, kind: Kind) -> Result<(), AgentError> {
    let records = app.with_session(async |session| records::all(session, kind).await).await?;
    app.output.say(&Value::Array(records.clone()), |output| table(output, kind, &records))
}

/// `… show`.
pub(super) async fn show(app: &App, kind: Kind, id: &str) -> Result<(), AgentError> {
    let record = app.with_session(async |session| records::one(session, kind, id).await).await?;
    app.output.say(&record, |_| described(&record))
}

/// `catalogue show`: an entry, its versions, or the regions of one.
pub(super) async fn show_entry(app: &App, args: &ShowEntryArgs) -> Result<(), AgentError> {
    let (kind, id) = match args.version {
        Some(version) => (Kind::VersionRegion, format!("{}@{version}", args.id)),
        None if args.versions => (Kind::Version, args.id.clone()),
        None => return show(app, Kind::Catalogue, &args.id).await,
    };
    let records = app.with_session(async |session| records::all_of(session, kind, &id).await).await?;
    app.output.say(&Value::Array(records.clone()), |output| table(output, kind, &records))
}

/// `status`.
pub(super) async fn status(app: &App) -> Result<(), AgentError> {
    let profile = app.profile()?;
    let (record, greeting) = app
        .with_session(async |session| {
            let record = records::one(session, Kind::Status, "").await?;
            Ok((record, session.greeting().clone()))
        })
        .await?;
    let made = json!({
        "id": profile.settings().agent.to_string(),
        "gateway": greeting.gateway,
        "domain": greeting.domain,
        "address": profile.settings().address,
        "address_seen": greeting.address_seen,
        "clock_difference_ms": greeting.clock_difference_ms,
        "certificate": certificate(&profile, app.machine.clock.wall())?,
        "at_gateway": record,
    });
    app.output.say(&made, |_| described(&made))
}

/// The certificate's period, and the days that are left.
pub(super) fn certificate(profile: &Profile, now: Timestamp) -> Result<Value, AgentError> {
    let validity = profile.validity()?;
    Ok(json!({
        "from": validity.from.to_rfc3339(),
        "until": validity.until.to_rfc3339(),
        "days_left": days_left(validity.until, now),
    }))
}

/// Whole days until `until`; negative when it is over.
pub(super) fn days_left(until: Timestamp, now: Timestamp) -> i64 {
    until.0.saturating_sub(now.0).div_euclid(24 * 60 * 60 * 1000)
}

fn table(output: &Output, kind: Kind, records: &[Value]) -> String {
    if records.is_empty() {
        return output.pick("nothing", "无").to_owned();
    }
    let columns = columns(kind);
    let mut table = Table::new(columns.iter().map(|(_, en, zh)| output.pick(en, zh)));
    for record in records {
        table.row(columns.iter().map(|(field, ..)| cell(record.get(*field))));
    }
    table.render()
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// A record for people: a line a field, and texts of several lines as they are, below.
fn described(record: &Value) -> String {
    let Value::Object(fields) = record else { return cell(Some(record)) };
    let (mut lines, mut texts) = (String::new(), String::new());
    for (name, value) in fields {
        match value {
            Value::Null => {}
            Value::String(text) if text.contains('\n') => {
                texts.push_str(&format!("\n-- {name} --\n"));
                text.lines().for_each(|line| texts.push_str(&(clean(line) + "\n")));
            }
            Value::Object(_) => {
                lines.push_str(&format!("{name}:\n"));
                described(value).lines().for_each(|line| lines.push_str(&format!("  {line}\n")));
            }
            value => lines.push_str(&format!("{name}: {}\n", clean(&cell(Some(value))))),
        }
    }
    lines + &texts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Language;

    #[test]
    fn a_list_for_people_has_headings_in_their_language() {
        let records = [json!({"id": "entry-1", "name": "个体工商户", "status": "published", "more": 1})];
        let of = |language| table(&Output { json: false, language }, Kind::Catalogue, &records);
        let zh = of(Language::Chinese);
        assert!(zh.starts_with("标识"), "{zh}");
        assert!(zh.contains("个体工商户"), "{zh}");
        assert!(zh.lines().nth(1).is_some_and(|line| line.contains("  -  ")), "what is not there is a dash: {zh}");
        assert!(of(Language::English).starts_with("id"));
        assert_eq!(table(&Output { json: false, language: Language::English }, Kind::Grant, &[]), "nothing");
    }

    #[test]
    fn a_record_is_described_whole_and_clean() {
        let record = json!({
            "id": "x", "none": null, "n": 3, "scope": {"columns": ["a"], "where": "b = '\u{1b}'"},
            "toml": "name = \"x\"\nbad = \"\u{202e}\"\n",
        });
        let text = described(&record);
        assert!(text.contains("id: x\n") && text.contains("n: 3\n"), "{text}");
        assert!(text.contains("scope:\n  columns: [\"a\"]\n"), "{text}");
        assert!(text.ends_with("-- toml --\nname = \"x\"\nbad = \"\u{fffd}\"\n"), "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains("none"), "{text}");
    }

    #[test]
    fn days_are_whole_and_may_be_over() {
        let day = 24 * 60 * 60 * 1000;
        assert_eq!(days_left(Timestamp(3 * day), Timestamp(day / 2)), 2);
        assert_eq!(days_left(Timestamp(0), Timestamp(1)), -1);
    }
}
