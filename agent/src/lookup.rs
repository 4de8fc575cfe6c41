//! One record by its key (服务接口): one stream, one round trip.

use crate::connect::{ANSWER_SECS_MAX, Session, unexpected, within};
use crate::error::AgentError;
use crate::transfer::peer;
use arrow::array::RecordBatch;
use lingqu_protocol::frame::Event;
use lingqu_protocol::ipc::Decoder;
use lingqu_protocol::session::{SessionError, event_name};
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{Answer, Query, reply, request};

/// What a query was answered with.
#[derive(Clone, Debug)]
pub struct Found {
    /// Under which grant, of which version, how many rows, and its place in the ledger.
    pub answer: Answer,
    /// The rows: the key's items, a column that says that they were found, and what else the grant gives.
    pub batches: Vec<RecordBatch>,
}

/// Asks for the rows of one key.
///
/// # Errors
/// A refusal; a stream that ended before all rows came; no answer in [`ANSWER_SECS_MAX`].
pub async fn query<C: Channel>(session: &Session<C>, ask: Query) -> Result<Found, AgentError> {
    within(ANSWER_SECS_MAX, async {
        let mut stream = session.request(request::Ask::Query(ask)).await?;
        stream.writer.finish();
        let answer = match stream.reply().await? {
            reply::Reply::Answer(answer) => answer,
            other => return Err(unexpected("an answer", &other)),
        };
        let (mut decoder, mut batches) = (Decoder::default(), Vec::new());
        let mut rows = 0;
        while rows < answer.rows {
            let body = match stream.reader.next().await? {
                Some(Event::Batch(body)) => body,
                // A cut resets the stream: what came is no answer.
                None => return Err(SessionError::Incomplete.into()),
                other => {
                    let got = event_name(other.as_ref());
                    return Err(SessionError::Unexpected { expected: "rows", got }.into());
                }
            };
            let not_rows =
                |e| peer(format!("the gateway sent what are no rows: {e}"), format!("网关发送的不是有效数据行：{e}"));
            if let Some(batch) = decoder.decode(body).map_err(not_rows)? {
                rows += batch.num_rows() as u64;
                batches.push(batch);
            }
        }
        if rows == answer.rows {
            Ok(Found { answer, batches })
        } else {
            Err(peer("more rows than the answer says", "返回的行数与应答不符"))
        }
    })
    .await
}
