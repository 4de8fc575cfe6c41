//! The wire contract of Lingqu, which both programs compile: identifiers, scope, messages, frames, close codes, digests,
//! and the ports to the machine (clock, entropy, disk, streams) that the programs are given from outside.
//!
//! Participants: an *agent* at an agency, which opens every connection, and the *gateway*, which answers.
//! Goals: what is on the wire or on disk has one definition, bounded and testable without a socket.
//! Non-goals: this crate does no IO, starts no task and reads no clock.

pub mod agency;
pub mod backflow;
pub mod changes;
pub mod checkpoint;
pub mod close;
pub mod columns;
pub mod digest;
pub mod documents;
pub mod dsse;
pub mod entry;
pub mod fileset;
pub mod frame;
pub mod host;
pub mod ids;
pub mod ipc;
pub mod keys;
pub mod leaf;
pub mod merkle;
pub mod misuse;
pub mod name;
pub mod pages;
pub mod plan;
pub mod predicate;
pub mod quality;
pub mod receipt;
pub mod region;
pub mod rows;
pub mod scope;
pub mod session;
pub mod spec;
pub mod stream;
pub mod thrift;
pub mod views;
pub mod wire;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod vectors;
