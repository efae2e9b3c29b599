//! What others have changed in a release's objects since Helm applied them: each field, who set it
//! and when, according to the API server (`managedFields`); objects that are gone, and objects that
//! name a release which no longer has them. Only looks.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ListParams};
use kube::core::ApiResource;
use serde::Serialize;
use serde_json::Value;

use super::claims::{self, Claims};
use super::hidden::Hidden;
use super::live::{self, Made, Seen, Standing, at_once, in_words};
use super::look::{Look, Snapshot};
use super::objects::{Objects, title};
use super::ownership::{self, Path};
use super::record::Record;
use super::state::Drift;
use crate::releases::{by_hand, manifest};
use crate::repo::layers::Layer;
use crate::run::context::Context;
use crate::run::foreign;
use crate::world::helm_storage;
use crate::world::helm_storage::{Revision, Status, Stored};
use crate::world::helmfile::{self, WantedRelease};
use crate::world::kubernetes::autoscaler;
use crate::world::kubernetes::kinds::Kinds;
use crate::world::kubernetes::place::Place;
use crate::world::kubernetes::{self, read_failed};
use run_record::{Code, Failure};

/// One difference between an object and what Helm left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// `spec.replicas`; `None` if it is about the whole object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// `is 5, Helm set 1`, `is gone`
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manager: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    pub kind: FindingKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FindingKind {
    /// The object is gone or was replaced, or is not as a hook left it.
    Object,
    /// Somebody else owns a field that Helm set: Helm's next apply is refused there.
    Taken,
    /// A field that Helm set and nobody owns now: Helm's next apply sets it again.
    Lost,
    /// The number of replicas, which an autoscaler sets: it is left alone.
    Scaled,
    /// A field that the manifest does not name, set by a person: Helm leaves it.
    Added,
    /// It cannot be determined.
    Unknown,
}

impl FindingKind {
    /// Whether the object differs from what the tree says.
    pub fn is_drift(self) -> bool {
        matches!(self, Self::Object | Self::Taken | Self::Lost | Self::Unknown)
    }
}

impl Finding {
    fn of(kind: FindingKind, what: impl Into<String>) -> Self {
        Self { field: None, what: what.into(), manager: None, time: None, kind }
    }

    /// `spec.replicas is 5, Helm set 1: by kubectl-scale 3 min ago`; `now` is the API server's time.
    pub fn told(&self, now: Timestamp) -> String {
        let field = self.field.as_ref().map(|field| format!("{field} ")).unwrap_or_default();
        let who = self.manager.as_ref().map(|manager| format!(", by {manager}")).unwrap_or_default();
        let ago = self.time.map(|time| format!(" {} ago", in_words(now.duration_since(time).as_secs().max(0))));
        format!("{field}{}{who}{}", self.what, ago.filter(|_| self.manager.is_some()).unwrap_or_default())
    }
}

/// An object of a release that is not as Helm left it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ObjectDrift {
    /// `Deployment ameide/minio`
    pub object: String,
    pub findings: Vec<Finding>,
}

impl ObjectDrift {
    fn of_hooks(drift: Drift) -> Self {
        let Drift { object, field, manager, ago, what } = drift;
        let what = ago.map_or(what.clone(), |ago| format!("{what} {ago} ago"));
        let field = field.map(|field| field.trim_start_matches('.').to_owned());
        Self { object, findings: vec![Finding { field, manager, ..Finding::of(FindingKind::Object, what) }] }
    }

    pub fn is_drift(&self) -> bool {
        self.findings.iter().any(|finding| finding.kind.is_drift())
    }
}

/// Which of these objects, applied by Helm for a release in this namespace, are not as it left
/// them. `record` distinguishes the object that Helm made from a recreated one.
///
/// # Errors
/// Errors from reading: what was not seen is not reported as gone.
pub(crate) async fn of_objects(
    client: &Client,
    objects: &[Value],
    namespace: &str,
    record: Option<&Record>,
    kinds: &mut Kinds,
) -> Result<Vec<ObjectDrift>, Failure> {
    let mut found = Vec::new();
    let mut places = Vec::new();
    for object in objects {
        match place(client, object, namespace, kinds).await? {
            Some(place) => places.push((place, object)),
            None if name(object).is_empty() => {
                let finding = Finding::of(FindingKind::Unknown, "cannot be checked: its manifest has no name for it");
                found.push(ObjectDrift { object: title(object, namespace, kinds), findings: vec![finding] });
            }
            None => {
                let finding = Finding::of(FindingKind::Object, "is gone, with its kind");
                found.push(ObjectDrift { object: title(object, namespace, kinds), findings: vec![finding] });
            }
        }
    }
    let hidden = Objects { resources: objects.to_vec(), ..Objects::default() };
    let hidden = &Hidden::of(std::iter::once(&hidden));
    let looks = places.iter().map(async |(place, object)| {
        let live = live::whole(client, place, !manifest::is_secret(object)).await?;
        let made = record.and_then(|record| record.objects.iter().find(|made| made.place == *place));
        let findings = findings(object, live.as_ref(), made, hidden);
        Ok::<_, Failure>(ObjectDrift { object: place.to_string(), findings })
    });
    let all: Vec<Result<ObjectDrift, Failure>> =
        futures_util::stream::iter(looks).buffered(at_once(places.len())).collect().await;
    for drift in all {
        let drift = drift?;
        found.extend((!drift.findings.is_empty()).then_some(drift));
    }
    Ok(found)
}

