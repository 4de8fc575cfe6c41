//! Manifests as protobuf messages, which is how they are kept. Numbers of fields are never used again for another thing.

use super::deleted::Deleted;
use super::keys::KeySection;
use super::manifest::{
    ColumnInfo, ColumnSummary, FilePlace, FileSetManifest, PARTS_MAX, Part, Regions, RowGroup, Slice, TableManifest,
};
use lingqu_protocol::digest::{Algorithm, Digest};
use lingqu_protocol::fileset::FileEntry;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::predicate::{ColumnStats, Value};
use lingqu_protocol::rows::RowsSum;
use std::sync::Arc;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FileSet {
    #[prost(message, repeated, tag = "1")]
    files: Vec<File>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct File {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    bytes: u64,
    #[prost(bytes = "vec", tag = "3")]
    root: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Table {
    #[prost(message, repeated, tag = "1")]
    columns: Vec<ColumnRow>,
    #[prost(uint32, optional, tag = "2")]
    region_column: Option<u32>,
    #[prost(message, repeated, tag = "3")]
    parts: Vec<PartRow>,
    /// Sizes of the files of sets that parts lie in.
    #[prost(message, repeated, tag = "4")]
    sets: Vec<SetRow>,
    #[prost(message, optional, tag = "5")]
    regions: Option<RegionsRow>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SetRow {
    /// 16 bytes, big endian.
    #[prost(bytes = "vec", tag = "1")]
    transfer: Vec<u8>,
    #[prost(uint64, repeated, tag = "2")]
    sizes: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FilePlaceRow {
    /// Which of the sets.
    #[prost(uint32, tag = "1")]
    set: u32,
    #[prost(uint32, tag = "2")]
    file: u32,
}

/// Rows by region.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RegionsRow {
    #[prost(message, repeated, tag = "1")]
    regions: Vec<RegionRow>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RegionRow {
    #[prost(string, tag = "1")]
    code: String,
    #[prost(bytes = "vec", tag = "2")]
    rows_sum: Vec<u8>,
}

/// What stands behind the Parquet bytes of a run: enough to go on after it without sending it again.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RunRow {
    #[prost(message, optional, tag = "1")]
    pub(crate) part: Option<PartRow>,
    #[prost(message, optional, tag = "2")]
    pub(crate) regions: Option<RegionsRow>,
    /// Count and sum of the rows that came in it.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) arrived: Vec<u8>,
}

impl From<&Regions> for RegionsRow {
    fn from(regions: &Regions) -> Self {
        let row =
            |(code, sum): (&String, &RowsSum)| RegionRow { code: code.clone(), rows_sum: sum.to_bytes().to_vec() };
        Self { regions: regions.iter().map(row).collect() }
    }
}

impl RegionsRow {
    pub(crate) fn into_regions(self) -> Option<Regions> {
        let region = |row: RegionRow| Some((row.code, rows_sum(&row.rows_sum)?));
        self.regions.into_iter().map(region).collect()
    }
}

/// Count and sum of rows as they are kept.
pub(crate) fn rows_sum(bytes: &[u8]) -> Option<RowsSum> {
    Some(RowsSum::from_bytes(bytes.try_into().ok()?))
}

#[derive(Clone, PartialEq, prost::Message)]
struct ColumnRow {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    item_type: String,
    #[prost(bool, tag = "3")]
    nullable: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PartRow {
    #[prost(string, tag = "1")]
    object: String,
    #[prost(uint64, tag = "2")]
    bytes: u64,
    #[prost(bytes = "vec", tag = "3")]
    digest: Vec<u8>,
    #[prost(string, tag = "4")]
    encryption: String,
    #[prost(string, optional, tag = "5")]
    key_id: Option<String>,
    #[prost(message, optional, tag = "6")]
    footer: Option<SliceRow>,
    #[prost(message, repeated, tag = "7")]
    row_groups: Vec<RowGroupRow>,
    #[prost(bytes = "vec", tag = "8")]
    rows_sum: Vec<u8>,
    /// For each column its place in the part, from 1; 0 where it is not there. Empty: each in its own place.
    #[prost(uint32, repeated, tag = "9")]
    leaves: Vec<u32>,
    #[prost(message, optional, tag = "10")]
    file: Option<FilePlaceRow>,
    #[prost(message, repeated, tag = "11")]
    keys: Vec<KeySectionRow>,
}

/// A list of keys.
#[derive(Clone, PartialEq, prost::Message)]
struct KeySectionRow {
    /// Empty: the part's own object.
    #[prost(string, tag = "1")]
    object: String,
    #[prost(uint64, tag = "2")]
    pages_at: u64,
    /// 32 bytes. The directory starts behind the pages, and its length follows from the rows.
    #[prost(bytes = "vec", tag = "3")]
    directory_digest: Vec<u8>,
    #[prost(uint64, tag = "4")]
    first_row: u64,
    #[prost(uint64, tag = "5")]
    rows: u64,
    #[prost(uint32, repeated, tag = "6")]
    columns: Vec<u32>,
}

impl KeySectionRow {
    fn of(section: &KeySection, part: &Part) -> Self {
        Self {
            object: if section.object == part.object { String::new() } else { section.object.clone() },
            pages_at: section.pages_at,
            directory_digest: section.directory.digest.to_vec(),
            first_row: section.first_row,
            rows: section.rows,
            columns: section.columns.iter().map(|column| *column as u32).collect(),
        }
    }

    fn into_section(self, object: &str) -> Option<KeySection> {
        let (offset, bytes) = KeySection::directory_place(self.pages_at, self.rows)?;
        let object = if self.object.is_empty() { object.to_owned() } else { self.object };
        let directory = Slice { offset, bytes, digest: self.directory_digest.try_into().ok()? };
        let columns = self.columns.into_iter().map(|column| column as usize).collect();
        Some(KeySection {
            object,
            pages_at: self.pages_at,
            directory,
            first_row: self.first_row,
            rows: self.rows,
            columns,
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct SliceRow {
    #[prost(uint64, tag = "1")]
    offset: u64,
    #[prost(uint64, tag = "2")]
    bytes: u64,
    #[prost(bytes = "vec", tag = "3")]
    digest: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RowGroupRow {
    #[prost(uint64, tag = "1")]
    rows: u64,
    #[prost(message, repeated, tag = "2")]
    chunks: Vec<SliceRow>,
    #[prost(message, repeated, tag = "3")]
    summaries: Vec<SummaryRow>,
    #[prost(bytes = "vec", tag = "4")]
    deleted: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SummaryRow {
    #[prost(uint32, tag = "1")]
    column: u32,
    #[prost(message, optional, tag = "2")]
    min: Option<Bound>,
    #[prost(message, optional, tag = "3")]
    max: Option<Bound>,
    #[prost(uint64, tag = "4")]
    nulls: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Bound {
    #[prost(oneof = "BoundValue", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    value: Option<BoundValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum BoundValue {
    #[prost(string, tag = "1")]
    String(String),
    #[prost(sint32, tag = "2")]
    Int32(i32),
    #[prost(sint64, tag = "3")]
    Int64(i64),
    #[prost(double, tag = "4")]
    Float64(f64),
    /// 16 bytes, big endian.
    #[prost(bytes, tag = "5")]
    Decimal(Vec<u8>),
    #[prost(sint32, tag = "6")]
    Date(i32),
    #[prost(sint64, tag = "7")]
    Timestamp(i64),
    #[prost(bool, tag = "8")]
    Bool(bool),
}

impl From<&FileSetManifest> for FileSet {
    fn from(set: &FileSetManifest) -> Self {
        let file = |f: &FileEntry| File { name: f.name.clone(), bytes: f.bytes, root: f.root.bytes.to_vec() };
        Self { files: set.files().iter().map(file).collect() }
    }
}

impl TryFrom<FileSet> for FileSetManifest {
    type Error = super::LakeError;
    fn try_from(set: FileSet) -> Result<Self, Self::Error> {
        let file = |f: File| Some(FileEntry { name: f.name, bytes: f.bytes, root: digest(&f.root)? });
        Self::new(set.files.into_iter().map(file).collect::<Option<_>>().unwrap_or_default())
    }
}

impl From<&TableManifest> for Table {
    fn from(table: &TableManifest) -> Self {
        let column = |c: &ColumnInfo| ColumnRow {
            name: c.name.clone(),
            item_type: c.item_type.to_string(),
            nullable: c.nullable,
        };
        let mut sets: Vec<(TransferId, Arc<[u64]>)> = Vec::new();
        let mut parts = Vec::with_capacity(table.parts.len());
        for part in &table.parts {
            let mut row = PartRow::from(part);
            if let Some(place) = &part.file {
                let known = sets.iter().position(|(transfer, _)| *transfer == place.transfer);
                let set = known.unwrap_or_else(|| {
                    sets.push((place.transfer, place.sizes.clone()));
                    sets.len() - 1
                });
                row.file = Some(FilePlaceRow { set: set as u32, file: place.file });
            }
            parts.push(row);
        }
        let set = |(transfer, sizes): (TransferId, Arc<[u64]>)| SetRow {
            transfer: transfer.bits().to_be_bytes().to_vec(),
            sizes: sizes.to_vec(),
        };
        Self {
            columns: table.columns.iter().map(column).collect(),
            region_column: table.region_column.map(|c| c as u32),
            parts,
            sets: sets.into_iter().map(set).collect(),
            regions: table.regions.as_ref().map(RegionsRow::from),
        }
    }
}

impl Table {
    pub(crate) fn into_manifest(self) -> Option<TableManifest> {
        let column = |c: ColumnRow| {
            Some(ColumnInfo { name: c.name, item_type: c.item_type.parse().ok()?, nullable: c.nullable })
        };
        let columns: Vec<ColumnInfo> = self.columns.into_iter().map(column).collect::<Option<_>>()?;
        let count = columns.len();
        let set = |row: SetRow| {
            let bits = u128::from_be_bytes(row.transfer.try_into().ok()?);
            Some((TransferId::from_bits(bits), Arc::from(row.sizes)))
        };
        let sets: Vec<(TransferId, Arc<[u64]>)> = self.sets.into_iter().map(set).collect::<Option<_>>()?;
        let parts: Vec<Part> =
            self.parts.into_iter().map(|part| part.into_part(count, &sets)).collect::<Option<_>>()?;
        let region_column = self.region_column.map(|c| c as usize);
        if parts.len() > PARTS_MAX || region_column.is_some_and(|c| c >= count) {
            return None;
        }
        let regions = match self.regions {
            Some(regions) => Some(regions.into_regions()?),
            None => None,
        };
        Some(TableManifest { columns, region_column, parts, regions })
    }
}

impl From<&Part> for PartRow {
    fn from(part: &Part) -> Self {
        let in_place = part.leaves.iter().enumerate().all(|(column, leaf)| *leaf == Some(column));
        let leaf = |leaf: &Option<usize>| leaf.map_or(0, |leaf| leaf as u32 + 1);
        Self {
            object: part.object.clone(),
            bytes: part.bytes,
            digest: part.digest.bytes.to_vec(),
            encryption: part.encryption.clone(),
            key_id: part.key_id.clone(),
            footer: Some(SliceRow::from(&part.footer)),
            row_groups: part.row_groups.iter().map(RowGroupRow::from).collect(),
            rows_sum: part.rows_sum.to_bytes().to_vec(),
            leaves: if in_place { Vec::new() } else { part.leaves.iter().map(leaf).collect() },
            // The manifest knows the place of its set.
            file: None,
            keys: part.keys.iter().map(|section| KeySectionRow::of(section, part)).collect(),
        }
    }
}

impl PartRow {
    /// A part of a table of `columns`; every range in it lies in the object.
    pub(crate) fn into_part(self, columns: usize, sets: &[(TransferId, Arc<[u64]>)]) -> Option<Part> {
        let bytes = self.bytes;
        let leaves: Vec<Option<usize>> = if self.leaves.is_empty() {
            (0..columns).map(Some).collect()
        } else {
            self.leaves.into_iter().map(|leaf| (leaf as usize).checked_sub(1)).collect()
        };
        let file = match self.file {
            None => None,
            Some(place) => {
                let (transfer, sizes) = sets.get(place.set as usize)?;
                // The file is one of the set, and as long as the part.
                (sizes.get(place.file as usize) == Some(&bytes)).then_some(())?;
                Some(FilePlace { transfer: *transfer, file: place.file, sizes: sizes.clone() })
            }
        };
        let groups = self.row_groups.into_iter().map(|group| group.into_group(columns, bytes));
        let row_groups: Vec<RowGroup> = groups.collect::<Option<_>>()?;
        let last = leaves.iter().flatten().max().copied();
        let named = |group: &RowGroup| last.is_none_or(|last| last < group.chunks.len());
        if leaves.len() != columns || file.is_none() && !row_groups.iter().all(named) {
            return None;
        }
        let keys = self.keys.into_iter().map(|section| section.into_section(&self.object)).collect::<Option<_>>()?;
        Some(Part {
            object: self.object,
            file,
            bytes,
            digest: digest(&self.digest)?,
            encryption: self.encryption,
            key_id: self.key_id,
            footer: self.footer?.into_slice(bytes)?,
            leaves,
            row_groups,
            rows_sum: rows_sum(&self.rows_sum)?,
            keys,
        })
    }
}

impl From<&Slice> for SliceRow {
    fn from(slice: &Slice) -> Self {
        Self { offset: slice.offset, bytes: slice.bytes, digest: slice.digest.to_vec() }
    }
}

impl SliceRow {
    fn into_slice(self, object_bytes: u64) -> Option<Slice> {
        let end = self.offset.checked_add(self.bytes)?;
        let digest = self.digest.try_into().ok()?;
        (end <= object_bytes).then_some(Slice { offset: self.offset, bytes: self.bytes, digest })
    }
}

impl From<&RowGroup> for RowGroupRow {
    fn from(group: &RowGroup) -> Self {
        Self {
            rows: group.rows,
            chunks: group.chunks.iter().map(SliceRow::from).collect(),
            summaries: group.summaries.iter().map(SummaryRow::from).collect(),
            deleted: group.deleted.to_bytes(),
        }
    }
}

impl RowGroupRow {
    fn into_group(self, columns: usize, object_bytes: u64) -> Option<RowGroup> {
        let rows = self.rows;
        let chunks: Vec<Slice> =
            self.chunks.into_iter().map(|chunk| chunk.into_slice(object_bytes)).collect::<Option<_>>()?;
        let summaries: Vec<ColumnSummary> =
            self.summaries.into_iter().map(|s| s.into_summary(rows)).collect::<Option<_>>()?;
        let deleted = Deleted::from_bytes(&self.deleted, rows)?;
        let whole = summaries.iter().all(|s| s.column < columns);
        whole.then_some(RowGroup { rows, chunks, summaries, deleted })
    }
}

impl From<&ColumnSummary> for SummaryRow {
    fn from(summary: &ColumnSummary) -> Self {
        Self {
            column: summary.column as u32,
            min: summary.stats.min.as_ref().and_then(bound),
            max: summary.stats.max.as_ref().and_then(bound),
            nulls: summary.nulls,
        }
    }
}

impl SummaryRow {
    fn into_summary(self, rows: u64) -> Option<ColumnSummary> {
        let value = |bound: Option<Bound>| match bound {
            None => Some(None),
            Some(bound) => bound.value.and_then(from_bound).map(Some),
        };
        let stats = ColumnStats {
            min: value(self.min)?,
            max: value(self.max)?,
            may_be_null: self.nulls > 0,
            may_be_value: self.nulls < rows,
        };
        Some(ColumnSummary { column: self.column as usize, stats, nulls: self.nulls })
    }
}

fn bound(value: &Value) -> Option<Bound> {
    let value = match value {
        Value::String(v) => BoundValue::String(v.clone()),
        Value::Int32(v) => BoundValue::Int32(*v),
        Value::Int64(v) => BoundValue::Int64(*v),
        Value::Float64(v) => BoundValue::Float64(*v),
        Value::Decimal(v) => BoundValue::Decimal(v.to_be_bytes().to_vec()),
        Value::Date(v) => BoundValue::Date(*v),
        Value::Timestamp(v) => BoundValue::Timestamp(*v),
        Value::Bool(v) => BoundValue::Bool(*v),
        Value::Binary(_) | Value::Null => return None,
    };
    Some(Bound { value: Some(value) })
}

fn from_bound(bound: BoundValue) -> Option<Value> {
    Some(match bound {
        BoundValue::String(v) => Value::String(v),
        BoundValue::Int32(v) => Value::Int32(v),
        BoundValue::Int64(v) => Value::Int64(v),
        BoundValue::Float64(v) => Value::Float64(v),
        BoundValue::Decimal(v) => Value::Decimal(i128::from_be_bytes(v.try_into().ok()?)),
        BoundValue::Date(v) => Value::Date(v),
        BoundValue::Timestamp(v) => Value::Timestamp(v),
        BoundValue::Bool(v) => Value::Bool(v),
    })
}

fn digest(bytes: &[u8]) -> Option<Digest> {
    Some(Digest { algorithm: Algorithm::Blake3, bytes: bytes.try_into().ok()? })
}
