//! Gives memory back to the system that was freed and is still kept.
//!
//! glibc gives back what lies at the end of a heap. After a large transfer that is nearly nothing: a few small things that
//! live on lie above tens of mebibytes of freed buffers, and a process that serves for months keeps the most that it ever
//! needed. One call gives back every free page. It is the only foreign call of this workspace, and the only thing here.

/// Gives back what was freed; says whether anything was. It takes the heaps' locks for some milliseconds, so it belongs
/// behind a large transfer and not into one. Where the C library is not glibc, nothing is done.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn give_back() -> bool {
    // SAFETY: malloc_trim(3) takes a number, no pointer, may be called at any time from any thread (MT-Safe), and touches
    // only pages that hold no allocation.
    let given = unsafe { libc::malloc_trim(0) };
    given == 1
}

/// The same for other C libraries: nothing.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() -> bool {
    false
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    /// Bytes of this process that are in memory.
    fn resident_bytes() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
    }

    #[test]
    fn what_lies_below_something_that_lives_on_is_given_back() {
        const BLOCKS: usize = 4_000;
        let blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|n| vec![n as u8 | 1; 16 << 10]).collect();
        let lives_on: Vec<Vec<u8>> = (0..BLOCKS).map(|n| vec![n as u8; 64]).collect();
        drop(blocks);
        let before = resident_bytes();
        assert!(give_back());
        let given = before.saturating_sub(resident_bytes());
        assert!(given > 32 << 20, "{given} bytes of 64 MiB");
        assert_eq!(lives_on.len(), BLOCKS);
    }
}
