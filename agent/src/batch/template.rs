//! A first draft of an entry from a file of rows. Types are guessed with care, from the first rows: a column is a number or
//! a day only where every value is, and what could be a code stays a string.

use super::arrow_file;
use super::cells::Column;
use super::parquet;
use super::{FileFormat, ReadOptions, bad, csv, jsonl, xlsx};
use crate::error::AgentError;
use arrow::datatypes::Schema;
use lingqu_protocol::columns::{item_type_for, leaf_fields};
use lingqu_protocol::entry::{EntrySpec, ITEMS_MAX, ItemType};
use lingqu_protocol::host::Disk;
use lingqu_protocol::region::RegionTable;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::Path;

/// Rows that are looked at.
const ROWS_LOOKED_AT: u64 = 10_000;

/// Values of a column that are compared to find out whether each stands once.
const DISTINCT_BYTES_MAX: usize = 1 << 20;

/// Digits from which on a number is rather a code.
const CODE_DIGITS: usize = 15;

/// Decimals that are offered at least, for amounts of money.
const SCALE_LEAST: usize = 2;

/// A draft.
#[derive(Clone, Debug)]
pub struct Template {
    /// entry.toml.
    pub toml: String,
    /// The entry's name, from the file's.
    pub name: String,
    /// Items.
    pub items: usize,
    /// Rows that the guesses rest on; none where the file says its types itself.
    pub rows: u64,
}

/// Writes a draft from a file. What is not in a file (purposes, grades, whether an item is personal) is to be written by a
/// person: the draft parses as it stands, with the strictest words where there is a choice.
///
/// # Errors
/// A file that cannot be read.
pub fn template(disk: &dyn Disk, path: &Path, options: &ReadOptions) -> Result<Template, AgentError> {
    let format = FileFormat::demand(path)?;
    let file = disk.open(path).map_err(|e| AgentError::input(path, &e))?;
    let mut rows = 0;
    let mut columns: Vec<Guess> = Vec::new();
    match format {
        FileFormat::Parquet => columns = typed(path, &parquet::schema(file, path)?)?,
        FileFormat::Arrow => columns = typed(path, &*arrow_file::schema(file, path)?)?,
        FileFormat::Csv => {
            let mut records = csv::open(file, path, options)?;
            columns = csv::header(&mut records, path)?.into_iter().map(Guess::new).collect();
            while rows < ROWS_LOOKED_AT && records.next().map_err(|e| csv::problem(path, &e))? {
                rows += 1;
                for (place, column) in columns.iter_mut().enumerate() {
                    column.see(records.field(place), false);
                }
            }
        }
        FileFormat::JsonLines => jsonl::lines(file, path, options, &mut |line, text| {
            let members = text.map(jsonl::object);
            let Some(Ok(members)) = members else {
                let (en, zh) = (format!("line {line} is no JSON object"), format!("第 {line} 行不是 JSON 对象"));
                return Err(bad(path, "jsonl", &en, &zh));
            };
            for (name, raw) in members {
                let place = columns.iter().position(|c| c.name == name).unwrap_or(columns.len());
                if place == columns.len() {
                    columns.push(Guess::new(name));
                }
                let Some(column) = columns.get_mut(place) else { continue };
                match serde_json::from_str::<serde_json::Value>(&raw) {
                    Ok(serde_json::Value::String(text)) => column.see(text.as_bytes(), true),
                    Ok(serde_json::Value::Null) | Err(_) => column.see(b"", false),
                    Ok(_) => column.see(raw.as_bytes(), false),
                }
            }
            rows += 1;
            Ok(rows < ROWS_LOOKED_AT)
        })?,
        FileFormat::Xlsx => {
            let mut first = true;
            xlsx::each_row(file, path, options, &mut |book, _, cells| {
                if std::mem::take(&mut first) {
                    columns = xlsx::header(path, book, cells)?.into_iter().map(Guess::new).collect();
                    return Ok(true);
                }
                for (place, column) in columns.iter_mut().enumerate() {
                    let (text, is_text) = xlsx::seen(book, cells.get(place));
                    column.see(text.as_bytes(), is_text);
                }
                rows += 1;
                Ok(rows < ROWS_LOOKED_AT)
            })?;
        }
    }
    if columns.is_empty() || columns.len() > ITEMS_MAX {
        let (en, zh) = ("it has no columns, or more than an entry has items", "没有列，或列数超过目录条目的上限");
        return Err(bad(path, "columns", en, zh));
    }
    let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).take(100).collect();
    let name = if name.trim().is_empty() { "未命名".to_owned() } else { name.trim().to_owned() };
    let toml = written(&name, &columns, rows);
    // What cannot be an entry (a column's name, for one) is better said now than at submission.
    EntrySpec::parse(&toml).map_err(|e| {
        bad(path, "template", &format!("an entry cannot be made of it: {e}"), &format!("无法据此生成目录条目：{e}"))
    })?;
    Ok(Template { toml, name, items: columns.len(), rows })
}

