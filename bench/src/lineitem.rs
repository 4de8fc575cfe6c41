//! TPC-H lineitem with a region: the rows that every measurement of tables is made with.

use crate::error::BenchError;
use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, RecordBatch, StringBuilder};
use arrow::compute::cast;
use arrow::csv::WriterBuilder;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::ipc::writer::FileWriter;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tpchgen::generators::LineItemGenerator;
use tpchgen_arrow::LineItemArrow;

/// The table of county codes that the repository carries.
const AREAS: &str = include_str!("../../deploy/data/areas.csv");

/// Rows in one batch that is written.
const BATCH_ROWS: usize = 64 * 1024;

/// The format of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Parquet with snappy.
    Parquet,
    /// CSV with a header.
    Csv,
    /// An Arrow IPC file.
    Arrow,
}

impl Format {
    /// The end of a file's name.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Arrow => "arrow",
        }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The rows.
    pub data: PathBuf,
    /// The entry that they fit.
    pub entry: PathBuf,
    /// How many rows.
    pub rows: u64,
    /// Bytes of the data file.
    pub bytes: u64,
    /// The sum of each numeric column in its smallest unit (decimals without their point).
    pub sums: Vec<(String, i128)>,
    /// Rows of each region that has any, by code.
    pub regions: Vec<(String, u64)>,
}

/// The county codes of areas.csv, in its order.
///
/// # Errors
/// Where the table is damaged.
pub fn county_codes() -> Result<Vec<String>, BenchError> {
    let mut reader = csv::Reader::from_reader(AREAS.as_bytes());
    let code = |row: csv::Result<csv::StringRecord>| {
        let row = row.map_err(BenchError::data("reading areas.csv"))?;
        Ok(row.get(0).unwrap_or_default().to_owned())
    };
    reader.records().map(code).collect()
}

/// Writes `lineitem.parquet`, `.csv` or `.arrow` and `lineitem.toml` into `dir`.
///
/// # Errors
/// What the system says.
pub fn write(dir: &Path, scale: f64, format: Format) -> Result<Written, BenchError> {
    write_over(dir, scale, format, county_codes()?)
}

/// The same over these regions in turn.
///
/// # Errors
/// What the system says.
pub fn write_over(dir: &Path, scale: f64, format: Format, counties: Vec<String>) -> Result<Written, BenchError> {
    std::fs::create_dir_all(dir).map_err(BenchError::io("making", dir))?;
    let entry = dir.join("lineitem.toml");
    std::fs::write(&entry, entry_toml()).map_err(BenchError::io("writing", &entry))?;
    let data = dir.join(format!("lineitem.{}", format.extension()));
    let file = BufWriter::new(File::create(&data).map_err(BenchError::io("making", &data))?);
    let schema = schema();
    let mut tally = Tally::new(&schema, counties.len());
    let failed = || format!("writing {}", data.display());
    let batches = LineItemArrow::new(LineItemGenerator::new(scale, 1, 1)).with_batch_size(BATCH_ROWS);
    match format {
        Format::Parquet => {
            let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
            let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties))
                .map_err(BenchError::data(failed()))?;
            for batch in batches {
                let batch = with_region(&batch.map_err(BenchError::data("making rows"))?, &schema, &counties)?;
                tally.add(&batch, counties.len())?;
                writer.write(&batch).map_err(BenchError::data(failed()))?;
            }
            writer.close().map_err(BenchError::data(failed()))?;
        }
        Format::Arrow => {
            let mut writer = FileWriter::try_new(file, &schema).map_err(BenchError::data(failed()))?;
            for batch in batches {
                let batch = with_region(&batch.map_err(BenchError::data("making rows"))?, &schema, &counties)?;
                tally.add(&batch, counties.len())?;
                writer.write(&batch).map_err(BenchError::data(failed()))?;
            }
            writer.finish().map_err(BenchError::data(failed()))?;
        }
        Format::Csv => {
            let mut writer = WriterBuilder::new().with_header(true).build(file);
            for batch in batches {
                let batch = with_region(&batch.map_err(BenchError::data("making rows"))?, &schema, &counties)?;
                tally.add(&batch, counties.len())?;
                writer.write(&batch).map_err(BenchError::data(failed()))?;
            }
        }
    }
    let file = File::open(&data).map_err(BenchError::io("opening", &data))?;
    file.sync_all().map_err(BenchError::io("syncing", &data))?;
    let bytes = file.metadata().map_err(BenchError::io("reading", &data))?.len();
    let regions = counties.into_iter().zip(tally.regions).filter(|(_, rows)| *rows > 0).collect();
    Ok(Written { data, entry, rows: tally.rows, bytes, sums: tally.sums, regions })
}

/// lineitem's columns with `region` behind them; text as plain text.
fn schema() -> SchemaRef {
    let inner = LineItemArrow::schema_ref();
    let plain = |field: &Arc<Field>| {
        let kind = match field.data_type() {
            DataType::Utf8View => DataType::Utf8,
            other => other.clone(),
        };
        Field::new(field.name(), kind, false)
    };
    let mut fields: Vec<Field> = inner.fields().iter().map(plain).collect();
    fields.push(Field::new("region", DataType::Utf8, false));
    Arc::new(Schema::new(fields))
}

