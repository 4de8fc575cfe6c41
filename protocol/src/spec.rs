//! What the TOML files that people write ([`crate::entry`], [`crate::scope`]) have in common: their bound, their error, and
//! the checks of single values.

use crate::name::is_hidden;
use std::fmt;
use std::ops::Range;
use toml::Spanned;
use unicode_normalization::is_nfc;

/// Bytes that such a file may have: room for the 4,096 items an entry may have at some 90 bytes each, and below
/// [`crate::documents::DOCUMENT_BYTES_MAX`] when quotes and line ends are escaped in JSON.
pub const SPEC_BYTES_MAX: usize = 384 * 1024;

/// Characters of a word or a name: a line on a screen.
pub(crate) const NAME_CHARS_MAX: usize = 128;

/// Characters of a sentence: conditions, an abstract, a basis.
pub(crate) const TEXT_CHARS_MAX: usize = 4_096;

/// What is wrong with a file, where, and what to write instead. The fault is the writer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SpecError {
    /// Line, from 1.
    pub line: usize,
    /// Character within the line, from 1.
    pub column: usize,
    /// The field, as in `items[3].type`; empty where the file is not TOML at all.
    pub field: String,
    /// What is wrong and what is expected.
    pub problem: String,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)?;
        if !self.field.is_empty() {
            write!(f, ", field {}", self.field)?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// The text of a file, to name places in it.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a>(pub(crate) &'a str);

impl Source<'_> {
    /// Reads the file as a `T`, which refuses unknown keys.
    pub(crate) fn read<T: for<'de> serde::Deserialize<'de>>(self) -> Result<T, SpecError> {
        if self.0.len() > SPEC_BYTES_MAX {
            let problem = format!("the file has {} bytes, and {SPEC_BYTES_MAX} are the most", self.0.len());
            return Err(SpecError { line: 1, column: 1, field: String::new(), problem });
        }
        toml::from_str(self.0).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let message = error.message().trim();
            // serde names the key only where it is missing or unknown; elsewhere it stands before the value.
            let named = message.starts_with("missing field") || message.starts_with("unknown field");
            let field = if named { message.split('`').nth(1).map(str::to_owned) } else { self.key_before(at) };
            self.error(at..at, &field.unwrap_or_default(), message)
        })
    }

    /// An error at `span`, in bytes.
    pub(crate) fn error(self, span: Range<usize>, field: &str, problem: impl Into<String>) -> SpecError {
        let mut at = span.start.min(self.0.len());
        while !self.0.is_char_boundary(at) {
            at -= 1;
        }
        let before = self.0.get(..at).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        SpecError {
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            field: field.to_owned(),
            problem: problem.into(),
        }
    }

    /// A word of a fixed list.
    pub(crate) fn word<T: std::str::FromStr<Err = BadWord>>(
        self,
        field: &str,
        value: &Spanned<String>,
    ) -> Result<T, SpecError> {
        value.get_ref().parse().map_err(|bad: BadWord| self.error(value.span(), field, bad.to_string()))
    }

    /// A name or sentence: not empty, bounded, normalised, nothing hidden in it. Line ends pass in sentences.
    pub(crate) fn text(self, field: &str, value: &Spanned<String>, chars_max: usize) -> Result<String, SpecError> {
        let text = value.get_ref();
        let error = |problem: String| Err(self.error(value.span(), field, problem));
        if text.trim().is_empty() {
            return error("must not be empty: write it, or leave the key out where it may be left out".to_owned());
        }
        if text.chars().count() > chars_max {
            return error(format!("has more than {chars_max} characters: shorten it"));
        }
        let sentence = chars_max > NAME_CHARS_MAX;
        if let Some(c) = text.chars().find(|c| is_hidden(*c) && !(sentence && matches!(c, '\n' | '\r' | '\t'))) {
            return error(format!("holds the character U+{:04X}, which cannot be seen: remove it", u32::from(c)));
        }
        if !sentence && text.trim() != text {
            return error("begins or ends with a space: remove it".to_owned());
        }
        if !is_nfc(text) {
            return error("is not in Unicode form NFC: write composed characters".to_owned());
        }
        Ok(text.clone())
    }

    /// A list of names: bounded, each a good one, none twice, and not empty.
    pub(crate) fn names(
        self,
        field: &str,
        list: &Spanned<Vec<Spanned<String>>>,
        count_max: usize,
    ) -> Result<Vec<String>, SpecError> {
        self.bounded(field, list, count_max)?;
        let mut seen = std::collections::HashSet::new();
        let mut names = Vec::with_capacity(list.get_ref().len());
        for (i, value) in list.get_ref().iter().enumerate() {
            let field = format!("{field}[{i}]");
            let name = self.text(&field, value, NAME_CHARS_MAX)?;
            if !seen.insert(name.clone()) {
                return Err(self.error(value.span(), &field, format!("{name:?} stands twice: remove one")));
            }
            names.push(name);
        }
        Ok(names)
    }

    /// A list of words of a fixed list, none twice, and not empty.
    pub(crate) fn words<T: std::str::FromStr<Err = BadWord> + PartialEq>(
        self,
        field: &str,
        list: &Spanned<Vec<Spanned<String>>>,
    ) -> Result<Vec<T>, SpecError> {
        // More than this cannot be right: no list of words is longer.
        self.bounded(field, list, 16)?;
        let mut words = Vec::with_capacity(list.get_ref().len());
        for (i, value) in list.get_ref().iter().enumerate() {
            let field = format!("{field}[{i}]");
            let word = self.word(&field, value)?;
            if words.contains(&word) {
                return Err(self.error(
                    value.span(),
                    &field,
                    format!("{:?} stands twice: remove one", value.get_ref()),
                ));
            }
            words.push(word);
        }
        Ok(words)
    }

    /// Refuses an empty list (which could be read as all or as none) and one that is too long.
    pub(crate) fn bounded<T>(self, field: &str, list: &Spanned<Vec<T>>, count_max: usize) -> Result<(), SpecError> {
        match list.get_ref().len() {
            0 => Err(self.error(list.span(), field, "must not be empty: list something, or leave the key out")),
            n if n > count_max => {
                Err(self.error(list.span(), field, format!("lists {n}, and {count_max} are the most")))
            }
            _ => Ok(()),
        }
    }

    /// The last key that is written before byte `at`.
    fn key_before(self, at: usize) -> Option<String> {
        let mut end = at.min(self.0.len());
        while !self.0.is_char_boundary(end) {
            end -= 1;
        }
        let lines = self.0.get(..end)?.lines().rev();
        lines.filter_map(|line| line.split_once('=')).map(|(key, _)| key.trim().to_owned()).next()
    }
}

/// A word that is not of its list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not known: expected one of {expected}")]
pub struct BadWord {
    /// What was given, cut to a length that can be shown.
    pub found: String,
    /// The list.
    pub expected: &'static str,
}

/// An enumeration whose variants are words in files and on the wire.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All of them, in their order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
            /// Its word in files and on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl std::str::FromStr for $name {
            type Err = $crate::spec::BadWord;
            fn from_str(text: &str) -> Result<Self, $crate::spec::BadWord> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err($crate::spec::BadWord {
                        found: text.chars().take(40).collect(),
                        expected: concat!($($word, " ",)*).trim_ascii_end(),
                    }),
                }
            }
        }
    };
}
pub(crate) use words;
