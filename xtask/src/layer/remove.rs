//! `cargo xtask layer … --remove` and `up --down`: uninstalls the releases of layers, the last
//! layer first. What holds data stays, unless losing it was named (`--allow-destroy=claim`). It
//! first determines what the releases made, and which claims their StatefulSets have; all of this
//! is reported and asked about before anything is done.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, DeleteParams, Preconditions};
use serde_json::Value;

use super::back::{self, Built};
use super::{Args, Reader, instant};
use crate::cluster;
use crate::cluster::lease::ClusterLease;
use crate::cluster::lock::ClusterLock;
use crate::compare::drift;
use crate::compare::live;
use crate::lab;
use crate::releases::owned::{self, Holder};
use crate::releases::removal::{self, Consented, Fate};
use crate::releases::{self, Others};
use crate::repo::Repo;
use crate::repo::layers::Layer;
use crate::repo::needs::LayerNeeds;
use crate::run::Run;
use crate::run::consent::{self, Consent, Kind};
use crate::run::context::{Context, Site};
use crate::run::interrupt::Interrupt;
use crate::run::wait;
use crate::world::helm_storage::{self, Revision, Status, Stored};
use crate::world::kubernetes::kinds::Kinds;
use crate::world::kubernetes::place::Place;
use crate::world::kubernetes::{self, read_failed, write_failed};
use crate::world::release::Release;
use crate::world::{helmfile, tools};
use run_record::{Code, Failure};

/// # Errors
/// `usage` if a layer that stays needs one of these; `consent-needed`; errors from reading the
/// cluster and of Helm.
pub async fn run(context: &Context, layers: &[Layer], args: &Args) -> Result<(), Failure> {
    let client = kubernetes::client(context).await?;
    if context.run.dry_run {
        let toolbox = tools::ensure(&context.repo.tree, &["helm", "helmfile"], &context.run.reporter).await?;
        let reader = Reader::new(context, &toolbox, instant::origin(&context.run, &context.repo)?, args.selector())?;
        let others = Others::look(&context.run, &context.repo, &client).await;
        return planned(&reader, &client, &others, layers).await.map(|plans| tell(&context.run, &plans));
    }
    let lock = cluster::lock(&context.run).await?;
    let lab = cluster::require_ready(context).await?;
    let toolbox = tools::ensure(&context.repo.tree, &["helm", "helmfile"], &context.run.reporter).await?;
    let reader = Reader::new(context, &toolbox, lab::origin(&context.repo, lab.as_ref()), args.selector())?;
    kubernetes::require(&client).await?;
    let lease = ClusterLease::acquire(context, &client).await?;
    // On the heap, because the run's future would fill the stack.
    let work = Box::pin(async {
        let plans = planned(&reader, &client, &Others::kept_out(), layers).await?;
        if plans.is_empty() {
            return Ok(());
        }
        tell(&context.run, &plans);
        let question = question(&plans);
        let consented = removal::consent(&context.run, context.run.consent.names(Kind::Claim), &question).await?;
        let mut kept = Vec::new();
        for plan in &plans {
            remove(context, &client, &lock, plan, &consented).await?;
            kept.extend(plan.kept(&context.site));
        }
        for (resource, text) in kept {
            context.run.reporter.note(&resource, text);
        }
        Ok(())
    });
    lease.guard(work).await
}

/// An installed release, and what happens to its objects.
struct Plan {
    layer: String,
    revision: Revision,
    timeout: Duration,
    /// `Deployment web`, and its location.
    goes: Vec<(String, Place)>,
    /// Those of these that exist, with their uid.
    uids: BTreeMap<Place, String>,
    /// What exists and stays, and why.
    stays: Vec<(Place, Fate)>,
    /// Claims of its StatefulSets, and those in a namespace that is deleted.
    claims: Vec<Claim>,
    /// Whether those are deleted too.
    claims_go: bool,
    /// StatefulSets whose claims Kubernetes would delete with them.
    releasing: Vec<Holder>,
    /// Hooks that run at an uninstall.
    hooks: Vec<String>,
}

