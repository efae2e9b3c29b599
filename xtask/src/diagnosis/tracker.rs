//! What was seen of pods and events since a run began, and which of it ends the
//! run: pure, with the clock handed in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};

use super::rules::{self, Ends, Rule};

/// A blocker on one object.
#[derive(Clone, Debug)]
pub struct Sighting {
    pub rule: &'static Rule,
    /// As `kubectl` takes it: `pod/minio-0`.
    pub object: String,
    pub namespace: String,
    pub message: String,
    /// When Kubernetes says that it happened, by its own clock.
    pub since: Option<Timestamp>,
    pub first: Instant,
    /// Of the pod, or of the object that the event is about.
    pub uid: String,
    /// A pod of a controller that was there before this run: it may be of a
    /// revision that this run replaces.
    pub inherited: bool,
}

/// Keeps the first cause per object and code until it is healed.
#[derive(Default)]
pub struct Tracker {
    /// Pods (and other objects) from before this run: not this run's doing.
    before: BTreeSet<String>,
    /// Controllers (ReplicaSets …) from before this run.
    controllers: BTreeSet<String>,
    /// Releases whose pods count; a pod that names no release counts as well.
    releases: BTreeSet<String>,
    seen: BTreeMap<(String, &'static str), Sighting>,
    /// Pods that are not of these releases, or are gone.
    ignored: BTreeSet<String>,
    /// Seconds by code, where layers.yaml says other than the rule.
    patience: BTreeMap<String, u64>,
}

impl Tracker {
    pub fn new(releases: BTreeSet<String>, patience: BTreeMap<String, u64>) -> Self {
        Self { releases, patience, ..Self::default() }
    }

    /// A pod that was there before the run.
    pub fn remember(&mut self, pod: &Pod) {
        self.before.extend(pod.metadata.uid.clone());
        self.controllers.extend(controller(pod));
    }

    /// A pod as it is now; returns what is new about it.
    pub fn pod(&mut self, pod: &Pod, now: Instant) -> Vec<Sighting> {
        let Some(uid) = pod.metadata.uid.clone() else { return Vec::new() };
        if self.before.contains(&uid) || self.ignored.contains(&uid) {
            return Vec::new();
        }
        let instance = pod.metadata.labels.as_ref().and_then(|labels| labels.get("app.kubernetes.io/instance"));
        if pod.metadata.deletion_timestamp.is_some() || instance.is_some_and(|name| !self.releases.contains(name)) {
            self.gone(&uid);
            return Vec::new();
        }
        self.heal(pod, &uid);
        let mut found = Vec::new();
        for message in container_messages(pod) {
            found.extend(self.see(pod_object(pod), namespace(pod), &uid, &message, since(pod), now));
        }
        if let Some(controller) = controller(pod).filter(|controller| self.controllers.contains(controller)) {
            for sighting in self.seen.values_mut().filter(|sighting| sighting.uid == uid) {
                sighting.inherited = !controller.is_empty();
            }
        }
        found
    }

    /// An event that came in since the run began.
    pub fn event(&mut self, event: &Event, now: Instant) -> Option<Sighting> {
        if event.type_.as_deref() != Some("Warning") {
            return None;
        }
        let about = &event.involved_object;
        let uid = about.uid.clone().unwrap_or_default();
        if self.before.contains(&uid) || self.ignored.contains(&uid) {
            return None;
        }
        let message = format!(
            "{}: {}",
            event.reason.as_deref().unwrap_or_default(),
            event.message.as_deref().unwrap_or_default()
        );
        let kind = about.kind.as_deref().unwrap_or("object").to_lowercase();
        let object = format!("{kind}/{}", about.name.as_deref().unwrap_or_default());
        let at = event.last_timestamp.as_ref().map(|time| time.0.to_string());
        let at = at.or_else(|| event.event_time.as_ref().map(|time| time.0.to_string()));
        let since = at.and_then(|text| text.parse().ok());
        self.see(object, event.metadata.namespace.clone().unwrap_or_default(), &uid, &message, since, now)
    }

