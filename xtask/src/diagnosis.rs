//! Why a layer does not come up: pods and events of its namespaces, watched while
//! Helm works, and what Helm and Helmfile print, sorted into a closed list of
//! blockers ([`rules::RULES`]).
//!
//! A timeout is a symptom and never a verdict.

pub mod rules;
pub mod tracker;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, LogParams, WatchEvent, WatchParams};

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::layer::Release;
use crate::output;
use crate::releases::storage;
use crate::retry::{Budgets, Spent};
use rules::{Ends, Rule};
use tracker::{Sighting, Tracker};

/// Watches one layer run. Shared between the watch itself, which runs beside
/// Helmfile, and the verdict after it.
pub struct Diagnosis<'a> {
    context: &'a Context,
    client: &'a Client,
    layer: String,
    namespaces: BTreeSet<String>,
    wanted: Vec<Release>,
    tracker: RefCell<Tracker>,
    /// Where each namespace's watches begin: what came before is not this run's.
    start: Vec<Start>,
}

struct Start {
    namespace: String,
    pods: String,
    events: String,
}

enum Seen {
    Pod(Box<Pod>),
    Gone(String),
    Event(Box<Event>),
    /// The API does not answer any more, and why; or does again.
    Silent(Option<String>),
}

impl<'a> Diagnosis<'a> {
    /// Notes what is there before the run begins. Never fails: a cluster that does
    /// not answer is told by Helm as well.
    pub async fn begin(
        context: &'a Context,
        client: &'a Client,
        layer: &str,
        wanted: &[Release],
        budgets: &Budgets,
    ) -> Self {
        let installed = wanted.iter().filter(|release| release.installed);
        let namespaces: BTreeSet<String> = installed.clone().map(|release| release.namespace.clone()).collect();
        let releases = installed.map(|release| release.name.clone()).collect();
        let mut tracker = Tracker::new(releases, budgets.patience.clone());
        let mut start = Vec::new();
        for namespace in &namespaces {
            let pods = Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default()).await;
            let events = Api::<Event>::namespaced(client.clone(), namespace)
                .list_metadata(&ListParams::default().limit(1))
                .await;
            let (Ok(pods), Ok(events)) = (pods, events) else { continue };
            pods.items.iter().for_each(|pod| tracker.remember(pod));
            start.push(Start {
                namespace: namespace.clone(),
                pods: pods.metadata.resource_version.unwrap_or_default(),
                events: events.metadata.resource_version.unwrap_or_default(),
            });
        }
        Self {
            context,
            client,
            layer: layer.to_owned(),
            namespaces,
            wanted: wanted.to_vec(),
            tracker: RefCell::new(tracker),
            start,
        }
    }

    /// Resolves when something is seen that cannot heal; else never.
    pub async fn watch(&self, budgets: &Budgets, spent: &mut Spent) -> Failure {
        let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let watches = self.start.iter().flat_map(|start| {
            let pods = Api::<Pod>::namespaced(self.client.clone(), &start.namespace);
            let events = Api::<Event>::namespaced(self.client.clone(), &start.namespace);
            [
                watch_pods(pods, start.pods.clone(), sender.clone()).left_future(),
                watch_events(events, start.events.clone(), sender.clone()).right_future(),
            ]
        });
        let watches = futures_util::future::join_all(watches);
        let heartbeat = heartbeat(self.client, sender.clone());
        tokio::pin!(watches, heartbeat);
        let mut limited: Option<tokio::time::Instant> = None;
        loop {
            let next = self.tracker.borrow().next_due();
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let retry = async {
                match limited {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = &mut watches => {}
                () = &mut heartbeat => {}
                Some(news) = seen.recv() => {
                    if self.take(news).await && limited.is_none() {
                        match self.rate_limited(budgets, spent).await {
                            Ok(at) => limited = at,
                            Err(failure) => return failure,
                        }
                    }
                }
                () = due => {
                    if let Some(failure) = self.verdict().await {
                        return failure;
                    }
                }
                () = retry => {
                    self.replace_backing_off().await;
                    limited = None;
                }
            }
        }
    }

    /// Takes one piece of news in; whether it was a rate limit.
    async fn take(&self, news: Seen) -> bool {
        let now = Instant::now();
        let found: Vec<Sighting> = match &news {
            Seen::Pod(pod) => self.tracker.borrow_mut().pod(pod, now),
            Seen::Event(event) => self.tracker.borrow_mut().event(event, now).into_iter().collect(),
            Seen::Gone(uid) => {
                self.tracker.borrow_mut().gone(uid);
                Vec::new()
            }
            Seen::Silent(reason) => {
                self.tell_of_the_api(reason.as_deref());
                Vec::new()
            }
        };
        let mut limited = false;
        for mut sighting in found {
            if sighting.rule.code == "crash-loop"
                && let Some((rule, line)) = self.why_it_crashes(&sighting).await
                && let Some(explained) = self.tracker.borrow_mut().explain_crash(&sighting.uid, rule, &line)
            {
                sighting = explained;
            }
            limited |= sighting.rule.code == "registry-rate-limited";
            self.context.reporter.event(&output::Event::Blocker {
                code: sighting.rule.code,
                resource: &sighting.object,
                text: sighting.rule.sentence,
                message: &sighting.message,
                since: sighting.since.map(|time| time.to_string()),
                then: &match sighting.rule.ends {
                    Ends::AtOnce => "ends the run".to_owned(),
                    Ends::After(seconds) => format!("ends the run if it lasts {seconds} s"),
                    Ends::Never => "may heal".to_owned(),
                },
            });
        }
        limited
    }

    /// Told and no more: Helm and the watches go on by themselves when the API is
    /// back, and a Helm that gave up meanwhile is the retry table's affair.
    fn tell_of_the_api(&self, silent: Option<&str>) {
        let reporter = &self.context.reporter;
        let Some(reason) = silent else {
            return reporter.note(&self.context.kube_context, "the Kubernetes API answers again");
        };
        let Some(rule) = rules::of("api-unreachable") else { return };
        reporter.event(&output::Event::Blocker {
            code: rule.code,
            resource: &self.context.kube_context,
            text: rule.sentence,
            message: reason,
            since: None,
            then: "may heal",
        });
    }

    /// When pods that the registry's limit holds are replaced, or that the budget is spent.
    async fn rate_limited(
        &self,
        budgets: &Budgets,
        spent: &mut Spent,
    ) -> Result<Option<tokio::time::Instant>, Failure> {
        let standing: Option<Sighting> = {
            let tracker = self.tracker.borrow();
            tracker.standing().into_iter().find(|sighting| sighting.rule.code == "registry-rate-limited").cloned()
        };
        let Some(sighting) = standing else { return Ok(None) };
        let asked = crate::retry::retry_after(&sighting.message, self.context).await;
        match spent.rate_limit(&budgets.rate_limit, asked) {
            Some(next) => {
                self.context.reporter.event(&output::Event::Retry {
                    reason: "registry-rate-limited",
                    attempt: next.attempt,
                    budget: next.budget,
                    wait_seconds: next.wait.as_secs(),
                });
                Ok(Some(tokio::time::Instant::now() + next.wait))
            }
            None => Err(self
                .failure(&sighting)
                .evidence(format!("{} tries in all, the budget of layers.yaml", budgets.rate_limit.attempts))),
        }
    }

    /// The kubelet waits up to 300 s before it pulls again; a new pod pulls at once.
    pub async fn replace_backing_off(&self) {
        for namespace in &self.namespaces {
            let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
            let Ok(pods) = api.list(&ListParams::default()).await else { continue };
            for pod in pods.items.iter().filter(|pod| tracker::in_pull_back_off(pod)) {
                // A pod that nothing makes again is left to the kubelet.
                let (Some(name), Some(_)) = (&pod.metadata.name, tracker::controller(pod)) else { continue };
                // A Job counts a deleted pod as a failed one.
                let of_job = pod.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "Job");
                if !of_job && api.delete(name, &DeleteParams::default().grace_period(0)).await.is_ok() {
                    self.context.reporter.note(name, "replaced: it pulls its image again at once");
                }
            }
        }
    }

    /// The failure of what is due, after a second look at pods of controllers that
    /// were there before: those of a revision that is being replaced do not count.
    async fn verdict(&self) -> Option<Failure> {
        let due = self.tracker.borrow().due(Instant::now()).cloned()?;
        if due.inherited && !self.is_current(&due).await {
            self.tracker.borrow_mut().gone(&due.uid);
            return None;
        }
        Some(self.failure(&due))
    }

    /// Whether a pod is of its workload's newest revision. In doubt it is.
    async fn is_current(&self, sighting: &Sighting) -> bool {
        let Some(name) = sighting.object.strip_prefix("pod/") else { return true };
        let Ok(Some(pod)) = Api::<Pod>::namespaced(self.client.clone(), &sighting.namespace).get_opt(name).await else {
            return true;
        };
        let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        let revision = "deployment.kubernetes.io/revision";
        match owner.map(|owner| (owner.kind.as_str(), owner.name.as_str())) {
            Some(("ReplicaSet", name)) => {
                let sets = Api::<ReplicaSet>::namespaced(self.client.clone(), &sighting.namespace);
                let Ok(Some(set)) = sets.get_opt(name).await else { return true };
                let Some(of) = set.metadata.owner_references.iter().flatten().next() else { return true };
                let deployments = Api::<Deployment>::namespaced(self.client.clone(), &sighting.namespace);
                let Ok(Some(deployment)) = deployments.get_opt(&of.name).await else { return true };
                let of = |annotations: &Option<std::collections::BTreeMap<String, String>>| {
                    annotations.as_ref().and_then(|all| all.get(revision).cloned())
                };
                of(&set.metadata.annotations) == of(&deployment.metadata.annotations)
            }
            Some(("StatefulSet", name)) => {
                let sets = Api::<StatefulSet>::namespaced(self.client.clone(), &sighting.namespace);
                let Ok(Some(set)) = sets.get_opt(name).await else { return true };
                let wanted = set.status.and_then(|status| status.update_revision);
                let has = pod.metadata.labels.and_then(|labels| labels.get("controller-revision-hash").cloned());
                has == wanted
            }
            _ => true,
        }
    }

    /// What the last log of a crashing container says, if a rule knows it.
    async fn why_it_crashes(&self, sighting: &Sighting) -> Option<(&'static Rule, String)> {
        let name = sighting.object.strip_prefix("pod/")?;
        let api = Api::<Pod>::namespaced(self.client.clone(), &sighting.namespace);
        let pod = api.get_opt(name).await.ok()??;
        let status = pod.status.as_ref()?;
        let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        for container in all.filter(|container| container.restart_count > 0) {
            let parameters = LogParams {
                container: Some(container.name.clone()),
                previous: true,
                tail_lines: Some(20),
                ..Default::default()
            };
            let log = api.logs(name, &parameters).await.unwrap_or_default();
            // The last line that a rule knows is nearest to the end.
            let known = log.lines().rev().find_map(|line| Some((rules::classify_log(line)?, line.to_owned())));
            if known.is_some() {
                return known;
            }
        }
        None
    }

    fn failure(&self, sighting: &Sighting) -> Failure {
        let object = format!("{} in {}", sighting.object, sighting.namespace);
        let mut failure =
            self.failure_of(sighting.rule, &object, &sighting.message, &sighting.namespace, &sighting.object);
        if let Some(since) = sighting.since {
            failure = failure.evidence(format!("since {since}"));
        }
        failure
    }

    fn failure_of(&self, rule: &'static Rule, about: &str, message: &str, namespace: &str, object: &str) -> Failure {
        let remedy = rule
            .remedy
            .replace("{context}", &self.context.kube_context)
            .replace("{namespace}", namespace)
            .replace("{object}", object)
            .replace("{layer}", &self.layer)
            .replace("{env}", &self.context.env_name);
        Failure::new(rule.code, rule.exit, format!("{about}: {}", rule.sentence))
            .evidence(message.trim())
            .remedy(remedy)
    }

    /// What blocked a Helm or Helmfile run that has ended by itself with an error.
    pub async fn explain(&self, tail: &[String]) -> Failure {
        let said = tail.iter().rev().filter(|line| !rules::is_timeout(line));
        let mut helm_says = said.filter_map(|line| Some((rules::classify(line)?, line)));
        let says = helm_says.clone().find(|(rule, _)| rule.ends == Ends::AtOnce && rule.code != "hook-failed");
        let first = self.namespaces.first().cloned().unwrap_or_default();
        if let Some((rule, line)) = says {
            return self.failure_of(rule, &self.layer, line, &first, "pods");
        }
        // Whatever it left, the next try repairs it or waits for it.
        let killed = tail.iter().rev().find(|line| rules::is_killed(line));
        if let (Some(line), Some(rule)) = (killed, rules::of("release-pending")) {
            return self.failure_of(
                rule,
                &self.layer,
                &format!("Helm or Helmfile was killed: {}", line.trim()),
                &first,
                "pods",
            );
        }
        // Once more what is there now: the watch may have been cut with the API.
        for namespace in &self.namespaces {
            let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
            for pod in api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
                self.take(Seen::Pod(Box::new(pod))).await;
            }
        }
        let standing: Option<Sighting> = self.tracker.borrow().standing().first().map(|sighting| (*sighting).clone());
        if let Some(sighting) = standing {
            return self.failure(&sighting);
        }
        if let Some((rule, line)) = helm_says.next() {
            return self.failure_of(rule, &self.layer, line, &first, "pods");
        }
        // Helm was killed: it said nothing, and left its release pending.
        let newest = storage::newest(self.client, Some(&self.wanted)).await.unwrap_or_default();
        let pending = newest.iter().map(|(revision, _)| revision).find(|revision| revision.status.is_pending());
        if let (Some(pending), Some(rule)) = (pending, rules::of("release-pending")) {
            let message =
                format!("revision {} is {}, and its Helm has ended", pending.revision, pending.status.as_str());
            let about = format!("release {} in {}", pending.release, pending.namespace);
            return self.failure_of(rule, &about, &message, &pending.namespace, "pods");
        }
        let raw = tail.iter().rev().filter(|line| !line.trim().is_empty()).take(5).cloned().collect::<Vec<_>>();
        raw.into_iter().rev().fold(
            Failure::new("unknown", Exit::Unclassified, format!("{}: Helmfile failed", self.layer)),
            |failure, line| failure.evidence(line),
        )
    }
}

