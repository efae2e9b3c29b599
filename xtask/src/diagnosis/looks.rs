//! Looks at the cluster that a verdict needs beyond the watches: whose a pod is, whether what was
//! seen is still true, what a container said before it ended, and what is wrong if no rule matches.
//! A look that failed is never taken for an answer.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, LogParams};

use super::pods::{self, controller, exit_in_words};
use super::sources::{self, Verdict};
use super::tracker::{Owner, Sighting, Stage};
use crate::releases::by_hand;
use crate::world::release::{Release, annotated};

/// A layer's releases that are to be installed, by namespace and name.
#[derive(Clone, Debug, Default)]
pub struct Releases(BTreeSet<(String, String)>);

impl Releases {
    pub fn of<'a>(releases: impl IntoIterator<Item = &'a Release>) -> Self {
        Self(releases.into_iter().map(|release| (release.namespace.clone(), release.name.clone())).collect())
    }

    pub fn namespaces(&self) -> BTreeSet<String> {
        self.0.iter().map(|(namespace, _)| namespace.clone()).collect()
    }

    fn named(&self, name: &str) -> bool {
        self.0.iter().any(|(_, release)| release == name)
    }

    /// The owner by Helm's annotations on an object, if it has any.
    fn by_annotation(&self, metadata: &ObjectMeta) -> Option<Owner> {
        let ours = self.0.contains(&annotated(metadata)?);
        Some(if ours { Owner::Ours } else { Owner::Others })
    }

    fn by_label(&self, metadata: &ObjectMeta) -> Option<Owner> {
        let name = metadata.labels.as_ref()?.get("app.kubernetes.io/instance")?;
        Some(if self.named(name) { Owner::Ours } else { Owner::Others })
    }
}

/// What a Helm hook, which has no release name, says about its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hooks {
    /// While Helm is running: that it belongs to this run.
    OfThisRun,
    NotSure,
}

/// How long one look may take during a run.
const WITHIN: Duration = Duration::from_secs(3);
/// Pod, ReplicaSet, Deployment, and the objects of an operator above them.
pub(super) const GENERATIONS: usize = 6;

pub(super) async fn within<T>(look: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match tokio::time::timeout(WITHIN, look).await {
        Ok(found) => found.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", WITHIN.as_secs())),
    }
}

/// Determines the owners of objects, and remembers them.
pub struct Owners<'a> {
    client: &'a Client,
    releases: Releases,
    known: RefCell<BTreeMap<String, Owner>>,
    /// The release by the object's uid, if it is one of these.
    release_of: RefCell<BTreeMap<String, String>>,
}

impl<'a> Owners<'a> {
    pub fn new(client: &'a Client, releases: Releases) -> Self {
        Self { client, releases, known: RefCell::default(), release_of: RefCell::default() }
    }

    /// Whose a pod is: by its label, if that names one of these releases, else by its owners. A
    /// chart may label its pods differently, and an operator's pods carry the operator's labels. A
    /// Job's pod takes more than a label: the Job may be a CronJob's.
    pub async fn of_pod(&self, pod: &Pod) -> Owner {
        if !is_of(&pod.metadata, "Job") && self.releases.by_label(&pod.metadata) == Some(Owner::Ours) {
            self.remember(&pod.metadata, &pod.metadata);
            return Owner::Ours;
        }
        self.of_metadata(&pod.metadata).await
    }

    /// Whether a pod is ours, only by Helm's annotations on its owner: deleting something takes
    /// more than a label.
    pub async fn is_surely_ours(&self, pod: &Pod) -> bool {
        self.by_chain(&pod.metadata, Hooks::NotSure).await.ok().flatten() == Some(Owner::Ours)
    }

    /// The release that an object was found to belong to, if it is one of these.
    pub fn release_of(&self, uid: &str) -> Option<String> {
        self.release_of.borrow().get(uid).cloned()
    }

