//! Rows to send, and what came back, as text that can be compared across formats.

use crate::faults::rng::Rng;
use arrow::array::*;
use arrow::csv::WriterBuilder;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// The columns of the test's table, in the entry's order.
pub const COLUMNS: [&str; 12] = [
    "region",
    "credit_code",
    "operator_name",
    "staff",
    "visits",
    "score",
    "capital",
    "opened",
    "checked_at",
    "active",
    "seal",
    "note",
];

/// Regions of rows: below 4403, below 4401, and one that is a county and a city at once.
const REGIONS: [&str; 8] = ["440303", "440304", "440305", "440305001", "440305002", "440103", "440104", "441900"];

/// What a missing value reads as.
const MISSING: &str = "∅";

/// Rows as text: column names, and one text a cell.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Cells, row by row.
    pub rows: Vec<Vec<String>>,
}

impl Rows {
    /// From batches.
    pub fn of(batches: &[RecordBatch]) -> Self {
        let columns =
            batches.first().map_or_else(Vec::new, |b| b.schema().fields().iter().map(|f| f.name().clone()).collect());
        let options = FormatOptions::default().with_null(MISSING);
        let mut rows = Vec::new();
        for batch in batches {
            let batch = by_offset(batch);
            let columns: Vec<_> =
                batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
            rows.extend((0..batch.num_rows()).map(|i| columns.iter().map(|c| c.value(i).to_string()).collect()));
        }
        Self { columns, rows }
    }

    /// These columns, in this order.
    pub fn select(&self, names: &[&str]) -> Self {
        let places: Vec<usize> = names.iter().map(|name| self.place(name)).collect();
        let rows = self.rows.iter().map(|row| places.iter().map(|p| row[*p].clone()).collect()).collect();
        Self { columns: names.iter().map(|n| (*n).to_owned()).collect(), rows }
    }

    /// The rows whose cell of this column is wanted.
    pub fn filter(&self, column: &str, wanted: impl Fn(&str) -> bool) -> Self {
        let place = self.place(column);
        let rows = self.rows.iter().filter(|row| wanted(&row[place])).cloned().collect();
        Self { columns: self.columns.clone(), rows }
    }

    /// These rows and those of `more`.
    pub fn and(&self, more: &Self) -> Self {
        assert_eq!(self.columns, more.columns);
        Self { columns: self.columns.clone(), rows: [self.rows.clone(), more.rows.clone()].concat() }
    }

    /// Fails unless both are the same set of rows with the same columns in the same order.
    #[track_caller]
    pub fn must_be(&self, expected: &Self) {
        assert_eq!(self.columns, expected.columns);
        assert_eq!(self.rows.len(), expected.rows.len(), "numbers of rows");
        let sorted = |rows: &Self| {
            let mut rows = rows.rows.clone();
            rows.sort();
            rows
        };
        let (ours, theirs) = (sorted(self), sorted(expected));
        if let Some((ours, theirs)) = ours.iter().zip(&theirs).find(|(a, b)| a != b) {
            panic!("a row is {ours:?}\nand should be {theirs:?}");
        }
    }

    fn place(&self, column: &str) -> usize {
        self.columns.iter().position(|c| c == column).unwrap_or_else(|| panic!("no column {column}"))
    }
}

/// Market registrations, made up: the same for the same seed.
pub fn registrations(seed: u64, rows: usize) -> RecordBatch {
    let mut random = Rng::new(seed);
    let n: Vec<u64> = (0..rows).map(|_| random.next()).collect();
    let missing = |i: usize, every: u64| n[i].rotate_left(20).is_multiple_of(every);
    let at = |f: &dyn Fn(usize, u64) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values((0..rows).map(|i| f(i, n[i]))))
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("region", at(&|_, n| REGIONS[(n % REGIONS.len() as u64) as usize].to_owned())),
        ("credit_code", at(&|i, _| format!("S{seed:06}-{i:09}"))),
        ("operator_name", at(&|i, _| format!("合成-经营者 {i}"))),
        ("staff", Arc::new(Int32Array::from_iter((0..rows).map(|i| (!missing(i, 7)).then_some((n[i] % 500) as i32))))),
        ("visits", Arc::new(Int64Array::from_iter_values(n.iter().map(|n| (*n >> 1) as i64 - (1 << 61))))),
        ("score", Arc::new(Float64Array::from_iter_values(n.iter().map(|n| (*n % 10_000) as f64 / 8.0)))),
        (
            "capital",
            Arc::new(
                Decimal128Array::from_iter(
                    (0..rows).map(|i| (!missing(i, 11)).then_some(i128::from(n[i] % 10_000_000_000))),
                )
                .with_precision_and_scale(15, 2)
                .unwrap(),
            ),
        ),
        ("opened", Arc::new(Date32Array::from_iter_values(n.iter().map(|n| (n % 20_000) as i32)))),
        (
            "checked_at",
            Arc::new(
                TimestampMicrosecondArray::from_iter(
                    (0..rows)
                        .map(|i| (!missing(i, 5)).then_some(1_700_000_000_000_000 + (n[i] % 1_000_000_000_000) as i64)),
                )
                .with_timezone("UTC"),
            ),
        ),
        ("active", Arc::new(BooleanArray::from_iter((0..rows).map(|i| (!missing(i, 9)).then_some(n[i] & 1 == 0))))),
        ("seal", Arc::new(BinaryArray::from_iter((0..rows).map(|i| (!missing(i, 3)).then_some(n[i].to_le_bytes()))))),
        ("note", at(&|i, n| format!("备注, \"{}\" 第{i}行", n % 97))),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, c)| c).collect()).unwrap()
}

