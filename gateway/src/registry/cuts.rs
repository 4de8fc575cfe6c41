//! Cuts whose commit failed: kept apart from the state until they are recorded or lifted.

use super::error::RegistryError;
use super::service::Registry;
use super::stop::{Selector, Stop};

impl Registry {
    /// Records the cuts that an earlier process could not record, as stops. Called once, after [`Self::load`] and before
    /// the gate opens.
    ///
    /// # Errors
    /// A cut that cannot be recorded now either: a gateway that does not know what was cut does not serve.
    pub async fn record_cuts(&self) -> Result<(), RegistryError> {
        for cut in self.cuts.all() {
            tracing::warn!(what = %cut.selector, since = %cut.since, "recording a cut that could not be recorded before");
            self.stop(&cut.selector, &cut.reason).await?;
        }
        Ok(())
    }

    /// After a cut acted: forgets it where it was recorded, and keeps it where that failed for no fault of the caller's.
    pub(super) fn cut_recorded<T>(&self, done: Result<T, RegistryError>, cut: Stop) -> Result<T, RegistryError> {
        match done {
            Ok(done) => {
                self.forget_cut(&cut.selector);
                Ok(done)
            }
            Err(refused @ RegistryError::Refused(_)) => Err(refused),
            Err(cause) => {
                let what = cut.selector.to_string();
                if let Err(error) = self.cuts.keep(cut) {
                    tracing::error!(%what, %error, "a cut could not be kept: it holds until this process ends");
                }
                Err(RegistryError::Unrecorded { what, cause: Box::new(cause) })
            }
        }
    }

    /// Whether this was cut and not recorded.
    pub(super) fn is_kept(&self, selector: &Selector) -> bool {
        self.cuts.all().iter().any(|cut| cut.selector == *selector)
    }

    pub(super) fn forget_cut(&self, selector: &Selector) {
        if let Err(error) = self.cuts.forget(selector) {
            tracing::error!(what = %selector, %error, "a cut stays kept: the next start stops it again");
        }
    }
}