    /// Records that `object` belongs to the release that `named` names.
    fn remember(&self, object: &ObjectMeta, named: &ObjectMeta) {
        let annotation = named.annotations.as_ref().and_then(|all| all.get("meta.helm.sh/release-name"));
        let label = || named.labels.as_ref().and_then(|all| all.get("app.kubernetes.io/instance"));
        let name = annotation.or_else(label).filter(|name| self.releases.named(name));
        if let (Some(uid), Some(name)) = (&object.uid, name) {
            self.release_of.borrow_mut().insert(uid.clone(), name.clone());
        }
    }

    /// Whose the object is that an event is about.
    pub async fn of_event(&self, event: &Event) -> Owner {
        let about = &event.involved_object;
        if let Some(known) = about.uid.as_ref().and_then(|uid| self.known.borrow().get(uid).copied()) {
            return known;
        }
        let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
        let (Some(kind), Some(name)) = (&about.kind, &about.name) else { return Owner::Unclear };
        let version = about.api_version.as_deref().unwrap_or("v1");
        match self.metadata(version, kind, namespace, name).await {
            Ok(Some(metadata)) => self.of_metadata(&metadata).await,
            Ok(None) | Err(_) => Owner::Unclear,
        }
    }

    pub async fn of_metadata(&self, metadata: &ObjectMeta) -> Owner {
        let uid = metadata.uid.clone().unwrap_or_default();
        if let Some(known) = self.known.borrow().get(&uid) {
            return *known;
        }
        let by_chain = self.by_chain(metadata, Hooks::OfThisRun).await;
        let owner = match &by_chain {
            Ok(Some(owner)) => *owner,
            Ok(None) | Err(_) => {
                let maybe_by_clock = is_of(metadata, "Job") || is_of(metadata, "CronJob");
                let owner = self.releases.by_label(metadata);
                owner.filter(|owner| *owner == Owner::Others || !maybe_by_clock).unwrap_or(Owner::Unclear)
            }
        };
        if by_chain.is_ok() {
            self.known.borrow_mut().insert(uid, owner);
        }
        owner
    }

    /// Follows an object's owners until Helm's annotation says whose it is. Unclear is what one of
    /// our CronJobs starts, by the clock or by hand: Helm does not wait for it.
    async fn by_chain(&self, metadata: &ObjectMeta, hooks: Hooks) -> Result<Option<Owner>, String> {
        let mut current = metadata.clone();
        let namespace = metadata.namespace.clone().unwrap_or_default();
        let mut by_clock = false;
        for _ in 0..GENERATIONS {
            by_clock |= is_of(&current, "CronJob");
            if let Some(owner) = self.releases.by_annotation(&current) {
                if by_clock && owner == Owner::Ours {
                    return Ok(Some(Owner::Unclear));
                }
                self.remember(metadata, &current);
                return Ok(Some(owner));
            }
            // Hooks have no release name. One that is running now belongs to the Helm that is
            // running now, unless its labels name another release.
            let is_hook = current.annotations.as_ref().is_some_and(|all| all.contains_key("helm.sh/hook"));
            if is_hook && hooks == Hooks::NotSure {
                return Ok(None);
            }
            if is_hook {
                self.remember(metadata, &current);
                return Ok(Some(self.releases.by_label(&current).unwrap_or(Owner::Ours)));
            }
            let Some(above) = controller(&current) else { return Ok(None) };
            let found = self.metadata(&above.api_version, &above.kind, &namespace, &above.name).await?;
            let Some(found) = found.filter(|found| found.uid.as_deref() == Some(&above.uid)) else { return Ok(None) };
            current = found;
        }
        Ok(None)
    }

    async fn metadata(
        &self,
        version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ObjectMeta>, String> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &resource);
        Ok(within(api.get_metadata_opt(name)).await?.map(|found| found.metadata))
    }
}

