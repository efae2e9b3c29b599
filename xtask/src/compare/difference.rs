//! What an upgrade would change in a release's objects: compares the deployed and the rendered
//! manifest, object by object, with what each change means. Pure, and without the values of
//! Secrets: they are hidden before anything is compared as text.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::hidden::{Hidden, plain, secret_values};
use super::immutable::refused;
use super::objects::{Identity, Objects, group, hook_events, text, title};
use super::ownership::Path;
use crate::releases::manifest::{self, is_secret, kind};
use crate::world::kubernetes::kinds::Kinds;
use run_record::preview::{Change, ObjectPreview};

/// What happens to each object that differs, in the order of the rendering, with deleted ones last.
/// `namespace` is the release's; `deployed` is `None` if nothing is installed.
pub(crate) fn changes(
    deployed: Option<&Objects>,
    rendered: &Objects,
    namespace: &str,
    kinds: &Kinds,
) -> Vec<ObjectPreview> {
    let hidden = Hidden::of(deployed.into_iter().chain([rendered]));
    let none = Objects::default();
    let before = deployed.unwrap_or(&none);
    let mut found = Vec::new();
    if deployed.is_none() {
        found.extend(rendered.crds.iter().map(|object| ObjectPreview {
            object: title(object, namespace, kinds),
            change: Change::Create,
            notes: vec!["from the chart's crds folder: Helm creates it now, and never changes it later".to_owned()],
            diff: hidden.diff(None, Some(object)),
        }));
    }
    let known = by_identity(&before.resources, namespace);
    for object in &rendered.resources {
        match known.get(&Identity::of(object, namespace)) {
            None => found.push(ObjectPreview {
                object: title(object, namespace, kinds),
                change: Change::Create,
                notes: Vec::new(),
                diff: hidden.diff(None, Some(object)),
            }),
            Some(old) => {
                let diff = hidden.diff(Some(old), Some(object));
                if !diff.is_empty() {
                    let notes = meaning(old, object);
                    found.push(ObjectPreview {
                        object: title(object, namespace, kinds),
                        change: Change::Change,
                        notes,
                        diff,
                    });
                }
            }
        }
    }
    found.extend(hooks(before, rendered, namespace, &hidden, kinds));
    let stays: BTreeSet<Identity> = rendered.resources.iter().map(|object| Identity::of(object, namespace)).collect();
    for object in before.resources.iter().filter(|object| !stays.contains(&Identity::of(object, namespace))) {
        let kept = manifest::is_kept(object);
        let notes = match kept {
            true => vec!["helm.sh/resource-policy: keep".to_owned()],
            false => manifest::holds_data(object).then(|| losing(object)).into_iter().collect(),
        };
        let change = if kept { Change::Keep } else { Change::Delete };
        let diff = if kept { Vec::new() } else { hidden.diff(Some(object), None) };
        found.push(ObjectPreview { object: title(object, namespace, kinds), change, notes, diff });
    }
    found
}

fn losing(object: &Value) -> String {
    match manifest::is_built_in(object) {
        true => "it holds data, or deleting it may delete data: consent is asked for".to_owned(),
        false => "its controller may delete the data it manages: this is only reported, without asking for consent"
            .to_owned(),
    }
}

fn by_identity<'a>(objects: &'a [Value], namespace: &str) -> BTreeMap<Identity, &'a Value> {
    objects.iter().map(|object| (Identity::of(object, namespace), object)).collect()
}

/// Helm does not compare hooks: each is created at its event, by default after the previous one was
/// deleted.
fn hooks(before: &Objects, rendered: &Objects, namespace: &str, hidden: &Hidden, kinds: &Kinds) -> Vec<ObjectPreview> {
    let known = by_identity(&before.hooks, namespace);
    let changed = rendered.hooks.iter().filter_map(|object| {
        let old = known.get(&Identity::of(object, namespace)).copied();
        let diff = hidden.diff(old, Some(object));
        let events = hook_events(object).unwrap_or_default();
        let change = if old.is_some() { Change::Replace } else { Change::Create };
        let notes = vec![format!("a hook: it runs at {events}")];
        (!diff.is_empty()).then(|| ObjectPreview { object: title(object, namespace, kinds), change, notes, diff })
    });
    let stays = by_identity(&rendered.hooks, namespace);
    let gone = before.hooks.iter().filter(|object| !stays.contains_key(&Identity::of(object, namespace)));
    let gone = gone.map(|object| ObjectPreview {
        object: title(object, namespace, kinds),
        change: Change::Keep,
        notes: vec!["the chart no longer has this hook; Helm leaves what it created".to_owned()],
        diff: Vec::new(),
    });
    changed.chain(gone).collect()
}

