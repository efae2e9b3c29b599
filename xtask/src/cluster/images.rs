//! The images of the cluster itself: the lab's, or those that `infra/images/images.yaml` lists with
//! a role, loaded before k3d would pull them.

use image_mirror::Role;

use crate::lab::Lab;
use crate::mirror;
use crate::repo::Repo;
use crate::repo::k3d::K3dConfig;
use crate::run::context::Context;
use crate::world::process::environment::variable;
use run_record::Failure;

/// The names of images for k3d; `None` leaves the choice to k3d.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Images {
    /// The nodes' image, if it is not to be k3d.yaml's.
    pub node: Option<String>,
    /// The nodes' image that the tree lists, which may differ from k3d.yaml's.
    listed_node: Option<String>,
    pub tools: Option<String>,
    pub registry: Option<String>,
    pub loadbalancer: Option<String>,
    /// They were built here, and are never pulled.
    pub lab: bool,
}

/// The variables with which people give k3d other helper images.
const TOOLS: &str = "K3D_IMAGE_TOOLS";
const LOADBALANCER: &str = "K3D_IMAGE_LOADBALANCER";

impl Images {
    /// # Errors
    /// `usage` for an image lock that cannot be read.
    pub fn of(repo: &Repo, lab: Option<&Lab>) -> Result<Self, Failure> {
        if let Some(lab) = lab {
            let (tools, loadbalancer) = (Some(lab.tools.clone()), Some(lab.loadbalancer.clone()));
            let (node, registry) = (Some(lab.node.clone()), Some(lab.registry.clone()));
            return Ok(Self { node, listed_node: None, tools, registry, loadbalancer, lab: true });
        }
        let mut listed = mirror::of_the_cluster(repo)?;
        let set = |name: &str| variable(name).filter(|image| !image.is_empty());
        Ok(Self {
            node: None,
            listed_node: listed.remove(&Role::Node),
            tools: set(TOOLS).or_else(|| listed.remove(&Role::Tools)),
            registry: listed.remove(&Role::Registry),
            loadbalancer: set(LOADBALANCER).or_else(|| listed.remove(&Role::Loadbalancer)),
            lab: false,
        })
    }

    /// The environment variables that tell k3d about them.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let named = [(TOOLS, &self.tools), (LOADBALANCER, &self.loadbalancer)];
        named.into_iter().filter_map(|(variable, image)| Some((variable, image.as_deref()?)))
    }

    pub async fn load_registry(&self, context: &Context) -> Result<(), Failure> {
        self.load(context, &[self.registry.as_deref()]).await
    }

    /// Loads what creating the cluster needs.
    pub async fn load_nodes(&self, context: &Context, config: &K3dConfig) -> Result<(), Failure> {
        let node = self.listed_node.as_deref().filter(|listed| is_named(config.simple.image.as_deref(), listed));
        let loadbalancer = config.loadbalancer_container().and(self.loadbalancer.as_deref());
        self.load(context, &[node, self.tools.as_deref(), loadbalancer]).await
    }

    /// Loads what starting the cluster and recreating its load balancer need.
    pub async fn load_helpers(&self, context: &Context) -> Result<(), Failure> {
        self.load(context, &[self.tools.as_deref(), self.loadbalancer.as_deref()]).await
    }

    async fn load(&self, context: &Context, names: &[Option<&str>]) -> Result<(), Failure> {
        if self.lab {
            return Ok(());
        }
        mirror::load(context, &names.iter().flatten().copied().collect::<Vec<_>>()).await
    }
}

/// Whether k3d.yaml means the listed image, whose name includes its registry.
fn is_named(image: Option<&str>, listed: &str) -> bool {
    let Some(image) = image else { return false };
    let short = listed.strip_prefix("docker.io/").unwrap_or(listed);
    [listed, short, short.strip_prefix("library/").unwrap_or(short)].contains(&image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k3d_yaml_may_name_docker_hub_or_not() {
        for (image, listed, same) in [
            (Some("rancher/k3s:v1"), "docker.io/rancher/k3s:v1", true),
            (Some("docker.io/rancher/k3s:v1"), "docker.io/rancher/k3s:v1", true),
            (Some("k3s:v1"), "docker.io/library/k3s:v1", true),
            (Some("rancher/k3s:v2"), "docker.io/rancher/k3s:v1", false),
            (Some("rancher/k3s:v1"), "ghcr.io/rancher/k3s:v1", false),
            (None, "docker.io/rancher/k3s:v1", false),
        ] {
            assert_eq!(is_named(image, listed), same, "{image:?} {listed}");
        }
    }
}
