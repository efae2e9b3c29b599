//! What a run of layers would do, object by object: compares the rendering with what is deployed,
//! and with what others have changed in the objects since. It takes no lock and no Lease, and
//! writes nothing to the cluster; what it could not compare it reports.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Patch, PatchParams};
use kube::core::Status;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::instant;
use super::{Args, actions, nothing_selected};
use crate::compare::difference;
use crate::compare::drift::{self, Finding, FindingKind, place};
use crate::compare::inputs::Inputs;
use crate::compare::live;
use crate::compare::look::{Found, Look, Sight, Snapshot};
use crate::compare::objects::{Objects, title};
use crate::compare::reader::{How, Reader, Rendered, bytes};
use crate::compare::record::{self, Record};
use crate::compare::state::{Action, ReleaseState};
use crate::lab;
use crate::mirror::Origin;
use crate::releases::{self, Revision, kept, manifest};
use crate::repo::layers::Layer;
use crate::run::Run;
use crate::run::context::Context;
use crate::run::foreign;
use crate::world::helm_storage::{self, Stored};
use crate::world::kubernetes;
use crate::world::kubernetes::kinds::Kinds;
use crate::world::kubernetes::place::Place;
use crate::world::release::Release;
use crate::world::tools;
use run_record::preview::{Act, Change, Count, ObjectPreview, ReleasePreview};
use run_record::{Code, Event, Exit, Failure};

/// The preview of a layer.
pub(crate) struct LayerPreview {
    pub layer: Layer,
    pub releases: Vec<ReleasePreview>,
    /// `None` if the cluster could not be read.
    pub sight: Option<Sight>,
    /// `None` if nothing had to be rendered, since nothing has changed.
    pub rendered: Option<Rendered>,
    /// How it was rendered, if it was.
    pub how: How,
    /// The layer's inputs at the start of the look; `None` if the cluster could not be read.
    pub inputs: Option<Inputs>,
    /// The uid of the cluster's namespace kube-system; empty if it could not be read.
    pub cluster: String,
    /// For each release the objects of its deployed revision before they were compared, if a plan
    /// is to be saved.
    pub stood: Vec<Vec<Stood>>,
}

/// The state of an object of a deployed revision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stood {
    #[serde(flatten)]
    pub place: Place,
    /// `None` if it did not exist.
    pub uid: Option<String>,
    /// The digest of what Helm owned of it, or why that is unknown.
    pub owns: String,
}

impl LayerPreview {
    /// Whether a run would change the cluster.
    pub fn changes(&self) -> bool {
        self.releases.iter().any(|release| release.act.changes())
    }

    /// Prints it, and adds it to the run's record.
    pub fn tell(&self, run: &Run) {
        for release in &self.releases {
            run.reporter.event(&Event::Preview(release.clone()));
        }
        let changing = self.releases.iter().filter(|release| release.act.changes()).count();
        let of = self.releases.iter().filter(|release| release.counts()).count();
        let text = match changing {
            _ if self.sight.is_none() && self.releases.is_empty() => {
                return run.reporter.planned(&self.layer.name(), "install or upgrade its releases, and test them");
            }
            0 => format!("nothing would change: {of} release{}", if of == 1 { "" } else { "s" }),
            _ if self.sight.is_none() => "what is deployed could not be read, so nothing was compared".to_owned(),
            _ => format!(
                "{changing} of {of} release{} would change; {}",
                if of == 1 { "" } else { "s" },
                Count::of(&self.releases)
            ),
        };
        run.reporter.note(&self.layer.name(), text);
    }
}

/// What to do if the cluster cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unseen {
    /// Render the layers all the same, so that errors in files are found.
    Render,
    /// Only name them: to render them may require building Helm first, on a machine that has no
    /// cluster yet.
    Name,
}

