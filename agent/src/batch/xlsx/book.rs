//! What all sheets of a workbook share: names of sheets, texts, and which number formats are dates.

use super::xml::{Token, Xml, attribute, unreadable};
use super::{Broken, broken};
use crate::batch::FileRead;
use std::collections::HashMap;
use std::io::Read;
use zip::ZipArchive;
use zip::read::ZipFile;

/// Files in the archive: a workbook has some dozens.
const ENTRIES_MAX: usize = 10_000;

/// Bytes of the archive's list of files; it is held in memory.
const SMALL_PART_BYTES_MAX: u64 = 32 << 20;

/// Bytes of the part that holds the texts, as XML.
const TEXTS_PART_BYTES_MAX: u64 = 1 << 30;

/// Bytes of all texts, which are held in memory while a sheet is read.
const TEXTS_BYTES_MAX: usize = 64 << 20;

/// Texts: four bytes are held for each beside its own.
const TEXTS_MAX: usize = 8 << 20;

/// Sheets, styles and relations of a workbook.
const LIST_MAX: usize = 100_000;

/// Bytes of a sheet as XML: a full one of Excel's has less.
const SHEET_BYTES_MAX: u64 = 16 << 30;

/// How numbers of a style are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::batch) enum Style {
    /// As a number.
    Number,
    /// As a day or a time.
    Date,
    /// As so many digits, with zeros in front.
    Padded(usize),
}

/// A workbook without its sheets.
#[derive(Debug, Default)]
pub(in crate::batch) struct Book {
    texts: String,
    ends: Vec<u32>,
    styles: Vec<Style>,
    /// Days are counted from 1904.
    pub(super) from_1904: bool,
}

pub(super) type Archive = ZipArchive<FileRead>;

impl Book {
    /// The shared text with this number.
    pub(super) fn text(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)? as usize;
        let start = index.checked_sub(1).and_then(|i| self.ends.get(i)).map_or(0, |e| *e as usize);
        self.texts.get(start..end)
    }

    pub(super) fn style(&self, index: Option<usize>) -> Style {
        index.and_then(|index| self.styles.get(index)).copied().unwrap_or(Style::Number)
    }
}

/// The archive, its workbook, and the name of the part that holds the sheet.
pub(super) fn open(file: FileRead, sheet: Option<&str>) -> Result<(Archive, Book, String), Broken> {
    let mut archive = ZipArchive::new(file).map_err(|e| {
        let old = "is it an old .xls, or protected by a password?";
        broken(format!("{e} ({old})"), format!("{e}（是否为旧版 .xls 或有密码保护？）"))
    })?;
    if archive.len() > ENTRIES_MAX {
        return Err(broken("its archive has too many files", "压缩包内文件过多"));
    }
    let mut book = Book::default();
    let sheets = workbook(&mut archive, &mut book)?;
    let relations = relations(&mut archive)?;
    let (_, relation) = match sheet {
        None => sheets.first().ok_or_else(|| broken("it has no sheet", "没有工作表"))?,
        Some(name) => sheets.iter().find(|(is, _)| is == name).ok_or_else(|| {
            let names: Vec<&str> = sheets.iter().take(20).map(|(name, _)| name.as_str()).collect();
            broken(
                format!("it has no sheet {name:?}; it has {}", names.join(", ")),
                format!("没有工作表 {name:?}；现有：{}", names.join("、")),
            )
        })?,
    };
    let target = relations.get(relation).ok_or_else(|| broken("its sheet has no part", "工作表缺少内容"))?;
    let target = match target.strip_prefix('/') {
        Some(absolute) => absolute.to_owned(),
        None => format!("xl/{target}"),
    };
    styles(&mut archive, &mut book)?;
    texts(&mut archive, &mut book)?;
    Ok((archive, book, target))
}

