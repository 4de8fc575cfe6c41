//! Names that peers choose.

/// Whether `c` does not show, or changes how others show: control characters, bidirectional marks, line and paragraph
/// separators, and characters without width that make two names look the same.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || is_bidi(c)
        || matches!(c, '\u{ad}' | '\u{200b}' | '\u{2028}' | '\u{2029}' | '\u{2060}'..='\u{2064}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Whether `c` steers the direction of text.
pub(crate) fn is_bidi(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
