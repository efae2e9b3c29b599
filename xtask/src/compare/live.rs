//! The state of the objects that Helm made: whether somebody changed fields that Helm owns. Only
//! looks, with one GET for each object; for kinds that run something or say how they are, custom
//! resources among them, the whole object is read (`health` judges it), for all others only their
//! metadata, so that no Secret's data is transferred.
//!
//! Helm uses server-side apply: the fields it set are listed in the object's `managedFields` under
//! its name, and leave that list when somebody else sets them. So that list and the object's uid
//! reveal a change by others, for every kind, without a dry run. Where the list does not contain
//! what Helm set, the object's version takes its place. A change under Helm's own name, as a killed
//! upgrade leaves behind whose revision somebody has deleted, moves the time of that list, which the
//! API server sets only if the object changes. The order of a pod's containers and of their variables
//! belongs to nobody, so it is compared by itself. Fields that Helm never set are not compared.

use futures_util::StreamExt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::Client;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ownership::{self, helms};
use super::state::Drift;
use crate::files::digest;
use crate::releases::by_hand::{self, is_helms};
use crate::world::kubernetes::autoscaler;
use crate::world::kubernetes::kinds::Kinds;
use crate::world::kubernetes::place::Place;
use crate::world::kubernetes::read_failed;
use run_record::Failure;

/// An object that Helm made, and its state at that time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    #[serde(flatten)]
    pub place: Place,
    pub uid: String,
    /// The digest of the fields that Helm owns; `None` for a hook's object that Helm created without
    /// applying it, which has no such list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owns: Option<String>,
    /// When Helm's last change of them was, by the API server's clock, which it is only compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Timestamp>,
    /// The object's version, where that list does not contain all that Helm set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Kubernetes deletes it by itself after a while: a Job that has completed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_go: bool,
    /// Made by a hook that no upgrade runs: if it is gone, no sync brings it back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_install: bool,
    /// The digest of the order in which Helm's containers and their variables are, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
}

impl Made {
    /// An object of a manifest, which Helm applied, in this state.
    ///
    /// # Errors
    /// If no comparison with it would prove anything.
    pub fn applied(place: Place, manifest: &Value, seen: &Seen) -> Result<Self, String> {
        let fields = helms(&seen.metadata)?;
        let version = ownership::is_partly_listed(manifest, &fields).then(|| version(&place, &seen.metadata)).flatten();
        let may_go = seen.whole.as_ref().is_some_and(|object| deletes_itself(&place, object));
        let uid = seen.metadata.uid.clone().unwrap_or_default();
        let applied = applied(&seen.metadata);
        let order = seen.whole.as_ref().and_then(|object| order(object, &fields));
        // Helm has set them, and the autoscaler since: recorded as Helm left them.
        let owns = if is_scaled(manifest, &seen.metadata) { with_replicas(fields.clone()) } else { None };
        let owns = Some(digest_of(owns.as_ref().unwrap_or(&fields)));
        Ok(Self { place, uid, owns, applied, version, may_go, by_install: false, order })
    }

    /// A hook's object, which Helm applied or only created, in this state.
    pub fn by_hook(place: Place, manifest: &Value, seen: &Seen) -> Self {
        Self::applied(place.clone(), manifest, seen).unwrap_or_else(|_| {
            let version = version(&place, &seen.metadata);
            Self { version, ..Self::identified(place, seen.metadata.uid.clone().unwrap_or_default()) }
        })
    }

    /// An object of which nothing but its identity is known.
    pub fn identified(place: Place, uid: String) -> Self {
        Self { place, uid, owns: None, applied: None, version: None, may_go: false, by_install: false, order: None }
    }

    /// Whether Helm's containers and their variables are in the order of that time.
    pub fn is_in_order(&self, seen: &Seen) -> bool {
        let now = || order(seen.whole.as_ref()?, &helms(&seen.metadata).ok()?);
        self.order.is_none() || self.order == now()
    }

    /// Whether somebody has written the object since, as far as its version was recorded.
    pub fn is_written(&self, metadata: &ObjectMeta) -> bool {
        self.version.is_some() && self.version != version(&self.place, metadata)
    }

