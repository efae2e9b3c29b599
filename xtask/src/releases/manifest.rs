//! The objects of a manifest, parsed as Helm parses them; and what uninstalling a release would
//! delete according to its stored manifest and hooks, and which of that holds data.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::world::helm_storage::Stored;

/// The annotation that keeps an object (`pkg/kube/resource_policy.go`).
pub(crate) const POLICY: &str = "helm.sh/resource-policy";

/// Built-in kinds, with their API group, that hold nothing which the tree could not recreate: a
/// closed list. Every other kind counts as data, including custom resources, because their
/// controller may delete a database with the resource.
const STATELESS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "ConfigMap",
            "Endpoints",
            "LimitRange",
            "Pod",
            "PodTemplate",
            "ReplicationController",
            "ResourceQuota",
            "Secret",
            "Service",
            "ServiceAccount",
        ],
    ),
    (
        "admissionregistration.k8s.io",
        &[
            "MutatingAdmissionPolicy",
            "MutatingAdmissionPolicyBinding",
            "MutatingWebhookConfiguration",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
            "ValidatingWebhookConfiguration",
        ],
    ),
    ("apps", &["DaemonSet", "Deployment", "ReplicaSet"]),
    ("autoscaling", &["HorizontalPodAutoscaler"]),
    ("batch", &["CronJob", "Job"]),
    ("coordination.k8s.io", &["Lease"]),
    ("discovery.k8s.io", &["EndpointSlice"]),
    ("flowcontrol.apiserver.k8s.io", &["FlowSchema", "PriorityLevelConfiguration"]),
    ("networking.k8s.io", &["Ingress", "IngressClass", "NetworkPolicy"]),
    ("node.k8s.io", &["RuntimeClass"]),
    ("policy", &["PodDisruptionBudget"]),
    ("rbac.authorization.k8s.io", &["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"]),
    ("scheduling.k8s.io", &["PriorityClass"]),
    ("storage.k8s.io", &["CSIDriver", "StorageClass"]),
];

/// An object that is deleted when the release is uninstalled, or kept by its annotation.
struct Object {
    /// `PersistentVolumeClaim data`
    name: String,
    built_in: bool,
    data: bool,
    keep: bool,
    /// As in the manifest.
    written: Value,
}

/// Every object of a stored release, with what happens to it: `Deployment web`,
/// `PersistentVolumeClaim data (kept)`.
pub fn objects(stored: &Stored) -> Vec<String> {
    let Ok(found) = judged(&stored.manifest, true) else {
        return vec!["everything that its manifest names, which cannot be read here".to_owned()];
    };
    found.into_iter().map(|object| if object.keep { format!("{} (kept)", object.name) } else { object.name }).collect()
}

/// What of a release holds data, or may take some with it, when it is uninstalled and installed
/// again. What cannot be read counts as such.
pub fn data_of(stored: &Stored) -> Vec<String> {
    if stored.unreadable.is_some() {
        return vec![unread("its Secret holds", "")];
    }
    let mut data: Vec<String> = match judged(&stored.manifest, true) {
        Ok(found) => found.into_iter().filter(|object| object.data && !object.keep).map(|object| object.name).collect(),
        Err(place) => vec![unread("its manifest holds", &place)],
    };
    for hook in &stored.hooks {
        // A test is neither run nor deleted by an uninstall or an install.
        if !hook.events.is_empty() && hook.events.iter().all(|event| event.starts_with("test")) {
            continue;
        }
        // Helm deletes a hook's objects before it creates them again, whatever their annotations
        // say.
        match judged(&hook.manifest, false) {
            Ok(found) => data.extend(
                found.into_iter().filter(|object| object.data).map(|object| format!("{} (a hook)", object.name)),
            ),
            Err(place) => data.push(unread(&format!("the hook {} holds", hook.name), &place)),
        }
        // One of the chart's programs, which may delete anything.
        if hook.events.iter().any(|event| matches!(event.as_str(), "pre-delete" | "post-delete")) {
            data.push(format!("whatever the hook {} deletes, which runs at an uninstall", hook.name));
        }
    }
    data
}

