//! One record by its key (服务接口), top to bottom: permit, key, rows, account and leaf in one transaction, answer. One stream,
//! one round trip; what the requester may not have does not exist.

use super::Flow;
use super::answer::{Answering, Bounds};
use super::error::FlowError;
use super::record::used_draft;
use super::wires::Wires;
use crate::gate::{Denied, Limits, Peer, Permit, PullPermit};
use crate::ledger::Entry;
use crate::metrics;
use crate::state::{Change, Expect, Write};
use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use bytes::Bytes;
use lingqu_protocol::columns::arrow_type;
use lingqu_protocol::entry::{DataItem, EntrySpec};
use lingqu_protocol::frame::{self, FrameKind};
use lingqu_protocol::ipc;
use lingqu_protocol::keys::{KEY_ITEMS_MAX, key_value};
use lingqu_protocol::leaf::LeafKind;
use lingqu_protocol::predicate::Value;
use lingqu_protocol::receipt::DataKind;
use lingqu_protocol::scope::day_of;
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{Answer, KeyValue, Query, reply};
use std::sync::Arc;

/// Rows of one key that a query gives; who has more of one key pulls them.
const ROWS_MAX: usize = 1_000;

/// Bytes of a query's answer: a record with a large cell, and still one look of one person.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Answers one query.
///
/// # Errors
/// Why there is no answer.
pub async fn query<C: Channel>(
    flow: &Arc<Flow>,
    permit: PullPermit,
    peer: &Peer,
    ask: Query,
    wires: &mut Wires<C>,
) -> Result<(), FlowError> {
    let answered = tokio::select! {
        biased;
        cut = permit.leash().cut() => return Err(cut.into()),
        answered = find(flow, &permit, &ask) => answered?,
    };
    let bytes: usize = answered.frames.iter().map(Bytes::len).sum();
    let leaf = spend(flow, &permit, peer, &ask, &answered, bytes as u64).await?;
    flow.failpoint("query.recorded");
    permit.leash().check()?;
    if let Some(stream) = wires.writer.ender() {
        permit.leash().ends(stream);
    }
    let send = async {
        wires
            .reply(reply::Reply::Answer(Answer {
                grant: permit.grant().id.to_string(),
                entry: permit.entry().id.to_string(),
                version: answered.version,
                rows: answered.rows,
                leaf,
            }))
            .await?;
        for body in &answered.frames {
            let header = frame::header(FrameKind::Batch, body.len())?;
            wires.writer.raw(Bytes::copy_from_slice(&header)).await?;
            wires.writer.raw(body.clone()).await?;
        }
        Ok::<(), FlowError>(())
    };
    tokio::select! {
        biased;
        cut = permit.leash().cut() => return Err(cut.into()),
        // A cut resets the stream too, and sending may fail of that before the cut itself is seen.
        sent = send => sent.or_else(|error| permit.leash().check().map_err(FlowError::from).and(Err(error)))?,
    }
    metrics::sent(bytes as u64);
    metrics::sent_rows(answered.rows);
    permit.leash().moved().add(bytes as u64, answered.rows);
    Ok(())
}

/// What was found.
struct Answered {
    version: u64,
    rows: u64,
    /// Schema and rows, where there are any.
    frames: Vec<Bytes>,
}

async fn find(flow: &Arc<Flow>, permit: &PullPermit, ask: &Query) -> Result<Answered, FlowError> {
    // The day's requests are counted in memory before anything is read, and durably before anything leaves.
    let limits = permit.quota().limits();
    if let Some(per_day_max) = limits.requests_per_day_max
        && !permit.quota().count_request(day_of(flow.now()))
    {
        return Err(Denied::Requests { per_day_max }.into());
    }
    let key = typed_key(&permit.entry().spec, &ask.key)?;
    let (version, _held) = flow.hold_version(permit.entry().id, ask.version).await?;
    if version.kind != DataKind::Table {
        return Err(FlowError::NotFound { what: "version of rows" });
    }
    let answering = Arc::new(Answering::new(flow, permit, &version).await?);
    let columns = answering.keys().items.iter().zip(&key).map(|(item, value)| column_of(item, value));
    let asked = RecordBatch::try_new(Arc::clone(answering.key_schema()), columns.collect::<Result<_, _>>()?);
    let asked = asked.map_err(|e| FlowError::Machine(e.to_string()))?;
    let _turn = flow.lookup_turn().await?;
    let bounds = Bounds { rows: ROWS_MAX, bytes: ANSWER_BYTES_MAX };
    let near = answering.near(&key);
    let found = answering.answer(flow, permit, asked, Some(&near), bounds).await?;
    let (batch, rows) = found.ok_or_else(|| FlowError::OverLimit {
        what: format!("this key has more than {ROWS_MAX} rows or {ANSWER_BYTES_MAX} bytes: pull them with --where"),
    })?;
    if rows == 0 {
        return Ok(Answered { version: version.number, rows, frames: Vec::new() });
    }
    let frames = tokio::task::spawn_blocking(move || encode(&answering, &batch));
    Ok(Answered { version: version.number, rows, frames: frames.await?? })
}