/// What a run of these layers would do.
///
/// # Errors
/// `render-failed` for a layer; an interrupt; with `--server`, errors from the requests.
pub(crate) async fn previews(
    context: &Context,
    layers: &[Layer],
    args: &Args,
    unseen: Unseen,
) -> Result<Vec<LayerPreview>, Failure> {
    // If there was never a cluster here, use the image lock that this machine has.
    let there = |origin: &Origin| origin.lock.exists();
    let known = instant::origin(&context.run, &context.repo)
        .ok()
        .filter(there)
        .or_else(|| lab::known_origin().ok().filter(there));
    let origin = known.unwrap_or_else(|| Origin::public(&context.repo));
    let lock = bytes(&origin)?;
    // Whatever cluster answers, it would not be the one that is meant.
    context.repo.k3d_config()?;
    let snapshot = Snapshot::take(context, lock)?;
    if args.force_conflicts {
        snapshot.refuse_to_force(layers)?;
    }
    let connected = async {
        let client = kubernetes::client(context).await?;
        kubernetes::require(&client).await?;
        Ok::<_, Failure>(client)
    };
    let client = connected.await;
    let look = match &client {
        Ok(client) => Look::open(context, client, snapshot).await,
        Err(failure) => Err(failure.clone()),
    };
    if let Err(failure) = &look {
        let stopped = matches!(failure.exit(), Exit::Interrupted | Exit::Terminated);
        // These options need an answer, so it is a failure without a cluster.
        if stopped || args.server || args.exit_code || args.save_plan.is_some() {
            return Err(failure.clone());
        }
        context.run.reporter.note("layer", format!("cannot compare with what is deployed: {failure}"));
    }
    let recorded = match &look {
        // With a selector Helmfile decides which releases are meant.
        Ok(look) if args.selector().is_none() => look.recorded(layers).await?,
        _ => layers.iter().map(|_| None).collect(),
    };
    let before = Before { context, args, unseen, look: look.as_ref().ok(), origin };
    let previews = layers.iter().zip(recorded).map(|(layer, sight)| before.layer(layer, sight));
    let previews: Vec<_> = futures_util::stream::iter(previews).buffered(args.pace.jobs()).collect().await;
    let previews: Vec<LayerPreview> = previews.into_iter().collect::<Result<_, _>>()?;
    match args.selector() {
        Some(selector) if previews.iter().all(|preview| preview.releases.is_empty()) => {
            Err(nothing_selected(selector, layers))
        }
        _ => Ok(previews),
    }
}

struct Before<'a> {
    context: &'a Context,
    args: &'a Args,
    unseen: Unseen,
    /// `None` if the cluster cannot be read.
    look: Option<&'a Look<'a>>,
    origin: Origin,
}

