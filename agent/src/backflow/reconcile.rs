//! 对账: rows and digests of one version at the provider, the gateway and the receiver, side by side; where they differ, what is
//! missing is named, region by region.

use super::{Shape, Sink};
use crate::connect::Session;
use crate::error::{AgentError, Told};
use crate::records::{self, Kind};
use crate::transfer::peer;
use arrow::array::{Array, AsArray};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::rows::RowsSum;
use lingqu_protocol::stream::Channel;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// How often a sink is read anew that goes on under the reading.
const TRIES_MAX: u32 = 3;

/// Rows and their digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Rows.
    pub rows: u64,
    /// Digest of them; `None` where the gateway would compare with nothing.
    pub digest: Option<Digest>,
}

impl Counted {
    fn of(sum: &RowsSum) -> Self {
        Self { rows: sum.count, digest: Some(sum.digest()) }
    }

    /// Whether both are of the same rows, as far as both say.
    fn agrees(&self, other: &Self, with_digest: bool) -> bool {
        let (Some(one), Some(two)) = (self.digest, other.digest) else { return self.rows == other.rows };
        self.rows == other.rows && (!with_digest || one == two)
    }

    fn read(record: &Value) -> Option<Self> {
        let rows = record.get("rows")?.as_u64()?;
        let digest = match record.get("rows_digest").and_then(Value::as_str) {
            Some(text) => Some(text.parse().ok()?),
            None => None,
        };
        Some(Self { rows, digest })
    }

    fn json(&self) -> Value {
        json!({"rows": self.rows, "rows_digest": self.digest})
    }
}

/// What the gateway has of a version.
#[derive(Clone, Debug)]
pub struct AtGateway {
    /// The version.
    pub version: u64,
    /// All of it.
    pub whole: Counted,
    /// The provider's push of it, as the gateway tells it.
    pub provider: Value,
    /// The reader's own slice, with its columns; `None` for who has none.
    pub slice: Option<(Counted, Vec<String>)>,
    /// Each region in the slice, over all columns of the version.
    pub regions: BTreeMap<String, Counted>,
}

/// Asks the gateway for a version of an entry; the latest where `version` is `None`.
///
/// # Errors
/// What the gateway refuses; an answer that is none.
pub async fn at_gateway<C: Channel>(
    session: &Session<C>,
    entry: &str,
    version: Option<u64>,
) -> Result<AtGateway, AgentError> {
    let id = version.map_or_else(|| entry.to_owned(), |version| format!("{entry}@{version}"));
    let mut found: Option<AtGateway> = None;
    let (mut slice, mut regions) = (None, BTreeMap::new());
    let bad = || peer("a reconciliation that cannot be read", "网关返回的对账数据无法解析");
    for record in records::all_of(session, Kind::Reconcile, &id).await? {
        let counted = Counted::read(&record).ok_or_else(bad)?;
        if let Some(region) = record.get("region").and_then(Value::as_str) {
            regions.insert(region.to_owned(), counted);
        } else if let Some(columns) = record.get("columns").and_then(Value::as_array) {
            let columns = columns.iter().map(|c| c.as_str().map(str::to_owned)).collect::<Option<_>>();
            slice = Some((counted, columns.ok_or_else(bad)?));
        } else {
            let version = record.get("version").and_then(Value::as_u64).ok_or_else(bad)?;
            let provider = record.get("provider").cloned().unwrap_or(Value::Null);
            found = Some(AtGateway { version, whole: counted, provider, slice: None, regions: BTreeMap::new() });
        }
    }
    let found = found.ok_or_else(bad)?;
    Ok(AtGateway { slice, regions, ..found })
}

/// What the gateway has of a version, as its provider sees it; the latest where `version` is `None`.
///
/// # Errors
/// What the gateway refuses; there is no such version of rows.
pub async fn at_gateway_for_provider<C: Channel>(
    session: &Session<C>,
    entry: &str,
    version: Option<u64>,
) -> Result<AtGateway, AgentError> {
    let number = |record: &Value| record.get("version").and_then(Value::as_u64).unwrap_or(0);
    let records = records::all_of(session, Kind::Version, entry).await?;
    let wanted = records.into_iter().filter(|record| version.is_none_or(|version| number(record) == version));
    let found = wanted.max_by_key(number).and_then(|record| Some((Counted::read(&record)?, record)));
    let (whole, record) = found.ok_or_else(|| {
        AgentError::NotFound(Told::new("no_version", "there is no such version of rows", "没有该版本的数据行"))
    })?;
    Ok(AtGateway { version: number(&record), whole, provider: record, slice: None, regions: BTreeMap::new() })
}

