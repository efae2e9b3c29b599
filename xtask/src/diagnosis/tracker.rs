//! What was seen of pods and events since a run began, and which of it may end the run: pure, with
//! the time passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};

use super::pods::{
    Fact, condition, controller_uid, facts, failed_at, namespace, phase, pod_object, since, status_written, statuses,
};
use super::rules::{self, Ends, Rule};
use super::sources::{self, Verdict};
use run_record::{Code, Prospect};

/// Whose an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It belongs to a release of this layer.
    Ours,
    Others,
    /// Nothing says, or it could not be looked at: reported, but never ends a run.
    Unclear,
}

/// The stage of a pod's life in which it was seen, which determines what disproves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Schedule,
    /// Volumes, sandbox, network.
    Setup,
    Pull,
    /// Creating and starting a container.
    Start,
    Crash,
    /// Probes, controllers, evictions.
    Other,
}

fn stage(reason: &str, message: &str) -> Stage {
    match reason {
        "FailedScheduling" | "Unschedulable" | "Preempted" => Stage::Schedule,
        "FailedMount"
        | "FailedAttachVolume"
        | "FailedMapVolume"
        | "FailedCreatePodSandBox"
        | "NetworkNotReady"
        | "FailedMountOnFilesystemMismatch"
        | "CreatePodSandboxError"
        | "ConfigPodSandboxError" => Stage::Setup,
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable"
        | "SignatureValidationFailed"
        | "InspectFailed" => Stage::Pull,
        "CreateContainerConfigError"
        | "CreateContainerError"
        | "RunContainerError"
        | "PreCreateHookError"
        | "PreStartHookError"
        | "VerifyNonRootError" => Stage::Start,
        "CrashLoopBackOff"
        | "OOMKilled"
        | "StartError"
        | "ContainerCannotRun"
        | "PostStartHookError"
        | "FailedPostStartHook" => Stage::Crash,
        "BackOff" if message.contains("restarting") => Stage::Crash,
        "Failed" | "BackOff" => {
            let lower = message.to_lowercase();
            let of_start = ["secret", "configmap", "container", "key", "runasnonroot"];
            if lower.starts_with("error: ") && of_start.iter().any(|word| lower.contains(word)) {
                Stage::Start
            } else {
                Stage::Pull
            }
        }
        _ => Stage::Other,
    }
}

/// A blocker on one object.
#[derive(Clone, Debug)]
pub struct Sighting {
    pub rule: &'static Rule,
    pub ends: Ends,
    pub stage: Stage,
    /// As `kubectl` takes it: `pod/minio-0`.
    pub object: String,
    pub namespace: String,
    pub message: String,
    /// When it happened according to Kubernetes, by its own clock.
    pub since: Option<Timestamp>,
    pub first: Instant,
    /// How often a state showed it again: each failed pull counts. The kubelet's event about the
    /// same pull does not.
    pub times: u32,
    /// Whether the kubelet tries it again, and waits longer each time ([`backs_off`]).
    backs_off: bool,
    /// The attempts that failed, by container.
    tries: BTreeMap<String, Tries>,
    /// The uid of the pod, or of the event's object.
    pub uid: String,
    pub owner: Owner,
    /// Whether a state of the object shows it, not only an event.
    pub of_state: bool,
    /// A pod whose controller existed before this run: it may be of a revision that this run
    /// replaces.
    pub inherited: bool,
    /// A last look did not confirm it: not judged before this time.
    not_before: Option<Instant>,
}

/// When the first attempt and the last one failed, by the clock of the cluster.
#[derive(Clone, Copy, Debug)]
struct Tries {
    first: Timestamp,
    last: Timestamp,
}

impl Sighting {
    fn note(&mut self, container: &str, failed: Option<Timestamp>) {
        let Some(at) = failed else { return };
        let tries = self.tries.entry(container.to_owned()).or_insert(Tries { first: at, last: at });
        tries.last = tries.last.max(at);
    }

    /// Whether an attempt failed when the `patience` was over: a back-off of up to 300 s repeats
    /// what the last one said, while the next one may succeed. Compares two times of the cluster,
    /// since this machine's clock may differ. The container that failed last counts: the others may
    /// be up by now.
    fn failed_again_after(&self, patience: Duration) -> bool {
        let newest = self.tries.values().max_by_key(|tries| tries.last);
        newest.is_some_and(|tries| tries.last.duration_since(tries.first).unsigned_abs() + MOMENTS >= patience)
    }
}

/// One sighting per object and code; for all crashes of a pod, one.
type Key = (String, Slot);

/// Everything seen of a crash counts as one thing, whatever its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Crash,
    Of(Code),
}

/// Keeps the first cause per object and code until it heals.
#[derive(Default)]
pub struct Tracker {
    /// Pods (and other objects) from before this run: not this run's doing.
    before: BTreeSet<String>,
    /// Those of them about which something was reported all the same.
    foretold: BTreeSet<String>,
    /// Controllers (ReplicaSets …) from before this run.
    controllers: BTreeSet<String>,
    seen: BTreeMap<Key, Sighting>,
    /// Pods that do not belong to these releases, or are gone.
    ignored: BTreeSet<String>,
    /// Why a container waited for its image at the last look, by pod and name.
    waiting: BTreeMap<(String, String), String>,
    /// What was already reported, so that a crash with changing messages is reported once for each.
    told: BTreeSet<Key>,
    /// Until when an autoscaler may take to make the node of a pod.
    scaling: BTreeMap<String, Instant>,
    /// Seconds by code, if layers.yaml overrides the rule.
    patience: BTreeMap<Code, u64>,
}

