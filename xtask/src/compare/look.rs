//! One look at layers: their inputs, what was recorded about them, and the state of what Helm made.
//! It starts no program and writes nothing. If it cannot tell, that is a failure or a separate
//! state, never "in place". The consequences are decided in `state` and carried out by the layer's
//! run.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::Arc;

use futures_util::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::Value;

use super::claims::{self, Claims};
use super::handback;
use super::health;
use super::inputs::{self, Around, Files, Inputs};
use super::live::{self, Made, Standing};
use super::ownership;
use super::pull_secret;
use super::reader;
use super::record::{self, Named, Record};
use super::state::{Facts, Kept, ReleaseState, Rendering, determine};
use crate::releases::{self, Revision, Status, by_hand, manifest};
use crate::repo::layers::Layer;
use crate::run::context::Context;
use crate::world::helm_storage::{self, Heads, Stored};
use crate::world::kubernetes::kinds::Kinds;
use crate::world::kubernetes::place::Place;
use crate::world::kubernetes::{self, read_failed, write_failed};
use crate::world::release::Release;
use crate::world::tools;
use run_record::{Code, Failure, InPlace};

/// The tree at one moment, as far as a rendering depends on it.
#[derive(PartialEq)]
pub(crate) struct Snapshot {
    files: Arc<Files>,
    /// The image lock that is passed to Helmfile.
    lock: Vec<u8>,
    pinned: Vec<tools::Tool>,
}

impl Snapshot {
    /// # Errors
    /// `usage` for a file that cannot be read.
    pub fn take(context: &Context, lock: Vec<u8>) -> Result<Self, Failure> {
        let tree = &context.repo.tree;
        let files = Arc::new(Files::read(tree, &context.repo.env_name)?);
        Ok(Self { files, lock, pinned: tools::pinned(tree)? })
    }

    /// Begins to take apart what these layers read, on another thread: it is needed once the cluster
    /// has answered.
    pub fn parse_ahead(&self, layers: &[Layer]) {
        let (files, layers) = (self.files.clone(), layers.to_vec());
        // What is wrong with a file is found again by whoever asks for it.
        tokio::task::spawn_blocking(move || {
            layers.iter().for_each(|layer| drop(files.parse(layer)));
        });
    }

    /// Whether a layer's rendering depends on nothing else, other than this process.
    ///
    /// # Errors
    /// Errors from reading the tree.
    pub fn is_all_of(&self, context: &Context, layer: &Layer) -> Result<bool, Failure> {
        let around = Around { variables: self.variables(context)?, ..Around::default() };
        Ok(self.files.of(layer, &around)?.doubts.is_empty())
    }

    /// Refuses to force fields where a layer's file gives `helm upgrade` arguments of its own, which
    /// Helmfile would leave out: it takes those of the command line in their place.
    ///
    /// # Errors
    /// `usage`, with the file; errors from reading the tree.
    pub fn refuse_to_force(&self, layers: &[Layer]) -> Result<(), Failure> {
        for layer in layers {
            if let Some(file) = self.files.of(layer, &Around::default())?.unrendered.first() {
                let arguments = inputs::UNRENDERED;
                let text = format!("infra/kubernetes/{file} has {arguments}, whose place --force-conflicts would take");
                let remedy = format!("leave out {}, or write its {arguments} as values", layer.name());
                return Err(Failure::usage(text).remedy(remedy));
            }
        }
        Ok(())
    }

    /// What Helmfile has in its environment, by name.
    fn variables(&self, context: &Context) -> Result<Vec<(String, OsString)>, Failure> {
        let mut variables = tools::environment_on(&self.pinned, "helmfile", context)?;
        variables.extend(reader::variables(context).map(|(name, value)| (name.into(), value.into())));
        Ok(variables.into_iter().map(|(name, value)| (name.to_string_lossy().into_owned(), value)).collect())
    }
}

/// What is the same for all layers of the look.
pub(crate) struct Look<'a> {
    context: &'a Context,
    client: &'a Client,
    snapshot: Snapshot,
    named: Vec<(&'static str, String)>,
    variables: Vec<(String, OsString)>,
    /// The uid of kube-system.
    cluster: String,
    /// The API server's time.
    now: Timestamp,
}

/// A release of a layer, as found.
pub(crate) struct Found {
    pub named: Named,
    pub facts: Facts,
    pub state: ReleaseState,
    /// What is reported about it but is no reason to do anything.
    pub told: Vec<String>,
    /// What is gone and no sync brings back.
    pub lost: Vec<String>,
    /// What people have set on its objects that Helm does not, as `(object, in words)`.
    pub added: Vec<(String, String)>,
    /// Its record has other inputs, whether or not they render differently.
    is_outdated: bool,
    /// This tool owns a field of it: a removal was stopped.
    is_held: bool,
    record: Option<Record>,
    /// The newest one.
    revision: Option<Revision>,
}

