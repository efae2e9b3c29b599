//! The load balancer in front of the servers, recreated from k3d.yaml if its container is lost: it
//! forwards connections and holds nothing, and k3d has no command for it (5.8.3: `node create` only
//! knows servers and agents).
//!
//! Created as k3d does: `pkg/client/loadbalancer.go`, `pkg/client/ports.go` and
//! `pkg/runtimes/docker/translate.go` of k3d 5.8.3.

use std::collections::BTreeMap;
use std::io::Write;

use super::containers::{missing, not_ours, observe};
use super::decide::{Node, ROLE_LABEL};
use super::images::Images;
use super::k3d::require_ports_free;
use crate::repo::k3d::{K3dConfig, Mapping};
use crate::run::Run;
use crate::run::context::Site;
use crate::world::docker::{Container, docker_output};
use run_record::{Code, Failure, Step, StepKind};

/// The file where k3d's proxy image reads which ports to forward to which nodes.
const CONFIG: &str = "/etc/confd/values.yaml";
const API_PORT: u16 = 6443;

/// What the container is created from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    name: String,
    network: String,
    /// Host side and container port, in the format of `docker create --publish`.
    published: Vec<String>,
    values: String,
}

/// The load balancer of a config, in front of its servers alone: they also pass on what is meant
/// for agents, which come and go.
///
/// # Errors
/// Why it cannot be made from the config alone.
pub fn spec(config: &K3dConfig) -> Result<Spec, String> {
    let name = config.loadbalancer_container().ok_or("the config disables it")?;
    let overridden = config.simple.options.as_ref().and_then(|o| o.k3d.as_ref()).and_then(|k| k.loadbalancer.as_ref());
    if overridden.is_some_and(|value| !value.is_null()) {
        return Err("options.k3d.loadbalancer is set".to_owned());
    }
    let servers = config.servers();
    let mut targets = BTreeMap::from([(format!("{API_PORT}.tcp"), servers.clone())]);
    let mut published = vec![format!("{}:{API_PORT}", config.api_binding().ok_or("kubeAPI.hostPort is not set")?)];
    for port in &config.simple.ports {
        let filters: Vec<&str> = port.node_filters.iter().map(String::as_str).collect();
        if filters.iter().all(|filter| filter.ends_with(":direct")) && !filters.is_empty() {
            continue;
        }
        if !filters.iter().all(|filter| filter.starts_with("loadbalancer")) {
            return Err(format!("ports: {} names single nodes", port.port));
        }
        let mapping =
            Mapping::parse(&port.port).ok_or_else(|| format!("ports: {} is a range, or random", port.port))?;
        targets.insert(format!("{}.{}", mapping.inside, mapping.protocol), servers.clone());
        published.push(mapping.publish());
    }
    let mut values = "ports:\n".to_owned();
    for (port, nodes) in &targets {
        values.push_str(&format!("  {port}:\n"));
        nodes.iter().for_each(|node| values.push_str(&format!("  - {node}\n")));
    }
    let connections = 1024 + published.len() * servers.len();
    values.push_str(&format!("settings:\n  workerConnections: {connections}\n"));
    Ok(Spec { name, network: config.network(), published, values })
}

/// Makes the load balancer's container again, with the servers behind it: they pass on what is
/// meant for agents, and no agent that goes keeps it from starting.
pub(super) async fn replace(run: &Run, site: &Site, config: &K3dConfig, images: &Images) -> Result<(), Failure> {
    let spec = spec(config).map_err(Failure::usage)?;
    let existing = observe(config).await?;
    let named = |name: &str| existing.iter().find(|container| container.name() == name);
    let server = named(&config.server_container()).ok_or_else(|| missing(&config.server_container()))?;
    let name = config.loadbalancer_container().unwrap_or_default();
    let step = run.reporter.step(Step::new(StepKind::Cluster, &name, "recreating the load balancer"));
    if let Some(container) = named(&name) {
        if Node::of(container).holds_data {
            return Err(not_ours(&name));
        }
        docker_output(["rm", "-f", "-v", &container.id]).await?;
    } else {
        require_ports_free(site, config, &existing)?;
    }
    let image = image(images.loadbalancer.as_deref(), server);
    make(&spec, server, &image).await?;
    step.done_as("recreated the load balancer, which holds no data");
    Ok(())
}

/// Creates the container and starts it. Its labels are those of the server, by which k3d finds it.
async fn make(spec: &Spec, server: &Container, image: &str) -> Result<(), Failure> {
    let disk = |error: std::io::Error| {
        Failure::new(Code::DiskFull, format!("cannot write the load balancer's config: {error}"))
    };
    // One of the labels is the cluster's token, so it must not be an argument.
    let mut labels = tempfile::NamedTempFile::new().map_err(disk)?;
    for (key, value) in labels_of(server) {
        writeln!(labels, "{key}={value}").map_err(disk)?;
    }
    let folder = tempfile::tempdir().map_err(disk)?;
    let root = lay_out(folder.path(), &spec.values).map_err(disk)?;

    let mut arguments = vec!["create", "--name", &spec.name, "--hostname", &spec.name, "--network", &spec.network];
    arguments.extend(["--init", "--privileged", "--userns", "host", "--tmpfs", "/run", "--tmpfs", "/var/run"]);
    arguments.extend(["--restart", "unless-stopped"]);
    let label_file = labels.path().to_string_lossy().into_owned();
    arguments.extend(["--label-file", &label_file]);
    spec.published.iter().for_each(|port| arguments.extend(["--publish", port]));
    arguments.push(image);
    docker_output(arguments).await?;
    docker_output(["cp", &format!("{}/.", root.display()), &format!("{}:/", spec.name)]).await?;
    docker_output(["start", &spec.name]).await?;
    Ok(())
}

/// Writes the config below a folder that represents the container's root, including the folders in
/// between in case the image lacks them. Their modes are those in the container.
fn lay_out(folder: &std::path::Path, values: &str) -> std::io::Result<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let root = folder.join("root");
    let config = root.join(CONFIG.trim_start_matches('/'));
    let parent = config.parent().unwrap_or(&root);
    std::fs::create_dir_all(parent)?;
    std::fs::write(&config, values)?;
    for path in parent.ancestors().take_while(|path| path.starts_with(&root)) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    }
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o644))?;
    Ok(root)
}

/// The server's labels, except those about the server itself.
fn labels_of(server: &Container) -> BTreeMap<String, String> {
    let labels = server.config.labels.iter().flatten();
    let ours = labels.filter(|(key, value)| {
        let known = *key == "app" || key.starts_with("k3d.") || key.starts_with("ameide.dev/");
        let own = key.starts_with("k3d.server.api.") || matches!(key.as_str(), "k3d.server.init" | "k3d.node.staticIP");
        known && !own && !value.contains('\n')
    });
    let mut labels: BTreeMap<String, String> = ours.map(|(key, value)| (key.clone(), value.clone())).collect();
    labels.insert(ROLE_LABEL.to_owned(), "loadbalancer".to_owned());
    labels
}

/// k3d's load balancer image: the one chosen here, or the published one for the k3d that created
/// the server.
fn image(chosen: Option<&str>, server: &Container) -> String {
    let version = server.label("k3d.version").unwrap_or("latest").trim_start_matches('v');
    chosen.map_or_else(|| format!("ghcr.io/k3d-io/k3d-proxy:{version}"), str::to_owned)
}