/// Writes rows as Parquet.
pub fn write_parquet(path: &Path, batch: &RecordBatch) {
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// Writes rows as CSV. Binary cells travel as hex digits.
pub fn write_csv(path: &Path, batch: &RecordBatch) {
    let mut writer = WriterBuilder::new().with_header(true).build(std::fs::File::create(path).unwrap());
    writer.write(&by_offset(batch)).unwrap();
}

/// The same rows with timestamps by offset: names of zones cannot be formatted without a table of zones.
fn by_offset(batch: &RecordBatch) -> RecordBatch {
    let Ok(place) = batch.schema().index_of("checked_at") else { return batch.clone() };
    let Some(at) = batch.column(place).as_any().downcast_ref::<TimestampMicrosecondArray>() else {
        return batch.clone();
    };
    with_column(batch, "checked_at", Arc::new(at.clone().with_timezone("+00:00")))
}

/// The rows of a Parquet file.
pub fn read_parquet(path: &Path) -> Rows {
    let bytes = Bytes::from(std::fs::read(path).unwrap());
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    let schema = builder.schema().clone();
    let batches: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
    with_columns(Rows::of(&batches), &schema)
}

/// The rows of an Arrow IPC stream or file. An end without an end-of-stream marker is an error.
///
/// # Errors
/// What the reader says.
pub fn read_arrow(bytes: &[u8]) -> Result<Rows, String> {
    let batches = if bytes.starts_with(b"ARROW1") {
        let reader = arrow::ipc::reader::FileReader::try_new(std::io::Cursor::new(bytes), None);
        let reader = reader.map_err(|e| e.to_string())?;
        let schema = reader.schema();
        let batches: Result<Vec<_>, _> = reader.collect();
        return Ok(with_columns(Rows::of(&batches.map_err(|e| e.to_string())?), &schema));
    } else if !bytes.ends_with(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]) {
        return Err("the stream has no end marker".into());
    } else {
        arrow::ipc::reader::StreamReader::try_new(bytes, None).map_err(|e| e.to_string())?
    };
    let schema = batches.schema();
    let batches: Result<Vec<_>, _> = batches.collect();
    Ok(with_columns(Rows::of(&batches.map_err(|e| e.to_string())?), &schema))
}

/// The rows of a CSV file, cells as they stand there; an empty cell without quotes is a missing value.
pub fn read_csv(path: &Path) -> Rows {
    let mut text = String::new();
    std::fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
    let mut reader = csv::Reader::from_reader(text.trim_start_matches('\u{feff}').as_bytes());
    let columns = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let cell = |c: &str| if c.is_empty() { MISSING.to_owned() } else { c.to_owned() };
    let rows = reader.records().map(|r| r.unwrap().iter().map(cell).collect()).collect();
    Rows { columns, rows }
}

fn with_columns(mut rows: Rows, schema: &Schema) -> Rows {
    rows.columns = schema.fields().iter().map(|f| f.name().clone()).collect();
    rows
}

/// A batch with a column replaced.
pub fn with_column(batch: &RecordBatch, name: &str, column: ArrayRef) -> RecordBatch {
    let mut fields: Vec<Field> = batch.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    let mut columns = batch.columns().to_vec();
    let place = batch.schema().index_of(name).unwrap();
    fields[place] = Field::new(name, column.data_type().clone(), true);
    columns[place] = column;
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// A type that no item has.
pub fn nested_type() -> DataType {
    let leaf = Field::new("item", DataType::Timestamp(TimeUnit::Second, None), true);
    DataType::List(Arc::new(leaf))
}
