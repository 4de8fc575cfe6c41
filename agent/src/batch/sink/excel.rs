//! Rows as one sheet of an Excel file, whose cells go to a temporary file beside it as they come. What Excel cannot hold
//! exactly is text: numbers of more than 15 digits, instants (its times have no zone), days before March 1900.

use super::{FileWrite, SinkError, no_item};
use crate::batch::spell::Spelled;
use crate::error::Told;
use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use rust_xlsxwriter::{Format, Workbook, XlsxError};
use std::io;
use std::path::Path;

/// Rows of a sheet, the header among them.
pub(super) const ROWS_MAX: u32 = 1_048_576;

/// Columns of a sheet.
const COLUMNS_MAX: usize = 16_384;

/// UTF-16 units of a cell, which is how Excel counts characters.
const CELL_CHARS_MAX: usize = 32_767;

/// Whole numbers from here on lose digits in Excel.
const DIGITS_KEPT: u128 = 1_000_000_000_000_000;

/// Excel's number of 1970-01-01, and of 1900-03-01, from when on its calendar is right.
const EPOCH: i64 = 25_569;
const FIRST_RIGHT_DAY: i64 = 61;
const LAST_DAY: i64 = 2_958_465;

pub(super) struct ExcelSink {
    book: Workbook,
    out: FileWrite,
    names: Vec<String>,
    date: Format,
    next: u32,
    text: String,
}

impl ExcelSink {
    pub(super) fn new(out: FileWrite, path: &Path, schema: &Schema) -> Result<Self, SinkError> {
        let names: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        if names.len() > COLUMNS_MAX {
            return Err(cannot(
                format!("{} columns are more than Excel's {COLUMNS_MAX}", names.len()),
                format!("{} 列超过 Excel 的上限 {COLUMNS_MAX} 列", names.len()),
            ));
        }
        let mut book = Workbook::new();
        // Cells that wait lie where the file itself will lie, and nowhere else.
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        book.set_tempdir(folder).map_err(failed)?;
        book.add_worksheet_with_constant_memory().map_err(failed)?;
        let date = Format::new().set_num_format("yyyy-mm-dd");
        let mut sink = Self { book, out, names, date, next: 1, text: String::new() };
        let names = sink.names.clone();
        for (column, name) in names.iter().enumerate() {
            sink.sheet()?.write_string(0, place(column), name).map_err(failed)?;
        }
        Ok(sink)
    }

    fn sheet(&mut self) -> Result<&mut rust_xlsxwriter::Worksheet, SinkError> {
        self.book.worksheet_from_index(0).map_err(failed)
    }

    pub(super) fn batch(&mut self, batch: &RecordBatch) -> Result<(), SinkError> {
        let columns = Spelled::all(batch).ok_or_else(no_item)?;
        if u64::from(self.next) + batch.num_rows() as u64 > u64::from(ROWS_MAX) {
            let most = ROWS_MAX - 1;
            return Err(cannot(
                format!("there are more rows than the {most} that an Excel sheet has beside its header"),
                format!("数据行数超过 Excel 工作表的上限（表头之外 {most} 行）"),
            ));
        }
        let mut text = std::mem::take(&mut self.text);
        let date = self.date.clone();
        for row in 0..batch.num_rows() {
            let at = self.next;
            for (column, values) in columns.iter().enumerate().filter(|(_, values)| !values.is_null(row)) {
                let to = place(column);
                let number = match values {
                    Spelled::Int32(v) => Some(f64::from(v.value(row))),
                    Spelled::Int64(v) if u128::from(v.value(row).unsigned_abs()) < DIGITS_KEPT => {
                        Some(v.value(row) as f64)
                    }
                    Spelled::Float64(v) => Some(v.value(row)).filter(|v| v.is_finite()),
                    Spelled::Decimal(v, scale) if v.value(row).unsigned_abs() < DIGITS_KEPT => {
                        text.clear();
                        values.write(row, &mut text);
                        // At most 15 digits: the nearest double reads back as the same ones.
                        text.parse().ok().filter(|_| *scale <= 15)
                    }
                    _ => None,
                };
                let sheet = self.book.worksheet_from_index(0).map_err(failed)?;
                match (number, values) {
                    (Some(number), _) => sheet.write_number(at, to, number).map_err(failed)?,
                    (None, Spelled::Bool(v)) => sheet.write_boolean(at, to, v.value(row)).map_err(failed)?,
                    (None, Spelled::Date(v))
                        if (FIRST_RIGHT_DAY..=LAST_DAY).contains(&(i64::from(v.value(row)) + EPOCH)) =>
                    {
                        let day = (i64::from(v.value(row)) + EPOCH) as f64;
                        sheet.write_number_with_format(at, to, day, &date).map_err(failed)?
                    }
                    _ => {
                        text.clear();
                        values.write(row, &mut text);
                        let chars = if text.len() > CELL_CHARS_MAX { text.encode_utf16().count() } else { 0 };
                        if chars > CELL_CHARS_MAX {
                            let name = self.names.get(column).map_or("", String::as_str);
                            return Err(cannot(
                                format!(
                                    "row {at}, column {name:?}: {chars} characters are more than the {CELL_CHARS_MAX} \
                                     of an Excel cell"
                                ),
                                format!(
                                    "第 {at} 行，列 {name:?}：{chars} 个字符超过 Excel 单元格上限 {CELL_CHARS_MAX}"
                                ),
                            ));
                        }
                        sheet.write_string(at, to, text.as_str()).map_err(failed)?
                    }
                };
            }
            self.next += 1;
        }
        self.text = text;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(), SinkError> {
        // Written to a buffer of a few kilobytes at a time.
        self.book.save_to_writer(&mut self.out).map_err(failed)
    }
}

/// A column's number; there are no more than [`COLUMNS_MAX`].
fn place(column: usize) -> u16 {
    u16::try_from(column).unwrap_or(u16::MAX)
}

fn cannot(en: String, zh: String) -> SinkError {
    SinkError::Cannot(Told::new("excel_limit", en, zh).next(
        "narrow it with --where, --region or --columns, or use .csv or .parquet",
        "请用 --where、--region、--columns 缩小范围，或改用 .csv 或 .parquet",
    ))
}

fn failed(error: XlsxError) -> SinkError {
    SinkError::Io(match error {
        XlsxError::IoError(e) => e,
        other => io::Error::other(other.to_string()),
    })
}