    /// Whether somebody has changed it under Helm's name since, as far as that time was recorded.
    pub fn is_changed_as_helm(&self, metadata: &ObjectMeta) -> bool {
        self.applied.is_some() && self.applied != applied(metadata)
    }
}

/// The time of Helm's entry in `managedFields`.
fn applied(metadata: &ObjectMeta) -> Option<Timestamp> {
    let entry = metadata.managed_fields.iter().flatten().find(|entry| is_helms(entry))?;
    entry.time.as_ref().map(|time| time.0)
}

/// The digest of the names of an object's containers and of their variables, in their order, as far
/// as Helm owns them. It matters: init containers run one after the other, and a variable may contain
/// those before it. But a list with keys is owned by its items, so who swaps two of them takes
/// nothing from Helm.
fn order(object: &Value, fields: &Value) -> Option<String> {
    let pods = [
        ("/spec/jobTemplate/spec/template/spec", "/f:spec/f:jobTemplate/f:spec/f:template/f:spec"),
        ("/spec/template/spec", "/f:spec/f:template/f:spec"),
        ("/spec", "/f:spec"),
    ];
    let (pod, fields) = pods.iter().find_map(|(pod, owned)| object.pointer(pod).zip(fields.pointer(owned)))?;
    let mut names: Vec<&str> = Vec::new();
    for list in ["initContainers", "containers"] {
        for (container, fields) in helms_items(pod, fields, list) {
            names.push(list);
            names.extend(container["name"].as_str());
            names.extend(helms_items(container, fields, "env").filter_map(|(variable, _)| variable["name"].as_str()));
        }
    }
    (!names.is_empty()).then(|| digest::of_bytes(names.join("\n").as_bytes()))
}

/// The items of a list that are identified by their names, and that Helm owns, each with its fields.
fn helms_items<'a>(
    object: &'a Value,
    fields: &'a Value,
    list: &str,
) -> impl Iterator<Item = (&'a Value, &'a Value)> + use<'a> {
    let owned = fields.get(format!("f:{list}"));
    object.get(list).and_then(Value::as_array).into_iter().flatten().filter_map(move |item| {
        let key = serde_json::json!({"name": item["name"]});
        Some((item, owned?.get(format!("k:{key}"))?))
    })
}

/// Whether it is a Job that the cluster deletes some time after it has finished.
pub(crate) fn deletes_itself(place: &Place, object: &Value) -> bool {
    let ttl = object.pointer("/spec/ttlSecondsAfterFinished");
    place.kind == "Job" && place.api_version.starts_with("batch/") && ttl.is_some_and(Value::is_i64)
}

/// The version of what somebody set in an object: its generation, or its resourceVersion if its kind
/// has no generation and no status, which controllers would write. Any annotation changes the
/// latter. `None` for all other kinds.
fn version(place: &Place, metadata: &ObjectMeta) -> Option<String> {
    let holds_only_what_is_set = match place.group() {
        "" => matches!(place.kind.as_str(), "ConfigMap" | "Secret" | "ServiceAccount"),
        group => group == "rbac.authorization.k8s.io",
    };
    match metadata.generation {
        Some(generation) => Some(format!("generation {generation}")),
        None => metadata.resource_version.clone().filter(|_| holds_only_what_is_set),
    }
}

/// An object's current state.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub metadata: ObjectMeta,
    /// The whole object, if requested.
    pub whole: Option<Value>,
}

/// How many of this many requests run at once. The client uses one connection for each, and a new one
/// costs as much as several requests.
pub(crate) fn at_once(requests: usize) -> usize {
    (requests / 6).clamp(2, 6)
}

/// The current state of each of these; `None` for one that is gone.
///
/// # Errors
/// Errors from reading: what was not seen is not reported as gone.
pub(crate) async fn look(client: &Client, places: &[Place]) -> Result<Vec<Option<Seen>>, Failure> {
    let gets = places.iter().map(|place| whole(client, place, runs(place)));
    let all: Vec<Result<Option<Seen>, Failure>> =
        futures_util::stream::iter(gets).buffered(at_once(places.len())).collect().await;
    all.into_iter().collect()
}

