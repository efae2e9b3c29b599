//! The repository's own tree as configuration: environments, layers and what
//! they need. Nothing about a layer, an image or a namespace is written in Rust.

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::files::bounds;
use run_record::Failure;

/// The root of the work tree.
#[derive(Clone, Debug)]
pub struct Tree {
    pub root: Utf8PathBuf,
}

impl Tree {
    /// Found from the current folder upwards, as cargo finds its workspace.
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

    /// Every layer, in order of its number.
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

/// Reads a YAML file into its type; the error names file, line and column.
pub fn read_yaml<T: DeserializeOwned>(path: &Utf8Path) -> Result<T, Failure> {
    parse_yaml(path, &read(path)?)
}

/// A file of the tree, of a size that such a file has.
pub fn read(path: &Utf8Path) -> Result<String, Failure> {
    bounds::read(path, bounds::SETTINGS).map_err(|error| Failure::usage(format!("cannot read {path}: {error}")))
}

pub fn parse_yaml<T: DeserializeOwned>(path: &Utf8Path, text: &str) -> Result<T, Failure> {
    bounds::yaml(text).map_err(|error| Failure::usage(format!("{path}: {error}")))
}

/// `infra/kubernetes/environments/<env>/env.yaml`, which Helmfile reads as well.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Environment {
    pub cluster: ClusterSettings,
    pub registry: RegistrySettings,
    #[serde(default)]
    pub pull_secret: PullSecretSettings,
}

