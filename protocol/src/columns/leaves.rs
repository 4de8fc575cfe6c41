//! Structures taken apart: the columns that hold values, under their dotted names.

use crate::entry::NAME_PARTS_MAX;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, make_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use std::sync::Arc;

/// A column that holds values.
pub(super) struct Leaf<'a> {
    /// Its dotted name.
    pub(super) name: String,
    /// Its type.
    pub(super) data_type: &'a DataType,
    /// The way to it: a place in the schema, then one in each structure.
    pub(super) path: Vec<usize>,
}

/// The leaves of a schema in their order. A structure that is an item's own name is not taken apart, so that it is shown as
/// what it is; nor is one that lies deeper than any item can.
pub(super) fn leaves<'a>(schema: &'a Schema, is_item: &dyn Fn(&str) -> bool) -> Vec<Leaf<'a>> {
    let mut found = Vec::new();
    for (place, field) in schema.fields().iter().enumerate() {
        visit(field, field.name().clone(), vec![place], is_item, &mut found);
    }
    found
}

fn visit<'a>(
    field: &'a Field,
    name: String,
    path: Vec<usize>,
    is_item: &dyn Fn(&str) -> bool,
    found: &mut Vec<Leaf<'a>>,
) {
    match field.data_type() {
        DataType::Struct(fields) if path.len() < NAME_PARTS_MAX && !is_item(&name) => {
            for (place, field) in fields.iter().enumerate() {
                let path = path.iter().copied().chain([place]).collect();
                visit(field, format!("{name}.{}", field.name()), path, is_item, found);
            }
        }
        data_type => found.push(Leaf { name, data_type, path }),
    }
}

