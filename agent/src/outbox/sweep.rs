//! What nobody comes back for goes: transfers that failed long ago, and what killed processes left.

use super::{FAILED_KEPT_MS, Outbox, Record, State, Work, replace};
use crate::error::AgentError;
use lingqu_protocol::ids::TransferId;
use std::io;

/// Between two sweeps, in milliseconds.
const SWEEP_EVERY_MS: i64 = 24 * 3600 * 1000;

/// Bytes of the file that says when the last one was: a number.
const SWEPT_BYTES_MAX: u64 = 64;

impl Outbox {
    /// Sweeps the outbox where the last time was a day ago. `clean` removes what a transfer left elsewhere. What cannot be
    /// removed is named in the log and left: no transfer fails for it.
    pub fn sweep_if_due(&self, clean: impl Fn(TransferId, &Work) -> Result<(), AgentError>) {
        let now = self.clock.wall().0;
        let last = self.swept_at().unwrap_or_else(|error| {
            tracing::warn!(%error, "when the outbox was last swept is not known");
            None
        });
        // A clock that was put back must not keep it from ever being swept again.
        if last.is_some_and(|last| (0..SWEEP_EVERY_MS).contains(&now.saturating_sub(last))) {
            return;
        }
        let swept = self.sweep(now, clean).and_then(|swept| {
            let path = self.folder.join(super::SWEPT);
            let noted = replace(&*self.disk, &path, now.to_string().as_bytes());
            noted.map_err(|e| AgentError::io("writing", &path, &e)).map(|()| swept)
        });
        match swept {
            Ok(0) => {}
            Ok(swept) => tracing::info!(transfers = swept, "removed transfers that failed long ago"),
            Err(error) => tracing::warn!(%error, "the outbox could not be swept"),
        }
    }

    fn sweep(
        &self,
        now: i64,
        clean: impl Fn(TransferId, &Work) -> Result<(), AgentError>,
    ) -> Result<usize, AgentError> {
        let names = self.disk.read_dir(&self.folder).map_err(|e| AgentError::io("listing", &self.folder, &e))?;
        let mut swept = 0;
        for name in names {
            let Some((id, ending)) = name.name.rsplit_once('.') else { continue };
            let Ok(id) = id.parse::<TransferId>() else { continue };
            let outcome = match ending {
                "json" => self.sweep_record(id, now, &clean).map(|gone| swept += usize::from(gone)),
                "lock" | "tmp" => self.sweep_leftover(id),
                _ => Ok(()),
            };
            if let Err(error) = outcome {
                tracing::warn!(transfer = %id, %error, "a transfer could not be swept");
            }
        }
        Ok(swept)
    }

    fn sweep_record(
        &self,
        id: TransferId,
        now: i64,
        clean: impl Fn(TransferId, &Work) -> Result<(), AgentError>,
    ) -> Result<bool, AgentError> {
        let is_over = |record: &Record| {
            let ended = record.ended_at.unwrap_or(record.created_at);
            matches!(record.state, State::Failed { .. }) && now.saturating_sub(ended) > FAILED_KEPT_MS
        };
        if !self.load(id)?.as_ref().is_some_and(is_over) {
            return Ok(false);
        }
        let hold = self.hold(id)?;
        // It may have been resumed in between.
        let Some(record) = self.load(id)?.filter(is_over) else { return Ok(false) };
        clean(id, &record.work)?;
        self.remove(&hold)?;
        Ok(true)
    }

    /// The lock's file and the half written record of a process that was killed.
    fn sweep_leftover(&self, id: TransferId) -> Result<(), AgentError> {
        if self.is_held(id)? {
            return Ok(());
        }
        let _hold = self.hold(id)?;
        let path = self.folder.join(format!("{id}.tmp"));
        match self.disk.remove(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(AgentError::io("removing", &path, &e)),
            _ => Ok(()),
        }
    }

    fn swept_at(&self) -> Result<Option<i64>, AgentError> {
        let text = self.read(&self.folder.join(super::SWEPT), SWEPT_BYTES_MAX)?;
        Ok(text.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok()))
    }
}
