//! What an upgrade would change in a release's objects: compares the deployed and the rendered
//! manifest, object by object, with what each change means. Pure, and without the values of
//! Secrets: they are hidden before anything is compared as text.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use similar::TextDiff;

use super::ownership::Path;
use crate::releases::manifest::{self, is_secret, kind};
use crate::run::foreign;
use crate::world::kubernetes::kinds::Kinds;
use run_record::preview::{Change, ObjectPreview};

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
fn hook_events(object: &Value) -> Option<&str> {
    annotation(object, "helm.sh/hook")
}

fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.pointer("/metadata/annotations")?.get(name)?.as_str()
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// How Helm identifies objects (`isMatchingInfo` of `pkg/kube/resource.go`): without the API
/// version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    group: String,
    kind: String,
    namespace: String,
    name: String,
}

impl Identity {
    fn of(object: &Value, namespace: &str) -> Self {
        let own = text(object, "/metadata/namespace");
        Self {
            group: group(object).to_owned(),
            kind: kind(object).to_owned(),
            namespace: if own.is_empty() { namespace } else { own }.to_owned(),
            name: text(object, "/metadata/name").to_owned(),
        }
    }
}

pub(crate) fn group(object: &Value) -> &str {
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

/// What must not be shown: the values of Secrets, wherever they occur.
pub(crate) struct Hidden {
    values: BTreeSet<String>,
}

/// Replaces a Secret's value.
const HIDDEN: &str = "***";
/// The same, if the value differs from before.
const CHANGED: &str = "*** changed";

/// A value this short, or only of letters, is a word that may occur elsewhere as well.
const A_WORD: usize = 8;

impl Hidden {
    pub fn of<'a>(all: impl Iterator<Item = &'a Objects>) -> Self {
        let objects = all.flat_map(|objects| objects.resources.iter().chain(&objects.hooks));
        let mut values = BTreeSet::new();
        for secret in objects.filter(|object| is_secret(object)) {
            for (_, value) in secret_values(secret) {
                let telling = value.len() >= A_WORD && value.chars().any(|c| !c.is_ascii_lowercase() && c != '-');
                values.extend(telling.then(|| STANDARD.encode(&value)));
                values.extend(telling.then_some(value));
            }
        }
        Self { values }
    }

    /// The lines of a unified diff; none if both are the same.
    fn diff(&self, old: Option<&Value>, new: Option<&Value>) -> Vec<String> {
        let (old, new) = (old.map(plain), new.map(plain));
        if old == new {
            return Vec::new();
        }
        let (old, new) = hide_both(old, new);
        let (old, new) = (self.yaml(old), self.yaml(new));
        let diff = TextDiff::from_lines(&old, &new);
        let unified = diff.unified_diff().context_radius(3).missing_newline_hint(false).to_string();
        // Otherwise the object would count as unchanged.
        let unified = if unified.is_empty() { " # only values that are not shown differ" } else { &unified };
        unified.lines().map(str::to_owned).collect()
    }

    /// A value with all of these hidden, and with what its own lines name as secret.
    pub fn value(&self, value: &Value) -> Value {
        let mut value = value.clone();
        hide_secrets(&mut value, None, &Path::default());
        self.within(&mut value);
        value
    }

    fn text(&self, text: &str) -> String {
        // Longest first: one may be part of another.
        let mut values: Vec<&String> = self.values.iter().filter(|value| text.contains(value.as_str())).collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        values.into_iter().fold(text.to_owned(), |text, value| text.replace(value.as_str(), HIDDEN))
    }

    fn within(&self, value: &mut Value) {
        match value {
            Value::Object(map) => map.values_mut().for_each(|value| self.within(value)),
            Value::Array(items) => items.iter_mut().for_each(|value| self.within(value)),
            Value::String(text) => *text = self.text(text),
            _ => {}
        }
    }

    fn yaml(&self, object: Option<Value>) -> String {
        let Some(mut object) = object else { return String::new() };
        // Before it is serialized: YAML would escape a value, or break it into lines.
        self.within(&mut object);
        // A long text stays on one line, so that its change is one line.
        let options = serde_saphyr::ser_options! { min_fold_chars: usize::MAX, folded_wrap_chars: usize::MAX };
        serde_saphyr::to_string_with_options(&object, options).unwrap_or_else(|_| object.to_string())
    }
}

/// The values of a Secret in plain text, by key.
fn secret_values(secret: &Value) -> BTreeMap<String, String> {
    let map = |name: &str| secret.get(name).and_then(Value::as_object).into_iter().flatten();
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let decoded = map("data").map(|(key, value)| {
        let bytes = STANDARD.decode(plain(value).trim()).ok();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        (key.clone(), text.unwrap_or_else(|| plain(value)))
    });
    decoded.chain(map("stringData").map(|(key, value)| (key.clone(), plain(value)))).collect()
}

