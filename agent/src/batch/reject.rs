//! Dirty rows: how many a push may leave behind, and the file that names them.

use super::FileFormat;
use super::sift::{DirtyCell, Outcome, Sifted};
use crate::error::{AgentError, Told};
use lingqu_protocol::host::{Disk, DiskFile};
use lingqu_protocol::name::escape_for_log;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Bytes that wait to be written to the file.
const BUFFER_BYTES: usize = 256 << 10;

/// Cells that an error or a report shows; the file has them all.
pub const SHOWN_MAX: usize = 1_000;

/// Cells that an error shows.
const IN_ERROR: usize = 3;

/// Parts of a million: a percentage with four decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Percent(u32);

/// A text that is no percentage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a number from 0 to 100 with at most 4 decimals")]
pub struct BadPercent;

impl FromStr for Percent {
    type Err = BadPercent;
    fn from_str(text: &str) -> Result<Self, BadPercent> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > 4 || whole.len() > 3 {
            return Err(BadPercent);
        }
        let parts: u32 = format!("{whole}{fraction:0<4}").parse().map_err(|_| BadPercent)?;
        if parts > 1_000_000 { Err(BadPercent) } else { Ok(Self(parts)) }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:04}", self.0 / 10_000, self.0 % 10_000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// What is done about dirty rows. Without either limit none is left behind: the first one refuses the push.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct RejectOptions {
    /// Where they are named.
    pub file: Option<PathBuf>,
    /// How many rows may stay behind.
    pub rows_max: Option<u64>,
    /// How much of all rows may.
    pub percent_max: Option<Percent>,
}

impl RejectOptions {
    /// Whether so many of all that were read may stay behind. What is not at its end yet is not judged by percentage.
    fn allows(&self, rejected: u64, read: u64, at_end: bool) -> bool {
        let by_rows = match (self.rows_max, self.percent_max) {
            (Some(rows), _) => rejected <= rows,
            (None, Some(_)) => true,
            (None, None) => rejected == 0,
        };
        let parts = u128::from(rejected) * 1_000_000;
        let by_percent = self.percent_max.is_none_or(|p| !at_end || parts <= u128::from(p.0) * u128::from(read));
        by_rows && by_percent
    }
}

/// One dirty cell and its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The cell.
    pub cell: DirtyCell,
}

/// Counts rows, judges them by the limits, and writes the file.
pub struct Tally {
    options: RejectOptions,
    /// Goes on past every limit, to name all.
    only_look: bool,
    read: u64,
    rejected: u64,
    marked: u64,
    first: Vec<Named>,
    out: Option<RejectFile>,
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tally").field("read", &self.read).field("rejected", &self.rejected).finish_non_exhaustive()
    }
}

impl Tally {
    /// Of a push that begins; a file of an earlier try is begun anew. `only_look` names all without a limit.
    ///
    /// # Errors
    /// What the disk says.
    pub fn new(disk: &dyn Disk, options: &RejectOptions, only_look: bool) -> Result<Self, AgentError> {
        let out = options.file.as_deref().map(|path| RejectFile::create(disk, path)).transpose()?;
        Ok(Self { options: options.clone(), only_look, read: 0, rejected: 0, marked: 0, first: Vec::new(), out })
    }

    /// Counts a piece of `file`.
    ///
    /// # Errors
    /// More dirty rows than the limit allows: bad data, with the first of them by name.
    pub fn take(&mut self, file: &Path, sifted: &Sifted) -> Result<(), AgentError> {
        self.read += sifted.batch.num_rows() as u64 + sifted.rejected;
        self.rejected += sifted.rejected;
        let mut last = None;
        for cell in &sifted.cells {
            if cell.outcome == Outcome::Marked && last != Some(cell.line) {
                self.marked += 1;
                last = Some(cell.line);
            }
            if self.first.len() < SHOWN_MAX {
                self.first.push(Named { file: file.to_owned(), cell: cell.clone() });
            }
            if let Some(out) = &mut self.out {
                out.write(file, cell)?;
            }
        }
        if !self.only_look && !self.options.allows(self.rejected, self.read, false) {
            self.close()?;
            return Err(self.over());
        }
        Ok(())
    }

    /// Judges the whole, and closes the file.
    ///
    /// # Errors
    /// More dirty rows than the limits allow, or what the disk says.
    pub fn finish(&mut self) -> Result<(), AgentError> {
        self.close()?;
        if self.is_allowed() || self.only_look { Ok(()) } else { Err(self.over()) }
    }

    /// Whether what was left behind is within the limits.
    pub fn is_allowed(&self) -> bool {
        self.options.allows(self.rejected, self.read, true)
    }

    /// Rows that were read.
    pub const fn read(&self) -> u64 {
        self.read
    }

    /// Rows that stay behind.
    pub const fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Rows that land and are named.
    pub const fn marked(&self) -> u64 {
        self.marked
    }

    /// The first of them, by name.
    pub fn first(&self) -> &[Named] {
        &self.first
    }

    fn close(&mut self) -> Result<(), AgentError> {
        self.out.as_mut().map_or(Ok(()), RejectFile::flush)
    }

