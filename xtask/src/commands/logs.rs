//! `cargo xtask logs`: what the pods of a layer, or of releases, print. Followed until Ctrl-C,
//! which ends it as any run: with exit 130.

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
    /// Go on with what is printed from now on, by pods that start later too, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
    /// Begin with the last so many lines of each container
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..))]
    pub tail: Option<u32>,
    /// The instance of each container before the one of now: what it said before it crashed
    #[arg(long, conflicts_with = "follow")]
    pub previous: bool,
    /// Begin so long ago: 90s, 5m, 1h
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub since: Option<Duration>,
    /// Containers of this name alone
    #[arg(short, long, value_name = "CONTAINER")]
    pub container: Option<String>,
}

/// # Errors
/// `usage` for a name that is none, for releases that are not installed, and where there is
/// nothing to show; those of looking.
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
