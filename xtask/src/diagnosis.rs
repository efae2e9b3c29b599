//! Why a layer does not come up: pods and events of its namespaces, watched while Helm works, and
//! the output of Helm and Helmfile, classified by source into a closed list of blockers
//! ([`rules::RULES`], [`sources`]).
//!
//! A timeout is a symptom and never a cause. Ending a deploy that would have come up is the worst
//! mistake: a run is ended early only by a state of the cluster that a last look confirms
//! ([`looks::confirm`]), never by the text of an event or a log alone.

pub(crate) mod backends;
pub mod belongings;
pub mod helm_errors;
mod left_behind;
mod looks;
pub(crate) mod placement;
pub(crate) mod pods;
pub mod retry;
pub mod rules;
pub mod sources;
#[cfg(test)]
mod tests;
pub mod tracker;
pub(crate) mod watches;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use futures_util::FutureExt;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Preconditions};

use crate::diagnosis::retry::Spent;
use crate::repo::needs::Budgets;
use crate::run::Run;
use crate::run::context::{Context, Site};
use crate::world::release::Release;
use crate::world::{helm_storage, kubernetes};
use helm_errors::{Conflict, Said, Statement};
use left_behind::SeenTwice;
use looks::{Crash, Owners, Releases, Standing};
use placement::Hindrance;
use rules::Rule;
use run_record::{Blocked, Code, Failure, Prospect};
use sources::Verdict;
use tracker::{Owner, Sighting, Tracker};
use watches::Seen;

/// Watches one layer run. Shared between the watch itself, which runs in parallel with Helmfile,
/// and the explanation after it.
pub struct Diagnosis<'a> {
    context: &'a Context,
    client: &'a Client,
    layer: String,
    namespaces: BTreeSet<String>,
    wanted: Vec<Release>,
    owners: Owners<'a>,
    tracker: RefCell<Tracker>,
    /// The last words of crashed containers, by pod and container, with the restart count.
    crashes: RefCell<BTreeMap<(String, String), (i32, Crash)>>,
    /// Since the last heartbeat; no other requests are made in the meantime.
    api_is_silent: Cell<bool>,
    /// The version where each namespace's watches start: what came before is not this run's.
    start: Vec<Start>,
    /// The job's log, and its length before this run.
    log: (Utf8PathBuf, u64),
    began: jiff::Timestamp,
    /// How long Helm may keep waiting although everything is ready.
    stuck: Duration,
}

struct Start {
    namespace: String,
    /// `None` if pods may not be read; empty if they have to be listed first.
    pods: Option<String>,
    events: Option<String>,
}

/// Who owns which field, and both solutions.
pub(crate) fn of_conflicts(mut failure: Failure, conflicts: &[Conflict]) -> Failure {
    for conflict in conflicts {
        let object = conflict.object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
        let by = conflict.subresource.as_ref().map(|sub| format!(" (by its subresource {sub})")).unwrap_or_default();
        failure = failure.evidence(format!("{object}{:?} set {}{by}", conflict.manager, conflict.fields.join(", ")));
    }
    if conflicts.iter().all(Conflict::is_of_autoscaler) {
        return failure
            .evidence("an autoscaler sets the number of replicas: it is left as it is")
            .remedy("take `replicas` out of the chart's template where an autoscaler is enabled");
    }
    if conflicts.iter().any(Conflict::is_of_aggregation) {
        return failure
            .evidence("the controller manager fills an aggregated ClusterRole, and would do so again after any sync")
            .remedy("take `rules` out of the chart's ClusterRole that has an `aggregationRule`");
    }
    failure.evidence("to keep the other value, give the release the same one, or take the field out of the chart")
}

