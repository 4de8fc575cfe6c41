//! Rows and versions at random, and what a sink must hold after them.

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use lingqu_agent::backflow::{Begin, Column, Cursor, Mode, Shape, Sink};
use lingqu_protocol::changes::Op;
use lingqu_protocol::rows::RowsSum;
use lingqu_tests::faults::rng::Rng;
use std::sync::Arc;

pub(crate) const ENTRY: &str = "entry-1";

/// A row of all types. The last item is there from some version on.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    id: i64,
    name: Option<String>,
    amount: Option<i128>,
    day: Option<i32>,
    at: Option<i64>,
    flag: Option<bool>,
    share: Option<f64>,
    bytes: Option<Vec<u8>>,
    note: Option<String>,
}

/// A version that a sink is handed.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) number: u64,
    pub(crate) mode: Mode,
    pub(crate) wide: bool,
    pub(crate) gone: Vec<Row>,
    pub(crate) come: Vec<Row>,
}

/// What a sink must hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) version: u64,
    pub(crate) wide: bool,
    pub(crate) rows: Vec<Row>,
    next_id: i64,
}

/// The columns. `keyed` says whether there is a key, `wide` whether the last item is there.
pub(crate) fn shape(keyed: bool, wide: bool) -> Shape {
    let all = [
        ("id", "int64"),
        ("名称", "string"),
        ("amount", "decimal(20,3)"),
        ("day", "date"),
        ("at", "timestamp"),
        ("flag", "bool"),
        ("share", "float64"),
        ("bytes", "binary"),
        ("note", "string"),
    ];
    let column = |(name, text): &(&str, &str)| Column {
        name: (*name).to_owned(),
        item_type: text.parse().unwrap(),
        key: keyed && *name == "id",
    };
    Shape(all.iter().take(if wide { 9 } else { 8 }).map(column).collect())
}

/// Rows as a batch.
pub(crate) fn batch(rows: &[Row], keyed: bool, wide: bool) -> RecordBatch {
    let text = |get: fn(&Row) -> Option<&str>| -> ArrayRef { Arc::new(rows.iter().map(get).collect::<StringArray>()) };
    let amounts = Decimal128Array::from_iter(rows.iter().map(|r| r.amount)).with_precision_and_scale(20, 3).unwrap();
    let times = TimestampMicrosecondArray::from_iter(rows.iter().map(|r| r.at)).with_timezone("UTC");
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.id))),
        text(|r| r.name.as_deref()),
        Arc::new(amounts),
        Arc::new(Date32Array::from_iter(rows.iter().map(|r| r.day))),
        Arc::new(times),
        Arc::new(BooleanArray::from_iter(rows.iter().map(|r| r.flag))),
        Arc::new(Float64Array::from_iter(rows.iter().map(|r| r.share))),
        Arc::new(rows.iter().map(|r| r.bytes.as_deref()).collect::<BinaryArray>()),
    ];
    if wide {
        columns.push(text(|r| r.note.as_deref()));
    }
    RecordBatch::try_new(shape(keyed, wide).schema(), columns).unwrap()
}

/// Count and sum of rows.
pub(crate) fn sum(rows: &[Row], wide: bool) -> RowsSum {
    let mut digest = shape(true, wide).digest();
    digest.update(&batch(rows, true, wide)).unwrap();
    digest.sum()
}

impl Row {
    fn random(id: i64, rng: &mut Rng, wide: bool) -> Self {
        let texts =
            ["", "个体工商户", "a,b", "say \"hi\"", "two\nlines", "'; drop table x; --", " blank ", "\u{feff}bom"];
        let text = |rng: &mut Rng| (!rng.one_in(4)).then(|| texts[rng.below(texts.len() as u64) as usize].to_owned());
        let floats = [0.0, -0.0, 1.5, -2.25e300, 1.0e-7, 0.1];
        Self {
            id,
            name: text(rng),
            amount: (!rng.one_in(4)).then(|| i128::from(rng.next() >> 8) - (1 << 54)),
            day: (!rng.one_in(4)).then(|| rng.below(40_000) as i32 - 10_000),
            at: (!rng.one_in(4)).then(|| (rng.next() >> 14) as i64 - (1 << 48)),
            flag: (!rng.one_in(3)).then(|| rng.one_in(2)),
            share: (!rng.one_in(4)).then(|| floats[rng.below(6) as usize]),
            bytes: (!rng.one_in(3)).then(|| vec![rng.below(256) as u8; 1 + rng.below(3) as usize]),
            note: if wide { text(rng) } else { None },
        }
    }
}

