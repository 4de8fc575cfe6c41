//! Data in and out. Nothing here runs without a permit of the gate, and everything here ends when its leash is cut.
//!
//! A transfer's path: its record and leaf ([`commit`]), its data ([`push_files`](fn@push_files), [`push_batch`](fn@push_batch),
//! [`pull`](fn@pull)), its commit and its receipt.

mod ahead;
mod answer;
mod claim;
pub mod commit;
mod context;
mod deliver;
pub mod error;
pub mod follow;
pub mod late;
mod mark;
pub mod match_keys;
pub mod meter;
mod opened;
mod pace;
pub mod pseudonym;
pub mod pull;
pub mod push_batch;
pub mod push_files;
mod push_verbatim;
pub mod quality;
pub mod query;
pub mod receive;
pub mod reconcile;
pub mod record;
mod refusals;
pub mod retention;
mod sending;
pub mod serve_files;
pub mod serve_table;
pub mod steps;
pub mod subscription;
mod transfers;
pub mod transform;
pub mod wires;

pub use context::{Facts, Flow, FlowParts, Greeting};
pub use error::FlowError;
pub use follow::follow;
pub use match_keys::match_keys;
pub use pull::pull;
pub use push_batch::push_batch;
pub use push_files::push_files;
pub use query::query;
pub use wires::{Router, Wires};
