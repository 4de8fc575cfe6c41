//! Backflow (回流, article 24): what the authority's published list gives to whom, which regions an agency's slice holds,
//! and how the versions of a slice are told on the wire. docs/PROTOCOL.md has the order of messages.

mod list;
mod slice;

pub use list::{BackflowList, ITEMS_LISTED_MAX, RECEIVERS_MAX, REGION_CHANGES_MAX, ROWS_LISTED_MAX, Receivers, Row};
pub use slice::{RegionChange, RegionSlice};

use crate::digest::Digest;
use crate::region::RegionCode;
use crate::spec::words;
use std::time::Duration;

/// How often a gateway that has nothing new says so: twice within what a connection may be silent for.
pub const ALIVE_EVERY: Duration = Duration::from_secs(15);

/// A side that hears nothing of the other for this long while a subscription waits takes it for gone: four signs of life.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Bytes of a subscription's kind of sink.
pub const SINK_BYTES_MAX: usize = 32;

/// What the digest of a slice starts with, so that it is nothing else's.
const SLICE_DOMAIN: &str = "lingqu backflow slice v1";

words! {
    /// How a version's slice stands to what its receiver has.
    SliceMode {
        /// The state, in place of everything before.
        Full = "full",
        /// More rows.
        Append = "append",
        /// Rows that are gone and rows that came, told apart by [`crate::changes::OP_COLUMN`]: first all `delete`, then
        /// all `upsert`.
        Changes = "changes",
    }
}

/// What a slice is: which regions (with what lies within them) and which columns, in order. A cursor that was made under
/// another one does not go on. `changes` are the changes of region codes that are in force, from and to; `all` says that the
/// columns are all that the entry has, so that one which it gains is only more of the same.
pub fn slice_digest(
    regions: &[RegionCode],
    changes: &[(RegionCode, RegionCode)],
    columns: &[&str],
    all: bool,
) -> Digest {
    let mut text = SLICE_DOMAIN.to_owned();
    for region in regions {
        text.push_str("\nregion ");
        text.push_str(region.as_str());
    }
    for (from, to) in changes {
        text.push_str(&format!("\nchange {from} {to}"));
    }
    for column in columns {
        // No name of an item holds a line's end.
        text.push_str("\ncolumn ");
        text.push_str(column);
    }
    if all {
        text.push_str("\nall");
    }
    Digest::blake3(text.as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn another_region_change_or_order_of_columns_is_another_slice() {
        let (a, b): (RegionCode, RegionCode) = ("4403".parse().unwrap(), "441900".parse().unwrap());
        let all = [
            slice_digest(&[a], &[], &["x", "y"], false),
            slice_digest(&[a], &[], &["x", "y"], true),
            slice_digest(&[b], &[], &["x", "y"], false),
            slice_digest(&[a, b], &[], &["x", "y"], false),
            slice_digest(&[a], &[(b, a)], &["x", "y"], false),
            slice_digest(&[a], &[], &["y", "x"], false),
            slice_digest(&[a], &[], &["x"], false),
        ];
        let distinct: std::collections::BTreeSet<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!("append".parse(), Ok(SliceMode::Append));
        assert!("Append".parse::<SliceMode>().is_err());
    }
}