/// Helm may read it all the same: it accepts keys that are given twice, and has other limits.
fn unread(what: &str, place: &str) -> String {
    format!("what {what}, which cannot be read here{place}")
}

/// An object that holds data and is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// `PersistentVolumeClaim data`, with its namespace if that is not the release's.
    pub name: String,
    /// One of Kubernetes' own kinds. A custom resource may be missing from a rendering only because
    /// that has no access to the cluster (`.Capabilities.APIVersions`).
    pub built_in: bool,
    /// As in the release's manifest.
    pub written: Value,
}

impl Dropped {
    /// Whether they are the same object to Helm, in revisions of a release in `namespace`.
    pub(super) fn is_same(&self, other: &Self, namespace: &str) -> bool {
        identity(&self.written, namespace) == identity(&other.written, namespace)
    }
}

/// Whether replacing a release can lose data at all: it holds some, or cannot be read.
pub(super) fn is_at_stake(stored: &Stored) -> bool {
    judged(&stored.manifest, false).map_or(true, |found| found.iter().any(|object| object.data))
}

/// What holds data in a release and is missing in its replacement: Helm deletes it, unless the
/// object in the cluster is annotated to be kept (`super::kept`); the manifest's annotation does
/// not count here. `namespace` is the release's.
///
/// # Errors
/// If either of them cannot be read, what may be lost because of that, in words.
pub fn dropped(stored: &Stored, next: &Result<Vec<Value>, String>, namespace: &str) -> Result<Vec<Dropped>, String> {
    let mut now = judged(&stored.manifest, false).map_err(|place| unread("its manifest holds", &place))?;
    now.retain(|object| object.data);
    if now.is_empty() {
        return Ok(Vec::new());
    }
    let next = next.as_ref().map_err(|place| unread("the next manifest no longer holds", place))?;
    let next: BTreeSet<Identity> = next.iter().map(|object| identity(object, namespace)).collect();
    now.retain(|object| !next.contains(&identity(&object.written, namespace)));
    let lost = |object: Object| {
        let (_, name, own) = identity(&object.written, namespace);
        let name = if own == namespace { name } else { format!("{name} in {own}") };
        Dropped { name, built_in: object.built_in, written: object.written }
    };
    Ok(now.into_iter().map(lost).collect())
}

fn judged(manifest: &str, keeps: bool) -> Result<Vec<Object>, String> {
    let judge = |(object, kept): (Value, bool)| Object {
        name: name(&object),
        built_in: is_built_in(&object),
        data: holds_data(&object),
        keep: keeps && kept,
        written: object,
    };
    Ok(parse(manifest)?.into_iter().map(judge).collect())
}

/// `PersistentVolumeClaim data`
pub(crate) fn name(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let name = text("/metadata/name").or(text("/metadata/generateName")).unwrap_or("without a name");
    format!("{} {name}", if kind(object).is_empty() { "object" } else { kind(object) })
}

/// API group, kind with name, and namespace.
type Identity<'a> = (&'a str, String, &'a str);

/// By what Helm takes two objects for the same one (`isMatchingInfo` of `pkg/kube/resource.go`): one
/// that changes its version stays, one that changes its group is deleted. An object without a
/// namespace is in `namespace`.
fn identity<'a>(object: &'a Value, namespace: &'a str) -> Identity<'a> {
    let own = object.pointer("/metadata/namespace").and_then(Value::as_str);
    (group(object), name(object), own.unwrap_or(namespace))
}

/// Empty for the core group; a name that no group has if the object does not say.
fn group(object: &Value) -> &str {
    let version = object.get("apiVersion").and_then(Value::as_str).unwrap_or("?/");
    version.split_once('/').map_or("", |(group, _)| group)
}

pub fn kind(object: &Value) -> &str {
    object.get("kind").and_then(Value::as_str).unwrap_or_default()
}

/// Whether it is a Secret of the core group.
pub(crate) fn is_secret(object: &Value) -> bool {
    let version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    kind(object).eq_ignore_ascii_case("secret") && !version.contains('/')
}

