//! Which files a push means, and what they are called in the set.

use crate::batch::FileFormat;
use crate::error::{AgentError, Told};
use crate::outbox::SourceFile;
use lingqu_protocol::name::{FileName, NameSet, escape_for_log};
use lingqu_protocol::plan::SET_FILES_MAX;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Directories within directories: what a name in a set allows.
const DEPTH_MAX: usize = 32;

/// What matters about a file before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its length.
    pub bytes: u64,
    /// When it was last changed, nanoseconds since 1970 UTC.
    pub modified_ns: i64,
}

/// Length and time of a file.
///
/// # Errors
/// What the system says.
pub fn stat(path: &Path) -> io::Result<Stat> {
    of(&std::fs::symlink_metadata(path)?)
}

fn of(meta: &Metadata) -> io::Result<Stat> {
    let ns = |d: std::time::Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    let modified_ns = match meta.modified()?.duration_since(UNIX_EPOCH) {
        Ok(since) => ns(since),
        Err(before) => -ns(before.duration()),
    };
    Ok(Stat { bytes: meta.len(), modified_ns })
}

/// The files that `paths` mean, in ascending order of the bytes of their names. A directory gives all files below it,
/// named by their path from it; a file is named by its last component. Symbolic links are not followed. A folder that holds
/// nothing is no file: it is named in the log and not sent.
///
/// # Errors
/// A path that cannot be read, is a link or no file, or whose name cannot travel; two of the same name, or of names that
/// are the same on other systems; none or too many.
pub fn collect(paths: &[PathBuf]) -> Result<Vec<SourceFile>, AgentError> {
    let mut files = Vec::new();
    for path in paths {
        let meta = std::fs::symlink_metadata(path).map_err(|e| AgentError::input(path, &e))?;
        if meta.is_dir() {
            walk(path, "", 0, &mut files)?;
        } else {
            let name = path.file_name().ok_or_else(|| bad(path, "it has no name", "没有文件名"))?;
            add(path.clone(), name.to_str(), &meta, &mut files)?;
        }
    }
    if files.is_empty() {
        let told = Told::new("file_set", "there is no file to send", "没有可发送的文件");
        return Err(AgentError::Usage(told.next("name at least one file", "请至少给出一个文件")));
    }
    files.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    let mut names = NameSet::new();
    for file in &files {
        let name = FileName::parse(&file.name).map_err(|e| bad(&file.path, &e.to_string(), &e.to_string()))?;
        names.insert(&name).map_err(|e| bad(&file.path, &e.to_string(), &e.to_string()))?;
    }
    Ok(files)
}

/// The files of rows that `paths` mean, in the order given; a directory gives all files below it in ascending order of
/// the bytes of their names, but for those whose names begin with a dot or an underscore, which programs leave beside
/// their data. Formats may be mixed.
///
/// # Errors
/// A path that cannot be read, or is no regular file; a file in no format that is read; none or too many.
pub fn collect_rows(paths: &[PathBuf]) -> Result<Vec<SourceFile>, AgentError> {
    let mut files = Vec::new();
    for path in paths {
        let meta = std::fs::symlink_metadata(path).map_err(|e| AgentError::input(path, &e))?;
        if meta.is_dir() {
            let mut below = Vec::new();
            walk(path, "", 0, &mut below)?;
            below.retain(|file| !file.name.split('/').any(|part| part.starts_with(['.', '_'])));
            below.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
            files.append(&mut below);
        } else {
            add(path.clone(), path.file_name().and_then(|n| n.to_str()), &meta, &mut files)?;
        }
    }
    if files.is_empty() {
        let told = Told::new("file_set", "there is no file of rows to send", "没有可发送的数据文件");
        return Err(AgentError::Usage(told.next("name at least one file", "请至少给出一个文件")));
    }
    if let Some(file) = files.iter().find(|file| FileFormat::of(&file.path).is_none()) {
        let en = "it ends in none of .parquet .csv .tsv .txt .arrow .jsonl .xlsx";
        return Err(bad(&file.path, en, "扩展名不是 .parquet、.csv、.tsv、.txt、.arrow、.jsonl 或 .xlsx"));
    }
    Ok(files)
}