impl<'a> Diagnosis<'a> {
    /// Records what exists before the run begins, and the current length of `log`. Never fails:
    /// Helm also reports a cluster that does not answer, and what may not be watched is reported
    /// here.
    pub async fn begin(
        context: &'a Context,
        client: &'a Client,
        layer: &str,
        wanted: &[Release],
        budgets: &Budgets,
        log: &Utf8Path,
    ) -> Self {
        // If a release names no namespace, Helm uses the context's.
        let wanted: Vec<Release> = wanted
            .iter()
            .cloned()
            .map(|mut release| {
                if release.namespace.is_empty() {
                    client.default_namespace().clone_into(&mut release.namespace);
                }
                release
            })
            .collect();
        let releases = Releases::of(wanted.iter().filter(|release| release.installed));
        let namespaces = releases.namespaces();
        let mut tracker = Tracker::new(budgets.patience.clone());
        let mut start = Vec::new();
        for namespace in &namespaces {
            let (pods, events) = futures_util::future::join(
                begin_pods(&context.run, &context.site, client, namespace, &mut tracker),
                begin_events(&context.run, &context.site, client, namespace),
            )
            .await;
            start.push(Start { namespace: namespace.clone(), pods, events });
        }
        if start.is_empty() {
            context.run.reporter.note(layer, "nothing to install: there is nothing to watch");
        }
        let stuck = rules::of(Code::HelmStuck).map_or(Duration::MAX, |rule| match rule.lasts {
            rules::Lasts::For(seconds) => {
                Duration::from_secs(budgets.patience.get(&rule.code).copied().unwrap_or(seconds))
            }
            rules::Lasts::Always => Duration::MAX,
        });
        Self {
            context,
            client,
            layer: layer.to_owned(),
            namespaces,
            wanted,
            owners: Owners::new(client, releases),
            tracker: RefCell::new(tracker),
            crashes: RefCell::default(),
            api_is_silent: Cell::new(false),
            start,
            log: (log.to_owned(), std::fs::metadata(log).map_or(0, |file| file.len())),
            began: jiff::Timestamp::now(),
            stuck,
        }
    }

    /// Resolves when something is seen that cannot heal; otherwise never.
    pub async fn watch(&self, budgets: &Budgets, spent: &mut Spent) -> Failure {
        // On the heap: a layer's nested futures would otherwise fill the stack.
        Box::pin(self.watch_on(budgets, spent)).await
    }

    async fn watch_on(&self, budgets: &Budgets, spent: &mut Spent) -> Failure {
        let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let pods = self.start.iter().filter_map(|start| {
            let api = Api::<Pod>::namespaced(self.client.clone(), &start.namespace);
            Some(watches::pods(api, &start.namespace, start.pods.clone()?, sender.clone()).left_future())
        });
        let events = self.start.iter().filter_map(|start| {
            let api = Api::<Event>::namespaced(self.client.clone(), &start.namespace);
            Some(watches::events(api, &start.namespace, start.events.clone()?, sender.clone()).right_future())
        });
        // With nothing to watch, `join_all` is ready immediately; then the select below would
        // always choose it, and nothing else.
        let watches = futures_util::future::join_all(pods.chain(events)).then(|_| std::future::pending::<()>());
        let heartbeat = watches::heartbeat(self.client, sender.clone());
        let stuck = self.helm_is_stuck();
        let left_behind = self.replace_left_behind();
        let from_before = self.tell_of_pods_from_before();
        tokio::pin!(watches, heartbeat, stuck, left_behind, from_before);
        let mut limited: Option<tokio::time::Instant> = None;
        loop {
            let next = self.tracker.borrow().next_due();
            tokio::select! {
                () = &mut watches => {}
                () = &mut heartbeat => {}
                () = &mut left_behind => {}
                () = &mut from_before => {}
                failure = &mut stuck => return failure,
                Some(news) = seen.recv() => {
                    if self.take(news).await && limited.is_none() {
                        match self.rate_limited(budgets, spent).await {
                            Ok(at) => limited = at,
                            Err(failure) => return failure,
                        }
                    }
                }
                () = at(next.map(Into::into)) => {
                    if let Some(failure) = self.verdict().await {
                        return failure;
                    }
                }
                () = at(limited) => {
                    self.replace_backing_off().await;
                    limited = None;
                }
            }
        }
    }

    /// Processes one piece of news; returns whether it was a rate limit.
    async fn take(&self, news: Seen) -> bool {
        let found: Vec<Sighting> = match &news {
            Seen::Pod(pod) => self.take_pod(pod).await,
            Seen::Event(event) => self.take_event(event).await.into_iter().collect(),
            Seen::Gone(uid) => {
                self.tracker.borrow_mut().gone(uid);
                Vec::new()
            }
            Seen::Silent(reason) => {
                self.tell_of_the_api(reason.as_deref());
                Vec::new()
            }
            Seen::Refused(what, answer) => {
                self.context.run.reporter.warn(&self.layer, cannot_watch(what, answer));
                Vec::new()
            }
        };
        found.iter().for_each(|sighting| self.tell(sighting));
        found.iter().any(|sighting| sighting.rule.code == Code::RegistryRateLimited && sighting.owner == Owner::Ours)
    }

