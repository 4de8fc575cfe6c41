//! The programs as people run them, from end to end: exact data, not just exit codes.

mod backflow;
mod batches;
mod closed;
mod commands;
mod control;
mod dirty;
mod files;
mod formats;
mod lookups;
mod misuse;
mod receipts;
mod receiving;
mod renewal;
mod scopes;
mod top;
mod transfers;
mod versions;
mod watching;

use lingqu_tests::world::{Granted, Ran, World};
use std::path::Path;

/// Pushes rows of the provider's.
fn push_rows(world: &World, at: &Granted, file: &Path, more: &[&str]) -> Ran {
    let args = ["push", "batch", &at.entry, file.to_str().unwrap()];
    world.provider.agent.run([&args, more].concat())
}
