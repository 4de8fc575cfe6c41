//! Sending: sets of files, and rows.

pub mod batch;
pub mod check;
pub mod collect;
pub mod files;
pub mod read;
mod segment;
pub mod verbatim;

#[cfg(test)]
mod tests;
