//! A version with changes: what is sent takes the place of what had the same key, and nothing is written again for it.
//!
//! The keys that came are looked up once, in the push: rows of earlier parts that they replace or delete are marked in the
//! new version's manifest. So a read finds the merged rows without comparing keys, whoever reads and however often, older
//! versions stay as they were, and the counts and digests of the version and of each region are brought forward exactly:
//! what goes is taken away, what comes is added. Memory is bounded: many keys are looked up in several passes.

use super::deleted::Deleted;
use super::error::LakeError;
use super::manifest::{ColumnInfo, ColumnSummary, Part, Regions, RowGroup, TableManifest};
use super::reader::TableReader;
use super::regions::Placed;
use super::shape::Shape;
use super::source::ChunkCache;
use super::store::Lake;
use super::values::widened;
use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use lingqu_protocol::changes::{OP_COLUMN, Op};
use lingqu_protocol::entry::ItemType;
use lingqu_protocol::predicate::{CompareOp, TypedPredicate};
use lingqu_protocol::rows::{RowsDigest, RowsSum};
use std::collections::HashMap;
use std::sync::Arc;

/// Keys that are looked up in one pass: with their places 20 MiB of memory.
const PASS_KEYS: u64 = 400_000;

/// Where the last change of a key stands.
#[derive(Clone, Copy)]
struct Last {
    part: u32,
    group: u32,
    row: u32,
    deletes: bool,
}

/// A version: `onto` with `changes`, whose parts are changes in the order in which they came. `shape` is of the entry's
/// rows.
///
/// # Errors
/// [`LakeError::BadData`] where `onto` has other columns; damaged at rest; the store failed.
pub async fn apply(
    lake: &Lake,
    cache: &ChunkCache,
    shape: &Shape,
    changes: TableManifest,
    onto: Option<&TableManifest>,
) -> Result<TableManifest, LakeError> {
    let (columns, region_column) = (shape.columns.clone(), shape.region);
    let base = match onto {
        Some(old) => old.carried_on(&columns, region_column)?,
        None => Vec::new(),
    };
    let regions = onto.map_or_else(|| Some(Regions::new()), |old| old.regions.clone());
    let mut merge = Merge {
        lake: lake.clone(),
        cache: cache.clone(),
        key_names: shape.keys.iter().filter_map(|key| columns.get(*key)).map(|key| key.name.clone()).collect(),
        names: columns.iter().map(|column| column.name.clone()).collect(),
        digest: shape.digest.clone(),
        shape,
        base: TableManifest { columns: columns.clone(), region_column, parts: base, regions: None },
        changes: with_op(&changes),
        regions,
    };
    merge.add_regions(changes.regions.as_ref());
    let rows: u64 = changes.parts.iter().flat_map(|part| &part.row_groups).map(|group| group.rows).sum();
    let passes = rows.div_ceil(PASS_KEYS).max(1);
    for pass in 0..passes {
        merge.pass(u128::from(pass), u128::from(passes)).await?;
    }
    let Merge { base, changes, regions, .. } = merge;
    let parts = base.parts.into_iter().chain(without_op(changes, columns.len()));
    let parts = parts.filter(|part| part.rows_sum.count > 0).collect();
    let regions = regions.map(|all| all.into_iter().filter(|(_, sum)| sum.count > 0).collect());
    Ok(TableManifest { columns, region_column, parts, regions })
}

/// Changes as a table in which the column that says what is to be done can be read.
fn with_op(changes: &TableManifest) -> TableManifest {
    let mut readable = changes.clone();
    let place = readable.columns.len();
    // A row that deletes has a value in its key alone.
    readable.columns.iter_mut().for_each(|column| column.nullable = true);
    readable.columns.push(ColumnInfo { name: OP_COLUMN.to_owned(), item_type: ItemType::String, nullable: true });
    readable.parts.iter_mut().for_each(|part| part.leaves.push(Some(place)));
    readable
}

fn without_op(changes: TableManifest, columns: usize) -> impl Iterator<Item = Part> {
    changes.parts.into_iter().map(move |mut part| {
        part.leaves.truncate(columns);
        part
    })
}

struct Merge<'a> {
    lake: Lake,
    cache: ChunkCache,
    shape: &'a Shape,
    key_names: Vec<String>,
    names: Vec<String>,
    digest: RowsDigest,
    base: TableManifest,
    changes: TableManifest,
    regions: Option<Regions>,
}