/// A claim that no manifest names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    namespace: String,
    name: String,
    uid: String,
}

impl Plan {
    fn full(&self) -> String {
        format!("{}/{}", self.revision.namespace, self.revision.release)
    }

    /// What stays, and how to delete it.
    fn kept(&self, site: &Site) -> Vec<(String, String)> {
        let line =
            |place: &Place| format!("kept: {place}; to delete it with its data: {}", by_kubectl(site, place, "delete"));
        let mut lines: Vec<String> = self.stays.iter().map(|(place, _)| line(place)).collect();
        if !self.claims_go {
            lines.extend(self.claims.iter().map(|claim| line(&claim.place())));
        }
        lines.into_iter().map(|line| (self.revision.release.clone(), line)).collect()
    }
}

impl Claim {
    fn place(&self) -> Place {
        Place {
            api_version: "v1".to_owned(),
            kind: "PersistentVolumeClaim".to_owned(),
            plural: "persistentvolumeclaims".to_owned(),
            namespace: Some(self.namespace.clone()),
            name: self.name.clone(),
        }
    }
}

/// The command line for an object, with its kind in full, because another group may have the same
/// one.
fn by_kubectl(site: &Site, place: &Place, verb: &str) -> String {
    let within = place.namespace.as_ref().map(|namespace| format!(" -n {namespace}")).unwrap_or_default();
    let group = place.api_version.split_once('/').map(|(group, _)| format!(".{group}")).unwrap_or_default();
    let kubectl = kubernetes::kubectl_on(&site.kube_context);
    format!("{kubectl}{within} {verb} {}{group} {}", place.plural, place.name)
}

/// What exists of these layers, in the order in which it is removed.
///
/// # Errors
/// As for [`run`].
async fn planned(
    reader: &Reader<'_>,
    client: &Client,
    others: &Others,
    layers: &[Layer],
) -> Result<Vec<Plan>, Failure> {
    let context = reader.context;
    let mut found: Vec<(&Layer, Vec<Release>)> = Vec::new();
    let mut absent = Vec::new();
    for (layer, releases) in back::selected(reader, client, layers).await? {
        let newest = helm_storage::newest(client, Some(&releases)).await?;
        let there = |release: &Release| newest.iter().any(|(revision, _)| is_there(revision) && is(revision, release));
        let (there, gone): (Vec<Release>, Vec<Release>) = releases.into_iter().partition(there);
        absent.extend(gone.into_iter().filter(|release| release.installed).map(|release| (layer, release)));
        match there.is_empty() {
            true => context.run.reporter.note(&layer.name(), "already removed: none of its releases is installed"),
            false => found.push((layer, there)),
        }
    }
    tell_what_is_left(&context.run, &context.repo, client, &absent).await?;
    let going: Vec<String> = found.iter().map(|(layer, _)| layer.name()).collect();
    check_nobody_needs(context, client, &going).await?;
    let mut plans = Vec::new();
    let mut kinds = Kinds::new();
    for (layer, releases) in &found {
        releases::watch_over_removal(context, client, others, releases, None, true).await?;
        let built = Built::of(reader, layer).await?;
        let newest = helm_storage::newest_whole(client, releases).await?;
        for release in built.reversed(releases) {
            let Some((revision, stored)) = newest.iter().find(|(revision, _)| is(revision, &release)) else { continue };
            plans.push(examined(context, client, layer, revision, stored, &built, &mut kinds).await?);
        }
    }
    Ok(plans)
}

