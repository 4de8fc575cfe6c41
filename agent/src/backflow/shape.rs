//! The columns of a sink: those of the rows that flow back, with their key.

use crate::error::{AgentError, Told};
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use lingqu_protocol::columns::{arrow_type, item_type_for};
use lingqu_protocol::entry::{
    DataItem, EntryFormat, EntrySpec, Grade, ItemType, SharingClass, SharingMethod, UpdateFrequency,
};
use lingqu_protocol::rows::RowsDigest;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The type of its values.
    pub item_type: ItemType,
    /// Whether it is part of the key.
    pub key: bool,
}

/// As it stands in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ColumnText {
    name: String,
    r#type: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    key: bool,
}

impl Serialize for Column {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        ColumnText { name: self.name.clone(), r#type: self.item_type.to_string(), key: self.key }.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Column {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let ColumnText { name, r#type, key } = ColumnText::deserialize(d)?;
        Ok(Self { name, item_type: r#type.parse().map_err(serde::de::Error::custom)?, key })
    }
}

/// Columns in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shape(pub Vec<Column>);

impl Shape {
    /// Of an entry's items that are called `names`, in the entry's order; all of them where `names` is empty.
    pub fn of_entry(entry: &EntrySpec, names: &[String]) -> Self {
        let items = entry.items.iter().filter(|item| names.is_empty() || names.contains(&item.name));
        Self(items.map(|i| Column { name: i.name.clone(), item_type: i.item_type, key: i.key }).collect())
    }

    /// Of the columns of a schema, without a key; `None` where a column's type is of no item.
    pub fn of_schema(schema: &Schema) -> Option<Self> {
        let column = |field: &Arc<Field>| {
            let item_type = item_type_for(field.data_type())?;
            Some(Column { name: field.name().clone(), item_type, key: false })
        };
        schema.fields().iter().map(column).collect::<Option<_>>().map(Self)
    }

    /// How many columns there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its first `count` columns.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        Self(self.0.iter().take(count).cloned().collect())
    }

    /// Places of the key's columns.
    pub fn keys(&self) -> Vec<usize> {
        self.0.iter().enumerate().filter(|(_, column)| column.key).map(|(place, _)| place).collect()
    }

    /// Why rows of these columns cannot go on after rows of `before`; `None` where they can: columns may be added at the end.
    pub fn differs_from(&self, before: &Self) -> Option<String> {
        if self.len() < before.len() {
            let gone = before.0.iter().find(|old| !self.0.iter().any(|new| new.name == old.name));
            return Some(format!("the column {:?} is gone", gone.map_or("", |column| &column.name)));
        }
        let differs = self.0.iter().zip(&before.0).find(|(new, old)| new != old);
        differs.map(|(new, old)| {
            let said = |c: &Column| format!("{:?} {}{}", c.name, c.item_type, if c.key { " (key)" } else { "" });
            format!("{} stands where {} was", said(new), said(old))
        })
    }

    /// The Arrow schema: canonical types; any value but a key's may be missing, for rows from before a column was added have none.
    pub fn schema(&self) -> SchemaRef {
        let fields = self.0.iter().map(|c| Field::new(&c.name, arrow_type(c.item_type), !c.key));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// Digest and sum over rows of these columns.
    pub fn digest(&self) -> RowsDigest {
        RowsDigest::new(&self.spec())
    }

    /// A batch of the first of these columns, with those that it lacks, which have no values.
    ///
    /// # Errors
    /// Another type than the column's, which is our fault or the peer's.
    pub fn widened(&self, batch: &RecordBatch) -> Result<RecordBatch, AgentError> {
        let schema = self.schema();
        let rows = batch.num_rows();
        let missing = schema.fields().iter().skip(batch.num_columns()).map(|f| new_null_array(f.data_type(), rows));
        let columns: Vec<ArrayRef> = batch.columns().iter().cloned().chain(missing).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(schema, columns, &options).map_err(|e| {
            let told = Told::new("columns", format!("rows of other columns came: {e}"), format!("收到的列不符：{e}"));
            AgentError::Peer(told)
        })
    }

    /// An entry of these items, for who reads files or makes digests of them.
    pub fn spec(&self) -> EntrySpec {
        let item = |c: &Column| DataItem {
            name: c.name.clone(),
            item_type: c.item_type,
            key: c.key,
            grade: Grade::General1,
            personal: false,
            nullable: !c.key,
        };
        EntrySpec {
            name: "backflow".into(),
            code: None,
            abstract_text: String::new(),
            format: EntryFormat::Table,
            update_frequency: UpdateFrequency::Daily,
            sharing_class: SharingClass::Unconditional,
            conditions: None,
            purposes: Vec::new(),
            sharing_methods: vec![SharingMethod::BatchExchange],
            not_shared: None,
            region_column: None,
            grade: Grade::General1,
            items: self.0.iter().map(item).collect(),
            quality: Vec::new(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shape(columns: &[(&str, &str, bool)]) -> Shape {
        let column = |(name, text, key): &(&str, &str, bool)| Column {
            name: (*name).to_owned(),
            item_type: text.parse().unwrap(),
            key: *key,
        };
        Shape(columns.iter().map(column).collect())
    }

    #[test]
    fn columns_may_be_added_at_the_end_alone() {
        let old = shape(&[("id", "int64", true), ("name", "string", false)]);
        let added = shape(&[("id", "int64", true), ("name", "string", false), ("d", "decimal(15,2)", false)]);
        assert_eq!(added.differs_from(&old), None);
        assert!(old.differs_from(&added).unwrap().contains("\"d\""));
        let between = shape(&[("id", "int64", true), ("d", "date", false), ("name", "string", false)]);
        assert!(between.differs_from(&old).unwrap().contains("\"d\" date"));
        let retyped = shape(&[("id", "string", true), ("name", "string", false)]);
        assert!(retyped.differs_from(&old).is_some());
    }

    #[test]
    fn it_is_read_back_as_it_was_written() {
        let shape = shape(&[("id", "int64", true), ("x", "decimal(15,2)", false)]);
        let text = serde_json::to_string(&shape).unwrap();
        assert_eq!(text, r#"[{"name":"id","type":"int64","key":true},{"name":"x","type":"decimal(15,2)"}]"#);
        assert_eq!(serde_json::from_str::<Shape>(&text).unwrap(), shape);
        assert!(serde_json::from_str::<Shape>(r#"[{"name":"id","type":"long"}]"#).is_err());
    }
}
