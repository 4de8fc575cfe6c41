//! The parser: recursive descent, whose recursion is one step a `not` or a bracket and so bounded by the depth allowed.

use super::ast::{CompareOp, Expr};
use super::lex::{Placed, Token, is_reserved, tokens};
use super::literal::{Literal, parse_date, parse_timestamp};
use super::{DEPTH_MAX, PredicateError, PredicateProblem, TERMS_MAX};
use crate::region::RegionTable;

/// Reads a whole condition.
pub(super) fn parse(text: &str) -> Result<Expr, PredicateError> {
    let mut tokens = tokens(text)?;
    // The last is the end, and the parser never takes it.
    tokens.reverse();
    let mut parser = Parser { rest: tokens, terms: 0 };
    let expr = parser.condition(0)?;
    match parser.peek() {
        Token::End => Ok(expr),
        _ => Err(parser.expected("`and`, `or` or the end")),
    }
}

struct Parser {
    /// What is left, the next token last.
    rest: Vec<Placed>,
    terms: usize,
}

impl Parser {
    fn condition(&mut self, depth: usize) -> Result<Expr, PredicateError> {
        let mut parts = vec![self.conjunction(depth)?];
        while self.take_word("or") {
            parts.push(self.conjunction(depth)?);
        }
        Ok(one_or(parts, Expr::Or))
    }

    fn conjunction(&mut self, depth: usize) -> Result<Expr, PredicateError> {
        let mut parts = vec![self.factor(depth)?];
        while self.take_word("and") {
            parts.push(self.factor(depth)?);
        }
        Ok(one_or(parts, Expr::And))
    }

    fn factor(&mut self, depth: usize) -> Result<Expr, PredicateError> {
        if self.peek().is_word("not") {
            let depth = self.deeper(depth)?;
            self.take();
            return Ok(Expr::Not(Box::new(self.factor(depth)?)));
        }
        if *self.peek() == Token::Sign("(") {
            let depth = self.deeper(depth)?;
            self.take();
            let inner = self.condition(depth)?;
            self.sign(")", "`and`, `or` or `)`")?;
            return Ok(inner);
        }
        self.term(depth)
    }

    fn term(&mut self, depth: usize) -> Result<Expr, PredicateError> {
        self.count_term()?;
        let column = match self.peek() {
            Token::Word(name) if !is_reserved(name) => name.clone(),
            Token::Quoted(name) if !name.is_empty() => name.clone(),
            _ => return Err(self.expected("a column, `not` or `(`")),
        };
        self.take();
        if let Token::Sign(sign) = *self.peek() {
            let Some(op) = compare_op(sign) else { return Err(self.expected(AFTER_COLUMN)) };
            self.take();
            return Ok(Expr::Compare { column, op, value: self.value()? });
        }
        if self.take_word("is") {
            let negated = self.take_word("not");
            self.word("null", if negated { "`null`" } else { "`null` or `not null`" })?;
            return Ok(Expr::IsNull { column, negated });
        }
        // `column not in …` is `not column in …`, and as deep.
        if self.peek().is_word("not") {
            self.deeper(depth)?;
            self.take();
            return Ok(Expr::Not(Box::new(self.listed(column, "`in`, `between` or `within`")?)));
        }
        self.listed(column, AFTER_COLUMN)
    }

    fn listed(&mut self, column: String, expected: &'static str) -> Result<Expr, PredicateError> {
        if self.take_word("in") {
            self.sign("(", "`(` and a list of values")?;
            let mut values = vec![self.value()?];
            while *self.peek() == Token::Sign(",") {
                self.take();
                self.count_term()?;
                values.push(self.value()?);
            }
            self.sign(")", "`,` or `)`")?;
            return Ok(Expr::In { column, values });
        }
        if self.take_word("between") {
            let low = self.value()?;
            self.word("and", "`and` and the greatest value")?;
            return Ok(Expr::Between { column, low, high: self.value()? });
        }
        if self.take_word("within") {
            let (text, position) = self.string("a region code in single quotes")?;
            let fail = |e| PredicateError { position, problem: PredicateProblem::Region(e) };
            let region = RegionTable::national().check(&text).map_err(fail)?;
            return Ok(Expr::Within { column, region });
        }
        Err(self.expected(expected))
    }

