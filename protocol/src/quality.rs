//! Runs the quality rules of an entry ([`crate::entry::QualityRule`]) on rows. The agent runs those that one row is enough
//! for, so that its dirty rows are named; the gateway runs all of them itself.

use crate::columns::arrow_type;
use crate::entry::{Bound, Check, EntrySpec, QualityRule, compiled};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use serde::{Deserialize, Serialize};

/// Hashes of values that are held at once, by one judge at a time: 16 MiB, and half as much again where each says where its
/// row stands.
pub const HASHES_HELD: u64 = 1 << 20;

/// Rows of a version, or of the version that is referred to, which `unique` and `reference` look at: each part of the
/// hashes is a pass over the columns, and more than so many take minutes.
pub const SET_ROWS_MAX: u64 = 32 << 20;

/// What a rule came to, as it travels with a version and stands in its receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QualityResult {
    /// The rule's name.
    pub rule: String,
    /// What it demands: `required`, `range`, `pattern`, `unique`, `reference`.
    pub check: String,
    /// What becomes of rows that it finds: `reject`, `mark`, `count`.
    pub on_failure: String,
    /// Rows that it looked at; those without a value pass most rules unseen.
    pub checked: u64,
    /// Rows that it found.
    pub failed: u64,
}

impl QualityResult {
    /// Of a rule, with its counts.
    pub fn of(rule: &QualityRule, checked: u64, failed: u64) -> Self {
        Self {
            rule: rule.name.clone(),
            check: rule.check.word().to_owned(),
            on_failure: rule.on_failure.as_str().to_owned(),
            checked,
            failed,
        }
    }
}

/// A batch whose columns are not the entry's. Our fault: batches are made canonical first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {0:?} is not of its entry's type")]
pub struct NotCanonical(pub String);

/// The rules of an entry that one row is enough for.
#[derive(Debug)]
pub struct RowRules {
    rules: Vec<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    /// Its place among the entry's rules.
    rule: usize,
    /// The place of its item.
    column: usize,
    name: String,
    data_type: DataType,
    test: Test,
    checked: u64,
    failed: u64,
}

#[derive(Debug)]
enum Test {
    Required,
    Exact(i128, i128),
    Float(f64, f64),
    Pattern(Box<regex::Regex>),
}

impl RowRules {
    /// Of an entry; none of another kind.
    ///
    /// # Errors
    /// A pattern that does not compile, which an entry that was parsed does not have.
    pub fn new(entry: &EntrySpec) -> Result<Self, String> {
        let mut rules = Vec::new();
        for (place, rule) in entry.quality.iter().enumerate() {
            let (Some(column), Some(test)) = (rule.columns.first().copied(), test(&rule.check)?) else { continue };
            let Some(item) = entry.items.get(column) else { continue };
            let (name, data_type) = (item.name.clone(), arrow_type(item.item_type));
            rules.push(Compiled { rule: place, column, name, data_type, test, checked: 0, failed: 0 });
        }
        Ok(Self { rules })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Runs them on a batch in which `column` finds an item's column by its place, and gives `found` each row that a rule
    /// finds, with the rule's place.
    ///
    /// # Errors
    /// [`NotCanonical`].
    pub fn run<'a>(
        &mut self,
        rows: usize,
        column: impl Fn(usize) -> Option<&'a ArrayRef>,
        mut found: impl FnMut(usize, usize),
    ) -> Result<(), NotCanonical> {
        for rule in &mut self.rules {
            let column = column(rule.column).filter(|c| *c.data_type() == rule.data_type && c.len() == rows);
            let column = column.ok_or_else(|| NotCanonical(rule.name.clone()))?;
            let place = rule.rule;
            let (checked, failed) = rule.test.run(column, &mut |row| found(place, row));
            rule.checked += checked;
            rule.failed += failed;
        }
        Ok(())
    }

    /// [`Self::run`] on a batch with all columns of the entry in their order.
    ///
    /// # Errors
    /// [`NotCanonical`].
    pub fn run_on(&mut self, batch: &RecordBatch, found: impl FnMut(usize, usize)) -> Result<(), NotCanonical> {
        self.run(batch.num_rows(), |place| batch.columns().get(place), found)
    }

