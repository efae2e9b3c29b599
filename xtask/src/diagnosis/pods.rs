//! What a pod says of itself and its containers, as facts without a judgement: pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub fn namespace(pod: &Pod) -> String {
    pod.metadata.namespace.clone().unwrap_or_default()
}

pub(super) fn pod_object(pod: &Pod) -> String {
    format!("pod/{}", pod.metadata.name.as_deref().unwrap_or_default())
}

pub fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

pub(super) fn condition(pod: &Pod, kind: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|condition| condition.type_ == kind && condition.status == "True"))
}

/// When one of its containers last ended; if none ever ran, its creation.
pub(super) fn since(pod: &Pod) -> Option<Timestamp> {
    let ended = statuses(pod).filter_map(|status| {
        let states = [status.state.as_ref(), status.last_state.as_ref()];
        let ended = states.into_iter().flatten().find_map(|state| state.terminated.as_ref())?;
        ended.finished_at.as_ref().filter(|_| ended.exit_code != 0)
    });
    ended.map(|time| time.0).max().or(pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

/// When a container ended that the kubelet starts again: with whatever exit code, since a command that
/// ends well is one too many as well where a server is expected.
pub(super) fn failed_at(pod: &Pod, container: &str) -> Option<Timestamp> {
    let ended = ended(statuses(pod).find(|status| status.name == container)?)?;
    ended.finished_at.as_ref().map(|time| time.0)
}

/// When the API server was last given a status of the pod: a state that waits has no time of its
/// own.
pub(super) fn status_written(pod: &Pod) -> Option<Timestamp> {
    let managed = pod.metadata.managed_fields.iter().flatten();
    let of_status = managed.filter(|entry| entry.subresource.as_deref() == Some("status"));
    of_status.filter_map(|entry| entry.time.as_ref().map(|time| time.0)).max()
}

/// Of a pod, or of what controls it.
pub(super) fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

pub fn controller_uid(pod: &Pod) -> Option<String> {
    controller(&pod.metadata).map(|owner| owner.uid.clone())
}

/// Including init containers.
pub fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.into_iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    init.chain(status.into_iter().flat_map(|status| status.container_statuses.iter().flatten()))
}

/// Whether a container is in back-off for its image: the kubelet retries only after up to 300 s.
pub fn in_pull_back_off(pod: &Pod) -> bool {
    statuses(pod).any(|status| {
        let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting.is_some_and(|waiting| matches!(waiting.reason.as_deref(), Some("ImagePullBackOff" | "ErrImagePull")))
    })
}

/// Whether anything in a pod is running, including ephemeral containers.
pub fn anything_runs(pod: &Pod) -> bool {
    let ephemeral = pod.status.iter().flat_map(|status| status.ephemeral_container_statuses.iter().flatten());
    statuses(pod).chain(ephemeral).any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
}

/// Something wrong in the state of one container, or of the pod itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Empty for the pod itself.
    pub container: String,
    pub reason: String,
    pub message: String,
}

/// What is wrong in the state of a pod and its containers.
pub fn facts(pod: &Pod) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut fact = |container: &str, reason: Option<&str>, message: Option<&str>| {
        facts.push(Fact {
            container: container.to_owned(),
            reason: reason.unwrap_or_default().to_owned(),
            message: message.unwrap_or_default().to_owned(),
        });
    };
    let status = pod.status.as_ref();
    let unscheduled = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled" && condition.status == "False" && condition.reason.is_some()
    });
    if let Some(condition) = unscheduled {
        fact("", condition.reason.as_deref(), condition.message.as_deref());
    }
    if let Some(status) = status.filter(|status| status.reason.is_some()) {
        fact("", status.reason.as_deref(), status.message.as_deref());
    }
    for container in statuses(pod) {
        let Some(state) = &container.state else { continue };
        let waiting = state.waiting.as_ref();
        let ended = ended(container).filter(|ended| ended.exit_code != 0);
        // That it was killed for its memory use says more than that it crashes.
        if let Some(ended) = ended.filter(|ended| ended.reason.as_deref() != Some("Error")) {
            fact(&container.name, ended.reason.as_deref(), ended.message.as_deref());
        }
        let idle = ["ContainerCreating", "PodInitializing"];
        if let Some(waiting) =
            waiting.filter(|waiting| !idle.contains(&waiting.reason.as_deref().unwrap_or("ContainerCreating")))
        {
            fact(&container.name, waiting.reason.as_deref(), waiting.message.as_deref());
        }
    }
    facts
}

/// How a container ended, now or the last time.
pub fn ended(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let now = container.state.as_ref().and_then(|state| state.terminated.as_ref());
    now.or_else(|| container.last_state.as_ref()?.terminated.as_ref())
}

/// How a container ended, in words: `exit code 137 (ended by SIGKILL)`.
pub fn exit_in_words(ended: &ContainerStateTerminated) -> String {
    let code = ended.exit_code;
    let signal = ended.signal.filter(|signal| *signal > 0).or((code > 128 && code < 160).then_some(code - 128));
    let meaning = match (ended.reason.as_deref(), signal, code) {
        (Some("OOMKilled"), ..) => "killed by the kernel for its memory use".to_owned(),
        (_, Some(signal), _) => format!("ended by {}", signal_name(signal)),
        (.., 126) => "its command cannot be executed".to_owned(),
        (.., 127) => "its command was not found".to_owned(),
        (.., 128) if ended.reason.as_deref() == Some("StartError") => "it could not be started".to_owned(),
        (.., 1) => "its program reports that it failed".to_owned(),
        (.., 2) => "its program reports that it failed, often over its arguments".to_owned(),
        (Some(reason), ..) if reason != "Error" => reason.to_owned(),
        _ => "its program reports that it failed".to_owned(),
    };
    format!("exit code {code} ({meaning})")
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL, an instruction that this processor does not have",
        6 => "SIGABRT, its own abort",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV, a memory fault of its own",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        31 => "SIGSYS, a system call that is not allowed",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_exit_is_told_in_words() {
        let cases = [
            (
                json!({"exitCode": 137, "reason": "OOMKilled"}),
                "exit code 137 (killed by the kernel for its memory use)",
            ),
            (json!({"exitCode": 137, "reason": "Error"}), "exit code 137 (ended by SIGKILL)"),
            (json!({"exitCode": 143, "reason": "Error"}), "exit code 143 (ended by SIGTERM)"),
            (json!({"exitCode": 127, "reason": "Error"}), "exit code 127 (its command was not found)"),
            (json!({"exitCode": 126, "reason": "Error"}), "exit code 126 (its command cannot be executed)"),
            (json!({"exitCode": 128, "reason": "StartError"}), "exit code 128 (it could not be started)"),
            (json!({"exitCode": 1, "reason": "Error"}), "exit code 1 (its program reports that it failed)"),
            (json!({"exitCode": 3}), "exit code 3 (its program reports that it failed)"),
        ];
        for (ended, words) in cases {
            assert_eq!(exit_in_words(&serde_json::from_value(ended).unwrap()), words);
        }
    }
}
