//! The quality rules of an entry, run on a version before it is committed. What the sender found counts for nothing here.
//!
//! Every rule looks at the version as it lies in the lake, so a push that was cut and went on, and rows that were appended,
//! are judged as a whole. Rules over all rows work on 128-bit hashes of the values, a part of all hashes at a time: memory
//! stays the same and time grows with the rows, up to [`SET_ROWS_MAX`].

use super::Flow;
use super::error::FlowError;
use crate::gate::{Permit, PushPermit};
use crate::lake::manifest::TableManifest;
use crate::lake::reader::TableReader;
use arrow::array::{ArrayRef, RecordBatch};
use lingqu_protocol::entry::{Check, EntrySpec, OnFailure};
use lingqu_protocol::quality::{HASHES_HELD, QualityResult, RowRules, SET_ROWS_MAX, key_hash};
use std::sync::Arc;

/// Judges a version that is about to be committed. The results are in the order of the entry's rules.
///
/// # Errors
/// A rule with `on_failure = "reject"` that finds a row: the version is bad data, and nothing of it lands; a reference to
/// what may not be referred to; more rows than can be looked at; the leash; the lake.
pub async fn judge(
    flow: &Flow,
    permit: &PushPermit,
    manifest: &Arc<TableManifest>,
) -> Result<Vec<QualityResult>, FlowError> {
    let spec = &permit.entry().spec;
    if spec.quality.is_empty() {
        return Ok(Vec::new());
    }
    let _memory = flow.quality_memory().await?;
    let rows = by_rows(flow, permit, manifest).await?;
    let mut results = Vec::with_capacity(spec.quality.len());
    for (place, rule) in spec.quality.iter().enumerate() {
        let (checked, failed) = match (&rule.check, rows.counts(place)) {
            (_, Some(counts)) => counts,
            (Check::Unique, None) => unique(flow, permit, manifest, &rule.columns).await?,
            (Check::Reference { item, .. }, None) => {
                reference(flow, permit, manifest, place, &rule.columns, item).await?
            }
            (_, None) => return Err(FlowError::Machine(format!("quality rule {:?} was not run", rule.name))),
        };
        if failed > 0 && rule.on_failure == OnFailure::Reject {
            return Err(FlowError::bad_data(format!(
                "quality rule {:?} ({}) finds {failed} of {checked} rows, and the entry rejects such rows: correct them, or leave them out",
                rule.name,
                rule.check.word()
            )));
        }
        results.push(QualityResult::of(rule, checked, failed));
    }
    Ok(results)
}

/// All rules that one row is enough for, in one pass.
async fn by_rows(flow: &Flow, permit: &PushPermit, manifest: &Arc<TableManifest>) -> Result<RowRules, FlowError> {
    let spec = &permit.entry().spec;
    let rules = RowRules::new(spec).map_err(FlowError::Machine)?;
    if rules.is_empty() {
        return Ok(rules);
    }
    let local = spec.quality.iter().filter(|rule| rule.check.is_row_local());
    let mut places: Vec<usize> = local.flat_map(|rule| rule.columns.iter().copied()).collect();
    places.sort_unstable();
    places.dedup();
    let state = (rules, places.clone());
    let (rules, _) = fold(flow, permit, manifest, spec, &places, state, |(rules, places), batch| {
        let column = |place: usize| places.binary_search(&place).ok().and_then(|at| batch.columns().get(at));
        rules.run(batch.num_rows(), column, |_, _| {}).map_err(|e| e.to_string())
    })
    .await?;
    Ok(rules)
}

/// Rows that have values in all columns, and how many of them have the values of one before.
async fn unique(
    flow: &Flow,
    permit: &PushPermit,
    manifest: &Arc<TableManifest>,
    columns: &[usize],
) -> Result<(u64, u64), FlowError> {
    let spec = &permit.entry().spec;
    let parts = parts(&[manifest.rows()])?;
    let (mut checked, mut failed) = (0, 0);
    for part in 0..parts {
        let mut hashes = hashes(flow, permit, manifest, spec, columns, (part, parts)).await?;
        checked += hashes.len() as u64;
        hashes.sort_unstable();
        failed += hashes.windows(2).filter(|pair| matches!(pair, [a, b] if a == b)).count() as u64;
    }
    Ok((checked, failed))
}

