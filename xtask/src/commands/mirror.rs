//! `cargo xtask mirror`: copies the lock's images into the registry, or says what is missing.

use image_mirror::Endpoint;

use crate::compare::reader;
use crate::run::context::Context;
use crate::world::registry;
use crate::{cluster, lab, mirror};
use run_record::Failure;

#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Ids of infra/images/images.yaml; all of them if none is given
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Only say what is missing or stale, and which images of layers are not from the mirror with
    /// the lock's digest; exit 5 if there are any
    #[arg(long)]
    pub check: bool,
    /// Resolve the tags again and rewrite the lock, showing old and new digest
    #[arg(long, conflicts_with = "check")]
    pub update: bool,
    /// Copy to this registry, HOST[:PORT][/PREFIX], instead of the environment's
    #[arg(long, value_name = "REGISTRY", conflicts_with = "update")]
    pub to: Option<String>,
    /// Check every blob, even of images whose manifest is already there
    #[arg(long, conflicts_with_all = ["check", "update"])]
    pub force: bool,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Result<(), Failure> {
    let to = args.to.as_deref();
    if let Some(to) = to {
        // Not checked by clap, whose message would repeat an account in the value.
        Endpoint::named(to).parts().map_err(|error| Failure::usage(format!("--to: {error}")))?;
    }
    let lab = cluster::its_lab(context).await?;
    let origin = lab::origin(&context.repo, lab.as_ref());
    if args.update {
        return mirror::update(context, &origin, &args.images).await;
    }
    let ids: Vec<&str> = args.images.iter().map(String::as_str).collect();
    if args.check {
        let lock = mirror::pick(&context.repo, origin.read_lock(&context.repo)?, &ids)?;
        mirror::check(context, &origin, &lock, to).await?;
        if ids.is_empty() && to.is_none() {
            let count = reader::check_all_images(context, lab.as_ref()).await?;
            let text = format!("{count} image references in the layers: all mirrored and pinned");
            context.run.reporter.note("mirror", text);
        }
        return Ok(());
    }
    if context.run.dry_run {
        let lock = mirror::pick(&context.repo, origin.read_lock(&context.repo)?, &ids)?;
        let to = to.unwrap_or(&context.repo.env.registry.push);
        for image in &lock.images {
            context.run.reporter.planned("mirror", format!("copy {} to {to}/{}", image.image, image.target));
        }
        return Ok(());
    }
    mirror::copy(context, &origin, &ids, |options| {
        options.force = args.force;
        if to.is_some() {
            options.target = registry::endpoint(&context.repo, &context.site, to);
        }
    })
    .await
}
