//! What the tree says, parsed once: layers and what they need, environments, k3d. No layer, image
//! or namespace is hard-coded in Rust.

pub mod environment;
pub mod k3d;
pub mod layers;
pub mod needs;

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;

use camino::{Utf8Path, Utf8PathBuf};
use run_record::Failure;
use serde::de::DeserializeOwned;

use crate::files::bounds;
use environment::Environment;
use k3d::K3dConfig;
use layers::Layer;
use needs::LayerNeeds;

const ENVIRONMENTS: &str = "infra/kubernetes/environments";
const ENV_FILE: &str = "env.yaml";

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
        let mut layers = Vec::new();
        for path in entries(&folder)? {
            let layer = Layer::from_path(&path).map_err(|error| Failure::usage(format!("{path}: {error}")))?;
            if layer.is_some() && !path.is_file() {
                return Err(Failure::usage(format!("{path}: expected a file")));
            }
            layers.extend(layer);
        }
        layers.sort();
        if let Some(pair) = layers.windows(2).find(|pair| pair[0].name() == pair[1].name()) {
            return Err(Failure::usage(format!(
                "{} and {} are both the layer {}",
                pair[0].path,
                pair[1].path,
                pair[0].name()
            )));
        }
        if layers.is_empty() {
            return Err(Failure::usage(format!("{folder} holds no layer: expected files like 45-data-plane-ext.yaml")));
        }
        Ok(layers)
    }

    /// The folders with an `env.yaml`, ordered by name.
    pub fn environments(&self) -> Result<Vec<String>, Failure> {
        let mut names = Vec::new();
        for path in entries(&self.path(ENVIRONMENTS))? {
            match path.join(ENV_FILE).metadata() {
                Ok(found) if found.is_file() => names.extend(path.file_name().map(str::to_owned)),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(error) => return Err(Failure::usage(format!("cannot look into {path}: {error}"))),
            }
        }
        names.sort();
        Ok(names)
    }

    pub fn environment(&self, name: &str) -> Result<Environment, Failure> {
        let known = self.environments()?;
        if !known.iter().any(|other| other == name) {
            return Err(Failure::usage(format!(
                "unknown environment {name:?} (--env or HELMFILE_ENVIRONMENT): expected one of {}",
                known.join(", ")
            )));
        }
        let path = self.env_file(name);
        let environment = Environment::parse(&path, &read(&path)?)?;
        match &environment.registry.ca {
            Some(ca) if !self.root.join(ca).is_file() => {
                Err(Failure::usage(format!("{path}: registry.ca {ca:?}: {} is not a file", self.root.join(ca))))
            }
            _ => Ok(environment),
        }
    }

    fn env_file(&self, environment: &str) -> Utf8PathBuf {
        self.path(ENVIRONMENTS).join(environment).join(ENV_FILE)
    }

    /// # Errors
    /// As for [`LayerNeeds::parse`]; a name that no layer has, or layers that wait for each other: a
    /// name that is not found would mean that nothing is checked.
    pub fn layer_needs(&self) -> Result<LayerNeeds, Failure> {
        let path = self.path("infra/kubernetes/layers.yaml");
        let needs = LayerNeeds::parse(&path, &read(&path)?)?;
        needs.check_layers(&self.layers()?).map_err(|error| Failure::usage(format!("{path}: {error}")))?;
        Ok(needs)
    }
}

/// The entries of a folder of the tree, all of them or an error.
fn entries(folder: &Utf8Path) -> Result<Vec<Utf8PathBuf>, Failure> {
    let listed = folder.read_dir_utf8().and_then(|entries| entries.map(|entry| Ok(entry?.into_path())).collect());
    listed.map_err(|error| Failure::usage(format!("cannot list {folder}: {error}")))
}

/// What the tree says for the chosen environment.
pub struct Repo {
    pub tree: Tree,
    pub env_name: String,
    pub env: Environment,
}

