//! A fact as a leaf of the ledger: what is not personal in clear, the reason behind a salted commitment.

use super::error::RegistryError;
use super::fact::{Actor, Fact};
use crate::state::NewLeaf;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::host::{Entropy, Timestamp};
use serde_json::json;

/// Bytes of a salt: as many as the digest that it hides behind.
const SALT_BYTES: usize = 32;

/// The leaf of `fact`, done by `by` at `now`.
///
/// # Errors
/// When the system's randomness fails.
pub(super) fn of(fact: &Fact, by: &Actor, now: Timestamp, entropy: &dyn Entropy) -> Result<NewLeaf, RegistryError> {
    let mut salt = vec![0; SALT_BYTES];
    entropy.fill(&mut salt).map_err(|e| RegistryError::Ours(format!("no randomness: {e}")))?;
    let payload = fact.reason.clone().unwrap_or_default().into_bytes();
    let mut committed = salt.clone();
    committed.extend_from_slice(&payload);
    let by = match by {
        Actor::Operator => "operator".to_owned(),
        Actor::Agent(agent) => agent.to_string(),
    };
    let leaf = json!({
        "at": now.0,
        "act": fact.act.word(),
        "subject": fact.subject,
        "object": fact.object,
        "agency": fact.agency.map(|a| a.to_string()),
        "document": fact.document,
        "by": by,
        "commitment": Digest::sha256(&committed),
    });
    Ok(NewLeaf { bytes: leaf.to_string().into_bytes(), salt, payload })
}
