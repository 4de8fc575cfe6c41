//! Rows in files: read into batches of an entry's columns, and written from them.

mod arrow_file;
mod cells;
mod csv;
mod encoding;
mod jsonl;
mod pages;
mod parquet;
pub mod reject;
mod rows;
pub mod sift;
pub mod sink;
mod spell;
pub mod template;
mod xlsx;

pub use cells::Zone;
pub use encoding::TextEncoding;
pub(crate) use spell::Spelled;

use crate::error::{AgentError, Told};
use ::arrow::array::RecordBatch;
use ::arrow::datatypes::{Field, Schema, SchemaRef};
use cells::Why;
use lingqu_protocol::columns::{CanonicalError, Difference, canonical_batch, differences};
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::host::{Disk, DiskFile};
use lingqu_protocol::name::escape_for_log;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Characters of a value that are shown.
const SHOWN_CHARS: usize = 60;

/// How files of rows are read, where it is said and not found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct ReadOptions {
    /// The encoding of text files.
    pub encoding: Option<TextEncoding>,
    /// What separates fields in CSV files: an ASCII character.
    pub delimiter: Option<char>,
    /// The zone of timestamps that say none.
    pub zone: Option<Zone>,
    /// The sheet of an Excel file; the first where absent.
    pub sheet: Option<String>,
}

/// Formats of files that rows are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// `.parquet`
    Parquet,
    /// `.csv`, `.tsv`, `.txt`
    Csv,
    /// `.arrow`, `.arrows`, `.ipc`, `.feather`: Arrow IPC, file or stream.
    Arrow,
    /// `.jsonl`, `.ndjson`
    JsonLines,
    /// `.xlsx`
    Xlsx,
}

impl FileFormat {
    /// What the end of a file's name says; `None` where it is none of them.
    pub fn of(path: &Path) -> Option<Self> {
        let extension = path.extension().and_then(|e| e.to_str())?.to_ascii_lowercase();
        Some(match extension.as_str() {
            "parquet" => Self::Parquet,
            "csv" | "tsv" | "txt" => Self::Csv,
            "arrow" | "arrows" | "ipc" | "feather" => Self::Arrow,
            "jsonl" | "ndjson" => Self::JsonLines,
            "xlsx" => Self::Xlsx,
            _ => return None,
        })
    }

    fn demand(path: &Path) -> Result<Self, AgentError> {
        Self::of(path).ok_or_else(|| {
            AgentError::Usage(
                Told::new(
                    "batch_format",
                    format!("{} ends in none of .parquet .csv .arrow .jsonl .xlsx", shown(path)),
                    format!("{} 的扩展名不是 .parquet、.csv、.arrow、.jsonl 或 .xlsx", shown(path)),
                )
                .next("convert it, or give it the extension that it is", "请转换格式或使用正确的扩展名"),
            )
        })
    }
}

/// Rows of a file as they were read, before they are judged.
#[derive(Debug)]
pub struct Piece {
    /// The entry's columns in canonical types; any value may be missing.
    batch: RecordBatch,
    lines: Lines,
    /// Cells that cannot be read; their rows must not go on.
    faults: Vec<Fault>,
}

impl Piece {
    /// Its rows, where each could be read as it is.
    pub(crate) fn into_whole(self) -> Option<RecordBatch> {
        self.faults.is_empty().then_some(self.batch)
    }
}

/// Where rows stand in their file.
#[derive(Debug)]
enum Lines {
    /// One after another from this number on.
    From(u64),
    /// At these lines.
    Each(Vec<u64>),
}

impl Lines {
    fn of(&self, row: usize) -> u64 {
        match self {
            Self::From(first) => first + row as u64,
            Self::Each(lines) => lines.get(row).copied().unwrap_or(0),
        }
    }
}

#[derive(Debug)]
struct Fault {
    row: usize,
    /// The item's place; none where it is the whole row.
    column: Option<usize>,
    value: String,
    why: Why,
}

/// Takes the rows of a file piece by piece; `false` says that no more are wanted.
pub type Take<'a> = &'a mut dyn FnMut(Piece) -> Result<bool, AgentError>;

