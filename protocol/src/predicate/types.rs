//! Types a condition against an entry.

use super::ast::{CompareOp, Expr};
use super::eval::Value;
use super::literal::Literal;
use crate::entry::{DataItem, EntryFormat, EntrySpec, ItemType};
use crate::region::RegionCode;
use std::collections::HashMap;
use std::fmt;

/// A condition whose columns are places among an entry's items and whose values have exactly their column's type:
///
/// | item | value |
/// |---|---|
/// | string | [`Value::String`] |
/// | int32, int64 | [`Value::Int32`], [`Value::Int64`] |
/// | float64 | [`Value::Float64`] |
/// | decimal(p,s) | [`Value::Decimal`] at scale s |
/// | date, timestamp | [`Value::Date`] in days, [`Value::Timestamp`] in microseconds |
/// | bool | [`Value::Bool`], with `=` and `!=` alone |
/// | binary | none: only [`TypedPredicate::IsNull`] |
///
/// No value is null. `between` has become two comparisons. `And` and `Or` combine as in SQL: false before unknown before
/// true in an `And`, true before unknown before false in an `Or`.
#[derive(Clone, Debug, PartialEq)]
pub enum TypedPredicate {
    /// All hold.
    And(Vec<TypedPredicate>),
    /// One holds.
    Or(Vec<TypedPredicate>),
    /// It does not hold.
    Not(Box<TypedPredicate>),
    /// The column's value compares so; unknown where it is null.
    Compare {
        /// Place of the column among the entry's items.
        column: usize,
        /// How.
        op: CompareOp,
        /// With what; never null.
        value: Value,
    },
    /// The column's value is one of these; unknown where it is null.
    In {
        /// Place of the column among the entry's items.
        column: usize,
        /// One or more; never null.
        values: Vec<Value>,
    },
    /// The column's value is missing or, negated, is not; never unknown.
    IsNull {
        /// Place of the column among the entry's items.
        column: usize,
        /// Whether it asks for values that are there.
        negated: bool,
    },
    /// The column's value is a region in this one; unknown where it is null or no region of the table
    /// ([`super::within`]).
    Within {
        /// Place of the column among the entry's items.
        column: usize,
        /// The region.
        region: RegionCode,
    },
}

impl TypedPredicate {
    /// Places of the columns it reads, each once, in order.
    pub fn columns(&self) -> Vec<usize> {
        let mut places = std::collections::BTreeSet::new();
        let mut open = vec![self];
        while let Some(next) = open.pop() {
            match next {
                Self::And(parts) | Self::Or(parts) => open.extend(parts),
                Self::Not(inner) => open.push(inner),
                Self::Compare { column, .. }
                | Self::In { column, .. }
                | Self::IsNull { column, .. }
                | Self::Within { column, .. } => {
                    places.insert(*column);
                }
            }
        }
        places.into_iter().collect()
    }

    /// The same over columns that lie elsewhere, as in a version that was pushed while the entry had others; `None` where
    /// `place` knows no place of one of them.
    pub fn moved(&self, place: &dyn Fn(usize) -> Option<usize>) -> Option<Self> {
        let all = |parts: &[Self]| parts.iter().map(|part| part.moved(place)).collect::<Option<Vec<_>>>();
        Some(match self {
            Self::And(parts) => Self::And(all(parts)?),
            Self::Or(parts) => Self::Or(all(parts)?),
            Self::Not(inner) => Self::Not(Box::new(inner.moved(place)?)),
            Self::Compare { column, op, value } => {
                Self::Compare { column: place(*column)?, op: *op, value: value.clone() }
            }
            Self::In { column, values } => Self::In { column: place(*column)?, values: values.clone() },
            Self::IsNull { column, negated } => Self::IsNull { column: place(*column)?, negated: *negated },
            Self::Within { column, region } => Self::Within { column: place(*column)?, region: *region },
        })
    }
}

