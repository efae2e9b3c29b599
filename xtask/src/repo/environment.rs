//! An environment: its cluster, its registry, and which account is written into it.

use camino::{Utf8Path, Utf8PathBuf};
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
        let namespace = &environment.cluster.lease_namespace;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::Tree;

    #[test]
    fn the_schema_of_env_yaml_is_that_of_the_type() {
        crate::schema::kept::<Environment>("environment.json");
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
