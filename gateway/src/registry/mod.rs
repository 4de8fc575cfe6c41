//! The registry: who takes part, what can be shared, who asked for what, and what was granted.
//!
//! The machines ([`agency`], [`officer`], [`invitation`], [`renewal`], [`agent`], [`entry`], [`application`], [`grant`], [`stop`]) are
//! pure: what stands now, a command, who and when give what stands next and a [`fact`] for the ledger, or a refusal that
//! says whose fault it is. [`Registry`] puts them to work: transition, one commit of records and leaves, then publish to
//! the gate. What narrows is published first and committed after.

pub mod agency;
pub mod agent;
pub mod application;
pub mod backflow;
mod backflow_papers;
mod cuts;
mod cutting;
pub mod entry;
pub mod error;
pub mod fact;
pub mod finding;
mod findings;
pub mod grant;
pub mod invitation;
mod leaf;
mod misuse_papers;
pub mod officer;
mod operator;
pub mod order;
pub mod paper;
mod papers;
mod people;
pub mod port;
mod publish;
mod reads;
pub mod record;
pub mod renewal;
mod renewals;
pub mod service;
pub mod stop;
pub mod terms;
pub mod text;
mod views;

pub use error::{Refusal, RegistryError};
pub use operator::INVITATION_TTL_MS_MAX;
pub use papers::Taken;
pub use people::Certified;
pub use port::{Publish, Update};
pub use reads::{PAGE_RECORDS_MAX, Page};
pub use renewals::{OpenRenewals, RENEWAL_TTL_MS_MAX};
pub use service::{Identity, OpenInvitations, Registry};

#[cfg(test)]
pub(crate) mod tests;
