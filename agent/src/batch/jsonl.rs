//! JSON Lines: one object a line. An object within an object is its names joined by dots. A name that is not there is no
//! value. A number is none of a text item's values: it may have lost zeros at its front or digits at its end.

use super::cells::{Why, why};
use super::csv::records::Source;
use super::encoding::Decoded;
use super::rows::{Rows, shown};
use super::{FileRead, ReadOptions, Take, bad, text_unreadable};
use crate::error::AgentError;
use lingqu_protocol::entry::{EntrySpec, ItemType};
use lingqu_protocol::host::DiskFile;
use memchr::memchr;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

/// Bytes of one line: a frame on the wire holds no larger row.
const LINE_BYTES_MAX: usize = 16 << 20;

/// Objects within objects.
const DEPTH_MAX: usize = 8;

/// Names in one line: as many as an entry may have items, and room to say which are not.
const NAMES_MAX: usize = lingqu_protocol::entry::ITEMS_MAX * 2;

pub(super) fn read(
    file: Box<dyn DiskFile>,
    path: &Path,
    spec: &EntrySpec,
    options: &ReadOptions,
    take: Take<'_>,
) -> Result<bool, AgentError> {
    let places: HashMap<&str, usize> = spec.items.iter().enumerate().map(|(i, item)| (item.name.as_str(), i)).collect();
    let mut rows = Rows::new(spec, options.zone);
    let mut values: Vec<Option<String>> = vec![None; spec.items.len()];
    let mut more = true;
    lines(file, path, options, &mut |line, text| {
        match text.map(|text| (text, object(text))) {
            Some((_, Ok(members))) => row(&mut rows, spec, &places, &mut values, line, &members),
            Some((text, Err(reason))) => rows.whole_row(line, &shown(text.as_bytes()), reason),
            None => rows.whole_row(
                line,
                "",
                why(
                    "bytes of it are not in the file's encoding (--encoding)",
                    "含有不属于该文件编码的字节（可用 --encoding 指定）",
                ),
            ),
        }
        if rows.is_full() {
            more = take(rows.take(path)?)?;
        }
        Ok(more)
    })?;
    if !more || rows.is_empty() { Ok(more) } else { take(rows.take(path)?) }
}

/// Takes a line with its number; nothing where it is not in the file's encoding. `false` says that no more are wanted.
pub(super) type EachLine<'a> = &'a mut dyn FnMut(u64, Option<&str>) -> Result<bool, AgentError>;

/// Gives each line that is not blank, with its number, and nothing for one that is not in the file's encoding; stops where
/// `each` says so.
pub(super) fn lines(
    file: Box<dyn DiskFile>,
    path: &Path,
    options: &ReadOptions,
    each: EachLine<'_>,
) -> Result<(), AgentError> {
    let file = FileRead::new(file).map_err(|e| AgentError::io("reading", path, &e))?;
    let mut source = Decoded::new(file, options.encoding);
    let (mut buffer, mut at, mut line, mut ended) = (Vec::new(), 0, 1u64, false);
    let mut before = 0u64;
    loop {
        let rest = buffer.get(at..).unwrap_or_default();
        let end = match memchr(b'\n', rest) {
            Some(end) => end,
            None if ended && rest.is_empty() => return Ok(()),
            None if ended => rest.len(),
            None if rest.len() > LINE_BYTES_MAX => {
                return Err(bad(
                    path,
                    "jsonl",
                    &format!("line {line} has more than 16 MiB"),
                    &format!("第 {line} 行超过 16 MiB"),
                ));
            }
            None => {
                buffer.drain(..at);
                before += at as u64;
                at = 0;
                ended = !Source::more(&mut source, &mut buffer).map_err(|e| text_unreadable(path, &e))?;
                continue;
            }
        };
        let text = rest.get(..end).unwrap_or_default();
        let from = before + at as u64;
        let broken = Source::is_broken(&mut source, from, from + end as u64);
        let text = if broken { None } else { std::str::from_utf8(text).ok() };
        if text.is_none_or(|text| !text.trim().is_empty()) && !each(line, text)? {
            return Ok(());
        }
        line += 1;
        at = (at + end + 1).min(buffer.len());
    }
}

