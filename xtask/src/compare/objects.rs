//! A release's objects, how Helm identifies each, and how it is called for people.

use serde_json::Value;

use crate::releases::manifest::kind;
use crate::world::kubernetes::kinds::Kinds;

/// A release's objects, from a stored revision or a rendering.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    pub resources: Vec<Value>,
    pub hooks: Vec<Value>,
    /// Those in a chart's `crds` folder, which Helm creates at a first install and never touches
    /// again.
    pub crds: Vec<Value>,
}

impl Objects {
    /// Sorts the objects rendered by a chart's templates into resources and hooks.
    pub fn of(templates: Vec<Value>, crds: Vec<Value>) -> Self {
        let templates = templates.into_iter().filter(|object| !object.is_null());
        let (hooks, resources) = templates.partition(|object| hook_events(object).is_some());
        Self { resources, hooks, crds }
    }
}

/// `pre-upgrade,post-upgrade`, for an object that is a hook.
pub(super) fn hook_events(object: &Value) -> Option<&str> {
    annotation(object, "helm.sh/hook")
}

fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.pointer("/metadata/annotations")?.get(name)?.as_str()
}

pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// How Helm identifies objects (`isMatchingInfo` of `pkg/kube/resource.go`): without the API
/// version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    group: String,
    kind: String,
    namespace: String,
    name: String,
}

impl Identity {
    pub fn of(object: &Value, namespace: &str) -> Self {
        let own = text(object, "/metadata/namespace");
        Self {
            group: group(object).to_owned(),
            kind: kind(object).to_owned(),
            namespace: if own.is_empty() { namespace } else { own }.to_owned(),
            name: text(object, "/metadata/name").to_owned(),
        }
    }
}

/// The API group, empty for the core group.
pub(super) fn group(object: &Value) -> &str {
    text(object, "/apiVersion").split_once('/').map_or("", |(group, _)| group)
}

/// `Deployment ameide/minio`, as a [`Place`](crate::world::kubernetes::place::Place) is shown; for
/// a kind not in `kinds`, as if it were Kubernetes' own.
pub(crate) fn title(object: &Value, namespace: &str, kinds: &Kinds) -> String {
    let (kind, name) = (kind(object), text(object, "/metadata/name"));
    let kind = if kind.is_empty() { "object" } else { kind };
    let known = kinds.get(text(object, "/apiVersion")).into_iter().flatten().find(|(known, ..)| known == kind);
    let namespaced = known.map_or_else(|| !is_cluster_wide(object), |(.., namespaced)| *namespaced);
    match text(object, "/metadata/namespace") {
        _ if !namespaced => format!("{kind} {name}"),
        "" => format!("{kind} {namespace}/{name}"),
        own => format!("{kind} {own}/{name}"),
    }
}

/// For Kubernetes' own kinds.
fn is_cluster_wide(object: &Value) -> bool {
    matches!(
        (group(object), kind(object)),
        ("", "Namespace" | "PersistentVolume" | "Node")
            | ("rbac.authorization.k8s.io", "ClusterRole" | "ClusterRoleBinding")
            | ("storage.k8s.io", "StorageClass" | "CSIDriver" | "CSINode" | "VolumeAttachment")
            | ("scheduling.k8s.io", "PriorityClass")
            | ("networking.k8s.io", "IngressClass")
            | ("node.k8s.io", "RuntimeClass")
            | ("certificates.k8s.io" | "flowcontrol.apiserver.k8s.io", _)
            | ("admissionregistration.k8s.io" | "apiextensions.k8s.io" | "apiregistration.k8s.io", _)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_of_the_whole_cluster_is_known_by_its_api() {
        let kinds = Kinds::from([(
            "postgresql.cnpg.io/v1".to_owned(),
            vec![("Cluster".to_owned(), "clusters".to_owned(), true), ("Catalog".into(), "catalogs".into(), false)],
        )]);
        for (version, kind, told) in [
            ("postgresql.cnpg.io/v1", "Cluster", "Cluster shop/x"),
            ("postgresql.cnpg.io/v1", "Catalog", "Catalog x"),
            ("rbac.authorization.k8s.io/v1", "ClusterRole", "ClusterRole x"),
            ("v1", "Namespace", "Namespace x"),
            ("apps/v1", "Deployment", "Deployment shop/x"),
        ] {
            let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}});
            assert_eq!(title(&object, "shop", &kinds), told);
        }
    }
}
