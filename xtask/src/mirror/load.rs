//! The images of the local cluster itself (k3s, and k3d's helpers). They come from public
//! registries like those of pods, so they are fetched the same way, by the lock's digests, with the
//! mirror's accounts, proxies and waits, and loaded into the container engine.

use std::collections::BTreeMap;
use std::process::Stdio;

use image_mirror::{ImagesLock, LockedImage, ManifestCache, Role};
use indicatif::BinaryBytes;
use tokio::net::unix::pipe;

use super::progress::Progress;
use super::resolve::resolve;
use super::{Origin, interruptible};
use crate::repo::Repo;
use crate::run::context::Context;
use crate::world::docker::{self, Image, Kind, Looked};
use crate::world::process::Job;
use run_record::{Code, Exit, Failure, Step, StepKind};

/// The names of the tree's images for the cluster itself.
///
/// # Errors
/// `usage` for a lock that cannot be read.
pub(crate) fn of_the_cluster(repo: &Repo) -> Result<BTreeMap<Role, String>, Failure> {
    let lock = Origin::public(repo).read_lock()?;
    Ok(lock.images.iter().filter_map(|image| Some((image.role?, image.name().to_owned()))).collect())
}

/// Loads those of these images that the engine lacks and the tree lists. One that the engine has
/// under its name is used as it is; one that cannot be fetched is left to the engine's own pull,
/// which may have other ways (its own mirror or proxy).
///
/// # Errors
/// An engine that does not answer, a full disk, an interrupt, a lock that cannot be read.
pub(crate) async fn load(context: &Context, names: &[&str]) -> Result<(), Failure> {
    let origin = Origin::public(&context.repo);
    let lock = origin.read_lock()?;
    let mut lacking = Vec::new();
    for image in lock.images.iter().filter(|image| image.role.is_some() && names.contains(&image.name())) {
        if docker::look::<Image>(Kind::Image, image.name()).await? == Looked::Absent {
            lacking.push(image.id.clone());
        }
    }
    for id in lacking {
        if let Err(failure) = load_one(context, &origin, &id).await {
            if matches!(failure.exit(), Exit::Interrupted | Exit::Terminated)
                || matches!(failure.code, Code::DiskFull | Code::DockerUnavailable)
            {
                return Err(failure);
            }
            let why = failure.evidence.first().map(|line| format!(" ({line})")).unwrap_or_default();
            context.run.reporter.warn(&id, format!("{}{why}; Docker will pull it itself", failure.message));
        }
    }
    Ok(())
}

async fn load_one(context: &Context, origin: &Origin, id: &str) -> Result<(), Failure> {
    let kept = ManifestCache::default();
    let mut image = find(&origin.read_lock()?, id)?;
    if !image.is_resolved() {
        resolve(context, origin, &[id.to_owned()], &kept).await?;
        image = find(&origin.read_lock()?, id)?;
    }
    let engine = docker::info().await.map_err(|(fault, error)| docker::unavailable(fault, error))?;
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
