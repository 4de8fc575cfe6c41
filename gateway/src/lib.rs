//! The gateway: one request, one stream, one decision, one permit.
//!
//! Data path, imports one way: [`edge`] → [`gate`] → [`flow`] → [`lake`]. Control path, joined by channels:
//! request → [`registry`] → one transaction of [`state`] and [`ledger`] → publish snapshot → [`gate`].
//! Beside both, [`misuse`] watches what is asked and what passes, and cuts through [`registry`] as a person would.
//! Only [`app`] wires modules together.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod edge;
pub mod flow;
pub mod folder;
pub mod gate;
pub mod lake;
pub mod ledger;
pub mod metrics;
pub mod misuse;
pub mod registry;
pub mod state;
pub mod top;
