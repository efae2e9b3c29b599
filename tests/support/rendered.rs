//! What Helm would apply: every layer of an environment, rendered by Helmfile itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::Value;

use super::{root, tool};

/// One rendered object, with its release's namespace if it names none.
#[derive(Clone, Debug)]
pub struct Object {
    pub release: String,
    pub namespace: String,
    pub value: Value,
}

impl Object {
    pub fn kind(&self) -> &str {
        self.value["kind"].as_str().unwrap()
    }

    pub fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap()
    }

    /// The pod that it is, or creates.
    pub fn pod(&self) -> Option<Pod> {
        let (metadata, spec) = match self.kind() {
            "Pod" => (&self.value["metadata"], &self.value["spec"]),
            "Deployment" | "StatefulSet" | "Job" => {
                let template = &self.value["spec"]["template"];
                (&template["metadata"], &template["spec"])
            }
            "CronJob" => {
                let template = &self.value["spec"]["jobTemplate"]["spec"]["template"];
                (&template["metadata"], &template["spec"])
            }
            _ => return None,
        };
        Some(Pod {
            name: format!("{} {}/{}", self.kind(), self.namespace, self.name()),
            namespace: self.namespace.clone(),
            labels: labels(&metadata["labels"]),
            spec: spec.clone(),
            serves: matches!(self.kind(), "Deployment" | "StatefulSet"),
        })
    }
}

#[derive(Clone, Debug)]
pub struct Pod {
    pub name: String,
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    pub spec: Value,
    /// It runs permanently, not to completion.
    pub serves: bool,
}

impl Pod {
    pub fn containers(&self) -> impl Iterator<Item = &Value> {
        self.spec["containers"].as_array().unwrap().iter()
    }

    pub fn init_containers(&self) -> impl Iterator<Item = &Value> {
        self.spec["initContainers"].as_array().into_iter().flatten()
    }
}

pub fn labels(value: &Value) -> BTreeMap<String, String> {
    let Some(map) = value.as_object() else { return BTreeMap::new() };
    map.iter().map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned())).collect()
}

pub fn documents(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// Every object of every layer of an environment, rendered once.
pub fn render(environment: &str) -> Vec<Object> {
    type Once = Arc<OnceLock<Vec<Object>>>;
    static RENDERED: Mutex<BTreeMap<String, Once>> = Mutex::new(BTreeMap::new());
    let once = {
        let mut rendered = RENDERED.lock().unwrap_or_else(PoisonError::into_inner);
        rendered.entry(environment.to_owned()).or_default().clone()
    };
    // Another environment can be rendered in the meantime.
    once.get_or_init(|| made(environment)).clone()
}

fn made(environment: &str) -> Vec<Object> {
    let folder = tempfile::tempdir().unwrap();
    let mut helmfile = tool("helmfile");
    // From another folder: the tree's paths are relative to itself.
    helmfile.current_dir("/");
    helmfile.arg("--file").arg(root().join("infra/kubernetes/helmfile.yaml"));
    helmfile.args(["--environment", environment, "--quiet", "template", "--output-dir"]).arg(folder.path());
    helmfile.args(["--output-dir-template", "{{ .OutputDir }}/{{ .Release.Namespace }}/{{ .Release.Name }}"]);
    let output = helmfile.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut objects = Vec::new();
    for namespace in names(folder.path()) {
        for release in names(&folder.path().join(&namespace)) {
            let mut files = Vec::new();
            below(&folder.path().join(&namespace).join(&release), &mut files);
            files.sort();
            for file in files {
                for value in documents(&std::fs::read_to_string(&file).unwrap()) {
                    let own = value["metadata"]["namespace"].as_str();
                    let namespace = own.unwrap_or(&namespace).to_owned();
                    objects.push(Object { release: release.clone(), namespace, value });
                }
            }
        }
    }
    assert!(objects.len() > 40, "{environment}: {} objects", objects.len());
    objects
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn below(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            below(&entry.path(), into);
        } else {
            into.push(entry.path());
        }
    }
}

pub fn pods(objects: &[Object]) -> Vec<Pod> {
    objects.iter().filter_map(Object::pod).collect()
}

/// The chart of a release that no environment installs.
pub fn neo4j() -> Vec<Object> {
    let mut helm = tool("helm");
    helm.args(["template", "neo4j", "--namespace", "ameide"]).arg(root().join("infra/kubernetes/charts/neo4j"));
    helm.args(["--set-json", r#"image={"repository":"registry.example/neo4j","tag":"5","digest":""}"#]);
    helm.args(["--set-json", r#"resources={"limits":{"memory":"2Gi"}}"#]);
    let output = helm.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let values = documents(&String::from_utf8(output.stdout).unwrap()).into_iter();
    values.map(|value| Object { release: "neo4j".into(), namespace: "ameide".into(), value }).collect()
}
