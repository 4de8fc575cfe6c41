//! The tree of a condition, and its one text.

use super::lex::{is_bare_name, is_reserved};
use super::literal::Literal;
use crate::region::RegionCode;
use std::cmp::Ordering;
use std::fmt;

/// A condition. `And` and `Or` have two parts or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// All hold.
    And(Vec<Expr>),
    /// One holds.
    Or(Vec<Expr>),
    /// It does not hold.
    Not(Box<Expr>),
    /// `column op value`.
    Compare {
        /// The column's name.
        column: String,
        /// How it is compared.
        op: CompareOp,
        /// With what.
        value: Literal,
    },
    /// `column in (values)`.
    In {
        /// The column's name.
        column: String,
        /// One or more.
        values: Vec<Literal>,
    },
    /// `column between low and high`, both included.
    Between {
        /// The column's name.
        column: String,
        /// The least value.
        low: Literal,
        /// The greatest value.
        high: Literal,
    },
    /// `column is null`, or `is not null`.
    IsNull {
        /// The column's name.
        column: String,
        /// Whether it reads `is not null`.
        negated: bool,
    },
    /// `column within 'region'`.
    Within {
        /// The column's name.
        column: String,
        /// The region.
        region: RegionCode,
    },
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CompareOp {
    /// `=`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
}

impl CompareOp {
    /// Its sign.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Eq => "=",
            Self::Ne => "!=",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
        }
    }

    /// Whether `left op right` holds where `left` stands to `right` in this order.
    pub const fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Eq => order.is_eq(),
            Self::Ne => order.is_ne(),
            Self::Lt => order.is_lt(),
            Self::Le => order.is_le(),
            Self::Gt => order.is_gt(),
            Self::Ge => order.is_ge(),
        }
    }

    /// The operator that holds exactly where this one does not, null aside.
    #[must_use]
    pub const fn negated(self) -> Self {
        match self {
            Self::Eq => Self::Ne,
            Self::Ne => Self::Eq,
            Self::Lt => Self::Ge,
            Self::Le => Self::Gt,
            Self::Gt => Self::Le,
            Self::Ge => Self::Lt,
        }
    }
}

impl Expr {
    /// What must all hold: the parts of an `And`, else the condition itself.
    pub(super) fn conjuncts(&self) -> &[Self] {
        match self {
            Self::And(parts) => parts,
            other => std::slice::from_ref(other),
        }
    }

    /// Calls `visit` with the column of every term.
    pub(super) fn visit_columns<'a>(&'a self, visit: &mut dyn FnMut(&'a str)) {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().for_each(|part| part.visit_columns(visit)),
            Self::Not(inner) => inner.visit_columns(visit),
            Self::Compare { column, .. }
            | Self::In { column, .. }
            | Self::Between { column, .. }
            | Self::IsNull { column, .. }
            | Self::Within { column, .. } => visit(column),
        }
    }
}

/// The canonical text: lower-case words, one space, brackets only where the tree needs them. It parses to the same tree.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::And(parts) => joined(f, parts, " and ", |part| matches!(part, Self::And(_) | Self::Or(_))),
            Self::Or(parts) => joined(f, parts, " or ", |part| matches!(part, Self::Or(_))),
            Self::Not(inner) => {
                f.write_str("not ")?;
                bracketed(f, inner, matches!(**inner, Self::And(_) | Self::Or(_)))
            }
            Self::Compare { column, op, value } => write!(f, "{} {} {value}", Name(column), op.as_str()),
            Self::In { column, values } => {
                write!(f, "{} in (", Name(column))?;
                for (i, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str(")")
            }
            Self::Between { column, low, high } => write!(f, "{} between {low} and {high}", Name(column)),
            Self::IsNull { column, negated } => {
                write!(f, "{} is {}null", Name(column), if *negated { "not " } else { "" })
            }
            Self::Within { column, region } => write!(f, "{} within '{region}'", Name(column)),
        }
    }
}

fn joined(
    f: &mut fmt::Formatter<'_>,
    parts: &[Expr],
    word: &str,
    needs_brackets: impl Fn(&Expr) -> bool,
) -> fmt::Result {
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            f.write_str(word)?;
        }
        bracketed(f, part, needs_brackets(part))?;
    }
    Ok(())
}

fn bracketed(f: &mut fmt::Formatter<'_>, expr: &Expr, brackets: bool) -> fmt::Result {
    if brackets { write!(f, "({expr})") } else { write!(f, "{expr}") }
}

/// A column's name, in quotes where it needs them.
struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_bare_name(self.0) && !is_reserved(self.0) {
            f.write_str(self.0)
        } else {
            write!(f, "\"{}\"", self.0.replace('"', "\"\""))
        }
    }
}