struct News<'a> {
    object: String,
    namespace: String,
    uid: &'a str,
    owner: Owner,
    reason: &'a str,
    message: &'a str,
    verdict: Verdict,
    since: Option<Timestamp>,
    of_state: bool,
    /// A new attempt, not the same one seen again.
    anew: bool,
    backs_off: bool,
    /// Empty for the pod itself.
    container: &'a str,
    /// When an attempt failed, by the clock of the cluster.
    failed: Option<Timestamp>,
}

impl Tracker {
    pub fn new(patience: BTreeMap<Code, u64>) -> Self {
        Self { patience, ..Self::default() }
    }

    /// Records a pod that existed before the run.
    pub fn remember(&mut self, pod: &Pod) {
        self.before.extend(pod.metadata.uid.clone());
        self.controllers.extend(controller_uid(pod));
    }

    /// From now on pods from before the run count too: Helm waited for them in vain.
    pub fn count_all(&mut self) {
        self.before.clear();
        // What is seen of them from then on is judged from scratch.
        let foretold = std::mem::take(&mut self.foretold);
        self.seen.retain(|_, sighting| !foretold.contains(&sighting.uid));
    }

    pub fn is_from_before(&self, pod: &Pod) -> bool {
        pod.metadata.uid.as_ref().is_some_and(|uid| self.before.contains(uid))
    }

    /// Records that a pod from before the run, about which something was reported, is now ready.
    pub fn foretold_is_ready(&mut self, pod: &Pod) {
        if let Some(uid) = pod.metadata.uid.as_ref().filter(|uid| self.foretold.contains(*uid)) {
            self.seen.retain(|_, sighting| sighting.uid != *uid);
        }
    }

    /// What is wrong with a pod from before the run, to be reported: it ends no run, since Helm may
    /// not have got to its owner yet. Returns what is new about it.
    pub fn foretell(&mut self, pod: &Pod, owner: Owner, now: Instant) -> Vec<Sighting> {
        let Some(uid) = pod.metadata.uid.clone().filter(|uid| self.before.remove(uid)) else { return Vec::new() };
        let mut found = self.pod(pod, owner, now);
        self.before.insert(uid.clone());
        self.seen.values_mut().filter(|seen| seen.uid == uid).for_each(|seen| seen.ends = Ends::Never);
        found.iter_mut().for_each(|sighting| sighting.ends = Ends::Never);
        self.foretold.insert(uid);
        found
    }

    /// Whether a pod counts: not if it is from before the run, or gone.
    pub fn counts(&self, uid: &str) -> bool {
        !self.before.contains(uid) && !self.ignored.contains(uid)
    }

    /// Takes a pod's current state; returns what is new about it.
    pub fn pod(&mut self, pod: &Pod, owner: Owner, now: Instant) -> Vec<Sighting> {
        let Some(uid) = pod.metadata.uid.clone() else { return Vec::new() };
        if !self.counts(&uid) {
            return Vec::new();
        }
        if pod.metadata.deletion_timestamp.is_some() || owner == Owner::Others {
            self.gone(&uid);
            return Vec::new();
        }
        let facts = facts(pod);
        self.heal(pod, &uid, &facts);
        let mut found = Vec::new();
        for fact in &facts {
            let pulls = stage(&fact.reason, "") == Stage::Pull;
            let place = (uid.clone(), fact.container.clone());
            let anew = pulls && self.waiting.insert(place, fact.reason.clone()).is_none_or(|last| last != fact.reason);
            // The kubelet's back-off repeats the message of the last pull.
            let anew = anew && fact.reason != "ImagePullBackOff";
            let Some(verdict) = sources::state(&fact.reason, &fact.message) else { continue };
            found.extend(self.see(
                News {
                    object: pod_object(pod),
                    namespace: namespace(pod),
                    uid: &uid,
                    owner,
                    reason: &fact.reason,
                    message: &format!("{}: {}", fact.reason, fact.message),
                    verdict,
                    since: since(pod),
                    of_state: true,
                    anew,
                    // Of a pod that has failed nothing is tried again.
                    backs_off: phase(pod) != Some("Failed") && backs_off(&fact.reason, &fact.message),
                    container: &fact.container,
                    failed: if pulls { status_written(pod).filter(|_| anew) } else { failed_at(pod, &fact.container) },
                },
                now,
            ));
        }
        if controller_uid(pod).is_some_and(|controller| self.controllers.contains(&controller)) {
            self.seen.values_mut().filter(|sighting| sighting.uid == uid).for_each(|seen| seen.inherited = true);
            found.iter_mut().for_each(|sighting| sighting.inherited = true);
        }
        found
    }