    /// Rows looked at and found by the rule at a place among the entry's; none where it is of another kind.
    pub fn counts(&self, rule: usize) -> Option<(u64, u64)> {
        self.rules.iter().find(|r| r.rule == rule).map(|r| (r.checked, r.failed))
    }
}

fn test(check: &Check) -> Result<Option<Test>, String> {
    Ok(Some(match check {
        Check::Required => Test::Required,
        Check::Pattern(pattern) => Test::Pattern(Box::new(compiled(pattern)?)),
        Check::Range { min, max } => {
            let float = [min, max].into_iter().flatten().any(|b| matches!(b, Bound::Float(_)));
            if float {
                let of = |bound: &Option<Bound>, none: f64| match bound {
                    Some(Bound::Float(bits)) => f64::from_bits(*bits),
                    _ => none,
                };
                Test::Float(of(min, f64::NEG_INFINITY), of(max, f64::INFINITY))
            } else {
                let of = |bound: &Option<Bound>, none: i128| match bound {
                    Some(Bound::Exact(value)) => *value,
                    _ => none,
                };
                Test::Exact(of(min, i128::MIN), of(max, i128::MAX))
            }
        }
        Check::Unique | Check::Reference { .. } => return Ok(None),
    }))
}

impl Test {
    /// Rows looked at, and found.
    fn run(&self, column: &ArrayRef, found: &mut dyn FnMut(usize)) -> (u64, u64) {
        let rows = column.len();
        let mut failed = 0;
        let mut fail = |row: usize| {
            failed += 1;
            found(row);
        };
        if let Self::Required = self {
            let text = column.as_string_opt::<i32>();
            for row in 0..rows {
                if column.is_null(row) || text.is_some_and(|t| t.value(row).trim().is_empty()) {
                    fail(row);
                }
            }
            return (rows as u64, failed);
        }
        for row in (0..rows).filter(|row| column.is_valid(*row)) {
            let good = match self {
                Self::Required => true,
                Self::Pattern(pattern) => {
                    column.as_string_opt::<i32>().is_some_and(|text| pattern.is_match(text.value(row)))
                }
                Self::Exact(min, max) => exact(column, row).is_some_and(|v| (*min..=*max).contains(&v)),
                Self::Float(min, max) => {
                    column.as_primitive_opt::<Float64Type>().is_some_and(|v| (*min..=*max).contains(&v.value(row)))
                }
            };
            if !good {
                fail(row);
            }
        }
        ((rows - column.null_count()) as u64, failed)
    }
}

/// A value of an exact column in its units.
fn exact(column: &ArrayRef, row: usize) -> Option<i128> {
    Some(match column.data_type() {
        DataType::Int32 => column.as_primitive_opt::<Int32Type>()?.value(row).into(),
        DataType::Int64 => column.as_primitive_opt::<Int64Type>()?.value(row).into(),
        DataType::Decimal128(..) => column.as_primitive_opt::<Decimal128Type>()?.value(row),
        DataType::Date32 => column.as_primitive_opt::<Date32Type>()?.value(row).into(),
        DataType::Timestamp(..) => column.as_primitive_opt::<TimestampMicrosecondType>()?.value(row).into(),
        _ => return None,
    })
}

