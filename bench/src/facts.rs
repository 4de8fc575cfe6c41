//! Facts about the machine that a figure was measured on: without them it says nothing.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The machine, as one JSON document. What cannot be found out is null.
pub fn machine(dir: &Path) -> Value {
    json!({
        "cpu": first_value("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().map(usize::from).ok(),
        "memory_bytes": first_value("/proc/meminfo", "MemTotal").and_then(|text| kib(&text)),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned()),
        "socket_receive_bytes_max": number("/proc/sys/net/core/rmem_max"),
        "socket_send_bytes_max": number("/proc/sys/net/core/wmem_max"),
        "file_system": file_system(dir),
    })
}

/// The commit that the sources are at, with `-dirty` where they were changed since; null outside a git work tree.
pub fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let out = Command::new("git").args(args).output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"])?;
    let changed = git(&["status", "--porcelain"]).is_some_and(|text| !text.is_empty());
    Some(if changed { format!("{commit}-dirty") } else { commit })
}

fn first_value(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let (_, value) = text.lines().find(|line| line.starts_with(key))?.split_once(':')?;
    Some(value.trim().to_owned())
}

fn kib(text: &str) -> Option<u64> {
    Some(text.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn number(file: &str) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The type of the file system that `dir` lies on: the longest mount point above it.
fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let of = |line: &str| {
        let mut fields = line.split(' ');
        let point = fields.nth(1)?.to_owned();
        let kind = fields.next()?.to_owned();
        dir.starts_with(&point).then_some((point.len(), kind))
    };
    mounts.lines().filter_map(of).max().map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_that_every_linux_has_are_there() {
        let facts = machine(Path::new("/tmp"));
        for key in ["cores", "memory_bytes", "kernel", "file_system"] {
            assert!(!facts[key].is_null(), "{key}: {facts}");
        }
    }
}
