//! Agents that are gone. Their disks went with them, so nothing is lost by a new one; it
//! gets a name that no node ever had. Under the old name Kubernetes would hand it the pods
//! whose volumes were on the old disk, and they would start on empty folders.

use k8s_openapi::api::core::v1::{self, PersistentVolume};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams};

use super::containers::{CONFIG_LABEL, LAB_LABEL, observe};
use super::decide::Node;
use super::images::Images;
use super::k3d::{k3d, k3d_step, start};
use super::{label, loadbalancer};
use crate::repo::k3d::K3dConfig;
use crate::run::Run;
use crate::run::context::Site;
use crate::world::docker::{self, Container, Kind, docker_output};
use crate::world::kubernetes::{self, nodes};
use crate::world::tools::Toolbox;
use run_record::Failure;

async fn agents(config: &K3dConfig) -> Result<Vec<Node>, Failure> {
    Ok(observe(config).await?.iter().map(Node::of).filter(|node| node.is_agent).collect())
}

/// Whether new agents can take the places of those that are gone: they are like the others, and
/// the load balancer can be made again without the names of those.
pub fn joinable(config: &K3dConfig) -> bool {
    config.agents_are_alike() && (config.loadbalancer_container().is_none() || loadbalancer::spec(config).is_ok())
}

/// Removes agents that were created and never started, and says whether there were any: k3d
/// writes a node's files before it starts it, and a creation that was interrupted may not have
/// come that far.
pub async fn remove_never_ran(config: &K3dConfig) -> Result<bool, Failure> {
    let agents = agents(config).await?;
    let never_ran: Vec<&Node> = agents.iter().filter(|agent| agent.never_ran).collect();
    for agent in &never_ran {
        // Without --force: the engine refuses if it is running by now.
        docker_output(["rm", "-v", &agent.id]).await?;
    }
    Ok(!never_ran.is_empty())
}

/// Joins as many new agents as are missing, none where none is.
pub async fn join(
    run: &Run,
    site: &Site,
    config: &K3dConfig,
    toolbox: &Toolbox,
    images: &Images,
) -> Result<(), Failure> {
    let ran = agents(config).await?.iter().filter(|agent| !agent.never_ran).count();
    let missing = (config.simple.agents as usize).saturating_sub(ran);
    if missing == 0 {
        return Ok(());
    }
    remove_never_ran(config).await?;
    // Agents may join through the load balancer, which does not start while its config names a
    // node that is gone.
    if config.loadbalancer_container().is_some() {
        loadbalancer::replace(run, site, config, images).await?;
    }
    start(run, config, toolbox, images, "started the stopped containers").await?;
    let step = run.reporter.step(k3d_step(run, config, "joining new agents"));
    // Its digest is enough: the config may hold a token, and arguments are seen by everybody.
    let made_from = format!("{CONFIG_LABEL}={}", label::digest(config));
    let lab = format!("{LAB_LABEL}={}", images.lab);
    for number in 0..missing {
        let name = format!("{}-agent-{:x}{number}", config.name(), jiff::Timestamp::now().as_second());
        let arguments = ["node", "create", &name, "--cluster", config.name(), "--role", "agent", "--wait"];
        let labelled = ["--timeout", "180s", "--runtime-label", &made_from, "--runtime-label", &lab];
        k3d(run, toolbox, images, &[&arguments[..], &labelled].concat()).await?;
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
    let api = Api::<v1::Node>::all(client.clone());
    let listed = api.list(&ListParams::default()).await;
    let listed = listed.map_err(|error| kubernetes::read_failed("the nodes", error))?;
    let name = |node: &v1::Node| node.metadata.name.clone().unwrap_or_default();
    let named = listed.items.iter().map(name).filter(|name| name.starts_with(&prefix));
    let mut gone = Vec::new();
    for name in named {
        // Looked at after the nodes: a node has its container before it registers. Whether it is
        // Ready proves nothing: Kubernetes believes in one that is gone for 40 s.
        if docker::look::<Container>(Kind::Container, &name).await?.found().is_none() {
            gone.push(name);
        }
    }
    if gone.is_empty() {
        return Ok(());
    }
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
            Err(error) => return Err(kubernetes::write_failed(&format!("the Node {node}"), error)),
        }
    }
    Ok(())
}
