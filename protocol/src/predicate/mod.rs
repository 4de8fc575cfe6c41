//! Row conditions (`where`): a small language that is parsed, bounded and typed, and never handed to a database as text.
//!
//! ```text
//! condition  = conjunct { "or" conjunct }
//! conjunct   = factor { "and" factor }
//! factor     = "not" factor | "(" condition ")" | term
//! term       = column ( "=" | "!=" | "<>" | "<" | "<=" | ">" | ">=" ) value
//!            | column "is" [ "not" ] "null"
//!            | column [ "not" ] ( "in" "(" value { "," value } ")" | "between" value "and" value | "within" string )
//! column     = name { "." name } | '"' any but '"', '"' doubled '"'
//! name       = letter or "_" { letter | digit | "_" }
//! value      = string | number | "true" | "false" | "date" string | "timestamp" string
//! string     = "'" any but "'", "'" doubled "'"
//! number     = [ "-" ] digits [ "." digits ]
//! ```
//!
//! Words are read in any case. A column whose name is a word of the language stands in double quotes; `date` and
//! `timestamp` need none. A date is `date '2026-01-31'`, a point in time `timestamp '2026-01-31T08:00:00.000000Z'`, always
//! UTC. `not` binds before `and`, `and` before `or`. `a between x and y` means `a >= x and a <= y`.
//!
//! **Nulls** mean what they mean in SQL: a comparison with a missing value is neither true nor false but unknown, `not`
//! leaves unknown unknown, and a row is selected only where the whole is true.
//! **Strings** compare by their UTF-8 bytes. **Floats** compare as numbers, -0 equal to 0, and NaN is equal to itself and
//! greater than every number, as in PostgreSQL ([`compare_floats`]). **`within`** follows the table of regions; a value
//! that the table does not know is unknown, so that neither `within` nor `not within` lets its row out.
//!
//! How it is used: [`Predicate::parse`] makes the syntax tree, [`Predicate::check`] types it against an entry and gives a
//! [`TypedPredicate`], whose columns are places in the entry and whose values have the columns' types. The lake evaluates
//! that on Arrow columns, prunes with [`TypedPredicate::may_match`], and is tested against [`TypedPredicate::eval_row`].

mod ast;
mod eval;
mod lex;
mod literal;
mod parse;
mod prune;
mod types;

pub use ast::{CompareOp, Expr};
pub use eval::{Value, compare_floats, within};
pub use literal::{Literal, Number, date_text, parse_date, parse_timestamp, timestamp_text};
pub use prune::ColumnStats;
pub use types::{TypeMistake, TypeMistakes, TypedPredicate};

use crate::entry::EntrySpec;
use crate::region::{RegionCode, RegionError};
use std::fmt;
use std::str::FromStr;

/// Bytes of text: what a person can still review, and far above any condition seen.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Terms, where each value of an `in` list counts as one: evaluation costs a pass over a column for each.
pub const TERMS_MAX: usize = 1_000;

/// How deep `not` and brackets may nest: parser and evaluators recurse, and this keeps their stacks small.
pub const DEPTH_MAX: usize = 64;

/// A condition on rows, parsed but not yet typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predicate {
    expr: Expr,
}

impl Predicate {
    /// Reads a condition.
    ///
    /// # Errors
    /// Says at which character what was expected, or which bound was passed.
    pub fn parse(text: &str) -> Result<Self, PredicateError> {
        parse::parse(text).map(|expr| Self { expr })
    }

    /// Of a tree that this program made.
    pub(crate) const fn of(expr: Expr) -> Self {
        Self { expr }
    }

    /// Types it against some items.
    pub(crate) fn typed_as(&self, items: &[crate::entry::DataItem]) -> Result<TypedPredicate, TypeMistakes> {
        types::check_items(&self.expr, items)
    }

    /// Its tree.
    pub fn expr(&self) -> &Expr {
        &self.expr
    }

    /// The columns it names, each once, in the order of their names.
    pub fn columns(&self) -> Vec<&str> {
        let mut names = std::collections::BTreeSet::new();
        self.expr.visit_columns(&mut |name| {
            names.insert(name);
        });
        names.into_iter().collect()
    }

    /// What must all hold: the parts that `and` joins, or the whole.
    pub fn conjuncts(&self) -> &[Expr] {
        self.expr.conjuncts()
    }

    /// Rows that satisfy both. The result can be longer than what [`parse`](Self::parse) takes: it is made of two that
    /// were bounded.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut parts = self.conjuncts().to_vec();
        parts.extend_from_slice(other.conjuncts());
        Self { expr: Expr::And(parts) }
    }

    /// `column within 'region'`.
    pub fn within(column: &str, region: RegionCode) -> Self {
        Self { expr: Expr::Within { column: column.to_owned(), region } }
    }

    /// `column` lies within one of these regions; none where there are none.
    pub fn within_any(column: &str, regions: &[RegionCode]) -> Self {
        let within = |region: &RegionCode| Expr::Within { column: column.to_owned(), region: *region };
        match regions {
            [only] => Self { expr: within(only) },
            several => Self { expr: Expr::Or(several.iter().map(within).collect()) },
        }
    }

    /// Types it against an entry.
    ///
    /// # Errors
    /// Every mistake: columns that the entry does not have, values that do not fit their column.
    pub fn check(&self, entry: &EntrySpec) -> Result<TypedPredicate, TypeMistakes> {
        types::check(&self.expr, entry)
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.expr, f)
    }
}

impl FromStr for Predicate {
    type Err = PredicateError;
    fn from_str(text: &str) -> Result<Self, PredicateError> {
        Self::parse(text)
    }
}

/// A text that is no condition. The fault is the writer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("character {position}: {problem}")]
pub struct PredicateError {
    /// Which character of the text, from 1.
    pub position: usize,
    /// What is wrong there.
    pub problem: PredicateProblem,
}

/// What is wrong with a condition's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PredicateProblem {
    /// Too long a text.
    #[error("the condition is longer than {TEXT_BYTES_MAX} bytes: shorten it")]
    TooLong,
    /// Too many terms.
    #[error("the condition has more than {TERMS_MAX} terms (values of lists count): split the request")]
    TooManyTerms,
    /// Too deep a nesting.
    #[error("brackets and not nest deeper than {DEPTH_MAX}: simplify the condition")]
    TooDeep,
    /// Something else was expected.
    #[error("expected {expected}, found {found}")]
    Expected {
        /// What could stand here.
        expected: &'static str,
        /// What stands here.
        found: String,
    },
    /// A quote that never closes.
    #[error("this quote never closes: add {0} at its end, and write {0}{0} for one inside")]
    Unclosed(char),
    /// A number with more digits than can be held.
    #[error("a number has at most 38 digits")]
    LongNumber,
    /// Not a day.
    #[error("not a day: write date '2026-01-31'")]
    BadDate,
    /// Not a point in time.
    #[error("not a point in time: write timestamp '2026-01-31T08:00:00Z', in UTC, with up to six digits of a second")]
    BadTimestamp,
    /// Not a region.
    #[error(transparent)]
    Region(#[from] RegionError),
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
