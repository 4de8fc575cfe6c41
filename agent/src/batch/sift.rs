//! Tells rows that are what the entry says from those that are not: values that cannot be read, values that are missing,
//! regions that nobody has. The rest goes on; what stays behind is named by line, column, value and reason.

use super::cells::why;
use super::{Lines, Piece, SHOWN_CHARS};
use crate::error::{AgentError, Text, Told};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use lingqu_protocol::columns::arrow_schema;
use lingqu_protocol::entry::{EntrySpec, OnFailure, QualityRule};
use lingqu_protocol::quality::RowRules;
use lingqu_protocol::region::RegionTable;
use std::collections::HashSet;

/// Regions that are remembered as good; a file has few that follow each other in no order.
const REGIONS_KNOWN_MAX: usize = 65_536;

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It stays behind.
    Rejected,
    /// It lands, and is named.
    Marked,
}

impl Outcome {
    /// Its stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Marked => "marked",
        }
    }
}

/// One reason why a row is not what its entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirtyCell {
    /// Line of a text file, row of a sheet, or count of rows, all from 1.
    pub line: u64,
    /// The item; empty where it is the whole row.
    pub column: String,
    /// The beginning of the value, as it stands in the file.
    pub value: String,
    /// Why.
    pub why: Text,
    /// What becomes of the row.
    pub outcome: Outcome,
}

/// What a piece of a file came to.
#[derive(Debug)]
pub struct Sifted {
    /// The rows that go on, with the entry's own schema.
    pub batch: RecordBatch,
    /// Rows that stay behind.
    pub rejected: u64,
    /// Why, in the order of the rows.
    pub cells: Vec<DirtyCell>,
    /// Where the rows that go on stand in their file.
    lines: Lines,
}

impl Sifted {
    /// Line of a text file, row of a sheet, or count of rows, all from 1, of a row that goes on.
    pub fn line(&self, row: usize) -> u64 {
        self.lines.of(row)
    }
}

/// Sifts the rows of one push.
pub struct Sieve<'a> {
    spec: &'a EntrySpec,
    schema: SchemaRef,
    regions: HashSet<String>,
    rules: RowRules,
}

impl std::fmt::Debug for Sieve<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sieve")
    }
}

impl<'a> Sieve<'a> {
    /// For rows of an entry.
    ///
    /// # Errors
    /// A pattern that does not compile, which an entry that was parsed does not have.
    pub fn new(spec: &'a EntrySpec) -> Result<Self, AgentError> {
        let rules = RowRules::new(spec)
            .map_err(|e| AgentError::Machine(Told::new("quality", e.clone(), format!("质量规则无法执行：{e}"))))?;
        Ok(Self { spec, schema: arrow_schema(spec), regions: HashSet::new(), rules })
    }

