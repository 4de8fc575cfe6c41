//! Sending: sets of files, and rows.

pub mod batch;
pub mod collect;
pub mod files;
mod segment;

#[cfg(test)]
mod tests;
