//! What every command is given: the tree, the chosen environment, the common
//! flags, and where to report.

use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;

use crate::repo::Tree;
use crate::repo::environment::Environment;
use crate::repo::k3d::K3dConfig;
use crate::run::consent::{self, Consent, Lost};
use crate::run::reporter::Reporter;
use crate::run::state::StateDir;
use run_record::Failure;

pub struct Context {
    pub tree: Tree,
    pub env_name: String,
    pub env: Environment,
    /// The registry's name from here: `registry.push`, but in a devcontainer that of pods.
    pub registry_host: String,
    /// The container that this process is in, where its engine is outside (see `devcontainer`).
    pub inside: Option<String>,
    /// The kubeconfig context to use: the environment's, or `--context`.
    pub kube_context: String,
    pub dry_run: bool,
    pub consent: consent::Given,
    pub json: bool,
    pub lock_timeout: Duration,
    pub reporter: Arc<Reporter>,
    pub state: StateDir,
    /// This run's folder: its record and the logs of the tools it ran.
    pub run_dir: Utf8PathBuf,
    pub run_id: String,
    /// `--lab`, `--no-lab`, or neither: then the lab serves where the upstream registries do not answer.
    pub lab: Option<bool>,
}

impl Context {
    /// The local cluster's configuration; none when the environment is a shared cluster.
    pub fn k3d_config(&self) -> Result<Option<K3dConfig>, Failure> {
        self.env.cluster.k3d.as_ref().map(|path| K3dConfig::read(&self.tree.root.join(path))).transpose()
    }

    pub fn require_k3d_config(&self) -> Result<K3dConfig, Failure> {
        self.k3d_config()?.ok_or_else(|| {
            Failure::usage(format!(
                "environment {:?} is a shared cluster (its env.yaml names no cluster.k3d): nothing to create or delete",
                self.env_name
            ))
        })
    }

    /// A log file of this run.
    pub fn log(&self, name: &str) -> Utf8PathBuf {
        self.run_dir.join(format!("{name}.log"))
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