/// The objects of a manifest, with lists expanded, and whether Helm keeps each at an uninstall.
///
/// # Errors
/// If it is not YAML, in words that contain nothing of its text.
pub fn parse(manifest: &str) -> Result<Vec<(Value, bool)>, String> {
    let manifest = manifest.strip_prefix('\u{feff}').unwrap_or(manifest);
    let documents = crate::files::bounds::documents(manifest).map_err(|error| {
        // The text itself may contain a Secret's values.
        let place = error.location().map(|place| format!(" (line {}, column {})", place.line(), place.column()));
        place.unwrap_or_default()
    })?;
    let mut found = Vec::new();
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        // Helm only checks the document: an annotation within a List keeps nothing.
        let kept = is_kept(&document);
        flatten(document, kept, &mut found);
    }
    Ok(found)
}

/// The objects of a manifest alone.
///
/// # Errors
/// As for [`parse`].
pub fn plain(manifest: &str) -> Result<Vec<Value>, String> {
    Ok(parse(manifest)?.into_iter().map(|(object, _)| object).collect())
}

fn flatten(mut object: Value, kept: bool, found: &mut Vec<(Value, bool)>) {
    let of = kind(&object).strip_suffix("List").map(str::to_owned);
    let version = object.get("apiVersion").cloned();
    match (of, object.get_mut("items").and_then(Value::as_array_mut)) {
        (Some(of), Some(items)) => {
            for mut item in std::mem::take(items).into_iter().filter(|item| !item.is_null()) {
                // The items of a typed list may omit their kind.
                if let (Some(fields), false) = (item.as_object_mut(), of.is_empty()) {
                    fields.entry("kind").or_insert_with(|| of.as_str().into());
                    fields.entry("apiVersion").or_insert_with(|| version.clone().unwrap_or_default());
                }
                flatten(item, kept, found);
            }
        }
        _ => found.push((object, kept)),
    }
}

/// Whether an object holds data, or takes some with it when it is deleted.
pub(crate) fn holds_data(object: &Value) -> bool {
    let (group, kind) = (group(object), kind(object));
    // Its claims may be deleted with it (persistentVolumeClaimRetentionPolicy), and nothing uses
    // those that stay.
    if (group, kind) == ("apps", "StatefulSet") {
        return object.pointer("/spec/volumeClaimTemplates").is_some_and(|claims| !claims.is_null());
    }
    !STATELESS.iter().any(|(stateless, kinds)| *stateless == group && kinds.contains(&kind))
}

/// Groups without a dot, and those of Kubernetes itself.
pub(crate) fn is_built_in(object: &Value) -> bool {
    let version = object.get("apiVersion").and_then(Value::as_str).unwrap_or("?.?/");
    version.split_once('/').is_none_or(|(group, _)| !group.contains('.') || group.ends_with(".k8s.io"))
}

