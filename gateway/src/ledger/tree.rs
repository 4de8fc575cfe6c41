//! Roots and proofs from the hashes that the state stores.

use super::LedgerError;
use crate::state::{LEDGER_ALGORITHM, State, StateError};
use lingqu_protocol::merkle::{Hash, Plan, empty_root};

pub(super) async fn root(state: &dyn State, size: u64) -> Result<Hash, LedgerError> {
    let Some(plan) = Plan::root(size) else { return Ok(empty_root(LEDGER_ALGORITHM)) };
    let root = read(state, &plan).await?.pop();
    root.ok_or_else(|| StateError::Damaged(format!("no root for {size} leaves")).into())
}

pub(super) async fn inclusion(state: &dyn State, index: u64, size: u64) -> Result<Vec<Hash>, LedgerError> {
    within(state, index, size).await?;
    let plan = Plan::inclusion(index, size).ok_or(LedgerError::NoLeaf { index, size })?;
    read(state, &plan).await
}

pub(super) async fn consistency(state: &dyn State, old_size: u64, size: u64) -> Result<Vec<Hash>, LedgerError> {
    within(state, old_size, size).await?;
    let plan = Plan::consistency(old_size, size).ok_or(LedgerError::NoLeaf { index: old_size, size })?;
    read(state, &plan).await
}

/// A size that the ledger does not have is the caller's fault; a hash that is missing below it is ours.
async fn within(state: &dyn State, index: u64, size: u64) -> Result<(), LedgerError> {
    if size > state.head().await?.size { Err(LedgerError::NoLeaf { index, size }) } else { Ok(()) }
}

async fn read(state: &dyn State, plan: &Plan) -> Result<Vec<Hash>, LedgerError> {
    let hashes = state.hashes(&plan.nodes()).await?;
    let combined = plan.combine(LEDGER_ALGORITHM, &hashes);
    combined.ok_or_else(|| StateError::Damaged("other hashes than were asked for".into()).into())
}