/// One thing in a condition that does not fit the entry. The fault is the writer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypeMistake {
    /// Files have no rows.
    #[error("the entry is one of files: it takes no condition on rows")]
    NoRows,
    /// The entry has no such column.
    #[error("the entry has no column {column:?}: see `catalogue show` for its items")]
    NoColumn {
        /// The name.
        column: String,
    },
    /// A value of another kind than the column.
    #[error("{column} is {item_type}, and {literal} is not: write {expected}")]
    WrongKind {
        /// The column.
        column: String,
        /// Its type.
        item_type: ItemType,
        /// The value as written.
        literal: String,
        /// How a value of this type is written.
        expected: &'static str,
    },
    /// A number that the column's type cannot hold.
    #[error("{column} is {item_type}, which cannot hold {literal}")]
    DoesNotFit {
        /// The column.
        column: String,
        /// Its type.
        item_type: ItemType,
        /// The value as written.
        literal: String,
    },
    /// An order among values that have none.
    #[error("{column} is {item_type}, which has no order: use = or !=")]
    NoOrder {
        /// The column.
        column: String,
        /// Its type.
        item_type: ItemType,
    },
    /// `within` on a column that holds no text.
    #[error("{column} is {item_type}, and region codes are strings")]
    NoRegions {
        /// The column.
        column: String,
        /// Its type.
        item_type: ItemType,
    },
}

/// Every mistake in a condition; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeMistakes(pub Vec<TypeMistake>);

impl fmt::Display for TypeMistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.0.iter().enumerate() {
            write!(f, "{}{mistake}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for TypeMistakes {}

pub(super) fn check(expr: &Expr, entry: &EntrySpec) -> Result<TypedPredicate, TypeMistakes> {
    if entry.format == EntryFormat::File {
        return Err(TypeMistakes(vec![TypeMistake::NoRows]));
    }
    check_items(expr, &entry.items)
}

/// The same against items that are no whole entry's.
pub(super) fn check_items(expr: &Expr, items: &[DataItem]) -> Result<TypedPredicate, TypeMistakes> {
    let items = items.iter().enumerate().map(|(i, item)| (item.name.as_str(), (i, item.item_type)));
    let mut checker = Checker { items: items.collect(), mistakes: Vec::new() };
    match checker.expr(expr) {
        Some(typed) if checker.mistakes.is_empty() => Ok(typed),
        _ => Err(TypeMistakes(checker.mistakes)),
    }
}

/// `None` from any of its functions means that a mistake was noted.
struct Checker<'a> {
    items: HashMap<&'a str, (usize, ItemType)>,
    mistakes: Vec<TypeMistake>,
}

impl Checker<'_> {
    fn expr(&mut self, expr: &Expr) -> Option<TypedPredicate> {
        match expr {
            Expr::And(parts) => self.all(parts).map(TypedPredicate::And),
            Expr::Or(parts) => self.all(parts).map(TypedPredicate::Or),
            Expr::Not(inner) => self.expr(inner).map(|inner| TypedPredicate::Not(Box::new(inner))),
            Expr::Compare { column, op, value } => {
                let (place, item_type) = self.column(column)?;
                let value = self.value(column, item_type, value)?;
                self.order(column, item_type, *op)?;
                Some(TypedPredicate::Compare { column: place, op: *op, value })
            }
            Expr::In { column, values } => {
                let (place, item_type) = self.column(column)?;
                // Not `collect`, which would stop at the first mistake.
                let typed: Vec<_> = values.iter().map(|value| self.value(column, item_type, value)).collect();
                let values = typed.into_iter().collect::<Option<_>>()?;
                Some(TypedPredicate::In { column: place, values })
            }
            Expr::Between { column, low, high } => {
                let (place, item_type) = self.column(column)?;
                let (low, high) = (self.value(column, item_type, low), self.value(column, item_type, high));
                let (low, high) = (low?, high?);
                self.order(column, item_type, CompareOp::Ge)?;
                Some(TypedPredicate::And(vec![
                    TypedPredicate::Compare { column: place, op: CompareOp::Ge, value: low },
                    TypedPredicate::Compare { column: place, op: CompareOp::Le, value: high },
                ]))
            }
            Expr::IsNull { column, negated } => {
                let (place, _) = self.column(column)?;
                Some(TypedPredicate::IsNull { column: place, negated: *negated })
            }
            Expr::Within { column, region } => {
                let (place, item_type) = self.column(column)?;
                if item_type != ItemType::String {
                    return self.note(TypeMistake::NoRegions { column: column.clone(), item_type });
                }
                Some(TypedPredicate::Within { column: place, region: *region })
            }
        }
    }