impl Found {
    pub fn is(&self, release: &Release) -> bool {
        self.named.name == release.name && self.named.namespace == release.namespace
    }

    /// Whether only a new rendering is missing to determine its state.
    pub fn is_open(&self) -> bool {
        let open = matches!(&self.facts.kept, Kept::Whole { inputs: Some(_), .. });
        open && self.facts.rendering.is_none() && matches!(self.facts.newest, Some((_, Status::Deployed)))
    }

    /// Whether its record is up to date, including the inputs.
    pub fn is_recorded_as_it_is(&self) -> bool {
        matches!(&self.facts.kept, Kept::Whole { .. }) && !self.is_outdated
    }

    /// Whether its tests have passed on the newest revision.
    pub fn was_tested(&self) -> bool {
        matches!(&self.facts.kept, Kept::Whole { tested: true, .. })
    }

    /// Its record, if it is trustworthy.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// The newest revision.
    pub fn revision(&self) -> Option<&Revision> {
        self.revision.as_ref()
    }

    /// Adds the result of a new rendering.
    pub fn rendered(&mut self, fresh: &record::Renderings) {
        let key = (self.named.namespace.clone(), self.named.name.clone());
        let Some(record) = &self.record else { return };
        let same = fresh.get(&key).is_some_and(|digest| *digest == record.rendered);
        self.facts.rendering = Some(if same { Rendering::Same } else { Rendering::Different });
        self.state = determine(&self.facts);
    }
}

/// A layer, as found.
pub(crate) struct Sight {
    pub releases: Vec<Found>,
}

impl Sight {
    /// How a layer is in place if nothing has to be done.
    pub fn how(&self) -> InPlace {
        let any = |of: fn(&Found) -> &Vec<String>| self.releases.iter().any(|found| !of(found).is_empty());
        match (any(|found| &found.lost), any(|found| &found.told)) {
            (true, _) => InPlace::Lacking,
            (false, true) => InPlace::Scaled,
            (false, false) => InPlace::Unchanged,
        }
    }

    /// Whether this release is known to be as Helm left it, so that nobody else owns a field of it:
    /// it was compared with its record.
    pub fn is_untouched(&self, release: &Release) -> bool {
        let found = self.releases.iter().find(|found| found.is(release));
        found.is_some_and(|found| {
            found.record.is_some() && found.facts.drifts.is_empty() && found.told.is_empty() && !found.is_held
        })
    }

    /// Whether this release is known to render what its deployed revision has.
    pub fn renders_the_same(&self, release: &Release) -> bool {
        let found = self.releases.iter().find(|found| found.is(release));
        found.is_some_and(|found| match (&found.facts.kept, &found.facts.rendering) {
            // Beside one that is to be installed, all were rendered as for an install.
            (Kept::Whole { .. }, Some(rendering)) => *rendering == Rendering::Same && self.is_of_upgrades(),
            (Kept::Whole { inputs, .. }, None) => inputs.is_none(),
            (Kept::None(_), _) => false,
        })
    }

    /// Whether a sync of it would only upgrade releases.
    pub fn is_of_upgrades(&self) -> bool {
        let stands = |found: &Found| found.facts.newest.is_some_and(|(_, status)| status != Status::Uninstalled);
        self.releases.iter().filter(|found| found.named.installed).all(stands)
    }

    /// Whether a new rendering could show that a release is as it should be, which is its only open
    /// question.
    pub fn is_worth_rendering(&self) -> bool {
        self.releases.iter().any(Found::is_open)
    }
}