    /// More stay behind than may.
    pub fn over(&self) -> AgentError {
        let rejected = || self.first.iter().filter(|n| n.cell.outcome == Outcome::Rejected);
        let none_allowed = self.options.rows_max.is_none() && self.options.percent_max.is_none();
        let mut en: Vec<String> = rejected().take(IN_ERROR).map(|n| n.text(false)).collect();
        let mut zh: Vec<String> = rejected().take(IN_ERROR).map(|n| n.text(true)).collect();
        if none_allowed && !self.only_look {
            en.truncate(1);
            zh.truncate(1);
        }
        let (mut en, mut zh) = (en.join("; "), zh.join("；"));
        if !none_allowed || self.only_look {
            let limit = match (self.options.rows_max, self.options.percent_max) {
                (Some(rows), Some(percent)) => format!("{rows} rows and {percent} %"),
                (Some(rows), None) => format!("{rows} rows"),
                (None, Some(percent)) => format!("{percent} %"),
                (None, None) => "none".to_owned(),
            };
            let (bad, read) = (self.rejected, self.read);
            en = format!("{bad} of {read} rows read are not what the entry says (limit: {limit}): {en}");
            zh = format!("已读取 {read} 行，其中 {bad} 行不符合目录条目（上限：{limit}）：{zh}");
        }
        AgentError::Data(Told::new("dirty_rows", en, zh).next(
            "correct them; --check names all of them, --reject FILE with --reject-rows-max N leaves them behind",
            "请更正；--check 列出全部，--reject 文件 与 --reject-rows-max N 可将其剔除后继续",
        ))
    }
}

impl Named {
    /// What a person reads: file, line, column, value, reason.
    pub fn text(&self, chinese: bool) -> String {
        let Self { file, cell } = self;
        let file = escape_for_log(&file.to_string_lossy());
        let value = escape_for_log(&cell.value);
        let is_row =
            matches!(FileFormat::of(&self.file), Some(FileFormat::Parquet | FileFormat::Arrow | FileFormat::Xlsx));
        let (line, why) = (cell.line, if chinese { &cell.why.zh } else { &cell.why.en });
        match (chinese, cell.column.is_empty()) {
            (false, true) => format!("{file}: {} {line}: {why}", if is_row { "row" } else { "line" }),
            (false, false) => {
                let word = if is_row { "row" } else { "line" };
                format!("{file}: {word} {line}, column {:?}: {value:?}: {why}", cell.column)
            }
            (true, true) => format!("{file}：第 {line} 行：{why}"),
            (true, false) => format!("{file}：第 {line} 行，列 {:?}：{value:?}：{why}", cell.column),
        }
    }
}

/// The file: CSV in UTF-8 with a byte order mark, for it is mostly looked at in Excel.
struct RejectFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    at: u64,
    buffer: Vec<u8>,
}

impl RejectFile {
    fn create(disk: &dyn Disk, path: &Path) -> Result<Self, AgentError> {
        let failed = |e| AgentError::io("writing", path, &e);
        match disk.remove(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let file = disk.create(path).map_err(failed)?;
        let buffer = "\u{feff}file,line,column,value,outcome,reason,reason_zh\r\n".as_bytes().to_vec();
        Ok(Self { file, path: path.to_owned(), at: 0, buffer })
    }

    fn write(&mut self, file: &Path, cell: &DirtyCell) -> Result<(), AgentError> {
        let line = cell.line.to_string();
        let name = file.to_string_lossy();
        let fields =
            [&*name, &line, &cell.column, &cell.value, cell.outcome.word(), &cell.why.en, &cell.why.zh].map(field);
        self.buffer.extend_from_slice(fields.join(",").as_bytes());
        self.buffer.extend_from_slice(b"\r\n");
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), AgentError> {
        let failed = |e| AgentError::io("writing", &self.path, &e);
        self.file.write_all_at(&self.buffer, self.at).map_err(failed)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        self.file.sync().map_err(failed)
    }
}

/// A field in quotes, without what cannot be seen, and never a formula.
fn field(text: &str) -> String {
    let text = escape_for_log(text);
    let guard = if text.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percentages_are_exact() {
        for (text, parts) in [("0", 0), ("0.5", 5_000), ("100", 1_000_000), ("0.0001", 1)] {
            let percent: Percent = text.parse().unwrap();
            assert_eq!(percent, Percent(parts));
            assert_eq!(percent.to_string(), text);
        }
        assert!(["", "-1", "101", "1e1", "0.00001", ".5"].iter().all(|t| t.parse::<Percent>().is_err()));
    }

    #[test]
    fn limits_are_what_they_say() {
        let of = |rows_max, percent: Option<&str>| RejectOptions {
            file: None,
            rows_max,
            percent_max: percent.map(|p| p.parse().unwrap()),
        };
        assert!(of(None, None).allows(0, 9, true) && !of(None, None).allows(1, 9, false));
        assert!(of(Some(2), None).allows(2, 2, true) && !of(Some(2), None).allows(3, 900, false));
        assert!(of(None, Some("1")).allows(1, 100, true) && !of(None, Some("1")).allows(2, 199, true));
        assert!(of(None, Some("1")).allows(2, 3, false), "judged at the end");
        assert!(!of(Some(5), Some("1")).allows(2, 100, true), "both must hold");
    }

    proptest! {
        #[test]
        fn a_field_is_one_field_and_no_formula(text in "\\PC{0,20}|[=+@\"\\-,\\r\\n]{1,8}") {
            let line = field(&text);
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(line.as_bytes());
            let record = reader.records().next().unwrap().unwrap();
            prop_assert_eq!(record.len(), 1);
            prop_assert!(!record[0].starts_with(['=', '+', '-', '@']));
        }
    }
}