/// What a sink holds.
#[derive(Clone, Debug, Default)]
pub struct AtReceiver {
    /// The version.
    pub version: u64,
    /// Its columns.
    pub columns: Vec<String>,
    /// All of it.
    pub sum: RowsSum,
    /// By the text of the region column.
    pub regions: BTreeMap<String, RowsSum>,
}

/// Counts what a sink holds of the entry with the id `entry`; `None` where it holds none. `region` is the name of the region
/// column. Blocks.
///
/// # Errors
/// What the sink says.
pub fn at_receiver(sink: &mut dyn Sink, entry: &str, region: Option<&str>) -> Result<Option<AtReceiver>, AgentError> {
    let mut tries = 1;
    loop {
        let mut got = AtReceiver::default();
        let mut digest = None;
        let read = sink.read(entry, &mut |batch| {
            let schema = batch.schema();
            let shape = || Shape::of_schema(&schema).ok_or_else(|| peer("columns of no item", "列类型不受支持"));
            let digest = match &mut digest {
                Some(digest) => digest,
                slot @ None => slot.insert(shape()?.digest()),
            };
            let hashes = digest.update(batch).map_err(|e| super::gone::not_rows(&e))?;
            hashes.iter().for_each(|hash| got.sum.add_row(*hash));
            let Some(place) = region.and_then(|name| schema.index_of(name).ok()) else { return Ok(()) };
            let Some(codes) = batch.column(place).as_string_opt::<i32>() else { return Ok(()) };
            for (row, hash) in hashes.iter().enumerate() {
                let code = if codes.is_null(row) { "" } else { codes.value(row) };
                match got.regions.get_mut(code) {
                    Some(sum) => sum.add_row(*hash),
                    None => got.regions.entry(code.to_owned()).or_default().add_row(*hash),
                }
            }
            Ok(())
        });
        match read {
            Ok(None) => return Ok(None),
            Ok(Some((cursor, shape))) => {
                got.version = cursor.version;
                got.columns = shape.0.into_iter().map(|column| column.name).collect();
                return Ok(Some(got));
            }
            Err(error) if tries >= TRIES_MAX => return Err(error),
            Err(error) => tracing::info!(%error, "read again: the sink may have gone on meanwhile"),
        }
        tries += 1;
    }
}

/// One thing that is not the same everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The region; empty for all rows together.
    pub region: String,
    /// At the gateway.
    pub gateway: Option<Counted>,
    /// At the other side.
    pub other: Option<Counted>,
    /// Who the other side is: `receiver` or `provider`.
    pub side: &'static str,
}

impl Mismatch {
    /// For programs.
    pub fn json(&self) -> Value {
        let at = |counted: &Option<Counted>| counted.as_ref().map(Counted::json);
        let rows = |counted: &Option<Counted>| counted.as_ref().map_or(0, |counted| counted.rows);
        let (gateway, other) = (rows(&self.gateway), rows(&self.other));
        let region = (!self.region.is_empty()).then_some(&self.region);
        json!({
            "region": region, "side": self.side, "gateway": at(&self.gateway), "other": at(&self.other),
            "missing": gateway.saturating_sub(other), "too_many": other.saturating_sub(gateway),
        })
    }
}

