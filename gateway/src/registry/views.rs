//! The JSON that people's programs read. Its shapes are part of the contract: fields are added, never changed.

use super::agency::Agency;
use super::application::{Application, ApplicationStatus};
use super::entry::{Entry, Latest};
use super::finding::{Finding, FindingStatus, Said};
use super::grant::{Grant, GrantStatus};
use super::order::StandingOrder;
use super::stop::Stop;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::scope::{PSEUDONYM_ALGORITHM, Scope, Transform};
use serde_json::{Value, json};

/// An agency.
pub(super) fn agency(agency: &Agency) -> Value {
    json!({
        "id": agency.code.to_string(),
        "name": agency.name,
        "region": agency.region.to_string(),
        "level": agency.level.as_str(),
        "duties": agency.duties,
        "parent": agency.parent.map(|p| p.to_string()),
        "authority": agency.authority,
        "digest": agency.digest,
    })
}

/// A catalogue entry with the terms in `spec`. Only who `knows` of texts that are not in force learns of the latest.
pub(super) fn entry(entry: &Entry, spec: &EntrySpec, knows: bool) -> Value {
    let version = match (&entry.published, knows) {
        (Some(published), false) => published.version,
        _ => entry.latest,
    };
    let mut json = json!({
        "id": entry.id,
        "code": entry.code.as_ref().map(ToString::to_string),
        "name": spec.name,
        "provider": entry.provider.to_string(),
        "status": entry.status(),
        "version": version.number,
        "digest": version.digest,
        "submitted_at": version.at.to_rfc3339(),
        "published_at": entry.published.as_ref().map(|p| p.since.to_rfc3339()),
        "format": spec.format.as_str(),
        "sharing_class": spec.sharing_class.as_str(),
        "sharing_methods": spec.sharing_methods.iter().map(|m| m.as_str()).collect::<Vec<_>>(),
        "update_frequency": spec.update_frequency.as_str(),
        "grade": spec.grade.as_str(),
    });
    if let (Some(fields), true) = (json.as_object_mut(), knows) {
        let (word, why) = match &entry.is {
            Latest::Published => ("published", None),
            Latest::Submitted => ("submitted", None),
            Latest::Returned { why, .. } => ("returned", Some(why.clone())),
        };
        fields.insert("latest".into(), word.into());
        fields.insert("why".into(), why.into());
    }
    json
}

/// An application.
pub(super) fn application(application: &Application) -> Value {
    let (grant, why, at) = match &application.status {
        ApplicationStatus::Submitted => (None, None, None),
        ApplicationStatus::Approved { grant, at, .. } => (Some(grant.to_string()), None, Some(at)),
        ApplicationStatus::Refused { why, at, .. } => (None, Some(why.clone()), Some(at)),
    };
    json!({
        "id": application.id,
        "status": application.status.word(),
        "entry": application.entry,
        "requester": application.requester.to_string(),
        "provider": application.provider.to_string(),
        "digest": application.digest,
        "submitted_at": application.submitted_at.to_rfc3339(),
        "answered_at": at.map(|at| at.to_rfc3339()),
        "grant": grant,
        "why": why,
    })
}

/// A grant, as its status reads now.
pub(super) fn grant(grant: &Grant, scope: &Scope, now: Timestamp) -> Value {
    let (reason, since) = match &grant.status {
        GrantStatus::InForce => (None, None),
        GrantStatus::Suspended { reason, since, .. } | GrantStatus::Terminated { reason, since } => {
            (Some(reason.clone()), Some(since.to_rfc3339()))
        }
    };
    let rectify = match &grant.status {
        GrantStatus::Suspended { rectify: Some(order), .. } => json!({
            "by": order.by,
            "reason": order.reason,
            "ordered_at": order.ordered_at.to_rfc3339(),
            "overdue": order.is_overdue(now),
        }),
        _ => Value::Null,
    };
    let status = match &grant.status {
        GrantStatus::InForce if now < scope.starts_at() => "not_yet",
        GrantStatus::InForce if now >= scope.ends_at() => "expired",
        other => other.word(),
    };
    json!({
        "id": grant.id,
        "status": status,
        "entry": grant.entry,
        "application": grant.application,
        "requester": grant.requester.to_string(),
        "provider": grant.provider.to_string(),
        "from": scope.from.to_string(),
        "until": scope.until.to_string(),
        "digest": grant.digest,
        "made_at": grant.made_at.to_rfc3339(),
        "reason": reason,
        "since": since,
        "rectify": rectify,
    })
}

/// What a grant gives.
pub(super) fn scope(scope: &Scope) -> Value {
    let transforms: serde_json::Map<String, Value> =
        scope.transforms.iter().map(|(name, transform)| (name.to_owned(), transform.to_string().into())).collect();
    let pseudonyms = scope.transforms.iter().any(|(_, transform)| transform == Transform::Pseudonym);
    json!({
        "columns": scope.columns,
        "transforms": (!transforms.is_empty()).then_some(transforms),
        "pseudonym_algorithm": pseudonyms.then_some(PSEUDONYM_ALGORITHM),
        "where": scope.rows.as_ref().map(ToString::to_string),
        "regions": scope.regions.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "purposes": scope.purposes,
        "methods": scope.methods.iter().map(|m| m.as_str()).collect::<Vec<_>>(),
        "agents": scope.agents.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "networks": scope.networks.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "from": scope.from.to_string(),
        "until": scope.until.to_string(),
        "volume_bytes_max": scope.volume_bytes_max,
        "rate_bytes_per_second_max": scope.rate_bytes_per_second_max,
        "requests_per_day_max": scope.requests_per_day_max,
    })
}

