//! The parts of an Excel file as XML events, bounded: bytes of a part, how much larger it is than what is stored, bytes of
//! one event, depth. Entities are XML's five and numbers; a document type is refused, whatever it declares.

use super::{Broken, broken};
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use std::cell::Cell;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

/// Bytes of one tag or text: a cell has at most 32,767 characters, each of which may be an entity.
const EVENT_BYTES_MAX: u64 = 1 << 20;

/// Elements within elements.
const DEPTH_MAX: usize = 64;

/// How much larger than what is stored a part may be: sheets of real data are 5 to 30 times, deflate ends at 1,032.
const RATIO_MAX: u64 = 200;

/// Bytes that a part may have whatever its ratio.
const FREE_BYTES: u64 = 4 << 20;

/// Bytes read ahead.
const BUFFER_BYTES: usize = 32 << 10;

/// An event of interest.
pub(super) enum Token<'a> {
    /// An element begins; whether it is empty.
    Open(BytesStart<'a>, bool),
    /// An element ends: its local name.
    Close(&'a str),
    /// Text.
    Text(&'a str),
    /// A character by its entity.
    Char(char),
}

/// The XML of one part.
pub(super) struct Xml<R: Read> {
    reader: Reader<BufReader<Bounded<R>>>,
    since_event: Rc<Cell<u64>>,
    buffer: Vec<u8>,
    depth: usize,
}

impl<R: Read> Xml<R> {
    /// Of a part that takes `stored` bytes in the file and may have `bytes_max`.
    pub(super) fn new(part: R, stored: u64, bytes_max: u64) -> Self {
        let since_event = Rc::new(Cell::new(0));
        let most = stored.saturating_mul(RATIO_MAX).max(FREE_BYTES).min(bytes_max);
        let bounded = Bounded { inner: part, left: most, since_event: since_event.clone() };
        let reader = Reader::from_reader(BufReader::with_capacity(BUFFER_BYTES, bounded));
        Self { reader, since_event, buffer: Vec::new(), depth: 0 }
    }

    /// Gives each event to `each` until the end, or until it says `false`.
    ///
    /// # Errors
    /// XML that is none, or over a bound.
    pub(super) fn each(mut self, each: &mut dyn FnMut(Token<'_>) -> Result<bool, Broken>) -> Result<(), Broken> {
        loop {
            self.buffer.clear();
            self.since_event.set(0);
            let event = self.reader.read_event_into(&mut self.buffer).map_err(unreadable)?;
            let more = match event {
                Event::Start(tag) => {
                    self.depth += 1;
                    if self.depth > DEPTH_MAX {
                        return Err(broken("its XML is nested too deep", "XML 嵌套过深"));
                    }
                    each(Token::Open(tag, false))?
                }
                Event::Empty(tag) => each(Token::Open(tag, true))?,
                Event::End(tag) => {
                    self.depth = self.depth.saturating_sub(1);
                    let name = tag.local_name();
                    each(Token::Close(name.into_inner()))?
                }
                Event::Text(text) => each(Token::Text(&text))?,
                Event::CData(text) => each(Token::Text(&text))?,
                Event::GeneralRef(entity) => each(Token::Char(character(&entity)?))?,
                Event::DocType(_) => {
                    return Err(broken(
                        "its XML declares a document type, which Excel never writes",
                        "XML 含有文档类型声明，Excel 不会写出",
                    ));
                }
                Event::Decl(_) | Event::PI(_) | Event::Comment(_) => true,
                Event::Eof => return Ok(()),
            };
            if !more {
                return Ok(());
            }
        }
    }
}

fn character(entity: &quick_xml::events::BytesRef<'_>) -> Result<char, Broken> {
    let none = || broken("its XML uses an entity that XML does not have", "XML 使用了未定义的实体");
    if entity.is_char_ref() {
        return entity.resolve_char_ref().ok().flatten().ok_or_else(none);
    }
    match &**entity {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        _ => Err(none()),
    }
}

/// An attribute's value, by its local name.
pub(super) fn attribute(tag: &BytesStart<'_>, name: &str) -> Result<Option<String>, Broken> {
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(unreadable)?;
        if attribute.key.local_name().into_inner() == name {
            return attribute
                .normalized_value(XmlVersion::Implicit1_0)
                .map(|v| Some(v.into_owned()))
                .map_err(unreadable);
        }
    }
    Ok(None)
}

pub(super) fn unreadable(error: impl std::fmt::Display) -> Broken {
    let text: String = error.to_string().chars().take(200).collect();
    broken(text.clone(), text)
}

/// Ends a part, or an event of it, that is too long.
struct Bounded<R> {
    inner: R,
    left: u64,
    since_event: Rc<Cell<u64>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.since_event.get() > EVENT_BYTES_MAX {
            return Err(io::Error::other("a cell or tag has more than 1 MiB"));
        }
        let read = self.inner.read(buf)?;
        self.since_event.set(self.since_event.get() + read as u64);
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::other(
                "a part is much larger than what is stored of it, as nothing that Excel writes is (a bomb?)",
            )
        })?;
        Ok(read)
    }
}
