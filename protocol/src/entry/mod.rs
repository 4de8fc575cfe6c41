//! entry.toml: a catalogue entry (政务数据目录条目, Regulation articles 12 to 15).
//!
//! The file travels verbatim inside a signed document and is read here by both programs; there is no second form.

mod paths;
mod quality;
mod terms;

pub use paths::{NAME_PARTS_MAX, above, is_at_or_below};
pub use quality::{
    Bound, Check, OnFailure, PATTERN_BYTES_MAX, PATTERN_CHARS_MAX, QualityRule, RULES_MAX, Referenced, SET_RULES_MAX,
    UNIQUE_COLUMNS_MAX, compiled,
};
pub use terms::{
    BadEntryCode, BadItemType, BasisKind, DECIMAL_DIGITS_MAX, EntryCode, EntryFormat, Grade, ItemType, SharingClass,
    SharingMethod, UpdateFrequency,
};

use crate::spec::{NAME_CHARS_MAX, Source, SpecError, TEXT_CHARS_MAX};
use serde::Deserialize;
use std::collections::HashSet;
use toml::Spanned;
use unicode_normalization::UnicodeNormalization;

/// Items that an entry may have: more columns than any table an agency was seen to share, and few enough that a row's
/// working memory stays small.
pub const ITEMS_MAX: usize = 4_096;

/// Purposes that an entry, application or scope may list: what a person can read through.
pub const PURPOSES_MAX: usize = 64;

/// 数据项: one column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataItem {
    /// Its name, in NFC; a path such as `address.city` where it is a leaf of nested data.
    pub name: String,
    /// The type of its values.
    pub item_type: ItemType,
    /// Whether it is part of the key by which one record is found.
    pub key: bool,
    /// Its own grade; the entry's where the file gives none.
    pub grade: Grade,
    /// 个人信息: whether it says something about a person.
    pub personal: bool,
    /// Whether a value may be missing. Never in a key or in the region column; elsewhere it may unless said.
    pub nullable: bool,
}

/// Why an entry is not shared (article 15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotSharedReason {
    /// The reason in words.
    pub reason: String,
    /// What kind of rule it rests on.
    pub kind: BasisKind,
    /// The rule and its article.
    pub basis: String,
}

/// A catalogue entry whose file keeps all rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntrySpec {
    /// 名称.
    pub name: String,
    /// 代码; the authority gives one on review where the file has none.
    pub code: Option<EntryCode>,
    /// 摘要.
    pub abstract_text: String,
    /// Table or files.
    pub format: EntryFormat,
    /// How often a new version is due.
    pub update_frequency: UpdateFrequency,
    /// On what terms it is shared.
    pub sharing_class: SharingClass,
    /// 使用条件, of a conditional entry and no other.
    pub conditions: Option<String>,
    /// Purposes allowed, of a conditional entry and no other.
    pub purposes: Vec<String>,
    /// Ways it is shared; empty where it is not.
    pub sharing_methods: Vec<SharingMethod>,
    /// Why it is not shared, of such an entry and no other.
    pub not_shared: Option<NotSharedReason>,
    /// Which of the items holds the region of a row.
    pub region_column: Option<usize>,
    /// Grade of the whole.
    pub grade: Grade,
    /// Columns of a table in their order; empty for files.
    pub items: Vec<DataItem>,
    /// 质量规则 of a table's values (article 18).
    pub quality: Vec<QualityRule>,
}

impl EntrySpec {
    /// Reads entry.toml and applies every rule of articles 3 and 12 to 15 that a program can check.
    ///
    /// # Errors
    /// Names the first mistake: where it is, the field, and what to write instead.
    pub fn parse(toml: &str) -> Result<Self, SpecError> {
        let at = Source(toml);
        let raw: RawEntry = at.read()?;
        for (field, mark) in
            [("secret", &raw.secret), ("state_secret", &raw.state_secret), ("work_secret", &raw.work_secret)]
        {
            refuse_secret(at, field, mark.as_ref())?;
        }
        let format = at.word("format", &raw.format)?;
        let grade = at.word("grade", &raw.grade)?;
        let (items, region_column) = match format {
            EntryFormat::Table => table_items(at, &raw, grade)?,
            EntryFormat::File => {
                let keys = [
                    ("items", raw.items.as_ref().map(Spanned::span)),
                    ("region_column", span_of(&raw.region_column)),
                    ("quality", raw.quality.as_ref().map(Spanned::span)),
                ];
                refuse(at, keys, "an entry of files has none: remove it, or set format = \"table\"")?;
                (Vec::new(), None)
            }
        };
        let code = raw
            .code
            .as_ref()
            .map(|code| code.get_ref().parse().map_err(|e: BadEntryCode| at.error(code.span(), "code", e.to_string())));
        let terms = terms(at, &raw)?;
        let quality = raw.quality.as_ref().map(|rules| quality::rules(at, rules, &items)).transpose()?;
        Ok(Self {
            name: at.text("name", &raw.name, NAME_CHARS_MAX)?,
            code: code.transpose()?,
            abstract_text: at.text("abstract", &raw.abstract_text, TEXT_CHARS_MAX)?,
            format,
            update_frequency: at.word("update_frequency", &raw.update_frequency)?,
            sharing_class: terms.class,
            conditions: terms.conditions,
            purposes: terms.purposes,
            sharing_methods: terms.methods,
            not_shared: terms.not_shared,
            region_column,
            grade,
            items,
            quality: quality.unwrap_or_default(),
        })
    }

