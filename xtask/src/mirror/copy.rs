//! Copies what our registry lacks, and reports progress.

use std::time::Instant;

use image_mirror::{LockedImage, ManifestCache, Options};
use indicatif::BinaryBytes;

use super::progress::Progress;
use super::resolve::resolve;
use super::{Origin, images, interruptible, pick};
use crate::run::context::Context;
use run_record::{Event, Failure, ImagesEvent, Step, StepKind};

/// Copies all images.
pub(crate) async fn copy_all(context: &Context, origin: &Origin) -> Result<(), Failure> {
    copy(context, origin, &[], |_| {}).await
}

/// Copies the images with these ids (all if empty); those already there cost one HEAD each.
/// `change` adjusts the options.
pub(crate) async fn copy(
    context: &Context,
    origin: &Origin,
    ids: &[&str],
    change: impl FnOnce(&mut Options),
) -> Result<(), Failure> {
    let mut lock = origin.read_lock(&context.repo)?;
    // What is resolved now is not requested again.
    let kept = ManifestCache::default();
    // Only what is copied now is resolved: the others are resolved when they are copied, so that
    // no index is requested twice.
    let concerns = |image: &LockedImage| {
        !image.is_resolved() && if ids.is_empty() { image.role.is_none() } else { ids.contains(&image.id.as_str()) }
    };
    let unresolved: Vec<String> =
        lock.images.iter().filter(|image| concerns(image)).map(|image| image.id.clone()).collect();
    if !unresolved.is_empty() {
        context.run.reporter.note(
            "mirror",
            format!("not resolved yet: {}: asking the registries, and writing {}", unresolved.join(", "), origin.lock),
        );
        resolve(context, origin, &unresolved, &kept).await?;
        lock = origin.read_lock(&context.repo)?;
    }
    let lock = pick(&context.repo, lock, ids)?;
    let mut options = Options { kept, ..origin.options(&context.repo, &context.site)? };
    change(&mut options);
    let step = context.run.reporter.step(Step::new(StepKind::Mirror, "mirror", images(lock.images.len())));
    let started = Instant::now();
    let summary = interruptible(image_mirror::copy(&lock, &options, &Progress::new(&context.run.reporter))).await?;
    context.run.reporter.event(&Event::Images(ImagesEvent {
        copied: summary.copied,
        skipped: summary.skipped,
        blobs: summary.blobs,
        there: summary.there,
        mounted: summary.mounted,
        bytes: summary.bytes,
        source_requests: summary.source_requests,
        took: started.elapsed(),
    }));
    if summary.copied == 0 {
        step.unchanged(format!("{} there already", images(summary.skipped)));
    } else {
        let mut words = vec![format!("{} copied ({})", images(summary.copied), BinaryBytes(summary.bytes))];
        let counts = [(summary.skipped, "there"), (summary.mounted, "blobs mounted"), (summary.there, "blobs there")];
        words.extend(counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
        words.push(format!("{} requests upstream", summary.source_requests));
        step.done_as(words.join(", "));
    }
    for quota in &summary.quotas {
        context.run.reporter.note("mirror", quota.to_string());
    }
    Ok(())
}