/// What of a release's hooks is not as they left it: their objects, which are in no manifest that
/// Helm compares, and the volume claims that they may have written to. `now` is the API server's
/// time.
///
/// # Errors
/// Errors from reading: what was not seen is not reported as gone.
async fn of_hooks(client: &Client, record: &Record, now: Timestamp) -> Result<Vec<ObjectDrift>, Failure> {
    let places: Vec<Place> = record.hooks.iter().map(|made| made.place.clone()).collect();
    let namespaces = record.claims.keys().chain(record.claims_of_install.keys()).cloned().collect();
    let (seen, there): (_, Claims) =
        tokio::try_join!(live::look(client, &places), claims::look(client, &namespaces, true))?;
    let left =
        record.hooks.iter().zip(&seen).filter_map(|(made, seen)| match live::compare(made, seen.as_ref(), now) {
            Standing::Drifted(drift) | Standing::Lost(drift) => Some(drift),
            Standing::Scaled(_) | Standing::AsMade => None,
        });
    let gone = claims::gone(&record.claims, &there).into_iter().chain(claims::lost(&record.claims_of_install, &there));
    Ok(left.chain(gone).map(ObjectDrift::of_hooks).collect())
}

fn name(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

/// The location of an object, existing or not; `None` if the API server does not have its kind, or
/// it has no name.
pub(crate) async fn place(
    client: &Client,
    object: &Value,
    namespace: &str,
    kinds: &mut Kinds,
) -> Result<Option<Place>, Failure> {
    if name(object).is_empty() {
        return Ok(None);
    }
    Place::of(client, object, namespace, kinds).await
}

fn findings(manifest: &Value, live: Option<&Seen>, made: Option<&Made>, hidden: &Hidden) -> Vec<Finding> {
    let may_go = made.is_some_and(|made| made.may_go);
    let Some(Seen { metadata, whole: object }) = live else {
        return if may_go { Vec::new() } else { vec![Finding::of(FindingKind::Object, "is gone")] };
    };
    if metadata.deletion_timestamp.is_some() && !may_go {
        return vec![Finding::of(FindingKind::Object, "is being deleted")];
    }
    let mut found = Vec::new();
    let helms = ownership::helms(metadata);
    let unknown =
        |what| Finding::of(FindingKind::Unknown, format!("{what}: whether it holds what Helm set is not recorded"));
    match made {
        Some(made) if metadata.uid.as_deref() != Some(&made.uid) => {
            found.push(Finding::of(FindingKind::Object, "was deleted and recreated since Helm created it"));
        }
        Some(made) if helms.is_ok() && made.is_changed_as_helm(metadata) => found.push(unknown(live::UNDER_HELMS_NAME)),
        Some(made) if made.is_written(metadata) => found.push(unknown(live::WRITTEN)),
        _ => {}
    }
    if let Err(why) = helms {
        found.push(Finding::of(FindingKind::Unknown, format!("cannot be compared: {why}")));
        return found;
    }
    let values = |path: &Path| object.as_ref().map(|object| (path.get(object), path.get(manifest)));
    let taken_fields = ownership::taken(manifest, metadata);
    let named: BTreeSet<String> = taken_fields.iter().map(|taken| taken.path.to_string()).collect();
    for taken in taken_fields {
        let field = taken.path.to_string();
        let what = match values(&taken.path) {
            // Somebody set the same value as Helm: nothing differs.
            Some((theirs, ours)) if theirs == ours => continue,
            Some((theirs, ours)) => values_in_words(&taken.path, theirs, ours, hidden),
            None => "was changed".to_owned(),
        };
        let kind = match autoscaler::named(taken.manager.as_deref(), taken.subresource.as_deref()) {
            Some(_) if field == "spec.replicas" => FindingKind::Scaled,
            _ => FindingKind::Taken,
        };
        found.push(Finding { field: Some(field), what, manager: taken.manager, time: taken.time, kind });
    }
    for path in ownership::lost(manifest, metadata) {
        let field = path.to_string();
        if found.iter().any(|known| known.field.as_ref().is_some_and(|known| known.starts_with(&field))) {
            continue;
        }
        let what = match values(&path) {
            Some((theirs, ours)) if theirs == ours => continue,
            Some((None, _)) => "was removed".to_owned(),
            Some((theirs, ours)) => values_in_words(&path, theirs, ours, hidden),
            None => "was removed, or changed without a recorded owner".to_owned(),
        };
        found.push(Finding { field: Some(field), what, manager: None, time: None, kind: FindingKind::Lost });
    }
    // Where something is taken or lost, another order follows from that.
    let is_scaling = |finding: &Finding| finding.kind == FindingKind::Scaled;
    let is_out_of_order = || made.zip(live).is_some_and(|(made, seen)| !made.is_in_order(seen));
    if found.iter().all(is_scaling) && is_out_of_order() {
        found.push(Finding::of(FindingKind::Lost, live::OUT_OF_ORDER));
    }
    for (_, _, manager, mut fields) in by_hand::added_to(metadata, "", false) {
        fields.retain(|field| !named.contains(field.trim_start_matches('.')));
        if fields.is_empty() {
            continue;
        }
        let entries = metadata.managed_fields.iter().flatten();
        let entry = entries.into_iter().find(|entry| entry.manager.as_deref() == Some(&manager));
        let time = entry.and_then(|entry| entry.time.as_ref()).map(|time| time.0);
        let field = Some(by_hand::shortened(&fields).trim_start_matches('.').to_owned());
        let what = "(not in the tree, left alone)".to_owned();
        found.push(Finding { field, what, manager: Some(manager), time, kind: FindingKind::Added });
    }
    found
}

/// `is 5, Helm set 1`; without secret values, and only for short ones: a list or a long text may
/// contain anything.
fn values_in_words(path: &Path, theirs: Option<&Value>, ours: Option<&Value>, hidden: &Hidden) -> String {
    if path.may_be_secret() {
        return "was changed".to_owned();
    }
    let shown = |value: &Value| {
        let plain = !value.is_object() && !value.is_array() && value.to_string().len() <= LONGEST;
        plain.then(|| foreign::line(&hidden.value(value).to_string()))
    };
    match (theirs.map(shown), ours.map(shown)) {
        (Some(Some(theirs)), Some(Some(ours))) if theirs != ours => format!("is {theirs}, Helm set {ours}"),
        (None, Some(Some(ours))) => format!("is gone, Helm set {ours}"),
        (None, _) => "is gone".to_owned(),
        _ => "was changed".to_owned(),
    }
}

/// The longest value that is shown, in bytes.
const LONGEST: usize = 60;

/// The objects of a stored release, without its hooks.
///
/// # Errors
/// If its Secret is not a release, or its manifest not YAML, in words that contain nothing of it.
pub(crate) fn resources(revision: &Revision, stored: &Stored) -> Result<Vec<Value>, Failure> {
    if let Some(error) = &stored.unreadable {
        return Err(helm_storage::unreadable(revision, error.clone()));
    }
    let parsed = manifest::parse(&stored.manifest).map_err(|place| {
        let text =
            format!("the manifest of release {} revision {} is not YAML{place}", revision.release, revision.revision);
        Failure::new(Code::ApiFailed, text)
    })?;
    Ok(parsed.into_iter().map(|(object, _)| object).collect())
}

/// What others have changed in layers.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub releases: Vec<ReleaseDrift>,
    pub leftovers: Vec<Leftover>,
    /// Layers of which nothing is deployed.
    pub absent: Vec<String>,
    /// Kinds that could not be listed, so that leftovers of them are unknown.
    pub unseen: Vec<String>,
    /// The API server's time.
    pub now: Timestamp,
}