    /// Takes an event that came in since the run began.
    pub fn event(&mut self, event: &Event, owner: Owner, now: Instant) -> Option<Sighting> {
        let about = &event.involved_object;
        let uid = about.uid.clone().unwrap_or_default();
        if !self.counts(&uid) || owner == Owner::Others {
            return None;
        }
        let reason = event.reason.as_deref().unwrap_or_default();
        let text = event.message.as_deref().unwrap_or_default();
        if event.type_.as_deref() != Some("Warning") {
            self.progress(&uid, reason, now);
            return None;
        }
        let verdict = sources::event(component(event), reason, text)?;
        let kind = about.kind.as_deref().unwrap_or("object").to_lowercase();
        let at = event.last_timestamp.as_ref().map(|time| time.0);
        let at = at.or_else(|| event.event_time.as_ref().map(|time| time.0));
        let news = News {
            object: format!("{kind}/{}", about.name.as_deref().unwrap_or_default()),
            namespace: event.metadata.namespace.clone().unwrap_or_default(),
            uid: &uid,
            owner,
            reason,
            message: &format!("{reason}: {text}"),
            verdict,
            since: at,
            of_state: false,
            anew: false,
            backs_off: backs_off(reason, text),
            container: "",
            // Pulls and crashes are seen as states; no state shows when a volume was tried.
            failed: at.filter(|_| stage(reason, text) == Stage::Setup && backs_off(reason, text)),
        };
        self.see(news, now)
    }

    /// The kubelet's next action disproves what blocked the previous one.
    fn progress(&mut self, uid: &str, reason: &str, now: Instant) {
        let past: &[Stage] = match reason {
            "Scheduled" => &[Stage::Schedule],
            // The image comes after volumes and sandbox.
            "Pulling" | "Pulled" => &[Stage::Schedule, Stage::Setup],
            "Created" | "Started" => &[Stage::Schedule, Stage::Setup],
            // From a controller, which can create its pods now.
            "SuccessfulCreate" | "ProvisioningSucceeded" => &[Stage::Other],
            // From the cluster autoscaler, and from Karpenter: a node is being made for it.
            "TriggeredScaleUp" | "Nominated" => {
                self.scaling.insert(uid.to_owned(), now + SCALE_UP);
                return;
            }
            _ => return,
        };
        self.seen.retain(|(seen, _), sighting| seen != uid || !past.contains(&sighting.stage));
    }

    fn see(&mut self, news: News, now: Instant) -> Option<Sighting> {
        let stage = stage(news.reason, news.message.split_once(": ").map_or("", |(_, text)| text));
        let slot = if stage == Stage::Crash { Slot::Crash } else { Slot::Of(news.verdict.rule.code) };
        let key = (news.uid.to_owned(), slot);
        if let Some(known) = self.seen.get_mut(&key) {
            known.times += u32::from(news.anew);
            known.note(news.container, news.failed);
            if let (Ends::After(given), Ends::After(longer)) = (known.ends, news.verdict.ends)
                && known.rule.code == news.verdict.rule.code
            {
                known.ends = Ends::After(given.max(longer));
            }
            if news.of_state {
                known.of_state = true;
                known.backs_off = news.backs_off;
                known.owner = news.owner;
                // The state confirms what the event only hinted at.
                if known.rule.code == news.verdict.rule.code && news.verdict.ends == Ends::AtOnce {
                    known.ends = Ends::AtOnce;
                }
                if known.rule.code == Code::CrashLoop && news.verdict.rule.code != Code::CrashLoop {
                    known.rule = news.verdict.rule;
                    known.ends = news.verdict.ends;
                    known.message = news.message.trim().to_owned();
                }
            }
            return None;
        }
        let mut sighting = Sighting {
            rule: news.verdict.rule,
            ends: news.verdict.ends,
            stage,
            object: news.object,
            namespace: news.namespace,
            message: news.message.trim().to_owned(),
            since: news.since,
            first: now,
            times: u32::from(news.of_state),
            backs_off: news.backs_off,
            tries: BTreeMap::new(),
            uid: news.uid.to_owned(),
            owner: news.owner,
            of_state: news.of_state,
            inherited: false,
            not_before: None,
        };
        sighting.note(news.container, news.failed);
        self.seen.insert(key, sighting.clone());
        self.told.insert((news.uid.to_owned(), Slot::Of(news.verdict.rule.code))).then_some(sighting)
    }

    /// What a crashing container's log says replaces the bare crash, keeping its start time.
    /// Returns what was not reported before.
    pub fn explain_crash(&mut self, uid: &str, verdict: Option<Verdict>, line: &str) -> Option<Sighting> {
        let sighting = self.seen.get_mut(&(uid.to_owned(), Slot::Crash))?;
        // That it was killed for its memory use comes from the kernel, not from the log.
        if sighting.rule.code == Code::OomKilled || sighting.rule.code == Code::ImagePlatform {
            return None;
        }
        let verdict = verdict.or_else(crash_loop)?;
        sighting.rule = verdict.rule;
        sighting.ends = verdict.ends;
        sighting.message = line.trim().to_owned();
        let sighting = sighting.clone();
        self.told.insert((uid.to_owned(), Slot::Of(verdict.rule.code))).then_some(sighting)
    }