impl<'a> Look<'a> {
    /// Identifies the API server.
    ///
    /// # Errors
    /// Errors from reading: `usage`, `forbidden`, `api-unreachable` and similar.
    pub async fn open(context: &'a Context, client: &'a Client, snapshot: Snapshot) -> Result<Self, Failure> {
        let mut named: Vec<(&'static str, String)> = vec![("xtask", env!("XTASK_SOURCES").to_owned())];
        let variables = snapshot.variables(context)?;
        let (server, cluster) = tokio::join!(kubernetes::server(client), cluster(client));
        let server = server?;
        named.push(("the API server's version", server.version));
        named.push((inputs::OF_CONTEXT, client.default_namespace().to_owned()));
        Ok(Self { context, client, snapshot, named, variables, cluster: cluster?, now: server.time })
    }

    /// Checks that the layer is still as this look has read it: if somebody has worked on the tree
    /// since, Helmfile may have been given something else.
    ///
    /// # Errors
    /// What has changed, in words.
    pub fn still(&self, layer: &Layer) -> Result<(), String> {
        let changed = || {
            let now = Snapshot::take(self.context, self.lock().to_vec())?;
            Ok(inputs::changed(&self.inputs(layer)?.parts, &self.inputs_in(&now, layer)?.parts))
        };
        match changed().map_err(|failure: Failure| failure.to_string())? {
            Some(what) => Err(format!("while the run was at work, {what}")),
            None => Ok(()),
        }
    }

    /// The namespace for a release that names none.
    pub fn namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// The image lock that its inputs have.
    pub fn lock(&self) -> &[u8] {
        &self.snapshot.lock
    }

    pub fn client(&self) -> &Client {
        self.client
    }

    /// The API server's time.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The uid of the cluster's namespace kube-system.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The layer's current inputs.
    ///
    /// # Errors
    /// Errors from reading the tree.
    pub fn inputs(&self, layer: &Layer) -> Result<Inputs, Failure> {
        self.inputs_in(&self.snapshot, layer)
    }

    fn inputs_in(&self, snapshot: &Snapshot, layer: &Layer) -> Result<Inputs, Failure> {
        let around = Around {
            named: self.named.iter().cloned().chain(renderers(&snapshot.pinned)).collect(),
            lock: &snapshot.lock,
            variables: self.variables.clone(),
        };
        snapshot.files.of(layer, &around)
    }

    /// Each of these layers, with the releases that its own records name. `None` for one without a
    /// record.
    ///
    /// # Errors
    /// Errors from reading.
    pub async fn recorded(&self, layers: &[Layer]) -> Result<Vec<Option<Sight>>, Failure> {
        let names: Vec<String> = layers.iter().map(Layer::name).collect();
        let labels = format!("owner=helm,layer in ({})", names.join(","));
        let secrets = match helm_storage::metadata(self.client, None, &labels).await {
            // Without the right to read the whole cluster, only the namespaces in layers.yaml are
            // read.
            Err(failure) if failure.code == Code::Forbidden => {
                let needs = self.context.repo.tree.layer_needs()?;
                let namespaces: BTreeSet<String> = layers.iter().flat_map(|layer| needs.namespaces_of(layer)).collect();
                let lists = namespaces.iter().map(|name| helm_storage::metadata(self.client, Some(name), &labels));
                try_join_all(lists).await?.into_iter().flatten().collect()
            }
            listed => listed?,
        };
        let mut known: Vec<(&Layer, Vec<Named>, Inputs)> = Vec::new();
        for (layer, name) in layers.iter().zip(&names) {
            let records = secrets.iter().filter(|(revision, _)| revision.layer.as_ref() == Some(name));
            let records = records.filter_map(|(_, secret)| Record::on(secret).ok());
            let mut records: Vec<Record> =
                records.filter(|record| record.layer == *name && record.cluster == self.cluster).collect();
            // A release that the layer no longer has keeps its old record.
            let inputs = self.inputs(layer)?;
            records.sort_by_key(|record| inputs::changed(&record.inputs, &inputs.parts).is_some());
            known.extend(records.into_iter().next().map(|record| (layer, record.releases, inputs)));
        }
        let mut seen: BTreeMap<String, Sight> = BTreeMap::new();
        for ((layer, ..), sight) in known.iter().zip(self.judge(&known).await?) {
            seen.insert(layer.name(), sight);
        }
        Ok(names.iter().map(|name| seen.remove(name)).collect())
    }

    /// A layer with these releases, from Helmfile's list.
    ///
    /// # Errors
    /// Errors from reading.
    pub async fn listed(&self, layer: &Layer, releases: &[Release]) -> Result<Sight, Failure> {
        let mut sights = self.judge(&[(layer, named(releases), self.inputs(layer)?)]).await?;
        sights.pop().ok_or_else(|| Failure::usage(format!("{} was not checked", layer.name())))
    }

    async fn judge(&self, layers: &[(&Layer, Vec<Named>, Inputs)]) -> Result<Vec<Sight>, Failure> {
        let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for named in layers.iter().flat_map(|(_, releases, _)| releases) {
            names.entry(&named.namespace).or_default().insert(&named.name);
        }
        // By name and not only by label: a revision made by hand has no layer label.
        let lists = names.iter().map(async |(namespace, names)| {
            let names: Vec<&str> = names.iter().copied().collect();
            let labels = format!("owner=helm,name in ({})", names.join(","));
            helm_storage::metadata(self.client, Some(namespace), &labels).await
        });
        let mut newest: BTreeMap<(String, String), (Revision, ObjectMeta)> = BTreeMap::new();
        for (revision, secret) in try_join_all(lists).await?.into_iter().flatten() {
            let key = (revision.namespace.clone(), revision.release.clone());
            if newest.get(&key).is_none_or(|(known, _)| known.revision < revision.revision) {
                newest.insert(key, (revision, secret));
            }
        }
        let mut sights = Vec::new();
        let mut wanted: Vec<Place> = Vec::new();
        let mut claimed: BTreeSet<String> = BTreeSet::new();
        for (layer, releases, inputs) in layers {
            let mut found = Vec::new();
            for named in releases {
                let newest = newest.remove(&(named.namespace.clone(), named.name.clone()));
                found.push(self.facts(layer, named, releases, newest.as_ref(), inputs));
            }
            for record in found.iter().filter_map(|found: &Found| found.record.as_ref()) {
                wanted.extend(record.objects.iter().chain(&record.hooks).map(|made| made.place.clone()));
                claimed.extend(record.claims.keys().chain(record.claims_of_install.keys()).cloned());
            }
            sights.push(Sight { releases: found });
        }
        // A namespace that is being deleted takes everything with it, after a while.
        wanted.extend(names.keys().map(|name| namespace(name)));
        wanted.sort();
        wanted.dedup();
        let (seen, claims) =
            tokio::try_join!(live::look(self.client, &wanted), claims::look(self.client, &claimed, true))?;
        let seen: BTreeMap<&Place, Option<live::Seen>> = wanted.iter().zip(seen).collect();
        for found in sights.iter_mut().flat_map(|sight| &mut sight.releases) {
            let Some(record) = &found.record else { continue };
            for (made, is_hooks) in
                record.objects.iter().map(|made| (made, false)).chain(record.hooks.iter().map(|made| (made, true)))
            {
                let object = seen.get(&made.place).and_then(Option::as_ref);
                match live::compare(made, object, self.now) {
                    Standing::AsMade => {}
                    Standing::Scaled(text) => found.told.push(text),
                    Standing::Lost(drift) => found.lost.push(drift.to_string()),
                    Standing::Drifted(drift) => found.facts.drifts.push(drift),
                }
                found.added.extend(object.into_iter().flat_map(|seen| by_hand::on(&made.place, &seen.metadata)));
                found.is_held |= object.is_some_and(|object| handback::is_held(&object.metadata));
                if !is_hooks {
                    found.facts.ailing.extend(object.and_then(|object| health::ailing(&made.place, object)));
                }
            }
            found.facts.drifts.extend(claims::gone(&record.claims, &claims));
            found.lost.extend(claims::lost(&record.claims_of_install, &claims).iter().map(ToString::to_string));
            let own = namespace(&found.named.namespace);
            let going = match seen.get(&own).and_then(Option::as_ref) {
                None => Some("is gone"),
                Some(seen) => seen.metadata.deletion_timestamp.as_ref().map(|_| "is being deleted"),
            };
            found.facts.ailing.extend(going.map(|what| format!("{own} {what}")));
            found.state = determine(&found.facts);
        }
        Ok(sights)
    }

    fn facts(
        &self,
        layer: &Layer,
        named: &Named,
        releases: &[Named],
        newest: Option<&(Revision, ObjectMeta)>,
        inputs: &Inputs,
    ) -> Found {
        let (mut record, mut is_outdated) = (None, false);
        let kept = match newest.map(|(_, secret)| Record::on(secret)) {
            None => Kept::None("there is no record of it".to_owned()),
            Some(Err(why)) => Kept::None(why),
            Some(Ok(found)) if found.cluster != self.cluster => {
                Kept::None("its record is from another cluster".to_owned())
            }
            Some(Ok(found)) if found.layer != layer.name() => {
                Kept::None(format!("it was deployed by the layer {}", found.layer))
            }
            Some(Ok(found)) => {
                let changed = inputs::changed(&found.inputs, &inputs.parts);
                let others =
                    || (found.releases != releases).then(|| "the layer's list of releases has changed".to_owned());
                let changed = changed.or_else(others);
                is_outdated = changed.is_some();
                let unrendered = inputs.unrendered.first().zip(changed.as_ref());
                let unrendered = unrendered.map(|(file, why)| format!("{why} ({file} has {})", inputs::UNRENDERED));
                let changed = changed.or_else(|| inputs.doubts.first().cloned());
                let kept = match unrendered {
                    Some(why) => Kept::None(why),
                    None => Kept::Whole { inputs: changed, tested: found.tested },
                };
                record = Some(found);
                kept
            }
        };
        let owner = match newest {
            Some((revision, _)) if revision.status != Status::Deployed => {
                releases::worker(&self.context.site, revision)
            }
            _ => None,
        };
        let facts = Facts {
            installed: named.installed,
            newest: newest.map(|(revision, _)| (revision.revision, revision.status)),
            owner,
            kept,
            rendering: None,
            drifts: Vec::new(),
            ailing: Vec::new(),
        };
        let state = determine(&facts);
        let revision = newest.map(|(revision, _)| revision.clone());
        let (named, told, lost, added) = (named.clone(), Vec::new(), Vec::new(), Vec::new());
        Found { named, facts, state, told, lost, added, is_outdated, is_held: false, record, revision }
    }

    /// Makes the pull secrets match this shell's account: they belong to no release, so they are
    /// corrected right here.
    ///
    /// # Errors
    /// Errors from reading and writing them.
    pub async fn pull_secret(&self) -> Result<(), Failure> {
        match &self.context.repo.tree.layer_needs()?.pull_secret {
            Some(need) => pull_secret::ensure(self.context, self.client, need).await,
            None => Ok(()),
        }
    }
}

fn namespace(name: &str) -> Place {
    Place {
        api_version: "v1".to_owned(),
        kind: "Namespace".to_owned(),
        plural: "namespaces".to_owned(),
        namespace: None,
        name: name.to_owned(),
    }
}

/// The versions of the tools that render.
fn renderers(pinned: &[tools::Tool]) -> Vec<(&'static str, String)> {
    let known = |name: &str| ["helm", "helmfile"].into_iter().find(|known| *known == name);
    pinned.iter().filter_map(|tool| Some((known(&tool.name)?, tool.version.clone()))).collect()
}

fn named(releases: &[Release]) -> Vec<Named> {
    let named = |release: &Release| Named {
        namespace: release.namespace.clone(),
        name: release.name.clone(),
        installed: release.installed,
    };
    releases.iter().map(named).collect()
}

/// Identifies the cluster, whatever its context is called.
async fn cluster(client: &Client) -> Result<String, Failure> {
    let found = Api::<Namespace>::all(client.clone()).get_metadata("kube-system").await;
    let found = found.map_err(|error| read_failed("the namespace kube-system", error))?;
    found.metadata.uid.ok_or_else(|| Failure::new(Code::ApiFailed, "kube-system has no uid"))
}

/// A release in the state in which Helm left it, or as an earlier run recorded it: what somebody
/// has changed since must not get into the record.
#[derive(Clone, Debug)]
pub(crate) struct Baseline {
    revision: Revision,
    rendered: String,
    objects: Vec<Made>,
    hooks: Vec<Made>,
    claims: Claims,
    claims_of_install: Claims,
    /// What only an install makes, and is not there.
    lacking: Vec<Place>,
    /// The tree was changed while Helmfile read it: which inputs this was rendered from is not known.
    from_other_inputs: bool,
}

impl Found {
    /// From its record, to write it again; `None` if it has none.
    pub fn baseline(&self) -> Option<Baseline> {
        let record = self.record.as_ref()?;
        Some(Baseline {
            revision: self.revision.clone()?,
            rendered: record.rendered.clone(),
            objects: record.objects.clone(),
            hooks: record.hooks.clone(),
            // Those of the time when its hooks ran.
            claims: record.claims.clone(),
            claims_of_install: record.claims_of_install.clone(),
            lacking: Vec::new(),
            from_other_inputs: false,
        })
    }
}

impl Baseline {
    /// The same, still with what `record` has of the install and this sync could not bring back.
    pub fn with_what_is_lost(mut self, record: &Record) -> Self {
        let lost = record.hooks.iter().filter(|made| made.by_install && self.lacking.contains(&made.place));
        self.hooks.extend(lost.cloned());
        // What has come since the install its hooks have not written to.
        for (namespace, claims) in &mut self.claims_of_install {
            if let Some(known) = record.claims_of_install.get(namespace) {
                claims.clone_from(known);
            }
        }
        self
    }
}

/// The state of these releases now that Helm has synced them, in order; for one that cannot be
/// recorded, why. `before` has the revisions that were there when Helm started: it makes one of
/// each release, so any other is somebody else's. Also the releases to be installed of which Helm has
/// made none, although nobody has changed the tree.
pub(crate) async fn baselines(
    look: &Look<'_>,
    layer: &Layer,
    synced: &[Release],
    before: Result<Heads, Failure>,
) -> (Vec<Result<Baseline, String>>, Vec<Release>) {
    let newest = helm_storage::newest_whole(look.client, synced).await;
    let (before, newest) = match before.and_then(|before| Ok((before, newest?))) {
        Ok(read) => read,
        Err(failure) => return (synced.iter().map(|_| Err(failure.to_string())).collect(), Vec::new()),
    };
    let moved = look.still(layer).err();
    if let Some(why) = &moved {
        look.context.run.reporter.note(&layer.name(), format!("{why}: the next run renders it again"));
    }
    let mut kinds = Kinds::new();
    let (mut found, mut untouched) = (Vec::new(), Vec::new());
    for release in synced {
        let is = |revision: &Revision| revision.release == release.name && revision.namespace == release.namespace;
        let head = before.get(&(release.namespace.clone(), release.name.clone()));
        let now = newest.iter().find(|(revision, _)| is(revision));
        if release.installed && moved.is_none() && is_untouched(head, now.map(|(revision, _)| revision)) {
            untouched.push(release.clone());
        }
        let known = head.map_or(0, |head| head.revision);
        found.push(match now {
            None => Err("it has no revision".to_owned()),
            Some((revision, _)) if revision.revision <= known => {
                Err("Helm has created no new revision of it".to_owned())
            }
            Some((revision, _)) if revision.revision > known + 1 => Err(WRITTEN_BY_OTHERS.to_owned()),
            Some((revision, stored)) => {
                let found = baseline(look, revision, stored, &mut kinds).await;
                found.map(|found| Baseline { from_other_inputs: moved.is_some(), ..found })
            }
        });
    }
    (found, untouched)
}

/// Whether Helm has done nothing for a release between these looks at its highest revision: not if
/// somebody has uninstalled it in between, and Helm has begun to count again.
fn is_untouched(before: Option<&Revision>, after: Option<&Revision>) -> bool {
    match (before, after) {
        (Some(before), Some(after)) => before.uid.is_some() && before.uid == after.uid,
        (before, after) => before.is_none() && after.is_none(),
    }
}

/// That a release of [`baselines`] was left as it was.
pub(crate) fn not_synced(layer: &Layer, release: &Release) -> Failure {
    let (name, namespace, layer) = (&release.name, &release.namespace, layer.name());
    let message = format!("helmfile sync ended well, but Helm has made no revision of release {name} in {namespace}");
    let remedy = format!("cargo xtask layer {layer} --force   # syncs the whole layer");
    Failure::new(Code::Unknown, message).remedy(remedy).of_release(name)
}

async fn baseline(
    look: &Look<'_>,
    revision: &Revision,
    stored: &Stored,
    kinds: &mut Kinds,
) -> Result<Baseline, String> {
    if revision.status != Status::Deployed || stored.unreadable.is_some() {
        return Err(format!("revision {} is {}", revision.revision, revision.status.as_str()));
    }
    let no_yaml = |place: String| format!("its manifest is not YAML{place}");
    let objects: Vec<Value> =
        manifest::parse(&stored.manifest).map_err(no_yaml)?.into_iter().map(|(object, _)| object).collect();
    let mut hooks = Vec::new();
    // Of those that an upgrade runs, and of those that only an install runs.
    let mut leaves: [Vec<Value>; 2] = Default::default();
    let mut namespaces: [BTreeSet<String>; 2] = Default::default();
    for hook in &stored.hooks {
        let parsed = manifest::parse(&hook.manifest).map_err(no_yaml)?;
        let parsed: Vec<Value> = parsed.into_iter().map(|(object, _)| object).collect();
        if let Some(by) = runs_in(hook) {
            let index = usize::from(by == By::Install);
            leaves[index].extend(parsed.iter().filter(|object| stays(object)).cloned());
            let own = parsed.iter().filter_map(|object| object.pointer("/metadata/namespace")?.as_str());
            namespaces[index].extend(own.chain([revision.namespace.as_str()]).map(str::to_owned));
        }
        hooks.extend(parsed);
    }
    let rendered = record::rendering(objects.iter().chain(&hooks));
    let in_words = |failure: Failure| failure.to_string();
    let places = live::places(look.client, &objects, &revision.namespace, kinds).await.map_err(in_words)?;
    let seen = live::look(look.client, &places).await.map_err(in_words)?;
    let mut made = Vec::new();
    for ((place, seen), object) in places.into_iter().zip(seen).zip(&objects) {
        let Some(seen) = seen else {
            // Helm has waited for it, and other releases have taken longer since.
            if live::deletes_itself(&place, object) {
                continue;
            }
            return Err(format!("{place} does not exist"));
        };
        let object_made = Made::applied(place.clone(), object, &seen).map_err(|why| format!("{place}: {why}"))?;
        let taken = ownership::taken(object, &seen.metadata).into_iter().map(|taken| taken.path);
        let changed = taken.chain(ownership::lost(object, &seen.metadata));
        let mut changed = changed.chain(ownership::overwritten(object, &seen.metadata));
        let is_scaled = live::is_scaled(object, &seen.metadata);
        if let Some(field) = changed.find(|field| !is_scaled || *field != ownership::Path::of(&["spec", "replicas"])) {
            return Err(format!("{place}: {field} is not as Helm set it"));
        }
        if let Some(why) = health::ailing(&place, &seen) {
            return Err(why);
        }
        made.push(object_made);
    }
    let [by_upgrade, by_install] = &leaves;
    let (mut hooks, _) = hooks_left(look, revision, by_upgrade, kinds).await.map_err(in_words)?;
    let (left, lacking) = hooks_left(look, revision, by_install, kinds).await.map_err(in_words)?;
    hooks.extend(left.into_iter().map(|made| Made { by_install: true, ..made }));
    let [of_upgrade, of_install] = namespaces;
    let mut claims = claims::look(look.client, &(&of_upgrade | &of_install), false).await.map_err(in_words)?;
    let mut claims_of_install = claims.clone();
    claims.retain(|namespace, claims| of_upgrade.contains(namespace) && !claims.is_empty());
    claims_of_install.retain(|namespace, _| !of_upgrade.contains(namespace));
    let (revision, from_other_inputs) = (revision.clone(), false);
    Ok(Baseline { revision, rendered, objects: made, hooks, claims, claims_of_install, lacking, from_other_inputs })
}

/// The current state of these hooks' objects, as the hooks have left them, and those that are gone,
/// mostly deleted by them. Whether they are well does not matter: only Helm's next sync would make
/// them again.
async fn hooks_left(
    look: &Look<'_>,
    revision: &Revision,
    objects: &[Value],
    kinds: &mut Kinds,
) -> Result<(Vec<Made>, Vec<Place>), Failure> {
    let places = live::places(look.client, objects, &revision.namespace, kinds).await?;
    let seen = live::look(look.client, &places).await?;
    let (mut left, mut gone) = (Vec::new(), Vec::new());
    for ((place, seen), object) in places.into_iter().zip(seen).zip(objects) {
        match seen.filter(|seen| seen.metadata.deletion_timestamp.is_none()) {
            Some(seen) => left.push(Made::by_hook(place, object, &seen)),
            None => gone.push(place),
        }
    }
    Ok((left, gone))
}

/// When Helm runs a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// Whenever it syncs an installed release.
    Upgrade,
    /// Only when it installs the release.
    Install,
}