#[derive(Debug, Serialize)]
pub(crate) struct ReleaseDrift {
    pub layer: String,
    pub release: String,
    pub namespace: String,
    /// `None` if nothing is installed.
    pub revision: Option<u32>,
    /// About the release itself: that it is missing, pending, or of no layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    pub objects: Vec<ObjectDrift>,
}

impl ReleaseDrift {
    pub fn is_drift(&self) -> bool {
        self.what.is_some() || self.objects.iter().any(ObjectDrift::is_drift)
    }
}

impl Report {
    pub fn is_drift(&self) -> bool {
        !self.leftovers.is_empty() || self.releases.iter().any(ReleaseDrift::is_drift)
    }
}

/// What others have changed in these layers' releases, and what is left of releases in the tree's
/// namespaces. Unless `all`, layers of which nothing is deployed are only named.
///
/// # Errors
/// Errors from reading; `render-failed` if Helmfile cannot read a layer.
pub(crate) async fn report(context: &Context, client: &Client, layers: &[Layer], all: bool) -> Result<Report, Failure> {
    let all_layers = context.repo.tree.layers()?;
    let (everywhere, now, secrets) = tokio::join!(
        helmfile::releases(context, &all_layers),
        kubernetes::server_time(client),
        helm_storage::metadata(client, None, "owner=helm"),
    );
    let (everywhere, now, secrets) = (everywhere?, now?, secrets?);
    let names: Vec<String> = layers.iter().map(Layer::name).collect();
    let wanted: Vec<&WantedRelease> = everywhere.iter().filter(|wanted| names.contains(&wanted.layer)).collect();
    let mut kinds = Kinds::new();
    let mut report = Report { now, ..Report::default() };
    let mut manifests: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for wanted in &wanted {
        let mut found = ReleaseDrift {
            layer: wanted.layer.clone(),
            release: wanted.name.clone(),
            namespace: wanted.namespace.clone(),
            revision: None,
            what: None,
            objects: Vec::new(),
        };
        let full = format!("{}/{}", wanted.namespace, wanted.name);
        match helm_storage::upgraded_from(client, &(*wanted).into()).await? {
            None => found.what = Some("is not installed".to_owned()),
            Some((revision, stored)) => {
                found.revision = Some(revision.revision);
                if revision.status != Status::Deployed {
                    let text =
                        format!("has no deployed revision: {} is {}", revision.revision, revision.status.as_str());
                    found.what = Some(text);
                }
                let objects = resources(&revision, &stored)?;
                let own = secrets.iter().find(|(known, _)| known.uid.is_some() && known.uid == revision.uid);
                let record = own.and_then(|(_, metadata)| Record::on(metadata).ok());
                found.objects = of_objects(client, &objects, &wanted.namespace, record.as_ref(), &mut kinds).await?;
                if let Some(record) = &record {
                    found.objects.extend(of_hooks(client, record, now).await?);
                }
                let mut names = BTreeSet::new();
                for object in &objects {
                    names.extend(
                        place(client, object, &wanted.namespace, &mut kinds).await?.map(|place| place.to_string()),
                    );
                }
                manifests.insert(full, names);
            }
        }
        report.releases.push(found);
    }
    if !all {
        // In a layer that was never deployed here, nothing can have changed.
        let deployed: BTreeSet<String> =
            report.releases.iter().filter(|found| found.revision.is_some()).map(|found| found.layer.clone()).collect();
        report.releases.retain(|found| deployed.contains(&found.layer));
        report.absent = layers.iter().map(Layer::name).filter(|layer| !deployed.contains(layer)).collect();
    }
    let needs = context.repo.tree.layer_needs()?;
    let namespaces: BTreeSet<String> = layers.iter().flat_map(|layer| needs.namespaces_of(layer)).collect();
    let namespaces: BTreeSet<String> =
        namespaces.into_iter().chain(wanted.iter().map(|wanted| wanted.namespace.clone())).collect();
    let newest = helm_storage::highest(secrets.into_iter().map(|(revision, _)| revision).collect());
    let mut releases = BTreeSet::new();
    for revision in newest.into_iter().filter(|revision| revision.status != Status::Uninstalled) {
        let full = format!("{}/{}", revision.namespace, revision.release);
        let ours = revision.layer.as_ref().filter(|layer| names.contains(layer));
        let is = |wanted: &WantedRelease| wanted.name == revision.release && wanted.namespace == revision.namespace;
        // A release may have moved to another layer.
        if let (Some(layer), false) = (ours, everywhere.iter().any(is)) {
            report.releases.push(ReleaseDrift {
                layer: layer.clone(),
                release: revision.release.clone(),
                namespace: revision.namespace.clone(),
                revision: Some(revision.revision),
                what: Some(context.run.reporter.completed(&format!(
                    "is installed, but no longer part of its layer: cargo xtask releases repair --uninstall {full}"
                ))),
                objects: Vec::new(),
            });
        }
        releases.insert(full);
    }
    (report.leftovers, report.unseen) = leftovers(client, &namespaces, &releases, &manifests).await?;
    Ok(report)
}