impl Before<'_> {
    /// `recorded` is the layer according to its own records, if they are trustworthy.
    async fn layer(&self, layer: &Layer, recorded: Option<Sight>) -> Result<LayerPreview, Failure> {
        let still = |sight: &Sight| {
            let actions = actions(sight, self.args);
            actions.iter().all(|action| matches!(action, Action::Nothing | Action::Test))
        };
        let inputs = self.look.map(|look| look.inputs(layer)).transpose()?;
        let preview = LayerPreview {
            layer: layer.clone(),
            releases: Vec::new(),
            sight: None,
            rendered: None,
            how: How::default(),
            inputs,
            cluster: self.look.map(|look| look.cluster().to_owned()).unwrap_or_default(),
            stood: Vec::new(),
        };
        let mut kinds = Kinds::new();
        if let Some(sight) = recorded.filter(|sight| still(sight) && !self.args.server) {
            let stood = self.stood(sight.releases.iter().map(|found| found.named.release()), &mut kinds).await?;
            let releases = self.in_place(layer, &sight);
            return Ok(LayerPreview { releases, sight: Some(sight), stood, ..preview });
        }
        if self.look.is_none() && self.unseen == Unseen::Name {
            return Ok(preview);
        }
        let toolbox = tools::ensure(&self.context.repo.tree, &["helm", "helmfile"], &self.context.run.reporter).await?;
        let reader = Reader::new(self.context, &toolbox, self.origin.clone(), self.args.selector())?;
        let namespace = self.look.map_or("default", Look::namespace);
        let wanted = reader.releases(layer, namespace).await?;
        let Some(look) = self.look else {
            let rendered = reader.rendered(layer, namespace, How { crds: true, ..How::default() }).await?;
            let releases = wanted.iter().map(|release| self.uncompared(layer, release, &rendered)).collect();
            return Ok(LayerPreview { releases, rendered: Some(rendered), ..preview });
        };
        let stood = self.stood(wanted.iter().cloned(), &mut kinds).await?;
        let mut sight = look.listed(layer, &wanted).await?;
        let how = How { asking: true, upgrading: sight.is_of_upgrades(), crds: true };
        let rendered = reader.rendered(layer, namespace, how).await?;
        let digests = record::digests(&rendered);
        sight.releases.iter_mut().for_each(|found| found.rendered(&digests));
        let mut releases = Vec::new();
        for ((release, found), action) in wanted.iter().zip(&sight.releases).zip(actions(&sight, self.args)) {
            let fresh = rendered.get(&(release.namespace.clone(), release.name.clone()));
            releases.push(match action {
                Action::Sync => self.release(layer, look, release, found, fresh, &mut kinds).await?,
                Action::Nothing | Action::Test => self.still(layer, found, action),
            });
        }
        Ok(LayerPreview { releases, sight: Some(sight), rendered: Some(rendered), how, stood, ..preview })
    }

    /// The state of each release's objects, if a plan is to be saved: read before anything is
    /// compared, so that a change in the meantime is not taken for what was shown.
    async fn stood(
        &self,
        releases: impl Iterator<Item = Release>,
        kinds: &mut Kinds,
    ) -> Result<Vec<Vec<Stood>>, Failure> {
        let mut all = Vec::new();
        if let (Some(look), true) = (self.look, self.args.save_plan.is_some()) {
            for release in releases {
                all.push(stood(look.client(), &release, kinds).await?);
            }
        }
        Ok(all)
    }

    fn in_place(&self, layer: &Layer, sight: &Sight) -> Vec<ReleasePreview> {
        let found = sight.releases.iter().zip(actions(sight, self.args));
        found.map(|(found, action)| self.still(layer, found, action)).collect()
    }

    /// A release that will not be synced.
    fn still(&self, layer: &Layer, found: &Found, action: Action) -> ReleasePreview {
        let told = found.told.iter().chain(&found.lost);
        told.for_each(|told| self.context.run.reporter.note(&found.named.name, told));
        let left_out = action == Action::Nothing && found.state == ReleaseState::Untested;
        let why = found.state.why();
        ReleasePreview {
            layer: layer.name(),
            release: found.named.name.clone(),
            namespace: found.named.namespace.clone(),
            act: if action == Action::Test { Act::Test } else { Act::Nothing },
            why: if left_out { format!("{why}, and tests are skipped") } else { why },
            revision: standing(found),
            tests: action == Action::Test,
            unknown: Vec::new(),
            objects: Vec::new(),
        }
    }

    /// A release of which only the rendering is known.
    fn uncompared(&self, layer: &Layer, release: &Release, rendered: &Rendered) -> ReleasePreview {
        let objects = rendered.get(&(release.namespace.clone(), release.name.clone()));
        let count = objects.map_or(0, |objects| objects.resources.len() + objects.hooks.len() + objects.crds.len());
        let text = match release.installed {
            true => format!("not compared with what is deployed; objects that it renders: {count}"),
            false => "the tree wants it removed; it is unknown whether it exists".to_owned(),
        };
        ReleasePreview {
            layer: layer.name(),
            release: release.name.clone(),
            namespace: release.namespace.clone(),
            act: if release.installed { Act::Sync } else { Act::Nothing },
            why: "the cluster cannot be read".to_owned(),
            revision: None,
            tests: release.installed && !self.args.skip_tests,
            unknown: vec![text],
            objects: Vec::new(),
        }
    }

    async fn release(
        &self,
        layer: &Layer,
        look: &Look<'_>,
        release: &Release,
        found: &Found,
        rendered: Option<&Objects>,
        kinds: &mut Kinds,
    ) -> Result<ReleasePreview, Failure> {
        let client = look.client();
        let mut unknown = Vec::new();
        let base = helm_storage::upgraded_from(client, release).await?;
        let deployed = match &base {
            Some((revision, stored)) => match stored_objects(revision, stored) {
                Ok(objects) => Some(objects),
                Err(failure) => {
                    unknown.push(failure.to_string());
                    None
                }
            },
            None => None,
        };
        if release.installed && rendered.is_none() {
            unknown.push("its rendering was not found, so its objects are not compared".to_owned());
        }
        let nothing = Objects::default();
        let fresh = if release.installed { rendered.unwrap_or(&nothing) } else { &nothing };
        for object in
            deployed.iter().flat_map(|deployed| &deployed.resources).chain(&fresh.resources).chain(&fresh.crds)
        {
            place(client, object, &release.namespace, kinds).await?;
        }
        let objects = match (&base, &deployed) {
            // What exists, or what is rendered, cannot be read: everything would look new, or gone.
            (Some(_), None) => Vec::new(),
            _ if release.installed && rendered.is_none() => Vec::new(),
            (_, deployed) => difference::changes(deployed.as_ref(), fresh, &release.namespace, kinds),
        };
        let force = self.args.force_conflicts;
        let mut beside = Beside { client, release, fresh, force, kinds, objects };
        if let (true, Some(_)) = (release.installed, rendered) {
            if let Some(deployed) = &deployed {
                beside.kept(deployed).await?;
                beside.drifted(deployed, found.record(), look.now()).await?;
            }
            beside.in_the_way().await?;
            let of_old = base.as_ref().is_some_and(|(_, stored)| !stored.is_applied_by_the_server());
            match self.args.server {
                true if of_old => unknown.push(
                    "its revision was applied client-side, as Helm 3 does: the API server was not asked".to_owned(),
                ),
                true => beside.ask().await?,
                false => {}
            }
        }
        let objects = beside.objects;
        let act = match &found.state {
            _ if !release.installed && base.is_none() => Act::Nothing,
            _ if !release.installed => Act::Uninstall,
            ReleaseState::Absent => Act::Install,
            ReleaseState::Owned(_) => Act::Wait,
            ReleaseState::Stuck(_) => Act::Repair,
            _ => Act::Upgrade,
        };
        let why = found.state.why();
        let why = match &found.state {
            ReleaseState::InSync | ReleaseState::Untested => format!("by --force: {why}"),
            _ => why,
        };
        Ok(ReleasePreview {
            layer: layer.name(),
            release: release.name.clone(),
            namespace: release.namespace.clone(),
            act,
            why,
            revision: standing(found),
            tests: release.installed && !self.args.skip_tests,
            unknown,
            objects,
        })
    }
}

