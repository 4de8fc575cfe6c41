//! Rows by their region: each code checked once, rows put in order by counting.

use super::error::LakeError;
use super::values::Column;
use arrow::array::{Array, RecordBatch, StringArray, UInt32Array};
use lingqu_protocol::region::RegionTable;
use lingqu_protocol::rows::RowsSum;
use std::collections::{BTreeMap, HashMap};

/// The region of each row of a batch.
pub(crate) struct Placed {
    /// For each row, which of the codes; empty where there is no region column.
    rows: Vec<u32>,
    /// In ascending order; the empty one, of rows without a region, comes first.
    codes: Vec<String>,
}

impl Placed {
    /// Places the rows of a batch whose region column is `region`; the first is row `first_row` of what is checked.
    ///
    /// # Errors
    /// [`LakeError::BadData`] names the first row whose region is none.
    pub(crate) fn of(batch: &RecordBatch, region: Option<usize>, first_row: u64) -> Result<Self, LakeError> {
        let Some(place) = region else { return Ok(Self { rows: Vec::new(), codes: Vec::new() }) };
        let named = batch.schema_ref().fields().get(place).map(|field| field.name().clone()).unwrap_or_default();
        let column = batch.columns().get(place).ok_or_else(|| bad(format!("column {named} is missing")))?;
        let Column::String(column) = Column::of(column.as_ref())? else {
            return Err(bad(format!("region column {named} is not of strings")));
        };
        let (found, codes) = codes(column, first_row, &named)?;
        let mut order: Vec<usize> = (0..codes.len()).collect();
        order.sort_unstable_by_key(|at| codes.get(*at));
        let mut ranks = vec![0u32; codes.len()];
        for (rank, at) in (0u32..).zip(&order) {
            if let Some(slot) = ranks.get_mut(*at) {
                *slot = rank;
            }
        }
        let rows = found.iter().map(|at| ranks.get(*at as usize).copied().unwrap_or(0)).collect();
        let codes = order.iter().filter_map(|at| codes.get(*at)).map(|code| (*code).to_owned()).collect();
        Ok(Self { rows, codes })
    }

    /// The regions in their order, each with its rows: where rows lie by region, they lie like this. Those without a region
    /// come first, under the empty code.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (&str, u32)> {
        let mut counts = vec![0u32; self.codes.len()];
        for rank in &self.rows {
            if let Some(count) = counts.get_mut(*rank as usize) {
                *count += 1;
            }
        }
        self.codes.iter().map(String::as_str).zip(counts)
    }

    /// For each row, which of the [`codes`](Self::codes) it has.
    pub(crate) fn ranks(&self) -> &[u32] {
        &self.rows
    }

    /// The codes in ascending order; the empty one, of rows without a region, comes first.
    pub(crate) fn codes(&self) -> &[String] {
        &self.codes
    }

    /// The order in which rows lie by region, those of one region in the order in which they are; `None` where they do so
    /// already.
    pub(crate) fn order(&self) -> Option<UInt32Array> {
        if self.rows.is_sorted() {
            return None;
        }
        let mut starts = vec![0u32; self.codes.len() + 1];
        for rank in &self.rows {
            if let Some(count) = starts.get_mut(*rank as usize + 1) {
                *count += 1;
            }
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let mut order = vec![0u32; self.rows.len()];
        for (row, rank) in (0u32..).zip(&self.rows) {
            let Some(next) = starts.get_mut(*rank as usize) else { continue };
            if let Some(slot) = order.get_mut(*next as usize) {
                *slot = row;
            }
            *next += 1;
        }
        Some(order.into())
    }

    /// Adds rows by their hashes to the sums of their regions. `stays` says which rows count.
    pub(crate) fn sum_up(
        &self,
        hashes: &[u128],
        stays: impl Fn(usize) -> bool,
        regions: &mut BTreeMap<String, RowsSum>,
    ) {
        let mut sums = vec![RowsSum::default(); self.codes.len()];
        for (row, (rank, hash)) in self.rows.iter().zip(hashes).enumerate() {
            if stays(row)
                && let Some(sum) = sums.get_mut(*rank as usize)
            {
                sum.add_row(*hash);
            }
        }
        for (code, sum) in self.codes.iter().zip(sums).filter(|(_, sum)| sum.count > 0) {
            match regions.get_mut(code) {
                Some(known) => known.merge(&sum),
                None => drop(regions.insert(code.clone(), sum)),
            }
        }
    }
}

/// For each row which of the codes it has, and the codes, in the order in which they come first.
fn codes<'a>(column: &'a StringArray, first_row: u64, named: &str) -> Result<(Vec<u32>, Vec<&'a str>), LakeError> {
    let table = RegionTable::national();
    let mut known: HashMap<&str, u32> = HashMap::new();
    let mut codes: Vec<&str> = Vec::new();
    let mut rows = Vec::with_capacity(column.len());
    let mut last: Option<(&str, u32)> = None;
    for row in 0..column.len() {
        let code = if column.is_valid(row) { column.value(row) } else { "" };
        let place = match last {
            Some((same, place)) if same == code => place,
            _ => match known.get(code) {
                Some(place) => *place,
                None => {
                    if column.is_valid(row) {
                        let row = first_row + row as u64 + 1;
                        table.check(code).map_err(|e| bad(format!("row {row}, column {named}: {e}")))?;
                    }
                    let place = codes.len() as u32;
                    known.insert(code, place);
                    codes.push(code);
                    place
                }
            },
        };
        last = Some((code, place));
        rows.push(place);
    }
    Ok((rows, codes))
}

fn bad(what: String) -> LakeError {
    LakeError::BadData { what }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use arrow::array::ArrayRef;
    use std::sync::Arc;

    fn batch(codes: Vec<Option<&str>>) -> RecordBatch {
        let column: ArrayRef = Arc::new(StringArray::from(codes));
        RecordBatch::try_from_iter([("region", column)]).unwrap()
    }

    #[test]
    fn rows_lie_by_region_in_their_own_order_and_those_without_one_come_first() {
        let rows = batch(vec![Some("4403"), Some("11"), None, Some("4403"), Some("11"), Some("440304")]);
        let placed = Placed::of(&rows, Some(0), 0).unwrap();
        assert_eq!(placed.order().unwrap().values().to_vec(), [2, 1, 4, 0, 3, 5]);
        let mut sums = BTreeMap::new();
        placed.sum_up(&[1, 2, 4, 8, 16, 32], |row| row != 3, &mut sums);
        let counts: Vec<_> = sums.iter().map(|(code, sum)| (code.as_str(), sum.count)).collect();
        assert_eq!(counts, [("", 1), ("11", 2), ("4403", 1), ("440304", 1)]);
        let sorted = batch(vec![None, Some("11"), Some("11"), Some("4403")]);
        assert!(Placed::of(&sorted, Some(0), 0).unwrap().order().is_none(), "nothing to do");
    }

    #[test]
    fn a_code_that_is_none_is_named_with_its_row() {
        let rows = batch(vec![Some("4403"), Some("440300")]);
        let error = Placed::of(&rows, Some(0), 10).err().unwrap().to_string();
        assert!(error.contains("row 12, column region"), "{error}");
    }
}
