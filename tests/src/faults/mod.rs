//! Machines that fail on purpose, and the contracts that they keep while they do not.

pub mod contract;
pub mod disk;
mod machine;
pub mod rng;
