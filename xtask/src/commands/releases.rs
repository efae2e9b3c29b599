//! `cargo xtask releases`: the releases that are not deployed, their repair, and the history of
//! each.

use std::time::Duration;

use run_record::Failure;

use crate::cluster::lease::ClusterLease;
use crate::releases::{self, Asked, Others};
use crate::run::context::Context;
use crate::{cluster, world};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub action: Option<Action>,
}

#[derive(Clone, Debug, clap::Subcommand)]
pub enum Action {
    /// The revisions of releases, newest first: when, by which run, whose, and why
    History {
        /// Layers as `layer` takes them, or releases: NAME or NAMESPACE/NAME; all if none is given
        #[arg(value_name = "LAYER|RELEASE")]
        names: Vec<String>,
    },
    /// Mark what nobody will finish as failed, so that the next layer run can continue
    Repair {
        /// The age, since its last change, from which a pending release of an unknown owner counts
        /// as orphaned; if not given, 5m, and never less than its own timeout
        #[arg(long, value_parser = crate::run::duration::parse, allow_negative_numbers = true)]
        older_than: Option<Duration>,
        /// Uninstall this release (NAME or NAMESPACE/NAME), after showing what is deleted with it;
        /// what holds data stays, unless --allow-destroy names claim
        #[arg(long, value_name = "NAME", conflicts_with = "rollback")]
        uninstall: Option<String>,
        /// Roll this release back to that revision
        #[arg(long, num_args = 2, value_names = ["NAME", "REVISION"])]
        rollback: Vec<String>,
    },
}

pub async fn run(context: &Context, args: &Args) -> Result<(), Failure> {
    let client = world::kubernetes::client(context).await?;
    let (older_than, asked) = match &args.action {
        None => return releases::show(context, &client).await,
        Some(Action::History { names }) => return releases::history::show(context, &client, names).await,
        Some(Action::Repair { older_than, uninstall, rollback }) => {
            (*older_than, asked(uninstall.as_deref(), rollback)?)
        }
    };
    if context.run.dry_run {
        let others = Others::look(&context.run, &context.repo, &client).await;
        return releases::repair(context, &client, None, &others, older_than, &asked).await;
    }
    let lock = cluster::lock(&context.run).await?;
    let lease = ClusterLease::acquire(context, &client).await?;
    let others = Others::kept_out();
    lease.guard(releases::repair(context, &client, lock.descriptor(), &others, older_than, &asked)).await
}

fn asked(uninstall: Option<&str>, rollback: &[String]) -> Result<Asked, Failure> {
    match (uninstall, rollback) {
        (Some(name), _) => Ok(Asked::Uninstall(name.to_owned())),
        (None, [name, revision]) => {
            let wrong =
                |_| Failure::usage(format!("--rollback {name} {revision:?}: expected the number of a revision"));
            Ok(Asked::RollBack { name: name.clone(), revision: revision.parse().map_err(wrong)? })
        }
        _ => Ok(Asked::Repair),
    }
}