/// An object that claims to be made by a release, but that no release has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Leftover {
    pub object: String,
    /// According to the object, `NAMESPACE/NAME`.
    pub release: String,
    pub why: String,
}

/// Objects labelled as Helm's in these namespaces, or cluster-wide, whose release does not exist or
/// no longer has them. `manifests` are the objects of the releases that are fully known; `releases`
/// are all that exist, `NAMESPACE/NAME`.
///
/// # Errors
/// Errors from reading; kinds that may not be listed are in the second list.
pub(crate) async fn leftovers(
    client: &Client,
    namespaces: &BTreeSet<String>,
    releases: &BTreeSet<String>,
    manifests: &BTreeMap<String, BTreeSet<String>>,
) -> Result<(Vec<Leftover>, Vec<String>), Failure> {
    let (resources, mut unseen) = listable(client).await?;
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by=Helm");
    let lists = resources.iter().map(async |resource| {
        let api: Api<kube::core::DynamicObject> = Api::all_with(client.clone(), resource);
        (resource, api.list_metadata(&ours).await)
    });
    let all: Vec<_> = futures_util::stream::iter(lists).buffered(at_once(resources.len())).collect().await;
    let mut found = Vec::new();
    for (resource, listed) in all {
        let listed = match listed {
            Ok(listed) => listed,
            // A kind that may not be listed, or whose API server or conversion webhook does not answer
            // (then the whole list is a 500), is not checked.
            Err(kube::Error::Api(status)) if matches!(status.code, 403..=406 | 500 | 502..=504) => {
                unseen.push(resource.kind.clone());
                continue;
            }
            Err(error) => return Err(read_failed(&format!("the objects of kind {}", resource.kind), error)),
        };
        for object in listed.items {
            let metadata = object.metadata;
            let annotation = |name: &str| metadata.annotations.as_ref().and_then(|all| all.get(name)).cloned();
            let (Some(name), Some(of)) =
                (annotation("meta.helm.sh/release-name"), annotation("meta.helm.sh/release-namespace"))
            else {
                continue;
            };
            let within = metadata.namespace.as_ref().unwrap_or(&of);
            // What a controller created for one of our objects is deleted with it.
            if !namespaces.contains(within) || metadata.owner_references.as_ref().is_some_and(|all| !all.is_empty()) {
                continue;
            }
            let place = Place {
                api_version: resource.api_version.clone(),
                kind: resource.kind.clone(),
                plural: resource.plural.clone(),
                namespace: metadata.namespace.clone(),
                name: metadata.name.clone().unwrap_or_default(),
            };
            let release = format!("{of}/{name}");
            let object = place.to_string();
            let why = match manifests.get(&release) {
                _ if !releases.contains(&release) => "this release no longer exists",
                Some(known) if !known.contains(&object) => "its release no longer contains it",
                _ => continue,
            };
            found.push(Leftover { object, release, why: why.to_owned() });
        }
    }
    found.sort_by(|one, other| one.object.cmp(&other.object));
    // An API with several groups shows the same objects in each.
    found.dedup_by(|one, other| one.object == other.object);
    Ok((found, unseen))
}

