//! Fetching: sets of files, and rows.

pub mod batch;
pub mod files;
mod journal;
mod manifest;
mod matching;
mod receive;
mod staging;
mod writing;

pub use batch::{GotRows, Stdout};
pub use files::GotFiles;

use crate::connect::{Session, unexpected};
use crate::error::{AgentError, Told};
use crate::outbox::PullWork;
use crate::transfer::{Dial, Env, Tries, answer, blocking, peer};
use bytes::Bytes;
use lingqu_protocol::host::Disk;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::reply::Reply;
use lingqu_protocol::wire::{Pull, request};
use matching::Matching;
use std::io;
use std::path::{Path, PathBuf};

/// What was fetched.
#[derive(Clone, Debug, PartialEq)]
pub enum Got {
    /// A set of files.
    Files(GotFiles),
    /// Rows.
    Rows(GotRows),
}

/// Fetches what `work` says as transfer `transfer`. Tries again when a connection is lost; rows that went to standard
/// output (`stdout`, for an output `-`) are not sent there twice.
///
/// # Errors
/// An output that is there already (exit code 2, before anything is asked), what the gateway refuses, bytes that do not
/// match their digests, a disk that does not take them, a connection that stays away.
pub async fn pull<D: Dial>(
    env: &Env,
    dial: &D,
    transfer: TransferId,
    work: &PullWork,
    stdout: Stdout,
) -> Result<Got, AgentError> {
    let mut files = files::FilesPull::new(env, transfer, work);
    if let Some(got) = files.finish_interrupted().await? {
        return Ok(Got::Files(got));
    }
    let mut rows = batch::RowsPull::new(env, transfer, work, stdout);
    if let Some(got) = rows.finish_interrupted().await? {
        return Ok(Got::Rows(got));
    }
    if work.out.as_os_str() != "-" {
        refuse_existing(&work.out).await?;
    }
    let mut version = if work.version == 0 { files.version_begun().await?.unwrap_or(0) } else { work.version };
    let mut matching = work.keys.as_ref().map(|keys| Matching::new(env, transfer, work, keys));
    let mut tries = Tries::new(env.patience);
    loop {
        let kept = rows.look().await?;
        let mark = match kept {
            Some((of, mark)) if version == 0 || version == of => {
                version = of;
                mark
            }
            _ => Bytes::new(),
        };
        let error = match dial.dial().await {
            Ok(session) => {
                let of = (&mut files, &mut rows, matching.as_mut());
                let outcome = attempt(of, &session, transfer, work, (&mut version, mark)).await;
                session.close_after(&outcome);
                match outcome {
                    Ok(got) => return Ok(got),
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        if !rows.can_start_again() {
            return Err(error);
        }
        // What is durable is progress; what came and was lost is none.
        tries.again(error, files.moved() + rows.progress()).await?;
    }
}

async fn attempt<C: Channel>(
    (files, rows, mut matching): (&mut files::FilesPull, &mut batch::RowsPull, Option<&mut Matching>),
    session: &Session<C>,
    transfer: TransferId,
    work: &PullWork,
    (version, mark): (&mut u64, Bytes),
) -> Result<Got, AgentError> {
    let ask = match &mut matching {
        Some(matching) => request::Ask::MatchKeys(matching.ask(session, work, *version).await?),
        None => request::Ask::Pull(pull_of(transfer, work, *version, mark)),
    };
    let mut control = session.request(ask).await?;
    let ready = match answer(&mut control).await? {
        Reply::PullReady(ready) => ready,
        // All was said before, and only the answer was lost.
        Reply::Receipt(receipt) => {
            return match rows.finish_with(&mut control, &receipt.json).await? {
                Some(got) => Ok(Got::Rows(got)),
                None => Ok(Got::Files(files.finish_with(&mut control, &receipt.json).await?)),
            };
        }
        other => return Err(unexpected("leave to pull", &other)),
    };
    // From here on a new connection goes on with this version and no later one.
    *version = ready.version;
    match (ready.kind.as_str(), matching) {
        ("table", Some(matching)) => {
            let token = ready.token.clone();
            let got = rows.attempt(session.channel(), control, ready);
            Ok(Got::Rows(matching.beside(session.channel(), token, got).await?))
        }
        ("file", _) if work.out.as_os_str() == "-" => {
            let (en, zh) = ("files have no one stream: name a file or a folder with --out", "文件不能写到标准输出");
            Err(AgentError::Usage(Told::new("files_to_stdout", en, zh)))
        }
        ("file", None) => Ok(Got::Files(files.attempt(session.channel(), control, ready).await?)),
        ("table", None) => Ok(Got::Rows(rows.attempt(session.channel(), control, ready).await?)),
        (other, _) => {
            let shown: String = other.chars().take(20).collect();
            Err(peer(format!("an entry of an unknown kind: {shown:?}"), format!("未知的目录条目类型：{shown:?}")))
        }
    }
}

fn pull_of(transfer: TransferId, work: &PullWork, version: u64, mark: Bytes) -> Pull {
    Pull {
        transfer: transfer.to_string(),
        target: work.target.clone(),
        version,
        files: work.files.clone(),
        columns: work.columns.clone(),
        r#where: work.where_text.clone(),
        region: work.region.clone(),
        purpose: work.purpose.clone(),
        mark,
    }
}

/// Removes what is left of a transfer beside its output, whether it is done or given up. Blocks.
///
/// # Errors
/// What the disk says.
pub fn clean(disk: &dyn Disk, transfer: TransferId, out: &Path) -> Result<(), AgentError> {
    if out.as_os_str() == "-" {
        return Ok(());
    }
    let staged = staging_path(out, transfer);
    let removed = match disk.remove_dir_all(&staged) {
        // Rows are one file.
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => disk.remove(&staged),
        removed => removed,
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(AgentError::io("removing", &staged, &e)),
        _ => journal::remove_beside(disk, out, transfer)
            .map_err(|e| AgentError::io("removing what was kept of", out, &e)),
    }
}

/// Gives what is whole and durable as `from` the name `out`, durably. Where the sync fails it is taken back: who tries
/// again must not take it for durable because it is to be seen.
fn place(disk: &dyn Disk, from: &Path, out: &Path) -> io::Result<()> {
    disk.rename(from, out)?;
    disk.sync_dir(parent(out)).inspect_err(|_| {
        if let Err(error) = disk.rename(out, from) {
            tracing::warn!(out = %out.display(), %error, "a name that may not be durable could not be taken back");
        }
    })
}

/// As [`place`], for what an earlier process may have placed and not have lived to see durable.
fn place_again(disk: &dyn Disk, from: &Path, out: &Path) -> io::Result<()> {
    match (is_there(disk, from)?, is_there(disk, out)?) {
        (true, true) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists already")),
        (false, true) => {
            disk.rename(out, from)?;
            place(disk, from, out)
        }
        _ => place(disk, from, out),
    }
}

fn is_there(disk: &dyn Disk, path: &Path) -> io::Result<bool> {
    match disk.open(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::IsADirectory => Ok(true),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Where a transfer is put together before it is whole: beside `out`, so that a rename is all that is left to do.
fn staging_path(out: &Path, transfer: TransferId) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(format!(".partial-{transfer}"));
    out.with_file_name(name)
}

/// The folder that holds `path`'s name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

async fn refuse_existing(out: &Path) -> Result<(), AgentError> {
    let out = out.to_owned();
    blocking(move || {
        let usage = |en: String, zh: String| {
            let told = Told::new("out", en, zh).next("name another output", "请指定其他输出位置");
            AgentError::Usage(told)
        };
        let shown = out.display();
        if out.file_name().is_none() {
            return Err(usage(format!("{shown} has no name"), format!("{shown} 没有名称")));
        }
        match std::fs::symlink_metadata(&out) {
            Ok(_) => return Err(usage(format!("{shown} exists already"), format!("{shown} 已存在"))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(AgentError::io("looking at", &out, &e)),
        }
        let folder = parent(&out);
        if folder.is_dir() {
            return Ok(());
        }
        let folder = folder.display();
        Err(usage(format!("the folder {folder} does not exist"), format!("目录 {folder} 不存在")))
    })
    .await
}

#[cfg(test)]
mod tests;