/// The values of a leaf, null where it is or anything above it; `None` where the path leads nowhere. Without nulls above it
/// is passed on without a copy.
///
/// # Errors
/// What Arrow says of its parts.
pub(super) fn leaf_array(batch: &RecordBatch, path: &[usize]) -> Result<Option<ArrayRef>, ArrowError> {
    let Some((first, rest)) = path.split_first() else { return Ok(None) };
    let Some(mut array) = batch.columns().get(*first) else { return Ok(None) };
    let mut above: Option<NullBuffer> = None;
    for place in rest {
        let Some(structure) = array.as_struct_opt() else { return Ok(None) };
        above = NullBuffer::union(above.as_ref(), structure.nulls());
        let Some(next) = structure.columns().get(*place) else { return Ok(None) };
        array = next;
    }
    match above.filter(|nulls| nulls.null_count() > 0) {
        None => Ok(Some(Arc::clone(array))),
        Some(above) => {
            let nulls = NullBuffer::union(Some(&above), array.nulls());
            Ok(Some(make_array(array.to_data().into_builder().nulls(nulls).build()?)))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::{Difference, arrow_schema, canonical_batch, differences, leaf_fields};
    use super::*;
    use crate::entry::{EntrySpec, ItemType};
    use arrow::array::{DictionaryArray, Int32Array, ListArray, StringArray, StringViewArray, StructArray};
    use arrow::buffer::BooleanBuffer;
    use arrow::datatypes::{Fields, Int32Type};

    const ENTRY: &str = r#"
name = "t"
abstract = "a"
format = "table"
update_frequency = "daily"
sharing_class = "unconditional"
sharing_methods = ["batch_exchange"]
grade = "general-1"
items = [
  { name = "id", type = "int32", key = true, personal = false },
  { name = "address.city", type = "string", personal = false },
  { name = "address.at.street", type = "string", personal = true },
]
"#;

    fn entry() -> EntrySpec {
        EntrySpec::parse(ENTRY).unwrap()
    }

    fn structure(columns: Vec<(&str, ArrayRef)>, nulls: Vec<bool>) -> ArrayRef {
        let fields: Fields =
            columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
        let arrays = columns.into_iter().map(|(_, array)| array).collect();
        Arc::new(StructArray::new(fields, arrays, Some(NullBuffer::new(BooleanBuffer::from(nulls)))))
    }

    fn nested(city: ArrayRef, street: ArrayRef) -> RecordBatch {
        let at = structure(vec![("street", street)], vec![true, true, false, true]);
        let address = structure(vec![("at", at), ("city", city)], vec![true, false, true, true]);
        let ids: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3, 4]));
        RecordBatch::try_from_iter([("address", address), ("id", ids)]).unwrap()
    }

    fn texts(array: &ArrayRef) -> Vec<Option<&str>> {
        array.as_string::<i32>().iter().collect()
    }

    #[test]
    fn a_null_structure_is_null_leaves_whatever_lies_below_and_in_whatever_encoding() {
        let plain = ["a", "hidden", "c", "d"];
        let cities: [ArrayRef; 3] = [
            Arc::new(StringArray::from(plain.to_vec())),
            Arc::new(StringViewArray::from(plain.to_vec())),
            Arc::new(plain.into_iter().collect::<DictionaryArray<Int32Type>>()),
        ];
        for city in cities {
            let street: ArrayRef = Arc::new(StringArray::from(vec![Some("s"), Some("hidden"), Some("hidden"), None]));
            let batch = nested(city, street);
            assert_eq!(differences(&entry(), batch.schema_ref()), []);
            for (first, rows) in [(0, 4), (1, 3), (2, 1)] {
                let flat = canonical_batch(&entry(), &batch.slice(first, rows)).unwrap();
                assert_eq!(flat.schema(), arrow_schema(&entry()));
                let whole = [Some("a"), None, Some("c"), Some("d")];
                assert_eq!(texts(flat.column(1)), whole[first..first + rows]);
                assert_eq!(texts(flat.column(2)), [Some("s"), None, None, None][first..first + rows]);
            }
        }
    }

    #[test]
    fn a_template_has_the_leaves() {
        let text: ArrayRef = Arc::new(StringArray::from(vec!["a"; 4]));
        let found: Vec<_> = leaf_fields(nested(text.clone(), text).schema_ref())
            .iter()
            .map(|field| (field.name().clone(), field.is_nullable()))
            .collect();
        let named = |name: &str, nullable| (name.to_owned(), nullable);
        assert_eq!(found, [named("address.at.street", true), named("address.city", true), named("id", false)]);
    }

    #[test]
    fn flat_columns_with_dotted_names_are_the_same_leaves() {
        let text = |v: &'static str| Arc::new(StringArray::from(vec![v])) as ArrayRef;
        let ids: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        let flat = [("id", ids), ("address.at.street", text("s")), ("address.city", text("c"))];
        let flat = canonical_batch(&entry(), &RecordBatch::try_from_iter(flat).unwrap()).unwrap();
        assert_eq!((texts(flat.column(1)), texts(flat.column(2))), (vec![Some("c")], vec![Some("s")]));
    }

    #[test]
    fn every_difference_of_a_structure_is_named_by_its_path() {
        let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1)]); 4]));
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x"; 4]));
        let at = structure(vec![("Street", text.clone()), ("more", text.clone())], vec![true; 4]);
        let address = structure(vec![("at", at), ("city", list.clone()), ("tags", list)], vec![true; 4]);
        let batch = RecordBatch::try_from_iter([("address", address), ("address.at.more", text)]).unwrap();
        let found = differences(&entry(), batch.schema_ref());
        let named = |name: &str| name.to_owned();
        assert_eq!(found.first(), Some(&Difference::Repeated { name: named("address.at.more") }));
        assert!(found.contains(&Difference::Missing { name: named("id"), expected: ItemType::Int32 }));
        let renamed = Difference::Renamed { name: named("address.at.street"), found: named("address.at.Street") };
        assert!(found.contains(&renamed), "{found:?}");
        for list in ["address.city", "address.tags"] {
            let is_it = |d: &Difference| matches!(d, Difference::Unsupported { name, .. } if name == list);
            assert!(found.iter().any(is_it), "{list}: {found:?}");
        }
        assert!(found.contains(&Difference::Extra { name: named("address.at.more") }));
        let shown = found.iter().map(ToString::to_string).collect::<String>();
        assert!(shown.contains("lists and maps are not shared"), "{shown}");
    }

    #[test]
    fn a_structure_where_a_value_should_be_is_of_another_type() {
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x"; 4]));
        let deep = structure(vec![("x", text)], vec![true; 4]);
        let address = structure(vec![("city", deep)], vec![true; 4]);
        let batch = RecordBatch::try_from_iter([("address", address)]).unwrap();
        let found = differences(&entry(), batch.schema_ref());
        let retyped = |d: &Difference| matches!(d, Difference::Retyped { name, .. } if name == "address.city");
        assert!(found.iter().any(retyped), "{found:?}");
    }
}
