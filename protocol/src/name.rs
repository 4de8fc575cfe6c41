//! Names that peers choose: names of files in a set, and any text on its way to a log.
//!
//! A file's name is used as it is on Linux, macOS and Windows, so it must be a good one on all three, and two names of a
//! set must differ on all three. They are compared folded: NFC, then each character to upper and to lower case (so `ß`
//! meets `ss` and `ς` meets `σ`), then NFC again. Compatibility forms (NFKC) stay apart: `①` and `1` are two files on
//! every system.

use std::collections::HashMap;
use std::fmt;
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Bytes of a whole name: a quarter of what Linux takes, so that a folder can be put before it.
pub const PATH_BYTES_MAX: usize = 1_024;

/// Bytes between two slashes: what file systems take.
pub const COMPONENT_BYTES_MAX: usize = 255;

/// Parts of a name: deeper than any tree of documents, and a bound for what walks it.
pub const DEPTH_MAX: usize = 32;

/// Bytes of names that a [`NameSet`] holds, of files and of the folders above them: some hundred thousand files in
/// folders, within the memory of an agent.
pub const SET_BYTES_MAX: usize = 64 << 20;

/// Characters of a text in a log: a line that can be read.
const LOG_CHARS_MAX: usize = 1_024;

/// The relative path of a file in a set: parts joined by `/`, safe to make below a folder on any system.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(String);

