//! Misuse, found: what is seen of requests and streams ([`observation`], handed in through [`queue`]) is remembered in
//! bounds ([`history`]), judged by pure rules ([`rules`]) under [`thresholds`], and acted on ([`enforce`]).
//!
//! A rule finds a 疑似问题线索, never a violation. What it cuts is 临时阻断: an emergency cut (article 35) that acts under a
//! signed standing order or is confirmed in time, or ends by itself. The data path never waits for any of this.

pub mod enforce;
pub mod history;
pub mod observation;
pub mod queue;
pub mod rules;
pub mod thresholds;

pub use enforce::Watch;
pub use queue::{Observer, pair};
pub use thresholds::Thresholds;
