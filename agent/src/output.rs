//! What a command says: one JSON document on standard output for programs, text and tables for people.

mod table;

pub use table::{Table, clean, width};

use crate::error::AgentError;
use std::io::Write as _;
use std::path::Path;

/// Which of its two languages this program speaks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// English alone.
    English,
    /// 中文, then English where it matters.
    Chinese,
}

impl Language {
    /// From the values of `LC_ALL`, `LC_MESSAGES` and `LANG`: the first that is set decides.
    pub fn from_locale<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        let first = values.into_iter().flatten().find(|value| !value.is_empty());
        if first.is_some_and(|value| value.to_ascii_lowercase().starts_with("zh")) {
            Self::Chinese
        } else {
            Self::English
        }
    }
}

/// How a command speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// One JSON document instead of text.
    pub json: bool,
    /// The first language.
    pub language: Language,
}

impl Output {
    /// `en` or `zh`, by language.
    pub const fn pick<'a>(&self, en: &'a str, zh: &'a str) -> &'a str {
        match self.language {
            Language::English => en,
            Language::Chinese => zh,
        }
    }

    /// Says the result: `json` to programs, `text` to people.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn say(&self, json: &serde_json::Value, text: impl FnOnce(&Self) -> String) -> Result<(), AgentError> {
        let mut out = if self.json { json.to_string() } else { text(self) };
        if !out.ends_with('\n') {
            out.push('\n');
        }
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(out.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(|e| AgentError::io("writing to", Path::new("standard output"), &e))
    }

    /// Says an error on standard error: one line of JSON to programs, text to people. Standard output stays as it is.
    pub fn say_error(&self, error: &AgentError) {
        let text =
            if self.json { format!("{}\n", error.to_json()) } else { error.render(self.language == Language::Chinese) };
        // Nothing is left to tell it to where standard error is gone; the exit code still says it.
        let _gone = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_locale_that_is_set_decides() {
        let of = |values: [Option<&str>; 3]| Language::from_locale(values);
        assert_eq!(of([None, None, Some("zh_CN.UTF-8")]), Language::Chinese);
        assert_eq!(of([Some("C"), None, Some("zh_CN.UTF-8")]), Language::English);
        assert_eq!(of([Some(""), Some("ZH"), Some("en_GB")]), Language::Chinese);
        assert_eq!(of([None, None, None]), Language::English);
    }

    #[test]
    fn people_get_their_language() {
        let output = |language| Output { json: false, language };
        assert_eq!(output(Language::Chinese).pick("yes", "是"), "是");
        assert_eq!(output(Language::English).pick("yes", "是"), "yes");
    }
}