/// Compares the receiver's rows with the gateway's slice. The regions' digests are over all columns of the version: where fewer
/// come (`all_columns` is false), rows are counted and digests are not compared.
pub fn receiver_differs(gateway: &AtGateway, receiver: &AtReceiver, all_columns: bool) -> Vec<Mismatch> {
    let mut found = Vec::new();
    let side = "receiver";
    let slice = gateway.slice.as_ref().map(|(counted, _)| counted.clone());
    let same_columns = gateway.slice.as_ref().is_some_and(|(_, columns)| *columns == receiver.columns);
    let whole = Counted::of(&receiver.sum);
    if !slice.as_ref().is_some_and(|slice| slice.agrees(&whole, same_columns)) {
        found.push(Mismatch { region: String::new(), gateway: slice, other: Some(whole), side });
    }
    if receiver.regions.is_empty() && receiver.sum.count > 0 {
        // The region column is not among those that come.
        return found;
    }
    let codes: BTreeSet<&String> = gateway.regions.keys().chain(receiver.regions.keys()).collect();
    for code in codes {
        let there = gateway.regions.get(code).cloned();
        let here = receiver.regions.get(code).map(Counted::of);
        let none = Counted::of(&RowsSum::default());
        let (one, other) = (there.as_ref().unwrap_or(&none), here.as_ref().unwrap_or(&none));
        if !one.agrees(other, all_columns && same_columns) {
            found.push(Mismatch { region: code.clone(), gateway: there, other: here, side });
        }
    }
    found
}

/// Compares the provider's own receipt of its push with what the gateway says of the version.
pub fn provider_differs(gateway: &AtGateway, receipt: &Counted) -> Option<Mismatch> {
    let (there, here) = (gateway.whole.clone(), receipt.clone());
    let same = there.agrees(&here, true);
    (!same).then_some(Mismatch { region: String::new(), gateway: Some(there), other: Some(here), side: "provider" })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sum(rows: &[u128]) -> RowsSum {
        let mut sum = RowsSum::default();
        rows.iter().for_each(|hash| sum.add_row(*hash));
        sum
    }

    fn both() -> (AtGateway, AtReceiver) {
        let parts = [("4403", sum(&[1, 2])), ("440305", sum(&[3]))];
        let all = sum(&[1, 2, 3]);
        let counted = |sum: &RowsSum| Counted::of(sum);
        let gateway = AtGateway {
            version: 4,
            whole: counted(&sum(&[1, 2, 3, 4])),
            provider: Value::Null,
            slice: Some((counted(&all), vec!["region".into()])),
            regions: parts.iter().map(|(code, sum)| ((*code).to_owned(), counted(sum))).collect(),
        };
        let regions = parts.iter().map(|(code, sum)| ((*code).to_owned(), *sum)).collect();
        (gateway, AtReceiver { version: 4, columns: vec!["region".into()], sum: all, regions })
    }

    #[test]
    fn what_is_equal_is_equal() {
        let (gateway, receiver) = both();
        assert_eq!(receiver_differs(&gateway, &receiver, true), []);
        assert_eq!(provider_differs(&gateway, &gateway.whole.clone()), None);
    }

    #[test]
    fn what_is_missing_is_named_by_its_region() {
        let (gateway, mut receiver) = both();
        receiver.regions.insert("4403".into(), sum(&[1]));
        receiver.sum = sum(&[1, 3]);
        let found = receiver_differs(&gateway, &receiver, false);
        let regions: Vec<&str> = found.iter().map(|m| m.region.as_str()).collect();
        assert_eq!(regions, ["", "4403"]);
        assert_eq!((&found[1].json()["missing"], &found[1].json()["too_many"]), (&json!(1), &json!(0)));
        // The same number of other rows is found by its digest, where all columns come.
        receiver.regions.insert("4403".into(), sum(&[1, 9]));
        receiver.sum = sum(&[1, 9, 3]);
        assert_eq!(receiver_differs(&gateway, &receiver, true).len(), 2);
        assert_eq!(receiver_differs(&gateway, &receiver, false).len(), 1);
        receiver.regions.insert("9999".into(), sum(&[7]));
        assert!(receiver_differs(&gateway, &receiver, false).iter().any(|m| m.json()["too_many"] == 1));
    }

    #[test]
    fn a_receipt_of_other_rows_is_told() {
        let (gateway, receiver) = both();
        let found = provider_differs(&gateway, &Counted::of(&receiver.sum)).unwrap();
        assert_eq!((found.side, &found.json()["missing"]), ("provider", &json!(1)));
    }
}