/// Kinds that can be listed, each in its group's preferred version; and the groups whose API does
/// not list its kinds.
async fn listable(client: &Client) -> Result<(Vec<ApiResource>, Vec<String>), Failure> {
    let failed = |error: kube::Error| read_failed("the kinds that the API server has", error);
    let mut unseen = Vec::new();
    let mut lists = vec![("v1".to_owned(), client.list_core_api_resources("v1").await.map_err(failed)?)];
    for group in client.list_api_groups().await.map_err(failed)?.groups {
        // Events belong to nobody.
        let Some(version) = group.preferred_version.filter(|_| group.name != "events.k8s.io") else { continue };
        match client.list_api_group_resources(&version.group_version).await {
            Ok(list) => lists.push((version.group_version, list)),
            // An unavailable aggregated API only hides its own kinds.
            Err(kube::Error::Api(status)) if status.code >= 500 || status.code == 404 => unseen.push(group.name),
            Err(error) => return Err(failed(error)),
        }
    }
    let mut found = Vec::new();
    for (api_version, list) in lists {
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        for resource in list.resources {
            let lists = resource.verbs.iter().any(|verb| verb == "list");
            // Subresources; and kinds that are computed, or have no labels.
            if !lists || resource.name.contains('/') || resource.kind == "Event" || group == "metrics.k8s.io" {
                continue;
            }
            found.push(ApiResource {
                group: group.to_owned(),
                version: version.to_owned(),
                api_version: api_version.clone(),
                kind: resource.kind,
                plural: resource.name,
            });
        }
    }
    Ok((found, unseen))
}