/// Which sync runs a hook; `None` if none does.
fn runs_in(hook: &helm_storage::Hook) -> Option<By> {
    let any = |events: [&str; 2]| hook.events.iter().any(|event| events.contains(&event.as_str()));
    let by_upgrade = any(["pre-upgrade", "post-upgrade"]).then_some(By::Upgrade);
    by_upgrade.or_else(|| any(["pre-install", "post-install"]).then_some(By::Install))
}

/// Whether a hook's object remains after it: one that has run to its end says nothing, and one that
/// Helm deletes after the hook is not there.
fn stays(object: &Value) -> bool {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let deleted = text("/metadata/annotations/helm.sh~1hook-delete-policy").contains("hook-succeeded");
    !matches!(text("/kind"), "Job" | "Pod") && !text("/metadata/name").is_empty() && !deleted
}

/// A manual `helm upgrade` or `helm rollback` takes no Lease.
const WRITTEN_BY_OTHERS: &str = "somebody else has written a revision of it in the meantime";

/// A part that no tree has: what was rendered is known, but not from what.
const UNKNOWN: &str = "the tree as the last run read it";

/// What the layer's run knows about a release when it records it.
pub(crate) struct Outcome<'a> {
    pub release: &'a Release,
    /// Its tests have passed on the newest revision, now or earlier.
    pub tested: bool,
    /// Or why there is nothing to record.
    pub baseline: Result<Baseline, String>,
}