/// An object without irrelevant differences: null fields, and the form in which a Secret's values
/// are given.
fn plain(object: &Value) -> Value {
    let mut object = object.clone();
    without_nulls(&mut object);
    if is_secret(&object) {
        let values = secret_values(&object);
        if let Some(fields) = object.as_object_mut() {
            let readable = |value: &Value| value.is_object() || value.is_null();
            let whole = ["data", "stringData"].iter().all(|name| fields.get(*name).is_none_or(readable));
            if whole {
                fields.remove("stringData");
                fields.remove("data");
                let values: Map<String, Value> = values.into_iter().map(|(key, value)| (key, value.into())).collect();
                if !values.is_empty() {
                    fields.insert("data".to_owned(), Value::Object(values));
                }
            }
        }
    }
    object
}

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// Both without a Secret's values; it is still visible which of them differ.
fn hide_both(old: Option<Value>, new: Option<Value>) -> (Option<Value>, Option<Value>) {
    let before = old.clone();
    let hidden = |object: Value, other: Option<&Value>| {
        let mut object = object;
        if !is_secret(&object) {
            hide_secrets(&mut object, other, &Path::default());
            return object;
        }
        for name in ["data", "stringData"] {
            if let Some(value) = object.get_mut(name) {
                hide(value, other.map(|other| &other[name]));
            }
        }
        // kubectl's annotation contains all values once more.
        if let Some(last) =
            object.pointer_mut("/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration")
        {
            *last = HIDDEN.into();
        }
        object
    };
    let new = new.map(|new| hidden(new, before.as_ref()));
    (old.map(|old| hidden(old, None)), new)
}

/// Hides the values of fields, variables and lines whose names say that they are secret. `other` is
/// the previous value.
fn hide_secrets(value: &mut Value, other: Option<&Value>, path: &Path) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                let (other, path) = (other.and_then(|other| other.get(key)), path.field(key));
                // The value of a variable may have any form.
                match key == "value" && path.may_be_secret() {
                    true => hide(value, other),
                    false => hide_secrets(value, other, &path),
                }
            }
        }
        Value::Array(items) => {
            let others = other.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            for (index, item) in items.iter_mut().enumerate() {
                let keys: Map<String, Value> =
                    item.get("name").map(|name| ("name".to_owned(), name.clone())).into_iter().collect();
                let before = match keys.get("name") {
                    Some(name) => others.iter().find(|other| other.get("name") == Some(name)),
                    None => others.get(index),
                };
                hide_secrets(item, before, &path.item(&keys));
            }
        }
        // One of two values tells nothing: `automountServiceAccountToken: false`.
        Value::Null | Value::Bool(_) => {}
        secret if path.may_be_secret() => hide(secret, other),
        Value::String(text) if text.contains('\n') => *text = without_secret_lines(text, other.and_then(Value::as_str)),
        Value::String(_) | Value::Number(_) => {}
    }
}

