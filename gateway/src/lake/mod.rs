//! Versions on an object store: what was acknowledged is there and whole, what was not is absent or whole.
//!
//! Layout: `files/<transfer>/<segment>` and `files/<transfer>/manifest`, `tables/<transfer>/<first row>-<rows>` and
//! `tables/<transfer>/manifest` (whose parts may also be files in segments), `quarantine/…` for what was found damaged, `splits/…` for what
//! can be made again. Objects are immutable. Which versions are
//! visible is not known here: the state names a manifest and its digest, and all else is an orphan.

pub mod compact;
pub mod deleted;
pub mod diff;
mod doubt;
mod error;
pub mod filter;
mod folder;
pub mod keys;
pub mod local;
pub mod lookup;
pub mod manifest;
mod manifest_rows;
pub mod merge;
mod page_maps;
pub mod parts;
pub mod reader;
mod regions;
pub mod scrub;
pub mod segment;
pub mod shape;
pub mod source;
pub mod split;
pub mod store;
pub mod sweep;
mod values;
pub(crate) mod verbatim;
pub mod writer;

pub use error::LakeError;