    fn tell(&self, sighting: &Sighting) {
        self.context.run.reporter.event(&run_record::Event::Blocked(Blocked {
            code: sighting.rule.code,
            resource: sighting.object.clone(),
            layer: Some(self.layer.clone()),
            release: self.owners.release_of(&sighting.uid),
            message: sighting.message.clone(),
            since: sighting.since,
            prospect: Some(self.tracker.borrow().prospect(sighting)),
        }));
    }

    /// Reports pods from before this run that it has not replaced, because they are of the desired
    /// revision, and that are not ready: Helm waits for them silently.
    async fn tell_of_pods_from_before(&self) {
        loop {
            tokio::time::sleep(FROM_BEFORE).await;
            if self.api_is_silent.get() {
                continue;
            }
            for namespace in &self.namespaces {
                let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
                let Ok(pods) = looks::within(api.list(&ListParams::default())).await else { continue };
                let (ready, unready): (Vec<&Pod>, Vec<&Pod>) =
                    pods.items.iter().partition(|pod| kubernetes::pod_ready(pod));
                ready.into_iter().for_each(|pod| self.tracker.borrow_mut().foretold_is_ready(pod));
                let from_before: Vec<&Pod> =
                    unready.into_iter().filter(|pod| self.tracker.borrow().is_from_before(pod)).collect();
                for pod in from_before {
                    if self.owners.of_pod(pod).await == Owner::Ours
                        && looks::is_current(self.client, pod).await == Ok(true)
                    {
                        self.foretell(pod).await;
                    }
                }
            }
        }
    }

    async fn foretell(&self, pod: &Pod) {
        let found = self.tracker.borrow_mut().foretell(pod, Owner::Ours, Instant::now());
        for sighting in &found {
            self.tell(sighting);
            let placement = self.placement_of(sighting).await;
            for line in &placement.evidence {
                self.context.run.reporter.note(&sighting.object, line);
            }
            if let Some(remedy) = placement.remedy {
                self.context.run.reporter.note(&sighting.object, format!("remedy: {remedy}"));
            }
        }
    }