/// A text of several lines, such as a configuration file, without the values of keys whose names say
/// that they are secret. `other` is the previous text.
fn without_secret_lines(text: &str, other: Option<&str>) -> String {
    let before: Option<BTreeSet<&str>> = other.map(|other| other.split('\n').collect());
    let indented = |line: &str| line.len() - line.trim_start().len();
    // The indentation of a key whose value is a block of lines.
    let mut block: Option<usize> = None;
    let lines = text.split('\n').map(|line| {
        let within = block.filter(|key| line.trim().is_empty() || indented(line) > *key);
        let start = match within {
            Some(_) if line.trim().is_empty() => None,
            Some(_) => Some(indented(line)),
            None => secret_value(line),
        };
        if within.is_none() {
            let opens = |start: usize| line[start..].starts_with(['|', '>']);
            block = start.filter(|start| opens(*start)).map(|_| indented(line));
        }
        let Some(start) = start else { return line.to_owned() };
        let changed = before.as_ref().is_some_and(|before| !before.contains(line));
        format!("{}{}", &line[..start], if changed { CHANGED } else { HIDDEN })
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Where the value of a secret key begins in a line of YAML, TOML, INI, properties or a script
/// (`export TOKEN=…`), in bytes.
fn secret_value(line: &str) -> Option<usize> {
    let end = line.find([':', '='])?;
    let key = line[..end].trim().trim_start_matches(['-', '{']).trim();
    // Before an equals sign there may be a command; before a colon, words are prose.
    let key = if line[end..].starts_with('=') { key.split_whitespace().last()? } else { key };
    let key = key.trim_matches(['"', '\'']);
    let value = line[end + 1..].trim_start();
    let secret = !value.is_empty() && !key.contains(char::is_whitespace) && foreign::is_secret_field(key);
    secret.then(|| line.len() - value.len())
}

/// `other` is the previous value.
fn hide(value: &mut Value, other: Option<&Value>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                hide(value, other.and_then(|other| other.get(key)));
            }
        }
        value => {
            let changed = other.is_some_and(|other| !other.is_null() && other != value);
            *value = if changed { CHANGED } else { HIDDEN }.into();
        }
    }
}

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
fn refused(old: &Value, new: &Value) -> (Vec<String>, Vec<String>) {
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
    fn a_value_that_yaml_would_escape_or_break_is_hidden_too() {
        for value in ["with \"quotes\" and 1", "it's 2 quotes", "line 1\nline 2\n", "a: b # 3"] {
            let secret = of_kind("v1", "Secret", json!({"stringData": {"a": value}}));
            let pair = |tail: &str| {
                let text = format!("{value}{tail}");
                objects(vec![secret.clone(), of_kind("v1", "ConfigMap", json!({"data": {"x": text, "y": value}}))])
            };
            let found = changes(Some(&pair("1")), &pair("2"), "shop", &Kinds::new());
            let text = format!("{found:?}");
            for line in value.lines() {
                assert!(!text.contains(line) && !text.contains(&format!("{line:?}")), "{line}: {text}");
            }
        }
        let field = |value: &str| of_kind("example.com/v1", "Db", json!({"spec": {"adminPassword": value}}));
        let key = |value: &str| of_kind("v1", "ConfigMap", json!({"data": {"STRIPE_KEY": value, "BASIC_AUTH": value}}));
        for (old, new) in [(field("hunter2"), field("hunter3")), (key("hunter2"), key("hunter3"))] {
            let found = one(old, new);
            assert!(!format!("{found:?}").contains("hunter"), "{found:?}");
        }
    }

    #[test]
    fn a_scalar_is_hidden_by_the_names_of_all_the_fields_that_it_is_in() {
        let db = |more: Value| of_kind("example.com/v1", "Db", json!({ "spec": more }));
        for of in [
            (|value| json!({"token": {"value": value}})) as fn(Value) -> Value,
            |value| json!({"api": {"key": value}}),
            |value| json!({"password": value}),
            |value| json!({"passwords": [{"password": value}]}),
            |value| json!({"env": [{"name": "DB_PASSWORD", "value": {"plain": value}}]}),
        ] {
            for (old, new) in [(json!("hunter2"), json!("hunter3")), (json!(123_456), json!(123_457))] {
                let text = one(db(of(old)), db(of(new))).diff.join("\n");
                assert!(text.contains("*** changed") && !text.contains("hunter") && !text.contains("12345"), "{text}");
            }
        }
        let pod = |mount: bool, key: &str| {
            let from = json!({"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": key}}});
            of_kind(
                "v1",
                "Pod",
                json!({"spec": {"automountServiceAccountToken": mount, "containers": [{"env": [from]}]}}),
            )
        };
        let text = one(pod(true, "a"), pod(false, "b")).diff.join("\n");
        assert!(text.contains("automountServiceAccountToken: false") && text.contains("key: b"), "{text}");
    }

    #[test]
    fn lines_of_a_text_that_name_a_secret_are_hidden_and_a_change_of_them_is_not() {
        let file = |text: &str| of_kind("v1", "ConfigMap", json!({"data": {"config.yaml": text}}));
        for text in [
            "db:\n  password: hunter2\n",
            "- password: \"hunter2\"\n- x: 1",
            "\"db.password\" : two hunter2 words\n",
            "[db]\npassword = hunter2 # x\n",
            "spring.datasource.password=hunter2\n",
            "#!/bin/sh\nexport DB_PASSWORD=hunter2\n",
            "token: |\n  hunter2\n\n  hunter2\nx: 1\n",
        ] {
            let found = one(file(text), file(&text.replace("hunter2", "hunter3")));
            let shown = found.diff.join("\n");
            assert!(shown.contains("*** changed") && !shown.contains("hunter"), "{shown}");
        }
        let readable = "about the password: it is elsewhere\npassword:\n  from: vault\nx: 1\n";
        assert_eq!(without_secret_lines(readable, None), readable);
        let hidden = Hidden::of(std::iter::empty());
        assert_eq!(hidden.value(&"db:\n  password: hunter2".into()), "db:\n  password: ***");
        assert_eq!(hidden.value(&"password: expired".into()), "password: expired");
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
            assert_eq!(title(&of_kind(version, kind, json!({})), "shop", &kinds), told);
        }
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
