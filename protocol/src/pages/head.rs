//! The heads of pages, as much of them as counts.

use crate::thrift::{Compact, I32, STRUCT, Stop};
use parquet::file::reader::ChunkReader;

/// Bytes of a page's head, with statistics that nobody reads.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Bytes of a page's head that are read at first: nearly all are shorter.
const HEAD_BYTES_AIM: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Dictionary,
    Index,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct PageHead {
    pub(super) kind: Kind,
    pub(super) compressed: u64,
    pub(super) uncompressed: u64,
    pub(super) values: u64,
}

/// The head of the page at `at`, and its length.
pub(super) fn page_head<R: ChunkReader>(input: &R, at: u64, end: u64) -> Option<(PageHead, u64)> {
    for aim in [HEAD_BYTES_AIM, HEAD_BYTES_MAX] {
        let length = aim.min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let bytes = input.get_bytes(at, length).ok()?;
        let mut thrift = Compact::new(&bytes);
        if let Ok(Some(head)) = PageHead::read(&mut thrift) {
            return Some((head, thrift.at() as u64));
        }
    }
    None
}

impl PageHead {
    /// `None` where it is no page's.
    fn read(thrift: &mut Compact<'_>) -> Result<Option<Self>, Stop> {
        let (mut kind, mut compressed, mut uncompressed, mut values) = (None, None, None, Some(0));
        let mut last = 0;
        while let Some((id, of)) = thrift.field(&mut last)? {
            match (id, of) {
                (1, I32) => kind = Some(thrift.number()?),
                (2, I32) => uncompressed = u64::try_from(thrift.number()?).ok(),
                (3, I32) => compressed = u64::try_from(thrift.number()?).ok(),
                // Heads of data pages, dictionaries and data pages of the second kind: the number of values is first.
                (5 | 7 | 8, STRUCT) => values = first_number(thrift)?,
                _ => thrift.skip(of)?,
            }
        }
        let kind = match kind {
            Some(0 | 3) => Kind::Data,
            Some(1) => Kind::Index,
            Some(2) => Kind::Dictionary,
            _ => return Ok(None),
        };
        let sizes = compressed.zip(uncompressed).zip(values);
        Ok(sizes.map(|((compressed, uncompressed), values)| Self { kind, compressed, uncompressed, values }))
    }
}

/// Field 1 of a structure, a number that is not negative; the structure is read to its end.
fn first_number(thrift: &mut Compact<'_>) -> Result<Option<u64>, Stop> {
    let (mut found, mut last) = (None, 0);
    while let Some((id, of)) = thrift.field(&mut last)? {
        match (id, of) {
            (1, I32) if found.is_none() => found = u64::try_from(thrift.number()?).ok(),
            _ => thrift.skip(of)?,
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_head_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _read = PageHead::read(&mut Compact::new(&bytes));
        }
    }
}