/// What others have changed in a release since the last run of its layer.
pub(crate) struct Drifts {
    pub layer: String,
    /// The first change of each object, in words; and whether somebody else owns a field that Helm
    /// set, so that a run only takes it back with `--force-conflicts`.
    pub found: Vec<(String, bool)>,
}

/// What others have changed in each release of these layers that has a record.
///
/// # Errors
/// Errors from reading the cluster.
pub(crate) async fn of_layers(context: &Context, client: &Client, layers: &[Layer]) -> Result<Vec<Drifts>, Failure> {
    // The images that they were rendered with do not matter for what others have changed since.
    let snapshot = Snapshot::take(context, Vec::new())?;
    let sights = Look::open(context, client, snapshot).await?.recorded(layers).await?;
    let mut all = Vec::new();
    for (layer, sight) in layers.iter().zip(sights) {
        for release in sight.iter().flat_map(|sight| &sight.releases).filter(|release| release.record().is_some()) {
            let drifts = release.facts.drifts.iter();
            let found = drifts.map(|drift| (drift.to_string(), drift.field.is_some() && drift.manager.is_some()));
            all.push(Drifts { layer: layer.name(), found: found.collect() });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::compare::inputs::Parts;
    use crate::stand_in::{Answer, Server};

    fn manifest(kind: &str, more: &Value) -> Value {
        let mut object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "web"}});
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object
    }

    fn entry(manager: &str, subresource: Option<&str>, fields: &Value) -> Value {
        let operation = if manager == "helm" { "Apply" } else { "Update" };
        json!({"manager": manager, "operation": operation, "subresource": subresource,
            "time": "2026-11-25T10:00:00Z", "fieldsV1": fields})
    }

    fn hidden() -> Hidden {
        Hidden::of(std::iter::empty())
    }

    fn made(may_go: bool) -> Made {
        let place = Place {
            api_version: "batch/v1".into(),
            kind: "Job".into(),
            plural: "jobs".into(),
            namespace: None,
            name: "web".into(),
        };
        Made { version: Some("generation 1".into()), may_go, ..Made::identified(place, "u1".into()) }
    }

    /// What is reported for an object of this manifest in this state.
    fn told(manifest: &Value, live: Option<(&Value, &[Value])>) -> Vec<String> {
        let now: Timestamp = "2026-11-25T10:03:00Z".parse().unwrap();
        let seen = live.map(|(object, managed)| {
            let metadata = json!({"name": "web", "uid": "u1", "generation": 1, "managedFields": managed,
                "annotations": {"meta.helm.sh/release-name": "web"}});
            Seen { metadata: serde_json::from_value(metadata).unwrap(), whole: Some(object.clone()) }
        });
        findings(manifest, seen.as_ref(), Some(&made(false)), &hidden())
            .iter()
            .map(|finding| finding.told(now))
            .collect()
    }

    #[test]
    fn each_change_is_told_with_both_values_who_and_when() {
        let made = manifest("Deployment", &json!({"spec": {"replicas": 1, "paused": false}}));
        let live = |more: Value| manifest("Deployment", &json!({ "spec": more }));
        let helm = entry("helm", None, &json!({"f:spec": {"f:paused": {}}}));
        let replicas = json!({"f:spec": {"f:replicas": {}}});
        for (object, other, expected) in [
            (
                live(json!({"replicas": 5, "paused": false})),
                Some(entry("kubectl-edit", None, &replicas)),
                &["spec.replicas is 5, Helm set 1, by kubectl-edit 3 min ago"][..],
            ),
            // The same value is no difference, whoever set it.
            (live(json!({"replicas": 1, "paused": false})), Some(entry("kubectl-edit", None, &replicas)), &[]),
            (live(json!({"replicas": 0, "paused": false})), None, &["spec.replicas is 0, Helm set 1"]),
            (live(json!({"paused": false})), None, &["spec.replicas was removed"]),
            (
                live(json!({"replicas": 1, "paused": false, "minReadySeconds": 3})),
                Some(entry("kubectl-patch", None, &json!({"f:spec": {"f:minReadySeconds": {}}}))),
                &["spec.minReadySeconds (not in the tree, left alone), by kubectl-patch 3 min ago"],
            ),
        ] {
            let mut managed = vec![helm.clone()];
            managed.extend(other);
            assert_eq!(told(&made, Some((&object, &managed))), expected, "{object}");
        }
        assert_eq!(told(&made, None), ["is gone"]);
        // What Kubernetes deletes by itself, after it has completed.
        assert_eq!(findings(&made, None, Some(&self::made(true)), &hidden()), []);
        let metadata = json!({"uid": "u1", "generation": 2, "managedFields": [helm]});
        let seen = Seen { metadata: serde_json::from_value(metadata).unwrap(), whole: Some(made.clone()) };
        let found = findings(&made, Some(&seen), Some(&self::made(false)), &hidden());
        assert_eq!(found[0].what, "was written to since Helm made it: whether it holds what Helm set is not recorded");
        let nothing_of_helms = [entry("kubectl-create", None, &replicas)];
        let judged = told(&made, Some((&made, &nothing_of_helms)));
        assert_eq!(judged, ["cannot be compared: Helm owns no field of it"]);
    }

    #[test]
    fn a_change_under_helms_name_is_a_drift_of_unknown_values() {
        let object = manifest("Deployment", &json!({"spec": {"replicas": 1}}));
        let helm = entry("helm", None, &json!({"f:spec": {"f:replicas": {}}}));
        let metadata = |uid: &str| json!({"uid": uid, "generation": 1, "managedFields": [helm]});
        let told = |uid: &str, applied: &str| {
            let made = Made { applied: applied.parse().ok(), ..made(false) };
            let seen = Seen { metadata: serde_json::from_value(metadata(uid)).unwrap(), whole: Some(object.clone()) };
            let found = findings(&object, Some(&seen), Some(&made), &hidden());
            assert!(found.iter().all(|finding| finding.kind.is_drift()));
            found.into_iter().map(|finding| finding.what).collect::<Vec<_>>()
        };
        assert!(told("u1", "2026-11-25T10:00:00Z").is_empty());
        let said = told("u1", "2026-11-25T09:00:00Z");
        assert!(said.len() == 1 && said[0].starts_with(live::UNDER_HELMS_NAME), "{said:?}");
        let said = told("u2", "2026-11-25T09:00:00Z");
        assert!(said.len() == 1 && said[0].contains("recreated"), "{said:?}");
    }

    fn client(server: &Server) -> Client {
        let mut config = kube::Config::new(server.url().parse().unwrap());
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    fn refused(code: u16) -> Answer {
        let reason = if code == 404 { "NotFound" } else { "" };
        let status = json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "no"});
        Answer::json(code, &status)
    }

    #[tokio::test]
    async fn what_a_hook_left_and_the_claims_that_it_wrote_to_are_looked_at() {
        let server = Server::start(|request| match request.path() {
            "/api/v1/namespaces/shop/secrets/kept" => Answer::json(
                200,
                &json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                    "metadata": {"name": "kept", "uid": "u1"}}),
            ),
            "/api/v1/namespaces/shop/persistentvolumeclaims" => {
                Answer::json(200, &json!({"metadata": {}, "items": [{"metadata": {"name": "data-0", "uid": "new"}}]}))
            }
            _ => refused(404),
        });
        let left = |name: &str| Made {
            place: Place {
                api_version: "v1".into(),
                kind: "Secret".into(),
                plural: "secrets".into(),
                namespace: Some("shop".into()),
                name: name.into(),
            },
            version: None,
            ..made(false)
        };
        let mut record = Record::new("c", "45-shop", Vec::new(), Parts::new());
        record.hooks = vec![left("kept"), left("gone")];
        record.claims = Claims::from([("shop".to_owned(), [("data-0".to_owned(), "old".to_owned())].into())]);
        let found = of_hooks(&client(&server), &record, Timestamp::UNIX_EPOCH).await.unwrap();
        let told: Vec<(&str, &str)> =
            found.iter().map(|drift| (drift.object.as_str(), drift.findings[0].what.as_str())).collect();
        assert!(found.iter().all(ObjectDrift::is_drift));
        assert_eq!(told[0], ("Secret shop/gone", "is gone"));
        assert_eq!(told[1].0, "PersistentVolumeClaim shop/data-0");
        assert_eq!(told.len(), 2, "{told:?}");
    }

    #[tokio::test]
    async fn a_kind_whose_list_fails_as_a_whole_is_named_and_the_others_are_checked() {
        for code in [403, 406, 500, 502, 504] {
            let server = Server::start(move |request| match request.path() {
                "/api/v1" => {
                    let resources = json!([
                        {"name": "things", "singularName": "", "kind": "Thing", "namespaced": true, "verbs": ["list"]},
                        {"name": "secrets", "singularName": "", "kind": "Secret", "namespaced": true, "verbs": ["list"]},
                    ]);
                    Answer::json(200, &json!({"groupVersion": "v1", "resources": resources}))
                }
                "/apis" => Answer::json(200, &json!({"groups": []})),
                "/api/v1/secrets" => {
                    let annotations =
                        json!({"meta.helm.sh/release-name": "web", "meta.helm.sh/release-namespace": "shop"});
                    let metadata = json!({"name": "left", "namespace": "shop", "annotations": annotations});
                    Answer::json(200, &json!({"metadata": {}, "items": [{"metadata": metadata}]}))
                }
                _ => refused(code),
            });
            let namespaces = BTreeSet::from(["shop".to_owned()]);
            let (left, unseen) =
                leftovers(&client(&server), &namespaces, &BTreeSet::new(), &BTreeMap::new()).await.unwrap();
            assert_eq!((left.len(), unseen), (1, vec!["Thing".to_owned()]), "{code}");
        }
    }

    #[test]
    fn an_autoscaler_is_no_drift_and_a_person_who_scales_is() {
        let made = manifest("Deployment", &json!({"spec": {"replicas": 1, "paused": false}}));
        let live = manifest("Deployment", &json!({"spec": {"replicas": 3, "paused": false}}));
        let helm = entry("helm", None, &json!({"f:spec": {"f:paused": {}}}));
        for (manager, kind) in [
            ("kube-controller-manager", FindingKind::Scaled),
            ("k3s", FindingKind::Scaled),
            ("keda-operator", FindingKind::Scaled),
            ("kubectl", FindingKind::Taken),
        ] {
            let scaled = entry(manager, Some("scale"), &json!({"f:spec": {"f:replicas": {}}}));
            let metadata = json!({"name": "web", "managedFields": [helm, scaled]});
            let seen = Seen { metadata: serde_json::from_value(metadata).unwrap(), whole: Some(live.clone()) };
            let found = findings(&made, Some(&seen), None, &hidden());
            assert_eq!(found.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [kind], "{manager}");
        }
    }

    #[test]
    fn values_that_nobody_may_read_are_not_told() {
        for name in ["DB_PASSWORD", "STRIPE_KEY", "BASIC_AUTH", "GOOGLE_CREDENTIALS", "CLIENT_SECRET", "GH_PAT"] {
            let env = |of: Value| json!({"f:env": {format!(r#"k:{{"name":"{name}"}}"#): of}});
            let container =
                |value: &str| json!({"spec": {"containers": [{"name": "a", "env": [{"name": name, "value": value}]}]}});
            let fields = json!({"f:spec": {"f:containers": {r#"k:{"name":"a"}"#: env(json!({"f:value": {}}))}}});
            let mut own = env(json!({".": {}, "f:name": {}}));
            own["."] = json!({});
            own["f:name"] = json!({});
            let helm = entry("helm", None, &json!({"f:spec": {"f:containers": {r#"k:{"name":"a"}"#: own}}}));
            let managed = [helm, entry("kubectl-edit", None, &fields)];
            let (made, live) = (manifest("Pod", &container("hunter2")), manifest("Pod", &container("hunter3")));
            let said = told(&made, Some((&live, &managed))).join("\n");
            assert!(said.contains("was changed, by kubectl-edit") && !said.contains("hunter"), "{name}: {said}");
        }
        for key in ["admin-password", "STRIPE_KEY", "BASIC_AUTH", "credentials", "clientSecret"] {
            let data = |value: &str| manifest("ConfigMap", &json!({"data": {key: value}}));
            let managed = [
                entry("helm", None, &json!({"f:data": {}})),
                entry("kubectl-edit", None, &json!({"f:data": {format!("f:{key}"): {}}})),
            ];
            let said = told(&data("hunter2"), Some((&data("hunter3"), &managed))).join("\n");
            assert!(said.contains("was changed") && !said.contains("hunter"), "{key}: {said}");
        }
        for (outer, inner) in [("token", "value"), ("api", "key"), ("client", "secret")] {
            let made = |value: &str| manifest("Db", &json!({"spec": {outer: {inner: value}}}));
            let managed = [
                entry("helm", None, &json!({"f:spec": {}})),
                entry("kubectl-edit", None, &json!({"f:spec": {format!("f:{outer}"): {format!("f:{inner}"): {}}}})),
            ];
            let said = told(&made("hunter2"), Some((&made("hunter3"), &managed))).join("\n");
            assert!(said.contains("was changed") && !said.contains("hunter"), "{outer}.{inner}: {said}");
        }
    }
}