    /// Removes what a pod's state disproves: pulled images, a container that is up.
    fn heal(&mut self, pod: &Pod, uid: &str, facts: &[Fact]) {
        let ready = crate::world::kubernetes::pod_ready(pod);
        let succeeded = phase(pod) == Some("Succeeded");
        let scheduled = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let statuses: Vec<&ContainerStatus> = statuses(pod).collect();
        let pulling = statuses.iter().any(|status| status.image_id.is_empty());
        let set_up = statuses.iter().any(|status| !status.image_id.is_empty())
            || facts.iter().any(|fact| matches!(stage(&fact.reason, ""), Stage::Pull | Stage::Start | Stage::Crash))
            || condition(pod, "PodReadyToStartContainers");
        let says = |wanted: &Sighting| {
            facts.iter().any(|fact| {
                sources::state(&fact.reason, &fact.message).is_some_and(|now| now.rule.code == wanted.rule.code)
            })
        };
        // A pull that failed differently: the earlier cause no longer applies.
        let other_pull = facts
            .iter()
            .any(|fact| fact.reason == "ErrImagePull" && sources::state(&fact.reason, &fact.message).is_some());
        self.seen.retain(|(seen, _), sighting| {
            if seen != uid {
                return true;
            }
            let healed = match sighting.stage {
                Stage::Schedule => scheduled,
                Stage::Setup => set_up,
                Stage::Pull => !pulling || (other_pull && sighting.of_state && !says(sighting)),
                Stage::Start => sighting.of_state && !says(sighting),
                Stage::Crash | Stage::Other => false,
            };
            !(ready || succeeded || healed)
        });
        if ready {
            self.told.retain(|(told, _)| told != uid);
        }
    }

    /// A pod was deleted, or does not count.
    pub fn gone(&mut self, uid: &str) {
        self.ignored.insert(uid.to_owned());
        self.seen.retain(|(seen, _), _| seen != uid);
    }

    /// A last look found that it is no longer true.
    pub fn healed(&mut self, sighting: &Sighting) {
        self.seen.retain(|_, seen| seen.uid != sighting.uid || seen.rule.code != sighting.rule.code);
    }

    /// A last look did not confirm it: it is judged again at `then`.
    pub fn postpone(&mut self, sighting: &Sighting, then: Instant) {
        for seen in self.seen.values_mut() {
            if seen.uid == sighting.uid && seen.rule.code == sighting.rule.code {
                seen.not_before = Some(then);
            }
        }
    }

    /// How long a blocker may last before it ends the run, after which it is checked once more.
    fn patience(&self, sighting: &Sighting) -> Option<Duration> {
        if sighting.owner != Owner::Ours {
            return None;
        }
        let asked = self.patience.get(&sighting.rule.code).copied();
        let given = match sighting.ends {
            Ends::Never => return None,
            Ends::AtOnce if sighting.times > 1 => Duration::from_secs(asked.unwrap_or(0)),
            Ends::AtOnce => second_look(sighting).max(Duration::from_secs(asked.unwrap_or(0))),
            Ends::After(seconds) => Duration::from_secs(asked.unwrap_or(seconds)),
        };
        // Helm may be about to replace what an earlier revision left.
        Some(if sighting.inherited { given.max(INHERITED) } else { given })
    }

    fn lasted_at(&self, sighting: &Sighting) -> Option<Instant> {
        // A time that overflows never comes.
        sighting.first.checked_add(self.patience(sighting)?)
    }

    /// `None` also as long as its next attempt may succeed.
    fn due_at(&self, sighting: &Sighting) -> Option<Instant> {
        let may_heal = sighting.backs_off && sighting.ends != Ends::AtOnce;
        if may_heal && !sighting.failed_again_after(self.patience(sighting)?) {
            return None;
        }
        let scaling = self.scaling.get(&sighting.uid).filter(|_| sighting.stage == Stage::Schedule);
        Some(self.lasted_at(sighting)?).max(scaling.copied()).max(sighting.not_before)
    }

    /// The blocker that may end the run now, if any; the oldest first.
    pub fn due(&self, now: Instant) -> Option<&Sighting> {
        let over = |sighting: &&Sighting| self.due_at(sighting).is_some_and(|at| now >= at);
        self.seen.values().filter(over).min_by_key(|sighting| sighting.first)
    }

    /// When `due` has to be called again.
    pub fn next_due(&self) -> Option<Instant> {
        self.seen.values().filter_map(|sighting| self.due_at(sighting)).min()
    }

    /// What a sighting may lead to.
    pub fn prospect(&self, sighting: &Sighting) -> Prospect {
        match (self.patience(sighting), sighting.ends) {
            (None, _) if sighting.owner == Owner::Unclear => Prospect::OfNoRelease,
            (None, _) => Prospect::MayHeal,
            (Some(_), Ends::AtOnce) => Prospect::EndsTheRunIfSeenAgain,
            (Some(patience), _) => Prospect::EndsTheRunIfItLasts { seconds: patience.as_secs() },
        }
    }

    /// The current sightings, most informative first: what ends a run before what may heal.
    pub fn standing(&self) -> Vec<&Sighting> {
        let mut all: Vec<&Sighting> = self.seen.values().collect();
        all.sort_by_key(|sighting| (rank(sighting), sighting.first));
        all
    }

    /// Whether it is final, or has lasted its time: then Helm's messages do not take precedence.
    pub fn is_heavy(&self, sighting: &Sighting, now: Instant) -> bool {
        rank(sighting) == 0 || self.lasted_at(sighting).is_some_and(|at| now >= at)
    }
}

fn rank(sighting: &Sighting) -> u8 {
    match sighting.ends {
        _ if sighting.owner != Owner::Ours => 3,
        Ends::AtOnce => 0,
        _ if sighting.rule.code == Code::RegistryRateLimited => 0,
        Ends::After(_) => 1,
        Ends::Never => 2,
    }
}

