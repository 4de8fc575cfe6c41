//! Texts that people and peers write: bounded, and nothing hidden in them, for they are shown to others.

use super::error::Refusal;

/// Characters of a name or a duty: a line on a screen.
pub const NAME_CHARS_MAX: usize = 128;

/// Characters of a reason: a long paragraph, and small enough to stand in lists.
pub const REASON_CHARS_MAX: usize = 2_000;

/// A name: one line.
///
/// # Errors
/// Empty, too long, or with a character that does not show.
pub fn name(what: &'static str, text: &str) -> Result<String, Refusal> {
    checked(what, text, NAME_CHARS_MAX, false)
}

/// A reason: lines may end in it.
///
/// # Errors
/// Empty, too long, or with a character that does not show.
pub fn reason(text: &str) -> Result<String, Refusal> {
    checked("a reason", text, REASON_CHARS_MAX, true)
}

fn checked(what: &'static str, text: &str, chars_max: usize, lines: bool) -> Result<String, Refusal> {
    let refused = |problem: String| Err(Refusal::Text { what, problem });
    let text = text.trim();
    if text.is_empty() {
        return refused("is empty".into());
    }
    if text.chars().count() > chars_max {
        return refused(format!("has more than {chars_max} characters"));
    }
    match text.chars().find(|c| is_hidden(*c) && !(lines && matches!(c, '\n' | '\t'))) {
        Some(c) => refused(format!("holds the character U+{:04X}, which cannot be seen", u32::from(c))),
        None => Ok(text.to_owned()),
    }
}

/// Control characters, bidirectional marks, separators and characters without width.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_reasons_show_all_they_hold() {
        assert_eq!(name("a name", " 市场监督管理局 "), Ok("市场监督管理局".into()));
        assert_eq!(reason("一\n二"), Ok("一\n二".into()));
        for bad in ["", "  ", "a\nb", "a\u{202e}b", "a\u{0}b", "a\u{feff}b", &"x".repeat(NAME_CHARS_MAX + 1)] {
            assert!(name("a name", bad).is_err(), "{bad:?}");
        }
        assert!(reason(&"字".repeat(REASON_CHARS_MAX)).is_ok());
        assert!(reason(&"字".repeat(REASON_CHARS_MAX + 1)).is_err());
        assert!(reason("a\u{2066}b").is_err());
    }

    proptest! {
        #[test]
        fn what_passes_once_passes_unchanged(text in "\\PC{0,60}") {
            if let Ok(good) = name("a name", &text) {
                prop_assert_eq!(name("a name", &good), Ok(good));
            }
        }
    }
}
