//! What people have changed by hand on a layer's objects. Fields that the tree does not name stay:
//! Helm uses server-side apply and removes nothing that it never set. They are reported, with who
//! set them. After a failure, all manual changes are reported, because they may be the cause.

use std::collections::BTreeSet;
use std::fmt::Debug;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::Client;
use kube::api::{Api, ListParams};
use kube::core::{NamespaceResourceScope, Resource};
use serde_json::Value;

use crate::run::Run;
use crate::world::kubernetes::place::Place;
use crate::world::release::Release;

/// Reports each object of these releases to which somebody has added fields. A failed look reports
/// nothing: it must not stop a layer that is in place.
pub async fn tell(run: &Run, client: &Client, wanted: &[Release]) {
    for (object, manager, fields) in found(client, wanted, false).await {
        run.reporter.warn(&object, stays(&manager, &fields));
    }
}

fn stays(manager: &str, fields: &[String]) -> String {
    let fields = shortened(fields);
    format!(
        "{manager} has set {fields}, which the tree does not name: it stays; remove it by hand, or add it to the tree"
    )
}

/// What people have set on one object that Helm made, as the object and a line for each of them.
pub(crate) fn on(place: &Place, metadata: &ObjectMeta) -> Vec<(String, String)> {
    let namespace = place.namespace.as_ref().map(|namespace| format!(" in {namespace}")).unwrap_or_default();
    let added = added_to(metadata, &place.kind.to_ascii_lowercase(), false).into_iter();
    added.map(|(object, _, manager, fields)| (format!("{object}{namespace}"), stays(&manager, &fields))).collect()
}

/// How many objects are named with a failure.
const NAMED: usize = 5;

/// What was set by hand on objects of these releases, one line per object, as evidence for a
/// failure that it may have caused.
pub async fn evidence(client: &Client, wanted: &[Release]) -> Vec<String> {
    let found = found(client, wanted, true).await;
    let line = |(object, manager, fields): &(String, String, Vec<String>)| {
        format!("by hand: {object}: {manager} has set {}", shortened(fields))
    };
    found.iter().take(NAMED).map(line).collect()
}

/// `deployment/web in shop`, the manager, its fields: all of them, or only those that Helm does not
/// set too.
async fn found(client: &Client, wanted: &[Release], all: bool) -> Vec<(String, String, Vec<String>)> {
    let mut told = Vec::new();
    let installed = || wanted.iter().filter(|release| release.installed);
    let namespaces: BTreeSet<&str> = installed().map(|release| release.namespace.as_str()).collect();
    for namespace in namespaces {
        let found = tokio::join!(
            added::<Deployment>(client, namespace, all),
            added::<StatefulSet>(client, namespace, all),
            added::<Service>(client, namespace, all),
            added::<ConfigMap>(client, namespace, all),
            added::<Secret>(client, namespace, all),
            added::<NetworkPolicy>(client, namespace, all),
        );
        let found = [found.0, found.1, found.2, found.3, found.4, found.5].into_iter().flatten();
        for (object, release, manager, fields) in found {
            if installed().any(|wanted| wanted.name == release && wanted.namespace == namespace) {
                told.push((format!("{object} in {namespace}"), manager, fields));
            }
        }
    }
    told
}

pub(crate) type Added = (String, String, String, Vec<String>);

async fn added<K>(client: &Client, namespace: &str, all: bool) -> Vec<Added>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + serde::de::DeserializeOwned,
{
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by=Helm");
    let listed = Api::<K>::namespaced(client.clone(), namespace).list_metadata(&ours).await;
    let kind = K::kind(&()).to_ascii_lowercase();
    let objects = listed.map(|list| list.items).unwrap_or_default();
    objects.iter().flat_map(|object| added_to(&object.metadata, &kind, all)).collect()
}

