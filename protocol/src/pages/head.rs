//! The heads of pages, as much of them as counts.

use parquet::file::reader::ChunkReader;

/// Bytes of a page's head, with statistics that nobody reads.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Bytes of a page's head that are read at first: nearly all are shorter.
const HEAD_BYTES_AIM: usize = 256;

/// Structures within structures in a page's head.
const DEPTH_MAX: usize = 8;

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
        let mut thrift = Thrift { bytes: &bytes, at: 0 };
        if let Some(head) = PageHead::read(&mut thrift) {
            return Some((head, thrift.at as u64));
        }
    }
    None
}

impl PageHead {
    fn read(thrift: &mut Thrift<'_>) -> Option<Self> {
        let (mut kind, mut compressed, mut uncompressed, mut values) = (None, None, None, 0);
        let mut last = 0;
        while let Some((id, wire_type)) = thrift.field(&mut last)? {
            match (id, wire_type) {
                (1, I32) => kind = Some(thrift.number()?),
                (2, I32) => uncompressed = u64::try_from(thrift.number()?).ok(),
                (3, I32) => compressed = u64::try_from(thrift.number()?).ok(),
                // Heads of data pages, dictionaries and data pages of the second kind: the number of values is first.
                (5 | 7 | 8, STRUCT) => values = thrift.first_number()?,
                _ => thrift.skip(wire_type, 0)?,
            }
        }
        let kind = match kind? {
            0 | 3 => Kind::Data,
            1 => Kind::Index,
            2 => Kind::Dictionary,
            _ => return None,
        };
        Some(Self { kind, compressed: compressed?, uncompressed: uncompressed?, values })
    }
}

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const STRUCT: u8 = 12;

/// As much of Thrift's compact protocol as heads of pages have.
struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied()?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn number(&mut self) -> Option<i64> {
        let zigzag = self.varint()?;
        Some((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    /// The next field's id and type; `Some(None)` at the end of the structure.
    fn field(&mut self, last: &mut i64) -> Option<Option<(i64, u8)>> {
        let head = self.byte()?;
        if head == 0 {
            return Some(None);
        }
        let delta = i64::from(head >> 4);
        *last = if delta == 0 { self.number()? } else { last.checked_add(delta)? };
        Some(Some((*last, head & 0x0f)))
    }

    /// Field 1 of a structure, a number that is not negative; the structure is read to its end.
    fn first_number(&mut self) -> Option<u64> {
        let mut found = None;
        let mut last = 0;
        while let Some((id, wire_type)) = self.field(&mut last)? {
            if (id, wire_type) == (1, I32) && found.is_none() {
                found = u64::try_from(self.number()?).ok();
            } else {
                self.skip(wire_type, 1)?;
            }
        }
        found
    }

    fn skip(&mut self, wire_type: u8, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        match wire_type {
            TRUE | FALSE => {}
            BYTE => drop(self.byte()?),
            I16 | I32 | I64 => drop(self.varint()?),
            DOUBLE => self.forward(8)?,
            BINARY => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.forward(length)?;
            }
            LIST | SET => {
                let head = self.byte()?;
                let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                // Each takes a byte at least, so a count that lies ends with the bytes.
                for _ in 0..count {
                    match head & 0x0f {
                        TRUE | FALSE => drop(self.byte()?),
                        other => self.skip(other, depth + 1)?,
                    }
                }
            }
            STRUCT => {
                let mut last = 0;
                while let Some((_, inner)) = self.field(&mut last)? {
                    self.skip(inner, depth + 1)?;
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn forward(&mut self, bytes: usize) -> Option<()> {
        self.at = self.at.checked_add(bytes).filter(|at| *at <= self.bytes.len())?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_head_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _read = PageHead::read(&mut Thrift { bytes: &bytes, at: 0 });
        }
    }
}