impl FileName {
    /// Reads a name.
    ///
    /// # Errors
    /// Names the rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, BadFileName> {
        let fail = |rule| Err(BadFileName { name: escape_for_log(text).chars().take(120).collect(), rule });
        if text.len() > PATH_BYTES_MAX {
            return fail("is longer than 1,024 bytes");
        }
        if text.starts_with('/') {
            return fail("begins with /: names are relative");
        }
        if text.contains('\\') {
            return fail("holds a backslash: use / between folders");
        }
        if text.chars().any(is_hidden) {
            return fail("holds a character that cannot be seen, or steers the direction of text");
        }
        if !is_nfc(text) {
            return fail("is not in Unicode form NFC");
        }
        if text.split('/').count() > DEPTH_MAX {
            return fail("lies deeper than 32 folders");
        }
        for part in text.split('/') {
            if part.is_empty() {
                return fail("has an empty part");
            }
            if part == "." || part == ".." {
                return fail("has . or .. as a part");
            }
            if part.len() > COMPONENT_BYTES_MAX {
                return fail("has a part longer than 255 bytes");
            }
            if part.ends_with(['.', ' ']) {
                return fail("has a part that ends in a dot or a space, which Windows drops");
            }
            if part.contains(['<', '>', ':', '"', '|', '?', '*']) {
                return fail("holds one of < > : \" | ? *, which Windows refuses");
            }
            if is_device(part) {
                return fail("has a part that names a device on Windows");
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its parts, from the outermost folder to the file.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for FileName {
    type Err = BadFileName;
    fn from_str(text: &str) -> Result<Self, BadFileName> {
        Self::parse(text)
    }
}

/// A name that a file in a set cannot have. The fault is its sender's; the file is to be renamed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the file name {name} {rule}: rename the file")]
pub struct BadFileName {
    /// The name, escaped and cut.
    pub name: String,
    /// What it breaks.
    pub rule: &'static str,
}

/// The names of a set, which must differ on every system, with no file where another needs a folder.
#[derive(Debug, Default)]
pub struct NameSet {
    /// By folded path: of files, and of the folders above them.
    taken: HashMap<String, Taken>,
    bytes: usize,
}

#[derive(Debug)]
struct Taken {
    path: String,
    is_folder: bool,
}

/// A name that cannot join its set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameClash {
    /// Another name is the same but for case or Unicode form, or one is a file where the other needs a folder.
    #[error("the file name {name} clashes with {other}: on some systems they are one; rename one of them")]
    Same {
        /// The name.
        name: String,
        /// What has its place.
        other: String,
    },
    /// More names than a set can have.
    #[error("the names of the set take more than {SET_BYTES_MAX} bytes: send it in parts")]
    TooMany,
}

impl NameSet {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a name.
    ///
    /// # Errors
    /// Where it clashes with one that was added before, or the set is full. The set may then hold folders of the name, and
    /// is to be given up.
    pub fn insert(&mut self, name: &FileName) -> Result<(), NameClash> {
        let ends = name.0.match_indices('/').map(|(i, _)| (i, true)).chain([(name.0.len(), false)]);
        // `/` neither folds nor composes with what is beside it, so a path folds part by part.
        let mut folded = String::with_capacity(name.0.len());
        for ((end, is_folder), part) in ends.zip(name.parts()) {
            let path = name.0.get(..end).unwrap_or_default();
            if !folded.is_empty() {
                folded.push('/');
            }
            folded.extend(fold(part));
            if let Some(taken) = self.taken.get(&folded) {
                // A folder is shared by the files in it, if they all write it alike.
                if is_folder && taken.is_folder && taken.path == path {
                    continue;
                }
                return Err(NameClash::Same { name: name.to_string(), other: taken.path.clone() });
            }
            self.bytes += folded.len() + path.len();
            if self.bytes > SET_BYTES_MAX {
                return Err(NameClash::TooMany);
            }
            self.taken.insert(folded.clone(), Taken { path: path.to_owned(), is_folder });
        }
        Ok(())
    }
}

/// `text` fit for a log or a terminal: what does not show, and backslashes, are written as escapes, and a long text is
/// cut. The result is one line.
pub fn escape_for_log(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len().min(LOG_CHARS_MAX));
    for (i, c) in text.chars().enumerate() {
        if i == LOG_CHARS_MAX {
            escaped.push('…');
            break;
        }
        match c {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            c if is_hidden(c) => escaped.extend(c.escape_unicode()),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Whether `c` does not show, or changes how others show: control characters, bidirectional marks, line and paragraph
/// separators, and characters without width that make two names look the same. (The joiners U+200C and U+200D pass: some
/// scripts need them.)
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || is_bidi(c)
        || matches!(c, '\u{ad}' | '\u{200b}' | '\u{2028}' | '\u{2029}' | '\u{2060}'..='\u{2064}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Whether `c` steers the direction of text.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Character by character, for the lower case of a whole text depends on where a sigma stands.
fn fold(part: &str) -> impl Iterator<Item = char> + '_ {
    part.nfc().flat_map(char::to_uppercase).flat_map(char::to_lowercase).nfc()
}

/// Whether Windows takes `part` for a device, whatever follows its first dot.
fn is_device(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let numbered = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT"));
    matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$")
        || numbered
            .is_some_and(|n| matches!(n, "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9" | "¹" | "²" | "³"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn good_names_pass() {
        let deep = ["a"; DEPTH_MAX].join("/");
        let long = "b".repeat(COMPONENT_BYTES_MAX);
        let names = [
            "a",
            "a.parquet",
            "登记/2026/张三.pdf",
            ".hidden",
            "...x",
            "x#123",
            " a",
            "a b",
            "com10",
            "nulls.csv",
            "é",
        ];
        for name in names.iter().copied().chain([deep.as_str(), long.as_str()]) {
            assert_eq!(FileName::parse(name).map(|n| n.to_string()), Ok(name.to_owned()));
        }
        assert_eq!(FileName::parse("a/b/c").unwrap().parts().collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn bad_names_are_refused() {
        let deep = ["a"; DEPTH_MAX + 1].join("/");
        let long = "b".repeat(COMPONENT_BYTES_MAX + 1);
        let path = ["b".repeat(200).as_str(); 6].join("/");
        for name in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../a",
            "a/../b",
            "a/..",
            ".",
            "./a",
            "a//b",
            "a/",
            "a\\b",
            "C:\\a",
            "C:a",
            "a\0b",
            "a\nb",
            "a\u{7f}",
            "a\u{202e}gpj.exe",
            "a\u{200b}b",
            "e\u{301}",
            "a.",
            "a ",
            "a./b",
            "con",
            "CON.txt",
            "x/Aux",
            "nul .txt",
            "COM1",
            "lpt9.log",
            "COM²",
            "a<b",
            "a|b",
            "a?",
            "a:stream",
        ] {
            assert!(FileName::parse(name).is_err(), "{name:?}");
        }
        for name in [deep, long, path] {
            assert!(FileName::parse(&name).is_err(), "{name}");
        }
    }

    #[test]
    fn names_of_a_set_differ_everywhere() {
        for (first, second) in [
            ("a", "a"),
            ("a", "A"),
            ("é", "É"),
            ("straße", "STRASSE"),
            ("ς", "Σ"),
            ("K", "\u{212a}"),
            ("a", "a/b"),
            ("a/b", "a"),
            ("a/b", "A"),
            ("a/x", "A/y"),
        ] {
            let mut set = NameSet::new();
            let names = [first, second].map(|name| FileName::parse(&name.nfc().collect::<String>()).unwrap());
            assert_eq!(set.insert(&names[0]), Ok(()));
            assert!(matches!(set.insert(&names[1]), Err(NameClash::Same { .. })), "{first} {second}");
        }
        let mut set = NameSet::new();
        for name in ["a/b", "a/c", "b", "a/d/e", "①", "1", "Ａ"] {
            assert_eq!(set.insert(&FileName::parse(name).unwrap()), Ok(()), "{name}");
        }
    }

    #[test]
    fn a_set_is_bounded() {
        let mut set = NameSet::new();
        let stem = ["x".repeat(30).as_str(); 30].join("/");
        let refused = (0..100_000).find_map(|i| set.insert(&FileName::parse(&format!("{i}/{stem}")).unwrap()).err());
        assert_eq!(refused, Some(NameClash::TooMany));
    }

    #[test]
    fn logs_show_what_is_there() {
        assert_eq!(escape_for_log("张三\n\u{1b}[31m\\\u{202e}x"), "张三\\n\\u{1b}[31m\\\\\\u{202e}x");
        assert_eq!(escape_for_log(&"a".repeat(5_000)).chars().count(), LOG_CHARS_MAX + 1);
    }

    proptest! {
        #[test]
        fn a_name_that_passes_stays_below_its_folder(text in "([a-c./ \\\\]|\\PC|[\\x00-\\x20]|\\.\\.){0,12}") {
            if let Ok(name) = FileName::parse(&text) {
                prop_assert_eq!(name.as_str(), &text);
                let path = std::path::Path::new(name.as_str());
                prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
                prop_assert_eq!(path.components().count(), name.parts().count());
            }
        }

        #[test]
        fn a_log_line_is_one_line_without_control(text in "(\\PC|\\p{C}){0,40}") {
            let line = escape_for_log(&text);
            prop_assert!(!line.chars().any(is_hidden));
        }
    }
}
