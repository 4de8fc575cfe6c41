#![allow(clippy::unwrap_used, clippy::expect_used)]

mod backflow;
mod denials;
mod documents;
mod findings;
mod people;
pub(crate) mod world;
