//! Records of a CSV file, one at a time, as places in a buffer: nothing is copied but fields with doubled quotes.

use super::DELIMITERS;
use crate::batch::FileRead;
use crate::batch::encoding::Decoded;
use lingqu_protocol::entry::ITEMS_MAX;
use memchr::{memchr, memchr_iter, memchr2};
use std::io::{self, Read};

/// Bytes of one record: a frame on the wire holds no larger row, and a quote that never closes ends here.
const RECORD_BYTES_MAX: usize = 16 << 20;

/// Fields of one record: as many as an entry may have items, and room to say that there are more.
const FIELDS_MAX: usize = ITEMS_MAX * 4;

/// Why no more records can be read. Lines count from 1, as an editor shows them.
#[derive(Debug)]
pub(in crate::batch) enum Problem {
    /// The disk, or an encoding that is not read.
    Io(io::Error),
    /// The file ends inside quotes; the line where the record begins.
    OpenQuote(u64),
    /// A record over its bound.
    TooLong(u64),
    /// Fields over their bound.
    TooManyFields(u64),
}

/// Text as UTF-8, by pieces.
pub(in crate::batch) trait Source {
    /// Appends more; `false` at the end.
    fn more(&mut self, out: &mut Vec<u8>) -> io::Result<bool>;
    /// Whether what was handed on from one place to another stands in for broken bytes.
    fn is_broken(&mut self, from: u64, to: u64) -> bool;
}

impl<R: Read> Source for Decoded<R> {
    fn more(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        Self::more(self, out)
    }

    fn is_broken(&mut self, from: u64, to: u64) -> bool {
        Self::is_broken(self, from, to)
    }
}

#[derive(Clone, Copy)]
struct Field {
    from: usize,
    to: usize,
    quoted: bool,
    /// Its text lies in `unescaped`.
    doubled: bool,
}

/// The records of a file.
pub(in crate::batch) struct Records<S = Decoded<FileRead>> {
    source: S,
    ended: bool,
    buffer: Vec<u8>,
    /// Bytes of the text before the buffer.
    before: u64,
    /// Where the record begins that is read next.
    at: usize,
    delimiter: u8,
    blank_is_a_row: bool,
    fields: Vec<Field>,
    unescaped: Vec<u8>,
    after_quote: bool,
    line: u64,
    next_line: u64,
}

/// What a scan of the buffer came to.
enum Scan {
    /// A record that ends here.
    Record { end: usize },
    /// More text is needed.
    Cut { in_quotes: bool },
}

impl<S: Source> Records<S> {
    /// Of a text; the delimiter is what was said, or what is found in the first line.
    pub(in crate::batch) fn new(source: S, said: Option<u8>) -> Result<Self, Problem> {
        let mut records = Self {
            source,
            ended: false,
            buffer: Vec::new(),
            before: 0,
            at: 0,
            delimiter: said.unwrap_or(b','),
            blank_is_a_row: false,
            fields: Vec::new(),
            unescaped: Vec::new(),
            after_quote: false,
            line: 1,
            next_line: 1,
        };
        records.fill()?;
        if said.is_none() {
            records.delimiter = sniff(&records.buffer);
        }
        Ok(records)
    }

    /// Whether an empty line is a record: so it is where there is one column.
    pub(in crate::batch) const fn blank_is_a_row(&mut self, is: bool) {
        self.blank_is_a_row = is;
    }

    /// Goes to the next record; `false` at the end.
    ///
    /// # Errors
    /// [`Problem`]; nothing can be read after it.
    pub(in crate::batch) fn next(&mut self) -> Result<bool, Problem> {
        loop {
            self.line = self.next_line;
            match self.scan()? {
                Scan::Record { end } => {
                    let record = self.buffer.get(self.at..end).unwrap_or_default();
                    self.next_line += memchr_iter(b'\n', record).count() as u64;
                    let blank = self.fields.len() == 1 && self.fields.iter().all(|f| f.from == f.to && !f.quoted);
                    self.at = end;
                    if !blank || self.blank_is_a_row {
                        return Ok(true);
                    }
                }
                Scan::Cut { in_quotes } => {
                    if self.buffer.len() - self.at > RECORD_BYTES_MAX {
                        return Err(Problem::TooLong(self.line));
                    }
                    if self.ended {
                        return if in_quotes { Err(Problem::OpenQuote(self.line)) } else { Ok(false) };
                    }
                    self.fill()?;
                }
            }
        }
    }

