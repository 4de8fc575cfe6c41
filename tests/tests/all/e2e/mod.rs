//! The programs as people run them, from end to end: exact data, not just exit codes.

mod batches;
mod commands;
mod control;
mod files;
mod receipts;
mod renewal;
mod transfers;
mod versions;
mod watching;
