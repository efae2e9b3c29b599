//! The container of the cluster's registry: made, started and removed.

use std::time::Duration;

use super::containers::not_ours;
use super::images::Images;
use super::k3d::{k3d, require_port_free};
use super::{Destroying, decide, devcontainer, k3d_errors};
use crate::repo::k3d::K3dConfig;
use crate::run::Run;
use crate::run::consent::{self, Consent};
use crate::run::context::Context;
use crate::world::docker::{self, Container, Kind, Looked, Thing, docker_output};
use crate::world::registry;
use crate::world::tools::Toolbox;
use run_record::{Code, Failure, Step, StepKind};

/// Creates or starts the registry container. It is separate from the cluster, so that recreating
/// the cluster keeps the mirrored images.
pub async fn ensure(
    context: &Context,
    config: &K3dConfig,
    toolbox: &Toolbox,
    images: &Images,
    destroying: Destroying,
) -> Result<(), Failure> {
    let Some(name) = config.registry_container() else { return Ok(()) };
    let push = &context.repo.env.registry.push;
    let reporter = &context.run.reporter;
    let runs = match docker::look::<Container>(Kind::Container, &name).await? {
        Looked::Absent => false,
        Looked::Found(container) if container.runs() => true,
        Looked::Found(container) => {
            let step = reporter.step(Step::new(StepKind::Registry, &name, "starting the registry"));
            match docker_output([container.starting(), &container.id]).await {
                Ok(_) => {
                    step.done_as("started the registry");
                    true
                }
                Err(failure) => {
                    step.failed_as("the registry does not start");
                    remove_one_that_does_not_start(&context.run, &container, failure, destroying).await?;
                    false
                }
            }
        }
    };
    if !runs {
        if let Some(address) = context.repo.env.registry.published() {
            require_port_free(&context.site, address)?;
        }
        images.load_registry(context).await?;
        let step = reporter.step(Step::new(StepKind::Registry, &name, "creating the registry"));
        let short = name.strip_prefix("k3d-").ok_or_else(|| {
            Failure::usage(format!("{}: registries.use: {name:?}: expected a name that starts with k3d-", config.path))
        })?;
        let volume = format!("{name}:{REGISTRY_DATA}");
        let mut arguments = vec!["registry", "create", short, "--port", push, "--volume", &volume, "--no-help"];
        if let Some(image) = &images.registry {
            arguments.extend(["--image", image]);
        }
        if let Err(failure) = k3d(&context.run, toolbox, images, &arguments).await {
            remove_what_never_ran(&name).await;
            return Err(failure);
        }
        step.done_as(format!("created the registry, {push}"));
    }
    devcontainer::join(&context.site, config, &[&name]).await?;
    registry::wait_until_it_answers(&registry::endpoint(&context.repo, &context.site, None), Duration::from_secs(30))
        .await?;
    registry::healthy(&context.repo, &context.site).await
}

/// The registry's data folder in its container.
const REGISTRY_DATA: &str = "/var/lib/registry";

/// Whether k3d created this container as a registry.
fn is_k3d_registry(container: &Container) -> bool {
    container.label("app") == Some("k3d") && container.label(decide::ROLE_LABEL) == Some("registry")
}

/// Removes a registry that the engine refuses to start (because its port is taken, or its runtime
/// or image is gone), so that it can be created again. Without consent only if its images are known
/// to survive.
async fn remove_one_that_does_not_start(
    run: &Run,
    container: &Container,
    failure: Failure,
    destroying: Destroying,
) -> Result<(), Failure> {
    let name = container.name();
    // No engine, or one that said nothing about the container: nothing is known about it.
    let refusal = failure.evidence.first().filter(|_| failure.code == Code::DockerFailed);
    let Some(refusal) = refusal.filter(|line| line.starts_with("Error response from daemon: ")) else {
        return Err(failure);
    };
    if let Some(taken) = k3d_errors::port_failure(refusal) {
        return Err(taken);
    }
    if let Err(mut refusal) = is_ours(container) {
        refusal.evidence = failure.evidence;
        return Err(refusal);
    }
    let kept = container.keeps_in_volume(REGISTRY_DATA, name)
        && docker::look::<Thing>(Kind::Volume, name).await?.found().is_some();
    if !kept {
        let what = format!("remove the registry {name}, which does not start, with the images in it");
        if destroying == Destroying::Never {
            return Err(Failure::new(Code::ConsentNeeded, format!("this would {what}"))
                .evidence(failure.evidence.first().cloned().unwrap_or_default())
                .remedy("cargo xtask cluster   # asks first, elsewhere --allow-destroy=registry"));
        }
        let consent = run.may_destroy::<consent::Registry>(&what).await?;
        return remove(container, &consent).await;
    }
    // Without --force: the engine refuses if it is running by now.
    docker_output(["rm", &container.id]).await?;
    run.reporter.note(name, "removed the container, which does not start; its images stay in the volume");
    Ok(())
}

/// After a failed creation: k3d leaves the container that could not start. It is known not to have
/// existed before, and is removed only if it never ran.
async fn remove_what_never_ran(name: &str) {
    let removed = async {
        if let Looked::Found(container) = docker::look::<Container>(Kind::Container, name).await?
            && is_k3d_registry(&container)
            && container.never_ran()
        {
            docker_output(["rm", "-v", &container.id]).await?;
        }
        Ok::<(), Failure>(())
    };
    // The creation's failure is the one to report; the next run looks again.
    let _ = removed.await;
}

/// Looks whether the container of this name is a registry of k3d, if there is one.
///
/// # Errors
/// `not-ours`, and those of the engine.
pub async fn require_ours(config: &K3dConfig) -> Result<(), Failure> {
    let Some(name) = config.registry_container() else { return Ok(()) };
    let found = docker::look::<Container>(Kind::Container, &name).await?.found();
    found.as_ref().map_or(Ok(()), is_ours)
}

fn is_ours(container: &Container) -> Result<(), Failure> {
    if is_k3d_registry(container) { Ok(()) } else { Err(not_ours(container.name())) }
}

/// Removes it with what it holds.
///
/// # Errors
/// `not-ours`, and those of the engine.
pub async fn remove(container: &Container, _: &Consent<consent::Registry>) -> Result<(), Failure> {
    is_ours(container)?;
    docker_output(["rm", "-f", "-v", &container.id]).await.map(drop)
}
