//! Pods that a StatefulSet has left behind: created from a revision that it no longer wants, and
//! unable to start. With ordered pods its controller waits for such a pod to become ready before it
//! replaces any, and so waits forever, even after its template is fixed. Kubernetes' docs call the
//! solution a forced rollback, and leave it to people:
//! <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#forced-rollback>.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;

use super::pods;

/// Whether the controller has observed the newest template and not all of the set's pods are ready.
pub(super) fn waits(set: &StatefulSet) -> bool {
    let (Some(spec), Some(status)) = (&set.spec, &set.status) else { return false };
    let rolls = spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete");
    rolls
        && status.observed_generation >= set.metadata.generation
        && status.ready_replicas.unwrap_or(0) < spec.replicas.unwrap_or(1)
        && set.metadata.deletion_timestamp.is_none()
}

/// Whether the set would replace this pod if it were ready: its revision is not the set's update
/// revision, it has a container that cannot start, and nothing in it runs. A pod below the
/// partition of a staged update is meant to have another revision.
pub(super) fn is_left_behind(set: &StatefulSet, pod: &Pod) -> bool {
    let Some(wanted) = set.status.as_ref().and_then(|status| status.update_revision.as_ref()) else { return false };
    let label = |name: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(name));
    let Some(has) = label("controller-revision-hash") else { return false };
    let rolling = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref()?.rolling_update.as_ref());
    let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or(0);
    let ordinal = pod.metadata.name.as_deref().and_then(|name| name.rsplit_once('-')?.1.parse::<i32>().ok());
    let is_of_the_set = pods::controller_uid(pod).is_some_and(|uid| Some(uid) == set.metadata.uid);
    is_of_the_set
        && has != wanted
        && ordinal.is_some_and(|ordinal| ordinal >= partition)
        && pod.metadata.deletion_timestamp.is_none()
        && !pods::anything_runs(pod)
        && pods::statuses(pod).any(cannot_start)
}

/// A container that the kubelet has tried to start and could not, or that has ended and waits for
/// its next try.
fn cannot_start(status: &k8s_openapi::api::core::v1::ContainerStatus) -> bool {
    let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref()?.reason.as_deref());
    waiting.is_some_and(|reason| !matches!(reason, "ContainerCreating" | "PodInitializing"))
}

/// Pods, by uid, that were left behind at two consecutive looks: what the controller does by
/// itself, it does at once.
#[derive(Debug, Default)]
pub(super) struct SeenTwice(BTreeSet<String>);

impl SeenTwice {
    /// Those of these pods that the previous look also found.
    pub fn again(&mut self, found: Vec<Pod>) -> Vec<Pod> {
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        let now: BTreeSet<String> = found.iter().map(uid).collect();
        let before = std::mem::replace(&mut self.0, now);
        found.into_iter().filter(|pod| before.contains(&uid(pod))).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set() -> Value {
        json!({"metadata": {"name": "db", "uid": "u", "generation": 2},
            "spec": {"replicas": 1, "selector": {}, "serviceName": "db", "template": {}},
            "status": {"observedGeneration": 2, "replicas": 1, "updateRevision": "db-2"}})
    }

    fn pod() -> Value {
        json!({"metadata": {"name": "db-0", "uid": "p", "labels": {"controller-revision-hash": "db-1"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "u", "controller": true}]},
            "status": {"containerStatuses": [{"name": "db", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "CreateContainerConfigError"}}}]}})
    }

    #[test]
    fn only_a_pod_that_cannot_start_and_that_its_set_would_replace_is_left_behind() {
        type Change = fn(&mut Value, &mut Value);
        let rows: [(&str, Change, bool); 12] = [
            ("as it was found", |_, _| {}, true),
            ("it crashes", |_, pod| state(pod, json!({"waiting": {"reason": "CrashLoopBackOff"}})), true),
            ("it starts", |_, pod| state(pod, json!({"waiting": {"reason": "ContainerCreating"}})), false),
            ("it runs", |_, pod| state(pod, json!({"running": {}})), false),
            (
                "it is of the newest revision",
                |_, pod| pod["metadata"]["labels"]["controller-revision-hash"] = "db-2".into(),
                false,
            ),
            ("it is another's", |_, pod| pod["metadata"]["ownerReferences"][0]["uid"] = "v".into(), false),
            ("it goes", |_, pod| pod["metadata"]["deletionTimestamp"] = "2026-11-27T10:00:00Z".into(), false),
            (
                "below the partition",
                |set, _| set["spec"]["updateStrategy"] = json!({"rollingUpdate": {"partition": 1}}),
                false,
            ),
            ("people replace its pods", |set, _| set["spec"]["updateStrategy"] = json!({"type": "OnDelete"}), false),
            ("the template has not been taken up", |set, _| set["metadata"]["generation"] = 3.into(), false),
            ("all are ready", |set, _| set["status"]["readyReplicas"] = 1.into(), false),
            ("no revision is known", |set, _| set["status"]["updateRevision"] = Value::Null, false),
        ];
        for (name, change, left_behind) in rows {
            let (mut set, mut pod) = (set(), pod());
            change(&mut set, &mut pod);
            let set: StatefulSet = serde_json::from_value(set).unwrap();
            let pod: Pod = serde_json::from_value(pod).unwrap();
            assert_eq!(waits(&set) && is_left_behind(&set, &pod), left_behind, "{name}");
        }
    }

    fn state(pod: &mut Value, state: Value) {
        pod["status"]["containerStatuses"][0]["state"] = state;
    }

    #[test]
    fn the_controller_has_a_look_to_act_by_itself() {
        let named = |uid: &str| -> Pod { serde_json::from_value(json!({"metadata": {"uid": uid}})).unwrap() };
        let mut seen = SeenTwice::default();
        assert_eq!(seen.again(vec![named("a")]).len(), 0);
        assert_eq!(seen.again(vec![named("a"), named("b")]).len(), 1);
        assert_eq!(seen.again(Vec::new()).len(), 0);
        assert_eq!(seen.again(vec![named("b")]).len(), 0);
    }
}
