//! Resolves tags into the lock, and checks whether they have moved.

use std::fs::File;

use camino::Utf8Path;
use image_mirror::{Digest, ImagesLock, Kind, ManifestCache, MirrorEvent, Observe, Options};

use super::progress::Progress;
use super::{Origin, interruptible, require_known};
use crate::repo::Repo;
use crate::run::context::{Context, Site};
use crate::run::interrupt::Interrupt;
use crate::world::registry::failure;
use run_record::Failure;

/// Resolves the tags of the ids that somebody asked for (all if empty), and rewrites the lock.
///
/// # Errors
/// `usage` for an id that is not in the list; errors of registries.
pub(crate) async fn update(context: &Context, origin: &Origin, ids: &[String]) -> Result<(), Failure> {
    let listed = origin.listed(&context.repo)?;
    require_known(&context.repo, ids, listed.images.iter().map(|image| image.id.as_str()))?;
    resolve(context, origin, ids, &ManifestCache::default()).await
}

/// Resolves the tags of these ids again (all if empty), and rewrites the lock if that changes it.
/// `kept`: manifests that a copy need not request again.
pub(crate) async fn resolve(
    context: &Context,
    origin: &Origin,
    ids: &[String],
    kept: &ManifestCache,
) -> Result<(), Failure> {
    let path = &origin.lock;
    let listed = origin.listed(&context.repo)?;
    let old = match ImagesLock::read(path) {
        Ok(old) => Some(old),
        // Otherwise the entries of the other images would be lost.
        Err(error) if !ids.is_empty() && path.exists() => return Err(failure(error)),
        Err(_) => None,
    };
    let mut subset = listed.clone();
    subset.images.retain(|image| ids.is_empty() || ids.contains(&image.id));
    let template = ImagesLock::unresolved(&listed);
    let options = Options { kept: kept.clone(), ..origin.options(&context.repo, &context.site)? };
    let progress = Progress::new(&context.run.reporter);
    let fresh = interruptible(image_mirror::resolve(&subset, old.as_ref(), &options, &progress)).await?;
    drop(progress);
    // Another run may have resolved other images in the meantime: from here on they take turns.
    let folder = path.parent().filter(|folder| !folder.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
    let turn =
        File::open(folder).map_err(|error| Failure::usage(format!("cannot read the folder of {path}: {error}")))?;
    // If the file system has no locks, there is nothing to wait for.
    let _ = turn.lock();
    let old = ImagesLock::read(path).ok().or(old);
    let still = old.clone().map(|old| old.for_list(&listed));
    let mut lock = template;
    for image in &mut lock.images {
        let before = old.as_ref().and_then(|old| old.images.iter().find(|other| other.id == image.id));
        let after = fresh.images.iter().find(|other| other.id == image.id);
        let still = still.as_ref().and_then(|still| still.images.iter().find(|other| other.id == image.id));
        if let Some(chosen) = after.or(still) {
            *image = chosen.clone();
        }
        if let (Some(after), true) =
            (after, before.map(|before| &before.target_digest) != after.map(|after| &after.target_digest))
        {
            let digest = |digest: Option<&Digest>| digest.map_or("unresolved".to_owned(), ToString::to_string);
            context.run.reporter.note(
                &image.id,
                format!(
                    "{} -> {}",
                    digest(before.and_then(|before| before.target_digest.as_ref())),
                    digest(after.target_digest.as_ref())
                ),
            );
        }
    }
    if ImagesLock::read(path).is_ok_and(|there| there == lock) {
        return Ok(());
    }
    if context.run.dry_run {
        context.run.reporter.planned("mirror", format!("write {path}"));
        return Ok(());
    }
    lock.write(path).map_err(failure)
}

/// Whether the origin still serves what its lock says. If it cannot be reached, that is no
/// obstacle: an image that still has to be copied will show.
pub(crate) async fn is_served(repo: &Repo, site: &Site, origin: &Origin) -> Result<bool, Failure> {
    let Ok(lock) = ImagesLock::read(&origin.lock) else { return Ok(false) };
    let (listed, options) = (origin.listed(repo)?, origin.options(repo, site)?);
    let fresh = Interrupt::global().or(image_mirror::resolve(&listed, Some(&lock), &options, &Quiet)).await?;
    Ok(match fresh {
        Ok(fresh) => fresh == lock,
        Err(error) => matches!(error.kind(), Kind::Unreachable | Kind::RateLimited),
    })
}

struct Quiet;

impl Observe for Quiet {
    fn event(&self, _event: MirrorEvent) {}
}
