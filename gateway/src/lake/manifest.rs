//! Manifests: the immutable objects that say what a version is made of. The state names one by its digest, and from
//! there every byte of the version is vouched for.
//!
//! An object is `LINGQUMF` ‖ format version (u16, little endian) ‖ kind (1 files, 2 table) ‖ algorithm of the digests
//! (1 = BLAKE3) ‖ a protobuf message (`manifest_rows`) ‖ BLAKE3 over all before. The digest that the state names is
//! BLAKE3 over all of it; the one inside tells whether a manifest that the state does not name yet is whole.

use super::deleted::Deleted;
use super::error::LakeError;
use super::keys::KeySection;
use super::manifest_rows as rows;
use super::segment::FILES;
use super::store::Lake;
use bytes::{BufMut, Bytes, BytesMut};
use lingqu_protocol::digest::{Algorithm, Digest};
use lingqu_protocol::entry::{EntrySpec, ItemType};
use lingqu_protocol::fileset::{FileEntry, parts_root, set_root};
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::plan::{Plan, SET_FILES_MAX};
use lingqu_protocol::predicate::ColumnStats;
use lingqu_protocol::region::RegionCode;
use lingqu_protocol::rows::RowsSum;
use object_store::path::Path;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Prefix of all table versions.
pub const TABLES: &str = "tables";

/// Bytes of a manifest: it is held in memory where its version is read, and full sets of ordinary names fit.
pub const MANIFEST_BYTES_MAX: u64 = 32 << 20;

/// Parts of one table version: at the usual run, a terabyte.
pub const PARTS_MAX: usize = 1 << 16;

const MAGIC: &[u8; 8] = b"LINGQUMF";
const VERSION: u16 = 2;
const BLAKE3: u8 = 1;
const HEADER_BYTES: usize = 12;
const SEAL_BYTES: usize = 32;

/// Regions whose rows are counted and summed up one by one: more than a province has towns and townships. Where a version
/// has more, only the whole has a digest.
pub const REGIONS_MAX: usize = 1 << 16;

/// What a listing of a region's row groups starts with.
const REGION_DOMAIN: &[u8] = b"lingqu table region v1\n";

/// What a listing of columns starts with.
const COLUMNS_DOMAIN: &[u8] = b"lingqu table columns v1\n";

/// Count and sum of rows by region.
pub type Regions = BTreeMap<String, RowsSum>;

/// A version of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSetManifest {
    files: Vec<FileEntry>,
    root: Digest,
}

impl FileSetManifest {
    /// Of these files, in ascending order of the bytes of their names: the order of the plan, too.
    ///
    /// # Errors
    /// [`LakeError::BadData`] where the order is another, a name comes twice, or there are none or too many.
    pub fn new(files: Vec<FileEntry>) -> Result<Self, LakeError> {
        if files.is_empty() || files.len() > SET_FILES_MAX {
            return Err(bad(format!("a set has 1 to {SET_FILES_MAX} files, not {}", files.len())));
        }
        if let Some(pair) = files.array_windows().find(|[a, b]| a.name >= b.name) {
            let [_, after] = pair;
            return Err(bad(format!("file {:?} is not in the order of names, or comes twice", after.name)));
        }
        let root = set_root(&files);
        Ok(Self { files, root })
    }

    /// The files, in the order of their names.
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// The version's `bytes_root`: [`set_root`] of its files.
    pub const fn root(&self) -> Digest {
        self.root
    }

    /// How its files are cut into segments.
    ///
    /// # Errors
    /// [`LakeError::BadData`] where they are more than one transfer takes.
    pub fn plan(&self) -> Result<Plan, LakeError> {
        Plan::new(self.files.iter().map(|file| file.bytes).collect()).map_err(|e| bad(e.to_string()))
    }
}

/// A column of a table version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnInfo {
    /// Its name.
    pub name: String,
    /// Its type.
    pub item_type: ItemType,
    /// Whether a value may be missing.
    pub nullable: bool,
}

/// A range of an object and what vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Where it starts.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of it.
    pub digest: [u8; 32],
}

/// What is known of a column over a row group.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnSummary {
    /// Place of the column.
    pub column: usize,
    /// Bounds, computed from the values and believed from nobody.
    pub stats: ColumnStats,
    /// Values that are missing.
    pub nulls: u64,
}