    fn see(
        &mut self,
        object: String,
        namespace: String,
        uid: &str,
        message: &str,
        since: Option<Timestamp>,
        now: Instant,
    ) -> Option<Sighting> {
        let rule = rules::classify(message)?;
        let key = (uid.to_owned(), rule.code);
        if self.seen.contains_key(&key) {
            return None;
        }
        let sighting = Sighting {
            rule,
            object,
            namespace,
            message: message.trim().to_owned(),
            since,
            first: now,
            uid: uid.to_owned(),
            inherited: false,
        };
        self.seen.insert(key, sighting.clone());
        Some(sighting)
    }

    /// What a crashing container's log says replaces that it crashes.
    pub fn explain_crash(&mut self, uid: &str, rule: &'static Rule, line: &str) -> Option<Sighting> {
        let crash = self.seen.remove(&(uid.to_owned(), "crash-loop"))?;
        let sighting = Sighting { rule, message: line.trim().to_owned(), ..crash };
        self.seen.insert((uid.to_owned(), rule.code), sighting.clone());
        Some(sighting)
    }

    /// What a pod's state disproves: pulled images, a container that is up.
    fn heal(&mut self, pod: &Pod, uid: &str) {
        let ready = crate::kubernetes::pod_ready(pod);
        let succeeded = pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Succeeded"));
        let scheduled = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let statuses: Vec<&ContainerStatus> = statuses(pod).collect();
        let pulling = statuses.iter().any(|status| status.image_id.is_empty());
        let created = !statuses.is_empty()
            && statuses.iter().all(|status| {
                status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
            });
        self.seen.retain(|(seen, code), sighting| {
            let pull = sighting.rule.exit == crate::exit::Exit::Registry;
            let healed = ready
                || succeeded
                || (pull && !pulling)
                || (scheduled && *code == "unschedulable")
                || (created && matches!(*code, "volume-pending" | "config-missing"));
            seen != uid || !healed
        });
    }

    /// A pod was deleted, or does not count.
    pub fn gone(&mut self, uid: &str) {
        self.ignored.insert(uid.to_owned());
        self.seen.retain(|(seen, _), _| seen != uid);
    }

    /// How long a blocker may last before it ends the run.
    fn patience(&self, sighting: &Sighting) -> Option<Duration> {
        let given = match sighting.rule.ends {
            Ends::Never => return None,
            Ends::AtOnce => self.patience.get(sighting.rule.code).copied().unwrap_or(0),
            Ends::After(seconds) => self.patience.get(sighting.rule.code).copied().unwrap_or(seconds),
        };
        // Helm may be about to replace what an earlier revision left.
        Some(Duration::from_secs(if sighting.inherited { given.max(INHERITED) } else { given }))
    }

    /// The blocker that ends the run now, if one does; the longest-standing first.
    pub fn due(&self, now: Instant) -> Option<&Sighting> {
        let over = |sighting: &&Sighting| {
            self.patience(sighting).is_some_and(|patience| now.duration_since(sighting.first) >= patience)
        };
        self.seen.values().filter(over).min_by_key(|sighting| sighting.first)
    }

    /// When `due` has to be asked again.
    pub fn next_due(&self) -> Option<Instant> {
        self.seen.values().filter_map(|sighting| Some(sighting.first + self.patience(sighting)?)).min()
    }