    fn all(&mut self, parts: &[Expr]) -> Option<Vec<TypedPredicate>> {
        let typed: Vec<_> = parts.iter().map(|part| self.expr(part)).collect();
        typed.into_iter().collect()
    }

    fn column(&mut self, column: &str) -> Option<(usize, ItemType)> {
        match self.items.get(column) {
            Some(found) => Some(*found),
            None => self.note(TypeMistake::NoColumn { column: column.to_owned() }),
        }
    }

    fn order(&mut self, column: &str, item_type: ItemType, op: CompareOp) -> Option<()> {
        if item_type == ItemType::Bool && !matches!(op, CompareOp::Eq | CompareOp::Ne) {
            return self.note(TypeMistake::NoOrder { column: column.to_owned(), item_type });
        }
        Some(())
    }

    fn value(&mut self, column: &str, item_type: ItemType, literal: &Literal) -> Option<Value> {
        let fits = match (item_type, literal) {
            (ItemType::String, Literal::String(text)) => Some(Value::String(text.clone())),
            (ItemType::Bool, Literal::Bool(value)) => Some(Value::Bool(*value)),
            (ItemType::Date, Literal::Date(days)) => Some(Value::Date(*days)),
            (ItemType::Timestamp, Literal::Timestamp(micros)) => Some(Value::Timestamp(*micros)),
            (ItemType::Float64, Literal::Number(number)) => Some(Value::Float64(number.nearest_f64())),
            (ItemType::Int32, Literal::Number(number)) => {
                number.rescaled(0).and_then(|n| i32::try_from(n).ok()).map(Value::Int32)
            }
            (ItemType::Int64, Literal::Number(number)) => {
                number.rescaled(0).and_then(|n| i64::try_from(n).ok()).map(Value::Int64)
            }
            (ItemType::Decimal(digits, scale), Literal::Number(number)) => {
                let limit = 10u128.checked_pow(digits.into()).unwrap_or(u128::MAX);
                number.rescaled(scale).filter(|n| n.unsigned_abs() < limit).map(Value::Decimal)
            }
            _ => {
                let literal = shown(literal);
                let expected = expected(item_type);
                return self.note(TypeMistake::WrongKind { column: column.to_owned(), item_type, literal, expected });
            }
        };
        let literal = || shown(literal);
        fits.or_else(|| self.note(TypeMistake::DoesNotFit { column: column.to_owned(), item_type, literal: literal() }))
    }

    fn note<T>(&mut self, mistake: TypeMistake) -> Option<T> {
        self.mistakes.push(mistake);
        None
    }
}

/// A value as written, cut to a length that can be shown.
fn shown(literal: &Literal) -> String {
    literal.to_string().chars().take(60).collect()
}

fn expected(item_type: ItemType) -> &'static str {
    match item_type {
        ItemType::String => "'text'",
        ItemType::Int32 | ItemType::Int64 => "a whole number",
        ItemType::Float64 | ItemType::Decimal(..) => "a number",
        ItemType::Date => "date '2026-01-31'",
        ItemType::Timestamp => "timestamp '2026-01-31T08:00:00Z'",
        ItemType::Bool => "true or false",
        ItemType::Binary => "is null or is not null, for bytes are not compared",
    }
}
