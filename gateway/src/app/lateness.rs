//! Every few minutes: which subscriptions lack a version for longer than they may. Each is a finding (article 39), once for as
//! long as it stands open.

use crate::flow::Flow;
use crate::flow::late::Late;
use crate::metrics;
use crate::registry::Registry;
use crate::registry::RegistryError;
use crate::registry::finding::{Evidence, Suspected};
use lingqu_protocol::misuse::{Action, Rule};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks: hours are what lateness is counted in.
const EVERY: Duration = Duration::from_secs(600);

const HOUR_MS: i64 = 3600 * 1000;

/// Looks, for ever. `hours` of 0 looks for nothing.
pub(super) async fn run(flow: Arc<Flow>, registry: Arc<Registry>, hours: u32) {
    if hours == 0 {
        return;
    }
    let mut tick = tokio::time::interval(EVERY);
    loop {
        tick.tick().await;
        match flow.late(i64::from(hours) * HOUR_MS).await {
            Ok(late) => {
                metrics::backflow_late(late.len());
                for one in late {
                    if let Err(error) = found(&registry, &one, hours).await {
                        tracing::error!(%error, "a late subscription could not be written down; the next look does");
                    }
                }
            }
            Err(error) => tracing::error!(%error, "late subscriptions could not be looked for"),
        }
    }
}

async fn found(registry: &Registry, late: &Late, hours: u32) -> Result<(), RegistryError> {
    let behind = late.latest.saturating_sub(late.version);
    let suspected = Suspected {
        rule: Rule::BackflowLate,
        action: Action::Warn,
        observe_only: false,
        agent: Some(late.agent.clone()),
        agency: late.agent.agency,
        grant: None,
        entry: Some(late.entry),
        provider: None,
        evidence: Evidence {
            text: format!(
                "subscription {} has version {} of {} durable; version {} has waited for more than {hours} h",
                late.id,
                late.version,
                late.latest,
                late.version + 1
            ),
            text_zh: format!(
                "回流订阅 {} 已落地版本 {}，最新版本 {}，下一版本等待超过 {hours} 小时",
                late.id, late.version, late.latest
            ),
            counts: vec![("versions_behind".into(), behind), ("waited_hours".into(), late.waited_ms / HOUR_MS as u64)],
            shown: Vec::new(),
            dropped: 0,
        },
    };
    if registry.suspect_once(suspected).await? {
        metrics::finding(Rule::BackflowLate.code(), Action::Warn.word());
        tracing::warn!(subscription = %late.id, agent = %late.agent, entry = %late.entry, behind, "backflow is late");
    }
    Ok(())
}