/// Adds each row's region: the county at row `l_orderkey mod 2978` of areas.csv.
fn with_region(batch: &RecordBatch, schema: &SchemaRef, counties: &[String]) -> Result<RecordBatch, BenchError> {
    let wrong = || "adding regions".to_owned();
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (column, field) in batch.columns().iter().zip(schema.fields()) {
        columns.push(cast(column, field.data_type()).map_err(BenchError::data(wrong()))?);
    }
    let mut regions = StringBuilder::with_capacity(batch.num_rows(), batch.num_rows() * 6);
    let keys = columns.first().ok_or_else(|| BenchError::data(wrong())("no columns"))?.as_primitive::<Int64Type>();
    for key in keys.values() {
        let county = usize::try_from(*key).ok().and_then(|key| counties.get(key % counties.len().max(1)));
        regions.append_value(county.ok_or_else(|| BenchError::data(wrong())("an order key below 0"))?);
    }
    columns.push(Arc::new(regions.finish()) as ArrayRef);
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(BenchError::data(wrong()))
}

/// What a reader of the rows can be checked against.
struct Tally {
    rows: u64,
    sums: Vec<(String, i128)>,
    regions: Vec<u64>,
}

impl Tally {
    fn new(schema: &Schema, counties: usize) -> Self {
        let numeric = schema.fields().iter().filter(|f| f.data_type().is_numeric() || is_decimal(f.data_type()));
        Self { rows: 0, sums: numeric.map(|f| (f.name().clone(), 0)).collect(), regions: vec![0; counties] }
    }

    fn add(&mut self, batch: &RecordBatch, counties: usize) -> Result<(), BenchError> {
        self.rows += batch.num_rows() as u64;
        for (name, sum) in &mut self.sums {
            let column = batch.column_by_name(name).ok_or_else(|| BenchError::Wrong(format!("no column {name}")))?;
            *sum += column_sum(column)?;
        }
        let keys = batch.column(0).as_primitive::<Int64Type>();
        for key in keys.values() {
            let place = usize::try_from(*key).unwrap_or(0) % counties.max(1);
            if let Some(rows) = self.regions.get_mut(place) {
                *rows += 1;
            }
        }
        Ok(())
    }
}

fn is_decimal(kind: &DataType) -> bool {
    matches!(kind, DataType::Decimal128(_, _))
}

fn column_sum(column: &ArrayRef) -> Result<i128, BenchError> {
    if let Some(decimals) = column.as_any().downcast_ref::<Decimal128Array>() {
        return Ok(decimals.iter().flatten().sum());
    }
    let whole = cast(column, &DataType::Int64).map_err(BenchError::data("adding up"))?;
    Ok(whole.as_primitive::<Int64Type>().iter().flatten().map(i128::from).sum())
}

/// The names of its columns.
pub fn columns() -> Vec<String> {
    schema().fields().iter().map(|field| field.name().clone()).collect()
}

/// The catalogue entry of lineitem, as entry.toml.
pub fn entry_toml() -> String {
    let mut text = "\
# TPC-H lineitem with a region column: made up, for measurements.
name = \"lineitem（合成测试数据）\"
abstract = \"TPC-H lineitem，附加县级行政区划代码；合成数据，仅用于测试\"
format = \"table\"
update_frequency = \"irregular\"
sharing_class = \"conditional\"
conditions = \"仅用于测试\"
purposes = [\"测试\"]
sharing_methods = [\"batch_exchange\"]
region_column = \"region\"
grade = \"general-1\"
"
    .to_owned();
    for field in schema().fields() {
        let kind = match field.data_type() {
            DataType::Int64 => "int64".to_owned(),
            DataType::Int32 => "int32".to_owned(),
            DataType::Date32 => "date".to_owned(),
            DataType::Decimal128(digits, scale) => format!("decimal({digits},{scale})"),
            _ => "string".to_owned(),
        };
        text += &format!("\n[[items]]\nname = \"{}\"\ntype = \"{kind}\"\npersonal = false\n", field.name());
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use lingqu_protocol::entry::EntrySpec;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    #[test]
    fn the_entry_is_one_and_fits_the_rows() {
        let spec = EntrySpec::parse(&entry_toml()).unwrap();
        assert_eq!(spec.region_item().unwrap().name, "region");
        assert_eq!(lingqu_protocol::columns::differences(&spec, &schema()), []);
    }

    #[test]
    fn counties_are_those_of_the_table() {
        let codes = county_codes().unwrap();
        assert_eq!((codes.len(), codes[0].as_str()), (2978, "110101"));
    }

    #[test]
    fn both_formats_hold_the_same_rows_and_each_region_is_its_orders() {
        let dir = tempfile::tempdir().unwrap();
        let parquet = write(dir.path(), 0.001, Format::Parquet).unwrap();
        let csv = write(dir.path(), 0.001, Format::Csv).unwrap();
        assert!(parquet.rows > 5000);
        assert_eq!((parquet.rows, &parquet.sums, &parquet.regions), (csv.rows, &csv.sums, &csv.regions));
        assert_eq!(parquet.regions.iter().map(|(_, rows)| rows).sum::<u64>(), parquet.rows);
        let codes = county_codes().unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&parquet.data).unwrap()).unwrap();
        let mut rows = 0;
        for batch in reader.build().unwrap() {
            let batch = batch.unwrap();
            let keys = batch.column(0).as_primitive::<Int64Type>();
            let regions = batch.column_by_name("region").unwrap().as_string::<i32>();
            for (key, region) in keys.iter().zip(regions) {
                assert_eq!(region.unwrap(), codes[usize::try_from(key.unwrap()).unwrap() % 2978]);
            }
            rows += batch.num_rows() as u64;
        }
        assert_eq!(rows, parquet.rows);
        let lines = std::fs::read_to_string(&csv.data).unwrap().lines().count() as u64;
        assert_eq!(lines, csv.rows + 1);
    }
}