/// The fields of each person's manager: all, or only those that Helm does not set too.
pub(crate) fn added_to(metadata: &ObjectMeta, kind: &str, all: bool) -> Vec<Added> {
    let release = metadata.annotations.as_ref().and_then(|all| all.get("meta.helm.sh/release-name"));
    let Some(release) = release else { return Vec::new() };
    let entries = || metadata.managed_fields.iter().flatten().filter(|entry| entry.subresource.is_none());
    let of_a_person = |entry: &ManagedFieldsEntry| {
        let manager = entry.manager.clone().filter(|manager| is_a_person(manager));
        manager.filter(|_| !made(metadata, entry))
    };
    let people: Vec<_> = entries().filter_map(|entry| Some((of_a_person(entry)?, entry))).collect();
    // As of nearly all objects, on each look.
    if people.is_empty() {
        return Vec::new();
    }
    let helms: BTreeSet<String> =
        entries().filter(|entry| is_helms(entry)).flat_map(|entry| fields(entry, false)).collect();
    people
        .into_iter()
        .filter_map(|(manager, entry)| {
            let added = fields(entry, true).into_iter().filter(|field| field != RESTARTED);
            let added: Vec<String> = added.filter(|field| all || !helms.contains(field)).collect();
            let object = format!("{kind}/{}", metadata.name.as_deref().unwrap_or_default());
            (!added.is_empty()).then(|| (object, release.clone(), manager, added))
        })
        .collect()
}

/// Whether somebody else now owns the image of a container that Helm made: then Helm's apply is
/// refused or takes it back, and the pods are not what this run deploys.
pub fn image_is_others(metadata: &ObjectMeta) -> bool {
    let of = |helm: bool| -> BTreeSet<String> {
        let entries = metadata.managed_fields.iter().flatten().filter(|entry| entry.subresource.is_none());
        let entries = entries.filter(|entry| is_helms(entry) == helm);
        entries.flat_map(|entry| fields(entry, false)).collect()
    };
    let (helms, others) = (of(true), of(false));
    let taken = |field: &String| {
        field.strip_suffix(".image").is_some_and(|container| container.ends_with(']') && helms.contains(container))
            && !helms.contains(field)
    };
    metadata.annotations.as_ref().is_some_and(|all| all.contains_key("meta.helm.sh/release-name"))
        && others.iter().any(taken)
}

/// kubectl names itself after its verb.
fn is_a_person(manager: &str) -> bool {
    manager.starts_with("kubectl")
}

/// What `kubectl rollout restart` leaves, which does not matter; `kubectl rollout pause` and `undo` use
/// the same name.
const RESTARTED: &str = ".spec.template.metadata.annotations.kubectl.kubernetes.io/restartedAt";

/// Whether this entry is from the creator of the object, before Helm changed it (a Deployment of
/// kube-system where a chart sets one annotation): it is not a change of what Helm made.
fn made(metadata: &ObjectMeta, entry: &ManagedFieldsEntry) -> bool {
    entry.time.is_some() && entry.time == metadata.creation_timestamp
}

/// Whether an entry of `managedFields` lists what Helm set.
pub(crate) fn is_helms(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some("helm") && entry.subresource.is_none()
}

/// The fields of an entry of `managedFields`; with `items_whole`, a list item that it created
/// counts as one field.
pub(crate) fn fields(entry: &ManagedFieldsEntry, items_whole: bool) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(fields) = &entry.fields_v1 {
        walk(&fields.0, "", items_whole, &mut found);
    }
    found
}

/// The paths of `fieldsV1`, in the API server's notation for conflicts.
fn walk(fields: &Value, path: &str, items_whole: bool, found: &mut Vec<String>) {
    let inner: Vec<(&String, &Value)> =
        fields.as_object().into_iter().flatten().filter(|(key, _)| *key != ".").collect();
    let is_item = path.ends_with(']');
    let owned = is_item && fields.get(".").is_some();
    if inner.is_empty() || owned {
        found.push(path.to_owned());
    }
    // A list item that somebody created is reported as a whole.
    if owned && items_whole {
        return;
    }
    for (key, value) in inner {
        let step = match key.split_once(':') {
            Some(("f", name)) => format!(".{name}"),
            Some(("k", keys)) => {
                let keys: serde_json::Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                format!("[{}]", keys.join(","))
            }
            _ => format!("[{key}]"),
        };
        walk(value, &format!("{path}{step}"), items_whole, found);
    }
}