/// What a change of an object's manifest means.
fn meaning(old: &Value, new: &Value) -> Vec<String> {
    let (old, new) = (&plain(old), &plain(new));
    let mut notes = Vec::new();
    let (refused, in_one) = refused(old, new);
    if !refused.is_empty() {
        let fields = refused.join(", ");
        notes.push(format!(
            "immutable-field: the API server refuses a change of {fields}; undo it, or replace the object by hand"
        ));
    }
    let unless = |what| format!("{what}: refused (immutable-field) unless that is what the object has");
    notes.extend(in_one.into_iter().map(unless));
    let differs = |names: &[&str]| Path::of(names).get(old) != Path::of(names).get(new);
    let template = differs(&["spec", "template"]);
    match (group(new), kind(new)) {
        ("apps", "Deployment") if template => notes.push(match text(new, "/spec/strategy/type") {
            "Recreate" => "its pods stop before new ones start".to_owned(),
            _ => "its pods are replaced by new ones".to_owned(),
        }),
        ("apps", "StatefulSet") if template => notes.push(match text(new, "/spec/updateStrategy/type") {
            "OnDelete" => "its pods stay as they are until somebody deletes them (OnDelete)".to_owned(),
            _ => "its pods are replaced one at a time, the last first; their claims stay".to_owned(),
        }),
        ("apps", "DaemonSet") if template => notes.push(match text(new, "/spec/updateStrategy/type") {
            "OnDelete" => "its pods stay as they are until somebody deletes them (OnDelete)".to_owned(),
            _ => "its pods are replaced node by node".to_owned(),
        }),
        ("batch", "CronJob") if differs(&["spec", "jobTemplate"]) => {
            notes.push("its next jobs are created from it; running ones continue".to_owned())
        }
        _ => {}
    }
    if matches!(group(new), "apps") && differs(&["spec", "replicas"]) {
        let number = |object: &Value| {
            object.pointer("/spec/replicas").map_or_else(|| "1 by default".to_owned(), Value::to_string)
        };
        notes.push(format!("replicas: {} → {}", number(old), number(new)));
    }
    if (group(new), kind(new)) == ("apiextensions.k8s.io", "CustomResourceDefinition") {
        let versions = |object: &Value| -> BTreeSet<String> {
            let versions = object.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
            versions.filter_map(|version| version["name"].as_str().map(str::to_owned)).collect()
        };
        let gone: Vec<String> = versions(old).difference(&versions(new)).cloned().collect();
        if !gone.is_empty() {
            notes.push(format!("it no longer has version {}: refused while objects are stored in it", gone.join(", ")));
        }
    }
    if is_secret(new) {
        let (before, after) = (secret_values(old), secret_values(new));
        let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let changed: Vec<&str> =
            keys.into_iter().filter(|key| before.get(*key) != after.get(*key)).map(String::as_str).collect();
        if !changed.is_empty() {
            notes.push(format!("its values change: {}", changed.join(", ")));
        }
    }
    if (group(new), kind(new)) == ("", "ConfigMap") || is_secret(new) {
        notes.push("pods that read it as variables keep the old values until they are replaced".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;

    fn objects(resources: Vec<Value>) -> Objects {
        Objects::of(resources, Vec::new())
    }

    /// What happens to one object.
    fn one(old: Value, new: Value) -> ObjectPreview {
        let found = changes(Some(&objects(vec![old])), &objects(vec![new]), "shop", &Kinds::new());
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap()
    }

    fn of_kind(version: &str, kind: &str, more: Value) -> Value {
        let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}});
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object
    }

    fn config(name: &str, value: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": value}})
    }

    #[test]
    fn what_is_created_changed_deleted_and_kept_is_told_apart() {
        let mut kept = config("kept", "1");
        kept["metadata"]["annotations"] = json!({"helm.sh/resource-policy": "keep"});
        let mut elsewhere = config("changed", "1");
        elsewhere["metadata"]["namespace"] = "elsewhere".into();
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}});
        let before = vec![config("same", "1"), config("changed", "1"), config("gone", "1"), kept, claim];
        let mut named = config("same", "1");
        named["metadata"]["namespace"] = "shop".into();
        let after = vec![named, config("changed", "2"), config("new", "1"), elsewhere];
        let found = changes(Some(&objects(before)), &objects(after), "shop", &Kinds::new());
        let rows: Vec<(&str, Change, &str)> = found
            .iter()
            .map(|object| (object.object.as_str(), object.change, object.notes.first().map_or("", String::as_str)))
            .collect();
        let variables = "pods that read it as variables keep the old values until they are replaced";
        assert_eq!(
            rows,
            [
                // Whether the release's namespace is written or not only makes a difference in the
                // manifest.
                ("ConfigMap shop/same", Change::Change, variables),
                ("ConfigMap shop/changed", Change::Change, variables),
                ("ConfigMap shop/new", Change::Create, ""),
                ("ConfigMap elsewhere/changed", Change::Create, ""),
                ("ConfigMap shop/gone", Change::Delete, ""),
                ("ConfigMap shop/kept", Change::Keep, "helm.sh/resource-policy: keep"),
                (
                    "PersistentVolumeClaim shop/data",
                    Change::Delete,
                    "it holds data, or deleting it may delete data: consent is asked for"
                ),
            ]
        );
        assert_eq!(found[1].diff.iter().filter(|line| line.starts_with(['+', '-'])).count(), 2, "{:?}", found[1].diff);
    }

    #[test]
    fn order_nulls_and_the_version_of_an_api_are_no_other_object() {
        let old = json!({"kind": "A", "apiVersion": "g.x/v1", "metadata": {"name": "x"}, "spec": {"a": 1, "b": null}});
        let same = json!({"spec": {"a": 1}, "metadata": {"name": "x"}, "apiVersion": "g.x/v1", "kind": "A"});
        assert!(changes(Some(&objects(vec![old.clone()])), &objects(vec![same]), "shop", &Kinds::new()).is_empty());
        let mut newer = old.clone();
        newer["apiVersion"] = "g.x/v2".into();
        assert_eq!(one(old.clone(), newer).change, Change::Change);
        let mut other = old.clone();
        other["apiVersion"] = "h.x/v1".into();
        let found = changes(Some(&objects(vec![old])), &objects(vec![other]), "shop", &Kinds::new());
        assert_eq!(found.iter().map(|object| object.change).collect::<Vec<_>>(), [Change::Create, Change::Delete]);
    }

    #[test]
    fn no_form_of_a_secret_shows_its_value() {
        let value = "Tr0ub4dor-and-3";
        let encoded = STANDARD.encode(value);
        let secret = |more: Value| of_kind("v1", "Secret", more);
        let last = json!({"name": "x", "annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": format!("{{\"data\":{{\"a\":\"{encoded}\"}}}}")}});
        for (old, new) in [
            (secret(json!({"data": {"a": "eA=="}})), secret(json!({"data": {"a": encoded}}))),
            (secret(json!({"data": {"a": encoded}})), secret(json!({"data": {"a": "eA=="}}))),
            (secret(json!({"stringData": {"a": value}})), secret(json!({"stringData": {"a": "x"}}))),
            (secret(json!({"data": {"a": encoded}})), secret(json!({"stringData": {"b": value}}))),
            (secret(json!({"data": value})), secret(json!({"data": [value]}))),
            (secret(json!({"data": {"a": {"deep": value}}})), secret(json!({"data": null}))),
            (secret(json!({"metadata": last})), secret(json!({}))),
            (
                of_kind("v1", "List", json!({"items": []})),
                of_kind(
                    "v1",
                    "Pod",
                    json!({"spec": {"containers": [{"env": [{"name": "DB_PASSWORD", "value": value}]}]}}),
                ),
            ),
        ] {
            for (old, new) in [(&old, &new), (&new, &old)] {
                let pair = [
                    changes(Some(&objects(vec![old.clone()])), &objects(vec![new.clone()]), "shop", &Kinds::new()),
                    changes(None, &objects(vec![new.clone()]), "shop", &Kinds::new()),
                    changes(Some(&objects(vec![old.clone()])), &Objects::default(), "shop", &Kinds::new()),
                ];
                let text = format!("{pair:?}");
                assert!(!text.contains(value) && !text.contains(&encoded), "{text}");
            }
        }
        // Nor if another object repeats it.
        let repeated = |tail: &str| {
            vec![secret(json!({"data": {"a": encoded}})), config("x", &format!("postgres://me:{value}@db/{tail}"))]
        };
        let text =
            format!("{:?}", changes(Some(&objects(repeated("1"))), &objects(repeated("2")), "shop", &Kinds::new()));
        assert!(!text.contains(value) && text.contains("***@db/2"), "{text}");
    }

    #[test]
    fn an_object_in_which_only_hidden_values_differ_is_not_left_out() {
        let both = |value: &str| {
            let secret = of_kind("v1", "Secret", json!({"stringData": {"a": value}}));
            objects(vec![secret, config("x", &format!("postgres://me:{value}@db"))])
        };
        let found = changes(Some(&both("Tr0ub4dor-and-3")), &both("Tr0ub4dor-and-4"), "shop", &Kinds::new());
        let config = found.iter().find(|object| object.object == "ConfigMap shop/x").unwrap();
        assert_eq!(config.diff, [" # only values that are not shown differ"]);
    }

    #[test]
    fn a_secret_says_which_of_its_values_change_and_the_same_value_is_no_change() {
        let secret = |more: Value| of_kind("v1", "Secret", more);
        let same = changes(
            Some(&objects(vec![secret(json!({"data": {"a": "eA=="}}))])),
            &objects(vec![secret(json!({"stringData": {"a": "x"}}))]),
            "shop",
            &Kinds::new(),
        );
        assert!(same.is_empty(), "{same:?}");
        let found = one(
            secret(json!({"data": {"a": "eA==", "b": "eA==", "c": "eA=="}})),
            secret(json!({"data": {"a": "eA==", "b": "eQ==", "d": "eA=="}})),
        );
        assert_eq!(found.notes[0], "its values change: b, c, d");
        assert!(
            found.diff.iter().any(|line| line.starts_with('+') && line.contains("b: \"*** changed\"")),
            "{found:?}"
        );
    }

    #[test]
    fn what_may_not_change_is_named_by_kind() {
        let set = |more: Value| of_kind("apps/v1", "StatefulSet", json!({"spec": more}));
        let job = |more: Value| of_kind("batch/v1", "Job", json!({"spec": more}));
        let claim = |more: Value| of_kind("v1", "PersistentVolumeClaim", json!({"spec": more}));
        for (old, new, fields) in [
            (set(json!({"serviceName": "a"})), set(json!({"serviceName": "b"})), Some("spec.serviceName")),
            (set(json!({"replicas": 1})), set(json!({"replicas": 2})), None),
            (set(json!({"template": {"a": 1}})), set(json!({"template": {"a": 2}})), None),
            (job(json!({"template": {"a": 1}})), job(json!({"template": {"a": 2}})), Some("spec.template")),
            (job(json!({"parallelism": 1})), job(json!({"parallelism": 2})), None),
            (
                claim(json!({"storageClassName": "a"})),
                claim(json!({"storageClassName": "b"})),
                Some("spec.storageClassName"),
            ),
            (
                claim(json!({"resources": {"requests": {"storage": "1Gi"}}})),
                claim(json!({"resources": {"requests": {"storage": "2Gi"}}})),
                None,
            ),
            (
                of_kind("rbac.authorization.k8s.io/v1", "RoleBinding", json!({"roleRef": {"name": "a"}})),
                of_kind("rbac.authorization.k8s.io/v1", "RoleBinding", json!({"roleRef": {"name": "b"}})),
                Some("roleRef"),
            ),
            (
                of_kind("v1", "ConfigMap", json!({"immutable": true, "data": {"a": "1"}})),
                of_kind("v1", "ConfigMap", json!({"immutable": true, "data": {"a": "2"}})),
                Some("data"),
            ),
            // A kind of that name in a third-party group.
            (
                of_kind("example.com/v1", "Job", json!({"spec": {"template": 1}})),
                of_kind("example.com/v1", "Job", json!({"spec": {"template": 2}})),
                None,
            ),
        ] {
            let found = one(old, new);
            let refused = found.notes.iter().find(|note| note.starts_with("immutable-field"));
            match fields {
                Some(fields) => assert!(refused.is_some_and(|note| note.contains(fields)), "{fields}: {found:?}"),
                None => assert_eq!(refused, None, "{found:?}"),
            }
        }
    }

    #[test]
    fn a_default_that_is_only_written_out_or_left_out_is_not_told_as_refused() {
        let set = |more: Value| of_kind("apps/v1", "StatefulSet", json!({"spec": more}));
        let claim = |more: Value| of_kind("v1", "PersistentVolumeClaim", json!({"spec": more}));
        for (without, with, field) in [
            (claim(json!({})), claim(json!({"volumeMode": "Filesystem"})), "spec.volumeMode"),
            (set(json!({})), set(json!({"podManagementPolicy": "OrderedReady"})), "spec.podManagementPolicy"),
        ] {
            for (old, new, how) in [(&without, &with, "written"), (&with, &without, "left")] {
                let told =
                    format!("{field} is {how} out now: refused (immutable-field) unless that is what the object has");
                assert_eq!(one(old.clone(), new.clone()).notes, [told]);
            }
        }
    }

    #[test]
    fn what_a_change_means_for_pods_is_said() {
        let workload = |kind: &str, spec: Value, number: u8| {
            let mut object = of_kind("apps/v1", kind, json!({ "spec": spec }));
            object["spec"]["template"] = json!({ "a": number });
            object
        };
        for (kind, spec, words) in [
            ("Deployment", json!({}), "replaced by new ones"),
            ("Deployment", json!({"strategy": {"type": "Recreate"}}), "stop before new ones start"),
            ("StatefulSet", json!({}), "one at a time"),
            ("StatefulSet", json!({"updateStrategy": {"type": "OnDelete"}}), "until somebody deletes them"),
            ("DaemonSet", json!({}), "node by node"),
        ] {
            let found = one(workload(kind, spec.clone(), 1), workload(kind, spec, 2));
            assert!(found.notes.iter().any(|note| note.contains(words)), "{kind}: {found:?}");
        }
        let scaled = one(workload("Deployment", json!({}), 1), workload("Deployment", json!({"replicas": 3}), 1));
        assert_eq!(scaled.notes, ["replicas: 1 by default → 3"]);
    }

    #[test]
    fn hooks_and_definitions_are_not_compared_as_what_an_upgrade_changes() {
        let hook = |name: &str, value: &str| {
            let mut hook = config(name, value);
            hook["metadata"]["annotations"] = json!({"helm.sh/hook": "pre-upgrade"});
            hook
        };
        let definition = of_kind("apiextensions.k8s.io/v1", "CustomResourceDefinition", json!({}));
        let before = Objects::of(vec![hook("same", "1"), hook("changed", "1"), hook("gone", "1")], Vec::new());
        let after = Objects::of(vec![hook("same", "1"), hook("changed", "2"), hook("new", "1")], vec![definition]);
        let rows = |deployed: Option<&Objects>| -> Vec<(String, Change)> {
            changes(deployed, &after, "shop", &Kinds::new())
                .into_iter()
                .map(|object| (object.object, object.change))
                .collect()
        };
        let row = |name: &str, change| (format!("ConfigMap shop/{name}"), change);
        assert_eq!(
            rows(Some(&before)),
            [row("changed", Change::Replace), row("new", Change::Create), row("gone", Change::Keep)]
        );
        assert_eq!(rows(None)[0], ("CustomResourceDefinition x".to_owned(), Change::Create));
    }
}
