//! The images of the local cluster itself (k3s, and k3d's helpers). They come from public
//! registries like those of pods, so they are fetched the same way, by the lock's digests, with the
//! mirror's accounts, proxies and waits, and loaded into the container engine.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use image_mirror::{ImagesLock, LockedImage, ManifestCache, Role};
use indicatif::BinaryBytes;
use tokio::net::unix::pipe;

use super::progress::Progress;
use super::resolve::resolve;
use super::{Origin, interruptible};
use crate::repo::Repo;
use crate::run::context::Context;
use crate::world::docker::{self, EngineInfo, Image, Kind};
use crate::world::process::Job;
use run_record::{Code, Exit, Failure, Step, StepKind};

/// The names of the tree's images for the cluster itself.
///
/// # Errors
/// `usage` for a lock that cannot be read.
pub(crate) fn of_the_cluster(repo: &Repo) -> Result<BTreeMap<Role, String>, Failure> {
    let lock = Origin::public(repo).read_lock(repo)?;
    Ok(lock.images.iter().filter_map(|image| Some((image.role?, image.name().to_owned()))).collect())
}

/// The registries that these images come from.
///
/// # Errors
/// `usage` for a lock that cannot be read.
pub(crate) fn registries(repo: &Repo) -> Result<BTreeSet<String>, Failure> {
    let lock = Origin::public(repo).read_lock(repo)?;
    Ok(lock.images.iter().map(|image| registry_of(image.name()).to_owned()).collect())
}

fn registry_of(name: &str) -> &str {
    name.split('/').next().unwrap_or_default()
}

/// Loads those of these images that the engine lacks, or has for another platform, and the tree
/// lists. One that cannot be fetched is left to the engine's own pull, which may have other ways (a
/// mirror, a proxy, no account, another address).
///
/// # Errors
/// An engine that does not answer, a full disk, an interrupt, a lock that cannot be read.
pub(crate) async fn load(context: &Context, names: &[&str]) -> Result<(), Failure> {
    let origin = Origin::public(&context.repo);
    let lock = origin.read_lock(&context.repo)?;
    let wanted: Vec<&LockedImage> =
        lock.images.iter().filter(|image| image.role.is_some() && names.contains(&image.name())).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let engine = docker::info().await.map_err(|(fault, error)| docker::unavailable(fault, error))?;
    let mut lacking = Vec::new();
    for image in wanted {
        let there = docker::look::<Image>(Kind::Image, image.name()).await?.found();
        let is_there = there.is_some();
        if let Some(there) = there {
            let Some(other) = there.not_for(&engine.platform) else { continue };
            let text = format!("Docker has {} for {other}: it is loaded for {}", image.name(), engine.platform);
            context.run.reporter.note(&image.id, text);
        }
        lacking.push((image, is_there));
    }
    // By registry: why it gives nothing more.
    let mut limited: BTreeMap<&str, String> = BTreeMap::new();
    for (image, is_there) in lacking {
        let (id, registry) = (&image.id, registry_of(image.name()));
        let why = match limited.get(registry) {
            // Another request would be refused too, and count.
            Some(why) => why.clone(),
            None => match load_one(context, &origin, &engine, id).await {
                Ok(()) => continue,
                Err(failure) if ends_all(&failure) => return Err(failure),
                Err(failure) => {
                    let more = failure.evidence.first().map(|line| format!(" ({line})")).unwrap_or_default();
                    let why = format!("{}{more}", failure.message);
                    if failure.code == Code::RegistryRateLimited {
                        limited.insert(registry, why.clone());
                    }
                    why
                }
            },
        };
        let then = if is_there { "the one that Docker has is used" } else { "Docker will pull it itself" };
        context.run.reporter.warn(id, format!("{why}; {then}"));
    }
    Ok(())
}

fn ends_all(failure: &Failure) -> bool {
    matches!(failure.exit(), Exit::Interrupted | Exit::Terminated)
        || matches!(failure.code, Code::DiskFull | Code::DockerUnavailable)
}

async fn load_one(context: &Context, origin: &Origin, engine: &EngineInfo, id: &str) -> Result<(), Failure> {
    let kept = ManifestCache::default();
    let mut image = find(&origin.read_lock(&context.repo)?, id)?;
    if !image.is_resolved() {
        resolve(context, origin, &[id.to_owned()], &kept).await?;
        image = find(&origin.read_lock(&context.repo)?, id)?;
    }
    let log = context.run.log("docker-load");
    let step = Step::new(StepKind::Mirror, id, format!("loading {}", image.name())).logging_to(&log);
    let step = context.run.reporter.step(step);
    let options = image_mirror::Options { kept, ..origin.options(&context.repo, &context.site)? };
    let pipe = || -> std::io::Result<_> {
        let (reader, writer) = std::io::pipe()?;
        Ok((reader, pipe::Sender::from_owned_fd(writer.into())?))
    };
    let (reader, mut writer) =
        pipe().map_err(|error| Failure::new(Code::Unknown, format!("cannot create a pipe to docker: {error}")))?;
    let mut command = docker::docker(["load"]);
    command.stdin(Stdio::from(reader));
    let progress = Progress::new(&context.run.reporter);
    let mut moved = 0;
    let stop = async {
        let written = image_mirror::archive(&image, &engine.platform, &options, &progress, &mut writer);
        match interruptible(written).await {
            Ok(bytes) => {
                moved = bytes;
                drop(writer);
                std::future::pending().await
            }
            Err(failure) => failure,
        }
    };
    let ended = Job { command, log: &log, inherit: None }.run(|_| {}, stop).await?;
    drop(progress);
    if !ended.status.success() {
        let line = ended.tail.last().cloned().unwrap_or_default();
        let full = line.contains("no space left on device");
        let code = if full { Code::DiskFull } else { Code::DockerFailed };
        return Err(Failure::new(code, format!("`docker load` of {} failed", image.name())).evidence(line).log(log));
    }
    step.done_as(format!("loaded {} into Docker ({})", image.name(), BinaryBytes(moved)));
    Ok(())
}

fn find(lock: &ImagesLock, id: &str) -> Result<LockedImage, Failure> {
    let found = lock.images.iter().find(|image| image.id == id).cloned();
    found.ok_or_else(|| Failure::usage(format!("infra/images/images.lock: no image {id:?}")))
}
