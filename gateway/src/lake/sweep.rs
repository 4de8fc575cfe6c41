//! Removes what no version and no transfer under way needs any more.

use super::error::LakeError;
use super::manifest::TABLES;
use super::segment::FILES;
use super::store::Lake;
use futures::TryStreamExt;
use lingqu_protocol::ids::TransferId;
use object_store::path::Path;
use std::collections::HashMap;
use std::time::Duration;

/// Finds orphans and removes those that stay orphans.
///
/// An object store's times of change are not believed (a clock may have jumped, a copy may have been restored): what
/// counts is how long this process has seen a transfer's objects without an owner.
#[derive(Debug)]
pub struct Sweeper {
    lake: Lake,
    age_min: Duration,
    seen: HashMap<Path, Duration>,
}

impl Sweeper {
    /// Removes orphans that were seen for at least `age_min`.
    pub fn new(lake: Lake, age_min: Duration) -> Self {
        Self { lake, age_min, seen: HashMap::new() }
    }

    /// One round, at monotonic time `now`. `live` says whether a transfer is under way, or is named by a version that is
    /// kept (also as the source of one of its parts). Gives the transfers whose objects were removed.
    ///
    /// # Errors
    /// The store failed; the next round goes on.
    pub async fn sweep(
        &mut self,
        now: Duration,
        live: impl Fn(TransferId) -> bool,
    ) -> Result<Vec<TransferId>, LakeError> {
        let (mut seen, mut removed) = (HashMap::new(), Vec::new());
        for prefix in [FILES, TABLES] {
            for directory in self.lake.directories(&Path::from(prefix)).await? {
                // What no transfer has named is not ours to remove.
                let id = directory.filename().and_then(|name| name.parse::<TransferId>().ok());
                let Some(id) = id.filter(|id| !live(*id)) else { continue };
                let since = self.seen.get(&directory).copied().unwrap_or(now);
                if now.saturating_sub(since) < self.age_min {
                    seen.insert(directory, since);
                    continue;
                }
                // A directory without objects may stay until the next start, and is nothing to report.
                if self.lake.list(&directory).try_next().await?.is_some() {
                    self.lake.remove_all(&directory).await?;
                    removed.push(id);
                }
            }
        }
        self.seen = seen;
        Ok(removed)
    }
}
