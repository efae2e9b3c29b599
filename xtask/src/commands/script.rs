//! The old script names with their old arguments: each file under `scripts/infra` and
//! `infra/kubernetes/scripts` passes its arguments to one of these, so that habits, other scripts
//! and pages keep working.

use super::cluster;
use crate::checklist;
use crate::layer;
use crate::repo;
use crate::run::context::Context;
use run_record::Failure;

#[derive(Clone, Debug, clap::Subcommand)]
pub enum Script {
    /// `run-helm-layer.sh HELMFILE`: one layer and its tests
    RunHelmLayer {
        /// The layer's state file, by any path
        helmfile: String,
    },
    /// `helmfile-sync.sh [ENVIRONMENT]`: every layer in order, then how things stand
    HelmfileSync { environment: Option<String> },
    /// `ensure-k3d-cluster.sh`: the local cluster as k3d.yaml says
    EnsureK3dCluster,
    /// `infra-health-check.sh [ENVIRONMENT] [--layers 40,45]`: layers and their tests
    InfraHealthCheck {
        environment: Option<String>,
        /// Numbers or names, separated by commas; if not given, those of INFRA_CRITICAL_PATH, or of
        /// layers.yaml
        #[arg(long, value_delimiter = ',')]
        layers: Vec<String>,
    },
}

impl Script {
    /// The environment, if a script takes it as an argument.
    pub fn environment(&self) -> Option<&str> {
        match self {
            Self::HelmfileSync { environment } | Self::InfraHealthCheck { environment, .. } => environment.as_deref(),
            Self::RunHelmLayer { .. } | Self::EnsureK3dCluster => None,
        }
    }
}

pub async fn run(context: &Context, script: &Script) -> Result<(), Failure> {
    match script {
        Script::RunHelmLayer { helmfile } => layers(context, vec![helmfile.clone()]).await,
        Script::HelmfileSync { .. } => {
            let all = layer::Args { all: true, ..layer::Args::of(Vec::new()).selected_by_environment() };
            super::layer::run(context, &all).await?;
            conclude(context).await
        }
        Script::EnsureK3dCluster => cluster::run(context, None).await,
        Script::InfraHealthCheck { layers: named, .. } if named.is_empty() => {
            layers(context, repo::critical_path(&context.repo.tree)?).await?;
            conclude(context).await
        }
        Script::InfraHealthCheck { layers: named, .. } => layers(context, named.clone()).await,
    }
}

async fn layers(context: &Context, names: Vec<String>) -> Result<(), Failure> {
    let args = layer::Args::of(names).selected_by_environment();
    super::layer::run(context, &args).await.map(drop)
}

async fn conclude(context: &Context) -> Result<(), Failure> {
    if context.run.dry_run {
        context.run.reporter.planned("checklist", "check whether the data plane is ready");
        return Ok(());
    }
    checklist::conclude(context).await
}
