use super::*;
use arrow::array::{
    BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float64Array, Int32Array, Int64Array,
    LargeStringArray, StringArray, StringViewArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray,
};
use arrow::datatypes::Int32Type;

const ENTRY: &str = r#"
name = "t"
abstract = "a"
format = "table"
update_frequency = "daily"
sharing_class = "unconditional"
sharing_methods = ["batch_exchange"]
grade = "general-1"
items = [
  { name = "s", type = "string", key = true, personal = false },
  { name = "at", type = "timestamp", personal = false },
  { name = "d", type = "decimal(15,2)", personal = false },
]
"#;

fn entry() -> EntrySpec {
    EntrySpec::parse(ENTRY).unwrap()
}

fn at(values: Vec<Option<i64>>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
}

fn decimals(values: Vec<Option<i128>>) -> ArrayRef {
    Arc::new(Decimal128Array::from(values).with_precision_and_scale(15, 2).unwrap())
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

#[test]
fn every_type_has_one_arrow_type_and_comes_back() {
    use ItemType::*;
    for item_type in [String, Int32, Int64, Float64, Decimal(38, 38), Decimal(15, 2), Date, Timestamp, Bool, Binary] {
        assert_eq!(item_type_for(&arrow_type(item_type)), Some(item_type));
    }
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("a", Arc::new(Int32Array::from(vec![1]))),
        ("b", Arc::new(Int64Array::from(vec![1]))),
        ("c", Arc::new(Float64Array::from(vec![1.0]))),
        ("d", Arc::new(Date32Array::from(vec![1]))),
        ("e", Arc::new(BooleanArray::from(vec![true]))),
        ("f", Arc::new(BinaryArray::from_vec(vec![b"x"]))),
    ];
    let types = [Int32, Int64, Float64, Date, Bool, Binary].map(arrow_type);
    assert!(batch(columns).columns().iter().zip(types).all(|(column, data_type)| *column.data_type() == data_type));
    assert_eq!(item_type_for(&DataType::Timestamp(TimeUnit::Second, None)), None);
    assert_eq!(item_type_for(&DataType::Decimal128(5, -2)), None);
}

#[test]
fn each_difference_is_named() {
    let schema = Schema::new(vec![
        Field::new("S", DataType::Utf8, true),
        Field::new("d", DataType::Decimal128(15, 3), true),
        Field::new("more", DataType::Utf8, true),
        Field::new("more", DataType::Utf8, true),
    ]);
    assert_eq!(
        differences(&entry(), &schema),
        [
            Difference::Repeated { name: "more".to_owned() },
            Difference::Renamed { name: "s".to_owned(), found: "S".to_owned() },
            Difference::Missing { name: "at".to_owned(), expected: ItemType::Timestamp },
            Difference::Retyped {
                name: "d".to_owned(),
                expected: ItemType::Decimal(15, 2),
                found: "Decimal128(15, 3)".to_owned()
            },
            Difference::Extra { name: "more".to_owned() },
        ]
    );
    assert_eq!(differences(&entry(), &arrow_schema(&entry())), []);
}

#[test]
fn other_encodings_and_orders_become_canonical() {
    let strings: [ArrayRef; 3] = [
        Arc::new(LargeStringArray::from(vec!["a", "b", "a"])),
        Arc::new(StringViewArray::from(vec!["a", "b", "a"])),
        Arc::new(["a", "b", "a"].into_iter().collect::<DictionaryArray<Int32Type>>()),
    ];
    let plain = batch(vec![
        ("s", Arc::new(StringArray::from(vec!["a", "b", "a"])) as ArrayRef),
        ("at", at(vec![Some(1_000), None, Some(-1_000)])),
        ("d", decimals(vec![None, Some(1), Some(2)])),
    ]);
    let expected = canonical_batch(&entry(), &plain).unwrap();
    assert_eq!(expected.schema(), arrow_schema(&entry()));
    for zone in ["UTC", "+00:00", "Etc/UTC", "Z"] {
        let millis = TimestampMillisecondArray::from(vec![Some(1), None, Some(-1)]).with_timezone(zone);
        for string in &strings {
            let other = batch(vec![
                ("d", decimals(vec![None, Some(1), Some(2)])),
                ("at", Arc::new(millis.clone())),
                ("s", Arc::clone(string)),
            ]);
            assert_eq!(canonical_batch(&entry(), &other).unwrap(), expected, "{zone}");
        }
    }
    let nanos = Arc::new(TimestampNanosecondArray::from(vec![1]).with_timezone("UTC")) as ArrayRef;
    let other = batch(vec![("s", Arc::new(StringArray::from(vec!["a"]))), ("at", nanos), ("d", decimals(vec![None]))]);
    assert!(matches!(canonical_batch(&entry(), &other), Err(CanonicalError::Differs(_))));
}

#[test]
fn a_missing_value_in_a_key_is_named_also_inside_a_dictionary() {
    let nulls: [ArrayRef; 3] = [
        Arc::new(StringArray::from(vec![None::<&str>, Some("a")])),
        Arc::new([None, Some("a")].into_iter().collect::<DictionaryArray<Int32Type>>()),
        Arc::new([None::<&str>, None].into_iter().collect::<DictionaryArray<Int32Type>>()),
    ];
    for string in nulls {
        let rows = batch(vec![("s", string), ("at", at(vec![None, None])), ("d", decimals(vec![None, None]))]);
        assert!(matches!(canonical_batch(&entry(), &rows), Err(CanonicalError::Null { .. })));
    }
}

#[test]
fn a_decimal_with_more_digits_than_its_type_is_refused() {
    let rows = |value| {
        let strings = Arc::new(StringArray::from(vec!["a", "b"])) as ArrayRef;
        batch(vec![("s", strings), ("at", at(vec![None, None])), ("d", decimals(vec![None, Some(value)]))])
    };
    let limit = 10i128.pow(15);
    assert!(canonical_batch(&entry(), &rows(limit - 1)).is_ok());
    assert!(matches!(canonical_batch(&entry(), &rows(limit)), Err(CanonicalError::Arrow(_))));
}

#[test]
fn a_small_batch_that_would_grow_large_is_refused() {
    let long = "x".repeat(1 << 20);
    let rows = 128;
    let dictionary: DictionaryArray<Int32Type> = std::iter::repeat_n(long.as_str(), rows).collect();
    let mut views = arrow::array::StringViewBuilder::new();
    let block = views.append_block(long.as_bytes().to_vec().into());
    (0..rows).for_each(|_| views.try_append_view(block, 0, 1 << 20).unwrap());
    for string in [Arc::new(dictionary) as ArrayRef, Arc::new(views.finish())] {
        let rows = batch(vec![("s", string), ("at", at(vec![None; rows])), ("d", decimals(vec![None; rows]))]);
        assert!(matches!(canonical_batch(&entry(), &rows), Err(CanonicalError::TooLarge)));
    }
}

#[test]
fn columns_travel_in_the_order_of_the_entry() {
    let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert_eq!(places(&entry(), &names(&["d", "s"])), Ok(vec![0, 2]));
    assert_eq!(places(&entry(), &names(&["d", "x"])), Err("x".to_owned()));
    let schema = projected_schema(&entry(), &[0, 2]);
    assert_eq!(
        schema.fields().iter().map(|f| (f.name().as_str(), f.is_nullable())).collect::<Vec<_>>(),
        [("s", false), ("d", true)]
    );
}