/// Schema and rows as they leave.
fn encode(answering: &Answering, batch: &RecordBatch) -> Result<Vec<Bytes>, FlowError> {
    let failed = |e: &dyn std::fmt::Display| FlowError::Machine(e.to_string());
    let batch = answering.transforming().apply(batch)?;
    let mut encoder = ipc::Encoder::new(batch.schema()).map_err(|e| failed(&e))?;
    let mut frames = vec![encoder.schema().map_err(|e| failed(&e))?];
    for piece in ipc::cut(&batch) {
        let (body, _) = encoder.batch(&piece).map_err(|e| FlowError::OverLimit { what: e.to_string() })?;
        frames.push(body.concat().into());
    }
    Ok(frames)
}

/// The values of the key's items in their order, as they were asked.
fn typed_key(spec: &EntrySpec, asked: &[KeyValue]) -> Result<Vec<Value>, FlowError> {
    let items: Vec<&DataItem> = spec.items.iter().filter(|item| item.key).collect();
    let names = || items.iter().map(|item| item.name.as_str()).collect::<Vec<_>>().join(", ");
    let unfit = || FlowError::bad_data(format!("a query gives one value for each key item of the entry: {}", names()));
    if asked.len() != items.len() || asked.len() > KEY_ITEMS_MAX {
        return Err(unfit());
    }
    let typed = items.iter().map(|item| {
        let is_meant = |value: &&KeyValue| value.name == item.name || (value.name.is_empty() && items.len() == 1);
        let value = asked.iter().find(is_meant).ok_or_else(unfit)?;
        key_value(item, &value.value).map_err(|e| FlowError::bad_data(e.to_string()))
    });
    typed.collect()
}

/// A column of one value.
fn column_of(item: &DataItem, value: &Value) -> Result<ArrayRef, FlowError> {
    let data_type = arrow_type(item.item_type);
    let column: ArrayRef = match value {
        Value::String(text) => Arc::new(StringArray::from(vec![text.as_str()])),
        Value::Int32(n) => Arc::new(Int32Array::from(vec![*n])),
        Value::Int64(n) => Arc::new(Int64Array::from(vec![*n])),
        Value::Float64(n) => Arc::new(Float64Array::from(vec![*n])),
        Value::Decimal(n) => Arc::new(Decimal128Array::from(vec![*n]).with_data_type(data_type)),
        Value::Date(days) => Arc::new(Date32Array::from(vec![*days])),
        Value::Timestamp(us) => Arc::new(TimestampMicrosecondArray::from(vec![*us]).with_data_type(data_type)),
        Value::Bool(value) => Arc::new(BooleanArray::from(vec![*value])),
        Value::Binary(_) | Value::Null => {
            return Err(FlowError::bad_data(format!("the key item {} cannot be asked by", item.name)));
        }
    };
    Ok(column)
}

/// Counts what is about to leave and writes the leaf of the answer, in one transaction. Gives the leaf's place.
async fn spend(
    flow: &Arc<Flow>,
    permit: &PullPermit,
    peer: &Peer,
    ask: &Query,
    answered: &Answered,
    bytes: u64,
) -> Result<u64, FlowError> {
    let quota = permit.quota();
    let limits = quota.limits();
    if let Some(bytes_max) = limits.volume_bytes_max {
        let taken = quota.reserve(bytes);
        quota.release(taken.saturating_sub(bytes));
        if taken < bytes {
            quota.release(taken);
            return Err(Denied::Volume { bytes_max }.into());
        }
    }
    let wait = quota.pace(bytes, flow.monotonic());
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    let entry = Entry::new(LeafKind::Permit, flow.now()).what("query").with(|leaf| {
        leaf.agency = Some(peer.agent.agency);
        leaf.agent = Some(peer.agent.clone());
        leaf.entry = Some(permit.entry().id);
        leaf.grant = Some(permit.grant().id);
        leaf.count = Some(answered.rows);
        leaf.bytes = Some(bytes);
    });
    // Who was asked for is personal: it is behind the commitment.
    let asked = serde_json::json!({
        "version": answered.version,
        "key": ask.key.iter().map(|key| serde_json::json!([key.name, key.value])).collect::<Vec<_>>(),
        "columns": ask.columns,
        "purpose": permit.purpose(),
        "scope": permit.grant().digest,
    });
    let leaves = vec![entry.committing_to(asked.to_string()).seal(flow.entropy())?];
    // One account is written by one at a time; where nothing is limited nobody waits for anybody.
    let counts = limits != Limits::default();
    let _recording = if counts { Some(quota.recording().await) } else { None };
    let account = counts.then(|| Write::Put(used_draft(permit.under(), quota.used(), flow.now()), Expect::Any));
    let writes = account.into_iter().collect();
    let committed = flow.state().commit(Change { writes, leaves, ..Change::default() }).await?;
    Ok(committed.first_index)
}
