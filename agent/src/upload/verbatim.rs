//! Parquet files that go as they are: the bytes as a set of files travels, and the gateway judges them where they lie. No
//! value is decoded here, and nothing is encoded anywhere.

use super::batch::SentRows;
use super::files::{self, SetOf};
use super::read::How;
use crate::batch::FileFormat;
use crate::batch::reject::RejectOptions;
use crate::error::AgentError;
use crate::outbox::SourceFile;
use crate::transfer::{Dial, Env, blocking, peer};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::pages::inspect;
use lingqu_protocol::receipt::Receipt;

/// Why files do not go as they are, for who wonders; they go as rows then.
pub type Why = String;

/// Whether files go as they are, before their entry is known: Parquet all, whole versions or more of them, and nothing to
/// be left behind of them.
pub fn may(mode: &str, files: &[SourceFile], how: &How) -> Result<(), Why> {
    if how.as_rows {
        return Err("--no-verbatim was said".into());
    }
    if mode == "changes" {
        return Err("changes go as rows".into());
    }
    if how.rejects != RejectOptions::default() {
        return Err("rows that are dirty are to be left behind".into());
    }
    let other = files.iter().find(|file| FileFormat::of(&file.path) != Some(FileFormat::Parquet));
    other.map_or(Ok(()), |file| Err(format!("{} is no Parquet file", file.path.display())))
}

/// Whether files go as they are: each is looked through from its footer to the head of every page.
///
/// # Errors
/// What the disk says; a file that does not fit is no error.
pub async fn fits(env: &Env, spec: &EntrySpec, files: &[SourceFile]) -> Result<Result<(), Why>, AgentError> {
    let (disk, spec, files) = (env.disk.clone(), spec.clone(), files.to_vec());
    blocking(move || {
        for file in &files {
            let open = disk.open(&file.path).map_err(|e| AgentError::input(&file.path, &e))?;
            let chunks = crate::batch::chunks(open).map_err(|e| AgentError::io("reading", &file.path, &e))?;
            if let Err(unfit) = inspect(&chunks, &spec) {
                return Ok(Err(format!("{}: {unfit}", file.path.display())));
            }
        }
        Ok(Ok(()))
    })
    .await
}

/// Sends files as they are.
///
/// # Errors
/// As [`files::push`]; rows that are not what the entry says, as the gateway names them.
pub(super) async fn push<D: Dial>(
    env: &Env,
    dial: &D,
    transfer: TransferId,
    entry: &str,
    mode: &str,
    sources: Vec<SourceFile>,
) -> Result<SentRows, AgentError> {
    // Their order is that of the version's parts; their names mean nothing there.
    let numbered = sources.into_iter().enumerate();
    let named = numbered.map(|(place, file)| SourceFile { name: format!("{place:06}.parquet"), ..file }).collect();
    let kind = SetOf::Rows { mode: mode.to_owned() };
    let sent = files::push_set(env, dial, transfer, entry, named, kind).await?;
    let said = receipt(env, transfer).await?;
    Ok(SentRows {
        transfer,
        rows: said.rows,
        bytes: sent.bytes,
        rows_digest: said.rows_digest,
        read: said.rows,
        rejected: 0,
        marked: 0,
        verbatim: true,
        sent_bytes: sent.sent_bytes,
        receipt: sent.receipt,
        seconds: sent.seconds,
    })
}

struct Said {
    rows: u64,
    rows_digest: Digest,
}

/// What the receipt that was checked says of the rows.
async fn receipt(env: &Env, transfer: TransferId) -> Result<Said, AgentError> {
    let outbox = env.outbox.clone();
    let json = blocking(move || outbox.receipt(transfer)).await?.unwrap_or_default();
    let statement = Receipt::from_json(&json).ok().map(|receipt| receipt.statement);
    let said = statement.and_then(|said| Some(Said { rows: said.rows?, rows_digest: said.rows_digest? }));
    said.ok_or_else(|| peer("a receipt for rows that says nothing of them", "回执缺少数据行信息"))
}