/// Whether something of this kind owns it. `kubectl create job --from` names the CronJob as an
/// owner that is no controller.
pub(super) fn is_of(metadata: &ObjectMeta, kind: &str) -> bool {
    metadata.owner_references.iter().flatten().any(|owner| owner.kind == kind)
}

/// The result of a last look at a sighting that would end the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Stands,
    Healed,
    /// It is unknown now: the run goes on, and it is checked again.
    Unsure,
}

/// Whether the cluster's current state confirms a sighting.
pub async fn confirm(client: &Client, sighting: &Sighting) -> Standing {
    let (kind, name) = sighting.object.split_once('/').unwrap_or(("", ""));
    let namespace = &sighting.namespace;
    let lacks = match kind {
        "pod" => return confirm_pod(client, sighting, name).await,
        "replicaset" => replica_set_lacks(client, namespace, name).await,
        "statefulset" => stateful_set_lacks(client, namespace, name, Count::Made).await,
        "daemonset" => daemon_set_lacks(client, namespace, name, Count::Made).await,
        "job" => job_failed(client, namespace, name).await,
        "persistentvolumeclaim" => claim_pends(client, namespace, name).await,
        _ => Err("its state is not known".to_owned()),
    };
    match lacks {
        Ok(Some(true)) => Standing::Stands,
        Ok(Some(false) | None) => Standing::Healed,
        Err(_) => Standing::Unsure,
    }
}

async fn confirm_pod(client: &Client, sighting: &Sighting, name: &str) -> Standing {
    let pod = within(Api::<Pod>::namespaced(client.clone(), &sighting.namespace).get_opt(name)).await;
    let pod = match pod {
        Ok(Some(pod)) if pod.metadata.uid.as_deref() == Some(&sighting.uid) => pod,
        Ok(_) => return Standing::Healed,
        Err(_) => return Standing::Unsure,
    };
    if pod.metadata.deletion_timestamp.is_some() || crate::world::kubernetes::pod_ready(&pod) {
        return Standing::Healed;
    }
    match pods::phase(&pod) {
        Some("Succeeded") => return Standing::Healed,
        // Its owner creates another one: what counts is whether that comes up.
        Some("Failed") => return maker_lacks(client, &pod).await,
        _ => {}
    }
    if sighting.inherited {
        match is_current(client, &pod).await {
            Ok(true) => {}
            Ok(false) => return Standing::Healed,
            Err(_) => return Standing::Unsure,
        }
    }
    let facts = pods::facts(&pod);
    let waits = |reasons: &[&str]| {
        pods::statuses(&pod).any(|status| {
            let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
            waiting.is_some_and(|waiting| reasons.contains(&waiting.reason.as_deref().unwrap_or_default()))
        })
    };
    let no_status = pods::statuses(&pod).next().is_none();
    let stands = match sighting.stage {
        // It crashed before and is not running now; if it is running, it may be coming up.
        Stage::Crash => {
            let down = pods::statuses(&pod).any(|status| {
                let state = status.state.as_ref();
                let waits = state.and_then(|state| state.waiting.as_ref()).is_some_and(|waiting| {
                    matches!(
                        waiting.reason.as_deref(),
                        Some("CrashLoopBackOff" | "RunContainerError" | "PostStartHookError")
                    )
                });
                let ended = state.and_then(|state| state.terminated.as_ref()).is_some_and(|ended| ended.exit_code != 0);
                (waits || ended) && (status.restart_count > 0 || sighting.ends == super::rules::Ends::AtOnce)
            });
            return if down { Standing::Stands } else { Standing::Unsure };
        }
        // The image is still missing, and the kubelet itself says so.
        Stage::Pull => waits(&[
            "ErrImagePull",
            "ImagePullBackOff",
            "InvalidImageName",
            "ErrImageNeverPull",
            "ImageInspectError",
            "RegistryUnavailable",
            "SignatureValidationFailed",
        ]),
        Stage::Setup => no_status || waits(&["ContainerCreating", "PodInitializing"]),
        Stage::Schedule => pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none()),
        Stage::Start | Stage::Other => facts.iter().any(|fact| {
            sources::state(&fact.reason, &fact.message).is_some_and(|now| now.rule.code == sighting.rule.code)
        }),
    };
    if stands { Standing::Stands } else { Standing::Healed }
}

