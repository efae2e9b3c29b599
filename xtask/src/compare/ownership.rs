//! Who owns the fields that Helm set: determined from the object's `managedFields` and the manifest
//! that Helm applied. A field that somebody else sets to another value leaves Helm's list; one that
//! is removed, or set through a subresource that records nobody, is in no list.
//!
//! Paths are those of `fieldsV1` (structured-merge-diff): fields by name, list items by the keys
//! that their type defines.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use serde_json::{Map, Value};

use crate::releases::by_hand::is_helms;
use crate::releases::manifest::is_secret;
use crate::run::foreign;

/// The fields that Helm has applied.
///
/// # Errors
/// Why they are not known.
pub(crate) fn helms(metadata: &ObjectMeta) -> Result<Value, String> {
    let mut entries = metadata.managed_fields.iter().flatten().filter(|entry| is_helms(entry));
    match (entries.next(), entries.next()) {
        (Some(entry), None) if entry.operation.as_deref() == Some("Apply") => {
            Ok(entry.fields_v1.as_ref().map(|fields| fields.0.clone()).unwrap_or_default())
        }
        (Some(_), None) => Err("Helm has not applied it server-side".to_owned()),
        (None, _) => Err("Helm owns no field of it".to_owned()),
        (Some(_), Some(_)) => Err("Helm owns it by more than one managedFields entry".to_owned()),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    /// The list item with these keys.
    Item(Map<String, Value>),
}

/// The path of a field within an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path(Vec<Step>);

impl Path {
    pub fn field(&self, name: &str) -> Self {
        self.with(Step::Field(name.to_owned()))
    }

    pub fn item(&self, keys: &Map<String, Value>) -> Self {
        self.with(Step::Item(keys.clone()))
    }

    fn with(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }

    /// From field names only.
    pub fn of(names: &[&str]) -> Self {
        Self(names.iter().map(|name| Step::Field((*name).to_owned())).collect())
    }

    /// The value there in an object.
    pub fn get<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(object, |value, step| match step {
            Step::Field(name) => value.get(name),
            Step::Item(keys) => value.as_array()?.iter().find(|item| is_item(item, keys)),
        })
    }

    /// Whether its value may be secret, by the name of the field or of the variable, or by the
    /// fields that it is in: `spec.token.value`, `spec.api.key`.
    pub fn may_be_secret(&self) -> bool {
        let whole = self.to_string();
        let ends = [&whole, whole.trim_end_matches(".value").trim_end_matches("\"]")];
        if ends.iter().any(|name| foreign::names_a_secret(name) || name.to_ascii_lowercase().ends_with("secret")) {
            return true;
        }
        match self.0.as_slice() {
            [.., Step::Item(keys), Step::Field(value)] if value == "value" => {
                keys.get("name").and_then(Value::as_str).is_some_and(foreign::is_secret_variable)
            }
            [.., Step::Field(name)] => foreign::is_secret_field(name),
            _ => false,
        }
    }
}

/// In the API server's notation for conflicts, without the first dot.
impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if index == 0 => formatter.write_str(name)?,
                Step::Field(name) => write!(formatter, ".{name}")?,
                Step::Item(keys) => {
                    let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                    write!(formatter, "[{}]", keys.join(","))?;
                }
            }
        }
        Ok(())
    }
}

/// A key that the manifest omits has its default: a port's protocol.
fn is_item(item: &Value, keys: &Map<String, Value>) -> bool {
    let same = |(key, value): (&String, &Value)| item.get(key).is_none_or(|own| own == value);
    keys.iter().all(same) && keys.keys().any(|key| item.get(key).is_some())
}

/// A field that somebody else owns, and Helm does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub path: Path,
    pub manager: Option<String>,
    pub time: Option<Timestamp>,
    /// Through which of the object's subresources: `scale`.
    pub subresource: Option<String>,
}