/// Reports what is left of releases that no longer exist: Helm drops its record of a release even
/// if one of its objects is not deleted, and what holds data was kept. Failed looks are reported
/// too.
async fn tell_what_is_left(
    run: &Run,
    repo: &Repo,
    client: &Client,
    absent: &[(&Layer, Release)],
) -> Result<(), Failure> {
    if absent.is_empty() {
        return Ok(());
    }
    let needs = repo.tree.layer_needs()?;
    let mut namespaces: BTreeSet<String> = absent.iter().flat_map(|(layer, _)| needs.namespaces_of(layer)).collect();
    namespaces.extend(absent.iter().map(|(_, release)| release.namespace.clone()));
    let (left, unseen) = match drift::leftovers(client, &namespaces, &BTreeSet::new(), &BTreeMap::new()).await {
        Ok(found) => found,
        Err(failure) => {
            let text = format!("could not check for leftovers of removed releases: {failure}");
            run.reporter.note("layer", text);
            return Ok(());
        }
    };
    for (_, release) in absent {
        let full = format!("{}/{}", release.namespace, release.name);
        let own: Vec<&str> = left.iter().filter(|left| left.release == full).map(|left| left.object.as_str()).collect();
        if !own.is_empty() {
            let text = format!(
                "the release is gone, but what it created still exists: {}; delete with kubectl what is not to be kept",
                own.join(", ")
            );
            run.reporter.warn(&release.name, text);
        }
    }
    if !unseen.is_empty() {
        let text = format!("not checked for leftovers of releases: {}", unseen.join(", "));
        run.reporter.note("layer", text);
    }
    Ok(())
}

fn is(revision: &Revision, release: &Release) -> bool {
    revision.release == release.name && revision.namespace == release.namespace
}

fn is_there(revision: &Revision) -> bool {
    revision.status != Status::Uninstalled
}

/// Layers that need one of those being removed, directly or indirectly, each with the one it needs;
/// a layer that only goes after another does not need it.
fn needing<'a>(all: &'a [Layer], going: &[String], needs: &LayerNeeds) -> Vec<(&'a Layer, String)> {
    let needed = |layer: &Layer| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![layer.name()]);
        while let Some(next) = open.pop() {
            open.extend(needs.needed_by(&next).map(str::to_owned).filter(|before| seen.insert(before.clone())));
        }
        going.iter().find(|name| seen.contains(*name)).cloned()
    };
    let stays = all.iter().filter(|layer| !going.contains(&layer.name()));
    stays.filter_map(|layer| Some((layer, needed(layer)?))).collect()
}

/// # Errors
/// `usage` if a deployed layer that stays needs one of those being removed.
async fn check_nobody_needs(context: &Context, client: &Client, going: &[String]) -> Result<(), Failure> {
    let (all, needs) = (context.repo.tree.layers()?, context.repo.tree.layer_needs()?);
    let needing = needing(&all, going, &needs);
    if needing.is_empty() {
        return Ok(());
    }
    let layers: Vec<Layer> = needing.iter().map(|(layer, _)| (*layer).clone()).collect();
    let wanted = helmfile::releases(context, &layers).await?;
    let releases: Vec<Release> = wanted.iter().map(Release::from).collect();
    let newest = helm_storage::newest(client, Some(&releases)).await?;
    let mut evidence = Vec::new();
    let mut also = Vec::new();
    for (layer, need) in needing {
        let name = layer.name();
        let own = wanted.iter().zip(&releases).filter(|(wanted, _)| wanted.layer == name);
        let there = own
            .map(|(_, release)| release)
            .find(|release| newest.iter().any(|(revision, _)| is_there(revision) && is(revision, release)));
        if let Some(there) = there {
            evidence.push(format!(
                "{name} needs {need}, and its release {}/{} is still installed",
                there.namespace, there.name
            ));
            also.push(name);
        }
    }
    if evidence.is_empty() {
        return Ok(());
    }
    let mut names: Vec<String> = going.iter().cloned().chain(also).collect();
    names.sort();
    let failure = Failure::usage(format!("{} cannot be removed: others need it", going.join(", ")));
    let failure = evidence.into_iter().fold(failure, Failure::evidence).evidence("nothing was changed");
    let remedy = format!("cargo xtask --env {} layer {} --remove", context.repo.env_name, names.join(" "));
    Err(failure.remedy(remedy))
}

