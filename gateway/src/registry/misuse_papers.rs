//! Signed documents about misuse: standing orders, their withdrawal, and what an office head says of a finding.

use super::error::{Refusal, RegistryError};
use super::fact::Actor;
use super::finding::Finding;
use super::findings::voice_of;
use super::order::StandingOrder;
use super::papers::{OpenedOrSeen, Taken, speaks_for};
use super::service::{Found, Registry, Tx};
use crate::state::Expect;
use lingqu_protocol::documents::{FindingActBody, OrderWithdrawalBody, StandingOrderBody};
use serde_json::json;

impl Registry {
    pub(super) async fn issue_order(&self, opened: OpenedOrSeen<StandingOrderBody>) -> Result<Taken, RegistryError> {
        let signed = match opened {
            OpenedOrSeen::Seen(taken) => return Ok(taken),
            OpenedOrSeen::Opened(signed) => signed,
        };
        let body = signed.body();
        speaks_for(&body.agency, &signed.agency)?;
        let document = (signed.opened.document.id, signed.digest());
        let (order, fact) = StandingOrder::issue(body, &signed.agency, document, signed.now)?;
        if self.find::<StandingOrder>(&order.id.to_string()).await?.is_some() {
            return Err(Refusal::IdTaken(order.id.to_string()).into());
        }
        let mut tx = Tx::default();
        tx.put(&order, Expect::Absent, signed.now)?;
        let answer = json!({ "id": order.id, "status": order.status(signed.now), "digest": order.digest });
        self.finish(tx, &signed, &fact, answer).await
    }

    pub(super) async fn withdraw_order(
        &self,
        opened: OpenedOrSeen<OrderWithdrawalBody>,
    ) -> Result<Taken, RegistryError> {
        let signed = match opened {
            OpenedOrSeen::Seen(taken) => return Ok(taken),
            OpenedOrSeen::Opened(signed) => signed,
        };
        let body = signed.body();
        let unknown = || Refusal::not_found("standing order", &body.order.to_string());
        let current: Found<StandingOrder> = self.find(&body.order.to_string()).await?.ok_or_else(unknown)?;
        // Who gave it takes it back, and the authority may; to others it does not exist.
        if current.thing.issuer != signed.agency.code && !signed.agency.authority {
            return Err(unknown().into());
        }
        let (order, fact) = current.thing.withdraw(signed.predecessor(), signed.digest(), &body.reason, signed.now)?;
        let mut tx = Tx::default();
        tx.put(&order, current.expect, signed.now)?;
        let answer = json!({ "id": order.id, "status": order.status(signed.now) });
        self.finish(tx, &signed, &fact, answer).await
    }

    pub(super) async fn say_signed(&self, opened: OpenedOrSeen<FindingActBody>) -> Result<Taken, RegistryError> {
        let signed = match opened {
            OpenedOrSeen::Seen(taken) => return Ok(taken),
            OpenedOrSeen::Opened(signed) => signed,
        };
        let body = signed.body();
        let unknown = || Refusal::not_found("finding", &body.finding.to_string());
        let found: Found<Finding> = self.find(&body.finding.to_string()).await?.ok_or_else(unknown)?;
        self.may_say(&found.thing, &signed.agency)?;
        let voice = voice_of(&signed.agency, Actor::Agent(signed.peer.clone()), signed.digest());
        let mut tx = Tx::default();
        let finding = self.say_into(&mut tx, found, body.act, &body.reason, &voice, signed.now).await?;
        let answer = json!({ "id": finding.id, "status": finding.status.word() });
        let taken = self.keep(tx, &signed, answer).await?;
        self.ended(&finding);
        Ok(taken)
    }
}