/// An object's current state, whole or only its metadata; `None` if it is gone.
///
/// # Errors
/// Errors from reading.
pub(crate) async fn whole(client: &Client, place: &Place, all: bool) -> Result<Option<Seen>, Failure> {
    if !all {
        return Ok(place.metadata(client).await?.map(|metadata| Seen { metadata, whole: None }));
    }
    let found = place.api(client).get_opt(&place.name).await.map_err(|error| read_failed(&place.to_string(), error))?;
    Ok(found.map(|object| Seen { metadata: object.metadata.clone(), whole: serde_json::to_value(&object).ok() }))
}

/// The kinds that run something, or wait for something.
pub(super) fn runs(place: &Place) -> bool {
    place.is_custom()
        || matches!(
            (place.group(), place.kind.as_str()),
            ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
                | ("batch", "Job" | "CronJob")
                | ("", "PersistentVolumeClaim" | "Pod")
                | ("apiextensions.k8s.io", "CustomResourceDefinition")
                | ("apiregistration.k8s.io", "APIService")
        )
}

/// A digest of the fields that Helm owns: without times, which do not matter, and without status,
/// which is not Helm's.
///
/// # Errors
/// If there is not exactly one list: then it proves nothing.
pub(crate) fn owned(metadata: &ObjectMeta) -> Result<String, String> {
    Ok(digest_of(&helms(metadata)?))
}

fn digest_of(fields: &Value) -> String {
    digest::of_bytes(fields.to_string().as_bytes())
}

/// What a look at an object shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    AsMade,
    /// As made, except for its replicas, which an autoscaler sets; with a description.
    Scaled(String),
    /// Gone, and no sync brings it back.
    Lost(Drift),
    Drifted(Drift),
}

/// Compares an object with its record. `now` is the API server's time.
pub(crate) fn compare(made: &Made, seen: Option<&Seen>, now: Timestamp) -> Standing {
    let object = made.place.to_string();
    let whole = |what: &str| Drift { object: object.clone(), field: None, manager: None, ago: None, what: what.into() };
    let lost = |what: &str| match made.by_install {
        true => Standing::Lost(whole(&format!("{what}, and only an install makes it"))),
        false => Standing::Drifted(whole(what)),
    };
    let Some(seen) = seen else { return if made.may_go { Standing::AsMade } else { lost("is gone") } };
    let metadata = &seen.metadata;
    if metadata.deletion_timestamp.is_some() && !made.may_go {
        return lost("is being deleted");
    }
    if metadata.uid.as_deref() != Some(&made.uid) {
        return Standing::Drifted(whole("was deleted and recreated since Helm created it"));
    }
    let same = match &made.owns {
        None => Ok(None),
        Some(owns) => helms(metadata).map(|fields| (digest_of(&fields) != *owns).then_some((owns, fields))),
    };
    let by_helms_name = made.is_changed_as_helm(metadata);
    let in_order = || match made.is_in_order(seen) {
        true => None,
        false => Some(Standing::Drifted(whole(OUT_OF_ORDER))),
    };
    let (owns, fields) = match same {
        Err(why) => return Standing::Drifted(whole(&format!("cannot be compared: {why}"))),
        Ok(None) if by_helms_name => {
            return Standing::Drifted(whole(UNDER_HELMS_NAME));
        }
        Ok(None) if made.is_written(metadata) => return Standing::Drifted(written(object, metadata, now)),
        Ok(None) => return in_order().unwrap_or(Standing::AsMade),
        Ok(Some(differing)) => differing,
    };
    // Scaling to 0 is recorded for nobody: the API server's Scale omits that number.
    let scaled = with_replicas(fields).is_some_and(|fields| digest_of(&fields) == *owns);
    if scaled
        && !by_helms_name
        && let Some(scaler) = autoscaler::named(scaler(metadata), Some("scale"))
    {
        let text = format!("{object}: spec.replicas is set by {scaler}, an autoscaler: it is left as it is");
        return in_order().unwrap_or(Standing::Scaled(text));
    }
    let (field, manager, time) = match changed_by(metadata) {
        (field, manager, time) if !scaled || field.as_deref() == Some(REPLICAS) => (field, manager, time),
        _ => (Some(REPLICAS.to_owned()), scaler(metadata).map(str::to_owned), None),
    };
    let ago = ago(time, now);
    let what = if field.is_some() { "was changed" } else { "is not as Helm set it: changed" };
    let what = if manager.is_some() || scaled { what } else { "is not as Helm set it" };
    Standing::Drifted(Drift { object, field, manager, ago, what: what.to_owned() })
}

