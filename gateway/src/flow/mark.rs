//! Marks in a pull of rows: where it can go on, sealed so that only what this gateway said is believed.
//!
//! The place is masked as well: how far rows lie apart in a version tells how many of them are outside a scope.
//!
//! A mark holds the place in the version's own coordinates and what was delivered up to there, bound to what the transfer
//! is bound to: version, grant, purpose, columns, condition. So a pull goes on at once, with nothing read again, and its
//! end record and receipt still speak of all of it.

use crate::lake::reader::Position;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::ipc::BatchRoot;
use lingqu_protocol::rows::RowsSum;

const MAGIC: &[u8; 4] = b"LQM1";

/// Bytes before the seal.
const BODY_BYTES: usize = 4 + 32 + 16 + 40 + RowsSum::BYTES;

/// Bytes of a place.
const PLACE_BYTES: usize = 16;

/// What makes masks nothing else's.
const MASK_DOMAIN: &[u8] = b"lingqu mark mask v1\n";

/// A place under a mask that follows from what was delivered up to it, which is never the same at two places.
fn masked(
    mut place: [u8; PLACE_BYTES],
    key: &[u8; 32],
    content: Digest,
    root: &BatchRoot,
    rows: &RowsSum,
) -> [u8; PLACE_BYTES] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(MASK_DOMAIN).update(&content.bytes).update(&root.to_bytes()).update(&rows.to_bytes());
    for (byte, mask) in place.iter_mut().zip(hasher.finalize().as_bytes()) {
        *byte ^= mask;
    }
    place
}

/// What was delivered up to a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) position: Position,
    pub(super) root: BatchRoot,
    pub(super) rows: RowsSum,
}

impl Mark {
    /// The token of this mark in a transfer that is bound to `content`.
    pub(super) fn seal(&self, key: &[u8; 32], content: Digest) -> Vec<u8> {
        let mut token = Vec::with_capacity(BODY_BYTES + 32);
        token.extend(MAGIC);
        token.extend(content.bytes);
        let mut place = [0; PLACE_BYTES];
        place[..4].copy_from_slice(&self.position.part.to_be_bytes());
        place[4..8].copy_from_slice(&self.position.row_group.to_be_bytes());
        place[8..].copy_from_slice(&self.position.row.to_be_bytes());
        token.extend(masked(place, key, content, &self.root, &self.rows));
        token.extend(self.root.to_bytes());
        token.extend(self.rows.to_bytes());
        let seal = blake3::keyed_hash(key, &token);
        token.extend(seal.as_bytes());
        token
    }

    /// The mark of a token; `None` where this gateway did not seal it for a transfer that is bound to `content`.
    pub(super) fn open(token: &[u8], key: &[u8; 32], content: Digest) -> Option<Self> {
        let (body, seal) = token.split_at_checked(BODY_BYTES)?;
        let seal: [u8; 32] = seal.try_into().ok()?;
        // Compared in constant time by the hash's own type.
        if blake3::keyed_hash(key, body) != blake3::Hash::from_bytes(seal) {
            return None;
        }
        let (magic, rest) = body.split_first_chunk::<4>()?;
        let (bound, rest) = rest.split_first_chunk::<32>()?;
        let (place, rest) = rest.split_first_chunk::<PLACE_BYTES>()?;
        let (root, rest) = rest.split_first_chunk::<40>()?;
        let rows = rest.first_chunk::<{ RowsSum::BYTES }>()?;
        let (root, rows) = (BatchRoot::from_bytes(root), RowsSum::from_bytes(rows));
        let place = masked(*place, key, content, &root, &rows);
        let (part, rest) = place.split_first_chunk::<4>()?;
        let (row_group, row) = rest.split_first_chunk::<4>()?;
        let row = row.first_chunk::<8>()?;
        let position = Position {
            part: u32::from_be_bytes(*part),
            row_group: u32::from_be_bytes(*row_group),
            row: u64::from_be_bytes(*row),
        };
        let mark = Self { position, root, rows };
        (magic == MAGIC && *bound == content.bytes).then_some(mark)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_believed_for_its_transfer_and_no_other() {
        let mut root = BatchRoot::default();
        root.add([b"frame".as_slice()]);
        let position = Position { part: 3, row_group: 1, row: 77 };
        let mut rows = RowsSum::default();
        rows.add_row(9);
        let mark = Mark { position, root, rows };
        let (key, content) = ([7; 32], Digest::blake3(b"asked"));
        let token = mark.seal(&key, content);
        assert!(!token.windows(8).any(|bytes| bytes == 77u64.to_be_bytes()), "the place is not to be seen");
        assert_eq!(Mark::open(&token, &key, content), Some(mark));
        assert_eq!(Mark::open(&token, &[8; 32], content), None);
        assert_eq!(Mark::open(&token, &key, Digest::blake3(b"another scope")), None);
        for at in 0..token.len() {
            let mut changed = token.clone();
            changed[at] ^= 1;
            assert_eq!(Mark::open(&changed, &key, content), None, "byte {at}");
            assert_eq!(Mark::open(&token[..at], &key, content), None, "{at} bytes");
        }
    }
}