impl Repo {
    /// The local cluster's configuration; `None` if the environment is a shared cluster.
    ///
    /// # Errors
    /// `usage` for an invalid file, and for one of another cluster than `cluster.context`: the
    /// layers would be deployed to that other cluster.
    pub fn k3d_config(&self) -> Result<Option<K3dConfig>, Failure> {
        let Some(path) = &self.env.cluster.k3d else { return Ok(None) };
        let config = K3dConfig::read(&self.tree.root.join(path))?;
        let (context, created) = (&self.env.cluster.context, config.kube_context());
        if *context != created {
            let file = self.tree.env_file(&self.env_name);
            return Err(Failure::usage(format!(
                "{file}: cluster.context {context:?}: expected {created:?}, which k3d creates for the metadata.name of {}",
                config.path
            )));
        }
        Ok(Some(config))
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
    // Opening one would wait for somebody to write to it.
    if path.metadata().is_ok_and(|found| found.file_type().is_fifo()) {
        return Err(Failure::usage(format!("cannot read {path}: it is a pipe")));
    }
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

    /// The layers `10-a` and `20-b`, the environment `x`, and these files below `infra/kubernetes`.
    fn tree(more: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree { root: Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap() };
        let files = [
            ("helmfiles/10-a.yaml", ""),
            ("helmfiles/20-b.yaml.gotmpl", ""),
            ("environments/images.yaml.gotmpl", ""),
            ("environments/x/env.yaml", "cluster: {context: c}\nregistry: {push: a, pull: b}\n"),
        ];
        for (path, text) in files.iter().chain(more) {
            let path = tree.path("infra/kubernetes").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        (folder, tree)
    }

    fn refused<T>(result: Result<T, Failure>, parts: &[&str]) {
        let failure = result.err().unwrap();
        assert_eq!(failure.code, run_record::Code::Usage, "{failure}");
        for part in parts {
            assert!(failure.message.contains(part), "{part:?} is not in: {failure}");
        }
    }

    #[test]
    fn every_layer_is_found_and_what_could_be_taken_for_one_is_refused_by_name() {
        let names = |tree: &Tree| tree.layers().unwrap().iter().map(Layer::name).collect::<Vec<_>>();
        let (_folder, whole) = tree(&[("helmfiles/10-a.lock", ""), ("helmfiles/_common.yaml", "")]);
        assert_eq!(names(&whole), ["10-a", "20-b"]);
        for (path, parts) in [
            ("helmfiles/52-x.yml", &["52-x.yml", "expected a name like"][..]),
            ("helmfiles/50-folder.yaml/x", &["50-folder.yaml", "expected a file"]),
            ("helmfiles/20-b.yaml", &["20-b.yaml and ", "20-b.yaml.gotmpl", "both the layer 20-b"]),
        ] {
            let (_folder, tree) = tree(&[(path, "")]);
            refused(tree.layers(), parts);
        }
    }

    #[test]
    fn environments_that_cannot_be_listed_are_not_none() {
        let (_folder, tree) = tree(&[("environments/y/redis.yaml", "")]);
        assert_eq!(tree.environments().unwrap(), ["x"]);
        refused(tree.environment("y"), &["\"y\"", "HELMFILE_ENVIRONMENT", "expected one of x"]);
        std::os::unix::fs::symlink("env.yaml", tree.env_file("y")).unwrap();
        refused(tree.environments(), &["environments/y"]);
        std::fs::remove_dir_all(tree.path(ENVIRONMENTS)).unwrap();
        refused(tree.environment("x"), &["cannot list", ENVIRONMENTS]);
    }

    #[test]
    fn names_in_layers_yaml_are_those_of_layers_and_none_waits_for_itself() {
        for (text, parts) in [
            ("criticalPath: [10-a, 15-c]", &["criticalPath[1]", "\"15-c\"", "10-a, 20-b"][..]),
            ("criticalPath: []\nlayers: {21-b: {}}", &["layers: no layer \"21-b\"", "10-a, 20-b"]),
            ("criticalPath: []\nlayers: {20-b: {layers: [a]}}", &["layers.20-b.layers", "\"a\""]),
            ("criticalPath: []\nlayers: {20-b: {after: [11-a]}}", &["layers.20-b.after", "\"11-a\""]),
            (
                "criticalPath: []\nlayers: {10-a: {layers: [20-b]}, 20-b: {after: [10-a]}}",
                &["layers.10-a: ", "10-a waits for 20-b waits for 10-a"],
            ),
            ("criticalPath: []\nlayers: {10-a: {layers: [10-a]}}", &["10-a waits for 10-a"]),
            (
                "criticalPath: []\nlayers: {10-a: {creates: [x], layers: [20-b]}, 20-b: {namespaces: [x]}}",
                &["10-a waits for 20-b waits for 10-a"],
            ),
        ] {
            let (_folder, tree) = tree(&[("layers.yaml", text)]);
            refused(tree.layer_needs(), &[&["layers.yaml: "], parts].concat());
        }
        let good =
            "layers: {10-a: {creates: [x], namespaces: [x]}, 20-b: {layers: [10-a], after: [10-a], namespaces: [x]}}";
        // Two layers may create one namespace: whichever is the first does.
        let both = "layers: {10-a: {creates: [x], layers: [20-b]}, 20-b: {creates: [x], namespaces: [x]}}";
        for (path, layers) in [("20-b, 10-a, 20-b", good), ("20, a", good), ("10-20", both)] {
            let (_folder, tree) = tree(&[("layers.yaml", &format!("criticalPath: [{path}]\n{layers}"))]);
            let named: Vec<&str> = path.split(", ").collect();
            assert_eq!(tree.layer_needs().unwrap().critical_path, named);
        }
    }

    #[test]
    fn an_environment_whose_context_is_another_clusters_is_refused_with_both_files() {
        let (_folder, tree) = tree(&[
            ("../k3d.yaml", "apiVersion: k3d.io/v1alpha5\nkind: Simple\nmetadata: {name: mine}\n"),
            (
                "environments/y/env.yaml",
                "cluster: {k3d: infra/k3d.yaml, context: k3d-other}\nregistry: {push: a, pull: b}\n",
            ),
        ]);
        let mut repo = Repo { env: tree.environment("y").unwrap(), env_name: "y".to_owned(), tree };
        refused(repo.k3d_config(), &["y/env.yaml: cluster.context \"k3d-other\"", "\"k3d-mine\"", "infra/k3d.yaml"]);
        repo.env.cluster.context = "k3d-mine".to_owned();
        assert_eq!(repo.k3d_config().unwrap().unwrap().name(), "mine");
        repo.env.cluster.k3d = None;
        assert!(repo.k3d_config().unwrap().is_none());
    }

    #[test]
    fn a_certificate_authority_that_is_not_there_is_named_with_its_field() {
        let env = "cluster: {context: c}\nregistry: {push: a, pull: b, ca: infra/ca.pem}\n";
        let (_folder, tree) = tree(&[("environments/y/env.yaml", env)]);
        refused(tree.environment("y"), &["y/env.yaml: registry.ca", "infra/ca.pem is not a file"]);
        std::fs::write(tree.path("infra/ca.pem"), "").unwrap();
        tree.environment("y").unwrap();
    }

    #[test]
    fn a_pipe_in_the_tree_is_refused_and_not_waited_for() {
        let (_folder, tree) = tree(&[]);
        let path = tree.path("infra/kubernetes/layers.yaml");
        rustix::fs::mkfifoat(rustix::fs::CWD, path.as_std_path(), rustix::fs::Mode::RUSR).unwrap();
        refused(tree.layer_needs(), &["layers.yaml", "pipe"]);
    }

    #[test]
    fn broken_yaml_is_reported_with_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("env.yaml")).unwrap();
        std::fs::write(&path, "cluster:\n  context: k3d-x\n  colour: red\nregistry: {push: a, pull: b}\n").unwrap();
        let message = read_yaml::<Environment>(&path).unwrap_err().message;
        assert!(message.contains("env.yaml") && message.contains("colour") && message.contains('3'), "{message}");
    }
}
