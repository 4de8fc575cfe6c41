//! The `lingqu` command.
fn main() {}
