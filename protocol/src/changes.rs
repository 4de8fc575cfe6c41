//! Changes of rows: what a push with the mode `changes` sends. Each row says in the column `_op` what is to be done with
//! the row of its key: `upsert` puts this one in its place, or adds it; `delete` takes it away.

use crate::entry::{DataItem, EntrySpec, ItemType};

/// The column that says what is to be done. An entry that has an item of this name takes no changes.
pub const OP_COLUMN: &str = "_op";

/// What is to be done with the row of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// This row is the row of its key from now on.
    Upsert,
    /// There is no row of this key from now on; of this one only the key counts.
    Delete,
}

impl Op {
    /// What a cell of the column says; `None` where it is neither word.
    pub fn of_word(word: &str) -> Option<Self> {
        match word {
            "upsert" => Some(Self::Upsert),
            "delete" => Some(Self::Delete),
            _ => None,
        }
    }

    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Upsert => "upsert",
            Self::Delete => "delete",
        }
    }
}

/// An entry whose rows are changes of the rows of `entry`: the same items, of which only the key must have a value (a row
/// to delete has no others), and [`OP_COLUMN`] behind them.
pub fn changes_entry(entry: &EntrySpec) -> EntrySpec {
    let mut changes = entry.clone();
    for item in &mut changes.items {
        item.nullable = !item.key;
    }
    changes.items.push(DataItem {
        name: OP_COLUMN.to_owned(),
        item_type: ItemType::String,
        key: false,
        grade: entry.grade,
        personal: false,
        nullable: false,
    });
    changes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_two_words_and_no_other() {
        for op in [Op::Upsert, Op::Delete] {
            assert_eq!(Op::of_word(op.word()), Some(op));
        }
        assert_eq!((Op::Upsert.word(), Op::Delete.word()), ("upsert", "delete"));
        for word in ["", "Upsert", "delete ", "insert"] {
            assert_eq!(Op::of_word(word), None, "{word}");
        }
    }

    #[test]
    fn a_change_needs_its_key_and_its_word_and_nothing_else() {
        let entry = EntrySpec::parse(include_str!("../fixtures/entry.toml")).unwrap();
        let changes = changes_entry(&entry);
        let names: Vec<&str> = changes.items.iter().map(|item| item.name.as_str()).collect();
        assert_eq!(names, ["region", "credit_code", "operator_name", OP_COLUMN]);
        for item in &changes.items {
            assert_eq!(item.nullable, !item.key && item.name != OP_COLUMN, "{}", item.name);
        }
    }
}
