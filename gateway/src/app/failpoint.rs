//! Named points at which kill tests end the process, as a power cut would: nothing is flushed, nobody is told.
//!
//! Armed by the environment (`LINGQU_FAILPOINT=NAME=N`: the N-th pass of NAME), which only who starts the process can set.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

struct Armed {
    name: String,
    left: AtomicU64,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// Arms what the environment says; once, at start.
pub fn arm(setting: Option<String>) {
    let armed = setting.and_then(|text| {
        let (name, count) = text.rsplit_once('=')?;
        let left = AtomicU64::new(count.parse().ok()?);
        tracing::warn!(name, count, "a failpoint is armed: this process will abort there");
        Some(Armed { name: name.to_owned(), left })
    });
    // A second call changes nothing: the first one was the start.
    let _ = ARMED.set(armed);
}

/// Passes the point `name`.
pub fn pass(name: &str) {
    if let Some(Some(armed)) = ARMED.get()
        && armed.name == name
        && armed.left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        std::process::abort();
    }
}
