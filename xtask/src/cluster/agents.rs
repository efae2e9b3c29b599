//! Agents that are gone. Their disks went with them, so nothing is lost by a new one; it
//! gets a name that no node ever had. Under the old name Kubernetes would hand it the pods
//! whose volumes were on the old disk, and they would start on empty folders.

use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams};

use super::decide::Node as Part;
use super::images::Images;
use super::{k3d, k3d_step, labels, observe, replace_load_balancer, start};
use crate::repo::k3d::K3dConfig;
use crate::run::Run;
use crate::run::context::Site;
use crate::world::docker::docker_output;
use crate::world::kubernetes::{self, nodes};
use crate::world::tools::Toolbox;
use run_record::Failure;

/// The names of the agents that are there, whatever they were called when they joined.
pub async fn names(config: &K3dConfig) -> Result<Vec<String>, Failure> {
    Ok(agents(config).await?.into_iter().map(|agent| agent.name).collect())
}

async fn agents(config: &K3dConfig) -> Result<Vec<Part>, Failure> {
    Ok(observe(config).await?.iter().map(Part::of).filter(|part| part.is_agent).collect())
}

/// Removes agents that were created and never started: k3d writes a node's files before it
/// starts it, and a creation that was interrupted may not have come so far.
pub async fn remove_never_ran(config: &K3dConfig) -> Result<(), Failure> {
    for agent in agents(config).await?.iter().filter(|agent| agent.never_ran) {
        // Without --force: the engine refuses if it is running by now.
        docker_output(["rm", "-v", &agent.id]).await?;
    }
    Ok(())
}

/// Joins as many new agents as are missing. The servers must run.
pub async fn join(
    run: &Run,
    site: &Site,
    config: &K3dConfig,
    toolbox: &Toolbox,
    images: &Images,
) -> Result<(), Failure> {
    remove_never_ran(config).await?;
    // Everything that is there runs first, the load balancer above all: agents join through
    // it. It does not start while its config names a node that is gone.
    let balanced = config.loadbalancer_container().is_some();
    if balanced {
        replace_load_balancer(run, site, config, images).await?;
    }
    start(run, config, toolbox, images, "started the stopped containers").await?;
    let missing = (config.simple.agents as usize).saturating_sub(names(config).await?.len());
    let step = run.reporter.step(k3d_step(run, config, "joining new agents"));
    let labels = labels(config, images).map(|(label, value)| format!("{label}={value}"));
    for number in 0..missing {
        let name = format!("{}-agent-{:x}{number}", config.name(), jiff::Timestamp::now().as_second());
        let arguments = ["node", "create", &name, "--cluster", config.name(), "--role", "agent", "--wait"];
        let labelled = ["--timeout", "180s", "--runtime-label", &labels[0], "--runtime-label", &labels[1]];
        k3d(run, toolbox, images, &[&arguments[..], &labelled].concat()).await?;
    }
    if balanced {
        replace_load_balancer(run, site, config, images).await?;
    }
    step.done_as(match missing {
        1 => "joined a new agent to replace one that is gone".to_owned(),
        _ => format!("joined {missing} new agents to replace those that are gone"),
    });
    Ok(())
}

/// Deletes the Node objects of agents whose containers are gone, and says which claims were
/// on their disks. k3s would keep them as NotReady forever.
///
/// # Errors
/// One of the looks failed: then nothing is deleted.
pub async fn forget_gone(run: &Run, config: &K3dConfig, client: &Client) -> Result<(), Failure> {
    let prefix = format!("k3d-{}-agent-", config.name());
    let api = Api::<Node>::all(client.clone());
    let listed = api.list(&ListParams::default()).await;
    let listed = listed.map_err(|error| kubernetes::read_failed("the nodes", error))?;
    let name = |node: &Node| node.metadata.name.clone().unwrap_or_default();
    let mut gone: Vec<String> = listed.items.iter().map(name).filter(|name| name.starts_with(&prefix)).collect();
    if gone.is_empty() {
        return Ok(());
    }
    // Looked at after the nodes: a node has its container before it registers. Whether it
    // is Ready says nothing: Kubernetes believes in one that is gone for 40 s.
    let there = names(config).await?;
    gone.retain(|name| !there.contains(name));
    let volumes = Api::<PersistentVolume>::all(client.clone()).list(&ListParams::default()).await;
    let volumes = volumes.map_err(|error| kubernetes::read_failed("the PersistentVolumes", error))?;
    for node in &gone {
        let held = volumes.items.iter().filter(|volume| nodes::of_volume(volume).into_iter().eq([node]));
        let claims: Vec<String> = held
            .filter_map(|volume| volume.spec.as_ref()?.claim_ref.as_ref())
            .map(|claim| {
                format!(
                    "{}/{}",
                    claim.namespace.as_deref().unwrap_or_default(),
                    claim.name.as_deref().unwrap_or_default()
                )
            })
            .collect();
        if !claims.is_empty() {
            let text = format!(
                "is gone, and with it the disk of {}: delete the claim to start with an empty one, then run its layer",
                claims.join(", ")
            );
            run.reporter.warn(node, text);
        }
        match api.delete(node, &DeleteParams::default()).await {
            Ok(_) => run.reporter.note(node, "removed the Node object of an agent whose container is gone"),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(kubernetes::read_failed(&format!("the Node {node}"), error)),
        }
    }
    Ok(())
}
