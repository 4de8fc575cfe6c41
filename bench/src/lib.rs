//! Measures and shows the two programs from outside, as processes on real data.
//!
//! Reading order: [`world`] sets agencies up through the programs' own commands, [`scenario`] measures, [`report`] judges
//! against floors, [`demo`] tells the whole story once, [`kill`] kills and resumes. [`link`] is a bad network by seed.
//! Four call into what they measure: [`decide`], for a decision takes less time than a message to another process, the
//! peers of [`revocation`] and of [`fanout`], for thousands of transfers are more than a machine has room for processes, and
//! [`lookups`], for a query takes less time than to start a program.
//!
//! Non-goals: nothing here is linked into the programs.

pub mod baseline;
pub mod cost;
pub mod decide;
pub mod demo;
pub mod error;
pub mod facts;
pub mod fanout;
pub mod flight;
pub mod kill;
pub mod kill_backflow;
pub mod kill_batch;
pub mod lineitem;
pub mod link;
pub mod lookups;
pub mod outside;
mod peers;
pub mod program;
pub mod report;
pub mod revocation;
pub mod rsync;
pub mod scenario;
pub mod seeded;
pub mod texts;
pub mod usage;
pub mod world;
