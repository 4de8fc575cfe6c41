//! Named points at which tests end the process, as a power cut would (nothing is flushed, nobody is told), or hold it
//! still until something else has happened.
//!
//! Armed by the environment, which only who starts the process can set: `LINGQU_FAILPOINT=NAME=N` ends it at the N-th pass of
//! NAME; `NAME=N:FILE` makes `FILE.reached` there and goes on once FILE exists. A point that holds keeps its thread, as a
//! page fault on a slow disk does: the rest of the process goes on.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Between two looks for the file that lets a held point go on.
const LOOK_EVERY: Duration = Duration::from_millis(2);

struct Armed {
    name: String,
    left: AtomicU64,
    until: Option<PathBuf>,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// Arms what the environment says; once, at start.
pub fn arm(setting: Option<String>) {
    let armed = setting.as_deref().and_then(parse);
    if let Some(armed) = &armed {
        let until = armed.until.as_deref().map(Path::display).map(|path| path.to_string());
        tracing::warn!(name = armed.name, until, "a failpoint is armed: this process will abort or wait there");
    }
    // A second call changes nothing: the first one was the start.
    let _ = ARMED.set(armed);
}

/// Passes the point `name`.
pub fn pass(name: &str) {
    if let Some(Some(armed)) = ARMED.get()
        && armed.name == name
        && armed.left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        match &armed.until {
            Some(file) => hold(file),
            None => std::process::abort(),
        }
    }
}

fn parse(text: &str) -> Option<Armed> {
    let (name, rest) = text.split_once('=')?;
    let (count, until) = rest.split_once(':').map_or((rest, None), |(count, file)| (count, Some(file.into())));
    Some(Armed { name: name.to_owned(), left: AtomicU64::new(count.parse().ok()?), until })
}

fn hold(file: &Path) {
    if let Err(error) = std::fs::write(file.with_extension("reached"), b"") {
        tracing::error!(%error, "nobody can see that the failpoint was reached");
    }
    while !file.exists() {
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let read = |text| parse(text).map(|a| (a.name, a.left.into_inner(), a.until));
        assert_eq!(read("push.before_commit=3"), Some(("push.before_commit".into(), 3, None)));
        assert_eq!(read("pull.piece=2:/tmp/a:b=c"), Some(("pull.piece".into(), 2, Some("/tmp/a:b=c".into()))));
        assert!(read("x").is_none() && read("x=y").is_none());
    }

    #[test]
    fn a_held_point_goes_on_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("go");
        let held = std::thread::spawn({
            let file = file.clone();
            move || hold(&file)
        });
        while !dir.path().join("go.reached").exists() {
            std::thread::yield_now();
        }
        assert!(!held.is_finished());
        std::fs::write(&file, b"").unwrap();
        held.join().unwrap();
    }
}
