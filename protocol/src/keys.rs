//! Keys that are asked by: what a query and a file of keys say, and how their answers look.
//!
//! Rows of keys are rows of an entry of its key items alone ([`key_entry`]). Answers have the key items as they were asked,
//! then [`FOUND_COLUMN`], then the other columns that the grant gives; a key that is not found has one row without values.

use crate::entry::{DataItem, EntrySpec, ItemType};
use crate::predicate::{CompareOp, Expr, Literal, Predicate, TypedPredicate, Value, parse_date, parse_timestamp};

/// The column that says whether a key was found. An entry that has an item of this name is not asked by key.
pub const FOUND_COLUMN: &str = "_found";

/// Bytes of one value of a key: longer ones are no keys, and a query stays small.
pub const KEY_BYTES_MAX: usize = 4_096;

/// Keys of one match: what a province asks of another in a night. More go in several files.
pub const MATCH_KEYS_MAX: u64 = 16 << 20;

/// Key items that a query may name: far more than a key was seen to have.
pub const KEY_ITEMS_MAX: usize = 64;

/// An entry whose rows are keys of `entry`: its key items alone, in their order, each with a value. Its place in the
/// regulation, its rules and its region column are left out.
pub fn key_entry(entry: &EntrySpec) -> EntrySpec {
    let items = entry.items.iter().filter(|item| item.key).cloned();
    EntrySpec {
        items: items.map(|item| DataItem { nullable: false, ..item }).collect(),
        region_column: None,
        quality: Vec::new(),
        ..entry.clone()
    }
}

/// Why a text is no value of a key item: the asker's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyMistake {
    /// It is too long for a key.
    #[error("a value of the key item {item} is longer than {KEY_BYTES_MAX} bytes")]
    TooLong {
        /// The item.
        item: String,
    },
    /// It is none of the item's type.
    #[error("the key item {item} is {item_type}: {how}")]
    Type {
        /// The item.
        item: String,
        /// Its type.
        item_type: ItemType,
        /// How a value of it is written.
        how: String,
    },
}

/// The value that `text` spells of a key item: `2026-01-31`, `2026-01-31T08:00:00Z`, `12.50`, `true`; text as it is.
///
/// # Errors
/// [`KeyMistake`].
pub fn key_value(item: &DataItem, text: &str) -> Result<Value, KeyMistake> {
    if text.len() > KEY_BYTES_MAX {
        return Err(KeyMistake::TooLong { item: item.name.clone() });
    }
    let wrong =
        |how: &str| KeyMistake::Type { item: item.name.clone(), item_type: item.item_type, how: how.to_owned() };
    let literal = match item.item_type {
        ItemType::String => return Ok(Value::String(text.to_owned())),
        ItemType::Binary => return Err(wrong("bytes are not asked by")),
        ItemType::Bool => match text {
            "true" => Literal::Bool(true),
            "false" => Literal::Bool(false),
            _ => return Err(wrong("write true or false")),
        },
        ItemType::Date => Literal::Date(parse_date(text).ok_or_else(|| wrong("write it as 2026-01-31"))?),
        ItemType::Timestamp => {
            Literal::Timestamp(parse_timestamp(text).ok_or_else(|| wrong("write it as 2026-01-31T08:00:00Z"))?)
        }
        ItemType::Int32 | ItemType::Int64 | ItemType::Float64 | ItemType::Decimal(..) => {
            number(text).ok_or_else(|| wrong("write a number, as 12 or -3.50"))?
        }
    };
    // Typed as a condition on the item would be.
    let one = Expr::Compare { column: item.name.clone(), op: CompareOp::Eq, value: literal };
    let typed = Predicate::of(one).typed_as(std::slice::from_ref(item)).map_err(|e| wrong(&e.to_string()))?;
    match typed {
        TypedPredicate::Compare { value, .. } => Ok(value),
        _ => Err(wrong("it cannot be asked by")),
    }
}

/// The number that a text spells as a condition's numbers are spelled.
fn number(text: &str) -> Option<Literal> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'-') {
        return None;
    }
    match Predicate::parse(&format!("k = {text}")).ok()?.expr() {
        Expr::Compare { value: value @ Literal::Number(_), .. } => Some(value.clone()),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::entry::Grade;
    use proptest::prelude::*;

    fn item(item_type: ItemType) -> DataItem {
        let grade: Grade = "general-1".parse().unwrap();
        DataItem { name: "k".into(), item_type, key: true, grade, personal: false, nullable: false }
    }

    #[test]
    fn values_are_read_by_their_items_type() {
        for (item_type, text, value) in [
            (ItemType::String, "'; drop", Value::String("'; drop".into())),
            (ItemType::String, "", Value::String(String::new())),
            (ItemType::Int32, "-5", Value::Int32(-5)),
            (ItemType::Int64, "900719925474099312", Value::Int64(900_719_925_474_099_312)),
            (ItemType::Decimal(5, 2), "12.5", Value::Decimal(1250)),
            (ItemType::Date, "1970-01-02", Value::Date(1)),
            (ItemType::Timestamp, "1970-01-01T00:00:01Z", Value::Timestamp(1_000_000)),
            (ItemType::Bool, "true", Value::Bool(true)),
            (ItemType::Float64, "0.5", Value::Float64(0.5)),
        ] {
            assert_eq!(key_value(&item(item_type), text), Ok(value), "{text}");
        }
        for (item_type, text) in [
            (ItemType::Int32, "2147483648"),
            (ItemType::Int32, "1.5"),
            (ItemType::Int32, ""),
            (ItemType::Int32, "1 or 1 = 1"),
            (ItemType::Int64, "1--"),
            (ItemType::Decimal(5, 2), "1.234"),
            (ItemType::Date, "2026-02-30"),
            (ItemType::Timestamp, "2026-01-31"),
            (ItemType::Bool, "1"),
            (ItemType::Binary, "00"),
        ] {
            let error = key_value(&item(item_type), text).unwrap_err().to_string();
            assert!(error.contains("item k is"), "{text}: {error}");
        }
        let long = "x".repeat(KEY_BYTES_MAX + 1);
        assert_eq!(key_value(&item(ItemType::String), &long), Err(KeyMistake::TooLong { item: "k".into() }));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,30}", number in "[-.0-9]{0,60}") {
            for item_type in [ItemType::Int32, ItemType::Int64, ItemType::Float64, ItemType::Decimal(38, 10),
                ItemType::Date, ItemType::Timestamp, ItemType::Bool, ItemType::Binary] {
                let _ = key_value(&item(item_type), &text);
                let _ = key_value(&item(item_type), &number);
            }
        }

        #[test]
        fn whole_numbers_are_themselves(n: i64) {
            prop_assert_eq!(key_value(&item(ItemType::Int64), &n.to_string()), Ok(Value::Int64(n)));
        }
    }
}
