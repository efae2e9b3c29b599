//! The network of a cluster that stands still. `docker network prune` removes it then, since no
//! container uses it, and whoever makes one of that name again gives it another id, maybe another
//! address range. Docker starts a container only with the network of the id that it remembers.

use super::decide::Node;
use crate::repo::k3d::K3dConfig;
use crate::run::Run;
use crate::world::docker::{self, Container, Kind, Looked, Thing, docker_output};
use run_record::Failure;

/// Gives stopped containers the network of the cluster's name that there is now, which is created
/// if there is none. Nothing in them depends on their addresses: nodes go by their names, and a
/// server issues its certificates for the addresses that it starts with.
///
/// # Errors
/// Those of the engine.
pub async fn restore(run: &Run, config: &K3dConfig, existing: &[Container]) -> Result<(), Failure> {
    let name = config.network();
    let stopped = existing.iter().filter(|container| !container.state.running && !Node::of(container).never_ran);
    // Podman may not say which networks a container is in.
    let stopped: Vec<&Container> = stopped.filter(|container| container.network_settings.is_some()).collect();
    if stopped.is_empty() || is_not_ours(&name) {
        return Ok(());
    }
    let look = async || docker::look::<Thing>(Kind::Network, &name).await;
    let network = match look().await? {
        Looked::Found(network) => network,
        Looked::Absent => {
            let mut arguments = vec!["network", "create", "--label", "app=k3d"];
            let subnet = config.simple.subnet.as_deref().filter(|subnet| *subnet != "auto");
            let gateway = subnet.and_then(first_address);
            if let (Some(subnet), Some(gateway)) = (subnet, &gateway) {
                // k3d refuses a network of which Docker does not say the gateway.
                arguments.extend(["--subnet", subnet, "--gateway", gateway]);
            }
            docker_output([&arguments[..], &[&name]].concat()).await?;
            run.reporter.note(&name, "created the network again, which was removed while the cluster was stopped");
            let Looked::Found(network) = look().await? else { return Ok(()) };
            network
        }
    };
    for container in stopped {
        if reconnect(config, container, &network).await? {
            let text = format!("connected to the network {name}, which is no longer the one it was in");
            run.reporter.note(container.name(), text);
        }
    }
    Ok(())
}

/// Connects a container to the network of this id, if it is not in it; whether it was not.
async fn reconnect(config: &K3dConfig, container: &Container, network: &Thing) -> Result<bool, Failure> {
    if container.network_id(&network.name) == Some(network.id.as_str()) {
        return Ok(false);
    }
    // From the one that is gone, which Docker may not find any more.
    let _ = docker_output(["network", "disconnect", "--force", &network.name, &container.id]).await;
    let address = container.label("k3d.node.staticIP").filter(|_| config.simple.subnet.is_some());
    let at = address.map(|address| ["--ip", address]).into_iter().flatten();
    let arguments: Vec<&str> = ["network", "connect"].into_iter().chain(at).collect();
    docker_output([&arguments[..], &[&network.name, &container.id]].concat()).await?;
    Ok(true)
}

/// The machine's own network, which nothing is connected to afterwards.
fn is_not_ours(network: &str) -> bool {
    matches!(network, "host" | "none" | "bridge")
}

/// The first address for a host in an IPv4 range; `None` for what is none.
fn first_address(subnet: &str) -> Option<String> {
    let (network, _) = subnet.split_once('/')?;
    let network: std::net::Ipv4Addr = network.parse().ok()?;
    Some(std::net::Ipv4Addr::from(u32::from(network).checked_add(1)?).to_string())
}

/// Connects the registry to the cluster's network. k3d does that when it creates the cluster; a
/// registry that was made again since would be known to no node.
///
/// # Errors
/// Those of the engine.
pub async fn connect_registry(run: &Run, config: &K3dConfig) -> Result<(), Failure> {
    let (Some(registry), name) = (config.registry_container(), config.network()) else { return Ok(()) };
    let Looked::Found(container) = docker::look::<Container>(Kind::Container, &registry).await? else {
        return Ok(());
    };
    if container.network_settings.is_none() || is_not_ours(&name) {
        return Ok(());
    }
    let Looked::Found(network) = docker::look::<Thing>(Kind::Network, &name).await? else { return Ok(()) };
    if reconnect(config, &container, &network).await? {
        run.reporter.note(&registry, format!("connected to the cluster's network {name}"));
    }
    Ok(())
}

/// Why no node reaches the registry, where that is known: it is not in the network that the server
/// is in.
pub fn apart(config: &K3dConfig, existing: &[Container], registry: &Looked<Container>) -> Option<String> {
    let (name, registry_name) = (config.network(), config.registry_container()?);
    let server = existing.iter().find(|container| container.name() == config.server_container())?;
    // Podman may not say which networks a container is in.
    let network = server.network_id(&name).filter(|_| !is_not_ours(&name))?;
    let Looked::Found(container) = registry else { return Some(format!("there is no registry {registry_name}")) };
    let is_in_it = container.network_settings.is_none() || container.network_id(&name) == Some(network);
    (!is_in_it).then(|| format!("the registry {registry_name} is not in the cluster's network {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_begins_with_its_gateway() {
        for (subnet, gateway) in
            [("10.99.0.0/24", Some("10.99.0.1")), ("auto", None), ("fd00::/64", None), ("x/24", None)]
        {
            assert_eq!(first_address(subnet).as_deref(), gateway, "{subnet}");
        }
    }
}