/// A member of an object: its dotted name, and its value as it stands.
pub(super) type Member = (String, Box<str>);

/// The members of a line.
pub(super) fn object(text: &str) -> Result<Vec<Member>, Why> {
    let mut members = Vec::new();
    flatten(text, "", 0, &mut members)?;
    Ok(members)
}

fn flatten(text: &str, prefix: &str, depth: usize, members: &mut Vec<Member>) -> Result<(), Why> {
    if depth >= DEPTH_MAX {
        return Err(why("objects lie too deep in each other", "对象嵌套过深"));
    }
    let object: Object<'_> = serde_json::from_str(text)
        .map_err(|e| why(format!("it is no JSON object: {e}"), format!("不是 JSON 对象：{e}")))?;
    for (name, value) in object.0 {
        if members.len() >= NAMES_MAX {
            return Err(why("it has more names than any entry has items", "字段数超过目录条目允许的数据项数"));
        }
        let name = if prefix.is_empty() { name.into_owned() } else { format!("{prefix}.{name}") };
        let raw = value.get();
        if raw.starts_with('{') {
            flatten(raw, &name, depth + 1, members)?;
        } else {
            members.push((name, raw.into()));
        }
    }
    Ok(())
}

fn row(
    rows: &mut Rows<'_>,
    spec: &EntrySpec,
    places: &HashMap<&str, usize>,
    values: &mut [Option<String>],
    line: u64,
    members: &[Member],
) {
    values.iter_mut().for_each(|v| *v = None);
    for (name, raw) in members {
        let Some(slot) = places.get(name.as_str()).and_then(|place| values.get_mut(*place)) else {
            let reason = why(
                format!("{name:?} is not in the entry: drop it, or update the entry"),
                format!("目录条目中没有 {name:?}：请删除该字段或更新目录条目"),
            );
            return rows.whole_row(line, &shown(name.as_bytes()), reason);
        };
        if slot.replace(raw.to_string()).is_some() {
            let reason = why(format!("{name:?} stands twice"), format!("字段 {name:?} 重复"));
            return rows.whole_row(line, &shown(name.as_bytes()), reason);
        }
    }
    for (column, (item, raw)) in spec.items.iter().zip(values.iter()).enumerate() {
        match raw.as_deref() {
            None | Some("null") => rows.null(column),
            Some(raw) => match spelled(item.item_type, raw) {
                Ok(text) => rows.text(column, text.as_bytes()),
                Err(reason) => rows.fault(column, raw.as_bytes(), reason),
            },
        }
    }
    rows.end_row(line);
}

/// What a JSON value spells in an item of this type.
fn spelled(item_type: ItemType, raw: &str) -> Result<Cow<'_, str>, Why> {
    let text = item_type == ItemType::String;
    match raw.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(raw)
            .map(Cow::Owned)
            .map_err(|e| why(format!("the string cannot be read: {e}"), format!("字符串无法解析：{e}"))),
        Some(b'[') => Err(why("it is a list, and items have one value", "是数组，而数据项只有一个值")),
        Some(b't' | b'f') if item_type == ItemType::Bool => Ok(Cow::Borrowed(raw)),
        Some(b't' | b'f') => Err(why("it is true or false, and the item is not", "是布尔值，与数据项类型不符")),
        _ if text => Err(why(
            "it is a number, and the item is text: put it in quotes, with all its digits",
            "是数值，而数据项为文本：请加引号并保留全部数字",
        )),
        _ => Ok(Cow::Borrowed(raw)),
    }
}

/// The members of one object, in their order, doubled ones too.
struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    if members.len() < NAMES_MAX {
                        members.push((name.0, value));
                    }
                }
                Ok(members)
            }
        }
        d.deserialize_map(Members).map(Object)
    }
}

/// A name, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
