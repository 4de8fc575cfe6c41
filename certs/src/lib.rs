//! Identity, and the real adapters to the machine.
//!
//! Keys are made where they are used; what an agent is called stands in its certificate, what it may do does not.
//! [`ca`] signs names of agents and of the gateway, [`root`] and [`officer`] sign documents, [`tls`] and [`quic`] let only
//! those names talk. [`os`] is the clock, the entropy and the disk that the two programs are given.
//!
//! Non-goals: who may do what (the gateway's registry), and when to renew or reload (the programs).

pub mod ca;
pub mod chain;
pub mod document;
pub mod invitation;
pub mod joining;
pub mod key;
pub mod memory;
pub mod moments;
pub mod officer;
pub mod os;
pub mod profile;
pub mod quic;
pub mod receipt;
pub mod root;
pub mod tls;

#[cfg(test)]
mod channel_tests;
#[cfg(test)]
mod resets_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod testing;
