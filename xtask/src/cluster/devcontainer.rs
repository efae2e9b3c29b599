//! In a container whose Docker Engine is outside it (a devcontainer with the host's socket), ports
//! that containers publish are not at 127.0.0.1. Then this container joins the cluster's network,
//! and everything is reached by name: the API as `https://k3d-NAME-serverlb:6443`, which its
//! certificate covers, so that TLS is verified as anywhere else; the registry by the name that pods
//! use.
//!
//! A container with its own engine, or with the host's network, is like any other machine and needs
//! none of this.

use crate::host;
use crate::repo::Repo;
use crate::repo::k3d::K3dConfig;
use crate::run::context::Site;
use crate::world::docker::{self, Kind, Looked, Thing, docker_output};
use crate::world::process;
use run_record::Failure;

/// The label of a network that was created here, before k3d did.
pub const NETWORK_LABEL: &str = "ameide.dev/cluster";

/// Asks the engine whether it runs the container that this process is in, and if so
/// writes it into `site`. Outside a container it costs one look at a file.
pub async fn adapt(repo: &Repo, site: &mut Site) {
    if !std::path::Path::new("/.dockerenv").exists() || repo.env.cluster.k3d.is_none() {
        return;
    }
    let Some(id) = own_id(&host::mounts()) else { return };
    let inspect = docker::docker(["container", "inspect", "--format", "{{.HostConfig.NetworkMode}}", &id]);
    // An engine that does not know us is inside the container, or there is none: nothing to join.
    let Ok(Ok(mode)) = process::capture(inspect).await.map(process::Captured::ok) else { return };
    if mode.trim() != "host" {
        site.registry_host.clone_from(&repo.env.registry.pull);
        site.inside = Some(id);
    }
}

/// The container's id, from the source of a mount that Docker creates for each container:
/// `…/containers/ID/hostname /etc/hostname …` (proc(5), fields 4 and 5).
fn own_id(mountinfo: &str) -> Option<String> {
    mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, mount_point) = (fields.next()?, fields.next()?);
        let id = root.strip_suffix("/hostname")?.rsplit('/').next()?;
        let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        (mount_point == "/etc/hostname" && is_id).then(|| id.to_owned())
    })
}

/// Connects this container, and others by name, to the cluster's network, which is created if
/// necessary.
pub async fn join(site: &Site, config: &K3dConfig, others: &[&str]) -> Result<(), Failure> {
    let Some(own) = &site.inside else { return Ok(()) };
    let network = config.network();
    if docker::look::<Thing>(Kind::Network, &network).await? == Looked::Absent {
        let label = format!("{NETWORK_LABEL}={}", config.name());
        docker_output(["network", "create", "--label", &label, &network]).await?;
    }
    for container in others.iter().chain([&own.as_str()]) {
        let connected = docker_output(["network", "connect", &network, container]).await;
        match connected {
            // Docker's wording, and podman's.
            Err(failure)
                if !failure.evidence.iter().any(|line| {
                    line.contains("already exists in network") || line.contains("already connected to network")
                }) =>
            {
                return Err(failure);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Leaves the network, which could not be removed otherwise.
pub async fn leave(site: &Site, config: &K3dConfig) {
    if let Some(own) = &site.inside {
        // Not connected, or already gone: both are fine.
        let _ = docker_output(["network", "disconnect", "--force", &config.network(), own]).await;
    }
}

/// The API server's address from here; `None` if it is as k3d says.
pub fn api_server(site: &Site, config: &K3dConfig) -> Option<String> {
    site.inside.as_ref()?;
    let host = config.loadbalancer_container().unwrap_or_else(|| config.server_container());
    Some(format!("https://{host}:6443"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_own_id_is_in_its_mounts() {
        let id = "0123456789abcdef".repeat(4);
        let line = |root: &str| {
            format!(
                "613 600 254:1 {root} /etc/hostname rw,relatime - ext4 /dev/vda1 rw\n614 600 254:1 /x /etc/hosts rw - ext4 d rw"
            )
        };
        let docker = line(&format!("/var/lib/docker/containers/{id}/hostname"));
        assert_eq!(own_id(&docker), Some(id));
        assert_eq!(own_id(&line("/var/lib/containers/abc/hostname")), None);
        assert_eq!(own_id("22 1 254:1 / / rw - ext4 /dev/vda1 rw"), None);
    }
}
