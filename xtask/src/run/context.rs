//! What every recipe is given: the run, what the tree says, and where to act.

use crate::repo::Repo;
use crate::run::Run;

/// All three, for the recipes and for what needs them all; anything else is given the part that it uses.
pub struct Context {
    pub run: Run,
    pub repo: Repo,
    pub site: Site,
}

impl Context {
    /// Whether it acts on the environment's cluster: `--context` may name any other.
    pub fn is_on_its_own_cluster(&self) -> bool {
        self.site.kube_context == self.repo.env.cluster.context
    }
}

/// Where a run acts: on which cluster, with which registry, from which machine.
pub struct Site {
    /// The kubeconfig context to use: the environment's, or `--context`.
    pub kube_context: String,
    /// The registry's name from here: `registry.push`, or in a devcontainer the pods' name.
    pub registry_host: String,
    /// The container that this process runs in, if its engine is outside (see `devcontainer`).
    pub inside: Option<String>,
    /// `--lab`, `--no-lab`, or neither: then the lab is used if the upstream registries do not
    /// answer.
    pub lab: Option<bool>,
}
