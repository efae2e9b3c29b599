//! `cargo xtask cluster`: makes the local cluster match its file, or deletes it.

use run_record::Failure;

use crate::cluster;
use crate::repo::k3d::K3dConfig;
use crate::run::consent;
use crate::run::context::Context;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Action {
    /// Show what exists and how it differs from k3d.yaml; changes nothing
    Status,
    /// Stop the cluster's containers; data stays
    Stop,
    /// Delete the cluster, its registry, their volumes, the kubeconfig context and the state folder
    Delete,
    /// Write the kubeconfig's context again, with an address that is reachable from here
    Kubeconfig,
    /// Delete the cluster and create it again; the registry and its images stay
    Recreate,
    /// Prepare only what can exist before the cluster: its registry and its nodes' image
    /// (prebuilds)
    Prefetch,
}

pub async fn run(context: &Context, action: Option<Action>) -> Result<(), Failure> {
    let config = context.repo.require_k3d_config()?;
    if action == Some(Action::Status) {
        return cluster::status(&context.run, &context.repo, &config).await;
    }
    if context.run.dry_run {
        return match action {
            None => cluster::plan(context).await.map(drop),
            Some(action) => {
                context.run.reporter.planned(config.name(), in_words(action, &config));
                Ok(())
            }
        };
    }
    let lock = cluster::lock(&context.run).await?;
    match action {
        None => cluster::up(context, &lock).await.map(drop),
        Some(Action::Stop) => cluster::stop(&context.run, &context.repo, &config).await,
        Some(Action::Delete) => {
            cluster::delete(context, &config).await?;
            drop(lock);
            context.run.state.remove_if_empty();
            Ok(())
        }
        Some(Action::Recreate) => {
            let consent = context.run.may_destroy::<consent::Cluster>(&cluster::recreation(&config)).await?;
            cluster::recreate(context, &config, &lock, &consent).await.map(drop)
        }
        Some(Action::Prefetch) => cluster::prefetch(context, &config, &lock).await,
        Some(Action::Kubeconfig) => {
            cluster::write_kubeconfig(context, &config).await?;
            context.run.reporter.note(config.name(), format!("kubeconfig context {}", context.site.kube_context));
            Ok(())
        }
        Some(Action::Status) => Ok(()),
    }
}

/// What an action would do.
fn in_words(action: Action, config: &K3dConfig) -> String {
    match action {
        Action::Status => "show what exists".to_owned(),
        Action::Stop => "stop the cluster's containers".to_owned(),
        Action::Delete => "delete the cluster, its registry and their volumes".to_owned(),
        Action::Kubeconfig => "write the kubeconfig's context".to_owned(),
        Action::Recreate => cluster::recreation(config),
        Action::Prefetch => "create the registry and pull the nodes' image".to_owned(),
    }
}
