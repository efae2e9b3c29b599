//! What there is of the cluster, for [`decide`](super::decide).

use super::containers::{CONFIG_LABEL, CREATED_STAMP, is_lab};
use super::decide::{Facts, Node};
use super::marker::is_marked;
use super::{agents, label, loadbalancer};
use crate::lab;
use crate::repo::Repo;
use crate::repo::k3d::{Difference, K3dConfig};
use crate::run::Run;
use crate::world::docker::{self, Container, Looked};
use run_record::Failure;

/// The lab's current image of a node, for a cluster that was created with the lab's images.
pub fn its_lab_node(repo: &Repo, existing: &[Container]) -> Option<String> {
    // What is wrong with the lab's files is reported by the run that needs them.
    is_lab(existing).then(|| lab::node_image(&repo.tree).ok()).flatten()
}

/// `lab_node`: the image that a node has to have, if the lab has made it.
pub async fn facts(
    run: &Run,
    config: &K3dConfig,
    existing: &[Container],
    lab_node: Option<&str>,
) -> Result<Facts, Failure> {
    let server = existing.iter().find(|container| container.name() == config.server_container());
    let mut drift = Vec::new();
    let nodes: Vec<Node> = existing.iter().map(Node::of).collect();
    let foreign =
        existing.iter().zip(&nodes).any(|(container, node)| node.holds_data && container.label(CONFIG_LABEL).is_none());
    if let Some(server) = server {
        match server.label(CONFIG_LABEL).and_then(|label| label::drift(label, config)) {
            Some(found) => drift = found,
            None => drift.push(Difference {
                field: "metadata.name".into(),
                cluster: "a cluster of this name that something else created".into(),
                file: config.name().into(),
            }),
        }
        if let Some(node) = lab_node.filter(|node| *node != server.config.image) {
            drift.push(Difference {
                field: "image (lab)".into(),
                cluster: server.config.image.clone(),
                file: node.to_owned(),
            });
        }
    }
    let stamp = match server {
        // One that was found ready had been created completely.
        Some(server) if is_marked(run, server) => Looked::Found(()),
        Some(server) if !server.never_ran() && server.label(CONFIG_LABEL).is_some() => {
            docker::look_at_file(server.name(), CREATED_STAMP).await?
        }
        _ => Looked::Found(()),
    };
    Ok(Facts {
        nodes,
        servers: config.servers(),
        agents: config.simple.agents as usize,
        balancer: config.loadbalancer_container(),
        joinable: agents::joinable(config),
        replaceable: loadbalancer::spec(config).ok().and(config.loadbalancer_container()),
        stamp,
        drift,
        foreign,
    })
}