    async fn take_pod(&self, pod: &Pod) -> Vec<Sighting> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if !self.tracker.borrow().counts(&uid) {
            return Vec::new();
        }
        let owner = self.owners.of_pod(pod).await;
        let mut found = self.tracker.borrow_mut().pod(pod, owner, Instant::now());
        if owner != Owner::Ours || !self.crashed_again(pod, &uid) {
            return found;
        }
        for crash in looks::crashes(self.client, pod).await {
            // The log names the blocker, which replaces the crash.
            let explained = self.tracker.borrow_mut().explain_crash(&uid, crash.verdict, &crash.in_words());
            if let Some(explained) = explained {
                found.retain(|sighting| sighting.rule.code != Code::CrashLoop);
                found.push(explained);
            }
            let restarts = restarts(pod, &crash.container);
            self.crashes.borrow_mut().insert((uid.clone(), crash.container.clone()), (restarts, crash));
        }
        found
    }

    /// Whether one of its containers has ended since its last words were read.
    fn crashed_again(&self, pod: &Pod, uid: &str) -> bool {
        let crashes = self.crashes.borrow();
        pods::statuses(pod).any(|status| {
            let known = crashes.get(&(uid.to_owned(), status.name.clone()));
            pods::ended(status).is_some_and(|ended| ended.exit_code != 0)
                && known.is_none_or(|(restarts, _)| *restarts < status.restart_count)
        })
    }

    async fn take_event(&self, event: &Event) -> Option<Sighting> {
        let uid = event.involved_object.uid.as_deref().unwrap_or_default();
        if !self.tracker.borrow().counts(uid) {
            return None;
        }
        let warning = event.type_.as_deref() == Some("Warning");
        let reason = event.reason.as_deref().unwrap_or_default();
        let text = event.message.as_deref().unwrap_or_default();
        // Finding the owner takes a request, which is only worth it for what a rule knows.
        let owner = if warning && sources::event(tracker::component(event), reason, text).is_some() {
            self.owners.of_event(event).await
        } else {
            Owner::Unclear
        };
        self.tracker.borrow_mut().event(event, owner, Instant::now())
    }

    /// Only reported: Helm and the watches go on by themselves when the API is back, and the retry
    /// table handles a Helm that gave up in the meantime.
    fn tell_of_the_api(&self, silent: Option<&str>) {
        self.api_is_silent.set(silent.is_some());
        let reporter = &self.context.run.reporter;
        let Some(reason) = silent else {
            return reporter.note(&self.context.site.kube_context, "the Kubernetes API answers again");
        };
        let Some(rule) = rules::of(Code::ApiUnreachable) else { return };
        reporter.event(&run_record::Event::Blocked(Blocked {
            code: rule.code,
            resource: self.context.site.kube_context.clone(),
            layer: Some(self.layer.clone()),
            release: None,
            message: reason.to_owned(),
            since: None,
            prospect: Some(Prospect::MayHeal),
        }));
    }

    /// When to replace pods that the registry's rate limit holds up, or that the budget is used up.
    async fn rate_limited(
        &self,
        budgets: &Budgets,
        spent: &mut Spent,
    ) -> Result<Option<tokio::time::Instant>, Failure> {
        let standing: Option<Sighting> = {
            let tracker = self.tracker.borrow();
            tracker.standing().into_iter().find(|sighting| sighting.rule.code == Code::RegistryRateLimited).cloned()
        };
        let Some(sighting) = standing else { return Ok(None) };
        let limit = crate::diagnosis::retry::limit(&sighting.message, &self.context.repo, &self.context.site).await;
        match spent.rate_limit(&budgets.rate_limit, limit.wait) {
            Some(next) => {
                self.context.run.reporter.event(&run_record::Event::Retry {
                    code: Code::RegistryRateLimited,
                    layer: Some(self.layer.clone()),
                    attempt: next.attempt,
                    budget: next.budget,
                    wait: next.wait,
                });
                Ok(Some(tokio::time::Instant::now() + next.wait))
            }
            None => {
                let tries = format!("{} tries in total, the budget of layers.yaml", budgets.rate_limit.attempts);
                let mut failure = self.failure(&sighting).evidence(tries);
                failure.evidence.extend(limit.quota.map(|quota| quota.to_string()));
                Err(failure)
            }
        }
    }

    /// The kubelet waits up to 300 s before it pulls again; a new pod pulls at once. Only pods that
    /// Helm's own annotation names as this layer's, and in which nothing runs: what runs next to a
    /// failing sidecar may hold data.
    pub async fn replace_backing_off(&self) {
        for namespace in &self.namespaces {
            let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
            let pods = match api.list(&ListParams::default()).await {
                Ok(pods) => pods,
                Err(error) => {
                    let text = format!("pods that wait for their image are left to the kubelet: {error}");
                    self.context.run.reporter.note(namespace, text);
                    continue;
                }
            };
            for pod in pods.items.iter().filter(|pod| may_be_replaced(pod)) {
                self.replace(&api, pod, "replaced: it pulls its image again at once").await;
            }
        }
    }

    /// Recreates pods that one of our StatefulSets has left behind, from the current template. If
    /// StatefulSets may not be read, Helm waits as it would without us. Never resolves.
    async fn replace_left_behind(&self) {
        let mut seen = SeenTwice::default();
        loop {
            tokio::time::sleep(LOOK_FOR_LEFT_BEHIND).await;
            if !self.api_is_silent.get() {
                self.replace_if_left_behind(&mut seen).await;
            }
        }
    }

    async fn replace_if_left_behind(&self, seen: &mut SeenTwice) {
        let mut found = Vec::new();
        for namespace in &self.namespaces {
            let sets = Api::<StatefulSet>::namespaced(self.client.clone(), namespace);
            let Ok(sets) = sets.list(&ListParams::default()).await else { continue };
            let waiting: Vec<StatefulSet> = sets.items.into_iter().filter(left_behind::waits).collect();
            if waiting.is_empty() {
                continue;
            }
            let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
            let Ok(pods) = pods.list(&ListParams::default()).await else { continue };
            let is = |pod: &Pod| waiting.iter().any(|set| left_behind::is_left_behind(set, pod));
            found.extend(pods.items.into_iter().filter(is));
        }
        for pod in seen.again(found) {
            let api = Api::namespaced(self.client.clone(), &pods::namespace(&pod));
            self.replace(&api, &pod, "deleted, to be recreated: it was stuck on an old revision of its StatefulSet")
                .await;
        }
    }

    /// Deletes a pod of one of our releases, which its controller recreates.
    async fn replace(&self, api: &Api<Pod>, pod: &Pod, why: &str) {
        let Some(name) = &pod.metadata.name else { return };
        if !self.owners.is_surely_ours(pod).await {
            return;
        }
        // Only in the state that was seen: a pod that has started something in the meantime is left
        // alone.
        let seen =
            Preconditions { uid: pod.metadata.uid.clone(), resource_version: pod.metadata.resource_version.clone() };
        let parameters = DeleteParams { preconditions: Some(seen), ..DeleteParams::default() };
        // A StatefulSet's pod gets its grace period, because its node may be unreachable.
        let parameters =
            if looks::is_of(&pod.metadata, "StatefulSet") { parameters } else { parameters.grace_period(0) };
        if api.delete(name, &parameters).await.is_ok() {
            self.context.run.reporter.note(name, why);
        }
    }

    /// The failure for what is due and confirmed by a last look.
    async fn verdict(&self) -> Option<Failure> {
        let due = self.tracker.borrow().due(Instant::now()).cloned()?;
        match looks::confirm(self.client, &due).await {
            Standing::Stands => Some(self.failure_with_placement(&due).await),
            Standing::Healed => {
                self.tracker.borrow_mut().healed(&due);
                None
            }
            Standing::Unsure => {
                self.tracker.borrow_mut().postpone(&due, Instant::now() + LOOK_AGAIN);
                None
            }
        }
    }

    /// Resolves when Helm has kept waiting for long although everything it made is ready.
    async fn helm_is_stuck(&self) -> Failure {
        let Some(rule) = rules::of(Code::HelmStuck) else { return std::future::pending().await };
        let mut since: Option<Instant> = None;
        let mut told = false;
        // Most runs are over by then, without any requests.
        tokio::time::sleep(STUCK_TOLD).await;
        loop {
            tokio::time::sleep(STUCK_EVERY).await;
            let Some(pending) = self.waits_for_nothing().await else {
                since = None;
                continue;
            };
            let stands = since.get_or_insert_with(Instant::now).elapsed();
            let about = format!("release {} in {}", pending.release, pending.namespace);
            let message = format!(
                "revision {} is {}, and no pod, workload, job or claim of the layer is not ready, for {} s",
                pending.revision,
                pending.status.as_str(),
                stands.as_secs()
            );
            if stands >= STUCK_TOLD && !std::mem::replace(&mut told, true) {
                self.context.run.reporter.event(&run_record::Event::Blocked(Blocked {
                    code: rule.code,
                    resource: about.clone(),
                    layer: Some(self.layer.clone()),
                    release: Some(pending.release.clone()),
                    message: message.clone(),
                    since: None,
                    prospect: Some(Prospect::EndsTheRunIfItLasts { seconds: self.stuck.as_secs() }),
                }));
            }
            if stands >= self.stuck {
                return self.failure_of(rule, &about, &message, &pending.namespace, "pods");
            }
        }
    }

    /// The release that Helm is still working on although everything of the layer is ready; `None`
    /// if anything is not ready, or a look failed.
    async fn waits_for_nothing(&self) -> Option<helm_storage::Revision> {
        if !self.tracker.borrow().standing().is_empty() {
            return None;
        }
        for namespace in &self.namespaces {
            if !looks::unready(&self.owners, namespace).await.ok()?.is_empty() {
                return None;
            }
            let (api, all) = (Api::<Pod>::namespaced(self.client.clone(), namespace), ListParams::default());
            let pods = tokio::time::timeout(LOOK_AGAIN, api.list(&all)).await.ok()?.ok()?;
            // A Job's pods count as the Job, which was looked at.
            let waits = |pod: &Pod| {
                pods::phase(pod) != Some("Succeeded")
                    && !kubernetes::pod_ready(pod)
                    && !looks::is_of(&pod.metadata, "Job")
            };
            for pod in pods.items.iter().filter(|pod| waits(pod)) {
                if self.owners.of_pod(pod).await != Owner::Others {
                    return None;
                }
            }
        }
        let newest = helm_storage::newest(self.client, Some(&self.wanted)).await.ok()?;
        newest.into_iter().map(|(revision, _)| revision).find(|revision| revision.status.is_pending())
    }

    fn failure(&self, sighting: &Sighting) -> Failure {
        let object = format!("{} in {}", sighting.object, sighting.namespace);
        let mut failure =
            self.failure_of(sighting.rule, &object, &sighting.message, &sighting.namespace, &sighting.object);
        let crashes = self.crashes.borrow();
        let of_it = crashes.iter().filter(|((uid, _), _)| *uid == sighting.uid).map(|(_, (_, crash))| crash.in_words());
        for words in of_it {
            if !failure.evidence.contains(&words) {
                failure = failure.evidence(words);
            }
        }
        if let Some(since) = sighting.since {
            failure = failure.evidence(format!("since {since}"));
        }
        match self.owners.release_of(&sighting.uid) {
            Some(release) => failure.of_release(&release),
            None => failure,
        }
    }

    /// Like [`Self::failure`], with what nodes and the pod's volumes say if no node takes the pod.
    async fn failure_with_placement(&self, sighting: &Sighting) -> Failure {
        let found = self.placement_of(sighting).await;
        let failure = found.evidence.into_iter().fold(self.failure(sighting), Failure::evidence);
        match found.remedy {
            Some(remedy) => failure.remedy(remedy),
            None => failure,
        }
    }

    /// Empty for a pod that already has its node.
    async fn placement_of(&self, sighting: &Sighting) -> Hindrance {
        let placed = matches!(sighting.rule.code, Code::Unschedulable | Code::VolumePending | Code::NodeRuntime);
        match sighting.object.strip_prefix("pod/").filter(|_| placed) {
            Some(pod) => placement::of(self.client, &self.context.site.kube_context, &sighting.namespace, pod).await,
            None => Hindrance::default(),
        }
    }

    fn failure_of(&self, rule: &'static Rule, about: &str, message: &str, namespace: &str, object: &str) -> Failure {
        let form = rule.code.remedy().unwrap_or_default();
        let remedy = form
            .replace("{context}", &self.context.site.kube_context)
            .replace("{namespace}", namespace)
            .replace("{object}", object)
            .replace("{layer}", &self.layer)
            .replace("{env}", &self.context.repo.env_name);
        Failure::new(rule.code, format!("{about}: {}", rule.code.sentence())).evidence(message.trim()).remedy(remedy)
    }

    /// What blocked a Helm or Helmfile run that ended by itself with an error.
    ///
    /// In this order: the API server's own refusal; what is in the cluster and is final or has
    /// lasted its time; what Helm or Helmfile say about themselves; whatever else is in the
    /// cluster; and symptoms.
    pub async fn explain(&self, tail: &[String]) -> Failure {
        Box::pin(self.explained(tail)).await
    }

    async fn explained(&self, tail: &[String]) -> Failure {
        let (log, from) = &self.log;
        let mut said = helm_errors::read(log, *from).unwrap_or_default();
        if said == Said::default() {
            // If the log cannot be read, its last lines are available.
            said = helm_errors::of_lines(tail.iter().map(String::as_str));
        }
        // How Helmfile itself ended is not in its log.
        let killed = tail.iter().rev().find(|line| helm_errors::is_killed(line)).cloned();
        let killed = killed.or(said.killed.clone());
        let mut verdicts: Vec<(Verdict, String, &Statement)> = said
            .errors
            .iter()
            .filter_map(|error| error.verdict().map(|(verdict, line)| (verdict, line, error)))
            .collect();
        verdicts.sort_by_key(|(verdict, ..)| helm_errors::rank(verdict));
        let says = verdicts.first();
        if let Some((verdict, line, error)) = says.filter(|(verdict, ..)| sources::is_refusal(verdict)) {
            return self.of_helm(verdict.rule, line, error).await;
        }
        // Look at the current state once more: the watch may have been cut together with the API.
        self.look_at_all_pods().await;
        let standing = self.standing().await;
        let heavy = |sighting: &Sighting| self.tracker.borrow().is_heavy(sighting, Instant::now());
        if let Some(sighting) = standing.iter().find(|sighting| heavy(sighting)) {
            return self.failure_with_placement(sighting).await;
        }
        if let Some((verdict, line, error)) = says.filter(|(verdict, ..)| !sources::is_symptom(verdict)) {
            let failure = self.of_helm(verdict.rule, line, error).await;
            return standing.iter().fold(failure, |failure, other| {
                failure.evidence(format!("also {} in {}: {}", other.object, other.namespace, other.message))
            });
        }
        // Whatever it left, the next attempt repairs it or waits for it.
        if let (Some(line), Some(rule)) = (killed, rules::of(Code::ReleasePending)) {
            let message = format!("Helm or Helmfile was killed: {}", line.trim());
            return self.failure_of(rule, &self.layer, &message, self.namespace(), "pods");
        }
        // A failing probe is normal during a slow start: a crash takes precedence.
        if let Some(sighting) = standing.iter().find(|sighting| sighting.rule.code != Code::ProbeFailing) {
            return self.failure_with_placement(sighting).await;
        }
        if let Some((verdict, line, error)) = says {
            return self.of_helm(verdict.rule, line, error).await;
        }
        if let Some(sighting) = standing.first() {
            return self.with_what_is_wrong(self.failure(sighting)).await;
        }
        // Helm was killed: it said nothing, and left its release pending.
        let newest = helm_storage::newest(self.client, Some(&self.wanted)).await.unwrap_or_default();
        let pending = newest.iter().map(|(revision, _)| revision).find(|revision| revision.status.is_pending());
        if let (Some(pending), Some(rule)) = (pending, rules::of(Code::ReleasePending)) {
            let message =
                format!("revision {} is {}, and its Helm has ended", pending.revision, pending.status.as_str());
            let about = format!("release {} in {}", pending.release, pending.namespace);
            return self.failure_of(rule, &about, &message, &pending.namespace, "pods");
        }
        self.unknown(&said, tail).await
    }

    fn namespace(&self) -> &str {
        self.namespaces.first().map_or("default", String::as_str)
    }

    async fn look_at_all_pods(&self) {
        self.tracker.borrow_mut().count_all();
        for namespace in &self.namespaces {
            let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
            match api.list(&ListParams::default()).await {
                Ok(pods) => {
                    for pod in pods.items {
                        self.take(Seen::Pod(Box::new(pod))).await;
                    }
                }
                Err(error) => {
                    let text =
                        format!("pods cannot be read: what is reported of them is what was seen before: {error}");
                    self.context.run.reporter.note(namespace, text);
                }
            }
        }
    }

    /// The current blockers of this layer's own objects, most informative first, without what an
    /// earlier revision left and what has healed.
    async fn standing(&self) -> Vec<Sighting> {
        let all: Vec<Sighting> = self.tracker.borrow().standing().into_iter().cloned().collect();
        let mut standing = Vec::new();
        for sighting in all.into_iter().filter(|sighting| sighting.owner == Owner::Ours) {
            let limited = sighting.rule.code == Code::RegistryRateLimited;
            let light = sighting.ends == rules::Ends::Never && !limited;
            if light || looks::confirm(self.client, &sighting).await != Standing::Healed {
                standing.push(sighting);
            }
        }
        standing
    }

    /// A failure from what Helm or Helmfile said.
    async fn of_helm(&self, rule: &'static Rule, line: &str, error: &Statement) -> Failure {
        let failure = self.failure_of(rule, &self.layer, line, self.namespace(), "pods");
        match rule.code {
            Code::FieldConflict => self.of_conflict(failure, &error.text),
            Code::HookFailed => self.with_what_is_wrong(failure).await,
            _ => failure,
        }
    }

    fn of_conflict(&self, mut failure: Failure, text: &str) -> Failure {
        let conflicts = helm_errors::conflicts(text);
        if conflicts.is_empty() {
            return failure;
        }
        failure.evidence.clear();
        of_conflicts(failure, &conflicts)
    }

    /// Adds the last words of crashed containers, what is not ready, and the newest warnings.
    async fn with_what_is_wrong(&self, mut failure: Failure) -> Failure {
        let mut lines: Vec<String> = self.crashes.borrow().values().map(|(_, crash)| crash.in_words()).collect();
        lines.extend(looks::what_is_wrong(&self.owners, &self.namespaces, self.began).await);
        for line in lines {
            if !failure.evidence.contains(&line) {
                failure = failure.evidence(line);
            }
        }
        failure
    }

    /// No rule matches: everything that may help the reader.
    async fn unknown(&self, said: &Said, tail: &[String]) -> Failure {
        let failure = Failure::new(Code::Unknown, format!("{}: Helmfile failed", self.layer)).remedy(format!(
            "{} -n {} get events,pods",
            kubernetes::kubectl_on(&self.context.site.kube_context),
            self.namespace()
        ));
        let errors = said.errors.iter().map(|error| looks::cut(&error.text.replace('\n', " ")));
        let mut lines: Vec<String> = errors.collect();
        if lines.is_empty() {
            lines = said.last.clone();
        }
        if lines.is_empty() {
            let said = tail.iter().filter(|line| !line.trim().is_empty());
            lines = said.rev().take(5).map(|line| line.trim().to_owned()).collect::<Vec<_>>();
            lines.reverse();
        }
        let failure = lines.into_iter().fold(failure, Failure::evidence);
        let failure = self.with_what_is_wrong(failure).await;
        if failure.evidence.is_empty() {
            return failure.evidence("Helmfile exited without a message, and nothing in the cluster is unready");
        }
        failure
    }
}