async fn maker_lacks(client: &Client, pod: &Pod) -> Standing {
    let namespace = pods::namespace(pod);
    let Some(owner) = controller(&pod.metadata) else { return Standing::Stands };
    let lacks = match owner.kind.as_str() {
        "ReplicaSet" => not_replaced(client, &namespace, owner).await,
        "StatefulSet" => stateful_set_lacks(client, &namespace, &owner.name, Count::Ready).await,
        "DaemonSet" => daemon_set_lacks(client, &namespace, &owner.name, Count::Ready).await,
        "Job" => job_failed(client, &namespace, &owner.name).await,
        other => Err(format!("{other} is not known")),
    };
    match lacks {
        Ok(Some(true)) => Standing::Stands,
        Ok(Some(false) | None) => Standing::Healed,
        Err(_) => Standing::Unsure,
    }
}

/// Which of a workload's pods are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Count {
    /// Those that exist: checks whether its controller cannot create them.
    Made,
    Ready,
}

/// Whether a ReplicaSet has no other pod in place of one that failed, or that one failed too: it
/// leaves those that failed as they are.
async fn not_replaced(client: &Client, namespace: &str, owner: &OwnerReference) -> Result<Option<bool>, String> {
    let lacks = replica_set_lacks(client, namespace, &owner.name).await?;
    if lacks != Some(false) {
        return Ok(lacks);
    }
    let pods = within(Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default())).await?.items;
    let its = pods.iter().filter(|pod| controller(&pod.metadata).is_some_and(|its| its.uid == owner.uid));
    // Of several in one second the one that runs counts.
    let failed = |pod: &Pod| pods::phase(pod) == Some("Failed");
    let newest = its.max_by_key(|pod| (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), !failed(pod)));
    Ok(newest.map(failed))
}

/// Whether it could not make as many pods as it wants, without those that failed; `None` if it is
/// gone.
async fn replica_set_lacks(client: &Client, namespace: &str, name: &str) -> Result<Option<bool>, String> {
    let found = within(Api::<ReplicaSet>::namespaced(client.clone(), namespace).get_opt(name)).await?;
    Ok(found.map(|set| {
        let wanted = set.spec.and_then(|spec| spec.replicas).unwrap_or(1);
        set.status.unwrap_or_default().replicas < wanted
    }))
}

/// Whether it has fewer pods than it wants; `None` if it is gone.
async fn stateful_set_lacks(
    client: &Client,
    namespace: &str,
    name: &str,
    count: Count,
) -> Result<Option<bool>, String> {
    let found = within(Api::<StatefulSet>::namespaced(client.clone(), namespace).get_opt(name)).await?;
    Ok(found.map(|set| {
        let wanted = set.spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let status = set.status.unwrap_or_default();
        let has = if count == Count::Made { status.replicas } else { status.ready_replicas.unwrap_or(0) };
        has < wanted
    }))
}

async fn daemon_set_lacks(client: &Client, namespace: &str, name: &str, count: Count) -> Result<Option<bool>, String> {
    let found = within(Api::<DaemonSet>::namespaced(client.clone(), namespace).get_opt(name)).await?;
    Ok(found.map(|set| {
        let status = set.status.unwrap_or_default();
        let has = if count == Count::Made { status.current_number_scheduled } else { status.number_ready };
        has < status.desired_number_scheduled
    }))
}

/// Whether a Job has given up, or cannot even create its pods.
async fn job_failed(client: &Client, namespace: &str, name: &str) -> Result<Option<bool>, String> {
    let found = within(Api::<Job>::namespaced(client.clone(), namespace).get_opt(name)).await?;
    Ok(found.map(|job| {
        let status = job.status.unwrap_or_default();
        let failed = status.conditions.iter().flatten().any(|one| one.type_ == "Failed" && one.status == "True");
        let no_pod = [status.active, status.succeeded, status.failed].iter().all(|count| count.unwrap_or(0) == 0);
        failed || (no_pod && status.completion_time.is_none())
    }))
}