/// Fields that this manifest sets and that are now owned by others and not by Helm.
pub(crate) fn taken(manifest: &Value, metadata: &ObjectMeta) -> Vec<Taken> {
    let Ok(helms) = helms(metadata) else { return Vec::new() };
    let others = metadata.managed_fields.iter().flatten();
    let others = others.filter(|entry| !is_helms(entry) && entry.subresource.as_deref() != Some("status"));
    let mut found: Vec<Taken> = Vec::new();
    for entry in others {
        let Some(fields) = &entry.fields_v1 else { continue };
        let mut paths = Vec::new();
        taken_of(&fields.0, &helms, manifest, &Path::default(), &mut paths);
        for path in paths {
            let taken = Taken {
                path,
                manager: entry.manager.clone(),
                time: entry.time.as_ref().map(|time| time.0),
                subresource: entry.subresource.clone(),
            };
            // If several share it, the last one to write.
            match found.iter_mut().find(|known| known.path == taken.path) {
                Some(known) if known.time < taken.time => *known = taken,
                Some(_) => {}
                None => found.push(taken),
            }
        }
    }
    found
}

fn taken_of(others: &Value, helms: &Value, manifest: &Value, path: &Path, found: &mut Vec<Path>) {
    let fields: Vec<(&String, &Value)> =
        others.as_object().into_iter().flatten().filter(|(key, _)| *key != ".").collect();
    if fields.is_empty() {
        found.extend((helms.is_null() && !path.0.is_empty()).then(|| path.clone()));
        return;
    }
    for (key, inner) in fields {
        let Some((kind, name)) = key.split_once(':') else { continue };
        let within = match kind {
            "f" => manifest.get(name).map(|value| (value, path.field(name))),
            "k" => {
                let keys = serde_json::from_str::<Map<String, Value>>(name).unwrap_or_default();
                let items = manifest.as_array().into_iter().flatten();
                items.into_iter().find(|item| is_item(item, &keys)).map(|item| (item, path.item(&keys)))
            }
            _ => None,
        };
        if let Some((value, path)) = within {
            taken_of(inner, helms.get(key).unwrap_or(&Value::Null), value, &path, found);
        }
    }
}

/// Object names, write-only fields, and what is not for Helm to set: nobody owns them.
const OWNED_BY_NOBODY: [&[&str]; 7] = [
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["status"],
    &["stringData"],
];

/// The keys of this manifest's `stringData` that `helms`, the fields that Helm owns, does not contain
/// as `data`: only a Secret has that field, which the API server turns into `data` after it has
/// recorded who set what.
fn unlisted<'a>(manifest: &'a Value, helms: &Value) -> Vec<&'a String> {
    let written = manifest.get("stringData").filter(|_| is_secret(manifest)).and_then(Value::as_object);
    let listed = |key: &str| helms.get("f:data").is_some_and(|data| data.get(format!("f:{key}")).is_some());
    written.into_iter().flatten().map(|(key, _)| key).filter(|key| !listed(key)).collect()
}

/// Whether the fields that Helm owns, `helms`, leave out something that this manifest sets, so that
/// they would not reveal its change.
pub(crate) fn is_partly_listed(manifest: &Value, helms: &Value) -> bool {
    !unlisted(manifest, helms).is_empty()
}

/// What this manifest sets as `stringData` and somebody else has set as `data` since. Their
/// ownership alone says nothing: it remains when Helm sets its own value again.
pub(crate) fn overwritten(manifest: &Value, metadata: &ObjectMeta) -> Option<Path> {
    let keys = unlisted(manifest, &helms(metadata).ok()?);
    let entries = || metadata.managed_fields.iter().flatten();
    let time = |entry: &ManagedFieldsEntry| entry.time.as_ref().map(|time| time.0);
    let helm = entries().filter(|entry| is_helms(entry)).map(time).max().flatten();
    let later =
        entries().filter(|entry| !is_helms(entry)).filter(|entry| time(entry).is_none_or(|time| Some(time) >= helm));
    let data = later.filter_map(|entry| entry.fields_v1.as_ref()?.0.get("f:data"));
    let taken = |data: &Value| keys.iter().find(|key| data.get(format!("f:{key}")).is_some()).copied();
    data.filter_map(taken).next().map(|key| Path::of(&["data", key]))
}

