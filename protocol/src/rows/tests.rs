use super::*;
use crate::columns::arrow_schema;
use crate::digest::{from_hex, to_hex};
use arrow::array::{ArrayRef, BinaryArray, BooleanArray, PrimitiveArray, StringArray, StringViewArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;
use std::sync::Arc;

const VECTORS: &str = include_str!("../../../docs/vectors/rows_digest.json");

/// A cell as the vectors write it.
type Cell = serde_json::Value;

fn entry(types: &[ItemType]) -> EntrySpec {
    let items: String = types
        .iter()
        .enumerate()
        .map(|(i, t)| format!("[[items]]\nname = \"c{i}\"\ntype = \"{t}\"\npersonal = false\n"))
        .collect();
    EntrySpec::parse(&format!(
        "name = \"t\"\nabstract = \"a\"\nformat = \"table\"\nupdate_frequency = \"daily\"\nsharing_class = \"unconditional\"\n\
         sharing_methods = [\"batch_exchange\"]\ngrade = \"general-1\"\n{items}"
    ))
    .unwrap()
}

/// The column of cells as the vectors write them: numbers of 64 bits and more as text, floats as their bits in
/// hexadecimal, bytes in hexadecimal.
fn column(item_type: ItemType, cells: &[&Cell]) -> ArrayRef {
    fn texts<'a>(cells: &'a [&'a Cell]) -> impl Iterator<Item = Option<&'a str>> + 'a {
        cells.iter().map(|cell| cell.as_str())
    }
    fn numbers<T: std::str::FromStr<Err: std::fmt::Debug>>(cells: &[&Cell]) -> Vec<Option<T>> {
        texts(cells).map(|text| text.map(|text| text.parse().unwrap())).collect()
    }
    let bytes = || texts(cells).map(|text| text.map(|text| from_hex(text).unwrap()));
    match item_type {
        ItemType::String => Arc::new(texts(cells).collect::<StringArray>()),
        ItemType::Int32 => Arc::new(PrimitiveArray::<Int32Type>::from(numbers(cells))),
        ItemType::Int64 => Arc::new(PrimitiveArray::<Int64Type>::from(numbers(cells))),
        ItemType::Float64 => {
            let bits = |bytes: Vec<u8>| f64::from_bits(u64::from_be_bytes(bytes.try_into().unwrap()));
            Arc::new(bytes().map(|bytes| bytes.map(bits)).collect::<PrimitiveArray<Float64Type>>())
        }
        ItemType::Decimal(digits, scale) => {
            let column = PrimitiveArray::<Decimal128Type>::from(numbers(cells));
            Arc::new(column.with_precision_and_scale(digits, scale.try_into().unwrap()).unwrap())
        }
        ItemType::Date => Arc::new(PrimitiveArray::<Date32Type>::from(numbers(cells))),
        ItemType::Timestamp => {
            Arc::new(PrimitiveArray::<TimestampMicrosecondType>::from(numbers(cells)).with_timezone("UTC"))
        }
        ItemType::Bool => Arc::new(cells.iter().map(|cell| cell.as_bool()).collect::<BooleanArray>()),
        ItemType::Binary => Arc::new(bytes().collect::<BinaryArray>()),
    }
}

fn batch(types: &[ItemType], rows: &[Vec<Cell>]) -> RecordBatch {
    let columns = types.iter().enumerate().map(|(i, item_type)| {
        let cells: Vec<&Cell> = rows.iter().map(|row| &row[i]).collect();
        column(*item_type, &cells)
    });
    RecordBatch::try_new(arrow_schema(&entry(types)), columns.collect()).unwrap()
}

fn digest_of(types: &[ItemType], rows: &[Vec<Cell>]) -> RowsDigest {
    let mut digest = RowsDigest::new(&entry(types));
    digest.update(&batch(types, rows)).unwrap();
    digest
}

#[test]
fn the_published_vectors_hold() {
    let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
    let vectors = vectors["vectors"].as_array().unwrap();
    assert!(vectors.len() >= 4);
    for vector in vectors {
        let types: Vec<ItemType> =
            vector["types"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().parse().unwrap()).collect();
        let rows: Vec<Vec<Cell>> = serde_json::from_value(vector["rows"].clone()).unwrap();
        let rows_batch = batch(&types, &rows);
        let mut digest = RowsDigest::new(&entry(&types));
        let cells = digest.cells(&rows_batch).unwrap();
        let encoded: Vec<String> = (0..rows.len()).map(|row| to_hex(Row::default().write(&cells, row))).collect();
        let expected: Vec<String> = serde_json::from_value(vector["encoded"].clone()).unwrap();
        assert_eq!(encoded, expected, "{}", vector["name"]);
        digest.update(&rows_batch).unwrap();
        let sum = digest.sum().to_bytes();
        assert_eq!(to_hex(&sum[8..]), vector["sum"].as_str().unwrap(), "{}", vector["name"]);
        assert_eq!(digest.finish().to_string(), vector["digest"].as_str().unwrap(), "{}", vector["name"]);
    }
}

#[test]
fn every_nan_is_one_and_zeros_are_two() {
    let of = |bits: u64| digest_of(&[ItemType::Float64], &[vec![Cell::from(format!("{bits:016x}"))]]).finish();
    assert_eq!(of(f64::NAN.to_bits()), of(0xfff0_0000_0000_0001));
    assert_ne!(of(0.0f64.to_bits()), of((-0.0f64).to_bits()));
}

#[test]
fn what_lies_under_a_null_does_not_count() {
    let types = [ItemType::Int64];
    let nulls = NullBuffer::from(vec![false]);
    let column = PrimitiveArray::<Int64Type>::new(vec![77].into(), Some(nulls));
    let rows = RecordBatch::try_new(arrow_schema(&entry(&types)), vec![Arc::new(column)]).unwrap();
    let mut digest = RowsDigest::new(&entry(&types));
    digest.update(&rows).unwrap();
    assert_eq!(digest.finish(), digest_of(&types, &[vec![Cell::Null]]).finish());
}

#[test]
fn a_batch_of_other_columns_is_refused_and_adds_nothing() {
    let mut digest = digest_of(&[ItemType::String, ItemType::Int32], &[vec!["a".into(), "1".into()]]);
    let before = digest.finish();
    let other = batch(&[ItemType::String], &[vec!["a".into()]]);
    assert_eq!(digest.update(&other), Err(RowsError::Columns { expected: 2, found: 1 }));
    let other = batch(&[ItemType::String, ItemType::Int64], &[vec!["a".into(), "1".into()]]);
    assert!(matches!(digest.update(&other), Err(RowsError::Column { place: 1, .. })));
    let swapped =
        batch(&[ItemType::String, ItemType::Int32], &[vec!["a".into(), "1".into()]]).project(&[1, 0]).unwrap();
    assert!(matches!(digest.update(&swapped), Err(RowsError::Column { place: 0, .. })));
    let view: ArrayRef = Arc::new(StringViewArray::from(vec!["a"]));
    let number: ArrayRef = Arc::new(PrimitiveArray::<Int32Type>::from(vec![1]));
    let views = RecordBatch::try_from_iter([("c0", view), ("c1", number)]).unwrap();
    assert!(matches!(digest.update(&views), Err(RowsError::Column { place: 0, .. })));
    assert_eq!(digest.finish(), before);
}

#[test]
fn slices_sum_to_the_whole_and_sums_can_be_kept() {
    let types = [ItemType::String, ItemType::Int64];
    let rows: Vec<Vec<Cell>> = (0..50).map(|i| vec![format!("{}", i % 3).into(), format!("{i}").into()]).collect();
    let all = batch(&types, &rows);
    let mut digest = RowsDigest::new(&entry(&types));
    let mut slices = [RowsSum::default(); 3];
    let hashes = digest.update(&all).unwrap();
    hashes.iter().enumerate().for_each(|(row, hash)| slices[row % 3].add_row(*hash));
    let kept = slices.map(|slice| RowsSum::from_bytes(&slice.to_bytes()));
    assert_eq!(kept, slices);
    let whole = kept.iter().fold(RowsSum::default(), |mut sum, slice| {
        sum.merge(slice);
        sum
    });
    assert_eq!((whole, whole.count), (digest.sum(), 50));
    let mut rest = whole;
    rest.take(&kept[1]);
    rest.take(&kept[0]);
    assert_eq!(rest, kept[2]);
    // A window into a batch gives the rows in it.
    let mut window = RowsDigest::new(&entry(&types));
    window.update(&all.slice(0, 20)).unwrap();
    window.update(&all.slice(20, 30)).unwrap();
    assert_eq!(window.finish(), digest.finish());
}

#[test]
fn a_projection_is_over_its_own_columns() {
    let types = [ItemType::String, ItemType::Int64, ItemType::Bool];
    let all = batch(&types, &[vec!["a".into(), "1".into(), true.into()]]);
    let mut digest = RowsDigest::of_places(&entry(&types), &[0, 2]);
    digest.update(&all.project(&[0, 2]).unwrap()).unwrap();
    assert_eq!(digest.update(&all), Err(RowsError::Columns { expected: 2, found: 3 }));
    assert_eq!(digest.sum().count, 1);
}

const TYPES: [ItemType; 5] =
    [ItemType::String, ItemType::Int32, ItemType::Decimal(38, 4), ItemType::Bool, ItemType::Binary];

fn row() -> impl Strategy<Value = Vec<Cell>> {
    let null = |cell: BoxedStrategy<Cell>| prop_oneof![4 => cell, 1 => Just(Cell::Null)];
    (
        null("\\PC{0,3}".prop_map(Cell::from).boxed()),
        null((-3i32..3).prop_map(|n| n.to_string().into()).boxed()),
        null((-10i128.pow(37)..10i128.pow(37)).prop_map(|n| n.to_string().into()).boxed()),
        null(any::<bool>().prop_map(Cell::from).boxed()),
        null(prop::collection::vec(any::<u8>(), 0..3).prop_map(|b| to_hex(&b).into()).boxed()),
    )
        .prop_map(|(a, b, c, d, e)| vec![a, b, c, d, e])
}

/// Rows with texts of all lengths around what is copied in one move.
fn long_row() -> impl Strategy<Value = Vec<Cell>> {
    let text = prop_oneof![2 => "[a-z]{0,70}".boxed(), 1 => "[a-z]{31,33}".boxed(), 1 => "[a-z]{300}".boxed()];
    let bytes = prop::collection::vec(any::<u8>(), 0..70).prop_map(|b| Cell::from(to_hex(&b)));
    (row(), prop::option::of(text), prop::option::of(bytes)).prop_map(|(mut row, text, bytes)| {
        row[0] = text.map_or(Cell::Null, Cell::from);
        row[4] = bytes.unwrap_or(Cell::Null);
        row
    })
}

/// A row of [`TYPES`] as the specification has it.
fn specified(row: &[Cell]) -> Vec<u8> {
    let mut out = Vec::new();
    for (place, cell) in (0u16..).zip(row).filter(|(_, cell)| !cell.is_null()) {
        out.extend(place.to_be_bytes());
        let text = cell.as_str().unwrap_or_default();
        let mut value = |tag: u8, value: Vec<u8>| {
            out.push(tag);
            if [1, 9].contains(&tag) {
                out.extend((value.len() as u32).to_be_bytes());
            }
            out.extend(value);
        };
        match place {
            0 => value(1, text.into()),
            1 => value(2, text.parse::<i32>().unwrap().to_be_bytes().into()),
            2 => value(5, text.parse::<i128>().unwrap().to_be_bytes().into()),
            3 => value(8, vec![u8::from(cell.as_bool().unwrap())]),
            _ => value(9, from_hex(text).unwrap()),
        }
    }
    out
}

proptest! {
    #[test]
    fn order_and_cuts_do_not_matter(
        (rows, shuffled) in prop::collection::vec(row(), 1..12).prop_flat_map(|rows| (Just(rows.clone()), Just(rows).prop_shuffle())),
        cut in 0usize..12,
    ) {
        let whole = digest_of(&TYPES, &rows);
        let cut = cut.min(rows.len());
        let mut parts = digest_of(&TYPES, &shuffled[cut..]);
        parts.merge(&digest_of(&TYPES, &shuffled[..cut]));
        prop_assert_eq!(parts.finish(), whole.finish());
        prop_assert_eq!(parts.sum().count, rows.len() as u64);
    }

    #[test]
    fn a_changed_cell_a_lost_row_and_a_doubled_row_are_seen(
        rows in prop::collection::vec(row(), 1..6), other in row(), at in 0usize..6, place in 0usize..5,
    ) {
        let at = at % rows.len();
        let whole = digest_of(&TYPES, &rows).finish();
        let mut changed = rows.clone();
        changed[at][place] = other[place].clone();
        prop_assert_eq!(digest_of(&TYPES, &changed).finish() == whole, changed == rows);
        let mut lost = rows.clone();
        lost.remove(at);
        prop_assert_ne!(digest_of(&TYPES, &lost).finish(), whole);
        let mut doubled = rows.clone();
        doubled.push(rows[at].clone());
        prop_assert_ne!(digest_of(&TYPES, &doubled).finish(), whole);
    }

    #[test]
    fn sums_are_kept_as_bytes_and_taken_away_again(a: (u64, u128), b: (u64, u128)) {
        let sum = |(count, sum)| RowsSum { count, sum };
        let mut total = sum(a);
        total.merge(&sum(b));
        prop_assert_eq!(RowsSum::from_bytes(&total.to_bytes()), total);
        total.take(&sum(a));
        prop_assert_eq!(total, sum(b));
    }

    /// The specification word by word, beside what writes a row in moves that run over their cells.
    #[test]
    fn a_row_is_written_as_it_is_specified(rows in prop::collection::vec(long_row(), 1..20), start in 0usize..20) {
        let all = batch(&TYPES, &rows);
        let start = start.min(rows.len() - 1);
        let window = all.slice(start, rows.len() - start);
        let digest = RowsDigest::new(&entry(&TYPES));
        let cells = digest.cells(&window).unwrap();
        // One for all rows: what the row before left in it does not count.
        let mut row = Row::default();
        for (at, cells_of_row) in rows[start..].iter().enumerate() {
            prop_assert_eq!(to_hex(row.write(&cells, at)), to_hex(&specified(cells_of_row)));
        }
    }

    #[test]
    fn many_rows_are_as_many_times_one(rows in prop::collection::vec(row(), 1..6), times in 60usize..90) {
        let many: Vec<Vec<Cell>> = rows.iter().cycle().take(rows.len() * times).cloned().collect();
        let mut expected = RowsSum::default();
        (0..times).for_each(|_| expected.merge(&digest_of(&TYPES, &rows).sum()));
        prop_assert_eq!(digest_of(&TYPES, &many).sum(), expected);
    }
}

#[test]
fn a_column_gained_at_the_end_changes_no_digest_from_before() {
    let before = digest_of(&[ItemType::String], &[vec!["a".into()]]);
    let after = digest_of(&[ItemType::String, ItemType::Int32], &[vec!["a".into(), Cell::Null]]);
    assert_eq!(before.finish(), after.finish());
    let first = digest_of(&[ItemType::Int32, ItemType::Int32], &[vec!["1".into(), Cell::Null]]);
    let second = digest_of(&[ItemType::Int32, ItemType::Int32], &[vec![Cell::Null, "1".into()]]);
    assert_ne!(first.finish(), second.finish());
}