/// The values of a row in some columns as 128 bits that no two others have but by a chance of 2^-64; none where one of
/// them is missing.
pub fn key_hash(columns: &[&ArrayRef], row: usize, scratch: &mut Vec<u8>) -> Option<u128> {
    scratch.clear();
    for column in columns {
        if column.is_null(row) {
            return None;
        }
        let bytes: &[u8] = match column.data_type() {
            DataType::Utf8 => column.as_string_opt::<i32>()?.value(row).as_bytes(),
            DataType::Binary => column.as_binary_opt::<i32>()?.value(row),
            DataType::Boolean => {
                if column.as_boolean_opt()?.value(row) {
                    b"1"
                } else {
                    b"0"
                }
            }
            DataType::Float64 => {
                let bits = column.as_primitive_opt::<Float64Type>()?.value(row).to_bits();
                scratch.extend_from_slice(&bits.to_be_bytes());
                continue;
            }
            _ => {
                scratch.extend_from_slice(&exact(column, row)?.to_be_bytes());
                continue;
            }
        };
        // Lengths keep the values of several columns apart.
        scratch.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        scratch.extend_from_slice(bytes);
    }
    let hash = blake3::hash(scratch);
    hash.as_bytes().first_chunk::<16>().map(|head| u128::from_be_bytes(*head))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use arrow::array::{Decimal128Array, Float64Array, StringArray};
    use std::sync::Arc;

    fn entry(rules: &str) -> EntrySpec {
        EntrySpec::parse(&format!(
            "name = \"样例\"\ncode = \"307010/000001\"\nabstract = \"样例\"\nformat = \"table\"\n\
             update_frequency = \"daily\"\nsharing_class = \"conditional\"\nconditions = \"限依法履职使用\"\n\
             purposes = [\"p\"]\nsharing_methods = [\"batch_exchange\"]\ngrade = \"general-1\"\n{rules}\n\
             [[items]]\nname = \"s\"\ntype = \"string\"\npersonal = false\n\
             [[items]]\nname = \"d\"\ntype = \"decimal(9,2)\"\npersonal = false\n\
             [[items]]\nname = \"f\"\ntype = \"float64\"\npersonal = false\n"
        ))
        .unwrap()
    }

    #[test]
    fn rows_are_found_and_counted() {
        let spec = entry(
            "[[quality]]\nrule = \"required\"\ncolumn = \"s\"\non_failure = \"mark\"\n\
             [[quality]]\nrule = \"pattern\"\ncolumn = \"s\"\npattern = '[0-9]{2}'\non_failure = \"reject\"\n\
             [[quality]]\nrule = \"range\"\ncolumn = \"d\"\nmin = 0\nmax = \"10.50\"\non_failure = \"count\"\n\
             [[quality]]\nrule = \"range\"\ncolumn = \"f\"\nmax = 1.5\non_failure = \"count\"\n\
             [[quality]]\nrule = \"unique\"\ncolumn = \"s\"\non_failure = \"count\"",
        );
        let s: ArrayRef = Arc::new(StringArray::from(vec![Some("12"), None, Some(" "), Some("123")]));
        let d = Decimal128Array::from(vec![Some(1050), Some(1051), Some(-1), None]);
        let d: ArrayRef = Arc::new(d.with_precision_and_scale(9, 2).unwrap());
        let f: ArrayRef = Arc::new(Float64Array::from(vec![1.5, f64::NAN, 1.6, f64::NEG_INFINITY]));
        let batch = RecordBatch::try_new(crate::columns::arrow_schema(&spec), vec![s, d, f]).unwrap();
        let mut rules = RowRules::new(&spec).unwrap();
        let mut found = Vec::new();
        rules.run_on(&batch, |rule, row| found.push((rule, row))).unwrap();
        assert_eq!(found, [(0, 1), (0, 2), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1), (3, 2)]);
        let counts: Vec<_> = (0..5).map(|rule| rules.counts(rule)).collect();
        assert_eq!(counts, [Some((4, 2)), Some((3, 2)), Some((3, 2)), Some((4, 2)), None]);
    }

    #[test]
    fn keys_differ_where_their_values_do() {
        let text = |values: Vec<Option<&str>>| -> ArrayRef { Arc::new(StringArray::from(values)) };
        let (a, b) = (text(vec![Some("a"), Some("ab"), None]), text(vec![Some("bc"), Some("c"), Some("x")]));
        let mut scratch = Vec::new();
        let hash: Vec<_> = (0..3).map(|row| key_hash(&[&a, &b], row, &mut scratch)).collect();
        assert!(hash[0] != hash[1] && hash[0].is_some() && hash[2].is_none());
        assert_eq!(key_hash(&[&a], 0, &mut scratch), key_hash(&[&text(vec![Some("a")])], 0, &mut scratch));
    }
}