/// Fields that this manifest sets and that Helm does not own: somebody has removed them, or set
/// them in a way that is recorded for nobody (`kubectl scale --replicas=0`).
pub(crate) fn lost(manifest: &Value, metadata: &ObjectMeta) -> Vec<Path> {
    let mut found = Vec::new();
    if let Ok(helms) = helms(metadata) {
        lost_of(Some(&helms), manifest, &Path::default(), &mut found);
    }
    found
}

/// `helms`: the fields that Helm owns in this value; `None` if it owns none.
fn lost_of(helms: Option<&Value>, value: &Value, path: &Path, found: &mut Vec<Path>) {
    let fields: Vec<(&String, &Value)> =
        helms.and_then(Value::as_object).into_iter().flatten().filter(|(key, _)| *key != ".").collect();
    match value {
        _ if helms.is_some() && fields.is_empty() => {}
        Value::Object(map) => {
            for (key, inner) in map {
                let path = path.field(key);
                let empty = inner.is_null() || inner.as_object().is_some_and(Map::is_empty);
                let empty = empty || inner.as_array().is_some_and(Vec::is_empty);
                if !empty && !OWNED_BY_NOBODY.iter().any(|names| path == Path::of(names)) {
                    lost_of(helms.and_then(|helms| helms.get(format!("f:{key}"))), inner, &path, found);
                }
            }
        }
        _ if helms.is_none() => found.push(path.clone()),
        Value::Array(items) => {
            let keyed: Vec<(Map<String, Value>, &Value)> = fields
                .iter()
                .filter_map(|(key, own)| Some((serde_json::from_str(key.strip_prefix("k:")?).ok()?, *own)))
                .collect();
            for item in items.iter().filter(|_| !keyed.is_empty()) {
                match keyed.iter().find(|(keys, _)| is_item(item, keys)) {
                    Some((keys, own)) => lost_of(Some(own), item, &path.item(keys), found),
                    None => found.push(path.clone()),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(manager: &str, minute: u8, fields: Value) -> Value {
        let operation = if manager == "helm" { "Apply" } else { "Update" };
        json!({"manager": manager, "operation": operation, "time": format!("2026-11-25T10:{minute:02}:00Z"),
            "fieldsV1": fields})
    }

    fn metadata(managed: &[Value]) -> ObjectMeta {
        serde_json::from_value(json!({"name": "web", "uid": "u1", "managedFields": managed})).unwrap()
    }

    #[test]
    fn what_was_taken_from_helm_before_the_record_is_found_by_the_manifest() {
        let manifest = json!({"data": {"a": "1", "b": "2"}, "metadata": {"labels": {"app.kubernetes.io/x": "y"}},
            "spec": {"containers": [{"name": "web", "image": "x"}, {"name": "side"}]}});
        let helms = json!({"f:data": {"f:a": {}}, "f:metadata": {"f:labels": {".": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:name": {}}}}});
        for (others, field) in [
            (json!({"f:data": {"f:b": {}}}), Some("data.b")),
            (json!({"f:data": {"f:a": {}}}), None),
            (json!({"f:data": {"f:c": {}}}), None),
            (
                json!({"f:metadata": {"f:labels": {"f:app.kubernetes.io/x": {}}}}),
                Some("metadata.labels.app.kubernetes.io/x"),
            ),
            (
                json!({"f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {"f:image": {}}}}}),
                Some(r#"spec.containers[name="web"].image"#),
            ),
            (json!({"f:spec": {"f:containers": {"k:{\"name\":\"other\"}": {"f:image": {}}}}}), None),
            (json!({"f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {"f:env": {}}}}}), None),
        ] {
            let managed = [entry("helm", 0, helms.clone()), entry("kubectl-edit", 1, others.clone())];
            assert_eq!(
                taken(&manifest, &metadata(&managed)).first().map(|taken| taken.path.to_string()).as_deref(),
                field,
                "{others}"
            );
        }
    }

    #[test]
    fn string_data_is_taken_by_whoever_has_set_it_after_helm() {
        let manifest = json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"a": "x"}});
        let helm = |fields: Value| entry("helm", 5, fields);
        let unlisted = || helm(json!({"f:type": {}, "f:stringData": {"f:a": {}}}));
        let patched = |minute, key: &str| entry("kubectl-patch", minute, json!({"f:data": {key: {}}}));
        for (managed, field) in [
            (vec![unlisted()], None),
            (vec![unlisted(), patched(6, "f:a")], Some("data.a")),
            // Helm has set its own value again.
            (vec![unlisted(), patched(4, "f:a")], None),
            (vec![unlisted(), patched(6, "f:b")], None),
            // Then the lists tell, as for all other fields.
            (vec![helm(json!({"f:data": {"f:a": {}}})), patched(6, "f:a")], None),
        ] {
            let found = overwritten(&manifest, &metadata(&managed));
            assert_eq!(found.map(|path| path.to_string()).as_deref(), field, "{managed:?}");
        }
        let other = json!({"apiVersion": "x/v1", "kind": "Thing", "stringData": {"a": "x"}});
        assert!(!is_partly_listed(&other, &json!({})) && is_partly_listed(&manifest, &json!({})));
        assert!(!is_partly_listed(&manifest, &json!({"f:data": {"f:a": {}}})));
    }

    #[test]
    fn what_nobody_owns_any_more_is_lost() {
        let manifest = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {}},
            "data": {"a": "1", "b": null}, "stringData": {"x": "y"},
            "spec": {"replicas": 1, "args": ["x"], "containers": [
                {"name": "web", "image": "x", "ports": [{"containerPort": 80}], "env": [{"name": "A", "value": "1"}]}]}});
        let port = || json!({".": {}, "f:containerPort": {}});
        let helms = || {
            json!({"f:data": {"f:a": {}}, "f:spec": {"f:replicas": {}, "f:args": {}, "f:containers": {
                "k:{\"name\":\"web\"}": {".": {}, "f:name": {}, "f:image": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": port()},
                    "f:env": {"k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}}}}}})
        };
        let lost_of =
            |fields: Value| lost(&manifest, &metadata(&[entry("helm", 0, fields)])).first().map(Path::to_string);
        assert_eq!(lost_of(helms()), None);
        let containers = "/f:spec/f:containers";
        let web = format!("{containers}/k:{{\"name\":\"web\"}}");
        for (within, key, told) in [
            ("/f:spec", "f:replicas", "spec.replicas"),
            ("/f:data", "f:a", "data.a"),
            ("/f:spec", "f:args", "spec.args"),
            (&web, "f:image", r#"spec.containers[name="web"].image"#),
            (&format!("{web}/f:env"), r#"k:{"name":"A"}"#, r#"spec.containers[name="web"].env"#),
        ] {
            let mut fields = helms();
            fields.pointer_mut(within).unwrap().as_object_mut().unwrap().remove(key).unwrap();
            // If it was the only one, the field above is removed too.
            let emptied = fields.pointer(within).unwrap().as_object().unwrap().is_empty();
            if let (true, Some((above, last))) = (emptied, within.rsplit_once('/')) {
                fields.pointer_mut(above).unwrap().as_object_mut().unwrap().remove(last).unwrap();
            }
            let found = lost_of(fields).unwrap_or_default();
            assert!(told.starts_with(&found) && !found.is_empty(), "{key}: {found}");
        }
    }
}