/// Examines one release: its objects, and what happens to them.
async fn examined(
    context: &Context,
    client: &Client,
    layer: &Layer,
    revision: &Revision,
    stored: &Stored,
    built: &Built,
    kinds: &mut Kinds,
) -> Result<Plan, Failure> {
    if let Some(error) = &stored.unreadable {
        return Err(helm_storage::unreadable(revision, error.clone()));
    }
    if !stored.is(revision) {
        return Err(helm_storage::unreadable(revision, "it holds another revision".to_owned()));
    }
    let claims_go = context.run.consent.names(Kind::Claim);
    let fates = removal::fates(&stored.manifest, claims_go)
        .map_err(|place| helm_storage::unreadable(revision, format!("its manifest is not YAML{place}")))?;
    let objects: Vec<Value> = fates.iter().map(|(object, _)| object.clone()).collect();
    let places = live::places(client, &objects, &revision.namespace, kinds).await?;
    let seen = live::look(client, &places).await?;
    let mut plan = Plan {
        layer: layer.name(),
        revision: revision.clone(),
        timeout: built.timeout(revision),
        goes: Vec::new(),
        uids: BTreeMap::new(),
        stays: Vec::new(),
        claims: Vec::new(),
        claims_go,
        releasing: Vec::new(),
        hooks: Vec::new(),
    };
    let at_removal = |event: &String| matches!(event.as_str(), "pre-delete" | "post-delete");
    plan.hooks
        .extend(stored.hooks.iter().filter(|hook| hook.events.iter().any(at_removal)).map(|hook| hook.name.clone()));
    let mut namespaces: BTreeSet<String> = BTreeSet::from([revision.namespace.clone()]);
    let mut doomed = BTreeSet::new();
    for (((object, fate), place), seen) in fates.iter().zip(&places).zip(&seen) {
        namespaces.extend(place.namespace.clone());
        match (fate, seen) {
            (Fate::Goes, _) => {
                plan.goes.push((removal::name(object), place.clone()));
                if let Some(uid) = seen.as_ref().and_then(|seen| seen.metadata.uid.clone()) {
                    plan.uids.insert(place.clone(), uid);
                }
                if (place.api_version.as_str(), place.kind.as_str()) == ("v1", "Namespace") {
                    namespaces.insert(place.name.clone());
                    doomed.insert(place.name.clone());
                }
            }
            (_, Some(_)) => plan.stays.push((place.clone(), *fate)),
            // What is to stay but does not exist cannot be kept.
            (_, None) => {}
        }
    }
    let claims = owned::claims_in(client, &namespaces).await?;
    plan.claims = unnamed(&claims, &fates, &places, &doomed);
    if !claims_go {
        plan.releasing = owned::holders(client, &context.site, &revision.release, &plan.uids, &claims).await?;
    }
    Ok(plan)
}

/// The claims, which no manifest names, of the StatefulSets, and those in a namespace that is deleted.
fn unnamed(
    claims: &[PersistentVolumeClaim],
    fates: &[(Value, Fate)],
    places: &[Place],
    doomed: &BTreeSet<String>,
) -> Vec<Claim> {
    let named: BTreeSet<(Option<String>, String)> = places
        .iter()
        .filter(|place| place.kind == "PersistentVolumeClaim")
        .map(|place| (place.namespace.clone(), place.name.clone()))
        .collect();
    let mut found: Vec<Claim> = Vec::new();
    for ((object, _), place) in fates.iter().zip(places).filter(|((object, _), _)| removal::is_set(object)) {
        let namespace = place.namespace.as_deref().unwrap_or_default();
        let of_set = claims.iter().filter(|claim| claim.metadata.namespace.as_deref() == Some(namespace));
        found.extend(of_set.filter(|claim| is_of_set(object, &claim.metadata)).filter_map(claim_of));
    }
    let within = |claim: &&PersistentVolumeClaim| claim.metadata.namespace.as_ref().is_some_and(|n| doomed.contains(n));
    found.extend(claims.iter().filter(within).filter_map(claim_of));
    found.retain(|claim| !named.contains(&(Some(claim.namespace.clone()), claim.name.clone())));
    found.sort();
    found.dedup();
    found
}