fn crash_loop() -> Option<Verdict> {
    rules::of(Code::CrashLoop).map(|rule| Verdict { rule, ends: rule.lasts.into() })
}

/// How long a pod of a controller from before the run is not judged.
const INHERITED: Duration = Duration::from_secs(15);

/// When something final that was seen once counts as seen twice. The kubelet pulls again after 10
/// s, which shows by itself; what it does not retry simply stays.
fn second_look(sighting: &Sighting) -> Duration {
    Duration::from_secs(if sighting.backs_off { 45 } else { 5 })
}

/// An attempt that failed this shortly before the patience is over counts as one after it.
const MOMENTS: Duration = Duration::from_secs(5);

/// How long the cluster autoscaler waits for a node before it gives it up
/// (`--max-node-provision-time`), and Karpenter likewise.
const SCALE_UP: Duration = Duration::from_secs(15 * 60);

/// Whether the kubelet tries again what failed so, after twice the time it waited before: up to 300
/// s for images and containers, up to 122 s for volumes. Everything else it tries about every 10 s,
/// or never.
fn backs_off(reason: &str, message: &str) -> bool {
    match stage(reason, message) {
        Stage::Pull => {
            !matches!(reason, "InvalidImageName" | "ErrImageNeverPull" | "InspectFailed" | "ImageInspectError")
        }
        // Behind `(combined from similar events): ` where each attempt has words of its own.
        Stage::Setup => reason == "FailedMount" && message.contains("MountVolume."),
        Stage::Start => reason == "RunContainerError",
        Stage::Crash => true,
        Stage::Schedule | Stage::Other => false,
    }
}