/// A change of which only the object's version tells.
fn written(object: String, metadata: &ObjectMeta, now: Timestamp) -> Drift {
    match changed_by(metadata) {
        (field, Some(manager), time) => {
            Drift { object, field, manager: Some(manager), ago: ago(time, now), what: "was changed".to_owned() }
        }
        _ => Drift { object, field: None, manager: None, ago: None, what: WRITTEN.to_owned() },
    }
}

/// What is said of an object that Helm's entry in `managedFields` has another time for.
pub(crate) const UNDER_HELMS_NAME: &str = "was changed under Helm's name since its release was deployed";

/// What is said of an object whose containers somebody has put in another order.
pub(crate) const OUT_OF_ORDER: &str = "has its containers or their variables in another order than Helm set";

/// What is said of an object whose version is another one.
pub(crate) const WRITTEN: &str = "was written to since Helm made it";

fn ago(time: Option<Timestamp>, now: Timestamp) -> Option<String> {
    time.map(|time| in_words(now.duration_since(time).as_secs().max(0)))
}

/// How long ago something was.
pub(crate) fn in_words(seconds: i64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Who scales it through the subresource, for which the API server records no time.
fn scaler(metadata: &ObjectMeta) -> Option<&str> {
    let entry = metadata.managed_fields.iter().flatten().find(|entry| {
        entry.subresource.as_deref() == Some("scale")
            && entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some())
    })?;
    entry.manager.as_deref()
}

/// Whether an autoscaler sets the number of replicas that this manifest has.
pub(crate) fn is_scaled(manifest: &Value, metadata: &ObjectMeta) -> bool {
    let is_set = manifest.pointer("/spec/replicas").is_some_and(|replicas| !replicas.is_null());
    is_set && autoscaler::named(scaler(metadata), Some("scale")).is_some()
}

const REPLICAS: &str = ".spec.replicas";

/// The list as if it still contained `spec.replicas`.
fn with_replicas(mut fields: Value) -> Option<Value> {
    let spec = fields.get_mut("f:spec")?.as_object_mut()?;
    spec.insert("f:replicas".to_owned(), Value::Object(serde_json::Map::new()));
    Some(fields)
}

/// The latest change by somebody else: a field that Helm does not own (any more), who, and when.
fn changed_by(metadata: &ObjectMeta) -> (Option<String>, Option<String>, Option<Timestamp>) {
    let entries = || metadata.managed_fields.iter().flatten();
    let helms: Vec<String> =
        entries().filter(|entry| is_helms(entry)).flat_map(|entry| by_hand::fields(entry, false)).collect();
    let time = |entry: &ManagedFieldsEntry| entry.time.as_ref().map(|time| time.0);
    let others = entries().filter(|entry| !is_helms(entry) && entry.subresource.as_deref() != Some("status"));
    let mut others: Vec<(Option<Timestamp>, &ManagedFieldsEntry)> = others.map(|entry| (time(entry), entry)).collect();
    others.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    // An entry older than Helm's last change has taken nothing from it.
    let helm = entries().filter(|entry| is_helms(entry)).map(time).max().flatten();
    let Some((time, newest)) = others.first().filter(|(time, _)| *time >= helm) else { return (None, None, None) };
    let field = by_hand::fields(newest, false).into_iter().find(|field| !helms.contains(field));
    (field, newest.manager.clone(), *time)
}

