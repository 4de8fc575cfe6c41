//! The registry: who takes part, what can be shared, who asked for what, and what was granted.
//!
//! The machines ([`agency`], [`officer`], [`invitation`], [`agent`], [`entry`], [`application`], [`grant`], [`stop`]) are
//! pure: what stands now, a command, who and when give what stands next and a [`fact`] for the ledger, or a refusal that
//! says whose fault it is. A service puts them to work: transition, one commit of records and leaves, then publish to
//! the gate. What narrows is published first and committed after.

pub mod agency;
pub mod agent;
pub mod application;
pub mod entry;
pub mod error;
pub mod fact;
pub mod grant;
pub mod invitation;
pub mod officer;
pub mod stop;
pub mod text;

pub use error::{Refusal, RegistryError};