    /// What stands, the most telling first: what ends a run before what may heal.
    pub fn standing(&self) -> Vec<&Sighting> {
        let mut all: Vec<&Sighting> = self.seen.values().collect();
        let rank = |rule: &Rule| match rule.ends {
            Ends::AtOnce => 0,
            _ if rule.code == "registry-rate-limited" => 0,
            Ends::After(_) => 1,
            Ends::Never => 2,
        };
        all.sort_by_key(|sighting| (rank(sighting.rule), sighting.first));
        all
    }
}

/// Seconds for which a pod of a controller from before the run is not judged.
const INHERITED: u64 = 15;

pub fn namespace(pod: &Pod) -> String {
    pod.metadata.namespace.clone().unwrap_or_default()
}

fn pod_object(pod: &Pod) -> String {
    format!("pod/{}", pod.metadata.name.as_deref().unwrap_or_default())
}

/// When a container of it last ended; of one whose containers never ran, its creation.
fn since(pod: &Pod) -> Option<Timestamp> {
    let ended = statuses(pod).filter_map(|status| {
        let states = [status.state.as_ref(), status.last_state.as_ref()];
        let ended = states.into_iter().flatten().find_map(|state| state.terminated.as_ref())?;
        ended.finished_at.as_ref().filter(|_| ended.exit_code != 0)
    });
    let at = ended.map(|time| &time.0).max().or(pod.metadata.creation_timestamp.as_ref().map(|time| &time.0))?;
    at.to_string().parse().ok()
}

/// The uid of what made the pod.
pub fn controller(pod: &Pod) -> Option<String> {
    let owners = pod.metadata.owner_references.as_ref()?;
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone())
}

/// Init containers count.
fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.into_iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    init.chain(status.into_iter().flat_map(|status| status.container_statuses.iter().flatten()))
}

/// Whether a container waits in back-off for its image: the kubelet tries again
/// only after up to 300 s.
pub fn in_pull_back_off(pod: &Pod) -> bool {
    statuses(pod).any(|status| {
        let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting.is_some_and(|waiting| matches!(waiting.reason.as_deref(), Some("ImagePullBackOff" | "ErrImagePull")))
    })
}

