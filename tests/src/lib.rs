//! What the tests share: a world to break, and the tools that break it.

pub mod faults;
