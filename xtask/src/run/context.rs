//! What every command is given: the tree, the chosen environment, the common
//! flags, and where to report.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;

use crate::repo::k3d::K3dConfig;
use crate::repo::tree::{Environment, Tree};
use crate::run::consent;
use crate::run::reporter::Reporter;
use crate::run::state::StateDir;
use crate::world::kubernetes;
use run_record::{Code, Exit, Failure};

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
    /// Consent to what loses nothing; see `consent`.
    pub yes: bool,
    /// Consent to what destroys, by what is lost.
    pub allow_destroy: BTreeSet<consent::Kind>,
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

    /// A failure with a remedy that works when it is pasted: in this environment, and never
    /// one that makes or mends a cluster which is not this tool's to make.
    pub fn fitting(&self, mut failure: Failure) -> Failure {
        let remedy = failure.remedy.take();
        failure.remedy = remedy.map(|remedy| match &self.env.cluster.k3d {
            None if says_cluster(&remedy) => self.of_shared(failure.code),
            _ => with_environment(&remedy, &self.env_name),
        });
        failure
    }

    fn of_shared(&self, code: Code) -> String {
        if code.exit() == Exit::Registry {
            return format!("check the network, and that the registry {} answers", self.env.registry.push);
        }
        kubernetes::bring_back(&self.kube_context)
    }

    /// A log file of this run.
    pub fn log(&self, name: &str) -> Utf8PathBuf {
        self.run_dir.join(format!("{name}.log"))
    }
}

/// Whether a remedy is `cargo xtask cluster` or one of its kind.
fn says_cluster(remedy: &str) -> bool {
    let commands = remedy.split("cargo xtask ").skip(1);
    commands.into_iter().any(|rest| {
        let rest = rest.strip_prefix("--env ").and_then(|rest| rest.split_once(' ')).map_or(rest, |(_, rest)| rest);
        rest.starts_with("cluster")
    })
}

/// Names the environment in each command that does not, unless it is the one that goes without saying.
fn with_environment(remedy: &str, env: &str) -> String {
    if env == crate::cli::DEFAULT_ENV {
        return remedy.to_owned();
    }
    let mut parts = remedy.split("cargo xtask ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, rest| {
        let env = if rest.starts_with("--env") { String::new() } else { format!("--env {env} ") };
        format!("{text}cargo xtask {env}{rest}")
    })
}

#[cfg(test)]
mod fitting {
    use super::*;

    #[test]
    fn a_remedy_names_the_environment_once_and_a_shared_cluster_is_not_made_here() {
        for (remedy, named) in [
            ("cargo xtask cluster", "cargo xtask --env ci cluster"),
            ("cargo xtask --env ci cluster", "cargo xtask --env ci cluster"),
            (
                "wait, then cargo xtask layer 10; or cargo xtask up",
                "wait, then cargo xtask --env ci layer 10; or cargo xtask --env ci up",
            ),
            ("docker login", "docker login"),
        ] {
            assert_eq!(with_environment(remedy, "ci"), named);
            assert_eq!(with_environment(remedy, "local"), remedy);
        }
        for remedy in ["cargo xtask cluster", "see the log; cargo xtask --env staging cluster recreate"] {
            assert!(says_cluster(remedy), "{remedy}");
        }
        for remedy in ["cargo xtask layer 10", "look at the cluster", "cargo xtask --env staging up"] {
            assert!(!says_cluster(remedy), "{remedy}");
        }
    }
}