impl Environment {
    /// # Errors
    /// What is no such file, or holds a value that cannot be; file and field are named.
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
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClusterSettings {
    /// The k3d config file, relative to the root; none for a shared cluster.
    pub k3d: Option<Utf8PathBuf>,
    /// The kubeconfig context.
    pub context: String,
    /// Where the Lease is that keeps runs apart: the same for everybody who deploys there.
    #[serde(default = "kube_system")]
    pub lease_namespace: String,
}

fn kube_system() -> String {
    "kube-system".to_owned()
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PullSecretSettings {
    /// Whether the Docker Hub account of whoever runs a layer is written into Secrets there.
    #[serde(default)]
    pub from_shell: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RegistrySettings {
    /// The name that this machine pushes to.
    pub push: String,
    /// The name that pods pull from.
    pub pull: String,
    #[serde(default, rename = "plainHTTP")]
    pub plain_http: bool,
    /// Where its certificate is not one that this machine knows: the authority, PEM, in the tree.
    #[serde(default)]
    pub ca: Option<Utf8PathBuf>,
}

/// A state file of Helmfile with its number and name, `45-data-plane-ext`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Layer {
    pub number: u32,
    /// Without the number: the value of the `stage` label.
    pub stage: String,
    pub path: Utf8PathBuf,
}

impl Layer {
    fn from_path(path: &Utf8Path) -> Option<Self> {
        let stem = layer_stem(path.file_name()?)?;
        let (number, stage) = stem.split_once('-')?;
        Some(Self { number: number.parse().ok()?, stage: stage.to_owned(), path: path.to_owned() })
    }

    /// Number and stage: the value of the `layer` label.
    pub fn name(&self) -> String {
        format!("{:02}-{}", self.number, self.stage)
    }
}

fn layer_stem(file_name: &str) -> Option<&str> {
    [".yaml", ".yaml.gotmpl"].iter().find_map(|suffix| file_name.strip_suffix(suffix))
}

/// The layers that selectors name, in order of their number and each once.
///
/// A selector is a number (`45`), a stage (`data-plane-ext`), a full name
/// (`45-data-plane-ext`), a path, or a range of numbers (`10-45`).
pub fn select(layers: &[Layer], selectors: &[String]) -> Result<Vec<Layer>, Failure> {
    let mut selected: Vec<Layer> = Vec::new();
    for selector in selectors {
        let found = select_one(layers, selector);
        if found.is_empty() {
            let names: Vec<String> = layers.iter().map(Layer::name).collect();
            return Err(Failure::usage(format!("no layer {selector:?}: expected one of {}", names.join(", ")))
                .remedy("cargo xtask layer --list"));
        }
        selected.extend(found);
    }
    selected.sort();
    selected.dedup();
    Ok(selected)
}

/// As [`select`], in the order of the selectors.
pub fn in_order(layers: &[Layer], selectors: &[String]) -> Result<Vec<Layer>, Failure> {
    let mut listed: Vec<Layer> = Vec::new();
    for selector in selectors {
        let found = select(layers, std::slice::from_ref(selector))?;
        listed.extend(found.into_iter().filter(|layer| !listed.contains(layer)).collect::<Vec<_>>());
    }
    Ok(listed)
}

fn select_one(layers: &[Layer], selector: &str) -> Vec<Layer> {
    let in_range = |range: std::ops::RangeInclusive<u32>| -> Vec<Layer> {
        layers.iter().filter(|layer| range.contains(&layer.number)).cloned().collect()
    };
    if let Ok(number) = selector.parse::<u32>() {
        return in_range(number..=number);
    }
    if let Some((from, to)) = selector.split_once('-')
        && let (Ok(from), Ok(to)) = (from.parse::<u32>(), to.parse::<u32>())
    {
        return in_range(from..=to);
    }
    let stem = Utf8Path::new(selector).file_name().map(|name| layer_stem(name).unwrap_or(name)).unwrap_or(selector);
    let matches = |layer: &&Layer| layer.stage == selector || layer.name() == stem;
    layers.iter().filter(matches).cloned().collect()
}

/// `infra/kubernetes/layers.yaml`: what each layer needs before it starts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LayerNeeds {
    #[serde(default)]
    pub layers: BTreeMap<String, Needs>,
    /// How long is waited before a layer starts.
    #[serde(default)]
    pub preflight: crate::layer::preflight::Waits,
    /// What is tried again, how often, and how long blockers may last.
    #[serde(default)]
    pub retries: crate::layer::retry::Budgets,
    /// The layers that `up` brings up, in order.
    pub critical_path: Vec<String>,
    pub pull_secret: Option<PullSecretNeed>,
    /// Images that may come from elsewhere than the mirror, whole or up to a `*`.
    #[serde(default)]
    pub unmirrored: Vec<String>,
}

impl LayerNeeds {
    /// The namespaces that a layer needs or makes, as far as layers.yaml says.
    pub fn namespaces_of(&self, layer: &Layer) -> BTreeSet<String> {
        let needs = self.layers.get(&layer.name());
        needs.into_iter().flat_map(|needs| needs.namespaces.iter().chain(&needs.creates)).cloned().collect()
    }

    /// # Errors
    /// What is no such file, or holds a number that cannot be meant; file and field are named.
    pub fn parse(path: &Utf8Path, text: &str) -> Result<Self, Failure> {
        let needs: Self = parse_yaml(path, text)?;
        needs.check().map_err(|error| Failure::usage(format!("{path}: {error}")))?;
        Ok(needs)
    }

