//! The programs as people run them, from end to end: exact data, not just exit codes.

mod batches;
mod closed;
mod commands;
mod control;
mod files;
mod misuse;
mod receipts;
mod renewal;
mod transfers;
mod watching;