/// The columns of a file that says their types.
fn typed(path: &Path, schema: &Schema) -> Result<Vec<Guess>, AgentError> {
    let mut guesses = Vec::new();
    // A structure's leaves are items of their own: `address{city}` is `address.city`.
    for field in leaf_fields(schema) {
        let found = item_type_for(field.data_type()).ok_or_else(|| {
            let (name, data_type) = (field.name(), field.data_type());
            let shown: String = data_type.to_string().chars().take(80).collect();
            bad(
                path,
                "columns",
                &format!("column {name:?} is {shown}, which no item can be"),
                &format!("列 {name:?} 的类型 {shown} 不是数据项支持的类型"),
            )
        })?;
        guesses.push(Guess { said: Some(found), nullable: field.is_nullable(), ..Guess::new(field.name().clone()) });
    }
    Ok(guesses)
}

/// What is known of a column.
struct Guess {
    name: String,
    said: Option<ItemType>,
    nullable: bool,
    /// Types that every value so far is of, the most telling first.
    left: Vec<(ItemType, Column)>,
    decimals: usize,
    whole: usize,
    is_code: bool,
    regions: bool,
    values: u64,
    distinct: HashSet<Vec<u8>>,
    distinct_bytes: usize,
    repeats: bool,
}

impl Guess {
    fn new(name: String) -> Self {
        let types = [
            ItemType::Bool,
            ItemType::Int64,
            ItemType::Decimal(38, 18),
            ItemType::Float64,
            ItemType::Date,
            ItemType::Timestamp,
        ];
        Self {
            name,
            said: None,
            nullable: false,
            left: types.into_iter().map(|t| (t, Column::new(t, None))).collect(),
            decimals: 0,
            whole: 0,
            is_code: false,
            regions: true,
            values: 0,
            distinct: HashSet::new(),
            distinct_bytes: 0,
            repeats: false,
        }
    }

    /// Looks at a value; `is_text` where the file says that it is text.
    fn see(&mut self, value: &[u8], is_text: bool) {
        if value.is_empty() {
            self.nullable = true;
            return;
        }
        self.values += 1;
        let digits = value.iter().filter(|b| b.is_ascii_digit()).count();
        let starts = value.strip_prefix(b"-").unwrap_or(value);
        self.is_code |=
            digits >= CODE_DIGITS || (starts.first() == Some(&b'0') && starts.get(1).is_some_and(u8::is_ascii_digit));
        // Numbers in quotes are meant to be text; days can be nothing else.
        let all_digits = value.iter().all(u8::is_ascii_digit);
        self.left.retain_mut(|(item_type, column)| {
            let numeric = !matches!(item_type, ItemType::Date | ItemType::Timestamp | ItemType::Bool);
            let plausible = !(is_text && (numeric || all_digits))
                && !(*item_type == ItemType::Bool && all_digits)
                && !(*item_type == ItemType::Date && all_digits);
            let fits = plausible && column.text(value).is_ok();
            let _ = column.finish();
            fits
        });
        if let Some(point) = value.iter().position(|b| *b == b'.') {
            self.decimals = self.decimals.max(value.len() - point - 1);
            self.whole = self.whole.max(point);
        } else {
            self.whole = self.whole.max(digits);
        }
        self.regions &= std::str::from_utf8(value).is_ok_and(|t| RegionTable::national().check(t).is_ok());
        if !self.repeats && self.distinct_bytes < DISTINCT_BYTES_MAX {
            self.distinct_bytes += value.len();
            self.repeats = !self.distinct.insert(value.to_vec());
        }
    }

    fn item_type(&self) -> ItemType {
        if let Some(said) = self.said {
            return said;
        }
        let numeric = |t: &ItemType| matches!(t, ItemType::Int64 | ItemType::Decimal(..) | ItemType::Float64);
        let first = self.left.iter().map(|(t, _)| *t).find(|t| !(self.is_code && numeric(t)));
        match first.filter(|_| self.values > 0 && !self.regions) {
            Some(ItemType::Decimal(..)) => {
                let scale = self.decimals.max(SCALE_LEAST);
                // Room for values that are larger than those that were seen.
                let digits = (self.whole + scale + 4).clamp(15, 38);
                match (u8::try_from(digits), u8::try_from(scale)) {
                    (Ok(digits), Ok(scale)) if scale <= digits => ItemType::Decimal(digits, scale),
                    _ => ItemType::String,
                }
            }
            Some(found) => found,
            None => ItemType::String,
        }
    }