/// Something that waits for an act.
pub(super) fn waiting(act: &str, mut of: Value) -> Value {
    if let Some(fields) = of.as_object_mut() {
        fields.insert("act".into(), act.into());
    }
    of
}

/// A finding.
pub(super) fn finding(finding: &Finding) -> Value {
    let of = &finding.suspected;
    let said = |said: &Said| json!({ "by": said.by, "reason": said.reason, "at": said.at.to_rfc3339(), "document": said.document });
    let (said, ended_at) = match &finding.status {
        FindingStatus::Open => (Value::Null, None),
        FindingStatus::Confirmed(what) | FindingStatus::Lifted(what) => (said(what), Some(what.at)),
        FindingStatus::Expired { at } => (Value::Null, Some(*at)),
    };
    let counts: serde_json::Map<String, Value> =
        of.evidence.counts.iter().map(|(name, count)| (name.clone(), (*count).into())).collect();
    let shown = of
        .evidence
        .shown
        .iter()
        .map(|s| json!({ "at": s.at.to_rfc3339(), "what": s.what, "outcome": s.outcome, "address": s.address }));
    json!({
        "id": finding.id,
        "status": finding.status.word(),
        "rule": of.rule,
        "title": of.rule.title(),
        "title_zh": of.rule.title_zh(),
        "article": of.rule.article(),
        "agency": of.agency.to_string(),
        "agent": of.agent.as_ref().map(ToString::to_string),
        "grant": of.grant,
        "entry": of.entry,
        "provider": of.provider.map(|p| p.to_string()),
        "action": of.action,
        "observe_only": of.observe_only,
        "cut": finding.cut.as_ref().map(|cut| json!({
            "what": cut.selector.to_string(),
            "order": cut.order,
            "confirm_by": cut.confirm_by.map(|by| by.to_rfc3339()),
        })),
        "text": of.evidence.text,
        "text_zh": of.evidence.text_zh,
        "counts": counts,
        "shown": shown.collect::<Vec<_>>(),
        "observations_dropped": of.evidence.dropped,
        "count": finding.count,
        "opened_at": finding.opened_at.to_rfc3339(),
        "last_at": finding.last_at.to_rfc3339(),
        "said": said,
        "ended_at": ended_at.map(|at| at.to_rfc3339()),
        "next": next_of(finding),
    })
}

/// What can be done with a finding now, by whom, in both languages.
fn next_of(finding: &Finding) -> Value {
    let (en, zh) = match (&finding.status, &finding.cut) {
        (FindingStatus::Open, Some(cut)) => match cut.confirm_by {
            Some(by) => (
                format!("confirm or lift it by {by}, or the cut is lifted by itself; the requester says what happened"),
                format!("请于 {by} 前确认或解除，逾期阻断自动解除；需求部门请说明情况"),
            ),
            None => (
                "it acts under a standing order: confirm it, or lift it where it is wrong".to_owned(),
                "依常设授权阻断：请确认；有误的请解除".to_owned(),
            ),
        },
        (FindingStatus::Open, None) => {
            ("look at it, then confirm or lift it".to_owned(), "请核查后确认或解除".to_owned())
        }
        (FindingStatus::Confirmed(_), Some(_)) => (
            "suspend the grant and order rectification (lingqu grant rectify), then lift the finding with a signature"
                .to_owned(),
            "请依法暂停共享权限并责令限期整改（lingqu grant rectify），整改后签署解除".to_owned(),
        ),
        _ => (String::new(), String::new()),
    };
    json!({ "en": en, "zh": zh })
}

/// A standing order, as its status reads now.
pub(super) fn order(order: &StandingOrder, now: Timestamp) -> Value {
    json!({
        "id": order.id,
        "status": order.status(now),
        "issuer": order.issuer.to_string(),
        "reaches": if order.authority { "all" } else { "own" },
        "rules": order.rules,
        "strongest": order.strongest,
        "until": order.until,
        "reason": order.reason,
        "digest": order.digest,
        "issued_at": order.issued_at.to_rfc3339(),
        "withdrawn_at": order.withdrawn.as_ref().map(|(at, _)| at.to_rfc3339()),
        "withdrawn_why": order.withdrawn.as_ref().map(|(_, why)| why.clone()),
    })
}

/// A stop that stands over a grant, for both of its sides.
pub(super) fn stop(stop: &Stop) -> Value {
    json!({
        "what": stop.selector.to_string(),
        "reason": stop.reason,
        "since": stop.since.to_rfc3339(),
        "finding": stop.by_rule.map(|by| by.finding),
        "confirm_by": stop.by_rule.and_then(|by| by.confirm_by).map(|by| by.to_rfc3339()),
    })
}
