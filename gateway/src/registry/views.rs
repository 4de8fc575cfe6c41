//! The JSON that people's programs read. Its shapes are part of the contract: fields are added, never changed.

use super::agency::Agency;
use super::application::{Application, ApplicationStatus};
use super::entry::{Entry, Latest};
use super::grant::{Grant, GrantStatus};
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
