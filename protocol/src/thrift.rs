//! As much of Thrift's compact protocol as heads of Parquet pages need: numbers, and the end of whatever is not looked at.

/// A boolean that does not hold.
pub const FALSE: u8 = 2;
/// A number of 32 bits.
pub const I32: u8 = 5;
/// A structure.
pub const STRUCT: u8 = 12;

/// Structures within structures; a head of Parquet has four.
const DEPTH_MAX: u32 = 8;

/// Why reading stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It goes on beyond the bytes at hand.
    Short,
    /// It is wrong: how.
    Bad(&'static str),
}

/// Reads a structure from bytes that it may not end in.
#[derive(Debug)]
pub struct Compact<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Compact<'a> {
    /// From the first of these bytes.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes that were read.
    pub const fn at(&self) -> usize {
        self.at
    }

    /// The next field's number and type; none at the end of a structure. `last` is the number of the field before it in
    /// the same structure, 0 at first.
    ///
    /// # Errors
    /// Where it does not end, or is wrong.
    pub fn field(&mut self, last: &mut i64) -> Result<Option<(i64, u8)>, Stop> {
        let head = self.byte()?;
        if head == 0 {
            return Ok(None);
        }
        *last = match head >> 4 {
            0 => self.number()?,
            delta => last.checked_add(i64::from(delta)).ok_or(Stop::Bad("a page's header with a field beyond all"))?,
        };
        Ok(Some((*last, head & 0x0f)))
    }

    /// A number.
    ///
    /// # Errors
    /// Where it does not end.
    pub fn number(&mut self) -> Result<i64, Stop> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// Goes on behind a field's value of this type.
    ///
    /// # Errors
    /// Where it does not end, or is wrong.
    pub fn skip(&mut self, of: u8) -> Result<(), Stop> {
        self.skip_at(of, 0)
    }

    fn skip_at(&mut self, of: u8, depth: u32) -> Result<(), Stop> {
        if depth > DEPTH_MAX {
            return Err(Stop::Bad("a page's header that nests too deep"));
        }
        match of {
            // A boolean's value is its type.
            1 | FALSE => Ok(()),
            3 => self.forward(1),
            4 | I32 | 6 => self.varint().map(drop),
            7 => self.forward(8),
            8 => {
                let bytes = self.varint()?;
                self.forward(bytes)
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = if head >> 4 == 0x0f { self.varint()? } else { u64::from(head >> 4) };
                self.skip_many(count, &[head & 0x0f], depth)
            }
            11 => match self.varint()? {
                0 => Ok(()),
                count => {
                    let types = self.byte()?;
                    self.skip_many(count, &[types >> 4, types & 0x0f], depth)
                }
            },
            STRUCT => {
                let mut last = 0;
                while let Some((_, of)) = self.field(&mut last)? {
                    self.skip_at(of, depth + 1)?;
                }
                Ok(())
            }
            _ => Err(Stop::Bad("a page's header with a type that Thrift does not have")),
        }
    }

    /// Elements of a list or pairs of a map. Each takes a byte at least, so their number ends with the bytes at hand.
    fn skip_many(&mut self, count: u64, types: &[u8], depth: u32) -> Result<(), Stop> {
        for _ in 0..count {
            for of in types {
                match *of {
                    1 | FALSE => self.forward(1)?,
                    of => self.skip_at(of, depth + 1)?,
                }
            }
        }
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, Stop> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Stop::Bad("a page's header with a number that does not end"))
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        let byte = *self.bytes.get(self.at).ok_or(Stop::Short)?;
        self.at += 1;
        Ok(byte)
    }

    fn forward(&mut self, bytes: u64) -> Result<(), Stop> {
        let bytes = usize::try_from(bytes).map_err(|_| Stop::Bad("a page's header with a length that nothing has"))?;
        self.at = self.at.checked_add(bytes).filter(|at| *at <= self.bytes.len()).ok_or(Stop::Short)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_panics_or_reads_beyond_its_bytes(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut thrift = Compact::new(&bytes);
            let _read = thrift.skip(STRUCT);
            prop_assert!(thrift.at() <= bytes.len());
        }
    }

    #[test]
    fn a_structure_is_left_behind_and_what_nests_too_deep_is_refused() {
        // Field 1, a number; field 2, a map of one number to a text; field 40, a list of booleans.
        let bytes = [0x15, 0x04, 0x1b, 0x01, 0x58, 0x06, 0x01, b'x', 0x09, 0x50, 0x21, 1, 2, 0, 0xff];
        let mut thrift = Compact::new(&bytes);
        assert_eq!((thrift.skip(STRUCT), thrift.at()), (Ok(()), 14));
        for end in 0..14 {
            assert_eq!(Compact::new(bytes.get(..end).unwrap_or_default()).skip(STRUCT), Err(Stop::Short), "{end}");
        }
        assert!(matches!(Compact::new(&[0x1c; 64]).skip(STRUCT), Err(Stop::Bad(_))));
        assert!(matches!(Compact::new(&[0xff; 64]).skip(6), Err(Stop::Bad(_))), "a number without an end");
    }
}
