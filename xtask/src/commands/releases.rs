//! `cargo xtask releases`: the releases that are not deployed, and their repair.

use std::time::Duration;

use run_record::Failure;

use crate::cluster::lease::ClusterLease;
use crate::releases::{self, Others};
use crate::run::context::Context;
use crate::{cluster, world};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub action: Option<Action>,
}

#[derive(Clone, Debug, clap::Subcommand)]
pub enum Action {
    /// Mark what nobody finishes any more as failed, so that the next layer run goes on
    Repair {
        /// From which age a pending release of an unknown owner counts as orphaned: counted
        /// from its last change; if not given, 5m, and never less than its own timeout
        #[arg(long, value_parser = crate::run::duration::parse)]
        older_than: Option<Duration>,
        /// Uninstall this release (NAME or NAMESPACE/NAME), after showing what goes with it
        #[arg(long, value_name = "NAME", conflicts_with = "rollback")]
        uninstall: Option<String>,
        /// Roll this release back to that revision
        #[arg(long, num_args = 2, value_names = ["NAME", "REVISION"])]
        rollback: Vec<String>,
    },
}

pub async fn run(context: &Context, args: &Args) -> Result<(), Failure> {
    let client = world::kubernetes::client(context).await?;
    let Some(Action::Repair { older_than, uninstall, rollback }) = &args.action else {
        return releases::show(context, &client).await;
    };
    if context.dry_run {
        let others = Others::look(context, &client).await;
        return releases::repair(context, &client, None, &others, *older_than, uninstall.as_deref(), rollback).await;
    }
    let lock = cluster::lock(context).await?;
    let lease = ClusterLease::acquire(context, &client).await?;
    let others = Others::kept_out();
    let work =
        releases::repair(context, &client, lock.descriptor(), &others, *older_than, uninstall.as_deref(), rollback);
    let result = lease.guard(work).await;
    lease.release().await;
    result
}