async fn claim_pends(client: &Client, namespace: &str, name: &str) -> Result<Option<bool>, String> {
    let found = within(Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace).get_opt(name)).await?;
    Ok(found.map(|claim| claim.status.and_then(|status| status.phase).as_deref() == Some("Pending")))
}

/// Whether a pod belongs to its workload's newest revision, as Helm made it: one of a revision that
/// is being replaced, or whose image somebody else set, says nothing about this run.
pub async fn is_current(client: &Client, pod: &Pod) -> Result<bool, String> {
    let namespace = pods::namespace(pod);
    let revision = |metadata: &ObjectMeta| {
        metadata.annotations.as_ref().and_then(|all| all.get("deployment.kubernetes.io/revision").cloned())
    };
    let Some(owner) = controller(&pod.metadata) else { return Ok(true) };
    match owner.kind.as_str() {
        "ReplicaSet" => {
            let sets = Api::<ReplicaSet>::namespaced(client.clone(), &namespace);
            let Some(set) = within(sets.get_opt(&owner.name)).await? else { return Ok(false) };
            let Some(above) = controller(&set.metadata) else { return Ok(true) };
            let deployments = Api::<Deployment>::namespaced(client.clone(), &namespace);
            let Some(deployment) = within(deployments.get_opt(&above.name)).await? else { return Ok(false) };
            Ok(revision(&set.metadata) == revision(&deployment.metadata)
                && !by_hand::image_is_others(&deployment.metadata))
        }
        "StatefulSet" => {
            let sets = Api::<StatefulSet>::namespaced(client.clone(), &namespace);
            let Some(set) = within(sets.get_opt(&owner.name)).await? else { return Ok(false) };
            let others = by_hand::image_is_others(&set.metadata);
            let wanted = set.status.and_then(|status| status.update_revision);
            let has = pod.metadata.labels.as_ref().and_then(|all| all.get("controller-revision-hash").cloned());
            Ok(has == wanted && !others)
        }
        _ => Ok(true),
    }
}

/// How a container ended, and its last words.
#[derive(Clone, Debug)]
pub struct Crash {
    pub object: String,
    pub namespace: String,
    pub container: String,
    pub how: String,
    /// The log line that a rule matches, and the last one, or the runtime's message; if there are
    /// none, why.
    pub words: String,
    /// What its log means, if a rule matches a line of it.
    pub verdict: Option<Verdict>,
}

impl Crash {
    pub fn in_words(&self) -> String {
        format!("{} in {}: container {}: {}: {}", self.object, self.namespace, self.container, self.how, self.words)
    }
}

/// How many lines of a container's log are searched for its last words.
const WORDS: i64 = 40;
/// The maximum length of evidence from one place, in characters.
const WORD_LENGTH: usize = 1000;

