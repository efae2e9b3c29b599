//! One run of this program: what it was asked to do, whether it is interrupted, what was consented
//! to, where it reports and what it leaves behind.

pub mod commands;
pub mod consent;
pub mod context;
pub mod duration;
pub mod foreign;
pub mod interrupt;
pub mod printer;
pub mod reporter;
pub mod state;
pub mod suspension;
pub mod wait;

use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;

use consent::{Consent, Lost};
use reporter::Reporter;
use run_record::Failure;
use state::StateDir;

/// One run of this program: what it may do, where it reports, and where it leaves its files.
pub struct Run {
    pub id: String,
    /// This run's folder, with its record and the logs of the tools it ran.
    pub dir: Utf8PathBuf,
    pub state: StateDir,
    pub reporter: Arc<Reporter>,
    pub consent: consent::Given,
    pub dry_run: bool,
    /// Whether it reports as JSON.
    pub json: bool,
    /// How long it waits for the cluster's lock, and for releases that others work on.
    pub lock_timeout: Duration,
}

impl Run {
    /// A log file of this run.
    pub fn log(&self, name: &str) -> Utf8PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// See [`consent::Given::confirm`].
    pub async fn confirm(&self, what: &str) -> Result<(), Failure> {
        self.consent.confirm(&self.reporter, what).await
    }

    /// See [`consent::Given::may_destroy`].
    pub async fn may_destroy<L: Lost>(&self, what: &str) -> Result<Consent<L>, Failure> {
        self.consent.may_destroy(&self.reporter, what).await
    }
}