/// The component that reported an event, in either form of events.
pub fn component(event: &Event) -> Option<&str> {
    let source = event.source.as_ref().and_then(|source| source.component.as_deref());
    source.or(event.reporting_component.as_deref()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": uid, "namespace": "ameide", "uid": uid},
            "spec": {"containers": []}, "status": status,
        }))
        .unwrap()
    }

    fn waiting(key: &str, reason: &str, message: &str) -> serde_json::Value {
        json!({key: [{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": reason, "message": message}}}]})
    }

    fn event(kind: &str, reason: &str, message: &str) -> Event {
        serde_json::from_value(json!({
            "metadata": {"namespace": "ameide"}, "type": kind, "reason": reason, "message": message,
            "source": {"component": "kubelet"}, "involvedObject": {"kind": "Pod", "name": "a", "uid": "a"},
        }))
        .unwrap()
    }

    fn ours(tracker: &mut Tracker, pod: &Pod, now: Instant) -> Vec<Sighting> {
        tracker.pod(pod, Owner::Ours, now)
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// A time of the cluster, whose clock is years behind this machine's.
    fn at(second: i64) -> String {
        Timestamp::from_second(1_000_000_000 + second).unwrap().to_string()
    }

    /// In back-off since its container failed at this second.
    fn crashed(container: &str, second: i64) -> serde_json::Value {
        json!({"name": container, "image": "i", "imageID": "x", "ready": false, "restartCount": 2,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
            "lastState": {"terminated": {"reason": "Error", "exitCode": 1, "finishedAt": at(second)}}})
    }

    fn crash_looping(second: i64) -> Pod {
        pod("a", json!({"containerStatuses": [crashed("c", second)]}))
    }

    /// Its command ends well each time, where a server is expected.
    fn ending_well(second: i64) -> Pod {
        let mut container = crashed("c", second);
        container["lastState"]["terminated"]["reason"] = json!("Completed");
        container["lastState"]["terminated"]["exitCode"] = json!(0);
        pod("a", json!({"containerStatuses": [container]}))
    }

    /// Whose status the kubelet wrote at this second.
    fn written(mut pod: Pod, second: i64) -> Pod {
        let by = json!([{"manager": "kubelet", "operation": "Update", "subresource": "status", "time": at(second)}]);
        pod.metadata.managed_fields = serde_json::from_value(by).unwrap();
        pod
    }

    const NOT_FOUND: &str = "failed to resolve reference \"reg:5000/x:9\": reg:5000/x:9: not found";

    #[test]
    fn what_is_final_is_told_once_and_due_when_it_is_seen_twice() {
        let (mut tracker, now) = (Tracker::default(), Instant::now());
        let broken = pod("a", waiting("containerStatuses", "ErrImagePull", NOT_FOUND));
        assert_eq!(ours(&mut tracker, &broken, now).len(), 1, "told when it is seen");
        assert!(tracker.due(now + seconds(10)).is_none(), "one pull that failed ends nothing");
        // The same state again, and the kubelet's back-off, do not count as a second look.
        assert!(ours(&mut tracker, &broken, now).is_empty());
        let backing_off = pod("a", waiting("containerStatuses", "ImagePullBackOff", "Back-off pulling image"));
        assert!(ours(&mut tracker, &backing_off, now + seconds(1)).is_empty());
        assert!(tracker.due(now + seconds(11)).is_none());
        // The kubelet pulled again.
        ours(&mut tracker, &broken, now + seconds(12));
        let due = tracker.due(now + seconds(12)).unwrap();
        assert_eq!(
            (due.rule.code, due.message.as_str()),
            (Code::ImageNotFound, format!("ErrImagePull: {NOT_FOUND}").as_str())
        );
    }

    /// The kubelet reports one pull by an event and by a state, in either order.
    #[test]
    fn a_pull_that_is_told_twice_has_failed_once() {
        let state = pod("a", waiting("containerStatuses", "ErrImagePull", NOT_FOUND));
        let backing_off = pod(
            "a",
            waiting(
                "containerStatuses",
                "ImagePullBackOff",
                &format!("Back-off pulling image: ErrImagePull: {NOT_FOUND}"),
            ),
        );
        let told = event("Warning", "Failed", &format!("Failed to pull image \"reg:5000/x:9\": {NOT_FOUND}"));
        for event_first in [true, false] {
            let (mut tracker, now) = (Tracker::default(), Instant::now());
            if event_first {
                tracker.event(&told, Owner::Ours, now);
            }
            ours(&mut tracker, &state, now);
            tracker.event(&told, Owner::Ours, now);
            ours(&mut tracker, &backing_off, now);
            assert!(tracker.due(now + seconds(12)).is_none(), "{event_first}");
            ours(&mut tracker, &state, now + seconds(12));
            assert_eq!(tracker.due(now + seconds(12)).unwrap().rule.code, Code::ImageNotFound);
        }
    }

    #[test]
    fn what_the_kubelet_does_not_try_again_is_looked_at_twice() {
        let (mut tracker, now) = (Tracker::default(), Instant::now());
        ours(&mut tracker, &pod("a", waiting("containerStatuses", "InvalidImageName", "couldn't parse")), now);
        assert!(tracker.due(now + seconds(4)).is_none());
        assert_eq!(tracker.due(now + seconds(5)).unwrap().rule.code, Code::ImageInvalid);
    }

    #[test]
    fn the_last_pull_says_why() {
        let (mut tracker, now) = (Tracker::default(), Instant::now());
        let cut =
            "failed to do request: Head \"http://reg:5000/v2/\": dial tcp 172.18.0.2:5000: connect: connection refused";
        ours(&mut tracker, &pod("a", waiting("containerStatuses", "ErrImagePull", cut)), now);
        ours(&mut tracker, &pod("a", waiting("containerStatuses", "ErrImagePull", NOT_FOUND)), now + seconds(10));
        let standing: Vec<Code> = tracker.standing().iter().map(|sighting| sighting.rule.code).collect();
        assert_eq!(standing, [Code::ImageNotFound], "the registry answers now");
    }

    #[test]
    fn init_containers_count() {
        let mut tracker = Tracker::default();
        let broken = pod("a", waiting("initContainerStatuses", "ErrImagePull", NOT_FOUND));
        assert_eq!(ours(&mut tracker, &broken, Instant::now()).len(), 1);
    }

    #[test]
    fn pods_from_before_and_of_others_are_ignored_and_what_is_of_nobody_ends_nothing() {
        let (mut tracker, now) = (Tracker::default(), Instant::now());
        let state = || waiting("containerStatuses", "InvalidImageName", "couldn't parse");
        tracker.remember(&pod("old", state()));
        assert!(ours(&mut tracker, &pod("old", state()), now).is_empty());
        assert!(tracker.pod(&pod("other", state()), Owner::Others, now).is_empty());
        let told = tracker.pod(&pod("unclear", state()), Owner::Unclear, now);
        assert_eq!(told.len(), 1);
        assert_eq!(tracker.prospect(&told[0]), Prospect::OfNoRelease);
        assert!(tracker.due(now + seconds(9999)).is_none() && tracker.next_due().is_none());
        // Once Helm has ended, what existed before counts: Helm waited for it.
        tracker.count_all();
        assert_eq!(ours(&mut tracker, &pod("old", state()), now).len(), 1);
    }

    #[test]
    fn a_pod_from_before_is_told_of_and_ends_no_run_until_helm_has_ended() {
        let (mut tracker, now) = (Tracker::default(), Instant::now());
        let scheduled = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 node(s) were unschedulable."}]);
        let old = pod("old", json!({"conditions": scheduled}));
        tracker.remember(&old);
        assert!(tracker.is_from_before(&old) && ours(&mut tracker, &old, now).is_empty());
        let told = tracker.foretell(&old, Owner::Ours, now);
        assert_eq!(told.iter().map(|one| one.rule.code).collect::<Vec<_>>(), [Code::Unschedulable]);
        assert!(tracker.foretell(&old, Owner::Ours, now).is_empty(), "once");
        assert!(tracker.due(now + seconds(9999)).is_none() && tracker.next_due().is_none());
        assert_eq!(tracker.standing().len(), 1);
        tracker.foretold_is_ready(&old);
        assert!(tracker.standing().is_empty());
        tracker.foretell(&old, Owner::Ours, now);
        tracker.count_all();
        ours(&mut tracker, &old, now);
        assert!(tracker.due(now + seconds(9999)).is_some());
        // A pod of this run is not from before.
        assert!(tracker.foretell(&pod("new", json!({"conditions": scheduled})), Owner::Ours, now).is_empty());
    }

    #[test]
    fn a_crash_gets_grace_and_is_forgotten_when_the_pod_is_ready() {
        for ended in [crash_looping, ending_well] {
            let (mut tracker, now) = (Tracker::default(), Instant::now());
            for second in [0, 10, 30, 70] {
                ours(&mut tracker, &ended(second), now + seconds(1));
            }
            assert!(tracker.next_due().is_none(), "the start after its time may succeed");
            ours(&mut tracker, &ended(150), now + seconds(1));
            assert!(tracker.due(now + seconds(120)).is_none());
            assert_eq!(tracker.next_due(), Some(now + seconds(121)));
            assert_eq!(tracker.due(now + seconds(121)).unwrap().rule.code, Code::CrashLoop);
            ours(&mut tracker, &pod("a", json!({"conditions": [{"type": "Ready", "status": "True"}]})), now);
            assert!(tracker.due(now + seconds(121)).is_none());
        }
    }

    #[test]
    fn what_another_container_tried_before_says_nothing() {
        let (mut tracker, now) = (Tracker::default(), Instant::now());
        ours(&mut tracker, &crash_looping(0), now);
        ours(&mut tracker, &crash_looping(150), now);
        let other = |second| pod("a", json!({"containerStatuses": [crashed("c", 150), crashed("d", second)]}));
        ours(&mut tracker, &other(160), now);
        assert!(tracker.next_due().is_none(), "it failed for the first time");
        ours(&mut tracker, &other(290), now);
        assert_eq!(tracker.next_due(), Some(now + seconds(120)));
    }

    #[test]
    fn a_pod_that_has_failed_is_not_started_again() {
        let (mut tracker, now) = (Tracker::default(), Instant::now());
        let killed = json!({"phase": "Failed", "containerStatuses": [{"name": "c", "image": "i", "imageID": "x", "ready": false,
            "restartCount": 0, "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137, "finishedAt": at(0)}}}]});
        ours(&mut tracker, &pod("a", killed), now);
        assert_eq!(tracker.next_due(), Some(now + seconds(60)));
    }

    #[test]
    fn a_registry_that_may_come_back_has_to_fail_once_more_after_its_time() {
        let refused = "dial tcp 172.18.0.2:5000: connect: connection refused";
        let state = |reason, second| written(pod("a", waiting("containerStatuses", reason, refused)), second);
        let (mut tracker, now) = (Tracker::default(), Instant::now());
        ours(&mut tracker, &state("ErrImagePull", 0), now);
        assert_eq!(tracker.standing()[0].rule.code, Code::RegistryUnreachable);
        // The watch was cut: what happened at 70 s is seen late.
        for (reason, second) in [("ImagePullBackOff", 60), ("ErrImagePull", 70), ("ImagePullBackOff", 140)] {
            ours(&mut tracker, &state(reason, second), now + seconds(140));
        }
        assert!(tracker.next_due().is_none());
        ours(&mut tracker, &state("ErrImagePull", 150), now + seconds(150));
        assert_eq!(tracker.due(now + seconds(150)).unwrap().rule.code, Code::RegistryUnreachable);
    }

    #[test]
    fn a_volume_has_to_fail_once_more_after_its_time() {
        let mount = |second: i64| {
            let text = "MountVolume.SetUp failed for volume \"c\" : secret \"s\" not found";
            let mut event = event("Warning", "FailedMount", text);
            event.last_timestamp = serde_json::from_value(json!(at(second))).unwrap();
            event
        };
        let (mut tracker, now) = (Tracker::default(), Instant::now());
        for second in [0, 16, 32, 64, 128] {
            tracker.event(&mount(second), Owner::Ours, now);
        }
        assert!(tracker.next_due().is_none());
        tracker.event(&mount(250), Owner::Ours, now);
        assert_eq!(tracker.next_due(), Some(now + seconds(180)));
    }

    #[test]
    fn a_volume_on_another_node_gets_the_time_to_be_detached_by_force() {
        let (mut tracker, now) = (Tracker::default(), Instant::now());
        let text = "Multi-Attach error for volume \"pvc-26d8\" Volume is already exclusively attached to one node";
        tracker.event(&event("Warning", "FailedAttachVolume", "AttachVolume.Attach failed"), Owner::Ours, now);
        assert_eq!(tracker.next_due(), Some(now + seconds(180)));
        tracker.event(&event("Warning", "FailedAttachVolume", text), Owner::Ours, now);
        assert_eq!(tracker.next_due(), Some(now + seconds(420)));
    }

    #[test]
    fn a_node_that_an_autoscaler_makes_is_waited_for() {
        let scheduled = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/3 nodes are available: 3 Insufficient cpu."}]);
        for reason in ["TriggeredScaleUp", "Nominated"] {
            let (mut tracker, now) = (Tracker::default(), Instant::now());
            ours(&mut tracker, &pod("a", json!({"conditions": scheduled})), now);
            assert_eq!(tracker.next_due(), Some(now + seconds(180)));
            let text = "pod triggered scale-up: [{pool 3->4 (max: 5)}]";
            tracker.event(&event("Normal", reason, text), Owner::Unclear, now + seconds(7));
            assert_eq!(tracker.next_due(), Some(now + seconds(907)), "{reason}");
        }
    }

    #[test]
    fn a_log_that_names_a_dependency_gives_more_grace_and_counts_from_the_first_crash() {
        let (mut tracker, now) = (Tracker::default(), Instant::now());
        ours(&mut tracker, &crash_looping(0), now);
        let line = "dial tcp 10.43.0.7:5432: connect: connection refused";
        assert!(tracker.explain_crash("a", sources::log(line), line).is_some());
        assert!(tracker.due(now + seconds(299)).is_none());
        // It crashes again with the same message: that is reported once, and counts from the first
        // time.
        assert!(ours(&mut tracker, &crash_looping(150), now + seconds(150)).is_empty());
        assert!(tracker.explain_crash("a", sources::log(line), line).is_none());
        assert!(tracker.due(now + seconds(300)).is_none(), "the last start was at 150 s");
        ours(&mut tracker, &crash_looping(310), now + seconds(310));
        assert_eq!(tracker.due(now + seconds(300)).unwrap().rule.code, Code::DependencyUnreachable);
    }

    #[test]
    fn that_it_was_killed_for_its_memory_goes_before_that_it_crashes() {
        let (mut tracker, now) = (Tracker::default(), Instant::now());
        let killed = json!({"containerStatuses": [{"name": "c", "image": "i", "imageID": "x", "ready": false, "restartCount": 2,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
            "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]});
        let told = ours(&mut tracker, &pod("a", killed), now);
        assert_eq!(told.iter().map(|sighting| sighting.rule.code).collect::<Vec<_>>(), [Code::OomKilled]);
        assert!(tracker.explain_crash("a", sources::log("connection refused"), "connection refused").is_none());
    }

    #[test]
    fn a_rate_limit_never_ends_the_run_by_itself_and_heals_when_the_image_is_there() {
        let (mut tracker, now) = (Tracker::default(), Instant::now());
        ours(&mut tracker, &pod("a", waiting("containerStatuses", "ErrImagePull", "429 Too Many Requests")), now);
        assert!(tracker.due(now + seconds(9999)).is_none());
        assert_eq!(tracker.standing()[0].rule.code, Code::RegistryRateLimited);
        let pulled = json!({"containerStatuses": [{"name": "c", "image": "i", "imageID": "sha256:1", "ready": false,
            "restartCount": 0, "state": {"running": {}}}]});
        ours(&mut tracker, &pod("a", pulled), now);
        assert!(tracker.standing().is_empty());
    }

    #[test]
    fn layers_yaml_may_give_more_patience_and_never_less_than_a_second_look() {
        let now = Instant::now();
        let invalid = pod("a", waiting("containerStatuses", "InvalidImageName", "x"));
        for (given, due) in [(30, 30), (0, 5), (u64::MAX, u64::MAX)] {
            let mut tracker = Tracker::new([(Code::ImageInvalid.to_owned(), given)].into());
            ours(&mut tracker, &invalid, now);
            if due == u64::MAX {
                assert!(tracker.next_due().is_none());
                continue;
            }
            assert!(tracker.due(now + seconds(due - 1)).is_none());
            assert!(tracker.due(now + seconds(due)).is_some());
        }
    }

    #[test]
    fn what_comes_next_in_a_pods_life_disproves_what_held_it() {
        let now = Instant::now();
        let mount =
            event("Warning", "FailedMount", "MountVolume.SetUp failed for volume \"c\" : secret \"s\" not found");
        let mut tracker = Tracker::default();
        assert_eq!(tracker.event(&mount, Owner::Ours, now).unwrap().rule.code, Code::ConfigMissing);
        tracker.event(&event("Normal", "Pulling", "Pulling image"), Owner::Unclear, now);
        assert!(tracker.standing().is_empty(), "volumes come before the image");
        let mut tracker = Tracker::default();
        tracker.event(&mount, Owner::Ours, now);
        ours(
            &mut tracker,
            &pod("a", json!({"conditions": [{"type": "PodReadyToStartContainers", "status": "True"}]})),
            now,
        );
        assert!(tracker.standing().is_empty());
        // The Secret exists now: the kubelet waits for something else.
        let mut tracker = Tracker::default();
        ours(
            &mut tracker,
            &pod("a", waiting("containerStatuses", "CreateContainerConfigError", "secret \"s\" not found")),
            now,
        );
        assert_eq!(tracker.standing().len(), 1);
        ours(&mut tracker, &pod("a", waiting("containerStatuses", "ContainerCreating", "")), now);
        assert!(tracker.standing().is_empty());
    }

    #[test]
    fn an_event_of_a_deleted_pod_is_ignored() {
        let (mut tracker, now) = (Tracker::default(), Instant::now());
        tracker.gone("a");
        assert!(tracker.event(&event("Warning", "Failed", NOT_FOUND), Owner::Ours, now).is_none());
    }

    /// What an event says is reported, and never final.
    #[test]
    fn no_event_is_final() {
        let rows = include_str!("../../../tests/messages.tsv").lines().filter(|line| !line.starts_with('#')).skip(1);
        let now = Instant::now();
        let mut count = 0;
        for row in rows.map(|row| row.split('\t').collect::<Vec<_>>()).filter(|row| row[0] == "event") {
            let mut tracker = Tracker::default();
            tracker.event(&event("Warning", row[1], row[2]), Owner::Ours, now);
            assert!(tracker.standing().iter().all(|sighting| sighting.ends != Ends::AtOnce && !sighting.of_state));
            assert!(tracker.due(now + seconds(29)).is_none(), "{row:?}");
            count += 1;
        }
        assert!(count > 100, "{count}");
    }
}