/// The containers of a pod that failed, each with its last words.
pub async fn crashes(client: &Client, pod: &Pod) -> Vec<Crash> {
    let api = Api::<Pod>::namespaced(client.clone(), &pods::namespace(pod));
    let name = pod.metadata.name.clone().unwrap_or_default();
    let mut found = Vec::new();
    for container in pods::statuses(pod) {
        let Some(ended) = pods::ended(container).filter(|ended| ended.exit_code != 0) else { continue };
        let now = container.state.as_ref().is_some_and(|state| state.terminated.is_some());
        let parameters = LogParams {
            container: Some(container.name.clone()),
            previous: !now,
            tail_lines: Some(WORDS),
            limit_bytes: Some(256 * 1024),
            ..Default::default()
        };
        let log = within(api.logs(&name, &parameters)).await;
        let runtime = ended.message.as_deref().map(str::trim).filter(|message| !message.is_empty());
        let lines = log.as_deref().unwrap_or_default();
        // The last matching line is closest to the end.
        let known = lines.lines().rev().find_map(|line| Some((sources::log(line)?, line)));
        let (verdict, words) = match (known, runtime, last_line(lines)) {
            (Some((verdict, line)), _, Some(last)) if line.trim() != last => {
                (Some(verdict), format!("{}; then {}", cut(line.trim()), cut(last)))
            }
            (Some((verdict, line)), ..) => (Some(verdict), line.trim().to_owned()),
            // A container that never started has no log.
            (None, Some(message), _) => (None, message.to_owned()),
            (None, None, Some(line)) => (None, line.to_owned()),
            (None, None, None) => (
                None,
                match log {
                    Ok(_) => "it wrote nothing".to_owned(),
                    Err(error) => format!("its log cannot be read: {error}"),
                },
            ),
        };
        found.push(Crash {
            object: format!("pod/{name}"),
            namespace: pods::namespace(pod),
            container: container.name.clone(),
            how: exit_in_words(ended),
            words: cut(&words),
            verdict,
        });
    }
    // The container whose log names the cause comes last, and so takes precedence.
    found.sort_by_key(|crash| crash.verdict.is_some());
    found
}

fn last_line(text: &str) -> Option<&str> {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty())
}

pub fn cut(text: &str) -> String {
    let end = text.char_indices().nth(WORD_LENGTH).map(|(at, _)| at);
    end.map_or_else(|| text.to_owned(), |end| format!("{}…", &text[..end]))
}

/// How many lines of each kind a verdict without a rule has.
const LINES: usize = 5;

/// What is wrong if no rule matches: the newest warnings about the layer's objects, and what is not
/// ready; failed looks are reported as such.
pub async fn what_is_wrong(owners: &Owners<'_>, namespaces: &BTreeSet<String>, since: jiff::Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    for namespace in namespaces {
        lines.extend(not_ready(owners, namespace).await);
        lines.extend(newest_warnings(owners, namespace, since).await);
    }
    lines
}

async fn newest_warnings(owners: &Owners<'_>, namespace: &str, since: jiff::Timestamp) -> Vec<String> {
    let api = Api::<Event>::namespaced(owners.client.clone(), namespace);
    let listed = match within(api.list(&ListParams::default().fields("type=Warning"))).await {
        Ok(listed) => listed,
        Err(error) => return vec![format!("the events in {namespace} cannot be read: {error}")],
    };
    let time = |event: &Event| -> Option<jiff::Timestamp> {
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
        let at = series.map(|time| time.0).or(last);
        at.or_else(|| event.event_time.as_ref().map(|time| time.0))
    };
    let mut events: Vec<(jiff::Timestamp, Event)> = listed
        .items
        .into_iter()
        .filter_map(|event| Some((time(&event)?, event)))
        .filter(|(at, _)| *at >= since)
        .collect();
    events.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let mut found = Vec::new();
    for (at, event) in events {
        if found.len() == LINES {
            break;
        }
        if owners.of_event(&event).await == Owner::Others {
            continue;
        }
        let about = &event.involved_object;
        found.push(cut(&format!(
            "{at} {} {} in {namespace}: {}: {}",
            about.kind.as_deref().unwrap_or("object"),
            about.name.as_deref().unwrap_or_default(),
            event.reason.as_deref().unwrap_or_default(),
            event.message.as_deref().unwrap_or_default().trim(),
        )));
    }
    found
}

/// The layer's workloads and pods in a namespace that are not ready, with their status.
async fn not_ready(owners: &Owners<'_>, namespace: &str) -> Vec<String> {
    match unready(owners, namespace).await {
        Ok(lines) => lines,
        Err(error) => vec![format!("the workloads in {namespace} cannot be read: {error}")],
    }
}