/// Records these releases, each on the revision of its baseline; `all` are the layer's. What cannot
/// be recorded is reported, and gets a full look in the next run.
pub(crate) async fn write(look: &Look<'_>, layer: &Layer, all: &[Release], outcomes: Vec<Outcome<'_>>) {
    let reporter = &look.context.run.reporter;
    let inputs = match look.inputs(layer) {
        Ok(inputs) => inputs,
        Err(failure) => return reporter.note(&layer.name(), format!("not recorded: {failure}")),
    };
    for outcome in outcomes {
        let written = async {
            let baseline = outcome.baseline?;
            let mut parts = inputs::kept(&inputs.parts, all.iter().map(|release| &*release.namespace));
            if baseline.from_other_inputs {
                parts.insert(UNKNOWN.to_owned(), String::new());
            }
            let mut record = Record::new(&look.cluster, &layer.name(), named(all), parts);
            (record.rendered, record.objects, record.tested) = (baseline.rendered, baseline.objects, outcome.tested);
            (record.hooks, record.claims) = (baseline.hooks, baseline.claims);
            record.claims_of_install = baseline.claims_of_install;
            write_one(look, &record, &baseline.revision).await
        };
        if let Err(why) = written.await {
            let text = format!("not recorded, so the next run will sync it again: {why}");
            reporter.note(&outcome.release.name, text);
        }
    }
}

