//! Rows in files: read into batches of an entry's columns, and written from them.

mod csv;
mod pages;
mod parquet;
pub mod sink;

use crate::error::{AgentError, Told};
use ::arrow::array::RecordBatch;
use lingqu_protocol::columns::{CanonicalError, Difference, differences};
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::host::{Disk, DiskFile};
use lingqu_protocol::name::escape_for_log;
use std::io;
use std::path::Path;

/// Takes batches one by one; `false` says that no more are wanted.
pub type Take<'a> = &'a mut dyn FnMut(RecordBatch) -> Result<bool, AgentError>;

/// Reads a Parquet or CSV file as rows of `spec`, whose columns and types the batches have, in its order. Holds a few
/// batches at a time, whatever the size of the file. Blocks. Gives whether all was read.
///
/// # Errors
/// A file that is neither, or whose columns or values are not the entry's (exit code 7); each difference is named.
pub fn read(disk: &dyn Disk, path: &Path, spec: &EntrySpec, take: Take<'_>) -> Result<bool, AgentError> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let file = disk.open(path).map_err(|e| AgentError::input(path, &e))?;
    match extension.as_str() {
        "parquet" => parquet::read(file, path, spec, take),
        "csv" => csv::read(file, path, spec, take),
        _ => Err(AgentError::Usage(
            Told::new(
                "batch_format",
                format!("{} is neither .parquet nor .csv", shown(path)),
                format!("{} 不是 .parquet 或 .csv 文件", shown(path)),
            )
            .next("convert it, or give it the extension that it is", "请转换格式或使用正确的扩展名"),
        )),
    }
}

fn shown(path: &Path) -> String {
    escape_for_log(&path.to_string_lossy())
}

/// Every difference between a file's columns and the entry's, each named.
fn check_columns(path: &Path, spec: &EntrySpec, schema: &::arrow::datatypes::Schema) -> Result<(), AgentError> {
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

#[cfg(test)]
mod tests;