/// What the statuses of a pod's containers say against it.
pub fn container_messages(pod: &Pod) -> Vec<String> {
    let mut messages = Vec::new();
    for container in statuses(pod) {
        let Some(state) = &container.state else { continue };
        if let Some(waiting) = &state.waiting {
            let reason = waiting.reason.clone().unwrap_or_default();
            if !matches!(reason.as_str(), "ContainerCreating" | "PodInitializing") {
                messages.push(format!("{reason}: {}", waiting.message.clone().unwrap_or_default()));
            }
        }
        let ended =
            state.terminated.as_ref().or(container.last_state.as_ref().and_then(|last| last.terminated.as_ref()));
        if let Some(ended) = ended.filter(|ended| ended.exit_code != 0) {
            messages.push(format!(
                "{}: exit code {}: {}",
                ended.reason.clone().unwrap_or_default(),
                ended.exit_code,
                ended.message.clone().unwrap_or_default()
            ));
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, release: &str, status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": uid, "namespace": "ameide", "uid": uid, "labels": {"app.kubernetes.io/instance": release}},
            "spec": {"containers": []}, "status": status,
        }))
        .unwrap()
    }

    fn waiting(key: &str, reason: &str, message: &str) -> serde_json::Value {
        json!({key: [{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": reason, "message": message}}}]})
    }

    fn tracker() -> Tracker {
        Tracker::new(["minio".to_owned()].into(), BTreeMap::new())
    }

    const NOT_FOUND: &str = "failed to resolve reference \"reg:5000/x:9\": reg:5000/x:9: not found";

    #[test]
    fn a_blocker_that_cannot_heal_is_due_at_once_and_told_once() {
        let (mut tracker, now) = (tracker(), Instant::now());
        let broken = pod("a", "minio", waiting("containerStatuses", "ErrImagePull", NOT_FOUND));
        assert_eq!(tracker.pod(&broken, now).len(), 1);
        assert_eq!(tracker.due(now).unwrap().rule.code, "image-not-found");
        // Later the kubelet only says that it backs off.
        let backing_off = pod("a", "minio", waiting("containerStatuses", "ImagePullBackOff", "Back-off pulling image"));
        assert!(tracker.pod(&backing_off, now).is_empty());
        assert_eq!(tracker.due(now).unwrap().message, format!("ErrImagePull: {NOT_FOUND}"), "the first cause stays");
    }

    #[test]
    fn init_containers_count() {
        let mut tracker = tracker();
        let broken = pod("a", "minio", waiting("initContainerStatuses", "ErrImagePull", NOT_FOUND));
        assert_eq!(tracker.pod(&broken, Instant::now()).len(), 1);
    }

    #[test]
    fn pods_from_before_and_of_other_releases_are_ignored() {
        let (mut tracker, now) = (tracker(), Instant::now());
        let old = pod("old", "minio", waiting("containerStatuses", "ErrImagePull", NOT_FOUND));
        tracker.remember(&old);
        assert!(tracker.pod(&old, now).is_empty());
        let other = pod("other", "temporal", waiting("containerStatuses", "ErrImagePull", NOT_FOUND));
        assert!(tracker.pod(&other, now).is_empty());
        assert!(tracker.due(now).is_none());
    }

    #[test]
    fn a_crash_gets_grace_and_is_forgotten_when_the_pod_is_ready() {
        let (mut tracker, now) = (tracker(), Instant::now());
        let crashing = pod(
            "a",
            "minio",
            waiting("containerStatuses", "CrashLoopBackOff", "back-off 10s restarting failed container=c"),
        );
        tracker.pod(&crashing, now);
        assert!(tracker.due(now).is_none());
        assert_eq!(tracker.next_due(), Some(now + Duration::from_secs(45)));
        assert_eq!(tracker.due(now + Duration::from_secs(45)).unwrap().rule.code, "crash-loop");
        tracker.pod(&pod("a", "minio", json!({"conditions": [{"type": "Ready", "status": "True"}]})), now);
        assert!(tracker.due(now + Duration::from_secs(45)).is_none());
    }

    #[test]
    fn a_log_that_names_a_dependency_gives_more_grace() {
        let (mut tracker, now) = (tracker(), Instant::now());
        tracker.pod(&pod("a", "minio", waiting("containerStatuses", "CrashLoopBackOff", "back-off")), now);
        let line = "dial tcp 10.43.0.7:5432: connect: connection refused";
        tracker.explain_crash("a", rules::classify_log(line).unwrap(), line).unwrap();
        assert!(tracker.due(now + Duration::from_secs(100)).is_none());
        assert_eq!(tracker.due(now + Duration::from_secs(120)).unwrap().rule.code, "dependency-unreachable");
    }

    #[test]
    fn a_rate_limit_never_ends_the_run_by_itself_and_heals_when_the_image_is_there() {
        let (mut tracker, now) = (tracker(), Instant::now());
        let limited = waiting("containerStatuses", "ErrImagePull", "429 Too Many Requests");
        tracker.pod(&pod("a", "minio", limited), now);
        assert!(tracker.due(now + Duration::from_secs(9999)).is_none());
        assert_eq!(tracker.standing()[0].rule.code, "registry-rate-limited");
        let pulled = json!({"containerStatuses": [{"name": "c", "image": "i", "imageID": "sha256:1", "ready": false,
            "restartCount": 0, "state": {"running": {}}}]});
        tracker.pod(&pod("a", "minio", pulled), now);
        assert!(tracker.standing().is_empty());
    }

    #[test]
    fn layers_yaml_may_give_more_patience() {
        let mut tracker = Tracker::new(["minio".to_owned()].into(), [("image-not-found".to_owned(), 7)].into());
        let now = Instant::now();
        tracker.pod(&pod("a", "minio", waiting("containerStatuses", "ErrImagePull", NOT_FOUND)), now);
        assert!(tracker.due(now).is_none());
        assert!(tracker.due(now + Duration::from_secs(7)).is_some());
    }

    #[test]
    fn an_event_of_a_deleted_pod_is_ignored() {
        let (mut tracker, now) = (tracker(), Instant::now());
        tracker.gone("a");
        let event: Event = serde_json::from_value(json!({
            "metadata": {"namespace": "ameide"}, "type": "Warning", "reason": "Failed", "message": NOT_FOUND,
            "involvedObject": {"kind": "Pod", "name": "a", "uid": "a"},
        }))
        .unwrap();
        assert!(tracker.event(&event, now).is_none());
    }
}