fn claim_of(claim: &PersistentVolumeClaim) -> Option<Claim> {
    let metadata = &claim.metadata;
    Some(Claim { namespace: metadata.namespace.clone()?, name: metadata.name.clone()?, uid: metadata.uid.clone()? })
}

/// Whether a claim was created from a template of this set, `TEMPLATE-SET-NUMBER`, with the labels
/// that the set gives to all of them: the name alone might be another set's.
fn is_of_set(set: &Value, claim: &ObjectMeta) -> bool {
    let name = claim.name.as_deref().unwrap_or_default();
    let set_name = set.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let templates = set.pointer("/spec/volumeClaimTemplates").and_then(Value::as_array).into_iter().flatten();
    let from_template = |template: &Value| {
        let template = template.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let number = name.strip_prefix(&format!("{template}-{set_name}-"));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let labels = set.pointer("/spec/selector/matchLabels").and_then(Value::as_object).into_iter().flatten();
    let has = |(key, value): (&String, &Value)| {
        claim.labels.as_ref().and_then(|labels| labels.get(key)).is_some_and(|label| value == label.as_str())
    };
    templates.into_iter().any(from_template) && labels.into_iter().all(has)
}

fn tell(run: &Run, plans: &[Plan]) {
    for plan in plans {
        let name = &plan.revision.release;
        let planned = |text: String| run.reporter.planned(name, text);
        for (object, place) in &plan.goes {
            let place = place.namespace.as_ref().filter(|namespace| **namespace != plan.revision.namespace);
            planned(format!("delete {object}{}", place.map(|place| format!(" in {place}")).unwrap_or_default()));
        }
        for claim in &plan.claims {
            let what = format!("PersistentVolumeClaim {} in {}", claim.name, claim.namespace);
            planned(if plan.claims_go { format!("delete {what}") } else { format!("keep {what}") });
        }
        for (place, fate) in &plan.stays {
            let why = if *fate == Fate::StaysByItsChart { ", as its chart says" } else { "" };
            planned(format!("keep {place}{why}"));
        }
        for set in &plan.releasing {
            planned(set.plan());
        }
        match (plan.hooks.as_slice(), plan.claims_go) {
            ([], _) => {}
            (hooks, true) => planned(format!("run its chart's uninstall hooks: {}", hooks.join(", "))),
            (hooks, false) => {
                planned(format!("skip its chart's uninstall hooks, which may delete anything: {}", hooks.join(", ")))
            }
        }
        planned(format!("uninstall it, at revision {}", plan.revision.revision));
    }
}

/// Everything that is removed, in one question.
fn question(plans: &[Plan]) -> String {
    let mut layers: Vec<&str> = plans.iter().map(|plan| plan.layer.as_str()).collect();
    layers.dedup();
    let each = plans.iter().map(|plan| {
        let mut gone: Vec<String> = plan.goes.iter().map(|(object, _)| object.clone()).collect();
        if plan.claims_go {
            gone.extend(plan.claims.iter().map(|claim| format!("PersistentVolumeClaim {}", claim.name)));
            gone.extend(plan.hooks.iter().map(|hook| format!("whatever the hook {hook} deletes")));
        }
        let gone = if gone.is_empty() { "nothing else".to_owned() } else { gone.join(", ") };
        format!("release {} with {gone}", plan.full())
    });
    let each = each.collect::<Vec<_>>().join("; ");
    let data = if plans.iter().any(|plan| plan.claims_go) { ", DATA INCLUDED" } else { ", keeping what holds data" };
    format!("remove {}{data}: uninstall {each}", layers.join(", "))
}

async fn remove(
    context: &Context,
    client: &Client,
    lock: &ClusterLock,
    plan: &Plan,
    consented: &Consented,
) -> Result<(), Failure> {
    Interrupt::global().check()?;
    for set in &plan.releasing {
        owned::let_go_of_claims(&context.run, client, set).await?;
    }
    if let (_, Some(claim)) = consented {
        // Before the release, which names their sets, so that a run after a killed one still finds
        // them.
        for gone in &plan.claims {
            delete_claim(client, gone, claim).await?;
        }
    }
    let going: Vec<Place> = plan.goes.iter().map(|(_, place)| place.clone()).collect();
    let watch = tell_what_hangs(&context.run, client, plan, &going);
    let what = (&plan.revision, plan.timeout);
    if let Err(failure) = removal::uninstall(context, client, lock.descriptor(), what, consented, watch).await {
        Interrupt::global().check()?;
        // Helm deletes its record even if objects of the release are still there.
        let left = hanging(client, &going).await?;
        return Err(stopped(&context.site, plan, failure, left));
    }
    let left = passed_over(&context.run, client, plan, &going).await?;
    if plan.claims_go && left.is_empty() {
        wait_for_claims(client, plan).await?;
    }
    check_kept(client, plan).await?;
    if left.is_empty() { Ok(()) } else { Err(uninstalled_but(&context.site, plan, &left)) }
}

/// Reports objects that Helm did not delete although it says that it succeeded: it skips what it
/// cannot read, and what is not marked as this release's (`verifyOwnershipBeforeDelete` of
/// `pkg/action/uninstall.go`). What now belongs to another release, or is another object with that
/// name, is not to be deleted, and only reported.
async fn passed_over(
    run: &Run,
    client: &Client,
    plan: &Plan,
    going: &[Place],
) -> Result<Vec<(Place, String)>, Failure> {
    let mut left = Vec::new();
    for (place, seen) in going.iter().zip(live::look(client, going).await?) {
        let Some(metadata) = seen.map(|seen| seen.metadata) else { continue };
        let known = plan.uids.get(place);
        let told = match anothers(&metadata, &plan.revision) {
            Some(other) => format!("left: {place} exists, and belongs to release {other}"),
            None if known.is_none() || known != metadata.uid.as_ref() => {
                format!("left: {place} exists, but was created after the check")
            }
            None => {
                left.push((place.clone(), format!("{place} is still there{}", held_by(&metadata))));
                continue;
            }
        };
        run.reporter.warn(&plan.revision.release, told);
    }
    Ok(left)
}

/// Another release that an object claims to belong to.
fn anothers(metadata: &ObjectMeta, revision: &Revision) -> Option<String> {
    let annotation = |name: &str| metadata.annotations.as_ref()?.get(name).map(String::as_str);
    let name = annotation("meta.helm.sh/release-name")?;
    let namespace = annotation("meta.helm.sh/release-namespace").unwrap_or(&revision.namespace);
    ((name, namespace) != (&revision.release, &revision.namespace)).then(|| format!("{namespace}/{name}"))
}

fn uninstalled_but(site: &Site, plan: &Plan, left: &[(Place, String)]) -> Failure {
    let names: Vec<String> = left.iter().map(|(place, _)| place.to_string()).collect();
    let message = format!(
        "release {} is uninstalled, but Helm left what it had created: {}",
        plan.revision.release,
        names.join(", ")
    );
    let commands: Vec<String> = left.iter().map(|(place, _)| by_kubectl(site, place, "delete")).collect();
    let failure = Failure::new(Code::ReleasePending, message).of_release(&plan.revision.release);
    left.iter()
        .fold(failure, |failure, (_, words)| failure.evidence(words))
        .evidence("Helm skips what it may not read and what is not labelled as the release's, and no longer has a record of it")
        .remedy(commands.join("; "))
}

/// The failure of an uninstall: if an object is not going away, that is reported.
fn stopped(site: &Site, plan: &Plan, failure: Failure, left: Vec<(Place, String)>) -> Failure {
    let held = left.iter().find(|(_, words)| words.contains(FINALIZERS)).cloned();
    let failure = left.into_iter().fold(failure, |failure, (_, words)| failure.evidence(words));
    let Some((place, words)) = held else { return failure };
    let message = format!("release {}: {words}, for {} s", plan.revision.release, plan.timeout.as_secs());
    let remedy = format!(
        "restore the controller that removes the finalizer (this tool never removes one): {} -o yaml",
        by_kubectl(site, &place, "get")
    );
    let told = Failure::new(failure.code, message).evidence(failure.message).remedy(remedy);
    let told = failure.evidence.into_iter().fold(told, Failure::evidence).of_release(&plan.revision.release);
    match failure.log {
        Some(log) => told.log(log),
        None => told,
    }
}

/// How often to look whether claims are gone.
const EVERY: Duration = Duration::from_millis(500);

/// Deletes one claim: exactly the one that was named, not another with that name.
async fn delete_claim(client: &Client, claim: &Claim, _: &Consent<consent::Claim>) -> Result<(), Failure> {
    let only = Preconditions { uid: Some(claim.uid.clone()), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &claim.namespace);
    match claims.delete(&claim.name, &parameters).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        deleted => deleted.map(drop).map_err(|error| write_failed(&format!("the claim {}", claim.name), error)),
    }
}

