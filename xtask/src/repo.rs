//! What the tree says, parsed once: layers and what they need, environments, k3d. No layer, image
//! or namespace is hard-coded in Rust.

pub mod environment;
pub mod k3d;
pub mod layers;
pub mod needs;

use camino::{Utf8Path, Utf8PathBuf};
use run_record::Failure;
use serde::de::DeserializeOwned;

use crate::files::bounds;
use environment::Environment;
use k3d::K3dConfig;
use layers::Layer;
use needs::LayerNeeds;

/// The root of the work tree.
#[derive(Clone, Debug)]
pub struct Tree {
    pub root: Utf8PathBuf,
}

impl Tree {
    /// Searched from the current folder upwards, as cargo finds its workspace.
    pub fn discover(from: &Utf8Path) -> Result<Self, Failure> {
        let marker = "infra/kubernetes/helmfiles";
        from.ancestors()
            .find(|folder| folder.join(marker).is_dir())
            .map(|root| Self { root: root.to_owned() })
            .ok_or_else(|| Failure::usage(format!("no folder from {from} upwards holds {marker}")))
    }

    pub fn path(&self, relative: &str) -> Utf8PathBuf {
        self.root.join(relative)
    }

    /// Every layer, ordered by number.
    pub fn layers(&self) -> Result<Vec<Layer>, Failure> {
        let folder = self.path("infra/kubernetes/helmfiles");
        let entries = folder
            .read_dir_utf8()
            .map_err(|error| Failure::usage(format!("cannot list the layers in {folder}: {error}")))?;
        let mut layers: Vec<Layer> = entries.flatten().filter_map(|entry| Layer::from_path(entry.path())).collect();
        layers.sort();
        if layers.is_empty() {
            return Err(Failure::usage(format!("{folder} holds no layer: expected files like 45-data-plane-ext.yaml")));
        }
        Ok(layers)
    }

    pub fn environments(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .path("infra/kubernetes/environments")
            .read_dir_utf8()
            .map(|entries| {
                let with_env = entries.flatten().filter(|entry| entry.path().join("env.yaml").is_file());
                with_env.map(|entry| entry.file_name().to_owned()).collect()
            })
            .unwrap_or_default();
        names.sort();
        names
    }

    pub fn environment(&self, name: &str) -> Result<Environment, Failure> {
        let known = self.environments();
        if !known.iter().any(|other| other == name) {
            return Err(Failure::usage(format!(
                "unknown environment {name:?} (--env): expected one of {}",
                known.join(", ")
            )));
        }
        let path = self.path("infra/kubernetes/environments").join(name).join("env.yaml");
        Environment::parse(&path, &read(&path)?)
    }

    pub fn layer_needs(&self) -> Result<LayerNeeds, Failure> {
        let path = self.path("infra/kubernetes/layers.yaml");
        LayerNeeds::parse(&path, &read(&path)?)
    }
}

/// What the tree says for the chosen environment.
pub struct Repo {
    pub tree: Tree,
    pub env_name: String,
    pub env: Environment,
}

impl Repo {
    /// The local cluster's configuration; `None` if the environment is a shared cluster.
    pub fn k3d_config(&self) -> Result<Option<K3dConfig>, Failure> {
        self.env.cluster.k3d.as_ref().map(|path| K3dConfig::read(&self.tree.root.join(path))).transpose()
    }

    pub fn require_k3d_config(&self) -> Result<K3dConfig, Failure> {
        self.k3d_config()?.ok_or_else(|| {
            Failure::usage(format!(
                "environment {:?} is a shared cluster (its env.yaml names no cluster.k3d): nothing to create or delete",
                self.env_name
            ))
        })
    }
}

/// Parses a YAML file; the error names file, line and column.
pub fn read_yaml<T: DeserializeOwned>(path: &Utf8Path) -> Result<T, Failure> {
    parse_yaml(path, &read(path)?)
}

/// Reads a file of the tree, up to the size limit for settings.
pub fn read(path: &Utf8Path) -> Result<String, Failure> {
    bounds::read(path, bounds::SETTINGS).map_err(|error| Failure::usage(format!("cannot read {path}: {error}")))
}

pub fn parse_yaml<T: DeserializeOwned>(path: &Utf8Path, text: &str) -> Result<T, Failure> {
    bounds::yaml(text).map_err(|error| Failure::usage(format!("{path}: {}", bounds::in_words(&error, text))))
}

/// `INFRA_CRITICAL_PATH` (names separated by spaces or commas), else the value in layers.yaml.
pub fn critical_path(tree: &Tree) -> Result<Vec<String>, Failure> {
    let from_env = std::env::var("INFRA_CRITICAL_PATH").unwrap_or_default();
    let named: Vec<String> = from_env.split([' ', ',']).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if named.is_empty() { Ok(tree.layer_needs()?.critical_path) } else { Ok(named) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_yaml_is_reported_with_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("env.yaml")).unwrap();
        std::fs::write(&path, "cluster:\n  context: k3d-x\n  colour: red\nregistry: {push: a, pull: b}\n").unwrap();
        let message = read_yaml::<Environment>(&path).unwrap_err().message;
        assert!(message.contains("env.yaml") && message.contains("colour") && message.contains('3'), "{message}");
    }
}