    /// The line at which the record begins, from 1.
    pub(in crate::batch) const fn line(&self) -> u64 {
        self.line
    }

    /// How many fields the record has.
    pub(in crate::batch) fn fields(&self) -> usize {
        self.fields.len()
    }

    /// Whether text follows a closing quote somewhere in the record.
    pub(in crate::batch) const fn after_quote(&self) -> bool {
        self.after_quote
    }

    /// The text of a field, which may not be UTF-8; empty where there is none.
    pub(in crate::batch) fn field(&self, place: usize) -> &[u8] {
        let Some(field) = self.fields.get(place) else { return &[] };
        let from = if field.doubled { &self.unescaped } else { &self.buffer };
        from.get(field.from..field.to).unwrap_or_default()
    }

    /// Whether a field stands in quotes.
    pub(in crate::batch) fn is_quoted(&self, place: usize) -> bool {
        self.fields.get(place).is_some_and(|f| f.quoted)
    }

    /// Whether bytes of a field were not in the file's encoding. To be asked in ascending order.
    pub(in crate::batch) fn is_broken(&mut self, place: usize) -> bool {
        let Some(field) = self.fields.get(place).copied() else { return false };
        if field.doubled {
            // Its place in the text is gone; a stand-in is still one.
            return self.unescaped.get(field.from..field.to).is_some_and(has_stand_in);
        }
        self.source.is_broken(self.before + field.from as u64, self.before + field.to as u64)
    }

    fn fill(&mut self) -> Result<(), Problem> {
        self.buffer.drain(..self.at);
        self.before += self.at as u64;
        self.at = 0;
        self.ended = !self.source.more(&mut self.buffer).map_err(Problem::Io)?;
        Ok(())
    }

    fn scan(&mut self) -> Result<Scan, Problem> {
        self.fields.clear();
        self.unescaped.clear();
        self.after_quote = false;
        let mut at = self.at;
        if at == self.buffer.len() && self.ended {
            return Ok(Scan::Cut { in_quotes: false });
        }
        loop {
            if self.fields.len() >= FIELDS_MAX {
                return Err(Problem::TooManyFields(self.line));
            }
            let (field, after) = if self.buffer.get(at) == Some(&b'"') {
                match self.quoted(at + 1) {
                    Some(found) => found,
                    None => return Ok(Scan::Cut { in_quotes: true }),
                }
            } else {
                (Field { from: at, to: at, quoted: false, doubled: false }, at)
            };
            let rest = self.buffer.get(after..).unwrap_or_default();
            let end = match memchr2(self.delimiter, b'\n', rest) {
                Some(end) => after + end,
                None if self.ended => self.buffer.len(),
                None => return Ok(Scan::Cut { in_quotes: false }),
            };
            let is_delimiter = self.buffer.get(end) == Some(&self.delimiter);
            let mut to = end;
            if !is_delimiter && to > after && self.buffer.get(to - 1) == Some(&b'\r') {
                to -= 1;
            }
            if field.quoted {
                self.after_quote |= to > after;
                self.fields.push(field);
            } else {
                self.fields.push(Field { to, ..field });
            }
            if !is_delimiter {
                return Ok(Scan::Record { end: (end + 1).min(self.buffer.len()) });
            }
            at = end + 1;
        }
    }

    /// A field whose text begins at `from`, behind its opening quote, and what follows its closing one.
    fn quoted(&mut self, from: usize) -> Option<(Field, usize)> {
        let mut at = from;
        let mut pieces: Option<usize> = None;
        loop {
            let close = at + memchr(b'"', self.buffer.get(at..)?)?;
            if self.buffer.get(close + 1) == Some(&b'"') {
                let start = *pieces.get_or_insert(self.unescaped.len());
                debug_assert!(start <= self.unescaped.len());
                self.unescaped.extend_from_slice(self.buffer.get(at..=close)?);
                at = close + 2;
                continue;
            }
            if close + 1 == self.buffer.len() && !self.ended {
                // Its twin may be on its way.
                return None;
            }
            let field = match pieces {
                None => Field { from, to: close, quoted: true, doubled: false },
                Some(start) => {
                    self.unescaped.extend_from_slice(self.buffer.get(at..close)?);
                    Field { from: start, to: self.unescaped.len(), quoted: true, doubled: true }
                }
            };
            return Some((field, close + 1));
        }
    }
}