/// A row group of a part.
#[derive(Clone, Debug, PartialEq)]
pub struct RowGroup {
    /// Its rows, those that are deleted among them.
    pub rows: u64,
    /// Each column's bytes in the part, in the order of the part's own columns; none for a part that lies in segments,
    /// whose every mebibyte is checked against its value instead.
    pub chunks: Vec<Slice>,
    /// Summaries of some columns, the region column's among them.
    pub summaries: Vec<ColumnSummary>,
    /// Rows of it that later changes replaced or deleted.
    pub deleted: Deleted,
}

impl RowGroup {
    /// What is known of column `column`.
    pub fn stats(&self, column: usize) -> ColumnStats {
        let summary = self.summaries.iter().find(|s| s.column == column);
        summary.map_or(ColumnStats::UNKNOWN, |s| s.stats.clone())
    }
}

/// One Parquet object of a table version.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Path of the object; of the folder of segments, where it lies in segments.
    pub object: String,
    /// Where it lies in segments as a provider's own file, unchanged: which.
    pub file: Option<FilePlace>,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of it.
    pub digest: Digest,
    /// How it is encrypted at rest; `none` is the only way so far.
    pub encryption: String,
    /// The key, where it is encrypted: destroying the key destroys the part.
    pub key_id: Option<String>,
    /// Parquet's own metadata, without the eight bytes that end the file.
    pub footer: Slice,
    /// For each column of the version its place among the part's own; none where the part is older than the column, and
    /// no row of it has a value there.
    pub leaves: Vec<Option<usize>>,
    /// Count and sum of its rows that are not deleted, from which the version's digest of rows is made.
    pub rows_sum: RowsSum,
    /// Its row groups.
    pub row_groups: Vec<RowGroup>,
    /// Where the keys of its rows are listed; empty where they are not, and it is looked through.
    pub keys: Vec<KeySection>,
}

/// A provider's own Parquet file as a part: one file of the set that its transfer sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePlace {
    /// The transfer.
    pub transfer: TransferId,
    /// The file's place among [`sizes`](Self::sizes).
    pub file: u32,
    /// Sizes of all files of the set: they say which segments hold which file.
    pub sizes: Arc<[u64]>,
}

impl Part {
    /// Rows in it that are not deleted.
    pub const fn rows(&self) -> u64 {
        self.rows_sum.count
    }

    /// The transfer under whose id its bytes lie.
    pub fn transfer(&self) -> Option<TransferId> {
        let mut names = self.object.split('/');
        names.nth(1).and_then(|name| name.parse().ok())
    }
}

/// A version of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableManifest {
    /// Its columns, in the order of the entry's items.
    pub columns: Vec<ColumnInfo>,
    /// Place of the column that holds each row's region.
    pub region_column: Option<usize>,
    /// Its parts. Those of earlier versions that it goes on from come first.
    pub parts: Vec<Part>,
    /// Count and sum of the rows of each region that has any, by code (rows without one under the empty code), where
    /// there are not too many.
    pub regions: Option<Regions>,
}

impl TableManifest {
    /// The columns of an entry.
    pub fn columns_of(entry: &EntrySpec) -> Vec<ColumnInfo> {
        let column = |item: &lingqu_protocol::entry::DataItem| ColumnInfo {
            name: item.name.clone(),
            item_type: item.item_type,
            nullable: item.nullable,
        };
        entry.items.iter().map(column).collect()
    }

    /// Rows in the version.
    pub fn rows(&self) -> u64 {
        self.parts.iter().map(Part::rows).sum()
    }

    /// The digest of all its rows, whatever their order and form: what provider, gateway and receiver compare.
    pub fn rows_digest(&self) -> Digest {
        let mut sum = RowsSum::default();
        self.parts.iter().for_each(|part| sum.merge(&part.rows_sum));
        sum.digest()
    }

    /// Bytes of its parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// The version's `bytes_root`: see [`parts_root`].
    pub fn root(&self) -> Digest {
        parts_root(self.parts.iter().map(|part| (part.bytes, part.digest)))
    }