fn walk(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<SourceFile>) -> Result<(), AgentError> {
    if depth >= DEPTH_MAX {
        return Err(bad(folder, "it lies too deep", "目录层级过深"));
    }
    let failed = |e: io::Error| AgentError::input(folder, &e);
    let mut is_empty = true;
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        is_empty = false;
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| not_utf8(&path))?;
        let name = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        let meta = std::fs::symlink_metadata(&path).map_err(|e| AgentError::input(&path, &e))?;
        if meta.is_dir() {
            walk(&path, &name, depth + 1, files)?;
        } else {
            add(path, Some(&name), &meta, files)?;
        }
    }
    if is_empty {
        // A set is of files; that there was a folder is not in its digest, so it is not sent and made up there.
        tracing::warn!(folder = %escape_for_log(&folder.to_string_lossy()), "an empty folder is not sent");
    }
    Ok(())
}

fn add(path: PathBuf, name: Option<&str>, meta: &Metadata, files: &mut Vec<SourceFile>) -> Result<(), AgentError> {
    let name = name.ok_or_else(|| not_utf8(&path))?.to_owned();
    if meta.is_symlink() {
        return Err(bad(&path, "it is a symbolic link, and links are not followed", "是符号链接，不予跟随"));
    }
    if !meta.is_file() {
        return Err(bad(&path, "it is not a regular file", "不是普通文件"));
    }
    if files.len() >= SET_FILES_MAX {
        let en = format!("one transfer takes at most {SET_FILES_MAX} files");
        return Err(bad(&path, &en, &format!("一次传输最多 {SET_FILES_MAX} 个文件")));
    }
    let Stat { bytes, modified_ns } = of(meta).map_err(|e| AgentError::input(&path, &e))?;
    files.push(SourceFile { name, path, bytes, modified_ns });
    Ok(())
}

fn not_utf8(path: &Path) -> AgentError {
    bad(path, "its name is not UTF-8", "文件名不是 UTF-8 编码")
}

fn bad(path: &Path, en: &str, zh: &str) -> AgentError {
    let shown = escape_for_log(&path.to_string_lossy());
    let told = Told::new("file_set", format!("{shown} cannot be sent: {en}"), format!("{shown} 无法发送：{zh}"));
    AgentError::Usage(told.next("rename it, or leave it out", "请改名或排除该文件"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn names(files: &[SourceFile]) -> Vec<&str> {
        files.iter().map(|f| f.name.as_str()).collect()
    }

    #[test]
    fn a_directory_keeps_its_tree_and_names_ascend() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("b/c")).unwrap();
        for name in ["b/c/1", "b/2", "b.txt", "空"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let single = dir.path().join("b.txt");
        let files = collect(&[dir.path().to_owned()]).unwrap();
        assert_eq!(names(&files), ["b.txt", "b/2", "b/c/1", "空"]);
        assert_eq!(files[0].bytes, 5);
        assert_eq!(names(&collect(std::slice::from_ref(&single)).unwrap()), ["b.txt"]);
        assert_eq!(collect(&[single.clone(), single]).unwrap_err().exit_code(), 2, "the same name twice");
    }

    #[test]
    fn what_cannot_travel_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(collect(&[dir.path().to_owned()]).unwrap_err().exit_code(), 2, "nothing there");
        assert_eq!(collect(&[dir.path().join("none")]).unwrap_err().exit_code(), 2);
        std::fs::write(dir.path().join("a"), "x").unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let error = collect(&[dir.path().to_owned()]).unwrap_err().to_string();
        assert!(error.contains("link") && error.contains("symbolic"), "{error}");
        std::fs::remove_file(dir.path().join("link")).unwrap();
        std::fs::write(dir.path().join("A"), "x").unwrap();
        assert_eq!(collect(&[dir.path().to_owned()]).unwrap_err().exit_code(), 2, "equal but for case");
    }
}
