//! Where pulled rows go: Parquet, CSV, JSON Lines, Excel, an Arrow file, or an Arrow stream on standard output.

mod excel;
mod text;

use super::TextEncoding;
use crate::error::{AgentError, Told};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use bytes::Bytes;
use excel::ExcelSink;
use lingqu_protocol::host::{Disk, DiskFile};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use text::{CsvSink, JsonSink};

/// Bytes of a row group that is not written yet.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// Bytes that wait to be written to a file.
const BUFFER_BYTES: usize = 1 << 20;

/// Arrow IPC's end-of-stream marker: a stream without it is incomplete.
const END_OF_STREAM: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// What the end of `--out` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.parquet`
    Parquet,
    /// `.csv`
    Csv,
    /// `.jsonl`
    JsonLines,
    /// `.xlsx`
    Excel,
    /// `.arrow`: the Arrow IPC file format.
    Arrow,
    /// `-`: the Arrow IPC stream format on standard output.
    Stream,
}

/// How text is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct WriteOptions {
    /// The encoding of CSV; UTF-8 where absent.
    pub encoding: Option<TextEncoding>,
    /// Puts an apostrophe before text in CSV that a spreadsheet would run as a formula.
    pub guard_formulas: bool,
}

impl Format {
    /// Of an output.
    ///
    /// # Errors
    /// An end that names none of them.
    pub fn of(out: &Path) -> Result<Self, AgentError> {
        if out.as_os_str() == "-" {
            return Ok(Self::Stream);
        }
        match out.extension().and_then(|e| e.to_str()) {
            Some("parquet") => Ok(Self::Parquet),
            Some("csv") => Ok(Self::Csv),
            Some("jsonl") => Ok(Self::JsonLines),
            Some("xlsx") => Ok(Self::Excel),
            Some("arrow") => Ok(Self::Arrow),
            _ => Err(AgentError::Usage(Told::new(
                "out",
                "rows go to a file that ends in .parquet, .csv, .jsonl, .xlsx or .arrow, or to `-`",
                "数据行须输出到 .parquet、.csv、.jsonl、.xlsx、.arrow 文件或 `-`",
            ))),
        }
    }
}

impl Format {
    /// Whether so many rows go into one output, so that nothing is fetched that has no place in the end.
    ///
    /// # Errors
    /// More rows than a sheet has.
    pub fn takes(self, rows: u64) -> Result<(), AgentError> {
        // The header has a row.
        let most = u64::from(excel::ROWS_MAX) - 1;
        if self != Self::Excel || rows <= most {
            return Ok(());
        }
        let told = Told::new(
            "too_many_rows",
            format!("{rows} rows are more than an Excel sheet has ({most})"),
            format!("{rows} 行超过 Excel 工作表的上限 {most} 行"),
        );
        Err(AgentError::Usage(
            told.next("write .parquet or .csv, or ask for fewer rows", "请输出为 .parquet 或 .csv，或减少行数"),
        ))
    }
}

/// Why rows cannot be written.
#[derive(Debug)]
pub enum SinkError {
    /// The output.
    Io(io::Error),
    /// The format or encoding cannot hold them.
    Cannot(Box<Told>),
}

impl SinkError {
    /// The error of a command that writes to `path`.
    pub fn at(self, path: &Path) -> AgentError {
        match self {
            Self::Io(e) => AgentError::io("writing", path, &e),
            Self::Cannot(told) => AgentError::Usage(told),
        }
    }
}

impl From<io::Error> for SinkError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The system's own error where there is one, so that a full disk says so.
impl From<ArrowError> for SinkError {
    fn from(error: ArrowError) -> Self {
        Self::Io(match error {
            ArrowError::IoError(_, e) => e,
            other => io::Error::other(other),
        })
    }
}

impl From<parquet::errors::ParquetError> for SinkError {
    fn from(error: parquet::errors::ParquetError) -> Self {
        Self::Io(match error {
            parquet::errors::ParquetError::External(e) => match e.downcast::<io::Error>() {
                Ok(e) => *e,
                Err(e) => io::Error::other(e),
            },
            other => io::Error::other(other),
        })
    }
}

/// Takes batches of one schema.
pub struct Sink {
    file: Option<Arc<dyn DiskFile>>,
    inner: Inner,
}

