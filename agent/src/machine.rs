//! The machine as this program sees it: handed in by the composition root, so that tests hand in another.

use lingqu_protocol::host::{Clock, Disk, Entropy};
use std::fmt;
use std::sync::Arc;

/// Clock, entropy and disk. Cheap to clone.
#[derive(Clone)]
pub struct Machine {
    /// Both clocks.
    pub clock: Arc<dyn Clock>,
    /// Unpredictable bytes.
    pub entropy: Arc<dyn Entropy>,
    /// The disk with the profile and the outputs.
    pub disk: Arc<dyn Disk>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Machine")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use lingqu_certs::os::{OsDisk, OsEntropy, SystemClock};

    pub(crate) fn real() -> Machine {
        Machine { clock: Arc::new(SystemClock::new()), entropy: Arc::new(OsEntropy::new()), disk: Arc::new(OsDisk) }
    }
}