use futures_util::FutureExt;

type News = tokio::sync::mpsc::UnboundedSender<Seen>;

/// How often the API is asked whether it is there, and how long it may take: a
/// server that hangs says nothing on the watches, as one that has nothing to tell.
const HEARTBEAT: Duration = Duration::from_secs(1);
const HEARTBEAT_WITHIN: Duration = Duration::from_secs(2);

async fn heartbeat(client: &Client, to: News) {
    let mut silent = false;
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let answer = tokio::time::timeout(HEARTBEAT_WITHIN, crate::kubernetes::answers(client)).await;
        let reason = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", HEARTBEAT_WITHIN.as_secs()))).err();
        if reason.is_some() != silent {
            silent = reason.is_some();
            drop(to.send(Seen::Silent(reason)));
        }
    }
}

/// How long after a watch was cut it is opened again.
const REOPEN: Duration = Duration::from_millis(500);

/// Pods from `version` on; opened again where it was cut, and listed again where
/// the API server has forgotten that version.
async fn watch_pods(api: Api<Pod>, mut version: String, to: News) {
    loop {
        if version.is_empty() {
            match api.list(&ListParams::default()).await {
                Ok(list) => {
                    version = list.metadata.resource_version.unwrap_or_default();
                    list.items.into_iter().for_each(|pod| drop(to.send(Seen::Pod(Box::new(pod)))));
                }
                Err(_) => {
                    tokio::time::sleep(REOPEN).await;
                    continue;
                }
            }
        }
        if let Ok(stream) = api.watch(&WatchParams::default(), &version).await {
            let mut stream = std::pin::pin!(stream);
            while let Some(Ok(event)) = stream.next().await {
                match event {
                    WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                        version = pod.metadata.resource_version.clone().unwrap_or_default();
                        drop(to.send(Seen::Pod(Box::new(pod))));
                    }
                    WatchEvent::Deleted(pod) => {
                        version = pod.metadata.resource_version.clone().unwrap_or_default();
                        drop(to.send(Seen::Gone(pod.metadata.uid.unwrap_or_default())));
                    }
                    WatchEvent::Bookmark(_) => {}
                    WatchEvent::Error(_) => version.clear(),
                }
            }
        }
        tokio::time::sleep(REOPEN).await;
    }
}

async fn watch_events(api: Api<Event>, mut version: String, to: News) {
    loop {
        if let Ok(stream) = api.watch(&WatchParams::default(), &version).await {
            let mut stream = std::pin::pin!(stream);
            while let Some(Ok(event)) = stream.next().await {
                match event {
                    WatchEvent::Added(event) | WatchEvent::Modified(event) => {
                        version = event.metadata.resource_version.clone().unwrap_or_default();
                        drop(to.send(Seen::Event(Box::new(event))));
                    }
                    WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
                    // Forgotten: go on from now; pods tell what was missed.
                    WatchEvent::Error(_) => {
                        let now = api.list_metadata(&ListParams::default().limit(1)).await;
                        version = now.ok().and_then(|list| list.metadata.resource_version).unwrap_or_default();
                    }
                }
            }
        }
        tokio::time::sleep(REOPEN).await;
    }
}
