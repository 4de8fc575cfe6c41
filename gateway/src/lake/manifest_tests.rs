//! Tests of [`super`], beside it because the manifests are long enough.

use super::*;
use lingqu_protocol::predicate::Value;
use object_store::memory::InMemory;
use std::sync::Arc;

const TRANSFER: TransferId = TransferId::from_bits(5);

fn file(name: &str) -> FileEntry {
    FileEntry { name: name.to_owned(), bytes: name.len() as u64, root: Digest::blake3(name.as_bytes()) }
}

fn table() -> TableManifest {
    let slice = |offset| Slice { offset, bytes: 10, digest: [offset as u8; 32] };
    let stats = |min, max| ColumnStats { min, max, may_be_null: true, may_be_value: true };
    let text = |t: &str| Some(Value::String(t.to_owned()));
    let summaries = vec![
        ColumnSummary { column: 0, stats: stats(text("4403"), text("440304")), nulls: 1 },
        ColumnSummary { column: 1, stats: stats(Some(Value::Decimal(-7)), None), nulls: 2 },
    ];
    let mut deleted = Deleted::default();
    deleted.insert(2);
    let section = |object: &str, pages_at| {
        let (_, section) =
            super::super::keys::encode(vec![(7, 2), (3, 1)], object.to_owned(), pages_at, vec![1]).unwrap();
        section
    };
    let part = Part {
        object: "tables/x/00000000".to_owned(),
        file: None,
        bytes: 100,
        digest: Digest::blake3(b"part"),
        encryption: "none".to_owned(),
        key_id: None,
        footer: slice(80),
        leaves: vec![Some(0), Some(1)],
        rows_sum: RowsSum::default(),
        row_groups: vec![RowGroup { rows: 3, chunks: vec![slice(0), slice(10)], summaries, deleted }],
        keys: vec![section("tables/x/00000000", 100), section("tables/x/keys-00001-000000", 0)],
    };
    let sizes: Arc<[u64]> = Arc::from([7u64, 100]);
    let place = FilePlace { transfer: TRANSFER, file: 1, sizes };
    let mut verbatim = Part { file: Some(place), leaves: vec![Some(3), None], ..part.clone() };
    verbatim.row_groups[0].chunks.clear();
    let regions = Some([("440304".to_owned(), RowsSum::default())].into());
    let column = |name: &str, item_type| ColumnInfo { name: name.to_owned(), item_type, nullable: true };
    let columns = vec![column("region", ItemType::String), column("amount", ItemType::Decimal(15, 2))];
    TableManifest { columns, region_column: Some(0), parts: vec![part, verbatim], regions }
}

#[tokio::test]
async fn manifests_are_read_as_they_were_saved_and_never_changed() {
    let lake = Lake::new(Arc::new(InMemory::new()));
    let set = FileSetManifest::new(vec![file("a"), file("b/c")]).unwrap();
    let digest = set.save(&lake, TRANSFER).await.unwrap();
    assert_eq!(set.save(&lake, TRANSFER).await.unwrap(), digest, "the same again");
    assert_eq!(FileSetManifest::load(&lake, TRANSFER, digest).await.unwrap(), set);
    let other = FileSetManifest::new(vec![file("a")]).unwrap();
    assert!(matches!(other.save(&lake, TRANSFER).await, Err(LakeError::Conflict { .. })));

    let digest = table().save(&lake, TRANSFER).await.unwrap();
    assert_eq!(TableManifest::load(&lake, TRANSFER, digest).await.unwrap(), table());
    assert_eq!(TableManifest::find(&lake, TRANSFER).await.unwrap(), Some((table(), digest)));
    let wrong = TableManifest::load(&lake, TRANSFER, Digest::blake3(b"")).await;
    assert!(matches!(wrong, Err(LakeError::Damaged { .. })), "{wrong:?}");
    let gone = TableManifest::load(&lake, TRANSFER, digest).await;
    assert!(matches!(gone, Err(LakeError::NotFound { .. })), "it is in quarantine: {gone:?}");
}

#[test]
fn sets_out_of_order_or_with_a_name_twice_are_refused() {
    for files in [vec![], vec![file("b"), file("a")], vec![file("a"), file("a")]] {
        assert!(FileSetManifest::new(files).is_err());
    }
}

#[test]
fn a_body_with_ranges_outside_its_object_or_columns_is_refused() {
    let ok = |table: &TableManifest| TableManifest::from_body(&table.to_body()).is_some();
    assert!(ok(&table()));
    let change = |change: fn(&mut TableManifest)| {
        let mut changed = table();
        change(&mut changed);
        ok(&changed)
    };
    assert!(!change(|t| t.parts[0].footer.offset = u64::MAX));
    assert!(!change(|t| t.parts[0].row_groups[0].chunks[1].bytes = 91));
    assert!(!change(|t| t.parts[0].row_groups[0].chunks.truncate(1)));
    assert!(!change(|t| t.parts[0].row_groups[0].summaries[0].column = 2));
    assert!(!change(|t| t.region_column = Some(2)));
    assert!(!change(|t| t.parts[0].leaves[1] = Some(2)));
    assert!(!change(|t| t.parts[1].bytes = 99), "the set has a file of another length there");
    assert!(!change(|t| {
        t.parts[0].row_groups[0].deleted.insert(3);
    }));
    let body = table().to_body();
    (0..body.len()).for_each(|len| drop(TableManifest::from_body(&body[..len])));
}

#[test]
fn regions_lead_to_row_groups_and_digests_cover_what_they_say() {
    let regions = lingqu_protocol::region::RegionTable::national();
    let groups = |code: &str| table().row_groups_of(regions.check(code).unwrap());
    assert_eq!((groups("44"), groups("440304"), groups("11")), (vec![(0, 0), (1, 0)], vec![(0, 0), (1, 0)], vec![]));
    let mut other = table();
    other.parts[0].bytes = 101;
    assert!(other.root() != table().root() && other.schema_digest() == table().schema_digest());
    let mut other = table();
    other.columns[1].nullable = false;
    assert!(other.root() == table().root() && other.schema_digest() != table().schema_digest());
}

#[tokio::test]
async fn every_flipped_byte_is_found_even_where_no_digest_is_known() {
    let whole = seal::<TableManifest>(&table().to_body());
    for at in 0..whole.len() {
        let lake = Lake::new(Arc::new(InMemory::new()));
        let mut flipped = whole.to_vec();
        flipped[at] ^= 1 << (at % 8);
        lake.put_new(&path::<TableManifest>(TRANSFER), vec![flipped.into()]).await.unwrap();
        let found = TableManifest::find(&lake, TRANSFER).await;
        assert!(matches!(found, Err(LakeError::Damaged { .. })), "byte {at}: {found:?}");
        assert_eq!(TableManifest::find(&lake, TRANSFER).await.unwrap(), None);
    }
}