/// How often pods from before the run are checked: the first time when Helm has usually applied the
/// new manifests.
const FROM_BEFORE: Duration = Duration::from_secs(15);
/// How soon something that a last look could not confirm is checked again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How often to check whether Helm is waiting for nothing, and from when on that is reported.
const STUCK_EVERY: Duration = Duration::from_secs(20);
const STUCK_TOLD: Duration = Duration::from_secs(60);

async fn at(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn restarts(pod: &Pod, container: &str) -> i32 {
    pods::statuses(pod).find(|status| status.name == container).map_or(0, |status| status.restart_count)
}

/// How often StatefulSets are checked for pods that they have left behind.
const LOOK_FOR_LEFT_BEHIND: Duration = Duration::from_secs(5);

/// A pod that waits for its image, that a controller will recreate, and in which nothing runs. A
/// Job counts a deleted pod as failed.
fn may_be_replaced(pod: &Pod) -> bool {
    pods::in_pull_back_off(pod)
        && !pods::anything_runs(pod)
        && pods::controller_uid(pod).is_some()
        && pod.metadata.deletion_timestamp.is_none()
        && !looks::is_of(&pod.metadata, "Job")
}

fn cannot_watch(what: &str, answer: &str) -> String {
    format!("{what} cannot be watched: only Helm reports what goes wrong there ({answer})")
}

/// Where the watch of pods starts. `None` if it is not allowed; empty if they have to be listed
/// once the API answers.
async fn begin_pods(run: &Run, site: &Site, client: &Client, namespace: &str, tracker: &mut Tracker) -> Option<String> {
    match Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default()).await {
        Ok(pods) => {
            pods.items.iter().for_each(|pod| tracker.remember(pod));
            Some(pods.metadata.resource_version.unwrap_or_default())
        }
        Err(error) => begin_failed(run, site, &format!("pods in {namespace}"), error),
    }
}

async fn begin_events(run: &Run, site: &Site, client: &Client, namespace: &str) -> Option<String> {
    match Api::<Event>::namespaced(client.clone(), namespace).list_metadata(&ListParams::default().limit(1)).await {
        Ok(events) => Some(events.metadata.resource_version.unwrap_or_default()),
        Err(error) => begin_failed(run, site, &format!("events in {namespace}"), error),
    }
}

fn begin_failed(run: &Run, site: &Site, what: &str, error: kube::Error) -> Option<String> {
    match error {
        kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
            run.reporter.warn(&site.kube_context, cannot_watch(what, &status.message));
            None
        }
        _ => Some(String::new()),
    }
}