/// One line for each object of the layer's releases that is not ready.
///
/// # Errors
/// If one of the looks failed.
pub async fn unready(owners: &Owners<'_>, namespace: &str) -> Result<Vec<String>, String> {
    let client = owners.client;
    let all = ListParams::default();
    let deployments = Api::<Deployment>::namespaced(client.clone(), namespace);
    let stateful = Api::<StatefulSet>::namespaced(client.clone(), namespace);
    let daemons = Api::<DaemonSet>::namespaced(client.clone(), namespace);
    let jobs = Api::<Job>::namespaced(client.clone(), namespace);
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    let (deployments, stateful, daemons, jobs, claims) = tokio::join!(
        within(deployments.list(&all)),
        within(stateful.list(&all)),
        within(daemons.list(&all)),
        within(jobs.list(&all)),
        within(claims.list(&all)),
    );
    let mut found: Vec<(ObjectMeta, String)> = Vec::new();
    for one in deployments?.items {
        let wanted = one.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let status = one.status.unwrap_or_default();
        let current = status.observed_generation >= one.metadata.generation;
        let (ready, updated) = (status.ready_replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0));
        if !current || ready < wanted || updated < wanted {
            let says =
                conditions(status.conditions.iter().flatten().map(|one| {
                    (one.type_.as_str(), one.status.as_str(), one.reason.as_deref(), one.message.as_deref())
                }));
            found.push((one.metadata, format!("Deployment NAME: {ready} of {wanted} ready{says}")));
        }
    }
    for one in stateful?.items {
        let wanted = one.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let status = one.status.unwrap_or_default();
        let current = status.observed_generation >= one.metadata.generation;
        let ready = status.ready_replicas.unwrap_or(0);
        let replaced = status.update_revision.is_none() || status.updated_replicas.unwrap_or(0) >= wanted;
        if !current || ready < wanted || !replaced {
            found.push((one.metadata, format!("StatefulSet NAME: {ready} of {wanted} ready")));
        }
    }
    for one in daemons?.items {
        let status = one.status.unwrap_or_default();
        if status.number_ready < status.desired_number_scheduled {
            let line = format!("DaemonSet NAME: {} of {} ready", status.number_ready, status.desired_number_scheduled);
            found.push((one.metadata, line));
        }
    }
    for one in jobs?.items.into_iter().filter(|job| !is_of(&job.metadata, "CronJob")) {
        let status = one.status.unwrap_or_default();
        if status.completion_time.is_none() && one.spec.as_ref().and_then(|spec| spec.suspend) != Some(true) {
            let says = conditions(
                status
                    .conditions
                    .iter()
                    .flatten()
                    .map(|one| (one.type_.as_str(), "False", one.reason.as_deref(), one.message.as_deref())),
            );
            let line = format!("Job NAME: not complete, {} pods failed{says}", status.failed.unwrap_or(0));
            found.push((one.metadata, line));
        }
    }
    for one in claims?.items {
        let phase = one.status.and_then(|status| status.phase).unwrap_or_default();
        if phase != "Bound" {
            found.push((one.metadata, format!("PersistentVolumeClaim NAME: {phase}")));
        }
    }
    let mut lines = Vec::new();
    for (metadata, line) in found {
        if owners.of_metadata(&metadata).await != Owner::Others {
            lines.push(cut(&line.replace("NAME", &format!("{namespace}/{}", metadata.name.unwrap_or_default()))));
        }
    }
    Ok(lines)
}

/// The conditions that are not fulfilled, as `; Available: MinimumReplicasUnavailable: …`.
fn conditions<'a>(all: impl Iterator<Item = (&'a str, &'a str, Option<&'a str>, Option<&'a str>)>) -> String {
    all.filter(|(kind, status, ..)| *status != "True" || *kind == "ReplicaFailure")
        .map(|(kind, _, reason, message)| {
            format!("; {kind}: {}: {}", reason.unwrap_or_default(), message.unwrap_or_default())
        })
        .collect()
}