/// Reads a file as rows of `spec`. Holds a few batches at a time, whatever the size of the file. Blocks. Gives whether all
/// was read.
///
/// # Errors
/// A file that is in no format that is read, or that cannot be read to its end, or whose columns are not the entry's (exit
/// code 7); each difference is named. Single rows that are not what the entry says are no error: see [`sift`].
pub fn read(
    disk: &dyn Disk,
    path: &Path,
    spec: &EntrySpec,
    options: &ReadOptions,
    take: Take<'_>,
) -> Result<bool, AgentError> {
    let format = FileFormat::demand(path)?;
    let file = disk.open(path).map_err(|e| AgentError::input(path, &e))?;
    match format {
        FileFormat::Parquet => parquet::read(file, path, spec, take),
        FileFormat::Csv => csv::read(file, path, spec, options, take),
        FileFormat::Arrow => arrow_file::read(file, path, spec, take),
        FileFormat::JsonLines => jsonl::read(file, path, spec, options, take),
        FileFormat::Xlsx => xlsx::read(file, path, spec, options, take),
    }
}

/// Rows as JSON objects, spelled as JSON Lines spells them; `None` where a column is of no item's type.
pub fn json_rows(batch: &RecordBatch) -> Option<Vec<serde_json::Value>> {
    let columns = spell::Spelled::all(batch)?;
    let row = |row: usize| {
        let schema = batch.schema_ref();
        let fields = schema.fields().iter().zip(&columns);
        serde_json::Value::Object(fields.map(|(field, column)| (field.name().clone(), column.json(row))).collect())
    };
    Some((0..batch.num_rows()).map(row).collect())
}

/// A Parquet file for who looks it through.
///
/// # Errors
/// What the disk says.
pub(crate) fn chunks(file: Box<dyn DiskFile>) -> io::Result<parquet::Chunks> {
    parquet::Chunks::new(file)
}

/// An entry whose every value may be missing: what is missing is told row by row.
fn opened(spec: &EntrySpec) -> EntrySpec {
    let mut open = spec.clone();
    open.items.iter_mut().for_each(|item| item.nullable = true);
    open
}

/// A schema whose every value may be missing.
fn open_schema(schema: &Schema) -> SchemaRef {
    let open = |f: &Arc<Field>| f.as_ref().clone().with_nullable(true);
    Arc::new(Schema::new(schema.fields().iter().map(open).collect::<Vec<_>>()))
}

/// Rows of a typed file, the first of which is number `first` of the file.
fn piece_of(path: &Path, open: &EntrySpec, batch: &RecordBatch, first: u64) -> Result<Piece, AgentError> {
    let batch = canonical_batch(open, batch).map_err(|e| not_canonical(path, &e))?;
    Ok(Piece { batch, lines: Lines::From(first), faults: Vec::new() })
}

fn shown(path: &Path) -> String {
    escape_for_log(&path.to_string_lossy())
}

/// Every difference between a file's columns and the entry's, each named.
fn check_columns(path: &Path, spec: &EntrySpec, schema: &Schema) -> Result<(), AgentError> {
    let found = differences(spec, schema);
    if found.is_empty() { Ok(()) } else { Err(differ(path, &found)) }
}

fn differ(path: &Path, found: &[Difference]) -> AgentError {
    let all = found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    bad(path, "columns", &format!("its columns are not the entry's: {all}"), &format!("列与目录条目不一致：{all}"))
}

fn not_canonical(path: &Path, error: &CanonicalError) -> AgentError {
    match error {
        CanonicalError::Differs(found) => differ(path, found),
        other => bad(path, "rows", &other.to_string(), &other.to_string()),
    }
}

fn bad(path: &Path, word: &str, en: &str, zh: &str) -> AgentError {
    let told = Told::new(word, format!("{}: {en}", shown(path)), format!("{}：{zh}", shown(path)));
    AgentError::Data(
        told.next("correct the file, or ask for the entry to be updated", "请更正文件，或申请更新目录条目"),
    )
}

/// Text that cannot be read: its encoding, or the disk.
fn text_unreadable(path: &Path, error: &io::Error) -> AgentError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<encoding::Unknown>()) {
        Some(encoding::Unknown(text)) => bad(path, "encoding", &text.en, &text.zh),
        None => AgentError::io("reading", path, error),
    }
}

/// Reads a file of the disk from front to back.
struct FileRead {
    file: Box<dyn DiskFile>,
    at: u64,
    len: u64,
}

impl FileRead {
    fn new(file: Box<dyn DiskFile>) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Self { file, at: 0, len })
    }
}

impl io::Read for FileRead {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.len.saturating_sub(self.at).min(buf.len() as u64) as usize;
        let Some(part) = buf.get_mut(..bytes) else { return Ok(0) };
        self.file.read_exact_at(part, self.at)?;
        self.at += bytes as u64;
        Ok(bytes)
    }
}

impl io::Seek for FileRead {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let at = match to {
            io::SeekFrom::Start(at) => Some(at),
            io::SeekFrom::End(by) => self.len.checked_add_signed(by),
            io::SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at =
            at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a place before the file's beginning"))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests;
