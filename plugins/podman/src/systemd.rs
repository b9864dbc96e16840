//! Units of this host, over D-Bus, or as a test likes them.

use connect_migrator_sdk::StepError;
pub use connect_migrator_units::{Status, Systemd};
use std::time::Duration;

/// What the step needs of systemd.
pub trait Units: Send + Sync {
    /// A unit as it is now.
    ///
    /// # Errors
    /// When systemd does not say.
    fn status(&self, unit: &str) -> impl Future<Output = Result<Status, StepError>> + Send;
    /// Starts it, and waits until that is done.
    ///
    /// # Errors
    /// When the job does not end well.
    fn start(&self, unit: &str, limit: Duration) -> impl Future<Output = Result<(), StepError>> + Send;
    /// Stops it, and waits until that is done.
    ///
    /// # Errors
    /// When the job does not end well.
    fn stop(&self, unit: &str, limit: Duration) -> impl Future<Output = Result<(), StepError>> + Send;
    /// Reads all unit files again.
    ///
    /// # Errors
    /// When systemd does not.
    fn reload(&self) -> impl Future<Output = Result<(), StepError>> + Send;
    /// Lets it start with the machine.
    ///
    /// # Errors
    /// When it cannot.
    fn enable(&self, unit: &str) -> impl Future<Output = Result<(), StepError>> + Send;
    /// Lets it no longer start with the machine, and forgets that it failed.
    ///
    /// # Errors
    /// When it cannot.
    fn disable(&self, unit: &str) -> impl Future<Output = Result<(), StepError>> + Send;
    /// The last lines that it printed; empty when there are none, or they cannot be read.
    fn last_lines(&self, unit: &str) -> impl Future<Output = Vec<String>> + Send;
}

impl Units for Systemd {
    async fn status(&self, unit: &str) -> Result<Status, StepError> {
        Ok(Systemd::status(self, unit).await?)
    }

    async fn start(&self, unit: &str, limit: Duration) -> Result<(), StepError> {
        Ok(Systemd::start(self, unit, limit).await?)
    }

    async fn stop(&self, unit: &str, limit: Duration) -> Result<(), StepError> {
        Ok(Systemd::stop(self, unit, limit).await?)
    }

    async fn reload(&self) -> Result<(), StepError> {
        Ok(self.read_units().await?)
    }

    async fn enable(&self, unit: &str) -> Result<(), StepError> {
        Ok(Systemd::enable(self, unit).await?)
    }

    async fn disable(&self, unit: &str) -> Result<(), StepError> {
        Ok(Systemd::disable(self, unit).await?)
    }

    async fn last_lines(&self, unit: &str) -> Vec<String> {
        crate::journal::last_lines(unit).await
    }
}
