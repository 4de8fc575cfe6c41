//! An agency's agent: a library with the `lingqu` command on it.
//!
//! Reading order: [`cli`] says what can be asked and does it; [`connect`] opens a session with the gateway that the
//! profile pins; [`join`] makes that profile; [`draft`] and [`records`] are documents and what the registry shows;
//! [`lookup`] asks for single records; [`outbox`], [`transfer`], [`upload`] and [`download`] move data, and [`notary`] checks its receipts; [`error`] says
//! what went wrong and with which exit code the command ends. Time, randomness and the disk are handed in as a
//! [`machine::Machine`]; `main.rs` is the composition root.
//!
//! Nothing here decides what may be exchanged: the gateway does, and the agent checks what it is told against the root
//! that its profile pins.

pub mod backflow;
pub mod batch;
pub mod cli;
pub mod connect;
pub mod download;
pub mod draft;
pub mod error;
pub mod join;
pub mod lookup;
pub mod machine;
pub mod notary;
pub mod outbox;
pub mod output;
pub mod records;
pub mod transfer;
pub mod upload;

#[cfg(test)]
mod scripted;
#[cfg(test)]
mod testing;