    /// Sifts a piece of a file.
    ///
    /// # Errors
    /// Where Arrow cannot do it, which is our fault.
    pub fn sift(&mut self, piece: Piece) -> Result<Sifted, AgentError> {
        let Piece { batch, lines, faults } = piece;
        let rows = batch.num_rows();
        let mut found = Found { bad: vec![false; rows], any: false, cells: Vec::new() };
        for fault in faults {
            let column = fault.column.and_then(|c| self.spec.items.get(c)).map_or("", |item| &item.name);
            found.add(fault.row, lines.of(fault.row), column, fault.value, *fault.why, Outcome::Rejected);
        }
        for (item, column) in self.spec.items.iter().zip(batch.columns()) {
            if !item.nullable && column.null_count() > 0 {
                let missing = || (0..rows).filter(|row| column.is_null(*row));
                for row in missing() {
                    // A cell that cannot be read was told already.
                    if !found.has(row) {
                        let reason = why("a value must be there", "该项必须有值");
                        found.add(row, lines.of(row), &item.name, String::new(), *reason, Outcome::Rejected);
                    }
                }
            }
        }
        self.regions(&batch, &lines, &mut found);
        self.quality(&batch, &lines, &mut found)?;
        let (batch, lines) = if found.any {
            let stay = (0..rows).filter(|row| !found.has(*row)).map(|row| lines.of(row)).collect();
            (keep(&batch, &found.bad)?, Lines::Each(stay))
        } else {
            (batch, lines)
        };
        let rejected = found.bad.iter().filter(|bad| **bad).count() as u64;
        found.cells.sort_by_key(|(row, _)| *row);
        let cells = found.cells.into_iter().map(|(_, cell)| cell).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), batch.columns().to_vec(), &options);
        Ok(Sifted { batch: batch.map_err(ours)?, rejected, cells, lines })
    }

    /// The entry's quality rules that one row is enough for. The gateway runs them itself; here they name their rows.
    fn quality(&mut self, batch: &RecordBatch, lines: &Lines, found: &mut Found) -> Result<(), AgentError> {
        if self.rules.is_empty() {
            return Ok(());
        }
        let spec = self.spec;
        // Rows that stay behind already were told why; a cell that could not be read is null here.
        let told = found.bad.clone();
        let outcome = self.rules.run_on(batch, |rule, row| {
            let Some(rule) = spec.quality.get(rule).filter(|_| !told.get(row).copied().unwrap_or(false)) else {
                return;
            };
            let outcome = match rule.on_failure {
                OnFailure::Reject => Outcome::Rejected,
                OnFailure::Mark => Outcome::Marked,
                OnFailure::Count => return,
            };
            let column = rule.columns.first().copied().unwrap_or(0);
            let name = spec.items.get(column).map_or("", |item| &item.name);
            let value = batch.columns().get(column).map(|c| display(c, row)).unwrap_or_default();
            found.add(row, lines.of(row), name, value, broken_rule(rule), outcome);
        });
        outcome.map_err(|e| AgentError::Machine(Told::new("rows", e.to_string(), format!("内部错误：{e}"))))
    }

    fn regions(&mut self, batch: &RecordBatch, lines: &Lines, found: &mut Found) {
        let Some((place, item)) = self.spec.region_column.and_then(|p| Some((p, self.spec.items.get(p)?))) else {
            return;
        };
        let Some(codes) = batch.columns().get(place).and_then(|c| c.as_string_opt::<i32>()) else { return };
        let mut last = None;
        for (row, code) in codes.iter().enumerate() {
            let Some(code) = code.filter(|code| last != Some(*code)) else { continue };
            if !self.regions.contains(code) {
                if let Err(error) = RegionTable::national().check(code) {
                    let text = error.to_string();
                    let reason = Text::new(text.clone(), format!("行政区划代码无效：{text}"));
                    found.add(row, lines.of(row), &item.name, code.into(), reason, Outcome::Rejected);
                    continue;
                }
                if self.regions.len() < REGIONS_KNOWN_MAX {
                    self.regions.insert(code.to_owned());
                }
            }
            last = Some(code);
        }
    }
}

struct Found {
    bad: Vec<bool>,
    any: bool,
    cells: Vec<(usize, DirtyCell)>,
}

impl Found {
    fn has(&self, row: usize) -> bool {
        self.bad.get(row).copied().unwrap_or(false)
    }

    fn add(&mut self, row: usize, line: u64, column: &str, value: String, why: Text, outcome: Outcome) {
        if outcome == Outcome::Rejected
            && let Some(bad) = self.bad.get_mut(row)
        {
            *bad = true;
            self.any = true;
        }
        let value = value.chars().take(SHOWN_CHARS).collect();
        self.cells.push((row, DirtyCell { line, column: column.to_owned(), value, why, outcome }));
    }
}

fn keep(batch: &RecordBatch, bad: &[bool]) -> Result<RecordBatch, AgentError> {
    let good = BooleanBuffer::collect_bool(bad.len(), |row| !bad.get(row).copied().unwrap_or(false));
    filter_record_batch(batch, &BooleanArray::new(good, None)).map_err(ours)
}

fn broken_rule(rule: &QualityRule) -> Text {
    let (name, word) = (&rule.name, rule.check.word());
    Text::new(format!("quality rule {name:?} ({word}) is not met"), format!("不符合质量规则 {name:?}（{word}）"))
}

/// A value as text.
fn display(column: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default();
    let formatted = ArrayFormatter::try_new(column.as_ref(), &options).map(|f| f.value(row).to_string());
    formatted.unwrap_or_default().chars().take(SHOWN_CHARS).collect()
}

fn ours(error: arrow::error::ArrowError) -> AgentError {
    AgentError::Machine(Told::new("rows", error.to_string(), format!("内部错误：{error}")))
}