async fn wait_for_claims(client: &Client, plan: &Plan) -> Result<(), Failure> {
    let look = async || {
        for claim in &plan.claims {
            let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &claim.namespace);
            let found = claims.get_metadata_opt(&claim.name).await;
            let found = found.map_err(|error| read_failed(&format!("the claim {}", claim.name), error))?;
            if let Some(found) = found.filter(|found| found.metadata.uid.as_ref() == Some(&claim.uid)) {
                let held = held_by(&found.metadata);
                return Ok(ControlFlow::Continue(format!("PersistentVolumeClaim {}{held}", claim.name)));
            }
        }
        Ok(ControlFlow::Break(()))
    };
    match wait::until(EVERY, plan.timeout, look).await? {
        ControlFlow::Break(()) => Ok(()),
        ControlFlow::Continue(why) => {
            let message = format!("release {} is uninstalled, but a claim of it still exists", plan.revision.release);
            Err(Failure::new(Code::ReleasePending, message).evidence(why).of_release(&plan.revision.release))
        }
    }
}

/// Which of these are still there, although they are deleted or should be.
async fn hanging(client: &Client, places: &[Place]) -> Result<Vec<(Place, String)>, Failure> {
    let seen = live::look(client, places).await?;
    let of = |(place, seen): (&Place, Option<live::Seen>)| {
        let held = held_by(&seen?.metadata);
        Some((place.clone(), format!("{place} is still there{held}")))
    };
    Ok(places.iter().zip(seen).filter_map(of).collect())
}