impl Model {
    /// The next version, of a mode that fits.
    pub(crate) fn next(&mut self, rng: &mut Rng) -> Version {
        let mode = match self.version {
            0 => Mode::Full,
            _ => [Mode::Full, Mode::Append, Mode::Append, Mode::Changes, Mode::Changes, Mode::Changes]
                [rng.below(6) as usize],
        };
        let wide = self.wide || (self.version > 2 && rng.one_in(3));
        let gone: Vec<Row> = match mode {
            Mode::Changes => self.rows.iter().filter(|_| rng.one_in(3)).cloned().collect(),
            Mode::Full | Mode::Append => Vec::new(),
        };
        let mut come = Vec::new();
        for row in &gone {
            // Some are replaced, some only go.
            if rng.one_in(2) {
                come.push(Row::random(row.id, rng, wide));
            }
        }
        for _ in 0..rng.below(12) {
            come.push(Row::random(self.next_id, rng, wide));
            self.next_id += 1;
        }
        // Where nothing comes and nothing goes, the columns stay as they are.
        let wide = self.wide || (wide && (mode == Mode::Full || !(gone.is_empty() && come.is_empty())));
        Version { number: self.version + 1 + rng.below(2), mode, wide, gone, come }
    }

    /// What there is after a version.
    pub(crate) fn after(&self, version: &Version) -> Self {
        let mut rows = match version.mode {
            Mode::Full => Vec::new(),
            Mode::Append | Mode::Changes => self.rows.clone(),
        };
        rows.retain(|row| !version.gone.iter().any(|gone| gone.id == row.id));
        rows.extend(version.come.iter().cloned());
        Self { version: version.number, wide: version.wide, rows, next_id: self.next_id }
    }

    pub(crate) fn sum(&self) -> RowsSum {
        sum(&self.rows, self.wide)
    }
}

impl Version {
    pub(crate) fn begin(&self, keyed: bool) -> Begin {
        let rows = (self.gone.len() + self.come.len()) as u64;
        Begin { entry: ENTRY.into(), version: self.number, mode: self.mode, shape: shape(keyed, self.wide), rows }
    }

    pub(crate) fn cursor(&self) -> Cursor {
        Cursor { version: self.number, slice: format!("slice of {}", self.number) }
    }

    /// Hands it to a sink, but for the commit.
    pub(crate) fn hand(
        &self,
        sink: &mut dyn Sink,
        keyed: bool,
    ) -> Result<Option<RowsSum>, lingqu_agent::error::AgentError> {
        sink.begin(&self.begin(keyed))?;
        for some in self.gone.chunks(5) {
            sink.rows(Op::Delete, &batch(some, keyed, self.wide))?;
        }
        for some in self.come.chunks(4) {
            sink.rows(Op::Upsert, &batch(some, keyed, self.wide))?;
        }
        sink.held()
    }
}

/// What a sink holds, read back: its cursor, and count and sum of its rows.
pub(crate) fn held(sink: &mut dyn Sink, wide: bool) -> Option<(Cursor, RowsSum)> {
    let mut digest = shape(true, wide).digest();
    let read = sink.read(ENTRY, &mut |batch| {
        // A file from before a column came is handed on with it.
        digest.update(batch).unwrap();
        Ok(())
    });
    read.unwrap().map(|(cursor, _)| (cursor, digest.sum()))
}
