//! What the API server refuses to change in an existing object, by kind.

use std::collections::BTreeSet;

use serde_json::Value;

use super::objects::group;
use super::ownership::Path;
use crate::releases::manifest::kind;

/// What cannot be changed in an existing object of a kind: a field path, or everything except
/// certain fields below it. From the validation of Kubernetes' API server
/// (`pkg/apis/*/validation`).
enum Fixed {
    Field(&'static [&'static str]),
    AllOf(&'static [&'static str], &'static [&'static str]),
}

fn fixed(object: &Value) -> &'static [Fixed] {
    use Fixed::{AllOf, Field};
    match (group(object), kind(object)) {
        ("apps", "Deployment" | "DaemonSet" | "ReplicaSet") => &[Field(&["spec", "selector"])],
        ("apps", "StatefulSet") => &[AllOf(
            &["spec"],
            &[
                "replicas",
                "ordinals",
                "template",
                "updateStrategy",
                "revisionHistoryLimit",
                "persistentVolumeClaimRetentionPolicy",
                "minReadySeconds",
            ],
        )],
        ("batch", "Job") => &[
            Field(&["spec", "template"]),
            Field(&["spec", "selector"]),
            Field(&["spec", "completions"]),
            Field(&["spec", "completionMode"]),
            Field(&["spec", "podFailurePolicy"]),
            Field(&["spec", "successPolicy"]),
            Field(&["spec", "backoffLimitPerIndex"]),
            Field(&["spec", "managedBy"]),
        ],
        ("", "Service") => &[Field(&["spec", "clusterIP"]), Field(&["spec", "clusterIPs"])],
        ("", "PersistentVolumeClaim") => &[AllOf(&["spec"], &["resources", "volumeAttributesClassName"])],
        ("", "PersistentVolume") => &[
            Field(&["spec", "csi"]),
            Field(&["spec", "hostPath"]),
            Field(&["spec", "nfs"]),
            Field(&["spec", "local"]),
            Field(&["spec", "volumeMode"]),
        ],
        ("", "Secret") => &[Field(&["type"])],
        ("", "Pod") => &[AllOf(
            &["spec"],
            &["containers", "initContainers", "activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"],
        )],
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => &[Field(&["roleRef"])],
        ("storage.k8s.io", "StorageClass") => {
            &[Field(&["provisioner"]), Field(&["parameters"]), Field(&["reclaimPolicy"]), Field(&["volumeBindingMode"])]
        }
        ("scheduling.k8s.io", "PriorityClass") => &[Field(&["value"]), Field(&["preemptionPolicy"])],
        ("networking.k8s.io", "IngressClass") => &[Field(&["spec", "controller"])],
        ("node.k8s.io", "RuntimeClass") => &[Field(&["handler"])],
        ("discovery.k8s.io", "EndpointSlice") => &[Field(&["addressType"])],
        ("apiextensions.k8s.io", "CustomResourceDefinition") => &[
            Field(&["spec", "scope"]),
            Field(&["spec", "group"]),
            Field(&["spec", "names", "plural"]),
            Field(&["spec", "names", "kind"]),
        ],
        _ => &[],
    }
}

/// The fields that the API server would refuse to change; and, in words, those that only one of both
/// manifests has: an omitted field has the server's default, which may be the same.
pub(super) fn refused(old: &Value, new: &Value) -> (Vec<String>, Vec<String>) {
    let differs = |path: &Path| {
        let (before, after) = (path.get(old), path.get(new));
        before.is_some() && after.is_some() && before != after
    };
    let (mut found, mut in_one) = (Vec::new(), Vec::new());
    for rule in fixed(new) {
        match rule {
            Fixed::Field(names) => found.extend(differs(&Path::of(names)).then(|| names.join("."))),
            Fixed::AllOf(names, but) => {
                let keys = |object: &Value| -> BTreeSet<String> {
                    let fields = Path::of(names).get(object).and_then(Value::as_object).cloned();
                    fields.into_iter().flatten().map(|(key, _)| key).collect()
                };
                let all: BTreeSet<String> = keys(old).union(&keys(new)).cloned().collect();
                for key in all.iter().filter(|key| !but.contains(&key.as_str())) {
                    let path: Vec<&str> = names.iter().copied().chain([key.as_str()]).collect();
                    let name = path.join(".");
                    match (Path::of(&path).get(old), Path::of(&path).get(new)) {
                        (before, after) if before == after => {}
                        (Some(_), Some(_)) => found.push(name),
                        (None, _) => in_one.push(format!("{name} is written out now")),
                        (_, None) => in_one.push(format!("{name} is left out now")),
                    }
                }
            }
        }
    }
    let immutable = |object: &Value| object.get("immutable") == Some(&Value::Bool(true));
    if immutable(old) {
        let named = ["data", "binaryData", "immutable"].into_iter().filter(|name| old.get(*name) != new.get(*name));
        found.extend(named.map(str::to_owned));
    }
    (found, in_one)
}
