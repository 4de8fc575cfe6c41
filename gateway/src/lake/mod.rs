//! Versions on an object store: what was acknowledged is there and whole, what was not is absent or whole.
//!
//! Layout: `files/<transfer>/<segment>` and `files/<transfer>/manifest`, `tables/<transfer>/<part>` and
//! `tables/<transfer>/manifest`, `quarantine/…` for what was found damaged. Objects are immutable. Which versions are
//! visible is not known here: the state names a manifest and its digest, and all else is an orphan.

mod error;
mod folder;
pub mod local;
pub mod segment;
pub mod store;

pub use error::LakeError;