/// `filterManifestsToKeep` of `pkg/action/resource_policy.go`.
pub(crate) fn is_kept(document: &Value) -> bool {
    let policy = document.pointer("/metadata/annotations").and_then(|all| all.get(POLICY));
    policy.and_then(Value::as_str).is_some_and(|policy| policy.trim().eq_ignore_ascii_case("keep"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::helm_storage::Hook;

    fn data(manifest: &str) -> Vec<String> {
        data_of(&Stored { manifest: manifest.to_owned(), ..Stored::default() })
    }

    #[test]
    fn what_holds_data_is_found_however_it_is_written() {
        let claim = ["PersistentVolumeClaim gone"];
        for manifest in [
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata:\n  name: gone\n",
            "apiVersion: v1\nkind: \"PersistentVolumeClaim\"\nmetadata: {name: 'gone'}\n",
            "# Source: x/y.yaml\napiVersion: v1\nkind: PersistentVolumeClaim # of the database\nmetadata:\n    name: gone\n",
            "metadata:\r\n  name: gone\r\nkind: PersistentVolumeClaim\r\napiVersion: v1\r\n",
            "\u{feff}{\"apiVersion\": \"v1\", \"kind\": \"PersistentVolumeClaim\", \"metadata\": {\"name\": \"gone\"}}",
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: List\n  items:\n  - {apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: gone}}\n",
            "apiVersion: v1\nkind: PersistentVolumeClaimList\nitems: [{metadata: {name: gone}}]\n",
            "apiVersion: v1\nkind: &kind PersistentVolumeClaim\nmetadata: {name: gone, labels: {of: *kind}}\n",
            // Other text about keeping.
            "apiVersion: v1\nkind: PersistentVolumeClaim\n# helm.sh/resource-policy: keep\nmetadata:\n  name: gone\n",
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata:\n  name: gone\n  labels: {helm.sh/resource-policy: keep}\n",
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata:\n  name: gone\n  annotations: {note: 'helm.sh/resource-policy: keep'}\n",
            "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: gone, annotations: {helm.sh/resource-policy: keep}}}]\n",
            // A line of dashes inside a text does not start a new document.
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata:\n  x: |\n    ---\n    kind: PersistentVolumeClaim\n---\n---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: gone}\n",
        ] {
            assert_eq!(data(manifest), claim, "{manifest}");
        }
    }

    #[test]
    fn only_known_built_in_kinds_hold_none() {
        for (version, kind, holds) in [
            ("v1", "Service", false),
            ("v1", "Secret", false),
            ("apps/v1", "Deployment", false),
            ("batch/v1", "CronJob", false),
            ("networking.k8s.io/v1", "Ingress", false),
            ("v1", "Namespace", true),
            ("v1", "PersistentVolume", true),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition", true),
            ("postgresql.cnpg.io/v1", "Cluster", true),
            ("snapshot.storage.k8s.io/v1", "VolumeSnapshot", true),
            // A kind of the same name in a third-party group.
            ("example.com/v1", "Deployment", true),
            ("serving.knative.dev/v1", "Service", true),
        ] {
            let manifest = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n");
            assert_eq!(!data(&manifest).is_empty(), holds, "{version} {kind}");
        }
        assert_eq!(data("kind: Service\nmetadata: {name: x}\n"), ["Service x"], "of an unknown group");
        assert_eq!(data("a text\n"), ["object without a name"]);
    }

    #[test]
    fn a_stateful_set_holds_data_where_it_has_claims() {
        let set =
            |spec: &str| format!("apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db}}\nspec: {spec}\n");
        assert_eq!(data(&set("{volumeClaimTemplates: [{metadata: {name: data}}]}")), ["StatefulSet db"]);
        assert!(data(&set("{replicas: 1}")).is_empty());
    }

    #[test]
    fn what_helm_keeps_is_said_and_does_not_count() {
        let manifest = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata:\n  name: kept\n  annotations:\n    helm.sh/resource-policy: ' Keep'\n---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\n";
        let stored = Stored { manifest: manifest.to_owned(), ..Stored::default() };
        assert!(data_of(&stored).is_empty());
        assert_eq!(objects(&stored), ["PersistentVolumeClaim kept (kept)", "Service web"]);
    }

    #[test]
    fn what_cannot_be_read_counts_as_data_and_is_not_repeated() {
        for manifest in
            ["kind: [hunter2", "kind: Service\nkind: hunter2\n", "a: *hunter2\n", "kind: Service\n\thunter2"]
        {
            let found = data(manifest).join(" ");
            assert!(found.contains("cannot be read here") && !found.contains("hunter2"), "{manifest:?}: {found}");
        }
    }

    #[test]
    fn hooks_count_by_what_is_made_anew_and_by_what_runs_at_an_uninstall() {
        let hook = |name: &str, events: &[&str], manifest: &str| Hook {
            name: name.to_owned(),
            manifest: manifest.to_owned(),
            events: events.iter().map(|event| (*event).to_owned()).collect(),
            last_run: Default::default(),
        };
        let job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\n";
        let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: x, annotations: {helm.sh/resource-policy: keep}}\n";
        for (events, manifest, expected) in [
            (["post-install"], job, None),
            (["test"], claim, None),
            (["pre-install"], claim, Some("PersistentVolumeClaim x (a hook)")),
            (["pre-delete"], job, Some("whatever the hook h deletes, which runs at an uninstall")),
            (["post-install"], "kind: [", Some("what the hook h holds, which cannot be read here (line 1, column 7)")),
        ] {
            let stored = Stored { hooks: vec![hook("h", &events, manifest)], ..Stored::default() };
            assert_eq!(data_of(&stored), expected.into_iter().collect::<Vec<_>>(), "{events:?}");
        }
    }

    #[test]
    fn what_an_upgrade_would_delete_of_what_holds_data_is_found() {
        let object = |kind: &str, name: &str, more: &str| {
            let version = if kind == "Kafka" { "kafka.strimzi.io/v1" } else { "v1" };
            format!("---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}{more}}}\n")
        };
        let claim = object("PersistentVolumeClaim", "data", "");
        let kept = object("PersistentVolumeClaim", "kept", ", annotations: {helm.sh/resource-policy: keep}");
        let kafka = object("Kafka", "events", ", namespace: shop");
        let stored =
            Stored { manifest: format!("{claim}{kept}{kafka}{}", object("Service", "web", "")), ..Stored::default() };
        let lost = |next: &str| dropped(&stored, &plain(next), "shop").unwrap();
        let names = |next: &str| lost(next).into_iter().map(|dropped| dropped.name).collect::<Vec<_>>();
        // Helm checks the object in the cluster for the annotation, not the manifest.
        assert_eq!(names(&format!("{claim}{kafka}")), ["PersistentVolumeClaim kept"]);
        for (next, expected) in [
            (format!("{claim}{kafka}"), &[][..]),
            (format!("{claim}{}", object("Kafka", "events", "")), &[]),
            (format!("{}{kafka}", object("PersistentVolumeClaim", "data", ", namespace: shop")), &[]),
            (claim.clone(), &["Kafka events"]),
            (format!("{claim}{}", object("Kafka", "events", ", namespace: elsewhere")), &["Kafka events"]),
            (
                format!("{}{kafka}", object("PersistentVolumeClaim", "data", ", namespace: elsewhere")),
                &["PersistentVolumeClaim data"],
            ),
            (format!("{}{kafka}", object("PersistentVolumeClaim", "renamed", "")), &["PersistentVolumeClaim data"]),
            (String::new(), &["PersistentVolumeClaim data", "Kafka events"]),
            // Another version of the same group, and another group.
            (format!("{claim}{}", kafka.replace("/v1", "/v1beta2")), &[]),
            (format!("{claim}{}", kafka.replace("kafka.strimzi.io", "kafka.banzaicloud.io")), &["Kafka events"]),
        ] {
            let next = format!("{next}{kept}");
            assert_eq!(names(&next), expected, "{next}");
            let told = lost(&next).into_iter().all(|dropped| dropped.built_in != dropped.name.starts_with("Kafka"));
            assert!(told, "{next}");
        }
    }

    #[test]
    fn an_upgrade_from_or_to_what_cannot_be_read_may_lose_anything_that_holds_data() {
        let stored = |manifest: &str| Stored { manifest: manifest.to_owned(), ..Stored::default() };
        let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\n";
        // Helm accepts it.
        let twice = "apiVersion: v1\nkind: Service\nmetadata: {name: web, name: hunter2}\n";
        for (now, next, expected) in [
            (twice, claim, Err("what its manifest holds, which cannot be read here (line 3, column 23)")),
            (
                claim,
                twice,
                Err("what the next manifest no longer holds, which cannot be read here (line 3, column 23)"),
            ),
            ("apiVersion: v1\nkind: Service\nmetadata: {name: web}\n", twice, Ok(0)),
        ] {
            let found = dropped(&stored(now), &plain(next), "shop").map(|lost| lost.len());
            assert_eq!(found.as_ref().map_err(String::as_str), expected.as_ref().map_err(|words| *words), "{now}");
            assert_eq!(is_at_stake(&stored(now)), expected.is_err(), "{now}");
        }
        let broken = Stored { unreadable: Some("not base64".to_owned()), ..Stored::default() };
        assert_eq!(data_of(&broken), ["what its Secret holds, which cannot be read here"]);
    }
}
