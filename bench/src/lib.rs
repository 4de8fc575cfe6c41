//! Measures and shows the two programs from outside, as processes on real data.
//!
//! Reading order: [`world`] sets agencies up through the programs' own commands, [`scenario`] measures, [`report`] judges
//! against floors, [`demo`] tells the whole story once, [`kill`] kills and resumes. [`link`] is a bad network by seed.
//! [`decide`] alone calls into the gateway: a decision takes less time than a message to another process.
//!
//! Non-goals: nothing here is linked into the programs.

pub mod baseline;
pub mod decide;
pub mod demo;
pub mod error;
pub mod facts;
pub mod kill;
pub mod kill_batch;
pub mod lineitem;
pub mod link;
pub mod outside;
pub mod program;
pub mod report;
pub mod scenario;
pub mod seeded;
pub mod texts;
pub mod usage;
pub mod world;
