//! Where pulled rows go: Parquet, CSV, an Arrow file, or an Arrow stream on standard output.

use super::csv::writable;
use crate::error::{AgentError, Told};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use bytes::Bytes;
use lingqu_protocol::host::{Disk, DiskFile};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

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
    /// `.arrow`: the Arrow IPC file format.
    Arrow,
    /// `-`: the Arrow IPC stream format on standard output.
    Stream,
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
            Some("arrow") => Ok(Self::Arrow),
            _ => Err(AgentError::Usage(Told::new(
                "out",
                "rows go to a file that ends in .parquet, .csv or .arrow, or to `-`",
                "数据行须输出到 .parquet、.csv、.arrow 文件或 `-`",
            ))),
        }
    }
}

/// Takes batches of one schema.
pub struct Sink {
    file: Option<Arc<dyn DiskFile>>,
    inner: Inner,
}

enum Inner {
    Parquet(Box<ArrowWriter<FileWrite>>),
    Csv(Box<arrow::csv::Writer<BufWriter<FileWrite>>>),
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
    pub fn create(disk: &dyn Disk, path: &Path, format: Format, schema: SchemaRef) -> io::Result<Self> {
        let file: Arc<dyn DiskFile> = Arc::from(disk.create(path)?);
        let write = FileWrite { file: file.clone(), at: 0 };
        let buffered = |write| BufWriter::with_capacity(BUFFER_BYTES, write);
        let inner = match format {
            Format::Parquet => {
                // Snappy: as fast as the link, and every reader has it.
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                let writer = ArrowWriter::try_new(write, schema, Some(properties)).map_err(io::Error::other)?;
                Inner::Parquet(Box::new(writer))
            }
            Format::Csv => {
                let mut writer = arrow::csv::Writer::new(buffered(write));
                // The header stands there even where no row follows.
                writer.write(&writable(&RecordBatch::new_empty(schema)).map_err(of_arrow)?).map_err(of_arrow)?;
                Inner::Csv(Box::new(writer))
            }
            Format::Arrow => {
                let writer = arrow::ipc::writer::FileWriter::try_new(buffered(write), &schema).map_err(of_arrow)?;
                Inner::Arrow(Box::new(writer))
            }
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
    pub fn schema(&mut self, body: &Bytes) -> io::Result<()> {
        if let Inner::Stream(out) = &mut self.inner { out.write_all(body) } else { Ok(()) }
    }

    /// Takes a batch, with the frame that held it.
    ///
    /// # Errors
    /// What the output says.
    pub fn batch(&mut self, batch: &RecordBatch, body: &Bytes) -> io::Result<()> {
        match &mut self.inner {
            Inner::Parquet(writer) => {
                writer.write(batch).map_err(of_parquet)?;
                if writer.in_progress_size() > ROW_GROUP_BYTES {
                    writer.flush().map_err(of_parquet)?;
                }
                Ok(())
            }
            Inner::Csv(writer) => writer.write(&writable(batch).map_err(of_arrow)?).map_err(of_arrow),
            Inner::Arrow(writer) => writer.write(batch).map_err(of_arrow),
            Inner::Stream(out) => out.write_all(body),
        }
    }

    /// Writes what ends the format, and makes a file's content durable.
    ///
    /// # Errors
    /// What the output says.
    pub fn finish(self) -> io::Result<()> {
        match self.inner {
            Inner::Parquet(writer) => writer.close().map(|_| ()).map_err(of_parquet)?,
            Inner::Csv(writer) => writer.into_inner().flush()?,
            Inner::Arrow(mut writer) => {
                writer.finish().map_err(of_arrow)?;
                writer.get_mut().flush()?;
            }
            Inner::Stream(mut out) => {
                out.write_all(&END_OF_STREAM)?;
                out.flush()?;
            }
        }
        self.file.map_or(Ok(()), |file| file.sync())
    }
}

/// The system's own error where there is one, so that a full disk says so.
fn of_arrow(error: ArrowError) -> io::Error {
    match error {
        ArrowError::IoError(_, e) => e,
        other => io::Error::other(other),
    }
}

fn of_parquet(error: parquet::errors::ParquetError) -> io::Error {
    match error {
        parquet::errors::ParquetError::External(e) => match e.downcast::<io::Error>() {
            Ok(e) => *e,
            Err(e) => io::Error::other(e),
        },
        other => io::Error::other(other),
    }
}

/// Writes a file of the disk from front to back.
struct FileWrite {
    file: Arc<dyn DiskFile>,
    at: u64,
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
