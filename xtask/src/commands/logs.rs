//! `cargo xtask logs`: the logs of the pods of a layer, or of releases. Followed until Ctrl-C,
//! which ends it like any run, with exit 130.

use std::time::Duration;

use run_record::Failure;

use crate::diagnosis::belongings::Belongings;
use crate::reach::logs::{self, Asked};
use crate::releases::named::named;
use crate::run::context::Context;
use crate::run::duration;
use crate::world::{helm_storage, kubernetes};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Layers as `layer` takes them, or releases: NAME or NAMESPACE/NAME
    #[arg(value_name = "LAYER|RELEASE", required = true)]
    pub names: Vec<String>,
    /// Follow the logs, including those of pods that start later, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
    /// Start with this many of the last lines of each container
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..), allow_negative_numbers = true)]
    pub tail: Option<u32>,
    /// Show each container's previous instance: what it printed before it crashed
    #[arg(long, conflicts_with = "follow")]
    pub previous: bool,
    /// Start this long ago: 90s, 5m, 1h
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, allow_negative_numbers = true)]
    pub since: Option<Duration>,
    /// Only containers of this name
    #[arg(short, long, value_name = "CONTAINER")]
    pub container: Option<String>,
}

/// # Errors
/// `usage` for an unknown name, for releases that are not installed, and if there is nothing to
/// show; errors from reading the cluster.
pub async fn run(context: &Context, args: &Args) -> Result<(), Failure> {
    let client = kubernetes::client(context).await?;
    let releases = named(context, &client, &args.names).await?;
    let stored = helm_storage::newest_whole(&client, &releases).await?;
    let what = args.names.join(" ");
    logs::require_installed(&context.run, &what, &releases, &stored)?;
    let belongings = Belongings::of(&client, &stored);
    for release in &belongings.unread {
        context.run.reporter.warn(release, "its stored manifest cannot be read: pods of its hooks may be missing here");
    }
    let Args { follow, tail, previous, since, container, .. } = args.clone();
    let asked = Asked { what, follow, tail, previous, since, container };
    match follow {
        true => logs::follow(&context.run, &client, &asked, &belongings).await,
        false => logs::show(&context.run, &client, &asked, &belongings).await,
    }
}