/// The XML of a sheet.
pub(super) fn part<'a>(archive: &'a mut Archive, name: &str) -> Result<Xml<ZipFile<'a, FileRead>>, Broken> {
    let part = archive.by_name(name).map_err(unreadable)?;
    let stored = part.compressed_size();
    Ok(Xml::new(part, stored, SHEET_BYTES_MAX))
}

fn optional<'a>(
    archive: &'a mut Archive,
    name: &str,
    bytes_max: u64,
) -> Result<Option<Xml<impl Read + use<'a>>>, Broken> {
    match archive.by_name(name) {
        Ok(part) => {
            let stored = part.compressed_size();
            Ok(Some(Xml::new(part, stored, bytes_max)))
        }
        Err(zip::result::ZipError::FileNotFound) => Ok(None),
        Err(e) => Err(unreadable(e)),
    }
}

fn workbook(archive: &mut Archive, book: &mut Book) -> Result<Vec<(String, String)>, Broken> {
    let xml = optional(archive, "xl/workbook.xml", SMALL_PART_BYTES_MAX)?;
    let xml = xml.ok_or_else(|| broken("it is no Excel workbook", "不是 Excel 工作簿"))?;
    let mut sheets = Vec::new();
    xml.each(&mut |token| {
        if let Token::Open(tag, _) = token {
            match tag.local_name().into_inner() {
                "sheet" => {
                    let name = attribute(&tag, "name")?.unwrap_or_default();
                    // `r:id`; there is `sheetId` beside it, which is another name.
                    let relation = attribute(&tag, "id")?.unwrap_or_default();
                    within(sheets.len())?;
                    sheets.push((name, relation));
                }
                "workbookPr" => {
                    book.from_1904 = matches!(attribute(&tag, "date1904")?.as_deref(), Some("1" | "true"));
                }
                _ => {}
            }
        }
        Ok(true)
    })?;
    Ok(sheets)
}

fn relations(archive: &mut Archive) -> Result<HashMap<String, String>, Broken> {
    let mut relations = HashMap::new();
    if let Some(xml) = optional(archive, "xl/_rels/workbook.xml.rels", SMALL_PART_BYTES_MAX)? {
        xml.each(&mut |token| {
            if let Token::Open(tag, _) = token
                && tag.local_name().into_inner() == "Relationship"
                && let (Some(id), Some(target)) = (attribute(&tag, "Id")?, attribute(&tag, "Target")?)
            {
                within(relations.len())?;
                relations.insert(id, target);
            }
            Ok(true)
        })?;
    }
    Ok(relations)
}

fn styles(archive: &mut Archive, book: &mut Book) -> Result<(), Broken> {
    let Some(xml) = optional(archive, "xl/styles.xml", SMALL_PART_BYTES_MAX)? else { return Ok(()) };
    let mut formats: HashMap<u32, Style> = HashMap::new();
    let mut in_cells = false;
    xml.each(&mut |token| {
        match token {
            Token::Open(tag, empty) => match tag.local_name().into_inner() {
                "numFmt" => {
                    let id = attribute(&tag, "numFmtId")?.and_then(|id| id.parse().ok());
                    if let (Some(id), Some(code)) = (id, attribute(&tag, "formatCode")?) {
                        within(formats.len())?;
                        formats.insert(id, style_of(&code));
                    }
                }
                "cellXfs" => in_cells = !empty,
                "xf" if in_cells => {
                    let id = attribute(&tag, "numFmtId")?.and_then(|id| id.parse().ok()).unwrap_or(0);
                    within(book.styles.len())?;
                    book.styles.push(formats.get(&id).copied().unwrap_or_else(|| built_in(id)));
                }
                _ => {}
            },
            Token::Close("cellXfs") => in_cells = false,
            _ => {}
        }
        Ok(true)
    })
}

/// Formats that have a number and no text.
const fn built_in(id: u32) -> Style {
    match id {
        14..=22 | 27..=36 | 45..=47 | 50..=58 => Style::Date,
        _ => Style::Number,
    }
}