/// Rows that have a value, and how many of them have one that the other entry has not.
async fn reference(
    flow: &Flow,
    permit: &PushPermit,
    manifest: &Arc<TableManifest>,
    rule: usize,
    columns: &[usize],
    item: &str,
) -> Result<(u64, u64), FlowError> {
    let spec = &permit.entry().spec;
    let other = permit.referenced(rule).ok_or_else(|| {
        FlowError::bad_data(
            "a quality rule refers to an entry that is not there, or is neither your own nor shared without condition",
        )
    })?;
    let found = other.spec.item(item);
    let own = columns.first().and_then(|place| spec.items.get(*place));
    let place = match (found, own) {
        (Some((place, theirs)), Some(own)) if theirs.item_type == own.item_type => place,
        _ => {
            let what =
                format!("a quality rule refers to {item:?} of another entry, which has no such item of its type");
            return Err(FlowError::bad_data(what));
        }
    };
    let latest = flow.latest(other.id).await?;
    let theirs = match latest {
        Some(number) => {
            let version = flow.version(other.id, number).await?;
            Some(Arc::new(flow.table_manifest(&version).await?))
        }
        // Nothing was pushed there yet: no value is known.
        None => None,
    };
    let parts = parts(&[manifest.rows(), theirs.as_ref().map_or(0, |t| t.rows())])?;
    let (mut checked, mut failed) = (0, 0);
    for part in 0..parts {
        let mut known = match &theirs {
            Some(theirs) => hashes(flow, permit, theirs, &other.spec, &[place], (part, parts)).await?,
            None => Vec::new(),
        };
        known.sort_unstable();
        known.dedup();
        let mine = hashes(flow, permit, manifest, spec, columns, (part, parts)).await?;
        checked += mine.len() as u64;
        failed += mine.iter().filter(|hash| known.binary_search(hash).is_err()).count() as u64;
    }
    Ok((checked, failed))
}

/// In how many parts hashes are looked at.
fn parts(rows: &[u64]) -> Result<u128, FlowError> {
    let most = rows.iter().copied().max().unwrap_or(0);
    if most > SET_ROWS_MAX {
        let what = format!("unique and reference rules look at {SET_ROWS_MAX} rows at most, and there are {most}");
        return Err(FlowError::OverLimit { what });
    }
    Ok(u128::from(most.div_ceil(HASHES_HELD).max(1)))
}

/// The hashes of the values of some columns that belong to one part.
async fn hashes(
    flow: &Flow,
    permit: &PushPermit,
    manifest: &Arc<TableManifest>,
    spec: &Arc<EntrySpec>,
    columns: &[usize],
    (part, parts): (u128, u128),
) -> Result<Vec<u128>, FlowError> {
    let state = (Vec::new(), Vec::new());
    let (hashes, _) = fold(flow, permit, manifest, spec, columns, state, move |(hashes, scratch), batch| {
        let columns: Vec<&ArrayRef> = batch.columns().iter().collect();
        let all = (0..batch.num_rows()).filter_map(|row| key_hash(&columns, row, scratch));
        hashes.extend(all.filter(|hash| hash % parts == part));
        Ok(())
    })
    .await?;
    Ok(hashes)
}

/// Hands every batch of some columns to `step`, on a thread for work.
async fn fold<S: Send + 'static>(
    flow: &Flow,
    permit: &PushPermit,
    manifest: &Arc<TableManifest>,
    spec: &Arc<EntrySpec>,
    places: &[usize],
    mut state: S,
    step: impl Fn(&mut S, &RecordBatch) -> Result<(), String> + Clone + Send + 'static,
) -> Result<S, FlowError> {
    let names: Vec<&str> =
        places.iter().filter_map(|place| spec.items.get(*place)).map(|item| item.name.as_str()).collect();
    let mut reader = TableReader::open(flow.lake().clone(), Arc::clone(manifest), &names, None)?;
    while let Some(batch) = reader.next().await? {
        permit.leash().check()?;
        let step = step.clone();
        let done = tokio::task::spawn_blocking(move || step(&mut state, &batch).map(|()| state));
        state = done.await?.map_err(FlowError::Machine)?;
    }
    Ok(state)
}
