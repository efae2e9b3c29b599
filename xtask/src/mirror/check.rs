//! Which images of the lock our registry lacks.

use image_mirror::{Finding, ImagesLock, Options};

use super::{Origin, images, interruptible, pick};
use crate::repo::Repo;
use crate::run::context::{Context, Site};
use crate::world::registry::{DENIED, endpoint};
use run_record::{Code, Failure};

/// Requires that a registry has what this lock names; `to`: a registry other than the
/// environment's.
///
/// # Errors
/// `image-not-mirrored`, with what is missing or stale; else as the registry answers.
pub(crate) async fn check(
    context: &Context,
    origin: &Origin,
    lock: &ImagesLock,
    to: Option<&str>,
) -> Result<(), Failure> {
    let options =
        Options { target: endpoint(&context.repo, &context.site, to), ..origin.options(&context.repo, &context.site)? };
    let findings = interruptible(image_mirror::check(lock, &options)).await?;
    let registry = to.unwrap_or(&context.repo.env.registry.push);
    complete(registry, &findings)?;
    context.run.reporter.note("mirror", format!("all {} in {registry}", images(lock.images.len())));
    Ok(())
}

/// Before a layer: requires that the registry has what the lock names.
pub(crate) async fn require(repo: &Repo, site: &Site, origin: &Origin) -> Result<(), Failure> {
    let (_, findings) = findings(repo, site, origin).await?;
    complete(&repo.env.registry.push, &findings)
}

/// How many images the lock names, and which are missing from the registry or stale.
pub(crate) async fn findings(repo: &Repo, site: &Site, origin: &Origin) -> Result<(usize, Vec<Finding>), Failure> {
    let lock = pick(repo, origin.read_lock(repo)?, &[])?;
    let findings = interruptible(image_mirror::check(&lock, &origin.options(repo, site)?)).await?;
    Ok((lock.images.len(), findings))
}

fn complete(registry: &str, findings: &[Finding]) -> Result<(), Failure> {
    if findings.is_empty() {
        return Ok(());
    }
    let is_denied = |finding: &Finding| matches!(finding, Finding::Denied { .. });
    // Whether they are there is not known.
    let mut failure = match findings.iter().all(is_denied) {
        true => Failure::new(
            Code::RegistryDeniedOrMissing,
            format!("the registry {registry} does not let this account read {}", images(findings.len())),
        )
        .remedy(DENIED),
        false => Failure::new(
            Code::ImageNotMirrored,
            format!("{} not in the registry {registry} as the lock says", images(findings.len())),
        )
        .remedy("cargo xtask mirror"),
    };
    failure.evidence = findings.iter().map(ToString::to_string).collect();
    Err(failure)
}
