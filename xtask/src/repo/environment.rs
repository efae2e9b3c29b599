//! An environment: its cluster, its registry, and which account is written into it.

use std::net::{Ipv4Addr, SocketAddr};

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use image_mirror::Endpoint;
use run_record::Failure;
use serde::Deserialize;

use super::parse_yaml;

/// The default environment.
pub const DEFAULT: &str = "local";

/// `infra/kubernetes/environments/<env>/env.yaml`, which Helmfile reads as well.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Environment {
    pub cluster: ClusterSettings,
    pub registry: RegistrySettings,
    #[serde(default)]
    pub pull_secret: PullSecretSettings,
}

impl Environment {
    /// # Errors
    /// A file that is missing, or has an invalid value; file and field are named.
    pub fn parse(path: &Utf8Path, text: &str) -> Result<Self, Failure> {
        let environment: Self = parse_yaml(path, text)?;
        let ClusterSettings { context, lease_namespace: namespace, .. } = &environment.cluster;
        // It also names the folder with the cluster's records, which goes with the cluster.
        let mut parts = Utf8Path::new(context).components();
        if context.is_empty() || !parts.all(|part| matches!(part, Utf8Component::Normal(_))) {
            return Err(Failure::usage(format!(
                "{path}: cluster.context {context:?}: expected the name of a kubeconfig context, without . or .. between slashes"
            )));
        }
        for (field, host) in [("push", &environment.registry.push), ("pull", &environment.registry.pull)] {
            let parts = Endpoint::named(host).parts().map(drop);
            parts.map_err(|error| Failure::usage(format!("{path}: registry.{field}: {error}")))?;
        }
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let is_label = namespace.starts_with(plain) && namespace.ends_with(plain) && namespace.len() <= 63;
        if !is_label || !namespace.chars().all(|c| plain(c) || c == '-') {
            return Err(Failure::usage(format!(
                "{path}: cluster.leaseNamespace {namespace:?}: expected the name of a namespace"
            )));
        }
        Ok(environment)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClusterSettings {
    /// The k3d config file, relative to the root; none for a shared cluster.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub k3d: Option<Utf8PathBuf>,
    /// The kubeconfig context.
    pub context: String,
    /// The namespace of the Lease that keeps runs apart: the same for everybody who deploys there.
    #[serde(default = "kube_system")]
    pub lease_namespace: String,
}

fn kube_system() -> String {
    "kube-system".to_owned()
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PullSecretSettings {
    /// Whether the Docker Hub account of whoever runs a layer is written into Secrets there.
    #[serde(default)]
    pub from_shell: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RegistrySettings {
    /// The name that this machine pushes to.
    pub push: String,
    /// The name that pods pull from.
    pub pull: String,
    /// Without TLS.
    #[serde(default, rename = "plainHTTP")]
    pub plain_http: bool,
    /// The registry's certificate authority, if this machine does not trust it already: PEM, in the
    /// tree.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub ca: Option<Utf8PathBuf>,
}

impl RegistrySettings {
    /// Where a registry of this machine is published; `None` if `push` names no port.
    pub fn published(&self) -> Option<SocketAddr> {
        let (_, port) = self.push.rsplit_once(':')?;
        Some((Ipv4Addr::LOCALHOST, port.parse().ok()?).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::Tree;

    #[test]
    fn the_schema_of_env_yaml_is_that_of_the_type() {
        crate::schema::kept::<Environment>("environment.json");
    }

    #[test]
    fn a_context_that_is_no_folder_of_its_own_and_a_name_that_no_registry_has_are_refused_with_their_field() {
        let parse = |context: &str, push: &str, pull: &str| {
            let text = format!("cluster: {{context: '{context}'}}\nregistry: {{push: '{push}', pull: '{pull}'}}\n");
            Environment::parse("env.yaml".into(), &text)
        };
        for context in ["k3d-ameide", "arn:aws:eks:eu-west-1:1:cluster/x", "a b"] {
            assert_eq!(parse(context, "a:5000", "b/team").unwrap().cluster.context, context);
        }
        for context in ["", "/tmp/x", "..", ".", "../../x", "a/../../x", "./x"] {
            let message = parse(context, "a", "b").unwrap_err().message;
            assert!(message.starts_with(&format!("env.yaml: cluster.context {context:?}")), "{message}");
        }
        for (push, pull, field) in [("http://x y", "b", "push"), ("", "b", "push"), ("a", "https://b", "pull")] {
            let message = parse("c", push, pull).unwrap_err().message;
            assert!(message.starts_with(&format!("env.yaml: registry.{field}: ")), "{message}");
        }
    }

    #[test]
    fn the_leases_namespace_is_one_that_can_be_and_kube_system_where_nothing_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
        let path = root.join("infra/kubernetes/environments/x/env.yaml");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let with = |more: &str| {
            let text = format!("cluster:\n  context: c\n{more}registry: {{push: a, pull: b}}\n");
            std::fs::write(&path, text).unwrap();
            Tree { root: root.clone() }.environment("x")
        };
        assert_eq!(with("").unwrap().cluster.lease_namespace, "kube-system");
        assert!(!with("").unwrap().pull_secret.from_shell);
        assert_eq!(with("  leaseNamespace: team-a\n").unwrap().cluster.lease_namespace, "team-a");
        for name in ["''", "Team", "a/b", "-a", "a.b", &"a".repeat(64)] {
            let message = with(&format!("  leaseNamespace: {name}\n")).unwrap_err().message;
            assert!(message.contains("env.yaml") && message.contains("leaseNamespace"), "{message}");
        }
    }
}
