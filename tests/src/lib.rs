//! What the tests share: a world to break, and the tools that break it.

pub mod decoders;
pub mod faults;
pub mod world;