/// The locations of a manifest's objects, with their manifests. Kinds are requested once per API
/// version.
///
/// # Errors
/// Errors from the request; a kind that the server does not have.
pub(crate) async fn places(
    client: &Client,
    objects: &[Value],
    namespace: &str,
    known: &mut Kinds,
) -> Result<Vec<Place>, Failure> {
    let mut found = Vec::new();
    for object in objects {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let missing = || {
            let (kind, version) = (text("/kind"), text("/apiVersion"));
            Failure::usage(format!("the API server has no kind {kind} of {version}"))
        };
        found.push(Place::of(client, object, namespace, known).await?.ok_or_else(missing)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place(kind: &str) -> Place {
        let api_version = match kind {
            "Deployment" => "apps/v1",
            "Job" => "batch/v1",
            _ => "v1",
        };
        Place {
            api_version: api_version.into(),
            kind: kind.into(),
            plural: format!("{}s", kind.to_ascii_lowercase()),
            namespace: Some("ameide".into()),
            name: "web".into(),
        }
    }

    fn entry(manager: &str, subresource: Option<&str>, minute: u8, fields: Value) -> Value {
        let operation = if manager == "helm" { "Apply" } else { "Update" };
        json!({"manager": manager, "operation": operation, "subresource": subresource,
            "time": format!("2026-11-25T10:{minute:02}:00Z"), "fieldsV1": fields})
    }

    fn helm_entry() -> Value {
        entry("helm", None, 0, json!({"f:spec": {"f:replicas": {}, "f:paused": {}}}))
    }

    fn seen(managed: &[Value]) -> Seen {
        let metadata = json!({"name": "web", "uid": "u1", "managedFields": managed});
        Seen { metadata: serde_json::from_value(metadata).unwrap(), whole: None }
    }

    fn judged(change: impl FnOnce(&mut Seen), managed: &[Value]) -> String {
        let made = Made::applied(place("Deployment"), &Value::Null, &seen(&[helm_entry()])).unwrap();
        let mut seen = seen(managed);
        change(&mut seen);
        match compare(&made, Some(&seen), "2026-11-25T10:05:00Z".parse().unwrap()) {
            Standing::AsMade => "as made".to_owned(),
            Standing::Scaled(text) => format!("scaled: {text}"),
            Standing::Lost(drift) => format!("lost: {drift}"),
            Standing::Drifted(drift) => drift.to_string(),
        }
    }

    #[test]
    fn an_autoscaler_that_was_there_before_the_record_is_known_by_it() {
        let paused = entry("helm", None, 0, json!({"f:spec": {"f:paused": {}}}));
        let scales = |manager: &str| entry(manager, Some("scale"), 2, json!({"f:spec": {"f:replicas": {}}}));
        let now = || "2026-11-25T10:05:00Z".parse().unwrap();
        for (manifest, by, is_told) in [
            (json!({"spec": {"replicas": 1, "paused": true}}), "k3s", true),
            // Then Helm has never set it.
            (json!({"spec": {"paused": true}}), "k3s", false),
            (json!({"spec": {"replicas": 1, "paused": true}}), "kubectl", false),
        ] {
            let seen = seen(&[paused.clone(), scales(by)]);
            let made = Made::applied(place("Deployment"), &manifest, &seen).unwrap();
            let standing = compare(&made, Some(&seen), now());
            assert_eq!(matches!(standing, Standing::Scaled(_)), is_told, "{manifest} {by}: {standing:?}");
            assert!(is_told || standing == Standing::AsMade, "{standing:?}");
        }
    }

    #[test]
    fn a_change_of_what_helm_owns_is_told_with_who_and_when_and_no_other_is_one() {
        let paused = || entry("helm", None, 0, json!({"f:spec": {"f:paused": {}}}));
        let status = entry("kube-controller-manager", Some("status"), 4, json!({"f:status": {"f:replicas": {}}}));
        let injected = entry("istio", None, 4, json!({"f:metadata": {"f:annotations": {"f:x": {}}}}));
        let replicas = json!({"f:spec": {"f:replicas": {}}});
        let later = |mut entry: Value| {
            entry["time"] = json!("2030-01-01T00:00:00Z");
            entry
        };
        for (managed, told) in [
            (vec![helm_entry()], "as made"),
            (vec![helm_entry(), status.clone(), injected.clone()], "as made"),
            (vec![later(helm_entry())], "was changed under Helm's name since its release was deployed"),
            (
                vec![later(paused()), entry("k3s", Some("scale"), 2, replicas.clone())],
                "Deployment ameide/web: spec.replicas was changed by k3s",
            ),
            (
                vec![paused(), entry("kubectl-edit", None, 2, replicas.clone()), status],
                "Deployment ameide/web: spec.replicas was changed by kubectl-edit 3 min",
            ),
            (
                vec![paused(), entry("kubectl", Some("scale"), 2, replicas.clone())],
                "Deployment ameide/web: spec.replicas was changed by kubectl 3 min",
            ),
            (
                vec![paused(), entry("kube-controller-manager", Some("scale"), 2, replicas.clone())],
                "scaled: Deployment ameide/web: spec.replicas is set by kube-controller-manager, an autoscaler",
            ),
            (
                vec![paused(), entry("k3s", Some("scale"), 2, replicas.clone())],
                "scaled: Deployment ameide/web: spec.replicas is set by k3s, an autoscaler",
            ),
            (
                vec![
                    entry("helm", None, 0, json!({"f:spec": {}})),
                    entry("kube-controller-manager", Some("scale"), 2, replicas.clone()),
                ],
                "Deployment ameide/web: spec.replicas was changed by kube-controller-manager",
            ),
            (vec![paused()], "Deployment ameide/web: spec.replicas was changed"),
            (vec![entry("helm", None, 0, json!({"f:spec": {}}))], "Deployment ameide/web is not as Helm set it"),
            (vec![paused(), injected.clone()], "Deployment ameide/web: spec.replicas was changed"),
            (
                vec![entry("helm", None, 0, json!({"f:spec": {}})), injected],
                "metadata.annotations.x was changed by istio 1 min",
            ),
            (vec![helm_entry(), helm_entry()], "cannot be compared: Helm owns it by more than one managedFields entry"),
            (vec![], "cannot be compared: Helm owns no field of it"),
        ] {
            let said = judged(|_| {}, &managed);
            assert!(said.contains(told), "{told}: {said}");
        }
        let mut client_side = helm_entry();
        client_side["operation"] = json!("Update");
        assert!(judged(|_| {}, &[client_side]).contains("has not applied it server-side"));
        let again = judged(|seen| seen.metadata.uid = Some("u2".into()), &[helm_entry()]);
        assert_eq!(again, "Deployment ameide/web was deleted and recreated since Helm created it");
        let going: ObjectMeta = serde_json::from_value(json!({"deletionTimestamp": "2026-11-25T10:00:00Z"})).unwrap();
        let going = judged(|seen| seen.metadata.deletion_timestamp = going.deletion_timestamp, &[helm_entry()]);
        assert_eq!(going, "Deployment ameide/web is being deleted");
        let made = Made::by_hook(place("Secret"), &Value::Null, &seen(&[]));
        let Standing::Drifted(gone) = compare(&made, None, Timestamp::UNIX_EPOCH) else { panic!() };
        assert_eq!(gone.to_string(), "Secret ameide/web is gone");
    }

    #[test]
    fn the_order_of_helms_containers_and_variables_counts_and_that_of_others_does_not() {
        let named = |name: &str, env: &[&str]| {
            let env: Vec<Value> = env.iter().map(|name| json!({"name": name, "value": "$(A)"})).collect();
            json!({"name": name, "env": env})
        };
        let key = |name: &str| format!("k:{{\"name\":\"{name}\"}}");
        let web = json!({key("web"): {"f:env": {key("A"): {}, key("B"): {}}}});
        let owned = json!({"f:initContainers": {key("one"): {}, key("two"): {}}, "f:containers": web});
        let managed = [entry("helm", None, 0, json!({"f:spec": {"f:template": {"f:spec": owned}}}))];
        let with = |init: &[&str], containers: &[Value]| {
            let init: Vec<Value> = init.iter().map(|name| named(name, &[])).collect();
            let pod = json!({"initContainers": init, "containers": containers});
            Seen { whole: Some(json!({"spec": {"template": {"spec": pod}}})), ..seen(&managed) }
        };
        let before = with(&["one", "two"], &[named("web", &["A", "B"])]);
        let made = Made::applied(place("Deployment"), &Value::Null, &before).unwrap();
        let cron = |one: &str, two: &str| {
            let env = [json!({"name": one}), json!({"name": two})];
            let pod = json!({"spec": {"containers": [{"name": "web", "env": env}]}});
            let fields = json!({"f:containers": {key("web"): {"f:env": {key("A"): {}, key("B"): {}}}}});
            let fields = json!({"f:jobTemplate": {"f:spec": {"f:template": {"f:spec": fields}}}});
            order(&json!({"spec": {"jobTemplate": {"spec": {"template": pod}}}}), &json!({"f:spec": fields})).unwrap()
        };
        assert_ne!(cron("A", "B"), cron("B", "A"));
        for (after, is_same) in [
            (before.clone(), true),
            (with(&["istio", "one", "two"], &[named("proxy", &["B", "A"]), named("web", &["X", "A", "B"])]), true),
            (with(&["two", "one"], &[named("web", &["A", "B"])]), false),
            (with(&["one", "two"], &[named("web", &["B", "A"])]), false),
        ] {
            let standing = compare(&made, Some(&after), Timestamp::UNIX_EPOCH);
            match standing {
                Standing::AsMade => assert!(is_same, "{after:?}"),
                Standing::Drifted(drift) => {
                    let said = drift.to_string();
                    assert!(!is_same && said.starts_with("Deployment ameide/web has its containers or"), "{said}");
                }
                other => panic!("{other:?}"),
            }
        }
        let bare = Made::applied(place("Secret"), &Value::Null, &seen(&[helm_entry()])).unwrap();
        assert_eq!(bare.order, None);
    }

    #[test]
    fn what_only_an_install_makes_is_told_once_it_is_gone_and_is_no_drift() {
        let now = Timestamp::UNIX_EPOCH;
        let made = Made { by_install: true, ..Made::by_hook(place("ConfigMap"), &Value::Null, &seen(&[helm_entry()])) };
        let mut going = seen(&[helm_entry()]);
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-11-25T10:00:00Z")).unwrap();
        assert_eq!(compare(&made, Some(&seen(&[helm_entry()])), now), Standing::AsMade);
        for (seen, what) in [(None, "is gone"), (Some(&going), "is being deleted")] {
            let Standing::Lost(drift) = compare(&made, seen, now) else { panic!("{what}") };
            assert_eq!(drift.to_string(), format!("ConfigMap ameide/web {what}, and only an install makes it"));
        }
        // Somebody has made it again, which a record is written for.
        let mut again = seen(&[helm_entry()]);
        again.metadata.uid = Some("u2".into());
        assert!(matches!(compare(&made, Some(&again), now), Standing::Drifted(_)));
    }

    /// An object with this metadata, and how it compares with itself as it was before.
    fn said(kind: &str, made: impl Fn(Place, &Seen) -> Made, before: Value, after: Option<Value>) -> String {
        let seen = |metadata: Value| Seen { metadata: serde_json::from_value(metadata).unwrap(), whole: None };
        let made = made(place(kind), &seen(before));
        let now = "2026-11-25T10:05:00Z".parse().unwrap();
        match compare(&made, after.map(seen).as_ref(), now) {
            Standing::AsMade => "as made".to_owned(),
            Standing::Scaled(text) => text,
            Standing::Lost(drift) | Standing::Drifted(drift) => drift.to_string(),
        }
    }

    #[test]
    fn what_helm_sets_as_string_data_is_compared_by_the_secrets_version() {
        let manifest = json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "eA=="}, "stringData": {"b": "x"}});
        let helm = |data: Value| entry("helm", None, 0, json!({"f:data": data, "f:stringData": {"f:b": {}}}));
        let metadata =
            |version: &str, managed: Value| json!({"uid": "u1", "resourceVersion": version, "managedFields": managed});
        let partly = json!({"f:a": {}});
        let wholly = json!({"f:a": {}, "f:b": {}});
        let patched = || entry("kubectl-patch", None, 3, json!({"f:data": {"f:b": {}}}));
        for (listed, version, others, told) in [
            (&partly, "7", vec![], "as made"),
            (&partly, "8", vec![patched()], "Secret ameide/web: data.b was changed by kubectl-patch 2 min ago"),
            // By Helm's own name, or removed.
            (&partly, "8", vec![], "Secret ameide/web was written to since Helm made it"),
            (&wholly, "8", vec![], "as made"),
        ] {
            let made = |place: Place, seen: &Seen| Made::applied(place, &manifest, seen).unwrap();
            let managed: Vec<Value> = [helm(listed.clone())].into_iter().chain(others).collect();
            let before = metadata("7", json!([helm(listed.clone())]));
            let said = said("Secret", made, before, Some(metadata(version, json!(managed))));
            assert_eq!(said, told, "{listed} {version}");
        }
    }

    #[test]
    fn what_a_hook_leaves_is_compared_by_what_helm_owns_or_else_by_its_version() {
        let applied = || json!([entry("helm", None, 0, json!({"f:data": {"f:a": {}}}))]);
        let taken = || {
            json!([
                entry("helm", None, 0, json!({"f:data": {}})),
                entry("kubectl-edit", None, 3, json!({"f:data": {"f:a": {}}}))
            ])
        };
        let mut created = entry("helm", None, 0, json!({"f:data": {"f:a": {}}}));
        created["operation"] = json!("Update");
        let created = json!([created]);
        let metadata = |uid: &str, version: &str, generation: Option<i64>, managed: &Value| json!({"uid": uid, "resourceVersion": version, "generation": generation, "managedFields": managed});
        let written = "was written to since Helm made it";
        for (kind, before, after, told) in [
            (
                "ConfigMap",
                metadata("u1", "7", None, &applied()),
                Some(metadata("u1", "8", None, &applied())),
                "as made",
            ),
            (
                "ConfigMap",
                metadata("u1", "7", None, &applied()),
                Some(metadata("u1", "8", None, &taken())),
                "data.a was changed by kubectl-edit",
            ),
            ("ConfigMap", metadata("u1", "7", None, &applied()), None, "is gone"),
            ("ConfigMap", metadata("u1", "7", None, &created), Some(metadata("u1", "7", None, &created)), "as made"),
            ("ConfigMap", metadata("u1", "7", None, &created), Some(metadata("u1", "8", None, &created)), written),
            ("ConfigMap", metadata("u1", "7", None, &json!([])), Some(metadata("u1", "8", None, &json!([]))), written),
            (
                "ConfigMap",
                metadata("u1", "7", None, &created),
                Some(metadata("u2", "7", None, &created)),
                "was deleted and recreated",
            ),
            ("ConfigMap", metadata("u1", "7", None, &created), None, "is gone"),
            // Its status is written all the time.
            (
                "Deployment",
                metadata("u1", "7", Some(1), &created),
                Some(metadata("u1", "8", Some(1), &created)),
                "as made",
            ),
            (
                "Deployment",
                metadata("u1", "7", Some(1), &created),
                Some(metadata("u1", "8", Some(2), &created)),
                written,
            ),
            ("Service", metadata("u1", "7", None, &created), Some(metadata("u1", "8", None, &created)), "as made"),
        ] {
            let made = |place: Place, seen: &Seen| Made::by_hook(place, &Value::Null, seen);
            let said = said(kind, made, before.clone(), after.clone());
            assert!(said.ends_with(told) || (told.len() > 10 && said.contains(told)), "{before} {after:?}: {said}");
        }
    }

    #[test]
    fn a_job_that_deletes_itself_may_be_gone_and_no_other_object_may() {
        let lives = json!({"spec": {"ttlSecondsAfterFinished": 60}});
        let metadata = json!({"uid": "u1", "managedFields": [helm_entry()]});
        let (mut going, mut another) = (metadata.clone(), metadata.clone());
        going["deletionTimestamp"] = json!("2026-11-25T10:00:00Z");
        another["uid"] = json!("u2");
        for (kind, whole, after, told) in [
            ("Job", lives.clone(), None, "as made"),
            ("Job", lives.clone(), Some(&going), "as made"),
            ("Job", lives.clone(), Some(&another), "Job ameide/web was deleted and recreated since Helm created it"),
            ("Job", json!({"spec": {}}), None, "Job ameide/web is gone"),
            ("Job", json!({"spec": {}}), Some(&going), "Job ameide/web is being deleted"),
            ("Deployment", lives.clone(), None, "Deployment ameide/web is gone"),
        ] {
            let made = |place: Place, seen: &Seen| {
                let seen = Seen { whole: Some(whole.clone()), ..seen.clone() };
                Made::applied(place, &Value::Null, &seen).unwrap()
            };
            assert_eq!(said(kind, made, metadata.clone(), after.cloned()), told, "{kind} {whole}");
        }
    }
}
