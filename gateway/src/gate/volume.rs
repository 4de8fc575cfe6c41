//! Volume limits of grants. Bytes are reserved in blocks before they are sent, so that parallel pulls together cannot
//! exceed what was approved; what was reserved and not sent is given back.

use lingqu_protocol::ids::GrantId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What was used of one grant.
#[derive(Debug)]
pub struct Volume(Mutex<Account>);

#[derive(Clone, Copy, Debug)]
struct Account {
    bytes_max: Option<u64>,
    used_bytes: u64,
}

impl Volume {
    /// Takes up to `bytes`; less, or nothing, where the grant has no more.
    pub fn reserve(&self, bytes: u64) -> u64 {
        let mut account = self.lock();
        let left = account.bytes_max.map_or(u64::MAX, |max| max.saturating_sub(account.used_bytes));
        let taken = bytes.min(left);
        account.used_bytes = account.used_bytes.saturating_add(taken);
        taken
    }

    /// Gives back what was reserved and not sent.
    pub fn release(&self, bytes: u64) {
        let mut account = self.lock();
        account.used_bytes = account.used_bytes.saturating_sub(bytes);
    }

    /// Bytes that count as used now, reserved ones among them.
    pub fn used_bytes(&self) -> u64 {
        self.lock().used_bytes
    }

    /// Whether nothing is left of the grant's volume.
    pub fn is_spent(&self) -> bool {
        let account = self.lock();
        account.bytes_max.is_some_and(|max| account.used_bytes >= max)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
pub(super) struct VolumeBook(Mutex<HashMap<GrantId, Arc<Volume>>>);

impl VolumeBook {
    /// The one account of a grant; an amended limit is in force for flows that run, too.
    pub(super) fn of(&self, grant: GrantId, bytes_max: Option<u64>) -> Arc<Volume> {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let volume =
            book.entry(grant).or_insert_with(|| Arc::new(Volume(Mutex::new(Account { bytes_max, used_bytes: 0 }))));
        volume.lock().bytes_max = bytes_max;
        Arc::clone(volume)
    }

    pub(super) fn restore(&self, grant: GrantId, used_bytes: u64) {
        self.of(grant, None).lock().used_bytes = used_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parallel_reservations_never_exceed_the_limit() {
        let book = VolumeBook::default();
        let volume = book.of(GrantId::from_bits(1), Some(1_000));
        let taken: u64 = std::thread::scope(|scope| {
            let takers: Vec<_> =
                (0..8).map(|_| scope.spawn(|| (0..100).map(|_| volume.reserve(7)).sum::<u64>())).collect();
            takers.into_iter().map(|t| t.join().unwrap_or(0)).sum()
        });
        assert_eq!(taken, 1_000, "all of it, and not a byte more");
        assert_eq!(volume.reserve(1), 0);
        volume.release(10);
        assert_eq!(volume.reserve(100), 10);
    }

    #[test]
    fn what_was_used_outlives_a_restart_and_an_amended_limit() {
        let book = VolumeBook::default();
        book.restore(GrantId::from_bits(1), 900);
        assert_eq!(book.of(GrantId::from_bits(1), Some(1_000)).reserve(500), 100);
        assert_eq!(book.of(GrantId::from_bits(1), Some(1_200)).reserve(500), 200);
        assert_eq!(book.of(GrantId::from_bits(2), None).reserve(u64::MAX), u64::MAX);
    }
}