    fn value(&mut self) -> Result<Literal, PredicateError> {
        let value = match self.peek() {
            Token::String(text) => Literal::String(text.clone()),
            Token::Number(number) => Literal::Number(*number),
            word if word.is_word("true") => Literal::Bool(true),
            word if word.is_word("false") => Literal::Bool(false),
            word if word.is_word("date") => {
                self.take();
                let (text, position) = self.string("a day in single quotes")?;
                let fail = PredicateError { position, problem: PredicateProblem::BadDate };
                return parse_date(&text).map(Literal::Date).ok_or(fail);
            }
            word if word.is_word("timestamp") => {
                self.take();
                let (text, position) = self.string("a point in time in single quotes")?;
                let fail = PredicateError { position, problem: PredicateProblem::BadTimestamp };
                return parse_timestamp(&text).map(Literal::Timestamp).ok_or(fail);
            }
            _ => return Err(self.expected("a value: 'text', a number, true, false, date '…' or timestamp '…'")),
        };
        self.take();
        Ok(value)
    }

    fn string(&mut self, expected: &'static str) -> Result<(String, usize), PredicateError> {
        let position = self.position();
        match self.peek() {
            Token::String(text) => {
                let text = text.clone();
                self.take();
                Ok((text, position))
            }
            _ => Err(self.expected(expected)),
        }
    }

    fn sign(&mut self, sign: &'static str, expected: &'static str) -> Result<(), PredicateError> {
        if *self.peek() != Token::Sign(sign) {
            return Err(self.expected(expected));
        }
        self.take();
        Ok(())
    }

    fn word(&mut self, word: &str, expected: &'static str) -> Result<(), PredicateError> {
        if self.take_word(word) { Ok(()) } else { Err(self.expected(expected)) }
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.peek().is_word(word);
        if found {
            self.take();
        }
        found
    }

    fn peek(&self) -> &Token {
        self.rest.last().map_or(&Token::End, |(token, _)| token)
    }

    fn position(&self) -> usize {
        self.rest.last().map_or(1, |(_, position)| *position)
    }

    /// Goes past a token; never past the end.
    fn take(&mut self) {
        if self.rest.len() > 1 {
            self.rest.pop();
        }
    }

    fn count_term(&mut self) -> Result<(), PredicateError> {
        self.terms += 1;
        if self.terms > TERMS_MAX { Err(self.fail(PredicateProblem::TooManyTerms)) } else { Ok(()) }
    }

    fn deeper(&self, depth: usize) -> Result<usize, PredicateError> {
        if depth >= DEPTH_MAX { Err(self.fail(PredicateProblem::TooDeep)) } else { Ok(depth + 1) }
    }

    fn fail(&self, problem: PredicateProblem) -> PredicateError {
        PredicateError { position: self.position(), problem }
    }

    fn expected(&self, expected: &'static str) -> PredicateError {
        self.fail(PredicateProblem::Expected { expected, found: self.peek().shown() })
    }
}

const AFTER_COLUMN: &str = "a comparison, `is`, `in`, `between`, `within` or `not`";

fn compare_op(sign: &str) -> Option<CompareOp> {
    use CompareOp::{Eq, Ge, Gt, Le, Lt, Ne};
    [Eq, Ne, Lt, Le, Gt, Ge].into_iter().find(|op| op.as_str() == sign)
}

fn one_or(mut parts: Vec<Expr>, many: impl Fn(Vec<Expr>) -> Expr) -> Expr {
    match (parts.len(), parts.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            parts.extend(last);
            many(parts)
        }
    }
}