    fn check(&self) -> Result<(), String> {
        let seconds = |field: &str, value| bounds::within(field, value, 0..=bounds::DAY);
        let attempts = |field: &str, value: u32| bounds::within(field, value.into(), 0..=1000);
        seconds("preflight.namespace", self.preflight.namespace)?;
        seconds("preflight.service", self.preflight.service)?;
        let retries = &self.retries;
        attempts("retries.rateLimit.attempts", retries.rate_limit.attempts)?;
        seconds("retries.rateLimit.firstWait", retries.rate_limit.first_wait)?;
        seconds("retries.rateLimit.longestWait", retries.rate_limit.longest_wait)?;
        attempts("retries.releasePending.attempts", retries.release_pending.attempts)?;
        attempts("retries.apiUnreachable.attempts", retries.api_unreachable.attempts)?;
        seconds("retries.apiUnreachable.within", retries.api_unreachable.within)?;
        attempts("retries.webhookUnavailable.attempts", retries.webhook_unavailable.attempts)?;
        seconds("retries.webhookUnavailable.wait", retries.webhook_unavailable.wait)?;
        for (code, value) in &retries.patience {
            seconds(&format!("retries.patience.{code}"), *value)?;
        }
        for (layer, needs) in &self.layers {
            for (index, service) in needs.services.iter().enumerate() {
                bounds::within(&format!("layers.{layer}.services[{index}].port"), service.port.into(), 1..=65_535)?;
            }
        }
        Ok(())
    }
}

/// The secret that pods pull from Docker Hub with, where there are credentials.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PullSecretNeed {
    pub name: String,
    /// The registry as Docker's `config.json` names it.
    pub server: String,
    pub namespaces: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Needs {
    /// Namespaces that must be Active.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Namespaces that the layer makes: waited for while they are Terminating, and
    /// none the worse for being absent.
    #[serde(default)]
    pub creates: Vec<String>,
    #[serde(default)]
    pub services: Vec<ServiceNeed>,
    #[serde(default)]
    pub secrets: Vec<SecretNeed>,
    /// Earlier layers that must be in place.
    #[serde(default)]
    pub layers: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceNeed {
    pub namespace: String,
    pub name: String,
    pub port: u16,
    /// Needed only once this release exists: the layer itself installs it.
    pub if_release: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretNeed {
    pub namespace: String,
    pub name: String,
    #[serde(default)]
    pub keys: Vec<String>,
    pub if_release: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> Vec<Layer> {
        ["10-bootstrap.yaml", "24-auth.yaml", "45-data-plane-ext.yaml", "60-qa.yaml"]
            .iter()
            .filter_map(|name| Layer::from_path(&Utf8Path::new("/r/infra/kubernetes/helmfiles").join(name)))
            .collect()
    }

    fn names(selectors: &[&str]) -> Result<Vec<String>, Failure> {
        let selectors: Vec<String> = selectors.iter().map(|&s| s.to_owned()).collect();
        select(&layers(), &selectors).map(|found| found.iter().map(Layer::name).collect())
    }

    #[test]
    fn every_form_of_selector_finds_its_layer() {
        let forms = [
            "45",
            "data-plane-ext",
            "45-data-plane-ext",
            "infra/kubernetes/helmfiles/45-data-plane-ext.yaml",
            "./45-data-plane-ext.yaml",
        ];
        for form in forms {
            assert_eq!(names(&[form]).unwrap(), ["45-data-plane-ext"], "{form}");
        }
    }

    #[test]
    fn a_range_holds_both_ends_and_only_what_exists() {
        assert_eq!(names(&["10-45"]).unwrap(), ["10-bootstrap", "24-auth", "45-data-plane-ext"]);
    }

    #[test]
    fn layers_are_in_order_and_each_once() {
        assert_eq!(names(&["60", "10-24", "auth"]).unwrap(), ["10-bootstrap", "24-auth", "60-qa"]);
    }

    #[test]
    fn an_unknown_layer_is_named_with_what_there_is() {
        for unknown in ["99", "data", "46-data-plane-ext", "50-40", ""] {
            let error = names(&[unknown]).unwrap_err().message;
            assert!(error.contains(&format!("{unknown:?}")) && error.contains("24-auth"), "{error}");
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

    #[test]
    fn broken_yaml_is_reported_with_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("env.yaml")).unwrap();
        std::fs::write(&path, "cluster:\n  context: k3d-x\n  colour: red\nregistry: {push: a, pull: b}\n").unwrap();
        let message = read_yaml::<Environment>(&path).unwrap_err().message;
        assert!(message.contains("env.yaml") && message.contains("colour") && message.contains('3'), "{message}");
    }
}