enum Inner {
    Parquet(Box<ArrowWriter<FileWrite>>),
    Csv(Box<CsvSink>),
    Json(JsonSink),
    Excel(Box<ExcelSink>),
    Arrow(Box<arrow::ipc::writer::FileWriter<BufWriter<FileWrite>>>),
    Stream(Box<dyn Write + Send>),
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sink")
    }
}

impl Sink {
    /// A new file at `path`.
    ///
    /// # Errors
    /// What the disk or the format says.
    pub fn create(
        disk: &dyn Disk,
        path: &Path,
        format: Format,
        options: WriteOptions,
        schema: SchemaRef,
    ) -> Result<Self, SinkError> {
        let file: Arc<dyn DiskFile> = Arc::from(disk.create(path)?);
        let write = FileWrite::new(file.clone());
        let buffered = |write| BufWriter::with_capacity(BUFFER_BYTES, write);
        let inner = match format {
            Format::Parquet => {
                // Snappy: as fast as the link, and every reader has it.
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                Inner::Parquet(Box::new(ArrowWriter::try_new(write, schema, Some(properties))?))
            }
            Format::Csv => Inner::Csv(Box::new(CsvSink::new(buffered(write), options, &schema)?)),
            Format::JsonLines => Inner::Json(JsonSink::new(buffered(write), &schema)),
            Format::Excel => Inner::Excel(Box::new(ExcelSink::new(write, path, &schema)?)),
            Format::Arrow => Inner::Arrow(Box::new(arrow::ipc::writer::FileWriter::try_new(buffered(write), &schema)?)),
            Format::Stream => Inner::Stream(Box::new(buffered(write))),
        };
        Ok(Self { file: Some(file), inner })
    }

    /// An Arrow IPC stream on `out`, which is written to without a buffer of our own: what was not handed over when a
    /// transfer is cut is never written.
    pub fn stream(out: Box<dyn Write + Send>) -> Self {
        Self { file: None, inner: Inner::Stream(out) }
    }

    /// Takes the frame that held the schema. Only a stream needs it.
    ///
    /// # Errors
    /// What the output says.
    pub fn schema(&mut self, body: &Bytes) -> Result<(), SinkError> {
        if let Inner::Stream(out) = &mut self.inner {
            out.write_all(body)?;
        }
        Ok(())
    }

    /// Takes a batch, with the frame that held it.
    ///
    /// # Errors
    /// What the output says, or what the format cannot hold.
    pub fn batch(&mut self, batch: &RecordBatch, body: &Bytes) -> Result<(), SinkError> {
        match &mut self.inner {
            Inner::Parquet(writer) => {
                writer.write(batch)?;
                if writer.in_progress_size() > ROW_GROUP_BYTES {
                    writer.flush()?;
                }
                Ok(())
            }
            Inner::Csv(sink) => sink.batch(batch),
            Inner::Json(sink) => sink.batch(batch),
            Inner::Excel(sink) => sink.batch(batch),
            Inner::Arrow(writer) => Ok(writer.write(batch)?),
            Inner::Stream(out) => Ok(out.write_all(body)?),
        }
    }

    /// Writes what ends the format, and makes a file's content durable.
    ///
    /// # Errors
    /// What the output says.
    pub fn finish(self) -> Result<(), SinkError> {
        match self.inner {
            Inner::Parquet(writer) => {
                writer.close()?;
            }
            Inner::Csv(sink) => sink.finish()?,
            Inner::Json(sink) => sink.finish()?,
            Inner::Excel(sink) => sink.finish()?,
            Inner::Arrow(mut writer) => {
                writer.finish()?;
                writer.get_mut().flush()?;
            }
            Inner::Stream(mut out) => {
                out.write_all(&END_OF_STREAM)?;
                out.flush()?;
            }
        }
        self.file.map_or(Ok(()), |file| Ok(file.sync()?))
    }
}

/// Columns of a type that no item has never come this far.
fn no_item() -> SinkError {
    SinkError::Io(io::Error::other("a column of a type that no item has"))
}

/// Writes a file of the disk from front to back.
pub(crate) struct FileWrite {
    file: Arc<dyn DiskFile>,
    at: u64,
}

impl FileWrite {
    pub(crate) const fn new(file: Arc<dyn DiskFile>) -> Self {
        Self { file, at: 0 }
    }
}

impl Write for FileWrite {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(buf, self.at)?;
        self.at += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