/// The newest revision of a release that has not been uninstalled.
fn standing(found: &Found) -> Option<u32> {
    let newest = found.facts.newest.filter(|(_, status)| *status != releases::Status::Uninstalled);
    newest.map(|(revision, _)| revision)
}

/// A release's objects, compared with the cluster's.
struct Beside<'a> {
    client: &'a Client,
    release: &'a Release,
    /// What it renders now.
    fresh: &'a Objects,
    /// `--force-conflicts`.
    force: bool,
    kinds: &'a mut Kinds,
    /// What happens to each, as far as determined.
    objects: Vec<ObjectPreview>,
}

impl Beside<'_> {
    fn title(&self, object: &Value) -> String {
        title(object, &self.release.namespace, self.kinds)
    }

    async fn place(&mut self, object: &Value) -> Result<Option<Place>, Failure> {
        place(self.client, object, &self.release.namespace, self.kinds).await
    }

    /// Adds notes to an object, even to one whose manifest stays the same.
    fn note(&mut self, object: String, notes: Vec<String>) {
        match self.objects.iter_mut().find(|known| known.object == object) {
            Some(known) => known.notes.extend(notes),
            None => self.objects.push(ObjectPreview { object, change: Change::Restore, notes, diff: Vec::new() }),
        }
    }

    /// Whether objects that the chart no longer has are kept: Helm's upgrade checks the object
    /// itself, not the manifest (see [`kept`]).
    async fn kept(&mut self, deployed: &Objects) -> Result<(), Failure> {
        for object in &deployed.resources {
            let name = self.title(object);
            let gone =
                |known: &ObjectPreview| known.object == name && matches!(known.change, Change::Delete | Change::Keep);
            let Some(index) = self.objects.iter().position(gone) else { continue };
            let Some(place) = self.place(object).await? else { continue };
            let seen = live::whole(self.client, &place, false).await?;
            let kept = seen.as_ref().is_some_and(|seen| kept::is_kept(&seen.metadata));
            let preview = &mut self.objects[index];
            match (preview.change, kept) {
                _ if seen.is_none() => preview.notes = vec!["it is already gone".to_owned()],
                (Change::Keep, false) => {
                    preview.change = Change::Delete;
                    preview.notes = vec![
                        "its manifest says helm.sh/resource-policy: keep, and the object itself does not: Helm deletes it".to_owned(),
                    ];
                }
                (Change::Delete, true) => {
                    preview.change = Change::Keep;
                    preview.notes = vec!["the object itself says helm.sh/resource-policy: keep".to_owned()];
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What others have changed in objects that stay; `now` is the API server's time.
    async fn drifted(
        &mut self,
        deployed: &Objects,
        record: Option<&Record>,
        now: jiff::Timestamp,
    ) -> Result<(), Failure> {
        let namespace = &self.release.namespace;
        let drifts = drift::of_objects(self.client, &deployed.resources, namespace, record, self.kinds).await?;
        let stays: BTreeSet<String> = self.fresh.resources.iter().map(|object| self.title(object)).collect();
        for drift in drifts.into_iter().filter(|drift| stays.contains(&drift.object)) {
            let findings = drift.findings.iter().filter(|finding| finding.kind != FindingKind::Added);
            let notes: Vec<String> = findings.map(|finding| self.what_helm_makes_of(finding, now)).collect();
            if !notes.is_empty() {
                self.note(drift.object, notes);
            }
        }
        Ok(())
    }

    /// What Helm will do about a change by others.
    fn what_helm_makes_of(&self, finding: &Finding, now: jiff::Timestamp) -> String {
        let told = finding.told(now);
        match finding.kind {
            FindingKind::Object => format!("{told}: Helm creates it"),
            FindingKind::Lost => format!("{told}: Helm sets it again"),
            FindingKind::Taken if self.force => format!("{told}: --force-conflicts takes it back"),
            FindingKind::Taken => {
                format!("{told}: {}, unless with --force-conflicts", Code::FieldConflict)
            }
            FindingKind::Scaled if self.force => {
                format!("{told}, an autoscaler: --force-conflicts takes it back")
            }
            FindingKind::Scaled => format!(
                "{told}, an autoscaler: {}, unless with --force-conflicts, if the tree names a number",
                Code::FieldConflict
            ),
            FindingKind::Added | FindingKind::Unknown => told,
        }
    }

    /// Objects that are to be created but already exist: Helm takes over only those that name this
    /// release as their own.
    async fn in_the_way(&mut self) -> Result<(), Failure> {
        let fresh = self.fresh;
        for object in fresh.resources.iter().chain(&fresh.crds) {
            let name = self.title(object);
            let created = |known: &ObjectPreview| known.object == name && known.change == Change::Create;
            let Some(index) = self.objects.iter().position(created) else { continue };
            let place = match self.place(object).await? {
                Some(place) => place,
                None if object.pointer("/metadata/name").is_none() => continue,
                None => {
                    let text = format!("the API server does not know its kind yet ({})", Code::CrdMissing);
                    self.objects[index].notes.push(text);
                    continue;
                }
            };
            let Some(seen) = live::whole(self.client, &place, false).await? else { continue };
            if fresh.crds.contains(object) {
                // Helm skips a CRD that exists (`installCRDs`).
                self.objects.remove(index);
                continue;
            }
            let annotation =
                |name: &str| seen.metadata.annotations.as_ref().and_then(|all| all.get(name)).map(String::as_str);
            let owner = (annotation("meta.helm.sh/release-namespace"), annotation("meta.helm.sh/release-name"));
            let own = (Some(self.release.namespace.as_str()), Some(self.release.name.as_str()));
            self.objects[index].notes.push(match owner {
                owner if owner == own => "it already exists, left by this release: Helm takes it over".to_owned(),
                (Some(namespace), Some(name)) => {
                    format!("{}: it already exists and belongs to release {namespace}/{name}", Code::NameInUse)
                }
                _ => format!("{}: it already exists and belongs to no release", Code::NameInUse),
            });
        }
        Ok(())
    }

    /// Sends each object that Helm would apply to the API server as a dry run: conflicts, immutable
    /// fields, webhooks and policies answer as they would.
    async fn ask(&mut self) -> Result<(), Failure> {
        let fresh = self.fresh;
        for object in &fresh.resources {
            let Some(place) = self.place(object).await? else { continue };
            let asked = dry_run(self.client, &place, object, self.release, self.force).await;
            let Err(error) = asked else { continue };
            let said = match &error {
                kube::Error::Api(status) => judged(object, status),
                _ => None,
            };
            let Some(said) = said else {
                return Err(kubernetes::write_failed(&format!("the dry run of {place}"), error));
            };
            self.note(self.title(object), vec![said]);
        }
        Ok(())
    }
}

/// What the API server's answer to a dry run says about an object; `None` if it has not judged it.
fn judged(object: &Value, status: &Status) -> Option<String> {
    match status.code {
        404 => Some("the API server cannot be asked: its namespace or kind does not exist yet".to_owned()),
        // The apply itself is not refused for this (`NewDryRunUnsupportedErr` of the API server).
        400 if status.message.contains("does not support dry run") => {
            Some("it cannot be previewed: a webhook does not answer dry runs".to_owned())
        }
        // Too many requests are nothing of the object's.
        code if code != 429 && (400..=500).contains(&code) => {
            Some(format!("the API server rejects it ({code}): {}", no(object, status)))
        }
        _ => None,
    }
}

/// Why the API server refuses, without values: its message for a Secret, or for an immutable field,
/// contains them.
fn no(object: &Value, status: &Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let fields: Vec<&str> = causes.map(|cause| cause.field.as_str()).filter(|field| !field.is_empty()).collect();
    match (manifest::is_secret(object) || status.code == 422, fields.as_slice()) {
        (false, _) => foreign::line(&status.message),
        (true, []) => status.reason.clone(),
        (true, fields) => format!("{} of {}", status.reason, fields.join(", ")),
    }
}

/// The state of the objects of the revision that an upgrade starts from.
async fn stood(client: &Client, release: &Release, kinds: &mut Kinds) -> Result<Vec<Stood>, Failure> {
    let Some((revision, stored)) = helm_storage::upgraded_from(client, release).await? else { return Ok(Vec::new()) };
    let mut places = Vec::new();
    for object in &drift::resources(&revision, &stored)? {
        places.extend(place(client, object, &release.namespace, kinds).await?);
    }
    let seen = live::look(client, &places).await?;
    let stood = places.into_iter().zip(seen).map(|(place, seen)| Stood {
        place,
        uid: seen.as_ref().and_then(|seen| seen.metadata.uid.clone()),
        owns: seen.map(|seen| owns(&seen.metadata)).unwrap_or_default(),
    });
    Ok(stood.collect())
}

/// The digest of what Helm owns of an object, or why that is unknown; a deletion that has begun
/// counts too.
pub(crate) fn owns(metadata: &ObjectMeta) -> String {
    if metadata.deletion_timestamp.is_some() {
        return "it is being deleted".to_owned();
    }
    live::owned(metadata).unwrap_or_else(|why| why)
}

/// Asks the API server to apply an object as Helm would, without persisting it.
///
/// # Errors
/// The API server's own.
pub(crate) async fn dry_run(
    client: &Client,
    place: &Place,
    object: &Value,
    release: &Release,
    force: bool,
) -> kube::Result<()> {
    // As Helm requests it (`FieldValidationDirectiveStrict`).
    let mut parameters = PatchParams::apply("helm").dry_run().validation_strict();
    parameters.force = force;
    let patch = Patch::Apply(as_helm_applies(object, release));
    place.api(client).patch(&place.name, &parameters, &patch).await.map(drop)
}

/// With what Helm adds to each object (`setMetadataVisitor` of `pkg/action/validate.go`).
fn as_helm_applies(object: &Value, release: &Release) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        let mut add = |map: &str, name: &str, value: &str| {
            let map = metadata.entry(map).or_insert_with(|| json!({}));
            if map.is_null() {
                *map = json!({});
            }
            if let Some(map) = map.as_object_mut() {
                map.insert(name.to_owned(), value.into());
            }
        };
        add("labels", "app.kubernetes.io/managed-by", "Helm");
        add("annotations", "meta.helm.sh/release-name", &release.name);
        add("annotations", "meta.helm.sh/release-namespace", &release.namespace);
    }
    object
}

/// The objects and hooks of a stored release.
pub(crate) fn stored_objects(revision: &Revision, stored: &Stored) -> Result<Objects, Failure> {
    let resources = drift::resources(revision, stored)?;
    let mut hooks = Vec::new();
    for hook in &stored.hooks {
        let parsed = manifest::parse(&hook.manifest).map_err(|place| {
            Failure::new(
                Code::ApiFailed,
                format!("the hook {} of release {} is not YAML{place}", hook.name, revision.release),
            )
        })?;
        hooks.extend(parsed.into_iter().map(|(object, _)| object));
    }
    Ok(Objects { resources, hooks, crds: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_judgement_of_the_object_is_told_as_one() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
        for (code, message, told) in [
            (
                400,
                "admission webhook \"x.example\" does not support dry run",
                Some("it cannot be previewed: a webhook does not answer dry runs"),
            ),
            (400, "strict decoding error", Some("the API server rejects it (400): strict decoding error")),
            (403, "exceeded quota", Some("the API server rejects it (403): exceeded quota")),
            (404, "not found", Some("the API server cannot be asked: its namespace or kind does not exist yet")),
            (500, "failed calling webhook", Some("the API server rejects it (500): failed calling webhook")),
            // It is overloaded, or not there.
            (429, "too many requests", None),
            (503, "apiserver not ready", None),
        ] {
            let status = Status { code, message: message.to_owned(), ..Status::default() };
            assert_eq!(judged(&object, &status).as_deref(), told, "{code} {message}");
        }
    }
}
