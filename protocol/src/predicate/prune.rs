//! What a condition can be over a run of rows of which only the least and greatest values are known.
//!
//! Each term gives the set of what it may be (true, false, unknown), and `and`, `or` and `not` work on the sets. The sets
//! are never too small, so a run that cannot be true holds no row that is selected.

use super::ast::CompareOp;
use super::eval::{Value, and, or};
use super::types::TypedPredicate;

/// What is known of a column over a run of rows. Bounds need not be reached: a minimum that is too low and a maximum that
/// is too high are fine, and `None` is always right.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnStats {
    /// No value is less.
    pub min: Option<Value>,
    /// No value is greater. Not used for floats: the statistics of files leave NaN out, and here NaN is the greatest.
    pub max: Option<Value>,
    /// Whether a value may be missing.
    pub may_be_null: bool,
    /// Whether a value may be there; false where all are missing.
    pub may_be_value: bool,
}

impl ColumnStats {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { min: None, max: None, may_be_null: true, may_be_value: true };
}

impl TypedPredicate {
    /// Whether a run of rows with these statistics can hold a row that is selected. `false` is certain, `true` is not:
    /// the rows are still to be looked at.
    pub fn may_match(&self, stats: &dyn Fn(usize) -> ColumnStats) -> bool {
        self.outcomes(stats).contains(Some(true))
    }

    fn outcomes(&self, stats: &dyn Fn(usize) -> ColumnStats) -> Outcomes {
        match self {
            Self::And(parts) => {
                parts.iter().map(|part| part.outcomes(stats)).fold(Outcomes::only(Some(true)), |a, b| a.combine(b, and))
            }
            Self::Or(parts) => {
                parts.iter().map(|part| part.outcomes(stats)).fold(Outcomes::only(Some(false)), |a, b| a.combine(b, or))
            }
            Self::Not(inner) => {
                let inner = inner.outcomes(stats);
                inner.combine(Outcomes::only(None), |a, _| a.map(|holds| !holds))
            }
            Self::Compare { column, op, value } => {
                let stats = stats(*column);
                Outcomes::of_value(&stats, may_hold(*op, value, &stats), may_hold(op.negated(), value, &stats))
            }
            Self::In { column, values } => {
                let stats = stats(*column);
                let may_equal = |value| may_hold(CompareOp::Eq, value, &stats);
                let may_differ = |value| may_hold(CompareOp::Ne, value, &stats);
                Outcomes::of_value(&stats, values.iter().any(may_equal), values.iter().all(may_differ))
            }
            Self::IsNull { column, negated } => {
                let stats = stats(*column);
                let mut outcomes = Outcomes(0);
                if stats.may_be_null {
                    outcomes = outcomes.with(Some(!negated));
                }
                if stats.may_be_value {
                    outcomes = outcomes.with(Some(*negated));
                }
                outcomes
            }
            Self::Within { column, region } => {
                let stats = stats(*column);
                // A region's code begins every code inside it (the table is checked for that), and is followed by digits.
                let low = Value::String(region.to_string());
                let high = Value::String(format!("{region}:"));
                let may = may_hold(CompareOp::Ge, &low, &stats) && may_hold(CompareOp::Lt, &high, &stats);
                let outcomes = Outcomes::of_value(&stats, may, true);
                // A value may be no region at all.
                if stats.may_be_value { outcomes.with(None) } else { outcomes }
            }
        }
    }
}

/// Whether a value within the bounds can make `value-of-column op value` hold.
fn may_hold(op: CompareOp, value: &Value, stats: &ColumnStats) -> bool {
    let order = |bound: &Option<Value>| bound.as_ref().and_then(|bound| bound.compare(value));
    let min = order(&stats.min);
    let max = if matches!(value, Value::Float64(_)) { None } else { order(&stats.max) };
    match op {
        CompareOp::Eq => min.is_none_or(|o| o.is_le()) && max.is_none_or(|o| o.is_ge()),
        CompareOp::Ne => !(min.is_some_and(|o| o.is_eq()) && max.is_some_and(|o| o.is_eq())),
        CompareOp::Lt | CompareOp::Le => min.is_none_or(|o| op.holds(o)),
        CompareOp::Gt | CompareOp::Ge => max.is_none_or(|o| op.holds(o)),
    }
}

/// A set of true, false and unknown.
#[derive(Clone, Copy)]
struct Outcomes(u8);

impl Outcomes {
    fn only(outcome: Option<bool>) -> Self {
        Self(0).with(outcome)
    }

    /// Of a term that is unknown where its column is null.
    fn of_value(stats: &ColumnStats, may_be_true: bool, may_be_false: bool) -> Self {
        let mut outcomes = Self(0);
        if stats.may_be_null {
            outcomes = outcomes.with(None);
        }
        if stats.may_be_value && may_be_true {
            outcomes = outcomes.with(Some(true));
        }
        if stats.may_be_value && may_be_false {
            outcomes = outcomes.with(Some(false));
        }
        outcomes
    }

    const fn bit(outcome: Option<bool>) -> u8 {
        match outcome {
            Some(true) => 1,
            Some(false) => 2,
            None => 4,
        }
    }

    const fn with(self, outcome: Option<bool>) -> Self {
        Self(self.0 | Self::bit(outcome))
    }

    const fn contains(self, outcome: Option<bool>) -> bool {
        self.0 & Self::bit(outcome) != 0
    }

    /// What `join` gives for every pair of the two sets.
    fn combine(self, other: Self, join: impl Fn(Option<bool>, Option<bool>) -> Option<bool>) -> Self {
        const ALL: [Option<bool>; 3] = [Some(true), Some(false), None];
        let mut outcomes = Self(0);
        for a in ALL.into_iter().filter(|a| self.contains(*a)) {
            for b in ALL.into_iter().filter(|b| other.contains(*b)) {
                outcomes = outcomes.with(join(a, b));
            }
        }
        outcomes
    }
}
