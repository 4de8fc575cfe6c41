//! Reading the manifest of a pull: a peer's names and sizes, each checked before anything is made of them.

use crate::error::{AgentError, Told};
use crate::transfer::peer;
use lingqu_protocol::digest::{Algorithm, Digest};
use lingqu_protocol::fileset::FileEntry;
use lingqu_protocol::frame::Event;
use lingqu_protocol::name::{FileName, NameSet, escape_for_log};
use lingqu_protocol::plan::{Plan, SET_FILES_MAX};
use lingqu_protocol::session::{FrameReader, SessionError, event_name};
use lingqu_protocol::stream::RecvHalf;
use lingqu_protocol::wire::reply::Reply;
use lingqu_protocol::wire::{self, ManifestFile, ManifestPart, PullReady};

/// The files of a set in order, and the plan that both sides make of their sizes.
pub(super) async fn read<R: RecvHalf>(
    reader: &mut FrameReader<R>,
    ready: &PullReady,
) -> Result<(Vec<FileEntry>, Plan), AgentError> {
    let count = ready.files as usize;
    if count > SET_FILES_MAX {
        return Err(peer(format!("a set of {count} files"), format!("文件集合包含 {count} 个文件，超出上限")));
    }
    let mut files: Vec<FileEntry> = Vec::new();
    let mut names = NameSet::new();
    while files.len() < count {
        let part: ManifestPart = match reader.next().await? {
            Some(Event::Manifest(body)) => wire::decode(body).map_err(SessionError::from)?,
            Some(Event::Control(body)) => {
                let reply: wire::Reply = wire::decode(body).map_err(SessionError::from)?;
                match reply.reply {
                    Some(Reply::Fault(fault)) => return Err(AgentError::Refused(Box::new(fault))),
                    Some(Reply::Progress(_)) => continue,
                    _ => return Err(other("a control message")),
                }
            }
            None => return Err(SessionError::Incomplete.into()),
            event => return Err(other(event_name(event.as_ref()))),
        };
        for file in part.files {
            if files.len() >= count {
                return Err(peer("more files than were announced", "文件数多于所宣布的数量"));
            }
            files.push(checked(file, files.last(), &mut names)?);
        }
    }
    let bad = |e: &dyn std::fmt::Display| peer(format!("a set that cannot be: {e}"), format!("文件集合不合法：{e}"));
    let plan = Plan::new(files.iter().map(|f| f.bytes).collect()).map_err(|e| bad(&e))?;
    if plan.bytes() == ready.bytes { Ok((files, plan)) } else { Err(bad(&"its sizes do not add up")) }
}

fn checked(file: ManifestFile, last: Option<&FileEntry>, names: &mut NameSet) -> Result<FileEntry, AgentError> {
    let name = FileName::parse(&file.name).map_err(|e| bad_name(&file.name, &e.to_string()))?;
    if last.is_some_and(|last| last.name.as_bytes() >= file.name.as_bytes()) {
        return Err(bad_name(&file.name, "it is out of order"));
    }
    names.insert(&name).map_err(|e| bad_name(&file.name, &e.to_string()))?;
    let bytes = <[u8; 32]>::try_from(&file.root[..]).map_err(|_| bad_name(&file.name, "it has no hash"))?;
    Ok(FileEntry { name: file.name, bytes: file.bytes, root: Digest { algorithm: Algorithm::Blake3, bytes } })
}

/// A name that would be dangerous to write. Nothing was written.
fn bad_name(name: &str, why: &str) -> AgentError {
    let name = escape_for_log(name);
    AgentError::Peer(
        Told::new(
            "file_name",
            format!("the gateway named a file that is refused: {name}: {why}"),
            format!("网关给出的文件名被拒绝：{name}：{why}"),
        )
        .next("tell the gateway's operator", "请告知网关运维人员"),
    )
}

fn other(got: &'static str) -> AgentError {
    SessionError::Unexpected { expected: "a manifest", got }.into()
}
