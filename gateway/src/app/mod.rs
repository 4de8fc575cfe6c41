//! tmp
pub mod failpoint;
pub mod heartbeat;
pub mod http;