    /// The digest of its columns: BLAKE3 over a domain line and, for each column in order, the length of its name
    /// (u32, big endian), the name, the length of its type as entries write it (u32, big endian), the type, and one
    /// byte, 1 where a value may be missing.
    pub fn schema_digest(&self) -> Digest {
        let mut listing = COLUMNS_DOMAIN.to_vec();
        for column in &self.columns {
            for text in [column.name.clone(), column.item_type.to_string()] {
                listing.put_u32(text.len() as u32);
                listing.put_slice(text.as_bytes());
            }
            listing.put_u8(column.nullable.into());
        }
        Digest::blake3(&listing)
    }

    /// The `bytes_root` of a region: BLAKE3 over a domain line and, for each row group that can hold its rows, in order, the
    /// 32 bytes of its part's digest and the row group's place (u32, big endian).
    pub fn region_root(&self, region: RegionCode) -> Digest {
        let mut listing = REGION_DOMAIN.to_vec();
        for (part, group) in self.row_groups_of(region) {
            listing.put_slice(self.parts.get(part).map_or(&[0; 32], |part| &part.digest.bytes));
            listing.put_u32(group as u32);
        }
        Digest::blake3(&listing)
    }

    /// The parts of an earlier version, as parts of one with these columns.
    ///
    /// # Errors
    /// [`LakeError::BadData`] where a column is gone, has another type or place, or is new and must have a value.
    pub fn carried_on(&self, columns: &[ColumnInfo], region_column: Option<usize>) -> Result<Vec<Part>, LakeError> {
        let same = |(old, new): (&ColumnInfo, &ColumnInfo)| {
            old.name == new.name && old.item_type == new.item_type && (new.nullable || !old.nullable)
        };
        let grown = self.columns.len() <= columns.len()
            && self.columns.iter().zip(columns).all(same)
            && columns.iter().skip(self.columns.len()).all(|new| new.nullable)
            && self.region_column == region_column;
        if !grown {
            let what = "the version to go on from has other columns (an entry may gain columns at its end that may lack a \
                        value, and nothing else): send a full one";
            return Err(bad(what.to_owned()));
        }
        let mut parts = self.parts.clone();
        parts.iter_mut().for_each(|part| part.leaves.resize(columns.len(), None));
        Ok(parts)
    }

    /// Row groups that can hold rows of a region, as (part, row group): the map from region to place, which the sorted
    /// runs make short.
    pub fn row_groups_of(&self, region: RegionCode) -> Vec<(usize, usize)> {
        let Some(column) = self.region_column else { return Vec::new() };
        let within = lingqu_protocol::predicate::TypedPredicate::Within { column, region };
        let groups = self
            .parts
            .iter()
            .enumerate()
            .flat_map(|(p, part)| part.row_groups.iter().enumerate().map(move |(g, group)| (p, g, group)));
        groups.filter(|(_, _, group)| within.may_match(&|c| group.stats(c))).map(|(p, g, _)| (p, g)).collect()
    }
}

/// What can be kept as a manifest.
pub trait Manifest: Sized {
    /// Prefix of its versions.
    const PREFIX: &'static str;
    /// Its kind in the header.
    const KIND: u8;
    /// The message that it is kept as.
    fn to_body(&self) -> Vec<u8>;
    /// Reads the message; `None` where it is not whole and in bounds.
    fn from_body(body: &[u8]) -> Option<Self>;

    /// Puts it for a transfer, durably, and gives the digest that the state must name. The same one again is no error.
    ///
    /// # Errors
    /// Too large; [`LakeError::Conflict`] where the transfer has another; no room; the store failed.
    fn save(&self, lake: &Lake, transfer: TransferId) -> impl Future<Output = Result<Digest, LakeError>> + Send
    where
        Self: Sync,
    {
        let object = path::<Self>(transfer);
        let whole = seal::<Self>(&self.to_body());
        async move {
            let bytes = whole.len() as u64;
            if bytes > MANIFEST_BYTES_MAX {
                return Err(LakeError::TooLarge { what: "a manifest", bytes, bytes_max: MANIFEST_BYTES_MAX });
            }
            let same = lake.put_new(&object, vec![whole.clone()]).await?
                || lake.get(&object, MANIFEST_BYTES_MAX).await? == whole;
            if same { Ok(Digest::blake3(&whole)) } else { Err(LakeError::Conflict { object: object.to_string() }) }
        }
    }

