//! What a flow waits for, for whoever wonders why it does not move. Counted where it waits; a watcher reads it.

use std::sync::atomic::{AtomicU32, Ordering};

/// What a flow can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Room in the receiver's window: its reader holds it up, or the line.
    Reader,
    /// Memory that other transfers hold.
    Memory,
}

/// How many of a flow's streams wait for what.
#[derive(Debug, Default)]
pub struct Waits {
    reader: AtomicU32,
    memory: AtomicU32,
}

/// One stream that waits; dropped, it does not any more.
#[derive(Debug)]
pub struct Waiting<'a>(&'a AtomicU32);

impl Waits {
    /// Counts a stream that begins to wait.
    pub fn begin(&self, what: Wait) -> Waiting<'_> {
        let count = match what {
            Wait::Reader => &self.reader,
            Wait::Memory => &self.memory,
        };
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }

    /// What the flow waits for, where one of its streams does; memory first, for that is ours.
    pub fn now(&self) -> Option<Wait> {
        let any = |count: &AtomicU32| count.load(Ordering::Relaxed) > 0;
        if any(&self.memory) { Some(Wait::Memory) } else { any(&self.reader).then_some(Wait::Reader) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_is_not_waited_for() {
        let waits = Waits::default();
        assert_eq!(waits.now(), None);
        let reader = waits.begin(Wait::Reader);
        let memory = waits.begin(Wait::Memory);
        assert_eq!(waits.now(), Some(Wait::Memory));
        drop(memory);
        assert_eq!(waits.now(), Some(Wait::Reader));
        drop(reader);
        assert_eq!(waits.now(), None);
    }
}