impl Merge<'_> {
    /// One share of the keys: which change of each is the last, and which rows it replaces.
    async fn pass(&mut self, pass: u128, passes: u128) -> Result<(), LakeError> {
        let mut last: HashMap<u128, Last> = HashMap::new();
        for (part, group) in places(&self.changes) {
            self.changes_of(part, group, pass, passes, &mut last).await?;
        }
        if last.is_empty() {
            return Ok(());
        }
        let near = self.near();
        for (part, group) in places(&self.base) {
            let may = group_of(&self.base, part, group)
                .is_some_and(|found| near.as_ref().is_none_or(|near| near.may_match(&|c| found.stats(c))));
            if may {
                self.replace(part, group, &last).await?;
            }
        }
        Ok(())
    }

    /// Takes up the changes of a row group, and marks those that a later one of the same key follows.
    async fn changes_of(
        &mut self,
        part: usize,
        group: usize,
        pass: u128,
        passes: u128,
        last: &mut HashMap<u128, Last>,
    ) -> Result<(), LakeError> {
        let mut names = self.key_names.clone();
        names.push(OP_COLUMN.to_owned());
        let mut reader = self.group(&self.changes, part, group, &names)?;
        let mut row = 0u32;
        // Rows that are marked now, by row group of the changes.
        let mut replaced: HashMap<(usize, usize), Vec<u32>> = HashMap::new();
        while let Some(batch) = reader.next().await? {
            let keys = batch.project(&(0..self.key_names.len()).collect::<Vec<_>>());
            let keys = keys.map_err(|e| LakeError::columns("reading keys", e))?;
            let hashes = hashes(&keys)?;
            let ops = batch.columns().last().and_then(|column| column.as_string_opt::<i32>());
            let ops = ops.ok_or_else(|| LakeError::columns("reading changes", "no column of what is to be done"))?;
            for (at, hash) in hashes.iter().enumerate() {
                let here = row + at as u32;
                if hash % passes != pass {
                    continue;
                }
                let deletes = ops.is_valid(at) && Op::of_word(ops.value(at)) == Some(Op::Delete);
                let now = Last { part: part as u32, group: group as u32, row: here, deletes };
                if let Some(before) = last.insert(*hash, now).filter(|before| !before.deletes) {
                    replaced.entry((before.part as usize, before.group as usize)).or_default().push(before.row);
                }
                if deletes && let Some(found) = group_mut(&mut self.changes, part, group) {
                    // It was never a row of the version, so no sum changes.
                    found.deleted.insert(here as usize);
                }
            }
            row += batch.num_rows() as u32;
        }
        for ((part, group), rows) in replaced {
            let mut gone = Deleted::default();
            for row in rows {
                gone.insert(row as usize);
            }
            let sums = self.sums(&self.changes, part, group, &gone).await?;
            take_away(&mut self.changes, &mut self.regions, part, group, &gone, sums);
        }
        Ok(())
    }

    /// Marks the rows of a row group of the version before whose keys came.
    async fn replace(&mut self, part: usize, group: usize, last: &HashMap<u128, Last>) -> Result<(), LakeError> {
        let mut reader = self.group(&self.base, part, group, &self.key_names)?;
        let known = group_of(&self.base, part, group).map(|group| group.deleted.clone()).unwrap_or_default();
        let (mut gone, mut row) = (Deleted::default(), 0);
        while let Some(keys) = reader.next().await? {
            for (at, hash) in hashes(&keys)?.iter().enumerate() {
                if last.contains_key(hash) && !known.contains(row + at) {
                    gone.insert(row + at);
                }
            }
            row += keys.num_rows();
        }
        if gone.count() == 0 {
            return Ok(());
        }
        let sums = self.sums(&self.base, part, group, &gone).await?;
        take_away(&mut self.base, &mut self.regions, part, group, &gone, sums);
        Ok(())
    }

    /// Counts and sums of some rows of a row group, in all and by region.
    async fn sums(
        &self,
        of: &TableManifest,
        part: usize,
        group: usize,
        rows: &Deleted,
    ) -> Result<(RowsSum, Regions), LakeError> {
        let mut reader = self.group(of, part, group, &self.names)?;
        let mut digest = self.digest.clone();
        let (mut regions, mut row) = (Regions::new(), 0);
        while let Some(batch) = reader.next().await? {
            let chosen = BooleanBuffer::collect_bool(batch.num_rows(), |at| rows.contains(row + at));
            row += batch.num_rows();
            let chosen = filter_record_batch(&batch, &BooleanArray::new(chosen, None));
            let chosen = chosen.map_err(|e| LakeError::columns("choosing rows", e))?;
            if chosen.num_rows() == 0 {
                continue;
            }
            let placed = Placed::of(&chosen, self.shape.region, 0)?;
            let hashes = digest.update(&chosen).map_err(|e| LakeError::columns("summing up rows", e))?;
            placed.sum_up(hashes, |_| true, &mut regions);
        }
        Ok((digest.sum(), regions))
    }

    /// Reads every row of a row group in its order, those that are deleted among them.
    fn group(&self, of: &TableManifest, part: usize, group: usize, names: &[String]) -> Result<TableReader, LakeError> {
        let found = of.parts.get(part).cloned();
        let mut found = found.ok_or_else(|| LakeError::columns("reading a row group", "no such part"))?;
        found.row_groups.iter_mut().for_each(|group| group.deleted = Deleted::default());
        let mut columns = of.columns.clone();
        // What a deleted row lacks, the others need not.
        columns.iter_mut().for_each(|column| column.nullable = true);
        let one = TableManifest { columns, region_column: of.region_column, parts: vec![found], regions: None };
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut reader =
            TableReader::open(self.lake.clone(), Arc::new(one), &names, None)?.with_cache(self.cache.clone());
        reader.only(0, group);
        Ok(reader)
    }

    /// What a row must be to have one of the keys that came: within the bounds of each of its columns.
    fn near(&self) -> Option<TypedPredicate> {
        let groups: Vec<&RowGroup> = self.changes.parts.iter().flat_map(|part| &part.row_groups).collect();
        let mut bounds = Vec::new();
        for key in &self.shape.keys {
            let summary = |group: &&RowGroup| group.summaries.iter().find(|s| s.column == *key).cloned();
            let all: Option<Vec<ColumnSummary>> = groups.iter().map(summary).collect();
            let Some(stats) = all.and_then(|all| all.into_iter().reduce(widened)).map(|all| all.stats) else {
                continue;
            };
            let ends = [(CompareOp::Ge, stats.min), (CompareOp::Le, stats.max)];
            for (op, value) in ends.into_iter().filter_map(|(op, value)| Some((op, value?))) {
                bounds.push(TypedPredicate::Compare { column: *key, op, value });
            }
        }
        (!bounds.is_empty()).then_some(TypedPredicate::And(bounds))
    }

    fn add_regions(&mut self, came: Option<&Regions>) {
        self.regions = self.regions.take().zip(came).map(|(mut all, came)| {
            for (code, sum) in came {
                all.entry(code.clone()).or_default().merge(sum);
            }
            all
        });
    }
}