    /// Reads the manifest of a transfer that has this digest.
    ///
    /// # Errors
    /// Not found; [`LakeError::Damaged`] where it is another, and it is in quarantine; the store failed.
    fn load(lake: &Lake, transfer: TransferId, digest: Digest) -> impl Future<Output = Result<Self, LakeError>> + Send {
        let object = path::<Self>(transfer);
        async move {
            let whole = lake.get(&object, MANIFEST_BYTES_MAX).await?;
            if digest.algorithm != Algorithm::Blake3 || Digest::blake3(&whole) != digest {
                return Err(lake.quarantine(&object, None, "its digest is not the one that the state names").await);
            }
            // The digest fits, so it is as it was written: where it is not read, by a version that this one does not know.
            unseal(&whole).ok_or_else(|| unknown_form(&object))
        }
    }

    /// The manifest that is there for a transfer, and its digest: what an attempt saved before the state could name it.
    /// `None` where there is none.
    ///
    /// # Errors
    /// [`LakeError::Damaged`], and it is in quarantine: the transfer can be written anew; the store failed.
    fn find(
        lake: &Lake,
        transfer: TransferId,
    ) -> impl Future<Output = Result<Option<(Self, Digest)>, LakeError>> + Send {
        let object = path::<Self>(transfer);
        async move {
            let whole = match lake.get(&object, MANIFEST_BYTES_MAX).await {
                Err(LakeError::NotFound { .. }) => return Ok(None),
                got => got?,
            };
            if !is_sealed(&whole) {
                return Err(lake.quarantine(&object, None, "its own digest").await);
            }
            let manifest = unseal(&whole).ok_or_else(|| unknown_form(&object))?;
            Ok(Some((manifest, Digest::blake3(&whole))))
        }
    }
}

impl Manifest for FileSetManifest {
    const PREFIX: &'static str = FILES;
    const KIND: u8 = 1;

    fn to_body(&self) -> Vec<u8> {
        rows::FileSet::from(self).encode_to_vec()
    }

    fn from_body(body: &[u8]) -> Option<Self> {
        rows::FileSet::decode(body).ok()?.try_into().ok()
    }
}

impl Manifest for TableManifest {
    const PREFIX: &'static str = TABLES;
    const KIND: u8 = 2;

    fn to_body(&self) -> Vec<u8> {
        rows::Table::from(self).encode_to_vec()
    }

    fn from_body(body: &[u8]) -> Option<Self> {
        rows::Table::decode(body).ok()?.into_manifest()
    }
}

/// Where the manifest of a transfer is.
pub(crate) fn path<M: Manifest>(transfer: TransferId) -> Path {
    Path::from(M::PREFIX).join(transfer.to_string()).join("manifest")
}

fn seal<M: Manifest>(body: &[u8]) -> Bytes {
    let mut whole = BytesMut::with_capacity(HEADER_BYTES + body.len() + SEAL_BYTES);
    whole.put_slice(&header::<M>());
    whole.put_slice(body);
    let digest = blake3::hash(&whole);
    whole.put_slice(digest.as_bytes());
    whole.freeze()
}

fn is_sealed(whole: &[u8]) -> bool {
    whole.split_last_chunk::<SEAL_BYTES>().is_some_and(|(content, seal)| blake3::hash(content).as_bytes() == seal)
}

fn unseal<M: Manifest>(whole: &[u8]) -> Option<M> {
    let (content, _) = whole.split_last_chunk::<SEAL_BYTES>()?;
    M::from_body(content.strip_prefix(&header::<M>())?)
}

fn header<M: Manifest>() -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let mut rest = header.as_mut_slice();
    rest.put_slice(MAGIC);
    rest.put_u16_le(VERSION);
    rest.put_u8(M::KIND);
    rest.put_u8(BLAKE3);
    header
}

fn unknown_form(object: &Path) -> LakeError {
    bad(format!("manifest {object} is of a form that this version does not read"))
}

fn bad(what: String) -> LakeError {
    LakeError::BadData { what }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