    fn could_be_key(&self) -> bool {
        self.values > 1 && !self.nullable && !self.repeats && self.distinct_bytes < DISTINCT_BYTES_MAX
    }
}

fn written(name: &str, columns: &[Guess], rows: u64) -> String {
    let quote = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut out = String::new();
    // Writing to a string cannot fail.
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    line(
        "# 目录条目草稿：请核对每一项后再提交。Draft of a catalogue entry: check every line before it is submitted."
            .into(),
    );
    if rows > 0 {
        line(format!("# 类型依据前 {rows} 行推断。Types were guessed from the first {rows} rows."));
    }
    line(format!("name = {}", quote(name)));
    line("# code = \"307010/000001\"          # 主管部门可在审核时赋码".into());
    line("abstract = \"（摘要）\"".into());
    line("format = \"table\"".into());
    line("update_frequency = \"daily\"       # realtime daily weekly monthly quarterly yearly irregular".into());
    line("sharing_class = \"conditional\"    # unconditional conditional not_shared".into());
    line("conditions = \"限依法履职使用\"".into());
    line("purposes = [\"（用途）\"]".into());
    line("sharing_methods = [\"batch_exchange\"]".into());
    match columns.iter().find(|c| c.said.is_none() && c.regions && c.values > 0 && !c.nullable) {
        Some(column) => line(format!("region_column = {}", quote(&column.name))),
        None => line("# region_column = \"…\"            # 行政区划代码所在的数据项".into()),
    }
    line("grade = \"general-4\"              # core important general-4 … general-1".into());
    let keys: Vec<&str> = columns.iter().filter(|c| c.could_be_key()).map(|c| c.name.as_str()).take(8).collect();
    if !keys.is_empty() {
        line(format!(
            "# 可作主键（样本中不重复）Could be the key (no value stood twice): {}",
            keys.join(", ").replace(['\n', '\r'], " ")
        ));
    }
    for column in columns {
        line(String::new());
        line("[[items]]".into());
        line(format!("name = {}", quote(&column.name)));
        line(format!("type = \"{}\"", column.item_type()));
        if column.could_be_key() {
            line("# key = true".into());
        }
        if !column.nullable && (column.values > 0 || column.said.is_some()) {
            line("nullable = false".into());
        }
        line("personal = true                  # 是否个人信息，请核对".into());
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use lingqu_certs::os::OsDisk;

    fn types(name: &str, content: impl AsRef<[u8]>) -> (Vec<String>, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let made = template(&OsDisk, &path, &ReadOptions::default()).unwrap();
        let spec = EntrySpec::parse(&made.toml).unwrap();
        (spec.items.iter().map(|i| format!("{} {}", i.name, i.item_type)).collect(), made.toml)
    }

    #[test]
    fn types_are_guessed_with_care() {
        let csv = "region,id_card,seq,n,amount,day,at,ok,name,maybe\n\
            440305,110101199003070012,007,1,12.5,2026-01-31,2026-01-31T08:00:00Z,true,甲,\n\
            440306,110101199003070013,008,2,3,2026/2/1,2026-02-01 08:00:00+08:00,false,甲,5\n";
        let (types, toml) = types("登记.csv", csv);
        let expected = [
            "region string",
            "id_card string",
            "seq string",
            "n int64",
            "amount decimal(15,2)",
            "day date",
            "at timestamp",
            "ok bool",
            "name string",
            "maybe int64",
        ];
        assert_eq!(types, expected);
        assert!(toml.contains("region_column = \"region\"") && toml.contains("name = \"登记\""), "{toml}");
        let key = toml.lines().find(|l| l.contains("Could be the key")).unwrap();
        assert!(key.contains("id_card") && !key.contains("name"), "{key}");
    }

    #[test]
    fn what_json_has_in_quotes_stays_text() {
        let json = "{\"a\":\"123\",\"b\":1,\"c\":{\"d\":true}}\n{\"a\":\"4\",\"b\":null}\n";
        assert_eq!(types("a.jsonl", json).0, ["a string", "b int64", "c.d bool"]);
    }
}
