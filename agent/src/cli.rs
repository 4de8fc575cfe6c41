//! The `lingqu` command: what can be said ([`args`]), and what is done about it.

pub mod args;