fn take_away(
    of: &mut TableManifest,
    regions: &mut Option<Regions>,
    part: usize,
    group: usize,
    gone: &Deleted,
    (sum, by_region): (RowsSum, Regions),
) {
    if let Some(found) = group_mut(of, part, group) {
        found.deleted.add(gone);
    }
    if let Some(part) = of.parts.get_mut(part) {
        part.rows_sum.take(&sum);
    }
    if let Some(regions) = regions {
        for (code, sum) in by_region {
            regions.entry(code).or_default().take(&sum);
        }
    }
}

fn hashes(keys: &RecordBatch) -> Result<Vec<u128>, LakeError> {
    let digest = RowsDigest::of_schema(keys.schema_ref());
    let mut digest = digest.ok_or_else(|| LakeError::columns("reading keys", "a key of no item's type"))?;
    let hashes = digest.update(keys).map_err(|e| LakeError::columns("reading keys", e))?;
    Ok(hashes.to_vec())
}

fn places(of: &TableManifest) -> Vec<(usize, usize)> {
    of.parts.iter().enumerate().flat_map(|(p, part)| (0..part.row_groups.len()).map(move |g| (p, g))).collect()
}

fn group_of(of: &TableManifest, part: usize, group: usize) -> Option<&RowGroup> {
    of.parts.get(part)?.row_groups.get(group)
}

fn group_mut(of: &mut TableManifest, part: usize, group: usize) -> Option<&mut RowGroup> {
    of.parts.get_mut(part)?.row_groups.get_mut(group)
}
