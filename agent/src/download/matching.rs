//! Fetches the records of a file of keys (核对): the keys are looked through first, so that a bad one is named before anything
//! is asked; then they go up on one stream while their answers come down as the rows of a pull do.

use crate::batch::sink::Format;
use crate::connect::Session;
use crate::error::{AgentError, Told};
use crate::outbox::{KeysWork, PullWork};
use crate::records::{self, Kind};
use crate::transfer::{Env, blocking, peer, task_failed};
use crate::upload::batch::entry;
use crate::upload::check::{Aim, check};
use crate::upload::read::{How, read_all};
use bytes::Bytes;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::ids::{GrantId, TransferId};
use lingqu_protocol::keys::{FOUND_COLUMN, MATCH_KEYS_MAX, key_entry};
use lingqu_protocol::rows::RowsSum;
use lingqu_protocol::session::FrameWriter;
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{DataHello, MatchKeys};
use serde_json::Value;
use std::pin::pin;
use tokio::sync::mpsc;

/// Batches of keys that are read ahead of the network.
const READ_AHEAD: usize = 2;

/// A file of keys on its way.
pub(super) struct Matching {
    env: Env,
    transfer: TransferId,
    target: String,
    keys: KeysWork,
    format: Option<Format>,
    /// What the file holds, once it was looked through.
    looked: Option<Looked>,
}

struct Looked {
    spec: EntrySpec,
    keys: u64,
    digest: Digest,
}

impl Matching {
    pub(super) fn new(env: &Env, transfer: TransferId, work: &PullWork, keys: &KeysWork) -> Self {
        let (target, format) = (work.target.clone(), Format::of(&work.out).ok());
        Self { env: env.clone(), transfer, target, keys: keys.clone(), format, looked: None }
    }

    /// The request, after the keys were looked through.
    ///
    /// # Errors
    /// Keys that are none (exit code 7), each named by line and column; what the gateway refuses.
    pub(super) async fn ask<C: Channel>(
        &mut self,
        session: &Session<C>,
        work: &PullWork,
        version: u64,
    ) -> Result<MatchKeys, AgentError> {
        let looked = match self.looked.take() {
            Some(looked) => looked,
            None => self.look(session).await?,
        };
        let ask = MatchKeys {
            transfer: self.transfer.to_string(),
            target: work.target.clone(),
            version,
            columns: work.columns.clone(),
            purpose: work.purpose.clone(),
            keys: looked.keys,
            keys_digest: looked.digest.to_string(),
        };
        self.looked = Some(looked);
        Ok(ask)
    }

    async fn look<C: Channel>(&self, session: &Session<C>) -> Result<Looked, AgentError> {
        let spec = key_entry(&entry_of(session, &self.target).await?);
        if spec.items.is_empty() {
            let told = Told::new(
                "no_key",
                "the entry has no key: its records are not asked for by key",
                "该条目没有主键数据项",
            );
            return Err(AgentError::Usage(told.next("use `lingqu pull`", "请使用 `lingqu pull`")));
        }
        let checked = check(&self.env, spec.clone(), vec![self.keys.file.clone()], self.how(), Aim::default()).await?;
        if let Some(error) = checked.failed.into_iter().next() {
            return Err(error);
        }
        if !checked.tally.is_allowed() {
            return Err(bad_keys(checked.tally.over()));
        }
        let summary = checked.summary.ok_or_else(|| peer("keys that were not read", "未能读取主键"))?;
        if summary.rows > MATCH_KEYS_MAX {
            let (found, most) = (summary.rows, MATCH_KEYS_MAX);
            let told = Told::new(
                "too_many_keys",
                format!("{found} keys are more than one match takes ({most})"),
                format!("主键共 {found} 个，超过单次核对上限 {most} 个"),
            );
            return Err(AgentError::Usage(told.next("make several files of them", "请拆分为多个文件")));
        }
        // Every key has one row of answers at least.
        self.format.map_or(Ok(()), |format| format.takes(summary.rows))?;
        Ok(Looked { spec, keys: summary.rows, digest: summary.rows_digest })
    }

    fn how(&self) -> How {
        How { options: self.keys.options.clone(), ..How::default() }
    }

    /// Sends the keys while `answers` come.
    pub(super) async fn beside<C: Channel, T>(
        &self,
        channel: &C,
        token: Bytes,
        answers: impl Future<Output = Result<T, AgentError>>,
    ) -> Result<T, AgentError> {
        let mut answers = pin!(answers);
        let mut sending = pin!(self.send(channel, token));
        let mut sent = false;
        loop {
            tokio::select! {
                biased;
                done = &mut answers => return done,
                outcome = &mut sending, if !sent => match outcome {
                    // What ended the stream of keys is heard with the answers.
                    Ok(()) | Err(AgentError::Session(_)) => sent = true,
                    Err(error) => return Err(error),
                },
            }
        }
    }

    async fn send<C: Channel>(&self, channel: &C, token: Bytes) -> Result<(), AgentError> {
        let looked = self.looked.as_ref().ok_or_else(|| peer("keys that were not read", "未能读取主键"))?;
        let (tx, mut rx) = mpsc::channel::<Vec<Bytes>>(READ_AHEAD);
        let (env, spec, files, how) = (self.env.clone(), looked.spec.clone(), vec![self.keys.file.clone()], self.how());
        let reading =
            tokio::spawn(blocking(move || read_all(&env, &spec, &files, &how, Some((&tx, RowsSum::default())))));
        let mut writer = FrameWriter::new(channel.open_uni().await?);
        writer.message(&DataHello { transfer: self.transfer.to_string(), token }).await?;
        while let Some(frame) = rx.recv().await {
            for piece in frame {
                writer.raw(piece).await?;
            }
        }
        let read = reading.await.map_err(|e| task_failed(&e))?;
        let same = read.as_ref().is_ok_and(|read| (read.rows, read.rows_digest) == (looked.keys, looked.digest));
        if same {
            writer.finish();
            return Ok(());
        }
        // The stream must not look finished.
        writer.reset(CloseCode::BadData);
        read?;
        let path = self.keys.file.path.display();
        let told = Told::new(
            "source_changed",
            format!("{path} changed while it was read"),
            format!("{path} 在读取过程中被修改"),
        );
        Err(AgentError::Data(told.next("run the command again", "请重新执行")))
    }
}

/// The entry that a grant, or an entry's id or code, means.
async fn entry_of<C: Channel>(session: &Session<C>, target: &str) -> Result<EntrySpec, AgentError> {
    let mut named = target.to_owned();
    if target.parse::<GrantId>().is_ok() {
        let grant = records::one(session, Kind::Grant, target).await?;
        let id = grant.get("entry").and_then(Value::as_str);
        named = id.ok_or_else(|| peer("a grant without its entry", "共享权限缺少目录条目"))?.to_owned();
    }
    let spec = entry(session, &named).await?;
    if spec.item(FOUND_COLUMN).is_some() {
        let en = format!("the entry has an item {FOUND_COLUMN}: it is not asked by key");
        let zh = format!("该条目含有数据项 {FOUND_COLUMN}，不支持按主键查询");
        return Err(AgentError::Usage(Told::new("no_key", en, zh).next("use `lingqu pull`", "请使用 `lingqu pull`")));
    }
    Ok(spec)
}

/// The words of a push, said of keys.
fn bad_keys(error: AgentError) -> AgentError {
    match error {
        AgentError::Data(mut told) => {
            told.word = "bad_keys".to_owned();
            AgentError::Data(
                told.next("correct the file of keys: nothing was asked", "请更正主键文件；尚未发出任何查询"),
            )
        }
        other => other,
    }
}
