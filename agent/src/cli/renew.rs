//! `renew`.

use super::App;
use crate::connect::{self, Backoff, Link};
use crate::error::AgentError;
use serde_json::json;

/// Works with an expired certificate too, where the operator approved it.
pub(super) async fn renew(app: &App) -> Result<(), AgentError> {
    let link = Link::new(app.machine.clone(), app.profile()?).without_renewal();
    let session = link.open(Backoff::COMMAND).await?;
    let renewed = connect::renew(&link, &session).await;
    session.close();
    link.goodbye().await;
    renewed?;
    let validity = link.profile().validity()?;
    let agent = link.profile().settings().agent.to_string();
    let made = json!({ "id": agent, "from": validity.from.to_rfc3339(), "until": validity.until.to_rfc3339() });
    app.output
        .say(&made, |o| format!("{}: {agent}, {}", o.pick("renewed until", "证书已更新，有效期至"), validity.until))
}
