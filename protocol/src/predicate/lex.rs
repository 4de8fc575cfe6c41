//! Cuts a condition into words, values and signs.

use super::literal::Number;
use super::{PredicateError, PredicateProblem, TEXT_BYTES_MAX};
use std::iter::Peekable;
use std::str::Chars;
use unicode_normalization::UnicodeNormalization;

/// Digits that a number may have: what 128 bits always hold.
const DIGITS_MAX: usize = 38;

/// Words that no column can have as a bare name.
const RESERVED: [&str; 10] = ["and", "or", "not", "in", "between", "is", "null", "within", "true", "false"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A bare word, as written.
    Word(String),
    /// A column's name in double quotes.
    Quoted(String),
    /// A string in single quotes.
    String(String),
    Number(Number),
    Sign(&'static str),
    /// After the last character.
    End,
}

impl Token {
    /// Whether it is this word of the language, in any case.
    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self, Self::Word(text) if text.eq_ignore_ascii_case(word))
    }

    /// How an error shows it.
    pub(super) fn shown(&self) -> String {
        let text = match self {
            Self::Word(text) => format!("`{text}`"),
            Self::Quoted(text) => format!("\"{text}\""),
            Self::String(text) => format!("'{text}'"),
            Self::Number(number) => number.to_string(),
            Self::Sign(sign) => format!("`{sign}`"),
            Self::End => "the end".to_owned(),
        };
        if text.chars().count() <= 40 { text } else { text.chars().take(40).chain("…".chars()).collect() }
    }
}

/// A token and the character it begins at, from 1.
pub(super) type Placed = (Token, usize);

/// Whether `name` can stand without quotes, reserved words aside.
pub(super) fn is_bare_name(name: &str) -> bool {
    name.split('.').all(|part| {
        let mut chars = part.chars();
        chars.next().is_some_and(starts_name) && chars.all(continues_name)
    })
}

/// Whether `name` is a word of the language.
pub(super) fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|word| name.eq_ignore_ascii_case(word))
}

/// The tokens of `text`, the last of which is [`Token::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Placed>, PredicateError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(PredicateError { position: 1, problem: PredicateProblem::TooLong });
    }
    let mut lexer = Lexer { chars: text.chars().peekable(), position: 1 };
    let mut tokens = Vec::new();
    loop {
        let (token, position) = lexer.next()?;
        let end = token == Token::End;
        tokens.push((token, position));
        if end {
            return Ok(tokens);
        }
    }
}

fn starts_name(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn continues_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

struct Lexer<'a> {
    chars: Peekable<Chars<'a>>,
    /// Of the next character, from 1.
    position: usize,
}

impl Lexer<'_> {
    fn next(&mut self) -> Result<Placed, PredicateError> {
        while self.take_if(char::is_whitespace).is_some() {}
        let position = self.position;
        let fail = |problem| Err(PredicateError { position, problem });
        let Some(first) = self.take_if(|_| true) else { return Ok((Token::End, position)) };
        let token = match first {
            '(' => Token::Sign("("),
            ')' => Token::Sign(")"),
            ',' => Token::Sign(","),
            '=' => Token::Sign("="),
            '!' if self.take_if(|c| c == '=').is_some() => Token::Sign("!="),
            '<' if self.take_if(|c| c == '=').is_some() => Token::Sign("<="),
            '<' if self.take_if(|c| c == '>').is_some() => Token::Sign("!="),
            '<' => Token::Sign("<"),
            '>' if self.take_if(|c| c == '=').is_some() => Token::Sign(">="),
            '>' => Token::Sign(">"),
            '\'' | '"' => {
                let Some(text) = self.quoted(first) else { return fail(PredicateProblem::Unclosed(first)) };
                if first == '\'' { Token::String(text) } else { Token::Quoted(text.nfc().collect()) }
            }
            c if starts_name(c) => {
                let mut name = String::from(c);
                while let Some(c) = self.next_of_name() {
                    name.push(c);
                }
                // Entries name their items in this form.
                Token::Word(name.nfc().collect())
            }
            c if c.is_ascii_digit() || c == '-' => {
                let mut number = String::from(c);
                while let Some(c) = self.take_if(|c| c.is_ascii_digit() || c == '.' || continues_name(c)) {
                    number.push(c);
                }
                match read_number(&number) {
                    Ok(number) => Token::Number(number),
                    Err(problem) => return fail(problem),
                }
            }
            c => {
                let expected = "a column, a value, a word or a sign";
                return fail(PredicateProblem::Expected { expected, found: format!("{c:?}") });
            }
        };
        Ok((token, position))
    }

    /// The next character of a bare name: a point goes on only where another part follows.
    fn next_of_name(&mut self) -> Option<char> {
        let mut ahead = self.chars.clone();
        let goes_on = ahead.next() == Some('.') && ahead.next().is_some_and(starts_name);
        self.take_if(|c| continues_name(c) || c == '.' && goes_on)
    }

    fn take_if(&mut self, good: impl Fn(char) -> bool) -> Option<char> {
        let c = self.chars.next_if(|c| good(*c))?;
        self.position += 1;
        Some(c)
    }

    /// The rest of a quoted text, where a doubled quote is one; `None` where it never closes.
    fn quoted(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        loop {
            let c = self.take_if(|_| true)?;
            if c == quote && self.take_if(|c| c == quote).is_none() {
                return Some(text);
            }
            text.push(c);
        }
    }
}

fn read_number(text: &str) -> Result<Number, PredicateProblem> {
    let bad = || PredicateProblem::Expected {
        expected: "a number such as 12 or -3.50",
        found: Token::Word(text.to_owned()).shown(),
    };
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, part) = digits.split_once('.').map_or((digits, None), |(whole, part)| (whole, Some(part)));
    let good = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !good(whole) || !part.is_none_or(good) {
        return Err(bad());
    }
    let (whole, part) = (whole.trim_start_matches('0'), part.unwrap_or_default());
    if whole.len() + part.len() > DIGITS_MAX {
        return Err(PredicateProblem::LongNumber);
    }
    let magnitude: i128 = format!("0{whole}{part}").parse().map_err(|_| PredicateProblem::LongNumber)?;
    let unscaled = if digits.len() < text.len() { -magnitude } else { magnitude };
    Ok(Number { unscaled, scale: u8::try_from(part.len()).map_err(|_| PredicateProblem::LongNumber)? })
}
