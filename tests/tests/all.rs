//! The one integration binary, so that everything is linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "all/audit.rs"]
mod audit;
#[path = "all/backflow.rs"]
mod backflow;
#[path = "all/changes.rs"]
mod changes;
#[path = "all/cuts.rs"]
mod cuts;
#[path = "all/decoders.rs"]
mod decoders;
#[path = "all/disk.rs"]
mod disk;
#[path = "all/e2e/mod.rs"]
mod e2e;
#[path = "all/inside.rs"]
mod inside;
#[path = "all/kills.rs"]
mod kills;
#[path = "all/kills_match.rs"]
mod kills_match;
#[path = "all/lake_seeds.rs"]
mod lake_seeds;
#[path = "all/local_store.rs"]
mod local_store;
#[path = "all/model/mod.rs"]
mod model;
#[path = "all/outbox_seeds.rs"]
mod outbox_seeds;
#[path = "all/segments.rs"]
mod segments;
#[path = "all/sinks/mod.rs"]
mod sinks;
#[path = "all/structure.rs"]
mod structure;
#[path = "all/tables.rs"]
mod tables;
#[path = "all/threats/mod.rs"]
mod threats;
#[path = "all/wire.rs"]
mod wire;
