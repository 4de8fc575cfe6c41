//! Cuts that acted and could not be recorded: a small file beside the state, so that they hold over a restart too.
//!
//! Its room is taken when the gateway starts and written over in place, because a full disk is the likeliest reason why a
//! commit failed. One JSON line a cut, then blanks. A file that cannot be read is not served from: what it said is unknown.

use super::FolderError;
use crate::registry::port::Cuts;
use crate::registry::stop::Stop;
use lingqu_protocol::host::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Bytes of the file: some cuts with the longest reasons, and as many with short ones as an operator types while a disk is
/// full.
const FILE_BYTES: usize = 64 * 1024;

/// The file of a gateway's folder. The caller holds the folder's lock.
#[derive(Debug)]
pub struct CutsFile {
    path: PathBuf,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    stops: Vec<Stop>,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    selector: String,
    reason: String,
    since: i64,
}

impl CutsFile {
    /// Opens the file, and takes its room where there is none yet.
    ///
    /// # Errors
    /// What the system says; [`FolderError::Cuts`] where it cannot be read.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let failed = |source| FolderError::Io { what: format!("opening {}", path.display()), source };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(failed)?;
        let bytes = lingqu_certs::os::read_bounded(path, FILE_BYTES as u64).map_err(failed)?;
        let unreadable = |why: String| FolderError::Cuts { file: path.display().to_string(), why };
        let text = String::from_utf8(bytes).map_err(|e| unreadable(e.to_string()))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let stops = lines.map(|line| read(line).map_err(unreadable)).collect::<Result<Vec<_>, _>>()?;
        write(&file, &stops).map_err(failed)?;
        // Its name must be there after a power loss, too.
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all()).map_err(failed)?;
        Ok(Self { path: path.to_owned(), open: Mutex::new(Open { file, stops }) })
    }

    fn replace(&self, change: impl FnOnce(&mut Vec<Stop>)) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stops = open.stops.clone();
        change(&mut stops);
        if stops == open.stops {
            return Ok(());
        }
        // Whatever becomes of the write, this process knows what it cut.
        open.stops = stops;
        write(&open.file, &open.stops).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", self.path.display())))
    }
}

impl Cuts for CutsFile {
    fn all(&self) -> Vec<Stop> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).stops.clone()
    }

    fn keep(&self, stop: Stop) -> io::Result<()> {
        self.replace(|stops| {
            if !stops.iter().any(|kept| kept.selector == stop.selector) {
                stops.push(stop);
            }
        })
    }

    fn forget(&self, stop: &crate::registry::stop::Selector) -> io::Result<()> {
        self.replace(|stops| stops.retain(|kept| kept.selector != *stop))
    }
}

fn read(line: &str) -> Result<Stop, String> {
    let line: Line = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let selector = line.selector.parse().map_err(|e| format!("{:?}: {e}", line.selector))?;
    Ok(Stop { selector, reason: line.reason, by_rule: None, since: Timestamp(line.since) })
}

fn write(file: &File, stops: &[Stop]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(FILE_BYTES);
    for Stop { selector, reason, since, .. } in stops {
        let line = Line { selector: selector.to_string(), reason: reason.clone(), since: since.0 };
        serde_json::to_writer(&mut bytes, &line)?;
        bytes.push(b'\n');
    }
    if bytes.len() > FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "no room for one more cut"));
    }
    bytes.resize(FILE_BYTES, b' ');
    file.write_all_at(&bytes, 0)?;
    file.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::registry::stop::Selector;

    fn stop(selector: &str, reason: &str) -> Stop {
        Stop { selector: selector.parse().unwrap(), reason: reason.into(), by_rule: None, since: Timestamp(7) }
    }

    #[test]
    fn cuts_are_there_again_and_the_file_never_grows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cuts");
        let agent = stop("agent:91350100M000100Y43/main", "设备遗失\n第二行");
        let cuts = CutsFile::open(&path).unwrap();
        assert!(cuts.all().is_empty());
        cuts.keep(agent.clone()).unwrap();
        cuts.keep(stop("all", "事故")).unwrap();
        cuts.keep(stop("all", "again")).unwrap();
        let again = CutsFile::open(&path).unwrap();
        assert_eq!(again.all(), [agent, stop("all", "事故")], "the first reason stands");
        again.forget(&Selector::All).unwrap();
        assert_eq!(CutsFile::open(&path).unwrap().all().len(), 1);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), FILE_BYTES as u64);
        let long = "长".repeat(FILE_BYTES);
        assert!(again.keep(stop("all", &long)).is_err());
        assert_eq!(again.all().len(), 2, "this process knows");
        assert_eq!(CutsFile::open(&path).unwrap().all().len(), 1, "what was there is whole");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_taken_for_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cuts");
        let too_long = vec![b' '; FILE_BYTES + 1];
        for bytes in [&b"{"[..], b"{\"selector\":\"all\"}", b"\xff", &too_long] {
            std::fs::write(&path, bytes).unwrap();
            assert!(CutsFile::open(&path).is_err());
        }
        let other = br#"{"selector":"everything","reason":"r","since":1}"#;
        std::fs::write(&path, other).unwrap();
        assert!(matches!(CutsFile::open(&path), Err(FolderError::Cuts { .. })));
    }
}
