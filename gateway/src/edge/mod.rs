//! Where peers arrive: [`endpoint`] accepts connections under limits and finds out who calls, [`session`] takes their
//! requests one by one to the gate and on, [`close`] turns every error into what the peer is told.

pub mod close;
pub mod endpoint;
pub mod operation;
pub mod session;
mod watching;
pub mod windows;