fn has_stand_in(text: &[u8]) -> bool {
    text.windows(3).any(|three| three == "\u{fffd}".as_bytes())
}

/// What stands most often in the first line, outside of quotes.
fn sniff(text: &[u8]) -> u8 {
    let mut counts = [0usize; DELIMITERS.len()];
    let mut in_quotes = false;
    for byte in text {
        match byte {
            b'"' => in_quotes = !in_quotes,
            b'\n' if !in_quotes => break,
            _ if in_quotes => {}
            byte => {
                if let Some(place) = DELIMITERS.iter().position(|d| d == byte)
                    && let Some(count) = counts.get_mut(place)
                {
                    *count += 1;
                }
            }
        }
    }
    let most = counts.iter().max().copied().unwrap_or(0);
    DELIMITERS.iter().zip(counts).find(|(_, count)| *count == most && most > 0).map_or(b',', |(d, _)| *d)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives a text in pieces of a few bytes.
    struct Pieces(Vec<u8>, usize);

    impl Source for Pieces {
        fn more(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
            let n = self.1.min(self.0.len());
            out.extend(self.0.drain(..n));
            Ok(!self.0.is_empty())
        }

        fn is_broken(&mut self, _: u64, _: u64) -> bool {
            false
        }
    }

    fn all(text: &str, piece: usize) -> Result<Vec<(u64, Vec<String>)>, Problem> {
        let mut records = Records::new(Pieces(text.as_bytes().to_vec(), piece), Some(b','))?;
        let mut rows = Vec::new();
        while records.next()? {
            let row = (0..records.fields()).map(|i| String::from_utf8(records.field(i).to_vec()).unwrap());
            rows.push((records.line(), row.collect()));
        }
        Ok(rows)
    }

    #[test]
    fn records_know_their_lines() {
        let text = "a,b\r\n1,\"x\"\"y\n\"\n\n\"\",2";
        for piece in 1..30 {
            let rows = all(text, piece).unwrap();
            let expected: [(u64, &[&str]); 3] = [(1, &["a", "b"]), (2, &["1", "x\"y\n"]), (5, &["", "2"])];
            assert_eq!(rows.len(), 3, "{rows:?}");
            for (row, (line, fields)) in rows.iter().zip(expected) {
                assert_eq!((row.0, row.1.iter().map(String::as_str).collect::<Vec<_>>()), (line, fields.to_vec()));
            }
        }
        assert!(matches!(all("a\n1,\"x\n", 3), Err(Problem::OpenQuote(2))));
    }

    #[test]
    fn the_delimiter_is_what_the_header_has_most() {
        for (text, expected) in
            [("a,b;c,d", b','), ("a\tb\tc", b'\t'), ("\"a,b,c\";d\n,,,,", b';'), ("甲|乙", b'|'), ("one", b',')]
        {
            assert_eq!(sniff(text.as_bytes()), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            rows in prop::collection::vec(prop::collection::vec("[a,\"\\r\\n 中]{0,6}", 2..5), 1..6), piece in 1usize..20,
        ) {
            let quote = |f: &String| format!("\"{}\"", f.replace('"', "\"\""));
            let text: String =
                rows.iter().map(|row| row.iter().map(quote).collect::<Vec<_>>().join(",") + "\r\n").collect();
            let read: Vec<Vec<String>> = all(&text, piece).unwrap().into_iter().map(|(_, row)| row).collect();
            prop_assert_eq!(read, rows);
        }

        #[test]
        fn no_text_panics(text in "[a,\"\\r\\n]{0,40}", piece in 1usize..9) {
            let _ = all(&text, piece);
        }
    }
}
