//! The cluster's containers, as Docker has them.

use crate::repo::k3d::K3dConfig;
use crate::world::docker::{self, Container, Kind, docker_output};
use run_record::{Code, Failure};

/// The label that k3d puts on each container of a cluster.
pub const CLUSTER_LABEL: &str = "k3d.cluster";

/// The label with the config that a cluster was created from.
pub const CONFIG_LABEL: &str = "ameide.dev/config";

/// The label of a cluster whose images come from the lab.
pub const LAB_LABEL: &str = "ameide.dev/lab";

/// A file in the server's container, written at the end of its creation.
pub const CREATED_STAMP: &str = "/etc/ameide-created";

/// Every container of the cluster; a look that did not see all of them has failed.
pub async fn observe(config: &K3dConfig) -> Result<Vec<Container>, Failure> {
    docker::containers_labelled(&[(CLUSTER_LABEL, config.name())]).await
}

/// Whether these containers were created with the lab's images.
pub fn is_lab(existing: &[Container]) -> bool {
    existing.iter().any(|container| container.label(LAB_LABEL) == Some("true"))
}

/// Notes in the server's container that its creation was completed.
pub async fn stamp(config: &K3dConfig) -> Result<(), Failure> {
    docker_output(["exec", &config.server_container(), "touch", CREATED_STAMP]).await.map(drop)
}

pub fn missing(name: &str) -> Failure {
    Failure::new(Code::ClusterMissing, format!("the container {name} does not exist")).remedy("cargo xtask cluster")
}

/// The id of the server's container, which no other cluster of this name has.
///
/// # Errors
/// `cluster-missing`, and those of the engine.
pub async fn cluster_id(config: &K3dConfig) -> Result<String, Failure> {
    let name = config.server_container();
    let found = docker::look::<Container>(Kind::Container, &name).await?.found();
    found.map(|container| container.id).ok_or_else(|| missing(&name))
}

pub fn not_ours(name: &str) -> Failure {
    Failure::new(Code::NotOurs, format!("there is a container {name}, which k3d did not create"))
        .evidence("it lacks the labels app=k3d, k3d.role=registry")
        .remedy(format!("docker inspect {name} shows what it is; rename it, or the registry in k3d.yaml"))
}