/// What a format's code shows: a day or a time, or zeros in front.
fn style_of(code: &str) -> Style {
    let code = code.split(';').next().unwrap_or_default();
    if !code.is_empty() && code.len() <= 32 && code.bytes().all(|b| b == b'0') {
        return if code.len() > 1 { Style::Padded(code.len()) } else { Style::Number };
    }
    let (mut quoted, mut bracket, mut escaped) = (false, false, false);
    for c in code.chars() {
        if std::mem::take(&mut escaped) {
            continue;
        }
        match c {
            '\\' | '_' | '*' => escaped = true,
            '"' => quoted = !quoted,
            '[' if !quoted => bracket = true,
            ']' if !quoted => bracket = false,
            _ if quoted || bracket => {}
            'y' | 'Y' | 'd' | 'D' | 'h' | 'H' | 's' | 'S' => return Style::Date,
            _ => {}
        }
    }
    Style::Number
}

fn texts(archive: &mut Archive, book: &mut Book) -> Result<(), Broken> {
    let Some(xml) = optional(archive, "xl/sharedStrings.xml", TEXTS_PART_BYTES_MAX)? else { return Ok(()) };
    let too_many = || {
        broken(
            "its texts take more than 64 MiB: split it, or save it as CSV",
            "文本内容超过 64 MiB：请拆分或另存为 CSV",
        )
    };
    let (mut in_text, mut in_phonetic) = (false, false);
    let mut one = String::new();
    xml.each(&mut |token| {
        match token {
            Token::Open(tag, empty) => match tag.local_name().into_inner() {
                "t" => in_text = !empty,
                "rPh" => in_phonetic = !empty,
                "si" if empty => book.ends.push(u32::try_from(book.texts.len()).map_err(|_| too_many())?),
                "si" => one.clear(),
                _ => {}
            },
            Token::Close("t") => in_text = false,
            Token::Close("rPh") => in_phonetic = false,
            Token::Close("si") => {
                book.texts.push_str(&unescaped(&one));
                book.ends.push(u32::try_from(book.texts.len()).map_err(|_| too_many())?);
            }
            Token::Text(text) if in_text && !in_phonetic => one.push_str(text),
            Token::Char(c) if in_text && !in_phonetic => one.push(c),
            _ => {}
        }
        if book.texts.len() + one.len() > TEXTS_BYTES_MAX || book.ends.len() > TEXTS_MAX {
            return Err(too_many());
        }
        Ok(true)
    })
}

fn within(len: usize) -> Result<(), Broken> {
    if len < LIST_MAX { Ok(()) } else { Err(broken("its workbook lists too much", "工作簿清单过长")) }
}

/// Excel writes characters that XML cannot hold as `_xHHHH_`.
pub(super) fn unescaped(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains("_x") {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("_x") {
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        let code = tail.get(2..6).filter(|_| tail.as_bytes().get(6) == Some(&b'_'));
        let code = code.filter(|c| c.bytes().all(|b| b.is_ascii_hexdigit()));
        match code.and_then(|c| u32::from_str_radix(c, 16).ok()).and_then(char::from_u32) {
            Some(c) => {
                out.push(c);
                rest = tail.get(7..).unwrap_or_default();
            }
            None => {
                out.push_str("_x");
                rest = tail.get(2..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_say_what_they_show() {
        for code in ["yyyy-mm-dd", "yyyy\"年\"m\"月\"d\"日\"", "[$-804]h:mm", "m/d/yy h:mm"] {
            assert_eq!(style_of(code), Style::Date, "{code}");
        }
        for code in ["General", "0.00", "#,##0", "\"day\"0", "[Red]0", "0"] {
            assert_eq!(style_of(code), Style::Number, "{code}");
        }
        assert_eq!(style_of("000000"), Style::Padded(6));
    }

    #[test]
    fn characters_that_xml_cannot_hold_come_back() {
        assert_eq!(unescaped("a_x000D_b_x005F_x0041_"), "a\rb_x0041_");
        assert_eq!(unescaped("_xyz_ _x00"), "_xyz_ _x00");
    }
}
