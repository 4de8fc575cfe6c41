//! The one integration binary, so that everything is linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "all/disk.rs"]
mod disk;
#[path = "all/lake_seeds.rs"]
mod lake_seeds;
#[path = "all/local_store.rs"]
mod local_store;
#[path = "all/segments.rs"]
mod segments;
#[path = "all/structure.rs"]
mod structure;
#[path = "all/tables.rs"]
mod tables;