async fn write_one(look: &Look<'_>, record: &Record, of: &Revision) -> Result<(), String> {
    let labels = format!("owner=helm,name={}", of.release);
    let listed = helm_storage::metadata(look.client, Some(&of.namespace), &labels).await;
    let revisions = listed.map_err(|failure| failure.to_string())?.into_iter().map(|(revision, _)| revision);
    let newest = revisions.max_by_key(|revision| revision.revision);
    let same = newest.filter(|newest| newest.revision == of.revision && newest.uid == of.uid);
    let Some(newest) = same else {
        return Err(WRITTEN_BY_OTHERS.to_owned());
    };
    if newest.status != Status::Deployed {
        return Err(format!("revision {} is {}", newest.revision, newest.status.as_str()));
    }
    let text = record.text(newest.uid.as_deref().unwrap_or_default())?;
    // Only if nobody, Helm in particular, has written it since it was read.
    let patch = serde_json::json!({"metadata": {
        "resourceVersion": newest.resource_version,
        "annotations": {helm_storage::RECORD: text},
    }});
    let parameters = PatchParams { field_manager: Some("xtask".to_owned()), ..PatchParams::default() };
    let secrets = Api::<Secret>::namespaced(look.client.clone(), &newest.namespace);
    let written = secrets.patch_metadata(&newest.secret, &parameters, &Patch::Merge(&patch)).await;
    let what = format!("the Secret {}/{}", newest.namespace, newest.secret);
    written.map(drop).map_err(|error| write_failed(&what, error).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_hook_leaves_is_looked_at_unless_it_only_ran_or_helm_deletes_it() {
        let object = |kind: &str, policy: &str| {
            let annotations = json!({"helm.sh/hook": "pre-upgrade", "helm.sh/hook-delete-policy": policy});
            json!({"kind": kind, "metadata": {"name": "web", "annotations": annotations}})
        };
        for (object, remains) in [
            (object("ConfigMap", ""), true),
            (object("Secret", "before-hook-creation"), true),
            (object("ServiceAccount", "before-hook-creation,hook-failed"), true),
            (object("ConfigMap", "before-hook-creation, hook-succeeded"), false),
            (object("Job", "before-hook-creation"), false),
            (object("Pod", ""), false),
            (json!({"kind": "ConfigMap", "metadata": {"generateName": "web-"}}), false),
        ] {
            assert_eq!(stays(&object), remains, "{object}");
        }
    }

    #[test]
    fn a_release_is_untouched_only_where_its_highest_revision_is_the_same_secret() {
        let revision = |number: u32, uid: &str| {
            let uid = Some(uid).filter(|uid| !uid.is_empty()).map(str::to_owned);
            Some(Revision { uid, ..Revision::named("shop", "top", number) })
        };
        for (before, after, is) in [
            (None, None, true),
            (revision(5, "u1"), revision(5, "u1"), true),
            (None, revision(1, "u1"), false),
            (revision(5, "u1"), revision(6, "u2"), false),
            // Uninstalled by somebody, or its Secret deleted, before Helm came to it.
            (revision(5, "u1"), revision(1, "u2"), false),
            (revision(5, "u1"), revision(5, "u2"), false),
            (revision(5, "u1"), None, false),
            (revision(5, ""), revision(5, ""), false),
        ] {
            assert_eq!(is_untouched(before.as_ref(), after.as_ref()), is, "{before:?} {after:?}");
        }
    }

    #[test]
    fn what_a_sync_does_not_bring_back_is_still_recorded_after_it() {
        let made = |name: &str, by_install: bool| {
            let place = Place { name: name.to_owned(), ..namespace("x") };
            Made { by_install, ..Made::identified(place, "u1".into()) }
        };
        let claims = |all: &[(&str, &str)]| {
            let all = all.iter().map(|(name, uid)| ((*name).to_owned(), (*uid).to_owned()));
            Claims::from([("ameide".to_owned(), all.collect())])
        };
        let mut before = Record::new("c", "45-x", Vec::new(), inputs::Parts::new());
        before.hooks = vec![made("gone", true), made("dropped", true), made("upgraded", false)];
        before.claims_of_install = claims(&[("data-a", "u1"), ("data-b", "u2")]);
        let baseline = Baseline {
            revision: Revision::named("ameide", "web", 2),
            rendered: String::new(),
            objects: Vec::new(),
            hooks: Vec::new(),
            claims: Claims::new(),
            claims_of_install: claims(&[("data-b", "u9"), ("data-c", "u3")]),
            lacking: ["gone", "upgraded", "never"].map(|name| made(name, true).place).to_vec(),
            from_other_inputs: false,
        };
        let after = baseline.with_what_is_lost(&before);
        assert_eq!(after.hooks, [made("gone", true)]);
        assert_eq!(after.claims_of_install, claims(&[("data-a", "u1"), ("data-b", "u2")]));
    }

    #[test]
    fn a_hook_counts_if_an_upgrade_runs_it_or_only_an_install() {
        for (events, by) in [
            (&["pre-install", "pre-upgrade"][..], Some(By::Upgrade)),
            (&["post-install"], Some(By::Install)),
            (&["pre-install", "pre-delete"], Some(By::Install)),
            (&["test", "post-upgrade"], Some(By::Upgrade)),
            (&["test"], None),
            (&["pre-delete", "post-rollback"], None),
            (&[], None),
        ] {
            let hook: helm_storage::Hook = serde_json::from_value(json!({"name": "web", "events": events})).unwrap();
            assert_eq!(runs_in(&hook), by, "{events:?}");
        }
    }
}
