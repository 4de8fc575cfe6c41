//! What happened when inside a gateway, for a benchmark that looks at it from outside: datagrams handed to the socket,
//! streams that were reset, pieces of data that were begun. Nobody listens unless the process was started for that, and
//! then the cost is one load of a flag.
//!
//! Times are of CLOCK_MONOTONIC, which is the same for every process of a machine.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Between two rounds of writing down.
const WRITE_EVERY: Duration = Duration::from_millis(50);

/// Moments that are kept between two rounds: some seconds of a full line; what is more is lost, and said.
const KEPT_MAX: usize = 1 << 20;

static NOTED: OnceLock<Mutex<Vec<(u64, Moment)>>> = OnceLock::new();

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A send of one or more datagrams returned.
    Sent {
        /// Where to.
        to: SocketAddr,
        /// Bytes of all of them.
        bytes: usize,
    },
    /// The socket had no room: what was to be sent waits, and leaves later as it is.
    Full,
    /// A stream was reset.
    Reset {
        /// On the connection to this peer.
        to: SocketAddr,
    },
    /// A piece of a transfer's data was begun to be handed over, or to be stored.
    Begun,
    /// A stop was accepted.
    Accepted,
}

/// Starts to note moments, and to write them to `file`, one a line.
///
/// # Errors
/// What the system says of the file, or of the thread that writes.
pub fn listen(file: &Path) -> io::Result<()> {
    let mut file = File::create(file)?;
    let noted = NOTED.get_or_init(|| Mutex::new(Vec::new()));
    std::thread::Builder::new().name("moments".to_owned()).spawn(move || {
        loop {
            std::thread::sleep(WRITE_EVERY);
            let taken = std::mem::take(&mut *noted.lock().unwrap_or_else(PoisonError::into_inner));
            let text = taken.iter().fold(String::new(), |mut text, (at, moment)| {
                line(&mut text, *at, *moment);
                text
            });
            let lost = taken.len() >= KEPT_MAX;
            if file.write_all(text.as_bytes()).is_err() || lost {
                tracing::error!(lost, "moments could not be kept; no more are noted");
                return;
            }
        }
    })?;
    Ok(())
}

/// Whether somebody listens.
pub fn are_noted() -> bool {
    NOTED.get().is_some()
}

/// Notes a moment, where somebody listens.
pub fn note(moment: impl FnOnce() -> Moment) {
    let Some(noted) = NOTED.get() else { return };
    let (at, moment) = (now_ns(), moment());
    let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
    if noted.len() < KEPT_MAX {
        noted.push((at, moment));
    }
}

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

fn line(text: &mut String, at: u64, moment: Moment) {
    // Writing to a string does not fail.
    let _ = match moment {
        Moment::Sent { to, bytes } => writeln!(text, "{at} sent {to} {bytes}"),
        Moment::Full => writeln!(text, "{at} full"),
        Moment::Reset { to } => writeln!(text, "{at} reset {to}"),
        Moment::Begun => writeln!(text, "{at} begun"),
        Moment::Accepted => writeln!(text, "{at} accepted"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_each() {
        let mut text = String::new();
        let to = SocketAddr::from(([127, 0, 0, 1], 7));
        let sent = Moment::Sent { to, bytes: 9 };
        for moment in [sent, Moment::Full, Moment::Reset { to }, Moment::Begun, Moment::Accepted] {
            line(&mut text, 5, moment);
        }
        assert_eq!(text, "5 sent 127.0.0.1:7 9\n5 full\n5 reset 127.0.0.1:7\n5 begun\n5 accepted\n");
        assert!(now_ns() <= now_ns());
    }
}
