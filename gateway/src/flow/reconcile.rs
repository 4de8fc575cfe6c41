//! What the gateway answers to `reconcile`: counts and sums of a version, of a slice and of each region in it.

use super::Flow;
use super::error::FlowError;
use crate::gate::AllowedFollow;
use crate::lake::manifest::Regions;
use lingqu_protocol::backflow::RegionSlice;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::region::RegionTable;
use lingqu_protocol::rows::RowsSum;
use lingqu_protocol::wire::{Record as WireRecord, Records};
use serde_json::json;
use std::collections::BTreeMap;

/// Regions in one page.
const PAGE: u32 = 200;

/// Count and sum of the rows of a slice, from those of each region.
pub fn slice_sum(regions: &Regions, slice: &RegionSlice) -> RowsSum {
    let mut sum = RowsSum::default();
    for (_, of) in inside(regions, slice) {
        sum.merge(of);
    }
    sum
}

/// The regions of a slice, in their order, each once.
fn inside<'a>(regions: &'a Regions, slice: &RegionSlice) -> BTreeMap<&'a str, &'a RowsSum> {
    let mut found = BTreeMap::new();
    for prefix in slice.prefixes() {
        let from = regions.range(prefix.as_str().to_owned()..);
        for (code, sum) in from.take_while(|(code, _)| code.starts_with(prefix.as_str())) {
            if slice.is_plain() || slice.contains_text(code) {
                found.insert(code.as_str(), sum);
            }
        }
    }
    found
}

impl Flow {
    /// What the gateway has of a version (0: the latest) for this agency's slice: the version with the provider's push, the
    /// slice, then each region in it.
    ///
    /// # Errors
    /// There is no such version of rows, it is no longer kept, its regions are too many to be told apart, or the state's or
    /// the lake's.
    pub async fn reconcile(&self, allowed: &AllowedFollow, number: u64, after: &str) -> Result<Records, FlowError> {
        let (version, _held) = self.hold_version(allowed.entry.id, number).await?;
        let manifest = self.table_manifest(&version).await?;
        let too_many = FlowError::NotFound { what: "digest by region: there are too many" };
        let regions = manifest.regions.as_ref().ok_or(too_many)?;
        let found = inside(regions, &allowed.region);
        let mut records = Vec::new();
        let mut push = |id: &str, json: serde_json::Value| {
            records.push(WireRecord { id: id.to_owned(), json: json.to_string().into_bytes().into() });
        };
        if after.is_empty() {
            push(
                "version",
                json!({
                    "id": "version",
                    "entry": allowed.entry.id,
                    "version": version.number,
                    "rows": version.rows,
                    "rows_digest": version.rows_digest,
                    "bytes_root": version.bytes_root,
                    "committed_at": Timestamp(version.committed_at).to_rfc3339(),
                    "provider": {
                        "agency": allowed.entry.provider.to_string(),
                        "transfer": version.transfer,
                        "rows_read": version.rows_read,
                        "rows_rejected": version.rows_rejected,
                    },
                }),
            );
            let sum = slice_sum(regions, &allowed.region);
            let all = allowed.columns.len() == manifest.columns.len();
            push(
                "slice",
                json!({
                    "id": "slice",
                    "regions": [allowed.region.own().to_string()],
                    "columns": allowed.names(),
                    "slice": allowed.slice(),
                    "rows": sum.count,
                    // Over other columns than those that are sent, it would compare with nothing.
                    "rows_digest": all.then(|| sum.digest()),
                }),
            );
        }
        let table = RegionTable::national();
        let rest = found.iter().filter(|(code, _)| !after.starts_with(|c: char| c.is_ascii_digit()) || **code > after);
        let mut next = String::new();
        for (taken, (code, sum)) in rest.enumerate() {
            if taken == PAGE as usize {
                break;
            }
            next = (*code).to_owned();
            let name = table.check(code).ok().and_then(|code| table.name(code));
            push(
                code,
                json!({ "id": code, "region": code, "name": name, "rows": sum.count, "rows_digest": sum.digest() }),
            );
        }
        let is_last = found.keys().next_back().is_none_or(|last| next == **last || next.is_empty());
        Ok(Records { records, next: if is_last { String::new() } else { next } })
    }
}