pub(crate) fn shortened(fields: &[String]) -> String {
    match fields {
        [one, two, three, _, ..] => format!("{one}, {two}, {three} and {} more", fields.len() - 3),
        few => few.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubectl_added_is_told_and_what_helm_sets_too_is_not() {
        let metadata: ObjectMeta = serde_json::from_value(serde_json::json!({
            "name": "temporal", "annotations": {"meta.helm.sh/release-name": "temporal"},
            "managedFields": [
                {"manager": "helm", "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"temporal\"}": {".": {}, "f:image": {}}}}}}}},
                {"manager": "kubectl-set", "operation": "Update", "fieldsV1": {"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"temporal\"}": {"f:image": {}, "f:env": {"k:{\"name\":\"X\"}": {".": {}, "f:name": {}, "f:value": {}}}}}}}}}},
                {"manager": "kubectl-label", "operation": "Update", "fieldsV1": {"f:metadata": {"f:labels": {"f:a.b/c": {}}}}},
                {"manager": "kubectl-edit", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
                {"manager": "kubectl", "operation": "Update", "subresource": "scale", "fieldsV1": {"f:spec": {"f:paused": {}}}},
                {"manager": "kubectl-rollout", "operation": "Update", "fieldsV1": {"f:spec": {"f:template": {"f:metadata": {"f:annotations": {".": {}, "f:kubectl.kubernetes.io/restartedAt": {}}}}}}},
                {"manager": "kubectl-rollout", "operation": "Update", "fieldsV1": {"f:spec": {"f:paused": {}}}},
                {"manager": "kube-controller-manager", "operation": "Update", "subresource": "status", "fieldsV1": {"f:status": {}}},
                {"manager": "kubectl-patch", "operation": "Update"},
            ],
        }))
        .unwrap();
        let told: Vec<(String, Vec<String>)> = added_to(&metadata, "deployment", false)
            .into_iter()
            .map(|(_, _, manager, fields)| (manager, fields))
            .collect();
        let all: Vec<String> =
            added_to(&metadata, "deployment", true).into_iter().map(|added| added.3.join(" ")).collect();
        assert_eq!(all[2], ".spec.replicas");
        assert_eq!(
            told,
            [
                (
                    "kubectl-set".to_owned(),
                    vec![r#".spec.template.spec.containers[name="temporal"].env[name="X"]"#.to_owned()]
                ),
                ("kubectl-label".to_owned(), vec![".metadata.labels.a.b/c".to_owned()]),
                ("kubectl-rollout".to_owned(), vec![".spec.paused".to_owned()]),
            ]
        );
    }

    #[test]
    fn what_an_object_was_made_with_before_helm_came_to_it_is_nobody_s_change() {
        let metadata: ObjectMeta = serde_json::from_value(serde_json::json!({
            "name": "coredns", "annotations": {"meta.helm.sh/release-name": "coredns-config"},
            "creationTimestamp": "2026-11-27T10:00:00Z",
            "managedFields": [
                {"manager": "kubectl-client-side-apply", "operation": "Update", "time": "2026-11-27T10:00:00Z", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
                {"manager": "kubectl-label", "operation": "Update", "time": "2026-11-27T10:00:01Z", "fieldsV1": {"f:metadata": {"f:labels": {"f:x": {}}}}},
            ],
        }))
        .unwrap();
        for all in [false, true] {
            let told = added_to(&metadata, "deployment", all);
            assert_eq!(told.iter().map(|added| added.2.as_str()).collect::<Vec<_>>(), ["kubectl-label"]);
        }
    }

    #[test]
    fn an_image_that_somebody_set_is_told_from_one_that_helm_set_and_from_a_container_of_theirs() {
        let metadata = |helm: &[&str], other: &[&str]| -> ObjectMeta {
            let entry = |manager: &str, containers: &[&str]| {
                let containers: serde_json::Map<String, Value> = containers
                    .iter()
                    .map(|text| {
                        let (name, field) = text.split_once('.').unwrap();
                        // The creator of an item owns the item itself; whoever changed one of its
                        // fields does not.
                        let mut fields = serde_json::json!({format!("f:{field}"): {}});
                        if manager == "helm" || name == "sidecar" {
                            fields["."] = serde_json::json!({});
                        }
                        (serde_json::json!({"name": name}).to_string().replacen('{', "k:{", 1), fields)
                    })
                    .collect();
                let fields = serde_json::json!({"f:spec": {"f:template": {"f:spec": {"f:containers": containers}}}});
                serde_json::json!({"manager": manager, "operation": "Update", "fieldsV1": fields})
            };
            let managed = [entry("helm", helm), entry("kubectl-set", other)];
            let annotations = serde_json::json!({"meta.helm.sh/release-name": "web"});
            serde_json::from_value(serde_json::json!({"annotations": annotations, "managedFields": managed})).unwrap()
        };
        for (helm, other, others) in [
            (&["web.image"][..], &[][..], false),
            (&["web.name"], &["web.image"], true),
            (&["web.image"], &["web.image"], false),
            (&["web.image"], &["web.env"], false),
            (&["web.image"], &["sidecar.image"], false),
        ] {
            assert_eq!(image_is_others(&metadata(helm, other)), others, "{helm:?} {other:?}");
        }
    }
}