/// Precedes the finalizers that hold a deleted object.
const FINALIZERS: &str = ", being deleted and held by the finalizers ";

fn held_by(metadata: &ObjectMeta) -> String {
    match (metadata.deletion_timestamp.is_some(), metadata.finalizers.as_deref().unwrap_or_default()) {
        (true, []) => ", being deleted".to_owned(),
        (true, finalizers) => format!("{FINALIZERS}{}", finalizers.join(", ")),
        (false, _) => String::new(),
    }
}

/// When to start reporting what an uninstall waits for, and how often to look.
const HANGS: Duration = Duration::from_secs(15);

/// Reports once each deleted object that does not go away while Helm waits for it. Never resolves:
/// what holds an object may release it, and Helm has a timeout.
async fn tell_what_hangs(run: &Run, client: &Client, plan: &Plan, going: &[Place]) -> Failure {
    let mut told = BTreeSet::new();
    loop {
        tokio::time::sleep(HANGS).await;
        for (place, words) in hanging(client, going).await.unwrap_or_default() {
            if words.contains(FINALIZERS) && told.insert(place) {
                run.reporter.waiting(&plan.revision.release, words);
            }
        }
    }
}

/// Checks that what was to stay is there.
async fn check_kept(client: &Client, plan: &Plan) -> Result<(), Failure> {
    let mut places: Vec<Place> = plan.stays.iter().map(|(place, _)| place.clone()).collect();
    if !plan.claims_go {
        places.extend(plan.claims.iter().map(Claim::place));
    }
    let seen = live::look(client, &places).await?;
    let lost = |(place, seen): (&Place, &Option<live::Seen>)| match seen {
        None => Some(format!("{place} is gone")),
        Some(seen) => seen.metadata.deletion_timestamp.as_ref().map(|_| format!("{place} is being deleted")),
    };
    let lost: Vec<String> = places.iter().zip(&seen).filter_map(lost).collect();
    if lost.is_empty() {
        return Ok(());
    }
    let message =
        format!("release {} is uninstalled, but not everything that was to be kept was", plan.revision.release);
    let failure = Failure::new(Code::Conflict, message).of_release(&plan.revision.release);
    Err(lost.into_iter().fold(failure, Failure::evidence))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_layer_stands_in_the_way_where_it_needs_one_that_goes() {
        let layer = |name: &str| {
            let (number, stage) = name.split_once('-').unwrap();
            Layer { number: number.parse().unwrap(), stage: stage.to_owned(), path: format!("{name}.yaml").into() }
        };
        let all = ["10-a", "20-b", "30-c", "40-d"].map(layer);
        for (text, going, expected) in [
            ("20-b: {layers: [10-a]}", &["10-a"][..], &[("20-b", "10-a")][..]),
            ("20-b: {layers: [10-a]}", &["10-a", "20-b"], &[]),
            ("20-b: {layers: [10-a]}", &["20-b"], &[]),
            ("20-b: {layers: [10-a]}, 30-c: {layers: [20-b]}", &["10-a", "20-b"], &[("30-c", "10-a")]),
            ("10-a: {creates: [x]}, 30-c: {namespaces: [x]}", &["10-a"], &[("30-c", "10-a")]),
            ("20-b: {after: [10-a]}", &["10-a"], &[]),
            ("20-b: {layers: [30-c]}, 30-c: {layers: [20-b]}", &["30-c"], &[("20-b", "30-c")]),
            ("20-b: {layers: [10-a]}", &[], &[]),
        ] {
            let text = format!("criticalPath: []\nlayers: {{{text}}}");
            let needs = LayerNeeds::parse("layers.yaml".into(), &text).unwrap();
            let going: Vec<String> = going.iter().map(|name| (*name).to_owned()).collect();
            let found: Vec<(String, String)> =
                needing(&all, &going, &needs).into_iter().map(|(layer, need)| (layer.name(), need)).collect();
            let found: Vec<(&str, &str)> = found.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            assert_eq!(found, expected, "{text} {going:?}");
        }
    }

    #[test]
    fn a_claim_is_a_sets_by_its_name_and_its_labels() {
        let set = json!({"metadata": {"name": "db"}, "spec": {"selector": {"matchLabels": {"app": "db"}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}}, {"metadata": {"name": "wal"}}]}});
        let claim = |name: &str, app: &str| -> ObjectMeta {
            serde_json::from_value(json!({"name": name, "labels": {"app": app, "more": "x"}})).unwrap()
        };
        for (name, app, expected) in [
            ("data-db-0", "db", true),
            ("wal-db-12", "db", true),
            ("data-db-0", "other", false),
            ("data-db-", "db", false),
            ("data-db-0x", "db", false),
            ("data-db", "db", false),
            ("data-db-two-0", "db", false),
            ("logs-db-0", "db", false),
        ] {
            assert_eq!(is_of_set(&set, &claim(name, app)), expected, "{name} {app}");
        }
        let without = json!({"metadata": {"name": "db"}, "spec": {}});
        assert!(!is_of_set(&without, &claim("data-db-0", "db")));
    }
}