    /// The item called `name`, with its place among the items.
    pub fn item(&self, name: &str) -> Option<(usize, &DataItem)> {
        self.items.iter().enumerate().find(|(_, item)| item.name == name)
    }

    /// Places of the item called `name`, or of all items below it where it is a structure; none where the entry has
    /// neither.
    pub fn leaves(&self, name: &str) -> Vec<usize> {
        let items = self.items.iter().enumerate();
        items.filter(|(_, item)| is_at_or_below(&item.name, name)).map(|(place, _)| place).collect()
    }

    /// The item that holds the region of a row.
    pub fn region_item(&self) -> Option<&DataItem> {
        self.region_column.and_then(|i| self.items.get(i))
    }

    /// Places of the key's items.
    pub fn key_columns(&self) -> impl Iterator<Item = usize> + '_ {
        self.items.iter().enumerate().filter(|(_, item)| item.key).map(|(i, _)| i)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    name: Spanned<String>,
    code: Option<Spanned<String>>,
    #[serde(rename = "abstract")]
    abstract_text: Spanned<String>,
    format: Spanned<String>,
    update_frequency: Spanned<String>,
    sharing_class: Spanned<String>,
    conditions: Option<Spanned<String>>,
    purposes: Option<Spanned<Vec<Spanned<String>>>>,
    sharing_methods: Option<Spanned<Vec<Spanned<String>>>>,
    not_shared_reason: Option<Spanned<String>>,
    not_shared_basis_kind: Option<Spanned<String>>,
    not_shared_basis: Option<Spanned<String>>,
    region_column: Option<Spanned<String>>,
    grade: Spanned<String>,
    secret: Option<Spanned<bool>>,
    state_secret: Option<Spanned<bool>>,
    work_secret: Option<Spanned<bool>>,
    items: Option<Spanned<Vec<RawItem>>>,
    quality: Option<Spanned<Vec<quality::RawRule>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawItem {
    name: Spanned<String>,
    #[serde(rename = "type")]
    item_type: Spanned<String>,
    #[serde(default)]
    key: bool,
    grade: Option<Spanned<String>>,
    personal: bool,
    nullable: Option<Spanned<bool>>,
    secret: Option<Spanned<bool>>,
}

type Span = std::ops::Range<usize>;

fn span_of<T>(value: &Option<Spanned<T>>) -> Option<Span> {
    value.as_ref().map(Spanned::span)
}

/// Refuses the keys that are there, for the same reason.
fn refuse<const N: usize>(at: Source<'_>, keys: [(&str, Option<Span>); N], why: &str) -> Result<(), SpecError> {
    match keys.into_iter().find_map(|(field, span)| Some((field, span?))) {
        Some((field, span)) => Err(at.error(span, field, why)),
        None => Ok(()),
    }
}

fn refuse_secret(at: Source<'_>, field: &str, mark: Option<&Spanned<bool>>) -> Result<(), SpecError> {
    match mark {
        Some(mark) if *mark.get_ref() => Err(at.error(
            mark.span(),
            field,
            "state and work secrets are not shared through this system (article 3): keep it out of the catalogue",
        )),
        _ => Ok(()),
    }
}

struct Terms {
    class: SharingClass,
    conditions: Option<String>,
    purposes: Vec<String>,
    methods: Vec<SharingMethod>,
    not_shared: Option<NotSharedReason>,
}

/// The sharing class with what articles 14 and 15 ask of it, and nothing that they do not.
fn terms(at: Source<'_>, raw: &RawEntry) -> Result<Terms, SpecError> {
    let class = at.word("sharing_class", &raw.sharing_class)?;
    let need = |field: &str, why: &str| at.error(raw.sharing_class.span(), field, why);
    let mut terms = Terms { class, conditions: None, purposes: Vec::new(), methods: Vec::new(), not_shared: None };
    if class == SharingClass::Conditional {
        let why = "a conditional entry says its conditions of use: add it";
        let conditions = raw.conditions.as_ref().ok_or_else(|| need("conditions", why))?;
        terms.conditions = Some(at.text("conditions", conditions, TEXT_CHARS_MAX)?);
        let why = "a conditional entry lists the purposes it is shared for: add it";
        let purposes = raw.purposes.as_ref().ok_or_else(|| need("purposes", why))?;
        terms.purposes = at.names("purposes", purposes, PURPOSES_MAX)?;
    } else {
        let keys = [("conditions", span_of(&raw.conditions)), ("purposes", span_of(&raw.purposes))];
        refuse(at, keys, "only a conditional entry takes one (article 14): remove it, or change sharing_class")?;
    }
    if class == SharingClass::NotShared {
        let keys = [("sharing_methods", span_of(&raw.sharing_methods))];
        refuse(at, keys, "an entry that is not shared has none: remove it")?;
        let why = "an entry that is not shared gives its reason and the law, administrative regulation or State Council \
                   decision it rests on (article 15): add it";
        let get = |field, value: &Option<Spanned<String>>| value.clone().ok_or_else(|| need(field, why));
        terms.not_shared = Some(NotSharedReason {
            reason: at.text("not_shared_reason", &get("not_shared_reason", &raw.not_shared_reason)?, TEXT_CHARS_MAX)?,
            kind: at.word("not_shared_basis_kind", &get("not_shared_basis_kind", &raw.not_shared_basis_kind)?)?,
            basis: at.text("not_shared_basis", &get("not_shared_basis", &raw.not_shared_basis)?, TEXT_CHARS_MAX)?,
        });
    } else {
        let keys = [
            ("not_shared_reason", span_of(&raw.not_shared_reason)),
            ("not_shared_basis_kind", span_of(&raw.not_shared_basis_kind)),
            ("not_shared_basis", span_of(&raw.not_shared_basis)),
        ];
        refuse(at, keys, "only an entry that is not shared has one: remove it, or set sharing_class = \"not_shared\"")?;
        let why = "a shared entry lists its sharing methods: add batch_exchange, file_download or service_interface";
        let methods = raw.sharing_methods.as_ref().ok_or_else(|| need("sharing_methods", why))?;
        terms.methods = at.words("sharing_methods", methods)?;
    }
    Ok(terms)
}

fn table_items(
    at: Source<'_>,
    raw: &RawEntry,
    entry_grade: Grade,
) -> Result<(Vec<DataItem>, Option<usize>), SpecError> {
    let why = "a table lists its items, each under [[items]]: add them, or set format = \"file\"";
    let list = raw.items.as_ref().ok_or_else(|| at.error(raw.format.span(), "items", why))?;
    at.bounded("items", list, ITEMS_MAX)?;
    let mut items = Vec::with_capacity(list.get_ref().len());
    let mut seen = HashSet::new();
    for (i, raw) in list.get_ref().iter().enumerate() {
        let field = |key: &str| format!("items[{i}].{key}");
        refuse_secret(at, &field("secret"), raw.secret.as_ref())?;
        let name = at.text(&field("name"), &raw.name, NAME_CHARS_MAX)?;
        // Two names that differ in case alone would be one column in many databases.
        if !seen.insert(name.to_lowercase().nfc().collect::<String>()) {
            let problem = format!("another item has the name {name:?} but for its case: rename one");
            return Err(at.error(raw.name.span(), &field("name"), problem));
        }
        let parsed = raw.item_type.get_ref().parse();
        let item_type =
            parsed.map_err(|e: BadItemType| at.error(raw.item_type.span(), &field("type"), e.to_string()))?;
        let grade = raw.grade.as_ref().map_or(Ok(entry_grade), |grade| at.word(&field("grade"), grade))?;
        if raw.key && matches!(raw.nullable.as_ref().map(Spanned::get_ref), Some(true)) {
            return Err(at.error(raw.name.span(), &field("nullable"), "a key always has a value: remove it"));
        }
        let nullable = raw.nullable.as_ref().map_or(!raw.key, |n| *n.get_ref());
        items.push(DataItem { name, item_type, key: raw.key, grade, personal: raw.personal, nullable });
    }
    if let Some((place, problem)) = paths::mistake(items.iter().map(|item: &DataItem| item.name.as_str())) {
        let span = list.get_ref().get(place).map_or(0..0, |raw| raw.name.span());
        return Err(at.error(span, &format!("items[{place}].name"), problem));
    }
    let Some(region) = &raw.region_column else { return Ok((items, None)) };
    let place = items.iter().position(|item| item.name == *region.get_ref());
    let (Some(place), Some(item)) = (place, place.and_then(|i| items.get_mut(i))) else {
        let problem = format!("no item has the name {:?}: name one of the items", region.get_ref());
        return Err(at.error(region.span(), "region_column", problem));
    };
    if item.item_type != ItemType::String {
        let problem = format!("region codes are strings, and {} is {}", item.name, item.item_type);
        return Err(at.error(region.span(), "region_column", problem));
    }
    // A row without a region would be in nobody's slice: it would be lost without a word.
    if list.get_ref().get(place).is_some_and(|raw| raw.nullable.as_ref().is_some_and(|n| *n.get_ref())) {
        let problem = format!("a row always has a region: remove nullable = true from {}", item.name);
        return Err(at.error(region.span(), "region_column", problem));
    }
    item.nullable = false;
    Ok((items, Some(place)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
